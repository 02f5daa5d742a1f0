//! What a [`super::MemFs`] lies over: files of the host, or of an image.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::SysResult;
use abi::fs::OpenFlags;
use gofer::{Listed, Listing};
use rustix::fs::SeekFrom;

use crate::fs::hostfs::{HostInode, read_host, write_host};
use crate::fs::{FileType, Inode, InodeRef, Mappable, erofs};
use crate::user::{UserReader, UserWriter};

/// How much of a file is copied at a time.
const PIECE: usize = 1 << 20;

/// A file that is shown until it is changed.
#[derive(Clone)]
pub enum Lower {
    /// One of the host.
    Host(Arc<HostInode>),
    /// One of an image.
    Image(Arc<erofs::Node>),
}

impl From<Arc<HostInode>> for Lower {
    fn from(file: Arc<HostInode>) -> Lower {
        Lower::Host(file)
    }
}

impl From<Arc<erofs::Node>> for Lower {
    fn from(file: Arc<erofs::Node>) -> Lower {
        Lower::Image(file)
    }
}

impl std::ops::Deref for Lower {
    type Target = dyn Inode;

    fn deref(&self) -> &(dyn Inode + 'static) {
        match self {
            Lower::Host(file) => &**file,
            Lower::Image(file) => &**file,
        }
    }
}

impl Lower {
    /// A directory as what a layer lies over; `None` for other files, and where there can be no layer.
    pub(super) fn below_a_layer(directory: &InodeRef) -> SysResult<Option<Lower>> {
        if directory.file_type() != FileType::Directory {
            return Ok(None);
        }
        if let Some(host) = directory.downcast_ref::<HostInode>() {
            return Ok(Some(Lower::Host(host.below_a_layer()?)));
        }
        let any = Arc::clone(directory) as Arc<dyn std::any::Any + Send + Sync>;
        Ok(any.downcast::<erofs::Node>().ok().map(Lower::Image))
    }

    /// The child called `name`.
    pub(super) fn child(&self, name: &[u8]) -> SysResult<Lower> {
        match self {
            Lower::Host(directory) => directory.child(name).map(Lower::Host),
            Lower::Image(directory) => directory.child(name).map(Lower::Image),
        }
    }

    /// The entries of this directory, without `.` and `..`.
    pub(super) fn list(&self) -> SysResult<Listing> {
        let mut listing = Listing::default();
        match self {
            Lower::Host(directory) => directory.list(&mut listing)?,
            Lower::Image(directory) => {
                for (name, inode, kind) in directory.names()? {
                    listing.push(Listed { inode, kind: kind.mode_bits(), name: &name });
                }
            }
        }
        Ok(listing)
    }

    /// Opens a regular file for reading.
    pub(super) fn open_content(&self) -> SysResult<LowerContent> {
        match self {
            Lower::Host(file) => file.open_host(OpenFlags::empty()).map(LowerContent::Host),
            Lower::Image(file) => Ok(LowerContent::Image(Arc::clone(file))),
        }
    }
}

/// The content of a regular file that is open.
pub(super) enum LowerContent {
    Host(Arc<OwnedFd>),
    Image(Arc<erofs::Node>),
}

impl LowerContent {
    pub fn size(&self) -> SysResult<u64> {
        match self {
            LowerContent::Host(fd) => Ok(rustix::fs::fstat(fd)?.st_size.cast_unsigned()),
            LowerContent::Image(file) => Ok(file.metadata()?.size),
        }
    }

    pub fn read(&self, offset: u64, to: &mut UserWriter<'_>) -> SysResult<usize> {
        match self {
            LowerContent::Host(fd) => read_host(fd, offset, to),
            LowerContent::Image(file) => file.read(offset, to),
        }
    }

    pub fn mappable(&self) -> SysResult<Mappable> {
        match self {
            LowerContent::Host(fd) => Ok(Mappable::Host { fd: Arc::clone(fd), delta: 0 }),
            LowerContent::Image(file) => file.mappable(),
        }
    }

    /// Copies it to an empty file. Holes stay holes.
    pub fn copy_to(&self, file: &Arc<OwnedFd>) -> SysResult<()> {
        match self {
            LowerContent::Host(fd) => copy_data(fd, file, self.size()?),
            LowerContent::Image(image) => image.copy_to(file),
        }
    }
}

/// Copies what is data in the first `size` bytes.
fn copy_data(from: &OwnedFd, to: &Arc<OwnedFd>, size: u64) -> SysResult<()> {
    rustix::fs::ftruncate(to, size)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(rustix::io::Errno::NXIO) => break,
            // Not every file system tells data from holes.
            Err(_) => {}
        }
        let count = rustix::io::pread(from, &mut buffer, at)?;
        if count == 0 {
            break;
        }
        write_host(to, at, &mut UserReader::buffer(&buffer[..count]))?;
        at += count as u64;
    }
    Ok(())
}
