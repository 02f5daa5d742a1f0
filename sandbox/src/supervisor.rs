//! What the sandbox process knows of its containers, and what it does with them.
//!
//! The [`Supervisor`] has a table of [`Member`]s, one for each container; requests of the control protocol are its
//! methods. A container whose program runs has a thread that waits for its end; so has each further program that is
//! run in it. A container or program with a [link](crate::link) has another one, which listens there.
//!
//! Lock order: the table, then a member's life. Neither is held across a call of the kernel that can wait.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use abi::Errno;
use abi::signal::Signal;
use host::rustix::event::{PollFd, PollFlags, poll};
use host::rustix::io::Errno as HostErrno;
use host::step::{Step, reach};
use kernel::container::{Cancel, Container, InitRule, NamespaceSpec, Prepared, Role, State, Target};
use kernel::fs::memfs::MemFs;
use kernel::syscalls::{Strace, StraceFilter};
use kernel::task::ExitStatus;
use kernel::tty::DevPts;
use kernel::tty::console::Console;
use kernel::wait::Deadline;
use kernel::{Config, HostInfo, Kernel};
use parking_lot::{Condvar, Mutex};
use platform::Platform;

use crate::control::message::{
    ContainerState, ErrorCode, Failure, MemoryUse, ProcessInfo, Response, SignalTarget, Usage, WaitTarget,
};
use crate::control::transport::is_hung_up;
use crate::descriptors::Descriptors;
use crate::link::Passed;
use crate::spec::{ContainerSpec, Descriptor, ProcessSpec, ResourcesSpec, SeccompInstruction, Sharing};
use crate::tree::failed;
use crate::{link, program, restrict, tree};

mod files;

const STACK: usize = 128 << 10;
/// After how long a sandbox is no longer starting.
const SETTLED: Duration = Duration::from_millis(200);
/// How often somebody who waits for the end of a process is looked after: is it still there?
const ROUND: Duration = Duration::from_secs(5);
const SIGKILL: i32 = 9;
const SIGWINCH: i32 = 28;

/// Everything in a sandbox.
pub struct Supervisor {
    platform: Arc<dyn Platform>,
    info: HostInfo,
    booted: OnceLock<Booted>,
    table: Mutex<Table>,
    over: Condvar,
}

struct Booted {
    kernel: Arc<Kernel>,
}

#[derive(Default)]
struct Table {
    members: HashMap<String, Arc<Member>>,
    /// The first container: the sandbox ends with it.
    root: Option<String>,
    over: bool,
}

/// A container of the sandbox.
struct Member {
    id: String,
    life: Mutex<Life>,
    changed: Condvar,
    container: OnceLock<Arc<Container>>,
    /// Its pseudo-terminals: no other container can open them.
    terminals: OnceLock<Arc<DevPts>>,
    console: OnceLock<Arc<Console>>,
    link: OnceLock<Arc<OwnedFd>>,
    /// The layer over its root directory, if there is one.
    layer: OnceLock<Arc<MemFs>>,
    /// Terminals of further programs by their pids.
    consoles: Mutex<HashMap<i32, Arc<Console>>>,
}

/// How far a container is.
enum Life {
    Creating,
    Created(Box<Prepared>),
    Started,
    Stopped(u32),
}

impl Supervisor {
    /// A sandbox without containers.
    pub fn new(platform: Arc<dyn Platform>, info: HostInfo) -> Arc<Supervisor> {
        Arc::new(Supervisor {
            platform,
            info,
            booted: OnceLock::new(),
            table: Mutex::default(),
            over: Condvar::new(),
        })
    }

    /// Blocks until the first container has ended, and with it the sandbox.
    pub fn wait_until_over(&self) {
        let mut table = self.table.lock();
        if !table.over && self.over.wait_for(&mut table, SETTLED).timed_out() {
            // Much of the code was for the start.
            host::process::release_code();
        }
        while !table.over {
            self.over.wait(&mut table);
        }
    }

