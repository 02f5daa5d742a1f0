//! Containers: groups of tasks that are started, signalled, waited for, paused and counted as one from outside.
//!
//! A kernel holds any number of [`Container`]s, each with its own tree of mounts and its own set of namespaces, parts of
//! which it may share with another. Its processes are its *init* and those that are started in it later; both go
//! through [`Container::prepare`] (`boot`). `signal` reaches them, `stats` tells what they use. What a process forks
//! belongs to its container for good.
//!
//! When the init ends, so do all other processes of the container, and if it is the first of its pid namespace, all in
//! that; the container counts as stopped when they are gone.
//!
//! Lock order: the process tree, then a container's own locks, which are leaves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::signal::Signal;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use platform::Platform;

use crate::Kernel;
use crate::fs::mount::MountNamespace;
use crate::namespace::{
    CgroupNamespace, IpcNamespace, Namespaces, NetworkNamespace, PidNamespace, Sharing, UserNamespace,
    UtsNames, UtsNamespace,
};
use crate::task::table::Process;
use crate::task::{CurrentTask, ExitStatus, Pid, ThreadGroup};
use crate::wait::{Deadline, Events, WaitQueue, Waiter, Wakeup};

mod boot;
mod files;
mod signal;
mod stats;
#[cfg(test)]
mod tests;

pub use boot::{InitSpec, Prepared, Role};
pub use files::ReadableFile;
pub use signal::Target;
pub use stats::{MemoryUse, ProcessInfo, Usage};

/// The most exit statuses that are kept for processes that nobody has waited for; the oldest go first.
const MAX_UNCLAIMED: usize = 1024;
/// How long a pause waits for tasks to come out of guest code or of a call of the host.
const PAUSE_PATIENCE: Duration = Duration::from_secs(10);

/// Which namespaces a container is to have.
#[derive(Clone, Debug, Default)]
pub struct NamespaceSpec {
    /// The node name, for a UTS namespace of its own.
    pub hostname: String,
    /// The NIS domain name, for a UTS namespace of its own.
    pub domainname: String,
    /// Numbers of processes.
    pub pid: Sharing,
    /// Names.
    pub uts: Sharing,
    /// System V objects and message queues.
    pub ipc: Sharing,
    /// Network.
    pub network: Sharing,
    /// The view of cgroups.
    pub cgroup: Sharing,
}

/// Limits of a container as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerLimits {
    /// The most tasks at one time (`pids.max`).
    pub pids: Option<u64>,
    /// The most memory in bytes (`memory.max`); shown, and enforced by the host.
    pub memory: Option<u64>,
    /// Processor time per period, in microseconds (`cpu.max`); shown, and enforced by the host.
    pub cpu: Option<(u64, u64)>,
}

/// Which signals the init of a container of its own pid namespace gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitRule {
    /// As in Linux: nobody can send it a signal that it does not handle.
    #[default]
    Protected,
    /// All of them, as any other process: for a program that does not expect to be the first one.
    Ordinary,
}

/// What a container is to be.
pub struct ContainerSpec {
    /// Its name, by which [`Kernel::container`] finds it.
    pub id: String,
    /// Its namespaces, from [`Kernel::make_namespaces`].
    pub namespaces: Namespaces,
    /// Its tree of mounts.
    pub mounts: Arc<MountNamespace>,
    /// Its limits.
    pub limits: ContainerLimits,
    /// Which signals its init gets.
    pub init: InitRule,
    /// The seccomp filters that its processes start under.
    pub filters: Vec<Arc<crate::seccomp::Filter>>,
    /// What makes its address spaces, if not what makes those of the kernel.
    pub platform: Option<Arc<dyn Platform>>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its init has not been started.
    Created,
    /// Its init runs.
    Running,
    /// It runs, but none of its tasks is let into guest code.
    Paused,
    /// Its init has ended like this, and no process is left.
    Stopped(ExitStatus),
}

