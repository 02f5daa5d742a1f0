//! Limiting the system calls of a task, `seccomp(2)`.
//!
//! A task is in strict mode, or has [`Filter`]s, which it inherits and can only add to; [`check`] asks them before a
//! call is served. They guard a guest's programs from each other and themselves: what keeps guests from the host is
//! the platform's, and does not depend on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use abi::Errno;
use abi::seccomp::{
    AUDIT_ARCH_X86_64, RET_ACTION, RET_ALLOW, RET_DATA, RET_ERRNO, RET_KILL_PROCESS, RET_KILL_THREAD,
    RET_LOG, RET_TRACE, RET_TRAP, RET_USER_NOTIF, SeccompData,
};
use abi::signal::{SigInfo, Signal};
use parking_lot::Mutex;

use crate::error::SyscallResult;
use crate::task::{CurrentTask, ExitStatus, Task};

mod filter;
pub mod syscalls;

pub use filter::Filter;

/// The most instructions that all filters of a task may have; each filter counts as four more.
const MAX_PATH: usize = 32_768;
const FILTER_PENALTY: usize = 4;

/// How a task's system calls are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Not at all.
    Disabled = 0,
    /// `read`, `write`, `exit` and `rt_sigreturn` only.
    Strict = 1,
    /// By filters.
    Filter = 2,
}

/// The limits of a task.
#[derive(Default)]
pub struct Seccomp {
    mode: AtomicU8,
    filters: Mutex<Arc<[Arc<Filter>]>>,
}

impl Seccomp {
    /// The limits of a first task: those of `filters`, the oldest first.
    pub fn with_filters(filters: &[Arc<Filter>]) -> Seccomp {
        let mode = if filters.is_empty() { Mode::Disabled } else { Mode::Filter };
        Seccomp { mode: AtomicU8::new(mode as u8), filters: Mutex::new(filters.into()) }
    }

    /// The same limits, for a new task.
    pub fn inherit(&self) -> Seccomp {
        let filters = Arc::clone(&self.filters.lock());
        Seccomp { mode: AtomicU8::new(self.mode.load(Ordering::SeqCst)), filters: Mutex::new(filters) }
    }

    /// How calls are limited.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::SeqCst) {
            0 => Mode::Disabled,
            1 => Mode::Strict,
            _ => Mode::Filter,
        }
    }

    /// Whether any call is limited. While this is false, calls may be answered without the kernel.
    pub fn is_active(&self) -> bool {
        self.mode.load(Ordering::Relaxed) != 0
    }

    /// Whether these calls are allowed whatever their arguments, so that nobody need ask when they are made.
    pub fn always_allows(&self, numbers: &[u32]) -> bool {
        match self.mode() {
            Mode::Disabled => true,
            Mode::Strict => false,
            Mode::Filter => {
                let filters = Arc::clone(&self.filters.lock());
                filters.iter().all(|filter| numbers.iter().all(|number| filter.always_allows(*number)))
            }
        }
    }

    /// How many filters there are.
    pub fn count(&self) -> usize {
        self.filters.lock().len()
    }

    fn set_filters(&self, filters: Arc<[Arc<Filter>]>) {
        *self.filters.lock() = filters;
        self.mode.store(Mode::Filter as u8, Ordering::SeqCst);
    }

    /// Adds a filter, which is asked before the older ones: `EINVAL` in strict mode, `ENOMEM` for too many.
    pub fn add(&self, filter: Arc<Filter>) -> Result<(), Errno> {
        let filters = self.with_added(filter)?;
        self.set_filters(filters);
        Ok(())
    }

    fn with_added(&self, filter: Arc<Filter>) -> Result<Arc<[Arc<Filter>]>, Errno> {
        if self.mode() == Mode::Strict {
            return Err(Errno::EINVAL);
        }
        let old = self.filters.lock();
        let path: usize = old.iter().map(|filter| filter.length() + FILTER_PENALTY).sum();
        if path + filter.length() > MAX_PATH {
            return Err(Errno::ENOMEM);
        }
        Ok(old.iter().cloned().chain([filter]).collect())
    }

    /// Whether the filters of `other` are the oldest of these.
    fn descends_from(&self, other: &Seccomp) -> bool {
        let (own, other) = (Arc::clone(&self.filters.lock()), Arc::clone(&other.filters.lock()));
        own.len() >= other.len() && own.iter().zip(&*other).all(|(one, two)| Arc::ptr_eq(one, two))
    }

    /// What the filters say to a call: of their answers the strictest.
    fn verdict(&self, data: &SeccompData) -> u32 {
        let filters = Arc::clone(&self.filters.lock());
        let number = data.number.cast_unsigned();
        if data.architecture == AUDIT_ARCH_X86_64 && filters.iter().all(|one| one.always_allows(number)) {
            return RET_ALLOW;
        }
        let severity = |answer: u32| (answer & RET_ACTION).cast_signed();
        filters.iter().rev().fold(RET_ALLOW, |strictest, filter| {
            let answer = filter.run(data);
            if severity(answer) < severity(strictest) { answer } else { strictest }
        })
    }
}

