//! What becomes of each field of a specification: one table, from which come the warnings, the refusals and
//! `docs/oci-spec.md`.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde_json::Value;

use super::{Error, Result, invalid};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is carried out on the host: by namespaces, mounts, control groups.
    Honoured,
    /// It is carried out inside, by the application kernel.
    Inside,
    /// It can have no effect, because what it would guard is not there. Nothing is said about it.
    Moot,
    /// It is ignored, and a warning says so.
    Ignored,
    /// The specification is refused.
    Refused,
}

use Treatment::{Honoured, Ignored, Inside, Moot, Refused};

impl Treatment {
    /// What the documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Honoured => "honoured",
            Inside => "enforced inside",
            Moot => "without effect",
            Ignored => "ignored with a warning",
            Refused => "refused",
        }
    }
}

/// A field, or all below it.
#[derive(Debug)]
pub struct Field {
    /// Its name: `[]` for each of a list, `*` for any name.
    pub path: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// Why, or how far.
    pub note: &'static str,
}

macro_rules! fields {
    ($($path:literal $treatment:ident $note:literal;)*) => {
        &[$(Field { path: $path, treatment: $treatment, note: $note }),*]
    };
}

/// All fields that the OCI runtime specification 1.2 has for Linux, in its order.
#[rustfmt::skip]
pub const FIELDS: &[Field] = fields! {
    "ociVersion" Honoured "any 1.x";
    "root.path" Honoured "";
    "root.readonly" Inside "";
    "mounts[].destination" Inside "made if it is missing";
    "mounts[].type" Inside "tmpfs, proc, sysfs, devpts, mqueue, cgroup, cgroup2, overlay, erofs (read-only, of an image on the host); others are refused unless they are bind mounts";
    "mounts[].source" Honoured "of bind mounts and images; relative to the bundle";
    "mounts[].options" Inside "flags of mounts; of file systems, the size and mode of a tmpfs, others are checked only; with shared or slave, what the host mounts below the source later shows inside, and what the container mounts stays there (with shared, a warning says so)";
    "mounts[].uidMappings" Honoured "of bind mounts, where the host's file system can; without it, idmap and ridmap mean the container's";
    "mounts[].gidMappings" Honoured "";
    "process.terminal" Honoured "";
    "process.consoleSize" Honoured "";
    "process.cwd" Inside "";
    "process.env" Inside "of several values of one name, the last counts";
    "process.args" Inside "";
    "process.commandLine" Ignored "only for Windows";
    "process.rlimits[].type" Inside "";
    "process.rlimits[].soft" Inside "";
    "process.rlimits[].hard" Inside "";
    "process.apparmorProfile" Ignored "the guest never reaches the host's kernel, which would enforce it";
    "process.capabilities.bounding" Inside "unknown names are left out with a warning";
    "process.capabilities.effective" Inside "as far as they are permitted; execve(2) then makes of the sets what it does, so that users but root keep the ambient ones";
    "process.capabilities.inheritable" Inside "";
    "process.capabilities.permitted" Inside "";
    "process.capabilities.ambient" Inside "as far as they are permitted and inheritable";
    "process.noNewPrivileges" Inside "";
    "process.oomScoreAdj" Honoured "shown to the program; the sandbox gets the lowest of its containers' values, as far as the caller may set it";
    "process.scheduler" Ignored "the guest's threads are scheduled by the host";
    "process.selinuxLabel" Ignored "the guest never reaches the host's kernel, which would enforce it";
    "process.ioPriority" Ignored "";
    "process.execCPUAffinity" Ignored "";
    "process.user.uid" Inside "";
    "process.user.gid" Inside "";
    "process.user.umask" Inside "";
    "process.user.additionalGids" Inside "";
    "process.user.username" Ignored "only for Windows";
    "hostname" Inside "";
    "domainname" Inside "";
    "hooks.prestart[].path" Honoured "";
    "hooks.prestart[].args" Honoured "";
    "hooks.prestart[].env" Honoured "";
    "hooks.prestart[].timeout" Honoured "";
    "hooks.createRuntime[].path" Honoured "";
    "hooks.createRuntime[].args" Honoured "";
    "hooks.createRuntime[].env" Honoured "";
    "hooks.createRuntime[].timeout" Honoured "";
    "hooks.createContainer[].path" Honoured "in the mount namespace of the process that stands for the container, before it leaves the host's files, which the program is one of";
    "hooks.createContainer[].args" Honoured "";
    "hooks.createContainer[].env" Honoured "";
    "hooks.createContainer[].timeout" Honoured "";
    "hooks.startContainer[].path" Honoured "in the mount namespace of the process that stands for the container";
    "hooks.startContainer[].args" Honoured "";
    "hooks.startContainer[].env" Honoured "";
    "hooks.startContainer[].timeout" Honoured "";
    "hooks.poststart[].path" Honoured "";
    "hooks.poststart[].args" Honoured "";
    "hooks.poststart[].env" Honoured "";
    "hooks.poststart[].timeout" Honoured "";
    "hooks.poststop[].path" Honoured "";
    "hooks.poststop[].args" Honoured "";
    "hooks.poststop[].env" Honoured "";
    "hooks.poststop[].timeout" Honoured "";
    "annotations.*" Honoured "shown by `state` and to hooks; those of Kubernetes' engines say which sandbox to join; of those for gVisor, others being named in a warning: dev.gvisor.spec.rootfs.source, with .type erofs, is an image that is the root directory instead of root.path (with .type bind, it is root.path itself), .overlay (memory, self, none) says where its changes go, .options (size=BYTES) how many there may be; dev.gvisor.tar.rootfs.upper names an archive of changes that a layer begins with";
    "linux.namespaces[].type" Honoured "a sandbox always has namespaces of its own; pid, ipc and uts are shared inside it";
    "linux.namespaces[].path" Honoured "pid and ipc of another container, which brings its sandbox with it; uts of one of the same sandbox; all others are replaced by new ones";
    "linux.uidMappings" Honoured "for files: ids that are not mapped show as 65534 and cannot be given; an ordinary user can map their own id only";
    "linux.gidMappings" Honoured "";
    "linux.timeOffsets" Ignored "";
    "linux.devices[].path" Inside "";
    "linux.devices[].type" Inside "";
    "linux.devices[].major" Inside "a device that the application kernel does not have cannot be opened";
    "linux.devices[].minor" Inside "";
    "linux.devices[].fileMode" Inside "";
    "linux.devices[].uid" Inside "";
    "linux.devices[].gid" Inside "";
    "linux.netDevices" Ignored "";
    "linux.cgroupsPath" Honoured "";
    "linux.rootfsPropagation" Ignored "nobody else sees the container's mounts";
    "linux.maskedPaths" Inside "";
    "linux.readonlyPaths" Inside "";
    "linux.mountLabel" Ignored "the guest never reaches the host's kernel, which would enforce it";
    "linux.sysctl.*" Inside "those of System V IPC and message queues, and kernel.domainname; those of networks are ignored with a warning, others refused";
    "linux.personality" Ignored "";
    "linux.intelRdt" Ignored "";
    "linux.memoryPolicy" Ignored "";
    "linux.resources.devices" Moot "there are no devices of the host inside";
    "linux.resources.memory.limit" Honoured "";
    "linux.resources.memory.reservation" Honoured "";
    "linux.resources.memory.swap" Honoured "";
    "linux.resources.memory.kernel" Ignored "the host's kernel has given it up";
    "linux.resources.memory.kernelTCP" Ignored "";
    "linux.resources.memory.swappiness" Honoured "with cgroup version 1";
    "linux.resources.memory.disableOOMKiller" Honoured "with cgroup version 1";
    "linux.resources.memory.useHierarchy" Moot "it always is";
    "linux.resources.memory.checkBeforeUpdate" Honoured "";
    "linux.resources.cpu.shares" Honoured "";
    "linux.resources.cpu.quota" Honoured "";
    "linux.resources.cpu.burst" Honoured "";
    "linux.resources.cpu.period" Honoured "";
    "linux.resources.cpu.realtimeRuntime" Ignored "";
    "linux.resources.cpu.realtimePeriod" Ignored "";
    "linux.resources.cpu.cpus" Honoured "";
    "linux.resources.cpu.mems" Honoured "";
    "linux.resources.cpu.idle" Honoured "";
    "linux.resources.pids.limit" Honoured "";
    "linux.resources.blockIO.weight" Honoured "where the host has it";
    "linux.resources.blockIO.leafWeight" Ignored "";
    "linux.resources.blockIO.weightDevice" Honoured "where the host has it";
    "linux.resources.blockIO.throttleReadBpsDevice" Honoured "";
    "linux.resources.blockIO.throttleWriteBpsDevice" Honoured "";
    "linux.resources.blockIO.throttleReadIOPSDevice" Honoured "";
    "linux.resources.blockIO.throttleWriteIOPSDevice" Honoured "";
    "linux.resources.hugepageLimits" Honoured "where the host has it";
    "linux.resources.network" Ignored "";
    "linux.resources.rdma" Ignored "";
    "linux.resources.unified.*" Honoured "with cgroup version 2";
    "linux.seccomp" Inside "by our kernel; a listener of notifications is refused";
    "windows" Refused "this is a runtime for Linux containers";
    "solaris" Refused "this is a runtime for Linux containers";
    "vm" Refused "there is no virtual machine";
    "zos" Refused "this is a runtime for Linux containers";
};

