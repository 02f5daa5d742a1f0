/* Looking at files, opening and listing them where the host keeps them, and where the guest does. */
#include "test.h"

/* What is named, with how looking at it, following it, opening it and reading it as a link end. */
static const struct {
    const char *path;
    int lstat, stat, open, readlink;
} PATHS[] = {
    {"file", 0, 0, 0, EINVAL},
    {"./file", 0, 0, 0, EINVAL},
    {"file/", ENOTDIR, ENOTDIR, ENOTDIR, ENOTDIR},
    {"file/.", ENOTDIR, ENOTDIR, ENOTDIR, ENOTDIR},
    {"file/x", ENOTDIR, ENOTDIR, ENOTDIR, ENOTDIR},
    {"missing", ENOENT, ENOENT, ENOENT, ENOENT},
    {"missing/", ENOENT, ENOENT, ENOENT, ENOENT},
    {"missing/x", ENOENT, ENOENT, ENOENT, ENOENT},
    {"directory", 0, 0, 0, EINVAL},
    {"directory/", 0, 0, 0, EINVAL},
    {"directory//", 0, 0, 0, EINVAL},
    {"directory/.", 0, 0, 0, EINVAL},
    {"directory/..", 0, 0, 0, EINVAL},
    {"directory//inner", 0, 0, 0, EINVAL},
    {"directory/../directory/inner", 0, 0, 0, EINVAL},
    {"directory/./inner/", ENOTDIR, ENOTDIR, ENOTDIR, ENOTDIR},
    {"link", 0, 0, 0, 0},
    {"directory/../link", 0, 0, 0, 0},
    {"link/", ENOTDIR, ENOTDIR, ENOTDIR, ENOTDIR},
    {"to-directory", 0, 0, 0, 0},
    {"to-directory/", 0, 0, 0, EINVAL},
    {"to-directory/.", 0, 0, 0, EINVAL},
    {"to-directory/inner", 0, 0, 0, EINVAL},
    {"to-directory/inner/", ENOTDIR, ENOTDIR, ENOTDIR, ENOTDIR},
    {"to-slash", 0, 0, 0, 0},
    {"to-slash/inner", 0, 0, 0, EINVAL},
    {"to-file-slash", 0, ENOTDIR, ENOTDIR, 0},
    {"dangling", 0, ENOENT, ENOENT, 0},
    {"dangling/", ENOENT, ENOENT, ENOENT, ENOENT},
    {"loop", 0, ELOOP, ELOOP, 0},
    {"loop/", ELOOP, ELOOP, ELOOP, ELOOP},
    {"loop/x", ELOOP, ELOOP, ELOOP, ELOOP},
    {"", ENOENT, ENOENT, ENOENT, ENOENT},
};

static void check_path(const char *path, const char *call, int result, int expected) {
    int error = result < 0 ? errno : 0;
    if (error != expected) {
        FAIL("%s of \"%s\": %s instead of %s", call, path, strerror(error),
             strerror(expected));
    }
}

static void check_paths(void) {
    CHECK_OK(mkdir("directory", 0755));
    put_file("file", "x", 0644);
    put_file("directory/inner", "x", 0644);
    CHECK_OK(symlink("file", "link"));
    CHECK_OK(symlink("directory", "to-directory"));
    CHECK_OK(symlink("directory/", "to-slash"));
    CHECK_OK(symlink("file/", "to-file-slash"));
    CHECK_OK(symlink("missing", "dangling"));
    CHECK_OK(symlink("loop", "loop"));
    /* More than once: what was found is remembered in several ways. */
    for (int round = 0; round < 20; round++) {
        for (size_t index = 0; index < sizeof PATHS / sizeof *PATHS; index++) {
            const char *path = PATHS[index].path;
            struct stat status;
            char text[64];
            check_path(path, "lstat", lstat(path, &status), PATHS[index].lstat);
            check_path(path, "stat", stat(path, &status), PATHS[index].stat);
            check_path(path, "access", access(path, R_OK), PATHS[index].stat);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            check_path(path, "open", fd, PATHS[index].open);
            if (fd >= 0) {
                struct stat opened;
                CHECK_OK(fstat(fd, &opened));
                CHECK_EQ(opened.st_ino, status.st_ino);
                CHECK_OK(close(fd));
            }
            check_path(path, "readlink", readlink(path, text, sizeof text), PATHS[index].readlink);
        }
    }
}

TEST(paths_end_as_they_should_in_a_volume) {
    enter_volume();
    check_paths();
}

TEST(paths_end_as_they_should_in_memory) {
    enter_scratch();
    check_paths();
}

