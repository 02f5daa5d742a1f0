//! Waiting for children: `wait4(2)` and `waitid(2)`.

use std::sync::Arc;
use std::time::Duration;

use abi::signal::{SigInfo, Signal};
use abi::time::TimeVal;
use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::exit::child_info;
use super::pidfd::PidFd;
use super::table::{ChildEvent, Process, Tree};
use super::{CurrentTask, ExitStatus, Peak, Pid, Task, ThreadGroup};
use crate::error::{SysError, SyscallResult};
use crate::ptrace::Ended;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::user::UserPtr;
use crate::wait::{Deadline, Events};

const WNOHANG: u32 = 1;
const WUNTRACED: u32 = 2;
const WSTOPPED: u32 = 2;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x0100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

/// Which children are waited for.
#[derive(Clone)]
enum Selection {
    All,
    Process(Pid),
    Group(Pid),
    /// This very process, whatever others have had its number.
    Exactly(Arc<ThreadGroup>),
}

impl Selection {
    fn includes(&self, process: &Process) -> bool {
        match self {
            Selection::All => true,
            Selection::Process(pid) => process.group.pid == *pid,
            Selection::Group(group) => process.process_group == *group,
            Selection::Exactly(group) => Arc::ptr_eq(&process.group, group),
        }
    }

    /// The same of a task that the caller traces.
    fn includes_task(&self, tid: Pid, process_group: Pid, group: Option<&Arc<ThreadGroup>>) -> bool {
        match self {
            Selection::All => true,
            Selection::Process(pid) => tid == *pid,
            Selection::Group(group) => process_group == *group,
            Selection::Exactly(wanted) => {
                group.is_some_and(|group| group.pid == tid && Arc::ptr_eq(group, wanted))
            }
        }
    }
}

/// `struct rusage`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are those of getrusage(2)")]
pub struct Rusage {
    pub user: TimeVal,
    pub system: TimeVal,
    pub max_rss: i64,
    pub rest: [i64; 13],
}

/// A child that was found.
struct Found {
    event: ChildEvent,
    info: SigInfo,
    /// Processor time, and memory.
    used: ((Duration, Duration), Peak),
}

impl Found {
    fn rusage(&self) -> Rusage {
        let (time, peak) = &self.used;
        rusage(*time, peak.clone().bytes())
    }
}

impl CurrentTask {
    /// Waits for a child of the selection with one of the wanted kinds of news. `None` for `WNOHANG` without news.
    fn wait_child(&self, selection: &Selection, options: u32) -> SyscallResult<Option<Found>> {
        let deadline = if options & WNOHANG != 0 { Deadline::Now } else { Deadline::Never };
        let sleeps = deadline == Deadline::Never;
        let look = |sleeps: bool| loop {
            match self.kernel.tasks.with(|tree| find(tree, self, selection, options)) {
                // Who can sleep is woken when it is there: whoever tells may wait for a processor.
                Err(Looked::Telling) if sleeps => return Err(Errno::EAGAIN.into()),
                Err(Looked::Telling) => std::thread::yield_now(),
                Err(Looked::Failed(error)) => return Err(error),
                Ok(found) => return Ok(found),
            }
        };
        match self.block_on(&self.group.child_queue, Events::IN, deadline, || look(sleeps)) {
            Err(error) if error.is(Errno::EAGAIN) => Ok(None),
            // It may be the signal of just such a child that ends the sleep.
            Err(SysError::Restart(restart)) => look(false).map(Some).map_err(|_| restart.into()),
            result => result.map(Some),
        }
    }
}

/// Why no child was found.
enum Looked {
    /// One has news, of which the signal is just being sent; it will be there at once.
    Telling,
    /// `ECHILD`, `EAGAIN`
    Failed(SysError),
}

