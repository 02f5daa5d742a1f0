//! The seccomp filter of stub processes.
//!
//! Who needs what, from inside the stub's text (everything outside of it traps, and so becomes an event):
//!
//! | call | why | answer |
//! |---|---|---|
//! | `futex` wait, wake (and their bitset forms) | waiting for the kernel | allow |
//! | `munmap`, `mprotect`, `mremap`, `madvise`, anonymous `mmap` | the guest's mappings | allow |
//! | `rt_sigreturn` | resuming guest code | allow |
//! | `exit` | the end of a thread | allow |
//! | `close` | an fd that was mapped | allow |
//! | `sched_yield` | the guest's own, from a patched call site | allow |
//! | `clock_gettime` of the thread's processor time | accounting | allow |
//! | `getrusage` of the process | the same | allow |
//! | `prctl(PR_SET_PDEATHSIG, SIGKILL)` | a stub never outlives the sandbox process | allow |
//! | `prctl(PR_SET_NAME)`, `prctl(PR_SET_MM, PR_SET_MM_MAP)` | the looks of the process in `/proc` | allow |
//! | private `mmap` of fd 0 | mapping a file that the kernel has handed over | allow |
//! | shared `mmap` of fd 29 | mapping a forked stub's slots | allow |
//! | any other `mmap` of an fd | being handed a file, shared mappings | ask the kernel |
//! | `pread64` of a resident file ([`super::resident`]) | reading it into guest memory | allow |
//! | `read`, `pread64`, `write`, `pwrite64`, `lseek` of a direct file ([`super::direct`]) | the guest's own | allow |
//! | `clone` | fork and threads | ask the kernel |
//! | anything else | nobody | kill the process |
//!
//! Fd 0 is a file that the kernel has had the stub map because the guest may read it, and which the kernel has open still; a
//! private mapping gives no more than that, whoever makes it. Fd 5 is there only in a stub that is being made, whose one thread
//! has not run guest code yet.

use libc::sock_filter;

use super::layout::{DIRECT, DIRECT_BOTH, DIRECT_READ, DIRECT_WRITE, FILES, PRELOADED, SLOTS_FILE};

const RET_ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const RET_TRAP: u32 = libc::SECCOMP_RET_TRAP;
const RET_NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const RET_KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// `AUDIT_ARCH_X86_64`.
pub const ARCHITECTURE: u32 = 0xc000_003e;
/// Numbers from here on are the x32 interface's.
const X32: u32 = 0x4000_0000;

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const POINTER: u32 = 8;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// A program under construction; every helper's `skip` counts instructions.
#[derive(Default)]
struct Program(Vec<sock_filter>);

impl Program {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.0.push(sock_filter { code, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, 0, 0, offset);
    }

    fn ret(&mut self, action: u32) {
        self.push(RETURN, 0, 0, action);
    }

    fn unless_equal(&mut self, value: u32, action: u32) {
        self.push(EQUAL, 1, 0, value);
        self.ret(action);
    }

    fn if_equal(&mut self, value: u32, action: u32) {
        self.push(EQUAL, 0, 1, value);
        self.ret(action);
    }

    fn if_at_least(&mut self, value: u32, action: u32) {
        self.push(AT_LEAST, 0, 1, value);
        self.ret(action);
    }

    fn unless_at_least(&mut self, value: u32, action: u32) {
        self.push(AT_LEAST, 1, 0, value);
        self.ret(action);
    }

    /// Allows a call whose first argument is one of these descriptors; anything else kills.
    fn only_files(&mut self, number: i64, files: std::ops::Range<u32>) {
        self.call(number, |rules| {
            rules.load(argument(0));
            rules.unless_at_least(files.start, RET_KILL);
            rules.if_at_least(files.end, RET_KILL);
            rules.ret(RET_ALLOW);
        });
    }

