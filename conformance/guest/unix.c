/* Sockets of the AF_UNIX family. */
#include "test.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

static void pair(int type, int ends[2]) {
    CHECK_OK(socketpair(AF_UNIX, type, 0, ends));
}

static struct sockaddr_un path_name(const char *path, socklen_t *length) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path, path);
    *length = offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
    return name;
}

/* A name in the abstract space that no other run uses. */
static struct sockaddr_un abstract_name(socklen_t *length) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int count = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "conformance-%d", getpid());
    *length = offsetof(struct sockaddr_un, sun_path) + 1 + count;
    return name;
}

static int bound(int type, const char *path) {
    socklen_t length;
    struct sockaddr_un name = path_name(path, &length);
    int fd = CHECK_OK(socket(AF_UNIX, type, 0));
    CHECK_OK(bind(fd, (void *)&name, length));
    return fd;
}

static int connect_to(int fd, const char *path) {
    socklen_t length;
    struct sockaddr_un name = path_name(path, &length);
    return connect(fd, (void *)&name, length);
}

TEST(stream_pair_carries_bytes_both_ways) {
    int ends[2];
    char text[16] = {0};
    pair(SOCK_STREAM, ends);
    CHECK_EQ(write(ends[0], "hello ", 6), 6);
    CHECK_EQ(send(ends[0], "world", 5, 0), 5);
    CHECK_EQ(recv(ends[1], text, sizeof text, 0), 11);
    CHECK_STR(text, "hello world");
    CHECK_EQ(write(ends[1], "back", 4), 4);
    CHECK_EQ(read(ends[0], text, 4), 4);
    CHECK(!memcmp(text, "back", 4));
}

TEST(datagram_pair_keeps_boundaries) {
    int ends[2];
    char text[16] = {0};
    pair(SOCK_DGRAM, ends);
    CHECK_EQ(write(ends[0], "first", 5), 5);
    CHECK_EQ(write(ends[0], "", 0), 0);
    CHECK_EQ(write(ends[0], "second", 6), 6);
    CHECK_EQ(recv(ends[1], text, 3, 0), 3);
    CHECK_STR(text, "fir");
    CHECK_EQ(recv(ends[1], text, sizeof text, 0), 0);
    CHECK_EQ(recv(ends[1], text, sizeof text, 0), 6);
}

/* Again and again from one place, with the bytes far below the name. */
TEST(datagrams_go_to_a_name) {
    enter_scratch();
    static char bytes[64];
    socklen_t length;
    int receiver = bound(SOCK_DGRAM, "name"), sender = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un name = path_name("name", &length);
    for (int i = 0; i < 3000; i++) {
        int number = -1;
        memcpy(bytes + i % 32, &i, sizeof i);
        CHECK_EQ(sendto(sender, bytes + i % 32, sizeof i, 0, (void *)&name, length), sizeof i);
        CHECK_EQ(recv(receiver, &number, sizeof number, 0), sizeof number);
        CHECK_EQ(number, i);
    }
}

TEST(seqpacket_pair_keeps_boundaries_and_ends) {
    int ends[2];
    char text[16];
    pair(SOCK_SEQPACKET, ends);
    CHECK_EQ(write(ends[0], "one", 3), 3);
    CHECK_EQ(write(ends[0], "two", 3), 3);
    CHECK_EQ(recv(ends[1], text, sizeof text, 0), 3);
    close(ends[0]);
    CHECK_EQ(recv(ends[1], text, sizeof text, 0), 3);
    CHECK_EQ(recv(ends[1], text, sizeof text, 0), 0);
}

