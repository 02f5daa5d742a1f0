/* Transfers in several pieces: readv, writev and their kin, messages, and the sets of select. */
#include "test.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { PAGE = 4096 };

/* A page that can be used, one that can only be read, and one that is not there. */
static char *three_pages(void) {
    char *pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK_OK(mprotect(pages + PAGE, PAGE, PROT_READ));
    CHECK_OK(munmap(pages + 2 * PAGE, PAGE));
    return pages;
}

/* Makes the call often: where it comes from is patched, and the platform gets to know it. */
enum { ROUNDS = 40 };

static int new_file(const char *text) {
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    CHECK_EQ(pwrite(fd, text, strlen(text), 0), (ssize_t)strlen(text));
    return fd;
}

TEST(pieces_of_a_file) {
    enter_scratch();
    for (int round = 0; round < ROUNDS; round++) {
        int fd = new_file("0123456789");
        char a[5] = "____", b[5] = "____", c[9] = "________";
        struct iovec in[] = {{a, 3}, {b, 0}, {b, 4}, {NULL, 0}, {c, 8}};
        CHECK_EQ(readv(fd, in, 5), 10);
        CHECK_STR(a, "012_");
        CHECK_STR(b, "3456");
        CHECK_STR(c, "789_____");
        CHECK_EQ(readv(fd, in, 5), 0);
        CHECK_EQ(preadv(fd, in, 3, 8), 2);
        CHECK_STR(a, "892_");
        CHECK_EQ(preadv(fd, in, 3, 100), 0);
        struct iovec out[] = {{"ab", 2}, {"", 0}, {"cde", 3}};
        CHECK_EQ(writev(fd, out, 3), 5);
        CHECK_EQ(pwritev(fd, out, 3, 1), 5);
        char text[32];
        get_file("file", text, sizeof text);
        CHECK_STR(text, "0abcde6789abcde");
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 15);
        CHECK_EQ(readv(fd, in, 0), 0);
        CHECK_EQ(writev(fd, out, 0), 0);
        close(fd);
    }
}

/* The later piece is what counts where two overlap. */
TEST(pieces_that_overlap) {
    enter_scratch();
    int fd = new_file("abcdefgh");
    for (int round = 0; round < ROUNDS; round++) {
        char text[8] = "-------";
        struct iovec in[] = {{text, 4}, {text + 2, 4}};
        CHECK_EQ(preadv(fd, in, 2, 0), 8);
        CHECK_STR(text, "abefgh-");
        struct iovec out[] = {{text, 3}, {text + 1, 3}};
        CHECK_EQ(pwritev(fd, out, 2, 100), 6);
        char back[7] = "";
        CHECK_EQ(pread(fd, back, 6, 100), 6);
        CHECK_STR(back, "abebef");
    }
}

TEST(pieces_of_a_file_end_where_memory_does) {
    enter_scratch();
    char *pages = three_pages();
    for (int round = 0; round < ROUNDS; round++) {
        int fd = new_file("0123456789");
        struct iovec in[] = {{pages, 3}, {pages + PAGE, 3}, {pages + 8, 2}};
        CHECK_EQ(preadv(fd, in, 3, 0), 3);
        CHECK_EQ(readv(fd, in, 3), 3);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
        CHECK_ERR(preadv(fd, in + 1, 2, 0), EFAULT);
        CHECK_ERR(readv(fd, in + 1, 2), EFAULT);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
        struct iovec across[] = {{pages, 2}, {pages + PAGE - 3, 6}};
        CHECK_EQ(preadv(fd, across, 2, 0), 5);
        CHECK_EQ(memcmp(pages + PAGE - 3, "234", 3), 0);
        /* It can be read, and what follows cannot. */
        struct iovec out[] = {{"ab", 2}, {pages + 2 * PAGE - 2, 4}, {"cd", 2}};
        CHECK_EQ(pwritev(fd, out, 2, 20), 4);
        CHECK_ERR(writev(fd, (struct iovec[]){{pages + 2 * PAGE, 4}, {"cd", 2}}, 2), EFAULT);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
        close(fd);
    }
}

TEST(pieces_of_a_pipe) {
    int ends[2];
    CHECK_OK(pipe2(ends, O_NONBLOCK));
    char *pages = three_pages();
    for (int round = 0; round < ROUNDS; round++) {
        char a[4] = "", b[8] = "";
        struct iovec out[] = {{"12", 2}, {"", 0}, {"3456", 4}}, in[] = {{a, 3}, {b, 7}};
        CHECK_EQ(writev(ends[1], out, 3), 6);
        CHECK_EQ(readv(ends[0], in, 2), 6);
        CHECK_STR(a, "123");
        CHECK_STR(b, "456");
        CHECK_ERR(readv(ends[0], in, 2), EAGAIN);
        struct iovec nowhere[] = {{pages + 2 * PAGE, 4}, {"cd", 2}};
        CHECK_ERR(writev(ends[1], nowhere, 2), EFAULT);
        CHECK_EQ(writev(ends[1], out, 3), 6);
        struct iovec read_only[] = {{pages + PAGE, 2}, {a, 2}};
        CHECK_ERR(readv(ends[0], read_only, 2), EFAULT);
        char rest[8] = "";
        while (read(ends[0], rest, sizeof rest) > 0) {
        }
    }
}

