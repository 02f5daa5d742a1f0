/* Clocks, sleeping and timers. */
#include "test.h"

#include <pthread.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>

static volatile sig_atomic_t count;
static siginfo_t last;

static void on_signal(int signal UNUSED) {
    count++;
}

static void on_info(int signal UNUSED, siginfo_t *info, void *context UNUSED) {
    last = *info;
    count++;
}

TEST(clocks_advance) {
    static const clockid_t clocks[] = {CLOCK_REALTIME,         CLOCK_MONOTONIC,        CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME,
                                       CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_TAI};
    for (unsigned index = 0; index < sizeof clocks / sizeof *clocks; index++) {
        int64_t before = now_ns(clocks[index]);
        sleep_ms(12);
        CHECK(now_ns(clocks[index]) > before);
    }
}

TEST(clocks_by_system_call_agree_with_the_vdso) {
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW};
    for (unsigned index = 0; index < sizeof clocks / sizeof *clocks; index++) {
        struct timespec time;
        int64_t before = now_ns(clocks[index]);
        CHECK_OK(syscall(SYS_clock_gettime, clocks[index], &time));
        int64_t between = time.tv_sec * 1000000000LL + time.tv_nsec;
        int64_t after = now_ns(clocks[index]);
        CHECK(before <= between && between <= after);
    }
}

TEST(vdso_is_announced_and_listed) {
    const char *image = (const char *)getauxval(AT_SYSINFO_EHDR);
    CHECK(image != NULL && memcmp(image, "\177ELF", 4) == 0);
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    char line[512];
    unsigned long start = 0;
    while (fgets(line, sizeof line, maps)) {
        if (strstr(line, "[vdso]")) {
            CHECK(sscanf(line, "%lx-", &start) == 1);
        }
    }
    CHECK(start == (unsigned long)image);
}

TEST(realtime_is_plausible) {
    struct timespec time;
    struct timeval value;
    CHECK_OK(clock_gettime(CLOCK_REALTIME, &time));
    CHECK(time.tv_sec > 1700000000);
    CHECK_OK(syscall(SYS_gettimeofday, &value, NULL));
    CHECK(value.tv_sec >= time.tv_sec && value.tv_sec <= time.tv_sec + 5);
    time_t seconds = 0;
    CHECK(syscall(SYS_time, &seconds) >= time.tv_sec);
    CHECK(seconds >= time.tv_sec);
}

TEST(clock_errors) {
    struct timespec time;
    CHECK_ERR(syscall(SYS_clock_gettime, 77, &time), EINVAL);
    CHECK_ERR(syscall(SYS_clock_gettime, CLOCK_REALTIME, BAD), EFAULT);
    CHECK_ERR(syscall(SYS_clock_getres, 77, &time), EINVAL);
    time = (struct timespec){0, 1000000000};
    CHECK_ERR(syscall(SYS_clock_settime, CLOCK_REALTIME, &time), EINVAL);
    time = (struct timespec){1, 0};
    CHECK_ERR(syscall(SYS_clock_settime, CLOCK_MONOTONIC, &time), EINVAL);
}

TEST(clock_resolution) {
    struct timespec time;
    CHECK_OK(clock_getres(CLOCK_MONOTONIC, &time));
    CHECK_EQ(time.tv_sec, 0);
    CHECK_EQ(time.tv_nsec, 1);
    CHECK_OK(clock_getres(CLOCK_MONOTONIC_COARSE, &time));
    CHECK(time.tv_nsec >= 1000000);
}

static void burn(void) {
    for (volatile long round = 0; round < 20000000; round++) {
    }
}

TEST(processor_clocks_count_work) {
    int64_t process = now_ns(CLOCK_PROCESS_CPUTIME_ID), thread = now_ns(CLOCK_THREAD_CPUTIME_ID);
    burn();
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) > process);
    CHECK(now_ns(CLOCK_THREAD_CPUTIME_ID) > thread);
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(getppid(), &clock), 0);
    struct timespec time;
    CHECK_OK(clock_gettime(clock, &time));
}

TEST(times_count_ticks) {
    struct tms first, second;
    clock_t before = times(&first);
    do {
        burn();
        CHECK(times(&second) != (clock_t)-1);
        /* One more may be the end of a tick that had begun; the second takes a whole one. */
    } while (second.tms_utime + second.tms_stime - first.tms_utime - first.tms_stime < 2);
    CHECK(times(NULL) > before);
}

