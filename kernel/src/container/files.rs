//! A container's files, for others than its processes.

use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};

use super::Container;
use crate::error::SysError;
use crate::fs::FileType;
use crate::fs::file::{File, Place};
use crate::fs::path::{FsState, Walk, Walker};
use crate::task::Credentials;
use crate::user::UserWriter;

/// The file systems in which files tell of whoever reads them.
const OF_THE_READER: [&str; 2] = ["proc", "cgroup2"];

/// A regular file that is open for reading.
pub struct ReadableFile(Arc<File>);

impl ReadableFile {
    /// At most so many bytes from an offset on; none at the end.
    pub fn read(&self, offset: u64, count: usize) -> SysResult<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.0.ops().read_at(&self.0, offset, &mut UserWriter::buffer(&mut bytes, count));
        read.map_err(SysError::errno)?;
        Ok(bytes)
    }
}

impl Container {
    /// Opens a regular file by its path in the tree of mounts that the container's processes begin with. Links are followed as
    /// its root user would follow them. `EISDIR` for directories, `EINVAL` for what is no regular file, `EOPNOTSUPP` for files that
    /// only a process can read, because they tell of it.
    pub fn open_file(&self, path: &[u8]) -> SysResult<ReadableFile> {
        let credentials = Credentials::new(0, 0);
        let root = self.mounts.root();
        let state =
            FsState { namespace: Arc::clone(&self.mounts), root: root.clone(), cwd: root.clone(), umask: 0 };
        let found = Walker::new(state, &credentials, None, Walk::FOLLOW).walk(root, path);
        let place = found.map_err(SysError::errno)?.place;
        let inode = place.existing()?;
        if OF_THE_READER.contains(&place.mount.file_system.name()) {
            return Err(Errno::EOPNOTSUPP);
        }
        match inode.file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let ops = inode.open(None, OpenFlags::empty()).map_err(SysError::errno)?;
        Ok(ReadableFile(File::new(Place::Path(place), ops, OpenFlags::empty())))
    }
}
