//! Guest memory as system calls use it: typed pointers, paths, vectors, and the two ends of a transfer.
//!
//! Nothing here is a Rust reference to guest memory: bytes are copied, once, and then checked. A pointer that the
//! guest got wrong is `EFAULT`.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::bytes::position;
use abi::{Errno, SysResult};
use platform::SENT_MAX;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::task::CurrentTask;

mod vector;

pub use vector::Vectors;
use vector::{Cursor, SMALL_VECTOR};

/// The longest path, with its zero byte (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// The largest number of elements of an `iovec` array.
pub const IOV_MAX: usize = 1024;
/// The most bytes that one read or write transfers.
pub const MAX_RW_COUNT: usize = 0x7fff_f000;
/// The end of the addresses that a program can have.
const USER_END: u64 = 0x7fff_ffff_f000;
/// How much is copied at a time between a file and a guest: what stays in the processor's cache meanwhile.
const CHUNK: usize = 64 * 1024;

/// Hands `operation` a buffer of `length` bytes, at most [`CHUNK`], with whatever contents: nobody may pass on bytes that it
/// has not put there. A thread keeps its buffer:
/// zeroing a fresh one takes longer than the copy, and getting one from the host longer still.
fn with_buffer<T>(length: usize, operation: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Taken out, so that an operation that needs another one gets a fresh one.
    let mut buffer = BUFFER.take();
    let length = length.min(CHUNK);
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let result = operation(&mut buffer[..length]);
    BUFFER.set(buffer);
    result
}

/// [`with_buffer`] for as much as can be had at once, at most a megabyte.
pub(crate) fn with_whole_buffer<T>(length: usize, operation: impl FnOnce(&mut [u8]) -> T) -> T {
    const MOST: usize = 1 << 20;
    if length <= CHUNK { with_buffer(length, operation) } else { operation(&mut vec![0; length.min(MOST)]) }
}

/// A guest's pointer to a `T`, or to several.
#[derive(Debug, PartialEq, Eq)]
pub struct UserPtr<T> {
    address: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// The pointer with this address.
    pub fn new(address: u64) -> UserPtr<T> {
        UserPtr { address, kind: PhantomData }
    }

    /// The address.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Whether it is the null pointer.
    pub fn is_null(self) -> bool {
        self.address == 0
    }

    /// The pointer, or `None` for null: many arguments are optional.
    pub fn non_null(self) -> Option<UserPtr<T>> {
        (!self.is_null()).then_some(self)
    }

    /// The pointer `count` elements further on.
    #[must_use]
    pub fn nth(self, count: usize) -> UserPtr<T> {
        UserPtr::new(self.address.wrapping_add((count as u64).wrapping_mul(size_of::<T>() as u64)))
    }

    /// The same address as a pointer to something else.
    pub fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.address)
    }
}

/// A guest's pointer to a path. [`CurrentTask::read_path`] copies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserPath(pub u64);

/// A path that a guest has given: a short one takes no memory of its own.
pub enum PathText {
    /// So many of these bytes.
    Short([u8; SENT_MAX], usize),
    /// Any.
    Long(Vec<u8>),
}

impl Default for PathText {
    fn default() -> PathText {
        PathText::Long(Vec::new())
    }
}

impl Deref for PathText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            PathText::Short(bytes, length) => &bytes[..*length],
            PathText::Long(bytes) => bytes,
        }
    }
}

/// `struct iovec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoVec {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
}

