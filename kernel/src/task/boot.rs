//! The first process.

use std::sync::Arc;
use std::time::Duration;

use abi::{Errno, SysResult};

use super::exec::{Program, load};
use super::limits::Resource;
use super::table::Process;
use super::{Credentials, CurrentTask, ExitStatus, Limits, NewTask, Pid, Task, ThreadGroup};
use crate::Kernel;
use crate::error::{SysError, SyscallResult};
use crate::fs::path::FsState;
use crate::fs::{FdTable, File, FsContext};
use crate::signal::{GroupSignals, TaskSignals};
use crate::wait::Events;

/// What the first process is to be.
pub struct InitSpec {
    /// The program as the user named it; looked up in `PATH` of the environment if it has no slash.
    pub program: Vec<u8>,
    /// Arguments, the program's name included.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
    /// Root, working directory, umask.
    pub fs: FsState,
    /// Identity.
    pub credentials: Credentials,
    /// Resource limits.
    pub limits: Limits,
    /// Descriptors 0, 1, 2, …
    pub files: Vec<Arc<File>>,
    /// The controlling terminal, if it is to have one.
    pub terminal: Option<Arc<crate::tty::Terminal>>,
}

impl Kernel {
    /// Makes the first process and starts it: pid 1, leader of its session.
    pub fn start_init(self: &Arc<Kernel>, spec: InitSpec) -> SysResult<()> {
        let fs = spec.fs.clone();
        let open = |path: &[u8]| crate::fs::open_executable_in(self, &fs, &spec.credentials, path);
        let (path, file) = find_program(&spec.program, &spec.environment, &open)?;
        let program =
            Program { file, path, arguments: spec.arguments.clone(), environment: spec.environment.clone() };
        let stack = spec.limits.get(Resource::Stack).current;
        let loaded = load(self, &spec.credentials, stack, program, open).map_err(SysError::errno)?;

        let pid = self.tasks.with(|tree| tree.allocate_pid()).ok_or(Errno::EAGAIN)?;
        let files = Arc::new(FdTable::default());
        for file in spec.files {
            files.install(file, 0, u64::MAX, false)?;
        }
        let new = NewTask {
            tid: pid,
            group: ThreadGroup::new(pid, GroupSignals::default(), spec.limits),
            comm: [0; 16],
            files,
            fs: Arc::new(FsContext::new(spec.fs)),
            memory: loaded.memory,
            credentials: Arc::new(spec.credentials),
            signals: TaskSignals::default(),
        };
        let task = Task::create(self, new, loaded.context);
        task.set_comm(&loaded.name);
        self.add_first(&task, pid);
        if let Some(terminal) = spec.terminal {
            terminal.set_session(&task.group, pid);
        }
        task.start()
    }

    /// Puts the first task into the tree.
    fn add_first(&self, task: &CurrentTask, pid: Pid) {
        let process = Process {
            group: Arc::clone(&task.group),
            parent: 0,
            children: Vec::new(),
            process_group: pid,
            session: pid,
            tasks: Vec::new(),
            exit_signal: None,
            zombie: None,
            news: None,
            subreaper: false,
            executed: true,
            children_time: (Duration::ZERO, Duration::ZERO),
        };
        self.tasks.with(|tree| tree.add_process(&task.task, process));
    }

    /// Blocks until the first process has ended and everything below it is gone, and says how it ended.
    pub fn wait_init(&self) -> ExitStatus {
        let waiter = Arc::new(crate::wait::Waiter::default());
        let wakeup: Arc<dyn crate::wait::Wakeup> = Arc::clone(&waiter) as _;
        let _registration = self.tasks.init_exited.register(Events::IN, &wakeup);
        loop {
            let status = self.tasks.with(|tree| tree.process(1).map(|process| process.zombie));
            match status {
                Some(None) => waiter.wait(crate::wait::Deadline::Never),
                Some(Some(status)) => return status,
                None => return ExitStatus::Exited(0),
            };
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
