/* POSIX message queues. */
#include "test.h"

#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>

/* A name that no other case has. */
static const char *own_name(void) {
    static char name[64];
    snprintf(name, sizeof name, "/conformance.%d", getpid());
    return name;
}

static mqd_t queue_of(long messages, long size) {
    struct mq_attr attributes = {.mq_maxmsg = messages, .mq_msgsize = size};
    return CHECK_OK(mq_open(own_name(), O_CREAT | O_EXCL | O_RDWR, 0600, &attributes));
}

static struct timespec soon(long milliseconds) {
    struct timespec time;
    CHECK_OK(clock_gettime(CLOCK_REALTIME, &time));
    time.tv_nsec += milliseconds * 1000000;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

TEST(messages_come_by_priority_and_age) {
    mqd_t queue = queue_of(8, 16);
    CHECK_OK(mq_send(queue, "one", 3, 1));
    CHECK_OK(mq_send(queue, "three", 5, 3));
    CHECK_OK(mq_send(queue, "three too", 9, 3));
    CHECK_OK(mq_send(queue, "", 0, 2));
    char text[16];
    unsigned priority;
    CHECK_EQ(mq_receive(queue, text, 16, &priority), 5);
    CHECK_EQ(priority, 3);
    CHECK(!memcmp(text, "three", 5));
    CHECK_EQ(mq_receive(queue, text, 16, &priority), 9);
    CHECK_EQ(mq_receive(queue, text, 16, &priority), 0);
    CHECK_EQ(priority, 2);
    CHECK_EQ(mq_receive(queue, text, 16, NULL), 3);
    CHECK_OK(mq_unlink(own_name()));
    CHECK_ERR(mq_unlink(own_name()), ENOENT);
    CHECK_OK(mq_send(queue, "alive", 5, 0));
}

TEST(open_checks_its_arguments) {
    const char *name = own_name();
    CHECK_ERR(mq_open(name, O_RDWR), ENOENT);
    struct mq_attr attributes = {.mq_maxmsg = 0, .mq_msgsize = 16};
    CHECK_ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
    attributes = (struct mq_attr){.mq_maxmsg = 4, .mq_msgsize = -1};
    CHECK_ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
    attributes = (struct mq_attr){.mq_maxmsg = 1 << 20, .mq_msgsize = 16};
    CHECK_ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
    CHECK_ERR(syscall(SYS_mq_open, "a/b", O_CREAT | O_RDWR, 0600, NULL), EACCES);
    CHECK_ERR(syscall(SYS_mq_open, "", O_CREAT | O_RDWR, 0600, NULL), ENOENT);
    CHECK_ERR(syscall(SYS_mq_open, "..", O_CREAT | O_RDWR, 0600, NULL), EACCES);
    CHECK_ERR(syscall(SYS_mq_open, BAD, O_RDWR, 0600, NULL), EFAULT);
    char long_name[300];
    memset(long_name, 'n', sizeof long_name);
    long_name[0] = '/', long_name[299] = 0;
    CHECK_ERR(mq_open(long_name, O_CREAT | O_RDWR, 0600, NULL), ENAMETOOLONG);
    mqd_t queue = CHECK_OK(mq_open(name, O_CREAT | O_RDWR, 0600, NULL));
    CHECK_ERR(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, NULL), EEXIST);
    CHECK_OK(mq_open(name, O_RDONLY));
    struct mq_attr found;
    CHECK_OK(mq_getattr(queue, &found));
    CHECK_EQ(found.mq_maxmsg, 10);
    CHECK_EQ(found.mq_msgsize, 8192);
    CHECK_EQ(fcntl(queue, F_GETFD), FD_CLOEXEC);
    CHECK_OK(mq_unlink(name));
}

TEST(send_and_receive_check_their_arguments) {
    mqd_t queue = queue_of(2, 16);
    char text[32];
    CHECK_ERR(mq_send(queue, text, 17, 0), EMSGSIZE);
    CHECK_ERR(mq_send(queue, text, 1, 32768), EINVAL);
    CHECK_ERR(mq_send(queue, BAD, 1, 0), EFAULT);
    CHECK_ERR(mq_send(1, text, 1, 0), EBADF);
    CHECK_ERR(mq_receive(queue, text, 15, NULL), EMSGSIZE);
    mqd_t reader = CHECK_OK(mq_open(own_name(), O_RDONLY)), writer = CHECK_OK(mq_open(own_name(), O_WRONLY));
    CHECK_ERR(mq_send(reader, text, 1, 0), EBADF);
    CHECK_ERR(mq_receive(writer, text, 16, NULL), EBADF);
    struct timespec bad = {0, -1};
    CHECK_ERR(mq_timedreceive(queue, text, 16, NULL, &bad), EINVAL);
    CHECK_OK(mq_unlink(own_name()));
}

