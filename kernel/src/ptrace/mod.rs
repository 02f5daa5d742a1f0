//! Tracing of tasks by others, `ptrace(2)`.
//!
//! A [`Tracee`] is the part of a task that tells who traces it and whether it stands in a stop. The traced thread itself
//! enters stops ([`stops`]) and stays in them until the tracer lets it go on; what the tracer asks for meanwhile
//! ([`requests`]) is answered from the state that the stop has published, or carried out by the traced thread.
//!
//! Lock order: process tree, the tracer's [`Tracees`], a tracee's state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::signal::{CLD_TRAPPED, SigInfo, Signal};
use abi::{Errno, SysResult};
use bitflags::bitflags;
use parking_lot::Mutex;
use platform::Registers;

use crate::task::exit::ended_info;
use crate::task::{CurrentTask, ExitStatus, Pid, Task, ThreadGroup};
use crate::wait::Events;

mod registers;
pub mod requests;
mod stops;

pub use stops::Verdict;

bitflags! {
    /// `PTRACE_O_*`
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Options: u32 {
        /// Stops at system calls are told from SIGTRAPs by a bit.
        const TRACESYSGOOD = 0x1;
        /// Stop at `fork(2)`, and trace the child.
        const TRACEFORK = 0x2;
        /// Stop at `vfork(2)`, and trace the child.
        const TRACEVFORK = 0x4;
        /// Stop at `clone(2)`, and trace the child.
        const TRACECLONE = 0x8;
        /// Stop at `execve(2)`.
        const TRACEEXEC = 0x10;
        /// Stop when a `vfork(2)` is done.
        const TRACEVFORKDONE = 0x20;
        /// Stop at the end.
        const TRACEEXIT = 0x40;
        /// Stop where a seccomp filter says so.
        const TRACESECCOMP = 0x80;
        /// Kill the tracee when the tracer ends.
        const EXITKILL = 0x10_0000;
    }
}

/// `PTRACE_EVENT_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of ptrace(2)")]
pub enum TraceEvent {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Seccomp = 7,
    Stop = 128,
}

impl TraceEvent {
    /// The option that asks for the event; none for [`TraceEvent::Stop`].
    fn option(self) -> Options {
        match self {
            TraceEvent::Fork => Options::TRACEFORK,
            TraceEvent::Vfork => Options::TRACEVFORK,
            TraceEvent::Clone => Options::TRACECLONE,
            TraceEvent::Exec => Options::TRACEEXEC,
            TraceEvent::VforkDone => Options::TRACEVFORKDONE,
            TraceEvent::Exit => Options::TRACEEXIT,
            TraceEvent::Seccomp => Options::TRACESECCOMP,
            TraceEvent::Stop => Options::empty(),
        }
    }

    /// The status of the stop, as `wait(2)` has it in its upper bytes.
    fn code(self, signal: Signal) -> i32 {
        signal.number() | (self as i32) << 8
    }
}

/// What a stop is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// A signal is about to be delivered.
    Signal,
    /// The whole group has stopped.
    Group,
    /// An event.
    Event(TraceEvent),
    /// A system call begins.
    CallEntry,
    /// A system call is done.
    CallExit,
}

/// How a tracee goes on after a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Until something happens.
    #[default]
    Free,
    /// To the begin or end of the next system call.
    ToCall,
    /// For one instruction.
    Step,
    /// To the next system call, which is not made.
    Emulate,
    /// For one instruction; a system call is not made.
    EmulateStep,
}

impl Mode {
    fn steps(self) -> bool {
        matches!(self, Mode::Step | Mode::EmulateStep)
    }

    fn emulates(self) -> bool {
        matches!(self, Mode::Emulate | Mode::EmulateStep)
    }
}

/// Something that a stopped tracee does for its tracer.
type Work = Box<dyn FnOnce(&CurrentTask) + Send>;

/// A stop that a tracee is in.
struct Stop {
    kind: StopKind,
    /// The signal, with the event in the next byte.
    code: i32,
    /// What `PTRACE_GETSIGINFO` gives.
    info: Option<SigInfo>,
    registers: Registers,
    /// Whether the tracer has changed the registers.
    changed: bool,
    /// Whether the tracer has waited for it.
    reported: bool,
    /// The tracer knows that the group has stopped and waits for it to go on (`PTRACE_LISTEN`).
    listening: bool,
    /// The signal to go on with, once the tracer has said that it goes on.
    resumed: Option<i32>,
    work: Option<Work>,
}

