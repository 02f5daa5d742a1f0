/* Moving data between files: splice and its kin, preadv2, sendfile, seals, limits of size, privileges that end. */
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

static int open_new(const char *path) {
    return CHECK_OK(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
}

static void check_contents(const char *path, const char *expected) {
    char text[256];
    get_file(path, text, sizeof text);
    CHECK_STR(text, expected);
}

static int waiting_in(int fd) {
    int count = -1;
    CHECK_OK(ioctl(fd, FIONREAD, &count));
    return count;
}

/* --- splice, tee, vmsplice --- */

TEST(splice_into_a_pipe) {
    enter_scratch();
    int ends[2];
    char text[16] = {0};
    CHECK_OK(pipe(ends));
    put_file("file", "0123456789", 0644);
    int fd = CHECK_OK(open("file", O_RDONLY));
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 4, 0), 4);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4);
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 100, SPLICE_F_MOVE | SPLICE_F_MORE), 6);
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 100, 0), 0);
    CHECK_EQ(read(ends[0], text, sizeof text), 10);
    CHECK_STR(text, "0123456789");
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 0, 0x100), 0);
    CHECK_ERR(splice(fd, NULL, ends[1], NULL, 1, 0x100), EINVAL);
    CHECK_ERR(splice(ends[1], NULL, fd, NULL, 1, 0), EBADF);
    CHECK_ERR(splice(999, NULL, ends[1], NULL, 1, 0), EBADF);
    CHECK_ERR(splice(fd, BAD, ends[1], NULL, 1, 0), EFAULT);
    CHECK_ERR(splice(fd, &(loff_t){-1}, ends[1], NULL, 1, 0), EINVAL);
    CHECK_ERR(splice(CHECK_OK(eventfd(1, 0)), NULL, ends[1], NULL, 8, 0), EINVAL);
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_ERR(splice(fd, NULL, ends[1], NULL, 1, 0), EPIPE);
}

