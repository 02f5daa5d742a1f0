//! The tracee's side: entering stops, and what it does in them.

use std::sync::Arc;

use abi::Errno;
use abi::signal::{SI_USER, SigInfo, Signal};
use platform::Registers;

use super::{Mode, Stop, StopKind, TraceEvent, Tracer, attach};
use crate::error::{Restart, SyscallResult};
use crate::signal;
use crate::task::clone::CloneFlags;
use crate::task::{CurrentTask, ExitStatus, Pid, Task};
use crate::wait::{Deadline, Events};

/// What a tracer has made of a stop.
pub struct Resumed {
    /// The signal to go on with; zero for none.
    pub signal: i32,
    /// The record of the stop, which the tracer may have changed.
    info: Option<SigInfo>,
    /// Whether the registers have been changed.
    changed: bool,
}

/// What becomes of a signal after its stop.
pub enum Verdict {
    /// It is delivered like this.
    Deliver(Signal, SigInfo),
    /// It is gone.
    Drop,
}

/// `rax` of a call that is to be restarted, as a tracer sees it.
fn restart_code(restart: Restart) -> i64 {
    match restart {
        Restart::Sys => -512,
        Restart::NoIntr => -513,
        Restart::NoHand => -514,
        Restart::Block => -516,
    }
}

/// What registers say about a call that is to be restarted.
fn restart_of(registers: &Registers) -> Option<Restart> {
    if registers.orig_rax.cast_signed() < 0 {
        return None;
    }
    match registers.rax.cast_signed() {
        -512 => Some(Restart::Sys),
        -513 => Some(Restart::NoIntr),
        -514 => Some(Restart::NoHand),
        -516 => Some(Restart::Block),
        _ => None,
    }
}

impl CurrentTask {
    /// Stands still until the tracer lets it go on. `None` if there is no tracer (any more), or it has ended meanwhile.
    fn trace_stop(&self, kind: StopKind, code: i32, info: Option<SigInfo>, message: u64) -> Option<Resumed> {
        let registers = *self.context.borrow().registers();
        let at_exit = kind == StopKind::Event(TraceEvent::Exit);
        let ends = || if at_exit { self.is_killed() } else { self.is_exiting() };
        let tracer = {
            let mut state = self.ptrace.state.lock();
            let tracer = state.tracer.clone()?;
            if ends() {
                return None;
            }
            if matches!(kind, StopKind::Event(_) | StopKind::CallEntry | StopKind::CallExit) {
                state.message = message;
            }
            state.mode = Mode::Free;
            state.stop = Some(Stop {
                kind,
                code,
                info,
                registers,
                changed: false,
                reported: false,
                listening: false,
                resumed: None,
                work: None,
            });
            tracer
        };
        self.tell_tracer(&tracer);
        self.set_running(false);
        let stop = self.stand_still(&ends);
        self.set_running(true);
        let stop = stop?;
        if stop.changed {
            *self.context.borrow_mut().registers_mut() = stop.registers;
        }
        let signal = stop.resumed?;
        Some(Resumed { signal, info: stop.info, changed: stop.changed })
    }

    fn stand_still(&self, ends: &dyn Fn() -> bool) -> Option<Stop> {
        loop {
            let (work, retold) = {
                let mut state = self.ptrace.state.lock();
                let interrupted = state.interrupt;
                let stop = state.stop.as_mut()?;
                if stop.resumed.is_some() || ends() {
                    return state.stop.take();
                }
                let goes_on = stop.listening && (interrupted || !self.group.signals.is_stopped());
                if goes_on {
                    stop.kind = StopKind::Event(TraceEvent::Stop);
                    stop.code = TraceEvent::Stop.code(Signal::SIGTRAP);
                    stop.info = Some(SigInfo::new(Signal::SIGTRAP, stop.code));
                    (stop.listening, stop.reported) = (false, false);
                }
                let work = stop.work.take();
                if goes_on {
                    state.interrupt = false;
                }
                (work, if goes_on { state.tracer.clone() } else { None })
            };
            if let Some(tracer) = retold {
                self.tell_tracer(&tracer);
            }
            match work {
                Some(work) => work(self),
                None => drop(self.waiter.wait(Deadline::Never)),
            }
        }
    }

    /// Whether the process has been killed, rather than end by itself.
    fn is_killed(&self) -> bool {
        *self.group.exit.lock() == Some(ExitStatus::Signaled { signal: Signal::SIGKILL, core: false })
    }

