//! The file system in memory: tmpfs, and the merged root of a container.
//!
//! A directory may lie over a directory of the host, whose files it shows until they are changed: the lower file's
//! content is copied on the first write, its attributes on their first change; a removed name is remembered as such
//! (a *whiteout*). Nothing is read ahead of need, and a renamed lower directory is just a moved node. Without a lower
//! directory this is a tmpfs.
//!
//! Small files are bytes in this process; large or mapped ones are memfds, so that the host can page and guests map them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::{Mutex, RwLock};

use super::hostfs::{HostInode, list, read_host, seek_host, write_host};
use super::{
    DirectorySink, File, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Mappable,
    Metadata, NewFile, NewKind, OpenFile, RenameMode, SetAttributes, Whence, XattrMode,
};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};

/// Files up to this size are kept in this process.
const SMALL: usize = 64 * 1024;
/// The largest value of an extended attribute, and the most bytes of them all per file.
const XATTR_MAX: usize = 65536;
/// Inode numbers of files that are not from a lower directory start here.
const FIRST_INODE: u64 = 1 << 40;

/// Limits of a tmpfs, zero for none.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemOptions {
    /// Bytes.
    pub size: u64,
    /// Permission bits of the root; zero for 01777.
    pub mode: u32,
}

/// A file system in memory.
pub struct MemFs {
    root: Arc<Node>,
    shared: Arc<Shared>,
    name: &'static str,
}

struct Shared {
    device: u64,
    next: AtomicU64,
    limit: u64,
    used: AtomicU64,
}

impl MemFs {
    /// An empty tmpfs.
    pub fn tmpfs(options: MemOptions) -> Arc<MemFs> {
        let shared = new_shared(options.size);
        let mode = if options.mode == 0 { 0o1777 } else { options.mode };
        let new = NewFile { kind: NewKind::Directory, mode, uid: 0, gid: 0 };
        let root = Node::new(&shared, &new, Body::Directory(Mutex::default()));
        Arc::new(MemFs { root, shared, name: "tmpfs" })
    }

    /// A writable view of a host directory, which stays as it is.
    pub fn merged(lower: Arc<HostInode>) -> SysResult<Arc<MemFs>> {
        let shared = new_shared(0);
        let root = Node::over(&shared, lower)?;
        Ok(Arc::new(MemFs { root, shared, name: "overlay" }))
    }
}

fn new_shared(limit: u64) -> Arc<Shared> {
    static DEVICE: AtomicU64 = AtomicU64::new(40);
    let minor = DEVICE.fetch_add(1, Ordering::Relaxed) as u32;
    let device = abi::fs::make_device(0, minor);
    Arc::new(Shared { device, next: AtomicU64::new(FIRST_INODE), limit, used: AtomicU64::new(0) })
}

impl FileSystem for MemFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        let memory = rustix::system::sysinfo();
        let unit = u64::from(memory.mem_unit.max(1));
        let limit =
            if self.shared.limit == 0 { memory.totalram as u64 * unit / 2 } else { self.shared.limit };
        let used = self.shared.used.load(Ordering::Relaxed).min(limit);
        Ok(FsStatistics {
            magic: if self.name == "tmpfs" { 0x0102_1994 } else { 0x794c_7630 },
            block_size: 4096,
            blocks: limit / 4096,
            blocks_free: (limit - used) / 4096,
            blocks_available: (limit - used) / 4096,
            files: 1 << 20,
            files_free: 1 << 20,
            name_length: 255,
        })
    }

    fn device(&self) -> u64 {
        self.shared.device
    }
}

/// A file of a [`MemFs`].
pub struct Node {
    common: InodeCommon,
    shared: Arc<Shared>,
    number: u64,
    kind: FileType,
    attributes: Mutex<Attributes>,
    body: Body,
    this: Weak<Node>,
}

/// What a node knows of itself, or leaves to the lower file as long as nothing was changed.
struct Attributes {
    lower: Option<Arc<HostInode>>,
    own: Metadata,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names below this one that the lower file's attributes are hidden by.
    xattrs_copied: bool,
}

