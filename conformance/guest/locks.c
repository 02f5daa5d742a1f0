/* Record locks, open-file locks and whole-file locks. */
#include "test.h"

#include <sys/file.h>

static struct flock range(short type, off_t start, off_t length) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

static int set_lock(int fd, short type, off_t start, off_t length) {
    struct flock lock = range(type, start, length);
    return fcntl(fd, F_SETLK, &lock);
}

static int set_open_lock(int fd, short type, off_t start, off_t length) {
    struct flock lock = range(type, start, length);
    return fcntl(fd, F_OFD_SETLK, &lock);
}

static int new_file(void) {
    enter_scratch();
    return CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
}

TEST(record_lock_excludes_other_processes) {
    int fd = new_file();
    CHECK_OK(set_lock(fd, F_WRLCK, 10, 10));
    CHECK_EXIT(CHILD({
                   CHECK_ERR(set_lock(fd, F_WRLCK, 15, 1), EAGAIN);
                   CHECK_ERR(set_lock(fd, F_RDLCK, 0, 11), EAGAIN);
                   CHECK_OK(set_lock(fd, F_WRLCK, 0, 10));
                   CHECK_OK(set_lock(fd, F_WRLCK, 20, 0));
               }),
               0);
    /* One's own locks never conflict. */
    CHECK_OK(set_lock(fd, F_RDLCK, 10, 10));
    CHECK_EXIT(CHILD({
                   CHECK_OK(set_lock(fd, F_RDLCK, 10, 10));
                   CHECK_ERR(set_lock(fd, F_WRLCK, 10, 10), EAGAIN);
               }),
               0);
}

TEST(getlk_names_the_holder) {
    int fd = new_file();
    pid_t parent = getpid();
    CHECK_OK(set_lock(fd, F_WRLCK, 10, 10));
    struct flock mine = range(F_WRLCK, 0, 0);
    CHECK_OK(fcntl(fd, F_GETLK, &mine));
    CHECK_EQ(mine.l_type, F_UNLCK);
    CHECK_EXIT(CHILD({
                   struct flock lock = range(F_RDLCK, 0, 0);
                   CHECK_OK(fcntl(fd, F_GETLK, &lock));
                   CHECK_EQ(lock.l_type, F_WRLCK);
                   CHECK_EQ(lock.l_start, 10);
                   CHECK_EQ(lock.l_len, 10);
                   CHECK_EQ(lock.l_pid, parent);
               }),
               0);
}

TEST(unlocking_the_middle_splits) {
    int fd = new_file();
    CHECK_OK(set_lock(fd, F_WRLCK, 0, 30));
    CHECK_OK(set_lock(fd, F_UNLCK, 10, 10));
    CHECK_EXIT(CHILD({
                   CHECK_OK(set_lock(fd, F_WRLCK, 10, 10));
                   CHECK_ERR(set_lock(fd, F_WRLCK, 9, 1), EAGAIN);
                   CHECK_ERR(set_lock(fd, F_WRLCK, 20, 1), EAGAIN);
               }),
               0);
}

TEST(adjacent_locks_merge) {
    int fd = new_file();
    CHECK_OK(set_lock(fd, F_WRLCK, 0, 10));
    CHECK_OK(set_lock(fd, F_WRLCK, 10, 10));
    CHECK_EXIT(CHILD({
                   struct flock lock = range(F_WRLCK, 0, 0);
                   CHECK_OK(fcntl(fd, F_GETLK, &lock));
                   CHECK_EQ(lock.l_start, 0);
                   CHECK_EQ(lock.l_len, 20);
               }),
               0);
}

TEST(record_locks_end_with_any_close) {
    int fd = new_file();
    CHECK_OK(set_lock(fd, F_WRLCK, 0, 0));
    CHECK_OK(close(CHECK_OK(open("file", O_RDONLY))));
    CHECK_EXIT(CHILD({ CHECK_OK(set_lock(fd, F_WRLCK, 0, 0)); }), 0);
}

TEST(record_locks_are_not_inherited) {
    int fd = new_file();
    CHECK_OK(set_lock(fd, F_WRLCK, 0, 0));
    CHECK_EXIT(CHILD({
                   CHECK_ERR(set_lock(fd, F_WRLCK, 0, 0), EAGAIN);
                   /* The child's close does not drop the parent's lock. */
                   close(fd);
               }),
               0);
    CHECK_EXIT(CHILD({ CHECK_ERR(set_lock(fd, F_WRLCK, 0, 0), EAGAIN); }), 0);
}

