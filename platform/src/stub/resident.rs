//! Files that a stub process holds, so that its threads themselves read them into guest memory.
//!
//! What is read much becomes *resident*: the stub gets a copy of the descriptor, with a number of [`FILES`], from which its
//! filter lets it read and do nothing else. So one copy is made of the data, by the host, where otherwise the kernel reads
//! into a slot and the stub copies from there. To the guest it gives nothing that it has not: only what it may read is read
//! for it, and guest code that jumps into the stub to read more of the file reads what it could have asked the kernel for.
//!
//! A resident file stays open while a stub has it, so it must not be one whose being open keeps others from anything: it
//! is open for reading only, or has no name. It leaves when the kernel has closed it, with the next call of the guest's.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use host::rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::layout::FILES;

/// How much reading makes a file resident: each call counts as one, and as another for each of so many bytes.
const CREDIT: u64 = 16;
const BYTES_PER_CREDIT: usize = 8 << 10;
/// In place of credit: the file had better not be asked about again.
const REFUSED: u64 = u64::MAX;

/// What is resident, by number.
pub type Files = [Option<Weak<OwnedFd>>; FILES.end as usize - FILES.start as usize];

/// The resident files of a stub process.
#[derive(Debug, Default)]
pub struct Residents {
    /// Locked for reading while the stub uses one, for writing while they change. Neither is waited for: there are other
    /// ways to read a file.
    files: RwLock<Files>,
    /// Whether there may be any.
    any: AtomicBool,
    /// What was read last that is not resident, and what has been read of it.
    candidate: Mutex<(Weak<OwnedFd>, u64)>,
}

/// Whether a file is what is held.
pub fn is(held: Option<&Weak<OwnedFd>>, file: &Arc<OwnedFd>) -> bool {
    // As long as there is a `Weak`, its address is no other's.
    held.is_some_and(|held| held.as_ptr() == Arc::as_ptr(file))
}

impl Residents {
    /// The files, to copy the process with; they stay the same as long as this is there.
    pub fn hold(&self) -> RwLockReadGuard<'_, Files> {
        self.files.read()
    }

    /// Takes note of what a copy of a process has been born with.
    pub fn inherit(&self, files: &Files) {
        self.files.write().clone_from(files);
        self.any.store(files.iter().any(Option::is_some), Ordering::Relaxed);
    }

    /// Does `read` with the number that the stub has the file by; nothing if it has not.
    pub fn with<T>(&self, file: &Arc<OwnedFd>, read: impl FnOnce(u32) -> T) -> Option<T> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let files = self.files.try_read()?;
        let index = files.iter().position(|held| is(held.as_ref(), file))?;
        Some(read(FILES.start + index as u32))
    }

    /// Notes that so many bytes of a file are about to be read that is not resident; whether it had better be.
    pub fn is_worth_it(&self, file: &Arc<OwnedFd>, length: usize) -> bool {
        let Some(mut candidate) = self.candidate.try_lock() else { return false };
        let (last, credit) = &mut *candidate;
        if !is(Some(last), file) {
            (*last, *credit) = (Arc::downgrade(file), 0);
        }
        if *credit == REFUSED {
            return false;
        }
        let before = *credit;
        *credit = before.saturating_add(1 + (length / BYTES_PER_CREDIT) as u64);
        // What a single read costs is not worth it, however large.
        if before == 0 || *credit < CREDIT {
            return false;
        }
        let may = may_stay_open(file);
        if !may {
            *credit = REFUSED;
        }
        may
    }

    /// Makes a file resident by what `give` does with a number for it.
    pub fn take(&self, file: &Arc<OwnedFd>, give: impl FnOnce(u32) -> bool) {
        let Some(mut files) = self.files.try_write() else { return };
        let free = files.iter().position(|held| held.as_ref().is_none_or(|held| held.strong_count() == 0));
        // Without one, any will do: whose place is taken too often has too many files to gain much.
        let index = free.unwrap_or(Arc::as_ptr(file).addr() / size_of::<Arc<OwnedFd>>() % files.len());
        if give(FILES.start + index as u32) {
            files[index] = Some(Arc::downgrade(file));
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets a file that the stub does not have after all.
    pub fn forget(&self, file: &Arc<OwnedFd>) {
        let Some(mut files) = self.files.try_write() else { return };
        files.iter_mut().filter(|held| is(held.as_ref(), file)).for_each(|held| *held = None);
    }

    /// Has `close` close those that the kernel has closed.
    pub fn close_unused(&self, close: impl FnOnce(&[u32])) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let Some(files) = self.files.try_read() else { return };
        if files.iter().flatten().all(|held| held.strong_count() > 0) {
            return;
        }
        drop(files);
        let Some(mut files) = self.files.try_write() else { return };
        let mut unused = Vec::new();
        for (number, held) in FILES.zip(files.iter_mut()) {
            if held.take_if(|held| held.strong_count() == 0).is_some() {
                unused.push(number);
            }
        }
        self.any.store(files.iter().any(Option::is_some), Ordering::Relaxed);
        close(&unused);
    }
}

/// Whether nobody is kept from anything by a file's being open for somewhat longer.
pub fn may_stay_open(file: &OwnedFd) -> bool {
    let Ok(status) = fstat(file) else { return false };
    let only_read = || fcntl_getfl(file).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY);
    FileType::from_raw_mode(status.st_mode) == FileType::RegularFile && (status.st_nlink == 0 || only_read())
}
