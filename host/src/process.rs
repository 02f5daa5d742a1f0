//! Processes: their memory, their processor time, signals to their threads.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Reads memory of process `pid` at `address`, as far as it is accessible, page by page; `process_vm_readv(2)`.
/// Returns the number of bytes copied; zero also stands for "no such process" and "not permitted".
///
/// The caller sees to it that `pid` cannot have been reused.
pub fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: `local` describes `buffer`, exclusively borrowed; `remote` is an address of the other process.
    let copied = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// Writes memory of process `pid` at `address`, as far as it is writable, page by page; `process_vm_writev(2)`.
/// Returns the number of bytes copied.
pub fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> usize {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: `local` describes `bytes`, which is only read; `remote` is an address of the other process.
    let copied = unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// How many pieces [`read_pieces`] takes, `IOV_MAX`.
pub const PIECES_MAX: usize = 1024;

/// [`read_memory`] of several pieces, each with its address there, up to the first that cannot be read.
pub fn read_pieces(pid: i32, pieces: &mut [(u64, &mut [u8])]) -> usize {
    let local: Vec<_> = pieces
        .iter_mut()
        .map(|(_, bytes)| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() })
        .collect();
    let remote: Vec<_> = pieces
        .iter()
        .map(|(address, bytes)| libc::iovec { iov_base: *address as *mut libc::c_void, iov_len: bytes.len() })
        .collect();
    let count = local.len().min(PIECES_MAX) as libc::c_ulong;
    // SAFETY: `local` describes the pieces, exclusively borrowed; `remote` has as many addresses of the other process.
    let copied = unsafe { libc::process_vm_readv(pid, local.as_ptr(), count, remote.as_ptr(), count, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// `tgkill(2)`: sends a signal to one thread of a process; `signal` zero only asks whether it exists.
pub fn signal_thread(process: i32, thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) }).map(drop)
}

/// `tkill(2)` with SIGKILL: ends the process that the thread belongs to.
pub fn kill_by_thread(thread: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_tkill, thread, libc::SIGKILL) }).map(drop)
}

/// Collects a child that has ended: the most bytes that it had in memory at a time. `None` if it has not ended.
pub fn collect(pidfd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    // SAFETY: all zero is a value of both, which consist of numbers.
    let (mut info, mut usage) = unsafe { std::mem::zeroed::<(libc::siginfo_t, libc::rusage)>() };
    let options = libc::WEXITED | libc::WNOHANG;
    // SAFETY: both are as large as the host writes, which for this call is the only one with five arguments.
    check(unsafe {
        libc::syscall(libc::SYS_waitid, libc::P_PIDFD, pidfd.as_raw_fd(), &mut info, options, &mut usage)
    })?;
    // SAFETY: it is the structure that waitid(2) fills in, or zeros.
    let ended = unsafe { info.si_pid() } != 0;
    Ok(ended.then(|| usage.ru_maxrss.unsigned_abs() * 1024))
}

/// The processor time that all threads of process `pid` have used.
pub fn cpu_time(pid: i32) -> io::Result<Duration> {
    // The kernel's encoding of "the scheduler's clock of this process"; see clock_getcpuclockid(3).
    read_clock((!pid << 3) | 2)
}

/// The processor time that a thread of the calling process has used.
pub fn thread_cpu_time(thread: i32) -> io::Result<Duration> {
    // The same, of a thread.
    read_clock((!thread << 3) | 6)
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    check(unsafe { libc::clock_gettime(clock, &mut time) }.into())?;
    Ok(Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0)))
}

/// A copy of a descriptor that this process was started with, by its number; `EBADF` for one that it has opened itself:
/// all of those are closed when another program is run.
pub fn inherited(number: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: takes numbers only, and makes a new descriptor.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    if flags & i64::from(libc::FD_CLOEXEC) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(copy as i32) })
}

/// Makes all threads of processes that asked for it (the stubs) go through a memory barrier, wherever they run.
pub fn memory_barrier() {
    const GLOBAL_EXPEDITED: i32 = 2;
    // SAFETY: takes numbers only. A host without it has no way to run threads of one process at once either.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL_EXPEDITED, 0, 0) };
}

/// The processor that the calling thread runs on right now.
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(u32::MAX)
}

/// Moves the calling thread to another processor than the one it is on, if it may run on another. From then on the host
/// may move it as before. Returns whether it has worked.
pub fn leave_processor() -> bool {
    let here = current_cpu();
    run_on(|processor, allowed| allowed && processor != here)
}

/// Moves the calling thread to a processor, if it may run there, likewise.
pub fn go_to_processor(there: u32) -> bool {
    run_on(|processor, allowed| allowed && processor == there)
}

/// The processors that a thread may run on.
#[derive(Clone, Copy, Debug)]
pub struct Allowed(rustix::thread::CpuSet);

impl Allowed {
    /// Those of the calling thread, if the host tells.
    pub fn of_caller() -> Option<Allowed> {
        rustix::thread::sched_getaffinity(None).ok().map(Allowed)
    }

