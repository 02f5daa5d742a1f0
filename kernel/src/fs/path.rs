//! Places in the mount tree and the walk to them, `path_resolution(7)`.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use abi::bytes::position;
use abi::{Errno, SysResult};
use bitflags::bitflags;
use parking_lot::Mutex;

use super::dentry::Dentry;
use super::hostfs::freshness;
use super::mount::{Mount, MountNamespace};
use super::permissions::{Access, check};
use super::{File, FileType, InodeRef, Looked, Metadata, OpenFileRef};
use crate::error::{SysError, SyscallResult};
use crate::syscalls::Fd;
use crate::task::credentials::Capability;
use crate::task::{Credentials, CurrentTask};

/// How many symbolic links one walk follows.
const MAX_LINKS: usize = 40;
/// The longest component of a path.
pub const NAME_MAX: usize = 255;

/// A place in the tree: a name in a mount.
#[derive(Clone)]
pub struct PathRef {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The name in it.
    pub dentry: Arc<Dentry>,
}

impl PathRef {
    /// What is there; `None` for a name that stands for nothing.
    pub fn inode(&self) -> Option<&InodeRef> {
        self.dentry.inode()
    }

    /// What is there: `ENOENT` for a name that stands for nothing.
    pub fn existing(&self) -> SysResult<&InodeRef> {
        self.inode().ok_or(Errno::ENOENT)
    }

    /// Whether both are the same place.
    pub fn same(&self, other: &PathRef) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// The directory above, across the border of a mount; `None` at the root of the tree.
    pub fn parent(&self) -> Option<PathRef> {
        let mut place = self.clone();
        while Arc::ptr_eq(&place.dentry, &place.mount.root) {
            place = place.mount.parent()?;
        }
        let dentry = place.dentry.parent()?;
        Some(PathRef { mount: place.mount, dentry })
    }

    /// The path as seen from `root`, with ` (deleted)` for a removed name; the flag tells whether `root` was found.
    pub fn display(&self, root: &PathRef) -> (Vec<u8>, bool) {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut place = self.clone();
        let mut deleted = false;
        let reachable = loop {
            if place.same(root) {
                break true;
            }
            if Arc::ptr_eq(&place.dentry, &place.mount.root) {
                match place.mount.parent() {
                    Some(parent) => place = parent,
                    None => break false,
                }
                continue;
            }
            deleted |= place.dentry.is_deleted();
            names.push(place.dentry.name());
            match place.dentry.parent() {
                Some(parent) => place.dentry = parent,
                None => break false,
            }
        };
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if deleted {
            path.extend_from_slice(b" (deleted)");
        }
        (path, reachable)
    }
}

/// What `CLONE_FS` shares: root, working directory, umask.
pub struct FsContext {
    inner: Mutex<Arc<FsState>>,
}

/// The contents of an [`FsContext`].
#[derive(Clone)]
pub struct FsState {
    /// The tree.
    pub namespace: Arc<MountNamespace>,
    /// The root directory.
    pub root: PathRef,
    /// The working directory.
    pub cwd: PathRef,
    /// Permission bits that new files do not get.
    pub umask: u32,
}

impl FsContext {
    /// A context of its own.
    pub fn new(state: FsState) -> FsContext {
        FsContext { inner: Mutex::new(Arc::new(state)) }
    }

    /// What it holds now.
    pub fn get(&self) -> Arc<FsState> {
        Arc::clone(&self.inner.lock())
    }

    /// Changes it.
    pub fn update<T>(&self, change: impl FnOnce(&mut FsState) -> T) -> T {
        change(Arc::make_mut(&mut self.inner.lock()))
    }
}

bitflags! {
    /// How a path is walked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Walk: u32 {
        /// A symbolic link as the last component is followed.
        const FOLLOW = 1;
        /// An empty path means the directory itself (`AT_EMPTY_PATH`).
        const EMPTY = 2;
        /// No symbolic links at all (`RESOLVE_NO_SYMLINKS`).
        const NO_LINKS = 4;
        /// Nothing above the directory (`RESOLVE_BENEATH`).
        const BENEATH = 8;
        /// The directory is the root (`RESOLVE_IN_ROOT`).
        const IN_ROOT = 16;
        /// No crossing of mounts (`RESOLVE_NO_XDEV`).
        const NO_MOUNTS = 32;
        /// No magic links (`RESOLVE_NO_MAGICLINKS`).
        const NO_MAGIC = 64;
        /// The last component may be missing: the result then has no inode.
        const CREATE = 128;
        /// The file is to be opened for reading: [`Found::opened`] may have it.
        const READ = 512;
    }
}

