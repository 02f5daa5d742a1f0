/* Memory: mappings, protection, files in memory, the break, the stack. */
#include "test.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { PAGE = 4096 };

static sigjmp_buf jump;
static volatile sig_atomic_t fault_signal, fault_code;

static void on_fault(int signal, siginfo_t *info, void *context UNUSED) {
    fault_signal = signal;
    fault_code = info->si_code;
    siglongjmp(jump, 1);
}

/* The signal that an access raises, or 0. */
static int access_signal(volatile char *address, bool write) {
    handle_info(SIGSEGV, on_fault, SA_NODEFER);
    handle_info(SIGBUS, on_fault, SA_NODEFER);
    fault_signal = 0;
    if (sigsetjmp(jump, 1) == 0) {
        if (write) {
            *address = 1;
        } else {
            (void)*address;
        }
    }
    return fault_signal;
}

static bool readable(void *address) {
    return access_signal(address, false) == 0;
}

static bool writable(void *address) {
    return access_signal(address, true) == 0;
}

static char *map(size_t length, int protection) {
    char *memory = mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* An anonymous file of so many bytes, each of which is the number of its page plus 'a'. */
static int new_file(size_t length) {
    int fd = CHECK_OK(memfd_create("file", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    for (size_t offset = 0; offset < length; offset++) {
        char byte = (char)('a' + offset / PAGE);
        if (offset % PAGE == 0 || offset == length - 1) {
            CHECK_EQ(pwrite(fd, &byte, 1, offset), 1);
        }
    }
    return fd;
}

TEST(anonymous_memory_is_zero) {
    char *memory = map(16 * PAGE, PROT_READ | PROT_WRITE);
    for (int offset = 0; offset < 16 * PAGE; offset++) {
        CHECK_EQ(memory[offset], 0);
    }
    memory[PAGE] = 1;
    CHECK_EQ(memory[PAGE], 1);
    CHECK_EQ((uintptr_t)memory % PAGE, 0);
}

TEST(munmap_takes_memory_away) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    CHECK_OK(munmap(memory + PAGE, PAGE));
    CHECK(readable(memory));
    CHECK(!readable(memory + PAGE));
    CHECK_EQ(fault_code, SEGV_MAPERR);
    CHECK(readable(memory + 2 * PAGE));
    /* Nothing there is fine. */
    CHECK_OK(munmap(memory + PAGE, PAGE));
}

TEST(mmap_errors) {
    CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0) == MAP_FAILED && errno == EBADF);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 999, 0) == MAP_FAILED && errno == EBADF);
    CHECK((void *)syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 100) == MAP_FAILED &&
          errno == EINVAL);
    CHECK(mmap((void *)123, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED &&
          errno == EINVAL);
    CHECK(mmap(NULL, 1UL << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(mmap(NULL, SIZE_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK_ERR(munmap((void *)123, PAGE), EINVAL);
    CHECK_ERR(munmap(map(PAGE, PROT_READ), 0), EINVAL);
}

TEST(mmap_fixed_replaces) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    memset(memory, 'x', 3 * PAGE);
    CHECK(mmap(memory + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + PAGE);
    CHECK_EQ(memory[0], 'x');
    CHECK_EQ(memory[PAGE], 0);
    CHECK_EQ(memory[2 * PAGE], 'x');
    CHECK(!writable(memory + PAGE));
}

TEST(mmap_fixed_noreplace) {
    char *memory = map(2 * PAGE, PROT_READ);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    CHECK(mmap(memory, PAGE, PROT_READ, flags, -1, 0) == MAP_FAILED && errno == EEXIST);
    CHECK_OK(munmap(memory, PAGE));
    CHECK(mmap(memory, PAGE, PROT_READ, flags, -1, 0) == memory);
}

TEST(mmap_hint_is_taken_if_free) {
    char *memory = map(PAGE, PROT_READ);
    CHECK_OK(munmap(memory, PAGE));
    CHECK(mmap(memory, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == memory);
    CHECK(mmap(memory, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != memory);
    CHECK(mmap((char *)memory + 5, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
}

TEST(low_mappings) {
    char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK((uintptr_t)memory < 1UL << 32);
    memory[0] = 1;
}

TEST(mprotect_is_enforced) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    memory[PAGE] = 'x';
    CHECK_OK(mprotect(memory + PAGE, PAGE, PROT_READ));
    CHECK(writable(memory));
    CHECK(!writable(memory + PAGE));
    CHECK_EQ(fault_code, SEGV_ACCERR);
    CHECK_EQ(memory[PAGE], 'x');
    CHECK_OK(mprotect(memory + PAGE, PAGE, PROT_NONE));
    CHECK(!readable(memory + PAGE));
    CHECK_OK(mprotect(memory, 3 * PAGE, PROT_READ | PROT_WRITE));
    CHECK(writable(memory + PAGE));
}

TEST(mprotect_errors) {
    char *memory = map(3 * PAGE, PROT_READ);
    CHECK_ERR(mprotect(memory + 1, PAGE, PROT_READ), EINVAL);
    CHECK_OK(munmap(memory + PAGE, PAGE));
    CHECK_ERR(mprotect(memory, 3 * PAGE, PROT_READ | PROT_WRITE), ENOMEM);
    CHECK_OK(mprotect(memory, 0, PROT_READ));
    CHECK_ERR(mprotect(memory, PAGE, 0x40), EINVAL);
}

TEST(executable_memory) {
    unsigned char *code = (void *)map(PAGE, PROT_READ | PROT_WRITE);
    /* mov eax, 42; ret */
    memcpy(code, "\xb8\x2a\0\0\0\xc3", 6);
    CHECK_OK(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
    CHECK_EQ(((int (*)(void))code)(), 42);
}

TEST(system_calls_from_new_code) {
    /* Code written, run, and written again: no call site may be remembered wrongly. */
    unsigned char *code = (void *)map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (int round = 0; round < 20; round++) {
        /* mov eax, 39 (getpid) or 110 (getppid); syscall; ret */
        memcpy(code, round % 2 ? "\xb8\x27\0\0\0\x0f\x05\xc3" : "\xb8\x6e\0\0\0\x0f\x05\xc3", 8);
        CHECK_EQ(((int (*)(void))code)(), round % 2 ? getpid() : getppid());
    }
}

TEST(mremap_grows_and_shrinks) {
    char *memory = map(4 * PAGE, PROT_READ | PROT_WRITE);
    memset(memory, 'x', 4 * PAGE);
    CHECK(mremap(memory, 4 * PAGE, 2 * PAGE, 0) == memory);
    CHECK(!readable(memory + 2 * PAGE));
    CHECK(mremap(memory, 2 * PAGE, 4 * PAGE, 0) == memory);
    CHECK_EQ(memory[PAGE], 'x');
    CHECK_EQ(memory[3 * PAGE], 0);
    char *moved = mremap(memory, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED);
    CHECK_EQ(moved[PAGE], 'x');
    CHECK_EQ(moved[63 * PAGE], 0);
}

TEST(mremap_to_a_fixed_address) {
    char *memory = map(PAGE, PROT_READ | PROT_WRITE), *target = map(2 * PAGE, PROT_READ);
    memory[5] = 'x';
    CHECK(mremap(memory, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    CHECK_EQ(target[5], 'x');
    CHECK(writable(target));
    CHECK(!readable(memory));
    CHECK(mremap(target, PAGE, PAGE, MREMAP_FIXED, memory) == MAP_FAILED && errno == EINVAL);
    CHECK(mremap(target, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED && errno == EINVAL);
}

TEST(mremap_errors) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    CHECK(mremap(memory, PAGE, 2 * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(mremap(memory + 1, PAGE, PAGE, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(mremap(memory, PAGE, 0, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(mremap(memory, PAGE, PAGE, 0x100) == MAP_FAILED && errno == EINVAL);
    CHECK_OK(munmap(memory, PAGE));
    CHECK(mremap(memory, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
}

TEST(brk_grows_and_shrinks) {
    char *end = sbrk(0);
    CHECK(sbrk(5 * PAGE) == end);
    end[0] = end[5 * PAGE - 1] = 'x';
    CHECK(sbrk(-2 * PAGE) == end + 5 * PAGE);
    CHECK(sbrk(0) == end + 3 * PAGE);
    CHECK(sbrk(2 * PAGE) != (void *)-1);
    CHECK_EQ(end[0], 'x');
    CHECK_EQ(end[5 * PAGE - 1], 0);
    /* A break below its start changes nothing; the call returns the break. */
    CHECK_EQ(syscall(SYS_brk, 0), (long)(end + 5 * PAGE));
    CHECK_EQ(syscall(SYS_brk, -PAGE), (long)(end + 5 * PAGE));
}

/* --- madvise and friends --- */

TEST(madvise_dontneed_zeroes) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    memset(memory, 'x', 3 * PAGE);
    CHECK_OK(madvise(memory + PAGE, PAGE, MADV_DONTNEED));
    CHECK_EQ(memory[0], 'x');
    CHECK_EQ(memory[PAGE], 0);
    CHECK_EQ(memory[2 * PAGE], 'x');
}

TEST(madvise_dontneed_of_a_private_file_shows_the_file) {
    int fd = new_file(PAGE);
    char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    memory[0] = 'x';
    CHECK_OK(madvise(memory, PAGE, MADV_DONTNEED));
    CHECK_EQ(memory[0], 'a');
}

TEST(madvise_dontfork_and_wipeonfork) {
    char *hidden = map(PAGE, PROT_READ | PROT_WRITE), *wiped = map(PAGE, PROT_READ | PROT_WRITE);
    hidden[0] = wiped[0] = 'x';
    CHECK_OK(madvise(hidden, PAGE, MADV_DONTFORK));
    CHECK_OK(madvise(wiped, PAGE, MADV_WIPEONFORK));
    CHECK_EXIT(CHILD({
                   CHECK(!readable(hidden));
                   CHECK_EQ(wiped[0], 0);
               }),
               0);
    CHECK_EQ(wiped[0], 'x');
}

TEST(madvise_errors) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    CHECK_ERR(madvise(memory + 1, PAGE, MADV_NORMAL), EINVAL);
    CHECK_ERR(madvise(memory, PAGE, 7777), EINVAL);
    CHECK_OK(munmap(memory + PAGE, PAGE));
    CHECK_ERR(madvise(memory, 3 * PAGE, MADV_DONTNEED), ENOMEM);
    CHECK_OK(madvise(memory, PAGE, MADV_WILLNEED));
    CHECK_OK(madvise(memory, PAGE, MADV_FREE));
    CHECK_OK(madvise(memory, PAGE, MADV_HUGEPAGE) == 0 || errno == EINVAL ? 0 : -1);
}

TEST(mincore_tells_residence) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    unsigned char residence[3] = {0};
    memory[PAGE] = 1;
    CHECK_OK(mincore(memory, 3 * PAGE, residence));
    CHECK_EQ(residence[1] & 1, 1);
    CHECK_ERR(mincore(memory + 1, PAGE, residence), EINVAL);
    CHECK_OK(munmap(memory + PAGE, PAGE));
    CHECK_ERR(mincore(memory, 3 * PAGE, residence), ENOMEM);
}

TEST(mlock_and_munlock) {
    char *memory = map(2 * PAGE, PROT_READ | PROT_WRITE);
    CHECK_OK(mlock(memory, PAGE));
    CHECK_OK(munlock(memory, PAGE));
    CHECK_OK(mlock2(memory, PAGE, MLOCK_ONFAULT));
    CHECK_ERR(mlock2(memory, PAGE, 0x10), EINVAL);
    CHECK_OK(munmap(memory, PAGE));
    CHECK_ERR(mlock(memory, PAGE), ENOMEM);
    CHECK_OK(munlockall());
    CHECK_ERR(mlockall(0), EINVAL);
    CHECK_ERR(mlockall(0x100), EINVAL);
}

TEST(msync_checks) {
    char *memory = map(2 * PAGE, PROT_READ | PROT_WRITE);
    CHECK_OK(msync(memory, PAGE, MS_SYNC));
    CHECK_OK(msync(memory, PAGE, MS_ASYNC | MS_INVALIDATE));
    CHECK_ERR(msync(memory, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
    CHECK_ERR(msync(memory + 1, PAGE, MS_SYNC), EINVAL);
    CHECK_OK(munmap(memory, PAGE));
    CHECK_ERR(msync(memory, PAGE, MS_SYNC), ENOMEM);
}

/* --- files --- */

TEST(private_mapping_keeps_the_file) {
    int fd = new_file(2 * PAGE);
    char *memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), byte;
    CHECK_EQ(memory[0], 'a');
    CHECK_EQ(memory[PAGE], 'b');
    memory[0] = 'x';
    CHECK_EQ(pread(fd, &byte, 1, 0), 1);
    CHECK_EQ(byte, 'a');
}

TEST(shared_mapping_is_the_file) {
    int fd = new_file(2 * PAGE);
    char *memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), byte;
    memory[PAGE + 1] = 'x';
    CHECK_EQ(pread(fd, &byte, 1, PAGE + 1), 1);
    CHECK_EQ(byte, 'x');
    CHECK_EQ(pwrite(fd, "y", 1, 3), 1);
    CHECK_EQ(memory[3], 'y');
    char *other = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    CHECK_EQ(other[1], 'x');
    CHECK_OK(close(fd));
    CHECK_EQ(memory[PAGE + 1], 'x');
}

TEST(file_in_a_directory_maps_shared) {
    enter_scratch();
    int fd = CHECK_OK(open("file", O_RDWR | O_CREAT, 0600));
    CHECK_EQ(write(fd, "small", 5), 5);
    char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(!memcmp(memory, "small\0", 6));
    memory[0] = 'S';
    CHECK_OK(msync(memory, PAGE, MS_SYNC));
    char text[16];
    CHECK_EQ(get_file("file", text, sizeof text), 5);
    CHECK_STR(text, "Small");
    CHECK_EQ(pwrite(fd, "!", 1, 5), 1);
    CHECK_EQ(memory[5], '!');
    CHECK_OK(unlink("file"));
    CHECK_EQ(memory[1], 'm');
}

TEST(protection_follows_the_open_mode) {
    enter_scratch();
    put_file("file", "text", 0644);
    int reading = CHECK_OK(open("file", O_RDONLY)), writing = CHECK_OK(open("file", O_WRONLY));
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, reading, 0) == MAP_FAILED && errno == EACCES);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, writing, 0) == MAP_FAILED && errno == EACCES);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, reading, 0) != MAP_FAILED);
    char *shared = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reading, 0);
    CHECK(shared != MAP_FAILED);
    CHECK_ERR(mprotect(shared, PAGE, PROT_READ | PROT_WRITE), EACCES);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, CHECK_OK(open(".", O_RDONLY)), 0) == MAP_FAILED && errno == ENODEV);
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, ends[0], 0) == MAP_FAILED && errno == ENODEV);
}

TEST(access_beyond_the_file_is_sigbus) {
    int fd = new_file(PAGE + 10);
    char *memory = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK_EQ(memory[PAGE + 20], 0);
    CHECK_EQ(access_signal(memory + 2 * PAGE, false), SIGBUS);
    CHECK_OK(ftruncate(fd, 3 * PAGE));
    CHECK_EQ(access_signal(memory + 2 * PAGE, false), 0);
    CHECK_OK(ftruncate(fd, 0));
    CHECK_EQ(access_signal(memory, false), SIGBUS);
    /* The kernel, too, meets the end: EFAULT. */
    CHECK_ERR(write(CHECK_OK(memfd_create("x", 0)), memory, 10), EFAULT);
}

TEST(file_mapping_with_an_offset) {
    int fd = new_file(4 * PAGE);
    char *memory = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * PAGE);
    CHECK_EQ(memory[0], 'c');
    CHECK((void *)syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 100) == MAP_FAILED && errno == EINVAL);
}

TEST(mremap_of_a_file_mapping) {
    int fd = new_file(4 * PAGE);
    char *memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    char *grown = mremap(memory, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    CHECK(grown != MAP_FAILED);
    CHECK_EQ(grown[0], 'b');
    CHECK_EQ(grown[2 * PAGE], 'd');
}

TEST(seals) {
    int fd = new_file(2 * PAGE);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), 0);
    CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK));
    CHECK_ERR(ftruncate(fd, PAGE), EPERM);
    CHECK_ERR(ftruncate(fd, 3 * PAGE), EPERM);
    CHECK_ERR(pwrite(fd, "x", 1, 2 * PAGE), EPERM);
    char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    CHECK_OK(munmap(shared, PAGE));
    CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    CHECK_ERR(pwrite(fd, "x", 1, 0), EPERM);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
    CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    int unsealable = CHECK_OK(memfd_create("x", 0));
    CHECK_EQ(fcntl(unsealable, F_GET_SEALS), F_SEAL_SEAL);
    CHECK_ERR(memfd_create("x", 0x4000), EINVAL);
    CHECK_ERR(fcntl(CHECK_OK(open("/", O_RDONLY)), F_GET_SEALS), EINVAL);
}

