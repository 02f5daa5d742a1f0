/* Files, directories, links and descriptors. */
#include "test.h"

#include <linux/openat2.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static int open_new(const char *path) {
    return CHECK_OK(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
}

static struct stat status_of(const char *path) {
    struct stat status;
    CHECK_OK(lstat(path, &status));
    return status;
}

static void check_contents(const char *path, const char *expected) {
    char text[256];
    get_file(path, text, sizeof text);
    CHECK_STR(text, expected);
}

/* --- open --- */

TEST(open_gives_the_lowest_descriptor) {
    int first = CHECK_OK(open("/", O_RDONLY)), second = CHECK_OK(open("/", O_RDONLY));
    CHECK_OK(close(first));
    CHECK_EQ(open("/", O_RDONLY), first);
    CHECK(second > first);
    CHECK_ERR(close(999), EBADF);
    CHECK_ERR(close(-1), EBADF);
}

TEST(open_errors) {
    enter_scratch();
    put_file("file", "x", 0644);
    CHECK_ERR(open("missing", O_RDONLY), ENOENT);
    CHECK_ERR(open("", O_RDONLY), ENOENT);
    CHECK_ERR(open("file/below", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("missing/below", O_RDONLY), ENOENT);
    CHECK_ERR(open("file", O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_ERR(open(".", O_WRONLY), EISDIR);
    CHECK_ERR(open(".", O_RDWR | O_CREAT, 0600), EISDIR);
    CHECK_ERR(open("file", O_WRONLY | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_ERR(open("file/", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("new/", O_WRONLY | O_CREAT, 0600), EISDIR);
    CHECK_ERR(syscall(SYS_open, BAD, O_RDONLY), EFAULT);
}

TEST(open_create_honours_the_umask) {
    enter_scratch();
    umask(027);
    CHECK_OK(open("file", O_WRONLY | O_CREAT, 0777));
    CHECK_EQ(status_of("file").st_mode, S_IFREG | 0750);
    CHECK_OK(mkdir("directory", 0777));
    CHECK_EQ(status_of("directory").st_mode, S_IFDIR | 0750);
    CHECK_OK(mkfifo("fifo", 0666));
    CHECK_EQ(status_of("fifo").st_mode, S_IFIFO | 0640);
}

TEST(open_created_read_only_is_writable) {
    /* The mode applies to later opens, not to the one that creates. */
    enter_scratch();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0));
    CHECK_EQ(write(fd, "x", 1), 1);
}

TEST(open_truncates) {
    enter_scratch();
    put_file("file", "contents", 0644);
    CHECK_OK(open("file", O_WRONLY | O_TRUNC));
    CHECK_EQ(status_of("file").st_size, 0);
}

TEST(open_append_always_writes_at_the_end) {
    enter_scratch();
    put_file("file", "12345", 0644);
    int fd = CHECK_OK(open("file", O_RDWR | O_APPEND));
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(write(fd, "67", 2), 2);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 7);
    /* pwrite appends as well, whatever its offset. */
    CHECK_EQ(pwrite(fd, "8", 1, 0), 1);
    check_contents("file", "12345678");
}

TEST(open_mode_is_enforced) {
    enter_scratch();
    char byte;
    put_file("file", "x", 0644);
    int fd = CHECK_OK(open("file", O_RDONLY));
    CHECK_ERR(write(fd, "x", 1), EBADF);
    CHECK_ERR(ftruncate(fd, 0), EINVAL);
    fd = CHECK_OK(open("file", O_WRONLY));
    CHECK_ERR(read(fd, &byte, 1), EBADF);
}

TEST(open_nofollow) {
    enter_scratch();
    put_file("file", "x", 0644);
    CHECK_OK(symlink("file", "link"));
    CHECK_ERR(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
    int fd = CHECK_OK(open("link", O_PATH | O_NOFOLLOW));
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK(S_ISLNK(status.st_mode));
    char text[16] = {0};
    CHECK_EQ(readlinkat(fd, "", text, sizeof text), 4);
    CHECK_STR(text, "file");
}

TEST(open_excl_does_not_follow) {
    enter_scratch();
    CHECK_OK(symlink("missing", "link"));
    CHECK_ERR(open("link", O_WRONLY | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_OK(open("link", O_WRONLY | O_CREAT, 0600));
    CHECK_EQ(status_of("missing").st_size, 0);
}

TEST(open_path_descriptors) {
    enter_scratch();
    char byte;
    put_file("file", "x", 0);
    int fd = CHECK_OK(open("file", O_PATH));
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(fcntl(fd, F_GETFL) & O_PATH, O_PATH);
    CHECK_ERR(read(fd, &byte, 1), EBADF);
    CHECK_ERR(write(fd, &byte, 1), EBADF);
    CHECK_ERR(fchmod(fd, 0600), EBADF);
    CHECK_ERR(ioctl(fd, FIONREAD, &byte), EBADF);
    CHECK_ERR(lseek(fd, 0, SEEK_SET), EBADF);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EBADF);
    int directory = CHECK_OK(open(".", O_PATH | O_DIRECTORY));
    CHECK_OK(faccessat(directory, "file", F_OK, 0));
    CHECK_OK(fchdir(directory));
    char buffer[1024];
    CHECK_ERR(syscall(SYS_getdents64, directory, buffer, sizeof buffer), EBADF);
}

TEST(open_tmpfile) {
    enter_scratch();
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    if (fd == -1 && errno == EOPNOTSUPP) {
        SKIP("no O_TMPFILE in /tmp");
    }
    CHECK_OK(fd);
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(status.st_nlink, 0);
    CHECK_EQ(write(fd, "text", 4), 4);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK_OK(linkat(AT_FDCWD, path, AT_FDCWD, "file", AT_SYMLINK_FOLLOW));
    check_contents("file", "text");
    CHECK_ERR(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
}

TEST(a_hole_takes_no_room) {
    enter_scratch();
    int fd = open_new("file");
    struct stat status;
    CHECK_OK(ftruncate(fd, 10 << 20));
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(status.st_size, 10 << 20);
    CHECK(status.st_blocks < 64);
    static char bytes[1 << 20] = {1};
    CHECK_EQ(pwrite(fd, bytes, sizeof bytes, 4 << 20), sizeof bytes);
    CHECK_OK(fsync(fd));
    CHECK_OK(fstat(fd, &status));
    CHECK(status.st_blocks >= 2048 && status.st_blocks < 4096);
}

TEST(deleted_file_lives_on) {
    enter_scratch();
    int fd = open_new("file");
    CHECK_EQ(write(fd, "text", 4), 4);
    CHECK_OK(unlink("file"));
    char text[8] = {0};
    CHECK_EQ(pread(fd, text, 8, 0), 4);
    CHECK_STR(text, "text");
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(status.st_nlink, 0);
    CHECK_ERR(open("file", O_RDONLY), ENOENT);
    int other = open_new("file");
    CHECK_EQ(pread(other, text, 8, 0), 0);
}

/* --- reading and writing --- */

TEST(read_write_and_seek) {
    enter_scratch();
    char text[16] = {0};
    int fd = open_new("file");
    CHECK_EQ(write(fd, "hello world", 11), 11);
    CHECK_EQ(lseek(fd, 6, SEEK_SET), 6);
    CHECK_EQ(read(fd, text, sizeof text), 5);
    CHECK_STR(text, "world");
    CHECK_EQ(read(fd, text, sizeof text), 0);
    CHECK_EQ(lseek(fd, -3, SEEK_END), 8);
    CHECK_EQ(lseek(fd, -3, SEEK_CUR), 5);
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, 0, 77), EINVAL);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
    CHECK_ERR(read(fd, BAD, 5), EFAULT);
    CHECK_ERR(write(fd, BAD, 5), EFAULT);
}

TEST(write_past_the_end_leaves_a_hole) {
    enter_scratch();
    char text[8];
    int fd = open_new("file");
    CHECK_EQ(pwrite(fd, "x", 1, 100000), 1);
    CHECK_EQ(status_of("file").st_size, 100001);
    memset(text, 'a', sizeof text);
    CHECK_EQ(pread(fd, text, 8, 50000), 8);
    CHECK(!memcmp(text, "\0\0\0\0\0\0\0\0", 8));
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
}

TEST(pread_and_pwrite_errors) {
    enter_scratch();
    char byte;
    int fd = open_new("file");
    CHECK_ERR(pread(fd, &byte, 1, -1), EINVAL);
    CHECK_ERR(pwrite(fd, &byte, 1, -1), EINVAL);
    CHECK_EQ(pread(fd, &byte, 1, 10), 0);
    int directory = CHECK_OK(open(".", O_RDONLY));
    CHECK_ERR(read(directory, &byte, 1), EISDIR);
}

TEST(vectors) {
    enter_scratch();
    char first[4] = {0}, second[8] = {0};
    int fd = open_new("file");
    struct iovec out[] = {{"abc", 3}, {"", 0}, {"defgh", 5}}, in[] = {{first, 3}, {second, 7}};
    CHECK_EQ(writev(fd, out, 3), 8);
    CHECK_EQ(preadv(fd, in, 2, 0), 8);
    CHECK_STR(first, "abc");
    CHECK_STR(second, "defgh");
    CHECK_EQ(pwritev(fd, out, 1, 4), 3);
    CHECK_EQ(preadv2(fd, in, 2, 2, 0), 6);
    CHECK_STR(first, "cda");
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8);
    CHECK_EQ(pwritev2(fd, out, 1, -1, 0), 3);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 11);
    CHECK_ERR(writev(fd, out, -1), EINVAL);
    CHECK_ERR(writev(fd, out, 1025), EINVAL);
    CHECK_EQ(writev(fd, out, 0), 0);
    struct iovec huge[] = {{first, 4}, {second, -1}};
    CHECK_ERR(readv(fd, huge, 2), EINVAL);
    CHECK_ERR(preadv2(fd, in, 2, 2, 0x4000), EOPNOTSUPP);
}

TEST(large_file_reads_back) {
    enter_scratch();
    int fd = open_new("file");
    static unsigned buffer[65536];
    for (unsigned part = 0; part < 16; part++) {
        for (unsigned index = 0; index < 65536; index++) {
            buffer[index] = part * 65536 + index;
        }
        CHECK_EQ(write(fd, buffer, sizeof buffer), sizeof buffer);
    }
    for (unsigned part = 0; part < 16; part++) {
        CHECK_EQ(pread(fd, buffer, sizeof buffer, (off_t)part * sizeof buffer), sizeof buffer);
        for (unsigned index = 0; index < 65536; index++) {
            CHECK_EQ(buffer[index], part * 65536 + index);
        }
    }
}

TEST(truncate_shrinks_and_grows) {
    enter_scratch();
    char text[16];
    put_file("file", "0123456789", 0644);
    CHECK_OK(truncate("file", 4));
    CHECK_OK(truncate("file", 8));
    int fd = CHECK_OK(open("file", O_RDWR));
    CHECK_EQ(read(fd, text, 16), 8);
    CHECK(!memcmp(text, "0123\0\0\0\0", 8));
    CHECK_ERR(truncate("file", -1), EINVAL);
    CHECK_ERR(truncate(".", 0), EISDIR);
    CHECK_ERR(truncate("missing", 0), ENOENT);
    CHECK_OK(ftruncate(fd, 1));
    CHECK_EQ(status_of("file").st_size, 1);
    /* The offset stays where it was. */
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8);
}

TEST(seek_data_and_hole) {
    enter_scratch();
    int fd = open_new("file");
    CHECK_ERR(lseek(fd, 0, SEEK_DATA), ENXIO);
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    CHECK_OK(ftruncate(fd, 1 << 20));
    CHECK_EQ(lseek(fd, 0, SEEK_DATA), 0);
    off_t hole = CHECK_OK(lseek(fd, 0, SEEK_HOLE));
    CHECK(hole > 0 && hole <= 1 << 20);
    CHECK_ERR(lseek(fd, 1 << 20, SEEK_DATA), ENXIO);
    CHECK_ERR(lseek(fd, 1 << 20, SEEK_HOLE), ENXIO);
}

TEST(fallocate_grows_and_punches) {
    enter_scratch();
    int fd = open_new("file");
    if (fallocate(fd, 0, 0, 10000) == -1 && errno == EOPNOTSUPP) {
        SKIP("no fallocate in /tmp");
    }
    CHECK_EQ(status_of("file").st_size, 10000);
    CHECK_OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000));
    CHECK_EQ(status_of("file").st_size, 10000);
    CHECK_EQ(pwrite(fd, "abcdef", 6, 0), 6);
    CHECK_OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1, 3));
    char text[6];
    CHECK_EQ(pread(fd, text, 6, 0), 6);
    CHECK(!memcmp(text, "a\0\0\0ef", 6));
    CHECK_ERR(fallocate(fd, 0, -1, 1), EINVAL);
    CHECK_ERR(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK_ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
    CHECK_EQ(posix_fallocate(fd, 0, 30000), 0);
    CHECK_EQ(status_of("file").st_size, 30000);
}

