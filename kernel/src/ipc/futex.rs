//! `futex(2)`: sleeping until a word of guest memory changes.
//!
//! Waiters stand in queues by key. A waiter compares the word and enters its queue under one lock, which a waker takes
//! too, so that no wake-up is lost. A waiter for memory that is its address space's own is counted there before it compares
//! the word: where nobody is counted, the platform lets the guest wake nobody by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use platform::AddressSpace;

use crate::error::{Restart, SysError, SyscallResult};
use crate::mm::FutexKey;
use crate::task::CurrentTask;
use crate::user::UserPtr;
use crate::wait::{Deadline, Waiter};

const PRIVATE: u32 = 128;
const CLOCK_REALTIME: u32 = 256;
const MATCH_ANY: u32 = u32::MAX;

/// A word of guest memory to wait for.
pub(super) struct Word {
    pub address: u64,
    pub private: bool,
    pub expected: u32,
    pub bits: u32,
}

struct Sleeper {
    waiter: Arc<Waiter>,
    woken: AtomicBool,
    bits: u32,
    /// Where it waits now; changed by a requeue.
    key: Mutex<FutexKey>,
    /// Where it is counted.
    space: Arc<dyn AddressSpace>,
}

impl Sleeper {
    fn count(&self, key: FutexKey, waits: bool) {
        if let FutexKey::Private { address, .. } = key {
            self.space.count_waiter(address, waits);
        }
    }

    /// Makes it wait elsewhere. The queues are locked.
    fn move_to(&self, key: FutexKey) {
        self.count(key, true);
        let before = std::mem::replace(&mut *self.key.lock(), key);
        self.count(before, false);
    }
}

/// Sleepers, counted as long as this exists.
struct Sleepers(Vec<Arc<Sleeper>>);

impl Sleepers {
    fn new(sleepers: Vec<Arc<Sleeper>>) -> Sleepers {
        sleepers.iter().for_each(|sleeper| sleeper.count(*sleeper.key.lock(), true));
        Sleepers(sleepers)
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        self.0.iter().for_each(|sleeper| sleeper.count(*sleeper.key.lock(), false));
    }
}

/// All sleepers of a kernel.
#[derive(Default)]
pub struct Futexes {
    queues: Mutex<HashMap<FutexKey, Vec<Arc<Sleeper>>>>,
}

impl Futexes {
    /// Wakes up to `count` sleepers with any of `bits`; returns how many.
    pub fn wake(&self, key: FutexKey, count: usize, bits: u32) -> usize {
        let mut queues = self.queues.lock();
        Self::wake_locked(&mut queues, key, count, bits)
    }

    fn wake_locked(
        queues: &mut HashMap<FutexKey, Vec<Arc<Sleeper>>>,
        key: FutexKey,
        count: usize,
        bits: u32,
    ) -> usize {
        let Some(queue) = queues.get_mut(&key) else { return 0 };
        let mut woken = 0;
        queue.retain(|sleeper| {
            if woken < count && sleeper.bits & bits != 0 {
                woken += 1;
                sleeper.woken.store(true, Ordering::SeqCst);
                sleeper.waiter.notify();
                return false;
            }
            true
        });
        if queue.is_empty() {
            queues.remove(&key);
        }
        woken
    }

    /// Sleeps while the word at `address` has the value `expected`.
    fn wait(
        &self,
        task: &CurrentTask,
        address: u64,
        private: bool,
        expected: u32,
        bits: u32,
        deadline: Deadline,
    ) -> SyscallResult<()> {
        if bits == 0 {
            return Err(Errno::EINVAL.into());
        }
        self.wait_any(task, &[Word { address, private, expected, bits }], deadline).map(drop)
    }

