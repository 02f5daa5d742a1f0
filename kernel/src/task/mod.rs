//! Tasks: guest threads, their thread groups (processes), process groups and sessions.
//!
//! A [`Task`] is what others may see of a guest thread; it is shared. A [`CurrentTask`] is the thread as its own
//! kernel thread has it, with the [`Context`] that runs guest code; it is owned by that kernel thread and everything
//! that acts *as* the thread takes it. `run` drives it; `clone`, `exec`, `exit` and `wait` change the tree.

use std::cell::{Ref, RefCell};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use abi::SysResult;
use parking_lot::{Mutex, RwLock};
use platform::{Context, Interrupter};

use crate::Kernel;
use crate::container::Container;
use crate::fs::path::FsState;
use crate::fs::{FdTable, File, FsContext};
use crate::mm::MemoryMap;
use crate::namespace::{Namespaces, PidNamespace};
use crate::signal::{GroupSignals, TaskSignals};
use crate::syscalls::Fd;
use crate::wait::{WaitQueue, Waiter};

pub use peak::Peak;

pub mod clone;
pub mod credentials;
pub(crate) mod delivery;
mod elf;
pub mod exec;
pub mod exit;
mod identity;
pub mod inspect;
pub mod limits;
mod peak;
pub mod pidfd;
mod prctl;
pub mod processor;
mod refused;
mod run;
pub mod sched;
mod servers;
pub mod syscalls;
pub mod table;
pub(crate) mod usage;
pub mod wait;

pub use credentials::Credentials;
pub use limits::Limits;
pub use table::TaskTable;

/// The kernel-wide number of a task, a thread group, a process group or a session, or what a guest gave as one.
///
/// Guests know other numbers, those of their pid namespace: see [`Task::number_of`] and [`Task::pid_of`], which stand
/// wherever such a number crosses to or from a guest.
pub type Pid = i32;

/// How a thread group ended, or is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By `exit(2)` with the low eight bits of the status.
    Exited(u8),
    /// By a signal.
    Signaled {
        /// Which.
        signal: abi::signal::Signal,
        /// Whether a core would have been dumped.
        core: bool,
    },
}

impl ExitStatus {
    /// The status as `wait(2)` reports it.
    pub fn wait_status(self) -> i32 {
        match self {
            ExitStatus::Exited(code) => i32::from(code) << 8,
            ExitStatus::Signaled { signal, core } => signal.number() | if core { 0x80 } else { 0 },
        }
    }

    /// The status as a shell reports it: 128+N for a signal.
    pub fn shell_status(self) -> u8 {
        match self {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled { signal, .. } => 128u8.wrapping_add(signal.number() as u8),
        }
    }
}

