//! New tasks: `fork(2)`, `vfork(2)`, `clone(2)`, `clone3(2)`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::signal::Signal;
use abi::{Errno, SysResult};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::pidfd::PidFd;
use super::table::Process;
use super::{CurrentTask, NewTask, Peak, Pid, Task, ThreadGroup};
use crate::error::SyscallResult;
use crate::fs::FsContext;
use crate::ptrace::TraceEvent;
use crate::syscalls::Fd;
use crate::syscalls::arguments::flag_argument;
use crate::user::UserPtr;
use crate::wait::{Deadline, Events};

bitflags! {
    /// Flags of `clone(2)`, whose names they have; the low byte of the argument is a signal.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CloneFlags: u64 {
        /// `CLONE_VM`
        const VM = 0x100;
        /// `CLONE_FS`
        const FS = 0x200;
        /// `CLONE_FILES`
        const FILES = 0x400;
        /// `CLONE_SIGHAND`
        const SIGHAND = 0x800;
        /// `CLONE_PIDFD`
        const PIDFD = 0x1000;
        /// `CLONE_PTRACE`
        const PTRACE = 0x2000;
        /// `CLONE_VFORK`
        const VFORK = 0x4000;
        /// `CLONE_PARENT`
        const PARENT = 0x8000;
        /// `CLONE_THREAD`
        const THREAD = 0x1_0000;
        /// `CLONE_NEWNS`
        const NEWNS = 0x2_0000;
        /// `CLONE_SYSVSEM`
        const SYSVSEM = 0x4_0000;
        /// `CLONE_SETTLS`
        const SETTLS = 0x8_0000;
        /// `CLONE_PARENT_SETTID`
        const PARENT_SETTID = 0x10_0000;
        /// `CLONE_CHILD_CLEARTID`
        const CHILD_CLEARTID = 0x20_0000;
        /// `CLONE_DETACHED`
        const DETACHED = 0x40_0000;
        /// `CLONE_UNTRACED`
        const UNTRACED = 0x80_0000;
        /// `CLONE_CHILD_SETTID`
        const CHILD_SETTID = 0x100_0000;
        /// `CLONE_NEWCGROUP`
        const NEWCGROUP = 0x200_0000;
        /// `CLONE_NEWUTS`
        const NEWUTS = 0x400_0000;
        /// `CLONE_NEWIPC`
        const NEWIPC = 0x800_0000;
        /// `CLONE_NEWUSER`
        const NEWUSER = 0x1000_0000;
        /// `CLONE_NEWPID`
        const NEWPID = 0x2000_0000;
        /// `CLONE_NEWNET`
        const NEWNET = 0x4000_0000;
        /// `CLONE_IO`
        const IO = 0x8000_0000;
        /// `CLONE_CLEAR_SIGHAND`
        const CLEAR_SIGHAND = 0x1_0000_0000;
        /// `CLONE_INTO_CGROUP`
        const INTO_CGROUP = 0x2_0000_0000;
    }
}
flag_argument!(CloneFlags);

impl CloneFlags {
    /// Flags that ask for namespaces of the new task's own.
    pub const NAMESPACES: CloneFlags = CloneFlags::NEWNS
        .union(CloneFlags::NEWCGROUP)
        .union(CloneFlags::NEWUTS)
        .union(CloneFlags::NEWIPC)
        .union(CloneFlags::NEWUSER)
        .union(CloneFlags::NEWPID)
        .union(CloneFlags::NEWNET);
}

/// `struct clone_args`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are those of clone(2)")]
pub struct CloneArguments {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// A pid for a task that is being made; given back when dropped, unless [`ReservedPid::keep`] hands it over.
struct ReservedPid<'a> {
    kernel: &'a crate::Kernel,
    pid: Pid,
}

impl ReservedPid<'_> {
    /// The task is in the process tree, which gives the pid back.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for ReservedPid<'_> {
    fn drop(&mut self) {
        self.kernel.tasks.with(|tree| tree.release_pid(self.pid));
    }
}

