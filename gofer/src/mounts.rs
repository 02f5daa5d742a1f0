//! The tree of mounts that a gofer lives in: an empty file system in memory with one entry per mount, `0`, `1`, …, and
//! nothing else. Whoever gets out of a mount by way of `..` is there, and sees the container's own mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use host::mount::{Attributes, Ties, Which};
use host::namespace::IdMaps;
use host::rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, statx};
use host::rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_remount, move_mount, open_tree,
    unmount,
};
use thiserror::Error;

use crate::connect::Sockets;
use crate::mount_table::{MountTable, Parents};
use crate::server::{ServedMount, Writing};

/// A directory or file of the host that is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its path on the host; links in it are followed.
    pub source: PathBuf,
    /// The options of an overlay that is to be mounted and served instead of the source.
    pub overlay: Option<String>,
    /// Whether it may be changed.
    pub writing: Writing,
    /// Whether what is mounted below it on the host is there too.
    pub below: Below,
    /// Whether its files may be executed (and mapped as code).
    pub executing: Executing,
    /// Whether the character device that it is may be opened.
    pub devices: Devices,
    /// How the owners of its files are shown, if not as they are.
    pub owners: Option<Owners>,
    /// Whether what the host mounts or unmounts below it later is so here, too.
    pub ties: Ties,
}

/// How the owners of a mount's files are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// From ids that files have (inside) to those that are shown (outside).
    pub maps: IdMaps,
    /// Whether those on mounts below are, too.
    pub which: Which,
}

/// What becomes of the mounts below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// They are there (`rbind`).
    Included,
    /// The directories that they lie on are there (`bind`).
    Hidden,
}

/// Whether files may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Executing {
    Allowed,
    Refused,
}

/// Whether a device of the host may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Devices {
    Allowed,
    Refused,
}

/// What kept a tree from being made.
#[derive(Debug, Error)]
pub enum Error {
    /// A source cannot be used.
    #[error("cannot mount {}: {error}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// What the host says.
        error: std::io::Error,
    },
    /// A step that has nothing to do with one of the mounts.
    #[error("cannot {step}: {error}")]
    Step {
        /// What was to be done.
        step: &'static str,
        /// What the host says.
        error: std::io::Error,
    },
}

/// An error of the host in some step.
pub(crate) fn failed<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Step { step, error: error.into() }
}

/// Where the tree has a link to each descriptor of the process, if it is to.
pub(crate) const DESCRIPTORS: &str = "/fd";

/// Moves the calling process, which must be in a mount namespace of its own, into a tree of just these mounts, and with
/// [`Sockets::Connect`] its own descriptors.
///
/// # Errors
/// The mount that cannot be used, or the step that failed.
pub fn enter(mounts: &[Mount], sockets: Sockets) -> Result<Vec<ServedMount>, Error> {
    let following = following(mounts);
    host::mount::tie_all(following).map_err(failed("make mounts private"))?;
    // All sources are found before the new root hides some of them.
    let trees = mounts.iter().map(detach).collect::<Result<Vec<_>, _>>()?;
    let descriptors = match sockets {
        Sockets::None => None,
        Sockets::Connect => Some(detach(&own_descriptors())?),
    };
    let hidden = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let place = host::namespace::place_to_mount();
    mount("gofer", place, "tmpfs", hidden, c"mode=0711,size=1m").map_err(failed("mount a new root"))?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, place, directory, Mode::empty()).map_err(failed("open the new root"))?;
    let mut roots = Vec::new();
    for (number, (tree, mount)) in trees.iter().zip(mounts).enumerate() {
        let attach = attach(&root, &number.to_string(), tree);
        roots.push(attach.map_err(|error| Error::Source { path: mount.source.clone(), error })?);
    }
    if let Some(tree) = &descriptors {
        attach(&root, &DESCRIPTORS[1..], tree).map_err(failed("mount the process's descriptors"))?;
    }
    let own = openat(CWD, "/proc/self", directory, Mode::empty()).map_err(failed("open /proc/self"))?;
    let table = MountTable::open(&own).map_err(failed("read /proc/self/mountinfo"))?;
    let parents = table.parents().map_err(failed("read /proc/self/mountinfo"))?;
    let served = roots.into_iter().zip(mounts).enumerate().map(|(number, (fd, mount))| {
        serve(&root, number, fd, mount, &parents)
            .map_err(|error| Error::Source { path: mount.source.clone(), error })
    });
    let served = served.collect::<Result<Vec<_>, _>>()?;
    host::rustix::process::chdir(place).map_err(failed("enter the new root"))?;
    host::rustix::process::pivot_root(".", ".").map_err(failed("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root"))?;
    mount_remount("/", MountFlags::RDONLY | hidden, "").map_err(failed("make the root read-only"))?;
    host::rustix::process::chdir("/").map_err(failed("enter the new root"))?;
    if following == Ties::None {
        return Ok(served);
    }
    // One that was opened before shows what is below the old root.
    let table = Arc::new(MountTable::open(&own).map_err(failed("read /proc/self/mountinfo"))?);
    let followed = served.into_iter().zip(mounts).map(|(served, mount)| match mount.ties {
        Ties::None => served,
        Ties::Following => served.with_changing_mounts_below(Arc::clone(&table)),
    });
    Ok(followed.collect())
}

