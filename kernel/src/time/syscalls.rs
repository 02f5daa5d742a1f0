//! System calls on time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abi::time::{TimeSpec, TimeVal};
use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cpu::{CpuClock, CpuTimer};
use crate::error::{Restart, SysError, SyscallResult};
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::UserPtr;
use crate::wait::{Deadline, Events, Nothing};

pub use super::interval::{
    alarm, getitimer, setitimer, timer_create, timer_delete, timer_getoverrun, timer_gettime, timer_settime,
};
pub use super::timerfd::{timerfd_create, timerfd_gettime, timerfd_settime};

const TIMER_ABSTIME: u32 = 1;

fn host_clock(clock: rustix::time::ClockId) -> TimeSpec {
    let time = rustix::time::clock_gettime(clock);
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// What a clock shows. `EINVAL` for one that does not exist.
pub fn now(task: &CurrentTask, clock: i32) -> SysResult<TimeSpec> {
    use rustix::time::ClockId;
    Ok(match clock {
        0 | 11 => host_clock(ClockId::Realtime),
        1 => host_clock(ClockId::Monotonic),
        4 => host_clock(ClockId::MonotonicRaw),
        5 => host_clock(ClockId::RealtimeCoarse),
        6 => host_clock(ClockId::MonotonicCoarse),
        7 | 9 => host_clock(ClockId::Boottime),
        8 => host_clock(ClockId::Realtime),
        _ => {
            let clock = CpuClock::from_number(task, clock).ok_or(Errno::EINVAL)??;
            // What the caller has used is then known to the last.
            crate::task::usage::thread_time(task);
            clock.now(&task.kernel).into()
        }
    })
}

/// `clock_gettime(2)`.
pub fn clock_gettime(task: &CurrentTask, clock: i32, time: UserPtr<TimeSpec>) -> SysResult<()> {
    task.write_object(time, &now(task, clock)?)
}

/// `clock_getres(2)`.
pub fn clock_getres(task: &CurrentTask, clock: i32, resolution: UserPtr<TimeSpec>) -> SysResult<()> {
    now(task, clock)?;
    // Those that count ticks in Linux.
    let coarse = matches!(clock, 5 | 6) || (clock < 0 && clock & 3 != 2);
    match resolution.non_null() {
        Some(resolution) => {
            task.write_object(resolution, &TimeSpec { sec: 0, nsec: if coarse { 4_000_000 } else { 1 } })
        }
        None => Ok(()),
    }
}

/// `clock_settime(2)`: the host's clocks are not the sandbox's to set.
pub fn clock_settime(task: &CurrentTask, clock: i32, time: UserPtr<TimeSpec>) -> SysResult<()> {
    let time = task.read_object(time)?.to_duration();
    if clock < 0 {
        CpuClock::from_number(task, clock).ok_or(Errno::EINVAL)??;
        return Err(Errno::EPERM);
    }
    if clock != 0 || time.is_none() {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EPERM)
}

/// `settimeofday(2)`: refused, as [`clock_settime`] is.
pub fn settimeofday(task: &CurrentTask, time: UserPtr<TimeVal>, _zone: UserPtr<[i32; 2]>) -> SysResult<()> {
    match time.non_null().map(|time| task.read_object(time)).transpose()? {
        Some(time) if time.to_duration().is_none() => Err(Errno::EINVAL),
        _ => Err(Errno::EPERM),
    }
}

/// `struct timex`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timex {
    modes: u32,
    pad: u32,
    offset: i64,
    frequency: i64,
    max_error: i64,
    est_error: i64,
    status: i32,
    status_pad: i32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: TimeVal,
    tick: i64,
    statistics: [i64; 8],
    tai: i32,
    rest: [i32; 11],
}

/// `adjtimex(2)`: the state of a clock that nothing disciplines. Changing it is refused with `EPERM`.
pub fn adjtimex(task: &CurrentTask, state: UserPtr<Timex>) -> SysResult<u64> {
    const STA_UNSYNC: i32 = 0x40;
    const TIME_ERROR: u64 = 5;
    let Timex { modes, pad, .. } = task.read_object(state)?;
    if modes != 0 {
        return Err(Errno::EPERM);
    }
    let now = host_clock(rustix::time::ClockId::Realtime);
    let answer = Timex {
        modes,
        pad,
        offset: 0,
        frequency: 0,
        max_error: 16_000_000,
        est_error: 16_000_000,
        status: STA_UNSYNC,
        status_pad: 0,
        constant: 2,
        precision: 1,
        tolerance: 32_768_000,
        time: TimeVal { sec: now.sec, usec: now.nsec / 1000 },
        tick: 10_000,
        statistics: [0; 8],
        tai: 0,
        rest: [0; 11],
    };
    task.write_object(state, &answer)?;
    Ok(TIME_ERROR)
}

