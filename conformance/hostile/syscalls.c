// A hostile guest: calls every system call number with random arguments.
//
// Usage: syscalls SEED CALLS WORKERS. WORKERS processes share the calls among them. Each batch of calls runs in a child
// of its own, since most batches end badly: a call may end the child, stop it, close its files or unmap its memory. A timer
// interrupts calls that wait. Calls are counted as they are made; when there have been as many as were asked for, the
// program ends with status 0.
//
// Not a conformance case: on a host this would do harm. It is run inside only.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;
static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

// How many calls have been made, by all processes. It lies far from what the calls' arguments point at.
static volatile uint64_t *made;
static uint64_t wanted;

static void interrupted(int signal)
{
    (void)signal;
}

// Memory for arguments to point at: filled with random bytes, small numbers, pointers into itself and paths.
enum { ARENA = 1 << 16 };
static unsigned char *arena;
static const char *const paths[] = {
    "/", "/tmp", "/tmp/a", "/tmp/b/c", "..", "../../../../../..", "/proc/self/fd/0", "/proc/self/exe", "/proc/self/mem",
    "/proc/1/root", "/proc/self/maps", "/dev/null", "/dev/zero", "/dev/tty", "/dev/ptmx", "/proc/self/task", "", ".",
    "/proc/sys/kernel/hostname", "/sys", "/etc/passwd", "/bin/sh", "/proc/self/ns/pid", "/dev/pts/0",
};

static void fill_arena(void)
{
    for (size_t i = 0; i < ARENA; i += 8) {
        uint64_t value = next();
        switch (value >> 61) {
        case 0: value = 0; break;
        case 1: value &= 0xff; break;
        case 2: value = (uint64_t)arena + value % ARENA; break;
        case 3: value = value & 0xffff0000ffff; break;
        case 4: value = ~0ull >> (value & 63); break;
        default: break;
        }
        memcpy(arena + i, &value, 8);
    }
    for (size_t i = 0; i < 64; i++) {
        const char *path = paths[next() % (sizeof paths / sizeof *paths)];
        strcpy((char *)arena + next() % (ARENA / 64 - 40) * 64, path);
    }
}

static uint64_t argument(void)
{
    uint64_t value = next();
    switch (value >> 60) {
    case 0: return 0;
    case 1: return 1 + (value & 7);
    case 2: return value & 0x3f;                                       // descriptors, signals, operations
    case 3: return (uint64_t)arena + value % ARENA;
    case 4: return (uint64_t)arena + value % (ARENA / 64) * 64;
    case 5: return (uint64_t)arena + (value % (ARENA / 4096)) * 4096;
    case 6: return ARENA - 8 + (uint64_t)arena + (value & 15);          // across the end
    case 7: return value & 0xfff;
    case 8: return 1ull << (value & 63);                                // flags, sizes
    case 9: return -1ull - (value & 0xff);
    case 10: return value & 0xffffffff;
    case 11: return 0x7ffffffff000 - (value & 0xffff);
    case 12: return ((value & 0xffff) << 12);
    case 13: return (uint64_t)arena + value % ARENA;
    case 14: return -100;                                               // AT_FDCWD
    default: return value;
    }
}

// Calls that would only stop or end the child at once, and so hide the others.
static int boring(long number)
{
    switch (number) {
    case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_rt_sigreturn: case SYS_rt_sigsuspend: return 1;
    default: return 0;
    }
}

// Signals to everybody, to the first process or to a worker, and changes of their memory, would only end the run early.
static int unfair(long number, uint64_t target)
{
    switch (number) {
    case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo:
    case SYS_process_vm_writev: case SYS_ptrace: case SYS_pidfd_open: case SYS_prlimit64:
        return (int)target >= -70 && (int)target <= 70 && (int)target != 0;
    default: return 0;
    }
}

static void batch(int calls)
{
    struct rlimit memory = {1 << 30, 1 << 30}, processes = {200, 200}, size = {1 << 24, 1 << 24};
    setrlimit(RLIMIT_AS, &memory);
    setrlimit(RLIMIT_NPROC, &processes);
    setrlimit(RLIMIT_FSIZE, &size);
    for (int fd = 3; fd < 12; fd++)
        close(fd);
    int pair[2];
    if (pipe(pair) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || epoll_create1(0) < 0 || eventfd(3, 0) < 0)
        _exit(0);
    (void)!open("/tmp", O_RDONLY);
    (void)!open("/tmp/file", O_RDWR | O_CREAT, 0600);
    (void)!memfd_create("m", 0);
    struct itimerval limit = {{0, 1000}, {0, 1000}};
    struct sigaction action = {.sa_handler = interrupted};
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &limit, 0);
    pid_t own = syscall(SYS_getpid), thread = syscall(SYS_gettid);
    while (calls-- > 0) {
        // Further processes and threads are not to multiply.
        if (calls > 50 && (syscall(SYS_getpid) != own || syscall(SYS_gettid) != thread))
            calls = 50;
        long number = next() % 470;
        if (boring(number))
            continue;
        if (next() % 64 == 0)
            fill_arena();
        uint64_t first = argument();
        if (unfair(number, first))
            continue;
        // Counted before, since it may be the child's last.
        __atomic_fetch_add(made, 1, __ATOMIC_RELAXED);
        syscall(number, first, argument(), argument(), argument(), argument());
    }
    _exit(0);
}

static void worker(uint64_t seed)
{
    arena = mmap(0, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    while (*made < wanted) {
        state = seed += 0x9e3779b97f4a7c15;
        if (!state)
            state = 1;
        for (int i = 0; i < 8; i++)
            next();
        fill_arena();
        // In a pid namespace of its own, so that all that it makes ends with it.
        pid_t pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) {
            setsid(); // so that no other group can be joined and signalled
            batch(2000);
        }
        if (pid > 0) {
            int status;
            // A child may have made children, stopped itself, or left its process group.
            // One that takes so long waits without a timer, or was stopped.
            struct pollfd ended = {.fd = syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
            poll(&ended, 1, 300);
            close(ended.fd);
            kill(-pid, SIGKILL);
            kill(pid, SIGKILL);
            waitpid(pid, &status, __WALL);
        }
    }
    _exit(0);
}

int main(int count, char **arguments)
{
    if (count != 4)
        return 2;
    // What is written there is the sandbox's, and is looked at.
    int null = open("/dev/null", O_WRONLY);
    if (null < 0 || dup2(null, 2) < 0)
        return 2;
    close(null);
    uint64_t seed = strtoull(arguments[1], 0, 0);
    wanted = strtoull(arguments[2], 0, 0);
    made = mmap((void *)0x5a5a5a5a0000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (made == MAP_FAILED)
        return 2;
    int workers = atoi(arguments[3]);
    if (workers < 1 || workers > 64)
        return 2;
    int forks = 0, running = 0;
    while (*made < wanted || running) {
        // Workers may fall victim to a child: that is the guest's own affair, so they are started anew.
        while (running < workers && *made < wanted) {
            pid_t pid = fork();
            if (pid == 0)
                worker(seed * 1000003 + forks);
            if (pid < 0)
                break;
            forks++;
            running++;
        }
        int status;
        if (waitpid(-1, &status, 0) > 0)
            running--;
        else if (errno == ECHILD)
            running = 0;
    }
    // On a line of its own, whatever has been written before.
    printf("\n%llu calls by %d workers, of which %d were killed\n", (unsigned long long)*made, workers, forks - workers);
    return 0;
}