    /// The maker of the sandbox has closed its connection. If it has made nothing, nobody knows of the sandbox.
    pub fn maker_left(&self) {
        let mut table = self.table.lock();
        if table.root.is_none() {
            table.over = true;
            self.over.notify_all();
        }
    }

    fn find(&self, id: &str) -> Result<Arc<Member>, Failure> {
        let found = self.table.lock().members.get(id).cloned();
        found.ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("container \"{id}\" does not exist")))
    }

    fn booted(&self) -> Result<&Booted, Failure> {
        self.booted.get().ok_or_else(|| Failure::new(ErrorCode::Internal, "the kernel has not been started"))
    }

    fn boot(&self, spec: &ContainerSpec) -> Result<&Booted, Failure> {
        if let Some(booted) = self.booted.get() {
            return Ok(booted);
        }
        let strace = spec.strace.as_deref().map(strace).transpose()?;
        let config = Config { strace, host: self.info.clone(), gvisor_marker: spec.gvisor_marker };
        let kernel = Kernel::new(Arc::clone(&self.platform), config);
        Ok(self.booted.get_or_init(|| Booted { kernel }))
    }

    /// Makes a container and loads its program.
    pub fn create(self: &Arc<Self>, spec: ContainerSpec, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        reach(Step::SandboxCreate);
        let member = Arc::new(Member::new(&spec.id));
        {
            let mut table = self.table.lock();
            if table.over {
                return Err(Failure::new(ErrorCode::Stopped, "the sandbox has ended"));
            }
            if table.members.contains_key(&spec.id) {
                let text = format!("container with id \"{}\" already exists", spec.id);
                return Err(Failure::new(ErrorCode::AlreadyExists, text));
            }
            table.members.insert(spec.id.clone(), Arc::clone(&member));
            table.root.get_or_insert_with(|| spec.id.clone());
        }
        let result = self.fill(&member, &spec, Descriptors::new(descriptors));
        reach(Step::SandboxCreated);
        if result.is_err() {
            if let Some(container) = member.container.get() {
                let _ = container.destroy();
            }
            self.forget(&member);
        }
        result
    }

    /// Builds what a container consists of.
    fn fill(
        self: &Arc<Self>,
        member: &Arc<Member>,
        spec: &ContainerSpec,
        mut descriptors: Descriptors,
    ) -> Result<(), Failure> {
        let link = spec.link.map(|link| descriptors.take(link)).transpose()?;
        let booted = self.boot(spec)?;
        if let Some(log) = spec.user_log {
            use std::io::Write;
            let log = std::fs::File::from(descriptors.take(log)?);
            // Bounded: each call is told of once.
            let listener = move |line: &str| drop(writeln!(&log, "{line}"));
            let _ = booted.kernel.unimplemented.listener.set(Box::new(listener));
        }
        let namespaces = booted
            .kernel
            .make_namespaces(&self.namespaces(spec))
            .map_err(failed("cannot make the namespaces"))?;
        restrict::set_sysctls(&namespaces, &spec.sysctl)?;
        let groups: Vec<_> =
            spec.cgroups.iter().map(|group| descriptors.take(*group)).collect::<Result<_, _>>()?;
        // What the programs of one container are made ready with is not for those of others.
        let first = self.table.lock().root.as_deref() == Some(&*spec.id);
        let platform = (!first || !groups.is_empty()).then(|| self.platform.within(groups)).transpose();
        let channels = spec.gofer.iter().map(|channel| descriptors.take(*channel));
        let gofer = gofer::Client::connect(channels.collect::<Result<_, _>>()?)
            .map_err(failed("cannot talk to the gofer"))?;
        let hang_up = gofer.hang_up().map_err(failed("cannot watch the gofer"))?;
        let terminals = Arc::clone(member.terminals.get_or_init(|| DevPts::new(&booted.kernel)));
        let tree = tree::build(&booted.kernel, &terminals, &namespaces, spec, &gofer, &mut descriptors)?;
        if let Some(layer) = tree.layer {
            let _ = member.layer.set(layer);
        }
        let instructions = spec.seccomp.iter();
        let instructions: Vec<_> = instructions
            .map(|&SeccompInstruction(code, jt, jf, k)| abi::seccomp::SockFilter { code, jt, jf, k })
            .collect();
        let filters = (!instructions.is_empty()).then(|| kernel::seccomp::Filter::new(&instructions));
        let filters: Result<Vec<_>, _> = filters.into_iter().collect();
        let container = kernel::container::ContainerSpec {
            filters: filters.map_err(failed("cannot use the seccomp filter"))?,
            id: spec.id.clone(),
            namespaces,
            mounts: tree.namespace,
            limits: spec.resources.into(),
            platform: platform.map_err(failed("cannot enter the container's control groups"))?,
            init: if spec.ordinary_init { InitRule::Ordinary } else { InitRule::Protected },
        };
        let container =
            booted.kernel.create_container(container).map_err(failed("cannot make the container"))?;
        let _ = member.container.set(Arc::clone(&container));
        let program = program::prepare(&terminals, &container, Role::Init, &spec.process, &mut descriptors)?;
        if let Some(console) = program.console {
            let _ = member.console.set(console);
        }
        *member.life.lock() = Life::Created(Box::new(program.prepared));
        // The files belong to the member: whoever waits for their end must not keep it.
        // A gofer that serves nothing ends now, and is not missed.
        if gofer.mounts() > 0 {
            let (supervisor, served) = (Arc::clone(self), Arc::downgrade(member));
            spawn("gofer", move || supervisor.follow_gofer(&served, &hang_up))?;
        }
        if let Some(link) = link {
            let link = Arc::new(link);
            let _ = member.link.set(Arc::clone(&link));
            let (supervisor, linked) = (Arc::clone(self), Arc::clone(member));
            spawn("link", move || supervisor.follow_link(&linked, &link))?;
        }
        Ok(())
    }

    fn namespaces(&self, spec: &ContainerSpec) -> NamespaceSpec {
        let root = self.table.lock().root.clone().filter(|root| *root != spec.id);
        let convert = |sharing: &Sharing| match (sharing, &root) {
            (Sharing::Container(id), _) => kernel::namespace::Sharing::OfContainer(id.clone()),
            (Sharing::Sandbox, Some(root)) => kernel::namespace::Sharing::OfContainer(root.clone()),
            _ => kernel::namespace::Sharing::New,
        };
        NamespaceSpec {
            hostname: spec.hostname.clone(),
            domainname: spec.domainname.clone(),
            pid: convert(&spec.pid_namespace),
            uts: convert(&spec.uts_namespace),
            ipc: convert(&spec.ipc_namespace),
            // There is one network in a sandbox.
            network: convert(&Sharing::Sandbox),
            cgroup: kernel::namespace::Sharing::New,
        }
    }

    /// Starts a container's program.
    pub fn start(self: &Arc<Self>, id: &str) -> Result<(), Failure> {
        reach(Step::SandboxStart);
        let member = self.find(id)?;
        let prepared = {
            let mut life = member.life.lock();
            match std::mem::replace(&mut *life, Life::Started) {
                Life::Created(prepared) => prepared,
                other => {
                    *life = other;
                    return Err(match &*life {
                        Life::Stopped(_) => member.stopped(),
                        Life::Started => member.bad_state("was started already"),
                        _ => member.bad_state("is still being created"),
                    });
                }
            }
        };
        if let Err(error) = prepared.start() {
            self.ended(&member, 127 << 8);
            return Err(failed(format!("cannot start container \"{id}\""))(error));
        }
        reach(Step::SandboxStarted);
        let supervisor = Arc::clone(self);
        spawn("init", move || {
            let container = member.container.get();
            let status =
                container.and_then(|container| container.wait_init(Deadline::Never, &Cancel::default()));
            reach(Step::SandboxEnded);
            supervisor.ended(&member, status.map_or(9, wait_status));
        })
    }

    /// A container's first process has ended, and all others with it.
    fn ended(&self, member: &Member, status: u32) {
        let consoles: Vec<_> = member.consoles.lock().values().cloned().collect();
        member.console.get().into_iter().chain(&consoles).for_each(|console| console.finish());
        {
            let mut life = member.life.lock();
            if matches!(*life, Life::Stopped(_)) {
                return;
            }
            *life = Life::Stopped(status);
        }
        member.changed.notify_all();
        if let Some(link) = member.link.get() {
            link::report(&**link, status);
        }
        let mut table = self.table.lock();
        if table.root.as_ref() == Some(&member.id) {
            table.over = true;
            self.over.notify_all();
        }
    }

    /// Takes a container out of the table. Without its first, a sandbox has no purpose.
    fn forget(&self, member: &Member) {
        let mut table = self.table.lock();
        table.members.remove(&member.id);
        if table.root.as_ref() == Some(&member.id) {
            table.over = true;
            self.over.notify_all();
        }
    }

    /// Passes signals on from the process that stands for the container, and kills the container if that dies.
    fn follow_link(&self, member: &Member, link: &OwnedFd) {
        while let Some(Passed { number, to_group }) = link::next_signal(link) {
            if let (SIGWINCH, Some(console)) = (number, member.console.get()) {
                console.resize();
                continue;
            }
            // The init leads its process group, once it runs.
            let runs = matches!(*member.life.lock(), Life::Started);
            let target = if to_group && runs { Target::Group(1) } else { Target::Init };
            // It may have ended meanwhile.
            let _ = self.signal_member(member, number, target);
        }
        let _ = self.signal_member(member, SIGKILL, Target::Init);
    }

    /// Kills the container when its gofer dies: without its files it can only go wrong.
    fn follow_gofer(&self, member: &Weak<Member>, hang_up: &OwnedFd) {
        let mut fds = [PollFd::new(hang_up, PollFlags::empty())];
        while matches!(poll(&mut fds, None), Ok(0) | Err(HostErrno::INTR)) {}
        // If it is the end of the container that has ended the connection, there is nobody left.
        if let Some(member) = member.upgrade() {
            let _ = self.signal_member(&member, SIGKILL, Target::All);
        }
    }

    fn signal_member(&self, member: &Member, number: i32, target: Target) -> Result<(), Failure> {
        match &*member.life.lock() {
            Life::Creating => return Err(member.bad_state("is still being created")),
            // What runs beside an init that has ended is about to end too.
            Life::Stopped(_) if target == Target::All && number == SIGKILL => return Ok(()),
            Life::Stopped(_) => return Err(member.stopped()),
            Life::Created(_) if number == 0 || !matches!(target, Target::Init | Target::All) => return Ok(()),
            Life::Created(_) => {}
            Life::Started => {
                let container = member.container()?;
                let sent = match Signal::new(number) {
                    Some(signal) => container.signal(target, signal),
                    None => container.check_target(target),
                };
                return sent.map_err(|error| match (error, target) {
                    (Errno::ESRCH, Target::Init | Target::All) => member.stopped(),
                    (Errno::ESRCH, Target::Group(number)) => {
                        let text = format!("no such process group with PGID {number}");
                        Failure::new(ErrorCode::NoSuchProcess, text)
                    }
                    (Errno::ESRCH, Target::Process(number) | Target::ForegroundGroup(number)) => {
                        no_such_process(number)
                    }
                    (error, _) => failed("cannot send the signal")(error),
                });
            }
        }
        // Created: nothing catches a signal yet.
        if ends_a_process(number) {
            self.ended(member, number.cast_unsigned());
        }
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, id: &str, number: i32, target: SignalTarget) -> Result<(), Failure> {
        let member = self.find(id)?;
        if !(0..=64).contains(&number) {
            return Err(Failure::new(ErrorCode::Invalid, format!("there is no signal {number}")));
        }
        let target = match target {
            SignalTarget::Init => Target::Init,
            SignalTarget::All => Target::All,
            SignalTarget::Process(pid) => Target::Process(pid),
            SignalTarget::ProcessGroup(pid) => Target::Group(pid),
            SignalTarget::Foreground(pid) => Target::ForegroundGroup(pid.unwrap_or(1)),
        };
        self.signal_member(&member, number, target)?;
        if target == Target::All && number == SIGKILL {
            member.wait_stopped(|| true);
        }
        Ok(())
    }

    /// Waits until a process has ended; `None` if the client went away before.
    pub fn wait(&self, id: &str, target: WaitTarget, client: &OwnedFd) -> Result<Option<Response>, Failure> {
        let member = self.find(id)?;
        let exited = |status| Response::Exited { status };
        let (container, number) = match target {
            WaitTarget::Init => return Ok(member.wait_stopped(|| !is_hung_up(client)).map(exited)),
            WaitTarget::Process(number) => (Arc::clone(member.container()?), number),
            WaitTarget::RootProcess(number) => (self.container_of(number, &member)?, number),
        };
        loop {
            let found = container.wait(number, Deadline::after(ROUND), &Cancel::default());
            let missing = |_| {
                let text = format!("waiting for PID {number}: no such process");
                Failure::new(ErrorCode::NoSuchProcess, text)
            };
            if let Some(status) = found.map_err(missing)? {
                return Ok(Some(exited(wait_status(status))));
            }
            if is_hung_up(client) {
                return Ok(None);
            }
        }
    }

    /// The container among those that share the pid namespace of the first one, `root`, that a process was started in
    /// from outside.
    fn container_of(&self, number: i32, root: &Member) -> Result<Arc<Container>, Failure> {
        let root = root.container()?;
        let members: Vec<_> = self.table.lock().members.values().cloned().collect();
        let mut containers = members.iter().filter_map(|member| member.container.get());
        let found = containers.find(|container| {
            Arc::ptr_eq(container.pid_namespace(), root.pid_namespace()) && container.knows(number)
        });
        Ok(Arc::clone(found.unwrap_or(root)))
    }

    /// Runs a further program.
    pub fn execute(
        self: &Arc<Self>,
        id: &str,
        process: &ProcessSpec,
        descriptors: Vec<OwnedFd>,
        link: Option<Descriptor>,
    ) -> Result<Response, Failure> {
        let member = self.find(id)?;
        match &*member.life.lock() {
            Life::Creating | Life::Created(_) => {
                return Err(Failure::new(ErrorCode::NotStarted, format!("container \"{id}\" not started")));
            }
            Life::Stopped(_) => return Err(member.stopped()),
            Life::Started => {}
        }
        let mut descriptors = Descriptors::new(descriptors);
        let link = link.map(|link| descriptors.take(link)).transpose()?;
        reach(Step::SandboxExecute);
        let booted = self.booted()?;
        let container = Arc::clone(member.container()?);
        let terminals = member.terminals.get_or_init(|| DevPts::new(&booted.kernel));
        let program::Program { prepared, console } =
            program::prepare(terminals, &container, Role::Exec, process, &mut descriptors)?;
        let pid = prepared.number();
        if let Some(console) = &console {
            member.consoles.lock().insert(pid, Arc::clone(console));
        }
        let started = prepared.start();
        let pid = started.map_err(|error| {
            member.consoles.lock().remove(&pid);
            program::cannot_run(&process.program.to_string(), error)
        })?;
        reach(Step::SandboxExecuted);
        if let Some(link) = link {
            let link = Arc::new(link);
            let (linked, followed) = (Arc::clone(&link), Arc::clone(&member));
            let supervisor = Arc::clone(self);
            spawn("exec-link", move || supervisor.follow_program(&followed, &linked, pid))?;
            spawn("exec", move || {
                let status = container.watch(pid, Deadline::Never, &Cancel::default());
                let console = member.consoles.lock().remove(&pid);
                if let Some(console) = console {
                    console.finish();
                }
                link::report(&*link, status.ok().flatten().map_or(9, wait_status));
            })?;
        }
        Ok(Response::Executed { pid })
    }

    /// Passes signals on from the process that stands for a further program, and kills it if that dies.
    fn follow_program(&self, member: &Member, link: &OwnedFd, pid: i32) {
        while let Some(Passed { number, .. }) = link::next_signal(link) {
            let console = member.consoles.lock().get(&pid).cloned();
            if let (SIGWINCH, Some(console)) = (number, console) {
                console.resize();
                continue;
            }
            let _ = self.signal_member(member, number, Target::Process(pid));
        }
        let _ = self.signal_member(member, SIGKILL, Target::Process(pid));
    }

    /// All processes of a container.
    pub fn processes(&self, id: &str) -> Result<Vec<ProcessInfo>, Failure> {
        let member = self.find(id)?;
        let processes = member.container()?.processes();
        Ok(processes.into_iter().map(process_info).collect())
    }

    /// What a container uses.
    pub fn usage(&self, id: &str) -> Result<Usage, Failure> {
        let member = self.find(id)?;
        let container = member.container()?;
        let usage = container.usage();
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Ok(Usage {
            user_nanoseconds: nanoseconds(usage.user),
            system_nanoseconds: nanoseconds(usage.system),
            memory_bytes: usage.memory,
            tasks: usage.tasks,
            tasks_limit: container.limits().pids.unwrap_or(0),
        })
    }

    /// What memory the sandbox takes, given one of its containers.
    pub fn memory(&self, id: &str) -> Result<MemoryUse, Failure> {
        self.find(id)?;
        let used = self.booted()?.kernel.memory_use();
        Ok(MemoryUse {
            anonymous: used.anonymous,
            mapped: used.mapped,
            files: used.files.contents,
            small_files: used.files.small,
            copies: used.files.copies,
        })
    }

    /// Holds all processes of a container.
    pub fn pause(&self, id: &str) -> Result<(), Failure> {
        let member = self.find(id)?;
        member.container()?.pause().map_err(|error| match error {
            Errno::EINVAL => member.bad_state("is not running"),
            error => failed(format!("cannot pause container \"{id}\""))(error),
        })
    }

    /// Lets them go on.
    pub fn resume(&self, id: &str) -> Result<(), Failure> {
        let member = self.find(id)?;
        member.container()?.resume().map_err(|_| member.bad_state("is not paused"))
    }

    /// Changes what a container may use.
    pub fn update(&self, id: &str, resources: ResourcesSpec) -> Result<(), Failure> {
        self.find(id)?.container()?.set_limits(resources.into());
        Ok(())
    }

    /// What a container is doing.
    pub fn state(&self, id: &str) -> Result<ContainerState, Failure> {
        let member = self.find(id)?;
        let state = member.container.get().map(|container| container.state());
        Ok(match (&*member.life.lock(), state) {
            (Life::Stopped(status), _) => ContainerState::Stopped { status: *status },
            (Life::Creating | Life::Created(_), _) => ContainerState::Created,
            (Life::Started, Some(State::Paused)) => ContainerState::Paused,
            (Life::Started, _) => ContainerState::Running,
        })
    }

    /// Takes over the size of the host's terminal.
    pub fn resize(&self, id: &str, pid: Option<i32>) -> Result<(), Failure> {
        let member = self.find(id)?;
        let console = match pid {
            None => member.console.get().cloned(),
            Some(pid) => member.consoles.lock().get(&pid).cloned(),
        };
        if let Some(console) = console {
            console.resize();
        }
        Ok(())
    }

    /// Ends all processes of a container and forgets it.
    pub fn destroy(&self, id: &str) -> Result<(), Failure> {
        let member = self.find(id)?;
        match self.signal_member(&member, SIGKILL, Target::Init) {
            Ok(()) => drop(member.wait_stopped(|| true)),
            Err(failure) if failure.code == ErrorCode::Stopped => {}
            Err(failure) => return Err(failure),
        }
        if let Some(container) = member.container.get() {
            container.destroy().map_err(failed(format!("cannot destroy container \"{id}\"")))?;
        }
        self.forget(&member);
        Ok(())
    }
}