/// `clock_adjtime(2)`: [`adjtimex`] of `CLOCK_REALTIME`.
pub fn clock_adjtime(task: &CurrentTask, clock: i32, state: UserPtr<Timex>) -> SysResult<u64> {
    match clock {
        0 => adjtimex(task, state),
        1..=9 | 11 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// `gettimeofday(2)`.
pub fn gettimeofday(task: &CurrentTask, time: UserPtr<TimeVal>, zone: UserPtr<[i32; 2]>) -> SysResult<()> {
    let now = host_clock(rustix::time::ClockId::Realtime);
    if let Some(time) = time.non_null() {
        task.write_object(time, &TimeVal { sec: now.sec, usec: now.nsec / 1000 })?;
    }
    match zone.non_null() {
        Some(zone) => task.write_object(zone, &[0; 2]),
        None => Ok(()),
    }
}

/// `time(2)`.
pub fn time(task: &CurrentTask, place: UserPtr<i64>) -> SysResult<i64> {
    let seconds = host_clock(rustix::time::ClockId::Realtime).sec;
    if let Some(place) = place.non_null() {
        task.write_object(place, &seconds)?;
    }
    Ok(seconds)
}

/// Sleeps until `deadline`; when a signal ends the sleep, what is left goes to `remaining`, and the call goes on where
/// it was unless a handler ran.
fn sleep(task: &CurrentTask, deadline: Deadline, remaining: UserPtr<TimeSpec>) -> SyscallResult<()> {
    match task.sleep_until(deadline) {
        Err(SysError::Restart(_)) => {
            if let (Some(place), Some(left)) = (remaining.non_null(), deadline.remaining()) {
                task.write_object(place, &TimeSpec::from(left))?;
            }
            task.set_restart(Box::new(move |task| sleep(task, deadline, remaining).map(|()| 0)));
            Err(Restart::Block.into())
        }
        result => result,
    }
}

/// `nanosleep(2)`.
pub fn nanosleep(
    task: &CurrentTask,
    request: UserPtr<TimeSpec>,
    remaining: UserPtr<TimeSpec>,
) -> SyscallResult<()> {
    let duration = task.read_object(request)?.to_duration().ok_or(Errno::EINVAL)?;
    sleep(task, Deadline::after(duration), remaining)
}

/// Sleeps until a clock of processor time has gone on by `time`, or shows it if it is `absolute`.
fn sleep_counting(
    task: &CurrentTask,
    clock: &CpuClock,
    time: Duration,
    absolute: bool,
    remaining: UserPtr<TimeSpec>,
) -> SyscallResult<()> {
    let over = Arc::new(AtomicBool::new(false));
    let (done, waiter) = (Arc::clone(&over), Arc::clone(&task.waiter));
    let action = move |_| {
        done.store(true, Ordering::SeqCst);
        waiter.notify();
    };
    let timer = CpuTimer::new(clock.clone(), Box::new(action));
    if time.is_zero() && !absolute {
        return Ok(());
    }
    timer.set(&task.kernel, Some(time), absolute, Duration::ZERO);
    let passed = || if over.load(Ordering::SeqCst) { Ok(()) } else { Err(Errno::EAGAIN.into()) };
    match task.block_on(&Nothing, Events::empty(), Deadline::Never, passed) {
        Err(SysError::Restart(_)) if absolute => Err(Restart::NoHand.into()),
        Err(SysError::Restart(_)) => {
            let left = timer.get(&task.kernel).0.unwrap_or_default();
            if let Some(place) = remaining.non_null() {
                task.write_object(place, &TimeSpec::from(left))?;
            }
            let clock = clock.clone();
            task.set_restart(Box::new(move |task| {
                sleep_counting(task, &clock, left, false, remaining).map(|()| 0)
            }));
            Err(Restart::Block.into())
        }
        result => result,
    }
}

/// `clock_nanosleep(2)`.
pub fn clock_nanosleep(
    task: &CurrentTask,
    clock: i32,
    flags: Flags,
    request: UserPtr<TimeSpec>,
    remaining: UserPtr<TimeSpec>,
) -> SyscallResult<()> {
    if let (2 | ..0, Some(counted)) = (clock, CpuClock::from_number(task, clock)) {
        let counted = counted?;
        let time = task.read_object(request)?.to_duration().ok_or(Errno::EINVAL)?;
        if counted.is_of_thread(task) {
            return Err(Errno::EINVAL.into());
        }
        return sleep_counting(task, &counted, time, flags.0 & TIMER_ABSTIME != 0, remaining);
    }
    if !matches!(clock, 0 | 1 | 7 | 8 | 9 | 11) {
        return Err(if matches!(clock, 3..=6) { Errno::EOPNOTSUPP } else { Errno::EINVAL }.into());
    }
    let time = task.read_object(request)?.to_duration().ok_or(Errno::EINVAL)?;
    if flags.0 & TIMER_ABSTIME == 0 {
        return sleep(task, Deadline::after(time), remaining);
    }
    let now = now(task, clock)?.to_duration().unwrap_or_default();
    match task.sleep_until(Deadline::after(time.saturating_sub(now))) {
        Err(SysError::Restart(_)) => Err(Restart::NoHand.into()),
        result => result,
    }
}
