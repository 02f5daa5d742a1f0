/* Resource limits that are enforced. */
#include "test.h"

#include <sys/mman.h>
#include <sys/resource.h>

static void set_limit(int resource, rlim_t value) {
    struct rlimit limit;
    CHECK_OK(getrlimit(resource, &limit));
    limit.rlim_cur = value;
    CHECK_OK(setrlimit(resource, &limit));
}

static void *map(size_t length, int protection, int flags) {
    return mmap(NULL, length, protection, flags | MAP_ANONYMOUS, -1, 0);
}

TEST(processes_of_a_user_are_limited) {
    REQUIRE_ROOT();
    /* A user that has no other processes. */
    CHECK_OK(setresgid(54321, 54321, 54321));
    CHECK_OK(setresuid(54321, 54321, 54321));
    set_limit(RLIMIT_NPROC, 2);
    struct gate end = gate_new();
    pid_t pid = CHILD({ gate_wait(&end); });
    CHECK_ERR(fork(), EAGAIN);
    gate_open(&end);
    CHECK_EXIT(pid, 0);
    CHECK_EXIT(CHILD({}), 0);
}

TEST(address_space_is_limited) {
    size_t room = 64 << 20;
    char text[256];
    get_file("/proc/self/statm", text, sizeof text);
    size_t used = strtoul(text, NULL, 10) * 4096;
    set_limit(RLIMIT_AS, used + room);
    CHECK_ERR(map(2 * room, PROT_READ, MAP_PRIVATE), ENOMEM);
    CHECK_ERR(map(2 * room, PROT_NONE, MAP_SHARED), ENOMEM);
    void *half = map(room / 2, PROT_READ, MAP_PRIVATE);
    CHECK(half != MAP_FAILED);
    CHECK_ERR(mremap(half, room / 2, 2 * room, MREMAP_MAYMOVE), ENOMEM);
    char *end = (char *)syscall(SYS_brk, 0);
    CHECK_EQ(syscall(SYS_brk, end + 2 * room), end);
    CHECK_OK(munmap(half, room / 2));
    CHECK(map(room / 2, PROT_READ, MAP_PRIVATE) != MAP_FAILED);
}

TEST(data_is_limited) {
    size_t room = 64 << 20;
    char text[256];
    get_file("/proc/self/statm", text, sizeof text);
    unsigned long data = 0;
    CHECK(sscanf(text, "%*u %*u %*u %*u %*u %lu", &data) == 1);
    set_limit(RLIMIT_DATA, data * 4096 + room);
    CHECK_ERR(map(2 * room, PROT_READ | PROT_WRITE, MAP_PRIVATE), ENOMEM);
    /* What is shared or cannot be written is no data. */
    CHECK(map(2 * room, PROT_READ | PROT_WRITE, MAP_SHARED) != MAP_FAILED);
    void *readable = map(2 * room, PROT_READ, MAP_PRIVATE);
    CHECK(readable != MAP_FAILED);
    CHECK_ERR(mprotect(readable, 2 * room, PROT_READ | PROT_WRITE), ENOMEM);
    char *end = (char *)syscall(SYS_brk, 0);
    CHECK_EQ(syscall(SYS_brk, end + 2 * room), end);
}

static int __attribute__((noinline)) use_stack(int depth) {
    volatile char block[4096];
    block[0] = (char)depth;
    return depth == 0 ? block[0] : use_stack(depth - 1) + block[0];
}

HELPER(use_stack) {
    use_stack(atoi(argv[0]) / 4);
    return 0;
}

static pid_t run_with_stack(rlim_t limit, const char *kib) {
    return CHILD({
        set_limit(RLIMIT_CORE, 0);
        set_limit(RLIMIT_STACK, limit);
        char *arguments[] = {self_path, "--helper", "use_stack", (char *)kib, NULL};
        execv(self_path, arguments);
        FAIL("execv: %s", test_errno_name(errno));
    });
}

TEST(stack_is_limited) {
    CHECK_EXIT(run_with_stack(4 << 20, "3000"), 0);
    CHECK_KILLED(run_with_stack(1 << 20, "3000"), SIGSEGV);
    CHECK_EXIT(run_with_stack(32 << 20, "24000"), 0);
}

static volatile sig_atomic_t too_large;

static void on_too_large(int signal UNUSED) {
    too_large++;
}

TEST(files_are_limited) {
    enter_scratch();
    handle(SIGXFSZ, on_too_large, 0);
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    set_limit(RLIMIT_FSIZE, 1000);
    static char block[4096];
    CHECK_EQ(write(fd, block, 900), 900);
    CHECK_EQ(write(fd, block, 900), 100);
    CHECK_EQ(too_large, 0);
    CHECK_ERR(write(fd, block, 1), EFBIG);
    CHECK_EQ(too_large, 1);
    CHECK_ERR(pwrite(fd, block, 1, 5000), EFBIG);
    CHECK_EQ(too_large, 2);
    CHECK_ERR(ftruncate(fd, 1001), EFBIG);
    CHECK_EQ(too_large, 3);
    CHECK_ERR(truncate("file", 2000), EFBIG);
    CHECK_EQ(too_large, 4);
    CHECK_ERR(fallocate(fd, 0, 0, 2000), EFBIG);
    CHECK_OK(ftruncate(fd, 500));
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK_EQ(write(ends[1], block, 2000), 2000);
}

TEST(too_large_a_file_kills) {
    enter_scratch();
    CHECK_KILLED(CHILD({
                     set_limit(RLIMIT_CORE, 0);
                     set_limit(RLIMIT_FSIZE, 10);
                     int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
                     CHECK_EQ(write(fd, "0123456789", 10), 10);
                     (void)!write(fd, "x", 1);
                 }),
                 SIGXFSZ);
}

TEST(descriptors_are_limited) {
    int fd = CHECK_OK(open("/dev/null", O_RDONLY));
    set_limit(RLIMIT_NOFILE, fd + 2);
    CHECK_EQ(dup(fd), fd + 1);
    CHECK_ERR(dup(fd), EMFILE);
    CHECK_ERR(open("/dev/null", O_RDONLY), EMFILE);
    CHECK_ERR(dup2(fd, fd + 2), EBADF);
    CHECK_ERR(fcntl(fd, F_DUPFD, fd + 2), EINVAL);
    CHECK_ERR(fcntl(fd, F_DUPFD, 0), EMFILE);
    int ends[2];
    CHECK_ERR(pipe(ends), EMFILE);
    CHECK_OK(close(fd + 1));
    CHECK_ERR(pipe(ends), EMFILE);
    CHECK_EQ(dup(fd), fd + 1);
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max + 1;
    CHECK_ERR(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
}

TEST(no_core_is_dumped_at_a_limit_of_zero) {
    enter_scratch();
    pid_t pid = CHILD({
        set_limit(RLIMIT_CORE, 0);
        abort();
    });
    int status = WAIT(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(!WCOREDUMP(status));
}