struct Index {
    fields: HashMap<&'static str, &'static Field>,
    /// What lies above fields.
    above: HashSet<&'static str>,
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut above = HashSet::from([""]);
        for field in FIELDS {
            let path = field.path;
            let ends = path.match_indices(['.', '[']).filter(|(end, _)| path[*end..].len() > 1);
            above.extend(ends.map(|(end, _)| &path[..end]));
            let lists = path.match_indices("[]").map(|(end, _)| &path[..end + 2]);
            above.extend(lists.filter(|above| above.len() < path.len()));
        }
        Index { fields: FIELDS.iter().map(|field| (field.path, field)).collect(), above }
    })
}

/// Whether a value asks for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Warns of what is ignored or unknown in a specification.
///
/// # Errors
/// If there is anything in it that is refused.
pub fn review(specification: &Value, warnings: &mut Vec<String>) -> Result<()> {
    walk(specification, "", warnings)
}

fn walk(value: &Value, path: &str, warnings: &mut Vec<String>) -> Result<()> {
    if let Some(field) = index().fields.get(path) {
        return treat(field, value, warnings);
    }
    if !index().above.contains(path) {
        if !is_nothing(value) {
            warn(format!("{path} is unknown and is ignored"), warnings);
        }
        return Ok(());
    }
    check_shape(value, path)?;
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let child = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let any = format!("{path}.*");
                let known = index().fields.contains_key(any.as_str());
                walk(inner, if known { &any } else { &child }, warnings)?;
            }
            Ok(())
        }
        Value::Array(list) => {
            let child = format!("{path}[]");
            list.iter().try_for_each(|inner| walk(inner, &child, warnings))
        }
        _ => Ok(()),
    }
}

