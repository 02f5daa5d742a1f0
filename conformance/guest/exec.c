/* execve and what it keeps, drops and hands over. */
#include "test.h"

#include <elf.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static char *const no_environment[] = {NULL};

/* Runs this program's helper in a child with an empty environment and returns the child's pid. */
#define RUN_HELPER(...)                                                                                                \
    CHILD({                                                                                                            \
        char *arguments[] = {self_path, "--helper", __VA_ARGS__, NULL};                                                \
        execve(self_path, arguments, no_environment);                                                                  \
        FAIL("execve: %s", test_errno_name(errno));                                                                    \
    })

HELPER(expect_arguments) {
    return argc == 3 && !strcmp(argv[0], "one") && !strcmp(argv[1], "") && !strcmp(argv[2], "thr ee") && !argv[3] ? 0 : 1;
}

TEST(arguments_arrive) {
    CHECK_EXIT(RUN_HELPER("expect_arguments", "one", "", "thr ee"), 0);
}

HELPER(expect_environment) {
    return !strcmp(environ[0], "A=1") && !strcmp(environ[1], "B=two words") && !environ[2] ? 0 : 1;
}

TEST(environment_arrives) {
    CHECK_EXIT(CHILD({
                   char *arguments[] = {self_path, "--helper", "expect_environment", NULL};
                   char *environment[] = {"A=1", "B=two words", NULL};
                   execve(self_path, arguments, environment);
               }),
               0);
}

TEST(missing_program_is_enoent) {
    enter_scratch();
    char *arguments[] = {"x", NULL};
    CHECK_ERR(execve("missing", arguments, no_environment), ENOENT);
    CHECK_ERR(execve("", arguments, no_environment), ENOENT);
    put_file("file", "x", 0755);
    CHECK_ERR(execve("file/below", arguments, no_environment), ENOTDIR);
}

TEST(bad_pointers_are_efault) {
    char *arguments[] = {"x", NULL};
    CHECK_ERR(syscall(SYS_execve, 8, arguments, no_environment), EFAULT);
    CHECK_ERR(syscall(SYS_execve, self_path, 8, no_environment), EFAULT);
    char *bad[] = {"x", (char *)8, NULL};
    CHECK_ERR(syscall(SYS_execve, self_path, bad, no_environment), EFAULT);
}

TEST(unexecutable_file_is_eacces) {
    enter_scratch();
    char *arguments[] = {"x", NULL};
    put_file("file", "#!/bin/sh\n", 0644);
    CHECK_ERR(execve("file", arguments, no_environment), EACCES);
    CHECK_OK(mkdir("directory", 0755));
    CHECK_ERR(execve("directory", arguments, no_environment), EACCES);
}

TEST(unknown_format_is_enoexec) {
    enter_scratch();
    char *arguments[] = {"x", NULL};
    put_file("text", "just text\n", 0755);
    CHECK_ERR(execve("text", arguments, no_environment), ENOEXEC);
    put_file("empty", "", 0755);
    CHECK_ERR(execve("empty", arguments, no_environment), ENOEXEC);
    put_file("elf", "\177ELF\2\1\1", 0755);
    CHECK_ERR(execve("elf", arguments, no_environment), ENOEXEC);
}

TEST(open_for_writing_is_etxtbsy) {
    enter_scratch();
    put_file("script", "#!/bin/sh\nexit 0\n", 0755);
    int fd = CHECK_OK(open("script", O_WRONLY | O_CLOEXEC));
    char *arguments[] = {"x", NULL};
    CHECK_ERR(execve("script", arguments, no_environment), ETXTBSY);
    close(fd);
    CHECK_EXIT(CHILD({ execve("script", arguments, no_environment); }), 0);
}

static void copy_self(const char *to) {
    char buffer[65536];
    int in = CHECK_OK(open(self_path, O_RDONLY | O_CLOEXEC)), out = CHECK_OK(open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755));
    ssize_t count;
    while ((count = CHECK_OK(read(in, buffer, sizeof buffer))) > 0) {
        CHECK_EQ(write(out, buffer, count), count);
    }
    close(in);
    close(out);
}

HELPER(announce_and_wait) {
    char byte;
    return write(atoi(argv[0]), "x", 1) == 1 && read(atoi(argv[1]), &byte, 1) == 1 ? 0 : 1;
}

