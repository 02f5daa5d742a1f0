//! Timers: one service thread that calls back at set times.
//!
//! [`Timers`] keeps the alarms of a kernel; an [`Alarm`] is a time, an interval, and what to do. Interval timers, POSIX
//! timers and timer files are built from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What happens when an alarm goes off: told how often its interval has passed since the last time.
pub type Action = Box<dyn Fn(u64) + Send + Sync>;

#[derive(Default)]
struct Queue {
    /// By time and number, so that equal times stay apart.
    alarms: BTreeMap<(Instant, u64), Weak<Alarm>>,
    running: bool,
}

/// All alarms of a kernel.
#[derive(Default)]
pub struct Timers {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// A timer that goes off once or again and again.
pub struct Alarm {
    id: u64,
    timers: Arc<Timers>,
    setting: Mutex<Setting>,
    action: Action,
}

#[derive(Clone, Copy, Default)]
struct Setting {
    next: Option<Instant>,
    interval: Duration,
}

impl Alarm {
    /// A timer that is not set.
    pub fn new(timers: &Arc<Timers>, action: Action) -> Arc<Alarm> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Alarm { id, timers: Arc::clone(timers), setting: Mutex::default(), action })
    }

    /// Sets the timer to go off after `delay` (`None` for never) and then at every interval that is not zero. Returns
    /// what was left, and the old interval.
    pub fn set(
        self: &Arc<Self>,
        delay: Option<Duration>,
        interval: Duration,
    ) -> (Option<Duration>, Duration) {
        let now = Instant::now();
        let next = delay.and_then(|delay| now.checked_add(delay));
        let mut queue = self.timers.queue.lock();
        let mut setting = self.setting.lock();
        let before = *setting;
        *setting = Setting { next, interval };
        drop(setting);
        if let Some(old) = before.next {
            queue.alarms.remove(&(old, self.id));
        }
        if let Some(next) = next {
            queue.alarms.insert((next, self.id), Arc::downgrade(self));
            if !queue.running {
                queue.running = true;
                let timers = Arc::clone(&self.timers);
                let thread = std::thread::Builder::new().name("timers".into()).stack_size(128 << 10);
                // Without its thread timers do not go off; a host that has no room for a thread has no room for tasks.
                drop(thread.spawn(move || timers.serve()));
            }
            self.timers.changed.notify_one();
        }
        (before.next.map(|next| next.saturating_duration_since(now)), before.interval)
    }

    /// How long it is until the timer goes off (`None` if it is not set), and the interval.
    pub fn get(&self) -> (Option<Duration>, Duration) {
        let setting = self.setting.lock();
        (setting.next.map(|next| next.saturating_duration_since(Instant::now())), setting.interval)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(next) = self.setting.get_mut().next {
            self.timers.queue.lock().alarms.remove(&(next, self.id));
        }
    }
}

impl Timers {
    fn serve(&self) {
        let mut queue = self.queue.lock();
        loop {
            let Some((&(next, id), alarm)) = queue.alarms.first_key_value() else {
                self.changed.wait(&mut queue);
                continue;
            };
            let now = Instant::now();
            if next > now {
                self.changed.wait_until(&mut queue, next);
                continue;
            }
            let alarm = alarm.upgrade();
            queue.alarms.remove(&(next, id));
            let Some(alarm) = alarm else { continue };
            let mut passed = 1;
            {
                let mut setting = alarm.setting.lock();
                setting.next = None;
                if !setting.interval.is_zero() {
                    let late = now.duration_since(next);
                    let more = late.as_nanos() / setting.interval.as_nanos().max(1);
                    passed += u64::try_from(more).unwrap_or(u64::MAX - 1);
                    let steps = u32::try_from(passed).unwrap_or(u32::MAX);
                    setting.next = next.checked_add(setting.interval.saturating_mul(steps));
                }
                if let Some(next) = setting.next {
                    queue.alarms.insert((next, id), Arc::downgrade(&alarm));
                }
            }
            parking_lot::MutexGuard::unlocked(&mut queue, || {
                (alarm.action)(passed);
                drop(alarm);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn an_alarm_goes_off_and_again_until_it_is_stopped() {
        let timers = Arc::new(Timers::default());
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let alarm = Alarm::new(&timers, Box::new(move |count| sender.lock().send(count).unwrap_or_default()));
        alarm.set(Some(Duration::from_millis(1)), Duration::from_millis(1));
        for _ in 0..3 {
            assert!(receiver.recv_timeout(Duration::from_secs(10)).is_ok());
        }
        let (left, interval) = alarm.set(None, Duration::ZERO);
        assert!(left.is_some());
        assert_eq!(interval, Duration::from_millis(1));
        assert_eq!(alarm.get(), (None, Duration::ZERO));
    }
}
