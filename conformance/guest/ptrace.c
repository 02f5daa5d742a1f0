/* Tracing: stops, registers, memory, events, attaching, and what a tracer's end does. */
#include "test.h"

#include <elf.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#define EVENT(event) (SIGTRAP | (event) << 8)
#define TRACE(request, pid, address, data) ptrace(request, pid, (void *)(uintptr_t)(address), (void *)(uintptr_t)(data))

/* Waits for a stop of the tracee and returns its code: the signal, and the event in the next byte. */
static int stop_of(pid_t pid) {
    int status;
    CHECK_EQ(CHECK_OK(waitpid(pid, &status, __WALL)), pid);
    if (!WIFSTOPPED(status)) {
        FAIL("wait status 0x%x is no stop", status);
    }
    return status >> 8;
}

static void go(pid_t pid, int request, int signal) { CHECK_OK(TRACE(request, pid, 0, signal)); }

static void trace_me(void) {
    CHECK_OK(ptrace(PTRACE_TRACEME, 0, 0, 0));
    CHECK_OK(raise(SIGSTOP));
}

/* A tracee that runs the block once it is let go on, stopped by its first SIGSTOP. */
#define TRACEE(...)                                                                                                    \
    ({                                                                                                                 \
        pid_t tracee_pid = CHILD({                                                                                     \
            trace_me();                                                                                                \
            __VA_ARGS__;                                                                                               \
        });                                                                                                            \
        CHECK_EQ(stop_of(tracee_pid), SIGSTOP);                                                                        \
        tracee_pid;                                                                                                    \
    })

static struct user_regs_struct registers_of(pid_t pid) {
    struct user_regs_struct registers;
    CHECK_OK(TRACE(PTRACE_GETREGS, pid, 0, &registers));
    return registers;
}

static unsigned long event_message(pid_t pid) {
    unsigned long message = 0;
    CHECK_OK(TRACE(PTRACE_GETEVENTMSG, pid, 0, &message));
    return message;
}

static volatile int seen;

static void count(int signal) { seen = seen * 100 + signal; }

TEST(signals_stop_a_tracee_and_are_the_tracers_to_change) {
    pid_t pid = TRACEE({
        handle(SIGUSR1, count, 0);
        handle(SIGUSR2, count, 0);
        raise(SIGUSR1);
        raise(SIGUSR1);
        raise(SIGUSR1);
        _exit(seen == SIGUSR1 * 100 + SIGUSR2 ? 7 : 1);
    });
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGUSR1);
    siginfo_t info;
    CHECK_OK(TRACE(PTRACE_GETSIGINFO, pid, 0, &info));
    CHECK_EQ(info.si_signo, SIGUSR1);
    CHECK_EQ(info.si_code, SI_TKILL);
    CHECK_EQ(info.si_pid, pid);
    go(pid, PTRACE_CONT, SIGUSR1);
    CHECK_EQ(stop_of(pid), SIGUSR1);
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGUSR1);
    go(pid, PTRACE_CONT, SIGUSR2);
    CHECK_EXIT(pid, 7);
}

TEST(a_tracer_sees_what_its_tracee_ignores) {
    pid_t pid = TRACEE({
        handle(SIGUSR1, SIG_IGN, 0);
        raise(SIGUSR1);
    });
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGUSR1);
    go(pid, PTRACE_CONT, SIGUSR1);
    CHECK_EXIT(pid, 0);
}

