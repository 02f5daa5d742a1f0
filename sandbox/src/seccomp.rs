//! The system calls that the sandbox process may make, `seccomp(2)`: any other kills it.
//!
//! [`enter`] is called once nothing but serving guests is left to do, and before their first instruction. Whoever needs
//! one more call of the host adds a row to [`RULES`], with the reason; keep the arguments as narrow as the use is. What
//! the list must hold against is a kernel that a guest has taken over: it could still do what these rows say.
//!
//! A process that is killed here ends with SIGSYS, and the host's log (`dmesg`, `type=1326`) has the call's number.

use std::collections::BTreeMap;

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// A system call that may be made.
struct Rule {
    call: i64,
    arguments: Arguments,
    /// Who needs it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and checked by a test"))]
    why: &'static str,
}

/// With which arguments.
enum Arguments {
    Any,
    /// Those that fulfil all conditions of one of these lists.
    Only(&'static [&'static [Condition]]),
}

/// What the low 32 bits of an argument, counted from zero, must be like. All arguments here are numbers of that size:
/// the host itself does not look at the rest.
#[derive(Clone, Copy)]
enum Condition {
    Is(u8, u32),
    IsNot(u8, u32),
    /// The bits of the mask, which comes first, are these.
    Masked(u8, u32, u32),
}

use Condition::{Is, IsNot, Masked};

/// At least these bits are set.
const fn has(argument: u8, bits: u32) -> Condition {
    Masked(argument, bits, bits)
}

/// None of these bits is set.
const fn lacks(argument: u8, bits: u32) -> Condition {
    Masked(argument, bits, 0)
}

const fn rule(call: i64, why: &'static str) -> Rule {
    Rule { call, arguments: Arguments::Any, why }
}

const fn only(call: i64, alternatives: &'static [&'static [Condition]], why: &'static str) -> Rule {
    Rule { call, arguments: Arguments::Only(alternatives), why }
}

const FCHMODAT2: i64 = 452;
const EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();
const HERE: u32 = libc::AT_FDCWD.cast_unsigned();
/// What makes a new task a thread of this process.
const THREAD: u32 =
    (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD)
        .cast_unsigned();
/// What a thread must not have: namespaces of its own, or the caller's parent and tracer.
const NOT_OF_THREADS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE
    | libc::CLONE_PARENT
    | libc::CLONE_VFORK)
    .cast_unsigned();
const CREATE: u32 = (libc::O_CREAT | libc::O_EXCL).cast_unsigned();
const NO_FOLLOW: u32 = libc::O_NOFOLLOW.cast_unsigned();
const WRITING: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).cast_unsigned();

