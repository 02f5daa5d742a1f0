//! The zygote: the process that all stubs are forked from.
//!
//! It is made by [`Zygote::spawn`] while this process may still do everything, and gives up in turn: file
//! descriptors, capabilities, libc's memory, and all system calls but those in [`super::filter`].

use std::arch::asm;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use host::memory::SharedMapping;
use host::rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use host::rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open, waitid,
};
use host::seccomp::Listener;

use super::frame::{self, FpuFormat};
use super::layout::*;
use super::slot::{Gone, Patience, Slot};
use super::{filter, text};
use crate::{Registers, Vdso};

/// A process ready to be forked into stubs. Hand it to [`super::StubPlatform::new`].
///
/// When the zygote is dropped, it ends; stubs already made live on.
#[derive(Debug)]
pub struct Zygote {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) slot: Slot,
    pub(super) listener: Option<Listener>,
    pub(super) vdso: Option<Vdso>,
    pub(super) fpu: FpuFormat,
}

/// Where the host has put the vDSO in this process.
#[derive(Debug, Default)]
pub struct HostVdso(Vec<Range<u64>>);

impl HostVdso {
    /// Looks it up in `/proc`, which a process has lost by the time that it spawns a zygote. Where there is none, guests
    /// have no vDSO, and every look at the clock is a system call.
    #[must_use]
    pub fn find() -> HostVdso {
        HostVdso(vdso_mappings().unwrap_or_default())
    }
}

/// The resume flag, which the processor sets on a fault.
const RESUME_FLAG: u64 = 1 << 16;
/// `AT_HWCAP2`: user code may use `rdfsbase` and its kin.
const HWCAP2_FSGSBASE: u64 = 2;

