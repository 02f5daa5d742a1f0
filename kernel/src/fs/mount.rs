//! Mounts: file systems put together in one tree.

use std::sync::Arc;

use super::FileSystem;
use super::dentry::Dentry;

/// A file system at a place in the tree.
pub struct Mount {
    /// The file system.
    pub file_system: Arc<dyn FileSystem>,
    /// The directory of it that is mounted.
    pub root: Arc<Dentry>,
}
