//! The end of tasks and processes: `exit(2)`, `exit_group(2)`, and what remains to be done when a task has run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::Errno;
use abi::signal::{
    CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, CLD_TRAPPED, SigInfo, Signal,
};

use super::table::{ChildEvent, Process, Tree};
use super::{CurrentTask, ExitStatus, Peak, Pid, ThreadGroup};
use crate::error::SyscallResult;
use crate::fs::FdTable;
use crate::signal;
use crate::wait::{Deadline, Events};

impl CurrentTask {
    /// Ends the whole thread group with this status, unless its end was decided already. The current thread ends when
    /// it returns to its run loop.
    pub fn exit_group(&self, status: ExitStatus) {
        self.kernel.end_group(&self.group, status);
        self.request_exit();
    }

    /// Takes the task down after its last instruction.
    pub(super) fn finish(self) {
        self.release_address_space();
        self.finish_vfork();
        crate::ipc::sysv::sem::undo(&self, None);
        let files = self.set_files(None);
        if let Some(files) = files.and_then(Arc::into_inner) {
            for file in files.remove_where(|_, _| true) {
                crate::fs::locks::release_process(self.group.pid, &file);
                let _ = file.ops().flush(&self);
            }
        }
        self.context.borrow_mut().close_direct();
        // Of a process that goes on, what was used in its address space tells in the end; to ask a thread takes long.
        let goes_on =
            self.group.exit.lock().is_none() && self.kernel.tasks.tasks_of(self.group.pid).len() > 1;
        let user = if goes_on { Duration::ZERO } else { self.context.borrow().cpu_time() };
        let system = self.without_others(host_thread_time());
        // From here on its time counts as that of a task that has ended.
        self.clear_host_thread();
        self.group.add_time(user, system);
        if let Some(memory) = self.set_memory(None).and_then(Arc::into_inner) {
            // Nobody else's: all that was used in it is this process's.
            let space = memory.space();
            self.group.set_space_usage(space.cpu_time(), Peak::of(space.final_peak()));
        }
        self.signals.keep();
        let task = Arc::clone(&self.task);
        let kernel = Arc::clone(&self.kernel);
        // The host thread of one that leaves others behind is free for the next at once; but a process's memory takes long to go, and
        // nobody is to wait for that.
        let guest = if goes_on {
            drop(self);
            None
        } else {
            Some(self)
        };
        task.group.set_last_uid(task.credentials().uid);
        crate::ptrace::tracer_ended(&task);
        crate::ptrace::tracee_ended(&task);
        let last = kernel.tasks.with(|tree| tree.remove_task(&task));
        task.ending.reach(super::pidfd::Stage::Reaped);
        if last {
            kernel.process_ended(&task.group);
        }
        task.group.exec_queue.wake(Events::IN);
        drop(guest);
    }

    /// What a thread owes to others before its address space goes: futexes in its robust list, and the word that
    /// `CLONE_CHILD_CLEARTID` names, if anybody else can see it there.
    pub(super) fn release_address_space(&self) {
        crate::ipc::futex::release_robust_list(self);
        let address = self.clear_child_tid.swap(0, Ordering::Relaxed);
        let shared = self.memory().is_some_and(|memory| Arc::strong_count(&memory) > 2);
        if shared && address != 0 && self.write_bytes(address, &0u32.to_ne_bytes()).is_ok() {
            crate::ipc::futex::wake_address(self, address, 1);
        }
    }

    /// Ends all other threads of the group and waits for them, for `execve(2)`. The task then leads its group.
    pub(super) fn leave_siblings(&self) -> SyscallResult<()> {
        let pid = self.group.pid;
        let alone = || {
            let others = self.kernel.tasks.tasks_of(pid);
            let others: Vec<_> = others.iter().filter(|task| !Arc::ptr_eq(task, &self.task)).collect();
            if others.is_empty() {
                return Ok(());
            }
            others.iter().for_each(|task| task.request_exit());
            Err(Errno::EAGAIN.into())
        };
        if self.is_exiting() {
            return Err(crate::error::Restart::NoIntr.into());
        }
        self.block_on(&self.group.exec_queue, Events::IN, Deadline::Never, alone)?;
        if self.tid() != pid {
            // The former leader's end is nobody's business: its number lives on.
            *self.group.leader_tracer.lock() = None;
            self.kernel.tasks.with(|tree| tree.make_leader(&self.task));
        }
        self.kernel.tasks.with(|tree| {
            if let Some(process) = tree.process_mut(pid) {
                process.executed = true;
                // The parent agreed to another signal with the old program.
                process.exit_signal = Some(Signal::SIGCHLD);
            }
        });
        Ok(())
    }

    /// A descriptor table that no other task shares.
    pub(super) fn own_files(&self) -> Arc<FdTable> {
        let files = self.files();
        if self.shares_files(&files) {
            let own = Arc::new(files.copy());
            self.set_files(Some(Arc::clone(&own)));
            return own;
        }
        files
    }
}

