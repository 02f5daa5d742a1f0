//! System calls on files.

use crate::error::SyscallResult;
use crate::syscalls::Fd;
use crate::task::CurrentTask;

/// `read(2)`.
pub fn read(task: &CurrentTask, fd: Fd, buffer: u64, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    file.read(task, &mut task.writer(buffer, count))
}

/// `write(2)`.
pub fn write(task: &CurrentTask, fd: Fd, buffer: u64, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    file.write(task, &mut task.reader(buffer, count))
}

/// `close(2)`.
pub fn close(task: &CurrentTask, fd: Fd) -> SyscallResult<()> {
    let file = task.files().remove(fd)?;
    file.ops().flush(task)?;
    Ok(())
}
