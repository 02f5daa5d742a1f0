//! Containers: found, asked, and taken from one status to the next. The modules below make them and run programs in
//! them, send signals and wait, and end them.
//!
//! A [`Container`] is what is known of one, loaded from its [`StateFile`]. Another process may have changed it since,
//! so whatever depends on its status takes the lock and reads it again. The lock is never held while hooks run, and no
//! request to the sandbox needs it but those that change the status.

mod create;
mod destroy;
mod execute;
mod inspect;
mod limits;
mod memory;
mod pids;
mod run;
mod signals;
mod streams;
mod undertaker;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use host::step::{Step, reach};
use oci_spec::runtime as oci;
use sandbox::control::message::{ContainerState, ErrorCode, ProcessInfo, SignalTarget};
use sandbox::control::{Client, ClientError, Request, Response};
use sandbox::spec::{DevicePolicy, FileAccess, RootLayer};
use sandbox::terminal::RawMode;
use serde::{Deserialize, Serialize};

pub use self::create::Args;
pub use self::execute::Execution;
pub use self::memory::Memory;
pub use self::run::run;
use crate::cgroup::{self, Cgroup, Stats};
use crate::error::{Error, Result};
use crate::hooks::{self, HookKind};
use crate::id::{FullId, Id};
use crate::process::ProcessIdentity;
use crate::spec::layer::Layer;
use crate::state::{self, LoadOpts, StateFile, TryLock};
use crate::status::{Action, Status};

/// Where the state of containers is, unless somebody says otherwise.
pub const USUAL_ROOT: &str = "/run/nacelle";
/// The name of a sandbox's socket in its directory.
const CONTROL: &str = "control.sock";
/// The file in a container's directory that holds its exit status when it has ended.
const EXIT: &str = "exit";

/// The file in a container's directory that tells of its control group, should its state be unreadable. Groups do not
/// outlive the host, so that it need not be synced.
const CGROUP: &str = "cgroup.json";

/// What concerns all containers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where their state is.
    pub root: PathBuf,
    /// Where changes of root directories go.
    pub layer: Layer,
    /// Who else changes root directories.
    pub access: FileAccess,
    /// What character devices of the host that are mounted are to programs.
    pub devices: DevicePolicy,
    /// Whether annotations may name archives of changes of root directories.
    pub root_archives: bool,
    /// Whether sandboxes get descriptors of directories.
    pub gofer: gofer::Service,
    /// Which system calls sandboxes show in their log; see [`sandbox::spec::ContainerSpec::strace`].
    pub strace: Option<String>,
    /// Whether programs find the file by which they tell that they run in gVisor.
    pub gvisor_marker: bool,
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
    /// The process that opens its files.
    #[serde(default)]
    pub gofer: Option<ProcessIdentity>,
    /// The sandbox that it runs in.
    pub sandbox: Option<Sandbox>,
    /// Its control group.
    pub cgroup: Option<Cgroup>,
    /// Where changes of its root directory go, as asked for when it was made.
    #[serde(default)]
    pub overlay: RootLayer,
    /// Where changes go that are made in the root directory, and in each bind mount, in the order of the specification.
    #[serde(default)]
    pub overlay_media: Vec<RootLayer>,
    /// Who made it and waits for it, if it lives and dies with its maker.
    #[serde(default)]
    maker: Option<ProcessIdentity>,
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

impl Container {
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
            let resources = limits::for_sandbox(&self.spec);
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
}

const SIGKILL: i32 = 9;

fn is_not_found(error: &ClientError) -> bool {
    error.failure().is_some_and(|failure| failure.code == ErrorCode::NotFound)
}
