//! What a container's processes are and use.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Container;
use crate::Kernel;
use crate::fs::memory_files::{self, Taken};
use crate::mm::MemoryMap;
use crate::task::{Pid, Task};

/// The most of a process's arguments that is shown.
const MAX_ARGUMENTS: usize = 32 << 10;

/// A process, as `ps` shows it. Numbers are those of the container's pid namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its effective user.
    pub uid: u32,
    /// Its number.
    pub pid: Pid,
    /// Its parent's; zero for one that was started from outside.
    pub parent: Pid,
    /// Its process group's.
    pub process_group: Pid,
    /// Its session's.
    pub session: Pid,
    /// How many threads it has.
    pub threads: usize,
    /// When it was started.
    pub started: SystemTime,
    /// Processor time: in guest code and in the kernel.
    pub time: Duration,
    /// The number of its controlling terminal, `/dev/pts/N`.
    pub terminal: Option<u32>,
    /// Its name (`comm`).
    pub command: String,
    /// Its arguments, if they can be read.
    pub arguments: Vec<Vec<u8>>,
    /// Resident memory in bytes.
    pub resident: u64,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in guest code.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Resident memory of its processes without what they share with others, in bytes.
    pub memory: u64,
    /// Tasks, zombies included.
    pub tasks: u64,
}

/// The memory that all containers of a kernel take, each page counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Memory of guest processes that is of no file.
    pub anonymous: u64,
    /// Parts of the host's files that guest processes have mapped and read.
    pub mapped: u64,
    /// Files in memory, mapped or not.
    pub files: Taken,
}

/// Distinct address spaces.
fn spaces<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> Vec<Arc<MemoryMap>> {
    let mut spaces: Vec<Arc<MemoryMap>> = Vec::new();
    for memory in tasks.filter_map(|task| task.memory()) {
        if !spaces.iter().any(|known| Arc::ptr_eq(known, &memory)) {
            spaces.push(memory);
        }
    }
    spaces
}

/// The arguments in a process's memory.
fn arguments(memory: &MemoryMap) -> Vec<Vec<u8>> {
    let range = memory.layout.lock().arguments.clone();
    let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0).min(MAX_ARGUMENTS);
    let mut bytes = vec![0; length];
    let read = memory.space().read(range.start, &mut bytes);
    bytes.truncate(read);
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect() }
}

impl Container {
    fn tasks(&self, kernel: &Kernel) -> Vec<Arc<Task>> {
        kernel.tasks.all().into_iter().filter(|task| self.holds(&task.group)).collect()
    }

    /// Its processes in the order of their numbers, zombies left out.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        let Ok(kernel) = self.kernel() else { return Vec::new() };
        let namespace = self.pid_namespace();
        let mut found: Vec<_> = kernel.tasks.with(|tree| {
            let own = tree.processes().filter(|p| p.zombie.is_none() && self.holds(&p.group));
            let place = |p: &crate::task::table::Process| {
                let [parent, group, session] =
                    [p.parent, p.process_group, p.session].map(|pid| namespace.number(pid));
                (p.tasks.clone(), Arc::clone(&p.group), parent, group, session)
            };
            own.map(place).collect()
        });
        found.retain(|(tasks, ..)| !tasks.is_empty());
        let mut processes: Vec<_> = found
            .into_iter()
            .map(|(tasks, group, parent, process_group, session)| {
                let leader = tasks.iter().find(|task| task.tid() == group.pid).unwrap_or(&tasks[0]);
                let memory = leader.memory();
                let (user, system) = group.total_time(&tasks);
                ProcessInfo {
                    uid: leader.credentials().effective_uid,
                    pid: namespace.number(group.pid),
                    parent,
                    process_group,
                    session,
                    threads: tasks.len(),
                    started: SystemTime::now()
                        .checked_sub(leader.started.elapsed())
                        .unwrap_or(SystemTime::UNIX_EPOCH),
                    time: user + system,
                    terminal: group.terminal.lock().as_ref().map(|terminal| terminal.number),
                    command: leader.comm(),
                    arguments: memory.as_ref().map(|memory| arguments(memory)).unwrap_or_default(),
                    resident: memory.map_or(0, |memory| memory.space().usage().resident),
                }
            })
            .collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    /// What it uses.
    pub fn usage(&self) -> Usage {
        let (mut user, mut system) = *self.ended_time.lock();
        let Ok(kernel) = self.kernel() else { return Usage { user, system, ..Usage::default() } };
        let tasks = self.tasks(&kernel);
        let spaces = spaces(tasks.iter());
        let mut memory = 0;
        for space in &spaces {
            let usage = space.space().usage();
            memory += usage.resident.saturating_sub(usage.shared);
            user += space.space().cpu_time();
        }
        for task in &tasks {
            system += task.kernel_time();
        }
        for group in self.groups(&kernel) {
            let (_, ended) = group.time();
            user += group.replaced_time();
            system += ended;
        }
        Usage { user, system, memory, tasks: self.task_count() as u64 }
    }
}

impl Kernel {
    /// The memory that its containers take together.
    pub fn memory_use(&self) -> MemoryUse {
        let (mut anonymous, mut mapped) = (0, 0);
        for space in spaces(self.tasks.all().iter()) {
            for usage in space.space().usage_by_range() {
                // Processes may share what is not of a file as well, as after a fork: both kinds by their part of it.
                let own = u128::from(usage.proportional) * u128::from(usage.anonymous)
                    / u128::from(usage.resident.max(1));
                let own = u64::try_from(own).unwrap_or(u64::MAX).min(usage.proportional);
                anonymous += own;
                if !usage.in_memory {
                    mapped += usage.proportional - own;
                }
            }
        }
        MemoryUse { anonymous, mapped, files: memory_files::taken() }
    }
}
