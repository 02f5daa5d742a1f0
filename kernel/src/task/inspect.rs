//! Looking into other processes: who may, `process_vm_readv(2)`, `kcmp(2)`, advice on foreign memory.

use std::cmp::Ordering;
use std::sync::Arc;

use abi::{Errno, SysResult};

use super::credentials::Capability;
use super::pidfd::PidFd;
use super::{CurrentTask, Pid, Task};
use crate::error::SyscallResult;
use crate::mm::PAGE_SIZE;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::user::{IoVec, UserPtr};

/// Whether `reader` may look into `task`, as `ptrace(2)` decides it.
pub fn may_inspect(reader: &Task, task: &Task) -> bool {
    let (own, other) = (reader.credentials(), task.credentials());
    let same = [other.uid, other.effective_uid, other.saved_uid].iter().all(|uid| *uid == own.fs_uid);
    let same_group = [other.gid, other.effective_gid, other.saved_gid].iter().all(|gid| *gid == own.fs_gid);
    let contained = other.permitted & !own.permitted == 0;
    let dumpable = task.group.dumpable.load(std::sync::atomic::Ordering::Relaxed);
    let same_process = Arc::ptr_eq(&reader.group, &task.group);
    same_process
        || (same && same_group && contained && dumpable)
        || own.has_in(&other.user_namespace, Capability::SYS_PTRACE)
}

/// The parts of two vectors that face each other: local address, remote address, length.
fn facing(local: &[IoVec], remote: &[IoVec]) -> Vec<(u64, u64, usize)> {
    let mut parts = Vec::new();
    let (mut local, mut remote) = (local.iter().copied(), remote.iter().copied());
    let (mut here, mut there) = (local.next(), remote.next());
    while let (Some(mine), Some(theirs)) = (&mut here, &mut there) {
        let length = mine.length.min(theirs.length);
        if length > 0 {
            parts.push((mine.base, theirs.base, length as usize));
        }
        for part in [&mut *mine, &mut *theirs] {
            part.base = part.base.wrapping_add(length);
            part.length -= length;
        }
        let (done, other_done) = (mine.length == 0, theirs.length == 0);
        if done {
            here = local.next();
        }
        if other_done {
            there = remote.next();
        }
    }
    parts
}

/// Which way memory is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromOther,
    ToOther,
}

/// Where the two vectors of a call are, and how long.
struct Vectors {
    local: (UserPtr<IoVec>, usize),
    remote: (UserPtr<IoVec>, usize),
}

fn copy(
    task: &CurrentTask,
    pid: Pid,
    vectors: &Vectors,
    flags: u64,
    direction: Direction,
) -> SysResult<usize> {
    const CHUNK: usize = 64 << 10;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let local = task.read_iovecs(vectors.local.0, vectors.local.1)?;
    if local.iter().all(|part| part.length == 0) {
        return Ok(0);
    }
    let remote = task.read_iovecs(vectors.remote.0, vectors.remote.1)?;
    let target = task.find_task(pid)?;
    if !may_inspect(task, &target) {
        return Err(Errno::EPERM);
    }
    let memory = target.memory().ok_or(Errno::ESRCH)?;
    let space = memory.space();
    let mut total = 0;
    let mut buffer = vec![0; CHUNK];
    for (mine, theirs, length) in facing(&local, &remote) {
        let mut at = 0;
        while at < length {
            let chunk = &mut buffer[..CHUNK.min(length - at)];
            let (mine, theirs) = (mine.wrapping_add(at as u64), theirs.wrapping_add(at as u64));
            let copied = match direction {
                Direction::FromOther => {
                    let read = space.read(theirs, chunk);
                    task.write_some(mine, &chunk[..read])
                }
                Direction::ToOther => {
                    let read = task.read_some(mine, chunk);
                    space.write(theirs, &chunk[..read])
                }
            };
            (total, at) = (total + copied, at + copied);
            if copied < chunk.len() {
                return if total == 0 { Err(Errno::EFAULT) } else { Ok(total) };
            }
        }
    }
    Ok(total)
}

/// `process_vm_readv(2)`.
pub fn process_vm_readv(
    task: &CurrentTask,
    pid: Pid,
    local: UserPtr<IoVec>,
    local_count: usize,
    remote: UserPtr<IoVec>,
    remote_count: usize,
    flags: u64,
) -> SysResult<usize> {
    let vectors = Vectors { local: (local, local_count), remote: (remote, remote_count) };
    copy(task, pid, &vectors, flags, Direction::FromOther)
}

