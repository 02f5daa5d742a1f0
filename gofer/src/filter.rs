//! The system calls that a gofer may make. Any other kills it.

use std::collections::BTreeMap;

use host::mount::Ties;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::connect::Sockets;
use crate::mounts::{Error, failed};

/// What is allowed whatever its arguments are, and who needs it.
const ALLOWED: &[(i64, &str)] = &[
    (libc::SYS_recvmsg, "requests"),
    (libc::SYS_sendmsg, "replies with descriptors"),
    (libc::SYS_sendto, "replies"),
    (libc::SYS_openat, "creation of regular files"),
    (libc::SYS_openat2, "opening below a directory"),
    (libc::SYS_close, "everything that was opened"),
    (libc::SYS_statx, "attributes"),
    (libc::SYS_fstat, "the type of what was opened"),
    (libc::SYS_newfstatat, "the type of what was opened, by newer libraries"),
    (libc::SYS_fstatfs, "statistics"),
    (libc::SYS_mkdirat, "creation of directories"),
    (libc::SYS_mknodat, "creation of FIFOs, sockets, devices"),
    (libc::SYS_symlinkat, "creation of links"),
    (libc::SYS_linkat, "further names"),
    (libc::SYS_unlinkat, "removal"),
    (libc::SYS_renameat2, "renames"),
    (libc::SYS_readlinkat, "targets of links"),
    (libc::SYS_fchownat, "owners"),
    (libc::SYS_fchmodat, "modes, before Linux 6.6"),
    (452, "modes (fchmodat2)"),
    (libc::SYS_utimensat, "times"),
    (libc::SYS_ftruncate, "sizes"),
    (libc::SYS_fgetxattr, "extended attributes"),
    (libc::SYS_fsetxattr, "extended attributes"),
    (libc::SYS_flistxattr, "extended attributes"),
    (libc::SYS_fremovexattr, "extended attributes"),
    (libc::SYS_getdents64, "lists of names"),
    (libc::SYS_lseek, "lists of names, from a cookie on"),
    (libc::SYS_fsync, "synchronisation"),
    (libc::SYS_futex, "locks, and the wait for the threads' ends"),
    (libc::SYS_sched_yield, "locks"),
    (libc::SYS_brk, "the allocator"),
    (libc::SYS_munmap, "the allocator, and the stacks of threads that end"),
    (libc::SYS_madvise, "the allocator, and the stacks of threads that end"),
    (libc::SYS_sigaltstack, "the end of threads"),
    (libc::SYS_rt_sigprocmask, "the end of threads"),
    (libc::SYS_exit, "the end of threads"),
    (libc::SYS_exit_group, "the end of the process"),
];

/// `fcntl` only to duplicate a descriptor or look at its flags.
const F_GETFD: u64 = 1;
const F_DUPFD_CLOEXEC: u64 = 1030;

fn program(sockets: Sockets, ties: Ties) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    use SeccompCmpArgLen::Dword;
    use SeccompCmpOp::{Eq, MaskedEq};
    let rule = |argument, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, Dword, operator, value)?])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|(number, _)| (*number, Vec::new())).collect();
    rules.insert(libc::SYS_fcntl, vec![rule(1, Eq, F_GETFD)?, rule(1, Eq, F_DUPFD_CLOEXEC)?]);
    // Memory, but never code.
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(number, vec![rule(2, MaskedEq(executable), 0)?]);
    }
    rules.insert(libc::SYS_mremap, Vec::new());
    // What a panic says goes to standard error.
    rules.insert(libc::SYS_write, vec![rule(0, Eq, 2)?]);
    if sockets == Sockets::Connect {
        rules.insert(libc::SYS_socket, vec![rule(0, Eq, libc::AF_UNIX as u64)?]);
        rules.insert(libc::SYS_connect, Vec::new());
        rules.insert(libc::SYS_getsockopt, vec![rule(2, Eq, libc::SO_PEERCRED as u64)?]);
        // A connection is made as the guest's user.
        for number in [libc::SYS_getuid, libc::SYS_getgid, libc::SYS_setresuid, libc::SYS_setresgid] {
            rules.insert(number, Vec::new());
        }
    }
    if ties == Ties::Following {
        // What the host has mounted meanwhile is read in `mountinfo`.
        rules.insert(libc::SYS_pread64, Vec::new());
    }
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, target)?.try_into()
}

/// Confines all threads of the process.
pub fn confine(sockets: Sockets, ties: Ties) -> Result<(), Error> {
    let program = program(sockets, ties)
        .map_err(|error| failed("build the seccomp filter")(std::io::Error::other(error)))?;
    seccompiler::apply_filter_all_threads(&program)
        .map_err(|error| failed("install the seccomp filter")(std::io::Error::other(error)))
}
