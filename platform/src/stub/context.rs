//! A guest thread.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use abi::signal::{SI_KERNEL, Signal};
use abi::{Errno, SysResult};

use super::filter::ARCHITECTURE;
use super::frame;
use super::layout::*;
use super::notify::Caller;
use super::slot::{Gone, Patience, Slot};
use super::space::{Space, Thread};
use super::spin::Habits;
use super::{memory, text};
use crate::{AddressSpace, Context, Event, Fault, Interrupter, MemoryOp, Registers};

/// For how many ticks ([`super::slot::TICK`]) an interrupt may go unanswered before the process is killed: its guest
/// must have blocked the signal, by a frame of its own for the stub's `rt_sigreturn`.
const INTERRUPT_TICKS: u32 = 5;
/// For how many ticks a stub may carry out a command. Guest code in another thread may have spoilt it; and the host may
/// have to unmap a great deal of memory.
const COMMAND_TICKS: u32 = 20;

/// One guest thread and the host thread that runs it.
pub struct StubContext {
    space: Arc<Space>,
    as_trait: Arc<dyn AddressSpace>,
    thread: Thread,
    registers: Registers,
    /// Where in the slot the frame is that the FPU state is in.
    frame: usize,
    interrupt: Arc<Interrupt>,
    /// Whether the stub thread has yet to report for the first time.
    starting: Cell<bool>,
    habits: Habits,
    /// What the host thread had used when it became this guest thread.
    cpu_time_before: Duration,
}

impl std::fmt::Debug for StubContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StubContext").field("pid", &self.space.pid).field("thread", &self.thread.id).finish()
    }
}

/// Brings a context back from guest code.
#[derive(Debug)]
struct Interrupt {
    wanted: AtomicBool,
    /// Whether the guest runs, or is about to.
    in_guest: AtomicBool,
    /// Ticks since the interrupt was noticed unanswered.
    unanswered: AtomicU32,
    space: Arc<Space>,
    thread: i32,
}

impl Interrupter for Interrupt {
    fn interrupt(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        if self.in_guest.load(Ordering::SeqCst) {
            let _ = self.space.signal_thread(self.thread, INTERRUPT_SIGNAL);
        }
    }
}

impl Interrupt {
    fn tick(&self) -> Result<(), Gone> {
        self.space.shared.notifications.dismiss_unexpected();
        if !self.wanted.load(Ordering::SeqCst) {
            self.unanswered.store(0, Ordering::Relaxed);
            return Ok(());
        }
        if self.unanswered.fetch_add(1, Ordering::Relaxed) < INTERRUPT_TICKS {
            let _ = self.space.signal_thread(self.thread, INTERRUPT_SIGNAL);
            return Ok(());
        }
        tracing::warn!(pid = self.space.pid, "stub does not answer, killing it");
        self.space.kill();
        Err(Gone)
    }
}

impl StubContext {
    /// A guest thread on `thread`, with the given state.
    pub fn new(space: Arc<Space>, thread: Thread, registers: Registers, fpu: &[u8]) -> StubContext {
        let frame = frame::build(&thread.slot, fpu);
        let interrupt = Arc::new(Interrupt {
            wanted: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            unanswered: AtomicU32::new(0),
            space: space.clone(),
            thread: thread.id,
        });
        StubContext {
            as_trait: space.clone(),
            space,
            thread,
            registers,
            frame,
            interrupt,
            starting: Cell::new(true),
            habits: Habits::default(),
            cpu_time_before: Duration::ZERO,
        }
    }

    /// Whether the process has ended.
    pub fn is_dead(&self) -> bool {
        self.space.dead.load(Ordering::SeqCst)
    }

    fn slot(&self) -> &Slot {
        &self.thread.slot
    }

    /// Waits for the stub's next report; ends in time only if the stub is not hostile.
    fn wait(&self, tick: &dyn Fn(u32) -> Result<(), Gone>) -> Result<(), Gone> {
        self.slot().wait(&Patience { dead: &self.space.dead, tick })
    }

    /// Gives the turn to the stub.
    fn post(&self, command: u32) {
        let spin = self.habits.kernel_done(&self.space.shared.spinning);
        self.slot().post(command, spin);
    }

    /// Waits for the report after a command, or for the thread's first.
    fn wait_done(&self) -> SysResult<()> {
        let rules = &self.space.shared.spinning;
        self.habits.spin(rules, false, |ticks| self.slot().spin(ticks));
        let waited = self.wait(&|ticks| if ticks < COMMAND_TICKS { Ok(()) } else { Err(Gone) });
        if waited.is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        self.habits.guest_done(rules, None);
        Ok(())
    }

    /// Makes sure that the stub thread waits for a command.
    fn ready(&self) -> SysResult<()> {
        if self.starting.get() {
            self.wait_done()?;
            self.starting.set(false);
        }
        if self.space.dead.load(Ordering::SeqCst) { Err(Errno::ESRCH) } else { Ok(()) }
    }

