//! What the host thread behind a guest thread has used.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::StubContext;
use super::interrupt::{ASKED, UNKNOWN, nanoseconds};
use crate::stub::layout::*;
use crate::stub::memory;

impl StubContext {
    pub(super) fn host_cpu_time(&self) -> Option<Duration> {
        if let Some(time) = self.space.single_thread_cpu_time() {
            return Some(time);
        }
        let place = BUFFER + CALL_SIZE;
        self.calls(&[self.clock_to(place)]).ok().map(|()| self.time_at(place))
    }

    /// [`Context::peak`] as the stub hears it from the host.
    pub(in crate::stub) fn host_peak(&self) -> Option<u64> {
        let place = BUFFER + CALL_SIZE;
        let address = slot_address(self.slot().index) + place as u64;
        let who = libc::RUSAGE_SELF as u64;
        self.calls(&[[libc::SYS_getrusage as u64, who, address, 0, 0, 0, 0, 0]]).ok()?;
        let kib = self.slot().memory().load(place + std::mem::offset_of!(libc::rusage, ru_maxrss));
        Some(kib.saturating_mul(1024))
    }

    /// The call that puts the thread's processor time into the slot.
    pub(super) fn clock_to(&self, place: usize) -> memory::Call {
        let address = slot_address(self.slot().index) + place as u64;
        let clock = libc::CLOCK_THREAD_CPUTIME_ID as u64;
        [libc::SYS_clock_gettime as u64, clock, address, 0, 0, 0, 0, CALL_ALWAYS]
    }

    pub(super) fn time_at(&self, place: usize) -> Duration {
        let memory = self.slot().memory();
        Duration::new(memory.load(place), memory.load(place + 8).min(999_999_999) as u32)
    }

    /// Has a thread that has run for others tell for how long, with what it does first.
    pub(super) fn will_tell_time_used_before(&self) {
        self.interrupt.used_before.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Asks it for that on its way to the guest, unless that has other things to do on it.
    pub(super) fn ask_time_used_before(&self) {
        if self.interrupt.used_before.load(Ordering::Relaxed) == UNKNOWN
            && self.pending.get() == 0
            && self.delivery.get().is_none()
        {
            self.put_records(0, &[self.clock_to(CLOCK)]);
            self.pending.set(1);
            self.interrupt.used_before.store(ASKED, Ordering::Relaxed);
        }
    }

    /// Takes note of the answer, when it has come.
    pub(super) fn note_time_used_before(&self) {
        let used_before = &self.interrupt.used_before;
        if used_before.load(Ordering::Relaxed) == ASKED {
            used_before.store(nanoseconds(self.time_at(CLOCK)).min(ASKED - 1), Ordering::Relaxed);
        }
    }
}
