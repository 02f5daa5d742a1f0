//! Memory shared with another process that may be hostile.
//!
//! A [`SharedMapping`] never hands out a reference to plain bytes: everything is copied, with instructions that the
//! compiler cannot see through, so that a peer that changes the bytes meanwhile changes only what is copied.

use std::arch::asm;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// A `MAP_SHARED` mapping of part of a file, unmapped on drop.
#[derive(Debug)]
pub struct SharedMapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access goes through atomics and opaque copies.
unsafe impl Send for SharedMapping {}
// SAFETY: as above; no method gives exclusive access.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Maps `length` bytes of `file` from `offset` (both multiples of the page size) for reading and writing.
    ///
    /// The file must stay at least that long: access beyond its end is a fatal SIGBUS.
    pub fn new(file: impl AsFd, offset: u64, length: usize) -> io::Result<SharedMapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an unused range, so that no memory known to Rust is replaced.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, offset)?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedMapping { base, length })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the mapping has no bytes; it never is.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(fits, "access of {length} bytes at {offset:#x} beyond the mapping");
        // SAFETY: `offset` lies within the mapping, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The 32-bit word at `offset`, which must be aligned and inside: panics otherwise.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "unaligned word");
        // SAFETY: aligned (the mapping is page-aligned), inside the mapping, and alive as long as `self`; any bit
        // pattern is valid and other processes' accesses are to atomics what other threads' are.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// The 64-bit word at `offset`, which must be aligned and inside: panics otherwise.
    pub fn double_word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "unaligned word");
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// Reads the 64-bit word at `offset`; panics when it is unaligned or outside.
    pub fn load(&self, offset: usize) -> u64 {
        self.double_word(offset).load(Ordering::Relaxed)
    }

    /// Writes the 64-bit word at `offset`; panics when it is unaligned or outside.
    pub fn store(&self, offset: usize, value: u64) {
        self.double_word(offset).store(value, Ordering::Relaxed);
    }

    /// Copies bytes at `offset` out; panics when they are not all inside.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) {
        let source = self.at(offset, buffer.len());
        // SAFETY: both ranges are valid for the length; opaque to the compiler, so that a concurrent writer only
        // makes the copied bytes arbitrary.
        unsafe { copy(buffer.as_mut_ptr(), source, buffer.len()) }
    }

    /// `pread(2)`: reads `length` bytes at `position` of a file to `offset`, or at the file's own position; panics when they do
    /// not all fit.
    ///
    /// # Errors
    /// What the host says.
    pub fn read_file(
        &self,
        file: BorrowedFd<'_>,
        position: Option<u64>,
        offset: usize,
        length: usize,
    ) -> io::Result<usize> {
        let target = self.at(offset, length);
        let count = match position {
            // SAFETY: the range is valid for the length, and no reference to plain bytes in it exists.
            None => unsafe { libc::read(file.as_raw_fd(), target.cast(), length) },
            // SAFETY: likewise.
            Some(position) => unsafe {
                libc::pread(file.as_raw_fd(), target.cast(), length, signed(position)?)
            },
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// `pwrite(2)`: writes `length` bytes from `offset` to `position` of a file, or to the file's own position; panics when they
    /// are not all inside.
    ///
    /// # Errors
    /// What the host says.
    pub fn write_file(
        &self,
        file: BorrowedFd<'_>,
        position: Option<u64>,
        offset: usize,
        length: usize,
    ) -> io::Result<usize> {
        let source = self.at(offset, length);
        let count = match position {
            // SAFETY: the range is valid for the length; the host copies it.
            None => unsafe { libc::write(file.as_raw_fd(), source.cast(), length) },
            // SAFETY: likewise.
            Some(position) => unsafe {
                libc::pwrite(file.as_raw_fd(), source.cast(), length, signed(position)?)
            },
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Copies `bytes` to `offset`; panics when they do not all fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.at(offset, bytes.len());
        // SAFETY: both ranges are valid for the length.
        unsafe { copy(target, bytes.as_ptr(), bytes.len()) }
    }
}

fn signed(position: u64) -> io::Result<i64> {
    i64::try_from(position).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and no reference into it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// # Safety
/// Both ranges must be valid for `length` bytes.
unsafe fn copy(target: *mut u8, source: *const u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rdi") target => _, inout("rsi") source => _, inout("rcx") length => _,
            options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_mappings_of_a_file_see_the_same_bytes() {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        let (one, two) =
            (SharedMapping::new(&file, 0, 8192).unwrap(), SharedMapping::new(&file, 4096, 4096).unwrap());
        one.write(4096, b"hello");
        let mut bytes = [0; 5];
        two.read(0, &mut bytes);
        assert_eq!(&bytes, b"hello");
        one.word(4100).store(7, Ordering::SeqCst);
        assert_eq!(two.load(0) >> 32, 7);
        assert_eq!(one.write_file(file.as_fd(), Some(2), 4096, 5).unwrap(), 5);
        assert_eq!(two.read_file(file.as_fd(), Some(2), 8, 5).unwrap(), 5);
        two.read(8, &mut bytes);
        assert_eq!(&bytes[..4], b"hell");
        assert!(one.read_file(file.as_fd(), Some(u64::MAX), 0, 5).is_err());
        // At the file's own offset, which moves.
        assert_eq!(two.write_file(file.as_fd(), None, 8, 2).unwrap(), 2);
        assert_eq!(one.read_file(file.as_fd(), None, 0, 4).unwrap(), 4);
        assert_eq!(rustix::fs::tell(&file).unwrap(), 6);
        one.read(0, &mut bytes);
        assert_eq!(&bytes[..4], b"hell");
    }
}
