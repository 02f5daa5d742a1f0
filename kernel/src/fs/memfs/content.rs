//! What is in the files of a [`super::MemFs`]: bytes in this process, a memfd or a file without a name of the host's, or the
//! lower file until it is changed;
//! and what limits and seals have to say about it.
//!
//! Lock order: a file's content → its attributes. The copy from or to a guest is made without the content's lock,
//! but for small files.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use bitflags::bitflags;
use rustix::fs::{FallocateFlags, SeekFrom};

use super::lower::{Lower, LowerContent};
use super::{Body, MemFs, Node, PAGE, Shared, node_of};
use crate::error::SyscallResult;
use crate::fs::hostfs::{read_host, seek_host, write_host};
use crate::fs::memory_files;
use crate::fs::{AT_END, File, FileType, InodeRef, Mappable, OpenFile, Whence};
use crate::user::{UserReader, UserWriter};

/// Files up to this size are kept in this process.
pub(super) const SMALL: usize = 64 * 1024;
/// How much of a lower file is copied at a time, and how much is appended without others in between.
const PIECE: usize = 1 << 20;

pub(super) enum Content {
    Bytes(Vec<u8>),
    /// A file of the host that nobody else has: in memory, or where the file system has its store.
    Memory(Arc<OwnedFd>),
    Lower(Lower),
}

bitflags! {
    /// What can no longer be done to a file, `F_ADD_SEALS` of `fcntl(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Seals: u32 {
        /// Adding seals.
        const SEAL = 1;
        /// Making it shorter.
        const SHRINK = 2;
        /// Making it longer.
        const GROW = 4;
        /// Writing it.
        const WRITE = 8;
        /// Writing it in new ways; mappings that exist stay.
        const FUTURE_WRITE = 16;
        /// Changing whether it may be executed.
        const EXEC = 32;
    }
}

impl Seals {
    /// Those under which the content cannot be written, but by mappings.
    const NO_WRITE: Seals = Seals::WRITE.union(Seals::FUTURE_WRITE);
}

impl Content {
    /// Size and blocks of 512 bytes; `None` for a lower file, which knows itself.
    fn extent(&self) -> SysResult<Option<(u64, u64)>> {
        match self {
            Content::Bytes(bytes) => {
                let size = bytes.len() as u64;
                Ok(Some((size, size.div_ceil(PAGE) * (PAGE / 512))))
            }
            Content::Memory(fd) => {
                let stat = rustix::fs::fstat(fd)?;
                Ok(Some((stat.st_size.cast_unsigned(), stat.st_blocks.cast_unsigned())))
            }
            Content::Lower(_) => Ok(None),
        }
    }

    fn size(&self) -> SysResult<u64> {
        match self {
            Content::Lower(lower) => Ok(lower.metadata()?.size),
            own => Ok(own.extent()?.map_or(0, |(size, _)| size)),
        }
    }

    /// Makes it a file of the host, for a mapping or a size beyond what is kept here.
    fn ensure_file(&mut self, shared: &Shared) -> SysResult<Arc<OwnedFd>> {
        match self {
            Content::Memory(fd) => Ok(Arc::clone(fd)),
            // Whoever has it open maps it as it is, and whoever writes it has copied it.
            Content::Lower(_) => Err(Errno::EIO),
            Content::Bytes(bytes) => {
                let fd = shared.new_file()?;
                rustix::fs::ftruncate(&fd, bytes.len() as u64)?;
                write_host(&fd, 0, &mut UserReader::buffer(bytes))?;
                *self = Content::Memory(Arc::clone(&fd));
                Ok(fd)
            }
        }
    }

