//! System V shared memory.
//!
//! A segment is a file in memory without a name; attaching maps it shared. How often it is attached is counted when
//! somebody asks, over the mappings of all processes. A segment that was removed lives on as long as it is mapped:
//! the registry then holds it weakly.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Factory, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, Object, Permissions, READ, RawPermissions, Registry,
    Setting, WRITE, get, now,
};
use crate::Kernel;
use crate::error::SysError;
use crate::fs::file::Place;
use crate::fs::memfs::Seals;
use crate::fs::{File, InodeRef, Mappable, OpenFile, SetAttributes};
use crate::mm::{Backing, MapRequest, PAGE_SIZE, Protection};
use crate::task::credentials::Capability;
use crate::task::limits::Resource;
use crate::task::{CurrentTask, Pid};
use crate::user::UserPtr;

/// The mode bit of a segment that goes with its last mapping.
const DEST: u32 = 0o1000;
const LOCKED: u32 = 0o2000;
const HUGETLB: u32 = 0o4000;
/// The largest limit, which is the default.
const UNLIMITED: u64 = u64::MAX - (1 << 24);

/// All segments of a kernel, and their limits (`/proc/sys/kernel/shm*`).
pub struct SharedMemory {
    registry: Mutex<Registry<Entry>>,
    /// Bytes of one segment.
    pub max_bytes: Setting,
    /// Pages of all segments.
    pub max_pages: Setting,
    /// Segments.
    pub segments: Setting,
}

impl Default for SharedMemory {
    fn default() -> SharedMemory {
        SharedMemory {
            registry: Mutex::default(),
            max_bytes: Setting::new(UNLIMITED),
            max_pages: Setting::new(UNLIMITED),
            segments: Setting::new(4096),
        }
    }
}

/// A segment's place in the registry.
struct Entry {
    /// Gone once the segment was removed.
    kept: Mutex<Option<Arc<Segment>>>,
    segment: Weak<Segment>,
}

impl Object for Entry {
    const TRANSIENT: bool = true;

    fn permissions(&self) -> Permissions {
        let gone = Permissions { key: 0, uid: 0, gid: 0, creator_uid: 0, creator_gid: 0, mode: DEST };
        self.segment.upgrade().map_or(gone, |segment| *segment.permissions.lock())
    }

    fn is_gone(&self) -> bool {
        self.segment.strong_count() == 0
    }
}

/// A segment.
struct Segment {
    id: i32,
    size: u64,
    inode: InodeRef,
    permissions: Mutex<Permissions>,
    creator: Pid,
    last: AtomicI32,
    attached: AtomicI64,
    detached: AtomicI64,
    changed: AtomicI64,
}

/// The open file behind an attachment and its copies in children.
struct Attachment {
    segment: Arc<Segment>,
    file: Arc<dyn OpenFile>,
}

impl OpenFile for Attachment {
    fn map(&self, file: &File, shared: bool, writable: bool) -> SysResult<Mappable> {
        self.file.map(file, shared, writable)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.segment.detached.store(now(), Ordering::Relaxed);
    }
}

fn attachment(backing: &Backing) -> Option<&Attachment> {
    match backing {
        Backing::File { file, .. } => file.ops().downcast_ref(),
        _ => None,
    }
}

impl Segment {
    /// How many mappings of it there are, in all processes.
    fn attachments(&self, kernel: &Kernel) -> u64 {
        let mut seen = BTreeSet::new();
        let maps = kernel.tasks.all().into_iter().filter_map(|task| task.memory());
        let of_this =
            |backing: &Backing| attachment(backing).is_some_and(|one| std::ptr::eq(&*one.segment, self));
        maps.filter(|memory| seen.insert(memory.id))
            .map(|memory| memory.count_mappings(|vma| of_this(&vma.backing)) as u64)
            .sum()
    }

