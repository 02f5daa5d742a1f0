//! The mailbox: what lies where in a slot, and how the kernel reads and writes it.
//!
//! A slot is memory that the stub process shares with the kernel's, one per guest thread. Guest code can write to all
//! of it at any time: the kernel copies each field once and then checks the copy. All accesses are volatile or atomic
//! and within the slot's bounds, so whatever a guest puts there is only ever a wrong number.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::registers::{Registers, USER_CS, USER_EFLAGS, USER_SS};

/// Everything from here on belongs to the platform. Below the lowest address at which the host starts to place
/// mappings (randomised by up to 1 TiB), so that nothing of the process that forks the zygote can be in the way.
pub const GUEST_END: u64 = 0x7d00_0000_0000;
/// Where the stub's code lies.
pub const TEXT: u64 = 0x7d00_0000_0000;
/// Where the slots lie.
pub const REGION: u64 = 0x7d01_0000_0000;
/// Bytes per slot; a power of two, so that a stack pointer leads to its slot.
pub const SLOT: u64 = 0x2_0000;
/// Slots per address space, and so its largest number of threads.
pub const SLOTS: u64 = 8192;
/// Bytes of all slots of an address space.
pub const REGION_SIZE: u64 = SLOT * SLOTS;

/// The word that says whose turn it is.
pub const STATE: usize = 0;
/// Set while the kernel sleeps on the state word.
pub const KERNEL_SLEEPS: usize = 4;
/// Set while the stub sleeps on the state word.
pub const STUB_SLEEPS: usize = 8;
/// How many times the stub may look at the state word before it sleeps.
pub const STUB_SPIN: usize = 12;
/// The processor that the stub last ran on.
pub const STUB_CPU: usize = 16;
/// What the kernel wants.
pub const COMMAND: usize = 20;
/// The signal of the event.
pub const SIGNAL: usize = 24;
/// Address of the event's `siginfo_t`.
pub const SIGINFO: usize = 32;
/// Address of the event's `ucontext_t`; also where `Resume` takes it from.
pub const UCONTEXT: usize = 40;
/// The guest's FS base.
pub const FS_BASE: usize = 48;
/// The guest's GS base.
pub const GS_BASE: usize = 56;
/// Six arguments and the number of a single system call, then its result.
pub const CALL: usize = 64;
/// The result of a command.
pub const RESULT: usize = 128;
/// How many calls of a batch are to be made; how many were made.
pub const COUNT: usize = 136;
/// The slot of a new thread, or zero in the case of a new process.
pub const NEW_SLOT: usize = 144;
/// From here to the end of the page: kept for patched call sites and answers in the stub.
pub const RESERVED: usize = 512;
/// Start of the data buffer.
pub const BUFFER: usize = 0x1000;
/// Length of the data buffer.
pub const BUFFER_SIZE: usize = 0x1_0000;
/// Start of the signal stack, which reaches to the end of the slot.
pub const STACK: usize = BUFFER + BUFFER_SIZE;

/// The guest runs.
pub const RUN: u32 = 0;
/// The stub waits for a command.
pub const REQUEST: u32 = 1;
/// The stub has a command.
pub const COMMANDED: u32 = 2;
/// The thread is about to end and will not touch its slot again.
pub const GONE: u32 = 3;

/// Return to the guest.
pub const RESUME: u32 = 1;
/// Make the calls in the buffer.
pub const CALLS: u32 = 2;
/// Make a new thread or process.
pub const CLONE: u32 = 3;
/// Compare and exchange a word of guest memory.
pub const EXCHANGE: u32 = 4;
/// End the thread.
pub const EXIT: u32 = 5;

/// Bytes of a call in a batch: number and six arguments.
pub const CALL_SIZE: usize = 56;

