//! Memory maps: which addresses of a guest mean what.
//!
//! The host does paging, copy-on-write and swapping for us (`docs/architecture.md`); a [`MemoryMap`] holds the list of
//! mappings (VMAs), chooses addresses, and tells the platform what to map. Every change of a map and the platform's
//! operation that carries it out are made under the map's lock.

use std::ops::Range;
use std::sync::Arc;

use abi::SysResult;
use parking_lot::Mutex;
use platform::{AddressSpace, Context};

use crate::fs::File;
use crate::task::CurrentTask;

pub mod syscalls;

/// A page of memory.
pub const PAGE_SIZE: u64 = 4096;

/// What `mmap(2)` is asked for, checked by the caller.
pub struct MapRequest {
    /// The address: exact for `fixed`, else a hint; zero for none.
    pub address: u64,
    /// Length in bytes, not zero; rounded up to pages.
    pub length: u64,
    /// `PROT_*`.
    pub protection: u32,
    /// `MAP_*`.
    pub flags: u32,
    /// The file and the offset in it; `None` for anonymous memory.
    pub file: Option<(Arc<File>, u64)>,
    /// What `/proc/PID/maps` calls it when it is no file: `[stack]`, `[heap]`; empty for nothing.
    pub name: &'static str,
}

/// What identifies a futex word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FutexKey {
    /// In private memory: the map and the address.
    Private {
        /// [`MemoryMap::id`].
        map: u64,
        /// The word's address.
        address: u64,
    },
    /// In shared memory: the object that is mapped and the offset in it.
    Shared {
        /// The file's inode or the anonymous object.
        object: u64,
        /// The word's offset.
        offset: u64,
    },
}

/// Where the kernel keeps what `prctl(PR_SET_MM)` sets and `/proc/PID/stat` shows.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "the names are those of prctl(2)")]
pub struct Layout {
    pub code: Range<u64>,
    pub data: Range<u64>,
    pub brk_start: u64,
    pub stack_start: u64,
    pub arguments: Range<u64>,
    pub environment: Range<u64>,
    pub auxv: Vec<u8>,
    /// The program, for `/proc/PID/exe`.
    pub executable: Option<Arc<File>>,
}

/// A process's memory, shared by tasks cloned with `CLONE_VM`.
pub struct MemoryMap {
    /// A number that no other map of this kernel has.
    pub id: u64,
    space: Arc<dyn AddressSpace>,
    /// Where the program's parts are.
    pub layout: Mutex<Layout>,
}

impl MemoryMap {
    /// The map of a fresh address space.
    pub fn new(context: &dyn Context) -> Arc<MemoryMap> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(MemoryMap {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            space: Arc::clone(context.space()),
            layout: Mutex::default(),
        })
    }

    /// Guest memory, for reading another process's (`/proc/PID/cmdline`).
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    /// `mmap(2)`: returns the address.
    pub fn map(&self, _context: &mut dyn Context, _request: &MapRequest) -> SysResult<u64> {
        Err(abi::Errno::ENOMEM)
    }

    /// Sets where the heap begins, after a program was loaded.
    pub fn set_brk_start(&self, address: u64) {
        self.layout.lock().brk_start = address;
    }

    /// `fork(2)`: a context in a copy of the memory, and its map.
    pub fn fork(&self, context: &mut dyn Context) -> SysResult<(Arc<MemoryMap>, Box<dyn Context>)> {
        let child = context.fork()?;
        Ok((MemoryMap::new(&*child), child))
    }

    /// What identifies the futex word at `address`; `private` is `FUTEX_PRIVATE_FLAG`. `EFAULT` where nothing is mapped.
    pub fn futex_key(&self, address: u64, _private: bool) -> SysResult<FutexKey> {
        Ok(FutexKey::Private { map: self.id, address })
    }
}

impl CurrentTask {
    /// Extends a stack mapping (`MAP_GROWSDOWN`) so that it covers `address`, if there is one that may; returns whether it did.
    pub fn grow_stack(&self, _address: u64) -> bool {
        false
    }
}
