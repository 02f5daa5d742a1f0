//! Entering namespaces of other processes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::namespace::check;

/// Moves the calling thread, and no other, into a mount namespace. Its root and working directory become those of the
/// namespace; children that it spawns are born there. There is no way back: use a thread that ends afterwards.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` and `CAP_SYS_CHROOT`; `EINVAL` if it is no mount namespace.
pub fn mount_namespace_of_thread(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers only; what the thread no longer shares is its root, working directory and umask.
    unsafe {
        check(libc::unshare(libc::CLONE_FS).into())?;
        check(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS).into()).map(drop)
    }
}

/// Gives the calling thread, and no other, a copy of its mount namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn new_mount_namespace() -> io::Result<()> {
    // SAFETY: takes a number only; what the thread no longer shares is its root, working directory and umask.
    unsafe { check(libc::unshare(libc::CLONE_NEWNS).into()).map(drop) }
}