/* --- fork --- */

TEST(fork_copies_private_memory_on_write) {
    char *memory = map(64 * PAGE, PROT_READ | PROT_WRITE);
    for (int page = 0; page < 64; page++) {
        memory[page * PAGE] = (char)page;
    }
    pid_t pid = CHILD({
        for (int page = 0; page < 64; page++) {
            CHECK_EQ(memory[page * PAGE], page);
            memory[page * PAGE] = 'x';
        }
    });
    CHECK_EXIT(pid, 0);
    for (int page = 0; page < 64; page++) {
        CHECK_EQ(memory[page * PAGE], page);
    }
}

TEST(fork_shares_shared_memory) {
    char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK_EXIT(CHILD({ CHECK_EXIT(CHILD({ memory[0] = 'x'; }), 0); }), 0);
    CHECK_EQ(memory[0], 'x');
}

TEST(fork_copies_the_mappings) {
    char *memory = map(3 * PAGE, PROT_READ | PROT_WRITE);
    CHECK_OK(mprotect(memory + PAGE, PAGE, PROT_READ));
    CHECK_EXIT(CHILD({
                   CHECK(!writable(memory + PAGE));
                   CHECK_OK(mprotect(memory + PAGE, PAGE, PROT_READ | PROT_WRITE));
                   CHECK_OK(munmap(memory, PAGE));
                   CHECK(writable(memory + PAGE));
               }),
               0);
    CHECK(writable(memory));
    CHECK(!writable(memory + PAGE));
}