/// A guest thread, as all may see it.
pub struct Task {
    /// The kernel that it belongs to.
    pub kernel: Arc<Kernel>,
    /// The thread group that it belongs to.
    pub group: Arc<ThreadGroup>,
    tid: AtomicI32,
    number: AtomicI32,
    namespaces: Mutex<Arc<Namespaces>>,
    comm: Mutex<[u8; 16]>,
    files: Mutex<Option<Arc<FdTable>>>,
    fs: Mutex<Arc<FsContext>>,
    memory: Mutex<Option<Arc<MemoryMap>>>,
    credentials: RwLock<Arc<Credentials>>,
    /// How often they have changed.
    credentials_changes: AtomicU64,
    /// Pending signals, mask, alternate stack.
    pub signals: TaskSignals,
    /// What the task sleeps on.
    pub waiter: Arc<Waiter>,
    interrupter: Mutex<Arc<dyn Interrupter>>,
    /// Set when the task is to look at its signals, or to stop or end, before it goes on in guest code.
    attention: AtomicBool,
    /// Set when what identifies the task has changed, or the context that knows it.
    identity_changed: AtomicBool,
    /// Set when the thread is to end: by `exit(2)`, or with its group.
    exiting: AtomicBool,
    /// `set_tid_address(2)`; zero for none.
    pub clear_child_tid: AtomicU64,
    /// The host's number of the kernel thread that serves the task; zero before it runs.
    host_thread: AtomicI32,
    /// Nanoseconds that this thread had used for others before.
    host_time_before: AtomicU64,
    /// When the task was made.
    pub started: std::time::Instant,
    /// Nanoseconds that guest code used before the last `execve(2)`.
    user_time_before: AtomicU64,
    /// Whether it executes guest code or a system call, rather than sleep.
    running: AtomicBool,
    /// How it wants to be scheduled.
    pub scheduling: sched::Scheduling,
    /// `personality(2)`.
    pub personality: AtomicU32,
    /// Where its memory is to come from.
    pub memory_policy: Mutex<crate::mm::policy::Policy>,
    /// `PR_SET_TIMERSLACK`, in nanoseconds.
    pub timer_slack: AtomicU64,
    /// Set when a parent that waits in `vfork(2)` has its memory for itself again.
    pub vfork_done: AtomicBool,
    /// Where that parent waits.
    pub vfork_queue: WaitQueue,
    /// Which system calls it may make.
    pub seccomp: crate::seccomp::Seccomp,
    /// Who traces it.
    pub ptrace: crate::ptrace::Tracee,
    /// What `exit(2)` was called with.
    pub(crate) exit_code: AtomicU8,
    /// What is to be undone of System V semaphores at its end; `None` once that has been done.
    pub sem_undo: Mutex<Option<Arc<crate::ipc::sysv::sem::UndoList>>>,
    /// Whether the thread has ended, for its pidfds.
    pub ending: pidfd::Ending,
}

/// Parts of a new task.
pub struct NewTask {
    /// Thread id.
    pub tid: Pid,
    /// Thread group.
    pub group: Arc<ThreadGroup>,
    /// Name, at most 15 bytes.
    pub comm: [u8; 16],
    /// Descriptors.
    pub files: Arc<FdTable>,
    /// Root, working directory, umask.
    pub fs: Arc<FsContext>,
    /// Memory.
    pub memory: Arc<MemoryMap>,
    /// Identity.
    pub credentials: Arc<Credentials>,
    /// Signal mask and the like.
    pub signals: TaskSignals,
    /// Which system calls it may make.
    pub seccomp: crate::seccomp::Seccomp,
    /// How it wants to be scheduled.
    pub scheduling: sched::Scheduling,
    /// Namespaces.
    pub namespaces: Arc<Namespaces>,
}

impl Task {
    /// A task that runs in `context`. The caller adds it to the [`TaskTable`] and starts it.
    pub fn create(kernel: &Arc<Kernel>, new: NewTask, context: Box<dyn Context>) -> CurrentTask {
        new.signals.move_to(context.own_state());
        let own = Own {
            files: RefCell::new(Some(Arc::clone(&new.files))),
            fs: RefCell::new(Arc::clone(&new.fs)),
            credentials: RefCell::new((0, Arc::clone(&new.credentials))),
        };
        let task = Arc::new(Task {
            kernel: Arc::clone(kernel),
            number: AtomicI32::new(new.group.pid_namespace.number(new.tid)),
            namespaces: Mutex::new(new.namespaces),
            tid: AtomicI32::new(new.tid),
            host_thread: AtomicI32::new(0),
            host_time_before: AtomicU64::new(0),
            comm: Mutex::new(new.comm),
            files: Mutex::new(Some(new.files)),
            fs: Mutex::new(new.fs),
            memory: Mutex::new(Some(new.memory)),
            credentials: RwLock::new(new.credentials),
            credentials_changes: AtomicU64::new(0),
            signals: new.signals,
            waiter: Arc::default(),
            interrupter: Mutex::new(context.interrupter()),
            attention: AtomicBool::new(true),
            identity_changed: AtomicBool::new(true),
            exiting: AtomicBool::new(false),
            clear_child_tid: AtomicU64::new(0),
            started: std::time::Instant::now(),
            user_time_before: AtomicU64::new(0),
            running: AtomicBool::new(true),
            scheduling: new.scheduling,
            personality: AtomicU32::new(0),
            memory_policy: Mutex::default(),
            timer_slack: AtomicU64::new(50_000),
            vfork_done: AtomicBool::new(false),
            vfork_queue: WaitQueue::new(),
            seccomp: new.seccomp,
            ptrace: crate::ptrace::Tracee::default(),
            exit_code: AtomicU8::new(0),
            sem_undo: Mutex::new(Some(Arc::default())),
            ending: pidfd::Ending::default(),
            group: new.group,
        });
        CurrentTask {
            task,
            own,
            context: RefCell::new(context),
            restart: RefCell::new(None),
            delivery: RefCell::new(None),
        }
    }

