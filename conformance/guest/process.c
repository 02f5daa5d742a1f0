/* Processes and threads: creation, exit, waiting, groups, sessions, reparenting. */
#include "test.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>

/* Memory that survives fork as shared memory. */
static void *shared_page(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    return page;
}

static long raw_clone(unsigned long flags, int *parent_tid, int *child_tid) {
    return syscall(SYS_clone, flags, NULL, parent_tid, child_tid, 0);
}

static int pidfd_of(pid_t pid) {
    return syscall(SYS_pidfd_open, pid, 0);
}

TEST(fork_gives_the_child_its_own_pid) {
    pid_t parent = getpid();
    int *seen = shared_page();
    pid_t pid = CHILD({
        CHECK(getpid() != parent);
        CHECK_EQ(getppid(), parent);
        *seen = getpid();
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(*seen, pid);
}

TEST(fork_copies_memory) {
    static int value = 1;
    int stack_value = 1;
    pid_t pid = CHILD({
        value = 2;
        stack_value = 2;
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(value, 1);
    CHECK_EQ(stack_value, 1);
}

TEST(fork_shares_the_file_offset) {
    enter_scratch();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    CHECK_EXIT(CHILD({ CHECK_EQ(write(fd, "12345", 5), 5); }), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
}

TEST(fork_gives_the_child_its_own_descriptor_table) {
    int fd = CHECK_OK(dup(1));
    CHECK_EXIT(CHILD({ CHECK_OK(close(fd)); }), 0);
    CHECK_OK(fcntl(fd, F_GETFD));
}

TEST(fork_does_not_pass_on_pending_signals) {
    block_signals(SIGNALS(SIGUSR1));
    raise(SIGUSR1);
    CHECK_EXIT(CHILD({
                   sigset_t pending;
                   CHECK_OK(sigpending(&pending));
                   CHECK(!sigismember(&pending, SIGUSR1));
               }),
               0);
}

TEST(fork_does_not_pass_on_the_alarm) {
    alarm(100);
    CHECK_EXIT(CHILD({ CHECK_EQ(alarm(0), 0); }), 0);
    CHECK(alarm(0) > 0);
}

static void do_nothing(int signal UNUSED) {
}

/* Calls that are made often may be answered by a shorter way, which must not be an older answer. */
static void check_identity_often(uid_t real, uid_t effective, gid_t real_group, gid_t effective_group) {
    pid_t process = syscall(SYS_getpid), thread = syscall(SYS_gettid);
    for (int round = 0; round < 200; round++) {
        CHECK_EQ(getpid(), process);
        CHECK_EQ(syscall(SYS_gettid), thread);
        CHECK_EQ(getuid(), real);
        CHECK_EQ(geteuid(), effective);
        CHECK_EQ(getgid(), real_group);
        CHECK_EQ(getegid(), effective_group);
    }
}

static void *check_thread(void *unused UNUSED) {
    CHECK(syscall(SYS_gettid) != getpid());
    check_identity_often(getuid(), geteuid(), getgid(), getegid());
    return NULL;
}

TEST(identity_calls_made_often_follow_changes) {
    if (geteuid() != 0) {
        SKIP("needs root");
    }
    check_identity_often(0, 0, 0, 0);
    pid_t parent = getpid();
    CHECK_EXIT(CHILD({
                   CHECK(getpid() != parent);
                   CHECK_EQ(getppid(), parent);
                   check_identity_often(0, 0, 0, 0);
                   pthread_t thread;
                   CHECK_EQ(pthread_create(&thread, NULL, check_thread, NULL), 0);
                   check_identity_often(0, 0, 0, 0);
                   CHECK_EQ(pthread_join(thread, NULL), 0);
                   CHECK_OK(setresgid(5, 6, 7));
                   check_identity_often(0, 0, 5, 6);
                   CHECK_OK(setresuid(8, 9, 0));
                   check_identity_often(8, 9, 5, 6);
                   CHECK_EXIT(CHILD({ check_identity_often(8, 9, 5, 6); }), 0);
                   CHECK_OK(seteuid(0));
                   check_identity_often(8, 0, 5, 6);
               }),
               0);
    CHECK_EQ(getpid(), parent);
    check_identity_often(0, 0, 0, 0);
}

/* A signal that arrives anywhere in a call leaves registers and results as they are. */
TEST(calls_made_often_survive_signals) {
    handle(SIGALRM, do_nothing, SA_RESTART);
    struct itimerval timer = {{0, 500}, {0, 500}};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    pid_t self = getpid();
    int fds[2];
    CHECK_OK(pipe(fds));
    for (int round = 0; round < 20000; round++) {
        char byte = (char)round;
        CHECK_EQ(getpid(), self);
        CHECK_EQ(syscall(SYS_getpid), self);
        CHECK_EQ(write(fds[1], &byte, 1), 1);
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        CHECK_EQ(byte, (char)round);
    }
}

TEST(fork_passes_on_handlers_and_mask) {
    handle(SIGUSR1, do_nothing, 0);
    block_signals(SIGNALS(SIGUSR2));
    CHECK_EXIT(CHILD({
                   struct sigaction action;
                   sigset_t mask;
                   CHECK_OK(sigaction(SIGUSR1, NULL, &action));
                   CHECK(action.sa_handler == do_nothing);
                   CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &mask));
                   CHECK(sigismember(&mask, SIGUSR2));
                   CHECK(!sigismember(&mask, SIGUSR1));
               }),
               0);
}

TEST(fork_many_times) {
    for (int round = 0; round < 100; round++) {
        CHECK_EXIT(CHILD({ _exit(round); }), round);
    }
}

TEST(fork_chain) {
    /* Each process exits with its depth counted from the deepest one. */
    pid_t pid = -1;
    int depth = 0;
    while (depth < 20 && (pid = CHECK_OK(fork())) == 0) {
        depth++;
    }
    if (depth == 20) {
        _exit(0);
    }
    CHECK_EXIT(pid, depth == 19 ? 0 : 19 - depth);
    if (depth > 0) {
        _exit(20 - depth);
    }
}

TEST(many_children_at_once) {
    pid_t pids[40];
    struct gate gate = gate_new();
    for (int index = 0; index < 40; index++) {
        pids[index] = CHILD({
            gate_wait(&gate);
            _exit(index);
        });
    }
    for (int index = 0; index < 40; index++) {
        gate_open(&gate);
    }
    for (int index = 39; index >= 0; index--) {
        CHECK_EXIT(pids[index], index);
    }
}

TEST(vfork_shares_memory_and_suspends_the_parent) {
    static volatile int value = 1;
    pid_t pid = vfork();
    if (pid == 0) {
        value = 2;
        _exit(7);
    }
    CHECK(pid > 0);
    CHECK_EQ(value, 2);
    CHECK_EXIT(pid, 7);
}

HELPER(exit_with) {
    return atoi(argv[0]);
}

TEST(vfork_then_exec) {
    pid_t pid = vfork();
    if (pid == 0) {
        execl(self_path, self_path, "--helper", "exit_with", "9", (char *)NULL);
        _exit(1);
    }
    CHECK(pid > 0);
    CHECK_EXIT(pid, 9);
}

TEST(vfork_after_a_failed_exec) {
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/nonexistent/program", "program", (char *)NULL);
        _exit(errno == ENOENT ? 3 : 4);
    }
    CHECK(pid > 0);
    CHECK_EXIT(pid, 3);
}

TEST(exit_keeps_the_low_byte) {
    CHECK_EXIT(CHILD({ _exit(0x1234); }), 0x34);
    CHECK_EXIT(CHILD({ _exit(-1); }), 255);
}

TEST(signal_death_shows_in_the_status) {
    CHECK_KILLED(CHILD({
                     raise(SIGTERM);
                     pause();
                 }),
                 SIGTERM);
    CHECK_KILLED(CHILD({
                     raise(SIGKILL);
                     pause();
                 }),
                 SIGKILL);
    CHECK_KILLED(CHILD({
                     raise(SIGRTMIN + 3);
                     pause();
                 }),
                 SIGRTMIN + 3);
}

TEST(wait_without_children_is_echild) {
    CHECK_ERR(wait(NULL), ECHILD);
    CHECK_ERR(waitpid(getppid(), NULL, 0), ECHILD);
    siginfo_t info;
    CHECK_ERR(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    CHECK_ERR(waitpid(-getpgid(getppid()), NULL, WNOHANG), ECHILD);
}

TEST(waitpid_rejects_unknown_options) {
    CHECK_ERR(waitpid(-1, NULL, 0x100), EINVAL);
    CHECK_ERR(waitid(P_ALL, 0, NULL, 0), EINVAL);
    CHECK_ERR(waitid(P_ALL, 0, NULL, WEXITED | 0x100), EINVAL);
    CHECK_ERR(waitid(77, 0, NULL, WEXITED), EINVAL);
    CHECK_ERR(waitid(P_PID, 0, NULL, WEXITED), EINVAL);
}

TEST(waitpid_of_int_min_is_esrch) {
    CHECK_ERR(waitpid(INT_MIN, NULL, 0), ESRCH);
}

TEST(waitpid_wnohang_returns_zero_while_running) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    int status = 0x7777;
    CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
    CHECK_EQ(waitpid(-1, &status, WNOHANG), 0);
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(waitpid(pid, &status, WNOHANG), ECHILD);
}

TEST(waitid_wnohang_clears_siginfo) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    siginfo_t info;
    memset(&info, 0x55, sizeof info);
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED | WNOHANG), 0);
    CHECK_EQ(info.si_pid, 0);
    CHECK_EQ(info.si_signo, 0);
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
}

