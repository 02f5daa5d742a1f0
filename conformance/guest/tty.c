/* Terminals: pseudo-terminal pairs, line disciplines, job control. */
#include "test.h"

#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;

static void open_pair(void) {
    CHECK_OK(openpty(&master, &slave, NULL, NULL, NULL));
}

static struct termios mode(void) {
    struct termios mode;
    CHECK_OK(tcgetattr(slave, &mode));
    return mode;
}

static void set_mode(struct termios mode) {
    CHECK_OK(tcsetattr(slave, TCSANOW, &mode));
}

static void clear_local(tcflag_t flags) {
    struct termios changed = mode();
    changed.c_lflag &= ~flags;
    set_mode(changed);
}

static void put(int fd, const char *text) {
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
}

/* Reads the text, which may come in pieces, and nothing behind it. */
#define CHECK_READ(fd, expected)                                                                                       \
    do {                                                                                                               \
        char read_text[256] = {0};                                                                                     \
        size_t read_length = 0;                                                                                        \
        while (read_length < strlen(expected)) {                                                                       \
            ssize_t read_count = CHECK_OK(read(fd, read_text + read_length, sizeof read_text - 1 - read_length));      \
            CHECK(read_count > 0);                                                                                     \
            read_length += read_count;                                                                                 \
        }                                                                                                              \
        CHECK_STR(read_text, expected);                                                                                \
    } while (0)

static void check_nothing(int fd) {
    struct pollfd wait = {fd, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 20), 0);
}

TEST(pair_by_hand) {
    int fd = CHECK_OK(open("/dev/ptmx", O_RDWR | O_NOCTTY)), number = -1, lock = 1;
    char path[64], name[64];
    CHECK_OK(ioctl(fd, TIOCGPTN, &number));
    CHECK(number >= 0);
    snprintf(path, sizeof path, "/dev/pts/%d", number);
    CHECK_EQ(ptsname_r(fd, name, sizeof name), 0);
    CHECK_STR(name, path);
    CHECK_ERR(open(path, O_RDWR | O_NOCTTY), EIO);
    lock = 0;
    CHECK_OK(ioctl(fd, TIOCSPTLCK, &lock));
    int other = CHECK_OK(open(path, O_RDWR | O_NOCTTY));
    CHECK(isatty(other) && isatty(fd));
    struct stat status;
    CHECK_OK(fstat(other, &status));
    CHECK(S_ISCHR(status.st_mode));
    CHECK_EQ(status.st_rdev >> 8, 136);
    CHECK_STR(ttyname(other), path);
    int peer = CHECK_OK(ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY));
    CHECK(isatty(peer));
}

TEST(default_mode) {
    open_pair();
    struct termios now = mode();
    CHECK_EQ(now.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), ICANON | ECHO | ISIG | IEXTEN);
    CHECK_EQ(now.c_iflag & (ICRNL | IXON), ICRNL | IXON);
    CHECK_EQ(now.c_oflag & (OPOST | ONLCR), OPOST | ONLCR);
    CHECK_EQ(now.c_cc[VINTR], 3);
    CHECK_EQ(now.c_cc[VEOF], 4);
    CHECK_EQ(now.c_cc[VERASE], 0x7f);
    CHECK_EQ(cfgetospeed(&now), B38400);
}

TEST(canonical_input_comes_by_lines) {
    open_pair();
    clear_local(ECHO);
    put(master, "part");
    check_nothing(slave);
    put(master, "ial\nnext\n");
    CHECK_READ(slave, "partial\n");
    CHECK_READ(slave, "next\n");
}

TEST(short_reads_leave_the_rest_of_the_line) {
    open_pair();
    clear_local(ECHO);
    char text[4] = {0};
    put(master, "abcdef\n");
    CHECK_EQ(read(slave, text, 3), 3);
    CHECK_STR(text, "abc");
    CHECK_READ(slave, "def\n");
}

TEST(canonical_editing) {
    open_pair();
    clear_local(ECHO);
    put(master, "abx\177c\n");
    CHECK_READ(slave, "abc\n");
    put(master, "wrong\025right\n");
    CHECK_READ(slave, "right\n");
    put(master, "one two\027three\n");
    CHECK_READ(slave, "one three\n");
    put(master, "a\026\003b\n");
    CHECK_READ(slave, "a\003b\n");
}

TEST(end_of_file_character) {
    open_pair();
    clear_local(ECHO);
    put(master, "text\004");
    CHECK_READ(slave, "text");
    put(master, "\004");
    char byte;
    CHECK_EQ(read(slave, &byte, 1), 0);
    put(master, "more\n");
    CHECK_READ(slave, "more\n");
}

