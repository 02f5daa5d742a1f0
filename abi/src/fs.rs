//! Files: open flags, modes, and the structures of the stat family.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// Flags of `open(2)` with their values on x86-64. The access mode is not a flag: see [`OpenFlags::readable`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// `O_WRONLY`
        const WRONLY = 0o1;
        /// `O_RDWR`
        const RDWR = 0o2;
        /// `O_CREAT`
        const CREAT = 0o100;
        /// `O_EXCL`
        const EXCL = 0o200;
        /// `O_NOCTTY`
        const NOCTTY = 0o400;
        /// `O_TRUNC`
        const TRUNC = 0o1000;
        /// `O_APPEND`
        const APPEND = 0o2000;
        /// `O_NONBLOCK`
        const NONBLOCK = 0o4000;
        /// `O_DSYNC`
        const DSYNC = 0o10000;
        /// `O_ASYNC`
        const ASYNC = 0o20000;
        /// `O_DIRECT`
        const DIRECT = 0o40000;
        /// `O_LARGEFILE`
        const LARGEFILE = 0o100000;
        /// `O_DIRECTORY`
        const DIRECTORY = 0o200000;
        /// `O_NOFOLLOW`
        const NOFOLLOW = 0o400000;
        /// `O_NOATIME`
        const NOATIME = 0o1000000;
        /// `O_CLOEXEC`
        const CLOEXEC = 0o2000000;
        /// The bit that makes `O_SYNC` of `O_DSYNC`
        const SYNC_BIT = 0o4000000;
        /// `O_PATH`
        const PATH = 0o10000000;
        /// The bit that makes `O_TMPFILE` of `O_DIRECTORY`
        const TMPFILE_BIT = 0o20000000;
    }
}

impl OpenFlags {
    /// The two bits of the access mode (`O_ACCMODE`).
    pub const ACCESS_MODE: OpenFlags = OpenFlags::WRONLY.union(OpenFlags::RDWR);
    /// What `fcntl(F_SETFL)` can change.
    pub const SETTABLE: OpenFlags = OpenFlags::APPEND
        .union(OpenFlags::NONBLOCK)
        .union(OpenFlags::ASYNC)
        .union(OpenFlags::DIRECT)
        .union(OpenFlags::NOATIME);

    /// Whether the mode allows reading.
    pub fn readable(self) -> bool {
        !self.contains(OpenFlags::PATH) && self.bits() & 3 != 1
    }

    /// Whether the mode allows writing.
    pub fn writable(self) -> bool {
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & 3, 1 | 2)
    }
}

/// `S_IFMT`: the bits of the file type in a mode.
pub const S_IFMT: u32 = 0o170000;
/// `S_IFSOCK`
pub const S_IFSOCK: u32 = 0o140000;
/// `S_IFLNK`
pub const S_IFLNK: u32 = 0o120000;
/// `S_IFREG`
pub const S_IFREG: u32 = 0o100000;
/// `S_IFBLK`
pub const S_IFBLK: u32 = 0o060000;
/// `S_IFDIR`
pub const S_IFDIR: u32 = 0o040000;
/// `S_IFCHR`
pub const S_IFCHR: u32 = 0o020000;
/// `S_IFIFO`
pub const S_IFIFO: u32 = 0o010000;
/// `S_ISUID`
pub const S_ISUID: u32 = 0o4000;
/// `S_ISGID`
pub const S_ISGID: u32 = 0o2000;
/// `S_ISVTX`
pub const S_ISVTX: u32 = 0o1000;

/// `struct stat` of x86-64.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are those of stat(3type)")]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub pad: u32,
    pub rdev: u64,
    pub size: i64,
    pub blksize: i64,
    pub blocks: i64,
    pub atime: crate::time::TimeSpec,
    pub mtime: crate::time::TimeSpec,
    pub ctime: crate::time::TimeSpec,
    pub unused: [i64; 3],
}

/// The device number of `major` and `minor`, as `st_rdev` has it.
pub const fn make_device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
}

/// The major and the minor number of a device number.
#[must_use]
pub const fn split_device(device: u64) -> (u32, u32) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    (major as u32, minor as u32)
}
