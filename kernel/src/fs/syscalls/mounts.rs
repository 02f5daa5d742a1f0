//! `mount(2)`, `umount2(2)`, `pivot_root(2)`.
//!
//! Mounts do not propagate: every tree is private, whatever `MS_SHARED` and `MS_SLAVE` ask for.

use std::sync::Arc;

use abi::{Errno, SysResult};
use bitflags::bitflags;

use crate::error::SyscallResult;
use crate::fs::memfs::{MemFs, MemOptions};
use crate::fs::mount::{Depth, MountFlags, MountNamespace};
use crate::fs::proc::ProcFs;
use crate::fs::{FileSystem, FileType, PathRef, SetAttributes, path::Walk};
use crate::syscalls::Fd;
use crate::syscalls::arguments::{Flags, flag_argument};
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::user::UserPath;

/// The longest text of a call's argument, a page.
const MAX_TEXT: usize = 4096;

bitflags! {
    /// Flags of `mount(2)` that are not those of a mount.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountCall: u64 {
        /// `MS_RDONLY`
        const RDONLY = 1;
        /// `MS_NOSUID`
        const NOSUID = 2;
        /// `MS_NODEV`
        const NODEV = 4;
        /// `MS_NOEXEC`
        const NOEXEC = 8;
        /// `MS_REMOUNT`
        const REMOUNT = 32;
        /// `MS_NOSYMFOLLOW`
        const NOSYMFOLLOW = 256;
        /// `MS_NOATIME`
        const NOATIME = 1024;
        /// `MS_NODIRATIME`
        const NODIRATIME = 2048;
        /// `MS_BIND`
        const BIND = 4096;
        /// `MS_MOVE`
        const MOVE = 8192;
        /// `MS_REC`
        const REC = 16384;
        /// `MS_SILENT`
        const SILENT = 32768;
        /// `MS_UNBINDABLE`
        const UNBINDABLE = 1 << 17;
        /// `MS_PRIVATE`
        const PRIVATE = 1 << 18;
        /// `MS_SLAVE`
        const SLAVE = 1 << 19;
        /// `MS_SHARED`
        const SHARED = 1 << 20;
        /// `MS_RELATIME`
        const RELATIME = 1 << 21;
        /// `MS_STRICTATIME`
        const STRICTATIME = 1 << 24;
    }
}
flag_argument!(MountCall);

impl MountCall {
    const PROPAGATION: MountCall =
        MountCall::UNBINDABLE.union(MountCall::PRIVATE).union(MountCall::SLAVE).union(MountCall::SHARED);
    const ACCESS_TIMES: MountCall = MountCall::NOATIME
        .union(MountCall::NODIRATIME)
        .union(MountCall::RELATIME)
        .union(MountCall::STRICTATIME);

    /// The flags of the mount; `before` are those that it has, whose rules for access times stay if none are given.
    fn of_mount(self, before: Option<MountFlags>) -> MountFlags {
        #[allow(clippy::cast_possible_truncation, reason = "the flags of a mount lie in the lower half")]
        let mut flags = MountFlags::from_bits_truncate(self.bits() as u32);
        match before {
            Some(before) if !self.intersects(MountCall::ACCESS_TIMES) => {
                flags |= before & MountFlags::ACCESS_TIMES;
            }
            _ if !self.intersects(MountCall::NOATIME | MountCall::STRICTATIME) => {
                flags |= MountFlags::RELATIME;
            }
            _ => flags.remove(MountFlags::RELATIME),
        }
        flags
    }
}