TEST(calls_stop_before_and_after) {
    pid_t pid = TRACEE({
        /* The tracer makes it another call, and another result. */
        long first = syscall(SYS_getppid, 11, 22, 33);
        long second = syscall(SYS_getppid);
        long third = syscall(SYS_getppid);
        _exit(first == getpid() && second == 4711 && third == -1 && errno == EXDEV ? 0 : 1);
    });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    for (int round = 0; round < 3; round++) {
        struct user_regs_struct registers;
        do {
            go(pid, PTRACE_SYSCALL, 0);
            CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
            registers = registers_of(pid);
        } while (registers.orig_rax != SYS_getppid);
        CHECK_EQ(registers.rax, -ENOSYS);
        CHECK_EQ(TRACE(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.orig_rax), 0), SYS_getppid);
        if (round == 0) {
            CHECK_EQ(registers.rdi, 11);
            CHECK_EQ(registers.rdx, 33);
            CHECK_OK(TRACE(PTRACE_POKEUSER, pid, offsetof(struct user, regs.orig_rax), SYS_getpid));
        }
        if (round == 2) {
            /* No call at all. */
            registers.orig_rax = -1;
            registers.rax = -EXDEV;
            CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &registers));
        }
        go(pid, PTRACE_SYSCALL, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
        registers = registers_of(pid);
        CHECK_EQ(registers.rax, round == 0 ? pid : round == 1 ? getpid() : -EXDEV);
        if (round == 1) {
            registers.rax = 4711;
            CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &registers));
        }
    }
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(call_information_comes_in_one_piece) {
    pid_t pid = TRACEE({ syscall(SYS_dup, 12345, 2, 3, 4, 5, 6); });
    struct __ptrace_syscall_info info;
    memset(&info, 0xff, sizeof info);
    CHECK_EQ(TRACE(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info), 24);
    CHECK_EQ(info.op, 0);
    CHECK_EQ(info.arch, AUDIT_ARCH_X86_64);
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    do {
        go(pid, PTRACE_SYSCALL, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
        CHECK_OK(TRACE(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info));
    } while (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != SYS_dup);
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(info.entry.args[i], i ? i + 1 : 12345);
    }
    CHECK_EQ(TRACE(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info), 80);
    go(pid, PTRACE_SYSCALL, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
    CHECK_EQ(TRACE(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info), 33);
    CHECK_EQ(info.op, PTRACE_SYSCALL_INFO_EXIT);
    CHECK_EQ(info.exit.rval, -EBADF);
    CHECK_EQ(info.exit.is_error, 1);
    struct user_regs_struct registers = registers_of(pid);
    CHECK_EQ(info.instruction_pointer, registers.rip);
    CHECK_EQ(info.stack_pointer, registers.rsp);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

static volatile long word = 0x1234;

__attribute__((noinline)) static int add(int a, int b) {
    asm volatile("");
    return a + b;
}

TEST(memory_is_read_and_written) {
    pid_t pid = TRACEE({ _exit(word == 0x5678 ? 0 : 1); });
    CHECK_EQ(TRACE(PTRACE_PEEKDATA, pid, &word, 0), 0x1234);
    CHECK_OK(TRACE(PTRACE_POKEDATA, pid, &word, 0x5678));
    CHECK_EQ(word, 0x1234);
    CHECK_ERR(TRACE(PTRACE_PEEKDATA, pid, 8, 0), EIO);
    CHECK_ERR(TRACE(PTRACE_POKEDATA, pid, 8, 0), EIO);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

/* As those do who bring code of their own into a process. */
TEST(memory_that_a_call_has_mapped_is_there_when_the_call_stops) {
    pid_t pid = TRACEE({
        char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        _exit(memory[8]);
    });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    struct user_regs_struct registers;
    do {
        go(pid, PTRACE_SYSCALL, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
        go(pid, PTRACE_SYSCALL, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
        registers = registers_of(pid);
    } while (registers.orig_rax != SYS_mmap);
    char byte = 42;
    struct iovec from = {&byte, 1}, to = {(void *)(uintptr_t)(registers.rax + 8), 1};
    CHECK_EQ(process_vm_writev(pid, &from, 1, &to, 1, 0), 1);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 42);
}

TEST(a_tracer_changes_the_path_of_a_hot_call) {
    static char path[] = "/missing";
    pid_t pid = CHILD({
        for (int i = 0; i < 300; i++) {
            CHECK_ERR(access(path, F_OK), ENOENT);
        }
        trace_me();
        /* The tracer makes it another path, at the same address. */
        _exit(access(path, F_OK) == 0 ? 0 : 1);
    });
    CHECK_EQ(stop_of(pid), SIGSTOP);
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    do {
        go(pid, PTRACE_SYSCALL, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP | 0x80);
    } while (registers_of(pid).rdi != (uintptr_t)path);
    CHECK_OK(TRACE(PTRACE_POKEDATA, pid, path, '/'));
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(memory_that_the_tracee_may_not_touch_is_open_too) {
    char *hidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(hidden != MAP_FAILED);
    pid_t pid = TRACEE({
        CHECK_OK(mprotect(hidden, 4096, PROT_READ));
        CHECK_STR(hidden, "secret");
    });
    long text = 0;
    memcpy(&text, "secret", 7);
    CHECK_OK(TRACE(PTRACE_POKEDATA, pid, hidden, text));
    CHECK_EQ(TRACE(PTRACE_PEEKDATA, pid, hidden, 0), text);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(a_break_point_in_read_only_code) {
    pid_t pid = TRACEE({ _exit(add(2, 3)); });
    long code = TRACE(PTRACE_PEEKTEXT, pid, add, 0);
    CHECK_OK(TRACE(PTRACE_POKETEXT, pid, add, (code & ~0xffL) | 0xcc));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    siginfo_t info;
    CHECK_OK(TRACE(PTRACE_GETSIGINFO, pid, 0, &info));
    CHECK_EQ(info.si_code, SI_KERNEL);
    struct user_regs_struct registers = registers_of(pid);
    CHECK_EQ(registers.rip, (uintptr_t)add + 1);
    CHECK_EQ(registers.rdi, 2);
    registers.rip--;
    registers.rdi = 40;
    CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &registers));
    CHECK_OK(TRACE(PTRACE_POKETEXT, pid, add, code));
    go(pid, PTRACE_SINGLESTEP, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    CHECK_OK(TRACE(PTRACE_GETSIGINFO, pid, 0, &info));
    CHECK_EQ(info.si_code, TRAP_TRACE);
    CHECK(registers_of(pid).rip > (uintptr_t)add);
    CHECK_EQ(registers_of(pid).eflags & 0x100, 0);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 43);
    CHECK_EQ(add(2, 3), 5);
}

TEST(steps_go_over_calls_and_into_handlers) {
    pid_t pid = TRACEE({
        handle(SIGUSR1, count, 0);
        asm volatile("int3");
        asm volatile("syscall" : : "a"(SYS_getppid) : "rcx", "r11", "memory");
        _exit(seen == SIGUSR1 ? 0 : 1);
    });
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    bool called = false;
    for (int step = 0; step < 20 && !called; step++) {
        unsigned long before = registers_of(pid).rip;
        bool at_call = (TRACE(PTRACE_PEEKTEXT, pid, before, 0) & 0xffff) == 0x050f;
        go(pid, PTRACE_SINGLESTEP, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP);
        if (at_call) {
            CHECK_EQ(registers_of(pid).rip, before + 2);
            CHECK_EQ(registers_of(pid).rax, getpid());
            called = true;
        }
    }
    CHECK(called);
    go(pid, PTRACE_SINGLESTEP, SIGUSR1);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    CHECK_EQ(registers_of(pid).rip, (uintptr_t)count);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(register_sets_go_out_and_in) {
    pid_t pid = TRACEE({
        double result = 1.5;
        asm volatile("movq %0, %%xmm7; int3; movq %%xmm7, %0" : "+r"(result) : : "xmm7");
        _exit(result == 2.5 ? 0 : 1);
    });
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    struct user_fpregs_struct state;
    CHECK_OK(TRACE(PTRACE_GETFPREGS, pid, 0, &state));
    double value;
    memcpy(&value, &state.xmm_space[28], sizeof value);
    CHECK(value == 1.5);
    value = 2.5;
    memcpy(&state.xmm_space[28], &value, sizeof value);
    struct iovec vector = {&state, sizeof state};
    CHECK_OK(TRACE(PTRACE_SETREGSET, pid, NT_PRFPREG, &vector));
    static char large[16384];
    vector = (struct iovec){large, sizeof large};
    CHECK_OK(TRACE(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &vector));
    CHECK(vector.iov_len >= 576 && vector.iov_len < sizeof large);
    /* The components that there are, which debuggers go by. */
    CHECK_EQ(large[464] & 3, 3);
    CHECK_EQ(memcmp(large + 160 + 7 * 16, &value, sizeof value), 0);
    CHECK_OK(TRACE(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &vector));
    struct user_regs_struct registers;
    vector = (struct iovec){&registers, 64};
    memset(&registers, 0x55, sizeof registers);
    CHECK_OK(TRACE(PTRACE_GETREGSET, pid, NT_PRSTATUS, &vector));
    CHECK_EQ(vector.iov_len, 64);
    CHECK_EQ(registers.rip, 0x5555555555555555);
    vector = (struct iovec){&registers, sizeof registers};
    CHECK_OK(TRACE(PTRACE_GETREGSET, pid, NT_PRSTATUS, &vector));
    CHECK_EQ(vector.iov_len, sizeof registers);
    CHECK_ERR(TRACE(PTRACE_GETREGSET, pid, 0x7777, &vector), EINVAL);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(registers_that_cannot_be_are_refused) {
    pid_t pid = TRACEE({});
    struct user_regs_struct registers = registers_of(pid), changed = registers;
    changed.fs_base = 1UL << 63;
    CHECK_ERR(TRACE(PTRACE_SETREGS, pid, 0, &changed), EIO);
    changed = registers;
    changed.cs = 0x10;
    CHECK_ERR(TRACE(PTRACE_SETREGS, pid, 0, &changed), EIO);
    changed = registers;
    changed.eflags |= 3 << 12;
    CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &changed));
    CHECK_EQ(registers_of(pid).eflags, registers.eflags);
    CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &registers));
    CHECK_ERR(TRACE(PTRACE_PEEKUSER, pid, 4, 0), EIO);
    CHECK_ERR(TRACE(PTRACE_PEEKUSER, pid, 928, 0), EIO);
    CHECK_ERR(TRACE(PTRACE_CONT, pid, 0, 65), EIO);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

HELPER(nothing) { return 5; }

TEST(exec_traps) {
    pid_t pid = TRACEE({ execl(self_path, self_path, "--helper", "nothing", NULL); });
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    siginfo_t info;
    CHECK_OK(TRACE(PTRACE_GETSIGINFO, pid, 0, &info));
    CHECK_EQ(info.si_code, SI_USER);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 5);
}

TEST(exec_is_an_event) {
    pid_t pid = TRACEE({ execl(self_path, self_path, "--helper", "nothing", NULL); });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_EXEC));
    CHECK_EQ(event_message(pid), pid);
    CHECK_EQ(registers_of(pid).rdi, 0);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 5);
}

