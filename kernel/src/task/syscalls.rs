//! System calls on tasks: who they are, and how they relate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::exec::{MAX_ARGUMENT, Program, ProgramName};
use super::limits::{Limit, Resource};
use super::{CurrentTask, Pid};
use crate::error::SyscallResult;
use crate::fs::File;
use crate::fs::file::Place;
use crate::mm::PAGE_SIZE;
use crate::syscalls::Fd;
use crate::syscalls::arguments::Flags;
use crate::user::{UserPath, UserPtr};

pub use super::clone::{clone, clone3, fork, vfork};
pub use super::exit::{exit, exit_group};
pub use super::identity::{
    capget, capset, getgroups, getresgid, getresuid, setfsgid, setfsuid, setgid, setgroups, setregid,
    setresgid, setresuid, setreuid, setuid,
};
pub use super::inspect::{kcmp, process_madvise, process_mrelease, process_vm_readv, process_vm_writev};
pub use super::pidfd::{pidfd_getfd, pidfd_open, pidfd_send_signal};
pub use super::prctl::prctl;
pub use super::refused::*;
pub use super::sched::{
    getcpu, getpriority, ioprio_get, ioprio_set, sched_get_priority_max, sched_get_priority_min,
    sched_getaffinity, sched_getattr, sched_getparam, sched_getscheduler, sched_rr_get_interval,
    sched_setaffinity, sched_setattr, sched_setparam, sched_setscheduler, setpriority,
};
pub use super::usage::*;
pub use super::wait::{wait4, waitid};

/// `getpid(2)`.
pub fn getpid(task: &CurrentTask) -> SysResult<Pid> {
    Ok(task.group.number)
}

/// `gettid(2)`.
pub fn gettid(task: &CurrentTask) -> SysResult<Pid> {
    Ok(task.number())
}

/// `getppid(2)`.
pub fn getppid(task: &CurrentTask) -> SysResult<Pid> {
    let parent =
        task.kernel.tasks.with(|tree| tree.process(task.group.pid).map_or(0, |process| process.parent));
    Ok(task.number_of(parent))
}

/// `set_tid_address(2)`.
pub fn set_tid_address(task: &CurrentTask, address: u64) -> SysResult<Pid> {
    task.clear_child_tid.store(address, Ordering::Relaxed);
    Ok(task.number())
}

/// `set_robust_list(2)`.
pub fn set_robust_list(task: &CurrentTask, head: u64, length: usize) -> SysResult<()> {
    if length != 24 {
        return Err(Errno::EINVAL);
    }
    task.signals.own().set_robust_list(head);
    Ok(())
}

/// `arch_prctl(2)`.
pub fn arch_prctl(task: &CurrentTask, option: i32, address: u64) -> SysResult<()> {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    let limit = 1 << 47;
    let registers = *task.context.borrow().registers();
    match option {
        SET_FS | SET_GS if address >= limit => Err(Errno::EPERM),
        SET_FS => {
            task.context.borrow_mut().registers_mut().fs_base = address;
            Ok(())
        }
        SET_GS => {
            task.context.borrow_mut().registers_mut().gs_base = address;
            Ok(())
        }
        GET_FS => task.write_bytes(address, &registers.fs_base.to_ne_bytes()),
        GET_GS => task.write_bytes(address, &registers.gs_base.to_ne_bytes()),
        _ => Err(Errno::EINVAL),
    }
}