TEST(waitid_fills_siginfo) {
    siginfo_t info;
    pid_t pid = CHILD({ _exit(42); });
    memset(&info, 0x55, sizeof info);
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED), 0);
    CHECK_EQ(info.si_signo, SIGCHLD);
    CHECK_EQ(info.si_code, CLD_EXITED);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_uid, getuid());
    CHECK_EQ(info.si_status, 42);
    pid = CHILD({ raise(SIGKILL); });
    CHECK_EQ(waitid(P_ALL, 0, &info, WEXITED), 0);
    CHECK_EQ(info.si_code, CLD_KILLED);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, SIGKILL);
}

TEST(waitid_wnowait_leaves_the_zombie) {
    pid_t pid = CHILD({ _exit(5); });
    siginfo_t info;
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
        CHECK_EQ(info.si_pid, pid);
        CHECK_EQ(info.si_status, 5);
    }
    CHECK_EXIT(pid, 5);
    CHECK_ERR(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), ECHILD);
}

TEST(waitpid_by_process_group) {
    struct gate gate = gate_new();
    pid_t other = CHILD({
        setpgid(0, 0);
        gate_wait(&gate);
        _exit(1);
    });
    setpgid(other, other);
    pid_t same = CHILD({ _exit(2); });
    int status;
    CHECK_EQ(waitpid(0, &status, 0), same);
    CHECK_EQ(WEXITSTATUS(status), 2);
    CHECK_ERR(waitpid(0, &status, 0), ECHILD);
    gate_open(&gate);
    CHECK_EQ(waitpid(-other, &status, 0), other);
    CHECK_EQ(WEXITSTATUS(status), 1);
}