    /// Sleeps until one of the words is woken, and returns which: `EAGAIN` if one has not its expected value.
    pub(super) fn wait_any(
        &self,
        task: &CurrentTask,
        words: &[Word],
        deadline: Deadline,
    ) -> SyscallResult<usize> {
        let keys: SysResult<Vec<FutexKey>> =
            words.iter().map(|word| key(task, word.address, word.private)).collect();
        let sleepers = keys?.into_iter().zip(words).map(|(key, word)| {
            let (waiter, space) = (Arc::clone(&task.waiter), Arc::clone(task.context.borrow().space()));
            let (woken, key) = (AtomicBool::new(false), Mutex::new(key));
            Arc::new(Sleeper { waiter, woken, bits: word.bits, key, space })
        });
        let counted = Sleepers::new(sleepers.collect());
        let sleepers = &counted.0;
        {
            let mut queues = self.queues.lock();
            for word in words {
                if read_word(task, word.address)? != word.expected {
                    return Err(Errno::EAGAIN.into());
                }
            }
            for sleeper in sleepers {
                queues.entry(*sleeper.key.lock()).or_default().push(Arc::clone(sleeper));
            }
        }
        let woken = || sleepers.iter().position(|sleeper| sleeper.woken.load(Ordering::SeqCst));
        loop {
            let interrupted = task.interrupted();
            if woken().is_some() || interrupted || deadline.passed() {
                self.leave(sleepers);
                // Woken in the last moment: that counts.
                return match woken() {
                    Some(index) => Ok(index),
                    None if interrupted => Err(Restart::Sys.into()),
                    None => Err(Errno::ETIMEDOUT.into()),
                };
            }
            task.set_running(false);
            task.waiter.wait(deadline);
            task.set_running(true);
        }
    }

    /// Takes sleepers out of their queues, as far as they are still there.
    fn leave(&self, sleepers: &[Arc<Sleeper>]) {
        if sleepers.len() == 1 && sleepers[0].woken.load(Ordering::SeqCst) {
            return;
        }
        let mut queues = self.queues.lock();
        for sleeper in sleepers {
            let key = *sleeper.key.lock();
            if let Some(queue) = queues.get_mut(&key) {
                queue.retain(|other| !Arc::ptr_eq(other, sleeper));
                if queue.is_empty() {
                    queues.remove(&key);
                }
            }
        }
    }

    /// Wakes `wake` sleepers of `from` and moves `move_` others to `to`; returns both counts.
    pub(super) fn requeue(
        &self,
        from: FutexKey,
        to: FutexKey,
        wake: usize,
        move_: usize,
        check: impl FnOnce() -> SysResult<()>,
    ) -> SysResult<(usize, usize)> {
        let mut queues = self.queues.lock();
        check()?;
        let woken = Self::wake_locked(&mut queues, from, wake, MATCH_ANY);
        let Some(queue) = queues.get_mut(&from) else { return Ok((woken, 0)) };
        let count = move_.min(queue.len());
        let moved: Vec<Arc<Sleeper>> = queue.drain(..count).collect();
        if queue.is_empty() {
            queues.remove(&from);
        }
        for sleeper in moved {
            sleeper.move_to(to);
            queues.entry(to).or_default().push(sleeper);
        }
        Ok((woken, count))
    }
}

pub(super) fn key(task: &CurrentTask, address: u64, private: bool) -> SysResult<FutexKey> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    task.mm()?.futex_key(address, private)
}

fn read_word(task: &CurrentTask, address: u64) -> SysResult<u32> {
    task.read_object(UserPtr::new(address))
}

/// Wakes whoever waits for the word at `address`, private or shared: a thread has ended.
pub fn wake_address(task: &CurrentTask, address: u64, count: usize) {
    for private in [true, false] {
        if let Ok(key) = key(task, address, private) {
            task.kernel.futexes.wake(key, count, MATCH_ANY);
        }
    }
}

/// Marks the locks that an ending thread holds as such (`get_robust_list(2)`): bounded as Linux has it.
pub fn release_robust_list(task: &CurrentTask) {
    const LIMIT: usize = 2048;
    const WAITERS: u32 = 0x8000_0000;
    const OWNER_DIED: u32 = 0x4000_0000;
    const TID_MASK: u32 = 0x3fff_ffff;
    let own = task.signals.own();
    let head = own.robust_list();
    own.set_robust_list(0);
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = task.read_object(UserPtr::<[u64; 3]>::new(head)) else { return };
    let tid = task.number().cast_unsigned();
    let release = |entry: u64| {
        let address = (entry & !1).wrapping_add(offset);
        if address % 4 != 0 {
            return;
        }
        let Ok(mut value) = read_word(task, address) else { return };
        while value & TID_MASK == tid {
            let new = value & WAITERS | OWNER_DIED;
            match task.context.borrow_mut().compare_exchange(address, value, new) {
                Ok(old) if old == value => {
                    if value & WAITERS != 0 {
                        wake_address(task, address, 1);
                    }
                    return;
                }
                Ok(old) => value = old,
                Err(_) => return,
            }
        }
    };
    let mut entry = first;
    for _ in 0..LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = task.read_object(UserPtr::<u64>::new(entry & !1));
        if entry != pending {
            release(entry);
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => break,
        }
    }
    if pending != 0 {
        release(pending);
    }
}

