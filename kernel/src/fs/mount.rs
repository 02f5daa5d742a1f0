//! Mounts: file systems put together in one tree.
//!
//! A [`Mount`] shows a directory of a file system (or a file of it) at a place in another mount; it knows what lies on
//! it. A [`MountNamespace`] is a tree of them, from its root down, with the order in which they were made. A mount
//! belongs to one tree at most; one that belongs to none is *detached* and goes with the last file in it.
//!
//! Lock order: a namespace's order, then a mount's children, then a mount's place. Trees change under the order's lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, SysResult};
use bitflags::bitflags;
use parking_lot::{Mutex, RwLock};

use super::dentry::Dentry;
use super::hash::Keyed;
use super::path::PathRef;
use super::{FileSystem, FileType};
use crate::namespace::{NamespaceId, UserNamespace};

/// The most mounts of a tree (`fs.mount-max`).
const MAX_MOUNTS: usize = 100_000;

bitflags! {
    /// Flags of a mount, with the values of `MS_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// `MS_RDONLY`
        const READ_ONLY = 1;
        /// `MS_NOSUID`
        const NO_SUID = 2;
        /// `MS_NODEV`
        const NO_DEV = 4;
        /// `MS_NOEXEC`
        const NO_EXEC = 8;
        /// `MS_NOSYMFOLLOW`
        const NO_SYMLINKS = 256;
        /// `MS_NOATIME`
        const NO_ATIME = 1024;
        /// `MS_NODIRATIME`
        const NO_DIR_ATIME = 2048;
        /// `MS_RELATIME`
        const RELATIME = 1 << 21;
    }
}

impl MountFlags {
    /// Flags that say when access times change.
    pub const ACCESS_TIMES: MountFlags =
        MountFlags::NO_ATIME.union(MountFlags::NO_DIR_ATIME).union(MountFlags::RELATIME);
}

/// Mounts with their copies.
type Pairs = Vec<(Arc<Mount>, Arc<Mount>)>;

/// A file system at a place in the tree.
pub struct Mount {
    /// A number that no other mount of this kernel has.
    pub id: u64,
    /// The file system.
    pub file_system: Arc<dyn FileSystem>,
    /// The directory of it that is mounted.
    pub root: Arc<Dentry>,
    /// What it was mounted from, as `/proc/mounts` shows it.
    pub source: String,
    flags: AtomicU32,
    /// Flags that may not be taken away, and whether it may not be unmounted by itself: it came along from a more
    /// privileged user namespace.
    locked_flags: AtomicU32,
    locked: AtomicBool,
    place: RwLock<Option<PathRef>>,
    children: RwLock<HashMap<usize, Arc<Mount>, Keyed>>,
}

