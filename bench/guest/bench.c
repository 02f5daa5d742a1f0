/* The program that is measured: natively and in every sandbox the same.
 *
 * bench DIRECTORY MILLISECONDS CASE...   prints one line per case: its name and the nanoseconds of one operation.
 * bench idle                             says "ready" and waits for the end of its standard input.
 *
 * DIRECTORY holds `small` (64 bytes), `file` (64 MiB), `many` (100 files), and may be written to.
 * An operation is repeated until it has taken long enough to be measured; of five such batches the median counts.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define MIB (1L << 20)

static int input, output, event;
static char buffer[MIB];
static volatile uint64_t sink;

static void must(int good, const char *what)
{
    if (!good) {
        fflush(stdout);
        perror(what);
        _exit(1);
    }
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void call_getppid(long count)
{
    while (count--)
        getppid();
}

static void call_getpid(long count)
{
    while (count--)
        getpid();
}

static void call_syscall(long count)
{
    while (count--)
        syscall(SYS_getpid);
}

static void call_clock(long count)
{
    struct timespec time;
    while (count--)
        clock_gettime(CLOCK_MONOTONIC, &time);
}

static void call_yield(long count)
{
    while (count--)
        sched_yield();
}

/* Sequential transfers start over at the end of `file`. */
static void transfer(long count, long size, int writing)
{
    int fd = writing ? output : input;
    long room = (writing ? 16 : 64) * MIB, left = 0;
    while (count--) {
        if (left < size) {
            lseek(fd, 0, SEEK_SET);
            left = room;
        }
        long done = writing ? write(fd, buffer, size) : read(fd, buffer, size);
        must(done == size, "read or write");
        left -= size;
    }
}

static void positioned(long count, long size, int writing)
{
    while (count--) {
        long done = writing ? pwrite(output, buffer, size, 0) : pread(input, buffer, size, 0);
        must(done == size, "pread or pwrite");
    }
}

#define SIZES(kind, function, writing) \
    static void kind##_1(long count) { function(count, 1, writing); } \
    static void kind##_4k(long count) { function(count, 4096, writing); } \
    static void kind##_64k(long count) { function(count, 65536, writing); } \
    static void kind##_1m(long count) { function(count, MIB, writing); }

SIZES(read, transfer, 0)
SIZES(write, transfer, 1)
SIZES(pread, positioned, 0)
SIZES(pwrite, positioned, 1)

static void stat_path(long count, const char *path)
{
    struct stat status;
    while (count--)
        must(stat(path, &status) == 0, path);
}

static void open_path(long count, const char *path)
{
    while (count--) {
        int fd = open(path, O_RDONLY);
        must(fd >= 0, path);
        close(fd);
    }
}

static void stat_volume(long count) { stat_path(count, "small"); }
static void stat_deep(long count) { stat_path(count, "one/two/three/four/small"); }
static void stat_root(long count) { stat_path(count, "/etc/passwd"); }
static void open_volume(long count) { open_path(count, "small"); }
static void open_root(long count) { open_path(count, "/etc/passwd"); }

static void stat_missing(long count)
{
    struct stat status;
    while (count--)
        must(stat("/etc/there is no such file", &status) < 0, "a missing file");
}

static void call_fstat(long count)
{
    struct stat status;
    while (count--)
        must(fstat(input, &status) == 0, "fstat");
}

static void list(long count)
{
    while (count--) {
        DIR *directory = opendir("many");
        must(directory != NULL, "opendir");
        int entries = 0;
        while (readdir(directory))
            entries++;
        must(entries == 102, "readdir");
        closedir(directory);
    }
}

static void call_poll(long count)
{
    struct pollfd fd = {.fd = event, .events = POLLIN};
    while (count--)
        must(poll(&fd, 1, -1) == 1, "poll");
}

/* Round trips of a byte between two processes. */
static void ping_pong(long count, int here[2], int there[2])
{
    pid_t child = fork();
    must(child >= 0, "fork");
    char byte = 0;
    for (long i = 0; i < count; i++) {
        if (child == 0) {
            if (read(there[0], &byte, 1) != 1 || write(there[1], &byte, 1) != 1)
                _exit(1);
        } else {
            must(write(here[1], &byte, 1) == 1 && read(here[0], &byte, 1) == 1, "ping-pong");
        }
    }
    if (child == 0)
        _exit(0);
    int status;
    must(waitpid(child, &status, 0) == child && status == 0, "ping-pong's child");
    close(here[0]);
    close(here[1]);
    close(there[0]);
    close(there[1]);
}

