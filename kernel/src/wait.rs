//! Waiting: what a guest can wait for ([`Events`]), who waits ([`WaitQueue`]), and the one helper that blocks
//! ([`CurrentTask::block_on`]).
//!
//! An operation that may have to wait is written without waiting: it returns `EAGAIN`. `block_on` registers the
//! task with the source, tries, sleeps until the source wakes it, and tries again; it alone knows about deadlines,
//! non-blocking calls, signals and restarts.
//!
//! Lock order: a queue's lock is a leaf but for a [`Waiter`]'s. Wakeups are called without the queue's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use abi::Errno;
use bitflags::bitflags;
use parking_lot::{Condvar, Mutex};

use crate::error::{Restart, SysError, SyscallResult};
use crate::task::CurrentTask;

bitflags! {
    /// Readiness, with the bits of `poll(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// `POLLIN`
        const IN = 0x1;
        /// `POLLPRI`
        const PRI = 0x2;
        /// `POLLOUT`
        const OUT = 0x4;
        /// `POLLERR`
        const ERR = 0x8;
        /// `POLLHUP`
        const HUP = 0x10;
        /// `POLLNVAL`
        const NVAL = 0x20;
        /// `POLLRDNORM`
        const RDNORM = 0x40;
        /// `POLLRDBAND`
        const RDBAND = 0x80;
        /// `POLLWRNORM`
        const WRNORM = 0x100;
        /// `POLLWRBAND`
        const WRBAND = 0x200;
        /// `POLLMSG`
        const MSG = 0x400;
        /// `POLLRDHUP`
        const RDHUP = 0x2000;
    }
}

impl Events {
    /// What reading becomes possible by: `IN | RDNORM`.
    pub const READABLE: Events = Events::IN.union(Events::RDNORM);
    /// What writing becomes possible by: `OUT | WRNORM`.
    pub const WRITABLE: Events = Events::OUT.union(Events::WRNORM);
    /// What is reported whether asked for or not.
    pub const ALWAYS: Events = Events::ERR.union(Events::HUP);
}

/// Called when something that was waited for may have happened. May be called too often, never too seldom.
pub trait Wakeup: Send + Sync {
    /// `events` tells what may have become ready. Called without locks of the waking object's queue; must not block.
    fn wake(&self, events: Events);
}

struct Entry {
    id: u64,
    events: Events,
    wakeup: Arc<dyn Wakeup>,
}

#[derive(Default)]
struct Queue {
    entries: Mutex<Vec<Entry>>,
    length: AtomicUsize,
    next: AtomicU64,
}

/// Those who wait for an object. Cloning gives another handle to the same queue.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Queue>);

impl WaitQueue {
    /// A queue in which nobody waits.
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Adds `wakeup`, to be called for any of `events` (and `ERR` and `HUP`) until the registration is dropped.
    #[must_use = "dropping the registration ends it"]
    pub fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.0.entries.lock();
        entries.push(Entry { id, events: events | Events::ALWAYS, wakeup: Arc::clone(wakeup) });
        self.0.length.store(entries.len(), Ordering::SeqCst);
        drop(entries);
        Registration { parts: vec![(Arc::clone(&self.0), id)] }
    }

    /// Wakes those who wait for any of `events`. The caller has changed the object's state before.
    pub fn wake(&self, events: Events) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.0.length.load(Ordering::SeqCst) == 0 {
            return;
        }
        let wakeups: Vec<Arc<dyn Wakeup>> = {
            let entries = self.0.entries.lock();
            entries.iter().filter(|e| e.events.intersects(events)).map(|e| Arc::clone(&e.wakeup)).collect()
        };
        for wakeup in wakeups {
            wakeup.wake(events);
        }
    }

    /// Wakes the first `count` that wait for any of `events`, oldest first; returns how many there were. For queues
    /// whose waiters each take something.
    pub fn wake_some(&self, events: Events, count: usize) -> usize {
        let wakeups: Vec<Arc<dyn Wakeup>> = {
            let entries = self.0.entries.lock();
            let waiting = entries.iter().filter(|e| e.events.intersects(events));
            waiting.take(count).map(|e| Arc::clone(&e.wakeup)).collect()
        };
        for wakeup in &wakeups {
            wakeup.wake(events);
        }
        wakeups.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.length.load(Ordering::SeqCst) == 0
    }
}

/// A place in one queue or several; left when dropped.
#[derive(Default)]
pub struct Registration {
    parts: Vec<(Arc<Queue>, u64)>,
}

impl Registration {
    /// A registration with something that never wakes anybody (a file that is always ready).
    pub fn none() -> Registration {
        Registration::default()
    }

    /// Both registrations as one.
    #[must_use]
    pub fn and(mut self, mut other: Registration) -> Registration {
        self.parts.append(&mut other.parts);
        self
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for (queue, id) in &self.parts {
            let mut entries = queue.entries.lock();
            entries.retain(|e| e.id != *id);
            queue.length.store(entries.len(), Ordering::SeqCst);
        }
    }
}

/// Something that a task can wait for.
pub trait WaitSource {
    /// Asks to be woken for `events`.
    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration;
}

impl WaitSource for WaitQueue {
    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        WaitQueue::register(self, events, wakeup)
    }
}

impl WaitSource for [&dyn WaitSource] {
    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        self.iter().fold(Registration::none(), |all, source| all.and(source.register(events, wakeup)))
    }
}

