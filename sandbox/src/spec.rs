//! What a container is to be, as it travels to the sandbox: checked values, and descriptors instead of paths.
//!
//! Whoever sends a [`ContainerSpec`] has turned everything that only the host knows (paths, user names) into numbers
//! and descriptors. [`Descriptor`] is the place of one among those that travel with the message.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde::{Deserialize, Serialize};

/// The place of a descriptor among those that came with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor(pub usize);

/// Files of the host: those that the container's gofer serves under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFiles(pub u32);

/// An instruction of classic BPF, `struct sock_filter`: what to do, how many instructions to skip if a condition holds and if
/// it does not, the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompInstruction(pub u16, pub u8, pub u8, pub u32);

/// What a container is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its id.
    pub id: String,
    /// The host name of its UTS namespace.
    pub hostname: String,
    /// The domain name of its UTS namespace.
    pub domainname: String,
    /// Whether its first process can end itself by a signal, as a program could that is not the first of its namespace.
    #[serde(default)]
    pub ordinary_init: bool,
    /// The seccomp filter that its processes start under; empty for none.
    #[serde(default)]
    pub seccomp: Vec<SeccompInstruction>,
    /// Where its pid namespace comes from.
    #[serde(default)]
    pub pid_namespace: Sharing,
    /// Where its IPC namespace comes from.
    #[serde(default)]
    pub ipc_namespace: Sharing,
    /// Where its UTS namespace comes from.
    #[serde(default)]
    pub uts_namespace: Sharing,
    /// The channels to its gofer.
    pub gofer: Vec<Descriptor>,
    /// The root directory.
    pub root: RootSpec,
    /// Further mounts, in order.
    pub mounts: Vec<MountSpec>,
    /// Devices beyond those that every container has.
    #[serde(default)]
    pub devices: Vec<DeviceSpec>,
    /// Paths that show nothing; those that do not exist do not matter.
    #[serde(default)]
    pub masked_paths: Vec<String>,
    /// Paths that cannot be changed; those that do not exist do not matter.
    #[serde(default)]
    pub readonly_paths: Vec<String>,
    /// Settings of its namespaces by their names, as `sysctl(8)` has them.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// The program.
    pub process: ProcessSpec,
    /// What it may use as a whole.
    #[serde(default)]
    pub resources: ResourcesSpec,
    /// The control groups of the host that its programs run in: their `cgroup.procs`, open for writing. None if those of
    /// the sandbox process are the right ones.
    #[serde(default)]
    pub cgroups: Vec<Descriptor>,
    /// Which system calls are shown in the log: nothing, all (an empty list), or these.
    #[serde(default)]
    pub strace: Option<String>,
    /// Whether procfs has the file by which programs tell that they run in gVisor; the first container's word holds for all.
    #[serde(default)]
    pub gvisor_marker: bool,
    /// A file that gets a line for each system call that programs ask for and that is not there.
    #[serde(default)]
    pub user_log: Option<Descriptor>,
    /// The end of a link ([`crate::link`]) to the process that stands for the container on the host, if there is one.
    #[serde(default)]
    pub link: Option<Descriptor>,
}

/// What a container may use as a whole; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcesSpec {
    /// The most tasks. The kernel refuses further ones.
    #[serde(default)]
    pub tasks: Option<u64>,
    /// The most memory in bytes. The host sees to it; programs read it from a cgroup file system.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Processor time and the period in which it may be used, in microseconds; likewise.
    #[serde(default)]
    pub cpu: Option<(u64, u64)>,
}

impl From<ResourcesSpec> for kernel::container::ContainerLimits {
    fn from(spec: ResourcesSpec) -> kernel::container::ContainerLimits {
        kernel::container::ContainerLimits { pids: spec.tasks, memory: spec.memory, cpu: spec.cpu }
    }
}

/// Where a namespace comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// It is a new one.
    #[default]
    New,
    /// It is that of another container.
    Container(String),
    /// It is the sandbox's: that of its first container.
    Sandbox,
}

/// The root directory of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// What it shows.
    pub files: RootFiles,
    /// Where changes go.
    pub layer: RootLayer,
    /// The most bytes that a layer may take; zero for no limit.
    #[serde(default)]
    pub layer_size: u64,
    /// Where the gofer makes files without names for what is in large files of a layer, if they are not to be in memory.
    #[serde(default)]
    pub store: Option<HostFiles>,
    /// An archive of changes that a layer begins with.
    #[serde(default)]
    pub archive: Option<Descriptor>,
    /// Whether the container cannot change it at all.
    pub read_only: bool,
    /// Who else changes the directory meanwhile.
    #[serde(default)]
    pub access: FileAccess,
}

/// What a root directory shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFiles {
    /// A directory of the host.
    Host(HostFiles),
    /// An EROFS image.
    Image {
        /// The image, open for reading.
        image: Descriptor,
        /// Its path on the host, for messages.
        path: String,
    },
}

/// Who else changes files of the host while a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAccess {
    /// Nobody, so what was found once is remembered.
    Exclusive,
    /// Others may.
    #[default]
    Shared,
}

/// Where changes of the root directory go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootLayer {
    /// To the directory itself; an image cannot be changed.
    #[default]
    Through,
    /// To a layer over it, in memory or in a store ([`RootSpec::store`]); they vanish with the container.
    Memory,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Where.
    pub path: String,
    /// What.
    pub kind: DeviceKind,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kinds of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// What a character device of the host that is mounted is to programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DevicePolicy {
    /// The kernel's own device of that number, if there is one.
    #[default]
    EmulatedOnly,
    /// That, or the host's where there is none.
    PreferEmulated,
    /// The host's.
    Passthrough,
}