/// The list, by subject. `platform::stub::HOST_SYSCALLS` is where the rows of the platform come from.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    // Memory and threads. Code is never made: neither mmap nor mprotect gives the right to execute.
    rule(libc::SYS_brk, "C library: heap"),
    only(libc::SYS_mmap, &[&[lacks(2, EXECUTABLE)]], "C library: heap and stacks; platform: slots"),
    only(libc::SYS_mprotect, &[&[lacks(2, EXECUTABLE)]], "C library: heap and stacks"),
    rule(libc::SYS_munmap, "C library: heap and stacks; platform: slots"),
    rule(libc::SYS_mremap, "C library: realloc"),
    rule(libc::SYS_madvise, "C library: stacks of ended threads, trimming of the heap"),
    only(libc::SYS_clone, &[&[has(0, THREAD), lacks(0, NOT_OF_THREADS)]], "a thread for each guest thread"),
    rule(libc::SYS_exit, "the end of a thread"),
    rule(libc::SYS_exit_group, "the end of the sandbox"),
    rule(libc::SYS_futex, "locks; platform: taking turns with stubs"),
    rule(libc::SYS_rseq, "C library: start of a thread"),
    rule(libc::SYS_set_robust_list, "C library: start of a thread"),
    rule(libc::SYS_sigaltstack, "standard library: start and end of a thread"),
    rule(libc::SYS_gettid, "standard library: start of a thread; abort"),
    rule(libc::SYS_sched_getaffinity, "standard library: start of a thread; number of processors"),
    rule(libc::SYS_sched_setaffinity, "platform: where this thread runs, and where a stub wakes up"),
    rule(libc::SYS_sched_yield, "locks"),
    only(libc::SYS_prctl, &[
        &[Is(0, libc::PR_SET_NAME as u32)], // standard library: names of threads
    ], "threads"),

    // Signals of this process.
    rule(libc::SYS_rt_sigprocmask, "C library: start of a thread; abort"),
    rule(libc::SYS_rt_sigaction, "abort"),
    rule(libc::SYS_rt_sigreturn, "standard library: a fault that is not a stack's end"),
    rule(libc::SYS_restart_syscall, "any wait, after the process was stopped"),
    rule(libc::SYS_getpid, "abort"),
    rule(libc::SYS_tgkill, "platform: interrupts; abort"),

    // Stub processes. The pid namespace holds nothing but them.
    only(libc::SYS_tkill, &[&[Is(1, libc::SIGKILL.cast_unsigned())]], "platform: a stub that makes calls nobody asked for"),
    rule(libc::SYS_pidfd_open, "platform: a new stub"),
    rule(libc::SYS_pidfd_send_signal, "platform: the end of a stub"),
    rule(libc::SYS_waitid, "platform: the end of a stub"),
    rule(libc::SYS_process_vm_readv, "platform: guest memory"),
    rule(libc::SYS_process_vm_writev, "platform: guest memory"),
    only(libc::SYS_ioctl, &[
        &[Is(1, 0xc050_2100)], // SECCOMP_IOCTL_NOTIF_RECV: platform
        &[Is(1, 0xc018_2101)], // SECCOMP_IOCTL_NOTIF_SEND: platform
        &[Is(1, 0x4018_2103)], // SECCOMP_IOCTL_NOTIF_ADDFD: platform
        &[Is(1, libc::TCGETS as u32)], // isatty
        &[Is(1, libc::TCGETS2 as u32)], // a guest asks about the host's terminal
        &[Is(1, libc::TIOCGWINSZ as u32)], // the same, and the console
        &[Is(1, libc::FIONREAD as u32)], // a guest asks about the host's pipe
    ], "platform; host files"),

    // Waiting and time.
    rule(libc::SYS_poll, "host files, console; platform: notifications"),
    rule(libc::SYS_ppoll, "the same, by other C libraries"),
    rule(libc::SYS_epoll_ctl, "platform: the end of a stub"),
    rule(libc::SYS_epoll_wait, "platform: the end of a stub"),
    rule(libc::SYS_epoll_pwait, "the same, by other C libraries"),
    rule(libc::SYS_clock_nanosleep, "sleeping"),
    rule(libc::SYS_clock_gettime, "processor clocks, which the vDSO does not know"),
    rule(libc::SYS_membarrier, "platform: memory barriers of guests"),
    rule(libc::SYS_getcpu, "where the vDSO does not answer"),
    rule(libc::SYS_sysinfo, "memory and load, for guests that ask"),
    rule(libc::SYS_getrandom, "randomness, for guests and hash tables"),

    // Descriptors that this process holds.
    rule(libc::SYS_read, "host files, signals, streams"),
    rule(libc::SYS_write, "host files, streams; platform: the end of its threads"),
    rule(libc::SYS_pread64, "host files, memory files"),
    rule(libc::SYS_pwrite64, "host files, memory files"),
    rule(libc::SYS_lseek, "host files: their own offsets, SEEK_DATA, SEEK_HOLE"),
    rule(libc::SYS_close, "all"),
    rule(libc::SYS_dup, "a host file that is mounted by itself"),
    only(libc::SYS_fcntl, &[
        &[Is(1, libc::F_DUPFD_CLOEXEC as u32)], // copies of descriptors
        &[Is(1, libc::F_GETFD as u32)], // standard library: checks in debug builds
        &[Is(1, libc::F_GETFL as u32)], // host files; rewinding of directories
        &[Is(1, libc::F_SETFL as u32)], // host files that guests use without the kernel: O_APPEND
    ], "descriptors"),
    rule(libc::SYS_memfd_create, "memory files; platform: slots of a new stub"),
    rule(libc::SYS_ftruncate, "host files, memory files; platform: slots of a new stub"),
    rule(libc::SYS_fallocate, "host files, memory files"),
    rule(libc::SYS_fsync, "host files"),
    rule(libc::SYS_fstat, "host files, memory files"),
    rule(libc::SYS_fstatfs, "host files"),
    rule(libc::SYS_eventfd2, "platform: its service threads"),
    rule(libc::SYS_epoll_create1, "platform: its service threads"),

    // The control socket, whose connections this process only accepts, and links to stand-ins.
    rule(libc::SYS_accept4, "control socket"),
    rule(libc::SYS_recvfrom, "control socket, links"),

    // Files below the directories that this process was given. Its own root is empty, and everything refers to a
    // directory's descriptor; a file is never followed out of it by openat.
    only(libc::SYS_openat, &[
        &[IsNot(0, HERE), has(2, NO_FOLLOW)], // host files
        &[IsNot(0, HERE), has(2, CREATE)], // host volumes: a new file, which is no link
        &[IsNot(0, HERE), lacks(2, WRITING)], // platform: memory usage of a stub, below its procfs
    ], "host files; platform"),
    rule(libc::SYS_openat2, "host files"),
    only(libc::SYS_fanotify_init, &[&[Is(0, host::file::EVENT_GROUP)]], "host volumes: names of directories"),
    only(libc::SYS_fanotify_mark, &[&[Is(1, host::file::WATCH_NAMES), IsNot(3, HERE)]], "host volumes: names of directories"),
    // Made with each path that a guest uses. The host knows without a look at the list that a call may be made whatever
    // its arguments are; and nothing is to be seen in the empty root.
    rule(libc::SYS_statx, "host files"),
    only(libc::SYS_newfstatat, &[&[IsNot(0, HERE)]], "C library: fstat"),
    rule(libc::SYS_getdents64, "host files"),
    only(libc::SYS_readlinkat, &[&[IsNot(0, HERE)]], "host files"),
    only(libc::SYS_mkdirat, &[&[IsNot(0, HERE)]], "host volumes"),
    only(libc::SYS_mknodat, &[
        &[IsNot(0, HERE), Masked(2, libc::S_IFMT, libc::S_IFIFO)],
        &[IsNot(0, HERE), Masked(2, libc::S_IFMT, libc::S_IFSOCK)],
    ], "host volumes: pipes and sockets, but no devices"),
    only(libc::SYS_symlinkat, &[&[IsNot(1, HERE)]], "host volumes"),
    only(libc::SYS_linkat, &[&[IsNot(0, HERE), IsNot(2, HERE)]], "host volumes"),
    only(libc::SYS_unlinkat, &[&[IsNot(0, HERE)]], "host volumes"),
    only(libc::SYS_renameat2, &[&[IsNot(0, HERE), IsNot(2, HERE)]], "host volumes"),
    only(libc::SYS_fchownat, &[&[IsNot(0, HERE)]], "host volumes"),
    only(libc::SYS_fchmodat, &[&[IsNot(0, HERE)]], "host volumes"),
    only(libc::SYS_utimensat, &[&[IsNot(0, HERE)]], "host volumes"),
    only(FCHMODAT2, &[&[IsNot(0, HERE)]], "host volumes"),
    rule(libc::SYS_fchown, "host volumes: an open file without a name"),
    rule(libc::SYS_fchmod, "host volumes: an open file without a name"),
    rule(libc::SYS_pwritev2, "host volumes: appending"),
    rule(libc::SYS_fdatasync, "host volumes: O_DSYNC"),
    rule(libc::SYS_sendto, "control socket, links; gofer: requests"),
    rule(libc::SYS_sendmsg, "control socket; gofer: requests about directories that are held here"),
    rule(libc::SYS_recvmsg, "control socket: requests with descriptors; gofer: replies"),
    rule(libc::SYS_shutdown, "gofer: the end of a container"),
    rule(libc::SYS_geteuid, "gofer: whom files belong to that are made here"),
    rule(libc::SYS_getegid, "gofer: whom files belong to that are made here"),
    rule(libc::SYS_fgetxattr, "host files"),
    rule(libc::SYS_flistxattr, "host files"),
    rule(libc::SYS_fsetxattr, "host volumes"),
    rule(libc::SYS_fremovexattr, "host volumes"),
];