TEST(waitid_by_process_group) {
    pid_t other = CHILD({
        setpgid(0, 0);
        _exit(1);
    });
    setpgid(other, other);
    siginfo_t info;
    CHECK_EQ(waitid(P_PGID, other, &info, WEXITED), 0);
    CHECK_EQ(info.si_pid, other);
    pid_t same = CHILD({ _exit(2); });
    CHECK_EQ(waitid(P_PGID, 0, &info, WEXITED), 0);
    CHECK_EQ(info.si_pid, same);
}

TEST(waitid_by_pidfd) {
    pid_t pid = CHILD({ _exit(11); });
    int fd = CHECK_OK(pidfd_of(pid));
    siginfo_t info;
    CHECK_EQ(waitid(P_PIDFD, fd, &info, WEXITED), 0);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, 11);
    CHECK_ERR(waitid(P_PIDFD, fd, &info, WEXITED), ECHILD);
    CHECK_ERR(waitid(P_PIDFD, 999, &info, WEXITED), EBADF);
}

TEST(waitid_sees_stop_and_continue) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    siginfo_t info;
    CHECK_OK(kill(pid, SIGSTOP));
    CHECK_EQ(waitid(P_PID, pid, &info, WSTOPPED), 0);
    CHECK_EQ(info.si_code, CLD_STOPPED);
    CHECK_EQ(info.si_status, SIGSTOP);
    info.si_pid = -1;
    CHECK_EQ(waitid(P_PID, pid, &info, WSTOPPED | WNOHANG), 0);
    CHECK_EQ(info.si_pid, 0);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EQ(waitid(P_PID, pid, &info, WCONTINUED), 0);
    CHECK_EQ(info.si_code, CLD_CONTINUED);
    CHECK_EQ(info.si_status, SIGCONT);
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
}

TEST(waitpid_wuntraced_and_wcontinued) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    int status;
    CHECK_OK(kill(pid, SIGTSTP));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
    CHECK_EQ(WSTOPSIG(status), SIGTSTP);
    CHECK_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
    CHECK(WIFCONTINUED(status));
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
}

TEST(sigkill_ends_a_stopped_process) {
    pid_t pid = CHILD({ pause(); });
    int status;
    CHECK_OK(kill(pid, SIGSTOP));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(wait4_reports_resource_usage) {
    pid_t pid = CHILD({
        for (volatile long count = 0; count < 30000000; count++) {
        }
    });
    struct rusage usage;
    memset(&usage, 0x55, sizeof usage);
    CHECK_EQ(wait4(pid, NULL, 0, &usage), pid);
    CHECK(usage.ru_utime.tv_sec < 100 && usage.ru_utime.tv_usec < 1000000);
    CHECK(usage.ru_utime.tv_sec > 0 || usage.ru_utime.tv_usec > 0);
}

TEST(the_most_memory_is_remembered) {
    /* In kilobytes; the kernel's count is exact to some pages of each processor. */
    enum { MUCH = 64 << 20, COUNTED = 60 << 10 };
    pid_t pid = CHILD({
        pid_t below = CHILD({
            char *memory = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(memory != MAP_FAILED);
            memset(memory, 1, MUCH);
            CHECK_OK(munmap(memory, MUCH));
            struct rusage own;
            CHECK_OK(getrusage(RUSAGE_SELF, &own));
            CHECK(own.ru_maxrss >= COUNTED);
        });
        struct rusage children;
        CHECK_OK(getrusage(RUSAGE_CHILDREN, &children));
        CHECK_EQ(children.ru_maxrss, 0);
        CHECK_EXIT(below, 0);
        CHECK_OK(getrusage(RUSAGE_CHILDREN, &children));
        CHECK(children.ru_maxrss >= COUNTED);
        struct rusage own;
        CHECK_OK(getrusage(RUSAGE_SELF, &own));
        CHECK(own.ru_maxrss > 0 && own.ru_maxrss < COUNTED);
    });
    struct rusage usage;
    CHECK_EQ(wait4(pid, NULL, 0, &usage), pid);
    CHECK(usage.ru_maxrss >= COUNTED);
    struct rusage children;
    CHECK_OK(getrusage(RUSAGE_CHILDREN, &children));
    CHECK_EQ(children.ru_maxrss, usage.ru_maxrss);
}

TEST(wait_is_interrupted_by_a_handler) {
    handle(SIGUSR1, do_nothing, 0);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        /* Again and again: the first may come before the parent waits. */
        for (;;) {
            settle();
            kill(parent, SIGUSR1);
        }
    });
    CHECK_ERR(wait(NULL), EINTR);
    handle(SIGUSR1, do_nothing, SA_RESTART);
    pid_t killer = CHILD({
        settle();
        settle();
        kill(pid, SIGKILL);
    });
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    CHECK_EXIT(killer, 0);
}

