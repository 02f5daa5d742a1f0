//! The tracer's side: what `ptrace(2)` is asked for.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use abi::seccomp::AUDIT_ARCH_X86_64;
use abi::signal::{SI_USER, SigInfo, Signal, SignalSet};
use abi::{Errno, SysResult};
use platform::Registers;
use zerocopy::{Immutable, IntoBytes};

use super::registers::{self, DEBUG, DEBUG_CONTROL, FPU_LEGACY, GENERAL, USER};
use super::{Mode, Options, Stop, StopKind, TraceEvent, Tracer, attach, detach};
use crate::error::SyscallResult;
use crate::mm::MemoryMap;
use crate::signal;
use crate::task::inspect::may_inspect;
use crate::task::{CurrentTask, Pid, Task};
use crate::user::{IoVec, UserPtr};

/// `PTRACE_*`
mod request {
    pub const TRACEME: u64 = 0;
    pub const PEEKTEXT: u64 = 1;
    pub const PEEKDATA: u64 = 2;
    pub const PEEKUSER: u64 = 3;
    pub const POKETEXT: u64 = 4;
    pub const POKEDATA: u64 = 5;
    pub const POKEUSER: u64 = 6;
    pub const CONT: u64 = 7;
    pub const KILL: u64 = 8;
    pub const SINGLESTEP: u64 = 9;
    pub const GETREGS: u64 = 12;
    pub const SETREGS: u64 = 13;
    pub const GETFPREGS: u64 = 14;
    pub const SETFPREGS: u64 = 15;
    pub const ATTACH: u64 = 16;
    pub const DETACH: u64 = 17;
    pub const SYSCALL: u64 = 24;
    pub const SYSEMU: u64 = 31;
    pub const SYSEMU_SINGLESTEP: u64 = 32;
    pub const SETOPTIONS: u64 = 0x4200;
    pub const GETEVENTMSG: u64 = 0x4201;
    pub const GETSIGINFO: u64 = 0x4202;
    pub const SETSIGINFO: u64 = 0x4203;
    pub const GETREGSET: u64 = 0x4204;
    pub const SETREGSET: u64 = 0x4205;
    pub const SEIZE: u64 = 0x4206;
    pub const INTERRUPT: u64 = 0x4207;
    pub const LISTEN: u64 = 0x4208;
    pub const GETSIGMASK: u64 = 0x420a;
    pub const SETSIGMASK: u64 = 0x420b;
    pub const GET_SYSCALL_INFO: u64 = 0x420e;
}

/// Register sets, by the types that their notes have in core files.
const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;

/// `struct ptrace_syscall_info`, the longest of its shapes. What follows `stack` depends on `kind`.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
struct CallInfo {
    kind: u8,
    pad: [u8; 3],
    architecture: u32,
    instruction: u64,
    stack: u64,
    fields: [u64; 8],
}

const CALL_INFO_HEADER: usize = 24;

/// A tracee of the calling thread that stands in a stop.
struct Stopped(Arc<Task>);

impl Stopped {
    fn find(task: &CurrentTask, pid: Pid) -> SysResult<Stopped> {
        let target = own_tracee(task, pid)?;
        let stands = target.ptrace.state.lock().stop.as_ref().is_some_and(is_open);
        if stands { Ok(Stopped(target)) } else { Err(Errno::ESRCH) }
    }

    /// Runs `operation` on the stop: `ESRCH` if the tracee has been killed meanwhile.
    fn with<T>(&self, operation: impl FnOnce(&mut Stop) -> T) -> SysResult<T> {
        let mut state = self.0.ptrace.state.lock();
        state.stop.as_mut().filter(|stop| is_open(stop)).map(operation).ok_or(Errno::ESRCH)
    }

