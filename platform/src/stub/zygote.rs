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

/// A system call that the child makes.
#[repr(C)]
struct Record {
    number: u64,
    arguments: [u64; 6],
    kind: u64,
}

impl Record {
    /// If it fails, there is no zygote.
    const MUST: u64 = 0;
    /// It may fail.
    const MAY: u64 = 1;
    /// It moves the vDSO, which the host may forbid (`mseal`).
    const VDSO: u64 = 2;
    /// The last one: no call, but where to go on, with which slot and stack.
    const END: u64 = 3;
}

/// What the child's system calls point to.
#[repr(C)]
struct Data {
    header: [u64; 2],
    no_capabilities: [u64; 3],
    no_core: [u64; 2],
    signal_stack: [u64; 3],
    mask: u64,
    caught: Action,
    ignored: Action,
    program: libc::sock_fprog,
}

/// The memory that the child runs in while it lays out its address space anew.
///
/// The host may have placed anything of this process where the stub's own pages belong: libraries, heaps, the calling
/// thread's stack. The child replaces what lies there. So it makes system calls from a list and does nothing else: no
/// compiled code runs, which might call the C library, if only for `memcpy`. List and what it points to are in this
/// mapping, which lies elsewhere; so does this program's code.
struct LaunchPad {
    start: *mut u8,
}

impl LaunchPad {
    /// Where it lies if the host agrees: far from where programs and libraries are loaded.
    const WISH: usize = 0x1000_0000_0000;
    const SIZE: usize = 0x4_0000;
    /// The data is at the start, and then there are the filter, the stub's code, and the list.
    const FILTER: usize = 0x1000;
    const TEXT: usize = 0x1_0000;
    const LIST: usize = 0x2_0000;

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
        let list = plan.list(own);
        let fits = size_of::<Data>() <= Self::FILTER
            && size_of_val(plan.filter.as_slice()) <= Self::TEXT - Self::FILTER
            && plan.text.len() <= Self::LIST - Self::TEXT
            && size_of_val(list.as_slice()) <= Self::SIZE - Self::LIST;
        if !fits {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: all fit, as checked, and a page's start is aligned for any of them.
        unsafe {
            let filter = pad.start.add(Self::FILTER).cast::<libc::sock_filter>();
            std::ptr::copy_nonoverlapping(plan.filter.as_ptr(), filter, plan.filter.len());
            let program = libc::sock_fprog { len: plan.filter.len() as u16, filter };
            pad.start.cast::<Data>().write(Plan::data(program));
            std::ptr::copy_nonoverlapping(plan.text.as_ptr(), pad.start.add(Self::TEXT), plan.text.len());
            std::ptr::copy_nonoverlapping(list.as_ptr(), pad.start.add(Self::LIST).cast(), list.len());
        }
        Ok(pad)
    }