TEST(running_program_is_etxtbsy_for_writers) {
    enter_scratch();
    copy_self("program");
    struct gate started = gate_new(), finish = gate_new();
    char write_end[16], read_end[16];
    snprintf(write_end, sizeof write_end, "%d", started.ends[1]);
    snprintf(read_end, sizeof read_end, "%d", finish.ends[0]);
    pid_t pid = CHILD({ execl("program", "program", "--helper", "announce_and_wait", write_end, read_end, NULL); });
    gate_wait(&started);
    CHECK_ERR(open("program", O_WRONLY), ETXTBSY);
    CHECK_ERR(truncate("program", 0), ETXTBSY);
    CHECK_OK(unlink("program"));
    gate_open(&finish);
    CHECK_EXIT(pid, 0);
}

TEST(one_huge_argument_is_e2big) {
    size_t size = 32 * 4096 + 1;
    char *argument = malloc(size);
    memset(argument, 'a', size);
    argument[size - 1] = 0;
    char *arguments[] = {self_path, "--helper", "exit_zero", argument, NULL};
    CHECK_ERR(execve(self_path, arguments, no_environment), E2BIG);
    argument[size - 2] = 0;
    CHECK_EXIT(CHILD({ execve(self_path, arguments, no_environment); }), 0);
}

HELPER(exit_zero) {
    return 0;
}

TEST(too_many_arguments_are_e2big) {
    /* A quarter of the stack limit (8 MiB at most here, so 2 MiB) or 6 MiB: this is more than either. */
    static char argument[100000];
    memset(argument, 'a', sizeof argument - 1);
    char *arguments[100];
    for (int index = 0; index < 99; index++) {
        arguments[index] = argument;
    }
    arguments[99] = NULL;
    CHECK_ERR(execve(self_path, arguments, no_environment), E2BIG);
}

HELPER(count_arguments) {
    return argc == 10001 && !strcmp(argv[9999], "argument") ? 0 : 1;
}

TEST(ten_thousand_arguments) {
    static char *arguments[10005];
    arguments[0] = self_path;
    arguments[1] = "--helper";
    arguments[2] = "count_arguments";
    for (int index = 3; index < 10004; index++) {
        arguments[index] = "argument";
    }
    CHECK_EXIT(CHILD({ execve(self_path, arguments, no_environment); }), 0);
}

HELPER(check_argument_count) {
    return argc == atoi(argv[0]) ? 0 : 1;
}

/* --- scripts --- */

TEST(script_runs_its_interpreter) {
    enter_scratch();
    put_file("script", "#!/bin/sh\nexit $#\n", 0755);
    CHECK_EXIT(CHILD({ execl("./script", "script", "a", "b", "c", NULL); }), 3);
}

TEST(script_line_has_one_argument) {
    enter_scratch();
    put_file("script", "#! /bin/echo  one   two  \n", 0755);
    int ends[2];
    CHECK_OK(pipe(ends));
    pid_t pid = CHILD({
        dup2(ends[1], 1);
        execl("./script", "ignored", "last", NULL);
    });
    close(ends[1]);
    char text[256] = {0};
    ssize_t length = 0, count;
    while ((count = read(ends[0], text + length, sizeof text - 1 - length)) > 0) {
        length += count;
    }
    CHECK_EXIT(pid, 0);
    CHECK_STR(text, "one   two ./script last\n");
}

TEST(script_without_newline) {
    enter_scratch();
    put_file("script", "#!/bin/true", 0755);
    CHECK_EXIT(CHILD({ execl("./script", "script", NULL); }), 0);
}

TEST(script_with_a_missing_interpreter) {
    enter_scratch();
    char *arguments[] = {"script", NULL};
    put_file("script", "#!/nonexistent/interpreter\n", 0755);
    CHECK_ERR(execve("./script", arguments, no_environment), ENOENT);
    put_file("script", "#!\n", 0755);
    CHECK_ERR(execve("./script", arguments, no_environment), ENOEXEC);
    put_file("script", "#!/tmp\n", 0755);
    CHECK_ERR(execve("./script", arguments, no_environment), EACCES);
}

TEST(script_of_a_script) {
    enter_scratch();
    char path[PATH_MAX], line[PATH_MAX + 16];
    CHECK(getcwd(path, sizeof path));
    put_file("inner", "#!/bin/sh\nexit $#\n", 0755);
    snprintf(line, sizeof line, "#!%s/inner argument\n", path);
    put_file("outer", line, 0755);
    CHECK_EXIT(CHILD({ execl("./outer", "outer", "x", NULL); }), 3);
}

