//! A guest thread and the slot that it speaks through.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use abi::signal::Signal;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::layout::{
    self, CALL, CALL_SIZE, COUNT, GUEST_END, NEW_SLOT, REGION, REGION_SIZE, RESULT, SLOT, STATE, Slot,
};
use super::notify::{Caller, Turn};
use super::zygote::{INTERRUPT, new_region, unmap_slot};
use super::{Flag, Space};
use crate::{AddressSpace, Context, Event, Fault, Interrupter, MemoryOp, Registers, Vdso};

/// How long a guest may take to answer an interrupt. It answers at once unless it has blocked the signal by a trick.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a waiting kernel thread looks up.
const LOOK: Duration = Duration::from_secs(1);
/// How often the stub looks at the state word before it sleeps, when it may: some 20 µs.
const STUB_LOOKS: u32 = 400;
/// How long the kernel looks before it sleeps.
const KERNEL_LOOKS: u32 = 400;

/// Wakes whoever sleeps on the word, in this or another process.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the word is valid; waking has no memory effects.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}

/// Sleeps while the word has this value, at most so long.
fn sleep(word: &AtomicU32, value: u32, limit: Duration) {
    let time = libc::timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    // SAFETY: the word and the time are valid for the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time, 0, 0) };
}

/// The part of a guest thread that other threads reach.
pub(crate) struct Thread {
    pub space: Arc<Space>,
    pub slot: Arc<Slot>,
    pub tid: i32,
    /// Set by `interrupt`, taken by `run`.
    interrupted: Flag,
    /// Whether the guest runs, so that an interrupt must be sent.
    running: AtomicBool,
    /// When an interrupt was sent that has not been answered.
    sent: Mutex<Option<Instant>>,
    closed: Mutex<bool>,
}

impl Thread {
    fn new(space: &Arc<Space>, slot: Arc<Slot>, tid: i32) -> Arc<Thread> {
        let thread = Arc::new(Thread {
            space: Arc::clone(space),
            slot,
            tid,
            interrupted: Flag::default(),
            running: AtomicBool::new(false),
            sent: Mutex::new(None),
            closed: Mutex::new(false),
        });
        let mut threads = space.threads.lock();
        threads.retain(|other| other.strong_count() > 0);
        threads.push(Arc::downgrade(&thread));
        space.shared.listener.add(tid.cast_unsigned());
        thread
    }
}

impl Interrupter for Thread {
    fn interrupt(&self) {
        self.interrupted.set();
        if !self.running.load(Ordering::SeqCst) {
            return;
        }
        let alive = self.space.alive.read();
        let closed = self.closed.lock();
        if *alive && !*closed {
            self.sent.lock().get_or_insert_with(Instant::now);
            // SAFETY: no memory effects; process and thread are ours, as the two locks keep them.
            unsafe { libc::syscall(libc::SYS_tgkill, self.space.pid, self.tid, INTERRUPT) };
        }
    }
}

/// A guest thread.
pub struct StubContext {
    thread: Arc<Thread>,
    space: Arc<dyn AddressSpace>,
    registers: Registers,
    /// Where in the slot the frame lies that a resume takes.
    frame: usize,
    /// Whether the guest has ever run, so that the frame is the host's.
    guest_time: Duration,
}

impl StubContext {
    fn with(thread: Arc<Thread>, registers: Registers, fpu: Option<&[u8]>) -> StubContext {
        let frame = thread.slot.make_frame(fpu);
        let space = Arc::clone(&thread.space) as Arc<dyn AddressSpace>;
        StubContext { thread, space, registers, frame, guest_time: Duration::ZERO }
    }

    /// The zygote's own thread, which waits in its loop.
    pub(super) fn adopt(space: &Arc<Space>) -> SysResult<StubContext> {
        let slot = space.take_slot(Some(0))?;
        let thread = Thread::new(space, slot, space.pid);
        Ok(StubContext::with(thread, Registers::initial(), None))
    }