    /// Has the tracee's own thread run `operation`.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&CurrentTask) -> T + Send + 'static,
    ) -> SysResult<T> {
        let (sender, receiver) = sync_channel(1);
        self.with(|stop| stop.work = Some(Box::new(move |task| drop(sender.send(operation(task))))))?;
        self.0.waiter.notify();
        // The work is dropped undone if the tracee is killed.
        receiver.recv().map_err(|_| Errno::ESRCH)
    }

    fn resume(&self, mode: Mode, signal: u64) -> SysResult<()> {
        let signal = checked_signal(signal)?;
        {
            let mut state = self.0.ptrace.state.lock();
            state.mode = mode;
            let stop = state.stop.as_mut().filter(|stop| is_open(stop)).ok_or(Errno::ESRCH)?;
            stop.resumed = Some(signal);
        }
        self.0.waiter.notify();
        Ok(())
    }
}

/// Whether the tracer may ask for something.
fn is_open(stop: &Stop) -> bool {
    stop.resumed.is_none() && !stop.listening
}

fn own_tracee(task: &CurrentTask, pid: Pid) -> SysResult<Arc<Task>> {
    let target = task.find_task(pid)?;
    let mine = target.ptrace.tracer().is_some_and(|tracer| tracer.tid == task.tid());
    if mine { Ok(target) } else { Err(Errno::ESRCH) }
}

/// `EIO` for what is no signal's number; zero is none.
fn checked_signal(signal: u64) -> SysResult<i32> {
    i32::try_from(signal).ok().filter(|signal| (0..=64).contains(signal)).ok_or(Errno::EIO)
}

/// `ptrace(2)`.
pub fn ptrace(task: &CurrentTask, request: u64, pid: Pid, address: u64, data: u64) -> SyscallResult {
    let result = match request {
        request::TRACEME => task.trace_me(),
        request::ATTACH | request::SEIZE => begin(task, pid, request == request::SEIZE, address, data),
        request::INTERRUPT => interrupt(task, pid),
        request::KILL => kill(task, pid),
        _ => return of_stopped(task, &Stopped::find(task, pid)?, request, address, data),
    };
    Ok(result.map(|()| 0)?)
}

/// `PTRACE_ATTACH`, `PTRACE_SEIZE`.
fn begin(task: &CurrentTask, pid: Pid, seize: bool, address: u64, data: u64) -> SysResult<()> {
    if seize && address != 0 {
        return Err(Errno::EIO);
    }
    let options = if seize { parse_options(data).map_err(|_| Errno::EIO)? } else { Options::empty() };
    let target = task.find_task(pid)?;
    if Arc::ptr_eq(&target.group, &task.group) || !may_inspect(task, &target) {
        return Err(Errno::EPERM);
    }
    let tracer = Tracer { tid: task.tid(), group: Arc::clone(&task.group) };
    attach(&target, tracer, seize, options)?;
    if !seize {
        signal::send_to_task(
            &task.kernel,
            &target,
            SigInfo::user(Signal::SIGSTOP, SI_USER, task.group.number, task.credentials().uid),
        );
    }
    // It is to stop if its group has, or to have its calls seen.
    target.kick();
    Ok(())
}

fn interrupt(task: &CurrentTask, pid: Pid) -> SysResult<()> {
    let target = own_tracee(task, pid)?;
    {
        let mut state = target.ptrace.state.lock();
        if !state.seized {
            return Err(Errno::EIO);
        }
        // In a stop already, it stops again only if it is one that it listens in.
        state.interrupt = state.stop.as_ref().is_none_or(|stop| stop.listening);
    }
    target.kick();
    Ok(())
}

fn kill(task: &CurrentTask, pid: Pid) -> SysResult<()> {
    let target = own_tracee(task, pid)?;
    signal::send_to_task(&task.kernel, &target, SigInfo::new(Signal::SIGKILL, SI_USER));
    Ok(())
}

fn parse_options(data: u64) -> SysResult<Options> {
    let known = |bits: &u32| Options::from_bits(*bits).is_some();
    u32::try_from(data).ok().filter(known).map(Options::from_bits_truncate).ok_or(Errno::EINVAL)
}