/// A container.
pub struct Container {
    /// Its name.
    pub id: String,
    kernel: Weak<Kernel>,
    /// The namespaces that its processes start in.
    pub namespaces: Namespaces,
    /// The tree of mounts that its processes start in.
    pub mounts: Arc<MountNamespace>,
    limits: Mutex<ContainerLimits>,
    /// Which signals its init gets.
    pub init: InitRule,
    /// The seccomp filters that its processes start under.
    pub filters: Vec<Arc<crate::seccomp::Filter>>,
    /// The terminal that `/dev/console` stands for.
    pub console: std::sync::OnceLock<Arc<crate::tty::Terminal>>,
    /// What makes its address spaces.
    pub(crate) platform: Arc<dyn Platform>,
    tasks: AtomicUsize,
    /// How often the limit on tasks has stopped one from being made (`pids.events`).
    refused_tasks: AtomicU64,
    records: Mutex<Records>,
    /// Woken when a process that was started from outside ends.
    exits: WaitQueue,
    /// Set when the init ends: nothing more is started.
    ending: AtomicBool,
    paused: AtomicBool,
    /// Woken when a task stops for a pause.
    parked: WaitQueue,
    /// Processor time of processes that have ended: in guest code, in the kernel.
    ended_time: Mutex<(Duration, Duration)>,
}

/// How a process has ended, if it has.
type Record = Arc<Mutex<Option<ExitStatus>>>;

/// The processes that were started from outside.
#[derive(Default)]
struct Records {
    init: Option<Pid>,
    init_status: Option<ExitStatus>,
    /// Processes but the init by their number in the container's pid namespace, and how they ended.
    processes: BTreeMap<Pid, Record>,
    /// Those of them that have ended, oldest first.
    unclaimed: Vec<Pid>,
}

/// Ends a wait from another thread.
#[derive(Clone, Default)]
pub struct Cancel(Arc<(AtomicBool, Arc<Waiter>)>);

impl Cancel {
    /// Ends the wait that this was given to, or will be given to.
    pub fn cancel(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.notify();
    }
}

impl Kernel {
    /// Makes the namespaces that a container is to have: `ESRCH` if one of another container's is wanted that does not
    /// exist. They come before the container, because a procfs among its mounts needs them.
    pub fn make_namespaces(&self, spec: &NamespaceSpec) -> SysResult<Namespaces> {
        let of = |sharing: &Sharing| match sharing {
            Sharing::New => Ok(None),
            Sharing::OfContainer(id) => self.container(id).ok_or(Errno::ESRCH).map(Some),
        };
        let names = UtsNames {
            hostname: spec.hostname.clone().into_bytes(),
            domainname: spec.domainname.clone().into_bytes(),
        };
        let (pid, uts) = (of(&spec.pid)?, of(&spec.uts)?);
        let (ipc, network, cgroup) = (of(&spec.ipc)?, of(&spec.network)?, of(&spec.cgroup)?);
        Ok(Namespaces {
            pid_for_children: match pid {
                Some(other) => Arc::clone(&other.namespaces.pid_for_children),
                None => PidNamespace::below(&self.pid_namespace, &UserNamespace::root())?,
            },
            uts: uts.map_or_else(
                || UtsNamespace::new(names, &UserNamespace::root()),
                |other| Arc::clone(&other.namespaces.uts),
            ),
            ipc: ipc.map_or_else(
                || IpcNamespace::new(&UserNamespace::root()),
                |other| Arc::clone(&other.namespaces.ipc),
            ),
            network: network.map_or_else(
                || NetworkNamespace::new(&UserNamespace::root()),
                |other| Arc::clone(&other.namespaces.network),
            ),
            cgroup: cgroup.map_or_else(
                || CgroupNamespace::new(&UserNamespace::root()),
                |other| Arc::clone(&other.namespaces.cgroup),
            ),
        })
    }