TEST(as_many_pieces_as_there_may_be) {
    enter_scratch();
    static char bytes[IOV_MAX], back[IOV_MAX];
    static struct iovec vectors[IOV_MAX + 1];
    int fd = new_file("");
    for (int i = 0; i < IOV_MAX; i++) {
        bytes[i] = (char)i;
        vectors[i] = (struct iovec){bytes + i, 1};
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int count = 60; count <= IOV_MAX; count += count < 70 ? 1 : 477) {
            CHECK_EQ(pwritev(fd, vectors, count, 0), count);
            memset(back, 0, sizeof back);
            struct iovec to[IOV_MAX];
            for (int i = 0; i < count; i++) {
                to[i] = (struct iovec){back + i, 1};
            }
            CHECK_EQ(preadv(fd, to, count, 0), count);
            CHECK_EQ(memcmp(back, bytes, count), 0);
        }
    }
    CHECK_ERR(preadv(fd, vectors, IOV_MAX + 1, 0), EINVAL);
    CHECK_ERR(writev(fd, vectors, IOV_MAX + 1), EINVAL);
    CHECK_ERR(readv(fd, BAD, 2), EFAULT);
    vectors[1].iov_len = (size_t)-1;
    CHECK_ERR(readv(fd, vectors, 2), EINVAL);
}

/* Larger than what goes through one buffer. */
TEST(large_pieces) {
    enter_scratch();
    enum { SIZE = 100000 };
    static char bytes[2 * SIZE], back[2 * SIZE];
    for (int i = 0; i < 2 * SIZE; i++) {
        bytes[i] = (char)(i * 7 + i / 256);
    }
    int fd = new_file("");
    for (int split = 1; split < 2 * SIZE; split += 39999) {
        struct iovec out[] = {{bytes, split}, {bytes + split, 2 * SIZE - split}};
        CHECK_EQ(pwritev(fd, out, 2, 0), 2 * SIZE);
        memset(back, 0, sizeof back);
        struct iovec in[] = {{back, 2 * SIZE - split}, {back + 2 * SIZE - split, split}};
        CHECK_EQ(preadv(fd, in, 2, 0), 2 * SIZE);
        CHECK_EQ(memcmp(bytes, back, 2 * SIZE), 0);
    }
}

/* The array itself may lie at the end of memory, or be one of the pieces. */
TEST(arrays_anywhere) {
    enter_scratch();
    char *pages = three_pages();
    int fd = new_file("0123456789");
    for (int round = 0; round < ROUNDS; round++) {
        struct iovec *last = (struct iovec *)(pages + PAGE - 2 * sizeof *last);
        last[0] = (struct iovec){pages, 2};
        last[1] = (struct iovec){pages + 2, 3};
        CHECK_EQ(preadv(fd, last, 2, 1), 5);
        CHECK_EQ(memcmp(pages, "12345", 5), 0);
        last[1] = (struct iovec){last, 4};
        CHECK_EQ(preadv(fd, last, 2, 0), 6);
        CHECK_EQ(memcmp(last, "2345", 4), 0);
    }
}

TEST(messages_of_several_pieces) {
    int ends[2];
    CHECK_OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    char *pages = three_pages();
    for (int round = 0; round < ROUNDS; round++) {
        char a[4] = "", b[8] = "", sender[16];
        struct iovec out[] = {{"12", 2}, {"3456", 4}}, in[] = {{a, 3}, {b, 7}};
        struct msghdr to = {.msg_iov = out, .msg_iovlen = 2};
        struct msghdr from = {.msg_iov = in, .msg_iovlen = 2, .msg_name = sender, .msg_namelen = sizeof sender};
        CHECK_EQ(sendmsg(ends[1], &to, 0), 6);
        CHECK_EQ(recvmsg(ends[0], &from, 0), 6);
        CHECK_STR(a, "123");
        CHECK_STR(b, "456");
        CHECK_EQ(from.msg_flags & ~MSG_EOR, 0);
        CHECK_EQ(from.msg_controllen, 0);
        in[1].iov_len = 1;
        CHECK_EQ(sendmsg(ends[1], &to, 0), 6);
        CHECK_EQ(recvmsg(ends[0], &from, 0), 4);
        CHECK_EQ(from.msg_flags & MSG_TRUNC, MSG_TRUNC);
        /* What is received is not told: the header cannot be written. */
        struct msghdr *fixed = (struct msghdr *)(pages + PAGE);
        CHECK_OK(mprotect(pages + PAGE, PAGE, PROT_READ | PROT_WRITE));
        *fixed = (struct msghdr){.msg_iov = in, .msg_iovlen = 2};
        CHECK_OK(mprotect(pages + PAGE, PAGE, PROT_READ));
        CHECK_EQ(sendmsg(ends[1], &to, 0), 6);
        CHECK_ERR(recvmsg(ends[0], fixed, 0), EFAULT);
        CHECK_ERR(recvmsg(ends[0], &from, MSG_DONTWAIT), EAGAIN);
        struct iovec nowhere[] = {{"12", 2}, {pages + 2 * PAGE, 2}};
        to.msg_iov = nowhere;
        CHECK_ERR(sendmsg(ends[1], &to, 0), EFAULT);
        CHECK_ERR(sendmsg(ends[1], BAD, 0), EFAULT);
        CHECK_ERR(recvmsg(ends[0], &from, MSG_DONTWAIT), EAGAIN);
    }
}