    /// Forks; the child becomes the zygote.
    fn launch(&self) -> io::Result<Pid> {
        let result: i64;
        // SAFETY: the parent goes on as after any system call. The child, whose memory is a copy of this process's,
        // uses nothing but registers and the list until it is in the stub's code.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 9f",
                "mov r14, {list}",
                // What to do after a failure is the first of the list.
                "mov rbp, r14",
                "add r14, {record}",
                "xor r12d, r12d",
                "xor r13d, r13d",
                "2:",
                "inc r12d",
                "mov rax, [r14]",
                "mov rdi, [r14 + 8]",
                "mov rsi, [r14 + 16]",
                "mov rdx, [r14 + 24]",
                "mov r10, [r14 + 32]",
                "mov r8, [r14 + 40]",
                "mov r9, [r14 + 48]",
                "mov rbx, [r14 + 56]",
                "add r14, {record}",
                "cmp rbx, {end}",
                "je 4f",
                "syscall",
                "mov r15, rax",
                "test rax, rax",
                "jns 2b",
                "cmp rbx, {may}",
                "je 2b",
                "cmp rbx, {vdso}",
                "jne 3f",
                "mov r13d, 1",
                "jmp 2b",
                // Map the first slot, tell what has failed, and end.
                "3:",
                "mov rax, [rbp]",
                "mov rdi, [rbp + 8]",
                "mov rsi, [rbp + 16]",
                "mov rdx, [rbp + 24]",
                "mov r10, [rbp + 32]",
                "mov r8, [rbp + 40]",
                "mov r9, [rbp + 48]",
                "syscall",
                "mov rdi, [rbp + 8]",
                "mov [rdi + {slot_result}], r15",
                "mov dword ptr [rdi + {slot_count}], r12d",
                "mov eax, {exit}",
                "mov edi, 1",
                "syscall",
                "ud2",
                // Report the last call's result, and whether the vDSO has stayed where it was.
                "4:",
                "mov [rdi + {slot_result}], r15",
                "mov dword ptr [rdi + {slot_arguments}], r13d",
                "mov dword ptr [rdi + {slot_kind}], {done}",
                "mov rbx, rdi",
                "mov rsp, rsi",
                "jmp rdx",
                "9:",
                list = in(reg) self.start.add(Self::LIST),
                record = const size_of::<Record>(),
                end = const Record::END,
                may = const Record::MAY,
                vdso = const Record::VDSO,
                slot_result = const RESULT,
                slot_count = const COUNT,
                slot_arguments = const ARGUMENTS,
                slot_kind = const KIND,
                done = const KIND_DONE,
                exit = const libc::SYS_exit_group,
                inlateout("rax") libc::SYS_clone => result,
                in("rdi") libc::SIGCHLD as u64,
                in("rsi") 0,
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

/// What the child is to become.
struct Plan {
    memory: u64,
    text: Vec<u8>,
    vdso: Vec<Range<u64>>,
    rseq: u64,
    filter: Vec<libc::sock_filter>,
}

/// The signals that stubs catch.
const CAUGHT: [i32; 7] =
    [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, INTERRUPT_SIGNAL];

impl Plan {
    fn new(memory: u64, vdso: &[Range<u64>]) -> Plan {
        let text = text::text_for_processor();
        let filter = filter::program(TEXT, text.len());
        Plan { memory, text, vdso: vdso.to_vec(), rseq: rseq_offset(), filter }
    }

    fn text_size(&self) -> u64 {
        (self.text.len() as u64).next_multiple_of(PAGE)
    }

    fn data(program: libc::sock_fprog) -> Data {
        let mask = 1u64 << (INTERRUPT_SIGNAL - 1);
        let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | 0x0400_0000) as u64;
        let action = |handler| Action { handler, flags, restorer: text::restorer(), mask };
        Data {
            header: [0x2008_0522, 0],
            no_capabilities: [0; 3],
            no_core: [0; 2],
            signal_stack: [SLOTS + SIGNAL_STACK as u64, 0, (SIGNAL_STACK_END - SIGNAL_STACK) as u64],
            mask,
            caught: action(text::handler()),
            ignored: action(libc::SIG_IGN as u64),
            program,
        }
    }

    /// The child's system calls, with the data at `pad`. The first is for a failure of one of the others.
    fn list(&self, pad: u64) -> Vec<Record> {
        let mut list = Vec::new();
        let mut call = |kind: u64, number: i64, arguments: &[u64]| {
            let mut all = [0; 6];
            all[..arguments.len()].copy_from_slice(arguments);
            list.push(Record { number: number.cast_unsigned(), arguments: all, kind });
        };
        let data = |offset: usize| pad + offset as u64;
        let (must, may) = (Record::MUST, Record::MAY);
        let shared = (libc::MAP_FIXED | libc::MAP_SHARED) as u64;
        let slots = [SLOTS, SLOTS_SIZE as u64, 3, shared, self.memory, 0];
        call(must, libc::SYS_mmap, &slots);

        call(must, libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64]);
        call(may, libc::SYS_setsid, &[]);
        call(may, libc::SYS_prctl, &[libc::PR_SET_NAME as u64, c"nacelle-stub".as_ptr() as u64]);

        // What the host would write to memory that is about to go. The C library has registered a per-thread structure
        // with a size that is not known for sure.
        if self.rseq != 0 {
            for length in (32..=1024).step_by(4) {
                call(may, libc::SYS_rseq, &[self.rseq, length, 1, 0x5305_3053]);
            }
        }
        call(must, libc::SYS_set_robust_list, &[0, 24]);
        call(must, libc::SYS_set_tid_address, &[0]);

        // Stubs need no privilege; being "dumpable" is what lets this process read their memory.
        let header = data(std::mem::offset_of!(Data, header));
        call(must, libc::SYS_capset, &[header, data(std::mem::offset_of!(Data, no_capabilities))]);
        call(must, libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 1]);
        let no_core = data(std::mem::offset_of!(Data, no_core));
        call(must, libc::SYS_setrlimit, &[u64::from(libc::RLIMIT_CORE), no_core]);

