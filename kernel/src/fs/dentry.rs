//! The dentry cache: names that were looked up, and what they stand for.
//!
//! A dentry is a name in a directory of one file system. Looked-up names stay in their directory's table, missing ones
//! too, so that a walk over known names asks no file system. There are so many of them at most, in all file systems
//! together: when there are more, those that were not used for long are forgotten, by the second-chance algorithm. A
//! file that somebody uses keeps its dentry, and the dentries of the directories above it.
//!
//! Where names are asked for anew each time, what is remembered of a file saves little, and a walk over a big tree is quicker
//! when it finds the memory of the last files in the processor's cache: of those there are far fewer.
//!
//! Lock order: a directory's children, then a place or an inode; the queue of all names is held alone.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::{Errno, SysResult};
use parking_lot::{Mutex, RwLock};

use super::hash::Keyed;
use super::{FileSystem, FileType, InodeRef, OpenFileRef};

/// The most names that are remembered though nobody uses them, of files that are asked for anew each time, and others.
const MAX_FLEETING: usize = 512;
const MAX_REMEMBERED: usize = 32 * 1024;
/// How many names are looked at for each new one. More than one, so that there may be less of them again.
const STEPS: usize = 3;

/// The names that are remembered, those that are looked at next first. Some may be gone already.
static FLEETING: Remembered = Remembered { most: MAX_FLEETING, queue: Mutex::new(VecDeque::new()) };
static REMEMBERED: Remembered = Remembered { most: MAX_REMEMBERED, queue: Mutex::new(VecDeque::new()) };

/// Names that are remembered together.
struct Remembered {
    most: usize,
    queue: Mutex<VecDeque<Weak<Dentry>>>,
}

/// A name in a file system.
pub struct Dentry {
    place: RwLock<Place>,
    /// What it stands for, from when that is known: a name that comes to stand for something else gets another dentry.
    inode: OnceLock<InodeRef>,
    children: Mutex<HashMap<Box<[u8]>, Arc<Dentry>, Keyed>>,
    /// Set when the name was looked up again since it was last considered for being forgotten.
    used: AtomicBool,
    /// Set when the name was removed while the file is still in use.
    deleted: AtomicBool,
    /// How many mounts lie on it, in all trees of mounts.
    mounts: AtomicUsize,
    /// Set once something was mounted on a name in it.
    had_mounts_below: AtomicBool,
    /// Set when that was the file's last name, so that the file ends with the dentry.
    last: AtomicBool,
}

#[derive(Clone)]
struct Place {
    name: Box<[u8]>,
    parent: Option<Arc<Dentry>>,
}

/// Lets go of what is left of names that are gone: a file system that ends leaves many.
pub fn let_go() {
    for remembered in [&FLEETING, &REMEMBERED] {
        remembered.queue.lock().retain(|dentry| dentry.strong_count() > 0);
    }
}

impl Remembered {
    /// Puts a name among them, and forgets others if there are too many.
    fn add(&self, dentry: &Arc<Dentry>) {
        let mut looked_at = [const { None }; STEPS];
        let mut queue = self.queue.lock();
        queue.push_back(Arc::downgrade(dentry));
        for place in &mut looked_at {
            if queue.len() > self.most {
                *place = queue.pop_front();
            }
        }
        drop(queue);
        // Whatever ends with a dentry does so outside of the lock.
        for old in looked_at.into_iter().flatten().filter_map(|old| old.upgrade()) {
            if old.used.swap(false, Ordering::Relaxed) || !old.leave() {
                self.queue.lock().push_back(Arc::downgrade(&old));
            }
        }
    }
}

impl Dentry {
    /// The root of a file system.
    pub fn root(inode: InodeRef) -> Arc<Dentry> {
        Dentry::new(Box::default(), None, Some(inode))
    }

    /// A name outside of every directory: an unnamed file of `O_TMPFILE`.
    pub fn detached(name: &[u8], parent: &Arc<Dentry>, inode: InodeRef) -> Arc<Dentry> {
        let dentry = Dentry::new(name.into(), Some(Arc::clone(parent)), Some(inode));
        dentry.deleted.store(true, Ordering::Relaxed);
        dentry
    }

    fn new(name: Box<[u8]>, parent: Option<Arc<Dentry>>, inode: Option<InodeRef>) -> Arc<Dentry> {
        Arc::new(Dentry {
            place: RwLock::new(Place { name, parent }),
            inode: inode.map_or_else(OnceLock::new, OnceLock::from),
            children: Mutex::default(),
            used: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            mounts: AtomicUsize::new(0),
            had_mounts_below: AtomicBool::new(false),
            last: AtomicBool::new(false),
        })
    }

