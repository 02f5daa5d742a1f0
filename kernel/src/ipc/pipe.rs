//! Pipes and FIFOs, `pipe(7)`.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use crate::error::SyscallResult;
use crate::fs::file::Place;
use crate::fs::nameless::NamelessInode;
use crate::fs::{File, FileType, InodeCommon, InodeRef, OpenFile};
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Deadline, Events, WaitQueue};

/// Writes up to this many bytes are never mixed with others.
const PIPE_BUF: usize = 4096;
/// What a pipe holds at first.
const CAPACITY: usize = 65536;
/// The most that an unprivileged user may ask for (`/proc/sys/fs/pipe-max-size`).
const MAX_CAPACITY: usize = 1 << 20;

const FIONREAD: u32 = 0x541b;
/// The number of the file system of pipes.
const FILE_SYSTEM: u32 = 14;

struct State {
    buffer: VecDeque<u8>,
    /// Lengths of packets in the buffer, for `O_DIRECT` writers.
    packets: VecDeque<usize>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// How often each end was opened, so that an opener of a FIFO sees a peer that is gone again.
    opened: (u64, u64),
}

/// Takes the first bytes out of a buffer that has so many.
fn take_first(buffer: &mut VecDeque<u8>, count: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(count);
    let (first, second) = buffer.as_slices();
    let split = count.min(first.len());
    data.extend_from_slice(&first[..split]);
    data.extend_from_slice(&second[..count - split]);
    buffer.drain(..count);
    data
}

/// A pipe: what its two ends share.
pub struct Pipe {
    /// Whether it has no name: then opening it again never waits.
    nameless: bool,
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Pipe {
    fn new(nameless: bool) -> Arc<Pipe> {
        let state = State {
            buffer: VecDeque::new(),
            packets: VecDeque::new(),
            capacity: CAPACITY,
            readers: 0,
            writers: 0,
            opened: (0, 0),
        };
        Arc::new(Pipe { nameless, state: Mutex::new(state), queue: WaitQueue::new() })
    }

    /// Adds an end; returns it, and whom it has found there.
    fn end(self: &Arc<Pipe>, flags: OpenFlags) -> (Arc<PipeEnd>, Ends) {
        let mut state = self.state.lock();
        let found = Ends { readers: state.readers, writers: state.writers, opened: state.opened };
        if flags.readable() {
            state.readers += 1;
            state.opened.0 += 1;
        }
        if flags.writable() {
            state.writers += 1;
            state.opened.1 += 1;
        }
        drop(state);
        self.queue.wake(Events::READABLE | Events::WRITABLE);
        let (reads, writes) = (flags.readable(), flags.writable());
        (Arc::new(PipeEnd { pipe: Arc::clone(self), reads, writes }), found)
    }
}

/// The ends that a pipe has, and has had.
struct Ends {
    readers: usize,
    writers: usize,
    opened: (u64, u64),
}

/// One end of a pipe, or both of a FIFO opened for reading and writing.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
}

/// Makes a pipe that belongs to a user and a group: the end to read and the end to write.
pub fn new_pipe((uid, gid): (u32, u32), flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    let pipe = Pipe::new(true);
    let common = InodeCommon::new();
    *common.fifo.lock() = Arc::downgrade(&pipe);
    let name = format!("pipe:[{}]", common.id);
    let inode: InodeRef = NamelessInode::new(common, FileType::Fifo, FILE_SYSTEM, 0o600, (uid, gid));
    let status = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let open = |mode: OpenFlags| {
        let place = Place::Anonymous { name: name.clone(), inode: Some(Arc::clone(&inode)) };
        File::new(place, pipe.end(mode).0, status | mode)
    };
    (open(OpenFlags::empty()), open(OpenFlags::WRONLY))
}

/// Opens a FIFO by name: waits for the other end unless `O_NONBLOCK`, or opened for both.
pub fn open_fifo(
    task: &CurrentTask,
    inode: &InodeCommon,
    flags: OpenFlags,
) -> SyscallResult<Arc<dyn OpenFile>> {
    let pipe = {
        let mut slot = inode.fifo.lock();
        match slot.upgrade() {
            Some(pipe) => pipe,
            None => {
                let pipe = Pipe::new(false);
                *slot = Arc::downgrade(&pipe);
                pipe
            }
        }
    };
    let (reads, writes) = (flags.readable(), flags.writable());
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    if writes && !reads && nonblocking && pipe.state.lock().readers == 0 {
        return Err(Errno::ENXIO.into());
    }
    let (end, found) = pipe.end(flags);
    // Whoever was there when it came has met it, even if gone by now.
    let alone = if reads { found.writers == 0 } else { found.readers == 0 };
    if reads != writes && alone && !nonblocking && !pipe.nameless {
        let met = || {
            let opened = pipe.state.lock().opened;
            let came = if reads { opened.1 != found.opened.1 } else { opened.0 != found.opened.0 };
            if came { Ok(()) } else { Err(Errno::EAGAIN.into()) }
        };
        task.block_on(&pipe.queue, Events::READABLE | Events::WRITABLE, Deadline::Never, met)?;
    }
    Ok(end)
}

impl PipeEnd {
    /// `F_GETPIPE_SZ`.
    pub fn capacity(&self) -> usize {
        self.pipe.state.lock().capacity
    }

    /// `F_SETPIPE_SZ`: rounded up to a power of two of pages; returns what it is then.
    pub fn set_capacity(&self, size: usize) -> SysResult<usize> {
        let size = size.max(PIPE_BUF).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        if size > MAX_CAPACITY {
            return Err(Errno::EPERM);
        }
        let mut state = self.pipe.state.lock();
        if state.buffer.len() > size {
            return Err(Errno::EBUSY);
        }
        state.capacity = size;
        drop(state);
        self.pipe.queue.wake(Events::WRITABLE);
        Ok(size)
    }
}