TEST(sendfile_copies) {
    enter_scratch();
    put_file("from", "0123456789", 0644);
    int in = CHECK_OK(open("from", O_RDONLY)), out = open_new("to");
    off_t offset = 2;
    CHECK_EQ(sendfile(out, in, &offset, 4), 4);
    CHECK_EQ(offset, 6);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 0);
    CHECK_EQ(sendfile(out, in, NULL, 100), 10);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 10);
    CHECK_EQ(sendfile(out, in, NULL, 100), 0);
    check_contents("to", "23450123456789");
    CHECK_ERR(sendfile(in, out, NULL, 1), EBADF);
    int append = CHECK_OK(open("to", O_WRONLY | O_APPEND));
    CHECK_ERR(sendfile(append, in, &(off_t){0}, 1), EINVAL);
}

TEST(copy_file_range_copies) {
    enter_scratch();
    put_file("from", "0123456789", 0644);
    int in = CHECK_OK(open("from", O_RDONLY)), out = open_new("to");
    loff_t from = 3, to = 1;
    CHECK_EQ(copy_file_range(in, &from, out, &to, 4, 0), 4);
    CHECK_EQ(from, 7);
    CHECK_EQ(to, 5);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 0);
    CHECK_EQ(status_of("to").st_size, 5);
    CHECK_EQ(copy_file_range(in, NULL, out, NULL, 100, 0), 10);
    check_contents("to", "0123456789");
    CHECK_ERR(copy_file_range(in, NULL, out, NULL, 1, 1), EINVAL);
    /* Overlapping ranges of one file. */
    loff_t start = 0;
    loff_t next = 2;
    CHECK_ERR(copy_file_range(out, &start, out, &next, 5, 0), EINVAL);
}

TEST(splice_and_tee) {
    enter_scratch();
    int first[2], second[2];
    char text[16] = {0};
    put_file("from", "0123456789", 0644);
    int in = CHECK_OK(open("from", O_RDONLY)), out = open_new("to");
    CHECK_OK(pipe(first));
    CHECK_OK(pipe(second));
    loff_t offset = 1;
    CHECK_EQ(splice(in, &offset, first[1], NULL, 5, 0), 5);
    CHECK_EQ(offset, 6);
    CHECK_EQ(tee(first[0], second[1], 100, 0), 5);
    CHECK_EQ(splice(first[0], NULL, out, NULL, 100, 0), 5);
    check_contents("to", "12345");
    CHECK_EQ(read(second[0], text, sizeof text), 5);
    CHECK_STR(text, "12345");
    CHECK_ERR(splice(in, NULL, out, NULL, 5, 0), EINVAL);
    CHECK_ERR(splice(first[0], &offset, out, NULL, 5, 0), ESPIPE);
    CHECK_ERR(splice(first[0], NULL, second[1], NULL, 5, SPLICE_F_NONBLOCK), EAGAIN);
    struct iovec vector = {"vm", 2};
    CHECK_EQ(vmsplice(first[1], &vector, 1, 0), 2);
    CHECK_EQ(read(first[0], text, sizeof text), 2);
}

TEST(sync_calls) {
    enter_scratch();
    int fd = open_new("file");
    CHECK_OK(fsync(fd));
    CHECK_OK(fdatasync(fd));
    CHECK_OK(sync_file_range(fd, 0, 0, 0));
    CHECK_OK(syncfs(fd));
    CHECK_ERR(fsync(999), EBADF);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, 77), EINVAL);
    CHECK_OK(readahead(fd, 0, 4096));
}

/* --- stat --- */

TEST(stat_fields) {
    enter_scratch();
    put_file("file", "12345", 0640);
    struct stat status = status_of("file"), by_fd;
    CHECK_EQ(status.st_mode, S_IFREG | 0640);
    CHECK_EQ(status.st_size, 5);
    CHECK_EQ(status.st_nlink, 1);
    CHECK_EQ(status.st_uid, geteuid());
    CHECK(status.st_blksize > 0);
    CHECK(status.st_mtim.tv_sec > 1500000000);
    int fd = CHECK_OK(open("file", O_RDONLY));
    CHECK_OK(fstat(fd, &by_fd));
    CHECK_EQ(by_fd.st_ino, status.st_ino);
    CHECK_EQ(by_fd.st_dev, status.st_dev);
    CHECK_OK(fstatat(fd, "", &by_fd, AT_EMPTY_PATH));
    CHECK_EQ(by_fd.st_ino, status.st_ino);
    CHECK_ERR(fstatat(AT_FDCWD, "", &by_fd, 0), ENOENT);
    CHECK_ERR(fstatat(fd, "x", &by_fd, 0), ENOTDIR);
    CHECK_ERR(fstatat(999, "x", &by_fd, 0), EBADF);
    CHECK_ERR(fstatat(AT_FDCWD, "file", &by_fd, 0x40000), EINVAL);
}

