//! Where things lie: the platform's addresses in every stub, and the fields of a slot.
//!
//! ```text
//! 0x0000_0001_0000                       trampolines of patched call sites in programs that lie low
//! 0x0000_0002_0000 .. 0x7ff0_0000_0000   the guest's
//! 0x7ff0_0000_0000                       trampolines of patched call sites in libraries
//! 0x7ff1_0000_0000                       stub text
//! 0x7ff2_0000_0000                       slots, 128 KiB each, one per thread
//! 0x7ff3_0000_0000                       vDSO and its data pages
//! ```
//!
//! A slot is found from any address in it by masking, which is how the signal handler finds it from its stack. The
//! word at offset zero says whose turn it is. Both sides look at it while they spin, so patched calls and returns from them write
//! what lies within 64 bytes of it only if it changes. Everything else in the slot is the turn owner's to use, but for the buffer while a copy is made, when each
//! side keeps to its part of it. All of it can be written by guest code at any time: the kernel copies a field once and then
//! checks it.

use std::ops::Range;
use std::time::Duration;

/// The numbers of descriptors that a stub may read files by. Zero is that of a file that is being mapped.
pub const FILES: Range<u32> = 1..5;
/// The numbers of open files that guest threads may use by themselves: those that they may only read,
pub const DIRECT_READ: Range<u32> = 5..13;
/// those that they may read and write,
pub const DIRECT_BOTH: Range<u32> = 13..21;
/// and those that they may only write. They follow each other, so that either right is one range.
pub const DIRECT_WRITE: Range<u32> = 21..29;
/// All of them.
pub const DIRECT: Range<u32> = DIRECT_READ.start..DIRECT_WRITE.end;

/// The number of the descriptor that a forked stub maps its slots by, before it does anything else.
pub const SLOTS_FILE: u32 = DIRECT.end;

/// The numbers of files that a stub may map privately, and has from the beginning.
pub const PRELOADED: Range<u32> = SLOTS_FILE + 1..SLOTS_FILE + 9;

/// The addresses that guest mappings may use.
pub const GUEST: Range<u64> = 0x2_0000..0x7ff0_0000_0000;
/// Where trampolines lie: within reach of a jump of programs that are linked to a low address, and of what is mapped
/// right below the stack.
pub const TRAMPOLINES: [u64; 2] = [0x1_0000, 0x7ff0_0000_0000];
/// Bytes of each of the two areas.
pub const TRAMPOLINES_SIZE: u64 = 0x1_0000;
/// Where the stub's code lies.
pub const TEXT: u64 = 0x7ff1_0000_0000;
/// Where the slots lie.
pub const SLOTS: u64 = 0x7ff2_0000_0000;
/// Where the vDSO is moved to, with its data pages.
pub const VDSO: u64 = 0x7ff3_0000_0000;
/// All that is the platform's, at the upper end.
pub const PLATFORM: Range<u64> = GUEST.end..VDSO + 0x1_0000_0000;
/// The first address that no user mapping can have.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// The size of a page.
pub const PAGE: u64 = 4096;

/// Bytes of a slot; slots are aligned to it.
pub const SLOT_SIZE: usize = 0x2_0000;
/// Threads that one address space can have.
pub const SLOT_COUNT: usize = 8192;
/// Bytes of all slots of an address space.
pub const SLOTS_SIZE: usize = SLOT_SIZE * SLOT_COUNT;