/// `process_vm_writev(2)`.
pub fn process_vm_writev(
    task: &CurrentTask,
    pid: Pid,
    local: UserPtr<IoVec>,
    local_count: usize,
    remote: UserPtr<IoVec>,
    remote_count: usize,
    flags: u64,
) -> SysResult<usize> {
    let vectors = Vectors { local: (local, local_count), remote: (remote, remote_count) };
    copy(task, pid, &vectors, flags, Direction::ToOther)
}

/// `process_madvise(2)`. What another process is advised of is a hint, which is checked and not passed on.
pub fn process_madvise(
    task: &CurrentTask,
    fd: Fd,
    vector: UserPtr<IoVec>,
    count: usize,
    advice: i32,
    flags: Flags,
) -> SysResult<usize> {
    const COLD: i32 = 20;
    const PAGEOUT: i32 = 21;
    const WILLNEED: i32 = 3;
    const COLLAPSE: i32 = 25;
    if flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    let parts = task.read_iovecs(vector, count)?;
    let file = task.file(fd)?;
    let target = PidFd::from_file(&file)?.task(task)?;
    if !may_inspect(task, &target) {
        return Err(Errno::EPERM);
    }
    let memory = target.memory().ok_or(Errno::ESRCH)?;
    let own = Arc::ptr_eq(&memory, &task.mm()?);
    if !own && !matches!(advice, COLD | PAGEOUT | WILLNEED | COLLAPSE) {
        return Err(Errno::EINVAL);
    }
    if !own && !task.credentials().has(Capability::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let mut done = 0;
    for part in parts {
        let advised = if own {
            crate::mm::syscalls::madvise(task, part.base, part.length, advice)
        } else {
            let length = part.length.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
            let end = part.base.checked_add(length).ok_or(Errno::EINVAL)?;
            match part.base.is_multiple_of(PAGE_SIZE) {
                false => Err(Errno::EINVAL),
                true if memory.covers(part.base..end) => Ok(()),
                true => Err(Errno::ENOMEM),
            }
        };
        match advised {
            Ok(()) => done += part.length as usize,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `process_mrelease(2)`: a process that is ending gives its memory back by itself, and soon.
pub fn process_mrelease(task: &CurrentTask, fd: Fd, flags: Flags) -> SysResult<()> {
    if flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.file(fd)?;
    let target = PidFd::from_file(&file)?.task(task)?;
    if target.is_exiting() { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A place in an order of objects that tells nothing of where they are.
fn order<T: ?Sized>(first: &Arc<T>, second: &Arc<T>) -> u64 {
    let address = |object: &Arc<T>| Arc::as_ptr(object).cast::<()>().addr();
    compare(address(first), address(second))
}

fn compare(first: usize, second: usize) -> u64 {
    const COOKIE: usize = 0x5bd1_e995_97f4_a7c5;
    let hide = |address: usize| (address ^ COOKIE).wrapping_mul(COOKIE | 1);
    match hide(first).cmp(&hide(second)) {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    }
}

/// `kcmp(2)`.
pub fn kcmp(
    task: &CurrentTask,
    first: Pid,
    second: Pid,
    kind: i32,
    index1: u64,
    index2: u64,
) -> SyscallResult<u64> {
    const FILE: i32 = 0;
    const VM: i32 = 1;
    const FILES: i32 = 2;
    const FS: i32 = 3;
    const SIGHAND: i32 = 4;
    const IO: i32 = 5;
    const SYSVSEM: i32 = 6;
    let get = |pid| task.find_task(pid);
    let (one, two) = (get(first)?, get(second)?);
    if !may_inspect(task, &one) || !may_inspect(task, &two) {
        return Err(Errno::EPERM.into());
    }
    let fd = |index: u64| i32::try_from(index).map(Fd).map_err(|_| Errno::EBADF);
    Ok(match kind {
        FILE => order(&one.file(fd(index1)?)?, &two.file(fd(index2)?)?),
        VM => match (one.memory(), two.memory()) {
            (Some(one), Some(two)) => order(&one, &two),
            _ => return Err(Errno::ESRCH.into()),
        },
        FILES => order(&one.files(), &two.files()),
        FS => order(&one.fs(), &two.fs()),
        SIGHAND => order(&one.group.signals.actions(), &two.group.signals.actions()),
        // Nothing is shared by these but by the threads of one process.
        IO | SYSVSEM => order(&one.group, &two.group),
        _ => return Err(Errno::EINVAL.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_different_shapes_face_each_other() {
        let vector = |base, length| IoVec { base, length };
        let parts =
            facing(&[vector(0, 3), vector(100, 5)], &[vector(1000, 4), vector(2000, 0), vector(3000, 9)]);
        assert_eq!(parts, [(0, 1000, 3), (100, 1003, 1), (101, 3000, 4)]);
    }
}
