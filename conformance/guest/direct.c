/*
 * Files that are used so much that a kernel may find shortcuts for them: whatever else happens to the file, its
 * descriptor or the process takes effect at the next call.
 */
#include "test.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

/* Calls after which a file is used much. */
enum { MUCH = 200 };

/* Makes a file of so many bytes, all the same. */
static void make_file(const char *path, char byte, size_t size) {
    int fd = CHECK_OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    char *bytes = malloc(size);
    memset(bytes, byte, size);
    CHECK_EQ(write(fd, bytes, size), size);
    CHECK_OK(close(fd));
    free(bytes);
}

/* Makes a file of so many numbers, 0, 1, 2, ... */
static void make_numbers(const char *path, uint32_t count) {
    int fd = CHECK_OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    uint32_t *numbers = malloc(count * sizeof *numbers);
    for (uint32_t index = 0; index < count; index++) {
        numbers[index] = index;
    }
    CHECK_EQ(write(fd, numbers, count * sizeof *numbers), count * sizeof *numbers);
    CHECK_OK(close(fd));
    free(numbers);
}

static char byte_at(int fd, off_t offset) {
    char byte = 0;
    CHECK_EQ(pread(fd, &byte, 1, offset), 1);
    return byte;
}

static void read_much(int fd) {
    for (int index = 0; index < MUCH; index++) {
        byte_at(fd, 0);
    }
}

static void write_much(int fd) {
    for (int index = 0; index < MUCH; index++) {
        CHECK_EQ(pwrite(fd, "w", 1, 0), 1);
    }
}

static off_t size_of(int fd) {
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    return status.st_size;
}

static uint32_t next_number(int fd) {
    uint32_t number = UINT32_MAX;
    CHECK_EQ(read(fd, &number, sizeof number), sizeof number);
    return number;
}

TEST(reads_follow_each_other) {
    enter_volume();
    make_numbers("file", 10000);
    int fd = CHECK_OK(open("file", O_RDONLY));
    uint32_t number = 0;
    for (uint32_t index = 0; index < 10000; index++) {
        CHECK_EQ(next_number(fd), index);
    }
    CHECK_EQ(read(fd, &number, sizeof number), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 40000);
    CHECK_EQ(lseek(fd, -6, SEEK_END), 39994);
    CHECK_EQ(read(fd, (char[100]){0}, 100), 6);
    CHECK_EQ(lseek(fd, 40, SEEK_SET), 40);
    CHECK_EQ(next_number(fd), 10);
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, 0, 9), EINVAL);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 44);
    CHECK_EQ(pread(fd, &number, sizeof number, 80), 4);
    CHECK_EQ(number, 20);
    CHECK_EQ(pread(fd, &number, sizeof number, 1 << 30), 0);
    CHECK_ERR(pread(fd, &number, sizeof number, -1), EINVAL);
    CHECK_ERR(write(fd, "x", 1), EBADF);
    CHECK_ERR(pwrite(fd, "x", 1, 0), EBADF);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 44);
    CHECK_EQ(read(fd, &number, 0), 0);
    /* What moves the position in other ways. */
    struct iovec vectors[2] = {{&number, 2}, {(char *)&number + 2, 2}};
    CHECK_EQ(readv(fd, vectors, 2), 4);
    CHECK_EQ(number, 11);
    CHECK_EQ(preadv2(fd, vectors, 2, -1, 0), 4);
    CHECK_EQ(number, 12);
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK_EQ(sendfile(ends[1], fd, NULL, 8), 8);
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 4, 0), 4);
    CHECK_EQ(next_number(fd), 16);
    char text[4096], *line;
    snprintf(text, sizeof text, "/proc/self/fdinfo/%d", fd);
    get_file(text, text, sizeof text);
    CHECK((line = strstr(text, "pos:")) && atoi(line + 4) == 68);
}