TEST(socket_arguments) {
    int ends[2];
    CHECK_ERR(socket(AF_UNIX, 77, 0), EINVAL);
    CHECK_ERR(socket(77, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK_ERR(socket(AF_UNIX, SOCK_STREAM, 5), EPROTONOSUPPORT);
    CHECK_ERR(socketpair(AF_UNIX, SOCK_STREAM | 0x100, 0, ends), EINVAL);
    int fd = CHECK_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK_ERR(bind(1000, NULL, 0), EBADF);
    CHECK_ERR(listen(CHECK_OK(open("/", O_RDONLY)), 1), ENOTSOCK);
    CHECK_ERR(lseek(fd, 0, SEEK_CUR), ESPIPE);
}

TEST(listen_accept_connect) {
    enter_scratch();
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_ERR(connect_to(CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), "socket"), ECONNREFUSED);
    CHECK_OK(listen(listener, 5));
    int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_OK(connect_to(client, "socket"));
    CHECK_ERR(connect_to(client, "socket"), EISCONN);
    CHECK_EQ(write(client, "early", 5), 5);
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    int server = CHECK_OK(accept4(listener, (void *)&name, &length, SOCK_CLOEXEC));
    CHECK_EQ(length, sizeof(sa_family_t));
    CHECK_EQ(name.sun_family, AF_UNIX);
    CHECK_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
    char text[8] = {0};
    CHECK_EQ(read(server, text, 8), 5);
    CHECK_STR(text, "early");
    length = sizeof name;
    CHECK_OK(getpeername(client, (void *)&name, &length));
    CHECK_STR(name.sun_path, "socket");
    CHECK_EQ(length, offsetof(struct sockaddr_un, sun_path) + 7);
    length = sizeof name;
    CHECK_OK(getsockname(server, (void *)&name, &length));
    CHECK_STR(name.sun_path, "socket");
}

TEST(accept_waits_for_a_client) {
    enter_scratch();
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_OK(listen(listener, 5));
    pid_t pid = CHILD({
        settle();
        int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
        CHECK_OK(connect_to(client, "socket"));
        CHECK_EQ(write(client, "x", 1), 1);
    });
    int server = CHECK_OK(accept(listener, NULL, NULL));
    char byte;
    CHECK_EQ(read(server, &byte, 1), 1);
    CHECK_EXIT(pid, 0);
    CHECK_OK(fcntl(listener, F_SETFL, O_NONBLOCK));
    CHECK_ERR(accept(listener, NULL, NULL), EAGAIN);
    CHECK_ERR(accept(server, NULL, NULL), EINVAL);
}

TEST(backlog_limits_pending_connections) {
    enter_scratch();
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_OK(listen(listener, 1));
    int connected = 0;
    for (int index = 0; index < 5; index++) {
        int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
        if (connect_to(client, "socket") == 0) {
            connected++;
        } else {
            CHECK_EQ(errno, EAGAIN);
        }
    }
    CHECK_EQ(connected, 2);
}

TEST(bind_makes_a_file) {
    enter_scratch();
    umask(022);
    bound(SOCK_STREAM, "socket");
    struct stat status;
    CHECK_OK(lstat("socket", &status));
    CHECK(S_ISSOCK(status.st_mode));
    CHECK_EQ(status.st_mode & 07777, 0755);
    socklen_t length;
    struct sockaddr_un name = path_name("socket", &length);
    int fd = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(bind(fd, (void *)&name, length), EADDRINUSE);
    name = path_name("missing/socket", &length);
    CHECK_ERR(bind(fd, (void *)&name, length), ENOENT);
    CHECK_ERR(open("socket", O_RDWR), ENXIO);
    CHECK_OK(unlink("socket"));
    CHECK_ERR(connect_to(fd, "socket"), ENOENT);
    put_file("file", "x", 0666);
    CHECK_ERR(connect_to(fd, "file"), ECONNREFUSED);
}

TEST(abstract_names) {
    socklen_t length;
    struct sockaddr_un name = abstract_name(&length), seen;
    int listener = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(connect(client, (void *)&name, length), ECONNREFUSED);
    CHECK_OK(bind(listener, (void *)&name, length));
    CHECK_ERR(bind(client, (void *)&name, length), EADDRINUSE);
    CHECK_OK(listen(listener, 1));
    CHECK_OK(connect(client, (void *)&name, length));
    socklen_t seen_length = sizeof seen;
    CHECK_OK(getpeername(client, (void *)&seen, &seen_length));
    CHECK_EQ(seen_length, length);
    CHECK(!memcmp(&seen, &name, length));
    close(listener);
    int again = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_OK(bind(again, (void *)&name, length));
}

TEST(autobind) {
    int fd = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    sa_family_t family = AF_UNIX;
    CHECK_OK(bind(fd, (void *)&family, sizeof family));
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    CHECK_OK(getsockname(fd, (void *)&name, &length));
    CHECK_EQ(length, offsetof(struct sockaddr_un, sun_path) + 6);
    CHECK_EQ(name.sun_path[0], 0);
}

TEST(bind_errors) {
    struct sockaddr_un name = {.sun_family = AF_INET};
    int fd = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(bind(fd, (void *)&name, sizeof name), EINVAL);
    name.sun_family = AF_UNIX;
    CHECK_ERR(bind(fd, (void *)&name, 200), EINVAL);
    CHECK_ERR(listen(fd, 5), EINVAL);
    CHECK_ERR(accept(fd, NULL, NULL), EINVAL);
    CHECK_ERR(write(fd, "x", 1), ENOTCONN);
    char byte;
    CHECK_ERR(read(fd, &byte, 1), EINVAL);
    socklen_t length = sizeof name;
    CHECK_ERR(getpeername(fd, (void *)&name, &length), ENOTCONN);
}

TEST(datagrams_by_name) {
    enter_scratch();
    int server = bound(SOCK_DGRAM, "server"), client = bound(SOCK_DGRAM, "client");
    socklen_t length;
    struct sockaddr_un name = path_name("server", &length), from;
    CHECK_EQ(sendto(client, "hello", 5, 0, (void *)&name, length), 5);
    char text[16] = {0};
    socklen_t from_length = sizeof from;
    CHECK_EQ(recvfrom(server, text, sizeof text, 0, (void *)&from, &from_length), 5);
    CHECK_STR(from.sun_path, "client");
    CHECK_OK(connect(client, (void *)&name, length));
    CHECK_EQ(write(client, "again", 5), 5);
    CHECK_EQ(read(server, text, sizeof text), 5);
    CHECK_ERR(listen(server, 1), EOPNOTSUPP);
    close(server);
    CHECK_ERR(write(client, "x", 1), ECONNREFUSED);
    CHECK_ERR(sendto(CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0)), "x", 1, 0, NULL, 0), ENOTCONN);
}