    /// The name; empty for a root.
    pub fn name(&self) -> Box<[u8]> {
        self.place.read().name.clone()
    }

    /// The directory that the name is in; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    /// What the name stands for; `None` if it is missing.
    pub fn inode(&self) -> Option<&InodeRef> {
        self.inode.get()
    }

    /// Whether the name was removed.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    /// The child called `name`, which may be missing (no inode): from the cache, or from the file system.
    pub fn lookup(self: &Arc<Dentry>, fs: &dyn FileSystem, name: &[u8]) -> SysResult<Arc<Dentry>> {
        let mut known = self.children.lock().get(name).cloned();
        if let Some(child) = known.take_if(|_| fs.cacheable()) {
            child.used.store(true, Ordering::Relaxed);
            return Ok(child);
        }
        let inode = self.inode().ok_or(Errno::ENOENT)?;
        let still_is = |child: &Dentry| child.inode().is_some_and(|child| child.still_is(name, inode));
        if let Some(child) = known.filter(|child| still_is(child)) {
            child.used.store(true, Ordering::Relaxed);
            return Ok(child);
        }
        match Arc::clone(inode).lookup(name) {
            Ok(inode) => Ok(self.found(fs, name, Some(inode))),
            Err(Errno::ENOENT) => Ok(self.found(fs, name, None)),
            Err(error) => Err(error),
        }
    }

    /// [`Dentry::lookup`] for who is about to open the file for reading, if it may; with the open file if that came along.
    pub fn lookup_opened(
        self: &Arc<Dentry>,
        fs: &dyn FileSystem,
        name: &[u8],
    ) -> SysResult<(Arc<Dentry>, Option<OpenFileRef>)> {
        let inode = self.inode().ok_or(Errno::ENOENT)?;
        let known = self.children.lock().get(name).cloned();
        let is_regular = |inode: &&InodeRef| inode.file_type() == FileType::Regular;
        let expected = known.as_ref().and_then(|child| child.inode()).filter(is_regular);
        let Some((inode, file)) = Arc::clone(inode).lookup_opened(name, expected)? else {
            return Ok((self.lookup(fs, name)?, None));
        };
        if expected.is_some_and(|expected| Arc::ptr_eq(expected, &inode))
            && let Some(known) = known.filter(|known| !known.is_deleted())
        {
            known.used.store(true, Ordering::Relaxed);
            return Ok((known, Some(file)));
        }
        Ok((self.found(fs, name, Some(inode)), Some(file)))
    }

    /// The child called `name`, of which the file system has just told what it stands for.
    pub fn found(
        self: &Arc<Dentry>,
        fs: &dyn FileSystem,
        name: &[u8],
        found: Option<InodeRef>,
    ) -> Arc<Dentry> {
        let cacheable = fs.cacheable();
        let mut children = self.children.lock();
        if let Some(child) = children.get(name) {
            // Somebody else was faster; or, in a file system that changes by itself, the name is known already.
            let same = match (child.inode(), &found) {
                (Some(old), Some(new)) => cacheable || child.has_mounts() || Arc::ptr_eq(old, new),
                (None, None) => true,
                _ => cacheable,
            };
            if same {
                child.used.store(true, Ordering::Relaxed);
                return Arc::clone(child);
            }
        }
        let file = found.as_ref().is_none_or(|inode| inode.file_type() != FileType::Directory);
        let child = Dentry::new(name.into(), Some(Arc::clone(self)), found);
        // A removed directory remembers nothing: parent and child would keep each other for ever.
        if self.is_deleted() {
            return child;
        }
        let replaced = children.insert(name.into(), Arc::clone(&child));
        drop(children);
        drop(replaced);
        let fleeting = !cacheable && (file || !fs.remembers_directories());
        let remembered = if fleeting { &FLEETING } else { &REMEMBERED };
        remembered.add(&child);
        child
    }

    /// Whether something is mounted on the child called `name`.
    pub fn has_mounts_on(&self, name: &[u8]) -> bool {
        self.had_mounts_below.load(Ordering::SeqCst)
            && self.children.lock().get(name).is_some_and(|child| child.has_mounts())
    }

    /// Leaves its directory's table if nobody but the caller uses it, and no name below it is remembered. False if it
    /// has to stay.
    fn leave(self: &Arc<Dentry>) -> bool {
        let Some(parent) = self.parent() else { return true };
        // The table's reference, and the caller's. Who has none gets one under the lock only.
        const OWN: usize = 2;
        let mut children = parent.children.lock();
        let place = self.place.read();
        let name = &place.name;
        if !children.get(name).is_some_and(|known| Arc::ptr_eq(known, self)) {
            return true;
        }
        if Arc::strong_count(self) > OWN || self.has_mounts() {
            return false;
        }
        children.remove(name);
        true
    }

