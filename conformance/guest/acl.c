/* Access control lists, acl(5), as the extended attributes that programs see. */
#include "test.h"

#include <grp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"

enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 0x10, OTHER = 0x20 };

struct entry {
    uint16_t tag, allowed;
    uint32_t id;
};

struct list {
    uint32_t version;
    struct entry entries[8];
};

#define LIST(...) ((struct list){2, {__VA_ARGS__}})
#define SIZE(count) (sizeof(uint32_t) + (count) * sizeof(struct entry))

/* Owner rw-, user 1234 rwx, group r--, mask r--, others nothing. */
#define USUAL LIST({USER_OBJ, 6, -1}, {USER, 7, 1234}, {GROUP_OBJ, 4, -1}, {MASK, 4, -1}, {OTHER, 0, -1})

static unsigned count_entries(const struct list *list) {
    unsigned count = 0;
    while (count < 8 && list->entries[count].tag) {
        count++;
    }
    return count;
}

static int set(const char *path, const char *name, struct list list) {
    return lsetxattr(path, name, &list, SIZE(count_entries(&list)), 0);
}

/* Fails unless the file has just this list. */
static void check_list(const char *path, const char *name, struct list expected) {
    struct list seen = {0};
    CHECK_EQ(CHECK_OK(lgetxattr(path, name, &seen, sizeof seen)), SIZE(count_entries(&expected)));
    CHECK_EQ(seen.version, 2);
    for (unsigned at = 0; at < count_entries(&expected); at++) {
        CHECK_EQ(seen.entries[at].tag, expected.entries[at].tag);
        CHECK_EQ(seen.entries[at].allowed, expected.entries[at].allowed);
        CHECK_EQ(seen.entries[at].id, expected.entries[at].id);
    }
}

static unsigned mode_of(const char *path) {
    struct stat info;
    CHECK_OK(lstat(path, &info));
    return info.st_mode & 07777;
}

/* A directory with a file and a directory, where lists can be kept. */
static void enter(void) {
    enter_scratch();
    umask(022);
    put_file("file", "text", 0644);
    CHECK_OK(mkdir("directory", 0755));
    if (set("file", ACCESS, USUAL) == -1 && errno == EOPNOTSUPP) {
        SKIP("the file system has no access control lists");
    }
    CHECK_OK(removexattr("file", ACCESS));
    CHECK_OK(chmod("file", 0644));
}

static void become(uid_t uid, gid_t gid, gid_t further) {
    CHECK_OK(setgroups(1, &further));
    CHECK_OK(setresgid(gid, gid, gid));
    CHECK_OK(setresuid(uid, uid, uid));
}

TEST(a_list_is_kept_and_changes_the_mode) {
    char names[256];
    enter();
    CHECK_ERR(getxattr("file", ACCESS, NULL, 0), ENODATA);
    CHECK_ERR(getxattr("file", DEFAULT, NULL, 0), ENODATA);
    CHECK_OK(set("file", ACCESS, USUAL));
    check_list("file", ACCESS, USUAL);
    CHECK_EQ(mode_of("file"), 0640);
    CHECK_EQ(getxattr("file", ACCESS, NULL, 0), SIZE(5));
    CHECK_ERR(getxattr("file", ACCESS, names, SIZE(5) - 1), ERANGE);
    CHECK_EQ(CHECK_OK(listxattr("file", names, sizeof names)), sizeof ACCESS);
    CHECK_STR(names, ACCESS);
    /* Through a descriptor, and flags do not matter. */
    int fd = CHECK_OK(open("file", O_RDONLY));
    struct list list = USUAL;
    list.entries[3].allowed = 7;
    CHECK_OK(fsetxattr(fd, ACCESS, &list, SIZE(5), XATTR_CREATE));
    CHECK_EQ(mode_of("file"), 0670);
    CHECK_OK(fremovexattr(fd, ACCESS));
    CHECK_EQ(mode_of("file"), 0670);
    CHECK_ERR(fgetxattr(fd, ACCESS, NULL, 0), ENODATA);
    CHECK_OK(fremovexattr(fd, ACCESS));
    CHECK_EQ(CHECK_OK(listxattr("file", names, sizeof names)), 0);
    CHECK_OK(fsetxattr(fd, ACCESS, &list, SIZE(5), XATTR_REPLACE));
    CHECK_OK(fsetxattr(fd, ACCESS, &list, SIZE(0), 0));
    CHECK_ERR(fgetxattr(fd, ACCESS, NULL, 0), ENODATA);
}