    /// The thread id.
    pub fn tid(&self) -> Pid {
        self.tid.load(Ordering::Relaxed)
    }

    /// Makes the platform ask again what it may answer without the kernel.
    pub(crate) fn change_answers(&self) {
        self.identity_changed.store(true, Ordering::SeqCst);
    }

    /// Changes the thread id; `execve(2)` by a thread that does not lead its group takes the leader's.
    pub(crate) fn set_tid(&self, tid: Pid, number: Pid) {
        self.tid.store(tid, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        self.identity_changed.store(true, Ordering::Relaxed);
    }

    /// The thread id in the task's own pid namespace, as `gettid(2)` gives it.
    pub fn number(&self) -> Pid {
        self.number.load(Ordering::Relaxed)
    }

    /// The number of `pid` in the task's own pid namespace; zero if it cannot be seen from there.
    pub fn number_of(&self, pid: Pid) -> Pid {
        self.group.pid_namespace.number(pid)
    }

    /// What a number in the task's own pid namespace stands for: `ESRCH`.
    pub fn pid_of(&self, number: Pid) -> SysResult<Pid> {
        self.group.pid_namespace.pid(number).ok_or(abi::Errno::ESRCH)
    }

    /// The task with this number in the task's own pid namespace: `ESRCH`.
    pub fn find_task(&self, number: Pid) -> SysResult<Arc<Task>> {
        self.kernel.tasks.get(self.pid_of(number)?).ok_or(abi::Errno::ESRCH)
    }

    /// The thread group with this number in the task's own pid namespace, zombies included: `ESRCH`.
    pub fn find_group(&self, number: Pid) -> SysResult<Arc<ThreadGroup>> {
        self.kernel.tasks.group(self.pid_of(number)?).ok_or(abi::Errno::ESRCH)
    }

    /// The namespaces.
    pub fn namespaces(&self) -> Arc<Namespaces> {
        Arc::clone(&self.namespaces.lock())
    }

    /// Replaces the namespaces (`unshare(2)`, `setns(2)`). Only the task itself does so.
    pub(crate) fn set_namespaces(&self, namespaces: Arc<Namespaces>) {
        *self.namespaces.lock() = namespaces;
    }

    /// Processor time that the task's kernel thread has used.
    pub fn kernel_time(&self) -> Duration {
        match self.host_thread.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            thread => self.without_others(host::process::thread_cpu_time(thread).unwrap_or_default()),
        }
    }

    /// The objects of System V and the message queues that it sees.
    pub fn ipc(&self) -> Arc<crate::namespace::IpcNamespace> {
        Arc::clone(&self.namespaces().ipc)
    }

    /// What is left of the kernel thread's time without what it did for other tasks before.
    pub(super) fn without_others(&self, time: Duration) -> Duration {
        time.saturating_sub(Duration::from_nanos(self.host_time_before.load(Ordering::Relaxed)))
    }

    /// Notes which thread of the host serves the task, and what that has done before.
    pub(crate) fn set_host_thread(&self, thread: i32, time_before: Duration) {
        let nanoseconds = u64::try_from(time_before.as_nanos()).unwrap_or(u64::MAX);
        self.host_time_before.store(nanoseconds, Ordering::Relaxed);
        self.host_thread.store(thread, Ordering::Relaxed);
    }

