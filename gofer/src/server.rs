//! The gofer's side of the protocol: [`Session`] answers the requests of one sandbox about one container's mounts.
//!
//! The client is hostile. It can name nothing but mounts by number, directories by nodes that it was given or (in
//! direct mode) by descriptors that lie on one of the mounts, and single names below. Nodes are limited in number, every
//! message is bounded, and what a message says is checked while it is decoded.
//!
//! Any number of threads answer at once; the table of nodes is locked only to look one up.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::fs::{S_IFDIR, S_IFMT};
use abi::{Errno, SysResult};
use host::rustix::fs::{AtFlags, StatxFlags, statx};
use parking_lot::Mutex;

use crate::connect::Connector;
use crate::local::{Crossing, Local, Ownership, XATTR_MAX};
use crate::mount_table::MountTable;
use crate::protocol::{
    MAX_DESCRIPTORS, MAX_MESSAGE, MAX_WALK, Place, Request, VERSION, Walked, Welcome, decode,
};
use crate::types::{Access, Attributes, Name, Target};
use crate::wire::{List, Wire};

/// Whether the sandbox holds descriptors of directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Yes: it walks by itself and asks for what it may not do.
    Direct,
    /// No: it gets descriptors of regular files only.
    Strict,
}

/// Whether a mount may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// No: `EROFS`.
    ReadOnly,
    /// Yes.
    ReadWrite,
    /// Files without names can be made, and nothing else can be done there: `EPERM`.
    Nameless,
}

/// A mount as a [`Session`] serves it.
pub struct ServedMount {
    root: Arc<OwnedFd>,
    file: Option<(OwnedFd, Vec<u8>)>,
    writing: Writing,
    crossing: Crossing,
    /// The host's numbers of the mount, and of those below it that may be entered.
    ids: Vec<u64>,
    /// Tells of those below, if they come and go.
    table: Option<Arc<MountTable>>,
    /// Whether the character device that it is may be opened.
    device: bool,
}

impl ServedMount {
    /// A mount whose root is the directory `root`.
    ///
    /// # Errors
    /// Those of `statx(2)`.
    pub fn directory(root: OwnedFd, writing: Writing) -> SysResult<ServedMount> {
        let ids = vec![mount_of(&root)?.0];
        Ok(ServedMount {
            root: Arc::new(root),
            file: None,
            writing,
            crossing: Crossing::Refused,
            ids,
            table: None,
            device: false,
        })
    }

    /// A mount whose root is a file: `root`, which is `name` in `directory`.
    ///
    /// # Errors
    /// Those of `statx(2)`.
    pub fn file(root: OwnedFd, directory: OwnedFd, name: &[u8], writing: Writing) -> SysResult<ServedMount> {
        let ids = vec![mount_of(&root)?.0];
        let file = Some((directory, name.to_vec()));
        Ok(ServedMount {
            root: Arc::new(root),
            file,
            writing,
            crossing: Crossing::Refused,
            ids,
            table: None,
            device: false,
        })
    }

    /// Lets the client open it, a character device.
    #[must_use]
    pub fn with_device(mut self) -> ServedMount {
        self.device = true;
        self
    }

    /// Lets walks enter the mounts below with these numbers.
    #[must_use]
    pub fn with_mounts_below(mut self, ids: &[u64]) -> ServedMount {
        self.ids.extend_from_slice(ids);
        self.crossing = Crossing::Allowed;
        self
    }

    /// Lets walks enter whatever is mounted below at the time.
    #[must_use]
    pub(crate) fn with_changing_mounts_below(mut self, table: Arc<MountTable>) -> ServedMount {
        self.ids.truncate(1);
        self.table = Some(table);
        self.crossing = Crossing::Allowed;
        self
    }

    /// Whether the mount with this number is this one or one below that may be entered.
    fn has(&self, id: u64) -> bool {
        let below = |table: &Arc<MountTable>| table.parents().is_ok_and(|all| all.is_below(id, self.ids[0]));
        self.ids.contains(&id) || self.table.as_ref().is_some_and(below)
    }
}

