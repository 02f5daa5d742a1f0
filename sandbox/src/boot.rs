//! Boots a kernel from a [`Spec`].

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use anyhow::Context;
use host::signals::Signals;
use kernel::fs::hostfs::{HostFs, Writing};
use kernel::fs::memfs::{MemFs, MemOptions};
use kernel::fs::mount::{MountFlags, MountNamespace};
use kernel::fs::path::{FsState, PathRef, Walk, Walker};
use kernel::fs::{File, FileSystem, FileType, NewFile, NewKind};
use kernel::syscalls::Strace;
use kernel::task::boot::InitSpec;
use kernel::{Config, HostInfo, Kernel};
use platform::stub::StubPlatform;

use crate::spec::{MountKind, Spec};

/// Boots a kernel, runs the program and returns its status. What `signals` receives goes to the program.
pub fn run(spec: Spec, platform: StubPlatform, host: HostInfo, signals: Signals) -> anyhow::Result<u8> {
    let strace = spec.strace.map(|filter| Strace::new(filter, Box::new(|line| eprintln!("{line}"))));
    let config = Config { hostname: spec.hostname, domainname: spec.domainname, strace, host };
    let kernel = Kernel::new(Arc::new(platform), config);
    let namespace = root(spec.root, spec.root_read_only)?;
    for mount in spec.mounts {
        let place = make_mount_point(
            &namespace,
            &mount.destination,
            matches!(&mount.kind, MountKind::Host(fd) if !is_directory(fd)),
        )
        .with_context(|| format!("cannot make the mount point {}", mount.destination))?;
        mount_one(&kernel, &namespace, place, mount.kind, mount.flags)
            .with_context(|| format!("cannot mount {}", mount.destination))?;
    }

    let top = namespace.root();
    let state =
        FsState { namespace: Arc::clone(&namespace), root: top.clone(), cwd: top.clone(), umask: spec.umask };
    let found =
        Walker::new(state.clone(), &spec.credentials, None, Walk::FOLLOW).walk(top, spec.cwd.as_bytes());
    let cwd = found.map_err(kernel::error::SysError::errno);
    let cwd = cwd.with_context(|| format!("cannot enter the working directory {}", spec.cwd))?.place;
    let mut files: Vec<Arc<File>> = Vec::new();
    for (index, stream) in spec.streams.0.into_iter().enumerate() {
        let Some(stream) = stream else { break };
        let file = kernel::fs::host_file::HostFile::open(stream, &format!("host:[{index}]"));
        files.push(file.with_context(|| format!("cannot use descriptor {index}"))?);
    }
    let program = spec.program.clone();
    let init = InitSpec {
        program: spec.program.into_bytes(),
        arguments: spec.arguments.into_iter().map(String::into_bytes).collect(),
        environment: spec.environment.into_iter().map(String::into_bytes).collect(),
        fs: FsState { cwd, ..state },
        credentials: spec.credentials,
        limits: spec.limits,
        files,
    };
    match kernel.start_init(init) {
        Ok(()) => {}
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
    let thread = std::thread::Builder::new().name("signals".into()).stack_size(128 << 10);
    let spawned = thread.spawn(move || {
        while let Ok(signal) = signals.next() {
            let (Some(signal), Some(init)) = (Signal::new(signal), forwarded.tasks.group(1)) else {
                continue;
            };
            kernel::signal::send_to_group(&forwarded, &init, SigInfo::new(signal, SI_KERNEL));
        }
    });
    spawned.context("cannot start the thread that forwards signals")?;
    Ok(kernel.wait_init().shell_status())
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
    let credentials = kernel::task::Credentials::new(0, 0);
    let top = namespace.root();
    let state = FsState { namespace: Arc::clone(namespace), root: top.clone(), cwd: top.clone(), umask: 0 };
    let mut place = top;
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
    while let Some(part) = parts.next() {
        anyhow::ensure!(part != "..", "a mount point cannot lead upwards");
        let walker = Walker::new(state.clone(), &credentials, None, Walk::FOLLOW | Walk::CREATE);
        let found =
            walker.walk(place.clone(), part.as_bytes()).map_err(kernel::error::SysError::errno)?.place;
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
        MountKind::Processes => (kernel::fs::proc::ProcFs::new(kernel), "proc"),
        MountKind::Terminals | MountKind::System => {
            (MemFs::tmpfs(MemOptions { size: 0, mode: 0o755 }), "none")
        }
    };
    namespace.mount(place, file_system, source, flags)?;
    Ok(())
}

/// The file system of `/dev`.
fn devices() -> anyhow::Result<Arc<MemFs>> {
    use kernel::fs::devices::{FULL, NULL, RANDOM, URANDOM, ZERO};
    let memory = MemFs::tmpfs(MemOptions { size: 0, mode: 0o755 });
    let root = memory.root();
    let make = |name: &str, kind: NewKind, mode: u32| {
        Arc::clone(&root).create(name.as_bytes(), &NewFile { kind, mode, uid: 0, gid: 0 })
    };
    for (name, device) in
        [("null", NULL), ("zero", ZERO), ("full", FULL), ("random", RANDOM), ("urandom", URANDOM)]
    {
        make(name, NewKind::CharDevice(device), 0o666)?;
    }
    for (name, target) in [
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
