/* Waiting for events: poll, select, epoll, eventfd, timerfd, signalfd, inotify. */
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static void new_pipe(int ends[2]) {
    CHECK_OK(pipe2(ends, O_CLOEXEC));
}

/* A child that writes a byte after a while. */
static pid_t write_later(int fd) {
    return CHILD({
        settle();
        CHECK_EQ(write(fd, "x", 1), 1);
    });
}

TEST(poll_reports_readiness) {
    int ends[2];
    new_pipe(ends);
    struct pollfd polls[] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}, {-1, POLLIN, 77}, {999, POLLIN, 0}};
    CHECK_EQ(poll(polls, 4, 0), 2);
    CHECK_EQ(polls[0].revents, 0);
    CHECK_EQ(polls[1].revents, POLLOUT);
    CHECK_EQ(polls[2].revents, 0);
    CHECK_EQ(polls[3].revents, POLLNVAL);
}

TEST(poll_waits) {
    int ends[2];
    new_pipe(ends);
    pid_t pid = write_later(ends[1]);
    struct pollfd wait = {ends[0], POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 5000), 1);
    CHECK_EQ(wait.revents, POLLIN);
    CHECK_EXIT(pid, 0);
}

TEST(poll_times_out) {
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(poll(NULL, 0, 20), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    CHECK_ERR(poll(BAD, 1, 0), EFAULT);
    CHECK_ERR(syscall(SYS_poll, NULL, 1 << 30, 0), EINVAL);
}

TEST(poll_of_a_regular_file_is_always_ready) {
    enter_scratch();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    struct pollfd wait = {fd, POLLIN | POLLOUT | POLLPRI, 0};
    CHECK_EQ(poll(&wait, 1, -1), 1);
    CHECK_EQ(wait.revents, POLLIN | POLLOUT);
}

static volatile sig_atomic_t handled;

static void on_signal(int signal UNUSED) {
    handled++;
}

TEST(ppoll_swaps_the_mask) {
    handle(SIGUSR1, on_signal, SA_RESTART);
    block_signals(SIGNALS(SIGUSR1));
    raise(SIGUSR1);
    sigset_t empty;
    sigemptyset(&empty);
    struct timespec time = {5, 0};
    CHECK_ERR(ppoll(NULL, 0, &time, &empty), EINTR);
    CHECK_EQ(handled, 1);
    sigset_t mask;
    CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &mask));
    CHECK(sigismember(&mask, SIGUSR1));
    time = (struct timespec){0, 1000000000};
    CHECK_ERR(ppoll(NULL, 0, &time, NULL), EINVAL);
}

TEST(select_reports_readiness) {
    int ends[2];
    new_pipe(ends);
    fd_set readable, writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(ends[0], &readable);
    FD_SET(ends[1], &writable);
    CHECK_EQ(select(ends[1] + 1, &readable, &writable, NULL, NULL), 1);
    CHECK(!FD_ISSET(ends[0], &readable));
    CHECK(FD_ISSET(ends[1], &writable));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    FD_SET(ends[0], &readable);
    CHECK_EQ(select(ends[1] + 1, &readable, &writable, NULL, NULL), 2);
    close(ends[1]);
    CHECK_ERR(select(ends[1] + 1, NULL, &writable, NULL, NULL), EBADF);
    CHECK_ERR(select(-1, NULL, NULL, NULL, NULL), EINVAL);
    struct timeval bad = {-1, 0};
    CHECK_ERR(select(0, NULL, NULL, NULL, &bad), EINVAL);
}

TEST(select_updates_the_timeout) {
    int ends[2];
    new_pipe(ends);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(ends[0], &readable);
    struct timeval time = {5, 0};
    CHECK_EQ(select(ends[0] + 1, &readable, NULL, NULL, &time), 1);
    CHECK(time.tv_sec == 4 || (time.tv_sec == 5 && time.tv_usec == 0));
    time = (struct timeval){0, 20000};
    CHECK_EQ(select(0, NULL, NULL, NULL, &time), 0);
    CHECK_EQ(time.tv_sec | time.tv_usec, 0);
}

TEST(pselect_swaps_the_mask) {
    handle(SIGUSR1, on_signal, 0);
    block_signals(SIGNALS(SIGUSR1));
    raise(SIGUSR1);
    sigset_t empty;
    sigemptyset(&empty);
    CHECK_ERR(pselect(0, NULL, NULL, NULL, NULL, &empty), EINTR);
    CHECK_EQ(handled, 1);
}

/* --- epoll --- */

static int new_epoll(void) {
    return CHECK_OK(epoll_create1(EPOLL_CLOEXEC));
}