impl Zygote {
    /// Forks the zygote off this process, as its child.
    ///
    /// Call it when the process has its final user id and namespaces (the host lets a process read another's memory
    /// only when both have the same user, and this one all of the other's capabilities, of which a zygote keeps
    /// none), but before it restricts its own system calls, and from a thread that lives as long as the process: the
    /// host kills the stubs when that thread ends.
    ///
    /// # Errors
    /// What the host says; `Unsupported` when processor or host lack `FSGSBASE`.
    pub fn spawn(HostVdso(vdso_pages): HostVdso) -> io::Result<Zygote> {
        // SAFETY: no memory is involved.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the host does not enable FSGSBASE"));
        }
        let memory = memfd_create("nacelle-slots", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, SLOTS_SIZE as u64)?;
        let slot = Slot::new(SharedMapping::new(&memory, 0, SLOT_SIZE)?, 0);
        let plan = Plan::new(raw_fd(&memory), &vdso_pages);
        let pid = LaunchPad::new(&plan)?.launch()?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let fpu = FpuFormat::learn(FpuFormat::bootstrap()).ok_or(io::ErrorKind::Other)?;
        let mut zygote = Zygote { pid, pidfd, slot, listener: None, vdso: None, fpu };
        zygote.finish(&plan, &vdso_pages)?;
        Ok(zygote)
    }

    /// What is left to do from outside, once the zygote waits for commands.
    fn finish(&mut self, plan: &Plan, vdso_pages: &[Range<u64>]) -> io::Result<()> {
        self.wait().map_err(|Gone| self.cause_of_death())?;
        let listener_fd = self.slot.result();
        let listener_fd = i32::try_from(listener_fd).map_err(|_| io::ErrorKind::InvalidData)?;
        let listener = pidfd_getfd(&self.pidfd, listener_fd, PidfdGetfdFlags::empty())?;
        self.listener = Some(Listener::new(listener));
        let moved = self.slot.field(ARGUMENTS).load(Ordering::Relaxed) == 0;
        if moved && let (Some(first), Some(last)) = (vdso_pages.first(), vdso_pages.last()) {
            let place = |address| VDSO + (address - first.start);
            self.vdso = Some(Vdso {
                image: place(last.start)..place(last.end),
                data: place(first.start)..place(last.start),
            });
        }
        // What the program left in memory, around what the stub needs.
        let mut kept = vec![TEXT..TEXT + plan.text_size(), SLOTS..SLOTS + SLOTS_SIZE as u64];
        kept.extend(TRAMPOLINES.map(|start| start..start + TRAMPOLINES_SIZE));
        match &self.vdso {
            Some(vdso) => kept.push(vdso.data.start..vdso.image.end),
            None => kept.extend(vdso_pages.iter().cloned()),
        }
        kept.sort_by_key(|range| range.start);
        let mut calls = vec![[libc::SYS_close as u64, listener_fd.cast_unsigned().into(), 0, 0, 0, 0, 0, 0]];
        let mut from = 0;
        for range in kept.iter().cloned().chain(std::iter::once(USER_END..USER_END)) {
            if from < range.start {
                calls.push([libc::SYS_munmap as u64, from, range.start - from, 0, 0, 0, 0, 0]);
            }
            from = from.max(range.end);
        }
        for (index, call) in calls.iter().flatten().enumerate() {
            self.slot.memory().store(BUFFER + 8 * index, *call);
        }
        self.slot.field(COUNT).store(calls.len() as u32, Ordering::Relaxed);
        self.slot.post(COMMAND_CALLS, 0);
        self.wait().map_err(|Gone| self.cause_of_death())?;
        let result = self.slot.result();
        if result < 0 {
            return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)));
        }
        // Run it into a fault: shows that signals, slots and resuming work, and what frames look like here.
        let offset = frame::build(&self.slot, &FpuFormat::bootstrap());
        let nowhere = Registers { rip: GUEST.start, ..Registers::initial() };
        frame::store(&self.slot, offset, &nowhere);
        self.slot.memory().store(UCONTEXT, slot_address(0) + offset as u64);
        self.slot.post(COMMAND_RESUME, 0);
        self.wait().map_err(|Gone| self.cause_of_death())?;
        let broken =
            || io::Error::new(io::ErrorKind::Unsupported, "the host's signal frames are not understood");
        let address = self.slot.memory().load(UCONTEXT);
        let offset = self.slot.offset_of(address, frame::UCONTEXT_SIZE).ok_or_else(broken)?;
        let mut registers = Registers::default();
        frame::load(&self.slot, offset, &mut registers);
        registers.eflags &= !RESUME_FLAG;
        if registers != nowhere {
            return Err(broken());
        }
        let state = frame::fpu(&self.slot, offset).ok_or_else(broken)?;
        self.fpu = FpuFormat::learn(state).ok_or_else(broken)?;
        Ok(())
    }

    /// Waits for the zygote's next report.
    pub(super) fn wait(&self) -> Result<(), Gone> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let tick = |_| match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(None) => Ok(()),
            _ => Err(Gone),
        };
        // The zygote runs no guest code, so that nothing short of the host's doing ends it.
        self.slot.wait(&Patience { dead: &AtomicBool::new(false), tick: &tick })
    }

    fn cause_of_death(&self) -> io::Error {
        let step = self.slot.field(COUNT).load(Ordering::Relaxed);
        let errno = i32::try_from(-self.slot.result()).unwrap_or(libc::EIO);
        let cause = io::Error::from_raw_os_error(errno);
        io::Error::new(cause.kind(), format!("cannot set up the zygote (step {step}): {cause}"))
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = host::rustix::process::pidfd_send_signal(&self.pidfd, host::rustix::process::Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

fn raw_fd(fd: &OwnedFd) -> u64 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd().cast_unsigned().into()
}

/// The vDSO's mappings in this process, adjacent, the image last.
fn vdso_mappings() -> io::Result<Vec<Range<u64>>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for line in BufReader::new(File::open("/proc/self/maps")?).lines() {
        let line = line?;
        let Some(name) = line.split_ascii_whitespace().nth(5) else { continue };
        if !["[vvar]", "[vvar_vclock]", "[vdso]"].contains(&name) {
            continue;
        }
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let Some((start, end)) = range else { continue };
        let (start, end) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16));
        if let (Ok(start), Ok(end)) = (start, end) {
            found.push(start..end);
            if name == "[vdso]" {
                break;
            }
        }
    }
    let adjacent = found.windows(2).all(|pair| pair[0].end == pair[1].start);
    if adjacent { Ok(found) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// `struct sigaction` as the host takes it.
#[repr(C)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// The memory that the child runs in while it lays out its address space anew.
///
/// The host may have placed anything of this process where the stub's own pages belong: libraries, heaps, the calling
/// thread's stack. The child replaces what lies there, so that what it still needs must lie elsewhere: its stack, the
/// plan, and the filter are in this mapping.
struct LaunchPad {
    start: *mut u8,
}

impl LaunchPad {
    /// Where it lies if the host agrees: far from where programs and libraries are loaded.
    const WISH: usize = 0x1000_0000_0000;
    const SIZE: usize = 0x4_0000;
    /// The plan is at the start, the filter here, and the rest is the stack.
    const FILTER: usize = 0x1000;

    fn new(plan: &Plan) -> io::Result<LaunchPad> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, placed where nothing is.
        let start =
            unsafe { libc::mmap(Self::WISH as *mut libc::c_void, Self::SIZE, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pad = LaunchPad { start: start.cast() };
        let (own, program) = (start as u64, text::text().as_ptr() as u64);
        if [own, own + Self::SIZE as u64 - 1, program].iter().any(|address| PLATFORM.contains(address)) {
            let text = "the host has placed the program itself where the stubs' own pages belong";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let filter = plan.filter.as_slice();
        if size_of_val(filter) > Self::SIZE / 4 || size_of::<Plan>() > Self::FILTER {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: both fit, as checked, and a page's start is aligned for both. The copy of the plan is used by the
        // child alone, which drops nothing; it has its own copy of the memory that the plan points to.
        unsafe {
            let copy = pad.start.add(Self::FILTER).cast::<libc::sock_filter>();
            std::ptr::copy_nonoverlapping(filter.as_ptr(), copy, filter.len());
            std::ptr::copy_nonoverlapping(plan, pad.start.cast(), 1);
            (*pad.start.cast::<Plan>()).program = libc::sock_fprog { len: filter.len() as u16, filter: copy };
        }
        Ok(pad)
    }

    /// Forks; the child becomes the zygote.
    fn launch(&self) -> io::Result<Pid> {
        extern "C" fn enter(plan: &Plan) -> ! {
            plan.become_zygote()
        }
        let result: i64;
        // SAFETY: the parent goes on as after any system call. The child, whose memory is a copy of this process's,
        // begins with an empty stack that is long enough, never returns, and only calls `Plan::become_zygote`, which
        // neither allocates nor takes locks.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                // The plan may be in any register, that of the frame pointer too.
                "mov rdi, {plan}",
                "xor ebp, ebp",
                "call {enter}",
                "ud2",
                "2:",
                plan = in(reg) self.start,
                enter = sym enter,
                inlateout("rax") libc::SYS_clone => result,
                in("rdi") libc::SIGCHLD as u64,
                in("rsi") self.start.add(Self::SIZE),
                in("rdx") 0,
                in("r10") 0,
                in("r8") 0,
                out("rcx") _,
                out("r11") _,
            );
        }
        if result < 0 {
            return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)));
        }
        i32::try_from(result).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::Other.into())
    }
}

