/* Looking into other processes: process_vm_readv, process_vm_writev, kcmp. */
#include "test.h"

#include <linux/kcmp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

static long kcmp_(pid_t one, pid_t two, int kind, unsigned long first, unsigned long second) {
    return syscall(SYS_kcmp, one, two, kind, first, second);
}

TEST(memory_of_a_child_is_read_and_written) {
    struct gate gate = gate_new();
    static char here[16] = "parent", there[16] = "parent";
    char *pages = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t pid = CHILD({
        gate_wait(&gate);
        CHECK(!strcmp(there, "changed"));
        CHECK_EQ(pages[4095], 'a');
        CHECK_EQ(pages[4096], 'b');
    });
    strcpy(there, "other");
    struct iovec local[2] = {{here, 3}, {here + 3, 5}}, remote = {there, 8};
    CHECK_EQ(process_vm_readv(pid, local, 2, &remote, 1, 0), 8);
    CHECK(!strcmp(here, "parent"));
    strcpy(here, "changed");
    CHECK_EQ(process_vm_writev(pid, local, 2, &remote, 1, 0), 8);
    struct iovec border = {"ab", 2}, far = {pages + 4095, 2};
    CHECK_EQ(process_vm_writev(pid, &border, 1, &far, 1, 0), 2);
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(process_vm_readv(pid, local, 2, &remote, 1, 0), ESRCH);
}

TEST(memory_calls_check_their_arguments) {
    char byte = 1, other = 2;
    struct iovec local = {&byte, 1}, remote = {&other, 1};
    CHECK_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 1);
    CHECK_EQ(byte, 2);
    CHECK_ERR(process_vm_readv(getpid(), &local, 1, &remote, 1, 1), EINVAL);
    CHECK_EQ(process_vm_readv(getpid(), &local, 0, &remote, 1, 0), 0);
    CHECK_ERR(process_vm_readv(getpid(), BAD, 1, &remote, 1, 0), EFAULT);
    remote.iov_base = BAD;
    CHECK_ERR(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
    CHECK_ERR(process_vm_readv(getpid(), &local, 2000, &remote, 1, 0), EINVAL);
}

TEST(a_read_ends_at_the_first_page_that_is_not_there) {
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_OK(munmap(pages + 4096, 4096));
    static char buffer[8192];
    struct iovec local = {buffer, 8192}, remote[2] = {{pages, 4096}, {pages + 4096, 4096}};
    CHECK_EQ(process_vm_readv(getpid(), &local, 1, remote, 2, 0), 4096);
}

TEST(memory_of_another_user_is_refused) {
    REQUIRE_ROOT();
    pid_t parent = getpid();
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresgid(1000, 1000, 1000));
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   char byte;
                   struct iovec local = {&byte, 1}, remote = {&byte, 1};
                   CHECK_ERR(process_vm_readv(parent, &local, 1, &remote, 1, 0), EPERM);
                   CHECK_ERR(kcmp_(getpid(), parent, KCMP_VM, 0, 0), EPERM);
               }),
               0);
}

TEST(kcmp_tells_what_is_shared) {
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    pid_t own = getpid();
    int copy = CHECK_OK(dup(1)), other = CHECK_OK(open("/dev/null", O_RDONLY));
    CHECK_EQ(kcmp_(own, own, KCMP_FILE, 1, copy), 0);
    long order = kcmp_(own, own, KCMP_FILE, 1, other);
    CHECK(order == 1 || order == 2);
    CHECK_EQ(kcmp_(own, own, KCMP_FILE, other, 1), 3 - order);
    CHECK_EQ(kcmp_(own, pid, KCMP_FILE, gate.ends[0], gate.ends[0]), 0);
    CHECK(kcmp_(own, pid, KCMP_VM, 0, 0) > 0);
    CHECK(kcmp_(own, pid, KCMP_FILES, 0, 0) > 0);
    CHECK(kcmp_(own, pid, KCMP_FS, 0, 0) > 0);
    CHECK(kcmp_(own, pid, KCMP_SIGHAND, 0, 0) > 0);
    CHECK_EQ(kcmp_(own, own, KCMP_VM, 0, 0), 0);
    CHECK_ERR(kcmp_(own, own, 99, 0, 0), EINVAL);
    CHECK_ERR(kcmp_(own, own, KCMP_FILE, 1, 900), EBADF);
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(kcmp_(own, pid, KCMP_VM, 0, 0), ESRCH);
}

static void *compare_with_leader(void *argument UNUSED) {
    pid_t own = syscall(SYS_gettid), leader = getpid();
    bool same = kcmp_(own, leader, KCMP_VM, 0, 0) == 0 && kcmp_(own, leader, KCMP_FILES, 0, 0) == 0 &&
                kcmp_(own, leader, KCMP_SIGHAND, 0, 0) == 0;
    return (void *)(long)same;
}

TEST(kcmp_finds_threads_alike) {
    pthread_t thread;
    void *same;
    CHECK_EQ(pthread_create(&thread, NULL, compare_with_leader, NULL), 0);
    CHECK_EQ(pthread_join(thread, &same), 0);
    CHECK(same);
}