    /// Has thread `id`, which sleeps and may run on these, wake up on the processor of the caller when `wake` wakes it, instead
    /// of on the one where it has slept. Returns whether it could be done; it is woken in any case.
    pub fn wake_here(&self, id: i32, wake: impl FnOnce()) -> bool {
        use rustix::thread::{CpuSet, Pid, sched_setaffinity};
        let mut here = CpuSet::new();
        let processor = current_cpu() as usize;
        let id = Pid::from_raw(id).filter(|_| processor < CpuSet::MAX_CPU && self.0.is_set(processor));
        if id.is_some() {
            here.set(processor);
        }
        let done = id.is_some() && sched_setaffinity(id, &here).is_ok();
        wake();
        if done {
            let _ = sched_setaffinity(id, &self.0);
        }
        done
    }
}

/// Has the calling thread run for a moment on those processors only for which `wanted` says so, which is told whether it
/// may run there.
fn run_on(wanted: impl Fn(u32, bool) -> bool) -> bool {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(all) = sched_getaffinity(None) else { return false };
    let mut some = CpuSet::new();
    for processor in 0..CpuSet::MAX_CPU {
        if wanted(processor as u32, all.is_set(processor)) {
            some.set(processor);
        }
    }
    if some.count() == 0 || sched_setaffinity(None, &some).is_err() {
        return false;
    }
    // What it may use in the long run does not change.
    let _ = sched_setaffinity(None, &all);
    true
}

/// How many processors the machine has.
pub fn online_processors() -> u32 {
    // SAFETY: takes a number only.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1).max(1)
}

/// The processor's time-stamp counter.
pub fn time_stamp() -> u64 {
    // SAFETY: the instruction has no preconditions.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Closes every descriptor of this process but those in `keep`, the standard streams included.
///
/// For a process that has just been forked: what it inherited belongs to the parent, and values that own a descriptor
/// there must not be dropped here.
pub fn close_others(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let mut from = 0;
    for number in keep {
        if number > from {
            close_range(from, number - 1)?;
        }
        from = number + 1;
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: descriptors that somebody owns are closed behind their back, but see the caller's documentation: what
    // is left of such owners is a copy in a forked process that never uses them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Ends this process as the signal would by default, without a core dump; returns only if it did not.
pub fn die_of(signal: i32) {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid and outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    take(signal);
}

/// Stops this process as the terminal's stop key does by default, and returns when it goes on; at once if nobody could let
/// it go on.
pub fn stop() {
    take(libc::SIGTSTP);
}

/// Sends this process, which has one thread, a signal that takes its default effect now.
fn take(signal: i32) {
    // SAFETY: the structures are valid and outlive the calls; the default action runs no code of ours.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, &raw mut before);
        libc::kill(libc::getpid(), signal);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
    }
}

/// The result of a raw system call wrapper of libc.
pub(crate) fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Lets go of the pages of this program's code that are in memory, for a process that will do little from now on: what it
/// needs again comes back from the host's page cache, and the rest of what it needed to start is not counted as its any more.
pub fn release_code() {
    unsafe extern "C" fn release(
        info: *mut libc::dl_phdr_info,
        _: usize,
        _: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the C library passes what describes a loaded object, with all of its program headers.
        let (base, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        let code = headers.iter().filter(|it| it.p_type == libc::PT_LOAD && it.p_flags & libc::PF_X != 0);
        for header in code.filter(|it| it.p_flags & libc::PF_W == 0) {
            let start = (base + header.p_vaddr) & !4095;
            let length = base + header.p_vaddr + header.p_memsz - start;
            // SAFETY: these pages are a private mapping of a file that has never been writable, so that they are the same
            // when they come back.
            unsafe { libc::madvise(start as *mut libc::c_void, length as usize, libc::MADV_DONTNEED) };
        }
        // The first object is the program itself, the others' pages are shared with others.
        1
    }
    // SAFETY: the callback takes what the C library passes and no data.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this program's code in memory.
    fn code_in_memory() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap();
        let mut lines = maps.lines();
        let own = |line: &str| line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap());
        lines.find(|line| own(line)).expect("this program is mapped");
        let resident = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn code_that_has_been_released_comes_back() {
        // Other threads bring some of it back at once.
        let less = |_| {
            let before = code_in_memory();
            release_code();
            code_in_memory() < before
        };
        assert!((0..100).any(less));
    }

    #[test]
    fn own_memory_can_be_read_and_written() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut place = *b"before";
        let mut copy = [0; 6];
        assert_eq!(read_memory(pid, place.as_ptr() as u64, &mut copy), 6);
        assert_eq!(&copy, b"before");
        assert_eq!(write_memory(pid, place.as_mut_ptr() as u64, b"after!"), 6);
        assert_eq!(read_memory(pid, 8, &mut copy), 0);
        let (mut first, mut second, mut third) = ([0; 2], [0; 3], [0; 1]);
        let start = place.as_ptr() as u64;
        let mut pieces = [(start + 4, &mut first[..]), (start, &mut second[..]), (8, &mut third[..])];
        assert_eq!(read_pieces(pid, &mut pieces), 5);
        assert_eq!((&first, &second), (b"r!", b"aft"));
    }

    #[test]
    fn a_thread_that_leaves_its_processor_may_come_back() {
        let before = rustix::thread::sched_getaffinity(None).unwrap();
        assert_eq!(leave_processor(), before.count() > 1);
        assert!(go_to_processor(current_cpu()) && !go_to_processor(1_000_000));
        assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn processor_time_of_this_process_is_known() {
        assert!(cpu_time(std::process::id().cast_signed()).unwrap() > Duration::ZERO);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(thread_cpu_time(thread).unwrap() > Duration::ZERO);
    }
}