/// Whose turn it is: one of `TURN_*`.
pub const WORD: usize = 0x00;
/// Nonzero while the kernel thread sleeps on `WORD`.
pub const KERNEL_WAITS: usize = 0x04;
/// Nonzero while the stub thread sleeps on `WORD`.
pub const STUB_WAITS: usize = 0x08;
/// The processor that the kernel thread ran on last.
pub const KERNEL_CPU: usize = 0x0c;
/// The processor that the stub thread ran on last.
pub const STUB_CPU: usize = 0x10;
/// For how many ticks of the time-stamp counter the stub may spin for the next command; zero forbids it, even to one
/// that has begun.
pub const SPIN: usize = 0x14;
/// How often who spins looks at the word before it looks at the time.
pub const LOOKS: usize = 4;
/// What the stub reports: one of `KIND_*`.
pub const KIND: usize = 0x18;
/// The signal's number, for `KIND_SIGNAL`.
pub const SIGNAL: usize = 0x1c;
/// Address of the `ucontext` of the frame that the guest's registers are in; the kernel sets it for `COMMAND_RESUME`.
pub const UCONTEXT: usize = 0x20;
/// Address of the `siginfo` of that frame.
pub const SIGINFO: usize = 0x28;
/// The FS base, which signal frames lack.
pub const FS_BASE: usize = 0x30;
/// The GS base.
pub const GS_BASE: usize = 0x38;
/// What the kernel wants: one of `COMMAND_*`.
pub const COMMAND: usize = 0x40;
/// How many records `COMMAND_CALLS` has in the buffer.
pub const COUNT: usize = 0x44;
/// How many bytes at the beginning of the buffer the stub copies to guest memory before it obeys.
pub const DELIVERY: usize = 0x48;
/// How many records there are in the buffer of calls that the stub makes before it obeys. Right behind [`DELIVERY`], with which it
/// is looked at.
pub const PENDING: usize = 0x4c;
/// Where to [`DELIVERY`] goes.
pub const DELIVERY_ADDRESS: usize = 0x50;
/// Arguments of the command.
pub const ARGUMENTS: usize = 0x58;
/// The command's result.
pub const RESULT: usize = 0x88;
/// When the stub was woken last for a turn of its own, in ticks of the time-stamp counter.
pub const WOKEN: usize = 0x90;
/// When the stub reported last to a kernel thread that slept.
pub const REPORTED: usize = 0x98;
/// [`MAGIC_VALUE`] where the GS base points to a slot whose thread may use patched call sites.
pub const MAGIC: usize = 0xa0;
/// Set by the signal handler when an interrupt has come while the stub, not the guest, was running.
pub const INTERRUPTED: usize = 0xa4;
/// The guest's registers in a patched call: the flags as `lahf; seto al` leave them,
pub const FAST_FLAGS: usize = 0xa8;
/// the number, later the result,
pub const FAST_RAX: usize = 0xb0;
/// where to return to,
pub const FAST_RIP: usize = 0xb8;
/// and the others but for those that a system call destroys.
pub const FAST_RSP: usize = 0xc0;
pub const FAST_RDI: usize = 0xc8;
pub const FAST_RSI: usize = 0xd0;
pub const FAST_RDX: usize = 0xd8;
pub const FAST_R10: usize = 0xe0;
pub const FAST_R8: usize = 0xe8;
pub const FAST_R9: usize = 0xf0;
pub const FAST_RBX: usize = 0xf8;
pub const FAST_RBP: usize = 0x100;
pub const FAST_R12: usize = 0x108;
pub const FAST_R13: usize = 0x110;
pub const FAST_R14: usize = 0x118;
pub const FAST_R15: usize = 0x120;
/// How many bytes the stub has sent along with a patched call: all of `SENT_SIZE`, all that the third argument says, or none.
pub const SENT: usize = 0x128;
/// What it has sent along: the beginning of the guest memory that an argument points to.
pub const SENT_BYTES: usize = 0x130;
/// Bytes of it.
pub const SENT_SIZE: usize = crate::SENT_MAX;
/// For each call number below [`POINTER_COUNT`] a byte that says which argument that is: an eighth of the offset of its
/// `FAST_*` field, or of [`ROBUST_LIST`]; zero for none. With [`SENT_ALL`], all that it points to is sent, in the buffer, if it
/// is not more than [`SENT_ALL_MAX`]; the third argument says how much it is.
pub const POINTERS: usize = 0xc00;
/// See [`POINTERS`].
pub const SENT_ALL: u8 = 0x80;
/// See [`POINTERS`]: not memory is sent, but the FPU state, which is saved at [`BUILT_FPU`].
pub const SENT_STATE: u8 = 0x40;
/// See [`POINTERS`]: to copy more than that twice costs more than to wait.
pub const SENT_ALL_MAX: usize = 16 << 10;
/// How many call numbers can have one.
pub const POINTER_COUNT: usize = 512;
/// For each call number below [`ANSWER_COUNT`] what the stub returns by itself, plus one; zero for nothing.
pub const ANSWERS: usize = 0x800;
/// How many call numbers can have such an answer.
pub const ANSWER_COUNT: usize = 256;
/// The signals, from bit zero, whose action is all zero,
pub const PRISTINE: usize = 0x170;
/// those of which only the restorer is not, namely [`RESTORER`],
pub const RESTORED: usize = 0x178;
/// and those that may come from the former to the latter without the kernel.
pub const SETTABLE: usize = 0x180;
/// See [`RESTORED`].
pub const RESTORER: usize = 0x188;
/// Nonzero while the guest may change what follows, and what else is its own, without the kernel.
pub const OWN: usize = 0x1a0;
/// The signal mask: bit zero is signal 1.
pub const MASK: usize = 0x1a8;
/// The head of the robust list.
pub const ROBUST_LIST: usize = 0x1b0;
/// The calls on files that the thread may make by itself, a bit for each number.
pub const ALLOWED: usize = 0x1b8;
/// The number of the file that the thread is using by itself, or is about to; zero for none.
pub const HAZARD: usize = 0x1bc;
/// In the first slot, for all threads: the files that guests may use by themselves. An entry is the guest's descriptor in
/// 32 bits, the stub's in eight, and from bit [`ENTRY_CALLS`] on a bit for each call that may be made on it. That of a
/// descriptor lies at its number modulo [`ENTRIES`].
pub const TABLE: usize = 0xe00;
/// How many entries there are.
pub const ENTRIES: usize = 64;
/// See [`TABLE`].
pub const ENTRY_CALLS: u32 = 40;
/// Calls that read: `read`, `lseek`, `pread64`.
pub const READING: u32 = 1 << libc::SYS_read | 1 << libc::SYS_lseek | 1 << libc::SYS_pread64;
/// Calls that write: `write`, `lseek`, `pwrite64`.
pub const WRITING: u32 = 1 << libc::SYS_write | 1 << libc::SYS_lseek | 1 << libc::SYS_pwrite64;
/// The most bytes that guests read or write by themselves at a time: while that lasts, they cannot be interrupted.
pub const DIRECT_MAX: usize = 4 << 20;
/// The components of the FPU state that are saved for [`SENT_STATE`].
pub const FEATURES: usize = 0x1c0;
/// Where a thread that is used again tells how much processor time it has used before, as `struct timespec`.
pub const CLOCK: usize = 0x1c8;
/// For how many ticks of the time-stamp counter `futex(2)` may watch a word before it waits for it. The stub sets it to zero
/// when it has watched in vain.
pub const WATCH: usize = 0x1d8;
/// How much of that lies between two looks: two to the power of minus this.
pub const WATCH_SHIFT: u32 = 5;
/// How often it has not been in vain.
pub const WATCHED: usize = 0x1dc;
/// Who waits no longer than that does not watch.
pub const WATCH_SHORT: Duration = Duration::from_micros(100);
/// In the first slot, for all threads: how many threads wait, or are about to, for words of the process's own memory, in
/// [`WAITERS_COUNT`] groups. See [`waiters`].
pub const WAITERS: usize = 0x400;
/// How many groups there are.
pub const WAITERS_COUNT: usize = 256;
/// The group of an address is its lower half times this, modulo 2³², shifted right by [`WAITERS_SHIFT`].
pub const WAITERS_FACTOR: u32 = 0x9e37_79b1;
/// See [`WAITERS_FACTOR`].
pub const WAITERS_SHIFT: u32 = 32 - WAITERS_COUNT.ilog2();
/// See [`MAGIC`]. No address, no small number.
pub const MAGIC_VALUE: u32 = 0xb5c3_97e1;

