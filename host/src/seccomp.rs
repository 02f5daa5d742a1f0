//! Seccomp user notification, `seccomp_unotify(2)`: answering system calls of another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::process::check;

/// `struct seccomp_data`: what a filter sees of a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// The system call's number.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    /// Where the instruction lies.
    pub instruction_pointer: u64,
    /// The arguments.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif`: a system call that waits for an answer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Notification {
    /// Names the notification in answers.
    pub id: u64,
    /// The calling thread's id.
    pub thread: u32,
    flags: u32,
    /// The system call.
    pub call: Call,
}

#[repr(C)]
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
    target: u32,
    target_flags: u32,
}

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const FD_SYNC_WAKE_UP: u64 = 1;
const FLAG_CONTINUE: u32 = 1;
const ADDFD_FLAG_SETFD: u32 = 1;
const ADDFD_FLAG_SEND: u32 = 2;

/// The receiving end of a filter's notifications.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Wraps the fd that `seccomp(2)` returned for `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener(fd)
    }

    /// Asks the host to run the other side on the same processor right after each step, which saves a wake-up of an
    /// idle one. `EINVAL` before Linux 6.6.
    pub fn wake_synchronously(&self) -> io::Result<()> {
        // SAFETY: the request takes its argument by value.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SET_FLAGS, FD_SYNC_WAKE_UP) }.into()).map(drop)
    }

    /// Takes the next notification; blocks until there is one. `ENOENT` if its sender was killed meanwhile.
    pub fn receive(&self) -> io::Result<Notification> {
        let mut notification = Notification::default();
        // SAFETY: `notification` has the layout and size that the request's number encodes.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_RECV, &mut notification) }.into())?;
        Ok(notification)
    }

    /// Lets the call proceed as it stands. Only sound when its arguments hold no pointers that matter.
    pub fn proceed(&self, notification: &Notification) -> io::Result<()> {
        self.send(&Response { id: notification.id, value: 0, error: 0, flags: FLAG_CONTINUE })
    }

    /// Makes the call fail with the positive error number `error`.
    pub fn refuse(&self, notification: &Notification, error: i32) -> io::Result<()> {
        self.send(&Response { id: notification.id, value: 0, error: -error, flags: 0 })
    }

    /// Makes the call return `value` without being carried out.
    pub fn answer(&self, notification: &Notification, value: i64) -> io::Result<()> {
        self.send(&Response { id: notification.id, value, error: 0, flags: 0 })
    }

    fn send(&self, response: &Response) -> io::Result<()> {
        // SAFETY: `response` has the layout and size that the request's number encodes.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SEND, response) }.into()).map(drop)
    }

    /// Puts a copy of `fd` in the caller's table, at `number`, replacing what was there.
    pub fn add_fd(&self, notification: &Notification, fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
        self.put_fd(notification, fd, number, ADDFD_FLAG_SETFD)
    }

    /// [`Listener::add_fd`], and makes the call return `number` without being carried out. `EINVAL` before Linux 5.14.
    pub fn answer_with_fd(
        &self,
        notification: &Notification,
        fd: BorrowedFd<'_>,
        number: u32,
    ) -> io::Result<()> {
        self.put_fd(notification, fd, number, ADDFD_FLAG_SETFD | ADDFD_FLAG_SEND)
    }

    fn put_fd(
        &self,
        notification: &Notification,
        fd: BorrowedFd<'_>,
        number: u32,
        flags: u32,
    ) -> io::Result<()> {
        let request = AddFd {
            id: notification.id,
            flags,
            source: fd.as_raw_fd().cast_unsigned(),
            target: number,
            target_flags: libc::O_CLOEXEC.cast_unsigned(),
        };
        // SAFETY: `request` has the layout and size that the request's number encodes.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_ADDFD, &request) }.into()).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
