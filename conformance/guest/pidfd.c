/* Processes by descriptor: pidfd_open, pidfd_send_signal, pidfd_getfd, CLONE_PIDFD, waiting and polling. */
#include "test.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define PIDFD_NONBLOCK O_NONBLOCK
#define PIDFD_THREAD O_EXCL

static int pidfd_open_(pid_t pid, unsigned flags) {
    return syscall(SYS_pidfd_open, pid, flags);
}

static int pidfd_send(int fd, int signal, siginfo_t *info, unsigned flags) {
    return syscall(SYS_pidfd_send_signal, fd, signal, info, flags);
}

static int pidfd_get(int fd, int target, unsigned flags) {
    return syscall(SYS_pidfd_getfd, fd, target, flags);
}

/* What poll says of the descriptor at once. */
static int events_of(int fd) {
    struct pollfd entry = {.fd = fd, .events = POLLIN | POLLOUT};
    CHECK_OK(poll(&entry, 1, 0));
    return entry.revents;
}

TEST(open_checks_its_arguments) {
    CHECK_ERR(pidfd_open_(0, 0), EINVAL);
    CHECK_ERR(pidfd_open_(-1, 0), EINVAL);
    CHECK_ERR(pidfd_open_(getpid(), 1), EINVAL);
    pid_t pid = CHILD({});
    CHECK_EXIT(pid, 0);
    CHECK_ERR(pidfd_open_(pid, 0), ESRCH);
}

TEST(open_sets_its_flags) {
    int fd = CHECK_OK(pidfd_open_(getpid(), PIDFD_NONBLOCK));
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
    char byte;
    CHECK_ERR(read(fd, &byte, 1), EINVAL);
    CHECK_ERR(write(fd, &byte, 1), EINVAL);
}

TEST(poll_reports_the_end) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    int fd = CHECK_OK(pidfd_open_(pid, 0));
    CHECK_EQ(events_of(fd), 0);
    gate_open(&gate);
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&entry, 1, -1), 1);
    CHECK_EQ(entry.revents, POLLIN);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(events_of(fd) & POLLIN, POLLIN);
    CHECK_ERR(pidfd_send(fd, 0, NULL, 0), ESRCH);
}

TEST(epoll_reports_the_end_and_that_it_was_waited_for) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    int fd = CHECK_OK(pidfd_open_(pid, 0));
    int epoll = CHECK_OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 7};
    CHECK_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    gate_open(&gate);
    CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1);
    CHECK_EQ(event.events, EPOLLIN);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(events_of(fd), POLLIN | POLLHUP);
}

TEST(fdinfo_shows_the_process) {
    pid_t pid = CHILD({ _exit(3); });
    int fd = CHECK_OK(pidfd_open_(pid, 0));
    char path[64], text[1024], line[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    get_file(path, text, sizeof text);
    snprintf(line, sizeof line, "Pid:\t%d\n", pid);
    CHECK(strstr(text, line));
    CHECK(strstr(text, "NSpid:\t"));
    CHECK_EXIT(pid, 3);
    get_file(path, text, sizeof text);
    CHECK(strstr(text, "Pid:\t-1\n"));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = CHECK_OK(readlink(path, text, sizeof text - 1));
    text[length] = 0;
    CHECK(!strcmp(text, "anon_inode:[pidfd]"));
}

static volatile sig_atomic_t got_signal;
static volatile siginfo_t got_info;

static void note(int signal, siginfo_t *info, void *context UNUSED) {
    got_signal = signal;
    got_info = *info;
}

TEST(send_signal_reaches_the_process) {
    handle_info(SIGUSR1, note, 0);
    int fd = CHECK_OK(pidfd_open_(getpid(), 0));
    CHECK_OK(pidfd_send(fd, 0, NULL, 0));
    CHECK_OK(pidfd_send(fd, SIGUSR1, NULL, 0));
    CHECK_EQ(got_signal, SIGUSR1);
    CHECK_EQ(got_info.si_code, SI_USER);
    CHECK_EQ(got_info.si_pid, getpid());
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    info.si_value.sival_int = 99;
    CHECK_OK(pidfd_send(fd, SIGUSR1, &info, 0));
    CHECK_EQ(got_info.si_code, SI_QUEUE);
    CHECK_EQ(got_info.si_value.sival_int, 99);
    info.si_signo = SIGUSR2;
    CHECK_ERR(pidfd_send(fd, SIGUSR1, &info, 0), EINVAL);
}

TEST(send_signal_checks_its_arguments) {
    int fd = CHECK_OK(pidfd_open_(getpid(), 0));
    CHECK_ERR(pidfd_send(fd, 65, NULL, 0), EINVAL);
    CHECK_ERR(pidfd_send(fd, 0, NULL, 64), EINVAL);
    CHECK_ERR(pidfd_send(-1, 0, NULL, 0), EBADF);
    CHECK_ERR(pidfd_send(0, 0, NULL, 0), EBADF);
    CHECK_ERR(pidfd_send(fd, SIGUSR1, (void *)8, 0), EFAULT);
    pid_t pid = CHILD({ pause(); });
    int other = CHECK_OK(pidfd_open_(pid, 0));
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_USER};
    CHECK_ERR(pidfd_send(other, SIGUSR1, &info, 0), EPERM);
    CHECK_OK(pidfd_send(other, SIGKILL, NULL, 0));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(a_directory_of_proc_is_a_pidfd_for_signals) {
    pid_t pid = CHILD({ pause(); });
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int fd = CHECK_OK(open(path, O_DIRECTORY | O_RDONLY));
    CHECK_OK(pidfd_send(fd, SIGTERM, NULL, 0));
    CHECK_KILLED(pid, SIGTERM);
}

TEST(wait_by_a_nonblocking_pidfd_fails_at_once) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    int fd = CHECK_OK(pidfd_open_(pid, PIDFD_NONBLOCK));
    siginfo_t info;
    CHECK_ERR(waitid(P_PIDFD, fd, &info, WEXITED), EAGAIN);
    info.si_pid = 5;
    CHECK_OK(waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG));
    CHECK_EQ(info.si_pid, 0);
    gate_open(&gate);
    CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
    CHECK_OK(waitid(P_PIDFD, fd, &info, WEXITED));
    CHECK_EQ(info.si_pid, pid);
    CHECK_ERR(waitid(P_PIDFD, 0, &info, WEXITED), EBADF);
    CHECK_ERR(waitid(P_PIDFD, -1, &info, WEXITED), EINVAL);
}

