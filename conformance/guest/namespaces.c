/* Namespaces: clone, unshare, setns, and what is seen in them. */
#include "test.h"

#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#ifndef NS_GET_NSTYPE
#define NS_GET_NSTYPE _IO(0xb7, 0x3)
#endif
#ifndef NS_GET_PARENT
#define NS_GET_PARENT _IO(0xb7, 0x2)
#endif

static pid_t raw_clone(unsigned long flags) {
    return syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
}

static void require_admin(void) {
    if (!has_capability(21)) {
        SKIP("needs CAP_SYS_ADMIN");
    }
}

static ino_t namespace_number(const char *name) {
    char path[64];
    struct stat info;
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    CHECK_OK(stat(path, &info));
    return info.st_ino;
}

TEST(link_and_file_of_a_namespace_agree) {
    const char *names[] = {"cgroup", "ipc", "mnt", "net", "pid", "uts"};
    for (unsigned at = 0; at < sizeof names / sizeof *names; at++) {
        char path[64], text[64] = "", expected[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[at]);
        CHECK_OK(readlink(path, text, sizeof text - 1));
        snprintf(expected, sizeof expected, "%s:[%lu]", names[at], (unsigned long)namespace_number(names[at]));
        CHECK_STR(text, expected);
    }
    CHECK_ERR(open("/proc/self/ns/uts", O_RDWR), EPERM);
    CHECK_ERR(open("/proc/self/ns/none", O_RDONLY), ENOENT);
}

TEST(type_of_a_namespace_is_told) {
    int fd = CHECK_OK(open("/proc/self/ns/pid", O_RDONLY));
    CHECK_EQ(CHECK_OK(ioctl(fd, NS_GET_NSTYPE)), CLONE_NEWPID);
    CHECK_ERR(ioctl(fd, _IO(0xb7, 0x7f)), ENOTTY);
    fd = CHECK_OK(open("/proc/self/ns/uts", O_RDONLY));
    CHECK_EQ(CHECK_OK(ioctl(fd, NS_GET_NSTYPE)), CLONE_NEWUTS);
    CHECK_ERR(ioctl(fd, NS_GET_PARENT), EINVAL);
}

TEST(unshare_without_the_right_is_eperm) {
    REQUIRE_ROOT();
    CHECK_OK(setresuid(1000, 1000, 1000));
    CHECK_ERR(unshare(CLONE_NEWUTS), EPERM);
    CHECK_ERR(unshare(CLONE_NEWNS), EPERM);
    CHECK_ERR(unshare(CLONE_NEWPID), EPERM);
    CHECK_ERR(raw_clone(CLONE_NEWIPC), EPERM);
    int fd = CHECK_OK(open("/proc/self/ns/uts", O_RDONLY));
    CHECK_ERR(setns(fd, 0), EPERM);
}

TEST(unshare_and_clone_check_their_flags) {
    CHECK_ERR(unshare(0x1), EINVAL);
    CHECK_ERR(unshare(CLONE_VFORK), EINVAL);
    CHECK_ERR(raw_clone(CLONE_NEWNS | CLONE_FS), EINVAL);
    CHECK_ERR(raw_clone(CLONE_NEWIPC | CLONE_SYSVSEM), EINVAL);
    CHECK_ERR(raw_clone(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWPID), EINVAL);
    CHECK_OK(unshare(0));
}

TEST(setns_checks_its_arguments) {
    require_admin();
    CHECK_ERR(setns(-1, 0), EBADF);
    int fd = CHECK_OK(open("/dev/null", O_RDONLY));
    CHECK_ERR(setns(fd, 0), EINVAL);
    fd = CHECK_OK(open("/proc/self/ns/uts", O_RDONLY));
    CHECK_ERR(setns(fd, CLONE_NEWIPC), EINVAL);
    CHECK_OK(setns(fd, CLONE_NEWUTS));
    CHECK_OK(setns(fd, 0));
}

TEST(host_name_is_the_namespaces_own) {
    require_admin();
    struct utsname before, after;
    CHECK_OK(uname(&before));
    int outer = CHECK_OK(open("/proc/self/ns/uts", O_RDONLY));
    CHECK_OK(unshare(CLONE_NEWUTS));
    CHECK_OK(uname(&after));
    CHECK_STR(after.nodename, before.nodename);
    CHECK_OK(sethostname("inside", 6));
    CHECK_EXIT(CHILD({
                   struct utsname inherited;
                   CHECK_OK(uname(&inherited));
                   CHECK_STR(inherited.nodename, "inside");
               }),
               0);
    CHECK_OK(setns(outer, 0));
    CHECK_OK(uname(&after));
    CHECK_STR(after.nodename, before.nodename);
}