    /// How many bytes there are from `start` on that take no memory yet, up to the first of `budget` that must not;
    /// returns the position behind what may be written.
    fn within_budget(&self, start: u64, end: u64, mut budget: u64) -> SysResult<u64> {
        // From the beginning of its page, which may be there already although the file ends in it.
        let mut at = start / PAGE * PAGE;
        while at < end {
            let (data, hole) = match self {
                Content::Bytes(bytes) => {
                    let kept = (bytes.len() as u64).next_multiple_of(PAGE);
                    if at < kept { (at, kept) } else { (end, end) }
                }
                Content::Memory(fd) => match rustix::fs::seek(fd, SeekFrom::Data(at)) {
                    Ok(data) => (data, rustix::fs::seek(fd, SeekFrom::Hole(data)).unwrap_or(end)),
                    Err(_) => (end, end),
                },
                Content::Lower(_) => (end, end),
            };
            // A hole up to `data`, whose pages have to be paid for; then data up to `hole`, for nothing.
            let (first, last) = (at / PAGE, data.min(end).div_ceil(PAGE));
            let needed = if data > at { (last - first) * PAGE } else { 0 };
            if needed > budget {
                let affordable = (first + budget / PAGE) * PAGE;
                return Ok(affordable.max(start).min(end));
            }
            budget -= needed;
            at = hole.max(data).next_multiple_of(PAGE).max(at + PAGE);
        }
        Ok(end)
    }
}

impl Node {
    /// The seals of a regular file.
    fn seals(&self) -> Seals {
        Seals::from_bits_retain(self.seals.load(Ordering::SeqCst))
    }

