//! Connections to sockets of the host that lie in a mount, for guests that may use them.
//!
//! `connect(2)` knows a socket by its path only, and follows links on it. So the file is opened first as all others are,
//! below the mount and without following anything, and what `connect(2)` gets is the way to that descriptor.

use std::os::fd::{AsRawFd, OwnedFd};

use abi::fs::{S_IFMT, S_IFSOCK};
use abi::{Errno, SysResult};
use host::rustix::fs::fstat;
use host::rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use host::rustix::process::{Gid, Uid, getgid, getuid};
use host::rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::local::Local;
use crate::types::{Guest, Peer, SocketKind, Target};

/// Which sockets of the host a guest may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// None: `ECONNREFUSED`.
    #[default]
    None,
    /// Those in its mounts that somebody listens at.
    Connect,
}

/// What makes connections.
#[derive(Clone, Copy, Debug)]
pub struct Connector {
    /// The directory that has a link to each descriptor of this process.
    pub descriptors: &'static str,
    /// Whom servers see.
    pub seen: Seen,
}

/// Whom a server sees at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The guest's user and group.
    Guest,
    /// Those of this process, which may not take others.
    Own,
}

impl Connector {
    /// Connects to a socket as a guest. The connection does not wait, and neither does this: `EAGAIN`.
    pub fn connect(
        self,
        local: &Local<'_>,
        target: Target<'_>,
        kind: SocketKind,
        guest: Guest,
    ) -> SysResult<(OwnedFd, Peer)> {
        let file = local.open_path(target)?;
        if fstat(&file)?.st_mode & S_IFMT != S_IFSOCK {
            return Err(Errno::ECONNREFUSED);
        }
        let address = SocketAddrUnix::new(format!("{}/{}", self.descriptors, file.as_raw_fd()))?;
        let kind = match kind {
            SocketKind::Stream => SocketType::STREAM,
            SocketKind::Datagram => SocketType::DGRAM,
            SocketKind::Packet => SocketType::SEQPACKET,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        let connected = || Ok(connect(&socket, &address)?);
        match self.seen {
            Seen::Own => connected()?,
            Seen::Guest => as_guest(guest, connected)?,
        }
        let (uid, gid) = host::socket::peer(&socket).unwrap_or((u32::MAX, u32::MAX));
        Ok((socket, Peer { uid, gid }))
    }
}

/// Runs an operation with the guest's ids as this thread's effective ones; its capabilities stay.
fn as_guest(guest: Guest, operation: impl FnOnce() -> SysResult<()>) -> SysResult<()> {
    // The host takes -1 for "as it is".
    if guest.uid == u32::MAX || guest.gid == u32::MAX {
        return Err(Errno::EINVAL);
    }
    let (uid, gid) = (getuid(), getgid());
    set_thread_res_gid(gid, Gid::from_raw(guest.gid), gid)?;
    let result = set_thread_res_uid(uid, Uid::from_raw(guest.uid), uid)
        .map_err(Errno::from)
        .and_then(|()| operation());
    let restored = set_thread_res_uid(uid, uid, uid).and_then(|()| set_thread_res_gid(gid, gid, gid));
    if restored.is_err() {
        // Whoever comes next must not act as somebody else.
        std::process::exit(1);
    }
    result
}
