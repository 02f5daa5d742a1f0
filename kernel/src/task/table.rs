//! The process tree: which tasks, thread groups, process groups and sessions there are, and who is whose child.
//!
//! All of it is under one lock, the outermost of the kernel; what is done under it is short and sends no signals.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::signal::Signal;
use parking_lot::Mutex;

use super::{ExitStatus, Pid, Task, ThreadGroup};
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
}

/// A thread group's place in the tree.
pub struct Process {
    /// The group.
    pub group: Arc<ThreadGroup>,
    /// Its parent; zero for the first process.
    pub parent: Pid,
    /// Its children, oldest first.
    pub children: Vec<Pid>,
    /// Its process group.
    pub process_group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its living tasks; empty for a zombie.
    pub tasks: Vec<Arc<Task>>,
    /// The signal that the parent gets at its end; `None` for none.
    pub exit_signal: Option<Signal>,
    /// How it ended, once it is a zombie.
    pub zombie: Option<ExitStatus>,
    /// A stop or continuation that the parent has not waited for yet.
    pub news: Option<ChildEvent>,
    /// Whether orphans below it become its children (`PR_SET_CHILD_SUBREAPER`).
    pub subreaper: bool,
    /// Whether it has called `execve(2)` since it was made: its parent may no longer change its process group.
    pub executed: bool,
    /// Processor time of children that were waited for: in guest code, in the kernel.
    pub children_time: (std::time::Duration, std::time::Duration),
}

/// The tables behind the lock.
#[derive(Default)]
pub struct Tree {
    tasks: BTreeMap<Pid, Arc<Task>>,
    processes: BTreeMap<Pid, Process>,
    last: Pid,
}

/// All tasks of a kernel.
#[derive(Default)]
pub struct TaskTable {
    inner: Mutex<Tree>,
    /// Wakes who waits for the first process to end.
    pub init_exited: WaitQueue,
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

impl Tree {
    /// A number that no task, process group or session has. Counts up, and wraps around at [`PID_MAX`].
    pub fn allocate_pid(&mut self) -> Option<Pid> {
        for _ in 0..PID_MAX {
            self.last = if self.last >= PID_MAX - 1 { 300 } else { self.last + 1 };
            let candidate = self.last;
            let used = self.tasks.contains_key(&candidate)
                || self.processes.contains_key(&candidate)
                || self.processes.values().any(|p| p.process_group == candidate || p.session == candidate);
            if !used {
                return Some(candidate);
            }
        }
        None
    }

    /// Adds a process with its first task.
    pub fn add_process(&mut self, task: &Arc<Task>, process: Process) {
        if let Some(parent) = self.processes.get_mut(&process.parent) {
            parent.children.push(task.group.pid);
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
        let Some(process) = self.processes.get_mut(&task.group.pid) else { return false };
        process.tasks.retain(|other| !std::ptr::eq(Arc::as_ptr(other), task));
        process.tasks.is_empty()
    }

    /// Changes a task's id.
    pub fn rename_task(&mut self, task: &Arc<Task>, tid: Pid) {
        self.tasks.remove(&task.tid());
        task.set_tid(tid);
        self.tasks.insert(tid, Arc::clone(task));
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
        Some(process)
    }

    /// Who inherits the children of `pid`: the nearest living subreaper above it, or the first process.
    pub fn reaper_of(&self, pid: Pid) -> Pid {
        let mut at = self.processes.get(&pid).map_or(0, |process| process.parent);
        while let Some(process) = self.processes.get(&at) {
            if process.subreaper && process.zombie.is_none() {
                return at;
            }
            at = process.parent;
        }
        1
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
        self.processes.values().any(|p| p.process_group == process_group && p.group.signals.is_stopped())
    }
}
