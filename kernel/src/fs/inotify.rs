//! inotify(7): telling programs what happens to files.
//!
//! Who changes or uses a file says so with one of the `notify_*` functions, after it has happened. An [`Instance`] is
//! what a descriptor of `inotify_init(2)` stands for; a [`Watch`] ties it to an inode, whose [`Watches`] list it. While
//! there are no watches at all, a notification is one load of a counter.
//!
//! Lock order: an instance's watches → an inode's watches; an instance's queue is a leaf. None of them is held while
//! somebody is woken.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use bitflags::bitflags;
use parking_lot::Mutex;

use super::dentry::Dentry;
use super::{File, FileType, InodeRef, OpenFile, SetAttributes};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Events, WaitQueue};

bitflags! {
    /// What happened, and what a watch asks for, with the bits of `<sys/inotify.h>`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Mask: u32 {
        /// `IN_ACCESS`
        const ACCESS = 0x1;
        /// `IN_MODIFY`
        const MODIFY = 0x2;
        /// `IN_ATTRIB`
        const ATTRIB = 0x4;
        /// `IN_CLOSE_WRITE`
        const CLOSE_WRITE = 0x8;
        /// `IN_CLOSE_NOWRITE`
        const CLOSE_NOWRITE = 0x10;
        /// `IN_OPEN`
        const OPEN = 0x20;
        /// `IN_MOVED_FROM`
        const MOVED_FROM = 0x40;
        /// `IN_MOVED_TO`
        const MOVED_TO = 0x80;
        /// `IN_CREATE`
        const CREATE = 0x100;
        /// `IN_DELETE`
        const DELETE = 0x200;
        /// `IN_DELETE_SELF`
        const DELETE_SELF = 0x400;
        /// `IN_MOVE_SELF`
        const MOVE_SELF = 0x800;
        /// `IN_UNMOUNT`
        const UNMOUNT = 0x2000;
        /// `IN_Q_OVERFLOW`
        const OVERFLOW = 0x4000;
        /// `IN_IGNORED`
        const IGNORED = 0x8000;
        /// `IN_ONLYDIR`
        const ONLY_DIRECTORY = 0x0100_0000;
        /// `IN_DONT_FOLLOW`
        const DONT_FOLLOW = 0x0200_0000;
        /// `IN_EXCL_UNLINK`
        const EXCLUDE_UNLINKED = 0x0400_0000;
        /// `IN_MASK_CREATE`
        const MASK_CREATE = 0x1000_0000;
        /// `IN_MASK_ADD`
        const MASK_ADD = 0x2000_0000;
        /// `IN_ISDIR`
        const IS_DIRECTORY = 0x4000_0000;
        /// `IN_ONESHOT`
        const ONE_SHOT = 0x8000_0000;
    }
}

impl Mask {
    /// What can be waited for: `IN_ALL_EVENTS`.
    const EVENTS: Mask = Mask::from_bits_retain(0xfff);
    /// What a watch remembers of the mask that it was made with.
    const KEPT: Mask = Mask::EVENTS.union(Mask::ONE_SHOT).union(Mask::EXCLUDE_UNLINKED);
}

/// How many events an instance holds (`/proc/sys/fs/inotify/max_queued_events`).
pub const MAX_QUEUED: usize = 16384;
/// How many instances a user may have (`max_user_instances`).
pub const MAX_INSTANCES: usize = 128;
/// How many watches a user may have (`max_user_watches`).
pub const MAX_WATCHES: usize = 65536;

/// The size of an event without its name.
const HEADER: usize = 16;

/// How many watches there are, of all instances.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// The watches of an inode.
#[derive(Default)]
pub struct Watches {
    list: Mutex<Vec<Arc<Watch>>>,
}

/// An instance's interest in an inode.
struct Watch {
    instance: Weak<Instance>,
    descriptor: i32,
    mask: AtomicU32,
}

impl Watch {
    fn mask(&self) -> Mask {
        Mask::from_bits_retain(self.mask.load(Ordering::Relaxed))
    }
}

/// What each user has of instances and watches.
#[derive(Default)]
pub struct Usage {
    users: Mutex<HashMap<u32, (usize, usize)>>,
}