/// Where a walk ended.
pub struct Found {
    /// The place; without an inode if the name is missing and [`Walk::CREATE`] was given.
    pub place: PathRef,
    /// The file, open for reading, with [`Walk::READ`] where that came with the rest. Whether it may be read is still to be
    /// found out.
    pub opened: Option<OpenFileRef>,
    /// The last component, if the name is missing.
    pub name: Option<Vec<u8>>,
    /// Whether the path ended in a slash, so that it must be a directory.
    pub slash: bool,
}

/// What somebody wants to know of a file, who wants to know no more, and where to put it.
enum Looking<'a> {
    /// What it is like.
    Metadata(&'a mut Metadata),
    /// The target of the link that it is.
    Target(&'a mut Vec<u8>),
}

/// What has come of a walk by who only wants to know something of a file.
pub enum Walked {
    /// It is known, and the file is in this mount.
    Looked(Arc<Mount>),
    /// The file has to be asked.
    Found(Found),
}

/// Walks paths for a task, or for the kernel at its start.
pub struct Walker<'a> {
    state: &'a FsState,
    /// The root directory, where that is not the task's.
    own_root: Option<PathRef>,
    credentials: &'a Credentials,
    task: Option<&'a CurrentTask>,
    flags: Walk,
    links: usize,
    looking: Option<Looking<'a>>,
}

impl<'a> Walker<'a> {
    /// A walk with these credentials.
    pub fn new(
        state: &'a FsState,
        credentials: &'a Credentials,
        task: Option<&'a CurrentTask>,
        flags: Walk,
    ) -> Walker<'a> {
        Walker { state, own_root: None, credentials, task, flags, links: 0, looking: None }
    }

    fn root(&self) -> &PathRef {
        self.own_root.as_ref().unwrap_or(&self.state.root)
    }

    /// Walks `path` from `start`.
    pub fn walk(self, start: &PathRef, path: &[u8]) -> SyscallResult<Found> {
        match self.walk_or_look(start, path)? {
            Walked::Found(found) => Ok(found),
            // Nobody wanted to.
            Walked::Looked(_) => Err(Errno::ESTALE.into()),
        }
    }

    fn walk_or_look(mut self, start: &PathRef, path: &[u8]) -> SyscallResult<Walked> {
        if path.is_empty() && !self.flags.contains(Walk::EMPTY) {
            return Err(Errno::ENOENT.into());
        }
        if self.flags.intersects(Walk::BENEATH | Walk::IN_ROOT) {
            if self.flags.contains(Walk::BENEATH) && path.starts_with(b"/") {
                return Err(Errno::EXDEV.into());
            }
            self.own_root = Some(PathRef::clone(start));
        }
        let mut rest = Rest::new(path);
        let mut slash = path.ends_with(b"/");
        let mut at = match path.first() {
            Some(b'/') if !start.same(self.root()) => At::Place(self.root().clone()),
            _ => At::Start(start),
        };
        // Then whose a directory is and what its mode says does not matter.
        let enters_all = self.credentials.has_over_all(Capability::DAC_OVERRIDE);
        let mut opened = None;
        while let Some(component) = rest.next() {
            let last = rest.is_empty();
            let component = &rest.path[component];
            let inode = at.dentry().inode().ok_or(Errno::ENOENT)?;
            if inode.file_type() != FileType::Directory {
                return Err(Errno::ENOTDIR.into());
            }
            if !enters_all {
                check(inode, self.credentials, Access::EXECUTE)?;
            }
            match component {
                [b'.'] => continue,
                [b'.', b'.'] => {
                    at = At::Place(self.up(at.into_place())?);
                    continue;
                }
                _ => {}
            }
            if component.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG.into());
            }
            let follows = !last || self.flags.contains(Walk::FOLLOW) || slash;
            let file_system = &*at.mount().file_system;
            let looked = match &mut self.looking {
                Some(Looking::Metadata(metadata)) if last && asks_anew(&at, component) => {
                    inode.look(component, metadata)?
                }
                Some(Looking::Target(target)) if last && !slash && asks_anew(&at, component) => {
                    if let Some(text) = inode.look_at_link(component)? {
                        **target = text;
                        return Ok(Walked::Looked(at.into_mount()));
                    }
                    None
                }
                _ => None,
            };
            let dentry = match looked {
                Some(Looked::Metadata) => {
                    if slash
                        && let Some(Looking::Metadata(metadata)) = &self.looking
                        && metadata.file_type() != FileType::Directory
                    {
                        return Err(Errno::ENOTDIR.into());
                    }
                    return Ok(Walked::Looked(at.into_mount()));
                }
                Some(Looked::Link(link)) => at.dentry().found(file_system, component, Some(link)),
                None if last && self.flags.contains(Walk::READ) && asks_anew(&at, component) => {
                    let (dentry, file) = at.dentry().lookup_opened(file_system, component)?;
                    opened = file;
                    dentry
                }
                None => at.dentry().lookup(file_system, component)?,
            };
            let mounted = at.mount().top_at(&dentry);
            if mounted.is_some() {
                if self.flags.contains(Walk::NO_MOUNTS) {
                    return Err(Errno::EXDEV.into());
                }
                // Just now.
                opened = None;
            }
            let found = mounted.as_ref().map_or(&dentry, |mount| &mount.root).inode();
            let missing = found.is_none();
            if let Some(inode) = found.filter(|inode| inode.file_type() == FileType::Symlink && follows) {
                match self.link(inode)? {
                    Link::Place(place) => at = At::Place(place),
                    Link::Path(target) => {
                        slash |= last && target.ends_with(b"/");
                        if target.starts_with(b"/") {
                            at = At::Place(self.root().clone());
                        }
                        rest.insert(&target);
                    }
                }
                continue;
            }
            at = match mounted {
                Some(mount) => At::Root(mount),
                None => At::Place(PathRef { mount: at.into_mount(), dentry }),
            };
            if missing {
                if last && self.flags.contains(Walk::CREATE) {
                    let (name, place) = (Some(component.to_vec()), at.into_place());
                    return Ok(Walked::Found(Found { place, opened: None, name, slash }));
                }
                return Err(Errno::ENOENT.into());
            }
        }
        let is_directory =
            || at.dentry().inode().is_some_and(|inode| inode.file_type() == FileType::Directory);
        if slash && !is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(Walked::Found(Found { place: at.into_place(), opened, name: None, slash }))
    }

    fn up(&self, at: PathRef) -> SysResult<PathRef> {
        if at.same(self.root()) {
            return if self.flags.contains(Walk::BENEATH) { Err(Errno::EXDEV) } else { Ok(at) };
        }
        let parent = at.parent().unwrap_or_else(|| at.clone());
        if self.flags.contains(Walk::NO_MOUNTS) && !Arc::ptr_eq(&parent.mount, &at.mount) {
            return Err(Errno::EXDEV);
        }
        Ok(self.state.namespace.top(parent))
    }

    /// Where a symbolic link leads.
    fn link(&mut self, inode: &InodeRef) -> SyscallResult<Link> {
        self.links += 1;
        if self.links > MAX_LINKS || self.flags.contains(Walk::NO_LINKS) {
            return Err(Errno::ELOOP.into());
        }
        if let Some(task) = self.task
            && let Some(place) = inode.follow(task)?
        {
            if self.flags.intersects(Walk::NO_MAGIC | Walk::BENEATH | Walk::IN_ROOT) {
                return Err(Errno::ELOOP.into());
            }
            return Ok(Link::Place(place));
        }
        let target = inode.readlink(self.task)?;
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if self.flags.contains(Walk::BENEATH) && target.starts_with(b"/") {
            return Err(Errno::EXDEV.into());
        }
        Ok(Link::Path(target))
    }
}