/// Who traces a task.
#[derive(Clone)]
pub struct Tracer {
    /// The thread.
    pub tid: Pid,
    /// Its process, which waits for the tracee.
    pub group: Arc<ThreadGroup>,
}

#[derive(Default)]
struct State {
    tracer: Option<Tracer>,
    seized: bool,
    options: Options,
    mode: Mode,
    message: u64,
    /// `PTRACE_INTERRUPT`, or the first stop of a tracee that began its life as one.
    interrupt: bool,
    /// The number of the group's stop that the tracer has made the task go on from.
    passed_stop: u64,
    stop: Option<Stop>,
}

/// The part of a task that has to do with its being traced.
#[derive(Default)]
pub struct Tracee {
    /// Whether there is a tracer; read on every system call.
    traced: AtomicBool,
    state: Mutex<State>,
}

impl Tracee {
    /// Whether the task is traced. While it is, no call is answered without the kernel, and no code is patched.
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Who traces the task.
    pub fn tracer(&self) -> Option<Tracer> {
        if self.is_traced() { self.state.lock().tracer.clone() } else { None }
    }

    /// Whether the task stands in a stop.
    pub fn is_stopped(&self) -> bool {
        self.is_traced() && self.state.lock().stop.is_some()
    }

    /// Whether the tracer has let the task go on from its group's stop of this number.
    pub fn has_passed(&self, stop: u64) -> bool {
        self.is_traced() && self.state.lock().passed_stop == stop
    }

    /// Whether the tracer wants it to stop.
    pub fn is_interrupted(&self) -> bool {
        self.is_traced() && self.state.lock().interrupt
    }

    /// Whether the tracer wants to know of an event.
    fn wants(&self, event: TraceEvent) -> bool {
        self.is_traced() && self.state.lock().options.contains(event.option())
    }

    /// The code of a stop that the tracer has not waited for; with `consume` it is then taken as waited for.
    pub fn news(&self, consume: bool) -> Option<i32> {
        let mut state = self.state.lock();
        let stop = state.stop.as_mut().filter(|stop| !stop.reported && stop.resumed.is_none())?;
        stop.reported = consume;
        Some(stop.code)
    }
}

/// A tracee that has ended and is none of the tracer's children, until the tracer has waited for it.
pub struct Ended {
    /// What the tracer's kind of `wait(2)` selects by.
    pub tid: Pid,
    /// The tracer's thread.
    pub tracer: Pid,
    /// Its process group.
    pub process_group: Pid,
    /// How it ended, and the record for `waitid(2)`, once that is known.
    pub news: Option<(ExitStatus, SigInfo)>,
}

/// The tasks that the threads of a process trace.
#[derive(Default)]
pub struct Tracees {
    living: Mutex<Vec<Weak<Task>>>,
    ended: Mutex<Vec<Ended>>,
}

