//! The signal frame that holds a stopped guest's registers and FPU state, `struct ucontext` of x86-64.

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::*;
use super::slot::Slot;
use crate::Registers;

/// Offset in `struct ucontext` of the registers.
const SIGCONTEXT: usize = 40;
/// Offset of the guest's `rbx`.
pub const RBX: usize = SIGCONTEXT + 88;
/// Offset of the guest's instruction pointer.
pub const RIP: usize = SIGCONTEXT + 128;
/// Offset of the signal mask.
const SIGNAL_MASK: usize = 296;
/// How much of the frame the kernel reads.
pub const UCONTEXT_SIZE: usize = 304;
/// Offset in `struct sigcontext` of the pointer to the FPU state.
const FPU_POINTER: usize = 184;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 7;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Bytes of the legacy area of `XSAVE`.
const FXSAVE_SIZE: usize = 512;
/// The shortest extended state: legacy area and header.
const XSAVE_MIN: usize = FXSAVE_SIZE + 64;
/// Where the host describes the state in the legacy area: `struct _fpx_sw_bytes`.
const SOFTWARE: usize = 464;

/// `struct sigcontext` up to the FPU pointer.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sigcontext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    eflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
}

/// What a frame says beyond the registers.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// The processor's error code.
    pub error: u64,
    /// The exception number.
    pub number: u64,
}

/// Reads the registers of the frame at `offset` (checked by [`Slot::offset_of`] with [`UCONTEXT_SIZE`]).
pub fn load(slot: &Slot, offset: usize, registers: &mut Registers) -> Trap {
    let mut context = Sigcontext::default();
    slot.memory().read(offset + SIGCONTEXT, context.as_mut_bytes());
    *registers = Registers {
        r15: context.r15,
        r14: context.r14,
        r13: context.r13,
        r12: context.r12,
        rbp: context.rbp,
        rbx: context.rbx,
        r11: context.r11,
        r10: context.r10,
        r9: context.r9,
        r8: context.r8,
        rax: context.rax,
        rcx: context.rcx,
        rdx: context.rdx,
        rsi: context.rsi,
        rdi: context.rdi,
        orig_rax: u64::MAX,
        rip: context.rip,
        cs: context.cs.into(),
        eflags: context.eflags,
        rsp: context.rsp,
        ss: context.ss.into(),
        fs_base: slot.memory().load(FS_BASE),
        gs_base: guests_gs(slot),
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
    };
    let tail = offset + SIGCONTEXT + size_of::<Sigcontext>();
    Trap { error: slot.memory().load(tail), number: slot.memory().load(tail + 8) }
}

/// Puts the registers in the frame at `offset`, and an empty signal mask, so that the interrupt gets through.
pub fn store(slot: &Slot, offset: usize, registers: &Registers) {
    let context = Sigcontext {
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rdi: registers.rdi,
        rsi: registers.rsi,
        rbp: registers.rbp,
        rbx: registers.rbx,
        rdx: registers.rdx,
        rax: registers.rax,
        rcx: registers.rcx,
        rsp: registers.rsp,
        rip: registers.rip,
        eflags: registers.eflags,
        cs: registers.cs as u16,
        gs: 0,
        fs: 0,
        ss: registers.ss as u16,
    };
    slot.memory().write(offset + SIGCONTEXT, context.as_bytes());
    slot.memory().store(offset + SIGNAL_MASK, 0);
    slot.memory().store(FS_BASE, canonical(registers.fs_base));
    slot.memory().store(GS_BASE, hosts_gs(slot, registers.gs_base));
}

/// Reads the registers of a thread in a patched call. A system call leaves return address and flags in `rcx` and `r11`.
/// The direction flag is taken to be clear, as it is in all code that follows the ABI.
pub fn load_call(slot: &Slot, registers: &mut Registers) {
    let load = |offset| slot.memory().load(offset);
    let saved = slot.field(FAST_FLAGS).load(Ordering::Relaxed);
    let eflags = 0x202 | u64::from(saved >> 8 & 0xd5) | u64::from(saved & 1) << 11;
    *registers = Registers {
        r15: load(FAST_R15),
        r14: load(FAST_R14),
        r13: load(FAST_R13),
        r12: load(FAST_R12),
        rbp: load(FAST_RBP),
        rbx: load(FAST_RBX),
        r11: eflags,
        r10: load(FAST_R10),
        r9: load(FAST_R9),
        r8: load(FAST_R8),
        rax: load(FAST_RAX),
        rcx: load(FAST_RIP),
        rdx: load(FAST_RDX),
        rsi: load(FAST_RSI),
        rdi: load(FAST_RDI),
        rip: load(FAST_RIP),
        eflags,
        rsp: load(FAST_RSP),
        fs_base: load(FS_BASE),
        ..Registers::initial()
    };
}