TEST(a_list_that_says_what_a_mode_can_say_is_not_kept) {
    enter();
    CHECK_OK(chmod("file", 04644));
    CHECK_OK(set("file", ACCESS, LIST({USER_OBJ, 7, -1}, {GROUP_OBJ, 5, -1}, {OTHER, 1, -1})));
    CHECK_EQ(mode_of("file"), 04751);
    CHECK_ERR(getxattr("file", ACCESS, NULL, 0), ENODATA);
    struct list with_mask = LIST({USER_OBJ, 7, -1}, {GROUP_OBJ, 5, -1}, {MASK, 3, -1}, {OTHER, 1, -1});
    CHECK_OK(set("file", ACCESS, with_mask));
    CHECK_EQ(mode_of("file"), 04731);
    check_list("file", ACCESS, with_mask);
}

TEST(what_is_no_list_is_refused) {
    enter();
    struct list list = USUAL;
    CHECK_ERR(setxattr("file", ACCESS, &list, 3, 0), EINVAL);
    CHECK_ERR(setxattr("file", ACCESS, &list, SIZE(5) + 1, 0), EINVAL);
    CHECK_ERR(setxattr("file", ACCESS, &list, SIZE(4), 0), EINVAL);
    list.version = 1;
    CHECK_ERR(setxattr("file", ACCESS, &list, SIZE(5), 0), EOPNOTSUPP);
    CHECK_ERR(set("file", ACCESS, LIST({3, 6, -1}, {GROUP_OBJ, 4, -1}, {OTHER, 0, -1})), EINVAL);
    CHECK_ERR(set("file", ACCESS, LIST({USER_OBJ, 8, -1}, {GROUP_OBJ, 4, -1}, {OTHER, 0, -1})), EINVAL);
    CHECK_ERR(set("file", ACCESS, LIST({GROUP_OBJ, 4, -1}, {USER_OBJ, 6, -1}, {OTHER, 0, -1})), EINVAL);
    CHECK_ERR(set("file", ACCESS, LIST({USER_OBJ, 6, -1}, {USER_OBJ, 6, -1}, {GROUP_OBJ, 4, -1}, {OTHER, 0, -1})),
              EINVAL);
    CHECK_ERR(set("file", ACCESS, LIST({USER_OBJ, 6, -1}, {USER, 6, 1}, {GROUP_OBJ, 4, -1}, {OTHER, 0, -1})), EINVAL);
    CHECK_ERR(set("file", ACCESS, LIST({USER_OBJ, 6, -1}, {GROUP_OBJ, 4, -1}, {GROUP, 4, 1}, {OTHER, 0, -1})), EINVAL);
    CHECK_ERR(set("file", ACCESS,
                  LIST({USER_OBJ, 6, -1}, {USER, 6, -1}, {GROUP_OBJ, 4, -1}, {MASK, 4, -1}, {OTHER, 0, -1})),
              EINVAL);
    CHECK_ERR(setxattr("file", "system.posix_acl", &list, SIZE(5), 0), EOPNOTSUPP);
    CHECK_ERR(getxattr("file", ACCESS, NULL, 0), ENODATA);
    CHECK_EQ(mode_of("file"), 0644);
}

TEST(files_of_some_kinds_have_no_lists) {
    enter();
    CHECK_ERR(set("file", DEFAULT, USUAL), EACCES);
    CHECK_ERR(set("file", DEFAULT, LIST({USER_OBJ, 6, -1})), EACCES);
    CHECK_OK(removexattr("file", DEFAULT));
    CHECK_OK(symlink("file", "link"));
    CHECK_ERR(set("link", ACCESS, USUAL), EOPNOTSUPP);
    CHECK_ERR(set("link", DEFAULT, USUAL), EOPNOTSUPP);
    CHECK_ERR(lgetxattr("link", ACCESS, NULL, 0), EOPNOTSUPP);
    CHECK_ERR(lremovexattr("link", ACCESS), EOPNOTSUPP);
    CHECK_OK(mkfifo("fifo", 0600));
    CHECK_OK(set("fifo", ACCESS, USUAL));
    check_list("fifo", ACCESS, USUAL);
}

TEST(chmod_changes_the_list) {
    enter();
    CHECK_OK(set("file", ACCESS, USUAL));
    CHECK_OK(chmod("file", 0751));
    check_list("file", ACCESS,
               LIST({USER_OBJ, 7, -1}, {USER, 7, 1234}, {GROUP_OBJ, 4, -1}, {MASK, 5, -1}, {OTHER, 1, -1}));
    CHECK_OK(set("directory", ACCESS, USUAL));
    CHECK_OK(set("directory", DEFAULT, USUAL));
    CHECK_OK(chmod("directory", 0777));
    check_list("directory", DEFAULT, USUAL);
    CHECK_EQ(mode_of("directory"), 0777);
}

