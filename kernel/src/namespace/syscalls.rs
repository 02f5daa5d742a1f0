//! `unshare(2)`, `setns(2)`, and what `clone(2)` does about namespaces.

use std::sync::Arc;

use abi::{Errno, SysResult};

use super::file::{AnyNamespace, of_file};
use super::{CgroupNamespace, IpcNamespace, Namespaces, NetworkNamespace, PidNamespace, UtsNamespace};
use crate::error::SyscallResult;
use crate::fs::FsContext;
use crate::fs::path::FsState;
use crate::syscalls::Fd;
use crate::task::CurrentTask;
use crate::task::clone::CloneFlags;
use crate::task::credentials::Capability;

impl CurrentTask {
    /// The namespaces of a task that leaves those behind that `flags` name: `EPERM` without the right to.
    pub(crate) fn namespaces_for(&self, flags: CloneFlags) -> SysResult<Arc<Namespaces>> {
        let before = self.namespaces();
        if !flags.intersects(CloneFlags::NAMESPACES) {
            return Ok(before);
        }
        if flags.contains(CloneFlags::NEWUSER) || !self.credentials().has(Capability::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let mut after = (*before).clone();
        if flags.contains(CloneFlags::NEWUTS) {
            after.uts = UtsNamespace::new(before.uts.names());
        }
        if flags.contains(CloneFlags::NEWIPC) {
            after.ipc = IpcNamespace::new();
        }
        if flags.contains(CloneFlags::NEWPID) {
            after.pid_for_children = PidNamespace::below(&before.pid_for_children)?;
        }
        if flags.contains(CloneFlags::NEWNET) {
            after.network = NetworkNamespace::new();
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            after.cgroup = CgroupNamespace::new();
        }
        Ok(Arc::new(after))
    }

    /// Root, working directory and umask of a task, in a copy of the tree of mounts if `flags` ask for one.
    pub(crate) fn fs_state_for(&self, flags: CloneFlags) -> FsState {
        let state = self.fs().get();
        if !flags.contains(CloneFlags::NEWNS) {
            return state;
        }
        let (namespace, find) = state.namespace.copy(false);
        FsState { namespace, root: find(&state.root), cwd: find(&state.cwd), umask: state.umask }
    }
}

/// `unshare(2)`.
pub fn unshare(task: &CurrentTask, mut flags: CloneFlags) -> SyscallResult<()> {
    let own = CloneFlags::FILES | CloneFlags::FS | CloneFlags::SYSVSEM;
    let threads = CloneFlags::THREAD | CloneFlags::SIGHAND | CloneFlags::VM;
    if !(own | threads | CloneFlags::NAMESPACES).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    if flags.contains(CloneFlags::NEWUSER) {
        flags |= CloneFlags::THREAD | CloneFlags::FS;
    }
    if flags.contains(CloneFlags::NEWNS) {
        flags |= CloneFlags::FS;
    }
    if flags.intersects(threads) && task.kernel.tasks.tasks_of(task.group.pid).len() > 1 {
        return Err(Errno::EINVAL.into());
    }
    let namespaces = task.namespaces_for(flags)?;
    if flags.contains(CloneFlags::FILES) {
        task.set_files(Some(Arc::new(task.files().copy())));
    }
    if flags.contains(CloneFlags::FS) {
        task.set_fs(Arc::new(FsContext::new(task.fs_state_for(flags))));
    }
    task.set_namespaces(namespaces);
    Ok(())
}

/// `setns(2)`.
pub fn setns(task: &CurrentTask, fd: Fd, flags: CloneFlags) -> SyscallResult<()> {
    let file = task.file(fd)?;
    let namespace = of_file(&file).ok_or(Errno::EINVAL)?;
    if !flags.is_empty() && flags != namespace.kind().flag() {
        return Err(Errno::EINVAL.into());
    }
    let credentials = task.credentials();
    if !credentials.has(Capability::SYS_ADMIN) {
        return Err(Errno::EPERM.into());
    }
    let mut after = (*task.namespaces()).clone();
    match namespace {
        AnyNamespace::Uts(uts) => after.uts = uts,
        AnyNamespace::Ipc(ipc) => after.ipc = ipc,
        AnyNamespace::Network(network) => after.network = network,
        AnyNamespace::Cgroup(cgroup) => after.cgroup = cgroup,
        AnyNamespace::Pid(pids) => {
            // Only downwards, so that no process can be seen from a namespace that its parent is not in.
            if !task.group.pid_namespace.sees(&pids) {
                return Err(Errno::EINVAL.into());
            }
            after.pid_for_children = pids;
        }
        AnyNamespace::Mount(mounts) => {
            if !credentials.has(Capability::SYS_CHROOT) {
                return Err(Errno::EPERM.into());
            }
            let context = task.fs();
            // One reference is the task's, one is ours.
            if Arc::strong_count(&context) > 2 {
                return Err(Errno::EINVAL.into());
            }
            let root = mounts.root();
            context.update(|state| {
                let umask = state.umask;
                *state = FsState { namespace: mounts, root: root.clone(), cwd: root, umask };
            });
        }
    }
    task.set_namespaces(Arc::new(after));
    Ok(())
}
