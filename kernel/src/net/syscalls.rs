//! System calls on sockets.

use std::sync::Arc;
use std::time::Duration;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use zerocopy::IntoBytes;

use super::address::{self, Address};
use super::message::{Ancillary, MessageHeader};
use super::options::{self, Options, SOL_SOCKET, Switches};
use super::socket::{Kind, Socket};
use super::unix::{Endpoint, Received, Target};
use crate::error::{SysError, SyscallResult};
use crate::fs::File;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::{IoVec, MAX_RW_COUNT, UserPtr, UserReader, UserWriter};
use crate::wait::{Deadline, Events};

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_CTRUNC: u32 = 8;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_EOR: u32 = 0x80;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_WAITFORONE: u32 = 0x1_0000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// The most messages that `sendmmsg(2)` and `recvmmsg(2)` move at once.
const MAX_MESSAGES: u32 = 1024;
/// The most buffers of a message.
const MAX_VECTORS: u64 = 1024;

/// An open socket: `ENOTSOCK` for other files.
struct Open(Arc<File>);

impl Open {
    fn get(task: &CurrentTask, fd: Fd) -> SyscallResult<Open> {
        let file = task.file(fd)?;
        if file.ops().downcast_ref::<Socket>().is_none() {
            return Err(Errno::ENOTSOCK.into());
        }
        Ok(Open(file))
    }

    fn socket(&self) -> SyscallResult<&Socket> {
        Ok(self.0.ops().downcast_ref::<Socket>().ok_or(Errno::ENOTSOCK)?)
    }

    /// Runs an operation until it need not wait any more: by the file's flags, the call's and the socket's time limit.
    fn wait<T>(
        &self,
        task: &CurrentTask,
        events: Events,
        flags: u32,
        operation: impl FnMut() -> SyscallResult<T>,
    ) -> SyscallResult<T> {
        let deadline = if flags & MSG_DONTWAIT != 0 { Deadline::Now } else { self.0.deadline_for(events) };
        match task.block_on(&*self.0, events, deadline, operation) {
            // With a time limit an interrupted call does not start again, signal(7).
            Err(SysError::Restart(_)) if matches!(deadline, Deadline::At(_)) => Err(Errno::EINTR.into()),
            result => result,
        }
    }
}

