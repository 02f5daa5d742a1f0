//! System calls on signals.

use std::sync::Arc;

use abi::signal::{
    MINSIGSTKSZ, SI_TKILL, SI_USER, SIG_IGN, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SigAction, SigAltStack,
    SigInfo, Signal, SignalSet,
};
use abi::time::TimeSpec;
use abi::{Errno, SysResult};

use super::{Default_, default_action, dequeue, frame, send_to_group, send_to_task};
use crate::error::{Restart, SyscallResult};
use crate::task::credentials::Capability;
use crate::task::{CurrentTask, Pid, Task, ThreadGroup};
use crate::user::UserPtr;
use crate::wait::{Deadline, Events};

pub use super::frame::rt_sigreturn;

fn check_size(size: usize) -> SysResult<()> {
    if size == size_of::<SignalSet>() { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `rt_sigaction(2)`.
pub fn rt_sigaction(
    task: &CurrentTask,
    signal: i32,
    new: UserPtr<SigAction>,
    old: UserPtr<SigAction>,
    size: usize,
) -> SysResult<()> {
    check_size(size)?;
    let signal = Signal::new(signal).ok_or(Errno::EINVAL)?;
    let new = new.non_null().map(|new| task.read_object(new)).transpose()?;
    if new.is_some() && SignalSet::UNBLOCKABLE.contains(signal) {
        return Err(Errno::EINVAL);
    }
    task.learn_default_actions();
    let before = match new {
        None => task.group.signals.action(signal),
        Some(mut action) => {
            action.mask = action.mask.difference(SignalSet::UNBLOCKABLE);
            let before = task.group.signals.set_action(signal, action);
            let default_ignored = matches!(default_action(signal), Default_::Ignore | Default_::Continue);
            if action.handler == SIG_IGN || (action.handler == abi::signal::SIG_DFL && default_ignored) {
                // What waits and is now ignored is gone.
                task.group.signals.state.lock().pending.discard(signal.mask());
                for other in task.kernel.tasks.tasks_of(task.group.pid) {
                    other.signals.state.lock().pending.discard(signal.mask());
                }
            }
            before
        }
    };
    if new.is_some() {
        task.offer_default_actions();
    }
    match old.non_null() {
        Some(old) => task.write_result_object(old, &before),
        None => Ok(()),
    }
}

/// `rt_sigprocmask(2)`.
pub fn rt_sigprocmask(
    task: &CurrentTask,
    how: i32,
    set: UserPtr<SignalSet>,
    old: UserPtr<SignalSet>,
    size: usize,
) -> SysResult<()> {
    check_size(size)?;
    let before = task.signals.mask();
    if let Some(set) = set.non_null() {
        let set = task.read_object(set)?;
        let mask = match how {
            0 => before.union(set),
            1 => before.difference(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        task.set_signal_mask(mask);
    }
    match old.non_null() {
        Some(old) => task.write_result_object(old, &before),
        None => Ok(()),
    }
}

/// `rt_sigpending(2)`.
pub fn rt_sigpending(task: &CurrentTask, set: UserPtr<u8>, size: usize) -> SysResult<()> {
    if size > size_of::<SignalSet>() {
        return Err(Errno::EINVAL);
    }
    let pending =
        task.signals.pending().union(task.group.signals.pending()).intersection(task.signals.mask());
    task.write_bytes(set.address(), &pending.0.to_ne_bytes()[..size])
}

/// `rt_sigsuspend(2)`.
pub fn rt_sigsuspend(task: &CurrentTask, mask: UserPtr<SignalSet>, size: usize) -> SyscallResult<()> {
    check_size(size)?;
    let mask = task.read_object(mask)?;
    task.with_temporary_mask(Some(mask), || pause(task))
}

/// `pause(2)`.
pub fn pause(task: &CurrentTask) -> SyscallResult<()> {
    match task.sleep_until(Deadline::Never) {
        Err(_) => Err(Restart::NoHand.into()),
        Ok(()) => Ok(()),
    }
}

/// `rt_sigtimedwait(2)`.
pub fn rt_sigtimedwait(
    task: &CurrentTask,
    set: UserPtr<SignalSet>,
    info: UserPtr<SigInfo>,
    timeout: UserPtr<TimeSpec>,
    size: usize,
) -> SyscallResult<i32> {
    check_size(size)?;
    let wanted = task.read_object(set)?.difference(SignalSet::UNBLOCKABLE);
    let timeout = match timeout.non_null() {
        Some(timeout) => Some(task.read_object(timeout)?.to_duration().ok_or(Errno::EINVAL)?),
        None => None,
    };
    let take = || dequeue(task, wanted).ok_or_else(|| Errno::EAGAIN.into());
    let queue = &task.group.signals.queue;
    let found = match task.block_on(queue, Events::IN, Deadline::timeout(timeout), take) {
        // Interrupted by another signal than those: no restart.
        Err(crate::error::SysError::Restart(_)) => return Err(Errno::EINTR.into()),
        result => result?,
    };
    if let Some(info) = info.non_null() {
        task.write_object(info, &found)?;
    }
    Ok(found.signo)
}

/// Whether `task` may send `signal` to a process with `target` in it.
pub(crate) fn may_signal(task: &CurrentTask, target: &Task, signal: Option<Signal>) -> SysResult<()> {
    let own = task.credentials();
    let other = target.credentials();
    let same_user =
        [own.uid, own.effective_uid].iter().any(|uid| *uid == other.uid || *uid == other.saved_uid);
    let same_process = Arc::ptr_eq(&task.group, &target.group);
    if same_process || same_user || own.has_in(&other.user_namespace, Capability::KILL) {
        return Ok(());
    }
    let session = |pid| task.kernel.tasks.with(|tree| tree.process(pid).map(|process| process.session));
    if signal == Some(Signal::SIGCONT) && session(task.group.pid) == session(target.group.pid) {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// The signal of a call; zero only asks whether it could be sent.
pub(crate) fn parse(signal: i32) -> SysResult<Option<Signal>> {
    if signal == 0 { Ok(None) } else { Signal::new(signal).map(Some).ok_or(Errno::EINVAL) }
}

/// Whether the first process of a pid namespace does not get the signal from `task`.
pub(crate) fn shielded(task: &CurrentTask, target: &Arc<ThreadGroup>, signal: Signal) -> bool {
    let above = !Arc::ptr_eq(&task.group.pid_namespace, &target.pid_namespace)
        && task.group.pid_namespace.sees(&target.pid_namespace);
    let forced = above && SignalSet::UNBLOCKABLE.contains(signal);
    !forced && crate::signal::shields(target, signal)
}

/// A record that says that `task` is the sender, in the receiver's words.
pub(crate) fn sender(task: &CurrentTask, target: &ThreadGroup, signal: Signal, code: i32) -> SigInfo {
    let receiver = task.kernel.tasks.tasks_of(target.pid).first().map(|receiver| receiver.credentials());
    let uid = task.credentials().uid;
    let uid = receiver.map_or(uid, |receiver| receiver.shown_uid(uid));
    SigInfo::user(signal, code, target.pid_namespace.number(task.group.pid), uid)
}

pub(crate) fn send_checked(
    task: &CurrentTask,
    group: &Arc<ThreadGroup>,
    signal: Option<Signal>,
    info: SigInfo,
) -> SysResult<()> {
    if let Some(leader) = task.kernel.tasks.tasks_of(group.pid).first() {
        may_signal(task, leader, signal)?;
    }
    match signal {
        Some(signal) if shielded(task, group, signal) => Ok(()),
        Some(_) if !send_to_group(&task.kernel, group, info) => Err(Errno::EAGAIN),
        _ => Ok(()),
    }
}

/// `kill(2)`.
pub fn kill(task: &CurrentTask, pid: Pid, signal: i32) -> SysResult<()> {
    let signal = parse(signal)?;
    // Without a signal the record is not used.
    let info = |group: &ThreadGroup| sender(task, group, signal.unwrap_or(Signal::SIGHUP), SI_USER);
    if pid > 0 {
        let found =
            task.find_group(pid).or_else(|_| task.find_task(pid).map(|found| Arc::clone(&found.group)));
        let group = found?;
        return send_checked(task, &group, signal, info(&group));
    }
    let targets = match pid {
        -1 => task.kernel.tasks.with(|tree| {
            let own = &task.group.pid_namespace;
            let others = tree.processes().filter(|p| p.group.pid != task.group.pid && p.zombie.is_none());
            let seen = others.filter(|p| own.sees(&p.group.pid_namespace) && own.init() != Some(p.group.pid));
            seen.map(|p| Arc::clone(&p.group)).collect()
        }),
        0 => task.kernel.tasks.members(crate::task::wait::own_process_group(task)?),
        i32::MIN => return Err(Errno::ESRCH),
        group => task.kernel.tasks.members(task.pid_of(-group)?),
    };
    if targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    // Success if one could be sent.
    let results: Vec<_> =
        targets.iter().map(|group| send_checked(task, group, signal, info(group))).collect();
    if results.iter().any(Result::is_ok) { Ok(()) } else { results.into_iter().next().unwrap_or(Ok(())) }
}

fn send_thread(
    task: &CurrentTask,
    group: Option<Pid>,
    tid: Pid,
    signal: i32,
    info: Option<SigInfo>,
) -> SysResult<()> {
    if tid <= 0 || group.is_some_and(|group| group <= 0) {
        return Err(Errno::EINVAL);
    }
    let target = task.find_task(tid)?;
    if group.is_some_and(|group| task.number_of(target.group.pid) != group) {
        return Err(Errno::ESRCH);
    }
    let Some(signal) = parse(signal)? else { return may_signal(task, &target, None) };
    may_signal(task, &target, Some(signal))?;
    if shielded(task, &target.group, signal) {
        return Ok(());
    }
    let own = sender(task, &target.group, signal, SI_TKILL);
    if send_to_task(&task.kernel, &target, info.unwrap_or(own)) { Ok(()) } else { Err(Errno::EAGAIN) }
}

/// `tkill(2)`.
pub fn tkill(task: &CurrentTask, tid: Pid, signal: i32) -> SysResult<()> {
    send_thread(task, None, tid, signal, None)
}

/// `tgkill(2)`.
pub fn tgkill(task: &CurrentTask, group: Pid, tid: Pid, signal: i32) -> SysResult<()> {
    send_thread(task, Some(group), tid, signal, None)
}

/// The record of a queued signal; only the kernel and `kill(2)` may claim to be the sender of certain ones.
fn read_info(task: &CurrentTask, info: UserPtr<SigInfo>, target: Pid, signal: i32) -> SysResult<SigInfo> {
    let mut info = task.read_object(info)?;
    info.signo = signal;
    if (info.code >= 0 || info.code == SI_TKILL) && target != task.group.number {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

/// `rt_sigqueueinfo(2)`.
pub fn rt_sigqueueinfo(task: &CurrentTask, pid: Pid, signal: i32, info: UserPtr<SigInfo>) -> SysResult<()> {
    let info = read_info(task, info, pid, signal)?;
    let group = task.find_group(pid)?;
    send_checked(task, &group, parse(signal)?, info)
}

/// `rt_tgsigqueueinfo(2)`.
pub fn rt_tgsigqueueinfo(
    task: &CurrentTask,
    group: Pid,
    tid: Pid,
    signal: i32,
    info: UserPtr<SigInfo>,
) -> SysResult<()> {
    let info = read_info(task, info, group, signal)?;
    send_thread(task, Some(group), tid, signal, Some(info))
}

/// `sigaltstack(2)`.
pub fn sigaltstack(
    task: &CurrentTask,
    new: UserPtr<SigAltStack>,
    old: UserPtr<SigAltStack>,
) -> SysResult<()> {
    let sp = task.context.borrow().registers().rsp;
    let before = task.signals.state.lock().stack;
    let inside = frame::on_stack(&before, sp);
    let new = new.non_null().map(|new| task.read_object(new)).transpose()?;
    if let Some(new) = new {
        if inside && before.flags & SS_AUTODISARM == 0 {
            return Err(Errno::EPERM);
        }
        let mode = new.flags & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            return Err(Errno::EINVAL);
        }
        let stack = if mode == SS_DISABLE {
            super::disabled()
        } else if new.size < MINSIGSTKSZ {
            return Err(Errno::ENOMEM);
        } else {
            SigAltStack { flags: new.flags & SS_AUTODISARM, ..new }
        };
        task.signals.state.lock().stack = stack;
    }
    match old.non_null() {
        Some(old) => {
            let empty = before.size == 0;
            let flags = if empty { SS_DISABLE } else { before.flags | if inside { SS_ONSTACK } else { 0 } };
            task.write_object(old, &SigAltStack { flags, ..before })
        }
        None => Ok(()),
    }
}

/// `restart_syscall(2)`: continues what a signal interrupted.
pub fn restart_syscall(task: &CurrentTask) -> SyscallResult {
    match task.take_restart() {
        Some(function) => function(task),
        None => Err(Errno::EINTR.into()),
    }
}