    /// Notes that the time of the task's kernel thread is counted elsewhere.
    pub(super) fn clear_host_thread(&self) {
        self.host_thread.store(0, Ordering::Relaxed);
    }

    /// The name (`comm`), without zero bytes, as text.
    pub fn comm(&self) -> String {
        let comm = self.comm.lock();
        let length = comm.iter().position(|byte| *byte == 0).unwrap_or(15);
        String::from_utf8_lossy(&comm[..length]).into_owned()
    }

    /// The name as `prctl(PR_GET_NAME)` gives it: 16 bytes, zero-terminated.
    pub fn comm_bytes(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// Sets the name to the first 15 bytes of `name` before any zero.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; 16];
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(15);
        comm[..length].copy_from_slice(&name[..length]);
        *self.comm.lock() = comm;
    }

    /// The descriptor table; an empty one once the task has ended.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone().unwrap_or_default()
    }

    /// The open file behind a descriptor: `EBADF`.
    pub fn file(&self, fd: Fd) -> SysResult<Arc<File>> {
        match &*self.files.lock() {
            Some(files) => files.get(fd),
            None => Err(abi::Errno::EBADF),
        }
    }

    /// Root, working directory and umask.
    pub fn fs(&self) -> Arc<FsContext> {
        Arc::clone(&self.fs.lock())
    }

    /// What [`Task::fs`] holds now.
    pub fn fs_state(&self) -> Arc<FsState> {
        self.fs.lock().get()
    }

    /// The memory map; `None` once the task has ended.
    pub fn memory(&self) -> Option<Arc<MemoryMap>> {
        self.memory.lock().clone()
    }

    /// Replaces the memory map (`execve(2)`); `None` at the task's end.
    pub(crate) fn set_memory(&self, memory: Option<Arc<MemoryMap>>) -> Option<Arc<MemoryMap>> {
        std::mem::replace(&mut *self.memory.lock(), memory)
    }

    /// The identity.
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.read())
    }

    /// Takes away the way to new privileges (`PR_SET_NO_NEW_PRIVS`).
    pub(crate) fn set_no_new_privileges(&self) {
        let mut slot = self.credentials.write();
        *slot = Arc::new(Credentials { no_new_privileges: true, ..(**slot).clone() });
        self.credentials_changes.fetch_add(1, Ordering::Release);
    }

    /// Replaces the identity. Only the task itself does so.
    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        let mut slot = self.credentials.write();
        *slot = Arc::new(credentials);
        self.credentials_changes.fetch_add(1, Ordering::Release);
        drop(slot);
        self.identity_changed.store(true, Ordering::Relaxed);
    }

    /// Makes the task look at its signals soon: ends its sleep, or brings it back from guest code.
    pub fn kick(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.waiter.notify();
        self.interrupter().interrupt();
    }

    /// Makes the task look at its signals before it runs guest code again, which it does not just now.
    pub(crate) fn look_again(&self) {
        self.attention.store(true, Ordering::SeqCst);
    }

    /// What reaches the thread while it runs.
    pub(crate) fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::clone(&self.interrupter.lock())
    }

    /// Processor time that guest code used before the last `execve(2)`.
    pub(crate) fn user_time_before(&self) -> Duration {
        Duration::from_nanos(self.user_time_before.load(Ordering::Relaxed))
    }

    /// Whether the task runs, rather than sleep in a system call.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Notes that the task goes to sleep, or that it has woken up.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
        if running {
            self.group.cpu_time_goes_on(&self.kernel);
        }
    }

    /// Whether the thread is ending.
    pub fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::SeqCst)
    }

    /// Tells the thread to end before it executes another guest instruction.
    pub(crate) fn request_exit(&self) {
        self.exiting.store(true, Ordering::SeqCst);
        self.kick();
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// The task that the calling kernel thread serves, if it serves one.
pub fn current() -> Option<Arc<Task>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Says which task the calling kernel thread serves.
pub(crate) fn set_current(task: Option<Arc<Task>>) {
    CURRENT.replace(task);
}

/// What `restart_syscall(2)` continues with.
pub type RestartFunction = Box<dyn FnOnce(&CurrentTask) -> crate::error::SyscallResult + Send>;

/// What only the task itself replaces, as it finds it without keeping anybody out.
struct Own {
    files: RefCell<Option<Arc<FdTable>>>,
    fs: RefCell<Arc<FsContext>>,
    /// Others may take privileges away: these are as they were after so many changes.
    credentials: RefCell<(u64, Arc<Credentials>)>,
}

/// A guest thread, as its own kernel thread has it.
pub struct CurrentTask {
    /// What others see of it.
    pub task: Arc<Task>,
    /// The same for the task itself.
    own: Own,
    /// What runs its guest code. Borrowed only for single operations, never across a call that may borrow it again.
    pub context: RefCell<Box<dyn Context>>,
    restart: RefCell<Option<RestartFunction>>,
    /// What the system call that has just been served gives the guest when it goes on.
    pub(crate) delivery: RefCell<Option<delivery::Delivery>>,
}

impl Deref for CurrentTask {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.task
    }
}

