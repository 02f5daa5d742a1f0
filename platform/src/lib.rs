//! Runs guest threads: address spaces, contexts, and what makes a guest come back to the kernel.
//!
//! A [`Platform`] makes address spaces, an [`AddressSpace`] is guest memory, a [`Context`] is one guest thread that a
//! kernel thread owns and drives: it resumes the guest with [`Context::run`], which returns an [`Event`]. The platform
//! knows registers and mappings; it does not know system calls, tasks or files.
//!
//! Two implementations: [`stub`], in which guest code runs in host processes of its own (see `docs/architecture.md`),
//! and [`mock`], which runs no guest code and lets unit tests drive a kernel.

#![allow(unsafe_code, reason = "with `host`, the only crate that may")]

// The tests of this crate share helpers with its integration tests, which call it by name.
#[cfg(test)]
extern crate self as platform;

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use abi::SysResult;
use abi::signal::Signal;

pub mod mock;
pub mod registers;
pub mod stub;

pub use registers::Registers;

/// Makes address spaces. One per sandbox.
pub trait Platform: Send + Sync {
    /// An address space without mappings (but for the platform's own and the vDSO), with one thread that has not run:
    /// its registers are zero but for segments and flags, its FPU state is the initial one. `execve(2)` uses this.
    fn create(&self) -> SysResult<Box<dyn Context>>;

    /// A platform whose address spaces are in other control groups of the host, which are given by their `cgroup.procs` open
    /// for writing, and have not what others are preloaded with ([`Context::preload`]); everything else is shared with this one.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where there are no processes to be moved; what the host says.
    fn within(&self, groups: Vec<OwnedFd>) -> SysResult<Arc<dyn Platform>> {
        let _ = groups;
        Err(abi::Errno::EOPNOTSUPP)
    }

    /// When this returns, every guest thread that is running has been through a full memory barrier since it was called,
    /// and has taken its instructions anew.
    fn memory_barrier(&self);

    /// The addresses that guest mappings may use; page-aligned.
    fn guest_range(&self) -> Range<u64>;

    /// Where the vDSO lies in every address space of this platform, if there is one (`AT_SYSINFO_EHDR`), with the
    /// `[vvar]` pages: both are listed in `/proc/PID/maps`.
    fn vdso(&self) -> Option<Vdso>;
}

/// The vDSO's place, the same in all address spaces.
#[derive(Clone, Debug)]
pub struct Vdso {
    /// The ELF image.
    pub image: Range<u64>,
    /// The data pages beside it; empty if unknown.
    pub data: Range<u64>,
}

/// The most that is sent along of the beginning of a path or a structure: [`Context::read_sent`].
pub const SENT_MAX: usize = 64;

/// What an argument of a system call points to, of which some is sent along with the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointed {
    /// A path or a structure, the beginning of which is used.
    Beginning,
    /// A buffer, the length of which is the third argument.
    Buffer,
}

/// Guest memory, shared by the contexts in it.
///
/// Reads and writes may be made by any kernel thread at any time, whether the guest's threads run or not. They honour
/// the protection of the guest's mappings and fault pages in as the guest's own accesses would.
pub trait AddressSpace: Send + Sync {
    /// Copies guest memory at `address` into `buffer`; returns how many bytes were copied before the first
    /// inaccessible page. Zero means `EFAULT` for a non-empty buffer.
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize;

    /// Copies `bytes` into guest memory at `address`; returns how many were copied before the first page that cannot
    /// be written.
    fn write(&self, address: u64, bytes: &[u8]) -> usize;

    /// What the host accounts to this address space.
    fn usage(&self) -> MemoryUsage;

    /// The most bytes that have been in memory at a time. Takes longer than [`AddressSpace::usage`].
    fn peak(&self) -> u64;

    /// What [`AddressSpace::peak`] is in the end: set when the host has taken the address space down.
    fn final_peak(&self) -> Arc<OnceLock<u64>> {
        Arc::new(OnceLock::from(self.peak()))
    }

    /// The same by ranges of addresses, in order; empty where the host does not tell. Takes its time.
    fn usage_by_range(&self) -> Vec<RangeUsage> {
        Vec::new()
    }

    /// Processor time that guest code has used in this address space, in all threads.
    fn cpu_time(&self) -> Duration;

