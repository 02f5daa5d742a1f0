//! The stub's code: all that runs in a guest's process besides the guest.
//!
//! It is copied to a page of its own in the zygote, so it refers to nothing outside of itself; it uses general
//! registers only, so the guest's FPU state stays where it is; it keeps nothing on the stack, because a command may
//! outlast the frame below it. `tests` check the first two in the built binary.
//!
//! In the loop: `rbx` is the slot, `r12` the slot of a new thread.

use std::arch::global_asm;

use super::layout::*;

global_asm!(
    ".pushsection .text.nacelle_stub, \"ax\", @progbits",
    ".balign 4096",
    ".globl nacelle_stub_start",
    "nacelle_stub_start:",
    // A signal: rdi = number, rsi = siginfo, rdx = ucontext, on the slot's signal stack.
    ".globl nacelle_stub_handler",
    "nacelle_stub_handler:",
    "lea rax, [rip + nacelle_stub_exchange]",
    "cmp [rdx + 168], rax",
    "je 9f",
    "mov rbx, rsp",
    "and rbx, {slot_mask}",
    "mov [rbx + {signal}], edi",
    "mov [rbx + {siginfo}], rsi",
    "mov [rbx + {ucontext}], rdx",
    "rdfsbase rax",
    "mov [rbx + {fs_base}], rax",
    "rdgsbase rax",
    "mov [rbx + {gs_base}], rax",
    // Hand the slot over: state = REQUEST, with a full barrier.
    ".globl nacelle_stub_request",
    "nacelle_stub_request:",
    "mov ecx, 0x7b",
    "lsl eax, ecx",
    "and eax, 0xfff",
    "mov [rbx + {stub_cpu}], eax",
    "mov eax, {request}",
    "xchg [rbx + {state}], eax",
    "cmp dword ptr [rbx + {kernel_sleeps}], 0",
    "je 2f",
    "lea rdi, [rbx + {state}]",
    "mov esi, 1",
    "mov edx, 1",
    "mov eax, 202",
    "syscall",
    // Wait for a command: look a while, then sleep.
    "2:",
    "mov ecx, [rbx + {stub_spin}]",
    "3:",
    "cmp dword ptr [rbx + {state}], {commanded}",
    "je 5f",
    "test ecx, ecx",
    "je 4f",
    "dec ecx",
    "pause",
    "jmp 3b",
    "4:",
    "mov eax, 1",
    "xchg [rbx + {stub_sleeps}], eax",
    "41:",
    "cmp dword ptr [rbx + {state}], {commanded}",
    "je 42f",
    "lea rdi, [rbx + {state}]",
    "xor esi, esi",
    "mov edx, {request}",
    "xor r10d, r10d",
    "mov eax, 202",
    "syscall",
    "jmp 41b",
    "42:",
    "mov dword ptr [rbx + {stub_sleeps}], 0",
    // A command.
    "5:",
    "mov eax, [rbx + {command}]",
    "cmp eax, {resume}",
    "je 6f",
    "cmp eax, {calls}",
    "je 7f",
    "cmp eax, {clone}",
    "je 8f",
    "cmp eax, {exchange}",
    "je 10f",
    "cmp eax, {exit}",
    "je 11f",
    "jmp nacelle_stub_request",
    // Resume: load the segment bases, and let the host load all the rest.
    "6:",
    "mov rax, [rbx + {fs_base}]",
    "wrfsbase rax",
    "mov rax, [rbx + {gs_base}]",
    "wrgsbase rax",
    "mov rsp, [rbx + {ucontext}]",
    "mov dword ptr [rbx + {state}], {run}",
    "mov eax, 15",
    "syscall",
    "ud2",
    // Calls: a batch of system calls from the buffer; r13 = next call, r14 = how many are left.
    "7:",
    "lea r13, [rbx + {buffer}]",
    "mov r14, [rbx + {count}]",
    "xor r15d, r15d",
    "71:",
    "test r14, r14",
    "je 72f",
    "mov rax, [r13]",
    "mov rdi, [r13 + 8]",
    "mov rsi, [r13 + 16]",
    "mov rdx, [r13 + 24]",
    "mov r10, [r13 + 32]",
    "mov r8, [r13 + 40]",
    "mov r9, [r13 + 48]",
    "syscall",
    "mov [rbx + {result}], rax",
    "cmp rax, -4096",
    "ja 72f",
    "add r13, {call_size}",
    "inc r15",
    "dec r14",
    "jmp 71b",
    "72:",
    "mov [rbx + {count}], r15",
    "jmp nacelle_stub_request",
    // Clone: flags in the first argument. A new thread continues in the slot r12; a new process maps its own slots
    // over the inherited ones before it touches any.
    "8:",
    "mov r12, [rbx + {new_slot}]",
    "mov rdi, [rbx + {call}]",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "je 81f",
    "mov [rbx + {result}], rax",
    "jmp nacelle_stub_request",
    "81:",
    "test r12, r12",
    "je 82f",
    "mov rbx, r12",
    "jmp nacelle_stub_request",
    "82:",
    "movabs rdi, {region}",
    "movabs rsi, {region_size}",
    "mov edx, 3",
    "mov r10d, 0x11",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "mov eax, 9",
    "syscall",
    "xor edi, edi",
    "mov eax, 3",
    "syscall",
    "jmp nacelle_stub_request",
    // Exchange: address, expected and new value in the arguments; the result is what was there, or all ones.
    "10:",
    "mov rdi, [rbx + {call}]",
    "mov eax, [rbx + {call} + 8]",
    "mov ecx, [rbx + {call} + 16]",
    ".globl nacelle_stub_exchange",
    "nacelle_stub_exchange:",
    "lock cmpxchg [rdi], ecx",
    "mov eax, eax",
    "mov [rbx + {result}], rax",
    "jmp nacelle_stub_request",
    ".globl nacelle_stub_fixup",
    "nacelle_stub_fixup:",
    "mov qword ptr [rbx + {result}], -1",
    "jmp nacelle_stub_request",
    // Exit.
    "11:",
    "mov dword ptr [rbx + {state}], {gone}",
    "xor edi, edi",
    "mov eax, 60",
    "syscall",
    "ud2",
    // The exchange has faulted: go on behind it.
    "9:",
    "lea rax, [rip + nacelle_stub_fixup]",
    "mov [rdx + 168], rax",
    "mov rsp, rdx",
    "mov eax, 15",
    "syscall",
    "ud2",
    ".globl nacelle_stub_restorer",
    "nacelle_stub_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2",
    // The zygote's beginning: rdi = its slot.
    ".globl nacelle_stub_enter",
    "nacelle_stub_enter:",
    "mov rbx, rdi",
    "lea rsp, [rbx + {slot_size} - 64]",
    "jmp nacelle_stub_request",
    ".globl nacelle_stub_end",
    "nacelle_stub_end:",
    ".popsection",
    slot_mask = const -(SLOT as i64),
    slot_size = const SLOT,
    signal = const SIGNAL,
    siginfo = const SIGINFO,
    ucontext = const UCONTEXT,
    fs_base = const FS_BASE,
    gs_base = const GS_BASE,
    stub_cpu = const STUB_CPU,
    state = const STATE,
    kernel_sleeps = const KERNEL_SLEEPS,
    stub_sleeps = const STUB_SLEEPS,
    stub_spin = const STUB_SPIN,
    command = const COMMAND,
    call = const CALL,
    result = const RESULT,
    count = const COUNT,
    new_slot = const NEW_SLOT,
    buffer = const BUFFER,
    call_size = const CALL_SIZE,
    region = const REGION,
    region_size = const REGION_SIZE,
    run = const RUN,
    request = const REQUEST,
    commanded = const COMMANDED,
    gone = const GONE,
    resume = const RESUME,
    calls = const CALLS,
    clone = const CLONE,
    exchange = const EXCHANGE,
    exit = const EXIT,
);