    /// Tells the tracer that there is something to wait for.
    fn tell_tracer(&self, tracer: &Tracer) {
        let code = self.ptrace.state.lock().stop.as_ref().map_or(0, |stop| stop.code);
        if tracer.group.signals.wants_stops() {
            let info = super::stop_info(self, &tracer.group, code & 0x7f);
            signal::send_to_group(&self.kernel, &tracer.group, info);
        }
        tracer.group.child_queue.wake(Events::IN);
    }

    /// Stops for an event if the tracer wants to know of it. `message` is what `PTRACE_GETEVENTMSG` gives.
    pub fn trace_event(&self, event: TraceEvent, message: u64) {
        if self.ptrace.wants(event) {
            let code = event.code(Signal::SIGTRAP);
            self.trace_stop(StopKind::Event(event), code, Some(SigInfo::new(Signal::SIGTRAP, code)), message);
        }
    }

    /// Stops if the tracer has asked for it. Returns whether it did.
    pub fn trace_interrupt(&self, restart: &mut Option<Restart>) -> bool {
        if !self.ptrace.is_traced() || !std::mem::take(&mut self.ptrace.state.lock().interrupt) {
            return false;
        }
        let code = TraceEvent::Stop.code(Signal::SIGTRAP);
        let info = SigInfo::new(Signal::SIGTRAP, code);
        let resumed = self.trace_stop(StopKind::Event(TraceEvent::Stop), code, Some(info), 0);
        self.take_over(resumed.as_ref(), restart);
        true
    }

    /// Tells the tracer that the group has stopped by `signal`, its stop number `number`, and stays stopped until the
    /// tracer says otherwise.
    pub fn trace_group_stop(&self, signal: Signal, number: u64, restart: &mut Option<Restart>) {
        self.ptrace.state.lock().passed_stop = number;
        let code =
            if self.ptrace.state.lock().seized { TraceEvent::Stop.code(signal) } else { signal.number() };
        let resumed = self.trace_stop(StopKind::Group, code, None, 0);
        self.take_over(resumed.as_ref(), restart);
    }

    /// Shows a signal to the tracer, who decides what becomes of it.
    pub fn trace_signal(&self, signal: Signal, info: SigInfo, restart: &mut Option<Restart>) -> Verdict {
        if signal == Signal::SIGKILL {
            return Verdict::Deliver(signal, info);
        }
        let Some(resumed) = self.trace_stop(StopKind::Signal, signal.number(), Some(info), 0) else {
            return if self.is_exiting() { Verdict::Drop } else { Verdict::Deliver(signal, info) };
        };
        self.take_over(Some(&resumed), restart);
        let Some(chosen) = Signal::new(resumed.signal) else { return Verdict::Drop };
        let shown = resumed.info.unwrap_or(info);
        let info = if shown.signo == chosen.number() {
            shown
        } else {
            let sender = self.ptrace.tracer();
            let number = sender.map_or(0, |tracer| self.number_of(tracer.group.pid));
            SigInfo::user(chosen, SI_USER, number, 0)
        };
        if self.signals.mask().contains(chosen) {
            signal::requeue(self, chosen, info);
            return Verdict::Drop;
        }
        Verdict::Deliver(chosen, info)
    }

    /// What the tracer has changed about a call that is to be restarted.
    fn take_over(&self, resumed: Option<&Resumed>, restart: &mut Option<Restart>) {
        if resumed.is_some_and(|resumed| resumed.changed) {
            *restart = restart_of(self.context.borrow().registers());
        }
    }

    /// Shows a tracer that a call is to be restarted.
    pub fn show_restart(&self, restart: Restart) {
        self.context.borrow_mut().registers_mut().rax = restart_code(restart).cast_unsigned();
    }

    /// Stops before a system call if the tracer wants it. Returns whether the call is to be made.
    pub fn trace_call_entry(&self) -> bool {
        let mode = self.ptrace.state.lock().mode;
        if !(mode == Mode::ToCall || mode.emulates()) {
            return true;
        }
        self.trace_call(StopKind::CallEntry, 1);
        let skipped = (self.context.borrow().registers().orig_rax as i32) < 0;
        !mode.emulates() && !skipped
    }

