/* Limits of system calls: strict mode, filters, what they answer, threads, inheritance. */
#include "test.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/ucontext.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, value)
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)

static long seccomp_(unsigned operation, unsigned flags, void *argument) {
    return syscall(SYS_seccomp, operation, flags, argument);
}

static void no_new_privileges(void) {
    CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static long install_flags(struct sock_filter *filter, unsigned short length, unsigned flags) {
    struct sock_fprog program = {length, filter};
    return seccomp_(SECCOMP_SET_MODE_FILTER, flags, &program);
}

#define INSTALL(flags, ...)                                                                                            \
    ({                                                                                                                 \
        struct sock_filter filter_[] = {__VA_ARGS__};                                                                  \
        install_flags(filter_, sizeof filter_ / sizeof *filter_, flags);                                               \
    })

/* A filter that answers `value` to the call `number` and allows all others. */
#define ON_CALL(number, value) LOAD(nr), IF_EQUAL(number, 0, 1), ANSWER(value), ANSWER(SECCOMP_RET_ALLOW)

static long status_field(const char *name) {
    char text[4096];
    get_file("/proc/thread-self/status", text, sizeof text);
    char *line = strstr(text, name);
    CHECK(line);
    return strtol(line + strlen(name), NULL, 10);
}

TEST(arguments_are_checked) {
    no_new_privileges();
    struct sock_filter allow = ANSWER(SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    CHECK_ERR(seccomp_(99, 0, NULL), EINVAL);
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_STRICT, 1, NULL), EINVAL);
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_STRICT, 0, &program), EINVAL);
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_FILTER, 1 << 20, &program), EINVAL);
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_FILTER, 0, NULL), EFAULT);
    program.len = 0;
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
    program.len = 4097;
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
    program.len = 1;
    program.filter = BAD;
    CHECK_ERR(seccomp_(SECCOMP_SET_MODE_FILTER, 0, &program), EFAULT);
    CHECK_ERR(prctl(PR_SET_SECCOMP, 3, 0, 0, 0), EINVAL);
    CHECK_EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 0);
}

TEST(bad_programs_are_refused) {
    no_new_privileges();
    CHECK_ERR(INSTALL(0, LOAD(nr)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 3), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 2), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_LD | BPF_MEM, 0), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_ST, 16), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, IF_EQUAL(1, 1, 0), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_JMP | BPF_JA, 1), ANSWER(SECCOMP_RET_ALLOW)), EINVAL);
    CHECK_ERR(INSTALL(0, BPF_STMT(BPF_RET | BPF_X, 0)), EINVAL);
    CHECK_EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 0);
}

TEST(a_filter_needs_privilege_or_none_to_gain) {
    REQUIRE_ROOT();
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   CHECK_ERR(INSTALL(0, ANSWER(SECCOMP_RET_ALLOW)), EACCES);
                   CHECK_ERR(prctl(PR_SET_SECCOMP, 2, BAD, 0, 0), EFAULT);
                   no_new_privileges();
                   CHECK_OK(INSTALL(0, ANSWER(SECCOMP_RET_ALLOW)));
               }),
               0);
    if (has_capability(21)) {
        CHECK_OK(INSTALL(0, ANSWER(SECCOMP_RET_ALLOW)));
    }
}

TEST(strict_mode_kills_on_other_calls) {
    pid_t pid = CHILD({
        CHECK_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
        syscall(SYS_write, -1, "", 0);
        syscall(SYS_exit, 7);
    });
    CHECK_EXIT(pid, 7);
    pid = CHILD({
        CHECK_OK(seccomp_(SECCOMP_SET_MODE_STRICT, 0, NULL));
        syscall(SYS_getpid);
        syscall(SYS_exit, 7);
    });
    CHECK_KILLED(pid, SIGKILL);
}

TEST(a_filter_can_fail_calls) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | ENOTTY)));
    CHECK_ERR(syscall(SYS_getppid), ENOTTY);
    CHECK(getpid() > 0);
    CHECK_EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 2);
    CHECK_EQ(status_field("Seccomp:"), 2);
    CHECK_EQ(status_field("Seccomp_filters:"), 1);
    CHECK_ERR(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0), EINVAL);
}

