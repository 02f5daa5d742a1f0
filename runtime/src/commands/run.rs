//! `nacelle run`: runs an OCI bundle in the foreground.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use kernel::fs::mount::MountFlags;
use kernel::task::credentials::{ALL_CAPABILITIES, Capability};
use kernel::task::limits::{Limit, Resource};
use kernel::task::{Credentials, Limits};
use oci_spec::runtime::{self as oci, Spec as OciSpec};
use sandbox::{Mount, MountKind, Patching, Spec};

use super::{open_directory, open_path, own_streams, usual_mounts};

/// Arguments of `nacelle run`.
#[derive(Args)]
pub struct Run {
    /// The bundle: a directory with `config.json` in it.
    #[arg(long, short = 'b', value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// What the container is called: letters, digits, and `_ + - .`
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(arguments: Run) -> anyhow::Result<u8> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    let id = &arguments.id;
    ensure!(
        !id.is_empty() && id.len() <= 1024 && id.bytes().all(valid) && id != "." && id != "..",
        "invalid container id {id:?}"
    );
    let config = arguments.bundle.join("config.json");
    let text = std::fs::read_to_string(&config)
        .with_context(|| format!("cannot read the bundle's specification {}", config.display()))?;
    let spec: OciSpec =
        serde_json::from_str(&text).with_context(|| format!("{} is not valid", config.display()))?;
    sandbox::run(convert(&spec, &arguments.bundle, id)?)
}

/// Tells of something that is left out without harm.
fn ignored(what: &str) {
    eprintln!("nacelle: warning: {what} is not supported yet and is ignored");
}

fn convert(spec: &OciSpec, bundle: &Path, id: &str) -> anyhow::Result<Spec> {
    let process = spec.process().as_ref().context("config.json has no process")?;
    let arguments = process.args().clone().unwrap_or_default();
    let Some(program) = arguments.first().filter(|program| !program.is_empty()).cloned() else {
        bail!("config.json: process.args must not be empty");
    };
    ensure!(process.cwd().is_absolute(), "config.json: process.cwd must be an absolute path");
    if spec.hooks().as_ref().is_some_and(|hooks| *hooks != oci::Hooks::default()) {
        bail!("config.json: hooks are not supported yet");
    }
    let root = spec.root().as_ref().context("config.json has no root")?;
    let path = if root.path().is_absolute() { root.path().clone() } else { bundle.join(root.path()) };
    warn_of_linux(spec);
    for (present, what) in [
        (process.apparmor_profile().is_some(), "process.apparmorProfile"),
        (process.selinux_label().is_some(), "process.selinuxLabel"),
        (process.oom_score_adj().is_some(), "process.oomScoreAdj"),
    ] {
        if present {
            ignored(what);
        }
    }
    Ok(Spec {
        program,
        arguments,
        environment: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().display().to_string(),
        credentials: credentials(process)?,
        limits: limits(process),
        hostname: spec.hostname().clone().unwrap_or_else(|| id.chars().take(64).collect()),
        domainname: spec.domainname().clone().unwrap_or_else(|| "(none)".to_owned()),
        root: open_directory(&path).context("config.json: root.path")?,
        root_read_only: root.readonly().unwrap_or(false),
        mounts: mounts(spec, bundle)?,
        streams: own_streams(process.terminal().unwrap_or(false))?,
        patching: Patching::On,
        strace: None,
        umask: process.user().umask().unwrap_or(0o022) & 0o777,
    })
}

/// Warns of what the Linux part of a specification asks for and does not get; refuses what would be unsafe to ignore.
fn warn_of_linux(spec: &OciSpec) {
    let Some(linux) = spec.linux() else { return };
    let present = [
        (linux.seccomp().is_some(), "linux.seccomp (the guest never reaches the host's kernel)"),
        (linux.resources().is_some(), "linux.resources"),
        (linux.cgroups_path().is_some(), "linux.cgroupsPath"),
        (linux.sysctl().as_ref().is_some_and(|map| !map.is_empty()), "linux.sysctl"),
        (linux.devices().as_ref().is_some_and(|list| !list.is_empty()), "linux.devices"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (
            linux.masked_paths().as_ref().is_some_and(|list| !list.is_empty()),
            "linux.maskedPaths (the proc and sys inside show nothing of the host)",
        ),
        (
            linux.readonly_paths().as_ref().is_some_and(|list| !list.is_empty()),
            "linux.readonlyPaths (the proc and sys inside change nothing of the host)",
        ),
    ];
    present.into_iter().filter(|(present, _)| *present).for_each(|(_, what)| ignored(what));
}

fn credentials(process: &oci::Process) -> anyhow::Result<Credentials> {
    let user = process.user();
    let mut credentials = Credentials::new(user.uid(), user.gid());
    credentials.groups = user.additional_gids().clone().unwrap_or_default();
    credentials.no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let set = |names: &Option<oci::Capabilities>| -> anyhow::Result<u64> {
        let mut mask = 0;
        for name in names.iter().flatten() {
            let name = name.to_string();
            let name = name.strip_prefix("CAP_").unwrap_or(&name).to_owned();
            let known = Capability::ALL.iter().find(|capability| capability.name()[4..] == name);
            mask |= known.with_context(|| format!("config.json: unknown capability CAP_{name}"))?.mask();
        }
        Ok(mask & ALL_CAPABILITIES)
    };
    match process.capabilities() {
        Some(capabilities) => {
            credentials.bounding = set(capabilities.bounding())?;
            credentials.permitted = set(capabilities.permitted())?;
            credentials.effective = set(capabilities.effective())? & credentials.permitted;
            credentials.inheritable = set(capabilities.inheritable())?;
            credentials.ambient =
                set(capabilities.ambient())? & credentials.permitted & credentials.inheritable;
        }
        None => {
            credentials.bounding = 0;
            credentials.permitted = 0;
            credentials.effective = 0;
        }
    }
    Ok(credentials)
}

fn limits(process: &oci::Process) -> Limits {
    let mut limits = Limits::default();
    for limit in process.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        let name = name.strip_prefix("RLIMIT_").unwrap_or(&name).to_owned();
        if let Some((resource, _)) = Resource::ALL.iter().find(|(_, known)| *known == name) {
            limits.set(*resource, Limit { current: limit.soft(), maximum: limit.hard() });
        }
    }
    limits
}

