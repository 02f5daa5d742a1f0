//! System calls on memory.

use std::ops::Range;
use std::sync::Arc;

use abi::{Errno, SysResult};

use super::map::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_HUGETLB, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE,
    MemoryMap, round_up,
};
pub use super::policy::{
    get_mempolicy, mbind, migrate_pages, move_pages, set_mempolicy, set_mempolicy_home_node,
};
use super::{MapRequest, PAGE_SIZE, Protection};
use crate::fs::File;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::task::limits::Resource;

const PROT_SEM: u32 = 8;
const PROT_GROWSDOWN: u32 = 0x0100_0000;
const PROT_GROWSUP: u32 = 0x0200_0000;
/// The kinds of `MAP_*` flags that `MAP_SHARED_VALIDATE` accepts: all that are known but `MAP_SYNC`.
const KNOWN_FLAGS: u32 = 0x1f_ffff & !0x8_0000;
const MAP_TYPE: u32 = 0xf;

/// The pages that `length` bytes from `start` touch: `EINVAL` unless aligned, `ENOMEM` beyond the address space.
fn pages(start: u64, length: u64) -> SysResult<Range<u64>> {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let length = if length == 0 { 0 } else { round_up(length).ok_or(Errno::ENOMEM)? };
    let end = start.checked_add(length).ok_or(Errno::ENOMEM)?;
    Ok(start..end)
}

/// `mmap(2)`.
pub fn mmap(
    task: &CurrentTask,
    address: u64,
    length: u64,
    protection: Flags,
    flags: Flags,
    fd: Fd,
    offset: u64,
) -> SysResult<u64> {
    let (protection, flags) = (protection.0, flags.0);
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let file = if flags & MAP_ANONYMOUS == 0 { Some(task.file(fd)?) } else { None };
    if file.as_ref().is_some_and(|file| file.flags().contains(abi::fs::OpenFlags::PATH)) {
        return Err(Errno::EBADF);
    }
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM);
    }
    let size = round_up(length).ok_or(Errno::ENOMEM)?;
    if offset.checked_add(size).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let kind = flags & MAP_TYPE;
    if kind == MAP_SHARED_VALIDATE && flags & !KNOWN_FLAGS != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if !matches!(kind, MAP_SHARED | MAP_PRIVATE | MAP_SHARED_VALIDATE) {
        return Err(Errno::EINVAL);
    }
    if let Some(file) = &file {
        check_access(file, protection, kind != MAP_PRIVATE)?;
    }
    let memory = task.mm()?;
    task.group.check_address_space(&memory, size)?;
    if kind == MAP_PRIVATE && protection & Protection::WRITE.bits() != 0 {
        task.group.check_data(&memory, size)?;
    }
    if flags & super::map::MAP_LOCKED != 0 {
        check_locked(task, &memory, size)?;
    }
    // Linux rounds a hint below the lowest address up to it rather than refusing it.
    let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    let address = if fixed { address } else { address & !(PAGE_SIZE - 1) };
    let request = MapRequest {
        address,
        length,
        protection: protection & Protection::all().bits(),
        flags: if kind == MAP_SHARED_VALIDATE { flags & !MAP_TYPE | MAP_SHARED } else { flags },
        file: file.map(|file| (file, offset)),
        name: "",
    };
    memory.map(&mut **task.context.borrow_mut(), &request)
}

