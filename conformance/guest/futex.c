/* futex(2): waiting, waking, requeueing, priority inheritance, robust lists. */
#include "test.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/mman.h>

static long futex(void *word, int operation, uint32_t value, const void *timeout, void *second, uint32_t third) {
    return syscall(SYS_futex, word, operation, value, timeout, second, third);
}

static uint32_t *shared_words(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    return page;
}

TEST(wait_on_another_value_is_eagain) {
    uint32_t word = 1;
    CHECK_ERR(futex(&word, FUTEX_WAIT, 2, NULL, NULL, 0), EAGAIN);
    CHECK_ERR(futex(&word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0), EAGAIN);
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET, 2, NULL, NULL, 1), EAGAIN);
}

TEST(wake_without_waiters_is_zero) {
    uint32_t word = 1;
    CHECK_EQ(futex(&word, FUTEX_WAKE, 10, NULL, NULL, 0), 0);
    CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0), 0);
}

TEST(wait_times_out) {
    uint32_t word = 1;
    struct timespec time = {0, 20000000};
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(futex(&word, FUTEX_WAIT, 1, &time, NULL, 0), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    time.tv_nsec = 1000000000;
    CHECK_ERR(futex(&word, FUTEX_WAIT, 1, &time, NULL, 0), EINVAL);
}

TEST(wait_bitset_timeout_is_absolute) {
    uint32_t word = 1;
    struct timespec time;
    int64_t until = now_ns(CLOCK_MONOTONIC) + 20000000;
    time = (struct timespec){until / 1000000000, until % 1000000000};
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 1, &time, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) >= until);
    until = now_ns(CLOCK_REALTIME) + 20000000;
    time = (struct timespec){until / 1000000000, until % 1000000000};
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 1, &time, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(now_ns(CLOCK_REALTIME) >= until);
    time = (struct timespec){0, 0};
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET, 1, &time, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
}

