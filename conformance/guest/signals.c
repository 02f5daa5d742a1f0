/* Signals: delivery, masks, queues, actions, restarts, stacks, contexts. */
#include "test.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile sig_atomic_t count;
static volatile sig_atomic_t order[64];
static siginfo_t last;

static void on_signal(int signal) {
    if (count < 64) {
        order[count] = signal;
    }
    count++;
}

static void on_info(int signal, siginfo_t *info, void *context UNUSED) {
    last = *info;
    on_signal(signal);
}

TEST(handler_runs_before_kill_returns) {
    handle(SIGUSR1, on_signal, 0);
    CHECK_OK(kill(getpid(), SIGUSR1));
    CHECK_EQ(count, 1);
    CHECK_EQ(order[0], SIGUSR1);
    CHECK_OK(raise(SIGUSR1));
    CHECK_EQ(count, 2);
}

TEST(default_actions) {
    static const int deadly[] = {SIGHUP,  SIGINT,    SIGQUIT, SIGABRT, SIGUSR1, SIGPIPE,   SIGALRM, SIGTERM, SIGXCPU,
                                 SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSTKFLT, SIGSYS,  SIGTRAP, SIGBUS};
    static const int harmless[] = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT};
    for (unsigned index = 0; index < sizeof deadly / sizeof *deadly; index++) {
        CHECK_KILLED(CHILD({ raise(deadly[index]); }), deadly[index]);
    }
    for (unsigned index = 0; index < sizeof harmless / sizeof *harmless; index++) {
        CHECK_EXIT(CHILD({ raise(harmless[index]); }), 0);
    }
}

TEST(ignored_signal_is_dropped) {
    signal(SIGUSR1, SIG_IGN);
    CHECK_OK(raise(SIGUSR1));
    /* Ignoring discards what was pending, too. */
    block_signals(SIGNALS(SIGUSR2));
    raise(SIGUSR2);
    signal(SIGUSR2, SIG_IGN);
    sigset_t pending;
    CHECK_OK(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGUSR2));
    unblock_signals(SIGNALS(SIGUSR2));
}

TEST(blocked_signal_stays_pending) {
    handle(SIGUSR1, on_signal, 0);
    block_signals(SIGNALS(SIGUSR1));
    raise(SIGUSR1);
    raise(SIGUSR1);
    CHECK_EQ(count, 0);
    sigset_t pending;
    CHECK_OK(sigpending(&pending));
    CHECK(sigismember(&pending, SIGUSR1));
    unblock_signals(SIGNALS(SIGUSR1));
    CHECK_EQ(count, 1);
    CHECK_OK(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGUSR1));
}

TEST(realtime_signals_queue_in_order) {
    handle_info(SIGRTMIN, on_info, 0);
    handle_info(SIGRTMIN + 1, on_info, 0);
    block_signals(SIGNALS(SIGRTMIN, SIGRTMIN + 1));
    for (int index = 0; index < 3; index++) {
        CHECK_OK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = index}));
        CHECK_OK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 10 + index}));
    }
    sigset_t set = SIGNALS(SIGRTMIN, SIGRTMIN + 1);
    siginfo_t info;
    for (int index = 0; index < 3; index++) {
        CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
        CHECK_EQ(info.si_value.sival_int, 10 + index);
    }
    for (int index = 0; index < 3; index++) {
        CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN + 1);
        CHECK_EQ(info.si_value.sival_int, index);
    }
}

TEST(lowest_signal_number_is_delivered_last_on_the_stack) {
    /* All frames are made before the first handler runs; the last one made, of the highest number, runs first. */
    handle(SIGUSR1, on_signal, 0);
    handle(SIGUSR2, on_signal, 0);
    handle(SIGRTMIN, on_signal, 0);
    block_signals(SIGNALS(SIGUSR1, SIGUSR2, SIGRTMIN));
    raise(SIGRTMIN);
    raise(SIGUSR2);
    raise(SIGUSR1);
    unblock_signals(SIGNALS(SIGUSR1, SIGUSR2, SIGRTMIN));
    CHECK_EQ(count, 3);
    CHECK_EQ(order[0], SIGRTMIN);
    CHECK_EQ(order[1], SIGUSR2);
    CHECK_EQ(order[2], SIGUSR1);
}

TEST(mask_operations) {
    sigset_t set = SIGNALS(SIGUSR1), old;
    CHECK_OK(sigprocmask(SIG_SETMASK, &set, NULL));
    set = SIGNALS(SIGUSR2);
    CHECK_OK(sigprocmask(SIG_BLOCK, &set, &old));
    CHECK(sigismember(&old, SIGUSR1) && !sigismember(&old, SIGUSR2));
    CHECK_OK(sigprocmask(SIG_UNBLOCK, &set, &old));
    CHECK(sigismember(&old, SIGUSR1) && sigismember(&old, SIGUSR2));
    CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &old));
    CHECK(sigismember(&old, SIGUSR1) && !sigismember(&old, SIGUSR2));
    CHECK_ERR(sigprocmask(77, &set, NULL), EINVAL);
    /* With no set, the operation is not looked at. */
    CHECK_OK(sigprocmask(77, NULL, &old));
    uint64_t kernel_set = 0;
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &kernel_set, NULL, 4), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, NULL, 8), EFAULT);
}

TEST(kill_and_stop_cannot_be_blocked) {
    sigset_t all, old;
    sigfillset(&all);
    CHECK_OK(sigprocmask(SIG_SETMASK, &all, NULL));
    CHECK_OK(sigprocmask(SIG_SETMASK, NULL, &old));
    CHECK(!sigismember(&old, SIGKILL));
    CHECK(!sigismember(&old, SIGSTOP));
    CHECK(sigismember(&old, SIGTERM));
}

TEST(sigaction_errors) {
    struct sigaction action = {.sa_handler = on_signal};
    CHECK_ERR(sigaction(SIGKILL, &action, NULL), EINVAL);
    CHECK_ERR(sigaction(SIGSTOP, &action, NULL), EINVAL);
    CHECK_OK(sigaction(SIGKILL, NULL, &action));
    CHECK_ERR(syscall(SYS_rt_sigaction, 0, NULL, NULL, 8), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 16), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGUSR1, 8, NULL, 8), EFAULT);
}