    fn raw(&self, kernel: &Kernel) -> RawSegment {
        RawSegment {
            permissions: self.permissions.lock().raw(self.id),
            size: self.size,
            attached: self.attached.load(Ordering::Relaxed),
            detached: self.detached.load(Ordering::Relaxed),
            changed: self.changed.load(Ordering::Relaxed),
            creator: self.creator,
            last: self.last.load(Ordering::Relaxed),
            attachments: self.attachments(kernel),
            unused: [0; 2],
        }
    }
}

fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE)
}

struct NewSegment<'a> {
    task: &'a CurrentTask,
    key: i32,
    size: u64,
    flags: u32,
}

impl Factory<Entry> for NewSegment<'_> {
    fn fits(&self, found: &Entry) -> SysResult<()> {
        let size = found.segment.upgrade().map_or(0, |segment| segment.size);
        if self.size > size { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn make(&self, registry: &mut Registry<Entry>) -> SysResult<i32> {
        let ipc = self.task.ipc();
        let all = &ipc.sysv.shm;
        if self.size == 0 || self.size > all.max_bytes.get() {
            return Err(Errno::EINVAL);
        }
        let used = registry.all();
        let used = used.iter().filter_map(|(_, entry)| entry.segment.upgrade()).map(|one| pages(one.size));
        if used.fold(pages(self.size), u64::saturating_add) > all.max_pages.get() {
            return Err(Errno::ENOSPC);
        }
        if self.flags & HUGETLB != 0 {
            return Err(Errno::ENOMEM);
        }
        let permissions = Permissions::new(self.task, self.key, self.flags);
        let memory = &self.task.kernel.memory_files;
        let inode = memory.unnamed(permissions.mode, permissions.uid, permissions.gid, Seals::SEAL)?;
        let length = pages(self.size).checked_mul(PAGE_SIZE).ok_or(Errno::ENOSPC)?;
        inode.set_attributes(&SetAttributes { size: Some(length), ..SetAttributes::default() })?;
        registry.add(all.segments.get(), |id| {
            let segment = Arc::new(Segment {
                id,
                size: self.size,
                inode,
                permissions: Mutex::new(permissions),
                creator: self.task.group.number,
                last: AtomicI32::new(0),
                attached: AtomicI64::new(0),
                detached: AtomicI64::new(0),
                changed: AtomicI64::new(now()),
            });
            Entry { segment: Arc::downgrade(&segment), kept: Mutex::new(Some(segment)) }
        })
    }
}

/// `shmget(2)`.
pub fn shmget(task: &CurrentTask, key: i32, size: u64, flags: u32) -> SysResult<i32> {
    get(task, &task.ipc().sysv.shm.registry, key, flags, &NewSegment { task, key, size, flags })
}

fn find(task: &CurrentTask, id: i32) -> SysResult<Arc<Segment>> {
    task.ipc().sysv.shm.registry.lock().get(id)?.segment.upgrade().ok_or(Errno::EINVAL)
}

/// `shmat(2)`: returns the address.
pub fn shmat(task: &CurrentTask, id: i32, address: u64, flags: u32) -> SysResult<u64> {
    const RDONLY: u32 = 0o10000;
    const RND: u32 = 0o20000;
    const REMAP: u32 = 0o40000;
    const EXEC: u32 = 0o100_000;
    const MAP_SHARED: u32 = 0x1;
    const MAP_FIXED: u32 = 0x10;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let remap = flags & REMAP != 0;
    let fixed = match address {
        0 if remap => return Err(Errno::EINVAL),
        0 => None,
        address if address.is_multiple_of(PAGE_SIZE) => Some(address),
        address if flags & RND != 0 => {
            let rounded = address & !(PAGE_SIZE - 1);
            if rounded == 0 && remap {
                return Err(Errno::EINVAL);
            }
            (rounded != 0).then_some(rounded)
        }
        _ => return Err(Errno::EINVAL),
    };
    let mut protection = Protection::READ;
    let mut wanted = READ;
    if flags & RDONLY == 0 {
        protection |= Protection::WRITE;
        wanted |= WRITE;
    }
    if flags & EXEC != 0 {
        protection |= Protection::EXEC;
        wanted |= 0o111;
    }
    let segment = find(task, id)?;
    segment.permissions.lock().check(task, wanted)?;
    let memory = task.mm()?;
    let length = pages(segment.size) * PAGE_SIZE;
    if let Some(start) = fixed {
        let end = start.checked_add(length).ok_or(Errno::EINVAL)?;
        if !remap && memory.count_mappings(|vma| vma.start < end && start < vma.end) > 0 {
            return Err(Errno::EINVAL);
        }
    }
    task.group.check_address_space(&memory, length)?;
    let access = if flags & RDONLY != 0 { OpenFlags::empty() } else { OpenFlags::RDWR };
    let opened = Arc::clone(&segment.inode).open(None, access).map_err(SysError::errno)?;
    let name = format!("/SYSV{:08x} (deleted)", segment.permissions.lock().key);
    let place = Place::Anonymous { name, inode: Some(Arc::clone(&segment.inode)) };
    let file = File::new(place, Arc::new(Attachment { segment: Arc::clone(&segment), file: opened }), access);
    let request = MapRequest {
        address: fixed.unwrap_or(0),
        length,
        protection: protection.bits(),
        flags: MAP_SHARED | if fixed.is_some() { MAP_FIXED } else { 0 },
        file: Some((file, 0)),
        name: "",
    };
    let mapped = memory.map(&mut **task.context.borrow_mut(), &request)?;
    segment.attached.store(now(), Ordering::Relaxed);
    segment.last.store(task.group.number, Ordering::Relaxed);
    Ok(mapped)
}

/// `shmdt(2)`.
pub fn shmdt(task: &CurrentTask, address: u64) -> SysResult<()> {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let memory = task.mm()?;
    // What is left of the attachment whose first page is, or was, at the address.
    let mut parts = Vec::new();
    let mut found: Option<Arc<File>> = None;
    for mapping in memory.mappings() {
        let Backing::File { file, offset } = &mapping.vma.backing else { continue };
        let starts_here = mapping.vma.start.checked_sub(*offset) == Some(address);
        let same = found.as_ref().is_none_or(|found| Arc::ptr_eq(found, file));
        if starts_here && same && attachment(&mapping.vma.backing).is_some() {
            found = Some(Arc::clone(file));
            parts.push(mapping.vma.start..mapping.vma.end);
        }
    }
    let file = found.ok_or(Errno::EINVAL)?;
    for part in parts {
        memory.unmap(&mut **task.context.borrow_mut(), part)?;
    }
    if let Some(attachment) = file.ops().downcast_ref::<Attachment>() {
        attachment.segment.last.store(task.group.number, Ordering::Relaxed);
        attachment.segment.detached.store(now(), Ordering::Relaxed);
    }
    Ok(())
}

/// `struct shmid64_ds`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawSegment {
    permissions: RawPermissions,
    size: u64,
    attached: i64,
    detached: i64,
    changed: i64,
    creator: Pid,
    last: Pid,
    attachments: u64,
    unused: [u64; 2],
}