impl Mount {
    fn new(
        file_system: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &str,
        flags: MountFlags,
    ) -> Arc<Mount> {
        static NEXT: AtomicU64 = AtomicU64::new(20);
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            file_system,
            root,
            source: source.to_owned(),
            flags: AtomicU32::new(flags.bits()),
            locked_flags: AtomicU32::new(0),
            locked: AtomicBool::new(false),
            place: RwLock::new(None),
            children: RwLock::default(),
        })
    }

    /// A mount of a whole file system that is in no tree yet.
    pub fn detached(file_system: Arc<dyn FileSystem>, source: &str, flags: MountFlags) -> Arc<Mount> {
        let root = Dentry::root(file_system.root());
        Mount::new(file_system, root, source, flags)
    }

    /// The flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Changes the flags (`MS_REMOUNT`): `EPERM` if one would go that is locked.
    pub fn set_flags(&self, flags: MountFlags) -> SysResult<()> {
        let locked = MountFlags::from_bits_retain(self.locked_flags.load(Ordering::Relaxed));
        if !flags.contains(locked - MountFlags::ACCESS_TIMES) {
            return Err(Errno::EPERM);
        }
        self.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Where it is mounted; `None` for the root of a tree and outside of trees.
    pub fn parent(&self) -> Option<PathRef> {
        self.place.read().clone()
    }

    /// Its root as a place.
    pub fn root_place(self: &Arc<Self>) -> PathRef {
        PathRef { mount: Arc::clone(self), dentry: Arc::clone(&self.root) }
    }

    /// Whether it may not be unmounted by itself.
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    #[inline]
    fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        if !dentry.has_mounts() {
            return None;
        }
        self.children.read().get(&(Arc::as_ptr(dentry) as usize)).cloned()
    }

    /// What is to be seen at a place in it where something is mounted: the last of those that are on top of each other.
    #[inline]
    pub(super) fn top_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        let mut top = self.child_at(dentry)?;
        while let Some(mount) = top.child_at(&top.root) {
            top = mount;
        }
        Some(top)
    }

    /// Puts `child` on a place in this mount.
    fn adopt(self: &Arc<Self>, child: &Arc<Mount>, dentry: &Arc<Dentry>) {
        dentry.add_mount();
        self.children.write().insert(Arc::as_ptr(dentry) as usize, Arc::clone(child));
        *child.place.write() = Some(PathRef { mount: Arc::clone(self), dentry: Arc::clone(dentry) });
    }

    /// Takes it from its place.
    fn leave(&self) {
        let Some(place) = self.place.write().take() else { return };
        place.mount.children.write().remove(&(Arc::as_ptr(&place.dentry) as usize));
        place.dentry.remove_mount();
    }

    /// This mount and all below it, from the top down.
    pub(super) fn tree(self: &Arc<Self>) -> Vec<Arc<Mount>> {
        let mut all = vec![Arc::clone(self)];
        let mut next = 0;
        while next < all.len() {
            let mut below: Vec<_> = all[next].children.read().values().cloned().collect();
            below.sort_by_key(|mount| mount.id);
            all.extend(below);
            next += 1;
        }
        all
    }

    /// Takes a tree apart that is in no namespace, so that its mounts do not keep each other.
    pub(crate) fn dissolve(self: &Arc<Self>) {
        self.tree().iter().for_each(|mount| mount.leave());
    }

    /// A copy of the mount with `root` as its root, and with `deep` of the mounts below `root`. Returns it with pairs
    /// of old and new mounts.
    fn copy(self: &Arc<Self>, root: &Arc<Dentry>, deep: bool) -> (Arc<Mount>, Pairs) {
        let fresh = |old: &Arc<Mount>, root: &Arc<Dentry>| {
            let new = Mount::new(Arc::clone(&old.file_system), Arc::clone(root), &old.source, old.flags());
            new.locked_flags.store(old.locked_flags.load(Ordering::Relaxed), Ordering::Relaxed);
            new.locked.store(old.is_locked(), Ordering::Relaxed);
            new
        };
        let copy = fresh(self, root);
        let mut pairs = vec![(Arc::clone(self), Arc::clone(&copy))];
        let mut next = 0;
        while deep && next < pairs.len() {
            let (old, new) = pairs[next].clone();
            let mut below: Vec<_> = old.children.read().values().cloned().collect();
            below.sort_by_key(|mount| mount.id);
            for child in below {
                let Some(place) = child.parent() else { continue };
                if next == 0 && !root.contains(&place.dentry) {
                    continue;
                }
                let twin = fresh(&child, &child.root);
                new.adopt(&twin, &place.dentry);
                pairs.push((child, twin));
            }
            next += 1;
        }
        (copy, pairs)
    }
}

/// A tree of mounts.
pub struct MountNamespace {
    /// Its number, `/proc/PID/ns/mnt`.
    pub id: NamespaceId,
    /// Who has a say in it.
    pub owner: Arc<UserNamespace>,
    root: RwLock<Arc<Mount>>,
    order: Mutex<Vec<Arc<Mount>>>,
    /// Woken when the tree changes, for who polls `/proc/self/mountinfo`.
    changes: AtomicU64,
}

/// How much of a tree goes with a bind mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The mount alone.
    Single,
    /// What is mounted below it, too (`MS_REC`).
    Recursive,
}

impl MountNamespace {
    /// A tree whose root is `root`.
    pub fn new(root: Arc<dyn FileSystem>, source: &str, flags: MountFlags) -> Arc<MountNamespace> {
        MountNamespace::of(Mount::detached(root, source, flags), &UserNamespace::root())
    }

    fn of(root: Arc<Mount>, owner: &Arc<UserNamespace>) -> Arc<MountNamespace> {
        let order = root.tree();
        Arc::new(MountNamespace {
            id: NamespaceId::allocate(),
            owner: Arc::clone(owner),
            root: RwLock::new(root),
            order: Mutex::new(order),
            changes: AtomicU64::new(0),
        })
    }

    /// The root directory of the tree.
    pub fn root(&self) -> PathRef {
        let root = Arc::clone(&self.root.read());
        self.top(root.root_place())
    }

    /// What is to be seen at `place`: the root of what is mounted there, on top of each other.
    pub fn top(&self, place: PathRef) -> PathRef {
        place.mount.top_at(&place.dentry).map_or(place, |mount| mount.root_place())
    }