/// The command that returns from a patched call with these registers, given what [`load_call`] has returned; `None` if they are
/// such that only a signal frame can restore them.
pub fn return_command(registers: &Registers, loaded: &Registers) -> Option<u32> {
    let fixed = |registers: &Registers| {
        let &Registers { rcx, r11, eflags, cs, ss, gs_base, .. } = registers;
        [rcx, r11, eflags, cs, ss, gs_base]
    };
    let same_fs = registers.fs_base == loaded.fs_base;
    (fixed(registers) == fixed(loaded)).then_some(if same_fs { COMMAND_RETURN } else { COMMAND_RETURN_FS })
}

/// Puts the registers where that command takes them from. Of most calls, all but the result is there.
pub fn store_call(slot: &Slot, registers: &Registers, command: u32) {
    let store = |offset, value| slot.set_long(offset, value);
    store(FAST_R15, registers.r15);
    store(FAST_R14, registers.r14);
    store(FAST_R13, registers.r13);
    store(FAST_R12, registers.r12);
    store(FAST_RBP, registers.rbp);
    store(FAST_RBX, registers.rbx);
    store(FAST_R10, registers.r10);
    store(FAST_R9, registers.r9);
    store(FAST_R8, registers.r8);
    store(FAST_RAX, registers.rax);
    store(FAST_RDX, registers.rdx);
    store(FAST_RSI, registers.rsi);
    store(FAST_RDI, registers.rdi);
    store(FAST_RIP, registers.rip);
    store(FAST_RSP, registers.rsp);
    if command == COMMAND_RETURN_FS {
        store(FS_BASE, canonical(registers.fs_base));
    }
}

/// Puts in `to` what [`store_call`] takes to be there.
pub fn copy_call(from: &Slot, to: &Slot) {
    to.field(FAST_FLAGS).store(from.field(FAST_FLAGS).load(Ordering::Relaxed), Ordering::Relaxed);
    [FS_BASE, GS_BASE].iter().for_each(|base| to.memory().store(*base, from.memory().load(*base)));
}

/// The GS base of a thread is its slot's address while the guest has none of its own: patched calls find the slot by it.
fn hosts_gs(slot: &Slot, guests: u64) -> u64 {
    let patched = slot.field(MAGIC).load(Ordering::Relaxed) == MAGIC_VALUE;
    if guests == 0 && patched { slot_address(slot.index) } else { canonical(guests) }
}

fn guests_gs(slot: &Slot) -> u64 {
    let base = slot.memory().load(GS_BASE);
    if base == slot_address(slot.index) { 0 } else { base }
}

/// A segment base that the processor accepts: bits 48 and up repeat bit 47. Guests can set any such base themselves.
fn canonical(base: u64) -> u64 {
    if (base.cast_signed() << 16 >> 16).cast_unsigned() == base { base } else { 0 }
}