/// How many references to its descriptor table, or to its root and working directory, are a task's own.
const OWN_REFERENCES: usize = 2;

impl CurrentTask {
    /// The descriptor table; an empty one once the task has ended.
    pub fn files(&self) -> Arc<FdTable> {
        self.own.files.borrow().clone().unwrap_or_default()
    }

    /// Whether other tasks have the descriptor table too, of which the caller has one reference.
    pub(crate) fn shares_files(&self, files: &Arc<FdTable>) -> bool {
        Arc::strong_count(files) > OWN_REFERENCES + 1
    }

    /// Replaces the descriptor table (`unshare(2)`, `execve(2)`); `None` at the task's end.
    pub(crate) fn set_files(&self, files: Option<Arc<FdTable>>) -> Option<Arc<FdTable>> {
        self.change_answers();
        self.own.files.replace(files.clone());
        std::mem::replace(&mut *self.task.files.lock(), files)
    }

    /// The open file behind a descriptor: `EBADF`.
    pub fn file(&self, fd: Fd) -> SysResult<Arc<File>> {
        self.with_files(|files| files.get(fd))
    }

    /// Takes a descriptor out of the table and returns its file: `EBADF`.
    pub(crate) fn take_file(&self, fd: Fd) -> SysResult<Arc<File>> {
        self.with_files(|files| files.remove(fd))
    }

    /// Does something with the descriptor table that ends nothing: `EBADF` once the task has ended.
    #[inline]
    pub(crate) fn with_files<T>(&self, operation: impl FnOnce(&FdTable) -> SysResult<T>) -> SysResult<T> {
        self.own.files.borrow().as_ref().map_or(Err(abi::Errno::EBADF), |files| operation(files))
    }

    /// What root, working directory and umask are now.
    pub fn fs_state(&self) -> Arc<FsState> {
        self.own.fs.borrow().get()
    }

    /// Whether other tasks have root, working directory and umask in common with it, of which the caller has one reference.
    pub(crate) fn shares_fs(&self, fs: &Arc<FsContext>) -> bool {
        Arc::strong_count(fs) > OWN_REFERENCES + 1
    }

    /// Replaces root, working directory and umask by a context of its own (`unshare(2)`).
    pub(crate) fn set_fs(&self, fs: Arc<FsContext>) {
        self.own.fs.replace(Arc::clone(&fs));
        *self.task.fs.lock() = fs;
    }