TEST(forks_are_events_and_children_are_traced) {
    pid_t pid = TRACEE({
        pid_t child = CHILD({ _exit(3); });
        int status;
        CHECK_EQ(CHECK_OK(waitpid(child, &status, 0)), child);
        CHECK_EQ(WEXITSTATUS(status), 3);
        _exit(4);
    });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_FORK));
    pid_t child = event_message(pid);
    CHECK_EQ(stop_of(child), SIGSTOP);
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(registers_of(child).rax, 0);
    go(child, PTRACE_CONT, 0);
    /* Its end is the tracer's to hear of, and then the parent's. */
    int status;
    CHECK_EQ(CHECK_OK(waitpid(child, &status, __WALL)), child);
    CHECK_EQ(status, 3 << 8);
    CHECK_EQ(stop_of(pid), SIGCHLD);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 4);
}

TEST(vfork_and_its_end_are_events) {
    pid_t pid = TRACEE({
        if (vfork() == 0) {
            _exit(0);
        }
        CHECK_OK(wait(NULL));
    });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_VFORK));
    pid_t child = event_message(pid);
    CHECK_EQ(stop_of(child), SIGSTOP);
    go(pid, PTRACE_CONT, 0);
    go(child, PTRACE_DETACH, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_VFORK_DONE));
    CHECK_EQ(event_message(pid), child);
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGCHLD);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