static void epoll_add(int epoll, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    CHECK_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

/* How many events there are now. */
static int epoll_count(int epoll) {
    struct epoll_event events[8];
    return CHECK_OK(epoll_wait(epoll, events, 8, 0));
}

TEST(epoll_level_triggered) {
    int ends[2], epoll = new_epoll();
    struct epoll_event event;
    new_pipe(ends);
    epoll_add(epoll, ends[0], EPOLLIN);
    CHECK_EQ(epoll_count(epoll), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1);
    CHECK_EQ(event.events, EPOLLIN);
    CHECK_EQ(event.data.fd, ends[0]);
    CHECK_EQ(epoll_count(epoll), 1);
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EQ(epoll_count(epoll), 0);
}

TEST(epoll_edge_triggered) {
    int ends[2], epoll = new_epoll();
    new_pipe(ends);
    epoll_add(epoll, ends[0], EPOLLIN | EPOLLET);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_count(epoll), 1);
    CHECK_EQ(epoll_count(epoll), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_count(epoll), 1);
    CHECK_EQ(epoll_count(epoll), 0);
}

TEST(epoll_oneshot) {
    int ends[2], epoll = new_epoll();
    new_pipe(ends);
    epoll_add(epoll, ends[0], EPOLLIN | EPOLLONESHOT);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_count(epoll), 1);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_count(epoll), 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
    CHECK_OK(epoll_ctl(epoll, EPOLL_CTL_MOD, ends[0], &event));
    CHECK_EQ(epoll_count(epoll), 1);
}

TEST(epoll_ctl_errors) {
    int ends[2], epoll = new_epoll();
    new_pipe(ends);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_add(epoll, ends[0], EPOLLIN);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event), EEXIST);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, ends[1], &event), ENOENT);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, ends[1], NULL), ENOENT);
    CHECK_OK(epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0], NULL));
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event), EINVAL);
    CHECK_ERR(epoll_ctl(epoll, 77, ends[0], &event), EINVAL);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, 999, &event), EBADF);
    CHECK_ERR(epoll_ctl(999, EPOLL_CTL_ADD, ends[0], &event), EBADF);
    CHECK_ERR(epoll_ctl(ends[0], EPOLL_CTL_ADD, ends[1], &event), EINVAL);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, CHECK_OK(open("/", O_RDONLY)), &event), EPERM);
    CHECK_ERR(epoll_wait(epoll, &event, 0, 0), EINVAL);
    CHECK_ERR(epoll_wait(ends[0], &event, 1, 0), EINVAL);
    CHECK_ERR(epoll_create1(1), EINVAL);
    CHECK_ERR(epoll_create(0), EINVAL);
}

TEST(epoll_forgets_closed_files) {
    int ends[2], epoll = new_epoll();
    new_pipe(ends);
    epoll_add(epoll, ends[0], EPOLLIN);
    int copy = CHECK_OK(dup(ends[0]));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    close(ends[0]);
    /* The open file lives on in its copy, and so does the interest. */
    CHECK_EQ(epoll_count(epoll), 1);
    close(copy);
    CHECK_EQ(epoll_count(epoll), 0);
}

TEST(epoll_nested) {
    int ends[2], inner = new_epoll(), outer = new_epoll();
    new_pipe(ends);
    epoll_add(inner, ends[0], EPOLLIN);
    epoll_add(outer, inner, EPOLLIN);
    CHECK_EQ(epoll_count(outer), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_count(outer), 1);
    struct pollfd wait = {inner, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 1);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK_ERR(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &event), ELOOP);
}

TEST(epoll_waits_and_wakes) {
    int ends[2], epoll = new_epoll();
    struct epoll_event event;
    new_pipe(ends);
    epoll_add(epoll, ends[0], EPOLLIN);
    pid_t pid = write_later(ends[1]);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 5000), 1);
    CHECK_EXIT(pid, 0);
}

TEST(epoll_hangup_needs_no_interest) {
    int ends[2], epoll = new_epoll();
    struct epoll_event event;
    new_pipe(ends);
    epoll_add(epoll, ends[0], 0);
    close(ends[1]);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1);
    CHECK_EQ(event.events, EPOLLHUP);
}

TEST(epoll_rdhup) {
    int ends[2], epoll = new_epoll();
    struct epoll_event event;
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    epoll_add(epoll, ends[0], EPOLLIN | EPOLLRDHUP);
    CHECK_OK(shutdown(ends[1], SHUT_WR));
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1);
    CHECK_EQ(event.events, EPOLLIN | EPOLLRDHUP);
}