/// Types that are read from JSON would take a list for an object.
fn check_shape(value: &Value, path: &str) -> Result<()> {
    let is_list = index().above.contains(format!("{path}[]").as_str());
    match value {
        Value::Array(_) if is_list => Ok(()),
        Value::Object(_) if !is_list => Ok(()),
        _ => {
            let name = if path.is_empty() { super::CONFIG } else { path };
            let what = if is_list { "a list" } else { "an object" };
            invalid(format!("{name} must be {what}"))
        }
    }
}

fn treat(field: &Field, value: &Value, warnings: &mut Vec<String>) -> Result<()> {
    match field.treatment {
        _ if is_nothing(value) => Ok(()),
        Honoured | Inside | Moot => Ok(()),
        Ignored => {
            let reason = if field.note.is_empty() { String::new() } else { format!(": {}", field.note) };
            warn(format!("{} is not supported and is ignored{reason}", field.path), warnings);
            Ok(())
        }
        Refused => Err(Error::Unsupported { field: field.path.to_owned(), reason: field.note }),
    }
}

/// Says it once, however long the list is.
fn warn(text: String, warnings: &mut Vec<String>) {
    if !warnings.contains(&text) {
        warnings.push(text);
    }
}

/// The table for the documentation.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Fields of the OCI runtime specification\n\n\
         What becomes of each field of a bundle's `config.json`. The table is generated from `container/src/spec/fields.rs`,\n\
         which the program itself goes by, and tests try every row.\n\n\
         - **honoured**: carried out on the host, by namespaces, mounts and control groups\n\
         - **enforced inside**: carried out by the application kernel\n\
         - **without effect**: what it would guard is not there\n\
         - **ignored with a warning**: the warning names the field\n\
         - **refused**: `create` and `run` fail and name the field\n\n\
         A field that is not in the table is ignored with a warning.\n\n\
         | field | | |\n|---|---|---|\n",
    );
    for field in FIELDS {
        text.push_str(&format!("| `{}` | {} | {} |\n", field.path, field.treatment.name(), field.note));
    }
    text
}
