//! What is said about files: names, attributes, changes. Every type here is checked when it is made or decoded.

use abi::time::TimeSpec;
pub use host::name::{NAME_MAX, Name};
use host::rustix::fs::{Stat, Statx, StatxFlags, StatxTimestamp};

use crate::wire::{Input, Malformed, Wire, wire_enum, wire_struct};

impl<'a> Wire<'a> for Name<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().put(out);
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        Name::new(<&[u8]>::take(input)?).map_err(|_| Malformed)
    }
}

/// The file that an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The directory itself (or the file, if that is what was mounted).
    Itself,
    /// What it has under a name. Links are not followed.
    Child(Name<'a>),
}

impl<'a> Wire<'a> for Target<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Target::Itself => <&[u8]>::put(&&b""[..], out),
            Target::Child(name) => name.put(out),
        }
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        match <&[u8]>::take(input)? {
            [] => Ok(Target::Itself),
            bytes => Name::new(bytes).map(Target::Child).map_err(|_| Malformed),
        }
    }
}

/// How a regular file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

wire_enum!(Access { Read = 0, Write = 1, ReadWrite = 2 });

/// What the stat family tells of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statx(2)")]
pub struct Attributes {
    pub device: u64,
    pub inode: u64,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub block_size: u32,
    pub blocks: u64,
    pub accessed: TimeSpec,
    pub modified: TimeSpec,
    pub changed: TimeSpec,
    pub born: Option<TimeSpec>,
}

wire_struct!(Attributes {
    device,
    inode,
    mode,
    links,
    uid,
    gid,
    rdev,
    size,
    block_size,
    blocks,
    accessed,
    modified,
    changed,
    born,
});

impl Attributes {
    /// What a [`Statx`] must hold for [`Attributes::from`].
    pub const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & abi::fs::S_IFMT
    }
}

impl From<&Statx> for Attributes {
    #[inline]
    fn from(stat: &Statx) -> Attributes {
        let time = |time: StatxTimestamp| TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec.into() };
        Attributes {
            device: abi::fs::make_device(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mode: stat.stx_mode.into(),
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: abi::fs::make_device(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            block_size: stat.stx_blksize,
            blocks: stat.stx_blocks,
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)),
        }
    }
}

impl From<&Stat> for Attributes {
    /// Without [`Attributes::born`], which `fstat(2)` does not tell.
    fn from(stat: &Stat) -> Attributes {
        let time = |sec, nsec| TimeSpec { sec, nsec: i64::try_from(nsec).unwrap_or(0) };
        Attributes {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: stat.st_size.cast_unsigned(),
            block_size: u32::try_from(stat.st_blksize).unwrap_or(u32::MAX),
            blocks: stat.st_blocks.cast_unsigned(),
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            born: None,
        }
    }
}

impl Wire<'_> for TimeSpec {
    fn put(&self, out: &mut Vec<u8>) {
        self.sec.put(out);
        self.nsec.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(TimeSpec { sec: i64::take(input)?, nsec: i64::take(input)? })
    }
}

/// A file to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode<'a> {
    /// Type (`S_IF*`) and permission bits; no umask applies.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The number of a device file.
    pub device: u64,
    /// The target of a symbolic link.
    pub target: &'a [u8],
}

wire_struct!(NewNode<'a> { mode, uid, gid, device, target });

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits (12 bits).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size of a regular file.
    pub size: Option<u64>,
    /// Time of last access.
    pub accessed: Option<TimeSpec>,
    /// Time of last modification.
    pub modified: Option<TimeSpec>,
}

wire_struct!(Changes { mode, uid, gid, size, accessed, modified });

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file's number.
    pub inode: u64,
    /// Type bits of its mode; zero if the host does not say.
    pub kind: u32,
    /// The name.
    pub name: Vec<u8>,
}

wire_struct!(Entry { inode, kind, name });

/// What `statfs(2)` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statfs(2)")]
pub struct Statistics {
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length: u64,
}

wire_struct!(Statistics {
    magic,
    block_size,
    blocks,
    blocks_free,
    blocks_available,
    files,
    files_free,
    name_length,
});

/// What is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The name of a file that is no directory.
    File,
    /// An empty directory.
    Directory,
}

wire_enum!(Removal { File = 0, Directory = 1 });

/// What a rename does with an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacing {
    /// It is replaced.
    Yes,
    /// `EEXIST`.
    No,
    /// The two change places.
    Exchange,
}

wire_enum!(Replacing { Yes = 0, No = 1, Exchange = 2 });

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of socket(2)")]
pub enum SocketKind {
    Stream,
    Datagram,
    Packet,
}

wire_enum!(SocketKind { Stream = 0, Datagram = 1, Packet = 2 });

/// On whose behalf something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

wire_struct!(Guest { uid, gid });

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

wire_struct!(Peer { uid, gid });

/// How an existing extended attribute is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrReplacing {
    /// Created or replaced.
    Either,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
}

wire_enum!(XattrReplacing { Either = 0, Create = 1, Replace = 2 });