    /// Counts a thread that is about to wait for the word at `address` (`futex(2)`), or has ceased to (`waits`). Only what is
    /// counted before the word is looked at may wait: guest code that wakes nobody need not come to the kernel for it.
    fn count_waiter(&self, address: u64, waits: bool) {
        let _ = (address, waits);
    }

    /// Ends all guest threads in it at once. Their contexts' `run` returns [`Event::Died`]. Idempotent.
    fn kill(&self);
}

/// Host accounting of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Resident bytes.
    pub resident: u64,
    /// Resident bytes that belong to files or shared memory.
    pub shared: u64,
}

/// What the host accounts to a range of addresses, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeUsage {
    /// The addresses.
    pub range: std::ops::Range<u64>,
    /// Resident.
    pub resident: u64,
    /// Resident, a page of several users by its share.
    pub proportional: u64,
    /// Resident and shared, as it was read.
    pub shared_clean: u64,
    /// Resident and shared, written to.
    pub shared_dirty: u64,
    /// Resident and of nobody else, as it was read.
    pub private_clean: u64,
    /// Resident and of nobody else, written to.
    pub private_dirty: u64,
    /// Used since the last look.
    pub referenced: u64,
    /// Resident and of no file.
    pub anonymous: u64,
    /// Written out to swap space.
    pub swapped: u64,
    /// Whether it shows a file in memory, which takes its pages whoever maps them.
    pub in_memory: bool,
}

/// One guest thread. Dropping it ends the host thread behind it; dropping the last context of an address space ends
/// the host process and frees the guest's memory.
pub trait Context: Send {
    /// The address space that this thread runs in.
    fn space(&self) -> &Arc<dyn AddressSpace>;

    /// The registers at the last event, as the guest will see them when it resumes.
    fn registers(&self) -> &Registers;

    /// The registers, to change.
    fn registers_mut(&mut self) -> &mut Registers;

    /// The FPU state at the last event in the layout of `XSAVE` (non-compacted), with the software-reserved bytes
    /// (464..512) as the host's signal frame has them, so that it can be put in a guest's signal frame as it is.
    fn fpu(&self) -> Vec<u8>;

    /// Replaces the FPU state by guest-supplied bytes in the layout of `XSAVE`; `None` sets the initial state. What
    /// the processor would reject is sanitised, never trusted. `EINVAL` when `state` is shorter than 512 bytes.
    fn set_fpu(&mut self, state: Option<&[u8]>) -> SysResult<()>;

    /// Resumes the guest until its next event.
    fn run(&mut self) -> Event;

    /// Says that nothing is wanted of the guest thread for a while: it need not stay awake to be quick.
    fn rest(&self) {}

    /// A handle that other threads use to make `run` return.
    fn interrupter(&self) -> Arc<dyn Interrupter>;

    /// What the guest thread may change by itself. Asked for once.
    fn own_state(&self) -> Arc<dyn OwnState> {
        Arc::new(KeptState::default())
    }

