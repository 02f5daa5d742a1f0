/* System V IPC: shared memory, semaphores, message queues. */
#include "test.h"

#include <pthread.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

/* Keys that no case shares with another. */
static key_t own_key(int number) {
    return 0x4e000000 | (getpid() & 0xfffff) << 4 | number;
}

static int shm_of(size_t size) {
    return CHECK_OK(shmget(IPC_PRIVATE, size, IPC_CREAT | 0600));
}

TEST(shm_is_shared_with_children) {
    int id = shm_of(10000);
    char *memory = shmat(id, NULL, 0);
    CHECK(memory != (void *)-1);
    CHECK_EQ(memory[9999], 0);
    CHECK_EXIT(CHILD({
                   memory[9999] = 'x';
                   CHECK_OK(shmdt(memory));
               }),
               0);
    CHECK_EQ(memory[9999], 'x');
    char *again = shmat(id, NULL, SHM_RDONLY);
    CHECK(again != (void *)-1 && again != memory);
    CHECK_EQ(again[9999], 'x');
    CHECK_OK(shmdt(again));
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    memory[5] = 'y';
    CHECK_OK(shmdt(memory));
    CHECK_ERR(shmdt(memory), EINVAL);
    CHECK_ERR(shmctl(id, IPC_STAT, NULL), EINVAL);
}