TEST(system_call_on_copied_memory) {
    /* The kernel writes where a copy on write is due. */
    char *memory = map(PAGE, PROT_READ | PROT_WRITE);
    int ends[2];
    CHECK_OK(pipe(ends));
    memory[0] = 'a';
    CHECK_EQ(write(ends[1], "b", 1), 1);
    CHECK_EXIT(CHILD({
                   CHECK_EQ(read(ends[0], memory, 1), 1);
                   CHECK_EQ(memory[0], 'b');
               }),
               0);
    CHECK_EQ(memory[0], 'a');
}

TEST(system_calls_respect_protection) {
    char *memory = map(2 * PAGE, PROT_READ | PROT_WRITE);
    int fd = new_file(2 * PAGE);
    CHECK_OK(mprotect(memory + PAGE, PAGE, PROT_READ));
    CHECK_ERR(pread(fd, memory + PAGE, 10, 0), EFAULT);
    CHECK_OK(mprotect(memory + PAGE, PAGE, PROT_NONE));
    CHECK_ERR(pwrite(fd, memory + PAGE, 10, 0), EFAULT);
    /* Half in and half out: as much as fits, or EFAULT; never more. */
    ssize_t count = pread(fd, memory + PAGE - 10, 20, 0);
    CHECK(count == 10 || (count == -1 && errno == EFAULT));
}

