//! Processes that are started from outside: a container's init, and those that are added to it later.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::signal::SignalSet;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::{Container, State, TaskCharge};
use crate::Kernel;
use crate::error::{SysError, SyscallResult};
use crate::fs::path::FsState;
use crate::fs::{FdTable, File, FsContext};
use crate::seccomp::{Filter, Seccomp};
use crate::signal::{GroupSignals, TaskSignals};
use crate::task::exec::{Loaded, Program, ProgramName, credentials_with, load};
use crate::task::limits::Resource;
use crate::task::table::Process;
use crate::task::{Credentials, Limits, NewTask, Pid, Task, ThreadGroup};

/// What a process is to the container that it is started in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its first process, with which it ends.
    Init,
    /// A further one, for the container must be running.
    Exec,
}

/// A process to be started.
pub struct InitSpec {
    /// What it is to its container.
    pub role: Role,
    /// The program as the user named it; looked up in `PATH` of the environment if it has no slash.
    pub program: Vec<u8>,
    /// Arguments, the program's name included.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
    /// Root, working directory, umask.
    pub fs: FsState,
    /// Identity, with `no_new_privileges`.
    pub credentials: Credentials,
    /// Resource limits.
    pub limits: Limits,
    /// Open files by their descriptors, in order.
    pub files: Vec<(u32, Arc<File>)>,
    /// The file of the program, if it is not looked up.
    pub executable: Option<Arc<File>>,
    /// Filters of its system calls, the oldest first. They hold from the program's first instruction on.
    pub filters: Vec<Arc<Filter>>,
    /// The controlling terminal, if it is to have one.
    pub terminal: Option<Arc<crate::tty::Terminal>>,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: i32,
    /// The nice value, -20..=19.
    pub nice: i32,
    /// The signals that it ignores until it says otherwise.
    pub ignored_signals: SignalSet,
}

/// A process with its program loaded, which has not run. Dropping it frees everything.
pub struct Prepared {
    kernel: Arc<Kernel>,
    container: Arc<Container>,
    spec: InitSpec,
    loaded: Option<Loaded>,
    charge: Option<TaskCharge>,
    pid: Pid,
    /// Whether the pid is still to be given back.
    holds_pid: bool,
}

impl Container {
    /// Finds and loads a program without running it.
    ///
    /// # Errors
    /// What `execve(2)` fails with: `ENOENT`, `EACCES`, `ENOEXEC`, …; `EINVAL` if the container has an init already or
    /// `ESRCH` if it is not running, as the role may be; `EBUSY` if it is paused; `EAGAIN` if it has all tasks that it
    /// may have.
    pub fn prepare(self: &Arc<Self>, mut spec: InitSpec) -> SysResult<Prepared> {
        match (spec.role, self.state()) {
            (Role::Init, State::Created) | (Role::Exec, State::Running) => {}
            (Role::Init, _) => return Err(Errno::EINVAL),
            (Role::Exec, State::Paused) => return Err(Errno::EBUSY),
            (Role::Exec, _) => return Err(Errno::ESRCH),
        }
        let kernel = self.kernel()?;
        let charge = self.charge_task()?;
        let fs = spec.fs.clone();
        let open = |path: &[u8]| crate::fs::open_executable_in(&kernel, &fs, &spec.credentials, path);
        let (path, file) = match &spec.executable {
            Some(file) => (spec.program.clone(), Arc::clone(file)),
            None => find_program(&spec.program, &spec.environment, &open)?,
        };
        let name = ProgramName { path, base: None, inaccessible: false };
        let program =
            Program { file, name, arguments: spec.arguments.clone(), environment: spec.environment.clone() };
        let stack = spec.limits.get(Resource::Stack).current;
        // The program is run by whoever has these credentials, as if by `execve(2)`.
        let credentials = credentials_with(&spec.credentials, &program.file);
        let loaded = load(&*self.platform, &credentials, stack, program, open).map_err(SysError::errno)?;
        spec.credentials = credentials;
        let pid = kernel.tasks.with(|tree| tree.allocate_pid(self.pid_namespace()))?;
        Ok(Prepared {
            kernel,
            container: Arc::clone(self),
            spec,
            loaded: Some(loaded),
            charge: Some(charge),
            pid,
            holds_pid: true,
        })
    }
}

impl Prepared {
    /// The number that the process has, or will have, in its container's pid namespace.
    pub fn number(&self) -> Pid {
        self.container.pid_namespace().number(self.pid)
    }

