/* Mounts: mount, umount2, pivot_root, and the newer calls. */
#include "test.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#define UNKNOWN_FLAG 0x10000

/* A scratch directory in a tree of mounts of this case's own, in which nothing spreads. */
static void enter_tree(void) {
    if (!has_capability(21)) {
        SKIP("needs CAP_SYS_ADMIN");
    }
    const char *scratch = enter_scratch();
    CHECK_OK(unshare(CLONE_NEWNS));
    CHECK_OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    CHECK_OK(mount("scratch", scratch, "tmpfs", 0, "mode=755"));
    CHECK_OK(chdir(scratch));
    CHECK_OK(mkdir("a", 0755));
    CHECK_OK(mkdir("b", 0755));
    put_file("file", "text", 0644);
}

/* The fields of the last line of mountinfo whose mount point ends in `end`: options in `options`, root in `root`. */
static bool find_mount(const char *end, char *root, char *options, char *kind) {
    FILE *stream = fopen("/proc/self/mountinfo", "r");
    CHECK(stream);
    char line[4096], point[1024];
    bool found = false;
    while (fgets(line, sizeof line, stream)) {
        char one_root[1024], one_options[256];
        if (sscanf(line, "%*d %*d %*s %1023s %1023s %255s", one_root, point, one_options) != 3) {
            continue;
        }
        size_t length = strlen(point), wanted = strlen(end);
        if (length >= wanted && !strcmp(point + length - wanted, end)) {
            found = true;
            strcpy(root, one_root);
            strcpy(options, one_options);
            char *rest = strstr(line, " - ");
            CHECK(rest && sscanf(rest, " - %63s", kind) == 1);
        }
    }
    fclose(stream);
    return found;
}

/* Whether a line of /proc/mounts ends so. */
static bool in_mounts(const char *end) {
    FILE *stream = fopen("/proc/mounts", "r");
    CHECK(stream);
    char line[4096];
    bool found = false;
    while (!found && fgets(line, sizeof line, stream)) {
        size_t length = strlen(line), wanted = strlen(end);
        found = length >= wanted && !strcmp(line + length - wanted, end);
    }
    fclose(stream);
    return found;
}

TEST(tmpfs_covers_and_uncovers) {
    enter_tree();
    put_file("a/below", "", 0600);
    CHECK_OK(mount("none", "a", "tmpfs", 0, "size=64k,mode=700,uid=7,gid=8"));
    struct stat info;
    CHECK_OK(stat("a", &info));
    CHECK_EQ(info.st_mode & 07777, 0700);
    CHECK_EQ(info.st_uid, 7);
    CHECK_EQ(info.st_gid, 8);
    CHECK_ERR(access("a/below", F_OK), ENOENT);
    CHECK_ERR(rmdir("a"), EBUSY);
    CHECK_ERR(rename("a", "c"), EBUSY);
    CHECK(in_mounts("a tmpfs rw,relatime,size=64k,mode=700,uid=7,gid=8 0 0\n"));
    struct statvfs size;
    CHECK_OK(statvfs("a", &size));
    CHECK_EQ(size.f_blocks * size.f_frsize, 65536);
    CHECK_OK(umount("a"));
    CHECK_OK(access("a/below", F_OK));
}

TEST(tmpfs_ends_at_its_size) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, "size=64k"));
    int fd = CHECK_OK(open("a/file", O_WRONLY | O_CREAT, 0600));
    static char block[65536];
    CHECK_EQ(write(fd, block, sizeof block), sizeof block);
    CHECK_ERR(write(fd, block, 1), ENOSPC);
}

TEST(mount_checks_its_arguments) {
    enter_tree();
    CHECK_ERR(mount("none", "missing", "tmpfs", 0, NULL), ENOENT);
    CHECK_ERR(mount("none", "a", "no-such-type", 0, NULL), ENODEV);
    CHECK_ERR(mount("none", "a", NULL, 0, NULL), EINVAL);
    CHECK_ERR(mount("none", "a", "tmpfs", 0, "no-such-option"), EINVAL);
    CHECK_ERR(mount("none", "a", "tmpfs", 0, "mode=9"), EINVAL);
    CHECK_ERR(mount("none", "file", "tmpfs", 0, NULL), ENOTDIR);
    CHECK_ERR(mount("missing", "a", NULL, MS_BIND, NULL), ENOENT);
    CHECK_ERR(mount("", "a", NULL, MS_BIND, NULL), EINVAL);
    CHECK_ERR(mount("none", "a", NULL, MS_PRIVATE, NULL), EINVAL);
    CHECK_ERR(mount("none", "/", NULL, MS_PRIVATE | MS_SHARED, NULL), EINVAL);
    CHECK_ERR(mount("none", "a", NULL, MS_REMOUNT, NULL), EINVAL);
    CHECK_ERR(mount("none", BAD, "tmpfs", 0, NULL), EFAULT);
}

