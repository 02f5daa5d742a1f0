//! The descriptor table of a process.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use platform::{DirectFiles, Uses};

use super::File;
use crate::syscalls::Fd;

/// The most that a limit on descriptors may be (`/proc/sys/fs/nr_open`).
pub const MAX_DESCRIPTORS: u64 = 1 << 20;

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    close_on_exec: bool,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No free slot lies below.
    first_free: usize,
    /// The address space whose threads use some of the files by themselves ([`super::direct`]).
    space: Option<Weak<dyn DirectFiles>>,
}

impl Slots {
    /// The descriptor does not stand for its file any longer.
    #[inline]
    fn leaves(&self, index: usize) {
        if let Some(space) = &self.space {
            revoke(space, index);
        }
    }
}

#[cold]
fn revoke(space: &Weak<dyn DirectFiles>, index: usize) {
    if let Some(space) = space.upgrade() {
        space.revoke(index as u32);
    }
}

/// Descriptors and the open files that they stand for. Shared by tasks that were cloned with `CLONE_FILES`.
pub struct FdTable {
    /// A number that no other table of this kernel has; not zero.
    id: u64,
    inner: Mutex<Slots>,
}

impl Default for FdTable {
    fn default() -> FdTable {
        FdTable::with(Slots::default())
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.leave_space();
    }
}

impl FdTable {
    fn with(slots: Slots) -> FdTable {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        FdTable { id: NEXT.fetch_add(1, Ordering::Relaxed), inner: Mutex::new(slots) }
    }

    /// A table with the same descriptors, for `fork(2)`.
    pub fn copy(&self) -> FdTable {
        let inner = self.inner.lock();
        FdTable::with(Slots { slots: inner.slots.clone(), first_free: inner.first_free, space: None })
    }

    /// What it is called by [`DirectFiles`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Lets the threads of an address space use a file by themselves, if this descriptor stands for it. A table is tied to the
    /// first address space that is.
    pub fn publish(&self, fd: Fd, file: &Arc<File>, space: &Arc<dyn DirectFiles>, uses: Uses) -> bool {
        let mut inner = self.inner.lock();
        let slot = usize::try_from(fd.0).ok().and_then(|index| inner.slots.get(index)?.as_ref());
        let stands = slot.is_some_and(|slot| Arc::ptr_eq(&slot.file, file));
        let other = |held: Arc<dyn DirectFiles>| !std::ptr::addr_eq(Arc::as_ptr(&held), Arc::as_ptr(space));
        if !stands || inner.space.as_ref().and_then(Weak::upgrade).is_some_and(other) {
            return false;
        }
        let Some(description) = file.ops().own_description() else { return false };
        inner.space = Some(Arc::downgrade(space));
        space.publish(self.id, fd.0.cast_unsigned(), description, uses)
    }

    /// Takes its files back from the address space that it is tied to, and is tied to none.
    pub fn leave_space(&self) {
        let space = self.inner.lock().space.take();
        if let Some(space) = space.and_then(|space| space.upgrade()) {
            space.disown(self.id);
        }
    }

    /// Whether some descriptor stands for the file with this description of the host's.
    pub fn has(&self, description: &Arc<OwnedFd>) -> bool {
        let inner = self.inner.lock();
        let own =
            |slot: &Slot| slot.file.ops().own_description().is_some_and(|own| Arc::ptr_eq(own, description));
        inner.slots.iter().flatten().any(own)
    }

    /// The open file behind `fd`: `EBADF` if there is none.
    pub fn get(&self, fd: Fd) -> SysResult<Arc<File>> {
        let inner = self.inner.lock();
        let slot = usize::try_from(fd.0).ok().and_then(|index| inner.slots.get(index)?.as_ref());
        slot.map(|slot| Arc::clone(&slot.file)).ok_or(Errno::EBADF)
    }

