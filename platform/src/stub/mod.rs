//! Guest code in host processes.
//!
//! A *stub process* is a guest address space; its threads are guest threads. Every system call of guest code traps into
//! a signal handler there, which reports to the kernel thread that serves it through a *slot* of shared memory and
//! carries out the kernel's commands. `docs/architecture.md` tells the whole story; in short:
//!
//! - [`layout`]: the addresses and the slot's fields; [`text`]: the code in the stub; [`filter`]: what it may ask the
//!   host for; [`frame`]: registers in signal frames.
//! - [`patch`]: making system calls that do not trap; [`resident`]: files that the stub reads at the kernel's word;
//!   [`direct`]: open files that guest threads use without the kernel.
//! - [`zygote`]: the process that stubs are forked from; [`space`]: a stub process; [`context`]: a guest thread;
//!   [`slot`] and [`spin`]: taking turns; [`notify`]: answering what the filter asks; [`reaper`]: the end of processes.
//!
//! # Construction
//! Two steps: [`Zygote::spawn`] while the process may still fork and prepare freely, [`StubPlatform::new`] any time
//! after (it starts two threads). From then on the backend makes no host call that is not in [`HOST_SYSCALLS`].
//!
//! # Lock order
//! A pool's mother, then the zygote, then what is preloaded, then a space's call sites, then its files, then its resident and
//! its direct files, then the right to make a process, then notifications, then the space's runners and threads, then its
//! `unreaped`. The first seven are held while a stub is waited for, the others never.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use abi::{Errno, SysResult};
use host::rustix::process::{
    Pid, PidfdFlags, Resource, WaitId, WaitIdOptions, getrlimit, pidfd_open, waitid,
};
use parking_lot::{Condvar, Mutex};

mod context;
mod direct;
mod filter;
mod frame;
mod layout;
mod memory;
mod movable;
mod notify;
mod patch;
mod preloaded;
mod reaper;
mod resident;
mod slot;
mod space;
mod spin;
mod text;
mod zygote;

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(test)]
mod direct_tests;
#[cfg(test)]
mod futex_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod patch_tests;
#[cfg(test)]
mod site_tests;
#[cfg(test)]
mod tests;

pub use zygote::{HostVdso, Zygote};

/// Bytes of code that a [`crate::CallSite`] is recognised by.
pub(crate) const SITE_SIZE: usize = patch::WINDOW;

use crate::{Context, Platform, Registers, Uses, Vdso};
use context::StubContext;
use frame::FpuFormat;
use layout::*;
use notify::Notifications;
use preloaded::Preloaded;
use reaper::Reaper;
use slot::{Gone, Slot};
use space::{Born, SlotMemory, Space, Thread};
use spin::Spinning;

/// The host system calls that this backend makes after construction, for the sandbox's own allow-list. Memory
/// allocation, locks and the clock functions of the C library come on top.
pub const HOST_SYSCALLS: &[i64] = &[
    libc::SYS_futex,             // taking turns with stubs, and locks
    libc::SYS_getcpu,            // where the vDSO does not answer
    libc::SYS_sched_getaffinity, // going to another processor, or to that of a stub
    libc::SYS_sched_setaffinity, // the same, or having a stub wake up on this one
    libc::SYS_tgkill,            // interrupts
    libc::SYS_tkill,             // a stub that makes calls nobody asked for
    libc::SYS_memfd_create,      // slots of a new process
    libc::SYS_ftruncate,         // the same
    libc::SYS_mmap,              // the same
    libc::SYS_munmap,            // the same
    libc::SYS_close,             // the same
    libc::SYS_ioctl,             // seccomp notifications, requests 0xc0502100, 0xc0182101, 0x40182103
    libc::SYS_poll,              // the same
    libc::SYS_ppoll,             // the same
    libc::SYS_pidfd_open,        // a new process
    libc::SYS_pidfd_send_signal, // the end of a process
    libc::SYS_waitid,            // the same
    libc::SYS_epoll_ctl,         // the same
    libc::SYS_epoll_wait,        // the same
    libc::SYS_epoll_pwait,       // the same
    libc::SYS_clock_nanosleep,   // the same, when somebody is just reading its memory
    libc::SYS_write,             // ending the reaper thread
    libc::SYS_process_vm_readv,  // guest memory
    libc::SYS_process_vm_writev, // guest memory
    libc::SYS_openat,            // memory usage, below `procfs`
    libc::SYS_read,              // the same
    libc::SYS_pread64,           // how many threads want to run; files that guests read
    libc::SYS_pwrite64,          // files that guests write
    libc::SYS_fstat,             // files that a stub is to read itself
    libc::SYS_fcntl,             // the same, F_GETFL
    libc::SYS_sched_yield,       // waiting for a guest's own call on a file
    libc::SYS_clock_gettime,     // processor time of a stub
    libc::SYS_membarrier,        // memory barriers of guests
];

