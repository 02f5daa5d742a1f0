//! System calls on pipes, event files and futexes.

use abi::Errno;
use abi::fs::OpenFlags;

use abi::signal::SignalSet;

use super::eventfd::EventFd;
use super::pipe::new_pipe;
use super::signalfd::SignalFd;
use crate::error::SyscallResult;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::UserPtr;

pub use super::aio::{io_cancel, io_destroy, io_getevents, io_pgetevents, io_setup, io_submit};
pub use super::futex::futex;
pub use super::futex2::{futex_requeue, futex_wait, futex_waitv, futex_wake};
pub use super::mqueue::syscalls::*;
pub use super::sysv::msg::{msgctl, msgget, msgrcv, msgsnd};
pub use super::sysv::sem::{semctl, semget, semop, semtimedop};
pub use super::sysv::shm::{shmat, shmctl, shmdt, shmget};

/// `pipe2(2)`.
pub fn pipe2(task: &CurrentTask, fds: u64, flags: Flags) -> SyscallResult<()> {
    let flags = OpenFlags::from_bits_retain(flags.0);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let owner = task.credentials();
    let (read, write) = new_pipe((owner.fs_uid, owner.fs_gid), flags);
    let close = flags.contains(OpenFlags::CLOEXEC);
    let read = task.install(read, close)?;
    let written = task.install(write, close).and_then(|write| {
        let pair = [read.0.to_ne_bytes(), write.0.to_ne_bytes()].concat();
        task.write_bytes(fds, &pair).inspect_err(|_| drop(task.files().remove(write)))
    });
    if let Err(error) = written {
        drop(task.files().remove(read));
        return Err(error.into());
    }
    Ok(())
}

/// `pipe(2)`.
pub fn pipe(task: &CurrentTask, fds: u64) -> SyscallResult<()> {
    pipe2(task, fds, Flags(0))
}

/// `eventfd2(2)`.
pub fn eventfd2(task: &CurrentTask, count: u32, flags: Flags) -> SyscallResult<Fd> {
    const SEMAPHORE: u32 = 1;
    let status = OpenFlags::from_bits_retain(flags.0 & !SEMAPHORE);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(status) {
        return Err(Errno::EINVAL.into());
    }
    let file = EventFd::open(count, flags.0 & SEMAPHORE != 0, status);
    Ok(task.install(file, status.contains(OpenFlags::CLOEXEC))?)
}

/// `eventfd(2)`.
pub fn eventfd(task: &CurrentTask, count: u32) -> SyscallResult<Fd> {
    eventfd2(task, count, Flags(0))
}

/// `signalfd4(2)`.
pub fn signalfd4(
    task: &CurrentTask,
    fd: Fd,
    mask: UserPtr<SignalSet>,
    size: usize,
    flags: Flags,
) -> SyscallResult<Fd> {
    let status = OpenFlags::from_bits_retain(flags.0);
    if size != size_of::<SignalSet>() {
        return Err(Errno::EINVAL.into());
    }
    let mask = task.read_object(mask)?;
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(status) {
        return Err(Errno::EINVAL.into());
    }
    if fd.0 == -1 {
        let file = SignalFd::open(mask, status);
        return Ok(task.install(file, status.contains(OpenFlags::CLOEXEC))?);
    }
    let file = task.file(fd)?;
    file.ops().downcast_ref::<SignalFd>().ok_or(Errno::EINVAL)?.set(mask);
    task.group.signals.queue.wake(crate::wait::Events::IN);
    Ok(fd)
}

/// `signalfd(2)`.
pub fn signalfd(task: &CurrentTask, fd: Fd, mask: UserPtr<SignalSet>, size: usize) -> SyscallResult<Fd> {
    signalfd4(task, fd, mask, size, Flags(0))
}
