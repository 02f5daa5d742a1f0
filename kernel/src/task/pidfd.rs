//! Processes and threads as files, `pidfd_open(2)`.
//!
//! A [`PidFd`] keeps its process's [`ThreadGroup`], so a number that is used again never names another process. An
//! [`Ending`] in each group and task tells when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use abi::fs::OpenFlags;
use abi::signal::{SI_TKILL, SI_USER, SigInfo, Signal};
use abi::{Errno, SysResult};

use super::inspect::may_inspect;
use super::{CurrentTask, Pid, Task, ThreadGroup};
use crate::error::SyscallResult;
use crate::fs::{File, OpenFile};
use crate::signal::send_to_task;
use crate::signal::syscalls::{may_signal, parse, send_checked, sender, shielded};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::user::UserPtr;
use crate::wait::{Events, WaitQueue};

/// How far the end of a process or thread has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// All of its threads have ended.
    Ended = 1,
    /// Nothing is left of it: its parent has waited for it.
    Reaped = 2,
}

/// Whether a process or thread has ended, and who waits to hear of it.
#[derive(Default)]
pub struct Ending {
    stage: AtomicU8,
    queue: WaitQueue,
}

impl Ending {
    /// Notes that the stage has been reached, and tells who waits.
    pub fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
        self.queue.wake(match stage {
            Stage::Ended => Events::READABLE,
            Stage::Reaped => Events::READABLE | Events::HUP,
        });
    }

    /// Whether the stage has been reached.
    pub fn has_reached(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::SeqCst) >= stage as u8
    }
}

/// What a pidfd stands for.
pub enum PidFd {
    /// A process.
    Process(Arc<ThreadGroup>),
    /// A thread (`PIDFD_THREAD`).
    Thread(Arc<Task>),
}

const NONBLOCK: u32 = OpenFlags::NONBLOCK.bits();
/// `PIDFD_THREAD`
const THREAD: u32 = OpenFlags::EXCL.bits();

impl PidFd {
    fn open(self, flags: OpenFlags) -> Arc<File> {
        File::anonymous("anon_inode:[pidfd]", Arc::new(self), flags | OpenFlags::RDWR)
    }

    /// The file of a task just made: of its process, or of the thread if it leads none.
    pub fn of_child(task: &Arc<Task>) -> Arc<File> {
        let pidfd = if task.tid() == task.group.pid {
            PidFd::Process(Arc::clone(&task.group))
        } else {
            PidFd::Thread(Arc::clone(task))
        };
        pidfd.open(OpenFlags::empty())
    }

    /// The pidfd that the file is: `EBADF` for another kind of file.
    pub fn from_file(file: &File) -> SysResult<&PidFd> {
        file.ops().downcast_ref().ok_or(Errno::EBADF)
    }

    /// The process, or the thread's process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        match self {
            PidFd::Process(group) => group,
            PidFd::Thread(task) => &task.group,
        }
    }

    fn ending(&self) -> &Ending {
        match self {
            PidFd::Thread(task) if task.tid() != task.group.pid => &task.ending,
            other => &other.group().ending,
        }
    }

    /// A living task of it: `ESRCH` if there is none any more.
    pub fn task(&self, by: &CurrentTask) -> SysResult<Arc<Task>> {
        if self.ending().has_reached(Stage::Ended) {
            return Err(Errno::ESRCH);
        }
        match self {
            PidFd::Thread(task) => Ok(Arc::clone(task)),
            PidFd::Process(group) => {
                by.kernel.tasks.tasks_of(group.pid).into_iter().next().ok_or(Errno::ESRCH)
            }
        }
    }

    /// Its kernel-wide pid.
    fn pid(&self) -> Pid {
        match self {
            PidFd::Process(group) => group.pid,
            PidFd::Thread(task) => task.tid(),
        }
    }
}

