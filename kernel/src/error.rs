//! How a system call fails: with an error number, or by asking to be restarted after a signal.

use abi::Errno;

/// What a system call that was interrupted by a signal wants to happen after the signal's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// `ERESTARTSYS`: restart if no handler ran or the handler has `SA_RESTART`; else `EINTR`.
    Sys,
    /// `ERESTARTNOINTR`: restart always.
    NoIntr,
    /// `ERESTARTNOHAND`: restart if no handler ran; else `EINTR`.
    NoHand,
    /// `ERESTART_RESTARTBLOCK`: like `NoHand`, but restart through `restart_syscall(2)`, which continues with what
    /// [`crate::task::CurrentTask::set_restart`] recorded (so that a relative timeout is not started anew).
    Block,
}

/// Why a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysError {
    /// The error that the guest sees.
    Errno(Errno),
    /// A signal is pending; signal delivery turns this into a restart or into `EINTR`.
    Restart(Restart),
}

/// The result of a system call, or of a part of one that can block.
pub type SyscallResult<T = u64> = Result<T, SysError>;

impl SysError {
    /// Whether this is the error number `errno`.
    pub fn is(self, errno: Errno) -> bool {
        self == SysError::Errno(errno)
    }

    /// The error number; `EINTR` for a restart, for callers that have already made progress or cannot restart.
    pub fn errno(self) -> Errno {
        match self {
            SysError::Errno(errno) => errno,
            SysError::Restart(_) => Errno::EINTR,
        }
    }
}

impl From<Errno> for SysError {
    fn from(errno: Errno) -> SysError {
        SysError::Errno(errno)
    }
}

impl From<Restart> for SysError {
    fn from(restart: Restart) -> SysError {
        SysError::Restart(restart)
    }
}

impl From<rustix::io::Errno> for SysError {
    fn from(errno: rustix::io::Errno) -> SysError {
        SysError::Errno(errno.into())
    }
}

impl From<std::io::Error> for SysError {
    fn from(error: std::io::Error) -> SysError {
        SysError::Errno(error.into())
    }
}
