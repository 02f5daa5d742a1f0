//! Opening files: what stands between a path and an open file description.

use std::sync::Arc;

use abi::fs::{OpenFlags, S_ISGID};
use abi::{Errno, SysResult};

use super::dentry::Dentry;
use super::file::Place;
use super::hostfs::freshness;
use super::inotify::{self, Mask};
use super::mount::MountFlags;
use super::path::{FsState, Walk, Walker};
use super::permissions::{Access, check, check_writable, is_owner};
use super::privileges;
use super::text::TextGuard;
use super::{
    AclKind, Acls, File, FileType, InodeRef, NewFile, NewKind, OpenFile, OpenFileRef, PathRef, SetAttributes,
};
use crate::Kernel;
use crate::error::SyscallResult;
use crate::syscalls::Fd;
use crate::task::{Credentials, CurrentTask};

/// What an `O_PATH` descriptor can do: nothing.
struct PathOnly;

impl OpenFile for PathOnly {}

/// Opens a program for `execve(2)`: a regular file that may be run.
pub fn open_executable(task: &CurrentTask, path: &[u8]) -> SyscallResult<Arc<File>> {
    let place = task.resolve(Fd::CWD, path, Walk::FOLLOW)?;
    open_program(Place::Path(place), &task.credentials(), Some(task))
}

/// [`open_executable`] for `execveat(2)`: below a directory, or with an empty path a descriptor itself.
pub fn open_executable_at(
    task: &CurrentTask,
    directory: Fd,
    path: &[u8],
    follow: bool,
) -> SyscallResult<Arc<File>> {
    if path.is_empty() && directory != Fd::CWD {
        let place = task.file(directory)?.place.clone();
        return open_program(place, &task.credentials(), Some(task));
    }
    let mut walk = Walk::EMPTY;
    walk.set(Walk::FOLLOW, follow);
    let place = task.resolve(directory, path, walk)?;
    open_program(Place::Path(place), &task.credentials(), Some(task))
}

/// [`open_executable`] for the first process, which is no task yet.
pub fn open_executable_in(
    _kernel: &Kernel,
    state: &FsState,
    credentials: &Credentials,
    path: &[u8],
) -> SyscallResult<Arc<File>> {
    let found = Walker::new(state, credentials, None, Walk::FOLLOW).walk(&state.cwd, path)?;
    open_program(Place::Path(found.place), credentials, None)
}

fn open_program(
    place: Place,
    credentials: &Credentials,
    task: Option<&CurrentTask>,
) -> SyscallResult<Arc<File>> {
    let inode = match &place {
        Place::Path(place) => place.existing()?,
        Place::Anonymous { inode, .. } => inode.as_ref().ok_or(Errno::EACCES)?,
    };
    let refused = matches!(&place, Place::Path(place) if place.mount.flags().contains(MountFlags::NO_EXEC));
    match inode.file_type() {
        FileType::Regular if !refused => {}
        FileType::Symlink => return Err(Errno::ELOOP.into()),
        _ => return Err(Errno::EACCES.into()),
    }
    check(inode, credentials, Access::EXECUTE)?;
    let guard = TextGuard::run(inode)?;
    let ops = Arc::clone(inode).open(task, OpenFlags::empty())?;
    let file = File::new(place, ops, OpenFlags::LARGEFILE);
    file.set_text_use(Some(guard));
    file.notify(Mask::OPEN);
    Ok(file)
}

/// Opens `path`, making it if the flags say so.
pub fn open(
    task: &CurrentTask,
    directory: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
) -> SyscallResult<Arc<File>> {
    open_with(task, directory, path, flags, mode, Walk::empty())
}