impl CurrentTask {
    /// Copies guest memory at `address`; `EFAULT` unless all of it could be read.
    pub fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> SysResult<()> {
        if self.read_some(address, buffer) == buffer.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies `bytes` to guest memory at `address`; `EFAULT` unless all could be written.
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> SysResult<()> {
        if self.write_some(address, bytes) == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies what can be read of guest memory at `address`; returns the number of bytes. Grows the stack where the
    /// access would.
    pub fn read_some(&self, address: u64, buffer: &mut [u8]) -> usize {
        let mut context = self.context.borrow_mut();
        let mut done = context.read_sent(address, buffer);
        if done < buffer.len() {
            done += context.read(address.wrapping_add(done as u64), &mut buffer[done..]);
        }
        drop(context);
        while done < buffer.len() && self.grow_stack(address.wrapping_add(done as u64)) {
            let more = self.context.borrow_mut().read(address.wrapping_add(done as u64), &mut buffer[done..]);
            if more == 0 {
                break;
            }
            done += more;
        }
        done
    }

    /// Copies what can be written to guest memory at `address`; returns the number of bytes. Grows the stack where
    /// the access would.
    pub fn write_some(&self, address: u64, bytes: &[u8]) -> usize {
        let mut done = self.context.borrow_mut().write(address, bytes);
        while done < bytes.len() && self.grow_stack(address.wrapping_add(done as u64)) {
            let more = self.context.borrow_mut().write(address.wrapping_add(done as u64), &bytes[done..]);
            if more == 0 {
                break;
            }
            done += more;
        }
        done
    }

    /// Copies guest memory at several places, each an address and a length, one after the other to `buffer`; `EFAULT` unless all
    /// could be read.
    pub fn read_several(&self, places: &[(u64, usize)], buffer: &mut [u8]) -> SysResult<()> {
        if places.len() > 1 && self.context.borrow_mut().read_pieces(places, buffer) {
            return Ok(());
        }
        let mut rest = buffer;
        places.iter().try_for_each(|&(address, length)| {
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
            rest = behind;
            self.read_bytes(address, piece)
        })
    }

    /// Copies `bytes` to guest memory at several places, likewise.
    pub fn write_several(&self, places: &[(u64, usize)], bytes: &[u8]) -> SysResult<()> {
        if places.len() > 1 && self.context.borrow_mut().write_pieces(places, bytes) {
            return Ok(());
        }
        let mut rest = bytes;
        places.iter().try_for_each(|&(address, length)| {
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            self.write_bytes(address, piece)
        })
    }

    /// Copies the object at `pointer`.
    pub fn read_object<T: FromBytes + IntoBytes>(&self, pointer: UserPtr<T>) -> SysResult<T> {
        let mut object = T::new_zeroed();
        self.read_bytes(pointer.address, object.as_mut_bytes())?;
        Ok(object)
    }

    /// Copies `object` to `pointer`.
    pub fn write_object<T: IntoBytes + Immutable>(&self, pointer: UserPtr<T>, object: &T) -> SysResult<()> {
        self.write_bytes(pointer.address, object.as_bytes())
    }

    /// Copies `count` objects at `pointer`. The caller has bounded `count`.
    pub fn read_array<T: FromBytes + IntoBytes>(
        &self,
        pointer: UserPtr<T>,
        count: usize,
    ) -> SysResult<Vec<T>> {
        let mut objects: Vec<T> = (0..count).map(|_| T::new_zeroed()).collect();
        self.read_bytes(pointer.address, objects.as_mut_slice().as_mut_bytes())?;
        Ok(objects)
    }

    /// Copies `objects` to `pointer`.
    pub fn write_array<T: IntoBytes + Immutable>(&self, pointer: UserPtr<T>, objects: &[T]) -> SysResult<()> {
        self.write_bytes(pointer.address, objects.as_bytes())
    }

    /// Copies the zero-terminated string at `address`, without the zero. `ENAMETOOLONG` if there is none within
    /// `limit` bytes.
    pub fn read_string(&self, address: u64, limit: usize) -> SysResult<Vec<u8>> {
        match self.read_text(address, limit)? {
            PathText::Short(bytes, length) => Ok(bytes[..length].to_vec()),
            PathText::Long(bytes) => Ok(bytes),
        }
    }

    #[inline]
    fn read_text(&self, address: u64, limit: usize) -> SysResult<PathText> {
        let mut early = [0; SENT_MAX];
        let room = limit.min(early.len());
        let sent = self.context.borrow_mut().read_sent(address, &mut early[..room]);
        if let Some(length) = position(&early[..sent], 0) {
            return Ok(PathText::Short(early, length));
        }
        self.read_long_string(address, limit).map(PathText::Long)
    }

    fn read_long_string(&self, address: u64, limit: usize) -> SysResult<Vec<u8>> {
        let mut string = Vec::new();
        let mut at = address;
        while string.len() < limit {
            // Up to the end of the page, then page by page: what follows the string may not be mapped.
            let room = (4096 - (at % 4096) as usize).min(limit - string.len());
            let mut chunk = [0; 4096];
            let read = self.read_some(at, &mut chunk[..room.min(if string.is_empty() { 256 } else { 4096 })]);
            if read == 0 {
                return Err(Errno::EFAULT);
            }
            if let Some(end) = chunk[..read].iter().position(|byte| *byte == 0) {
                string.extend_from_slice(&chunk[..end]);
                return Ok(string);
            }
            string.extend_from_slice(&chunk[..read]);
            at = at.wrapping_add(read as u64);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Copies a path: `ENAMETOOLONG` from [`PATH_MAX`] bytes on. An empty path is the caller's matter (`ENOENT`,
    /// unless `AT_EMPTY_PATH`).
    pub fn read_path(&self, path: UserPath) -> SysResult<PathText> {
        self.read_text(path.0, PATH_MAX)
    }

    /// Copies an `iovec` array: `EINVAL` for too many elements or a total beyond `ssize_t`; the total is cut at
    /// [`MAX_RW_COUNT`] as Linux does.
    pub fn read_iovecs(&self, pointer: UserPtr<IoVec>, count: usize) -> SysResult<Vec<IoVec>> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut vectors = self.read_array(pointer, count)?;
        let mut left = MAX_RW_COUNT as u64;
        for vector in &mut vectors {
            if i64::try_from(vector.length).is_err() {
                return Err(Errno::EINVAL);
            }
            // Of a single one, Linux looks at what is left of it only.
            let looked_at = if count == 1 { vector.length.min(left) } else { vector.length };
            check_range(vector.base, looked_at)?;
            vector.length = vector.length.min(left);
            left -= vector.length;
        }
        Ok(vectors)
    }

    /// Where a read of `length` bytes goes that the guest wants at `address`: `EFAULT` if that cannot all be the guest's.
    pub fn writer(&self, address: u64, length: usize) -> SysResult<UserWriter<'_>> {
        check_range(address, length as u64)?;
        let vector = IoVec { base: address, length: length.min(MAX_RW_COUNT) as u64 };
        Ok(UserWriter::guest(self, vector))
    }

    /// Where a write of `length` bytes comes from that the guest has at `address`, likewise.
    pub fn reader(&self, address: u64, length: usize) -> SysResult<UserReader<'_>> {
        check_range(address, length as u64)?;
        let vector = IoVec { base: address, length: length.min(MAX_RW_COUNT) as u64 };
        Ok(UserReader::guest(self, vector))
    }
}

/// Whether a buffer may be the guest's, whatever of it is there.
fn check_range(address: u64, length: u64) -> SysResult<()> {
    let end = address.checked_add(length).ok_or(Errno::EFAULT)?;
    if end <= USER_END { Ok(()) } else { Err(Errno::EFAULT) }
}

enum Destination<'a> {
    Guest(Cursor<'a>),
    Buffer { bytes: &'a mut Vec<u8>, remaining: usize },
}

/// The destination of a read: guest buffers, or a buffer of the kernel's (`sendfile(2)`, loading a program).
pub struct UserWriter<'a> {
    destination: Destination<'a>,
    written: usize,
    delivery: WriterDelivery,
}

/// Whether what is written may get to the guest when it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterDelivery {
    No,
    /// The first write may.
    First,
    /// The first write does, unless another follows.
    Underway,
}

