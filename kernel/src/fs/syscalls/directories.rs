//! Names: making, removing, moving and listing them, and where a task stands among them.

use std::sync::Arc;

use abi::Errno;
use abi::fs::make_device;
use parking_lot::Mutex;

use super::stat::follows;
use crate::error::{SysError, SyscallResult};
use crate::fs::hostfs::freshness;
use crate::fs::inotify::{self, Mask};
use crate::fs::open::make;
use crate::fs::path::{Walk, Walked};
use crate::fs::permissions::{Access, check, check_sticky, check_writable};
use crate::fs::{FileType, InodeRef, NewKind, PathRef, RenameMode};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::user::{PATH_MAX, UserPath, with_whole_buffer};

const AT_REMOVEDIR: u32 = 0x200;
const AT_EMPTY_PATH: u32 = 0x1000;

/// Only one rename at a time, so that two can never put each other's directory below itself.
static RENAME: Mutex<()> = Mutex::new(());

/// `mkdirat(2)`.
pub fn mkdirat(task: &CurrentTask, directory: Fd, path: UserPath, mode: u32) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let (parent, name, _) = task.parent_of(directory, &path, Errno::EEXIST)?;
    make(task, &parent, &name, NewKind::Directory, mode & 0o1777).map(drop)
}

/// `mkdir(2)`.
pub fn mkdir(task: &CurrentTask, path: UserPath, mode: u32) -> SyscallResult<()> {
    mkdirat(task, Fd::CWD, path, mode)
}

/// `symlinkat(2)`.
pub fn symlinkat(task: &CurrentTask, target: UserPath, directory: Fd, path: UserPath) -> SyscallResult<()> {
    let target = task.read_path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    let path = task.read_path(path)?;
    let (parent, name, slash) = task.parent_of(directory, &path, Errno::EEXIST)?;
    if slash {
        return Err(Errno::ENOENT.into());
    }
    make(task, &parent, &name, NewKind::Symlink(target.to_vec()), 0o777).map(drop)
}

/// `symlink(2)`.
pub fn symlink(task: &CurrentTask, target: UserPath, path: UserPath) -> SyscallResult<()> {
    symlinkat(task, target, Fd::CWD, path)
}

/// `mknodat(2)`.
pub fn mknodat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    mode: u32,
    device: u64,
) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let device =
        make_device((device >> 8) as u32 & 0xfff, (device & 0xff) as u32 | (device >> 12) as u32 & 0xf_ff00);
    let kind = match FileType::from_mode(mode) {
        FileType::Regular if mode & abi::fs::S_IFMT & !abi::fs::S_IFREG != 0 => {
            return Err(Errno::EINVAL.into());
        }
        FileType::Regular => NewKind::Regular,
        FileType::Fifo => NewKind::Fifo,
        FileType::Socket => NewKind::Socket,
        FileType::Directory => return Err(Errno::EPERM.into()),
        FileType::Symlink => return Err(Errno::EINVAL.into()),
        kind @ (FileType::CharDevice | FileType::BlockDevice) => {
            if !task.credentials().has(Capability::MKNOD) {
                return Err(Errno::EPERM.into());
            }
            if kind == FileType::CharDevice {
                NewKind::CharDevice(device)
            } else {
                NewKind::BlockDevice(device)
            }
        }
    };
    let (parent, name, slash) = task.parent_of(directory, &path, Errno::EEXIST)?;
    if slash {
        return Err(Errno::ENOENT.into());
    }
    make(task, &parent, &name, kind, mode).map(drop)
}

/// `mknod(2)`.
pub fn mknod(task: &CurrentTask, path: UserPath, mode: u32, device: u64) -> SyscallResult<()> {
    mknodat(task, Fd::CWD, path, mode, device)
}

/// What is needed to remove the name `name` from `parent`: the dentry and the inode behind it.
fn removable(
    task: &CurrentTask,
    parent: &PathRef,
    name: &[u8],
) -> SyscallResult<(InodeRef, PathRef, InodeRef)> {
    let directory = Arc::clone(parent.existing()?);
    let dentry = parent.dentry.lookup(&*parent.mount.file_system, name)?;
    let place = PathRef { mount: Arc::clone(&parent.mount), dentry };
    let inode = Arc::clone(place.existing()?);
    let credentials = task.credentials();
    check_writable(parent)?;
    check(&directory, &credentials, Access::WRITE | Access::EXECUTE)?;
    // Whoever may do this with everybody's files need not know whose they are.
    if !credentials.has_over_all(Capability::FOWNER) {
        check_sticky(&directory.metadata()?, &inode.metadata()?, &credentials)?;
    }
    if task.fs_state().namespace.is_mount_point(&place) {
        return Err(Errno::EBUSY.into());
    }
    Ok((directory, place, inode))
}