TEST(getfd_copies_a_descriptor) {
    enter_scratch();
    struct gate ready = gate_new(), done = gate_new();
    int *number = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = CHILD({
        *number = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
        CHECK_EQ(write(*number, "hello", 5), 5);
        gate_open(&ready);
        gate_wait(&done);
        CHECK_EQ(lseek(*number, 0, SEEK_CUR), 2);
    });
    gate_wait(&ready);
    int fd = CHECK_OK(pidfd_open_(pid, 0));
    int copy = CHECK_OK(pidfd_get(fd, *number, 0));
    CHECK_EQ(fcntl(copy, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(lseek(copy, 2, SEEK_SET), 2);
    CHECK_ERR(pidfd_get(fd, 900, 0), EBADF);
    CHECK_ERR(pidfd_get(fd, *number, 1), EINVAL);
    CHECK_ERR(pidfd_get(0, *number, 0), EBADF);
    gate_open(&done);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(pidfd_get(fd, 0, 0), ESRCH);
}

TEST(clone_gives_a_pidfd) {
    int fd = -1;
    pid_t pid = CHECK_OK(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &fd, 0, 0));
    if (pid == 0) {
        _exit(4);
    }
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    siginfo_t info;
    CHECK_OK(waitid(P_PIDFD, fd, &info, WEXITED));
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, 4);
    CHECK_ERR(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, &fd, 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_clone, CLONE_PIDFD | CLONE_DETACHED | SIGCHLD, 0, &fd, 0, 0), EINVAL);
}

static int thread_tid;

static void *wait_at_gate(void *gate) {
    thread_tid = syscall(SYS_gettid);
    gate_open(&((struct gate *)gate)[0]);
    gate_wait(&((struct gate *)gate)[1]);
    return NULL;
}

TEST(thread_pidfd_ends_with_the_thread) {
    struct gate gates[2] = {gate_new(), gate_new()};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, wait_at_gate, gates), 0);
    gate_wait(&gates[0]);
    CHECK_ERR(pidfd_open_(thread_tid, 0), ENOENT);
    int fd = CHECK_OK(pidfd_open_(thread_tid, PIDFD_THREAD));
    CHECK_EQ(events_of(fd), 0);
    gate_open(&gates[1]);
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&entry, 1, -1), 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_ERR(pidfd_send(fd, 0, NULL, 0), ESRCH);
}

TEST(process_madvise_of_the_own_process) {
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    struct iovec vector = {pages, 8192};
    int fd = CHECK_OK(pidfd_open_(getpid(), 0));
    CHECK_EQ(syscall(SYS_process_madvise, fd, &vector, 1, MADV_COLD, 0), 8192);
    CHECK_ERR(syscall(SYS_process_madvise, fd, &vector, 1, MADV_COLD, 1), EINVAL);
    CHECK_ERR(syscall(SYS_process_madvise, 0, &vector, 1, MADV_COLD, 0), EBADF);
}

TEST(process_mrelease_wants_a_dying_process) {
    int fd = CHECK_OK(pidfd_open_(getpid(), 0));
    CHECK_ERR(syscall(SYS_process_mrelease, fd, 0), EINVAL);
    CHECK_ERR(syscall(SYS_process_mrelease, fd, 1), EINVAL);
    CHECK_ERR(syscall(SYS_process_mrelease, 0, 0), EBADF);
}