impl OpenFile for PidFd {
    fn readiness(&self, _file: &File) -> Events {
        let ending = self.ending();
        let mut events = Events::empty();
        events.set(Events::READABLE, ending.has_reached(Stage::Ended));
        events.set(Events::HUP, ending.has_reached(Stage::Reaped));
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.ending().queue)
    }

    fn describe(&self) -> String {
        let number = match crate::task::current() {
            _ if self.ending().has_reached(Stage::Reaped) => -1,
            Some(reader) => reader.number_of(self.pid()),
            None => self.pid(),
        };
        format!("Pid:\t{number}\nNSpid:\t{number}\n")
    }
}

/// `pidfd_open(2)`.
pub fn pidfd_open(task: &CurrentTask, pid: Pid, flags: Flags) -> SysResult<Fd> {
    if flags.0 & !(NONBLOCK | THREAD) != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let pidfd = match (task.find_group(pid), task.find_task(pid)) {
        (_, Ok(thread)) if flags.0 & THREAD != 0 => PidFd::Thread(thread),
        (Ok(group), _) => PidFd::Process(group),
        // A thread that leads no process.
        (Err(_), Ok(_)) => return Err(Errno::ENOENT),
        (Err(_), Err(error)) => return Err(error),
    };
    let file = pidfd.open(OpenFlags::from_bits_retain(flags.0 & NONBLOCK));
    task.install(file, true)
}

/// Whom `pidfd_send_signal(2)` means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Thread,
    Process,
    ProcessGroup,
}

/// `pidfd_send_signal(2)`.
pub fn pidfd_send_signal(
    task: &CurrentTask,
    fd: Fd,
    number: i32,
    info: UserPtr<SigInfo>,
    flags: Flags,
) -> SysResult<()> {
    let scope = match flags.0 {
        0 => None,
        1 => Some(Scope::Thread),
        2 => Some(Scope::Process),
        4 => Some(Scope::ProcessGroup),
        _ => return Err(Errno::EINVAL),
    };
    let file = task.file(fd)?;
    let by_directory = match crate::fs::proc::process_of(&file) {
        Some(pid) => Some(PidFd::Process(task.kernel.tasks.group(pid).ok_or(Errno::ESRCH)?)),
        None => None,
    };
    let pidfd = match &by_directory {
        Some(pidfd) => pidfd,
        None => PidFd::from_file(&file)?,
    };
    let scope = scope.unwrap_or(match pidfd {
        PidFd::Process(_) => Scope::Process,
        PidFd::Thread(_) => Scope::Thread,
    });
    let own = match info.non_null() {
        Some(info) => {
            let info = task.read_object(info)?;
            if info.signo != number {
                return Err(Errno::EINVAL);
            }
            let to_self = pidfd.pid() == task.tid() && scope != Scope::ProcessGroup;
            if !to_self && (info.code >= 0 || info.code == SI_TKILL) {
                return Err(Errno::EPERM);
            }
            Some(info)
        }
        None => None,
    };
    let signal = parse(number)?;
    let code = if scope == Scope::Thread { SI_TKILL } else { SI_USER };
    let made = sender(task, pidfd.group(), signal.unwrap_or(Signal::SIGHUP), code);
    let info = own.unwrap_or(made);
    if scope == Scope::ProcessGroup {
        let group = crate::task::wait::process_group_of(task, pidfd.group().pid)?;
        return crate::signal::syscalls::kill(task, -task.number_of(group), number);
    }
    if pidfd.ending().has_reached(Stage::Reaped) {
        return Err(Errno::ESRCH);
    }
    if scope == Scope::Process {
        return send_checked(task, pidfd.group(), signal, info);
    }
    let target = pidfd.task(task)?;
    may_signal(task, &target, signal)?;
    match signal {
        Some(signal) if shielded(task, &target.group, signal) => Ok(()),
        Some(_) if !send_to_task(&task.kernel, &target, info) => Err(Errno::EAGAIN),
        _ => Ok(()),
    }
}

/// `pidfd_getfd(2)`.
pub fn pidfd_getfd(task: &CurrentTask, fd: Fd, target_fd: Fd, flags: Flags) -> SyscallResult<Fd> {
    if flags.0 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = task.file(fd)?;
    let target = PidFd::from_file(&file)?.task(task)?;
    if !may_inspect(task, &target) {
        return Err(Errno::EPERM.into());
    }
    Ok(task.install(target.file(target_fd)?, true)?)
}
