/* How tasks are scheduled, where memory comes from, barriers, seals, personalities. */
#include "test.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/utsname.h>

struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t clamps[2];
};

static long get_attributes(pid_t pid, struct attributes *place, unsigned size, unsigned flags) {
    return syscall(SYS_sched_getattr, pid, place, size, flags);
}

static long set_attributes(pid_t pid, struct attributes *place, unsigned flags) {
    return syscall(SYS_sched_setattr, pid, place, flags);
}

TEST(affinity_is_remembered_and_inherited) {
    cpu_set_t all, one, found;
    CHECK_OK(sched_getaffinity(0, sizeof all, &all));
    CHECK(CPU_COUNT(&all) >= 1);
    int first = 0;
    while (!CPU_ISSET(first, &all)) {
        first++;
    }
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK_OK(sched_setaffinity(0, sizeof one, &one));
    CHECK_OK(sched_getaffinity(0, sizeof found, &found));
    CHECK(CPU_EQUAL(&one, &found));
    CHECK_EXIT(CHILD({
                   CHECK_OK(sched_getaffinity(0, sizeof found, &found));
                   CHECK(CPU_EQUAL(&one, &found));
                   CHECK_OK(sched_setaffinity(0, sizeof all, &all));
               }),
               0);
    char text[4096], line[64];
    get_file("/proc/self/status", text, sizeof text);
    snprintf(line, sizeof line, "Cpus_allowed_list:\t%d\n", first);
    CHECK(strstr(text, line));
    CPU_ZERO(&one);
    CHECK_ERR(sched_setaffinity(0, sizeof one, &one), EINVAL);
    CHECK_ERR(sched_setaffinity(-1, sizeof all, &all), ESRCH);
    CHECK_ERR(sched_getaffinity(-1, sizeof all, &all), ESRCH);
    CHECK_ERR(sched_setaffinity(4000000, sizeof all, &all), ESRCH);
    CHECK_ERR(sched_setaffinity(0, sizeof all, BAD), EFAULT);
    CHECK_ERR(syscall(SYS_sched_getaffinity, 0, 3, &found), EINVAL);
}

TEST(attributes) {
    struct attributes attributes = {0};
    CHECK_OK(get_attributes(0, &attributes, sizeof attributes, 0));
    CHECK_EQ(attributes.size, sizeof attributes);
    CHECK_EQ(attributes.policy, SCHED_OTHER);
    CHECK_ERR(get_attributes(0, &attributes, 47, 0), EINVAL);
    CHECK_OK(get_attributes(0, &attributes, 48, 0));
    CHECK_EQ(attributes.size, 48);
    CHECK_ERR(get_attributes(0, &attributes, 48, 1), EINVAL);
    CHECK_ERR(get_attributes(-1, &attributes, 48, 0), EINVAL);
    CHECK_ERR(get_attributes(4000000, &attributes, 48, 0), ESRCH);
    attributes = (struct attributes){.size = sizeof attributes, .policy = SCHED_BATCH, .nice = 5, .flags = 1};
    CHECK_OK(set_attributes(0, &attributes, 0));
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), 5);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH | 0x40000000);
    attributes.size = 40;
    CHECK_ERR(set_attributes(0, &attributes, 0), E2BIG);
    CHECK_EQ(attributes.size, sizeof attributes);
    attributes.policy = 99;
    CHECK_ERR(set_attributes(0, &attributes, 0), EINVAL);
    attributes.policy = SCHED_OTHER;
    attributes.priority = 1;
    CHECK_ERR(set_attributes(0, &attributes, 0), EINVAL);
    attributes.priority = 0;
    attributes.flags = 1 << 12;
    CHECK_ERR(set_attributes(0, &attributes, 0), EINVAL);
    CHECK_ERR(set_attributes(0, NULL, 0), EINVAL);
}