/// What is to become of a system call.
pub enum Decision {
    /// It is served.
    Serve,
    /// It is not, and has this result.
    Skip(SyscallResult),
}

/// Asks the limits of the task about the call that it is in.
pub fn check(task: &CurrentTask) -> Decision {
    ask(task, false)
}

/// `seen` tells that a tracer has seen the call already, and may have made it another one.
fn ask(task: &CurrentTask, seen: bool) -> Decision {
    let data = {
        let context = task.context.borrow();
        let registers = context.registers();
        SeccompData {
            number: registers.orig_rax as i32,
            architecture: AUDIT_ARCH_X86_64,
            instruction_pointer: registers.rip,
            arguments: registers.arguments(),
        }
    };
    match task.seccomp.mode() {
        Mode::Disabled => return Decision::Serve,
        Mode::Strict if matches!(data.number, 0 | 1 | 15 | 60) => return Decision::Serve,
        Mode::Strict => {
            end_thread(task, Signal::SIGKILL);
            return Decision::Skip(Ok(0));
        }
        Mode::Filter => {}
    }
    let answer = task.seccomp.verdict(&data);
    match answer & RET_ACTION {
        RET_ALLOW | RET_LOG => Decision::Serve,
        RET_ERRNO => {
            let number = i32::from((answer & RET_DATA).min(4095) as u16);
            Decision::Skip(if number == 0 { Ok(0) } else { Err(Errno::from_raw(number).into()) })
        }
        RET_TRAP => {
            // The handler finds the number where it was before the call.
            let info = system_call_info(&data, answer & RET_DATA);
            crate::signal::force(task, info, None);
            Decision::Skip(Ok(data.number as u64 & 0xffff_ffff))
        }
        RET_TRACE if seen => Decision::Serve,
        RET_TRACE => match task.trace_seccomp(answer & RET_DATA) {
            Ok(true) => ask(task, true),
            Ok(false) => Decision::Skip(Ok(task.context.borrow().registers().rax)),
            Err(error) => Decision::Skip(Err(error)),
        },
        // Nobody listens to notifications.
        RET_USER_NOTIF => Decision::Skip(Err(Errno::ENOSYS.into())),
        RET_KILL_THREAD if task.kernel.tasks.tasks_of(task.group.pid).len() > 1 => {
            end_thread(task, Signal::SIGSYS);
            Decision::Skip(Ok(0))
        }
        // `RET_KILL_PROCESS`, and every answer that is unknown.
        _ => {
            task.exit_group(ExitStatus::Signaled { signal: Signal::SIGSYS, core: false });
            Decision::Skip(Ok(0))
        }
    }
}

/// Ends the thread; its process, if it is the last one, as if killed by `signal`.
fn end_thread(task: &CurrentTask, signal: Signal) {
    if task.kernel.tasks.tasks_of(task.group.pid).len() <= 1 {
        task.group.exit.lock().get_or_insert(ExitStatus::Signaled { signal, core: false });
    }
    task.request_exit();
}

/// The record of the SIGSYS that a filter sends.
fn system_call_info(data: &SeccompData, errno: u32) -> SigInfo {
    const SYS_SECCOMP: i32 = 1;
    let mut info = SigInfo::new(Signal::SIGSYS, SYS_SECCOMP);
    info.errno = errno.cast_signed();
    info.put(0, &data.instruction_pointer.to_ne_bytes());
    info.put(8, &data.number.to_ne_bytes());
    info.put(12, &data.architecture.to_ne_bytes());
    info
}

/// The actions that a filter may use here. A listener for `RET_USER_NOTIF` cannot be had.
pub const ACTIONS: [u32; 7] =
    [RET_KILL_PROCESS, RET_KILL_THREAD, RET_TRAP, RET_ERRNO, RET_TRACE, RET_LOG, RET_ALLOW];

/// Gives the filters of `source`, one more than before, to all other threads of its process: the first that has
/// filters which `source` has not is returned, and nothing changed.
fn synchronize(source: &CurrentTask, filter: Arc<Filter>) -> Result<Result<(), Arc<Task>>, Errno> {
    let filters = source.seccomp.with_added(filter)?;
    // With the tree locked no thread is made meanwhile, which might inherit what was there before.
    source.kernel.tasks.with(|tree| {
        let threads = tree.process(source.group.pid).map_or_else(Vec::new, |process| process.tasks.clone());
        let others = threads.iter().filter(|task| task.tid() != source.tid() && !task.is_exiting());
        let fits = |task: &Task| {
            task.seccomp.mode() == Mode::Disabled
                || (task.seccomp.mode() == Mode::Filter && source.seccomp.descends_from(&task.seccomp))
        };
        if let Some(other) = others.clone().find(|task| !fits(task)) {
            return Ok(Err(Arc::clone(other)));
        }
        let no_new_privileges = source.credentials().no_new_privileges;
        for other in others {
            other.seccomp.set_filters(Arc::clone(&filters));
            other.change_answers();
            other.kick();
            if no_new_privileges {
                other.set_no_new_privileges();
            }
        }
        source.seccomp.set_filters(filters);
        source.change_answers();
        Ok(Ok(()))
    })
}