    /// Starts the process, a leader of a session of its own and nobody's child, and returns its number in the
    /// container's pid namespace.
    pub fn start(mut self) -> SysResult<Pid> {
        let loaded = self.loaded.take().ok_or(Errno::EINVAL)?;
        let files = Arc::new(FdTable::default());
        for (number, file) in self.spec.files.drain(..) {
            files.install(file, number, u64::MAX, false)?;
        }
        let (pid, container) = (self.pid, Arc::clone(&self.container));
        let limits = self.spec.limits.clone();
        let namespace = container.pid_namespace();
        let signals = GroupSignals::ignoring(self.spec.ignored_signals);
        let group = ThreadGroup::new(pid, namespace, &container, signals, limits);
        group.oom_score_adj.store(self.spec.oom_score_adj, Ordering::Relaxed);
        let new = NewTask {
            tid: pid,
            group: Arc::clone(&group),
            comm: [0; 16],
            files,
            fs: Arc::new(FsContext::new(self.spec.fs.clone())),
            memory: loaded.memory,
            credentials: Arc::new(self.spec.credentials.clone()),
            signals: TaskSignals::default(),
            namespaces: Arc::new(container.namespaces.clone()),
            seccomp: Seccomp::with_filters(&self.spec.filters),
            scheduling: crate::task::sched::Scheduling::with_nice(self.spec.nice),
        };
        let task = Task::create(&self.kernel, new, loaded.context);
        task.set_comm(&loaded.name);
        self.enter_tree(&task.task)?;
        if let Some(terminal) = &self.spec.terminal {
            terminal.set_session(&group, pid);
        }
        let shared = Arc::clone(&task.task);
        if let Err(error) = task.start() {
            self.kernel.tasks.with(|tree| {
                tree.remove_task(&shared);
                tree.reap(pid);
            });
            self.forget();
            return Err(error);
        }
        group.look_at_cpu_time(&self.kernel);
        Ok(group.number)
    }

    /// Puts the first task into the tree and the process into the container's records.
    fn enter_tree(&mut self, task: &Arc<Task>) -> SysResult<()> {
        let (pid, number) = (self.pid, task.group.number);
        let process = Process {
            group: Arc::clone(&task.group),
            parent: 0,
            parent_thread: 0,
            children: Vec::new(),
            process_group: pid,
            session: pid,
            tasks: Vec::new(),
            exit_signal: None,
            zombie: None,
            news: None,
            telling: false,
            subreaper: false,
            executed: true,
            children_time: (Duration::ZERO, Duration::ZERO),
            children_peak: crate::task::Peak::default(),
        };
        self.kernel.tasks.with(|tree| {
            if self.container.is_ending() {
                return Err(Errno::ESRCH);
            }
            let mut records = self.container.records.lock();
            match self.spec.role {
                Role::Init if records.init.is_some() => return Err(Errno::EINVAL),
                Role::Init => records.init = Some(pid),
                Role::Exec => {
                    records.processes.insert(number, Arc::new(Mutex::new(None)));
                }
            }
            drop(records);
            tree.add_process(task, process);
            Ok(())
        })?;
        self.holds_pid = false;
        if let Some(charge) = self.charge.take() {
            charge.keep();
        }
        Ok(())
    }

    /// Takes a process that could not be started out of the records.
    fn forget(&self) {
        let number = self.container.pid_namespace().number(self.pid);
        let mut records = self.container.records.lock();
        match self.spec.role {
            Role::Init => records.init = None,
            Role::Exec => drop(records.processes.remove(&number)),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.holds_pid {
            self.kernel.tasks.with(|tree| tree.release_pid(self.pid));
        }
    }
}

/// Finds a program as `execvp(3)` does.
fn find_program(
    name: &[u8],
    environment: &[Vec<u8>],
    open: &impl Fn(&[u8]) -> SyscallResult<Arc<File>>,
) -> SysResult<(Vec<u8>, Arc<File>)> {
    if name.contains(&b'/') {
        return open(name).map(|file| (name.to_vec(), file)).map_err(SysError::errno);
    }
    let default: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = environment.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(default);
    let mut error = Errno::ENOENT;
    if name.is_empty() {
        return Err(error);
    }
    for directory in path.split(|byte| *byte == b':').filter(|directory| !directory.is_empty()) {
        let candidate = [directory, b"/", name].concat();
        match open(&candidate).map_err(SysError::errno) {
            Ok(file) => return Ok((candidate, file)),
            Err(Errno::EACCES) => error = Errno::EACCES,
            Err(_) => {}
        }
    }
    Err(error)
}
