//! A container's files, for others than its processes.

use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};

use super::Container;
use crate::error::SysError;
use crate::fs::FileType;
use crate::fs::cgroup;
use crate::fs::file::{File, Place};
use crate::fs::path::{FsState, Walk, Walker};
use crate::task::Credentials;
use crate::user::UserWriter;

/// A regular file that is open for reading.
pub enum ReadableFile {
    /// One of a file system.
    Open(Arc<File>),
    /// What one of the container's control group says.
    Text(String),
}

impl ReadableFile {
    /// At most so many bytes from an offset on; none at the end.
    pub fn read(&self, offset: u64, count: usize) -> SysResult<Vec<u8>> {
        match self {
            ReadableFile::Open(file) => {
                let mut bytes = Vec::new();
                let read = file.ops().read_at(file, offset, &mut UserWriter::buffer(&mut bytes, count));
                read.map_err(SysError::errno)?;
                Ok(bytes)
            }
            ReadableFile::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(text.bytes().skip(start).take(count).collect())
            }
        }
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
        let found = Walker::new(&state, &credentials, None, Walk::FOLLOW).walk(&root, path);
        let place = found.map_err(SysError::errno)?.place;
        let inode = place.existing()?;
        // Files there tell of whoever reads them.
        if place.mount.file_system.name() == "proc" {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(text) = cgroup::text_outside(inode, self, &*self.kernel()?) {
            return Ok(ReadableFile::Text(text));
        }
        match inode.file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let ops = Arc::clone(inode).open(None, OpenFlags::empty()).map_err(SysError::errno)?;
        Ok(ReadableFile::Open(File::new(Place::Path(place), ops, OpenFlags::empty())))
    }
}