    pub(crate) fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Unmaps everything but the platform's ranges and the vDSO, and closes the listener: the zygote's last step.
    pub(super) fn clear(&mut self, vdso: Option<&Vdso>) -> SysResult<()> {
        const TOP: u64 = 0x7fff_ffff_f000;
        let text_end = layout::TEXT + 0x1000;
        let mut holes = vec![0..layout::TEXT, text_end..REGION];
        let after = REGION + REGION_SIZE;
        match vdso {
            Some(vdso) => {
                let start = if vdso.data.is_empty() { vdso.image.start } else { vdso.data.start };
                holes.extend([after..start, vdso.image.end..TOP]);
            }
            None => holes.push(after..TOP),
        }
        let mut calls: Vec<[u64; 7]> = holes
            .into_iter()
            .filter(|hole| !hole.is_empty())
            .map(|hole| [number(libc::SYS_munmap), hole.start, hole.end - hole.start, 0, 0, 0, 0])
            .collect();
        calls.push([number(libc::SYS_close), 0, 0, 0, 0, 0, 0]);
        self.calls(&calls)
    }

    /// A new process as a copy of this one, with initial registers.
    pub(super) fn fork_new(&mut self) -> SysResult<StubContext> {
        self.fork_with(Registers::initial(), None)
    }

    fn slot(&self) -> &Slot {
        &self.thread.slot
    }

    /// Hands the slot over with a command.
    fn command(&self, command: u32) {
        let slot = self.slot();
        let spin = if self.thread.space.shared.spinners > 0 { STUB_LOOKS } else { 0 };
        slot.word(layout::STUB_SPIN).store(spin, Ordering::Relaxed);
        slot.command(command, wake);
    }

    /// Waits until the stub asks for a command: false if it is dead.
    fn wait(&self) -> bool {
        let slot = self.slot();
        let state = slot.word(STATE);
        let shared = &self.thread.space.shared;
        // SAFETY: no preconditions.
        let here = unsafe { libc::sched_getcpu() }.cast_unsigned();
        if slot.word(layout::STUB_CPU).load(Ordering::Relaxed) != here && shared.may_spin() {
            for _ in 0..KERNEL_LOOKS {
                if state.load(Ordering::Acquire) == layout::REQUEST {
                    break;
                }
                std::hint::spin_loop();
            }
            shared.done_spinning();
        }
        if state.load(Ordering::Acquire) == layout::REQUEST {
            return true;
        }
        let sleeps = slot.word(layout::KERNEL_SLEEPS);
        sleeps.store(1, Ordering::SeqCst);
        let answered = loop {
            let value = state.load(Ordering::SeqCst);
            if value == layout::REQUEST {
                break true;
            }
            if !self.thread.space.alive() {
                break false;
            }
            sleep(state, value, LOOK);
            let overdue = self.thread.sent.lock().is_some_and(|sent| sent.elapsed() > ANSWER);
            if overdue && state.load(Ordering::SeqCst) != layout::REQUEST {
                tracing::warn!("stub {} does not answer an interrupt; killing it", self.thread.space.pid);
                self.thread.space.kill();
                *self.thread.sent.lock() = None;
            }
        };
        sleeps.store(0, Ordering::SeqCst);
        answered
    }

    /// Makes the stub carry out a command: `ESRCH` if it dies.
    fn perform(&self, command: u32) -> SysResult<()> {
        self.command(command);
        if self.wait() { Ok(()) } else { Err(Errno::ESRCH) }
    }

    /// Makes the stub make these calls, one after the other until one fails.
    fn calls(&self, calls: &[[u64; 7]]) -> SysResult<()> {
        for batch in calls.chunks(layout::BUFFER_SIZE / CALL_SIZE) {
            for (index, call) in batch.iter().enumerate() {
                for (at, word) in call.iter().enumerate() {
                    self.slot().set(layout::BUFFER + index * CALL_SIZE + at * 8, *word);
                }
            }
            self.slot().set(COUNT, batch.len() as u64);
            self.perform(layout::CALLS)?;
            self.result()?;
        }
        Ok(())
    }

    /// The result of the last command.
    fn result(&self) -> SysResult<u64> {
        let result = self.slot().get(RESULT).cast_signed();
        if (-4095..0).contains(&result) {
            Err(Errno::from_raw(-result as i32))
        } else {
            Ok(result.cast_unsigned())
        }
    }