TEST(splice_out_of_a_pipe) {
    enter_scratch();
    int ends[2];
    loff_t offset = 3;
    CHECK_OK(pipe(ends));
    int fd = open_new("file");
    CHECK_EQ(write(fd, "abcdefgh", 8), 8);
    CHECK_EQ(write(ends[1], "12345", 5), 5);
    CHECK_EQ(splice(ends[0], NULL, fd, &offset, 2, 0), 2);
    CHECK_EQ(offset, 5);
    check_contents("file", "abc12fgh");
    CHECK_EQ(splice(ends[0], NULL, fd, NULL, 100, 0), 3);
    check_contents("file", "abc12fgh345");
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 11);
    CHECK_ERR(splice(ends[0], NULL, fd, NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
    int append = CHECK_OK(open("file", O_WRONLY | O_APPEND));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_ERR(splice(ends[0], NULL, append, NULL, 1, 0), EINVAL);
    CHECK_EQ(waiting_in(ends[0]), 1);
    CHECK_EQ(splice(ends[0], NULL, CHECK_OK(open("/dev/null", O_WRONLY)), NULL, 1, 0), 1);
    close(ends[1]);
    CHECK_EQ(splice(ends[0], NULL, fd, NULL, 1, 0), 0);
}

TEST(splice_waits_for_data) {
    enter_scratch();
    int ends[2];
    CHECK_OK(pipe(ends));
    int fd = open_new("file");
    pid_t pid = CHILD({
        settle();
        CHECK_EQ(write(ends[1], "text", 4), 4);
    });
    CHECK_EQ(splice(ends[0], NULL, fd, NULL, 100, 0), 4);
    CHECK_EXIT(pid, 0);
    check_contents("file", "text");
}

TEST(splice_between_pipes) {
    int first[2], second[2];
    char text[16] = {0};
    CHECK_OK(pipe(first));
    CHECK_OK(pipe(second));
    CHECK_EQ(write(first[1], "123456", 6), 6);
    CHECK_EQ(splice(first[0], NULL, second[1], NULL, 4, 0), 4);
    CHECK_EQ(tee(second[0], first[1], 2, 0), 2);
    CHECK_EQ(read(first[0], text, sizeof text), 4);
    CHECK_STR(text, "5612");
    CHECK_EQ(waiting_in(second[0]), 4);
    CHECK_ERR(splice(first[0], NULL, first[1], NULL, 1, 0), EINVAL);
    CHECK_ERR(tee(first[0], first[1], 1, 0), EINVAL);
    CHECK_ERR(tee(0, first[1], 1, 0x100), EINVAL);
    CHECK_ERR(tee(first[0], second[1], 1, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_ERR(tee(first[1], second[1], 1, 0), EBADF);
    close(first[1]);
    CHECK_EQ(tee(first[0], second[1], 1, 0), 0);
    CHECK_EQ(splice(first[0], NULL, second[1], NULL, 1, 0), 0);
}

TEST(splice_between_socket_and_pipe) {
    int sockets[2], ends[2];
    char text[16] = {0};
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    CHECK_OK(pipe(ends));
    CHECK_EQ(write(sockets[0], "there", 5), 5);
    CHECK_EQ(splice(sockets[1], NULL, ends[1], NULL, 100, 0), 5);
    CHECK_EQ(splice(ends[0], NULL, sockets[1], NULL, 100, 0), 5);
    CHECK_EQ(read(sockets[0], text, sizeof text), 5);
    CHECK_STR(text, "there");
    CHECK_ERR(splice(sockets[1], NULL, ends[1], NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
}

TEST(splice_keeps_to_the_size_of_the_pipe) {
    enter_scratch();
    int ends[2];
    CHECK_OK(pipe(ends));
    int fd = open_new("file");
    CHECK_OK(ftruncate(fd, 1 << 20));
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 1 << 20, 0), 65536);
    CHECK_ERR(splice(fd, NULL, ends[1], NULL, 1 << 20, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 65536);
}

TEST(vmsplice_moves_memory) {
    int ends[2];
    char text[16] = {0};
    CHECK_OK(pipe(ends));
    struct iovec vectors[] = {{"ab", 2}, {"", 0}, {"cd", 2}};
    CHECK_EQ(vmsplice(ends[1], vectors, 3, 0), 4);
    struct iovec back[] = {{text, 1}, {text + 1, 10}};
    CHECK_EQ(vmsplice(ends[0], back, 2, 0), 4);
    CHECK_STR(text, "abcd");
    CHECK_ERR(vmsplice(ends[0], back, 2, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_ERR(vmsplice(ends[1], vectors, 3, 0x100), EINVAL);
    CHECK_ERR(vmsplice(ends[1], vectors, 1025, 0), EINVAL);
    CHECK_ERR(vmsplice(CHECK_OK(eventfd(0, 0)), vectors, 1, 0), EBADF);
    CHECK_EQ(vmsplice(ends[1], vectors, 0, 0), 0);
}

TEST(sendfile_needs_a_seekable_source) {
    enter_scratch();
    int ends[2], sockets[2];
    char text[16] = {0};
    CHECK_OK(pipe(ends));
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    put_file("file", "0123456789", 0644);
    int fd = CHECK_OK(open("file", O_RDWR));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_ERR(sendfile(fd, ends[0], NULL, 1), EINVAL);
    CHECK_EQ(sendfile(ends[1], fd, NULL, 3), 3);
    CHECK_EQ(read(ends[0], text, sizeof text), 4);
    CHECK_STR(text, "x012");
    CHECK_EQ(sendfile(sockets[0], fd, &(off_t){8}, 100), 2);
    CHECK_EQ(read(sockets[1], text, sizeof text), 2);
    CHECK_ERR(sendfile(fd, ends[0], &(off_t){0}, 1), ESPIPE);
    CHECK_ERR(sendfile(sockets[0], fd, &(off_t){-1}, 1), EINVAL);
}

TEST(copy_file_range_errors) {
    enter_scratch();
    int ends[2];
    CHECK_OK(pipe(ends));
    put_file("from", "0123456789", 0644);
    int in = CHECK_OK(open("from", O_RDWR)), out = open_new("to");
    CHECK_ERR(copy_file_range(ends[0], NULL, out, NULL, 1, 0), EINVAL);
    CHECK_ERR(copy_file_range(CHECK_OK(open(".", O_RDONLY)), NULL, out, NULL, 1, 0), EISDIR);
    int append = CHECK_OK(open("to", O_WRONLY | O_APPEND));
    CHECK_ERR(copy_file_range(in, NULL, append, NULL, 1, 0), EBADF);
    int reader = CHECK_OK(open("to", O_RDONLY));
    CHECK_ERR(copy_file_range(in, NULL, reader, NULL, 1, 0), EBADF);
    CHECK_EQ(copy_file_range(in, &(loff_t){INT64_MAX - 1}, out, NULL, 10, 0), 0);
    CHECK_EQ(copy_file_range(in, &(loff_t){100}, out, NULL, 10, 0), 0);
    /* One file, apart. */
    CHECK_EQ(copy_file_range(in, &(loff_t){0}, in, &(loff_t){5}, 5, 0), 5);
    check_contents("from", "0123401234");
}

/* --- preadv2, pwritev2 --- */

TEST(preadv2_and_pwritev2) {
    enter_scratch();
    char text[16] = {0};
    int fd = open_new("file");
    struct iovec out = {"12345", 5}, in = {text, sizeof text - 1};
    CHECK_EQ(pwritev2(fd, &out, 1, -1, 0), 5);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
    CHECK_EQ(pwritev2(fd, &out, 1, 3, RWF_DSYNC | RWF_HIPRI), 5);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
    CHECK_EQ(pwritev2(fd, &(struct iovec){"x", 1}, 1, 0, RWF_APPEND), 1);
    CHECK_EQ(preadv2(fd, &in, 1, 0, RWF_NOWAIT), 9);
    CHECK_STR(text, "12312345x");
    CHECK_EQ(preadv2(fd, &in, 1, -1, 0), 4);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 9);
    CHECK_ERR(preadv2(fd, &in, 1, 0, 1 << 20), EOPNOTSUPP);
    CHECK_ERR(preadv2(fd, &in, 1, -2, 0), EINVAL);
    CHECK_ERR(pwritev2(fd, &out, 1, 0, RWF_APPEND | 0x20), EINVAL);
    CHECK_OK(fcntl(fd, F_SETFL, O_APPEND));
    CHECK_EQ(pwritev2(fd, &(struct iovec){"!", 1}, 1, 0, 0x20), 1);
    check_contents("file", "!2312345x");
}

TEST(preadv2_on_a_pipe) {
    int ends[2];
    char byte;
    struct iovec in = {&byte, 1}, out = {"x", 1};
    CHECK_OK(pipe(ends));
    CHECK_ERR(preadv2(ends[0], &in, 1, -1, RWF_NOWAIT), EAGAIN);
    CHECK_EQ(pwritev2(ends[1], &out, 1, -1, RWF_NOWAIT), 1);
    CHECK_EQ(preadv2(ends[0], &in, 1, -1, 0), 1);
    CHECK_ERR(preadv2(ends[0], &in, 1, 0, 0), ESPIPE);
}

/* --- advice --- */

TEST(ranges_are_checked) {
    enter_scratch();
    int ends[2];
    CHECK_OK(pipe(ends));
    int fd = open_new("file");
    CHECK_OK(sync_file_range(fd, 0, 100, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
    CHECK_ERR(sync_file_range(fd, -1, 100, 0), EINVAL);
    CHECK_ERR(sync_file_range(fd, 0, 100, 8), EINVAL);
    CHECK_ERR(sync_file_range(ends[0], 0, 100, 0), ESPIPE);
    CHECK_ERR(sync_file_range(999, 0, 100, 0), EBADF);
    CHECK_ERR(readahead(ends[0], 0, 10), EINVAL);
    CHECK_ERR(readahead(CHECK_OK(open("file", O_WRONLY)), 0, 10), EBADF);
    CHECK_ERR(fallocate(fd, 0, -1, 10), EINVAL);
    CHECK_ERR(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK_ERR(fallocate(fd, 0x4000, 0, 10), EOPNOTSUPP);
    CHECK_ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
    CHECK_ERR(fallocate(CHECK_OK(open(".", O_RDONLY)), 0, 0, 10), EBADF);
    uint64_t range[2] = {0, 0}, result[5] = {1, 1, 1, 1, 1};
    CHECK_EQ(write(fd, "x", 1), 1);
    if (syscall(451, fd, range, result, 0) == -1) {
        CHECK_EQ(errno, ENOSYS);
        return;
    }
    CHECK_EQ(result[0], 1);
    CHECK_ERR(syscall(451, fd, range, result, 1), EINVAL);
    CHECK_ERR(syscall(451, 999, range, result, 0), EBADF);
}

/* --- seals --- */

TEST(seals_of_writing) {
    int fd = CHECK_OK(memfd_create("x", MFD_ALLOW_SEALING));
    CHECK_OK(ftruncate(fd, 8192));
    char *before = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(before != MAP_FAILED);
    CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    before[0] = 'x';
    char byte;
    CHECK_EQ(pread(fd, &byte, 1, 0), 1);
    CHECK_EQ(byte, 'x');
    CHECK_ERR(write(fd, "x", 1), EPERM);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
    char *after = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(after != MAP_FAILED);
    CHECK_ERR(mprotect(after, 4096, PROT_READ | PROT_WRITE), EACCES);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    CHECK_ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EPERM);
    CHECK_OK(ftruncate(fd, 4096));
}

TEST(seals_need_a_writable_memfd) {
    enter_scratch();
    int fd = CHECK_OK(memfd_create("x", MFD_ALLOW_SEALING));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = CHECK_OK(open(path, O_RDONLY));
    CHECK_ERR(fcntl(reader, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    CHECK_EQ(fcntl(reader, F_GET_SEALS), 0);
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, 0x1000), EINVAL);
    CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, 0), EPERM);
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK_ERR(fcntl(ends[1], F_ADD_SEALS, F_SEAL_GROW), EINVAL);
}

TEST(seals_of_execution) {
    int fd = CHECK_OK(memfd_create("x", 8 /* MFD_NOEXEC_SEAL */));
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(status.st_mode & 07777, 0666);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), 0x20);
    CHECK_ERR(fchmod(fd, 0777), EPERM);
    CHECK_OK(fchmod(fd, 0600));
    CHECK_ERR(memfd_create("x", 8 | 16), EINVAL);
    fd = CHECK_OK(memfd_create("x", 16 | MFD_ALLOW_SEALING));
    CHECK_OK(fcntl(fd, F_ADD_SEALS, 0x20));
    CHECK_EQ(fcntl(fd, F_GET_SEALS), 0x3e);
}

TEST(memfd_names_and_flags) {
    char name[300];
    memset(name, 'n', sizeof name);
    name[249] = 0;
    CHECK_OK(memfd_create(name, 0));
    memset(name, 'n', sizeof name);
    name[250] = 0;
    CHECK_ERR(memfd_create(name, 0), EINVAL);
    CHECK_ERR(memfd_create(BAD, 0), EFAULT);
    CHECK_ERR(memfd_create("x", 1 << 26), EINVAL);
}

/* --- limits and privileges --- */

static volatile sig_atomic_t too_large;

static void on_xfsz(int signal UNUSED) {
    too_large++;
}

TEST(files_stay_below_the_limit) {
    enter_scratch();
    handle(SIGXFSZ, on_xfsz, 0);
    int fd = open_new("file");
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){10, 100}));
    CHECK_EQ(write(fd, "0123456789abcdef", 16), 10);
    CHECK_EQ(too_large, 0);
    CHECK_ERR(write(fd, "x", 1), EFBIG);
    CHECK_EQ(too_large, 1);
    CHECK_ERR(pwrite(fd, "x", 1, 100), EFBIG);
    CHECK_EQ(pwrite(fd, "xyz", 3, 8), 2);
    CHECK_EQ(write(fd, "", 0), 0);
    CHECK_ERR(ftruncate(fd, 11), EFBIG);
    CHECK_ERR(fallocate(fd, 0, 0, 11), EFBIG);
    CHECK_EQ(too_large, 4);
    struct iovec vectors[] = {{"abc", 3}, {"def", 3}};
    CHECK_EQ(pwritev(fd, vectors, 2, 6), 4);
    check_contents("file", "012345abcd");
    CHECK_OK(fcntl(fd, F_SETFL, O_APPEND));
    CHECK_ERR(write(fd, "x", 1), EFBIG);
}