/// Builds a frame in the slot with the given FPU state (as [`fpu`] returns it); returns its offset. The registers are
/// left to [`store`].
pub fn build(slot: &Slot, fpu: &[u8]) -> usize {
    let base = slot_address(slot.index);
    let mut context = [0u8; UCONTEXT_SIZE];
    let mut put = |offset: usize, value: u64| {
        context[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
    };
    put(0, UC_FLAGS);
    put(16, base + SIGNAL_STACK as u64);
    put(32, (SIGNAL_STACK_END - SIGNAL_STACK) as u64);
    put(SIGCONTEXT + FPU_POINTER, base + BUILT_FPU as u64);
    slot.memory().write(BUILT_UCONTEXT, &context);
    let length = fpu.len().min(BUILT_FPU_MAX);
    slot.memory().write(BUILT_FPU, &fpu[..length]);
    BUILT_UCONTEXT
}

/// The FPU state of the frame at `offset`: legacy area, header and components in the non-compacted layout, with the
/// host's software bytes, followed by the magic number that ends it. `None` if the frame was tampered with.
pub fn fpu(slot: &Slot, offset: usize) -> Option<Vec<u8>> {
    let address = slot.memory().load(offset + SIGCONTEXT + FPU_POINTER);
    let at = slot.offset_of(address, FXSAVE_SIZE)?;
    let mut state = vec![0; FXSAVE_SIZE];
    slot.memory().read(at, &mut state);
    if u32_at(&state, SOFTWARE) == FP_XSTATE_MAGIC1 {
        let length = u32_at(&state, SOFTWARE + 4) as usize;
        slot.offset_of(address, length)?;
        if length > FXSAVE_SIZE {
            state.resize(length, 0);
            slot.memory().read(at + FXSAVE_SIZE, &mut state[FXSAVE_SIZE..]);
        }
    }
    Some(state)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..offset + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// What the host's frames look like on this machine, and the state that a program starts with.
#[derive(Clone, Debug)]
pub struct FpuFormat {
    initial: Vec<u8>,
}

impl FpuFormat {
    /// Learns the format from the state in a frame that the host has made for a thread in the initial state.
    pub fn learn(initial: Vec<u8>) -> Option<FpuFormat> {
        let format = FpuFormat { initial };
        let extended = format.initial.len() > FXSAVE_SIZE;
        let sane = format.initial.len() <= BUILT_FPU_MAX
            && (!extended
                || (format.state_size() >= XSAVE_MIN && format.state_size() + 4 == format.initial.len()));
        sane.then_some(format)
    }

    /// The state that a program starts with.
    pub fn initial(&self) -> &[u8] {
        &self.initial
    }

    /// Bytes of the state proper, without the final magic number.
    fn state_size(&self) -> usize {
        u32_at(&self.initial, SOFTWARE + 16) as usize
    }

    /// The state that the stub has saved at [`BUILT_FPU`], as [`build`] takes it.
    pub fn saved(&self, slot: &Slot) -> Option<Vec<u8>> {
        let mut state = self.initial.clone();
        let size = self.state_size();
        slot.memory().read(BUILT_FPU, state.get_mut(..size)?);
        put(&mut state, SOFTWARE, &self.initial[SOFTWARE..FXSAVE_SIZE]);
        self.sanitise(&state)
    }

    /// The components that the host saves; zero where it knows of none.
    pub fn features(&self) -> u64 {
        if self.initial.len() == FXSAVE_SIZE {
            return 0;
        }
        u64::from(u32_at(&self.initial, SOFTWARE + 8)) | u64::from(u32_at(&self.initial, SOFTWARE + 12)) << 32
    }

    /// Makes a state that the processor accepts out of untrusted bytes, as Linux does on `rt_sigreturn(2)`: a state
    /// without valid software bytes counts as the legacy area alone. `None` when even that is too short.
    pub fn sanitise(&self, state: &[u8]) -> Option<Vec<u8>> {
        let legacy = state.get(..FXSAVE_SIZE)?;
        let mut clean = self.initial.clone();
        put(&mut clean, 0, &legacy[..SOFTWARE]);
        let mxcsr = u32_at(legacy, 24) & self.mxcsr_mask();
        put(&mut clean, 24, &mxcsr.to_ne_bytes());
        put(&mut clean, 28, &self.initial[28..32]);
        if clean.len() == FXSAVE_SIZE {
            return Some(clean);
        }
        // The components beyond the legacy area, if there are any. The header says which are in use.
        let given = u32_at(legacy, SOFTWARE + 16) as usize;
        let extended = u32_at(legacy, SOFTWARE) == FP_XSTATE_MAGIC1
            && (XSAVE_MIN..=self.state_size()).contains(&given)
            && state.len() >= given + 4
            && u32_at(state, given) == FP_XSTATE_MAGIC2;
        let mut used = 3;
        if extended {
            let claimed =
                u64::from(u32_at(legacy, SOFTWARE + 8)) | u64::from(u32_at(legacy, SOFTWARE + 12)) << 32;
            used = u64::from(u32_at(state, FXSAVE_SIZE)) | u64::from(u32_at(state, FXSAVE_SIZE + 4)) << 32;
            used &= claimed & self.features();
            put(&mut clean, XSAVE_MIN, &state[XSAVE_MIN..given]);
        }
        put(&mut clean, FXSAVE_SIZE, &[0; 64]);
        put(&mut clean, FXSAVE_SIZE, &used.to_ne_bytes());
        Some(clean)
    }

    /// The bits that MXCSR may have.
    fn mxcsr_mask(&self) -> u32 {
        match u32_at(&self.initial, 28) {
            0 => 0xffbf,
            mask => mask,
        }
    }

    /// A legacy state for the very first frame, from which the format is learned.
    pub fn bootstrap() -> Vec<u8> {
        let mut state = vec![0; FXSAVE_SIZE];
        put(&mut state, 0, &0x37fu16.to_ne_bytes());
        put(&mut state, 24, &0x1f80u32.to_ne_bytes());
        state
    }
}
