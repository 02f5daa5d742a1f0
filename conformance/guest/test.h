/*
 * The harness of the conformance programs.
 *
 * A program is a list of cases. Each case runs in a child process of its own, in its own process group, under a
 * timeout, and ends as one line on standard output:
 *
 *     ok NAME
 *     FAIL NAME: file:line: text
 *     skip NAME: reason
 *
 * `program` runs all cases, `program NAME...` those named, `program --list` prints the names. The exit status is 1 if
 * a case failed. The harness itself needs no more than fork, wait4, write, rt_sigaction, alarm, setpgid and kill, so
 * that a kernel that can do little else can run it.
 */
#ifndef TEST_H
#define TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TEST_FAILED = 101, TEST_SKIPPED = 102, TEST_SECONDS = 10, TEST_LIMIT = 256 };

struct test_case {
    const char *name;
    void (*run)(void);
};

struct test_helper {
    const char *name;
    int (*run)(int argc, char **argv);
};

static struct test_case test_cases[TEST_LIMIT];
static unsigned test_count;
static struct test_helper test_helpers[TEST_LIMIT];
static unsigned test_helper_count;

/* The running case. */
static const char *test_name = "";
/* The absolute path of this program, for cases that execute it again (see HELPER). */
static char self_path[PATH_MAX];

#define UNUSED __attribute__((unused))

/* An address at which nothing is mapped; the compiler does not see that. */
static volatile uintptr_t test_bad_address UNUSED = 8;
#define BAD ((void *)test_bad_address)

/* Defines the case `name`. */
#define TEST(name)                                                                                                     \
    static void test_##name(void);                                                                                     \
    __attribute__((constructor)) static void register_test_##name(void) {                                              \
        test_cases[test_count++] = (struct test_case){#name, test_##name};                                             \
    }                                                                                                                  \
    static void test_##name(void)

/* Defines what `program --helper name argument...` does: argv[0] is the first argument after the name. */
#define HELPER(name)                                                                                                   \
    static int helper_##name(int argc UNUSED, char **argv UNUSED);                                                     \
    __attribute__((constructor)) static void register_helper_##name(void) {                                            \
        test_helpers[test_helper_count++] = (struct test_helper){#name, helper_##name};                                \
    }                                                                                                                  \
    static int helper_##name(int argc UNUSED, char **argv UNUSED)

UNUSED static void test_print(const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) {
        length = sizeof line - 2;
    }
    line[length++] = '\n';
    if (write(1, line, length) != length) {
        _exit(TEST_FAILED);
    }
}

/* Reports the failure of the running case and ends this process. */
__attribute__((format(printf, 3, 4), noreturn)) UNUSED static void test_fail(const char *file, int line,
                                                                             const char *format, ...) {
    char text[768];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const char *base = strrchr(file, '/');
    test_print("FAIL %s: %s:%d: %s", test_name, base ? base + 1 : file, line, text);
    _exit(TEST_FAILED);
}

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

UNUSED static const char *test_errno_name(int number) {
    const char *name = strerrorname_np(number);
    return name ? name : "unknown errno";
}

/* Fails unless `condition`. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            FAIL("%s", #condition);                                                                                    \
        }                                                                                                              \
    } while (0)

/* Fails unless two integers or pointers are equal. */
#define CHECK_EQ(actual, expected)                                                                                     \
    do {                                                                                                               \
        long long actual_value = (long long)(actual);                                                                  \
        long long expected_value = (long long)(expected);                                                              \
        if (actual_value != expected_value) {                                                                          \
            FAIL("%s == %s: %lld (0x%llx) is not %lld (0x%llx)", #actual, #expected, actual_value, actual_value,       \
                 expected_value, expected_value);                                                                      \
        }                                                                                                              \
    } while (0)

