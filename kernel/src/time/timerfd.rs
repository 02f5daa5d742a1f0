//! Timers as files, `timerfd_create(2)`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fs::OpenFlags;
use abi::time::TimeSpec;

use super::interval::delay;
use super::timers::Alarm;
use crate::error::SyscallResult;
use crate::fs::{File, OpenFile};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::{UserPtr, UserWriter};
use crate::wait::{Events, WaitQueue};

struct TimerFile {
    clock: i32,
    alarm: Arc<Alarm>,
    expirations: Arc<AtomicU64>,
    queue: WaitQueue,
}

impl OpenFile for TimerFile {
    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        if to.remaining() < 8 {
            return Err(Errno::EINVAL.into());
        }
        match self.expirations.swap(0, Ordering::SeqCst) {
            0 => Err(Errno::EAGAIN.into()),
            count => Ok(to.write(&count.to_ne_bytes())?),
        }
    }

    fn readiness(&self, _file: &File) -> Events {
        if self.expirations.load(Ordering::SeqCst) > 0 { Events::READABLE } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }
}

/// `timerfd_create(2)`.
pub fn timerfd_create(task: &CurrentTask, clock: i32, flags: Flags) -> SyscallResult<Fd> {
    let flags = OpenFlags::from_bits_retain(flags.0);
    if !matches!(clock, 0 | 1 | 7 | 8 | 9) || !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let expirations = Arc::new(AtomicU64::new(0));
    let queue = WaitQueue::new();
    let (count, waiters) = (Arc::clone(&expirations), queue.clone());
    let action = move |passed| {
        count.fetch_add(passed, Ordering::SeqCst);
        waiters.wake(Events::READABLE);
    };
    let alarm = Alarm::new(&task.kernel.timers, Box::new(action));
    let timer = TimerFile { clock, alarm, expirations, queue };
    let file = File::anonymous(
        "anon_inode:[timerfd]",
        Arc::new(timer),
        flags & OpenFlags::NONBLOCK | OpenFlags::RDWR,
    );
    Ok(task.install(file, flags.contains(OpenFlags::CLOEXEC))?)
}

fn with_timer<T>(
    task: &CurrentTask,
    fd: Fd,
    operation: impl FnOnce(&TimerFile) -> SyscallResult<T>,
) -> SyscallResult<T> {
    let file = task.file(fd)?;
    operation(file.ops().downcast_ref::<TimerFile>().ok_or(Errno::EINVAL)?)
}

/// `timerfd_settime(2)`.
pub fn timerfd_settime(
    task: &CurrentTask,
    fd: Fd,
    flags: Flags,
    new: UserPtr<[TimeSpec; 2]>,
    old: UserPtr<[TimeSpec; 2]>,
) -> SyscallResult<()> {
    if flags.0 & !3 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let [interval, value] = task.read_object(new)?;
    let (interval, value) =
        (interval.to_duration().ok_or(Errno::EINVAL)?, value.to_duration().ok_or(Errno::EINVAL)?);
    with_timer(task, fd, |timer| {
        let delay = delay(task, timer.clock, value, flags.0 & 1 != 0)?;
        timer.expirations.store(0, Ordering::SeqCst);
        let (left, before) = timer.alarm.set(delay, interval);
        if let Some(old) = old.non_null() {
            task.write_object(old, &[before.into(), left.unwrap_or_default().into()])?;
        }
        Ok(())
    })
}

/// `timerfd_gettime(2)`.
pub fn timerfd_gettime(task: &CurrentTask, fd: Fd, value: UserPtr<[TimeSpec; 2]>) -> SyscallResult<()> {
    with_timer(task, fd, |timer| {
        let (left, interval) = timer.alarm.get();
        Ok(task.write_object(value, &[interval.into(), left.unwrap_or_default().into()])?)
    })
}
