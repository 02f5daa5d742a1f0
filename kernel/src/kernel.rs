//! [`Kernel`]: everything that the tasks of a sandbox share.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use platform::Platform;

use crate::container::Container;
use crate::namespace::PidNamespace;
use crate::syscalls::strace::{Strace, Unimplemented};
use crate::task::TaskTable;

/// How a kernel is set up. Nothing in it comes from a guest.
pub struct Config {
    /// Prints system calls as they happen.
    pub strace: Option<Strace>,
    /// What the kernel shows of the host.
    pub host: HostInfo,
    /// Whether procfs has the file by which programs tell that they run in gVisor.
    pub gvisor_marker: bool,
}

/// What the kernel shows of the host, gathered before it is shut in.
#[derive(Clone, Debug, Default)]
pub struct HostInfo {
    /// The text of `/proc/cpuinfo`.
    pub cpuinfo: String,
    /// Random bytes for `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// The host's `/proc/meminfo`.
    pub meminfo: Option<Arc<std::fs::File>>,
}

/// A running kernel.
pub struct Kernel {
    /// Runs guest code.
    pub platform: Arc<dyn Platform>,
    /// All tasks, process groups and sessions.
    pub tasks: TaskTable,
    /// The numbering that no guest sees, above all others.
    pub pid_namespace: Arc<PidNamespace>,
    /// All containers by name.
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Who sleeps on which word of guest memory.
    pub futexes: crate::ipc::futex::Futexes,
    /// Files of the host, whichever mounts show them.
    pub host_files: Arc<crate::fs::hostfs::HostFiles>,
    /// What sockets share.
    pub sockets: crate::net::Sockets,
    /// Which process waits for a file lock of which.
    pub lock_waiters: crate::fs::locks::LockWaiters,
    /// What users have of inotify instances and watches.
    pub inotify: Arc<crate::fs::inotify::Usage>,
    /// Files without names: of `memfd_create(2)` and System V shared memory.
    pub memory_files: Arc<crate::fs::memfs::MemFs>,
    /// Everything that goes off at a set time.
    pub timers: Arc<crate::time::timers::Timers>,
    /// What is shown of the host.
    pub host: HostInfo,
    /// Prints system calls, if wanted.
    pub strace: Option<Strace>,
    /// Whether procfs has the file by which programs tell that they run in gVisor.
    pub gvisor_marker: bool,
    /// Counts calls that are not there.
    pub unimplemented: Unimplemented,
    /// What the log has been told of programs that have ended by a fault.
    pub fault_log: crate::signal::FaultLog,
    /// When the kernel started; `sysinfo(2)` and `/proc/uptime` count from here.
    pub boot: std::time::Instant,
}

impl Kernel {
    /// The release that `uname(2)` reports.
    pub const RELEASE: &'static str = "6.12.0-nacelle";

    /// A kernel without tasks.
    pub fn new(platform: Arc<dyn Platform>, config: Config) -> Arc<Kernel> {
        Arc::new(Kernel {
            platform,
            tasks: TaskTable::default(),
            pid_namespace: PidNamespace::root(),
            containers: Mutex::default(),
            host_files: Arc::default(),
            sockets: crate::net::Sockets::default(),
            lock_waiters: crate::fs::locks::LockWaiters::default(),
            inotify: Arc::default(),
            timers: Arc::default(),
            memory_files: crate::fs::memfs::MemFs::unlimited(),
            futexes: crate::ipc::futex::Futexes::default(),
            host: config.host,
            strace: config.strace,
            gvisor_marker: config.gvisor_marker,
            unimplemented: Unimplemented::default(),
            fault_log: crate::signal::FaultLog::default(),
            boot: std::time::Instant::now(),
        })
    }
}
