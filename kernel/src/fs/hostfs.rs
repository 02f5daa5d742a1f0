//! Host directories as file systems: everything below one directory descriptor.
//!
//! Names are resolved by the host one component at a time, below descriptors that we hold and without following links,
//! so no path that a guest gives can lead elsewhere. A file is known by its directory and name and opened when needed;
//! directories keep a descriptor once they have been used.
//!
//! In a user namespace that maps one id, the host shows all others as 65534; they are shown as root's.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};

use super::{
    DirectorySink, File, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Mappable,
    Metadata, NewFile, NewKind, OpenFile, RenameMode, SetAttributes, Whence, XattrMode,
};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::Events;

/// Whether guests may change a host directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// The id that the host shows for one that is not mapped.
const UNMAPPED: u32 = 65534;

/// A host directory (or single file) as a file system.
pub struct HostFs {
    root: Arc<HostInode>,
    device: u64,
}

impl HostFs {
    /// The file system below `root`, a descriptor of a directory or of a file.
    pub fn new(root: OwnedFd, writing: Writing) -> SysResult<Arc<HostFs>> {
        let stat = rustix::fs::statx(&root, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let shared = Arc::new(Shared { writing, known: Mutex::default() });
        let inode = Arc::new(HostInode {
            common: InodeCommon::new(),
            shared,
            kind: FileType::from_mode(stat.stx_mode.into()),
            place: RwLock::new(None),
            handle: OnceLock::from(root),
            opened: Mutex::new(Weak::new()),
        });
        Ok(Arc::new(HostFs { device: device(&stat), root: inode }))
    }

    /// Its root as the inode that it is.
    pub fn root_inode(&self) -> Arc<HostInode> {
        Arc::clone(&self.root)
    }
}

fn device(stat: &rustix::fs::Statx) -> u64 {
    abi::fs::make_device(stat.stx_dev_major, stat.stx_dev_minor)
}

impl FileSystem for HostFs {
    fn name(&self) -> &'static str {
        "hostfs"
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        let stat = rustix::fs::fstatvfs(&*self.root.handle()?)?;
        Ok(FsStatistics {
            magic: 0x0102_1997,
            block_size: stat.f_bsize,
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_length: 255,
        })
    }

    fn device(&self) -> u64 {
        self.device
    }
}

struct Shared {
    writing: Writing,
    /// Inodes in use by the host's device and number, so that two names of a file are one inode.
    known: Mutex<HashMap<(u64, u64), Weak<HostInode>>>,
}

/// A file of the host.
pub struct HostInode {
    common: InodeCommon,
    shared: Arc<Shared>,
    kind: FileType,
    /// The directory that it is in, and its name there; `None` for the root.
    place: RwLock<Option<(Arc<HostInode>, Vec<u8>)>>,
    /// An `O_PATH` descriptor: of directories, and of the root.
    handle: OnceLock<OwnedFd>,
    /// A descriptor that an open file has, which works after the name is gone.
    opened: Mutex<Weak<OwnedFd>>,
}

/// A descriptor of an inode: its own, or one that was opened for the occasion.
enum Handle<'a> {
    Kept(&'a OwnedFd),
    Opened(OwnedFd),
}

impl std::ops::Deref for Handle<'_> {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        match self {
            Handle::Kept(fd) => fd,
            Handle::Opened(fd) => fd,
        }
    }
}

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_below(directory: &OwnedFd, name: &[u8], flags: OFlags) -> SysResult<OwnedFd> {
    Ok(rustix::fs::openat2(
        directory,
        name,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        RESOLVE,
    )?)
}

