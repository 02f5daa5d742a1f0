//! The code that runs in stub processes beside the guest's: signal handler, waiting, commands.
//!
//! It is copied to a fixed address of every stub. It uses no SIMD state (the guest's is live in the registers during a
//! patched call), no stack, and refers to nothing outside itself. `rbx` points to the slot throughout. What a guest gains
//! by jumping into it, or by writing over its slot, is bounded by the seccomp filter alone.

use std::arch::global_asm;

use abi::signal::{SA_RESTORER, SignalSet};

use super::layout::*;

/// `clone` flags of a copy of the process: the sandbox process is the parent of all stubs.
pub const FORK_FLAGS: u64 = (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
/// `clone` flags of a thread.
pub const SPAWN_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

global_asm!(
    ".pushsection .nacelle_stub,\"ax\",@progbits",
    ".balign 64",
    ".globl nacelle_stub_start, nacelle_stub_end, nacelle_stub_handler, nacelle_stub_request, nacelle_stub_restorer",
    ".hidden nacelle_stub_start, nacelle_stub_end, nacelle_stub_handler, nacelle_stub_request, nacelle_stub_restorer",
    ".globl nacelle_stub_call, nacelle_stub_processor",
    ".hidden nacelle_stub_call, nacelle_stub_processor",
    "nacelle_stub_start:",
    include_str!("text/handler.s"),
    include_str!("text/turns.s"),
    include_str!("text/calls.s"),
    include_str!("text/answers.s"),
    "nacelle_stub_end:",
    ".popsection",
    SLOT_SIZE = const SLOT_SIZE,
    FRAME_RBX = const super::frame::RBX,
    FRAME_RIP = const super::frame::RIP,
    INTERRUPT_SIGNAL = const INTERRUPT_SIGNAL,
    SIGTRAP = const libc::SIGTRAP,
    INTERRUPTED = const INTERRUPTED,
    MAGIC = const MAGIC,
    MAGIC_VALUE = const MAGIC_VALUE.cast_signed(),
    ANSWERS = const ANSWERS,
    ANSWER_COUNT = const ANSWER_COUNT,
    DELIVERY = const DELIVERY,
    DELIVERY_ADDRESS = const DELIVERY_ADDRESS,
    PRISTINE = const PRISTINE,
    RESTORED = const RESTORED,
    SETTABLE = const SETTABLE,
    RESTORER = const RESTORER,
    SA_RESTORER = const SA_RESTORER,
    RT_SIGACTION = const libc::SYS_rt_sigaction,
    RT_SIGPROCMASK = const libc::SYS_rt_sigprocmask,
    SET_ROBUST_LIST = const libc::SYS_set_robust_list,
    RSEQ = const libc::SYS_rseq,
    ALLOWED = const ALLOWED,
    HAZARD = const HAZARD,
    TABLE = const SLOTS + TABLE as u64,
    ENTRIES = const ENTRIES,
    ENTRY_CALLS = const ENTRY_CALLS,
    READING = const READING & !(1 << libc::SYS_lseek),
    DIRECT_MAX = const DIRECT_MAX,
    GUEST_END_HIGH = const GUEST.end >> 32,
    LSEEK = const libc::SYS_lseek,
    KIND_ANSWERED = const KIND_ANSWERED,
    OWN = const OWN,
    MASK = const MASK,
    ROBUST_LIST = const ROBUST_LIST,
    OBJECT_LAST = const GUEST.end - 32,
    BLOCKABLE = const !SignalSet::UNBLOCKABLE.0.cast_signed(),
    SENT = const SENT,
    SENT_BYTES = const SENT_BYTES,
    SENT_SIZE = const SENT_SIZE,
    SENT_STATE = const SENT_STATE,
    FEATURES = const FEATURES,
    BUILT_FPU = const BUILT_FPU,
    SENT_ALL = const SENT_ALL,
    SENT_ALL_MAX = const SENT_ALL_MAX,
    POINTERS = const POINTERS,
    POINTER_COUNT = const POINTER_COUNT,
    KIND_CALL = const KIND_CALL,
    KIND_INTERRUPTED = const KIND_INTERRUPTED,
    COMMAND_RETURN = const COMMAND_RETURN,
    COMMAND_RETURN_FS = const COMMAND_RETURN_FS,
    COMMAND_MATERIALISE = const COMMAND_MATERIALISE,
    FAST_FLAGS = const FAST_FLAGS,
    FAST_RAX = const FAST_RAX,
    FAST_RIP = const FAST_RIP,
    FAST_RSP = const FAST_RSP,
    FAST_RDI = const FAST_RDI,
    FAST_RSI = const FAST_RSI,
    FAST_RDX = const FAST_RDX,
    FAST_R10 = const FAST_R10,
    FAST_R8 = const FAST_R8,
    FAST_R9 = const FAST_R9,
    FAST_RBX = const FAST_RBX,
    FAST_RBP = const FAST_RBP,
    FAST_R12 = const FAST_R12,
    FAST_R13 = const FAST_R13,
    FAST_R14 = const FAST_R14,
    FAST_R15 = const FAST_R15,
    FS_BASE = const FS_BASE,
    GS_BASE = const GS_BASE,
    SIGNAL = const SIGNAL,
    SIGINFO = const SIGINFO,
    UCONTEXT = const UCONTEXT,
    KIND = const KIND,
    KIND_SIGNAL = const KIND_SIGNAL,
    KIND_DONE = const KIND_DONE,
    STUB_CPU = const STUB_CPU,
    KERNEL_CPU = const KERNEL_CPU,
    WORD = const WORD,
    TURN_RUN = const TURN_RUN,
    TURN_REQUEST = const TURN_REQUEST,
    TURN_COMMAND = const TURN_COMMAND,
    KERNEL_WAITS = const KERNEL_WAITS,
    STUB_WAITS = const STUB_WAITS,
    SPIN = const SPIN,
    COMMAND = const COMMAND,
    COMMAND_RESUME = const COMMAND_RESUME,
    COMMAND_CALLS = const COMMAND_CALLS,
    COMMAND_COPY_IN = const COMMAND_COPY_IN,
    COMMAND_COPY_OUT = const COMMAND_COPY_OUT,
    COMMAND_EXCHANGE = const COMMAND_EXCHANGE,
    COMMAND_FORK = const COMMAND_FORK,
    COMMAND_SPAWN = const COMMAND_SPAWN,
    COMMAND_EXIT = const COMMAND_EXIT,
    COUNT = const COUNT,
    ARGUMENTS = const ARGUMENTS,
    RESULT = const RESULT,
    WOKEN = const WOKEN,
    LOOKS = const LOOKS,
    REPORTED = const REPORTED,
    BUFFER = const BUFFER,
    CALL_SIZE = const CALL_SIZE,
    CALL_ALWAYS = const CALL_ALWAYS,
    CALL_COPY = const CALL_COPY,
    SLOTS = const SLOTS,
    SLOTS_SIZE = const SLOTS_SIZE,
    SLOTS_FLAGS = const libc::MAP_SHARED | libc::MAP_FIXED,
    FORK_FLAGS = const FORK_FLAGS,
    SPAWN_FLAGS = const SPAWN_FLAGS,
    FUTEX_WAIT = const libc::FUTEX_WAIT,
    FUTEX_WAKE = const libc::FUTEX_WAKE,
    PR_SET_PDEATHSIG = const libc::PR_SET_PDEATHSIG,
    RT_SIGRETURN = const libc::SYS_rt_sigreturn,
    FUTEX = const libc::SYS_futex,
    FUTEX_OPERATION = const !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME),
    FUTEX_WAIT_BITSET = const libc::FUTEX_WAIT_BITSET,
    FUTEX_WAKE_PRIVATE = const libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
    FUTEX_WAKE_BITSET_PRIVATE = const libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
    WATCH = const WATCH,
    WATCHED = const WATCHED,
    WATCH_SHIFT = const WATCH_SHIFT,
    WATCH_SHORT = const WATCH_SHORT.as_nanos(),
    WAITERS = const SLOTS + WAITERS as u64,
    WAITERS_FACTOR = const WAITERS_FACTOR.cast_signed(),
    WAITERS_SHIFT = const WAITERS_SHIFT,
    EAGAIN = const libc::EAGAIN,
    CLONE = const libc::SYS_clone,
    PRCTL = const libc::SYS_prctl,
    SLOTS_FILE = const SLOTS_FILE,
    PAGE = const PAGE,
    ASK_FLAGS = const libc::MAP_PRIVATE,
    MMAP = const libc::SYS_mmap,
    CLOSE = const libc::SYS_close,
    EXIT = const libc::SYS_exit,
    SCHED_YIELD = const libc::SYS_sched_yield,
);