/// Processor time that the calling kernel thread has used.
pub(super) fn host_thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Whom the end of a process concerns.
#[derive(Default)]
struct News {
    signals: Vec<(Arc<ThreadGroup>, SigInfo)>,
    /// Those who may wait for it, to be woken when the signals have been sent.
    parents: Vec<Arc<ThreadGroup>>,
}

impl crate::Kernel {
    /// Decides how a thread group ends, unless that is decided, and tells its tasks.
    pub fn end_group(&self, group: &Arc<ThreadGroup>, status: ExitStatus) {
        group.exit.lock().get_or_insert(status);
        for task in self.tasks.tasks_of(group.pid) {
            task.request_exit();
        }
    }

    /// A process's last task has ended: its children get a new parent, and its own parent is told.
    fn process_ended(&self, group: &Arc<ThreadGroup>) {
        let status = group.exit.lock().unwrap_or(ExitStatus::Exited(0));
        let mut news = News::default();
        let pid = group.pid;
        self.end_with(group);
        crate::tty::terminal::leave(self, group, true);
        let own_group = self.tasks.with(|tree| {
            let own = tree.process(pid).map(|process| (process.process_group, process.session));
            let own_group = own.map(|(process_group, _)| process_group);
            let reaper = tree.reaper_of(pid);
            let children = tree
                .process_mut(pid)
                .map(|process| std::mem::take(&mut process.children))
                .unwrap_or_default();
            for child in children {
                let Some(process) = tree.process_mut(child) else { continue };
                process.parent = reaper;
                // Who inherits it has not agreed to any other signal.
                process.exit_signal = Some(Signal::SIGCHLD);
                let (zombie, group_of_child) = (process.zombie, process.process_group);
                // It was what connected the child's process group to the rest of the session.
                let connection =
                    own.is_some_and(|(own, session)| own != group_of_child && session == process.session);
                if let Some(signal) = process.group.signals.parent_death_signal() {
                    let number = process.group.pid_namespace.number(pid);
                    news.signals.push((Arc::clone(&process.group), SigInfo::user(signal, 0, number, 0)));
                }
                if let Some(parent) = tree.process_mut(reaper) {
                    parent.children.push(child);
                }
                if zombie.is_some() {
                    self.tell_parent(tree, child, &mut news);
                }
                if connection {
                    Self::hang_up_if_orphaned(tree, group_of_child, &mut news.signals);
                }
            }
            // It was what connected its process group to the rest of the session.
            let connection = tree.process(pid).is_some_and(|own| {
                tree.process(own.parent).is_some_and(|parent| {
                    parent.session == own.session && parent.process_group != own.process_group
                })
            });
            if let Some(process) = tree.process_mut(pid) {
                process.zombie = Some(status);
                process.telling = true;
            }
            self.tell_parent(tree, pid, &mut news);
            own_group.filter(|_| connection)
        });
        group.ending.reach(super::pidfd::Stage::Ended);
        crate::ptrace::process_ended(self, group, status);
        if let Some(own_group) = own_group {
            self.tasks.with(|tree| Self::hang_up_if_orphaned(tree, own_group, &mut news.signals));
        }
        for (group, info) in news.signals {
            signal::send_to_group(self, &group, info);
        }
        self.tasks.told(pid);
        news.parents.iter().for_each(|parent| parent.child_queue.wake(Events::IN));
        // Whoever hears of the end finds nothing left of the process.
        group.container.record_exit(group, status);
        self.tasks.ended.wake(Events::IN);
    }

    /// Ends what cannot go on without a process: its pid namespace, if it was the first in it, and its container, if it
    /// was its init. Returns when all that is gone.
    fn end_with(&self, group: &Arc<ThreadGroup>) {
        let (pid, namespace, container) = (group.pid, &group.pid_namespace, &group.container);
        if namespace.init() == Some(pid) {
            self.tasks.with(|_| namespace.close());
            let inside =
                |process: &Process| process.group.pid != pid && namespace.sees(&process.group.pid_namespace);
            self.end_processes(&inside);
            self.tasks.with(|tree| {
                // Those whose parents are outside wait for them.
                let alone = |parent: Pid| {
                    tree.process(parent).is_none_or(|parent| namespace.sees(&parent.group.pid_namespace))
                };
                let left = tree.processes().filter(|p| inside(p) && p.zombie.is_some() && alone(p.parent));
                let left: Vec<Pid> = left.map(|process| process.group.pid).collect();
                left.into_iter().for_each(|pid| drop(tree.reap(pid)));
            });
        }
        if container.is_init(pid) {
            self.tasks.with(|_| container.set_ending());
            self.end_processes(&|process| {
                process.group.pid != pid && Arc::ptr_eq(&process.group.container, container)
            });
        }
    }

