//! Endpoints of the `AF_UNIX` family and what passes between them, `unix(7)`.
//!
//! An endpoint's messages lie in the inbox of the one that is to receive them. A sender that finds no room leaves its
//! name there and is woken once a quarter or less of what it may send is left.
//!
//! Lock order: no endpoint's lock is held while another's is taken, nor while guest memory is touched, files are closed
//! or somebody is woken.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use parking_lot::{Mutex, MutexGuard};

use super::address::{Address, Name};
use super::host::HostConnection;
use super::message::{Ancillary, Files, Sender};
use super::socket::Kind;
use crate::error::SyscallResult;
use crate::fs::open::make;
use crate::fs::path::Walk;
use crate::fs::permissions::{Access, check};
use crate::fs::{FileType, Inode, NewKind, PathRef};
use crate::syscalls::Fd;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Deadline, Events, WaitQueue};

/// What a message costs beside its data.
const OVERHEAD: usize = 256;
/// The most that one call moves between guest memory and an inbox at a time.
const CHUNK: usize = 128 << 10;
/// Messages of a stream are joined up to this size.
const JOINED: usize = 32 << 10;
/// How many datagrams wait at a socket that is not connected to their sender (`net.unix.max_dgram_qlen`).
const MAX_DATAGRAMS: usize = 10;
/// The longest queue of `listen(2)` (`net.core.somaxconn`).
const MAX_BACKLOG: u32 = 4096;
/// How many names the kernel can choose.
const CHOSEN_NAMES: u32 = 1 << 20;

/// A name that an endpoint is bound to.
pub struct Bound {
    name: Name,
    /// Keeps the file alive that leads here.
    _place: Option<PathRef>,
}

struct Message {
    data: Vec<u8>,
    /// How much of it is read.
    read: usize,
    ancillary: Ancillary,
    sender: Option<Arc<Bound>>,
}

impl Message {
    fn left(&self) -> &[u8] {
        &self.data[self.read..]
    }
}

enum Role {
    /// Nothing yet; datagram sockets stay so unless connected.
    Fresh,
    Connecting,
    Listening {
        backlog: usize,
        pending: VecDeque<Arc<Endpoint>>,
        owner: Identity,
    },
    Connected(Arc<Endpoint>),
    /// Connected to a process of the host.
    Outside(Arc<HostConnection>),
}

/// Whom an address leads to.
pub enum Target {
    /// Somebody in this kernel.
    Inside(Arc<Endpoint>),
    /// A process of the host, to whom a connection has been made.
    Outside(Arc<HostConnection>),
}

/// Who a process was when it made a socket, listened or connected.
#[derive(Clone)]
struct Identity {
    credentials: Sender,
    groups: Arc<[u32]>,
}

impl Identity {
    fn of(task: &CurrentTask) -> Identity {
        let groups = task.credentials().groups.as_slice().into();
        Identity { credentials: Sender::effective(task), groups }
    }
}

/// Someone who found no room in an inbox.
struct Blocked {
    sender: Weak<Endpoint>,
    limit: usize,
}

struct State {
    name: Option<Arc<Bound>>,
    role: Role,
    closed: bool,
    /// Nothing more comes.
    shut_receive: bool,
    /// Nothing more goes.
    shut_send: bool,
    error: Option<Errno>,
    peer: Option<Identity>,
    inbox: VecDeque<Message>,
    inbox_bytes: usize,
    blocked: Vec<Blocked>,
}

impl State {
    /// Whether a sender finds enough room to be told so.
    fn writable(&self, kind: Kind, limit: usize, sender: &Weak<Endpoint>) -> bool {
        self.inbox_bytes * 4 <= limit
            && (kind == Kind::Stream || self.inbox.len() <= MAX_DATAGRAMS || self.is_peer(sender))
    }

    fn is_peer(&self, other: &Weak<Endpoint>) -> bool {
        matches!(&self.role, Role::Connected(peer) if std::ptr::eq(Arc::as_ptr(peer), other.as_ptr()))
    }