/// `unlinkat(2)`.
pub fn unlinkat(task: &CurrentTask, directory: Fd, path: UserPath, flags: Flags) -> SyscallResult<()> {
    if flags.0 & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags.0 & AT_REMOVEDIR != 0 {
        return remove_directory(task, directory, path);
    }
    let path = task.read_path(path)?;
    let _moment = freshness::begin();
    let (parent, name, slash) = task.parent_of(directory, &path, Errno::EISDIR)?;
    let (inode, place, file) = removable(task, &parent, &name)?;
    if file.file_type() == FileType::Directory {
        return Err(Errno::EISDIR.into());
    }
    if slash {
        return Err(Errno::ENOTDIR.into());
    }
    let last = file.metadata()?.links <= 1;
    inode.unlink(&name)?;
    place.dentry.unlinked(last);
    inotify::notify_inode(&file, Mask::ATTRIB);
    let kind = file.file_type();
    drop((place, file));
    inotify::notify_entry(&inode, &name, kind, Mask::DELETE);
    Ok(())
}

/// `unlink(2)`.
pub fn unlink(task: &CurrentTask, path: UserPath) -> SyscallResult<()> {
    unlinkat(task, Fd::CWD, path, Flags(0))
}

fn remove_directory(task: &CurrentTask, directory: Fd, path: UserPath) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let error = match &path[..end] {
        b"" if !path.is_empty() => Errno::EBUSY,
        last if last.ends_with(b"..") => Errno::ENOTEMPTY,
        _ => Errno::EINVAL,
    };
    let _moment = freshness::begin();
    let (parent, name, _) = task.parent_of(directory, &path, error)?;
    let (inode, place, file) = removable(task, &parent, &name)?;
    if file.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    inode.rmdir(&name)?;
    place.dentry.unlinked(true);
    drop((place, file));
    inotify::notify_entry(&inode, &name, FileType::Directory, Mask::DELETE);
    Ok(())
}

/// `rmdir(2)`.
pub fn rmdir(task: &CurrentTask, path: UserPath) -> SyscallResult<()> {
    remove_directory(task, Fd::CWD, path)
}