    /// Maps a file: the stub's call is answered with the descriptor, which it then closes.
    fn map_file(&self, call: [u64; 7], fd: std::os::fd::BorrowedFd<'_>) -> SysResult<()> {
        let shared = Arc::clone(&self.thread.space.shared);
        let turn = shared.listener.turn();
        for (at, word) in call.iter().enumerate() {
            self.slot().set(layout::BUFFER + at * 8, *word);
        }
        let close = [number(libc::SYS_close), 0, 0, 0, 0, 0, 0];
        for (at, word) in close.iter().enumerate() {
            self.slot().set(layout::BUFFER + CALL_SIZE + at * 8, *word);
        }
        self.slot().set(COUNT, 2);
        self.command(layout::CALLS);
        let caller = Caller::Thread(self.thread.tid.cast_unsigned());
        let asked = turn.expect(caller, libc::SYS_mmap, || self.thread.space.alive())?;
        if asked.arguments != call[1..] {
            self.thread.space.kill();
            return Err(Errno::ESRCH);
        }
        turn.install(&asked, fd, 0)?;
        turn.proceed(&asked)?;
        if !self.wait() {
            return Err(Errno::ESRCH);
        }
        drop(turn);
        let made = self.slot().get(COUNT);
        if made == 0 {
            let error = self.result().err().unwrap_or(Errno::ENOMEM);
            // The mapping failed, so the batch ended before the close.
            self.calls(&[close])?;
            return Err(error);
        }
        Ok(())
    }

    /// Commands a clone and lets it through.
    fn clone_call(&self, turn: &Turn<'_>, flags: u64, new_slot: u64) -> SysResult<()> {
        self.slot().set(CALL, flags);
        self.slot().set(NEW_SLOT, new_slot);
        self.command(layout::CLONE);
        let caller = Caller::Thread(self.thread.tid.cast_unsigned());
        let asked = turn.expect(caller, libc::SYS_clone, || self.thread.space.alive())?;
        if asked.arguments[0] != flags || asked.arguments[1] != 0 {
            self.thread.space.kill();
            return Err(Errno::ESRCH);
        }
        turn.proceed(&asked)?;
        Ok(())
    }

    fn fork_with(&mut self, registers: Registers, fpu: Option<&[u8]>) -> SysResult<StubContext> {
        let shared = Arc::clone(&self.thread.space.shared);
        let memory = new_region()?;
        // The child goes on in the slot of the same number.
        let index = (self.slot().address - REGION) / SLOT;
        let turn = shared.listener.turn();
        let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
        self.clone_call(&turn, flags, 0)?;
        // Either the clone fails, and the parent says so, or its child asks for its memory.
        let failed = || {
            let parent_done = self.slot().word(STATE).load(Ordering::SeqCst) == layout::REQUEST;
            parent_done && self.result().is_err()
        };
        let asked = turn.expect(Caller::New, libc::SYS_mmap, || self.thread.space.alive() && !failed());
        let asked = match asked {
            Ok(asked) => asked,
            Err(_) if self.wait() => return Err(self.result().err().unwrap_or(Errno::EAGAIN)),
            Err(error) => return Err(error.into()),
        };
        let pid = asked.pid.cast_signed();
        // SAFETY: pidfd_open returns a new descriptor or an error.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
        if raw < 0 {
            let error = std::io::Error::last_os_error();
            let _ = turn.refuse(&asked, libc::EPERM);
            self.wait();
            return Err(error.into());
        }
        // SAFETY: just opened.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        if !turn.is_valid(&asked) || asked.arguments[0] != REGION || asked.arguments[1] != REGION_SIZE {
            // SAFETY: as in `Space::kill`.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0, 0) };
            self.wait();
            return Err(Errno::EAGAIN);
        }
        turn.install(&asked, std::os::fd::AsFd::as_fd(&memory), 0)?;
        let space = Space::new(&shared, pid, pidfd, memory);
        let slot = space.take_slot(Some(index))?;
        let thread = Thread::new(&space, slot, pid);
        turn.proceed(&asked)?;
        drop(turn);
        let parent = self.wait();
        let child = StubContext::with(thread, registers, fpu);
        if !parent || !child.wait() {
            return Err(Errno::ESRCH);
        }
        Ok(child)
    }

    /// A guest thread asked for something: its registers, and why.
    fn event(&mut self) -> Event {
        let slot = Arc::clone(&self.thread.slot);
        let Some(frame) = slot.on_stack(slot.get(layout::UCONTEXT), layout::UC_SIZE) else {
            self.thread.space.kill();
            return Event::Died;
        };
        self.frame = frame;
        self.registers = slot.registers(frame);
        self.registers.orig_rax = u64::MAX;
        let signal = slot.word(layout::SIGNAL).load(Ordering::Relaxed).cast_signed();
        let mut info = [0u8; 32];
        match slot.on_stack(slot.get(layout::SIGINFO), info.len()) {
            Some(offset) => slot.read(offset, &mut info),
            None => {
                self.thread.space.kill();
                return Event::Died;
            }
        }
        let word = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let code = word(8);
        match signal {
            INTERRUPT => Event::Interrupted,
            libc::SIGSYS if code == 1 && word(28).cast_unsigned() == 0xc000_003e => {
                self.registers.orig_rax = self.registers.rax;
                self.registers.rax = Errno::ENOSYS.to_ret();
                Event::Syscall
            }
            // A call of another architecture (`int 0x80`): there is no such kernel here.
            libc::SIGSYS => {
                Event::Fault(Fault { signal: Signal::SIGSEGV, code: 0x80, address: 0, trap: 13, error: 0 })
            }
            _ => {
                let Some(signal) = Signal::new(signal) else { return Event::Interrupted };
                let (trap, error, _) = slot.exception(frame);
                let mut address = [0; 8];
                address.copy_from_slice(&info[16..24]);
                Event::Fault(Fault { signal, code, address: u64::from_ne_bytes(address), trap, error })
            }
        }
    }
}