TEST(nanosleep_sleeps) {
    int64_t start = now_ns(CLOCK_MONOTONIC);
    struct timespec time = {0, 25000000};
    CHECK_OK(nanosleep(&time, NULL));
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 25000000);
    time = (struct timespec){0, 0};
    CHECK_OK(nanosleep(&time, NULL));
    time = (struct timespec){0, 1000000000};
    CHECK_ERR(nanosleep(&time, NULL), EINVAL);
    time = (struct timespec){-1, 0};
    CHECK_ERR(nanosleep(&time, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_nanosleep, BAD, NULL), EFAULT);
}

TEST(nanosleep_tells_the_remainder) {
    handle(SIGALRM, on_signal, 0);
    struct itimerval timer = {.it_value = {0, 20000}};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    struct timespec time = {10, 0}, left = {0, 0};
    CHECK_ERR(nanosleep(&time, &left), EINTR);
    CHECK_EQ(left.tv_sec, 9);
    CHECK_EQ(count, 1);
}

TEST(clock_nanosleep_absolute) {
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
    for (unsigned index = 0; index < 3; index++) {
        int64_t until = now_ns(clocks[index]) + 15000000;
        struct timespec time = {until / 1000000000, until % 1000000000};
        CHECK_EQ(clock_nanosleep(clocks[index], TIMER_ABSTIME, &time, NULL), 0);
        CHECK(now_ns(clocks[index]) >= until);
        /* The past is no wait. */
        CHECK_EQ(clock_nanosleep(clocks[index], TIMER_ABSTIME, &(struct timespec){1, 0}, NULL), 0);
    }
    struct timespec time = {0, 1};
    CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &time, NULL), EINVAL);
    CHECK_EQ(clock_nanosleep(77, 0, &time, NULL), EINVAL);
    time.tv_nsec = -1;
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL), EINVAL);
}

TEST(clock_nanosleep_absolute_leaves_the_remainder_alone) {
    handle(SIGALRM, on_signal, SA_RESTART);
    struct itimerval timer = {.it_value = {0, 20000}};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    int64_t until = now_ns(CLOCK_MONOTONIC) + 5000000000;
    struct timespec time = {until / 1000000000, until % 1000000000}, left = {77, 77};
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, &left), EINTR);
    CHECK_EQ(left.tv_sec, 77);
}

TEST(alarm_returns_what_was_left) {
    CHECK_EQ(alarm(100), 0);
    unsigned left = alarm(50);
    CHECK(left == 100 || left == 99);
    CHECK(alarm(0) > 40);
    CHECK_EQ(alarm(0), 0);
}

TEST(itimer_real_repeats) {
    handle(SIGALRM, on_signal, SA_RESTART);
    struct itimerval timer = {{0, 5000}, {0, 5000}}, old;
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_OK(setitimer(ITIMER_REAL, &timer, NULL));
    while (count < 5) {
        pause();
    }
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 25000000);
    CHECK_OK(getitimer(ITIMER_REAL, &old));
    CHECK_EQ(old.it_interval.tv_usec, 5000);
    CHECK(old.it_value.tv_sec == 0 && old.it_value.tv_usec <= 5000);
    timer = (struct itimerval){0};
    CHECK_OK(setitimer(ITIMER_REAL, &timer, &old));
    CHECK_EQ(old.it_interval.tv_usec, 5000);
    CHECK_OK(getitimer(ITIMER_REAL, &old));
    CHECK_EQ(old.it_value.tv_usec | old.it_interval.tv_usec, 0);
    timer.it_value.tv_usec = 1000000;
    CHECK_ERR(setitimer(ITIMER_REAL, &timer, NULL), EINVAL);
    CHECK_ERR(setitimer(77, &timer, NULL), EINVAL);
}

TEST(itimer_virtual_and_prof_count_work) {
    handle(SIGVTALRM, on_signal, 0);
    struct itimerval timer = {{0, 0}, {0, 10000}};
    CHECK_OK(setitimer(ITIMER_VIRTUAL, &timer, NULL));
    while (count == 0) {
        burn();
    }
    handle(SIGPROF, on_signal, 0);
    CHECK_OK(setitimer(ITIMER_PROF, &timer, NULL));
    while (count == 1) {
        burn();
    }
}