    /// A copy of the tree (`CLONE_NEWNS`) with a function that finds the place in it that corresponds to one in this
    /// tree. If it goes to another user namespace, flags and mounts are locked.
    pub fn copy(
        &self,
        owner: &Arc<UserNamespace>,
    ) -> (Arc<MountNamespace>, impl Fn(&PathRef) -> PathRef + use<>) {
        let order = self.order.lock();
        let root = Arc::clone(&self.root.read());
        let (copy, pairs) = root.copy(&root.root, true);
        if *self.owner != **owner {
            for (_, mount) in &pairs {
                let flags = mount.flags();
                mount.locked_flags.fetch_or(flags.bits(), Ordering::Relaxed);
                mount.locked.store(true, Ordering::Relaxed);
            }
        }
        let namespace = MountNamespace::of(copy, owner);
        // The order stays that of the original.
        let position = |mount: &Arc<Mount>| {
            order.iter().position(|known| Arc::ptr_eq(known, mount)).unwrap_or(usize::MAX)
        };
        let mut sorted = pairs.clone();
        sorted.sort_by_key(|(old, _)| position(old));
        *namespace.order.lock() = sorted.into_iter().map(|(_, new)| new).collect();
        let find = move |place: &PathRef| {
            let twin = pairs.iter().find(|(old, _)| Arc::ptr_eq(old, &place.mount));
            let mount = twin.map_or(&place.mount, |(_, new)| new);
            PathRef { mount: Arc::clone(mount), dentry: Arc::clone(&place.dentry) }
        };
        (namespace, find)
    }

    /// Whether a mount is in this tree.
    pub fn contains(&self, mount: &Arc<Mount>) -> bool {
        self.order.lock().iter().any(|known| Arc::ptr_eq(known, mount))
    }

    /// Mounts a file system at `place`. `ENOTDIR` unless both are directories or neither is.
    pub fn mount(
        &self,
        place: PathRef,
        file_system: Arc<dyn FileSystem>,
        source: &str,
        flags: MountFlags,
    ) -> SysResult<Arc<Mount>> {
        let mount = Mount::detached(file_system, source, flags);
        self.attach(place, &mount)?;
        Ok(mount)
    }

    /// A detached copy of what is at `place` (`MS_BIND`, `OPEN_TREE_CLONE`).
    pub fn clone_at(&self, place: &PathRef, depth: Depth) -> Arc<Mount> {
        let _order = self.order.lock();
        let (copy, _) = place.mount.copy(&place.dentry, depth == Depth::Recursive);
        copy.locked.store(false, Ordering::Relaxed);
        copy
    }

