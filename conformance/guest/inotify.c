/* What inotify tells, and in which order. */
#include "test.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

static char events[65536];

static const char *flag_names(uint32_t mask) {
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {
        {IN_ACCESS, "access"},
        {IN_MODIFY, "modify"},
        {IN_ATTRIB, "attrib"},
        {IN_CLOSE_WRITE, "close_write"},
        {IN_CLOSE_NOWRITE, "close"},
        {IN_OPEN, "open"},
        {IN_MOVED_FROM, "from"},
        {IN_MOVED_TO, "to"},
        {IN_CREATE, "create"},
        {IN_DELETE, "delete"},
        {IN_DELETE_SELF, "delete_self"},
        {IN_MOVE_SELF, "move_self"},
        {IN_UNMOUNT, "unmount"},
        {IN_Q_OVERFLOW, "overflow"},
        {IN_IGNORED, "ignored"},
        {IN_ISDIR, "dir"},
    };
    static char text[256];
    text[0] = 0;
    for (size_t index = 0; index < sizeof names / sizeof *names; index++) {
        if (mask & names[index].bit) {
            strcat(text, *text ? "|" : "");
            strcat(text, names[index].name);
            mask &= ~names[index].bit;
        }
    }
    if (mask) {
        sprintf(text + strlen(text), "|%x", mask);
    }
    return text;
}

/* All events that wait, as "watch:flags:name " each. */
static const char *drain(int fd) {
    static char text[65536];
    text[0] = 0;
    ssize_t length = read(fd, events, sizeof events);
    if (length == -1 && errno == EAGAIN) {
        return text;
    }
    CHECK_OK(length);
    for (ssize_t at = 0; at < length;) {
        struct inotify_event *event = (void *)(events + at);
        CHECK_EQ(event->len % sizeof *event, 0);
        char *end = text + strlen(text);
        sprintf(end, "%d:%s:%s ", event->wd, flag_names(event->mask), event->len ? event->name : "");
        at += sizeof *event + event->len;
    }
    return text;
}

static int new_inotify(void) {
    return CHECK_OK(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
}

/* A descriptor that watches `directory` for everything. */
static int watching(const char *path) {
    int fd = new_inotify();
    CHECK_EQ(inotify_add_watch(fd, path, IN_ALL_EVENTS), 1);
    return fd;
}

TEST(creation_and_use_in_a_directory) {
    enter_scratch();
    int fd = watching(".");
    int file = CHECK_OK(open("file", O_RDWR | O_CREAT | O_EXCL, 0644));
    CHECK_STR(drain(fd), "1:create:file 1:open:file ");
    CHECK_EQ(write(file, "text", 4), 4);
    CHECK_EQ(pwrite(file, "x", 1, 9), 1);
    char byte;
    CHECK_EQ(pread(file, &byte, 1, 0), 1);
    CHECK_EQ(pread(file, &byte, 1, 100), 0);
    CHECK_STR(drain(fd), "1:modify:file 1:access:file ");
    CHECK_OK(ftruncate(file, 2));
    CHECK_OK(fchmod(file, 0600));
    CHECK_OK(futimens(file, NULL));
    CHECK_STR(drain(fd), "1:modify:file 1:attrib:file ");
    CHECK_OK(close(file));
    CHECK_STR(drain(fd), "1:close_write:file ");
    CHECK_OK(close(CHECK_OK(open("file", O_RDONLY))));
    CHECK_STR(drain(fd), "1:open:file 1:close:file ");
    CHECK_OK(close(CHECK_OK(open("file", O_PATH))));
    CHECK_STR(drain(fd), "");
    CHECK_OK(close(CHECK_OK(open("file", O_WRONLY | O_TRUNC))));
    const char *text = drain(fd);
    CHECK(!strcmp(text, "1:modify:file 1:open:file 1:close_write:file ") ||
          !strcmp(text, "1:open:file 1:modify:file 1:close_write:file "));
}

TEST(every_kind_of_file_is_created) {
    enter_scratch();
    int fd = watching(".");
    CHECK_OK(mkdir("directory", 0755));
    CHECK_OK(symlink("x", "link"));
    CHECK_OK(mkfifo("fifo", 0600));
    CHECK_STR(drain(fd), "1:create|dir:directory 1:create:link 1:create:fifo ");
    int listener = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un address = {AF_UNIX, "socket"};
    CHECK_OK(bind(listener, (void *)&address, sizeof address));
    CHECK_STR(drain(fd), "1:create:socket ");
    CHECK_OK(link("fifo", "other"));
    CHECK_STR(drain(fd), "1:create:other ");
    CHECK_OK(unlink("fifo"));
    CHECK_OK(rmdir("directory"));
    CHECK_STR(drain(fd), "1:delete:fifo 1:delete|dir:directory ");
}

TEST(using_a_directory) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    int fd = watching("directory");
    int directory = CHECK_OK(open("directory", O_RDONLY | O_DIRECTORY));
    char buffer[1024];
    CHECK(syscall(SYS_getdents64, directory, buffer, sizeof buffer) > 0);
    CHECK_OK(fchmod(directory, 0700));
    CHECK_OK(close(directory));
    CHECK_STR(drain(fd), "1:open|dir: 1:access|dir: 1:attrib|dir: 1:close|dir: ");
    CHECK_OK(rename("directory", "moved"));
    CHECK_STR(drain(fd), "1:move_self: ");
    CHECK_OK(rmdir("moved"));
    CHECK_STR(drain(fd), "1:delete_self: 1:ignored: ");
}

