//! POSIX message queues, `mq_overview(7)`.
//!
//! A [`Queue`] holds messages by priority; it is a file of an [`MqueueFs`], of which a kernel has one. The calls use
//! that file system directly, mounted or not; `/dev/mqueue` shows it.
//!
//! Lock order: the file system's names, then a queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::signal::Signal;
use parking_lot::Mutex;

use crate::Kernel;
use crate::error::SyscallResult;
use crate::fs::{File, OpenFile};
use crate::task::{CurrentTask, ThreadGroup};
use crate::user::UserWriter;
use crate::wait::{Events, WaitQueue};

mod fs;
pub mod syscalls;

pub use fs::MqueueFs;

/// The highest priority, and one more.
const PRIORITIES: u32 = 32_768;
/// `si_code` of a notification.
const SI_MESGQ: i32 = -3;

/// Who is told of a message that comes to an empty queue.
struct Notification {
    group: Weak<ThreadGroup>,
    /// The signal; `None` for nothing but the place that is taken (`SIGEV_NONE`).
    signal: Option<Signal>,
    value: u64,
}

impl Notification {
    fn is_of(&self, group: &Arc<ThreadGroup>) -> bool {
        std::ptr::eq(self.group.as_ptr(), Arc::as_ptr(group))
    }
}

#[derive(Default)]
struct Messages {
    /// The oldest first in each priority.
    by_priority: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: u64,
    bytes: u64,
    /// How many calls wait for a message.
    receivers: usize,
    notification: Option<Notification>,
}

/// A message queue.
struct Queue {
    max_messages: u64,
    max_size: u64,
    messages: Mutex<Messages>,
    waiters: WaitQueue,
}

impl Queue {
    fn new(max_messages: u64, max_size: u64) -> Queue {
        Queue { max_messages, max_size, messages: Mutex::default(), waiters: WaitQueue::new() }
    }

    /// Adds a message: `EAGAIN` if the queue is full.
    fn send(&self, task: &CurrentTask, text: &[u8], priority: u32) -> SyscallResult<()> {
        let told = {
            let mut messages = self.messages.lock();
            if messages.count >= self.max_messages {
                return Err(Errno::EAGAIN.into());
            }
            messages.by_priority.entry(priority).or_default().push_back(text.to_vec());
            messages.count += 1;
            messages.bytes += text.len() as u64;
            // Who waits for the message gets it, and nobody need be told.
            let first = messages.count == 1 && messages.receivers == 0;
            if first { messages.notification.take() } else { None }
        };
        self.waiters.wake(Events::READABLE);
        if let Some(told) = told {
            notify(task, &told);
        }
        Ok(())
    }

    /// Takes the oldest message of the highest priority: `EAGAIN` if there is none.
    fn receive(&self) -> SyscallResult<(Vec<u8>, u32)> {
        let (text, priority) = {
            let mut messages = self.messages.lock();
            let mut highest = messages.by_priority.last_entry().ok_or(Errno::EAGAIN)?;
            let priority = *highest.key();
            let text = highest.get_mut().pop_front().unwrap_or_default();
            if highest.get().is_empty() {
                highest.remove();
            }
            messages.count -= 1;
            messages.bytes -= text.len() as u64;
            (text, priority)
        };
        self.waiters.wake(Events::WRITABLE);
        Ok((text, priority))
    }

    /// What the queue's file says of it.
    fn describe(&self) -> String {
        let messages = self.messages.lock();
        let (signal, pid) = messages.notification.as_ref().map_or((0, 0), |told| {
            let pid = told.group.upgrade().map_or(0, |group| group.number);
            (told.signal.map_or(0, Signal::number), pid)
        });
        let kind = i32::from(messages.notification.as_ref().is_some_and(|told| told.signal.is_none()));
        format!("QSIZE:{:<10} NOTIFY:{kind:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", messages.bytes)
    }
}

fn notify(task: &CurrentTask, told: &Notification) {
    let (Some(group), Some(signal)) = (told.group.upgrade(), told.signal) else { return };
    let mut info = crate::signal::syscalls::sender(task, &group, signal, SI_MESGQ);
    info.put(8, &told.value.to_ne_bytes());
    let kernel: &Kernel = &task.kernel;
    crate::signal::send_to_group(kernel, &group, info);
}

/// A queue as it was opened.
struct OpenQueue(Arc<fs::QueueInode>);

impl OpenFile for OpenQueue {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let text = self.0.queue.describe().into_bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        Ok(to.write(&text[start..])?)
    }

    fn readiness(&self, _file: &File) -> Events {
        let messages = self.0.queue.messages.lock();
        let mut events = Events::empty();
        events.set(Events::READABLE, messages.count > 0);
        events.set(Events::WRITABLE, messages.count < self.0.queue.max_messages);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue.waiters)
    }

    /// A process that closes a descriptor of the queue is told no more.
    fn flush(&self, task: &CurrentTask) -> Result<(), Errno> {
        let mut messages = self.0.queue.messages.lock();
        if messages.notification.as_ref().is_some_and(|told| told.is_of(&task.group)) {
            messages.notification = None;
        }
        Ok(())
    }
}
