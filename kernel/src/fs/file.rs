//! [`File`]: the open file description (POSIX's term) that descriptors share.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::inotify::Mask;
use super::text::TextGuard;
use super::{AT_END, FileType, InodeRef, OpenFile, PathRef, Whence, direct, privileges};
use crate::error::{SysError, SyscallResult};
use crate::task::CurrentTask;
use crate::task::limits::{self, INFINITY, Resource};
use crate::user::{UserReader, UserWriter};
use crate::wait::{Deadline, Events, Registration};

/// What a file without a place in the tree is called, as `readlink` of `/proc/PID/fd/N` shows it.
#[derive(Clone)]
pub enum Place {
    /// A name in the mount tree.
    Path(PathRef),
    /// None: `pipe:[12]`, `socket:[7]`, `anon_inode:[eventpoll]`, `/memfd:name (deleted)`; with its inode, if any.
    Anonymous {
        /// The text.
        name: String,
        /// What `fstat(2)` looks at; without one, the answer is made up from the text.
        inode: Option<InodeRef>,
    },
}

/// An open file description: what `open(2)` makes and `dup(2)` shares.
pub struct File {
    /// A number that no other open file of this kernel has.
    pub id: u64,
    /// Where it was opened.
    pub place: Place,
    ops: Arc<dyn OpenFile>,
    flags: AtomicU32,
    offset: Mutex<Offset>,
    /// Whether the offset is in the host's description.
    on_host: AtomicBool,
    /// `F_SETOWN` and `F_SETSIG`.
    pub owner: Mutex<FileOwner>,
    /// The state of [`privileges`] for which nothing had to be taken from the file.
    unprivileged: AtomicU64,
    /// What makes the owner get a signal, while `O_ASYNC` is set.
    pub(super) signalled: Mutex<Option<Registration>>,
    /// What keeps writers and programs apart, for those that count as one of them.
    text: Mutex<Option<TextGuard>>,
}

/// Where a description's offset is.
enum Offset {
    /// Here.
    Own(u64),
    /// In this description of the host's, which guests may use without the kernel.
    Host(Arc<OwnedFd>),
}

/// Who gets SIGIO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOwner {
    /// A pid, a process group as a negative number, or zero for nobody.
    pub id: i32,
    /// Whether `id` is a thread's.
    pub thread: bool,
    /// The signal; zero for SIGIO.
    pub signal: i32,
    /// The real and the effective user that made it the owner.
    pub users: (u32, u32),
    /// The descriptor by which `O_ASYNC` was set.
    pub fd: i32,
}

/// Whether a write goes to the end of the file, wherever its offset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// It goes to the offset.
    No,
    /// It goes to the end.
    Yes,
}