TEST(ignored_sigchld_leaves_no_zombies) {
    signal(SIGCHLD, SIG_IGN);
    pid_t pid = CHILD({ _exit(3); });
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
    CHECK_ERR(kill(pid, 0), ESRCH);
}

TEST(sa_nocldwait_leaves_no_zombies) {
    handle(SIGCHLD, do_nothing, SA_NOCLDWAIT | SA_RESTART);
    pid_t pid = CHILD({ _exit(3); });
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
}

static siginfo_t child_info[4];
static volatile sig_atomic_t child_signals;

static void on_child(int signal UNUSED, siginfo_t *info, void *context UNUSED) {
    if (child_signals < 4) {
        child_info[child_signals] = *info;
    }
    child_signals++;
}

TEST(sigchld_carries_the_status) {
    block_signals(SIGNALS(SIGCHLD));
    pid_t pid = CHILD({ _exit(12); });
    siginfo_t info;
    sigset_t set = SIGNALS(SIGCHLD);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_code, CLD_EXITED);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, 12);
    CHECK_EQ(info.si_uid, getuid());
    CHECK_EXIT(pid, 12);
    pid = CHILD({ raise(SIGTERM); });
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_code, CLD_KILLED);
    CHECK_EQ(info.si_status, SIGTERM);
    CHECK_KILLED(pid, SIGTERM);
}

TEST(sigchld_on_stop_and_continue) {
    handle_info(SIGCHLD, on_child, SA_RESTART);
    pid_t pid = CHILD({
        for (;;) {
            pause();
        }
    });
    int status;
    CHECK_OK(kill(pid, SIGSTOP));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_EQ(child_signals, 1);
    CHECK_EQ(child_info[0].si_code, CLD_STOPPED);
    CHECK_EQ(child_info[0].si_status, SIGSTOP);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
    /* The child sends this one when it runs again, which may be after the wait. */
    while (child_signals < 2) {
        sched_yield();
    }
    CHECK_EQ(child_info[1].si_code, CLD_CONTINUED);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
    CHECK_EQ(child_signals, 3);
}

TEST(sa_nocldstop_silences_stops) {
    handle_info(SIGCHLD, on_child, SA_RESTART | SA_NOCLDSTOP);
    pid_t pid = CHILD({ pause(); });
    int status;
    CHECK_OK(kill(pid, SIGSTOP));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
    CHECK_EQ(child_signals, 0);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
    CHECK_EQ(child_signals, 1);
}

TEST(zombie_keeps_its_pid_until_waited_for) {
    pid_t pid = CHILD({ _exit(0); });
    siginfo_t info;
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
    CHECK_OK(kill(pid, 0));
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_OK(getpgid(pid));
    CHECK_EXIT(pid, 0);
    CHECK_ERR(kill(pid, 0), ESRCH);
    CHECK_ERR(getpgid(pid), ESRCH);
}

TEST(clone_without_sigchld_needs_wall) {
    pid_t pid = CHECK_OK(raw_clone(0, NULL, NULL));
    if (pid == 0) {
        _exit(6);
    }
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
    int status;
    CHECK_EQ(waitpid(pid, &status, __WCLONE), pid);
    CHECK_EQ(WEXITSTATUS(status), 6);
    /* The exit signal is sent, and would kill this process. */
    signal(SIGUSR1, SIG_IGN);
    pid = CHECK_OK(raw_clone(SIGUSR1, NULL, NULL));
    if (pid == 0) {
        _exit(8);
    }
    CHECK_EXIT(pid, 8);
}

TEST(clone_sends_the_exit_signal_asked_for) {
    block_signals(SIGNALS(SIGUSR2, SIGCHLD));
    pid_t pid = CHECK_OK(raw_clone(SIGUSR2, NULL, NULL));
    if (pid == 0) {
        _exit(4);
    }
    siginfo_t info;
    sigset_t set = SIGNALS(SIGUSR2, SIGCHLD);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGUSR2);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, 4);
    CHECK_EXIT(pid, 4);
}