impl Drop for LaunchPad {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; nothing of this process refers to it any more.
        unsafe { libc::munmap(self.start.cast(), Self::SIZE) };
    }
}

/// Everything that the child needs, prepared before the fork.
struct Plan {
    memory: u64,
    text: &'static [u8],
    vdso: [(u64, u64); 4],
    rseq: u64,
    filter: Vec<libc::sock_filter>,
    /// The filter's copy on the launch pad.
    program: libc::sock_fprog,
}

impl Plan {
    fn new(memory: u64, vdso_pages: &[Range<u64>]) -> Plan {
        let mut vdso = [(0, 0); 4];
        for (slot, range) in vdso.iter_mut().zip(vdso_pages) {
            *slot = (range.start, range.end - range.start);
        }
        let text = text::text();
        let filter = filter::program(TEXT, text.len());
        let program = libc::sock_fprog { len: 0, filter: std::ptr::null_mut() };
        Plan { memory, text, vdso, rseq: rseq_offset(), filter, program }
    }

    fn text_size(&self) -> u64 {
        (self.text.len() as u64).next_multiple_of(PAGE)
    }

    /// Turns a fresh copy of this process into the zygote. Runs where any lock may be held by a thread that does not
    /// exist here: no allocation, no libc.
    fn become_zygote(&self) -> ! {
        let mut step = 0;
        let mut must = |number: i64, arguments: [u64; 6]| {
            step += 1;
            let result = raw_call(number, arguments);
            if result < 0 {
                self.give_up(step, result);
            }
            result
        };
        let death = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0];
        must(libc::SYS_prctl, death);
        raw_call(libc::SYS_setsid, [0; 6]);
        raw_call(libc::SYS_prctl, [libc::PR_SET_NAME as u64, c"nacelle-stub".as_ptr() as u64, 0, 0, 0, 0]);

