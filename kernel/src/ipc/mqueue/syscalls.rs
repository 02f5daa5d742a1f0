//! The calls on POSIX message queues.

use std::sync::Arc;
use std::time::Duration;

use abi::fs::OpenFlags;
use abi::signal::Signal;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fs::{QueueInode, Shape};
use super::{Notification, OpenQueue, PRIORITIES};
use crate::error::{SysError, SyscallResult};
use crate::fs::file::Place;
use crate::fs::permissions::{Access, check_metadata, check_sticky};
use crate::fs::{Acls, File, Inode, InodeRef, NewFile, NewKind};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::task::limits::Resource;
use crate::user::{UserPath, UserPtr};
use crate::wait::{Deadline, Events};

/// Limits of who may go beyond those of `/proc/sys/fs/mqueue`.
const HARD_MESSAGES: u64 = 65_536;
const HARD_SIZE: u64 = 16 << 20;

/// `struct mq_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MqAttributes {
    flags: i64,
    max_messages: i64,
    max_size: i64,
    messages: i64,
    reserved: [i64; 4],
}

/// A name, which has no slash: libc takes the first one away.
fn read_name(task: &CurrentTask, name: UserPath) -> SysResult<Vec<u8>> {
    let name = task.read_path(name)?;
    match &*name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name if name.len() > 255 => Err(Errno::ENAMETOOLONG),
        _ => Ok(name.to_vec()),
    }
}

/// The shape that a new queue is to have.
fn shape(task: &CurrentTask, attributes: Option<MqAttributes>) -> SysResult<Shape> {
    let ipc = task.ipc();
    let all = &ipc.mqueue;
    let Some(wanted) = attributes else { return Ok(all.default_shape()) };
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0).ok_or(Errno::EINVAL);
    let shape = Shape { messages: positive(wanted.max_messages)?, size: positive(wanted.max_size)? };
    let (messages, size) = match task.credentials().has(Capability::SYS_RESOURCE) {
        true => (HARD_MESSAGES, HARD_SIZE),
        false => (all.max_messages.get(), all.max_size.get()),
    };
    if shape.messages > messages || shape.size > size { Err(Errno::EINVAL) } else { Ok(shape) }
}

