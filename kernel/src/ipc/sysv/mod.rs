//! System V IPC, `sysvipc(7)`: shared memory, semaphores and message queues, found by numbers.
//!
//! All three kinds of object live in a [`Registry`] each, which gives them identifiers and finds them by key; they are
//! owned and guarded alike ([`Permissions`]). The registries of a kernel are its [`SystemV`].
//!
//! Lock order: a registry, then an object's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Setting;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;

pub mod msg;
pub mod sem;
pub mod shm;

/// The key that stands for a new object of one's own.
const PRIVATE: i32 = 0;
const CREAT: u32 = 0o1000;
const EXCL: u32 = 0o2000;
/// `IPC_NOWAIT`
const NOWAIT: u32 = 0o4000;
const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
/// How many bits of an identifier are the place in the registry.
const INDEX_BITS: u32 = 15;

/// The System V IPC objects of a kernel.
#[derive(Default)]
pub struct SystemV {
    /// Shared memory.
    pub shm: shm::SharedMemory,
    /// Semaphores.
    pub sem: sem::Semaphores,
    /// Message queues.
    pub msg: msg::MessageQueues,
}

/// Who an object belongs to, and what others may do to it.
#[derive(Clone, Copy, Debug)]
pub struct Permissions {
    /// The key that it is found by.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Who made it.
    pub creator_uid: u32,
    /// The group of who made it.
    pub creator_gid: u32,
    /// Permission bits, and flags of the kind of object.
    pub mode: u32,
}

/// `struct ipc64_perm`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawPermissions {
    key: i32,
    uid: u32,
    gid: u32,
    creator_uid: u32,
    creator_gid: u32,
    mode: u32,
    sequence: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

impl Permissions {
    fn new(task: &CurrentTask, key: i32, flags: u32) -> Permissions {
        let credentials = task.credentials();
        let (uid, gid) = (credentials.effective_uid, credentials.effective_gid);
        Permissions { key, uid, gid, creator_uid: uid, creator_gid: gid, mode: flags & 0o777 }
    }