impl CurrentTask {
    /// Makes a new task, starts it, and returns its id.
    pub fn clone_task(&self, arguments: &CloneArguments) -> SyscallResult<Pid> {
        let flags = CloneFlags::from_bits_retain(arguments.flags);
        let has = |flag| flags.contains(flag);
        let exit_signal = match arguments.exit_signal {
            0 => None,
            number => Some(i32::try_from(number).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?),
        };
        if (has(CloneFlags::THREAD) && !has(CloneFlags::SIGHAND))
            || (has(CloneFlags::SIGHAND) && !has(CloneFlags::VM))
            || (has(CloneFlags::SIGHAND) && has(CloneFlags::CLEAR_SIGHAND))
            || (has(CloneFlags::FS) && has(CloneFlags::NEWNS))
        {
            return Err(Errno::EINVAL.into());
        }
        if has(CloneFlags::FS) && has(CloneFlags::NEWUSER)
            || has(CloneFlags::THREAD) && flags.intersects(CloneFlags::NEWUSER | CloneFlags::NEWPID)
            || has(CloneFlags::NEWIPC) && has(CloneFlags::SYSVSEM)
        {
            return Err(Errno::EINVAL.into());
        }
        let own_pids = &self.namespaces().pid_for_children;
        if has(CloneFlags::THREAD) && !Arc::ptr_eq(own_pids, &self.group.pid_namespace) {
            return Err(Errno::EINVAL.into());
        }
        // There is one cgroup.
        if has(CloneFlags::INTO_CGROUP) {
            return Err(Errno::EPERM.into());
        }
        let after = self.unshared(flags)?;
        let namespaces = after.namespaces;
        if arguments.set_tid_size != 0 {
            return Err(Errno::EPERM.into());
        }
        self.check_process_limit()?;
        let charge = self.group.container.charge_task()?;

        let parent_memory = self.mm()?;
        let (memory, mut context) = if has(CloneFlags::VM) {
            (parent_memory, self.context.borrow_mut().spawn()?)
        } else {
            parent_memory.fork(&mut **self.context.borrow_mut())?
        };
        let registers = context.registers_mut();
        registers.rax = 0;
        registers.orig_rax = u64::MAX;
        if arguments.stack != 0 {
            registers.rsp = arguments.stack.wrapping_add(arguments.stack_size);
        }
        if has(CloneFlags::SETTLS) {
            registers.fs_base = arguments.tls;
        }

        // A thread is numbered where its process is.
        let pids =
            if has(CloneFlags::THREAD) { &self.group.pid_namespace } else { &namespaces.pid_for_children };
        let tid = self.kernel.tasks.with(|tree| tree.allocate_pid(pids))?;
        let reserved = ReservedPid { kernel: &self.kernel, pid: tid };
        self.learn_default_actions();
        if has(CloneFlags::SIGHAND) {
            self.group.signals.share();
            self.offer_default_actions();
        }
        let group = if has(CloneFlags::THREAD) {
            Arc::clone(&self.group)
        } else {
            let signals = crate::signal::GroupSignals::for_clone(&self.group.signals, flags);
            let limits = self.group.limits.lock().clone();
            let group = ThreadGroup::new(tid, pids, &self.group.container, signals, limits);
            group.oom_score_adj.store(self.group.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
            *group.terminal.lock() = self.group.terminal.lock().clone();
            group
        };
        let files = if has(CloneFlags::FILES) { self.files() } else { Arc::new(self.files().copy()) };
        if !has(CloneFlags::VM) {
            let own = Some(&*files).filter(|_| !has(CloneFlags::FILES));
            crate::fs::direct::keep_in_copy(&mut *context, own);
        }
        let fs = if has(CloneFlags::FS) {
            self.fs()
        } else {
            {
                let state = self.fs_state_for(flags, &after.credentials.user_namespace);
                Arc::new(FsContext::new(state))
            }
        };
        let child = Task::create(
            &self.kernel,
            NewTask {
                tid,
                group,
                comm: self.comm_bytes(),
                files,
                fs,
                memory: Arc::clone(&memory),
                credentials: after.credentials,
                signals: crate::signal::TaskSignals::for_clone(self, flags),
                seccomp: self.seccomp.inherit(),
                scheduling: self.scheduling.inherit(),
                namespaces: Arc::clone(&namespaces),
            },
            context,
        );
        child.personality.store(self.personality.load(Ordering::Relaxed), Ordering::Relaxed);
        *child.memory_policy.lock() = *self.memory_policy.lock();
        if has(CloneFlags::SYSVSEM) {
            child.sem_undo.lock().clone_from(&self.sem_undo.lock());
        }
        if has(CloneFlags::CHILD_CLEARTID) {
            child.clear_child_tid.store(arguments.child_tid, Ordering::Relaxed);
        }
        if has(CloneFlags::CHILD_SETTID) {
            // An error is the child's own business, as in Linux.
            memory.space().write(arguments.child_tid, &child.number().to_ne_bytes());
        }
        // What the caller calls it.
        let number = self.number_of(tid);
        if has(CloneFlags::PARENT_SETTID) {
            self.write_bytes(arguments.parent_tid, &number.to_ne_bytes())?;
        }
        let pidfd =
            has(CloneFlags::PIDFD).then(|| self.install_pidfd(&child, arguments.pidfd)).transpose()?;
        let event = self.clone_event(flags, exit_signal);
        let added = self.add_to_tree(&child, flags, exit_signal);
        if let Err(error) = added {
            pidfd.map(|fd| self.files().remove(fd));
            return Err(error.into());
        }
        reserved.keep();
        charge.keep();
        let child_task = Arc::clone(&child.task);
        if event.is_some() || has(CloneFlags::PTRACE) {
            self.share_tracer(&child_task);
        }
        if let Err(error) = child.start() {
            self.kernel.tasks.with(|tree| {
                if tree.remove_task(&child_task) {
                    tree.reap(tid);
                }
            });
            pidfd.map(|fd| self.files().remove(fd));
            return Err(error.into());
        }
        if child_task.group.limit(super::limits::Resource::Cpu) != super::limits::INFINITY {
            child_task.group.look_at_cpu_time(&self.kernel);
        }
        let seen = self.ptrace.tracer().map_or(0, |tracer| tracer.group.pid_namespace.number(tid));
        if let Some(event) = event {
            self.trace_event(event, seen.unsigned_abs().into());
        }
        if has(CloneFlags::VFORK) {
            self.wait_for_vfork(&child_task);
            self.trace_event(TraceEvent::VforkDone, seen.unsigned_abs().into());
        }
        Ok(number)
    }

    /// Makes a descriptor of the child, as `CLONE_PIDFD` asks for, and writes its number to `place`.
    fn install_pidfd(&self, child: &CurrentTask, place: u64) -> SysResult<Fd> {
        let fd = self.install(PidFd::of_child(&child.task), true)?;
        let written = self.write_bytes(place, &fd.0.to_ne_bytes());
        written.inspect_err(|_| drop(self.files().remove(fd)))?;
        Ok(fd)
    }

    /// Puts a new task into the tree: into its group, or as a new process.
    fn add_to_tree(
        &self,
        child: &CurrentTask,
        flags: CloneFlags,
        exit_signal: Option<Signal>,
    ) -> SysResult<()> {
        self.kernel.tasks.with(|tree| {
            if flags.contains(CloneFlags::THREAD) {
                // A group that is ending gets no new threads.
                if self.is_exiting() {
                    return Err(Errno::EAGAIN);
                }
                tree.add_task(&child.task);
                return Ok(());
            }
            if child.group.pid_namespace.is_closed() || self.group.container.is_ending() {
                return Err(Errno::ENOMEM);
            }
            let own = tree.process(self.group.pid).ok_or(Errno::EAGAIN)?;
            let (process_group, session, grandparent) = (own.process_group, own.session, own.parent);
            let own_signal = own.exit_signal;
            let sibling = flags.contains(CloneFlags::PARENT) && grandparent != 0;
            let process = Process {
                group: Arc::clone(&child.group),
                parent: if sibling { grandparent } else { self.group.pid },
                parent_thread: if sibling { own.parent_thread } else { self.tid() },
                children: Vec::new(),
                process_group,
                session,
                tasks: Vec::new(),
                exit_signal: if sibling { own_signal } else { exit_signal },
                zombie: None,
                news: None,
                telling: false,
                subreaper: false,
                executed: false,
                children_time: (Duration::ZERO, Duration::ZERO),
                children_peak: Peak::default(),
            };
            tree.add_process(&child.task, process);
            Ok(())
        })
    }

    /// Waits until the child has another address space or has ended. Only a deadly signal ends the wait.
    fn wait_for_vfork(&self, child: &Task) {
        let done = || {
            if child.vfork_done.load(Ordering::SeqCst) { Ok(()) } else { Err(Errno::EAGAIN.into()) }
        };
        while self.block_on(&child.vfork_queue, Events::IN, Deadline::Never, done).is_err() {
            if self.is_exiting() {
                return;
            }
            // Another signal is pending: it is handled when the child is done.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells who waits in `vfork(2)` that the address space is its own again.
    pub(super) fn finish_vfork(&self) {
        self.vfork_done.store(true, Ordering::SeqCst);
        self.vfork_queue.wake(Events::IN);
    }

    /// `EAGAIN` if the user may have no more tasks.
    fn check_process_limit(&self) -> SysResult<()> {
        let limit = self.group.limit(super::limits::Resource::Processes);
        let credentials = self.credentials();
        let exempt = credentials.has(super::credentials::Capability::SYS_RESOURCE)
            || credentials.has(super::credentials::Capability::SYS_ADMIN)
            || credentials.uid == 0;
        if limit == super::limits::INFINITY || exempt {
            return Ok(());
        }
        let own =
            self.kernel.tasks.all().iter().filter(|task| task.credentials().uid == credentials.uid).count();
        if own as u64 >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// Has a kernel thread drive the task.
    pub fn start(self) -> SysResult<()> {
        super::servers::serve(self)
    }
}

/// `fork(2)`.
pub fn fork(task: &CurrentTask) -> SyscallResult<Pid> {
    task.clone_task(&CloneArguments { exit_signal: 17, ..CloneArguments::default() })
}

/// `vfork(2)`.
pub fn vfork(task: &CurrentTask) -> SyscallResult<Pid> {
    let flags = CloneFlags::VM | CloneFlags::VFORK;
    task.clone_task(&CloneArguments { flags: flags.bits(), exit_signal: 17, ..CloneArguments::default() })
}

/// `clone(2)`.
pub fn clone(
    task: &CurrentTask,
    flags: CloneFlags,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> SyscallResult<Pid> {
    let old = CloneFlags::PARENT_SETTID | CloneFlags::DETACHED;
    if flags.contains(CloneFlags::PIDFD) && flags.intersects(old) {
        return Err(Errno::EINVAL.into());
    }
    // The old call's signal shares the word with the flags, which are 32 bits there; the pidfd goes where the parent's
    // tid would.
    let raw = flags.bits() & 0xffff_ffff;
    task.clone_task(&CloneArguments {
        flags: raw & !0xff,
        exit_signal: raw & 0xff,
        stack,
        parent_tid,
        pidfd: parent_tid,
        child_tid,
        tls,
        ..CloneArguments::default()
    })
}

/// `clone3(2)`.
pub fn clone3(task: &CurrentTask, arguments: UserPtr<CloneArguments>, size: usize) -> SyscallResult<Pid> {
    const MINIMUM: usize = 64;
    if size < MINIMUM {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; size.max(size_of::<CloneArguments>())];
    task.read_bytes(arguments.address(), &mut bytes[..size])?;
    let (known, rest) = bytes.split_at(size_of::<CloneArguments>());
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let arguments = CloneArguments::read_from_bytes(known).map_err(|_| Errno::EINVAL)?;
    let unknown = arguments.flags & !(CloneFlags::all() - CloneFlags::DETACHED).bits();
    if unknown != 0 || arguments.flags & 0xff != 0 || arguments.exit_signal > 64 {
        return Err(Errno::EINVAL.into());
    }
    if (arguments.stack == 0) != (arguments.stack_size == 0) {
        return Err(Errno::EINVAL.into());
    }
    let both = CloneFlags::PIDFD.bits() | CloneFlags::PARENT_SETTID.bits();
    if arguments.flags & both == both && arguments.pidfd == arguments.parent_tid {
        return Err(Errno::EINVAL.into());
    }
    task.clone_task(&arguments)
}
