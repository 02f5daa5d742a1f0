//! Advisory file locks: of processes (`fcntl(2)`), of open file descriptions (`F_OFD_*`), and whole-file (`flock(2)`).
//!
//! Locks of processes and of descriptions exclude each other; those of `flock(2)` are apart. A lock waits in the
//! inode's queue. Processes that would wait for each other get `EDEADLK`, as on Linux only for `fcntl(2)`'s.

use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Set before the first lock is taken: most files are never locked, which is asked at each close.
    used: AtomicBool,
    queue: WaitQueue,
}

impl FileLocks {
    /// Takes the lock if nobody else's excludes it; else says whose does.
    fn try_take(&self, wanted: Lock) -> Result<(), Lock> {
        let mut locks = self.locks.lock();
        if let Some(held) = conflict(&locks, &wanted) {
            return Err(held);
        }
        self.used.store(true, Ordering::Release);
        replace(&mut locks, wanted.owner, wanted.start, wanted.end, Some(wanted));
        drop(locks);
        // A lock may have become a shared one.
        self.queue.wake(Events::WRITABLE);
        Ok(())
    }

    /// Drops what the owner holds in the range.
    fn release(&self, owner: Owner, start: u64, end: u64) {
        replace(&mut self.locks.lock(), owner, start, end, None);
        self.queue.wake(Events::WRITABLE);
    }

    /// Takes a lock, waiting for it until the deadline. `EDEADLK` if the process that holds it waits, over others or
    /// not, for the caller's.
    fn take(&self, task: &CurrentTask, lock: Lock, deadline: Deadline) -> SyscallResult<()> {
        let waiters = &task.kernel.lock_waiters;
        let mut waits = None;
        task.block_on(&self.queue, Events::WRITABLE, deadline, || {
            drop(waits.take());
            match self.try_take(lock) {
                Ok(()) => Ok(()),
                Err(held) => {
                    if let (Owner::Process(pid), Owner::Process(holder), Deadline::Never) =
                        (lock.owner, held.owner, deadline)
                    {
                        waits = Some(waiters.enter(pid, holder)?);
                    }
                    Err(Errno::EAGAIN.into())
                }
            }
        })
    }

    fn is_empty(&self) -> bool {
        !self.used.load(Ordering::Acquire) || self.locks.lock().is_empty()
    }
}

fn conflict(locks: &[Lock], wanted: &Lock) -> Option<Lock> {
    let apart = |owner: Owner| matches!(owner, Owner::Flock(_));
    let found = locks.iter().find(|held| {
        held.owner != wanted.owner
            && apart(held.owner) == apart(wanted.owner)
            && held.start < wanted.end
            && wanted.start < held.end
            && (held.exclusive || wanted.exclusive)
    });
    found.copied()
}

/// Replaces what the owner holds in the range by `lock`, or by nothing. Locks of one kind that touch become one.
fn replace(locks: &mut Vec<Lock>, owner: Owner, start: u64, end: u64, mut lock: Option<Lock>) {
    let mut kept = Vec::with_capacity(locks.len() + 2);
    let mut keep = |held: Lock| match &mut lock {
        Some(new) if held.owner == owner && held.exclusive == new.exclusive && held.end == new.start => {
            new.start = held.start;
        }
        Some(new) if held.owner == owner && held.exclusive == new.exclusive && held.start == new.end => {
            new.end = held.end;
        }
        _ => kept.push(held),
    };
    for held in locks.drain(..) {
        if held.owner != owner || held.end <= start || end <= held.start {
            keep(held);
            continue;
        }
        if held.start < start {
            keep(Lock { end: start, ..held });
        }
        if held.end > end {
            keep(Lock { start: end, ..held });
        }
    }
    kept.extend(lock);
    *locks = kept;
}

/// Which process waits for a lock of which: what deadlocks are found in.
#[derive(Default)]
pub struct LockWaiters {
    edges: Mutex<Vec<(Pid, Pid)>>,
}

/// The longest chain of waiting processes that is followed.
const MAX_CHAIN: usize = 64;

impl LockWaiters {
    /// Notes that a process waits for another, until the result is dropped. `EDEADLK` if that one waits for it.
    fn enter(&self, waiter: Pid, holder: Pid) -> SysResult<LockWait<'_>> {
        let mut edges = self.edges.lock();
        let mut at = holder;
        for _ in 0..MAX_CHAIN {
            if at == waiter {
                return Err(Errno::EDEADLK);
            }
            match edges.iter().find(|(from, _)| *from == at) {
                Some((_, to)) => at = *to,
                None => break,
            }
        }
        edges.push((waiter, holder));
        drop(edges);
        Ok(LockWait { waiters: self, edge: (waiter, holder) })
    }
}

/// That a process waits for another.
struct LockWait<'a> {
    waiters: &'a LockWaiters,
    edge: (Pid, Pid),
}

impl Drop for LockWait<'_> {
    fn drop(&mut self) {
        let mut edges = self.waiters.edges.lock();
        if let Some(index) = edges.iter().position(|edge| *edge == self.edge) {
            edges.swap_remove(index);
        }
    }
}

/// Drops the locks that a process holds on a file: it has closed a descriptor of it.
pub fn release_process(pid: Pid, file: &File) {
    if let Some(inode) = file.inode().filter(|inode| !inode.common().locks.is_empty()) {
        inode.common().locks.release(Owner::Process(pid), 0, u64::MAX);
    }
}

/// Drops the locks that an open file description holds: it is gone.
pub(super) fn release_description(file: &File) {
    if let Some(inode) = file.inode().filter(|inode| !inode.common().locks.is_empty()) {
        inode.common().locks.release(Owner::Description(file.id), 0, u64::MAX);
        inode.common().locks.release(Owner::Flock(file.id), 0, u64::MAX);
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
    let (start, end) = range(file, inode, &argument)?;
    let locks = &inode.common().locks;
    let exclusive = match argument.kind {
        F_RDLCK => false,
        F_WRLCK => true,
        F_UNLCK if !get => {
            locks.release(owner, start, end);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Lock { owner, exclusive, start, end };
    if get {
        match conflict(&locks.locks.lock(), &wanted) {
            None => argument.kind = F_UNLCK,
            Some(held) => {
                argument.kind = if held.exclusive { F_WRLCK } else { F_RDLCK };
                argument.whence = 0;
                argument.start = held.start.cast_signed();
                argument.length =
                    if held.end == u64::MAX { 0 } else { (held.end - held.start).cast_signed() };
                argument.pid = if let Owner::Process(pid) = held.owner { task.number_of(pid) } else { -1 };
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
            locks.release(owner, 0, u64::MAX);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Lock { owner, exclusive, start: 0, end: u64::MAX };
    locks.take(task, wanted, if operation & 4 != 0 { Deadline::Now } else { Deadline::Never })
}
