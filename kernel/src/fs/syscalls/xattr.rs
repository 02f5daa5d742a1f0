//! Extended attributes, `xattr(7)`.

use std::sync::Arc;

use abi::fs::S_ISGID;
use abi::{Errno, SysResult};

use crate::error::SyscallResult;
use crate::fs::inotify::{self, Mask};
use crate::fs::path::Walk;
use crate::fs::permissions::{Access, check, check_writable, is_owner};
use crate::fs::{Acl, AclKind, FileType, InodeRef, PathRef, XattrMode, acl};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::user::UserPath;

const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 65536;

/// The inode that a call means, and its place if it has one.
type Target = (InodeRef, Option<PathRef>);

fn by_path(task: &CurrentTask, path: UserPath, walk: Walk) -> SyscallResult<Target> {
    let path = task.read_path(path)?;
    let place = task.resolve(Fd::CWD, &path, walk)?;
    Ok((Arc::clone(place.existing()?), Some(place)))
}

fn by_fd(task: &CurrentTask, fd: Fd) -> SyscallResult<Target> {
    let file = task.file(fd)?;
    if file.flags().contains(abi::fs::OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    Ok((file.inode().cloned().ok_or(Errno::EOPNOTSUPP)?, file.path().cloned()))
}

fn read_name(task: &CurrentTask, name: u64) -> SysResult<Vec<u8>> {
    let name = task.read_string(name, NAME_MAX + 1).map_err(|error| match error {
        Errno::ENAMETOOLONG => Errno::ERANGE,
        other => other,
    })?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// Whether the caller may read or write an attribute of this name.
fn check_name(task: &CurrentTask, inode: &InodeRef, name: &[u8], access: Access) -> SysResult<()> {
    let credentials = task.credentials();
    let writes = access == Access::WRITE;
    if name.starts_with(b"trusted.") {
        let denied = if writes { Errno::EPERM } else { Errno::ENODATA };
        return if credentials.has(Capability::SYS_ADMIN) { Ok(()) } else { Err(denied) };
    }
    if name.starts_with(b"user.") {
        if !matches!(inode.file_type(), FileType::Regular | FileType::Directory) {
            return Err(if writes { Errno::EPERM } else { Errno::ENODATA });
        }
        return check(inode, &credentials, access);
    }
    if name.starts_with(b"security.") {
        return if !writes || credentials.has(Capability::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) };
    }
    // Access control lists are attributes of the system; the caller sees to them where a file may have some.
    Err(Errno::EOPNOTSUPP)
}

/// Tells watchers.
fn changed(target: &Target) {
    match &target.1 {
        Some(place) => inotify::notify(&place.dentry, Mask::ATTRIB),
        None => inotify::notify_inode(&target.0, Mask::ATTRIB),
    }
}

fn give(task: &CurrentTask, value: &[u8], buffer: u64, size: usize) -> SyscallResult<usize> {
    if size == 0 {
        return Ok(value.len());
    }
    if value.len() > size {
        return Err(Errno::ERANGE.into());
    }
    task.write_bytes(buffer, value)?;
    Ok(value.len())
}

/// The access control list that an attribute's name means, and the file's, where files may have some.
fn list_of(inode: &InodeRef, name: &[u8]) -> Option<(AclKind, Option<Arc<Acl>>)> {
    let kind = AclKind::of_attribute(name)?;
    Some((kind, inode.acl(kind).ok()?))
}

/// Sets or, without a value, takes away an access control list, as far as the caller may do so.
fn set_list(
    task: &CurrentTask,
    inode: &InodeRef,
    kind: AclKind,
    value: Option<acl::Unchecked>,
) -> SyscallResult<()> {
    if kind == AclKind::Default && inode.file_type() != FileType::Directory {
        return if value.is_none() { Ok(()) } else { Err(Errno::EACCES.into()) };
    }
    let credentials = task.credentials();
    let metadata = inode.metadata()?;
    if !is_owner(&metadata, &credentials) {
        return Err(Errno::EPERM.into());
    }
    let list = value.map(|value| value.check(&credentials.user_namespace)).transpose()?;
    let keeps_group = kind == AclKind::Default
        || credentials.in_group(metadata.gid)
        || credentials.has_over(metadata.uid, metadata.gid, Capability::FSETID);
    Ok(inode.set_acl(kind, list.map(Arc::new), if keeps_group { 0 } else { S_ISGID })?)
}

fn get(task: &CurrentTask, target: Target, name: u64, value: u64, size: usize) -> SyscallResult<usize> {
    let name = read_name(task, name)?;
    if let Some((_, list)) = list_of(&target.0, &name) {
        let list = list.ok_or(Errno::ENODATA)?;
        return give(task, &list.to_bytes(&task.credentials().user_namespace), value, size);
    }
    check_name(task, &target.0, &name, Access::READ)?;
    give(task, &target.0.get_xattr(&name)?, value, size)
}

fn set(
    task: &CurrentTask,
    target: Target,
    name: u64,
    value: u64,
    size: usize,
    flags: Flags,
) -> SyscallResult<()> {
    let mode = match flags.0 {
        0 => XattrMode::Set,
        1 => XattrMode::Create,
        2 => XattrMode::Replace,
        _ => return Err(Errno::EINVAL.into()),
    };
    let name = read_name(task, name)?;
    if size > VALUE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; size];
    task.read_bytes(value, &mut bytes)?;
    if let Some(place) = &target.1 {
        check_writable(place)?;
    }
    if let Some((kind, _)) = list_of(&target.0, &name) {
        // Whether there is one already does not matter to Linux.
        set_list(task, &target.0, kind, acl::Unchecked::read(&bytes)?)?;
    } else {
        check_name(task, &target.0, &name, Access::WRITE)?;
        target.0.set_xattr(&name, &bytes, mode)?;
        crate::fs::privileges::attribute_set(&name);
    }
    changed(&target);
    Ok(())
}