TEST(a_full_queue_and_an_empty_one_wait) {
    mqd_t queue = queue_of(1, 16);
    char text[16];
    struct timespec time = soon(20);
    CHECK_ERR(mq_timedreceive(queue, text, 16, NULL, &time), ETIMEDOUT);
    CHECK_OK(mq_send(queue, "a", 1, 0));
    time = soon(20);
    CHECK_ERR(mq_timedsend(queue, "b", 1, 0, &time), ETIMEDOUT);
    struct mq_attr attributes = {.mq_flags = O_NONBLOCK}, old;
    CHECK_OK(mq_setattr(queue, &attributes, &old));
    CHECK_EQ(old.mq_flags, 0);
    CHECK_EQ(old.mq_curmsgs, 1);
    CHECK_ERR(mq_send(queue, "b", 1, 0), EAGAIN);
    CHECK_EQ(mq_receive(queue, text, 16, NULL), 1);
    CHECK_ERR(mq_receive(queue, text, 16, NULL), EAGAIN);
    attributes.mq_flags = O_APPEND;
    CHECK_ERR(mq_setattr(queue, &attributes, NULL), EINVAL);
    CHECK_OK(mq_unlink(own_name()));
}

TEST(processes_wake_each_other) {
    mqd_t queue = queue_of(1, 16);
    pid_t pid = CHILD({
        char text[16];
        for (int turn = 0; turn < 20; turn++) {
            CHECK_EQ(mq_receive(queue, text, 16, NULL), turn % 16);
        }
    });
    for (int turn = 0; turn < 20; turn++) {
        CHECK_OK(mq_send(queue, "0123456789abcdef", turn % 16, 0));
    }
    CHECK_EXIT(pid, 0);
    CHECK_OK(mq_unlink(own_name()));
}

TEST(polling) {
    mqd_t queue = queue_of(1, 16);
    struct pollfd entry = {.fd = queue, .events = POLLIN | POLLOUT};
    CHECK_EQ(poll(&entry, 1, 0), 1);
    CHECK_EQ(entry.revents, POLLOUT);
    CHECK_OK(mq_send(queue, "a", 1, 0));
    CHECK_EQ(poll(&entry, 1, 0), 1);
    CHECK_EQ(entry.revents, POLLIN);
    int epoll = CHECK_OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN};
    CHECK_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, queue, &event));
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1);
    CHECK_OK(mq_unlink(own_name()));
}

static volatile sig_atomic_t notified;
static volatile siginfo_t last;

static void on_signal(int signal UNUSED, siginfo_t *info, void *context UNUSED) {
    last = *info;
    notified++;
}