TEST(record_locks_end_with_the_process) {
    int fd = new_file();
    CHECK_EXIT(CHILD({ CHECK_OK(set_lock(fd, F_WRLCK, 0, 0)); }), 0);
    CHECK_OK(set_lock(fd, F_WRLCK, 0, 0));
}

TEST(record_lock_errors) {
    int fd = new_file();
    struct flock lock = range(77, 0, 0);
    CHECK_ERR(fcntl(fd, F_SETLK, &lock), EINVAL);
    lock = range(F_RDLCK, -1, 1);
    CHECK_ERR(fcntl(fd, F_SETLK, &lock), EINVAL);
    lock.l_whence = 77;
    CHECK_ERR(fcntl(fd, F_SETLK, &lock), EINVAL);
    CHECK_ERR(set_lock(999, F_RDLCK, 0, 0), EBADF);
    CHECK_ERR(set_lock(CHECK_OK(open("file", O_RDONLY)), F_WRLCK, 0, 0), EBADF);
    CHECK_ERR(set_lock(CHECK_OK(open("file", O_WRONLY)), F_RDLCK, 0, 0), EBADF);
    CHECK_ERR(fcntl(fd, F_SETLK, BAD), EFAULT);
    lock = range(F_UNLCK, 0, 0);
    CHECK_ERR(fcntl(fd, F_GETLK, &lock), EINVAL);
}

TEST(lock_positions_follow_whence) {
    int fd = new_file();
    CHECK_EQ(write(fd, "0123456789", 10), 10);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -4, .l_len = 2};
    CHECK_OK(fcntl(fd, F_SETLK, &lock));
    lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = 10, .l_len = -5};
    CHECK_OK(fcntl(fd, F_SETLK, &lock));
    CHECK_EXIT(CHILD({
                   struct flock seen = range(F_WRLCK, 0, 0);
                   CHECK_OK(fcntl(fd, F_GETLK, &seen));
                   CHECK_EQ(seen.l_start, 6);
                   CHECK_EQ(seen.l_len, 2);
                   seen = range(F_WRLCK, 8, 0);
                   CHECK_OK(fcntl(fd, F_GETLK, &seen));
                   CHECK_EQ(seen.l_start, 15);
                   CHECK_EQ(seen.l_len, 5);
               }),
               0);
}

TEST(setlkw_waits) {
    int fd = new_file();
    struct gate locked = gate_new();
    pid_t pid = CHILD({
        CHECK_OK(set_lock(fd, F_WRLCK, 0, 0));
        gate_open(&locked);
        settle();
    });
    gate_wait(&locked);
    struct flock lock = range(F_WRLCK, 0, 0);
    CHECK_OK(fcntl(fd, F_SETLKW, &lock));
    CHECK_EXIT(pid, 0);
}

static void do_nothing(int signal UNUSED) {
}

