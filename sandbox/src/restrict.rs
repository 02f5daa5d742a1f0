//! What a container's specification adds to its tree and takes from it when all is mounted: device nodes, paths that
//! show nothing, paths that cannot be changed; and settings of its namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::Errno;
use abi::fs::make_device;
use kernel::error::SysError;
use kernel::fs::memfs::{MemFs, MemOptions};
use kernel::fs::mount::{Depth, MountFlags, MountNamespace};
use kernel::fs::path::{FsState, PathRef, Walk, Walker};
use kernel::fs::proc::set_sysctl;
use kernel::fs::{Acls, FileType, NewFile, NewKind};
use kernel::namespace::Namespaces;
use kernel::task::Credentials;

use crate::control::message::{ErrorCode, Failure};
use crate::spec::{ContainerSpec, DeviceKind, DeviceSpec};
use crate::tree::{failed, make_directory};

/// Does it.
pub fn apply(namespace: &Arc<MountNamespace>, spec: &ContainerSpec) -> Result<(), Failure> {
    for device in &spec.devices {
        make_node(namespace, device).map_err(failed(format!("cannot make the device {}", device.path)))?;
    }
    for path in &spec.readonly_paths {
        let Some(place) = find(namespace, path) else { continue };
        let flags = place.mount.flags() | MountFlags::READ_ONLY;
        let bound = bind(namespace, &place, place.clone(), flags);
        bound.map_err(failed(format!("cannot make {path} read-only")))?;
    }
    for path in &spec.masked_paths {
        let Some(place) = find(namespace, path) else { continue };
        mask(namespace, place).map_err(failed(format!("cannot mask {path}")))?;
    }
    Ok(())
}

/// Changes settings of the container's namespaces.
pub fn set_sysctls(namespaces: &Namespaces, settings: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, value) in settings {
        if name == "kernel.domainname" {
            namespaces.uts.update(|names| names.domainname = value.clone().into_bytes());
            continue;
        }
        set_sysctl(&namespaces.ipc, name, value).map_err(|error| {
            let reason = match error {
                Errno::EPERM => "it cannot be changed here".to_owned(),
                Errno::EINVAL => format!("{value:?} is not a value for it"),
                error => error.to_string(),
            };
            Failure::new(ErrorCode::Invalid, format!("cannot set sysctl {name:?}: {reason}"))
        })?;
    }
    Ok(())
}

/// What there is at a path, if anything.
fn find(namespace: &Arc<MountNamespace>, path: &str) -> Option<PathRef> {
    let top = namespace.root();
    let state = FsState { namespace: Arc::clone(namespace), root: top.clone(), cwd: top.clone(), umask: 0 };
    let credentials = Credentials::new(0, 0);
    let found = Walker::new(&state, &credentials, None, Walk::FOLLOW).walk(&top, path.as_bytes());
    found.ok().map(|found| found.place).filter(|place| place.inode().is_some())
}

/// A directory becomes an empty one, a file the null device.
fn mask(namespace: &Arc<MountNamespace>, place: PathRef) -> Result<(), Errno> {
    let hidden = MountFlags::READ_ONLY | MountFlags::NO_SUID | MountFlags::NO_DEV | MountFlags::NO_EXEC;
    if place.inode().is_some_and(|inode| inode.file_type() == FileType::Directory) {
        let empty = MemFs::tmpfs(MemOptions { mode: 0o755, ..MemOptions::default() });
        return namespace.mount(place, empty, "tmpfs", hidden).map(drop);
    }
    let null = find(namespace, "/dev/null").ok_or(Errno::ENOENT)?;
    bind(namespace, &null, place, MountFlags::READ_ONLY | MountFlags::NO_SUID | MountFlags::NO_EXEC)
}

/// Shows what is at one place, with all that is mounted below it, at another, under other flags.
fn bind(
    namespace: &Arc<MountNamespace>,
    from: &PathRef,
    to: PathRef,
    flags: MountFlags,
) -> Result<(), Errno> {
    let copy = namespace.clone_at(from, Depth::Recursive);
    copy.set_flags(flags)?;
    namespace.attach(to, &copy)
}

/// A node that is there already, such as those of every container, stays as it is.
fn make_node(namespace: &Arc<MountNamespace>, device: &DeviceSpec) -> Result<(), Errno> {
    let (above, name) = device.path.rsplit_once('/').ok_or(Errno::EINVAL)?;
    if name.is_empty() || name == "." || name == ".." {
        return Err(Errno::EINVAL);
    }
    let directory = make_directory(namespace, above)?;
    let top = namespace.root();
    let state = FsState { namespace: Arc::clone(namespace), root: top.clone(), cwd: top, umask: 0 };
    let credentials = Credentials::new(0, 0);
    let walker = Walker::new(&state, &credentials, None, Walk::CREATE);
    let place = walker.walk(&directory, name.as_bytes()).map_err(SysError::errno)?.place;
    if place.inode().is_some() {
        return Ok(());
    }
    let number = make_device(device.major, device.minor);
    let kind = match device.kind {
        DeviceKind::Character => NewKind::CharDevice(number),
        DeviceKind::Block => NewKind::BlockDevice(number),
        DeviceKind::Fifo => NewKind::Fifo,
    };
    let new =
        NewFile { kind, mode: device.mode & 0o7777, uid: device.uid, gid: device.gid, acls: Acls::default() };
    place.dentry.instantiate(Arc::clone(directory.existing()?).create(name.as_bytes(), &new)?);
    Ok(())
}