TEST(writes_follow_each_other) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    for (uint32_t index = 0; index < 10000; index++) {
        CHECK_EQ(write(fd, &index, sizeof index), sizeof index);
    }
    CHECK_EQ(size_of(fd), 40000);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    for (uint32_t index = 0; index < 10000; index++) {
        CHECK_EQ(next_number(fd), index);
    }
    CHECK_EQ(lseek(fd, 8, SEEK_SET), 8);
    CHECK_EQ(write(fd, "abcd", 4), 4);
    struct iovec vectors[2] = {{"ef", 2}, {"gh", 2}};
    CHECK_EQ(writev(fd, vectors, 2), 4);
    CHECK_EQ(pwritev2(fd, vectors, 2, -1, 0), 4);
    CHECK_EQ(next_number(fd), 5);
    CHECK_EQ(lseek(fd, 1000, SEEK_END), 41000);
    CHECK_EQ(write(fd, "end", 3), 3);
    CHECK_EQ(size_of(fd), 41003);
    CHECK_EQ(byte_at(fd, 40500), 0);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    CHECK_EQ(memcmp(shared + 8, "abcdefghefgh", 12), 0);
    shared[4000] = 'm';
    CHECK_EQ(byte_at(fd, 4000), 'm');
    CHECK_EQ(pwrite(fd, "n", 1, 4001), 1);
    CHECK_EQ(shared[4001], 'n');
    struct stat before, after;
    CHECK_OK(fstat(fd, &before));
    settle();
    CHECK_EQ(pwrite(fd, "n", 1, 0), 1);
    CHECK_OK(stat("file", &after));
    CHECK(after.st_mtim.tv_sec > before.st_mtim.tv_sec || after.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
}

TEST(data_and_holes_are_found) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    write_much(fd);
    CHECK_EQ(pwrite(fd, "x", 1, 1 << 20), 1);
    off_t data = CHECK_OK(lseek(fd, 8192, SEEK_DATA));
    CHECK(data >= 8192 && data <= 1 << 20);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), data);
    CHECK_OK(lseek(fd, 1 << 20, SEEK_HOLE));
    CHECK_ERR(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
}

TEST(processes_share_the_position) {
    enter_volume();
    make_numbers("file", 100000);
    int fd = CHECK_OK(open("file", O_RDONLY));
    for (uint32_t index = 0; index < MUCH; index++) {
        CHECK_EQ(next_number(fd), index);
    }
    pid_t pid = CHILD({
        for (uint32_t index = 0; index < MUCH; index++) {
            CHECK_EQ(next_number(fd), MUCH + index);
        }
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(next_number(fd), 2 * MUCH);
    /* At the same time, each number comes to one of them. */
    uint32_t *sums = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(sums != MAP_FAILED);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    pid = CHILD({
        uint32_t number;
        while (read(fd, &number, sizeof number) == sizeof number) {
            sums[0] += number;
            sums[2]++;
        }
    });
    uint32_t number;
    while (read(fd, &number, sizeof number) == sizeof number) {
        sums[1] += number;
        sums[3]++;
    }
    CHECK_EXIT(pid, 0);
    CHECK_EQ(sums[2] + sums[3], 100000);
    uint32_t expected = 0;
    for (uint32_t index = 0; index < 100000; index++) {
        expected += index;
    }
    CHECK_EQ(sums[0] + sums[1], expected);
}

struct reader {
    int fd;
    uint32_t count, sum;
};

static void *read_numbers(void *argument) {
    struct reader *reader = argument;
    uint32_t number;
    while (read(reader->fd, &number, sizeof number) == sizeof number) {
        reader->count++;
        reader->sum += number;
    }
    return NULL;
}

TEST(threads_share_the_position) {
    enter_volume();
    make_numbers("file", 100000);
    int fd = CHECK_OK(open("file", O_RDONLY));
    struct reader readers[3] = {{fd, 0, 0}, {fd, 0, 0}, {fd, 0, 0}};
    pthread_t threads[3];
    for (int index = 0; index < 3; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, read_numbers, &readers[index]), 0);
    }
    uint32_t count = 0, sum = 0, expected = 0;
    for (int index = 0; index < 3; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
        count += readers[index].count;
        sum += readers[index].sum;
    }
    for (uint32_t index = 0; index < 100000; index++) {
        expected += index;
    }
    CHECK_EQ(count, 100000);
    CHECK_EQ(sum, expected);
}

TEST(records_of_two_writers_stay_whole) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    pid_t pid = fork();
    CHECK(pid >= 0);
    char record[24], found[24];
    memset(record, pid ? 'p' : 'c', sizeof record);
    for (int index = 0; index < 2000; index++) {
        CHECK_EQ(write(fd, record, sizeof record), sizeof record);
    }
    if (pid == 0) {
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
    CHECK_EQ(size_of(fd), 4000 * sizeof record);
    int from_parent = 0;
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    for (int index = 0; index < 4000; index++) {
        CHECK_EQ(read(fd, found, sizeof found), sizeof found);
        memset(record, found[0], sizeof record);
        CHECK_EQ(memcmp(found, record, sizeof record), 0);
        from_parent += found[0] == 'p';
    }
    CHECK_EQ(from_parent, 2000);
}

