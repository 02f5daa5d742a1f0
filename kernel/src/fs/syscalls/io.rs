//! Reading and writing.

use abi::Errno;
use abi::fs::OpenFlags;
use platform::Uses;

use crate::error::SyscallResult;
use crate::fs::file::Append;
use crate::fs::inotify::Mask;
use crate::fs::{File, FileType, Whence, privileges};
use crate::ipc::pipe::PipeEnd;
use crate::syscalls::Fd;
use crate::syscalls::arguments::{Flags, flag_argument};
use crate::task::CurrentTask;
use crate::task::limits::{self, Resource};
use crate::user::{IoVec, UserPtr, UserReader, UserWriter};
use crate::wait::{Deadline, Events};

/// `EISDIR` for a directory, which is read in another way.
fn check_not_directory(file: &File) -> SyscallResult<()> {
    let directory = file.inode().is_some_and(|inode| inode.file_type() == FileType::Directory);
    if directory && file.flags().readable() { Err(Errno::EISDIR.into()) } else { Ok(()) }
}

/// `read(2)`.
pub fn read(task: &CurrentTask, fd: Fd, buffer: u64, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    check_not_directory(&file)?;
    task.note_use(fd, &file, Uses::READ, count);
    if !file.ops().has_positions() {
        return file.read(task, &mut task.writer(buffer, count)?);
    }
    let count = file.read(task, &mut task.writer(buffer, count)?.delivering())?;
    task.delivers_at_offset(&file);
    Ok(count)
}

/// `write(2)`.
pub fn write(task: &CurrentTask, fd: Fd, buffer: u64, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    task.note_use(fd, &file, Uses::WRITE, count);
    file.write(task, &mut task.reader(buffer, count)?)
}

fn position(offset: i64) -> SyscallResult<u64> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL.into())
}

/// `pread64(2)`.
pub fn pread64(task: &CurrentTask, fd: Fd, buffer: u64, count: usize, offset: i64) -> SyscallResult<usize> {
    let offset = position(offset)?;
    let file = task.file(fd)?;
    check_not_directory(&file)?;
    task.note_use(fd, &file, Uses::READ, count);
    file.read_at(offset, &mut task.writer(buffer, count)?.delivering())
}

/// `pwrite64(2)`.
pub fn pwrite64(task: &CurrentTask, fd: Fd, buffer: u64, count: usize, offset: i64) -> SyscallResult<usize> {
    let offset = position(offset)?;
    let file = task.file(fd)?;
    task.note_use(fd, &file, Uses::WRITE, count);
    file.write_at(task, offset, &mut task.reader(buffer, count)?)
}

/// `readv(2)`.
pub fn readv(task: &CurrentTask, fd: Fd, vectors: UserPtr<IoVec>, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    check_not_directory(&file)?;
    file.read(task, &mut UserWriter::guest(task, task.read_iovecs(vectors, count)?))
}

/// `writev(2)`.
pub fn writev(task: &CurrentTask, fd: Fd, vectors: UserPtr<IoVec>, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    file.write(task, &mut UserReader::guest(task, task.read_iovecs(vectors, count)?))
}

/// `preadv(2)`.
pub fn preadv(
    task: &CurrentTask,
    fd: Fd,
    vectors: UserPtr<IoVec>,
    count: usize,
    low: i64,
    _high: u64,
) -> SyscallResult<usize> {
    let offset = position(low)?;
    let file = task.file(fd)?;
    file.read_at(offset, &mut UserWriter::guest(task, task.read_iovecs(vectors, count)?))
}

/// `pwritev(2)`.
pub fn pwritev(
    task: &CurrentTask,
    fd: Fd,
    vectors: UserPtr<IoVec>,
    count: usize,
    low: i64,
    _high: u64,
) -> SyscallResult<usize> {
    let offset = position(low)?;
    let file = task.file(fd)?;
    file.write_at(task, offset, &mut UserReader::guest(task, task.read_iovecs(vectors, count)?))
}

