/* Instructions that make system calls, of each kind that a kernel might want to change: whatever it does to them, they work. */
#include "test.h"

#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4096, ROUNDS = 200, PROCESSES = 30 };

/* Where the functions are in the page: all make the call whose number they are given, but for `constant`, which makes
 * getppid(2). */
enum { BEFORE_NOP = 0x100, THROUGH_NOP = 0x140, CONSTANT = 0x400, BEFORE_COMPARISON = 0x600, ACROSS_PAGES = PAGE - 4 };

typedef long function(long number);

struct piece {
    size_t at;
    size_t size;
    const char *bytes;
};

#define PIECE(at, bytes) {at, sizeof(bytes) - 1, bytes}

/* mov %rdi, %rax; syscall */
#define CALL "\x48\x89\xf8\x0f\x05"
/* nopw 0(%rax,%rax,1) */
#define NOP "\x66\x0f\x1f\x84\0\0\0\0\0"

static const struct piece pieces[] = {
    PIECE(BEFORE_NOP, CALL "\xc3" NOP),
    PIECE(THROUGH_NOP, CALL "\xeb\0" NOP "\xc3"),
    PIECE(CONSTANT, "\x90\xb8\x6e\0\0\0\x0f\x05\xc3"),
    PIECE(BEFORE_COMPARISON, CALL "\x48\x3d\x01\xf0\xff\xff\xc3"),
    PIECE(ACROSS_PAGES, CALL "\xc3" NOP),
};
static const size_t functions[] = {BEFORE_NOP, THROUGH_NOP, CONSTANT, BEFORE_COMPARISON, ACROSS_PAGES};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

static void put(int file, const struct piece *piece) {
    CHECK_EQ(pwrite(file, piece->bytes, piece->size, piece->at), piece->size);
}

/* A file of two pages with the functions. */
static int code_file(void) {
    int file = CHECK_OK(memfd_create("code", 0));
    CHECK_OK(ftruncate(file, 2 * PAGE));
    for (size_t index = 0; index < sizeof pieces / sizeof *pieces; index++) {
        put(file, &pieces[index]);
    }
    return file;
}

static char *map_code(int file, void *address) {
    int flags = MAP_PRIVATE | (address ? MAP_FIXED : 0);
    char *code = mmap(address, 2 * PAGE, PROT_READ | PROT_EXEC, flags, file, 0);
    CHECK(code != MAP_FAILED);
    return code;
}

static long call(const char *code, size_t at) {
    return ((function *)(uintptr_t)(code + at))(SYS_getppid);
}

static void check_calls(const char *code, int rounds) {
    pid_t parent = getppid();
    for (int round = 0; round < rounds; round++) {
        for (int index = 0; index < FUNCTIONS; index++) {
            CHECK_EQ(call(code, functions[index]), parent);
        }
    }
}

/* Begins at any instruction, with a value in the register that numbers and results are in. */
static long begin_at(const char *place, long value) {
    asm volatile("call *%[place]" : "+a"(value) : [place] "r"(place) : "rcx", "r11", "memory", "cc");
    return value;
}

TEST(all_of_them_call) {
    check_calls(map_code(code_file(), NULL), ROUNDS);
}

TEST(who_jumps_to_one_of_the_instructions_finds_it) {
    const char *code = map_code(code_file(), NULL);
    pid_t parent = getppid();
    for (int round = 0; round < ROUNDS; round++) {
        check_calls(code, 1);
        CHECK_EQ(begin_at(code + BEFORE_NOP + 3, SYS_getppid), parent);
        CHECK_EQ(begin_at(code + BEFORE_NOP + 5, 7), 7);
        CHECK_EQ(begin_at(code + THROUGH_NOP + 3, SYS_getppid), parent);
        CHECK_EQ(begin_at(code + THROUGH_NOP + 5, 8), 8);
        CHECK_EQ(begin_at(code + THROUGH_NOP + 7, 9), 9);
        CHECK_EQ(begin_at(code + CONSTANT + 6, SYS_getppid), parent);
        CHECK_EQ(begin_at(code + CONSTANT + 8, 10), 10);
        CHECK_EQ(begin_at(code + BEFORE_COMPARISON + 3, SYS_getppid), parent);
        CHECK_EQ(begin_at(code + BEFORE_COMPARISON + 5, 11), 11);
        CHECK_EQ(begin_at(code + BEFORE_COMPARISON + 11, 12), 12);
        CHECK_EQ(begin_at(code + ACROSS_PAGES + 3, SYS_getppid), parent);
        CHECK_EQ(begin_at(code + ACROSS_PAGES + 5, 13), 13);
    }
}

TEST(they_work_in_one_process_after_the_other) {
    int file = code_file();
    for (int process = 0; process < PROCESSES; process++) {
        pid_t pid = CHILD({
            const char *code = map_code(file, NULL);
            check_calls(code, 4);
            pid_t grandchild = CHILD(check_calls(code, 4));
            CHECK_EXIT(grandchild, 0);
            check_calls(code, 2);
        });
        CHECK_EXIT(pid, 0);
    }
}