/// The platform that runs guest code in host processes.
#[derive(Debug)]
pub struct StubPlatform {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

/// How many fresh address spaces are kept ready, so that `execve(2)` need not wait for one.
const POOL: usize = 2;

/// Address spaces that wait for a program.
#[derive(Debug, Default)]
struct Pool {
    /// What they are born with.
    preloaded: Arc<Preloaded>,
    /// What they are copied from, if not the zygote.
    mother: Option<Mother>,
    state: Mutex<PoolState>,
    /// Signalled when one is taken, and at the end.
    changed: Condvar,
}

/// An address space that never has a program: it is in the control groups that those copied from it are to be in. To move
/// each of them would take milliseconds.
#[derive(Debug)]
struct Mother {
    /// `cgroup.procs` of the groups.
    groups: Vec<OwnedFd>,
    context: Mutex<Option<StubContext>>,
}

impl Mother {
    /// A fresh address space in the groups.
    fn copy(&self, shared: &Arc<Shared>, preloaded: &Arc<Preloaded>) -> SysResult<StubContext> {
        let mut context = self.context.lock();
        // The host may have killed it for want of memory in its group.
        if context.as_ref().is_none_or(StubContext::is_dead) {
            let fresh = shared.create(None)?;
            // What those of the zygote's pool may see is not for others.
            fresh.close(&PRELOADED.collect::<Vec<_>>());
            preloaded.forget();
            for group in &self.groups {
                host::rustix::io::write(group, fresh.process_id().to_string().as_bytes())?;
            }
            *context = Some(fresh);
        }
        let mother = context.as_ref().ok_or(Errno::ESRCH)?;
        let state = preloaded.give(|file, number| mother.give_file(file, number));
        let copy = mother.copy()?;
        copy.born(Born { pool: Arc::clone(preloaded), files: state.given() });
        Ok(copy)
    }
}

#[derive(Debug, Default)]
struct PoolState {
    ready: Vec<StubContext>,
    /// Set when the platform is dropped.
    closed: bool,
}

/// What the platform and all its address spaces need.
#[derive(Debug)]
struct Shared {
    zygote: Mutex<Zygote>,
    notifications: Notifications,
    vdso: Option<Vdso>,
    fpu: FpuFormat,
    spinning: Spinning,
    procfs: Option<OwnedFd>,
    reaper: Reaper,
    /// Whether call sites are patched.
    patching: bool,
    /// Whether the host refuses no change of a mapping unless it runs out of memory.
    mapping_lasts: bool,
    /// What guests may do with files by themselves as far as the host's limits go.
    direct: Uses,
    counters: Counters,
}

/// How system calls have come.
#[derive(Debug, Default)]
struct Counters {
    trapped: AtomicU64,
    patched: AtomicU64,
    sites: AtomicU64,
}

/// How the system calls of a platform's guests have come so far. Guests that still run are not counted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls that the host has trapped.
    pub trapped: u64,
    /// Calls from patched sites; those that were answered on the spot are not among them.
    pub patched: u64,
    /// How many sites were patched, in all address spaces.
    pub sites: u64,
}

