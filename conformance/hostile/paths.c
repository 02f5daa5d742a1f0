// A hostile guest: tries to leave its mounts.
//
// Usage: paths VOLUME SECONDS [INNER FILE]. VOLUME is a writable directory of the host shown in the sandbox; beside it on
// the host lies `outside/secret`. INNER shows its directory `inner` once more, and FILE a single file beside `outside`.
// Every trick tries to open that file, or to make `outside/made`, by some way out. What is read is
// printed, so that the test outside sees whether it is the secret; the status is 1 if anything was opened.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int found;
static const char *volume;

static void report(int fd, const char *how)
{
    char text[200];
    if (fd < 0)
        return;
    ssize_t length = read(fd, text, sizeof text - 1);
    text[length > 0 ? length : 0] = 0;
    printf("opened by %s: %s\n", how, text);
    found = 1;
    close(fd);
}

static void attempt(int directory, const char *prefix, const char *how)
{
    char path[8192];
    snprintf(path, sizeof path, "%soutside/secret", prefix);
    report(openat(directory, path, O_RDONLY), how);
    snprintf(path, sizeof path, "%soutside/made", prefix);
    int fd = openat(directory, path, O_RDWR | O_CREAT, 0600);
    if (fd >= 0) {
        printf("made a file by %s\n", how);
        found = 1;
        close(fd);
    }
}

static void climb(int directory, const char *how)
{
    char prefix[4096] = "";
    for (int depth = 0; depth < 40; depth++) {
        strcat(prefix, "../");
        attempt(directory, prefix, how);
    }
}

static void plain(void)
{
    climb(AT_FDCWD, "climbing from the working directory");
    int fd = open(volume, O_RDONLY | O_DIRECTORY);
    climb(fd, "climbing from a descriptor");
    fchdir(fd);
    climb(AT_FDCWD, "climbing from the volume");
    close(fd);
}

static void links(void)
{
    static const char *const targets[] = {
        "..", "../..", "../../../../..", "/..", "/proc/self/root/..", "/proc/1/root/..", "/proc/self/cwd/..",
        "/proc/self/fd/0/..", "/proc/self/task/../../1/root/..", "./../outside/..", "//..", "/proc/thread-self/root/..",
    };
    for (unsigned i = 0; i < sizeof targets / sizeof *targets; i++) {
        char name[300], prefix[320];
        snprintf(name, sizeof name, "%s/link%u", volume, i);
        unlink(name);
        if (symlink(targets[i], name))
            continue;
        snprintf(prefix, sizeof prefix, "%s/", name);
        attempt(AT_FDCWD, prefix, targets[i]);
        snprintf(prefix, sizeof prefix, "%s/../", name);
        attempt(AT_FDCWD, prefix, targets[i]);
        report(open(name, O_RDONLY | O_NOFOLLOW), targets[i]);
        char hard[320];
        snprintf(hard, sizeof hard, "%s.hard", name);
        unlink(hard);
        if (linkat(AT_FDCWD, name, AT_FDCWD, hard, AT_SYMLINK_FOLLOW) == 0) {
            printf("linked a directory through %s\n", targets[i]);
            found = 1;
        }
        unlink(name);
        unlink(hard);
    }
}

static void descriptors(void)
{
    char prefix[300];
    for (int fd = 0; fd < 1024; fd++) {
        attempt(fd, "../", "an inherited descriptor");
        attempt(fd, "", "an inherited descriptor");
        snprintf(prefix, sizeof prefix, "/proc/self/fd/%d/../", fd);
        attempt(AT_FDCWD, prefix, "a descriptor's link");
    }
}

static void roots(void)
{
    // The classic way out of a chroot: a working directory above the root.
    pid_t pid = fork();
    if (pid == 0) {
        char inner[300];
        int fd = open("/", O_RDONLY | O_DIRECTORY);
        snprintf(inner, sizeof inner, "%s/inner", volume);
        mkdir(inner, 0700);
        if (chroot(inner) == 0) {
            fchdir(fd);
            climb(AT_FDCWD, "a directory above the root");
            chroot(".");
            attempt(AT_FDCWD, "/", "a root above the root");
        }
        if (unshare(CLONE_NEWNS | CLONE_NEWUSER) == 0 || unshare(CLONE_NEWNS) == 0) {
            mount("/..", inner, 0, MS_BIND | MS_REC, 0);
            umount2("/", MNT_DETACH);
            climb(AT_FDCWD, "a mount namespace");
        }
        _exit(found);
    }
    int status;
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status))
        found = 1;
}

static void handles(void)
{
    // The way of the shocker: file handles with guessed inode numbers.
    struct {
        struct file_handle head;
        unsigned char bytes[8];
    } handle = {{8, 1, {}}, {2}};
    int fd = open(volume, O_RDONLY | O_DIRECTORY);
    for (int inode = 0; inode < 100; inode++) {
        handle.bytes[0] = inode;
        int opened = open_by_handle_at(fd, &handle.head, O_RDONLY);
        if (opened >= 0) {
            climb(opened, "a file handle");
            close(opened);
        }
    }
    close(fd);
}

// Races: one thread turns directories into links and back, or moves them about, while others walk through.
static volatile int over;
static char racing[4][300];