TEST(scripts_nest_to_a_limit) {
    enter_scratch();
    put_file("s0", "#!/bin/true\n", 0755);
    for (int depth = 1; depth <= 6; depth++) {
        char name[8], line[16];
        snprintf(name, sizeof name, "s%d", depth);
        snprintf(line, sizeof line, "#!s%d\n", depth - 1);
        put_file(name, line, 0755);
    }
    CHECK_EXIT(CHILD({ execl("s4", "x", NULL); }), 0);
    char *arguments[] = {"x", NULL};
    CHECK_ERR(execve("s5", arguments, no_environment), ELOOP);
    CHECK_ERR(execve("s6", arguments, no_environment), ELOOP);
}

TEST(script_line_too_long) {
    enter_scratch();
    char line[400], *arguments[] = {"x", NULL};
    /* A path cut off by the 256 bytes that are read is an error; a cut argument is not. */
    memset(line, 'a', sizeof line);
    memcpy(line, "#!/", 3);
    strcpy(line + 300, "\n");
    put_file("long_path", line, 0755);
    CHECK_ERR(execve("long_path", arguments, no_environment), ENOEXEC);
    memcpy(line, "#!/bin/true ", 12);
    put_file("long_argument", line, 0755);
    CHECK_EXIT(CHILD({ execve("long_argument", arguments, no_environment); }), 0);
}

TEST(script_ignores_empty_argv0) {
    enter_scratch();
    put_file("script", "#!/bin/sh\n[ \"$0\" = ./script ] && exit 7\n", 0755);
    CHECK_EXIT(CHILD({ execl("./script", "something else", NULL); }), 7);
}

/* --- descriptors --- */

HELPER(expect_closed) {
    return fcntl(atoi(argv[0]), F_GETFD) == -1 && errno == EBADF && fcntl(atoi(argv[1]), F_GETFD) == 0 ? 0 : 1;
}

TEST(close_on_exec) {
    char first[16], second[16];
    snprintf(first, sizeof first, "%d", CHECK_OK(fcntl(1, F_DUPFD_CLOEXEC, 50)));
    snprintf(second, sizeof second, "%d", CHECK_OK(fcntl(1, F_DUPFD, 60)));
    CHECK_EXIT(RUN_HELPER("expect_closed", first, second), 0);
}

TEST(failed_exec_closes_nothing) {
    int fd = CHECK_OK(fcntl(1, F_DUPFD_CLOEXEC, 50));
    char *arguments[] = {"x", NULL};
    CHECK_ERR(execve("/nonexistent", arguments, no_environment), ENOENT);
    CHECK_OK(fcntl(fd, F_GETFD));
}

TEST(fexecve_runs_a_descriptor) {
    int fd = CHECK_OK(open(self_path, O_PATH | O_CLOEXEC));
    char *arguments[] = {self_path, "--helper", "exit_zero", NULL};
    CHECK_EXIT(CHILD({ fexecve(fd, arguments, no_environment); }), 0);
    fd = CHECK_OK(open(self_path, O_RDONLY));
    CHECK_EXIT(CHILD({ fexecve(fd, arguments, no_environment); }), 0);
}

static int exec_at(int fd, const char *path, char *const *arguments, int flags) {
    return syscall(SYS_execveat, fd, path, arguments, no_environment, flags);
}

TEST(execveat_relative_to_a_directory) {
    enter_scratch();
    put_file("script", "#!/bin/sh\ncase $0 in /dev/fd/*/script) exit 5;; esac\nexit 6\n", 0755);
    int directory = CHECK_OK(open(".", O_RDONLY | O_DIRECTORY));
    char *arguments[] = {"x", NULL};
    /* The script is named by the descriptor; its interpreter opens it through /dev/fd. */
    if (access("/dev/fd", F_OK)) {
        SKIP("no /dev/fd");
    }
    CHECK_EXIT(CHILD({
                   CHECK_OK(chdir("/"));
                   exec_at(directory, "script", arguments, 0);
               }),
               5);
}