/* What a name stands for, once it has been opened, is looked up or opened anew if it changes. */
static void check_changes(void) {
    for (int round = 0; round < 10; round++) {
        put_file("name", "first", 0644);
        put_file("other", "second", 0600);
        char text[16];
        for (int again = 0; again < 3; again++) {
            get_file("name", text, sizeof text);
            CHECK_STR(text, "first");
        }
        int before = CHECK_OK(open("name", O_RDONLY));
        CHECK_OK(rename("other", "name"));
        get_file("name", text, sizeof text);
        CHECK_STR(text, "second");
        struct stat old, new;
        CHECK_OK(fstat(before, &old));
        CHECK_OK(stat("name", &new));
        CHECK(old.st_ino != new.st_ino);
        CHECK_EQ(old.st_nlink, 0);
        CHECK_EQ(new.st_mode & 0777, 0600);
        CHECK_OK(close(before));
        CHECK_OK(chmod("name", 0640));
        CHECK_OK(stat("name", &new));
        CHECK_EQ(new.st_mode & 0777, 0640);
        CHECK_OK(link("name", "again"));
        get_file("again", text, sizeof text);
        get_file("name", text, sizeof text);
        CHECK_OK(stat("name", &new));
        CHECK_EQ(new.st_nlink, 2);
        CHECK_OK(unlink("name"));
        CHECK_ERR(open("name", O_RDONLY), ENOENT);
        CHECK_OK(symlink("again", "name"));
        CHECK_ERR(open("name", O_RDONLY | O_NOFOLLOW), ELOOP);
        get_file("name", text, sizeof text);
        CHECK_STR(text, "second");
        CHECK_OK(unlink("name"));
        CHECK_OK(mkdir("name", 0755));
        CHECK_ERR(open("name", O_WRONLY), EISDIR);
        CHECK_OK(stat("name", &new));
        CHECK(S_ISDIR(new.st_mode));
        CHECK_OK(rmdir("name"));
        CHECK_OK(unlink("again"));
    }
}

TEST(names_change_in_a_volume) {
    enter_volume();
    check_changes();
}

TEST(names_change_in_memory) {
    enter_scratch();
    check_changes();
}

struct kernel_dirent {
    unsigned long inode;
    long next;
    unsigned short length;
    char rest[];
};

enum { LONGEST = 255 };

/* A directory with a name of each length comes out whole, whatever the size of the buffer. */
static void check_listing(void) {
    char name[LONGEST + 1] = {0};
    CHECK_OK(mkdir("list", 0755));
    for (int length = 1; length <= LONGEST; length++) {
        memset(name, 'n', length);
        char path[300];
        snprintf(path, sizeof path, "list/%s", name);
        put_file(path, "", 0644);
    }
    static char buffer[1 << 20];
    static const size_t SIZES[] = {300, 1000, 4096, 32768, 65536, sizeof buffer};
    int fd = CHECK_OK(open("list", O_RDONLY | O_DIRECTORY));
    for (int old = 0; old < 2; old++) {
        for (size_t size = 0; size < sizeof SIZES / sizeof *SIZES; size++) {
            bool seen[LONGEST + 1] = {0};
            int dots = 0;
            long count;
            CHECK_OK(lseek(fd, 0, SEEK_SET));
            while ((count = CHECK_OK(
                        syscall(old ? SYS_getdents : SYS_getdents64, fd, buffer, SIZES[size]))) > 0) {
                for (long offset = 0; offset < count;) {
                    struct kernel_dirent *entry = (void *)(buffer + offset);
                    const char *text = old ? entry->rest : entry->rest + 1;
                    unsigned char type = old ? buffer[offset + entry->length - 1] : entry->rest[0];
                    CHECK_EQ(entry->length % 8, 0);
                    CHECK_EQ(type, text[0] == '.' ? DT_DIR : DT_REG);
                    if (text[0] == '.') {
                        dots++;
                    } else {
                        size_t length = strlen(text);
                        CHECK_EQ(strspn(text, "n"), length);
                        CHECK(!seen[length]);
                        seen[length] = true;
                    }
                    offset += entry->length;
                }
            }
            CHECK_EQ(dots, 2);
            for (int length = 1; length <= LONGEST; length++) {
                CHECK(seen[length]);
            }
        }
        CHECK_OK(lseek(fd, 0, SEEK_SET));
        CHECK_ERR(syscall(old ? SYS_getdents : SYS_getdents64, fd, buffer, 16), EINVAL);
    }
}

TEST(names_of_all_lengths_are_listed_in_a_volume) {
    enter_volume();
    check_listing();
}

TEST(names_of_all_lengths_are_listed_in_memory) {
    enter_scratch();
    check_listing();
}