    /// Stops after a system call if the tracer wants it.
    pub fn trace_call_exit(&self, restart: &mut Option<Restart>) {
        let mode = self.ptrace.state.lock().mode;
        if mode == Mode::ToCall {
            let resumed = self.trace_call(StopKind::CallExit, 2);
            self.take_over(resumed.as_ref(), restart);
        } else if mode.steps() {
            self.trace_step();
        }
    }

    fn trace_call(&self, kind: StopKind, message: u64) -> Option<Resumed> {
        const GOOD: i32 = 0x80;
        let good = self.ptrace.state.lock().options.contains(super::Options::TRACESYSGOOD);
        let code = Signal::SIGTRAP.number() | if good { GOOD } else { 0 };
        let resumed = self.trace_stop(kind, code, Some(SigInfo::new(Signal::SIGTRAP, code)), message)?;
        if let Some(signal) = Signal::new(resumed.signal) {
            signal::requeue(self, signal, SigInfo::user(signal, SI_USER, 0, 0));
        }
        Some(resumed)
    }

    /// A step is done: what Linux makes of it is a SIGTRAP.
    pub fn trace_step(&self) {
        const TRAP_TRACE: i32 = 2;
        let place = self.context.borrow().registers().rip;
        signal::force(self, SigInfo::fault(Signal::SIGTRAP, TRAP_TRACE, place), None);
    }

    /// Whether the tracer wants it to execute a single instruction.
    pub fn trace_steps(&self) -> bool {
        self.ptrace.is_traced() && self.ptrace.state.lock().mode.steps()
    }

    /// A seccomp filter leaves a call to the tracer: `ENOSYS` if there is none that listens. Returns whether the call is
    /// to be made.
    pub fn trace_seccomp(&self, data: u32) -> SyscallResult<bool> {
        if !self.ptrace.wants(TraceEvent::Seccomp) {
            return Err(Errno::ENOSYS.into());
        }
        self.trace_event(TraceEvent::Seccomp, data.into());
        Ok((self.context.borrow().registers().orig_rax as i32) >= 0)
    }

    /// After `execve(2)`: the event, or the SIGTRAP that older tracers rely on. `before` is the thread's former id.
    pub fn trace_exec(&self, before: Pid) {
        let Some(tracer) = self.ptrace.tracer() else { return };
        if self.ptrace.wants(TraceEvent::Exec) {
            let number = tracer.group.pid_namespace.number(before);
            self.trace_event(TraceEvent::Exec, number.unsigned_abs().into());
        } else if !self.ptrace.state.lock().seized {
            let info = SigInfo::user(Signal::SIGTRAP, SI_USER, self.group.number, 0);
            signal::requeue(self, Signal::SIGTRAP, info);
        }
    }

    /// Which event the making of a task is, if the tracer wants to know of it.
    pub fn clone_event(&self, flags: CloneFlags, exit_signal: Option<Signal>) -> Option<TraceEvent> {
        let event = if flags.contains(CloneFlags::VFORK) {
            TraceEvent::Vfork
        } else if exit_signal == Some(Signal::SIGCHLD) {
            TraceEvent::Fork
        } else {
            TraceEvent::Clone
        };
        (!flags.contains(CloneFlags::UNTRACED) && self.ptrace.wants(event)).then_some(event)
    }

    /// Makes the tracer trace a child, which stops before it executes anything.
    pub fn share_tracer(&self, child: &Arc<Task>) {
        let (tracer, seized, options) = {
            let state = self.ptrace.state.lock();
            let Some(tracer) = state.tracer.clone() else { return };
            (tracer, state.seized, state.options)
        };
        if attach(child, tracer, seized, options).is_err() {
            return;
        }
        if seized {
            child.ptrace.state.lock().interrupt = true;
        } else {
            signal::requeue(child, Signal::SIGSTOP, SigInfo::user(Signal::SIGSTOP, SI_USER, 0, 0));
        }
    }

    /// Makes the parent trace it.
    pub fn trace_me(&self) -> abi::SysResult<()> {
        let tracer = self.kernel.tasks.with(|tree| {
            let process = tree.process(self.group.pid)?;
            let parent = tree.process(process.parent)?;
            let maker = parent.tasks.iter().find(|task| task.tid() == process.parent_thread);
            let thread = maker.or_else(|| parent.tasks.first())?;
            Some(Tracer { tid: thread.tid(), group: Arc::clone(&parent.group) })
        });
        attach(&self.task, tracer.ok_or(Errno::EPERM)?, false, super::Options::empty())
    }
}
