//! `alarm(2)`, interval timers and POSIX timers.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::signal::{SI_KERNEL, SI_TIMER, SigInfo, Signal};
use abi::time::{TimeSpec, TimeVal};
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cpu::{CpuClock, CpuTimer, Kind};
use super::syscalls::now;
use super::timers::Alarm;
use crate::Kernel;
use crate::error::SyscallResult;
use crate::syscalls::arguments::Flags;
use crate::task::{CurrentTask, Task, ThreadGroup};
use crate::user::UserPtr;

/// The most POSIX timers of a process.
const MAX_TIMERS: usize = 4096;

/// The timers of a thread group.
#[derive(Default)]
pub struct GroupTimers {
    real: Mutex<Option<Arc<Alarm>>>,
    /// `ITIMER_VIRTUAL` and `ITIMER_PROF`.
    counting: Mutex<[Option<Arc<CpuTimer>>; 2]>,
    posix: Mutex<BTreeMap<i32, PosixTimer>>,
}

/// What makes a POSIX timer go off.
#[derive(Clone)]
enum Source {
    Time(Arc<Alarm>),
    ProcessorTime(Arc<CpuTimer>),
}

impl Source {
    /// What is left, and the interval.
    fn get(&self, kernel: &Kernel) -> (Option<Duration>, Duration) {
        match self {
            Source::Time(alarm) => alarm.get(),
            Source::ProcessorTime(timer) => timer.get(kernel),
        }
    }
}

struct PosixTimer {
    source: Source,
    clock: i32,
    /// The expirations that the signal delivered last stood for, without the first.
    overrun: i32,
}

impl GroupTimers {
    /// What `execve(2)` takes away: POSIX timers; `alarm(2)` stays.
    pub fn reset_for_exec(&self) {
        self.posix.lock().clear();
    }

    /// Notes that the signal of a timer was delivered, and how many expirations it stands for beside the first.
    pub fn delivered(&self, id: i32, overrun: i32) {
        if let Some(timer) = self.posix.lock().get_mut(&id) {
            timer.overrun = overrun;
        }
    }
}

/// The timer behind `ITIMER_REAL` and `alarm(2)`.
fn real_timer(task: &CurrentTask) -> Arc<Alarm> {
    let mut slot = task.group.timers.real.lock();
    let alarm = slot.get_or_insert_with(|| {
        let (kernel, group) = (Arc::downgrade(&task.kernel), Arc::downgrade(&task.group));
        Alarm::new(
            &task.kernel.timers,
            Box::new(move |_| send(&kernel, &group, SigInfo::new(Signal::SIGALRM, SI_KERNEL))),
        )
    });
    Arc::clone(alarm)
}

/// The timer behind `ITIMER_VIRTUAL` (1) or `ITIMER_PROF` (2).
fn counting_timer(task: &CurrentTask, which: i32) -> Arc<CpuTimer> {
    let (index, kind, signal) = match which {
        1 => (0, Kind::User, Signal::SIGVTALRM),
        _ => (1, Kind::All, Signal::SIGPROF),
    };
    let mut slots = task.group.timers.counting.lock();
    let timer = slots[index].get_or_insert_with(|| {
        let (kernel, group) = (Arc::downgrade(&task.kernel), Arc::downgrade(&task.group));
        let action = move |_| send(&kernel, &group, SigInfo::new(signal, SI_KERNEL));
        CpuTimer::new(CpuClock::of_process(&task.group, kind), Box::new(action))
    });
    Arc::clone(timer)
}

fn send(kernel: &Weak<Kernel>, group: &Weak<ThreadGroup>, info: SigInfo) {
    if let (Some(kernel), Some(group)) = (kernel.upgrade(), group.upgrade()) {
        crate::signal::send_to_group(&kernel, &group, info);
    }
}

/// `alarm(2)`.
pub fn alarm(task: &CurrentTask, seconds: u32) -> SysResult<u64> {
    let delay = (seconds != 0).then(|| Duration::from_secs(seconds.into()));
    let (left, _) = real_timer(task).set(delay, Duration::ZERO);
    // Part of a second counts as one, so that zero means that none was set.
    Ok(left.map_or(0, |left| left.as_millis().div_ceil(1000).max(1) as u64))
}

/// `struct itimerval`: interval, and time until the next.
type ItimerVal = [TimeVal; 2];

/// `getitimer(2)`.
pub fn getitimer(task: &CurrentTask, which: i32, value: UserPtr<ItimerVal>) -> SysResult<()> {
    let (left, interval) = match which {
        0 => real_timer(task).get(),
        1 | 2 => counting_timer(task, which).get(&task.kernel),
        _ => return Err(Errno::EINVAL),
    };
    task.write_object(value, &[interval.into(), left.unwrap_or_default().into()])
}

/// `setitimer(2)`.
pub fn setitimer(
    task: &CurrentTask,
    which: i32,
    new: UserPtr<ItimerVal>,
    old: UserPtr<ItimerVal>,
) -> SysResult<()> {
    if !(0..=2).contains(&which) {
        return Err(Errno::EINVAL);
    }
    let [interval, value] = match new.non_null() {
        Some(new) => task.read_object(new)?,
        None => ItimerVal::default(),
    };
    let interval = interval.to_duration().ok_or(Errno::EINVAL)?;
    let value = value.to_duration().ok_or(Errno::EINVAL)?;
    let delay = (!value.is_zero()).then_some(value);
    let (left, before) = match which {
        0 => real_timer(task).set(delay, interval),
        which => counting_timer(task, which).set(&task.kernel, delay, false, interval),
    };
    match old.non_null() {
        Some(old) => task.write_object(old, &[before.into(), left.unwrap_or_default().into()]),
        None => Ok(()),
    }
}