/// [`open`] with further rules for the walk (`openat2(2)`).
pub fn open_with(
    task: &CurrentTask,
    directory: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    rules: Walk,
) -> SyscallResult<Arc<File>> {
    let temporary = flags.contains(OpenFlags::TMPFILE_BIT);
    if flags.contains(OpenFlags::PATH) {
        let follow = if flags.contains(OpenFlags::NOFOLLOW) { Walk::empty() } else { Walk::FOLLOW };
        let place = task.resolve(directory, path, follow | rules)?;
        let is_directory = place.existing()?.file_type() == FileType::Directory;
        if flags.contains(OpenFlags::DIRECTORY) && !is_directory {
            return Err(Errno::ENOTDIR.into());
        }
        let kept = OpenFlags::PATH | (flags & (OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW));
        return Ok(File::new(Place::Path(place), Arc::new(PathOnly), kept));
    }
    if temporary {
        if !flags.contains(OpenFlags::DIRECTORY) || !flags.writable() {
            return Err(Errno::EINVAL.into());
        }
        return open_temporary(task, directory, path, flags, mode);
    }
    let moment = freshness::begin();
    let creates = flags.contains(OpenFlags::CREAT);
    let exclusive = creates && flags.contains(OpenFlags::EXCL);
    let mut walk = rules;
    walk.set(Walk::FOLLOW, !flags.contains(OpenFlags::NOFOLLOW) && !exclusive);
    walk.set(Walk::CREATE, creates);
    let reads = OpenFlags::DIRECTORY | OpenFlags::TRUNC | OpenFlags::CREAT;
    walk.set(Walk::READ, !flags.writable() && !flags.intersects(reads));
    let mut found = task.walk(directory, path, walk)?;
    let opened = found.opened.take();
    let mut created = false;
    let place = match found.place.inode() {
        Some(_) if exclusive => return Err(Errno::EEXIST.into()),
        Some(_) => found.place,
        None => {
            if found.slash {
                return Err(Errno::EISDIR.into());
            }
            let name = found.name.ok_or(Errno::ENOENT)?;
            let parent = found.place.dentry.parent().ok_or(Errno::ENOENT)?;
            let parent = PathRef { mount: Arc::clone(&found.place.mount), dentry: parent };
            // Where names are remembered, this one may have got a file meanwhile.
            let missing = if parent.mount.file_system.cacheable() {
                parent.dentry.lookup(&*parent.mount.file_system, &name)?
            } else {
                found.place.dentry
            };
            match make_at(task, &parent, missing, &name, NewKind::Regular, mode) {
                Ok(place) => {
                    created = true;
                    place
                }
                // Another task was faster: that is as good, unless this one has to be first.
                Err(error) if error.is(Errno::EEXIST) && !exclusive => task.resolve(directory, path, walk)?,
                Err(error) => return Err(error),
            }
        }
    };
    let inode = place.existing()?;
    if creates && found_directory(inode) && !flags.contains(OpenFlags::DIRECTORY) {
        return Err(Errno::EISDIR.into());
    }
    may_open(task, &place, inode, flags, created)?;
    drop(moment);
    open_allowed(task, place, flags, created, opened)
}

fn found_directory(inode: &InodeRef) -> bool {
    inode.file_type() == FileType::Directory
}

/// Whether the file is cut off as it is opened.
fn truncates(inode: &InodeRef, flags: OpenFlags) -> bool {
    flags.contains(OpenFlags::TRUNC) && inode.file_type() == FileType::Regular
}

/// Whether the task may open what is at a place, and it can be opened in this way.
fn may_open(
    task: &CurrentTask,
    place: &PathRef,
    inode: &InodeRef,
    flags: OpenFlags,
    created: bool,
) -> SyscallResult<()> {
    let credentials = task.own_credentials();
    let kind = inode.file_type();
    if flags.contains(OpenFlags::DIRECTORY) && kind != FileType::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    match kind {
        FileType::Symlink => return Err(Errno::ELOOP.into()),
        FileType::Directory if flags.writable() || flags.contains(OpenFlags::TRUNC) => {
            return Err(Errno::EISDIR.into());
        }
        FileType::Socket => return Err(Errno::ENXIO.into()),
        _ => {}
    }
    let truncates = truncates(inode, flags);
    if !created {
        let mut access = Access::empty();
        access.set(Access::READ, flags.readable());
        access.set(Access::WRITE, flags.writable() || truncates);
        check(inode, &credentials, access)?;
        if flags.contains(OpenFlags::NOATIME) && !is_owner(&inode.metadata()?, &credentials) {
            return Err(Errno::EPERM.into());
        }
    }
    if (flags.writable() || truncates) && matches!(kind, FileType::Regular | FileType::Directory) {
        check_writable(place)?;
    }
    Ok(())
}

/// Opens what may be opened, if it is not `opened` already.
fn open_allowed(
    task: &CurrentTask,
    place: PathRef,
    flags: OpenFlags,
    created: bool,
    opened: Option<OpenFileRef>,
) -> SyscallResult<Arc<File>> {
    let inode = place.existing()?;
    let kind = inode.file_type();
    let truncates = truncates(inode, flags);
    let writes = kind == FileType::Regular && (flags.writable() || truncates);
    let guard = if writes { Some(TextGuard::write(inode)?) } else { None };
    let ops = match (opened, kind) {
        (Some(opened), _) => opened,
        (_, FileType::CharDevice | FileType::BlockDevice)
            if place.mount.flags().contains(MountFlags::NO_DEV) =>
        {
            return Err(Errno::EACCES.into());
        }
        (_, FileType::Fifo) if !inode.opens_itself() => {
            crate::ipc::pipe::open_fifo(task, inode.common(), flags)?
        }
        _ => Arc::clone(inode).open(Some(task), flags)?,
    };
    if truncates && !created {
        privileges::drop_all(inode, &task.own_credentials())?;
        inode.set_attributes(&SetAttributes { size: Some(0), ..SetAttributes::default() })?;
        inotify::notify(&place.dentry, Mask::MODIFY);
    }
    let file = File::new(Place::Path(place), ops, flags);
    if let Some(guard) = guard.filter(|_| flags.writable()) {
        file.set_text_use(Some(guard));
    }
    file.notify(Mask::OPEN);
    Ok(file)
}