TEST(carriage_return_becomes_newline) {
    open_pair();
    clear_local(ECHO);
    put(master, "line\r");
    CHECK_READ(slave, "line\n");
    struct termios changed = mode();
    changed.c_iflag |= IGNCR;
    set_mode(changed);
    put(master, "a\rb\n");
    CHECK_READ(slave, "ab\n");
}

TEST(echo) {
    open_pair();
    put(master, "hi\n");
    CHECK_READ(master, "hi\r\n");
    put(master, "\001");
    CHECK_READ(master, "^A");
    put(master, "x");
    CHECK_READ(master, "x");
    put(master, "\177");
    CHECK_READ(master, "\b \b");
    clear_local(ECHO);
    put(master, "silent\n");
    check_nothing(master);
}

TEST(output_processing) {
    open_pair();
    put(slave, "a\nb");
    CHECK_READ(master, "a\r\nb");
    struct termios changed = mode();
    changed.c_oflag &= ~OPOST;
    set_mode(changed);
    put(slave, "a\nb");
    CHECK_READ(master, "a\nb");
}

TEST(raw_mode) {
    open_pair();
    struct termios raw = mode();
    cfmakeraw(&raw);
    set_mode(raw);
    put(master, "\003\004\r\n\177");
    CHECK_READ(slave, "\003\004\r\n\177");
    check_nothing(master);
    put(slave, "\n");
    CHECK_READ(master, "\n");
}

TEST(raw_minimum_and_time) {
    open_pair();
    struct termios raw = mode();
    cfmakeraw(&raw);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    set_mode(raw);
    char text[8];
    CHECK_EQ(read(slave, text, 8), 0);
    raw.c_cc[VTIME] = 1;
    set_mode(raw);
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(read(slave, text, 8), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 90000000);
    raw.c_cc[VMIN] = 3;
    raw.c_cc[VTIME] = 0;
    set_mode(raw);
    pid_t pid = CHILD({
        put(master, "a");
        settle();
        put(master, "bc");
    });
    CHECK_EQ(read(slave, text, 8), 3);
    CHECK_EXIT(pid, 0);
}

TEST(nonblocking_read) {
    open_pair();
    char byte;
    CHECK_OK(fcntl(slave, F_SETFL, O_RDWR | O_NONBLOCK));
    CHECK_ERR(read(slave, &byte, 1), EAGAIN);
    CHECK_OK(fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK));
    CHECK_ERR(read(master, &byte, 1), EAGAIN);
}

TEST(poll_and_fionread) {
    open_pair();
    clear_local(ECHO);
    int available = -1;
    put(master, "line\n");
    struct pollfd wait = {slave, POLLIN | POLLOUT, 0};
    CHECK_EQ(poll(&wait, 1, 1000), 1);
    CHECK_EQ(wait.revents, POLLIN | POLLOUT);
    CHECK_OK(ioctl(slave, FIONREAD, &available));
    CHECK_EQ(available, 5);
    CHECK_OK(tcflush(slave, TCIFLUSH));
    check_nothing(slave);
    put(slave, "xyz");
    settle();
    CHECK_OK(ioctl(master, FIONREAD, &available));
    CHECK_EQ(available, 3);
}