TEST(timer_sends_a_signal) {
    handle_info(SIGRTMIN, on_info, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77};
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {.it_value = {0, 10000000}}, left;
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    while (count == 0) {
        sleep_ms(5);
    }
    CHECK_EQ(last.si_code, SI_TIMER);
    CHECK_EQ(last.si_value.sival_int, 77);
    CHECK_EQ(last.si_overrun, 0);
    CHECK_OK(timer_gettime(timer, &left));
    CHECK_EQ(left.it_value.tv_nsec, 0);
    CHECK_EQ(timer_getoverrun(timer), 0);
    CHECK_OK(timer_delete(timer));
    CHECK_ERR(timer_delete(timer), EINVAL);
}

TEST(timer_without_an_event_sends_sigalrm) {
    handle_info(SIGALRM, on_info, 0);
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_REALTIME, NULL, &timer));
    struct itimerspec when = {.it_value = {0, 5000000}};
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    while (count == 0) {
        sleep_ms(5);
    }
    CHECK_EQ(last.si_code, SI_TIMER);
}

TEST(timer_of_no_notification_counts_down) {
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {.it_value = {100, 0}, .it_interval = {5, 0}}, left;
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    CHECK_OK(timer_gettime(timer, &left));
    CHECK(left.it_value.tv_sec == 99 || left.it_value.tv_sec == 100);
    CHECK_EQ(left.it_interval.tv_sec, 5);
    when = (struct itimerspec){0};
    CHECK_OK(timer_settime(timer, 0, &when, &left));
    CHECK(left.it_value.tv_sec >= 99);
}

TEST(timer_overruns_are_counted) {
    block_signals(SIGNALS(SIGRTMIN));
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {.it_value = {0, 1000000}, .it_interval = {0, 1000000}};
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    sleep_ms(40);
    siginfo_t info;
    sigset_t set = SIGNALS(SIGRTMIN);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
    CHECK(info.si_overrun >= 20);
    CHECK(timer_getoverrun(timer) >= 20);
}

TEST(timer_to_a_thread) {
    handle_info(SIGRTMIN, on_info, 0);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = gettid();
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {.it_value = {0, 5000000}};
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    while (count == 0) {
        sleep_ms(5);
    }
}

static void on_timer_thread(union sigval value) {
    __atomic_store_n((int *)value.sival_ptr, 1, __ATOMIC_SEQ_CST);
}

TEST(timer_runs_a_thread) {
    int done = 0;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD};
    event.sigev_notify_function = on_timer_thread;
    event.sigev_value.sival_ptr = &done;
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {.it_value = {0, 5000000}};
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST)) {
        sleep_ms(5);
    }
}

TEST(timer_errors) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 77};
    timer_t timer;
    CHECK_ERR(timer_create(CLOCK_MONOTONIC, &event, &timer), EINVAL);
    event.sigev_signo = SIGUSR1;
    event.sigev_notify = 55;
    CHECK_ERR(timer_create(CLOCK_MONOTONIC, &event, &timer), EINVAL);
    CHECK_ERR(timer_create(77, NULL, &timer), EINVAL);
    CHECK_OK(timer_create(CLOCK_MONOTONIC, NULL, &timer));
    struct itimerspec when = {.it_value = {0, -1}};
    CHECK_ERR(timer_settime(timer, 0, &when, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_timer_settime, 12345, 0, &when, NULL), EINVAL);
}

TEST(timers_are_not_inherited) {
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, NULL, &timer));
    CHECK_EXIT(CHILD({ CHECK_ERR(timer_delete(timer), EINVAL); }), 0);
    CHECK_OK(timer_delete(timer));
}

TEST(absolute_timer_in_the_past_fires_at_once) {
    handle_info(SIGUSR1, on_info, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {.it_value = {0, 1}};
    CHECK_OK(timer_settime(timer, TIMER_ABSTIME, &when, NULL));
    while (count == 0) {
        sleep_ms(1);
    }
}

TEST(processor_timer_fires_after_work) {
    handle_info(SIGUSR1, on_info, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    CHECK_OK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer));
    struct itimerspec when = {.it_value = {0, 10000000}};
    CHECK_OK(timer_settime(timer, 0, &when, NULL));
    while (count == 0) {
        burn();
    }
}

TEST(adjtimex_reads) {
    struct timex time = {0};
    CHECK(adjtimex(&time) >= 0);
    CHECK(time.time.tv_sec > 1700000000);
}