/// A piece of guest memory that was copied, from which several things are taken.
struct Piece<'a> {
    task: &'a CurrentTask,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Piece<'a> {
    fn new(task: &'a CurrentTask) -> Piece<'a> {
        Piece { task, start: 0, bytes: Vec::new() }
    }

    /// What was copied from `address` on.
    fn known(&self, address: u64) -> &[u8] {
        let offset = address.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| self.bytes.get(offset..)).unwrap_or_default()
    }

    /// Copies what can be read from `address` to the end of its page.
    fn copy(&mut self, address: u64) {
        let mut bytes = vec![0; (PAGE_SIZE - address % PAGE_SIZE) as usize];
        let length = self.task.read_some(address, &mut bytes);
        bytes.truncate(length);
        *self = Piece { task: self.task, start: address, bytes };
    }

    fn pointer(&mut self, at: UserPtr<u64>) -> SysResult<u64> {
        let first = |bytes: &[u8]| bytes.first_chunk().map(|word| u64::from_ne_bytes(*word));
        if let Some(pointer) = first(self.known(at.address())) {
            return Ok(pointer);
        }
        self.copy(at.address());
        // One that is not aligned may lie on two pages.
        first(&self.bytes).map_or_else(|| self.task.read_object(at), Ok)
    }

    fn string(&mut self, address: u64) -> SysResult<Vec<u8>> {
        let first = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0)?;
            Some(bytes[..end].to_vec())
        };
        if let Some(string) = first(self.known(address)) {
            return Ok(string);
        }
        self.copy(address);
        if let Some(string) = first(&self.bytes) {
            return Ok(string);
        }
        self.task.read_string(address, MAX_ARGUMENT).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            other => other,
        })
    }
}

/// Copies a zero-terminated vector of strings.
fn read_strings(task: &CurrentTask, vector: UserPtr<u64>) -> SysResult<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    if vector.is_null() {
        return Ok(strings);
    }
    // They mostly lie side by side.
    let (mut pointers, mut bytes) = (Piece::new(task), Piece::new(task));
    let mut total = 0;
    for index in 0.. {
        let pointer = pointers.pointer(vector.nth(index))?;
        if pointer == 0 {
            break;
        }
        let string = bytes.string(pointer)?;
        total += string.len() + 9;
        if total > 6 << 20 {
            return Err(Errno::E2BIG);
        }
        strings.push(string);
    }
    Ok(strings)
}

/// `execve(2)`.
pub fn execve(
    task: &CurrentTask,
    path: UserPath,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
) -> SyscallResult<()> {
    let path = task.read_path(path)?;
    let file = crate::fs::open_executable(task, &path)?;
    let name = ProgramName { path: path.to_vec(), base: None, inaccessible: false };
    run(task, file, name, argv, envp)
}

/// `execveat(2)`.
pub fn execveat(
    task: &CurrentTask,
    directory: Fd,
    path: UserPath,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
    flags: Flags,
) -> SyscallResult<()> {
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = task.read_path(path)?;
    if path.is_empty() && flags.0 & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT.into());
    }
    let follow = flags.0 & AT_SYMLINK_NOFOLLOW == 0;
    let file = crate::fs::open_executable_at(task, directory, &path, follow)?;
    let name = if directory == Fd::CWD || path.starts_with(b"/") {
        ProgramName { path: path.to_vec(), base: None, inaccessible: false }
    } else {
        // The program is known by its descriptor, which its interpreter cannot use if it is closed by then.
        let base = match &file.place {
            Place::Path(place) => place.dentry.name().into_vec(),
            Place::Anonymous { name, .. } => {
                let name = name.strip_suffix(" (deleted)").unwrap_or(name);
                name.strip_prefix('/').unwrap_or(name).as_bytes().to_vec()
            }
        };
        let mut shown = format!("/dev/fd/{}", directory.0).into_bytes();
        if !path.is_empty() {
            shown.push(b'/');
            shown.extend_from_slice(&path);
        }
        ProgramName { path: shown, base: Some(base), inaccessible: task.files().close_on_exec(directory)? }
    };
    run(task, file, name, argv, envp)
}

fn run(
    task: &CurrentTask,
    file: Arc<File>,
    name: ProgramName,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
) -> SyscallResult<()> {
    let mut arguments = read_strings(task, argv)?;
    let environment = read_strings(task, envp)?;
    if arguments.is_empty() {
        arguments.push(Vec::new());
    }
    task.exec(Program { file, name, arguments, environment })
}

