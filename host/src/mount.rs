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

/// `mount_setattr(2)`: adds attributes to the mount that `fd` is the root of, and to all below, and cuts their ties to
/// mounts elsewhere. Nothing is taken away, so what is locked stays.
pub fn restrict(fd: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    const SYS_MOUNT_SETATTR: i64 = 442;
    let argument =
        MountAttr { set: attributes.bits(), clear: 0, propagation: libc::MS_PRIVATE, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | 0x8000;
    // SAFETY: an empty C string, and a structure of the size that is given, which outlives the call.
    check(unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            i64::from(fd.as_raw_fd()),
            c"".as_ptr(),
            flags,
            &raw const argument,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Makes all mounts of the calling process's namespace private: nothing that is mounted here shows elsewhere, and the
/// other way round.
pub fn make_all_private() -> io::Result<()> {
    let flags = rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE;
    Ok(rustix::mount::mount_change("/", flags)?)
}
