    // rt_sigaction(2) of a signal that has the default action, and keeps it: rcx is its bit, r8 and r9 the signals whose
    // action is the default. r11 stays.
.Lrt_sigaction:
    lea ecx, [rdi - 1]
    cmp ecx, 63
    ja nacelle_stub_request
    cmp r10, 8
    jne nacelle_stub_request
    movabs r10, {OBJECT_LAST}
    cmp rsi, r10
    ja nacelle_stub_request
    cmp rdx, r10
    ja nacelle_stub_request
    mov r8, [rbx + {PRISTINE}]
    mov r9, [rbx + {RESTORED}]
    mov r10, r8
    or r10, r9
    bt r10, rcx
    jnc nacelle_stub_request
    test rsi, rsi
    jz .Lrt_sigaction_old
    mov r10, [rbx + {SETTABLE}]
    bt r10, rcx
    jnc nacelle_stub_request
.Lrt_sigaction_touches:
    cmp qword ptr [rsi], 0
    jne nacelle_stub_request
    cmp qword ptr [rsi + 8], {SA_RESTORER}
    jne nacelle_stub_request
    mov r10, [rsi + 16]
    cmp r10, [rbx + {RESTORER}]
    jne nacelle_stub_request
    cmp qword ptr [rsi + 24], 0
    jne nacelle_stub_request
.Lrt_sigaction_old:
    test rdx, rdx
    jz .Lrt_sigaction_commits
    xor r10d, r10d
    mov [rdx], r10
    mov [rdx + 24], r10
    xor r8d, r8d
    bt r9, rcx
    jnc .Lrt_sigaction_fill
    mov r8d, {SA_RESTORER}
    mov r10, [rbx + {RESTORER}]
.Lrt_sigaction_fill:
    mov [rdx + 8], r8
    mov [rdx + 16], r10
    // From here on an interrupt makes the kernel serve the call, until it is done.
.Lrt_sigaction_commits:
    cmp dword ptr [rbx + {INTERRUPTED}], 0
    jne nacelle_stub_request
    mov r10, [rbx + {FAST_R10}]
    mov r8, [rbx + {FAST_R8}]
    mov r9, [rbx + {FAST_R9}]
    mov eax, [rbx + {FAST_FLAGS}]
    mov rbx, [rbx + {FAST_RBX}]
    test rsi, rsi
    jz .Lrt_sigaction_taken
    btr gs:[{PRISTINE}], rcx
    bts gs:[{RESTORED}], rcx
.Lrt_sigaction_taken:
    add al, 0x7f
    sahf
    mov eax, 0
    mov rcx, r11
    jmp r11
.Lrt_sigaction_ends:
    // set_robust_list(2): the mask stays as it is.
.Lset_robust_list:
    cmp dword ptr [rbx + {OWN}], 0
    je nacelle_stub_request
    cmp rsi, 24
    jne nacelle_stub_request
    mov [rbx + {ROBUST_LIST}], rdi
    mov r8, [rbx + {MASK}]
    jmp .Lown_mask
    // rt_sigprocmask(2): r9 is the mask before, r8 the one after.
.Lrt_sigprocmask:
    cmp dword ptr [rbx + {OWN}], 0
    je .Lsend
    cmp r10, 8
    jne nacelle_stub_request
    // The stub's own memory is none of the guest's.
    movabs rcx, {OBJECT_LAST}
    cmp rsi, rcx
    ja nacelle_stub_request
    cmp rdx, rcx
    ja nacelle_stub_request
    mov r9, [rbx + {MASK}]
    mov r8, r9
    test rsi, rsi
    jz .Lrt_sigprocmask_old
    // Where the old mask overwrites the new one, the call cannot be made twice.
    lea rcx, [rdx + 7]
    sub rcx, rsi
    cmp rcx, 14
    jbe nacelle_stub_request
.Lrt_sigprocmask_touches:
    mov r8, [rsi]
    cmp edi, 1
    jb .Lsig_block
    je .Lsig_unblock
    cmp edi, 2
    jne nacelle_stub_request
    jmp .Lsig_setmask
.Lsig_block:
    or r8, r9
    jmp .Lsig_setmask
.Lsig_unblock:
    not r8
    and r8, r9
.Lsig_setmask:
    and r8, {BLOCKABLE}
.Lrt_sigprocmask_old:
    test rdx, rdx
    jz .Lown_mask
    mov [rdx], r9
    jmp .Lown_mask
    // rseq(2), which the kernel does not have.
