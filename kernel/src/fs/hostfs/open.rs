//! Open files and directories of the host, and what is read from and written to a descriptor of one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use gofer::{Directory, Listed, Listing, Target};
use parking_lot::Mutex;

use super::HostInode;
use crate::error::SyscallResult;
use crate::fs::{AT_END, DirectorySink, File, FileType, Mappable, OpenFile, Whence, direct};
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::Events;

/// Reads at `offset` of a host file.
pub fn read_host(fd: &Arc<OwnedFd>, offset: u64, to: &mut UserWriter<'_>) -> SysResult<usize> {
    to.fill_from(fd, Some(offset))
}

/// Writes at `offset` of a host file.
pub fn write_host(fd: &Arc<OwnedFd>, offset: u64, from: &mut UserReader<'_>) -> SysResult<(usize, u64)> {
    let count = from.drain_to(fd, Some(offset))?;
    Ok((count, offset + count as u64))
}

/// Writes at the end of a host file, wherever others have moved that to meanwhile.
fn append_host(fd: &OwnedFd, from: &mut UserReader<'_>) -> SysResult<(usize, u64)> {
    let count = from.drain(|chunk| {
        let chunk = [std::io::IoSlice::new(chunk)];
        Ok(rustix::io::pwritev2(fd, &chunk, 0, rustix::io::ReadWriteFlags::APPEND)?)
    })?;
    Ok((count, rustix::fs::fstat(fd)?.st_size.cast_unsigned()))
}

/// `lseek(2)` to data or a hole of a host file; other kinds are the caller's.
pub fn seek_host(fd: &OwnedFd, offset: i64, whence: Whence) -> SysResult<Option<u64>> {
    let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    let from = match whence {
        Whence::Data => rustix::fs::SeekFrom::Data(offset),
        Whence::Hole => rustix::fs::SeekFrom::Hole(offset),
        _ => return Ok(None),
    };
    Ok(Some(rustix::fs::seek(fd, from)?))
}

/// An open regular file of the host.
pub(super) struct HostRegular {
    pub fd: Arc<OwnedFd>,
    /// Whether the host's description is this one's alone.
    pub own: bool,
}

impl OpenFile for HostRegular {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        Ok(read_host(&self.fd, offset, to)?)
    }

    fn write_at(&self, file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        let flags = file.flags();
        let written = match offset {
            AT_END => append_host(&self.fd, from)?,
            // The host's description may have come to append, for this file or for the one whose it is.
            _ if (flags.contains(OpenFlags::APPEND) || !self.own)
                && rustix::fs::fcntl_getfl(&self.fd)?.contains(rustix::fs::OFlags::APPEND) =>
            {
                direct::write_exactly(&self.fd, offset, from)?
            }
            _ => write_host(&self.fd, offset, from)?,
        };
        if flags.contains(OpenFlags::DSYNC) {
            rustix::fs::fdatasync(&self.fd)?;
        }
        Ok(written)
    }

    fn seek(&self, file: &File, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        match whence {
            // To look for them moves the host's offset, which may be in use by whose it is.
            Whence::Data | Whence::Hole if self.own => {
                seek_host(&self.fd, offset, whence)?.ok_or(Errno::EINVAL)
            }
            _ => file.seek_default(current, offset, whence),
        }
    }

    fn readiness(&self, _file: &File) -> Events {
        Events::READABLE | Events::WRITABLE
    }

    fn own_description(&self) -> Option<&Arc<OwnedFd>> {
        self.own.then_some(&self.fd)
    }

    fn map(&self, _file: &File, _shared: bool, _writable: bool) -> SysResult<Mappable> {
        Ok(Mappable::Host { fd: Arc::clone(&self.fd), delta: 0 })
    }

    fn sync(&self) -> SysResult<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&self.fd, mode, offset, length)?)
    }
}

/// An open directory of the host.
pub(super) struct HostDirectory {
    pub inode: Arc<HostInode>,
    /// Kept open, so that it can be listed after its name is gone.
    pub directory: Arc<Directory>,
    pub names: Mutex<Listing>,
}

impl OpenFile for HostDirectory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let mut names = self.names.lock();
        if position == 0 {
            names.clear();
            let own = self.inode.identity.inode;
            for name in [&b"."[..], b".."] {
                names.push(Listed { inode: own, kind: abi::fs::S_IFDIR, name });
            }
            self.inode.list(&mut names)?;
        }
        list_from(&names, position, sink);
        Ok(())
    }

    fn sync(&self) -> SysResult<()> {
        self.directory.sync(Target::Itself)
    }
}

/// Gives the entries of a listing from `position` on to `sink`; an entry's position is its index.
pub fn list_from(names: &Listing, position: u64, sink: &mut DirectorySink<'_>) {
    let entry = |Listed { inode, kind, name }| (name, inode, FileType::from_mode(kind));
    give(names.iter_from(index_of(position)).map(entry), position, sink);
}

/// [`list_from`] of entries that are not in a listing.
pub fn list(names: &[(Vec<u8>, u64, FileType)], position: u64, sink: &mut DirectorySink<'_>) {
    let entries = names.iter().skip(index_of(position));
    give(entries.map(|(name, inode, kind)| (name.as_slice(), *inode, *kind)), position, sink);
}

fn index_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Gives entries to `sink` until it wants no more. The first has the position `first`.
#[inline]
fn give<'a>(
    entries: impl Iterator<Item = (&'a [u8], u64, FileType)>,
    first: u64,
    sink: &mut DirectorySink<'_>,
) {
    for ((name, inode, kind), next) in entries.zip(first.saturating_add(1)..) {
        if !sink(name, inode, kind, next) {
            break;
        }
    }
}