/// Whether what a name in a directory stands for is asked for anew each time. Where names are remembered, they are looked up.
fn asks_anew(at: &At<'_>, name: &[u8]) -> bool {
    !at.mount().file_system.cacheable() && !at.dentry().has_mounts_on(name)
}

/// How far a walk has come. What is passed is not counted among its users more often than needed.
enum At<'a> {
    /// To where it began.
    Start(&'a PathRef),
    /// To what is mounted somewhere.
    Root(Arc<Mount>),
    /// To a place.
    Place(PathRef),
}

impl At<'_> {
    #[inline]
    fn mount(&self) -> &Arc<Mount> {
        match self {
            At::Start(place) => &place.mount,
            At::Root(mount) => mount,
            At::Place(place) => &place.mount,
        }
    }

    #[inline]
    fn dentry(&self) -> &Arc<Dentry> {
        match self {
            At::Start(place) => &place.dentry,
            At::Root(mount) => &mount.root,
            At::Place(place) => &place.dentry,
        }
    }

    #[inline]
    fn into_mount(self) -> Arc<Mount> {
        match self {
            At::Start(place) => Arc::clone(&place.mount),
            At::Root(mount) => mount,
            At::Place(place) => place.mount,
        }
    }

    #[inline]
    fn into_place(self) -> PathRef {
        match self {
            At::Start(place) => place.clone(),
            At::Root(mount) => mount.root_place(),
            At::Place(place) => place,
        }
    }
}

enum Link {
    Place(PathRef),
    Path(Vec<u8>),
}

/// What is still to be walked: a path from a byte on.
struct Rest<'a> {
    path: Cow<'a, [u8]>,
    /// Where the next component begins; the path's length if there is none.
    at: usize,
}

