//! When to spin for the other side's turn, when to sleep, and where to wait.
//!
//! Two processors that spin on a slot exchange turns in half a microsecond; sleeping costs several on one processor, and
//! tens when the other one has to come out of idle. But a spinner keeps a processor from somebody who may have work,
//! perhaps the very thread that it waits for. Therefore:
//!
//! - never when the other side was last seen on this processor;
//! - never more guests and spinners than processors;
//! - only where the last waits were so short that it pays;
//! - and where it should have paid but did not, somebody else has the processors: not again for a while, and longer each
//!   time ([`Pause`]).
//!
//! The host likes to wake a thread on the processor of the one that wakes it. Two that take turns then stay together, and
//! neither spins. If a processor seems to be free, the kernel thread goes there ([`Habits::moves_away`]); where that turns
//! out to be wrong, it is not tried again for a while.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest that a side spins: about the price of a wake-up.
const LIMIT: Duration = Duration::from_micros(50);
/// How many turns two sides share a processor before they part.
const TOGETHER: u32 = 16;
/// The shortest and the longest that something is not tried again, in units of [`LIMIT`].
const PAUSES: [u64; 2] = [20, 1000];
/// So many successes in a row make up for all failures.
const SUCCESSES: u32 = 256;

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

/// Keeps from trying again what has failed, the longer the more often it has.
#[derive(Debug, Default)]
struct Pause {
    /// When it began, and how long it is, in ticks.
    since: Cell<u64>,
    length: Cell<u64>,
    /// How long the next one will be.
    next: Cell<u64>,
    successes: Cell<u32>,
}

impl Pause {
    fn failed(&self, now: u64, limit: u64) {
        let [shortest, longest] = PAUSES.map(|pause| pause * limit);
        let length = self.next.get().clamp(shortest, longest);
        self.since.set(now);
        self.length.set(length);
        self.next.set(2 * length);
        self.successes.set(0);
    }

    fn succeeded(&self) {
        self.successes.set(self.successes.get().saturating_add(1));
        if self.successes.get() >= SUCCESSES {
            self.next.set(0);
        }
    }

    fn is_over(&self, now: u64) -> bool {
        let over = self.length.get() == 0 || now.wrapping_sub(self.since.get()) >= self.length.get();
        if over {
            self.length.set(0);
        }
        over
    }
}

/// The habits of one guest thread.
#[derive(Debug, Default)]
pub struct Habits {
    guest: Turns,
    kernel: Turns,
    /// When the stub gave the turn to the kernel, and when the kernel thread saw it.
    reported: Cell<u64>,
    noticed: Cell<u64>,
    /// Whether the kernel thread has spun for the guest just now, and whether in vain.
    spun: Cell<bool>,
    in_vain: Cell<bool>,
    /// Whether the stub may spin for the kernel.
    granted: Cell<bool>,
    spinning: Pause,
    /// For how many turns both sides have been on one processor.
    together: Cell<u32>,
    moving: Pause,
}

impl Habits {
    /// The kernel gives the turn away: for how many ticks the stub may spin until it gets the next one. `asleep` says
    /// whether it has given up spinning for this one.
    pub fn kernel_done(&self, rules: &Spinning, asleep: bool) -> u32 {
        let now = host::process::time_stamp();
        self.kernel.note(now.wrapping_sub(self.reported.get()), rules.limit);
        let quick = now.wrapping_sub(self.noticed.get()) < rules.limit / 2;
        if self.spun.take() && self.granted.get() && asleep && quick && self.together.get() == 0 {
            // Each has spun for the other, and yet they have missed each other.
            self.spinning.failed(now, rules.limit);
        }
        let spins = rules.has_room() && self.kernel.are_short(rules.limit) && self.spinning.is_over(now);
        self.granted.set(spins);
        if spins { u32::try_from(rules.limit).unwrap_or(0) } else { 0 }
    }

    /// The kernel has the turn, which the stub says it has given at `reported`; the guest itself ran for so many ticks, if
    /// it did, and both sides are on one processor or not.
    pub fn guest_done(&self, rules: &Spinning, reported: u64, guest: Option<u64>, together: bool) {
        let now = host::process::time_stamp();
        // The stub may lie.
        self.reported.set(now.wrapping_sub(now.wrapping_sub(reported).min(4 * rules.limit)));
        self.noticed.set(now);
        self.together.set(if together { self.together.get().saturating_add(1) } else { 0 });
        let Some(ticks) = guest else { return };
        self.guest.note(ticks, rules.limit);
        if self.in_vain.take() && ticks < rules.limit {
            self.spinning.failed(now, rules.limit);
        }
    }