TEST(mounting_without_the_right_is_eperm) {
    enter_tree();
    CHECK_OK(setresuid(1000, 1000, 1000));
    CHECK_ERR(mount("none", "a", "tmpfs", 0, NULL), EPERM);
    CHECK_ERR(mount("none", "missing", "tmpfs", 0, NULL), ENOENT);
    CHECK_ERR(umount("a"), EPERM);
    CHECK_ERR(umount2("a", UNKNOWN_FLAG), EINVAL);
    CHECK_ERR(syscall(SYS_pivot_root, "a", "a"), EPERM);
    CHECK_ERR(syscall(SYS_fsopen, "tmpfs", 0), EPERM);
}

TEST(bind_shows_the_same_files) {
    enter_tree();
    put_file("a/one", "", 0600);
    CHECK_OK(mount("a", "b", NULL, MS_BIND, NULL));
    CHECK_OK(access("b/one", F_OK));
    put_file("b/two", "", 0600);
    CHECK_OK(access("a/two", F_OK));
    char root[1024], options[256], kind[64];
    CHECK(find_mount("/b", root, options, kind));
    CHECK_STR(root, "/a");
    CHECK_STR(kind, "tmpfs");
    CHECK_OK(umount("b"));
    CHECK_ERR(umount("b"), EINVAL);
}

TEST(bind_of_a_file) {
    enter_tree();
    put_file("other", "other", 0600);
    CHECK_ERR(mount("file", "a", NULL, MS_BIND, NULL), ENOTDIR);
    CHECK_ERR(mount("a", "file", NULL, MS_BIND, NULL), ENOTDIR);
    CHECK_OK(mount("other", "file", NULL, MS_BIND, NULL));
    char text[16];
    get_file("file", text, sizeof text);
    CHECK_STR(text, "other");
    CHECK_ERR(unlink("file"), EBUSY);
    CHECK_OK(umount("file"));
}

TEST(recursive_bind_takes_what_is_mounted_below) {
    enter_tree();
    CHECK_OK(mkdir("a/inner", 0755));
    CHECK_OK(mount("none", "a/inner", "tmpfs", 0, NULL));
    put_file("a/inner/file", "", 0600);
    CHECK_OK(mount("a", "b", NULL, MS_BIND, NULL));
    CHECK_ERR(access("b/inner/file", F_OK), ENOENT);
    CHECK_OK(umount("b"));
    CHECK_OK(mount("a", "b", NULL, MS_BIND | MS_REC, NULL));
    CHECK_OK(access("b/inner/file", F_OK));
    CHECK_ERR(umount("b"), EBUSY);
    CHECK_OK(umount2("b", MNT_DETACH));
    CHECK_OK(access("a/inner/file", F_OK));
}

TEST(read_only_bind) {
    enter_tree();
    CHECK_OK(mount("a", "b", NULL, MS_BIND, NULL));
    CHECK_OK(mount("none", "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL));
    CHECK_ERR(open("b/new", O_WRONLY | O_CREAT, 0600), EROFS);
    CHECK_ERR(mkdir("b/new", 0700), EROFS);
    put_file("a/new", "", 0600);
    CHECK_ERR(open("b/new", O_WRONLY), EROFS);
    CHECK_ERR(chmod("b/new", 0644), EROFS);
    char root[1024], options[256], kind[64];
    CHECK(find_mount("/b", root, options, kind));
    CHECK(!strncmp(options, "ro,nosuid", 9));
    CHECK_OK(mount("none", "b", NULL, MS_REMOUNT | MS_BIND, NULL));
    CHECK_OK(chmod("b/new", 0644));
}

TEST(mount_flags_are_told_and_kept) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME, NULL));
    char root[1024], options[256], kind[64];
    CHECK(find_mount("/a", root, options, kind));
    CHECK_STR(options, "rw,nosuid,nodev,noexec,noatime");
    struct statvfs info;
    CHECK_OK(statvfs("a", &info));
    CHECK_EQ(info.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME | ST_RDONLY),
             ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME);
    put_file("a/program", "#!/bin/sh\n", 0755);
    char *arguments[] = {"program", NULL};
    CHECK_ERR(execv("a/program", arguments), EACCES);
    CHECK_OK(mount("none", "b", "tmpfs", 0, NULL));
    CHECK(find_mount("/b", root, options, kind));
    CHECK_STR(options, "rw,relatime");
}