TEST(realtime_policies_need_privilege) {
    REQUIRE_ROOT();
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   struct sched_param parameters = {5};
                   CHECK_ERR(sched_setscheduler(0, SCHED_FIFO, &parameters), EPERM);
                   parameters.sched_priority = 0;
                   CHECK_ERR(sched_setscheduler(0, SCHED_FIFO, &parameters), EINVAL);
                   CHECK_OK(sched_setscheduler(0, SCHED_IDLE, &parameters));
                   CHECK_ERR(setpriority(PRIO_PROCESS, 0, -5), EACCES);
                   CHECK_ERR(sched_setscheduler(getppid(), SCHED_OTHER, &parameters), EPERM);
               }),
               0);
}

TEST(io_priorities) {
    CHECK_EQ(syscall(SYS_ioprio_get, 1, 0), 0);
    CHECK_OK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5));
    CHECK_EQ(syscall(SYS_ioprio_get, 1, 0), 2 << 13 | 5);
    CHECK_EXIT(CHILD({ CHECK_EQ(syscall(SYS_ioprio_get, 1, getpid()), 2 << 13 | 5); }), 0);
    CHECK_ERR(syscall(SYS_ioprio_set, 1, 0, 5), EINVAL);
    CHECK_ERR(syscall(SYS_ioprio_set, 1, 0, 4 << 13), EINVAL);
    CHECK_ERR(syscall(SYS_ioprio_get, 1, 4000000), ESRCH);
    CHECK_ERR(syscall(SYS_ioprio_get, 4, 0), EINVAL);
}

TEST(memory_policies_of_one_node) {
    unsigned long mask = 1, found = 7;
    int mode = 9;
    CHECK_OK(syscall(SYS_get_mempolicy, &mode, &found, 64, 0, 0));
    CHECK_EQ(mode, 0);
    CHECK_EQ(found, 0);
    CHECK_OK(syscall(SYS_set_mempolicy, 2, &mask, 64));
    CHECK_OK(syscall(SYS_get_mempolicy, &mode, &found, 64, 0, 0));
    CHECK_EQ(mode, 2);
    CHECK_EQ(found, 1);
    CHECK_OK(syscall(SYS_get_mempolicy, NULL, &found, 64, 0, 4));
    CHECK_EQ(found & 1, 1);
    CHECK_OK(syscall(SYS_set_mempolicy, 0, NULL, 0));
    CHECK_ERR(syscall(SYS_set_mempolicy, 0, &mask, 64), EINVAL);
    CHECK_ERR(syscall(SYS_set_mempolicy, 77, NULL, 0), EINVAL);
    CHECK_ERR(syscall(SYS_set_mempolicy, 2, NULL, 0), EINVAL);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = 1;
    CHECK_OK(syscall(SYS_mbind, page, 4096, 2, &mask, 64, 0));
    CHECK_ERR(syscall(SYS_mbind, page + 1, 4096, 2, &mask, 64, 0), EINVAL);
    CHECK_ERR(syscall(SYS_mbind, BAD, 4096, 2, &mask, 64, 0), EINVAL);
    CHECK_ERR(syscall(SYS_get_mempolicy, &mode, NULL, 0, BAD, 3), EFAULT);
    void *pages[] = {page, BAD};
    int status[] = {9, 9}, nodes[] = {0, 0};
    CHECK_OK(syscall(SYS_move_pages, 0, 2, pages, NULL, status, 0));
    CHECK_EQ(status[0], 0);
    CHECK_EQ(status[1], -EFAULT);
    CHECK_OK(syscall(SYS_move_pages, 0, 1, pages, nodes, status, 2));
    CHECK_ERR(syscall(SYS_move_pages, 0, 1, pages, NULL, status, 8), EINVAL);
}

