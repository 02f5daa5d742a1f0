//! Bringing a guest thread back from its code, and what it may change by itself meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::commands::COMMAND_TICKS;
use crate::stub::layout::*;
use crate::stub::slot::{Gone, Slot};
use crate::stub::space::Space;
use crate::{AddressSpace, Interrupter, OwnState, Uses};

/// For how many ticks ([`super::slot::TICK`]) an interrupt may go unanswered before the process is killed: its guest
/// must have blocked the signal, by a frame of its own for the stub's `rt_sigreturn`.
const INTERRUPT_TICKS: u32 = 5;
/// See [`Interrupt::used_before`].
pub(super) const UNKNOWN: u64 = u64::MAX;
/// See [`Interrupt::used_before`].
pub(super) const ASKED: u64 = u64::MAX - 1;

/// Brings a context back from guest code.
#[derive(Debug)]
pub struct Interrupt {
    pub(super) wanted: AtomicBool,
    /// Whether the guest runs, or is about to.
    pub(super) in_guest: AtomicBool,
    /// Ticks since the interrupt was noticed unanswered.
    pub(super) unanswered: AtomicU32,
    /// Nanoseconds that the host thread had used when it became this guest thread; [`UNKNOWN`], and then [`ASKED`], until it has
    /// told.
    pub(super) used_before: AtomicU64,
    /// The most that the guest thread was seen to have used: what it keeps when its process is gone.
    pub(super) used: AtomicU64,
    pub(super) space: Arc<Space>,
    pub(super) thread: i32,
    pub(super) slot: Arc<Slot>,
}

impl Interrupter for Interrupt {
    fn interrupt(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        if self.is_in_guest() {
            self.signal();
        }
    }

    fn cpu_time(&self) -> Duration {
        let single = self.space.single_thread_cpu_time();
        self.note_cpu_time(single.or_else(|| self.space.thread_cpu_time(self.thread)))
    }
}

/// What a guest thread may change by itself, where it has it.
#[derive(Debug)]
pub(super) struct Own(pub(super) Arc<Slot>);

impl OwnState for Own {
    fn mask(&self) -> u64 {
        self.0.memory().load(MASK)
    }

    fn set_mask(&self, mask: u64) {
        self.0.memory().store(MASK, mask);
    }

    fn robust_list(&self) -> u64 {
        self.0.memory().load(ROBUST_LIST)
    }

    fn set_robust_list(&self, head: u64) {
        self.0.memory().store(ROBUST_LIST, head);
    }

    fn offer(&self, offered: bool) {
        self.0.field(OWN).store(offered.into(), Ordering::Relaxed);
    }

    fn allow_direct(&self, uses: Uses) {
        self.0.allow(uses);
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Interrupt {
    /// Whether the guest runs, or is about to.
    pub fn is_in_guest(&self) -> bool {
        self.in_guest.load(Ordering::SeqCst)
    }

    /// Whether somebody wants the context back, who is told then. Mostly nobody does, and to see that takes no more than a look.
    pub(super) fn take(&self) -> bool {
        self.is_wanted() && self.wanted.swap(false, Ordering::SeqCst)
    }

    /// Whether somebody wants the context back.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Makes the guest stop for a moment.
    pub fn signal(&self) {
        let _ = self.space.signal_thread(self.thread, INTERRUPT_SIGNAL);
    }

    /// What the guest thread has used, when the host thread has used `host` (`None` if it cannot be asked any more).
    /// Never less than before: the host's answers lag behind each other.
    pub(super) fn note_cpu_time(&self, host: Option<Duration>) -> Duration {
        let before = self.used_before.load(Ordering::Relaxed);
        let own = host.map_or(0, |host| nanoseconds(host).saturating_sub(before));
        Duration::from_nanos(self.used.fetch_max(own, Ordering::Relaxed).max(own))
    }

    pub(super) fn tick(&self) -> Result<(), Gone> {
        self.space.shared.notifications.dismiss_unexpected();
        if !self.wanted.load(Ordering::SeqCst) {
            self.unanswered.store(0, Ordering::Relaxed);
            return Ok(());
        }
        // A file of the host's may take its time, and the guest's call on it cannot be interrupted.
        let patience = if self.slot.hazard().is_some() { COMMAND_TICKS } else { INTERRUPT_TICKS };
        if self.unanswered.fetch_add(1, Ordering::Relaxed) < patience {
            self.signal();
            return Ok(());
        }
        tracing::warn!(pid = self.space.pid, "stub does not answer, killing it");
        self.space.kill();
        Err(Gone)
    }
}