TEST(argument_errors) {
    uint32_t words[2] = {1, 1};
    CHECK_ERR(futex((char *)words + 1, FUTEX_WAIT, 1, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex((char *)words + 2, FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex((void *)4096, FUTEX_WAIT, 1, NULL, NULL, 0), EFAULT);
    CHECK_ERR(futex(words, FUTEX_WAIT_BITSET, 1, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex(words, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex(words, 0x55, 1, NULL, NULL, 0), ENOSYS);
    CHECK_ERR(futex(words, FUTEX_WAIT, 1, BAD, NULL, 0), EFAULT);
}

static void do_nothing(int signal UNUSED) {
}

TEST(wait_is_interrupted_by_a_handler) {
    uint32_t word = 1;
    handle(SIGALRM, do_nothing, 0);
    alarm(1);
    CHECK_ERR(futex(&word, FUTEX_WAIT, 1, NULL, NULL, 0), EINTR);
}

struct waiter {
    pthread_t thread;
    uint32_t *word;
    uint32_t value, bits;
    long result;
    int number;
    volatile bool done;
};

static void *wait_on_word(void *argument) {
    struct waiter *waiter = argument;
    waiter->result = futex(waiter->word, FUTEX_WAIT_BITSET_PRIVATE, waiter->value, NULL, NULL,
                           waiter->bits ? waiter->bits : FUTEX_BITSET_MATCH_ANY);
    waiter->number = errno;
    waiter->done = true;
    return NULL;
}

static void start_waiter(struct waiter *waiter) {
    CHECK_EQ(pthread_create(&waiter->thread, NULL, wait_on_word, waiter), 0);
}

/* Wakes until `wanted` waiters in all have been woken: they may not wait yet. */
static void wake_in_all(uint32_t *word, int wanted, uint32_t bits) {
    int woken = 0;
    while (woken < wanted) {
        woken += CHECK_OK(futex(word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, bits));
        sched_yield();
    }
    CHECK_EQ(woken, wanted);
}

TEST(wake_wakes_a_thread) {
    uint32_t word = 7;
    struct waiter waiter = {.word = &word, .value = 7};
    start_waiter(&waiter);
    wake_in_all(&word, 1, FUTEX_BITSET_MATCH_ANY);
    CHECK_EQ(pthread_join(waiter.thread, NULL), 0);
    CHECK_EQ(waiter.result, 0);
}

TEST(wake_wakes_no_more_than_asked_for) {
    uint32_t word = 7;
    struct waiter waiters[4];
    for (int index = 0; index < 4; index++) {
        waiters[index] = (struct waiter){.word = &word, .value = 7};
        start_waiter(&waiters[index]);
    }
    wake_in_all(&word, 2, FUTEX_BITSET_MATCH_ANY);
    settle();
    int done = 0;
    for (int index = 0; index < 4; index++) {
        done += waiters[index].done;
    }
    CHECK(done <= 2);
    wake_in_all(&word, 2, FUTEX_BITSET_MATCH_ANY);
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_join(waiters[index].thread, NULL), 0);
        CHECK_EQ(waiters[index].result, 0);
    }
}

TEST(bitset_selects_the_waiter) {
    uint32_t word = 7;
    struct waiter first = {.word = &word, .value = 7, .bits = 1}, second = {.word = &word, .value = 7, .bits = 2};
    start_waiter(&first);
    start_waiter(&second);
    wake_in_all(&word, 1, 2);
    CHECK_EQ(pthread_join(second.thread, NULL), 0);
    CHECK_EQ(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 4), 0);
    CHECK(!first.done);
    wake_in_all(&word, 1, 5);
    CHECK_EQ(pthread_join(first.thread, NULL), 0);
}

TEST(requeue_moves_waiters) {
    uint32_t from = 7, to = 7;
    /* By code that has got warm: such calls may be made in another way. */
    for (int round = 0; round < 200; round++) {
        CHECK_EQ(futex(&to, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 0);
    }
    struct waiter waiters[3];
    for (int index = 0; index < 3; index++) {
        waiters[index] = (struct waiter){.word = &from, .value = 7};
        start_waiter(&waiters[index]);
    }
    /* The fourth argument is the number to requeue. One at a time until all three have moved. */
    long moved = 0;
    while (moved < 3) {
        moved += CHECK_OK(futex(&from, FUTEX_REQUEUE_PRIVATE, 0, (void *)3L, &to, 0));
        sched_yield();
    }
    CHECK_EQ(moved, 3);
    CHECK_EQ(futex(&from, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
    CHECK_EQ(futex(&to, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 3);
    for (int index = 0; index < 3; index++) {
        CHECK_EQ(pthread_join(waiters[index].thread, NULL), 0);
    }
}

TEST(cmp_requeue_checks_the_value) {
    uint32_t from = 7, to = 7;
    CHECK_ERR(futex(&from, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1L, &to, 8), EAGAIN);
    CHECK_EQ(futex(&from, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1L, &to, 7), 0);
    CHECK_ERR(futex(&from, FUTEX_CMP_REQUEUE_PRIVATE, -1, (void *)1L, &to, 7), EINVAL);
    struct waiter waiter = {.word = &from, .value = 7};
    start_waiter(&waiter);
    long moved = 0;
    while (moved == 0) {
        moved = CHECK_OK(futex(&from, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)1L, &to, 7));
        sched_yield();
    }
    CHECK_EQ(futex(&to, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 1);
    CHECK_EQ(pthread_join(waiter.thread, NULL), 0);
}

TEST(wake_op_changes_the_second_word) {
    uint32_t first = 0, second = 5;
    /* second += 3, and wake on it if it was greater than 4. */
    uint32_t operation = FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, 4);
    CHECK_EQ(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation), 0);
    CHECK_EQ(second, 8);
    operation = FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0);
    CHECK_EQ(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation), 0);
    CHECK_EQ(second, 1);
    operation = FUTEX_OP(FUTEX_OP_OR, 6, FUTEX_OP_CMP_EQ, 0);
    CHECK_EQ(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation), 0);
    CHECK_EQ(second, 7);
    operation = FUTEX_OP(FUTEX_OP_ANDN, 2, FUTEX_OP_CMP_EQ, 0);
    CHECK_EQ(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation), 0);
    CHECK_EQ(second, 5);
    operation = FUTEX_OP(FUTEX_OP_XOR, 1, FUTEX_OP_CMP_EQ, 0);
    CHECK_EQ(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation), 0);
    CHECK_EQ(second, 4);
    operation = FUTEX_OP((FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT), 3, FUTEX_OP_CMP_EQ, 0);
    CHECK_EQ(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation), 0);
    CHECK_EQ(second, 12);
}

