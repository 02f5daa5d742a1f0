//! `eventfd(2)`: a counter that can be waited for.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use parking_lot::Mutex;

use crate::error::SyscallResult;
use crate::fs::{File, OpenFile};
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Events, WaitQueue};

/// The largest value that a counter can have.
const MAXIMUM: u64 = u64::MAX - 1;

/// The counter behind an `eventfd(2)`.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// Adds to the counter without waiting for room: what does not fit is lost, as in Linux for signals of the kernel.
    pub fn add(&self, amount: u64) {
        {
            let mut count = self.count.lock();
            *count = count.saturating_add(amount).min(MAXIMUM);
        }
        self.queue.wake(Events::READABLE);
    }

    /// A counter that starts at `count`; `semaphore` (`EFD_SEMAPHORE`) makes each read take one.
    pub fn open(count: u32, semaphore: bool, flags: OpenFlags) -> Arc<File> {
        let ops = EventFd { count: Mutex::new(count.into()), semaphore, queue: WaitQueue::new() };
        let status = flags & OpenFlags::NONBLOCK;
        File::anonymous("anon_inode:[eventfd]", Arc::new(ops), status | OpenFlags::RDWR)
    }
}

impl OpenFile for EventFd {
    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        if to.remaining() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let value = {
            let mut count = self.count.lock();
            if *count == 0 {
                return Err(Errno::EAGAIN.into());
            }
            let value = if self.semaphore { 1 } else { *count };
            *count -= value;
            value
        };
        self.queue.wake(Events::WRITABLE);
        to.write_all(&value.to_ne_bytes())?;
        Ok(8)
    }

    fn write(&self, _task: &CurrentTask, _file: &File, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        // A write that had to wait is tried again from its beginning, so the value is looked at only once it fits.
        if from.remaining() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let mut bytes = [0; 8];
        if from.peek(&mut bytes)? < bytes.len() {
            return Err(Errno::EFAULT.into());
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL.into());
        }
        {
            let mut count = self.count.lock();
            if MAXIMUM - *count < value {
                return Err(Errno::EAGAIN.into());
            }
            *count += value;
        }
        from.skip_all();
        self.queue.wake(Events::READABLE);
        Ok(8)
    }

    fn readiness(&self, _file: &File) -> Events {
        let count = *self.count.lock();
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < MAXIMUM);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn describe(&self) -> String {
        format!("eventfd-count: {:16x}\n", *self.count.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_readable_when_positive_and_writable_until_full() {
        let file = EventFd::open(0, false, OpenFlags::empty());
        assert_eq!(file.readiness(), Events::WRITABLE);
        let file = EventFd::open(3, true, OpenFlags::empty());
        assert_eq!(file.readiness(), Events::READABLE | Events::WRITABLE);
    }
}
