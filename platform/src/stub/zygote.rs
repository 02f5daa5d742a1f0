//! The zygote: the process that all stubs are forked from.
//!
//! It is forked before the sandbox process gives up its privileges, because it installs its own seccomp filter; it
//! ends up with nothing mapped but the stub's text, its slots and the vDSO, with no descriptors and no capabilities.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::layout::*;
use super::{filter, text};
use crate::Vdso;

/// The signal by which the kernel brings a guest back. No guest signal is ever sent on the host.
pub const INTERRUPT: i32 = 40;

/// A zygote that waits in its loop, with everything but the platform's ranges still to be unmapped.
pub struct Zygote {
    /// The process.
    pub pid: i32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Its slots.
    pub memory: OwnedFd,
    /// The listener of its filter.
    pub listener: OwnedFd,
    /// Where the vDSO lies in it.
    pub vdso: Option<Vdso>,
}

/// `struct sigaction` as the kernel takes it.
#[repr(C)]
struct KernelAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Where the vDSO and its data lie in this process.
fn find_vdso() -> Option<Vdso> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let range = |line: &str| -> Option<Range<u64>> {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    };
    let image = range(maps.lines().find(|line| line.ends_with("[vdso]"))?)?;
    let data: Vec<Range<u64>> =
        maps.lines().filter(|line| line.contains("[vvar")).filter_map(range).collect();
    let start = data.iter().map(|range| range.start).min().unwrap_or(image.start);
    // Usable only in one piece and in the platform's range; a guest without a vDSO makes system calls instead.
    let end = data.iter().map(|range| range.end).max().unwrap_or(image.start);
    (start >= GUEST_END && end <= image.start).then_some(Vdso { image, data: start..end })
}

