//! Making a container: its control group, its gofer, its stand-in, and its sandbox or its place in one.
//!
//! [`Container::new`] saves what it is about to make before it makes it. Whoever dies on the way leaves a container
//! behind that can be found and deleted, with all that belongs to it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use host::namespace::IdMaps;
use host::step::{Step, reach};
use oci_spec::runtime as oci;
use sandbox::control::{Client, Request, listen_at};
use sandbox::spec::RootLayer;
use sandbox::{Boot, Tuning, link};

use super::streams::{own_terminal, streams, terminal_of};
use super::{CGROUP, CONTROL, Cgroups, Config, Container, EXIT, Sandbox, USUAL_ROOT, limits};
use crate::cgroup::{Cgroup, Hierarchies, Name};
use crate::clock;
use crate::convert::{self, Files, Parcel};
use crate::error::{Error, Result};
use crate::hooks::HookKind;
use crate::id::{FullId, Id};
use crate::oom_score;
use crate::process::ProcessIdentity;
use crate::spec::mounts::MountKind;
use crate::spec::{self, ContainerConfig, ContainerType, IdMapping, ProcessConfig};
use crate::stand_in::{self, Job, StandIn};
use crate::state::{self, LoadOpts, StateFile};
use crate::status::Status;
use crate::view::View;

/// How a container is to be made.
#[derive(Debug, Default)]
pub struct Args {
    /// Its name.
    pub id: String,
    /// What it is made from; what its bundle's `config.json` says if nothing is given.
    pub spec: Option<oci::Spec>,
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
        let spec::Document { spec, mut warnings } = match &args.spec {
            Some(spec) => spec::check(spec)?,
            None => spec::read(&bundle)?,
        };
        let mut wanted = ContainerConfig::new(&spec, &bundle, &mut warnings)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        check_terminal(&wanted.process, args)?;
        if wanted.container_type == ContainerType::Single
            && let Some(sandbox) = sandbox_of_namespaces(&config.root, &wanted)?
        {
            wanted.container_type = ContainerType::Container { sandbox };
        }
        let full = match &wanted.container_type {
            ContainerType::Container { sandbox } => {
                FullId { sandbox_id: sandbox.clone(), container_id: id.clone() }
            }
            _ => FullId::root(id.clone()),
        };
        let maker = args.attached.then(ProcessIdentity::own).transpose();
        let maker = maker.map_err(Error::host("look at this process"))?;
        let mut saver = StateFile::new(&config.root, full);
        saver.lock_for_new()?;
        reach(Step::CreateLocked);
        let layer = wanted.root_layer.as_ref().unwrap_or(&config.layer).kind();
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
            gofer: None,
            overlay: layer,
            overlay_media: overlay_media(layer, &wanted),
            maker,
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
        let mut spec = convert::container(&self.id, wanted, config, streams, &neighbours, &mut parcel)?;
        // From here on there is something to be deleted.
        match hierarchies(config) {
            Some(host) => self.make_cgroup(config, wanted, &host)?,
            None => self.saver.save_locked(self)?,
        }
        reach(Step::CreateCgroup);
        let ids = self.ids(config, wanted)?;
        let service = gofer::Service { ids: ids.clone(), ..config.gofer.clone() };
        let mut gofer =
            gofer::spawn(&parcel.files, &service).map_err(|error| Error::Spawn(error.to_string()))?;
        reach(Step::CreateGofer);
        // The container is not to die because its gofer does.
        let _ = sandbox::oom_score::spare(gofer.pid, self.inherited_oom_score);
        self.gofer = Some(identify(gofer.pid)?);
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
        spec.resources = limits::for_sandbox(&self.spec);
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
            let (client, boot, control) = self.prepare_sandbox(&log, ids)?;
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

