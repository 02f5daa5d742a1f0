//! The code that runs in stub processes beside the guest's: signal handler, waiting, commands.
//!
//! It is copied to a fixed address of every stub. It uses no SIMD state (the guest's is live in the registers during a
//! patched call), no stack, and refers to nothing outside itself. `rbx` points to the slot throughout. What a guest gains
//! by jumping into it, or by writing over its slot, is bounded by the seccomp filter alone.

use std::arch::global_asm;

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
    ".globl nacelle_stub_call",
    ".hidden nacelle_stub_call",
    "nacelle_stub_start:",
    // The handler of all signals: rdi is the signal, rsi the siginfo, rdx the ucontext, rsp the frame's lowest byte.
    "nacelle_stub_handler:",
    "    mov rbx, rsp",
    "    and rbx, -{SLOT_SIZE}",
    "    mov rax, [rdx + {FRAME_RIP}]",
    "    lea rcx, [rip + nacelle_stub_start]",
    "    cmp rax, rcx",
    "    jb 1f",
    "    lea rcx, [rip + nacelle_stub_end]",
    "    cmp rax, rcx",
    "    jae 1f",
    // In the stub itself. An interrupt before a resumption is complete undoes it; at an answer that is not taken yet, it
    // makes the kernel answer; at one that is, the guest is where it is, all of its state in registers; elsewhere, the
    // interrupt is remembered. It can only come here from a patched call: the other handlers block it.
    "    cmp edi, {INTERRUPT_SIGNAL}",
    "    jne 73f",
    "    lea rcx, [rip + 82f]",
    "    cmp rax, rcx",
    "    jb 74f",
    "    lea rcx, [rip + 83f]",
    "    cmp rax, rcx",
    "    jb 75f",
    "    lea rcx, [rip + 93f]",
    "    cmp rax, rcx",
    "    jb 74f",
    "    lea rcx, [rip + 94f]",
    "    cmp rax, rcx",
    "    lea rcx, [rip + 91f]",
    "    jb 76f",
    "    cmp rax, rcx",
    "    jae 74f",
    "    jmp 1f",
    "75:",
    "    mov [rdx + {FRAME_RBX}], rbx",
    "    lea rcx, [rip + 84f]",
    "    jmp 76f",
    "74: mov dword ptr [rbx + {INTERRUPTED}], 1",
    "    jmp 77f",
    // A guest that single-steps does not step through the stub.
    "73: cmp edi, {SIGTRAP}",
    "    je 77f",
    // A fault of an access that the kernel asked for: continue at its failure branch.
    "    lea rcx, [rip + 70f]",
    "    cmp rax, rcx",
    "    lea rcx, [rip + 72f]",
    "    je 76f",
    "    lea rcx, [rip + 34f]",
    "    cmp rax, rcx",
    "    lea rcx, [rip + 35f]",
    "    je 76f",
    // What is sent along with a call cannot be read.
    "    lea rcx, [rip + 98f]",
    "    cmp rax, rcx",
    "    lea rcx, [rip + nacelle_stub_request]",
    "    je 76f",
    // A guest with a GS base of its own.
    "    lea rcx, [rip + 90f]",
    "    cmp rax, rcx",
    "    lea rcx, [rip + 92f]",
    "    jne 1f",
    "76: mov [rdx + {FRAME_RIP}], rcx",
    "77: mov rsp, rdx",
    "nacelle_stub_restorer:",
    "    mov eax, {RT_SIGRETURN}",
    "    syscall",
    "    ud2",
    "1:  rdfsbase rax",
    "    mov [rbx + {FS_BASE}], rax",
    "    rdgsbase rax",
    "    mov [rbx + {GS_BASE}], rax",
    "    mov [rbx + {SIGNAL}], edi",
    "    mov [rbx + {SIGINFO}], rsi",
    "    mov [rbx + {UCONTEXT}], rdx",
    "    mov dword ptr [rbx + {KIND}], {KIND_SIGNAL}",
    // Hand over the turn. The processor's number is the limit of a segment that Linux keeps for this.
    "nacelle_stub_request:",
    "    mov eax, 0x7b",
    "    lsl eax, eax",
    "    and eax, 0xfff",
    "    mov [rbx + {STUB_CPU}], eax",
    "    mov ebp, eax",
    "    rdtsc",
    "    mov [rbx + {REPORTED}], eax",
    "    mov [rbx + {REPORTED} + 4], edx",
    "    mov eax, {TURN_REQUEST}",
    "    xchg [rbx + {WORD}], eax",
    "    cmp dword ptr [rbx + {KERNEL_WAITS}], 0",
    "    je 2f",
    "    lea rdi, [rbx + {WORD}]",
    "    mov esi, {FUTEX_WAKE}",
    "    mov edx, 1",
    "    mov eax, {FUTEX}",
    "    syscall",
    // Wait for a command: spin if the kernel allows it and does not need this processor, then sleep.
    "2:  mov r8d, [rbx + {SPIN}]",
    "    test r8d, r8d",
    "    jz 4f",
    "    cmp ebp, [rbx + {KERNEL_CPU}]",
    "    je 4f",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    lea r9, [rax + r8]",
    "3:  cmp dword ptr [rbx + {WORD}], {TURN_COMMAND}",
    "    je 6f",
    "    pause",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    cmp rax, r9",
    "    jb 3b",
    "4:  mov eax, 1",
    "    xchg [rbx + {STUB_WAITS}], eax",
    "    lea rdi, [rbx + {WORD}]",
    "    mov esi, {FUTEX_WAIT}",
    "    xor r10d, r10d",
    "5:  mov edx, [rbx + {WORD}]",
    "    cmp edx, {TURN_COMMAND}",
    "    je 51f",
    "    mov eax, {FUTEX}",
    "    syscall",
    "    jmp 5b",
    "51: mov dword ptr [rbx + {STUB_WAITS}], 0",
    "6:  mov eax, [rbx + {COMMAND}]",
    "    cmp eax, {COMMAND_RETURN}",
    "    je 80f",
    "    cmp eax, {COMMAND_RESUME}",
    "    je 10f",
    "    cmp eax, {COMMAND_COPY_OUT}",
    "    je 31f",
    "    cmp eax, {COMMAND_COPY_IN}",
    "    je 32f",
    "    cmp eax, {COMMAND_CALLS}",
    "    je 20f",
    "    cmp eax, {COMMAND_EXCHANGE}",
    "    je 30f",
    "    cmp eax, {COMMAND_FORK}",
    "    je 40f",
    "    cmp eax, {COMMAND_SPAWN}",
    "    je 50f",
    "    cmp eax, {COMMAND_EXIT}",
    "    je 60f",
    "    cmp eax, {COMMAND_MATERIALISE}",
    "    je 95f",
    "    mov rax, -38",
    // Report a command's result.
    "7:  mov [rbx + {RESULT}], rax",
    "    mov dword ptr [rbx + {KIND}], {KIND_DONE}",
    "    jmp nacelle_stub_request",
    // Resume. From here to 83 an interrupt leads to 84.
    "82:",
    "10: cmp dword ptr [rbx + {INTERRUPTED}], 0",
    "    jne 84f",
    "    rdtsc",
    "    mov [rbx + {RESUMED}], eax",
    "    mov [rbx + {RESUMED} + 4], edx",
    "    mov rax, [rbx + {FS_BASE}]",
    "    wrfsbase rax",
    "    mov rax, [rbx + {GS_BASE}]",
    "    wrgsbase rax",
    "    mov rsp, [rbx + {UCONTEXT}]",
    "    mov eax, {RT_SIGRETURN}",
    "    syscall",
    "    ud2",
    // Return from a patched call.
    "80: cmp dword ptr [rbx + {INTERRUPTED}], 0",
    "    jne 84f",
    "    rdtsc",
    "    mov [rbx + {RESUMED}], eax",
    "    mov [rbx + {RESUMED} + 4], edx",
    "    mov rdi, [rbx + {FAST_RDI}]",
    "    mov rsi, [rbx + {FAST_RSI}]",
    "    mov rdx, [rbx + {FAST_RDX}]",
    "    mov r10, [rbx + {FAST_R10}]",
    "    mov r8, [rbx + {FAST_R8}]",
    "    mov r9, [rbx + {FAST_R9}]",
    "    mov rbp, [rbx + {FAST_RBP}]",
    "    mov r12, [rbx + {FAST_R12}]",
    "    mov r13, [rbx + {FAST_R13}]",
    "    mov r14, [rbx + {FAST_R14}]",
    "    mov r15, [rbx + {FAST_R15}]",
    "    mov eax, [rbx + {FAST_FLAGS}]",
    "    add al, 0x7f",
    "    sahf",
    "    mov rax, [rbx + {FAST_RAX}]",
    "    mov rcx, [rbx + {FAST_RIP}]",
    "    mov rsp, [rbx + {FAST_RSP}]",
    "    mov rbx, [rbx + {FAST_RBX}]",
    "    jmp rcx",
    "83:",
    "84: mov dword ptr [rbx + {INTERRUPTED}], 0",
    "    mov dword ptr [rbx + {KIND}], {KIND_INTERRUPTED}",
    "    jmp nacelle_stub_request",
    // Calls: r12 is the record, r13 how many are left, r14 the first error, rbp the last result.
    "20: lea r12, [rbx + {BUFFER}]",
    "    mov r13d, [rbx + {COUNT}]",
    "    xor r14d, r14d",
    "    xor ebp, ebp",
    "21: test r13d, r13d",
    "    jz 25f",
    "    test r14, r14",
    "    jz 22f",
    "    test dword ptr [r12 + 56], {CALL_ALWAYS}",
    "    jz 24f",
    "22: mov rax, [r12]",
    "    mov rdi, [r12 + 8]",
    "    mov rsi, [r12 + 16]",
    "    mov rdx, [r12 + 24]",
    "    mov r10, [r12 + 32]",
    "    mov r8, [r12 + 40]",
    "    mov r9, [r12 + 48]",
    "    syscall",
    "    test dword ptr [r12 + 56], {CALL_ALWAYS}",
    "    jnz 24f",
    "    cmp rax, -4095",
    "    jae 23f",
    "    mov rbp, rax",
    "    jmp 24f",
    "23: mov r14, rax",
    "24: add r12, {CALL_SIZE}",
    "    dec r13d",
    "    jmp 21b",
    "25: mov rax, rbp",
    "    test r14, r14",
    "    cmovnz rax, r14",
    "    jmp 7b",
    // Compare and exchange.
    "30: mov rdi, [rbx + {ARGUMENTS}]",
    "    mov eax, [rbx + {ARGUMENTS} + 8]",
    "    mov esi, [rbx + {ARGUMENTS} + 16]",
    "70: lock cmpxchg [rdi], esi",
    "    mov eax, eax",
    "    jmp 7b",
    "72: mov rax, -14",
    "    jmp 7b",
    // Copies. A fault leaves in rcx how many bytes are not copied.
    "31: mov rdi, [rbx + {ARGUMENTS}]",
    "    mov rsi, [rbx + {ARGUMENTS} + 8]",
    "    jmp 33f",
    "32: mov rsi, [rbx + {ARGUMENTS}]",
    "    mov rdi, [rbx + {ARGUMENTS} + 8]",
    "33: mov rcx, [rbx + {ARGUMENTS} + 16]",
    "    mov rbp, rcx",
    "    cld",
    "34: rep movsb",
    "35: mov rax, rbp",
    "    sub rax, rcx",
    "    jmp 7b",
    // Fork. The child must not touch the slot before it has its own.
    "40: mov edi, {FORK_FLAGS}",
    "    xor esi, esi",
    "    xor edx, edx",
    "    xor r10d, r10d",
    "    xor r8d, r8d",
    "    mov eax, {CLONE}",
    "    syscall",
    "    test rax, rax",
    "    jnz 7b",
    "    mov edi, {PR_SET_PDEATHSIG}",
    "    mov esi, 9",
    "    mov eax, {PRCTL}",
    "    syscall",
    "    movabs rdi, {SLOTS}",
    "    mov esi, {SLOTS_SIZE}",
    "    mov edx, 3",
    "    mov r10d, {SLOTS_FLAGS}",
    "    xor r8d, r8d",
    "    xor r9d, r9d",
    "    mov eax, {MMAP}",
    "    syscall",
    "    cmp rax, rdi",
    "    jne 61f",
    "    xor edi, edi",
    "    mov eax, {CLOSE}",
    "    syscall",
    "    xor eax, eax",
    "    jmp 7b",
    // Spawn. The child's slot is that of its stack pointer.
    "50: mov edi, {SPAWN_FLAGS}",
    "    mov rsi, [rbx + {ARGUMENTS}]",
    "    xor edx, edx",
    "    xor r10d, r10d",
    "    xor r8d, r8d",
    "    mov eax, {CLONE}",
    "    syscall",
    "    test rax, rax",
    "    jnz 7b",
    "    mov rbx, rsp",
    "    and rbx, -{SLOT_SIZE}",
    "    jmp 7b",
    // Exit. The slot is free for another thread as soon as the turn is not COMMAND any more.
    "60: mov dword ptr [rbx + {WORD}], {TURN_RUN}",
    "61: xor edi, edi",
    "    mov eax, {EXIT}",
    "    syscall",
    "    ud2",
    // A patched call site: r11 is where to return to, rax the number; rcx and r11 are the stub's, as a system call
    // destroys them. The flags are not.
    ".balign 64",
    "nacelle_stub_call:",
    "    mov rcx, rax",
    "    lahf",
    "    seto al",
    "90: cmp dword ptr gs:[{MAGIC}], {MAGIC_VALUE}",
    "    jne 92f",
    // What the kernel has answered beforehand.
    "    cmp rcx, {ANSWER_COUNT}",
    "    jae 91f",
    "    cmp ecx, {SCHED_YIELD}",
    "    je 96f",
    "97: cmp dword ptr gs:[{INTERRUPTED}], 0",
    "93: jne 91f",
    "    cmp dword ptr gs:[{ANSWERS} + rcx * 4], 0",
    "    je 91f",
    "    mov ecx, gs:[{ANSWERS} + rcx * 4]",
    "94: add al, 0x7f",
    "    sahf",
    "    lea eax, [rcx - 1]",
    "    mov rcx, r11",
    "    jmp r11",
    "91: mov gs:[{FAST_RBX}], rbx",
    "    rdgsbase rbx",
    "    mov [rbx + {FAST_FLAGS}], eax",
    "    mov [rbx + {FAST_RAX}], rcx",
    "    mov [rbx + {FAST_RIP}], r11",
    "    mov [rbx + {FAST_RSP}], rsp",
    "    mov [rbx + {FAST_RDI}], rdi",
    "    mov [rbx + {FAST_RSI}], rsi",
    "    mov [rbx + {FAST_RDX}], rdx",
    "    mov [rbx + {FAST_R10}], r10",
    "    mov [rbx + {FAST_R8}], r8",
    "    mov [rbx + {FAST_R9}], r9",
    "    mov [rbx + {FAST_RBP}], rbp",
    "    mov [rbx + {FAST_R12}], r12",
    "    mov [rbx + {FAST_R13}], r13",
    "    mov [rbx + {FAST_R14}], r14",
    "    mov [rbx + {FAST_R15}], r15",
    "    rdfsbase rax",
    "    mov [rbx + {FS_BASE}], rax",
    "    mov dword ptr [rbx + {KIND}], {KIND_CALL}",
    // The beginning of what an argument points to goes along, unless it may lie on two pages.
    "    mov dword ptr [rbx + {SENT}], 0",
    "    cmp rcx, {POINTER_COUNT}",
    "    jae nacelle_stub_request",
    "    movzx eax, byte ptr [rbx + {POINTERS} + rcx]",
    "    test eax, eax",
    "    jz nacelle_stub_request",
    "    mov rsi, [rbx + rax * 8]",
    "    mov eax, esi",
    "    and eax, 0xfff",
    "    cmp eax, 4096 - {SENT_SIZE}",
    "    ja nacelle_stub_request",
    "    xor ecx, ecx",
    "98: mov rdx, [rsi + rcx]",
    "    mov [rbx + {SENT_BYTES} + rcx], rdx",
    "    add ecx, 8",
    "    cmp ecx, {SENT_SIZE}",
    "    jb 98b",
    "    mov dword ptr [rbx + {SENT}], {SENT_SIZE}",
    "    jmp nacelle_stub_request",
    // The GS base is not ours: the call is made by the genuine instruction, which always lies before r11.
    "92: add al, 0x7f",
    "    sahf",
    "    mov rax, rcx",
    "    lea r11, [r11 - 2]",
    "    jmp r11",
    // To let others run needs the host, but not the kernel.
    "96: cmp dword ptr gs:[{ANSWERS} + {SCHED_YIELD} * 4], 0",
    "    je 91b",
    "    mov gs:[{FAST_FLAGS}], eax",
    "    mov gs:[{FAST_RIP}], r11",
    "    mov eax, {SCHED_YIELD}",
    "    syscall",
    "    mov r11, gs:[{FAST_RIP}]",
    "    mov eax, gs:[{FAST_FLAGS}]",
    "    mov ecx, {SCHED_YIELD}",
    "    jmp 97b",
    // Run into a signal.
    "95: ud2",
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
    SENT = const SENT,
    SENT_BYTES = const SENT_BYTES,
    SENT_SIZE = const SENT_SIZE,
    POINTERS = const POINTERS,
    POINTER_COUNT = const POINTER_COUNT,
    KIND_CALL = const KIND_CALL,
    KIND_INTERRUPTED = const KIND_INTERRUPTED,
    COMMAND_RETURN = const COMMAND_RETURN,
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
    RESUMED = const RESUMED,
    REPORTED = const REPORTED,
    BUFFER = const BUFFER,
    CALL_SIZE = const CALL_SIZE,
    CALL_ALWAYS = const CALL_ALWAYS,
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
    CLONE = const libc::SYS_clone,
    PRCTL = const libc::SYS_prctl,
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
}

/// The code as bytes, to be copied to [`TEXT`].
pub fn text() -> &'static [u8] {
    let (start, end) = (&raw const nacelle_stub_start, &raw const nacelle_stub_end);
    // SAFETY: the labels delimit a read-only section of this program, laid out by the assembler above.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
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
    use iced_x86::{Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, OpKind};

    #[test]
    fn the_code_stands_alone_and_leaves_the_fpu_alone() {
        let code = text();
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
        assert_eq!(returns, 3);
    }
}