TEST(changes_of_the_content_end_privileges) {
    REQUIRE_ROOT();
    enter_scratch();
    put_file("file", "text", 0777);
    struct stat status;
#define CHECK_CLEARED(...)                                                                                             \
    do {                                                                                                               \
        CHECK_OK(chmod("file", 06777));                                                                                \
        CHECK_EXIT(CHILD({                                                                                             \
                       CHECK_OK(setresuid(54321, 54321, 54321));                                                       \
                       __VA_ARGS__;                                                                                    \
                   }),                                                                                                 \
                   0);                                                                                                 \
        CHECK_OK(stat("file", &status));                                                                               \
        CHECK_EQ(status.st_mode & 07777, 0777);                                                                        \
    } while (0)
    CHECK_CLEARED(CHECK_OK(truncate("file", 3)));
    CHECK_CLEARED(CHECK_OK(open("file", O_WRONLY | O_TRUNC)));
    CHECK_CLEARED({
        int fd = CHECK_OK(open("file", O_RDWR));
        CHECK_OK(fallocate(fd, 0, 0, 100));
    });
    CHECK_CLEARED({
        int fd = CHECK_OK(open("file", O_RDWR));
        CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    });
    /* A descriptor that root has written by before. */
    int fd = CHECK_OK(open("file", O_RDWR));
    CHECK_OK(chmod("file", 06777));
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_OK(stat("file", &status));
    CHECK_EQ(status.st_mode & 07777, 06777);
    CHECK_CLEARED(CHECK_EQ(write(fd, "x", 1), 1));
    /* Reading and empty writes clear nothing. */
    CHECK_OK(chmod("file", 06777));
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(54321, 54321, 54321));
                   CHECK_EQ(write(fd, "x", 0), 0);
               }),
               0);
    CHECK_OK(stat("file", &status));
    CHECK_EQ(status.st_mode & 07777, 06777);
}