/// Shuts the process in, all threads of it. There is no way back.
///
/// # Errors
/// What the host says about it.
pub fn enter() -> anyhow::Result<()> {
    seccompiler::apply_filter_all_threads(&program()?).context("cannot restrict the process's system calls")
}

/// The list as a program for the host.
fn program() -> anyhow::Result<BpfProgram> {
    let rules: Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> =
        RULES.iter().map(|rule| Ok((rule.call, alternatives(&rule.arguments)?))).collect();
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules?, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?;
    let filter: BpfProgram = filter.try_into()?;
    // Two answers that are not simply yes or no come first. What `clone3` is asked for lies in memory, where nobody can
    // check it: the C library then uses `clone`. And a path from nowhere leads nowhere, since the root is empty; the C
    // library tries some and goes on without.
    let mut program = vec![load(NUMBER)];
    program.extend([unless_equal(libc::SYS_clone3 as u32, 1), answer(libc::ENOSYS)]);
    program.push(unless_equal(libc::SYS_openat as u32, 3));
    program.extend([load(FIRST_ARGUMENT), unless_equal(HERE, 1), answer(libc::ENOENT)]);
    program.extend(filter);
    Ok(program)
}

fn alternatives(arguments: &Arguments) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let Arguments::Only(lists) = arguments else { return Ok(Vec::new()) };
    let condition = |condition: &Condition| {
        let (argument, operator, value) = match *condition {
            Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            IsNot(argument, value) => (argument, SeccompCmpOp::Ne, value),
            Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask.into()), value),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    };
    lists.iter().map(|list| SeccompRule::new(list.iter().map(condition).collect::<Result<_, _>>()?)).collect()
}

