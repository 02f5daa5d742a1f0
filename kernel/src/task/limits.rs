//! Resource limits, `getrlimit(2)`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No limit (`RLIM_INFINITY`).
pub const INFINITY: u64 = u64::MAX;

/// A resource that is limited, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of getrlimit(2)")]
#[repr(usize)]
pub enum Resource {
    Cpu = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    ResidentSet = 5,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    Locks = 10,
    PendingSignals = 11,
    MessageQueue = 12,
    Nice = 13,
    RealtimePriority = 14,
    RealtimeTime = 15,
}

impl Resource {
    /// All, in the order of their numbers, with the names that `/proc/PID/limits` and OCI (`RLIMIT_` before) use.
    pub const ALL: [(Resource, &'static str); 16] = [
        (Resource::Cpu, "CPU"),
        (Resource::FileSize, "FSIZE"),
        (Resource::Data, "DATA"),
        (Resource::Stack, "STACK"),
        (Resource::Core, "CORE"),
        (Resource::ResidentSet, "RSS"),
        (Resource::Processes, "NPROC"),
        (Resource::OpenFiles, "NOFILE"),
        (Resource::LockedMemory, "MEMLOCK"),
        (Resource::AddressSpace, "AS"),
        (Resource::Locks, "LOCKS"),
        (Resource::PendingSignals, "SIGPENDING"),
        (Resource::MessageQueue, "MSGQUEUE"),
        (Resource::Nice, "NICE"),
        (Resource::RealtimePriority, "RTPRIO"),
        (Resource::RealtimeTime, "RTTIME"),
    ];

    /// The resource with this number.
    pub fn from_raw(number: u32) -> Option<Resource> {
        Self::ALL.get(number as usize).map(|(resource, _)| *resource)
    }
}

/// `struct rlimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limit {
    /// The soft limit, which is enforced.
    pub current: u64,
    /// The hard limit, up to which the soft one can be raised.
    pub maximum: u64,
}

/// The limits of a thread group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits([Limit; 16]);

impl Default for Limits {
    /// What Linux gives to init.
    fn default() -> Limits {
        let none = Limit { current: INFINITY, maximum: INFINITY };
        let mut limits = Limits([none; 16]);
        limits.set(Resource::Stack, Limit { current: 8 << 20, maximum: INFINITY });
        limits.set(Resource::Core, Limit { current: 0, maximum: INFINITY });
        limits.set(Resource::OpenFiles, Limit { current: 1024, maximum: 1 << 20 });
        limits.set(Resource::LockedMemory, Limit { current: 8 << 20, maximum: 8 << 20 });
        limits.set(Resource::MessageQueue, Limit { current: 819_200, maximum: 819_200 });
        limits.set(Resource::Nice, Limit { current: 0, maximum: 0 });
        limits.set(Resource::RealtimePriority, Limit { current: 0, maximum: 0 });
        limits
    }
}

impl Limits {
    /// The limit of a resource.
    pub fn get(&self, resource: Resource) -> Limit {
        self.0[resource as usize]
    }

    /// Sets the limit of a resource.
    pub fn set(&mut self, resource: Resource, limit: Limit) {
        self.0[resource as usize] = limit;
    }
}

/// What a task gets that wants a file to become larger than it may: `EFBIG`, after SIGXFSZ.
pub fn file_too_large(task: &super::CurrentTask) -> crate::error::SysError {
    let info = abi::signal::SigInfo::new(abi::signal::Signal::SIGXFSZ, abi::signal::SI_KERNEL);
    crate::signal::send_to_task(&task.kernel, &task.task, info);
    abi::Errno::EFBIG.into()
}