TEST(untouched_memory_is_usable_by_system_calls) {
    char *memory = map(64 * PAGE, PROT_READ | PROT_WRITE);
    int fd = new_file(32 * PAGE);
    CHECK_EQ(pread(fd, memory + 5, 32 * PAGE, 0), 32 * PAGE);
    CHECK_EQ(memory[5], 'a');
}

/* --- the stack --- */

static int recurse(int depth) {
    volatile char frame[4000];
    memset((char *)frame, depth, sizeof frame);
    return depth == 0 ? 0 : recurse(depth - 1) + (frame[0] == (char)depth);
}

TEST(stack_grows) {
    CHECK_EQ(recurse(1000), 1000);
}

TEST(stack_overflow_is_sigsegv) {
    CHECK_KILLED(CHILD({
                     struct rlimit limit = {1 << 20, RLIM_INFINITY};
                     getrlimit(RLIMIT_STACK, &limit);
                     limit.rlim_cur = 1 << 20;
                     CHECK_OK(setrlimit(RLIMIT_STACK, &limit));
                     recurse(100000);
                 }),
                 SIGSEGV);
}

TEST(growsdown_mapping_grows) {
    char *space = map(64 * PAGE, PROT_NONE);
    CHECK_OK(munmap(space, 64 * PAGE));
    char *memory = mmap(space + 60 * PAGE, PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    CHECK(memory != MAP_FAILED);
    for (int page = 0; page < 20; page++) {
        CHECK(writable(memory - page * PAGE));
    }
}

static void *touch_stack(void *argument UNUSED) {
    return (void *)(long)recurse(100);
}

TEST(thread_stacks) {
    pthread_t threads[8];
    for (int index = 0; index < 8; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, touch_stack, NULL), 0);
    }
    for (int index = 0; index < 8; index++) {
        void *result;
        CHECK_EQ(pthread_join(threads[index], &result), 0);
        CHECK_EQ((long)result, 100);
    }
}

