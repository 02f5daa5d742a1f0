//! What a container's files look like from outside, to those who enter the mount namespace of its stand-in.
//!
//! Engines copy files to and from containers, run hooks and list processes that way. The program itself never sees any
//! of this: it has its own tree in the sandbox, over the same directories. File systems that only exist in the sandbox
//! are missing here, but for `/proc`, which shows the processes of the sandbox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Pid, WaitOptions, chdir, pivot_root, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::spec::ContainerConfig;
use crate::spec::mounts::MountKind;

/// What is to be seen.
#[derive(Debug)]
pub struct View {
    /// `None` for one that only the sandbox can show.
    root: Option<PathBuf>,
    /// Sources on the host, destinations, and whether what is mounted below the source comes along.
    binds: Vec<(PathBuf, String, bool)>,
    processes: bool,
}

impl View {
    /// What a container sees.
    pub fn new(config: &ContainerConfig) -> View {
        let binds = config.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Bind { path, recursive } => {
                Some((path.clone(), mount.destination.clone(), *recursive))
            }
            _ => None,
        });
        View {
            root: config.root.directory().map(Path::to_owned),
            binds: binds.collect(),
            processes: config.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Proc(_))),
        }
    }
}

/// A view that is not entered yet.
#[derive(Debug)]
pub struct Prepared<'v> {
    root: OwnedFd,
    /// Mounts whose places are not there yet: the sandbox makes them.
    left: Vec<&'v (PathBuf, String, bool)>,
}

/// Puts it together in a mount namespace of its own, in which the host's files are still there too; its root becomes the
/// working directory. `sandbox` is the process whose pid namespace `/proc` shows, a child of this one.
///
/// # Errors
/// If the caller may not, or the root directory is gone.
pub fn prepare(view: &View, sandbox: Option<i32>) -> io::Result<Prepared<'_>> {
    host::enter::new_mount_namespace()?;
    // What is unmounted outside later must not be held here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    match &view.root {
        Some(root) => {
            mount_bind_recursive(root, root)?;
            chdir(root)?;
        }
        None => {
            let place = host::namespace::place_to_mount();
            mount("none", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=1m")?;
            chdir(place)?;
        }
    }
    let root = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut left: Vec<_> = view.binds.iter().collect();
    left.retain(|(source, destination, recursive)| bind(&root, source, destination, *recursive).is_err());
    if let (true, Some(sandbox)) = (view.processes, sandbox) {
        let _ = show_processes(&root, sandbox);
    }
    Ok(Prepared { root, left })
}

/// Makes what was prepared the calling process's root. The sandbox has made the places of all mounts by now; single ones
/// that do not work are left out.
///
/// # Errors
/// The host's.
pub fn enter(prepared: &Prepared<'_>) -> io::Result<()> {
    for (source, destination, recursive) in &prepared.left {
        let _ = bind(&prepared.root, source, destination, *recursive);
    }
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}

/// A place below the root, however many links of the container's lead there.
fn place(root: &OwnedFd, destination: &str) -> io::Result<OwnedFd> {
    let relative = destination.trim_start_matches('/');
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(root, relative, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?)
}

fn bind(root: &OwnedFd, source: &Path, destination: &str, recursive: bool) -> io::Result<()> {
    let place = place(root, destination)?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree.as_fd(), "", place.as_fd(), "", empty)?)
}

/// Mounts a procfs of the sandbox's pid namespace, which only a process born there can do.
fn show_processes(root: &OwnedFd, sandbox: i32) -> io::Result<()> {
    let place = place(root, "proc")?;
    let namespace = std::fs::File::open(format!("/proc/{sandbox}/ns/pid"))?;
    let own = std::fs::File::open("/proc/self/ns/pid")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    let forked = host::namespace::fork_into(0, || {
        use std::os::fd::AsRawFd;
        let target = format!("/proc/self/fd/{}", place.as_raw_fd());
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        i32::from(mount("proc", target.as_str(), "proc", flags, None).is_err())
    });
    // As long as it is there, even as a zombie, the sandbox cannot end.
    if let Some(pid) = Pid::from_raw(forked?) {
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    // The processes that are made from here on are the caller's again. The root of an ordinary user's namespace may not
    // go back, but nothing is made any more.
    let _ = move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID));
    Ok(())
}