bitflags::bitflags! {
    /// Flags of `preadv2(2)` and `pwritev2(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransferFlags: u32 {
        /// `RWF_HIPRI`
        const HIGH_PRIORITY = 1;
        /// `RWF_DSYNC`
        const DATA_SYNC = 2;
        /// `RWF_SYNC`
        const SYNC = 4;
        /// `RWF_NOWAIT`
        const NO_WAIT = 8;
        /// `RWF_APPEND`
        const APPEND = 16;
        /// `RWF_NOAPPEND`
        const NO_APPEND = 32;
    }
}

flag_argument!(TransferFlags);

/// What the flags of a transfer mean for a file: until when to wait. Flags that are not known are `EOPNOTSUPP`.
fn transfer_deadline(file: &File, flags: TransferFlags, events: Events) -> SyscallResult<Deadline> {
    if !TransferFlags::all().contains(flags) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if flags.contains(TransferFlags::APPEND | TransferFlags::NO_APPEND) {
        return Err(Errno::EINVAL.into());
    }
    if !flags.contains(TransferFlags::NO_WAIT) {
        return Ok(file.deadline_for(events));
    }
    match file.inode().map(|inode| inode.file_type()) {
        Some(FileType::Regular | FileType::Fifo) => Ok(Deadline::Now),
        None if file.ops().downcast_ref::<crate::net::socket::Socket>().is_some() => Ok(Deadline::Now),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// `preadv2(2)`: at the file's own offset for -1.
pub fn preadv2(
    task: &CurrentTask,
    fd: Fd,
    vectors: UserPtr<IoVec>,
    count: usize,
    low: i64,
    _high: u64,
    flags: TransferFlags,
) -> SyscallResult<usize> {
    let offset = if low == -1 { None } else { Some(position(low)?) };
    let file = task.file(fd)?;
    check_not_directory(&file)?;
    let mut writer = UserWriter::guest(task, task.read_iovecs(vectors, count)?);
    match offset {
        Some(_) if !file.ops().has_positions() => Err(Errno::ESPIPE.into()),
        Some(offset) => {
            file.check_readable()?;
            transfer_deadline(&file, flags, Events::READABLE)?;
            file.read_at(offset, &mut writer)
        }
        None => {
            file.check_readable()?;
            let deadline = transfer_deadline(&file, flags, Events::READABLE)?;
            file.read_until(task, &mut writer, deadline)
        }
    }
}

/// `pwritev2(2)`: at the file's own offset for -1.
pub fn pwritev2(
    task: &CurrentTask,
    fd: Fd,
    vectors: UserPtr<IoVec>,
    count: usize,
    low: i64,
    _high: u64,
    flags: TransferFlags,
) -> SyscallResult<usize> {
    let offset = if low == -1 { None } else { Some(position(low)?) };
    let file = task.file(fd)?;
    let mut reader = UserReader::guest(task, task.read_iovecs(vectors, count)?);
    if offset.is_some() && !file.ops().has_positions() {
        return Err(Errno::ESPIPE.into());
    }
    file.check_writable()?;
    let deadline = transfer_deadline(&file, flags, Events::WRITABLE)?;
    let appends = (file.flags().contains(OpenFlags::APPEND) && !flags.contains(TransferFlags::NO_APPEND))
        || flags.contains(TransferFlags::APPEND);
    let append = if appends { Append::Yes } else { Append::No };
    let written = match offset {
        Some(offset) => file.write_at_or_end(task, offset, &mut reader, append)?,
        None => file.write_until(task, &mut reader, deadline, append)?,
    };
    if flags.intersects(TransferFlags::SYNC | TransferFlags::DATA_SYNC) && file.ops().has_positions() {
        file.ops().sync()?;
    }
    Ok(written)
}

/// `lseek(2)`.
pub fn lseek(task: &CurrentTask, fd: Fd, offset: i64, whence: u32) -> SyscallResult<u64> {
    let file = task.file(fd)?;
    let whence = match whence {
        0 => Whence::Set,
        1 => Whence::Current,
        2 => Whence::End,
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(file.seek(offset, whence)?)
}

/// Moves up to `count` bytes from one file to another through the kernel.
fn transfer(
    task: &CurrentTask,
    from: &File,
    mut from_offset: Option<&mut u64>,
    to: &File,
    mut to_offset: Option<&mut u64>,
    count: usize,
) -> SyscallResult<usize> {
    const PIECE: usize = 64 * 1024;
    let mut done = 0;
    while done < count {
        let mut bytes = Vec::new();
        let room = PIECE.min(count - done);
        let mut writer = UserWriter::buffer(&mut bytes, room);
        let read = match &mut from_offset {
            Some(offset) => from.read_at(**offset, &mut writer),
            None => from.read(task, &mut writer),
        };
        let read = match read {
            Ok(read) => read,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        if read == 0 {
            break;
        }
        let mut reader = UserReader::buffer(&bytes);
        let written = match &mut to_offset {
            Some(offset) => to.write_at(task, **offset, &mut reader),
            None => to.write(task, &mut reader),
        };
        let written = match written {
            Ok(written) => written,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        if let Some(offset) = &mut from_offset {
            **offset += written as u64;
        }
        if let Some(offset) = &mut to_offset {
            **offset += written as u64;
        }
        done += written;
        // A short read of a stream is all that there is for now.
        if written < read || (read < room && from_offset.is_none()) {
            break;
        }
    }
    Ok(done)
}

/// `sendfile(2)`.
pub fn sendfile(
    task: &CurrentTask,
    out: Fd,
    input: Fd,
    offset: UserPtr<i64>,
    count: usize,
) -> SyscallResult<usize> {
    let from = task.file(input)?;
    let to = task.file(out)?;
    from.check_readable()?;
    to.check_writable()?;
    let count = count.min(crate::user::MAX_RW_COUNT);
    if !offset.is_null() && !from.ops().has_positions() {
        return Err(Errno::ESPIPE.into());
    }
    let into_pipe = to.ops().downcast_ref::<PipeEnd>().is_some();
    if !into_pipe && (to.flags().contains(OpenFlags::APPEND) || !from.ops().has_positions()) {
        return Err(Errno::EINVAL.into());
    }
    match offset.non_null() {
        None => transfer(task, &from, None, &to, None, count),
        Some(pointer) => {
            let mut offset = position(task.read_object(pointer)?)?;
            let result = transfer(task, &from, Some(&mut offset), &to, None, count)?;
            task.write_object(pointer, &offset.cast_signed())?;
            Ok(result)
        }
    }
}

/// `copy_file_range(2)`.
pub fn copy_file_range(
    task: &CurrentTask,
    input: Fd,
    input_offset: UserPtr<i64>,
    out: Fd,
    out_offset: UserPtr<i64>,
    count: usize,
    flags: Flags,
) -> SyscallResult<usize> {
    if flags.0 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (task.file(input)?, task.file(out)?);
    let read = |pointer: UserPtr<i64>| -> SyscallResult<Option<u64>> {
        pointer.non_null().map(|pointer| position(task.read_object(pointer)?)).transpose()
    };
    let (mut from_at, mut to_at) = (read(input_offset)?, read(out_offset)?);
    let kind = |file: &File| file.inode().map(|inode| inode.file_type());
    for file in [&from, &to] {
        match kind(file) {
            Some(FileType::Regular) => {}
            Some(FileType::Directory) => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    from.check_readable()?;
    to.check_writable()?;
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF.into());
    }
    let start = from_at.unwrap_or_else(|| from.with_offset(|offset| *offset));
    let target = to_at.unwrap_or_else(|| to.with_offset(|offset| *offset));
    let count = count.min(crate::user::MAX_RW_COUNT);
    if start.checked_add(count as u64).is_none() || target.checked_add(count as u64).is_none() {
        return Err(Errno::EOVERFLOW.into());
    }
    let (source, sink) = (from.inode().ok_or(Errno::EINVAL)?, to.inode().ok_or(Errno::EINVAL)?);
    let left = source.metadata()?.size.saturating_sub(start);
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(count);
    let length = count as u64;
    if source.common().id == sink.common().id && target + length > start && target < start + length {
        return Err(Errno::EINVAL.into());
    }
    let done = transfer(task, &from, from_at.as_mut(), &to, to_at.as_mut(), count)?;
    for (pointer, offset) in [(input_offset, from_at), (out_offset, to_at)] {
        if let Some(offset) = offset {
            task.write_object(pointer, &offset.cast_signed())?;
        }
    }
    Ok(done)
}

/// `fsync(2)`.
pub fn fsync(task: &CurrentTask, fd: Fd) -> SyscallResult<()> {
    let file = task.file(fd)?;
    let directory = file.inode().is_some_and(|inode| inode.file_type() == FileType::Directory);
    if directory { Ok(()) } else { Ok(file.ops().sync()?) }
}

/// `fdatasync(2)`.
pub fn fdatasync(task: &CurrentTask, fd: Fd) -> SyscallResult<()> {
    fsync(task, fd)
}

/// `sync(2)`.
pub fn sync(_task: &CurrentTask) -> SyscallResult<()> {
    Ok(())
}

/// `syncfs(2)`.
pub fn syncfs(task: &CurrentTask, fd: Fd) -> SyscallResult<()> {
    task.file(fd)?;
    Ok(())
}

/// `sync_file_range(2)`: what is to be written out is all written out by [`fsync`].
pub fn sync_file_range(
    task: &CurrentTask,
    fd: Fd,
    offset: i64,
    length: i64,
    flags: Flags,
) -> SyscallResult<()> {
    const WRITE: u32 = 2;
    const KNOWN: u32 = 7;
    let file = task.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    if flags.0 & !KNOWN != 0 || offset < 0 || length < 0 || offset.checked_add(length).is_none() {
        return Err(Errno::EINVAL.into());
    }
    match file.inode().map(|inode| inode.file_type()) {
        Some(FileType::Regular) if flags.0 & WRITE != 0 => Ok(file.ops().sync()?),
        Some(FileType::Regular | FileType::Directory | FileType::BlockDevice | FileType::Symlink) => Ok(()),
        _ => Err(Errno::ESPIPE.into()),
    }
}

/// `readahead(2)`: the host reads ahead by itself.
pub fn readahead(task: &CurrentTask, fd: Fd, _offset: i64, _count: usize) -> SyscallResult<()> {
    let file = task.file(fd)?;
    file.check_readable()?;
    match file.inode().map(|inode| inode.file_type()) {
        Some(FileType::Regular) => Ok(()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `cachestat(2)`: files in memory are what the cache is here, so every page counts as cached and none as dirty.
pub fn cachestat(
    task: &CurrentTask,
    fd: Fd,
    range: UserPtr<[u64; 2]>,
    result: UserPtr<[u64; 5]>,
    flags: Flags,
) -> SyscallResult<()> {
    let file = task.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    let [offset, length] = task.read_object(range)?;
    if flags.0 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let size = file.inode().map_or(Ok(0), |inode| inode.metadata().map(|metadata| metadata.size))?;
    let end = if length == 0 { size } else { offset.saturating_add(length).min(size) };
    let pages = end.div_ceil(4096).saturating_sub(offset / 4096);
    Ok(task.write_object(result, &[pages, 0, 0, 0, 0])?)
}

/// `fadvise64(2)`: advice that needs no following.
pub fn fadvise64(task: &CurrentTask, fd: Fd, _offset: i64, length: i64, advice: u32) -> SyscallResult<()> {
    let file = task.file(fd)?;
    if length < 0 || advice > 5 {
        return Err(Errno::EINVAL.into());
    }
    if !file.ops().has_positions() { Err(Errno::ESPIPE.into()) } else { Ok(()) }
}

/// `fallocate(2)`.
pub fn fallocate(task: &CurrentTask, fd: Fd, mode: u32, offset: i64, length: i64) -> SyscallResult<()> {
    let file = task.file(fd)?;
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL.into());
    }
    const KEEP_SIZE: u32 = 1;
    const KNOWN: u32 = 0x7f;
    if mode & !KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    file.check_writable()?;
    let inode = file.inode();
    match inode.as_ref().map(|inode| inode.file_type()) {
        Some(FileType::Regular) => {}
        Some(FileType::Fifo) => return Err(Errno::ESPIPE.into()),
        Some(FileType::Directory) => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    let end = offset.checked_add(length).ok_or(Errno::EFBIG)?.cast_unsigned();
    if mode & KEEP_SIZE == 0 && end > task.group.limit(Resource::FileSize) {
        return Err(limits::file_too_large(task));
    }
    if let Some(inode) = &inode {
        privileges::drop_all(inode, &task.credentials())?;
    }
    file.ops().allocate(&file, mode, offset.cast_unsigned(), length.cast_unsigned())?;
    file.notify(Mask::MODIFY);
    Ok(())
}
