//! [`MemoryMap`]: an address space's mappings and the operations that change them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, SysResult};
use parking_lot::Mutex;
use platform::{AddressSpace, Context, MemoryOp};

use super::mapper::{Mapper, change_surely, is_granted};
use super::sites::Mappings;
use super::vma::{Backing, Protection, STACK_GUARD_GAP, Vma, VmaFlags, VmaSet};
use super::{FutexKey, Layout, MapRequest, PAGE_SIZE};
use crate::fs::{File, InodeCommon, Mappable};
use crate::task::limits::Resource;
use crate::task::{CurrentTask, ThreadGroup};

/// `MAP_SHARED`
pub const MAP_SHARED: u32 = 0x1;
/// `MAP_PRIVATE`
pub const MAP_PRIVATE: u32 = 0x2;
/// `MAP_SHARED_VALIDATE`
pub const MAP_SHARED_VALIDATE: u32 = 0x3;
/// `MAP_FIXED`
pub const MAP_FIXED: u32 = 0x10;
/// `MAP_ANONYMOUS`
pub const MAP_ANONYMOUS: u32 = 0x20;
/// `MAP_32BIT`
pub const MAP_32BIT: u32 = 0x40;
/// `MAP_GROWSDOWN`
pub const MAP_GROWSDOWN: u32 = 0x100;
/// `MAP_LOCKED`
pub const MAP_LOCKED: u32 = 0x2000;
/// `MAP_NORESERVE`
pub const MAP_NORESERVE: u32 = 0x4000;
/// `MAP_POPULATE`
pub const MAP_POPULATE: u32 = 0x8000;
/// `MAP_HUGETLB`
pub const MAP_HUGETLB: u32 = 0x4_0000;
/// `MAP_FIXED_NOREPLACE`
pub const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;

/// The most mappings that a process may have (`/proc/sys/vm/max_map_count`).
const MAX_MAP_COUNT: usize = 65_530;
/// By how much a stack is extended at least, so that a deep recursion does not stop at every page.
const STACK_STEP: u64 = 32 * PAGE_SIZE;
/// Where a program that may lie anywhere is loaded.
pub const PIE_BASE: u64 = 0x5555_5555_4000;

/// A process's memory, shared by tasks cloned with `CLONE_VM`.
pub struct MemoryMap {
    /// A number that no other map of this kernel has.
    pub id: u64,
    space: Arc<dyn AddressSpace>,
    bounds: Range<u64>,
    pub(super) vmas: Mutex<Vmas>,
    /// Where the program's parts are.
    pub layout: Mutex<Layout>,
    /// `io_setup(2)`.
    pub aio: crate::ipc::aio::AioContexts,
    /// What `membarrier(2)` was registered for.
    pub barriers: std::sync::atomic::AtomicU32,
}

#[derive(Clone)]
pub(super) struct Vmas {
    pub(super) set: VmaSet,
    /// How far those are that system calls come from.
    pub(super) mappings: Mappings,
    /// Addresses are chosen below.
    top: u64,
    heap: Range<u64>,
    locked_future: bool,
    peak: u64,
}

/// A mapping as `/proc/PID/maps` shows it.
#[derive(Clone)]
pub struct MappingInfo {
    /// The mapping.
    pub vma: Vma,
    /// The file's device, inode number and offset; zeros for anonymous memory.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// See `device`.
    pub offset: u64,
    /// The open file whose name is shown.
    pub file: Option<Arc<File>>,
}

