//! The host's files in memory that hold what files of guests consist of, and how much memory they take together.
//!
//! They are counted for the process as a whole, which is one sandbox: whoever holds a file may be a mount, an open file,
//! a mapping or a segment of shared memory.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::SysResult;
use parking_lot::Mutex;
use rustix::fs::MemfdFlags;

/// What a file in memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The content of a file that is nowhere else.
    Content,
    /// A copy of what is in an image.
    Copy,
}

/// How many bytes files in memory take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The contents of large files.
    pub contents: u64,
    /// The contents of small files, which are in the memory of this process itself.
    pub small: u64,
    /// Copies of files in images.
    pub copies: u64,
}

/// How many files there are at least before those that are gone are looked for.
const FEW: usize = 64;

struct Known {
    files: Vec<(Purpose, Weak<OwnedFd>)>,
    /// At how many files those that are gone are forgotten.
    full: usize,
}

static KNOWN: Mutex<Known> = Mutex::new(Known { files: Vec::new(), full: FEW });
static SMALL: AtomicU64 = AtomicU64::new(0);

/// Makes an empty file in memory.
pub fn create(purpose: Purpose) -> SysResult<Arc<OwnedFd>> {
    let file = Arc::new(rustix::fs::memfd_create(c"file", MemfdFlags::CLOEXEC)?);
    let mut known = KNOWN.lock();
    if known.files.len() >= known.full {
        known.files.retain(|(_, file)| file.strong_count() > 0);
        known.full = FEW.max(2 * known.files.len());
    }
    known.files.push((purpose, Arc::downgrade(&file)));
    Ok(file)
}

/// Counts the content of a small file that took `before` bytes and takes `now`.
pub fn count_small(before: u64, now: u64) {
    SMALL.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
}

/// How much all of them take.
pub fn taken() -> Taken {
    // Not under the lock: each is asked of the host.
    let files: Vec<_> = {
        let known = KNOWN.lock();
        known.files.iter().filter_map(|(purpose, file)| Some((*purpose, file.upgrade()?))).collect()
    };
    let mut taken = Taken { small: SMALL.load(Ordering::Relaxed), ..Taken::default() };
    for (purpose, file) in files {
        let blocks = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_blocks.cast_unsigned());
        match purpose {
            Purpose::Content => taken.contents += blocks * 512,
            Purpose::Copy => taken.copies += blocks * 512,
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_takes_nothing_and_is_forgotten() {
        let file = create(Purpose::Copy).unwrap();
        rustix::io::pwrite(&file, &[1; 3 * 4096], 0).unwrap();
        assert!(taken().copies >= 3 * 4096);
        for _ in 0..10 * FEW {
            create(Purpose::Content).unwrap();
        }
        // Other tests have files too.
        assert!(KNOWN.lock().files.iter().filter(|(_, file)| file.strong_count() == 0).count() < 9 * FEW);
        assert!(KNOWN.lock().files.iter().any(|(_, known)| Weak::as_ptr(known) == Arc::as_ptr(&file)));
    }
}
