// Talks to sockets of the host in the directory that is given: `stream` and `packet` echo, `datagram` collects. Or to
// whoever is at its standard streams: `echo`.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("line %d: %s (%s)\n", __LINE__, #condition, strerror(errno)); \
            exit(1); \
        } \
    } while (0)

static const char *directory;

static struct sockaddr_un address_of(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, name);
    return address;
}

static int open_socket(int type) {
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    return fd;
}

static int attempt(int fd, const char *name) {
    struct sockaddr_un address = address_of(name);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static void await(int fd, int events) {
    struct pollfd one = {.fd = fd, .events = events};
    CHECK(poll(&one, 1, 10000) == 1 && one.revents & events);
}

static void stream(void) {
    int fd = open_socket(SOCK_STREAM);
    CHECK(attempt(fd, "stream") == 0);
    CHECK(attempt(fd, "stream") == -1 && errno == EISCONN);
    struct sockaddr_un peer;
    socklen_t length = sizeof peer;
    CHECK(getpeername(fd, (struct sockaddr *)&peer, &length) == 0);
    CHECK(strcmp(peer.sun_path, address_of("stream").sun_path) == 0);
    struct ucred credentials;
    length = sizeof credentials;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0);
    CHECK(credentials.uid == 0 && credentials.gid == 0);
    char buffer[16];
    CHECK(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    CHECK(send(fd, "hello", 5, 0) == 5);
    await(fd, POLLIN);
    CHECK(recv(fd, buffer, sizeof buffer, MSG_PEEK) == 5);
    CHECK(read(fd, buffer, sizeof buffer) == 5 && memcmp(buffer, "hello", 5) == 0);
    // An epoll tells of what comes later, too, more than once.
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK(epoll_wait(epoll, &event, 1, 0) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK(write(fd, "again", 5) == 5);
        CHECK(epoll_wait(epoll, &event, 1, 10000) == 1);
        CHECK(read(fd, buffer, sizeof buffer) == 5);
        CHECK(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    }
    // Much more than fits.
    enum { SIZE = 4 << 20 };
    char *large = malloc(SIZE);
    for (int i = 0; i < SIZE; i++) {
        large[i] = (char)(i * 7 + i / 251);
    }
    pid_t child = fork();
    if (child == 0) {
        CHECK(write(fd, large, SIZE) == SIZE);
        CHECK(shutdown(fd, SHUT_WR) == 0);
        exit(0);
    }
    char *back = malloc(SIZE);
    CHECK(recv(fd, back, SIZE, MSG_WAITALL) == SIZE);
    CHECK(memcmp(large, back, SIZE) == 0);
    CHECK(read(fd, buffer, 1) == 0);
    CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    // Files stay where they are.
    int other = open_socket(SOCK_STREAM);
    CHECK(attempt(other, "stream") == 0);
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec vector = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    CHECK(sendmsg(other, &message, 0) == -1 && errno == EOPNOTSUPP);
}

static void packet(void) {
    int fd = open_socket(SOCK_SEQPACKET);
    CHECK(attempt(fd, "packet") == 0);
    char buffer[4];
    CHECK(send(fd, "one", 3, 0) == 3 && send(fd, "second", 6, 0) == 6);
    CHECK(recv(fd, buffer, sizeof buffer, 0) == 3);
    CHECK(recv(fd, buffer, sizeof buffer, MSG_TRUNC) == 6);
}

static void datagram(void) {
    struct sockaddr_un address = address_of("datagram");
    int fd = open_socket(SOCK_DGRAM);
    CHECK(sendto(fd, "sent", 4, 0, (struct sockaddr *)&address, sizeof address) == 4);
    CHECK(attempt(fd, "datagram") == 0);
    CHECK(send(fd, "connected", 9, 0) == 9);
    CHECK(connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)) == 0);
    CHECK(send(fd, "x", 1, 0) == -1 && errno == ENOTCONN);
}

// Echoes standard input, for which it waits by epoll.
static void echo(void) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event) == 0);
    for (;;) {
        char buffer[64];
        CHECK(epoll_wait(epoll, &event, 1, 10000) == 1);
        ssize_t count = read(0, buffer, sizeof buffer);
        CHECK(count >= 0);
        if (count == 0) {
            return;
        }
        CHECK(write(1, buffer, (size_t)count) == count);
    }
}

static void refused(const char *name, int error) {
    int fd = open_socket(SOCK_STREAM);
    CHECK(attempt(fd, name) == -1 && errno == error);
    close(fd);
}

int main(int argc, char **argv) {
    directory = argv[1];
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "stream") == 0) {
            stream();
        } else if (strcmp(argv[i], "packet") == 0) {
            packet();
        } else if (strcmp(argv[i], "datagram") == 0) {
            datagram();
        } else if (strcmp(argv[i], "echo") == 0) {
            echo();
        } else if (strcmp(argv[i], "refused") == 0) {
            refused(argv[++i], ECONNREFUSED);
        } else if (strcmp(argv[i], "denied") == 0) {
            refused(argv[++i], EACCES);
        } else if (strcmp(argv[i], "missing") == 0) {
            refused(argv[++i], ENOENT);
        } else if (strcmp(argv[i], "wrong") == 0) {
            refused(argv[++i], EPROTOTYPE);
        }
    }
    puts("talked");
    return argc > 1 ? 0 : 1;
}
