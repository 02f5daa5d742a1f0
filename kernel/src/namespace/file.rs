//! Namespaces as files: `/proc/PID/ns/*`, `ioctl_ns(2)`, `setns(2)`.

use std::any::Any;
use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};

use super::{
    CgroupNamespace, IpcNamespace, NamespaceId, NamespaceKind, NetworkNamespace, PidNamespace, UtsNamespace,
};
use crate::error::SyscallResult;
use crate::fs::mount::MountNamespace;
use crate::fs::{File, FileType, Inode, InodeCommon, InodeRef, Metadata, OpenFile};
use crate::task::clone::CloneFlags;
use crate::task::{CurrentTask, Task};

/// A namespace of any kind.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names are those of namespaces(7)")]
pub enum AnyNamespace {
    Cgroup(Arc<CgroupNamespace>),
    Ipc(Arc<IpcNamespace>),
    Mount(Arc<MountNamespace>),
    Network(Arc<NetworkNamespace>),
    Pid(Arc<PidNamespace>),
    Uts(Arc<UtsNamespace>),
}

impl AnyNamespace {
    /// The namespace that `name` in `/proc/PID/ns` stands for.
    pub fn of_task(task: &Task, name: &str) -> Option<AnyNamespace> {
        let own = task.namespaces();
        Some(match name {
            "cgroup" => AnyNamespace::Cgroup(Arc::clone(&own.cgroup)),
            "ipc" => AnyNamespace::Ipc(Arc::clone(&own.ipc)),
            "mnt" => AnyNamespace::Mount(task.fs().get().namespace),
            "net" => AnyNamespace::Network(Arc::clone(&own.network)),
            "pid" => AnyNamespace::Pid(Arc::clone(&task.group.pid_namespace)),
            "pid_for_children" => AnyNamespace::Pid(Arc::clone(&own.pid_for_children)),
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
            AnyNamespace::Uts(namespace) => namespace.id,
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
            device: abi::fs::make_device(0, 4),
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
    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, _argument: u64) -> SyscallResult {
        const GET_USERNS: u32 = 0xb701;
        const GET_PARENT: u32 = 0xb702;
        const GET_NSTYPE: u32 = 0xb703;
        match request {
            GET_NSTYPE => Ok(self.0.kind().flag().bits()),
            GET_PARENT => match &self.0 {
                AnyNamespace::Pid(namespace) => {
                    // One above the caller's own is not for its eyes.
                    let parent = namespace.parent.as_ref().ok_or(Errno::EPERM)?;
                    if !task.group.pid_namespace.sees(parent) {
                        return Err(Errno::EPERM.into());
                    }
                    let name = AnyNamespace::Pid(Arc::clone(parent)).name();
                    let ops = Arc::new(NamespaceFile(AnyNamespace::Pid(Arc::clone(parent))));
                    let file = File::anonymous(name, ops, OpenFlags::empty());
                    Ok(u64::from(task.install(file, true)?.0.cast_unsigned()))
                }
                _ => Err(Errno::EINVAL.into()),
            },
            // All are owned by the one user namespace above everybody.
            GET_USERNS => Err(Errno::EPERM.into()),
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
