/* Pipes and FIFOs. */
#include "test.h"

#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static char block[1 << 20];

static void new_pipe(int ends[2], int flags) {
    CHECK_OK(pipe2(ends, flags));
}

static size_t fill(int fd) {
    int flags = CHECK_OK(fcntl(fd, F_GETFL));
    CHECK_OK(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
    size_t total = 0;
    ssize_t count;
    while ((count = write(fd, block, 4096)) > 0) {
        total += count;
    }
    CHECK_EQ(errno, EAGAIN);
    CHECK_OK(fcntl(fd, F_SETFL, flags));
    return total;
}

TEST(data_comes_out_in_order) {
    int ends[2];
    char text[16] = {0};
    new_pipe(ends, 0);
    CHECK_EQ(write(ends[1], "hello ", 6), 6);
    CHECK_EQ(write(ends[1], "world", 5), 5);
    CHECK_EQ(read(ends[0], text, 3), 3);
    CHECK_STR(text, "hel");
    CHECK_EQ(read(ends[0], text, sizeof text), 8);
    CHECK_STR(text, "lo world");
}

TEST(ends_are_one_way) {
    int ends[2];
    char byte;
    new_pipe(ends, 0);
    CHECK_ERR(write(ends[0], "x", 1), EBADF);
    CHECK_ERR(read(ends[1], &byte, 1), EBADF);
    CHECK_EQ(fcntl(ends[0], F_GETFL) & O_ACCMODE, O_RDONLY);
    CHECK_EQ(fcntl(ends[1], F_GETFL) & O_ACCMODE, O_WRONLY);
}

TEST(pipe2_flags) {
    int ends[2];
    new_pipe(ends, O_CLOEXEC | O_NONBLOCK);
    CHECK_EQ(fcntl(ends[0], F_GETFD), FD_CLOEXEC);
    CHECK(fcntl(ends[1], F_GETFL) & O_NONBLOCK);
    CHECK_ERR(pipe2(ends, O_APPEND), EINVAL);
    CHECK_ERR(syscall(SYS_pipe2, BAD, 0), EFAULT);
}

TEST(end_of_file_after_the_last_writer) {
    int ends[2];
    char byte;
    new_pipe(ends, 0);
    int copy = CHECK_OK(dup(ends[1]));
    CHECK_EQ(write(copy, "x", 1), 1);
    close(ends[1]);
    close(copy);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
}

TEST(reader_wakes_at_end_of_file) {
    int ends[2];
    new_pipe(ends, 0);
    pid_t pid = CHILD({
        char byte;
        close(ends[1]);
        CHECK_EQ(read(ends[0], &byte, 1), 0);
    });
    settle();
    close(ends[1]);
    CHECK_EXIT(pid, 0);
}

TEST(write_without_readers_is_epipe) {
    int ends[2];
    new_pipe(ends, 0);
    close(ends[0]);
    CHECK_KILLED(CHILD({ write(ends[1], "x", 1); }), SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERR(write(ends[1], "x", 1), EPIPE);
    CHECK_EQ(write(ends[1], "x", 0), 0);
}

TEST(blocked_writer_gets_epipe) {
    int ends[2];
    new_pipe(ends, 0);
    fill(ends[1]);
    pid_t pid = CHILD({
        signal(SIGPIPE, SIG_IGN);
        close(ends[0]);
        CHECK_ERR(write(ends[1], "x", 1), EPIPE);
    });
    settle();
    close(ends[0]);
    CHECK_EXIT(pid, 0);
}

TEST(nonblocking_ends) {
    int ends[2];
    char byte;
    new_pipe(ends, O_NONBLOCK);
    CHECK_ERR(read(ends[0], &byte, 1), EAGAIN);
    while (write(ends[1], block, 4096) > 0) {
    }
    CHECK_EQ(errno, EAGAIN);
    close(ends[1]);
    while (read(ends[0], block, sizeof block) > 0) {
    }
    CHECK_EQ(read(ends[0], &byte, 1), 0);
}

TEST(default_capacity_is_64_kib) {
    int ends[2];
    new_pipe(ends, 0);
    CHECK_EQ(fcntl(ends[1], F_GETPIPE_SZ), 65536);
    CHECK_EQ(fcntl(ends[0], F_GETPIPE_SZ), 65536);
    CHECK_EQ(fill(ends[1]), 65536);
}

TEST(capacity_can_be_set) {
    int ends[2];
    new_pipe(ends, 0);
    CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, 5000), 8192);
    CHECK_EQ(fcntl(ends[0], F_GETPIPE_SZ), 8192);
    CHECK_EQ(fill(ends[1]), 8192);
    CHECK_ERR(fcntl(ends[1], F_SETPIPE_SZ, 4096), EBUSY);
    CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, 1 << 18), 1 << 18);
    CHECK_EQ(fill(ends[1]), (1 << 18) - 8192);
    CHECK_ERR(fcntl(ends[1], F_SETPIPE_SZ, 0x80000001U), EINVAL);
    CHECK_ERR(fcntl(1000, F_GETPIPE_SZ), EBADF);
    int file = CHECK_OK(open("/", O_RDONLY));
    CHECK_ERR(fcntl(file, F_GETPIPE_SZ), EBADF);
}

