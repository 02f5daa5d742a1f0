//! Boots a kernel from a [`Spec`].

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use anyhow::Context;
use host::signals::Signals;
use kernel::container::{Cancel, ContainerLimits, ContainerSpec, InitSpec, NamespaceSpec, Role};
use kernel::error::SysError;
use kernel::fs::file::Place;
use kernel::fs::hostfs::{HostFs, Writing};
use kernel::fs::memfs::{MemFs, MemOptions};
use kernel::fs::mount::{MountFlags, MountNamespace};
use kernel::fs::path::{FsState, PathRef, Walk, Walker};
use kernel::fs::{File, FileSystem, FileType, NewFile, NewKind};
use kernel::namespace::Namespaces;
use kernel::syscalls::Strace;
use kernel::task::Credentials;
use kernel::tty::console::Console;
use kernel::tty::terminal::{Slave, Terminal};
use kernel::tty::{DevPts, Termios};
use kernel::wait::Deadline;
use kernel::{Config, HostInfo, Kernel};
use platform::stub::StubPlatform;

use crate::spec::{MountKind, Spec, Streams};

/// The name of the one container.
const CONTAINER: &str = "init";

/// Boots a kernel, runs the program and returns its status. What `signals` receives goes to the program.
/// `settings` are those of the caller's terminal.
pub fn run(
    spec: Spec,
    platform: StubPlatform,
    host: HostInfo,
    signals: Signals,
    settings: Option<Termios>,
) -> anyhow::Result<u8> {
    let strace = spec.strace.map(|filter| Strace::new(filter, Box::new(|line| eprintln!("{line}"))));
    let config = Config { strace, host };
    let kernel = Kernel::new(Arc::new(platform), config);
    let names =
        NamespaceSpec { hostname: spec.hostname, domainname: spec.domainname, ..NamespaceSpec::default() };
    let namespaces = kernel.make_namespaces(&names).context("cannot make the namespaces")?;
    let namespace = root(spec.root, spec.root_read_only)?;
    let terminals = DevPts::new(&kernel);
    for mount in spec.mounts {
        let place = make_mount_point(
            &namespace,
            &mount.destination,
            matches!(&mount.kind, MountKind::Host(fd) if !is_directory(fd)),
        )
        .with_context(|| format!("cannot make the mount point {}", mount.destination))?;
        mount_one(&kernel, &namespace, &namespaces, &terminals, place, mount.kind, mount.flags)
            .with_context(|| format!("cannot mount {}", mount.destination))?;
    }

    let top = namespace.root();
    let state =
        FsState { namespace: Arc::clone(&namespace), root: top.clone(), cwd: top.clone(), umask: spec.umask };
    let found =
        Walker::new(state.clone(), &spec.credentials, None, Walk::FOLLOW).walk(top, spec.cwd.as_bytes());
    let cwd = found.map_err(SysError::errno);
    let cwd = cwd.with_context(|| format!("cannot enter the working directory {}", spec.cwd))?.place;
    let (files, console) = match spec.streams {
        Streams::Files(streams) => (host_files(streams)?, None),
        Streams::Terminal { input, output } => {
            let terminal = terminals.make(spec.credentials.uid).context("cannot make a terminal")?;
            terminal.unlock();
            if let Some(settings) = settings {
                terminal.set_termios(settings);
            }
            let file = terminal_file(&terminal, &state, &spec.credentials)
                .map_err(SysError::errno)
                .context("cannot open the terminal")?;
            // There is one console, and this is the first.
            let _ = kernel.console.set(Arc::clone(&terminal));
            let console = Console::start(Arc::clone(&terminal), input, output);
            let console = Arc::new(console.context("cannot start the console")?);
            (vec![file; 3], Some((terminal, console)))
        }
    };
    let (terminal, console) = console.unzip();
    let program = spec.program.clone();
    let init = InitSpec {
        role: Role::Init,
        program: spec.program.into_bytes(),
        arguments: spec.arguments.into_iter().map(String::into_bytes).collect(),
        environment: spec.environment.into_iter().map(String::into_bytes).collect(),
        fs: FsState { cwd, ..state },
        credentials: spec.credentials,
        limits: spec.limits,
        files,
        terminal,
        oom_score_adj: 0,
    };
    let container = ContainerSpec {
        id: CONTAINER.into(),
        namespaces,
        mounts: namespace,
        limits: ContainerLimits::default(),
    };
    let container = kernel.create_container(container).context("cannot make the container")?;
    let started = container.prepare(init).and_then(kernel::container::Prepared::start);
    match started {
        Ok(_) => {}
        Err(error @ (Errno::ENOENT | Errno::ENOTDIR)) => {
            eprintln!("nacelle: cannot run {program}: {error}");
            return Ok(127);
        }
        Err(error) => {
            eprintln!("nacelle: cannot run {program}: {error}");
            return Ok(126);
        }
    }
    let forwarded = Arc::clone(&kernel);
    let receiver = Arc::clone(&container);
    let resized = console.clone();
    let thread = std::thread::Builder::new().name("signals".into()).stack_size(128 << 10);
    let spawned = thread.spawn(move || {
        while let Ok(signal) = signals.next() {
            let (Some(signal), Some(init)) = (Signal::new(signal), receiver.init_group()) else {
                continue;
            };
            if let (Signal::SIGWINCH, Some(console)) = (signal, &resized) {
                console.resize();
                continue;
            }
            kernel::signal::send_to_group(&forwarded, &init, SigInfo::new(signal, SI_KERNEL));
        }
    });
    spawned.context("cannot start the thread that forwards signals")?;
    let status = container.wait_init(Deadline::Never, &Cancel::default());
    let status = status.context("the container has gone")?;
    if let Some(console) = console {
        console.finish();
    }
    Ok(status.shell_status())
}

