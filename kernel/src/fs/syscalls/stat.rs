//! What is known of files and file systems, and changing it.

use std::borrow::Cow;
use std::sync::Arc;

use abi::Errno;
use abi::fs::{S_ISGID, S_ISUID, Stat, split_device};
use abi::time::{TimeSpec, TimeVal};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::SyscallResult;
use crate::fs::file::Place;
use crate::fs::hostfs::freshness;
use crate::fs::inotify::{self, Mask, attribute_mask};
use crate::fs::mount::{Mount, MountFlags};
use crate::fs::path::{Walk, Walked};
use crate::fs::permissions::{Access, check, check_mount_writable, check_with, check_writable, is_owner};
use crate::fs::privileges;
use crate::fs::text::TextGuard;
use crate::fs::{File, FileSystem, FileType, InodeRef, Metadata, PathRef, SetAttributes};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::credentials::Capability;
use crate::task::{Credentials, CurrentTask};
use crate::user::{PathText, UserPath, UserPtr};

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EACCESS: u32 = 0x200;
const AT_SYMLINK_FOLLOW: u32 = 0x400;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_STATX_SYNC: u32 = 0x6000;

fn to_stat(credentials: &Credentials, metadata: &Metadata) -> Stat {
    Stat {
        dev: metadata.device,
        ino: metadata.inode,
        nlink: metadata.links.into(),
        mode: metadata.mode,
        uid: credentials.shown_uid(metadata.uid),
        gid: credentials.shown_gid(metadata.gid),
        rdev: metadata.rdev,
        size: metadata.size.cast_signed(),
        blksize: metadata.block_size.into(),
        blocks: metadata.blocks.cast_signed(),
        atime: metadata.accessed,
        mtime: metadata.modified,
        ctime: metadata.changed,
        ..Stat::default()
    }
}

/// What is known of an open file; made up for one without an inode.
fn file_metadata(file: &File) -> SyscallResult<Metadata> {
    if let Some(inode) = file.inode() {
        return Ok(inode.metadata()?);
    }
    let kind = match &file.place {
        Place::Anonymous { name, .. } if name.starts_with("pipe:") => abi::fs::S_IFIFO,
        Place::Anonymous { name, .. } if name.starts_with("socket:") => abi::fs::S_IFSOCK,
        _ => 0,
    };
    Ok(Metadata {
        device: 14,
        inode: file.id,
        mode: kind | 0o600,
        links: 1,
        block_size: 4096,
        ..Metadata::default()
    })
}

/// Where [`look`] has found a file.
enum Seen {
    /// In this mount.
    In(Arc<Mount>),
    /// There.
    At(PathRef),
    /// Behind a descriptor.
    Open(Arc<File>),
}

impl Seen {
    /// Where it is in one.
    fn mount(&self) -> Option<&Mount> {
        match self {
            Seen::In(mount) => Some(mount),
            Seen::At(place) => Some(&place.mount),
            Seen::Open(file) => file.path().map(|place| &*place.mount),
        }
    }

    /// Where it had to be looked up.
    fn inode(&self) -> Option<&InodeRef> {
        match self {
            Seen::In(_) => None,
            Seen::At(place) => place.inode(),
            Seen::Open(file) => file.inode(),
        }
    }
}

/// The file that a path, or with `AT_EMPTY_PATH` a descriptor, names; what it is like goes to `metadata`.
#[inline]
fn look(
    task: &CurrentTask,
    credentials: &Credentials,
    directory: Fd,
    path: &[u8],
    flags: u32,
    metadata: &mut Metadata,
) -> SyscallResult<Seen> {
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 && directory != Fd::CWD {
        let file = task.file(directory)?;
        *metadata = file_metadata(&file)?;
        return Ok(Seen::Open(file));
    }
    let mut walk = Walk::empty();
    walk.set(Walk::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    walk.set(Walk::EMPTY, flags & AT_EMPTY_PATH != 0);
    let _moment = freshness::begin();
    match task.walk_looking(credentials, directory, path, walk, metadata)? {
        Walked::Looked(mount) => Ok(Seen::In(mount)),
        Walked::Found(found) => {
            *metadata = found.place.existing()?.metadata()?;
            Ok(Seen::At(found.place))
        }
    }
}

/// `newfstatat(2)`.
pub fn newfstatat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    buffer: UserPtr<Stat>,
    flags: Flags,
) -> SyscallResult<()> {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path =
        if path.0 == 0 && flags.0 & AT_EMPTY_PATH != 0 { PathText::default() } else { task.read_path(path)? };
    let credentials = task.own_credentials();
    let mut metadata = Metadata::default();
    look(task, &credentials, directory, &path, flags.0, &mut metadata)?;
    Ok(task.write_result_object(buffer, &to_stat(&credentials, &metadata))?)
}