fn strace(list: &str) -> Result<Strace, Failure> {
    let filter = if list.is_empty() { Ok(StraceFilter::All) } else { StraceFilter::parse(list) };
    let unknown =
        |name| Failure::new(ErrorCode::Invalid, format!("--strace: there is no system call named {name}"));
    Ok(Strace::new(filter.map_err(unknown)?, Box::new(|line| eprintln!("{line}"))))
}

fn wait_status(status: ExitStatus) -> u32 {
    status.wait_status().cast_unsigned()
}

fn process_info(process: kernel::container::ProcessInfo) -> ProcessInfo {
    let started = process.started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let age = std::time::SystemTime::now().duration_since(process.started).unwrap_or_default();
    let share = process.time.as_secs_f64() / age.as_secs_f64().max(0.001) * 100.0;
    let words: Vec<_> =
        process.arguments.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
    ProcessInfo {
        uid: process.uid,
        pid: process.pid,
        ppid: process.parent,
        pgid: process.process_group,
        threads: u32::try_from(process.threads).unwrap_or(u32::MAX),
        c: share as u32,
        tty: process.terminal.map_or_else(|| "?".to_owned(), |number| format!("pts/{number}")),
        start_time: started.as_secs(),
        cpu_milliseconds: u64::try_from(process.time.as_millis()).unwrap_or(u64::MAX),
        cmd: if words.is_empty() { format!("[{}]", process.command) } else { words.join(" ") },
    }
}