    /// Puts `file` at the lowest free descriptor from `minimum` on: `EMFILE` if that would reach `limit`.
    pub fn install(&self, file: Arc<File>, minimum: u32, limit: u64, close_on_exec: bool) -> SysResult<Fd> {
        let mut inner = self.inner.lock();
        let start = inner.first_free.max(minimum as usize);
        let length = inner.slots.len();
        let index = (start..length).find(|index| inner.slots[*index].is_none()).unwrap_or(length.max(start));
        if index as u64 >= limit {
            return Err(Errno::EMFILE);
        }
        let fd = i32::try_from(index).map_err(|_| Errno::EMFILE)?;
        if index >= length {
            inner.slots.resize(index + 1, None);
        }
        inner.slots[index] = Some(Slot { file, close_on_exec });
        if minimum as usize <= inner.first_free {
            inner.first_free = index + 1;
        }
        Ok(Fd(fd))
    }

    /// Puts `file` at exactly `fd` and returns what was there: `EBADF` if `fd` is negative or reaches `limit`.
    pub fn replace(
        &self,
        fd: Fd,
        file: Arc<File>,
        limit: u64,
        close_on_exec: bool,
    ) -> SysResult<Option<Arc<File>>> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit {
            return Err(Errno::EBADF);
        }
        let mut inner = self.inner.lock();
        if index >= inner.slots.len() {
            inner.slots.resize(index + 1, None);
        }
        inner.leaves(index);
        let old = inner.slots[index].replace(Slot { file, close_on_exec });
        Ok(old.map(|slot| slot.file))
    }

    /// Takes the descriptor out of the table and returns its file: `EBADF` if there is none.
    pub fn remove(&self, fd: Fd) -> SysResult<Arc<File>> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        let mut inner = self.inner.lock();
        inner.leaves(index);
        let slot = inner.slots.get_mut(index).and_then(Option::take).ok_or(Errno::EBADF)?;
        inner.first_free = inner.first_free.min(index);
        Ok(slot.file)
    }

    /// Whether the descriptor is closed by `execve(2)`.
    pub fn close_on_exec(&self, fd: Fd) -> SysResult<bool> {
        let inner = self.inner.lock();
        let slot = usize::try_from(fd.0).ok().and_then(|index| inner.slots.get(index)?.as_ref());
        slot.map(|slot| slot.close_on_exec).ok_or(Errno::EBADF)
    }

    /// Sets whether the descriptor is closed by `execve(2)`.
    pub fn set_close_on_exec(&self, fd: Fd, value: bool) -> SysResult<()> {
        let mut inner = self.inner.lock();
        let slot = usize::try_from(fd.0).ok().and_then(|index| inner.slots.get_mut(index)?.as_mut());
        slot.ok_or(Errno::EBADF)?.close_on_exec = value;
        Ok(())
    }

    /// Takes out all descriptors that `selected` says yes to (number, close-on-exec) and returns their files.
    pub fn remove_where(&self, mut selected: impl FnMut(u32, bool) -> bool) -> Vec<Arc<File>> {
        let mut inner = self.inner.lock();
        let mut removed = Vec::new();
        for index in 0..inner.slots.len() {
            let close =
                inner.slots[index].as_ref().is_some_and(|slot| selected(index as u32, slot.close_on_exec));
            if close && let Some(slot) = inner.slots[index].take() {
                inner.leaves(index);
                removed.push(slot.file);
                inner.first_free = inner.first_free.min(index);
            }
        }
        removed
    }

    /// All descriptors in ascending order, with their files.
    pub fn entries(&self) -> Vec<(Fd, Arc<File>, OpenFlags)> {
        let inner = self.inner.lock();
        let used = inner.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)));
        used.map(|(index, slot)| {
            let close = if slot.close_on_exec { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
            (Fd(index as i32), Arc::clone(&slot.file), slot.file.flags() | close)
        })
        .collect()
    }

    /// How large the table is (`FDSize` in `/proc/PID/status`).
    pub fn capacity(&self) -> usize {
        self.inner.lock().slots.len().next_power_of_two().max(64)
    }
}