impl File {
    /// The description of a file that was just opened.
    pub fn new(place: Place, ops: Arc<dyn OpenFile>, flags: OpenFlags) -> Arc<File> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let kept = flags
            - OpenFlags::CREAT
            - OpenFlags::EXCL
            - OpenFlags::NOCTTY
            - OpenFlags::TRUNC
            - OpenFlags::CLOEXEC;
        Arc::new(File {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            place,
            ops,
            flags: AtomicU32::new(kept.bits()),
            offset: Mutex::new(Offset::Own(0)),
            on_host: AtomicBool::new(false),
            owner: Mutex::default(),
            unprivileged: AtomicU64::new(0),
            signalled: Mutex::default(),
            text: Mutex::default(),
        })
    }

    /// Whether it belongs to the image that the container began with, and there to those which anybody may read.
    pub fn is_public(&self) -> bool {
        let Place::Path(place) = &self.place else { return false };
        let lets_others = |place: &PathRef, right: u32| {
            let metadata = place.existing().and_then(|inode| inode.metadata_for_access());
            metadata.is_ok_and(|metadata| metadata.mode & right == right)
        };
        let mut above = place.parent();
        while let Some(directory) = above {
            if !Arc::ptr_eq(&directory.mount, &place.mount) || !lets_others(&directory, 0o001) {
                return false;
            }
            above = directory.parent();
        }
        place.mount.parent().is_none() && self.ops.is_of_image() && lets_others(place, 0o004)
    }

    /// A file without a name in the tree.
    pub fn anonymous(name: impl Into<String>, ops: Arc<dyn OpenFile>, flags: OpenFlags) -> Arc<File> {
        File::new(Place::Anonymous { name: name.into(), inode: None }, ops, flags)
    }

    /// Makes the description count as a writer's or as a program's, or as neither.
    pub fn set_text_use(&self, guard: Option<TextGuard>) {
        *self.text.lock() = guard;
    }

    /// What it does.
    pub fn ops(&self) -> &Arc<dyn OpenFile> {
        &self.ops
    }

    /// The access mode and the status flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// `fcntl(F_SETFL)`: replaces the flags that can be changed.
    pub fn set_flags(&self, flags: OpenFlags) -> SysResult<()> {
        let kept = self.flags() - OpenFlags::SETTABLE;
        let flags = kept | (flags & OpenFlags::SETTABLE);
        let offset = self.offset.lock();
        if let Offset::Host(description) = &*offset {
            set_append(description, flags.contains(OpenFlags::APPEND))?;
        }
        self.flags.store(flags.bits(), Ordering::Relaxed);
        drop(offset);
        self.ops.flags_changed(self)
    }

    /// The inode, if the file has one.
    pub fn inode(&self) -> Option<&InodeRef> {
        match &self.place {
            Place::Path(path) => path.inode(),
            Place::Anonymous { inode, .. } => inode.as_ref(),
        }
    }

    /// Where it lies in the tree, if it does.
    pub fn path(&self) -> Option<&PathRef> {
        match &self.place {
            Place::Path(path) => Some(path),
            Place::Anonymous { .. } => None,
        }
    }

    /// What is possible now.
    pub fn readiness(&self) -> Events {
        self.ops.readiness(self)
    }

    /// How long an operation that waits for `events` may wait, by the file's flags and its own time limits.
    pub fn deadline_for(&self, events: Events) -> Deadline {
        if self.flags().contains(OpenFlags::NONBLOCK) {
            return Deadline::Now;
        }
        Deadline::timeout(self.ops.timeout(events))
    }

    /// `read(2)`: at the file's offset, or from the stream; waits unless `O_NONBLOCK`.
    pub fn read(&self, task: &CurrentTask, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        self.read_until(task, to, self.deadline_for(Events::READABLE))
    }

    /// [`File::read`] that waits until a deadline of the caller's.
    pub fn read_until(
        &self,
        task: &CurrentTask,
        to: &mut UserWriter<'_>,
        deadline: Deadline,
    ) -> SyscallResult<usize> {
        self.check_readable()?;
        if self.ops.seekable() {
            let mut offset = self.offset.lock();
            let count = match &mut *offset {
                Offset::Own(offset) => {
                    let count = self.ops.read_at(self, *offset, to)?;
                    *offset += count as u64;
                    count
                }
                Offset::Host(description) => direct::read(description, to)?,
            };
            drop(offset);
            return Ok(self.accessed(count));
        }
        let result = task.block_on(self, Events::READABLE, deadline, || self.ops.read(task, self, to));
        match (result, deadline) {
            (Err(SysError::Errno(Errno::EAGAIN)), Deadline::At(_)) => self.ops.read_timed_out(),
            (result, _) => result.map(|count| self.accessed(count)),
        }
    }

    /// Moves the offset back over what has turned out not to have been read.
    pub(crate) fn take_back(&self, count: u64) {
        match &mut *self.offset.lock() {
            Offset::Own(offset) => *offset = offset.saturating_sub(count),
            Offset::Host(description) => {
                let back = count.cast_signed().saturating_neg();
                let _ = direct::seek(description, back, Whence::Current);
            }
        }
    }

    /// Leaves the offset to the host's description: `EINVAL` for a file that has none of its own. The host then appends if the
    /// file's flags say so.
    pub(super) fn move_offset_to_host(&self) -> SysResult<()> {
        let mut offset = self.offset.lock();
        if let Offset::Own(position) = *offset {
            let description = self.ops.own_description().ok_or(Errno::EINVAL)?;
            set_append(description, self.flags().contains(OpenFlags::APPEND))?;
            let position = i64::try_from(position).map_err(|_| Errno::EINVAL)?;
            direct::seek(description, position, Whence::Set)?;
            *offset = Offset::Host(Arc::clone(description));
            self.on_host.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Whether guests may have come to use the file without the kernel.
    #[inline]
    pub(super) fn may_be_direct(&self) -> bool {
        self.on_host.load(Ordering::Relaxed)
    }

    /// Whether a write does nothing but write, unless a limit of the process forbids it.
    pub(super) fn is_written_plainly(&self) -> bool {
        let checked = self.unprivileged.load(Ordering::Relaxed) == privileges::state();
        checked && !self.flags().intersects(OpenFlags::DSYNC) && !self.ops.write_sealed()
    }

    /// Tells watchers of a read of so many bytes, which it returns.
    fn accessed(&self, count: usize) -> usize {
        if count > 0 {
            self.notify(Mask::ACCESS);
        }
        count
    }

    /// Tells watchers of a write of so many bytes, which it returns.
    fn modified(&self, count: usize) -> usize {
        if count > 0 {
            self.notify(Mask::MODIFY);
        }
        count
    }

    /// `write(2)`: at the file's offset or its end, or to the stream. A blocking write to a stream goes on until all
    /// is written; a signal or an error after the first byte ends it with what there is.
    pub fn write(&self, task: &CurrentTask, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        self.write_until(task, from, self.deadline_for(Events::WRITABLE), self.appends())
    }

    /// [`File::write`] that waits until a deadline of the caller's, and appends or not.
    pub fn write_until(
        &self,
        task: &CurrentTask,
        from: &mut UserReader<'_>,
        deadline: Deadline,
        append: Append,
    ) -> SyscallResult<usize> {
        self.check_writable()?;
        if self.ops.seekable() {
            let mut offset = self.offset.lock();
            let count = match &mut *offset {
                Offset::Own(offset) => {
                    let position = if append == Append::Yes { AT_END } else { *offset };
                    self.prepare_write(task, position, from)?;
                    let (count, end) = self.ops.write_at(self, position, from)?;
                    *offset = end;
                    count
                }
                Offset::Host(description) => {
                    // Only a limit asks for it.
                    let limited = task.group.limit(Resource::FileSize) != INFINITY;
                    let position = match append {
                        Append::No if limited => direct::seek(description, 0, Whence::Current)?,
                        _ => AT_END,
                    };
                    self.prepare_write(task, position, from)?;
                    direct::write(description, self, append, from)?
                }
            };
            drop(offset);
            return Ok(self.modified(count));
        }
        let start = from.taken();
        loop {
            let before = from.taken();
            let result = task.block_on(self, Events::WRITABLE, deadline, || self.ops.write(task, self, from));
            match result {
                Ok(_) if from.remaining() > 0 && from.taken() > before && deadline != Deadline::Now => {}
                Ok(count) if before == start => return Ok(self.modified(count)),
                Ok(_) => return Ok(self.modified(from.taken() - start)),
                Err(_) if from.taken() > start => return Ok(self.modified(from.taken() - start)),
                Err(error) => return Err(error),
            }
        }
    }

    /// `pread(2)`: `ESPIPE` for a stream.
    pub fn read_at(&self, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        if !self.ops.has_positions() {
            return Err(Errno::ESPIPE.into());
        }
        self.check_readable()?;
        self.ops.read_at(self, offset, to).map(|count| self.accessed(count))
    }

    /// `pwrite(2)`: `ESPIPE` for a stream. Appends if `O_APPEND` is set, as Linux does.
    pub fn write_at(
        &self,
        task: &CurrentTask,
        offset: u64,
        from: &mut UserReader<'_>,
    ) -> SyscallResult<usize> {
        self.write_at_or_end(task, offset, from, self.appends())
    }

    /// [`File::write_at`] that appends or not.
    pub fn write_at_or_end(
        &self,
        task: &CurrentTask,
        offset: u64,
        from: &mut UserReader<'_>,
        append: Append,
    ) -> SyscallResult<usize> {
        if !self.ops.has_positions() {
            return Err(Errno::ESPIPE.into());
        }
        self.check_writable()?;
        let offset = if append == Append::Yes { AT_END } else { offset };
        self.prepare_write(task, offset, from)?;
        self.ops.write_at(self, offset, from).map(|(count, _)| self.modified(count))
    }

    /// Whether writes go to the end.
    fn appends(&self) -> Append {
        if self.flags().contains(OpenFlags::APPEND) { Append::Yes } else { Append::No }
    }

    /// What has to be done before the content of a regular file is written: it may become only so large (`EFBIG` and
    /// SIGXFSZ), and privileges that it gives end.
    fn prepare_write(
        &self,
        task: &CurrentTask,
        position: u64,
        from: &mut UserReader<'_>,
    ) -> SyscallResult<()> {
        if from.remaining() == 0 {
            return Ok(());
        }
        let limit = task.group.limit(Resource::FileSize);
        let state = privileges::state();
        let checked = self.unprivileged.load(Ordering::Relaxed) == state;
        if checked && limit == INFINITY {
            return Ok(());
        }
        let Some(inode) = self.inode().filter(|inode| inode.file_type() == FileType::Regular) else {
            return Ok(());
        };
        if limit != INFINITY {
            let position = if position == AT_END { inode.metadata()?.size } else { position };
            if position >= limit {
                return Err(limits::file_too_large(task));
            }
            from.limit(usize::try_from(limit - position).unwrap_or(usize::MAX));
        }
        if !checked && privileges::drop_all(inode, &task.credentials())? {
            self.unprivileged.store(state, Ordering::Relaxed);
        }
        Ok(())
    }

    /// `lseek(2)`.
    pub fn seek(&self, offset: i64, whence: Whence) -> SysResult<u64> {
        if self.flags().contains(OpenFlags::PATH) {
            return Err(Errno::EBADF);
        }
        let directory = self.inode().is_some_and(|inode| inode.file_type() == FileType::Directory);
        if !self.ops.has_positions() && !directory {
            return Err(Errno::ESPIPE);
        }
        match &mut *self.offset.lock() {
            Offset::Own(current) => {
                *current = self.ops.seek(self, *current, offset, whence)?;
                Ok(*current)
            }
            Offset::Host(description) => direct::seek(description, offset, whence),
        }
    }

    /// Runs `operation` with the offset locked; what it leaves there is the new offset (directory listing, `sendfile`).
    pub fn with_offset<T>(&self, operation: impl FnOnce(&mut u64) -> T) -> T {
        match &mut *self.offset.lock() {
            Offset::Own(offset) => operation(offset),
            Offset::Host(description) => {
                let before = direct::seek(description, 0, Whence::Current).unwrap_or(0);
                let mut offset = before;
                let result = operation(&mut offset);
                if let Some(target) = i64::try_from(offset).ok().filter(|_| offset != before) {
                    let _ = direct::seek(description, target, Whence::Set);
                }
                result
            }
        }
    }

    /// `EBADF` unless open for reading.
    pub fn check_readable(&self) -> Result<(), SysError> {
        if self.flags().readable() { Ok(()) } else { Err(Errno::EBADF.into()) }
    }

    /// `EBADF` unless open for writing.
    pub fn check_writable(&self) -> Result<(), SysError> {
        if self.flags().writable() { Ok(()) } else { Err(Errno::EBADF.into()) }
    }

    /// The size that positions are counted against.
    fn size(&self) -> SysResult<u64> {
        self.inode().map_or(Ok(0), |inode| Ok(inode.metadata()?.size))
    }

    /// [`OpenFile::seek`] for a file that is one stretch of data.
    pub fn seek_default(&self, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => current,
            Whence::End => self.size()?,
            Whence::Data | Whence::Hole => {
                let size = self.size()?;
                let offset = u64::try_from(offset).ok().filter(|o| *o < size).ok_or(Errno::ENXIO)?;
                return Ok(if whence == Whence::Data { offset } else { size });
            }
        };
        let target = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
        if i64::try_from(target).is_err() { Err(Errno::EOVERFLOW) } else { Ok(target) }
    }
}