TEST(busy_mounts) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    int fd = CHECK_OK(open("a/file", O_RDWR | O_CREAT, 0600));
    CHECK_ERR(umount("a"), EBUSY);
    CHECK_OK(umount2("a", MNT_DETACH));
    CHECK_ERR(access("a/file", F_OK), ENOENT);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    CHECK_OK(chdir("a"));
    CHECK_ERR(umount("../a"), EBUSY);
    CHECK_OK(chdir(".."));
    CHECK_OK(umount("a"));
    CHECK_ERR(umount2("a", 0), EINVAL);
    CHECK_ERR(umount2("missing", 0), ENOENT);
    CHECK_ERR(umount2("a", UNKNOWN_FLAG), EINVAL);
}

TEST(mounts_lie_on_each_other) {
    enter_tree();
    CHECK_OK(mount("one", "a", "tmpfs", 0, NULL));
    put_file("a/one", "", 0600);
    CHECK_OK(mount("two", "a", "tmpfs", 0, NULL));
    CHECK_ERR(access("a/one", F_OK), ENOENT);
    CHECK_OK(umount("a"));
    CHECK_OK(access("a/one", F_OK));
    CHECK_OK(umount("a"));
}

TEST(move_of_a_mount) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    put_file("a/moved", "", 0600);
    CHECK_OK(mkdir("a/deep", 0700));
    CHECK_ERR(mount("a", "a/deep", NULL, MS_MOVE, NULL), ELOOP);
    CHECK_ERR(mount("b", "a", NULL, MS_MOVE, NULL), EINVAL);
    CHECK_OK(mount("a", "b", NULL, MS_MOVE, NULL));
    CHECK_OK(access("b/moved", F_OK));
    CHECK_ERR(access("a/moved", F_OK), ENOENT);
}

TEST(parent_of_a_mounts_root) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    CHECK_OK(chdir("a"));
    CHECK_OK(access("../file", F_OK));
    char here[256];
    CHECK(getcwd(here, sizeof here));
    CHECK_STR(strrchr(here, '/'), "/a");
}

TEST(pivot_root_changes_the_root) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    CHECK_OK(mkdir("a/old", 0700));
    put_file("a/inside", "", 0600);
    CHECK_ERR(syscall(SYS_pivot_root, "b", "b"), EINVAL);
    CHECK_ERR(syscall(SYS_pivot_root, "file", "file"), ENOTDIR);
    CHECK_ERR(syscall(SYS_pivot_root, "missing", "missing"), ENOENT);
    CHECK_ERR(syscall(SYS_pivot_root, "a", "b"), EINVAL);
    CHECK_ERR(syscall(SYS_pivot_root, "/", "/"), EBUSY);
    CHECK_OK(syscall(SYS_pivot_root, "a", "a/old"));
    CHECK_OK(chdir("/"));
    CHECK_OK(access("/inside", F_OK));
    CHECK_OK(access("/old/proc", F_OK));
    CHECK_OK(umount2("/old", MNT_DETACH));
    CHECK_ERR(access("/old/proc", F_OK), ENOENT);
    CHECK_OK(access("/../inside", F_OK));
}

TEST(pivot_root_onto_itself) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    put_file("a/inside", "", 0600);
    CHECK_OK(chdir("a"));
    CHECK_OK(syscall(SYS_pivot_root, ".", "."));
    CHECK_OK(umount2(".", MNT_DETACH));
    CHECK_OK(access("/inside", F_OK));
    CHECK_ERR(access("/proc", F_OK), ENOENT);
}