/// Looks for a child with news: `ECHILD` if there is none of the selection at all, `EAGAIN` if none has news.
fn find(tree: &mut Tree, task: &Task, selection: &Selection, options: u32) -> Result<Found, Looked> {
    let parent = task.group.pid;
    let threads: Vec<Pid> =
        tree.process(parent).map_or_else(Vec::new, |own| own.tasks.iter().map(|task| task.tid()).collect());
    // Children of a thread that has ended belong to the first that has not.
    let own_child = |thread: Pid| {
        let heir = threads.first() == Some(&task.tid()) && !threads.contains(&thread);
        options & WNOTHREAD == 0 || thread == task.tid() || heir
    };
    let children = tree.process(parent).map(|process| process.children.clone()).unwrap_or_default();
    let info = |tree: &Tree, pid, event| {
        let (process, parent) = (tree.process(pid)?, tree.process(parent)?);
        Some(child_info(process, event, parent))
    };
    let (found, mut any) = find_tracee(tree, task, selection, options);
    if let Some(found) = found {
        return Ok(found);
    }
    for pid in children {
        let Some(process) = tree.process_mut(pid) else { continue };
        // Children whose end is told by another signal than SIGCHLD are for those who ask for them.
        let clone_child = process.exit_signal != Some(Signal::SIGCHLD);
        let of_kind = options & WALL != 0 || clone_child == (options & WCLONE != 0);
        if !selection.includes(process) || !of_kind || !own_child(process.parent_thread) {
            continue;
        }
        any = true;
        let event = match (process.zombie, process.news) {
            (Some(status), _) if options & WEXITED != 0 => ChildEvent::Exited(status),
            (None, Some(event @ ChildEvent::Stopped(_))) if options & WSTOPPED != 0 => event,
            (None, Some(ChildEvent::Continued)) if options & WCONTINUED != 0 => ChildEvent::Continued,
            _ => continue,
        };
        if process.telling {
            return Err(Looked::Telling);
        }
        let mut peak = process.group.final_peak();
        peak.add(&process.children_peak);
        let used = (process.group.final_time(), peak);
        let found = info(tree, pid, event).ok_or(Looked::Failed(Errno::ECHILD.into()))?;
        if options & WNOWAIT == 0 {
            if let Some(process) = tree.process_mut(pid) {
                process.news = None;
            }
            if matches!(event, ChildEvent::Exited(_))
                && let Some(child) = tree.reap(pid)
            {
                let (user, system) = child.group.final_time();
                if let Some(own) = tree.process_mut(parent) {
                    own.children_time.0 += user + child.children_time.0;
                    own.children_time.1 += system + child.children_time.1;
                    own.children_peak.add(&used.1);
                }
            }
        }
        return Ok(Found { event, info: found, used });
    }
    Err(Looked::Failed(if any { Errno::EAGAIN } else { Errno::ECHILD }.into()))
}

/// Looks for news of a task that the caller traces; tells whether there is any of the selection.
fn find_tracee(tree: &Tree, task: &Task, selection: &Selection, options: u32) -> (Option<Found>, bool) {
    let mine = |tracer: Pid| options & WNOTHREAD == 0 || tracer == task.tid();
    let consume = options & WNOWAIT == 0;
    let mut any = false;
    for tracee in task.group.tracees.living() {
        let Some(tracer) = tracee.ptrace.tracer() else { continue };
        let process_group = tree.process(tracee.group.pid).map_or(0, |process| process.process_group);
        if !mine(tracer.tid) || !selection.includes_task(tracee.tid(), process_group, Some(&tracee.group)) {
            continue;
        }
        any = true;
        if let Some(code) = tracee.ptrace.news(consume) {
            let info = crate::ptrace::stop_info(&tracee, &task.group, code);
            let found = Found { event: ChildEvent::Traced(code), info, used: Default::default() };
            return (Some(found), true);
        }
    }
    let found = task.group.tracees.with_ended(|ended| {
        let of_selection =
            |one: &Ended| mine(one.tracer) && selection.includes_task(one.tid, one.process_group, None);
        any |= ended.iter().any(of_selection);
        if options & WEXITED == 0 {
            return None;
        }
        let at = ended.iter().position(|one| of_selection(one) && one.news.is_some())?;
        let (status, info) = ended[at].news?;
        if consume {
            ended.remove(at);
        }
        Some(Found { event: ChildEvent::Exited(status), info, used: Default::default() })
    });
    (found, any)
}