TEST(barriers) {
    int known = CHECK_OK(syscall(SYS_membarrier, 0, 0, 0));
    CHECK_EQ(known & 0x7f, 0x7f);
    CHECK_ERR(syscall(SYS_membarrier, 8, 0, 0), EPERM);
    CHECK_OK(syscall(SYS_membarrier, 16, 0, 0));
    CHECK_OK(syscall(SYS_membarrier, 8, 0, 0));
    CHECK_ERR(syscall(SYS_membarrier, 32, 0, 0), EPERM);
    CHECK_OK(syscall(SYS_membarrier, 64, 0, 0));
    CHECK_OK(syscall(SYS_membarrier, 32, 0, 0));
    CHECK_OK(syscall(SYS_membarrier, 2, 0, 0));
    CHECK_ERR(syscall(SYS_membarrier, 3, 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_membarrier, 8, 1, 0), EINVAL);
}

static volatile int flags_[2], seen[2], go, over;

static void *other_side(void *argument UNUSED) {
    for (int turn = 1; turn <= 200; turn++) {
        while (go != turn) {
            sched_yield();
        }
        flags_[1] = turn;
        __asm__ volatile("" ::: "memory");
        seen[1] = flags_[0];
        over = turn;
    }
    return NULL;
}

/* The classic pair of stores and loads, of which one side has but a compiler's barrier. */
TEST(barriers_order_memory_of_other_threads) {
    CHECK_OK(syscall(SYS_membarrier, 16, 0, 0));
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, other_side, NULL), 0);
    for (int turn = 1; turn <= 200; turn++) {
        go = turn;
        flags_[0] = turn;
        CHECK_OK(syscall(SYS_membarrier, 8, 0, 0));
        seen[0] = flags_[1];
        while (over != turn) {
            sched_yield();
        }
        CHECK(seen[0] == turn || seen[1] == turn);
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST(sealed_memory_stays_as_it_is) {
    char *pages = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_ERR(syscall(462, pages, 4096, 1), EINVAL);
    CHECK_ERR(syscall(462, pages + 1, 4096, 0), EINVAL);
    CHECK_OK(munmap(pages + 8192, 4096));
    CHECK_ERR(syscall(462, pages, 12288, 0), ENOMEM);
    CHECK_OK(syscall(462, pages, 4096, 0));
    CHECK_ERR(munmap(pages, 4096), EPERM);
    CHECK_ERR(munmap(pages, 8192), EPERM);
    CHECK_ERR(mprotect(pages, 4096, PROT_READ), EPERM);
    CHECK_ERR((long)mremap(pages, 4096, 8192, MREMAP_MAYMOVE), EPERM);
    CHECK_ERR((long)mmap(pages, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EPERM);
    CHECK_OK(madvise(pages, 4096, MADV_DONTNEED));
    pages[0] = 1;
    CHECK_OK(munmap(pages + 4096, 4096));
}

TEST(personalities_are_remembered) {
    CHECK_EQ(personality(0xffffffff), 0);
    CHECK_EQ(personality(PER_LINUX32 | ADDR_NO_RANDOMIZE), 0);
    CHECK_EQ(personality(0xffffffff), PER_LINUX32 | ADDR_NO_RANDOMIZE);
    struct utsname names;
    CHECK_OK(uname(&names));
    CHECK(!strcmp(names.machine, "i686"));
    CHECK_EXIT(CHILD({ CHECK_EQ(personality(0), PER_LINUX32 | ADDR_NO_RANDOMIZE); }), 0);
}

TEST(unshare_of_files_and_directories) {
    enter_scratch();
    int fd = CHECK_OK(open("file", O_CREAT | O_RDWR, 0600));
    pid_t pid = CHECK_OK(syscall(SYS_clone, CLONE_FILES | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
        CHECK_OK(unshare(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM));
        CHECK_OK(close(fd));
        CHECK_OK(chdir("/"));
        umask(0123);
        _exit(0);
    }
    CHECK_EXIT(pid, 0);
    CHECK_OK(fcntl(fd, F_GETFD));
    CHECK_OK(access("file", R_OK));
    CHECK_ERR(unshare(1), EINVAL);
}