TEST(small_writes_are_atomic) {
    /* A write of at most PIPE_BUF bytes is done whole or not at all. */
    int ends[2];
    new_pipe(ends, O_NONBLOCK);
    CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
    CHECK_EQ(write(ends[1], block, 1000), 1000);
    CHECK_ERR(write(ends[1], block, 4096), EAGAIN);
    /* A larger one may be done in part. */
    new_pipe(ends, O_NONBLOCK);
    CHECK_EQ(write(ends[1], block, 1000), 1000);
    ssize_t count = write(ends[1], block, 100000);
    CHECK(count > 0 && count < 65536);
}

TEST(large_write_blocks_until_all_is_written) {
    int ends[2];
    new_pipe(ends, 0);
    pid_t pid = CHILD({
        for (size_t index = 0; index < sizeof block; index++) {
            block[index] = (char)(index * 7);
        }
        CHECK_EQ(write(ends[1], block, 300000), 300000);
    });
    close(ends[1]);
    size_t total = 0;
    static char part[5000];
    ssize_t count;
    while ((count = CHECK_OK(read(ends[0], part, sizeof part))) > 0) {
        for (ssize_t index = 0; index < count; index++) {
            CHECK_EQ(part[index], (char)((total + index) * 7));
        }
        total += count;
    }
    CHECK_EQ(total, 300000);
    CHECK_EXIT(pid, 0);
}

TEST(fionread_counts) {
    int ends[2], available = -1;
    new_pipe(ends, 0);
    CHECK_OK(ioctl(ends[0], FIONREAD, &available));
    CHECK_EQ(available, 0);
    CHECK_EQ(write(ends[1], "12345", 5), 5);
    CHECK_OK(ioctl(ends[0], FIONREAD, &available));
    CHECK_EQ(available, 5);
    CHECK_OK(ioctl(ends[1], FIONREAD, &available));
    CHECK_EQ(available, 5);
    CHECK_ERR(ioctl(ends[0], 0x5401 /* TCGETS */, block), ENOTTY);
}