TEST(cloned_child_has_the_number_one) {
    require_admin();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        CHECK_EQ(getpid(), 1);
        CHECK_EQ(getppid(), 0);
        CHECK_EQ(syscall(SYS_gettid), 1);
        CHECK_EQ(getpgrp(), 0);
        CHECK_EQ(getsid(0), 0);
        CHECK_EQ(setsid(), 1);
        CHECK_EQ(getpgrp(), 1);
        pid_t child = CHILD({
            CHECK_EQ(getpid(), 2);
            CHECK_EQ(getppid(), 1);
            CHECK_EQ(getpgrp(), 1);
        });
        CHECK_EQ(child, 2);
        CHECK_EXIT(child, 0);
        _exit(7);
    }
    CHECK(pid > 1);
    CHECK_EXIT(pid, 7);
}

TEST(unshared_pid_namespace_is_for_children) {
    require_admin();
    pid_t self = getpid();
    ino_t own = namespace_number("pid");
    CHECK_OK(unshare(CLONE_NEWPID));
    CHECK_EQ(getpid(), self);
    CHECK_EQ(namespace_number("pid"), own);
    pid_t first = CHILD({ CHECK_EQ(getpid(), 1); });
    CHECK(namespace_number("pid_for_children") != own);
    CHECK_EXIT(first, 0);
    /* The first has ended: there is no going on. */
    CHECK_ERR(fork(), ENOMEM);
}

TEST(processes_outside_are_not_seen) {
    require_admin();
    pid_t outer = getpid();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        CHECK_ERR(kill(outer > 1 ? outer : 2, 0), ESRCH);
        CHECK_ERR(kill(-1, 0), ESRCH);
        CHECK_ERR(getpgid(outer > 1 ? outer : 2), ESRCH);
        CHECK_ERR(waitpid(-1, NULL, 0), ECHILD);
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
}

TEST(all_end_with_the_first) {
    require_admin();
    struct gate ready = gate_new();
    int ends[2];
    CHECK_OK(pipe(ends));
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        if (fork() == 0) {
            setsid();
            signal(SIGTERM, SIG_IGN);
            gate_open(&ready);
            for (;;) {
                pause();
            }
        }
        gate_wait(&ready);
        _exit(3);
    }
    CHECK_OK(close(ends[1]));
    CHECK_EXIT(pid, 3);
    /* When the first has been waited for, the others are gone: the pipe is closed everywhere. */
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 0);
}

TEST(orphans_go_to_the_first) {
    require_admin();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        struct gate orphaned = gate_new();
        pid_t child = CHILD({
            if (fork() == 0) {
                gate_wait(&orphaned);
                CHECK_EQ(getppid(), 1);
                _exit(4);
            }
        });
        CHECK_EXIT(child, 0);
        gate_open(&orphaned);
        int status;
        CHECK_EQ(waitpid(-1, &status, 0), 3);
        CHECK_EQ(WEXITSTATUS(status), 4);
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
}

TEST(first_process_is_shielded_from_those_below) {
    require_admin();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        CHECK_EXIT(CHILD({
                       CHECK_OK(kill(1, SIGKILL));
                       CHECK_OK(kill(1, SIGTERM));
                       CHECK_OK(kill(1, SIGSTOP));
                   }),
                   0);
        for (;;) {
            pause();
        }
    }
    settle();
    CHECK_OK(kill(pid, SIGTERM));
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

static volatile pid_t seen_sender = -1;

static void note_sender(int signal UNUSED, siginfo_t *info, void *context UNUSED) {
    seen_sender = info->si_pid;
}

TEST(sender_has_the_receivers_number) {
    require_admin();
    struct gate ready = gate_new();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        handle_info(SIGUSR1, note_sender, 0);
        block_signals(SIGNALS(SIGUSR1));
        sigset_t none;
        sigemptyset(&none);
        gate_open(&ready);
        CHECK_ERR(sigsuspend(&none), EINTR);
        /* Whoever is outside has no number here. */
        CHECK_EQ(seen_sender, 0);
        CHECK_EXIT(CHILD({ CHECK_OK(kill(1, SIGUSR1)); }), 0);
        if (seen_sender == 0) {
            CHECK_ERR(sigsuspend(&none), EINTR);
        }
        CHECK_EQ(seen_sender, 2);
        _exit(0);
    }
    gate_wait(&ready);
    CHECK_OK(kill(pid, SIGUSR1));
    CHECK_EXIT(pid, 0);
}