    /// Makes a container without processes: `EEXIST` if there is one of this name.
    pub fn create_container(self: &Arc<Kernel>, spec: ContainerSpec) -> SysResult<Arc<Container>> {
        let mut containers = self.containers.lock();
        if containers.contains_key(&spec.id) {
            return Err(Errno::EEXIST);
        }
        let container = Arc::new(Container {
            id: spec.id.clone(),
            kernel: Arc::downgrade(self),
            namespaces: spec.namespaces,
            mounts: spec.mounts,
            limits: Mutex::new(spec.limits),
            init: spec.init,
            filters: spec.filters,
            platform: spec.platform.unwrap_or_else(|| Arc::clone(&self.platform)),
            console: std::sync::OnceLock::new(),
            tasks: AtomicUsize::new(0),
            refused_tasks: AtomicU64::new(0),
            records: Mutex::default(),
            exits: WaitQueue::new(),
            ending: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            parked: WaitQueue::new(),
            ended_time: Mutex::default(),
        });
        containers.insert(spec.id, Arc::clone(&container));
        Ok(container)
    }

    /// The container of this name.
    pub fn container(&self, id: &str) -> Option<Arc<Container>> {
        self.containers.lock().get(id).cloned()
    }

    /// All containers in the order of their names.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.lock().values().cloned().collect()
    }
}

impl Container {
    fn kernel(&self) -> SysResult<Arc<Kernel>> {
        self.kernel.upgrade().ok_or(Errno::ESRCH)
    }

    /// Its pid namespace.
    pub fn pid_namespace(&self) -> &Arc<PidNamespace> {
        &self.namespaces.pid_for_children
    }

    /// Its limits.
    pub fn limits(&self) -> ContainerLimits {
        *self.limits.lock()
    }

    /// Changes its limits; tasks that are too many already stay.
    pub fn set_limits(&self, limits: ContainerLimits) {
        *self.limits.lock() = limits;
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        let records = self.records.lock();
        match (records.init, records.init_status) {
            (_, Some(status)) => State::Stopped(status),
            (None, None) => State::Created,
            (Some(_), None) if self.paused.load(Ordering::SeqCst) => State::Paused,
            (Some(_), None) => State::Running,
        }
    }