static void pipes(long count)
{
    int forth[2], back[2];
    must(pipe(forth) == 0 && pipe(back) == 0, "pipe");
    ping_pong(count, (int[]){back[0], forth[1]}, (int[]){forth[0], back[1]});
}

static void sockets(long count)
{
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    ping_pong(count, (int[]){pair[0], dup(pair[0])}, (int[]){pair[1], dup(pair[1])});
}

static struct {
    _Alignas(64) uint32_t turn;
    _Alignas(64) pthread_mutex_t mutex;
    long count;
} shared = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void take_turns(uint32_t mine, long count)
{
    for (long i = 0; i < count; i++) {
        while (__atomic_load_n(&shared.turn, __ATOMIC_SEQ_CST) != mine)
            syscall(SYS_futex, &shared.turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
        __atomic_store_n(&shared.turn, !mine, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &shared.turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void *turn_taker(void *unused)
{
    (void)unused;
    take_turns(1, shared.count);
    return NULL;
}

static void *contender(void *unused)
{
    (void)unused;
    for (long i = 0; i < shared.count; i++) {
        pthread_mutex_lock(&shared.mutex);
        sink++;
        pthread_mutex_unlock(&shared.mutex);
    }
    return NULL;
}

static void futexes(long count)
{
    pthread_t thread;
    shared.count = count;
    must(pthread_create(&thread, NULL, turn_taker, NULL) == 0, "pthread_create");
    take_turns(0, count);
    pthread_join(thread, NULL);
}

static void mutex(long count)
{
    pthread_t thread;
    shared.count = count;
    must(pthread_create(&thread, NULL, contender, NULL) == 0, "pthread_create");
    contender(NULL);
    pthread_join(thread, NULL);
}

static char *map(long size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    return memory;
}

static void touch(char *memory, long size)
{
    for (long at = 0; at < size; at += PAGE)
        memory[at] = 1;
}

static void mappings(long count)
{
    while (count--) {
        char *memory = map(16 * PAGE);
        touch(memory, 16 * PAGE);
        munmap(memory, 16 * PAGE);
    }
}

/* Page by page, also where the host prefers huge ones. */
static void faults(long count, long size)
{
    while (count--) {
        char *memory = map(size);
        madvise(memory, size, MADV_NOHUGEPAGE);
        touch(memory, size);
        munmap(memory, size);
    }
}

static void faults_64m(long count) { faults(count, 64 * MIB); }
static void faults_1g(long count) { faults(count, 1024 * MIB); }

static void forks(long count)
{
    while (count--) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0)
            _exit(0);
        must(waitpid(child, NULL, 0) == child, "waitpid");
    }
}

static void forks_64m(long count)
{
    static char *memory;
    if (!memory) {
        memory = map(64 * MIB);
        madvise(memory, 64 * MIB, MADV_NOHUGEPAGE);
        touch(memory, 64 * MIB);
    }
    forks(count);
}

static void spawns(long count)
{
    extern char **environ;
    char *arguments[] = {"true", NULL};
    while (count--) {
        pid_t child;
        int status;
        must(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) == 0, "posix_spawn");
        must(waitpid(child, &status, 0) == child && status == 0, "/bin/true");
    }
}

static void *nothing(void *unused) { return unused; }

static void threads(long count)
{
    while (count--) {
        pthread_t thread;
        must(pthread_create(&thread, NULL, nothing, NULL) == 0, "pthread_create");
        pthread_join(thread, NULL);
    }
}

static void compute(long count)
{
    uint64_t value = 88172645463325252ULL;
    while (count--)
        for (int i = 0; i < 1000000; i++) {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
        }
    sink = value;
}

static void sequential(long count)
{
    while (count--) {
        int fd = open("file", O_RDONLY);
        must(fd >= 0, "open");
        long total = 0, done;
        while ((done = read(fd, buffer, 128 << 10)) > 0)
            total += done;
        must(total == 64 * MIB, "sequential read");
        close(fd);
    }
}

static const struct {
    const char *name;
    void (*run)(long count);
    long parts; /* what one call is divided by: pages, MiB */
} cases[] = {
    {"getppid", call_getppid, 1},
    {"getpid", call_getpid, 1},
    {"getpid-syscall", call_syscall, 1},
    {"clock_gettime", call_clock, 1},
    {"sched_yield", call_yield, 1},
    {"read-1", read_1, 1},
    {"read-4k", read_4k, 1},
    {"read-64k", read_64k, 1},
    {"read-1m", read_1m, 1},
    {"write-1", write_1, 1},
    {"write-4k", write_4k, 1},
    {"write-64k", write_64k, 1},
    {"write-1m", write_1m, 1},
    {"pread-1", pread_1, 1},
    {"pread-4k", pread_4k, 1},
    {"pread-64k", pread_64k, 1},
    {"pread-1m", pread_1m, 1},
    {"pwrite-1", pwrite_1, 1},
    {"pwrite-4k", pwrite_4k, 1},
    {"pwrite-64k", pwrite_64k, 1},
    {"pwrite-1m", pwrite_1m, 1},
    {"stat", stat_volume, 1},
    {"stat-deep", stat_deep, 1},
    {"stat-root", stat_root, 1},
    {"stat-missing", stat_missing, 1},
    {"fstat", call_fstat, 1},
    {"open-close", open_volume, 1},
    {"open-close-root", open_root, 1},
    {"readdir-100", list, 1},
    {"poll", call_poll, 1},
    {"pipe-ping-pong", pipes, 1},
    {"unix-ping-pong", sockets, 1},
    {"futex-ping-pong", futexes, 1},
    {"mutex-2-threads", mutex, 1},
    {"mmap-touch-munmap", mappings, 1},
    {"fault-64m", faults_64m, 64 * MIB / PAGE},
    {"fault-1g", faults_1g, 1024 * MIB / PAGE},
    {"fork-wait", forks, 1},
    {"fork-wait-64m", forks_64m, 1},
    {"spawn-true", spawns, 1},
    {"thread-join", threads, 1},
    {"compute", compute, 1},
    {"read-file-mib", sequential, 64},
};

static int by_value(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static void measure(int index, int64_t budget)
{
    enum { BATCHES = 5 };
    int64_t times[BATCHES], batch = budget / BATCHES;
    long count = 1;
    int batches = BATCHES;
    for (;;) {
        int64_t start = now();
        cases[index].run(count);
        times[0] = now() - start;
        if (times[0] >= batch)
            break;
        int64_t factor = times[0] > 0 ? batch * 5 / 4 / times[0] : 10;
        count *= factor < 2 ? 2 : factor > 10 ? 10 : factor;
    }
    /* The first batch warms up, unless there is no time for more. */
    if (times[0] > budget) {
        batches = 1;
    } else {
        for (int i = 0; i < batches; i++) {
            int64_t start = now();
            cases[index].run(count);
            times[i] = now() - start;
        }
    }
    qsort(times, batches, sizeof times[0], by_value);
    printf("%s %.2f\n", cases[index].name, (double)times[batches / 2] / count / cases[index].parts);
    fflush(stdout);
}

static void *wait_for_ever(void *unused)
{
    pause();
    return unused;
}

/* Starts so many threads or processes that wait. */
static void idle_together(const char *mode, int count)
{
    int together[2];
    must(pipe(together) == 0, "pipe");
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    while (count--) {
        if (!strcmp(mode, "idle-threads")) {
            pthread_t thread;
            must(pthread_create(&thread, &small, wait_for_ever, NULL) == 0, "pthread_create");
            continue;
        }
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            /* Ends with its parent. */
            char byte;
            close(together[1]);
            while (read(together[0], &byte, 1) > 0)
                ;
            _exit(0);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc >= 2 && !strncmp(argv[1], "idle", 4)) {
        if (argc == 3)
            idle_together(argv[1], atoi(argv[2]));
        must(write(1, "ready\n", 6) == 6, "write");
        char byte;
        while (read(0, &byte, 1) > 0)
            ;
        return 0;
    }
    if (argc < 4 || chdir(argv[1]) < 0) {
        fprintf(stderr, "usage: bench DIRECTORY MILLISECONDS CASE...\n");
        return 2;
    }
    input = open("file", O_RDONLY);
    output = open("output", O_RDWR | O_CREAT | O_TRUNC, 0600);
    event = eventfd(1, 0);
    must(input >= 0 && output >= 0 && event >= 0, "preparations");
    for (int argument = 3; argument < argc; argument++)
        for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++)
            if (!strcmp(argv[argument], cases[index].name))
                measure(index, atol(argv[2]) * 1000000LL);
    return 0;
}