TEST(sigaction_returns_the_old_action) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_NODEFER}, old;
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK_OK(sigaction(SIGUSR1, &action, &old));
    CHECK(old.sa_handler == SIG_DFL);
    CHECK_OK(sigaction(SIGUSR1, NULL, &old));
    CHECK(old.sa_handler == on_signal);
    CHECK_EQ(old.sa_flags & (SA_RESTART | SA_NODEFER | SA_SIGINFO), SA_RESTART | SA_NODEFER);
    CHECK(sigismember(&old.sa_mask, SIGUSR2) && !sigismember(&old.sa_mask, SIGUSR1));
}

TEST(sa_resethand_works_once) {
    handle(SIGWINCH, on_signal, SA_RESETHAND);
    raise(SIGWINCH);
    raise(SIGWINCH);
    CHECK_EQ(count, 1);
    struct sigaction action;
    CHECK_OK(sigaction(SIGWINCH, NULL, &action));
    CHECK(action.sa_handler == SIG_DFL);
}

static volatile sig_atomic_t depth, deepest;

static void on_nested(int signal) {
    count++;
    if (++depth > deepest) {
        deepest = depth;
    }
    if (count < 4) {
        raise(signal);
    }
    depth--;
}

TEST(signal_is_blocked_in_its_handler) {
    handle(SIGUSR1, on_nested, 0);
    raise(SIGUSR1);
    CHECK_EQ(count, 4);
    CHECK_EQ(deepest, 1);
}

TEST(sa_nodefer_lets_it_nest) {
    handle(SIGUSR1, on_nested, SA_NODEFER);
    raise(SIGUSR1);
    CHECK_EQ(count, 4);
    CHECK_EQ(deepest, 4);
}

static sigset_t mask_in_handler;

static void on_mask(int signal UNUSED) {
    sigprocmask(SIG_BLOCK, NULL, &mask_in_handler);
}

TEST(handler_mask) {
    struct sigaction action = {.sa_handler = on_mask};
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    block_signals(SIGNALS(SIGTERM));
    raise(SIGUSR1);
    CHECK(sigismember(&mask_in_handler, SIGUSR1));
    CHECK(sigismember(&mask_in_handler, SIGUSR2));
    CHECK(sigismember(&mask_in_handler, SIGTERM));
    sigset_t after;
    CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &after));
    CHECK(!sigismember(&after, SIGUSR1));
    CHECK(!sigismember(&after, SIGUSR2));
    CHECK(sigismember(&after, SIGTERM));
}

TEST(siginfo_of_kill) {
    handle_info(SIGUSR1, on_info, 0);
    CHECK_OK(kill(getpid(), SIGUSR1));
    CHECK_EQ(last.si_signo, SIGUSR1);
    CHECK_EQ(last.si_code, SI_USER);
    CHECK_EQ(last.si_pid, getpid());
    CHECK_EQ(last.si_uid, getuid());
    CHECK_EQ(last.si_errno, 0);
}

TEST(siginfo_of_tgkill) {
    handle_info(SIGUSR1, on_info, 0);
    CHECK_OK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
    CHECK_EQ(last.si_code, SI_TKILL);
    CHECK_EQ(last.si_pid, getpid());
    CHECK_OK(syscall(SYS_tkill, gettid(), SIGUSR1));
    CHECK_EQ(count, 2);
}

TEST(siginfo_of_sigqueue) {
    handle_info(SIGUSR1, on_info, 0);
    CHECK_OK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_ptr = &last}));
    CHECK_EQ(last.si_code, SI_QUEUE);
    CHECK(last.si_value.sival_ptr == &last);
    CHECK_EQ(last.si_pid, getpid());
}

TEST(forged_siginfo_is_eperm) {
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_USER};
    pid_t pid = CHILD({ pause(); });
    CHECK_ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &info), EPERM);
    info.si_code = SI_TKILL;
    CHECK_ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &info), EPERM);
    info.si_code = SI_QUEUE;
    CHECK_OK(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &info));
    CHECK_KILLED(pid, SIGUSR1);
    /* To itself, a process may say anything. */
    handle_info(SIGUSR1, on_info, 0);
    info.si_code = SI_USER;
    CHECK_OK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info));
    CHECK_EQ(last.si_code, SI_USER);
}

TEST(kill_errors) {
    CHECK_ERR(kill(0x3fffffff, 0), ESRCH);
    CHECK_ERR(kill(getpid(), 65), EINVAL);
    CHECK_ERR(kill(getpid(), -1), EINVAL);
    CHECK_ERR(kill(-0x3fffffff, SIGTERM), ESRCH);
    CHECK_OK(kill(getpid(), 0));
    CHECK_ERR(syscall(SYS_tgkill, getpid(), 0x3fffffff, 0), ESRCH);
    CHECK_ERR(syscall(SYS_tgkill, getppid(), gettid(), 0), ESRCH);
    CHECK_ERR(syscall(SYS_tgkill, -1, gettid(), 0), EINVAL);
    CHECK_ERR(syscall(SYS_tkill, 0, 0), EINVAL);
}

TEST(kill_permission) {
    REQUIRE_ROOT();
    struct gate ready = gate_new();
    pid_t pid = CHILD({
        gate_open(&ready);
        pause();
    });
    gate_wait(&ready);
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(12345, 12345, 12345));
                   CHECK_ERR(kill(pid, SIGTERM), EPERM);
                   CHECK_ERR(kill(pid, 0), EPERM);
                   CHECK_ERR(syscall(SYS_tgkill, pid, pid, SIGTERM), EPERM);
               }),
               0);
    CHECK_OK(kill(pid, SIGTERM));
    CHECK_KILLED(pid, SIGTERM);
}

TEST(kill_between_equal_users) {
    REQUIRE_ROOT();
    struct gate ready = gate_new();
    pid_t pid = CHILD({
        CHECK_OK(setresuid(12345, 12345, 12345));
        gate_open(&ready);
        for (;;) {
            pause();
        }
    });
    gate_wait(&ready);
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(12345, 12346, 12346));
                   CHECK_OK(kill(pid, SIGTERM));
               }),
               0);
    CHECK_KILLED(pid, SIGTERM);
}

TEST(sigcont_within_a_session_needs_no_permission) {
    REQUIRE_ROOT();
    pid_t pid = CHILD({ pause(); });
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(12345, 12345, 12345));
                   CHECK_OK(kill(pid, SIGCONT));
               }),
               0);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

/* --- waiting for signals --- */

TEST(sigsuspend_swaps_the_mask) {
    handle(SIGUSR1, on_signal, 0);
    block_signals(SIGNALS(SIGUSR1));
    raise(SIGUSR1);
    sigset_t empty, after;
    sigemptyset(&empty);
    CHECK_ERR(sigsuspend(&empty), EINTR);
    CHECK_EQ(count, 1);
    CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &after));
    CHECK(sigismember(&after, SIGUSR1));
}