    /// Carries out memory operations in the guest's address space, in order, stopping at the first that fails.
    /// Returns the first error. The kernel chooses all addresses; nothing else may change mappings.
    fn memory(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()>;

    /// [`Context::memory`], but the platform may put it off until something else is asked of the guest thread or it goes on. For
    /// operations that fail only where the host has no memory left: if that comes late, it ends the process.
    fn memory_later(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()> {
        self.memory(operations)
    }

    /// Tells the host what to show to those who list its processes. It rides along with the next [`Context::memory`], which
    /// may be of no operations. Whether the host goes along is not told: nothing but the looks depends on it.
    fn describe(&mut self, description: Description) {
        let _ = description;
    }

    /// `fork(2)`: a context in a copy-on-write copy of the address space, with the same registers and FPU state. The
    /// child does not run before its `run` is called.
    fn fork(&mut self) -> SysResult<Box<dyn Context>>;

    /// A further thread in the same address space, with the same registers and FPU state; it does not run before its
    /// `run` is called.
    fn spawn(&mut self) -> SysResult<Box<dyn Context>>;

    /// Atomically replaces the 32-bit word at the aligned guest address by `new` if it is `expected`; returns what it
    /// was. `EFAULT` if it cannot be written.
    fn compare_exchange(&mut self, address: u64, expected: u32, new: u32) -> SysResult<u32>;

    /// Says that the call `number` uses the memory that its argument `argument` points to, so that the beginning of it
    /// may be sent along with the call: [`Context::read_sent`]. A thread has none at first.
    fn set_pointer(&mut self, _number: u32, _argument: usize, _what: Pointed) {}

    /// Says that the call `number` ends the thread, which then gives up its robust list ([`OwnState::robust_list`]): the beginning of
    /// that may be sent along with the call.
    fn expect_end(&mut self, number: u32) {
        let _ = number;
    }

    /// Says that the call `number` may lead to [`Context::spawn`], so that what that needs of the thread comes along with it.
    fn expect_spawn(&mut self, number: u32) {
        let _ = number;
    }

    /// Reads guest memory like [`Context::read`] as far as it was sent along with the call that has just been made;
    /// returns how many bytes, zero for nothing. It may be used by who knows that the memory has not been changed since; the
    /// beginning of a structure once.
    fn read_sent(&mut self, _address: u64, _buffer: &mut [u8]) -> usize {
        0
    }

    /// Forgets what was sent along: the memory may have been changed.
    fn forget_sent(&mut self) {}

    /// Reads guest memory like [`AddressSpace::read`], if need be with the guest thread's own help, which is stopped.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> usize {
        self.space().read(address, buffer)
    }

    /// Reads guest memory at several places, each an address and a length, one after the other into `buffer`, which has room for
    /// just that: in one go where that can be. False if not all of it can be read.
    fn read_pieces(&mut self, pieces: &[(u64, usize)], buffer: &mut [u8]) -> bool {
        let mut rest = buffer;
        pieces.iter().all(|&(address, length)| {
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
            rest = behind;
            self.read(address, piece) == length
        })
    }

    /// Writes the bytes to guest memory at several places, likewise. False if not all of it can be written; some of it may have
    /// been.
    fn write_pieces(&mut self, pieces: &[(u64, usize)], bytes: &[u8]) -> bool {
        let mut rest = bytes;
        pieces.iter().all(|&(address, length)| {
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            self.write(address, piece) == length
        })
    }

    /// Writes guest memory like [`AddressSpace::write`], in the same way.
    fn write(&mut self, address: u64, bytes: &[u8]) -> usize {
        self.space().write(address, bytes)
    }

    /// Has these bytes in guest memory before the guest goes on, which the thread does on its way if nothing else is asked of it
    /// before: a *delivery*. If some cannot be written, [`Event::Undelivered`] comes in place of what the guest does next. False
    /// if the caller had better write them; nothing has been done then.
    fn deliver(&mut self, address: u64, bytes: &[u8]) -> bool {
        let _ = (address, bytes);
        false
    }

    /// [`Context::deliver`] of up to `length` bytes at `offset` of a file of the host's, or at the file's own; returns how many
    /// there are.
    ///
    /// # Errors
    /// What the file says.
    fn deliver_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let _ = (file, offset, address, length);
        None
    }

    /// Writes what is to be delivered, without the guest; returns how many bytes have got there if not all have.
    fn settle(&mut self) -> Option<usize> {
        None
    }

    /// After a delivery has failed: writes what of it has not been written, from byte `done` on. Returns how many bytes.
    fn deliver_again(&mut self, done: usize) -> usize {
        let _ = done;
        0
    }

    /// Reads up to `length` bytes at `offset` of a file of the host's, or at the file's own, into guest memory at `address`,
    /// without a stop in the kernel's memory; returns how many. Fewer where the file ends, or at the first page that cannot be written. What is read
    /// often the platform may keep open for as long as the guest does not run after the file has been dropped. `None`
    /// if the caller had better read into a buffer of its own: nothing has been done then.
    ///
    /// # Errors
    /// What the file says, or `EFAULT` if not even one byte could be written to guest memory.
    fn read_file(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let _ = (file, offset, address, length);
        None
    }

    /// Writes guest memory to a file of the host's, likewise; at the file's own offset all at once, or only the beginning.
    ///
    /// # Errors
    /// What the file says, or `EFAULT` if not even one byte could be read from guest memory.
    fn write_file(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let _ = (file, offset, address, length);
        None
    }

    /// After [`Event::Syscall`]: the code around the instruction that made the call, if it has come to pay to change it
    /// so that its calls arrive faster. If all of it lies in one mapping of a file that is private and not writable,
    /// [`Context::patch`] may follow, before anything else.
    fn hot_call(&mut self) -> Option<Range<u64>> {
        None
    }

