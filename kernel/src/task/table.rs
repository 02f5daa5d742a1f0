//! The process tree: which tasks, thread groups, process groups and sessions there are, and who is whose child.
//!
//! All of it is under one lock, the outermost of the kernel; what is done under it is short and sends no signals.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use abi::signal::Signal;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::{ExitStatus, Peak, Pid, Task, ThreadGroup};
use crate::namespace::PidNamespace;
use crate::wait::WaitQueue;

/// The largest pid, as `/proc/sys/kernel/pid_max` has it.
pub const PID_MAX: Pid = 4_194_304;

/// A change of a child that a parent may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEvent {
    /// It ended.
    Exited(ExitStatus),
    /// It stopped by this signal.
    Stopped(Signal),
    /// It continued.
    Continued,
    /// It stands in a stop of `ptrace(2)`: the signal, and the event in the next byte.
    Traced(i32),
}

/// A thread group's place in the tree.
pub struct Process {
    /// The group.
    pub group: Arc<ThreadGroup>,
    /// Its parent; zero for a process that was started from outside, or whose parent and reaper are gone.
    pub parent: Pid,
    /// The thread of the parent that made it, for `__WNOTHREAD`.
    pub parent_thread: Pid,
    /// Its children, oldest first.
    pub children: Vec<Pid>,
    /// Its process group. Changed by [`Tree::set_process_group`].
    pub process_group: Pid,
    /// Its session. Changed by [`Tree::set_session`].
    pub session: Pid,
    /// Its living tasks; empty for a zombie.
    pub tasks: Vec<Arc<Task>>,
    /// The signal that the parent gets at its end; `None` for none.
    pub exit_signal: Option<Signal>,
    /// How it ended, once it is a zombie.
    pub zombie: Option<ExitStatus>,
    /// A stop or continuation that the parent has not waited for yet.
    pub news: Option<ChildEvent>,
    /// Whether the parent is just being sent the signal that tells it of a change: until it has been, nobody finds out by
    /// waiting. Who has waited for a child finds its signal pending.
    pub telling: bool,
    /// Whether orphans below it become its children (`PR_SET_CHILD_SUBREAPER`).
    pub subreaper: bool,
    /// Whether it has called `execve(2)` since it was made: its parent may no longer change its process group.
    pub executed: bool,
    /// Processor time of children that were waited for: in guest code, in the kernel.
    pub children_time: (std::time::Duration, std::time::Duration),
    /// The most bytes that one of those, or one of theirs, had in memory at a time.
    pub children_peak: Peak,
}

/// The tables behind the lock.
#[derive(Default)]
pub struct Tree {
    tasks: BTreeMap<Pid, Arc<Task>>,
    processes: BTreeMap<Pid, Process>,
    pids: BTreeMap<Pid, Numbered>,
    last: Pid,
}

/// A pid in use: as that of a task, a process (until it is reaped), a process group or a session.
struct Numbered {
    namespace: Arc<PidNamespace>,
    users: usize,
}

/// All tasks of a kernel.
#[derive(Default)]
pub struct TaskTable {
    inner: Mutex<Tree>,
    /// Wakes who waits for processes to end.
    pub ended: WaitQueue,
}

impl TaskTable {
    /// Runs `operation` with the tree locked.
    pub fn with<T>(&self, operation: impl FnOnce(&mut Tree) -> T) -> T {
        operation(&mut self.inner.lock())
    }

    /// The task with this id.
    pub fn get(&self, tid: Pid) -> Option<Arc<Task>> {
        self.inner.lock().tasks.get(&tid).cloned()
    }

    /// The thread group with this pid, zombies included.
    pub fn group(&self, pid: Pid) -> Option<Arc<ThreadGroup>> {
        self.inner.lock().processes.get(&pid).map(|process| Arc::clone(&process.group))
    }

    /// All tasks in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Task>> {
        self.inner.lock().tasks.values().cloned().collect()
    }

    /// The living tasks of a thread group.
    pub fn tasks_of(&self, pid: Pid) -> Vec<Arc<Task>> {
        self.inner.lock().processes.get(&pid).map(|process| process.tasks.clone()).unwrap_or_default()
    }

    /// The thread groups of a process group.
    pub fn members(&self, process_group: Pid) -> Vec<Arc<ThreadGroup>> {
        self.inner.lock().members(process_group)
    }
}

impl TaskTable {
    /// The signal that tells of a change of a process has been sent.
    pub fn told(&self, pid: Pid) {
        if let Some(process) = self.inner.lock().processes.get_mut(&pid) {
            process.telling = false;
        }
    }
}