TEST(an_errno_of_zero_succeeds_and_large_ones_are_cut) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO)));
    CHECK_EQ(syscall(SYS_getppid), 0);
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getpgrp, SECCOMP_RET_ERRNO | 0xffff)));
    CHECK_ERR(syscall(SYS_getpgrp), 4095);
}

TEST(of_two_answers_the_stricter_counts) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | 5)));
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_LOG)));
    CHECK_ERR(syscall(SYS_getppid), 5);
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | 6)));
    CHECK_ERR(syscall(SYS_getppid), 6);
    CHECK_EQ(status_field("Seccomp_filters:"), 3);
}

TEST(arguments_and_architecture_are_seen) {
    no_new_privileges();
    struct sock_filter filter[] = {
        LOAD(arch), IF_EQUAL(AUDIT_ARCH_X86_64, 1, 0), ANSWER(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr), IF_EQUAL(SYS_lseek, 0, 5),
        LOAD(args[1]), IF_EQUAL(0x9abcdef0, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1]) + 4),
        IF_EQUAL(0x12345678, 0, 1), ANSWER(SECCOMP_RET_ERRNO | ENOTTY),
        ANSWER(SECCOMP_RET_ALLOW),
    };
    CHECK_OK(install_flags(filter, sizeof filter / sizeof *filter, 0));
    CHECK_ERR(syscall(SYS_lseek, -1, 0x123456789abcdef0, 0), ENOTTY);
    CHECK_ERR(syscall(SYS_lseek, -1, 0x023456789abcdef0, 0), EBADF);
}

TEST(unknown_calls_are_filtered_too) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(1000, SECCOMP_RET_ERRNO | 7)));
    CHECK_ERR(syscall(1000), 7);
    CHECK_ERR(syscall(1001), ENOSYS);
}

TEST(a_filter_can_kill_the_process) {
    pid_t pid = CHILD({
        no_new_privileges();
        CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_KILL_PROCESS)));
        handle(SIGSYS, SIG_IGN, 0);
        syscall(SYS_getppid);
    });
    CHECK_KILLED(pid, SIGSYS);
}

static void *ask_parent(void *argument UNUSED) {
    syscall(SYS_getppid);
    return NULL;
}

static pthread_t start_thread(void *(*run)(void *), void *argument) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, run, argument), 0);
    return thread;
}

TEST(a_filter_can_kill_one_thread) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_KILL_THREAD)));
    start_thread(ask_parent, NULL);
    char text[4096];
    do {
        get_file("/proc/self/status", text, sizeof text);
    } while (!strstr(text, "Threads:\t1\n"));
    pid_t pid = CHILD({ syscall(SYS_getppid); });
    CHECK_KILLED(pid, SIGSYS);
}

static volatile siginfo_t trapped;
static volatile long trapped_rax, traps;

static void on_trap(int signal UNUSED, siginfo_t *info, void *context) {
    trapped = *info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    trapped_rax = registers[REG_RAX];
    registers[REG_RAX] = 4711;
    traps++;
}

TEST(a_trap_tells_of_the_call) {
    no_new_privileges();
    handle_info(SIGSYS, on_trap, 0);
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_TRAP | 99)));
    CHECK_EQ(syscall(SYS_getppid), 4711);
    CHECK_EQ(traps, 1);
    CHECK_EQ(trapped.si_signo, SIGSYS);
    CHECK_EQ(trapped.si_code, 1);
    CHECK_EQ(trapped.si_errno, 99);
    CHECK_EQ(trapped.si_syscall, SYS_getppid);
    CHECK_EQ(trapped.si_arch, AUDIT_ARCH_X86_64);
    CHECK(trapped.si_call_addr != NULL);
    CHECK_EQ(trapped_rax, SYS_getppid);
}

TEST(a_trap_that_is_blocked_kills) {
    pid_t pid = CHILD({
        no_new_privileges();
        handle_info(SIGSYS, on_trap, 0);
        block_signals(SIGNALS(SIGSYS));
        CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_TRAP)));
        syscall(SYS_getppid);
    });
    CHECK_KILLED(pid, SIGSYS);
}

