/* procfs: what programs read there, and what they may write. */
#include "test.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The contents of a file, in a buffer that the next call uses again. */
static char *contents(const char *path) {
    static char text[1 << 20];
    int fd = CHECK_OK(open(path, O_RDONLY));
    size_t length = 0;
    ssize_t count;
    while ((count = CHECK_OK(read(fd, text + length, sizeof text - 1 - length))) > 0) {
        length += count;
    }
    text[length] = 0;
    CHECK_OK(close(fd));
    return text;
}

static unsigned mode_of_link(int fd) {
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK_OK(lstat(path, &status));
    CHECK(S_ISLNK(status.st_mode));
    return status.st_mode & 07777;
}

TEST(descriptors_show_what_they_were_opened_for) {
    enter_scratch();
    int writing = CHECK_OK(open("file", O_WRONLY | O_CREAT, 0600));
    CHECK_EQ(mode_of_link(writing), 0300);
    CHECK_EQ(mode_of_link(CHECK_OK(open("file", O_RDONLY))), 0500);
    CHECK_EQ(mode_of_link(CHECK_OK(open("file", O_RDWR))), 0700);
    CHECK_EQ(mode_of_link(CHECK_OK(open("file", O_PATH))), 0);
}

TEST(a_pipe_belongs_to_its_maker) {
    REQUIRE_ROOT();
    CHECK_EXIT(CHILD({
                   CHECK_OK(setgid(3));
                   CHECK_OK(setuid(2));
                   int ends[2];
                   struct stat status;
                   CHECK_OK(pipe(ends));
                   CHECK_OK(fstat(ends[0], &status));
                   CHECK_EQ(status.st_uid, 2);
                   CHECK_EQ(status.st_gid, 3);
                   CHECK_EQ(status.st_mode & 07777, 0600);
                   char path[64];
                   snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
                   CHECK_OK(open(path, O_RDONLY));
                   CHECK_OK(fchmod(ends[0], 0640));
                   CHECK_OK(fstat(ends[1], &status));
                   CHECK_EQ(status.st_mode & 07777, 0640);
               }),
               0);
}

TEST(environ_and_arguments) {
    char *text = contents("/proc/self/cmdline");
    CHECK(strlen(text) > 0);
    CHECK(strchr(contents("/proc/self/comm"), '\n') != NULL);
    CHECK(strncmp(contents("/proc/self/status"), "Name:\t", 6) == 0);
}

TEST(memory_is_a_file_by_address) {
    volatile long word = 41;
    long copy = 0, changed = 42;
    int fd = CHECK_OK(open("/proc/self/mem", O_RDWR));
    CHECK_EQ(pread(fd, &copy, sizeof copy, (off_t)(uintptr_t)&word), sizeof copy);
    CHECK_EQ(copy, 41);
    CHECK_EQ(pwrite(fd, &changed, sizeof changed, (off_t)(uintptr_t)&word), sizeof changed);
    CHECK_EQ(word, 42);
    CHECK_EQ(lseek(fd, (off_t)(uintptr_t)&word, SEEK_SET), (off_t)(uintptr_t)&word);
    CHECK_EQ(read(fd, &copy, sizeof copy), sizeof copy);
    CHECK_EQ(copy, 42);
    CHECK_ERR(pread(fd, &copy, sizeof copy, 4096), EIO);
    CHECK_ERR(pwrite(fd, &copy, sizeof copy, 4096), EIO);
}

/* The number behind a field of smaps, of the mapping that starts at an address; -1 if there is none. */
static long smaps_field(void *start, const char *field) {
    char head[32];
    snprintf(head, sizeof head, "%08lx-", (unsigned long)start);
    char *mapping = strstr(contents("/proc/self/smaps"), head);
    char *found = mapping ? strstr(mapping, field) : NULL;
    return found ? strtol(found + strlen(field), NULL, 10) : -1;
}

