//! Who may do what with a file: mode bits, owners, and the capabilities that override them.

use abi::fs::S_ISVTX;
use abi::{Errno, SysResult};
use bitflags::bitflags;

use super::mount::{Mount, MountFlags};
use super::path::PathRef;
use super::{AclKind, FileType, InodeRef, Metadata};
use crate::task::Credentials;
use crate::task::credentials::Capability;

bitflags! {
    /// Kinds of access, with the values of `access(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Run, or search a directory.
        const EXECUTE = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// `EACCES` unless the access is allowed.
pub fn check(inode: &InodeRef, credentials: &Credentials, access: Access) -> SysResult<()> {
    // Then it does not matter whose directory it is and what its mode says, which the host would have to be asked for.
    if inode.file_type() == FileType::Directory && credentials.has_over_all(Capability::DAC_OVERRIDE) {
        return Ok(());
    }
    check_with(&inode.metadata_for_access()?, Some(inode), credentials, access)
}

/// [`check`] for a file of which the metadata is at hand, and which has no access control list.
pub fn check_metadata(metadata: &Metadata, credentials: &Credentials, access: Access) -> SysResult<()> {
    check_with(metadata, None, credentials, access)
}

/// [`check`] for a file of which the metadata is at hand; without its inode, it has no access control list.
pub fn check_with(
    metadata: &Metadata,
    inode: Option<&InodeRef>,
    credentials: &Credentials,
    access: Access,
) -> SysResult<()> {
    let by_mode = |shift: u32| (metadata.mode >> shift) & access.bits() == access.bits();
    // Where the group's bits are all clear, a list gives nobody anything, and Linux does not look at it.
    let list = || match inode.filter(|_| metadata.mode & 0o070 != 0) {
        Some(inode) => inode.acl(AclKind::Access).ok().flatten(),
        None => None,
    };
    let allowed = if metadata.uid == credentials.fs_uid {
        by_mode(6)
    } else if let Some(list) = list() {
        list.allows(credentials, metadata.gid, access)
    } else if credentials.in_group(metadata.gid) {
        by_mode(3)
    } else {
        by_mode(0)
    };
    if allowed {
        return Ok(());
    }
    let directory = metadata.file_type() == FileType::Directory;
    let any_execute = directory || metadata.mode & 0o111 != 0;
    if credentials.has_over(metadata.uid, metadata.gid, Capability::DAC_OVERRIDE)
        && (!access.contains(Access::EXECUTE) || any_execute)
    {
        return Ok(());
    }
    let reads = access == Access::READ || (directory && !access.contains(Access::WRITE));
    if reads && credentials.has_over(metadata.uid, metadata.gid, Capability::DAC_READ_SEARCH) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// `EROFS` if the mount or its file system is read-only.
pub fn check_writable(place: &PathRef) -> SysResult<()> {
    check_mount_writable(&place.mount)
}

/// [`check_writable`] of all that is in a mount.
pub fn check_mount_writable(mount: &Mount) -> SysResult<()> {
    if mount.flags().contains(MountFlags::READ_ONLY) { Err(Errno::EROFS) } else { Ok(()) }
}

/// Whether `credentials` own the file, or override that.
pub fn is_owner(metadata: &Metadata, credentials: &Credentials) -> bool {
    metadata.uid == credentials.fs_uid || credentials.has_over(metadata.uid, metadata.gid, Capability::FOWNER)
}

/// `EPERM` if a sticky directory keeps the caller from removing or renaming somebody else's file.
pub fn check_sticky(directory: &Metadata, file: &Metadata, credentials: &Credentials) -> SysResult<()> {
    let sticky = directory.mode & S_ISVTX != 0;
    let owner = file.uid == credentials.fs_uid || directory.uid == credentials.fs_uid;
    if sticky && !owner && !credentials.has_over(file.uid, file.gid, Capability::FOWNER) {
        Err(Errno::EPERM)
    } else {
        Ok(())
    }
}
