//! Open files that guest threads read and write by themselves, without a system call that comes here.
//!
//! A file of the host that is used much becomes *direct* ([`platform::DirectFiles`]): its offset goes over to the host's own
//! open file description ([`File::move_offset_to_host`]), of which the guest's threads then make use. What a read or write here
//! does besides moving data must not be missed, so that this is only for files and at times when it does nothing: nobody
//! watches the file or its directory ([`inotify`]), writing takes no privileges from it ([`super::privileges`]) and needs no
//! `fdatasync`, the process may write files of any size, and nobody wants to see its calls. A process with a seccomp filter that
//! does not allow such calls whatever their arguments has no such files, so that code which jumps into the stub does nothing
//! that the filter forbids. Whoever changes one of these takes
//! all files back, after the change ([`revoke_all`]); those that still may be direct are so again when they are used.
//!
//! A descriptor table that has direct files is tied to one address space. What leaves the table is taken back before the
//! descriptor can stand for anything else, and if it was the last of its description in the table, the stub closes it before
//! the guest goes on: so a description ends when the last process has closed it, as it should.
//!
//! Lock order: [`SPACES`], then a descriptor table; the limits of a process are looked at under the former.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use platform::{DirectFiles, Uses};
use rustix::io::ReadWriteFlags;

use super::file::Append;
use super::{FdTable, File, inotify};
use crate::syscalls::Fd;
use crate::task::limits::{INFINITY, Resource};
use crate::task::{CurrentTask, ThreadGroup};
use crate::user::{UserReader, UserWriter};

/// The address spaces that have had direct files. Held while one is made so, and while what it depends on is looked at.
static SPACES: Mutex<Vec<Weak<dyn DirectFiles>>> = Mutex::new(Vec::new());

/// The calls that guests make by themselves: `read`, `write`, `lseek`, `pread64`, `pwrite64`.
const CALLS: [u32; 5] = [0, 1, 8, 17, 18];

/// How long a call of a guest's may take that has begun before its file was taken from it.
const PATIENCE: Duration = Duration::from_millis(20);

/// `RWF_NOAPPEND`
const NO_APPEND: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x20);

/// Takes all direct files back, and waits for what guests are doing with them. To be called when something has changed that
/// they depend on.
pub fn revoke_all() {
    let spaces: Vec<_> = SPACES.lock().iter().filter_map(Weak::upgrade).collect();
    spaces.iter().for_each(|space| space.revoke_all());
    wait_for_calls(&spaces);
}

/// Waits for what guests are doing by themselves; for all of them together no longer than it may take.
fn wait_for_calls(spaces: &[Arc<dyn DirectFiles>]) {
    let deadline = Instant::now() + PATIENCE;
    spaces.iter().for_each(|space| space.wait_for_calls(deadline));
}

/// The largest size of files of a process has changed, or which calls all of its threads may make.
pub fn reconsider(kernel: &crate::Kernel, group: &ThreadGroup) {
    let spaces = SPACES.lock();
    for task in kernel.tasks.tasks_of(group.pid) {
        task.signals.own().allow_direct(Uses::NONE);
        task.change_answers();
    }
    let held: Vec<_> = spaces.iter().filter_map(Weak::upgrade).collect();
    drop(spaces);
    wait_for_calls(&held);
}

/// What a description is open for.
fn uses_of(file: &File) -> Uses {
    Uses { read: file.flags().readable(), write: file.flags().writable() }
}

impl CurrentTask {
    /// What the task may do with direct files.
    fn direct_uses(&self) -> Uses {
        let watched = self.kernel.strace.is_some() || self.ptrace.is_traced();
        if watched || !self.seccomp.always_allows(&CALLS) {
            return Uses::NONE;
        }
        Uses { read: true, write: self.group.limit(Resource::FileSize) == INFINITY }
    }

    /// Tells the platform what the thread may do with direct files. To be called before it runs, when that may have changed.
    pub(crate) fn offer_direct_files(&self) {
        let Some(space) = self.context.borrow().direct_files() else { return };
        let _spaces = SPACES.lock();
        if !self.seccomp.always_allows(&CALLS) {
            // What the filter forbids, no code in the stub is to make possible.
            space.forbid();
        }
        let owned = space.is_owned_by(self.files().id());
        self.signals.own().allow_direct(if owned { self.direct_uses() } else { Uses::NONE });
    }

    /// Notes that so many bytes are about to be read from a file or written to it, one of `uses`. If it is used much, this is
    /// the last time that the kernel hears of it.
    #[inline]
    pub(crate) fn note_use(&self, fd: Fd, file: &Arc<File>, wanted: Uses, length: usize) {
        let Some(description) = file.ops().own_description() else { return };
        let worth_it =
            self.context.borrow_mut().is_worth_direct(fd.0.cast_unsigned(), description, wanted, length);
        if worth_it {
            self.make_direct(fd, file, description, wanted);
        }
    }