static void *return_at_once(void *argument) { return argument; }

TEST(threads_are_traced_and_their_ends_told) {
    pid_t pid = TRACEE({
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, return_at_once, NULL), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_CLONE));
    pid_t thread = event_message(pid);
    CHECK_EQ(stop_of(thread), SIGSTOP);
    go(pid, PTRACE_CONT, 0);
    go(thread, PTRACE_CONT, 0);
    int status;
    CHECK_EQ(CHECK_OK(waitpid(thread, &status, __WALL)), thread);
    CHECK_EQ(status, 0);
    CHECK_EXIT(pid, 0);
}

TEST(the_end_is_an_event) {
    pid_t pid = TRACEE({ _exit(9); });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXIT));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_EXIT));
    CHECK_EQ(event_message(pid), 9 << 8);
    CHECK_EQ(registers_of(pid).orig_rax, SYS_exit_group);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 9);
}

/* A child that is not traced, and sleeps until it gets SIGUSR2, after which it exits with 6. */
static pid_t sleeper(void) {
    struct gate ready = gate_new();
    pid_t pid = CHILD({
        sigset_t set = signal_set(SIGUSR2, 0);
        CHECK_OK(sigprocmask(SIG_BLOCK, &set, NULL));
        gate_open(&ready);
        /* A stop ends the wait. */
        while (sigwaitinfo(&set, NULL) != SIGUSR2) {
            CHECK_EQ(errno, EINTR);
        }
        _exit(6);
    });
    gate_wait(&ready);
    return pid;
}