impl CurrentTask {
    /// `EPERM` unless the task may change its tree of mounts.
    pub(super) fn may_mount(&self) -> SysResult<()> {
        let may = self.credentials().has_in(&self.mounts().owner, Capability::SYS_ADMIN);
        if may { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The task's tree of mounts.
    pub(super) fn mounts(&self) -> Arc<MountNamespace> {
        Arc::clone(&self.fs_state().namespace)
    }
}

/// Options of a file system: words and `key=value`, separated by commas.
pub(super) fn parse_options(text: &[u8]) -> Vec<(String, Option<String>)> {
    let text = String::from_utf8_lossy(text);
    let words = text.split(',').filter(|word| !word.is_empty());
    let pair = |word: &str| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    };
    words.map(pair).collect()
}

/// Whether there is a file system of this name.
pub(super) fn is_known(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs" | "proc" | "sysfs" | "devpts" | "cgroup2")
}

/// Makes a file system: `ENODEV` for one that is not there, `EINVAL` for options that it does not know.
pub(super) fn make_file_system(
    task: &CurrentTask,
    kind: &str,
    options: &[(String, Option<String>)],
) -> SysResult<Arc<dyn FileSystem>> {
    match kind {
        "tmpfs" | "ramfs" => make_tmpfs(task, options),
        "proc" => {
            // There is no hiding of processes; what does not ask for it is as it would be.
            let fine = |(key, value): &(String, Option<String>)| match (key.as_str(), value.as_deref()) {
                ("hidepid", Some("0" | "off")) => true,
                ("gid", Some(gid)) => gid.parse::<u32>().is_ok(),
                _ => false,
            };
            if !options.iter().all(fine) {
                return Err(Errno::EINVAL);
            }
            Ok(ProcFs::new(&task.kernel, &task.group.pid_namespace))
        }
        "sysfs" => Ok(crate::fs::sysfs::SysFs::new()),
        "devpts" => {
            let known = ["newinstance", "gid", "uid", "mode", "ptmxmode", "max"];
            if !options.iter().all(|(key, _)| known.contains(&key.as_str())) {
                return Err(Errno::EINVAL);
            }
            Ok(crate::tty::DevPts::new(&task.kernel))
        }
        "cgroup2" => {
            let known = ["nsdelegate", "memory_localevents", "memory_recursiveprot"];
            if !options.iter().all(|(key, value)| known.contains(&key.as_str()) && value.is_none()) {
                return Err(Errno::EINVAL);
            }
            Ok(crate::fs::cgroup::CgroupFs::new())
        }
        _ => Err(Errno::ENODEV),
    }
}

fn make_tmpfs(task: &CurrentTask, options: &[(String, Option<String>)]) -> SysResult<Arc<dyn FileSystem>> {
    let mut made = MemOptions::default();
    let credentials = task.credentials();
    // It is the mounter's, as far as that has a number where it mounts.
    let (user, group) = (credentials.fs_uid, credentials.fs_gid);
    let mut owner = SetAttributes { uid: Some(user), gid: Some(group), ..SetAttributes::default() };
    for (key, value) in options {
        let value = value.as_deref();
        let number =
            |radix| value.and_then(|value| u32::from_str_radix(value, radix).ok()).ok_or(Errno::EINVAL);
        match key.as_str() {
            "size" => made.size = parse_size(value.ok_or(Errno::EINVAL)?)?,
            "nr_blocks" => {
                made.size =
                    parse_size(value.ok_or(Errno::EINVAL)?)?.checked_mul(4096).ok_or(Errno::EINVAL)?;
            }
            "mode" => made.mode = number(8)? & 0o7777,
            "uid" => owner.uid = Some(credentials.uid_of(number(10)?)?),
            "gid" => owner.gid = Some(credentials.gid_of(number(10)?)?),
            "nr_inodes" => made.inodes = parse_size(value.ok_or(Errno::EINVAL)?)?,
            // Huge pages are the host's business.
            "huge" | "inode32" | "inode64" | "noswap" | "mpol" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    let made = MemFs::tmpfs(made);
    made.root().set_attributes(&owner)?;
    Ok(made)
}

/// A size with a unit, or as a part of the machine's memory.
fn parse_size(text: &str) -> SysResult<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "%" => rustix::system::sysinfo().totalram / 100,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(factor).ok_or(Errno::EINVAL)
}

/// An argument of text, `None` for a null pointer.
fn optional_text(task: &CurrentTask, pointer: u64) -> SysResult<Option<Vec<u8>>> {
    if pointer == 0 {
        return Ok(None);
    }
    task.read_string(pointer, MAX_TEXT).map(Some).map_err(|error| match error {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        other => other,
    })
}

/// Options of a file system, which may fill a page without a zero at its end.
fn read_options(task: &CurrentTask, pointer: u64) -> SysResult<Vec<u8>> {
    if pointer == 0 {
        return Ok(Vec::new());
    }
    let mut page = vec![0; MAX_TEXT];
    match task.read_some(pointer, &mut page) {
        0 => Err(Errno::EFAULT),
        read => {
            let end = page[..read].iter().position(|byte| *byte == 0).unwrap_or(read);
            page.truncate(end);
            Ok(page)
        }
    }
}

/// `mount(2)`.
pub fn mount(
    task: &CurrentTask,
    source: u64,
    target: UserPath,
    kind: u64,
    mut flags: MountCall,
    data: u64,
) -> SyscallResult<()> {
    const MAGIC: u64 = 0xc0ed_0000;
    const MAGIC_MASK: u64 = 0xffff_0000;
    let kind = optional_text(task, kind)?;
    let source = optional_text(task, source)?;
    let data = read_options(task, data)?;
    if flags.bits() & MAGIC_MASK == MAGIC {
        flags = MountCall::from_bits_retain(flags.bits() & !MAGIC_MASK);
    }
    let target = task.read_path(target)?;
    let target = task.resolve(Fd::CWD, &target, Walk::FOLLOW)?;
    task.may_mount()?;
    let namespace = task.mounts();
    if flags.contains(MountCall::REMOUNT) {
        return remount(task, &namespace, target, flags, &data);
    }
    if flags.contains(MountCall::BIND) {
        let source = source.filter(|source| !source.is_empty()).ok_or(Errno::EINVAL)?;
        let source = task.resolve(Fd::CWD, &source, Walk::FOLLOW)?;
        return Ok(bind(&namespace, &source, target, flags.contains(MountCall::REC))?);
    }
    if flags.intersects(MountCall::PROPAGATION) {
        return Ok(set_propagation(&namespace, &target, flags)?);
    }
    if flags.contains(MountCall::MOVE) {
        let source = source.filter(|source| !source.is_empty()).ok_or(Errno::EINVAL)?;
        let source = namespace.top(task.resolve(Fd::CWD, &source, Walk::FOLLOW)?);
        return Ok(namespace.relocate(&source, target)?);
    }
    let kind = kind.ok_or(Errno::EINVAL)?;
    let file_system = make_file_system(task, &String::from_utf8_lossy(&kind), &parse_options(&data))?;
    let source = source.unwrap_or_else(|| b"none".to_vec());
    namespace.mount(target, file_system, &String::from_utf8_lossy(&source), flags.of_mount(None))?;
    Ok(())
}

/// `MS_REMOUNT`: the flags of a mount; with `MS_BIND` only these, which is all there is of a file system too.
fn remount(
    task: &CurrentTask,
    namespace: &MountNamespace,
    target: PathRef,
    flags: MountCall,
    data: &[u8],
) -> SyscallResult<()> {
    let target = namespace.top(target);
    let mount = &target.mount;
    if !Arc::ptr_eq(&mount.root, &target.dentry) || !namespace.contains(mount) {
        return Err(Errno::EINVAL.into());
    }
    if !flags.contains(MountCall::BIND) && mount.file_system.name() == "tmpfs" {
        // Checked, so that nonsense is told; a tmpfs keeps the size that it was made with.
        make_tmpfs(task, &parse_options(data))?;
    }
    Ok(mount.set_flags(flags.of_mount(Some(mount.flags())))?)
}

fn bind(namespace: &MountNamespace, source: &PathRef, target: PathRef, deep: bool) -> SysResult<()> {
    let source = namespace.top(source.clone());
    // What is in another tree or in none cannot be bound, but for namespaces, which are in none.
    let namespace_file = source.inode().is_some_and(|inode| crate::namespace::of_inode(inode).is_some());
    if !namespace.contains(&source.mount) && !namespace_file {
        return Err(Errno::EINVAL);
    }
    let depth = if deep { Depth::Recursive } else { Depth::Single };
    let copy = namespace.clone_at(&source, depth);
    let attached = namespace.attach(target, &copy);
    if attached.is_err() {
        copy.dissolve();
    }
    attached
}

/// The four kinds of propagation: one at a time, on a mount's root.
fn set_propagation(namespace: &MountNamespace, target: &PathRef, flags: MountCall) -> SysResult<()> {
    let kind = flags & MountCall::PROPAGATION;
    let others = flags - MountCall::PROPAGATION - MountCall::REC - MountCall::SILENT;
    if kind.bits().count_ones() != 1 || !others.is_empty() {
        return Err(Errno::EINVAL);
    }
    let target = namespace.top(target.clone());
    if !Arc::ptr_eq(&target.mount.root, &target.dentry) || !namespace.contains(&target.mount) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// `umount2(2)`.
pub fn umount2(task: &CurrentTask, path: UserPath, flags: Flags) -> SyscallResult<()> {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const EXPIRE: u32 = 4;
    const NOFOLLOW: u32 = 8;
    if flags.0 & !(FORCE | DETACH | EXPIRE | NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let follow = if flags.0 & NOFOLLOW != 0 { Walk::empty() } else { Walk::FOLLOW };
    let path = task.read_path(path)?;
    let place = task.resolve(Fd::CWD, &path, follow)?;
    task.may_mount()?;
    let namespace = task.mounts();
    let place = namespace.top(place);
    if !Arc::ptr_eq(&place.mount.root, &place.dentry) || !namespace.contains(&place.mount) {
        return Err(Errno::EINVAL.into());
    }
    if flags.0 & EXPIRE != 0 {
        // Nothing is ever marked as expired.
        let error = if flags.0 & (FORCE | DETACH) != 0 { Errno::EINVAL } else { Errno::EAGAIN };
        return Err(error.into());
    }
    Ok(namespace.unmount(&place, flags.0 & DETACH != 0)?)
}

/// `pivot_root(2)`.
pub fn pivot_root(task: &CurrentTask, new_root: UserPath, put_old: UserPath) -> SyscallResult<()> {
    task.may_mount()?;
    let state = task.fs_state();
    let directory = |path: UserPath| -> SyscallResult<PathRef> {
        let path = task.read_path(path)?;
        let place = task.resolve(Fd::CWD, &path, Walk::FOLLOW)?;
        match place.existing()?.file_type() {
            FileType::Directory => Ok(place),
            _ => Err(Errno::ENOTDIR.into()),
        }
    };
    let (new, old) = (directory(new_root)?, directory(put_old)?);
    state.namespace.pivot(&state.root, &new, &old)?;
    // Whoever was in the old root is in the new one.
    for other in task.kernel.tasks.all() {
        other.fs().update(|other| {
            if Arc::ptr_eq(&other.namespace, &state.namespace) {
                for place in [&mut other.root, &mut other.cwd] {
                    if place.same(&state.root) {
                        *place = new.clone();
                    }
                }
            }
        });
    }
    Ok(())
}
