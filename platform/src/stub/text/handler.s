    // The handler of all signals: rdi is the signal, rsi the siginfo, rdx the ucontext, rsp the frame's lowest byte. The guest's
    // registers are in the frame.
nacelle_stub_handler:
    mov rbx, rsp
    and rbx, -{SLOT_SIZE}
    mov rax, [rdx + {FRAME_RIP}]
    lea rcx, [rip + nacelle_stub_start]
    cmp rax, rcx
    jb .Lreport_signal
    lea rcx, [rip + nacelle_stub_end]
    cmp rax, rcx
    jae .Lreport_signal

    // Goes to `target` if rax is an address from `first` up to `end`.
.macro within first, end, target
    lea rcx, [rip + \first]
    lea r8, [rip + \end]
    sub r8, rcx
    mov r9, rax
    sub r9, rcx
    cmp r9, r8
    jb \target
.endm
    // Continues at `target` if rax is an address from `first` up to `end`.
.macro within_continue first, end, target
    lea rcx, [rip + \first]
    lea r8, [rip + \end]
    sub r8, rcx
    mov r9, rax
    sub r9, rcx
    lea rcx, [rip + \target]
    cmp r9, r8
    jb .Lcontinue
.endm
    // Continues at `target` if rax is the address `at`.
.macro at_continue at, target
    lea rcx, [rip + \at]
    cmp rax, rcx
    lea rcx, [rip + \target]
    je .Lcontinue
.endm

    // In the stub itself. An interrupt before a resumption is complete undoes it; at an answer that is not taken yet, it
    // makes the kernel answer; at one that is, the guest is where it is, all of its state in registers; behind a call that
    // the host has made for it, the kernel hears of that; elsewhere, the interrupt is remembered. It can only come here from
    // a patched call: the other handlers block it.
    cmp edi, {INTERRUPT_SIGNAL}
    jne .Lno_interrupt
    within .Lresume_begins, .Lresume_ends, .Lundo_resume
    within .Lanswer_begins, .Lanswer_taken, .Lundo_answer
    within .Lanswer_taken, .Lanswer_ends, .Lreport_signal
    within .Lrt_sigaction_commits, .Lrt_sigaction_taken, .Lask_kernel
    within .Lrt_sigaction_taken, .Lrt_sigaction_ends, .Lreport_signal
    within .Lown_commits, .Lown_taken, .Lask_kernel
    within .Lown_taken, .Lown_ends, .Lreport_signal
    within .Ldone_commits, .Ldone_taken, .Lanswered
    within .Ldone_taken, .Ldone_ends, .Lreport_signal
    mov dword ptr [rbx + {INTERRUPTED}], 1
    jmp .Lback
.Lundo_answer:
    lea rcx, [rip + .Lcall_kernel]
    jmp .Lmark
.Lanswered:
    lea rcx, [rip + .Lreport_answered]
.Lmark:
    mov dword ptr [rbx + {INTERRUPTED}], 1
    jmp .Lcontinue
.Lundo_resume:
    lea rcx, [rip + .Lresume_interrupted]
    jmp .Lwith_slot
.Lask_kernel:
    lea rcx, [rip + nacelle_stub_request]
.Lwith_slot:
    mov [rdx + {FRAME_RBX}], rbx
    jmp .Lcontinue

    // A guest that single-steps does not step through the stub.
.Lno_interrupt:
    cmp edi, {SIGTRAP}
    je .Lback
    // A fault of an access that the kernel asked for: continue at its failure branch.
    at_continue .Lexchange_word, .Lexchange_failed
    at_continue .Lcopy_bytes, .Lcopied
    at_continue .Ldeliver_bytes, .Lcopied
    at_continue .Lrecord_copy_bytes, .Lrecord_copy_failed
    // What is sent along with a call cannot be read, or what it asks for not be written: the kernel's business.
    at_continue .Lsend_word, nacelle_stub_request
    at_continue .Lsend_bytes, nacelle_stub_request
    within_continue .Lrt_sigaction_touches, .Lrt_sigaction_commits, nacelle_stub_request
    within_continue .Lrt_sigprocmask_touches, .Lown_commits, nacelle_stub_request
    within_continue .Ldirect_touches, .Ldirect_touched, .Ldirect_give_up
    at_continue .Lfutex_looks_again, .Lfutex_in_vain
    within_continue .Lfutex_touches, .Lfutex_touched, .Lgive_up
    // A guest with a GS base of its own.
    at_continue .Lcall_checks_gs, .Lforeign_gs

.Lreport_signal:
    rdfsbase rax
    mov [rbx + {FS_BASE}], rax
    rdgsbase rax
    mov [rbx + {GS_BASE}], rax
    mov [rbx + {SIGNAL}], edi
    mov [rbx + {SIGINFO}], rsi
    mov [rbx + {UCONTEXT}], rdx
    mov dword ptr [rbx + {KIND}], {KIND_SIGNAL}
    jmp nacelle_stub_request

.Lcontinue:
    mov [rdx + {FRAME_RIP}], rcx
.Lback:
    mov rsp, rdx
nacelle_stub_restorer:
    mov eax, {RT_SIGRETURN}
    syscall
    ud2

.purgem within
.purgem within_continue
.purgem at_continue