TEST(stat_and_lstat_differ_on_links) {
    enter_scratch();
    put_file("file", "12345", 0640);
    CHECK_OK(symlink("file", "link"));
    struct stat status;
    CHECK_OK(stat("link", &status));
    CHECK(S_ISREG(status.st_mode));
    status = status_of("link");
    CHECK(S_ISLNK(status.st_mode));
    CHECK_EQ(status.st_mode & 0777, 0777);
    CHECK_EQ(status.st_size, 4);
    CHECK_OK(fstatat(AT_FDCWD, "link", &status, AT_SYMLINK_NOFOLLOW));
    CHECK(S_ISLNK(status.st_mode));
}

TEST(statx_fields) {
    enter_scratch();
    put_file("file", "12345", 0640);
    struct statx extended;
    memset(&extended, 0x55, sizeof extended);
    CHECK_OK(statx(AT_FDCWD, "file", 0, STATX_BASIC_STATS, &extended));
    struct stat status = status_of("file");
    CHECK_EQ(extended.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    CHECK_EQ(extended.stx_size, 5);
    CHECK_EQ(extended.stx_mode, status.st_mode);
    CHECK_EQ(extended.stx_ino, status.st_ino);
    CHECK_EQ(extended.stx_dev_major, major(status.st_dev));
    CHECK_EQ(extended.stx_dev_minor, minor(status.st_dev));
    CHECK_EQ(extended.stx_mtime.tv_sec, status.st_mtim.tv_sec);
    CHECK_ERR(statx(AT_FDCWD, "file", 0x40000, STATX_BASIC_STATS, &extended), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "file", 0, 0x80000000, &extended), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "file", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, 0, &extended), EINVAL);
}

TEST(device_numbers) {
    struct stat status;
    CHECK_OK(stat("/dev/null", &status));
    CHECK(S_ISCHR(status.st_mode));
    CHECK_EQ(status.st_rdev, makedev(1, 3));
    CHECK_OK(stat("/dev/zero", &status));
    CHECK_EQ(status.st_rdev, makedev(1, 5));
}

TEST(standard_devices) {
    char text[16];
    int fd = CHECK_OK(open("/dev/null", O_RDWR));
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(read(fd, text, 16), 0);
    fd = CHECK_OK(open("/dev/zero", O_RDWR));
    memset(text, 'x', 16);
    CHECK_EQ(read(fd, text, 16), 16);
    CHECK_EQ(text[0] | text[15], 0);
    fd = CHECK_OK(open("/dev/full", O_RDWR));
    CHECK_ERR(write(fd, "x", 1), ENOSPC);
    CHECK_EQ(read(fd, text, 16), 16);
    fd = CHECK_OK(open("/dev/urandom", O_RDONLY));
    CHECK_EQ(read(fd, text, 16), 16);
    CHECK(memcmp(text, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16));
}

TEST(statfs_answers) {
    enter_scratch();
    struct statfs info;
    CHECK_OK(statfs(".", &info));
    CHECK(info.f_bsize > 0);
    CHECK_EQ(info.f_namelen, 255);
    CHECK_ERR(statfs("missing", &info), ENOENT);
    int fd = CHECK_OK(open(".", O_RDONLY));
    CHECK_OK(fstatfs(fd, &info));
}

TEST(times_follow_operations) {
    enter_scratch();
    put_file("file", "x", 0644);
    struct timespec old[2] = {{1000, 5}, {2000, 6}};
    CHECK_OK(utimensat(AT_FDCWD, "file", old, 0));
    struct stat status = status_of("file");
    CHECK_EQ(status.st_atim.tv_sec, 1000);
    CHECK_EQ(status.st_atim.tv_nsec, 5);
    CHECK_EQ(status.st_mtim.tv_sec, 2000);
    CHECK_EQ(status.st_mtim.tv_nsec, 6);
    CHECK(status.st_ctim.tv_sec > 1500000000);
    struct timespec partly[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
    CHECK_OK(utimensat(AT_FDCWD, "file", partly, 0));
    status = status_of("file");
    CHECK_EQ(status.st_atim.tv_sec, 1000);
    CHECK(status.st_mtim.tv_sec > 1500000000);
    CHECK_OK(utimensat(AT_FDCWD, "file", old, 0));
    int fd = CHECK_OK(open("file", O_WRONLY));
    CHECK_EQ(write(fd, "y", 1), 1);
    CHECK(status_of("file").st_mtim.tv_sec > 1500000000);
    CHECK_OK(futimens(fd, old));
    CHECK_EQ(status_of("file").st_mtim.tv_sec, 2000);
    old[0].tv_nsec = 1000000000;
    CHECK_ERR(utimensat(AT_FDCWD, "file", old, 0), EINVAL);
    CHECK_ERR(utimensat(AT_FDCWD, "missing", NULL, 0), ENOENT);
}

TEST(times_of_a_link_itself) {
    enter_scratch();
    CHECK_OK(symlink("missing", "link"));
    struct timespec old[2] = {{1000, 0}, {2000, 0}};
    CHECK_OK(utimensat(AT_FDCWD, "link", old, AT_SYMLINK_NOFOLLOW));
    CHECK_EQ(status_of("link").st_mtim.tv_sec, 2000);
}

TEST(directory_mtime_changes) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    struct timespec old[2] = {{1000, 0}, {2000, 0}};
    CHECK_OK(utimensat(AT_FDCWD, "directory", old, 0));
    put_file("directory/file", "x", 0644);
    CHECK(status_of("directory").st_mtim.tv_sec > 1500000000);
    CHECK_OK(utimensat(AT_FDCWD, "directory", old, 0));
    CHECK_OK(unlink("directory/file"));
    CHECK(status_of("directory").st_mtim.tv_sec > 1500000000);
}

/* --- directories --- */

TEST(mkdir_and_rmdir) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    CHECK_ERR(mkdir("directory", 0755), EEXIST);
    CHECK_ERR(mkdir("missing/directory", 0755), ENOENT);
    CHECK_OK(mkdir("directory/inner/", 0755));
    CHECK_EQ(status_of("directory").st_nlink, 3);
    CHECK_ERR(rmdir("directory"), ENOTEMPTY);
    CHECK_ERR(unlink("directory"), EISDIR);
    CHECK_OK(rmdir("directory/inner/"));
    CHECK_ERR(rmdir("directory/."), EINVAL);
    CHECK_ERR(rmdir("directory/.."), ENOTEMPTY);
    CHECK_OK(rmdir("directory"));
    CHECK_ERR(rmdir("directory"), ENOENT);
    put_file("file", "x", 0644);
    CHECK_ERR(rmdir("file"), ENOTDIR);
    CHECK_ERR(unlink("file/"), ENOTDIR);
    CHECK_ERR(mkdir("file/x", 0755), ENOTDIR);
    CHECK_ERR(mkdir("/", 0755), EEXIST);
    CHECK_ERR(mkdir(".", 0755), EEXIST);
}

TEST(unlinkat_flags) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    put_file("directory/file", "x", 0644);
    int fd = CHECK_OK(open("directory", O_RDONLY | O_DIRECTORY));
    CHECK_ERR(unlinkat(fd, "file", AT_REMOVEDIR), ENOTDIR);
    CHECK_OK(unlinkat(fd, "file", 0));
    CHECK_ERR(unlinkat(AT_FDCWD, "directory", 0), EISDIR);
    CHECK_ERR(unlinkat(AT_FDCWD, "directory", 0x8000), EINVAL);
    CHECK_OK(unlinkat(AT_FDCWD, "directory", AT_REMOVEDIR));
}

