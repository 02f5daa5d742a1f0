//! Memory maps: which addresses of a guest mean what.
//!
//! The host does paging, copy-on-write and swapping for us (`docs/architecture.md`); a [`MemoryMap`] holds the list of
//! mappings (VMAs), chooses addresses, and tells the platform what to map. Every change of a map and the platform's
//! operation that carries it out are made under the map's lock.

use std::ops::Range;
use std::sync::Arc;

use crate::fs::File;

mod map;
mod mapper;
pub mod policy;
mod sites;
pub mod syscalls;
mod vma;

pub use map::{MappingInfo, MemoryMap, PIE_BASE};
pub use mapper::Plan;
pub use sites::CallSites;
pub use vma::{Backing, Protection, Vma, VmaFlags, VmaSet};

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
