//! Files: what a file system must provide ([`FileSystem`], [`Inode`], [`OpenFile`]) and what stands above it.
//!
//! - [`FileSystem`] is one mounted instance; [`Inode`] one of its files; [`OpenFile`] the behaviour of an open one.
//! - [`File`] is the open file description that descriptors share: flags, offset, owner, and the [`OpenFile`] behind.
//! - `dentry` caches names, `mount` stacks file systems in one tree, `path` walks it.
//!
//! Operations of `Inode` and `OpenFile` check no permissions: the callers in `path` and `syscalls` have done so, for
//! all file systems alike. Names are single components, never empty, `.` or `..`, never longer than 255 bytes.
//!
//! Lock order: file offset → dentry tree rename lock → dentry children → inode → file-system internals.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::fs::{OpenFlags, S_IFMT};
use abi::time::TimeSpec;
use abi::{Errno, SysResult};

use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Events, Registration, WaitQueue, WaitSource, Wakeup};

pub mod acl;
pub mod async_signal;
pub mod cgroup;
pub mod dentry;
pub mod devices;
pub mod direct;
pub mod epoll;
pub mod erofs;
pub mod fd;
pub mod file;
mod hash;
pub mod host_file;
pub mod host_watch;
pub mod hostfs;
pub mod inotify;
pub mod locks;
pub mod memfs;
pub mod memory_files;
pub mod mount;
mod name_watch;
pub mod nameless;
pub(crate) mod open;
pub mod path;
pub mod permissions;
pub mod poll;
pub mod privileges;
pub mod proc;
pub mod syscalls;
pub mod sysfs;
pub mod text;

pub use acl::{Acl, AclKind, Acls};
pub use fd::FdTable;
pub use file::File;
pub use open::{open_executable, open_executable_at, open_executable_in};
pub use path::{FsContext, PathRef};

/// A shared inode.
pub type InodeRef = Arc<dyn Inode>;

/// An open file, as open file descriptions share it.
pub type OpenFileRef = Arc<dyn OpenFile>;

/// What a file is, from the type bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileType {
    /// The type in a mode; what is no type at all counts as a regular file, as `mknod(2)` has it.
    pub fn from_mode(mode: u32) -> FileType {
        match mode & S_IFMT {
            abi::fs::S_IFDIR => FileType::Directory,
            abi::fs::S_IFLNK => FileType::Symlink,
            abi::fs::S_IFIFO => FileType::Fifo,
            abi::fs::S_IFSOCK => FileType::Socket,
            abi::fs::S_IFCHR => FileType::CharDevice,
            abi::fs::S_IFBLK => FileType::BlockDevice,
            _ => FileType::Regular,
        }
    }

    /// The type bits of a mode.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileType::Regular => abi::fs::S_IFREG,
            FileType::Directory => abi::fs::S_IFDIR,
            FileType::Symlink => abi::fs::S_IFLNK,
            FileType::Fifo => abi::fs::S_IFIFO,
            FileType::Socket => abi::fs::S_IFSOCK,
            FileType::CharDevice => abi::fs::S_IFCHR,
            FileType::BlockDevice => abi::fs::S_IFBLK,
        }
    }

    /// `d_type` of a directory entry.
    pub fn directory_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// What the stat family tells of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of stat(3type)")]
pub struct Metadata {
    pub device: u64,
    pub inode: u64,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// The device that a device file stands for.
    pub rdev: u64,
    pub size: u64,
    pub block_size: u32,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub accessed: TimeSpec,
    pub modified: TimeSpec,
    pub changed: TimeSpec,
    /// When it was created, if the file system knows.
    pub born: Option<TimeSpec>,
}

impl Metadata {
    /// The file's type.
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }
}

/// What `statfs(2)` tells of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statfs(2)")]
pub struct FsStatistics {
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length: u64,
}

