//! `epoll(7)`: many files waited for at the price of those that are ready.
//!
//! An [`Epoll`] has an [`Item`] for each file and descriptor number that was added. An item stays registered with the
//! file's wait queue; a wake-up puts it on the list of those that may be ready, and collecting looks only at that
//! list. An item does not keep its file open: when the last descriptor is closed, the item is dead, and goes at the
//! next occasion.
//!
//! Lock order: the lock of one scan, then an inner epoll's (nesting has no cycles), then the files' own; the ready list
//! and an item's interest are leaves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use bitflags::bitflags;
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{File, OpenFile};
use crate::error::{SysError, SyscallResult};
use crate::task::CurrentTask;
use crate::wait::{Deadline, Events, Registration, WaitQueue, WaitSource, Wakeup};

bitflags! {
    /// How an item is reported.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Mode: u32 {
        /// `EPOLLEXCLUSIVE`: a hint that one waiter of several is enough.
        const EXCLUSIVE = 1 << 28;
        /// `EPOLLWAKEUP`: has no meaning here.
        const WAKEUP = 1 << 29;
        /// `EPOLLONESHOT`
        const ONESHOT = 1 << 30;
        /// `EPOLLET`
        const EDGE = 1 << 31;
    }
}

/// How deep epoll files may watch each other.
const MAX_NESTING: usize = 5;

/// `struct epoll_event`, which has no padding on x86-64.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EpollEvent {
    /// Events and mode.
    pub events: u32,
    /// The caller's data, given back as it is.
    pub data: [u32; 2],
}

/// One change of `epoll_ctl(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `EPOLL_CTL_ADD`
    Add(EpollEvent),
    /// `EPOLL_CTL_DEL`
    Remove,
    /// `EPOLL_CTL_MOD`
    Modify(EpollEvent),
}

#[derive(Clone, Copy)]
struct Interest {
    events: Events,
    mode: Mode,
    data: [u32; 2],
    /// Cleared by a report of an `EPOLLONESHOT` item.
    enabled: bool,
}

impl Interest {
    fn new(event: EpollEvent) -> Interest {
        let events = Events::from_bits_truncate(event.events) - Events::NVAL;
        let mode = Mode::from_bits_truncate(event.events);
        Interest { events: events | Events::ALWAYS, mode, data: event.data, enabled: true }
    }
}

/// A file in an epoll.
struct Item {
    ready: Arc<Ready>,
    file: Weak<File>,
    interest: Mutex<Interest>,
    /// Whether it is on the ready list.
    queued: AtomicBool,
    removed: AtomicBool,
    registration: Mutex<Option<Registration>>,
}

/// Items that may be ready, and who waits for them.
#[derive(Default)]
struct Ready {
    list: Mutex<VecDeque<Arc<Item>>>,
    /// Tasks in `epoll_wait(2)`, each of which takes something.
    waiters: WaitQueue,
    /// `poll(2)` and outer epolls, who only look.
    watchers: WaitQueue,
}

/// Wakes for an item. The item holds its registration, which holds this: hence a weak reference.
struct ItemWakeup(Weak<Item>);

impl Wakeup for ItemWakeup {
    fn wake(&self, events: Events) {
        let Some(item) = self.0.upgrade() else { return };
        let interest = *item.interest.lock();
        if interest.enabled && interest.events.intersects(events) && Item::enqueue(&item) {
            item.ready.announce();
        }
    }
}

impl Item {
    /// Puts the item on the ready list unless it is there.
    fn enqueue(item: &Arc<Item>) -> bool {
        if item.removed.load(Ordering::SeqCst) || item.queued.swap(true, Ordering::SeqCst) {
            return false;
        }
        item.ready.list.lock().push_back(Arc::clone(item));
        true
    }

