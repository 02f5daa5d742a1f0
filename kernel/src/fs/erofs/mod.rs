//! EROFS images of the host as read-only file systems.
//!
//! An image is a file that has been opened outside; whoever has made it may be hostile. What is read of it is checked
//! where it is read ([`image`]), and nothing of it is kept but what a file in use is like. Directories are looked up by
//! binary search ([`directory`]), each in one place of the tree only: its `..` has to be the directory that it is found
//! in, so no image can make a directory its own ancestor.
//!
//! The image's descriptor never leaves this process: whoever may read one file of it could read them all, and a mapping would go
//! on behind its file's end. What is mapped is copied to memory instead; some of the last copies are kept.
//!
//! Locks: the tables in `Shared` and a node's copy are each held alone.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::hash::Keyed;
use super::hostfs::write_host;
use super::memory_files::{self, Purpose};
use super::{
    DirectorySink, File, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Mappable,
    Metadata, NewFile, OpenFile, RenameMode, SetAttributes, XattrMode,
};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};

mod directory;
mod image;
#[cfg(test)]
mod tests;
mod xattr;

pub use image::Error;
use image::{DAMAGED, Image, MAGIC, Record};

/// The most bytes of copies that are kept though nobody may use them.
const MAX_COPIES: u64 = 64 << 20;
/// The largest directory whose names are all listed at once, for a layer over it.
const MAX_LISTED: u64 = 256 << 20;
/// The longest target of a symbolic link.
const MAX_TARGET: u64 = 4095;
/// How much more of a file than the whole image has is copied: its pieces may be those of others, too.
const MAX_REPEATED: u64 = 1 << 30;
/// How much is copied at a time.
const PIECE: u64 = 1 << 20;
/// Positions in a directory: the block, and the entry in it, of which there are fewer than `1 << POSITION_BITS`.
const POSITION_BITS: u32 = 13;

/// A mounted image.
pub struct ErofsFs {
    root: Arc<Node>,
}

struct Shared {
    image: Image,
    device: u64,
    /// Nodes in use, so that two names of a file are one.
    known: Mutex<HashMap<u64, Weak<Node>, Keyed>>,
    copies: Mutex<Copies>,
}

/// Copies of files that were mapped last, with their sizes, the oldest first.
#[derive(Default)]
struct Copies {
    kept: VecDeque<(Arc<OwnedFd>, u64)>,
    bytes: u64,
}

impl ErofsFs {
    /// The file system of an image.
    ///
    /// # Errors
    /// If it is none, damaged, or has what is not supported.
    pub fn new(image: OwnedFd) -> Result<Arc<ErofsFs>, Error> {
        let image = Image::open(image)?;
        let root = image.root;
        let device = super::next_unnamed_device();
        let shared = Arc::new(Shared { image, device, known: Mutex::default(), copies: Mutex::default() });
        let root = shared.node(root).map_err(|_| Error::Damaged("it has no usable root directory"))?;
        if root.record.kind != FileType::Directory {
            return Err(Error::Damaged("its root is no directory"));
        }
        Ok(Arc::new(ErofsFs { root }))
    }

    /// Its root as the node that it is.
    pub fn root_node(&self) -> Arc<Node> {
        Arc::clone(&self.root)
    }
}

impl FileSystem for ErofsFs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        let image = &self.root.shared.image;
        Ok(FsStatistics {
            magic: MAGIC.into(),
            block_size: image.block_size(),
            blocks: image.blocks,
            files: image.files,
            name_length: 255,
            ..FsStatistics::default()
        })
    }

    fn device(&self) -> u64 {
        self.root.shared.device
    }
}

impl Shared {
    /// The file with this number.
    fn node(self: &Arc<Shared>, number: u64) -> SysResult<Arc<Node>> {
        let known = |table: &HashMap<u64, Weak<Node>, Keyed>| table.get(&number).and_then(Weak::upgrade);
        if let Some(node) = known(&self.known.lock()) {
            return Ok(node);
        }
        let record = self.image.inode(number)?;
        let node = Arc::new(Node {
            common: InodeCommon::new(),
            shared: Arc::clone(self),
            record,
            copy: Mutex::default(),
        });
        let mut table = self.known.lock();
        // Somebody else may have been faster.
        if let Some(first) = known(&table) {
            drop(table);
            return Ok(first);
        }
        table.insert(number, Arc::downgrade(&node));
        Ok(node)
    }