/// Whether code that makes many system calls is changed so that they come faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patching {
    /// All calls trap.
    Off,
    /// Where it is safe.
    #[default]
    On,
}

/// How the two sides of a guest thread wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// They spin where that is quicker.
    #[default]
    Adaptive,
    /// They sleep.
    Sleeping,
}

/// What makes a platform fast, to be switched off when it is to be compared or suspected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Whether call sites are patched.
    pub patching: Patching,
    /// How to wait.
    pub waiting: Waiting,
}

/// Whether the host neither counts what is mapped, beyond refusing the absurd, nor has been given a low limit of mappings.
fn mapping_lasts(procfs: &OwnedFd) -> bool {
    use host::rustix::fs::{Mode, OFlags, openat};
    let number = |name: &str| {
        let file = openat(procfs, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0; 24];
        let length = host::rustix::io::pread(&file, &mut text[..], 0).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse::<u64>().ok()
    };
    let unlimited = [Resource::As, Resource::Data].iter().all(|what| getrlimit(*what).current.is_none());
    unlimited
        && number("sys/vm/overcommit_memory").is_some_and(|mode| mode < 2)
        && number("sys/vm/max_map_count").is_some_and(|count| count >= MAPPINGS_MIN)
}

/// What guests may do with files by themselves: nothing if a stub cannot have as many, and not write if files may become only
/// so large, since SIGXFSZ would be the end of a stub.
fn direct_uses() -> Uses {
    let limit = |what| getrlimit(what).current;
    let read = limit(Resource::Nofile).is_none_or(|most| most >= DIRECT.end.into());
    Uses { read, write: read && limit(Resource::Fsize).is_none() }
}

/// How many mappings a process can have on any host that is as it comes.
const MAPPINGS_MIN: u64 = 65_530;

impl StubPlatform {
    /// A platform whose stubs are forked from `zygote`. `procfs` is a procfs that shows the process ids of this
    /// process's namespace, for [`crate::AddressSpace::usage`]; without it the usage is reported as zero.
    ///
    /// # Errors
    /// What the host says about the service threads.
    pub fn new(mut zygote: Zygote, procfs: Option<OwnedFd>, tuning: Tuning) -> io::Result<StubPlatform> {
        let listener = zygote.listener.take().ok_or(io::ErrorKind::InvalidInput)?;
        let (vdso, fpu) = (zygote.vdso.clone(), zygote.fpu.clone());
        let shared = Arc::new(Shared {
            zygote: Mutex::new(zygote),
            notifications: Notifications::new(listener),
            vdso,
            fpu,
            spinning: Spinning::new(tuning.waiting, procfs.as_ref()),
            mapping_lasts: procfs.as_ref().is_some_and(mapping_lasts),
            direct: direct_uses(),
            procfs,
            reaper: Reaper::start()?,
            patching: tuning.patching == Patching::On,
            counters: Counters::default(),
        });
        StubPlatform::with_pool(shared, Pool::default())
    }

    fn with_pool(shared: Arc<Shared>, pool: Pool) -> io::Result<StubPlatform> {
        let pool = Arc::new(pool);
        let platform = StubPlatform { shared: shared.clone(), pool: pool.clone() };
        std::thread::Builder::new().name("stub-pool".into()).spawn(move || pool.keep_full(&shared))?;
        Ok(platform)
    }

    /// Both steps at once, with the machine's `/proc`: for programs that keep their privileges, such as tests.
    ///
    /// # Errors
    /// Those of [`Zygote::spawn`] and [`StubPlatform::new`].
    pub fn start() -> io::Result<StubPlatform> {
        let zygote = Zygote::spawn(HostVdso::find())?;
        let procfs = std::fs::File::open("/proc").ok().map(OwnedFd::from);
        StubPlatform::new(zygote, procfs, Tuning::default())
    }
}