fn mounts(spec: &OciSpec, bundle: &Path) -> anyhow::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let listed = spec.mounts().clone().unwrap_or_default();
    // A bundle that says nothing of /proc and /dev still gets them: programs do not run without.
    let has = |destination: &str| listed.iter().any(|mount| mount.destination() == Path::new(destination));
    mounts.extend(
        usual_mounts().into_iter().filter(|mount| {
            matches!(mount.destination.as_str(), "/proc" | "/dev") && !has(&mount.destination)
        }),
    );
    for mount in &listed {
        let destination = mount.destination().display().to_string();
        ensure!(destination.starts_with('/'), "config.json: mount destination {destination} is not absolute");
        let options = mount.options().clone().unwrap_or_default();
        let flags = flags(&options);
        let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
        let kind = mount.typ().as_deref().unwrap_or(if is_bind { "bind" } else { "none" });
        let option =
            |name: &str| options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        let kind = match kind {
            _ if is_bind => {
                let source = mount
                    .source()
                    .as_ref()
                    .with_context(|| format!("config.json: the bind mount {destination} has no source"))?;
                let source = if source.is_absolute() { source.clone() } else { bundle.join(source) };
                MountKind::Host(
                    open_path(&source).with_context(|| format!("config.json: mount {destination}"))?,
                )
            }
            "bind" => bail!("config.json: mount {destination}: a bind mount needs the option bind or rbind"),
            // /dev is a tmpfs to runc, which puts the devices into it itself.
            "tmpfs" if destination == "/dev" => MountKind::Devices,
            "tmpfs" | "mqueue" => MountKind::Memory {
                size: option("size").map_or(Ok(0), parse_size)?,
                mode: option("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0),
            },
            "proc" => MountKind::Processes,
            "sysfs" => MountKind::System,
            "devpts" => MountKind::Terminals,
            "cgroup" | "cgroup2" => {
                ignored(&format!("the mount of {kind} at {destination}"));
                continue;
            }
            other => bail!("config.json: mount {destination}: the file system {other} is not supported"),
        };
        mounts.push(Mount { destination, kind, flags });
    }
    Ok(mounts)
}

/// Flags of a mount from its options; others concern the kind of mount, or propagation, which there is none of.
fn flags(options: &[String]) -> MountFlags {
    options.iter().fold(MountFlags::empty(), |flags, option| {
        flags
            | match option.as_str() {
                "ro" | "rro" => MountFlags::READ_ONLY,
                "nosuid" => MountFlags::NO_SUID,
                "nodev" => MountFlags::NO_DEV,
                "noexec" => MountFlags::NO_EXEC,
                "noatime" => MountFlags::NO_ATIME,
                "relatime" => MountFlags::RELATIME,
                _ => MountFlags::empty(),
            }
    })
}

/// A size of a tmpfs: bytes, or with `k`, `m`, `g` behind.
fn parse_size(text: &str) -> anyhow::Result<u64> {
    let (digits, unit) = match text.to_ascii_lowercase().strip_suffix(['k', 'm', 'g']) {
        Some(digits) => {
            let unit = match text.to_ascii_lowercase().chars().last() {
                Some('k') => 1 << 10,
                Some('m') => 1 << 20,
                _ => 1 << 30,
            };
            (digits.to_owned(), unit)
        }
        None => (text.to_owned(), 1),
    };
    let number: u64 = digits.parse().with_context(|| format!("config.json: {text} is no size"))?;
    number.checked_mul(unit).with_context(|| format!("config.json: the size {text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64k").ok(), Some(65536));
        assert_eq!(parse_size("65536").ok(), Some(65536));
        assert_eq!(parse_size("2G").ok(), Some(2 << 30));
        assert!(parse_size("much").is_err());
        assert!(parse_size("99999999999999999999g").is_err());
    }
}