/// `address` rounded up to a page; `None` if that is beyond the last.
pub(super) fn round_up(address: u64) -> Option<u64> {
    Some(address.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}

impl MemoryMap {
    /// The map of a fresh address space, in which the platform allows guest mappings within `bounds`.
    pub fn new(context: &dyn Context, bounds: Range<u64>) -> Arc<MemoryMap> {
        let top = bounds.end;
        let vmas = Vmas {
            set: VmaSet::default(),
            mappings: Mappings::default(),
            top,
            heap: 0..0,
            locked_future: false,
            peak: 0,
        };
        Self::with(context, bounds, vmas, Layout::default())
    }

    fn with(context: &dyn Context, bounds: Range<u64>, vmas: Vmas, layout: Layout) -> Arc<MemoryMap> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(MemoryMap {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            space: Arc::clone(context.space()),
            bounds,
            vmas: Mutex::new(vmas),
            layout: Mutex::new(layout),
            aio: crate::ipc::aio::AioContexts::default(),
            barriers: std::sync::atomic::AtomicU32::new(0),
        })
    }

    /// Guest memory, for reading another process's (`/proc/PID/cmdline`).
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    /// The addresses that guest mappings may use.
    pub fn bounds(&self) -> Range<u64> {
        self.bounds.clone()
    }

    /// Maps the main stack at the top of the address space: `size` bytes now, growing on demand up to the limit for
    /// stacks; further mappings are placed below `limit` bytes. Returns the address behind its end.
    pub fn map_stack<M: Mapper + ?Sized>(
        &self,
        context: &mut M,
        size: u64,
        limit: u64,
        executable: bool,
    ) -> SysResult<u64> {
        let size = round_up(size).ok_or(Errno::ENOMEM)?;
        let end = self.bounds.end - PAGE_SIZE;
        let exec = if executable { Protection::EXEC } else { Protection::empty() };
        self.map(
            context,
            &MapRequest {
                address: end.checked_sub(size).ok_or(Errno::ENOMEM)?,
                length: size,
                protection: (Protection::READ | Protection::WRITE | exec).bits(),
                flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN | MAP_NORESERVE,
                file: None,
                name: "[stack]",
            },
        )?;
        // As Linux has it: the gap for the stack is at least 128 MiB and at most five sixths of the space.
        let gap = limit.saturating_add(STACK_GUARD_GAP).clamp(128 << 20, self.bounds.end / 6 * 5);
        self.vmas.lock().top = (end - gap) & !(PAGE_SIZE - 1);
        Ok(end)
    }

    /// `mmap(2)`: returns the address. Arguments are checked here as far as they concern memory; that the file may be
    /// mapped this way (access mode) is the caller's check.
    pub fn map<M: Mapper + ?Sized>(&self, context: &mut M, request: &MapRequest) -> SysResult<u64> {
        let length = round_up(request.length).filter(|length| *length > 0).ok_or(Errno::ENOMEM)?;
        let shared = request.flags & MAP_SHARED != 0;
        let growing = request.flags & MAP_GROWSDOWN != 0 && !shared;
        let protection = Protection::from_bits_truncate(request.protection);
        let writable = request.file.as_ref().is_none_or(|(file, _)| file.flags().writable());
        let mut maximum = Protection::all();
        let sealed = request.file.as_ref().is_some_and(|(file, _)| file.ops().write_sealed());
        if shared && sealed && protection.contains(Protection::WRITE) {
            return Err(Errno::EPERM);
        }
        if shared && (!writable || sealed) {
            maximum -= Protection::WRITE;
        }
        let mappable = match &request.file {
            Some((file, _)) => file.ops().map(file, shared, shared && writable)?,
            None => Mappable::Anonymous,
        };

        let mut vmas = self.vmas.lock();
        let address = self.choose(&vmas, request, length)?;
        let range = address..address + length;
        vmas.set.check_unsealed(range.clone())?;
        let mut flags = VmaFlags::empty();
        flags.set(VmaFlags::SHARED, shared);
        flags.set(VmaFlags::GROWS_DOWN, growing);
        flags.set(VmaFlags::LOCKED, request.flags & MAP_LOCKED != 0 || vmas.locked_future);
        flags.set(VmaFlags::NO_RESERVE, request.flags & MAP_NORESERVE != 0);
        let backing = match (&request.file, shared) {
            (Some((file, offset)), _) => Backing::File { file: Arc::clone(file), offset: *offset },
            // A number from the same source as inodes have theirs, so that futex keys never collide.
            (None, true) => Backing::Shared { object: InodeCommon::new().id, offset: 0 },
            (None, false) => Backing::Anonymous,
        };
        if vmas.set.len() >= MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let file = match &mappable {
            Mappable::Anonymous => None,
            Mappable::Host { fd, delta } => {
                let offset = request.file.as_ref().map_or(0, |(_, offset)| *offset);
                Some((fd, offset.checked_add(*delta).ok_or(Errno::EOVERFLOW)?))
            }
        };
        let operation = MemoryOp::Map {
            address,
            length,
            protection: protection.bits(),
            shared,
            flags: request.flags & (MAP_NORESERVE | MAP_POPULATE),
            file,
        };
        context.change(operation)?;
        if let (false, Some((file, _)), Mappable::Host { fd, .. }) = (shared, &request.file, &mappable) {
            context.note(file, fd);
        }
        vmas.set.insert(Vma {
            start: range.start,
            end: range.end,
            protection,
            maximum,
            flags,
            backing,
            name: request.name,
        });
        vmas.peak = vmas.peak.max(vmas.set.total());
        Ok(address)
    }

    /// Where a mapping of `length` bytes may go that is made next; at `wish` if that is free.
    pub fn find_room(&self, wish: u64, length: u64) -> SysResult<u64> {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        let request = MapRequest { address: wish, length, protection: 0, flags, file: None, name: "" };
        self.choose(&self.vmas.lock(), &request, round_up(length).ok_or(Errno::ENOMEM)?)
    }

    /// The address of a new mapping.
    fn choose(&self, vmas: &Vmas, request: &MapRequest, length: u64) -> SysResult<u64> {
        if length > self.bounds.end - self.bounds.start {
            return Err(Errno::ENOMEM);
        }
        let fits = |address: u64| {
            address >= self.bounds.start
                && address.checked_add(length).is_some_and(|end| end <= self.bounds.end)
        };
        if request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            if !request.address.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::EINVAL);
            }
            if request.address < self.bounds.start {
                return Err(Errno::EPERM);
            }
            if !fits(request.address) {
                return Err(Errno::ENOMEM);
            }
            let taken = vmas.set.overlapping(request.address..request.address + length).next().is_some();
            if request.flags & MAP_FIXED_NOREPLACE != 0 && taken {
                return Err(Errno::EEXIST);
            }
            return Ok(request.address);
        }
        let hint = request.address & !(PAGE_SIZE - 1);
        if hint != 0 && fits(hint) && vmas.set.is_free(hint..hint + length) {
            return Ok(hint);
        }
        let below = if request.flags & MAP_32BIT != 0 { 0x8000_0000 } else { vmas.top };
        vmas.set
            .free_range_down(length, self.bounds.start..below)
            .or_else(|| vmas.set.free_range_down(length, self.bounds.clone()))
            .ok_or(Errno::ENOMEM)
    }

    /// `munmap(2)`. `range` is page-aligned and within what an address can be.
    pub fn unmap(&self, context: &mut dyn Context, range: Range<u64>) -> SysResult<()> {
        let range = range.start.max(self.bounds.start)..range.end.min(self.bounds.end);
        if range.is_empty() {
            return Ok(());
        }
        let mut vmas = self.vmas.lock();
        if vmas.set.overlapping(range.clone()).next().is_none() {
            return Ok(());
        }
        vmas.set.check_unsealed(range.clone())?;
        let unmap = MemoryOp::Unmap { address: range.start, length: range.end - range.start };
        change_surely(context, vmas.set.len(), &[unmap])?;
        vmas.set.remove(range);
        Ok(())
    }

    /// `mprotect(2)`: `ENOMEM` where something is not mapped (what lies before has been changed, as in Linux),
    /// `EACCES` where the mapping does not allow it.
    pub fn protect(
        &self,
        context: &mut dyn Context,
        range: Range<u64>,
        protection: Protection,
    ) -> SysResult<()> {
        let mut vmas = self.vmas.lock();
        vmas.set.check_unsealed(range.clone())?;
        let mut end = range.start;
        let mut result = Ok(());
        for vma in vmas.set.overlapping(range.clone()) {
            if vma.start > end {
                break;
            }
            if !vma.maximum.contains(protection) {
                result = Err(Errno::EACCES);
                break;
            }
            end = vma.end.min(range.end);
        }
        if end < range.end && result.is_ok() {
            result = Err(Errno::ENOMEM);
        }
        if end > range.start {
            let length = end - range.start;
            let protect = MemoryOp::Protect { address: range.start, length, protection: protection.bits() };
            let shared = vmas.set.overlapping(range.clone()).any(|vma| vma.flags.contains(VmaFlags::SHARED));
            if shared || !is_granted(length, protection.bits()) {
                context.memory(&[protect])?;
            } else {
                change_surely(context, vmas.set.len(), &[protect])?;
            }
            vmas.set.update(range.start..end, |vma| vma.protection = protection);
        }
        result
    }

    /// Runs `operation`, which reads or writes the memory at `address`, whatever access the guest itself has to it:
    /// `EIO` where nothing is mapped, or where others would see a change of what is read-only. For debuggers.
    pub fn force(
        &self,
        context: &mut dyn Context,
        address: u64,
        length: usize,
        operation: impl FnOnce(&dyn AddressSpace) -> usize,
    ) -> SysResult<usize> {
        let end = address.checked_add(length as u64).and_then(round_up).ok_or(Errno::EIO)?;
        let range = address & !(PAGE_SIZE - 1)..end;
        // Nobody else changes mappings meanwhile.
        let vmas = self.vmas.lock();
        let read_only =
            |vma: &Vma| vma.flags.contains(VmaFlags::SHARED) && !vma.protection.contains(Protection::WRITE);
        if !vmas.set.covers(range.clone()) || vmas.set.overlapping(range.clone()).any(read_only) {
            return Err(Errno::EIO);
        }
        let parts: Vec<(Range<u64>, Protection)> = vmas
            .set
            .overlapping(range.clone())
            .map(|vma| (vma.start.max(range.start)..vma.end.min(range.end), vma.protection))
            .collect();
        let protect = |part: &Range<u64>, protection: Protection| MemoryOp::Protect {
            address: part.start,
            length: part.end - part.start,
            protection: protection.bits(),
        };
        let open = Protection::READ | Protection::WRITE;
        let opened: Vec<_> = parts.iter().map(|(part, own)| protect(part, *own | open)).collect();
        let closed: Vec<_> = parts.iter().map(|(part, own)| protect(part, *own)).collect();
        context.memory(&opened)?;
        let done = operation(&*self.space);
        context.memory(&closed)?;
        Ok(done)
    }

    /// `madvise(2)` for advice that the host carries out: `ENOMEM` where something is not mapped.
    pub fn advise(&self, context: &mut dyn Context, range: Range<u64>, advice: u32) -> SysResult<()> {
        const DONTNEED: u32 = 4;
        const DONTFORK: u32 = 10;
        const DOFORK: u32 = 11;
        const DONTDUMP: u32 = 16;
        const DODUMP: u32 = 17;
        const WIPEONFORK: u32 = 18;
        const KEEPONFORK: u32 = 19;
        let mut vmas = self.vmas.lock();
        let parts: Vec<MemoryOp<'_>> = vmas
            .set
            .overlapping(range.clone())
            .map(|vma| (vma.start.max(range.start), vma.end.min(range.end)))
            .map(|(start, end)| MemoryOp::Advise { address: start, length: end - start, advice })
            .collect();
        let covered = vmas.set.covers(range.clone());
        // What cannot be written must not be emptied either.
        let destroys = matches!(advice, 4 | 8 | 9 | DONTFORK | WIPEONFORK | 24);
        let read_only = |vma: &Vma| {
            vma.flags.contains(VmaFlags::SEALED)
                && !vma.protection.contains(Protection::WRITE)
                && matches!(vma.backing, Backing::Anonymous)
        };
        if destroys && vmas.set.overlapping(range.clone()).any(read_only) {
            return Err(Errno::EPERM);
        }
        let (flag, value) = match advice {
            DONTFORK => (VmaFlags::DONT_FORK, true),
            DOFORK => (VmaFlags::DONT_FORK, false),
            WIPEONFORK => (VmaFlags::WIPE_ON_FORK, true),
            KEEPONFORK => (VmaFlags::WIPE_ON_FORK, false),
            DONTDUMP => (VmaFlags::DONT_DUMP, true),
            DODUMP => (VmaFlags::DONT_DUMP, false),
            _ => (VmaFlags::empty(), false),
        };
        match advice {
            _ if parts.is_empty() => {}
            DONTNEED => change_surely(context, vmas.set.len(), &parts)?,
            _ => context.memory(&parts)?,
        }
        if !flag.is_empty() {
            vmas.set.update(range, |vma| vma.flags.set(flag, value));
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mseal(2)`: nothing of the range can be unmapped, moved or protected otherwise from now on. `ENOMEM` where
    /// something is not mapped.
    pub fn seal(&self, range: Range<u64>) -> SysResult<()> {
        let mut vmas = self.vmas.lock();
        if !vmas.set.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        vmas.set.update(range, |vma| vma.flags |= VmaFlags::SEALED);
        Ok(())
    }

    /// `mlock(2)` and its family: marks the range, which must be mapped, and returns how many bytes are locked then.
    /// With `populate` the pages are made present.
    pub fn lock(&self, context: &mut dyn Context, range: Range<u64>, locked: bool) -> SysResult<()> {
        const POPULATE_READ: u32 = 22;
        let mut vmas = self.vmas.lock();
        if !vmas.set.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        vmas.set.update(range.clone(), |vma| vma.flags.set(VmaFlags::LOCKED, locked));
        if locked {
            // Pages without access cannot be made present; mlock(2) does not mind.
            let length = range.end - range.start;
            let _ =
                context.memory(&[MemoryOp::Advise { address: range.start, length, advice: POPULATE_READ }]);
        }
        Ok(())
    }

    /// `mlockall(2)` and `munlockall(2)`.
    pub fn lock_all(&self, current: bool, future: bool) {
        let mut vmas = self.vmas.lock();
        vmas.locked_future = future;
        let all = self.bounds.clone();
        vmas.set.update(all, |vma| vma.flags.set(VmaFlags::LOCKED, current));
    }

    /// How many bytes are locked.
    pub fn locked(&self) -> u64 {
        let vmas = self.vmas.lock();
        vmas.set.iter().filter(|vma| vma.flags.contains(VmaFlags::LOCKED)).map(Vma::length).sum()
    }

    /// `mremap(2)` with `MREMAP_MAYMOVE` (`may_move`), `MREMAP_FIXED` (`fixed`) and `MREMAP_DONTUNMAP` (`keep`).
    /// Lengths are rounded to pages by the caller. Returns the new address.
    pub fn remap(
        &self,
        context: &mut dyn Context,
        old: Range<u64>,
        new_length: u64,
        may_move: bool,
        fixed: Option<u64>,
        keep: bool,
    ) -> SysResult<u64> {
        let old_length = old.end - old.start;
        let mut vmas = self.vmas.lock();
        let vma = vmas.set.find(old.start).cloned().ok_or(Errno::EFAULT)?;
        vmas.set.check_unsealed(old.clone())?;
        if let Some(target) = fixed {
            vmas.set.check_unsealed(target..target.saturating_add(new_length))?;
        }
        if old_length == 0 && !vma.flags.contains(VmaFlags::SHARED) {
            return Err(Errno::EINVAL);
        }
        if old.end > vma.end && (new_length > old_length || fixed.is_some() || keep) {
            return Err(Errno::EFAULT);
        }
        if let Some(target) = fixed {
            let end = target.checked_add(new_length).ok_or(Errno::EINVAL)?;
            if target < self.bounds.start || end > self.bounds.end || (target < old.end && old.start < end) {
                return Err(Errno::EINVAL);
            }
        }
        if fixed.is_none() && !keep && old_length != 0 {
            if new_length <= old_length {
                if new_length < old_length {
                    let cut = old.start + new_length..old.end;
                    context.memory(&[MemoryOp::Unmap { address: cut.start, length: cut.end - cut.start }])?;
                    vmas.set.remove(cut);
                }
                return Ok(old.start);
            }
            let extension = old.end..old.start.checked_add(new_length).ok_or(Errno::ENOMEM)?;
            if old.end == vma.end && extension.end <= self.bounds.end && vmas.set.is_free(extension.clone()) {
                // The host extends the mapping that it has there, which may have joined others than ours did; so ask
                // it to extend the part that the guest named.
                let grown = context.memory(&[MemoryOp::Remap {
                    from: old.start,
                    from_length: old_length,
                    to: old.start,
                    to_length: new_length,
                    keep: false,
                }]);
                if grown.is_ok() {
                    let added = Vma {
                        start: extension.start,
                        end: extension.end,
                        backing: shifted(&vma, extension.start),
                        ..vma
                    };
                    vmas.set.insert(added);
                    vmas.peak = vmas.peak.max(vmas.set.total());
                    return Ok(old.start);
                }
            }
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let target = match fixed {
            Some(target) => target,
            None => {
                let top = vmas.top;
                vmas.set
                    .free_range_down(new_length, self.bounds.start..top)
                    .or_else(|| vmas.set.free_range_down(new_length, self.bounds.clone()))
                    .ok_or(Errno::ENOMEM)?
            }
        };
        let moved_length = if old_length == 0 { 0 } else { old_length.min(new_length) };
        if old_length > new_length {
            let cut = old.start + new_length..old.end;
            context.memory(&[MemoryOp::Unmap { address: cut.start, length: cut.end - cut.start }])?;
            vmas.set.remove(cut);
        }
        context.memory(&[MemoryOp::Remap {
            from: old.start,
            from_length: moved_length,
            to: target,
            to_length: new_length,
            keep,
        }])?;
        if !keep && old_length != 0 {
            vmas.set.remove(old.start..old.start + moved_length);
        }
        let backing = shifted(&vma, old.start);
        vmas.set.insert(Vma { start: target, end: target + new_length, backing, ..vma });
        vmas.peak = vmas.peak.max(vmas.set.total());
        Ok(target)
    }

    /// Sets where the heap begins, after a program was loaded. It is empty at first.
    pub fn set_brk_start(&self, address: u64) {
        self.vmas.lock().heap = address..address;
        self.layout.lock().brk_start = address;
    }

    /// Where the heap ends now.
    pub fn brk(&self) -> u64 {
        self.vmas.lock().heap.end
    }

    /// `brk(2)`: moves the heap's end, if it can be, and returns where it is then. `limit` is that on data.
    pub fn set_brk(&self, context: &mut dyn Context, end: u64, limit: u64) -> u64 {
        let mut vmas = self.vmas.lock();
        let heap = vmas.heap.clone();
        if end < heap.start || end - heap.start > limit {
            return heap.end;
        }
        let (Some(old_top), Some(new_top)) = (round_up(heap.end), round_up(end)) else { return heap.end };
        if new_top < old_top && vmas.set.check_unsealed(new_top..old_top).is_err() {
            return heap.end;
        }
        if new_top > old_top {
            // Leave a page between the heap and what lies above it, as Linux does.
            if new_top > self.bounds.end || !vmas.set.is_free(old_top..new_top + PAGE_SIZE) {
                return heap.end;
            }
            let protection = Protection::READ | Protection::WRITE;
            let map = MemoryOp::Map {
                address: old_top,
                length: new_top - old_top,
                protection: protection.bits(),
                shared: false,
                flags: 0,
                file: None,
            };
            if context.change(map).is_err() {
                return heap.end;
            }
            let mut flags = VmaFlags::empty();
            flags.set(VmaFlags::LOCKED, vmas.locked_future);
            vmas.set.insert(Vma {
                start: old_top,
                end: new_top,
                protection,
                maximum: Protection::all(),
                flags,
                backing: Backing::Anonymous,
                name: "[heap]",
            });
        } else if new_top < old_top {
            let unmap = MemoryOp::Unmap { address: new_top, length: old_top - new_top };
            if change_surely(context, vmas.set.len(), &[unmap]).is_err() {
                return heap.end;
            }
            vmas.set.remove(new_top..old_top);
        }
        vmas.heap.end = end;
        vmas.peak = vmas.peak.max(vmas.set.total());
        end
    }

    /// `fork(2)`: a context in a copy of the memory, and its map.
    pub fn fork(&self, context: &mut dyn Context) -> SysResult<(Arc<MemoryMap>, Box<dyn Context>)> {
        let vmas = self.vmas.lock();
        let child = context.fork()?;
        let mut copy = vmas.clone();
        drop(vmas);
        let gone: Vec<Range<u64>> = copy
            .set
            .iter()
            .filter(|vma| vma.flags.contains(VmaFlags::DONT_FORK))
            .map(|vma| vma.start..vma.end)
            .collect();
        gone.into_iter().for_each(|range| drop(copy.set.remove(range)));
        copy.set.update(self.bounds.clone(), |vma| vma.flags -= VmaFlags::LOCKED);
        copy.locked_future = false;
        let layout = self.layout.lock().clone();
        Ok((Self::with(&*child, self.bounds.clone(), copy, layout), child))
    }

    /// Extends the stack mapping above `address` to it, by at most `limit` bytes in all; returns whether it did.
    pub fn grow_down(&self, context: &mut dyn Context, address: u64, limit: u64) -> bool {
        let mut vmas = self.vmas.lock();
        if address < self.bounds.start || vmas.set.find(address).is_some() {
            return false;
        }
        let Some(vma) = vmas.set.next_above(address).cloned() else { return false };
        let lowest = vma.end.saturating_sub(limit.min(vma.end)).max(self.bounds.start);
        let floor = match vmas.set.last_below(vma.start) {
            Some(below) if below.protection.is_empty() => below.end,
            Some(below) => below.end.saturating_add(STACK_GUARD_GAP),
            None => self.bounds.start,
        };
        let lowest = round_up(lowest.max(floor)).unwrap_or(u64::MAX);
        if !vma.flags.contains(VmaFlags::GROWS_DOWN) || address < lowest {
            return false;
        }
        let start = (address & !(PAGE_SIZE - 1)).min(vma.start.saturating_sub(STACK_STEP)).max(lowest);
        let grown = context.memory(&[MemoryOp::Map {
            address: start,
            length: vma.start - start,
            protection: vma.protection.bits(),
            shared: false,
            flags: MAP_NORESERVE,
            file: None,
        }]);
        if grown.is_err() {
            return false;
        }
        vmas.set.insert(Vma { start, end: vma.start, ..vma });
        vmas.peak = vmas.peak.max(vmas.set.total());
        true
    }

    /// The file that is mapped at `address`, and which byte of it that is.
    pub fn file_at(&self, address: u64) -> Option<(Arc<File>, u64)> {
        let vmas = self.vmas.lock();
        let vma = vmas.set.find(address)?;
        let Backing::File { file, offset } = &vma.backing else { return None };
        Some((Arc::clone(file), offset + (address - vma.start)))
    }

    /// What identifies the futex word at `address`; `private` is `FUTEX_PRIVATE_FLAG`. `EFAULT` where nothing is
    /// mapped.
    pub fn futex_key(&self, address: u64, private: bool) -> SysResult<FutexKey> {
        if private {
            return Ok(FutexKey::Private { map: self.id, address });
        }
        let vmas = self.vmas.lock();
        let vma = vmas.set.find(address).ok_or(Errno::EFAULT)?;
        let inside = address - vma.start;
        Ok(match &vma.backing {
            Backing::Shared { object, offset } => {
                FutexKey::Shared { object: *object, offset: offset + inside }
            }
            Backing::File { file, offset } if vma.flags.contains(VmaFlags::SHARED) => {
                let object = file.inode().map_or(file.id | 1 << 63, |inode| inode.common().id);
                FutexKey::Shared { object, offset: offset + inside }
            }
            _ => FutexKey::Private { map: self.id, address },
        })
    }

    /// How many bytes are mapped, and the most that ever were.
    pub fn size(&self) -> (u64, u64) {
        let vmas = self.vmas.lock();
        (vmas.set.total(), vmas.peak)
    }

    /// How many bytes are data: private and writable, but for stacks (`RLIMIT_DATA`).
    pub fn data_size(&self) -> u64 {
        self.vmas.lock().set.iter().filter(|vma| is_data(vma)).map(Vma::length).sum()
    }

    /// How many bytes are stacks that grow.
    pub fn stack_size(&self) -> u64 {
        let vmas = self.vmas.lock();
        vmas.set.iter().filter(|vma| vma.flags.contains(VmaFlags::GROWS_DOWN)).map(Vma::length).sum()
    }

    /// How many bytes of `range` would become data if they could be written.
    pub fn future_data(&self, range: Range<u64>) -> u64 {
        let vmas = self.vmas.lock();
        let overlapping = vmas.set.overlapping(range.clone());
        let becomes = overlapping
            .filter(|vma| !vma.flags.intersects(VmaFlags::SHARED | VmaFlags::GROWS_DOWN) && !is_data(vma));
        becomes.map(|vma| vma.end.min(range.end) - vma.start.max(range.start)).sum()
    }

    /// Whether every address of `range` is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        self.vmas.lock().set.covers(range)
    }

    /// How many mappings are such as `wanted` says.
    pub fn count_mappings(&self, wanted: impl Fn(&Vma) -> bool) -> usize {
        self.vmas.lock().set.iter().filter(|vma| wanted(vma)).count()
    }

    /// The files that are mapped shared in `range`, for `msync(2)`.
    pub fn shared_files(&self, range: Range<u64>) -> Vec<Arc<File>> {
        let vmas = self.vmas.lock();
        let shared = vmas.set.overlapping(range).filter(|vma| vma.flags.contains(VmaFlags::SHARED));
        shared
            .filter_map(|vma| match &vma.backing {
                Backing::File { file, .. } => Some(Arc::clone(file)),
                _ => None,
            })
            .collect()
    }

    /// Whether the file with this number is mapped so that it can be written.
    pub fn may_write(&self, inode: u64) -> bool {
        let vmas = self.vmas.lock();
        vmas.set.iter().any(|vma| {
            let changes = vma.flags.contains(VmaFlags::SHARED) && vma.maximum.contains(Protection::WRITE);
            let file = match &vma.backing {
                Backing::File { file, .. } if changes => file.inode(),
                _ => None,
            };
            file.is_some_and(|file| file.common().id == inode)
        })
    }

    /// All mappings in ascending order, for `/proc/PID/maps`.
    pub fn mappings(&self) -> Vec<MappingInfo> {
        let vmas: Vec<Vma> = self.vmas.lock().set.iter().cloned().collect();
        vmas.into_iter()
            .map(|vma| {
                let (file, offset) = match &vma.backing {
                    Backing::File { file, offset } => (Some(Arc::clone(file)), *offset),
                    _ => (None, 0),
                };
                let metadata =
                    file.as_ref().and_then(|file| file.inode()?.metadata().ok()).unwrap_or_default();
                MappingInfo { vma, device: metadata.device, inode: metadata.inode, offset, file }
            })
            .collect()
    }
}

/// The backing of `vma` as seen from `address` (which may lie behind its end).
fn shifted(vma: &Vma, address: u64) -> Backing {
    let mut backing = vma.backing.clone();
    match &mut backing {
        Backing::Anonymous => {}
        Backing::Shared { offset, .. } | Backing::File { offset, .. } => *offset += address - vma.start,
    }
    backing
}

impl CurrentTask {
    /// Extends a stack mapping (`MAP_GROWSDOWN`) so that it covers `address`, if there is one that may; returns
    /// whether it did.
    pub fn grow_stack(&self, address: u64) -> bool {
        let Ok(memory) = self.mm() else { return false };
        let limit = self.group.limit(Resource::Stack);
        memory.grow_down(&mut **self.context.borrow_mut(), address, limit)
    }
}

fn is_data(vma: &Vma) -> bool {
    vma.protection.contains(Protection::WRITE)
        && !vma.flags.intersects(VmaFlags::SHARED | VmaFlags::GROWS_DOWN)
}

impl ThreadGroup {
    /// `ENOMEM` if `added` more bytes of data would go beyond the limit.
    pub fn check_data(&self, memory: &MemoryMap, added: u64) -> SysResult<()> {
        let limit = self.limit(Resource::Data);
        // Without a limit nothing is counted.
        if limit == crate::task::limits::INFINITY || added == 0 {
            return Ok(());
        }
        if memory.data_size().saturating_add(added) > limit { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// `ENOMEM` if `added` more bytes would go beyond the limit of the address space.
    pub fn check_address_space(&self, memory: &MemoryMap, added: u64) -> SysResult<()> {
        let limit = self.limit(Resource::AddressSpace);
        if memory.size().0.saturating_add(added) > limit { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}