/// What can be asked for of a tracee in a stop.
fn of_stopped(task: &CurrentTask, target: &Stopped, request: u64, address: u64, data: u64) -> SyscallResult {
    let result = match request {
        request::PEEKTEXT | request::PEEKDATA => peek(task, target, address, data),
        request::POKETEXT | request::POKEDATA => poke(target, address, data),
        request::PEEKUSER => peek_user(task, target, address, data),
        request::POKEUSER => poke_user(target, address, data),
        request::CONT => target.resume(Mode::Free, data),
        request::SYSCALL => target.resume(Mode::ToCall, data),
        request::SINGLESTEP => target.resume(Mode::Step, data),
        request::SYSEMU => target.resume(Mode::Emulate, data),
        request::SYSEMU_SINGLESTEP => target.resume(Mode::EmulateStep, data),
        request::DETACH => {
            let signal = checked_signal(data)?;
            detach(&target.0, signal);
            Ok(())
        }
        request::GETREGS => {
            let registers = target.with(|stop| stop.registers)?;
            task.write_bytes(data, registers.as_bytes())
        }
        request::SETREGS => {
            let wanted: Registers = task.read_object(UserPtr::new(data))?;
            set_registers(target, 0, wanted.as_bytes())
        }
        request::GETFPREGS => {
            let state = target.run(|tracee| registers::legacy_fpu(&**tracee.context.borrow()))?;
            task.write_bytes(data, &state)
        }
        request::SETFPREGS => {
            let mut state = vec![0; FPU_LEGACY];
            task.read_bytes(data, &mut state)?;
            target.run(move |tracee| registers::set_fpu(&mut **tracee.context.borrow_mut(), &state, false))?
        }
        request::GETREGSET => get_set(task, target, address, data),
        request::SETREGSET => set_set(task, target, address, data),
        request::SETOPTIONS => {
            target.0.ptrace.state.lock().options = parse_options(data)?;
            Ok(())
        }
        request::GETEVENTMSG => {
            let message = target.0.ptrace.state.lock().message;
            task.write_object(UserPtr::new(data), &message)
        }
        request::GETSIGINFO => {
            let info = target.with(|stop| stop.info)?.ok_or(Errno::EINVAL)?;
            task.write_object(UserPtr::new(data), &info)
        }
        request::SETSIGINFO => {
            let info: SigInfo = task.read_object(UserPtr::new(data))?;
            target.with(|stop| stop.info.as_mut().map(|old| *old = info))?.ok_or(Errno::EINVAL)
        }
        request::LISTEN => listen(target),
        request::GETSIGMASK | request::SETSIGMASK if address != size_of::<SignalSet>() as u64 => {
            Err(Errno::EINVAL)
        }
        request::GETSIGMASK => task.write_object(UserPtr::new(data), &target.0.signals.mask().0),
        request::SETSIGMASK => {
            let mask: u64 = task.read_object(UserPtr::new(data))?;
            target.run(move |tracee| tracee.set_signal_mask(SignalSet(mask)))
        }
        request::GET_SYSCALL_INFO => return call_info(task, target, address, data),
        _ => Err(Errno::EIO),
    };
    Ok(result.map(|()| 0)?)
}

fn peek(task: &CurrentTask, target: &Stopped, address: u64, data: u64) -> SysResult<()> {
    let memory = target.0.memory().ok_or(Errno::EIO)?;
    let mut word = [0; 8];
    if memory.space().read(address, &mut word) < word.len() {
        let read = target.run(move |tracee| force_read(tracee, &memory, address, word.len()))??;
        word = read.try_into().map_err(|_| Errno::EIO)?;
    }
    task.write_bytes(data, &word)
}

fn poke(target: &Stopped, address: u64, data: u64) -> SysResult<()> {
    let memory = target.0.memory().ok_or(Errno::EIO)?;
    let word = data.to_ne_bytes();
    if memory.space().write(address, &word) == word.len() {
        return Ok(());
    }
    let written = target.run(move |tracee| force_write(tracee, &memory, address, &word))??;
    if written < word.len() { Err(Errno::EIO) } else { Ok(()) }
}