TEST(fionbio_sets_nonblocking) {
    int ends[2], on = 1;
    char byte;
    new_pipe(ends, 0);
    CHECK_OK(ioctl(ends[0], FIONBIO, &on));
    CHECK_ERR(read(ends[0], &byte, 1), EAGAIN);
    CHECK(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
}

TEST(packet_mode_keeps_boundaries) {
    int ends[2];
    char text[16] = {0};
    new_pipe(ends, O_DIRECT);
    CHECK_EQ(write(ends[1], "abcdef", 6), 6);
    CHECK_EQ(write(ends[1], "xyz", 3), 3);
    CHECK_EQ(read(ends[0], text, 2), 2);
    CHECK_EQ(read(ends[0], text, sizeof text), 3);
    CHECK(!memcmp(text, "xyz", 3));
}

TEST(position_calls_are_espipe) {
    int ends[2];
    char byte;
    new_pipe(ends, 0);
    CHECK_ERR(lseek(ends[0], 0, SEEK_CUR), ESPIPE);
    CHECK_ERR(pread(ends[0], &byte, 1, 0), ESPIPE);
    CHECK_ERR(pwrite(ends[1], &byte, 1, 0), ESPIPE);
    CHECK_ERR(ftruncate(ends[1], 0), EINVAL);
    CHECK_ERR(fsync(ends[1]), EINVAL);
    CHECK_ERR(fallocate(ends[1], 0, 0, 10), ESPIPE);
}

TEST(fstat_says_fifo) {
    int ends[2];
    struct stat status, other;
    new_pipe(ends, 0);
    CHECK_OK(fstat(ends[0], &status));
    CHECK_OK(fstat(ends[1], &other));
    CHECK(S_ISFIFO(status.st_mode));
    CHECK_EQ(status.st_mode & 07777, 0600);
    CHECK_EQ(status.st_ino, other.st_ino);
    CHECK_EQ(status.st_uid, geteuid());
}

TEST(poll_states) {
    int ends[2];
    new_pipe(ends, 0);
    struct pollfd polls[2] = {{ends[0], POLLIN | POLLOUT, 0}, {ends[1], POLLIN | POLLOUT, 0}};
    CHECK_EQ(poll(polls, 2, 0), 1);
    CHECK_EQ(polls[0].revents, 0);
    CHECK_EQ(polls[1].revents, POLLOUT);
    fill(ends[1]);
    CHECK_EQ(poll(polls, 2, 0), 1);
    CHECK_EQ(polls[0].revents, POLLIN);
    CHECK_EQ(polls[1].revents, 0);
    close(ends[0]);
    CHECK_EQ(poll(&polls[1], 1, 0), 1);
    CHECK(polls[1].revents & POLLERR);
    new_pipe(ends, 0);
    polls[0].fd = ends[0];
    close(ends[1]);
    CHECK_EQ(poll(polls, 1, 0), 1);
    CHECK_EQ(polls[0].revents, POLLHUP);
}

TEST(readv_and_writev) {
    int ends[2];
    char first[3], second[8] = {0};
    new_pipe(ends, 0);
    struct iovec out[] = {{"ab", 2}, {NULL, 0}, {"cdef", 4}};
    struct iovec in[] = {{first, 3}, {second, 8}};
    CHECK_EQ(writev(ends[1], out, 3), 6);
    CHECK_EQ(readv(ends[0], in, 2), 6);
    CHECK(!memcmp(first, "abc", 3));
    CHECK_STR(second, "def");
}

TEST(bad_buffers_are_efault) {
    int ends[2];
    new_pipe(ends, 0);
    CHECK_ERR(write(ends[1], BAD, 10), EFAULT);
    CHECK_EQ(write(ends[1], "abc", 3), 3);
    CHECK_ERR(read(ends[0], BAD, 10), EFAULT);
    char text[4] = {0};
    CHECK_EQ(read(ends[0], text, 3), 3);
    CHECK_STR(text, "abc");
}

TEST(zero_length_read_does_not_block) {
    int ends[2];
    new_pipe(ends, 0);
    CHECK_EQ(read(ends[0], block, 0), 0);
}

/* --- FIFOs --- */

TEST(fifo_connects_reader_and_writer) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    pid_t pid = CHILD({
        int fd = CHECK_OK(open("fifo", O_WRONLY));
        CHECK_EQ(write(fd, "hello", 5), 5);
    });
    int fd = CHECK_OK(open("fifo", O_RDONLY));
    char text[8] = {0};
    CHECK_EQ(read(fd, text, 5), 5);
    CHECK_STR(text, "hello");
    CHECK_EQ(read(fd, text, 5), 0);
    CHECK_EXIT(pid, 0);
}

/* Who waits for a reader may have written and left before that reader has found out that it was there. */
TEST(fifo_partners_meet_however_short_they_stay) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    for (int round = 0; round < 200; round++) {
        pid_t pid = CHILD({
            int fd = CHECK_OK(open("fifo", O_WRONLY));
            CHECK_EQ(write(fd, "text", 4), 4);
        });
        int fd = CHECK_OK(open("fifo", O_RDONLY));
        char text[8];
        CHECK_EQ(CHECK_OK(read(fd, text, sizeof text)), 4);
        CHECK_OK(close(fd));
        CHECK_EXIT(pid, 0);
    }
}