TEST(a_position_goes_along_with_a_message) {
    enter_volume();
    make_numbers("file", 10000);
    int fd = CHECK_OK(open("file", O_RDONLY)), sockets[2];
    CHECK_OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets));
    for (uint32_t index = 0; index < MUCH; index++) {
        CHECK_EQ(next_number(fd), index);
    }
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    char text = 0;
    struct iovec vector = {&text, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(fd);
        CHECK_EQ(recvmsg(sockets[1], &message, 0), 1);
        int received;
        memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
        for (uint32_t index = 0; index < MUCH; index++) {
            CHECK_EQ(next_number(received), MUCH + index);
        }
        _exit(0);
    }
    *CMSG_FIRSTHDR(&message) =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof fd);
    CHECK_EQ(sendmsg(sockets[0], &message, 0), 1);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(next_number(fd), 2 * MUCH);
}

TEST(a_descriptor_is_what_it_was_made_last) {
    enter_volume();
    make_file("a", 'a', 10);
    make_file("b", 'b', 10);
    int a = CHECK_OK(open("a", O_RDONLY)), b = CHECK_OK(open("b", O_RDONLY)), fd = CHECK_OK(dup(a));
    read_much(a);
    read_much(b);
    read_much(fd);
    for (int index = 0; index < MUCH; index++) {
        CHECK_OK(dup2(b, fd));
        CHECK_EQ(byte_at(fd, index % 10), 'b');
        CHECK_EQ(dup3(a, fd, O_CLOEXEC), fd);
        CHECK_EQ(byte_at(fd, index % 10), 'a');
    }
    CHECK_OK(close(fd));
    CHECK_ERR(read(fd, (char[1]){0}, 1), EBADF);
    CHECK_ERR(lseek(fd, 0, SEEK_CUR), EBADF);
    for (int index = 0; index < MUCH; index++) {
        const char *name = index % 2 ? "a" : "b";
        CHECK_EQ(open(name, O_RDONLY), fd);
        for (int count = 0; count < 20; count++) {
            CHECK_EQ(byte_at(fd, 0), *name);
        }
        if (index % 3) {
            CHECK_OK(close(fd));
        } else {
            CHECK_OK(close_range(fd, fd, 0));
        }
        CHECK_ERR(pread(fd, (char[1]){0}, 1, 0), EBADF);
    }
    CHECK_EQ(byte_at(a, 0), 'a');
    /* A descriptor that looks like another one in its lower bits. */
    CHECK_OK(dup2(b, a + 64));
    read_much(a + 64);
    CHECK_EQ(byte_at(a, 0), 'a');
    CHECK_EQ(byte_at(a + 64, 0), 'b');
    CHECK_ERR(pread(a + 128, (char[1]){0}, 1, 0), EBADF);
    CHECK_ERR(pread(-1, (char[1]){0}, 1, 0), EBADF);
}

static volatile int stop;

static void *read_a_or_b(void *argument) {
    int fd = *(int *)argument;
    while (!stop) {
        char byte = 0;
        if (pread(fd, &byte, 1, 0) == 1 && byte != 'a' && byte != 'b') {
            FAIL("read '%c'", byte);
        }
    }
    return NULL;
}

TEST(a_descriptor_changes_hands_while_it_is_read) {
    enter_volume();
    make_file("a", 'a', 10);
    make_file("b", 'b', 10);
    make_file("c", 'c', 10);
    int fd = CHECK_OK(open("a", O_RDONLY));
    pthread_t threads[2];
    CHECK_EQ(pthread_create(&threads[0], NULL, read_a_or_b, &fd), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, read_a_or_b, &fd), 0);
    int64_t end = now_ns(CLOCK_MONOTONIC) + 1500000000;
    for (int index = 0; now_ns(CLOCK_MONOTONIC) < end; index++) {
        const char *name = index % 2 ? "a" : "b";
        int file = CHECK_OK(open(name, O_RDONLY));
        CHECK_OK(dup2(file, fd));
        CHECK_OK(close(file));
        for (int count = 0; count < 20; count++) {
            CHECK_EQ(byte_at(fd, 0), *name);
        }
        /* Others come and go meanwhile. */
        file = CHECK_OK(open("c", O_RDONLY));
        for (int count = 0; count < 20; count++) {
            CHECK_EQ(byte_at(file, 0), 'c');
        }
        CHECK_OK(close(file));
    }
    stop = 1;
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
}

