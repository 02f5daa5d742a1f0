//! Operations on files of the host below a descriptor, in the process that holds it: the gofer, or the sandbox in direct
//! mode.
//!
//! Nothing here follows a symbolic link, and nothing resolves more than one name: whatever changes in the tree
//! meanwhile, an operation reaches a file that had this name in this directory.

use std::cell::Cell;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::fs::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use host::name::{Asked, status};
use host::rustix::fs::{self as sys, AtFlags, Mode, OFlags, ResolveFlags};

use crate::listing::{Listed, Listing};
use crate::types::{
    Access, Attributes, Changes, Entry, NAME_MAX, Name, NewNode, Removal, Replacing, Statistics, Target,
    XattrReplacing,
};

/// The largest value of an extended attribute, and the longest list of their names.
pub const XATTR_MAX: usize = 65536;

/// Whether a walk may enter file systems that are mounted below the directory's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// Yes: the mount was made with what is mounted below it.
    Allowed,
    /// No: `EXDEV`.
    Refused,
}

/// What happens when a new file cannot get the owner that it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is not made.
    Exact,
    /// It belongs to whoever made it.
    Own,
}

/// A directory that this process holds a descriptor of; or the file that is a mount's root.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    /// The directory or file.
    pub fd: BorrowedFd<'a>,
    /// For a file: where it can be opened, a directory and its name there.
    pub file: Option<(BorrowedFd<'a>, &'a [u8])>,
    /// Whether file systems below may be entered.
    pub crossing: Crossing,
}

/// Makes a file in a directory that has no name there and never will have one, open for reading and writing.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no such files.
pub fn create_nameless(directory: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(sys::openat(directory, c".", flags, Mode::RUSR | Mode::WUSR)?)
}

impl<'a> Local<'a> {
    fn resolve(&self) -> ResolveFlags {
        let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match self.crossing {
            Crossing::Refused if self.file.is_none() => flags | ResolveFlags::NO_XDEV,
            _ => flags,
        }
    }

