/* procfs: what programs read there, and what they may write. */
#include "test.h"

#include <sys/resource.h>

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