unsafe extern "C" {
    static nacelle_stub_start: u8;
    static nacelle_stub_end: u8;
    static nacelle_stub_handler: u8;
    static nacelle_stub_request: u8;
    static nacelle_stub_restorer: u8;
    static nacelle_stub_call: u8;
    static nacelle_stub_processor: u8;
}

/// The code as bytes, to be copied to [`TEXT`].
pub fn text() -> &'static [u8] {
    let (start, end) = (&raw const nacelle_stub_start, &raw const nacelle_stub_end);
    // SAFETY: the labels delimit a read-only section of this program, laid out by the assembler above.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// How the code finds the number of its processor: the limit of a segment that Linux keeps for this,
const PROCESSOR_BY_SEGMENT: [u8; 8] = [0xb8, 0x7b, 0, 0, 0, 0x0f, 0x03, 0xc0];
/// and `rdpid rax` (with a `nop` behind it), which is much faster, where there is that.
const PROCESSOR_BY_ID: [u8; 8] = [0xf3, 0x0f, 0xc7, 0xf8, 0x0f, 0x1f, 0x40, 0];

/// [`text`] as it is best for this processor.
pub fn text_for_processor() -> Vec<u8> {
    const RDPID: u32 = 1 << 22;
    let mut text = text().to_vec();
    let at = (moved(&raw const nacelle_stub_processor) - TEXT) as usize;
    if std::arch::x86_64::__cpuid_count(7, 0).ecx & RDPID != 0
        && let Some(code) = text.get_mut(at..at + PROCESSOR_BY_SEGMENT.len())
    {
        code.copy_from_slice(&PROCESSOR_BY_ID);
    }
    text
}

