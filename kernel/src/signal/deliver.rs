//! What happens to pending signals when a task is about to return to guest code.

use abi::Errno;
use abi::signal::{
    SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_DFL, SIG_IGN, SigAction, SigInfo, Signal, SignalSet,
};

use super::{Default_, default_action, frame};
use crate::error::Restart;
use crate::ptrace::Verdict;
use crate::task::table::ChildEvent;
use crate::task::{CurrentTask, ExitStatus};
use crate::wait::Deadline;

/// Handles what is pending before the task goes on in guest code: signals, stops, the group's end. `restart` tells
/// that a system call was interrupted.
pub fn deliver(task: &CurrentTask, mut restart: Option<Restart>) {
    let mut handled = false;
    loop {
        if task.is_exiting() {
            return;
        }
        if task.trace_interrupt(&mut restart) {
            continue;
        }
        let stop = task.group.signals.current_stop();
        if let Some((number, signal)) = stop
            && task.ptrace.is_traced()
            && !task.ptrace.has_passed(number)
        {
            task.trace_group_stop(signal, number, &mut restart);
            continue;
        }
        if stop.is_some_and(|(number, _)| !task.ptrace.has_passed(number)) {
            task.set_running(false);
            task.waiter.wait(Deadline::Never);
            task.set_running(true);
            // It may have been let go on in a container that is paused meanwhile.
            task.park_while_paused();
            continue;
        }
        let Some((info, fault)) = next(task) else { break };
        let Some(signal) = Signal::new(info.signo) else { continue };
        let (signal, info) = match task.ptrace.is_traced() {
            true => match task.trace_signal(signal, info, &mut restart) {
                Verdict::Deliver(signal, info) => (signal, info),
                Verdict::Drop => continue,
            },
            false => (signal, info),
        };
        let steps = task.trace_steps();
        let action = task.group.signals.action(signal);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => act(task, signal, &info, fault.as_ref()),
            _ => {
                interrupt_call(task, restart.take(), Some(action));
                enter_handler(task, signal, action, &info, fault);
                handled = true;
                if steps {
                    task.trace_step();
                }
            }
        }
    }
    interrupt_call(task, restart, None);
    if !handled {
        let saved = task.signals.state.lock().saved_mask.take();
        if let Some(mask) = saved {
            task.set_signal_mask(mask);
        }
    }
    super::pass_on(task);
    task.offer_own_state();
}

/// The next signal that the task does not block.
fn next(task: &CurrentTask) -> Option<(SigInfo, Option<platform::Fault>)> {
    let mut group = task.group.signals.state.lock();
    let mut state = task.signals.state.lock();
    let wanted = SignalSet(!state.mask().0);
    let info = state.pending.take(wanted).or_else(|| group.pending.take(wanted))?;
    let fault = state.fault.take_if(|fault| fault.signal.number() == info.signo);
    Some((info, fault))
}

/// Carries out the default action.
fn act(task: &CurrentTask, signal: Signal, info: &SigInfo, fault: Option<&platform::Fault>) {
    match default_action(signal) {
        Default_::Ignore | Default_::Continue => {}
        Default_::Terminate => task.exit_group(ExitStatus::Signaled { signal, core: false }),
        Default_::Core => {
            super::fatal::report(task, signal, info, fault);
            task.exit_group(ExitStatus::Signaled { signal, core: false });
        }
        Default_::Stop => {
            let orphaned = || {
                task.kernel.tasks.with(|tree| {
                    tree.process(task.group.pid)
                        .is_some_and(|process| tree.is_orphaned(process.process_group))
                })
            };
            if signal != Signal::SIGSTOP && orphaned() {
                return;
            }
            let already = {
                let mut state = task.group.signals.state.lock();
                state.stops += u64::from(!state.stopped);
                state.stop_signal = Some(signal);
                std::mem::replace(&mut state.stopped, true)
            };
            if !already {
                task.kernel.tasks.tasks_of(task.group.pid).iter().for_each(|other| other.kick());
                task.kernel.child_changed(task.group.pid, ChildEvent::Stopped(signal));
            }
        }
    }
}

/// Decides what becomes of an interrupted system call: `handler` is the action of the signal that interrupted it, if
/// that runs a handler.
fn interrupt_call(task: &CurrentTask, restart: Option<Restart>, handler: Option<SigAction>) {
    const SYSCALL_LENGTH: u64 = 2;
    const RESTART_SYSCALL: u64 = 219;
    let Some(restart) = restart else { return };
    let again = match (restart, handler) {
        (Restart::NoIntr, _) | (_, None) => true,
        (Restart::Sys, Some(action)) => action.flags & SA_RESTART != 0,
        (Restart::NoHand | Restart::Block, Some(_)) => false,
    };
    let mut context = task.context.borrow_mut();
    let registers = context.registers_mut();
    if again {
        registers.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
        let block = restart == Restart::Block;
        registers.rax = if block { RESTART_SYSCALL } else { registers.orig_rax };
    } else {
        registers.rax = Errno::EINTR.to_ret();
    }
    registers.orig_rax = u64::MAX;
}

/// Makes the guest continue in a signal handler.
fn enter_handler(
    task: &CurrentTask,
    signal: Signal,
    action: SigAction,
    info: &SigInfo,
    fault: Option<platform::Fault>,
) {
    let mask = {
        let mut state = task.signals.state.lock();
        let now = state.mask();
        let mask = state.saved_mask.take().unwrap_or(now);
        let mut blocked = now.union(action.mask);
        if action.flags & SA_NODEFER == 0 {
            blocked.insert(signal);
        }
        state.set_mask(blocked);
        mask
    };
    if action.flags & SA_RESETHAND != 0 {
        task.group.signals.set_action(signal, SigAction { handler: SIG_DFL, ..action });
    }
    if frame::push(task, signal, action, info, mask, fault).is_err() {
        // The host may have ended the process meanwhile, for want of memory.
        if task.context.borrow_mut().memory(&[]) == Err(Errno::ESRCH) {
            task.exit_group(ExitStatus::Signaled { signal: Signal::SIGKILL, core: false });
            return;
        }
        // The stack is gone: what Linux does is to force SIGSEGV, without a handler if this was SIGSEGV itself.
        if signal == Signal::SIGSEGV {
            task.group.signals.set_action(signal, SigAction::default());
        }
        super::force(task, SigInfo::new(Signal::SIGSEGV, abi::signal::SI_KERNEL), None);
    }
}
