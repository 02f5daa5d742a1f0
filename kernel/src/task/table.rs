//! The process tree: which tasks, thread groups, process groups and sessions there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Pid, Task};

/// The largest pid, as `/proc/sys/kernel/pid_max` has it.
pub const PID_MAX: Pid = 4_194_304;

#[derive(Default)]
struct Tables {
    tasks: BTreeMap<Pid, Arc<Task>>,
    last: Pid,
}

/// All tasks of a kernel.
#[derive(Default)]
pub struct TaskTable {
    inner: Mutex<Tables>,
}

impl TaskTable {
    /// A number that no task, group or session has. Counts up, and wraps around at [`PID_MAX`].
    pub fn allocate_pid(&self) -> Option<Pid> {
        let mut inner = self.inner.lock();
        for _ in 0..PID_MAX {
            inner.last = if inner.last >= PID_MAX - 1 { 300 } else { inner.last + 1 };
            let candidate = inner.last;
            if !inner.tasks.contains_key(&candidate) {
                return Some(candidate);
            }
        }
        None
    }

    /// Adds a task under its id.
    pub fn insert(&self, task: &Arc<Task>) {
        self.inner.lock().tasks.insert(task.tid(), Arc::clone(task));
    }

    /// Removes a task.
    pub fn remove(&self, tid: Pid) {
        self.inner.lock().tasks.remove(&tid);
    }

    /// The task with this id.
    pub fn get(&self, tid: Pid) -> Option<Arc<Task>> {
        self.inner.lock().tasks.get(&tid).cloned()
    }

    /// All tasks in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Task>> {
        self.inner.lock().tasks.values().cloned().collect()
    }
}
