//! What is known of containers, on disk, for any number of processes at once.
//!
//! ```text
//! ROOT/SANDBOX/                              a sandbox; others keep what belongs to it here
//! ROOT/SANDBOX/containers/CONTAINER/         a container; this directory is also its lock
//! ROOT/SANDBOX/containers/CONTAINER/state.json
//! ROOT/SANDBOX/containers/CONTAINER/cgroup.json, exit    what else is known of it
//! ```
//!
//! A container exists when it has a `state.json`. That file is replaced as a whole: written under another name, synced,
//! renamed, and the directory synced. So readers need no lock and never see half of it, and whoever dies while
//! writing leaves the earlier one. One corrupt file spoils only its own container, and can be destroyed.
//!
//! Locks are `flock(2)` on directories: nothing is left behind by asking for one. A lock that was waited for is only
//! good if the path still leads to the same directory afterwards.
//!
//! Lock order: a container's directory, then ROOT, which is held only while directories are made and removed.

mod storage;
#[cfg(test)]
mod tests;

use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{FullId, Id};

const CONTAINERS: &str = "containers";
const STATE: &str = "state.json";
/// The next state while it is written. A single writer holds the lock, so one name is enough.
const NEXT_STATE: &str = "state.json.new";

/// What goes wrong with state on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container. Engines look for `does not exist`.
    #[error("container \"{0}\" does not exist")]
    NotFound(Id),
    /// There is one of that name already, or somebody is just making it.
    #[error("container with id \"{0}\" already exists")]
    AlreadyExists(Id),
    /// The beginning of a name fits several.
    #[error("id \"{id}\" is ambiguous and could refer to multiple containers: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        id: Id,
        /// What it fits, in alphabetical order.
        candidates: Vec<String>,
    },
    /// The container is not the first one of its sandbox.
    #[error("container \"{0}\" does not stand for a sandbox")]
    NotRoot(FullId),
    /// Somebody else holds the lock, and it was not to be waited for.
    #[error("state file locked: container \"{0}\" is in use by another process")]
    StateFileLocked(Id),
    /// Something was to be changed without the lock.
    #[error("the state of container \"{0}\" is not locked by this process")]
    NotLocked(Id),
    /// The file cannot be understood.
    #[error("the state of container \"{id}\" is corrupt: {}: {source}", path.display())]
    Corrupt {
        /// The container.
        id: Id,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A value cannot be written as JSON.
    #[error("the state of container \"{id}\" cannot be saved: {source}")]
    Unsaveable {
        /// The container.
        id: Id,
        /// Why.
        source: serde_json::Error,
    },
    /// The host refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The result of what is done with state on disk.
pub type Result<T> = std::result::Result<T, Error>;

/// Whether a lock is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TryLock {
    /// Wait for it.
    #[default]
    Block,
    /// Fail with [`Error::StateFileLocked`] if somebody else has it.
    Try,
}

/// How a container is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOpts {
    /// Only the whole name will do, not the beginning of one.
    pub exact: bool,
    /// Take the saved status as it is, without asking whether the sandbox still runs. Heeded by whoever loads.
    pub skip_check: bool,
    /// Whether to fail if the container is locked. Without, reading needs no lock and waits for nobody.
    pub try_lock: TryLock,
    /// Only the first container of a sandbox will do.
    pub root_container: bool,
}

/// The saved state of one container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateFile {
    root_dir: PathBuf,
    id: FullId,
    #[serde(skip)]
    lock: Option<OwnedFd>,
}

impl StateFile {
    /// The state of container `id` below `root`, whether there is one or not.
    pub fn new(root: &Path, id: FullId) -> Self {
        Self { root_dir: root.to_owned(), id, lock: None }
    }

    /// The container and its sandbox.
    pub fn id(&self) -> &FullId {
        &self.id
    }

    /// The directory below which all state lies.
    pub fn root_dir(&self) -> &Path {
        &self.root_dir
    }

    /// The directory of the sandbox. It vanishes with the last container if it is empty by then.
    pub fn sandbox_dir(&self) -> PathBuf {
        sandbox_dir(&self.root_dir, &self.id.sandbox_id)
    }

    /// The directory of the container, for files that are to vanish with it.
    pub fn container_dir(&self) -> PathBuf {
        self.sandbox_dir().join(CONTAINERS).join(self.id.container_id.as_str())
    }