    /// After [`Event::Syscall`]: the code around the instruction that made the call, if the host has trapped it and it may come
    /// to pay to change it: the first times, and whenever [`Context::hot_call`] names it.
    fn trapped_call(&mut self) -> Option<Range<u64>> {
        None
    }

    /// The instruction that [`Context::trapped_call`] has named, to be recognised where the same file is mapped again.
    fn call_site(&mut self) -> Option<CallSite> {
        None
    }

    /// Changes code as [`Context::patch`] does, at several places in one mapping of a file that is private and not writable:
    /// where the code around each begins, and which site it is. What is not as it was then stays as it is. Returns how many
    /// were changed.
    ///
    /// # Errors
    /// What kept suitable sites from being changed. Everything is as before.
    fn patch_known(&mut self, protection: u32, sites: &[(u64, CallSite)]) -> SysResult<usize> {
        let _ = (protection, sites);
        Ok(0)
    }

    /// Changes the code that [`Context::hot_call`] has named; `protection` is that of its mapping. Guest code does the
    /// same before and after, but finds other bytes there if it looks. Returns whether the code was suitable.
    ///
    /// # Errors
    /// What kept a suitable site from being changed. Everything is as before.
    fn patch(&mut self, protection: u32) -> SysResult<bool> {
        let _ = protection;
        Ok(false)
    }

    /// Notes that a file has been mapped privately; whether that happens in so many address spaces that new ones had better have the
    /// file from the beginning.
    fn is_worth_preloading(&mut self, file: &Arc<OwnedFd>) -> bool {
        let _ = file;
        false
    }

    /// Has address spaces from the same source ([`Platform::create`]) have the file from the beginning, so that mapping it is quicker.
    /// Guest code in any of them may then see what is in the file.
    fn preload(&mut self, file: &Arc<OwnedFd>) {
        let _ = file;
    }

    /// Sets what the call `number` returns in this thread without an event, if it comes from patched code; `None` for
    /// nothing, which is where it starts. Numbers that the platform cannot answer are ignored. The platform does what
    /// `sched_yield(2)` is for before it answers that, and answers `futex(2)` only where that neither waits nor wakes anybody.
    fn set_answer(&mut self, number: u32, answer: Option<u32>) {
        let _ = (number, answer);
    }

    /// Sets about which signals `rt_sigaction(2)` from patched code is served without an event, which are none at first.
    fn set_default_actions(&mut self, actions: DefaultActions) {
        let _ = actions;
    }

    /// The signals that are in [`DefaultActions::restored`] by now, as the guest's own memory says.
    fn restored_actions(&self) -> u64 {
        0
    }

    /// Processor time that guest code has used in this thread (time in the kernel is the kernel thread's own).
    fn cpu_time(&self) -> Duration;

    /// The same as [`AddressSpace::peak`], asked in the quickest way. It may be the guest's own word, for the guest itself to hear.
    fn peak(&mut self) -> u64 {
        self.space().peak()
    }

    /// The open files that threads of this address space use by themselves, if the platform can do that: *direct* files. Each is
    /// an open file description of the host's that stands for one of the guest's, and whose offset is the host's to keep. The
    /// calls are those for which [`OwnState::allow_direct`] has said yes, from patched code; what they return is the host's
    /// word, and the kernel sees none that succeeds.
    fn direct_files(&self) -> Option<Arc<dyn DirectFiles>> {
        None
    }

    /// Notes that so many bytes are about to be read from a file or written to it by a descriptor; whether it is used so much
    /// that it had better be direct there, and is not.
    fn is_worth_direct(&mut self, fd: u32, file: &Arc<OwnedFd>, uses: Uses, length: usize) -> bool {
        let _ = (fd, file, uses, length);
        false
    }

    /// Makes a file direct for which [`Context::is_worth_direct`] holds; the uses are all that its description is open for.
    /// [`DirectFiles::publish`] gives it to a descriptor. Returns whether the file is direct now.
    fn make_direct(&mut self, file: &Arc<OwnedFd>, uses: Uses) -> bool {
        let _ = (file, uses);
        false
    }

    /// Makes files no longer direct for which `keep` does not hold: the guest has no descriptor of them any more. They are
    /// closed before it goes on, if no other thread is using them just now.
    fn keep_direct(&mut self, keep: &dyn Fn(&Arc<OwnedFd>) -> bool) {
        let _ = keep;
    }