    fn block(&mut self, sender: &Arc<Endpoint>, limit: usize) {
        let sender = Arc::downgrade(sender);
        self.blocked.retain(|other| !other.sender.ptr_eq(&sender) && other.sender.strong_count() > 0);
        self.blocked.push(Blocked { sender, limit });
    }
}

/// What a call received.
pub struct Received {
    /// How many bytes there were; more than were copied if a packet did not fit.
    pub length: usize,
    /// How many were copied.
    pub copied: usize,
    /// The sender's name, if it has one.
    pub sender: Option<Arc<Bound>>,
    /// What came along; nothing at the end of a stream.
    pub ancillary: Option<Ancillary>,
}

impl Received {
    fn end() -> Received {
        Received { length: 0, copied: 0, sender: None, ancillary: None }
    }
}

impl Bound {
    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// One side of a conversation, or a listener.
pub struct Endpoint {
    /// Its kind.
    pub kind: Kind,
    state: Mutex<State>,
    binding: Mutex<()>,
    queue: WaitQueue,
}

impl Endpoint {
    fn with(kind: Kind, role: Role, name: Option<Arc<Bound>>) -> Arc<Endpoint> {
        let state = State {
            name,
            role,
            closed: false,
            shut_receive: false,
            shut_send: false,
            error: None,
            peer: None,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            blocked: Vec::new(),
        };
        Arc::new(Endpoint {
            kind,
            state: Mutex::new(state),
            binding: Mutex::new(()),
            queue: WaitQueue::new(),
        })
    }

    /// An endpoint that is neither bound nor connected.
    pub fn new(kind: Kind) -> Arc<Endpoint> {
        Endpoint::with(kind, Role::Fresh, None)
    }

    /// Two endpoints that are connected, `socketpair(2)`.
    pub fn pair(task: &CurrentTask, kind: Kind) -> (Arc<Endpoint>, Arc<Endpoint>) {
        let (one, other) = (Endpoint::new(kind), Endpoint::new(kind));
        for (end, peer) in [(&one, &other), (&other, &one)] {
            let mut state = end.state.lock();
            state.role = Role::Connected(Arc::clone(peer));
            state.peer = Some(Identity::of(task));
        }
        (one, other)
    }

    /// Whom changes wake.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Its name.
    pub fn name(&self) -> Option<Name> {
        self.state.lock().name.as_ref().map(|bound| bound.name.clone())
    }

    /// Whether `listen(2)` was called.
    pub fn is_listening(&self) -> bool {
        matches!(self.state.lock().role, Role::Listening { .. })
    }

    /// Whether it has a peer.
    pub fn is_connected(&self) -> bool {
        matches!(self.state.lock().role, Role::Connected(_) | Role::Outside(_))
    }