TEST(appending_can_be_switched) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    write_much(fd);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_OK(fcntl(fd, F_SETFL, O_APPEND));
    CHECK_EQ(write(fd, "12", 2), 2);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
    CHECK_EQ(pwrite(fd, "3", 1, 0), 1);
    struct iovec vector = {"4", 1};
    CHECK_EQ(pwritev2(fd, &vector, 1, 1, 0), 1);
    char text[32];
    get_file("file", text, sizeof text);
    CHECK_STR(text, "w1234");
    CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
    CHECK_OK(fcntl(fd, F_SETFL, 0));
    CHECK_EQ(write(fd, "ab", 2), 2);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
    CHECK_EQ(pwritev2(fd, &vector, 1, -1, RWF_APPEND), 1);
    get_file("file", text, sizeof text);
    CHECK_STR(text, "wab344");
}

TEST(appended_records_stay_whole) {
    enter_volume();
    pid_t pid = CHILD({
        int fd = CHECK_OK(open("file", O_WRONLY | O_CREAT | O_APPEND, 0600));
        for (int index = 0; index < 2000; index++) {
            CHECK_EQ(write(fd, "child--\n", 8), 8);
        }
    });
    int fd = CHECK_OK(open("file", O_WRONLY | O_CREAT | O_APPEND, 0600));
    for (int index = 0; index < 2000; index++) {
        CHECK_EQ(write(fd, "parent-\n", 8), 8);
    }
    CHECK_EXIT(pid, 0);
    CHECK_EQ(size_of(fd), 32000);
    fd = CHECK_OK(open("file", O_RDONLY));
    for (int index = 0; index < 4000; index++) {
        char text[9] = {0};
        CHECK_EQ(read(fd, text, 8), 8);
        CHECK(!strcmp(text, "child--\n") || !strcmp(text, "parent-\n"));
    }
}

TEST(bad_buffers_are_refused) {
    enter_volume();
    make_file("file", 'x', 20000);
    int fd = CHECK_OK(open("file", O_RDWR));
    char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK_OK(mprotect(pages + 4096, 4096, PROT_READ));
    CHECK_OK(munmap(pages + 2 * 4096, 4096));
    read_much(fd);
    for (int index = 0; index < MUCH; index++) {
        CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    }
    CHECK_EQ(lseek(fd, 5, SEEK_SET), 5);
    char *bad[] = {NULL, BAD, pages + 4096, pages + 2 * 4096, (char *)0x7ff100000000, (char *)0x7ff200000000,
                   (char *)-4096L, (char *)0x800000000000};
    for (size_t index = 0; index < sizeof bad / sizeof *bad; index++) {
        CHECK_ERR(read(fd, bad[index], 100), EFAULT);
        CHECK_ERR(pread(fd, bad[index], 100, 0), EFAULT);
        if (bad[index] != pages + 4096) {
            CHECK_ERR(write(fd, bad[index], 100), EFAULT);
            CHECK_ERR(pwrite(fd, bad[index], 100, 0), EFAULT);
        }
    }
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
    CHECK_EQ(write(fd, pages + 4096, 100), 100);
    CHECK_EQ(lseek(fd, 5, SEEK_SET), 5);
    /* As much as there is room for. */
    CHECK_EQ(read(fd, pages + 4000, 200), 96);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 101);
    CHECK_EQ(write(fd, pages + 8192 - 10, 100), 10);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 111);
    CHECK_EQ(read(fd, BAD, 0), 0);
    CHECK_EQ(write(fd, pages, 0), 0);
    CHECK_EQ(pread(fd, pages, 4096, 19990), 10);
}

__attribute__((noinline)) static ssize_t read_far_down(int fd, size_t size) {
    volatile char room[256 << 10];
    return read(fd, (char *)room, size);
}

TEST(the_stack_grows_for_a_buffer) {
    enter_volume();
    make_file("file", 'x', 256 << 10);
    int fd = CHECK_OK(open("file", O_RDONLY));
    read_much(fd);
    CHECK_EQ(read_far_down(fd, 256 << 10), 256 << 10);
}