    /// What the item has to report now.
    fn found(&self) -> Option<(Events, Interest)> {
        let file = self.file.upgrade()?;
        let interest = *self.interest.lock();
        if self.removed.load(Ordering::SeqCst) || !interest.enabled {
            return None;
        }
        let found = file.readiness() & interest.events;
        (!found.is_empty()).then_some((found, interest))
    }
}

impl Ready {
    fn announce(&self) {
        self.waiters.wake_some(Events::IN, 1);
        self.watchers.wake(Events::READABLE);
    }

    fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }
}

/// The object behind `epoll_create1(2)`.
pub struct Epoll {
    items: Mutex<BTreeMap<(i32, u64), Arc<Item>>>,
    ready: Arc<Ready>,
    /// Held while items are looked at, so that two waiters do not both report one item.
    scan: Mutex<()>,
}

impl Epoll {
    /// An epoll file without items.
    pub fn open() -> Arc<File> {
        let ops = Epoll { items: Mutex::default(), ready: Arc::default(), scan: Mutex::default() };
        File::anonymous("anon_inode:[eventpoll]", Arc::new(ops), OpenFlags::RDWR)
    }

    /// How many levels of epoll files hang below this one; `None` if `target` is among them or they are too many.
    fn depth(&self, target: &Epoll, level: usize) -> Option<usize> {
        if std::ptr::eq(self, target) || level > MAX_NESTING {
            return None;
        }
        let files: Vec<Arc<File>> =
            self.items.lock().values().filter_map(|item| item.file.upgrade()).collect();
        let mut deepest = 0;
        for file in files {
            if let Some(inner) = file.ops().downcast_ref::<Epoll>() {
                deepest = deepest.max(1 + inner.depth(target, level + 1)?);
            }
        }
        Some(deepest)
    }

    /// `epoll_ctl(2)` for `file`, which is descriptor `fd` of the caller.
    pub fn control(&self, fd: i32, file: &Arc<File>, change: Change) -> SysResult<()> {
        if !file.ops().pollable() {
            return Err(Errno::EPERM);
        }
        let inner = file.ops().downcast_ref::<Epoll>();
        if inner.is_some_and(|inner| std::ptr::eq(inner, self)) {
            return Err(Errno::EINVAL);
        }
        let key = (fd, file.id);
        match change {
            Change::Add(event) => {
                let mode = Mode::from_bits_truncate(event.events);
                if mode.contains(Mode::EXCLUSIVE) && (inner.is_some() || !exclusive_allows(event.events)) {
                    return Err(Errno::EINVAL);
                }
                // One change of the nesting at a time, so that two cannot close a cycle together.
                static NESTING: Mutex<()> = Mutex::new(());
                let _nesting = inner.map(|_| NESTING.lock());
                if let Some(inner) = inner {
                    let deep = inner.depth(self, 1).ok_or(Errno::ELOOP)?;
                    if deep >= MAX_NESTING - 1 {
                        return Err(Errno::ELOOP);
                    }
                }
                self.add(key, file, Interest::new(event))
            }
            Change::Remove => {
                let item = self.items.lock().remove(&key).ok_or(Errno::ENOENT)?;
                item.removed.store(true, Ordering::SeqCst);
                drop(item.registration.lock().take());
                Ok(())
            }
            Change::Modify(event) => {
                let item = self.items.lock().get(&key).cloned().ok_or(Errno::ENOENT)?;
                let exclusive = Mode::from_bits_truncate(event.events).contains(Mode::EXCLUSIVE);
                if exclusive || item.interest.lock().mode.contains(Mode::EXCLUSIVE) {
                    return Err(Errno::EINVAL);
                }
                *item.interest.lock() = Interest::new(event);
                arm(&item, file);
                Ok(())
            }
        }
    }

