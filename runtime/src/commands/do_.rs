//! `nacelle do`: runs a program over the host's own files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use gofer::Writing;
use gofer::mounts::{Below, Devices, Executing, Mount};
use host::mount::Ties;
use kernel::fs::mount::MountFlags;
use kernel::task::credentials::ALL_CAPABILITIES;
use kernel::task::limits::Resource;
use sandbox::attached::{Files, shell_status};
use sandbox::control::{ClientError, ErrorCode};
use sandbox::spec::{
    Capabilities, ContainerSpec, Descriptor, DevicePolicy, FileAccess, HostFiles, LimitSpec, MountKind,
    MountSpec, ProcessSpec, ResourcesSpec, RootFiles, RootLayer, RootSpec, Sharing, Streams,
};
use sandbox::{Patching, Tuning, Waiting};

/// Arguments of `nacelle do`.
#[derive(Args)]
pub struct Do {
    /// Give the program a terminal of its own, for shells and editors. Standard error goes there too.
    #[arg(short = 't', long)]
    tty: bool,
    /// The root directory; read-only, under a writable layer in memory that vanishes at the end.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Show SRC of the host at DST in the sandbox, writable unless `:ro` follows.
    #[arg(long = "volume", short = 'v', value_name = "SRC:DST[:ro]")]
    volumes: Vec<String>,
    /// Set an environment variable; without `=VALUE` it is taken from here.
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    environment: Vec<OsString>,
    /// Run as this user and group (numbers); the caller's by default.
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// The working directory; the caller's by default, if it exists in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
    /// The host name.
    #[arg(long, default_value = "nacelle")]
    hostname: String,
    /// Leave all code as it is: every system call traps, which takes longer.
    #[arg(long)]
    no_patching: bool,
    /// Never wait actively for a system call or its result, which takes longer but less of the processors' time.
    #[arg(long)]
    no_spinning: bool,
    /// Print system calls to standard error: all, or those in a comma-separated list.
    #[arg(long, value_name = "LIST", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    strace: Option<String>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// Runs the command.
pub fn run(arguments: Do, gofer: gofer::Service) -> anyhow::Result<u8> {
    let mut descriptors = Vec::new();
    let patching = if arguments.no_patching { Patching::Off } else { Patching::On };
    let waiting = if arguments.no_spinning { Waiting::Sleeping } else { Waiting::Adaptive };
    let tuning = Tuning { patching, waiting };
    let mut files = Vec::new();
    let spec = spec(arguments, &mut descriptors, &mut files)?;
    let program = spec.process.program.clone();
    match sandbox::attached::run(spec, descriptors, Files { mounts: files, gofer }, tuning) {
        Ok(status) => Ok(shell_status(status)),
        Err(error) => match error.downcast_ref::<ClientError>().and_then(ClientError::failure) {
            Some(failure) if failure.code == ErrorCode::ProgramNotFound => {
                eprintln!("nacelle: cannot run {program}: {}", failure.text);
                Ok(127)
            }
            Some(failure) if failure.code == ErrorCode::ProgramNotExecutable => {
                eprintln!("nacelle: cannot run {program}: {}", failure.text);
                Ok(126)
            }
            _ => Err(error),
        },
    }
}

/// What the sandbox is told.
fn spec(
    arguments: Do,
    descriptors: &mut Vec<OwnedFd>,
    files: &mut Vec<Mount>,
) -> anyhow::Result<ContainerSpec> {
    let mut add = |descriptor| {
        descriptors.push(descriptor);
        Descriptor(descriptors.len() - 1)
    };
    let (uid, gid, groups) = match &arguments.user {
        Some(user) => parse_user(user)?,
        None => caller(),
    };
    let program = arguments.command.first().cloned().context("no program given")?;
    let cwd = arguments.cwd.unwrap_or_else(|| own_directory(&arguments.root));
    let stream_names = stream_names(&arguments.root);
    let directory = serve(files, &arguments.root, Writing::ReadOnly)?;
    let mut mounts = usual_mounts();
    for volume in &arguments.volumes {
        mounts.push(parse_volume(volume, files)?);
    }
    let own = [host::rustix::stdio::stdin(), host::rustix::stdio::stdout(), host::rustix::stdio::stderr()];
    let [input, output, error] = own.map(|stream| host::rustix::io::fcntl_dupfd_cloexec(stream, 3).ok());
    let streams = if arguments.tty {
        Streams::Terminal {
            input: add(input.context("a terminal needs standard input, which is closed")?),
            output: add(output.context("a terminal needs standard output, which is closed")?),
            settings: None,
            size: None,
        }
    } else {
        let open = [(0, input), (1, output), (2, error)];
        Streams::Files(open.into_iter().filter_map(|(number, fd)| Some((number, add(fd?)))).collect())
    };
    let all = if uid == 0 { ALL_CAPABILITIES } else { 0 };
    Ok(ContainerSpec {
        id: "do".to_owned(),
        hostname: arguments.hostname,
        domainname: "(none)".to_owned(),
        ordinary_init: true,
        seccomp: Vec::new(),
        pid_namespace: Sharing::New,
        ipc_namespace: Sharing::New,
        uts_namespace: Sharing::New,
        gofer: Vec::new(),
        root: RootSpec {
            files: RootFiles::Host(directory),
            layer: RootLayer::Memory,
            layer_size: 0,
            store: None,
            archive: None,
            read_only: false,
            access: FileAccess::Shared,
        },
        mounts,
        devices: Vec::new(),
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        process: ProcessSpec {
            program: program.into(),
            arguments: arguments.command.into_iter().map(Into::into).collect(),
            environment: environment(arguments.environment).into_iter().map(Into::into).collect(),
            cwd: cwd.into(),
            make_cwd: false,
            uid,
            gid,
            groups,
            umask: own_umask(),
            capabilities: Capabilities {
                bounding: ALL_CAPABILITIES,
                permitted: all,
                effective: all,
                inheritable: 0,
                ambient: 0,
            },
            no_new_privileges: false,
            limits: own_limits(),
            oom_score_adj: container::oom_score::own().unwrap_or(0),
            nice: host::rustix::process::getpriority_process(None).unwrap_or(0),
            ignored_signals: host::signals::ignored(),
            streams,
            stream_names,
            files: Vec::new(),
            executable: None,
        },
        sysctl: BTreeMap::new(),
        resources: ResourcesSpec::default(),
        cgroups: Vec::new(),
        strace: arguments.strace,
        gvisor_marker: false,
        user_log: None,
        link: None,
    })
}

/// Has the gofer serve a directory or file of the host, with all that is mounted below.
fn serve(files: &mut Vec<Mount>, path: &Path, writing: Writing) -> anyhow::Result<HostFiles> {
    let source = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
    files.push(Mount {
        source,
        overlay: None,
        writing,
        below: Below::Included,
        executing: Executing::Allowed,
        devices: Devices::Refused,
        owners: None,
        ties: Ties::None,
    });
    Ok(HostFiles(files.len() as u32 - 1))
}

/// The mounts beside the root.
fn usual_mounts() -> Vec<MountSpec> {
    let hidden = MountFlags::NO_SUID | MountFlags::NO_DEV | MountFlags::NO_EXEC;
    let mount = |destination: &str, source: &str, kind, flags: MountFlags| MountSpec {
        destination: destination.to_owned(),
        kind,
        flags: flags.bits(),
        source: source.to_owned(),
        devices: DevicePolicy::default(),
        copy_up: false,
    };
    let memory = |mode| MountKind::Memory { size: 0, mode };
    vec![
        mount("/proc", "proc", MountKind::Processes, hidden),
        mount("/dev", "dev", MountKind::Devices, MountFlags::NO_SUID),
        mount("/dev/pts", "devpts", MountKind::Terminals, MountFlags::NO_SUID | MountFlags::NO_EXEC),
        mount("/dev/shm", "tmpfs", memory(0o1777), MountFlags::NO_SUID | MountFlags::NO_DEV),
        mount("/dev/mqueue", "mqueue", MountKind::MessageQueues, hidden),
        mount("/sys", "none", MountKind::System, hidden | MountFlags::READ_ONLY),
    ]
}

/// The caller's working directory as the sandbox sees it, or its root.
fn own_directory(root: &Path) -> OsString {
    let inside = std::env::current_dir().ok().and_then(|current| {
        let root = root.canonicalize().ok()?;
        Some(Path::new("/").join(current.strip_prefix(root).ok()?))
    });
    inside.unwrap_or_else(|| "/".into()).into()
}

/// The paths of the standard streams in the sandbox, of those that have one. Where its root is not the host's, they are told
/// of nothing else.
fn stream_names(root: &Path) -> BTreeMap<u32, String> {
    let Ok(root) = root.canonicalize() else { return BTreeMap::new() };
    let name = |number: u32| {
        let path = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        Some((number, format!("/{}", path.strip_prefix(&root).ok()?.to_str()?)))
    };
    (0..3).filter_map(name).collect()
}

/// `SRC:DST[:ro]`.
fn parse_volume(text: &str, files: &mut Vec<Mount>) -> anyhow::Result<MountSpec> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, flags) = match parts[..] {
        [source, destination] => (source, destination, MountFlags::empty()),
        [source, destination, "ro"] => (source, destination, MountFlags::READ_ONLY),
        [source, destination, "rw"] => (source, destination, MountFlags::empty()),
        _ => bail!("--volume {text}: expected SRC:DST or SRC:DST:ro"),
    };
    if !destination.starts_with('/') {
        bail!("--volume {text}: the destination must be an absolute path");
    }
    let read_only = flags.contains(MountFlags::READ_ONLY);
    let writing = if read_only { Writing::ReadOnly } else { Writing::ReadWrite };
    let served = serve(files, source.as_ref(), writing).with_context(|| format!("--volume {text}"))?;
    Ok(MountSpec {
        destination: destination.to_owned(),
        kind: MountKind::Host(served),
        flags: flags.bits(),
        source: source.to_owned(),
        devices: DevicePolicy::default(),
        copy_up: false,
    })
}