unsafe extern "C" {
    static nacelle_stub_start: u8;
    static nacelle_stub_handler: u8;
    static nacelle_stub_restorer: u8;
    static nacelle_stub_enter: u8;
    static nacelle_stub_end: u8;
}

/// The stub's code as it lies in this program.
pub fn code() -> &'static [u8] {
    let start = &raw const nacelle_stub_start;
    let end = &raw const nacelle_stub_end;
    // SAFETY: the symbols are the two ends of the code above, in this program's read-only text.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Where a symbol of the code lies in the stub.
fn address(symbol: *const u8) -> u64 {
    TEXT + (symbol as u64 - (&raw const nacelle_stub_start) as u64)
}

/// The signal handler.
pub fn handler() -> u64 {
    address(&raw const nacelle_stub_handler)
}

/// The handler's restorer.
pub fn restorer() -> u64 {
    address(&raw const nacelle_stub_restorer)
}

/// Where the zygote enters the loop.
pub fn enter() -> u64 {
    address(&raw const nacelle_stub_enter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpKind};

    #[test]
    fn the_code_uses_no_simd_and_refers_to_nothing_outside_itself() {
        let code = code();
        assert!(code.len() > 100 && code.len() <= 4096);
        let range = TEXT..TEXT + code.len() as u64;
        let mut factory = InstructionInfoFactory::new();
        for instruction in Decoder::with_ip(64, code, TEXT, DecoderOptions::NONE) {
            assert!(!instruction.is_invalid(), "undecodable code at {:#x}", instruction.ip());
            for used in factory.info(&instruction).used_registers() {
                let register = used.register();
                let vector =
                    register.is_vector_register() || register.is_st() || register.is_mm() || register.is_k();
                assert!(!vector, "{register:?} at {:#x}", instruction.ip());
            }
            if instruction.is_ip_rel_memory_operand() {
                assert!(range.contains(&instruction.ip_rel_memory_address()));
            }
            if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64 {
                assert!(range.contains(&instruction.near_branch_target()));
            }
        }
    }
}