TEST(sigsuspend_waits) {
    handle(SIGUSR1, on_signal, 0);
    block_signals(SIGNALS(SIGUSR1));
    pid_t parent = getpid();
    pid_t pid = CHILD({
        settle();
        kill(parent, SIGUSR1);
    });
    sigset_t empty;
    sigemptyset(&empty);
    CHECK_ERR(sigsuspend(&empty), EINTR);
    CHECK_EQ(count, 1);
    CHECK_EXIT(pid, 0);
}

TEST(pause_returns_after_a_handler) {
    handle(SIGALRM, on_signal, SA_RESTART);
    struct itimerval timer = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    CHECK_ERR(pause(), EINTR);
    CHECK(count >= 1);
}

TEST(sigtimedwait_times_out) {
    sigset_t set = SIGNALS(SIGUSR1);
    block_signals(set);
    struct timespec time = {0, 30000000};
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(sigtimedwait(&set, NULL, &time), EAGAIN);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 30000000);
    time = (struct timespec){0, 0};
    CHECK_ERR(sigtimedwait(&set, NULL, &time), EAGAIN);
    time.tv_nsec = -1;
    CHECK_ERR(sigtimedwait(&set, NULL, &time), EINVAL);
}

TEST(sigtimedwait_takes_a_pending_signal) {
    sigset_t set = SIGNALS(SIGUSR1, SIGUSR2), pending;
    block_signals(set);
    raise(SIGUSR2);
    siginfo_t info;
    struct timespec time = {5, 0};
    CHECK_EQ(sigtimedwait(&set, &info, &time), SIGUSR2);
    CHECK_EQ(info.si_signo, SIGUSR2);
    /* The kernel says SI_TKILL, which the C library turns into SI_USER here. */
    CHECK_EQ(info.si_code, SI_USER);
    CHECK_OK(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGUSR2));
}

TEST(sigtimedwait_waits_for_a_signal) {
    sigset_t set = SIGNALS(SIGUSR1);
    block_signals(set);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        settle();
        kill(parent, SIGUSR1);
    });
    siginfo_t info;
    CHECK_EQ(sigwaitinfo(&set, &info), SIGUSR1);
    CHECK_EQ(info.si_code, SI_USER);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EXIT(pid, 0);
}

TEST(sigtimedwait_is_interrupted_by_others) {
    handle(SIGALRM, on_signal, SA_RESTART);
    sigset_t set = SIGNALS(SIGUSR1);
    block_signals(set);
    struct itimerval timer = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    CHECK_ERR(sigwaitinfo(&set, NULL), EINTR);
}

/* --- EINTR and restart --- */

/* Sends SIGALRM every 20 ms, so that it cannot be missed. */
static void start_alarms(int flags) {
    handle(SIGALRM, on_signal, flags);
    struct itimerval timer = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
}

/* A child that does `action` after three alarms have come. */
#define AFTER_ALARMS(...)                                                                                              \
    CHILD({                                                                                                            \
        sleep_ms(100);                                                                                                 \
        __VA_ARGS__;                                                                                                   \
    })

TEST(read_is_interrupted) {
    int ends[2];
    char byte;
    CHECK_OK(pipe(ends));
    start_alarms(0);
    CHECK_ERR(read(ends[0], &byte, 1), EINTR);
}

TEST(read_restarts) {
    int ends[2];
    char byte;
    CHECK_OK(pipe(ends));
    pid_t pid = AFTER_ALARMS({ write(ends[1], "x", 1); });
    start_alarms(SA_RESTART);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK(count > 0);
    CHECK_EXIT(pid, 0);
}

TEST(write_is_interrupted_and_restarts) {
    int ends[2];
    static char data[65536];
    CHECK_OK(pipe(ends));
    while (fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0 && write(ends[1], data, sizeof data) > 0) {
    }
    CHECK_OK(fcntl(ends[1], F_SETFL, 0));
    start_alarms(0);
    CHECK_ERR(write(ends[1], "x", 1), EINTR);
    pid_t pid = AFTER_ALARMS({ read(ends[0], data, sizeof data); });
    start_alarms(SA_RESTART);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EXIT(pid, 0);
}

TEST(recv_restarts) {
    int ends[2];
    char byte;
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pid_t pid = AFTER_ALARMS({ write(ends[1], "x", 1); });
    start_alarms(0);
    CHECK_ERR(recv(ends[0], &byte, 1, 0), EINTR);
    start_alarms(SA_RESTART);
    CHECK_EQ(recv(ends[0], &byte, 1, 0), 1);
    CHECK_EXIT(pid, 0);
}

TEST(recv_with_a_timeout_never_restarts) {
    int ends[2];
    char byte;
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    struct timeval timeout = {5, 0};
    CHECK_OK(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    start_alarms(SA_RESTART);
    CHECK_ERR(recv(ends[0], &byte, 1, 0), EINTR);
}

TEST(poll_never_restarts) {
    start_alarms(SA_RESTART);
    CHECK_ERR(poll(NULL, 0, 5000), EINTR);
    CHECK_ERR(poll(NULL, 0, -1), EINTR);
    CHECK_ERR(select(0, NULL, NULL, NULL, NULL), EINTR);
    int epoll = CHECK_OK(epoll_create1(0));
    struct epoll_event event;
    CHECK_ERR(epoll_wait(epoll, &event, 1, -1), EINTR);
}

TEST(nanosleep_never_restarts_after_a_handler) {
    start_alarms(SA_RESTART);
    struct timespec time = {5, 0}, left = {0, 0};
    CHECK_ERR(nanosleep(&time, &left), EINTR);
    CHECK(left.tv_sec == 4 || left.tv_sec == 5);
}

TEST(nanosleep_continues_after_stop_and_continue) {
    int64_t start = now_ns(CLOCK_MONOTONIC);
    pid_t pid = CHILD({
        struct timespec time = {0, 200000000};
        CHECK_OK(nanosleep(&time, NULL));
    });
    settle();
    CHECK_OK(kill(pid, SIGSTOP));
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EXIT(pid, 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 200000000);
}

TEST(read_continues_after_stop_and_continue) {
    int ends[2];
    CHECK_OK(pipe(ends));
    pid_t pid = CHILD({
        char byte;
        CHECK_EQ(read(ends[0], &byte, 1), 1);
    });
    settle();
    CHECK_OK(kill(pid, SIGSTOP));
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_OK(kill(pid, SIGCONT));
    settle();
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EXIT(pid, 0);
}

TEST(poll_continues_after_stop_and_continue) {
    pid_t pid = CHILD({ CHECK_EQ(poll(NULL, 0, 150), 0); });
    settle();
    CHECK_OK(kill(pid, SIGSTOP));
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EXIT(pid, 0);
}

TEST(ignored_signal_interrupts_nothing) {
    int ends[2];
    CHECK_OK(pipe(ends));
    signal(SIGUSR1, SIG_IGN);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        for (int round = 0; round < 5; round++) {
            sleep_ms(10);
            kill(parent, SIGUSR1);
            kill(parent, SIGWINCH);
        }
        write(ends[1], "x", 1);
    });
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EXIT(pid, 0);
}