static void copy_program(int fd, const char *path) {
    int from = CHECK_OK(open(path, O_RDONLY));
    char bytes[4096];
    ssize_t count;
    while ((count = read(from, bytes, sizeof bytes)) > 0) {
        CHECK_EQ(write(fd, bytes, count), count);
    }
    CHECK_EQ(count, 0);
    close(from);
}

static int run_program(const char *path) {
    pid_t pid = CHILD({
        execl(path, path, "--helper", "nothing", NULL);
        _exit(errno);
    });
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

HELPER(nothing) {
    return 0;
}

TEST(a_program_runs_as_soon_as_it_is_written) {
    enter_volume();
    int fd = CHECK_OK(open("program", O_WRONLY | O_CREAT, 0755));
    copy_program(fd, self_path);
    CHECK_EQ(run_program("./program"), ETXTBSY);
    CHECK_OK(close(fd));
    CHECK_EQ(run_program("./program"), 0);
    for (int index = 0; index < 20; index++) {
        CHECK_OK(unlink("program"));
        pid_t pid = CHILD({
            fd = CHECK_OK(open("program", O_WRONLY | O_CREAT, 0755));
            copy_program(fd, self_path);
            /* Left open. */
        });
        CHECK_EXIT(pid, 0);
        CHECK_EQ(run_program("./program"), 0);
    }
}

static unsigned events_of(int instance) {
    char bytes[4096] __attribute__((aligned(8)));
    unsigned mask = 0;
    ssize_t length = read(instance, bytes, sizeof bytes);
    for (ssize_t at = 0; at < length;) {
        struct inotify_event *event = (struct inotify_event *)(bytes + at);
        mask |= event->mask;
        at += sizeof *event + event->len;
    }
    return mask & (IN_ACCESS | IN_MODIFY);
}

TEST(watchers_hear_of_it) {
    enter_volume();
    make_file("file", 'x', 10000);
    CHECK_OK(mkdir("directory", 0755));
    int fd = CHECK_OK(open("file", O_RDWR)), instance = CHECK_OK(inotify_init1(IN_NONBLOCK));
    read_much(fd);
    write_much(fd);
    int watch = CHECK_OK(inotify_add_watch(instance, "file", IN_MODIFY));
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    CHECK_EQ(byte_at(fd, 0), 'x');
    CHECK_EQ(events_of(instance), IN_MODIFY);
    CHECK_EQ(inotify_add_watch(instance, "file", IN_ACCESS), watch);
    for (int index = 0; index < MUCH; index++) {
        byte_at(fd, 0);
        CHECK_EQ(events_of(instance), IN_ACCESS);
    }
    CHECK_OK(inotify_rm_watch(instance, watch));
    read_much(fd);
    write_much(fd);
    CHECK_EQ(events_of(instance), 0);
    watch = CHECK_OK(inotify_add_watch(instance, ".", IN_MODIFY));
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    CHECK_EQ(events_of(instance), IN_MODIFY);
    CHECK_OK(inotify_rm_watch(instance, watch));
    events_of(instance);
    /* It comes to where somebody watches. */
    CHECK_OK(inotify_add_watch(instance, "directory", IN_MODIFY));
    write_much(fd);
    CHECK_EQ(events_of(instance), 0);
    CHECK_OK(rename("file", "directory/file"));
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    CHECK_EQ(events_of(instance), IN_MODIFY);
}

static volatile sig_atomic_t signals;

static void count_signal(int signal UNUSED) {
    signals++;
}

TEST(a_limit_of_size_takes_effect) {
    enter_volume();
    handle(SIGXFSZ, count_signal, 0);
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    write_much(fd);
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_FSIZE, &limit));
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 100;
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
    CHECK_ERR(pwrite(fd, "x", 1, 100), EFBIG);
    CHECK_EQ(signals, 1);
    CHECK_EQ(lseek(fd, 90, SEEK_SET), 90);
    CHECK_EQ(write(fd, "0123456789abcdef", 16), 10);
    CHECK_ERR(write(fd, "x", 1), EFBIG);
    write_much(fd);
    CHECK_ERR(write(fd, "x", 1), EFBIG);
    CHECK_EQ(size_of(fd), 100);
    limit.rlim_cur = before;
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
    write_much(fd);
    CHECK_EQ(write(fd, "x", 1), 1);
    /* By another process. */
    struct gate ready = gate_new(), limited = gate_new();
    pid_t pid = CHILD({
        write_much(fd);
        gate_open(&ready);
        gate_wait(&limited);
        CHECK_ERR(pwrite(fd, "x", 1, 200), EFBIG);
    });
    gate_wait(&ready);
    limit.rlim_cur = 100;
    CHECK_OK(prlimit(pid, RLIMIT_FSIZE, &limit, NULL));
    gate_open(&limited);
    CHECK_EXIT(pid, 0);
}