/// `shmctl(2)`.
pub fn shmctl(task: &CurrentTask, id: i32, command: i32, place: u64) -> SysResult<i32> {
    const SHM_LOCK: i32 = 11;
    const SHM_UNLOCK: i32 = 12;
    const SHM_STAT: i32 = 13;
    const SHM_INFO: i32 = 14;
    const SHM_STAT_ANY: i32 = 15;
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let ipc = task.ipc();
    let registry = &ipc.sysv.shm.registry;
    match command {
        IPC_INFO => limits(task, place),
        SHM_INFO => usage(task, place),
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let segment = match command {
                IPC_STAT => find(task, id)?,
                _ => registry.lock().at(id)?.1.segment.upgrade().ok_or(Errno::EINVAL)?,
            };
            if command != SHM_STAT_ANY {
                segment.permissions.lock().check(task, READ)?;
            }
            task.write_object(UserPtr::new(place), &segment.raw(&task.kernel))?;
            Ok(if command == IPC_STAT { 0 } else { segment.id })
        }
        IPC_SET => {
            let settings = task.read_object(UserPtr::<RawSegment>::new(place))?;
            let segment = find(task, id)?;
            let mut permissions = segment.permissions.lock();
            permissions.check_owner(task)?;
            permissions.set(&settings.permissions);
            segment.changed.store(now(), Ordering::Relaxed);
            Ok(0)
        }
        IPC_RMID => {
            let entry = registry.lock().get(id)?;
            let segment = entry.segment.upgrade().ok_or(Errno::EINVAL)?;
            let key = {
                let mut permissions = segment.permissions.lock();
                permissions.check_owner(task)?;
                permissions.mode |= DEST;
                // Nobody finds it any more, but it can still be attached by its identifier.
                std::mem::replace(&mut permissions.key, super::PRIVATE)
            };
            registry.lock().forget_key(key);
            entry.kept.lock().take();
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let segment = find(task, id)?;
            let mut permissions = segment.permissions.lock();
            if !task.credentials().has(Capability::IPC_LOCK) {
                let owner = [permissions.uid, permissions.creator_uid];
                let limit = task.group.limit(Resource::LockedMemory);
                if !owner.contains(&task.credentials().effective_uid) || (command == SHM_LOCK && limit == 0) {
                    return Err(Errno::EPERM);
                }
            }
            // The host decides what is swapped; the wish is shown.
            match command {
                SHM_LOCK => permissions.mode |= LOCKED,
                _ => permissions.mode &= !LOCKED,
            }
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `IPC_INFO`.
fn limits(task: &CurrentTask, place: u64) -> SysResult<i32> {
    let ipc = task.ipc();
    let all = &ipc.sysv.shm;
    let segments = all.segments.get();
    // shmmax, shmmin, shmmni, shmseg, shmall
    let info = [all.max_bytes.get(), 1, segments, segments, all.max_pages.get(), 0, 0, 0, 0];
    task.write_object(UserPtr::new(place), &info)?;
    Ok(all.registry.lock().highest())
}

/// `SHM_INFO`.
fn usage(task: &CurrentTask, place: u64) -> SysResult<i32> {
    let ipc = task.ipc();
    let all = &ipc.sysv.shm;
    let (entries, highest) = {
        let mut registry = all.registry.lock();
        (registry.all(), registry.highest())
    };
    let segments: Vec<_> = entries.iter().filter_map(|(_, entry)| entry.segment.upgrade()).collect();
    let total = segments.iter().map(|segment| pages(segment.size)).sum();
    let resident = segments.iter().map(|segment| resident(segment) / PAGE_SIZE).sum();
    // used_ids, shm_tot, shm_rss, shm_swp, swap_attempts, swap_successes
    let info: [u64; 6] = [segments.len() as u64, total, resident, 0, 0, 0];
    task.write_object(UserPtr::new(place), &info)?;
    Ok(highest)
}

/// How many bytes of a segment have been used.
fn resident(segment: &Segment) -> u64 {
    segment.inode.metadata().map_or(0, |metadata| metadata.blocks * 512)
}

impl SharedMemory {
    /// `/proc/sysvipc/shm`.
    pub fn text(&self, kernel: &Kernel) -> String {
        let mut text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n".to_owned();
        let entries = self.registry.lock().all();
        for segment in entries.iter().filter_map(|(_, entry)| entry.segment.upgrade()) {
            let p = *segment.permissions.lock();
            let time = |time: &AtomicI64| time.load(Ordering::Relaxed);
            text += &format!(
                "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
                p.key,
                segment.id,
                p.mode,
                segment.size,
                segment.creator,
                segment.last.load(Ordering::Relaxed),
                segment.attachments(kernel),
                p.uid,
                p.gid,
                p.creator_uid,
                p.creator_gid,
                time(&segment.attached),
                time(&segment.detached),
                time(&segment.changed),
                resident(&segment),
                0
            );
        }
        text
    }
}