    fn add(&self, key: (i32, u64), file: &Arc<File>, interest: Interest) -> SysResult<()> {
        let item = {
            let mut items = self.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            // Items of files that this descriptor stood for before and that are closed now.
            let dead: Vec<(i32, u64)> = items
                .range((key.0, 0)..=(key.0, u64::MAX))
                .filter(|(_, item)| item.file.strong_count() == 0)
                .map(|(key, _)| *key)
                .collect();
            dead.iter().for_each(|key| drop(items.remove(key)));
            let item = Arc::new(Item {
                ready: Arc::clone(&self.ready),
                file: Arc::downgrade(file),
                interest: Mutex::new(interest),
                queued: AtomicBool::new(false),
                removed: AtomicBool::new(false),
                registration: Mutex::default(),
            });
            items.insert(key, Arc::clone(&item));
            item
        };
        arm(&item, file);
        Ok(())
    }

    /// Takes up to `limit` reports.
    fn collect(&self, limit: usize) -> Vec<EpollEvent> {
        let _scan = self.scan.lock();
        let mut reports = Vec::new();
        let mut again = Vec::new();
        let mut left = self.ready.list.lock().len();
        while left > 0 && reports.len() < limit {
            left -= 1;
            let Some(item) = self.ready.list.lock().pop_front() else { break };
            // From here on a wake-up puts it on the list anew.
            item.queued.store(false, Ordering::SeqCst);
            let Some((found, interest)) = item.found() else { continue };
            reports.push(EpollEvent { events: found.bits(), data: interest.data });
            if interest.mode.contains(Mode::ONESHOT) {
                item.interest.lock().enabled = false;
            } else if !interest.mode.contains(Mode::EDGE) {
                again.push(item);
            }
        }
        for item in &again {
            Item::enqueue(item);
        }
        reports
    }

    /// Whether an item is really ready; those that are not leave the list.
    fn any_ready(&self) -> bool {
        let _scan = self.scan.lock();
        let items: Vec<Arc<Item>> = std::mem::take(&mut *self.ready.list.lock()).into();
        let mut any = false;
        for item in items {
            item.queued.store(false, Ordering::SeqCst);
            if any || item.found().is_some() {
                any = true;
                Item::enqueue(&item);
            }
        }
        any
    }

    /// `epoll_wait(2)`: waits for up to `limit` reports; none when the deadline has passed.
    pub fn wait(
        &self,
        task: &CurrentTask,
        limit: usize,
        deadline: Deadline,
    ) -> SyscallResult<Vec<EpollEvent>> {
        let again = SysError::Errno(Errno::EAGAIN);
        let result = task.block_on(&self.ready.waiters, Events::IN, deadline, || {
            let reports = self.collect(limit);
            if reports.is_empty() { Err(again) } else { Ok(reports) }
        });
        // A wake-up meant for one waiter may have come to this one, which takes no more.
        if !self.ready.is_empty() && !self.ready.waiters.is_empty() {
            self.ready.waiters.wake_some(Events::IN, 1);
        }
        match result {
            Err(error) if error == again => Ok(Vec::new()),
            result => result,
        }
    }
}

/// Registers the item with its file for what it is interested in, and reports what is there already.
fn arm(item: &Arc<Item>, file: &Arc<File>) {
    let wakeup: Arc<dyn Wakeup> = Arc::new(ItemWakeup(Arc::downgrade(item)));
    let events = item.interest.lock().events;
    let registration = WaitSource::register(&**file, events, &wakeup);
    let old = item.registration.lock().replace(registration);
    drop(old);
    if item.found().is_some() && Item::enqueue(item) {
        item.ready.announce();
    }
}

/// Whether `EPOLLEXCLUSIVE` may stand beside these events.
fn exclusive_allows(events: u32) -> bool {
    let allowed = Events::IN | Events::OUT | Events::ERR | Events::HUP;
    let modes = Mode::EXCLUSIVE | Mode::EDGE | Mode::WAKEUP;
    events & !(allowed.bits() | modes.bits()) == 0
}

