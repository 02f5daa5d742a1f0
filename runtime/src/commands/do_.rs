//! `nacelle do`: runs a program over the host's own files.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use kernel::fs::mount::MountFlags;
use kernel::syscalls::StraceFilter;
use kernel::task::limits::{Limit, Resource};
use kernel::task::{Credentials, Limits};
use sandbox::{Mount, MountKind, Patching, Spec};

use super::{open_directory, open_path, own_streams, usual_mounts};

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
    environment: Vec<String>,
    /// Run as this user and group (numbers); the caller's by default.
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// The working directory; the caller's by default, if it exists in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// The host name.
    #[arg(long, default_value = "nacelle")]
    hostname: String,
    /// Leave all code as it is: every system call traps, which takes longer.
    #[arg(long)]
    no_patching: bool,
    /// Print system calls to standard error: all, or those in a comma-separated list.
    #[arg(long, value_name = "LIST", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    strace: Option<String>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(arguments: Do) -> anyhow::Result<u8> {
    let mut mounts = usual_mounts();
    for volume in &arguments.volumes {
        mounts.push(parse_volume(volume)?);
    }
    let strace = match arguments.strace.as_deref() {
        None => None,
        Some("") => Some(StraceFilter::All),
        Some(list) => match StraceFilter::parse(list) {
            Ok(filter) => Some(filter),
            Err(name) => bail!("--strace: there is no system call named {name}"),
        },
    };
    let credentials = match &arguments.user {
        Some(user) => parse_user(user)?,
        None => caller(),
    };
    let Some(program) = arguments.command.first().cloned() else { bail!("no program given") };
    let cwd = match arguments.cwd {
        Some(cwd) => cwd,
        None => own_directory(&arguments.root),
    };
    sandbox::run(Spec {
        program,
        arguments: arguments.command,
        environment: environment(&arguments.environment),
        cwd,
        credentials,
        limits: own_limits(),
        hostname: arguments.hostname,
        domainname: "(none)".to_owned(),
        root: open_directory(&arguments.root)?,
        root_read_only: false,
        mounts,
        streams: own_streams(arguments.tty)?,
        patching: if arguments.no_patching { Patching::Off } else { Patching::On },
        strace,
        umask: own_umask(),
    })
}

/// The caller's working directory as the sandbox sees it, or its root.
fn own_directory(root: &std::path::Path) -> String {
    let inside = std::env::current_dir().ok().and_then(|current| {
        let root = root.canonicalize().ok()?;
        let below = current.strip_prefix(root).ok()?;
        Some(format!("/{}", below.to_str()?))
    });
    inside.unwrap_or_else(|| "/".to_owned())
}

/// `SRC:DST[:ro]`.
fn parse_volume(text: &str) -> anyhow::Result<Mount> {
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
    let source = open_path(source.as_ref()).with_context(|| format!("--volume {text}"))?;
    Ok(Mount { destination: destination.to_owned(), kind: MountKind::Host(source), flags })
}

/// `UID[:GID]`; the group is the user's number by default.
fn parse_user(text: &str) -> anyhow::Result<Credentials> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    match (number(uid), number(gid)) {
        (Some(uid), Some(gid)) => Ok(Credentials::new(uid, gid)),
        _ => bail!("--user {text}: expected numbers, UID or UID:GID"),
    }
}

/// Who runs this command.
fn caller() -> Credentials {
    let uid = host::rustix::process::getuid().as_raw();
    let gid = host::rustix::process::getgid().as_raw();
    let groups = host::rustix::process::getgroups().unwrap_or_default();
    Credentials {
        groups: groups.into_iter().map(host::rustix::process::Gid::as_raw).collect(),
        ..Credentials::new(uid, gid)
    }
}

/// The caller's environment with the given variables set.
fn environment(changes: &[String]) -> Vec<String> {
    let mut variables: Vec<(String, String)> = std::env::vars().collect();
    for change in changes {
        let (name, value) = match change.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => match std::env::var(change) {
                Ok(value) => (change.clone(), value),
                Err(_) => continue,
            },
        };
        variables.retain(|(other, _)| *other != name);
        variables.push((name, value));
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The caller's resource limits.
fn own_limits() -> Limits {
    use host::rustix::process::{Resource as Host, getrlimit};
    let mut limits = Limits::default();
    let pairs = [
        (Resource::Stack, Host::Stack),
        (Resource::Core, Host::Core),
        (Resource::OpenFiles, Host::Nofile),
        (Resource::FileSize, Host::Fsize),
        (Resource::Data, Host::Data),
        (Resource::AddressSpace, Host::As),
        (Resource::LockedMemory, Host::Memlock),
        (Resource::PendingSignals, Host::Sigpending),
        (Resource::Processes, Host::Nproc),
    ];
    for (resource, host) in pairs {
        let limit = getrlimit(host);
        let value = |limit: Option<u64>| limit.unwrap_or(kernel::task::limits::INFINITY);
        limits.set(resource, Limit { current: value(limit.current), maximum: value(limit.maximum) });
    }
    limits
}

/// The caller's umask. It can only be read by setting it.
fn own_umask() -> u32 {
    let mask = host::rustix::process::umask(host::rustix::fs::Mode::from_raw_mode(0o022));
    host::rustix::process::umask(mask);
    mask.as_raw_mode()
}
