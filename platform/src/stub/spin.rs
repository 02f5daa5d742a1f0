//! When to spin for the other side's turn, when to sleep, and where to wait.
//!
//! Two processors that spin on a slot exchange turns in half a microsecond; sleeping costs several on one processor, and
//! tens when the other one has to come out of idle. But a spinner keeps a processor from somebody who may have work,
//! perhaps the very thread that it waits for. Therefore:
//!
//! - never when the other side was last seen on this processor;
//! - never more guests and spinners than processors, nor more threads of the whole machine that want to run;
//! - only where the last waits were so short that it pays;
//! - and where it should have paid but did not, somebody else has the processors: not again for a while, and longer each
//!   time ([`Pause`]).
//!
//! The host likes to wake a thread on the processor of the one that wakes it. Two that take turns then stay together, and
//! neither spins. If a processor is free, the kernel thread goes there. Where all are wanted by others, two that are apart
//! each wait for their turn among those, but of two that are together one runs when the other stops: then the kernel
//! thread goes to the stub ([`Habits::place`]).

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::process::Allowed;
use host::rustix::fs::{Mode, OFlags, openat};

use super::Waiting;

/// The longest that a side spins: about the price of a wake-up.
const LIMIT: Duration = Duration::from_micros(50);
/// How many turns in a row two sides have shared a processor, or have been apart, before that is changed.
const SETTLED: u32 = 16;
/// The same, for the first time in a process that has just got its program: most make a few dozen calls and end.
const SETTLED_EARLY: u32 = 4;
/// How long it is believed how many threads want to run, in units of [`LIMIT`].
const FRESH: u64 = 20;
/// How often in a row more threads have to want to run than can, so that it is no accident: the making of a process takes
/// less than that.
const CROWDED: u32 = 3;
/// The shortest and the longest that something is not tried again, in units of [`LIMIT`].
const PAUSES: [u64; 2] = [20, 1000];
/// So many successes in a row make up for all failures.
const SUCCESSES: u32 = 256;
/// So many words that changed while they were watched make up for all that did not.
const WATCHED_OFTEN: u32 = 8;
/// A wait of less than that, in units of [`LIMIT`], is hardly longer than one that is watched to its end; and how often in a row
/// that is thought.
const MISSED: u64 = 4;
const MISSES: u32 = 8;

/// What all guest threads of a platform share.
#[derive(Debug)]
pub struct Spinning {
    processors: u32,
    /// `LIMIT` in ticks of the time-stamp counter.
    limit: u64,
    /// How many guest threads run, or kernel threads spin.
    busy: AtomicU32,
    machine: Machine,
    /// Where guest threads may run.
    allowed: Option<Allowed>,
}

/// How much the whole machine has to do.
#[derive(Debug, Default)]
struct Machine {
    /// `loadavg`, which says how many threads run or want to.
    file: Option<OwnedFd>,
    processors: u32,
    /// When it was asked last, in ticks.
    asked: AtomicU64,
    /// How often in a row there have been too many.
    crowded: AtomicU32,
}

impl Machine {
    fn new(procfs: Option<&OwnedFd>) -> Machine {
        let open = |procfs| openat(procfs, "loadavg", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let processors = host::process::online_processors();
        Machine { file: procfs.and_then(open), processors, ..Machine::default() }
    }

    /// Whether there are more threads than processors for them, which is not asked more often than it changes.
    fn is_crowded(&self, now: u64, limit: u64) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if let Some(file) = &self.file
            && now.wrapping_sub(asked) > FRESH * limit
            && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let mut text = [0; 64];
            let length = host::rustix::io::pread(file, &mut text[..], 0).unwrap_or(0);
            let wanting = runnable(&text[..length]);
            let too_many = wanting.is_some_and(|count| count > self.processors);
            let times = if too_many { self.crowded.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
            self.crowded.store(times, Ordering::Relaxed);
        }
        self.crowded.load(Ordering::Relaxed) >= CROWDED
    }
}