/// `stat(2)`.
pub fn stat(task: &CurrentTask, path: UserPath, buffer: UserPtr<Stat>) -> SyscallResult<()> {
    newfstatat(task, Fd::CWD, path, buffer, Flags(0))
}

/// `lstat(2)`.
pub fn lstat(task: &CurrentTask, path: UserPath, buffer: UserPtr<Stat>) -> SyscallResult<()> {
    newfstatat(task, Fd::CWD, path, buffer, Flags(AT_SYMLINK_NOFOLLOW))
}

/// `fstat(2)`.
pub fn fstat(task: &CurrentTask, fd: Fd, buffer: UserPtr<Stat>) -> SyscallResult<()> {
    let metadata = file_metadata(&*task.file(fd)?)?;
    Ok(task.write_result_object(buffer, &to_stat(&task.own_credentials(), &metadata))?)
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: i32,
}

impl From<TimeSpec> for StatxTime {
    fn from(time: TimeSpec) -> StatxTime {
        StatxTime { sec: time.sec, nsec: time.nsec as u32, pad: 0 }
    }
}

/// `struct statx`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    mount: u64,
    rest: [u64; 13],
}

/// `statx(2)`.
pub fn statx(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    flags: Flags,
    mask: Flags,
    buffer: UserPtr<Statx>,
) -> SyscallResult<()> {
    const BASIC: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    const MOUNT: u32 = 0x1000;
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC;
    if flags.0 & !known != 0 || flags.0 & AT_STATX_SYNC == AT_STATX_SYNC || mask.0 & 1 << 31 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path =
        if path.0 == 0 && flags.0 & AT_EMPTY_PATH != 0 { PathText::default() } else { task.read_path(path)? };
    let credentials = task.own_credentials();
    let mut metadata = Metadata::default();
    let seen = look(task, &credentials, directory, &path, flags.0, &mut metadata)?;
    let mount = seen.mount();
    let (rdev_major, rdev_minor) = split_device(metadata.rdev);
    let (dev_major, dev_minor) = split_device(metadata.device);
    let statx = Statx {
        mask: BASIC
            | if metadata.born.is_some() { BTIME } else { 0 }
            | if mount.is_some() { MOUNT } else { 0 },
        blksize: metadata.block_size,
        nlink: metadata.links,
        uid: credentials.shown_uid(metadata.uid),
        gid: credentials.shown_gid(metadata.gid),
        mode: metadata.mode as u16,
        ino: metadata.inode,
        size: metadata.size,
        blocks: metadata.blocks,
        atime: metadata.accessed.into(),
        btime: metadata.born.unwrap_or_default().into(),
        ctime: metadata.changed.into(),
        mtime: metadata.modified.into(),
        rdev_major,
        rdev_minor,
        dev_major,
        dev_minor,
        mount: mount.map_or(0, |mount| mount.id),
        ..Statx::default()
    };
    Ok(task.write_result_object(buffer, &statx)?)
}