.Lrseq:
    cmp dword ptr [rbx + {OWN}], 0
    je nacelle_stub_request
    // From here on an interrupt makes the kernel serve the call, until it is done.
.Lown_commits:
    cmp dword ptr [rbx + {INTERRUPTED}], 0
    jne nacelle_stub_request
    mov eax, [rbx + {FAST_FLAGS}]
    mov rbx, [rbx + {FAST_RBX}]
    jmp .Lrseq_taken
.Lown_mask:
    cmp dword ptr [rbx + {INTERRUPTED}], 0
    jne nacelle_stub_request
    mov rcx, r8
    mov r10, [rbx + {FAST_R10}]
    mov r8, [rbx + {FAST_R8}]
    mov r9, [rbx + {FAST_R9}]
    mov eax, [rbx + {FAST_FLAGS}]
    mov rbx, [rbx + {FAST_RBX}]
    mov gs:[{MASK}], rcx
.Lown_taken:
    add al, 0x7f
    sahf
    mov eax, 0
    mov rcx, r11
    jmp r11
.Lrseq_taken:
    add al, 0x7f
    sahf
    mov rax, -38
    mov rcx, r11
    jmp r11
.Lown_ends:
    // What the guest does by itself with an open file. The entry of its descriptor is looked at again when it is known to
    // the kernel which file is about to be used. ebx: the calls that the thread may make.
.Ldirect:
    mov gs:[{FAST_RBX}], rbx
    mov ebx, gs:[{ALLOWED}]
    bt ebx, ecx
    jnc .Ldirect_forbidden
    mov gs:[{FAST_FLAGS}], eax
    mov gs:[{FAST_RIP}], r11
    mov ebx, edi
    and ebx, {ENTRIES} - 1
    movabs r11, {TABLE}
    lea rbx, [r11 + rbx * 8]
    mov r11, [rbx]
    cmp r11d, edi
    jne .Ldirect_give_up
    lea eax, [rcx + {ENTRY_CALLS}]
    bt r11, rax
    jnc .Ldirect_give_up
    cmp ecx, {LSEEK}
    je .Ldirect_touched
    // The stub's own memory is none of the guest's. Nor is memory that is not there the host's business, since the stack
    // may yet grow to be it: a fault of the first byte is the kernel's.
    lea rax, [rdx - 1]
    cmp rax, {DIRECT_MAX} - 1
    ja .Ldirect_give_up
    add rax, rsi
    shr rax, 32
    cmp eax, {GUEST_END_HIGH}
    jae .Ldirect_give_up
    mov eax, {READING}
    bt eax, ecx
    jnc .Ldirect_reads
.Ldirect_touches:
    lock or byte ptr [rsi], 0
    jmp .Ldirect_touched
.Ldirect_reads:
    cmp byte ptr [rsi], 0
.Ldirect_touched:
    mov rax, r11
    shr rax, 32
    movzx eax, al
    xchg gs:[{HAZARD}], eax
    cmp [rbx], r11
    jne .Ldirect_give_up
    mov eax, gs:[{ALLOWED}]
    bt eax, ecx
    jnc .Ldirect_give_up
    mov gs:[{FAST_RDI}], rdi
    mov gs:[{FAST_RAX}], rcx
    mov rdi, r11
    shr rdi, 32
    movzx edi, dil
    mov eax, ecx
    syscall
    mov rdi, gs:[{FAST_RDI}]
    mov rbx, gs:[{FAST_RBX}]
    mov r11, gs:[{FAST_RIP}]
    mov dword ptr gs:[{HAZARD}], 0
    // Nothing has been done: the kernel may say why.
    cmp rax, -4095
    jae .Ldirect_failed
    mov rcx, rax
.Ldone_in_rcx:
    mov eax, gs:[{FAST_FLAGS}]
    cmp dword ptr gs:[{INTERRUPTED}], 0
.Ldone_commits:
    jne .Lreport_answered
    // From here on the call is done.
.Ldone_taken:
    add al, 0x7f
    sahf
    mov rax, rcx
    mov rcx, r11
    jmp r11
.Ldone_ends:
.Ldirect_failed:
    mov rcx, gs:[{FAST_RAX}]
    mov eax, gs:[{FAST_FLAGS}]
    jmp .Lcall_kernel
.Ldirect_give_up:
    mov dword ptr gs:[{HAZARD}], 0
