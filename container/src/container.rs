//! Containers: made, started, asked, signalled, waited for, destroyed.
//!
//! A [`Container`] is what is known of one, loaded from its [`StateFile`]. Another process may have changed it since,
//! so whatever depends on its status takes the lock and reads it again. The lock is never held while hooks run, and no
//! request to the sandbox needs it but those that change the status.

mod limits;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use host::step::{Step, reach};
use oci_spec::runtime as oci;
use sandbox::control::message::{ContainerState, ErrorCode, ProcessInfo, SignalTarget, WaitTarget};
use sandbox::control::{Client, ClientError, Request, Response, listen_at};
use sandbox::link::{self, Ending, Keys};
use sandbox::spec::{Descriptor, FileAccess, ResourcesSpec, RootLayer, Streams};
use sandbox::terminal::RawMode;
use sandbox::{Boot, Tuning};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Cgroup, Hierarchies, Name, Stats};
use crate::clock;
use crate::console::Console;
use crate::convert::{self, Files, Parcel};
use crate::error::{Error, Result};
use crate::hooks::{self, HookKind};
use crate::id::{FullId, Id};
use crate::oom_score;
use crate::process::ProcessIdentity;
use crate::spec::{self, ContainerConfig, ContainerType, ProcessConfig};
use crate::stand_in::{self, Job, StandIn};
use crate::state::{self, LoadOpts, StateFile, TryLock};
use crate::status::{Action, Status};
use crate::view::View;

/// Where the state of containers is, unless somebody says otherwise.
pub const USUAL_ROOT: &str = "/run/nacelle";
/// The name of a sandbox's socket in its directory.
const CONTROL: &str = "control.sock";
/// The file in a container's directory that holds its exit status when it has ended.
const EXIT: &str = "exit";
/// How long a container's processes may take to vanish once they have been killed.
const END: Duration = Duration::from_secs(10);
/// The period of processor time that stands for one that is not given, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// What concerns all containers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where their state is.
    pub root: PathBuf,
    /// Where changes of root directories go.
    pub layer: RootLayer,
    /// Who else changes root directories.
    pub access: FileAccess,
    /// Whether sandboxes get descriptors of directories.
    pub mode: gofer::Mode,
    /// Which system calls sandboxes show in their log; see [`sandbox::spec::ContainerSpec::strace`].
    pub strace: Option<String>,
    /// Where sandboxes write what goes wrong; nowhere by default.
    pub debug_log: Option<PathBuf>,
    /// Whether containers get control groups.
    pub cgroups: Cgroups,
}

/// Whether containers get control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// They do, if the caller may make them.
    Make,
    /// They do, where systemd would make them: paths are `SLICE:PREFIX:NAME`. Systemd itself is not told.
    Systemd,
    /// They stay in the caller's.
    Ignore,
}

/// How a container is to be made.
#[derive(Debug, Default)]
pub struct Args {
    /// Its name.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// A socket that gets the master of its terminal.
    pub console_socket: Option<PathBuf>,
    /// A file that gets the pid of its stand-in.
    pub pid_file: Option<PathBuf>,
    /// Whether it lives and dies with its maker.
    pub attached: bool,
    /// Files of the host for its program.
    pub files: Files,
    /// A file that is told of system calls that programs ask for and that are not there; of its sandbox's first container.
    pub user_log: Option<PathBuf>,
}

/// A sandbox, as far as others need to know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Its name.
    pub id: Id,
    /// Its process.
    pub process: ProcessIdentity,
    /// The socket that it serves.
    pub control: PathBuf,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub id: Id,
    /// What it was made from.
    pub spec: oci::Spec,
    /// Its bundle.
    pub bundle: PathBuf,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
    /// Who made it.
    pub owner: String,
    /// The socket that got the master of its terminal.
    pub console_socket: Option<PathBuf>,
    /// Its status when it was saved, or looked at last.
    pub status: Status,
    /// The process that stands for it.
    pub stand_in: Option<ProcessIdentity>,
    /// The sandbox that it runs in.
    pub sandbox: Option<Sandbox>,
    /// Its control group.
    pub cgroup: Option<Cgroup>,
    /// The oom score of whoever made it.
    #[serde(default)]
    inherited_oom_score: i32,
    /// Where it is saved.
    saver: StateFile,
    /// The caller's terminal, while the program's is connected to it.
    #[serde(skip)]
    terminal: Option<RawMode>,
}

/// What `state` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState {
    /// The version of the specification.
    pub oci_version: String,
    /// The container.
    pub id: Id,
    /// Its status.
    pub status: Status,
    /// The pid of its stand-in; none when it has stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root directory.
    pub rootfs: PathBuf,
    /// When it was made.
    pub created: String,
    /// Who made it.
    pub owner: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A program to run in a container.
#[derive(Debug)]
pub struct Execution {
    /// What.
    pub process: ProcessConfig,
    /// Whether the caller waits for it or leaves it to a stand-in.
    pub detach: bool,
    /// A socket that gets the master of its terminal.
    pub console_socket: Option<PathBuf>,
    /// A file that gets the pid of its stand-in, or of the caller.
    pub pid_file: Option<PathBuf>,
    /// A file that gets its pid in the container.
    pub internal_pid_file: Option<PathBuf>,
    /// Files of the host for it.
    pub files: Files,
}

