//! Waiting for files: `poll(2)`, `select(2)`, `epoll(7)`.

use abi::Errno;
use abi::signal::SignalSet;
use abi::time::{TimeSpec, TimeVal};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Restart, SysError, SyscallResult};
use crate::fs::epoll::{Change, Epoll, EpollEvent};
use crate::fs::poll::{Polled, poll as wait_for};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::limits::Resource;
use crate::user::UserPtr;
use crate::wait::{Deadline, Events};

/// `struct pollfd`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// A timeout in milliseconds; negative for none.
fn milliseconds(timeout: i32) -> Deadline {
    Deadline::timeout(u64::try_from(timeout).ok().map(std::time::Duration::from_millis))
}

fn timespec(task: &CurrentTask, timeout: UserPtr<TimeSpec>) -> SyscallResult<Deadline> {
    match timeout.non_null() {
        Some(timeout) => Ok(Deadline::after(task.read_object(timeout)?.to_duration().ok_or(Errno::EINVAL)?)),
        None => Ok(Deadline::Never),
    }
}

/// The signal mask for the duration of a call.
fn mask(task: &CurrentTask, mask: UserPtr<SignalSet>, size: usize) -> SyscallResult<Option<SignalSet>> {
    match mask.non_null() {
        Some(_) if size != size_of::<SignalSet>() => Err(Errno::EINVAL.into()),
        Some(mask) => Ok(Some(task.read_object(mask)?)),
        None => Ok(None),
    }
}

/// A wait with a timeout that the guest can see shrink is not restarted with the old timeout after a handler.
fn without_handler<T>(result: SyscallResult<T>) -> SyscallResult<T> {
    match result {
        Err(SysError::Restart(_)) => Err(Restart::NoHand.into()),
        result => result,
    }
}

/// Whether what a call writes to guest memory is the last that it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Last,
    /// What is left of the time follows.
    BeforeTime,
}

impl Writes {
    fn with<T>(timeout: UserPtr<T>) -> Writes {
        if timeout.is_null() { Writes::Last } else { Writes::BeforeTime }
    }
}

fn poll_until(
    task: &CurrentTask,
    fds: UserPtr<PollFd>,
    count: usize,
    deadline: Deadline,
    writes: Writes,
) -> SyscallResult<usize> {
    if count as u64 > task.group.limit(Resource::OpenFiles) || count > 1 << 20 {
        return Err(Errno::EINVAL.into());
    }
    let mut records = task.read_array(fds, count)?;
    let mut entries = Vec::with_capacity(count);
    let mut places = Vec::with_capacity(count);
    for (place, record) in records.iter_mut().enumerate() {
        record.revents = 0;
        if record.fd >= 0 {
            let wanted = Events::from_bits_truncate(record.events.into());
            entries.push(Polled::new(task.file(Fd(record.fd)).ok(), wanted));
            places.push(place);
        }
    }
    let ready = wait_for(task, &mut entries, deadline)?;
    for (place, entry) in places.into_iter().zip(&entries) {
        records[place].revents = entry.found.bits() as u16;
    }
    match writes {
        Writes::Last => task.write_result(fds.address(), records.as_bytes())?,
        Writes::BeforeTime => task.write_bytes(fds.address(), records.as_bytes())?,
    }
    Ok(ready)
}

fn restartable_poll(
    task: &CurrentTask,
    fds: UserPtr<PollFd>,
    count: usize,
    deadline: Deadline,
) -> SyscallResult<usize> {
    match poll_until(task, fds, count, deadline, Writes::Last) {
        Err(SysError::Restart(_)) => {
            task.set_restart(Box::new(move |task| {
                restartable_poll(task, fds, count, deadline).map(|ready| ready as u64)
            }));
            Err(Restart::Block.into())
        }
        result => result,
    }
}

/// `poll(2)`.
pub fn poll(task: &CurrentTask, fds: UserPtr<PollFd>, count: u32, timeout: i32) -> SyscallResult<usize> {
    restartable_poll(task, fds, count as usize, milliseconds(timeout))
}

/// `ppoll(2)`: writes back what is left of the timeout.
pub fn ppoll(
    task: &CurrentTask,
    fds: UserPtr<PollFd>,
    count: u32,
    timeout: UserPtr<TimeSpec>,
    signals: UserPtr<SignalSet>,
    size: usize,
) -> SyscallResult<usize> {
    let deadline = timespec(task, timeout)?;
    let signals = mask(task, signals, size)?;
    let writes = Writes::with(timeout);
    let result =
        task.with_temporary_mask(signals, || poll_until(task, fds, count as usize, deadline, writes));
    write_remaining(task, timeout, deadline);
    without_handler(result)
}