/// Processor times, and bytes in memory, as `struct rusage` has them.
pub fn rusage((user, system): (Duration, Duration), peak: u64) -> Rusage {
    let max_rss = (peak / 1024).cast_signed();
    Rusage { user: user.into(), system: system.into(), max_rss, ..Rusage::default() }
}

/// `wait4(2)`.
pub fn wait4(
    task: &CurrentTask,
    pid: i32,
    status: UserPtr<i32>,
    options: Flags,
    usage: UserPtr<Rusage>,
) -> SyscallResult<Pid> {
    let options = options.0;
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WCLONE | WALL) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let selection = match pid {
        -1 => Selection::All,
        0 => Selection::Group(own_process_group(task)?),
        i32::MIN => return Err(Errno::ESRCH.into()),
        // A number that stands for nothing selects no child.
        pid if pid < 0 => Selection::Group(task.pid_of(-pid).unwrap_or(0)),
        pid => Selection::Process(task.pid_of(pid).unwrap_or(0)),
    };
    let Some(found) = task.wait_child(&selection, options | WEXITED)? else { return Ok(0) };
    if let Some(status) = status.non_null() {
        let word = match found.event {
            ChildEvent::Exited(status) => status.wait_status(),
            ChildEvent::Stopped(signal) => signal.number() << 8 | 0x7f,
            ChildEvent::Continued => 0xffff,
            ChildEvent::Traced(code) => code << 8 | 0x7f,
        };
        task.write_object(status, &word)?;
    }
    if let Some(usage) = usage.non_null() {
        task.write_object(usage, &found.rusage())?;
    }
    Ok(found.info.word(0))
}

/// The process group of the calling process.
pub(crate) fn own_process_group(task: &CurrentTask) -> SysResult<Pid> {
    process_group_of(task, task.group.pid)
}

/// The process group of a process.
pub(crate) fn process_group_of(task: &CurrentTask, pid: Pid) -> SysResult<Pid> {
    task.kernel.tasks.with(|tree| tree.process(pid).map(|p| p.process_group)).ok_or(Errno::ESRCH)
}

/// `waitid(2)`.
pub fn waitid(
    task: &CurrentTask,
    kind: u32,
    id: i32,
    info: UserPtr<SigInfo>,
    options: Flags,
    usage: UserPtr<Rusage>,
) -> SyscallResult<()> {
    const P_ALL: u32 = 0;
    const P_PID: u32 = 1;
    const P_PGID: u32 = 2;
    const P_PIDFD: u32 = 3;
    let options = options.0;
    let known = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | WNOTHREAD | WCLONE | WALL;
    if options & !known != 0 || options & (WEXITED | WSTOPPED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut nonblocking = false;
    let selection = match kind {
        P_ALL => Selection::All,
        P_PID if id > 0 => Selection::Process(task.pid_of(id).unwrap_or(0)),
        P_PGID if id == 0 => Selection::Group(own_process_group(task)?),
        P_PGID if id > 0 => Selection::Group(task.pid_of(id).unwrap_or(0)),
        P_PIDFD if id >= 0 => {
            let file = task.file(Fd(id))?;
            nonblocking = file.flags().contains(abi::fs::OpenFlags::NONBLOCK);
            Selection::Exactly(Arc::clone(PidFd::from_file(&file)?.group()))
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let found = task.wait_child(&selection, if nonblocking { options | WNOHANG } else { options })?;
    if found.is_none() && nonblocking && options & WNOHANG == 0 {
        return Err(Errno::EAGAIN.into());
    }
    if let (Some(usage), Some(found)) = (usage.non_null(), &found) {
        task.write_object(usage, &found.rusage())?;
    }
    if let Some(info) = info.non_null() {
        task.write_object(info, &found.map(|found| found.info).unwrap_or_default())?;
    }
    Ok(())
}

impl From<ExitStatus> for ChildEvent {
    fn from(status: ExitStatus) -> ChildEvent {
        ChildEvent::Exited(status)
    }
}