/// A frame that the kernel builds: the `ucontext` here, the FPU state at `BUILT_FPU`.
pub const BUILT_UCONTEXT: usize = 0x1000;
/// The FPU state of a built frame.
pub const BUILT_FPU: usize = 0x1400;
/// The longest FPU state that fits.
pub const BUILT_FPU_MAX: usize = SIGNAL_STACK - BUILT_FPU;
/// The signal stack's lowest byte.
pub const SIGNAL_STACK: usize = 0x5000;
/// The end of the signal stack.
pub const SIGNAL_STACK_END: usize = 0x1_0000;
/// The data buffer.
pub const BUFFER: usize = 0x1_0000;
/// The data buffer's size.
pub const BUFFER_SIZE: usize = 0x1_0000;

/// The stub runs, be it guest code.
pub const TURN_RUN: u32 = 0;
/// The stub has reported something and waits.
pub const TURN_REQUEST: u32 = 1;
/// The kernel has put a command.
pub const TURN_COMMAND: u32 = 2;
/// The process is gone; written by the kernel only, to wake its own threads.
pub const TURN_DEAD: u32 = 3;

/// A signal handler has caught the guest.
pub const KIND_SIGNAL: u32 = 1;
/// A command has been carried out.
pub const KIND_DONE: u32 = 2;
/// A patched call site has been called: the registers are in the `FAST_*` fields, the FPU state is the thread's own.
pub const KIND_CALL: u32 = 3;
/// An interrupt came before a resumption was complete; nothing has changed.
pub const KIND_INTERRUPTED: u32 = 4;
/// A call has been made without the kernel, and an interrupt came: the registers are as for `KIND_CALL`, with the result.
pub const KIND_ANSWERED: u32 = 5;