    /// Keeps a copy that others may map soon.
    fn keep(&self, copy: &Arc<OwnedFd>, size: u64) {
        if size > MAX_COPIES {
            return;
        }
        let mut gone = Vec::new();
        let mut copies = self.copies.lock();
        copies.kept.push_back((Arc::clone(copy), size));
        copies.bytes += size;
        while copies.bytes > MAX_COPIES
            && let Some((oldest, size)) = copies.kept.pop_front()
        {
            copies.bytes -= size;
            gone.push(oldest);
        }
        drop(copies);
        drop(gone);
    }
}

/// A file of an image.
pub struct Node {
    common: InodeCommon,
    shared: Arc<Shared>,
    record: Record,
    /// The copy that is mapped, if there is one.
    copy: Mutex<Weak<OwnedFd>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut known = self.shared.known.lock();
        // Unless there is another by now.
        let number = self.number();
        if known.get(&number).is_some_and(|node| node.strong_count() == 0) {
            known.remove(&number);
        }
    }
}

impl Node {
    fn number(&self) -> u64 {
        self.record.metadata.inode
    }

    fn check_directory(&self) -> SysResult<()> {
        if self.record.kind == FileType::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
    }

    /// The child called `name`.
    pub fn child(&self, name: &[u8]) -> SysResult<Arc<Node>> {
        self.check_directory()?;
        let image = &self.shared.image;
        let number = directory::find(image, &self.record, name)?.ok_or(Errno::ENOENT)?;
        let child = self.shared.node(number)?;
        let up = |child: &Node| directory::find(image, &child.record, b"..");
        if child.record.kind == FileType::Directory
            && (number == image.root || up(&child)? != Some(self.number()))
        {
            return Err(DAMAGED);
        }
        Ok(child)
    }

    /// The names in this directory with their numbers and types, without `.` and `..`.
    pub fn names(&self) -> SysResult<Vec<(Vec<u8>, u64, FileType)>> {
        self.check_directory()?;
        if self.record.metadata.size > MAX_LISTED {
            return Err(Errno::EOVERFLOW);
        }
        let mut names = Vec::new();
        for index in 0..directory::blocks(&self.shared.image, &self.record) {
            let block = directory::Block::read(&self.shared.image, &self.record, index)?;
            for index in 0..block.count() {
                let (name, number, kind) = block.entry(index)?;
                if !matches!(name, b"." | b"..") {
                    names.push((name.to_vec(), number, kind));
                }
            }
        }
        Ok(names)
    }

    /// Reads from an offset of a regular file.
    pub fn read(&self, mut offset: u64, to: &mut UserWriter<'_>) -> SysResult<usize> {
        let (image, record) = (&self.shared.image, &self.record);
        if offset >= record.metadata.size {
            return Ok(0);
        }
        to.fill(|piece| {
            let count = image.read_file(record, offset, piece)?;
            offset += count as u64;
            Ok(count)
        })
    }

    /// Copies the content to an empty file, with its holes. One in which the same pieces come
    /// again and again is refused: it could be endless.
    pub fn copy_to(&self, file: &Arc<OwnedFd>) -> SysResult<()> {
        let (image, size) = (&self.shared.image, self.record.metadata.size);
        rustix::fs::ftruncate(file, size)?;
        let mut buffer = Vec::new();
        let (mut offset, mut taken) = (0, 0);
        while offset < size {
            let extent = image.extent(&self.record, offset)?;
            let length = if extent.at.is_some() { extent.length.min(PIECE) } else { extent.length };
            if let Some(at) = extent.at {
                taken += length;
                if taken > image.size() + MAX_REPEATED {
                    return Err(Errno::ENOMEM);
                }
                buffer.resize(length as usize, 0);
                image.read(at, &mut buffer)?;
                write_host(file, offset, &mut UserReader::buffer(&buffer))?;
            }
            offset += length;
        }
        Ok(())
    }