fn open_temporary(
    task: &CurrentTask,
    directory: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
) -> SyscallResult<Arc<File>> {
    let parent = task.resolve(directory, path, Walk::FOLLOW)?;
    let inode = parent.existing()?;
    if inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    let credentials = task.credentials();
    check(inode, &credentials, Access::WRITE | Access::EXECUTE)?;
    check_writable(&parent)?;
    let kind = NewKind::Regular;
    let (mode, acls) = permissions_of_new(task, inode, &kind, mode & 0o7777);
    let (uid, gid) = (credentials.fs_uid, credentials.fs_gid);
    let file = inode.create_unnamed(&NewFile { kind, mode, uid, gid, acls })?;
    let name = format!("#{}", file.common().id);
    let dentry = Dentry::detached(name.as_bytes(), &parent.dentry, Arc::clone(&file));
    let place = PathRef { mount: parent.mount, dentry };
    let guard = TextGuard::write(&file)?;
    let ops = file.open(Some(task), flags)?;
    let file = File::new(Place::Path(place), ops, flags);
    file.set_text_use(Some(guard));
    file.notify(Mask::OPEN);
    Ok(file)
}

/// The permission bits that a new file in a directory gets, and its access control lists. The umask matters where the
/// directory does not say what its files get.
fn permissions_of_new(task: &CurrentTask, directory: &InodeRef, kind: &NewKind, mode: u32) -> (u32, Acls) {
    if matches!(kind, NewKind::Symlink(_)) {
        return (0o777, Acls::default());
    }
    let default = directory.acl(AclKind::Default).ok().flatten();
    // Linux applies it to the names of sockets in any case.
    let mode = match default {
        Some(_) if *kind != NewKind::Socket => mode,
        _ => mode & !task.fs_state().umask,
    };
    match default {
        Some(default) => Acls::inherited(&default, mode, *kind == NewKind::Directory),
        None => (mode, Acls::default()),
    }
}

/// Makes a file called `name` in a directory, as the task's user; `mode` is before the umask.
pub fn make(
    task: &CurrentTask,
    parent: &PathRef,
    name: &[u8],
    kind: NewKind,
    mode: u32,
) -> SyscallResult<PathRef> {
    let dentry = parent.dentry.lookup(&*parent.mount.file_system, name)?;
    make_at(task, parent, dentry, name, kind, mode)
}

/// [`make`] where the name has just been looked up.
fn make_at(
    task: &CurrentTask,
    parent: &PathRef,
    dentry: Arc<Dentry>,
    name: &[u8],
    kind: NewKind,
    mode: u32,
) -> SyscallResult<PathRef> {
    let directory = parent.existing()?;
    let metadata = directory.metadata()?;
    let credentials = task.credentials();
    if dentry.inode().is_some() {
        return Err(Errno::EEXIST.into());
    }
    if parent.dentry.is_deleted() {
        return Err(Errno::ENOENT.into());
    }
    check_writable(parent)?;
    check(directory, &credentials, Access::WRITE | Access::EXECUTE)?;
    let (mut mode, acls) = permissions_of_new(task, directory, &kind, mode & 0o7777);
    let mut gid = credentials.fs_gid;
    if metadata.mode & S_ISGID != 0 {
        gid = metadata.gid;
        if kind == NewKind::Directory {
            mode |= S_ISGID;
        }
    }
    privileges::mode_set(mode);
    let inode =
        Arc::clone(directory).create(name, &NewFile { kind, mode, uid: credentials.fs_uid, gid, acls })?;
    let kind = inode.file_type();
    let dentry = dentry.instantiate(inode);
    inotify::notify_entry(directory, name, kind, Mask::CREATE);
    Ok(PathRef { mount: Arc::clone(&parent.mount), dentry })
}

impl CurrentTask {
    /// Puts an open file into the descriptor table.
    pub fn install(&self, file: Arc<File>, close_on_exec: bool) -> SysResult<Fd> {
        let limit = self.group.limit(crate::task::limits::Resource::OpenFiles);
        self.with_files(|files| files.install(file, 0, limit, close_on_exec))
    }
}