TEST(execveat_errors) {
    enter_scratch();
    CHECK_OK(symlink(self_path, "link"));
    char *arguments[] = {"x", "--helper", "exit_zero", NULL};
    CHECK_ERR(exec_at(AT_FDCWD, "link", arguments, AT_SYMLINK_NOFOLLOW), ELOOP);
    CHECK_ERR(exec_at(AT_FDCWD, "", arguments, 0), ENOENT);
    CHECK_ERR(exec_at(999, "link", arguments, 0), EBADF);
    CHECK_ERR(exec_at(AT_FDCWD, "link", arguments, 0x40), EINVAL);
    CHECK_ERR(exec_at(1, "", arguments, AT_EMPTY_PATH), EACCES);
    CHECK_EXIT(CHILD({ exec_at(AT_FDCWD, "link", arguments, 0); }), 0);
}

TEST(script_by_a_close_on_exec_descriptor_is_enoent) {
    enter_scratch();
    put_file("script", "#!/bin/sh\n", 0755);
    int fd = CHECK_OK(open("script", O_RDONLY | O_CLOEXEC));
    char *arguments[] = {"x", NULL};
    CHECK_ERR(exec_at(fd, "", arguments, AT_EMPTY_PATH), ENOENT);
}

TEST(deleted_program_runs_by_descriptor) {
    enter_scratch();
    copy_self("program");
    int fd = CHECK_OK(open("program", O_RDONLY | O_CLOEXEC));
    CHECK_OK(unlink("program"));
    char *arguments[] = {"x", "--helper", "exit_zero", NULL};
    CHECK_EXIT(CHILD({ exec_at(fd, "", arguments, AT_EMPTY_PATH); }), 0);
}

TEST(memfd_program_runs) {
    int out = CHECK_OK(memfd_create("program", MFD_CLOEXEC));
    int in = CHECK_OK(open(self_path, O_RDONLY));
    char buffer[65536];
    ssize_t count;
    while ((count = CHECK_OK(read(in, buffer, sizeof buffer))) > 0) {
        CHECK_EQ(write(out, buffer, count), count);
    }
    char *arguments[] = {"x", "--helper", "exit_zero", NULL};
    CHECK_EXIT(CHILD({ exec_at(out, "", arguments, AT_EMPTY_PATH); }), 0);
}

/* --- what is kept and dropped --- */

HELPER(expect_signals) {
    struct sigaction action;
    sigset_t mask, pending;
    sigaction(SIGUSR1, NULL, &action);
    bool good = action.sa_handler == SIG_DFL;
    sigaction(SIGUSR2, NULL, &action);
    good &= action.sa_handler == SIG_IGN;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    good &= sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGINT);
    sigpending(&pending);
    return good && sigismember(&pending, SIGTERM) ? 0 : 1;
}

static void do_nothing(int signal UNUSED) {
}

TEST(signals_across_exec) {
    handle(SIGUSR1, do_nothing, 0);
    signal(SIGUSR2, SIG_IGN);
    block_signals(SIGNALS(SIGTERM));
    CHECK_EXIT(CHILD({
                   raise(SIGTERM);
                   char *arguments[] = {self_path, "--helper", "expect_signals", NULL};
                   execve(self_path, arguments, no_environment);
               }),
               0);
}

HELPER(expect_no_altstack) {
    stack_t stack;
    return sigaltstack(NULL, &stack) == 0 && stack.ss_flags == SS_DISABLE ? 0 : 1;
}

TEST(altstack_is_dropped) {
    static char memory[65536];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    CHECK_OK(sigaltstack(&stack, NULL));
    CHECK_EXIT(RUN_HELPER("expect_no_altstack"), 0);
}

HELPER(expect_ids) {
    return getpid() == atoi(argv[0]) && getppid() == atoi(argv[1]) && getpgrp() == atoi(argv[2]) ? 0 : 1;
}

TEST(identity_is_kept) {
    CHECK_EXIT(CHILD({
                   char pid[16], parent[16], group[16];
                   snprintf(pid, sizeof pid, "%d", getpid());
                   snprintf(parent, sizeof parent, "%d", getppid());
                   snprintf(group, sizeof group, "%d", getpgrp());
                   char *arguments[] = {self_path, "--helper", "expect_ids", pid, parent, group, NULL};
                   execve(self_path, arguments, no_environment);
               }),
               0);
}

HELPER(expect_alarm) {
    unsigned left = alarm(0);
    return left > 0 && left <= 100 ? 0 : 1;
}