    /// Makes a file direct, and lets the task use it if that is possible now.
    #[cold]
    fn make_direct(&self, fd: Fd, file: &Arc<File>, description: &Arc<OwnedFd>, wanted: Uses) {
        let mut context = self.context.borrow_mut();
        let (Some(space), open) = (context.direct_files(), uses_of(file)) else { return };
        if (wanted.read && !open.read) || (wanted.write && !open.write) || self.direct_uses() == Uses::NONE {
            return;
        }
        if !space.is_owned_by(0) && !space.is_owned_by(self.files().id()) {
            return;
        }
        if file.move_offset_to_host().is_err() || !context.make_direct(description, open) {
            return;
        }
        drop(context);
        let mut spaces = SPACES.lock();
        let uses = Uses { write: open.write && file.is_written_plainly(), ..open };
        if inotify::hears_of(file) {
            return;
        }
        let files = self.files();
        if files.publish(fd, file, &space, uses) {
            let known = |held: &Weak<dyn DirectFiles>| std::ptr::addr_eq(held.as_ptr(), Arc::as_ptr(&space));
            if !spaces.iter().any(known) {
                spaces.retain(|held| held.strong_count() > 0);
                spaces.push(Arc::downgrade(&space));
            }
            self.signals.own().allow_direct(self.direct_uses());
        }
    }

    /// A descriptor of this file has been closed, or has come to stand for another one. If it was the last one here, the file
    /// is not direct any more.
    #[inline]
    pub(crate) fn descriptor_closed(&self, file: &File) {
        if file.may_be_direct() {
            self.close_direct_file(file);
        }
    }

    #[cold]
    fn close_direct_file(&self, file: &File) {
        let Some(description) = file.ops().own_description() else { return };
        let files = self.files();
        let mut context = self.context.borrow_mut();
        if context.direct_files().is_some_and(|space| space.is_owned_by(files.id())) {
            context.keep_direct(&|held| !Arc::ptr_eq(held, description) || files.has(held));
        }
    }

    /// The address space is about to be left for good (`execve(2)`): nothing in it is this task's any more.
    pub(crate) fn leave_direct_files(&self) {
        let Some(space) = self.context.borrow().direct_files() else { return };
        if space.is_owned_by(self.files().id()) {
            self.files().leave_space();
            self.context.borrow_mut().close_direct();
        }
    }
}

/// What a copy of an address space keeps of the direct files that it was born with: those in its own table of descriptors.
pub fn keep_in_copy(context: &mut dyn platform::Context, own_table: Option<&FdTable>) {
    context.keep_direct(&|held| own_table.is_some_and(|files| files.has(held)));
}

/// The host's flags by which a write to a description goes where it is to go; none if it does so anyway.
fn append_flags(append: Append, file: &File) -> ReadWriteFlags {
    match (append, file.flags().contains(OpenFlags::APPEND)) {
        (Append::Yes, false) => ReadWriteFlags::APPEND,
        (Append::No, true) => NO_APPEND,
        _ => ReadWriteFlags::empty(),
    }
}

/// Reads at the offset that the host keeps.
pub(super) fn read(description: &Arc<OwnedFd>, to: &mut UserWriter<'_>) -> SysResult<usize> {
    to.fill_from(description, None)
}

/// Writes at the offset that the host keeps, or the end, as the host does.
pub(super) fn write(
    description: &Arc<OwnedFd>,
    file: &File,
    append: Append,
    from: &mut UserReader<'_>,
) -> SysResult<usize> {
    let flags = append_flags(append, file);
    let written = if flags.is_empty() {
        from.drain_to(description, None)?
    } else {
        // The offset -1 is the description's own.
        from.drain_whole(|chunk| {
            let chunk = [std::io::IoSlice::new(chunk)];
            Ok(rustix::io::pwritev2(description, &chunk, u64::MAX, flags)?)
        })?
    };
    if file.flags().contains(OpenFlags::DSYNC) {
        rustix::fs::fdatasync(description)?;
    }
    Ok(written)
}

/// Writes at a position of a host file whose description may append.
pub(super) fn write_exactly(
    description: &Arc<OwnedFd>,
    mut position: u64,
    from: &mut UserReader<'_>,
) -> SysResult<(usize, u64)> {
    let count = from.drain(|chunk| {
        let chunk = [std::io::IoSlice::new(chunk)];
        let count = rustix::io::pwritev2(description, &chunk, position, NO_APPEND)?;
        position += count as u64;
        Ok(count)
    })?;
    Ok((count, position))
}

/// `lseek(2)` on the host.
pub(super) fn seek(description: &OwnedFd, offset: i64, whence: super::Whence) -> SysResult<u64> {
    use rustix::fs::SeekFrom;

    use super::Whence;
    let position = |errno| u64::try_from(offset).map_err(|_| errno);
    let from = match whence {
        Whence::Set => SeekFrom::Start(position(Errno::EINVAL)?),
        Whence::Current => SeekFrom::Current(offset),
        Whence::End => SeekFrom::End(offset),
        Whence::Data => SeekFrom::Data(position(Errno::ENXIO)?),
        Whence::Hole => SeekFrom::Hole(position(Errno::ENXIO)?),
    };
    Ok(rustix::fs::seek(description, from)?)
}