struct kernel_dirent {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

TEST(getdents_lists_everything_once) {
    enter_scratch();
    for (int index = 0; index < 200; index++) {
        char name[32];
        snprintf(name, sizeof name, "file-%d", index);
        put_file(name, "", 0644);
    }
    CHECK_OK(mkdir("directory", 0755));
    CHECK_OK(symlink("x", "link"));
    int fd = CHECK_OK(open(".", O_RDONLY | O_DIRECTORY));
    bool seen[200] = {0};
    int others = 0;
    char buffer[512];
    long count;
    while ((count = CHECK_OK(syscall(SYS_getdents64, fd, buffer, sizeof buffer))) > 0) {
        for (long offset = 0; offset < count;) {
            struct kernel_dirent *entry = (void *)(buffer + offset);
            int number;
            if (sscanf(entry->name, "file-%d", &number) == 1) {
                CHECK(!seen[number]);
                CHECK_EQ(entry->type, DT_REG);
                seen[number] = true;
            } else {
                others++;
                CHECK_EQ(entry->type, strcmp(entry->name, "link") ? DT_DIR : DT_LNK);
            }
            CHECK_EQ(entry->length % 8, 0);
            CHECK(entry->inode != 0);
            offset += entry->length;
        }
    }
    for (int index = 0; index < 200; index++) {
        CHECK(seen[index]);
    }
    CHECK_EQ(others, 4);
    CHECK_OK(lseek(fd, 0, SEEK_SET));
    CHECK(syscall(SYS_getdents64, fd, buffer, sizeof buffer) > 0);
    CHECK_ERR(syscall(SYS_getdents64, fd, buffer, 8), EINVAL);
}

TEST(getdents_errors) {
    enter_scratch();
    char buffer[512];
    put_file("file", "x", 0644);
    int fd = CHECK_OK(open("file", O_RDONLY));
    CHECK_ERR(syscall(SYS_getdents64, fd, buffer, sizeof buffer), ENOTDIR);
    CHECK_OK(mkdir("directory", 0755));
    fd = CHECK_OK(open("directory", O_RDONLY));
    CHECK_OK(rmdir("directory"));
    CHECK_ERR(syscall(SYS_getdents64, fd, buffer, sizeof buffer), ENOENT);
}

TEST(removal_while_listing) {
    enter_scratch();
    for (int index = 0; index < 100; index++) {
        char name[32];
        snprintf(name, sizeof name, "file-%d", index);
        put_file(name, "", 0644);
    }
    DIR *stream = opendir(".");
    CHECK(stream);
    struct dirent *entry;
    int removed = 0;
    while ((entry = readdir(stream))) {
        if (entry->d_name[0] != '.') {
            CHECK_OK(unlink(entry->d_name));
            removed++;
        }
    }
    CHECK_EQ(removed, 100);
}

TEST(getcwd_and_chdir) {
    const char *scratch = enter_scratch();
    char path[PATH_MAX];
    CHECK_STR(getcwd(path, sizeof path), scratch);
    CHECK_OK(mkdir("a", 0755));
    CHECK_OK(mkdir("a/b", 0755));
    CHECK_OK(chdir("a/b"));
    CHECK(strlen(getcwd(path, sizeof path)) == strlen(scratch) + 4);
    CHECK_OK(chdir("../.."));
    CHECK_STR(getcwd(path, sizeof path), scratch);
    put_file("file", "x", 0644);
    CHECK_ERR(chdir("file"), ENOTDIR);
    CHECK_ERR(chdir("missing"), ENOENT);
    CHECK_ERR(syscall(SYS_getcwd, path, 3), ERANGE);
    int fd = CHECK_OK(open("a", O_RDONLY));
    CHECK_OK(fchdir(fd));
    CHECK_ERR(fchdir(CHECK_OK(open("../file", O_RDONLY))), ENOTDIR);
    /* A renamed directory shows under its new name. */
    CHECK_OK(rename("../a", "../renamed"));
    CHECK_STR(strrchr(getcwd(path, sizeof path), '/'), "/renamed");
}

TEST(removed_working_directory) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    CHECK_OK(chdir("directory"));
    CHECK_OK(rmdir("../directory"));
    char path[PATH_MAX];
    CHECK_ERR(syscall(SYS_getcwd, path, sizeof path), ENOENT);
    CHECK_ERR(open("file", O_WRONLY | O_CREAT, 0600), ENOENT);
    struct stat status;
    CHECK_OK(stat(".", &status));
    CHECK_EQ(status.st_nlink, 0);
    CHECK_OK(chdir(".."));
}

TEST(dot_dot_of_the_root) {
    struct stat root, above;
    CHECK_OK(stat("/", &root));
    CHECK_OK(stat("/../..", &above));
    CHECK_EQ(root.st_ino, above.st_ino);
    CHECK_EQ(root.st_dev, above.st_dev);
}

TEST(chroot_confines) {
    if (!has_capability(18 /* CAP_SYS_CHROOT */)) {
        enter_scratch();
        CHECK_ERR(chroot("."), EPERM);
        SKIP("needs CAP_SYS_CHROOT");
    }
    enter_scratch();
    CHECK_OK(mkdir("root", 0755));
    put_file("root/file", "inside", 0644);
    CHECK_EXIT(CHILD({
                   char path[PATH_MAX];
                   CHECK_OK(chroot("root"));
                   CHECK_OK(chdir("/"));
                   check_contents("/file", "inside");
                   check_contents("/../../file", "inside");
                   CHECK_STR(getcwd(path, sizeof path), "/");
               }),
               0);
    CHECK_ERR(access("/file", F_OK), ENOENT);
}

/* --- links --- */

TEST(hard_links) {
    enter_scratch();
    put_file("one", "text", 0644);
    CHECK_OK(link("one", "two"));
    CHECK_EQ(status_of("one").st_nlink, 2);
    CHECK_EQ(status_of("one").st_ino, status_of("two").st_ino);
    CHECK_ERR(link("one", "two"), EEXIST);
    CHECK_ERR(link("missing", "three"), ENOENT);
    CHECK_OK(mkdir("directory", 0755));
    CHECK_ERR(link("directory", "three"), EPERM);
    CHECK_OK(unlink("one"));
    check_contents("two", "text");
    CHECK_EQ(status_of("two").st_nlink, 1);
}