    /// The result of the command just done.
    fn result(&self) -> SysResult<u64> {
        let result = self.slot().result();
        if (-4095..0).contains(&result) {
            return Err(Errno::from_raw(i32::try_from(-result).unwrap_or(0)));
        }
        Ok(result.cast_unsigned())
    }

    /// Makes system calls in the stub; the file, if there is one, is what the first of them maps.
    fn calls(&self, calls: &[memory::Call], file: Option<BorrowedFd<'_>>) -> SysResult<()> {
        self.ready()?;
        for (index, word) in calls.iter().flatten().enumerate() {
            self.slot().memory().store(BUFFER + 8 * index, *word);
        }
        self.slot().field(COUNT).store(calls.len() as u32, Ordering::Relaxed);
        let Some(file) = file else {
            self.post(COMMAND_CALLS);
            self.wait_done()?;
            return self.result().map(drop);
        };
        // Held until the fd is closed again: it has a fixed number in the stub.
        let answering = self.space.shared.notifications.lock();
        self.post(COMMAND_CALLS);
        let caller = Caller::Thread(self.thread.id, self.space.pidfd.as_fd());
        let answered = answering
            .expect(&caller, libc::SYS_mmap, &calls[0][1..7])
            .and_then(|notification| answering.proceed_with(&notification, file));
        if answered.is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        self.wait_done()?;
        self.result().map(drop)
    }

    fn fpu_bytes(&self) -> Vec<u8> {
        frame::fpu(self.slot(), self.frame).unwrap_or_else(|| self.space.shared.fpu.initial().to_vec())
    }

    /// Makes sense of what the stub has reported; `None` for something to ignore, an error for nonsense.
    fn event(&mut self) -> Result<Option<Event>, Gone> {
        let thread = self.thread.clone();
        let slot = &*thread.slot;
        if slot.field(KIND).load(Ordering::Relaxed) != KIND_SIGNAL {
            return Err(Gone);
        }
        let signal = slot.field(SIGNAL).load(Ordering::Relaxed).cast_signed();
        let context = slot.memory().load(UCONTEXT);
        self.frame = slot.offset_of(context, frame::UCONTEXT_SIZE).ok_or(Gone)?;
        let trap = frame::load(slot, self.frame, &mut self.registers);
        let info = slot.offset_of(slot.memory().load(SIGINFO), 32).ok_or(Gone)?;
        match signal {
            INTERRUPT_SIGNAL => {
                Ok(self.interrupt.wanted.swap(false, Ordering::SeqCst).then_some(Event::Interrupted))
            }
            libc::SIGSYS => {
                let architecture = (slot.memory().load(info + 24) >> 32) as u32;
                if architecture == ARCHITECTURE {
                    self.registers.orig_rax = self.registers.rax;
                    self.registers.rax = Errno::ENOSYS.to_ret();
                    return Ok(Some(Event::Syscall));
                }
                // `int 0x80`, which this kernel does not know: the processor's answer without such a gate.
                self.registers.rip = self.registers.rip.wrapping_sub(2);
                Ok(Some(Event::Fault(Fault {
                    signal: Signal::SIGSEGV,
                    code: SI_KERNEL,
                    address: 0,
                    trap: 13,
                    error: 0x80 * 8 + 2,
                })))
            }
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP => {
                Ok(Some(Event::Fault(Fault {
                    signal: Signal::new(signal).ok_or(Gone)?,
                    code: slot.memory().word(info + 8).load(Ordering::Relaxed).cast_signed(),
                    address: slot.memory().load(info + 16),
                    trap: trap.number,
                    error: trap.error,
                })))
            }
            _ => Err(Gone),
        }
    }

    /// Resumes the guest once.
    fn resume(&mut self) -> Result<Option<Event>, Gone> {
        self.ready().map_err(|_| Gone)?;
        frame::store(self.slot(), self.frame, &self.registers);
        self.slot().memory().store(UCONTEXT, slot_address(self.slot().index) + self.frame as u64);
        self.interrupt.in_guest.store(true, Ordering::SeqCst);
        if self.interrupt.wanted.swap(false, Ordering::SeqCst) {
            self.interrupt.in_guest.store(false, Ordering::SeqCst);
            return Ok(Some(Event::Interrupted));
        }
        self.post(COMMAND_RESUME);
        self.interrupt.unanswered.store(0, Ordering::Relaxed);
        let rules = &self.space.shared.spinning;
        let running = rules.guest_runs();
        self.habits.spin(rules, true, |ticks| self.slot().spin(ticks));
        let waited = self.wait(&|_| self.interrupt.tick());
        drop(running);
        let memory = self.slot().memory();
        let ran = memory.load(REPORTED).wrapping_sub(memory.load(RESUMED));
        self.habits.guest_done(rules, Some(ran));
        self.interrupt.in_guest.store(false, Ordering::SeqCst);
        waited?;
        self.event()
    }
}

