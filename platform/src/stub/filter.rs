//! The seccomp filter of stub processes.
//!
//! Guest code traps: whatever it calls from outside the stub's text becomes SIGSYS, whose handler asks the kernel. The
//! stub's text may change its own address space and sleep; new threads, processes and file mappings are put to the
//! kernel, which answers only what it has itself just commanded. All else kills. A guest that jumps into the text gains
//! power over its own address space, which it has anyway.

use libc::sock_filter;

use super::layout::TEXT;

const LD: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const POINTER_LOW: u32 = 8;
const POINTER_HIGH: u32 = 12;
/// The low half of argument `index`.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LD, jt: 0, jf: 0, k: offset }
}

fn ret(action: u32) -> sock_filter {
    sock_filter { code: RET, jt: 0, jf: 0, k: action }
}

/// Skips `yes` instructions if the comparison holds, else `no`.
fn jump(code: u16, value: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code, jt: yes, jf: no, k: value }
}

/// The filter for a text of `length` bytes at [`TEXT`].
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "addresses are compared by halves"
)]
pub fn program(length: usize) -> Vec<sock_filter> {
    let low = TEXT as u32;
    let high = (TEXT >> 32) as u32;
    let mut program = vec![
        load(ARCH),
        jump(JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(TRAP),
        load(POINTER_HIGH),
        jump(JEQ, high, 1, 0),
        ret(TRAP),
        load(POINTER_LOW),
        // The pointer is that behind the instruction, so both ends are off by one in the same way.
        jump(JGE, low, 1, 0),
        ret(TRAP),
        jump(JGE, low + length as u32 + 1, 0, 1),
        ret(TRAP),
        load(NUMBER),
    ];
    let allowed = [
        libc::SYS_futex,
        libc::SYS_rt_sigreturn,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_close,
        libc::SYS_exit,
    ];
    for number in allowed {
        program.extend([jump(JEQ, number as u32, 0, 1), ret(ALLOW)]);
    }
    program.extend([
        jump(JEQ, libc::SYS_clone as u32, 0, 1),
        ret(USER_NOTIF),
        jump(JEQ, libc::SYS_mmap as u32, 1, 0),
        ret(KILL_PROCESS),
        // Memory without a file is the stub's own business: MAP_ANONYMOUS, and no descriptor.
        load(argument(3)),
        jump(JSET, libc::MAP_ANONYMOUS as u32, 1, 0),
        ret(USER_NOTIF),
        load(argument(4)),
        jump(JEQ, u32::MAX, 1, 0),
        ret(USER_NOTIF),
        ret(ALLOW),
    ]);
    program
}