    /// `EPERM` if a seal forbids to make a file executable or not.
    pub(super) fn check_executable_bits(&self, mode: u32) -> SysResult<()> {
        let changes = (mode ^ self.attributes.lock().own.mode) & 0o111 != 0;
        if changes && self.seals().contains(Seals::EXEC) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// `EPERM` if a seal forbids to give the content another size.
    fn check_resize(&self, before: u64, after: u64) -> SysResult<()> {
        let seals = self.seals();
        let shrinks = after < before && seals.contains(Seals::SHRINK);
        let grows = after > before && seals.contains(Seals::GROW);
        if shrinks || grows { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Size and blocks of 512 bytes; `None` where the lower file's are right.
    pub(super) fn extent(&self) -> SysResult<Option<(u64, u64)>> {
        match &self.body {
            Body::File(content) => content.read().extent(),
            Body::Symlink(target) => Ok(Some((target.len() as u64, 0))),
            Body::Directory(_) => Ok(Some((PAGE, PAGE / 512))),
            Body::Special => Ok(Some((0, 0))),
        }
    }

    /// Makes the content the node's own, so that it can be written. Holes stay holes.
    pub(super) fn copy_up(&self, content: &mut Content) -> SysResult<()> {
        let Content::Lower(lower) = content else { return Ok(()) };
        let lower = lower.open_content()?;
        let copy = if lower.size()? <= SMALL as u64 {
            let mut bytes = Vec::new();
            lower.read(0, &mut UserWriter::buffer(&mut bytes, SMALL))?;
            Content::Bytes(bytes)
        } else {
            let file = self.shared.new_file()?;
            lower.copy_to(&file)?;
            Content::Memory(file)
        };
        self.replace(content, copy);
        Ok(())
    }

    /// Leaves the lower file's content behind, which is about to be truncated.
    pub(super) fn discard_lower(&self, content: &mut Content) {
        if matches!(content, Content::Lower(_)) {
            self.replace(content, Content::Bytes(Vec::new()));
        }
    }

    fn replace(&self, content: &mut Content, own: Content) {
        let mut attributes = self.attributes.lock();
        self.adopt(&mut attributes);
        *content = own;
        self.keep(&attributes);
        drop(attributes);
        self.settle(content);
    }

    /// Gives the content another size.
    pub(super) fn resize(&self, size: u64) -> SysResult<()> {
        let mut content = self.file()?.write();
        if size == 0 {
            self.check_resize(content.size()?, 0)?;
            self.discard_lower(&mut content);
        }
        self.copy_up(&mut content)?;
        self.check_resize(content.size()?, size)?;
        if size > SMALL as u64 {
            content.ensure_file(&self.shared)?;
        }
        match &mut *content {
            Content::Bytes(bytes) => {
                self.check_budget(bytes.len() as u64, size)?;
                bytes.resize(size as usize, 0);
            }
            Content::Memory(fd) => rustix::fs::ftruncate(&*fd, size)?,
            Content::Lower(_) => return Err(Errno::EIO),
        }
        self.settle(&content);
        Ok(())
    }

    /// How many more bytes the file system may take; `None` for any number.
    fn budget(&self) -> Option<u64> {
        let shared = &self.shared;
        (shared.limit != 0).then(|| shared.limit.saturating_sub(shared.used.load(Ordering::Relaxed)))
    }

    /// `ENOSPC` if bytes that were that many cannot become so many.
    fn check_budget(&self, before: u64, after: u64) -> SysResult<()> {
        let pages = |size: u64| size.next_multiple_of(PAGE);
        let added = pages(after).saturating_sub(pages(before));
        if self.budget().is_some_and(|budget| added > budget) { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Where a write from `start` to `end` has to stop for want of room: `ENOSPC` if that is at its start.
    fn room(&self, content: &Content, start: u64, end: u64) -> SysResult<u64> {
        let Some(budget) = self.budget() else { return Ok(end) };
        // Usually there is enough even if nothing of it is there yet.
        if (end - start).saturating_add(2 * PAGE) <= budget {
            return Ok(end);
        }
        let stop = content.within_budget(start, end, budget)?;
        if stop <= start && end > start { Err(Errno::ENOSPC) } else { Ok(stop) }
    }

    /// Counts what the content takes now against the file system's limit.
    pub(super) fn settle(&self, content: &Content) {
        let taken = content.extent().ok().flatten().map_or(0, |(_, blocks)| blocks * 512);
        let small = if matches!(content, Content::Bytes(_)) { taken } else { 0 };
        memory_files::count_small(self.small.swap(small, Ordering::Relaxed), small);
        let before = self.charged.swap(taken, Ordering::Relaxed);
        let used = &self.shared.used;
        if taken >= before {
            used.fetch_add(taken - before, Ordering::Relaxed);
        } else {
            used.fetch_sub(before - taken, Ordering::Relaxed);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(*self.charged.get_mut(), Ordering::Relaxed);
        memory_files::count_small(*self.small.get_mut(), 0);
        self.shared.inodes.fetch_sub(1, Ordering::Relaxed);
        // One after the other, not one inside the other: guests make directories deeper than a stack is.
        let mut left = self.take_children();
        while let Some(child) = left.pop() {
            left.extend(Arc::into_inner(child).map(|mut last| last.take_children()).unwrap_or_default());
        }
        if let Some(key) = self.origin {
            let mut known = self.shared.known.lock();
            // Unless there is another by now.
            if known.get(&key).is_some_and(|node| node.strong_count() == 0) {
                known.remove(&key);
            }
        }
    }
}

/// An open regular file.
pub(super) struct OpenContent {
    node: Arc<Node>,
    /// The lower file as it was when the file was opened; used while the content is still there.
    lower: Option<LowerContent>,
}

impl OpenContent {
    pub(super) fn new(node: Arc<Node>, lower: Option<LowerContent>) -> OpenContent {
        OpenContent { node, lower }
    }

    /// The host descriptor that holds the content now, if one does.
    fn host(&self, content: &Content) -> Option<Arc<OwnedFd>> {
        match (content, &self.lower) {
            (Content::Memory(fd), _) | (Content::Lower(_), Some(LowerContent::Host(fd))) => {
                Some(Arc::clone(fd))
            }
            _ => None,
        }
    }

    fn check_writable(&self) -> SysResult<()> {
        if self.write_sealed() { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Writes what `from` has left at a position, as far as limits allow.
    fn write_piece(&self, offset: u64, from: &mut UserReader<'_>) -> SysResult<(usize, u64)> {
        let node = &self.node;
        let mut content = node.file()?.write();
        node.copy_up(&mut content)?;
        let size = content.size()?;
        let append = offset == AT_END;
        let offset = if append { size } else { offset };
        self.check_writable()?;
        let end = offset.checked_add(from.remaining() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(Errno::EFBIG)?;
        if end > size {
            node.check_resize(size, end)?;
        }
        if end > SMALL as u64 {
            content.ensure_file(&node.shared)?;
        }
        let end = node.room(&content, offset, end)?;
        from.limit((end - offset) as usize);
        let result = match &mut *content {
            // Appended data comes from a buffer; until it is written nobody else may write at the end.
            Content::Memory(fd) if append => write_host(fd, offset, from)?,
            Content::Memory(fd) => {
                let fd = Arc::clone(fd);
                drop(content);
                let written = write_host(&fd, offset, from)?;
                content = node.file()?.write();
                written
            }
            Content::Bytes(bytes) => {
                // At most the size of a small file, so copying under the lock is short.
                let mut data = vec![0; from.remaining()];
                let read = from.read(&mut data)?;
                data.truncate(read);
                let start = offset as usize;
                if bytes.len() < start + data.len() {
                    bytes.resize(start + data.len(), 0);
                }
                bytes[start..start + data.len()].copy_from_slice(&data);
                (data.len(), offset + data.len() as u64)
            }
            Content::Lower(_) => return Err(Errno::EIO),
        };
        node.settle(&content);
        Ok(result)
    }
}

impl OpenFile for OpenContent {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let content = self.node.file()?.read();
        if let Content::Bytes(bytes) = &*content {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let end = bytes.len().min(start.saturating_add(to.remaining()));
            // Not under the lock: the copy to the guest may take its time.
            let part = bytes[start..end].to_vec();
            drop(content);
            return Ok(to.write(&part)?);
        }
        if let (Content::Lower(_), Some(LowerContent::Image(file))) = (&*content, &self.lower) {
            drop(content);
            return Ok(file.read(offset, to)?);
        }
        let fd = self.host(&content).ok_or(Errno::EIO)?;
        drop(content);
        Ok(read_host(&fd, offset, to)?)
    }

    fn write_at(&self, _file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        if from.remaining() == 0 {
            let offset = if offset == AT_END { self.node.file()?.read().size()? } else { offset };
            return Ok((0, offset));
        }
        let result = if offset == AT_END {
            let mut done = 0;
            loop {
                let mut piece = vec![0; from.remaining().min(PIECE)];
                let read = match from.read(&mut piece) {
                    Ok(read) => read,
                    Err(error) if done == 0 => return Err(error.into()),
                    Err(_) => break (done, self.node.file()?.read().size()?),
                };
                match self.write_piece(offset, &mut UserReader::buffer(&piece[..read])) {
                    Ok((count, end)) => {
                        done += count;
                        if count < piece.len() || from.remaining() == 0 {
                            break (done, end);
                        }
                    }
                    Err(error) if done == 0 => return Err(error.into()),
                    Err(_) => break (done, self.node.file()?.read().size()?),
                }
            }
        } else {
            self.write_piece(offset, from)?
        };
        self.node.touch();
        Ok(result)
    }

    fn seek(&self, file: &File, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        if let Whence::Data | Whence::Hole = whence
            && let Some(fd) = self.host(&self.node.file()?.read())
        {
            return seek_host(&fd, offset, whence)?.ok_or(Errno::EINVAL);
        }
        file.seek_default(current, offset, whence)
    }

    fn map(&self, _file: &File, shared: bool, writable: bool) -> SysResult<Mappable> {
        let mut content = self.node.file()?.write();
        if shared && writable {
            self.node.copy_up(&mut content)?;
        }
        if let (Content::Lower(_), Some(lower)) = (&*content, &self.lower) {
            drop(content);
            return lower.mappable();
        }
        let fd = content.ensure_file(&self.node.shared)?;
        self.node.settle(&content);
        Ok(Mappable::Host { fd, delta: 0 })
    }

    fn is_of_image(&self) -> bool {
        matches!(self.lower, Some(LowerContent::Host(_)))
            && self.node.file().is_ok_and(|content| matches!(*content.read(), Content::Lower(_)))
    }

    fn write_sealed(&self) -> bool {
        self.node.seals().intersects(Seals::NO_WRITE)
    }

    fn sync(&self) -> SysResult<()> {
        Ok(())
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const ZERO_RANGE: u32 = 16;
        let (keep, punch, zero) = (mode & KEEP_SIZE != 0, mode & PUNCH_HOLE != 0, mode & ZERO_RANGE != 0);
        let known = mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) == 0;
        if !known || (punch && (!keep || zero)) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = &self.node;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        if punch || zero {
            self.check_writable()?;
        }
        let mut content = node.file()?.write();
        node.copy_up(&mut content)?;
        let size = content.size()?;
        if !keep && end > size {
            node.check_resize(size, end)?;
        }
        if !punch && node.room(&content, offset, end)? < end {
            return Err(Errno::ENOSPC);
        }
        if !keep && end > size && end > SMALL as u64 {
            content.ensure_file(&node.shared)?;
        }
        match &mut *content {
            Content::Bytes(bytes) => {
                if !keep && end > size {
                    bytes.resize(end as usize, 0);
                }
                if punch || zero {
                    let (start, end) = (offset.min(bytes.len() as u64), end.min(bytes.len() as u64));
                    bytes[start as usize..end as usize].fill(0);
                }
            }
            Content::Memory(fd) => {
                if punch || zero {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&*fd, mode, offset, length)?;
                }
                // Room is set aside where it is limited; memory that may never be used is not taken otherwise.
                if !punch && node.shared.limit != 0 {
                    let mode = if keep { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
                    rustix::fs::fallocate(&*fd, mode, offset, length)?;
                } else if !keep && end > size {
                    rustix::fs::ftruncate(&*fd, end)?;
                }
            }
            Content::Lower(_) => return Err(Errno::EIO),
        }
        node.settle(&content);
        drop(content);
        node.touch();
        Ok(())
    }
}

impl MemFs {
    /// The node of a file that has seals: `EINVAL` for all but regular files in memory.
    fn sealable(inode: &InodeRef) -> SysResult<Arc<Node>> {
        let node = node_of(inode).map_err(|_| Errno::EINVAL)?;
        let sealable = node.kind == FileType::Regular && node.shared.sealable;
        if sealable { Ok(node) } else { Err(Errno::EINVAL) }
    }

    /// The seals of a file, `F_GET_SEALS`.
    pub fn seals(inode: &InodeRef) -> SysResult<Seals> {
        Ok(MemFs::sealable(inode)?.seals())
    }

    /// Adds seals to a file, `F_ADD_SEALS`: `EPERM` if it takes none, `EBUSY` if a guest could write it by a mapping,
    /// which `mapped` finds out.
    pub fn add_seals(inode: &InodeRef, mut seals: Seals, mapped: impl FnOnce() -> bool) -> SysResult<()> {
        let node = MemFs::sealable(inode)?;
        let before = node.seals();
        if before.contains(Seals::SEAL) {
            return Err(Errno::EPERM);
        }
        if seals.contains(Seals::EXEC) && node.attributes.lock().own.mode & 0o111 != 0 {
            seals |= Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE;
        }
        // First the seal, then the look: so no mapping can be made in between.
        node.seals.fetch_or(seals.bits(), Ordering::SeqCst);
        if seals.contains(Seals::WRITE) && !before.contains(Seals::WRITE) && mapped() {
            node.seals.fetch_and(before.bits(), Ordering::SeqCst);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::memfs::MemOptions;
    use crate::fs::{Acls, FileSystem, NewFile, NewKind, SetAttributes};
    use abi::fs::OpenFlags;

    fn limited(pages: u64, inodes: u64) -> Arc<MemFs> {
        MemFs::tmpfs(MemOptions { size: pages * PAGE, inodes, mode: 0 })
    }

    fn new_file(fs: &MemFs, name: &str) -> SysResult<InodeRef> {
        let new = NewFile { kind: NewKind::Regular, mode: 0o600, uid: 0, gid: 0, acls: Acls::default() };
        fs.root().create(name.as_bytes(), &new)
    }

    fn open(inode: &InodeRef) -> Arc<File> {
        let flags = OpenFlags::RDWR;
        let ops = Arc::clone(inode).open(None, flags).unwrap();
        let place = crate::fs::file::Place::Anonymous { name: String::new(), inode: Some(Arc::clone(inode)) };
        File::new(place, ops, flags)
    }

    fn write(file: &File, offset: u64, length: usize) -> SysResult<usize> {
        let bytes = vec![1; length];
        let mut reader = UserReader::buffer(&bytes);
        let result = file.ops().write_at(file, offset, &mut reader);
        result.map(|(count, _)| count).map_err(crate::error::SysError::errno)
    }

    fn free_pages(fs: &MemFs) -> u64 {
        fs.statistics().unwrap().blocks_free
    }

    fn resize(inode: &InodeRef, size: u64) -> SysResult<()> {
        inode.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })
    }

    #[test]
    fn a_full_file_system_takes_what_fits() {
        let fs = limited(32, 100);
        let inode = new_file(&fs, "file").unwrap();
        let file = open(&inode);
        assert_eq!(write(&file, 0, 30 * 4096), Ok(30 * 4096));
        assert_eq!(write(&file, 30 * 4096, 5 * 4096), Ok(2 * 4096));
        assert_eq!(write(&file, 32 * 4096, 1), Err(Errno::ENOSPC));
        // What is there already may be written again.
        assert_eq!(write(&file, 0, 32 * 4096), Ok(32 * 4096));
        let other = new_file(&fs, "other").unwrap();
        assert_eq!(write(&open(&other), 0, 1), Err(Errno::ENOSPC));
        assert_eq!(free_pages(&fs), 0);
    }

    #[test]
    fn room_comes_back() {
        let fs = limited(32, 100);
        let inode = new_file(&fs, "file").unwrap();
        for _ in 0..3 {
            assert_eq!(write(&open(&inode), 0, 32 * 4096), Ok(32 * 4096));
            resize(&inode, 4096).unwrap();
            assert_eq!(free_pages(&fs), 31);
        }
        fs.root().unlink(b"file").unwrap();
        drop(inode);
        assert_eq!(free_pages(&fs), 32);
    }

    #[test]
    fn the_last_page_can_be_filled_bit_by_bit() {
        let fs = limited(32, 100);
        let file = open(&new_file(&fs, "file").unwrap());
        for at in (0..32 * 4096).step_by(1024) {
            assert_eq!(write(&file, at, 1024), Ok(1024), "{at}");
        }
        assert_eq!(write(&file, 32 * 4096, 1), Err(Errno::ENOSPC));
        assert_eq!(write(&file, 32 * 4096 - 1, 2), Ok(1));
    }

    #[test]
    fn holes_take_no_room() {
        let fs = limited(32, 100);
        let inode = new_file(&fs, "file").unwrap();
        resize(&inode, 1 << 40).unwrap();
        let file = open(&inode);
        assert_eq!(write(&file, 1 << 30, 4096), Ok(4096));
        let metadata = inode.metadata().unwrap();
        assert_eq!((metadata.size, metadata.blocks), (1 << 40, 8));
        assert_eq!(free_pages(&fs), 31);
        // Room can be set aside, and given back.
        assert_eq!(file.ops().allocate(&file, 0, 0, 31 * 4096), Ok(()));
        assert_eq!(free_pages(&fs), 0);
        assert_eq!(file.ops().allocate(&file, 0, 100 * 4096, 4096), Err(Errno::ENOSPC));
        assert_eq!(file.ops().allocate(&file, 3, 0, 31 * 4096), Ok(()));
        assert_eq!(free_pages(&fs), 31);
    }

    #[test]
    fn there_may_be_only_so_many_files() {
        let fs = limited(32, 3);
        new_file(&fs, "one").unwrap();
        new_file(&fs, "two").unwrap();
        assert_eq!(new_file(&fs, "three").err(), Some(Errno::ENOSPC));
        assert_eq!(fs.statistics().unwrap().files_free, 0);
        fs.root().unlink(b"one").unwrap();
        assert!(new_file(&fs, "three").is_ok());
        assert_eq!(fs.options(), "size=128k,nr_inodes=3");
    }

    #[test]
    fn appending_knows_the_end() {
        let fs = limited(0, 0);
        let inode = new_file(&fs, "file").unwrap();
        let file = open(&inode);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| assert_eq!(write(&file, AT_END, 1000), Ok(1000))));
            }
        });
        assert_eq!(inode.metadata().unwrap().size, 800_000);
    }
}