TEST(notification_by_signal) {
    handle_info(SIGUSR1, on_signal, SA_RESTART);
    mqd_t queue = queue_of(4, 16);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 5};
    CHECK_OK(mq_notify(queue, &event));
    CHECK_ERR(mq_notify(queue, &event), EBUSY);
    pid_t pid = CHILD({
        CHECK_ERR(mq_notify(queue, &event), EBUSY);
        CHECK_OK(mq_send(queue, "a", 1, 0));
        CHECK_OK(mq_send(queue, "b", 1, 0));
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(notified, 1);
    CHECK_EQ(last.si_code, SI_MESGQ);
    CHECK_EQ(last.si_pid, pid);
    CHECK_EQ(last.si_value.sival_int, 5);
    char text[16];
    CHECK_OK(mq_receive(queue, text, 16, NULL));
    CHECK_OK(mq_notify(queue, &event));
    CHECK_OK(mq_send(queue, "c", 1, 0));
    CHECK_EQ(notified, 1);
    CHECK_OK(mq_notify(queue, NULL));
    event.sigev_notify = SIGEV_NONE;
    CHECK_OK(mq_notify(queue, &event));
    event.sigev_notify = 77;
    CHECK_ERR(mq_notify(queue, &event), EINVAL);
    CHECK_OK(mq_unlink(own_name()));
}

TEST(who_waits_is_served_before_who_is_told) {
    handle_info(SIGUSR1, on_signal, 0);
    mqd_t queue = queue_of(4, 16);
    pid_t pid = CHILD({
        char text[16];
        CHECK_EQ(mq_receive(queue, text, 16, NULL), 1);
    });
    sleep_ms(100);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK_OK(mq_notify(queue, &event));
    CHECK_OK(mq_send(queue, "a", 1, 0));
    CHECK_EXIT(pid, 0);
    CHECK_EQ(notified, 0);
    CHECK_OK(mq_close(queue));
    queue = CHECK_OK(mq_open(own_name(), O_RDWR));
    CHECK_OK(mq_notify(queue, &event));
    CHECK_OK(mq_unlink(own_name()));
}

TEST(limits) {
    REQUIRE_ROOT();
    mqd_t queue = queue_of(4, 16);
    const char *name = own_name();
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresgid(1000, 1000, 1000));
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   CHECK_ERR(mq_open(name, O_RDONLY), EACCES);
                   CHECK_ERR(syscall(SYS_mq_unlink, name + 1), EPERM);
                   struct mq_attr large = {.mq_maxmsg = 11, .mq_msgsize = 16};
                   CHECK_ERR(mq_open("/conformance.large", O_CREAT | O_RDWR, 0600, &large), EINVAL);
                   large.mq_maxmsg = 10;
                   large.mq_msgsize = 8193;
                   CHECK_ERR(mq_open("/conformance.large", O_CREAT | O_RDWR, 0600, &large), EINVAL);
                   struct rlimit limit = {4000, 4000};
                   CHECK_OK(setrlimit(RLIMIT_MSGQUEUE, &limit));
                   CHECK_ERR(mq_open("/conformance.large", O_CREAT | O_RDWR, 0600, NULL), EMFILE);
                   large = (struct mq_attr){.mq_maxmsg = 10, .mq_msgsize = 16};
                   CHECK_OK(mq_open("/conformance.large", O_CREAT | O_RDWR, 0600, &large));
                   CHECK_OK(mq_unlink("/conformance.large"));
               }),
               0);
    CHECK_OK(mq_close(queue));
    CHECK_OK(mq_unlink(name));
}

/* A directory where the queues can be seen. */
static const char *mounted(void) {
    struct statfs found;
    if (statfs("/dev/mqueue", &found) == 0 && found.f_type == 0x19800202) {
        return "/dev/mqueue";
    }
    REQUIRE_ROOT();
    const char *scratch = enter_scratch();
    CHECK_OK(unshare(CLONE_NEWNS));
    CHECK_OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    CHECK_OK(mount("mqueue", scratch, "mqueue", 0, NULL));
    return scratch;
}

TEST(queues_are_files) {
    const char *directory = mounted();
    mqd_t queue = queue_of(4, 16);
    CHECK_OK(mq_send(queue, "hello", 5, 0));
    char path[128], text[256];
    snprintf(path, sizeof path, "%s%s", directory, own_name());
    get_file(path, text, sizeof text);
    CHECK(!strcmp(text, "QSIZE:5          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n"));
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK_OK(mq_notify(queue, &event));
    get_file(path, text, sizeof text);
    char expected[256];
    snprintf(expected, sizeof expected, "QSIZE:5          NOTIFY:0     SIGNO:10    NOTIFY_PID:%-6d\n", getpid());
    CHECK(!strcmp(text, expected));
    struct stat stat_;
    CHECK_OK(stat(path, &stat_));
    CHECK_EQ(stat_.st_mode, S_IFREG | 0600);
    CHECK_EQ(stat_.st_size, 80);
    bool found = false;
    DIR *stream = opendir(directory);
    CHECK(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        found |= !strcmp(entry->d_name, own_name() + 1);
    }
    CHECK(found);
    closedir(stream);
    CHECK_OK(unlink(path));
    CHECK_ERR(mq_open(own_name(), O_RDWR), ENOENT);
    int fd = CHECK_OK(open(path, O_CREAT | O_RDWR, 0600));
    CHECK_OK(close(fd));
    queue = CHECK_OK(mq_open(own_name(), O_RDWR));
    struct mq_attr attributes;
    CHECK_OK(mq_getattr(queue, &attributes));
    CHECK_EQ(attributes.mq_maxmsg, 10);
    CHECK_OK(mq_unlink(own_name()));
}

TEST(settings_are_shown) {
    char text[64];
    get_file("/proc/sys/fs/mqueue/msg_max", text, sizeof text);
    CHECK_EQ(atoi(text), 10);
    get_file("/proc/sys/fs/mqueue/queues_max", text, sizeof text);
    CHECK_EQ(atoi(text), 256);
}