TEST(epoll_is_fair) {
    int first[2], second[2], epoll = new_epoll();
    struct epoll_event event;
    new_pipe(first);
    new_pipe(second);
    epoll_add(epoll, first[0], EPOLLIN);
    epoll_add(epoll, second[0], EPOLLIN);
    CHECK_EQ(write(first[1], "x", 1), 1);
    CHECK_EQ(write(second[1], "x", 1), 1);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1);
    int seen = event.data.fd;
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1);
    CHECK(event.data.fd != seen);
}

TEST(epoll_pwait_swaps_the_mask) {
    handle(SIGUSR1, on_signal, 0);
    block_signals(SIGNALS(SIGUSR1));
    raise(SIGUSR1);
    sigset_t empty;
    sigemptyset(&empty);
    struct epoll_event event;
    int epoll = new_epoll();
    CHECK_ERR(epoll_pwait(epoll, &event, 1, 5000, &empty), EINTR);
    CHECK_EQ(handled, 1);
    struct timespec time = {0, 10000000};
    CHECK_EQ(epoll_pwait2(epoll, &event, 1, &time, NULL), 0);
}

TEST(epoll_exclusive) {
    int ends[2], epoll = new_epoll();
    new_pipe(ends);
    epoll_add(epoll, ends[0], EPOLLIN | EPOLLEXCLUSIVE);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(epoll_count(epoll), 1);
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE};
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, ends[0], &event), EINVAL);
}

/* --- eventfd --- */

TEST(eventfd_counts) {
    int fd = CHECK_OK(eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC));
    uint64_t value = 4;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 7);
    CHECK_ERR(read(fd, &value, 8), EAGAIN);
    value = UINT64_MAX;
    CHECK_ERR(write(fd, &value, 8), EINVAL);
    value = UINT64_MAX - 1;
    CHECK_EQ(write(fd, &value, 8), 8);
    value = 1;
    CHECK_ERR(write(fd, &value, 8), EAGAIN);
    CHECK_ERR(read(fd, &value, 4), EINVAL);
    CHECK_ERR(write(fd, &value, 4), EINVAL);
    CHECK_ERR(eventfd(0, 0x10), EINVAL);
}

TEST(eventfd_semaphore) {
    int fd = CHECK_OK(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    uint64_t value;
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 1);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_ERR(read(fd, &value, 8), EAGAIN);
}

TEST(eventfd_blocks_and_polls) {
    int fd = CHECK_OK(eventfd(0, 0));
    struct pollfd wait = {fd, POLLIN | POLLOUT, 0};
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK_EQ(wait.revents, POLLOUT);
    pid_t pid = CHILD({
        settle();
        uint64_t one = 1;
        CHECK_EQ(write(fd, &one, 8), 8);
    });
    uint64_t value;
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 1);
    CHECK_EXIT(pid, 0);
}

/* --- timerfd --- */

TEST(timerfd_expires) {
    int fd = CHECK_OK(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    struct itimerspec timer = {.it_value = {0, 20000000}}, old;
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_OK(timerfd_settime(fd, 0, &timer, NULL));
    CHECK_OK(timerfd_gettime(fd, &old));
    CHECK(old.it_value.tv_nsec > 0 && old.it_value.tv_nsec <= 20000000);
    uint64_t count;
    CHECK_EQ(read(fd, &count, 8), 8);
    CHECK_EQ(count, 1);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    CHECK_OK(timerfd_gettime(fd, &old));
    CHECK_EQ(old.it_value.tv_nsec, 0);
}

TEST(timerfd_repeats) {
    int fd = CHECK_OK(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
    struct itimerspec timer = {.it_value = {0, 1000000}, .it_interval = {0, 5000000}};
    CHECK_OK(timerfd_settime(fd, 0, &timer, NULL));
    sleep_ms(40);
    uint64_t count;
    CHECK_EQ(read(fd, &count, 8), 8);
    CHECK(count >= 7);
    timer = (struct itimerspec){0};
    CHECK_OK(timerfd_settime(fd, 0, &timer, NULL));
    CHECK_ERR(read(fd, &count, 8), EAGAIN);
}

TEST(timerfd_absolute_and_poll) {
    int fd = CHECK_OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    struct pollfd wait = {fd, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
    struct itimerspec timer = {.it_value = {0, 1}};
    CHECK_OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &timer, NULL));
    CHECK_EQ(poll(&wait, 1, 5000), 1);
    CHECK_EQ(wait.revents, POLLIN);
}

TEST(timerfd_errors) {
    struct itimerspec timer = {.it_value = {0, 1000000000}};
    CHECK_ERR(timerfd_create(77, 0), EINVAL);
    CHECK_ERR(timerfd_create(CLOCK_MONOTONIC, 0x10), EINVAL);
    int fd = CHECK_OK(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));
    CHECK_ERR(timerfd_settime(fd, 0, &timer, NULL), EINVAL);
    CHECK_ERR(timerfd_settime(fd, 0x10, &timer, NULL), EINVAL);
    CHECK_ERR(timerfd_settime(1, 0, &timer, NULL), EINVAL);
    char small[4];
    CHECK_ERR(read(fd, small, 4), EINVAL);
}