TEST(fifo_open_without_a_partner) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    CHECK_ERR(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
    int reader = CHECK_OK(open("fifo", O_RDONLY | O_NONBLOCK));
    char byte;
    /* No writer yet: end of file, and no hang-up in poll. */
    CHECK_EQ(read(reader, &byte, 1), 0);
    struct pollfd poll_reader = {reader, POLLIN, 0};
    CHECK_EQ(poll(&poll_reader, 1, 0), 0);
    int writer = CHECK_OK(open("fifo", O_WRONLY | O_NONBLOCK));
    CHECK_ERR(read(reader, &byte, 1), EAGAIN);
    close(writer);
    CHECK_EQ(poll(&poll_reader, 1, 0), 1);
    CHECK_EQ(poll_reader.revents, POLLHUP);
    CHECK_EQ(read(reader, &byte, 1), 0);
}

TEST(fifo_open_blocks_until_the_partner_comes) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    pid_t pid = CHILD({
        settle();
        CHECK_OK(open("fifo", O_RDONLY));
        settle();
    });
    CHECK_OK(open("fifo", O_WRONLY));
    CHECK_EXIT(pid, 0);
}

static void do_nothing(int signal UNUSED) {
}

TEST(fifo_open_is_interrupted) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    handle(SIGALRM, do_nothing, 0);
    alarm(1);
    CHECK_ERR(open("fifo", O_RDONLY), EINTR);
}

TEST(fifo_open_for_both) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    int fd = CHECK_OK(open("fifo", O_RDWR));
    char text[4] = {0};
    CHECK_EQ(write(fd, "abc", 3), 3);
    CHECK_EQ(read(fd, text, 3), 3);
    CHECK_STR(text, "abc");
    CHECK_ERR(lseek(fd, 0, SEEK_SET), ESPIPE);
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK(S_ISFIFO(status.st_mode));
}

TEST(fifo_data_lives_as_long_as_it_is_open) {
    enter_scratch();
    CHECK_OK(mkfifo("fifo", 0600));
    int fd = CHECK_OK(open("fifo", O_RDWR));
    CHECK_EQ(write(fd, "abc", 3), 3);
    int reader = CHECK_OK(open("fifo", O_RDONLY));
    CHECK_OK(unlink("fifo"));
    char text[4] = {0};
    CHECK_EQ(read(reader, text, 3), 3);
    CHECK_OK(mkfifo("fifo", 0600));
    CHECK_ERR(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
}

TEST(pipe_reopened_through_proc) {
    int ends[2];
    char path[64], byte;
    new_pipe(ends, 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    if (access(path, F_OK)) {
        SKIP("no /proc");
    }
    int writer = CHECK_OK(open(path, O_WRONLY));
    CHECK_EQ(write(writer, "x", 1), 1);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
}

TEST(o_async_sends_sigio) {
    int ends[2];
    new_pipe(ends, 0);
    sigset_t set = SIGNALS(SIGIO);
    block_signals(set);
    CHECK_OK(fcntl(ends[0], F_SETOWN, getpid()));
    CHECK_EQ(fcntl(ends[0], F_GETOWN), getpid());
    CHECK_OK(fcntl(ends[0], F_SETFL, O_ASYNC));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(sigwaitinfo(&set, NULL), SIGIO);
}

TEST(two_readers_share_the_data) {
    int ends[2];
    new_pipe(ends, 0);
    pid_t pids[2];
    for (int index = 0; index < 2; index++) {
        pids[index] = CHILD({
            char bytes[2];
            close(ends[1]);
            CHECK_EQ(read(ends[0], bytes, 1), 1);
        });
    }
    CHECK_EQ(write(ends[1], "ab", 2), 2);
    CHECK_EXIT(pids[0], 0);
    CHECK_EXIT(pids[1], 0);
}

TEST(ping_pong) {
    int there[2], back[2];
    new_pipe(there, 0);
    new_pipe(back, 0);
    pid_t pid = CHILD({
        for (int round = 0; round < 500; round++) {
            int value;
            CHECK_EQ(read(there[0], &value, sizeof value), sizeof value);
            value++;
            CHECK_EQ(write(back[1], &value, sizeof value), sizeof value);
        }
    });
    for (int round = 0; round < 500; round++) {
        int value = round;
        CHECK_EQ(write(there[1], &value, sizeof value), sizeof value);
        CHECK_EQ(read(back[0], &value, sizeof value), sizeof value);
        CHECK_EQ(value, round + 1);
    }
    CHECK_EXIT(pid, 0);
}
