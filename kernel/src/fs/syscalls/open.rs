//! Opening and closing.

use abi::Errno;
use abi::fs::OpenFlags;

use crate::error::SyscallResult;
use crate::fs::open::{open as open_path, open_with};
use crate::fs::path::Walk;
use crate::syscalls::Fd;
use crate::syscalls::arguments::{Flags, flag_argument};
use crate::task::CurrentTask;
use crate::user::{UserPath, UserPtr};

flag_argument!(OpenFlags);

/// `openat(2)`.
pub fn openat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    flags: OpenFlags,
    mode: u32,
) -> SyscallResult<Fd> {
    let path = task.read_path(path)?;
    let file = open_path(task, directory, &path, flags, mode)?;
    Ok(task.install(file, flags.contains(OpenFlags::CLOEXEC))?)
}

/// `open(2)`.
pub fn open(task: &CurrentTask, path: UserPath, flags: OpenFlags, mode: u32) -> SyscallResult<Fd> {
    openat(task, Fd::CWD, path, flags, mode)
}

/// `creat(2)`.
pub fn creat(task: &CurrentTask, path: UserPath, mode: u32) -> SyscallResult<Fd> {
    openat(task, Fd::CWD, path, OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC, mode)
}

/// `openat2(2)`.
pub fn openat2(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    how: UserPtr<[u64; 3]>,
    size: usize,
) -> SyscallResult<Fd> {
    if size < 24 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut rest = vec![0; size - 24];
    task.read_bytes(how.address().wrapping_add(24), &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let [flags, mode, resolve] = task.read_object(how)?;
    let flags = u32::try_from(flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
    let creates = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT);
    if mode > 0o7777 || (mode != 0 && !creates) || resolve & !0x3f != 0 || resolve & 0x18 == 0x18 {
        return Err(Errno::EINVAL.into());
    }
    let rules = [
        (0x1, Walk::NO_MOUNTS),
        (0x2, Walk::NO_MAGIC),
        (0x4, Walk::NO_LINKS),
        (0x8, Walk::BENEATH),
        (0x10, Walk::IN_ROOT),
    ];
    let rules = rules
        .into_iter()
        .filter(|(bit, _)| resolve & bit != 0)
        .fold(Walk::empty(), |all, (_, rule)| all | rule);
    if resolve & 0x20 != 0 {
        return Err(Errno::EAGAIN.into());
    }
    let path = task.read_path(path)?;
    let file = open_with(task, directory, &path, flags, mode as u32, rules)?;
    Ok(task.install(file, flags.contains(OpenFlags::CLOEXEC))?)
}

/// `close(2)`.
pub fn close(task: &CurrentTask, fd: Fd) -> SyscallResult<()> {
    let file = task.take_file(fd)?;
    task.descriptor_closed(&file);
    crate::fs::locks::release_process(task.group.pid, &file);
    file.ops().flush(task)?;
    Ok(())
}

/// `close_range(2)`.
pub fn close_range(task: &CurrentTask, first: u32, last: u32, flags: Flags) -> SyscallResult<()> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if first > last || flags.0 & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags.0 & UNSHARE != 0 {
        task.set_files(Some(std::sync::Arc::new(task.files().copy())));
    }
    let files = task.files();
    if flags.0 & CLOEXEC != 0 {
        for (fd, ..) in
            files.entries().into_iter().filter(|(fd, ..)| (first..=last).contains(&fd.0.cast_unsigned()))
        {
            files.set_close_on_exec(fd, true)?;
        }
        return Ok(());
    }
    for file in files.remove_where(|fd, _| (first..=last).contains(&fd)) {
        task.descriptor_closed(&file);
        crate::fs::locks::release_process(task.group.pid, &file);
        file.ops().flush(task)?;
    }
    Ok(())
}