/// `EACCES` unless the file's access mode allows the mapping.
fn check_access(file: &Arc<File>, protection: u32, shared: bool) -> SysResult<()> {
    let flags = file.flags();
    let writes = shared && protection & Protection::WRITE.bits() != 0;
    if !flags.readable() || (writes && !flags.writable()) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// `munmap(2)`.
pub fn munmap(task: &CurrentTask, address: u64, length: u64) -> SysResult<()> {
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    let range = pages(address, length).map_err(|_| Errno::EINVAL)?;
    let memory = task.mm()?;
    if range.end > memory.bounds().end.next_power_of_two() {
        return Err(Errno::EINVAL);
    }
    memory.unmap(&mut **task.context.borrow_mut(), range)
}

/// `mprotect(2)`.
pub fn mprotect(task: &CurrentTask, address: u64, length: u64, protection: Flags) -> SysResult<()> {
    let mut protection = protection.0;
    let grows = protection & (PROT_GROWSDOWN | PROT_GROWSUP);
    protection &= !grows;
    if grows == PROT_GROWSDOWN | PROT_GROWSUP || protection & !(Protection::all().bits() | PROT_SEM) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut range = pages(address, length)?;
    if range.is_empty() {
        return Ok(());
    }
    let memory = task.mm()?;
    if grows != 0 {
        let containing =
            memory.mappings().into_iter().find(|m| m.vma.start <= range.start && range.start < m.vma.end);
        match containing {
            Some(mapping)
                if grows == PROT_GROWSDOWN && mapping.vma.flags.contains(super::VmaFlags::GROWS_DOWN) =>
            {
                range.start = mapping.vma.start;
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    if protection & Protection::WRITE.bits() != 0 {
        task.group.check_data(&memory, memory.future_data(range.clone()))?;
    }
    memory.protect(&mut **task.context.borrow_mut(), range, Protection::from_bits_truncate(protection))
}

/// `pkey_mprotect(2)` with the key -1, which means `mprotect(2)`; there are no other keys.
pub fn pkey_mprotect(
    task: &CurrentTask,
    address: u64,
    length: u64,
    protection: Flags,
    key: i32,
) -> SysResult<()> {
    if key != -1 {
        return Err(Errno::EINVAL);
    }
    mprotect(task, address, length, protection)
}

/// `mseal(2)`.
pub fn mseal(task: &CurrentTask, address: u64, length: u64, flags: u64) -> SysResult<()> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let range = pages(address, length).map_err(|_| Errno::EINVAL)?;
    if range.is_empty() { Ok(()) } else { task.mm()?.seal(range) }
}

/// `pkey_alloc(2)`: `EINVAL`, as on a processor without protection keys.
pub fn pkey_alloc(_task: &CurrentTask, _flags: u64, _rights: u64) -> SysResult<i32> {
    Err(Errno::EINVAL)
}

/// `pkey_free(2)`: no key was ever allocated.
pub fn pkey_free(_task: &CurrentTask, _key: i32) -> SysResult<()> {
    Err(Errno::EINVAL)
}

/// `brk(2)`: returns where the heap ends then, whether it could be moved or not.
pub fn brk(task: &CurrentTask, end: u64) -> SysResult<u64> {
    let memory = task.mm()?;
    if end == 0 {
        return Ok(memory.brk());
    }
    let added = end.saturating_sub(memory.brk());
    let group = &task.group;
    if group.check_address_space(&memory, added).is_err() || group.check_data(&memory, added).is_err() {
        return Ok(memory.brk());
    }
    let limit = task.group.limit(Resource::Data);
    Ok(memory.set_brk(&mut **task.context.borrow_mut(), end, limit))
}

/// `mremap(2)`.
pub fn mremap(
    task: &CurrentTask,
    address: u64,
    old_length: u64,
    new_length: u64,
    flags: Flags,
    new_address: u64,
) -> SysResult<u64> {
    const MAYMOVE: u32 = 1;
    const FIXED: u32 = 2;
    const DONTUNMAP: u32 = 4;
    let flags = flags.0;
    let may_move = flags & MAYMOVE != 0;
    if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0 || (flags & (FIXED | DONTUNMAP) != 0 && !may_move) {
        return Err(Errno::EINVAL);
    }
    let old = pages(address, old_length).map_err(|_| Errno::EINVAL)?;
    let new_length = round_up(new_length).filter(|length| *length > 0).ok_or(Errno::EINVAL)?;
    if flags & DONTUNMAP != 0 && new_length != old.end - old.start {
        return Err(Errno::EINVAL);
    }
    let fixed = (flags & FIXED != 0).then_some(new_address);
    if fixed.is_some_and(|target| target % PAGE_SIZE != 0) {
        return Err(Errno::EINVAL);
    }
    let memory = task.mm()?;
    task.group.check_address_space(&memory, new_length.saturating_sub(old.end - old.start))?;
    let mut context = task.context.borrow_mut();
    memory.remap(&mut **context, old, new_length, may_move, fixed, flags & DONTUNMAP != 0)
}

/// `madvise(2)`.
pub fn madvise(task: &CurrentTask, address: u64, length: u64, advice: i32) -> SysResult<()> {
    /// `MADV_*` that the host carries out: from `MADV_NORMAL` to `MADV_DONTNEED`, and those named.
    fn supported(advice: u32) -> bool {
        matches!(advice, 0..=4 | 8..=21 | 22 | 23 | 25)
    }
    let advice = u32::try_from(advice).ok().filter(|advice| supported(*advice)).ok_or(Errno::EINVAL)?;
    let range = pages(address, length).map_err(|_| Errno::EINVAL)?;
    if range.is_empty() {
        return Ok(());
    }
    task.mm()?.advise(&mut **task.context.borrow_mut(), range, advice)
}

/// `msync(2)`.
pub fn msync(task: &CurrentTask, address: u64, length: u64, flags: Flags) -> SysResult<()> {
    const ASYNC: u32 = 1;
    const INVALIDATE: u32 = 2;
    const SYNC: u32 = 4;
    let flags = flags.0;
    if flags & !(ASYNC | INVALIDATE | SYNC) != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::EINVAL);
    }
    let range = pages(address, length)?;
    let memory = task.mm()?;
    if flags & SYNC != 0 {
        for file in memory.shared_files(range.clone()) {
            file.ops().sync()?;
        }
    }
    if memory.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// `mincore(2)`: every page that is mapped counts as present, because the host may bring it back at any time.
pub fn mincore(task: &CurrentTask, address: u64, length: u64, vector: u64) -> SysResult<()> {
    let range = pages(address, length)?;
    let memory = task.mm()?;
    if !memory.covers(range.clone()) {
        return Err(Errno::ENOMEM);
    }
    let mut left = usize::try_from((range.end - range.start) / PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    let mut at = vector;
    let present = [1u8; 4096];
    while left > 0 {
        let count = left.min(present.len());
        task.write_bytes(at, &present[..count])?;
        at = at.wrapping_add(count as u64);
        left -= count;
    }
    Ok(())
}

/// `ENOMEM` (or `EPERM` without any allowance) if `added` more locked bytes would go beyond the limit.
fn check_locked(task: &CurrentTask, memory: &MemoryMap, added: u64) -> SysResult<()> {
    if task.credentials().has(Capability::IPC_LOCK) {
        return Ok(());
    }
    let limit = task.group.limit(Resource::LockedMemory);
    if limit == 0 {
        return Err(Errno::EPERM);
    }
    if memory.locked().saturating_add(added) > limit { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// The pages that `mlock(2)` means: those that the bytes touch, aligned or not.
fn touched(address: u64, length: u64) -> SysResult<Range<u64>> {
    let start = address & !(PAGE_SIZE - 1);
    let end = address.checked_add(length).and_then(round_up).ok_or(Errno::ENOMEM)?;
    Ok(start..end)
}

/// `mlock(2)`.
pub fn mlock(task: &CurrentTask, address: u64, length: u64) -> SysResult<()> {
    mlock2(task, address, length, Flags(0))
}

/// `mlock2(2)`.
pub fn mlock2(task: &CurrentTask, address: u64, length: u64, flags: Flags) -> SysResult<()> {
    if flags.0 & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let range = touched(address, length)?;
    let memory = task.mm()?;
    check_locked(task, &memory, range.end - range.start)?;
    if range.is_empty() {
        return Ok(());
    }
    memory.lock(&mut **task.context.borrow_mut(), range, true)
}

/// `munlock(2)`.
pub fn munlock(task: &CurrentTask, address: u64, length: u64) -> SysResult<()> {
    let range = touched(address, length)?;
    if range.is_empty() {
        return Ok(());
    }
    task.mm()?.lock(&mut **task.context.borrow_mut(), range, false)
}

/// `mlockall(2)`.
pub fn mlockall(task: &CurrentTask, flags: Flags) -> SysResult<()> {
    const CURRENT: u32 = 1;
    const FUTURE: u32 = 2;
    const ONFAULT: u32 = 4;
    let flags = flags.0;
    if flags == 0 || flags & !(CURRENT | FUTURE | ONFAULT) != 0 || flags == ONFAULT {
        return Err(Errno::EINVAL);
    }
    let memory = task.mm()?;
    if flags & CURRENT != 0 {
        check_locked(task, &memory, memory.size().0)?;
    }
    memory.lock_all(flags & CURRENT != 0, flags & FUTURE != 0);
    Ok(())
}

/// `munlockall(2)`.
pub fn munlockall(task: &CurrentTask) -> SysResult<()> {
    task.mm()?.lock_all(false, false);
    Ok(())
}