TEST(alarm_is_kept) {
    CHECK_EXIT(CHILD({
                   alarm(100);
                   char *arguments[] = {self_path, "--helper", "expect_alarm", NULL};
                   execve(self_path, arguments, no_environment);
               }),
               0);
}

HELPER(expect_surroundings) {
    char directory[PATH_MAX];
    struct rlimit limit;
    bool good = getcwd(directory, sizeof directory) && !strcmp(directory, argv[0]);
    good &= umask(0) == 0137;
    return good && getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 123 ? 0 : 1;
}

TEST(directory_umask_and_limits_are_kept) {
    enter_scratch();
    CHECK_EXIT(CHILD({
                   char directory[PATH_MAX];
                   umask(0137);
                   struct rlimit limit;
                   CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
                   limit.rlim_cur = 123;
                   CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
                   CHECK(getcwd(directory, sizeof directory));
                   char *arguments[] = {self_path, "--helper", "expect_surroundings", directory, NULL};
                   execve(self_path, arguments, no_environment);
               }),
               0);
}

HELPER(expect_name) {
    char name[17] = {0};
    return prctl(PR_GET_NAME, name) == 0 && !strcmp(name, argv[0]) ? 0 : 1;
}

TEST(name_is_the_file_name) {
    enter_scratch();
    CHECK_OK(symlink(self_path, "a_name_that_is_longer"));
    char *arguments[] = {"argv0", "--helper", "expect_name", "a_name_that_is_", NULL};
    CHECK_EXIT(CHILD({ execve("./a_name_that_is_longer", arguments, no_environment); }), 0);
}

TEST(empty_argv_gets_an_empty_argv0) {
    enter_scratch();
    put_file("script", "#!/bin/sh\nexit $#\n", 0755);
    char *arguments[] = {NULL};
    CHECK_EXIT(CHILD({ execve("./script", arguments, no_environment); }), 0);
}

TEST(memory_is_new) {
    static volatile int value;
    value = 1;
    CHECK_EXIT(RUN_HELPER("expect_zero"), 0);
    CHECK_EQ(value, 1);
}

static int fresh_value;

HELPER(expect_zero) {
    return fresh_value++;
}

/* --- the auxiliary vector --- */

HELPER(check_auxv) {
    const ElfW(Phdr) *headers = (void *)getauxval(AT_PHDR);
    bool good = headers && getauxval(AT_PHENT) == sizeof(ElfW(Phdr)) && getauxval(AT_PHNUM) > 0;
    good &= getauxval(AT_PAGESZ) == 4096 && getauxval(AT_CLKTCK) == 100 && getauxval(AT_ENTRY) != 0;
    good &= getauxval(AT_UID) == getuid() && getauxval(AT_EUID) == geteuid();
    good &= getauxval(AT_GID) == getgid() && getauxval(AT_EGID) == getegid();
    good &= getauxval(AT_SECURE) == 0 && getauxval(AT_RANDOM) != 0;
    const char *name = (const char *)getauxval(AT_EXECFN), *platform = (const char *)getauxval(AT_PLATFORM);
    good &= name && !strcmp(name, argv[0]) && platform && !strcmp(platform, "x86_64");
    return good ? 0 : 1;
}

TEST(auxv_is_complete) {
    CHECK_EXIT(RUN_HELPER("check_auxv", self_path), 0);
}

HELPER(print_random) {
    return write(atoi(argv[0]), (void *)getauxval(AT_RANDOM), 16) == 16 ? 0 : 1;
}

TEST(auxv_random_differs) {
    int ends[2];
    char number[16], first[16], second[16];
    CHECK_OK(pipe(ends));
    snprintf(number, sizeof number, "%d", ends[1]);
    CHECK_EXIT(RUN_HELPER("print_random", number), 0);
    CHECK_EQ(read(ends[0], first, 16), 16);
    CHECK_EXIT(RUN_HELPER("print_random", number), 0);
    CHECK_EQ(read(ends[0], second, 16), 16);
    CHECK(memcmp(first, second, 16));
}

HELPER(check_stack_alignment) {
    /* argc lies right below argv, and the stack pointer pointed there, 16-byte aligned, at the first instruction. */
    return ((uintptr_t)(argv - 4) & 15) == 0 && *(long *)(argv - 4) == argc + 3 ? 0 : 1;
}

TEST(initial_stack_layout) {
    CHECK_EXIT(RUN_HELPER("check_stack_alignment"), 0);
}