/// Reads memory in which `inside` runs, whatever access the guest has to it.
fn force_read(inside: &CurrentTask, memory: &MemoryMap, address: u64, length: usize) -> SysResult<Vec<u8>> {
    let mut bytes = vec![0; length];
    let read = memory.force(&mut **inside.context.borrow_mut(), address, length, |space| {
        space.read(address, &mut bytes)
    })?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes to memory in which `inside` runs, whatever access the guest has to it.
fn force_write(inside: &CurrentTask, memory: &MemoryMap, address: u64, bytes: &[u8]) -> SysResult<usize> {
    memory
        .force(&mut **inside.context.borrow_mut(), address, bytes.len(), |space| space.write(address, bytes))
}

/// Has `operation` run on a thread that may open memory to itself: the caller if it is its own, or a tracee of the caller
/// that stands in a stop. `EIO` if there is none.
fn with_insider<T: Send + 'static>(
    task: &CurrentTask,
    memory: &Arc<MemoryMap>,
    operation: impl FnOnce(&CurrentTask, &MemoryMap) -> SysResult<T> + Send + 'static,
) -> SysResult<T> {
    let is_inside = |other: &Task| other.memory().is_some_and(|own| Arc::ptr_eq(&own, memory));
    if is_inside(task) {
        return operation(task, memory);
    }
    let mut tracees = task.group.tracees.living().into_iter();
    let stopped = tracees.find(|other| is_inside(other) && other.ptrace.is_stopped()).ok_or(Errno::EIO)?;
    let memory = Arc::clone(memory);
    Stopped(stopped).run(move |tracee| operation(tracee, &memory)).map_err(|_| Errno::EIO)?
}

/// Reads memory that its guest may not, for `/proc/PID/mem`.
pub fn read_any(
    task: &CurrentTask,
    memory: &Arc<MemoryMap>,
    address: u64,
    length: usize,
) -> SysResult<Vec<u8>> {
    with_insider(task, memory, move |inside, memory| force_read(inside, memory, address, length))
}

/// Writes to memory that its guest may not, for `/proc/PID/mem`.
pub fn write_any(
    task: &CurrentTask,
    memory: &Arc<MemoryMap>,
    address: u64,
    bytes: &[u8],
) -> SysResult<usize> {
    let bytes = bytes.to_vec();
    with_insider(task, memory, move |inside, memory| force_write(inside, memory, address, &bytes))
}

/// An offset in `struct user`: `EIO` if it is none of a word.
fn user_offset(address: u64) -> SysResult<usize> {
    let offset = usize::try_from(address).ok().filter(|offset| offset % 8 == 0 && *offset < USER);
    offset.ok_or(Errno::EIO)
}

fn peek_user(task: &CurrentTask, target: &Stopped, address: u64, data: u64) -> SysResult<()> {
    let offset = user_offset(address)?;
    let registers = target.with(|stop| stop.registers)?;
    let word = registers.as_bytes().get(offset..offset + 8).unwrap_or(&[0; 8]);
    task.write_bytes(data, word)
}

fn poke_user(target: &Stopped, address: u64, data: u64) -> SysResult<()> {
    let offset = user_offset(address)?;
    match offset {
        ..GENERAL => set_registers(target, offset, &data.to_ne_bytes()),
        // There are no hardware break points. Debuggers set what they would need before they enable it.
        DEBUG_CONTROL if data != 0 => Err(Errno::EINVAL),
        DEBUG.. => Ok(()),
        _ => Err(Errno::EIO),
    }
}

fn set_registers(target: &Stopped, offset: usize, bytes: &[u8]) -> SysResult<()> {
    target.with(|stop| {
        stop.changed = true;
        registers::patch_general(&mut stop.registers, offset, bytes)
    })?
}

/// The vector that says where a register set is to go, with its address.
fn set_vector(task: &CurrentTask, data: u64) -> SysResult<(UserPtr<IoVec>, IoVec)> {
    let pointer = UserPtr::new(data);
    Ok((pointer, task.read_object(pointer)?))
}