// Offsets in `ucontext_t` as the host lays it on a signal stack.
const UC_FLAGS: usize = 0;
const UC_STACK: usize = 16;
const UC_REGISTERS: usize = 40;
const UC_FPSTATE: usize = UC_REGISTERS + 23 * 8;
const UC_MASK: usize = UC_FPSTATE + 8 + 64;
/// Bytes of a `ucontext_t`.
pub const UC_SIZE: usize = UC_MASK + 8;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`
const UC_FLAGS_VALUE: u64 = 7;

/// Where the kernel puts a frame that it makes itself, and the FPU state of it (64-byte aligned).
const NEW_FRAME: usize = STACK + 0x2000;
const NEW_FPU: usize = STACK + 0x3000;
/// The most bytes of FPU state that are kept.
pub const FPU_MAX: usize = 0x3000;
const FPU_LEGACY: usize = 512;
/// `FP_XSTATE_MAGIC1` and its place.
const MAGIC1: u32 = 0x4650_5853;
const MAGIC1_AT: usize = 464;

/// The order of the general registers in a `ucontext_t`, but for the last: `cs`, `gs`, `fs`, `ss` in one word.
fn general(registers: &Registers) -> [u64; 18] {
    let r = registers;
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip, r.eflags,
    ]
}

/// The kernel's view of one slot.
pub struct Slot {
    base: *mut u8,
    /// The slot's address in the stub.
    pub address: u64,
}

// SAFETY: the memory is shared with another process anyway; every access is atomic or volatile.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// The slot whose memory is mapped at `base`.
    ///
    /// # Safety
    /// `SLOT` bytes from `base` on stay mapped, readable and writable, until the slot is dropped.
    pub unsafe fn new(base: *mut u8, address: u64) -> Slot {
        Slot { base, address }
    }

    /// Where the slot is mapped in this process.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// A 32-bit word of the control block.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset < RESERVED && offset % 4 == 0);
        // SAFETY: within the slot, aligned; the memory outlives `self`.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    /// Copies out of the slot.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) {
        assert!(offset.checked_add(buffer.len()).is_some_and(|end| end <= SLOT as usize));
        // SAFETY: in bounds by the assertion. A concurrent write by the guest gives wrong bytes, nothing else: the
        // copy is opaque to the compiler as far as the source is foreign memory.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.add(offset).cast_const(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
    }

    /// Copies into the slot.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= SLOT as usize));
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len()) };
    }

    /// The 64-bit word at `offset`.
    pub fn get(&self, offset: usize) -> u64 {
        assert!(offset % 8 == 0 && offset + 8 <= SLOT as usize);
        // SAFETY: in bounds and aligned.
        unsafe { self.base.add(offset).cast::<u64>().read_volatile() }
    }

    /// Sets the 64-bit word at `offset`.
    pub fn set(&self, offset: usize, value: u64) {
        assert!(offset % 8 == 0 && offset + 8 <= SLOT as usize);
        // SAFETY: in bounds and aligned.
        unsafe { self.base.add(offset).cast::<u64>().write_volatile(value) };
    }

    /// Where in the slot the `length` bytes at the stub's `address` lie, if they lie on the signal stack.
    pub fn on_stack(&self, address: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let inside = offset >= STACK && offset.checked_add(length)? <= SLOT as usize;
        (inside && offset % 8 == 0).then_some(offset)
    }

    /// The registers in the frame at `frame`, with `fs_base` and `gs_base` from the control block.
    pub fn registers(&self, frame: usize) -> Registers {
        let mut words = [0u64; 20];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.get(frame + UC_REGISTERS + index * 8);
        }
        let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags, _, _] =
            words;
        let initial = Registers::initial();
        Registers {
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rdi,
            rsi,
            rbp,
            rbx,
            rdx,
            rax,
            rcx,
            rsp,
            rip,
            eflags,
            fs_base: self.get(FS_BASE),
            gs_base: self.get(GS_BASE),
            ..initial
        }
    }

    /// The exception's number, error code and address in the frame at `frame`.
    pub fn exception(&self, frame: usize) -> (u64, u64, u64) {
        let at = |index: usize| self.get(frame + UC_REGISTERS + index * 8);
        (at(20), at(19), at(22))
    }

    /// Writes registers to the frame at `frame`, so that a resume loads them.
    pub fn set_registers(&self, frame: usize, registers: &Registers) {
        for (index, word) in general(registers).into_iter().enumerate() {
            self.set(frame + UC_REGISTERS + index * 8, word);
        }
        let eflags = (registers.eflags & USER_EFLAGS) | 0x202;
        self.set(frame + UC_REGISTERS + 17 * 8, eflags);
        self.set(frame + UC_REGISTERS + 18 * 8, USER_CS | USER_SS << 48);
        self.set(frame + UC_MASK, 0);
        self.set(frame + UC_FLAGS, UC_FLAGS_VALUE);
        self.set(UCONTEXT, self.address + frame as u64);
        self.set(FS_BASE, registers.fs_base);
        self.set(GS_BASE, registers.gs_base);
    }

    /// Makes a frame in a slot whose thread has not run: registers are still to be set. Returns where it is.
    pub fn make_frame(&self, fpu: Option<&[u8]>) -> usize {
        self.write(NEW_FRAME, &[0; UC_SIZE]);
        self.set(NEW_FRAME + UC_FLAGS, UC_FLAGS_VALUE);
        self.set(NEW_FRAME + UC_STACK, self.address + STACK as u64);
        self.set(NEW_FRAME + UC_STACK + 16, SLOT - STACK as u64);
        self.put_fpu(NEW_FRAME, fpu);
        NEW_FRAME
    }

    /// The FPU state of the frame at `frame`; `None` for the initial one.
    pub fn fpu(&self, frame: usize) -> Option<Vec<u8>> {
        let address = self.get(frame + UC_FPSTATE);
        let offset = self.on_stack(address, FPU_LEGACY)?;
        let mut software = [0; 48];
        self.read(offset + MAGIC1_AT, &mut software);
        let size = u32::from_ne_bytes([software[4], software[5], software[6], software[7]]) as usize;
        let extended = software[..4] == MAGIC1.to_ne_bytes() && size > FPU_LEGACY && size <= FPU_MAX;
        let length = if extended && self.on_stack(address, size).is_some() { size } else { FPU_LEGACY };
        let mut state = vec![0; length];
        self.read(offset, &mut state);
        Some(state)
    }

    /// Makes `state` the FPU state of the frame at `frame`; `None` for the initial one. The processor or the host's
    /// kernel checks what it loads: bits that it would refuse are cleared here.
    pub fn put_fpu(&self, frame: usize, state: Option<&[u8]>) {
        const MXCSR: usize = 24;
        const HEADER: usize = 512;
        let Some(state) = state.filter(|state| state.len() >= FPU_LEGACY) else {
            self.set(frame + UC_FPSTATE, 0);
            return;
        };
        let mut state = state[..state.len().min(FPU_MAX)].to_vec();
        let mxcsr = u32::from_ne_bytes([state[MXCSR], state[25], state[26], state[27]]) & 0xffff;
        state[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_ne_bytes());
        if state.len() >= HEADER + 64 {
            // XCOMP_BV and the reserved bytes of the XSAVE header must be zero.
            state[HEADER + 8..HEADER + 64].fill(0);
        } else {
            state[MAGIC1_AT..MAGIC1_AT + 48].fill(0);
        }
        self.write(NEW_FPU, &state);
        self.set(frame + UC_FPSTATE, self.address + NEW_FPU as u64);
    }

    /// Hands the slot to the other side and wakes it if it sleeps.
    pub fn command(&self, command: u32, wake: impl FnOnce(&AtomicU32)) {
        self.word(COMMAND).store(command, Ordering::Relaxed);
        self.word(STATE).store(COMMANDED, Ordering::SeqCst);
        if self.word(STUB_SLEEPS).load(Ordering::SeqCst) != 0 {
            wake(self.word(STATE));
        }
    }
}