TEST(shm_is_found_by_its_key) {
    key_t key = own_key(1);
    CHECK_ERR(shmget(key, 100, 0600), ENOENT);
    int id = CHECK_OK(shmget(key, 5000, IPC_CREAT | 0640));
    CHECK_EQ(shmget(key, 100, 0600), id);
    CHECK_EQ(shmget(key, 0, 0), id);
    CHECK_ERR(shmget(key, 5001, 0600), EINVAL);
    CHECK_ERR(shmget(key, 100, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    CHECK_EXIT(CHILD({ CHECK_EQ(shmget(key, 100, 0600), id); }), 0);
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    CHECK_ERR(shmget(key, 100, 0600), ENOENT);
    CHECK_ERR(shmget(IPC_PRIVATE, 0, 0600), EINVAL);
    CHECK_ERR(shmget(IPC_PRIVATE, -1, 0600), EINVAL);
}

TEST(shm_stat_tells_all) {
    time_t before = time(NULL);
    key_t key = own_key(2);
    int id = CHECK_OK(shmget(key, 4097, IPC_CREAT | 0631));
    struct shmid_ds stat;
    CHECK_OK(shmctl(id, IPC_STAT, &stat));
    CHECK_EQ(stat.shm_segsz, 4097);
    CHECK_EQ(stat.shm_perm.__key, key);
    CHECK_EQ(stat.shm_perm.mode, 0631);
    CHECK_EQ(stat.shm_perm.uid, geteuid());
    CHECK_EQ(stat.shm_cpid, getpid());
    CHECK_EQ(stat.shm_lpid, 0);
    CHECK_EQ(stat.shm_nattch, 0);
    CHECK_EQ(stat.shm_atime, 0);
    CHECK(stat.shm_ctime >= before);
    char *memory = shmat(id, NULL, 0);
    struct gate gate = gate_new();
    pid_t pid = CHILD({ gate_wait(&gate); });
    CHECK_OK(shmctl(id, IPC_STAT, &stat));
    CHECK_EQ(stat.shm_nattch, 2);
    CHECK_EQ(stat.shm_lpid, getpid());
    CHECK(stat.shm_atime >= before);
    gate_open(&gate);
    CHECK_EXIT(pid, 0);
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    CHECK_OK(shmctl(id, IPC_STAT, &stat));
    CHECK_EQ(stat.shm_perm.mode, 0631 | SHM_DEST);
    CHECK_EQ(stat.shm_perm.__key, 0);
    CHECK_EQ(stat.shm_nattch, 1);
    CHECK_OK(shmdt(memory));
    CHECK_ERR(shmctl(id, IPC_STAT, &stat), EINVAL);
}

TEST(shm_goes_with_the_last_process) {
    int id = shm_of(4096);
    pid_t pid = CHILD({
        CHECK(shmat(id, NULL, 0) != (void *)-1);
        CHECK_OK(shmctl(id, IPC_RMID, NULL));
        CHECK(shmat(id, NULL, 0) != (void *)-1);
    });
    CHECK_EXIT(pid, 0);
    struct shmid_ds stat;
    CHECK_ERR(shmctl(id, IPC_STAT, &stat), EINVAL);
}

TEST(shm_addresses) {
    int id = shm_of(8192);
    char *room = mmap(NULL, 16384, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_ERR((long)shmat(id, room + 1, 0), EINVAL);
    CHECK_ERR((long)shmat(id, room, 0), EINVAL);
    CHECK_ERR((long)shmat(id, NULL, SHM_REMAP), EINVAL);
    CHECK(shmat(id, room, SHM_REMAP) == room);
    room[1] = 1;
    CHECK_OK(munmap(room + 8192, 8192));
    CHECK(shmat(id, room + 8192 + 7, SHM_RND) == room + 8192);
    CHECK_EQ(room[8193], 1);
    CHECK_OK(munmap(room, 4096));
    struct shmid_ds stat;
    CHECK_OK(shmctl(id, IPC_STAT, &stat));
    CHECK_EQ(stat.shm_nattch, 2);
    CHECK_OK(shmdt(room));
    CHECK_ERR(shmdt(room), EINVAL);
    CHECK_ERR(shmdt(room + 1), EINVAL);
    CHECK_OK(shmdt(room + 8192));
    CHECK_ERR((long)shmat(-1, NULL, 0), EINVAL);
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    CHECK_ERR((long)shmat(id, NULL, 0), EINVAL);
}

TEST(shm_read_only_mapping_faults) {
    int id = shm_of(4096);
    pid_t pid = CHILD({
        volatile char *memory = shmat(id, NULL, SHM_RDONLY);
        memory[0] = 1;
    });
    CHECK_KILLED(pid, SIGSEGV);
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
}

TEST(ipc_permissions) {
    REQUIRE_ROOT();
    int shm = CHECK_OK(shmget(own_key(3), 4096, IPC_CREAT | 0604));
    int sem = CHECK_OK(semget(own_key(3), 1, IPC_CREAT | 0604));
    int queue = CHECK_OK(msgget(own_key(3), IPC_CREAT | 0604));
    key_t key = own_key(3);
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresgid(1000, 1000, 1000));
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   CHECK_ERR((long)shmat(shm, NULL, 0), EACCES);
                   CHECK(shmat(shm, NULL, SHM_RDONLY) != (void *)-1);
                   CHECK_EQ(shmget(key, 1, 0004), shm);
                   CHECK_ERR(shmget(key, 1, 0600), EACCES);
                   CHECK_ERR(shmctl(shm, IPC_RMID, NULL), EPERM);
                   struct sembuf up = {0, 1, 0};
                   CHECK_ERR(semop(sem, &up, 1), EACCES);
                   CHECK_EQ(semctl(sem, 0, GETVAL), 0);
                   CHECK_ERR(semctl(sem, 0, SETVAL, 3), EACCES);
                   CHECK_ERR(semctl(sem, 0, IPC_RMID), EPERM);
                   long message[2] = {1, 2};
                   CHECK_ERR(msgsnd(queue, message, 8, 0), EACCES);
                   CHECK_ERR(msgrcv(queue, message, 8, 0, IPC_NOWAIT), ENOMSG);
                   CHECK_ERR(msgctl(queue, IPC_RMID, NULL), EPERM);
               }),
               0);
    struct shmid_ds stat = {.shm_perm = {.uid = 1000, .gid = 1000, .mode = 0666}};
    CHECK_OK(shmctl(shm, IPC_SET, &stat));
    CHECK_EXIT(CHILD({
                   CHECK_OK(setresuid(1000, 1000, 1000));
                   CHECK(shmat(shm, NULL, 0) != (void *)-1);
                   CHECK_OK(shmctl(shm, IPC_RMID, NULL));
               }),
               0);
    CHECK_OK(semctl(sem, 0, IPC_RMID));
    CHECK_OK(msgctl(queue, IPC_RMID, NULL));
}

static int sem_of(int count) {
    return CHECK_OK(semget(IPC_PRIVATE, count, IPC_CREAT | 0600));
}

static int operate(int id, int number, int change, int flags) {
    struct sembuf operation = {number, change, flags};
    return semop(id, &operation, 1);
}