/// What `splice(2)` and its family do with a pipe. They return `EAGAIN` where they would have to wait.
impl PipeEnd {
    /// Whether both are ends of one pipe.
    pub fn same_pipe(&self, other: &PipeEnd) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }

    /// How much fits in: `EPIPE` and SIGPIPE if nobody reads any more.
    fn free(&self, task: &CurrentTask) -> SyscallResult<usize> {
        let state = self.pipe.state.lock();
        if state.readers == 0 {
            drop(state);
            let info = SigInfo::new(Signal::SIGPIPE, SI_KERNEL);
            crate::signal::send_to_task(&task.kernel, &task.task, info);
            return Err(Errno::EPIPE.into());
        }
        Ok(state.capacity - state.buffer.len().min(state.capacity))
    }

    /// How much fits in, which is not nothing.
    pub fn room(&self, task: &CurrentTask) -> SyscallResult<usize> {
        match self.free(task)? {
            0 => Err(Errno::EAGAIN.into()),
            room => Ok(room),
        }
    }

    /// Copies the first bytes, at most `count`, without taking them; none at the end.
    pub fn peek(&self, count: usize) -> SyscallResult<Vec<u8>> {
        let state = self.pipe.state.lock();
        if state.buffer.is_empty() && state.writers > 0 {
            return Err(Errno::EAGAIN.into());
        }
        let packet = state.packets.front().copied().unwrap_or(usize::MAX);
        let count = count.min(packet).min(state.buffer.len());
        let (first, second) = state.buffer.as_slices();
        Ok(first.iter().chain(second).take(count).copied().collect())
    }

    /// Takes the first bytes, at most `count`; none at the end.
    pub fn take(&self, count: usize) -> SyscallResult<Vec<u8>> {
        let mut state = self.pipe.state.lock();
        if state.buffer.is_empty() && state.writers > 0 {
            return Err(Errno::EAGAIN.into());
        }
        let count = match state.packets.pop_front() {
            Some(packet) if packet > count => {
                state.packets.push_front(packet - count);
                count
            }
            Some(packet) => packet,
            None => count.min(state.buffer.len()),
        };
        let data = take_first(&mut state.buffer, count);
        drop(state);
        self.pipe.queue.wake(Events::WRITABLE);
        Ok(data)
    }

    /// Gives back what was taken and found no place.
    pub fn put_back(&self, data: &[u8]) {
        let mut state = self.pipe.state.lock();
        data.iter().rev().for_each(|byte| state.buffer.push_front(*byte));
        if !state.packets.is_empty() {
            state.packets.push_front(data.len());
        }
        drop(state);
        self.pipe.queue.wake(Events::READABLE);
    }

    /// Adds bytes for which [`PipeEnd::room`] found room.
    pub fn give(&self, data: &[u8]) {
        self.pipe.state.lock().buffer.extend(data);
        self.pipe.queue.wake(Events::READABLE);
    }
}

impl OpenFile for PipeEnd {
    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        if to.remaining() == 0 {
            return Ok(0);
        }
        let data: Vec<u8> = {
            let mut state = self.pipe.state.lock();
            if state.buffer.is_empty() {
                return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN.into()) };
            }
            match state.packets.pop_front() {
                // A packet is read whole; what does not fit is lost.
                Some(length) => {
                    let mut packet = take_first(&mut state.buffer, length);
                    packet.truncate(to.remaining());
                    packet
                }
                None => {
                    let count = to.remaining().min(state.buffer.len());
                    take_first(&mut state.buffer, count)
                }
            }
        };
        self.pipe.queue.wake(Events::WRITABLE);
        match to.write(&data) {
            Ok(written) => Ok(written),
            Err(error) => {
                // Nothing could be delivered, so nothing was read.
                let mut state = self.pipe.state.lock();
                data.into_iter().rev().for_each(|byte| state.buffer.push_front(byte));
                Err(error.into())
            }
        }
    }

    fn write(&self, task: &CurrentTask, file: &File, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        let packets = file.flags().contains(OpenFlags::DIRECT);
        let wanted = if packets { from.remaining().min(PIPE_BUF) } else { from.remaining() };
        if wanted == 0 {
            return Ok(0);
        }
        let room = self.free(task)?;
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) {
            return Err(Errno::EAGAIN.into());
        }
        let mut data = vec![0; wanted.min(room)];
        let count = from.read(&mut data)?;
        {
            // Writers may have raced for the room; atomic writes keep together, and a little too much does no harm.
            let mut state = self.pipe.state.lock();
            state.buffer.extend(&data[..count]);
            if packets {
                state.packets.push_back(count);
            }
        }
        self.pipe.queue.wake(Events::READABLE);
        Ok(count)
    }

    fn readiness(&self, _file: &File) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.reads {
            events.set(Events::READABLE, !state.buffer.is_empty());
            events.set(Events::HUP, state.writers == 0 && state.opened.1 > 0);
        }
        if self.writes {
            events.set(Events::WRITABLE, state.buffer.len() + PIPE_BUF <= state.capacity);
            events.set(Events::ERR, state.readers == 0);
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, argument: u64) -> SyscallResult {
        if request != FIONREAD {
            return Err(Errno::ENOTTY.into());
        }
        let length = self.pipe.state.lock().buffer.len() as u32;
        task.write_bytes(argument, &length.to_ne_bytes())?;
        Ok(0)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        if state.readers == 0 && state.writers == 0 {
            state.buffer.clear();
            state.packets.clear();
        }
        drop(state);
        self.pipe.queue.wake(Events::READABLE | Events::WRITABLE | Events::HUP | Events::ERR);
    }
}