/// Whether a signal that nothing catches ends a process.
fn ends_a_process(number: i32) -> bool {
    // SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH
    ![17, 18, 19, 20, 21, 22, 23, 28].contains(&number)
}

fn no_such_process(number: i32) -> Failure {
    Failure::new(ErrorCode::NoSuchProcess, format!("no such process with PID {number}"))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(body);
    spawned
        .map(drop)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("cannot start a thread: {error}")))
}

impl Member {
    fn new(id: &str) -> Member {
        Member {
            id: id.to_owned(),
            life: Mutex::new(Life::Creating),
            changed: Condvar::new(),
            container: OnceLock::new(),
            terminals: OnceLock::new(),
            console: OnceLock::new(),
            link: OnceLock::new(),
            layer: OnceLock::new(),
            consoles: Mutex::default(),
        }
    }

    fn container(&self) -> Result<&Arc<Container>, Failure> {
        self.container.get().ok_or_else(|| self.bad_state("is still being created"))
    }

    /// Waits until the first process has ended, as long as `go_on` says so.
    fn wait_stopped(&self, go_on: impl Fn() -> bool) -> Option<u32> {
        let mut life = self.life.lock();
        loop {
            if let Life::Stopped(status) = *life {
                return Some(status);
            }
            self.changed.wait_for(&mut life, ROUND);
            if !go_on() {
                return None;
            }
        }
    }

    fn bad_state(&self, what: &str) -> Failure {
        Failure::new(ErrorCode::BadState, format!("container \"{}\" {what}", self.id))
    }

    fn stopped(&self) -> Failure {
        let text = format!("container \"{}\" has stopped: container not running", self.id);
        Failure::new(ErrorCode::Stopped, text)
    }
}
