//! The dentry cache: names that were looked up, and what they stand for.

use std::sync::Arc;

use parking_lot::RwLock;

use super::InodeRef;

/// A name in a file system.
pub struct Dentry {
    name: Box<[u8]>,
    parent: Option<Arc<Dentry>>,
    inode: RwLock<Option<InodeRef>>,
}

impl Dentry {
    /// The root of a file system.
    pub fn root(inode: InodeRef) -> Arc<Dentry> {
        Arc::new(Dentry { name: Box::default(), parent: None, inode: RwLock::new(Some(inode)) })
    }

    /// The name; empty for a root.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The directory that the name is in; `None` for a root.
    pub fn parent(&self) -> Option<&Arc<Dentry>> {
        self.parent.as_ref()
    }

    /// What the name stands for.
    pub fn inode(&self) -> Option<InodeRef> {
        self.inode.read().clone()
    }
}