TEST(wake_op_wakes_both) {
    uint32_t first = 0, second = 0;
    struct waiter one = {.word = &first, .value = 0}, other = {.word = &second, .value = 0};
    start_waiter(&one);
    start_waiter(&other);
    uint32_t operation = FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0);
    long woken = 0;
    while (woken < 2) {
        woken += CHECK_OK(futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1L, &second, operation));
        sched_yield();
    }
    CHECK_EQ(pthread_join(one.thread, NULL), 0);
    CHECK_EQ(pthread_join(other.thread, NULL), 0);
}

TEST(shared_between_processes) {
    uint32_t *words = shared_words();
    pid_t pid = CHILD({
        while (__atomic_load_n(&words[0], __ATOMIC_SEQ_CST) == 0) {
            futex(&words[0], FUTEX_WAIT, 0, NULL, NULL, 0);
        }
    });
    settle();
    __atomic_store_n(&words[0], 1, __ATOMIC_SEQ_CST);
    CHECK_OK(futex(&words[0], FUTEX_WAKE, 1, NULL, NULL, 0));
    CHECK_EXIT(pid, 0);
}

TEST(shared_wake_counts_waiters_of_other_processes) {
    uint32_t *words = shared_words();
    pid_t pid = CHILD({ CHECK_EQ(futex(&words[0], FUTEX_WAIT, 0, NULL, NULL, 0), 0); });
    while (CHECK_OK(futex(&words[0], FUTEX_WAKE, 1, NULL, NULL, 0)) == 0) {
        sched_yield();
    }
    CHECK_EXIT(pid, 0);
}

TEST(shared_through_two_mappings_of_a_file) {
    int fd = CHECK_OK(memfd_create("words", 0));
    CHECK_OK(ftruncate(fd, 8192));
    uint32_t *one = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    pid_t pid = CHILD({
        uint32_t *other = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(other != MAP_FAILED);
        CHECK_EQ(futex(other + 5, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
    });
    while (CHECK_OK(futex(one + 5, FUTEX_WAKE, 1, NULL, NULL, 0)) == 0) {
        sched_yield();
    }
    CHECK_EXIT(pid, 0);
}

TEST(private_waits_of_two_processes_are_apart) {
    static uint32_t word = 0;
    struct gate waiting = gate_new();
    pid_t pid = CHILD({
        gate_open(&waiting);
        struct timespec time = {0, 80000000};
        CHECK_ERR(futex(&word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0), ETIMEDOUT);
    });
    gate_wait(&waiting);
    settle();
    CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
    CHECK_EQ(futex(&word, FUTEX_WAKE, 10, NULL, NULL, 0), 0);
    CHECK_EXIT(pid, 0);
}

/* --- priority inheritance --- */

TEST(pi_lock_and_unlock) {
    uint32_t word = 0;
    CHECK_EQ(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), 0);
    CHECK_EQ(word & FUTEX_TID_MASK, gettid());
    CHECK_ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
    CHECK_ERR(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
    CHECK_EQ(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), 0);
    CHECK_EQ(word, 0);
    CHECK_ERR(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EPERM);
}

static pthread_mutex_t mutex;
static int guarded;

static void *add_under_mutex(void *argument UNUSED) {
    for (int round = 0; round < 2000; round++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        int value = guarded;
        if (round % 64 == 0) {
            sched_yield();
        }
        guarded = value + 1;
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    }
    return NULL;
}

static void contend(int protocol, int shared) {
    pthread_mutexattr_t attributes;
    pthread_t threads[4];
    pthread_mutexattr_init(&attributes);
    CHECK_EQ(pthread_mutexattr_setprotocol(&attributes, protocol), 0);
    CHECK_EQ(pthread_mutexattr_setpshared(&attributes, shared), 0);
    CHECK_EQ(pthread_mutex_init(&mutex, &attributes), 0);
    guarded = 0;
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, add_under_mutex, NULL), 0);
    }
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
    }
    CHECK_EQ(guarded, 8000);
}

TEST(mutex_under_contention) {
    contend(PTHREAD_PRIO_NONE, PTHREAD_PROCESS_PRIVATE);
    contend(PTHREAD_PRIO_NONE, PTHREAD_PROCESS_SHARED);
}

TEST(pi_mutex_under_contention) {
    contend(PTHREAD_PRIO_INHERIT, PTHREAD_PROCESS_PRIVATE);
}

/* --- robust lists --- */

