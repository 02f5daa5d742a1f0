//! Whole messages with descriptors over a `SOCK_SEQPACKET` socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::{Errno, SysResult};
use host::rustix::io::retry_on_intr;
use host::rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};

use crate::protocol::MAX_DESCRIPTORS;

/// A pair of connected sockets: the client's end, and the gofer's.
///
/// # Errors
/// Those of `socketpair(2)`.
pub fn pair() -> SysResult<(OwnedFd, OwnedFd)> {
    use host::rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message.
pub fn send_message(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> SysResult<()> {
    let socket = socket.as_fd();
    let sent = if fds.is_empty() {
        retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL))?
    } else {
        let mut space = [MaybeUninit::uninit(); host::rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::EINVAL);
        }
        retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?
    };
    if sent == bytes.len() { Ok(()) } else { Err(Errno::EIO) }
}

/// Receives a message into `buffer`. Returns its length, zero if the other end is gone, and its descriptors; a message
/// that does not fit is `EMSGSIZE`.
pub fn receive_message(socket: impl AsFd, buffer: &mut [u8]) -> SysResult<(usize, Vec<OwnedFd>)> {
    let socket = socket.as_fd();
    let mut space = [MaybeUninit::uninit(); host::rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok((received.bytes, fds))
}