impl From<DevicePolicy> for kernel::fs::hostfs::Devices {
    fn from(policy: DevicePolicy) -> Self {
        match policy {
            DevicePolicy::EmulatedOnly => Self::Emulated,
            DevicePolicy::PreferEmulated => Self::PreferEmulated,
            DevicePolicy::Passthrough => Self::Host,
        }
    }
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Where, in the container; made if it does not exist.
    pub destination: String,
    /// What.
    pub kind: MountKind,
    /// `MS_*` flags of the mount.
    #[serde(default)]
    pub flags: u32,
    /// What it is to programs if it is a character device.
    #[serde(default)]
    pub devices: DevicePolicy,
    /// What it is mounted from, as `/proc/mounts` shows it.
    pub source: String,
    /// Whether a file system in memory begins with what was at the destination.
    #[serde(default)]
    pub copy_up: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A directory or file of the host.
    Host(HostFiles),
    /// An EROFS image, open for reading.
    Image(Descriptor),
    /// An empty file system in memory, of at most so many bytes (zero for no limit), with these permission bits.
    Memory {
        /// Bytes.
        size: u64,
        /// Permission bits; zero for the usual.
        mode: u32,
    },
    /// The devices that every container has.
    Devices,
    /// Pseudo-terminals.
    Terminals,
    /// POSIX message queues.
    MessageQueues,
    /// Processes and kernel facts.
    Processes,
    /// Devices and buses, of which there are none.
    System,
    /// The container's own limits and usage, as the root of cgroups of version 2.
    Cgroup,
}

/// What a program is given: any bytes. On its way it is text if it can be, else a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Numbers(Vec<u8>),
}

impl From<Written> for Bytes {
    fn from(written: Written) -> Bytes {
        match written {
            Written::Text(text) => Bytes(text.into_bytes()),
            Written::Numbers(bytes) => Bytes(bytes),
        }
    }
}

impl From<Bytes> for Written {
    fn from(Bytes(bytes): Bytes) -> Written {
        String::from_utf8(bytes).map_or_else(|error| Written::Numbers(error.into_bytes()), Written::Text)
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Bytes {
        Bytes(text.into_bytes())
    }
}

impl From<OsString> for Bytes {
    fn from(text: OsString) -> Bytes {
        Bytes(text.into_vec())
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(formatter)
    }
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program; looked up in `PATH` if it has no slash.
    pub program: Bytes,
    /// Arguments, the program's name included.
    pub arguments: Vec<Bytes>,
    /// Environment, `NAME=value`.
    pub environment: Vec<Bytes>,
    /// Working directory.
    pub cwd: Bytes,
    /// Whether the working directory is made if it is missing.
    #[serde(default)]
    pub make_cwd: bool,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Resource limits by their numbers; the others are as Linux gives them to init.
    #[serde(default)]
    pub limits: Vec<LimitSpec>,
    /// `/proc/self/oom_score_adj`.
    #[serde(default)]
    pub oom_score_adj: i32,
    /// Its nice value.
    #[serde(default)]
    pub nice: i32,
    /// The signals that it ignores until it says otherwise, a bit each, SIGHUP being the lowest.
    #[serde(default)]
    pub ignored_signals: u64,
    /// Standard input, output and error.
    pub streams: Streams,
    /// The paths at which the program finds what is behind its streams, where it does; by descriptor.
    #[serde(default)]
    pub stream_names: BTreeMap<u32, String>,
    /// Further open files of the host, and which descriptors they are inside.
    #[serde(default)]
    pub files: Vec<(u32, Descriptor)>,
    /// The file of the host that is the program, instead of the one that `program` names.
    #[serde(default)]
    pub executable: Option<Descriptor>,
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of capabilities(7)")]
pub struct Capabilities {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSpec {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// What a program has as standard input, output and error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Streams {
    /// Files of the host, and which descriptors they are inside.
    Files(Vec<(u32, Descriptor)>),
    /// A terminal of its own. What is read from `input` is typed there, what it shows is written to `output`. If
    /// `input` is a terminal of the host, it is to be in raw mode meanwhile.
    Terminal {
        /// The keyboard.
        input: Descriptor,
        /// The screen.
        output: Descriptor,
        /// The settings that it begins with, if not the usual ones.
        #[serde(default)]
        settings: Option<TerminalSettings>,
        /// Rows and columns, where the host's terminal has no size.
        #[serde(default)]
        size: Option<(u16, u16)>,
    },
}

/// `struct termios`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of termios(3)")]
pub struct TerminalSettings {
    pub input: u32,
    pub output: u32,
    pub control: u32,
    pub local: u32,
    pub characters: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_travel_and_text_as_what_it_is() {
        for (bytes, json) in [(&b"text \xc3\xa4"[..], "\"text \u{e4}\""), (b"\xff", "[255]"), (b"", "\"\"")] {
            let bytes = Bytes(bytes.to_vec());
            assert_eq!(serde_json::to_string(&bytes).unwrap(), json);
            assert_eq!(serde_json::from_str::<Bytes>(json).unwrap(), bytes);
        }
    }
}
