//! The steps on disk. Before each one a test may let it fail, or end the process.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fsync, open};
use rustix::io::Errno;

use super::{Error, Result, TryLock};

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// Makes a directory and those above it. Only the owner can list them; others may know a name and enter.
pub fn make_directories(path: &Path) -> Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let missing: Vec<&Path> = path.ancestors().take_while(missing).collect();
    for directory in missing.into_iter().rev() {
        step().map_err(failed("make", directory))?;
        match std::fs::DirBuilder::new().mode(0o711).create(directory) {
            Err(_) if directory.is_dir() => {}
            made => made.map_err(failed("make", directory))?,
        }
    }
    Ok(())
}

/// Locks a directory. `None` if, when the lock was there, the path led to another directory or nowhere.
pub fn lock(path: &Path, wait: TryLock) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::empty());
    let directory = opened.map_err(|error| failed("open", path)(error.into()))?;
    let operation = match wait {
        TryLock::Block => FlockOperation::LockExclusive,
        TryLock::Try => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match flock(&directory, operation) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed("lock", path)(error.into())),
        }
    }
    let own = rustix::fs::fstat(&directory).map_err(|error| failed("look at", path)(error.into()))?;
    let same = match std::fs::symlink_metadata(path) {
        // The root may be a link.
        Ok(there) if there.is_symlink() => std::fs::metadata(path).ok(),
        there => there.ok(),
    };
    let same = same.is_some_and(|there| (there.dev(), there.ino()) == (own.st_dev, own.st_ino));
    Ok(same.then_some(directory))
}

/// Replaces `path` by a file with this content, by way of `next`, which lies in the same directory, `directory`.
pub fn replace(directory: &OwnedFd, next: &Path, path: &Path, content: &[u8]) -> Result<()> {
    step().map_err(failed("write", next))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640);
    let mut file = options.open(next).map_err(failed("write", next))?;
    let (first, second) = content.split_at(content.len() / 2);
    file.write_all(first).map_err(failed("write", next))?;
    step().map_err(failed("write", next))?;
    file.write_all(second).map_err(failed("write", next))?;
    step().map_err(failed("sync", next))?;
    file.sync_all().map_err(failed("sync", next))?;
    step().map_err(failed("rename", next))?;
    std::fs::rename(next, path).map_err(failed("rename", next))?;
    step().map_err(failed("sync the directory of", path))?;
    fsync(directory).map_err(|error| failed("sync the directory of", path)(error.into()))
}

/// Removes a file that need not be there.
pub fn remove_file(path: &Path) -> Result<()> {
    step().map_err(failed("remove", path))?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes all that is in a directory, if there is one.
pub fn clear_directory(path: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", path))?;
        step().map_err(failed("remove", path))?;
        let inner = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed =
            if is_directory { std::fs::remove_dir_all(&inner) } else { std::fs::remove_file(&inner) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &inner)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a directory if it is empty. Returns whether it is gone.
pub fn remove_directory(path: &Path) -> Result<bool> {
    step().map_err(failed("remove", path))?;
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "a test makes it fail")]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use injected::step;

#[cfg(test)]
pub mod injected {
    use std::cell::Cell;
    use std::io;

    /// The exit status of a process that ended at a step.
    pub const DEATH: i32 = 99;

    /// What happens at a step.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// It fails, as a full disk would make it.
        Error,
        /// The process ends there.
        Death,
    }

    thread_local! {
        static NEXT: Cell<Option<(u32, Fault)>> = const { Cell::new(None) };
    }

    /// Lets step number `number` of this thread, from now on and from zero, go wrong.
    pub fn at(number: u32, fault: Fault) {
        NEXT.set(Some((number, fault)));
    }

    /// Takes it back. Returns whether it had not happened yet.
    pub fn clear() -> bool {
        NEXT.take().is_some()
    }

    /// Called before each step.
    pub fn step() -> io::Result<()> {
        match NEXT.get() {
            Some((0, Fault::Death)) => std::process::exit(DEATH),
            Some((0, Fault::Error)) => {
                NEXT.set(None);
                Err(io::Error::other("no more space, says the test"))
            }
            Some((number, fault)) => {
                NEXT.set(Some((number - 1, fault)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