        // Barriers of the guests reach all stubs, which inherit this; a host without it has no barriers to offer.
        const REGISTER_GLOBAL_EXPEDITED: u64 = 4;
        call(may, libc::SYS_membarrier, &[REGISTER_GLOBAL_EXPEDITED]);

        // From here on the C library may be gone, and no vDSO function works.
        self.vdso_moves().iter().for_each(|arguments| call(Record::VDSO, libc::SYS_mremap, arguments));
        let move_here = (libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE) as u64;
        let size = self.text_size();
        call(must, libc::SYS_mremap, &[data(LaunchPad::TEXT), size, size, move_here, TEXT]);
        call(must, libc::SYS_mprotect, &[TEXT, size, 5]);
        let private = (libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        for start in TRAMPOLINES {
            // The lower one may be refused, by a host that keeps more of the lowest addresses free; then there is none.
            call(may, libc::SYS_mmap, &[start, TRAMPOLINES_SIZE, 5, private, u64::MAX, 0]);
        }
        call(must, libc::SYS_mmap, &slots);

        call(must, libc::SYS_sigaltstack, &[data(std::mem::offset_of!(Data, signal_stack)), 0]);
        for signal in 1..=64 {
            let (kind, action) = match CAUGHT.contains(&signal) {
                true => (must, std::mem::offset_of!(Data, caught)),
                false => (may, std::mem::offset_of!(Data, ignored)),
            };
            call(kind, libc::SYS_rt_sigaction, &[signal as u64, data(action), 0, 8]);
        }
        let mask = data(std::mem::offset_of!(Data, mask));
        call(must, libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, mask, 0, 8]);

        call(must, libc::SYS_close_range, &[0, u32::MAX.into(), 0]);
        call(must, libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
            | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let program = data(std::mem::offset_of!(Data, program));
        // The last call: its result is reported.
        call(must, libc::SYS_seccomp, &[u64::from(libc::SECCOMP_SET_MODE_FILTER), flags, program]);
        call(Record::END, 0, &[SLOTS, slot_stack(0), text::request()]);
        list
    }

    /// How the vDSO and its data get to their place: at once, or by way of elsewhere where the places overlap.
    fn vdso_moves(&self) -> Vec<[u64; 5]> {
        let flags = (libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE) as u64;
        let Some(first) = self.vdso.first() else { return Vec::new() };
        let length = |range: &Range<u64>| range.end - range.start;
        let total: u64 = self.vdso.iter().map(length).sum();
        let near = first.start < VDSO + total && VDSO < first.start + total;
        let elsewhere = LaunchPad::WISH as u64 * 2;
        let steps: &[(u64, u64)] =
            if near { &[(first.start, elsewhere), (elsewhere, VDSO)] } else { &[(first.start, VDSO)] };
        let moves = steps.iter().flat_map(|(from, to)| {
            self.vdso.iter().map(move |range| {
                let offset = range.start - first.start;
                [from + offset, length(range), length(range), flags, to + offset]
            })
        });
        moves.collect()
    }
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
