//! System calls on tasks.

use abi::SysResult;

use super::{CurrentTask, ExitStatus, Pid};

/// `getpid(2)`.
pub fn getpid(task: &CurrentTask) -> SysResult<Pid> {
    Ok(task.group.pid)
}

/// `gettid(2)`.
pub fn gettid(task: &CurrentTask) -> SysResult<Pid> {
    Ok(task.tid())
}

/// `exit_group(2)`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "only eight bits count")]
pub fn exit_group(task: &CurrentTask, status: i32) -> SysResult<()> {
    task.exit_group(ExitStatus::Exited(status as u8));
    Ok(())
}