static pthread_mutex_t *robust_mutex(int protocol) {
    pthread_mutex_t *robust = (void *)shared_words();
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setprotocol(&attributes, protocol);
    CHECK_EQ(pthread_mutex_init(robust, &attributes), 0);
    return robust;
}

TEST(robust_mutex_of_a_dead_process) {
    pthread_mutex_t *robust = robust_mutex(PTHREAD_PRIO_NONE);
    pid_t pid = CHILD({ CHECK_EQ(pthread_mutex_lock(robust), 0); });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(pthread_mutex_lock(robust), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(robust), 0);
    CHECK_EQ(pthread_mutex_unlock(robust), 0);
    CHECK_EQ(pthread_mutex_lock(robust), 0);
}

TEST(robust_mutex_wakes_a_waiter) {
    pthread_mutex_t *robust = robust_mutex(PTHREAD_PRIO_NONE);
    struct gate locked = gate_new();
    pid_t pid = CHILD({
        CHECK_EQ(pthread_mutex_lock(robust), 0);
        gate_open(&locked);
        sleep_ms(60);
        raise(SIGKILL);
    });
    gate_wait(&locked);
    CHECK_EQ(pthread_mutex_lock(robust), EOWNERDEAD);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(robust_mutex_of_a_process_that_runs_another_program) {
    pthread_mutex_t *robust = robust_mutex(PTHREAD_PRIO_NONE);
    struct gate locked = gate_new();
    pid_t pid = CHILD({
        CHECK_EQ(pthread_mutex_lock(robust), 0);
        gate_open(&locked);
        execl("/bin/sleep", "sleep", "60", NULL);
    });
    gate_wait(&locked);
    CHECK_EQ(pthread_mutex_lock(robust), EOWNERDEAD);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

static void *lock_mutex(void *argument) {
    pthread_mutex_lock(argument);
    return NULL;
}

TEST(robust_mutex_of_an_ended_thread) {
    pthread_mutex_t *robust = robust_mutex(PTHREAD_PRIO_NONE);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, lock_mutex, robust), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pthread_mutex_lock(robust), EOWNERDEAD);
}

TEST(robust_pi_mutex_of_a_dead_process) {
    pthread_mutex_t *robust = robust_mutex(PTHREAD_PRIO_INHERIT);
    pid_t pid = CHILD({ CHECK_EQ(pthread_mutex_lock(robust), 0); });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(pthread_mutex_lock(robust), EOWNERDEAD);
}

TEST(robust_list_is_kept_per_thread) {
    struct robust_list_head head = {.list = {&head.list}}, *got = NULL;
    size_t size = 0;
    CHECK_OK(syscall(SYS_set_robust_list, &head, sizeof head));
    CHECK_OK(syscall(SYS_get_robust_list, 0, &got, &size));
    CHECK(got == &head);
    CHECK_EQ(size, sizeof head);
    CHECK_ERR(syscall(SYS_set_robust_list, &head, 3), EINVAL);
    CHECK_ERR(syscall(SYS_get_robust_list, 0x3fffffff, &got, &size), ESRCH);
}

/* --- what stands on futexes --- */

static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t condition_mutex = PTHREAD_MUTEX_INITIALIZER;
static int turn;

static void *take_turns(void *argument) {
    int mine = (int)(long)argument;
    for (int round = 0; round < 100; round++) {
        pthread_mutex_lock(&condition_mutex);
        while (turn != mine) {
            pthread_cond_wait(&condition, &condition_mutex);
        }
        turn = (mine + 1) % 3;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&condition_mutex);
    }
    return NULL;
}

TEST(condition_variable) {
    pthread_t threads[3];
    for (long index = 0; index < 3; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, take_turns, (void *)index), 0);
    }
    for (int index = 0; index < 3; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
    }
    CHECK_EQ(turn, 0);
}

TEST(shared_semaphore) {
    sem_t *semaphore = (void *)shared_words();
    CHECK_OK(sem_init(semaphore, 1, 0));
    pid_t pid = CHILD({
        for (int round = 0; round < 50; round++) {
            CHECK_OK(sem_wait(semaphore));
        }
    });
    for (int round = 0; round < 50; round++) {
        CHECK_OK(sem_post(semaphore));
    }
    CHECK_EXIT(pid, 0);
    struct timespec now;
    CHECK_OK(clock_gettime(CLOCK_REALTIME, &now));
    CHECK_ERR(sem_timedwait(semaphore, &now), ETIMEDOUT);
}