TEST(large_reservation) {
    char *memory = mmap(NULL, 64UL << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK_OK(mprotect(memory + (32UL << 30), PAGE, PROT_READ | PROT_WRITE));
    memory[32UL << 30] = 'x';
    CHECK_OK(munmap(memory, 64UL << 30));
}

TEST(many_mappings) {
    char *memory = map(1000 * PAGE, PROT_READ | PROT_WRITE);
    for (int page = 0; page < 1000; page += 2) {
        CHECK_OK(mprotect(memory + page * PAGE, PAGE, PROT_READ));
    }
    for (int page = 0; page < 1000; page++) {
        CHECK_EQ(memory[page * PAGE], 0);
    }
    CHECK(!writable(memory + 500 * PAGE));
    CHECK(writable(memory + 501 * PAGE));
    CHECK_OK(munmap(memory, 1000 * PAGE));
}

static void *map_and_unmap(void *argument UNUSED) {
    for (int round = 0; round < 200; round++) {
        char *memory = map(4 * PAGE, PROT_READ | PROT_WRITE);
        memory[0] = memory[4 * PAGE - 1] = 'x';
        CHECK_OK(munmap(memory, 4 * PAGE));
    }
    return NULL;
}

TEST(threads_map_at_the_same_time) {
    pthread_t threads[4];
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, map_and_unmap, NULL), 0);
    }
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
    }
}

TEST(zero_device_maps) {
    int fd = CHECK_OK(open("/dev/zero", O_RDWR));
    char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(memory != MAP_FAILED);
    CHECK_EQ(memory[0], 0);
    memory[0] = 1;
}
