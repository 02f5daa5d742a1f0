//! Asynchronous input and output of Linux, `io_submit(2)`: requests are carried out when they are handed in, as Linux
//! itself does for most files, and their results wait to be fetched.
//!
//! A context belongs to a memory map; its number is the address of a page there, because libaio looks for a ring of
//! results at that address and takes zeros for none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use abi::signal::SignalSet;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::eventfd::EventFd;
use crate::error::{Restart, SysError, SyscallResult};
use crate::fs::File;
use crate::mm::{MapRequest, PAGE_SIZE, Protection};
use crate::syscalls::Fd;
use crate::task::CurrentTask;
use crate::user::{IoVec, UserPtr, UserReader, UserWriter};
use crate::wait::{Deadline, Events, WaitQueue};

/// The most results that all contexts of a process can hold (`/proc/sys/fs/aio-max-nr` is of all processes).
const MAX_EVENTS: u64 = 65_536;

/// The contexts of a memory map.
#[derive(Default)]
pub struct AioContexts(Mutex<BTreeMap<u64, Arc<Context>>>);

struct Context {
    capacity: usize,
    results: Mutex<VecDeque<IoEvent>>,
    waiters: WaitQueue,
}

/// `struct io_event`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoEvent {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// `struct iocb`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    operation: u16,
    priority: i16,
    fd: i32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

fn context(task: &CurrentTask, id: u64) -> SysResult<Arc<Context>> {
    task.mm()?.aio.0.lock().get(&id).cloned().ok_or(Errno::EINVAL)
}

/// `io_setup(2)`.
pub fn io_setup(task: &CurrentTask, count: u32, place: UserPtr<u64>) -> SysResult<()> {
    const MAP_PRIVATE_ANONYMOUS: u32 = 0x22;
    // The largest number of which Linux could keep the results in memory.
    const LARGEST: u32 = 0x1000_0000 / size_of::<IoEvent>() as u32;
    if task.read_object(place)? != 0 || count == 0 || count > LARGEST {
        return Err(Errno::EINVAL);
    }
    let memory = task.mm()?;
    let used: u64 = memory.aio.0.lock().values().map(|context| context.capacity as u64).sum();
    if used + u64::from(count) > MAX_EVENTS {
        return Err(Errno::EAGAIN);
    }
    let request = MapRequest {
        address: 0,
        length: PAGE_SIZE,
        protection: (Protection::READ | Protection::WRITE).bits(),
        flags: MAP_PRIVATE_ANONYMOUS,
        file: None,
        name: "[aio]",
    };
    let id = memory.map(&mut **task.context.borrow_mut(), &request)?;
    if let Err(error) = task.write_object(place, &id) {
        memory.unmap(&mut **task.context.borrow_mut(), id..id + PAGE_SIZE)?;
        return Err(error);
    }
    let context = Context { capacity: count as usize, results: Mutex::default(), waiters: WaitQueue::new() };
    memory.aio.0.lock().insert(id, Arc::new(context));
    Ok(())
}

/// `io_destroy(2)`.
pub fn io_destroy(task: &CurrentTask, id: u64) -> SysResult<()> {
    let memory = task.mm()?;
    let context = memory.aio.0.lock().remove(&id).ok_or(Errno::EINVAL)?;
    context.waiters.wake(Events::IN);
    memory.unmap(&mut **task.context.borrow_mut(), id..id + PAGE_SIZE)
}