TEST(smaps_tells_what_is_resident) {
    size_t size = 1 << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK_EQ(smaps_field(memory, "\nSize:"), 1024);
    CHECK_EQ(smaps_field(memory, "\nRss:"), 0);
    memset(memory, 1, size / 2);
    long resident = smaps_field(memory, "\nRss:");
    CHECK(resident >= 512 && resident <= 1024);
    CHECK(strstr(contents("/proc/self/smaps_rollup"), "[rollup]\nRss:") != NULL);
    int mappings = 0, sizes = 0;
    for (char *at = contents("/proc/self/smaps"); (at = strstr(at, "\nVmFlags:")); at++) {
        mappings++;
    }
    for (char *at = contents("/proc/self/smaps"); (at = strstr(at, "\nSize:")); at++) {
        sizes++;
    }
    CHECK(mappings > 5);
    CHECK_EQ(mappings, sizes);
}

TEST(sockets_are_listed) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0nacelle-test-of-proc"};
    int fd = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + strlen(address.sun_path + 1) + 1;
    CHECK_OK(bind(fd, (struct sockaddr *)&address, length));
    CHECK_OK(listen(fd, 1));
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    char *line = strstr(contents("/proc/net/unix"), " @nacelle-test-of-proc\n");
    CHECK(line != NULL);
    while (line[-1] != '\n') {
        line--;
    }
    unsigned long number, inode;
    unsigned references, protocol, flags, type, state;
    CHECK_EQ(sscanf(line, "%lx: %x %x %x %x %x %lu", &number, &references, &protocol, &flags, &type, &state, &inode), 7);
    CHECK_EQ(flags, 0x10000);
    CHECK_EQ(type, SOCK_STREAM);
    CHECK_EQ(state, 1);
    CHECK_EQ(inode, status.st_ino);
}

TEST(timer_slack_is_that_of_prctl) {
    CHECK_OK(prctl(PR_SET_TIMERSLACK, 77777));
    CHECK_EQ(atol(contents("/proc/self/timerslack_ns")), 77777);
}

TEST(children_are_listed) {
    int hold[2];
    CHECK_OK(pipe(hold));
    pid_t pid = CHILD({
        char byte;
        close(hold[1]);
        CHECK_EQ(read(hold[0], &byte, 1), 0);
    });
    char path[64], expected[32];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    if (access(path, F_OK)) {
        SKIP("the kernel was built without lists of children");
    }
    snprintf(expected, sizeof expected, "%d ", pid);
    CHECK_STR(contents(path), expected);
    CHECK_OK(close(hold[1]));
    CHECK_EXIT(pid, 0);
}

TEST(settings_are_numbers) {
    static const char *const settings[] = {
        "fs/file-max", "fs/nr_open", "fs/inotify/max_user_watches", "kernel/pid_max", "kernel/threads-max",
        "kernel/ngroups_max", "kernel/cap_last_cap", "net/core/somaxconn", "vm/max_map_count", "vm/swappiness",
        "vm/overcommit_ratio", "kernel/random/entropy_avail", "user/max_user_namespaces",
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        char path[128], *end;
        snprintf(path, sizeof path, "/proc/sys/%s", settings[i]);
        char *text = contents(path);
        strtoull(text, &end, 10);
        if (end == text || *end != '\n') {
            FAIL("%s has \"%s\"", path, text);
        }
    }
}

TEST(processors_are_in_sysfs) {
    char *text = contents("/sys/devices/system/cpu/possible");
    CHECK_EQ(strncmp(text, "0", 1), 0);
    char *dash = strchr(text, '-');
    CHECK_EQ(sysconf(_SC_NPROCESSORS_CONF), dash ? atol(dash + 1) + 1 : 1);
    CHECK_EQ(atol(contents("/sys/devices/system/node/online")), 0);
    CHECK_OK(access("/sys/fs/cgroup", F_OK));
    CHECK_ERR(open("/sys/devices/nothing", O_RDONLY), ENOENT);
}

TEST(files_can_be_sent_as_well_as_read) {
    static const char *const paths[] = {"/proc/sys/kernel/hostname", "/proc/sys/kernel/shmmni"};
    enter_scratch();
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        int out = CHECK_OK(open("out", O_RDWR | O_CREAT | O_TRUNC, 0600));
        int in = CHECK_OK(open(paths[i], O_RDONLY));
        ssize_t sent = CHECK_OK(sendfile(out, in, NULL, 4096));
        char *text = contents(paths[i]);
        char copy[4096];
        CHECK_EQ(pread(out, copy, sizeof copy, 0), sent);
        CHECK(sent > 1 && memcmp(copy, text, sent) == 0);
        CHECK_OK(close(in));
        CHECK_OK(close(out));
    }
}