/// A system call's number as a register value.
fn number(call: libc::c_long) -> u64 {
    call.cast_unsigned()
}

impl Context for StubContext {
    fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    fn registers(&self) -> &Registers {
        &self.registers
    }

    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn fpu(&self) -> Vec<u8> {
        self.slot().fpu(self.frame).unwrap_or_else(|| {
            // What FNINIT and the reset of MXCSR leave.
            let mut state = vec![0; 512];
            state[0..2].copy_from_slice(&0x37fu16.to_ne_bytes());
            state[24..28].copy_from_slice(&0x1f80u32.to_ne_bytes());
            state
        })
    }

    fn set_fpu(&mut self, state: Option<&[u8]>) -> SysResult<()> {
        if state.is_some_and(|state| state.len() < 512) {
            return Err(Errno::EINVAL);
        }
        // The host's frame may lie where the new state goes; so move to a frame of our own.
        self.frame = self.slot().make_frame(state);
        Ok(())
    }

    fn run(&mut self) -> Event {
        let thread = Arc::clone(&self.thread);
        thread.running.store(true, Ordering::SeqCst);
        if thread.interrupted.take() {
            thread.running.store(false, Ordering::SeqCst);
            return Event::Interrupted;
        }
        if !thread.space.alive() {
            thread.running.store(false, Ordering::SeqCst);
            return Event::Died;
        }
        // A program counter or stack pointer that the host would refuse faults there, as it does natively.
        self.slot().set_registers(self.frame, &self.registers);
        let start = Instant::now();
        self.command(layout::RESUME);
        let answered = self.wait();
        self.guest_time += start.elapsed();
        thread.running.store(false, Ordering::SeqCst);
        *thread.sent.lock() = None;
        if !answered {
            return Event::Died;
        }
        let event = self.event();
        if event == Event::Interrupted {
            thread.interrupted.take();
        }
        event
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::clone(&self.thread) as Arc<dyn Interrupter>
    }