/// `faccessat2(2)`.
pub fn faccessat2(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    mode: u32,
    flags: Flags,
) -> SyscallResult<()> {
    if mode & !7 != 0 || flags.0 & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = task.read_path(path)?;
    let credentials = task.own_credentials();
    let mut metadata = Metadata::default();
    let seen = look(task, &credentials, directory, &path, flags.0, &mut metadata)?;
    if mode == 0 {
        return Ok(());
    }
    let access = Access::from_bits_truncate(mode);
    let special =
        !matches!(metadata.file_type(), FileType::Regular | FileType::Directory | FileType::Symlink);
    if let Some(mount) = seen.mount().filter(|_| access.contains(Access::WRITE) && !special) {
        check_mount_writable(mount)?;
    }
    if flags.0 & AT_EACCESS != 0 {
        return Ok(check_with(&metadata, seen.inode(), &credentials, access)?);
    }
    // By the real ids, and the capabilities that they would have.
    let (fs_uid, fs_gid) = (credentials.uid, credentials.gid);
    let effective = if credentials.is_root_user(fs_uid) { credentials.permitted } else { 0 };
    let same = (fs_uid, fs_gid, effective) == (credentials.fs_uid, credentials.fs_gid, credentials.effective);
    let real = match same {
        true => Cow::Borrowed(&*credentials),
        false => Cow::Owned(Credentials { fs_uid, fs_gid, effective, ..(*credentials).clone() }),
    };
    Ok(check_with(&metadata, seen.inode(), &real, access)?)
}

/// `faccessat(2)`.
pub fn faccessat(task: &CurrentTask, directory: Fd, path: UserPath, mode: u32) -> SyscallResult<()> {
    faccessat2(task, directory, path, mode, Flags(0))
}

/// `access(2)`.
pub fn access(task: &CurrentTask, path: UserPath, mode: u32) -> SyscallResult<()> {
    faccessat2(task, Fd::CWD, path, mode, Flags(0))
}

/// Changes attributes of what a path names.
fn change(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    flags: u32,
    change: impl FnOnce(&CurrentTask, &InodeRef, &Metadata) -> SyscallResult<SetAttributes>,
) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 && directory != Fd::CWD {
        let file = task.file(directory)?;
        return change_file(task, &file, change);
    }
    let mut walk = if flags & AT_SYMLINK_NOFOLLOW != 0 { Walk::empty() } else { Walk::FOLLOW };
    walk.set(Walk::EMPTY, flags & AT_EMPTY_PATH != 0);
    let place = task.resolve(directory, &path, walk)?;
    check_writable(&place)?;
    let inode = place.existing()?;
    let attributes = change(task, inode, &inode.metadata()?)?;
    inode.set_attributes(&attributes)?;
    privileges::mode_set(attributes.mode.unwrap_or(0));
    inotify::notify(&place.dentry, attribute_mask(&attributes));
    Ok(())
}

fn change_file(
    task: &CurrentTask,
    file: &File,
    change: impl FnOnce(&CurrentTask, &InodeRef, &Metadata) -> SyscallResult<SetAttributes>,
) -> SyscallResult<()> {
    if file.flags().contains(abi::fs::OpenFlags::PATH) && file.path().is_none() {
        return Err(Errno::EBADF.into());
    }
    if let Some(place) = file.path() {
        check_writable(place)?;
    }
    let inode = file.inode().ok_or(Errno::EINVAL)?;
    let attributes = change(task, inode, &inode.metadata()?)?;
    inode.set_attributes(&attributes)?;
    privileges::mode_set(attributes.mode.unwrap_or(0));
    file.notify(attribute_mask(&attributes));
    Ok(())
}

fn mode_change(mode: u32) -> impl FnOnce(&CurrentTask, &InodeRef, &Metadata) -> SyscallResult<SetAttributes> {
    move |task, _, metadata| {
        let credentials = task.credentials();
        if !is_owner(metadata, &credentials) {
            return Err(Errno::EPERM.into());
        }
        if metadata.file_type() == FileType::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let mut mode = mode & 0o7777;
        if !credentials.in_group(metadata.gid)
            && !credentials.has_over(metadata.uid, metadata.gid, Capability::FSETID)
        {
            mode &= !S_ISGID;
        }
        Ok(SetAttributes { mode: Some(mode), ..SetAttributes::default() })
    }
}

/// `fchmodat2(2)`.
pub fn fchmodat2(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    mode: u32,
    flags: Flags,
) -> SyscallResult<()> {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    change(task, directory, path, flags.0, mode_change(mode))
}