fn get_set(task: &CurrentTask, target: &Stopped, kind: u64, data: u64) -> SysResult<()> {
    let (pointer, vector) = set_vector(task, data)?;
    let bytes = match kind {
        NT_PRSTATUS => target.with(|stop| stop.registers)?.as_bytes().to_vec(),
        NT_PRFPREG => target.run(|tracee| registers::legacy_fpu(&**tracee.context.borrow()))?,
        NT_X86_XSTATE => target.run(|tracee| registers::extended_fpu(&**tracee.context.borrow()))?,
        _ => return Err(Errno::EINVAL),
    };
    if !vector.length.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let length = bytes.len().min(usize::try_from(vector.length).unwrap_or(usize::MAX));
    task.write_bytes(vector.base, &bytes[..length])?;
    task.write_object(pointer, &IoVec { length: length as u64, ..vector })
}

fn set_set(task: &CurrentTask, target: &Stopped, kind: u64, data: u64) -> SysResult<()> {
    const LONGEST: u64 = 16 << 10;
    let (_, vector) = set_vector(task, data)?;
    if !vector.length.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let longest = if kind == NT_PRSTATUS { GENERAL as u64 } else { LONGEST };
    let mut bytes = vec![0; vector.length.min(longest) as usize];
    task.read_bytes(vector.base, &mut bytes)?;
    match kind {
        NT_PRSTATUS => set_registers(target, 0, &bytes),
        NT_PRFPREG | NT_X86_XSTATE => target.run(move |tracee| {
            let extended = kind == NT_X86_XSTATE;
            registers::set_fpu(&mut **tracee.context.borrow_mut(), &bytes, extended)
        })?,
        _ => Err(Errno::EINVAL),
    }
}

/// `PTRACE_LISTEN`: only in a stop of the whole group.
fn listen(target: &Stopped) -> SysResult<()> {
    {
        let mut state = target.0.ptrace.state.lock();
        let seized = state.seized;
        let stop = state.stop.as_mut().ok_or(Errno::ESRCH)?;
        if !seized || !matches!(stop.kind, StopKind::Group | StopKind::Event(TraceEvent::Stop)) {
            return Err(Errno::EIO);
        }
        stop.listening = true;
    }
    target.0.waiter.notify();
    Ok(())
}

/// `PTRACE_GET_SYSCALL_INFO`: returns how many bytes there are.
fn call_info(task: &CurrentTask, target: &Stopped, size: u64, data: u64) -> SyscallResult {
    const ENTRY: u8 = 1;
    const EXIT: u8 = 2;
    const SECCOMP: u8 = 3;
    let message = target.0.ptrace.state.lock().message;
    let (kind, registers) = target.with(|stop| (stop.kind, stop.registers))?;
    let mut info = CallInfo {
        architecture: AUDIT_ARCH_X86_64,
        instruction: registers.rip,
        stack: registers.rsp,
        ..CallInfo::default()
    };
    let call = || {
        let [a, b, c, d, e, f] = registers.arguments();
        [registers.orig_rax, a, b, c, d, e, f, 0]
    };
    let length = match kind {
        StopKind::CallEntry => {
            (info.kind, info.fields) = (ENTRY, call());
            CALL_INFO_HEADER + 7 * 8
        }
        StopKind::CallExit => {
            info.kind = EXIT;
            let failed = (-4095..0).contains(&registers.rax.cast_signed());
            (info.fields[0], info.fields[1]) = (registers.rax, failed.into());
            CALL_INFO_HEADER + 8 + 1
        }
        StopKind::Event(TraceEvent::Seccomp) => {
            (info.kind, info.fields) = (SECCOMP, call());
            info.fields[7] = message;
            CALL_INFO_HEADER + 7 * 8 + 4
        }
        _ => CALL_INFO_HEADER,
    };
    let copied = length.min(usize::try_from(size).unwrap_or(usize::MAX));
    task.write_bytes(data, &info.as_bytes()[..copied])?;
    Ok(length as u64)
}