TEST(moves_have_a_cookie) {
    enter_scratch();
    CHECK_OK(mkdir("a", 0755));
    CHECK_OK(mkdir("b", 0755));
    put_file("a/file", "x", 0644);
    put_file("b/old", "x", 0644);
    int fd = new_inotify();
    CHECK_EQ(inotify_add_watch(fd, "a", IN_ALL_EVENTS), 1);
    CHECK_EQ(inotify_add_watch(fd, "b", IN_ALL_EVENTS), 2);
    CHECK_EQ(inotify_add_watch(fd, "a/file", IN_ALL_EVENTS), 3);
    CHECK_EQ(inotify_add_watch(fd, "b/old", IN_ALL_EVENTS), 4);
    CHECK_OK(rename("a/file", "b/old"));
    CHECK_STR(drain(fd), "1:from:file 2:to:old 4:attrib: 3:move_self: 4:delete_self: 4:ignored: ");
    struct inotify_event *from = (void *)events, *to = (void *)(events + sizeof *from + from->len);
    CHECK(from->cookie != 0);
    CHECK_EQ(from->cookie, to->cookie);
    uint32_t cookie = from->cookie;
    CHECK_OK(rename("b/old", "b/new"));
    CHECK_STR(drain(fd), "2:from:old 2:to:new 3:move_self: ");
    CHECK(from->cookie != cookie);
    /* The watch goes with the file: events of it now carry its new name in the new directory. */
    CHECK_OK(chmod("b/new", 0600));
    CHECK_STR(drain(fd), "2:attrib:new 3:attrib: ");
}

TEST(exchange_is_two_moves) {
    enter_scratch();
    put_file("one", "1", 0644);
    CHECK_OK(mkdir("two", 0755));
    put_file("two/inner", "1", 0644);
    int fd = watching(".");
    CHECK_EQ(inotify_add_watch(fd, "two", IN_ALL_EVENTS), 2);
    CHECK_OK(syscall(SYS_renameat2, AT_FDCWD, "one", AT_FDCWD, "two", 2));
    CHECK_STR(drain(fd), "1:from:one 1:to:two 1:from|dir:two 1:to|dir:one 2:move_self: ");
    CHECK_OK(unlink("one/inner"));
    CHECK_STR(drain(fd), "2:delete:inner ");
    char text[8];
    get_file("two", text, sizeof text);
    CHECK_STR(text, "1");
}

TEST(links_and_the_last_name) {
    enter_scratch();
    put_file("file", "x", 0644);
    int fd = watching("file");
    CHECK_OK(link("file", "other"));
    CHECK_STR(drain(fd), "1:attrib: ");
    CHECK_OK(unlink("file"));
    CHECK_STR(drain(fd), "1:attrib: ");
    int open_file = CHECK_OK(open("other", O_RDONLY));
    CHECK_OK(unlink("other"));
    CHECK_STR(drain(fd), "1:open: 1:attrib: ");
    CHECK_OK(close(open_file));
    CHECK_STR(drain(fd), "1:close: 1:delete_self: 1:ignored: ");
    CHECK_ERR(inotify_rm_watch(fd, 1), EINVAL);
}

TEST(directory_and_file_are_told_in_this_order) {
    enter_scratch();
    put_file("file", "x", 0644);
    int fd = watching(".");
    CHECK_EQ(inotify_add_watch(fd, "file", IN_ALL_EVENTS), 2);
    CHECK_OK(chmod("file", 0600));
    CHECK_STR(drain(fd), "1:attrib:file 2:attrib: ");
    CHECK_OK(unlink("file"));
    CHECK_STR(drain(fd), "2:attrib: 2:delete_self: 2:ignored: 1:delete:file ");
}