TEST(clone_rejects_inconsistent_flags) {
    CHECK_ERR(raw_clone(CLONE_THREAD | SIGCHLD, NULL, NULL), EINVAL);
    CHECK_ERR(raw_clone(CLONE_SIGHAND | SIGCHLD, NULL, NULL), EINVAL);
    CHECK_ERR(raw_clone(CLONE_THREAD | CLONE_VM, NULL, NULL), EINVAL);
    CHECK_ERR(raw_clone(CLONE_FS | CLONE_NEWNS | SIGCHLD, NULL, NULL), EINVAL);
}

static int clone_value;
static char clone_stack[65536] __attribute__((aligned(16)));

static int set_value(void *argument) {
    clone_value = *(int *)argument;
    return 3;
}

TEST(clone_vm_shares_memory) {
    int value = 77;
    pid_t pid = CHECK_OK(clone(set_value, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, &value));
    CHECK_EXIT(pid, 3);
    CHECK_EQ(clone_value, 77);
}

static int close_descriptor(void *argument) {
    return close(*(int *)argument);
}

TEST(clone_files_shares_descriptors) {
    int fd = CHECK_OK(dup(1));
    pid_t pid = CHECK_OK(clone(close_descriptor, clone_stack + sizeof clone_stack, CLONE_FILES | SIGCHLD, &fd));
    CHECK_EXIT(pid, 0);
    CHECK_ERR(fcntl(fd, F_GETFD), EBADF);
}

static int change_directory(void *argument UNUSED) {
    umask(0123);
    return chdir("/");
}

TEST(clone_fs_shares_directory_and_umask) {
    enter_scratch();
    umask(022);
    pid_t pid = CHECK_OK(clone(change_directory, clone_stack + sizeof clone_stack, SIGCHLD, NULL));
    CHECK_EXIT(pid, 0);
    char directory[PATH_MAX];
    CHECK(getcwd(directory, sizeof directory));
    CHECK(strcmp(directory, "/"));
    pid = CHECK_OK(clone(change_directory, clone_stack + sizeof clone_stack, CLONE_FS | SIGCHLD, NULL));
    CHECK_EXIT(pid, 0);
    CHECK_STR(getcwd(directory, sizeof directory), "/");
    CHECK_EQ(umask(0), 0123);
}

TEST(unshare_files_and_fs) {
    CHECK_OK(unshare(CLONE_FILES | CLONE_FS));
    CHECK_ERR(unshare(0x10), EINVAL);
}

TEST(clone_parent_makes_a_sibling) {
    int *pids = shared_page();
    pid_t parent = getpid();
    pid_t middle = CHILD({
        pid_t pid = CHECK_OK(raw_clone(CLONE_PARENT | SIGCHLD, NULL, NULL));
        if (pid == 0) {
            pids[1] = getppid();
            _exit(21);
        }
        pids[0] = pid;
        CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
    });
    CHECK_EXIT(middle, 0);
    CHECK_EXIT(pids[0], 21);
    CHECK_EQ(pids[1], parent);
}

TEST(clone_writes_the_tids) {
    int parent_tid = 0;
    int *child_tid = shared_page();
    pid_t pid = CHECK_OK(raw_clone(CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, &parent_tid, child_tid));
    if (pid == 0) {
        _exit(*child_tid == getpid() ? 0 : 1);
    }
    CHECK_EQ(parent_tid, pid);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(*child_tid, pid);
}

static int do_nothing_at_all(void *argument UNUSED) {
    sleep_ms(20);
    return 0;
}

TEST(clone_child_cleartid_wakes_a_futex) {
    static int word;
    word = 1;
    pid_t pid = CHECK_OK(clone(do_nothing_at_all, clone_stack + sizeof clone_stack,
                               CLONE_CHILD_CLEARTID | CLONE_VM | SIGCHLD, NULL, NULL, NULL, &word));
    while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 1) {
        syscall(SYS_futex, &word, FUTEX_WAIT, 1, NULL, NULL, 0);
    }
    CHECK_EQ(word, 0);
    CHECK_EXIT(pid, 0);
}

TEST(set_tid_address_returns_the_tid) {
    static int word;
    CHECK_EQ(syscall(SYS_set_tid_address, &word), gettid());
}

static long clone3(struct clone_args *arguments, size_t size) {
    return syscall(SYS_clone3, arguments, size);
}

TEST(clone3_works_as_fork) {
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    pid_t pid = CHECK_OK(clone3(&arguments, sizeof arguments));
    if (pid == 0) {
        _exit(13);
    }
    CHECK_EXIT(pid, 13);
    pid = CHECK_OK(clone3(&arguments, CLONE_ARGS_SIZE_VER0));
    if (pid == 0) {
        _exit(14);
    }
    CHECK_EXIT(pid, 14);
}

TEST(clone3_checks_its_arguments) {
    struct {
        struct clone_args arguments;
        char more[64];
    } large = {.arguments = {.exit_signal = SIGCHLD}};
    CHECK_ERR(clone3(&large.arguments, 8), EINVAL);
    CHECK_ERR(clone3(&large.arguments, 1 << 20), E2BIG);
    large.more[20] = 1;
    CHECK_ERR(clone3(&large.arguments, sizeof large), E2BIG);
    large.arguments.exit_signal = 65;
    CHECK_ERR(clone3(&large.arguments, sizeof large.arguments), EINVAL);
    large.arguments.exit_signal = 0;
    large.arguments.flags = CLONE_DETACHED;
    CHECK_ERR(clone3(&large.arguments, sizeof large.arguments), EINVAL);
    large.arguments.flags = 0;
    large.arguments.stack = (uintptr_t)clone_stack;
    CHECK_ERR(clone3(&large.arguments, sizeof large.arguments), EINVAL);
    CHECK_ERR(clone3((void *)8, sizeof large.arguments), EFAULT);
}