    /// Whether this process holds the lock through this value.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Takes the lock for a container that is to be made. If another process is making one of the same name, waits
    /// until it is done, and then fails if it succeeded.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if there is one, in whatever sandbox; the host's.
    pub fn lock_for_new(&mut self) -> Result<()> {
        let container = self.container_dir();
        let lock = loop {
            storage::make_directories(&self.root_dir)?;
            let Some(root) = storage::lock(&self.root_dir, TryLock::Block)? else { continue };
            self.refuse_other_sandboxes()?;
            storage::make_directories(&container)?;
            drop(root);
            // Without the root's lock: the maker of the same container may hold this one for long.
            if exists(&container) {
                return Err(Error::AlreadyExists(self.id.container_id.clone()));
            }
            match storage::lock(&container, TryLock::Block) {
                Ok(Some(lock)) => break lock,
                Ok(None) => {}
                // Another process had it, failed and cleaned up behind itself.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        };
        if exists(&container) {
            return Err(Error::AlreadyExists(self.id.container_id.clone()));
        }
        storage::clear_directory(&container)?;
        self.lock = Some(lock);
        Ok(())
    }

    /// Names are unique below the root, not only in a sandbox. What somebody left unfinished elsewhere is removed.
    fn refuse_other_sandboxes(&self) -> Result<()> {
        let name = &self.id.container_id;
        for sandbox_id in ids_in(&self.root_dir)? {
            if sandbox_id == self.id.sandbox_id {
                continue;
            }
            let other = FullId { sandbox_id, container_id: name.clone() };
            let directory = Self::new(&self.root_dir, other).container_dir();
            if !directory.exists() {
                continue;
            }
            if exists(&directory) {
                return Err(Error::AlreadyExists(name.clone()));
            }
            match storage::lock(&directory, TryLock::Try) {
                Ok(_) => remove_directories(&self.root_dir, &directory)?,
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::AlreadyExists(name.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the lock of a container that exists. What was read before must be read again: others may have changed it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::StateFileLocked`] if it is held by somebody else and `wait` says not to wait.
    pub fn lock(&mut self, wait: TryLock) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        let lock = self.take_lock(wait)?;
        if !exists(&self.container_dir()) {
            return Err(Error::NotFound(self.id.container_id.clone()));
        }
        self.lock = Some(lock);
        Ok(())
    }

    fn take_lock(&self, wait: TryLock) -> Result<OwnedFd> {
        let name = &self.id.container_id;
        loop {
            match storage::lock(&self.container_dir(), wait) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => {}
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::NotFound(name.clone()));
                }
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::StateFileLocked(name.clone()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the lock back. It also is when the value is dropped.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// Replaces what is saved. Whatever happens meanwhile, there is afterwards either the old value or the new.
    ///
    /// # Errors
    /// [`Error::NotLocked`] without the lock; the host's.
    pub fn save_locked<T: Serialize>(&self, value: &T) -> Result<()> {
        let id = &self.id.container_id;
        let Some(lock) = &self.lock else { return Err(Error::NotLocked(id.clone())) };
        let text =
            serde_json::to_vec(value).map_err(|source| Error::Unsaveable { id: id.clone(), source })?;
        let directory = self.container_dir();
        storage::replace(lock, &directory.join(NEXT_STATE), &directory.join(STATE), &text)
    }

    /// Reads what is saved; needs no lock.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`], the host's.
    pub fn load<T: DeserializeOwned>(&self) -> Result<T> {
        let id = &self.id.container_id;
        let path = self.container_dir().join(STATE);
        let text = std::fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotFound(id.clone()),
            _ => Error::Io { action: "read", path: path.clone(), source },
        })?;
        serde_json::from_slice(&text).map_err(|source| Error::Corrupt { id: id.clone(), path, source })
    }

    /// What the file system says of the saved state: it differs after every change. Needs no lock.
    ///
    /// # Errors
    /// [`Error::NotFound`], the host's.
    pub fn stat(&self) -> Result<Metadata> {
        let path = self.container_dir().join(STATE);
        std::fs::symlink_metadata(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::NotFound(self.id.container_id.clone())
            }
            _ => Error::Io { action: "look at", path, source },
        })
    }

    /// Removes all that is known of the container, whether it can be understood or not. Takes the lock if it is not
    /// held; either way it is still held afterwards, but stands for nothing any more. Nothing to remove is no error.
    ///
    /// # Errors
    /// The host's.
    pub fn destroy(&mut self) -> Result<()> {
        if self.lock.is_none() {
            match self.take_lock(TryLock::Block) {
                Ok(lock) => self.lock = Some(lock),
                Err(Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let directory = self.container_dir();
        // From here on the container does not exist; what a crash leaves behind stands in nobody's way.
        storage::remove_file(&directory.join(STATE))?;
        storage::clear_directory(&directory)?;
        loop {
            if let Some(_root) = storage::lock(&self.root_dir, TryLock::Block)? {
                return remove_directories(&self.root_dir, &directory);
            }
        }
    }
}

/// Removes the empty directory of a container, and those above it as far as they are empty. Needs the root's lock.
fn remove_directories(root: &Path, container: &Path) -> Result<()> {
    let above = container.ancestors().take_while(|path| *path != root);
    for directory in above {
        if !storage::remove_directory(directory)? {
            break;
        }
    }
    Ok(())
}

/// The directory of a sandbox below `root`.
pub fn sandbox_dir(root: &Path, sandbox: &Id) -> PathBuf {
    root.join(sandbox.as_str())
}

/// Whether there is a container in this directory.
fn exists(container: &Path) -> bool {
    container.join(STATE).symlink_metadata().is_ok()
}

/// Names in a directory that are ids; none if it is not there.
fn ids_in(directory: &Path) -> Result<Vec<Id>> {
    let failed = |source| Error::Io { action: "read", path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        ids.extend(name.into_string().ok().and_then(|name| Id::new(name).ok()));
    }
    ids.sort();
    Ok(ids)
}

/// All containers of one sandbox, by name.
///
/// # Errors
/// The host's.
pub fn list_sandbox(root: &Path, sandbox: &Id) -> Result<Vec<FullId>> {
    let directory = sandbox_dir(root, sandbox).join(CONTAINERS);
    let ids = ids_in(&directory)?.into_iter();
    let existing = ids.filter(|id| exists(&directory.join(id.as_str())));
    Ok(existing.map(|container_id| FullId { sandbox_id: sandbox.clone(), container_id }).collect())
}

/// All containers below `root`, by sandbox and name. No `root`, no containers.
///
/// # Errors
/// The host's.
pub fn list(root: &Path) -> Result<Vec<FullId>> {
    let mut all = Vec::new();
    for sandbox in ids_in(root)? {
        all.extend(list_sandbox(root, &sandbox)?);
    }
    Ok(all)
}

/// All sandboxes below `root`, each as its first container, whether that still exists or not.
///
/// # Errors
/// The host's.
pub fn list_sandboxes(root: &Path) -> Result<Vec<FullId>> {
    let mut all: Vec<_> = list(root)?.into_iter().map(|id| FullId::root(id.sandbox_id)).collect();
    all.dedup();
    Ok(all)
}

/// Finds a container by its name, or by a beginning of it that no other name has. A whole name is always meant
/// literally, even if others begin with it. `sandbox` limits the search to one sandbox.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::NotRoot`], [`Error::StateFileLocked`], the host's.
pub fn find(root: &Path, sandbox: Option<&Id>, container: &Id, options: LoadOpts) -> Result<StateFile> {
    let usual = FullId::root(container.clone());
    let all = match sandbox {
        Some(sandbox) => list_sandbox(root, sandbox)?,
        // A whole name of a sandbox, which most are, is found without reading directories.
        None if exists(&StateFile::new(root, usual.clone()).container_dir()) => vec![usual],
        None => list(root)?,
    };
    let whole = all.iter().find(|id| id.container_id == *container);
    let begins = |id: &&FullId| {
        !options.exact
            && id.container_id.as_str().starts_with(container.as_str())
            && (id.is_root() || !options.root_container)
    };
    let mut beginning = all.iter().filter(begins);
    let found = match (whole, beginning.next(), beginning.next()) {
        (Some(id), _, _) | (None, Some(id), None) => id.clone(),
        (None, None, _) => return Err(Error::NotFound(container.clone())),
        (None, Some(_), Some(_)) => {
            let candidates = all.iter().filter(begins).map(|id| id.container_id.to_string()).collect();
            return Err(Error::Ambiguous { id: container.clone(), candidates });
        }
    };
    if options.root_container && !found.is_root() {
        return Err(Error::NotRoot(found));
    }
    let file = StateFile::new(root, found);
    if options.try_lock == TryLock::Try {
        file.take_lock(TryLock::Try)?;
    }
    Ok(file)
}

/// Removes what somebody left who died while making or deleting container `id`. Returns whether there was anything.
///
/// # Errors
/// [`Error::StateFileLocked`] if somebody is still at it; the host's.
pub fn remove_leftovers(root: &Path, id: &Id) -> Result<bool> {
    let mut found = false;
    for sandbox_id in ids_in(root)? {
        let mut file = StateFile::new(root, FullId { sandbox_id, container_id: id.clone() });
        let directory = file.container_dir();
        if !directory.exists() {
            // Perhaps it was about to be made, and those above it were: the root is locked meanwhile.
            if let Some(_root) = storage::lock(root, TryLock::Block)? {
                remove_directories(root, &directory)?;
            }
            continue;
        }
        if exists(&directory) {
            continue;
        }
        match file.take_lock(TryLock::Try) {
            Ok(lock) => file.lock = Some(lock),
            Err(Error::NotFound(_)) => continue,
            Err(error) => return Err(error),
        }
        // It may have been made in the meantime.
        if !exists(&directory) {
            file.destroy()?;
            found = true;
        }
    }
    Ok(found)
}