TEST(sem_values) {
    int id = sem_of(3);
    CHECK_EQ(semctl(id, 2, GETVAL), 0);
    CHECK_OK(semctl(id, 2, SETVAL, 7));
    CHECK_EQ(semctl(id, 2, GETVAL), 7);
    CHECK_EQ(semctl(id, 2, GETPID), getpid());
    unsigned short values[3] = {1, 2, 3};
    CHECK_OK(semctl(id, 0, SETALL, values));
    memset(values, 0, sizeof values);
    CHECK_OK(semctl(id, 0, GETALL, values));
    CHECK(values[0] == 1 && values[1] == 2 && values[2] == 3);
    CHECK_ERR(semctl(id, 3, GETVAL), EINVAL);
    CHECK_ERR(semctl(id, 0, SETVAL, 32768), ERANGE);
    CHECK_ERR(semctl(id, 0, SETVAL, -1), ERANGE);
    values[1] = 40000;
    CHECK_ERR(semctl(id, 0, SETALL, values), ERANGE);
    struct semid_ds stat;
    CHECK_OK(semctl(id, 0, IPC_STAT, &stat));
    CHECK_EQ(stat.sem_nsems, 3);
    CHECK_EQ(stat.sem_otime, 0);
    CHECK_OK(semctl(id, 0, IPC_RMID));
    CHECK_ERR(semctl(id, 0, GETVAL), EINVAL);
    CHECK_ERR(semget(IPC_PRIVATE, 0, 0600), EINVAL);
    CHECK_ERR(semget(IPC_PRIVATE, 40000, 0600), EINVAL);
}

TEST(sem_operations_are_all_or_none) {
    int id = sem_of(2);
    struct sembuf both[] = {{0, 3, 0}, {1, -1, IPC_NOWAIT}};
    CHECK_ERR(semop(id, both, 2), EAGAIN);
    CHECK_EQ(semctl(id, 0, GETVAL), 0);
    struct sembuf up_and_down[] = {{0, 3, 0}, {0, -2, 0}, {1, 0, 0}};
    CHECK_OK(semop(id, up_and_down, 3));
    CHECK_EQ(semctl(id, 0, GETVAL), 1);
    CHECK_ERR(operate(id, 0, 0, IPC_NOWAIT), EAGAIN);
    CHECK_ERR(operate(id, 0, 32767, 0), ERANGE);
    CHECK_ERR(operate(id, 2, 1, 0), EFBIG);
    CHECK_ERR(semop(id, both, 0), EINVAL);
    CHECK_ERR(semop(id, both, 501), E2BIG);
    CHECK_ERR(semop(id, BAD, 1), EFAULT);
    CHECK_ERR(semop(-1, both, 1), EINVAL);
    struct timespec bad = {0, -1};
    CHECK_ERR(semtimedop(id, both, 1, &bad), EINVAL);
    CHECK_OK(semctl(id, 0, IPC_RMID));
}

static void wait_for_waiter(int id, int number, int command) {
    while (semctl(id, number, command) == 0) {
        sleep_ms(1);
    }
}

TEST(sem_wakes_who_waits) {
    int id = sem_of(2);
    pid_t down = CHILD({
        struct sembuf operations[] = {{0, -2, 0}, {1, 1, 0}};
        CHECK_OK(semop(id, operations, 2));
    });
    wait_for_waiter(id, 0, GETNCNT);
    CHECK_EQ(semctl(id, 0, GETNCNT), 1);
    CHECK_EQ(semctl(id, 0, GETZCNT), 0);
    CHECK_OK(operate(id, 0, 1, 0));
    settle();
    CHECK_EQ(semctl(id, 0, GETNCNT), 1);
    CHECK_OK(operate(id, 0, 1, 0));
    CHECK_EXIT(down, 0);
    CHECK_EQ(semctl(id, 0, GETVAL), 0);
    CHECK_EQ(semctl(id, 1, GETVAL), 1);
    CHECK_EQ(semctl(id, 1, GETPID), down);
    pid_t zero = CHILD({ CHECK_OK(operate(id, 1, 0, 0)); });
    wait_for_waiter(id, 1, GETZCNT);
    CHECK_OK(semctl(id, 1, SETVAL, 0));
    CHECK_EXIT(zero, 0);
    CHECK_OK(semctl(id, 0, IPC_RMID));
}

TEST(sem_wait_ends_with_the_set_a_signal_or_the_time) {
    int id = sem_of(1);
    struct timespec time = {0, 20000000};
    struct sembuf down = {0, -1, 0};
    CHECK_ERR(semtimedop(id, &down, 1, &time), EAGAIN);
    pid_t pid = CHILD({ CHECK_ERR(operate(id, 0, -1, 0), EIDRM); });
    wait_for_waiter(id, 0, GETNCNT);
    CHECK_OK(semctl(id, 0, IPC_RMID));
    CHECK_EXIT(pid, 0);
    id = sem_of(1);
    pid = CHILD({
        handle(SIGUSR1, test_on_alarm, SA_RESTART);
        CHECK_ERR(operate(id, 0, -1, 0), EINTR);
    });
    wait_for_waiter(id, 0, GETNCNT);
    CHECK_OK(kill(pid, SIGUSR1));
    CHECK_EXIT(pid, 0);
    CHECK_EQ(semctl(id, 0, GETNCNT), 0);
    CHECK_OK(semctl(id, 0, IPC_RMID));
}