/// `getpgid(2)`.
pub fn getpgid(task: &CurrentTask, pid: Pid) -> SysResult<Pid> {
    let pid = if pid == 0 { task.group.pid } else { task.pid_of(pid)? };
    let group = task.kernel.tasks.with(|tree| tree.process(pid).map(|process| process.process_group));
    Ok(task.number_of(group.ok_or(Errno::ESRCH)?))
}

/// `getpgrp(2)`.
pub fn getpgrp(task: &CurrentTask) -> SysResult<Pid> {
    getpgid(task, 0)
}

/// `getsid(2)`.
pub fn getsid(task: &CurrentTask, pid: Pid) -> SysResult<Pid> {
    let pid = if pid == 0 { task.group.pid } else { task.pid_of(pid)? };
    let session = task.kernel.tasks.with(|tree| tree.process(pid).map(|process| process.session));
    Ok(task.number_of(session.ok_or(Errno::ESRCH)?))
}

/// `setpgid(2)`.
pub fn setpgid(task: &CurrentTask, pid: Pid, process_group: Pid) -> SysResult<()> {
    let own = task.group.pid;
    if process_group < 0 {
        return Err(Errno::EINVAL);
    }
    let pid = if pid == 0 { own } else { task.pid_of(pid)? };
    // A number that stands for nothing is no group of the session.
    let process_group = if process_group == 0 { pid } else { task.pid_of(process_group).unwrap_or(0) };
    task.kernel.tasks.with(|tree| {
        let session = tree.process(own).map(|process| process.session);
        let target = tree.process(pid).filter(|process| process.zombie.is_none()).ok_or(Errno::ESRCH)?;
        if pid != own {
            if target.parent != own {
                return Err(Errno::ESRCH);
            }
            if Some(target.session) != session {
                return Err(Errno::EPERM);
            }
            if target.executed {
                return Err(Errno::EACCES);
            }
        }
        if target.session == pid {
            return Err(Errno::EPERM);
        }
        let exists = tree.processes().any(|p| p.process_group == process_group && Some(p.session) == session);
        if process_group != pid && !exists {
            return Err(Errno::EPERM);
        }
        tree.set_process_group(pid, process_group);
        Ok(())
    })
}

/// `setsid(2)`.
pub fn setsid(task: &CurrentTask) -> SysResult<Pid> {
    let own = task.group.pid;
    task.kernel.tasks.with(|tree| {
        if tree.processes().any(|process| process.process_group == own) {
            return Err(Errno::EPERM);
        }
        tree.set_session(own);
        *task.group.terminal.lock() = None;
        Ok(task.group.number)
    })
}

/// `getuid(2)`.
pub fn getuid(task: &CurrentTask) -> SysResult<u32> {
    let credentials = task.credentials();
    Ok(credentials.shown_uid(credentials.uid))
}

/// `geteuid(2)`.
pub fn geteuid(task: &CurrentTask) -> SysResult<u32> {
    let credentials = task.credentials();
    Ok(credentials.shown_uid(credentials.effective_uid))
}

/// `getgid(2)`.
pub fn getgid(task: &CurrentTask) -> SysResult<u32> {
    let credentials = task.credentials();
    Ok(credentials.shown_gid(credentials.gid))
}

/// `getegid(2)`.
pub fn getegid(task: &CurrentTask) -> SysResult<u32> {
    let credentials = task.credentials();
    Ok(credentials.shown_gid(credentials.effective_gid))
}

