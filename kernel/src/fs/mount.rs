//! Mounts: file systems put together in one tree.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::{Errno, SysResult};
use bitflags::bitflags;
use parking_lot::Mutex;

use super::dentry::Dentry;
use super::path::PathRef;
use super::{FileSystem, FileType};

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
        /// `MS_NOATIME`
        const NO_ATIME = 1024;
        /// `MS_RELATIME`
        const RELATIME = 1 << 21;
    }
}

/// A file system at a place in the tree.
pub struct Mount {
    /// A number that no other mount of this kernel has.
    pub id: u64,
    /// The file system.
    pub file_system: Arc<dyn FileSystem>,
    /// The directory of it that is mounted.
    pub root: Arc<Dentry>,
    /// Where it is mounted; `None` for the root of the tree.
    pub parent: Option<PathRef>,
    /// What it was mounted from, as `/proc/mounts` shows it.
    pub source: String,
    flags: AtomicU32,
}

impl Mount {
    /// The flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Changes the flags (`MS_REMOUNT`).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }
}

/// The key of a place that something is mounted on.
type Key = (u64, usize);

fn key(place: &PathRef) -> Key {
    (place.mount.id, Arc::as_ptr(&place.dentry) as usize)
}

/// A tree of mounts.
pub struct MountNamespace {
    root: Arc<Mount>,
    mounts: Mutex<HashMap<Key, Arc<Mount>>>,
    order: Mutex<Vec<Arc<Mount>>>,
}

impl MountNamespace {
    /// A tree whose root is `root`.
    pub fn new(root: Arc<dyn FileSystem>, source: &str, flags: MountFlags) -> Arc<MountNamespace> {
        let dentry = Dentry::root(root.root());
        let mount = new_mount(root, dentry, None, source, flags);
        Arc::new(MountNamespace {
            root: Arc::clone(&mount),
            mounts: Mutex::default(),
            order: Mutex::new(vec![mount]),
        })
    }

    /// The root directory of the tree.
    pub fn root(&self) -> PathRef {
        self.top(PathRef { mount: Arc::clone(&self.root), dentry: Arc::clone(&self.root.root) })
    }

    /// What is to be seen at `place`: the root of what is mounted there, on top of each other.
    pub fn top(&self, mut place: PathRef) -> PathRef {
        let mounts = self.mounts.lock();
        while let Some(mount) = mounts.get(&key(&place)) {
            place = PathRef { mount: Arc::clone(mount), dentry: Arc::clone(&mount.root) };
        }
        place
    }

    /// Mounts a file system at `place`. `ENOTDIR` unless both are directories or neither is.
    pub fn mount(
        &self,
        place: PathRef,
        file_system: Arc<dyn FileSystem>,
        source: &str,
        flags: MountFlags,
    ) -> SysResult<Arc<Mount>> {
        let root = Dentry::root(file_system.root());
        self.attach(place, file_system, root, source, flags)
    }

    /// Mounts a part of the tree at a further place (`MS_BIND`).
    pub fn bind(&self, from: &PathRef, place: PathRef, flags: MountFlags) -> SysResult<Arc<Mount>> {
        let file_system = Arc::clone(&from.mount.file_system);
        self.attach(place, file_system, Arc::clone(&from.dentry), &from.mount.source, flags)
    }

    fn attach(
        &self,
        place: PathRef,
        file_system: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &str,
        flags: MountFlags,
    ) -> SysResult<Arc<Mount>> {
        let directory =
            |dentry: &Dentry| dentry.inode().map(|inode| inode.file_type() == FileType::Directory);
        if directory(&root).ok_or(Errno::ENOENT)? != directory(&place.dentry).ok_or(Errno::ENOENT)? {
            return Err(Errno::ENOTDIR);
        }
        let place = self.top(place);
        let mount = new_mount(file_system, root, Some(place.clone()), source, flags);
        self.mounts.lock().insert(key(&place), Arc::clone(&mount));
        self.order.lock().push(Arc::clone(&mount));
        Ok(mount)
    }

    /// Takes a mount away: `EINVAL` if `place` is no mount's root, `EBUSY` if something is mounted below.
    pub fn unmount(&self, place: &PathRef) -> SysResult<()> {
        let mount = Arc::clone(&place.mount);
        let Some(parent) = mount.parent.as_ref().filter(|_| Arc::ptr_eq(&mount.root, &place.dentry)) else {
            return Err(Errno::EINVAL);
        };
        let mut order = self.order.lock();
        let below = |other: &Arc<Mount>| other.parent.as_ref().is_some_and(|p| p.mount.id == mount.id);
        if order.iter().any(below) {
            return Err(Errno::EBUSY);
        }
        self.mounts.lock().remove(&key(parent));
        order.retain(|other| other.id != mount.id);
        Ok(())
    }

    /// All mounts in the order in which they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.order.lock().clone()
    }

    /// Whether something is mounted on this dentry, which can then not be removed.
    pub fn is_mount_point(&self, place: &PathRef) -> bool {
        self.mounts.lock().contains_key(&key(place))
    }
}

fn new_mount(
    file_system: Arc<dyn FileSystem>,
    root: Arc<Dentry>,
    parent: Option<PathRef>,
    source: &str,
    flags: MountFlags,
) -> Arc<Mount> {
    static NEXT: AtomicU64 = AtomicU64::new(20);
    Arc::new(Mount {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        file_system,
        root,
        parent,
        source: source.to_owned(),
        flags: AtomicU32::new(flags.bits()),
    })
}