/* --- signalfd --- */

TEST(signalfd_reads_signals) {
    sigset_t set = SIGNALS(SIGUSR1, SIGRTMIN);
    block_signals(set);
    int fd = CHECK_OK(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    struct signalfd_siginfo info[4];
    CHECK_ERR(read(fd, info, sizeof info), EAGAIN);
    struct pollfd wait = {fd, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
    CHECK_OK(kill(getpid(), SIGUSR1));
    CHECK_OK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 5}));
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK_EQ(read(fd, info, sizeof info), 2 * sizeof *info);
    CHECK_EQ(info[0].ssi_signo, SIGUSR1);
    CHECK_EQ(info[0].ssi_code, SI_USER);
    CHECK_EQ(info[0].ssi_pid, getpid());
    CHECK_EQ(info[1].ssi_signo, SIGRTMIN);
    CHECK_EQ(info[1].ssi_int, 5);
    CHECK_ERR(read(fd, info, 10), EINVAL);
}

TEST(signalfd_changes_its_set) {
    sigset_t set = SIGNALS(SIGUSR1);
    block_signals(SIGNALS(SIGUSR1, SIGUSR2));
    int fd = CHECK_OK(signalfd(-1, &set, SFD_NONBLOCK));
    raise(SIGUSR2);
    struct signalfd_siginfo info;
    CHECK_ERR(read(fd, &info, sizeof info), EAGAIN);
    set = SIGNALS(SIGUSR2);
    CHECK_EQ(signalfd(fd, &set, 0), fd);
    CHECK_EQ(read(fd, &info, sizeof info), sizeof info);
    CHECK_EQ(info.ssi_signo, SIGUSR2);
    CHECK_ERR(signalfd(1, &set, 0), EINVAL);
    CHECK_ERR(signalfd(-1, &set, 0x10), EINVAL);
}

TEST(signalfd_waits_for_a_child) {
    sigset_t set = SIGNALS(SIGCHLD);
    block_signals(set);
    int fd = CHECK_OK(signalfd(-1, &set, 0));
    pid_t pid = CHILD({ _exit(3); });
    struct signalfd_siginfo info;
    CHECK_EQ(read(fd, &info, sizeof info), sizeof info);
    CHECK_EQ(info.ssi_pid, pid);
    CHECK_EQ(info.ssi_status, 3);
    CHECK_EQ(info.ssi_code, CLD_EXITED);
    CHECK_EXIT(pid, 3);
}

/* --- inotify --- */

struct event {
    int watch;
    uint32_t mask, cookie;
    char name[256];
};

static char inotify_buffer[4096];
static ssize_t inotify_length, inotify_offset;

/* The next event, without waiting. */
static struct event next_event(int fd) {
    if (inotify_offset >= inotify_length) {
        inotify_length = CHECK_OK(read(fd, inotify_buffer, sizeof inotify_buffer));
        inotify_offset = 0;
    }
    struct inotify_event *raw = (void *)(inotify_buffer + inotify_offset);
    inotify_offset += sizeof *raw + raw->len;
    struct event event = {raw->wd, raw->mask, raw->cookie, ""};
    if (raw->len) {
        strcpy(event.name, raw->name);
    }
    return event;
}

#define CHECK_EVENT(fd, expected_mask, expected_name)                                                                  \
    ({                                                                                                                 \
        struct event event = next_event(fd);                                                                           \
        CHECK_EQ(event.mask, expected_mask);                                                                           \
        CHECK_STR(event.name, expected_name);                                                                          \
        event;                                                                                                         \
    })