static void *turn(void *unused)
{
    while (!over) {
        renameat2(AT_FDCWD, racing[0], AT_FDCWD, racing[1], RENAME_EXCHANGE);
        rename(racing[2], racing[3]);
        rename(racing[3], racing[2]);
        rename(racing[0], racing[3]);
        symlink("../../../../..", racing[0]);
        unlink(racing[0]);
        rename(racing[3], racing[0]);
    }
    return unused;
}

static void *walk(void *unused)
{
    char prefix[700];
    while (!over) {
        for (int i = 0; i < 4; i++) {
            snprintf(prefix, sizeof prefix, "%s/", racing[i]);
            attempt(AT_FDCWD, prefix, "a race of links");
            snprintf(prefix, sizeof prefix, "%s/../../", racing[i]);
            attempt(AT_FDCWD, prefix, "a race of renames");
            int fd = open(racing[i], O_RDONLY | O_DIRECTORY);
            if (fd >= 0) {
                attempt(fd, "../", "a directory that was moved");
                attempt(fd, "../../", "a directory that was moved");
                attempt(fd, "../../../", "a directory that was moved");
                close(fd);
            }
        }
        snprintf(prefix, sizeof prefix, "%s/deep/a/b/c/", volume);
        int fd = open(prefix, O_RDONLY | O_DIRECTORY);
        if (fd >= 0) {
            attempt(fd, "../../../../../", "a deep directory that was moved");
            attempt(fd, "../../../../", "a deep directory that was moved");
            close(fd);
        }
    }
    return unused;
}

static void races(int seconds)
{
    char path[400];
    pthread_t threads[4];
    snprintf(racing[0], 300, "%s/directory", volume);
    snprintf(racing[1], 300, "%s/link", volume);
    snprintf(racing[2], 300, "%s/deep/a/b", volume);
    snprintf(racing[3], 300, "%s/moved", volume);
    mkdir(racing[0], 0700);
    symlink("../..", racing[1]);
    for (const char *part = "deep\0deep/a\0deep/a/b\0deep/a/b/c\0"; *part; part += strlen(part) + 1) {
        snprintf(path, sizeof path, "%s/%s", volume, part);
        mkdir(path, 0700);
    }
    pthread_create(&threads[0], 0, turn, 0);
    for (int i = 1; i < 4; i++)
        pthread_create(&threads[i], 0, walk, 0);
    sleep(seconds);
    over = 1;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], 0);
}

// A directory that is mounted by itself, and moved about by its other name meanwhile; a file whose siblings are not shown.
static void other_mounts(const char *inner, const char *file)
{
    static const char *const beside[] = {"", "/..", "/../outside", "/.", "/../.."};
    char name[400], moved[400], prefix[400];
    snprintf(name, sizeof name, "%s/inner", volume);
    snprintf(moved, sizeof moved, "%s/deep/moved", volume);
    mkdir(moved, 0700);
    rmdir(moved);
    int fd = open(inner, O_RDONLY | O_DIRECTORY);
    for (int round = 0; round < 20; round++) {
        fchdir(fd);
        climb(AT_FDCWD, "a mounted directory");
        climb(fd, "a descriptor of a mounted directory");
        mkdir("sub", 0700);
        int sub = open("sub", O_RDONLY | O_DIRECTORY);
        symlink("../../outside", "link");
        attempt(AT_FDCWD, "link/../", "a link in a mounted directory");
        report(open("link/secret", O_RDONLY), "a link in a mounted directory");
        // Out of the mounted directory, below its feet.
        snprintf(prefix, sizeof prefix, "%s/inner/sub", volume);
        snprintf(moved, sizeof moved, "%s/moved-sub", volume);
        rename(prefix, moved);
        climb(sub, "a directory that was moved out of its mount");
        fchdir(sub);
        climb(AT_FDCWD, "a working directory that was moved out of its mount");
        rmdir(moved);
        climb(AT_FDCWD, "a working directory that is gone");
        snprintf(moved, sizeof moved, "%s/moved", volume);
        rename(name, moved);
        climb(fd, "a mounted directory that was moved");
        symlink("../outside", name);
        climb(fd, "a mounted directory in whose place there is a link");
        report(open(inner, O_RDONLY | O_CREAT, 0600), "the place of a mount");
        unlink(name);
        rename(moved, name);
        close(sub);
    }
    for (unsigned i = 0; i < sizeof beside / sizeof *beside; i++) {
        snprintf(prefix, sizeof prefix, "%s%s/", file, beside[i]);
        attempt(AT_FDCWD, prefix, "a mounted file");
    }
    fd = open(file, O_RDWR);
    attempt(fd, "../", "a descriptor of a mounted file");
    snprintf(prefix, sizeof prefix, "/proc/self/fd/%d/../", fd);
    attempt(AT_FDCWD, prefix, "the link of a mounted file");
    // The place of a mount cannot be replaced, so that what is behind it is not reached by another name.
    snprintf(name, sizeof name, "%s.moved", file);
    if (rename(file, name) == 0 || unlink(file) == 0) {
        puts("a mounted file was moved or removed");
        found = 1;
    }
}

int main(int count, char **arguments)
{
    if ((count != 3 && count != 5) || access(arguments[1], W_OK))
        return 2;
    volume = arguments[1];
    plain();
    links();
    descriptors();
    roots();
    handles();
    if (count == 5)
        other_mounts(arguments[3], arguments[4]);
    races(atoi(arguments[2]));
    puts(found ? "a way out was found" : "no way out");
    return found;
}