    /// The rules of one call, which must end in a `ret`.
    fn call(&mut self, number: i64, rules: impl FnOnce(&mut Program)) {
        let mut inner = Program::default();
        rules(&mut inner);
        let length = u8::try_from(inner.0.len()).expect("few rules for each call");
        self.push(EQUAL, 0, length, number as u32);
        self.0.append(&mut inner.0);
    }
}

/// The filter for stub text of `length` bytes at `text`, which must not cross a 4 GiB boundary.
pub fn program(text: u64, length: usize) -> Vec<sock_filter> {
    let (high, low) = ((text >> 32) as u32, text as u32);
    let mut program = Program::default();
    program.load(ARCH);
    program.unless_equal(ARCHITECTURE, RET_TRAP);
    program.load(POINTER + 4);
    program.unless_equal(high, RET_TRAP);
    program.load(POINTER);
    program.unless_at_least(low, RET_TRAP);
    program.if_at_least(low + length as u32, RET_TRAP);
    program.load(NUMBER);
    program.if_at_least(X32, RET_TRAP);
    program.if_equal(libc::SYS_rt_sigreturn as u32, RET_ALLOW);
    program.call(libc::SYS_futex, |rules| {
        rules.load(argument(1));
        rules.push(AND, 0, 0, !libc::FUTEX_PRIVATE_FLAG.cast_unsigned());
        for operation in
            [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE_BITSET]
        {
            rules.if_equal(operation.cast_unsigned(), RET_ALLOW);
        }
        rules.ret(RET_KILL);
    });
    program.only_files(libc::SYS_read, DIRECT_READ.start..DIRECT_BOTH.end);
    program.only_files(libc::SYS_pread64, FILES.start..DIRECT_BOTH.end);
    program.only_files(libc::SYS_write, DIRECT_BOTH.start..DIRECT_WRITE.end);
    program.only_files(libc::SYS_pwrite64, DIRECT_BOTH.start..DIRECT_WRITE.end);
    program.only_files(libc::SYS_lseek, DIRECT);
    program.call(libc::SYS_mmap, |rules| {
        rules.load(argument(3));
        rules.push(ANY_BIT, 0, 4, libc::MAP_ANONYMOUS.cast_unsigned());
        rules.load(argument(4));
        rules.if_equal(u32::MAX, RET_ALLOW);
        rules.ret(RET_NOTIFY);
        rules.push(AND, 0, 0, libc::MAP_TYPE.cast_unsigned());
        rules.push(EQUAL, 0, 8, libc::MAP_PRIVATE.cast_unsigned());
        rules.load(argument(4));
        rules.if_equal(0, RET_ALLOW);
        rules.unless_at_least(PRELOADED.start, RET_NOTIFY);
        rules.if_at_least(PRELOADED.end, RET_NOTIFY);
        rules.ret(RET_ALLOW);
        rules.push(EQUAL, 0, 3, libc::MAP_SHARED.cast_unsigned());
        rules.load(argument(4));
        rules.if_equal(SLOTS_FILE, RET_ALLOW);
        rules.ret(RET_NOTIFY);
    });
    for number in [
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_exit,
        libc::SYS_close,
        libc::SYS_sched_yield,
    ] {
        program.if_equal(number as u32, RET_ALLOW);
    }
    program.if_equal(libc::SYS_clone as u32, RET_NOTIFY);
    program.call(libc::SYS_getrusage, |rules| {
        rules.load(argument(0));
        rules.if_equal(libc::RUSAGE_SELF.cast_unsigned(), RET_ALLOW);
        rules.ret(RET_KILL);
    });
    program.call(libc::SYS_clock_gettime, |rules| {
        rules.load(argument(0));
        rules.if_equal(libc::CLOCK_THREAD_CPUTIME_ID.cast_unsigned(), RET_ALLOW);
        rules.ret(RET_KILL);
    });
    program.call(libc::SYS_prctl, |rules| {
        rules.load(argument(0) + 4);
        rules.unless_equal(0, RET_KILL);
        rules.load(argument(0));
        rules.if_equal(libc::PR_SET_NAME.cast_unsigned(), RET_ALLOW);
        rules.push(EQUAL, 0, 7, libc::PR_SET_MM.cast_unsigned());
        rules.load(argument(1) + 4);
        rules.unless_equal(0, RET_KILL);
        rules.load(argument(1));
        rules.if_equal(libc::PR_SET_MM_MAP.cast_unsigned(), RET_ALLOW);
        rules.ret(RET_KILL);
        rules.unless_equal(libc::PR_SET_PDEATHSIG.cast_unsigned(), RET_KILL);
        rules.load(argument(1) + 4);
        rules.unless_equal(0, RET_KILL);
        rules.load(argument(1));
        rules.if_equal(libc::SIGKILL.cast_unsigned(), RET_ALLOW);
        rules.ret(RET_KILL);
    });
    program.ret(RET_KILL);
    program.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u64 = 0x7ff1_0000_0000;

    /// Runs the filter the way the host does.
    fn verdict(arch: u32, pointer: u64, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = [0u32; 16];
        (data[0], data[1]) = (number as u32, arch);
        (data[2], data[3]) = (pointer as u32, (pointer >> 32) as u32);
        for (index, argument) in arguments.into_iter().enumerate() {
            data[4 + 2 * index] = argument as u32;
            data[5 + 2 * index] = (argument >> 32) as u32;
        }
        let program = program(TEXT, 0x300);
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let taken = match code {
                LOAD => {
                    accumulator = data[k as usize / 4];
                    continue;
                }
                AND => {
                    accumulator &= k;
                    continue;
                }
                RETURN => return k,
                EQUAL => accumulator == k,
                AT_LEAST => accumulator >= k,
                ANY_BIT => accumulator & k != 0,
                _ => panic!("unknown instruction"),
            };
            at += usize::from(if taken { jt } else { jf });
        }
    }

    #[test]
    fn calls_from_guest_code_trap() {
        for pointer in [0x40_0000, TEXT - 1, TEXT + 0x300, TEXT + (1 << 32), TEXT & 0xffff_ffff] {
            assert_eq!(verdict(ARCHITECTURE, pointer, libc::SYS_futex, [0; 6]), RET_TRAP, "{pointer:#x}");
            assert_eq!(verdict(ARCHITECTURE, pointer, libc::SYS_getpid, [0; 6]), RET_TRAP);
        }
        assert_eq!(verdict(0x4000_0003, TEXT + 5, libc::SYS_exit, [0; 6]), RET_TRAP);
        assert_eq!(verdict(ARCHITECTURE, TEXT + 5, i64::from(X32) + 1, [0; 6]), RET_TRAP);
    }

    #[test]
    fn the_stub_may_do_what_it_must() {
        let stub = |number, arguments| verdict(ARCHITECTURE, TEXT + 0x20, number, arguments);
        assert_eq!(stub(libc::SYS_rt_sigreturn, [0; 6]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_sched_yield, [0; 6]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_futex, [0, 128 | 9, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_futex, [0, 6, 0, 0, 0, 0]), RET_KILL);
        let anonymous = libc::MAP_ANONYMOUS as u64;
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 0, anonymous, u64::MAX, 0]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 0, anonymous, 0, 0]), RET_NOTIFY);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 0, 1, u64::MAX, 0]), RET_NOTIFY);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 0, 2, u64::MAX, 0]), RET_NOTIFY);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 5, 0x12, 0, 0]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 5, 0x12, 1, 0]), RET_NOTIFY);
        for number in FILES {
            let number = u64::from(number);
            assert_eq!(stub(libc::SYS_pread64, [number, 0, 0, 0, 0, 0]), RET_ALLOW);
            assert_eq!(stub(libc::SYS_mmap, [0, 0, 5, 0x12, number, 0]), RET_NOTIFY);
        }
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 3, 0x11, SLOTS_FILE.into(), 0]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 3, 0x12, SLOTS_FILE.into(), 0]), RET_NOTIFY);
        assert_eq!(stub(libc::SYS_mmap, [0, 0, 3, 0x13, SLOTS_FILE.into(), 0]), RET_NOTIFY);
        // What it was born with it may map privately, and that is all.
        for number in 0..100u64 {
            let born = PRELOADED.contains(&(number as u32));
            let (private, shared) = ([0, 0, 5, 0x12, number, 0], [0, 0, 3, 0x11, number, 0]);
            let allowed = if born || number == 0 { RET_ALLOW } else { RET_NOTIFY };
            assert_eq!(stub(libc::SYS_mmap, private), allowed, "{number}");
            assert!(!born || stub(libc::SYS_mmap, shared) == RET_NOTIFY);
            for call in
                [libc::SYS_read, libc::SYS_pread64, libc::SYS_write, libc::SYS_pwrite64, libc::SYS_lseek]
            {
                assert!(!born || stub(call, [number, 0, 0, 0, 0, 0]) == RET_KILL, "{call} {number}");
            }
        }
        for number in (0..DIRECT.end + 8).chain([u32::MAX]) {
            let (reads, writes) = (DIRECT_READ.start..DIRECT_BOTH.end, DIRECT_BOTH.start..DIRECT_WRITE.end);
            for (call, allowed) in [
                (libc::SYS_read, reads.contains(&number)),
                (libc::SYS_pread64, reads.contains(&number) || FILES.contains(&number)),
                (libc::SYS_write, writes.contains(&number)),
                (libc::SYS_pwrite64, writes.contains(&number)),
                (libc::SYS_lseek, DIRECT.contains(&number)),
                (libc::SYS_readv, false),
                (libc::SYS_writev, false),
                (libc::SYS_pwritev2, false),
                (libc::SYS_ftruncate, false),
                (libc::SYS_fcntl, false),
                (libc::SYS_ioctl, false),
                (libc::SYS_dup, false),
            ] {
                let expected = if allowed { RET_ALLOW } else { RET_KILL };
                assert_eq!(stub(call, [number.into(), 0, 0, 0, 0, 0]), expected, "{call} of {number}");
            }
        }
        for shared in [1, 3] {
            assert_eq!(stub(libc::SYS_mmap, [0, 0, 3, 0x10 | shared, 0, 0]), RET_NOTIFY);
        }
        assert_eq!(stub(libc::SYS_getrusage, [0; 6]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_getrusage, [libc::RUSAGE_CHILDREN as u64, 0, 0, 0, 0, 0]), RET_KILL);
        assert_eq!(stub(libc::SYS_clone, [0; 6]), RET_NOTIFY);
        assert_eq!(stub(libc::SYS_prctl, [1, 9, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_prctl, [1, 0, 0, 0, 0, 0]), RET_KILL);
        assert_eq!(stub(libc::SYS_prctl, [1, 9 | 1 << 32, 0, 0, 0, 0]), RET_KILL);
        assert_eq!(stub(libc::SYS_prctl, [15, TEXT, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(stub(libc::SYS_prctl, [35, 14, TEXT, 104, 0, 0]), RET_ALLOW);
        for other in [
            [35, 13, 0, 0, 0, 0],
            [35, 14 | 1 << 32, 0, 0, 0, 0],
            [35 | 1 << 32, 14, 0, 0, 0, 0],
            [38, 1, 0, 0, 0, 0],
        ] {
            assert_eq!(stub(libc::SYS_prctl, other), RET_KILL);
        }
        for number in [libc::SYS_openat, libc::SYS_execve, libc::SYS_clone3, libc::SYS_exit_group] {
            assert_eq!(stub(number, [0; 6]), RET_KILL);
        }
    }
}