TEST(link_to_a_symbolic_link) {
    enter_scratch();
    put_file("file", "text", 0644);
    CHECK_OK(symlink("file", "link"));
    CHECK_OK(linkat(AT_FDCWD, "link", AT_FDCWD, "same", 0));
    CHECK(S_ISLNK(status_of("same").st_mode));
    CHECK_OK(linkat(AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
    CHECK(S_ISREG(status_of("followed").st_mode));
    CHECK_ERR(linkat(AT_FDCWD, "link", AT_FDCWD, "x", 0x4000), EINVAL);
}

TEST(symbolic_links) {
    enter_scratch();
    char text[16] = {0};
    CHECK_OK(symlink("target", "link"));
    CHECK_EQ(readlink("link", text, sizeof text), 6);
    CHECK_STR(text, "target");
    CHECK_EQ(readlink("link", text, 3), 3);
    CHECK_ERR(symlink("x", "link"), EEXIST);
    CHECK_ERR(symlink("", "empty"), ENOENT);
    CHECK_ERR(readlink("link", text, 0), EINVAL);
    put_file("file", "x", 0644);
    CHECK_ERR(readlink("file", text, sizeof text), EINVAL);
    CHECK_ERR(stat("link", &(struct stat){0}), ENOENT);
}

TEST(symbolic_links_in_paths) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    put_file("directory/file", "text", 0644);
    CHECK_OK(symlink("directory", "link"));
    check_contents("link/file", "text");
    CHECK_OK(symlink("../directory/file", "directory/relative"));
    check_contents("link/relative", "text");
    /* Unlinking the link leaves the directory; a trailing slash follows it. */
    CHECK_ERR(unlink("link/"), ENOTDIR);
    CHECK(S_ISDIR(({
              struct stat status;
              CHECK_OK(lstat("link/", &status));
              status.st_mode;
          })));
    CHECK_OK(unlink("link"));
    check_contents("directory/file", "text");
}

TEST(symbolic_link_loops) {
    enter_scratch();
    CHECK_OK(symlink("two", "one"));
    CHECK_OK(symlink("one", "two"));
    CHECK_ERR(open("one", O_RDONLY), ELOOP);
    CHECK_ERR(stat("one/file", &(struct stat){0}), ELOOP);
    CHECK_OK(symlink("self", "self"));
    CHECK_ERR(open("self", O_RDONLY), ELOOP);
}

TEST(forty_symbolic_links_at_most) {
    enter_scratch();
    put_file("link-0", "text", 0644);
    for (int index = 1; index <= 41; index++) {
        char name[16], target[16];
        snprintf(name, sizeof name, "link-%d", index);
        snprintf(target, sizeof target, "link-%d", index - 1);
        CHECK_OK(symlink(target, name));
    }
    check_contents("link-40", "text");
    CHECK_ERR(open("link-41", O_RDONLY), ELOOP);
}

TEST(name_and_path_lengths) {
    enter_scratch();
    char name[300], path[PATH_MAX + 100];
    memset(name, 'a', sizeof name);
    name[255] = 0;
    put_file(name, "x", 0644);
    CHECK_OK(unlink(name));
    name[255] = 'a';
    name[256] = 0;
    CHECK_ERR(open(name, O_RDONLY), ENAMETOOLONG);
    CHECK_ERR(mkdir(name, 0755), ENAMETOOLONG);
    for (size_t index = 0; index < sizeof path; index += 2) {
        memcpy(path + index, "./", 2);
    }
    path[PATH_MAX] = 0;
    CHECK_ERR(open(path, O_RDONLY), ENAMETOOLONG);
    path[PATH_MAX - 1] = 0;
    CHECK_OK(open(path, O_RDONLY));
}

/* --- rename --- */

TEST(rename_replaces) {
    enter_scratch();
    put_file("one", "1", 0644);
    put_file("two", "2", 0644);
    CHECK_OK(rename("one", "two"));
    check_contents("two", "1");
    CHECK_ERR(access("one", F_OK), ENOENT);
    CHECK_ERR(rename("missing", "x"), ENOENT);
    CHECK_OK(link("two", "three"));
    /* Two names of one file: nothing happens. */
    CHECK_OK(rename("two", "three"));
    CHECK_OK(access("two", F_OK));
}

TEST(rename_of_directories) {
    enter_scratch();
    CHECK_OK(mkdir("one", 0755));
    CHECK_OK(mkdir("one/inner", 0755));
    CHECK_OK(mkdir("two", 0755));
    put_file("file", "x", 0644);
    CHECK_ERR(rename("one", "one/inner/x"), EINVAL);
    CHECK_ERR(rename("one", "file"), ENOTDIR);
    CHECK_ERR(rename("file", "two"), EISDIR);
    CHECK_ERR(rename("two", "one"), ENOTEMPTY);
    CHECK_OK(rename("one", "two"));
    CHECK_OK(access("two/inner", F_OK));
    CHECK_ERR(rename("two/.", "x"), EBUSY);
    CHECK_OK(rename("two/", "three/"));
    CHECK_ERR(rename("file", "new/"), ENOTDIR);
}

TEST(rename_flags) {
    enter_scratch();
    put_file("one", "1", 0644);
    put_file("two", "2", 0644);
    CHECK_ERR(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE), EEXIST);
    CHECK_OK(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE));
    check_contents("one", "2");
    check_contents("two", "1");
    CHECK_ERR(renameat2(AT_FDCWD, "one", AT_FDCWD, "missing", RENAME_EXCHANGE), ENOENT);
    CHECK_ERR(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
    CHECK_ERR(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", 0x100), EINVAL);
    CHECK_OK(renameat2(AT_FDCWD, "one", AT_FDCWD, "three", RENAME_NOREPLACE));
    check_contents("three", "2");
}

TEST(rename_keeps_open_files) {
    enter_scratch();
    int fd = open_new("one");
    CHECK_OK(rename("one", "two"));
    CHECK_EQ(write(fd, "x", 1), 1);
    check_contents("two", "x");
}

/* --- permissions --- */

TEST(chmod_and_fchmod) {
    enter_scratch();
    int fd = open_new("file");
    CHECK_OK(chmod("file", 06755));
    CHECK_EQ(status_of("file").st_mode & 07777, 06755);
    CHECK_OK(fchmod(fd, 0600));
    CHECK_EQ(status_of("file").st_mode & 07777, 0600);
    CHECK_OK(fchmodat(AT_FDCWD, "file", 0644, 0));
    CHECK_ERR(chmod("missing", 0), ENOENT);
}

TEST(permissions_are_enforced) {
    REQUIRE_ROOT();
    enter_scratch();
    put_file("secret", "x", 0600);
    put_file("public", "x", 0644);
    CHECK_OK(mkdir("closed", 0700));
    put_file("closed/file", "x", 0666);
    CHECK_OK(mkdir("listable", 0744));
    put_file("listable/file", "x", 0666);
    CHECK_OK(chmod(".", 0755));
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresgid(54321, 54321, 54321));
                   CHECK_OK(setresuid(54321, 54321, 54321));
                   CHECK_ERR(open("secret", O_RDONLY), EACCES);
                   CHECK_OK(open("public", O_RDONLY));
                   CHECK_ERR(open("public", O_RDWR), EACCES);
                   CHECK_ERR(open("new", O_WRONLY | O_CREAT, 0600), EACCES);
                   CHECK_ERR(open("closed/file", O_RDONLY), EACCES);
                   CHECK_ERR(stat("closed/file", &(struct stat){0}), EACCES);
                   CHECK_OK(open("listable", O_RDONLY));
                   CHECK_ERR(stat("listable/file", &(struct stat){0}), EACCES);
                   CHECK_ERR(unlink("public"), EACCES);
                   CHECK_ERR(chmod("public", 0777), EPERM);
                   CHECK_ERR(chown("public", 54321, 54321), EPERM);
                   CHECK_ERR(access("secret", R_OK), EACCES);
                   CHECK_OK(access("secret", F_OK));
                   CHECK_ERR(utimensat(AT_FDCWD, "public", (struct timespec[2]){{1, 0}, {1, 0}}, 0), EPERM);
                   CHECK_ERR(utimensat(AT_FDCWD, "public", NULL, 0), EACCES);
               }),
               0);
}

TEST(root_needs_no_permissions) {
    REQUIRE_ROOT();
    if (!has_capability(1 /* CAP_DAC_OVERRIDE */)) {
        SKIP("needs CAP_DAC_OVERRIDE");
    }
    enter_scratch();
    put_file("file", "x", 0);
    CHECK_OK(open("file", O_RDWR));
    CHECK_OK(access("file", R_OK | W_OK));
    CHECK_ERR(access("file", X_OK), EACCES);
}

TEST(group_permissions) {
    REQUIRE_ROOT();
    enter_scratch();
    put_file("file", "x", 0640);
    CHECK_OK(chown("file", 11111, 22222));
    CHECK_EXIT(CHILD({
                   gid_t groups[] = {33333, 22222};
                   CHECK_OK(syscall(SYS_setgroups, 2, groups));
                   CHECK_OK(setresgid(54321, 54321, 54321));
                   CHECK_OK(setresuid(54321, 54321, 54321));
                   CHECK_OK(open("file", O_RDONLY));
                   CHECK_ERR(open("file", O_WRONLY), EACCES);
               }),
               0);
    /* The owner class decides for the owner, even when the others' would give more. */
    CHECK_OK(chmod("file", 0044));
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(11111, 11111, 11111));
                   CHECK_ERR(open("file", O_RDONLY), EACCES);
               }),
               0);
}

TEST(chown_changes_and_clears_setuid) {
    REQUIRE_ROOT();
    enter_scratch();
    put_file("file", "x", 0644);
    CHECK_OK(chmod("file", 06755));
    CHECK_OK(chown("file", 11, 22));
    struct stat status = status_of("file");
    CHECK_EQ(status.st_uid, 11);
    CHECK_EQ(status.st_gid, 22);
    CHECK_EQ(status.st_mode & 07777, 0755);
    CHECK_OK(chown("file", -1, 33));
    status = status_of("file");
    CHECK_EQ(status.st_uid, 11);
    CHECK_EQ(status.st_gid, 33);
    CHECK_OK(symlink("file", "link"));
    CHECK_OK(lchown("link", 44, 44));
    CHECK_EQ(status_of("file").st_uid, 11);
    CHECK_EQ(status_of("link").st_uid, 44);
    int fd = CHECK_OK(open("file", O_RDONLY));
    CHECK_OK(fchown(fd, 55, 55));
    CHECK_OK(fchownat(fd, "", 66, 66, AT_EMPTY_PATH));
    CHECK_EQ(status_of("file").st_uid, 66);
}

TEST(setgid_directory_gives_its_group) {
    REQUIRE_ROOT();
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    CHECK_OK(chown("directory", 0, 4242));
    CHECK_OK(chmod("directory", 02755));
    put_file("directory/file", "x", 0644);
    CHECK_OK(mkdir("directory/inner", 0755));
    CHECK_EQ(status_of("directory/file").st_gid, 4242);
    CHECK_EQ(status_of("directory/inner").st_gid, 4242);
    CHECK_EQ(status_of("directory/inner").st_mode & 07777, 02755);
}

TEST(sticky_directory) {
    REQUIRE_ROOT();
    enter_scratch();
    CHECK_OK(mkdir("directory", 0777));
    CHECK_OK(chmod("directory", 01777));
    put_file("directory/file", "x", 0666);
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(54321, 54321, 54321));
                   CHECK_ERR(unlink("directory/file"), EPERM);
                   CHECK_ERR(rename("directory/file", "directory/other"), EPERM);
                   put_file("directory/mine", "x", 0644);
                   CHECK_OK(unlink("directory/mine"));
               }),
               0);
}

