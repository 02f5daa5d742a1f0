//! Answering the stubs' `clone` and fd-mapping calls: only what the kernel has itself just asked for.
//!
//! A kernel thread says whose call it expects ([`Notifications::calls_of`]) before it gives the command that makes the
//! stub call. All stubs share one listener: of the threads that wait, one receives and hands each call to whom it is for,
//! so that nobody waits for another's stub. A call that nobody expects comes from guest code that has jumped into the
//! stub's text, and kills its process.
//!
//! A new process is not known before its first call. So processes are made one at a time ([`Notifications::new_process`]);
//! what comes from a thread that nobody knows is for whoever makes one.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use host::rustix::event::{PollFd, PollFlags};
use host::seccomp::{Call, Listener, Notification};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::filter::ARCHITECTURE;
use super::layout::{PAGE, TEXT};
use super::slot::{Gone, timespec};

/// How long a stub may take to make the call that it was told to make. Generous: the host may be overloaded.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a thread that waits for another's receiving looks whether its stub is still there.
const LOOK: Duration = Duration::from_millis(100);
/// How many unexpected calls are dealt with before the expected one is given up.
const UNEXPECTED_MAX: u32 = 10_000;

/// The listener of all stubs.
#[derive(Debug)]
pub struct Notifications {
    listener: Listener,
    state: Mutex<State>,
    /// Signalled when a call has been handed over, and when nobody receives any more.
    changed: Condvar,
    /// Held while a process is made.
    making: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    expected: Vec<Expected>,
    /// Whether somebody receives.
    receiving: bool,
}

/// Whose calls somebody waits for.
#[derive(Debug)]
struct Expected {
    /// The thread; `None` for all that nobody else expects.
    thread: Option<i32>,
    arrived: Vec<Notification>,
}

/// The right to make a process.
pub struct Making<'a>(#[allow(dead_code, reason = "held")] MutexGuard<'a, ()>);

/// The right to answer the calls of a thread, or of a new process. Who has it gives the command that leads to them.
pub struct Expecting<'a> {
    notifications: &'a Notifications,
    thread: Option<i32>,
}

impl Notifications {
    /// Serves the given listener.
    pub fn new(listener: Listener) -> Notifications {
        // Merely a matter of speed: older hosts lack it.
        let _ = listener.wake_synchronously();
        Notifications { listener, state: Mutex::default(), changed: Condvar::new(), making: Mutex::default() }
    }

    /// Kills the makers of calls that nobody has asked for, unless a kernel thread is just receiving (and sees to it).
    pub fn dismiss_unexpected(&self) {
        let mut state = self.state.lock();
        if state.receiving {
            return;
        }
        state.receiving = true;
        drop(state);
        for _ in 0..UNEXPECTED_MAX {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            let pending = host::rustix::event::poll(&mut fds, Some(&timespec(Duration::ZERO)));
            if !matches!(pending, Ok(1..)) {
                break;
            }
            if let Ok(notification) = self.listener.receive() {
                self.hand_over(&mut self.state.lock(), notification);
            }
        }
        self.state.lock().receiving = false;
        self.changed.notify_all();
    }

    /// Waits for other kernel threads to be done with making a process.
    pub fn new_process(&self) -> Making<'_> {
        Making(self.making.lock())
    }

    /// Expects calls of a thread that only the caller commands.
    pub fn calls_of(&self, thread: i32) -> Expecting<'_> {
        self.expect(Some(thread))
    }

    /// Expects calls of the process that is being made.
    pub fn calls_of_new(&self, _making: &Making<'_>) -> Expecting<'_> {
        self.expect(None)
    }

    fn expect(&self, thread: Option<i32>) -> Expecting<'_> {
        self.state.lock().expected.push(Expected { thread, arrived: Vec::new() });
        Expecting { notifications: self, thread }
    }

    /// Gives a call to whoever expects it.
    fn hand_over(&self, state: &mut State, notification: Notification) {
        let thread = notification.thread.cast_signed();
        let of = |state: &State, wanted| state.expected.iter().position(|it| it.thread == wanted);
        match of(state, Some(thread)).or_else(|| of(state, None)) {
            Some(index) => state.expected[index].arrived.push(notification),
            None => punish(&notification),
        }
    }
}

