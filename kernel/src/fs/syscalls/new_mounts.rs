//! The newer calls on mounts: `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `move_mount(2)`, `open_tree(2)`,
//! `mount_setattr(2)`.

use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::mounts::{is_known, make_file_system};
use crate::error::SyscallResult;
use crate::fs::file::Place;
use crate::fs::mount::{Depth, DetachedTree, Mount, MountFlags};
use crate::fs::{File, FileSystem, OpenFile, PathRef, path::Walk};
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::{UserPath, UserPtr};

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;

/// A file system that is being set up.
#[derive(Default)]
struct Setup {
    kind: String,
    source: Option<String>,
    options: Vec<(String, Option<String>)>,
    read_only: bool,
    made: Option<Arc<dyn FileSystem>>,
    /// Set when it has been mounted.
    spent: bool,
}

/// What `fsopen(2)` gives.
struct SetupFile(Mutex<Setup>);

impl OpenFile for SetupFile {}

/// A descriptor of a detached tree of mounts.
struct TreeFile(#[allow(dead_code, reason = "takes the tree apart with it")] DetachedTree);

impl OpenFile for TreeFile {}

fn setup(file: &File) -> SysResult<&SetupFile> {
    let ops: &dyn std::any::Any = &**file.ops();
    ops.downcast_ref().ok_or(Errno::EINVAL)
}

/// `fsopen(2)`.
pub fn fsopen(task: &CurrentTask, name: UserPath, flags: Flags) -> SyscallResult<Fd> {
    const CLOEXEC: u32 = 1;
    task.may_mount()?;
    if flags.0 & !CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = String::from_utf8_lossy(&task.read_string(name.0, 4096)?).into_owned();
    if !is_known(&name) {
        return Err(Errno::ENODEV.into());
    }
    let setup = SetupFile(Mutex::new(Setup { kind: name, ..Setup::default() }));
    let file = File::anonymous("anon_inode:[fscontext]", Arc::new(setup), OpenFlags::RDWR);
    Ok(task.install(file, flags.0 & CLOEXEC != 0)?)
}

/// `fsconfig(2)`.
pub fn fsconfig(
    task: &CurrentTask,
    fd: Fd,
    command: u32,
    key: u64,
    value: u64,
    auxiliary: i32,
) -> SyscallResult<()> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const SET_BINARY: u32 = 2;
    const SET_FD: u32 = 5;
    const CREATE: u32 = 6;
    const RECONFIGURE: u32 = 7;
    const CREATE_EXCLUSIVE: u32 = 8;
    let shape = match command {
        SET_FLAG => key != 0 && value == 0 && auxiliary == 0,
        SET_STRING => key != 0 && value != 0 && auxiliary == 0,
        SET_BINARY..=SET_FD => return Err(Errno::EOPNOTSUPP.into()),
        CREATE | RECONFIGURE | CREATE_EXCLUSIVE => key == 0 && value == 0 && auxiliary == 0,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    if fd.0 < 0 || !shape {
        return Err(Errno::EINVAL.into());
    }
    let file = task.file(fd)?;
    let setup = setup(&file)?;
    let text = |pointer: u64| -> SysResult<String> {
        Ok(String::from_utf8_lossy(&task.read_string(pointer, 256)?).into_owned())
    };
    let key = if key != 0 { Some(text(key)?) } else { None };
    let value = if value != 0 { Some(text(value)?) } else { None };
    let mut setup = setup.0.lock();
    match (command, key) {
        (RECONFIGURE, _) => Err(Errno::EOPNOTSUPP.into()),
        (CREATE | CREATE_EXCLUSIVE, _) => {
            task.may_mount()?;
            if setup.made.is_some() || setup.spent {
                return Err(Errno::EBUSY.into());
            }
            setup.made = Some(make_file_system(task, &setup.kind, &setup.options)?);
            Ok(())
        }
        (_, Some(key)) => {
            if setup.made.is_some() || setup.spent {
                return Err(Errno::EBUSY.into());
            }
            match key.as_str() {
                "source" if value.is_some() && setup.source.is_none() => setup.source = value,
                "ro" if value.is_none() => setup.read_only = true,
                "rw" if value.is_none() => setup.read_only = false,
                _ => {
                    // An unknown option is told at once.
                    let option = (key, value);
                    make_file_system(task, &setup.kind, std::slice::from_ref(&option))?;
                    setup.options.push(option);
                }
            }
            Ok(())
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

const ATTRIBUTE_ATIME: u64 = 0x70;
const ATTRIBUTE_NOATIME: u64 = 0x10;
const ATTRIBUTE_STRICTATIME: u64 = 0x20;

/// Attributes with the flag that each means.
const ATTRIBUTES: [(u64, MountFlags); 6] = [
    (1, MountFlags::READ_ONLY),
    (2, MountFlags::NO_SUID),
    (4, MountFlags::NO_DEV),
    (8, MountFlags::NO_EXEC),
    (0x80, MountFlags::NO_DIR_ATIME),
    (0x20_0000, MountFlags::NO_SYMLINKS),
];

/// The flags that attributes mean, but for access times: `EINVAL` for unknown ones.
fn simple_flags(attributes: u64) -> SysResult<MountFlags> {
    let mut rest = attributes & !ATTRIBUTE_ATIME;
    let mut flags = MountFlags::empty();
    for (attribute, flag) in ATTRIBUTES {
        if rest & attribute != 0 {
            rest &= !attribute;
            flags |= flag;
        }
    }
    if rest == 0 { Ok(flags) } else { Err(Errno::EINVAL) }
}

/// The rule for access times: `EINVAL` for an unknown one.
fn access_times(attributes: u64) -> SysResult<MountFlags> {
    match attributes & ATTRIBUTE_ATIME {
        0 => Ok(MountFlags::RELATIME),
        ATTRIBUTE_NOATIME => Ok(MountFlags::NO_ATIME),
        ATTRIBUTE_STRICTATIME => Ok(MountFlags::empty()),
        _ => Err(Errno::EINVAL),
    }
}

fn tree_file(mount: Arc<Mount>) -> Arc<File> {
    let place = Place::Path(mount.root_place());
    File::new(place, Arc::new(TreeFile(DetachedTree(mount))), OpenFlags::PATH)
}

/// `fsmount(2)`.
pub fn fsmount(task: &CurrentTask, fd: Fd, flags: Flags, attributes: u32) -> SyscallResult<Fd> {
    const CLOEXEC: u32 = 1;
    task.may_mount()?;
    if flags.0 & !CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mount_flags = simple_flags(attributes.into())? | access_times(attributes.into())?;
    let file = task.file(fd)?;
    let mut setup = setup(&file)?.0.lock();
    let made = setup.made.take().ok_or(if setup.spent { Errno::EBUSY } else { Errno::EINVAL })?;
    setup.spent = true;
    let read_only = if setup.read_only { MountFlags::READ_ONLY } else { MountFlags::empty() };
    let source = setup.source.clone().unwrap_or_else(|| "none".into());
    let mount = Mount::detached(made, &source, mount_flags | read_only);
    Ok(task.install(tree_file(mount), flags.0 & CLOEXEC != 0)?)
}

/// A place by descriptor and path.
fn place(
    task: &CurrentTask,
    directory: Fd,
    path: &[u8],
    follow: bool,
    empty: bool,
) -> SyscallResult<PathRef> {
    let mut walk = Walk::empty();
    walk.set(Walk::FOLLOW, follow);
    walk.set(Walk::EMPTY, empty);
    task.resolve(directory, path, walk)
}

/// `open_tree(2)`.
pub fn open_tree(task: &CurrentTask, directory: Fd, path: UserPath, flags: Flags) -> SyscallResult<Fd> {
    const CLONE: u32 = 1;
    const CLOEXEC: u32 = 0o2_000_000;
    let known = CLONE | CLOEXEC | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_RECURSIVE;
    if flags.0 & !known != 0 || flags.0 & (AT_RECURSIVE | CLONE) == AT_RECURSIVE {
        return Err(Errno::EINVAL.into());
    }
    let clones = flags.0 & CLONE != 0;
    if clones {
        task.may_mount()?;
    }
    let path = task.read_path(path)?;
    let follow = flags.0 & AT_SYMLINK_NOFOLLOW == 0;
    let found = place(task, directory, &path, follow, flags.0 & AT_EMPTY_PATH != 0)?;
    let file = if clones {
        let namespace = task.mounts();
        if !namespace.contains(&found.mount) {
            return Err(Errno::EINVAL.into());
        }
        let depth = if flags.0 & AT_RECURSIVE != 0 { Depth::Recursive } else { Depth::Single };
        tree_file(namespace.clone_at(&found, depth))
    } else {
        File::new(Place::Path(found), Arc::new(PlaceFile), OpenFlags::PATH)
    };
    Ok(task.install(file, flags.0 & CLOEXEC != 0)?)
}

/// What `open_tree(2)` gives for a place that it does not copy.
struct PlaceFile;

impl OpenFile for PlaceFile {}

/// `move_mount(2)`.
pub fn move_mount(
    task: &CurrentTask,
    from: Fd,
    from_path: UserPath,
    to: Fd,
    to_path: UserPath,
    flags: Flags,
) -> SyscallResult<()> {
    const FROM_SYMLINKS: u32 = 1;
    const FROM_EMPTY: u32 = 4;
    const TO_SYMLINKS: u32 = 0x10;
    const TO_EMPTY: u32 = 0x40;
    const AUTOMOUNTS: u32 = 0x22;
    task.may_mount()?;
    if flags.0 & !(FROM_SYMLINKS | FROM_EMPTY | TO_SYMLINKS | TO_EMPTY | AUTOMOUNTS) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let has = |flag| flags.0 & flag != 0;
    let from_path = task.read_path(from_path)?;
    let from = place(task, from, &from_path, has(FROM_SYMLINKS), has(FROM_EMPTY))?;
    let to_path = task.read_path(to_path)?;
    let to = place(task, to, &to_path, has(TO_SYMLINKS), has(TO_EMPTY))?;
    let namespace = task.mounts();
    if namespace.contains(&from.mount) {
        return Ok(namespace.relocate(&from, to)?);
    }
    let detached = from.mount.parent().is_none() && Arc::ptr_eq(&from.mount.root, &from.dentry);
    if !detached {
        return Err(Errno::EINVAL.into());
    }
    Ok(namespace.attach(to, &from.mount)?)
}

/// `struct mount_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// `mount_setattr(2)`.
pub fn mount_setattr(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    flags: Flags,
    attributes: UserPtr<MountAttributes>,
    size: usize,
) -> SyscallResult<()> {
    const IDMAP: u64 = 0x10_0000;
    let known = AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    if flags.0 & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    if size < size_of::<MountAttributes>() {
        return Err(Errno::EINVAL.into());
    }
    task.may_mount()?;
    let wanted = task.read_object(attributes)?;
    if wanted.set == 0 && wanted.clear == 0 && wanted.propagation == 0 {
        return Ok(());
    }
    if (wanted.set | wanted.clear) & IDMAP != 0 {
        // Mounts with their own mapping of ids are not there.
        return Err(Errno::EOPNOTSUPP.into());
    }
    let propagation = matches!(wanted.propagation, 0 | 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x10_0000);
    let (set, clear) = (simple_flags(wanted.set)?, simple_flags(wanted.clear)?);
    let times = match (wanted.set & ATTRIBUTE_ATIME, wanted.clear & ATTRIBUTE_ATIME) {
        (0, 0) => None,
        // The rule is a number, not a set of bits: all of it goes at once.
        (_, ATTRIBUTE_ATIME) => Some(access_times(wanted.set)?),
        _ => return Err(Errno::EINVAL.into()),
    };
    if !propagation {
        return Err(Errno::EINVAL.into());
    }
    let path = task.read_path(path)?;
    let follow = flags.0 & AT_SYMLINK_NOFOLLOW == 0;
    let found = place(task, directory, &path, follow, flags.0 & AT_EMPTY_PATH != 0)?;
    if !Arc::ptr_eq(&found.mount.root, &found.dentry) {
        return Err(Errno::EINVAL.into());
    }
    let mounts =
        if flags.0 & AT_RECURSIVE != 0 { found.mount.tree() } else { vec![Arc::clone(&found.mount)] };
    for mount in mounts {
        let mut new = (mount.flags() - clear) | set;
        if let Some(times) = times {
            new = (new - MountFlags::RELATIME - MountFlags::NO_ATIME) | times;
        }
        mount.set_flags(new)?;
    }
    Ok(())
}