TEST(inotify_directory_events) {
    enter_scratch();
    int fd = CHECK_OK(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    CHECK_OK(inotify_add_watch(fd, ".", IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE));
    CHECK_ERR(read(fd, inotify_buffer, sizeof inotify_buffer), EAGAIN);
    put_file("file", "x", 0644);
    CHECK_EVENT(fd, IN_CREATE, "file");
    CHECK_EVENT(fd, IN_MODIFY, "file");
    CHECK_EVENT(fd, IN_CLOSE_WRITE, "file");
    CHECK_OK(rename("file", "moved"));
    struct event from = CHECK_EVENT(fd, IN_MOVED_FROM, "file"), to = CHECK_EVENT(fd, IN_MOVED_TO, "moved");
    CHECK(from.cookie != 0);
    CHECK_EQ(from.cookie, to.cookie);
    CHECK_OK(mkdir("directory", 0755));
    CHECK_EVENT(fd, IN_CREATE | IN_ISDIR, "directory");
    CHECK_OK(unlink("moved"));
    CHECK_EVENT(fd, IN_DELETE, "moved");
    CHECK_OK(rmdir("directory"));
    CHECK_EVENT(fd, IN_DELETE | IN_ISDIR, "directory");
}

TEST(inotify_file_events) {
    enter_scratch();
    put_file("file", "text", 0644);
    int fd = CHECK_OK(inotify_init1(IN_NONBLOCK));
    CHECK_OK(inotify_add_watch(fd, "file", IN_ALL_EVENTS));
    int file = CHECK_OK(open("file", O_RDWR));
    CHECK_EVENT(fd, IN_OPEN, "");
    char byte;
    CHECK_EQ(read(file, &byte, 1), 1);
    CHECK_EVENT(fd, IN_ACCESS, "");
    CHECK_EQ(write(file, "x", 1), 1);
    CHECK_EVENT(fd, IN_MODIFY, "");
    CHECK_OK(fchmod(file, 0600));
    CHECK_EVENT(fd, IN_ATTRIB, "");
    CHECK_OK(close(file));
    CHECK_EVENT(fd, IN_CLOSE_WRITE, "");
    CHECK_OK(unlink("file"));
    CHECK_EVENT(fd, IN_ATTRIB, "");
    CHECK_EVENT(fd, IN_DELETE_SELF, "");
    CHECK_EVENT(fd, IN_IGNORED, "");
}

TEST(inotify_watch_management) {
    enter_scratch();
    int fd = CHECK_OK(inotify_init1(IN_NONBLOCK));
    int watch = CHECK_OK(inotify_add_watch(fd, ".", IN_CREATE));
    CHECK_EQ(inotify_add_watch(fd, ".", IN_DELETE), watch);
    put_file("file", "x", 0644);
    CHECK_ERR(read(fd, inotify_buffer, sizeof inotify_buffer), EAGAIN);
    CHECK_EQ(inotify_add_watch(fd, ".", IN_CREATE | IN_MASK_ADD), watch);
    CHECK_OK(unlink("file"));
    CHECK_EVENT(fd, IN_DELETE, "file");
    CHECK_OK(inotify_rm_watch(fd, watch));
    CHECK_EVENT(fd, IN_IGNORED, "");
    CHECK_ERR(inotify_rm_watch(fd, watch), EINVAL);
    CHECK_ERR(inotify_add_watch(fd, "missing", IN_CREATE), ENOENT);
    CHECK_ERR(inotify_add_watch(fd, ".", 0), EINVAL);
    CHECK_ERR(inotify_add_watch(1, ".", IN_CREATE), EINVAL);
    put_file("file", "x", 0644);
    CHECK_ERR(inotify_add_watch(fd, "file", IN_CREATE | IN_ONLYDIR), ENOTDIR);
}

TEST(inotify_polls) {
    enter_scratch();
    int fd = CHECK_OK(inotify_init1(0)), available = 0;
    CHECK_OK(inotify_add_watch(fd, ".", IN_CREATE));
    struct pollfd wait = {fd, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
    pid_t pid = CHILD({
        settle();
        put_file("file", "x", 0644);
    });
    CHECK_EQ(poll(&wait, 1, 5000), 1);
    CHECK_OK(ioctl(fd, FIONREAD, &available));
    CHECK(available >= (int)sizeof(struct inotify_event));
    CHECK_EVENT(fd, IN_CREATE, "file");
    CHECK_EXIT(pid, 0);
}

static void *wait_in_thread(void *argument) {
    struct pollfd wait = {*(int *)argument, POLLIN, 0};
    return (void *)(long)poll(&wait, 1, 5000);
}

TEST(several_threads_wait_for_one_file) {
    int fd = CHECK_OK(eventfd(0, 0));
    pthread_t threads[4];
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, wait_in_thread, &fd), 0);
    }
    settle();
    uint64_t one = 1;
    CHECK_EQ(write(fd, &one, 8), 8);
    for (int index = 0; index < 4; index++) {
        void *result;
        CHECK_EQ(pthread_join(threads[index], &result), 0);
        CHECK_EQ((long)result, 1);
    }
}