/// `EPERM` unless the task may see and change the limits of `target`.
fn check_limits_of(task: &CurrentTask, target: &super::Task) -> SysResult<()> {
    let (own, other) = (task.credentials(), target.credentials());
    let same_user = [other.uid, other.effective_uid, other.saved_uid].iter().all(|uid| *uid == own.uid);
    let same_group = [other.gid, other.effective_gid, other.saved_gid].iter().all(|gid| *gid == own.gid);
    let same_process = std::sync::Arc::ptr_eq(&task.group, &target.group);
    let allowed =
        same_process || (same_user && same_group) || own.has(super::credentials::Capability::SYS_RESOURCE);
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// `prlimit64(2)`.
pub fn prlimit64(
    task: &CurrentTask,
    pid: Pid,
    resource: u32,
    new: UserPtr<Limit>,
    old: UserPtr<Limit>,
) -> SyscallResult<()> {
    let resource = Resource::from_raw(resource).ok_or(Errno::EINVAL)?;
    let group = match pid {
        0 => std::sync::Arc::clone(&task.group),
        number => {
            let target = task.find_task(number)?;
            check_limits_of(task, &target)?;
            std::sync::Arc::clone(&target.group)
        }
    };
    let new = new.non_null().map(|new| task.read_object(new)).transpose()?;
    let before = {
        let mut limits = group.limits.lock();
        let before = limits.get(resource);
        if let Some(mut new) = new {
            if new.current > new.maximum {
                return Err(Errno::EINVAL.into());
            }
            if resource == Resource::OpenFiles && new.maximum > crate::fs::fd::MAX_DESCRIPTORS {
                return Err(Errno::EPERM.into());
            }
            let privileged = task.credentials().has(super::credentials::Capability::SYS_RESOURCE);
            if new.maximum > before.maximum && !privileged {
                return Err(Errno::EPERM.into());
            }
            // No time at all cannot be counted: it is a second, as in Linux.
            if resource == Resource::Cpu && new.current == 0 {
                new.current = 1;
            }
            limits.set(resource, new);
        }
        before
    };
    match resource {
        Resource::Cpu if new.is_some() => group.look_at_cpu_time(&task.kernel),
        Resource::FileSize if new.is_some() => crate::fs::direct::reconsider(&task.kernel, &group),
        _ => {}
    }
    if let Some(old) = old.non_null() {
        task.write_object(old, &before)?;
    }
    Ok(())
}

/// `getrlimit(2)`.
pub fn getrlimit(task: &CurrentTask, resource: u32, limit: UserPtr<Limit>) -> SyscallResult<()> {
    prlimit64(task, 0, resource, UserPtr::new(0), limit)
}

/// `setrlimit(2)`.
pub fn setrlimit(task: &CurrentTask, resource: u32, limit: UserPtr<Limit>) -> SyscallResult<()> {
    prlimit64(task, 0, resource, limit, UserPtr::new(0))
}

/// `struct utsname`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UtsName([[u8; 65]; 6]);

/// `uname(2)`.
pub fn uname(task: &CurrentTask, buffer: UserPtr<UtsName>) -> SysResult<()> {
    let uts = task.namespaces().uts.names();
    let mut name = UtsName([[0; 65]; 6]);
    // What setarch(8) asks for.
    const PER_LINUX32: u32 = 8;
    let old = task.personality.load(Ordering::Relaxed) & 0xff == PER_LINUX32;
    let machine: &[u8] = if old { b"i686" } else { b"x86_64" };
    let fields: [&[u8]; 6] =
        [b"Linux", &uts.hostname, crate::Kernel::RELEASE.as_bytes(), b"#1 SMP", machine, &uts.domainname];
    for (field, value) in name.0.iter_mut().zip(fields) {
        let length = value.len().min(64);
        field[..length].copy_from_slice(&value[..length]);
    }
    task.write_object(buffer, &name)
}

/// `getrandom(2)`.
pub fn getrandom(task: &CurrentTask, buffer: u64, count: usize, flags: Flags) -> SyscallResult<usize> {
    if flags.0 & !7 != 0 || flags.0 & 6 == 6 {
        return Err(Errno::EINVAL.into());
    }
    let mut to = task.writer(buffer, count.min(crate::user::MAX_RW_COUNT))?;
    Ok(to.fill(|chunk| {
        let mut done = 0;
        while done < chunk.len() {
            done += rustix::rand::getrandom(&mut chunk[done..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(done)
    })?)
}

/// `sched_yield(2)`.
pub fn sched_yield(_task: &CurrentTask) -> SysResult<()> {
    std::thread::yield_now();
    Ok(())
}
