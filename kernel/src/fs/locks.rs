//! Advisory file locks: of processes (`fcntl(2)`), of open file descriptions (`F_OFD_*`), and whole-file (`flock(2)`).
//!
//! Locks of processes and of descriptions exclude each other; those of `flock(2)` are apart. A lock waits in the
//! inode's queue. Deadlocks are not detected: a task that waits in one is ended by a signal.

use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{File, InodeRef};
use crate::error::SyscallResult;
use crate::syscalls::Fd;
use crate::task::{CurrentTask, Pid};
use crate::user::UserPtr;
use crate::wait::{Deadline, Events, WaitQueue};

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Process(Pid),
    Description(u64),
    Flock(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lock {
    owner: Owner,
    exclusive: bool,
    start: u64,
    /// The byte behind the last; `u64::MAX` for the end of the file, wherever that is.
    end: u64,
}

/// The locks of an inode.
#[derive(Default)]
pub struct FileLocks {
    locks: Mutex<Vec<Lock>>,
    queue: WaitQueue,
}

impl FileLocks {
    fn conflict(&self, wanted: &Lock) -> Option<Lock> {
        let apart = |owner: Owner| matches!(owner, Owner::Flock(_));
        let locks = self.locks.lock();
        let found = locks.iter().find(|held| {
            held.owner != wanted.owner
                && apart(held.owner) == apart(wanted.owner)
                && held.start < wanted.end
                && wanted.start < held.end
                && (held.exclusive || wanted.exclusive)
        });
        found.copied()
    }

    /// Replaces what the owner holds in the range by `lock`, or by nothing.
    fn replace(&self, owner: Owner, start: u64, end: u64, lock: Option<Lock>) {
        let mut locks = self.locks.lock();
        let mut kept = Vec::with_capacity(locks.len() + 2);
        for held in locks.drain(..) {
            if held.owner != owner || held.end <= start || end <= held.start {
                kept.push(held);
                continue;
            }
            if held.start < start {
                kept.push(Lock { end: start, ..held });
            }
            if held.end > end {
                kept.push(Lock { start: end, ..held });
            }
        }
        kept.extend(lock);
        *locks = kept;
        drop(locks);
        self.queue.wake(Events::WRITABLE);
    }

    /// Takes a lock, waiting for it until the deadline.
    fn take(&self, task: &CurrentTask, lock: Lock, deadline: Deadline) -> SyscallResult<()> {
        task.block_on(&self.queue, Events::WRITABLE, deadline, || {
            if self.conflict(&lock).is_some() {
                return Err(Errno::EAGAIN.into());
            }
            self.replace(lock.owner, lock.start, lock.end, Some(lock));
            Ok(())
        })
    }

    fn is_empty(&self) -> bool {
        self.locks.lock().is_empty()
    }
}

/// Drops the locks that a process holds on a file: it has closed a descriptor of it.
pub fn release_process(pid: Pid, file: &File) {
    if let Some(inode) = file.inode().filter(|inode| !inode.common().locks.is_empty()) {
        inode.common().locks.replace(Owner::Process(pid), 0, u64::MAX, None);
    }
}

/// Drops the locks that an open file description holds: it is gone.
pub(super) fn release_description(file: &File) {
    if let Some(inode) = file.inode().filter(|inode| !inode.common().locks.is_empty()) {
        inode.common().locks.replace(Owner::Description(file.id), 0, u64::MAX, None);
        inode.common().locks.replace(Owner::Flock(file.id), 0, u64::MAX, None);
    }
}

/// `struct flock`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlockArgument {
    kind: i16,
    whence: i16,
    pad: i32,
    start: i64,
    length: i64,
    pid: i32,
    end_pad: i32,
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// The range that an argument means.
fn range(file: &File, inode: &InodeRef, argument: &FlockArgument) -> SysResult<(u64, u64)> {
    let base = match argument.whence {
        0 => 0,
        1 => file.with_offset(|offset| *offset),
        2 => inode.metadata()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add_signed(argument.start).ok_or(Errno::EINVAL)?;
    match argument.length {
        0 => Ok((start, u64::MAX)),
        length if length > 0 => {
            Ok((start, start.checked_add(length.cast_unsigned()).ok_or(Errno::EOVERFLOW)?))
        }
        length => Ok((start.checked_add_signed(length).ok_or(Errno::EINVAL)?, start)),
    }
}

/// The lock commands of `fcntl(2)`; `None` if the command is another.
pub fn fcntl(task: &CurrentTask, file: &File, command: i32, argument: u64) -> Option<SyscallResult<u64>> {
    let owner = match command {
        5..=7 => Owner::Process(task.group.pid),
        36..=38 => Owner::Description(file.id),
        _ => return None,
    };
    let get = matches!(command, 5 | 36);
    let waits = matches!(command, 7 | 38);
    Some(lock(task, file, owner, get, waits, UserPtr::new(argument)).map(|()| 0))
}

fn lock(
    task: &CurrentTask,
    file: &File,
    owner: Owner,
    get: bool,
    waits: bool,
    pointer: UserPtr<FlockArgument>,
) -> SyscallResult<()> {
    let mut argument = task.read_object(pointer)?;
    let inode = file.inode().ok_or(Errno::EINVAL)?;
    if matches!(owner, Owner::Description(_)) && argument.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (start, end) = range(file, &inode, &argument)?;
    let locks = &inode.common().locks;
    let exclusive = match argument.kind {
        F_RDLCK => false,
        F_WRLCK => true,
        F_UNLCK if !get => {
            locks.replace(owner, start, end, None);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Lock { owner, exclusive, start, end };
    if get {
        match locks.conflict(&wanted) {
            None => argument.kind = F_UNLCK,
            Some(held) => {
                argument.kind = if held.exclusive { F_WRLCK } else { F_RDLCK };
                argument.whence = 0;
                argument.start = held.start.cast_signed();
                argument.length =
                    if held.end == u64::MAX { 0 } else { (held.end - held.start).cast_signed() };
                argument.pid = if let Owner::Process(pid) = held.owner { pid } else { -1 };
            }
        }
        return Ok(task.write_object(pointer, &argument)?);
    }
    if exclusive {
        file.check_writable()?;
    } else {
        file.check_readable()?;
    }
    locks.take(task, wanted, if waits { Deadline::Never } else { Deadline::Now })
}

/// `flock(2)`.
pub fn flock(task: &CurrentTask, fd: Fd, operation: i32) -> SyscallResult<()> {
    let file = task.file(fd)?;
    if file.flags().contains(abi::fs::OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    let inode = file.inode().ok_or(Errno::EINVAL)?;
    let locks = &inode.common().locks;
    let owner = Owner::Flock(file.id);
    let exclusive = match operation & !4 {
        1 => false,
        2 => true,
        8 => {
            locks.replace(owner, 0, u64::MAX, None);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Lock { owner, exclusive, start: 0, end: u64::MAX };
    locks.take(task, wanted, if operation & 4 != 0 { Deadline::Now } else { Deadline::Never })
}
