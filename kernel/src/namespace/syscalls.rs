//! `unshare(2)`, `setns(2)`, and what `clone(2)` does about namespaces.

use std::sync::Arc;

use abi::{Errno, SysResult};

use super::file::{AnyNamespace, of_file};
use super::{
    CgroupNamespace, IpcNamespace, Namespaces, NetworkNamespace, PidNamespace, UserNamespace, UtsNamespace,
};
use crate::error::SyscallResult;
use crate::fs::FsContext;
use crate::fs::path::FsState;
use crate::syscalls::Fd;
use crate::task::clone::CloneFlags;
use crate::task::credentials::Capability;
use crate::task::{Credentials, CurrentTask};

/// What a task is to have after it has left namespaces behind.
pub(crate) struct Unshared {
    /// The namespaces.
    pub namespaces: Arc<Namespaces>,
    /// The identity, which is another in a user namespace of its own.
    pub credentials: Arc<Credentials>,
}

impl CurrentTask {
    /// The namespaces of a task that leaves those behind that `flags` name: `EPERM` without the right to.
    pub(crate) fn unshared(&self, flags: CloneFlags) -> SysResult<Unshared> {
        let (before, mut credentials) = (self.namespaces(), self.credentials());
        if !flags.intersects(CloneFlags::NAMESPACES) {
            return Ok(Unshared { namespaces: before, credentials });
        }
        if flags.contains(CloneFlags::NEWUSER) {
            self.check_not_in_chroot()?;
            credentials = Arc::new(UserNamespace::enter_new(&credentials)?);
        }
        let others = flags & (CloneFlags::NAMESPACES - CloneFlags::NEWUSER);
        if !others.is_empty() && !credentials.has_own(Capability::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let owner = &credentials.user_namespace;
        let mut after = (*before).clone();
        if flags.contains(CloneFlags::NEWUTS) {
            after.uts = UtsNamespace::new(before.uts.names(), owner);
        }
        if flags.contains(CloneFlags::NEWIPC) {
            after.ipc = IpcNamespace::new(owner);
        }
        if flags.contains(CloneFlags::NEWPID) {
            after.pid_for_children = PidNamespace::below(&before.pid_for_children, owner)?;
        }
        if flags.contains(CloneFlags::NEWNET) {
            after.network = NetworkNamespace::new(owner);
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            after.cgroup = CgroupNamespace::new(owner);
        }
        Ok(Unshared { namespaces: Arc::new(after), credentials })
    }

    /// `EPERM` if the root directory is not that of the tree of mounts: a new user namespace would be a way out.
    fn check_not_in_chroot(&self) -> SysResult<()> {
        let state = self.fs_state();
        let root = &state.root;
        let whole = Arc::ptr_eq(&root.dentry, &root.mount.root)
            && root.mount.parent().is_none()
            && state.namespace.contains(&root.mount);
        if whole { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Root, working directory and umask of a task, in a copy of the tree of mounts if `flags` ask for one.
    pub(crate) fn fs_state_for(&self, flags: CloneFlags, owner: &Arc<UserNamespace>) -> FsState {
        let state = self.fs_state();
        if !flags.contains(CloneFlags::NEWNS) {
            return FsState::clone(&state);
        }
        let (namespace, find) = state.namespace.copy(owner);
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
    let after = task.unshared(flags)?;
    if flags.contains(CloneFlags::FILES) {
        task.set_files(Some(Arc::new(task.files().copy())));
    }
    if flags.intersects(CloneFlags::SYSVSEM | CloneFlags::NEWIPC) {
        crate::ipc::sysv::sem::undo(task, Some(std::sync::Arc::default()));
    }
    if flags.contains(CloneFlags::FS) {
        let state = task.fs_state_for(flags, &after.credentials.user_namespace);
        task.set_fs(Arc::new(FsContext::new(state)));
    }
    if flags.contains(CloneFlags::NEWUSER) {
        task.set_credentials((*after.credentials).clone());
    }
    task.set_namespaces(after.namespaces);
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
    if let AnyNamespace::User(user) = &namespace {
        return enter_user_namespace(task, user);
    }
    // Both over the namespace that is entered and in the caller's own.
    if !credentials.has_in(namespace.owner(), Capability::SYS_ADMIN)
        || !credentials.has_own(Capability::SYS_ADMIN)
    {
        return Err(Errno::EPERM.into());
    }
    let mut after = (*task.namespaces()).clone();
    match namespace {
        AnyNamespace::Uts(uts) => after.uts = uts,
        AnyNamespace::Ipc(ipc) => after.ipc = ipc,
        AnyNamespace::Network(network) => after.network = network,
        AnyNamespace::Cgroup(cgroup) => after.cgroup = cgroup,
        AnyNamespace::User(_) => return Err(Errno::EINVAL.into()),
        AnyNamespace::Pid(pids) => {
            // Only downwards, so that no process can be seen from a namespace that its parent is not in.
            if !task.group.pid_namespace.sees(&pids) {
                return Err(Errno::EINVAL.into());
            }
            after.pid_for_children = pids;
        }
        AnyNamespace::Mount(mounts) => {
            if !credentials.has_own(Capability::SYS_CHROOT) {
                return Err(Errno::EPERM.into());
            }
            let context = own_context(task)?;
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

/// The task's root and working directory: `EINVAL` if it shares them.
fn own_context(task: &CurrentTask) -> SysResult<Arc<FsContext>> {
    let context = task.fs();
    if task.shares_fs(&context) { Err(Errno::EINVAL) } else { Ok(context) }
}

fn enter_user_namespace(task: &CurrentTask, user: &Arc<UserNamespace>) -> SyscallResult<()> {
    let credentials = task.credentials();
    if *credentials.user_namespace == **user || task.kernel.tasks.tasks_of(task.group.pid).len() > 1 {
        return Err(Errno::EINVAL.into());
    }
    own_context(task)?;
    if !credentials.has_in(user, Capability::SYS_ADMIN) {
        return Err(Errno::EPERM.into());
    }
    task.set_credentials(user.enter(&credentials));
    Ok(())
}