    /// How its ids are mapped. A sandbox has one user namespace, so that all of its containers have the same.
    fn ids(&self, config: &Config, wanted: &ContainerConfig) -> Result<Option<IdMaps>> {
        let own = convert::id_maps(&wanted.uid_mappings, &wanted.gid_mappings);
        if self.is_sandbox_root() {
            return Ok(own);
        }
        let options = LoadOpts { exact: true, skip_check: true, ..LoadOpts::default() };
        // Without it there is nothing to join, which is said where that is tried.
        let Ok(first) = Container::load(&config.root, self.saver.id().sandbox_id.as_str(), options) else {
            return Ok(own);
        };
        let list = |list: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>| -> Vec<IdMapping> {
            list.into_iter().flatten().map(IdMapping::from).collect()
        };
        let linux = first.spec.linux().as_ref();
        let theirs = convert::id_maps(
            &list(linux.and_then(|linux| linux.uid_mappings().as_ref())),
            &list(linux.and_then(|linux| linux.gid_mappings().as_ref())),
        );
        let joins = wanted.namespaces.iter().any(|namespace| {
            namespace.kind == oci_spec::runtime::LinuxNamespaceType::User && namespace.path.is_some()
        });
        if own == theirs || (own.is_none() && joins) {
            return Ok(theirs);
        }
        Err(Error::Arguments(
            "linux.uidMappings and gidMappings must be those of the sandbox's first container",
        ))
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
        self.note_cgroup()?;
        self.saver.save_locked(self)?;
        reach(Step::CreateSaved);
        self.cgroup = Cgroup::create_if_permitted(host, name)?;
        self.note_cgroup()?;
        let resources = self.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let Some(resources) = resources else { return Ok(()) };
        let warnings = match &self.cgroup {
            Some(cgroup) => cgroup.apply(&limits::for_host(resources))?,
            None => limits::without_cgroup(resources),
        };
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(())
    }

    /// Writes its control group beside its state.
    fn note_cgroup(&self) -> Result<()> {
        let path = self.saver.container_dir().join(CGROUP);
        let failed = |source| Error::File { action: "write", path: path.clone(), source };
        let text = serde_json::to_vec(&self.cgroup).map_err(|error| failed(error.into()))?;
        std::fs::write(&path, text).map_err(failed)
    }

    /// What a sandbox of its own starts from, and our connection to it.
    fn prepare_sandbox<'a>(
        &self,
        log: &'a OwnedFd,
        ids: Option<IdMaps>,
    ) -> Result<(Client, Boot<'a>, PathBuf)> {
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
            ids,
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
}

/// The sandbox of a container whose processes or IPC objects another one is to share: who says so names the namespace of
/// the process that stands for it.
fn sandbox_of_namespaces(root: &Path, wanted: &ContainerConfig) -> Result<Option<Id>> {
    use oci_spec::runtime::LinuxNamespaceType::{Ipc, Pid};
    let shared = wanted.namespaces.iter().filter(|namespace| matches!(namespace.kind, Pid | Ipc));
    let paths = shared.filter_map(|namespace| namespace.path.as_ref()?.strip_prefix("/proc").ok());
    let pids = paths.filter_map(|path| path.iter().next()?.to_str()?.parse::<i32>().ok());
    let pids: Vec<i32> = pids.collect();
    if pids.is_empty() {
        return Ok(None);
    }
    let all = state::list(root)?.into_iter();
    let readable = all.filter_map(|id| StateFile::new(root, id).load::<Container>().ok());
    let mut theirs = readable.filter(|other| {
        other.stand_in.as_ref().is_some_and(|process| pids.contains(&process.pid) && process.is_alive())
    });
    Ok(theirs.next().map(|other| other.saver.id().sandbox_id.clone()))
}

/// Where changes of the root directory and of bind mounts go. What is mounted is always changed itself.
fn overlay_media(root: RootLayer, wanted: &ContainerConfig) -> Vec<RootLayer> {
    let binds = wanted.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Bind { .. }));
    std::iter::once(root).chain(binds.map(|_| RootLayer::Through)).collect()
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
pub(super) fn usual_cgroup(root: &Path, id: &Id) -> String {
    // FNV-1a: the same in every version of this program.
    let hash = root.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    if root == Path::new(USUAL_ROOT) { id.to_string() } else { format!("{id}.{hash:016x}") }
}

fn owner() -> String {
    std::env::var("USER").unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string())
}

pub(super) fn identify(pid: i32) -> Result<ProcessIdentity> {
    let found = ProcessIdentity::of(pid).map_err(Error::host("look at a process"))?;
    found.ok_or_else(|| Error::Spawn("a process of the container died at once".to_owned()))
}

fn open_log(config: &Config) -> Result<OwnedFd> {
    let path = config.debug_log.clone().unwrap_or_else(|| "/dev/null".into());
    let opened = File::options().append(true).create(true).open(&path);
    opened.map(OwnedFd::from).map_err(|source| Error::File { action: "open the log", path, source })
}

/// Writes a pid file at once: engines take its appearance for the end of the work.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
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