    /// Spins by calling `spin` with a number of ticks, if it is likely to pay; `guest` says whether guest code runs
    /// meanwhile, or just the stub. `spin` returns whether the turn has come.
    pub fn spin(&self, rules: &Spinning, guest: bool, spin: impl FnOnce(u64) -> bool) {
        if guest && !(self.guest.are_short(rules.limit) && self.spinning.is_over(host::process::time_stamp()))
        {
            return;
        }
        if let Some(_busy) = rules.spinner() {
            let came = spin(rules.limit);
            if came {
                self.spinning.succeeded();
            }
            self.spun.set(came);
            self.in_vain.set(guest && !came);
        }
    }

    /// Whether the stub is likely to be spinning for the next command just now, so that giving it one takes no time.
    pub fn stub_spins(&self, rules: &Spinning) -> bool {
        self.granted.get()
            && self.together.get() == 0
            && host::process::time_stamp().wrapping_sub(self.reported.get()) < rules.limit / 2
    }

    /// Goes to another processor by calling `leave`, if both sides share one, spinning would pay, and another seems to be
    /// free. `leave` returns whether it has worked. Called when the guest runs.
    pub fn move_away(&self, rules: &Spinning, leave: impl FnOnce() -> bool) {
        if self.together.get() < TOGETHER || !rules.has_room() {
            return;
        }
        let start = host::process::time_stamp();
        let short = self.guest.are_short(rules.limit) && self.kernel.are_short(rules.limit);
        if !short || !self.moving.is_over(start) || !self.spinning.is_over(start) {
            return;
        }
        self.together.set(0);
        let left = leave();
        // Each time counts, the first ones a little: who has to do it often had better not.
        let end = host::process::time_stamp();
        self.moving.failed(end, rules.limit);
        if left && end.wrapping_sub(start) < 4 * rules.limit {
            self.moving.next.set(self.moving.length.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Spinning {
        Spinning { processors: 2, limit: 1_000_000, busy: AtomicU32::new(0) }
    }

    #[test]
    fn pauses_grow_with_failures_and_end_with_successes() {
        let pause = Pause::default();
        assert!(pause.is_over(0));
        let mut now = 5;
        let mut lengths = Vec::new();
        for _ in 0..9 {
            pause.failed(now, 10);
            assert!(!pause.is_over(now + pause.length.get() - 1));
            lengths.push(pause.length.get());
            now += pause.length.get();
            assert!(pause.is_over(now));
        }
        assert_eq!(lengths[..3], [200, 400, 800]);
        assert_eq!(lengths[8], 10_000);
        (0..SUCCESSES).for_each(|_| pause.succeeded());
        pause.failed(now, 10);
        assert_eq!(pause.length.get(), 200);
    }

    #[test]
    fn who_spins_in_vain_stops_for_a_while() {
        let (rules, habits) = (rules(), Habits::default());
        let spins = || {
            let spun = Cell::new(false);
            habits.spin(&rules, true, |_| {
                spun.set(true);
                false
            });
            spun.get()
        };
        assert!(spins());
        // The guest itself was quick: it did not get a processor.
        habits.guest_done(&rules, host::process::time_stamp(), Some(10), false);
        assert!(!spins());
        assert_eq!(habits.kernel_done(&rules, false), 0);
    }

    #[test]
    fn long_turns_of_the_guest_are_no_failures_but_not_spun_for() {
        let (rules, habits) = (rules(), Habits::default());
        habits.spin(&rules, true, |_| false);
        habits.guest_done(&rules, 0, Some(u64::MAX), false);
        assert!(habits.spinning.is_over(host::process::time_stamp()));
        habits.guest_done(&rules, 0, Some(u64::MAX), false);
        habits.spin(&rules, true, |_| panic!("spins for a guest that computes"));
    }

    #[test]
    fn two_on_one_processor_part_if_there_is_another() {
        let (rules, habits) = (rules(), Habits::default());
        let moved = Cell::new(0);
        let leave = || {
            moved.set(moved.get() + 1);
            true
        };
        for _ in 0..TOGETHER {
            habits.move_away(&rules, leave);
            habits.guest_done(&rules, host::process::time_stamp(), Some(10), true);
            habits.kernel_done(&rules, true);
        }
        assert_eq!(moved.get(), 0);
        let full = [rules.guest_runs(), rules.guest_runs()];
        habits.move_away(&rules, leave);
        assert_eq!(moved.get(), 0);
        drop(full);
        habits.move_away(&rules, leave);
        assert_eq!(moved.get(), 1);
        // And not again at once.
        (0..TOGETHER).for_each(|_| habits.guest_done(&rules, host::process::time_stamp(), Some(10), true));
        habits.move_away(&rules, leave);
        assert_eq!(moved.get(), 1);
    }
}
