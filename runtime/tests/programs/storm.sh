#!/bin/sh
# needs: gcc perl
# time: 120
# Two thousand short-lived processes, two hundred threads, a gibibyte touched and freed, deaths by signal.
set -eu
cat > storm.c <<'END'
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t all;
static long counter;
static void *run(void *argument) {
    pthread_barrier_wait(&all);
    for (int i = 0; i < 100; i++) { pthread_mutex_lock(&lock); counter++; pthread_mutex_unlock(&lock); }
    return argument;
}
static int status_of(void (*body)(void)) {
    fflush(stdout); pid_t pid = fork(); if (pid == 0) { struct rlimit none = {0, 0}; setrlimit(RLIMIT_CORE, &none); body(); _exit(0); }
    int status; waitpid(pid, &status, 0); return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}
static void segfault(void) { *(volatile int *)8 = 1; }
static void divide(void) { volatile int zero = 0; volatile int x = 1 / zero; (void)x; }
static void jump(void) { ((void (*)(void))8)(); }
static int recurse(volatile int n) { volatile char room[4096]; room[0] = (char)n; return recurse(n + 1) + room[0]; }
static void overflow(void) { recurse(0); }
static void illegal(void) { __builtin_trap(); }
int main(void) {
    long sum = 0;
    for (int round = 0; round < 40; round++) {
        fflush(stdout);
        for (int i = 0; i < 50; i++) { pid_t pid = fork(); if (pid == 0) _exit(i); if (pid < 0) { perror("fork"); return 1; } }
        for (int i = 0; i < 50; i++) { int status; if (wait(&status) < 0) { perror("wait"); return 1; } sum += WEXITSTATUS(status); }
    }
    printf("forks %ld, then %d\n", sum, wait(NULL) < 0 && errno == ECHILD);
    enum { THREADS = 200 }; pthread_t threads[THREADS]; pthread_attr_t small; pthread_attr_init(&small); pthread_attr_setstacksize(&small, 64 << 10); pthread_barrier_init(&all, NULL, THREADS);
    for (long i = 0; i < THREADS; i++) if (pthread_create(&threads[i], &small, run, (void *)i)) { puts("no thread"); return 1; }
    long returned = 0; for (int i = 0; i < THREADS; i++) { void *value; pthread_join(threads[i], &value); returned += (long)value; }
    printf("threads %ld %ld\n", counter, returned);
    size_t size = 1ul << 30; char *big = malloc(size); for (size_t i = 0; i < size; i += 4096) big[i] = (char)(i >> 12);
    long check = 0; for (size_t i = 0; i < size; i += 4096) check += (unsigned char)big[i]; printf("memory %ld\n", check); free(big);
    big = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); memset(big, 1, 64 << 20); madvise(big, size, MADV_DONTNEED); printf("dropped %d\n", big[1 << 20]); munmap(big, size);
    printf("deaths %d %d %d %d %d %d\n", status_of(segfault), status_of(abort), status_of(divide), status_of(jump), status_of(overflow), status_of(illegal));
    return 0;
}
END
gcc -O1 -w -pthread storm.c -o storm
./storm; echo "status $?"
perl -e 'for (1 .. 300) { my $pid = fork // die; if (!$pid) { exec "/bin/true" } waitpid $pid, 0; die if $? } print "execs\n"'
i=0; while [ $i -lt 200 ]; do (:) & i=$((i + 1)); done; wait; echo background
sh -c 'kill -SEGV $$' || echo "segv $?"; sh -c 'ulimit -v 100000; exec perl -e "my \$x = q(x) x 200_000_000" 2>/dev/null' || echo "limited $?"