enum Body {
    Directory(Mutex<Directory>),
    File(RwLock<Content>),
    Symlink(Vec<u8>),
    Special,
}

#[derive(Default)]
struct Directory {
    entries: BTreeMap<Vec<u8>, Entry>,
    lower: Option<Arc<HostInode>>,
    removed: bool,
}

enum Entry {
    Node(Arc<Node>),
    Whiteout,
}

enum Content {
    Bytes(Vec<u8>),
    Memory { fd: Arc<OwnedFd>, seals: u32 },
    Lower(Arc<HostInode>),
}

fn now() -> TimeSpec {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec }
}

impl Node {
    fn new(shared: &Arc<Shared>, new: &NewFile, body: Body) -> Arc<Node> {
        let kind = match &new.kind {
            NewKind::Regular => FileType::Regular,
            NewKind::Directory => FileType::Directory,
            NewKind::Symlink(_) => FileType::Symlink,
            NewKind::Fifo => FileType::Fifo,
            NewKind::Socket => FileType::Socket,
            NewKind::CharDevice(_) => FileType::CharDevice,
            NewKind::BlockDevice(_) => FileType::BlockDevice,
        };
        let time = now();
        let own = Metadata {
            device: shared.device,
            mode: kind.mode_bits() | new.mode & 0o7777,
            links: if kind == FileType::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: match new.kind {
                NewKind::CharDevice(device) | NewKind::BlockDevice(device) => device,
                _ => 0,
            },
            block_size: 4096,
            accessed: time,
            modified: time,
            changed: time,
            born: Some(time),
            ..Metadata::default()
        };
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|this| Node {
            common: InodeCommon::new(),
            shared: Arc::clone(shared),
            number,
            kind,
            attributes: Mutex::new(Attributes {
                lower: None,
                own,
                xattrs: BTreeMap::new(),
                xattrs_copied: true,
            }),
            body,
            this: Weak::clone(this),
        })
    }

    /// The node that shows a lower file.
    fn over(shared: &Arc<Shared>, lower: Arc<HostInode>) -> SysResult<Arc<Node>> {
        let kind = lower.file_type();
        let metadata = lower.metadata()?;
        let body = match kind {
            FileType::Directory => Body::Directory(Mutex::new(Directory {
                lower: Some(Arc::clone(&lower)),
                ..Directory::default()
            })),
            FileType::Regular => Body::File(RwLock::new(Content::Lower(Arc::clone(&lower)))),
            FileType::Symlink => Body::Symlink(lower.readlink(None)?),
            _ => Body::Special,
        };
        Ok(Arc::new_cyclic(|this| Node {
            common: InodeCommon::new(),
            shared: Arc::clone(shared),
            number: metadata.inode,
            kind,
            attributes: Mutex::new(Attributes {
                lower: Some(lower),
                own: metadata,
                xattrs: BTreeMap::new(),
                xattrs_copied: false,
            }),
            body,
            this: Weak::clone(this),
        }))
    }

    fn directory(&self) -> SysResult<&Mutex<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn file(&self) -> SysResult<&RwLock<Content>> {
        match &self.body {
            Body::File(content) => Ok(content),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The entry `name` of a locked directory, brought in from the lower one if it is only there.
    fn entry(&self, directory: &mut Directory, name: &[u8]) -> SysResult<Option<Arc<Node>>> {
        match directory.entries.get(name) {
            Some(Entry::Node(node)) => return Ok(Some(Arc::clone(node))),
            Some(Entry::Whiteout) => return Ok(None),
            None => {}
        }
        let Some(lower) = &directory.lower else { return Ok(None) };
        match lower.child(name) {
            Ok(child) => {
                let node = Node::over(&self.shared, child)?;
                directory.entries.insert(name.to_vec(), Entry::Node(Arc::clone(&node)));
                Ok(Some(node))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a name out of a locked directory, for good.
    fn remove_entry(directory: &mut Directory, name: &[u8]) {
        if directory.lower.is_some() {
            directory.entries.insert(name.to_vec(), Entry::Whiteout);
        } else {
            directory.entries.remove(name);
        }
    }

    /// Whether a locked directory shows no names.
    fn is_empty(directory: &Directory) -> SysResult<bool> {
        if directory.entries.values().any(|entry| matches!(entry, Entry::Node(_))) {
            return Ok(false);
        }
        match &directory.lower {
            None => Ok(true),
            Some(lower) => Ok(lower.names()?.iter().all(|(name, ..)| directory.entries.contains_key(name))),
        }
    }

    /// Changes the node's own attributes.
    fn change(&self, change: impl FnOnce(&mut Metadata)) {
        let mut attributes = self.attributes.lock();
        self.adopt(&mut attributes);
        change(&mut attributes.own);
    }

    /// Makes the lower file's attributes the node's own.
    fn adopt(&self, attributes: &mut Attributes) {
        if let Some(lower) = &attributes.lower
            && attributes.own.device != self.shared.device
        {
            if let Ok(metadata) = lower.metadata() {
                attributes.own = metadata;
            }
            attributes.own.device = self.shared.device;
        }
    }

    fn touch(&self) {
        let time = now();
        self.change(|own| {
            own.modified = time;
            own.changed = time;
        });
    }

    /// Adds or removes a link.
    fn add_links(&self, count: i32) {
        let time = now();
        self.change(|own| {
            own.links = own.links.saturating_add_signed(count);
            own.changed = time;
        });
    }

    /// The size of the content.
    fn size(&self) -> SysResult<u64> {
        match &self.body {
            Body::File(content) => content.read().size(),
            Body::Symlink(target) => Ok(target.len() as u64),
            Body::Directory(_) => Ok(4096),
            Body::Special => Ok(0),
        }
    }

    /// Makes the content the node's own, so that it can be written.
    fn copy_up(&self, content: &mut Content) -> SysResult<()> {
        let Content::Lower(lower) = content else { return Ok(()) };
        let fd = lower.open_host(OpenFlags::empty())?;
        let size = rustix::fs::fstat(&fd)?.st_size.cast_unsigned();
        let copy = if size <= SMALL as u64 {
            let mut bytes = Vec::new();
            read_host(&fd, 0, &mut UserWriter::buffer(&mut bytes, SMALL))?;
            Content::Bytes(bytes)
        } else {
            let memory = new_memory()?;
            let mut buffer = vec![0; 1 << 20];
            let mut at = 0;
            loop {
                let count = rustix::io::pread(&fd, &mut buffer, at)?;
                if count == 0 {
                    break;
                }
                write_host(&memory, at, &mut UserReader::buffer(&buffer[..count]))?;
                at += count as u64;
            }
            Content::Memory { fd: memory, seals: 0 }
        };
        let mut attributes = self.attributes.lock();
        self.adopt(&mut attributes);
        *content = copy;
        Ok(())
    }

    /// Makes the content a memfd, for a mapping or a size beyond what is kept here.
    fn to_memory(content: &mut Content) -> SysResult<Arc<OwnedFd>> {
        match content {
            Content::Memory { fd, .. } => Ok(Arc::clone(fd)),
            Content::Lower(lower) => lower.open_host(OpenFlags::empty()),
            Content::Bytes(bytes) => {
                let fd = new_memory()?;
                rustix::fs::ftruncate(&fd, bytes.len() as u64)?;
                write_host(&fd, 0, &mut UserReader::buffer(bytes))?;
                *content = Content::Memory { fd: Arc::clone(&fd), seals: 0 };
                Ok(fd)
            }
        }
    }

    fn resize(&self, size: u64) -> SysResult<()> {
        let mut content = self.file()?.write();
        self.copy_up(&mut content)?;
        if size > SMALL as u64 {
            Self::to_memory(&mut content)?;
        }
        match &mut *content {
            Content::Bytes(bytes) => bytes.resize(size as usize, 0),
            Content::Memory { fd, .. } => rustix::fs::ftruncate(&*fd, size)?,
            Content::Lower(_) => return Err(Errno::EIO),
        }
        Ok(())
    }

    /// `ENOSPC` if the file system's limit does not allow `added` more bytes.
    fn charge(&self, added: u64) -> SysResult<()> {
        let used = self.shared.used.fetch_add(added, Ordering::Relaxed) + added;
        if self.shared.limit != 0 && used > self.shared.limit {
            self.shared.used.fetch_sub(added, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn strong(&self) -> SysResult<Arc<Node>> {
        self.this.upgrade().ok_or(Errno::ENOENT)
    }
}

fn new_memory() -> SysResult<Arc<OwnedFd>> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(Arc::new(rustix::fs::memfd_create(c"file", flags)?))
}

impl Content {
    fn size(&self) -> SysResult<u64> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::Memory { fd, .. } => Ok(rustix::fs::fstat(fd)?.st_size.cast_unsigned()),
            Content::Lower(lower) => Ok(lower.metadata()?.size),
        }
    }

    /// The memory that it takes, in units of 512 bytes; holes take none.
    fn blocks(&self) -> SysResult<u64> {
        match self {
            Content::Memory { fd, .. } => Ok(rustix::fs::fstat(fd)?.st_blocks.cast_unsigned()),
            Content::Bytes(_) | Content::Lower(_) => Ok(self.size()?.div_ceil(4096) * 8),
        }
    }
}

/// The node behind an inode of the same file system.
fn node_of(inode: &InodeRef) -> SysResult<Arc<Node>> {
    let any = Arc::clone(inode) as Arc<dyn std::any::Any + Send + Sync>;
    any.downcast::<Node>().map_err(|_| Errno::EXDEV)
}

impl Inode for Node {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> SysResult<Metadata> {
        let size = self.size()?;
        let attributes = self.attributes.lock();
        let mut metadata = attributes.own;
        metadata.device = self.shared.device;
        metadata.inode = self.number;
        let lower_content =
            matches!(&self.body, Body::File(content) if matches!(*content.read(), Content::Lower(_)));
        if !lower_content {
            metadata.size = size;
            metadata.blocks = match &self.body {
                Body::File(content) => content.read().blocks()?,
                _ => size.div_ceil(4096) * 8,
            };
        }
        Ok(metadata)
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        let time = now();
        if let Some(size) = attributes.size {
            let before = self.size()?;
            if size > before {
                self.charge(size - before)?;
            }
            self.resize(size)?;
            self.touch();
        }
        self.change(|own| {
            if let Some(mode) = attributes.mode {
                own.mode = own.mode & abi::fs::S_IFMT | mode & 0o7777;
            }
            own.uid = attributes.uid.unwrap_or(own.uid);
            own.gid = attributes.gid.unwrap_or(own.gid);
            own.accessed = attributes.accessed.unwrap_or(own.accessed);
            own.modified = attributes.modified.unwrap_or(own.modified);
            own.changed = time;
        });
        Ok(())
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        let mut directory = self.directory()?.lock();
        let node = self.entry(&mut directory, name)?.ok_or(Errno::ENOENT)?;
        Ok(node as InodeRef)
    }

    fn create(self: Arc<Self>, name: &[u8], new: &NewFile) -> SysResult<InodeRef> {
        let body = match &new.kind {
            NewKind::Directory => Body::Directory(Mutex::default()),
            NewKind::Regular => Body::File(RwLock::new(Content::Bytes(Vec::new()))),
            NewKind::Symlink(target) => Body::Symlink(target.clone()),
            _ => Body::Special,
        };
        let mut directory = self.directory()?.lock();
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        if self.entry(&mut directory, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let node = Node::new(&self.shared, new, body);
        directory.entries.insert(name.to_vec(), Entry::Node(Arc::clone(&node)));
        drop(directory);
        self.touch();
        if node.kind == FileType::Directory {
            self.add_links(1);
        }
        Ok(node as InodeRef)
    }

    fn create_unnamed(&self, new: &NewFile) -> SysResult<InodeRef> {
        let node = Node::new(&self.shared, new, Body::File(RwLock::new(Content::Bytes(Vec::new()))));
        node.change(|own| own.links = 0);
        Ok(node as InodeRef)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> SysResult<()> {
        let target = node_of(target)?;
        let mut directory = self.directory()?.lock();
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        if self.entry(&mut directory, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        directory.entries.insert(name.to_vec(), Entry::Node(Arc::clone(&target)));
        drop(directory);
        target.add_links(1);
        self.touch();
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> SysResult<()> {
        let mut directory = self.directory()?.lock();
        let node = self.entry(&mut directory, name)?.ok_or(Errno::ENOENT)?;
        if node.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        Self::remove_entry(&mut directory, name);
        drop(directory);
        node.add_links(-1);
        self.touch();
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> SysResult<()> {
        let mut directory = self.directory()?.lock();
        let node = self.entry(&mut directory, name)?.ok_or(Errno::ENOENT)?;
        {
            let mut inner = node.directory()?.lock();
            if !Self::is_empty(&inner)? {
                return Err(Errno::ENOTEMPTY);
            }
            inner.removed = true;
        }
        Self::remove_entry(&mut directory, name);
        drop(directory);
        node.change(|own| own.links = 0);
        self.add_links(-1);
        self.touch();
        Ok(())
    }

    fn rename(
        self: Arc<Self>,
        name: &[u8],
        parent: &InodeRef,
        new_name: &[u8],
        mode: RenameMode,
    ) -> SysResult<()> {
        let target_parent = node_of(parent)?;
        let same = Arc::ptr_eq(&self, &target_parent);
        // The caller holds the tree's rename lock, so the order of these two locks cannot matter; but a directory must
        // not be locked twice.
        let mut from = self.directory()?.lock();
        let node = self.entry(&mut from, name)?.ok_or(Errno::ENOENT)?;
        let mut other = if same { None } else { Some(target_parent.directory()?.lock()) };
        let to = other.as_deref_mut().unwrap_or(&mut from);
        if to.removed {
            return Err(Errno::ENOENT);
        }
        let existing = target_parent.entry(to, new_name)?;
        if let Some(existing) = &existing {
            if mode == RenameMode::NoReplace {
                return Err(Errno::EEXIST);
            }
            if Arc::ptr_eq(existing, &node) {
                return Ok(());
            }
        }
        let is_directory = node.kind == FileType::Directory;
        match (mode, &existing) {
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            (RenameMode::Exchange, Some(existing)) => {
                to.entries.insert(new_name.to_vec(), Entry::Node(Arc::clone(&node)));
                let exchanged = Entry::Node(Arc::clone(existing));
                from.entries.insert(name.to_vec(), exchanged);
            }
            (_, existing) => {
                if let Some(existing) = existing {
                    match (is_directory, existing.kind == FileType::Directory) {
                        (true, false) => return Err(Errno::ENOTDIR),
                        (false, true) => return Err(Errno::EISDIR),
                        (true, true) => {
                            let mut inner = existing.directory()?.lock();
                            if !Self::is_empty(&inner)? {
                                return Err(Errno::ENOTEMPTY);
                            }
                            inner.removed = true;
                        }
                        (false, false) => {}
                    }
                }
                to.entries.insert(new_name.to_vec(), Entry::Node(Arc::clone(&node)));
                Self::remove_entry(&mut from, name);
            }
        }
        drop(other);
        drop(from);
        if let Some(existing) = existing.filter(|_| mode != RenameMode::Exchange) {
            existing.add_links(if is_directory { -2 } else { -1 });
            if is_directory {
                target_parent.add_links(-1);
            }
        }
        if is_directory && !same && mode != RenameMode::Exchange {
            self.add_links(-1);
            target_parent.add_links(1);
        }
        let time = now();
        node.change(|own| own.changed = time);
        self.touch();
        target_parent.touch();
        Ok(())
    }

    fn readlink(&self, _task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(
        self: Arc<Self>,
        task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match &self.body {
            Body::Directory(_) => Ok(Arc::new(OpenDirectory { node: self, names: Mutex::default() })),
            Body::File(content) => {
                if flags.writable() {
                    self.copy_up(&mut content.write())?;
                }
                let lower = match &*content.read() {
                    Content::Lower(lower) => Some(lower.open_host(OpenFlags::empty())?),
                    _ => None,
                };
                Ok(Arc::new(OpenNode { node: Arc::clone(&self), lower }))
            }
            Body::Symlink(_) => Err(Errno::ELOOP.into()),
            Body::Special if self.kind == FileType::CharDevice => {
                let device = self.attributes.lock().own.rdev;
                super::devices::open(task, device)
            }
            Body::Special => Err(Errno::ENXIO.into()),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        let attributes = self.attributes.lock();
        match (attributes.xattrs.get(name), &attributes.lower) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(lower)) if !attributes.xattrs_copied => lower.get_xattr(name),
            _ => Err(Errno::ENODATA),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> SysResult<()> {
        self.copy_xattrs();
        let mut attributes = self.attributes.lock();
        let exists = attributes.xattrs.contains_key(name);
        match mode {
            XattrMode::Create if exists => return Err(Errno::EEXIST),
            XattrMode::Replace if !exists => return Err(Errno::ENODATA),
            _ => {}
        }
        let used: usize = attributes.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if used + name.len() + value.len() > XATTR_MAX {
            return Err(Errno::ENOSPC);
        }
        attributes.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        let attributes = self.attributes.lock();
        match &attributes.lower {
            Some(lower) if !attributes.xattrs_copied => lower.list_xattr(),
            _ => Ok(attributes.xattrs.keys().cloned().collect()),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.copy_xattrs();
        self.attributes.lock().xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
    }
}

impl Node {
    /// Makes the lower file's extended attributes the node's own.
    fn copy_xattrs(&self) {
        let mut attributes = self.attributes.lock();
        if attributes.xattrs_copied {
            return;
        }
        attributes.xattrs_copied = true;
        let Some(lower) = attributes.lower.clone() else { return };
        for name in lower.list_xattr().unwrap_or_default() {
            if let Ok(value) = lower.get_xattr(&name) {
                attributes.xattrs.insert(name, value);
            }
        }
    }
}

struct OpenDirectory {
    node: Arc<Node>,
    names: Mutex<Vec<(Vec<u8>, u64, FileType)>>,
}

impl OpenFile for OpenDirectory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let mut names = self.names.lock();
        if position == 0 {
            names.clear();
            names.push((b".".to_vec(), self.node.number, FileType::Directory));
            names.push((b"..".to_vec(), self.node.number, FileType::Directory));
            let directory = self.node.directory()?.lock();
            for (name, entry) in &directory.entries {
                if let Entry::Node(node) = entry {
                    names.push((name.clone(), node.number, node.kind));
                }
            }
            if let Some(lower) = &directory.lower {
                let lower = lower.names()?;
                names.extend(lower.into_iter().filter(|(name, ..)| !directory.entries.contains_key(name)));
            }
        }
        list(&names, position, sink);
        Ok(())
    }
}

struct OpenNode {
    node: Arc<Node>,
    /// The lower file as it was when the file was opened; used while the content is still there.
    lower: Option<Arc<OwnedFd>>,
}

impl OpenNode {
    /// The host descriptor that holds the content now, if one does.
    fn host(&self, content: &Content) -> Option<Arc<OwnedFd>> {
        match content {
            Content::Bytes(_) => None,
            Content::Memory { fd, .. } => Some(Arc::clone(fd)),
            Content::Lower(_) => self.lower.clone(),
        }
    }
}

impl OpenFile for OpenNode {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let content = self.node.file()?.read();
        if let Content::Bytes(bytes) = &*content {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            // Not under the lock: the copy to the guest may take its time.
            let part = bytes[start..].iter().take(to.remaining()).copied().collect::<Vec<u8>>();
            drop(content);
            return Ok(to.write(&part)?);
        }
        let fd = self.host(&content).ok_or(Errno::EIO)?;
        drop(content);
        Ok(read_host(&fd, offset, to)?)
    }

    fn write_at(&self, file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        let append = file.flags().contains(OpenFlags::APPEND);
        let mut content = self.node.file()?.write();
        self.node.copy_up(&mut content)?;
        let size = content.size()?;
        let offset = if append { size } else { offset };
        let end = offset.checked_add(from.remaining() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(Errno::EFBIG)?;
        if end > size {
            self.node.charge(end - size)?;
        }
        if end > SMALL as u64 {
            Node::to_memory(&mut content)?;
        }
        let result = match &mut *content {
            Content::Memory { fd, .. } => {
                let fd = Arc::clone(fd);
                drop(content);
                write_host(&fd, offset, from)?
            }
            Content::Bytes(bytes) => {
                // At most the size of a small file, so copying under the lock is short.
                let data = from.read_all()?;
                let start = offset as usize;
                if bytes.len() < start + data.len() {
                    bytes.resize(start + data.len(), 0);
                }
                bytes[start..start + data.len()].copy_from_slice(&data);
                drop(content);
                (data.len(), offset + data.len() as u64)
            }
            Content::Lower(_) => return Err(Errno::EIO.into()),
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
        if let (Content::Lower(_), Some(fd)) = (&*content, &self.lower) {
            return Ok(Mappable::Host { fd: Arc::clone(fd), delta: 0 });
        }
        Ok(Mappable::Host { fd: Node::to_memory(&mut content)?, delta: 0 })
    }

    fn sync(&self) -> SysResult<()> {
        Ok(())
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const ZERO_RANGE: u32 = 16;
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if mode & PUNCH_HOLE != 0 && mode & KEEP_SIZE == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let size = self.node.size()?;
        if mode & KEEP_SIZE == 0 && mode & PUNCH_HOLE == 0 && end > size {
            self.node.charge(end - size)?;
            self.node.resize(end)?;
        }
        if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
            let mut content = self.node.file()?.write();
            self.node.copy_up(&mut content)?;
            match &mut *content {
                Content::Bytes(bytes) => {
                    let (start, end) = (offset.min(bytes.len() as u64), end.min(bytes.len() as u64));
                    bytes[start as usize..end as usize].fill(0);
                }
                Content::Memory { fd, .. } => {
                    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&*fd, mode, offset, length)?;
                }
                Content::Lower(_) => {}
            }
        }
        self.node.touch();
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Body::File(content) = &self.body {
            let size = match &*content.read() {
                Content::Bytes(bytes) => bytes.len() as u64,
                Content::Memory { fd, .. } => {
                    rustix::fs::fstat(fd).map_or(0, |stat| stat.st_size.cast_unsigned())
                }
                Content::Lower(_) => 0,
            };
            let used = &self.shared.used;
            let _ =
                used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old.saturating_sub(size)));
        }
    }
}

impl MemFs {
    /// A regular file without a name, for `memfd_create(2)` and System V shared memory.
    pub fn unnamed(self: &Arc<MemFs>, mode: u32, uid: u32, gid: u32) -> SysResult<InodeRef> {
        self.root.strong()?.create_unnamed(&NewFile { kind: NewKind::Regular, mode, uid, gid })
    }

    /// The seals of a file, `F_GET_SEALS`.
    pub fn seals(inode: &InodeRef) -> SysResult<u32> {
        let node = node_of(inode).map_err(|_| Errno::EINVAL)?;
        let content = node.file()?.read();
        Ok(if let Content::Memory { seals, .. } = &*content { *seals } else { 0 })
    }
}