impl Container {
    /// Makes a container whose program waits to be started.
    ///
    /// # Errors
    /// If there is one of that name, its specification is wrong, its program cannot be run, or the host refuses.
    pub fn new(config: &Config, args: &Args) -> Result<Container> {
        let id = Id::new(args.id.as_str())?;
        let bundle = std::path::absolute(&args.bundle).map_err(|source| Error::File {
            action: "use the bundle",
            path: args.bundle.clone(),
            source,
        })?;
        let spec::Document { spec, mut warnings } = spec::read(&bundle)?;
        let wanted = ContainerConfig::new(&spec, &bundle, &mut warnings)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        check_terminal(&wanted.process, args)?;
        let full = match &wanted.container_type {
            ContainerType::Container { sandbox } => {
                FullId { sandbox_id: sandbox.clone(), container_id: id.clone() }
            }
            _ => FullId::root(id.clone()),
        };
        let mut saver = StateFile::new(&config.root, full);
        saver.lock_for_new()?;
        reach(Step::CreateLocked);
        let mut container = Container {
            id,
            spec,
            bundle,
            created: clock::rfc3339(SystemTime::now()),
            owner: owner(),
            console_socket: args.console_socket.clone(),
            status: Status::Creating,
            stand_in: None,
            sandbox: None,
            cgroup: None,
            inherited_oom_score: oom_score::own().unwrap_or(0),
            saver,
            terminal: None,
        };
        let made = container.make(config, args, &wanted);
        let stand_in = made.inspect_err(|_| {
            // What has been begun is taken back; what went wrong first is what the caller is told.
            let _ = container.destroy_locked();
        })?;
        container.saver.unlock();
        // Without the lock: hooks may look at the container.
        let hooks = [HookKind::Prestart, HookKind::CreateRuntime, HookKind::CreateContainer];
        container.adjust_oom_score();
        let hooked = hooks.into_iter().try_for_each(|kind| container.run_hooks(kind));
        let finished = hooked.and_then(|()| stand_in.finish()).and_then(|()| {
            reach(Step::CreateHooked);
            let pid = container.stand_in.as_ref().map_or(0, |process| process.pid);
            // The last thing of all: engines take it for the end of the work.
            args.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, pid))
        });
        finished.inspect_err(|_| drop(container.destroy()))?;
        Ok(container)
    }

    /// Starts the processes of a container that is to be.
    fn make(&mut self, config: &Config, args: &Args, wanted: &ContainerConfig) -> Result<StandIn> {
        let mut parcel = Parcel::default();
        let mut streams = streams(&wanted.process, args.console_socket.as_deref(), &mut parcel)?;
        self.terminal = own_terminal(&mut streams, args.console_socket.as_deref(), &parcel)?;
        let terminal = terminal_of(&streams, &parcel)?;
        let neighbours = self.neighbours(&config.root)?;
        let mut spec = convert::container(
            &self.id,
            wanted,
            config.layer,
            config.access,
            streams,
            &neighbours,
            &mut parcel,
        )?;
        // From here on there is something to be deleted.
        match hierarchies(config) {
            Some(host) => self.make_cgroup(config, wanted, &host)?,
            None => self.saver.save_locked(self)?,
        }
        reach(Step::CreateCgroup);
        let mut gofer =
            gofer::spawn(&parcel.files, config.mode).map_err(|error| Error::Spawn(error.to_string()))?;
        reach(Step::CreateGofer);
        for channel in std::mem::take(&mut gofer.channels) {
            spec.gofer.push(parcel.add(channel));
        }
        spec.strace.clone_from(&config.strace);
        spec.process.make_cwd = true;
        parcel.give(&args.files, &mut spec.process).map_err(Error::host("pass on files"))?;
        if let Some(path) = args.user_log.as_ref().filter(|_| self.is_sandbox_root()) {
            let opened = File::options().append(true).create(true).open(path);
            let failed = |source| Error::File { action: "open the user log", path: path.clone(), source };
            spec.user_log = Some(parcel.add(opened.map_err(failed)?.into()));
        }
        spec.resources = resources(&self.spec);
        let (outer, inner) = link::pair().map_err(Error::host("make a socket"))?;
        spec.link = Some(parcel.add(inner));
        let exit_path = self.saver.container_dir().join(EXIT);
        let exit_file = File::create(&exit_path).map_err(|source| Error::File {
            action: "create",
            path: exit_path,
            source,
        })?;
        let is_root = self.saver.id().is_root();
        let log = open_log(config)?;
        let (client, boot, control) = if is_root {
            let (client, boot, control) = self.prepare_sandbox(&log)?;
            (client, Some(boot), control)
        } else {
            let sandbox = Container::load_sandbox_of(&config.root, &self.saver.id().sandbox_id)?;
            let client = Client::connect(&sandbox.control)?;
            let control = sandbox.control.clone();
            self.sandbox = Some(sandbox);
            (client, None, control)
        };
        reach(Step::CreateSocket);
        if let Some(cgroup) = &self.cgroup {
            cgroup.join(gofer.pid)?;
            if !is_root {
                spec.cgroups = cgroup.open_members()?.into_iter().map(|file| parcel.add(file)).collect();
            }
        }
        let job = Job {
            link: outer,
            exit_file: Some(exit_file),
            attached: args.attached,
            sandbox: boot,
            terminal,
            view: Some(View::new(wanted)),
        };
        let mut stand_in = stand_in::spawn(job)?;
        let pid = stand_in.pid;
        reach(Step::CreateStandIn);
        self.prepare_oom_score(pid, wanted);
        // The sandbox process is forked from it afterwards, and is in the same group.
        let joined = self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.join(pid).map_err(Error::from));
        reach(Step::CreateJoined);
        let made = joined.and_then(|()| stand_in.go()).and_then(|sandbox| {
            reach(Step::CreateSandbox);
            self.stand_in = Some(identify(pid)?);
            if is_root {
                let process = identify(sandbox)?;
                self.sandbox = Some(Sandbox { id: self.id.clone(), process, control });
            }
            // From here on there is somebody who must be found again if this process dies.
            self.saver.save_locked(self)?;
            reach(Step::CreateIdentified);
            gofer.wait_until_ready().map_err(Error::Spawn)?;
            let borrowed: Vec<_> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
            Ok(client.run(Request::Create(Box::new(spec)), &borrowed)?)
        });
        drop(parcel);
        if let Err(error) = made {
            stand_in::end_child(pid);
            return Err(error);
        }
        reach(Step::CreateAnswered);
        self.status.change(Status::Created, &self.id)?;
        self.saver.save_locked(self)?;
        reach(Step::CreateDone);
        Ok(stand_in)
    }

    /// The other containers of its sandbox.
    fn neighbours(&self, root: &Path) -> Result<convert::Neighbours> {
        if self.saver.id().is_root() {
            return Ok(Vec::new());
        }
        let all = state::list_sandbox(root, &self.saver.id().sandbox_id)?.into_iter();
        // One that cannot be read is nobody's neighbour.
        let readable = all.filter_map(|id| StateFile::new(root, id).load::<Container>().ok());
        let alive = readable.filter_map(|other| Some((other.stand_in?, other.id)));
        Ok(alive.filter(|(process, _)| process.is_alive()).map(|(process, id)| (process.pid, id)).collect())
    }

    /// Makes its control group and sets the limits of its specification.
    fn make_cgroup(&mut self, config: &Config, wanted: &ContainerConfig, host: &Hierarchies) -> Result<()> {
        let usual = usual_cgroup(&config.root, &self.id);
        let path = wanted.cgroups_path.as_deref();
        let systemd = config.cgroups == Cgroups::Systemd && path.is_some();
        let name = Name { path: Some(path.unwrap_or(&usual)), id: &self.id, systemd };
        // Whoever dies while it is made leaves a container behind that can be deleted with it.
        self.cgroup = Some(Cgroup::plan(host, name)?);
        self.saver.save_locked(self)?;
        reach(Step::CreateSaved);
        self.cgroup = Cgroup::create_if_permitted(host, name)?;
        let resources = self.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        if let (Some(cgroup), Some(resources)) = (&self.cgroup, resources) {
            cgroup
                .apply(&limits::for_host(resources))?
                .iter()
                .for_each(|warning| tracing::warn!("{warning}"));
        }
        Ok(())
    }

    /// Runs its hooks of one kind.
    fn run_hooks(&self, kind: HookKind) -> Result<()> {
        let hooks = HookKind::of(kind, &self.spec);
        if hooks.is_empty() {
            return Ok(());
        }
        let mut state = oci::State::default();
        state.set_version(self.spec.version().clone());
        state.set_id(self.id.to_string());
        state.set_status(match self.status {
            Status::Creating => oci::ContainerState::Creating,
            Status::Created => oci::ContainerState::Created,
            Status::Running | Status::Paused => oci::ContainerState::Running,
            Status::Stopped => oci::ContainerState::Stopped,
        });
        let pid = self.stand_in.as_ref().map(|process| process.pid);
        state.set_pid(pid.filter(|_| self.status.is_alive()));
        state.set_bundle(self.bundle.clone());
        state.set_annotations(self.spec.annotations().clone());
        let namespace = pid.filter(|_| kind.is_inside()).map(|pid| File::open(format!("/proc/{pid}/ns/mnt")));
        let namespace = namespace.transpose().map_err(Error::host("open the container's mount namespace"))?;
        Ok(hooks::run(kind, hooks, &state, namespace.as_ref().map(AsFd::as_fd))?)
    }

    /// What a sandbox of its own starts from, and our connection to it.
    fn prepare_sandbox<'a>(&self, log: &'a OwnedFd) -> Result<(Client, Boot<'a>, PathBuf)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(Error::host("make a socket"))?;
        let control = self.saver.sandbox_dir().join(CONTROL);
        let listener = listen_at(&control).map_err(|error| Error::File {
            action: "make the control socket",
            path: control.clone(),
            source: error.into(),
        })?;
        let log = log.try_clone().map_err(Error::host("use the log"))?;
        let boot = Boot {
            connection: theirs,
            listener: Some(listener),
            log,
            kept: Vec::new(),
            tuning: Tuning::default(),
        };
        Ok((Client::new(ours), boot, control))
    }

    /// The sandbox that a further container is to join.
    fn load_sandbox_of(root: &Path, id: &Id) -> Result<Sandbox> {
        let container = Container::load(root, id.as_str(), LoadOpts { exact: true, ..LoadOpts::default() })
            .map_err(|error| match error {
            Error::State(state::Error::NotFound(_)) => {
                Error::Spawn(format!("cannot load sandbox: sandbox \"{id}\" does not exist"))
            }
            other => other,
        })?;
        let running = container.sandbox.filter(|sandbox| sandbox.process.is_alive());
        running.ok_or_else(|| Error::NoSandbox(id.to_string()))
    }

    /// Finds a container by its name or a unique beginning of it, and how it is doing now.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn load(root: &Path, id: &str, options: LoadOpts) -> Result<Container> {
        let file = state::find(root, None, &Id::new(id)?, options)?;
        let mut container: Container = file.load()?;
        if !options.skip_check {
            container.refresh();
        }
        Ok(container)
    }

    /// All containers of a sandbox.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn load_sandbox(root: &Path, sandbox: &Id) -> Result<Vec<Container>> {
        let mut all = Vec::new();
        for id in state::list_sandbox(root, sandbox)? {
            match StateFile::new(root, id).load::<Container>() {
                Ok(container) => all.push(container),
                // Deleted meanwhile.
                Err(state::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    /// The names of all sandboxes.
    ///
    /// # Errors
    /// The host's.
    pub fn list_sandboxes(root: &Path) -> Result<Vec<FullId>> {
        Ok(state::list_sandboxes(root)?)
    }

    /// All containers that can be read, with how they are doing now. Others are told of in the log.
    ///
    /// # Errors
    /// The host's.
    pub fn list(root: &Path) -> Result<Vec<Container>> {
        let mut all = Vec::new();
        for id in state::list(root)? {
            let options = LoadOpts { exact: true, ..LoadOpts::default() };
            match Container::load(root, id.container_id.as_str(), options) {
                Ok(container) => all.push(container),
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::error!("{error}"),
            }
        }
        Ok(all)
    }

    /// Sees how it is doing: its processes may have ended, and whoever changed its status may have died before saving.
    fn refresh(&mut self) {
        if self.status == Status::Stopped {
            return;
        }
        let alive =
            |process: &Option<ProcessIdentity>| process.as_ref().is_some_and(ProcessIdentity::is_alive);
        if !alive(&self.stand_in) || !self.is_sandbox_running() {
            self.status = Status::Stopped;
            return;
        }
        let request = Request::State { container: self.id.to_string() };
        self.status = match self.connect().and_then(|client| Ok(client.call(request, &[])?)) {
            Ok(Response::State(ContainerState::Created)) => Status::Created,
            Ok(Response::State(ContainerState::Running)) => Status::Running,
            Ok(Response::State(ContainerState::Paused)) => Status::Paused,
            Ok(Response::State(ContainerState::Stopped { .. })) => Status::Stopped,
            Err(Error::Sandbox(error)) if is_not_found(&error) || error.is_gone() => Status::Stopped,
            // Alive, but busy: what was saved is the best guess.
            _ => self.status,
        };
    }

    /// Ends and removes a container whose state cannot be read, as far as it can be found.
    ///
    /// # Errors
    /// The host's; that there is none is no error.
    pub fn destroy_unreadable(root: &Path, id: &Id) -> Result<()> {
        for FullId { sandbox_id, .. } in state::list_sandboxes(root)? {
            let full = FullId { sandbox_id, container_id: id.clone() };
            let is_root = full.is_root();
            let mut saver = StateFile::new(root, full);
            let control = saver.sandbox_dir().join(CONTROL);
            match saver.lock(TryLock::Block) {
                Ok(()) => {}
                Err(state::Error::NotFound(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Ok(client) = Client::connect(&control) {
                match client.run(Request::Destroy { container: id.to_string() }, &[]) {
                    Err(error) if !error.is_gone() && !is_not_found(&error) => return Err(error.into()),
                    _ => {}
                }
            }
            if is_root {
                let _ = std::fs::remove_file(&control);
            }
            saver.destroy()?;
        }
        Ok(())
    }

    /// Locks the container and reads it again.
    fn lock(&mut self) -> Result<()> {
        self.saver.lock(TryLock::Block)?;
        let mut fresh: Container = self.saver.load()?;
        fresh.refresh();
        std::mem::swap(&mut fresh.saver, &mut self.saver);
        fresh.terminal = self.terminal.take();
        *self = fresh;
        Ok(())
    }

    fn connect(&self) -> Result<Client> {
        let Some(sandbox) = &self.sandbox else { return Err(Error::NoSandbox(self.id.to_string())) };
        Client::connect(&sandbox.control).map_err(|error| match error {
            error if error.is_gone() => Error::NoSandbox(self.id.to_string()),
            error => error.into(),
        })
    }

    fn call(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Response> {
        self.connect()?.call(request, descriptors).map_err(|error| match error {
            error if error.is_gone() => Error::NoSandbox(self.id.to_string()),
            error => error.into(),
        })
    }

    fn run_request(&self, request: Request) -> Result<()> {
        match self.call(request, &[])? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Confused.into()),
        }
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    /// Starts its program.
    ///
    /// # Errors
    /// If it is not in state created.
    pub fn start(&mut self) -> Result<()> {
        self.lock()?;
        let started = Action::Start.check(&self.id, self.status).map_err(Error::from).and_then(|()| {
            self.saver.unlock();
            self.run_hooks(HookKind::StartContainer)?;
            self.lock()?;
            reach(Step::StartLocked);
            Action::Start.check(&self.id, self.status)?;
            self.run_request(Request::Start { container: self.name() })?;
            reach(Step::StartAnswered);
            self.status.change(Status::Running, &self.id)?;
            self.saver.save_locked(self)?;
            reach(Step::StartSaved);
            Ok(())
        });
        self.saver.unlock();
        started?;
        self.run_hooks(HookKind::Poststart).inspect_err(|_| {
            // As runc: the program does not go on without what the hooks were to do for it.
            let _ = self.signal(SIGKILL, SignalTarget::Init);
        })
    }

    /// Holds all of its processes.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.change(Action::Pause, Status::Paused, Request::Pause { container: self.name() })
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// If it is not paused.
    pub fn resume(&mut self) -> Result<()> {
        self.change(Action::Resume, Status::Running, Request::Resume { container: self.name() })
    }

    /// Changes its limits; those that are not named stay.
    ///
    /// # Errors
    /// If it has ended, or a limit cannot be set.
    pub fn update(&mut self, resources: &oci::LinuxResources) -> Result<()> {
        self.lock()?;
        let updated = Action::Update.check(&self.id, self.status).map_err(Error::from).and_then(|()| {
            let old =
                self.spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
            let new = cgroup::merge(&old, resources);
            if let Some(cgroup) = &self.cgroup {
                let warnings = cgroup.update(&limits::for_host(&old), &limits::for_host(&new))?;
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            if let Some(linux) = self.spec.linux_mut() {
                linux.set_resources(Some(new));
            }
            let resources = self::resources(&self.spec);
            self.run_request(Request::Update { container: self.name(), resources })?;
            Ok(self.saver.save_locked(self)?)
        });
        self.saver.unlock();
        updated
    }

    fn change(&mut self, action: Action, status: Status, request: Request) -> Result<()> {
        self.lock()?;
        let changed = action.check(&self.id, self.status).map_err(Error::from).and_then(|()| {
            self.run_request(request)?;
            self.status.change(status, &self.id)?;
            Ok(self.saver.save_locked(self)?)
        });
        self.saver.unlock();
        changed
    }

    /// Runs a further program. Returns its exit status as `wait(2)` gives it, or none if it is left to a stand-in.
    ///
    /// # Errors
    /// If the container does not run, or the program cannot be run.
    pub fn execute(&self, execution: &Execution) -> Result<Option<u32>> {
        Action::Execute.check(&self.id, self.status)?;
        let mut parcel = Parcel::default();
        let wanted = &execution.process;
        if wanted.terminal && execution.detach && execution.console_socket.is_none() {
            return Err(Error::Arguments("a terminal needs a console socket when detached"));
        }
        let mut streams = streams(wanted, execution.console_socket.as_deref(), &mut parcel)?;
        let raw = own_terminal(&mut streams, execution.console_socket.as_deref(), &parcel)?;
        let terminal = terminal_of(&streams, &parcel)?;
        let mut process = Box::new(convert::process(wanted, streams));
        parcel.give(&execution.files, &mut process).map_err(Error::host("pass on files"))?;
        let (outer, inner) = link::pair().map_err(Error::host("make a socket"))?;
        let link = Some(parcel.add(inner));
        let request = Request::Execute { container: self.name(), process, link };
        let borrowed: Vec<_> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
        if !execution.detach {
            let signals = host::signals::Signals::receive(&host::signals::forwardable())
                .map_err(Error::host("receive signals"))?;
            reach(Step::ExecReady);
            let pid = executed(self.call(request, &borrowed)?)?;
            reach(Step::ExecAnswered);
            drop(borrowed);
            drop(parcel);
            write_pid_files(execution, std::process::id().cast_signed(), pid)?;
            let ending = link::stand_in(&outer, &signals, Keys::ToProgram)
                .map_err(Error::host("wait for the program"))?;
            drop(raw);
            return Ok(Some(ending.status()));
        }
        let job = Job { link: outer, exit_file: None, attached: false, sandbox: None, terminal, view: None };
        let mut stand_in = stand_in::spawn(job)?;
        let outer_pid = stand_in.pid;
        reach(Step::ExecStandIn);
        let run = stand_in
            .go()
            .and_then(|_| executed(self.call(request, &borrowed)?))
            .and_then(|pid| write_pid_files(execution, outer_pid, pid));
        run.inspect_err(|_| stand_in::end_child(outer_pid))?;
        Ok(None)
    }

    /// Its processes.
    ///
    /// # Errors
    /// If it does not run.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>> {
        Action::Processes.check(&self.id, self.status)?;
        match self.call(Request::Processes { container: self.name() }, &[])? {
            Response::Processes(processes) => Ok(processes),
            _ => Err(ClientError::Confused.into()),
        }
    }

    /// What it uses: its control group says, but for tasks, which are those of the container and not of the host; without a
    /// group, the sandbox says, and in a pod, whose containers share one sandbox process, it tells processor time.
    ///
    /// # Errors
    /// If it has ended.
    pub fn event(&self) -> Result<Stats> {
        Action::Event.check(&self.id, self.status)?;
        let Response::Usage(usage) = self.call(Request::Usage { container: self.name() }, &[])? else {
            return Err(ClientError::Confused.into());
        };
        let alone = self.is_sandbox_root()
            && state::list_sandbox(self.saver.root_dir(), &self.saver.id().sandbox_id)?.len() < 2;
        let mut stats = self.cgroup.as_ref().map(Cgroup::stats).transpose()?.unwrap_or_default();
        if !alone {
            // The sandbox's work for all of them is done in the first one's group.
            stats.cpu.usage.user = usage.user_nanoseconds;
            stats.cpu.usage.kernel = usage.system_nanoseconds;
            stats.cpu.usage.total = usage.user_nanoseconds.saturating_add(usage.system_nanoseconds);
        }
        if self.cgroup.is_none() {
            stats.memory.usage.usage = usage.memory_bytes;
        }
        stats.pids.current = usage.tasks;
        stats.pids.limit = usage.tasks_limit;
        Ok(stats)
    }

    /// Sends a signal to its first process, or to all. After SIGKILL to all, none is left when this returns.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal_container(&self, signal: i32, all: bool) -> Result<()> {
        let target = if all { SignalTarget::All } else { SignalTarget::Init };
        // Engines kill everything once more after the first process has ended, and want to hear no complaint.
        if !(all && self.status == Status::Stopped) {
            Action::Signal.check(&self.id, self.status)?;
        } else {
            return Ok(());
        }
        self.signal(signal, target)
    }

    /// Sends a signal to one of its processes, by its pid in the container.
    ///
    /// # Errors
    /// If there is none.
    pub fn signal_process(&self, signal: i32, pid: i32) -> Result<()> {
        Action::SignalProcess.check(&self.id, self.status)?;
        self.signal(signal, SignalTarget::Process(pid))
    }

    /// Sends a signal to a group of its processes, by its number in the container.
    ///
    /// # Errors
    /// If there is none.
    pub fn signal_process_group(&self, signal: i32, group: i32) -> Result<()> {
        Action::SignalProcessGroup.check(&self.id, self.status)?;
        self.signal(signal, SignalTarget::ProcessGroup(group))
    }

    fn signal(&self, signal: i32, target: SignalTarget) -> Result<()> {
        self.run_request(Request::Signal { container: self.name(), signal, target })
    }

    /// Waits until its first process has ended and returns how, as `wait(2)` gives it. May be asked again.
    ///
    /// # Errors
    /// If that cannot be found out any more.
    pub fn wait(&mut self) -> Result<u32> {
        if let Some(process) = &self.stand_in {
            process.wait(None).map_err(Error::host("wait for the container process"))?;
        }
        self.status = Status::Stopped;
        Ok(self.exit_status().unwrap_or(Ending::Lost.status()))
    }

    /// How it ended, if its stand-in lived to see it.
    pub fn exit_status(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.saver.container_dir().join(EXIT)).ok()?;
        text.trim().parse().ok()
    }

    /// Waits until a process has ended that [`Container::execute`] started, by its pid in the container.
    ///
    /// # Errors
    /// If there is none, or somebody has waited for it already.
    pub fn wait_pid(&self, pid: i32) -> Result<u32> {
        match self.call(Request::Wait { container: self.name(), target: WaitTarget::Process(pid) }, &[])? {
            Response::Exited { status } => Ok(status),
            _ => Err(ClientError::Confused.into()),
        }
    }

    /// As [`Container::wait_pid`], by the pid in the pid namespace of the sandbox's first container.
    ///
    /// # Errors
    /// As there.
    pub fn wait_root_pid(&self, pid: i32) -> Result<u32> {
        let container = self.saver.id().sandbox_id.to_string();
        match self.call(Request::Wait { container, target: WaitTarget::RootProcess(pid) }, &[])? {
            Response::Exited { status } => Ok(status),
            _ => Err(ClientError::Confused.into()),
        }
    }

    /// Passes on all signals that this process gets to the container's first process, or to the foreground job of its
    /// terminal, as long as `ended` says that it goes on.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub fn forward_signals(&self, foreground: bool) -> Result<std::thread::JoinHandle<()>> {
        let signals = host::signals::Signals::receive(&host::signals::forwardable())
            .map_err(Error::host("receive signals"))?;
        let target = if foreground { SignalTarget::Foreground(None) } else { SignalTarget::Init };
        let (container, client) = (self.name(), self.connect()?);
        let body = move || {
            while let Ok(received) = signals.next() {
                let signal = received.number;
                let request = Request::Signal { container: container.clone(), signal, target };
                if let Err(error) = client.run(request, &[]) {
                    tracing::warn!("signal {signal} was not passed on: {error}");
                    if error.is_gone() {
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(body).map_err(Error::host("start a thread"))
    }

    /// Its state as the OCI specification has it.
    pub fn state(&self) -> OciState {
        let pid = self.stand_in.as_ref().map(|process| process.pid);
        let rootfs = self.spec.root().as_ref().map(|root| self.bundle.join(root.path())).unwrap_or_default();
        let annotations = self.spec.annotations().clone().unwrap_or_default();
        OciState {
            oci_version: self.spec.version().clone(),
            id: self.id.clone(),
            status: self.status,
            pid: pid.filter(|_| self.status.is_alive()),
            bundle: self.bundle.clone(),
            rootfs,
            created: self.created.clone(),
            owner: self.owner.clone(),
            annotations: annotations.into_iter().collect(),
        }
    }

    /// The pid of the sandbox process; none if the container has ended.
    pub fn sandbox_pid(&self) -> Option<i32> {
        self.sandbox.as_ref().filter(|_| self.status.is_alive()).map(|sandbox| sandbox.process.pid)
    }

    /// Whether it is the first container of its sandbox.
    pub fn is_sandbox_root(&self) -> bool {
        self.saver.id().is_root()
    }

    /// Whether its sandbox runs.
    pub fn is_sandbox_running(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.process.is_alive())
    }

    /// Whether a capability is in any of the sets of its first process.
    pub fn has_capability_in_any_set(&self, capability: oci::Capability) -> bool {
        let sets = self.spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
        sets.is_some_and(|sets| {
            [sets.bounding(), sets.effective(), sets.inheritable(), sets.permitted(), sets.ambient()]
                .into_iter()
                .any(|set| set.as_ref().is_some_and(|set| set.contains(&capability)))
        })
    }

    /// Whether its first process runs as user 0.
    pub fn runs_as_uid0(&self) -> bool {
        self.spec.process().as_ref().is_some_and(|process| process.user().uid() == 0)
    }

    /// Ends all of its processes and forgets it.
    ///
    /// # Errors
    /// What could not be done; all that could has been.
    pub fn destroy(&mut self) -> Result<()> {
        match self.saver.lock(TryLock::Block) {
            Ok(()) => {}
            // Somebody else was faster.
            Err(state::Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.destroy_locked()
    }

    fn destroy_locked(&mut self) -> Result<()> {
        reach(Step::DeleteLocked);
        let stopped = self.end_processes();
        reach(Step::DeleteEnded);
        if self.is_sandbox_root()
            && let Some(sandbox) = &self.sandbox
        {
            let _ = std::fs::remove_file(&sandbox.control);
        } else if self.is_sandbox_root() {
            let _ = std::fs::remove_file(self.saver.sandbox_dir().join(CONTROL));
        }
        // What is still in its group ends now, whoever it is.
        let removed = self.cgroup.as_ref().map_or(Ok(()), Cgroup::remove);
        reach(Step::DeleteCgroup);
        let existed = self.status != Status::Creating;
        self.status = Status::Stopped;
        // With a process left it must stay known, or nobody could end that.
        let forgotten = stopped.and_then(|()| Ok(self.saver.destroy()?));
        reach(Step::DeleteForgotten);
        self.saver.unlock();
        if existed && forgotten.is_ok() {
            // The others of its sandbox decide now.
            if !self.is_sandbox_root() {
                self.adjust_oom_score();
            }
            // Failures are only logged.
            self.run_hooks(HookKind::Poststop)?;
        }
        forgotten?;
        Ok(removed?)
    }

    fn end_processes(&self) -> Result<()> {
        let Some(sandbox) = &self.sandbox else { return self.end_stand_in() };
        if self.is_sandbox_root() {
            sandbox.process.signal(rustix::process::Signal::KILL).map_err(Error::host("kill the sandbox"))?;
        } else if sandbox.process.is_alive() {
            match self.run_request(Request::Destroy { container: self.name() }) {
                Ok(()) | Err(Error::NoSandbox(_)) => {}
                Err(Error::Sandbox(error)) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.end_stand_in()?;
        if self.is_sandbox_root()
            && !sandbox.process.wait(Some(END)).map_err(Error::host("wait for the sandbox"))?
        {
            return Err(Error::Spawn(format!("container \"{}\" is still running", self.id)));
        }
        Ok(())
    }

    fn end_stand_in(&self) -> Result<()> {
        let Some(process) = &self.stand_in else { return Ok(()) };
        process.signal(rustix::process::Signal::KILL).map_err(Error::host("kill the container process"))?;
        if !process.wait(Some(END)).map_err(Error::host("wait for the container process"))? {
            return Err(Error::Spawn(format!("container \"{}\" is still running", self.id)));
        }
        Ok(())
    }
}

/// Where control groups are made, if they are to be.
fn hierarchies(config: &Config) -> Option<Hierarchies> {
    if config.cgroups == Cgroups::Ignore {
        return None;
    }
    let host = Hierarchies::of_host();
    host.inspect_err(|error| tracing::warn!("no control group is made: {error}")).ok()
}

/// The path of a control group that nobody has named, below the caller's own, as with `runc`. Containers of one name below different state directories do not
/// share one.
fn usual_cgroup(root: &Path, id: &Id) -> String {
    // FNV-1a: the same in every version of this program.
    let hash = root.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    if root == Path::new(USUAL_ROOT) { id.to_string() } else { format!("{id}.{hash:016x}") }
}

/// What a specification allows to be used; zero and what is negative are no limit.
fn resources(spec: &oci::Spec) -> ResourcesSpec {
    let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) else {
        return ResourcesSpec::default();
    };
    let positive = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
    let cpu = resources.cpu().as_ref();
    let period = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0).unwrap_or(CPU_PERIOD);
    ResourcesSpec {
        tasks: resources.pids().as_ref().and_then(|pids| positive(pids.limit())),
        memory: resources.memory().as_ref().and_then(|memory| positive(memory.limit()?)),
        cpu: cpu.and_then(|cpu| positive(cpu.quota()?)).map(|quota| (quota, period)),
    }
}

/// Makes a container, starts it, and, if it is attached, waits for it and destroys it. Returns its exit status as
/// `wait(2)` gives it; zero for one that runs on.
///
/// # Errors
/// What went wrong with it. It is destroyed then.
pub fn run(config: &Config, args: &Args) -> Result<u32> {
    // Before there is anybody who would be lost if this process was killed.
    let signals = host::signals::Signals::receive(&[host::signals::forwardable(), vec![SIGCHLD]].concat())
        .map_err(Error::host("receive signals"))?;
    let mut container = Container::new(config, args)?;
    if let Err(error) = container.start() {
        let _ = container.destroy();
        return Err(error);
    }
    if !args.attached {
        return Ok(0);
    }
    let waited = follow_child(&container, &signals);
    let destroyed = container.destroy();
    let status = waited?;
    destroyed?;
    Ok(status)
}

const SIGCHLD: i32 = 17;
const SIGKILL: i32 = 9;

/// Waits for the stand-in of a container, which is a child of this process, and passes on signals meanwhile.
fn follow_child(container: &Container, signals: &host::signals::Signals) -> Result<u32> {
    let Some(pid) =
        container.stand_in.as_ref().and_then(|process| rustix::process::Pid::from_raw(process.pid))
    else {
        return Ok(0);
    };
    loop {
        let options = rustix::process::WaitOptions::NOHANG;
        match rustix::process::waitpid(Some(pid), options) {
            Ok(Some((_, status))) => return Ok(container.exit_status().unwrap_or(status.as_raw() as u32)),
            Ok(None) => {}
            Err(error) => return Err(Error::host("wait for the container process")(error)),
        }
        let signal = signals.next().map_err(Error::host("read signals"))?.number;
        if signal != SIGCHLD
            && let Some(signal) = rustix::process::Signal::from_named_raw(signal)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

fn is_not_found(error: &ClientError) -> bool {
    error.failure().is_some_and(|failure| failure.code == ErrorCode::NotFound)
}

fn executed(response: Response) -> Result<i32> {
    match response {
        Response::Executed { pid } => Ok(pid),
        _ => Err(ClientError::Confused.into()),
    }
}

fn owner() -> String {
    std::env::var("USER").unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string())
}

fn identify(pid: i32) -> Result<ProcessIdentity> {
    let found = ProcessIdentity::of(pid).map_err(Error::host("look at a process"))?;
    found.ok_or_else(|| Error::Spawn("a process of the container died at once".to_owned()))
}

fn open_log(config: &Config) -> Result<OwnedFd> {
    let path = config.debug_log.clone().unwrap_or_else(|| "/dev/null".into());
    let opened = File::options().append(true).create(true).open(&path);
    opened.map(OwnedFd::from).map_err(|source| Error::File { action: "open the log", path, source })
}

fn check_terminal(process: &ProcessConfig, args: &Args) -> Result<()> {
    if args.console_socket.is_some() && !process.terminal {
        return Err(Error::Arguments("there is a console socket, but process.terminal is false"));
    }
    if process.terminal && args.console_socket.is_none() && !args.attached {
        return Err(Error::Arguments("process.terminal is true: a console socket is needed when detached"));
    }
    Ok(())
}

/// The caller's standard streams for a program, or a terminal.
fn streams(process: &ProcessConfig, console_socket: Option<&Path>, parcel: &mut Parcel) -> Result<Streams> {
    if !process.terminal {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let mut files = Vec::new();
        for (number, stream) in own.into_iter().enumerate() {
            // Where the caller has none, neither has the program; but then the later ones must not take its place.
            let copy = rustix::io::fcntl_dupfd_cloexec(stream, 3).or_else(|_| {
                rustix::fs::open(
                    "/dev/null",
                    rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
                    0.into(),
                )
            });
            let copy = copy.map_err(Error::host("use the standard streams"))?;
            files.push((number as u32, parcel.add(copy)));
        }
        return Ok(Streams::Files(files));
    }
    let (input, output) = match console_socket {
        Some(socket) => {
            let terminal = Console::open(process.console_size)?.hand_over(socket)?;
            // The settings that matter are those of the terminal inside.
            let mut settings =
                rustix::termios::tcgetattr(&terminal).map_err(Error::host("use the terminal"))?;
            settings.make_raw();
            rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &settings)
                .map_err(Error::host("use the terminal"))?;
            let copy = terminal.try_clone().map_err(Error::host("use the terminal"))?;
            (terminal, copy)
        }
        None => {
            let copy = |stream| rustix::io::fcntl_dupfd_cloexec(stream, 3);
            let input =
                copy(rustix::stdio::stdin()).map_err(Error::host("use standard input as a terminal"))?;
            let output =
                copy(rustix::stdio::stdout()).map_err(Error::host("use standard output as a terminal"))?;
            (input, output)
        }
    };
    let (input, output) = (parcel.add(input), parcel.add(output));
    Ok(Streams::Terminal { input, output, settings: None, size: process.console_size })
}

/// Puts the caller's own terminal into raw mode if it is what a program's terminal is connected to.
fn own_terminal(
    streams: &mut Streams,
    console_socket: Option<&Path>,
    parcel: &Parcel,
) -> Result<Option<RawMode>> {
    let Streams::Terminal { input, settings, .. } = streams else { return Ok(None) };
    let (None, Some(input)) = (console_socket, parcel.descriptors.get(input.0)) else { return Ok(None) };
    let raw = RawMode::enter(input).map_err(Error::host("use the caller's terminal"))?;
    *settings = raw.as_ref().map(RawMode::settings);
    Ok(raw)
}

/// A descriptor of the host's terminal behind a program's streams, for its stand-in.
fn terminal_of(streams: &Streams, parcel: &Parcel) -> Result<Option<OwnedFd>> {
    let Streams::Terminal { input: Descriptor(input), .. } = streams else { return Ok(None) };
    let descriptor = parcel.descriptors.get(*input).map(OwnedFd::try_clone).transpose();
    descriptor.map_err(Error::host("use the terminal"))
}

fn write_pid_files(execution: &Execution, outer: i32, inner: i32) -> Result<()> {
    if let Some(path) = &execution.internal_pid_file {
        write_pid_file(path, inner)?;
    }
    execution.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, outer))
}

/// Writes a pid file at once: engines take its appearance for the end of the work.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let failed = |source| Error::File { action: "write the pid file", path: path.to_owned(), source };
    let special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    if special {
        return std::fs::write(path, pid.to_string()).map_err(failed);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        .map_err(failed)
}
