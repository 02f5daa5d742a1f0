//! Guest code in host processes of its own: the *stub* backend.
//!
//! Each address space is a host process whose memory is the guest's, natively: the host pages, copies on write and
//! swaps. All it can do besides computing is to come back to this process through its mailbox ([`layout`]): a seccomp
//! filter ([`filter`]) turns system calls into a signal, whose handler ([`text`]) hands the guest's registers over and
//! carries out commands. Processes are forked from each other, the first from a [`Zygote`]; those and file mappings go
//! through a seccomp listener ([`notify`]).
//!
//! Make the [`Zygote`] before privileges are dropped and while the process has few threads; the thread that makes it
//! must outlive the platform (the zygote dies with it). Stubs are children of this process and reaped by a thread of
//! the platform, which reaps *all* children.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use parking_lot::{Mutex, RwLock};

use crate::{AddressSpace, Context, MemoryUsage, Platform, Registers, Vdso};

mod context;
mod filter;
mod layout;
mod notify;
mod text;
mod zygote;

#[cfg(test)]
mod tests;

pub use zygote::Zygote;

use context::{StubContext, Thread};
use layout::{GUEST_END, SLOTS};
use notify::Listener;

/// The host system calls that the backend makes once it exists; the sandbox's seccomp list must hold them.
pub const HOST_SYSCALLS: &[libc::c_long] = &[
    libc::SYS_futex,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_close,
    libc::SYS_ioctl,
    libc::SYS_poll,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_waitid,
    libc::SYS_clone3,
    libc::SYS_clock_gettime,
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_getcpu,
];

/// How many fresh address spaces are kept ready, so that `execve(2)` need not wait for one.
const POOL: usize = 2;

/// What all address spaces of a platform share.
struct Shared {
    listener: Listener,
    spaces: Mutex<HashMap<i32, Weak<Space>>>,
    vdso: Option<Vdso>,
    /// A procfs of the stubs' pid namespace, for memory usage.
    procfs: Option<OwnedFd>,
    /// How many kernel threads spin now, and how many may.
    spinning: AtomicU32,
    spinners: u32,
}

/// The platform whose guests run in stub processes.
pub struct StubPlatform {
    shared: Arc<Shared>,
    zygote: Arc<Mutex<StubContext>>,
    pool: Arc<Pool>,
}

#[derive(Default)]
struct Pool {
    ready: Mutex<Vec<StubContext>>,
    wanted: parking_lot::Condvar,
}

impl StubPlatform {
    /// Takes the zygote over. `procfs` is a directory descriptor of a procfs that shows the stubs.
    pub fn new(zygote: Zygote, procfs: Option<OwnedFd>) -> io::Result<StubPlatform> {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let vdso = zygote.vdso.clone();
        let shared = Arc::new(Shared {
            listener: Listener::new(zygote.listener),
            spaces: Mutex::default(),
            vdso: vdso.clone(),
            procfs,
            spinning: AtomicU32::new(0),
            spinners: processors - 1,
        });
        let space = Space::new(&shared, zygote.pid, zygote.pidfd, zygote.memory);
        let reaper = Arc::clone(&shared);
        std::thread::Builder::new().name("reaper".into()).spawn(move || reap(&reaper))?;
        let mut context = StubContext::adopt(&space)?;
        context.clear(vdso.as_ref()).map_err(io::Error::from)?;
        let zygote = Arc::new(Mutex::new(context));
        let pool = Arc::new(Pool::default());
        let (keeper, parent) = (Arc::clone(&pool), Arc::downgrade(&zygote));
        std::thread::Builder::new().name("stub-pool".into()).spawn(move || fill(&keeper, &parent))?;
        Ok(StubPlatform { shared, zygote, pool })
    }
}

/// Keeps the pool full for as long as the platform exists.
fn fill(pool: &Pool, zygote: &Weak<Mutex<StubContext>>) {
    loop {
        let mut ready = pool.ready.lock();
        while ready.len() >= POOL {
            pool.wanted.wait(&mut ready);
        }
        drop(ready);
        let Some(zygote) = zygote.upgrade() else { return };
        let Ok(context) = zygote.lock().fork_new() else { return };
        drop(zygote);
        pool.ready.lock().push(context);
    }
}

impl Drop for StubPlatform {
    fn drop(&mut self) {
        self.zygote.lock().thread().space.kill();
        // Wakes the keeper, which finds the zygote gone.
        self.pool.ready.lock().clear();
        self.pool.wanted.notify_all();
    }
}

impl Platform for StubPlatform {
    fn create(&self) -> SysResult<Box<dyn Context>> {
        let ready = self.pool.ready.lock().pop();
        self.pool.wanted.notify_one();
        let mut context = match ready.filter(|context| context.thread().space.alive()) {
            Some(context) => context,
            None => self.zygote.lock().fork_new()?,
        };
        *context.registers_mut() = Registers::initial();
        Ok(Box::new(context))
    }

    fn guest_range(&self) -> Range<u64> {
        0x1_0000..GUEST_END
    }

    fn vdso(&self) -> Option<Vdso> {
        self.shared.vdso.clone()
    }
}

/// Waits for children and tells their contexts.
fn reap(shared: &Weakly) {
    loop {
        // SAFETY: a zeroed siginfo_t is valid, and waitid fills it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above. WNOWAIT keeps the pid taken until its address space knows.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        if result != 0 {
            if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            // No children: the platform is gone, or about to be.
            return;
        }
        // SAFETY: waitid has filled in the pid.
        let pid = unsafe { info.si_pid() };
        let space = shared.spaces.lock().remove(&pid);
        if let Some(space) = space.and_then(|space| space.upgrade()) {
            space.died();
        }
        // SAFETY: reaps the zombie; the pid is still its own.
        unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, libc::WEXITED) };
    }
}