/// `mq_open(2)`.
pub fn mq_open(
    task: &CurrentTask,
    name: UserPath,
    flags: Flags,
    mode: u32,
    attributes: UserPtr<MqAttributes>,
) -> SyscallResult<Fd> {
    let flags = OpenFlags::from_bits_retain(flags.0);
    let attributes = match attributes.non_null() {
        Some(attributes) if flags.contains(OpenFlags::CREAT) => Some(task.read_object(attributes)?),
        _ => None,
    };
    let name = read_name(task, name)?;
    let ipc = task.ipc();
    let all = &ipc.mqueue;
    let credentials = task.credentials();
    let inode = match all.get(&name) {
        None if flags.contains(OpenFlags::CREAT) => {
            check_metadata(&all.root_metadata(), &credentials, Access::WRITE | Access::EXECUTE)?;
            let shape = shape(task, attributes)?;
            let mode = mode & !task.fs_state().umask & 0o777;
            let new = NewFile {
                kind: NewKind::Regular,
                mode,
                uid: credentials.fs_uid,
                gid: credentials.fs_gid,
                acls: Acls::default(),
            };
            let limited = !credentials.has(Capability::SYS_RESOURCE);
            all.make(&name, &new, shape, task.group.limit(Resource::MessageQueue), limited)?
        }
        None => return Err(Errno::ENOENT.into()),
        Some(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => return Err(Errno::EEXIST.into()),
        Some(inode) => {
            let access = match flags.bits() & OpenFlags::ACCESS_MODE.bits() {
                0 => Access::READ,
                1 => Access::WRITE,
                2 => Access::READ | Access::WRITE,
                _ => return Err(Errno::EINVAL.into()),
            };
            check_metadata(&inode.metadata()?, &credentials, access)?;
            inode
        }
    };
    let shown = String::from_utf8_lossy(&[b"/", &*name].concat()).into_owned();
    let place = Place::Anonymous { name: shown, inode: Some(Arc::clone(&inode) as InodeRef) };
    let kept = flags & (OpenFlags::ACCESS_MODE | OpenFlags::NONBLOCK);
    Ok(task.install(File::new(place, Arc::new(OpenQueue(inode)), kept), true)?)
}

/// `mq_unlink(2)`.
pub fn mq_unlink(task: &CurrentTask, name: UserPath) -> SysResult<()> {
    let name = read_name(task, name)?;
    let ipc = task.ipc();
    let all = &ipc.mqueue;
    let inode = all.get(&name).ok_or(Errno::ENOENT)?;
    let (root, credentials) = (all.root_metadata(), task.credentials());
    check_metadata(&root, &credentials, Access::WRITE | Access::EXECUTE)?;
    check_sticky(&root, &inode.metadata()?, &credentials)?;
    all.remove(&name)
}

fn queue_of(file: &File) -> SysResult<&Arc<QueueInode>> {
    file.ops().downcast_ref::<OpenQueue>().map(|open| &open.0).ok_or(Errno::EBADF)
}

/// The moment that a call may wait until, a time of day.
fn read_deadline(task: &CurrentTask, timeout: UserPtr<TimeSpec>) -> SysResult<Deadline> {
    let Some(timeout) = timeout.non_null() else { return Ok(Deadline::Never) };
    let until = task.read_object(timeout)?.to_duration().ok_or(Errno::EINVAL)?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let now = TimeSpec { sec: now.tv_sec, nsec: now.tv_nsec }.to_duration().unwrap_or(Duration::ZERO);
    Ok(Deadline::after(until.saturating_sub(now)))
}

/// How long a call on `file` may wait, and what it returns when that is over.
fn patience(file: &File, deadline: Deadline) -> (Deadline, Errno) {
    if file.flags().contains(OpenFlags::NONBLOCK) {
        (Deadline::Now, Errno::EAGAIN)
    } else {
        (deadline, Errno::ETIMEDOUT)
    }
}

fn timed_out(error: SysError, errno: Errno) -> SysError {
    if error.is(Errno::EAGAIN) { errno.into() } else { error }
}

/// `mq_timedsend(2)`.
pub fn mq_timedsend(
    task: &CurrentTask,
    fd: Fd,
    place: u64,
    length: usize,
    priority: u32,
    timeout: UserPtr<TimeSpec>,
) -> SyscallResult<()> {
    let deadline = read_deadline(task, timeout)?;
    if priority >= PRIORITIES {
        return Err(Errno::EINVAL.into());
    }
    let file = task.file(fd)?;
    let queue = &queue_of(&file)?.queue;
    file.check_writable()?;
    if length as u64 > queue.max_size {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut text = vec![0; length];
    task.read_bytes(place, &mut text)?;
    let (deadline, errno) = patience(&file, deadline);
    let send = || queue.send(task, &text, priority);
    task.block_on(&queue.waiters, Events::WRITABLE, deadline, send).map_err(|error| timed_out(error, errno))
}

/// `mq_timedreceive(2)`.
pub fn mq_timedreceive(
    task: &CurrentTask,
    fd: Fd,
    place: u64,
    length: usize,
    priority: UserPtr<u32>,
    timeout: UserPtr<TimeSpec>,
) -> SyscallResult<usize> {
    let deadline = read_deadline(task, timeout)?;
    let file = task.file(fd)?;
    let queue = &queue_of(&file)?.queue;
    file.check_readable()?;
    if (length as u64) < queue.max_size {
        return Err(Errno::EMSGSIZE.into());
    }
    let (deadline, errno) = patience(&file, deadline);
    queue.messages.lock().receivers += 1;
    let received = task.block_on(&queue.waiters, Events::READABLE, deadline, || queue.receive());
    queue.messages.lock().receivers -= 1;
    let (text, found) = received.map_err(|error| timed_out(error, errno))?;
    if let Some(priority) = priority.non_null() {
        task.write_object(priority, &found)?;
    }
    task.write_bytes(place, &text)?;
    Ok(text.len())
}

/// The beginning of `struct sigevent`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    rest: [u64; 6],
}

/// `mq_notify(2)`. There are no netlink sockets, by which libc carries out `SIGEV_THREAD`: it is `EINVAL`.
pub fn mq_notify(task: &CurrentTask, fd: Fd, event: UserPtr<Event>) -> SysResult<()> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    let event = event.non_null().map(|event| task.read_object(event)).transpose()?;
    let signal = match event {
        None => None,
        Some(Event { notify: SIGEV_NONE, .. }) => None,
        Some(Event { notify: SIGEV_SIGNAL, signal, .. }) => Some(Signal::new(signal).ok_or(Errno::EINVAL)?),
        Some(_) => return Err(Errno::EINVAL),
    };
    let file = task.file(fd)?;
    let queue = &queue_of(&file)?.queue;
    let mut messages = queue.messages.lock();
    let alive = |told: &Notification| told.group.upgrade().is_some_and(|group| group.exit.lock().is_none());
    let taken = messages.notification.as_ref().filter(|told| alive(told));
    match event {
        None => {
            if taken.is_some_and(|told| told.is_of(&task.group)) {
                messages.notification = None;
            }
            Ok(())
        }
        Some(_) if taken.is_some() => Err(Errno::EBUSY),
        Some(Event { value, .. }) => {
            messages.notification = Some(Notification { group: Arc::downgrade(&task.group), signal, value });
            Ok(())
        }
    }
}

/// `mq_getsetattr(2)`: all that can be changed is `O_NONBLOCK`.
pub fn mq_getsetattr(
    task: &CurrentTask,
    fd: Fd,
    new: UserPtr<MqAttributes>,
    old: UserPtr<MqAttributes>,
) -> SysResult<()> {
    let nonblock = i64::from(OpenFlags::NONBLOCK.bits());
    let new = new.non_null().map(|new| task.read_object(new)).transpose()?;
    if new.is_some_and(|new| new.flags & !nonblock != 0) {
        return Err(Errno::EINVAL);
    }
    let file = task.file(fd)?;
    let queue = &queue_of(&file)?.queue;
    let before = MqAttributes {
        flags: i64::from((file.flags() & OpenFlags::NONBLOCK).bits()),
        max_messages: queue.max_messages.cast_signed(),
        max_size: queue.max_size.cast_signed(),
        messages: queue.messages.lock().count.cast_signed(),
        reserved: [0; 4],
    };
    if let Some(new) = new {
        let mut flags = file.flags();
        flags.set(OpenFlags::NONBLOCK, new.flags != 0);
        file.set_flags(flags)?;
    }
    match old.non_null() {
        Some(old) => task.write_object(old, &before),
        None => Ok(()),
    }
}
