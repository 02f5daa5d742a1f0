//! Signals, `signal(7)`.

use abi::signal::{SigInfo, SignalSet};
use parking_lot::Mutex;
use platform::Fault;

use crate::error::Restart;
use crate::task::{CurrentTask, ExitStatus, Task};

/// The signal state of a task.
#[derive(Default)]
pub struct TaskSignals {
    /// Blocked signals. Only the task itself changes it.
    pub mask: Mutex<SignalSet>,
}

/// The signal state of a thread group.
#[derive(Default)]
pub struct GroupSignals {}

/// Whether a signal is pending that the task does not block.
pub fn pending(_task: &Task) -> bool {
    false
}

/// Handles what is pending before the task goes on in guest code: signals, stops, the group's end. `restart` tells
/// that a system call was interrupted.
pub fn deliver(task: &CurrentTask, restart: Option<Restart>) {
    if restart.is_some() {
        task.context.borrow_mut().registers_mut().rax = abi::Errno::EINTR.to_ret();
    }
}

/// Sends the task a signal that it cannot ignore or block, because it cannot go on: a fault.
pub fn force(task: &CurrentTask, info: SigInfo, _fault: Option<Fault>) {
    if let Some(signal) = abi::signal::Signal::new(info.signo) {
        task.exit_group(ExitStatus::Signaled { signal, core: false });
    }
}
