//! Waiting for a descriptor of the host that can be polled, on behalf of guests.
//!
//! A thread per descriptor asks the host, and only while there is somebody to wake and something that is not there yet.
//! Somebody may be registered for long (`epoll(7)`), so each look at the descriptor that finds something missing has
//! the thread wait for it anew.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use abi::SysResult;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};

use crate::wait::{Events, Registration, WaitQueue, Wakeup};

/// A descriptor of the host, and who waits for it.
pub struct HostWatch {
    fd: Arc<OwnedFd>,
    queue: WaitQueue,
    /// What anybody has asked for.
    wanted: AtomicU32,
    thread: Mutex<Option<Sender<Events>>>,
}

impl HostWatch {
    /// Nobody waits yet.
    pub fn new(fd: Arc<OwnedFd>) -> HostWatch {
        HostWatch::waking(fd, WaitQueue::new())
    }

    /// The same, for those in this queue.
    pub fn waking(fd: Arc<OwnedFd>, queue: WaitQueue) -> HostWatch {
        HostWatch { fd, queue, wanted: AtomicU32::new(0), thread: Mutex::default() }
    }

    /// Whom it wakes.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Which of these events there are now.
    pub fn poll(&self, events: PollFlags) -> SysResult<Events> {
        let mut fds = [PollFd::new(&*self.fd, events)];
        poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let found = Events::from_bits_truncate(u32::from(fds[0].revents().bits()));
        let asked = Events::from_bits_truncate(u32::from(events.bits()));
        let wanted = Events::from_bits_truncate(self.wanted.load(Ordering::Relaxed));
        let missing = (wanted & asked) - found;
        if !missing.is_empty() && !self.queue.is_empty() {
            self.watch(missing);
        }
        Ok(found)
    }

    /// Asks to be woken.
    pub fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        let registration = self.queue.register(events, wakeup);
        self.expect(events);
        registration
    }

    /// Somebody has registered with the queue.
    pub fn expect(&self, events: Events) {
        self.wanted.fetch_or(events.bits(), Ordering::Relaxed);
        self.watch(events);
    }

    fn watch(&self, events: Events) {
        let mut thread = self.thread.lock();
        let sender = thread.get_or_insert_with(|| start(Arc::clone(&self.fd), self.queue.clone()));
        let _ = sender.send(events);
    }
}

/// Starts the thread that waits on the host. It ends with the [`HostWatch`].
fn start(fd: Arc<OwnedFd>, queue: WaitQueue) -> Sender<Events> {
    let (sender, receiver) = channel::<Events>();
    let name = format!("watch-{}", fd.as_raw_fd());
    let spawned = std::thread::Builder::new()
        .name(name)
        .stack_size(128 << 10)
        .spawn(move || wait_again_and_again(&fd, &queue, &receiver));
    drop(spawned);
    sender
}

fn wait_again_and_again(fd: &OwnedFd, queue: &WaitQueue, receiver: &Receiver<Events>) {
    while let Ok(mut events) = receiver.recv() {
        loop {
            while let Ok(more) = receiver.try_recv() {
                events |= more;
            }
            if queue.is_empty() {
                break;
            }
            let flags = PollFlags::from_bits_truncate(events.bits() as u16);
            let mut fds = [PollFd::new(fd, flags)];
            let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            if matches!(poll(&mut fds, Some(&limit)), Ok(count) if count > 0) {
                let found = Events::from_bits_truncate(u32::from(fds[0].revents().bits()));
                queue.wake(found);
                // Whoever was woken takes its share before the next look.
                std::thread::sleep(Duration::from_micros(200));
                // What has come is waited for again when somebody misses it; what has not still is.
                events -= found;
                if events.is_empty() || found.intersects(Events::ALWAYS) {
                    break;
                }
            }
        }
    }
}
