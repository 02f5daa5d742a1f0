//! Directories of the host as file systems.
//!
//! A [`HostFs`] stands on a [`gofer::Directory`], which carries operations out here or has the gofer do it; nothing in
//! this file knows which. Names are resolved one component at a time, without following links, so no path that a guest
//! gives can lead elsewhere. A file is known by its directory and name and opened when needed; directories are kept
//! open, so many of a mount at a time, and walked to again when they are needed again.
//!
//! A file that two mounts show, be it in two containers, is one to those who lock it, watch it, map it or meet at it by a
//! FIFO or socket: [`HostFiles`].
//!
//! Who else may change the files is the mount's [`Coherence`]. Owners are what this process's user namespace shows, which
//! is made with the id mapping of the container; [`Owners`] says what becomes of ids that it does not map.
//!
//! Locks: a place, a handle, what was seen, and the tables in `Shared` are each held alone.

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use gofer::{
    Access, Attributes, Changes, Directory, Guest, Listing, Name, NewNode, Peer, Removal, Replacing,
    SocketKind, Target, XattrReplacing,
};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, Mode};

use super::host_file::HostFile;
use super::name_watch::{self, Standing};
use super::{
    FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Looked, Metadata, NewFile, NewKind,
    OpenFile, OpenFileRef, RenameMode, SetAttributes, XattrMode,
};
use crate::error::{SysError, SyscallResult};
use crate::task::CurrentTask;

pub mod freshness;
mod open;
mod opened;
mod shared;

use open::{HostDirectory, HostRegular};
pub use open::{list, list_from, read_host, seek_host, write_host};
use opened::Opened;
pub use shared::HostFiles;
use shared::{Identity, Shared};

/// Whether guests may change a host directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// Who else changes the files of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coherence {
    /// Nobody: what was found once stays true, and is not asked for again.
    Exclusive,
    /// Others on the host: each use of a name asks what it stands for now, and what guests write is there at once.
    Shared,
}

/// What a character device of the host is to guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// The one of this kernel that has its number, if there is one.
    #[default]
    Emulated,
    /// That, or the host's where there is none.
    PreferEmulated,
    /// The host's.
    Host,
}

/// What the host's id for owners that are not mapped (65534) is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// What it is: all ids of the container are mapped, or it is an id that a file really has.
    Exact,
    /// Root: no more than one id is mapped, and the files of a system's programs should look as they do elsewhere.
    UnmappedAreRoot,
}

/// The id that the host shows for one that is not mapped.
const UNMAPPED: u32 = 65534;

/// [`Owners::UnmappedAreRoot`], as it applies to this process.
static UNMAPPED_ARE_ROOT: AtomicBool = AtomicBool::new(true);

/// Says what is true of this process's user namespace.
pub fn set_owners(owners: Owners) {
    UNMAPPED_ARE_ROOT.store(owners == Owners::UnmappedAreRoot, Ordering::Relaxed);
}

/// A host directory (or single file) as a file system.
pub struct HostFs {
    root: Arc<HostInode>,
    device: u64,
    coherence: Coherence,
}

impl HostFs {
    /// The file system below `root`, a descriptor of a directory or of a file, without a gofer; shared with the host.
    pub fn new(root: OwnedFd, writing: Writing) -> SysResult<Arc<HostFs>> {
        HostFs::at(Directory::held(root), writing, Coherence::Shared, &Arc::default())
    }

    /// The file system below a directory, whose files are among `files`.
    pub fn at(
        root: Directory,
        writing: Writing,
        coherence: Coherence,
        files: &Arc<HostFiles>,
    ) -> SysResult<Arc<HostFs>> {
        HostFs::with_devices(root, writing, coherence, Devices::Emulated, files)
    }

    /// [`HostFs::at`] for a device, or what may have some below.
    pub fn with_devices(
        root: Directory,
        writing: Writing,
        coherence: Coherence,
        devices: Devices,
        files: &Arc<HostFiles>,
    ) -> SysResult<Arc<HostFs>> {
        let attributes = root.stat(Target::Itself)?;
        let shared = Arc::new(Shared::new(writing, coherence, devices, !root.follows(), Arc::clone(files)));
        let inode = HostInode::new(&shared, &attributes, None, Some(Arc::new(root)));
        Ok(Arc::new(HostFs { device: attributes.device, root: inode, coherence }))
    }