/// The number of the mount that a descriptor lies on, and the file's mode.
fn mount_of(fd: &OwnedFd) -> SysResult<(u64, u32)> {
    let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE;
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::ENOSYS);
    }
    Ok((stat.stx_mnt_id, stat.stx_mode.into()))
}

/// A directory that a walk has led to.
#[derive(Clone)]
struct Node {
    fd: Arc<OwnedFd>,
    mount: usize,
}

#[derive(Default)]
struct Nodes {
    table: BTreeMap<u32, Node>,
    next: u32,
}

/// The most nodes of a session. A client that needs more forgets some, and walks again.
const MAX_NODES: usize = 16 * 1024;

/// The state of one sandbox's connection.
pub struct Session {
    mounts: Vec<ServedMount>,
    mode: Mode,
    ownership: Ownership,
    connector: Option<Connector>,
    nodes: Mutex<Nodes>,
    max_nodes: usize,
}

/// A directory that a request is about, held for as long as the request takes.
struct Held<'s> {
    fd: Arc<OwnedFd>,
    mount: &'s ServedMount,
    index: usize,
    is_root: bool,
}

impl Held<'_> {
    fn local(&self) -> Local<'_> {
        let file = self.mount.file.as_ref().filter(|_| self.is_root);
        let file = file.map(|(directory, name)| (directory.as_fd(), name.as_slice()));
        Local { fd: self.fd.as_fd(), file, crossing: self.mount.crossing }
    }

    fn writable(&self) -> SysResult<Local<'_>> {
        match self.mount.writing {
            Writing::ReadWrite => Ok(self.local()),
            Writing::ReadOnly => Err(Errno::EROFS),
            Writing::Nameless => Err(Errno::EPERM),
        }
    }
}

impl Session {
    /// A session about these mounts.
    pub fn new(mounts: Vec<ServedMount>, mode: Mode, ownership: Ownership) -> Session {
        let files = host::rustix::process::getrlimit(host::rustix::process::Resource::Nofile).current;
        // A few descriptors are our own, and each request needs some.
        let room = files.map_or(MAX_NODES, |files| usize::try_from(files / 2).unwrap_or(MAX_NODES));
        let max_nodes = room.min(MAX_NODES);
        Session { mounts, mode, ownership, connector: None, nodes: Mutex::default(), max_nodes }
    }

    /// Lets the client connect to sockets in the mounts.
    #[must_use]
    pub fn with_connector(mut self, connector: Option<Connector>) -> Session {
        self.connector = connector;
        self
    }

    /// Limits the number of nodes.
    #[must_use]
    pub fn with_max_nodes(mut self, max_nodes: usize) -> Session {
        self.max_nodes = max_nodes;
        self
    }