impl OpenFile for Epoll {
    fn readiness(&self, _file: &File) -> Events {
        if self.any_ready() { Events::READABLE } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.ready.watchers)
    }

    fn describe(&self) -> String {
        let items = self.items.lock();
        let live = items.iter().filter(|(_, item)| item.file.strong_count() > 0);
        live.map(|((fd, _), item)| {
            let interest = item.interest.lock();
            let events = interest.events.bits() | interest.mode.bits();
            let data = u64::from(interest.data[1]) << 32 | u64::from(interest.data[0]);
            format!("tfd: {fd:8} events: {events:8x} data: {data:16x}\n")
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::eventfd::EventFd;

    fn event(events: u32) -> EpollEvent {
        EpollEvent { events, data: [7, 0] }
    }

    fn epoll(file: &File) -> &Epoll {
        file.ops().downcast_ref::<Epoll>().expect("an epoll file")
    }

    #[test]
    fn level_triggered_items_are_reported_again_and_edge_triggered_ones_once() {
        let ready = EventFd::open(1, false, OpenFlags::empty());
        let file = Epoll::open();
        epoll(&file).control(3, &ready, Change::Add(event(1))).expect("add");
        assert_eq!(epoll(&file).collect(8), [event(1)]);
        assert_eq!(epoll(&file).collect(8), [event(1)]);
        let edge = event(1 | Mode::EDGE.bits());
        epoll(&file).control(3, &ready, Change::Modify(edge)).expect("modify");
        assert_eq!(epoll(&file).collect(8), [event(1)]);
        assert_eq!(epoll(&file).collect(8), []);
    }

    #[test]
    fn a_oneshot_item_is_silent_until_it_is_modified() {
        let ready = EventFd::open(1, false, OpenFlags::empty());
        let file = Epoll::open();
        let once = event(1 | Mode::ONESHOT.bits());
        epoll(&file).control(3, &ready, Change::Add(once)).expect("add");
        assert_eq!(epoll(&file).collect(8).len(), 1);
        assert_eq!(epoll(&file).collect(8).len(), 0);
        epoll(&file).control(3, &ready, Change::Modify(once)).expect("modify");
        assert_eq!(epoll(&file).collect(8).len(), 1);
    }

    #[test]
    fn a_closed_file_is_reported_no_more() {
        let ready = EventFd::open(1, false, OpenFlags::empty());
        let file = Epoll::open();
        epoll(&file).control(3, &ready, Change::Add(event(1))).expect("add");
        assert_eq!(file.readiness(), Events::READABLE);
        drop(ready);
        assert_eq!(file.readiness(), Events::empty());
        assert!(epoll(&file).collect(8).is_empty());
    }

    #[test]
    fn epoll_files_nest_but_not_in_cycles() {
        let (outer, inner) = (Epoll::open(), Epoll::open());
        assert_eq!(epoll(&outer).control(3, &outer, Change::Add(event(1))), Err(Errno::EINVAL));
        epoll(&outer).control(4, &inner, Change::Add(event(1))).expect("add");
        assert_eq!(epoll(&inner).control(3, &outer, Change::Add(event(1))), Err(Errno::ELOOP));
        let ready = EventFd::open(1, false, OpenFlags::empty());
        epoll(&inner).control(5, &ready, Change::Add(event(1))).expect("add");
        assert_eq!(epoll(&outer).collect(8), [event(1)]);
    }

    #[test]
    fn adding_twice_and_changing_what_is_not_there_fail() {
        let ready = EventFd::open(0, false, OpenFlags::empty());
        let file = Epoll::open();
        assert_eq!(epoll(&file).control(3, &ready, Change::Remove), Err(Errno::ENOENT));
        assert_eq!(epoll(&file).control(3, &ready, Change::Modify(event(1))), Err(Errno::ENOENT));
        epoll(&file).control(3, &ready, Change::Add(event(1))).expect("add");
        assert_eq!(epoll(&file).control(3, &ready, Change::Add(event(1))), Err(Errno::EEXIST));
        epoll(&file).control(3, &ready, Change::Remove).expect("remove");
    }
}
