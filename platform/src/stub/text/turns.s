    // Hand over the turn. What a kernel thread that spins looks at is not written in vain: it would have to go there and back.
nacelle_stub_request:
nacelle_stub_processor:
    mov eax, 0x7b
    lsl eax, eax
    and eax, 0xfff
    mov ebp, eax
    cmp [rbx + {STUB_CPU}], eax
    je .Lsame_processor
    mov [rbx + {STUB_CPU}], eax
.Lsame_processor:
    cmp dword ptr [rbx + {KERNEL_WAITS}], 0
    je .Lhand_over
    rdtsc
    mov [rbx + {REPORTED}], eax
    mov [rbx + {REPORTED} + 4], edx
.Lhand_over:
    mov eax, {TURN_REQUEST}
    xchg [rbx + {WORD}], eax
    cmp dword ptr [rbx + {KERNEL_WAITS}], 0
    je .Lawait
    lea rdi, [rbx + {WORD}]
    mov esi, {FUTEX_WAKE}
    mov edx, 1
    mov eax, {FUTEX}
    syscall
    // Wait for a command: spin if the kernel allows it and does not need this processor, then sleep.
.Lawait:
    mov r8d, [rbx + {SPIN}]
    test r8d, r8d
    jz .Lsleep
    cmp ebp, [rbx + {KERNEL_CPU}]
    je .Lsleep
    rdtsc
    shl rdx, 32
    or rax, rdx
    lea r9, [rax + r8]
    // To look is cheap, and to find out what time it is, is not.
.Lspin:
.rept {LOOKS}
    cmp dword ptr [rbx + {WORD}], {TURN_COMMAND}
    je .Lcommanded
    pause
.endr
    cmp dword ptr [rbx + {SPIN}], 0
    je .Lsleep
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, r9
    jb .Lspin
.Lsleep:
    mov eax, 1
    xchg [rbx + {STUB_WAITS}], eax
    lea rdi, [rbx + {WORD}]
    mov esi, {FUTEX_WAIT}
    xor r10d, r10d
.Lsleep_again:
    mov edx, [rbx + {WORD}]
    cmp edx, {TURN_COMMAND}
    je .Lawake
    mov eax, {FUTEX}
    syscall
    jmp .Lsleep_again
.Lawake:
    mov dword ptr [rbx + {STUB_WAITS}], 0
    rdtsc
    mov [rbx + {WOKEN}], eax
    mov [rbx + {WOKEN} + 4], edx
.Lcommanded:
    mov rcx, [rbx + {DELIVERY}]
    test rcx, rcx
    jnz .Ldeliver
.Lobey:
    mov eax, [rbx + {COMMAND}]
    cmp eax, {COMMAND_RETURN}
    je .Lreturn
    cmp eax, {COMMAND_RESUME}
    je .Lresume
    cmp eax, {COMMAND_COPY_OUT}
    je .Lcopy_out
    cmp eax, {COMMAND_COPY_IN}
    je .Lcopy_in
    cmp eax, {COMMAND_CALLS}
    je .Lcalls
    cmp eax, {COMMAND_EXCHANGE}
    je .Lexchange
    cmp eax, {COMMAND_FORK}
    je .Lfork
    cmp eax, {COMMAND_SPAWN}
    je .Lspawn
    cmp eax, {COMMAND_EXIT}
    je .Lexit
    cmp eax, {COMMAND_RETURN_FS}
    je .Lreturn_fs
    cmp eax, {COMMAND_MATERIALISE}
    je .Lmaterialise
    mov rax, -38
    // Report a command's result.
.Ldone:
    mov [rbx + {RESULT}], rax
    mov dword ptr [rbx + {KIND}], {KIND_DONE}
    jmp nacelle_stub_request
    // Resume. An interrupt from here on, until the guest is there, undoes it.
.Lresume_begins:
.Lresume:
    cmp dword ptr [rbx + {INTERRUPTED}], 0
    jne .Lresume_interrupted
    mov rax, [rbx + {FS_BASE}]
    wrfsbase rax
    mov rax, [rbx + {GS_BASE}]
    wrgsbase rax
    mov rsp, [rbx + {UCONTEXT}]
    mov eax, {RT_SIGRETURN}
    syscall
    ud2
    // Return from a patched call, and by the way set the FS base.
.Lreturn_fs:
    mov rax, [rbx + {FS_BASE}]
    wrfsbase rax
.Lreturn:
    cmp dword ptr [rbx + {INTERRUPTED}], 0
    jne .Lresume_interrupted
    mov rdi, [rbx + {FAST_RDI}]
    mov rsi, [rbx + {FAST_RSI}]
    mov rdx, [rbx + {FAST_RDX}]
    mov r10, [rbx + {FAST_R10}]
    mov r8, [rbx + {FAST_R8}]
    mov r9, [rbx + {FAST_R9}]
    mov rbp, [rbx + {FAST_RBP}]
    mov r12, [rbx + {FAST_R12}]
    mov r13, [rbx + {FAST_R13}]
    mov r14, [rbx + {FAST_R14}]
    mov r15, [rbx + {FAST_R15}]
    mov eax, [rbx + {FAST_FLAGS}]
    add al, 0x7f
    sahf
    mov rax, [rbx + {FAST_RAX}]
    mov rcx, [rbx + {FAST_RIP}]
    mov rsp, [rbx + {FAST_RSP}]
    mov rbx, [rbx + {FAST_RBX}]
    jmp rcx