/// `UID[:GID]`; the group is the user's number by default.
fn parse_user(text: &str) -> anyhow::Result<(u32, u32, Vec<u32>)> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    match (number(uid), number(gid)) {
        (Some(uid), Some(gid)) => Ok((uid, gid, Vec::new())),
        _ => bail!("--user {text}: expected numbers, UID or UID:GID"),
    }
}

/// Who runs this command.
fn caller() -> (u32, u32, Vec<u32>) {
    let groups = host::rustix::process::getgroups().unwrap_or_default();
    (
        host::rustix::process::getuid().as_raw(),
        host::rustix::process::getgid().as_raw(),
        groups.into_iter().map(host::rustix::process::Gid::as_raw).collect(),
    )
}

/// The caller's environment with the given variables set, as `NAME=VALUE`.
fn environment(changes: Vec<OsString>) -> Vec<OsString> {
    let join = |name: &OsStr, value: &OsStr| [name, value].join(OsStr::new("="));
    let name_of = |variable: &OsStr| {
        let bytes = variable.as_bytes();
        bytes.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec()
    };
    let mut variables: Vec<OsString> = std::env::vars_os().map(|(name, value)| join(&name, &value)).collect();
    for change in changes {
        let change = if change.as_bytes().contains(&b'=') {
            change
        } else {
            let Some(value) = std::env::var_os(&change) else { continue };
            join(&change, &value)
        };
        variables.retain(|other| name_of(other) != name_of(&change));
        variables.push(change);
    }
    variables
}