TEST(a_running_process_is_attached_to_and_left_again) {
    pid_t pid = sleeper();
    CHECK_OK(TRACE(PTRACE_ATTACH, pid, 0, 0));
    CHECK_ERR(TRACE(PTRACE_ATTACH, pid, 0, 0), EPERM);
    CHECK_EQ(stop_of(pid), SIGSTOP);
    char text[4096], line[64];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    get_file(path, text, sizeof text);
    snprintf(line, sizeof line, "TracerPid:\t%d\n", getpid());
    CHECK(strstr(text, line));
    CHECK(strstr(text, "State:\tt (tracing stop)"));
    CHECK_OK(kill(pid, SIGUSR2));
    go(pid, PTRACE_DETACH, 0);
    CHECK_ERR(TRACE(PTRACE_PEEKUSER, pid, 0, 0), ESRCH);
    CHECK_EXIT(pid, 6);
}

TEST(an_interrupted_sleep_goes_on) {
    struct gate ready = gate_new();
    pid_t pid = CHILD({
        gate_open(&ready);
        struct timespec time = {0, 200000000};
        _exit(nanosleep(&time, NULL) ? 1 : 0);
    });
    gate_wait(&ready);
    settle();
    CHECK_OK(TRACE(PTRACE_ATTACH, pid, 0, 0));
    CHECK_EQ(stop_of(pid), SIGSTOP);
    go(pid, PTRACE_DETACH, 0);
    CHECK_EXIT(pid, 0);
}

TEST(seized_tracees_stop_when_asked_to) {
    pid_t pid = sleeper();
    CHECK_ERR(TRACE(PTRACE_SEIZE, pid, 1, 0), EIO);
    CHECK_OK(TRACE(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD));
    CHECK_ERR(TRACE(PTRACE_PEEKUSER, pid, 0, 0), ESRCH);
    CHECK_OK(TRACE(PTRACE_INTERRUPT, pid, 0, 0));
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_STOP));
    siginfo_t info;
    CHECK_OK(TRACE(PTRACE_GETSIGINFO, pid, 0, &info));
    CHECK_EQ(info.si_code, EVENT(PTRACE_EVENT_STOP));
    go(pid, PTRACE_CONT, 0);
    CHECK_OK(kill(pid, SIGUSR2));
    CHECK_EXIT(pid, 6);
}

