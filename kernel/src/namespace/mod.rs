//! Namespaces, `namespaces(7)`: what groups of tasks see as their own.
//!
//! [`Namespaces`] is a task's set of them, shared by all that were not told apart (`nsproxy` in Linux). The mount
//! namespace is not in it, because a task has it with its root directory ([`crate::fs::path::FsState`]).
//! [`PidNamespace`] numbers tasks; [`UtsNamespace`] holds names; [`IpcNamespace`] is where System V objects and POSIX
//! message queues hang; [`NetworkNamespace`] and [`CgroupNamespace`] so far only tell groups of tasks apart.
//!
//! Locks here are leaves: nothing else is locked while one is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

mod file;
mod pid;
pub mod syscalls;
pub mod user;

pub use file::{AnyNamespace, of_file, of_inode};
pub use pid::PidNamespace;
pub use user::UserNamespace;

/// The inode number by which a namespace is known, `/proc/PID/ns/*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId(pub u64);

impl NamespaceId {
    /// A number that no other namespace of any kernel in this process has.
    pub fn allocate() -> NamespaceId {
        static NEXT: AtomicU64 = AtomicU64::new(0xf000_0000);
        NamespaceId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The kinds of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of namespaces(7)")]
pub enum NamespaceKind {
    Cgroup,
    Ipc,
    Mount,
    Network,
    Pid,
    User,
    Uts,
}

/// Host name and domain name, `uts_namespaces(7)`.
pub struct UtsNamespace {
    /// Its number.
    pub id: NamespaceId,
    /// Who has a say in it.
    pub owner: Arc<UserNamespace>,
    names: RwLock<UtsNames>,
}

/// The names that a UTS namespace separates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UtsNames {
    /// The node name.
    pub hostname: Vec<u8>,
    /// The NIS domain name.
    pub domainname: Vec<u8>,
}

impl UtsNamespace {
    /// A namespace with these names.
    pub fn new(names: UtsNames, owner: &Arc<UserNamespace>) -> Arc<UtsNamespace> {
        let owner = Arc::clone(owner);
        Arc::new(UtsNamespace { id: NamespaceId::allocate(), owner, names: RwLock::new(names) })
    }

    /// The names.
    pub fn names(&self) -> UtsNames {
        self.names.read().clone()
    }

    /// Changes the names.
    pub fn update(&self, change: impl FnOnce(&mut UtsNames)) {
        change(&mut self.names.write());
    }
}

/// What `ipc_namespaces(7)` separates: System V objects and POSIX message queues.
pub struct IpcNamespace {
    /// Its number.
    pub id: NamespaceId,
    /// Who has a say in it.
    pub owner: Arc<UserNamespace>,
    /// System V shared memory, semaphores and message queues.
    pub sysv: crate::ipc::sysv::SystemV,
    /// POSIX message queues.
    pub mqueue: Arc<crate::ipc::mqueue::MqueueFs>,
}

impl IpcNamespace {
    /// A namespace without objects.
    pub fn new(owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace {
            id: NamespaceId::allocate(),
            owner: Arc::clone(owner),
            sysv: crate::ipc::sysv::SystemV::default(),
            mqueue: crate::ipc::mqueue::MqueueFs::new(),
        })
    }
}

/// What `network_namespaces(7)` separates.
pub struct NetworkNamespace {
    /// Its number.
    pub id: NamespaceId,
    /// Who has a say in it.
    pub owner: Arc<UserNamespace>,
}

impl NetworkNamespace {
    /// A namespace without devices.
    pub fn new(owner: &Arc<UserNamespace>) -> Arc<NetworkNamespace> {
        Arc::new(NetworkNamespace { id: NamespaceId::allocate(), owner: Arc::clone(owner) })
    }
}

/// What `cgroup_namespaces(7)` separates: a root of the view of cgroups.
pub struct CgroupNamespace {
    /// Its number.
    pub id: NamespaceId,
    /// Who has a say in it.
    pub owner: Arc<UserNamespace>,
}

impl CgroupNamespace {
    /// A namespace whose root is the container's own cgroup.
    pub fn new(owner: &Arc<UserNamespace>) -> Arc<CgroupNamespace> {
        Arc::new(CgroupNamespace { id: NamespaceId::allocate(), owner: Arc::clone(owner) })
    }
}

/// A task's namespaces but for the mount namespace. Immutable; a change makes a new set.
#[derive(Clone)]
pub struct Namespaces {
    /// Where its children get their numbers; its own are those of [`crate::task::ThreadGroup::pid_namespace`].
    pub pid_for_children: Arc<PidNamespace>,
    /// Names.
    pub uts: Arc<UtsNamespace>,
    /// System V objects and message queues.
    pub ipc: Arc<IpcNamespace>,
    /// Network.
    pub network: Arc<NetworkNamespace>,
    /// The view of cgroups.
    pub cgroup: Arc<CgroupNamespace>,
}

/// Where a container's namespace of one kind comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// One of its own.
    #[default]
    New,
    /// That of the container with this id.
    OfContainer(String),
}