/// How many threads run or want to, as `proc_loadavg(5)` says.
fn runnable(loadavg: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(loadavg).ok()?;
    text.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// Counts a guest or a spinner while it exists.
pub struct Busy<'a>(&'a Spinning);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spinning {
    /// Rules for this machine, of which `procfs` tells more. Takes a moment: it measures the time-stamp counter.
    pub fn new(waiting: Waiting, procfs: Option<&OwnedFd>) -> Spinning {
        let (start, ticks) = (Instant::now(), host::process::time_stamp());
        while start.elapsed() < Duration::from_micros(200) {
            std::hint::spin_loop();
        }
        let passed = host::process::time_stamp().wrapping_sub(ticks);
        let limit = u128::from(passed) * LIMIT.as_nanos() / start.elapsed().as_nanos().max(1);
        let processors = match waiting {
            Waiting::Adaptive => std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
            // Room for nobody.
            Waiting::Sleeping => 0,
        };
        // A counter that is nonsense must not make anybody spin for long.
        let limit = u64::try_from(limit).unwrap_or(0).min(1_000_000);
        let (busy, machine) = (AtomicU32::new(0), Machine::new(procfs));
        Spinning { processors, limit, busy, machine, allowed: Allowed::of_caller() }
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

    fn is_crowded(&self, now: u64) -> bool {
        self.machine.is_crowded(now, self.limit)
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

/// What a stub tells of its times, in ticks: when it was woken last, and when it has reported to a kernel thread that slept. Who
/// spins sees that as soon as it happens, and is not told.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// When it was woken.
    pub woken: u64,
    /// When it has reported.
    pub reported: u64,
}

/// The habits of one guest thread.
#[derive(Debug, Default)]
pub struct Habits {
    guest: Turns,
    kernel: Turns,
    /// When the kernel gave the turn to the stub, when it got it back, and when the kernel thread saw that.
    posted: Cell<u64>,
    reported: Cell<u64>,
    noticed: Cell<u64>,
    /// Whether the kernel thread has spun for the guest just now, and whether in vain.
    spun: Cell<bool>,
    in_vain: Cell<bool>,
    /// Whether the stub may spin for the kernel.
    granted: Cell<bool>,
    spinning: Pause,
    /// For how many turns both sides have been on one processor, and on different ones.
    together: Cell<u32>,
    apart: Cell<u32>,
    moving: Pause,
    /// Whether neither side has run for the other since the thread began, or the kernel thread slept for something else.
    cold: Cell<bool>,
    /// When the stub was woken on this processor, if it has not told yet when it came to run.
    woken: Cell<Option<u64>>,
    waking: Pause,
    /// Whether the first move may come early.
    early: Cell<bool>,
    /// For how long the guest may watch a word before it waits for it, and how often it has not been in vain.
    watches: Cell<u32>,
    watched: Cell<u32>,
    /// How often in a row that has been too short by little.
    misses: Cell<u32>,
    watching: Pause,
}

impl Habits {
    /// Of a new thread.
    pub fn of_thread() -> Habits {
        let posted = Cell::new(host::process::time_stamp());
        Habits { cold: Cell::new(true), posted, ..Habits::default() }
    }

    /// Of the first thread of a process that has just got its program.
    pub fn of_program() -> Habits {
        Habits { early: Cell::new(true), ..Habits::of_thread() }
    }

    /// The kernel gives the turn away: for how many ticks the stub may spin until it gets the next one. `asleep` says
    /// whether it has given up spinning for this one.
    pub fn kernel_done(&self, rules: &Spinning, asleep: bool) -> u32 {
        let now = host::process::time_stamp();
        self.posted.set(now);
        self.kernel.note(now.wrapping_sub(self.reported.get()), rules.limit);
        let quick = now.wrapping_sub(self.noticed.get()) < rules.limit / 2;
        if self.spun.take() && self.granted.get() && asleep && quick && self.together.get() == 0 {
            // Each has spun for the other, and yet they have missed each other.
            self.spinning.failed(now, rules.limit);
        }
        let spins = rules.has_room()
            && self.kernel.are_short(rules.limit)
            && self.spinning.is_over(now)
            && !rules.is_crowded(now);
        self.granted.set(spins);
        if spins { u32::try_from(rules.limit).unwrap_or(0) } else { 0 }
    }

    /// The kernel has the turn. `guest` says, if guest code was to run, whether it did; `together`, whether both sides are on one
    /// processor.
    pub fn turn_came(&self, rules: &Spinning, told: &Told, guest: Option<bool>, together: bool) {
        let (now, posted) = (host::process::time_stamp(), self.posted.get());
        // What was told earlier is of an earlier turn; and the stub may lie.
        let is_of_this = |time: u64| time.wrapping_sub(posted) <= now.wrapping_sub(posted);
        let began = if is_of_this(told.woken) { told.woken } else { posted };
        let reported = if is_of_this(told.reported) { told.reported } else { now };
        if guest.is_some() {
            self.woke(rules, began);
        }
        let ran = guest.filter(|ran| *ran).map(|_| reported.saturating_sub(began));
        self.guest_done(rules, (reported, now), ran, together);
    }

    /// The stub has given the turn back at a time, which the kernel thread has seen at another; the guest itself ran for so many
    /// ticks, if it did.
    fn guest_done(&self, rules: &Spinning, (reported, now): (u64, u64), guest: Option<u64>, together: bool) {
        self.reported.set(now.wrapping_sub(now.wrapping_sub(reported).min(4 * rules.limit)));
        self.noticed.set(now);
        let (more, none) =
            if together { (&self.together, &self.apart) } else { (&self.apart, &self.together) };
        more.set(more.get().saturating_add(1));
        none.set(0);
        let Some(ticks) = guest else {
            self.woken.set(None);
            return;
        };
        self.guest.note(ticks, rules.limit);
        if self.in_vain.take() && ticks < rules.limit {
            self.spinning.failed(now, rules.limit);
        }
    }

    /// Spins by calling `spin` with a number of ticks, if it is likely to pay; `guest` says whether guest code runs
    /// meanwhile, or just the stub. `spin` returns whether the turn has come.
    pub fn spin(&self, rules: &Spinning, guest: bool, spin: impl FnOnce(u64) -> bool) {
        let now = host::process::time_stamp();
        let pays = self.guest.are_short(rules.limit) && self.spinning.is_over(now) && !rules.is_crowded(now);
        if guest && !pays {
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

    /// Wakes the stub, which sleeps on another processor, on this one by calling `wake`, if that is likely to be sooner at work:
    /// to get another processor out of idleness takes long, and this thread is about to leave its own. `wake` returns whether it
    /// woke it here; returns whether it was called.
    pub fn wakes_here(&self, rules: &Spinning, wake: impl FnOnce(&Allowed) -> bool) -> bool {
        let now = host::process::time_stamp();
        let Some(allowed) = &rules.allowed else { return false };
        // Where both will spin again soon they stay apart.
        if !self.cold.take() && self.granted.get() || !self.waking.is_over(now) || rules.is_crowded(now) {
            return false;
        }
        if wake(allowed) {
            self.woken.set(Some(now));
        } else {
            // The host does not let it.
            self.waking.failed(now, rules.limit);
        }
        true
    }

    /// The stub has been at work since `resumed`, as it says.
    fn woke(&self, rules: &Spinning, resumed: u64) {
        let Some(woken) = self.woken.take() else { return };
        let now = host::process::time_stamp();
        let took = resumed.wrapping_sub(woken).min(now.wrapping_sub(woken));
        if took > rules.limit {
            // Somebody else wants this processor.
            self.waking.failed(now, rules.limit);
        } else {
            self.waking.succeeded();
        }
    }

    /// For how many ticks the guest may watch a word of its memory that another thread is to change, before it waits for it. `seen` is
    /// what the stub says: how many are left to it of those that it had, and how often the word has changed meanwhile.
    #[inline]
    pub fn watch(&self, rules: &Spinning, (left, watched): (u32, u32)) -> u32 {
        let granted = self.watches.get();
        // Leave that has not been used stays: at most, it is used in vain once.
        if granted == 0 || left == 0 { self.watch_anew(rules, granted != 0, watched) } else { granted }
    }

    fn watch_anew(&self, rules: &Spinning, in_vain: bool, watched: u32) -> u32 {
        let now = host::process::time_stamp();
        if in_vain {
            let often = watched.wrapping_sub(self.watched.replace(watched)) >= WATCHED_OFTEN;
            if often {
                self.watching.next.set(0);
            }
            // Who has slept for a short while after that has missed somebody who did not watch, and may the next time.
            let missed = now.wrapping_sub(self.noticed.get()) < MISSED * rules.limit;
            let misses = if often { 0 } else { self.misses.get() } + 1;
            self.misses.set(if missed && misses < MISSES { misses } else { 0 });
            if self.misses.get() == 0 {
                self.watching.failed(now, rules.limit);
            }
        }
        let watches = rules.processors > 1 && self.watching.is_over(now) && !rules.is_crowded(now);
        self.watches.set(if watches { u32::try_from(rules.limit).unwrap_or(0) } else { 0 });
        self.watches.get()
    }

    /// The kernel thread goes to sleep for something else than its guest.
    pub fn blocks(&self) {
        self.together.set(0);
        self.cold.set(true);
    }

    /// Changes where the kernel thread runs by calling `go`, if another place is better for the two sides. `go` returns
    /// whether it has worked. Called when the guest runs.
    pub fn place(&self, rules: &Spinning, go: impl FnOnce(Place) -> bool) {
        let settled = if self.early.get() { SETTLED_EARLY } else { SETTLED };
        if self.together.get().max(self.apart.get()) < settled {
            return;
        }
        let start = host::process::time_stamp();
        let crowded = rules.is_crowded(start);
        let place = if self.together.get() != 0 { Place::Elsewhere } else { Place::WithStub };
        let sensible = match place {
            Place::Elsewhere => !crowded && rules.has_room() && self.spinning.is_over(start),
            Place::WithStub => crowded,
        };
        let short = self.guest.are_short(rules.limit) && self.kernel.are_short(rules.limit);
        if !sensible || !short || !self.moving.is_over(start) {
            return;
        }
        self.together.set(0);
        self.apart.set(0);
        self.early.set(false);
        // The stub takes it that this thread is where it was, and does not spin the next time.
        self.granted.set(false);
        let gone = go(place);
        let end = host::process::time_stamp();
        self.moving.failed(end, rules.limit);
        if gone && end.wrapping_sub(start) < 4 * rules.limit {
            // Nobody was in the way: it may be done as soon again.
            self.moving.next.set(self.moving.length.get());
        }
    }
}

/// Where the kernel thread may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To any other processor.
    Elsewhere,
    /// To the one of the stub.
    WithStub,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Spinning {
        Spinning {
            processors: 2,
            limit: 1_000_000,
            busy: AtomicU32::new(0),
            machine: Machine::default(),
            allowed: None,
        }
    }

    /// The turn comes, and is seen.
    fn at_once() -> (u64, u64) {
        let now = host::process::time_stamp();
        (now, now)
    }

    #[test]
    fn times_of_earlier_turns_and_of_later_ones_do_not_count() {
        let (rules, habits) = (Spinning { limit: 1 << 40, ..rules() }, Habits::default());
        let ran = |told: Told| {
            habits.guest.0.set(0);
            habits.kernel_done(&rules, false);
            while host::process::time_stamp() < habits.posted.get() + 100_000 {}
            let posted = habits.posted.get();
            let shift = |time: u64| if time == 0 { 0 } else { posted.wrapping_add(time) };
            let told = Told { woken: shift(told.woken), reported: shift(told.reported) };
            habits.turn_came(&rules, &told, Some(true), false);
            (habits.guest.0.get() * 4, habits.noticed.get() - posted)
        };
        let about = |(ran, _): (u64, u64), ticks: u64| assert!(ran.abs_diff(ticks) < 4, "{ran} for {ticks}");
        let whole = |(ran, noticed): (u64, u64)| assert!(ran.abs_diff(noticed) < 4, "{ran} of {noticed}");
        about(ran(Told { woken: 10_000, reported: 30_000 }), 20_000);
        about(ran(Told { woken: 0, reported: 30_000 }), 30_000);
        whole(ran(Told { woken: 0, reported: 0 }));
        whole(ran(Told { woken: 1 << 50, reported: 1 << 50 }));
        // Not before it began.
        about(ran(Told { woken: 30_000, reported: 10_000 }), 0);
        // And where the guest has not run, nothing is known of it.
        habits.guest.0.set(7);
        habits.turn_came(&rules, &Told { woken: 0, reported: 0 }, Some(false), false);
        habits.turn_came(&rules, &Told { woken: 0, reported: 0 }, None, false);
        assert_eq!(habits.guest.0.get(), 7);
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
        habits.guest_done(&rules, at_once(), Some(10), false);
        assert!(!spins());
        assert_eq!(habits.kernel_done(&rules, false), 0);
    }

    #[test]
    fn long_turns_of_the_guest_are_no_failures_but_not_spun_for() {
        let (rules, habits) = (rules(), Habits::default());
        habits.spin(&rules, true, |_| false);
        habits.guest_done(&rules, (0, at_once().1), Some(u64::MAX), false);
        assert!(habits.spinning.is_over(host::process::time_stamp()));
        habits.guest_done(&rules, (0, at_once().1), Some(u64::MAX), false);
        habits.spin(&rules, true, |_| panic!("spins for a guest that computes"));
    }

    #[test]
    fn two_on_one_processor_part_if_there_is_another() {
        let (rules, habits) = (rules(), Habits::default());
        let moved = Cell::new(0);
        let leave = |place| {
            assert_eq!(place, Place::Elsewhere);
            moved.set(moved.get() + 1);
            true
        };
        for _ in 0..SETTLED {
            habits.place(&rules, leave);
            habits.guest_done(&rules, at_once(), Some(10), true);
            habits.kernel_done(&rules, true);
        }
        assert_eq!(moved.get(), 0);
        let full = [rules.guest_runs(), rules.guest_runs()];
        habits.place(&rules, leave);
        assert_eq!(moved.get(), 0);
        drop(full);
        habits.place(&rules, leave);
        assert_eq!(moved.get(), 1);
        // And not again at once.
        (0..SETTLED).for_each(|_| habits.guest_done(&rules, at_once(), Some(10), true));
        habits.place(&rules, leave);
        assert_eq!(moved.get(), 1);
    }

    #[test]
    fn the_turn_that_is_missed_by_moving_is_no_failure() {
        let (rules, habits) = (rules(), Habits::of_program());
        for _ in 0..=SETTLED_EARLY {
            habits.guest_done(&rules, at_once(), Some(10), true);
            assert_ne!(habits.kernel_done(&rules, true), 0);
        }
        let moved = Cell::new(false);
        habits.place(&rules, |_| {
            moved.set(true);
            true
        });
        assert!(moved.get());
        habits.spin(&rules, true, |_| true);
        habits.guest_done(&rules, at_once(), Some(10), false);
        // The stub sleeps, though it was granted to spin.
        assert_ne!(habits.kernel_done(&rules, true), 0);
        assert!(habits.spinning.is_over(host::process::time_stamp()));
    }

    #[test]
    fn a_stub_is_woken_here_if_neither_side_will_spin() {
        let allowed = Allowed::of_caller();
        assert!(allowed.is_some());
        let (rules, habits) = (Spinning { allowed, ..rules() }, Habits::of_thread());
        let here = |habits: &Habits, rules: &Spinning| habits.wakes_here(rules, |_| true);
        let now = host::process::time_stamp;
        let turn = || {
            habits.guest_done(&rules, at_once(), Some(10), false);
            habits.kernel_done(&rules, true);
        };
        // At first.
        turn();
        assert!(here(&habits, &rules));
        habits.woke(&rules, now());
        turn();
        assert!(!here(&habits, &rules));
        // After the kernel thread has slept for something else.
        habits.blocks();
        assert!(here(&habits, &rules));
        habits.woke(&rules, now());
        // While spinning does not pay.
        habits.spinning.failed(now(), rules.limit);
        turn();
        assert!(here(&habits, &rules));
        // Not when it took long last time, nor when the host has refused.
        habits.woken.set(Some(now().wrapping_sub(3 * rules.limit)));
        habits.woke(&rules, now());
        assert!(!here(&habits, &rules));
        let refused = Habits::of_thread();
        assert!(refused.wakes_here(&rules, |_| false));
        refused.blocks();
        assert!(!here(&refused, &rules));
        assert_eq!(refused.woken.get(), None);
    }

    #[test]
    fn who_has_watched_in_vain_does_not_for_a_while() {
        let rules = rules();
        let limit = u32::try_from(rules.limit).expect("small");
        let habits = Habits::default();
        let long_ago = || host::process::time_stamp().wrapping_sub(100 * rules.limit);
        let over = |habits: &Habits| {
            habits.watching.since.set(long_ago().wrapping_sub(habits.watching.length.get()))
        };
        assert_eq!(habits.watch(&rules, (0, 0)), limit);
        // What is left says that it has not watched, or not in vain.
        assert_eq!(habits.watch(&rules, (limit, 5)), limit);
        // In vain, though others come soon after: a few times it may have been bad luck.
        for _ in 1..MISSES {
            habits.noticed.set(host::process::time_stamp());
            assert_eq!(habits.watch(&rules, (0, 5)), limit);
        }
        habits.noticed.set(host::process::time_stamp());
        assert_eq!(habits.watch(&rules, (0, 5)), 0);
        assert_eq!(habits.watch(&rules, (0, 5)), 0);
        let pause = habits.watching.length.get();
        over(&habits);
        assert_eq!(habits.watch(&rules, (0, 5)), limit);
        // When nobody comes for long, it is in vain at once, and longer than before.
        habits.noticed.set(long_ago());
        assert_eq!(habits.watch(&rules, (0, 6)), 0);
        assert_eq!(habits.watching.length.get(), 2 * pause);
        // If it has often been of use since, it was an accident.
        over(&habits);
        assert_eq!(habits.watch(&rules, (0, 6)), limit);
        habits.noticed.set(long_ago());
        assert_eq!(habits.watch(&rules, (0, 6 + WATCHED_OFTEN)), 0);
        assert_eq!(habits.watching.length.get(), pause);
    }

    #[test]
    fn nobody_watches_where_no_processor_is_free() {
        let habits = Habits::default();
        let one = Spinning { processors: 1, ..rules() };
        assert_eq!(habits.watch(&one, (0, 0)), 0);
        let mut crowded = rules();
        crowded.machine.crowded = CROWDED.into();
        assert_eq!(habits.watch(&crowded, (0, 0)), 0);
    }

    #[test]
    fn where_all_processors_are_wanted_nobody_spins_and_two_come_together() {
        let mut rules = rules();
        rules.machine.crowded = CROWDED.into();
        let habits = Habits::default();
        let moved = Cell::new(0);
        for _ in 0..=SETTLED {
            habits.spin(&rules, true, |_| panic!("spins"));
            habits.guest_done(&rules, at_once(), Some(10), false);
            assert_eq!(habits.kernel_done(&rules, true), 0);
            habits.place(&rules, |place| {
                assert_eq!(place, Place::WithStub);
                moved.set(moved.get() + 1);
                true
            });
        }
        assert_eq!(moved.get(), 1);
    }

    #[test]
    fn the_number_of_those_who_want_to_run_is_found() {
        assert_eq!(runnable(b"8.99 6.78 6.00 7/139 2\n"), Some(7));
        assert_eq!(runnable(b"8.99 6.78"), None);
        assert_eq!(runnable(b""), None);
    }
}