impl Expecting<'_> {
    /// Waits until the thread makes the call `number` with `arguments` (compared as far as given). `process` is its
    /// process, if that is known.
    pub fn call(
        &self,
        process: Option<BorrowedFd<'_>>,
        number: i64,
        arguments: &[u64],
    ) -> Result<Notification, Gone> {
        let notification = self.next(process)?;
        if matches(&notification.call, number, arguments) {
            return Ok(notification);
        }
        punish(&notification);
        Err(Gone)
    }

    /// Waits until a new process for which `may_be` holds makes the call `number` with `arguments`.
    pub fn call_of_new(
        &self,
        may_be: &mut dyn FnMut(i32) -> bool,
        number: i64,
        arguments: &[u64],
    ) -> Result<Notification, Gone> {
        for _ in 0..UNEXPECTED_MAX {
            let notification = self.next(None)?;
            let right = may_be(notification.thread.cast_signed());
            if right && matches(&notification.call, number, arguments) {
                return Ok(notification);
            }
            punish(&notification);
        }
        Err(Gone)
    }

    /// The next call that is handed over.
    fn next(&self, process: Option<BorrowedFd<'_>>) -> Result<Notification, Gone> {
        let all = self.notifications;
        let deadline = Instant::now() + TIMEOUT;
        let mut state = all.state.lock();
        loop {
            let own = state.expected.iter_mut().find(|expected| expected.thread == self.thread);
            if let Some(notification) = own.and_then(|own| own.arrived.pop()) {
                return Ok(notification);
            }
            if Instant::now() >= deadline {
                return Err(Gone);
            }
            if state.receiving {
                if all.changed.wait_for(&mut state, LOOK).timed_out() && process.is_some_and(has_ended) {
                    return Err(Gone);
                }
                continue;
            }
            state.receiving = true;
            drop(state);
            let received = all.receive(process, deadline);
            state = all.state.lock();
            state.receiving = false;
            if let Ok(Some(notification)) = received {
                all.hand_over(&mut state, notification);
            }
            // Somebody else has to receive, if this thread does not any more.
            all.changed.notify_all();
            received?;
        }
    }

    /// Lets an expected call proceed.
    pub fn proceed(&self, notification: &Notification) -> Result<(), Gone> {
        self.notifications.listener.proceed(notification).map_err(|_| Gone)
    }

    /// Lets an expected call proceed with `fd` as the caller's fd zero.
    pub fn proceed_with(&self, notification: &Notification, fd: BorrowedFd<'_>) -> Result<(), Gone> {
        self.give(notification, fd, 0)?;
        self.proceed(notification)
    }

    /// Answers a call that asks for nothing but `fd`, which becomes the caller's fd `number`.
    pub fn answer_with(
        &self,
        notification: &Notification,
        fd: BorrowedFd<'_>,
        number: u32,
    ) -> Result<(), Gone> {
        let listener = &self.notifications.listener;
        let Err(error) = listener.answer_with_fd(notification, fd, number) else { return Ok(()) };
        if error.raw_os_error() == Some(libc::EINVAL) {
            self.give(notification, fd, number)?;
            return listener.answer(notification, 0).map_err(|_| Gone);
        }
        tracing::warn!(%error, "cannot hand an fd to a stub");
        Err(Gone)
    }

    fn give(&self, notification: &Notification, fd: BorrowedFd<'_>, number: u32) -> Result<(), Gone> {
        self.notifications.listener.add_fd(notification, fd, number).map_err(|error| {
            tracing::warn!(%error, "cannot hand an fd to a stub");
            Gone
        })
    }
}

impl Drop for Expecting<'_> {
    fn drop(&mut self) {
        let mut state = self.notifications.state.lock();
        let Some(index) = state.expected.iter().position(|expected| expected.thread == self.thread) else {
            return;
        };
        for unexpected in state.expected.swap_remove(index).arrived {
            punish(&unexpected);
        }
    }
}

impl Notifications {
    /// Waits for a call of any stub; for nothing if a signal came, or the call was over before it was looked at.
    fn receive(
        &self,
        process: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Option<Notification>, Gone> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(process.map(|process| PollFd::from_borrowed_fd(process, PollFlags::IN)));
        let left = timespec(deadline.saturating_duration_since(Instant::now()));
        match host::rustix::event::poll(&mut fds, Some(&left)) {
            Err(host::rustix::io::Errno::INTR) => return Ok(None),
            Err(_) | Ok(0) => return Err(Gone),
            Ok(_) => {}
        }
        if fds[0].revents().contains(PollFlags::IN) {
            // The sender may have been killed meanwhile; then the next poll tells.
            return Ok(self.listener.receive().ok());
        }
        if fds.get(1).is_some_and(|process| !process.revents().is_empty()) { Err(Gone) } else { Ok(None) }
    }
}

/// Whether a process has ended.
fn has_ended(process: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    matches!(host::rustix::event::poll(&mut fds, Some(&timespec(Duration::ZERO))), Ok(1..))
}

/// Ends a process that has made a call by itself. Its thread waits for the answer, so the id is still its own.
fn punish(notification: &Notification) {
    let thread = notification.thread.cast_signed();
    tracing::warn!(thread, call = notification.call.number, "stub made a call that nobody asked for");
    let _ = host::process::kill_by_thread(thread);
}

fn matches(call: &Call, number: i64, arguments: &[u64]) -> bool {
    i64::from(call.number) == number
        && call.architecture == ARCHITECTURE
        && (TEXT..TEXT + PAGE).contains(&call.instruction_pointer)
        && call.arguments.starts_with(arguments)
}