    /// `EACCES` unless the task may use the object as `wanted` (three groups of bits) says.
    fn check(&self, task: &CurrentTask, wanted: u32) -> SysResult<()> {
        let credentials = task.credentials();
        let requested = (wanted >> 6 | wanted >> 3 | wanted) & 7;
        let owner = [self.uid, self.creator_uid].contains(&credentials.effective_uid);
        let in_group = |gid: u32| credentials.effective_gid == gid || credentials.groups.contains(&gid);
        let granted = match owner {
            true => self.mode >> 6,
            false if in_group(self.gid) || in_group(self.creator_gid) => self.mode >> 3,
            false => self.mode,
        };
        let allowed = requested & !granted == 0 || credentials.has(Capability::IPC_OWNER);
        if allowed { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// `EPERM` unless the task may change or remove the object.
    fn check_owner(&self, task: &CurrentTask) -> SysResult<()> {
        let credentials = task.credentials();
        let owner = [self.uid, self.creator_uid].contains(&credentials.effective_uid);
        if owner || credentials.has(Capability::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`.
    fn set(&mut self, raw: &RawPermissions) {
        (self.uid, self.gid) = (raw.uid, raw.gid);
        self.mode = self.mode & !0o777 | raw.mode & 0o777;
    }

    fn raw(&self, id: i32) -> RawPermissions {
        RawPermissions {
            key: self.key,
            uid: self.uid,
            gid: self.gid,
            creator_uid: self.creator_uid,
            creator_gid: self.creator_gid,
            mode: self.mode,
            sequence: (id >> INDEX_BITS) as u16,
            ..RawPermissions::default()
        }
    }
}

/// An object of a registry.
pub trait Object: Send + Sync {
    /// Whether such an object can go while it is in its registry.
    const TRANSIENT: bool = false;

    /// Whom it belongs to.
    fn permissions(&self) -> Permissions;

    /// Whether nothing is left of an object that was removed while it was in use.
    fn is_gone(&self) -> bool {
        false
    }
}

/// Objects by identifier and by key.
pub struct Registry<T> {
    slots: BTreeMap<usize, (i32, Arc<T>)>,
    keys: BTreeMap<i32, usize>,
    /// No free place lies below.
    first_free: usize,
    sequence: i32,
    last_index: Option<usize>,
}

impl<T> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry {
            slots: BTreeMap::new(),
            keys: BTreeMap::new(),
            first_free: 0,
            sequence: 0,
            last_index: None,
        }
    }
}

/// The place in the registry that an identifier has.
fn index_of(id: i32) -> SysResult<usize> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    usize::try_from(id & ((1 << INDEX_BITS) - 1)).map_err(|_| Errno::EINVAL)
}

impl<T: Object> Registry<T> {
    /// Gives an object its identifier: `ENOSPC` from `limit` objects on.
    fn add(&mut self, limit: u64, make: impl FnOnce(i32) -> T) -> SysResult<i32> {
        self.sweep();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(1 << INDEX_BITS);
        if self.slots.len() >= limit {
            return Err(Errno::ENOSPC);
        }
        let index = (self.first_free..limit).find(|index| !self.slots.contains_key(index));
        let index = index.ok_or(Errno::ENOSPC)?;
        self.first_free = index + 1;
        // A place that is used again gives another identifier.
        if self.last_index.is_some_and(|last| index <= last) {
            self.sequence = (self.sequence + 1) % (1 << (31 - INDEX_BITS));
        }
        self.last_index = Some(index);
        let id = self.sequence << INDEX_BITS | index as i32;
        let object = Arc::new(make(id));
        let key = object.permissions().key;
        if key != PRIVATE {
            self.keys.insert(key, index);
        }
        self.slots.insert(index, (id, object));
        Ok(id)
    }

    /// Takes out what is gone.
    fn sweep(&mut self) {
        if !T::TRANSIENT {
            return;
        }
        let gone: Vec<i32> =
            self.slots.values().filter(|(_, object)| object.is_gone()).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// The object with this identifier: `EINVAL` if there is none, `EIDRM` if another has its place.
    fn get(&self, id: i32) -> SysResult<Arc<T>> {
        match self.slots.get(&index_of(id)?) {
            Some((_, object)) if object.is_gone() => Err(Errno::EINVAL),
            Some((found, object)) if *found == id => Ok(Arc::clone(object)),
            Some(_) => Err(Errno::EIDRM),
            None => Err(Errno::EINVAL),
        }
    }

    /// The object at a place, with its identifier, as `ipcs(1)` asks for them.
    fn at(&self, index: i32) -> SysResult<(i32, Arc<T>)> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
        self.slots.get(&index).filter(|(_, object)| !object.is_gone()).cloned().ok_or(Errno::EINVAL)
    }

    fn remove(&mut self, id: i32) {
        let Ok(index) = index_of(id) else { return };
        if self.slots.get(&index).is_some_and(|(found, _)| *found == id) {
            self.slots.remove(&index);
            self.first_free = self.first_free.min(index);
            self.keys.retain(|_, place| *place != index);
        }
    }

    /// Lets nobody find an object by its key any more.
    fn forget_key(&mut self, key: i32) {
        self.keys.remove(&key);
    }

    fn find(&self, key: i32) -> Option<(i32, Arc<T>)> {
        if key == PRIVATE {
            return None;
        }
        self.slots.get(self.keys.get(&key)?).filter(|(_, object)| !object.is_gone()).cloned()
    }

    /// The highest place in use; zero if there is none.
    fn highest(&mut self) -> i32 {
        self.sweep();
        self.slots.last_key_value().map_or(0, |(index, _)| *index as i32)
    }

    /// All objects in the order of their places.
    fn all(&mut self) -> Vec<(i32, Arc<T>)> {
        self.sweep();
        self.slots.values().cloned().collect()
    }
}

/// What a `*get` call does with an object.
trait Factory<T> {
    /// Whether an object that was found is what was asked for.
    fn fits(&self, found: &T) -> SysResult<()>;
    /// Makes one: returns its identifier.
    fn make(&self, registry: &mut Registry<T>) -> SysResult<i32>;
}

/// `shmget(2)`, `semget(2)`, `msgget(2)`.
fn get<T: Object>(
    task: &CurrentTask,
    registry: &Mutex<Registry<T>>,
    key: i32,
    flags: u32,
    factory: &impl Factory<T>,
) -> SysResult<i32> {
    let mut registry = registry.lock();
    match registry.find(key) {
        None if key == PRIVATE || flags & CREAT != 0 => factory.make(&mut registry),
        None => Err(Errno::ENOENT),
        Some(_) if flags & CREAT != 0 && flags & EXCL != 0 => Err(Errno::EEXIST),
        Some((id, found)) => {
            factory.fits(&found)?;
            found.permissions().check(task, flags & 0o777)?;
            Ok(id)
        }
    }
}

/// The time of day in seconds.
fn now() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;

    impl Object for Thing {
        fn permissions(&self) -> Permissions {
            Permissions { key: 5, uid: 0, gid: 0, creator_uid: 0, creator_gid: 0, mode: 0o600 }
        }
    }

    #[test]
    fn an_identifier_is_not_given_again_at_once() {
        let mut registry = Registry::default();
        let first = registry.add(10, |_| Thing).expect("room");
        let second = registry.add(10, |_| Thing).expect("room");
        assert_eq!((first, second), (0, 1));
        registry.remove(first);
        assert_eq!(registry.get(first).err(), Some(Errno::EINVAL));
        let third = registry.add(10, |_| Thing).expect("room");
        assert_eq!(third, 1 << INDEX_BITS);
        assert_eq!(registry.get(first).err(), Some(Errno::EIDRM));
        assert!(registry.get(third).is_ok());
        assert_eq!(registry.find(5).map(|found| found.0), Some(third));
        registry.forget_key(5);
        assert!(registry.find(5).is_none());
        assert_eq!(registry.highest(), 1);
    }

    #[test]
    fn a_full_registry_has_no_space() {
        let mut registry = Registry::default();
        assert!(registry.add(1, |_| Thing).is_ok());
        assert_eq!(registry.add(1, |_| Thing).err(), Some(Errno::ENOSPC));
    }
}