impl HostInode {
    /// A descriptor that names the file without opening it.
    fn handle(&self) -> SysResult<Handle<'_>> {
        if let Some(fd) = self.handle.get() {
            return Ok(Handle::Kept(fd));
        }
        let (parent, name) = self.place.read().clone().ok_or(Errno::ENOENT)?;
        // The host refuses to resolve a last component that is a link unless it is opened as itself, so no RESOLVE here.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*parent.handle()?, name.as_slice(), flags, Mode::empty())?;
        if self.kind == FileType::Directory {
            return Ok(Handle::Kept(self.handle.get_or_init(|| fd)));
        }
        Ok(Handle::Opened(fd))
    }

    /// Runs `operation` with the directory and the name of the file.
    fn at<T>(&self, operation: impl FnOnce(&OwnedFd, &[u8]) -> rustix::io::Result<T>) -> SysResult<T> {
        let (parent, name) = self.place.read().clone().ok_or(Errno::EBUSY)?;
        let handle = parent.handle()?;
        Ok(operation(&handle, &name)?)
    }

    fn check_writable(&self) -> SysResult<()> {
        if self.shared.writing == Writing::ReadWrite { Ok(()) } else { Err(Errno::EROFS) }
    }

    /// The child called `name`.
    pub fn child(self: &Arc<Self>, name: &[u8]) -> SysResult<Arc<HostInode>> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let handle = self.handle()?;
        let stat = rustix::fs::statx(&*handle, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        let key = (device(&stat), stat.stx_ino);
        let mut known = self.shared.known.lock();
        if let Some(inode) = known.get(&key).and_then(Weak::upgrade) {
            *inode.place.write() = Some((Arc::clone(self), name.to_vec()));
            return Ok(inode);
        }
        if known.len() > 1024 && known.len().is_power_of_two() {
            known.retain(|_, inode| inode.strong_count() > 0);
        }
        let inode = Arc::new(HostInode {
            common: InodeCommon::new(),
            shared: Arc::clone(&self.shared),
            kind: FileType::from_mode(stat.stx_mode.into()),
            place: RwLock::new(Some((Arc::clone(self), name.to_vec()))),
            handle: OnceLock::new(),
            opened: Mutex::new(Weak::new()),
        });
        known.insert(key, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// Opens the file itself on the host.
    pub fn open_host(&self, flags: OpenFlags) -> SysResult<Arc<OwnedFd>> {
        let mut host = match (flags.readable(), flags.writable()) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        host |= OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        if flags.writable() {
            self.check_writable()?;
        }
        let fd = match self.place.read().clone() {
            Some((parent, name)) => open_below(&*parent.handle()?, &name, host)?,
            // The root: a directory is opened through itself; a single file through its own link, which we made.
            None if self.kind == FileType::Directory => open_below(&*self.handle()?, b".", host)?,
            None => {
                if flags.writable() {
                    return Err(Errno::EACCES);
                }
                rustix::io::dup(&*self.handle()?)?
            }
        };
        let fd = Arc::new(fd);
        *self.opened.lock() = Arc::downgrade(&fd);
        Ok(fd)
    }

    /// The names in this directory with their numbers and types, without `.` and `..`.
    pub fn names(&self) -> SysResult<Vec<(Vec<u8>, u64, FileType)>> {
        let fd = open_below(&*self.handle()?, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        let mut directory = rustix::fs::Dir::new(fd)?;
        while let Some(entry) = directory.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                rustix::fs::FileType::Unknown => FileType::Regular,
                known => FileType::from_mode(known.as_raw_mode()),
            };
            names.push((name.to_vec(), entry.ino(), kind));
        }
        Ok(names)
    }
}

fn time(time: rustix::fs::StatxTimestamp) -> TimeSpec {
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec.into() }
}

/// Metadata as the host has it, ids that are not mapped as root's.
pub fn host_metadata(stat: &rustix::fs::Statx) -> Metadata {
    let id = |id: u32| if id == UNMAPPED { 0 } else { id };
    Metadata {
        device: device(stat),
        inode: stat.stx_ino,
        mode: stat.stx_mode.into(),
        links: stat.stx_nlink,
        uid: id(stat.stx_uid),
        gid: id(stat.stx_gid),
        rdev: abi::fs::make_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        block_size: stat.stx_blksize,
        blocks: stat.stx_blocks,
        accessed: time(stat.stx_atime),
        modified: time(stat.stx_mtime),
        changed: time(stat.stx_ctime),
        born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)),
    }
}

/// Times for `utimensat(2)` on the host, the missing ones left as they are.
pub fn host_times(attributes: &SetAttributes) -> rustix::fs::Timestamps {
    const OMIT: rustix::fs::Timespec =
        rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
    let convert = |time: Option<TimeSpec>| {
        time.map_or(OMIT, |time| rustix::fs::Timespec { tv_sec: time.sec, tv_nsec: time.nsec as _ })
    };
    rustix::fs::Timestamps {
        last_access: convert(attributes.accessed),
        last_modification: convert(attributes.modified),
    }
}