impl Zygote {
    /// Forks the zygote.
    pub fn spawn() -> io::Result<Zygote> {
        let memory = new_region()?;
        let vdso = find_vdso();
        // glibc registers an rseq area for each thread, in memory that the zygote unmaps.
        // SAFETY: looks up a symbol; the answer is checked.
        let rseq = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
        // SAFETY: the symbol is a `ptrdiff_t` variable of glibc.
        let rseq = (!rseq.is_null()).then(|| unsafe { *rseq.cast::<isize>() });
        let mut filter = filter::program(text::code().len());
        // SAFETY: the child calls nothing but raw system calls, and never returns from `child`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child(memory.as_raw_fd(), rseq, &mut filter);
        }
        check(i64::from(pid))?;
        // SAFETY: pidfd_open returns a new descriptor.
        let pidfd =
            unsafe { OwnedFd::from_raw_fd(check(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as i32) };

        // The child reports in through its first slot.
        let slot = map_slot(&memory, 0)?;
        let start = std::time::Instant::now();
        while slot.word(STATE).load(std::sync::atomic::Ordering::SeqCst) != REQUEST {
            if start.elapsed().as_secs() > 10 {
                return Err(io::Error::other("the zygote process did not start"));
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        // SAFETY: pidfd_getfd returns a new descriptor; the child's descriptor 0 is its listener.
        let listener = unsafe {
            OwnedFd::from_raw_fd(check(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 0, 0))? as i32)
        };
        Ok(Zygote { pid, pidfd, memory, listener, vdso })
    }
}

/// A memfd for the slots of an address space.
pub fn new_region() -> io::Result<OwnedFd> {
    // SAFETY: memfd_create returns a new descriptor.
    let fd = unsafe {
        let fd = libc::memfd_create(c"nacelle-slots".as_ptr(), libc::MFD_CLOEXEC);
        OwnedFd::from_raw_fd(check(i64::from(fd))? as i32)
    };
    // SAFETY: no memory is touched.
    check(i64::from(unsafe { libc::ftruncate(fd.as_raw_fd(), REGION_SIZE.cast_signed()) }))?;
    Ok(fd)
}

/// Maps slot `index` of a region into this process.
pub fn map_slot(memory: &OwnedFd, index: u64) -> io::Result<Slot> {
    let offset = (index * SLOT).cast_signed();
    // SAFETY: a fresh mapping at an address of the host's choice.
    let base = unsafe {
        let (prot, fd) = (libc::PROT_READ | libc::PROT_WRITE, memory.as_raw_fd());
        libc::mmap(std::ptr::null_mut(), SLOT as usize, prot, libc::MAP_SHARED, fd, offset)
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: mapped above; `unmap_slot` is called when the slot is not used any more.
    Ok(unsafe { Slot::new(base.cast(), REGION + index * SLOT) })
}

/// Unmaps a slot that nobody uses any more.
pub fn unmap_slot(slot: &Slot) {
    // SAFETY: the mapping was made by `map_slot` and its user is done with it.
    unsafe { libc::munmap(slot.base().cast(), SLOT as usize) };
}

/// Everything that the zygote does in Rust. Only raw system calls: the process was forked from one with threads.
fn child(memory: i32, rseq: Option<isize>, filter: &mut [libc::sock_filter]) -> ! {
    // SAFETY: this process has one thread and ends, or enters the stub's text and never comes back; the mappings made
    // here lie in the platform's range, where a process that was just forked from ours has at most the vDSO.
    unsafe {
        let fail = |step: i32| -> ! { libc::_exit(100 + step) };
        libc::setsid();
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"nacelle-stub".as_ptr());
        if let Some(offset) = rseq {
            let thread: u64;
            std::arch::asm!("mov {}, fs:0", out(reg) thread);
            let area = thread.wrapping_add_signed(offset as i64);
            if libc::syscall(libc::SYS_rseq, area, 32, 1, 0x5305_3053) != 0 {
                fail(0);
            }
        }
        libc::syscall(libc::SYS_set_robust_list, 0, 24);
        libc::syscall(libc::SYS_set_tid_address, 0);

        // The text, and the slots.
        let code = text::code();
        let length = (code.len() + 4095) & !4095;
        let fixed = libc::MAP_FIXED_NOREPLACE;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let page =
            libc::mmap(TEXT as *mut _, length, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed, -1, 0);
        if page == libc::MAP_FAILED {
            fail(1);
        }
        std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        libc::mprotect(page, length, libc::PROT_READ | libc::PROT_EXEC);
        let region =
            libc::mmap(REGION as *mut _, REGION_SIZE as usize, rw, libc::MAP_SHARED | fixed, memory, 0);
        if region == libc::MAP_FAILED {
            fail(2);
        }

        // Signals: all that a processor can raise, and ours, on the slot's stack.
        let stack = libc::stack_t {
            ss_sp: region.cast::<u8>().add(STACK).cast(),
            ss_flags: 0,
            ss_size: SLOT as usize - STACK,
        };
        if libc::sigaltstack(&raw const stack, std::ptr::null_mut()) != 0 {
            fail(3);
        }
        let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        let action = KernelAction {
            handler: text::handler(),
            flags: (flags as u32 | 0x0400_0000).into(),
            restorer: text::restorer(),
            mask: 1 << (INTERRUPT - 1),
        };
        for signal in 1..=64 {
            let default = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, 0, 8);
        }
        let handled =
            [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, INTERRUPT];
        for signal in handled {
            if libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, 0, 8) != 0 {
                fail(4);
            }
        }
        let mask: u64 = 1 << (INTERRUPT - 1);
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0, 8);

        // No privileges, no descriptors.
        let header: [u32; 2] = [0x2008_0522, 0];
        let none = [0u32; 6];
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr());
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            fail(5);
        }
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // New listener, killable waits once a notification was received.
        const FLAGS: u64 = 1 << 3 | 1 << 5;
        let listener = libc::syscall(libc::SYS_seccomp, 1, FLAGS, &raw const program);
        if listener != 0 {
            fail(6);
        }
        std::arch::asm!("jmp {}", in(reg) text::enter(), in("rdi") REGION, options(noreturn));
    }
}
