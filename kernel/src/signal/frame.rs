//! The signal frame of x86-64: what a handler finds on its stack and `rt_sigreturn(2)` takes back.

use abi::signal::{
    SA_ONSTACK, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SigAction, SigAltStack, SigInfo, Signal, SignalSet,
};
use abi::{Errno, SysResult};
use platform::registers::{USER_CS, USER_EFLAGS, USER_SS};
use platform::{Fault, Registers};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::UserPtr;

const RED_ZONE: u64 = 128;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`
const UC_FLAGS: u64 = 7;
const DIRECTION_TRAP_RESUME: u64 = 0x400 | 0x100 | 0x1_0000;
const FPU_LEGACY: usize = 512;
const FPU_MAX: usize = 12 * 1024;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Frame {
    return_address: u64,
    flags: u64,
    link: u64,
    stack: SigAltStack,
    /// `r8` to `eflags` as in `struct sigcontext`.
    general: [u64; 18],
    segments: u64,
    error: u64,
    trap: u64,
    old_mask: u64,
    address: u64,
    fpu: u64,
    reserved: [u64; 8],
    mask: SignalSet,
    info: SigInfo,
}

/// Whether `sp` lies on the alternate stack.
pub fn on_stack(stack: &SigAltStack, sp: u64) -> bool {
    stack.flags & SS_DISABLE == 0 && sp.wrapping_sub(stack.sp).wrapping_sub(1) < stack.size
}

/// Builds the frame and makes the guest enter the handler. `EFAULT` if the stack cannot take it.
pub fn push(
    task: &CurrentTask,
    signal: Signal,
    action: SigAction,
    info: &SigInfo,
    mask: SignalSet,
    fault: Option<Fault>,
) -> SysResult<()> {
    let registers = *task.context.borrow().registers();
    let fpu = task.context.borrow().fpu();
    let stack = task.signals.state.lock().stack;
    let nested = on_stack(&stack, registers.rsp);
    let mut sp = registers.rsp.wrapping_sub(RED_ZONE);
    let enabled = stack.flags & SS_DISABLE == 0 && stack.size != 0;
    if action.flags & SA_ONSTACK != 0 && enabled && !nested {
        sp = stack.sp.wrapping_add(stack.size);
    }
    let fpu_address = sp.wrapping_sub(fpu.len() as u64) & !63;
    let address = (fpu_address.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    if nested && action.flags & SA_ONSTACK != 0 && address < stack.sp {
        return Err(Errno::EFAULT);
    }
    let shown = if nested { SS_ONSTACK } else { 0 };
    let r = &registers;
    let frame = Frame {
        return_address: action.restorer,
        flags: UC_FLAGS,
        link: 0,
        stack: SigAltStack { flags: stack.flags | shown, ..stack },
        general: [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
            r.rcx, r.rsp, r.rip, r.eflags,
        ],
        segments: USER_CS | USER_SS << 48,
        error: fault.map_or(0, |fault| fault.error),
        trap: fault.map_or(0, |fault| fault.trap),
        old_mask: mask.0,
        address: fault.map_or(0, |fault| fault.address),
        fpu: fpu_address,
        reserved: [0; 8],
        mask,
        info: *info,
    };
    task.write_bytes(fpu_address, &fpu)?;
    task.write_object(UserPtr::new(address), &frame)?;
    if stack.flags & SS_AUTODISARM != 0 {
        task.signals.state.lock().stack = super::disabled();
    }
    let mut context = task.context.borrow_mut();
    context.set_fpu(None)?;
    let registers = context.registers_mut();
    registers.rdi = signal.number() as u64;
    registers.rsi = address + std::mem::offset_of!(Frame, info) as u64;
    registers.rdx = address + std::mem::offset_of!(Frame, flags) as u64;
    registers.rax = 0;
    registers.rsp = address;
    registers.rip = action.handler;
    registers.eflags &= !DIRECTION_TRAP_RESUME;
    registers.orig_rax = u64::MAX;
    Ok(())
}

/// `rt_sigreturn(2)`: returns from a handler. A frame that cannot be read ends in SIGSEGV.
pub fn rt_sigreturn(task: &CurrentTask) -> SyscallResult<u64> {
    match pop(task) {
        Ok(rax) => Ok(rax),
        Err(_) => {
            super::force(task, SigInfo::new(Signal::SIGSEGV, abi::signal::SI_KERNEL), None);
            Ok(0)
        }
    }
}

fn pop(task: &CurrentTask) -> SysResult<u64> {
    let old = *task.context.borrow().registers();
    let frame: Frame = task.read_object(UserPtr::new(old.rsp.wrapping_sub(8)))?;
    let state = read_fpu(task, frame.fpu)?;
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags] =
        frame.general;
    {
        let mut context = task.context.borrow_mut();
        context.set_fpu(state.as_deref())?;
        *context.registers_mut() = Registers {
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
            eflags: (old.eflags & !USER_EFLAGS) | (eflags & USER_EFLAGS),
            orig_rax: u64::MAX,
            ..old
        };
    }
    let stack = SigAltStack { flags: frame.stack.flags & !SS_ONSTACK, ..frame.stack };
    if stack.flags & !(SS_DISABLE | SS_AUTODISARM) == 0 {
        task.signals.state.lock().stack = stack;
    }
    task.set_signal_mask(frame.mask);
    Ok(rax)
}

/// The FPU state at `address`, with the extended part if the frame says that there is one; `None` for the initial one.
fn read_fpu(task: &CurrentTask, address: u64) -> SysResult<Option<Vec<u8>>> {
    const MAGIC1: [u8; 4] = 0x4650_5853u32.to_le_bytes();
    const MAGIC1_AT: usize = 464;
    if address == 0 {
        return Ok(None);
    }
    let mut state = vec![0; FPU_LEGACY];
    task.read_bytes(address, &mut state)?;
    let software = &state[MAGIC1_AT..];
    let size = u32::from_le_bytes([software[4], software[5], software[6], software[7]]) as usize;
    if software[..4] == MAGIC1 && (FPU_LEGACY..=FPU_MAX).contains(&size) {
        state.resize(size, 0);
        task.read_bytes(address.wrapping_add(FPU_LEGACY as u64), &mut state[FPU_LEGACY..])?;
    }
    Ok(Some(state))
}