/// `struct sigevent`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    rest: [i32; 11],
}

/// `timer_create(2)`.
pub fn timer_create(
    task: &CurrentTask,
    clock: i32,
    event: UserPtr<SigEvent>,
    id: UserPtr<i32>,
) -> SyscallResult<()> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD_ID: i32 = 4;
    let counted = CpuClock::from_number(task, clock).transpose()?;
    if counted.is_none() && !matches!(clock, 0 | 1 | 7 | 8 | 9 | 11) {
        return Err(Errno::EINVAL.into());
    }
    let event = event.non_null().map(|event| task.read_object(event)).transpose()?;
    let mut timers = task.group.timers.posix.lock();
    let number = (0..).find(|number| !timers.contains_key(number)).unwrap_or(0);
    if timers.len() >= MAX_TIMERS {
        return Err(Errno::EAGAIN.into());
    }
    let event = event.unwrap_or(SigEvent {
        value: u64::from(number.cast_unsigned()),
        signal: Signal::SIGALRM.number(),
        notify: SIGEV_SIGNAL,
        thread: 0,
        rest: [0; 11],
    });
    let target: Option<Weak<Task>> = match event.notify {
        SIGEV_SIGNAL | SIGEV_NONE => None,
        SIGEV_THREAD_ID => {
            let target = task.find_task(event.thread).map_err(|_| Errno::EINVAL)?;
            if !Arc::ptr_eq(&target.group, &task.group) {
                return Err(Errno::EINVAL.into());
            }
            Some(Arc::downgrade(&target))
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let signal = Signal::new(event.signal);
    if event.notify != SIGEV_NONE && signal.is_none() {
        return Err(Errno::EINVAL.into());
    }
    let (kernel, group) = (Arc::downgrade(&task.kernel), Arc::downgrade(&task.group));
    let silent = event.notify == SIGEV_NONE;
    let action = move |count: u64| {
        let Some(signal) = signal.filter(|_| !silent) else { return };
        let mut info = SigInfo::new(signal, SI_TIMER);
        info.put(0, &number.to_ne_bytes());
        info.put(4, &i32::try_from(count - 1).unwrap_or(i32::MAX).to_ne_bytes());
        info.put(8, &event.value.to_ne_bytes());
        match &target {
            None => send(&kernel, &group, info),
            Some(target) => {
                if let (Some(kernel), Some(target)) = (kernel.upgrade(), target.upgrade()) {
                    crate::signal::send_to_task(&kernel, &target, info);
                }
            }
        }
    };
    task.write_object(id, &number)?;
    let source = match counted {
        None => Source::Time(Alarm::new(&task.kernel.timers, Box::new(action))),
        Some(clock) => Source::ProcessorTime(CpuTimer::new(clock, Box::new(action))),
    };
    timers.insert(number, PosixTimer { source, clock, overrun: 0 });
    Ok(())
}

/// `timer_settime(2)`.
pub fn timer_settime(
    task: &CurrentTask,
    id: i32,
    flags: Flags,
    new: UserPtr<[TimeSpec; 2]>,
    old: UserPtr<[TimeSpec; 2]>,
) -> SyscallResult<()> {
    let [interval, value] = task.read_object(new)?;
    let (interval, value) =
        (interval.to_duration().ok_or(Errno::EINVAL)?, value.to_duration().ok_or(Errno::EINVAL)?);
    let (source, clock) = {
        let timers = task.group.timers.posix.lock();
        let timer = timers.get(&id).ok_or(Errno::EINVAL)?;
        (timer.source.clone(), timer.clock)
    };
    let absolute = flags.0 & 1 != 0;
    let (left, before) = match source {
        Source::Time(alarm) => alarm.set(delay(task, clock, value, absolute)?, interval),
        Source::ProcessorTime(timer) => {
            timer.set(&task.kernel, (!value.is_zero()).then_some(value), absolute, interval)
        }
    };
    if let Some(old) = old.non_null() {
        task.write_object(old, &[before.into(), left.unwrap_or_default().into()])?;
    }
    Ok(())
}

/// How long until a time that was given; `None` for zero, which stops a timer.
pub(super) fn delay(
    task: &CurrentTask,
    clock: i32,
    value: Duration,
    absolute: bool,
) -> SysResult<Option<Duration>> {
    if value.is_zero() || !absolute {
        return Ok((!value.is_zero()).then_some(value));
    }
    let now = now(task, clock)?.to_duration().unwrap_or_default();
    Ok(Some(value.saturating_sub(now)))
}

/// `timer_gettime(2)`.
pub fn timer_gettime(task: &CurrentTask, id: i32, value: UserPtr<[TimeSpec; 2]>) -> SyscallResult<()> {
    let source = task.group.timers.posix.lock().get(&id).ok_or(Errno::EINVAL)?.source.clone();
    let (left, interval) = source.get(&task.kernel);
    Ok(task.write_object(value, &[interval.into(), left.unwrap_or_default().into()])?)
}

/// `timer_getoverrun(2)`.
pub fn timer_getoverrun(task: &CurrentTask, id: i32) -> SyscallResult<i32> {
    let timers = task.group.timers.posix.lock();
    Ok(timers.get(&id).ok_or(Errno::EINVAL)?.overrun)
}

/// `timer_delete(2)`.
pub fn timer_delete(task: &CurrentTask, id: i32) -> SyscallResult<()> {
    let removed = task.group.timers.posix.lock().remove(&id);
    removed.map(drop).ok_or_else(|| Errno::EINVAL.into())
}