TEST(sem_undo_at_the_end) {
    int id = sem_of(2);
    CHECK_OK(semctl(id, 0, SETVAL, 5));
    pid_t pid = CHILD({
        CHECK_OK(operate(id, 0, -3, SEM_UNDO));
        CHECK_OK(operate(id, 0, 1, SEM_UNDO));
        CHECK_OK(operate(id, 1, 4, 0));
        CHECK_EQ(semctl(id, 0, GETVAL), 3);
        CHECK_EXIT(CHILD({}), 0);
        CHECK_EQ(semctl(id, 0, GETVAL), 3);
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(semctl(id, 0, GETVAL), 5);
    CHECK_EQ(semctl(id, 1, GETVAL), 4);
    CHECK_EQ(semctl(id, 0, GETPID), pid);
    pid = CHILD({
        CHECK_OK(operate(id, 0, -5, SEM_UNDO));
        CHECK_OK(semctl(id, 0, SETVAL, 2));
        CHECK_OK(kill(getpid(), SIGKILL));
    });
    CHECK_KILLED(pid, SIGKILL);
    CHECK_EQ(semctl(id, 0, GETVAL), 2);
    CHECK_OK(semctl(id, 0, IPC_RMID));
}

static void *take_in_thread(void *id) {
    return (void *)(long)operate(*(int *)id, 0, -1, SEM_UNDO);
}

TEST(sem_undo_is_of_the_process) {
    int id = sem_of(1);
    CHECK_OK(semctl(id, 0, SETVAL, 1));
    pid_t pid = CHILD({
        pthread_t thread;
        void *result;
        CHECK_EQ(pthread_create(&thread, NULL, take_in_thread, &id), 0);
        CHECK_EQ(pthread_join(thread, &result), 0);
        CHECK(!result);
        CHECK_EQ(semctl(id, 0, GETVAL), 0);
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(semctl(id, 0, GETVAL), 1);
    CHECK_OK(semctl(id, 0, IPC_RMID));
}

struct message {
    long kind;
    char text[64];
};

static int queue_of(void) {
    return CHECK_OK(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
}

static void send_text(int id, long kind, const char *text) {
    struct message message = {kind, ""};
    strcpy(message.text, text);
    CHECK_OK(msgsnd(id, &message, strlen(text), IPC_NOWAIT));
}

static const char *receive_text(int id, long kind, int flags) {
    static struct message message;
    ssize_t length = CHECK_OK(msgrcv(id, &message, sizeof message.text, kind, flags | IPC_NOWAIT));
    message.text[length] = 0;
    return message.text;
}

TEST(msg_kinds) {
    int id = queue_of();
    send_text(id, 3, "three");
    send_text(id, 1, "one");
    send_text(id, 2, "two");
    send_text(id, 1, "one again");
    CHECK(!strcmp(receive_text(id, 1, 0), "one"));
    CHECK(!strcmp(receive_text(id, -2, 0), "one again"));
    CHECK(!strcmp(receive_text(id, 3, MSG_EXCEPT), "two"));
    CHECK(!strcmp(receive_text(id, 0, 0), "three"));
    struct message message;
    CHECK_ERR(msgrcv(id, &message, 10, 0, IPC_NOWAIT), ENOMSG);
    CHECK_OK(msgctl(id, IPC_RMID, NULL));
    CHECK_ERR(msgrcv(id, &message, 10, 0, IPC_NOWAIT), EINVAL);
}

TEST(msg_sizes_and_arguments) {
    int id = queue_of();
    send_text(id, 1, "12345678");
    struct message message = {0, ""};
    CHECK_ERR(msgrcv(id, &message, 4, 0, 0), E2BIG);
    CHECK_EQ(msgrcv(id, &message, 4, 0, MSG_NOERROR), 4);
    CHECK_EQ(message.kind, 1);
    CHECK_ERR(msgsnd(id, &message, -1, 0), EINVAL);
    CHECK_ERR(msgsnd(id, &message, 8193, 0), EINVAL);
    message.kind = 0;
    CHECK_ERR(msgsnd(id, &message, 1, 0), EINVAL);
    CHECK_ERR(msgsnd(id, BAD, 1, 0), EFAULT);
    CHECK_ERR(msgsnd(-1, &message, 1, 0), EINVAL);
    CHECK_ERR(msgrcv(-1, &message, 1, 0, 0), EINVAL);
    CHECK_OK(msgctl(id, IPC_RMID, NULL));
}

TEST(msg_full_queue) {
    int id = queue_of();
    static struct {
        long kind;
        char text[8192];
    } large = {1, ""};
    CHECK_OK(msgsnd(id, &large, 8192, 0));
    CHECK_OK(msgsnd(id, &large, 8192, 0));
    CHECK_ERR(msgsnd(id, &large, 1, IPC_NOWAIT), EAGAIN);
    struct msqid_ds stat;
    CHECK_OK(msgctl(id, IPC_STAT, &stat));
    CHECK_EQ(stat.msg_qnum, 2);
    CHECK_EQ(stat.__msg_cbytes, 16384);
    CHECK_EQ(stat.msg_qbytes, 16384);
    CHECK_EQ(stat.msg_lspid, getpid());
    pid_t pid = CHILD({ CHECK_OK(msgsnd(id, &large, 100, 0)); });
    settle();
    CHECK_EQ(msgrcv(id, &large, 8192, 0, 0), 8192);
    CHECK_EXIT(pid, 0);
    CHECK_OK(msgctl(id, IPC_RMID, NULL));
}

TEST(msg_wakes_and_ends_waits) {
    int id = queue_of();
    pid_t pid = CHILD({
        struct message message;
        CHECK_EQ(msgrcv(id, &message, 64, 5, 0), 4);
        CHECK_ERR(msgrcv(id, &message, 64, 0, 0), EIDRM);
    });
    settle();
    send_text(id, 5, "wake");
    struct msqid_ds stat;
    do {
        CHECK_OK(msgctl(id, IPC_STAT, &stat));
    } while (stat.msg_qnum);
    CHECK_EQ(stat.msg_lrpid, pid);
    settle();
    CHECK_OK(msgctl(id, IPC_RMID, NULL));
    CHECK_EXIT(pid, 0);
}

/* Whether a table of /proc/sysvipc lists the identifier. */
static bool listed(const char *table, int id) {
    static char text[1 << 16];
    get_file(table, text, sizeof text);
    bool found = false;
    for (char *line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
        int key, number;
        CHECK_EQ(sscanf(line + 1, "%d %d", &key, &number), 2);
        found |= number == id;
    }
    return found;
}

TEST(objects_are_listed_in_proc) {
    int shm = shm_of(100), sem = sem_of(1), queue = queue_of();
    CHECK(listed("/proc/sysvipc/shm", shm));
    CHECK(listed("/proc/sysvipc/sem", sem));
    CHECK(listed("/proc/sysvipc/msg", queue));
    CHECK_OK(shmctl(shm, IPC_RMID, NULL));
    CHECK_OK(semctl(sem, 0, IPC_RMID));
    CHECK_OK(msgctl(queue, IPC_RMID, NULL));
    CHECK(!listed("/proc/sysvipc/shm", shm));
    CHECK(!listed("/proc/sysvipc/sem", sem));
    CHECK(!listed("/proc/sysvipc/msg", queue));
}

TEST(objects_are_found_by_place) {
    int shm = shm_of(100);
    struct shminfo limits;
    int highest = CHECK_OK(shmctl(0, IPC_INFO, (struct shmid_ds *)&limits));
    CHECK_EQ(limits.shmmin, 1);
    CHECK(limits.shmmni >= 1);
    bool found = false;
    for (int index = 0; index <= highest; index++) {
        struct shmid_ds stat;
        found |= shmctl(index, SHM_STAT, &stat) == shm && stat.shm_segsz == 100;
    }
    CHECK(found);
    struct shm_info usage;
    CHECK_OK(shmctl(0, SHM_INFO, (struct shmid_ds *)&usage));
    CHECK(usage.used_ids >= 1);
    CHECK_OK(shmctl(shm, IPC_RMID, NULL));
    struct seminfo semaphores;
    CHECK_OK(semctl(0, 0, IPC_INFO, &semaphores));
    CHECK_EQ(semaphores.semvmx, 32767);
    struct msginfo messages;
    CHECK_OK(msgctl(0, IPC_INFO, (struct msqid_ds *)&messages));
    CHECK_EQ(messages.msgmax, 8192);
}
