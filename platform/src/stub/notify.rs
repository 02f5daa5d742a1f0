//! Answering the stubs' `clone` and fd-mapping calls: only what the kernel has itself just asked for.
//!
//! One kernel thread at a time gives such commands and answers what follows from them ([`Notifications::lock`]); a call
//! that nobody expects comes from guest code that has jumped into the stub's text, and kills its process.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use host::rustix::event::{PollFd, PollFlags};
use host::seccomp::{Call, Listener, Notification};
use parking_lot::{Mutex, MutexGuard};

use super::filter::ARCHITECTURE;
use super::layout::{PAGE, TEXT};
use super::slot::{Gone, timespec};

/// How long a stub may take to make the call that it was told to make. Generous: the host may be overloaded.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many unexpected calls are dealt with before the expected one is given up.
const UNEXPECTED_MAX: u32 = 10_000;

/// The listener of all stubs.
#[derive(Debug)]
pub struct Notifications {
    listener: Mutex<Listener>,
}

/// The right to command calls that need an answer.
pub struct Answering<'a>(MutexGuard<'a, Listener>);

/// Who is to make a call.
pub enum Caller<'a> {
    /// A thread, with the pidfd of its process.
    Thread(i32, BorrowedFd<'a>),
    /// The main thread of a process that is not known yet; the function says whether it may be this one.
    NewProcess(&'a dyn Fn(i32) -> bool),
}

impl Notifications {
    /// Serves the given listener.
    pub fn new(listener: Listener) -> Notifications {
        // Merely a matter of speed: older hosts lack it.
        let _ = listener.wake_synchronously();
        Notifications { listener: Mutex::new(listener) }
    }

    /// Kills the makers of calls that nobody has asked for, unless a kernel thread is just receiving (and sees to it).
    pub fn dismiss_unexpected(&self) {
        let Some(listener) = self.listener.try_lock() else { return };
        for _ in 0..UNEXPECTED_MAX {
            let mut fds = [PollFd::new(&*listener, PollFlags::IN)];
            let pending = host::rustix::event::poll(&mut fds, Some(&timespec(Duration::ZERO)));
            if !matches!(pending, Ok(1..)) {
                return;
            }
            if let Ok(notification) = listener.receive() {
                punish(&notification);
            }
        }
    }

    /// Waits for other kernel threads to be done with commands that need answers.
    pub fn lock(&self) -> Answering<'_> {
        Answering(self.listener.lock())
    }
}

impl Answering<'_> {
    /// Waits until `caller` makes the call `number` with `arguments` (compared as far as given).
    pub fn expect(&self, caller: &Caller<'_>, number: i64, arguments: &[u64]) -> Result<Notification, Gone> {
        for _ in 0..UNEXPECTED_MAX {
            let notification = self.receive(caller)?;
            let thread = notification.thread.cast_signed();
            let right_caller = match caller {
                Caller::Thread(expected, _) => *expected == thread,
                Caller::NewProcess(may_be) => may_be(thread),
            };
            if right_caller && matches(&notification.call, number, arguments) {
                return Ok(notification);
            }
            punish(&notification);
            if right_caller && matches!(caller, Caller::Thread(..)) {
                return Err(Gone);
            }
        }
        Err(Gone)
    }

    fn receive(&self, caller: &Caller<'_>) -> Result<Notification, Gone> {
        loop {
            let mut fds = vec![PollFd::new(&*self.0, PollFlags::IN)];
            if let Caller::Thread(_, process) = caller {
                fds.push(PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN));
            }
            match host::rustix::event::poll(&mut fds, Some(&timespec(TIMEOUT))) {
                Err(host::rustix::io::Errno::INTR) => continue,
                Err(_) | Ok(0) => return Err(Gone),
                Ok(_) => {}
            }
            if fds[0].revents().contains(PollFlags::IN) {
                // The sender may have been killed meanwhile; then the next poll tells.
                if let Ok(notification) = self.0.receive() {
                    return Ok(notification);
                }
            }
            if fds.get(1).is_some_and(|process| !process.revents().is_empty()) {
                return Err(Gone);
            }
        }
    }

    /// Lets an expected call proceed.
    pub fn proceed(&self, notification: &Notification) -> Result<(), Gone> {
        self.0.proceed(notification).map_err(|_| Gone)
    }

    /// Lets an expected call proceed with `fd` as the caller's fd zero.
    pub fn proceed_with(&self, notification: &Notification, fd: BorrowedFd<'_>) -> Result<(), Gone> {
        self.0.add_fd(notification, fd, 0).map_err(|error| {
            tracing::warn!(%error, "cannot hand an fd to a stub");
            Gone
        })?;
        self.proceed(notification)
    }
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