/* --- stop and continue --- */

TEST(sigcont_discards_pending_stops) {
    block_signals(SIGNALS(SIGTSTP, SIGCONT));
    raise(SIGTSTP);
    sigset_t pending;
    CHECK_OK(sigpending(&pending));
    CHECK(sigismember(&pending, SIGTSTP));
    raise(SIGCONT);
    CHECK_OK(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGTSTP));
    raise(SIGTSTP);
    CHECK_OK(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGCONT));
    CHECK(sigismember(&pending, SIGTSTP));
}

TEST(sigcont_handler_runs_after_continue) {
    pid_t pid = CHILD({
        handle(SIGCONT, on_signal, 0);
        raise(SIGSTOP);
        _exit(count == 1 ? 0 : 1);
    });
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EXIT(pid, 0);
}

TEST(stopped_process_keeps_other_signals_pending) {
    pid_t pid = CHILD({
        handle(SIGUSR1, on_signal, 0);
        raise(SIGSTOP);
        _exit(count);
    });
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_OK(kill(pid, SIGUSR1));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EXIT(pid, 1);
}

/* --- stacks and contexts --- */

static char alternate[65536];
static volatile uintptr_t stack_seen;
static volatile int nested_errno;

static void on_stack(int signal UNUSED) {
    int local;
    stack_seen = (uintptr_t)&local;
    stack_t stack;
    sigaltstack(NULL, &stack);
    order[0] = stack.ss_flags;
    stack.ss_flags = SS_DISABLE;
    nested_errno = sigaltstack(&stack, NULL) == -1 ? errno : 0;
}

TEST(handler_on_the_alternate_stack) {
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, old;
    CHECK_OK(sigaltstack(&stack, &old));
    CHECK_EQ(old.ss_flags, SS_DISABLE);
    handle(SIGUSR1, on_stack, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK(stack_seen > (uintptr_t)alternate && stack_seen < (uintptr_t)alternate + sizeof alternate);
    CHECK_EQ(order[0], SS_ONSTACK);
    CHECK_EQ(nested_errno, EPERM);
    CHECK_OK(sigaltstack(NULL, &old));
    CHECK_EQ(old.ss_flags, 0);
    CHECK(old.ss_sp == alternate && old.ss_size == sizeof alternate);
    handle(SIGUSR1, on_stack, 0);
    raise(SIGUSR1);
    CHECK(stack_seen < (uintptr_t)alternate || stack_seen > (uintptr_t)alternate + sizeof alternate);
}

TEST(sigaltstack_errors) {
    stack_t stack = {.ss_sp = alternate, .ss_size = 100};
    CHECK_ERR(sigaltstack(&stack, NULL), ENOMEM);
    stack.ss_size = sizeof alternate;
    stack.ss_flags = 0x40;
    CHECK_ERR(sigaltstack(&stack, NULL), EINVAL);
}

static void on_autodisarm(int signal UNUSED) {
    stack_t stack;
    sigaltstack(NULL, &stack);
    order[0] = stack.ss_flags;
}

TEST(altstack_autodisarm) {
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate, .ss_flags = (int)(1U << 31)}, old;
    CHECK_OK(sigaltstack(&stack, NULL));
    handle(SIGUSR1, on_autodisarm, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK_EQ(order[0], SS_DISABLE);
    CHECK_OK(sigaltstack(NULL, &old));
    CHECK_EQ(old.ss_flags, (int)(1U << 31));
    CHECK(old.ss_sp == alternate);
}

static sigjmp_buf jump;
static siginfo_t fault;

static void on_fault(int signal UNUSED, siginfo_t *info, void *context UNUSED) {
    fault = *info;
    siglongjmp(jump, 1);
}

/* Runs the statement and returns the signal that it raised, or 0. */
#define FAULT_OF(...)                                                                                                  \
    ({                                                                                                                 \
        memset(&fault, 0, sizeof fault);                                                                               \
        if (sigsetjmp(jump, 1) == 0) {                                                                                 \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
        fault.si_signo;                                                                                                \
    })

static void catch_faults(void) {
    handle_info(SIGSEGV, on_fault, 0);
    handle_info(SIGBUS, on_fault, 0);
    handle_info(SIGFPE, on_fault, 0);
    handle_info(SIGILL, on_fault, 0);
    handle_info(SIGTRAP, on_fault, 0);
}

TEST(segv_unmapped) {
    catch_faults();
    CHECK_EQ(FAULT_OF({ *(volatile char *)0x1234 = 1; }), SIGSEGV);
    CHECK_EQ(fault.si_code, SEGV_MAPERR);
    CHECK(fault.si_addr == (void *)0x1234);
}

TEST(segv_protected) {
    catch_faults();
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_EQ(FAULT_OF({ *(volatile char *)(page + 100) = 1; }), SIGSEGV);
    CHECK_EQ(fault.si_code, SEGV_ACCERR);
    CHECK(fault.si_addr == page + 100);
    CHECK_OK(mprotect(page, 4096, PROT_NONE));
    CHECK_EQ(FAULT_OF({ *(volatile char *)page; }), SIGSEGV);
    CHECK_EQ(fault.si_code, SEGV_ACCERR);
}

TEST(segv_noncanonical) {
    catch_faults();
    CHECK_EQ(FAULT_OF({ *(volatile char *)0x8000000000001234; }), SIGSEGV);
    CHECK_EQ(fault.si_code, SI_KERNEL);
    CHECK(fault.si_addr == NULL);
}

TEST(segv_executing_data) {
    catch_faults();
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = (char)0xc3;
    CHECK_EQ(FAULT_OF({ ((void (*)(void))page)(); }), SIGSEGV);
    CHECK_EQ(fault.si_code, SEGV_ACCERR);
    CHECK(fault.si_addr == page);
}

TEST(bus_error_beyond_the_end) {
    catch_faults();
    int fd = CHECK_OK(memfd_create("x", 0));
    CHECK_OK(ftruncate(fd, 100));
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(pages != MAP_FAILED);
    CHECK_EQ(FAULT_OF({ *(volatile char *)(pages + 4095) = 1; }), 0);
    CHECK_EQ(FAULT_OF({ *(volatile char *)(pages + 4096) = 1; }), SIGBUS);
    CHECK_EQ(fault.si_code, BUS_ADRERR);
    CHECK(fault.si_addr == pages + 4096);
}

TEST(division_by_zero) {
    catch_faults();
    CHECK_EQ(FAULT_OF({ __asm__ volatile("xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx"); }),
             SIGFPE);
    CHECK_EQ(fault.si_code, FPE_INTDIV);
}

TEST(illegal_instruction) {
    catch_faults();
    CHECK_EQ(FAULT_OF({ __asm__ volatile("ud2"); }), SIGILL);
    CHECK_EQ(fault.si_code, ILL_ILLOPN);
}

TEST(breakpoint_instruction) {
    catch_faults();
    CHECK_EQ(FAULT_OF({ __asm__ volatile("int3"); }), SIGTRAP);
    CHECK_EQ(fault.si_code, SI_KERNEL);
}

TEST(privileged_instruction) {
    catch_faults();
    CHECK_EQ(FAULT_OF({ __asm__ volatile("hlt"); }), SIGSEGV);
    CHECK_EQ(fault.si_code, SI_KERNEL);
}

TEST(blocked_fault_kills) {
    CHECK_KILLED(CHILD({
                     handle(SIGSEGV, on_signal, 0);
                     block_signals(SIGNALS(SIGSEGV));
                     *(volatile char *)8 = 1;
                 }),
                 SIGSEGV);
    CHECK_KILLED(CHILD({
                     signal(SIGSEGV, SIG_IGN);
                     *(volatile char *)8 = 1;
                 }),
                 SIGSEGV);
}

TEST(no_room_for_the_frame_kills) {
    CHECK_KILLED(CHILD({
                     handle(SIGUSR1, on_signal, 0);
                     __asm__ volatile("mov $0x10, %%rsp; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $10, %%esi;"
                                      "mov $62, %%eax; syscall; ud2" ::
                                          : "memory");
                 }),
                 SIGSEGV);
}

TEST(stack_overflow_is_caught_on_the_alternate_stack) {
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    CHECK_OK(sigaltstack(&stack, NULL));
    handle_info(SIGSEGV, on_fault, SA_ONSTACK);
    CHECK_EQ(FAULT_OF({ __asm__ volatile("1: push %%rax; jmp 1b" ::: "memory"); }), SIGSEGV);
}

static void skip_instruction(int signal UNUSED, siginfo_t *info UNUSED, void *context) {
    ucontext_t *user = context;
    /* ud2 is two bytes long. */
    user->uc_mcontext.gregs[REG_RIP] += 2;
    user->uc_mcontext.gregs[REG_RBX] = 0x1122334455667788;
    sigaddset(&user->uc_sigmask, SIGUSR2);
    count++;
}

TEST(handler_changes_the_context) {
    handle_info(SIGILL, skip_instruction, 0);
    long value = 5;
    __asm__ volatile("ud2" : "+b"(value));
    CHECK_EQ(count, 1);
    CHECK_EQ(value, 0x1122334455667788);
    sigset_t mask;
    CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &mask));
    CHECK(sigismember(&mask, SIGUSR2));
}