fn moved(label: *const u8) -> u64 {
    TEXT + (label.addr() - (&raw const nacelle_stub_start).addr()) as u64
}

/// The address in stubs of the signal handler.
pub fn handler() -> u64 {
    moved(&raw const nacelle_stub_handler)
}

/// The address in stubs of the code that reports to the kernel and waits for commands.
pub fn request() -> u64 {
    moved(&raw const nacelle_stub_request)
}

/// The address in stubs of the `rt_sigreturn` call.
pub fn restorer() -> u64 {
    moved(&raw const nacelle_stub_restorer)
}

/// The address in stubs of what patched call sites jump to.
pub fn call() -> u64 {
    moved(&raw const nacelle_stub_call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpKind};

    #[test]
    fn the_processor_is_found_in_both_ways() {
        let at = (moved(&raw const nacelle_stub_processor) - TEXT) as usize;
        assert_eq!(text()[at..at + 8], PROCESSOR_BY_SEGMENT);
        let mut decoder = Decoder::new(64, &PROCESSOR_BY_ID, DecoderOptions::NONE);
        assert_eq!(decoder.decode().code(), Code::Rdpid_r64);
        assert_eq!((decoder.decode().mnemonic(), decoder.can_decode()), (Mnemonic::Nop, false));
    }

    #[test]
    fn the_code_stands_alone_and_leaves_the_fpu_alone() {
        text_stands_alone(text());
        text_stands_alone(&text_for_processor());
    }

    fn text_stands_alone(code: &[u8]) {
        assert!(!code.is_empty() && code.len() <= 4096);
        let inside = TEXT..TEXT + code.len() as u64;
        let mut factory = InstructionInfoFactory::new();
        let mut returns = 0;
        for instruction in &mut Decoder::with_ip(64, code, TEXT, DecoderOptions::NONE) {
            assert!(!instruction.is_invalid(), "{:#x}", instruction.ip());
            for used in factory.info(&instruction).used_registers() {
                let register = used.register();
                let general = register.is_gpr() || register.is_segment_register();
                assert!(general, "{register:?} at {:#x}", instruction.ip());
            }
            if instruction.is_ip_rel_memory_operand() {
                let address = instruction.ip_rel_memory_address();
                assert!(inside.contains(&address) || address == inside.end, "{:#x}", instruction.ip());
            }
            for operand in 0..instruction.op_count() {
                if instruction.op_kind(operand) == OpKind::NearBranch64 {
                    assert!(inside.contains(&instruction.near_branch_target()), "{:#x}", instruction.ip());
                }
            }
            match instruction.flow_control() {
                // Back to the guest, with its own address in the register.
                FlowControl::IndirectBranch => returns += 1,
                flow => assert!(
                    !matches!(flow, FlowControl::IndirectCall | FlowControl::Return),
                    "{flow:?} at {:#x}",
                    instruction.ip()
                ),
            }
        }
        assert_eq!(returns, 7);
    }
}