    /// Closes the direct files, if somebody could write to one, now: the address space is about to end.
    fn close_direct(&mut self) {}
}

/// What a guest may do with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Whether it reads.
    pub read: bool,
    /// Whether it writes.
    pub write: bool,
}

impl Uses {
    /// Nothing.
    pub const NONE: Uses = Uses { read: false, write: false };
    /// Reading.
    pub const READ: Uses = Uses { read: true, write: false };
    /// Writing.
    pub const WRITE: Uses = Uses { read: false, write: true };
    /// Both.
    pub const BOTH: Uses = Uses { read: true, write: true };
}

/// Which descriptors of an address space stand for direct files ([`Context::direct_files`]). Any kernel thread may change that
/// at any time.
///
/// The guest can write to all of it, so that a file becomes direct only if it may be used in all ways that its own
/// description allows, by whoever runs in the address space. What is taken back here, an honest guest does not use any more.
pub trait DirectFiles: std::fmt::Debug + Send + Sync {
    /// Gives the descriptor `fd` of a table of descriptors, which `owner` names, to a direct file. False if the file is not
    /// direct, or another table owns those of this address space.
    fn publish(&self, owner: u64, fd: u32, file: &Arc<OwnedFd>, uses: Uses) -> bool;

    /// Whether the direct files of the address space are those of this table of descriptors.
    fn is_owned_by(&self, owner: u64) -> bool;

    /// Takes a descriptor's file back: from now on, calls of the guest's come to the kernel.
    fn revoke(&self, fd: u32);

    /// [`DirectFiles::revoke`] of all.
    fn revoke_all(&self);

    /// The table of descriptors is no more. Its files are closed as [`Context::keep_direct`] does.
    fn disown(&self, owner: u64);

    /// Takes all back for good: nothing is direct in this address space any more. They are closed as [`Context::keep_direct`]
    /// does.
    fn forbid(&self);

    /// Waits until the calls have ended that guest threads are making by themselves, but not longer than until then: what they
    /// say of that is a guest's word.
    fn wait_for_calls(&self, deadline: Instant);
}

/// An instruction that makes system calls, of which it is known that it is one: the bytes around it, and a call that it made.
/// The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallSite {
    code: [u8; stub::SITE_SIZE],
    number: u64,
}

/// What is a guest thread's own: nobody but itself changes it, so that calls from patched code can do that without an event
/// while it is offered to them, which it is not at first. Other threads may look at any time.
///
/// All of it may lie in the guest's reach: what comes from here is as good as an argument of a system call.
pub trait OwnState: std::fmt::Debug + Send + Sync {
    /// The blocked signals as `rt_sigprocmask(2)` has left them, bit zero being signal 1.
    fn mask(&self) -> u64;

    /// Sets the blocked signals. Not while the guest runs.
    fn set_mask(&self, mask: u64);

    /// The head of the robust list, as `set_robust_list(2)` has set it.
    fn robust_list(&self) -> u64;

    /// Sets the head of the robust list. Not while the guest runs.
    fn set_robust_list(&self, head: u64);

    /// Whether the thread may make these calls without an event, and `rseq(2)`, which it then learns not to exist. Not while
    /// the guest runs.
    fn offer(&self, offered: bool);

    /// What the thread may do with direct files ([`Context::direct_files`]): nothing, at first. Whoever takes a right away while
    /// the guest runs waits for what has begun ([`DirectFiles::wait_for_calls`]).
    fn allow_direct(&self, uses: Uses) {
        let _ = uses;
    }
}

/// An [`OwnState`] that no guest reaches.
#[derive(Debug, Default)]
pub struct KeptState {
    mask: AtomicU64,
    robust_list: AtomicU64,
}

impl OwnState for KeptState {
    fn mask(&self) -> u64 {
        self.mask.load(Ordering::Relaxed)
    }

    fn set_mask(&self, mask: u64) {
        self.mask.store(mask, Ordering::Relaxed);
    }

    fn robust_list(&self) -> u64 {
        self.robust_list.load(Ordering::Relaxed)
    }

    fn set_robust_list(&self, head: u64) {
        self.robust_list.store(head, Ordering::Relaxed);
    }

    fn offer(&self, _offered: bool) {}
}