/// `io_submit(2)`: returns how many requests were taken. An error is that of the first.
pub fn io_submit(task: &CurrentTask, id: u64, count: i64, requests: UserPtr<u64>) -> SysResult<usize> {
    let context = context(task, id)?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let mut taken = 0;
    while taken < count {
        let one = task.read_object(requests.nth(taken)).and_then(|place| submit(task, &context, place));
        match one {
            Ok(()) => taken += 1,
            Err(error) if taken == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(taken)
}

/// Checks a request, carries it out, and keeps its result.
fn submit(task: &CurrentTask, context: &Context, place: u64) -> SysResult<()> {
    const RESULT_FD: u32 = 1;
    const IO_PRIORITY: u32 = 2;
    let request = task.read_object(UserPtr::<Request>::new(place))?;
    if request.reserved != 0 || request.flags & !(RESULT_FD | IO_PRIORITY) != 0 {
        return Err(Errno::EINVAL);
    }
    if i64::try_from(request.length).is_err() {
        return Err(Errno::EINVAL);
    }
    if context.results.lock().len() >= context.capacity {
        return Err(Errno::EAGAIN);
    }
    let file = task.file(Fd(request.fd))?;
    let told = match request.flags & RESULT_FD {
        0 => None,
        _ => Some(task.file(Fd(request.result_fd.cast_signed()))?),
    };
    if told.as_ref().is_some_and(|told| told.ops().downcast_ref::<EventFd>().is_none()) {
        return Err(Errno::EINVAL);
    }
    let result = match carry_out(task, &file, &request)? {
        Ok(count) => count as i64,
        Err(error) => -i64::from(error.errno().raw()),
    };
    let event = IoEvent { data: request.data, request: place, result, result2: 0 };
    context.results.lock().push_back(event);
    context.waiters.wake(Events::IN);
    if let Some(counter) = told.as_ref().and_then(|told| told.ops().downcast_ref::<EventFd>()) {
        counter.add(1);
    }
    Ok(())
}

/// Carries a request out. The outer error refuses the request, the inner one is its result.
fn carry_out(task: &CurrentTask, file: &File, request: &Request) -> SysResult<SyscallResult<usize>> {
    const PREAD: u16 = 0;
    const PWRITE: u16 = 1;
    const FSYNC: u16 = 2;
    const FDSYNC: u16 = 3;
    const PREADV: u16 = 7;
    const PWRITEV: u16 = 8;
    let vectors = || match request.operation {
        PREADV | PWRITEV => task
            .read_iovecs(UserPtr::new(request.buffer), usize::try_from(request.length).unwrap_or(usize::MAX)),
        _ => Ok(vec![IoVec { base: request.buffer, length: request.length.min(0x7fff_f000) }]),
    };
    // Flags of preadv2(2), none of which changes what is done here but RWF_APPEND.
    if request.rw_flags & !0x1f != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let offset = u64::try_from(request.offset);
    Ok(match request.operation {
        PREAD | PREADV => {
            file.check_readable().map_err(SysError::errno)?;
            let (offset, mut to) = (offset.map_err(|_| Errno::EINVAL)?, UserWriter::guest(task, vectors()?));
            if file.ops().seekable() { file.read_at(offset, &mut to) } else { file.read(task, &mut to) }
        }
        PWRITE | PWRITEV => {
            file.check_writable().map_err(SysError::errno)?;
            let (offset, mut from) =
                (offset.map_err(|_| Errno::EINVAL)?, UserReader::guest(task, vectors()?));
            if file.ops().seekable() {
                file.write_at(task, offset, &mut from)
            } else {
                file.write(task, &mut from)
            }
        }
        FSYNC | FDSYNC => file.ops().sync().map(|()| 0).map_err(SysError::from),
        _ => return Err(Errno::EINVAL),
    })
}

/// `io_cancel(2)`: what was handed in is done already.
pub fn io_cancel(task: &CurrentTask, id: u64, request: UserPtr<Request>, _result: u64) -> SysResult<()> {
    task.read_object(request)?;
    context(task, id)?;
    Err(Errno::EINVAL)
}

/// `io_getevents(2)`.
pub fn io_getevents(
    task: &CurrentTask,
    id: u64,
    minimum: i64,
    count: i64,
    events: UserPtr<IoEvent>,
    timeout: UserPtr<TimeSpec>,
) -> SyscallResult<usize> {
    let deadline = match timeout.non_null() {
        None => Deadline::Never,
        Some(timeout) => Deadline::after(task.read_object(timeout)?.to_duration().ok_or(Errno::EINVAL)?),
    };
    let context = context(task, id)?;
    let range = usize::try_from(minimum).ok().zip(usize::try_from(count).ok());
    let (minimum, count) = range.filter(|(minimum, count)| minimum <= count).ok_or(Errno::EINVAL)?;
    let memory = task.mm()?;
    let enough = || {
        let gone = !memory.aio.0.lock().contains_key(&id);
        if context.results.lock().len() >= minimum || gone { Ok(()) } else { Err(Errno::EAGAIN.into()) }
    };
    let waited = task.block_on(&context.waiters, Events::IN, deadline, enough);
    // What is there when the time is over is given too.
    let found: Vec<IoEvent> = {
        let mut results = context.results.lock();
        let available = results.len().min(count);
        results.drain(..available).collect()
    };
    task.write_array(events, &found)?;
    match waited {
        Err(SysError::Restart(_)) if found.is_empty() => Err(Restart::NoHand.into()),
        _ => Ok(found.len()),
    }
}

/// `struct __aio_sigset`: a mask and its size.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AioMask {
    mask: u64,
    size: u64,
}

/// `io_pgetevents(2)`.
pub fn io_pgetevents(
    task: &CurrentTask,
    id: u64,
    minimum: i64,
    count: i64,
    events: UserPtr<IoEvent>,
    timeout: UserPtr<TimeSpec>,
    mask: UserPtr<AioMask>,
) -> SyscallResult<usize> {
    let mask = match mask.non_null().map(|mask| task.read_object(mask)).transpose()? {
        Some(AioMask { mask: 0, .. }) => None,
        Some(AioMask { size, .. }) if size != size_of::<SignalSet>() as u64 => {
            return Err(Errno::EINVAL.into());
        }
        Some(AioMask { mask, .. }) => Some(task.read_object(UserPtr::<SignalSet>::new(mask))?),
        None => None,
    };
    task.with_temporary_mask(mask, || io_getevents(task, id, minimum, count, events, timeout))
}