type Weakly = Shared;

/// One stub process.
pub(crate) struct Space {
    shared: Arc<Shared>,
    pid: i32,
    pidfd: OwnedFd,
    memory: OwnedFd,
    /// False once the process is dead. Held for reading while the pid is used.
    alive: RwLock<bool>,
    slots: Mutex<Slots>,
    threads: Mutex<Vec<Weak<Thread>>>,
    peak: Mutex<u64>,
}

#[derive(Default)]
struct Slots {
    next: u64,
    /// Slots whose threads have been told to end; free once they say that they have.
    leaving: Vec<Arc<layout::Slot>>,
}

impl Space {
    fn new(shared: &Arc<Shared>, pid: i32, pidfd: OwnedFd, memory: OwnedFd) -> Arc<Space> {
        let space = Arc::new(Space {
            shared: Arc::clone(shared),
            pid,
            pidfd,
            memory,
            alive: RwLock::new(true),
            slots: Mutex::default(),
            threads: Mutex::default(),
            peak: Mutex::new(0),
        });
        shared.spaces.lock().insert(pid, Arc::downgrade(&space));
        space
    }

    /// Whether the process lives, as far as is known.
    fn alive(&self) -> bool {
        *self.alive.read()
    }

    /// The process is dead: wakes everybody who waits for it.
    fn died(&self) {
        *self.alive.write() = false;
        let threads: Vec<Arc<Thread>> = self.threads.lock().iter().filter_map(Weak::upgrade).collect();
        self.shared.listener.remove(threads.iter().map(|thread| thread.tid.cast_unsigned()));
        for thread in threads {
            context::wake(thread.slot.word(layout::STATE));
        }
    }

    /// A slot that no thread uses.
    fn take_slot(&self, index: Option<u64>) -> SysResult<Arc<layout::Slot>> {
        let mut slots = self.slots.lock();
        let gone = slots
            .leaving
            .iter()
            .position(|slot| slot.word(layout::STATE).load(Ordering::SeqCst) == layout::GONE);
        if let (Some(at), None) = (gone, index) {
            return Ok(slots.leaving.swap_remove(at));
        }
        let index = index.unwrap_or(slots.next);
        if index >= SLOTS {
            return Err(Errno::EAGAIN);
        }
        slots.next = slots.next.max(index + 1);
        Ok(Arc::new(zygote::map_slot(&self.memory, index)?))
    }
}

impl AddressSpace for Space {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        transfer(self, address, buffer.as_mut_ptr(), buffer.len(), libc::SYS_process_vm_readv)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> usize {
        transfer(self, address, bytes.as_ptr().cast_mut(), bytes.len(), libc::SYS_process_vm_writev)
    }

    fn usage(&self) -> MemoryUsage {
        let mut usage = MemoryUsage::default();
        let alive = self.alive.read();
        let Some(procfs) = self.shared.procfs.as_ref().filter(|_| *alive) else { return usage };
        let path = format!("{}/statm", self.pid);
        let mut text = String::new();
        let opened = rustix::fs::openat(procfs, path, rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
        let Ok(file) = opened else { return usage };
        if io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).is_err() {
            return usage;
        }
        let mut pages = text.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0) * 4096).skip(1);
        usage.resident = pages.next().unwrap_or(0);
        usage.shared = pages.next().unwrap_or(0);
        let mut peak = self.peak.lock();
        *peak = usage.resident.max(*peak);
        usage.peak = *peak;
        usage
    }

    fn kill(&self) {
        // SAFETY: no memory is touched; a pidfd cannot mean another process.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGKILL, 0, 0);
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.kill();
        for slot in self.slots.lock().leaving.drain(..) {
            drop(slot);
        }
    }
}

/// Copies between the process's memory and ours with `call`; returns the number of bytes up to the first page that is
/// not accessible.
fn transfer(space: &Space, address: u64, buffer: *mut u8, length: usize, call: libc::c_long) -> usize {
    // Guest addresses only: the platform's own pages are none of the kernel's business.
    let room = usize::try_from(GUEST_END.saturating_sub(address)).unwrap_or(0);
    let length = length.min(room);
    if length == 0 {
        return 0;
    }
    let alive = space.alive.read();
    if !*alive {
        return 0;
    }
    let mut done = 0;
    while done < length {
        // One remote element per page at most would make partial results exact; the host already stops at the page
        // that it cannot access, and reports what it copied before.
        // SAFETY: the buffer is `length` bytes that the caller lent us for this.
        let local = libc::iovec { iov_base: unsafe { buffer.add(done) }.cast(), iov_len: length - done };
        let remote = libc::iovec { iov_base: (address + done as u64) as *mut _, iov_len: length - done };
        // SAFETY: `local` is writable (or read only, for writev) memory of ours; the remote side is checked by the host.
        let copied = unsafe {
            libc::syscall(call, space.pid, &raw const local, 1usize, &raw const remote, 1usize, 0usize)
        };
        match usize::try_from(copied) {
            Ok(0) | Err(_) => break,
            Ok(count) => done += count,
        }
    }
    done
}

impl Shared {
    /// Whether the calling thread may spin now; to be given back with `done_spinning`.
    fn may_spin(&self) -> bool {
        if self.spinning.fetch_add(1, Ordering::Relaxed) < self.spinners {
            return true;
        }
        self.spinning.fetch_sub(1, Ordering::Relaxed);
        false
    }

    fn done_spinning(&self) {
        self.spinning.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A flag that several threads may set and one takes.
#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