/// `fchmodat(2)`.
pub fn fchmodat(task: &CurrentTask, directory: Fd, path: UserPath, mode: u32) -> SyscallResult<()> {
    fchmodat2(task, directory, path, mode, Flags(0))
}

/// `chmod(2)`.
pub fn chmod(task: &CurrentTask, path: UserPath, mode: u32) -> SyscallResult<()> {
    fchmodat2(task, Fd::CWD, path, mode, Flags(0))
}

/// The file behind a descriptor that is more than a path: `EBADF` for `O_PATH`.
fn opened(task: &CurrentTask, fd: Fd) -> SyscallResult<std::sync::Arc<File>> {
    let file = task.file(fd)?;
    if file.flags().contains(abi::fs::OpenFlags::PATH) { Err(Errno::EBADF.into()) } else { Ok(file) }
}

/// `fchmod(2)`.
pub fn fchmod(task: &CurrentTask, fd: Fd, mode: u32) -> SyscallResult<()> {
    change_file(task, &*opened(task, fd)?, mode_change(mode))
}

fn owner_change(
    uid: u32,
    gid: u32,
) -> impl FnOnce(&CurrentTask, &InodeRef, &Metadata) -> SyscallResult<SetAttributes> {
    move |task, _, metadata| {
        let credentials = task.credentials();
        let (uid, gid) = (credentials.uid_of(uid)?, credentials.gid_of(gid)?);
        let (uid, gid) = ((uid != u32::MAX).then_some(uid), (gid != u32::MAX).then_some(gid));
        let owner = metadata.uid == credentials.fs_uid;
        let uid_allowed = uid.is_none_or(|uid| owner && uid == metadata.uid);
        let gid_allowed = gid.is_none_or(|gid| owner && (credentials.in_group(gid) || gid == metadata.gid));
        if (!uid_allowed || !gid_allowed)
            && !credentials.has_over(metadata.uid, metadata.gid, Capability::CHOWN)
        {
            return Err(Errno::EPERM.into());
        }
        // A new owner does not get a program that runs as the old one.
        let mut mode = None;
        if metadata.file_type() == FileType::Regular && metadata.mode & (S_ISUID | S_ISGID) != 0 {
            let group_executes = metadata.mode & 0o010 != 0;
            let cleared = S_ISUID | if group_executes { S_ISGID } else { 0 };
            mode = Some(metadata.mode & 0o7777 & !cleared);
        }
        Ok(SetAttributes { uid, gid, mode, ..SetAttributes::default() })
    }
}

/// `fchownat(2)`.
pub fn fchownat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    uid: u32,
    gid: u32,
    flags: Flags,
) -> SyscallResult<()> {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    change(task, directory, path, flags.0, owner_change(uid, gid))
}

/// `chown(2)`.
pub fn chown(task: &CurrentTask, path: UserPath, uid: u32, gid: u32) -> SyscallResult<()> {
    fchownat(task, Fd::CWD, path, uid, gid, Flags(0))
}

/// `lchown(2)`.
pub fn lchown(task: &CurrentTask, path: UserPath, uid: u32, gid: u32) -> SyscallResult<()> {
    fchownat(task, Fd::CWD, path, uid, gid, Flags(AT_SYMLINK_NOFOLLOW))
}

/// `fchown(2)`.
pub fn fchown(task: &CurrentTask, fd: Fd, uid: u32, gid: u32) -> SyscallResult<()> {
    change_file(task, &*opened(task, fd)?, owner_change(uid, gid))
}

/// `umask(2)`.
pub fn umask(task: &CurrentTask, mask: u32) -> SyscallResult<u32> {
    Ok(task.fs().update(|state| std::mem::replace(&mut state.umask, mask & 0o777)))
}