/// Writes back what is left until the deadline. A timeout in read-only memory stays as it is, as in Linux.
fn write_remaining(task: &CurrentTask, timeout: UserPtr<TimeSpec>, deadline: Deadline) {
    if let (Some(timeout), Some(left)) = (timeout.non_null(), deadline.remaining()) {
        task.write_courtesy(timeout, &TimeSpec::from(left));
    }
}

/// What each of the three sets of `select(2)` asks for, and is answered by.
const SETS: [(Events, Events); 3] = [
    (Events::READABLE.union(Events::RDBAND), Events::READABLE.union(Events::RDBAND).union(Events::ALWAYS)),
    (Events::WRITABLE.union(Events::WRBAND), Events::WRITABLE.union(Events::WRBAND).union(Events::ERR)),
    (Events::PRI, Events::PRI),
];

fn select_until(
    task: &CurrentTask,
    count: i32,
    sets: [UserPtr<u8>; 3],
    deadline: Deadline,
    writes: Writes,
) -> SyscallResult<usize> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let count = count.min(task.files().capacity().next_multiple_of(64));
    let bytes = count.div_ceil(64) * 8;
    let given = |index: &usize| !sets[*index].is_null();
    let places: Vec<(u64, usize)> =
        (0..3).filter(given).map(|index| (sets[index].address(), bytes)).collect();
    let mut all = vec![0; bytes * places.len()];
    task.read_several(&places, &mut all)?;
    let mut wanted: [Vec<u8>; 3] = std::array::from_fn(|_| vec![0; bytes]);
    for (index, place) in (0..3).filter(given).zip(0..) {
        wanted[index].copy_from_slice(&all[place * bytes..(place + 1) * bytes]);
    }
    let bit = |set: &[u8], fd: usize| set[fd / 8] & (1 << (fd % 8)) != 0;
    let mut entries = Vec::new();
    let mut fds = Vec::new();
    for fd in 0..count {
        let mut events = Events::empty();
        for (set, (asked, _)) in wanted.iter().zip(SETS) {
            events.set(asked, bit(set, fd) || events.contains(asked));
        }
        if !events.is_empty() {
            entries.push(Polled::new(Some(task.file(Fd(fd as i32))?), events));
            fds.push(fd);
        }
    }
    wait_for(task, &mut entries, deadline)?;
    let mut ready = 0;
    let mut found: [Vec<u8>; 3] = std::array::from_fn(|_| vec![0; bytes]);
    for (fd, entry) in fds.into_iter().zip(&entries) {
        for index in 0..3 {
            if bit(&wanted[index], fd) && entry.found.intersects(SETS[index].1) {
                found[index][fd / 8] |= 1 << (fd % 8);
                ready += 1;
            }
        }
    }
    let all: Vec<u8> = (0..3).filter(given).flat_map(|index| found[index].iter().copied()).collect();
    match (writes, &places[..]) {
        (Writes::Last, [(address, _)]) => task.write_result(*address, &all)?,
        _ => task.write_several(&places, &all)?,
    }
    Ok(ready)
}

/// `select(2)`: writes back what is left of the timeout.
pub fn select(
    task: &CurrentTask,
    count: i32,
    input: UserPtr<u8>,
    output: UserPtr<u8>,
    exceptions: UserPtr<u8>,
    timeout: UserPtr<TimeVal>,
) -> SyscallResult<usize> {
    let deadline = match timeout.non_null() {
        Some(timeout) => {
            let TimeVal { sec, usec } = task.read_object(timeout)?;
            // More than a second of microseconds is taken as it is meant.
            let (sec, usec) = (u64::try_from(sec), u64::try_from(usec));
            let (sec, usec) = (sec.map_err(|_| Errno::EINVAL)?, usec.map_err(|_| Errno::EINVAL)?);
            let micros = std::time::Duration::from_micros(usec);
            Deadline::after(std::time::Duration::from_secs(sec).saturating_add(micros))
        }
        None => Deadline::Never,
    };
    let writes = Writes::with(timeout);
    let result = select_until(task, count, [input, output, exceptions], deadline, writes);
    if let (Some(timeout), Some(left)) = (timeout.non_null(), deadline.remaining()) {
        task.write_courtesy(timeout, &TimeVal::from(left));
    }
    without_handler(result)
}