TEST(clone3_gives_a_pidfd) {
    int fd = -1;
    struct clone_args arguments = {.flags = CLONE_PIDFD, .pidfd = (uintptr_t)&fd, .exit_signal = SIGCHLD};
    pid_t pid = CHECK_OK(clone3(&arguments, sizeof arguments));
    if (pid == 0) {
        _exit(15);
    }
    CHECK(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    siginfo_t info;
    CHECK_EQ(waitid(P_PIDFD, fd, &info, WEXITED), 0);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, 15);
}

TEST(clone3_clears_handlers) {
    handle(SIGUSR1, do_nothing, 0);
    signal(SIGUSR2, SIG_IGN);
    struct clone_args arguments = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
    pid_t pid = CHECK_OK(clone3(&arguments, sizeof arguments));
    if (pid == 0) {
        struct sigaction action;
        CHECK_OK(sigaction(SIGUSR1, NULL, &action));
        CHECK(action.sa_handler == SIG_DFL);
        CHECK_OK(sigaction(SIGUSR2, NULL, &action));
        CHECK(action.sa_handler == SIG_IGN);
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
}

TEST(setpgid_moves_a_child) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    CHECK_EQ(getpgid(pid), getpgrp());
    CHECK_OK(setpgid(pid, 0));
    CHECK_EQ(getpgid(pid), pid);
    CHECK_OK(setpgid(pid, getpgrp()));
    CHECK_EQ(getpgid(pid), getpgrp());
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
}

TEST(setpgid_errors) {
    CHECK_ERR(setpgid(0, -1), EINVAL);
    CHECK_ERR(setpgid(getppid(), 0), ESRCH);
    CHECK_ERR(setpgid(0x3fffffff, 0), ESRCH);
    /* A group that does not exist. */
    CHECK_EXIT(CHILD({ CHECK_ERR(setpgid(0, 0x3fffffff), EPERM); }), 0);
    /* A session leader stays where it is. */
    CHECK_EXIT(CHILD({
                   CHECK_OK(setsid());
                   CHECK_ERR(setpgid(0, 0), EPERM);
               }),
               0);
    CHECK_ERR(getpgid(0x3fffffff), ESRCH);
    CHECK_ERR(getsid(0x3fffffff), ESRCH);
    CHECK_ERR(getpgid(-1), ESRCH);
}

HELPER(wait_for_fd) {
    char byte;
    write(atoi(argv[0]), "x", 1);
    return read(atoi(argv[1]), &byte, 1) == 1 ? 0 : 1;
}

TEST(setpgid_after_exec_is_eacces) {
    struct gate started = gate_new(), finish = gate_new();
    char write_end[16], read_end[16];
    snprintf(write_end, sizeof write_end, "%d", started.ends[1]);
    snprintf(read_end, sizeof read_end, "%d", finish.ends[0]);
    pid_t pid = CHILD({ execl(self_path, self_path, "--helper", "wait_for_fd", write_end, read_end, (char *)NULL); });
    gate_wait(&started);
    CHECK_ERR(setpgid(pid, 0), EACCES);
    gate_open(&finish);
    CHECK_EXIT(pid, 0);
}

TEST(setpgid_in_another_session_is_eperm) {
    struct gate started = gate_new(), finish = gate_new();
    pid_t pid = CHILD({
        CHECK_OK(setsid());
        gate_open(&started);
        gate_wait(&finish);
    });
    gate_wait(&started);
    CHECK_ERR(setpgid(pid, getpgrp()), EPERM);
    CHECK_EXIT(CHILD({ CHECK_ERR(setpgid(0, pid), EPERM); }), 0);
    gate_open(&finish);
    CHECK_EXIT(pid, 0);
}

TEST(setsid_makes_a_session) {
    CHECK_EXIT(CHILD({
                   pid_t before = getsid(0);
                   CHECK_EQ(setsid(), getpid());
                   CHECK_EQ(getsid(0), getpid());
                   CHECK_EQ(getpgrp(), getpid());
                   CHECK(before != getpid());
                   CHECK_ERR(setsid(), EPERM);
               }),
               0);
}

TEST(setsid_of_a_group_leader_is_eperm) {
    CHECK_EQ(getpgrp(), getpid());
    CHECK_ERR(setsid(), EPERM);
}

TEST(kill_reaches_a_group) {
    struct gate started = gate_new();
    pid_t first = CHILD({
        setpgid(0, 0);
        gate_open(&started);
        pause();
    });
    setpgid(first, first);
    pid_t second = CHILD({
        setpgid(0, first);
        gate_open(&started);
        pause();
    });
    gate_wait(&started);
    gate_wait(&started);
    CHECK_OK(kill(-first, SIGTERM));
    CHECK_KILLED(first, SIGTERM);
    CHECK_KILLED(second, SIGTERM);
    CHECK_ERR(kill(-first, 0), ESRCH);
}