    /// Whether nothing more may be started in it, because its init has ended or is ending.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Rules out that anything more is started. Called under the lock of the process tree.
    pub(crate) fn set_ending(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Whether `group` belongs to it.
    fn holds(&self, group: &ThreadGroup) -> bool {
        std::ptr::eq(Arc::as_ptr(&group.container), self)
    }

    /// The living processes of the container.
    fn groups(&self, kernel: &Kernel) -> Vec<Arc<ThreadGroup>> {
        kernel.tasks.with(|tree| {
            let own = tree.processes().filter(|p| p.zombie.is_none() && self.holds(&p.group));
            own.map(|process| Arc::clone(&process.group)).collect()
        })
    }

    /// Counts a task that is to be made: `EAGAIN` if there are as many as there may be.
    pub(crate) fn charge_task(self: &Arc<Self>) -> SysResult<TaskCharge> {
        let limit = self.limits.lock().pids.unwrap_or(u64::MAX);
        let more = |count: usize| ((count as u64) < limit).then_some(count + 1);
        if self.tasks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            self.refused_tasks.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::EAGAIN);
        }
        Ok(TaskCharge(Some(Arc::clone(self))))
    }

    /// Counts a task no more.
    pub(crate) fn uncharge_task(&self) {
        self.tasks.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many tasks it has, zombies included.
    pub fn task_count(&self) -> usize {
        self.tasks.load(Ordering::SeqCst)
    }

    /// How often the limit on tasks has stopped one from being made.
    pub fn refused_tasks(&self) -> u64 {
        self.refused_tasks.load(Ordering::Relaxed)
    }

    /// Whether this is the init's pid.
    pub(crate) fn is_init(&self, pid: Pid) -> bool {
        self.records.lock().init == Some(pid)
    }

    /// Notes how a process ended, if it was started from outside.
    pub(crate) fn record_exit(&self, group: &ThreadGroup, status: ExitStatus) {
        {
            let mut time = self.ended_time.lock();
            let (user, system) = group.final_time();
            time.0 += user;
            time.1 += system;
        }
        let mut records = self.records.lock();
        if records.init == Some(group.pid) {
            records.init_status = Some(status);
        } else if let Some(record) = records.processes.get(&group.number) {
            *record.lock() = Some(status);
            records.unclaimed.push(group.number);
            if records.unclaimed.len() > MAX_UNCLAIMED {
                let oldest = records.unclaimed.remove(0);
                records.processes.remove(&oldest);
            }
        } else {
            return;
        }
        drop(records);
        self.exits.wake(Events::IN);
    }

    /// Waits until the init has ended and with it all of the container: `Ok(None)` at the deadline or if cancelled.
    /// Every wait gives the same answer. Before the init is started it waits for that too.
    pub fn wait_init(&self, deadline: Deadline, cancel: &Cancel) -> Option<ExitStatus> {
        self.wait_for(deadline, cancel, || self.records.lock().init_status)
    }

    /// Whether this is the number of a process that was started in it from outside and that nobody has waited for.
    pub fn knows(&self, number: Pid) -> bool {
        let records = self.records.lock();
        let init = records.init.map(|init| self.pid_namespace().number(init));
        records.processes.contains_key(&number) || init == Some(number)
    }

    /// Waits until a process ends that was started in the container by [`Container::prepare`], given by its number in
    /// the container's pid namespace: `Ok(None)` at the deadline or if cancelled. The first wait that gets the status of
    /// another process than the init takes it along; a later one gets `ESRCH`, as does one for any other process.
    pub fn wait(&self, number: Pid, deadline: Deadline, cancel: &Cancel) -> SysResult<Option<ExitStatus>> {
        let (record, status) = self.wait_recorded(number, deadline, cancel)?;
        if let (Some(record), Some(_)) = (record, status) {
            let mut records = self.records.lock();
            records.unclaimed.retain(|unclaimed| *unclaimed != number);
            if records.processes.get(&number).is_some_and(|known| Arc::ptr_eq(known, &record)) {
                records.processes.remove(&number);
            }
        }
        Ok(status)
    }

    /// As [`Container::wait`], but leaves the status for whoever else asks.
    pub fn watch(&self, number: Pid, deadline: Deadline, cancel: &Cancel) -> SysResult<Option<ExitStatus>> {
        Ok(self.wait_recorded(number, deadline, cancel)?.1)
    }

    /// Waits for a process; the record is none for the init, whose status stays.
    fn wait_recorded(
        &self,
        number: Pid,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> SysResult<(Option<Record>, Option<ExitStatus>)> {
        let record = {
            let records = self.records.lock();
            let init = records.init.map(|init| self.pid_namespace().number(init));
            match records.processes.get(&number) {
                Some(record) => Arc::clone(record),
                None if init == Some(number) || (init == Some(0) && number == 1) => {
                    drop(records);
                    return Ok((None, self.wait_init(deadline, cancel)));
                }
                None => return Err(Errno::ESRCH),
            }
        };
        let status = self.wait_for(deadline, cancel, || *record.lock());
        Ok((Some(record), status))
    }

    fn wait_for<T>(&self, deadline: Deadline, cancel: &Cancel, look: impl Fn() -> Option<T>) -> Option<T> {
        let (cancelled, waiter) = (&cancel.0.0, &cancel.0.1);
        let wakeup: Arc<dyn Wakeup> = Arc::clone(waiter) as _;
        let _registration = self.exits.register(Events::IN, &wakeup);
        loop {
            let found = look();
            if found.is_some() || cancelled.load(Ordering::SeqCst) || deadline.passed() {
                return found;
            }
            waiter.wait(deadline);
        }
    }

    /// Keeps the tasks of the container out of guest code until [`Container::resume`], and returns when they are. What
    /// they sleep for goes on; signals wait, but for SIGKILL.
    ///
    /// # Errors
    /// `EINVAL` unless it is running; `ETIMEDOUT` if a task does not come out of a call of the host: it then runs on.
    pub fn pause(&self) -> SysResult<()> {
        if self.state() != State::Running {
            return Err(Errno::EINVAL);
        }
        let kernel = self.kernel()?;
        let waiter = Arc::new(Waiter::default());
        let wakeup: Arc<dyn Wakeup> = Arc::clone(&waiter) as _;
        let _registration = self.parked.register(Events::IN, &wakeup);
        self.paused.store(true, Ordering::SeqCst);
        let own = || kernel.tasks.all().into_iter().filter(|task| self.holds(&task.group));
        own().for_each(|task| task.kick());
        let deadline = Deadline::after(PAUSE_PATIENCE);
        while own().any(|task| task.is_running() && !task.is_exiting()) {
            if deadline.passed() {
                let _ = self.resume();
                return Err(Errno::ETIMEDOUT);
            }
            // A task that goes to sleep in a call tells nobody, so look again soon.
            waiter.wait(Deadline::after(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// Lets the tasks go on: `EINVAL` unless it is paused.
    pub fn resume(&self) -> SysResult<()> {
        if !self.paused.swap(false, Ordering::SeqCst) {
            return Err(Errno::EINVAL);
        }
        let kernel = self.kernel()?;
        let own = kernel.tasks.all().into_iter().filter(|task| self.holds(&task.group));
        own.for_each(|task| task.kick());
        Ok(())
    }

    /// Ends all its processes, waits until they are gone, and takes it out of the kernel. Its files are closed when the
    /// last reference to it goes.
    pub fn destroy(self: &Arc<Self>) -> SysResult<()> {
        let kernel = self.kernel()?;
        kernel.tasks.with(|_| self.set_ending());
        kernel.end_processes(&|process| self.holds(&process.group));
        let started = self.records.lock().init.is_some();
        if started {
            self.wait_init(Deadline::Never, &Cancel::default());
        }
        let mut containers = kernel.containers.lock();
        if containers.get(&self.id).is_some_and(|known| Arc::ptr_eq(known, self)) {
            containers.remove(&self.id);
        }
        Ok(())
    }
}

impl CurrentTask {
    /// Keeps the task here while its container is paused.
    pub(crate) fn park_while_paused(&self) {
        let container = Arc::clone(&self.group.container);
        if !container.paused.load(Ordering::SeqCst) {
            return;
        }
        self.set_running(false);
        container.parked.wake(Events::IN);
        while container.paused.load(Ordering::SeqCst) && !self.is_exiting() {
            self.waiter.wait(Deadline::Never);
        }
        self.set_running(true);
    }
}

/// A task that a container counts; uncounted when dropped, unless [`TaskCharge::keep`] hands it over.
pub(crate) struct TaskCharge(Option<Arc<Container>>);

impl TaskCharge {
    /// The task is in the process tree, which uncounts it.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for TaskCharge {
    fn drop(&mut self) {
        if let Some(container) = &self.0 {
            container.uncharge_task();
        }
    }
}

impl Kernel {
    /// Ends the processes that `matches` picks, and waits until none is alive. New ones must have been ruled out before.
    pub(crate) fn end_processes(&self, matches: &dyn Fn(&Process) -> bool) {
        let waiter = Arc::new(Waiter::default());
        let wakeup: Arc<dyn Wakeup> = Arc::clone(&waiter) as _;
        let _registration = self.tasks.ended.register(Events::IN, &wakeup);
        loop {
            let groups: Vec<_> = self.tasks.with(|tree| {
                let living = tree.processes().filter(|process| process.zombie.is_none() && matches(process));
                living.map(|process| Arc::clone(&process.group)).collect()
            });
            if groups.is_empty() {
                return;
            }
            for group in groups {
                self.end_group(&group, ExitStatus::Signaled { signal: Signal::SIGKILL, core: false });
            }
            waiter.wait(Deadline::Never);
        }
    }
}