/// `pselect6(2)`: `signals` points to the address and the size of a signal set.
pub fn pselect6(
    task: &CurrentTask,
    count: i32,
    input: UserPtr<u8>,
    output: UserPtr<u8>,
    exceptions: UserPtr<u8>,
    timeout: UserPtr<TimeSpec>,
    signals: UserPtr<[u64; 2]>,
) -> SyscallResult<usize> {
    let signals = match signals.non_null() {
        Some(pointer) => {
            let [address, size] = task.read_object(pointer)?;
            mask(task, UserPtr::new(address), usize::try_from(size).map_err(|_| Errno::EINVAL)?)?
        }
        None => None,
    };
    let deadline = timespec(task, timeout)?;
    let result = task.with_temporary_mask(signals, || {
        select_until(task, count, [input, output, exceptions], deadline, Writes::with(timeout))
    });
    write_remaining(task, timeout, deadline);
    without_handler(result)
}

/// `epoll_create1(2)`.
pub fn epoll_create1(task: &CurrentTask, flags: Flags) -> SyscallResult<Fd> {
    let close = abi::fs::OpenFlags::CLOEXEC.bits();
    if flags.0 & !close != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(task.install(Epoll::open(), flags.0 != 0)?)
}

/// `epoll_create(2)`.
pub fn epoll_create(task: &CurrentTask, size: i32) -> SyscallResult<Fd> {
    if size <= 0 { Err(Errno::EINVAL.into()) } else { epoll_create1(task, Flags(0)) }
}

/// `epoll_ctl(2)`.
pub fn epoll_ctl(
    task: &CurrentTask,
    epoll: Fd,
    operation: i32,
    fd: Fd,
    event: UserPtr<EpollEvent>,
) -> SyscallResult<()> {
    let change = match operation {
        1 => Change::Add(task.read_object(event)?),
        2 => Change::Remove,
        3 => Change::Modify(task.read_object(event)?),
        _ => {
            task.file(epoll)?;
            task.file(fd)?;
            return Err(Errno::EINVAL.into());
        }
    };
    let outer = task.file(epoll)?;
    let file = task.file(fd)?;
    if !file.ops().pollable() {
        return Err(Errno::EPERM.into());
    }
    let outer = outer.ops().downcast_ref::<Epoll>().ok_or(Errno::EINVAL)?;
    Ok(outer.control(fd.0, &file, change)?)
}

fn epoll_until(
    task: &CurrentTask,
    epoll: Fd,
    events: UserPtr<EpollEvent>,
    count: i32,
    deadline: Deadline,
) -> SyscallResult<usize> {
    const MAX_EVENTS: i32 = i32::MAX / 12;
    if count <= 0 || count > MAX_EVENTS {
        return Err(Errno::EINVAL.into());
    }
    let file = task.file(epoll)?;
    let epoll = file.ops().downcast_ref::<Epoll>().ok_or(Errno::EINVAL)?;
    let reports = match epoll.wait(task, count as usize, deadline) {
        Err(SysError::Restart(_)) => return Err(Restart::NoHand.into()),
        result => result?,
    };
    task.write_result(events.address(), reports.as_bytes())?;
    Ok(reports.len())
}

/// A wait that a signal ended is never restarted.
fn never_restarted(result: SyscallResult<usize>) -> SyscallResult<usize> {
    match result {
        Err(SysError::Restart(_)) => Err(Errno::EINTR.into()),
        result => result,
    }
}

/// `epoll_wait(2)`.
pub fn epoll_wait(
    task: &CurrentTask,
    epoll: Fd,
    events: UserPtr<EpollEvent>,
    count: i32,
    timeout: i32,
) -> SyscallResult<usize> {
    never_restarted(epoll_until(task, epoll, events, count, milliseconds(timeout)))
}

/// `epoll_pwait(2)`.
pub fn epoll_pwait(
    task: &CurrentTask,
    epoll: Fd,
    events: UserPtr<EpollEvent>,
    count: i32,
    timeout: i32,
    signals: UserPtr<SignalSet>,
    size: usize,
) -> SyscallResult<usize> {
    let signals = mask(task, signals, size)?;
    let deadline = milliseconds(timeout);
    task.with_temporary_mask(signals, || epoll_until(task, epoll, events, count, deadline))
}

/// `epoll_pwait2(2)`.
pub fn epoll_pwait2(
    task: &CurrentTask,
    epoll: Fd,
    events: UserPtr<EpollEvent>,
    count: i32,
    timeout: UserPtr<TimeSpec>,
    signals: UserPtr<SignalSet>,
    size: usize,
) -> SyscallResult<usize> {
    let deadline = timespec(task, timeout)?;
    let signals = mask(task, signals, size)?;
    task.with_temporary_mask(signals, || epoll_until(task, epoll, events, count, deadline))
}
