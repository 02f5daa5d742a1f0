//! The file system in memory: tmpfs, and the merged root of a container.
//!
//! A directory may lie over a directory of the host or of an image ([`Lower`]), whose files it shows until they are changed:
//! the lower file's content is copied on the first write, its attributes on their first change; a removed name is remembered
//! as such (a *whiteout*). Nothing is read ahead of need, and a renamed lower directory is just a moved node. Without a lower
//! directory this is a tmpfs.
//!
//! Small files are bytes in this process; large or mapped ones are memfds, so that the host can page and guests map
//! them ([`content`]), or files without names in a directory of the host, for layers that are larger than memory ([`Store`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::{Mutex, RwLock};

use super::hostfs::list_from;
use super::{
    Acl, AclKind, Acls, DirectorySink, FileType, Inode, InodeCommon, InodeRef, Metadata, NewFile, NewKind,
    OpenFile, RenameMode, SetAttributes, XattrMode,
};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use gofer::{Listed, Listing};

/// What memory is counted in.
const PAGE: u64 = 4096;

mod content;
mod instance;
mod layer;
mod lower;

pub use content::Seals;
use content::{Content, OpenContent};
use instance::Shared;
pub use instance::{LayerOptions, MemFs, MemOptions, Store};
pub use lower::Lower;

/// The largest value of an extended attribute, and the most bytes of them all per file.
const XATTR_MAX: usize = 65536;
/// A file of a [`MemFs`].
pub struct Node {
    common: InodeCommon,
    shared: Arc<Shared>,
    number: u64,
    kind: FileType,
    attributes: Mutex<Attributes>,
    body: Body,
    seals: AtomicU32,
    /// How many bytes of the file system's limit it takes.
    charged: AtomicU64,
    /// How many of them are in this process itself.
    small: AtomicU64,
    this: Weak<Node>,
    /// The id of the lower inode that it came from.
    origin: Option<u64>,
    /// Whether it is among the changed ones.
    kept: AtomicBool,
}

/// What a node knows of itself, or leaves to the lower file as long as nothing was changed.
struct Attributes {
    lower: Option<Lower>,
    own: Metadata,
    /// The lower file's are not read.
    acls: Acls,
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
    /// The names that are not the lower directory's, or that are not there any more.
    entries: BTreeMap<Vec<u8>, Entry>,
    lower: Option<Lower>,
    removed: bool,
}