impl Inode for HostInode {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> SysResult<Metadata> {
        const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
        let opened = self.opened.lock().upgrade();
        let stat = match (&opened, self.handle.get()) {
            (Some(fd), _) => rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)?,
            (None, Some(fd)) => rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)?,
            (None, None) => {
                self.at(|parent, name| rustix::fs::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, WANTED))?
            }
        };
        Ok(host_metadata(&stat))
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        self.check_writable()?;
        if let Some(size) = attributes.size {
            let fd = self.open_host(OpenFlags::RDWR)?;
            rustix::fs::ftruncate(&fd, size)?;
        }
        if attributes.uid.is_some() || attributes.gid.is_some() {
            let uid = attributes.uid.map(rustix::fs::Uid::from_raw);
            let gid = attributes.gid.map(rustix::fs::Gid::from_raw);
            self.at(|parent, name| rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        if let Some(mode) = attributes.mode {
            self.at(|parent, name| {
                rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
            })?;
        }
        if attributes.accessed.is_some() || attributes.modified.is_some() {
            let times = host_times(attributes);
            self.at(|parent, name| rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        Ok(())
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        Ok(self.child(name)? as InodeRef)
    }

    fn create(self: Arc<Self>, name: &[u8], new: &NewFile) -> SysResult<InodeRef> {
        self.check_writable()?;
        let handle = self.handle()?;
        let mode = Mode::from_raw_mode(new.mode);
        match &new.kind {
            NewKind::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(rustix::fs::openat(&*handle, name, flags, mode)?);
            }
            NewKind::Directory => rustix::fs::mkdirat(&*handle, name, mode)?,
            NewKind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), &*handle, name)?,
            NewKind::Fifo => rustix::fs::mknodat(&*handle, name, rustix::fs::FileType::Fifo, mode, 0)?,
            NewKind::Socket => rustix::fs::mknodat(&*handle, name, rustix::fs::FileType::Socket, mode, 0)?,
            NewKind::CharDevice(_) | NewKind::BlockDevice(_) => return Err(Errno::EPERM),
        }
        // The owner is the sandbox's own where nobody else can be; that is not an error of the guest's.
        let (uid, gid) = (rustix::fs::Uid::from_raw(new.uid), rustix::fs::Gid::from_raw(new.gid));
        let _ = rustix::fs::chownat(&*handle, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        if !matches!(new.kind, NewKind::Symlink(_)) {
            rustix::fs::chmodat(&*handle, name, mode, AtFlags::empty())?;
        }
        drop(handle);
        Ok(self.child(name)? as InodeRef)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> SysResult<()> {
        self.check_writable()?;
        let target = target.downcast_ref::<HostInode>().ok_or(Errno::EXDEV)?;
        let (parent, old) = target.place.read().clone().ok_or(Errno::EXDEV)?;
        Ok(rustix::fs::linkat(&*parent.handle()?, old.as_slice(), &*self.handle()?, name, AtFlags::empty())?)
    }

    fn unlink(&self, name: &[u8]) -> SysResult<()> {
        self.check_writable()?;
        Ok(rustix::fs::unlinkat(&*self.handle()?, name, AtFlags::empty())?)
    }

    fn rmdir(&self, name: &[u8]) -> SysResult<()> {
        self.check_writable()?;
        Ok(rustix::fs::unlinkat(&*self.handle()?, name, AtFlags::REMOVEDIR)?)
    }

    fn rename(
        self: Arc<Self>,
        name: &[u8],
        parent: &InodeRef,
        new_name: &[u8],
        mode: RenameMode,
    ) -> SysResult<()> {
        self.check_writable()?;
        let moved = self.child(name)?;
        let target = Arc::clone(parent) as Arc<dyn std::any::Any + Send + Sync>;
        let target = target.downcast::<HostInode>().map_err(|_| Errno::EXDEV)?;
        let flags = match mode {
            RenameMode::Replace => rustix::fs::RenameFlags::empty(),
            RenameMode::NoReplace => rustix::fs::RenameFlags::NOREPLACE,
            RenameMode::Exchange => rustix::fs::RenameFlags::EXCHANGE,
        };
        rustix::fs::renameat_with(&*self.handle()?, name, &*target.handle()?, new_name, flags)?;
        *moved.place.write() = Some((target, new_name.to_vec()));
        Ok(())
    }

    fn readlink(&self, _task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        self.at(|parent, name| rustix::fs::readlinkat(parent, name, Vec::new()))
            .map(std::ffi::CString::into_bytes)
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match self.kind {
            FileType::Directory => Ok(Arc::new(HostDirectory { inode: self, names: Mutex::default() })),
            FileType::Regular => {
                let fd = self.open_host(flags)?;
                Ok(Arc::new(HostRegular { fd }))
            }
            _ => Err(Errno::ENXIO.into()),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        let fd = self.open_host(OpenFlags::empty())?;
        let mut value = vec![0; 65536];
        let length = rustix::fs::fgetxattr(&fd, name, &mut value)?;
        value.truncate(length);
        Ok(value)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> SysResult<()> {
        self.check_writable()?;
        let flags = match mode {
            XattrMode::Set => rustix::fs::XattrFlags::empty(),
            XattrMode::Create => rustix::fs::XattrFlags::CREATE,
            XattrMode::Replace => rustix::fs::XattrFlags::REPLACE,
        };
        let fd = self.open_host(OpenFlags::empty())?;
        Ok(rustix::fs::fsetxattr(&fd, name, value, flags)?)
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        if !matches!(self.kind, FileType::Regular | FileType::Directory) {
            return Ok(Vec::new());
        }
        let fd = self.open_host(OpenFlags::empty())?;
        let mut names = vec![0; 65536];
        let length = rustix::fs::flistxattr(&fd, &mut names)?;
        let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.check_writable()?;
        let fd = self.open_host(OpenFlags::empty())?;
        Ok(rustix::fs::fremovexattr(&fd, name)?)
    }
}

/// Reads at `offset` of a host file.
pub fn read_host(fd: &OwnedFd, offset: u64, to: &mut UserWriter<'_>) -> SysResult<usize> {
    let mut at = offset;
    to.fill(|chunk| {
        let count = rustix::io::pread(fd, chunk, at)?;
        at += count as u64;
        Ok(count)
    })
}

/// Writes at `offset` of a host file.
pub fn write_host(fd: &OwnedFd, offset: u64, from: &mut UserReader<'_>) -> SysResult<(usize, u64)> {
    let mut at = offset;
    let count = from.drain(|chunk| {
        let count = rustix::io::pwrite(fd, chunk, at)?;
        at += count as u64;
        Ok(count)
    })?;
    Ok((count, at))
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

struct HostRegular {
    fd: Arc<OwnedFd>,
}

impl OpenFile for HostRegular {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        Ok(read_host(&self.fd, offset, to)?)
    }

    fn write_at(&self, file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        let append = file.flags().contains(OpenFlags::APPEND);
        let offset = if append { rustix::fs::fstat(&self.fd)?.st_size.cast_unsigned() } else { offset };
        Ok(write_host(&self.fd, offset, from)?)
    }

    fn seek(&self, file: &File, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        match whence {
            Whence::Data | Whence::Hole => seek_host(&self.fd, offset, whence)?.ok_or(Errno::EINVAL),
            _ => file.seek_default(current, offset, whence),
        }
    }

    fn readiness(&self, _file: &File) -> Events {
        Events::READABLE | Events::WRITABLE
    }

    fn map(&self, _file: &File, _shared: bool, _writable: bool) -> SysResult<Mappable> {
        Ok(Mappable::Host { fd: Arc::clone(&self.fd), delta: 0 })
    }

    fn sync(&self) -> SysResult<()> {
        Ok(rustix::fs::fsync(self.fd.as_fd())?)
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&self.fd, mode, offset, length)?)
    }
}

struct HostDirectory {
    inode: Arc<HostInode>,
    names: Mutex<Vec<(Vec<u8>, u64, FileType)>>,
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
            *names = self.inode.names()?;
            let own = self.inode.metadata()?.inode;
            for (index, name) in [&b"."[..], b".."].into_iter().enumerate() {
                names.insert(index, (name.to_vec(), own, FileType::Directory));
            }
        }
        list(&names, position, sink);
        Ok(())
    }
}

/// Gives the entries from `position` on to `sink`; an entry's position is its index.
pub fn list(names: &[(Vec<u8>, u64, FileType)], position: u64, sink: &mut DirectorySink<'_>) {
    let start = usize::try_from(position).unwrap_or(usize::MAX).min(names.len());
    for (index, (name, inode, kind)) in names.iter().enumerate().skip(start) {
        if !sink(name, *inode, *kind, index as u64 + 1) {
            break;
        }
    }
}
