//! The sandbox's side of the protocol.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::{Errno, SysResult};
use parking_lot::{Condvar, Mutex};

use crate::directory::Directory;
use crate::protocol::{MAX_MESSAGE, Place, Request, VERSION, Welcome};
use crate::server::Mode;
use crate::socket::{receive_message, send_message};
use crate::types::Attributes;
use crate::wire::{Input, List, Wire};

/// Nodes are closed so many at a time.
const CLOSE_BATCH: usize = 64;

/// The connection of a sandbox to the gofer of one container. It has a few channels, each for one request at a time;
/// a request waits for a free one.
pub struct Client {
    idle: Mutex<Vec<Channel>>,
    freed: Condvar,
    /// Nodes that nobody needs any more and the gofer still has.
    unused: Mutex<Vec<u32>>,
    mode: Mode,
    mounts: u32,
    /// Whom files belong to that this process makes itself.
    own: (u32, u32),
}

struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Whoever watches the socket by another descriptor is not to keep it alive.
        let _ = host::rustix::net::shutdown(&self.socket, host::rustix::net::Shutdown::Both);
    }
}

impl Client {
    /// Connects over these sockets, the other ends of which a gofer serves.
    ///
    /// # Errors
    /// `EPROTO` if the gofer speaks another version, `EIO` if it is gone.
    pub fn connect(channels: Vec<OwnedFd>) -> SysResult<Arc<Client>> {
        if channels.is_empty() {
            return Err(Errno::EINVAL);
        }
        let channels = channels.into_iter().map(|socket| Channel { socket, buffer: vec![0; MAX_MESSAGE] });
        let (uid, gid) = (host::rustix::process::geteuid(), host::rustix::process::getegid());
        let mut client = Client {
            idle: Mutex::new(channels.collect()),
            freed: Condvar::new(),
            unused: Mutex::default(),
            mode: Mode::Strict,
            mounts: 0,
            own: (uid.as_raw(), gid.as_raw()),
        };
        let (welcome, _) = client.call::<Welcome>(&Request::Hello { version: VERSION }, &[])?;
        client.mode = if welcome.direct == 0 { Mode::Strict } else { Mode::Direct };
        client.mounts = welcome.mounts;
        Ok(Arc::new(client))
    }

    /// A descriptor that hangs up when the gofer dies, or when the client is dropped.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn hang_up(&self) -> SysResult<OwnedFd> {
        let channel = self.channel();
        let copy = channel.socket.try_clone();
        self.free(channel);
        Ok(copy?)
    }

    /// How many mounts the gofer serves.
    pub fn mounts(&self) -> u32 {
        self.mounts
    }

    /// Whether directories are held here.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whom files belong to that this process makes itself.
    pub(crate) fn own(&self) -> (u32, u32) {
        self.own
    }

    /// The root of a mount, by its number in the order that the gofer was given.
    ///
    /// # Errors
    /// Those of the gofer.
    pub fn attach(self: &Arc<Client>, mount: u32) -> SysResult<(Directory, Attributes)> {
        let ((attributes, follows), fd) = self.call::<(Attributes, u8)>(&Request::Attach { mount }, &[])?;
        let fd = match (self.mode, fd) {
            (Mode::Direct, None) => return Err(Errno::EPROTO),
            (Mode::Direct, fd) => fd,
            (Mode::Strict, _) => None,
        };
        Ok((Directory::of_mount(Arc::clone(self), mount, fd, follows != 0), attributes))
    }

    /// Makes a file without a name in a mount that is for such files, open for reading and writing.
    ///
    /// # Errors
    /// Those of the gofer.
    pub fn create_nameless(&self, mount: u32) -> SysResult<OwnedFd> {
        let ((), fd) = self.call(&Request::CreateNameless { mount }, &[])?;
        fd.ok_or(Errno::EPROTO)
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call<T: for<'a> Wire<'a>>(
        &self,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> SysResult<(T, Option<OwnedFd>)> {
        let mut channel = self.channel();
        let result = exchange(&mut channel, request, fds, self.batch());
        self.free(channel);
        result
    }

    fn free(&self, channel: Channel) {
        self.idle.lock().push(channel);
        self.freed.notify_one();
    }

    fn channel(&self) -> Channel {
        let mut idle = self.idle.lock();
        loop {
            if let Some(channel) = idle.pop() {
                return channel;
            }
            self.freed.wait(&mut idle);
        }
    }

    /// The nodes to be closed now, if they are enough to be worth a message.
    fn batch(&self) -> Vec<u32> {
        let mut unused = self.unused.lock();
        if unused.len() < CLOSE_BATCH { Vec::new() } else { std::mem::take(&mut unused) }
    }

    /// The node is not needed any more.
    pub(crate) fn forget(&self, node: u32) {
        self.unused.lock().push(node);
    }

    /// The node is not needed any more, and must not be held at the gofer either.
    pub(crate) fn close(&self, node: u32) {
        let mut message = Vec::new();
        Request::Close { nodes: List(vec![node]) }.put(&mut message);
        let channel = self.channel();
        // Whatever goes wrong with the socket, the gofer is gone.
        let _ = send_message(&channel.socket, &message, &[]);
        self.free(channel);
    }
}

fn exchange<T: for<'a> Wire<'a>>(
    channel: &mut Channel,
    request: &Request<'_>,
    fds: &[BorrowedFd<'_>],
    closed: Vec<u32>,
) -> SysResult<(T, Option<OwnedFd>)> {
    let mut message = Vec::with_capacity(256);
    for nodes in closed.chunks(MAX_MESSAGE / 8) {
        Request::Close { nodes: List(nodes.to_vec()) }.put(&mut message);
        send_message(&channel.socket, &message, &[]).map_err(|_| Errno::EIO)?;
        message.clear();
    }
    request.put(&mut message);
    if message.len() > MAX_MESSAGE {
        return Err(Errno::E2BIG);
    }
    // Whatever goes wrong with the socket, the gofer is gone.
    send_message(&channel.socket, &message, fds).map_err(|_| Errno::EIO)?;
    let (length, mut received) =
        receive_message(&channel.socket, &mut channel.buffer).map_err(|_| Errno::EIO)?;
    if length == 0 {
        return Err(Errno::EIO);
    }
    let mut input = Input::new(&channel.buffer[..length]);
    match i32::take(&mut input).map_err(|_| Errno::EPROTO)? {
        0 => {}
        error => return Err(Errno::from_raw(error)),
    }
    let value = T::take(&mut input).map_err(|_| Errno::EPROTO)?;
    Ok((value, received.pop()))
}

/// A place in a request, and the descriptors that go with it.
pub(crate) struct Operand<'a> {
    pub place: Place,
    pub fd: Option<BorrowedFd<'a>>,
}