/// Whether any of these mounts follows the host's.
pub(crate) fn following(mounts: &[Mount]) -> Ties {
    if mounts.iter().any(|mount| mount.ties == Ties::Following) { Ties::Following } else { Ties::None }
}

/// The directory of links to the calling process's descriptors. What is reached by it is held already.
fn own_descriptors() -> Mount {
    Mount {
        source: "/proc/self/fd".into(),
        overlay: None,
        writing: Writing::ReadOnly,
        below: Below::Hidden,
        executing: Executing::Refused,
        devices: Devices::Refused,
        owners: None,
        ties: Ties::None,
    }
}

/// A copy of a source's mount that is nowhere yet, restricted to what the gofer needs of it.
fn detach(mount: &Mount) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if mount.below == Below::Included {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    // Devices are the sandbox's own business: none of the host's is opened but those that are mounted to be.
    let mut attributes = Attributes::NO_DEV | Attributes::NO_SUID;
    attributes.set(Attributes::READ_ONLY, mount.writing == Writing::ReadOnly);
    attributes.set(Attributes::NO_EXEC, mount.executing == Executing::Refused);
    let tree = match &mount.overlay {
        None => open_tree(CWD, &mount.source, flags).map_err(std::io::Error::from),
        Some(options) => overlay(options, flags),
    };
    let restricted = tree.and_then(|tree| {
        let device = mount.devices == Devices::Allowed && is_character_device(&tree)?;
        attributes.set(Attributes::NO_DEV, !device);
        host::mount::restrict(tree.as_fd(), attributes, mount.ties).map(|()| tree)
    });
    restricted
        .and_then(|tree| {
            let Some(Owners { maps, which }) = &mount.owners else { return Ok(tree) };
            let namespace = host::namespace::user_namespace(maps)?;
            host::mount::map_owners(tree.as_fd(), namespace.as_fd(), *which).map(|()| tree)
        })
        .map_err(|error| Error::Source { path: mount.source.clone(), error })
}

/// Whether the root of a tree is a character device, below which there is nothing else.
fn is_character_device(tree: &OwnedFd) -> std::io::Result<bool> {
    let stat = statx(tree, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice)
}

/// An overlay that is nowhere yet. `mount(2)` takes options of any length, but needs a place for a moment.
fn overlay(options: &str, flags: OpenTreeFlags) -> std::io::Result<OwnedFd> {
    let options = std::ffi::CString::new(options)?;
    let place = host::namespace::place_to_mount();
    mount("overlay", place, "overlay", MountFlags::empty(), options.as_c_str())?;
    let tree = open_tree(CWD, place, flags);
    unmount(place, UnmountFlags::DETACH)?;
    Ok(tree?)
}

/// Mounts a tree at `name` in the new root. Returns a descriptor of its root.
fn attach(root: &OwnedFd, name: &str, tree: &OwnedFd) -> std::io::Result<OwnedFd> {
    let stat = statx(tree, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
        host::rustix::fs::mkdirat(root, name, Mode::RWXU)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(openat(root, name, flags, Mode::RUSR | Mode::WUSR)?);
    }
    move_mount(tree, "", root, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(root, name, flags, Mode::empty())?)
}

fn serve(
    root: &OwnedFd,
    number: usize,
    fd: OwnedFd,
    mount: &Mount,
    parents: &Parents,
) -> std::io::Result<ServedMount> {
    let stat = statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
        let name = number.to_string().into_bytes();
        let served = ServedMount::file(fd, root.try_clone()?, &name, mount.writing)?;
        return Ok(if mount.devices == Devices::Allowed { served.with_device() } else { served });
    }
    let served = ServedMount::directory(fd, mount.writing)?;
    Ok(match mount.below {
        Below::Hidden => served,
        Below::Included => served.with_mounts_below(&parents.all_below(stat.stx_mnt_id)),
    })
}