/// Signals whose action is the default, as sets whose bit zero is signal 1. The platform tells what their actions are, and
/// moves signals from `pristine` to `restored` when the guest sets the default anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultActions {
    /// Those whose `struct sigaction` is all zero.
    pub pristine: u64,
    /// Those that differ from that by `SA_RESTORER` and `restorer` only.
    pub restored: u64,
    /// Those for which to set the default anew does nothing else.
    pub settable: u64,
    /// The address that handlers return to.
    pub restorer: u64,
}

/// What the host shows of an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The program's name, zero-terminated.
    pub name: [u8; 16],
    /// Where its arguments and its environment lie in guest memory, as `/proc/PID/cmdline` and `environ` read them; `None`
    /// leaves that as it is.
    pub strings: Option<(Range<u64>, Range<u64>)>,
}

/// Makes a running guest come back.
pub trait Interrupter: Send + Sync {
    /// Makes `run` of the context return [`Event::Interrupted`] soon; if it is not in `run`, the next `run` returns at
    /// once without resuming the guest. Several calls before that count as one. Never blocks.
    fn interrupt(&self);

    /// What [`Context::cpu_time`] tells, asked by another thread; it may lag behind by a tick of the host's.
    fn cpu_time(&self) -> Duration;
}

/// Why the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A system call: its number is in `orig_rax`, `rax` holds `-ENOSYS`, `rip` lies behind the instruction.
    Syscall,
    /// A processor exception in guest code.
    Fault(Fault),
    /// [`Interrupter::interrupt`] was called.
    Interrupted,
    /// Of what was to be delivered only so many bytes could be written; the guest has not gone on.
    Undelivered(usize),
    /// The host process is gone without the kernel's doing: killed by the host (out of memory), or for an attempt to
    /// leave its limits. No further `run` is possible.
    Died,
}

/// A processor exception, as the host reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGTRAP.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
    /// The processor's exception number.
    pub trap: u64,
    /// The processor's error code; bit 1 tells a write, bit 4 an instruction fetch.
    pub error: u64,
}

/// A change of the guest's mappings. All addresses and lengths are multiples of the page size and lie in
/// [`Platform::guest_range`]; mappings replace what was there.
#[derive(Clone, Copy, Debug)]
pub enum MemoryOp<'a> {
    /// `mmap(2)` with `MAP_FIXED`.
    Map {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// `PROT_*`.
        protection: u32,
        /// Whether changes are shared (`MAP_SHARED`) or private (`MAP_PRIVATE`).
        shared: bool,
        /// Further `MAP_*` flags that the host should see (`MAP_NORESERVE`, `MAP_POPULATE`, `MAP_LOCKED`, …).
        flags: u32,
        /// What is mapped; `None` for anonymous memory.
        file: Option<(&'a Arc<OwnedFd>, u64)>,
    },
    /// `munmap(2)`.
    Unmap {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
    },
    /// `mprotect(2)`.
    Protect {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// `PROT_*`.
        protection: u32,
    },
    /// `mremap(2)` to a fixed address, or in place when `to == from`.
    Remap {
        /// The old first address.
        from: u64,
        /// The old length; zero duplicates a shared mapping.
        from_length: u64,
        /// The new first address.
        to: u64,
        /// The new length.
        to_length: u64,
        /// `MREMAP_DONTUNMAP`.
        keep: bool,
    },
    /// `madvise(2)`.
    Advise {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// `MADV_*`.
        advice: u32,
    },
}

impl MemoryOp<'_> {
    /// Whether it maps a file.
    #[must_use]
    pub fn needs_file(&self) -> bool {
        matches!(self, MemoryOp::Map { file: Some(_), .. })
    }

    /// The same operation with this file, if it is one that can have a file.
    #[must_use]
    pub fn with_file<'b>(self, file: Option<(&'b Arc<OwnedFd>, u64)>) -> MemoryOp<'b> {
        match self {
            MemoryOp::Map { address, length, protection, shared, flags, file: _ } => {
                MemoryOp::Map { address, length, protection, shared, flags, file }
            }
            MemoryOp::Unmap { address, length } => MemoryOp::Unmap { address, length },
            MemoryOp::Protect { address, length, protection } => {
                MemoryOp::Protect { address, length, protection }
            }
            MemoryOp::Remap { from, from_length, to, to_length, keep } => {
                MemoryOp::Remap { from, from_length, to, to_length, keep }
            }
            MemoryOp::Advise { address, length, advice } => MemoryOp::Advise { address, length, advice },
        }
    }
}
