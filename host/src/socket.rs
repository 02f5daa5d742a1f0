//! Sockets: what rustix lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::process::check;

/// The user and group of the other end of a Unix socket, as they were when the connection was made.
pub fn peer(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let place = (&raw mut credentials).cast();
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: `place` is that of `credentials`, of the length that is given.
    let result = unsafe { libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &mut length) };
    check(result.into())?;
    Ok((credentials.uid, credentials.gid))
}
