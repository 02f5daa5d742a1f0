// A hostile guest: takes all processes, threads, descriptors and mappings that it can get, and then still has to work.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static void children(void)
{
    int made = 0;
    pid_t pids[4000];
    while (made < 4000) {
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0) {
            pause();
            _exit(0);
        }
        pids[made++] = pid;
    }
    for (int i = 0; i < made; i++)
        kill(pids[i], SIGKILL);
    while (wait(0) > 0) {}
}

static void *sleeper(void *unused)
{
    pause();
    return unused;
}

static void threads(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    for (int i = 0; i < 10000; i++)
        if (pthread_create(&thread, &attributes, sleeper, 0))
            break;
}

static void descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < 200000; i++) {
        int pair[2], fd;
        switch (i % 7) {
        case 0: fd = pipe(pair); break;
        case 1: fd = socketpair(AF_UNIX, SOCK_DGRAM, 0, pair); break;
        case 2: fd = eventfd(0, 0); break;
        case 3: fd = epoll_create1(0); break;
        case 4: fd = timerfd_create(CLOCK_MONOTONIC, 0); break;
        case 5: fd = memfd_create("m", 0); break;
        default: fd = open("/dev/null", O_RDWR);
        }
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
            break;
    }
}

static void mappings(void)
{
    for (int i = 0; i < 70000; i++)
        // Every other page with another protection, so that they do not merge.
        if (mmap(0, 4096, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
            break;
    for (size_t size = 1ull << 46; size >= 4096; size /= 2)
        while (mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED) {}
}

static void chain(void)
{
    // Each generation makes the next and ends: orphans all the way.
    for (int depth = 0; depth < 2000; depth++) {
        pid_t pid = fork();
        if (pid < 0)
            usleep(1000);
        if (pid > 0)
            _exit(0);
    }
}

static void buffers(void)
{
    // Data in flight that nobody reads.
    static char data[1 << 16];
    for (int i = 0; i < 300; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
            break;
        for (int turns = 0; turns < 1000 && send(pair[0], data, sizeof data, MSG_DONTWAIT) > 0; turns++) {}
    }
}

int main(void)
{
    void (*const attacks[])(void) = {children, threads, descriptors, mappings, chain, buffers};
    for (unsigned i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(20);
            attacks[i]();
            _exit(0);
        }
        if (pid < 0 || waitpid(pid, 0, 0) != pid)
            return 3;
        printf("attack %u is over\n", i);
        fflush(stdout);
    }
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
        return 4;
    puts("and the kernel still works");
    return 0;
}