static void clobber_registers(int signal UNUSED) {
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15; fninit; fldpi; fldpi" ::
                         : "xmm0", "xmm15", "st", "st(1)");
    count++;
}

TEST(registers_survive_a_handler) {
    handle(SIGUSR1, clobber_registers, 0);
    long pid = getpid(), result[2];
    double floating = 1.5, popped;
    /* The registers are loaded, kill(getpid(), SIGUSR1) is called, and they are read back. */
    __asm__ volatile("movq %[pattern], %%xmm0\n"
                     "movq %[pattern], %%xmm15\n"
                     "fldl %[floating]\n"
                     "mov %[pid], %%rdi\n"
                     "mov $10, %%esi\n"
                     "mov $62, %%eax\n"
                     "syscall\n"
                     "fstpl %[popped]\n"
                     "movq %%xmm0, %[first]\n"
                     "movq %%xmm15, %[second]\n"
                     : [popped] "=m"(popped), [first] "=m"(result[0]), [second] "=m"(result[1])
                     : [pattern] "r"(0x123456789abcdefL), [floating] "m"(floating), [pid] "r"(pid)
                     : "rax", "rcx", "r11", "rdi", "rsi", "xmm0", "xmm15", "memory");
    CHECK_EQ(count, 1);
    CHECK_EQ(result[0], 0x123456789abcdef);
    CHECK_EQ(result[1], 0x123456789abcdef);
    CHECK(popped == 1.5);
}

TEST(vector_registers_survive_asynchronous_handlers) {
    handle(SIGALRM, clobber_registers, SA_RESTART);
    struct itimerval timer = {.it_value.tv_usec = 1000, .it_interval.tv_usec = 1000};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    while (count < 20) {
        long out;
        __asm__ volatile("movq %1, %%xmm15\n mov $100000, %%ecx\n 1: dec %%ecx\n jnz 1b\n movq %%xmm15, %0"
                         : "=r"(out)
                         : "r"(0x7766554433221100L)
                         : "rcx", "xmm15");
        CHECK_EQ(out, 0x7766554433221100L);
    }
}

TEST(red_zone_survives_a_handler) {
    handle(SIGALRM, clobber_registers, SA_RESTART);
    struct itimerval timer = {.it_value.tv_usec = 1000, .it_interval.tv_usec = 1000};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    while (count < 20) {
        long out;
        __asm__ volatile("movq %1, -128(%%rsp)\n mov $100000, %%ecx\n 1: dec %%ecx\n jnz 1b\n movq -128(%%rsp), %0"
                         : "=r"(out)
                         : "r"(0x7766554433221100L)
                         : "rcx", "memory");
        CHECK_EQ(out, 0x7766554433221100L);
    }
}

static ucontext_t seen_context;

static void keep_context(int signal UNUSED, siginfo_t *info UNUSED, void *context) {
    seen_context = *(ucontext_t *)context;
}

