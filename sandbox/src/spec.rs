//! What a sandbox is to run: checked values, and descriptors instead of paths.

use std::os::fd::OwnedFd;

use kernel::fs::mount::MountFlags;
use kernel::syscalls::StraceFilter;
use kernel::task::{Credentials, Limits};
use platform::stub::Patching;

/// What a sandbox is to run.
pub struct Spec {
    /// The program; looked up in `PATH` if it has no slash.
    pub program: String,
    /// Arguments, the program's name included.
    pub arguments: Vec<String>,
    /// Environment, `NAME=value`.
    pub environment: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Identity.
    pub credentials: Credentials,
    /// Resource limits.
    pub limits: Limits,
    /// `uname(2)`'s node name.
    pub hostname: String,
    /// `uname(2)`'s domain name.
    pub domainname: String,
    /// The root directory on the host. It stays as it is: changes are kept in memory and vanish.
    pub root: OwnedFd,
    /// Whether the root cannot be changed at all.
    pub root_read_only: bool,
    /// Further mounts, in order.
    pub mounts: Vec<Mount>,
    /// Standard streams.
    pub streams: Streams,
    /// Whether code that makes many system calls is changed so that they come faster.
    pub patching: Patching,
    /// Which system calls are shown on standard error.
    pub strace: Option<StraceFilter>,
    /// Permission bits that new files do not get.
    pub umask: u32,
}

/// A mount of a sandbox.
pub struct Mount {
    /// Where, in the sandbox; made if it does not exist.
    pub destination: String,
    /// What.
    pub kind: MountKind,
    /// How.
    pub flags: MountFlags,
}

/// What is mounted.
pub enum MountKind {
    /// A directory or file of the host.
    Host(OwnedFd),
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
    /// Processes and kernel facts.
    Processes,
    /// Devices and buses, of which there are none.
    System,
}

/// What the program has as standard input, output and error.
pub enum Streams {
    /// Files of the host; `None` for one that is closed.
    Files([Option<OwnedFd>; 3]),
    /// A terminal of its own. What is read from `input` is typed there, what it shows is written to `output`. If `input`
    /// is a terminal of the host, it is in raw mode meanwhile.
    Terminal {
        /// The keyboard.
        input: OwnedFd,
        /// The screen.
        output: OwnedFd,
    },
}
