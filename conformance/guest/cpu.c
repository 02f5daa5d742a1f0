/* Processor time: clocks of other processes and threads, timers that count it, the limit of it. */
#include "test.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>

#define PROCESS_CLOCK(pid, kind) ((clockid_t)(~(unsigned)(pid) << 3 | (kind)))
#define THREAD_CLOCK(tid, kind) ((clockid_t)(~(unsigned)(tid) << 3 | 4 | (kind)))
enum { ALL = 0, USER = 1, SCHEDULED = 2 };

static volatile sig_atomic_t count;
static volatile siginfo_t last;

static void on_signal(int signal UNUSED, siginfo_t *info, void *context UNUSED) {
    last = *info;
    count++;
}

static void burn(void) {
    for (volatile int turn = 0; turn < 100000; turn++) {
    }
}

static void burn_ms(int milliseconds) {
    int64_t end = now_ns(CLOCK_THREAD_CPUTIME_ID) + milliseconds * 1000000LL;
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) < end) {
        burn();
    }
}

TEST(clock_numbers) {
    struct timespec time;
    CHECK_OK(clock_gettime(PROCESS_CLOCK(0, SCHEDULED), &time));
    CHECK_OK(clock_gettime(PROCESS_CLOCK(getpid(), ALL), &time));
    CHECK_OK(clock_gettime(PROCESS_CLOCK(getppid(), USER), &time));
    CHECK_OK(clock_gettime(THREAD_CLOCK(0, SCHEDULED), &time));
    CHECK_OK(clock_gettime(THREAD_CLOCK(getpid(), SCHEDULED), &time));
    CHECK_ERR(clock_gettime(THREAD_CLOCK(getppid(), SCHEDULED), &time), EINVAL);
    CHECK_ERR(clock_gettime(PROCESS_CLOCK(4000000, SCHEDULED), &time), EINVAL);
    CHECK_OK(clock_getres(PROCESS_CLOCK(getppid(), SCHEDULED), &time));
    CHECK_EQ(time.tv_nsec, 1);
    CHECK_ERR(clock_settime(PROCESS_CLOCK(getpid(), SCHEDULED), &time), EPERM);
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(4000000, &clock), ESRCH);
}

TEST(clock_of_another_process_goes_on_while_it_works) {
    pid_t pid = CHILD({
        for (;;) {
            burn();
        }
    });
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(pid, &clock), 0);
    while (now_ns(clock) < 20000000) {
        sleep_ms(2);
    }
    CHECK(now_ns(PROCESS_CLOCK(pid, USER)) > 0);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

static void *burn_until_told(void *stop) {
    while (!*(volatile int *)stop) {
        burn();
    }
    return NULL;
}

TEST(clock_of_another_thread_goes_on_while_it_works) {
    int stop = 0;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, burn_until_told, &stop), 0);
    clockid_t clock;
    CHECK_EQ(pthread_getcpuclockid(thread, &clock), 0);
    while (now_ns(clock) < 20000000) {
        sleep_ms(2);
    }
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) >= 20000000);
    stop = 1;
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) >= 20000000);
}

TEST(clocks_do_not_count_sleep) {
    int64_t before = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(300);
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) - before < 200000000);
}

HELPER(show_time) {
    printf("%lld\n", (long long)now_ns(CLOCK_PROCESS_CPUTIME_ID));
    return now_ns(CLOCK_PROCESS_CPUTIME_ID) >= 30000000 ? 0 : 1;
}

TEST(clock_goes_on_through_exec) {
    pid_t pid = CHILD({
        burn_ms(30);
        int out = CHECK_OK(open("/dev/null", O_WRONLY));
        CHECK_OK(dup2(out, 1));
        execl(self_path, self_path, "--helper", "show_time", NULL);
    });
    CHECK_EXIT(pid, 0);
}

TEST(usage_of_children_is_counted) {
    CHECK_EXIT(CHILD({ burn_ms(40); }), 0);
    struct rusage usage;
    CHECK_OK(getrusage(RUSAGE_CHILDREN, &usage));
    int64_t used = usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec;
    used += usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    CHECK(used >= 30000);
}

static void *burn_a_while(void *unused) {
    burn_ms(40);
    return unused;
}

static void *tell_own_time(void *time) {
    *(int64_t *)time = now_ns(CLOCK_THREAD_CPUTIME_ID);
    return NULL;
}

TEST(time_of_threads_that_have_ended_is_their_process_s_and_no_other_thread_s) {
    CHECK_EXIT(CHILD({
                   pthread_t thread;
                   int64_t time = 0;
                   CHECK_EQ(pthread_create(&thread, NULL, burn_a_while, NULL), 0);
                   CHECK_EQ(pthread_join(thread, NULL), 0);
                   CHECK_EQ(pthread_create(&thread, NULL, tell_own_time, &time), 0);
                   CHECK_EQ(pthread_join(thread, NULL), 0);
                   CHECK(time > 0 && time < 20000000);
                   CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) >= 30000000);
               }),
               0);
    struct rusage usage;
    CHECK_OK(getrusage(RUSAGE_CHILDREN, &usage));
    int64_t used = usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec;
    used += usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    CHECK(used >= 30000);
}