fn list(task: &CurrentTask, target: Target, buffer: u64, size: usize) -> SyscallResult<usize> {
    let hidden = !task.credentials().has(Capability::SYS_ADMIN);
    let mut names = target.0.list_xattr()?;
    // The host tells of lists that its files have.
    names.retain(|name| !name.starts_with(b"system."));
    let lists = AclKind::ALL.into_iter().filter(|kind| matches!(target.0.acl(*kind), Ok(Some(_))));
    names.splice(..0, lists.map(|kind| kind.attribute().to_vec()));
    let visible = names.into_iter().filter(|name| !(hidden && name.starts_with(b"trusted.")));
    let bytes: Vec<u8> = visible.flat_map(|name| [name, vec![0]].concat()).collect();
    give(task, &bytes, buffer, size)
}

fn remove(task: &CurrentTask, target: Target, name: u64) -> SyscallResult<()> {
    let name = read_name(task, name)?;
    if let Some(place) = &target.1 {
        check_writable(place)?;
    }
    if let Some((kind, _)) = list_of(&target.0, &name) {
        set_list(task, &target.0, kind, None)?;
    } else {
        check_name(task, &target.0, &name, Access::WRITE)?;
        target.0.remove_xattr(&name)?;
    }
    changed(&target);
    Ok(())
}

/// `getxattr(2)`.
pub fn getxattr(
    task: &CurrentTask,
    path: UserPath,
    name: u64,
    value: u64,
    size: usize,
) -> SyscallResult<usize> {
    get(task, by_path(task, path, Walk::FOLLOW)?, name, value, size)
}

/// `lgetxattr(2)`.
pub fn lgetxattr(
    task: &CurrentTask,
    path: UserPath,
    name: u64,
    value: u64,
    size: usize,
) -> SyscallResult<usize> {
    get(task, by_path(task, path, Walk::empty())?, name, value, size)
}

/// `fgetxattr(2)`.
pub fn fgetxattr(task: &CurrentTask, fd: Fd, name: u64, value: u64, size: usize) -> SyscallResult<usize> {
    get(task, by_fd(task, fd)?, name, value, size)
}

/// `setxattr(2)`.
pub fn setxattr(
    task: &CurrentTask,
    path: UserPath,
    name: u64,
    value: u64,
    size: usize,
    flags: Flags,
) -> SyscallResult<()> {
    set(task, by_path(task, path, Walk::FOLLOW)?, name, value, size, flags)
}

/// `lsetxattr(2)`.
pub fn lsetxattr(
    task: &CurrentTask,
    path: UserPath,
    name: u64,
    value: u64,
    size: usize,
    flags: Flags,
) -> SyscallResult<()> {
    set(task, by_path(task, path, Walk::empty())?, name, value, size, flags)
}

/// `fsetxattr(2)`.
pub fn fsetxattr(
    task: &CurrentTask,
    fd: Fd,
    name: u64,
    value: u64,
    size: usize,
    flags: Flags,
) -> SyscallResult<()> {
    set(task, by_fd(task, fd)?, name, value, size, flags)
}

/// `listxattr(2)`.
pub fn listxattr(task: &CurrentTask, path: UserPath, buffer: u64, size: usize) -> SyscallResult<usize> {
    list(task, by_path(task, path, Walk::FOLLOW)?, buffer, size)
}

/// `llistxattr(2)`.
pub fn llistxattr(task: &CurrentTask, path: UserPath, buffer: u64, size: usize) -> SyscallResult<usize> {
    list(task, by_path(task, path, Walk::empty())?, buffer, size)
}

/// `flistxattr(2)`.
pub fn flistxattr(task: &CurrentTask, fd: Fd, buffer: u64, size: usize) -> SyscallResult<usize> {
    list(task, by_fd(task, fd)?, buffer, size)
}

/// `removexattr(2)`.
pub fn removexattr(task: &CurrentTask, path: UserPath, name: u64) -> SyscallResult<()> {
    remove(task, by_path(task, path, Walk::FOLLOW)?, name)
}

/// `lremovexattr(2)`.
pub fn lremovexattr(task: &CurrentTask, path: UserPath, name: u64) -> SyscallResult<()> {
    remove(task, by_path(task, path, Walk::empty())?, name)
}

/// `fremovexattr(2)`.
pub fn fremovexattr(task: &CurrentTask, fd: Fd, name: u64) -> SyscallResult<()> {
    remove(task, by_fd(task, fd)?, name)
}