    /// Its root as the inode that it is.
    pub fn root_inode(&self) -> Arc<HostInode> {
        Arc::clone(&self.root)
    }
}

impl FileSystem for HostFs {
    fn name(&self) -> &'static str {
        "hostfs"
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        let stat = self.root.directory()?.statistics()?;
        Ok(FsStatistics {
            magic: stat.magic,
            block_size: stat.block_size,
            blocks: stat.blocks,
            blocks_free: stat.blocks_free,
            blocks_available: stat.blocks_available,
            files: stat.files,
            files_free: stat.files_free,
            name_length: stat.name_length,
        })
    }

    fn device(&self) -> u64 {
        self.device
    }

    fn cacheable(&self) -> bool {
        self.coherence == Coherence::Exclusive
    }
}

/// Where a file is: its directory, and its name there.
type Place = (Arc<HostInode>, Box<[u8]>);

/// A directory while it is used.
enum Held<'a> {
    /// That of a mount's root, which is always there.
    Root(&'a Arc<Directory>),
    /// Another one.
    Below(Arc<Directory>),
}

impl Held<'_> {
    fn shared(self) -> Arc<Directory> {
        match self {
            Held::Root(directory) => Arc::clone(directory),
            Held::Below(directory) => directory,
        }
    }
}

impl Deref for Held<'_> {
    type Target = Directory;

    #[inline]
    fn deref(&self) -> &Directory {
        match self {
            Held::Root(directory) => directory,
            Held::Below(directory) => directory,
        }
    }
}

/// A file of the host.
pub struct HostInode {
    /// Made when it is needed: most files are only looked at.
    common: OnceLock<Arc<InodeCommon>>,
    shared: Arc<Shared>,
    kind: FileType,
    identity: Identity,
    this: Weak<HostInode>,
    /// `None` for the root.
    place: RwLock<Option<Place>>,
    /// The directory of a mount's root.
    root: Option<Arc<Directory>>,
    /// That of another one, as long as it is kept open.
    handle: Mutex<Option<Arc<Directory>>>,
    /// Descriptors of open files, which work after the name is gone.
    opened: Mutex<Opened>,
    /// What was found with the name, where that stays true.
    found: Option<Attributes>,
    /// What the host has told last, and in which system call.
    seen: Mutex<Option<(u64, Attributes)>>,
    /// Of a directory: whether its name has to be asked for again.
    standing: Standing<Attributes>,
}

impl Drop for HostInode {
    fn drop(&mut self) {
        let mut known = self.shared.known.lock();
        // Unless there is another by now.
        if known.get(&self.identity).is_some_and(|inode| inode.strong_count() == 0) {
            known.remove(&self.identity);
        }
    }
}

#[inline]
fn name_of(name: &[u8]) -> SysResult<Name<'_>> {
    Name::new(name)
}

impl HostInode {
    fn new(
        shared: &Arc<Shared>,
        attributes: &Attributes,
        place: Option<Place>,
        handle: Option<Arc<Directory>>,
    ) -> Arc<HostInode> {
        let (root, handle) = if place.is_none() { (handle, None) } else { (None, handle) };
        Arc::new_cyclic(|this| HostInode {
            common: OnceLock::new(),
            shared: Arc::clone(shared),
            kind: FileType::from_mode(attributes.mode),
            identity: Identity::from(attributes),
            this: Weak::clone(this),
            place: RwLock::new(place),
            root,
            handle: Mutex::new(handle),
            opened: Mutex::default(),
            found: shared.remembers().then_some(*attributes),
            seen: Mutex::default(),
            standing: Standing::default(),
        })
    }

