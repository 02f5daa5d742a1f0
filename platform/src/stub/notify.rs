//! The seccomp listener: how the kernel gives a stub what it has commanded it to ask for.
//!
//! A notification is answered only by the kernel thread that has just commanded the call, which holds the platform's
//! listener lock from before the command until after the answer. Any other notification comes from guest code that
//! jumped into the stub's text, and its process is killed.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

const RECV: libc::Ioctl = request(3, 0, size_of::<Notification>());
const SEND: libc::Ioctl = request(3, 1, size_of::<Response>());
const ID_VALID: libc::Ioctl = request(1, 2, 8);
const ADDFD: libc::Ioctl = request(1, 3, size_of::<AddFd>());

/// The number of an ioctl of the seccomp listener.
const fn request(direction: u64, number: u64, size: usize) -> libc::Ioctl {
    direction << 30 | (size as u64) << 16 | (b'!' as u64) << 8 | number
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Notification {
    id: u64,
    /// The thread that made the call.
    pub pid: u32,
    flags: u32,
    /// The call's number.
    pub number: i32,
    arch: u32,
    pointer: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

#[repr(C)]
#[derive(Default)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

const CONTINUE: u32 = 1;
const SETFD: u32 = 1;

/// The listener of all stubs of a platform, and the threads that are known.
pub struct Listener {
    fd: OwnedFd,
    /// Held by the thread that waits for a notification.
    turn: Mutex<()>,
    known: Mutex<HashSet<u32>>,
}

/// The right to command calls that notify.
pub struct Turn<'a> {
    listener: &'a Listener,
    _guard: MutexGuard<'a, ()>,
}

impl Listener {
    /// The listener behind `fd`.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener { fd, turn: Mutex::new(()), known: Mutex::new(HashSet::new()) }
    }

    /// Waits for the right to command calls that notify.
    pub fn turn(&self) -> Turn<'_> {
        Turn { listener: self, _guard: self.turn.lock() }
    }

    /// Tells that the thread is one of the platform's own.
    pub fn add(&self, tid: u32) {
        self.known.lock().insert(tid);
    }

    /// Forgets threads that have ended.
    pub fn remove(&self, tids: impl IntoIterator<Item = u32>) {
        let gone: Vec<u32> = tids.into_iter().collect();
        let mut known = self.known.lock();
        known.retain(|known| !gone.contains(known));
    }

    fn ioctl<T>(&self, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
        // SAFETY: `argument` is the structure that the request reads and writes (the constants above pair them).
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Who may be the caller of an expected notification.
#[derive(Clone, Copy)]
pub enum Caller {
    /// This thread.
    Thread(u32),
    /// A thread that the platform does not know yet: the child of a clone that was just let through.
    New,
}

impl Turn<'_> {
    /// Waits for the call that was commanded. Other notifications get their process killed. `alive` is asked now and
    /// then, so that the death of the caller ends the wait (with `ESRCH`).
    pub fn expect(&self, caller: Caller, number: i64, alive: impl Fn() -> bool) -> io::Result<Notification> {
        let start = Instant::now();
        loop {
            if !alive() || start.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let mut poll =
                libc::pollfd { fd: self.listener.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid pollfd.
            if unsafe { libc::poll(&raw mut poll, 1, 100) } <= 0 {
                continue;
            }
            let mut notification = Notification::default();
            match self.listener.ioctl(RECV, &mut notification) {
                Ok(()) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT | libc::EAGAIN)) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            }
            let known = self.listener.known.lock().contains(&notification.pid);
            let right_caller = match caller {
                Caller::Thread(tid) => tid == notification.pid,
                Caller::New => !known,
            };
            if right_caller && i64::from(notification.number) == number {
                return Ok(notification);
            }
            self.kill(&notification);
        }
    }

    /// Lets the call go on as it is.
    pub fn proceed(&self, notification: &Notification) -> io::Result<()> {
        self.respond(Response { id: notification.id, flags: CONTINUE, ..Response::default() })
    }

    /// Makes the call fail.
    pub fn refuse(&self, notification: &Notification, errno: i32) -> io::Result<()> {
        self.respond(Response { id: notification.id, error: -errno, ..Response::default() })
    }

    /// Whether the caller still waits for its answer (so its pid is still its own).
    pub fn is_valid(&self, notification: &Notification) -> bool {
        let mut id = notification.id;
        self.listener.ioctl(ID_VALID, &mut id).is_ok()
    }

    /// Puts `source` into the caller's descriptor table as `number`.
    pub fn install(
        &self,
        notification: &Notification,
        source: BorrowedFd<'_>,
        number: RawFd,
    ) -> io::Result<()> {
        let mut add = AddFd {
            id: notification.id,
            flags: SETFD,
            source: source.as_raw_fd().cast_unsigned(),
            new: number.cast_unsigned(),
            new_flags: 0,
        };
        self.listener.ioctl(ADDFD, &mut add)
    }

    fn respond(&self, mut response: Response) -> io::Result<()> {
        self.listener.ioctl(SEND, &mut response)
    }

    fn kill(&self, notification: &Notification) {
        tracing::warn!(
            "killing stub thread {}: it made call {} by itself",
            notification.pid,
            notification.number
        );
        if self.is_valid(notification) {
            // SAFETY: kill has no memory effects; the pid is the caller's as long as the notification is valid.
            unsafe { libc::kill(notification.pid.cast_signed(), libc::SIGKILL) };
        }
        let _ = self.refuse(notification, libc::EPERM);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