    /// The connection to a process of the host, if it has one.
    pub fn outside(&self) -> Option<Arc<HostConnection>> {
        match &self.state.lock().role {
            Role::Outside(connection) => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    fn peer(&self) -> SysResult<Arc<Endpoint>> {
        match &self.state.lock().role {
            Role::Connected(peer) => Ok(Arc::clone(peer)),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// The name of whom it is connected to: `ENOTCONN` if it is not.
    pub fn peer_name(&self, _task: &CurrentTask) -> SysResult<Option<Name>> {
        match self.outside() {
            Some(connection) => Ok(Some(connection.name().clone())),
            None => Ok(self.peer()?.name()),
        }
    }

    /// Who the peer was when the connection was made.
    pub fn peer_credentials(&self) -> Sender {
        self.state.lock().peer.as_ref().map_or(Sender::NONE, |peer| peer.credentials)
    }

    /// The peer's supplementary groups; `None` without a peer.
    pub fn peer_groups(&self) -> Option<Arc<[u32]>> {
        self.state.lock().peer.as_ref().map(|peer| Arc::clone(&peer.groups))
    }

    /// The error that waits to be told, which is then forgotten.
    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// How many bytes `FIONREAD` tells: of a stream all, of other sockets the next packet's. `EINVAL` for a listener.
    pub fn readable_bytes(&self) -> SysResult<usize> {
        if let Some(connection) = self.outside() {
            return connection.readable_bytes();
        }
        let state = self.state.lock();
        if matches!(state.role, Role::Listening { .. }) {
            return Err(Errno::EINVAL);
        }
        Ok(match self.kind {
            Kind::Stream => state.inbox.iter().map(|message| message.left().len()).sum(),
            _ => state.inbox.front().map_or(0, |message| message.left().len()),
        })
    }

    /// How many bytes were sent and are not received yet.
    pub fn unreceived_bytes(&self) -> SysResult<usize> {
        Ok(self.peer().map_or(0, |peer| peer.state.lock().inbox_bytes))
    }

    /// `bind(2)`; `mode` is that of a file that is made.
    pub fn bind(self: &Arc<Self>, task: &CurrentTask, address: Address, mode: u32) -> SyscallResult<()> {
        let _binding = self.binding.lock();
        let bound = self.state.lock().name.is_some();
        let (name, place) = match address {
            Address::Unspecified => return Err(Errno::EINVAL.into()),
            Address::Any if bound => return Ok(()),
            _ if bound => return Err(Errno::EINVAL.into()),
            Address::Any => (self.choose_name(task)?, None),
            Address::Name(Name::Abstract(name)) => {
                if !self.take_name(task, &name) {
                    return Err(Errno::EADDRINUSE.into());
                }
                (Name::Abstract(name), None)
            }
            Address::Name(Name::Path(path)) => {
                let (parent, name, slash) = task.parent_of(Fd::CWD, &path, Errno::EADDRINUSE)?;
                if slash {
                    return Err(Errno::ENOENT.into());
                }
                let place = make(task, &parent, &name, NewKind::Socket, mode).map_err(|error| {
                    if error.is(Errno::EEXIST) { Errno::EADDRINUSE.into() } else { error }
                })?;
                *place.existing()?.common().socket.lock() = Arc::downgrade(self);
                (Name::Path(path), Some(place))
            }
        };
        self.state.lock().name = Some(Arc::new(Bound { name, _place: place }));
        Ok(())
    }

    fn take_name(self: &Arc<Self>, task: &CurrentTask, name: &[u8]) -> bool {
        let mut names = task.kernel.sockets.names.lock();
        let slot = names.entry((self.kind, name.to_vec())).or_default();
        let free = slot.upgrade().is_none_or(|owner| owner.state.lock().closed);
        if free {
            *slot = Arc::downgrade(self);
        }
        free
    }

    /// A free name of the form that the kernel chooses: five hexadecimal digits.
    fn choose_name(self: &Arc<Self>, task: &CurrentTask) -> SysResult<Name> {
        use std::sync::atomic::Ordering;
        for _ in 0..CHOSEN_NAMES {
            let number = task.kernel.sockets.next_name.fetch_add(1, Ordering::Relaxed) % CHOSEN_NAMES;
            let name = format!("{number:05x}").into_bytes();
            if self.take_name(task, &name) {
                return Ok(Name::Abstract(name));
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Gives an abstract name back.
    pub fn release_name(self: &Arc<Self>, sockets: &super::Sockets) {
        if let Some(Name::Abstract(name)) = self.name() {
            let mut names = sockets.names.lock();
            let key = (self.kind, name);
            if names.get(&key).is_some_and(|owner| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(self))) {
                names.remove(&key);
            }
        }
    }

    /// Whom an address leads to: `ECONNREFUSED` if nobody is there, `EAGAIN` if a process of the host has more connections
    /// to accept than it wants.
    pub fn find(&self, task: &CurrentTask, address: &Address) -> SyscallResult<Target> {
        let found = match address {
            Address::Unspecified | Address::Any => return Err(Errno::EINVAL.into()),
            Address::Name(Name::Abstract(name)) => {
                let names = task.kernel.sockets.names.lock();
                names.get(&(self.kind, name.clone())).and_then(Weak::upgrade)
            }
            Address::Name(Name::Path(path)) => {
                let inode = task.resolve(Fd::CWD, path, Walk::FOLLOW)?;
                let inode = inode.existing()?;
                check(inode, &task.credentials(), Access::WRITE)?;
                if inode.file_type() != FileType::Socket {
                    return Err(Errno::ECONNREFUSED.into());
                }
                let found = inode.common().socket.lock().upgrade();
                if found.as_ref().is_none_or(|found| found.state.lock().closed) {
                    return self.find_outside(task, &**inode, path);
                }
                found
            }
        };
        let found = found.filter(|found| !found.state.lock().closed).ok_or(Errno::ECONNREFUSED)?;
        if found.kind == self.kind { Ok(Target::Inside(found)) } else { Err(Errno::EPROTOTYPE.into()) }
    }

    /// Connects to the process of the host that listens at a socket in a volume.
    fn find_outside(&self, task: &CurrentTask, inode: &dyn Inode, path: &[u8]) -> SyscallResult<Target> {
        if self.kind != Kind::Datagram && self.is_connected() {
            return Err(Errno::EISCONN.into());
        }
        let kind = match self.kind {
            Kind::Stream => gofer::SocketKind::Stream,
            Kind::Datagram => gofer::SocketKind::Datagram,
            Kind::Packet => gofer::SocketKind::Packet,
        };
        let credentials = task.credentials();
        let guest = gofer::Guest { uid: credentials.effective_uid, gid: credentials.effective_gid };
        drop(credentials);
        let (fd, peer) = inode.connect(kind, guest)?;
        let name = Name::Path(path.to_vec());
        Ok(Target::Outside(Arc::new(HostConnection::new(fd, self.kind, self.queue.clone(), name, peer))))
    }

    /// `connect(2)` to a process of the host.
    pub fn connect_outside(&self, connection: Arc<HostConnection>) -> SysResult<()> {
        let peer = Identity { credentials: connection.peer(), groups: Arc::default() };
        let mut state = self.state.lock();
        match state.role {
            Role::Fresh => {}
            _ if self.kind == Kind::Datagram => {}
            Role::Connecting => return Err(Errno::EALREADY),
            Role::Connected(_) | Role::Outside(_) => return Err(Errno::EISCONN),
            Role::Listening { .. } => return Err(Errno::EINVAL),
        }
        let before = std::mem::replace(&mut state.role, Role::Outside(connection));
        state.peer = Some(peer);
        drop(state);
        drop(before);
        self.queue.wake(Events::WRITABLE);
        Ok(())
    }

    /// `listen(2)`.
    pub fn listen(&self, task: &CurrentTask, wanted: i32) -> SysResult<()> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let wanted = wanted.cast_unsigned().min(MAX_BACKLOG) as usize;
        let mut state = self.state.lock();
        if state.name.is_none() {
            return Err(Errno::EINVAL);
        }
        match &mut state.role {
            Role::Listening { backlog, .. } => *backlog = wanted,
            role @ Role::Fresh => {
                *role =
                    Role::Listening { backlog: wanted, pending: VecDeque::new(), owner: Identity::of(task) };
            }
            _ => return Err(Errno::EINVAL),
        }
        drop(state);
        self.queue.wake(Events::WRITABLE);
        Ok(())
    }

    /// `accept(2)`: `EAGAIN` if no connection waits.
    pub fn accept(&self) -> SyscallResult<Arc<Endpoint>> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let mut state = self.state.lock();
        let shut = state.shut_receive;
        let Role::Listening { pending, .. } = &mut state.role else { return Err(Errno::EINVAL.into()) };
        let accepted = match pending.pop_front() {
            Some(accepted) => accepted,
            None if shut => return Err(Errno::EINVAL.into()),
            None => return Err(Errno::EAGAIN.into()),
        };
        drop(state);
        self.queue.wake(Events::WRITABLE);
        Ok(accepted)
    }

    /// `connect(2)` of streams and packet sockets: waits for a place in the listener's queue.
    pub fn connect(
        self: &Arc<Self>,
        task: &CurrentTask,
        to: &Arc<Endpoint>,
        until: Deadline,
    ) -> SyscallResult<()> {
        {
            let mut state = self.state.lock();
            match state.role {
                Role::Fresh => state.role = Role::Connecting,
                Role::Connecting => return Err(Errno::EALREADY.into()),
                Role::Connected(_) | Role::Outside(_) => return Err(Errno::EISCONN.into()),
                Role::Listening { .. } => return Err(Errno::EINVAL.into()),
            }
        }
        let result = task.block_on(&to.queue, Events::WRITABLE, until, || to.enqueue(task, self));
        let mut state = self.state.lock();
        match result {
            Ok((server, owner)) => {
                state.role = Role::Connected(server);
                state.peer = Some(owner);
                drop(state);
                to.queue.wake(Events::READABLE);
                self.queue.wake(Events::WRITABLE);
                Ok(())
            }
            Err(error) => {
                state.role = Role::Fresh;
                Err(error)
            }
        }
    }

    /// Puts a connection from `client` into a listener's queue. Returns the server's end, and who listens.
    fn enqueue(
        &self,
        task: &CurrentTask,
        client: &Arc<Endpoint>,
    ) -> SyscallResult<(Arc<Endpoint>, Identity)> {
        let mut state = self.state.lock();
        let name = state.name.clone();
        let refused = state.closed || state.shut_receive;
        match &mut state.role {
            Role::Listening { backlog, pending, owner } if !refused => {
                if pending.len() > *backlog {
                    return Err(Errno::EAGAIN.into());
                }
                let server = Endpoint::with(self.kind, Role::Connected(Arc::clone(client)), name);
                server.state.lock().peer = Some(Identity::of(task));
                pending.push_back(Arc::clone(&server));
                Ok((server, owner.clone()))
            }
            _ => Err(Errno::ECONNREFUSED.into()),
        }
    }

    /// `connect(2)` of datagram sockets: sets where messages go and whose are taken, or with `None` forgets it.
    pub fn set_peer(self: &Arc<Self>, to: Option<Arc<Endpoint>>) -> SysResult<()> {
        let role = match to {
            None => Role::Fresh,
            Some(to) => {
                to.check_sender(&to.state.lock(), self)?;
                Role::Connected(to)
            }
        };
        let before = std::mem::replace(&mut self.state.lock().role, role);
        drop(before);
        self.queue.wake(Events::WRITABLE);
        Ok(())
    }

    /// `EPERM` if the endpoint is connected to somebody else than `sender`.
    fn check_sender(&self, state: &State, sender: &Arc<Endpoint>) -> SysResult<()> {
        match &state.role {
            Role::Connected(peer) if !Arc::ptr_eq(peer, sender) => Err(Errno::EPERM),
            Role::Outside(_) => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    /// Sends as much as there is room for in the peer's inbox; `EAGAIN` if there is none. What comes along goes with
    /// the first byte.
    pub fn send_stream(
        self: &Arc<Self>,
        limit: usize,
        from: &mut UserReader<'_>,
        ancillary: &mut Ancillary,
    ) -> SyscallResult<usize> {
        if let Some(connection) = self.outside() {
            return connection.send(from, ancillary);
        }
        let peer = self.peer()?;
        if self.state.lock().shut_send {
            return Err(Errno::EPIPE.into());
        }
        if from.remaining() == 0 {
            return Ok(0);
        }
        let room = {
            let mut state = peer.state.lock();
            if state.closed || state.shut_receive {
                return Err(Errno::EPIPE.into());
            }
            let room = limit.saturating_sub(state.inbox_bytes);
            if room == 0 {
                state.block(self, limit);
                return Err(Errno::EAGAIN.into());
            }
            room
        };
        let mut data = vec![0; from.remaining().min(room).min(CHUNK)];
        let count = from.read(&mut data)?;
        data.truncate(count);
        let sender = self.state.lock().name.clone();
        let files = std::mem::take(&mut ancillary.files);
        let ancillary = Ancillary { files, credentials: ancillary.credentials };
        peer.push(Message { data, read: 0, ancillary, sender })?;
        Ok(count)
    }

    /// Sends a packet to `to`, or to the peer; `EAGAIN` if there is no room for it.
    pub fn send_packet(
        self: &Arc<Self>,
        to: Option<&Target>,
        limit: usize,
        from: &mut UserReader<'_>,
        ancillary: &mut Ancillary,
    ) -> SyscallResult<usize> {
        let peer = match (to, self.outside()) {
            (Some(Target::Outside(connection)), _) => return connection.send(from, ancillary),
            (Some(Target::Inside(to)), _) => Arc::clone(to),
            (None, Some(connection)) => return connection.send(from, ancillary),
            (None, None) => self.peer()?,
        };
        let length = from.remaining();
        if length + 32 > limit {
            return Err(Errno::EMSGSIZE.into());
        }
        let (shut, sender) = {
            let state = self.state.lock();
            (state.shut_send, state.name.clone())
        };
        if shut {
            return Err(Errno::EPIPE.into());
        }
        let refused = {
            let mut state = peer.state.lock();
            if !state.closed {
                peer.check_sender(&state, self)?;
                if state.shut_receive {
                    return Err(Errno::EPIPE.into());
                }
                let mutual = state.is_peer(&Arc::downgrade(self));
                let full = state.inbox_bytes > 0 && state.inbox_bytes + length + OVERHEAD > limit;
                if full || (!mutual && state.inbox.len() > MAX_DATAGRAMS) {
                    state.block(self, limit);
                    return Err(Errno::EAGAIN.into());
                }
            }
            state.closed
        };
        if refused {
            if self.kind == Kind::Packet {
                return Err(Errno::EPIPE.into());
            }
            let mut state = self.state.lock();
            let before = state
                .is_peer(&Arc::downgrade(&peer))
                .then(|| std::mem::replace(&mut state.role, Role::Fresh));
            drop(state);
            drop(before);
            return Err(Errno::ECONNREFUSED.into());
        }
        let data = from.read_all()?;
        let files = std::mem::take(&mut ancillary.files);
        let ancillary = Ancillary { files, credentials: ancillary.credentials };
        peer.push(Message { data, read: 0, ancillary, sender })?;
        Ok(length)
    }

    fn push(&self, message: Message) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.closed || state.shut_receive {
            drop(state);
            return Err(if self.kind == Kind::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE });
        }
        let joined = match state.inbox.back_mut() {
            Some(last)
                if self.kind == Kind::Stream
                    && last.ancillary.files.is_empty()
                    && message.ancillary.files.is_empty()
                    && last.ancillary.credentials == message.ancillary.credentials
                    && last.data.len() + message.data.len() <= JOINED =>
            {
                last.data.extend(&message.data);
                true
            }
            _ => false,
        };
        state.inbox_bytes += message.data.len();
        if !joined {
            state.inbox_bytes += OVERHEAD;
            state.inbox.push_back(message);
        }
        drop(state);
        self.queue.wake(Events::READABLE);
        Ok(())
    }

    /// Those who wait for room and have it now.
    fn unblocked(&self, state: &mut State) -> Vec<Arc<Endpoint>> {
        if state.blocked.is_empty() {
            return Vec::new();
        }
        let blocked = std::mem::take(&mut state.blocked);
        let (ready, rest): (Vec<_>, Vec<_>) = blocked
            .into_iter()
            .partition(|one| state.closed || state.writable(self.kind, one.limit, &one.sender));
        state.blocked = rest;
        ready.iter().filter_map(|one| one.sender.upgrade()).collect()
    }

    /// Ends a change of the inbox that made room.
    fn made_room(&self, mut state: MutexGuard<'_, State>) {
        let ready = self.unblocked(&mut state);
        drop(state);
        for sender in ready {
            sender.queue.wake(Events::WRITABLE);
        }
    }

    /// Receives what there is; `EAGAIN` if there is nothing. With `peek` it stays. `apart` keeps what different
    /// processes have sent to a stream apart.
    pub fn receive(&self, to: &mut UserWriter<'_>, peek: bool, apart: bool) -> SyscallResult<Received> {
        if let Some(connection) = self.outside() {
            return connection.receive(to, peek);
        }
        let mut state = self.state.lock();
        match (self.kind, &state.role) {
            (Kind::Stream, Role::Fresh | Role::Connecting | Role::Listening { .. }) => {
                return Err(Errno::EINVAL.into());
            }
            (Kind::Packet, Role::Fresh | Role::Connecting | Role::Listening { .. }) => {
                return Err(Errno::ENOTCONN.into());
            }
            _ => {}
        }
        if state.inbox.is_empty() {
            if let Some(error) = state.error.take() {
                return Err(error.into());
            }
            return if state.shut_receive { Ok(Received::end()) } else { Err(Errno::EAGAIN.into()) };
        }
        match self.kind {
            Kind::Stream => self.receive_stream(state, to, peek, apart),
            Kind::Datagram | Kind::Packet => self.receive_packet(state, to, peek),
        }
    }

    fn receive_stream(
        &self,
        mut state: MutexGuard<'_, State>,
        to: &mut UserWriter<'_>,
        peek: bool,
        apart: bool,
    ) -> SyscallResult<Received> {
        let mut wanted = to.remaining().min(CHUNK);
        let mut data = Vec::new();
        let mut files = Files::none();
        let (mut credentials, mut sender) = (Sender::NONE, None);
        let mut index = 0;
        while let Some(message) = state.inbox.get_mut(index) {
            if index == 0 && data.is_empty() {
                credentials = message.ancillary.credentials;
                sender.clone_from(&message.sender);
            } else if wanted == 0 || (apart && message.ancillary.credentials != credentials) {
                break;
            }
            let count = message.left().len().min(wanted);
            data.extend(&message.left()[..count]);
            wanted -= count;
            let carries = !message.ancillary.files.is_empty();
            if peek {
                if carries {
                    files = message.ancillary.files.duplicate();
                    break;
                }
                index += 1;
                continue;
            }
            message.read += count;
            if carries {
                files = std::mem::take(&mut message.ancillary.files);
            }
            let rest = !message.left().is_empty();
            state.inbox_bytes -= count;
            if rest {
                break;
            }
            state.inbox_bytes -= OVERHEAD;
            state.inbox.pop_front();
            if carries {
                break;
            }
        }
        if peek {
            drop(state);
        } else {
            self.made_room(state);
        }
        let result = to.write(&data);
        let copied = result.unwrap_or(0);
        if copied < data.len() && !peek {
            // What could not be delivered was not read.
            let rest = Message {
                data: data.split_off(copied),
                read: 0,
                ancillary: Ancillary { files: Files::none(), credentials },
                sender: sender.clone(),
            };
            let mut state = self.state.lock();
            state.inbox_bytes += rest.data.len() + OVERHEAD;
            state.inbox.push_front(rest);
        }
        result?;
        Ok(Received { length: copied, copied, sender, ancillary: Some(Ancillary { files, credentials }) })
    }

    fn receive_packet(
        &self,
        mut state: MutexGuard<'_, State>,
        to: &mut UserWriter<'_>,
        peek: bool,
    ) -> SyscallResult<Received> {
        let wanted = to.remaining();
        if peek && let Some(message) = state.inbox.front() {
            let data = message.data[..message.data.len().min(wanted)].to_vec();
            let length = message.data.len();
            let files = message.ancillary.files.duplicate();
            let credentials = message.ancillary.credentials;
            let sender = message.sender.clone();
            drop(state);
            let copied = to.write(&data)?;
            let ancillary = Some(Ancillary { files, credentials });
            return Ok(Received { length, copied, sender, ancillary });
        }
        let Some(message) = state.inbox.pop_front() else { return Err(Errno::EAGAIN.into()) };
        state.inbox_bytes -= message.data.len() + OVERHEAD;
        self.made_room(state);
        let length = message.data.len();
        let copied = to.write(&message.data[..length.min(wanted)])?;
        Ok(Received { length, copied, sender: message.sender, ancillary: Some(message.ancillary) })
    }

    /// `shutdown(2)` of one direction or both.
    pub fn shutdown(&self, receive: bool, send: bool) {
        if let Some(connection) = self.outside() {
            connection.shutdown(receive, send);
        }
        let peer = {
            let mut state = self.state.lock();
            state.shut_receive |= receive;
            state.shut_send |= send;
            match &state.role {
                Role::Connected(peer) if self.kind != Kind::Datagram => Some(Arc::clone(peer)),
                _ => None,
            }
        };
        self.queue.wake(Events::all());
        if let Some(peer) = peer {
            peer.hang_up(send, receive, None);
        }
    }

    /// The other side has ended a direction or both.
    fn hang_up(&self, receive: bool, send: bool, error: Option<Errno>) {
        let mut state = self.state.lock();
        state.shut_receive |= receive;
        state.shut_send |= send;
        if error.is_some() {
            state.error = error;
        }
        drop(state);
        self.queue.wake(Events::all());
    }

    /// Ends it: the last descriptor is closed, or (`refused`) the connection was never accepted.
    pub fn close(self: &Arc<Self>, refused: bool) {
        let mut state = self.state.lock();
        state.closed = true;
        state.shut_receive = true;
        state.shut_send = true;
        let role = std::mem::replace(&mut state.role, Role::Fresh);
        let inbox = std::mem::take(&mut state.inbox);
        state.inbox_bytes = 0;
        let name = state.name.take();
        self.made_room(state);
        self.queue.wake(Events::all());
        match role {
            Role::Connected(peer) if self.kind != Kind::Datagram => {
                let lost = refused || !inbox.is_empty();
                peer.hang_up(true, true, lost.then_some(Errno::ECONNRESET));
            }
            Role::Listening { pending, .. } => pending.iter().for_each(|server| server.close(true)),
            _ => {}
        }
        drop((inbox, name));
    }

    /// What `poll(2)` tells; `limit` is what may be on its way from here.
    pub fn readiness(self: &Arc<Self>, limit: usize) -> Events {
        if let Some(connection) = self.outside() {
            return connection.readiness();
        }
        let mut events = Events::empty();
        let peer = {
            let state = self.state.lock();
            events.set(Events::ERR, state.error.is_some());
            events.set(Events::HUP, state.shut_receive && state.shut_send);
            events.set(Events::RDHUP | Events::READABLE, state.shut_receive);
            if !state.inbox.is_empty() {
                events |= Events::READABLE;
            }
            match &state.role {
                Role::Listening { pending, .. } => {
                    if !pending.is_empty() {
                        events |= Events::READABLE;
                    }
                    return events;
                }
                Role::Connected(peer) => Some(Arc::clone(peer)),
                Role::Outside(_) => None,
                Role::Fresh | Role::Connecting => {
                    if self.kind != Kind::Datagram && !state.closed {
                        events |= Events::HUP;
                    }
                    None
                }
            }
        };
        let writable = peer.is_none_or(|peer| {
            let mut state = peer.state.lock();
            let writable = state.closed || state.writable(self.kind, limit, &Arc::downgrade(self));
            if !writable {
                state.block(self, limit);
            }
            writable
        });
        if writable {
            events |= Events::WRITABLE | Events::WRBAND;
        }
        events
    }
}
