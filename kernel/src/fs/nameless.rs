//! [`NamelessInode`]: the inode of a pipe or a socket, which no directory has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};

use super::{FileType, Inode, InodeCommon, Metadata, OpenFile, SetAttributes, unnamed_device};
use crate::error::SyscallResult;
use crate::task::CurrentTask;

/// What `fstat(2)` sees of a pipe or a socket, and what `/proc/PID/fd/N` leads to.
pub struct NamelessInode {
    common: InodeCommon,
    kind: FileType,
    device: u64,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
}

impl NamelessInode {
    /// An inode of the file system with this number that belongs to a user and a group.
    pub fn new(
        common: InodeCommon,
        kind: FileType,
        file_system: u32,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Arc<NamelessInode> {
        let device = unnamed_device(file_system);
        Arc::new(NamelessInode { common, kind, device, mode: mode.into(), uid: uid.into(), gid: gid.into() })
    }

    /// The permission bits.
    pub fn permissions(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }
}

impl Inode for NamelessInode {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> SysResult<Metadata> {
        Ok(Metadata {
            device: self.device,
            inode: self.common.id,
            mode: self.kind.mode_bits() | self.permissions(),
            uid: self.uid.load(Ordering::Relaxed),
            gid: self.gid.load(Ordering::Relaxed),
            links: 1,
            block_size: 4096,
            ..Metadata::default()
        })
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        if attributes.size.is_some() {
            return Err(Errno::EINVAL);
        }
        let changes =
            [(&self.mode, attributes.mode), (&self.uid, attributes.uid), (&self.gid, attributes.gid)];
        for (field, value) in changes {
            if let Some(value) = value {
                field.store(value, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Sockets cannot be opened; pipes are, like all FIFOs, through [`crate::ipc::pipe::open_fifo`].
    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        _flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        Err(Errno::ENXIO.into())
    }
}