fn now() -> TimeSpec {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// New times: those given, `UTIME_NOW` and `UTIME_OMIT` understood; `None` for now.
fn time_change(
    times: Option<[TimeSpec; 2]>,
) -> impl FnOnce(&CurrentTask, &InodeRef, &Metadata) -> SyscallResult<SetAttributes> {
    const NOW: i64 = 0x3fff_ffff;
    const OMIT: i64 = 0x3fff_fffe;
    move |task, inode, metadata| {
        let credentials = task.credentials();
        let given = times.unwrap_or([TimeSpec { sec: 0, nsec: NOW }; 2]);
        if given
            .iter()
            .any(|time| !(0..1_000_000_000).contains(&time.nsec) && time.nsec != NOW && time.nsec != OMIT)
        {
            return Err(Errno::EINVAL.into());
        }
        let both_now = given.iter().all(|time| time.nsec == NOW);
        if !is_owner(metadata, &credentials) {
            if !both_now {
                return Err(Errno::EPERM.into());
            }
            check(inode, &credentials, Access::WRITE)?;
        }
        let value = |time: TimeSpec| match time.nsec {
            NOW => Some(now()),
            OMIT => None,
            _ => Some(time),
        };
        let [accessed, modified] = given.map(value);
        Ok(SetAttributes { accessed, modified, ..SetAttributes::default() })
    }
}

/// `utimensat(2)`.
pub fn utimensat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    times: UserPtr<[TimeSpec; 2]>,
    flags: Flags,
) -> SyscallResult<()> {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let times = times.non_null().map(|times| task.read_object(times)).transpose()?;
    if path.0 == 0 {
        return change_file(task, &*task.file(directory)?, time_change(times));
    }
    change(task, directory, path, flags.0, time_change(times))
}

/// `futimesat(2)`.
pub fn futimesat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    times: UserPtr<[TimeVal; 2]>,
) -> SyscallResult<()> {
    let times = times.non_null().map(|times| task.read_object(times)).transpose()?;
    let times =
        times.map(|times| times.map(|time| TimeSpec { sec: time.sec, nsec: time.usec.wrapping_mul(1000) }));
    if path.0 == 0 {
        return change_file(task, &*task.file(directory)?, time_change(times));
    }
    change(task, directory, path, 0, time_change(times))
}

/// `utimes(2)`.
pub fn utimes(task: &CurrentTask, path: UserPath, times: UserPtr<[TimeVal; 2]>) -> SyscallResult<()> {
    futimesat(task, Fd::CWD, path, times)
}

/// `utime(2)`.
pub fn utime(task: &CurrentTask, path: UserPath, times: UserPtr<[i64; 2]>) -> SyscallResult<()> {
    let times = times.non_null().map(|times| task.read_object(times)).transpose()?;
    let times = times.map(|times| times.map(|sec| TimeSpec { sec, nsec: 0 }));
    change(task, Fd::CWD, path, 0, time_change(times))
}

/// The size that a file may have: beyond the limit SIGXFSZ and `EFBIG`.
fn check_size(task: &CurrentTask, length: i64) -> SyscallResult<u64> {
    let length = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    if length > task.group.limit(crate::task::limits::Resource::FileSize) {
        return Err(crate::task::limits::file_too_large(task));
    }
    Ok(length)
}

/// Gives a file another size, and what it may not keep then away.
fn resize(task: &CurrentTask, inode: &InodeRef, size: u64) -> SyscallResult<()> {
    privileges::drop_all(inode, &task.credentials())?;
    Ok(inode.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })?)
}

/// `truncate(2)`.
pub fn truncate(task: &CurrentTask, path: UserPath, length: i64) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let length = check_size(task, length)?;
    let place = task.resolve(Fd::CWD, &path, Walk::FOLLOW)?;
    let inode = place.existing()?;
    match inode.file_type() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    check_writable(&place)?;
    check(inode, &task.credentials(), Access::WRITE)?;
    let _writer = TextGuard::write(inode)?;
    resize(task, inode, length)?;
    inotify::notify(&place.dentry, Mask::MODIFY);
    Ok(())
}

/// `ftruncate(2)`.
pub fn ftruncate(task: &CurrentTask, fd: Fd, length: i64) -> SyscallResult<()> {
    let file = task.file(fd)?;
    let length = check_size(task, length)?;
    let inode = file.inode().filter(|inode| inode.file_type() == FileType::Regular).ok_or(Errno::EINVAL)?;
    if !file.flags().writable() {
        return Err(Errno::EINVAL.into());
    }
    resize(task, inode, length)?;
    file.notify(Mask::MODIFY);
    Ok(())
}