/// The deadline of a call: relative for `FUTEX_WAIT`, absolute for the others.
pub(super) fn deadline(
    task: &CurrentTask,
    timeout: u64,
    absolute: bool,
    realtime: bool,
) -> SysResult<Deadline> {
    let Some(pointer) = UserPtr::<TimeSpec>::new(timeout).non_null() else { return Ok(Deadline::Never) };
    let time = task.read_object(pointer)?.to_duration().ok_or(Errno::EINVAL)?;
    if !absolute {
        return Ok(Deadline::after(time));
    }
    let clock = if realtime { rustix::time::ClockId::Realtime } else { rustix::time::ClockId::Monotonic };
    let now = rustix::time::clock_gettime(clock);
    let now = TimeSpec { sec: now.tv_sec, nsec: now.tv_nsec }.to_duration().unwrap_or_default();
    Ok(Deadline::after(time.checked_sub(now).unwrap_or(Duration::ZERO)))
}

/// `futex(2)`.
pub fn futex(
    task: &CurrentTask,
    address: u64,
    operation: u32,
    value: u32,
    timeout: u64,
    address2: u64,
    value3: u32,
) -> SyscallResult<u64> {
    let private = operation & PRIVATE != 0;
    let realtime = operation & CLOCK_REALTIME != 0;
    let futexes = &task.kernel.futexes;
    let count = |value: u32| usize::try_from(value.cast_signed()).unwrap_or(0);
    // The timeout argument is a count for the calls that move waiters.
    let value2 = timeout as u32;
    match operation & !(PRIVATE | CLOCK_REALTIME) {
        0 => {
            let deadline = deadline(task, timeout, false, realtime)?;
            match futexes.wait(task, address, private, value, MATCH_ANY, deadline) {
                // A relative timeout is not started anew.
                Err(SysError::Restart(_)) if deadline != Deadline::Never => {
                    task.set_restart(Box::new(move |task| {
                        let again =
                            task.kernel.futexes.wait(task, address, private, value, MATCH_ANY, deadline);
                        again.map(|()| 0).map_err(|error| match error {
                            SysError::Restart(_) => Errno::EINTR.into(),
                            other => other,
                        })
                    }));
                    Err(Restart::Block.into())
                }
                result => result.map(|()| 0),
            }
        }
        1 => Ok(futexes.wake(key(task, address, private)?, count(value).max(1), MATCH_ANY) as u64),
        3 if value.cast_signed() >= 0 && value2.cast_signed() >= 0 => {
            let (from, to) = (key(task, address, private)?, key(task, address2, private)?);
            let (woken, moved) = futexes.requeue(from, to, count(value), count(value2), || Ok(()))?;
            Ok((woken + moved) as u64)
        }
        3 | 4 if value.cast_signed() < 0 || value2.cast_signed() < 0 => Err(Errno::EINVAL.into()),
        4 => {
            let (from, to) = (key(task, address, private)?, key(task, address2, private)?);
            let check = || if read_word(task, address)? == value3 { Ok(()) } else { Err(Errno::EAGAIN) };
            let (woken, moved) = futexes.requeue(from, to, count(value), count(value2), check)?;
            Ok((woken + moved) as u64)
        }
        5 => wake_operation(task, address, address2, private, count(value), count(value2), value3),
        9 => {
            let deadline = deadline(task, timeout, true, realtime)?;
            futexes.wait(task, address, private, value, value3, deadline).map(|()| 0)
        }
        10 if value3 == 0 => Err(Errno::EINVAL.into()),
        10 => Ok(futexes.wake(key(task, address, private)?, count(value), value3) as u64),
        6 | 13 => {
            let until =
                deadline(task, timeout, true, operation & !(PRIVATE | CLOCK_REALTIME) == 6 || realtime)?;
            lock_pi(task, address, private, until)
        }
        8 => lock_pi(task, address, private, Deadline::Now)
            .map_err(|error| if error.is(Errno::ETIMEDOUT) { Errno::EAGAIN.into() } else { error }),
        7 => unlock_pi(task, address, private),
        _ => Err(Errno::ENOSYS.into()),
    }
}