    /// The identity, for an operation that does not change it.
    pub fn own_credentials(&self) -> Ref<'_, Credentials> {
        let changes = self.credentials_changes.load(Ordering::Acquire);
        // Who has it in use already goes on with that.
        if self.own.credentials.borrow().0 != changes
            && let Ok(mut own) = self.own.credentials.try_borrow_mut()
        {
            *own = (changes, self.credentials());
        }
        Ref::map(self.own.credentials.borrow(), |(_, credentials)| &**credentials)
    }

    /// The memory map. A running task always has one.
    pub fn mm(&self) -> SysResult<Arc<MemoryMap>> {
        self.memory().ok_or(abi::Errno::EFAULT)
    }

    /// Records what `restart_syscall(2)` is to do; the call then returns [`crate::error::Restart::Block`].
    pub fn set_restart(&self, function: RestartFunction) {
        *self.restart.borrow_mut() = Some(function);
    }

    /// Takes what [`CurrentTask::set_restart`] recorded.
    pub fn take_restart(&self) -> Option<RestartFunction> {
        self.restart.borrow_mut().take()
    }

    /// Has the host show the process of guest code by this name.
    pub fn show_name(&self, name: [u8; 16]) {
        let mut context = self.context.borrow_mut();
        context.describe(platform::Description { name, strings: None });
        let _ = context.memory(&[]);
    }

    /// Replaces what runs the guest code, for `execve(2)`; returns what did so far, and for how long guest code has run in it.
    pub(crate) fn replace_context(&self, context: Box<dyn Context>) -> (Box<dyn Context>, Duration) {
        let used = self.context.borrow().cpu_time();
        let nanoseconds = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        *self.interrupter.lock() = context.interrupter();
        self.signals.move_to(context.own_state());
        self.identity_changed.store(true, Ordering::Relaxed);
        self.user_time_before.fetch_add(nanoseconds, Ordering::Relaxed);
        (self.context.replace(context), used)
    }

    /// Whether a sleep must end because a signal is to be handled or the thread is to end.
    pub fn interrupted(&self) -> bool {
        self.is_exiting() || crate::signal::pending(self)
    }
}

/// A process: tasks that share an address space, signal actions, timers, limits.
pub struct ThreadGroup {
    /// The kernel-wide number of the group, that of its first task.
    pub pid: Pid,
    /// The same in its own pid namespace, as `getpid(2)` gives it.
    pub number: Pid,
    /// Its pid namespace.
    pub pid_namespace: Arc<PidNamespace>,
    /// The container that it runs in.
    pub container: Arc<Container>,
    /// Signal actions and signals pending for the group as a whole.
    pub signals: GroupSignals,
    /// Resource limits.
    pub limits: Mutex<Limits>,
    /// How the group is to end, once that is decided.
    pub exit: Mutex<Option<ExitStatus>>,
    /// `alarm(2)`, interval timers, POSIX timers.
    pub timers: crate::time::interval::GroupTimers,
    /// Looks after timers of processor time.
    pub cpu_watch: crate::time::cpu::CpuWatch,
    /// The controlling terminal.
    pub terminal: Mutex<Option<Arc<crate::tty::Terminal>>>,
    /// Of a session leader whose terminal has hung up: the process group that was in its foreground.
    pub former_foreground: Mutex<Option<Pid>>,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: AtomicBool,
    /// Where the group waits for its children.
    pub child_queue: WaitQueue,
    /// The tasks that its threads trace.
    pub tracees: crate::ptrace::Tracees,
    /// Who traced the first task, once that has ended.
    pub(crate) leader_tracer: Mutex<Option<crate::ptrace::Tracer>>,
    /// Where `execve(2)` waits for the other threads to end.
    pub exec_queue: WaitQueue,
    /// Processor time of tasks that have ended: in guest code, in the kernel.
    ended_time: Mutex<(Duration, Duration)>,
    /// The part of it that was used in address spaces that `execve(2)` has replaced.
    replaced_time: Mutex<Duration>,
    /// Processor time in guest code in the last address space, once it is given up.
    space_time: Mutex<Option<Duration>>,
    /// What it had in memory at most, once its address space is given up.
    peak: Mutex<Peak>,
    last_uid: AtomicU32,
    /// Whether the process has ended, for its pidfds.
    pub ending: pidfd::Ending,
}