TEST(removed_names_can_be_excluded) {
    enter_scratch();
    put_file("file", "x", 0644);
    int all = new_inotify(), named = new_inotify();
    CHECK_EQ(inotify_add_watch(all, ".", IN_MODIFY), 1);
    CHECK_EQ(inotify_add_watch(named, ".", IN_MODIFY | IN_EXCL_UNLINK), 1);
    int file = CHECK_OK(open("file", O_RDWR));
    CHECK_EQ(write(file, "x", 1), 1);
    CHECK_STR(drain(all), "1:modify:file ");
    CHECK_STR(drain(named), "1:modify:file ");
    CHECK_OK(unlink("file"));
    CHECK_EQ(write(file, "x", 1), 1);
    CHECK_STR(drain(all), "1:modify:file ");
    CHECK_STR(drain(named), "");
}

TEST(one_shot_ends_after_one) {
    enter_scratch();
    int fd = new_inotify();
    CHECK_EQ(inotify_add_watch(fd, ".", IN_CREATE | IN_ONESHOT), 1);
    put_file("one", "x", 0644);
    put_file("two", "x", 0644);
    CHECK_STR(drain(fd), "1:create:one 1:ignored: ");
    /* Numbers are not used again at once. */
    CHECK_EQ(inotify_add_watch(fd, ".", IN_CREATE), 2);
}

TEST(masks_are_replaced_added_or_refused) {
    enter_scratch();
    put_file("file", "x", 0644);
    CHECK_OK(symlink("file", "link"));
    int fd = new_inotify();
    CHECK_EQ(inotify_add_watch(fd, ".", IN_CREATE), 1);
    CHECK_EQ(inotify_add_watch(fd, ".", IN_DELETE | IN_MASK_ADD), 1);
    put_file("new", "x", 0644);
    CHECK_OK(unlink("new"));
    CHECK_STR(drain(fd), "1:create:new 1:delete:new ");
    CHECK_EQ(inotify_add_watch(fd, ".", IN_DELETE), 1);
    put_file("new", "x", 0644);
    CHECK_STR(drain(fd), "");
    CHECK_ERR(inotify_add_watch(fd, ".", IN_DELETE | IN_MASK_CREATE), EEXIST);
    CHECK_ERR(inotify_add_watch(fd, "file", IN_OPEN | IN_MASK_CREATE | IN_MASK_ADD), EINVAL);
    CHECK_EQ(inotify_add_watch(fd, "file", IN_OPEN | IN_MASK_CREATE), 2);
    CHECK_EQ(inotify_add_watch(fd, "link", IN_OPEN), 2);
    CHECK_EQ(inotify_add_watch(fd, "link", IN_ATTRIB | IN_DONT_FOLLOW), 3);
    CHECK_ERR(inotify_add_watch(fd, "link", IN_ONLYDIR | IN_CREATE), ENOTDIR);
    CHECK_EQ(inotify_add_watch(fd, ".", IN_ONLYDIR), 1);
    CHECK_ERR(inotify_add_watch(fd, ".", 0), EINVAL);
    CHECK_ERR(inotify_add_watch(fd, "missing", IN_OPEN), ENOENT);
    CHECK_ERR(inotify_add_watch(fd, BAD, IN_OPEN), EFAULT);
    CHECK_ERR(inotify_add_watch(999, ".", IN_OPEN), EBADF);
    CHECK_ERR(inotify_rm_watch(fd, 77), EINVAL);
    CHECK_ERR(inotify_rm_watch(999, 1), EBADF);
    CHECK_ERR(inotify_rm_watch(0, 1), EINVAL);
    CHECK_ERR(inotify_init1(1), EINVAL);
}

