//! Reading and writing.

use abi::Errno;

use crate::error::SyscallResult;
use crate::fs::{File, FileType, Whence};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::{IoVec, UserPtr, UserReader, UserWriter};

/// `EISDIR` for a directory, which is read in another way.
fn check_not_directory(file: &File) -> SyscallResult<()> {
    let directory = file.inode().is_some_and(|inode| inode.file_type() == FileType::Directory);
    if directory && file.flags().readable() { Err(Errno::EISDIR.into()) } else { Ok(()) }
}

/// `read(2)`.
pub fn read(task: &CurrentTask, fd: Fd, buffer: u64, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    check_not_directory(&file)?;
    file.read(task, &mut task.writer(buffer, count))
}

/// `write(2)`.
pub fn write(task: &CurrentTask, fd: Fd, buffer: u64, count: usize) -> SyscallResult<usize> {
    let file = task.file(fd)?;
    file.write(task, &mut task.reader(buffer, count))
}

fn position(offset: i64) -> SyscallResult<u64> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL.into())
}

/// `pread64(2)`.
pub fn pread64(task: &CurrentTask, fd: Fd, buffer: u64, count: usize, offset: i64) -> SyscallResult<usize> {
    let offset = position(offset)?;
    let file = task.file(fd)?;
    check_not_directory(&file)?;
    file.read_at(offset, &mut task.writer(buffer, count))
}

/// `pwrite64(2)`.
pub fn pwrite64(task: &CurrentTask, fd: Fd, buffer: u64, count: usize, offset: i64) -> SyscallResult<usize> {
    let offset = position(offset)?;
    task.file(fd)?.write_at(offset, &mut task.reader(buffer, count))
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
    file.write_at(offset, &mut UserReader::guest(task, task.read_iovecs(vectors, count)?))
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
            Some(offset) => to.write_at(**offset, &mut reader),
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
    from.check_readable()?;
    to.check_writable()?;
    for file in [&from, &to] {
        match file.inode().map(|inode| inode.file_type()) {
            Some(FileType::Regular) => {}
            Some(FileType::Directory) => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    let read = |pointer: UserPtr<i64>| -> SyscallResult<Option<u64>> {
        pointer.non_null().map(|pointer| position(task.read_object(pointer)?)).transpose()
    };
    let (mut from_at, mut to_at) = (read(input_offset)?, read(out_offset)?);
    let done =
        transfer(task, &from, from_at.as_mut(), &to, to_at.as_mut(), count.min(crate::user::MAX_RW_COUNT))?;
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

/// `fadvise64(2)`: advice that needs no following.
pub fn fadvise64(task: &CurrentTask, fd: Fd, _offset: i64, length: i64, advice: u32) -> SyscallResult<()> {
    let file = task.file(fd)?;
    if length < 0 || advice > 5 {
        return Err(Errno::EINVAL.into());
    }
    if !file.ops().seekable() { Err(Errno::ESPIPE.into()) } else { Ok(()) }
}

/// `fallocate(2)`.
pub fn fallocate(task: &CurrentTask, fd: Fd, mode: u32, offset: i64, length: i64) -> SyscallResult<()> {
    let file = task.file(fd)?;
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL.into());
    }
    file.check_writable()?;
    const KEEP_SIZE: u32 = 1;
    if mode & KEEP_SIZE == 0 && file.inode().is_some_and(|inode| inode.file_type() == FileType::Regular) {
        super::stat::check_size(task, offset.saturating_add(length))?;
    }
    Ok(file.ops().allocate(&file, mode, offset.cast_unsigned(), length.cast_unsigned())?)
}