    /// Answers one message. `None` if it has no reply.
    pub fn answer(&self, message: &[u8], passed: Vec<OwnedFd>) -> Option<(Vec<u8>, Option<OwnedFd>)> {
        let mut reply = Vec::with_capacity(256);
        0i32.put(&mut reply);
        let result = match decode::<Request<'_>>(message) {
            Ok(Request::Close { nodes }) => {
                self.close(&nodes.0);
                return None;
            }
            Ok(request) => self.carry_out(request, passed, &mut reply),
            Err(_) => Err(Errno::EPROTO),
        };
        match result {
            Ok(fd) => Some((reply, fd)),
            Err(errno) => {
                reply.clear();
                errno.raw().put(&mut reply);
                Some((reply, None))
            }
        }
    }

    fn close(&self, ids: &[u32]) {
        let mut closed = Vec::new();
        let mut nodes = self.nodes.lock();
        closed.extend(ids.iter().filter_map(|id| nodes.table.remove(id)));
        // The descriptors are closed without the lock.
        drop(nodes);
    }

    /// The directory that a place in a request means. None in a mount of which nothing is to be seen.
    fn hold(&self, place: Place, passed: &mut [Option<OwnedFd>; MAX_DESCRIPTORS]) -> SysResult<Held<'_>> {
        let mount = |index: usize| match self.mounts.get(index).ok_or(Errno::ENOENT)? {
            ServedMount { writing: Writing::Nameless, .. } => Err(Errno::EPERM),
            mount => Ok(mount),
        };
        match place {
            Place::Root(number) => {
                let index = number as usize;
                let mount = mount(index)?;
                Ok(Held { fd: Arc::clone(&mount.root), mount, index, is_root: true })
            }
            Place::Node(number) => {
                let node = self.nodes.lock().table.get(&number).cloned().ok_or(Errno::ESTALE)?;
                Ok(Held { fd: node.fd, mount: mount(node.mount)?, index: node.mount, is_root: false })
            }
            Place::Passed(number) => {
                if self.mode != Mode::Direct {
                    return Err(Errno::EPERM);
                }
                let fd = passed.get_mut(number as usize).and_then(Option::take).ok_or(Errno::EBADF)?;
                let (id, mode) = mount_of(&fd)?;
                if mode & S_IFMT != S_IFDIR {
                    return Err(Errno::ENOTDIR);
                }
                let found = self.mounts.iter().enumerate().find(|(_, mount)| mount.has(id));
                let (index, _) = found.ok_or(Errno::EXDEV)?;
                Ok(Held { fd: Arc::new(fd), mount: mount(index)?, index, is_root: false })
            }
        }
    }

    /// Makes a directory a node.
    fn enter(&self, fd: OwnedFd, mount: usize) -> SysResult<u32> {
        let mut nodes = self.nodes.lock();
        if nodes.table.len() >= self.max_nodes {
            return Err(Errno::ENFILE);
        }
        // Numbers are not used again while they are in use, however often a client makes them wrap.
        loop {
            nodes.next = nodes.next.wrapping_add(1);
            let id = nodes.next;
            if let std::collections::btree_map::Entry::Vacant(vacant) = nodes.table.entry(id) {
                vacant.insert(Node { fd: Arc::new(fd), mount });
                return Ok(id);
            }
        }
    }

    fn carry_out(
        &self,
        request: Request<'_>,
        passed: Vec<OwnedFd>,
        reply: &mut Vec<u8>,
    ) -> SysResult<Option<OwnedFd>> {
        let mut given: [Option<OwnedFd>; MAX_DESCRIPTORS] = Default::default();
        given.iter_mut().zip(passed).for_each(|(place, fd)| *place = Some(fd));
        let given = &mut given;
        match request {
            Request::Hello { version } if version != VERSION => return Err(Errno::EPROTO),
            Request::Hello { .. } => {
                let direct = u8::from(self.mode == Mode::Direct);
                Welcome { mounts: self.mounts.len() as u32, direct }.put(reply);
            }
            Request::Attach { mount } => {
                let held = self.hold(Place::Root(mount), given)?;
                let follows = u8::from(held.mount.table.is_some());
                (held.local().stat(Target::Itself)?, follows).put(reply);
                if self.mode == Mode::Direct {
                    return Ok(Some(held.fd.try_clone()?));
                }
            }
            Request::Walk { at, names } => self.walk(&self.hold(at, given)?, &names.0)?.put(reply),
            Request::Stat { at, target } => self.hold(at, given)?.local().stat(target)?.put(reply),
            Request::Open { at, target, access } => {
                let held = self.hold(at, given)?;
                let local = if access == Access::Read { held.local() } else { held.writable()? };
                return local.open(target, access).map(Some);
            }
            Request::OpenDirectory { at, name } => {
                if self.mode != Mode::Direct {
                    return Err(Errno::EPERM);
                }
                let fd = self.hold(at, given)?.local().open_directory(name)?;
                stat_of(&fd)?.put(reply);
                return Ok(Some(fd));
            }
            Request::Create { at, name, new } => {
                let held = self.hold(at, given)?;
                let (attributes, fd) = held.writable()?.create(name, &new, self.ownership)?;
                attributes.put(reply);
                return Ok(fd);
            }
            Request::Remove { at, name, removal } => {
                self.hold(at, given)?.writable()?.remove(name, removal)?;
            }
            Request::Rename { from, name, to, new_name, replacing } => {
                let (from, to) = (self.hold(from, given)?, self.hold(to, given)?);
                from.writable()?.rename(name, &to.writable()?, new_name, replacing)?;
            }
            Request::Link { from, name, to, new_name } => {
                let (from, to) = (self.hold(from, given)?, self.hold(to, given)?);
                from.writable()?.link(name, &to.writable()?, new_name)?;
            }
            Request::ReadLink { at, name } => self.hold(at, given)?.local().read_link(name)?.put(reply),
            Request::SetAttributes { at, target, changes } => {
                self.hold(at, given)?.writable()?.set_attributes(target, &changes)?;
            }
            Request::Statistics { at } => self.hold(at, given)?.local().statistics()?.put(reply),
            Request::List { at, cookie } => {
                let (entries, next) = self.hold(at, given)?.local().list(cookie, MAX_MESSAGE - 64)?;
                (List(entries), next).put(reply);
            }
            Request::Sync { at, target } => self.hold(at, given)?.local().sync(target)?,
            Request::GetXattr { at, target, name } => {
                self.hold(at, given)?.local().get_xattr(target, name)?.put(reply);
            }
            Request::SetXattr { at, target, name, value, replacing } => {
                if value.len() > XATTR_MAX {
                    return Err(Errno::E2BIG);
                }
                self.hold(at, given)?.writable()?.set_xattr(target, name, value, replacing)?;
            }
            Request::ListXattr { at, target } => {
                self.hold(at, given)?.local().list_xattr(target)?.put(reply);
            }
            Request::RemoveXattr { at, target, name } => {
                self.hold(at, given)?.writable()?.remove_xattr(target, name)?;
            }
            Request::Connect { at, target, kind, guest } => {
                let held = self.hold(at, given)?;
                let connector = self.connector.ok_or(Errno::ECONNREFUSED)?;
                let (socket, peer) = connector.connect(&held.local(), target, kind, guest)?;
                peer.put(reply);
                return Ok(Some(socket));
            }
            Request::CreateNameless { mount } => {
                let mount = self.mounts.get(mount as usize).ok_or(Errno::ENOENT)?;
                if mount.writing != Writing::Nameless || mount.file.is_some() {
                    return Err(Errno::EPERM);
                }
                return crate::local::create_nameless(mount.root.as_fd()).map(Some);
            }
            Request::OpenDevice { mount, access } => {
                let held = self.hold(Place::Root(mount), given)?;
                if !held.mount.device {
                    return Err(Errno::ENXIO);
                }
                return held.local().open_device(access).map(Some);
            }
            Request::Close { nodes } => self.close(&nodes.0),
        }
        Ok(None)
    }

    fn walk(&self, from: &Held<'_>, names: &[Name<'_>]) -> SysResult<(List<Walked>, i32)> {
        if names.is_empty() || names.len() > MAX_WALK {
            return Err(Errno::EINVAL);
        }
        let mut steps = Vec::new();
        let mut at = Arc::clone(&from.fd);
        let mut error = 0;
        for name in names {
            let local = Local { fd: at.as_fd(), file: None, crossing: from.mount.crossing };
            match self.step(&local, *name, from.index) {
                Ok((walked, None)) => {
                    steps.push(walked);
                    break;
                }
                Ok((walked, Some(fd))) => {
                    steps.push(walked);
                    at = fd;
                }
                Err(errno) => {
                    error = errno.raw();
                    break;
                }
            }
        }
        Ok((List(steps), error))
    }

    /// One step of a walk; with the directory to go on from, if it is one.
    fn step(
        &self,
        local: &Local<'_>,
        name: Name<'_>,
        mount: usize,
    ) -> SysResult<(Walked, Option<Arc<OwnedFd>>)> {
        let attributes = local.stat(Target::Child(name))?;
        if attributes.kind() != S_IFDIR {
            return Ok((Walked { node: None, attributes }, None));
        }
        let fd = local.open_directory(name)?;
        // What was opened counts, not what was there a moment ago.
        let attributes = stat_of(&fd)?;
        let next = Arc::new(fd.try_clone()?);
        let node = self.enter(fd, mount)?;
        Ok((Walked { node: Some(node), attributes }, Some(next)))
    }
}

fn stat_of(fd: &OwnedFd) -> SysResult<Attributes> {
    Local { fd: fd.as_fd(), file: None, crossing: Crossing::Refused }.stat(Target::Itself)
}