/// `linkat(2)`.
pub fn linkat(
    task: &CurrentTask,
    old_directory: Fd,
    old: UserPath,
    new_directory: Fd,
    new: UserPath,
    flags: Flags,
) -> SyscallResult<()> {
    if flags.0 & !(0x400 | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let old = task.read_path(old)?;
    let new = task.read_path(new)?;
    let mut walk = if follows(flags.0) { Walk::FOLLOW } else { Walk::empty() };
    walk.set(Walk::EMPTY, flags.0 & AT_EMPTY_PATH != 0);
    let target = task.resolve(old_directory, &old, walk)?;
    let inode = target.existing()?;
    let (parent, name, slash) = task.parent_of(new_directory, &new, Errno::EEXIST)?;
    if slash {
        return Err(Errno::ENOENT.into());
    }
    let dentry = parent.dentry.lookup(&*parent.mount.file_system, &name)?;
    if dentry.inode().is_some() {
        return Err(Errno::EEXIST.into());
    }
    if !Arc::ptr_eq(&parent.mount, &target.mount) {
        return Err(Errno::EXDEV.into());
    }
    if inode.file_type() == FileType::Directory {
        return Err(Errno::EPERM.into());
    }
    check_writable(&parent)?;
    let directory = parent.existing()?;
    check(directory, &task.credentials(), Access::WRITE | Access::EXECUTE)?;
    directory.link(&name, inode)?;
    inotify::notify_inode(inode, Mask::ATTRIB);
    let kind = inode.file_type();
    dentry.instantiate(Arc::clone(inode));
    inotify::notify_entry(directory, &name, kind, Mask::CREATE);
    Ok(())
}

/// `link(2)`.
pub fn link(task: &CurrentTask, old: UserPath, new: UserPath) -> SyscallResult<()> {
    linkat(task, Fd::CWD, old, Fd::CWD, new, Flags(0))
}

/// `renameat2(2)`.
pub fn renameat2(
    task: &CurrentTask,
    old_directory: Fd,
    old: UserPath,
    new_directory: Fd,
    new: UserPath,
    flags: Flags,
) -> SyscallResult<()> {
    let mode = match flags.0 {
        0 => RenameMode::Replace,
        1 => RenameMode::NoReplace,
        2 => RenameMode::Exchange,
        _ => return Err(Errno::EINVAL.into()),
    };
    let old = task.read_path(old)?;
    let new = task.read_path(new)?;
    let (old_parent, old_name, old_slash) = task.parent_of(old_directory, &old, Errno::EBUSY)?;
    let missing = if mode == RenameMode::NoReplace { Errno::EEXIST } else { Errno::EBUSY };
    let (new_parent, new_name, new_slash) = task.parent_of(new_directory, &new, missing)?;
    if !Arc::ptr_eq(&old_parent.mount, &new_parent.mount) {
        return Err(Errno::EXDEV.into());
    }
    let _one = RENAME.lock();
    let _moment = freshness::begin();
    let (from, source, inode) = removable(task, &old_parent, &old_name)?;
    let is_directory = inode.file_type() == FileType::Directory;
    if (old_slash || new_slash && mode != RenameMode::Exchange) && !is_directory {
        return Err(Errno::ENOTDIR.into());
    }
    if is_directory && source.dentry.contains(&new_parent.dentry) {
        return Err(Errno::EINVAL.into());
    }
    let target = new_parent.dentry.lookup(&*new_parent.mount.file_system, &new_name)?;
    if target.inode().is_some() {
        if mode == RenameMode::NoReplace {
            return Err(Errno::EEXIST.into());
        }
        if target.contains(&old_parent.dentry) {
            return Err(if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY }.into());
        }
        let (_, _, existing) = removable(task, &new_parent, &new_name)?;
        if Arc::ptr_eq(&existing, &inode) {
            return Ok(());
        }
        if mode == RenameMode::Replace {
            match (is_directory, existing.file_type() == FileType::Directory) {
                (true, false) => return Err(Errno::ENOTDIR.into()),
                (false, true) => return Err(Errno::EISDIR.into()),
                _ => {}
            }
        }
    } else {
        if mode == RenameMode::Exchange {
            return Err(Errno::ENOENT.into());
        }
        check(new_parent.existing()?, &task.credentials(), Access::WRITE | Access::EXECUTE)?;
    }
    let to = new_parent.existing()?;
    let replaced = target.inode();
    let last = match &replaced {
        Some(replaced) => replaced.file_type() == FileType::Directory || replaced.metadata()?.links <= 1,
        None => false,
    };
    Arc::clone(&from).rename(&old_name, to, &new_name, mode)?;
    if mode == RenameMode::Exchange {
        source.dentry.exchanged(&target);
        inotify::notify_move((&from, &old_name), (to, &new_name), &inode, None);
        if let Some(other) = &replaced {
            inotify::notify_move((to, &new_name), (&from, &old_name), other, None);
        }
        return Ok(());
    }
    if replaced.is_some() {
        target.unlinked(last);
    }
    source.dentry.moved(&new_parent.dentry, &new_name);
    inotify::notify_move((&from, &old_name), (to, &new_name), &inode, replaced);
    Ok(())
}

/// `renameat(2)`.
pub fn renameat(
    task: &CurrentTask,
    old_directory: Fd,
    old: UserPath,
    new_directory: Fd,
    new: UserPath,
) -> SyscallResult<()> {
    renameat2(task, old_directory, old, new_directory, new, Flags(0))
}

/// `rename(2)`.
pub fn rename(task: &CurrentTask, old: UserPath, new: UserPath) -> SyscallResult<()> {
    renameat2(task, Fd::CWD, old, Fd::CWD, new, Flags(0))
}

/// `readlinkat(2)`.
pub fn readlinkat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    buffer: u64,
    size: i32,
) -> SyscallResult<usize> {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(Errno::EINVAL)?;
    let path = task.read_path(path)?;
    let mut target = Vec::new();
    if let Walked::Found(found) = task.walk_to_link(directory, &path, Walk::EMPTY, &mut target)? {
        let inode = found.place.existing()?;
        if inode.file_type() != FileType::Symlink {
            return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL }.into());
        }
        target = inode.readlink(Some(task))?;
    }
    let length = target.len().min(size);
    task.write_result(buffer, &target[..length])?;
    Ok(length)
}

/// `readlink(2)`.
pub fn readlink(task: &CurrentTask, path: UserPath, buffer: u64, size: i32) -> SyscallResult<usize> {
    readlinkat(task, Fd::CWD, path, buffer, size)
}

/// An entry to be encoded.
struct Encoded<'a> {
    inode: u64,
    next: u64,
    kind: FileType,
    name: &'a [u8],
}

