//! Descriptors: duplicating them, their flags, and `ioctl(2)`.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;

use crate::error::SyscallResult;
use crate::fs::memfs::{MemFs, Seals};
use crate::fs::{File, FileType, async_signal};
use crate::ipc::pipe::PipeEnd;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::limits::Resource;

/// `dup(2)`.
pub fn dup(task: &CurrentTask, fd: Fd) -> SyscallResult<Fd> {
    let file = task.file(fd)?;
    Ok(task.install(file, false)?)
}

fn replace(task: &CurrentTask, old: Fd, new: Fd, close_on_exec: bool) -> SyscallResult<Fd> {
    let file = task.file(old)?;
    let limit = task.group.limit(Resource::OpenFiles);
    if let Some(closed) = task.files().replace(new, file, limit, close_on_exec)? {
        // What goes wrong in this close is not told, as in Linux.
        crate::fs::locks::release_process(task.group.pid, &closed);
        let _ = closed.ops().flush(task);
        task.descriptor_closed(&closed);
    }
    Ok(new)
}

/// `dup2(2)`.
pub fn dup2(task: &CurrentTask, old: Fd, new: Fd) -> SyscallResult<Fd> {
    if old == new {
        task.file(old)?;
        return Ok(new);
    }
    replace(task, old, new, false)
}

/// `dup3(2)`.
pub fn dup3(task: &CurrentTask, old: Fd, new: Fd, flags: Flags) -> SyscallResult<Fd> {
    if old == new || flags.0 & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL.into());
    }
    replace(task, old, new, flags.0 != 0)
}

fn pipe_of(file: &File) -> SyscallResult<&PipeEnd> {
    file.ops().downcast_ref::<PipeEnd>().ok_or_else(|| Errno::EBADF.into())
}