/// The caller's resource limits.
fn own_limits() -> Vec<LimitSpec> {
    use host::rustix::process::{Resource as Host, getrlimit};
    let pairs = [
        (Resource::Cpu, Host::Cpu),
        (Resource::FileSize, Host::Fsize),
        (Resource::Data, Host::Data),
        (Resource::Stack, Host::Stack),
        (Resource::Core, Host::Core),
        (Resource::ResidentSet, Host::Rss),
        (Resource::Processes, Host::Nproc),
        (Resource::OpenFiles, Host::Nofile),
        (Resource::LockedMemory, Host::Memlock),
        (Resource::AddressSpace, Host::As),
        (Resource::Locks, Host::Locks),
        (Resource::PendingSignals, Host::Sigpending),
        (Resource::MessageQueue, Host::Msgqueue),
        (Resource::Nice, Host::Nice),
        (Resource::RealtimePriority, Host::Rtprio),
        (Resource::RealtimeTime, Host::Rttime),
    ];
    let limit = |(resource, host): (Resource, Host)| {
        let limit = getrlimit(host);
        let value = |limit: Option<u64>| limit.unwrap_or(kernel::task::limits::INFINITY);
        LimitSpec { resource: resource as u32, soft: value(limit.current), hard: value(limit.maximum) }
    };
    pairs.into_iter().map(limit).collect()
}

/// The caller's umask. It can only be read by setting it.
fn own_umask() -> u32 {
    let mask = host::rustix::process::umask(host::rustix::fs::Mode::from_raw_mode(0o022));
    host::rustix::process::umask(mask);
    mask.as_raw_mode()
}
