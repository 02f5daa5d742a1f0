//! Files: what rustix lacks.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, StatxFlags};

use crate::process::check;

const SYS_FCHMODAT2: i64 = 452;

/// The flags of [`event_group`].
pub const EVENT_GROUP: u32 =
    libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
/// The flags of [`watch_names`].
pub const WATCH_NAMES: u32 = libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR | libc::FAN_MARK_EVICTABLE;
/// The events of [`watch_names`].
const NAME_EVENTS: u64 =
    libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO | libc::FAN_ATTRIB | libc::FAN_ONDIR;

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

/// A group of fanotify(7) that tells of events without saying which file they are about, for which no privilege is needed;
/// reading from it never waits. `fanotify_init(2)`.
pub fn event_group() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let group = unsafe { libc::fanotify_init(EVENT_GROUP, libc::O_RDONLY.cast_unsigned()) };
    if group < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(group) })
}

/// Has a group tell when a name in a directory goes away or comes to stand for something else by a rename, and when the
/// directory's own owner or mode changes. The host forgets it when nobody has the directory open; `fanotify_mark(2)`.
pub fn watch_names(group: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> io::Result<()> {
    let (group, directory) = (group.as_raw_fd(), directory.as_raw_fd());
    // SAFETY: the descriptors are borrowed, and the path is a string with a zero at its end.
    let result = unsafe { libc::fanotify_mark(group, WATCH_NAMES, NAME_EVENTS, directory, c".".as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
