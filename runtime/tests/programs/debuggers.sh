#!/bin/bash
# needs: gcc strace gdb
# Debuggers and tracers, which see other processes through ptrace(2).
set -u
export LC_ALL=C
cat > program.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static int factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }
static void *work(void *number) { printf("%d\n", factorial(*(int *)number)); return NULL; }
int main(void) {
    pthread_t thread;
    int number = 5;
    pthread_create(&thread, NULL, work, &number);
    pthread_join(thread, NULL);
    int *nowhere = NULL;
    return factorial(3) == 6 ? *nowhere : 0;
}
END
gcc -g -O0 -pthread -o program program.c
strace -f -o log -e trace=write,exit_group,kill ./program; echo "status $?"
# Whether the thread's end is told of before the fault is a matter of luck.
sed -E 's/^[0-9]+ +//; s/si_addr=[^}]*//' log | sort
strace -o log -e trace=openat cat /etc/hostname /nowhere > /dev/null 2>&1; echo "status $?"; grep -E 'hostname|nowhere' log
strace -f -o log sh -c 'echo a | cat; (exit 3)'; echo "status $?"; grep -c 'exited with' log
strace -c -o log true; grep -c execve log
sleep 60 & sleeper=$!
strace -p $sleeper -o log 2>/dev/null & tracer=$!
until grep -q "^TracerPid:.$tracer" /proc/$sleeper/status; do sleep 0.05; done
kill $sleeper; wait $sleeper; echo "sleeper $?"; wait $tracer; grep -o 'killed by SIGTERM' log
debug() { gdb -nx -batch "$@" < /dev/null 2>&1 | sed -E 's/0x[0-9a-f]+/ADDRESS/g; s/(LWP|process) [0-9]+/\1 N/g; s/^\[(New Thread|Switching).*//; s/ at [^ ]*nptl.*//; s/in (start_thread|clone).*/in \1/' | grep -vE '^$|libthread_db|^\[Thread'; }
debug -ex 'break factorial if n == 3' -ex run -ex bt -ex 'print n * 2' -ex 'set var n = 1' -ex finish -ex 'delete' -ex c -ex bt ./program
debug -ex 'start' -ex next -ex next -ex next -ex 'print number' -ex 'print factorial(6)' -ex kill ./program
debug -ex 'set can-use-hw-watchpoints 0' -ex start -ex 'watch number' -ex continue -ex kill ./program | grep -E 'alue|atchpoint'
debug -ex 'catch syscall write' -ex run -ex bt ./program | grep -E 'Catchpoint|work'
debug -ex 'handle SIGSEGV nostop noprint pass' -ex run ./program | tail -2
sleep 60 & sleeper=$!
debug -p $sleeper -ex 'print 1 + 1' -ex detach | grep -E '^.1 = 2|detached'
kill $sleeper; wait $sleeper; echo "sleeper $?"
