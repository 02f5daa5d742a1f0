// A hostile guest: attacks the part of the platform that lies in its own address space.
//
// Usage: stub SEED CHILDREN. Each child either writes random bytes over every writable page that it finds outside of its
// own memory, going on with system calls in between, or jumps to a random place there with registers that matter. The
// parent ends with status 0 when all children are gone, whatever became of them, and the kernel still serves it.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;
static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

// Above what the kernel gives out: the stub's code, its mailboxes, the vDSO, and what the host may have left.
static const uint64_t starts[] = {0x7ff000000000, 0x7ff100000000, 0x7ff200000000, 0x7ff300000000, 0x7ff400000000,
                                  0x7ffff0000000, 0x7ffffffde000, 0xffffffffff600000};
enum { STARTS = sizeof starts / sizeof *starts, PAGES = 96 };

static sigjmp_buf fault;
static void on_fault(int signal) { siglongjmp(fault, signal); }

static void catch_faults(void)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, 0);
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER | SA_ONSTACK};
    for (int signal = 1; signal < 32; signal++)
        if (signal != SIGALRM)
            sigaction(signal, &action, 0);
}

static int readable(uint64_t address)
{
    if (sigsetjmp(fault, 1))
        return 0;
    (void)*(volatile char *)address;
    return 1;
}

static int writable(uint64_t address)
{
    if (sigsetjmp(fault, 1))
        return 0;
    *(volatile char *)address = *(volatile char *)address;
    return 1;
}

static void scribble(void)
{
    uint64_t found[STARTS * PAGES];
    int count = 0;
    for (int i = 0; i < STARTS; i++)
        for (int page = 0; page < PAGES; page++) {
            uint64_t address = starts[i] + page * 4096ull;
            if (writable(address))
                found[count++] = address;
        }
    for (int round = 0; count && round < 2000; round++) {
        uint64_t page = found[next() % count];
        if (sigsetjmp(fault, 1) == 0)
            for (int i = next() % 64; i >= 0; i--) {
                uint64_t value = next();
                if (next() % 4 == 0)
                    value &= 0xff;
                memcpy((void *)(page + next() % 4088), &value, 1 + next() % 8);
            }
        if (sigsetjmp(fault, 1) == 0)
            syscall(next() % 2 ? SYS_getppid : SYS_sched_yield);
    }
}

static void jump(void)
{
    uint64_t pool[8];
    static char memory[8192];
    uint64_t target = 0;
    for (int tries = 0; tries < 1000 && !target; tries++) {
        uint64_t address = starts[next() % STARTS] + next() % (PAGES * 4096ull);
        if (next() % 4)
            address = starts[1] + next() % 4096;
        if (readable(address))
            target = address;
    }
    if (!target)
        return;
    for (int i = 0; i < 8; i++)
        switch (next() % 7) {
        case 0: pool[i] = next() % 335; break;
        case 1: pool[i] = (uint64_t)memory + next() % sizeof memory; break;
        case 2: pool[i] = starts[1] + next() % 4096; break;
        case 3: pool[i] = starts[2] + next() % (PAGES * 4096ull); break;
        case 4: pool[i] = next() % 16; break;
        case 5: pool[i] = -1ull - next() % 4096; break;
        default: pool[i] = next();
        }
    if (sigsetjmp(fault, 1))
        return;
    register uint64_t r10 asm("r10") = pool[5];
    register uint64_t r8 asm("r8") = pool[6];
    register uint64_t r9 asm("r9") = pool[7];
    asm volatile("call *%[target]"
                 :
                 : [target] "r"(target), "a"(pool[0]), "D"(pool[1]), "S"(pool[2]), "d"(pool[3]), "c"(pool[4]), "r"(r10),
                   "r"(r8), "r"(r9)
                 : "memory", "cc", "r11");
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    uint64_t seed = strtoull(arguments[1], 0, 0);
    int children = atoi(arguments[2]), killed = 0;
    for (int i = 0; i < children; i++) {
        state = seed * 0x9e3779b97f4a7c15 + i + 1;
        for (int warm = 0; warm < 8; warm++)
            next();
        pid_t pid = fork();
        if (pid < 0)
            continue;
        if (pid == 0) {
            alarm(2);
            catch_faults();
            if (next() % 3 == 0)
                scribble();
            else
                for (int jumps = 0; jumps < 20; jumps++)
                    jump();
            _exit(0);
        }
        int status;
        if (waitpid(pid, &status, 0) != pid)
            return 3;
        killed += WIFSIGNALED(status);
    }
    printf("%d children, %s of them killed\n", children, killed ? "some" : "none");
    return 0;
}