HELPER(vdso_works) {
    struct timespec time;
    return getauxval(AT_SYSINFO_EHDR) && !memcmp((void *)getauxval(AT_SYSINFO_EHDR), ELFMAG, SELFMAG) &&
                   clock_gettime(CLOCK_MONOTONIC, &time) == 0
               ? 0
               : 1;
}

TEST(vdso_is_mapped) {
    CHECK_EXIT(RUN_HELPER("vdso_works"), 0);
}

/* --- a program made by hand --- */

struct tiny {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    unsigned char code[32];
};

/* exit(argc + 40) from its first instructions: mov edi,[rsp]; add edi,40; mov eax,60; syscall */
static const unsigned char tiny_code[] = {0x8b, 0x3c, 0x24, 0x83, 0xc7, 0x28, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05};

static struct tiny tiny_program(int type, uintptr_t base) {
    struct tiny tiny = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                   .e_type = type,
                   .e_machine = EM_X86_64,
                   .e_version = EV_CURRENT,
                   .e_entry = base + offsetof(struct tiny, code),
                   .e_phoff = offsetof(struct tiny, segment),
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 1},
        .segment = {.p_type = PT_LOAD,
                    .p_flags = PF_R | PF_X,
                    .p_vaddr = base,
                    .p_paddr = base,
                    .p_filesz = sizeof(struct tiny),
                    .p_memsz = sizeof(struct tiny),
                    .p_align = 4096},
    };
    memcpy(tiny.code, tiny_code, sizeof tiny_code);
    return tiny;
}

static void put_tiny(const char *path, const struct tiny *tiny) {
    int fd = CHECK_OK(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755));
    CHECK_EQ(write(fd, tiny, sizeof *tiny), sizeof *tiny);
    close(fd);
}

TEST(static_program_at_a_fixed_address) {
    enter_scratch();
    struct tiny tiny = tiny_program(ET_EXEC, 0x400000);
    put_tiny("tiny", &tiny);
    CHECK_EXIT(CHILD({ execl("./tiny", "tiny", "a", NULL); }), 42);
}

TEST(static_pie_program) {
    enter_scratch();
    struct tiny tiny = tiny_program(ET_DYN, 0);
    put_tiny("tiny", &tiny);
    CHECK_EXIT(CHILD({ execl("./tiny", "tiny", NULL); }), 41);
}

TEST(malformed_programs_are_enoexec) {
    enter_scratch();
    char *arguments[] = {"x", NULL};
    struct tiny tiny = tiny_program(ET_EXEC, 0x400000);
    tiny.header.e_machine = EM_AARCH64;
    put_tiny("tiny", &tiny);
    CHECK_ERR(execve("tiny", arguments, no_environment), ENOEXEC);
    tiny = tiny_program(ET_REL, 0x400000);
    put_tiny("tiny", &tiny);
    CHECK_ERR(execve("tiny", arguments, no_environment), ENOEXEC);
    tiny = tiny_program(ET_EXEC, 0x400000);
    tiny.header.e_phentsize = 8;
    put_tiny("tiny", &tiny);
    CHECK_ERR(execve("tiny", arguments, no_environment), ENOEXEC);
    tiny = tiny_program(ET_EXEC, 0x400000);
    tiny.header.e_phnum = 0;
    put_tiny("tiny", &tiny);
    CHECK_ERR(execve("tiny", arguments, no_environment), ENOEXEC);
}

TEST(missing_elf_interpreter_is_enoent) {
    enter_scratch();
    struct {
        struct tiny tiny;
        char path[32];
    } program = {.tiny = tiny_program(ET_EXEC, 0x400000), .path = "/nonexistent/ld.so"};
    program.tiny.segment.p_type = PT_INTERP;
    program.tiny.segment.p_offset = offsetof(__typeof__(program), path);
    program.tiny.segment.p_filesz = strlen(program.path) + 1;
    int fd = CHECK_OK(open("program", O_WRONLY | O_CREAT | O_CLOEXEC, 0755));
    CHECK_EQ(write(fd, &program, sizeof program), sizeof program);
    close(fd);
    char *arguments[] = {"x", NULL};
    CHECK_ERR(execve("program", arguments, no_environment), ENOENT);
}

TEST(exec_again_and_again) {
    /* Each execution counts down. */
    CHECK_EXIT(RUN_HELPER("count_down", "20"), 33);
}