.Lgive_up:
    mov r11, gs:[{FAST_RIP}]
    mov eax, gs:[{FAST_FLAGS}]
.Ldirect_forbidden:
    mov rbx, gs:[{FAST_RBX}]
    jmp .Lcall_kernel
    // futex(2). To wait for a word that has another value is to fail, and whether one does so is as if the call came when it was
    // looked at last: so it may be looked at for a while, in which no interrupt may get lost. To wake nobody needs no kernel
    // either. All else does.
.Lfutex:
    cmp dword ptr gs:[{ANSWERS} + {FUTEX} * 4], 0
    je .Lcall_kernel
    mov gs:[{FAST_RBX}], rbx
    mov gs:[{FAST_FLAGS}], eax
    mov gs:[{FAST_RIP}], r11
    movabs rax, {OBJECT_LAST}
    cmp rdi, rax
    ja .Lgive_up
    test dil, 3
    jnz .Lgive_up
    mov ebx, esi
    and ebx, {FUTEX_OPERATION}
    je .Lfutex_wait
    cmp ebx, {FUTEX_WAIT_BITSET}
    je .Lfutex_wait_bitset
    // Waking, as which only a word of the process's own is known here. The guest has changed the word, and the count must not be
    // older than that: a thread that is about to wait counts itself before it looks at the word.
    cmp esi, {FUTEX_WAKE_PRIVATE}
    je .Lfutex_wake
    cmp esi, {FUTEX_WAKE_BITSET_PRIVATE}
    jne .Lgive_up
    test r9d, r9d
    jz .Lgive_up
.Lfutex_wake:
    lock or dword ptr gs:[{WATCH}], 0
    imul eax, edi, {WAITERS_FACTOR}
    shr eax, {WAITERS_SHIFT}
    movabs rbx, {WAITERS}
    cmp dword ptr [rbx + rax * 4], 0
    jne .Lgive_up
    xor ecx, ecx
    jmp .Lfutex_answered
.Lfutex_wait_bitset:
    test r9d, r9d
    jz .Lgive_up
.Lfutex_wait:
    test r10, r10
    jz .Lfutex_looks
    // A time that is wrong, or so short that it may pass meanwhile.
    cmp r10, rax
    ja .Lgive_up
.Lfutex_touches:
    mov rax, [r10]
    mov rbx, [r10 + 8]
    test rax, rax
    js .Lgive_up
    cmp rbx, 999999999
    ja .Lgive_up
    test rax, rax
    jnz .Lfutex_looks
    cmp rbx, {WATCH_SHORT}
    jb .Lgive_up
.Lfutex_looks:
    cmp [rdi], edx
    jne .Lfutex_differs
    mov ebx, gs:[{WATCH}]
    test ebx, ebx
    jz .Lgive_up
    // rcx: the value, rbx: until when, r11: when to look. Not all the time: to look makes the word slower for those who change
    // it, and of two that want the same lock, each gets more done if it keeps it for a while.
    mov gs:[{FAST_RDX}], rdx
    mov ecx, edx
    rdtsc
    shl rdx, 32
    or rax, rdx
    add rbx, rax
.Lfutex_watches:
    mov r11d, gs:[{WATCH}]
    shr r11d, {WATCH_SHIFT}
    add r11, rax
.Lfutex_rests:
    pause
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, r11
    jb .Lfutex_rests
.Lfutex_looks_again:
    cmp [rdi], ecx
.Lfutex_touched:
    jne .Lfutex_changed
    cmp dword ptr gs:[{INTERRUPTED}], 0
    jne .Lfutex_in_vain
    cmp rax, rbx
    jb .Lfutex_watches
    mov dword ptr gs:[{WATCH}], 0
.Lfutex_in_vain:
    mov rdx, gs:[{FAST_RDX}]
    mov ecx, {FUTEX}
    jmp .Lgive_up
.Lfutex_changed:
    mov rdx, gs:[{FAST_RDX}]
    inc dword ptr gs:[{WATCHED}]
.Lfutex_differs:
    mov rcx, -{EAGAIN}
.Lfutex_answered:
    mov rbx, gs:[{FAST_RBX}]
    mov r11, gs:[{FAST_RIP}]
    jmp .Ldone_in_rcx
    // The call is done, and there has been an interrupt.
.Lreport_answered:
    mov dword ptr gs:[{KIND}], {KIND_ANSWERED}
    jmp .Lreport_call