TEST(credentials_of_a_socket_are_translated) {
    require_admin();
    int ends[2], one = 1;
    CHECK_OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    CHECK_OK(setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        CHECK_EQ(send(ends[1], "x", 1, 0), 1);
        pause();
    }
    char byte, control[64];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK_EQ(recvmsg(ends[0], &message, 0), 1);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header && header->cmsg_type == SCM_CREDENTIALS);
    CHECK_EQ(((struct ucred *)CMSG_DATA(header))->pid, pid);
    CHECK_OK(kill(pid, SIGKILL));
    WAIT(pid);
}

TEST(lock_holders_are_translated) {
    require_admin();
    enter_scratch();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct gate ready = gate_new();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        CHECK_OK(fcntl(fd, F_SETLK, &lock));
        gate_open(&ready);
        pause();
    }
    gate_wait(&ready);
    CHECK_OK(fcntl(fd, F_GETLK, &lock));
    CHECK_EQ(lock.l_type, F_WRLCK);
    CHECK_EQ(lock.l_pid, pid);
    CHECK_OK(kill(pid, SIGKILL));
    WAIT(pid);
}

static void line_of(const char *path, const char *key, char *line, size_t size) {
    static char text[16384];
    get_file(path, text, sizeof text);
    char *found = strstr(text, key);
    CHECK(found);
    snprintf(line, size, "%.*s", (int)strcspn(found, "\n"), found);
}

TEST(status_lists_the_number_in_each_namespace) {
    require_admin();
    struct gate ready = gate_new();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        gate_open(&ready);
        pause();
    }
    gate_wait(&ready);
    char path[64], line[128], expected[128];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    line_of(path, "NSpid:", line, sizeof line);
    snprintf(expected, sizeof expected, "NSpid:\t%d\t1", pid);
    CHECK_STR(line, expected);
    CHECK_OK(kill(pid, SIGKILL));
    WAIT(pid);
}

TEST(mounted_proc_shows_its_namespace) {
    require_admin();
    enter_scratch();
    CHECK_OK(mkdir("proc", 0755));
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID | CLONE_NEWNS));
    if (pid == 0) {
        CHECK_OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
        CHECK_OK(mount("proc", "proc", "proc", 0, NULL));
        char target[32] = "";
        CHECK_OK(readlink("proc/self", target, sizeof target - 1));
        CHECK_STR(target, "1");
        char line[128];
        line_of("proc/self/status", "PPid:", line, sizeof line);
        CHECK_STR(line, "PPid:\t0");
        line_of("proc/self/status", "NSpid:", line, sizeof line);
        CHECK_STR(line, "NSpid:\t1");
        CHECK_ERR(access("proc/2", F_OK), ENOENT);
        CHECK_OK(umount("proc"));
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
}

TEST(setns_enters_a_pid_namespace_below) {
    require_admin();
    struct gate ready = gate_new();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        gate_open(&ready);
        /* Who comes from outside has a parent that is not seen here, and its number counts on. */
        for (;;) {
            pause();
        }
    }
    gate_wait(&ready);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", pid);
    int inner = CHECK_OK(open(path, O_RDONLY)), outer = CHECK_OK(open("/proc/self/ns/pid", O_RDONLY));
    CHECK_OK(setns(inner, CLONE_NEWPID));
    CHECK_EXIT(CHILD({
                   CHECK_EQ(getpid(), 2);
                   CHECK_EQ(getppid(), 0);
                   /* Not upwards. */
                   CHECK_ERR(setns(outer, CLONE_NEWPID), EINVAL);
               }),
               0);
    CHECK_OK(setns(outer, CLONE_NEWPID));
    CHECK_EXIT(CHILD({ CHECK(getppid() != 0); }), 0);
    CHECK_OK(kill(pid, SIGKILL));
    WAIT(pid);
}

TEST(mounts_of_a_new_namespace_are_its_own) {
    require_admin();
    enter_scratch();
    CHECK_OK(mkdir("point", 0755));
    int outer = CHECK_OK(open("/proc/self/ns/mnt", O_RDONLY));
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWNS));
    if (pid == 0) {
        CHECK_OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
        CHECK_OK(mount("none", "point", "tmpfs", 0, NULL));
        put_file("point/inside", "", 0600);
        CHECK_OK(setns(outer, CLONE_NEWNS));
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
    CHECK_ERR(access("point/inside", F_OK), ENOENT);
}