impl<'a> Rest<'a> {
    fn new(path: &'a [u8]) -> Rest<'a> {
        let mut rest = Rest { path: Cow::Borrowed(path), at: 0 };
        rest.skip_slashes();
        rest
    }

    #[inline]
    fn skip_slashes(&mut self) {
        while self.path.get(self.at) == Some(&b'/') {
            self.at += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.at == self.path.len()
    }

    /// Where the next component is, which is then done.
    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        if self.is_empty() {
            return None;
        }
        let start = self.at;
        self.at = position(&self.path[start..], b'/').map_or(self.path.len(), |length| start + length);
        let component = start..self.at;
        self.skip_slashes();
        Some(component)
    }

    /// Puts the target of a link before what is left.
    fn insert(&mut self, target: &[u8]) {
        self.path = Cow::Owned([target, b"/", &self.path[self.at..]].concat());
        self.at = 0;
        self.skip_slashes();
    }
}

impl CurrentTask {
    /// The directory that a path starts from, which a file has that has to stay meanwhile: `EBADF`, `ENOTDIR`.
    #[inline]
    fn base<'s>(
        &self,
        state: &'s FsState,
        directory: Fd,
        path: &[u8],
        file: &'s mut Option<Arc<File>>,
    ) -> SysResult<&'s PathRef> {
        if path.starts_with(b"/") {
            return Ok(&state.root);
        }
        if directory == Fd::CWD {
            return Ok(&state.cwd);
        }
        file.insert(self.file(directory)?).path().ok_or(Errno::ENOTDIR)
    }

    /// Walks a path as `*at` calls do.
    pub fn walk(&self, directory: Fd, path: &[u8], flags: Walk) -> SyscallResult<Found> {
        let credentials = self.own_credentials();
        self.walk_with(&credentials, directory, path, flags, |walker, start| walker.walk(start, path))
    }

    /// [`CurrentTask::walk`] for who only wants to know what the file is like, which goes to `metadata` if that is known without
    /// a place of its own.
    pub fn walk_looking(
        &self,
        credentials: &Credentials,
        directory: Fd,
        path: &[u8],
        flags: Walk,
        metadata: &mut Metadata,
    ) -> SyscallResult<Walked> {
        self.walk_with(credentials, directory, path, flags, |walker, start| {
            Walker { looking: Some(Looking::Metadata(metadata)), ..walker }.walk_or_look(start, path)
        })
    }

    /// [`CurrentTask::walk`] for who only wants to know the target of a symbolic link, which goes to `target` if it is known
    /// without a place of its own: `EINVAL` for what is no link then.
    pub fn walk_to_link(
        &self,
        directory: Fd,
        path: &[u8],
        flags: Walk,
        target: &mut Vec<u8>,
    ) -> SyscallResult<Walked> {
        let credentials = self.own_credentials();
        self.walk_with(&credentials, directory, path, flags, |walker, start| {
            Walker { looking: Some(Looking::Target(target)), ..walker }.walk_or_look(start, path)
        })
    }

    #[inline]
    fn walk_with<'a, T>(
        &'a self,
        credentials: &'a Credentials,
        directory: Fd,
        path: &[u8],
        flags: Walk,
        walk: impl FnOnce(Walker<'_>, &PathRef) -> SyscallResult<T>,
    ) -> SyscallResult<T> {
        let _moment = freshness::begin();
        // Where the directory is the root, absolute paths begin there too.
        let from = if flags.contains(Walk::IN_ROOT) { b"" } else { path };
        let (state, mut file) = (self.fs_state(), None);
        let start = self.base(&state, directory, from, &mut file)?;
        walk(Walker::new(&state, credentials, Some(self), flags), start)
    }

    /// The file that a path names, which must exist.
    pub fn resolve(&self, directory: Fd, path: &[u8], flags: Walk) -> SyscallResult<PathRef> {
        self.walk(directory, path, flags - Walk::CREATE).map(|found| found.place)
    }

    /// The directory and the last component of a path that is to be made, removed or renamed. `error` is what a path
    /// without a last name (`/`, `.`, `..`) means.
    pub fn parent_of(
        &self,
        directory: Fd,
        path: &[u8],
        error: Errno,
    ) -> SyscallResult<(PathRef, Vec<u8>, bool)> {
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        let slash = path.ends_with(b"/");
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let trimmed = &path[..end];
        let cut = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (head, name) = trimmed.split_at(cut);
        if name.is_empty() {
            return Err(SysError::Errno(error));
        }
        let _moment = freshness::begin();
        let walked = if head.is_empty() { Walk::FOLLOW | Walk::EMPTY } else { Walk::FOLLOW };
        let (state, mut file) = (self.fs_state(), None);
        let start = self.base(&state, directory, path, &mut file)?;
        let credentials = self.own_credentials();
        let parent = Walker::new(&state, &credentials, Some(self), walked).walk(start, head)?.place;
        let inode = parent.existing()?;
        if inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        check(inode, &credentials, Access::EXECUTE)?;
        if name == b"." || name == b".." {
            return Err(SysError::Errno(error));
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        Ok((parent, name.to_vec(), slash))
    }
}