TEST(a_stop_of_the_group_can_be_listened_to) {
    pid_t pid = sleeper();
    CHECK_OK(TRACE(PTRACE_SEIZE, pid, 0, 0));
    CHECK_OK(kill(pid, SIGSTOP));
    CHECK_EQ(stop_of(pid), SIGSTOP);
    go(pid, PTRACE_CONT, SIGSTOP);
    CHECK_EQ(stop_of(pid), SIGSTOP | PTRACE_EVENT_STOP << 8);
    siginfo_t info;
    CHECK_OK(TRACE(PTRACE_LISTEN, pid, 0, 0));
    CHECK_ERR(TRACE(PTRACE_GETSIGINFO, pid, 0, &info), ESRCH);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_STOP));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGCONT);
    go(pid, PTRACE_CONT, SIGCONT);
    CHECK_OK(kill(pid, SIGUSR2));
    CHECK_EXIT(pid, 6);
}

TEST(a_tracer_can_make_a_stopped_group_go_on) {
    pid_t pid = TRACEE({
        raise(SIGTSTP);
        _exit(8);
    });
    CHECK_OK(setpgid(pid, 0) == 0 || errno == EACCES ? 0 : -1);
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGTSTP);
    go(pid, PTRACE_CONT, SIGSTOP);
    CHECK_EQ(stop_of(pid), SIGSTOP);
    siginfo_t info;
    /* A stop of the group is no signal. */
    CHECK_ERR(TRACE(PTRACE_GETSIGINFO, pid, 0, &info), EINVAL);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 8);
}

TEST(only_the_tracer_may_ask_and_only_in_a_stop) {
    pid_t pid = sleeper();
    CHECK_ERR(TRACE(PTRACE_PEEKUSER, pid, 0, 0), ESRCH);
    CHECK_ERR(TRACE(PTRACE_CONT, pid, 0, 0), ESRCH);
    CHECK_ERR(TRACE(PTRACE_ATTACH, getpid(), 0, 0), EPERM);
    CHECK_ERR(TRACE(PTRACE_ATTACH, 4194303, 0, 0), ESRCH);
    pid_t other = TRACEE({});
    CHECK_EXIT(CHILD({ CHECK_ERR(TRACE(PTRACE_PEEKUSER, other, 0, 0), ESRCH); }), 0);
    CHECK_ERR(TRACE(0x4999, other, 0, 0), EIO);
    CHECK_ERR(TRACE(PTRACE_SETOPTIONS, other, 0, 0x8000000), EINVAL);
    CHECK_ERR(TRACE(PTRACE_INTERRUPT, other, 0, 0), EIO);
    CHECK_OK(TRACE(PTRACE_KILL, other, 0, 0));
    CHECK_KILLED(other, SIGKILL);
    CHECK_OK(kill(pid, SIGUSR2));
    CHECK_EXIT(pid, 6);
}

TEST(an_ordinary_user_traces_no_other) {
    REQUIRE_ROOT();
    pid_t pid = sleeper();
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   CHECK_ERR(TRACE(PTRACE_ATTACH, pid, 0, 0), EPERM);
                   CHECK_ERR(TRACE(PTRACE_SEIZE, pid, 0, 0), EPERM);
               }),
               0);
    CHECK_OK(kill(pid, SIGUSR2));
    CHECK_EXIT(pid, 6);
}