impl Usage {
    /// Counts instances and watches of a user in; `None` if that would be too many.
    fn add(&self, user: u32, instances: usize, watches: usize) -> Option<()> {
        let mut users = self.users.lock();
        let used = users.entry(user).or_default();
        if used.0 + instances > MAX_INSTANCES || used.1 + watches > MAX_WATCHES {
            return None;
        }
        *used = (used.0 + instances, used.1 + watches);
        Some(())
    }

    /// Counts them out.
    fn remove(&self, user: u32, instances: usize, watches: usize) {
        let mut users = self.users.lock();
        if let Some(used) = users.get_mut(&user) {
            *used = (used.0.saturating_sub(instances), used.1.saturating_sub(watches));
            if *used == (0, 0) {
                users.remove(&user);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: Mask,
    cookie: u32,
    /// Empty for an event of the watched file itself.
    name: Box<[u8]>,
}

impl Event {
    /// How long the name is with its zeros.
    fn name_length(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn length(&self) -> usize {
        HEADER + self.name_length()
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len() + self.length();
        bytes.extend_from_slice(&self.watch.to_ne_bytes());
        for word in [self.mask.bits(), self.cookie, self.name_length() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes.resize(end, 0);
    }

    /// Whether an event just like this one, right before it, says it all.
    fn repeats(&self, last: &Event) -> bool {
        last.mask != Mask::IGNORED
            && (last.watch, last.mask, &last.name) == (self.watch, self.mask, &self.name)
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Whether the event that tells of lost ones waits already.
    overflowed: bool,
}

struct Watched {
    watch: Arc<Watch>,
    inode: InodeRef,
}

#[derive(Default)]
struct WatchTable {
    by_descriptor: BTreeMap<i32, Watched>,
    last: i32,
}

/// What a descriptor of `inotify_init(2)` stands for.
pub struct Instance {
    user: u32,
    usage: Arc<Usage>,
    watches: Mutex<WatchTable>,
    queue: Mutex<Queue>,
    waiters: WaitQueue,
}

/// The open file; the instance itself is shared with those who notify it.
pub struct Inotify(Arc<Instance>);

impl Inotify {
    /// A new instance of a user: `EMFILE` if it has too many.
    pub fn open(usage: &Arc<Usage>, user: u32, flags: OpenFlags) -> SysResult<Arc<File>> {
        usage.add(user, 1, 0).ok_or(Errno::EMFILE)?;
        let instance = Instance {
            user,
            usage: Arc::clone(usage),
            watches: Mutex::default(),
            queue: Mutex::default(),
            waiters: WaitQueue::new(),
        };
        let ops = Arc::new(Inotify(Arc::new(instance)));
        Ok(File::anonymous("anon_inode:inotify", ops, flags & OpenFlags::NONBLOCK))
    }

    /// Watches an inode, or changes the watch that there is; returns its descriptor.
    pub fn watch(&self, inode: &InodeRef, mask: Mask) -> SysResult<i32> {
        let instance = &self.0;
        let mut table = instance.watches.lock();
        let kept = mask & Mask::KEPT;
        let list = &inode.common().watches.list;
        let own = |watch: &&Arc<Watch>| std::ptr::eq(watch.instance.as_ptr(), Arc::as_ptr(instance));
        let existing = list.lock().iter().find(own).cloned();
        if let Some(watch) = existing {
            if mask.contains(Mask::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            let new = if mask.contains(Mask::MASK_ADD) { watch.mask() | kept } else { kept };
            watch.mask.store(new.bits(), Ordering::Relaxed);
            drop(table);
            super::direct::revoke_all();
            return Ok(watch.descriptor);
        }
        instance.usage.add(instance.user, 0, 1).ok_or(Errno::ENOSPC)?;
        let descriptor = table.next_descriptor();
        let watch = Arc::new(Watch {
            instance: Arc::downgrade(instance),
            descriptor,
            mask: AtomicU32::new(kept.bits()),
        });
        table
            .by_descriptor
            .insert(descriptor, Watched { watch: Arc::clone(&watch), inode: Arc::clone(inode) });
        list.lock().push(watch);
        WATCHES.fetch_add(1, Ordering::SeqCst);
        drop(table);
        super::direct::revoke_all();
        Ok(descriptor)
    }

    /// Ends a watch: `EINVAL` if there is none of this number.
    pub fn unwatch(&self, descriptor: i32) -> SysResult<()> {
        if self.0.end_watch(descriptor) { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

impl WatchTable {
    /// Numbers go up and begin again at one, so that a number is not soon used for another file.
    fn next_descriptor(&mut self) -> i32 {
        loop {
            self.last = if self.last == i32::MAX { 1 } else { self.last + 1 };
            if !self.by_descriptor.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

impl Instance {
    /// Ends a watch and says so to the reader; false if there is none of this number.
    fn end_watch(&self, descriptor: i32) -> bool {
        let Some(watched) = self.watches.lock().by_descriptor.remove(&descriptor) else { return false };
        self.forget(&watched);
        self.push(Event { watch: descriptor, mask: Mask::IGNORED, cookie: 0, name: Box::default() });
        true
    }

    /// Takes a watch off its inode and out of the counts.
    fn forget(&self, watched: &Watched) {
        watched.inode.common().watches.list.lock().retain(|watch| !Arc::ptr_eq(watch, &watched.watch));
        WATCHES.fetch_sub(1, Ordering::SeqCst);
        self.usage.remove(self.user, 0, 1);
    }

    fn push(&self, event: Event) {
        {
            let mut queue = self.queue.lock();
            if queue.events.back().is_some_and(|last| event.repeats(last)) {
                return;
            }
            if queue.events.len() < MAX_QUEUED {
                queue.events.push_back(event);
            } else if !queue.overflowed {
                queue.overflowed = true;
                let lost = Event { watch: -1, mask: Mask::OVERFLOW, cookie: 0, name: Box::default() };
                queue.events.push_back(lost);
            }
        }
        self.waiters.wake(Events::READABLE);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let watches = std::mem::take(&mut self.watches.get_mut().by_descriptor);
        watches.values().for_each(|watched| self.forget(watched));
        self.usage.remove(self.user, 1, 0);
    }
}

impl OpenFile for Inotify {
    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let mut bytes = Vec::new();
        {
            let mut queue = self.0.queue.lock();
            let first = queue.events.front().ok_or(Errno::EAGAIN)?;
            if first.length() > to.remaining() {
                return Err(Errno::EINVAL.into());
            }
            while let Some(event) = queue.events.front() {
                if bytes.len() + event.length() > to.remaining() {
                    break;
                }
                event.encode(&mut bytes);
                if event.mask == Mask::OVERFLOW {
                    queue.overflowed = false;
                }
                queue.events.pop_front();
            }
        }
        to.write_all(&bytes)?;
        Ok(bytes.len())
    }

    fn write(&self, _task: &CurrentTask, _file: &File, _from: &mut UserReader<'_>) -> SyscallResult<usize> {
        Err(Errno::EBADF.into())
    }

    fn readiness(&self, _file: &File) -> Events {
        if self.0.queue.lock().events.is_empty() { Events::empty() } else { Events::READABLE }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.waiters)
    }

    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, argument: u64) -> SyscallResult {
        const FIONREAD: u32 = 0x541b;
        if request != FIONREAD {
            return Err(Errno::ENOTTY.into());
        }
        let length: usize = self.0.queue.lock().events.iter().map(Event::length).sum();
        task.write_bytes(argument, &(length as u32).to_ne_bytes())?;
        Ok(0)
    }

    fn describe(&self) -> String {
        let table = self.0.watches.lock();
        let line = |(descriptor, watched): (&i32, &Watched)| {
            let metadata = watched.inode.metadata().unwrap_or_default();
            let mask = watched.watch.mask() & (Mask::EVENTS | Mask::EXCLUDE_UNLINKED | Mask::ONE_SHOT);
            format!(
                "inotify wd:{descriptor:x} ino:{:x} sdev:{:x} mask:{:x} ignored_mask:0 \n",
                metadata.inode,
                metadata.device,
                mask.bits()
            )
        };
        table.by_descriptor.iter().map(line).collect()
    }
}

/// Whether anybody watches anything.
fn watched() -> bool {
    WATCHES.load(Ordering::SeqCst) != 0
}

/// Whether somebody watches the file, or the directory that it was opened in.
pub(super) fn hears_of(file: &File) -> bool {
    let watched_inode =
        |inode: Option<&InodeRef>| inode.is_some_and(|inode| !inode.common().watches.list.lock().is_empty());
    let parent = || file.path().and_then(|path| path.dentry.parent());
    watched() && (watched_inode(file.inode()) || parent().is_some_and(|parent| watched_inode(parent.inode())))
}

/// What an event is about, besides its kind.
#[derive(Clone, Copy, Default)]
struct Details<'a> {
    name: &'a [u8],
    cookie: u32,
    /// Whether the name that the file is used by was removed.
    unlinked: bool,
}

fn send(inode: &InodeRef, mask: Mask, details: Details<'_>) {
    let interested: Vec<Arc<Watch>> = {
        let list = inode.common().watches.list.lock();
        list.iter().filter(|watch| watch.mask().intersects(mask & Mask::EVENTS)).cloned().collect()
    };
    for watch in interested {
        let wanted = watch.mask();
        if details.unlinked && wanted.contains(Mask::EXCLUDE_UNLINKED) {
            continue;
        }
        let Some(instance) = watch.instance.upgrade() else { continue };
        let Details { name, cookie, .. } = details;
        instance.push(Event { watch: watch.descriptor, mask, cookie, name: name.into() });
        if wanted.contains(Mask::ONE_SHOT) {
            instance.end_watch(watch.descriptor);
        }
    }
}

fn directory_bit(inode: &InodeRef) -> Mask {
    if inode.file_type() == FileType::Directory { Mask::IS_DIRECTORY } else { Mask::empty() }
}

/// Something happened to an inode itself: only its own watches hear of it.
pub fn notify_inode(inode: &InodeRef, mask: Mask) {
    if watched() {
        send(inode, mask | directory_bit(inode), Details::default());
    }
}

/// Something happened to the file that a name stands for: watches of its directory and of itself hear of it.
pub fn notify(dentry: &Dentry, mask: Mask) {
    if !watched() {
        return;
    }
    let Some(inode) = dentry.inode() else { return };
    let mask = mask | directory_bit(inode);
    let unlinked = dentry.is_deleted();
    if let Some(directory) = dentry.parent().and_then(|parent| parent.inode().cloned()) {
        send(&directory, mask, Details { name: &dentry.name(), unlinked, ..Details::default() });
    }
    send(inode, mask, Details { unlinked, ..Details::default() });
}

/// Something happened to the name `name` in a directory, of a file of type `kind`.
pub fn notify_entry(directory: &InodeRef, name: &[u8], kind: FileType, mask: Mask) {
    if watched() {
        let bit = if kind == FileType::Directory { Mask::IS_DIRECTORY } else { Mask::empty() };
        send(directory, mask | bit, Details { name, ..Details::default() });
    }
}

/// A file was moved from one name to another. `replaced` is the file that had the new name.
pub fn notify_move(
    from: (&InodeRef, &[u8]),
    to: (&InodeRef, &[u8]),
    moved: &InodeRef,
    replaced: Option<&InodeRef>,
) {
    static COOKIE: AtomicU32 = AtomicU32::new(1);
    if !watched() {
        return;
    }
    // It may be in a directory by now that is watched.
    super::direct::revoke_all();
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    let bit = directory_bit(moved);
    send(from.0, Mask::MOVED_FROM | bit, Details { name: from.1, cookie, unlinked: false });
    send(to.0, Mask::MOVED_TO | bit, Details { name: to.1, cookie, unlinked: false });
    if let Some(replaced) = replaced {
        notify_inode(replaced, Mask::ATTRIB);
    }
    send(moved, Mask::MOVE_SELF, Details::default());
}

/// Attributes were changed.
pub fn attribute_mask(attributes: &SetAttributes) -> Mask {
    let mut mask = Mask::empty();
    mask.set(Mask::MODIFY, attributes.size.is_some());
    mask.set(Mask::ATTRIB, attributes.mode.is_some() || attributes.uid.is_some() || attributes.gid.is_some());
    mask |= match (attributes.accessed, attributes.modified) {
        (Some(_), Some(_)) => Mask::ATTRIB,
        (Some(_), None) => Mask::ACCESS,
        (None, Some(_)) => Mask::MODIFY,
        (None, None) => Mask::empty(),
    };
    mask
}

/// A file is gone, with its last name and its last user: its watches end.
pub fn notify_gone(inode: &InodeRef) {
    if !watched() {
        return;
    }
    let watches = inode.common().watches.list.lock().clone();
    if watches.is_empty() {
        return;
    }
    send(inode, Mask::DELETE_SELF, Details::default());
    for watch in watches {
        if let Some(instance) = watch.instance.upgrade() {
            instance.end_watch(watch.descriptor);
        }
    }
}

impl File {
    /// The file was used in some way: whoever watches it or its directory hears of it.
    pub(super) fn notify(&self, mask: Mask) {
        if !watched() || self.flags().contains(OpenFlags::PATH) {
            return;
        }
        match &self.place {
            super::file::Place::Path(place) => notify(&place.dentry, mask),
            super::file::Place::Anonymous { inode: Some(inode), .. } => notify_inode(inode, mask),
            super::file::Place::Anonymous { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileSystem;
    use crate::fs::memfs::{MemFs, MemOptions};

    fn event(watch: i32, mask: Mask, name: &str) -> Event {
        Event { watch, mask, cookie: 0, name: name.as_bytes().into() }
    }

    fn instance(user: u32) -> (Arc<Usage>, Arc<File>) {
        let usage = Arc::new(Usage::default());
        let file = Inotify::open(&usage, user, OpenFlags::empty()).unwrap();
        (usage, file)
    }

    fn of(file: &Arc<File>) -> &Inotify {
        file.ops().downcast_ref::<Inotify>().unwrap()
    }

    #[test]
    fn names_are_padded_to_the_size_of_an_event() {
        assert_eq!(event(1, Mask::CREATE, "").length(), 16);
        assert_eq!(event(1, Mask::CREATE, "x").length(), 32);
        assert_eq!(event(1, Mask::CREATE, "123456789012345").length(), 32);
        assert_eq!(event(1, Mask::CREATE, "1234567890123456").length(), 48);
        let mut bytes = Vec::new();
        event(7, Mask::CREATE, "ab").encode(&mut bytes);
        assert_eq!(bytes[..4], 7i32.to_ne_bytes());
        assert_eq!(bytes[12..16], 16u32.to_ne_bytes());
        assert_eq!(&bytes[16..20], b"ab\0\0");
        assert_eq!(bytes.len(), 32);
    }

    #[test]
    fn a_full_queue_tells_once_that_events_were_lost() {
        let (_usage, file) = instance(0);
        let inotify = of(&file);
        for number in 0..MAX_QUEUED + 10 {
            inotify.0.push(event(1, Mask::CREATE, &number.to_string()));
        }
        let queue = inotify.0.queue.lock();
        assert_eq!(queue.events.len(), MAX_QUEUED + 1);
        assert_eq!(queue.events.back().map(|event| event.mask), Some(Mask::OVERFLOW));
    }

    #[test]
    fn equal_events_in_a_row_are_one() {
        let (_usage, file) = instance(0);
        let inotify = of(&file);
        for mask in [Mask::MODIFY, Mask::MODIFY, Mask::ACCESS, Mask::MODIFY] {
            inotify.0.push(event(1, mask, "x"));
        }
        assert_eq!(inotify.0.queue.lock().events.len(), 3);
    }

    #[test]
    fn users_have_limits_and_get_back_what_they_close() {
        let usage = Arc::new(Usage::default());
        let open = || Inotify::open(&usage, 5, OpenFlags::empty());
        let files: Vec<_> = (0..MAX_INSTANCES).map(|_| open().unwrap()).collect();
        assert_eq!(open().err(), Some(Errno::EMFILE));
        assert!(Inotify::open(&usage, 6, OpenFlags::empty()).is_ok());
        drop(files);
        assert!(open().is_ok());
        assert!(usage.users.lock().is_empty());
    }

    #[test]
    fn a_closed_instance_leaves_no_watch_behind() {
        let (_usage, file) = instance(0);
        let root = MemFs::tmpfs(MemOptions::default()).root();
        assert_eq!(of(&file).watch(&root, Mask::CREATE), Ok(1));
        assert_eq!(of(&file).watch(&root, Mask::DELETE), Ok(1));
        assert_eq!(of(&file).watch(&root, Mask::DELETE | Mask::MASK_CREATE), Err(Errno::EEXIST));
        assert_eq!(root.common().watches.list.lock().len(), 1);
        drop(file);
        assert!(root.common().watches.list.lock().is_empty());
    }
}