/* Baskets of tokens, which are taken and put back so fast that waits and wake-ups cross each other in every way. */
struct basket {
    uint32_t tokens;
    char apart[60];
};

static struct basket baskets[2];

static void take(struct basket *basket, int operation, const struct timespec *time) {
    for (;;) {
        uint32_t tokens = __atomic_load_n(&basket->tokens, __ATOMIC_SEQ_CST);
        if (tokens == 0) {
            long result = futex(&basket->tokens, operation, 0, time, NULL, FUTEX_BITSET_MATCH_ANY);
            CHECK(result == 0 || errno == EAGAIN || errno == EINTR);
        } else if (__atomic_compare_exchange_n(&basket->tokens, &tokens, tokens - 1, false, __ATOMIC_SEQ_CST,
                                               __ATOMIC_SEQ_CST)) {
            return;
        }
    }
}

static void *carry(void *argument) {
    unsigned own = (unsigned)(long)argument;
    /* So far away that it is as if there were none. */
    struct timespec time = {1 << 30, 0};
    for (unsigned round = 0; round < 10000; round++) {
        bool bitset = (own + round) % 3 == 0;
        struct basket *basket = &baskets[(own + round / 3) % 2];
        take(basket, bitset ? FUTEX_WAIT_BITSET_PRIVATE : FUTEX_WAIT_PRIVATE, (own + round) % 5 == 0 ? &time : NULL);
        __atomic_add_fetch(&basket->tokens, 1, __ATOMIC_SEQ_CST);
        CHECK_OK(futex(&basket->tokens, bitset ? FUTEX_WAKE_BITSET_PRIVATE : FUTEX_WAKE_PRIVATE, 1, NULL, NULL,
                       FUTEX_BITSET_MATCH_ANY));
    }
    return NULL;
}

/* A lost wake-up would leave somebody asleep beside a token. */
TEST(no_wake_up_is_lost) {
    baskets[0].tokens = baskets[1].tokens = 1;
    for (int threads = 2; threads <= 8; threads *= 2) {
        pthread_t carriers[8];
        for (long index = 0; index < threads; index++) {
            CHECK_EQ(pthread_create(&carriers[index], NULL, carry, (void *)index), 0);
        }
        for (int index = 0; index < threads; index++) {
            CHECK_EQ(pthread_join(carriers[index], NULL), 0);
        }
        CHECK_EQ(baskets[0].tokens, 1);
        CHECK_EQ(baskets[1].tokens, 1);
    }
}

static pthread_barrier_t barrier;

static void *meet(void *argument UNUSED) {
    for (int round = 0; round < 50; round++) {
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

TEST(barrier_of_threads) {
    pthread_t threads[4];
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, 4), 0);
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_create(&threads[index], NULL, meet, NULL), 0);
    }
    for (int index = 0; index < 4; index++) {
        CHECK_EQ(pthread_join(threads[index], NULL), 0);
    }
}

static void *wait_for_semaphore(void *argument) {
    sem_wait(argument);
    return NULL;
}

TEST(cancelled_thread_leaves_a_wait) {
    pthread_t thread;
    sem_t semaphore;
    CHECK_OK(sem_init(&semaphore, 0, 0));
    CHECK_EQ(pthread_create(&thread, NULL, wait_for_semaphore, &semaphore), 0);
    settle();
    CHECK_EQ(pthread_cancel(thread), 0);
    void *result;
    CHECK_EQ(pthread_join(thread, &result), 0);
    CHECK(result == PTHREAD_CANCELED);
}

TEST(waitv_waits_for_several_words) {
    uint32_t words[2] = {1, 2};
    struct futex_waitv waits[2] = {{.val = 1, .uaddr = (uintptr_t)&words[0], .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG},
                                   {.val = 3, .uaddr = (uintptr_t)&words[1], .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG}};
    long result = syscall(SYS_futex_waitv, waits, 2, 0, NULL, CLOCK_MONOTONIC);
    if (result == -1 && errno == ENOSYS) {
        SKIP("no futex_waitv");
    }
    CHECK_ERR(syscall(SYS_futex_waitv, waits, 2, 0, NULL, CLOCK_MONOTONIC), EAGAIN);
    waits[1].val = 2;
    struct timespec past = {0, 0};
    CHECK_ERR(syscall(SYS_futex_waitv, waits, 2, 0, &past, CLOCK_MONOTONIC), ETIMEDOUT);
}
