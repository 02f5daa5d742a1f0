    // A patched call site: r11 is where to return to, rax the number; rcx and r11 are the stub's, as a system call
    // destroys them. The flags are not.
.balign 64
nacelle_stub_call:
    mov rcx, rax
    lahf
    seto al
.Lcall_checks_gs:
    cmp dword ptr gs:[{MAGIC}], {MAGIC_VALUE}
    jne .Lforeign_gs
    // What the kernel has answered beforehand.
    cmp rcx, {ANSWER_COUNT}
    jae .Lcall_kernel
    cmp ecx, {SCHED_YIELD}
    jb .Ldirect
    je .Lsched_yield
    cmp ecx, {FUTEX}
    je .Lfutex
.Lanswer:
    cmp dword ptr gs:[{INTERRUPTED}], 0
.Lanswer_begins:
    jne .Lcall_kernel
    cmp dword ptr gs:[{ANSWERS} + rcx * 4], 0
    je .Lcall_kernel
    mov ecx, gs:[{ANSWERS} + rcx * 4]
.Lanswer_taken:
    add al, 0x7f
    sahf
    lea eax, [rcx - 1]
    mov rcx, r11
    jmp r11
.Lanswer_ends:
.Lcall_kernel:
    cmp dword ptr gs:[{KIND}], {KIND_CALL}
    je .Lreport_call
    mov dword ptr gs:[{KIND}], {KIND_CALL}
.Lreport_call:
    mov gs:[{FAST_RBX}], rbx
    rdgsbase rbx
    mov [rbx + {FAST_FLAGS}], eax
    mov [rbx + {FAST_RAX}], rcx
    mov [rbx + {FAST_RIP}], r11
    mov [rbx + {FAST_RSP}], rsp
    mov [rbx + {FAST_RDI}], rdi
    mov [rbx + {FAST_RSI}], rsi
    mov [rbx + {FAST_RDX}], rdx
    mov [rbx + {FAST_R10}], r10
    mov [rbx + {FAST_R8}], r8
    mov [rbx + {FAST_R9}], r9
    mov [rbx + {FAST_RBP}], rbp
    mov [rbx + {FAST_R12}], r12
    mov [rbx + {FAST_R13}], r13
    mov [rbx + {FAST_R14}], r14
    mov [rbx + {FAST_R15}], r15
    rdfsbase rax
    cmp [rbx + {FS_BASE}], rax
    je .Lsame_fs
    mov [rbx + {FS_BASE}], rax
.Lsame_fs:
    cmp dword ptr [rbx + {KIND}], {KIND_CALL}
    jne nacelle_stub_request
    // The beginning of what an argument points to goes along, unless it may lie on two pages.
    mov dword ptr [rbx + {SENT}], 0
    cmp rcx, {RT_SIGACTION}
    je .Lrt_sigaction
    cmp rcx, {RT_SIGPROCMASK}
    je .Lrt_sigprocmask
    cmp rcx, {SET_ROBUST_LIST}
    je .Lset_robust_list
    cmp rcx, {RSEQ}
    je .Lrseq
.Lsend:
    cmp rcx, {POINTER_COUNT}
    jae nacelle_stub_request
    movzx eax, byte ptr [rbx + {POINTERS} + rcx]
    test eax, eax
    jz nacelle_stub_request
    test al, {SENT_ALL} | {SENT_STATE}
    jnz .Lsend_all
    mov rsi, [rbx + rax * 8]
    test rsi, rsi
    jz nacelle_stub_request
    mov eax, esi
    and eax, 0xfff
    cmp eax, 4096 - {SENT_SIZE}
    ja nacelle_stub_request
    xor ecx, ecx
.Lsend_word:
    mov rdx, [rsi + rcx]
    mov [rbx + {SENT_BYTES} + rcx], rdx
    add ecx, 8
    cmp ecx, {SENT_SIZE}
    jb .Lsend_word
    mov dword ptr [rbx + {SENT}], {SENT_SIZE}
    jmp nacelle_stub_request
    // All of it, to the buffer: the third argument is its length.
.Lsend_all:
    cmp al, {SENT_STATE}
    je .Lsend_state
    and eax, 0x7f
    mov rsi, [rbx + rax * 8]
    mov rcx, [rbx + {FAST_RDX}]
    cmp rcx, {SENT_ALL_MAX}
    ja nacelle_stub_request
    lea rdi, [rbx + {BUFFER}]
    mov ebp, ecx
    cld
.Lsend_bytes:
    rep movsb
    mov [rbx + {SENT}], ebp
    jmp nacelle_stub_request
    // The state of a thread that may be about to make another.
.Lsend_state:
    mov eax, [rbx + {FEATURES}]
    mov edx, [rbx + {FEATURES} + 4]
    xsave64 [rbx + {BUILT_FPU}]
    mov dword ptr [rbx + {SENT}], 1
    jmp nacelle_stub_request
    // The GS base is not ours: the call is made by the genuine instruction, which always lies before r11.
.Lforeign_gs:
    add al, 0x7f
    sahf
    mov rax, rcx
    lea r11, [r11 - 2]
    jmp r11
    // To let others run needs the host, but not the kernel.
.Lsched_yield:
    cmp dword ptr gs:[{ANSWERS} + {SCHED_YIELD} * 4], 0
    je .Lcall_kernel
    mov gs:[{FAST_FLAGS}], eax
    mov gs:[{FAST_RIP}], r11
    mov eax, {SCHED_YIELD}
    syscall
    mov r11, gs:[{FAST_RIP}]
    mov eax, gs:[{FAST_FLAGS}]
    mov ecx, {SCHED_YIELD}
    jmp .Lanswer