TEST(several_messages) {
    int ends[2];
    CHECK_OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    for (int round = 0; round < ROUNDS; round++) {
        char text[3][4] = {"ab", "cd", "ef"}, back[3][4] = {"", "", ""};
        struct mmsghdr out[3] = {0}, in[3] = {0};
        struct iovec vectors[6];
        for (int i = 0; i < 3; i++) {
            vectors[i] = (struct iovec){text[i], 2};
            vectors[3 + i] = (struct iovec){back[i], 3};
            out[i].msg_hdr = (struct msghdr){.msg_iov = vectors + i, .msg_iovlen = 1};
            in[i].msg_hdr = (struct msghdr){.msg_iov = vectors + 3 + i, .msg_iovlen = 1};
        }
        CHECK_EQ(sendmmsg(ends[1], out, 3, 0), 3);
        CHECK_EQ(recvmmsg(ends[0], in, 3, 0, NULL), 3);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(in[i].msg_len, 2);
            CHECK_STR(back[i], text[i]);
        }
    }
}

/* --- select and poll --- */

/* Without the library, which keeps the time in a variable of its own. */
static long host_select(int count, fd_set *in, fd_set *out, fd_set *other, struct timeval *time) {
    return syscall(SYS_select, count, in, out, other, time);
}

TEST(sets_and_times_in_memory_of_all_kinds) {
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    char *pages = three_pages();
    int count = ends[1] + 1;
    for (int round = 0; round < ROUNDS; round++) {
        fd_set in, out, other;
        struct timeval time = {5, 0};
        FD_ZERO(&in);
        FD_ZERO(&out);
        FD_ZERO(&other);
        FD_SET(ends[0], &in);
        FD_SET(ends[1], &in);
        FD_SET(ends[1], &out);
        FD_SET(ends[0], &other);
        CHECK_EQ(host_select(count, &in, &out, &other, &time), 2);
        CHECK(FD_ISSET(ends[0], &in) && !FD_ISSET(ends[1], &in) && FD_ISSET(ends[1], &out) && !FD_ISSET(ends[0], &other));
        CHECK(time.tv_sec == 4 || (time.tv_sec == 5 && time.tv_usec == 0));
        CHECK_EQ(host_select(count, &in, NULL, NULL, NULL), 1);
        CHECK_EQ(host_select(count, NULL, &out, NULL, NULL), 1);
        CHECK_EQ(host_select(count, &in, &out, NULL, NULL), 2);
        CHECK_EQ(host_select(0, &in, &out, NULL, &(struct timeval){0, 0}), 0);
        CHECK_ERR(host_select(count, &in, BAD, NULL, NULL), EFAULT);
        CHECK_ERR(host_select(count, &in, &out, NULL, BAD), EFAULT);
        /* What is found cannot be told. */
        fd_set *fixed = (fd_set *)(pages + PAGE);
        CHECK_OK(mprotect(pages + PAGE, PAGE, PROT_READ | PROT_WRITE));
        FD_ZERO(fixed);
        FD_SET(ends[0], fixed);
        struct timeval *still = (struct timeval *)(pages + PAGE + 512);
        *still = (struct timeval){5, 0};
        struct timespec *fine = (struct timespec *)(pages + PAGE + 600);
        *fine = (struct timespec){5, 0};
        CHECK_OK(mprotect(pages + PAGE, PAGE, PROT_READ));
        CHECK_ERR(host_select(count, fixed, NULL, NULL, NULL), EFAULT);
        CHECK_ERR(host_select(count, fixed, &out, NULL, NULL), EFAULT);
        /* What is left of the time need not be. */
        CHECK_EQ(host_select(count, &in, NULL, NULL, still), 1);
        CHECK_EQ(still->tv_sec, 5);
        struct pollfd entry = {ends[0], POLLIN, 0};
        CHECK_EQ(syscall(SYS_ppoll, &entry, 1, fine, NULL, 8), 1);
        CHECK_EQ(entry.revents, POLLIN);
        CHECK_EQ(fine->tv_sec, 5);
        struct pollfd *unwritable = (struct pollfd *)(pages + PAGE + 1000);
        CHECK_ERR(syscall(SYS_ppoll, unwritable, 1, &(struct timespec){0, 0}, NULL, 8), EFAULT);
        struct timespec left = {5, 0};
        CHECK_EQ(syscall(SYS_ppoll, &entry, 1, &left, NULL, 8), 1);
        CHECK(left.tv_sec == 4 || (left.tv_sec == 5 && left.tv_nsec == 0));
        CHECK_EQ(syscall(SYS_pselect6, count, &in, NULL, NULL, &left, NULL), 1);
        CHECK_EQ(left.tv_sec, 4);
    }
}