/* --- signals for files --- */

TEST(signals_say_which_descriptor) {
    int ends[2], signal = SIGRTMIN + 3;
    siginfo_t info;
    CHECK_OK(pipe(ends));
    sigset_t set = SIGNALS(signal, SIGIO);
    block_signals(set);
    CHECK_EQ(fcntl(ends[0], F_GETSIG), 0);
    CHECK_OK(fcntl(ends[0], F_SETSIG, signal));
    CHECK_EQ(fcntl(ends[0], F_GETSIG), signal);
    CHECK_ERR(fcntl(ends[0], F_SETSIG, 65), EINVAL);
    struct f_owner_ex owner = {F_OWNER_TID, syscall(SYS_gettid)}, got;
    CHECK_OK(fcntl(ends[0], F_SETOWN_EX, &owner));
    CHECK_OK(fcntl(ends[0], F_GETOWN_EX, &got));
    CHECK_EQ(got.type, F_OWNER_TID);
    CHECK_EQ(got.pid, owner.pid);
    CHECK_OK(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(sigwaitinfo(&set, &info), signal);
    CHECK_EQ(info.si_code, POLL_IN);
    CHECK_EQ(info.si_fd, ends[0]);
    CHECK(info.si_band & POLLIN);
    /* Without the flag there is no signal. */
    CHECK_OK(fcntl(ends[0], F_SETFL, 0));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_ERR(sigtimedwait(&set, &info, &(struct timespec){0, 0}), EAGAIN);
}

TEST(process_groups_own_files) {
    int sockets[2], on = 1;
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    sigset_t set = SIGNALS(SIGIO);
    block_signals(set);
    pid_t pid = CHILD({ CHECK_EQ(sigwaitinfo(&set, NULL), SIGIO); });
    struct f_owner_ex owner = {F_OWNER_PGRP, getpgrp()}, got;
    CHECK_OK(fcntl(sockets[0], F_SETOWN, -getpgrp()));
    CHECK_OK(fcntl(sockets[0], F_GETOWN_EX, &got));
    CHECK_EQ(got.type, owner.type);
    CHECK_EQ(got.pid, owner.pid);
    CHECK_OK(ioctl(sockets[0], FIOASYNC, &on));
    CHECK(fcntl(sockets[0], F_GETFL) & O_ASYNC);
    CHECK_EQ(write(sockets[1], "x", 1), 1);
    CHECK_EQ(sigwaitinfo(&set, NULL), SIGIO);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(fcntl(sockets[0], F_SETOWN, 999999), ESRCH);
    CHECK_ERR(fcntl(sockets[0], F_SETOWN_EX, &(struct f_owner_ex){7, 1}), EINVAL);
    CHECK_OK(fcntl(sockets[0], F_SETOWN, 0));
    CHECK_EQ(fcntl(sockets[0], F_GETOWN), 0);
}

/* --- the same file read again and again, large and small --- */

enum { READ_MOST = 300 * 1000, READ_FILE = READ_MOST + 1000 };

static unsigned char *allocate(size_t length) {
    unsigned char *memory = malloc(length);
    CHECK(memory != NULL);
    return memory;
}

static unsigned char pattern_at(size_t offset) { return (unsigned char)(offset * 7 + offset / 256); }

/* Reads at all kinds of places and lengths, over and over, and looks at every byte. */
static void read_often(int fd, unsigned char *buffer, unsigned seed) {
    static const size_t lengths[] = {1, 100, 4096, 65536, 131072, 131073, READ_MOST, 4096, 262144, 10};
    for (unsigned round = 0; round < 60; round++) {
        size_t length = lengths[(round + seed) % (sizeof lengths / sizeof *lengths)];
        size_t offset = (round * 37 + seed) % 1000;
        memset(buffer, 0, length);
        CHECK_EQ(pread(fd, buffer, length, (off_t)offset), (ssize_t)length);
        for (size_t i = 0; i < length; i++)
            CHECK_EQ(buffer[i], pattern_at(offset + i));
    }
}

static int open_pattern(const char *path) {
    int fd = open_new(path);
    unsigned char *bytes = allocate(READ_FILE);
    for (size_t i = 0; i < READ_FILE; i++)
        bytes[i] = pattern_at(i);
    CHECK_EQ(write(fd, bytes, READ_FILE), READ_FILE);
    free(bytes);
    close(fd);
    return CHECK_OK(open(path, O_RDONLY));
}

TEST(files_read_often_by_a_family) {
    enter_scratch();
    int fd = open_pattern("file");
    unsigned char *buffer = allocate(READ_MOST);
    read_often(fd, buffer, 0);
    pid_t children[3];
    for (unsigned i = 0; i < 3; i++)
        children[i] = CHILD({
            read_often(fd, buffer, i);
            /* Another file by the same number. */
            int other = open_pattern((char[]){'f', (char)('0' + i), 0});
            CHECK_OK(ftruncate(open((char[]){'f', (char)('0' + i), 0}, O_WRONLY), 10));
            CHECK_OK(dup2(other, fd));
            for (int round = 0; round < 30; round++)
                CHECK_EQ(pread(fd, buffer, READ_MOST, 3), 7);
            close(fd);
            CHECK_ERR(pread(fd, buffer, 1, 0), EBADF);
            CHECK_EQ(pread(other, buffer, READ_MOST, 0), 10);
        });
    for (unsigned i = 0; i < 3; i++)
        CHECK_EXIT(children[i], 0);
    /* Its position is shared. */
    CHECK_EQ(read(fd, buffer, 100000), 100000);
    pid_t pid = CHILD({ CHECK_EQ(read(fd, buffer, 100000), 100000); });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 200000);
    CHECK_EQ(read(fd, buffer, READ_MOST), READ_FILE - 200000);
    CHECK_EQ(read(fd, buffer, READ_MOST), 0);
}