/// The number in `st_dev` of one of the kernel's own file systems, which lie on no device.
///
/// Files of the host keep the numbers that the host gives, and it counts those of its own such file systems up from
/// one. Ours begin where no host gets to, because programs tell mounts apart by them (df(1), find(1) `-xdev`).
pub const fn unnamed_device(number: u32) -> u64 {
    const FIRST: u32 = 0x8_0000;
    abi::fs::make_device(0, FIRST + number % FIRST)
}

/// Such a number that no other file system has.
fn next_unnamed_device() -> u64 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(40);
    unnamed_device(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One mounted instance of a file system.
pub trait FileSystem: Send + Sync {
    /// The type's name, as `/proc/mounts` shows it.
    fn name(&self) -> &'static str;

    /// The root directory (or file, for a bind-mounted file).
    fn root(&self) -> InodeRef;

    /// What `statfs(2)` tells.
    fn statistics(&self) -> SysResult<FsStatistics>;

    /// The options that `/proc/mounts` shows behind the generic ones, such as `size=1024k`; empty for none.
    fn options(&self) -> String {
        String::new()
    }

    /// The device number of its inodes.
    fn device(&self) -> u64;

    /// Whether a name that was looked up may be remembered in the dentry cache, and a missing one as missing. False
    /// for file systems that change by themselves (proc, devpts).
    fn cacheable(&self) -> bool {
        true
    }

    /// Whether directories are remembered for long although their names are not: they save a walk. False where they come
    /// and go all the time (proc).
    fn remembers_directories(&self) -> bool {
        true
    }
}

/// The kinds of file that [`Inode::create`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device with this number.
    CharDevice(u64),
    /// A block device with this number.
    BlockDevice(u64),
}

/// A file to be made.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// What it is.
    pub kind: NewKind,
    /// Permission bits, the umask already applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group (that of a set-group-id directory already applied).
    pub gid: u32,
    /// Its access control lists, which fit the permission bits.
    pub acls: Acls,
}

/// Attributes to change; `None` leaves one as it is. The change time is set in any case.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits (12 bits, without the type).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size, for `truncate(2)`.
    pub size: Option<u64>,
    /// Time of last access.
    pub accessed: Option<TimeSpec>,
    /// Time of last modification.
    pub modified: Option<TimeSpec>,
}

/// What [`Inode::look`] has found.
pub enum Looked {
    /// What the stat family tells of it, which is where the caller wants it.
    Metadata,
    /// A symbolic link, which the caller may want to follow.
    Link(InodeRef),
}

/// Flags of `renameat2(2)` that a file system sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// An existing target is replaced.
    Replace,
    /// `RENAME_NOREPLACE`
    NoReplace,
    /// `RENAME_EXCHANGE`
    Exchange,
}

/// How `setxattr(2)` treats an existing attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
}

/// A file of a file system. Its type never changes.
///
/// Defaults are what Linux returns for a file that lacks the operation.
pub trait Inode: Any + Send + Sync {
    /// State that every inode has, whatever its file system: locks, watches, the pipe behind a FIFO's name, …
    fn common(&self) -> &InodeCommon;

    /// What it is.
    fn file_type(&self) -> FileType;

    /// What the stat family tells.
    fn metadata(&self) -> SysResult<Metadata>;

    /// The same, of which only the owner and the mode are needed.
    fn metadata_for_access(&self) -> SysResult<Metadata> {
        self.metadata()
    }

    /// Whether `name` in `parent`, by which this directory was looked up, is known to stand for it still, where names are
    /// looked up anew each time.
    fn still_is(&self, _name: &[u8], _parent: &InodeRef) -> bool {
        false
    }

    /// Changes attributes. The default refuses, as read-only special files do.
    fn set_attributes(&self, _attributes: &SetAttributes) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    /// The file called `name` in this directory: `ENOENT` if there is none.
    fn lookup(self: Arc<Self>, _name: &[u8]) -> SysResult<InodeRef> {
        Err(Errno::ENOTDIR)
    }