const PI_WAITERS: u32 = 0x8000_0000;
const PI_DIED: u32 = 0x4000_0000;
const PI_TID: u32 = 0x3fff_ffff;

/// `FUTEX_LOCK_PI` without a change of priorities, of which there is but one.
fn lock_pi(task: &CurrentTask, address: u64, private: bool, deadline: Deadline) -> SyscallResult<u64> {
    let own = task.number().cast_unsigned();
    loop {
        let value = read_word(task, address)?;
        if value & PI_TID == own {
            return Err(Errno::EDEADLK.into());
        }
        if value & PI_TID == 0 {
            let new = own | value & (PI_WAITERS | PI_DIED);
            if task.context.borrow_mut().compare_exchange(address, value, new)? == value {
                return Ok(0);
            }
            continue;
        }
        if task.find_task((value & PI_TID).cast_signed()).is_err() {
            return Err(Errno::ESRCH.into());
        }
        let marked = value | PI_WAITERS;
        if value != marked && task.context.borrow_mut().compare_exchange(address, value, marked)? != value {
            continue;
        }
        match task.kernel.futexes.wait(task, address, private, marked, MATCH_ANY, deadline) {
            Ok(()) => {}
            Err(error) if error.is(Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `FUTEX_UNLOCK_PI`.
fn unlock_pi(task: &CurrentTask, address: u64, private: bool) -> SyscallResult<u64> {
    let own = task.number().cast_unsigned();
    let key = key(task, address, private)?;
    loop {
        let value = read_word(task, address)?;
        if value & PI_TID != own {
            return Err(Errno::EPERM.into());
        }
        // Whoever wakes takes the lock; the mark stays as long as others may wait.
        let new = value & PI_WAITERS;
        if task.context.borrow_mut().compare_exchange(address, value, new)? == value {
            if task.kernel.futexes.wake(key, 1, MATCH_ANY) == 0 {
                let _ = task.context.borrow_mut().compare_exchange(address, new, 0);
            }
            return Ok(0);
        }
    }
}

/// `FUTEX_WAKE_OP`.
fn wake_operation(
    task: &CurrentTask,
    address: u64,
    address2: u64,
    private: bool,
    wake: usize,
    wake2: usize,
    encoded: u32,
) -> SyscallResult<u64> {
    let (first, second) = (key(task, address, private)?, key(task, address2, private)?);
    let sign = |value: u32| (value << 20).cast_signed() >> 20;
    let mut operand = sign(encoded >> 12 & 0xfff);
    let comparand = sign(encoded & 0xfff);
    if encoded >> 28 & 8 != 0 {
        operand = 1i32.checked_shl(operand.cast_unsigned() & 31).unwrap_or(0);
    }
    let old = loop {
        let old = read_word(task, address2)?;
        let operand = operand.cast_unsigned();
        let new = match encoded >> 28 & 7 {
            0 => operand,
            1 => old.wrapping_add(operand),
            2 => old | operand,
            3 => old & !operand,
            4 => old ^ operand,
            _ => return Err(Errno::ENOSYS.into()),
        };
        if task.context.borrow_mut().compare_exchange(address2, old, new)? == old {
            break old.cast_signed();
        }
    };
    let holds = match encoded >> 24 & 15 {
        0 => old == comparand,
        1 => old != comparand,
        2 => old < comparand,
        3 => old <= comparand,
        4 => old > comparand,
        5 => old >= comparand,
        _ => return Err(Errno::ENOSYS.into()),
    };
    let mut woken = task.kernel.futexes.wake(first, wake, MATCH_ANY);
    if holds {
        woken += task.kernel.futexes.wake(second, wake2, MATCH_ANY);
    }
    Ok(woken as u64)
}