impl StubPlatform {
    /// How system calls have come so far.
    #[must_use]
    pub fn call_counts(&self) -> CallCounts {
        let Counters { trapped, patched, sites } = &self.shared.counters;
        let [trapped, patched, sites] = [trapped, patched, sites].map(|count| count.load(Ordering::Relaxed));
        CallCounts { trapped, patched, sites }
    }
}

impl Platform for StubPlatform {
    fn create(&self) -> SysResult<Box<dyn Context>> {
        let ready = self.pool.take();
        let alive = ready.filter(|context| !context.is_dead());
        Ok(Box::new(alive.map_or_else(|| self.pool.make(&self.shared), Ok)?))
    }

    fn within(&self, groups: Vec<OwnedFd>) -> SysResult<Arc<dyn Platform>> {
        let (mother, preloaded) = (Mother { groups, context: Mutex::default() }, Arc::default());
        // What is wrong with the groups is told now.
        let first = mother.copy(&self.shared, &preloaded)?;
        let state = Mutex::new(PoolState { ready: vec![first], closed: false });
        let pool = Pool { mother: Some(mother), preloaded, state, ..Pool::default() };
        Ok(Arc::new(StubPlatform::with_pool(self.shared.clone(), pool).map_err(|_| Errno::EAGAIN)?))
    }

    fn memory_barrier(&self) {
        host::process::memory_barrier();
    }

    fn guest_range(&self) -> std::ops::Range<u64> {
        GUEST
    }

    fn vdso(&self) -> Option<Vdso> {
        self.shared.vdso.clone()
    }
}

impl Drop for StubPlatform {
    fn drop(&mut self) {
        if self.pool.mother.is_none() {
            let CallCounts { trapped, patched, sites } = self.call_counts();
            tracing::debug!(trapped, patched, sites, "system calls");
        }
        let mut state = self.pool.state.lock();
        state.closed = true;
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        self.pool.changed.notify_all();
        drop(ready);
    }
}

impl Pool {
    fn take(&self) -> Option<StubContext> {
        let context = self.state.lock().ready.pop();
        self.changed.notify_all();
        context
    }

    fn make(&self, shared: &Arc<Shared>) -> SysResult<StubContext> {
        let mut context = match &self.mother {
            Some(mother) => mother.copy(shared, &self.preloaded),
            None => shared.create(Some(&self.preloaded)),
        }?;
        context.expect_program();
        Ok(context)
    }

    /// Makes address spaces until the platform is dropped.
    fn keep_full(&self, shared: &Arc<Shared>) {
        loop {
            let mut state = self.state.lock();
            while state.ready.len() >= POOL && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            drop(state);
            // Without memory or process ids, `create` is to report it, and this tries again some time.
            let made = self.make(shared);
            let mut state = self.state.lock();
            match made {
                Ok(context) if !state.closed => state.ready.push(context),
                Ok(_) => return,
                Err(_) => drop(self.changed.wait_for(&mut state, RETRY)),
            }
        }
    }
}

/// How long the pool waits before it tries again to make an address space.
const RETRY: Duration = Duration::from_secs(1);

impl Shared {
    /// A fresh address space, forked from the zygote; with what is preloaded there, if it is to run a program.
    fn create(self: &Arc<Shared>, preloaded: Option<&Arc<Preloaded>>) -> SysResult<StubContext> {
        let zygote = self.zygote.lock();
        let born = preloaded.map(|pool| {
            let state = pool.give(|file, number| self.give_zygote(&zygote, file, number));
            Born { pool: Arc::clone(pool), files: state.given() }
        });
        let caller = (zygote.pid.as_raw_nonzero().get(), zygote.pidfd.as_fd());
        let (space, thread) = self.clone_process(&zygote.slot, caller, &|| {
            zygote.wait().map_err(|Gone| Errno::ESRCH)?;
            let result = zygote.slot.result();
            u64::try_from(result).map_err(|_| Errno::from_raw(i32::try_from(-result).unwrap_or(0)))
        })?;
        drop(zygote);
        if let Some(born) = born {
            let _ = space.born.set(born);
        }
        Ok(StubContext::new(space, thread, Registers::initial(), self.fpu.initial()))
    }

