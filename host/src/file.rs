//! Files: what rustix lacks.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, StatxFlags};

use crate::process::check;

const SYS_FCHMODAT2: i64 = 452;

/// `fchmodat2(2)`: changes the permission bits of `name` in `directory` with the flags `AT_SYMLINK_NOFOLLOW` or
/// `AT_EMPTY_PATH`.
///
/// Before Linux 6.6 there is no such call, and a symbolic link that takes the name's place at the wrong moment is
/// followed. Callers for whom that matters are in a root where it leads nowhere.
pub fn change_mode(directory: BorrowedFd<'_>, name: &[u8], mode: u32, flags: AtFlags) -> io::Result<()> {
    let path = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let directory_number = i64::from(directory.as_raw_fd());
    // SAFETY: `path` is a valid C string; the other arguments are numbers.
    let result =
        check(unsafe { libc::syscall(SYS_FCHMODAT2, directory_number, path.as_ptr(), mode, flags.bits()) });
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let stat = rustix::fs::statx(directory, name, flags, StatxFlags::TYPE)?;
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Symlink {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            let name = if name.is_empty() { b"." } else { name };
            Ok(rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
        }
        other => other.map(drop),
    }
}