/// Makes the host append to a description or not.
fn set_append(description: &OwnedFd, append: bool) -> SysResult<()> {
    let before = rustix::fs::fcntl_getfl(description)?;
    let mut flags = before;
    flags.set(rustix::fs::OFlags::APPEND, append);
    if flags != before {
        rustix::fs::fcntl_setfl(description, flags)?;
    }
    Ok(())
}

impl Drop for File {
    fn drop(&mut self) {
        self.notify(if self.flags().writable() { Mask::CLOSE_WRITE } else { Mask::CLOSE_NOWRITE });
        super::locks::release_description(self);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fs::hostfs::{HostFs, Writing};
    use crate::fs::memfs::MemFs;
    use crate::fs::mount::{MountFlags, MountNamespace};
    use crate::user::UserReader;

    #[test]
    fn what_anybody_may_read_of_the_image_is_public() {
        let image = tempfile::tempdir().expect("a directory");
        let put = |path: &str, mode: u32| {
            let path = image.path().join(path);
            std::fs::create_dir_all(path.parent().expect("one")).expect("directories");
            std::fs::write(&path, "text").expect("a file");
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
        };
        let set = |path: &str, mode: u32| {
            std::fs::set_permissions(image.path().join(path), PermissionsExt::from_mode(mode))
                .expect("a mode");
        };
        set("", 0o755);
        put("lib/all", 0o644);
        put("lib/some", 0o640);
        put("lib/run", 0o711);
        put("lib/changed", 0o644);
        put("home/own/all", 0o777);
        set("lib", 0o711);
        set("home", 0o755);
        set("home/own", 0o750);
        std::fs::create_dir(image.path().join("volume")).expect("a directory");
        let lower = || {
            HostFs::new(std::fs::File::open(image.path()).expect("it").into(), Writing::ReadOnly).expect("it")
        };
        let root = MemFs::merged(lower().root_inode()).expect("a layer");
        let mounts = MountNamespace::new(root, "none", MountFlags::empty());
        let find = |from: PathRef, path: &str| {
            path.split('/').fold(from, |PathRef { mount, dentry }, name| {
                let dentry = dentry.lookup(&*mount.file_system, name.as_bytes()).expect("a name");
                PathRef { mount, dentry }
            })
        };
        let at = |path: &str| find(mounts.root(), path);
        let open = |place: PathRef, flags: OpenFlags| {
            let ops = place
                .existing()
                .ok()
                .and_then(|inode| Arc::clone(inode).open(None, flags).ok())
                .expect("opened");
            File::new(Place::Path(place), ops, flags)
        };
        let public = |path: &str| open(at(path), OpenFlags::empty()).is_public();
        assert!(public("lib/all") && public("lib/changed"));
        // By its own mode, or by that of a directory above it.
        assert!(!public("lib/some") && !public("lib/run") && !public("home/own/all"));
        // What was changed is not the image's any more.
        let changed = open(at("lib/changed"), OpenFlags::empty());
        let writable = open(at("lib/changed"), OpenFlags::RDWR);
        writable.ops().write_at(&writable, 0, &mut UserReader::buffer(b"else")).expect("written");
        assert!(!changed.is_public() && !public("lib/changed"));
        // Nor is what another file system shows, or what has no name.
        let volume = mounts.mount(at("volume"), lower(), "none", MountFlags::empty()).expect("mounted");
        let inside = open(find(volume.root_place(), "lib/all"), OpenFlags::empty());
        assert!(public("lib/all") && !inside.is_public());
        let inode = Arc::clone(at("lib/all").existing().expect("it"));
        let ops = Arc::clone(&inode).open(None, OpenFlags::empty()).expect("opened");
        let place = Place::Anonymous { name: String::new(), inode: Some(inode) };
        assert!(!File::new(place, ops, OpenFlags::empty()).is_public());
    }
}