impl Encoded<'_> {
    /// Puts it into `room`, zeros included: number, next offset and length, `HEAD` bytes in all, the name, and at least `TAIL` bytes
    /// more. Where its type goes is left to the caller; `None` if there is not enough room.
    #[inline]
    fn put<'r, const HEAD: usize, const TAIL: usize>(&self, room: &'r mut [u8]) -> Option<&'r mut [u8]> {
        let length = (HEAD + self.name.len() + TAIL).next_multiple_of(8);
        let entry = room.get_mut(..length)?;
        entry[..8].copy_from_slice(&self.inode.to_ne_bytes());
        entry[8..16].copy_from_slice(&self.next.to_ne_bytes());
        entry[16..18].copy_from_slice(&(length as u16).to_ne_bytes());
        let (text, rest) = entry[HEAD..].split_at_mut(self.name.len());
        text.copy_from_slice(self.name);
        rest.fill(0);
        Some(entry)
    }
}

/// Fills a buffer with directory entries, which `encode` puts into the room that is left: it returns how long one is, or `None`
/// if it is too long.
fn list(
    task: &CurrentTask,
    fd: Fd,
    buffer: u64,
    size: usize,
    encode: impl Fn(&mut [u8], Encoded<'_>) -> Option<usize>,
) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    file.check_readable()?;
    let directory = file.inode().is_some_and(|inode| inode.file_type() == FileType::Directory);
    if directory && file.path().is_some_and(|place| place.dentry.is_deleted()) {
        return Err(Errno::ENOENT.into());
    }
    with_whole_buffer(size, |room| {
        let mut position = file.with_offset(|offset| *offset);
        let (mut length, mut too_small) = (0, false);
        file.ops().read_directory(task, position, &mut |name, inode, kind, next| {
            match encode(&mut room[length..], Encoded { inode, next, kind, name }) {
                Some(more) => length += more,
                None => {
                    too_small = length == 0;
                    return false;
                }
            }
            position = next;
            true
        })?;
        if too_small {
            return Err(Errno::EINVAL.into());
        }
        task.write_bytes(buffer, &room[..length])?;
        file.with_offset(|offset| *offset = position);
        file.notify(Mask::ACCESS);
        Ok(length)
    })
}

/// `getdents64(2)`.
pub fn getdents64(task: &CurrentTask, fd: Fd, buffer: u64, size: usize) -> SyscallResult<usize> {
    list(task, fd, buffer, size, |room, encoded| {
        // The type comes before the name, and a zero after it.
        let entry = encoded.put::<19, 1>(room)?;
        entry[18] = encoded.kind.directory_type();
        Some(entry.len())
    })
}

/// `getdents(2)`.
pub fn getdents(task: &CurrentTask, fd: Fd, buffer: u64, size: usize) -> SyscallResult<usize> {
    list(task, fd, buffer, size, |room, encoded| {
        // A zero comes after the name, and the type last.
        let entry = encoded.put::<18, 2>(room)?;
        *entry.last_mut()? = encoded.kind.directory_type();
        Some(entry.len())
    })
}

/// Makes a directory the working directory: it must be one, and be searchable.
fn enter(task: &CurrentTask, place: PathRef) -> SyscallResult<PathRef> {
    let inode = place.existing()?;
    if inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    check(inode, &task.credentials(), Access::EXECUTE)?;
    Ok(place)
}

/// `chdir(2)`.
pub fn chdir(task: &CurrentTask, path: UserPath) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let place = enter(task, task.resolve(Fd::CWD, &path, Walk::FOLLOW)?)?;
    task.fs().update(|state| state.cwd = place);
    Ok(())
}

/// `fchdir(2)`.
pub fn fchdir(task: &CurrentTask, fd: Fd) -> SyscallResult<()> {
    let file = task.file(fd)?;
    let place = enter(task, file.path().cloned().ok_or(Errno::ENOTDIR)?)?;
    task.fs().update(|state| state.cwd = place);
    Ok(())
}

/// `chroot(2)`.
pub fn chroot(task: &CurrentTask, path: UserPath) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let place = enter(task, task.resolve(Fd::CWD, &path, Walk::FOLLOW)?)?;
    if !task.credentials().has_own(Capability::SYS_CHROOT) {
        return Err(Errno::EPERM.into());
    }
    task.fs().update(|state| state.root = place);
    Ok(())
}

/// `getcwd(2)`.
pub fn getcwd(task: &CurrentTask, buffer: u64, size: usize) -> SyscallResult<usize> {
    let state = task.fs_state();
    if state.cwd.dentry.is_deleted() {
        return Err(Errno::ENOENT.into());
    }
    let (mut path, reachable) = state.cwd.display(&state.root);
    if !reachable {
        path = [b"(unreachable)".to_vec(), path].concat();
    }
    path.push(0);
    if path.len() > PATH_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    if path.len() > size {
        return Err(SysError::Errno(Errno::ERANGE));
    }
    task.write_result(buffer, &path)?;
    Ok(path.len())
}