TEST(subreaper_adopts_orphans) {
    CHECK_OK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    int *pids = shared_page();
    pid_t reaper = getpid();
    struct gate orphaned = gate_new();
    pid_t middle = CHILD({
        int mine = -1;
        /* The attribute is not inherited. */
        CHECK_OK(prctl(PR_GET_CHILD_SUBREAPER, &mine, 0, 0, 0));
        CHECK_EQ(mine, 0);
        pids[0] = CHILD({
            gate_wait(&orphaned);
            CHECK_EQ(getppid(), reaper);
            _exit(31);
        });
    });
    CHECK_EXIT(middle, 0);
    gate_open(&orphaned);
    CHECK_EXIT(pids[0], 31);
}

TEST(orphan_gets_another_parent) {
    struct gate orphaned = gate_new(), done = gate_new();
    pid_t middle = CHILD({
        pid_t parent = getpid();
        CHILD({
            gate_wait(&orphaned);
            CHECK(getppid() != parent);
            gate_open(&done);
        });
    });
    CHECK_EXIT(middle, 0);
    gate_open(&orphaned);
    gate_wait(&done);
}

TEST(zombies_of_a_dead_parent_are_reaped_by_the_subreaper) {
    CHECK_OK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    int *pids = shared_page();
    pid_t middle = CHILD({
        pids[0] = CHILD({ _exit(17); });
        siginfo_t info;
        CHECK_EQ(waitid(P_PID, pids[0], &info, WEXITED | WNOWAIT), 0);
    });
    CHECK_EXIT(middle, 0);
    CHECK_EXIT(pids[0], 17);
}

/* A child that ends with SIGUSR1, which nobody but its parent has asked for. */
static pid_t child_that_ends_with_sigusr1(void) {
    return syscall(SYS_clone, SIGUSR1, 0, 0, 0, 0);
}

TEST(orphans_end_with_sigchld) {
    CHECK_OK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    struct gate orphaned = gate_new();
    int *pids = shared_page();
    pid_t middle = CHILD({
        pid_t pid = child_that_ends_with_sigusr1();
        if (pid == 0) {
            gate_wait(&orphaned);
            _exit(21);
        }
        pids[0] = pid;
    });
    CHECK_EXIT(middle, 0);
    gate_open(&orphaned);
    /* SIGUSR1 would kill; and without __WALL only a child that ends with SIGCHLD is waited for. */
    CHECK_EXIT(pids[0], 21);
}

TEST(exec_makes_the_exit_signal_sigchld) {
    pid_t pid = child_that_ends_with_sigusr1();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 22", NULL);
        _exit(1);
    }
    CHECK_EXIT(pid, 22);
}

TEST(newly_orphaned_stopped_group_gets_sighup_and_sigcont) {
    CHECK_OK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    int *pids = shared_page();
    pid_t middle = CHILD({
        CHECK_OK(setsid());
        pids[0] = CHILD({
            setpgid(0, 0);
            raise(SIGSTOP);
            _exit(0);
        });
        int status;
        CHECK_EQ(waitpid(pids[0], &status, WUNTRACED), pids[0]);
        CHECK(WIFSTOPPED(status));
    });
    CHECK_EXIT(middle, 0);
    CHECK_KILLED(pids[0], SIGHUP);
}

TEST(orphaned_group_ignores_terminal_stops) {
    CHECK_EXIT(CHILD({
                   CHECK_OK(setsid());
                   raise(SIGTSTP);
                   raise(SIGTTIN);
                   raise(SIGTTOU);
                   _exit(9);
               }),
               9);
}

static void *store_tid(void *argument) {
    *(pid_t *)argument = gettid();
    return NULL;
}

TEST(thread_has_its_own_tid) {
    pthread_t thread;
    pid_t tid = 0;
    CHECK_EQ(gettid(), getpid());
    CHECK_EQ(pthread_create(&thread, NULL, store_tid, &tid), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(tid != 0 && tid != getpid());
    /* A join returns when the thread has cleared its id, which is a moment before the id is free. */
    for (int round = 0; round < 1000 && syscall(SYS_tgkill, getpid(), tid, 0) == 0; round++) {
        usleep(1000);
    }
    CHECK_ERR(syscall(SYS_tgkill, getpid(), tid, 0), ESRCH);
}

static void *count_up(void *argument) {
    for (int round = 0; round < 10000; round++) {
        __atomic_fetch_add((int *)argument, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

TEST(many_threads) {
    pthread_t threads[32];
    int counter = 0;
    for (int index = 0; index < 32; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, count_up, &counter), 0);
    }
    for (int index = 0; index < 32; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
    }
    CHECK_EQ(counter, 320000);
}

static void *sleep_forever(void *argument) {
    for (;;) {
        pause();
    }
    return argument;
}

TEST(exit_group_ends_all_threads) {
    CHECK_EXIT(CHILD({
                   pthread_t thread;
                   for (int index = 0; index < 4; index++) {
                       CHECK_EQ(pthread_create(&thread, NULL, sleep_forever, NULL), 0);
                   }
                   _exit(23);
               }),
               23);
}

static void *exit_process(void *argument UNUSED) {
    settle();
    _exit(24);
}

TEST(exit_group_from_another_thread) {
    CHECK_EXIT(CHILD({
                   pthread_t thread;
                   CHECK_EQ(pthread_create(&thread, NULL, exit_process, NULL), 0);
                   for (;;) {
                       pause();
                   }
               }),
               24);
}

TEST(process_outlives_its_first_thread) {
    pid_t pid = CHILD({
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, exit_process, NULL), 0);
        syscall(SYS_exit, 1);
    });
    CHECK_OK(kill(pid, 0));
    CHECK_EXIT(pid, 24);
}