    /// Puts a detached tree of mounts at `place`, on top of what is there: `ENOENT` if the place has gone, `ENOTDIR`
    /// unless both are directories or neither is, `EINVAL` if the place is not in this tree, `ENOSPC` if there are too
    /// many mounts.
    pub fn attach(&self, place: PathRef, mount: &Arc<Mount>) -> SysResult<()> {
        let directory =
            |dentry: &Dentry| dentry.inode().map(|inode| inode.file_type() == FileType::Directory);
        if place.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        if directory(&mount.root).ok_or(Errno::ENOENT)? != directory(&place.dentry).ok_or(Errno::ENOENT)? {
            return Err(Errno::ENOTDIR);
        }
        let place = self.top(place);
        let mut order = self.order.lock();
        if !order.iter().any(|known| Arc::ptr_eq(known, &place.mount)) {
            return Err(Errno::EINVAL);
        }
        let tree = mount.tree();
        if order.len() + tree.len() > MAX_MOUNTS {
            return Err(Errno::ENOSPC);
        }
        place.mount.adopt(mount, &place.dentry);
        order.extend(tree);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Moves a mount with all below it to another place of the tree (`MS_MOVE`): `EINVAL` if it is none's root, the root
    /// of the tree, locked, or not in this tree; `ELOOP` if the place lies in it.
    pub fn relocate(&self, from: &PathRef, to: PathRef) -> SysResult<()> {
        let mount = &from.mount;
        if !Arc::ptr_eq(&mount.root, &from.dentry) || mount.is_locked() || !self.contains(mount) {
            return Err(Errno::EINVAL);
        }
        if mount.parent().is_none() {
            return Err(Errno::EINVAL);
        }
        let to = self.top(to);
        if mount.tree().iter().any(|below| Arc::ptr_eq(below, &to.mount)) {
            return Err(Errno::ELOOP);
        }
        let is_directory =
            |dentry: &Dentry| dentry.inode().map(|inode| inode.file_type() == FileType::Directory);
        if is_directory(&mount.root) != is_directory(&to.dentry) {
            return Err(Errno::ENOTDIR);
        }
        let _order = self.order.lock();
        mount.leave();
        to.mount.adopt(mount, &to.dentry);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a mount away; with `lazy` together with all below it and whoever uses it. `EINVAL` if `place` is no mount's
    /// root, the mount is locked or not of this tree; `EBUSY` if it is in use.
    pub fn unmount(&self, place: &PathRef, lazy: bool) -> SysResult<()> {
        let mount = &place.mount;
        if !Arc::ptr_eq(&mount.root, &place.dentry) || !self.contains(mount) || mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if mount.parent().is_none() {
            // The root of the tree.
            return Err(if lazy { Errno::EINVAL } else { Errno::EBUSY });
        }
        let mut order = self.order.lock();
        let tree = mount.tree();
        // Its own entry in the order and in its place, the caller's, and the one just collected.
        const OWN_USERS: usize = 4;
        if !lazy && (tree.len() > 1 || Arc::strong_count(mount) > OWN_USERS) {
            return Err(Errno::EBUSY);
        }
        order.retain(|other| !tree.iter().any(|gone| Arc::ptr_eq(gone, other)));
        tree.iter().for_each(|gone| gone.leave());
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the mount whose root `new_root` is the root of the tree, and puts the old root at `put_old` below it,
    /// `pivot_root(2)`. `current` is the root directory of the caller.
    pub fn pivot(&self, current: &PathRef, new_root: &PathRef, put_old: &PathRef) -> SysResult<()> {
        let (old, new) = (&current.mount, &new_root.mount);
        if !self.contains(old) || !self.contains(new) || !self.contains(&put_old.mount) || new.is_locked() {
            return Err(Errno::EINVAL);
        }
        if new_root.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        if Arc::ptr_eq(old, new) || Arc::ptr_eq(old, &put_old.mount) {
            return Err(Errno::EBUSY);
        }
        if !Arc::ptr_eq(&old.root, &current.dentry) || !Arc::ptr_eq(&new.root, &new_root.dentry) {
            return Err(Errno::EINVAL);
        }
        if new.parent().is_none() || !new.tree().iter().any(|below| Arc::ptr_eq(below, &put_old.mount)) {
            return Err(Errno::EINVAL);
        }
        if Arc::ptr_eq(new, &put_old.mount) && !new_root.dentry.contains(&put_old.dentry) {
            return Err(Errno::EINVAL);
        }
        let _order = self.order.lock();
        let above = old.parent();
        new.leave();
        old.leave();
        put_old.mount.adopt(old, &put_old.dentry);
        match above {
            Some(place) => place.mount.adopt(new, &place.dentry),
            None => *self.root.write() = Arc::clone(new),
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// All mounts in the order in which they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.order.lock().clone()
    }

    /// Whether something is mounted on this dentry, which can then not be removed.
    pub fn is_mount_point(&self, place: &PathRef) -> bool {
        place.mount.child_at(&place.dentry).is_some()
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let root = Arc::clone(&self.root.read());
        let all = root.tree();
        root.dissolve();
        // Names hold each other, up and down: what nobody mounts any more must be forgotten, or files of the host would
        // stay open for ever.
        for mount in &all {
            if Arc::strong_count(&mount.file_system) == 1 {
                mount.root.top().forget_all();
            }
        }
        super::dentry::let_go();
    }
}

/// A detached tree of mounts that a descriptor holds (`fsmount(2)`, `open_tree(2)`); taken apart with it, unless it has
/// been put into a namespace.
pub struct DetachedTree(pub Arc<Mount>);

impl Drop for DetachedTree {
    fn drop(&mut self) {
        if self.0.parent().is_none() {
            self.0.dissolve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::fs::memfs::{MemFs, MemOptions};
    use crate::fs::{Acls, NewFile, NewKind};

    #[test]
    fn a_tree_that_is_gone_keeps_no_names() {
        let namespace = tree();
        let top = namespace.root();
        let name = top.dentry.lookup(&*top.mount.file_system, b"a").unwrap();
        let (inner, root) = (Arc::downgrade(&name), Arc::downgrade(&top.dentry));
        drop((name, top));
        assert!(inner.upgrade().is_some());
        drop(namespace);
        assert!(inner.upgrade().is_none() && root.upgrade().is_none());
    }

    /// A tree with the directories `/a` and `/a/b` in its root file system.
    fn tree() -> Arc<MountNamespace> {
        let root = MemFs::tmpfs(MemOptions::default());
        let new = NewFile { kind: NewKind::Directory, mode: 0o755, uid: 0, gid: 0, acls: Acls::default() };
        let a = root.root().create(b"a", &new).unwrap();
        a.create(b"b", &new).unwrap();
        MountNamespace::new(root, "none", MountFlags::empty())
    }

    fn step(namespace: &MountNamespace, place: &PathRef, name: &[u8]) -> PathRef {
        let dentry = place.dentry.lookup(&*place.mount.file_system, name).unwrap();
        namespace.top(PathRef { mount: Arc::clone(&place.mount), dentry })
    }

    fn memory() -> Arc<MemFs> {
        MemFs::tmpfs(MemOptions::default())
    }

    #[test]
    fn a_mount_in_use_is_busy_unless_the_unmount_is_lazy() {
        let namespace = tree();
        let place = step(&namespace, &namespace.root(), b"a");
        namespace.mount(place, memory(), "none", MountFlags::empty()).unwrap();
        let user = step(&namespace, &namespace.root(), b"a");
        let asked = user.clone();
        assert_eq!(namespace.unmount(&asked, false), Err(Errno::EBUSY));
        drop(user);
        assert_eq!(namespace.unmount(&asked, false), Ok(()));
        assert_eq!(namespace.unmount(&asked, false), Err(Errno::EINVAL));
        assert_eq!(namespace.mounts().len(), 1);
    }

    #[test]
    fn a_copy_of_a_tree_is_independent_of_it() {
        let namespace = tree();
        let place = step(&namespace, &namespace.root(), b"a");
        namespace.mount(place.clone(), memory(), "none", MountFlags::READ_ONLY).unwrap();
        let inside = step(&namespace, &namespace.root(), b"a");
        let (copy, find) = namespace.copy(&namespace.owner);
        let twin = find(&inside);
        assert!(!Arc::ptr_eq(&twin.mount, &inside.mount) && Arc::ptr_eq(&twin.dentry, &inside.dentry));
        assert!(step(&copy, &copy.root(), b"a").same(&twin));
        copy.unmount(&twin, true).unwrap();
        assert_eq!((copy.mounts().len(), namespace.mounts().len()), (1, 2));
        assert_eq!(inside.mount.flags(), MountFlags::READ_ONLY);
    }

    #[test]
    fn what_comes_from_a_more_privileged_tree_is_locked() {
        let namespace = tree();
        let place = step(&namespace, &namespace.root(), b"a");
        namespace.mount(place, memory(), "none", MountFlags::READ_ONLY).unwrap();
        let user = UserNamespace::enter_new(&crate::task::Credentials::new(0, 0)).unwrap();
        let (copy, _) = namespace.copy(&user.user_namespace);
        let inside = step(&copy, &copy.root(), b"a");
        assert_eq!(copy.unmount(&inside, true), Err(Errno::EINVAL));
        assert_eq!(inside.mount.set_flags(MountFlags::empty()), Err(Errno::EPERM));
        assert_eq!(inside.mount.set_flags(MountFlags::READ_ONLY | MountFlags::NO_EXEC), Ok(()));
    }

    #[test]
    fn pivoting_puts_the_old_root_below_the_new_one() {
        let namespace = tree();
        let old = namespace.root();
        let a = step(&namespace, &old, b"a");
        let bind = namespace.clone_at(&a, Depth::Recursive);
        namespace.attach(a, &bind).unwrap();
        let new = step(&namespace, &old, b"a");
        let put_old = step(&namespace, &new, b"b");
        assert_eq!(namespace.pivot(&old, &old, &put_old), Err(Errno::EBUSY));
        namespace.pivot(&old, &new, &put_old).unwrap();
        assert!(namespace.root().same(&new));
        let moved = step(&namespace, &new, b"b");
        assert!(moved.same(&old));
        assert_eq!(moved.display(&new), (b"/b".to_vec(), true));
        namespace.unmount(&moved, true).unwrap();
        assert_eq!(namespace.mounts().len(), 1);
    }

    #[test]
    fn a_tree_that_is_dropped_frees_its_mounts() {
        let namespace = tree();
        let place = step(&namespace, &namespace.root(), b"a");
        let mount = namespace.mount(place, memory(), "none", MountFlags::empty()).unwrap();
        let weak: Weak<Mount> = Arc::downgrade(&mount);
        drop(mount);
        assert!(weak.upgrade().is_some());
        drop(namespace);
        assert!(weak.upgrade().is_none());
    }
}