HELPER(count_down) {
    int left = atoi(argv[0]);
    char number[16];
    snprintf(number, sizeof number, "%d", left - 1);
    return left == 0 ? 33 : execl(self_path, self_path, "--helper", "count_down", number, NULL);
}

TEST(noexec_flag_of_access) {
    enter_scratch();
    put_file("file", "x", 0644);
    CHECK_ERR(access("file", X_OK), EACCES);
    CHECK_OK(chmod("file", 0755));
    CHECK_OK(access("file", X_OK));
}

/* --- execveat --- */

HELPER(expect_name_and_path) {
    char name[17] = {0}, path[PATH_MAX];
    const char *program = (const char *)getauxval(AT_EXECFN);
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (prctl(PR_GET_NAME, name) || strcmp(name, argv[0]) || !program || strcmp(program, argv[1]) ||
        strcmp(path, argv[2])) {
        fprintf(stderr, "%s %s %s\n", name, program, path);
        return 1;
    }
    return 0;
}

TEST(execveat_names_the_program_by_its_file) {
    const char *scratch = enter_scratch();
    char expected[PATH_MAX], shown[64];
    copy_self("program");
    int directory = CHECK_OK(open(".", O_PATH | O_CLOEXEC)), fd = CHECK_OK(open("program", O_RDONLY | O_CLOEXEC));
    snprintf(expected, sizeof expected, "%s/program", scratch);
    snprintf(shown, sizeof shown, "/dev/fd/%d/program", directory);
    char *arguments[] = {"x", "--helper", "expect_name_and_path", "program", shown, expected, NULL};
    CHECK_EXIT(CHILD({ exec_at(directory, "program", arguments, 0); }), 0);
    snprintf(shown, sizeof shown, "/dev/fd/%d", fd);
    CHECK_EXIT(CHILD({ exec_at(fd, "", arguments, AT_EMPTY_PATH); }), 0);
    CHECK_OK(unlink("program"));
    strcat(expected, " (deleted)");
    CHECK_EXIT(CHILD({ exec_at(fd, "", arguments, AT_EMPTY_PATH); }), 0);
}

TEST(memfd_program_has_a_name) {
    int fd = CHECK_OK(memfd_create("image", MFD_CLOEXEC));
    int in = CHECK_OK(open(self_path, O_RDONLY));
    char buffer[65536], shown[64];
    ssize_t count;
    while ((count = CHECK_OK(read(in, buffer, sizeof buffer))) > 0) {
        CHECK_EQ(write(fd, buffer, count), count);
    }
    snprintf(shown, sizeof shown, "/dev/fd/%d", fd);
    char *arguments[] = {"x", "--helper", "expect_name_and_path", "memfd:image", shown, "/memfd:image (deleted)", NULL};
    CHECK_EXIT(CHILD({ exec_at(fd, "", arguments, AT_EMPTY_PATH); }), 0);
}

TEST(execveat_of_a_script_by_descriptor) {
    enter_scratch();
    put_file("script", "#!/bin/sh\nread line < $0\n[ \"$line\" = '#!/bin/sh' ] && exit 9\n", 0755);
    int fd = CHECK_OK(open("script", O_RDONLY));
    char *arguments[] = {"x", NULL};
    CHECK_EXIT(CHILD({ exec_at(fd, "", arguments, AT_EMPTY_PATH); }), 9);
    put_file("plain", "#!/bin/sh\n", 0644);
    fd = CHECK_OK(open("plain", O_RDONLY));
    CHECK_ERR(exec_at(fd, "", arguments, AT_EMPTY_PATH), EACCES);
    CHECK_ERR(exec_at(CHECK_OK(open(".", O_RDONLY)), "", arguments, AT_EMPTY_PATH), EACCES);
}

TEST(program_can_be_written_before_and_after) {
    enter_scratch();
    copy_self("program");
    CHECK_EXIT(CHILD({ execl("program", "program", "--helper", "exit_zero", NULL); }), 0);
    int fd = CHECK_OK(open("program", O_WRONLY));
    CHECK_ERR(execl("program", "program", "--helper", "exit_zero", NULL), ETXTBSY);
    CHECK_OK(close(fd));
    CHECK_EXIT(CHILD({ execl("program", "program", "--helper", "exit_zero", NULL); }), 0);
}