    /// Tells a zombie's parent, or removes the zombie if the parent does not want to know.
    fn tell_parent(&self, tree: &mut Tree, pid: Pid, news: &mut News) {
        let Some(process) = tree.process(pid) else { return };
        let Some(status) = process.zombie else { return };
        let exit_signal = process.exit_signal;
        let info_for = |parent: &Process| child_info(process, ChildEvent::Exited(status), parent);
        let Some(parent) = tree.process(process.parent) else {
            tree.reap(pid);
            return;
        };
        let info = info_for(parent);
        let parent_group = Arc::clone(&parent.group);
        let discard = exit_signal == Some(Signal::SIGCHLD) && parent_group.signals.discards_children();
        if let Some(signal) = exit_signal {
            news.signals.push((Arc::clone(&parent_group), SigInfo { signo: signal.number(), ..info }));
        }
        if discard {
            tree.reap(pid);
        }
        news.parents.push(parent_group);
    }

    /// SIGHUP and SIGCONT for an orphaned process group with stopped members.
    fn hang_up_if_orphaned(tree: &Tree, process_group: Pid, signals: &mut Vec<(Arc<ThreadGroup>, SigInfo)>) {
        if tree.is_orphaned(process_group) && tree.has_stopped(process_group) {
            for member in tree.members(process_group) {
                signals.push((Arc::clone(&member), SigInfo::new(Signal::SIGHUP, abi::signal::SI_KERNEL)));
                signals.push((member, SigInfo::new(Signal::SIGCONT, abi::signal::SI_KERNEL)));
            }
        }
    }

    /// Tells a process's parent that it has stopped or continued.
    pub fn child_changed(&self, pid: Pid, event: ChildEvent) {
        let told = self.tasks.with(|tree| {
            let process = tree.process_mut(pid)?;
            // A parent that traces it is told by its stops.
            let leader = process.tasks.iter().find(|task| task.tid() == pid);
            let tracer = leader.and_then(|task| task.ptrace.tracer());
            if tracer.is_some_and(|tracer| tracer.group.pid == process.parent) {
                return None;
            }
            process.news = Some(event);
            let process = tree.process(pid)?;
            let parent = tree.process(process.parent)?;
            let told = (Arc::clone(&parent.group), child_info(process, event, parent));
            tree.process_mut(pid)?.telling = true;
            Some(told)
        });
        let Some((parent, info)) = told else { return };
        if parent.signals.wants_stops() {
            signal::send_to_group(self, &parent, info);
        }
        self.tasks.told(pid);
        parent.child_queue.wake(Events::IN);
    }
}

/// The SIGCHLD that tells of the end of a task with this number.
pub(crate) fn ended_info(number: Pid, uid: u32, status: ExitStatus) -> SigInfo {
    let (code, status) = match status {
        ExitStatus::Exited(code) => (CLD_EXITED, i32::from(code)),
        ExitStatus::Signaled { signal, core: false } => (CLD_KILLED, signal.number()),
        ExitStatus::Signaled { signal, core: true } => (CLD_DUMPED, signal.number()),
    };
    SigInfo::child(code, number, uid, status, 0, 0)
}

/// The SIGCHLD that tells a parent of a change.
pub(super) fn child_info(process: &Process, event: ChildEvent, parent: &Process) -> SigInfo {
    let (code, status) = match event {
        ChildEvent::Exited(ExitStatus::Exited(code)) => (CLD_EXITED, i32::from(code)),
        ChildEvent::Exited(ExitStatus::Signaled { signal, core: false }) => (CLD_KILLED, signal.number()),
        ChildEvent::Exited(ExitStatus::Signaled { signal, core: true }) => (CLD_DUMPED, signal.number()),
        ChildEvent::Stopped(signal) => (CLD_STOPPED, signal.number()),
        ChildEvent::Continued => (CLD_CONTINUED, Signal::SIGCONT.number()),
        ChildEvent::Traced(code) => (CLD_TRAPPED, code),
    };
    let (user, system) = process.group.final_time();
    let ticks = |time: Duration| i64::try_from(time.as_millis() / 10).unwrap_or(i64::MAX);
    let uid = process.tasks.first().map_or_else(|| process.group.last_uid(), |task| task.credentials().uid);
    let number = parent.group.pid_namespace.number(process.group.pid);
    SigInfo::child(code, number, uid, status, ticks(user), ticks(system))
}

/// `exit(2)`: ends the thread; the group ends with its last one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "only eight bits count")]
pub fn exit(task: &CurrentTask, status: i32) -> SyscallResult<()> {
    let last = task.kernel.tasks.tasks_of(task.group.pid).len() <= 1;
    task.exit_code.store(status as u8, Ordering::Relaxed);
    if last {
        task.group.exit.lock().get_or_insert(ExitStatus::Exited(status as u8));
    }
    task.request_exit();
    Ok(())
}

/// `exit_group(2)`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "only eight bits count")]
pub fn exit_group(task: &CurrentTask, status: i32) -> SyscallResult<()> {
    task.exit_group(ExitStatus::Exited(status as u8));
    Ok(())
}
