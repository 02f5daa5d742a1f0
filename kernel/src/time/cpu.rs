//! Processor time: its clocks, and the timers that count it.
//!
//! The host counts the time of guest code and of kernel threads; a [`CpuClock`] adds it up. Nothing tells when a clock
//! reaches a value, so a [`CpuTimer`] is looked after by its process's [`CpuWatch`], which looks again when the value
//! can have been reached at the earliest, and not at all while every thread of the process sleeps.
//!
//! Lock order: a watch's list, then a timer's setting. No lock is held while a timer's action runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::signal::{SI_KERNEL, SigInfo, Signal};
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::timers::{Action, Alarm};
use crate::Kernel;
use crate::task::limits::{INFINITY, Limit, Resource};
use crate::task::{CurrentTask, ExitStatus, Task, ThreadGroup};

/// How often a clock is looked at, at most: a tick of Linux.
const TICK: Duration = Duration::from_millis(4);

/// Which time is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In guest code and in the kernel.
    All,
    /// In guest code.
    User,
}

#[derive(Clone)]
enum Whose {
    Process(Weak<ThreadGroup>),
    Thread(Weak<Task>),
}

/// A clock of the processor time of a process or thread. It stops when that ends.
#[derive(Clone)]
pub struct CpuClock {
    whose: Whose,
    kind: Kind,
}

impl CpuClock {
    /// The clock of a process.
    pub fn of_process(group: &Arc<ThreadGroup>, kind: Kind) -> CpuClock {
        CpuClock { whose: Whose::Process(Arc::downgrade(group)), kind }
    }

    /// The clock with this number, `clock_getcpuclockid(3)`; `None` if it is no number of such a clock, `EINVAL` if
    /// there is no such process, or no such thread in the caller's process.
    pub fn from_number(task: &CurrentTask, number: i32) -> Option<SysResult<CpuClock>> {
        const PROCESS: i32 = 2;
        const THREAD: i32 = 3;
        const PER_THREAD: i32 = 4;
        let own_thread = Whose::Thread(Arc::downgrade(&task.task));
        let own_process = Whose::Process(Arc::downgrade(&task.group));
        let whose = match number {
            PROCESS => own_process,
            THREAD => own_thread,
            0.. => return None,
            // The clock of a device.
            _ if number & 3 == 3 => return Some(Err(Errno::EINVAL)),
            _ => match (!(number >> 3), number & PER_THREAD != 0) {
                (0, true) => own_thread,
                (0, false) => own_process,
                (tid, true) => {
                    let thread =
                        task.find_task(tid).ok().filter(|other| Arc::ptr_eq(&other.group, &task.group));
                    match thread {
                        Some(thread) => Whose::Thread(Arc::downgrade(&thread)),
                        None => return Some(Err(Errno::EINVAL)),
                    }
                }
                (pid, false) if pid == task.number() => own_process,
                (pid, false) => match task.find_group(pid) {
                    Ok(group) => Whose::Process(Arc::downgrade(&group)),
                    Err(_) => return Some(Err(Errno::EINVAL)),
                },
            },
        };
        let kind = if number < 0 && number & 3 == 1 { Kind::User } else { Kind::All };
        Some(Ok(CpuClock { whose, kind }))
    }

    /// Whether it is that of the thread itself.
    pub fn is_of_thread(&self, task: &Task) -> bool {
        matches!(&self.whose, Whose::Thread(thread) if std::ptr::eq(thread.as_ptr(), task))
    }

    fn group(&self) -> Option<Arc<ThreadGroup>> {
        match &self.whose {
            Whose::Process(group) => group.upgrade(),
            Whose::Thread(thread) => Some(Arc::clone(&thread.upgrade()?.group)),
        }
    }