TEST(types_must_match) {
    enter_scratch();
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_OK(listen(listener, 1));
    CHECK_ERR(connect_to(CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0)), "socket"), EPROTOTYPE);
}

TEST(end_of_file_and_epipe) {
    int ends[2];
    char byte;
    pair(SOCK_STREAM, ends);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    close(ends[1]);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    CHECK_ERR(send(ends[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_KILLED(CHILD({ write(ends[0], "x", 1); }), SIGPIPE);
}

TEST(close_with_unread_data_resets) {
    int ends[2];
    char byte;
    pair(SOCK_STREAM, ends);
    CHECK_EQ(write(ends[0], "x", 1), 1);
    close(ends[1]);
    CHECK_ERR(read(ends[0], &byte, 1), ECONNRESET);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
}

TEST(shutdown_of_one_direction) {
    int ends[2];
    char byte;
    pair(SOCK_STREAM, ends);
    CHECK_EQ(write(ends[0], "x", 1), 1);
    CHECK_OK(shutdown(ends[0], SHUT_WR));
    CHECK_EQ(read(ends[1], &byte, 1), 1);
    CHECK_EQ(read(ends[1], &byte, 1), 0);
    CHECK_ERR(send(ends[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(write(ends[1], "y", 1), 1);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_OK(shutdown(ends[0], SHUT_RD));
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    CHECK_ERR(send(ends[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_ERR(shutdown(ends[0], 77), EINVAL);
    CHECK_OK(shutdown(CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), SHUT_RD));
}

TEST(shutdown_wakes_a_reader) {
    int ends[2];
    pair(SOCK_STREAM, ends);
    pid_t pid = CHILD({
        char byte;
        CHECK_EQ(read(ends[0], &byte, 1), 0);
    });
    settle();
    CHECK_OK(shutdown(ends[1], SHUT_WR));
    CHECK_EXIT(pid, 0);
}

TEST(receive_flags) {
    int ends[2], available;
    char text[16] = {0};
    pair(SOCK_STREAM, ends);
    CHECK_ERR(recv(ends[0], text, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_EQ(write(ends[1], "abcdef", 6), 6);
    CHECK_EQ(recv(ends[0], text, 3, MSG_PEEK), 3);
    CHECK_EQ(recv(ends[0], text, 3, MSG_PEEK), 3);
    CHECK_STR(text, "abc");
    CHECK_OK(ioctl(ends[0], FIONREAD, &available));
    CHECK_EQ(available, 6);
    pid_t pid = CHILD({
        settle();
        CHECK_EQ(write(ends[1], "ghij", 4), 4);
    });
    CHECK_EQ(recv(ends[0], text, 10, MSG_WAITALL), 10);
    CHECK_STR(text, "abcdefghij");
    CHECK_EXIT(pid, 0);
}

TEST(truncation_is_told) {
    int ends[2];
    char text[4];
    pair(SOCK_DGRAM, ends);
    struct iovec vector = {text, sizeof text};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    CHECK_EQ(write(ends[0], "1234567", 7), 7);
    CHECK_EQ(recvmsg(ends[1], &message, MSG_PEEK), 4);
    CHECK_EQ(message.msg_flags & MSG_TRUNC, MSG_TRUNC);
    CHECK_EQ(recvmsg(ends[1], &message, MSG_TRUNC), 7);
}

TEST(receive_timeout) {
    int ends[2];
    char byte;
    pair(SOCK_STREAM, ends);
    struct timeval time = {0, 20000};
    CHECK_OK(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(read(ends[0], &byte, 1), EAGAIN);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
}

TEST(full_buffer_blocks) {
    int ends[2];
    static char block[4096];
    pair(SOCK_STREAM, ends);
    CHECK_OK(fcntl(ends[0], F_SETFL, O_NONBLOCK));
    long total = 0, count;
    while ((count = write(ends[0], block, sizeof block)) > 0) {
        total += count;
    }
    CHECK_EQ(errno, EAGAIN);
    CHECK(total >= 4096);
    struct pollfd wait = {ends[0], POLLOUT, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
    while (total > 0) {
        total -= CHECK_OK(read(ends[1], block, sizeof block));
    }
    CHECK_EQ(poll(&wait, 1, 0), 1);
}

TEST(large_transfer) {
    int ends[2];
    static char data[1 << 20];
    pair(SOCK_STREAM, ends);
    pid_t pid = CHILD({
        for (size_t index = 0; index < sizeof data; index++) {
            data[index] = (char)(index % 251);
        }
        CHECK_EQ(write(ends[0], data, sizeof data), sizeof data);
    });
    close(ends[0]);
    size_t total = 0;
    ssize_t count;
    while ((count = CHECK_OK(read(ends[1], data + total, sizeof data - total))) > 0) {
        total += count;
    }
    CHECK_EQ(total, sizeof data);
    for (size_t index = 0; index < sizeof data; index++) {
        CHECK_EQ(data[index], (char)(index % 251));
    }
    CHECK_EXIT(pid, 0);
}

/* --- ancillary data --- */

static ssize_t send_fds(int socket, const int *fds, int count) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(300 * sizeof(int))];
    } control;
    struct iovec vector = {"f", 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
    return sendmsg(socket, &message, 0);
}

/* Receives descriptors, at most `room`, and returns how many came. */
static int receive_fds(int socket, int *fds, int room, int flags, int *message_flags) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(16 * sizeof(int))];
    } control;
    char byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_LEN(room * sizeof(int))};
    CHECK_EQ(recvmsg(socket, &message, flags), 1);
    *message_flags = message.msg_flags;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header) {
        return 0;
    }
    CHECK_EQ(header->cmsg_level, SOL_SOCKET);
    CHECK_EQ(header->cmsg_type, SCM_RIGHTS);
    int count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(header), count * sizeof(int));
    return count;
}

TEST(descriptors_travel) {
    int ends[2], pipe_ends[2], fds[2], flags;
    pair(SOCK_STREAM, ends);
    CHECK_OK(pipe(pipe_ends));
    pid_t pid = CHILD({
        CHECK_EQ(receive_fds(ends[1], fds, 2, 0, &flags), 2);
        CHECK_EQ(fcntl(fds[0], F_GETFD), 0);
        CHECK_EQ(write(fds[1], "through", 7), 7);
    });
    CHECK_EQ(send_fds(ends[0], pipe_ends, 2), 1);
    close(pipe_ends[1]);
    char text[16] = {0};
    CHECK_EQ(read(pipe_ends[0], text, 16), 7);
    CHECK_STR(text, "through");
    CHECK_EXIT(pid, 0);
}

TEST(descriptors_in_flight_keep_files_open) {
    int ends[2], pipe_ends[2], fd, flags;
    char byte;
    pair(SOCK_STREAM, ends);
    CHECK_OK(pipe(pipe_ends));
    CHECK_EQ(send_fds(ends[0], &pipe_ends[1], 1), 1);
    close(pipe_ends[1]);
    CHECK_OK(fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK));
    CHECK_ERR(read(pipe_ends[0], &byte, 1), EAGAIN);
    CHECK_EQ(receive_fds(ends[1], &fd, 1, MSG_CMSG_CLOEXEC, &flags), 1);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    CHECK_EQ(read(pipe_ends[0], &byte, 1), 0);
}

TEST(descriptors_nobody_receives_are_closed) {
    int ends[2], pipe_ends[2];
    char byte;
    pair(SOCK_STREAM, ends);
    CHECK_OK(pipe(pipe_ends));
    CHECK_EQ(send_fds(ends[0], &pipe_ends[1], 1), 1);
    close(pipe_ends[1]);
    CHECK_EQ(read(ends[1], &byte, 1), 1);
    CHECK_EQ(read(pipe_ends[0], &byte, 1), 0);
    CHECK_OK(pipe(pipe_ends));
    CHECK_EQ(send_fds(ends[0], &pipe_ends[1], 1), 1);
    close(pipe_ends[1]);
    close(ends[0]);
    close(ends[1]);
    CHECK_EQ(read(pipe_ends[0], &byte, 1), 0);
}

TEST(descriptors_without_room_are_cut) {
    int ends[2], fds[4] = {0, 1, 2, 1}, got[4], flags;
    pair(SOCK_STREAM, ends);
    CHECK_EQ(send_fds(ends[0], fds, 4), 1);
    CHECK_EQ(receive_fds(ends[1], got, 2, 0, &flags), 2);
    CHECK_EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
    int many[254];
    for (int index = 0; index < 254; index++) {
        many[index] = 1;
    }
    CHECK_ERR(send_fds(ends[0], many, 254), EINVAL);
    CHECK_EQ(send_fds(ends[0], many, 253), 1);
    int bad = 999;
    CHECK_ERR(send_fds(ends[0], &bad, 1), EBADF);
}

TEST(credentials_travel) {
    int ends[2], on = 1;
    pair(SOCK_DGRAM, ends);
    CHECK_OK(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    pid_t pid = CHILD({ CHECK_EQ(write(ends[0], "x", 1), 1); });
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    char byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    CHECK_EQ(recvmsg(ends[1], &message, 0), 1);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header && header->cmsg_type == SCM_CREDENTIALS);
    struct ucred credentials;
    memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
    CHECK_EQ(credentials.pid, pid);
    CHECK_EQ(credentials.uid, getuid());
    CHECK_EQ(credentials.gid, getgid());
    CHECK_EXIT(pid, 0);
}

TEST(peer_credentials) {
    enter_scratch();
    int ends[2];
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    pair(SOCK_STREAM, ends);
    CHECK_OK(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &credentials, &length));
    CHECK_EQ(credentials.pid, getpid());
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_OK(listen(listener, 5));
    struct gate done = gate_new();
    pid_t pid = CHILD({
        int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
        CHECK_OK(connect_to(client, "socket"));
        gate_wait(&done);
    });
    int server = CHECK_OK(accept(listener, NULL, NULL));
    CHECK_OK(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &credentials, &length));
    CHECK_EQ(credentials.pid, pid);
    CHECK_EQ(credentials.uid, geteuid());
    gate_open(&done);
    CHECK_EXIT(pid, 0);
}

TEST(socket_options) {
    int fd = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), value = -1;
    socklen_t length = sizeof value;
    CHECK_OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length));
    CHECK_EQ(value, SOCK_STREAM);
    CHECK_OK(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length));
    CHECK_EQ(value, AF_UNIX);
    CHECK_OK(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
    CHECK_EQ(value, 0);
    CHECK_OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &length));
    CHECK_EQ(value, 0);
    value = 10000;
    CHECK_OK(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof value));
    CHECK_OK(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, &length));
    CHECK_EQ(value, 20000);
    CHECK_ERR(getsockopt(fd, SOL_SOCKET, 7777, &value, &length), ENOPROTOOPT);
    CHECK_ERR(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &value, 1), EINVAL);
}