    fn memory(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()> {
        let mut batch = Vec::new();
        for operation in operations {
            let (call, file) = operation_call(operation)?;
            match file {
                None => batch.push(call),
                Some(fd) => {
                    self.calls(&std::mem::take(&mut batch))?;
                    self.map_file(call, fd)?;
                }
            }
        }
        self.calls(&batch)
    }

    fn fork(&mut self) -> SysResult<Box<dyn Context>> {
        let fpu = self.slot().fpu(self.frame);
        let child = self.fork_with(self.registers, fpu.as_deref())?;
        Ok(Box::new(child))
    }

    fn spawn(&mut self) -> SysResult<Box<dyn Context>> {
        let space = Arc::clone(&self.thread.space);
        let shared = Arc::clone(&space.shared);
        let slot = space.take_slot(None)?;
        slot.word(STATE).store(layout::RUN, Ordering::SeqCst);
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let turn = shared.listener.turn();
        self.clone_call(&turn, flags as u64, slot.address)?;
        if !self.wait() {
            return Err(Errno::ESRCH);
        }
        let tid = self.result()? as i32;
        // The stub names its new thread; it can only name one of its own.
        // SAFETY: signal 0 only asks whether there is such a thread.
        if unsafe { libc::syscall(libc::SYS_tgkill, space.pid, tid, 0) } != 0 {
            space.kill();
            return Err(Errno::ESRCH);
        }
        let thread = Thread::new(&space, slot, tid);
        drop(turn);
        let fpu = self.slot().fpu(self.frame);
        let child = StubContext::with(thread, self.registers, fpu.as_deref());
        if !child.wait() {
            return Err(Errno::ESRCH);
        }
        Ok(Box::new(child))
    }

    fn compare_exchange(&mut self, address: u64, expected: u32, new: u32) -> SysResult<u32> {
        if address % 4 != 0 || address >= GUEST_END {
            return Err(Errno::EFAULT);
        }
        self.slot().set(CALL, address);
        self.slot().set(CALL + 8, expected.into());
        self.slot().set(CALL + 16, new.into());
        self.perform(layout::EXCHANGE)?;
        u32::try_from(self.slot().get(RESULT)).map_err(|_| Errno::EFAULT)
    }

    fn cpu_time(&self) -> Duration {
        self.guest_time
    }
}

/// The system call that carries out an operation, and the file that it maps.
fn operation_call<'a>(
    operation: &MemoryOp<'a>,
) -> SysResult<([u64; 7], Option<std::os::fd::BorrowedFd<'a>>)> {
    let check = |address: u64, length: u64| {
        let end = address.checked_add(length).ok_or(Errno::EINVAL)?;
        if address % 4096 != 0 || length % 4096 != 0 || end > GUEST_END { Err(Errno::EINVAL) } else { Ok(()) }
    };
    let anonymous = libc::MAP_ANONYMOUS as u64;
    Ok(match *operation {
        MemoryOp::Map { address, length, protection, shared, flags, file } => {
            check(address, length)?;
            let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE } as u64;
            let flags = (u64::from(flags) & !anonymous & !0xf) | kind | libc::MAP_FIXED as u64;
            let map = number(libc::SYS_mmap);
            match file {
                None => (
                    [map, address, length, protection.into(), flags | anonymous, u64::from(u32::MAX), 0],
                    None,
                ),
                Some((fd, offset)) => ([map, address, length, protection.into(), flags, 0, offset], Some(fd)),
            }
        }
        MemoryOp::Unmap { address, length } => {
            check(address, length)?;
            ([number(libc::SYS_munmap), address, length, 0, 0, 0, 0], None)
        }
        MemoryOp::Protect { address, length, protection } => {
            check(address, length)?;
            ([number(libc::SYS_mprotect), address, length, protection.into(), 0, 0, 0], None)
        }
        MemoryOp::Remap { from, from_length, to, to_length, keep } => {
            check(from, from_length)?;
            check(to, to_length)?;
            let moved = if from == to { 0 } else { libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED };
            let keep = if keep { libc::MREMAP_DONTUNMAP } else { 0 };
            ([number(libc::SYS_mremap), from, from_length, to_length, (moved | keep) as u64, to, 0], None)
        }
        MemoryOp::Advise { address, length, advice } => {
            check(address, length)?;
            ([number(libc::SYS_madvise), address, length, advice.into(), 0, 0, 0], None)
        }
    })
}

impl Drop for StubContext {
    fn drop(&mut self) {
        *self.thread.closed.lock() = true;
        let space = &self.thread.space;
        let mut threads = space.threads.lock();
        threads.retain(|other| {
            other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&self.thread))
        });
        let last = threads.is_empty();
        drop(threads);
        space.shared.listener.remove([self.thread.tid.cast_unsigned()]);
        if last || !space.alive() {
            space.kill();
        } else if self.thread.tid != space.pid
            && self.slot().word(STATE).load(Ordering::SeqCst) == layout::REQUEST
        {
            // The first thread stays, waiting: the process is named after it. Others end, and leave their slots.
            self.command(layout::EXIT);
            space.slots.lock().leaving.push(Arc::clone(&self.thread.slot));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        unmap_slot(self);
    }
}