/// `struct statfs`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatFs {
    magic: u64,
    block_size: u64,
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    id: u64,
    name_length: u64,
    fragment_size: u64,
    flags: u64,
    spare: [u64; 4],
}

fn statistics(place: Option<&PathRef>) -> SyscallResult<StatFs> {
    let Some(place) = place else {
        return Ok(StatFs { magic: 0x5049_5045, block_size: 4096, name_length: 255, ..StatFs::default() });
    };
    let file_system: &dyn FileSystem = &*place.mount.file_system;
    let found = file_system.statistics()?;
    Ok(StatFs {
        magic: found.magic,
        block_size: found.block_size,
        blocks: found.blocks,
        free: found.blocks_free,
        available: found.blocks_available,
        files: found.files,
        files_free: found.files_free,
        id: file_system.device(),
        name_length: found.name_length,
        fragment_size: found.block_size,
        flags: mount_flags(place.mount.flags()),
        ..StatFs::default()
    })
}

/// The flags of a mount as `statvfs(3)` has them (`ST_*`).
fn mount_flags(flags: MountFlags) -> u64 {
    const VALID: u64 = 0x20;
    let names = [
        (MountFlags::READ_ONLY, 1),
        (MountFlags::NO_SUID, 2),
        (MountFlags::NO_DEV, 4),
        (MountFlags::NO_EXEC, 8),
        (MountFlags::NO_ATIME, 0x400),
        (MountFlags::NO_DIR_ATIME, 0x800),
        (MountFlags::RELATIME, 0x1000),
        (MountFlags::NO_SYMLINKS, 0x2000),
    ];
    names.iter().filter(|(flag, _)| flags.contains(*flag)).fold(VALID, |all, (_, value)| all | value)
}

/// `statfs(2)`.
pub fn statfs(task: &CurrentTask, path: UserPath, buffer: UserPtr<StatFs>) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let place = task.resolve(Fd::CWD, &path, Walk::FOLLOW)?;
    Ok(task.write_object(buffer, &statistics(Some(&place))?)?)
}

/// `fstatfs(2)`.
pub fn fstatfs(task: &CurrentTask, fd: Fd, buffer: UserPtr<StatFs>) -> SyscallResult<()> {
    let file = task.file(fd)?;
    Ok(task.write_object(buffer, &statistics(file.path())?)?)
}

/// `name_to_handle_at(2)`: no file system here gives handles.
pub fn name_to_handle_at(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    handle: UserPtr<u32>,
    _mount: u64,
    flags: Flags,
) -> SyscallResult<()> {
    const MAX_HANDLE: u32 = 128;
    // AT_HANDLE_FID has the value of AT_REMOVEDIR.
    const AT_HANDLE_FID: u32 = 0x200;
    if flags.0 & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH | AT_HANDLE_FID) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = task.read_path(path)?;
    let mut walk = if follows(flags.0) { Walk::FOLLOW } else { Walk::empty() };
    walk.set(Walk::EMPTY, flags.0 & AT_EMPTY_PATH != 0);
    task.resolve(directory, &path, walk)?.existing()?;
    if task.read_object(handle)? > MAX_HANDLE {
        return Err(Errno::EINVAL.into());
    }
    Err(Errno::EOPNOTSUPP.into())
}

/// `open_by_handle_at(2)`: a handle cannot have come from here.
pub fn open_by_handle_at(
    task: &CurrentTask,
    directory: Fd,
    handle: UserPtr<u32>,
    _flags: Flags,
) -> SyscallResult<Fd> {
    const MAX_HANDLE: u32 = 128;
    if !task.credentials().has(Capability::DAC_READ_SEARCH) {
        return Err(Errno::EPERM.into());
    }
    let size = task.read_object(handle)?;
    if size == 0 || size > MAX_HANDLE {
        return Err(Errno::EINVAL.into());
    }
    if directory != Fd::CWD {
        task.file(directory)?;
    }
    Err(Errno::ESTALE.into())
}

/// Whether `flags` has the flag by which `linkat(2)` follows links.
pub(super) fn follows(flags: u32) -> bool {
    flags & AT_SYMLINK_FOLLOW != 0
}