    /// The directory (for a mount's root, also a file) itself, walked to if it is not open.
    #[inline]
    fn directory(&self) -> SysResult<Held<'_>> {
        match &self.root {
            Some(root) => Ok(Held::Root(root)),
            None => self.directory_below().map(Held::Below),
        }
    }

    fn directory_below(&self) -> SysResult<Arc<Directory>> {
        if let Some(handle) = &*self.handle.lock() {
            return Ok(Arc::clone(handle));
        }
        let (parent, name) = self.place.read().clone().ok_or(Errno::ESTALE)?;
        let (directory, attributes) = parent.directory()?.descend(name_of(&name)?)?;
        if self.shared.coherence == Coherence::Shared && Identity::from(&attributes) != self.identity {
            return Err(Errno::ESTALE);
        }
        let directory = Arc::new(directory);
        if !self.shared.keeps {
            return Ok(directory);
        }
        let kept = Arc::clone(self.handle.lock().get_or_insert_with(|| Arc::clone(&directory)));
        self.shared.keep_open(&self.this);
        Ok(kept)
    }

    /// The same directory for a layer over it, for which nobody else changes it.
    pub fn below_a_layer(&self) -> SysResult<Arc<HostInode>> {
        let directory = self.directory()?;
        let attributes = directory.stat(Target::Itself)?;
        let own = &self.shared;
        let shared = Arc::new(Shared::new(
            Writing::ReadOnly,
            Coherence::Exclusive,
            own.devices,
            own.keeps,
            Arc::clone(&own.files),
        ));
        Ok(HostInode::new(&shared, &attributes, None, Some(directory.shared())))
    }

    /// Has the host tell of changes to the directory, if it is kept open.
    fn watch(&self) {
        let handle = self.handle.lock();
        if let Some(directory) = self.root.as_ref().or(handle.as_ref())
            && let Some(descriptor) = directory.descriptor()
        {
            self.standing.watch(descriptor);
        }
    }

    /// Runs `operation` on the file by whatever it is known: its directory and name there, or itself.
    fn at<T>(&self, operation: impl FnOnce(&Directory, Target<'_>) -> SysResult<T>) -> SysResult<T> {
        match self.place.read().clone() {
            None => operation(&*self.directory()?, Target::Itself),
            Some((parent, name)) => operation(&*parent.directory()?, Target::Child(name_of(&name)?)),
        }
    }

    fn check_writable(&self) -> SysResult<()> {
        if self.shared.writing == Writing::ReadWrite { Ok(()) } else { Err(Errno::EROFS) }
    }

    /// The child called `name`.
    pub fn child(self: &Arc<Self>, name: &[u8]) -> SysResult<Arc<HostInode>> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (attributes, directory) = self.directory()?.look_up(name_of(name)?)?;
        Ok(self.known_child(name, &attributes, directory))
    }

    /// The inode of what was found by `name`.
    fn known_child(
        self: &Arc<Self>,
        name: &[u8],
        attributes: &Attributes,
        directory: Option<Directory>,
    ) -> Arc<HostInode> {
        let directory = directory.filter(|_| self.shared.keeps);
        let identity = Identity::from(attributes);
        let mut known = self.shared.known.lock();
        let kind = FileType::from_mode(attributes.mode);
        // Not dropped before the table is unlocked, which its end needs.
        let other = match known.get(&identity).and_then(Weak::upgrade) {
            Some(inode) if inode.kind == kind => {
                drop(known);
                inode.renamed(self, name);
                inode.note(attributes);
                return inode;
            }
            other => other,
        };
        let keeps = directory.is_some();
        let place = (Arc::clone(self), Box::from(name));
        let inode = HostInode::new(&self.shared, attributes, Some(place), directory.map(Arc::new));
        known.insert(identity, Arc::downgrade(&inode));
        drop(known);
        drop(other);
        inode.note(attributes);
        if keeps {
            self.shared.keep_open(&inode.this);
        }
        inode
    }

    /// The same inode, if it is this name's in that directory, where the name has just been found to have these attributes.
    fn if_still(
        &self,
        directory: &Arc<HostInode>,
        name: &[u8],
        attributes: &Attributes,
    ) -> Option<Arc<HostInode>> {
        let there = |place: &Place| Arc::ptr_eq(&place.0, directory) && *place.1 == *name;
        let same = Identity::from(attributes) == self.identity
            && FileType::from_mode(attributes.mode) == self.kind
            && self.place.read().as_ref().is_some_and(there);
        let inode = self.this.upgrade().filter(|_| same)?;
        inode.note(attributes);
        Some(inode)
    }

    /// Another name of it was found, or the same one again. The root of the mount stays that.
    fn renamed(&self, directory: &Arc<HostInode>, name: &[u8]) {
        let same = |own: &Place| Arc::ptr_eq(&own.0, directory) && *own.1 == *name;
        if self.place.read().as_ref().is_none_or(same) {
            return;
        }
        self.standing.forget();
        let before = self.place.write().replace((Arc::clone(directory), name.into()));
        drop(before);
    }

    /// Remembers attributes for the system call in which they were asked for.
    fn note(&self, attributes: &Attributes) {
        if let Some(call) = freshness::call() {
            *self.seen.lock() = Some((call, *attributes));
        }
    }

    /// What was asked for in this system call already.
    fn seen(&self) -> Option<Attributes> {
        let call = freshness::call()?;
        self.seen.lock().as_ref().filter(|(seen, _)| *seen == call).map(|(_, attributes)| *attributes)
    }

    /// Forgets what was seen: it is about to change.
    fn forget(&self) {
        *self.seen.lock() = None;
    }

    /// Opens the file itself on the host.
    pub fn open_host(&self, flags: OpenFlags) -> SysResult<Arc<OwnedFd>> {
        self.open_description(flags).map(|(fd, _)| fd)
    }

    /// [`HostInode::open_host`], and whether the open file description is the caller's alone, as long as it keeps it to itself.
    fn open_description(&self, flags: OpenFlags) -> SysResult<(Arc<OwnedFd>, bool)> {
        let access = access_of(flags);
        if access != Access::Read {
            self.check_writable()?;
        }
        let keeps = access == Access::Read && self.shared.remembers();
        if keeps && let Some(opened) = self.opened.lock().reading.get() {
            // Nobody uses its offset, so one descriptor is as good as two.
            return Ok((opened, false));
        }
        let spare = self.opened.lock().spare.take();
        if let Some(spare) = spare.filter(|_| access != Access::Read) {
            return Ok((self.note_opened(spare, access), true));
        }
        let opened = self.at(|directory, target| directory.open(target, access));
        // Without another descriptor, nobody but who has just found the name can be here.
        let another = |fd: &OwnedFd| self.opened.lock().any().is_some() && !self.is_open_as(fd);
        match opened {
            Ok(fd) if !another(&fd) => {
                let fd = self.note_opened(fd, access);
                if keeps {
                    self.shared.keep_file_open(&fd);
                }
                Ok((fd, !keeps))
            }
            Ok(_) | Err(Errno::ENOENT | Errno::ESTALE) => {
                // The name is gone, or another file has it. Whoever has the file open already shares the descriptor, but for its offset.
                let opened = self.opened.lock();
                let shared = match access {
                    Access::Read => opened.reading.get(),
                    Access::Write | Access::ReadWrite => opened.writing.get(),
                };
                shared.map(|fd| (fd, false)).ok_or(Errno::ENOENT)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a descriptor is of this file.
    fn is_open_as(&self, fd: &OwnedFd) -> bool {
        let Identity { device, inode, .. } = self.identity;
        rustix::fs::fstat(fd).is_ok_and(|status| (status.st_dev, status.st_ino) == (device, inode))
    }

    fn note_opened(&self, fd: OwnedFd, access: Access) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        let mut opened = self.opened.lock();
        if access != Access::Write {
            opened.reading.add(&fd);
        }
        if access != Access::Read {
            opened.writing.add(&fd);
        }
        fd
    }

    /// The attributes of the file, by a descriptor of it: `fstat(2)` costs half of `statx(2)`, and all that it does not
    /// tell is when the file was made, which is known.
    fn opened_attributes(&self, fd: impl AsFd) -> SysResult<Attributes> {
        let born = self.identity.born.map(|(sec, nsec)| TimeSpec { sec, nsec });
        Ok(Attributes { born, ..Attributes::from(&rustix::fs::fstat(fd)?) })
    }

    /// A descriptor by which these changes can be made, if the file is open: a new size takes one to write to it.
    fn open_for(&self, changes: &Changes) -> Option<Arc<OwnedFd>> {
        let opened = self.opened.lock();
        if changes.size.is_some() { opened.writing.get() } else { opened.any() }
    }

    /// A descriptor of the file, if it is open and its name stands for something else by now.
    fn nameless(&self) -> Option<Arc<OwnedFd>> {
        let fd = self.opened.lock().any()?;
        let named = self.at(|directory, target| directory.stat(target));
        let same = named.is_ok_and(|attributes| Identity::from(&attributes) == self.identity);
        (!same).then_some(fd)
    }

    /// Opens a character device, of this kernel or the host.
    fn open_device(&self, task: Option<&CurrentTask>, flags: OpenFlags) -> SyscallResult<Arc<dyn OpenFile>> {
        let devices = self.shared.devices;
        if devices != Devices::Host {
            match super::devices::open(task, self.metadata()?.rdev) {
                Err(SysError::Errno(Errno::ENXIO)) if devices == Devices::PreferEmulated => {}
                opened => return opened,
            }
        }
        let fd = self.at(|directory, _| directory.open_device(access_of(flags)))?;
        Ok(HostFile::device(fd))
    }

    /// Adds the entries of this directory to `listing`, without `.` and `..`.
    pub fn list(&self, listing: &mut Listing) -> SysResult<()> {
        self.directory()?.list(listing)
    }
}

/// How the host opens a file for these flags.
fn access_of(flags: OpenFlags) -> Access {
    match (flags.readable(), flags.writable()) {
        (true, true) => Access::ReadWrite,
        (false, true) => Access::Write,
        _ => Access::Read,
    }
}

/// Metadata as the host has it, the owner as [`Owners`] says.
#[inline]
fn metadata_of(attributes: &Attributes) -> Metadata {
    let unmapped = UNMAPPED_ARE_ROOT.load(Ordering::Relaxed);
    let id = |id: u32| if unmapped && id == UNMAPPED { 0 } else { id };
    Metadata {
        device: attributes.device,
        inode: attributes.inode,
        mode: attributes.mode,
        links: attributes.links,
        uid: id(attributes.uid),
        gid: id(attributes.gid),
        rdev: attributes.rdev,
        size: attributes.size,
        block_size: attributes.block_size,
        blocks: attributes.blocks,
        accessed: attributes.accessed,
        modified: attributes.modified,
        changed: attributes.changed,
        born: attributes.born,
    }
}

/// Metadata of a descriptor.
pub fn host_metadata(fd: &OwnedFd) -> SysResult<Metadata> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, Attributes::WANTED)?;
    Ok(metadata_of(&Attributes::from(&stat)))
}