impl Tree {
    /// A pid that no task, process group or session has, with numbers in `namespace` and above it. It belongs to a task
    /// that is being made, and goes with it ([`Tree::remove_task`]) or by [`Tree::release_pid`].
    ///
    /// # Errors
    /// `EAGAIN` if all are in use, `ENOMEM` if the namespace's first process has ended.
    pub fn allocate_pid(&mut self, namespace: &Arc<PidNamespace>) -> SysResult<Pid> {
        for _ in 0..PID_MAX {
            self.last = if self.last >= PID_MAX - 1 { 300 } else { self.last + 1 };
            let pid = self.last;
            if let Entry::Vacant(free) = self.pids.entry(pid) {
                namespace.enter(pid)?;
                free.insert(Numbered { namespace: Arc::clone(namespace), users: 1 });
                return Ok(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    fn retain_pid(&mut self, pid: Pid) {
        if let Some(numbered) = self.pids.get_mut(&pid) {
            numbered.users += 1;
        }
    }

    /// Gives back one use of a pid; with the last one it is free for others.
    pub fn release_pid(&mut self, pid: Pid) {
        let Some(numbered) = self.pids.get_mut(&pid) else { return };
        numbered.users -= 1;
        if numbered.users == 0
            && let Some(numbered) = self.pids.remove(&pid)
        {
            numbered.namespace.leave(pid);
        }
    }

    /// Adds a process with its first task.
    pub fn add_process(&mut self, task: &Arc<Task>, process: Process) {
        if let Some(parent) = self.processes.get_mut(&process.parent) {
            parent.children.push(task.group.pid);
        }
        for pid in [task.group.pid, process.process_group, process.session] {
            self.retain_pid(pid);
        }
        self.processes.insert(task.group.pid, process);
        self.add_task(task);
    }

    /// Adds a task to its process.
    pub fn add_task(&mut self, task: &Arc<Task>) {
        self.tasks.insert(task.tid(), Arc::clone(task));
        if let Some(process) = self.processes.get_mut(&task.group.pid) {
            process.tasks.push(Arc::clone(task));
        }
    }

    /// Removes a task that has ended; returns whether it was the last of its process.
    pub fn remove_task(&mut self, task: &Task) -> bool {
        self.tasks.remove(&task.tid());
        self.release_pid(task.tid());
        let Some(process) = self.processes.get_mut(&task.group.pid) else { return false };
        process.tasks.retain(|other| !std::ptr::eq(Arc::as_ptr(other), task));
        let last = process.tasks.is_empty();
        if !last {
            // The last one counts until it is waited for.
            task.group.container.uncharge_task();
        }
        last
    }

    /// Gives a task its process's pid.
    pub fn make_leader(&mut self, task: &Arc<Task>) {
        let before = task.tid();
        self.tasks.remove(&before);
        task.set_tid(task.group.pid, task.group.number);
        self.retain_pid(task.group.pid);
        self.release_pid(before);
        self.tasks.insert(task.group.pid, Arc::clone(task));
    }

    /// Moves a process into another process group.
    pub fn set_process_group(&mut self, pid: Pid, process_group: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let before = std::mem::replace(&mut process.process_group, process_group);
        self.retain_pid(process_group);
        self.release_pid(before);
    }

    /// Makes a process the leader of a session of its own.
    pub fn set_session(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let before = std::mem::replace(&mut process.session, pid);
        self.retain_pid(pid);
        self.release_pid(before);
        self.set_process_group(pid, pid);
    }

    /// A process by its pid, zombies included.
    pub fn process(&self, pid: Pid) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// A process by its pid, to change.
    pub fn process_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        self.processes.get_mut(&pid)
    }

    /// All processes in the order of their pids.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// A task by its id.
    pub fn task(&self, tid: Pid) -> Option<&Arc<Task>> {
        self.tasks.get(&tid)
    }

    /// How many tasks there are.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// The thread groups of a process group.
    pub fn members(&self, process_group: Pid) -> Vec<Arc<ThreadGroup>> {
        let members =
            self.processes.values().filter(|p| p.process_group == process_group && p.zombie.is_none());
        members.map(|process| Arc::clone(&process.group)).collect()
    }

    /// Removes a zombie that was waited for.
    pub fn reap(&mut self, pid: Pid) -> Option<Process> {
        let process = self.processes.remove(&pid)?;
        if let Some(parent) = self.processes.get_mut(&process.parent) {
            parent.children.retain(|child| *child != pid);
        }
        process.group.ending.reach(super::pidfd::Stage::Reaped);
        for pid in [pid, process.process_group, process.session] {
            self.release_pid(pid);
        }
        process.group.container.uncharge_task();
        Some(process)
    }

    /// Who inherits the children of `pid`: the nearest living subreaper above it in its pid namespace, or that
    /// namespace's first process; zero if there is neither.
    pub fn reaper_of(&self, pid: Pid) -> Pid {
        let Some(process) = self.processes.get(&pid) else { return 0 };
        let namespace = &process.group.pid_namespace;
        let mut at = process.parent;
        while let Some(process) = self.processes.get(&at) {
            if !Arc::ptr_eq(&process.group.pid_namespace, namespace) {
                break;
            }
            if process.subreaper && process.zombie.is_none() {
                return at;
            }
            at = process.parent;
        }
        let alive = |init: &Pid| *init != pid && self.processes.get(init).is_some_and(|p| p.zombie.is_none());
        namespace.init().filter(alive).unwrap_or(0)
    }

    /// Whether a process group is orphaned: no member has a parent outside the group but in the same session.
    pub fn is_orphaned(&self, process_group: Pid) -> bool {
        !self.processes.values().any(|process| {
            process.process_group == process_group
                && process.zombie.is_none()
                && self.processes.get(&process.parent).is_some_and(|parent| {
                    parent.session == process.session
                        && parent.process_group != process_group
                        && parent.zombie.is_none()
                })
        })
    }

    /// Whether a process group has a stopped member.
    pub fn has_stopped(&self, process_group: Pid) -> bool {
        self.processes
            .values()
            .any(|p| p.process_group == process_group && p.zombie.is_none() && p.group.signals.is_stopped())
    }
}