TEST(what_others_do_shows) {
    enter_volume();
    make_file("file", 'x', 10000);
    int fd = CHECK_OK(open("file", O_RDWR));
    read_much(fd);
    write_much(fd);
    CHECK_EXIT(CHILD({ CHECK_OK(truncate("file", 10)); }), 0);
    CHECK_EQ(pread(fd, (char[1]){0}, 1, 100), 0);
    CHECK_EXIT(CHILD({ make_file("file", 'y', 200); }), 0);
    CHECK_EQ(byte_at(fd, 100), 'y');
}

TEST(a_file_without_a_name_can_be_opened_again) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    write_much(fd);
    CHECK_OK(ftruncate(fd, 200));
    CHECK_OK(unlink("file"));
    CHECK_EQ(pwrite(fd, "z", 1, 100), 1);
    CHECK_EQ(byte_at(fd, 100), 'z');
    /* It then has a position of its own. */
    CHECK_EQ(lseek(fd, 50, SEEK_SET), 50);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = CHECK_OK(open(path, O_RDWR));
    CHECK_EQ(lseek(again, 0, SEEK_CUR), 0);
    CHECK_OK(lseek(again, 0, SEEK_DATA));
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 50);
    CHECK_OK(fcntl(fd, F_SETFL, O_APPEND));
    CHECK_EQ(pwrite(again, "q", 1, 0), 1);
    CHECK_EQ(byte_at(again, 0), 'q');
    CHECK_EQ(size_of(fd), 200);
}

HELPER(read_on) {
    int fd = atoi(argv[0]);
    uint32_t number;
    return read(fd, &number, sizeof number) == sizeof number && number == (uint32_t)atoi(argv[1]) ? 0 : 1;
}

TEST(a_program_goes_on_where_the_last_one_was) {
    enter_volume();
    make_numbers("file", 10000);
    int fd = CHECK_OK(open("file", O_RDONLY)), closing = CHECK_OK(open("file", O_RDWR | O_CLOEXEC));
    for (uint32_t index = 0; index < MUCH; index++) {
        CHECK_EQ(next_number(fd), index);
        CHECK_EQ(next_number(closing), index);
    }
    char number[16], position[16];
    snprintf(number, sizeof number, "%d", fd);
    snprintf(position, sizeof position, "%d", MUCH);
    pid_t pid = CHILD({ execl(self_path, self_path, "--helper", "read_on", number, position, NULL); });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(next_number(fd), MUCH + 1);
    snprintf(number, sizeof number, "%d", closing);
    pid = CHILD({ execl(self_path, self_path, "--helper", "read_on", number, position, NULL); });
    CHECK_EXIT(pid, 1);
    CHECK_EQ(next_number(closing), MUCH);
}

TEST(a_child_in_the_same_memory_has_its_own_descriptors) {
    enter_volume();
    make_file("a", 'a', 10);
    make_file("b", 'b', 10);
    int a = CHECK_OK(open("a", O_RDWR)), b = CHECK_OK(open("b", O_RDONLY));
    read_much(a);
    read_much(b);
    for (int index = 0; index < 20; index++) {
        pid_t pid = vfork();
        CHECK(pid >= 0);
        if (pid == 0) {
            char byte = 0;
            int fine = close(a) == 0 && pread(a, &byte, 1, 0) == -1 && dup2(b, a) == a;
            for (int count = 0; count < 50; count++) {
                fine = fine && pread(a, &byte, 1, 0) == 1 && byte == 'b';
            }
            _exit(!fine);
        }
        CHECK_EXIT(pid, 0);
        CHECK_EQ(byte_at(a, 0), 'a');
        posix_spawn_file_actions_t actions;
        CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
        CHECK_EQ(posix_spawn_file_actions_addclose(&actions, a), 0);
        CHECK_EQ(posix_spawn_file_actions_adddup2(&actions, b, a), 0);
        char *arguments[] = {self_path, "--helper", "nothing", NULL};
        CHECK_EQ(posix_spawn(&pid, self_path, &actions, NULL, arguments, environ), 0);
        CHECK_EXIT(pid, 0);
        CHECK_EQ(byte_at(a, 0), 'a');
        CHECK_EQ(byte_at(b, 0), 'b');
    }
}

