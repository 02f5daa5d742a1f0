//! Filters of system calls, `seccomp(2)`: classic BPF, what a filter sees, what it may answer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct sock_filter`: one instruction of classic BPF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SockFilter {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if a condition holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `struct sock_fprog`: a program in a guest's memory.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SockProgram {
    /// How many instructions there are.
    pub length: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// Where they are.
    pub filter: u64,
}

/// `struct seccomp_data`: what a filter sees of a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SeccompData {
    /// The system call's number.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    /// Behind the instruction.
    pub instruction_pointer: u64,
    /// The arguments.
    pub arguments: [u64; 6],
}

/// `AUDIT_ARCH_X86_64`
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// `SECCOMP_RET_KILL_PROCESS`
pub const RET_KILL_PROCESS: u32 = 0x8000_0000;
/// `SECCOMP_RET_KILL_THREAD`
pub const RET_KILL_THREAD: u32 = 0;
/// `SECCOMP_RET_TRAP`
pub const RET_TRAP: u32 = 0x0003_0000;
/// `SECCOMP_RET_ERRNO`
pub const RET_ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_USER_NOTIF`
pub const RET_USER_NOTIF: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_TRACE`
pub const RET_TRACE: u32 = 0x7ff0_0000;
/// `SECCOMP_RET_LOG`
pub const RET_LOG: u32 = 0x7ffc_0000;
/// `SECCOMP_RET_ALLOW`
pub const RET_ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ACTION_FULL`: the part of an answer that says what is done.
pub const RET_ACTION: u32 = 0xffff_0000;
/// `SECCOMP_RET_DATA`: the rest.
pub const RET_DATA: u32 = 0x0000_ffff;