TEST(setns_to_mounts_needs_a_context_of_its_own) {
    require_admin();
    int fd = CHECK_OK(open("/proc/self/ns/mnt", O_RDONLY));
    pid_t pid = CHECK_OK(raw_clone(CLONE_FS));
    if (pid == 0) {
        CHECK_ERR(setns(fd, CLONE_NEWNS), EINVAL);
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
}

/* Becomes an ordinary user, in a user namespace of its own without any mapping. */
static void enter_user_namespace(unsigned long more) {
    REQUIRE_ROOT();
    CHECK_OK(setresgid(1000, 1000, 1000));
    CHECK_OK(setresuid(1000, 1000, 1000));
    CHECK_OK(prctl(PR_SET_DUMPABLE, 1));
    if (unshare(CLONE_NEWUSER | more) == -1) {
        if (errno == ENOSPC || errno == EPERM) {
            SKIP("user namespaces are switched off: %s", test_errno_name(errno));
        }
        FAIL("unshare: %s", test_errno_name(errno));
    }
}

static int write_proc(const char *path, const char *text) {
    int fd = CHECK_OK(open(path, O_WRONLY));
    ssize_t written = write(fd, text, strlen(text));
    int error = errno;
    CHECK_OK(close(fd));
    errno = error;
    return written == (ssize_t)strlen(text) ? 0 : -1;
}

static void map_self_to_root(void) {
    CHECK_OK(write_proc("/proc/self/setgroups", "deny"));
    CHECK_OK(write_proc("/proc/self/uid_map", "0 1000 1"));
    CHECK_OK(write_proc("/proc/self/gid_map", "0 1000 1"));
}

TEST(ids_without_a_number_are_the_overflow_id) {
    enter_user_namespace(0);
    CHECK_EQ(getuid(), 65534);
    CHECK_EQ(getgid(), 65534);
    struct stat info;
    CHECK_OK(stat("/", &info));
    CHECK_EQ(info.st_uid, 65534);
    CHECK(has_capability(21));
    CHECK_ERR(setuid(0), EINVAL);
}

TEST(user_maps_itself_to_root) {
    enter_user_namespace(0);
    /* Often, so that an answer that is kept somewhere would be. */
    for (int at = 0; at < 5000; at++) {
        CHECK_EQ(getuid(), 65534);
    }
    CHECK_ERR(write_proc("/proc/self/uid_map", "0 0 1"), EPERM);
    CHECK_ERR(write_proc("/proc/self/uid_map", "0 1000 2"), EPERM);
    CHECK_ERR(write_proc("/proc/self/uid_map", "0 1000"), EINVAL);
    CHECK_ERR(write_proc("/proc/self/uid_map", "0 1000 0"), EINVAL);
    CHECK_ERR(write_proc("/proc/self/gid_map", "0 1000 1"), EPERM);
    map_self_to_root();
    CHECK_ERR(write_proc("/proc/self/uid_map", "0 1000 1"), EPERM);
    CHECK_ERR(write_proc("/proc/self/setgroups", "allow"), EPERM);
    CHECK_EQ(getuid(), 0);
    CHECK_EQ(getegid(), 0);
    char text[256];
    get_file("/proc/self/uid_map", text, sizeof text);
    CHECK_STR(text, "         0       1000          1\n");
    get_file("/proc/self/setgroups", text, sizeof text);
    CHECK_STR(text, "deny\n");
    gid_t group = 0;
    CHECK_ERR(syscall(SYS_setgroups, 1, &group), EPERM);
    CHECK_ERR(setuid(5), EINVAL);
    CHECK_EXIT(CHILD({ CHECK_EQ(getuid(), 0); }), 0);
}

TEST(root_of_a_user_namespace_has_no_power_outside) {
    enter_user_namespace(0);
    map_self_to_root();
    const char *scratch = enter_scratch();
    CHECK_ERR(sethostname("x", 1), EPERM);
    CHECK_ERR(mount("none", scratch, "tmpfs", 0, NULL), EPERM);
    CHECK_ERR(open("/etc/shadow", O_RDONLY), EACCES);
    CHECK_ERR(open("/etc/passwd", O_WRONLY), EACCES);
    CHECK_ERR(chown("/etc/passwd", 0, 0), EPERM);
    CHECK_ERR(kill(1, 0), EPERM);
    CHECK_ERR(mknod("device", S_IFCHR | 0600, 0x103), EPERM);
    put_file("mine", "", 0600);
    struct stat info;
    CHECK_OK(stat("mine", &info));
    CHECK_EQ(info.st_uid, 0);
    CHECK_ERR(chown("mine", 5, 5), EINVAL);
    CHECK_OK(chown("mine", 0, 0));
}

TEST(root_of_a_user_namespace_has_power_inside) {
    enter_user_namespace(CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWPID);
    map_self_to_root();
    const char *scratch = enter_scratch();
    CHECK_OK(sethostname("x", 1));
    CHECK_OK(mount("none", scratch, "tmpfs", 0, "mode=700,uid=0"));
    CHECK_OK(chdir(scratch));
    put_file("file", "", 0600);
    struct stat info;
    CHECK_OK(stat(".", &info));
    CHECK_EQ(info.st_uid, 0);
    CHECK_OK(mkdir("dir", 0700));
    CHECK_OK(mount("file", "file", NULL, MS_BIND, NULL));
    CHECK_EXIT(CHILD({
                   CHECK_EQ(getpid(), 1);
                   CHECK_OK(chroot("dir"));
                   CHECK_ERR(unshare(CLONE_NEWUSER), EPERM);
               }),
               0);
    CHECK_OK(unshare(CLONE_NEWIPC));
}

TEST(parent_maps_the_child) {
    REQUIRE_ROOT();
    struct gate made = gate_new(), mapped = gate_new();
    pid_t pid = raw_clone(CLONE_NEWUSER);
    if (pid == -1) {
        SKIP("user namespaces are switched off: %s", test_errno_name(errno));
    }
    if (pid == 0) {
        CHECK_EQ(getuid(), 65534);
        gate_open(&made);
        gate_wait(&mapped);
        CHECK_OK(setresgid(5, 5, 5));
        CHECK_OK(setresuid(7, 7, 7));
        CHECK_EQ(getuid(), 7);
        CHECK_ERR(setuid(1000), EINVAL);
        gate_open(&made);
        pause();
    }
    gate_wait(&made);
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    CHECK_OK(write_proc(path, "0 2000 50\n50 3000 100\n"));
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    CHECK_OK(write_proc(path, "0 2000 100\n"));
    gate_open(&mapped);
    gate_wait(&made);
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    line_of(path, "Uid:", line, sizeof line);
    CHECK_STR(line, "Uid:\t2007\t2007\t2007\t2007");
    line_of(path, "Gid:", line, sizeof line);
    CHECK_STR(line, "Gid:\t2005\t2005\t2005\t2005");
    CHECK_OK(kill(pid, SIGKILL));
    WAIT(pid);
}

TEST(mounts_that_came_along_are_locked) {
    require_admin();
    enter_scratch();
    CHECK_OK(mkdir("point", 0755));
    CHECK_OK(unshare(CLONE_NEWNS));
    CHECK_OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    CHECK_OK(mount("none", "point", "tmpfs", MS_RDONLY | MS_NOSUID, NULL));
    enter_user_namespace(CLONE_NEWNS);
    map_self_to_root();
    CHECK_ERR(umount("point"), EINVAL);
    CHECK_ERR(umount2("point", MNT_DETACH), EINVAL);
    CHECK_ERR(mount("none", "point", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL), EPERM);
    CHECK_OK(mount("none", "point", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL));
    CHECK_OK(mount("none", "point", "tmpfs", 0, NULL));
    CHECK_OK(umount("point"));
}

static volatile sig_atomic_t timer_signals;

static void on_timer(int signal UNUSED) {
    timer_signals++;
}

TEST(numbers_of_threads_and_groups_are_the_namespaces_own) {
    require_admin();
    pid_t pid = CHECK_OK(raw_clone(CLONE_NEWPID));
    if (pid == 0) {
        CHECK_EQ(setsid(), 1);
        CHECK_OK(setpriority(PRIO_PGRP, 1, 7));
        CHECK_EQ(getpriority(PRIO_PROCESS, 1), 7);
        CHECK_ERR(getpriority(PRIO_PGRP, 99), ESRCH);
        handle(SIGALRM, on_timer, 0);
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
        event._sigev_un._tid = 1;
        timer_t timer;
        CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
        block_signals(SIGNALS(SIGALRM));
        struct itimerspec soon = {.it_value = {0, 1000000}};
        CHECK_OK(timer_settime(timer, 0, &soon, NULL));
        sigset_t none;
        sigemptyset(&none);
        CHECK_ERR(sigsuspend(&none), EINTR);
        CHECK_EQ(timer_signals, 1);
        struct rlimit limit;
        CHECK_OK(prlimit(1, RLIMIT_NOFILE, NULL, &limit));
        CHECK_ERR(prlimit(99, RLIMIT_NOFILE, NULL, &limit), ESRCH);
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
}
