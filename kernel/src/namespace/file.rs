//! Namespaces as files: `/proc/PID/ns/*`, `ioctl_ns(2)`, `setns(2)`.

use std::any::Any;
use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};

use super::{
    CgroupNamespace, IpcNamespace, NamespaceId, NamespaceKind, NetworkNamespace, PidNamespace, UserNamespace,
    UtsNamespace,
};
use crate::error::SyscallResult;
use crate::fs::mount::MountNamespace;
use crate::fs::{File, FileType, Inode, InodeCommon, InodeRef, Metadata, OpenFile};
use crate::task::clone::CloneFlags;
use crate::task::{CurrentTask, Task};
use crate::user::UserPtr;

/// A namespace of any kind.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names are those of namespaces(7)")]
pub enum AnyNamespace {
    Cgroup(Arc<CgroupNamespace>),
    Ipc(Arc<IpcNamespace>),
    Mount(Arc<MountNamespace>),
    Network(Arc<NetworkNamespace>),
    Pid(Arc<PidNamespace>),
    User(Arc<UserNamespace>),
    Uts(Arc<UtsNamespace>),
}

impl AnyNamespace {
    /// The namespace that `name` in `/proc/PID/ns` stands for.
    pub fn of_task(task: &Task, name: &str) -> Option<AnyNamespace> {
        let own = task.namespaces();
        Some(match name {
            "cgroup" => AnyNamespace::Cgroup(Arc::clone(&own.cgroup)),
            "ipc" => AnyNamespace::Ipc(Arc::clone(&own.ipc)),
            "mnt" => AnyNamespace::Mount(Arc::clone(&task.fs_state().namespace)),
            "net" => AnyNamespace::Network(Arc::clone(&own.network)),
            "pid" => AnyNamespace::Pid(Arc::clone(&task.group.pid_namespace)),
            "pid_for_children" => AnyNamespace::Pid(Arc::clone(&own.pid_for_children)),
            "user" => AnyNamespace::User(Arc::clone(&task.credentials().user_namespace)),
            "uts" => AnyNamespace::Uts(Arc::clone(&own.uts)),
            _ => return None,
        })
    }

    /// Its number.
    pub fn id(&self) -> NamespaceId {
        match self {
            AnyNamespace::Cgroup(namespace) => namespace.id,
            AnyNamespace::Ipc(namespace) => namespace.id,
            AnyNamespace::Mount(namespace) => namespace.id,
            AnyNamespace::Network(namespace) => namespace.id,
            AnyNamespace::Pid(namespace) => namespace.id,
            AnyNamespace::User(namespace) => namespace.id,
            AnyNamespace::Uts(namespace) => namespace.id,
        }
    }

    /// The user namespace that has a say in it; of one of users, the namespace above, or itself if there is none.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        match self {
            AnyNamespace::Cgroup(namespace) => &namespace.owner,
            AnyNamespace::Ipc(namespace) => &namespace.owner,
            AnyNamespace::Mount(namespace) => &namespace.owner,
            AnyNamespace::Network(namespace) => &namespace.owner,
            AnyNamespace::Pid(namespace) => &namespace.owner,
            AnyNamespace::User(namespace) => namespace.parent.as_ref().unwrap_or(namespace),
            AnyNamespace::Uts(namespace) => &namespace.owner,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> NamespaceKind {
        match self {
            AnyNamespace::Cgroup(_) => NamespaceKind::Cgroup,
            AnyNamespace::Ipc(_) => NamespaceKind::Ipc,
            AnyNamespace::Mount(_) => NamespaceKind::Mount,
            AnyNamespace::Network(_) => NamespaceKind::Network,
            AnyNamespace::Pid(_) => NamespaceKind::Pid,
            AnyNamespace::User(_) => NamespaceKind::User,
            AnyNamespace::Uts(_) => NamespaceKind::Uts,
        }
    }

    /// What its link in `/proc/PID/ns` says.
    pub fn name(&self) -> String {
        format!("{}:[{}]", self.kind().name(), self.id().0)
    }

    /// An inode that stands for it.
    pub fn inode(self) -> InodeRef {
        Arc::new(NamespaceInode { common: InodeCommon::new(), namespace: self })
    }
}