impl Tracees {
    /// Those that live.
    pub fn living(&self) -> Vec<Arc<Task>> {
        self.living.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Runs `operation` on those that have ended.
    pub fn with_ended<T>(&self, operation: impl FnOnce(&mut Vec<Ended>) -> T) -> T {
        operation(&mut self.ended.lock())
    }

    fn remove(&self, task: &Task) {
        self.living.lock().retain(|other| !std::ptr::eq(other.as_ptr(), task) && other.strong_count() > 0);
    }
}

/// Makes `tracer` trace `task`: `EPERM` if somebody does already, or if it ends.
fn attach(task: &Arc<Task>, tracer: Tracer, seized: bool, options: Options) -> SysResult<()> {
    let group = Arc::clone(&tracer.group);
    {
        let mut state = task.ptrace.state.lock();
        if state.tracer.is_some() || task.is_exiting() {
            return Err(Errno::EPERM);
        }
        *state = State { tracer: Some(tracer), seized, options, ..State::default() };
        task.ptrace.traced.store(true, Ordering::SeqCst);
    }
    group.tracees.living.lock().push(Arc::downgrade(task));
    // From here on the kernel is to see all of its calls.
    task.change_answers();
    Ok(())
}

/// Frees a tracee; in a stop it goes on with `signal`.
fn detach(task: &Task, signal: i32) {
    let tracer = {
        let mut state = task.ptrace.state.lock();
        let Some(tracer) = state.tracer.take() else { return };
        task.ptrace.traced.store(false, Ordering::SeqCst);
        if let Some(stop) = &mut state.stop {
            stop.resumed = Some(signal);
        }
        // A group that has stopped is stopped for it again.
        (state.mode, state.interrupt, state.passed_stop) = (Mode::Free, false, 0);
        tracer
    };
    tracer.group.tracees.remove(task);
    task.change_answers();
    task.kick();
}

/// A tracer has ended: its tracees are free, or end with it.
pub fn tracer_ended(tracer: &Task) {
    for task in tracer.group.tracees.living() {
        let mine = task.ptrace.tracer().is_some_and(|own| own.tid == tracer.tid());
        if !mine {
            continue;
        }
        let kills = task.ptrace.state.lock().options.contains(Options::EXITKILL);
        detach(&task, 0);
        if kills {
            let status = ExitStatus::Signaled { signal: Signal::SIGKILL, core: false };
            task.kernel.end_group(&task.group, status);
        }
    }
    tracer.group.tracees.ended.lock().retain(|ended| ended.tracer != tracer.tid());
}

/// A task ends: its tracer is told, at once of a thread, with its process of a leader.
pub fn tracee_ended(task: &Arc<Task>) {
    let Some(tracer) = task.ptrace.tracer() else { return };
    if task.tid() == task.group.pid {
        // Until its process has ended it is there, and has no news.
        expect_end(&task.kernel, &tracer, task.tid(), &task.group);
        *task.group.leader_tracer.lock() = Some(tracer);
        return detach(task, 0);
    }
    let decided = *task.group.exit.lock();
    let status = match decided {
        Some(status @ ExitStatus::Signaled { .. }) => status,
        _ => ExitStatus::Exited(task.exit_code.load(Ordering::Relaxed)),
    };
    expect_end(&task.kernel, &tracer, task.tid(), &task.group);
    detach(task, 0);
    tell_of_end(&task.kernel, &tracer, task.tid(), &task.group, status);
}

/// A process ends: the tracer of its leader is told, if it is not the parent, who is told anyway.
pub fn process_ended(kernel: &crate::Kernel, group: &Arc<ThreadGroup>, status: ExitStatus) {
    let Some(tracer) = group.leader_tracer.lock().take() else { return };
    let parent = kernel.tasks.with(|tree| tree.process(group.pid).map_or(0, |process| process.parent));
    if parent == tracer.group.pid {
        let same = |ended: &Ended| ended.tid == group.pid && ended.tracer == tracer.tid;
        tracer.group.tracees.ended.lock().retain(|ended| !same(ended));
        tracer.group.child_queue.wake(Events::IN);
    } else {
        tell_of_end(kernel, &tracer, group.pid, group, status);
    }
}

/// Notes that the tracer will be told of an end.
fn expect_end(kernel: &crate::Kernel, tracer: &Tracer, tid: Pid, group: &ThreadGroup) {
    let alive = kernel.tasks.get(tracer.tid).is_some_and(|task| Arc::ptr_eq(&task.group, &tracer.group));
    if !alive {
        return;
    }
    let process_group =
        kernel.tasks.with(|tree| tree.process(group.pid).map_or(0, |process| process.process_group));
    let ended = Ended { tid, tracer: tracer.tid, process_group, news: None };
    tracer.group.tracees.ended.lock().push(ended);
}

/// Tells the tracer of an end that it expects.
fn tell_of_end(kernel: &crate::Kernel, tracer: &Tracer, tid: Pid, group: &ThreadGroup, status: ExitStatus) {
    let number = tracer.group.pid_namespace.number(tid);
    let info = ended_info(number, group.last_uid(), status);
    if let Some(ended) = tracer
        .group
        .tracees
        .ended
        .lock()
        .iter_mut()
        .find(|ended| ended.tid == tid && ended.tracer == tracer.tid && ended.news.is_none())
    {
        ended.news = Some((status, info));
    }
    crate::signal::send_to_group(kernel, &tracer.group, info);
    tracer.group.child_queue.wake(Events::IN);
}

/// The record of a stop.
pub fn stop_info(task: &Task, tracer: &ThreadGroup, code: i32) -> SigInfo {
    let number = tracer.pid_namespace.number(task.tid());
    SigInfo::child(CLD_TRAPPED, number, task.credentials().uid, code, 0, 0)
}
