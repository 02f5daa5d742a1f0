//! Mounts: what rustix lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::process::check;

bitflags::bitflags! {
    /// Attributes of a mount, `MOUNT_ATTR_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Attributes: u64 {
        /// Nothing can be written.
        const READ_ONLY = 1;
        /// Set-user-id bits mean nothing.
        const NO_SUID = 2;
        /// Device files cannot be opened.
        const NO_DEV = 4;
        /// Nothing can be executed.
        const NO_EXEC = 8;
    }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// What mounts have to do with those that they are copies of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Nothing.
    None,
    /// What is mounted or unmounted there is so here, too, but not the other way round.
    Following,
}

impl Ties {
    fn flag(self) -> u64 {
        match self {
            Ties::None => libc::MS_PRIVATE,
            Ties::Following => libc::MS_SLAVE,
        }
    }
}

/// `mount_setattr(2)`: adds attributes to the mount that `fd` is the root of, and to all below, and cuts their ties to
/// mounts elsewhere, or all but these. Nothing is taken away, so what is locked stays.
pub fn restrict(fd: BorrowedFd<'_>, attributes: Attributes, ties: Ties) -> io::Result<()> {
    let argument =
        MountAttr { set: attributes.bits(), clear: 0, propagation: ties.flag(), user_namespace: 0 };
    set_attributes(fd, Which::All, &argument)
}

fn set_attributes(fd: BorrowedFd<'_>, which: Which, argument: &MountAttr) -> io::Result<()> {
    const SYS_MOUNT_SETATTR: i64 = 442;
    const AT_RECURSIVE: i32 = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if which == Which::All { AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string, and a structure of the size that is given, which outlives the call.
    check(unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            i64::from(fd.as_raw_fd()),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(argument),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Which mounts are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That one.
    One,
    /// It and all below.
    All,
}

/// Shows the owners of a mount's files as the ids that those are mapped to in a user namespace; the mount must not be
/// attached anywhere yet.
///
/// # Errors
/// `EINVAL` if the file system cannot do it, `EPERM` if the caller is not privileged over it.
pub fn map_owners(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>, which: Which) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let user_namespace = u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX);
    set_attributes(fd, which, &MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, user_namespace })
}

/// Gives all mounts of the calling process's namespace these ties, so that nothing that is mounted here shows elsewhere.
pub fn tie_all(ties: Ties) -> io::Result<()> {
    use rustix::mount::MountPropagationFlags as Flags;
    let kind = match ties {
        Ties::None => Flags::PRIVATE,
        Ties::Following => Flags::DOWNSTREAM,
    };
    Ok(rustix::mount::mount_change("/", Flags::REC | kind)?)
}