/// The kind and the flags of a new socket.
fn parse_kind(family: i32, kind: i32, protocol: i32) -> SyscallResult<(Kind, OpenFlags)> {
    const KIND: u32 = 0xf;
    let flags = OpenFlags::from_bits_retain(kind.cast_unsigned() & !KIND);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    if family != i32::from(address::AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    if protocol != 0 && protocol != family {
        return Err(Errno::EPROTONOSUPPORT.into());
    }
    let kind = match kind.cast_unsigned() & KIND {
        1 => Kind::Stream,
        2 | 3 => Kind::Datagram,
        5 => Kind::Packet,
        4 | 6..=10 => return Err(Errno::ESOCKTNOSUPPORT.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok((kind, flags))
}

/// `socket(2)`.
pub fn socket(task: &CurrentTask, family: i32, kind: i32, protocol: i32) -> SyscallResult<Fd> {
    let (kind, flags) = parse_kind(family, kind, protocol)?;
    let file = Socket::open(task, Endpoint::new(kind), Options::default(), flags);
    Ok(task.install(file, flags.contains(OpenFlags::CLOEXEC))?)
}

/// `socketpair(2)`.
pub fn socketpair(
    task: &CurrentTask,
    family: i32,
    kind: i32,
    protocol: i32,
    fds: UserPtr<[i32; 2]>,
) -> SyscallResult<()> {
    let (kind, flags) = parse_kind(family, kind, protocol)?;
    let (one, other) = Endpoint::pair(task, kind);
    let close = flags.contains(OpenFlags::CLOEXEC);
    let one = Socket::open(task, one, Options::default(), flags);
    let other = Socket::open(task, other, Options::default(), flags);
    let one = task.install(one, close)?;
    let written = task.install(other, close).and_then(|other| {
        let pair = [one.0, other.0];
        task.write_object(fds, &pair).inspect_err(|_| drop(task.files().remove(other)))
    });
    if let Err(error) = written {
        drop(task.files().remove(one));
        return Err(error.into());
    }
    Ok(())
}

/// `bind(2)`.
pub fn bind(task: &CurrentTask, fd: Fd, name: u64, length: u32) -> SyscallResult<()> {
    let open = Open::get(task, fd)?;
    let socket = open.socket()?;
    let address = Address::read(task, name, length)?;
    socket.endpoint.bind(task, address, socket.mode())
}

/// `listen(2)`.
pub fn listen(task: &CurrentTask, fd: Fd, backlog: i32) -> SyscallResult<()> {
    Ok(Open::get(task, fd)?.socket()?.endpoint.listen(task, backlog)?)
}

/// `connect(2)`.
pub fn connect(task: &CurrentTask, fd: Fd, name: u64, length: u32) -> SyscallResult<()> {
    let open = Open::get(task, fd)?;
    let endpoint = &open.socket()?.endpoint;
    let address = Address::read(task, name, length)?;
    if endpoint.kind == Kind::Datagram {
        let peer = match address {
            Address::Unspecified => None,
            address => match endpoint.find(task, &address)? {
                Target::Inside(peer) => Some(peer),
                Target::Outside(connection) => return Ok(endpoint.connect_outside(connection)?),
            },
        };
        return Ok(endpoint.set_peer(peer)?);
    }
    let deadline = open.0.deadline_for(Events::WRITABLE);
    let connected = find(task, endpoint, &address, deadline).and_then(|target| match target {
        Target::Inside(listener) => endpoint.connect(task, &listener, deadline),
        Target::Outside(connection) => Ok(endpoint.connect_outside(connection)?),
    });
    match connected {
        Err(SysError::Restart(_)) if matches!(deadline, Deadline::At(_)) => Err(Errno::EINTR.into()),
        result => result,
    }
}

/// Whom an address leads to, however long it takes a process of the host to have room for another connection.
fn find(
    task: &CurrentTask,
    endpoint: &Endpoint,
    address: &Address,
    deadline: Deadline,
) -> SyscallResult<Target> {
    const PAUSE: Duration = Duration::from_millis(10);
    loop {
        match endpoint.find(task, address) {
            Err(error) if error.is(Errno::EAGAIN) && !deadline.passed() => {}
            found => return found,
        }
        let left = deadline.remaining().map_or(PAUSE, |left| left.min(PAUSE));
        task.sleep_until(Deadline::after(left))?;
    }
}

/// `accept4(2)`.
pub fn accept4(
    task: &CurrentTask,
    fd: Fd,
    name: u64,
    length: UserPtr<i32>,
    flags: Flags,
) -> SyscallResult<Fd> {
    let flags = OpenFlags::from_bits_retain(flags.0);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let open = Open::get(task, fd)?;
    let listener = open.socket()?;
    let endpoint = open.wait(task, Events::READABLE, 0, || listener.endpoint.accept())?;
    let peer = endpoint.peer_name(task).ok().flatten();
    let inherited = listener.options.lock().switches & (Switches::PASSCRED | Switches::PASSSEC);
    let options = Options { switches: inherited, ..Options::default() };
    let file = Socket::open(task, endpoint, options, flags);
    if name != 0 {
        address::write(task, &address::encode(peer.as_ref()), name, length)?;
    }
    Ok(task.install(file, flags.contains(OpenFlags::CLOEXEC))?)
}

/// `accept(2)`.
pub fn accept(task: &CurrentTask, fd: Fd, name: u64, length: UserPtr<i32>) -> SyscallResult<Fd> {
    accept4(task, fd, name, length, Flags(0))
}

/// `getsockname(2)`.
pub fn getsockname(task: &CurrentTask, fd: Fd, name: u64, length: UserPtr<i32>) -> SyscallResult<()> {
    let own = Open::get(task, fd)?.socket()?.endpoint.name();
    Ok(address::write(task, &address::encode(own.as_ref()), name, length)?)
}

/// `getpeername(2)`.
pub fn getpeername(task: &CurrentTask, fd: Fd, name: u64, length: UserPtr<i32>) -> SyscallResult<()> {
    let peer = Open::get(task, fd)?.socket()?.endpoint.peer_name(task)?;
    Ok(address::write(task, &address::encode(peer.as_ref()), name, length)?)
}

/// `shutdown(2)`.
pub fn shutdown(task: &CurrentTask, fd: Fd, how: i32) -> SyscallResult<()> {
    let open = Open::get(task, fd)?;
    if !(0..=2).contains(&how) {
        return Err(Errno::EINVAL.into());
    }
    open.socket()?.endpoint.shutdown(how != 1, how != 0);
    Ok(())
}

/// `getsockopt(2)`.
pub fn getsockopt(
    task: &CurrentTask,
    fd: Fd,
    level: i32,
    option: i32,
    value: u64,
    length: UserPtr<i32>,
) -> SyscallResult<()> {
    let open = Open::get(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let room = usize::try_from(task.read_object(length)?).map_err(|_| Errno::EINVAL)?;
    let bytes = options::get(task, open.socket()?, option)?;
    let fitting = bytes.len().min(room);
    task.write_bytes(value, &bytes[..fitting])?;
    Ok(task.write_object(length, &i32::try_from(fitting).unwrap_or(i32::MAX))?)
}

/// `setsockopt(2)`.
pub fn setsockopt(
    task: &CurrentTask,
    fd: Fd,
    level: i32,
    option: i32,
    value: u64,
    length: u32,
) -> SyscallResult<()> {
    let open = Open::get(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    options::set(task, open.socket()?, option, value, length)
}

/// Sends a message: a stream's goes on until all is sent, a signal or an error after the first byte ends it.
fn send(
    task: &CurrentTask,
    open: &Open,
    from: &mut UserReader<'_>,
    to: Option<Address>,
    mut ancillary: Ancillary,
    flags: u32,
) -> SyscallResult<usize> {
    let socket = open.socket()?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let target = match (socket.kind(), to) {
        (Kind::Stream, Some(_)) => {
            let connected = socket.endpoint.peer_name(task).is_ok();
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP }.into());
        }
        (Kind::Datagram, Some(address)) => Some(socket.endpoint.find(task, &address)?),
        _ => None,
    };
    let quiet = flags & MSG_NOSIGNAL != 0;
    loop {
        let before = from.taken();
        let result = open.wait(task, Events::WRITABLE, flags, || {
            socket.send(task, target.as_ref(), from, &mut ancillary, quiet)
        });
        match result {
            Ok(_) if socket.kind() == Kind::Stream && from.remaining() > 0 && from.taken() > before => {}
            Ok(_) => return Ok(from.taken()),
            Err(_) if socket.kind() == Kind::Stream && from.taken() > 0 => return Ok(from.taken()),
            Err(error) => return Err(error),
        }
    }
}

/// Receives a message; with `MSG_WAITALL` a stream's until the buffers are full.
fn receive(task: &CurrentTask, open: &Open, to: &mut UserWriter<'_>, flags: u32) -> SyscallResult<Received> {
    let socket = open.socket()?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let peek = flags & MSG_PEEK != 0;
    let mut first: Option<Received> = None;
    loop {
        match open.wait(task, Events::READABLE, flags, || socket.receive(to, peek)) {
            Ok(next) => {
                let ended =
                    next.copied == 0 || next.ancillary.as_ref().is_some_and(|with| !with.files.is_empty());
                let received = match first.take() {
                    None => next,
                    Some(before) => Received {
                        length: before.length + next.length,
                        copied: before.copied + next.copied,
                        ancillary: if ended && next.copied > 0 { next.ancillary } else { before.ancillary },
                        ..before
                    },
                };
                let all = flags & MSG_WAITALL != 0 && !peek && socket.kind() == Kind::Stream;
                if !all || ended || to.remaining() == 0 {
                    return Ok(received);
                }
                first = Some(received);
            }
            Err(error) => return first.ok_or(error),
        }
    }
}

/// What a receiving call returns: the whole length of a packet if that is asked for.
fn returned(received: &Received, flags: u32) -> usize {
    if flags & MSG_TRUNC != 0 { received.length } else { received.copied }
}

/// `sendto(2)`.
pub fn sendto(
    task: &CurrentTask,
    fd: Fd,
    buffer: u64,
    length: usize,
    flags: Flags,
    name: u64,
    name_length: u32,
) -> SyscallResult<usize> {
    let open = Open::get(task, fd)?;
    let to = if name == 0 { None } else { Some(Address::read(task, name, name_length)?) };
    send(
        task,
        &open,
        &mut task.reader(buffer, length.min(MAX_RW_COUNT))?,
        to,
        Ancillary::plain(task),
        flags.0,
    )
}

/// `recvfrom(2)`.
pub fn recvfrom(
    task: &CurrentTask,
    fd: Fd,
    buffer: u64,
    length: usize,
    flags: Flags,
    name: u64,
    name_length: UserPtr<i32>,
) -> SyscallResult<usize> {
    let open = Open::get(task, fd)?;
    let received = receive(task, &open, &mut task.writer(buffer, length.min(MAX_RW_COUNT))?, flags.0)?;
    if name != 0 {
        let encoded =
            received.sender.as_ref().map_or_else(Vec::new, |sender| address::encode(Some(sender.name())));
        address::write(task, &encoded, name, name_length)?;
    }
    Ok(returned(&received, flags.0))
}

fn vectors(task: &CurrentTask, header: &MessageHeader) -> SyscallResult<Vec<IoVec>> {
    if header.vector_count > MAX_VECTORS {
        return Err(Errno::EMSGSIZE.into());
    }
    Ok(task.read_iovecs(UserPtr::new(header.vectors), header.vector_count as usize)?)
}

fn send_message(task: &CurrentTask, open: &Open, header: &MessageHeader, flags: u32) -> SyscallResult<usize> {
    let length = u32::try_from(header.name_length).map_err(|_| Errno::EINVAL)?;
    let to =
        if header.name == 0 || length == 0 { None } else { Some(Address::read(task, header.name, length)?) };
    let vectors = vectors(task, header)?;
    let ancillary = Ancillary::read(task, header)?;
    send(task, open, &mut UserReader::guest(task, vectors), to, ancillary, flags)
}

/// `sendmsg(2)`.
pub fn sendmsg(
    task: &CurrentTask,
    fd: Fd,
    message: UserPtr<MessageHeader>,
    flags: Flags,
) -> SyscallResult<usize> {
    let open = Open::get(task, fd)?;
    send_message(task, &open, &task.read_object(message)?, flags.0)
}

fn receive_message(
    task: &CurrentTask,
    open: &Open,
    message: UserPtr<MessageHeader>,
    flags: u32,
) -> SyscallResult<(MessageHeader, usize)> {
    let mut header = task.read_object(message)?;
    let room = usize::try_from(header.name_length).map_err(|_| Errno::EINVAL)?;
    let mut to = UserWriter::guest(task, vectors(task, &header)?);
    let received = receive(task, open, &mut to, flags)?;
    let socket = open.socket()?;
    if header.name != 0 {
        let encoded =
            received.sender.as_ref().map_or_else(Vec::new, |sender| address::encode(Some(sender.name())));
        task.write_bytes(header.name, &encoded[..encoded.len().min(room)])?;
        header.name_length = encoded.len() as i32;
    }
    header.flags = flags & MSG_CMSG_CLOEXEC;
    if received.copied < received.length {
        header.flags |= MSG_TRUNC;
    }
    if socket.kind() == Kind::Packet && received.ancillary.is_some() {
        header.flags |= MSG_EOR;
    }
    let credentials = socket.options.lock().switches.contains(Switches::PASSCRED);
    let close = flags & MSG_CMSG_CLOEXEC != 0;
    let (used, cut) = match &received.ancillary {
        Some(ancillary) => {
            ancillary.deliver(task, header.control, header.control_length, credentials, close)?
        }
        None => (0, false),
    };
    if cut {
        header.flags |= MSG_CTRUNC;
    }
    header.control_length = used;
    Ok((header, returned(&received, flags)))
}

/// `recvmsg(2)`.
pub fn recvmsg(
    task: &CurrentTask,
    fd: Fd,
    message: UserPtr<MessageHeader>,
    flags: Flags,
) -> SyscallResult<usize> {
    let open = Open::get(task, fd)?;
    let (header, count) = receive_message(task, &open, message, flags.0)?;
    task.write_result_object(message, &header)?;
    Ok(count)
}

/// The place of a message, and of its length, in an array of `struct mmsghdr`.
fn message_at(messages: u64, index: u32) -> (UserPtr<MessageHeader>, UserPtr<u32>) {
    const SIZE: u64 = 64;
    let at = messages.wrapping_add(u64::from(index) * SIZE);
    (UserPtr::new(at), UserPtr::new(at.wrapping_add(size_of::<MessageHeader>() as u64)))
}

/// `sendmmsg(2)`.
pub fn sendmmsg(task: &CurrentTask, fd: Fd, messages: u64, count: u32, flags: Flags) -> SyscallResult<u32> {
    let open = Open::get(task, fd)?;
    for index in 0..count.min(MAX_MESSAGES) {
        let (message, length) = message_at(messages, index);
        let result = task
            .read_object(message)
            .map_err(SysError::from)
            .and_then(|header| send_message(task, &open, &header, flags.0))
            .and_then(|sent| Ok(task.write_object(length, &(sent as u32))?));
        match result {
            Ok(()) => {}
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index),
        }
    }
    Ok(count.min(MAX_MESSAGES))
}

/// `recvmmsg(2)`: the time limit is looked at after each message, as on Linux.
pub fn recvmmsg(
    task: &CurrentTask,
    fd: Fd,
    messages: u64,
    count: u32,
    flags: Flags,
    timeout: UserPtr<TimeSpec>,
) -> SyscallResult<u32> {
    let limit: Option<Duration> = match timeout.non_null() {
        Some(timeout) => Some(task.read_object(timeout)?.to_duration().ok_or(Errno::EINVAL)?),
        None => None,
    };
    let start = std::time::Instant::now();
    let open = Open::get(task, fd)?;
    let mut call = flags.0 & !MSG_WAITFORONE;
    for index in 0..count.min(MAX_MESSAGES) {
        let (message, _) = message_at(messages, index);
        let result = receive_message(task, &open, message, call).and_then(|(header, received)| {
            // The length follows.
            let both = [header.as_bytes(), &(received as u32).to_ne_bytes()].concat();
            Ok(task.write_bytes(message.address(), &both)?)
        });
        match result {
            Ok(()) => {}
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index),
        }
        if flags.0 & MSG_WAITFORONE != 0 {
            call |= MSG_DONTWAIT;
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            return Ok(index + 1);
        }
    }
    Ok(count.min(MAX_MESSAGES))
}