static void *leave_table(void *argument) {
    int *fds = argument;
    read_much(fds[0]);
    CHECK_OK(unshare(CLONE_FILES));
    CHECK_OK(dup2(fds[1], fds[0]));
    for (int index = 0; index < MUCH; index++) {
        CHECK_EQ(byte_at(fds[0], 0), 'b');
    }
    CHECK_OK(close(fds[0]));
    CHECK_ERR(pread(fds[0], (char[1]){0}, 1, 0), EBADF);
    return NULL;
}

TEST(a_thread_can_have_its_own_descriptors) {
    enter_volume();
    make_file("a", 'a', 10);
    make_file("b", 'b', 10);
    int fds[2] = {CHECK_OK(open("a", O_RDONLY)), CHECK_OK(open("b", O_RDONLY))};
    read_much(fds[0]);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, leave_table, fds), 0);
    for (int index = 0; index < 20 * MUCH; index++) {
        CHECK_EQ(byte_at(fds[0], 0), 'a');
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
    read_much(fds[0]);
    CHECK_EQ(byte_at(fds[0], 0), 'a');
    CHECK_OK(unshare(CLONE_FILES));
    read_much(fds[1]);
    CHECK_EQ(byte_at(fds[0], 0), 'a');
    CHECK_EQ(byte_at(fds[1], 0), 'b');
}

TEST(a_child_can_close_what_its_parent_uses) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    write_much(fd);
    for (int index = 0; index < 20; index++) {
        pid_t pid = CHILD({
            write_much(fd);
            CHECK_OK(close(fd));
            CHECK_ERR(write(fd, "x", 1), EBADF);
            CHECK_EQ(open("other", O_RDWR | O_CREAT | O_TRUNC, 0600), fd);
            write_much(fd);
            CHECK_EQ(size_of(fd), 1);
        });
        CHECK_EQ(pwrite(fd, "p", 1, index), 1);
        CHECK_EXIT(pid, 0);
    }
    CHECK_EQ(size_of(fd), 20);
}

TEST(signals_come_in_between) {
    enter_volume();
    make_numbers("file", 4096);
    int fd = CHECK_OK(open("file", O_RDONLY)), output = CHECK_OK(open("output", O_RDWR | O_CREAT, 0600));
    handle(SIGALRM, count_signal, SA_RESTART);
    struct itimerval timer = {{0, 500}, {0, 500}};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    uint32_t numbers[1024], written = 0;
    int64_t end = now_ns(CLOCK_MONOTONIC) + 1000000000;
    for (uint32_t index = 0; now_ns(CLOCK_MONOTONIC) < end; index++) {
        if (index % 4 == 0) {
            CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
        }
        CHECK_EQ(read(fd, numbers, sizeof numbers), sizeof numbers);
        CHECK_EQ(numbers[0], index % 4 * 1024);
        CHECK_EQ(numbers[1023], index % 4 * 1024 + 1023);
        CHECK_EQ(write(output, &index, sizeof index), sizeof index);
        written++;
    }
    timer = (struct itimerval){{0, 0}, {0, 0}};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    CHECK(signals > 20);
    CHECK_EQ(size_of(output), written * sizeof written);
    CHECK_EQ(lseek(output, 0, SEEK_SET), 0);
    for (uint32_t index = 0; index < written; index++) {
        CHECK_EQ(next_number(output), index);
    }
}

static void *spin_on_file(void *argument) {
    int fd = *(int *)argument;
    for (;;) {
        byte_at(fd, 0);
    }
    return NULL;
}

TEST(a_busy_thread_ends_with_its_process) {
    enter_volume();
    make_file("file", 'x', 10);
    pid_t pid = CHILD({
        int fd = CHECK_OK(open("file", O_RDWR));
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, spin_on_file, &fd), 0);
        settle();
        exit(3);
    });
    CHECK_EXIT(pid, 3);
    pid = CHILD({
        int fd = CHECK_OK(open("file", O_RDWR));
        spin_on_file(&fd);
    });
    settle();
    CHECK_OK(kill(pid, SIGSTOP));
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
    CHECK_OK(kill(pid, SIGCONT));
    CHECK_OK(kill(pid, SIGTERM));
    CHECK_KILLED(pid, SIGTERM);
}