impl ThreadGroup {
    /// A group without tasks.
    pub fn new(
        pid: Pid,
        pid_namespace: &Arc<PidNamespace>,
        container: &Arc<Container>,
        signals: GroupSignals,
        limits: Limits,
    ) -> Arc<ThreadGroup> {
        Arc::new(ThreadGroup {
            pid,
            number: pid_namespace.number(pid),
            pid_namespace: Arc::clone(pid_namespace),
            container: Arc::clone(container),
            signals,
            limits: Mutex::new(limits),
            exit: Mutex::new(None),
            timers: crate::time::interval::GroupTimers::default(),
            cpu_watch: crate::time::cpu::CpuWatch::default(),
            terminal: Mutex::default(),
            former_foreground: Mutex::default(),
            oom_score_adj: AtomicI32::new(0),
            dumpable: AtomicBool::new(true),
            child_queue: WaitQueue::new(),
            tracees: crate::ptrace::Tracees::default(),
            leader_tracer: Mutex::default(),
            exec_queue: WaitQueue::new(),
            ended_time: Mutex::default(),
            replaced_time: Mutex::default(),
            space_time: Mutex::default(),
            peak: Mutex::default(),
            last_uid: AtomicU32::new(0),
            ending: pidfd::Ending::default(),
        })
    }

    /// The soft limit of a resource.
    pub fn limit(&self, resource: limits::Resource) -> u64 {
        self.limits.lock().get(resource).current
    }

    /// Adds the processor time of a task that ends.
    pub(crate) fn add_time(&self, user: Duration, system: Duration) {
        let mut time = self.ended_time.lock();
        time.0 += user;
        time.1 += system;
    }

    /// Adds processor time in guest code of an address space that `execve(2)` replaces.
    pub(crate) fn replace_time(&self, user: Duration) {
        self.add_time(user, Duration::ZERO);
        *self.replaced_time.lock() += user;
    }

    /// Notes what was used in the last address space, when it is given up: processor time, and memory.
    pub(crate) fn set_space_usage(&self, user: Duration, peak: Peak) {
        *self.space_time.lock() = Some(user);
        *self.peak.lock() = peak;
    }

    /// What a group that has ended had in memory at most.
    pub fn final_peak(&self) -> Peak {
        self.peak.lock().clone()
    }

    /// Processor time of a group that has ended: in guest code, in the kernel.
    pub fn final_time(&self) -> (Duration, Duration) {
        let (user, system) = self.time();
        let space = *self.space_time.lock();
        (space.map_or(user, |space| space + self.replaced_time()), system)
    }

    /// Processor time in guest code in address spaces that `execve(2)` has replaced.
    pub fn replaced_time(&self) -> Duration {
        *self.replaced_time.lock()
    }

    /// Processor time of the whole group, whose living tasks are these: in guest code, in the kernel.
    pub fn total_time(&self, tasks: &[Arc<Task>]) -> (Duration, Duration) {
        let memory = tasks.iter().find_map(|task| task.memory());
        let user = memory.map(|memory| memory.space().cpu_time()).unwrap_or_default();
        let system: Duration = tasks.iter().map(|task| task.kernel_time()).sum();
        (self.replaced_time() + user, self.time().1 + system)
    }

    /// Processor time of tasks that have ended: in guest code, in the kernel.
    pub fn time(&self) -> (Duration, Duration) {
        *self.ended_time.lock()
    }

    /// The user of the task that ended last, for a zombie.
    pub(crate) fn last_uid(&self) -> u32 {
        self.last_uid.load(Ordering::Relaxed)
    }

    /// Records the user of a task that ends.
    pub(crate) fn set_last_uid(&self, uid: u32) {
        self.last_uid.store(uid, Ordering::Relaxed);
    }
}