    /// What it shows.
    pub fn now(&self, kernel: &Kernel) -> Duration {
        let time = match &self.whose {
            Whose::Process(group) => group.upgrade().map(|group| kernel.process_time(&group)),
            Whose::Thread(thread) => thread.upgrade().map(|thread| thread.cpu_time()),
        };
        let (user, system) = time.unwrap_or_default();
        if self.kind == Kind::User { user } else { user + system }
    }
}

#[derive(Clone, Copy, Default)]
struct Setting {
    /// When it goes off, as the clock shows it.
    next: Option<Duration>,
    interval: Duration,
}

/// A timer that counts processor time.
pub struct CpuTimer {
    clock: CpuClock,
    setting: Mutex<Setting>,
    action: Action,
}

impl CpuTimer {
    /// A timer that is not set.
    pub fn new(clock: CpuClock, action: Action) -> Arc<CpuTimer> {
        Arc::new(CpuTimer { clock, setting: Mutex::default(), action })
    }

    /// Sets the timer to go off after so much more time (`None` for never), or when the clock shows `delay` if
    /// `absolute`, and then at every interval that is not zero. Returns what was left, and the old interval.
    pub fn set(
        self: &Arc<Self>,
        kernel: &Arc<Kernel>,
        delay: Option<Duration>,
        absolute: bool,
        interval: Duration,
    ) -> (Option<Duration>, Duration) {
        let now = self.clock.now(kernel);
        let next = delay.map(|delay| if absolute { delay } else { now.saturating_add(delay) });
        let before = std::mem::replace(&mut *self.setting.lock(), Setting { next, interval });
        if next.is_some()
            && let Some(group) = self.clock.group()
        {
            group.cpu_watch.add(self);
            group.look_at_cpu_time(kernel);
        }
        (before.next.map(|next| next.saturating_sub(now)), before.interval)
    }

    /// How much time is left (`None` if it is not set), and the interval.
    pub fn get(&self, kernel: &Kernel) -> (Option<Duration>, Duration) {
        let now = self.clock.now(kernel);
        let setting = *self.setting.lock();
        (setting.next.map(|next| next.saturating_sub(now)), setting.interval)
    }

    /// Goes off if it is time; returns how much is left until the next time.
    fn look(&self, kernel: &Kernel) -> Option<Duration> {
        let now = self.clock.now(kernel);
        let mut passed = 0;
        let left = {
            let mut setting = self.setting.lock();
            let next = setting.next?;
            if now >= next {
                passed = 1;
                setting.next = None;
                if !setting.interval.is_zero() {
                    let more = (now - next).as_nanos() / setting.interval.as_nanos().max(1);
                    passed += u64::try_from(more).unwrap_or(u64::MAX - 1);
                    let steps = u32::try_from(passed).unwrap_or(u32::MAX);
                    setting.next = next.checked_add(setting.interval.saturating_mul(steps));
                }
            }
            setting.next.map(|next| next.saturating_sub(now))
        };
        if passed > 0 {
            (self.action)(passed);
        }
        left
    }
}

/// Looks after the timers that count the time of a process and its threads, and after `RLIMIT_CPU`.
#[derive(Default)]
pub struct CpuWatch {
    timers: Mutex<Vec<Weak<CpuTimer>>>,
    alarm: Mutex<Option<Arc<Alarm>>>,
    /// Set while there is something to count and all threads sleep: who wakes up has to start it again.
    asleep: AtomicBool,
}

impl CpuWatch {
    fn add(&self, timer: &Arc<CpuTimer>) {
        let mut timers = self.timers.lock();
        timers.retain(|known| known.strong_count() > 0);
        if !timers.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(timer))) {
            timers.push(Arc::downgrade(timer));
        }
    }

    /// The alarm by which the group is looked at again.
    fn alarm(&self, kernel: &Arc<Kernel>, group: &Arc<ThreadGroup>) -> Arc<Alarm> {
        let mut slot = self.alarm.lock();
        let alarm = slot.get_or_insert_with(|| {
            let (kernel_weak, group) = (Arc::downgrade(kernel), Arc::downgrade(group));
            let look = move |_| {
                if let (Some(kernel), Some(group)) = (kernel_weak.upgrade(), group.upgrade()) {
                    group.look_at_cpu_time(&kernel);
                }
            };
            Alarm::new(&kernel.timers, Box::new(look))
        });
        Arc::clone(alarm)
    }
}