TEST(ucontext_of_a_system_call) {
    handle_info(SIGUSR1, keep_context, 0);
    block_signals(SIGNALS(SIGTERM));
    raise(SIGUSR1);
    /* The signal came at the end of tgkill, whose result is already in place. */
    CHECK_EQ(seen_context.uc_mcontext.gregs[REG_RAX], 0);
    CHECK(sigismember(&seen_context.uc_sigmask, SIGTERM));
    CHECK(!sigismember(&seen_context.uc_sigmask, SIGUSR1));
    CHECK(seen_context.uc_mcontext.fpregs != NULL);
    CHECK_EQ(seen_context.uc_mcontext.gregs[REG_CSGSFS] & 0xffff, 0x33);
}

TEST(ucontext_of_a_fault) {
    handle_info(SIGSEGV, skip_instruction, 0);
    struct sigaction action = {.sa_sigaction = keep_context, .sa_flags = SA_SIGINFO | SA_RESETHAND};
    CHECK_OK(sigaction(SIGSEGV, &action, NULL));
    pid_t pid = CHILD({
        /* The second fault, after the handler has returned to the same instruction, kills. */
        *(volatile int *)0x5678 = 1;
    });
    CHECK_KILLED(pid, SIGSEGV);
}

TEST(siglongjmp_restores_the_mask) {
    catch_faults();
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(FAULT_OF({ *(volatile char *)0x10 = 1; }), SIGSEGV);
        sigset_t mask;
        CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &mask));
        CHECK(!sigismember(&mask, SIGSEGV));
    }
}

/* --- threads --- */

static volatile pid_t handler_tid;

static void keep_tid(int signal UNUSED) {
    handler_tid = gettid();
}

static void *wait_in_thread(void *argument) {
    sigset_t set = SIGNALS(SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    *(volatile pid_t *)argument = gettid();
    while (!handler_tid) {
        sleep_ms(5);
    }
    return NULL;
}

TEST(process_signal_goes_to_a_thread_that_takes_it) {
    handle(SIGUSR1, keep_tid, 0);
    block_signals(SIGNALS(SIGUSR1));
    pthread_t thread;
    volatile pid_t tid = 0;
    CHECK_EQ(pthread_create(&thread, NULL, wait_in_thread, (void *)&tid), 0);
    while (!tid) {
        sched_yield();
    }
    CHECK_OK(kill(getpid(), SIGUSR1));
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(handler_tid, tid);
}

TEST(thread_signal_goes_to_the_thread) {
    handle(SIGUSR1, keep_tid, 0);
    pthread_t thread;
    volatile pid_t tid = 0;
    CHECK_EQ(pthread_create(&thread, NULL, wait_in_thread, (void *)&tid), 0);
    CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(handler_tid, tid);
}

static void *keep_mask(void *argument) {
    pthread_sigmask(SIG_BLOCK, NULL, argument);
    return NULL;
}

TEST(thread_inherits_the_mask) {
    block_signals(SIGNALS(SIGUSR2));
    pthread_t thread;
    sigset_t mask;
    CHECK_EQ(pthread_create(&thread, NULL, keep_mask, &mask), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(sigismember(&mask, SIGUSR2));
    CHECK(!sigismember(&mask, SIGUSR1));
}

static void *check_pending(void *argument) {
    sigset_t pending;
    sigpending(&pending);
    *(int *)argument = sigismember(&pending, SIGUSR1) | sigismember(&pending, SIGUSR2) << 1;
    return NULL;
}

TEST(pending_is_per_thread_and_per_process) {
    block_signals(SIGNALS(SIGUSR1, SIGUSR2));
    CHECK_OK(kill(getpid(), SIGUSR1));
    CHECK_OK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2));
    pthread_t thread;
    int seen = -1;
    CHECK_EQ(pthread_create(&thread, NULL, check_pending, &seen), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(seen, 1);
}

TEST(unhandled_signal_to_a_thread_kills_the_process) {
    CHECK_KILLED(CHILD({
                     pthread_t thread;
                     volatile pid_t tid = 0;
                     CHECK_EQ(pthread_create(&thread, NULL, wait_in_thread, (void *)&tid), 0);
                     pthread_kill(thread, SIGTERM);
                     pause();
                 }),
                 SIGTERM);
}

TEST(sigpipe_goes_to_the_writing_thread) {
    handle(SIGPIPE, keep_tid, 0);
    int ends[2];
    CHECK_OK(pipe(ends));
    close(ends[0]);
    CHECK_ERR(write(ends[1], "x", 1), EPIPE);
    CHECK_EQ(handler_tid, gettid());
}

TEST(kill_of_every_process_spares_the_caller) {
    /* Only harmless as signal 0. */
    CHECK_OK(kill(-1, 0));
}

TEST(many_signals_between_processes) {
    /* Ping-pong: each signal is answered before the next is sent. */
    sigset_t set = SIGNALS(SIGUSR1);
    block_signals(set);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        for (int round = 0; round < 200; round++) {
            CHECK_EQ(sigwaitinfo(&set, NULL), SIGUSR1);
            CHECK_OK(kill(parent, SIGUSR1));
        }
    });
    for (int round = 0; round < 200; round++) {
        CHECK_OK(kill(pid, SIGUSR1));
        CHECK_EQ(sigwaitinfo(&set, NULL), SIGUSR1);
    }
    CHECK_EXIT(pid, 0);
}

TEST(thousand_queued_signals_keep_their_order) {
    block_signals(SIGNALS(SIGRTMIN));
    for (int index = 0; index < 1000; index++) {
        CHECK_OK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = index}));
    }
    sigset_t set = SIGNALS(SIGRTMIN);
    siginfo_t info;
    for (int index = 0; index < 1000; index++) {
        CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
        CHECK_EQ(info.si_value.sival_int, index);
    }
}

TEST(rt_sigreturn_of_garbage_kills) {
    CHECK_KILLED(CHILD({
                     __asm__ volatile("xor %%esp, %%esp; mov $15, %%eax; syscall; ud2" ::: "memory");
                 }),
                 SIGSEGV);
}

/* What the kernel takes and gives, of which libc's structure is another. */
struct action {
    unsigned long handler, flags, restorer, mask;
};

enum { RESTORER_FLAG = 0x04000000 };