/// Changes attributes of an open file.
fn change_open(fd: &OwnedFd, changes: &Changes) -> SysResult<()> {
    if let Some(size) = changes.size {
        rustix::fs::ftruncate(fd, size)?;
    }
    if changes.uid.is_some() || changes.gid.is_some() {
        let uid = changes.uid.map(rustix::fs::Uid::from_raw);
        let gid = changes.gid.map(rustix::fs::Gid::from_raw);
        rustix::fs::fchown(fd, uid, gid)?;
    }
    if let Some(mode) = changes.mode {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    if changes.accessed.is_some() || changes.modified.is_some() {
        const OMIT: rustix::fs::Timespec =
            rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
        let convert = |time: Option<TimeSpec>| {
            time.map_or(OMIT, |time| rustix::fs::Timespec { tv_sec: time.sec, tv_nsec: time.nsec as _ })
        };
        let times = rustix::fs::Timestamps {
            last_access: convert(changes.accessed),
            last_modification: convert(changes.modified),
        };
        rustix::fs::futimens(fd, &times)?;
    }
    Ok(())
}

impl Inode for HostInode {
    fn common(&self) -> &InodeCommon {
        self.common.get_or_init(|| match self.shared.coherence {
            // What lies under a layer is another file than the same one elsewhere.
            Coherence::Exclusive => Arc::new(InodeCommon::new()),
            Coherence::Shared => self.shared.files.common(self.identity),
        })
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> SysResult<Metadata> {
        if let Some(known) = self.found.or_else(|| self.seen()) {
            return Ok(metadata_of(&known));
        }
        let opened = self.opened.lock().any();
        let handle = || self.root.clone().or_else(|| self.handle.lock().clone());
        let attributes = match opened {
            Some(fd) => self.opened_attributes(&*fd)?,
            None => match handle() {
                Some(directory) => match directory.descriptor() {
                    Some(descriptor) => self.opened_attributes(descriptor)?,
                    None => directory.stat(Target::Itself)?,
                },
                None => self.at(|directory, target| directory.stat(target))?,
            },
        };
        self.note(&attributes);
        Ok(metadata_of(&attributes))
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        self.check_writable()?;
        self.forget();
        let changes = Changes {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            size: attributes.size,
            accessed: attributes.accessed,
            modified: attributes.modified,
        };
        // An open file is changed by its descriptor, whatever its name stands for by now.
        if let Some(fd) = self.open_for(&changes) {
            match change_open(&fd, &changes) {
                // The gofer may be allowed to; it knows files by their names.
                Err(Errno::EPERM | Errno::EACCES) => {}
                result => return result,
            }
        }
        match self.nameless() {
            Some(fd) => change_open(&fd, &changes),
            None => self.at(|directory, target| directory.set_attributes(target, &changes)),
        }
    }

    fn metadata_for_access(&self) -> SysResult<Metadata> {
        self.standing.known().map_or_else(|| self.metadata(), |attributes| Ok(metadata_of(&attributes)))
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        let before = if self.shared.watches() { name_watch::epoch() } else { None };
        let child = self.child(name)?;
        if let Some(before) = before
            && child.kind == FileType::Directory
            && let Some(seen) = child.seen()
            && child.standing.was_found(&self.standing, seen, before)
        {
            [&self, &child].into_iter().for_each(|directory| directory.watch());
        }
        Ok(child as InodeRef)
    }

    fn still_is(&self, name: &[u8], parent: &InodeRef) -> bool {
        let there = |(directory, own): &Place| {
            std::ptr::addr_eq(Arc::as_ptr(directory), Arc::as_ptr(parent)) && **own == *name
        };
        self.kind == FileType::Directory
            && self.place.read().as_ref().is_some_and(there)
            && self.standing.stands()
    }

    fn look(&self, name: &[u8], metadata: &mut Metadata) -> SysResult<Option<Looked>> {
        let directory = self.directory()?;
        if self.kind != FileType::Directory || !directory.is_held() {
            return Ok(None);
        }
        let mut attributes = Attributes::default();
        directory.stat_into(Target::Child(name_of(name)?), &mut attributes)?;
        let kind = FileType::from_mode(attributes.mode);
        if kind == FileType::Regular {
            self.shared.looked_at.note(self, name);
        }
        Ok(Some(match kind {
            FileType::Symlink => {
                let own = self.this.upgrade().ok_or(Errno::ESTALE)?;
                Looked::Link(own.known_child(name, &attributes, None))
            }
            _ => {
                *metadata = metadata_of(&attributes);
                Looked::Metadata
            }
        }))
    }

    fn look_at_link(&self, name: &[u8]) -> SysResult<Option<Vec<u8>>> {
        let directory = self.directory()?;
        if self.kind != FileType::Directory || !directory.is_held() {
            return Ok(None);
        }
        directory.read_link(name_of(name)?).map(Some)
    }

    fn lookup_opened(
        self: Arc<Self>,
        name: &[u8],
        expected: Option<&InodeRef>,
    ) -> SysResult<Option<(InodeRef, OpenFileRef)>> {
        if expected.is_none() && !self.shared.looked_at.is(&self, name) {
            return Ok(None);
        }
        let Some((fd, attributes)) = self.directory()?.open_expected(name_of(name)?) else { return Ok(None) };
        let expected = expected.and_then(|inode| inode.downcast_ref::<HostInode>());
        let inode = match expected.and_then(|inode| inode.if_still(&self, name, &attributes)) {
            Some(inode) => inode,
            None => self.known_child(name, &attributes, None),
        };
        let fd = inode.note_opened(fd, Access::Read);
        Ok(Some((inode as InodeRef, Arc::new(HostRegular { fd, own: true }))))
    }

    fn create(self: Arc<Self>, name: &[u8], new: &NewFile) -> SysResult<InodeRef> {
        self.check_writable()?;
        let (kind, device, target): (FileType, u64, &[u8]) = match &new.kind {
            NewKind::Regular => (FileType::Regular, 0, b""),
            NewKind::Directory => (FileType::Directory, 0, b""),
            NewKind::Symlink(target) => (FileType::Symlink, 0, target),
            NewKind::Fifo => (FileType::Fifo, 0, b""),
            NewKind::Socket => (FileType::Socket, 0, b""),
            NewKind::CharDevice(device) => (FileType::CharDevice, *device, b""),
            NewKind::BlockDevice(device) => (FileType::BlockDevice, *device, b""),
        };
        let mode = kind.mode_bits() | new.mode & 0o7777;
        let node = NewNode { mode, uid: new.uid, gid: new.gid, device, target };
        let (attributes, spare) = self.directory()?.create(name_of(name)?, &node)?;
        self.forget();
        let inode = self.known_child(name, &attributes, None);
        inode.opened.lock().spare = spare;
        Ok(inode as InodeRef)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> SysResult<()> {
        self.check_writable()?;
        let target = target.downcast_ref::<HostInode>().ok_or(Errno::EXDEV)?;
        let (parent, old) = target.place.read().clone().ok_or(Errno::EXDEV)?;
        target.forget();
        self.forget();
        parent.directory()?.link(name_of(&old)?, &*self.directory()?, name_of(name)?)
    }

    fn unlink(&self, name: &[u8]) -> SysResult<()> {
        self.check_writable()?;
        self.forget();
        self.directory()?.remove(name_of(name)?, Removal::File)
    }

    fn rmdir(&self, name: &[u8]) -> SysResult<()> {
        self.check_writable()?;
        self.forget();
        self.directory()?.remove(name_of(name)?, Removal::Directory)
    }

    fn rename(
        self: Arc<Self>,
        name: &[u8],
        parent: &InodeRef,
        new_name: &[u8],
        mode: RenameMode,
    ) -> SysResult<()> {
        self.check_writable()?;
        let target = Arc::clone(parent) as Arc<dyn std::any::Any + Send + Sync>;
        let target = target.downcast::<HostInode>().map_err(|_| Errno::EXDEV)?;
        let moved = self.child(name)?;
        let replacing = match mode {
            RenameMode::Replace => Replacing::Yes,
            RenameMode::NoReplace => Replacing::No,
            RenameMode::Exchange => Replacing::Exchange,
        };
        let replaced = if mode == RenameMode::Exchange { Some(target.child(new_name)?) } else { None };
        let to = target.directory()?;
        self.directory()?.rename(name_of(name)?, &to, name_of(new_name)?, replacing)?;
        moved.forget();
        *moved.place.write() = Some((target, new_name.into()));
        if let Some(replaced) = replaced {
            *replaced.place.write() = Some((self, name.into()));
        }
        Ok(())
    }

    fn readlink(&self, _task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        self.at(|directory, target| match target {
            Target::Child(name) => directory.read_link(name),
            Target::Itself => Err(Errno::EINVAL),
        })
    }

    fn open(
        self: Arc<Self>,
        task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match self.kind {
            FileType::Directory => {
                let directory = self.directory()?.shared();
                Ok(Arc::new(HostDirectory { inode: self, directory, names: Mutex::default() }))
            }
            FileType::Regular => {
                let (fd, own) = self.open_description(flags)?;
                Ok(Arc::new(HostRegular { fd, own }))
            }
            FileType::CharDevice => self.open_device(task, flags),
            _ => Err(Errno::ENXIO.into()),
        }
    }

    fn connect(&self, kind: SocketKind, guest: Guest) -> SysResult<(OwnedFd, Peer)> {
        self.at(|directory, target| directory.connect(target, kind, guest))
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        match self.at(|directory, target| directory.get_xattr(target, name)) {
            Err(Errno::ENOENT | Errno::ESTALE) => {
                let fd = self.opened.lock().any().ok_or(Errno::ENOENT)?;
                let mut value = vec![0; 65536];
                let length = rustix::fs::fgetxattr(&fd, name, value.as_mut_slice())?;
                value.truncate(length);
                Ok(value)
            }
            other => other,
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> SysResult<()> {
        self.check_writable()?;
        let replacing = match mode {
            XattrMode::Set => XattrReplacing::Either,
            XattrMode::Create => XattrReplacing::Create,
            XattrMode::Replace => XattrReplacing::Replace,
        };
        self.at(|directory, target| directory.set_xattr(target, name, value, replacing))
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        self.at(|directory, target| directory.list_xattr(target))
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.check_writable()?;
        self.at(|directory, target| directory.remove_xattr(target, name))
    }

    fn sync(&self) -> SysResult<()> {
        self.at(|directory, target| directory.sync(target))
    }
}

#[cfg(test)]
mod tests;
