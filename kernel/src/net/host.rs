//! Connections to sockets of the host, which the gofer makes.
//!
//! The other end is a process of the host. Bytes and messages go there and come back; files and credentials stay where
//! they are: neither side knows what the other's mean.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::{Errno, SysResult};
use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::address::Name;
use super::message::{Ancillary, Files, Sender};
use super::socket::Kind;
use super::unix::Received;
use crate::error::SyscallResult;
use crate::fs::host_watch::HostWatch;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Events, WaitQueue};

/// The most that one call moves.
const CHUNK: usize = 128 << 10;

/// A connection to a socket of the host.
pub struct HostConnection {
    fd: Arc<OwnedFd>,
    kind: Kind,
    watch: HostWatch,
    /// The name that it was made by.
    name: Name,
    /// Who listens there.
    peer: Sender,
}

impl Drop for HostConnection {
    fn drop(&mut self) {
        // Whoever waits for it by another descriptor is not to keep it alive.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }
}

impl HostConnection {
    /// A connection to `name`; `queue` is woken when something happens.
    pub fn new(fd: OwnedFd, kind: Kind, queue: WaitQueue, name: Name, peer: gofer::Peer) -> HostConnection {
        let fd = Arc::new(fd);
        let watch = HostWatch::waking(Arc::clone(&fd), queue);
        HostConnection { fd, kind, watch, name, peer: Sender::outside(peer.uid, peer.gid) }
    }

    /// The name that it was made by.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Sender {
        self.peer
    }

    /// Somebody waits for these events.
    pub fn expect(&self, events: Events) {
        self.watch.expect(events);
    }

    /// Sends as much as there is room for; of what is no stream, all or nothing.
    pub fn send(&self, from: &mut UserReader<'_>, ancillary: &Ancillary) -> SyscallResult<usize> {
        if !ancillary.files.is_empty() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let length = from.remaining();
        if self.kind != Kind::Stream && length > CHUNK {
            return Err(Errno::EMSGSIZE.into());
        }
        let mut data = vec![0; length.min(CHUNK)];
        let count = from.peek(&mut data)?;
        let sent = rustix::net::send(&self.fd, &data[..count], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let sent = self.or_expect(sent, PollFlags::OUT)?;
        // Only now is it known how much is taken.
        from.read(&mut data[..sent])?;
        Ok(sent)
    }

    /// Receives what there is.
    pub fn receive(&self, to: &mut UserWriter<'_>, peek: bool) -> SyscallResult<Received> {
        let mut data = vec![0; to.remaining().min(CHUNK)];
        let mut flags = RecvFlags::DONTWAIT;
        flags.set(RecvFlags::PEEK, peek);
        // The length of a whole packet; of a stream it would be thrown away.
        flags.set(RecvFlags::TRUNC, self.kind != Kind::Stream);
        let (count, length) =
            self.or_expect(rustix::net::recv(&self.fd, &mut data[..], flags), PollFlags::IN)?;
        let copied = to.write(&data[..count])?;
        let ancillary = Ancillary { files: Files::none(), credentials: self.peer };
        Ok(Received { length, copied, sender: None, ancillary: (length > 0).then_some(ancillary) })
    }

    /// What the host says; what is not there yet is waited for if anybody does.
    fn or_expect<T>(&self, result: rustix::io::Result<T>, events: PollFlags) -> SysResult<T> {
        if matches!(result, Err(rustix::io::Errno::AGAIN)) {
            self.watch.poll(events)?;
        }
        Ok(result?)
    }

    /// `shutdown(2)`.
    pub fn shutdown(&self, receive: bool, send: bool) {
        let how = match (receive, send) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => return,
        };
        let _ = rustix::net::shutdown(&self.fd, how);
    }

    /// How many bytes `FIONREAD` tells.
    pub fn readable_bytes(&self) -> SysResult<usize> {
        Ok(usize::try_from(rustix::io::ioctl_fionread(&self.fd)?).unwrap_or(usize::MAX))
    }

    /// What `poll(2)` tells.
    pub fn readiness(&self) -> Events {
        let all = PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP;
        let found = self.watch.poll(all).unwrap_or(Events::ERR);
        if found.contains(Events::WRITABLE) { found | Events::WRBAND } else { found }
    }
}
