//! The general registers of a guest thread (x86-64).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// General registers in the order and size of `struct user_regs_struct`, as `ptrace(2)` and core files have them.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call that the thread is in; `u64::MAX` outside of one.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// The user code segment of 64-bit Linux.
pub const USER_CS: u64 = 0x33;
/// The user data and stack segment of 64-bit Linux.
pub const USER_SS: u64 = 0x2b;
/// `EFLAGS` bits that a guest may set through a signal frame or `ptrace(2)`.
pub const USER_EFLAGS: u64 = 0x0005_0dd5;

impl Registers {
    /// The state in which a program starts: everything zero but segments and flags.
    pub fn initial() -> Registers {
        Registers { cs: USER_CS, ss: USER_SS, eflags: 0x202, orig_rax: u64::MAX, ..Registers::default() }
    }

    /// The six arguments of a system call.
    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}