#define CHECK_STR(actual, expected)                                                                                    \
    do {                                                                                                               \
        const char *actual_text = (actual), *expected_text = (expected);                                               \
        if (strcmp(actual_text, expected_text)) {                                                                      \
            FAIL("%s: \"%.200s\" is not \"%.200s\"", #actual, actual_text, expected_text);                             \
        }                                                                                                              \
    } while (0)

/* Fails if `call` returns -1; its value is the call's. */
#define CHECK_OK(call)                                                                                                 \
    ({                                                                                                                 \
        __auto_type call_result = (call);                                                                              \
        if ((long long)call_result == -1) {                                                                            \
            FAIL("%s: %s", #call, test_errno_name(errno));                                                             \
        }                                                                                                              \
        call_result;                                                                                                   \
    })

/* Fails unless `call` returns -1 with `errno` equal to `number`. */
#define CHECK_ERR(call, number)                                                                                        \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long long call_result = (long long)(call);                                                                     \
        int call_errno = errno;                                                                                        \
        if (call_result != -1) {                                                                                       \
            FAIL("%s: returned %lld, expected %s", #call, call_result, #number);                                       \
        }                                                                                                              \
        if (call_errno != (number)) {                                                                                  \
            FAIL("%s: %s, expected %s", #call, test_errno_name(call_errno), #number);                                  \
        }                                                                                                              \
    } while (0)

/* Ends the running case without a verdict. */
#define SKIP(...)                                                                                                      \
    do {                                                                                                               \
        char skip_reason[256];                                                                                         \
        snprintf(skip_reason, sizeof skip_reason, __VA_ARGS__);                                                        \
        test_print("skip %s: %s", test_name, skip_reason);                                                             \
        _exit(TEST_SKIPPED);                                                                                           \
    } while (0)

#define REQUIRE_ROOT()                                                                                                 \
    do {                                                                                                               \
        if (geteuid() != 0) {                                                                                          \
            SKIP("needs root");                                                                                        \
        }                                                                                                              \
    } while (0)

/* Waits for the child `pid` and returns its wait status; a failed or skipped child ends this process likewise. */
UNUSED static int test_wait(const char *file, int line, pid_t pid) {
    int status = 0;
    pid_t waited;
    do {
        waited = waitpid(pid, &status, __WALL);
    } while (waited == -1 && errno == EINTR);
    if (waited != pid) {
        test_fail(file, line, "waitpid(%d): %s", pid, test_errno_name(errno));
    }
    if (WIFEXITED(status) && (WEXITSTATUS(status) == TEST_FAILED || WEXITSTATUS(status) == TEST_SKIPPED)) {
        _exit(WEXITSTATUS(status));
    }
    return status;
}

UNUSED static void test_check_exit(const char *file, int line, pid_t pid, int code) {
    int status = test_wait(file, line, pid);
    if (!WIFEXITED(status)) {
        test_fail(file, line, "child was killed by signal %d, expected exit code %d", WTERMSIG(status), code);
    }
    if (WEXITSTATUS(status) != code) {
        test_fail(file, line, "child exited with %d, expected %d", WEXITSTATUS(status), code);
    }
}

UNUSED static void test_check_killed(const char *file, int line, pid_t pid, int signal) {
    int status = test_wait(file, line, pid);
    if (!WIFSIGNALED(status)) {
        test_fail(file, line, "child ended with wait status 0x%x, expected signal %d", status, signal);
    }
    if (WTERMSIG(status) != signal) {
        test_fail(file, line, "child was killed by signal %d, expected %d", WTERMSIG(status), signal);
    }
}

#define WAIT(pid) test_wait(__FILE__, __LINE__, pid)
/* Waits for the child and checks that it exited with `code`. */
#define CHECK_EXIT(pid, code) test_check_exit(__FILE__, __LINE__, pid, code)
/* Waits for the child and checks that `signal` killed it. */
#define CHECK_KILLED(pid, signal) test_check_killed(__FILE__, __LINE__, pid, signal)

/* Runs the block in a child process, which exits with 0 at its end: `pid_t pid = CHILD({ ... });`. */
#define CHILD(...)                                                                                                     \
    ({                                                                                                                 \
        pid_t child_pid = CHECK_OK(fork());                                                                            \
        if (child_pid == 0) {                                                                                          \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        child_pid;                                                                                                     \
    })

/* A one-shot event between processes: a pipe. */
struct gate {
    int ends[2];
};

UNUSED static struct gate gate_new(void) {
    struct gate gate;
    if (pipe(gate.ends)) {
        FAIL("pipe: %s", test_errno_name(errno));
    }
    return gate;
}

UNUSED static void gate_open(struct gate *gate) {
    if (write(gate->ends[1], "x", 1) != 1) {
        FAIL("gate: %s", test_errno_name(errno));
    }
}

UNUSED static void gate_wait(struct gate *gate) {
    char byte;
    ssize_t count;
    do {
        count = read(gate->ends[0], &byte, 1);
    } while (count == -1 && errno == EINTR);
    if (count != 1) {
        FAIL("gate: %zd %s", count, test_errno_name(errno));
    }
}

UNUSED static void sleep_ms(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&time, &time) == -1 && errno == EINTR) {
    }
}

/* Gives another process the time to block. No case may depend on that having happened. */
UNUSED static void settle(void) {
    sleep_ms(30);
}

UNUSED static int64_t now_ns(clockid_t clock) {
    struct timespec time;
    CHECK_OK(clock_gettime(clock, &time));
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Makes an empty directory for this case, which the harness removes later, and changes into it. */
UNUSED static const char *enter_scratch(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/conformance.%d", getpid());
    mode_t mask = umask(0);
    CHECK_OK(mkdir(path, 0777));
    umask(mask);
    CHECK_OK(chdir(path));
    return path;
}

/* Makes a directory for this case in a file system of the host's, and changes into it. */
UNUSED static void enter_volume(void) {
    static char path[PATH_MAX];
    const char *volume = getenv("TEST_VOLUME");
    if (!volume) {
        enter_scratch();
        return;
    }
    snprintf(path, sizeof path, "%s/%s.%d", volume, test_name, getpid());
    mode_t mask = umask(0);
    CHECK_OK(mkdir(path, 0777));
    umask(mask);
    CHECK_OK(chdir(path));
}

/* Makes a file with the contents `text`. */
UNUSED static void put_file(const char *path, const char *text, mode_t mode) {
    int fd = CHECK_OK(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    CHECK_OK(fchmod(fd, mode));
    CHECK_OK(close(fd));
}

/* Reads a file (at most `size` - 1 bytes) and returns how much there was. */
UNUSED static ssize_t get_file(const char *path, char *text, size_t size) {
    int fd = CHECK_OK(open(path, O_RDONLY | O_CLOEXEC));
    size_t length = 0;
    ssize_t count;
    while (length < size - 1 && (count = CHECK_OK(read(fd, text + length, size - 1 - length))) > 0) {
        length += count;
    }
    text[length] = 0;
    CHECK_OK(close(fd));
    return length;
}

/* Installs a handler without any flags but those given. */
UNUSED static void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK_OK(sigaction(signal, &action, NULL));
}

UNUSED static void handle_info(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    CHECK_OK(sigaction(signal, &action, NULL));
}

UNUSED static sigset_t signal_set(int first, ...) {
    sigset_t set;
    sigemptyset(&set);
    va_list arguments;
    va_start(arguments, first);
    for (int signal = first; signal; signal = va_arg(arguments, int)) {
        sigaddset(&set, signal);
    }
    va_end(arguments);
    return set;
}

/* The set of the signals given. */
#define SIGNALS(...) signal_set(__VA_ARGS__, 0)

UNUSED static void block_signals(sigset_t set) {
    CHECK_OK(sigprocmask(SIG_BLOCK, &set, NULL));
}

UNUSED static void unblock_signals(sigset_t set) {
    CHECK_OK(sigprocmask(SIG_UNBLOCK, &set, NULL));
}

/* Whether the effective set of this process holds the capability. */
UNUSED static bool has_capability(int capability) {
    uint32_t header[2] = {0x20080522, 0}, data[6] = {0};
    return syscall(SYS_capget, header, data) == 0 && (data[capability / 32 * 3] >> capability % 32 & 1);
}

static volatile sig_atomic_t test_timed_out;

static void test_on_alarm(int signal UNUSED) {
    test_timed_out = 1;
}

static void test_remove_tree(int directory, const char *name) {
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) {
        return;
    }
    fchmodat(directory, name, 0700, 0);
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd == -1 ? NULL : fdopendir(fd);
    if (stream) {
        struct dirent *entry;
        while ((entry = readdir(stream))) {
            if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
                test_remove_tree(fd, entry->d_name);
            }
        }
        closedir(stream);
    }
    unlinkat(directory, name, AT_REMOVEDIR);
}

/* Runs one case and returns whether it did not fail. */
static bool test_run(const struct test_case *test) {
    test_name = test->name;
    pid_t pid = fork();
    if (pid == -1) {
        test_print("FAIL %s: fork: %s", test_name, test_errno_name(errno));
        return false;
    }
    if (pid == 0) {
        signal(SIGALRM, SIG_DFL);
        setpgid(0, 0);
        test->run();
        _exit(0);
    }
    setpgid(pid, pid);
    int status = 0;
    pid_t waited;
    test_timed_out = 0;
    alarm(TEST_SECONDS);
    while ((waited = waitpid(pid, &status, 0)) == -1 && errno == EINTR && !test_timed_out) {
    }
    alarm(0);
    if (waited != pid) {
        kill(-pid, SIGKILL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        test_print("FAIL %s: timed out", test_name);
        status = TEST_FAILED << 8;
    }
    kill(-pid, SIGKILL);
    char scratch[64];
    snprintf(scratch, sizeof scratch, "/tmp/conformance.%d", pid);
    test_remove_tree(AT_FDCWD, scratch);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        test_print("ok %s", test_name);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED) {
        return true;
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_FAILED) {
        return false;
    } else {
        test_print("FAIL %s: ended with wait status 0x%x", test_name, status);
        return false;
    }
    return true;
}

int main(int argc, char **argv) {
    if (!realpath(argv[0], self_path)) {
        snprintf(self_path, sizeof self_path, "%s", argv[0]);
    }
    if (argc >= 3 && !strcmp(argv[1], "--helper")) {
        for (unsigned index = 0; index < test_helper_count; index++) {
            if (!strcmp(test_helpers[index].name, argv[2])) {
                test_name = argv[2];
                return test_helpers[index].run(argc - 3, argv + 3);
            }
        }
        return TEST_FAILED;
    }
    if (argc == 2 && !strcmp(argv[1], "--list")) {
        for (unsigned index = 0; index < test_count; index++) {
            test_print("%s", test_cases[index].name);
        }
        return 0;
    }
    /* Whoever runs the tests may ignore or block signals, as nohup(1) and background jobs do. */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number <= SIGRTMAX; number++) {
        signal(number, SIG_DFL);
    }
    struct sigaction action = {.sa_handler = test_on_alarm};
    sigaction(SIGALRM, &action, NULL);
    bool good = true;
    for (unsigned index = 0; index < test_count; index++) {
        bool chosen = argc == 1;
        for (int argument = 1; argument < argc; argument++) {
            chosen |= !strcmp(argv[argument], test_cases[index].name);
        }
        if (chosen) {
            good &= test_run(&test_cases[index]);
        }
    }
    return good ? 0 : 1;
}

#endif
