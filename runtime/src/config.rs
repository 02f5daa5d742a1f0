//! The flags that stand before the command. Engines pass those of `runc` and `runsc`, whatever they mean here.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use container::spec::layer::Layer;
use container::{Cgroups, Config, Container, LoadOpts, USUAL_ROOT};
use sandbox::spec::{DevicePolicy, FileAccess};

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `time="…" level=error msg="…"`
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// What a sandbox sees of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Nothing.
    None,
    /// The host's own.
    Host,
    /// One of its own, connected to the outside.
    Sandbox,
}

/// What character devices are that are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CharacterDevices {
    /// Those that the kernel inside has; others cannot be opened.
    EmulatedOnly,
    /// Those, and the host's where it has none.
    PreferEmulated,
    /// The host's.
    Passthrough,
}

/// The flags that stand before the command.
#[derive(Args, Debug)]
pub struct Global {
    /// Where the state of containers is kept; of the current user by default.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Append errors to this file.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How lines in the log look.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Tell more in the log.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub debug: bool,
    /// Where sandboxes write what goes wrong, and traces of system calls.
    #[arg(long, value_name = "FILE")]
    debug_log: Option<PathBuf>,
    /// Paths of cgroups are `SLICE:PREFIX:NAME`; they are made where systemd would, without telling it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    systemd_cgroup: bool,
    /// Who makes the cgroups: `cgroupfs`, `systemd` (as with --systemd-cgroup), or `disabled` for nobody.
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs")]
    cgroup_manager: String,
    /// Make no cgroups.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    ignore_cgroups: bool,
    /// Run without privileges; found out by itself.
    #[arg(long, value_name = "true|false|auto", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "auto")]
    rootless: String,
    /// Where changes of a container's root directory go: `none` (to the directory itself), `root:memory`, `root:self` (to files
    /// without names in that directory) or `root:dir=PATH` (in another). `,size=BYTES` behind limits them.
    #[arg(long, value_name = "WHERE", default_value = "none")]
    overlay2: String,
    /// Show programs /proc/gvisor/kernel_is_gvisor, by which some tell that they are in a sandbox.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    gvisor_marker_file: bool,
    /// Let the annotation `dev.gvisor.tar.rootfs.upper` name an archive of changes that a root directory with a layer begins with.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    allow_rootfs_tar_annotation: bool,
    /// Whether sandboxes get descriptors of directories.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    directfs: bool,
    /// Whether files of the root directory are changed by nobody else (`exclusive`) or may be (`shared`).
    #[arg(long, value_name = "HOW", default_value = "shared")]
    file_access: String,
    /// Which Unix sockets of the host containers may use: `none`, or with `open` those in their mounts that somebody
    /// listens at.
    #[arg(long, value_name = "WHICH", default_value = "none")]
    host_uds: String,
    /// What character devices are that are mounted, each by itself.
    #[arg(long, value_name = "POLICY", default_value = "emulated-only")]
    character_device_policy: CharacterDevices,
    /// The network of sandboxes; only `none` is there.
    #[arg(long, default_value = "none")]
    network: Network,
    /// Write system calls to the debug log: all, or those in a comma-separated list.
    #[arg(long, value_name = "LIST", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    strace: Option<String>,
    /// What runs guest code; there is one.
    #[arg(long, value_name = "NAME", default_value = "stub")]
    platform: String,
    /// Print the version.
    #[arg(long, short = 'v')]
    pub version: bool,
}

impl Global {
    /// Refuses what cannot be done.
    ///
    /// # Errors
    /// What is asked for.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.network != Network::None {
            bail!(
                "--network {}: only none is supported yet",
                match self.network {
                    Network::Host => "host",
                    _ => "sandbox",
                }
            );
        }
        for (flag, value, known) in [
            ("--cgroup-manager", &self.cgroup_manager, &["cgroupfs", "systemd", "disabled"][..]),
            ("--rootless", &self.rootless, &["true", "false", "auto"]),
            ("--file-access", &self.file_access, &["exclusive", "shared"]),
            ("--host-uds", &self.host_uds, &["none", "open"]),
            ("--platform", &self.platform, &["stub", "systrap", "ptrace"]),
        ] {
            if !known.contains(&value.as_str()) {
                bail!("{flag} {value} is not supported: {}", known.join(", "));
            }
        }
        self.layer()?;
        Ok(())
    }

    /// Where the state of containers is kept.
    pub fn root(&self) -> PathBuf {
        let own = || match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) if ordinary() => PathBuf::from(directory).join("nacelle"),
            _ => PathBuf::from(USUAL_ROOT),
        };
        self.root.clone().unwrap_or_else(own)
    }

    /// Where changes of root directories go.
    fn layer(&self) -> anyhow::Result<Layer> {
        let text = match self.overlay2.as_str() {
            "none" | "all:none" => "root:none",
            text => text,
        };
        let layer = text
            .strip_prefix("root:")
            .map_or_else(|| Err("only root: can have a layer".to_owned()), Layer::parse);
        layer.map_err(|reason| anyhow::anyhow!("--overlay2 {} is not supported: {reason}", self.overlay2))
    }

    /// How gofers serve.
    pub fn gofer(&self) -> gofer::Service {
        let mode = if self.directfs { gofer::Mode::Direct } else { gofer::Mode::Strict };
        let sockets = if self.host_uds == "open" { gofer::Sockets::Connect } else { gofer::Sockets::None };
        gofer::Service { mode, sockets, ids: None }
    }

    /// What concerns all containers.
    pub fn config(&self) -> Config {
        Config {
            root: self.root(),
            layer: self.layer().unwrap_or_default(),
            access: if self.file_access == "exclusive" { FileAccess::Exclusive } else { FileAccess::Shared },
            devices: match self.character_device_policy {
                CharacterDevices::EmulatedOnly => DevicePolicy::EmulatedOnly,
                CharacterDevices::PreferEmulated => DevicePolicy::PreferEmulated,
                CharacterDevices::Passthrough => DevicePolicy::Passthrough,
            },
            root_archives: self.allow_rootfs_tar_annotation,
            gofer: self.gofer(),
            strace: self.strace.clone(),
            gvisor_marker: self.gvisor_marker_file,
            debug_log: self.debug_log.clone(),
            cgroups: if self.ignore_cgroups || self.cgroup_manager == "disabled" {
                Cgroups::Ignore
            } else if self.systemd_cgroup || self.cgroup_manager == "systemd" {
                Cgroups::Systemd
            } else {
                Cgroups::Make
            },
        }
    }

    /// Finds a container.
    ///
    /// # Errors
    /// If there is none.
    pub fn load(&self, id: &str) -> anyhow::Result<Container> {
        Ok(Container::load(&self.root(), id, LoadOpts::default())?)
    }
}

/// Whether an ordinary user runs this, be it as the root of a user namespace, as engines do for one.
fn ordinary() -> bool {
    if !host::rustix::process::geteuid().is_root() {
        return true;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    !all && std::env::var_os("USER").is_none_or(|name| name != "root")
}
