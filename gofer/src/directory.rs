//! Directories of the host as the sandbox sees them, in both modes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::fs::{S_IFBLK, S_IFCHR, S_IFMT, S_IFREG};
use abi::{Errno, SysResult};

use crate::client::{Client, Operand};
use crate::listing::{Listed, Listing};
use crate::local::{Crossing, Local, Ownership};
use crate::protocol::{Place, Request, Walked};
use crate::types::{
    Access, Attributes, Changes, Entry, Guest, Name, NewNode, Peer, Removal, Replacing, SocketKind,
    Statistics, Target, XattrReplacing,
};
use crate::wire::{List, Wire};

/// A directory of the host (or a file that is a mount's root) and what can be done below it, here or by the gofer.
///
/// In direct mode an operation is tried here; what the host refuses for lack of privilege, the gofer does.
pub struct Directory {
    access: Means,
    client: Option<Arc<Client>>,
    /// The number of the mount, of a mount's root.
    mount: Option<u32>,
    /// Whether the host may mount and unmount below.
    follows: bool,
}

enum Means {
    Held(OwnedFd),
    Node(u32),
    /// The root of a mount that is not held here.
    Root,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let (Means::Node(node), Some(client)) = (&self.access, &self.client) {
            if self.follows { client.close(*node) } else { client.forget(*node) }
        }
    }
}

impl Directory {
    /// A directory, or a file, that this process holds, without a gofer.
    pub fn held(fd: OwnedFd) -> Directory {
        Directory { access: Means::Held(fd), client: None, mount: None, follows: false }
    }

    pub(crate) fn of_mount(client: Arc<Client>, mount: u32, fd: Option<OwnedFd>, follows: bool) -> Directory {
        let access = fd.map_or(Means::Root, Means::Held);
        Directory { access, client: Some(client), mount: Some(mount), follows }
    }

    fn child(&self, access: Means) -> Directory {
        Directory { access, client: self.client.clone(), mount: None, follows: self.follows }
    }

    /// Whether a descriptor of it is held here.
    pub fn is_held(&self) -> bool {
        matches!(self.access, Means::Held(_))
    }