TEST(only_the_owner_sets_lists) {
    REQUIRE_ROOT();
    enter();
    CHECK_OK(set("file", ACCESS, USUAL));
    put_file("own", "", 0644);
    CHECK_OK(chown("own", 1234, 77));
    CHECK_OK(chmod("own", 02754));
    CHECK_EXIT(CHILD({
                   become(1234, 1234, 1234);
                   CHECK_ERR(set("file", ACCESS, USUAL), EPERM);
                   CHECK_ERR(set("file", ACCESS, LIST({USER_OBJ, 6, -1})), EPERM);
                   CHECK_ERR(set("directory", DEFAULT, USUAL), EPERM);
                   CHECK_ERR(removexattr("file", ACCESS), EPERM);
                   CHECK_OK(removexattr("file", DEFAULT));
                   check_list("file", ACCESS, USUAL);
                   /* Who is not in the file's group cannot keep its bit. */
                   CHECK_OK(set("own", ACCESS, USUAL));
                   CHECK_EQ(mode_of("own"), 0640);
               }),
               0);
}

/* Whether a user may read, write and run `file`, as the sum of 4, 2 and 1. */
static int rights(uid_t uid, gid_t gid, gid_t further) {
    int status = WAIT(CHILD({
        become(uid, gid, further);
        int seen = 0;
        for (int way = 1; way <= 4; way *= 2) {
            seen |= access("file", way) == 0 ? way : 0;
            CHECK_EQ(faccessat(AT_FDCWD, "file", way, AT_EACCESS) == 0, (seen & way) != 0);
        }
        int reads = open("file", O_RDONLY);
        int writes = open("file", O_WRONLY);
        CHECK_EQ(reads >= 0, (seen & 4) != 0);
        CHECK_EQ(writes >= 0, (seen & 2) != 0);
        _exit(seen);
    }));
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(access_is_decided_by_the_entry_that_fits_best) {
    REQUIRE_ROOT();
    enter();
    CHECK_OK(chown("file", 1000, 2000));
    CHECK_OK(set("file", ACCESS,
                 LIST({USER_OBJ, 4, -1}, {USER, 7, 1001}, {USER, 0, 1002}, {GROUP_OBJ, 4, -1}, {GROUP, 2, 2001},
                      {GROUP, 1, 2002}, {MASK, 6, -1}, {OTHER, 1, -1})));
    CHECK_EQ(rights(1000, 9, 9), 4);
    CHECK_EQ(rights(1001, 9, 9), 6);
    CHECK_EQ(rights(1002, 2000, 9), 0);
    CHECK_EQ(rights(1003, 2000, 9), 4);
    CHECK_EQ(rights(1003, 2001, 9), 2);
    CHECK_EQ(rights(1003, 9, 2001), 2);
    CHECK_EQ(rights(1003, 2002, 9), 0);
    CHECK_EQ(rights(1003, 9, 9), 1);
    CHECK_EXIT(CHILD({
                   become(1003, 2000, 2001);
                   CHECK_OK(access("file", R_OK));
                   CHECK_OK(access("file", W_OK));
                   CHECK_ERR(access("file", R_OK | W_OK), EACCES);
                   CHECK_ERR(open("file", O_RDWR), EACCES);
               }),
               0);
    /* Root passes, as it does the mode. */
    CHECK_OK(access("file", R_OK | W_OK | X_OK));
    /* An empty mask: the list does not matter. */
    CHECK_OK(chmod("file", 0604));
    CHECK_EQ(rights(1001, 9, 9), 4);
    CHECK_EQ(rights(1001, 2000, 9), 0);
}

TEST(a_directory_is_searched_by_its_list) {
    REQUIRE_ROOT();
    enter();
    put_file("directory/inner", "", 0644);
    CHECK_OK(set("directory", ACCESS,
                 LIST({USER_OBJ, 7, -1}, {USER, 7, 1001}, {GROUP_OBJ, 0, -1}, {MASK, 7, -1}, {OTHER, 0, -1})));
    CHECK_EXIT(CHILD({
                   become(1001, 9, 9);
                   CHECK_OK(access("directory/inner", R_OK));
                   put_file("directory/made", "", 0600);
                   CHECK_OK(unlink("directory/inner"));
               }),
               0);
    CHECK_EXIT(CHILD({
                   become(1002, 9, 9);
                   CHECK_ERR(access("directory/made", F_OK), EACCES);
                   CHECK_ERR(open("directory", O_RDONLY), EACCES);
               }),
               0);
}

TEST(files_made_in_a_directory_get_its_default_list) {
    char names[256];
    enter();
    CHECK_OK(set("directory", DEFAULT,
                 LIST({USER_OBJ, 7, -1}, {USER, 7, 1234}, {GROUP_OBJ, 5, -1}, {MASK, 7, -1}, {OTHER, 5, -1})));
    CHECK_EQ(mode_of("directory"), 0755);
    umask(077);
    CHECK_OK(chdir("directory"));
    struct list of_file = LIST({USER_OBJ, 6, -1}, {USER, 7, 1234}, {GROUP_OBJ, 5, -1}, {MASK, 6, -1}, {OTHER, 0, -1});
    close(CHECK_OK(open("file", O_CREAT | O_WRONLY, 0660)));
    CHECK_EQ(mode_of("file"), 0660);
    check_list("file", ACCESS, of_file);
    CHECK_ERR(getxattr("file", DEFAULT, NULL, 0), ENODATA);
    CHECK_OK(mkfifo("fifo", 0660));
    check_list("fifo", ACCESS, of_file);
    CHECK_OK(mkdir("inner", 0770));
    struct list of_directory =
        LIST({USER_OBJ, 7, -1}, {USER, 7, 1234}, {GROUP_OBJ, 5, -1}, {MASK, 7, -1}, {OTHER, 0, -1});
    check_list("inner", ACCESS, of_directory);
    of_directory.entries[4].allowed = 5;
    check_list("inner", DEFAULT, of_directory);
    CHECK_EQ(CHECK_OK(listxattr("inner", names, sizeof names)), sizeof ACCESS + sizeof DEFAULT);
    CHECK_OK(symlink("file", "link"));
    CHECK_EQ(mode_of("link"), 0777);
    int fd = open(".", O_TMPFILE | O_RDWR, 0660);
    if (fd >= 0) {
        CHECK_EQ(fgetxattr(fd, ACCESS, NULL, 0), SIZE(5));
    }
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int endpoint = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_OK(bind(endpoint, (void *)&name, sizeof name));
    CHECK_EQ(mode_of("socket"), 0700);
    check_list("socket", ACCESS,
               LIST({USER_OBJ, 7, -1}, {USER, 7, 1234}, {GROUP_OBJ, 5, -1}, {MASK, 0, -1}, {OTHER, 0, -1}));
    /* What is moved or linked here keeps what it has. */
    CHECK_OK(rename("../file", "moved"));
    CHECK_ERR(getxattr("moved", ACCESS, NULL, 0), ENODATA);
    /* One without users by name is a umask. */
    CHECK_OK(set("inner", DEFAULT, LIST({USER_OBJ, 7, -1}, {GROUP_OBJ, 5, -1}, {OTHER, 0, -1})));
    close(CHECK_OK(open("inner/file", O_CREAT | O_WRONLY, 0666)));
    CHECK_EQ(mode_of("inner/file"), 0640);
    CHECK_ERR(getxattr("inner/file", ACCESS, NULL, 0), ENODATA);
    CHECK_OK(removexattr("inner", DEFAULT));
    close(CHECK_OK(open("inner/other", O_CREAT | O_WRONLY, 0666)));
    CHECK_EQ(mode_of("inner/other"), 0600);
}

TEST(ids_are_those_of_the_user_namespace) {
    REQUIRE_ROOT();
    enter();
    CHECK_OK(set("file", ACCESS, USUAL));
    struct gate made = gate_new(), mapped = gate_new();
    pid_t pid = CHILD({
        if (unshare(CLONE_NEWUSER)) {
            SKIP("user namespaces cannot be made");
        }
        gate_open(&made);
        gate_wait(&mapped);
        check_list("file", ACCESS,
                   LIST({USER_OBJ, 6, -1}, {USER, 7, 5}, {GROUP_OBJ, 4, -1}, {MASK, 4, -1}, {OTHER, 0, -1}));
        CHECK_ERR(set("file", ACCESS, USUAL), EINVAL);
        struct list list = LIST({USER_OBJ, 6, -1}, {USER, 7, 6}, {GROUP_OBJ, 4, -1}, {MASK, 4, -1}, {OTHER, 0, -1});
        CHECK_OK(set("file", ACCESS, list));
        check_list("file", ACCESS, list);
    });
    close(made.ends[1]);
    char byte;
    if (read(made.ends[0], &byte, 1) == 1) {
        char path[64];
        const char *map = "0 0 1\n5 1234 2\n";
        snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
        int fd = CHECK_OK(open(path, O_WRONLY));
        CHECK_EQ(write(fd, map, strlen(map)), strlen(map));
        snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
        fd = CHECK_OK(open(path, O_WRONLY));
        CHECK_EQ(write(fd, "0 0 1\n", 6), 6);
        gate_open(&mapped);
    }
    CHECK_EXIT(pid, 0);
    struct list list = USUAL;
    list.entries[1].id = 1235;
    check_list("file", ACCESS, list);
}