TEST(write_clears_setuid) {
    REQUIRE_ROOT();
    enter_scratch();
    put_file("file", "x", 0666);
    CHECK_OK(chmod("file", 06777));
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(54321, 54321, 54321));
                   int fd = CHECK_OK(open("file", O_WRONLY));
                   CHECK_EQ(write(fd, "y", 1), 1);
               }),
               0);
    CHECK_EQ(status_of("file").st_mode & 07777, 0777);
}

TEST(access_uses_the_real_user) {
    REQUIRE_ROOT();
    enter_scratch();
    put_file("file", "x", 0600);
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(54321, 0, 0));
                   CHECK_ERR(access("file", R_OK), EACCES);
                   CHECK_OK(syscall(SYS_faccessat2, AT_FDCWD, "file", R_OK, AT_EACCESS));
                   CHECK_OK(open("file", O_RDONLY));
               }),
               0);
    CHECK_ERR(access("file", 8), EINVAL);
}

TEST(mknod_makes_nodes) {
    enter_scratch();
    CHECK_OK(mknod("file", S_IFREG | 0600, 0));
    CHECK(S_ISREG(status_of("file").st_mode));
    CHECK_OK(mknod("fifo", S_IFIFO | 0600, 0));
    CHECK(S_ISFIFO(status_of("fifo").st_mode));
    CHECK_OK(mknod("socket", S_IFSOCK | 0600, 0));
    CHECK_ERR(open("socket", O_RDONLY), ENXIO);
    CHECK_ERR(mknod("directory", S_IFDIR | 0600, 0), EPERM);
    CHECK_ERR(mknod("file", S_IFREG | 0600, 0), EEXIST);
}

/* --- extended attributes --- */

TEST(extended_attributes) {
    enter_scratch();
    char text[64] = {0};
    put_file("file", "x", 0644);
    if (setxattr("file", "user.one", "value", 5, 0) == -1 && errno == EOPNOTSUPP) {
        SKIP("no user attributes in /tmp");
    }
    CHECK_EQ(getxattr("file", "user.one", NULL, 0), 5);
    CHECK_EQ(getxattr("file", "user.one", text, sizeof text), 5);
    CHECK_STR(text, "value");
    CHECK_ERR(getxattr("file", "user.one", text, 2), ERANGE);
    CHECK_ERR(getxattr("file", "user.two", text, 2), ENODATA);
    CHECK_ERR(setxattr("file", "user.one", "x", 1, XATTR_CREATE), EEXIST);
    CHECK_ERR(setxattr("file", "user.two", "x", 1, XATTR_REPLACE), ENODATA);
    CHECK_OK(setxattr("file", "user.two", "", 0, 0));
    ssize_t length = CHECK_OK(listxattr("file", text, sizeof text));
    CHECK(memmem(text, length, "user.one", 9));
    CHECK(memmem(text, length, "user.two", 9));
    CHECK_OK(removexattr("file", "user.one"));
    CHECK_ERR(removexattr("file", "user.one"), ENODATA);
    CHECK_ERR(setxattr("file", "nonsense.x", "x", 1, 0), EOPNOTSUPP);
    int fd = CHECK_OK(open("file", O_RDONLY));
    CHECK_OK(fsetxattr(fd, "user.three", "3", 1, 0));
    CHECK_EQ(fgetxattr(fd, "user.three", text, sizeof text), 1);
}

/* --- openat and openat2 --- */

TEST(at_calls_are_relative_to_the_directory) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    int fd = CHECK_OK(open("directory", O_RDONLY | O_DIRECTORY));
    CHECK_OK(openat(fd, "file", O_WRONLY | O_CREAT, 0600));
    CHECK_OK(access("directory/file", F_OK));
    CHECK_OK(mkdirat(fd, "inner", 0755));
    CHECK_OK(symlinkat("target", fd, "link"));
    CHECK_OK(renameat(fd, "file", AT_FDCWD, "moved"));
    CHECK_OK(linkat(AT_FDCWD, "moved", fd, "linked", 0));
    CHECK_OK(faccessat(fd, "linked", F_OK, 0));
    CHECK_OK(mknodat(fd, "fifo", S_IFIFO | 0600, 0));
    CHECK_OK(openat(fd, "/", O_RDONLY));
    CHECK_OK(openat(999, "/", O_RDONLY));
    CHECK_ERR(openat(999, "x", O_RDONLY), EBADF);
    CHECK_ERR(openat(CHECK_OK(open("moved", O_RDONLY)), "x", O_RDONLY), ENOTDIR);
}