TEST(hangup_of_the_master) {
    open_pair();
    close(master);
    char byte;
    CHECK_EQ(read(slave, &byte, 1), 0);
    CHECK_ERR(write(slave, "x", 1), EIO);
    struct pollfd wait = {slave, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK(wait.revents & POLLHUP);
}

TEST(last_close_of_the_slave) {
    open_pair();
    put(slave, "last words");
    close(slave);
    CHECK_READ(master, "last words");
    char byte;
    CHECK_ERR(read(master, &byte, 1), EIO);
    struct pollfd wait = {master, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK(wait.revents & POLLHUP);
}

TEST(window_size) {
    open_pair();
    struct winsize size = {50, 132, 1, 2}, seen;
    CHECK_OK(ioctl(master, TIOCSWINSZ, &size));
    CHECK_OK(ioctl(slave, TIOCGWINSZ, &seen));
    CHECK_EQ(seen.ws_row, 50);
    CHECK_EQ(seen.ws_col, 132);
}

TEST(tcsetattr_flush_drops_input) {
    open_pair();
    clear_local(ECHO);
    put(master, "dropped\n");
    settle();
    struct termios same = mode();
    CHECK_OK(tcsetattr(slave, TCSAFLUSH, &same));
    put(master, "kept\n");
    CHECK_READ(slave, "kept\n");
}

TEST(not_a_terminal) {
    int ends[2];
    struct termios unused;
    CHECK_OK(pipe(ends));
    CHECK_ERR(tcgetattr(ends[0], &unused), ENOTTY);
    CHECK_ERR(ioctl(ends[0], TIOCGWINSZ, &unused), ENOTTY);
    CHECK(!isatty(ends[0]));
    open_pair();
    CHECK_ERR(ioctl(slave, 0x54ff, &unused), ENOTTY);
    CHECK_ERR(lseek(slave, 0, SEEK_SET), ESPIPE);
}

/* --- sessions and jobs --- */

/* Runs the block as the leader of a new session whose terminal is the pair's slave. */
#define WITH_TERMINAL(...)                                                                                             \
    do {                                                                                                               \
        open_pair();                                                                                                   \
        CHECK_EXIT(CHILD({                                                                                             \
                       CHECK_OK(setsid());                                                                             \
                       CHECK_OK(ioctl(slave, TIOCSCTTY, 0));                                                           \
                       signal(SIGHUP, SIG_IGN);                                                                        \
                       __VA_ARGS__;                                                                                    \
                   }),                                                                                                 \
                   0);                                                                                                 \
    } while (0)

TEST(controlling_terminal) {
    CHECK_EXIT(CHILD({
                   CHECK_OK(setsid());
                   CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
               }),
               0);
    WITH_TERMINAL({
        int fd = CHECK_OK(open("/dev/tty", O_RDWR));
        put(fd, "hello");
        CHECK_READ(master, "hello");
        CHECK_EQ(tcgetpgrp(slave), getpgrp());
        CHECK_EQ(tcgetsid(slave), getsid(0));
        CHECK_OK(ioctl(fd, TIOCNOTTY));
        CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
    });
}

TEST(opening_a_terminal_makes_it_controlling) {
    open_pair();
    char *name = ttyname(slave);
    CHECK(name);
    CHECK_EXIT(CHILD({
                   CHECK_OK(setsid());
                   CHECK_OK(open(name, O_RDWR | O_NOCTTY));
                   CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
                   CHECK_OK(open(name, O_RDWR));
                   CHECK_OK(open("/dev/tty", O_RDWR));
               }),
               0);
}

TEST(tiocsctty_needs_a_session_leader) {
    open_pair();
    CHECK_EXIT(CHILD({ CHECK_ERR(ioctl(slave, TIOCSCTTY, 0), EPERM); }), 0);
}

TEST(interrupt_characters_send_signals) {
    static const struct {
        const char *character;
        int signal;
        const char *echo;
    } pairs[] = {{"\003", SIGINT, "^C"}, {"\034", SIGQUIT, "^\\"}, {"\032", SIGTSTP, "^Z"}};
    WITH_TERMINAL({
        for (int index = 0; index < 3; index++) {
            sigset_t set = SIGNALS(pairs[index].signal);
            block_signals(set);
            put(master, pairs[index].character);
            CHECK_EQ(sigwaitinfo(&set, NULL), pairs[index].signal);
            /* The next one throws away what has not arrived. */
            CHECK_READ(master, pairs[index].echo);
        }
    });
}

TEST(signals_go_to_the_foreground_group) {
    WITH_TERMINAL({
        struct gate ready = gate_new();
        signal(SIGTTOU, SIG_IGN);
        pid_t pid = CHILD({
            gate_open(&ready);
            pause();
        });
        gate_wait(&ready);
        CHECK_OK(setpgid(pid, pid));
        CHECK_OK(tcsetpgrp(slave, pid));
        CHECK_EQ(tcgetpgrp(slave), pid);
        put(master, "\003");
        CHECK_KILLED(pid, SIGINT);
    });
}

TEST(background_read_stops) {
    WITH_TERMINAL({
        pid_t pid = CHILD({
            char byte;
            setpgid(0, 0);
            CHECK_EQ(read(slave, &byte, 1), 1);
        });
        setpgid(pid, pid);
        int status;
        CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
        CHECK(WIFSTOPPED(status));
        CHECK_EQ(WSTOPSIG(status), SIGTTIN);
        CHECK_OK(tcsetpgrp(slave, pid));
        CHECK_OK(kill(pid, SIGCONT));
        put(master, "x\n");
        CHECK_EXIT(pid, 0);
    });
}

TEST(background_read_with_the_signal_ignored_is_eio) {
    WITH_TERMINAL({
        CHECK_EXIT(CHILD({
                       char byte;
                       setpgid(0, 0);
                       signal(SIGTTIN, SIG_IGN);
                       CHECK_ERR(read(slave, &byte, 1), EIO);
                   }),
                   0);
    });
}

TEST(background_write_stops_with_tostop) {
    WITH_TERMINAL({
        CHECK_EXIT(CHILD({
                       setpgid(0, 0);
                       put(slave, "fine");
                   }),
                   0);
        struct termios changed = mode();
        changed.c_lflag |= TOSTOP;
        set_mode(changed);
        pid_t pid = CHILD({
            setpgid(0, 0);
            put(slave, "stopped");
        });
        setpgid(pid, pid);
        int status;
        CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
        CHECK(WIFSTOPPED(status));
        CHECK_EQ(WSTOPSIG(status), SIGTTOU);
        CHECK_OK(kill(pid, SIGKILL));
        CHECK_KILLED(pid, SIGKILL);
    });
}

TEST(background_tcsetattr_stops) {
    WITH_TERMINAL({
        pid_t pid = CHILD({
            setpgid(0, 0);
            set_mode(mode());
        });
        setpgid(pid, pid);
        int status;
        CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
        CHECK_EQ(WSTOPSIG(status), SIGTTOU);
        CHECK_OK(kill(pid, SIGKILL));
        CHECK_KILLED(pid, SIGKILL);
    });
}

TEST(window_change_sends_sigwinch) {
    WITH_TERMINAL({
        sigset_t set = SIGNALS(SIGWINCH);
        block_signals(set);
        struct winsize size = {40, 90, 0, 0};
        CHECK_OK(ioctl(master, TIOCSWINSZ, &size));
        CHECK_EQ(sigwaitinfo(&set, NULL), SIGWINCH);
        /* No change, no signal. */
        CHECK_OK(ioctl(master, TIOCSWINSZ, &size));
        CHECK_ERR(sigtimedwait(&set, NULL, &(struct timespec){0, 20000000}), EAGAIN);
    });
}

TEST(hangup_sends_sighup_to_the_leader) {
    open_pair();
    struct gate ready = gate_new();
    pid_t pid = CHILD({
        close(master);
        CHECK_OK(setsid());
        CHECK_OK(ioctl(slave, TIOCSCTTY, 0));
        gate_open(&ready);
        for (;;) {
            pause();
        }
    });
    gate_wait(&ready);
    close(master);
    CHECK_KILLED(pid, SIGHUP);
}

TEST(leader_exit_after_a_hangup_hangs_up_the_former_foreground_group) {
    open_pair();
    struct gate hung_up = gate_new(), ready = gate_new();
    pid_t leader = CHILD({
        close(master);
        CHECK_OK(setsid());
        CHECK_OK(ioctl(slave, TIOCSCTTY, 0));
        CHILD({
            setpgid(0, 0);
            signal(SIGTTOU, SIG_IGN);
            CHECK_OK(tcsetpgrp(slave, getpid()));
            sigset_t set = SIGNALS(SIGHUP);
            block_signals(set);
            gate_open(&ready);
            CHECK_EQ(sigwaitinfo(&set, NULL), SIGHUP);
            gate_open(&hung_up);
        });
        for (;;) {
            pause();
        }
    });
    gate_wait(&ready);
    close(master);
    CHECK_KILLED(leader, SIGHUP);
    gate_wait(&hung_up);
}

TEST(leader_exit_hangs_up_the_foreground_group) {
    open_pair();
    struct gate hung_up = gate_new(), ready = gate_new();
    pid_t leader = CHILD({
        CHECK_OK(setsid());
        CHECK_OK(ioctl(slave, TIOCSCTTY, 0));
        CHILD({
            sigset_t set = SIGNALS(SIGHUP);
            block_signals(set);
            gate_open(&ready);
            CHECK_EQ(sigwaitinfo(&set, NULL), SIGHUP);
            gate_open(&hung_up);
        });
        gate_wait(&ready);
    });
    CHECK_EXIT(leader, 0);
    gate_wait(&hung_up);
    CHECK_EQ(write(slave, "x", 1), 1);
}

TEST(tcsetpgrp_errors) {
    WITH_TERMINAL({
        CHECK_ERR(tcsetpgrp(slave, -1), EINVAL);
        CHECK_ERR(tcsetpgrp(slave, 0x3fffffff), ESRCH);
        CHECK_ERR(tcsetpgrp(slave, getpgid(getppid())), EPERM);
    });
}

TEST(packet_mode) {
    open_pair();
    int on = 1;
    char text[8];
    CHECK_OK(ioctl(master, TIOCPKT, &on));
    put(slave, "ab");
    CHECK_EQ(read(master, text, sizeof text), 3);
    CHECK_EQ(text[0], TIOCPKT_DATA);
    CHECK(!memcmp(text + 1, "ab", 2));
    CHECK_OK(tcflush(slave, TCOFLUSH));
    CHECK_EQ(read(master, text, sizeof text), 1);
    CHECK_EQ(text[0] & TIOCPKT_FLUSHWRITE, TIOCPKT_FLUSHWRITE);
}

TEST(software_flow_control) {
    open_pair();
    clear_local(ECHO);
    put(master, "\023");
    CHECK_OK(fcntl(slave, F_SETFL, O_RDWR | O_NONBLOCK));
    settle();
    CHECK_ERR(write(slave, "x", 1), EAGAIN);
    put(master, "\021");
    settle();
    CHECK_EQ(write(slave, "x", 1), 1);
    CHECK_READ(master, "x");
}
