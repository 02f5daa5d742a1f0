//! Places in the mount tree and the walk to them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::InodeRef;
use super::dentry::Dentry;
use super::mount::Mount;

/// A place in the tree: a name in a mount.
#[derive(Clone)]
pub struct PathRef {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The name in it.
    pub dentry: Arc<Dentry>,
}

impl PathRef {
    /// What is there; `None` for a name that stands for nothing.
    pub fn inode(&self) -> Option<InodeRef> {
        self.dentry.inode()
    }
}

/// What `CLONE_FS` shares: root, working directory, umask.
pub struct FsContext {
    inner: Mutex<FsState>,
}

/// The contents of an [`FsContext`].
#[derive(Clone)]
pub struct FsState {
    /// The root directory.
    pub root: PathRef,
    /// The working directory.
    pub cwd: PathRef,
    /// Permission bits that new files do not get.
    pub umask: u32,
}

impl FsContext {
    /// A context of its own.
    pub fn new(state: FsState) -> FsContext {
        FsContext { inner: Mutex::new(state) }
    }

    /// A copy of what it holds now.
    pub fn get(&self) -> FsState {
        self.inner.lock().clone()
    }

    /// Changes it.
    pub fn update<T>(&self, change: impl FnOnce(&mut FsState) -> T) -> T {
        change(&mut self.inner.lock())
    }
}