TEST(trace_without_a_tracer_is_enosys) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_TRACE)));
    CHECK_ERR(syscall(SYS_getppid), ENOSYS);
}

HELPER(ask_parent) {
    return syscall(SYS_getppid) == -1 && errno == ENOTTY ? 0 : 1;
}

TEST(filters_are_inherited_by_children_and_programs) {
    no_new_privileges();
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | ENOTTY)));
    CHECK_EXIT(CHILD({ CHECK_ERR(syscall(SYS_getppid), ENOTTY); }), 0);
    CHECK_EXIT(CHILD({ execl(self_path, self_path, "--helper", "ask_parent", NULL); }), 0);
}

static struct gate in_thread, go_on;

static void *ask_when_told(void *argument) {
    if (argument) {
        no_new_privileges();
        CHECK_OK(INSTALL(0, ANSWER(SECCOMP_RET_ALLOW)));
    }
    gate_open(&in_thread);
    gate_wait(&go_on);
    return (void *)(long)(syscall(SYS_getppid) == -1 && errno == ENOTTY && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

TEST(a_filter_is_of_one_thread) {
    in_thread = gate_new(), go_on = gate_new();
    no_new_privileges();
    pthread_t thread = start_thread(ask_when_told, NULL);
    gate_wait(&in_thread);
    CHECK_OK(INSTALL(0, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | ENOTTY)));
    gate_open(&go_on);
    void *limited;
    CHECK_EQ(pthread_join(thread, &limited), 0);
    CHECK(!limited);
}

TEST(tsync_gives_a_filter_to_all_threads) {
    in_thread = gate_new(), go_on = gate_new();
    pthread_t thread = start_thread(ask_when_told, NULL);
    gate_wait(&in_thread);
    no_new_privileges();
    CHECK_OK(INSTALL(SECCOMP_FILTER_FLAG_TSYNC, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | ENOTTY)));
    gate_open(&go_on);
    void *limited;
    CHECK_EQ(pthread_join(thread, &limited), 0);
    CHECK(limited);
}

TEST(tsync_fails_when_a_thread_has_gone_its_own_way) {
    in_thread = gate_new(), go_on = gate_new();
    pthread_t thread = start_thread(ask_when_told, &thread);
    gate_wait(&in_thread);
    no_new_privileges();
    CHECK(INSTALL(SECCOMP_FILTER_FLAG_TSYNC, ON_CALL(SYS_getppid, SECCOMP_RET_ERRNO | ENOTTY)) > 1);
    CHECK_ERR(INSTALL(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, ANSWER(SECCOMP_RET_ALLOW)), ESRCH);
    CHECK_EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 0);
    gate_open(&go_on);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST(the_path_of_filters_is_limited) {
    no_new_privileges();
    static struct sock_filter long_filter[4096];
    for (int at = 0; at < 4096; at++) {
        long_filter[at] = (struct sock_filter)ANSWER(SECCOMP_RET_ALLOW);
    }
    long result = 0;
    for (int count = 0; count < 20 && result == 0; count++) {
        result = install_flags(long_filter, 4096, 0);
    }
    CHECK_EQ(result, -1);
    CHECK_EQ(errno, ENOMEM);
}

TEST(available_actions_and_sizes) {
    unsigned action = SECCOMP_RET_ERRNO;
    CHECK_OK(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, &action));
    action = SECCOMP_RET_KILL_PROCESS;
    CHECK_OK(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, &action));
    action = 0x12340000;
    CHECK_ERR(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, &action), EOPNOTSUPP);
    CHECK_ERR(seccomp_(SECCOMP_GET_ACTION_AVAIL, 1, &action), EINVAL);
    CHECK_ERR(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, NULL), EFAULT);
    struct seccomp_notif_sizes sizes;
    CHECK_OK(seccomp_(SECCOMP_GET_NOTIF_SIZES, 0, &sizes));
    CHECK_EQ(sizes.seccomp_data, sizeof(struct seccomp_data));
    CHECK_EQ(sizes.seccomp_notif, 80);
}