TEST(new_calls_make_and_attach_a_file_system) {
    enter_tree();
    int setup = CHECK_OK(syscall(SYS_fsopen, "tmpfs", 1));
    CHECK_ERR(syscall(SYS_fsmount, setup, 0, 0), EINVAL);
    CHECK_OK(syscall(SYS_fsconfig, setup, 1, "source", "name", 0));
    CHECK_OK(syscall(SYS_fsconfig, setup, 1, "mode", "711", 0));
    CHECK_ERR(syscall(SYS_fsconfig, setup, 1, "no-such-option", "x", 0), EINVAL);
    CHECK_OK(syscall(SYS_fsconfig, setup, 6, NULL, NULL, 0));
    int tree = CHECK_OK(syscall(SYS_fsmount, setup, 1, 8));
    int fd = CHECK_OK(openat(tree, "file", O_WRONLY | O_CREAT, 0600));
    CHECK_OK(close(fd));
    CHECK_OK(syscall(SYS_move_mount, tree, "", AT_FDCWD, "a", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK_OK(access("a/file", F_OK));
    struct stat info;
    CHECK_OK(stat("a", &info));
    CHECK_EQ(info.st_mode & 07777, 0711);
    char root[1024], options[256], kind[64];
    CHECK(find_mount("/a", root, options, kind));
    CHECK_STR(options, "rw,noexec,relatime");
    CHECK_OK(close(tree));
    CHECK_OK(access("a/file", F_OK));
    CHECK_ERR(syscall(SYS_fsopen, "no-such-type", 0), ENODEV);
    CHECK_ERR(syscall(SYS_fsopen, "tmpfs", 2), EINVAL);
}

TEST(open_tree_copies_a_tree) {
    enter_tree();
    CHECK_OK(mkdir("a/inner", 0755));
    CHECK_OK(mount("none", "a/inner", "tmpfs", 0, NULL));
    put_file("a/inner/file", "", 0600);
    CHECK_ERR(syscall(SYS_open_tree, AT_FDCWD, "a", AT_RECURSIVE), EINVAL);
    int tree = CHECK_OK(syscall(SYS_open_tree, AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC));
    CHECK_OK(faccessat(tree, "inner/file", F_OK, 0));
    CHECK_OK(umount("a/inner"));
    CHECK_OK(faccessat(tree, "inner/file", F_OK, 0));
    CHECK_OK(syscall(SYS_move_mount, tree, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK_OK(access("b/inner/file", F_OK));
    int place = CHECK_OK(syscall(SYS_open_tree, AT_FDCWD, "b", 0));
    CHECK_EQ(fcntl(place, F_GETFL) & O_PATH, O_PATH);
}

TEST(mount_setattr_changes_flags) {
    enter_tree();
    CHECK_OK(mount("none", "a", "tmpfs", 0, NULL));
    struct {
        uint64_t set, clear, propagation, user;
    } change = {1, 0, 0, 0};
    CHECK_OK(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, &change, sizeof change));
    CHECK_ERR(mkdir("a/new", 0700), EROFS);
    change.set = 0;
    change.clear = 1;
    CHECK_OK(syscall(SYS_mount_setattr, AT_FDCWD, "a", AT_RECURSIVE, &change, sizeof change));
    CHECK_OK(mkdir("a/new", 0700));
    CHECK_ERR(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &change, sizeof change), EINVAL);
    change.set = 1u << 30;
    CHECK_ERR(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, &change, sizeof change), EINVAL);
    CHECK_ERR(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, &change, 8), EINVAL);
}

TEST(proc_can_be_mounted_upon) {
    enter_tree();
    CHECK_OK(mount("proc", "a", "proc", 0, NULL));
    CHECK_OK(mount("a/sys", "a/sys", NULL, MS_BIND, NULL));
    CHECK_OK(mount("none", "a/sys", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    CHECK_ERR(open("a/sys/kernel/hostname", O_WRONLY), EROFS);
    CHECK_OK(mount("/dev/null", "a/cmdline", NULL, MS_BIND, NULL));
    char text[16];
    CHECK_EQ(get_file("a/cmdline", text, sizeof text), 0);
    CHECK_OK(umount("a/cmdline"));
    CHECK(get_file("a/cmdline", text, sizeof text) > 0);
}