static void *raw_exit(void *argument) {
    syscall(SYS_exit, (long)argument);
    return NULL;
}

TEST(last_thread_to_exit_ends_the_process) {
    /* The code is that of the leader, whoever was last. */
    CHECK_EXIT(CHILD({
                   pthread_t thread;
                   CHECK_EQ(pthread_create(&thread, NULL, raw_exit, (void *)66L), 0);
                   settle();
                   syscall(SYS_exit, 5);
               }),
               5);
}

static void *busy_loop(void *argument) {
    for (;;) {
        __asm__ volatile("");
    }
    return argument;
}

TEST(exit_group_stops_a_busy_thread) {
    CHECK_EXIT(CHILD({
                   pthread_t thread;
                   CHECK_EQ(pthread_create(&thread, NULL, busy_loop, NULL), 0);
                   settle();
                   _exit(25);
               }),
               25);
}

TEST(sigkill_ends_a_busy_process) {
    pid_t pid = CHILD({ busy_loop(NULL); });
    settle();
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

static void *exec_self(void *argument) {
    char pid[16];
    snprintf(pid, sizeof pid, "%d", *(int *)argument);
    execl(self_path, self_path, "--helper", "check_pid", pid, (char *)NULL);
    return NULL;
}

HELPER(check_pid) {
    return getpid() == atoi(argv[0]) && gettid() == getpid() ? 26 : 1;
}

TEST(exec_from_a_thread_takes_over_the_pid) {
    CHECK_EXIT(CHILD({
                   int pid = getpid();
                   pthread_t thread;
                   CHECK_EQ(pthread_create(&thread, NULL, sleep_forever, NULL), 0);
                   CHECK_EQ(pthread_create(&thread, NULL, exec_self, &pid), 0);
                   for (;;) {
                       pause();
                   }
               }),
               26);
}

TEST(fork_in_a_threaded_process_copies_one_thread) {
    pthread_t thread;
    static int counter;
    CHECK_EQ(pthread_create(&thread, NULL, sleep_forever, NULL), 0);
    CHECK_EXIT(CHILD({
                   CHECK_EQ(gettid(), getpid());
                   counter++;
                   syscall(SYS_exit, 27);
               }),
               27);
    CHECK_EQ(counter, 0);
}

static void *wait_for_child(void *argument) {
    int status;
    pid_t pid = *(pid_t *)argument;
    return (void *)(long)(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 28);
}

static void *wait_nothread(void *argument UNUSED) {
    errno = 0;
    return (void *)(long)(waitpid(-1, NULL, __WNOTHREAD | __WALL) == -1 && errno == ECHILD);
}

TEST(any_thread_may_wait) {
    pid_t pid = CHILD({ _exit(28); });
    pthread_t thread;
    void *good;
    CHECK_EQ(pthread_create(&thread, NULL, wait_nothread, NULL), 0);
    CHECK_EQ(pthread_join(thread, &good), 0);
    CHECK(good);
    CHECK_EQ(pthread_create(&thread, NULL, wait_for_child, &pid), 0);
    CHECK_EQ(pthread_join(thread, &good), 0);
    CHECK(good);
}

static void *fork_child(void *argument) {
    *(pid_t *)argument = fork();
    if (*(pid_t *)argument == 0) {
        sleep_ms(60);
        _exit(29);
    }
    return NULL;
}

TEST(children_of_an_ended_thread_belong_to_the_process) {
    pthread_t thread;
    pid_t pid = -1;
    CHECK_EQ(pthread_create(&thread, NULL, fork_child, &pid), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(pid > 0);
    CHECK_EXIT(pid, 29);
}

TEST(sched_yield_succeeds) {
    CHECK_OK(sched_yield());
}

TEST(stop_affects_all_threads) {
    volatile int *counter = shared_page();
    pid_t pid = CHILD({
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, sleep_forever, NULL), 0);
        for (;;) {
            ++*counter;
        }
    });
    while (*counter == 0) {
        sched_yield();
    }
    int status;
    CHECK_OK(kill(pid, SIGSTOP));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    int before = *counter;
    settle();
    CHECK_EQ(*counter, before);
    CHECK_OK(kill(pid, SIGCONT));
    while (*counter == before) {
        sched_yield();
    }
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}