TEST(a_file_that_has_changed_has_other_code) {
    int file = code_file();
    for (int process = 0; process < PROCESSES; process++) {
        CHECK_EXIT(CHILD(check_calls(map_code(file, NULL), 4)), 0);
    }
    /* Code without a call; the same bytes within another instruction: movabs $…, %r8; a nop that is none. */
    put(file, &(struct piece)PIECE(BEFORE_NOP, "\xb8\x4d\0\0\0\xc3"));
    put(file, &(struct piece)PIECE(CONSTANT - 4, "\xb0\x4d\xeb\0\x49\xb8\x6e\0\0\0\x0f\x05\xc3\x90\x0f\xb6\xc0\xc3"));
    put(file, &(struct piece)PIECE(THROUGH_NOP, CALL "\xeb\0\x66\x0f\x1f\x84\0\0\0\0\x01\xc3"));
    put(file, &(struct piece)PIECE(BEFORE_COMPARISON, CALL "\x48\x8d\x40\x01\xc3"));
    for (int process = 0; process < PROCESSES; process++) {
        pid_t pid = CHILD({
            const char *code = map_code(file, NULL);
            for (int round = 0; round < 20; round++) {
                CHECK_EQ(call(code, BEFORE_NOP), 77);
                CHECK_EQ(call(code, CONSTANT - 4), 77);
                CHECK_EQ(call(code, THROUGH_NOP), getppid());
                CHECK_EQ(call(code, BEFORE_COMPARISON), getppid() + 1);
                CHECK_EQ(call(code, ACROSS_PAGES), getppid());
            }
        });
        CHECK_EXIT(pid, 0);
    }
}

static void *call_from_thread(void *code) {
    check_calls(code, ROUNDS);
    return NULL;
}

TEST(they_work_while_other_threads_use_them) {
    int file = code_file();
    for (int round = 0; round < 5; round++) {
        pid_t pid = CHILD({
            char *code = map_code(file, NULL);
            pthread_t threads[3];
            for (int index = 0; index < 3; index++) {
                CHECK_EQ(pthread_create(&threads[index], NULL, call_from_thread, code), 0);
            }
            check_calls(code, ROUNDS);
            for (int index = 0; index < 3; index++) {
                CHECK_EQ(pthread_join(threads[index], NULL), 0);
            }
        });
        CHECK_EXIT(pid, 0);
    }
}

TEST(they_work_where_they_are_moved_to) {
    char *code = map_code(code_file(), NULL);
    check_calls(code, ROUNDS);
    char *place = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    char *moved = mremap(code, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    CHECK(moved == place);
    check_calls(moved, ROUNDS);
    /* Each page somewhere else, both in reach of each other. */
    CHECK(mremap(moved + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, code + PAGE) == code + PAGE);
    CHECK(mremap(moved, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, code) == code);
    check_calls(code, ROUNDS);
}

TEST(they_work_when_the_pages_are_the_files_again) {
    char *code = map_code(code_file(), NULL);
    for (int round = 0; round < 5; round++) {
        check_calls(code, ROUNDS);
        CHECK_OK(madvise(code + (round & 1) * PAGE, PAGE, MADV_DONTNEED));
    }
    check_calls(code, ROUNDS);
}

TEST(what_is_written_over_them_is_executed) {
    char *code = map_code(code_file(), NULL);
    check_calls(code, ROUNDS);
    CHECK_OK(mprotect(code, 2 * PAGE, PROT_READ | PROT_WRITE));
    memcpy(code + BEFORE_NOP, "\xb8\x4d\0\0\0\xc3", 6);
    memcpy(code + CONSTANT, "\xb8\x4e\0\0\0\xc3", 6);
    memcpy(code + BEFORE_COMPARISON, "\xb8\x4f\0\0\0\xc3", 6);
    CHECK_OK(mprotect(code, 2 * PAGE, PROT_READ | PROT_EXEC));
    for (int round = 0; round < ROUNDS; round++) {
        CHECK_EQ(call(code, BEFORE_NOP), 77);
        CHECK_EQ(call(code, CONSTANT), 78);
        CHECK_EQ(call(code, BEFORE_COMPARISON), 79);
        CHECK_EQ(call(code, THROUGH_NOP), getppid());
    }
}

TEST(what_is_mapped_in_their_place_is_executed) {
    char *code = map_code(code_file(), NULL);
    check_calls(code, ROUNDS);
    int other = code_file();
    put(other, &(struct piece)PIECE(BEFORE_NOP, "\xb8\x4d\0\0\0\xc3"));
    put(other, &(struct piece)PIECE(BEFORE_COMPARISON + 3, "\xb8\x4f\0\0\0\xc3"));
    map_code(other, code);
    for (int round = 0; round < ROUNDS; round++) {
        CHECK_EQ(call(code, BEFORE_NOP), 77);
        CHECK_EQ(call(code, BEFORE_COMPARISON), 79);
        CHECK_EQ(call(code, THROUGH_NOP), getppid());
        CHECK_EQ(call(code, CONSTANT), getppid());
    }
    CHECK_OK(munmap(code, 2 * PAGE));
    map_code(code_file(), code);
    check_calls(code, ROUNDS);
}

static volatile sig_atomic_t alarms;

static void count_alarm(int signal UNUSED) {
    alarms++;
}

TEST(they_work_between_signals) {
    const char *code = map_code(code_file(), NULL);
    struct sigaction action = {.sa_handler = count_alarm, .sa_flags = SA_RESTART};
    CHECK_OK(sigaction(SIGALRM, &action, NULL));
    struct itimerspec often = {{0, 200000}, {0, 200000}};
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    CHECK_OK(timer_settime(timer, 0, &often, NULL));
    while (alarms < 200) {
        check_calls(code, 1);
    }
    CHECK_OK(timer_delete(timer));
}