impl Context for StubContext {
    fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.as_trait
    }

    fn registers(&self) -> &Registers {
        &self.registers
    }

    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn fpu(&self) -> Vec<u8> {
        self.fpu_bytes()
    }

    fn set_fpu(&mut self, state: Option<&[u8]>) -> SysResult<()> {
        let format = &self.space.shared.fpu;
        let clean = match state {
            Some(state) => format.sanitise(state).ok_or(Errno::EINVAL)?,
            None => format.initial().to_vec(),
        };
        self.frame = frame::build(self.slot(), &clean);
        Ok(())
    }

    fn run(&mut self) -> Event {
        loop {
            match self.resume() {
                Ok(Some(event)) => return event,
                Ok(None) => {}
                Err(Gone) => {
                    self.space.kill();
                    return Event::Died;
                }
            }
        }
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.interrupt.clone()
    }

    fn memory(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()> {
        memory::batches(operations, |calls, file| self.calls(calls, file))
    }

    fn fork(&mut self) -> SysResult<Box<dyn Context>> {
        self.ready()?;
        let fpu = self.fpu_bytes();
        let caller = Caller::Thread(self.thread.id, self.space.pidfd.as_fd());
        let (space, thread) = self.space.shared.clone_process(self.slot(), &caller, &|| {
            self.wait_done()?;
            self.result()
        })?;
        Ok(Box::new(StubContext::new(space, thread, self.registers, &fpu)))
    }

    fn spawn(&mut self) -> SysResult<Box<dyn Context>> {
        self.ready()?;
        let fpu = self.fpu_bytes();
        if let Some(thread) = self.space.unpark() {
            self.space.add_context();
            let mut context = StubContext::new(self.space.clone(), thread, self.registers, &fpu);
            context.starting.set(false);
            context.cpu_time_before = context.host_cpu_time();
            return Ok(Box::new(context));
        }
        let slot = self.space.allocate_slot()?;
        let started = self.start_thread(&slot);
        let id = started.inspect_err(|_| self.space.release_slot(&slot))?;
        self.space.add_context();
        let thread = Thread { slot, id };
        Ok(Box::new(StubContext::new(self.space.clone(), thread, self.registers, &fpu)))
    }

    fn compare_exchange(&mut self, address: u64, expected: u32, new: u32) -> SysResult<u32> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if !GUEST.contains(&address) {
            return Err(Errno::EFAULT);
        }
        self.ready()?;
        let memory = self.slot().memory();
        memory.store(ARGUMENTS, address);
        memory.store(ARGUMENTS + 8, expected.into());
        memory.store(ARGUMENTS + 16, new.into());
        self.post(COMMAND_EXCHANGE);
        self.wait_done()?;
        self.result().map(|found| found as u32)
    }

    fn cpu_time(&self) -> Duration {
        self.host_cpu_time().saturating_sub(self.cpu_time_before)
    }
}

impl StubContext {
    /// Makes the stub start a host thread on `slot`; returns its id.
    fn start_thread(&self, slot: &Slot) -> SysResult<i32> {
        let stack = slot_stack(slot.index);
        self.slot().memory().store(ARGUMENTS, stack);
        let answering = self.space.shared.notifications.lock();
        self.post(COMMAND_SPAWN);
        let caller = Caller::Thread(self.thread.id, self.space.pidfd.as_fd());
        let answered = answering
            .expect(&caller, libc::SYS_clone, &[text::SPAWN_FLAGS, stack, 0, 0, 0])
            .and_then(|notification| answering.proceed(&notification));
        drop(answering);
        if answered.is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        self.wait_done()?;
        let id = i32::try_from(self.result()?).map_err(|_| Errno::ESRCH)?;
        // The stub's word is not enough: the id must at least be that of one of the process's threads.
        if self.space.signal_thread(id, 0).is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        Ok(id)
    }

    fn host_cpu_time(&self) -> Duration {
        if let Some(time) = self.space.single_thread_cpu_time() {
            return time;
        }
        let place = slot_address(self.slot().index) + BUFFER as u64 + CALL_SIZE as u64;
        let clock = libc::CLOCK_THREAD_CPUTIME_ID as u64;
        if self.calls(&[[libc::SYS_clock_gettime as u64, clock, place, 0, 0, 0, 0, 0]], None).is_err() {
            return Duration::ZERO;
        }
        let memory = self.slot().memory();
        let nanoseconds = memory.load(BUFFER + CALL_SIZE + 8).min(999_999_999);
        Duration::new(memory.load(BUFFER + CALL_SIZE), nanoseconds as u32)
    }
}

impl Drop for StubContext {
    fn drop(&mut self) {
        if self.space.remove_context() {
            self.space.kill();
        } else if self.ready().is_ok() {
            self.space.park(self.thread.clone());
        }
    }
}