    /// The directory and name to open a target by.
    fn place<'n>(&self, target: Target<'n>) -> (BorrowedFd<'a>, &'n [u8])
    where
        'a: 'n,
    {
        match (target, self.file) {
            (Target::Child(name), _) => (self.fd, name.as_bytes()),
            (Target::Itself, Some((directory, name))) => (directory, name),
            (Target::Itself, None) => (self.fd, b"."),
        }
    }

    /// The descriptor, path and flags by which the calls that take `AT_EMPTY_PATH` know a target.
    fn named<'n>(&self, target: Target<'n>) -> (BorrowedFd<'a>, &'n [u8], AtFlags)
    where
        'a: 'n,
    {
        match (target, self.file) {
            (Target::Child(name), _) => (self.fd, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW),
            (Target::Itself, Some((directory, name))) => (directory, name, AtFlags::SYMLINK_NOFOLLOW),
            (Target::Itself, None) => (self.fd, b"", AtFlags::EMPTY_PATH),
        }
    }

    fn open_with(&self, target: Target<'_>, flags: OFlags) -> SysResult<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Target::Child(name) = target {
            let open = |name: &CStr| sys::openat2(self.fd, name, flags, Mode::empty(), self.resolve());
            return Ok(name.with_c_str(open)?);
        }
        let (directory, name) = self.place(target);
        Ok(sys::openat2(directory, name, flags, Mode::empty(), self.resolve())?)
    }

    /// Opens whatever it is, to know it by.
    pub fn open_path(&self, target: Target<'_>) -> SysResult<OwnedFd> {
        self.open_with(target, OFlags::PATH)
    }

    pub fn stat(&self, target: Target<'_>) -> SysResult<Attributes> {
        let mut attributes = Attributes::default();
        self.stat_into(target, &mut attributes)?;
        Ok(attributes)
    }

    /// [`Local::stat`] for who has a place for them.
    #[inline]
    pub fn stat_into(&self, target: Target<'_>, into: &mut Attributes) -> SysResult<()> {
        let asked = match (target, self.file) {
            (Target::Child(name), _) => Asked::Child(name),
            (Target::Itself, None) => Asked::Itself,
            (Target::Itself, Some((directory, name))) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                *into = Attributes::from(&sys::statx(directory, name, flags, Attributes::WANTED)?);
                return Ok(());
            }
        };
        status(self.fd, asked, Attributes::WANTED, |status| *into = Attributes::from(status))
    }

    /// Opens a regular file. What else there is by that name is refused: `ENXIO`, `ELOOP`, `EISDIR`.
    pub fn open(&self, target: Target<'_>, access: Access) -> SysResult<OwnedFd> {
        let (fd, kind) = self.open_any(target, access)?;
        match kind {
            S_IFREG => Ok(fd),
            S_IFDIR => Err(Errno::EISDIR),
            _ => Err(Errno::ENXIO),
        }
    }

    /// Opens for reading what is expected to be a regular file, and tells what it is like. If it is another, it has been opened
    /// for nothing.
    pub fn open_expected(&self, name: Name<'_>) -> SysResult<(OwnedFd, Attributes)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_with(Target::Child(name), flags)?;
        let mut attributes = Attributes::default();
        let opened = Local { fd: fd.as_fd(), file: None, crossing: self.crossing };
        opened.stat_into(Target::Itself, &mut attributes)?;
        Ok((fd, attributes))
    }

    /// Opens the character device that this is. What else it may be is refused: `ENXIO`.
    pub fn open_device(&self, access: Access) -> SysResult<OwnedFd> {
        match self.open_any(Target::Itself, access)? {
            (fd, S_IFCHR) => Ok(fd),
            _ => Err(Errno::ENXIO),
        }
    }

    /// Opens whatever it is, and tells what that is.
    fn open_any(&self, target: Target<'_>, access: Access) -> SysResult<(OwnedFd, u32)> {
        let access = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // A FIFO must not make us wait, nor a terminal become ours.
        let fd = self.open_with(target, access | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let kind = sys::fstat(&fd)?.st_mode & S_IFMT;
        Ok((fd, kind))
    }

    /// Opens a directory for walking below it.
    pub fn open_directory(&self, name: Name<'_>) -> SysResult<OwnedFd> {
        self.open_with(Target::Child(name), OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Makes a file; a regular one is returned open for reading and writing.
    pub fn create(
        &self,
        name: Name<'_>,
        new: &NewNode<'_>,
        ownership: Ownership,
    ) -> SysResult<(Attributes, Option<OwnedFd>)> {
        let bytes = name.as_bytes();
        let mode = Mode::from_raw_mode(new.mode & 0o7777);
        let special = |kind: sys::FileType, device: u64| sys::mknodat(self.fd, bytes, kind, mode, device);
        let mut opened = None;
        match new.mode & S_IFMT {
            S_IFREG => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                opened = Some(sys::openat(self.fd, bytes, flags, mode)?);
            }
            S_IFDIR => sys::mkdirat(self.fd, bytes, mode)?,
            S_IFLNK => sys::symlinkat(new.target, self.fd, bytes)?,
            S_IFIFO => special(sys::FileType::Fifo, 0)?,
            S_IFSOCK => special(sys::FileType::Socket, 0)?,
            S_IFCHR => special(sys::FileType::CharacterDevice, new.device)?,
            S_IFBLK => special(sys::FileType::BlockDevice, new.device)?,
            _ => return Err(Errno::EINVAL),
        }
        let finished = self.finish(name, new, ownership, opened.as_ref());
        if finished.is_err() {
            let flags = if new.mode & S_IFMT == S_IFDIR { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = sys::unlinkat(self.fd, bytes, flags);
        }
        Ok((finished?, opened))
    }

    /// Gives a new file its owner, and the mode that this or our umask may have taken.
    fn finish(
        &self,
        name: Name<'_>,
        new: &NewNode<'_>,
        ownership: Ownership,
        opened: Option<&OwnedFd>,
    ) -> SysResult<Attributes> {
        let stat = |this: &Self| match opened {
            Some(fd) => Local { fd: fd.as_fd(), file: None, crossing: this.crossing }.stat(Target::Itself),
            None => this.stat(Target::Child(name)),
        };
        let mut attributes = stat(self)?;
        let target = Target::Child(name);
        let mut changed = false;
        if (attributes.uid, attributes.gid) != (new.uid, new.gid) {
            let changes = Changes { uid: Some(new.uid), gid: Some(new.gid), ..Changes::default() };
            match (self.set_attributes(target, &changes), ownership) {
                (Ok(()), _) => changed = true,
                (Err(_), Ownership::Own) => {}
                (Err(error), Ownership::Exact) => return Err(error),
            }
        }
        let special = new.mode & 0o6000 != 0;
        let differs = (attributes.mode ^ new.mode) & 0o7777 != 0 || (changed && special);
        if new.mode & S_IFMT != S_IFLNK && differs {
            self.set_attributes(target, &Changes { mode: Some(new.mode & 0o7777), ..Changes::default() })?;
            changed = true;
        }
        if changed {
            attributes = stat(self)?;
        }
        Ok(attributes)
    }

    pub fn remove(&self, name: Name<'_>, removal: Removal) -> SysResult<()> {
        let flags = match removal {
            Removal::File => AtFlags::empty(),
            Removal::Directory => AtFlags::REMOVEDIR,
        };
        Ok(sys::unlinkat(self.fd, name.as_bytes(), flags)?)
    }

    pub fn rename(
        &self,
        name: Name<'_>,
        to: &Local<'_>,
        new_name: Name<'_>,
        replacing: Replacing,
    ) -> SysResult<()> {
        let flags = match replacing {
            Replacing::Yes => sys::RenameFlags::empty(),
            Replacing::No => sys::RenameFlags::NOREPLACE,
            Replacing::Exchange => sys::RenameFlags::EXCHANGE,
        };
        Ok(sys::renameat_with(self.fd, name.as_bytes(), to.fd, new_name.as_bytes(), flags)?)
    }

    pub fn link(&self, name: Name<'_>, to: &Local<'_>, new_name: Name<'_>) -> SysResult<()> {
        Ok(sys::linkat(self.fd, name.as_bytes(), to.fd, new_name.as_bytes(), AtFlags::empty())?)
    }

    pub fn read_link(&self, name: Name<'_>) -> SysResult<Vec<u8>> {
        // The host has no longer ones.
        let mut buffer = [const { MaybeUninit::uninit() }; LINK_MAX];
        let read =
            |name: &CStr| sys::readlinkat_raw(self.fd, name, &mut buffer).map(|(target, _)| target.to_vec());
        let target = name.with_c_str(read)?;
        if target.len() < LINK_MAX {
            return Ok(target);
        }
        Ok(sys::readlinkat(self.fd, name.as_bytes(), Vec::new())?.into_bytes())
    }

    pub fn set_attributes(&self, target: Target<'_>, changes: &Changes) -> SysResult<()> {
        if let Some(size) = changes.size {
            sys::ftruncate(self.open(target, Access::Write)?, size)?;
        }
        let (fd, name, flags) = self.named(target);
        if changes.uid.is_some() || changes.gid.is_some() {
            // -1 means "as it is" to the host, and is nobody's id.
            if changes.uid == Some(u32::MAX) || changes.gid == Some(u32::MAX) {
                return Err(Errno::EINVAL);
            }
            let uid = changes.uid.map(sys::Uid::from_raw);
            let gid = changes.gid.map(sys::Gid::from_raw);
            sys::chownat(fd, name, uid, gid, flags)?;
        }
        if let Some(mode) = changes.mode {
            host::file::change_mode(fd, name, mode & 0o7777, flags)?;
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            sys::utimensat(fd, name, &times(changes), flags)?;
        }
        Ok(())
    }

    /// Opens a file for its extended attributes. Only regular files and directories have those that users can set; the
    /// error for others is `other`.
    fn open_for_xattr(&self, target: Target<'_>, other: Errno) -> SysResult<OwnedFd> {
        match self.stat(target)?.kind() {
            S_IFREG => self.open(target, Access::Read),
            S_IFDIR => self.open_with(target, OFlags::RDONLY | OFlags::DIRECTORY),
            _ => Err(other),
        }
    }

    pub fn get_xattr(&self, target: Target<'_>, name: &[u8]) -> SysResult<Vec<u8>> {
        let fd = self.open_for_xattr(target, Errno::ENODATA)?;
        let mut value = vec![0; sys::fgetxattr_query(&fd, name)?.min(XATTR_MAX)];
        let length = sys::fgetxattr(&fd, name, value.as_mut_slice())?;
        value.truncate(length);
        Ok(value)
    }

    pub fn set_xattr(
        &self,
        target: Target<'_>,
        name: &[u8],
        value: &[u8],
        replacing: XattrReplacing,
    ) -> SysResult<()> {
        let flags = match replacing {
            XattrReplacing::Either => sys::XattrFlags::empty(),
            XattrReplacing::Create => sys::XattrFlags::CREATE,
            XattrReplacing::Replace => sys::XattrFlags::REPLACE,
        };
        Ok(sys::fsetxattr(self.open_for_xattr(target, Errno::EPERM)?, name, value, flags)?)
    }

    /// The names of a file's extended attributes, each with a zero behind.
    pub fn list_xattr(&self, target: Target<'_>) -> SysResult<Vec<u8>> {
        let fd = match self.open_for_xattr(target, Errno::ENXIO) {
            Err(Errno::ENXIO) => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = vec![0; sys::flistxattr_query(&fd)?.min(XATTR_MAX)];
        let length = sys::flistxattr(&fd, names.as_mut_slice())?;
        names.truncate(length);
        Ok(names)
    }

    pub fn remove_xattr(&self, target: Target<'_>, name: &[u8]) -> SysResult<()> {
        Ok(sys::fremovexattr(self.open_for_xattr(target, Errno::EPERM)?, name)?)
    }

    pub fn statistics(&self) -> SysResult<Statistics> {
        let stat = sys::fstatfs(self.fd)?;
        Ok(Statistics {
            magic: stat.f_type as u64,
            block_size: stat.f_bsize as u64,
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_length: stat.f_namelen as u64,
        })
    }

    /// Lists the directory from a cookie on, without `.` and `..`, until the entries take `budget` bytes in a message.
    /// Returns the next cookie; no entries are the end.
    pub fn list(&self, cookie: u64, budget: usize) -> SysResult<(Vec<Entry>, u64)> {
        let (mut entries, mut room, mut next) = (Vec::new(), budget, cookie);
        if room >= ENTRY_MAX {
            self.each_entry(cookie, |Listed { inode, kind, name }, cookie| {
                room -= name.len() + ENTRY_FIXED;
                next = cookie;
                entries.push(Entry { inode, kind, name: name.to_vec() });
                room >= ENTRY_MAX
            })?;
        }
        Ok((entries, next))
    }

    /// Adds all entries of the directory to `listing`.
    pub fn list_all(&self, listing: &mut Listing) -> SysResult<()> {
        self.each_entry(0, |entry, _| {
            listing.push(entry);
            true
        })
    }

    /// Hands over one entry after the other, with the cookie of the next, until there are no more or `take` wants none.
    fn each_entry(&self, cookie: u64, take: impl FnMut(Listed<'_>, u64) -> bool) -> SysResult<()> {
        let fd = self.open_with(Target::Itself, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if cookie != 0 {
            sys::seek(&fd, sys::SeekFrom::Start(cookie))?;
        }
        thread_local! {
            // To get so much memory and give it back takes longer than to list most directories.
            static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut buffer = BUFFER.take();
        buffer.reserve(LISTED_AT_ONCE);
        let listed = Self::each_entry_of(&fd, buffer.spare_capacity_mut(), take);
        BUFFER.set(buffer);
        listed
    }

    fn each_entry_of(
        fd: &OwnedFd,
        buffer: &mut [MaybeUninit<u8>],
        mut take: impl FnMut(Listed<'_>, u64) -> bool,
    ) -> SysResult<()> {
        let mut raw = sys::RawDir::new(fd, buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, [b'.'] | [b'.', b'.']) {
                continue;
            }
            let kind = match entry.file_type() {
                sys::FileType::Unknown => 0,
                known => known.as_raw_mode(),
            };
            let next = entry.next_entry_cookie();
            if !take(Listed { inode: entry.ino(), kind, name }, next) {
                break;
            }
        }
        Ok(())
    }

    pub fn sync(&self, target: Target<'_>) -> SysResult<()> {
        let fd = match target {
            Target::Itself if self.file.is_none() => {
                self.open_with(target, OFlags::RDONLY | OFlags::DIRECTORY)?
            }
            _ => self.open(target, Access::Read)?,
        };
        Ok(sys::fsync(&fd)?)
    }
}

/// How many bytes of entries the host is asked for at a time.
const LISTED_AT_ONCE: usize = 32 << 10;

/// Room for the target of a symbolic link (`PATH_MAX`).
const LINK_MAX: usize = 4096;

/// What an entry takes in a message besides its name, and at most with it.
const ENTRY_FIXED: usize = 16;
const ENTRY_MAX: usize = ENTRY_FIXED + NAME_MAX;

/// Times for `utimensat(2)`, the missing ones left as they are.
fn times(changes: &Changes) -> sys::Timestamps {
    const OMIT: sys::Timespec = sys::Timespec { tv_sec: 0, tv_nsec: sys::UTIME_OMIT as _ };
    let convert = |time: Option<TimeSpec>| {
        time.map_or(OMIT, |time| sys::Timespec {
            tv_sec: time.sec,
            tv_nsec: time.nsec.clamp(0, 999_999_999) as _,
        })
    };
    sys::Timestamps { last_access: convert(changes.accessed), last_modification: convert(changes.modified) }
}