TEST(a_stopped_tracee_can_be_killed) {
    pid_t pid = TRACEE({ pause(); });
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(tracees_are_free_when_the_tracer_ends) {
    pid_t pid = sleeper();
    CHECK_EXIT(CHILD({
                   CHECK_OK(TRACE(PTRACE_ATTACH, pid, 0, 0));
                   CHECK_EQ(stop_of(pid), SIGSTOP);
                   CHECK_OK(kill(pid, SIGUSR2));
               }),
               0);
    CHECK_EXIT(pid, 6);
}

TEST(tracees_end_with_the_tracer_if_it_wants) {
    pid_t pid = sleeper();
    CHECK_EXIT(CHILD({ CHECK_OK(TRACE(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL)); }), 0);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(a_filter_can_leave_a_call_to_the_tracer) {
    pid_t pid = TRACEE({
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 77),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {4, code};
        CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        CHECK_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
        _exit(syscall(SYS_getppid) == getpid() ? 0 : 1);
    });
    CHECK_OK(TRACE(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP));
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), EVENT(PTRACE_EVENT_SECCOMP));
    CHECK_EQ(event_message(pid), 77);
    CHECK_OK(TRACE(PTRACE_POKEUSER, pid, offsetof(struct user, regs.orig_rax), SYS_getpid));
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(calls_can_be_emulated) {
    pid_t pid = TRACEE({ _exit(syscall(SYS_getppid) == 99 ? 0 : 1); });
    go(pid, PTRACE_SYSEMU, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    struct user_regs_struct registers = registers_of(pid);
    while (registers.orig_rax != SYS_getppid) {
        go(pid, PTRACE_SYSEMU, 0);
        CHECK_EQ(stop_of(pid), SIGTRAP);
        registers = registers_of(pid);
    }
    registers.rax = 99;
    CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &registers));
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

static volatile int code;

static void child_changed(int signal UNUSED, siginfo_t *info, void *context UNUSED) { code = info->si_code; }

TEST(stops_are_told_by_sigchld_and_waitid) {
    handle_info(SIGCHLD, child_changed, SA_RESTART);
    pid_t pid = CHILD({ trace_me(); });
    siginfo_t info;
    CHECK_OK(waitid(P_PID, pid, &info, WSTOPPED | WNOWAIT));
    CHECK_EQ(info.si_code, CLD_TRAPPED);
    CHECK_EQ(info.si_status, SIGSTOP);
    CHECK_EQ(code, CLD_TRAPPED);
    CHECK_EQ(stop_of(pid), SIGSTOP);
    int status;
    CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 0);
}

TEST(the_signal_mask_is_the_tracers_to_see_and_set) {
    pid_t pid = TRACEE({
        raise(SIGUSR1);
        _exit(2);
    });
    uint64_t mask = 0;
    CHECK_ERR(TRACE(PTRACE_GETSIGMASK, pid, 4, &mask), EINVAL);
    CHECK_OK(TRACE(PTRACE_GETSIGMASK, pid, 8, &mask));
    CHECK_EQ(mask, 0);
    mask = 1 << (SIGUSR1 - 1);
    CHECK_OK(TRACE(PTRACE_SETSIGMASK, pid, 8, &mask));
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 2);
}

TEST(the_file_of_memory_opens_what_the_tracee_may_not_touch) {
    char *hidden = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(hidden != MAP_FAILED);
    /* Its own, without a tracer. */
    int fd = CHECK_OK(open("/proc/self/mem", O_RDWR));
    CHECK_EQ(CHECK_OK(pwrite(fd, "mine", 5, (off_t)(uintptr_t)hidden)), 5);
    char text[8];
    CHECK_EQ(CHECK_OK(pread(fd, text, 5, (off_t)(uintptr_t)hidden)), 5);
    CHECK_STR(text, "mine");
    pid_t pid = TRACEE({ _exit(add(2, 3)); });
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    fd = CHECK_OK(open(path, O_RDWR));
    unsigned char trap = 0xcc, code;
    CHECK_EQ(CHECK_OK(pread(fd, &code, 1, (off_t)(uintptr_t)add)), 1);
    CHECK_EQ(CHECK_OK(pwrite(fd, &trap, 1, (off_t)(uintptr_t)add)), 1);
    CHECK_ERR(pwrite(fd, &trap, 1, 8), EIO);
    go(pid, PTRACE_CONT, 0);
    CHECK_EQ(stop_of(pid), SIGTRAP);
    struct user_regs_struct registers = registers_of(pid);
    CHECK_EQ(registers.rip--, (uintptr_t)add + 1);
    CHECK_EQ(CHECK_OK(pwrite(fd, &code, 1, (off_t)(uintptr_t)add)), 1);
    CHECK_OK(TRACE(PTRACE_SETREGS, pid, 0, &registers));
    go(pid, PTRACE_CONT, 0);
    CHECK_EXIT(pid, 5);
}