TEST(several_messages_at_once) {
    int ends[2];
    pair(SOCK_DGRAM, ends);
    struct iovec out[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}}, in[4];
    char texts[4][8];
    struct mmsghdr sent[3] = {0}, received[4] = {0};
    for (int index = 0; index < 3; index++) {
        sent[index].msg_hdr.msg_iov = &out[index];
        sent[index].msg_hdr.msg_iovlen = 1;
    }
    for (int index = 0; index < 4; index++) {
        in[index] = (struct iovec){texts[index], 8};
        received[index].msg_hdr.msg_iov = &in[index];
        received[index].msg_hdr.msg_iovlen = 1;
    }
    CHECK_EQ(sendmmsg(ends[0], sent, 3, 0), 3);
    CHECK_EQ(sent[2].msg_len, 3);
    CHECK_EQ(recvmmsg(ends[1], received, 4, MSG_WAITFORONE, NULL), 3);
    CHECK_EQ(received[1].msg_len, 2);
}

TEST(poll_states) {
    int ends[2];
    pair(SOCK_STREAM, ends);
    struct pollfd wait = {ends[0], POLLIN | POLLOUT | POLLRDHUP, 0};
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK_EQ(wait.revents, POLLOUT);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK_EQ(wait.revents, POLLIN | POLLOUT);
    close(ends[1]);
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK(wait.revents & POLLHUP);
    CHECK(wait.revents & POLLRDHUP);
    enter_scratch();
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_OK(listen(listener, 5));
    wait = (struct pollfd){listener, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
    CHECK_OK(connect_to(CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), "socket"));
    CHECK_EQ(poll(&wait, 1, 0), 1);
}

TEST(vectors_over_a_socket) {
    int ends[2];
    char first[2], second[8] = {0};
    pair(SOCK_STREAM, ends);
    struct iovec out[] = {{"abc", 3}, {"de", 2}}, in[] = {{first, 2}, {second, 8}};
    CHECK_EQ(writev(ends[0], out, 2), 5);
    CHECK_EQ(readv(ends[1], in, 2), 5);
    CHECK_STR(second, "cde");
}

TEST(pending_connection_survives_the_client) {
    enter_scratch();
    int listener = bound(SOCK_STREAM, "socket");
    CHECK_OK(listen(listener, 5));
    int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_OK(connect_to(client, "socket"));
    CHECK_EQ(write(client, "x", 1), 1);
    close(client);
    int server = CHECK_OK(accept(listener, NULL, NULL));
    char byte;
    CHECK_EQ(read(server, &byte, 1), 1);
    CHECK_EQ(read(server, &byte, 1), 0);
}

TEST(fstat_says_socket) {
    int ends[2];
    struct stat status;
    pair(SOCK_STREAM, ends);
    CHECK_OK(fstat(ends[0], &status));
    CHECK(S_ISSOCK(status.st_mode));
}
