//! Watching files, `inotify(7)`.

use abi::Errno;
use abi::fs::OpenFlags;

use crate::error::SyscallResult;
use crate::fs::FileType;
use crate::fs::inotify::{Inotify, Mask};
use crate::fs::path::Walk;
use crate::fs::permissions::{Access, check};
use crate::syscalls::Fd;
use crate::syscalls::arguments::{Flags, flag_argument};
use crate::task::CurrentTask;
use crate::user::UserPath;

flag_argument!(Mask);

/// `inotify_init1(2)`.
pub fn inotify_init1(task: &CurrentTask, flags: Flags) -> SyscallResult<Fd> {
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    if flags.0 & !allowed.bits() != 0 {
        return Err(Errno::EINVAL.into());
    }
    let flags = OpenFlags::from_bits_retain(flags.0);
    let file = Inotify::open(&task.kernel.inotify, task.credentials().uid, flags)?;
    Ok(task.install(file, flags.contains(OpenFlags::CLOEXEC))?)
}

/// `inotify_init(2)`.
pub fn inotify_init(task: &CurrentTask) -> SyscallResult<Fd> {
    inotify_init1(task, Flags(0))
}

/// `inotify_add_watch(2)`.
pub fn inotify_add_watch(task: &CurrentTask, fd: Fd, path: UserPath, mask: Mask) -> SyscallResult<i32> {
    // One bit that is known is enough, and the others do no harm.
    if !mask.intersects(Mask::all()) {
        return Err(Errno::EINVAL.into());
    }
    let file = task.file(fd)?;
    if mask.contains(Mask::MASK_ADD | Mask::MASK_CREATE) {
        return Err(Errno::EINVAL.into());
    }
    let inotify = file.ops().downcast_ref::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = task.read_path(path)?;
    let walk = if mask.contains(Mask::DONT_FOLLOW) { Walk::empty() } else { Walk::FOLLOW };
    let place = task.resolve(Fd::CWD, &path, walk)?;
    let inode = place.existing()?;
    if mask.contains(Mask::ONLY_DIRECTORY) && inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    check(inode, &task.credentials(), Access::READ)?;
    Ok(inotify.watch(inode, mask)?)
}

/// `inotify_rm_watch(2)`.
pub fn inotify_rm_watch(task: &CurrentTask, fd: Fd, watch: i32) -> SyscallResult<()> {
    let file = task.file(fd)?;
    Ok(file.ops().downcast_ref::<Inotify>().ok_or(Errno::EINVAL)?.unwatch(watch)?)
}
