//! System calls on pipes and futexes.

use abi::Errno;
use abi::fs::OpenFlags;

use super::pipe::new_pipe;
use crate::error::SyscallResult;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;

pub use super::futex::futex;

/// `pipe2(2)`.
pub fn pipe2(task: &CurrentTask, fds: u64, flags: Flags) -> SyscallResult<()> {
    let flags = OpenFlags::from_bits_retain(flags.0);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let (read, write) = new_pipe(flags);
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