impl NamespaceKind {
    /// The name in `/proc/PID/ns`.
    pub fn name(self) -> &'static str {
        match self {
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Network => "net",
            NamespaceKind::Pid => "pid",
            NamespaceKind::User => "user",
            NamespaceKind::Uts => "uts",
        }
    }

    /// The flag by which `clone(2)` and `setns(2)` know it.
    pub fn flag(self) -> CloneFlags {
        match self {
            NamespaceKind::Cgroup => CloneFlags::NEWCGROUP,
            NamespaceKind::Ipc => CloneFlags::NEWIPC,
            NamespaceKind::Mount => CloneFlags::NEWNS,
            NamespaceKind::Network => CloneFlags::NEWNET,
            NamespaceKind::Pid => CloneFlags::NEWPID,
            NamespaceKind::User => CloneFlags::NEWUSER,
            NamespaceKind::Uts => CloneFlags::NEWUTS,
        }
    }
}

struct NamespaceInode {
    common: InodeCommon,
    namespace: AnyNamespace,
}

impl Inode for NamespaceInode {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        FileType::Regular
    }

    fn metadata(&self) -> SysResult<Metadata> {
        Ok(Metadata {
            device: crate::fs::unnamed_device(4),
            inode: self.namespace.id().0,
            mode: FileType::Regular.mode_bits() | 0o444,
            links: 1,
            block_size: 4096,
            ..Metadata::default()
        })
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        if flags.writable() {
            return Err(Errno::EPERM.into());
        }
        Ok(Arc::new(NamespaceFile(self.namespace.clone())))
    }
}

struct NamespaceFile(AnyNamespace);

impl OpenFile for NamespaceFile {
    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, argument: u64) -> SyscallResult {
        const GET_USERNS: u32 = 0xb701;
        const GET_PARENT: u32 = 0xb702;
        const GET_NSTYPE: u32 = 0xb703;
        const GET_OWNER_UID: u32 = 0xb704;
        let credentials = task.credentials();
        let install = |namespace: AnyNamespace| -> SyscallResult {
            let name = namespace.name();
            let file = File::anonymous(name, Arc::new(NamespaceFile(namespace)), OpenFlags::empty());
            Ok(u64::from(task.install(file, true)?.0.cast_unsigned()))
        };
        match (request, &self.0) {
            (GET_NSTYPE, namespace) => Ok(namespace.kind().flag().bits()),
            // What lies above the caller's own is not for its eyes.
            (GET_PARENT, AnyNamespace::Pid(namespace)) => {
                let parent = namespace.parent.as_ref().filter(|parent| task.group.pid_namespace.sees(parent));
                install(AnyNamespace::Pid(Arc::clone(parent.ok_or(Errno::EPERM)?)))
            }
            (GET_PARENT | GET_USERNS, AnyNamespace::User(namespace)) => {
                let parent = namespace.parent.as_ref();
                let parent = parent.filter(|parent| credentials.user_namespace.contains(parent));
                install(AnyNamespace::User(Arc::clone(parent.ok_or(Errno::EPERM)?)))
            }
            (GET_PARENT, _) => Err(Errno::EINVAL.into()),
            (GET_USERNS, namespace) => {
                let owner = namespace.owner();
                if !credentials.user_namespace.contains(owner) {
                    return Err(Errno::EPERM.into());
                }
                install(AnyNamespace::User(Arc::clone(owner)))
            }
            (GET_OWNER_UID, AnyNamespace::User(namespace)) => {
                let uid = credentials.shown_uid(namespace.owner.0);
                task.write_object(UserPtr::new(argument), &uid)?;
                Ok(0)
            }
            (GET_OWNER_UID, _) => Err(Errno::EINVAL.into()),
            _ => Err(Errno::ENOTTY.into()),
        }
    }
}

/// The namespace that an inode stands for.
pub fn of_inode(inode: &InodeRef) -> Option<AnyNamespace> {
    let inode: &dyn Any = &**inode;
    inode.downcast_ref::<NamespaceInode>().map(|inode| inode.namespace.clone())
}

/// The namespace that an open file stands for.
pub fn of_file(file: &File) -> Option<AnyNamespace> {
    let ops: &dyn Any = &**file.ops();
    ops.downcast_ref::<NamespaceFile>().map(|file| file.0.clone())
}