    /// What guests map of a regular file.
    pub fn mappable(&self) -> SysResult<Mappable> {
        if let Some(fd) = self.copy.lock().upgrade() {
            return Ok(Mappable::Host { fd, delta: 0 });
        }
        let fd = memory_files::create(Purpose::Copy)?;
        self.copy_to(&fd)?;
        *self.copy.lock() = Arc::downgrade(&fd);
        self.shared.keep(&fd, self.record.metadata.size);
        Ok(Mappable::Host { fd, delta: 0 })
    }
}

impl Inode for Node {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        self.record.kind
    }

    fn metadata(&self) -> SysResult<Metadata> {
        Ok(Metadata { device: self.shared.device, ..self.record.metadata })
    }

    fn set_attributes(&self, _attributes: &SetAttributes) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        Ok(self.child(name)? as InodeRef)
    }

    fn create(self: Arc<Self>, _name: &[u8], _new: &NewFile) -> SysResult<InodeRef> {
        Err(Errno::EROFS)
    }

    fn create_unnamed(&self, _new: &NewFile) -> SysResult<InodeRef> {
        Err(Errno::EROFS)
    }

    fn link(&self, _name: &[u8], _target: &InodeRef) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    fn unlink(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    fn rmdir(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    fn rename(
        self: Arc<Self>,
        _name: &[u8],
        _parent: &InodeRef,
        _new_name: &[u8],
        _mode: RenameMode,
    ) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    fn readlink(&self, _task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        if self.record.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let size = self.record.metadata.size;
        if size == 0 || size > MAX_TARGET {
            return Err(DAMAGED);
        }
        let mut target = vec![0; size as usize];
        self.shared.image.read_file(&self.record, 0, &mut target)?;
        if target.contains(&0) { Err(DAMAGED) } else { Ok(target) }
    }

    fn open(
        self: Arc<Self>,
        task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match self.record.kind {
            FileType::Regular if flags.writable() => Err(Errno::EROFS.into()),
            FileType::Regular => Ok(Arc::new(OpenRegular(self))),
            FileType::Directory => Ok(Arc::new(OpenDirectory(self))),
            FileType::Symlink => Err(Errno::ELOOP.into()),
            FileType::CharDevice => super::devices::open(task, self.record.metadata.rdev),
            _ => Err(Errno::ENXIO.into()),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        let mut found = None;
        xattr::each(&self.shared.image, &self.record, |known, value| {
            let same = known == name;
            if same {
                found = Some(value.to_vec());
            }
            !same
        })?;
        found.ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, _name: &[u8], _value: &[u8], _mode: XattrMode) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        xattr::each(&self.shared.image, &self.record, |name, _| {
            names.push(name);
            true
        })?;
        Ok(names)
    }

    fn remove_xattr(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EROFS)
    }
}

struct OpenRegular(Arc<Node>);

impl OpenFile for OpenRegular {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        Ok(self.0.read(offset, to)?)
    }

    fn map(&self, _file: &File, _shared: bool, _writable: bool) -> SysResult<Mappable> {
        self.0.mappable()
    }

    fn sync(&self) -> SysResult<()> {
        Ok(())
    }
}

struct OpenDirectory(Arc<Node>);

impl OpenDirectory {
    /// Lists from a position on; says whether it has listed anything when it fails.
    fn list(&self, position: u64, sink: &mut DirectorySink<'_>, listed: &mut bool) -> SysResult<()> {
        let Node { shared, record, .. } = &*self.0;
        let mut first = (position & ((1 << POSITION_BITS) - 1)) as usize;
        for index in position >> POSITION_BITS..directory::blocks(&shared.image, record) {
            let block = directory::Block::read(&shared.image, record, index)?;
            for entry in first..block.count() {
                let (name, number, kind) = block.entry(entry)?;
                let next = if entry + 1 < block.count() {
                    index << POSITION_BITS | (entry as u64 + 1)
                } else {
                    (index + 1) << POSITION_BITS
                };
                if !sink(name, number, kind, next) {
                    return Ok(());
                }
                *listed = true;
            }
            first = 0;
        }
        Ok(())
    }
}

impl OpenFile for OpenDirectory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let mut listed = false;
        let result = self.list(position, sink, &mut listed);
        // What is damaged is said by the next call.
        if listed { Ok(()) } else { result }
    }

    fn sync(&self) -> SysResult<()> {
        Ok(())
    }
}
