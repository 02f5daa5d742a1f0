/* Who writes wakes who waits for it at once, whatever it does after that. */
#include "test.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* How often each case is tried, and how many calls go before it, one soon after the other. */
#define ROUNDS 8
#define CALLS 300
/* How many processes end, and how many answers each of them gives. */
#define PROCESSES 40
#define ANSWERS 40

struct wait {
    int ends[2];
    /* How many rounds the reader has seen, in memory of both processes. */
    volatile uint32_t *seen;
};

typedef void (*wait_function)(int fd);

static void wait_by_read(int fd UNUSED) {
}

static void wait_by_poll(int fd) {
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&wanted, 1, -1), 1);
}

static void wait_by_epoll(int fd) {
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = CHECK_OK(epoll_create1(0));
    CHECK_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1);
    CHECK_OK(close(epoll));
}

static struct wait new_wait(bool is_socket) {
    struct wait wait;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    wait.seen = page;
    CHECK_OK(is_socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, wait.ends) : pipe(wait.ends));
    return wait;
}

/* Reads a byte in each round, and says so in memory. Keeps the other end open: no writer's end ends the waiting. */
static pid_t reader(struct wait *wait, wait_function until_readable) {
    return CHILD({
        for (uint32_t round = 1; round <= ROUNDS; round++) {
            char byte;
            until_readable(wait->ends[0]);
            CHECK_EQ(read(wait->ends[0], &byte, 1), 1);
            *wait->seen = round;
        }
    });
}

/* Gives the reader the time to wait, then makes short calls, and writes. */
static void write_after_calls(struct wait *wait) {
    sleep_ms(2);
    for (int call = 0; call < CALLS; call++) {
        syscall(SYS_getppid);
    }
    CHECK_EQ(write(wait->ends[1], "x", 1), 1);
}

/* The writer makes no call until the reader has what it has written. */
static void check_computing(bool is_socket, wait_function until_readable) {
    struct wait wait = new_wait(is_socket);
    pid_t pid = reader(&wait, until_readable);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        write_after_calls(&wait);
        while (*wait.seen != round) {
        }
    }
    CHECK_EXIT(pid, 0);
}

/* Who answers ends with its last answer. Both ends stay open for the one that waits for it. */
static void check_ending(bool is_socket) {
    struct wait asked = new_wait(is_socket), answered = new_wait(is_socket);
    for (int process = 0; process < PROCESSES; process++) {
        char byte = 0;
        pid_t pid = CHILD({
            for (int answer = 0; answer < ANSWERS; answer++) {
                CHECK_EQ(read(asked.ends[0], &byte, 1), 1);
                CHECK_EQ(write(answered.ends[1], &byte, 1), 1);
            }
        });
        for (int answer = 0; answer < ANSWERS; answer++) {
            CHECK_EQ(write(asked.ends[1], &byte, 1), 1);
            CHECK_EQ(read(answered.ends[0], &byte, 1), 1);
        }
        CHECK_EXIT(pid, 0);
    }
}

/* The writer waits for something else until it is killed. */
static void check_waiting(bool is_socket) {
    struct wait wait = new_wait(is_socket);
    pid_t pid = reader(&wait, wait_by_read);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        pid_t writer = CHILD({
            write_after_calls(&wait);
            pause();
        });
        while (*wait.seen != round) {
            sleep_ms(1);
        }
        CHECK_OK(kill(writer, SIGKILL));
        CHECK_KILLED(writer, SIGKILL);
    }
    CHECK_EXIT(pid, 0);
}

TEST(pipe_writer_computes) {
    check_computing(false, wait_by_read);
}

TEST(pipe_writer_computes_and_the_reader_polls) {
    check_computing(false, wait_by_poll);
}

TEST(pipe_writer_computes_and_the_reader_waits_by_epoll) {
    check_computing(false, wait_by_epoll);
}

TEST(socket_writer_computes) {
    check_computing(true, wait_by_read);
}

TEST(socket_writer_computes_and_the_reader_polls) {
    check_computing(true, wait_by_poll);
}

TEST(pipe_writer_ends) {
    check_ending(false);
}

TEST(socket_writer_ends) {
    check_ending(true);
}

TEST(pipe_writer_waits) {
    check_waiting(false);
}

TEST(socket_writer_waits) {
    check_waiting(true);
}

/* The other way round: who takes from a full pipe wakes the writer, and then makes no call until that has gone on. */
TEST(pipe_reader_computes) {
    static char data[65536];
    struct wait wait = new_wait(false);
    CHECK_EQ(write(wait.ends[1], data, sizeof data), sizeof data);
    pid_t pid = CHILD({
        for (uint32_t round = 1; round <= ROUNDS; round++) {
            CHECK_EQ(write(wait.ends[1], data, 4096), 4096);
            *wait.seen = round;
        }
    });
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        sleep_ms(2);
        CHECK_EQ(read(wait.ends[0], data, 4096), 4096);
        while (*wait.seen != round) {
        }
    }
    CHECK_EXIT(pid, 0);
}