/* One place that calls, so that a runtime may come to treat it as one that calls often. */
__attribute__((noinline)) static long action_call(int signal, const void *new, void *old, size_t size) {
    register long result __asm__("rax");
    register size_t fourth __asm__("r10") = size;
    __asm__ volatile("mov $13, %%eax\n\tsyscall"
                     : "=r"(result)
                     : "D"(signal), "S"(new), "d"(old), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

static struct action action_of(int signal) {
    struct action old = {1, 1, 1, 1};
    CHECK_EQ(action_call(signal, NULL, &old, 8), 0);
    return old;
}

static void check_action(int signal, unsigned long handler, unsigned long flags, unsigned long restorer) {
    struct action action = action_of(signal);
    CHECK_EQ(action.handler, handler);
    CHECK_EQ(action.flags, flags);
    CHECK_EQ(action.restorer, restorer);
    CHECK_EQ(action.mask, 0);
}

static void make_action_call_hot(void) {
    static const struct action zero;
    for (int signal = 1; signal <= 64; signal++) {
        action_call(signal, &zero, NULL, 8);
    }
    for (int index = 0; index < 500; index++) {
        action_of(SIGUSR1);
    }
}

static const struct action again = {0, RESTORER_FLAG, 0x1234, 0};

/* Sets the default of every signal anew, as posix_spawn(3) does. */
static void restore_all_twice(void) {
    for (int round = 0; round < 2; round++) {
        for (int signal = 1; signal <= 64; signal++) {
            if (signal == SIGKILL || signal == SIGSTOP) {
                CHECK_EQ(action_call(signal, &again, NULL, 8), -EINVAL);
                check_action(signal, 0, 0, 0);
                continue;
            }
            struct action old = {1, 1, 1, 1};
            CHECK_EQ(action_call(signal, &again, &old, 8), 0);
            CHECK_EQ(old.handler, 0);
            CHECK_EQ(old.flags, round ? RESTORER_FLAG : 0);
            CHECK_EQ(old.restorer, round ? 0x1234 : 0);
            CHECK_EQ(old.mask, 0);
            check_action(signal, 0, RESTORER_FLAG, 0x1234);
        }
    }
}

TEST(default_actions_by_a_hot_call) {
    make_action_call_hot();
    restore_all_twice();
    /* Other restorers, flags and masks are not mixed up with that one. */
    struct action other = {0, RESTORER_FLAG, 0x5678, 0};
    CHECK_EQ(action_call(SIGTERM, &other, NULL, 8), 0);
    check_action(SIGTERM, 0, RESTORER_FLAG, 0x5678);
    check_action(SIGHUP, 0, RESTORER_FLAG, 0x1234);
    CHECK_EQ(action_call(SIGHUP, &again, NULL, 8), 0);
    check_action(SIGHUP, 0, RESTORER_FLAG, 0x1234);
    check_action(SIGTERM, 0, RESTORER_FLAG, 0x5678);
    other = (struct action){0, RESTORER_FLAG | SA_RESTART, 0x1234, 0};
    CHECK_EQ(action_call(SIGINT, &other, NULL, 8), 0);
    check_action(SIGINT, 0, RESTORER_FLAG | SA_RESTART, 0x1234);
    other = (struct action){0, 0, 0, 0};
    CHECK_EQ(action_call(SIGQUIT, &other, NULL, 8), 0);
    check_action(SIGQUIT, 0, 0, 0);
    other = (struct action){0, RESTORER_FLAG, 0x1234, 1UL << (SIGUSR2 - 1)};
    CHECK_EQ(action_call(SIGUSR1, &other, NULL, 8), 0);
    CHECK_EQ(action_of(SIGUSR1).mask, 1UL << (SIGUSR2 - 1));
    /* What Linux refuses. */
    CHECK_EQ(action_call(0, NULL, &other, 8), -EINVAL);
    CHECK_EQ(action_call(65, NULL, &other, 8), -EINVAL);
    CHECK_EQ(action_call(-1, NULL, &other, 8), -EINVAL);
    CHECK_EQ(action_call(SIGHUP, NULL, &other, 4), -EINVAL);
    CHECK_EQ(action_call(SIGHUP, BAD, NULL, 8), -EFAULT);
    CHECK_EQ(action_call(SIGHUP, NULL, BAD, 8), -EFAULT);
    CHECK_EQ(action_call(SIGHUP, NULL, NULL, 8), 0);
    /* The registers and flags that a call leaves alone. */
    unsigned long flags, r8 = 8, r9 = 9;
    __asm__ volatile("stc\n\tmov $8, %%r8\n\tmov $9, %%r9\n\tmov $13, %%eax\n\tsyscall\n\tpushf\n\tpop %0\n\tmov %%r8, "
                     "%1\n\tmov %%r9, %2"
                     : "=&b"(flags), "=&r"(r8), "=&r"(r9)
                     : "D"(SIGHUP), "S"(0), "d"(&other)
                     : "rax", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
    CHECK_EQ(r8, 8);
    CHECK_EQ(r9, 9);
    CHECK_EQ(flags & 1, 1);
}

TEST(handlers_and_defaults_by_a_hot_call) {
    make_action_call_hot();
    restore_all_twice();
    handle(SIGUSR1, on_signal, 0);
    CHECK_EQ(action_of(SIGUSR1).handler, (unsigned long)on_signal);
    CHECK_OK(raise(SIGUSR1));
    CHECK_EQ(count, 1);
    struct action old;
    CHECK_EQ(action_call(SIGUSR1, &again, &old, 8), 0);
    CHECK_EQ(old.handler, (unsigned long)on_signal);
    CHECK_KILLED(CHILD({ raise(SIGUSR1); }), SIGUSR1);
    signal(SIGUSR2, SIG_IGN);
    CHECK_EQ(action_of(SIGUSR2).handler, 1);
    CHECK_EQ(action_call(SIGUSR2, &again, &old, 8), 0);
    CHECK_EQ(old.handler, 1);
    CHECK_KILLED(CHILD({ raise(SIGUSR2); }), SIGUSR2);
    /* To set the default discards what waits and is ignored by default. */
    block_signals(SIGNALS(SIGCHLD, SIGTERM));
    raise(SIGCHLD);
    raise(SIGTERM);
    CHECK_EQ(action_call(SIGCHLD, &again, NULL, 8), 0);
    CHECK_EQ(action_call(SIGTERM, &again, NULL, 8), 0);
    sigset_t pending;
    CHECK_OK(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGCHLD));
    CHECK(sigismember(&pending, SIGTERM));
    /* One that resets itself keeps its flags. */
    handle(SIGHUP, on_signal, SA_RESETHAND);
    CHECK_OK(raise(SIGHUP));
    CHECK_EQ(action_of(SIGHUP).handler, 0);
    CHECK_EQ(action_of(SIGHUP).flags & SA_RESETHAND, SA_RESETHAND);
}

static void *set_default(void *argument UNUSED) {
    check_action(SIGUSR1, 0, RESTORER_FLAG, 0x1234);
    CHECK_EQ(action_of(SIGUSR2).handler, (unsigned long)on_signal);
    CHECK_EQ(action_call(SIGUSR2, &again, NULL, 8), 0);
    return NULL;
}

TEST(actions_by_a_hot_call_in_children_and_threads) {
    make_action_call_hot();
    CHECK_EQ(action_call(SIGUSR1, &again, NULL, 8), 0);
    CHECK_EQ(action_call(SIGUSR1, &again, NULL, 8), 0);
    /* A child begins with its parent's actions, and changes its own. */
    CHECK_EXIT(CHILD({
                   check_action(SIGUSR1, 0, RESTORER_FLAG, 0x1234);
                   check_action(SIGALRM, 0, 0, 0);
                   CHECK_EQ(action_call(SIGALRM, &again, NULL, 8), 0);
                   check_action(SIGALRM, 0, RESTORER_FLAG, 0x1234);
               }),
               0);
    pid_t child = vfork();
    if (child == 0) {
        check_action(SIGUSR1, 0, RESTORER_FLAG, 0x1234);
        CHECK_EQ(action_call(SIGALRM, &again, NULL, 8), 0);
        check_action(SIGALRM, 0, RESTORER_FLAG, 0x1234);
        _exit(0);
    }
    CHECK_EXIT(CHECK_OK(child), 0);
    check_action(SIGALRM, 0, 0, 0);
    /* Threads share them. */
    handle(SIGUSR2, on_signal, 0);
    pthread_t thread;
    for (int round = 0; round < 3; round++) {
        handle(SIGUSR2, on_signal, 0);
        CHECK_EQ(pthread_create(&thread, NULL, set_default, NULL), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        check_action(SIGUSR2, 0, RESTORER_FLAG, 0x1234);
        CHECK_EQ(action_call(SIGALRM, &again, NULL, 8), 0);
        check_action(SIGALRM, 0, RESTORER_FLAG, 0x1234);
    }
}

/* --- masks that change all the time, and get fast by that --- */

enum { SENT = 2000 };

static volatile int masked, handled, handled_masked;

static void on_queued(int signal UNUSED) {
    handled_masked += masked;
    __atomic_add_fetch(&handled, 1, __ATOMIC_SEQ_CST);
}

static void mask_and_unmask(long rounds) {
    sigset_t all, before;
    sigfillset(&all);
    for (long round = 0; round < rounds; round++) {
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &all, &before), 0);
        masked = 1;
        CHECK(!sigismember(&before, SIGRTMIN));
        masked = 0;
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    }
}

static void *send_to_main(void *argument) {
    block_signals(SIGNALS(SIGRTMIN));
    for (int sent = 0; sent < SENT; sent++) {
        while (pthread_kill(*(pthread_t *)argument, SIGRTMIN) == EAGAIN) {
            sched_yield();
        }
        if (sent % 50 == 0) {
            sleep_ms(1);
        }
    }
    return NULL;
}

TEST(no_signal_comes_while_a_fast_mask_blocks_it_and_none_is_lost) {
    handle(SIGRTMIN, on_queued, 0);
    mask_and_unmask(1000);
    pthread_t self = pthread_self(), sender;
    CHECK_EQ(pthread_create(&sender, NULL, send_to_main, &self), 0);
    while (__atomic_load_n(&handled, __ATOMIC_SEQ_CST) < SENT) {
        mask_and_unmask(100);
    }
    CHECK_EQ(pthread_join(sender, NULL), 0);
    CHECK_EQ(handled, SENT);
    CHECK_EQ(handled_masked, 0);
}

static void *mask_until_all_came(void *argument UNUSED) {
    sigset_t all, before;
    sigfillset(&all);
    while (__atomic_load_n(&handled, __ATOMIC_SEQ_CST) < SENT) {
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &all, &before), 0);
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    }
    return NULL;
}