static int open2(const char *path, uint64_t flags, uint64_t resolve) {
    struct open_how how = {.flags = flags, .resolve = resolve};
    return syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

TEST(openat2_resolve_flags) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    put_file("directory/file", "x", 0644);
    CHECK_OK(symlink("directory", "link"));
    CHECK_OK(symlink("/", "absolute"));
    CHECK_OK(open2("directory/file", O_RDONLY, RESOLVE_BENEATH));
    CHECK_OK(open2("link/file", O_RDONLY, RESOLVE_BENEATH));
    CHECK_ERR(open2("..", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    CHECK_ERR(open2("/", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    CHECK_ERR(open2("absolute/tmp", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    CHECK_ERR(open2("link/file", O_RDONLY, RESOLVE_NO_SYMLINKS), ELOOP);
    CHECK_OK(open2("/directory/file", O_RDONLY, RESOLVE_IN_ROOT));
    CHECK_OK(open2("../../directory/file", O_RDONLY, RESOLVE_IN_ROOT));
    CHECK_ERR(open2("directory", O_RDONLY, RESOLVE_IN_ROOT | RESOLVE_BENEATH), EINVAL);
}

TEST(openat2_is_strict) {
    enter_scratch();
    struct {
        struct open_how how;
        uint64_t more;
    } large = {.how = {.flags = O_RDONLY}};
    CHECK_ERR(open2(".", O_RDONLY | 1ULL << 40, 0), EINVAL);
    CHECK_ERR(open2(".", O_RDONLY, 1 << 20), EINVAL);
    CHECK_OK(syscall(SYS_openat2, AT_FDCWD, ".", &large, sizeof large));
    large.more = 1;
    CHECK_ERR(syscall(SYS_openat2, AT_FDCWD, ".", &large, sizeof large), E2BIG);
    CHECK_ERR(syscall(SYS_openat2, AT_FDCWD, ".", &large, 8), EINVAL);
    large.more = 0;
    large.how.mode = 0600;
    CHECK_ERR(syscall(SYS_openat2, AT_FDCWD, ".", &large, sizeof large.how), EINVAL);
}

/* --- descriptors --- */

TEST(dup_shares_the_offset_not_the_flags) {
    enter_scratch();
    int fd = open_new("file");
    int copy = CHECK_OK(dup(fd));
    CHECK_EQ(write(fd, "12345", 5), 5);
    CHECK_EQ(lseek(copy, 0, SEEK_CUR), 5);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(copy, F_GETFD), 0);
    CHECK_OK(fcntl(copy, F_SETFL, O_APPEND));
    CHECK(fcntl(fd, F_GETFL) & O_APPEND);
    CHECK_ERR(dup(999), EBADF);
}

TEST(dup2_and_dup3) {
    int fd = CHECK_OK(open("/", O_RDONLY));
    CHECK_EQ(dup2(fd, 77), 77);
    CHECK_EQ(dup2(fd, fd), fd);
    CHECK_ERR(dup2(999, 999), EBADF);
    CHECK_ERR(dup2(fd, -1), EBADF);
    CHECK_EQ(dup3(fd, 78, O_CLOEXEC), 78);
    CHECK_EQ(fcntl(78, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(dup3(fd, fd, 0), EINVAL);
    CHECK_ERR(dup3(fd, 79, O_APPEND), EINVAL);
    int other = CHECK_OK(open("/dev/null", O_RDONLY));
    CHECK_EQ(dup2(other, 77), 77);
    struct stat status;
    CHECK_OK(fstat(77, &status));
    CHECK(S_ISCHR(status.st_mode));
}

TEST(fcntl_dupfd) {
    int fd = CHECK_OK(open("/", O_RDONLY));
    CHECK_EQ(fcntl(fd, F_DUPFD, 100), 100);
    CHECK_EQ(fcntl(fd, F_DUPFD, 100), 101);
    CHECK_EQ(fcntl(fd, F_DUPFD_CLOEXEC, 100), 102);
    CHECK_EQ(fcntl(102, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    CHECK_ERR(fcntl(fd, F_DUPFD, 1 << 30), EINVAL);
    CHECK_ERR(fcntl(fd, 0x5555), EINVAL);
    CHECK_ERR(fcntl(999, F_GETFD), EBADF);
}

TEST(fcntl_status_flags) {
    enter_scratch();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT | O_TRUNC, 0600));
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | 0100000 /* O_LARGEFILE, which every open has */);
    CHECK_OK(fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND | O_WRONLY | O_CREAT));
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK | O_APPEND | 0100000);
    CHECK_OK(fcntl(fd, F_SETFD, FD_CLOEXEC));
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_OK(ioctl(fd, FIONCLEX));
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    CHECK_OK(ioctl(fd, FIOCLEX));
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(ioctl(fd, 0x5401 /* TCGETS */, BAD), ENOTTY);
    CHECK(!isatty(fd));
}

TEST(close_range_closes) {
    for (int fd = 100; fd < 110; fd++) {
        CHECK_OK(dup2(1, fd));
    }
    CHECK_OK(close_range(102, 105, 0));
    CHECK_OK(fcntl(101, F_GETFD));
    CHECK_ERR(fcntl(102, F_GETFD), EBADF);
    CHECK_ERR(fcntl(105, F_GETFD), EBADF);
    CHECK_OK(fcntl(106, F_GETFD));
    CHECK_OK(close_range(106, ~0U, CLOSE_RANGE_CLOEXEC));
    CHECK_EQ(fcntl(109, F_GETFD), FD_CLOEXEC);
    CHECK_OK(close_range(108, ~0U, CLOSE_RANGE_UNSHARE));
    CHECK_ERR(fcntl(109, F_GETFD), EBADF);
    CHECK_ERR(close_range(5, 4, 0), EINVAL);
    CHECK_ERR(close_range(100, 101, 0x100), EINVAL);
}

TEST(descriptors_run_out) {
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 20;
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
    int fd;
    while ((fd = open("/", O_RDONLY)) != -1) {
        CHECK(fd < 20);
    }
    CHECK_EQ(errno, EMFILE);
    CHECK_ERR(dup(1), EMFILE);
    CHECK_ERR(dup2(1, 20), EBADF);
    CHECK_ERR(fcntl(1, F_DUPFD, 20), EINVAL);
}

TEST(flags_of_directories) {
    int fd = CHECK_OK(open("/", O_RDONLY | O_DIRECTORY));
    struct stat status;
    CHECK_OK(fstat(fd, &status));
    CHECK(S_ISDIR(status.st_mode));
    CHECK_ERR(ftruncate(fd, 0), EINVAL);
    CHECK_ERR(write(fd, "x", 1), EBADF);
}

TEST(name_to_handle_is_answered) {
    enter_scratch();
    struct file_handle handle = {.handle_bytes = 0};
    int mount;
    int result = name_to_handle_at(AT_FDCWD, ".", &handle, &mount, 0);
    CHECK(result == -1 && (errno == EOVERFLOW || errno == EOPNOTSUPP));
}

TEST(trailing_slashes_and_dots) {
    enter_scratch();
    CHECK_OK(mkdir("directory", 0755));
    put_file("directory/file", "text", 0644);
    check_contents("directory//file", "text");
    check_contents("./directory/././file", "text");
    check_contents("directory/../directory/file", "text");
    CHECK_ERR(open("directory/file/.", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("directory/file/..", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("missing/..", O_RDONLY), ENOENT);
    CHECK_ERR(stat("directory/file/", &(struct stat){0}), ENOTDIR);
    CHECK_OK(chdir("directory/"));
}

TEST(memfd_behaves_as_a_file) {
    int fd = CHECK_OK(memfd_create("name", MFD_CLOEXEC));
    struct stat status;
    CHECK_EQ(write(fd, "text", 4), 4);
    CHECK_OK(fstat(fd, &status));
    CHECK_EQ(status.st_size, 4);
    CHECK_EQ(status.st_nlink, 0);
    CHECK(S_ISREG(status.st_mode));
    char path[64], text[64] = {0};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK_OK(readlink(path, text, sizeof text - 1));
    CHECK_STR(text, "/memfd:name (deleted)");
    int other = CHECK_OK(open(path, O_RDONLY));
    CHECK_EQ(read(other, text, 4), 4);
}

TEST(concurrent_appends_lose_nothing) {
    enter_scratch();
    open_new("file");
    pid_t pids[4];
    for (int index = 0; index < 4; index++) {
        pids[index] = CHILD({
            int fd = CHECK_OK(open("file", O_WRONLY | O_APPEND));
            for (int round = 0; round < 100; round++) {
                CHECK_EQ(write(fd, "0123456789", 10), 10);
            }
        });
    }
    for (int index = 0; index < 4; index++) {
        CHECK_EXIT(pids[index], 0);
    }
    CHECK_EQ(status_of("file").st_size, 4000);
}

TEST(create_exclusively_in_one_process_only) {
    enter_scratch();
    pid_t pids[4];
    int winners = 0;
    for (int index = 0; index < 4; index++) {
        pids[index] = CHILD({ _exit(open("file", O_WRONLY | O_CREAT | O_EXCL, 0600) == -1 ? 0 : 1); });
    }
    for (int index = 0; index < 4; index++) {
        winners += WEXITSTATUS(WAIT(pids[index]));
    }
    CHECK_EQ(winners, 1);
}

TEST(descriptors_have_a_highest_limit) {
    REQUIRE_ROOT();
    char text[32];
    get_file("/proc/sys/fs/nr_open", text, sizeof text);
    rlim_t most = strtoull(text, NULL, 10);
    struct rlimit limit = {10, most + 1};
    CHECK_ERR(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
    CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 10;
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_ERR(dup2(0, 10), EBADF);
    CHECK_ERR(fcntl(0, F_DUPFD, 10), EINVAL);
    CHECK_OK(dup2(0, 9));
}

TEST(names_beyond_what_getcwd_tells) {
    enter_scratch();
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    for (int depth = 0; depth < 17; depth++) {
        CHECK_OK(mkdir(name, 0755));
        CHECK_OK(chdir(name));
    }
    char path[8192];
    CHECK_ERR(syscall(SYS_getcwd, path, sizeof path), ENAMETOOLONG);
}

TEST(appends_to_a_large_file_lose_nothing) {
    enter_scratch();
    int fd = open_new("file");
    CHECK_OK(ftruncate(fd, 1 << 20));
    pid_t pids[4];
    for (int index = 0; index < 4; index++) {
        pids[index] = CHILD({
            int own = CHECK_OK(open("file", O_WRONLY | O_APPEND));
            for (int round = 0; round < 100; round++) {
                CHECK_EQ(write(own, "0123456789", 10), 10);
            }
        });
    }
    for (int index = 0; index < 4; index++) {
        CHECK_EXIT(pids[index], 0);
    }
    CHECK_EQ(status_of("file").st_size, (1 << 20) + 4000);
}

/* --- calls that are made often --- */

static off_t offset_of(int fd) {
    return CHECK_OK(lseek(fd, 0, SEEK_CUR));
}

/* Reads into memory far below what the stack has been used for so far. */
__attribute__((noinline)) static void read_deep_in_the_stack(int fd, size_t size) {
    volatile char *room = __builtin_alloca(size);
    CHECK_EQ(pread(fd, (char *)room, 100, 0), 100);
    CHECK_EQ(room[0], 'a');
    CHECK_EQ(room[99], 'a' + 99 % 26);
}

static volatile sig_atomic_t ticks;

static void on_tick(int signal UNUSED) {
    ticks++;
}

TEST(hot_calls_write_what_memory_holds) {
    enter_scratch();
    int fd = open_new("file"), ends[2], pair[2];
    CHECK_OK(pipe(ends));
    CHECK_OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    static char content[40000], found[40000];
    for (unsigned index = 0; index < sizeof content; index++) {
        content[index] = index * 7 + index / 256;
    }
    char *pages = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    char *closed = pages + 4 * 4096;
    CHECK_OK(mprotect(closed, 4096, PROT_NONE));
    static const size_t sizes[] = {0, 1, 2, 63, 64, 65, 4095, 4096, 4097, 16383, 16384, 16385, 40000};
    for (int round = 0; round < 100; round++) {
        for (unsigned index = 0; index < sizeof sizes / sizeof *sizes; index++) {
            size_t size = sizes[index];
            content[0] = round;
            CHECK_OK(ftruncate(fd, 0));
            CHECK_OK(lseek(fd, 0, SEEK_SET));
            CHECK_EQ(write(fd, content, size), (ssize_t)size);
            CHECK_EQ(pwrite(fd, content + 1, size / 2, 3), (ssize_t)size / 2);
            size_t end = size / 2 ? 3 + size / 2 : 0;
            CHECK_EQ(pread(fd, found, sizeof found, 0), (ssize_t)(end > size ? end : size));
            if (size >= 63) {
                CHECK(!memcmp(found, content, 3));
                CHECK(!memcmp(found + 3, content + 1, size / 2));
                CHECK(!memcmp(found + 3 + size / 2, content + 3 + size / 2, size - 3 - size / 2));
            }
            if (size && size <= 4096) {
                CHECK_EQ(write(ends[1], content, size), (ssize_t)size);
                CHECK_EQ(read(ends[0], found, sizeof found), (ssize_t)size);
                CHECK(!memcmp(found, content, size));
                CHECK_EQ(sendto(pair[0], content, size, 0, NULL, 0), (ssize_t)size);
                CHECK_EQ(recv(pair[1], found, sizeof found, 0), (ssize_t)size);
                CHECK(!memcmp(found, content, size));
            }
        }
        /* Memory that cannot be read, from the first byte on and from a later one. */
        CHECK_OK(ftruncate(fd, 0));
        CHECK_ERR(pwrite(fd, closed, 10, 0), EFAULT);
        CHECK_ERR(pwrite(fd, BAD, 10, 0), EFAULT);
        CHECK_ERR(pwrite(fd, (char *)BAD - 8, 10, 0), EFAULT);
        CHECK_ERR(write(ends[1], (char *)(uintptr_t)0xffff800000000000, 10), EFAULT);
        CHECK_ERR(sendto(pair[0], closed - 5, 10, 0, NULL, 0), EFAULT);
        memset(closed - 5, round, 5);
        CHECK_EQ(pwrite(fd, closed - 5, 10, 0), 5);
        CHECK_EQ(pread(fd, found, sizeof found, 0), 5);
        CHECK_EQ(found[4], (char)round);
        CHECK_ERR(pwrite(-1, content, 10, 0), EBADF);
        CHECK_ERR(write(ends[0], content, 10), EBADF);
        CHECK_ERR(pwrite(ends[1], content, 10, 0), ESPIPE);
        /* The set of a mask lies where its old value goes. */
        sigset_t both = SIGNALS(SIGUSR1), none;
        CHECK_OK(sigemptyset(&none));
        CHECK_OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &both, &both, 8));
        CHECK_EQ(sigismember(&both, SIGUSR1), 0);
        CHECK_OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, &both, 8));
        CHECK_EQ(sigismember(&both, SIGUSR1), 1);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_SETMASK, BAD, NULL, 8), EFAULT);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_SETMASK, closed - 4, NULL, 8), EFAULT);
    }
}