TEST(reading_needs_room) {
    enter_scratch();
    int fd = watching("."), waiting = 0;
    CHECK_ERR(read(fd, events, sizeof events), EAGAIN);
    CHECK_ERR(write(fd, events, 1), EBADF);
    CHECK_OK(mkdir("x", 0755));
    CHECK_OK(mkdir("0123456789abcdef", 0755));
    CHECK_OK(ioctl(fd, FIONREAD, &waiting));
    CHECK_EQ(waiting, 32 + 48);
    CHECK_ERR(read(fd, events, 31), EINVAL);
    CHECK_EQ(read(fd, events, 79), 32);
    CHECK_EQ(read(fd, events, 79), 48);
    struct pollfd wait = {fd, POLLIN | POLLOUT, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
}

TEST(readers_wait) {
    enter_scratch();
    int fd = CHECK_OK(inotify_init());
    CHECK_EQ(inotify_add_watch(fd, ".", IN_CREATE), 1);
    pid_t pid = CHILD({
        settle();
        CHECK_OK(mkdir("x", 0755));
    });
    CHECK_EQ(read(fd, events, sizeof events), 32);
    CHECK_EXIT(pid, 0);
}

TEST(too_many_events_are_lost_and_that_is_told) {
    enter_scratch();
    int fd = new_inotify(), waiting = 0;
    CHECK_EQ(inotify_add_watch(fd, ".", IN_ATTRIB), 1);
    char text[16];
    get_file("/proc/sys/fs/inotify/max_queued_events", text, sizeof text);
    int limit = atoi(text);
    CHECK(limit > 0);
    CHECK_OK(mkdir("a", 0755));
    CHECK_OK(mkdir("b", 0755));
    for (int index = 0; index < limit + 10; index++) {
        CHECK_OK(chmod(index % 2 ? "a" : "b", 0755));
    }
    CHECK_OK(ioctl(fd, FIONREAD, &waiting));
    CHECK_EQ(waiting, limit * 32 + 16);
    ssize_t length = 0, count;
    struct inotify_event last = {0};
    while ((count = read(fd, events, sizeof events)) > 0) {
        length += count;
        memcpy(&last, events + count - 16, 16);
    }
    CHECK_EQ(length, waiting);
    CHECK_EQ(last.mask, IN_Q_OVERFLOW);
    CHECK_EQ(last.wd, -1);
    CHECK_OK(chmod("a", 0755));
    CHECK_STR(drain(fd), "1:attrib|dir:a ");
}

TEST(copies_and_attributes) {
    enter_scratch();
    put_file("from", "text", 0644);
    put_file("to", "", 0644);
    int in = CHECK_OK(open("from", O_RDONLY)), out = CHECK_OK(open("to", O_WRONLY));
    int fd = watching(".");
    CHECK_EQ(sendfile(out, in, NULL, 4), 4);
    const char *text = drain(fd);
    CHECK(strstr(text, "1:modify:to ") != NULL);
    CHECK_OK(fallocate(out, 0, 0, 8192));
    CHECK_STR(drain(fd), "1:modify:to ");
    if (setxattr("to", "user.x", "y", 1, 0) == -1) {
        CHECK_EQ(errno, EOPNOTSUPP);
    } else {
        CHECK_STR(drain(fd), "1:attrib:to ");
        CHECK_OK(removexattr("to", "user.x"));
        CHECK_STR(drain(fd), "1:attrib:to ");
    }
    struct timespec times[2] = {{1, 0}, {0, UTIME_OMIT}};
    CHECK_OK(utimensat(AT_FDCWD, "to", times, 0));
    CHECK_STR(drain(fd), "1:access:to ");
    CHECK_OK(truncate("to", 1));
    CHECK_STR(drain(fd), "1:modify:to ");
}

HELPER(nothing) {
    return 0;
}

TEST(programs_are_opened_and_read) {
    int fd = new_inotify();
    CHECK_EQ(inotify_add_watch(fd, self_path, IN_OPEN | IN_ACCESS | IN_CLOSE), 1);
    pid_t pid = CHILD({
        execl(self_path, self_path, "--helper", "nothing", NULL);
    });
    CHECK_EXIT(pid, 0);
    const char *text = drain(fd);
    CHECK(!strncmp(text, "1:open: 1:access: ", 18));
    CHECK(strstr(text, "1:close: ") != NULL);
}

TEST(descriptor_information) {
    enter_scratch();
    put_file("file", "x", 0644);
    int fd = new_inotify();
    CHECK_EQ(inotify_add_watch(fd, "file", IN_OPEN | IN_CLOSE), 1);
    char path[64], text[1024], expected[128];
    sprintf(path, "/proc/self/fdinfo/%d", fd);
    get_file(path, text, sizeof text);
    struct stat status;
    CHECK_OK(stat("file", &status));
    sprintf(expected, "inotify wd:1 ino:%lx sdev:", status.st_ino);
    CHECK(strstr(text, expected) != NULL);
    CHECK(strstr(text, "mask:38 ") != NULL);
    sprintf(path, "/proc/self/fd/%d", fd);
    CHECK_EQ(readlink(path, text, sizeof text), 18);
    CHECK(!strncmp(text, "anon_inode:inotify", 18));
}

TEST(closing_ends_the_watches) {
    enter_scratch();
    for (int round = 0; round < 20; round++) {
        int fd = watching(".");
        CHECK_OK(close(fd));
    }
    int fd = watching(".");
    CHECK_OK(inotify_rm_watch(fd, 1));
    CHECK_OK(mkdir("x", 0755));
    CHECK_STR(drain(fd), "1:ignored: ");
}

TEST(forked_descriptors_share_the_queue) {
    enter_scratch();
    int fd = watching(".");
    CHECK_OK(mkdir("x", 0755));
    pid_t pid = CHILD({ CHECK_STR(drain(fd), "1:create|dir:x "); });
    CHECK_EXIT(pid, 0);
    CHECK_STR(drain(fd), "");
}