    /// Puts into `_metadata` what the file called `name` in this directory is like, for who wants to know no more; `None` where
    /// that takes as much as looking it up.
    fn look(&self, _name: &[u8], _metadata: &mut Metadata) -> SysResult<Option<Looked>> {
        Ok(None)
    }

    /// The target of the symbolic link called `name` in this directory, for who wants to know no more: `EINVAL` for what is no
    /// link; `None` where that takes as much as looking it up.
    fn look_at_link(&self, _name: &[u8]) -> SysResult<Option<Vec<u8>>> {
        Ok(None)
    }

    /// [`Inode::lookup`] for who is about to open the file for reading, if it may: opens it with that where both cost less
    /// than one after the other. `None` where they do not, or `name` stands for something that is opened in other ways.
    /// `expected` is the regular file that it has stood for.
    fn lookup_opened(
        self: Arc<Self>,
        _name: &[u8],
        _expected: Option<&InodeRef>,
    ) -> SysResult<Option<(InodeRef, OpenFileRef)>> {
        Ok(None)
    }

    /// Makes a file called `name`: `EEXIST` if there is one.
    fn create(self: Arc<Self>, _name: &[u8], _new: &NewFile) -> SysResult<InodeRef> {
        Err(Errno::EPERM)
    }

    /// Makes a nameless file in this directory's file system (`O_TMPFILE`).
    fn create_unnamed(&self, _new: &NewFile) -> SysResult<InodeRef> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `target`, a file of the same file system, the further name `name` in this directory.
    fn link(&self, _name: &[u8], _target: &InodeRef) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    /// Removes the name of a file that is no directory (`EISDIR` otherwise).
    fn unlink(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory: `ENOTEMPTY`, `ENOTDIR`.
    fn rmdir(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    /// Moves `name` to `new_name` in `new_parent`, a directory of the same file system.
    fn rename(
        self: Arc<Self>,
        _name: &[u8],
        _parent: &InodeRef,
        _new_name: &[u8],
        _mode: RenameMode,
    ) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    /// The target of a symbolic link.
    fn readlink(&self, _task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a magic link (`/proc/PID/fd/N`, `exe`, `cwd`, `root`) leads without a walk; `None` for all other links.
    fn follow(&self, _task: &CurrentTask) -> SyscallResult<Option<PathRef>> {
        Ok(None)
    }

    /// Opens it. `flags` holds the access mode and the status flags; creation, `O_TRUNC` and permissions are done.
    /// FIFOs and sockets by name are opened by the caller. Without a task it is the kernel that opens a program.
    fn open(
        self: Arc<Self>,
        task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>>;

    /// Connects to whoever listens at a socket outside of this kernel by this name, without waiting. The default is that
    /// there is nobody.
    fn connect(&self, _kind: gofer::SocketKind, _guest: gofer::Guest) -> SysResult<(OwnedFd, gofer::Peer)> {
        Err(Errno::ECONNREFUSED)
    }

    /// Whether a FIFO is opened by [`Inode::open`] rather than as a pipe of this kernel's.
    fn opens_itself(&self) -> bool {
        false
    }

    /// Reads an extended attribute.
    fn get_xattr(&self, _name: &[u8]) -> SysResult<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets an extended attribute.
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _mode: XattrMode) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of all extended attributes.
    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// Removes an extended attribute.
    fn remove_xattr(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// One of the file's access control lists, if it has that; the default is that there can be none.
    fn acl(&self, _kind: AclKind) -> SysResult<Option<Arc<Acl>>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives it an access control list or takes it away. An access list changes the permission bits, of which `dropped` are
    /// taken away in any case.
    fn set_acl(&self, _kind: AclKind, _list: Option<Arc<Acl>>, _dropped: u32) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Writes what is cached to stable storage.
    fn sync(&self) -> SysResult<()> {
        Ok(())
    }
}

/// State that every inode has. Subsystems add a field each: file locks, inotify watches, a FIFO's pipe, the socket
/// bound to a name.
pub struct InodeCommon {
    /// A number that no other inode of this kernel has; what identifies it where the host's numbers may repeat.
    pub id: u64,
    /// Advisory locks.
    pub locks: locks::FileLocks,
    /// Whether writers or running programs use it.
    pub text: text::TextUse,
    /// Which instructions in it make system calls.
    pub call_sites: crate::mm::CallSites,
    /// Who is told what happens to it.
    pub watches: inotify::Watches,
    /// The pipe behind a FIFO's name, while it is open somewhere.
    pub fifo: parking_lot::Mutex<std::sync::Weak<crate::ipc::pipe::Pipe>>,
    /// The socket that is bound to this name.
    pub socket: parking_lot::Mutex<std::sync::Weak<crate::net::unix::Endpoint>>,
}

impl InodeCommon {
    /// State for a new inode.
    pub fn new() -> InodeCommon {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        InodeCommon {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            locks: locks::FileLocks::default(),
            text: text::TextUse::default(),
            call_sites: crate::mm::CallSites::default(),
            watches: inotify::Watches::default(),
            fifo: parking_lot::Mutex::default(),
            socket: parking_lot::Mutex::default(),
        }
    }
}

impl Default for InodeCommon {
    fn default() -> Self {
        InodeCommon::new()
    }
}

/// Where an offset is counted from, `lseek(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// From the beginning.
    Set,
    /// From the current offset.
    Current,
    /// From the end.
    End,
    /// To the next data.
    Data,
    /// To the next hole.
    Hole,
}

/// The position of [`OpenFile::write_at`] that means the end of the file, wherever that is.
pub const AT_END: u64 = u64::MAX;

/// Takes directory entries: name, inode number, type, and the offset of the *next* entry. Returns false when there is
/// no more room; the entry has then not been taken.
pub type DirectorySink<'a> = dyn FnMut(&[u8], u64, FileType, u64) -> bool + 'a;

/// Host memory or a host file that guests can map, given by [`OpenFile::map`].
pub enum Mappable {
    /// Fresh zeroed memory (`/dev/zero`).
    Anonymous,
    /// This host file, in which the guest's file offsets are the host's plus `delta`.
    Host {
        /// Open for what the mapping may need: never more rights than the guest's file has.
        fd: Arc<OwnedFd>,
        /// Added to a file offset to get the offset in `fd`.
        delta: u64,
    },
}

/// How an open file behaves. Operations never wait: they return `EAGAIN`, and [`File`] waits.
pub trait OpenFile: Any + Send + Sync {
    /// Reads from a stream, such as a pipe. Zero is the end. Files with positions implement [`OpenFile::read_at`].
    fn read(&self, _task: &CurrentTask, _file: &File, _to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        Err(Errno::EINVAL.into())
    }

    /// Writes to a stream.
    fn write(&self, _task: &CurrentTask, _file: &File, _from: &mut UserReader<'_>) -> SyscallResult<usize> {
        Err(Errno::EINVAL.into())
    }

    /// Whether the file has positions: then reads and writes go through `read_at` and `write_at`, and `lseek` works.
    fn seekable(&self) -> bool {
        false
    }

    /// Whether the file has positions that `lseek`, `pread` and `pwrite` know. One that is not [`OpenFile::seekable`]
    /// keeps its offset itself.
    fn has_positions(&self) -> bool {
        self.seekable()
    }

    /// Reads at a position.
    fn read_at(&self, _file: &File, _offset: u64, _to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        Err(Errno::EINVAL.into())
    }

    /// Writes at a position, or at the end for [`AT_END`]. Returns the number of bytes and the position behind them.
    fn write_at(
        &self,
        _file: &File,
        _offset: u64,
        _from: &mut UserReader<'_>,
    ) -> SyscallResult<(usize, u64)> {
        Err(Errno::EINVAL.into())
    }

    /// The offset that `lseek(2)` leads to from `current`. The default knows `Set`, `Current` and, with the size from
    /// [`Inode::metadata`], the others, for a file that is one stretch of data.
    fn seek(&self, file: &File, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        file.seek_default(current, offset, whence)
    }

    /// Lists a directory from `position`, a value that a former call gave as the next offset (0 at first), until
    /// `sink` is full. `.` and `..` are included.
    fn read_directory(
        &self,
        _task: &CurrentTask,
        _position: u64,
        _sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        Err(Errno::ENOTDIR)
    }

    /// What is possible now. The default is a file that is always ready.
    fn readiness(&self, _file: &File) -> Events {
        Events::READABLE | Events::WRITABLE
    }

    /// How long a read (`IN`) or a write (`OUT`) that waits may wait: `SO_RCVTIMEO`, `SO_SNDTIMEO`. `None` is for ever.
    fn timeout(&self, _events: Events) -> Option<std::time::Duration> {
        None
    }

    /// What a read returns whose time is over.
    fn read_timed_out(&self) -> SyscallResult<usize> {
        Err(Errno::EAGAIN.into())
    }

    /// Whom the object wakes; `None` if it is always ready.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Asks to be woken. Objects with more than one queue, or that must first arm something, override this.
    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        self.wait_queue().map_or_else(Registration::none, |queue| queue.register(events, wakeup))
    }

    /// Whether `epoll(7)` accepts it; regular files and directories are refused with `EPERM`.
    fn pollable(&self) -> bool {
        self.wait_queue().is_some()
    }

    /// `ioctl(2)`; `argument` is a number or a guest address.
    fn ioctl(&self, _task: &CurrentTask, _file: &File, _request: u32, _argument: u64) -> SyscallResult {
        Err(Errno::ENOTTY.into())
    }

    /// The host's open file description, if it is this file's alone: nobody else uses its offset.
    fn own_description(&self) -> Option<&Arc<OwnedFd>> {
        None
    }

    /// Whether it is a file of its own on the host that nobody changes, and that is there for as long as the container.
    fn is_of_image(&self) -> bool {
        false
    }

    /// What a guest maps when it maps this file (`shared` and `writable` say how). `ENODEV` if it cannot be mapped.
    fn map(&self, _file: &File, _shared: bool, _writable: bool) -> SysResult<Mappable> {
        Err(Errno::ENODEV)
    }

    /// Writes cached data to stable storage. `EINVAL` for what has none.
    fn sync(&self) -> SysResult<()> {
        Err(Errno::EINVAL)
    }

    /// `fallocate(2)` with its mode bits.
    fn allocate(&self, _file: &File, _mode: u32, _offset: u64, _length: u64) -> SysResult<()> {
        Err(Errno::ENODEV)
    }

    /// Called when a status flag has changed through `fcntl(F_SETFL)`.
    fn flags_changed(&self, _file: &File) -> SysResult<()> {
        Ok(())
    }

    /// Called at each `close(2)` of a descriptor of the file, before the description may go away.
    fn flush(&self, _task: &CurrentTask) -> SysResult<()> {
        Ok(())
    }

    /// Whether seals keep the content from being written (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`).
    fn write_sealed(&self) -> bool {
        false
    }

    /// Lines for `/proc/PID/fdinfo/N` behind the generic ones.
    fn describe(&self) -> String {
        String::new()
    }
}

impl dyn OpenFile {
    /// The object as its own type, for calls that only work on one kind of file.
    pub fn downcast_ref<T: OpenFile>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

impl dyn Inode {
    /// The object as its own type.
    pub fn downcast_ref<T: Inode>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

impl WaitSource for File {
    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        self.ops().register(events, wakeup)
    }
}