TEST(interval_timers_repeat) {
    for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; which++) {
        count = 0;
        handle_info(which == ITIMER_PROF ? SIGPROF : SIGVTALRM, on_signal, SA_RESTART);
        struct itimerval timer = {{0, 8000}, {0, 8000}}, left;
        CHECK_OK(setitimer(which, &timer, NULL));
        while (count < 3) {
            burn();
        }
        CHECK_EQ(last.si_code, SI_KERNEL);
        CHECK_OK(getitimer(which, &left));
        CHECK_EQ(left.it_interval.tv_usec, 8000);
        CHECK(left.it_value.tv_sec == 0 && left.it_value.tv_usec > 0);
        CHECK_OK(setitimer(which, &(struct itimerval){0}, &left));
        CHECK_EQ(left.it_interval.tv_usec, 8000);
        CHECK_OK(getitimer(which, &left));
        CHECK_EQ(left.it_value.tv_usec, 0);
    }
}

TEST(interval_timers_stand_still_in_sleep) {
    handle_info(SIGPROF, on_signal, 0);
    struct itimerval timer = {{0, 0}, {0, 150000}}, left;
    CHECK_OK(setitimer(ITIMER_PROF, &timer, NULL));
    sleep_ms(400);
    CHECK_EQ(count, 0);
    CHECK_OK(getitimer(ITIMER_PROF, &left));
    CHECK(left.it_value.tv_usec > 0);
    while (count == 0) {
        burn();
    }
}

TEST(timers_are_not_inherited) {
    struct itimerval timer = {{0, 0}, {50, 0}}, left;
    CHECK_OK(setitimer(ITIMER_PROF, &timer, NULL));
    CHECK_EXIT(CHILD({
                   CHECK_OK(getitimer(ITIMER_PROF, &left));
                   CHECK_EQ(left.it_value.tv_sec, 0);
               }),
               0);
}

static timer_t timer_on(clockid_t clock, int signal, int value) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal, .sigev_value.sival_int = value};
    timer_t timer;
    CHECK_OK(timer_create(clock, &event, &timer));
    return timer;
}

TEST(posix_timers_count_a_thread) {
    handle_info(SIGUSR1, on_signal, 0);
    timer_t timer = timer_on(CLOCK_THREAD_CPUTIME_ID, SIGUSR1, 42);
    struct itimerspec when = {.it_value = {0, 20000000}}, left;
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    CHECK_OK(timer_gettime(timer, &left));
    CHECK(left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 20000000);
    int64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID);
    while (count == 0) {
        burn();
    }
    CHECK(now_ns(CLOCK_THREAD_CPUTIME_ID) - before >= 10000000);
    CHECK_EQ(last.si_code, SI_TIMER);
    CHECK_EQ(last.si_value.sival_int, 42);
    CHECK_OK(timer_gettime(timer, &left));
    CHECK_EQ(left.it_value.tv_nsec, 0);
    CHECK_OK(timer_delete(timer));
}

TEST(posix_timers_count_another_process) {
    handle_info(SIGUSR1, on_signal, 0);
    pid_t pid = CHILD({
        for (;;) {
            burn();
        }
    });
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(pid, &clock), 0);
    timer_t timer = timer_on(clock, SIGUSR1, 1);
    struct itimerspec when = {.it_value = {0, 30000000}};
    CHECK_OK(timer_settime(timer, TIMER_ABSTIME, &when, NULL));
    while (count == 0) {
        sleep_ms(2);
    }
    CHECK(now_ns(clock) >= 30000000);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(a_time_that_is_over_fires_at_once) {
    handle_info(SIGUSR1, on_signal, 0);
    burn_ms(5);
    timer_t timer = timer_on(CLOCK_PROCESS_CPUTIME_ID, SIGUSR1, 1);
    struct itimerspec when = {.it_value = {0, 1}};
    CHECK_OK(timer_settime(timer, TIMER_ABSTIME, &when, NULL));
    while (count == 0) {
        burn();
    }
}

TEST(sleeping_on_a_processor_clock) {
    struct timespec time = {0, 20000000};
    CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &time, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &time, NULL), EOPNOTSUPP);
    CHECK_ERR(syscall(SYS_clock_nanosleep, THREAD_CLOCK(0, SCHEDULED), 0, &time, NULL), EINVAL);
    pid_t pid = CHILD({
        for (;;) {
            burn();
        }
    });
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(pid, &clock), 0);
    int64_t before = now_ns(clock);
    CHECK_EQ(clock_nanosleep(clock, 0, &time, NULL), 0);
    CHECK(now_ns(clock) - before >= 20000000);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(the_limit_warns_then_kills) {
    pid_t pid = CHILD({
        handle_info(SIGXCPU, on_signal, 0);
        struct rlimit limit = {1, 2};
        CHECK_OK(setrlimit(RLIMIT_CPU, &limit));
        while (count == 0) {
            burn();
        }
        CHECK_OK(getrlimit(RLIMIT_CPU, &limit));
        CHECK_EQ(limit.rlim_cur, 2);
        for (;;) {
            burn();
        }
    });
    CHECK_KILLED(pid, SIGKILL);
}

TEST(the_limit_is_inherited) {
    pid_t pid = CHILD({
        struct rlimit limit = {1, RLIM_INFINITY};
        CHECK_OK(setrlimit(RLIMIT_CPU, &limit));
        CHECK_KILLED(CHILD({
                         for (;;) {
                             burn();
                         }
                     }),
                     SIGXCPU);
    });
    CHECK_EXIT(pid, 0);
}
