//! `nacelle features`: what this runtime can do, as the OCI specification has it.

use clap::Args;
use kernel::task::credentials::Capability;
use serde_json::json;

/// Arguments of `nacelle features`.
#[derive(Args)]
pub struct Features {}

/// Runs the command.
pub fn run(_arguments: &Features) -> anyhow::Result<u8> {
    let capabilities: Vec<&str> = Capability::ALL.iter().map(|capability| capability.name()).collect();
    super::print_json(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": super::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "bind", "rbind", "ro", "rw", "rro", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime",
            "relatime", "norelatime", "size", "mode",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": { "enabled": false },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
        },
        "annotations": { "org.nacelle.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": [],
    }))?;
    Ok(0)
}