.Lresume_ends:
.Lresume_interrupted:
    mov dword ptr [rbx + {INTERRUPTED}], 0
    mov dword ptr [rbx + {KIND}], {KIND_INTERRUPTED}
    jmp nacelle_stub_request
    // Calls: r12 is the record, r13 how many are left, r14 the first error, rbp the last result; r15 says whether they come
    // before another command, of which nothing is left then if one fails.
.Lcalls:
    xor r15d, r15d
    mov r13d, [rbx + {COUNT}]
.Lrecords:
    lea r12, [rbx + {BUFFER}]
    xor r14d, r14d
    xor ebp, ebp
.Lnext_record:
    test r13d, r13d
    jz .Lrecords_done
    test r14, r14
    jz .Lmake_record
    test dword ptr [r12 + 56], {CALL_ALWAYS}
    jz .Lrecord_done
.Lmake_record:
    test dword ptr [r12 + 56], {CALL_COPY}
    jnz .Lrecord_copy
    mov rax, [r12]
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rdx, [r12 + 24]
    mov r10, [r12 + 32]
    mov r8, [r12 + 40]
    mov r9, [r12 + 48]
    syscall
    test dword ptr [r12 + 56], {CALL_ALWAYS}
    jnz .Lrecord_done
    cmp rax, -4095
    jae .Lrecord_failed
    mov rbp, rax
    jmp .Lrecord_done
.Lrecord_failed:
    mov r14, rax
.Lrecord_done:
    add r12, {CALL_SIZE}
    dec r13d
    jmp .Lnext_record
    // No call, but a copy.
.Lrecord_copy:
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rcx, [r12 + 24]
    cld
.Lrecord_copy_bytes:
    rep movsb
    jmp .Lrecord_done
.Lrecord_copy_failed:
    mov r14, -14
    jmp .Lrecord_done
.Lrecords_done:
    mov rax, rbp
    test r14, r14
    cmovnz rax, r14
    jnz .Ldone
    test r15d, r15d
    jnz .Lobey
    jmp .Ldone
    // Compare and exchange.
.Lexchange:
    mov rdi, [rbx + {ARGUMENTS}]
    mov eax, [rbx + {ARGUMENTS} + 8]
    mov esi, [rbx + {ARGUMENTS} + 16]
.Lexchange_word:
    lock cmpxchg [rdi], esi
    mov eax, eax
    jmp .Ldone
.Lexchange_failed:
    mov rax, -14
    jmp .Ldone
    // Copies. A fault leaves in rcx how many bytes are not copied.
.Lcopy_out:
    mov rdi, [rbx + {ARGUMENTS}]
    mov rsi, [rbx + {ARGUMENTS} + 8]
    jmp .Lcopy
.Lcopy_in:
    mov rsi, [rbx + {ARGUMENTS}]
    mov rdi, [rbx + {ARGUMENTS} + 8]
.Lcopy:
    mov rcx, [rbx + {ARGUMENTS} + 16]
    mov rbp, rcx
    cld
.Lcopy_bytes:
    rep movsb
.Lcopied:
    mov rax, rbp
    sub rax, rcx
    jmp .Ldone
    // Fork. The child must not touch the slot before it has its own.
.Lfork:
    mov edi, {FORK_FLAGS}
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    mov eax, {CLONE}
    syscall
    test rax, rax
    jnz .Ldone
    mov edi, {PR_SET_PDEATHSIG}
    mov esi, 9
    mov eax, {PRCTL}
    syscall
    // Ask for it, then map it.
    xor edi, edi
    mov esi, {PAGE}
    xor edx, edx
    mov r10d, {ASK_FLAGS}
    mov r8, -1
    xor r9d, r9d
    mov eax, {MMAP}
    syscall
    movabs rdi, {SLOTS}
    mov esi, {SLOTS_SIZE}
    mov edx, 3
    mov r10d, {SLOTS_FLAGS}
    mov r8d, {SLOTS_FILE}
    mov eax, {MMAP}
    syscall
    cmp rax, rdi
    jne .Lexit_now
    mov edi, {SLOTS_FILE}
    mov eax, {CLOSE}
    syscall
    xor eax, eax
    jmp .Ldone
    // Spawn. The child's slot is that of its stack pointer.
.Lspawn:
    mov edi, {SPAWN_FLAGS}
    mov rsi, [rbx + {ARGUMENTS}]
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    mov eax, {CLONE}
    syscall
    test rax, rax
    jnz .Ldone
    mov rbx, rsp
    and rbx, -{SLOT_SIZE}
    jmp .Ldone
    // Exit. The slot is free for another thread as soon as the turn is not COMMAND any more.
.Lexit:
    mov dword ptr [rbx + {WORD}], {TURN_RUN}
.Lexit_now:
    xor edi, edi
    mov eax, {EXIT}
    syscall
    ud2
    // Run into a signal.
.Lmaterialise:
    ud2
    // What the guest is to find in its memory; a fault is reported in place of what the command is. Or changes of its memory.
.Ldeliver:
    mov r13, rcx
    shr r13, 32
    jnz .Lmake_pending
    mov rdi, [rbx + {DELIVERY_ADDRESS}]
    lea rsi, [rbx + {BUFFER}]
    mov ebp, ecx
    cld
.Ldeliver_bytes:
    rep movsb
    jmp .Lobey
.Lmake_pending:
    mov r15d, 1
    jmp .Lrecords