TEST(many_files_read_often) {
    enter_scratch();
    int fds[9];
    unsigned char *buffer = allocate(READ_MOST);
    for (int i = 0; i < 9; i++)
        fds[i] = open_pattern((char[]){'f', (char)('0' + i), 0});
    for (int round = 0; round < 3; round++)
        for (unsigned i = 0; i < 9; i++)
            read_often(fds[i], buffer, i);
    /* What is written shows at once; what is gone stays readable. */
    int writing = CHECK_OK(open("f0", O_RDWR));
    for (int round = 0; round < 40; round++) {
        CHECK_EQ(pwrite(writing, &(char){(char)round}, 1, 77), 1);
        CHECK_EQ(pread(fds[0], buffer, READ_MOST, 0), READ_MOST);
        CHECK_EQ(buffer[77], round);
    }
    CHECK_OK(unlink("f1"));
    read_often(fds[1], buffer, 1);
    CHECK_OK(ftruncate(writing, 1000));
    CHECK_EQ(pread(fds[0], buffer, READ_MOST, 990), 10);
}

TEST(large_reads_end_at_what_cannot_be_written) {
    enter_scratch();
    int fd = open_pattern("file");
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *memory = mmap(NULL, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK_OK(mprotect(memory + 40 * page, page, PROT_READ));
    for (int round = 0; round < 40; round++) {
        CHECK_EQ(pread(fd, memory, 64 * page, 0), (ssize_t)(40 * page));
        CHECK_ERR(pread(fd, memory + 40 * page, page, 0), EFAULT);
        CHECK_EQ(pread(fd, memory + 41 * page, 23 * page, 0), (ssize_t)(23 * page));
    }
    for (size_t i = 0; i < 40 * page; i++)
        CHECK_EQ(memory[i], pattern_at(i));
    CHECK_ERR(pread(fd, BAD, page, 0), EFAULT);
    CHECK_ERR(pread(fd, memory, page, -1), EINVAL);
}

static void *read_in_a_thread(void *argument) {
    int fd = *(int *)argument;
    unsigned char *buffer = allocate(READ_MOST);
    for (unsigned round = 0; round < 5; round++)
        read_often(fd, buffer, round);
    free(buffer);
    return NULL;
}

TEST(threads_read_files_often) {
    enter_scratch();
    int fds[6];
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) {
        fds[i] = i % 2 ? CHECK_OK(dup(fds[0])) : open_pattern((char[]){'f', (char)('0' + i), 0});
        CHECK_EQ(pthread_create(&threads[i], NULL, read_in_a_thread, &fds[i]), 0);
    }
    for (int i = 0; i < 6; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
}

TEST(buffers_end_where_addresses_do) {
    enter_scratch();
    int fd = open_pattern("file"), null = CHECK_OK(open("/dev/null", O_RDWR));
    int pair[2];
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    unsigned char *buffer = allocate(4096);
    size_t last = 0x7ffffffff000 - (uintptr_t)buffer;
    size_t lengths[] = {last + 1, SIZE_MAX / 2, SIZE_MAX - (uintptr_t)buffer, SIZE_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        CHECK_ERR(read(fd, buffer, lengths[i]), EFAULT);
        CHECK_ERR(pread(fd, buffer, lengths[i], 0), EFAULT);
        CHECK_ERR(write(null, buffer, lengths[i]), EFAULT);
        CHECK_ERR(pwrite(null, buffer, lengths[i], 0), EFAULT);
        struct iovec two[2] = {{buffer, 1}, {buffer, lengths[i]}};
        CHECK_ERR(writev(null, two, 2), lengths[i] <= SSIZE_MAX ? EFAULT : EINVAL);
    }
    // As much as a call moves is looked at, where all could be there.
    CHECK_EQ(write(null, buffer, last), 0x7ffff000);
    struct iovec one = {buffer, last};
    CHECK_EQ(writev(null, &one, 1), 0x7ffff000);
    unsigned char *end = (unsigned char *)(0x7ffffffff000 - 4096);
    CHECK_ERR(send(pair[0], end, SIZE_MAX, MSG_DONTWAIT), EFAULT);
    CHECK_ERR(recv(pair[1], end, 4097, MSG_DONTWAIT), EFAULT);
    CHECK_EQ(write(pair[0], "12", 2), 2);
    CHECK_EQ(recv(pair[1], buffer, SIZE_MAX, MSG_DONTWAIT), 2);
}