enum Entry {
    Node(Arc<Node>),
    Whiteout,
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
        shared.inodes.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|this| Node {
            common: InodeCommon::new(),
            shared: Arc::clone(shared),
            number,
            kind,
            attributes: Mutex::new(Attributes {
                lower: None,
                own,
                acls: new.acls.clone(),
                xattrs: BTreeMap::new(),
                xattrs_copied: true,
            }),
            body,
            seals: AtomicU32::new(Seals::SEAL.bits()),
            charged: AtomicU64::new(0),
            small: AtomicU64::new(0),
            this: Weak::clone(this),
            origin: None,
            kept: AtomicBool::new(false),
        })
    }

    /// The node that shows a lower file: one for all its names, so that they stay one file when it is changed.
    fn over(shared: &Arc<Shared>, lower: Lower) -> SysResult<Arc<Node>> {
        let kind = lower.file_type();
        let key = lower.common().id;
        let known = |table: &HashMap<u64, Weak<Node>>| table.get(&key).and_then(Weak::upgrade);
        if let Some(node) = known(&shared.known.lock()) {
            return Ok(node);
        }
        let metadata = lower.metadata()?;
        let body = match kind {
            FileType::Directory => {
                Body::Directory(Mutex::new(Directory { lower: Some(lower.clone()), ..Directory::default() }))
            }
            FileType::Regular => Body::File(RwLock::new(Content::Lower(lower.clone()))),
            FileType::Symlink => Body::Symlink(lower.readlink(None)?),
            _ => Body::Special,
        };
        let node = Arc::new_cyclic(|this| Node {
            common: InodeCommon::new(),
            shared: Arc::clone(shared),
            number: metadata.inode,
            kind,
            attributes: Mutex::new(Attributes {
                lower: Some(lower),
                own: metadata,
                acls: Acls::default(),
                xattrs: BTreeMap::new(),
                xattrs_copied: false,
            }),
            body,
            seals: AtomicU32::new(Seals::SEAL.bits()),
            charged: AtomicU64::new(0),
            small: AtomicU64::new(0),
            this: Weak::clone(this),
            origin: Some(key),
            kept: AtomicBool::new(false),
        });
        shared.inodes.fetch_add(1, Ordering::Relaxed);
        let mut table = shared.known.lock();
        // Somebody else may have been faster.
        if let Some(first) = known(&table) {
            drop(table);
            return Ok(first);
        }
        table.insert(key, Arc::downgrade(&node));
        Ok(node)
    }

    /// Keeps a node that is not what its lower file is any more, though nobody may use it for now; unless it has no name
    /// left.
    fn keep(&self, attributes: &Attributes) {
        let Some(key) = self.origin else { return };
        let keep = attributes.own.links > 0;
        if self.kept.load(Ordering::SeqCst) == keep {
            return;
        }
        let mut changed = self.shared.changed.lock();
        self.kept.store(keep, Ordering::SeqCst);
        let before = match self.this.upgrade().filter(|_| keep) {
            Some(this) => changed.insert(key, this),
            None => changed.remove(&key),
        };
        drop(changed);
        drop(before);
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

    /// The entry `name` of a locked directory, shown from the lower one if it is only there.
    fn entry(&self, directory: &mut Directory, name: &[u8]) -> SysResult<Option<Arc<Node>>> {
        match directory.entries.get(name) {
            Some(Entry::Node(node)) => return Ok(Some(Arc::clone(node))),
            Some(Entry::Whiteout) => return Ok(None),
            None => {}
        }
        let Some(lower) = &directory.lower else { return Ok(None) };
        match lower.child(name) {
            Ok(child) => Node::over(&self.shared, child).map(Some),
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
            Some(lower) => {
                Ok(lower.list()?.iter_from(0).all(|entry| directory.entries.contains_key(entry.name)))
            }
        }
    }

    /// Changes the node's own attributes.
    fn change(&self, change: impl FnOnce(&mut Metadata)) {
        self.change_with_acls(|own, _| change(own));
    }

    /// Changes them together with its access control lists.
    fn change_with_acls(&self, change: impl FnOnce(&mut Metadata, &mut Acls)) {
        let mut attributes = self.attributes.lock();
        self.adopt(&mut attributes);
        let Attributes { own, acls, .. } = &mut *attributes;
        change(own, acls);
        self.keep(&attributes);
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

    /// Empties a directory that nobody uses any more.
    fn take_children(&mut self) -> Vec<Arc<Node>> {
        let Body::Directory(directory) = &mut self.body else { return Vec::new() };
        let entries = std::mem::take(&mut directory.get_mut().entries).into_values();
        entries.filter_map(|entry| if let Entry::Node(node) = entry { Some(node) } else { None }).collect()
    }

    fn strong(&self) -> SysResult<Arc<Node>> {
        self.this.upgrade().ok_or(Errno::ENOENT)
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
        let extent = self.extent()?;
        let mut metadata = self.attributes.lock().own;
        metadata.device = self.shared.device;
        metadata.inode = self.number;
        if let Some((size, blocks)) = extent {
            metadata.size = size;
            metadata.blocks = blocks;
        }
        Ok(metadata)
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        let time = now();
        if let Some(size) = attributes.size {
            self.resize(size)?;
            self.touch();
        }
        if let Some(mode) = attributes.mode {
            self.check_executable_bits(mode)?;
        }
        self.change_with_acls(|own, acls| {
            if let Some(mode) = attributes.mode {
                own.mode = own.mode & abi::fs::S_IFMT | mode & 0o7777;
                acls.mode_changed(mode);
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
        self.shared.check_inodes()?;
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
        self.shared.check_inodes()?;
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
                    let mut content = content.write();
                    if flags.contains(OpenFlags::TRUNC) {
                        self.discard_lower(&mut content);
                    } else {
                        self.copy_up(&mut content)?;
                    }
                }
                let lower = match &*content.read() {
                    Content::Lower(lower) => Some(lower.open_content()?),
                    _ => None,
                };
                Ok(Arc::new(OpenContent::new(Arc::clone(&self), lower)))
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
            (None, Some(lower)) if !attributes.xattrs_copied && self.has_xattrs() => lower.get_xattr(name),
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
            Some(lower) if !attributes.xattrs_copied && self.has_xattrs() => lower.list_xattr(),
            _ => Ok(attributes.xattrs.keys().cloned().collect()),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.copy_xattrs();
        self.attributes.lock().xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
    }

    fn acl(&self, kind: AclKind) -> SysResult<Option<Arc<Acl>>> {
        match self.kind {
            FileType::Symlink => Err(Errno::EOPNOTSUPP),
            _ => Ok(self.attributes.lock().acls.get(kind).cloned()),
        }
    }

    fn set_acl(&self, kind: AclKind, list: Option<Arc<Acl>>, dropped: u32) -> SysResult<()> {
        match (self.kind, kind) {
            (FileType::Symlink, _) => return Err(Errno::EOPNOTSUPP),
            (FileType::Directory, _) | (_, AclKind::Access) => {}
            (_, AclKind::Default) => return list.map_or(Ok(()), |_| Err(Errno::EACCES)),
        }
        let time = now();
        self.change_with_acls(|own, acls| {
            own.mode = acls.set(kind, list, own.mode) & !dropped;
            own.changed = time;
        });
        Ok(())
    }
}

impl Node {
    /// Whether the lower file may have extended attributes that the host lets us read.
    fn has_xattrs(&self) -> bool {
        matches!(self.kind, FileType::Regular | FileType::Directory)
    }

    /// Makes the lower file's extended attributes the node's own.
    fn copy_xattrs(&self) {
        let mut attributes = self.attributes.lock();
        if attributes.xattrs_copied {
            return;
        }
        attributes.xattrs_copied = true;
        self.keep(&attributes);
        let Some(lower) = attributes.lower.clone().filter(|_| self.has_xattrs()) else { return };
        for name in lower.list_xattr().unwrap_or_default() {
            if let Ok(value) = lower.get_xattr(&name) {
                attributes.xattrs.insert(name, value);
            }
        }
    }
}

struct OpenDirectory {
    node: Arc<Node>,
    names: Mutex<Listing>,
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
            let mut add = |name: &[u8], inode, kind: FileType| {
                names.push(Listed { inode, kind: kind.mode_bits(), name });
            };
            add(b".", self.node.number, FileType::Directory);
            add(b"..", self.node.number, FileType::Directory);
            let directory = self.node.directory()?.lock();
            for (name, entry) in &directory.entries {
                if let Entry::Node(node) = entry {
                    add(name, node.number, node.kind);
                }
            }
            if let Some(lower) = &directory.lower {
                let is_seen = |entry: &Listed<'_>| !directory.entries.contains_key(entry.name);
                lower.list()?.iter_from(0).filter(is_seen).for_each(|entry| names.push(entry));
            }
        }
        list_from(&names, position, sink);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileSystem;
    use crate::fs::hostfs::{HostFs, Writing};

    #[test]
    fn of_a_lower_directory_only_what_was_changed_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["read", "changed", "removed"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        std::fs::hard_link(directory.path().join("changed"), directory.path().join("again")).unwrap();
        let lower = std::os::fd::OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let lower = HostFs::new(lower, Writing::ReadOnly).unwrap();
        let merged = MemFs::merged(lower.root_inode()).unwrap();
        let find = |name: &str| merged.root().lookup(name.as_bytes());
        let known = || merged.shared.known.lock().len();
        let before = known();
        assert_eq!(find("read").unwrap().metadata().unwrap().size, 4);
        assert_eq!(known(), before);
        let size = SetAttributes { size: Some(1), ..SetAttributes::default() };
        find("changed").unwrap().set_attributes(&size).unwrap();
        merged.root().unlink(b"removed").unwrap();
        // Nobody holds it, and both its names stand for what it is now.
        for name in ["changed", "again"] {
            assert_eq!(find(name).unwrap().metadata().unwrap().size, 1, "{name}");
        }
        assert_eq!(find("removed").err(), Some(Errno::ENOENT));
        assert_eq!(known(), before + 1);
        for name in ["changed", "again"] {
            merged.root().unlink(name.as_bytes()).unwrap();
            assert_eq!(find(name).err(), Some(Errno::ENOENT));
        }
        assert_eq!(known(), before);
    }
}