/// `fcntl(2)`.
pub fn fcntl(task: &CurrentTask, fd: Fd, command: i32, argument: u64) -> SyscallResult<u64> {
    const DUPFD: i32 = 0;
    const GETFD: i32 = 1;
    const SETFD: i32 = 2;
    const GETFL: i32 = 3;
    const SETFL: i32 = 4;
    const DUPFD_CLOEXEC: i32 = 1030;
    const SETPIPE_SZ: i32 = 1031;
    const GETPIPE_SZ: i32 = 1032;
    const ADD_SEALS: i32 = 1033;
    const GET_SEALS: i32 = 1034;
    let file = task.file(fd)?;
    if file.flags().contains(OpenFlags::PATH)
        && !matches!(command, DUPFD | DUPFD_CLOEXEC | GETFD | SETFD | GETFL)
    {
        return Err(Errno::EBADF.into());
    }
    if let Some(result) = crate::fs::locks::fcntl(task, &file, command, argument) {
        return result;
    }
    if let Some(result) = async_signal::fcntl(task, &file, command, argument) {
        return result;
    }
    match command {
        DUPFD | DUPFD_CLOEXEC => {
            let limit = task.group.limit(Resource::OpenFiles);
            let minimum = u32::try_from(argument)
                .ok()
                .filter(|minimum| u64::from(*minimum) < limit)
                .ok_or(Errno::EINVAL)?;
            let fd = task.files().install(file, minimum, limit, command == DUPFD_CLOEXEC)?;
            Ok(fd.0 as u64)
        }
        GETFD => Ok(task.files().close_on_exec(fd)?.into()),
        SETFD => {
            task.files().set_close_on_exec(fd, argument & 1 != 0)?;
            Ok(0)
        }
        GETFL => Ok((file.flags() | OpenFlags::LARGEFILE).bits().into()),
        SETFL => {
            file.set_flags(OpenFlags::from_bits_truncate(argument as u32))?;
            async_signal::update(task, &file, fd);
            Ok(0)
        }
        GETPIPE_SZ => Ok(pipe_of(&file)?.capacity() as u64),
        SETPIPE_SZ => Ok(pipe_of(&file)?.set_capacity(argument as u32 as usize)? as u64),
        GET_SEALS => Ok(MemFs::seals(file.inode().ok_or(Errno::EINVAL)?)?.bits().into()),
        ADD_SEALS => add_seals(task, &file, argument),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `F_ADD_SEALS`.
fn add_seals(task: &CurrentTask, file: &File, seals: u64) -> SyscallResult<u64> {
    if !file.flags().writable() {
        return Err(Errno::EPERM.into());
    }
    let seals = u32::try_from(seals).ok().and_then(Seals::from_bits).ok_or(Errno::EINVAL)?;
    let inode = file.inode().ok_or(Errno::EINVAL)?;
    let id = inode.common().id;
    let mapped = || {
        let tasks = task.kernel.tasks.all();
        tasks.iter().filter_map(|task| task.memory()).any(|memory| memory.may_write(id))
    };
    MemFs::add_seals(inode, seals, mapped)?;
    Ok(0)
}

/// `ioctl(2)`.
pub fn ioctl(task: &CurrentTask, fd: Fd, request: u32, argument: u64) -> SyscallResult {
    const FIONREAD: u32 = 0x541b;
    const FIONBIO: u32 = 0x5421;
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIGETBSZ: u32 = 2;
    const FIOASYNC: u32 = 0x5452;
    const FIOSETOWN: u32 = 0x8901;
    const SIOCSPGRP: u32 = 0x8902;
    const FIOGETOWN: u32 = 0x8903;
    const SIOCGPGRP: u32 = 0x8904;
    let file = task.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    let regular = || file.inode().filter(|inode| inode.file_type() == FileType::Regular);
    match request {
        FIOCLEX | FIONCLEX => {
            task.files().set_close_on_exec(fd, request == FIOCLEX)?;
            Ok(0)
        }
        FIONBIO => {
            let mut word = [0; 4];
            task.read_bytes(argument, &mut word)?;
            let mut flags = file.flags();
            flags.set(OpenFlags::NONBLOCK, word != [0; 4]);
            file.set_flags(flags)?;
            Ok(0)
        }
        FIOASYNC => {
            let mut word = [0; 4];
            task.read_bytes(argument, &mut word)?;
            let mut flags = file.flags();
            flags.set(OpenFlags::ASYNC, word != [0; 4]);
            file.set_flags(flags)?;
            async_signal::update(task, &file, fd);
            Ok(0)
        }
        FIOSETOWN | SIOCSPGRP if is_socket(&file) => {
            let mut word = [0; 4];
            task.read_bytes(argument, &mut word)?;
            async_signal::set_owner(task, &file, i32::from_ne_bytes(word))?;
            Ok(0)
        }
        FIOGETOWN | SIOCGPGRP if is_socket(&file) => {
            let owner = async_signal::owner_number(task, &file.owner.lock());
            task.write_bytes(argument, &owner.to_ne_bytes())?;
            Ok(0)
        }
        FIONREAD if regular().is_some() => {
            let size = regular().map_or(Ok(0), |inode| inode.metadata().map(|metadata| metadata.size))?;
            let left = size.saturating_sub(file.with_offset(|offset| *offset)) as u32;
            task.write_bytes(argument, &left.to_ne_bytes())?;
            Ok(0)
        }
        FIGETBSZ if regular().is_some() => {
            task.write_bytes(argument, &4096u32.to_ne_bytes())?;
            Ok(0)
        }
        _ => file.ops().ioctl(task, &file, request, argument),
    }
}

fn is_socket(file: &File) -> bool {
    file.ops().downcast_ref::<crate::net::socket::Socket>().is_some()
}

/// `memfd_create(2)`. There are no huge pages, as in a kernel without hugetlbfs.
pub fn memfd_create(task: &CurrentTask, name: crate::user::UserPath, flags: Flags) -> SyscallResult<Fd> {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const HUGETLB: u32 = 4;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    const HUGE_SIZE: u32 = 0x3f << 26;
    let huge = flags.0 & HUGETLB != 0;
    let sizes = if huge { HUGE_SIZE } else { 0 };
    if flags.0 & !(CLOEXEC | ALLOW_SEALING | HUGETLB | NOEXEC_SEAL | EXEC | sizes) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags.0 & (EXEC | NOEXEC_SEAL) == EXEC | NOEXEC_SEAL {
        return Err(Errno::EINVAL.into());
    }
    let name = task
        .read_string(name.0, 250)
        .map_err(|error| if error == Errno::ENAMETOOLONG { Errno::EINVAL } else { error })?;
    if huge {
        return Err(Errno::ENOSYS.into());
    }
    let credentials = task.credentials();
    let (mode, seals) = match flags.0 {
        flags if flags & NOEXEC_SEAL != 0 => (0o666, Seals::EXEC),
        flags if flags & ALLOW_SEALING != 0 => (0o777, Seals::empty()),
        _ => (0o777, Seals::SEAL),
    };
    let inode = task.kernel.memory_files.unnamed(mode, credentials.fs_uid, credentials.fs_gid, seals)?;
    let ops = Arc::clone(&inode).open(Some(task), OpenFlags::RDWR)?;
    let name = format!("/memfd:{} (deleted)", String::from_utf8_lossy(&name));
    let place = crate::fs::file::Place::Anonymous { name, inode: Some(inode) };
    let file = File::new(place, ops, OpenFlags::RDWR | OpenFlags::LARGEFILE);
    Ok(task.install(file, flags.0 & CLOEXEC != 0)?)
}