    /// Gives the zygote a copy of a descriptor, with this number; whether it has it.
    fn give_zygote(&self, zygote: &Zygote, file: &Arc<OwnedFd>, number: u32) -> bool {
        let thread = zygote.pid.as_raw_nonzero().get();
        let expecting = self.notifications.calls_of(thread);
        let memory = zygote.slot.memory();
        std::iter::once(libc::SYS_mmap as u64).chain(memory::ASK).chain([0]).enumerate().for_each(
            |(index, word)| {
                memory.store(BUFFER + 8 * index, word);
            },
        );
        zygote.slot.field(COUNT).store(1, Ordering::Relaxed);
        zygote.slot.post(COMMAND_CALLS, 0);
        let asked = expecting.call(Some(zygote.pidfd.as_fd()), libc::SYS_mmap, &memory::ASK);
        let given = asked.and_then(|call| expecting.answer_with(&call, file.as_fd(), number)).is_ok();
        drop(expecting);
        // A zygote that has not made the call is none any more, as whoever copies it will hear.
        given && zygote.wait().is_ok() && zygote.slot.result() >= 0
    }

    /// Makes the thread behind `parent`, which waits for a command, fork a process; `outcome` waits for its report. The
    /// thread has this id, and its process this pidfd.
    fn clone_process(
        self: &Arc<Shared>,
        parent: &Slot,
        (thread, process): (i32, BorrowedFd<'_>),
        outcome: &dyn Fn() -> SysResult<u64>,
    ) -> SysResult<(Arc<Space>, Thread)> {
        let memory = SlotMemory::new()?;
        let slot = memory.slot(parent.index)?;
        let making = self.notifications.new_process();
        let of_parent = self.notifications.calls_of(thread);
        let of_child = self.notifications.calls_of_new(&making);
        parent.post(COMMAND_FORK, 0);
        let clone = of_parent.call(Some(process), libc::SYS_clone, &[text::FORK_FLAGS, 0, 0, 0, 0]);
        clone.and_then(|call| of_parent.proceed(&call)).map_err(|Gone| Errno::ESRCH)?;
        drop(of_parent);
        outcome()?;
        // The child asks for its slots. Which process it is, only the host can tell: the one leader of a thread group
        // that is our child and not known yet. There is no other, since `clone` waits for us everywhere.
        let mut found = None;
        let mut may_be = |pid| {
            found = if self.reaper.knows(pid) { None } else { open_child(pid) };
            found.is_some()
        };
        let call = of_child.call_of_new(&mut may_be, libc::SYS_mmap, &memory::ASK);
        let (call, pidfd) = call.ok().zip(found).ok_or(Errno::EAGAIN)?;
        let pid = call.thread.cast_signed();
        of_child.answer_with(&call, memory.file().as_fd(), SLOTS_FILE).map_err(|Gone| {
            let _ = host::process::kill_by_thread(pid);
            Errno::EAGAIN
        })?;
        let space = Space::new(self.clone(), pid, pidfd, memory, &slot);
        self.reaper.watch(&space).inspect_err(|_| crate::AddressSpace::kill(&*space))?;
        drop(of_child);
        drop(making);
        Ok((space, Thread { slot, id: pid }))
    }
}

/// The process `pid`, if that leads a thread group that is a child of this process.
fn open_child(pid: i32) -> Option<OwnedFd> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    waitid(WaitId::PidFd(pidfd.as_fd()), options).is_ok().then_some(pidfd)
}