/// Return to guest code by `rt_sigreturn` of the frame at `UCONTEXT`.
pub const COMMAND_RESUME: u32 = 1;
/// Make the system calls in the buffer, `COUNT` records of `CALL_SIZE` bytes: number, six arguments, flags.
pub const COMMAND_CALLS: u32 = 2;
/// Compare and exchange: address, expected, new.
pub const COMMAND_EXCHANGE: u32 = 3;
/// Make a copy of the process; it maps its own slots before it reports.
pub const COMMAND_FORK: u32 = 4;
/// Start a thread on the slot that the stack pointer in the first argument lies in.
pub const COMMAND_SPAWN: u32 = 5;
/// End this thread.
pub const COMMAND_EXIT: u32 = 6;
/// Return to guest code from a patched call, with the registers in the `FAST_*` fields.
pub const COMMAND_RETURN: u32 = 7;
/// Run into a signal, so that the FPU state of a thread in a patched call is in a frame.
pub const COMMAND_MATERIALISE: u32 = 8;
/// Copy guest memory to the buffer: the guest's address, the buffer's, the length. The result is how many bytes could be
/// copied.
pub const COMMAND_COPY_IN: u32 = 9;
/// Copy the buffer to guest memory: the same arguments and result.
pub const COMMAND_COPY_OUT: u32 = 10;
/// [`COMMAND_RETURN`] with another FS base, from `FS_BASE`.
pub const COMMAND_RETURN_FS: u32 = 11;

const _: () = assert!(ROBUST_LIST.is_multiple_of(8) && ROBUST_LIST / 8 < SENT_STATE as usize);
const _: () = assert!(BUILT_FPU.is_multiple_of(64));
const _: () = assert!(TABLE == POINTERS + POINTER_COUNT && TABLE + 8 * ENTRIES <= BUILT_UCONTEXT);
const _: () = assert!(DIRECT.end < 256 && ENTRIES.is_power_of_two());
const _: () = assert!(WATCHED + 4 <= WAITERS && WAITERS + 4 * WAITERS_COUNT <= ANSWERS);
const _: () = assert!(PENDING == DELIVERY + 4 && DELIVERY.is_multiple_of(8));

/// Size of a record for `COMMAND_CALLS`.
pub const CALL_SIZE: usize = 64;
/// Flag of a record: made even after another has failed, and its own failure does not count.
pub const CALL_ALWAYS: u64 = 1;
/// Flag of a record: no call, but a copy of memory: to the first argument, from the second, of so many bytes.
pub const CALL_COPY: u64 = 2;

/// The signal that brings a running guest back. Not a real-time signal, so that several become one.
pub const INTERRUPT_SIGNAL: i32 = libc::SIGUSR1;

/// The address in the stub of slot `index`.
pub fn slot_address(index: usize) -> u64 {
    SLOTS + (index * SLOT_SIZE) as u64
}

/// Where in the first slot it stands how many threads wait for words of the group of `address`.
pub fn waiters(address: u64) -> usize {
    WAITERS + 4 * ((address as u32).wrapping_mul(WAITERS_FACTOR) >> WAITERS_SHIFT) as usize
}

/// The initial stack pointer of a thread that starts on slot `index`.
pub fn slot_stack(index: usize) -> u64 {
    slot_address(index) + SIGNAL_STACK_END as u64 - 64
}