TEST(results_of_hot_calls_get_to_memory_or_count_as_not_given) {
    enter_scratch();
    char content[8192];
    for (unsigned index = 0; index < sizeof content; index++) {
        content[index] = 'a' + index % 26;
    }
    int fd = open_new("file");
    CHECK_EQ(write(fd, content, sizeof content), sizeof content);
    char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    char *constant = pages + 4096, *missing = pages + 2 * 4096;
    memset(constant, '.', 4096);
    CHECK_OK(mprotect(constant, 4096, PROT_READ));
    CHECK_OK(munmap(missing, 4096));
    char *bad[] = {constant, missing, BAD, (char *)(uintptr_t)0xffff800000000000, (char *)(uintptr_t)0x7ff200000000};
    int ends[2];
    CHECK_OK(pipe(ends));
    struct itimerval often = {{0, 1000}, {0, 1000}};
    for (int round = 0; round < 300; round++) {
        if (round == 200) {
            /* From now on there are signals to deliver before the guest goes on. */
            handle(SIGALRM, on_tick, SA_RESTART);
            CHECK_OK(setitimer(ITIMER_REAL, &often, NULL));
        }
        CHECK_OK(lseek(fd, 10, SEEK_SET));
        char buffer[300];
        CHECK_EQ(read(fd, buffer, sizeof buffer), sizeof buffer);
        CHECK(!memcmp(buffer, content + 10, sizeof buffer));
        CHECK_EQ(offset_of(fd), 310);
        CHECK_EQ(pread(fd, pages, 4096, 4000), 4096);
        CHECK(!memcmp(pages, content + 4000, 4096));
        CHECK_EQ(pread(fd, pages, 4096, sizeof content - 7), 7);
        CHECK_EQ(pread(fd, pages, 4096, sizeof content), 0);
        for (unsigned index = 0; index < sizeof bad / sizeof *bad; index++) {
            CHECK_ERR(read(fd, bad[index], 100), EFAULT);
            CHECK_EQ(offset_of(fd), 310);
            CHECK_ERR(pread(fd, bad[index], 100, 5), EFAULT);
            CHECK_ERR(fstat(fd, (struct stat *)bad[index]), EFAULT);
            CHECK_ERR(stat("file", (struct stat *)bad[index]), EFAULT);
            CHECK_ERR(syscall(SYS_readlink, "/proc/self/exe", bad[index], 100), EFAULT);
            CHECK_ERR(syscall(SYS_getcwd, bad[index], 4096), EFAULT);
            CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, bad[index], 8), EFAULT);
        }
        struct pollfd *polled = (struct pollfd *)constant;
        CHECK_ERR(poll(polled, 1, 0), EFAULT);
        /* What fits before memory that cannot be written was read. */
        CHECK_EQ(read(fd, constant - 20, 100), 20);
        CHECK(!memcmp(constant - 20, content + 310, 20));
        CHECK_EQ(offset_of(fd), 330);
        CHECK_EQ(pread(fd, constant - 1, 4096, 3), 1);
        CHECK_EQ(constant[-1], content[3]);
        CHECK_ERR(fstat(fd, (struct stat *)(constant - 20)), EFAULT);
        CHECK_EQ(constant[0], '.');
        read_deep_in_the_stack(fd, 16384 + round * 1024);
    }
    CHECK(ticks > 0);
}

TEST(arguments_of_hot_calls_are_what_memory_holds) {
    enter_scratch();
    put_file("short", "x", 0644);
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK_OK(mprotect(pages + 4096, 4096, PROT_NONE));
    char longer[200];
    memset(longer, '/', sizeof longer);
    memcpy(longer, ".", 1);
    strcpy(longer + 150, "short");
    int ends[2];
    CHECK_OK(pipe(ends));
    for (int round = 0; round < 300; round++) {
        struct stat status;
        CHECK_OK(stat("short", &status));
        CHECK_EQ(status.st_size, 1);
        CHECK_OK(fstat(ends[0], &status));
        CHECK(S_ISFIFO(status.st_mode));
        CHECK_OK(stat(longer, &status));
        CHECK_ERR(stat("", &status), ENOENT);
        /* Right before memory that cannot be read, and running into it. */
        char *path = strcpy(pages + 4096 - sizeof "short", "short");
        CHECK_OK(stat(path, &status));
        memcpy(pages + 4096 - 5, "short", 5);
        CHECK_ERR(stat(pages + 4096 - 5, &status), EFAULT);
        CHECK_ERR(stat(pages + 4096, &status), EFAULT);
        CHECK_ERR(stat(BAD, &status), EFAULT);
        CHECK_ERR(stat((char *)(uintptr_t)0xffff800000000000, &status), EFAULT);
        CHECK_ERR(stat((char *)(uintptr_t)0x0123456789abcdef, &status), EFAULT);
        /* The answer lies over the path. */
        union {
            char path[sizeof(struct stat)];
            struct stat status;
        } both = {.path = "short"};
        CHECK_OK(syscall(SYS_stat, &both, &both));
        CHECK_EQ(both.status.st_size, 1);
        CHECK_ERR(stat(both.path, &status), ENOENT);
        char byte = (char)round, found = 0;
        CHECK_EQ(write(ends[1], &byte, 1), 1);
        struct pollfd fd = {.fd = ends[0], .events = round % 2 ? POLLIN : POLLOUT, .revents = -1};
        CHECK_EQ(poll(&fd, 1, 0), round % 2);
        CHECK_EQ(fd.revents, round % 2 ? POLLIN : 0);
        CHECK_EQ(read(ends[0], &found, 1), 1);
        CHECK_EQ(found, byte);
        CHECK_EQ(write(ends[1], longer + 140, 60), 60);
        char copy[60];
        CHECK_EQ(read(ends[0], copy, 60), 60);
        CHECK(!memcmp(copy, longer + 140, 60));
        CHECK_ERR(write(ends[1], pages + 4096, 1), EFAULT);
        CHECK_ERR(write(ends[1], BAD, 1), EFAULT);
    }
}