TEST(a_signal_for_a_process_finds_the_thread_that_does_not_block_it_just_now) {
    handle(SIGRTMIN, on_queued, 0);
    pthread_t threads[2];
    for (int index = 0; index < 2; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, mask_until_all_came, NULL), 0);
    }
    block_signals(SIGNALS(SIGRTMIN));
    for (int sent = 0; sent < SENT; sent++) {
        while (sigqueue(getpid(), SIGRTMIN, (union sigval){0}) != 0) {
            CHECK_EQ(errno, EAGAIN);
            sched_yield();
        }
    }
    for (int index = 0; index < 2; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
    }
    CHECK_EQ(handled, SENT);
}

TEST(what_is_pending_comes_when_a_fast_mask_lets_it) {
    mask_and_unmask(1000);
    handle(SIGUSR1, on_signal, 0);
    sigset_t before;
    sigset_t usr1 = SIGNALS(SIGUSR1);
    for (int round = 0; round < 100; round++) {
        count = 0;
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, &before), 0);
        CHECK_OK(kill(getpid(), SIGUSR1));
        mask_and_unmask(3);
        CHECK_EQ(count, 0);
        CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL), 0);
        CHECK_EQ(count, 1);
    }
    /* Asking by the same memory that says what is new. */
    sigset_t both = usr1, *same = &both;
    CHECK_EQ(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &both, same, 8), 0);
    CHECK(!sigismember(&both, SIGUSR1));
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before, &both), 0);
    CHECK(sigismember(&both, SIGUSR1));
}

static void *mask_of_a_new_thread(void *argument) {
    pthread_sigmask(SIG_BLOCK, NULL, argument);
    return NULL;
}

TEST(fast_masks_are_inherited_and_kept) {
    mask_and_unmask(1000);
    sigset_t usr1 = SIGNALS(SIGUSR1), seen;
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &usr1, NULL), 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, mask_of_a_new_thread, &seen), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(sigismember(&seen, SIGUSR1) && !sigismember(&seen, SIGUSR2));
    CHECK_EXIT(CHILD({
                   CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &seen), 0);
                   CHECK(sigismember(&seen, SIGUSR1) && !sigismember(&seen, SIGUSR2));
               }),
               0);
    /* SIGUSR1 is bit 9. */
    CHECK_EXIT(CHILD({
                   execl("/bin/grep", "grep", "-q", "^SigBlk:.0000000000000200$", "/proc/self/status", NULL);
               }),
               0);
    unsigned long long unblockable = ~0ULL;
    CHECK_OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &unblockable, NULL, 8));
    CHECK_OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &unblockable, 8));
    CHECK_EQ(unblockable, ~(1ULL << (SIGKILL - 1) | 1ULL << (SIGSTOP - 1)));
}