/// Files of the host as descriptors 0, 1, 2, as far as they are open.
fn host_files(streams: [Option<OwnedFd>; 3]) -> anyhow::Result<Vec<Arc<File>>> {
    let mut files: Vec<Arc<File>> = Vec::new();
    for (index, stream) in streams.into_iter().enumerate() {
        let Some(stream) = stream else { break };
        let file = kernel::fs::host_file::HostFile::open(stream, &format!("host:[{index}]"));
        files.push(file.with_context(|| format!("cannot use descriptor {index}"))?);
    }
    Ok(files)
}

/// The slave end of a terminal, by its name if it has one in this tree.
fn terminal_file(
    terminal: &Arc<Terminal>,
    state: &FsState,
    credentials: &Credentials,
) -> Result<Arc<File>, SysError> {
    let flags = OpenFlags::RDWR | OpenFlags::NOCTTY;
    let name = format!("/dev/pts/{}", terminal.number);
    let found =
        Walker::new(state.clone(), credentials, None, Walk::FOLLOW).walk(state.root.clone(), name.as_bytes());
    let place = match found.ok().map(|found| found.place) {
        Some(place) if place.inode().is_some_and(|inode| inode.file_type() == FileType::CharDevice) => {
            Place::Path(place)
        }
        _ => Place::Anonymous { name, inode: None },
    };
    Ok(File::new(place, Slave::open(terminal, None, flags, false)?, flags))
}

fn is_directory(fd: &OwnedFd) -> bool {
    let stat = host::rustix::fs::fstat(fd);
    stat.is_ok_and(|stat| FileType::from_mode(stat.st_mode) == FileType::Directory)
}

/// The tree with nothing but its root.
fn root(directory: OwnedFd, read_only: bool) -> anyhow::Result<Arc<MountNamespace>> {
    let lower = HostFs::new(directory, Writing::ReadOnly).context("cannot use the root directory")?;
    let merged = MemFs::merged(lower.root_inode()).context("cannot use the root directory")?;
    // Mount points are made before it becomes read-only for the guest; in memory, so the host never sees them.
    let flags = if read_only { MountFlags::READ_ONLY } else { MountFlags::empty() };
    Ok(MountNamespace::new(merged, "overlay", flags | MountFlags::RELATIME))
}

/// The place of a mount, made with all directories above it if it does not exist.
fn make_mount_point(namespace: &Arc<MountNamespace>, path: &str, file: bool) -> anyhow::Result<PathRef> {
    let credentials = Credentials::new(0, 0);
    let top = namespace.root();
    let state = FsState { namespace: Arc::clone(namespace), root: top.clone(), cwd: top.clone(), umask: 0 };
    let mut place = top;
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
    while let Some(part) = parts.next() {
        anyhow::ensure!(part != "..", "a mount point cannot lead upwards");
        let walker = Walker::new(state.clone(), &credentials, None, Walk::FOLLOW | Walk::CREATE);
        let found = walker.walk(place.clone(), part.as_bytes()).map_err(SysError::errno)?.place;
        if found.inode().is_none() {
            let kind = if file && parts.peek().is_none() { NewKind::Regular } else { NewKind::Directory };
            let parent = place.existing()?;
            let new = NewFile { kind, mode: 0o755, uid: 0, gid: 0 };
            found.dentry.instantiate(parent.create(part.as_bytes(), &new)?);
        }
        place = found;
    }
    Ok(place)
}

fn mount_one(
    kernel: &Arc<Kernel>,
    namespace: &Arc<MountNamespace>,
    namespaces: &Namespaces,
    terminals: &Arc<DevPts>,
    place: PathRef,
    kind: MountKind,
    flags: MountFlags,
) -> anyhow::Result<()> {
    let (file_system, source): (Arc<dyn FileSystem>, &str) = match kind {
        MountKind::Host(directory) => {
            let read_only = flags.contains(MountFlags::READ_ONLY);
            (HostFs::new(directory, if read_only { Writing::ReadOnly } else { Writing::ReadWrite })?, "host")
        }
        MountKind::Memory { size, mode } => (MemFs::tmpfs(MemOptions { size, mode }), "tmpfs"),
        MountKind::Devices => (devices()?, "dev"),
        MountKind::Processes => (kernel::fs::proc::ProcFs::new(kernel, &namespaces.pid_for_children), "proc"),
        MountKind::Terminals => (Arc::clone(terminals) as _, "devpts"),
        MountKind::System => (MemFs::tmpfs(MemOptions { size: 0, mode: 0o755 }), "none"),
    };
    namespace.mount(place, file_system, source, flags)?;
    Ok(())
}

/// The file system of `/dev`.
fn devices() -> anyhow::Result<Arc<MemFs>> {
    use kernel::fs::devices::{CONSOLE, FULL, NULL, RANDOM, TTY, URANDOM, ZERO};
    let memory = MemFs::tmpfs(MemOptions { size: 0, mode: 0o755 });
    let root = memory.root();
    let make = |name: &str, kind: NewKind, mode: u32| {
        Arc::clone(&root).create(name.as_bytes(), &NewFile { kind, mode, uid: 0, gid: 0 })
    };
    let all = [
        ("null", NULL),
        ("zero", ZERO),
        ("full", FULL),
        ("random", RANDOM),
        ("urandom", URANDOM),
        ("tty", TTY),
        ("console", CONSOLE),
    ];
    for (name, device) in all {
        make(name, NewKind::CharDevice(device), 0o666)?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        make(name, NewKind::Symlink(target.into()), 0o777)?;
    }
    make("shm", NewKind::Directory, 0o1777)?;
    make("pts", NewKind::Directory, 0o755)?;
    make("mqueue", NewKind::Directory, 0o1777)?;
    Ok(memory)
}