impl ThreadGroup {
    /// Lets the timers go off whose time has come, enforces the limit of processor time, and sees to it that this is
    /// done again when it has to be.
    pub fn look_at_cpu_time(self: &Arc<Self>, kernel: &Arc<Kernel>) {
        let timers: Vec<_> = self.cpu_watch.timers.lock().iter().filter_map(Weak::upgrade).collect();
        let left = timers.iter().filter_map(|timer| timer.look(kernel)).min();
        let left = [left, self.enforce_cpu_limit(kernel)].into_iter().flatten().min();
        self.cpu_watch
            .timers
            .lock()
            .retain(|timer| timer.upgrade().is_some_and(|timer| timer.setting.lock().next.is_some()));
        let Some(left) = left else { return };
        let tasks = kernel.tasks.tasks_of(self.pid);
        self.cpu_watch.asleep.store(true, Ordering::SeqCst);
        if tasks.iter().any(|task| task.is_running()) {
            self.cpu_watch.asleep.store(false, Ordering::SeqCst);
            let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let at_once = u32::try_from(tasks.len().clamp(1, processors)).unwrap_or(1);
            let delay = (left / at_once).max(TICK);
            self.cpu_watch.alarm(kernel, self).set(Some(delay), Duration::ZERO);
        }
    }

    /// A thread has woken up: if nobody was looking at the group's time because all slept, somebody must again.
    pub(crate) fn cpu_time_goes_on(self: &Arc<Self>, kernel: &Arc<Kernel>) {
        let watch = &self.cpu_watch;
        if watch.asleep.load(Ordering::SeqCst) && watch.asleep.swap(false, Ordering::SeqCst) {
            watch.alarm(kernel, self).set(Some(TICK), Duration::ZERO);
        }
    }

    /// `RLIMIT_CPU`: SIGXCPU at the soft limit and every second after it, SIGKILL at the hard one. Returns how much is
    /// left until something is to be done.
    fn enforce_cpu_limit(self: &Arc<Self>, kernel: &Arc<Kernel>) -> Option<Duration> {
        let Limit { current, maximum } = self.limits.lock().get(Resource::Cpu);
        if current == INFINITY || self.exit.lock().is_some() {
            return None;
        }
        let (user, system) = kernel.process_time(self);
        let used = user + system;
        if maximum != INFINITY && used >= Duration::from_secs(maximum) {
            kernel.end_group(self, ExitStatus::Signaled { signal: Signal::SIGKILL, core: false });
            return None;
        }
        let mut next = Duration::from_secs(current);
        if used >= next {
            crate::signal::send_to_group(kernel, self, SigInfo::new(Signal::SIGXCPU, SI_KERNEL));
            let raised = Limit { current: current.saturating_add(1), maximum };
            self.limits.lock().set(Resource::Cpu, raised);
            next = Duration::from_secs(raised.current);
        }
        Some(next.min(Duration::from_secs(maximum)).saturating_sub(used))
    }
}

impl Task {
    /// Processor time that the thread has used: in guest code, in the kernel.
    pub fn cpu_time(&self) -> (Duration, Duration) {
        (self.user_time_before() + self.interrupter().cpu_time(), self.kernel_time())
    }
}

impl Kernel {
    /// Processor time that a process has used: in guest code, in the kernel.
    pub fn process_time(&self, group: &ThreadGroup) -> (Duration, Duration) {
        match self.tasks.tasks_of(group.pid) {
            tasks if tasks.is_empty() => group.final_time(),
            tasks => group.total_time(&tasks),
        }
    }
}