TEST(setlkw_is_interrupted) {
    int fd = new_file();
    struct gate locked = gate_new();
    pid_t pid = CHILD({
        CHECK_OK(set_lock(fd, F_WRLCK, 0, 0));
        gate_open(&locked);
        pause();
    });
    gate_wait(&locked);
    handle(SIGALRM, do_nothing, 0);
    alarm(1);
    struct flock lock = range(F_WRLCK, 0, 0);
    CHECK_ERR(fcntl(fd, F_SETLKW, &lock), EINTR);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(deadlock_is_found) {
    int fd = new_file();
    struct gate first = gate_new(), second = gate_new();
    pid_t pid = CHILD({
        CHECK_OK(set_lock(fd, F_WRLCK, 0, 1));
        gate_open(&first);
        gate_wait(&second);
        struct flock lock = range(F_WRLCK, 1, 1);
        /* One of the two must be told; it then gives way. */
        int result = fcntl(fd, F_SETLKW, &lock);
        CHECK(result == 0 || errno == EDEADLK);
        _exit(result == 0 ? 0 : 1);
    });
    gate_wait(&first);
    CHECK_OK(set_lock(fd, F_WRLCK, 1, 1));
    gate_open(&second);
    struct flock lock = range(F_WRLCK, 0, 1);
    int result = fcntl(fd, F_SETLKW, &lock);
    CHECK(result == 0 || errno == EDEADLK);
    CHECK_OK(set_lock(fd, F_UNLCK, 0, 0));
    int status = WAIT(pid);
    CHECK_EQ(WEXITSTATUS(status), result == 0 ? 1 : 0);
}

TEST(open_file_locks_belong_to_the_open_file) {
    int fd = new_file(), other = CHECK_OK(open("file", O_RDWR)), copy = CHECK_OK(dup(fd));
    CHECK_OK(set_open_lock(fd, F_WRLCK, 0, 10));
    CHECK_ERR(set_open_lock(other, F_WRLCK, 5, 1), EAGAIN);
    CHECK_OK(set_open_lock(copy, F_WRLCK, 5, 1));
    /* They conflict with record locks, even of the same process. */
    CHECK_ERR(set_lock(fd, F_WRLCK, 0, 10), EAGAIN);
    CHECK_OK(close(fd));
    CHECK_ERR(set_open_lock(other, F_WRLCK, 5, 1), EAGAIN);
    CHECK_OK(close(copy));
    CHECK_OK(set_open_lock(other, F_WRLCK, 5, 1));
}

TEST(open_file_locks_are_inherited) {
    int fd = new_file();
    CHECK_OK(set_open_lock(fd, F_WRLCK, 0, 10));
    CHECK_EXIT(CHILD({ CHECK_OK(set_open_lock(fd, F_WRLCK, 0, 20)); }), 0);
    struct flock lock = range(F_WRLCK, 0, 0);
    int other = CHECK_OK(open("file", O_RDWR));
    CHECK_OK(fcntl(other, F_OFD_GETLK, &lock));
    CHECK_EQ(lock.l_type, F_WRLCK);
    CHECK_EQ(lock.l_len, 20);
    CHECK_EQ(lock.l_pid, -1);
    lock = range(F_WRLCK, 0, 0);
    lock.l_pid = 1;
    CHECK_ERR(fcntl(fd, F_OFD_SETLK, &lock), EINVAL);
}

TEST(flock_excludes_other_open_files) {
    int fd = new_file(), other = CHECK_OK(open("file", O_RDONLY)), copy = CHECK_OK(dup(fd));
    CHECK_OK(flock(fd, LOCK_EX));
    CHECK_ERR(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_ERR(flock(other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    CHECK_OK(flock(copy, LOCK_EX | LOCK_NB));
    CHECK_OK(flock(copy, LOCK_SH));
    CHECK_OK(flock(other, LOCK_SH | LOCK_NB));
    CHECK_ERR(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_OK(flock(other, LOCK_UN));
    CHECK_OK(flock(fd, LOCK_EX | LOCK_NB));
    CHECK_ERR(flock(fd, 77), EINVAL);
    CHECK_ERR(flock(999, LOCK_SH), EBADF);
}

TEST(flock_is_shared_with_children) {
    int fd = new_file();
    CHECK_OK(flock(fd, LOCK_EX));
    CHECK_EXIT(CHILD({
                   CHECK_OK(flock(fd, LOCK_EX | LOCK_NB));
                   CHECK_ERR(flock(CHECK_OK(open("file", O_RDONLY)), LOCK_SH | LOCK_NB), EWOULDBLOCK);
                   /* Unlocking through any copy unlocks for all. */
                   CHECK_OK(flock(fd, LOCK_UN));
               }),
               0);
    CHECK_OK(flock(CHECK_OK(open("file", O_RDONLY)), LOCK_EX | LOCK_NB));
}

TEST(flock_ends_with_the_last_close) {
    int fd = new_file(), copy = CHECK_OK(dup(fd)), other = CHECK_OK(open("file", O_RDWR));
    CHECK_OK(flock(fd, LOCK_EX));
    CHECK_OK(close(fd));
    CHECK_ERR(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_OK(close(copy));
    CHECK_OK(flock(other, LOCK_EX | LOCK_NB));
}

TEST(flock_waits) {
    int fd = new_file();
    struct gate locked = gate_new();
    pid_t pid = CHILD({
        CHECK_OK(flock(CHECK_OK(open("file", O_RDONLY)), LOCK_EX));
        gate_open(&locked);
        settle();
    });
    gate_wait(&locked);
    CHECK_OK(flock(fd, LOCK_EX));
    CHECK_EXIT(pid, 0);
}

TEST(flock_and_record_locks_do_not_meet) {
    int fd = new_file();
    CHECK_OK(flock(fd, LOCK_EX));
    CHECK_EXIT(CHILD({ CHECK_OK(set_lock(fd, F_WRLCK, 0, 0)); }), 0);
}