impl<'a> UserWriter<'a> {
    /// Writes to guest buffers, one after the other.
    pub fn guest(task: &'a CurrentTask, vectors: impl Into<Vectors>) -> UserWriter<'a> {
        let destination = Destination::Guest(Cursor::new(task, vectors.into()));
        UserWriter { destination, written: 0, delivery: WriterDelivery::No }
    }

    /// The same, for a source from which a byte that cannot be written may be read again: what is written may get to the
    /// guest when it goes on.
    #[must_use]
    pub fn delivering(self) -> UserWriter<'a> {
        let may = self.task().is_some_and(CurrentTask::may_deliver);
        UserWriter { delivery: if may { WriterDelivery::First } else { WriterDelivery::No }, ..self }
    }

    /// Appends to a buffer of the kernel's, at most `limit` bytes.
    pub fn buffer(bytes: &'a mut Vec<u8>, limit: usize) -> UserWriter<'a> {
        let destination = Destination::Buffer { bytes, remaining: limit };
        UserWriter { destination, written: 0, delivery: WriterDelivery::No }
    }

    /// The task whose memory is written, if it is a guest's.
    pub fn task(&self) -> Option<&CurrentTask> {
        match &self.destination {
            Destination::Guest(cursor) => Some(cursor.task),
            Destination::Buffer { .. } => None,
        }
    }

    /// How many bytes still fit.
    pub fn remaining(&self) -> usize {
        match &self.destination {
            Destination::Guest(cursor) => cursor.remaining,
            Destination::Buffer { remaining, .. } => *remaining,
        }
    }

    /// How many bytes were written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Writes as much of `data` as fits; returns how much that was. `EFAULT` if not even one byte could be written.
    pub fn write(&mut self, data: &[u8]) -> SysResult<usize> {
        let mut done = 0;
        let delivery = std::mem::replace(&mut self.delivery, WriterDelivery::No);
        match &mut self.destination {
            Destination::Guest(cursor) => {
                if delivery == WriterDelivery::Underway {
                    let missing = cursor.task.settle_read();
                    if missing > 0 {
                        self.written -= missing;
                        return Err(Errno::EFAULT);
                    }
                } else if delivery == WriterDelivery::First
                    && let Some((address, length)) = cursor.piece()
                    && data.len() <= length
                    && cursor.task.context.borrow_mut().deliver(address, data)
                {
                    cursor.task.delivers_read(address, data.len());
                    cursor.advance(data.len());
                    self.delivery = WriterDelivery::Underway;
                    self.written += data.len();
                    return Ok(data.len());
                }
                let whole = data.len().min(cursor.remaining);
                if let Some(pieces) = cursor.pieces(whole)
                    && cursor.task.context.borrow_mut().write_pieces(&pieces, &data[..whole])
                {
                    cursor.advance_over(whole);
                    done = whole;
                }
                // Otherwise one after the other, up to where it ends.
                while done < whole {
                    let Some((address, length)) = cursor.piece() else { break };
                    let length = length.min(data.len() - done);
                    let written = cursor.task.write_some(address, &data[done..done + length]);
                    cursor.advance(written);
                    done += written;
                    if written < length {
                        if done == 0 {
                            return Err(Errno::EFAULT);
                        }
                        break;
                    }
                }
            }
            Destination::Buffer { bytes, remaining } => {
                done = data.len().min(*remaining);
                bytes.extend_from_slice(&data[..done]);
                *remaining -= done;
            }
        }
        self.written += done;
        Ok(done)
    }

    /// Writes all of `data` or fails: `EINVAL` if there is too little room, `EFAULT` if it cannot be written.
    pub fn write_all(&mut self, data: &[u8]) -> SysResult<()> {
        if self.remaining() < data.len() {
            return Err(Errno::EINVAL);
        }
        if self.write(data)? == data.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Fills the destination with what is at `offset` of a file of the host's, or at the file's own, which moves. As for
    /// [`UserWriter::fill`], fewer bytes than fit are the end, and an error after the first is dropped.
    pub fn fill_from(&mut self, file: &Arc<OwnedFd>, offset: Option<u64>) -> SysResult<usize> {
        let start = self.written;
        if self.delivery == WriterDelivery::First
            && let Destination::Guest(cursor) = &mut self.destination
            && let Some((address, length)) = cursor.piece()
            && length == cursor.remaining
            && let Some(count) =
                cursor.task.context.borrow_mut().deliver_file(file.as_fd(), offset, address, length)
        {
            let count = count?;
            cursor.task.delivers_read(address, count);
            cursor.advance(count);
            self.delivery = WriterDelivery::Underway;
            self.written += count;
            return Ok(count);
        }
        while let Destination::Guest(cursor) = &mut self.destination {
            let Some((address, length)) = cursor.piece() else { return Ok(self.written - start) };
            // What comes in small pieces is copied to all of them at once.
            if length < cursor.remaining && cursor.remaining <= SMALL_VECTOR {
                break;
            }
            let at = offset.map(|offset| offset + (self.written - start) as u64);
            let read = cursor.task.context.borrow_mut().read_file(file, at, address, length);
            match read {
                Some(Ok(count)) => {
                    cursor.advance(count);
                    self.written += count;
                    // The end of the file, or memory that the other way may still grow.
                    if count < length && !cursor.task.grow_stack(address.wrapping_add(count as u64)) {
                        return Ok(self.written - start);
                    }
                }
                // Whether memory that is not there may grow is found out in the other way.
                Some(Err(Errno::EFAULT)) | None => break,
                Some(Err(error)) if self.written == start => return Err(error),
                Some(Err(_)) => return Ok(self.written - start),
            }
        }
        let before = self.written - start;
        let filled = match offset {
            Some(offset) => {
                let mut at = offset + before as u64;
                self.fill(|chunk| {
                    let count = rustix::io::pread(file, chunk, at)?;
                    at += count as u64;
                    Ok(count)
                })
            }
            None => self.fill_at_own_offset(file),
        };
        match filled {
            Err(_) if before > 0 => Ok(before),
            filled => filled.map(|count| before + count),
        }
    }

    /// [`UserWriter::fill`] from where a file of the host's is. What has been read and cannot be written is put back.
    fn fill_at_own_offset(&mut self, file: &OwnedFd) -> SysResult<usize> {
        let start = self.written;
        with_whole_buffer(self.remaining(), |chunk| {
            while self.remaining() > 0 {
                let room = self.remaining().min(chunk.len());
                let count = match rustix::io::read(file, &mut chunk[..room]) {
                    Err(error) if self.written == start => return Err(error.into()),
                    read => read.unwrap_or(0),
                };
                let written = if count == 0 { Ok(0) } else { self.write(&chunk[..count]) };
                let back = count - written.unwrap_or(0);
                if back > 0 {
                    rustix::fs::seek(file, rustix::fs::SeekFrom::Current(-(back as i64)))?;
                }
                match written {
                    Err(error) if self.written == start => return Err(error),
                    Ok(written) if written == room => {}
                    _ => break,
                }
            }
            Ok(self.written - start)
        })
    }

    /// Fills the destination piece by piece with what `source` puts into the buffer that it is given: it returns how
    /// many bytes that was, and fewer than the buffer's length ends the transfer. An error after the first byte
    /// ends it too and is dropped, as in Linux.
    pub fn fill(&mut self, mut source: impl FnMut(&mut [u8]) -> SysResult<usize>) -> SysResult<usize> {
        let start = self.written;
        with_buffer(self.remaining(), |chunk| {
            while self.remaining() > 0 {
                let room = self.remaining().min(chunk.len());
                let result = source(&mut chunk[..room])
                    .and_then(|count| Ok((count, self.write(&chunk[..count.min(room)])?)));
                match result {
                    Ok((count, written)) if count == room && written == count => {}
                    Ok(_) => break,
                    Err(error) if self.written == start => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(())
        })?;
        Ok(self.written - start)
    }
}

enum Source<'a> {
    Guest(Cursor<'a>),
    Buffer(&'a [u8]),
}

/// The source of a write: guest buffers, or a buffer of the kernel's.
pub struct UserReader<'a> {
    source: Source<'a>,
    taken: usize,
}

impl<'a> UserReader<'a> {
    /// Reads from guest buffers, one after the other.
    pub fn guest(task: &'a CurrentTask, vectors: impl Into<Vectors>) -> UserReader<'a> {
        UserReader { source: Source::Guest(Cursor::new(task, vectors.into())), taken: 0 }
    }

    /// Reads from a buffer of the kernel's.
    pub fn buffer(bytes: &'a [u8]) -> UserReader<'a> {
        UserReader { source: Source::Buffer(bytes), taken: 0 }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        match &self.source {
            Source::Guest(cursor) => cursor.remaining,
            Source::Buffer(bytes) => bytes.len(),
        }
    }

    /// The task whose memory it is, if it is a guest's.
    pub fn task(&self) -> Option<&'a CurrentTask> {
        match &self.source {
            Source::Guest(cursor) => Some(cursor.task),
            Source::Buffer(_) => None,
        }
    }

    /// Leaves out what is beyond `count` more bytes.
    pub fn limit(&mut self, count: usize) {
        match &mut self.source {
            Source::Guest(cursor) => cursor.limit(count),
            Source::Buffer(bytes) => *bytes = &bytes[..bytes.len().min(count)],
        }
    }

    /// How many bytes were taken so far.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Takes the next bytes, at most `buffer.len()`; returns how many. `EFAULT` if not even one could be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> SysResult<usize> {
        let mut done = 0;
        match &mut self.source {
            Source::Guest(cursor) => {
                let whole = buffer.len().min(cursor.remaining);
                if let Some(pieces) = cursor.pieces(whole)
                    && cursor.task.context.borrow_mut().read_pieces(&pieces, &mut buffer[..whole])
                {
                    cursor.advance_over(whole);
                    done = whole;
                }
                // Otherwise one after the other, up to where it ends.
                while done < whole {
                    let Some((address, length)) = cursor.piece() else { break };
                    let length = length.min(buffer.len() - done);
                    let read = cursor.task.read_some(address, &mut buffer[done..done + length]);
                    cursor.advance(read);
                    done += read;
                    if read < length {
                        if done == 0 {
                            return Err(Errno::EFAULT);
                        }
                        break;
                    }
                }
            }
            Source::Buffer(bytes) => {
                done = bytes.len().min(buffer.len());
                buffer[..done].copy_from_slice(&bytes[..done]);
                *bytes = &bytes[done..];
            }
        }
        self.taken += done;
        Ok(done)
    }

    /// Copies the next bytes without taking them; `EFAULT` if not even one could be read.
    pub fn peek(&self, buffer: &mut [u8]) -> SysResult<usize> {
        match &self.source {
            Source::Guest(cursor) => {
                let vectors = cursor.vectors.clone();
                let copy = Cursor { task: cursor.task, vectors, ..*cursor };
                UserReader { source: Source::Guest(copy), taken: 0 }.read(buffer)
            }
            Source::Buffer(bytes) => UserReader::buffer(bytes).read(buffer),
        }
    }

    /// Takes all that is left without looking at it.
    pub fn skip_all(&mut self) {
        self.taken += self.remaining();
        match &mut self.source {
            Source::Guest(cursor) => {
                cursor.index = cursor.vectors.len();
                cursor.remaining = 0;
            }
            Source::Buffer(bytes) => *bytes = &[],
        }
    }

    /// Takes all that is left, which the caller has bounded. `EFAULT` unless all of it could be read.
    pub fn read_all(&mut self) -> SysResult<Vec<u8>> {
        let mut bytes = vec![0; self.remaining()];
        let read = self.read(&mut bytes)?;
        if read == bytes.len() { Ok(bytes) } else { Err(Errno::EFAULT) }
    }

    /// Writes everything to `offset` of a file of the host's, or to its own, which moves. As for [`UserReader::drain`], an error
    /// after the first byte is dropped.
    pub fn drain_to(&mut self, file: &Arc<OwnedFd>, offset: Option<u64>) -> SysResult<usize> {
        let start = self.taken;
        while let Source::Guest(cursor) = &mut self.source {
            let Some((address, length)) = cursor.piece() else { return Ok(self.taken - start) };
            // One write is one to everybody who shares the offset; and small pieces are copied all at once.
            if length < cursor.remaining && (offset.is_none() || cursor.remaining <= SMALL_VECTOR) {
                break;
            }
            let at = offset.map(|offset| offset + (self.taken - start) as u64);
            let written = cursor.task.context.borrow_mut().write_file(file, at, address, length);
            match written {
                Some(Ok(count)) => {
                    cursor.advance(count);
                    self.taken += count;
                    if count < length && !cursor.task.grow_stack(address.wrapping_add(count as u64)) {
                        return Ok(self.taken - start);
                    }
                }
                Some(Err(Errno::EFAULT)) | None => break,
                Some(Err(error)) if self.taken == start => return Err(error),
                Some(Err(_)) => return Ok(self.taken - start),
            }
        }
        let before = self.taken - start;
        let drained = match offset {
            Some(offset) => {
                let mut at = offset + before as u64;
                self.drain(|chunk| {
                    let count = rustix::io::pwrite(file, chunk, at)?;
                    at += count as u64;
                    Ok(count)
                })
            }
            None => self.drain_whole(|chunk| Ok(rustix::io::write(file, chunk)?)),
        };
        match drained {
            Err(_) if before > 0 => Ok(before),
            drained => drained.map(|count| before + count),
        }
    }

    /// Takes everything piece by piece and hands each to `sink`, which returns how many bytes it accepted; fewer than
    /// given ends the transfer. An error after the first byte ends it too and is dropped, as in Linux.
    pub fn drain(&mut self, sink: impl FnMut(&[u8]) -> SysResult<usize>) -> SysResult<usize> {
        with_buffer(self.remaining(), |chunk| self.drain_by(chunk, sink))
    }

    /// [`UserReader::drain`] in as few pieces as can be: others may write between them.
    pub fn drain_whole(&mut self, sink: impl FnMut(&[u8]) -> SysResult<usize>) -> SysResult<usize> {
        with_whole_buffer(self.remaining(), |chunk| self.drain_by(chunk, sink))
    }

    fn drain_by(
        &mut self,
        chunk: &mut [u8],
        mut sink: impl FnMut(&[u8]) -> SysResult<usize>,
    ) -> SysResult<usize> {
        let mut accepted = 0;
        while self.remaining() > 0 {
            let room = self.remaining().min(chunk.len());
            let result = self.read(&mut chunk[..room]).and_then(|count| Ok((count, sink(&chunk[..count])?)));
            match result {
                Ok((count, taken)) => {
                    accepted += taken;
                    if taken < count || count < room {
                        break;
                    }
                }
                Err(error) if accepted == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_within_one_another_are_apart() {
        with_buffer(8, |outer| {
            outer.fill(1);
            with_buffer(8, |inner| inner.fill(2));
            assert_eq!(outer, [1; 8]);
        });
    }

    #[test]
    fn buffers_have_the_length_asked_for_up_to_a_bound() {
        for length in [0, 1, 4096, CHUNK, 10, usize::MAX] {
            assert_eq!(with_buffer(length, |buffer| buffer.len()), length.min(CHUNK));
        }
    }
}