TEST(set_user_id_ends_with_a_write) {
    REQUIRE_ROOT();
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0755));
    CHECK_OK(fchown(fd, 12345, 12345));
    CHECK_OK(setresgid(12345, 12345, 12345));
    CHECK_OK(setresuid(12345, 12345, 12345));
    write_much(fd);
    CHECK_OK(fchmod(fd, 04755));
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(status.st_mode & 07777, 0755);
}

TEST(a_filter_sees_all_calls) {
    enter_volume();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    write_much(fd);
    read_much(fd);
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_pwrite64},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EXDEV},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    CHECK_ERR(pwrite(fd, "x", 1, 0), EXDEV);
    read_much(fd);
    CHECK_ERR(pwrite(fd, "x", 1, 0), EXDEV);
}

static volatile int changed;

/* Writes on and on; what comes of the first call that begins after the change. */
static void *write_on(void *argument) {
    int fd = *(int *)argument;
    for (;;) {
        int late = changed;
        ssize_t done = pwrite(fd, "x", 1, 200);
        if (late) {
            return (void *)(long)(done == 1 ? 0 : errno);
        }
    }
}

static long error_after(int fd, void (*change)(void)) {
    pthread_t thread;
    void *result;
    changed = 0;
    CHECK_EQ(pthread_create(&thread, NULL, write_on, &fd), 0);
    sleep_ms(20);
    change();
    changed = 1;
    CHECK_EQ(pthread_join(thread, &result), 0);
    return (long)result;
}

static int watching;

static void watch_file(void) {
    CHECK_OK(inotify_add_watch(watching, "file", IN_MODIFY));
}

static void limit_size(void) {
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_FSIZE, &limit));
    limit.rlim_cur = 100;
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
}

static void forbid_writing(void) {
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_pwrite64},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EXDEV},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
}

static int closing;

static void close_it(void) {
    CHECK_OK(close(closing));
}

TEST(changes_hold_for_other_threads_at_once) {
    enter_volume();
    signal(SIGXFSZ, SIG_IGN);
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    watching = CHECK_OK(inotify_init1(IN_NONBLOCK));
    for (int index = 0; index < 20; index++) {
        CHECK_EQ(error_after(fd, watch_file), 0);
        CHECK_EQ(events_of(watching), IN_MODIFY);
        CHECK_OK(inotify_rm_watch(watching, index + 1));
        events_of(watching);
        closing = CHECK_OK(dup(fd));
        CHECK_EQ(error_after(closing, close_it), EBADF);
    }
    CHECK_EQ(error_after(fd, limit_size), EFBIG);
    CHECK_EQ(error_after(fd, limit_size), EFBIG);
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_FSIZE, &limit));
    limit.rlim_cur = limit.rlim_max;
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
    CHECK_EQ(error_after(fd, forbid_writing), EXDEV);
}

TEST(a_filter_that_does_not_care_changes_nothing) {
    enter_volume();
    make_numbers("file", 10000);
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_getppid},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EXDEV},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    int fd = CHECK_OK(open("file", O_RDWR));
    for (uint32_t index = 0; index < 10000; index++) {
        CHECK_EQ(next_number(fd), index);
    }
    CHECK_ERR(syscall(SYS_getppid), EXDEV);
    write_much(fd);
    CHECK_EQ(byte_at(fd, 0), 'w');
}

TEST(a_file_without_a_name_is_whatever_has_been_closed_of_it) {
    enter_volume();
    put_file("file", "content", 0644);
    int first = CHECK_OK(open("file", O_RDWR)), second = CHECK_OK(open("file", O_RDWR));
    int third = CHECK_OK(open("file", O_RDONLY));
    CHECK_OK(close(second));
    CHECK_OK(close(third));
    CHECK_OK(unlink("file"));
    put_file("file", "another", 0644);
    struct stat status;
    CHECK_OK(fstat(first, &status));
    CHECK_EQ(status.st_nlink, 0);
    CHECK_OK(ftruncate(first, 3));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", first);
    int again = CHECK_OK(open(path, O_RDWR));
    CHECK_OK(fstat(again, &status));
    CHECK_EQ(status.st_size, 3);
    CHECK_OK(stat("file", &status));
    CHECK_EQ(status.st_size, 7);
}
