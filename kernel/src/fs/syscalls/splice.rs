//! Moving data between pipes and files: `splice(2)`, `tee(2)`, `vmsplice(2)`.
//!
//! Data is copied, which a guest cannot tell from moved pages.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;

use crate::error::SyscallResult;
use crate::fs::{File, FileType};
use crate::ipc::pipe::PipeEnd;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::{IoVec, MAX_RW_COUNT, UserPtr, UserReader, UserWriter};
use crate::wait::{Deadline, Events};

const SPLICE_F_NONBLOCK: u32 = 2;
const KNOWN_FLAGS: u32 = 15;
/// How much is moved at a time.
const PIECE: usize = 64 * 1024;

fn pipe(file: &File) -> Option<&PipeEnd> {
    file.ops().downcast_ref()
}

/// Whether `splice(2)` works on it: regular files, terminals and memory devices, sockets.
fn check_spliceable(file: &File) -> SyscallResult<()> {
    let kind = file.inode().map(|inode| inode.file_type());
    let socket = file.ops().downcast_ref::<crate::net::socket::Socket>().is_some();
    match kind {
        Some(FileType::Regular | FileType::CharDevice | FileType::Fifo | FileType::Socket) => Ok(()),
        _ if socket => Ok(()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Until when to wait for a pipe: not at all with the flag, or if one of the files is not to block.
fn deadline(flags: Flags, files: &[&File]) -> Deadline {
    let never = files.iter().any(|file| file.flags().contains(OpenFlags::NONBLOCK));
    if flags.0 & SPLICE_F_NONBLOCK != 0 || never { Deadline::Now } else { Deadline::Never }
}

fn read_offset(task: &CurrentTask, pointer: UserPtr<i64>, file: &File) -> SyscallResult<Option<u64>> {
    let Some(pointer) = pointer.non_null() else { return Ok(None) };
    if pipe(file).is_some() {
        return Err(Errno::ESPIPE.into());
    }
    let offset = task.read_object(pointer)?;
    if !file.ops().has_positions() {
        return Err(Errno::EINVAL.into());
    }
    Ok(Some(u64::try_from(offset).map_err(|_| Errno::EINVAL)?))
}

/// `splice(2)`.
pub fn splice(
    task: &CurrentTask,
    input: Fd,
    input_offset: UserPtr<i64>,
    output: Fd,
    output_offset: UserPtr<i64>,
    length: usize,
    flags: Flags,
) -> SyscallResult<usize> {
    if length == 0 {
        return Ok(0);
    }
    if flags.0 & !KNOWN_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (task.file(input)?, task.file(output)?);
    let mut from_offset = read_offset(task, input_offset, &from)?;
    let mut to_offset = read_offset(task, output_offset, &to)?;
    from.check_readable()?;
    to.check_writable()?;
    let length = length.min(MAX_RW_COUNT);
    let done = match (pipe(&from), pipe(&to)) {
        (Some(_), Some(_)) => between_pipes(task, &from, &to, length, flags, PipeEnd::take)?,
        (Some(source), None) => from_pipe(task, (&from, source), &to, to_offset.as_mut(), length, flags)?,
        (None, Some(sink)) => to_pipe(task, &from, from_offset.as_mut(), (&to, sink), length, flags)?,
        (None, None) => return Err(Errno::EINVAL.into()),
    };
    for (pointer, offset) in [(input_offset, from_offset), (output_offset, to_offset)] {
        if let Some(offset) = offset {
            task.write_object(pointer, &offset.cast_signed())?;
        }
    }
    Ok(done)
}

/// Waits for data in one pipe and for room in the other, and copies what `get` gets out of the first.
fn between_pipes(
    task: &CurrentTask,
    from: &Arc<File>,
    to: &Arc<File>,
    length: usize,
    flags: Flags,
    get: impl Fn(&PipeEnd, usize) -> SyscallResult<Vec<u8>>,
) -> SyscallResult<usize> {
    let (source, sink) = (pipe(from).ok_or(Errno::EINVAL)?, pipe(to).ok_or(Errno::EINVAL)?);
    if source.same_pipe(sink) {
        return Err(Errno::EINVAL.into());
    }
    let deadline = deadline(flags, &[from, to]);
    loop {
        let first = task.block_on(&**from, Events::READABLE, deadline, || source.peek(1))?;
        if first.is_empty() {
            return Ok(0);
        }
        let room = task.block_on(&**to, Events::WRITABLE, deadline, || sink.room(task))?;
        // Somebody else may have taken the data in between.
        match get(source, length.min(room)) {
            Err(error) if error.is(Errno::EAGAIN) && deadline != Deadline::Now => {}
            Err(error) => return Err(error),
            Ok(data) => {
                sink.give(&data);
                return Ok(data.len());
            }
        }
    }
}

fn from_pipe(
    task: &CurrentTask,
    (from, source): (&File, &PipeEnd),
    to: &File,
    mut offset: Option<&mut u64>,
    length: usize,
    flags: Flags,
) -> SyscallResult<usize> {
    check_spliceable(to)?;
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL.into());
    }
    let mut deadline = deadline(flags, &[from]);
    let mut done = 0;
    while done < length {
        let piece = PIECE.min(length - done);
        let data = match task.block_on(from, Events::READABLE, deadline, || source.take(piece)) {
            Ok(data) if data.is_empty() => break,
            Ok(data) => data,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let mut reader = UserReader::buffer(&data);
        let written = match &mut offset {
            Some(offset) => to.write_at(task, **offset, &mut reader),
            None => to.write(task, &mut reader),
        };
        let count = *written.as_ref().unwrap_or(&0);
        source.put_back(&data[count..]);
        if let Some(offset) = &mut offset {
            **offset += count as u64;
        }
        done += count;
        match written {
            Err(error) if done == 0 => return Err(error),
            Ok(count) if count == data.len() => {}
            _ => break,
        }
        // More is taken if it is there; it is not waited for.
        deadline = Deadline::Now;
    }
    Ok(done)
}

fn to_pipe(
    task: &CurrentTask,
    from: &File,
    offset: Option<&mut u64>,
    (to, sink): (&File, &PipeEnd),
    length: usize,
    flags: Flags,
) -> SyscallResult<usize> {
    check_spliceable(from)?;
    let room = task.block_on(to, Events::WRITABLE, deadline(flags, &[to]), || sink.room(task))?;
    let mut data = Vec::new();
    let mut writer = UserWriter::buffer(&mut data, room.min(length));
    match offset {
        Some(offset) => *offset += from.read_at(*offset, &mut writer)? as u64,
        None if flags.0 & SPLICE_F_NONBLOCK != 0 => {
            from.read_until(task, &mut writer, Deadline::Now)?;
        }
        None => {
            from.read(task, &mut writer)?;
        }
    }
    sink.give(&data);
    Ok(data.len())
}

/// `tee(2)`.
pub fn tee(task: &CurrentTask, input: Fd, output: Fd, length: usize, flags: Flags) -> SyscallResult<usize> {
    if flags.0 & !KNOWN_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if length == 0 {
        return Ok(0);
    }
    let (from, to) = (task.file(input)?, task.file(output)?);
    from.check_readable()?;
    to.check_writable()?;
    between_pipes(task, &from, &to, length.min(MAX_RW_COUNT), flags, PipeEnd::peek)
}

/// `vmsplice(2)`: writes to the end of a pipe that is written to, reads from the other.
pub fn vmsplice(
    task: &CurrentTask,
    fd: Fd,
    vectors: UserPtr<IoVec>,
    count: usize,
    flags: Flags,
) -> SyscallResult<usize> {
    if flags.0 & !KNOWN_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = task.file(fd)?;
    let Some(end) = pipe(&file) else { return Err(Errno::EBADF.into()) };
    let vectors = task.read_iovecs(vectors, count)?;
    let deadline = deadline(flags, &[&file]);
    if file.flags().writable() {
        let mut reader = UserReader::guest(task, vectors);
        if reader.remaining() == 0 {
            return Ok(0);
        }
        let room = task.block_on(&*file, Events::WRITABLE, deadline, || end.room(task))?;
        let mut data = vec![0; reader.remaining().min(room)];
        let read = reader.read(&mut data)?;
        end.give(&data[..read]);
        return Ok(read);
    }
    file.read_until(task, &mut UserWriter::guest(task, vectors), deadline)
}