/// A source that wakes nobody: for waiting for a signal or a deadline alone.
pub struct Nothing;

impl WaitSource for Nothing {
    fn register(&self, _events: Events, _wakeup: &Arc<dyn Wakeup>) -> Registration {
        Registration::none()
    }
}

/// Until when to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Not at all: `O_NONBLOCK`, `MSG_DONTWAIT`, a timeout of zero.
    Now,
    /// Until this moment of the host's monotonic clock.
    At(Instant),
    /// For ever.
    Never,
}

impl Deadline {
    /// So long from now; what no clock can express is for ever.
    pub fn after(duration: Duration) -> Deadline {
        if duration.is_zero() {
            return Deadline::Now;
        }
        Instant::now().checked_add(duration).map_or(Deadline::Never, Deadline::At)
    }

    /// The deadline of an optional timeout; `None` is for ever.
    pub fn timeout(duration: Option<Duration>) -> Deadline {
        duration.map_or(Deadline::Never, Deadline::after)
    }

    /// How long it is until then; zero if it has passed, `None` for ever.
    pub fn remaining(self) -> Option<Duration> {
        match self {
            Deadline::Now => Some(Duration::ZERO),
            Deadline::At(moment) => Some(moment.saturating_duration_since(Instant::now())),
            Deadline::Never => None,
        }
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }
}

/// What a task sleeps on. One per task; woken by queues, signals and whoever has work for the task.
#[derive(Default)]
pub struct Waiter {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Waiter {
    /// Ends the current [`Waiter::wait`], or the next one.
    pub fn notify(&self) {
        let mut woken = self.woken.lock();
        if !*woken {
            *woken = true;
            self.condition.notify_one();
        }
    }

    /// Sleeps until notified or until the deadline; returns whether it was notified. Forgets the notification.
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut woken = self.woken.lock();
        while !*woken {
            match deadline {
                Deadline::Now => return false,
                Deadline::Never => self.condition.wait(&mut woken),
                Deadline::At(moment) => {
                    if self.condition.wait_until(&mut woken, moment).timed_out() {
                        return std::mem::take(&mut *woken);
                    }
                }
            }
        }
        *woken = false;
        true
    }
}

impl Wakeup for Waiter {
    fn wake(&self, _events: Events) {
        self.notify();
    }
}

impl CurrentTask {
    /// Runs `operation` until it returns something else than `EAGAIN`, sleeping in between until `source` reports one
    /// of `events`.
    ///
    /// Returns `EAGAIN` when the deadline has passed (callers with a timeout turn it into their own answer), and
    /// [`Restart::Sys`] when a signal is to be handled; the operation has then had no effect.
    pub fn block_on<T>(
        &self,
        source: &(impl WaitSource + ?Sized),
        events: Events,
        deadline: Deadline,
        mut operation: impl FnMut() -> SyscallResult<T>,
    ) -> SyscallResult<T> {
        let again = SysError::Errno(Errno::EAGAIN);
        match operation() {
            Err(error) if error == again && deadline != Deadline::Now => {}
            result => return result,
        }
        let wakeup: Arc<dyn Wakeup> = Arc::clone(&self.waiter) as Arc<dyn Wakeup>;
        let _registration = source.register(events, &wakeup);
        loop {
            match operation() {
                Err(error) if error == again => {}
                result => return result,
            }
            if self.interrupted() {
                return Err(Restart::Sys.into());
            }
            if deadline.passed() {
                return Err(again);
            }
            self.set_running(false);
            self.context.borrow().rest();
            self.waiter.wait(deadline);
            self.set_running(true);
        }
    }

    /// Sleeps until the deadline or a signal: `Ok` when the time is over, [`Restart::Sys`] for a signal.
    pub fn sleep_until(&self, deadline: Deadline) -> SyscallResult<()> {
        match self.block_on(&Nothing, Events::empty(), deadline, || Err::<(), _>(Errno::EAGAIN.into())) {
            Err(error) if error.is(Errno::EAGAIN) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_ends_when_dropped() {
        let queue = WaitQueue::new();
        let waiter = Arc::new(Waiter::default());
        let wakeup: Arc<dyn Wakeup> = Arc::clone(&waiter) as _;
        let registration = queue.register(Events::IN, &wakeup);
        queue.wake(Events::OUT);
        assert!(!waiter.wait(Deadline::Now));
        queue.wake(Events::IN);
        assert!(waiter.wait(Deadline::Now));
        drop(registration);
        assert!(queue.is_empty());
        queue.wake(Events::IN);
        assert!(!waiter.wait(Deadline::Now));
    }

    #[test]
    fn a_notification_before_the_wait_is_not_lost() {
        let waiter = Waiter::default();
        waiter.notify();
        assert!(waiter.wait(Deadline::Never));
        assert!(!waiter.wait(Deadline::after(Duration::from_millis(1))));
    }

    #[test]
    fn errors_and_hangups_wake_everybody() {
        let queue = WaitQueue::new();
        let waiter = Arc::new(Waiter::default());
        let wakeup: Arc<dyn Wakeup> = Arc::clone(&waiter) as _;
        let _registration = queue.register(Events::OUT, &wakeup);
        queue.wake(Events::HUP);
        assert!(waiter.wait(Deadline::Now));
    }
}