    /// Whether what the host mounts or unmounts below is so here, too: a directory that is kept keeps it from that.
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// The descriptor, if one is held here.
    pub fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match &self.access {
            Means::Held(fd) => Some(fd.as_fd()),
            _ => None,
        }
    }

    /// Whether an error that the host gave us here is one that the gofer may not get.
    fn falls_back(&self, error: Errno) -> bool {
        // A file that is a mount's root can only be opened by its name, which the gofer has.
        let nameless = error == Errno::ENOTDIR && self.mount.is_some();
        self.client.is_some() && (nameless || matches!(error, Errno::EACCES | Errno::EPERM))
    }

    #[inline]
    fn local(&self) -> Option<Local<'_>> {
        // What is mounted below may be entered: whoever made the mount has decided whether it is there.
        match &self.access {
            Means::Held(fd) => Some(Local { fd: fd.as_fd(), file: None, crossing: Crossing::Allowed }),
            _ => None,
        }
    }

    /// How the gofer knows the directory; a descriptor is the `index`th of the message.
    fn operand(&self, index: u32) -> Operand<'_> {
        match (&self.access, self.mount) {
            (Means::Node(node), _) => Operand { place: Place::Node(*node), fd: None },
            (_, Some(mount)) => Operand { place: Place::Root(mount), fd: None },
            (Means::Held(fd), None) => Operand { place: Place::Passed(index), fd: Some(fd.as_fd()) },
            // Only a mount's root is known by its mount.
            (Means::Root, None) => Operand { place: Place::Root(u32::MAX), fd: None },
        }
    }

    /// Asks the gofer.
    fn ask<'r, T: for<'a> Wire<'a>>(
        &self,
        request: impl FnOnce(Place) -> Request<'r>,
    ) -> SysResult<(T, Option<OwnedFd>)> {
        let client = self.client.as_ref().ok_or(Errno::EACCES)?;
        let operand = self.operand(0);
        client.call(&request(operand.place), operand.fd.as_slice())
    }

    /// Asks the gofer for something about two directories.
    fn ask_of_two<'r>(
        &self,
        other: &Directory,
        request: impl FnOnce(Place, Place) -> Request<'r>,
    ) -> SysResult<()> {
        let client = self.client.as_ref().ok_or(Errno::EACCES)?;
        let first = self.operand(0);
        let second = other.operand(first.fd.is_some().into());
        let fds: Vec<_> = first.fd.into_iter().chain(second.fd).collect();
        client.call(&request(first.place, second.place), &fds).map(|((), _)| ())
    }

    /// Carries an operation out here, or else has the gofer do it.
    #[inline]
    fn run<'r, T: for<'a> Wire<'a>>(
        &self,
        here: impl FnOnce(&Local<'_>) -> SysResult<T>,
        request: impl FnOnce(Place) -> Request<'r>,
    ) -> SysResult<T> {
        match self.local().map(|local| here(&local)) {
            Some(Err(error)) if self.falls_back(error) => {}
            Some(result) => return result,
            None => {}
        }
        self.ask(request).map(|(value, _)| value)
    }

    /// What the stat family tells of a file.
    ///
    /// # Errors
    /// Those of `statx(2)`.
    pub fn stat(&self, target: Target<'_>) -> SysResult<Attributes> {
        let mut attributes = Attributes::default();
        self.stat_into(target, &mut attributes)?;
        Ok(attributes)
    }

    /// [`Directory::stat`] for who has a place for them.
    ///
    /// # Errors
    /// Those of `statx(2)`.
    #[inline]
    pub fn stat_into(&self, target: Target<'_>, into: &mut Attributes) -> SysResult<()> {
        match self.local().map(|local| local.stat_into(target, into)) {
            Some(Err(error)) if self.falls_back(error) => {}
            Some(result) => return result,
            None => {}
        }
        *into = self.ask(|at| Request::Stat { at, target })?.0;
        Ok(())
    }

    /// What a name stands for. Where that costs nothing more, a directory comes along.
    ///
    /// # Errors
    /// `ENOENT`, and others of `statx(2)`.
    pub fn look_up(&self, name: Name<'_>) -> SysResult<(Attributes, Option<Directory>)> {
        if self.is_held() {
            return Ok((self.stat(Target::Child(name))?, None));
        }
        let (Walked { node, attributes }, directory) = self.walk(name)?;
        debug_assert_eq!(node.is_some(), directory.is_some());
        Ok((attributes, directory))
    }

    fn walk(&self, name: Name<'_>) -> SysResult<(Walked, Option<Directory>)> {
        let ((walked, error), _) =
            self.ask::<(List<Walked>, i32)>(|at| Request::Walk { at, names: List(vec![name]) })?;
        let Some(walked) = walked.0.into_iter().next() else {
            return Err(if error == 0 { Errno::EPROTO } else { Errno::from_raw(error) });
        };
        Ok((walked, walked.node.map(|node| self.child(Means::Node(node)))))
    }

    /// The directory that has this name.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT`.
    pub fn descend(&self, name: Name<'_>) -> SysResult<(Directory, Attributes)> {
        let Some(local) = self.local() else {
            let (walked, directory) = self.walk(name)?;
            return Ok((directory.ok_or(Errno::ENOTDIR)?, walked.attributes));
        };
        let (fd, attributes) = match local.open_directory(name) {
            Ok(fd) => (fd, None),
            Err(error) if self.falls_back(error) => {
                let (attributes, fd) = self.ask::<Attributes>(|at| Request::OpenDirectory { at, name })?;
                (fd.ok_or(Errno::EPROTO)?, Some(attributes))
            }
            Err(error) => return Err(error),
        };
        let directory = self.child(Means::Held(fd));
        let attributes = attributes.map_or_else(|| directory.stat(Target::Itself), Ok)?;
        Ok((directory, attributes))
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Those of `open(2)`; `ENXIO` for what is no regular file.
    pub fn open(&self, target: Target<'_>, access: Access) -> SysResult<OwnedFd> {
        match self.local().map(|local| local.open(target, access)) {
            Some(Err(error)) if self.falls_back(error) => {}
            Some(result) => return result,
            None => {}
        }
        let ((), fd) = self.ask(|at| Request::Open { at, target, access })?;
        fd.ok_or(Errno::EPROTO)
    }

    /// Opens for reading what is expected to be a regular file, and tells what it is like, with which that is known in one step
    /// less; `None` where it is no regular file, the host gives it not, or the gofer would have to be asked.
    pub fn open_expected(&self, name: Name<'_>) -> Option<(OwnedFd, Attributes)> {
        let (fd, attributes) = self.local()?.open_expected(name).ok()?;
        (attributes.mode & S_IFMT == S_IFREG).then_some((fd, attributes))
    }

    /// Opens the character device that a mount's root is.
    ///
    /// # Errors
    /// Those of `open(2)`; `ENXIO` if it may not be opened.
    pub fn open_device(&self, access: Access) -> SysResult<OwnedFd> {
        let (Some(client), Some(mount)) = (&self.client, self.mount) else { return Err(Errno::ENXIO) };
        let ((), fd) = client.call(&Request::OpenDevice { mount, access }, &[])?;
        fd.ok_or(Errno::EPROTO)
    }

    /// Makes a file. A regular one comes back open for reading and writing.
    ///
    /// # Errors
    /// `EEXIST` and others of `open(2)` and `mknod(2)`.
    pub fn create(&self, name: Name<'_>, new: &NewNode<'_>) -> SysResult<(Attributes, Option<OwnedFd>)> {
        let device = matches!(new.mode & S_IFMT, S_IFCHR | S_IFBLK);
        let Some(client) = &self.client else {
            if device {
                return Err(Errno::EPERM);
            }
            let local = self.local().ok_or(Errno::EACCES)?;
            return local.create(name, new, Ownership::Own);
        };
        if let Some(local) = self.local()
            && client.own() == (new.uid, new.gid)
            && !device
        {
            match local.create(name, new, Ownership::Exact) {
                Err(error) if self.falls_back(error) => {}
                result => return result,
            }
        }
        self.ask(|at| Request::Create { at, name, new: *new })
    }

    /// Removes a name.
    ///
    /// # Errors
    /// Those of `unlink(2)` and `rmdir(2)`.
    pub fn remove(&self, name: Name<'_>, removal: Removal) -> SysResult<()> {
        self.run(|local| local.remove(name, removal), |at| Request::Remove { at, name, removal })
    }

    /// Moves a name to another directory of the same mount.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    pub fn rename(
        &self,
        name: Name<'_>,
        to: &Directory,
        new_name: Name<'_>,
        replacing: Replacing,
    ) -> SysResult<()> {
        if let (Some(here), Some(there)) = (self.local(), to.local()) {
            match here.rename(name, &there, new_name, replacing) {
                Err(error) if self.falls_back(error) => {}
                result => return result,
            }
        }
        self.ask_of_two(to, |from, to| Request::Rename { from, name, to, new_name, replacing })
    }

    /// Gives the file called `name` a further name in another directory of the same mount.
    ///
    /// # Errors
    /// Those of `link(2)`.
    pub fn link(&self, name: Name<'_>, to: &Directory, new_name: Name<'_>) -> SysResult<()> {
        if let (Some(here), Some(there)) = (self.local(), to.local()) {
            match here.link(name, &there, new_name) {
                Err(error) if self.falls_back(error) => {}
                result => return result,
            }
        }
        self.ask_of_two(to, |from, to| Request::Link { from, name, to, new_name })
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for what is no link.
    pub fn read_link(&self, name: Name<'_>) -> SysResult<Vec<u8>> {
        self.run(|local| local.read_link(name), |at| Request::ReadLink { at, name })
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// Those of `chmod(2)`, `chown(2)`, `truncate(2)` and `utimensat(2)`.
    pub fn set_attributes(&self, target: Target<'_>, changes: &Changes) -> SysResult<()> {
        if let Some(size) = changes.size {
            let fd = self.open(target, Access::Write)?;
            host::rustix::fs::ftruncate(&fd, size)?;
        }
        let changes = Changes { size: None, ..*changes };
        if changes == Changes::default() {
            return Ok(());
        }
        self.run(
            |local| local.set_attributes(target, &changes),
            |at| Request::SetAttributes { at, target, changes },
        )
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// Those of `getxattr(2)`.
    pub fn get_xattr(&self, target: Target<'_>, name: &[u8]) -> SysResult<Vec<u8>> {
        self.run(|local| local.get_xattr(target, name), |at| Request::GetXattr { at, target, name })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// Those of `setxattr(2)`.
    pub fn set_xattr(
        &self,
        target: Target<'_>,
        name: &[u8],
        value: &[u8],
        replacing: XattrReplacing,
    ) -> SysResult<()> {
        self.run(
            |local| local.set_xattr(target, name, value, replacing),
            |at| Request::SetXattr { at, target, name, value, replacing },
        )
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// Those of `listxattr(2)`.
    pub fn list_xattr(&self, target: Target<'_>) -> SysResult<Vec<Vec<u8>>> {
        let names = self.run(|local| local.list_xattr(target), |at| Request::ListXattr { at, target })?;
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// Those of `removexattr(2)`.
    pub fn remove_xattr(&self, target: Target<'_>, name: &[u8]) -> SysResult<()> {
        self.run(|local| local.remove_xattr(target, name), |at| Request::RemoveXattr { at, target, name })
    }

    /// What `statfs(2)` tells.
    ///
    /// # Errors
    /// Those of `statfs(2)`.
    pub fn statistics(&self) -> SysResult<Statistics> {
        self.run(|local| local.statistics(), |at| Request::Statistics { at })
    }

    /// Adds all entries but `.` and `..` to `listing`. After an error some may be missing.
    ///
    /// # Errors
    /// Those of `getdents(2)`.
    pub fn list(&self, listing: &mut Listing) -> SysResult<()> {
        // What is refused is so before there is an entry.
        match self.local().map(|local| local.list_all(listing)) {
            Some(Err(error)) if self.falls_back(error) => {}
            Some(result) => return result,
            None => {}
        }
        let mut cookie = 0;
        loop {
            let ((entries, next), _) = self.ask::<(List<Entry>, u64)>(|at| Request::List { at, cookie })?;
            if entries.0.is_empty() {
                return Ok(());
            }
            for Entry { inode, kind, name } in &entries.0 {
                listing.push(Listed { inode: *inode, kind: *kind, name });
            }
            cookie = next;
        }
    }

    /// Writes a file's data, or a directory's names, to stable storage.
    ///
    /// # Errors
    /// Those of `fsync(2)`.
    pub fn sync(&self, target: Target<'_>) -> SysResult<()> {
        self.run(|local| local.sync(target), |at| Request::Sync { at, target })
    }

    /// Connects to a socket as a guest, without waiting: `EAGAIN` if whoever listens has too many to accept already.
    ///
    /// # Errors
    /// Those of `connect(2)`; `ECONNREFUSED` if guests may not use sockets of the host.
    pub fn connect(&self, target: Target<'_>, kind: SocketKind, guest: Guest) -> SysResult<(OwnedFd, Peer)> {
        if self.client.is_none() {
            return Err(Errno::ECONNREFUSED);
        }
        let (peer, socket) = self.ask(|at| Request::Connect { at, target, kind, guest })?;
        Ok((socket.ok_or(Errno::EPROTO)?, peer))
    }
}