    /// Whether something is mounted on it in some tree of mounts. Its name then keeps standing for it, even in a file
    /// system whose names are looked up anew each time.
    pub fn has_mounts(&self) -> bool {
        self.mounts.load(Ordering::SeqCst) > 0
    }

    /// Notes that something was mounted on it. In a file system whose names are looked up anew each time another dentry
    /// may have taken its place meanwhile; it comes back.
    pub(super) fn add_mount(self: &Arc<Dentry>) {
        self.mounts.fetch_add(1, Ordering::SeqCst);
        if let Some(parent) = self.parent().filter(|_| !self.is_deleted()) {
            parent.children.lock().insert(self.name(), Arc::clone(self));
            parent.had_mounts_below.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that a mount on it has gone.
    pub(super) fn remove_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::SeqCst);
    }

    /// The path from the root of its file system.
    pub fn path(&self) -> Vec<u8> {
        let mut names = vec![self.name()];
        let mut at = self.parent();
        while let Some(dentry) = at {
            names.push(dentry.name());
            at = dentry.parent();
        }
        // The root's name is empty.
        names.pop();
        let path: Vec<u8> = names.iter().rev().flat_map(|name| [b"/", &name[..]].concat()).collect();
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// Makes the name, which was missing, stand for a new file. Returns the dentry that does so from now on: another one if
    /// somebody else had made and removed a file of that name meanwhile, whose dentry this stays.
    pub fn instantiate(self: &Arc<Dentry>, inode: InodeRef) -> Arc<Dentry> {
        let Err(inode) = self.inode.set(inode) else { return Arc::clone(self) };
        let Place { name, parent } = self.place.read().clone();
        let fresh = Dentry::new(name.clone(), parent.clone(), Some(inode));
        let replaced = parent.and_then(|parent| parent.children.lock().insert(name, Arc::clone(&fresh)));
        drop(replaced);
        REMEMBERED.add(&fresh);
        fresh
    }

    /// The name was removed from its directory: whoever still holds the dentry keeps the file; a new, missing one takes
    /// its place. `last` tells whether it was the file's last name.
    pub fn unlinked(&self, last: bool) {
        self.deleted.store(true, Ordering::Relaxed);
        self.last.store(last, Ordering::Relaxed);
        self.children.lock().clear();
        if let Some(parent) = self.parent() {
            parent.forget(&self.name());
        }
    }

    /// Forgets what is known of `name`.
    pub fn forget(&self, name: &[u8]) {
        self.children.lock().remove(name);
    }

    /// The names that are remembered.
    #[cfg(test)]
    pub fn children_for_tests(&self) -> HashMap<Box<[u8]>, Arc<Dentry>, Keyed> {
        self.children.lock().clone()
    }

    /// The root of the file system that it is in.
    pub fn top(self: &Arc<Dentry>) -> Arc<Dentry> {
        let mut at = Arc::clone(self);
        while let Some(parent) = at.parent() {
            at = parent;
        }
        at
    }

    /// Forgets all names below. Whoever holds one keeps it.
    pub fn forget_all(self: &Arc<Dentry>) {
        let mut left = vec![Arc::clone(self)];
        while let Some(dentry) = left.pop() {
            let children = std::mem::take(&mut *dentry.children.lock());
            left.extend(children.into_values());
        }
    }

    /// The name was moved: it is `name` in `parent` now.
    pub fn moved(self: &Arc<Dentry>, parent: &Arc<Dentry>, name: &[u8]) {
        if let Some(old) = self.parent() {
            old.forget(&self.name());
        }
        *self.place.write() = Place { name: name.into(), parent: Some(Arc::clone(parent)) };
        let replaced = parent.children.lock().insert(name.into(), Arc::clone(self));
        parent.had_mounts_below.fetch_or(self.has_mounts(), Ordering::SeqCst);
        drop(replaced);
    }

    /// Both names were exchanged: each dentry takes the other's place.
    pub fn exchanged(self: &Arc<Dentry>, other: &Arc<Dentry>) {
        let (place, other_place) = (self.place.read().clone(), other.place.read().clone());
        for (dentry, place) in [(self, other_place), (other, place)] {
            if let Some(parent) = &place.parent {
                parent.children.lock().insert(place.name.clone(), Arc::clone(dentry));
                parent.had_mounts_below.fetch_or(dentry.has_mounts(), Ordering::SeqCst);
            }
            *dentry.place.write() = place;
        }
    }

    /// Whether `other` is this dentry or lies below it.
    pub fn contains(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(Arc::clone(other));
        while let Some(dentry) = at {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        if *self.last.get_mut()
            && let Some(inode) = self.inode.get_mut()
        {
            super::inotify::notify_gone(inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SyscallResult;
    use crate::fs::{FileType, FsStatistics, Inode, InodeCommon, Metadata, OpenFile};
    use crate::task::CurrentTask;

    /// A directory in which there is everything; what is called a file is one.
    struct Everything(InodeCommon, FileType);

    impl Default for Everything {
        fn default() -> Everything {
            Everything(InodeCommon::default(), FileType::Directory)
        }
    }

    impl Inode for Everything {
        fn common(&self) -> &InodeCommon {
            &self.0
        }

        fn file_type(&self) -> FileType {
            self.1
        }

        fn metadata(&self) -> SysResult<Metadata> {
            Ok(Metadata::default())
        }

        fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
            let kind = if name.starts_with(b"file") { FileType::Regular } else { FileType::Directory };
            Ok(Arc::new(Everything(InodeCommon::default(), kind)))
        }

        fn open(
            self: Arc<Self>,
            _task: Option<&CurrentTask>,
            _flags: abi::fs::OpenFlags,
        ) -> SyscallResult<Arc<dyn OpenFile>> {
            Err(Errno::ENXIO.into())
        }
    }

    struct Endless;

    impl FileSystem for Endless {
        fn name(&self) -> &'static str {
            "endless"
        }

        fn root(&self) -> InodeRef {
            Arc::new(Everything::default())
        }

        fn statistics(&self) -> SysResult<FsStatistics> {
            Ok(FsStatistics::default())
        }

        fn device(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_scan_of_a_million_names_is_forgotten_again() {
        let root = Dentry::root(Endless.root());
        let held = root.lookup(&Endless, b"held").unwrap();
        let below = held.lookup(&Endless, b"below").unwrap();
        for directory in 0..1000 {
            let place = root.lookup(&Endless, format!("directory {directory}").as_bytes()).unwrap();
            for name in 0..1000 {
                place.lookup(&Endless, format!("name {name}").as_bytes()).unwrap();
            }
            // Used all the time.
            root.lookup(&Endless, b"directory 0").unwrap();
        }
        let children = root.children.lock();
        let names: usize = children.values().map(|child| child.children.lock().len()).sum();
        assert!(names + children.len() <= MAX_REMEMBERED + STEPS, "{names} names");
        assert!(children.contains_key(&b"directory 0"[..]));
        assert!(Arc::ptr_eq(&children[&b"held"[..]], &held));
        drop(children);
        assert!(Arc::ptr_eq(&held.lookup(&Endless, b"below").unwrap(), &below));
        root.forget_all();
    }

    #[test]
    fn a_file_that_was_removed_keeps_its_dentry_when_its_name_gets_another() {
        let root = Dentry::root(Endless.root());
        let missing = Dentry::new(b"name"[..].into(), Some(Arc::clone(&root)), None);
        root.children.lock().insert(b"name"[..].into(), Arc::clone(&missing));
        let [first, second] = [(); 2].map(|()| Arc::new(Everything::default()) as InodeRef);
        // Two make it at once; between them, it is removed.
        let made = missing.instantiate(Arc::clone(&first));
        made.unlinked(true);
        let again = missing.instantiate(Arc::clone(&second));
        assert!(Arc::ptr_eq(made.inode().unwrap(), &first) && made.is_deleted());
        assert!(Arc::ptr_eq(again.inode().unwrap(), &second) && !again.is_deleted());
        assert!(Arc::ptr_eq(&root.children.lock()[&b"name"[..]], &again));
        root.forget_all();
    }

    /// The same, and all of it changes by itself.
    struct Changing;

    impl FileSystem for Changing {
        fn name(&self) -> &'static str {
            "changing"
        }

        fn root(&self) -> InodeRef {
            Arc::new(Everything::default())
        }

        fn statistics(&self) -> SysResult<FsStatistics> {
            Ok(FsStatistics::default())
        }

        fn device(&self) -> u64 {
            0
        }

        fn cacheable(&self) -> bool {
            false
        }
    }

    #[test]
    fn of_files_that_others_change_few_are_remembered() {
        let root = Dentry::root(Changing.root());
        let held = root.lookup(&Changing, b"file held").unwrap();
        for number in 0..10_000 {
            root.lookup(&Changing, format!("file {number}").as_bytes()).unwrap();
            root.lookup(&Changing, format!("directory {}", number % 1000).as_bytes()).unwrap();
        }
        let children = root.children.lock();
        let files = children.keys().filter(|name| name.starts_with(b"file")).count();
        assert!(files <= MAX_FLEETING + STEPS, "{files} files");
        assert_eq!(children.len() - files, 1000);
        assert!(Arc::ptr_eq(&children[&b"file held"[..]], &held));
    }
}
