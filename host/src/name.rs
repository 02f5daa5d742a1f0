//! Names of files in a directory, checked once, and the calls that are made with each path that a guest uses.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use abi::{Errno, SysResult};
use rustix::fs::{AtFlags, Statx, StatxFlags};

/// The longest name.
pub const NAME_MAX: usize = 255;

/// A single name in a directory: neither empty nor `.` nor `..`, without slashes and zeros, at most 255 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a name: `ENAMETOOLONG`, or `EINVAL` for what is no name.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> SysResult<Name<'a>> {
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let special = matches!(bytes, [] | [b'.'] | [b'.', b'.']);
        if special || abi::bytes::has_either(bytes, 0, b'/') {
            return Err(Errno::EINVAL);
        }
        Ok(Name(bytes))
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Runs `operation` with the name as C has it. Nobody looks at the bytes again: they were when the name was made.
    #[inline]
    pub fn with_c_str<T>(self, operation: impl FnOnce(&CStr) -> T) -> T {
        let mut buffer = [const { MaybeUninit::<u8>::uninit() }; NAME_MAX + 1];
        let start = buffer.as_mut_ptr().cast::<u8>();
        // SAFETY: a name is at most `NAME_MAX` bytes long, so that it and a zero are in the buffer, which nobody else has.
        // There is no other zero in it, and all up to there has been written.
        let name = unsafe {
            start.copy_from_nonoverlapping(self.0.as_ptr(), self.0.len());
            start.add(self.0.len()).write(0);
            CStr::from_bytes_with_nul_unchecked(std::slice::from_raw_parts(start, self.0.len() + 1))
        };
        operation(name)
    }
}

/// What [`status`] asks about.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// What has this name in the directory; a link itself.
    Child(Name<'a>),
    /// The descriptor itself.
    Itself,
}

/// `statx(2)`: hands what the host tells to `look`, where the host has put it.
///
/// # Errors
/// Those of `statx(2)`.
#[inline]
pub fn status<T>(
    directory: BorrowedFd<'_>,
    asked: Asked<'_>,
    wanted: StatxFlags,
    look: impl FnOnce(&Statx) -> T,
) -> SysResult<T> {
    const { assert!(size_of::<Statx>() == size_of::<libc::statx>()) };
    let mut status = MaybeUninit::<Statx>::uninit();
    // The host writes no field that rustix does not know.
    let wanted = wanted & StatxFlags::all();
    let mut ask = |name: &CStr, flags: AtFlags| {
        let (fd, name, flags) = (directory.as_raw_fd(), name.as_ptr(), flags.bits());
        // SAFETY: a C string, and room for what the host writes.
        unsafe { libc::syscall(libc::SYS_statx, fd, name, flags, wanted.bits(), status.as_mut_ptr()) }
    };
    let result = match asked {
        Asked::Child(name) => name.with_c_str(|name| ask(name, AtFlags::SYMLINK_NOFOLLOW)),
        Asked::Itself => ask(c"", AtFlags::EMPTY_PATH),
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the host has filled it.
    Ok(look(unsafe { status.assume_init_ref() }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn names_are_single_components() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", b"../x", b"12345678/", b"1234567\0b"] {
            assert_eq!(Name::new(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'a'; 256]), Err(Errno::ENAMETOOLONG));
        for good in [&b"a"[..], b"...", b".x", b"a b", &[0xff; 255]] {
            let name = Name::new(good).unwrap();
            name.with_c_str(|text| assert_eq!(text.to_bytes(), good));
        }
    }

    #[test]
    fn the_status_is_that_of_the_name_or_the_descriptor() {
        let place = std::env::temp_dir();
        let directory = std::fs::File::open(&place).unwrap();
        let own = status(directory.as_fd(), Asked::Itself, StatxFlags::BASIC_STATS, |own| own.stx_ino);
        let expected = rustix::fs::fstat(&directory).unwrap().st_ino;
        assert_eq!(own, Ok(expected));
        let name = Name::new(b"there is no such file here").unwrap();
        let missing = status(directory.as_fd(), Asked::Child(name), StatxFlags::BASIC_STATS, |_| ());
        assert_eq!(missing, Err(Errno::ENOENT));
    }
}
