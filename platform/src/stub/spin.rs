//! When to spin for the other side's turn, and when to sleep.
//!
//! Two processors that spin on a slot exchange turns in half a microsecond; sleeping costs several on one processor, and
//! tens when the other one has to come out of idle. But a spinner keeps a processor from somebody who may have work,
//! perhaps the very thread that it waits for. Therefore: never when the other side was last seen on this processor;
//! never more guests and spinners than processors; and only where the last waits were so short that it pays.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest that a side spins: about the price of a wake-up.
const LIMIT: Duration = Duration::from_micros(50);

/// What all guest threads of a platform share.
#[derive(Debug)]
pub struct Spinning {
    processors: u32,
    /// `LIMIT` in ticks of the time-stamp counter.
    limit: u64,
    /// How many guest threads run, or kernel threads spin.
    busy: AtomicU32,
}

/// Counts a guest or a spinner while it exists.
pub struct Busy<'a>(&'a Spinning);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spinning {
    /// Rules for this machine. Takes a moment: it measures the time-stamp counter.
    pub fn new() -> Spinning {
        let (start, ticks) = (Instant::now(), host::process::time_stamp());
        while start.elapsed() < Duration::from_micros(200) {
            std::hint::spin_loop();
        }
        let passed = host::process::time_stamp().wrapping_sub(ticks);
        let limit = u128::from(passed) * LIMIT.as_nanos() / start.elapsed().as_nanos().max(1);
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        // A counter that is nonsense must not make anybody spin for long.
        let limit = u64::try_from(limit).unwrap_or(0).min(1_000_000);
        Spinning { processors, limit, busy: AtomicU32::new(0) }
    }

    /// Counts the caller's guest as running.
    pub fn guest_runs(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// Leave to spin, if a processor seems to be free.
    fn spinner(&self) -> Option<Busy<'_>> {
        let before = self.busy.fetch_add(1, Ordering::Relaxed);
        let busy = Busy(self);
        (before < self.processors).then_some(busy)
    }

    fn has_room(&self) -> bool {
        self.busy.load(Ordering::Relaxed) < self.processors
    }
}

/// How long one side's turns have taken lately, in ticks.
#[derive(Debug, Default)]
struct Turns(Cell<u64>);

impl Turns {
    /// Notes a turn; a long one weighs no more than is needed to stop the spinning.
    fn note(&self, ticks: u64, limit: u64) {
        self.0.set((3 * self.0.get() + ticks.min(4 * limit)) / 4);
    }

    fn are_short(&self, limit: u64) -> bool {
        self.0.get() < limit
    }
}

/// The habits of one guest thread.
#[derive(Debug, Default)]
pub struct Habits {
    guest: Turns,
    kernel: Turns,
    /// When the kernel's turn began.
    since: Cell<u64>,
}

impl Habits {
    /// The kernel gives the turn away: for how many ticks the stub may spin until it gets the next one.
    pub fn kernel_done(&self, rules: &Spinning) -> u32 {
        let ticks = host::process::time_stamp().wrapping_sub(self.since.get());
        self.kernel.note(ticks, rules.limit);
        let spins = rules.has_room() && self.kernel.are_short(rules.limit);
        if spins { u32::try_from(rules.limit).unwrap_or(0) } else { 0 }
    }

    /// The kernel has the turn; the guest itself ran for so many ticks, if it did.
    pub fn guest_done(&self, rules: &Spinning, guest: Option<u64>) {
        self.since.set(host::process::time_stamp());
        if let Some(ticks) = guest {
            self.guest.note(ticks, rules.limit);
        }
    }

    /// Spins by calling `spin` with a number of ticks, if it is likely to pay; `guest` says whether guest code runs
    /// meanwhile, or just the stub.
    pub fn spin(&self, rules: &Spinning, guest: bool, spin: impl FnOnce(u64)) {
        if (!guest || self.guest.are_short(rules.limit))
            && let Some(_busy) = rules.spinner()
        {
            spin(rules.limit);
        }
    }
}