        // What the host would write to memory that is about to go.
        self.unregister_rseq();
        must(libc::SYS_set_robust_list, [0, 24, 0, 0, 0, 0]);
        must(libc::SYS_set_tid_address, [0; 6]);

        // Stubs need no privilege; being "dumpable" is what lets this process read their memory.
        let header = [0x2008_0522u64, 0];
        let none = [0u64; 3];
        must(libc::SYS_capset, [header.as_ptr() as u64, none.as_ptr() as u64, 0, 0, 0, 0]);
        must(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]);
        let no_core = [0u64; 2];
        must(libc::SYS_setrlimit, [u64::from(libc::RLIMIT_CORE), no_core.as_ptr() as u64, 0, 0, 0, 0]);

        // Barriers of the guests reach all stubs, which inherit this; a host without it has no barriers to offer.
        const REGISTER_GLOBAL_EXPEDITED: u64 = 4;
        raw_call(libc::SYS_membarrier, [REGISTER_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0]);
        // From here on no vDSO function works; none is called.
        let moved = self.move_vdso();
        let fixed = (libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        must(libc::SYS_mmap, [TEXT, self.text_size(), 3, fixed, u64::MAX, 0]);
        // SAFETY: just mapped, writable, and at least as long as the text.
        unsafe { std::ptr::copy_nonoverlapping(self.text.as_ptr(), TEXT as *mut u8, self.text.len()) };
        must(libc::SYS_mprotect, [TEXT, self.text_size(), 5, 0, 0, 0]);
        for start in TRAMPOLINES {
            // The lower one may be refused, by a host that keeps more of the lowest addresses free; then there is none.
            raw_call(libc::SYS_mmap, [start, TRAMPOLINES_SIZE, 5, fixed, u64::MAX, 0]);
        }
        let fixed = (libc::MAP_FIXED | libc::MAP_SHARED) as u64;
        must(libc::SYS_mmap, [SLOTS, SLOTS_SIZE as u64, 3, fixed, self.memory, 0]);

        let stack = [SLOTS + SIGNAL_STACK as u64, 0, (SIGNAL_STACK_END - SIGNAL_STACK) as u64];
        must(libc::SYS_sigaltstack, [stack.as_ptr() as u64, 0, 0, 0, 0, 0]);
        let interrupt_mask = 1u64 << (INTERRUPT_SIGNAL - 1);
        let caught = [
            libc::SIGSYS,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
            INTERRUPT_SIGNAL,
        ];
        for signal in 1..=64 {
            let is_caught = caught.contains(&signal);
            let action = Action {
                handler: if is_caught { text::handler() } else { libc::SIG_IGN as u64 },
                flags: (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | 0x0400_0000) as u64,
                restorer: text::restorer(),
                mask: interrupt_mask,
            };
            let arguments = [signal as u64, &raw const action as u64, 0, 8, 0, 0];
            if is_caught {
                must(libc::SYS_rt_sigaction, arguments);
            } else {
                raw_call(libc::SYS_rt_sigaction, arguments);
            }
        }
        let mask = libc::SIG_SETMASK as u64;
        must(libc::SYS_rt_sigprocmask, [mask, &raw const interrupt_mask as u64, 0, 8, 0, 0]);

        must(libc::SYS_close_range, [0, u32::MAX.into(), 0, 0, 0, 0]);
        must(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]);
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
            | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
        let listener = must(libc::SYS_seccomp, [mode, flags, &raw const self.program as u64, 0, 0, 0]);

        // SAFETY: the slot is mapped at its place; the stub's code takes its address in rbx and never returns.
        unsafe {
            let slot = SLOTS as *mut u8;
            slot.add(RESULT).cast::<u64>().write_volatile(listener.cast_unsigned());
            slot.add(ARGUMENTS).cast::<u32>().write_volatile(u32::from(!moved));
            slot.add(KIND).cast::<u32>().write_volatile(KIND_DONE);
            asm!("mov rbx, {slot}", "mov rsp, {stack}", "jmp {code}",
                slot = in(reg) SLOTS, stack = in(reg) slot_stack(0), code = in(reg) text::request(),
                options(noreturn));
        }
    }

    /// Moves the vDSO and its data to their place; false if the host forbids it (`mseal`).
    fn move_vdso(&self) -> bool {
        let flags = (libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE) as u64;
        let total: u64 = self.vdso.iter().map(|(_, length)| length).sum();
        let near =
            self.vdso.iter().any(|(address, length)| *address < VDSO + total && VDSO < address + length);
        // By way of elsewhere when the new place and the old overlap.
        let passes: &[u64] = if near { &[LaunchPad::WISH as u64 * 2, VDSO] } else { &[VDSO] };
        let mut from = None;
        for &pass in passes {
            let (mut place, mut source) = (pass, from);
            for (address, length) in self.vdso {
                let address = source.unwrap_or(address);
                if length != 0 && raw_call(libc::SYS_mremap, [address, length, length, flags, place, 0]) < 0 {
                    return false;
                }
                place += length;
                source = source.map(|source| source + length);
            }
            from = Some(pass);
        }
        true
    }

    /// The C library has registered a per-thread structure that the host writes to; the size that it registered is
    /// not known for sure.
    fn unregister_rseq(&self) {
        if self.rseq == 0 {
            return;
        }
        for length in (32..=1024).step_by(4) {
            if raw_call(libc::SYS_rseq, [self.rseq, length, 1, 0x5305_3053, 0, 0]) == 0 {
                return;
            }
        }
    }

    fn give_up(&self, step: u32, result: i64) -> ! {
        raw_call(
            libc::SYS_mmap,
            [SLOTS, SLOTS_SIZE as u64, 3, (libc::MAP_FIXED | libc::MAP_SHARED) as u64, self.memory, 0],
        );
        // SAFETY: mapped now, or before the step that failed.
        unsafe {
            let slot = SLOTS as *mut u8;
            slot.add(RESULT).cast::<i64>().write_volatile(result);
            slot.add(COUNT).cast::<u32>().write_volatile(step);
        }
        loop {
            raw_call(libc::SYS_exit_group, [1, 0, 0, 0, 0, 0]);
        }
    }
}

/// A system call without libc.
fn raw_call(number: i64, arguments: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the callers' arguments are numbers, or point to memory of the right shape that outlives the call. What
    // is done to the process's memory map is the business of a process that returns to no Rust code.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") arguments[0], in("rsi") arguments[1],
            in("rdx") arguments[2], in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// The address of the calling thread's rseq structure, or zero if the C library has none.
fn rseq_offset() -> u64 {
    // SAFETY: looks up a name.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    if symbol.is_null() {
        return 0;
    }
    let thread_pointer: u64;
    // SAFETY: the C library exports a constant of this type; the thread pointer is its own address on x86-64.
    unsafe {
        let offset = symbol.cast::<isize>().read();
        asm!("mov {}, fs:0", out(reg) thread_pointer, options(nostack, readonly, preserves_flags));
        thread_pointer.wrapping_add_signed(offset as i64)
    }
}