/// Where `struct seccomp_data` has the call's number, and the low half of its first argument.
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = 16;

fn load(offset: u32) -> sock_filter {
    let code = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    sock_filter { code, jt: 0, jf: 0, k: offset }
}

/// Skips `count` instructions unless the value loaded last is `value`.
fn unless_equal(value: u32, count: u8) -> sock_filter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    sock_filter { code, jt: 0, jf: count, k: value }
}

/// Makes the call fail with an error number.
fn answer(error: i32) -> sock_filter {
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    sock_filter { code, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | error.cast_unsigned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    /// Calls that no list of a sandbox process may ever have.
    const NEVER: &[i64] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_clone3,
        libc::SYS_ptrace,
        libc::SYS_kill,
        libc::SYS_open,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_open_by_handle_at,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_iopl,
        libc::SYS_seccomp,
        libc::SYS_setuid,
        libc::SYS_capset,
    ];

    #[test]
    fn each_rule_has_a_reason_and_none_is_there_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in RULES {
            assert!(rule.why.len() > 2, "rule for call {} has no reason", rule.call);
            assert!(seen.insert(rule.call), "there are two rules for call {}", rule.call);
            assert!(!NEVER.contains(&rule.call), "call {} must not be allowed", rule.call);
        }
    }

    #[test]
    fn the_platform_gets_what_it_needs() {
        for call in platform::stub::HOST_SYSCALLS {
            assert!(RULES.iter().any(|rule| rule.call == *call), "call {call} is missing");
        }
    }

    /// What a process that has shut itself in tries.
    const ATTEMPTS: &[(&str, fn())] = &[
        ("nothing", || ()),
        ("a thread", || std::thread::spawn(|| ()).join().expect("it ends")),
        ("another program", || drop(Command::new("/bin/true").status())),
        ("a socket", || drop(std::net::UdpSocket::bind("127.0.0.1:0"))),
        ("a link", || drop(std::fs::hard_link("/a", "/b"))),
        ("a kill", || {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP);
        }),
        ("a call in another thread", || {
            let _ = std::thread::spawn(|| std::env::set_current_dir("/")).join();
        }),
    ];

    /// Not a test by itself: the part of the next one that runs in a process of its own.
    #[test]
    fn attempt() {
        let Ok(name) = std::env::var("NACELLE_TEST_ATTEMPT") else { return };
        // This one was there before, and must be shut in too.
        let (sender, receiver) = std::sync::mpsc::channel::<fn()>();
        let early = std::thread::spawn(move || receiver.recv().map(|attempt| attempt()));
        enter().expect("the host has seccomp");
        let (_, attempt) = ATTEMPTS.iter().find(|(known, _)| *known == name).expect("a known attempt");
        sender.send(*attempt).expect("it waits");
        let _ = early.join();
        assert!(std::fs::read("/etc/passwd").is_err(), "a file without a directory");
    }

    fn outcome(attempt: &str) -> ExitStatus {
        let own = std::env::current_exe().expect("a test has a program");
        Command::new(own)
            .args(["--exact", "seccomp::tests::attempt", "--test-threads=1"])
            .env("NACELLE_TEST_ATTEMPT", attempt)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .expect("the test runs")
    }

    #[test]
    fn any_other_call_kills_the_process() {
        const SIGSYS: i32 = 31;
        for (attempt, _) in ATTEMPTS {
            let allowed = matches!(*attempt, "nothing" | "a thread");
            let expected = if allowed { None } else { Some(SIGSYS) };
            let status = outcome(attempt);
            assert_eq!(status.signal(), expected, "{attempt}: {status}");
            assert!(!allowed || status.success(), "{attempt}: {status}");
        }
    }
}
