//! A guest thread.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use abi::{Errno, SysResult};

use super::frame;
use super::layout::*;
use super::memory;
use super::patch::{self, Heat, Site};
use super::preloaded;
use super::slot::{Before, Gone, Slot};
use super::space::{Born, Space, Thread};
use super::spin::Habits;
use crate::{
    AddressSpace, CallSite, Context, DefaultActions, Description, DirectFiles, Event, Interrupter, MemoryOp,
    OwnState, Pointed, Registers, Uses,
};

mod accounting;
mod code;
mod commands;
mod copy;
mod event;
mod interrupt;

use commands::place_of_record;
pub use interrupt::Interrupt;
use interrupt::Own;

/// The most bytes of a delivery: to copy more than that twice costs more than to wait.
const DELIVERY_MAX: usize = 16 << 10;

/// One guest thread and the host thread that runs it.
pub struct StubContext {
    space: Arc<Space>,
    as_trait: Arc<dyn AddressSpace>,
    thread: Thread,
    registers: Registers,
    /// Where the FPU state is, and how the guest is resumed.
    stop: Cell<Stop>,
    /// The registers of a patched call as the stub has reported them.
    called: Registers,
    /// The instruction that the host has trapped.
    trap: Option<Trap>,
    trapped: u64,
    patched: u64,
    interrupt: Arc<Interrupt>,
    /// Whether the stub thread has yet to report for the first time.
    starting: Cell<bool>,
    habits: Habits,
    /// Which guest memory the stub has sent along with the call that it is in.
    sent: Cell<Option<Sent>>,
    /// What is to be in guest memory before the guest goes on: the first so many bytes of the buffer.
    delivery: Cell<Option<Delivery>>,
    /// How much of a delivery has got there, if not all has and nobody has been told.
    undelivered: Cell<Option<usize>>,
    /// The delivery that has failed last.
    failed: RefCell<Option<(u64, Vec<u8>)>>,
    /// What the host is to be told with the next calls.
    described: Cell<Option<Description>>,
    /// How many calls there are in the buffer that are to be made before the guest goes on,
    pending: Cell<usize>,
    /// and whether they write code, the bytes of which follow them. That takes a while.
    writes_code: Cell<bool>,
}

impl std::fmt::Debug for StubContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StubContext").field("pid", &self.space.pid).field("thread", &self.thread.id).finish()
    }
}

/// Guest memory that has come along with a call.
#[derive(Clone, Copy, Debug)]
struct Sent {
    address: u64,
    length: usize,
    what: Pointed,
}

/// A system call instruction that the host has trapped.
#[derive(Clone, Copy, Debug)]
struct Trap {
    /// The address behind it.
    after: u64,
    /// The number of the call.
    number: u64,
    /// What it means that it has.
    heat: Heat,
}

/// Bytes for guest memory that lie in the buffer.
#[derive(Clone, Copy, Debug)]
struct Delivery {
    address: u64,
    length: usize,
}

/// How the guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Its state is in a signal frame at this offset of the slot.
    Frame(usize),
    /// In a patched call: the FPU state is in the thread.
    Call,
}

impl StubContext {
    /// A guest thread on `thread`, with the given state.
    pub fn new(space: Arc<Space>, thread: Thread, registers: Registers, fpu: &[u8]) -> StubContext {
        let stop = Stop::Frame(frame::build(&thread.slot, fpu));
        StubContext::stopped(space, thread, registers, stop)
    }

    /// A guest thread on `thread`, whose state is there already.
    fn stopped(space: Arc<Space>, thread: Thread, registers: Registers, stop: Stop) -> StubContext {
        let slot = &thread.slot;
        slot.field(MAGIC).store(if space.shared.patching { MAGIC_VALUE } else { 0 }, Ordering::Relaxed);
        slot.field(INTERRUPTED).store(0, Ordering::Relaxed);
        (0..POINTER_COUNT / 8).for_each(|index| slot.memory().store(POINTERS + 8 * index, 0));
        (0..ANSWER_COUNT).for_each(|number| slot.field(ANSWERS + 4 * number).store(0, Ordering::Relaxed));
        slot.field(DELIVERY).store(0, Ordering::Relaxed);
        [PRISTINE, RESTORED].iter().for_each(|set| slot.memory().store(*set, 0));
        slot.field(OWN).store(0, Ordering::Relaxed);
        [MASK, ROBUST_LIST].iter().for_each(|own| slot.memory().store(*own, 0));
        [ALLOWED, HAZARD, WATCH, WATCHED]
            .iter()
            .for_each(|field| slot.field(*field).store(0, Ordering::SeqCst));
        let interrupt = Arc::new(Interrupt {
            wanted: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            unanswered: AtomicU32::new(0),
            used_before: AtomicU64::new(0),
            used: AtomicU64::new(0),
            space: space.clone(),
            thread: thread.id,
            slot: Arc::clone(&thread.slot),
        });
        space.add_runner(&interrupt);
        StubContext {
            as_trait: space.clone(),
            space,
            thread,
            registers,
            stop: Cell::new(stop),
            called: Registers::default(),
            trap: None,
            trapped: 0,
            patched: 0,
            interrupt,
            starting: Cell::new(true),
            habits: Habits::of_thread(),
            sent: Cell::default(),
            delivery: Cell::default(),
            undelivered: Cell::default(),
            failed: RefCell::default(),
            described: Cell::default(),
            pending: Cell::default(),
            writes_code: Cell::default(),
        }
    }

    /// Makes the thread ready to run a program's first, which makes some calls soon.
    pub fn expect_program(&mut self) {
        self.habits = Habits::of_program();
    }

    /// Says what the process was born with.
    pub fn born(&self, born: Born) {
        let _ = self.space.born.set(born);
    }

    /// Whether the process has ended.
    pub fn is_dead(&self) -> bool {
        self.space.dead.load(Ordering::SeqCst)
    }

    /// The process, as this one knows it.
    pub fn process_id(&self) -> i32 {
        self.space.pid
    }

    /// `fork(2)`: a thread in a copy of the address space, with the same state.
    pub fn copy(&self) -> SysResult<StubContext> {
        self.flush();
        self.ready()?;
        let caller = (self.thread.id, self.space.pidfd.as_fd());
        let sites = self.space.sites.lock();
        // The copy gets no file that another thread is just being handed.
        let held = self.space.files.lock();
        let residents = self.space.residents.hold();
        let directs = self.space.directs.hold();
        let (space, thread) = self.space.shared.clone_process(self.slot(), caller, &|| {
            self.wait_done()?;
            self.result()
        })?;
        space.sites.lock().clone_from(&sites);
        space.residents.inherit(&residents);
        space.directs.inherit(&directs, &self.space.directs);
        space.files.lock().clone_from(&held);
        space.holds.store(held.is_some(), Ordering::Relaxed);
        if let Some(born) = self.space.born.get() {
            let _ = space.born.set(born.clone());
        }
        drop((sites, residents, directs, held));
        if self.stop.get() != Stop::Call {
            return Ok(StubContext::new(space, thread, self.registers, &self.fpu_bytes()));
        }
        // The host has copied the FPU state with the thread.
        frame::copy_call(self.slot(), &thread.slot);
        let mut copy = StubContext::stopped(space, thread, self.registers, Stop::Call);
        copy.called = self.called;
        Ok(copy)
    }

    fn slot(&self) -> &Slot {
        &self.thread.slot
    }

    /// The FPU state, if the thread has saved it with the patched call that it is in.
    fn saved_fpu(&self) -> Option<Vec<u8>> {
        let slot = self.slot();
        let saved = self.stop.get() == Stop::Call
            && slot.field(SENT).load(Ordering::Relaxed) != 0
            && self.entry_of(self.called.rax) == Some(SENT_STATE);
        if saved { self.space.shared.fpu.saved(slot) } else { None }
    }

    fn fpu_bytes(&self) -> Vec<u8> {
        let frame = self.frame().ok();
        let state = frame.and_then(|frame| frame::fpu(self.slot(), frame));
        state.unwrap_or_else(|| self.space.shared.fpu.initial().to_vec())
    }

    /// The frame that the FPU state is in. A thread in a patched call first makes one.
    fn frame(&self) -> SysResult<usize> {
        if let Stop::Frame(frame) = self.stop.get() {
            return Ok(frame);
        }
        self.flush();
        self.ready()?;
        self.post(COMMAND_MATERIALISE);
        self.wait_done()?;
        let slot = self.slot();
        let reported = slot.field(KIND).load(Ordering::Relaxed) == KIND_SIGNAL;
        let offset = slot.offset_of(slot.memory().load(UCONTEXT), frame::UCONTEXT_SIZE);
        let Some(frame) = offset.filter(|_| reported) else {
            self.space.kill();
            return Err(Errno::ESRCH);
        };
        self.stop.set(Stop::Frame(frame));
        Ok(frame)
    }

    /// The command that resumes the guest. A thread that a patched call cannot return to has its state in a frame then.
    fn resuming(&self) -> SysResult<u32> {
        let returning = match self.stop.get() {
            Stop::Call => frame::return_command(&self.registers, &self.called),
            Stop::Frame(_) => None,
        };
        match returning {
            Some(command) => Ok(command),
            None => self.frame().map(|_| COMMAND_RESUME),
        }
    }

    /// Puts the guest's state where that command takes it from.
    fn store_state(&self, command: u32) {
        match self.stop.get() {
            Stop::Call => frame::store_call(self.slot(), &self.registers, command),
            Stop::Frame(frame) => {
                frame::store(self.slot(), frame, &self.registers);
                self.slot().memory().store(UCONTEXT, slot_address(self.slot().index) + frame as u64);
            }
        }
    }

    /// Says whether the guest may watch words that it is about to wait for.
    fn let_watch(&self) {
        let slot = self.slot();
        let (watch, watched) = (slot.field(WATCH), slot.field(WATCHED));
        let (left, watched) = (watch.load(Ordering::Relaxed), watched.load(Ordering::Relaxed));
        let may = self.habits.watch(&self.space.shared.spinning, (left, watched));
        if may != left {
            watch.store(may, Ordering::Relaxed);
        }
    }

    /// Resumes the guest once.
    fn resume(&mut self) -> Result<Option<Event>, Gone> {
        self.trap = None;
        self.sent.set(None);
        self.ready().map_err(|_| Gone)?;
        self.space.residents.close_unused(|numbers| self.close(numbers));
        self.close_unused();
        let leaving = self.space.leaving_files();
        if !leaving.is_empty() {
            self.close_later(&leaving).map_err(|_| Gone)?;
        }
        let command = self.resuming().map_err(|_| Gone)?;
        if let Some(done) = self.undelivered.take() {
            return Ok(Some(Event::Undelivered(done)));
        }
        // Before it counts as running: what comes from then on must not be lost.
        self.slot().set(INTERRUPTED, 0);
        self.interrupt.in_guest.store(true, Ordering::SeqCst);
        while self.space.wait_while_stopped(&self.interrupt.in_guest) {
            self.interrupt.in_guest.store(true, Ordering::SeqCst);
        }
        if self.interrupt.take() {
            self.interrupt.in_guest.store(false, Ordering::SeqCst);
            return Ok(Some(Event::Interrupted));
        }
        self.store_state(command);
        self.ask_time_used_before();
        let delivery =
            self.delivery.get().map_or((0, 0), |delivery| (delivery.address, delivery.length as u32));
        self.let_watch();
        self.post_after(command, &Before { delivery, pending: self.pending.get() as u32 });
        self.interrupt.unanswered.store(0, Ordering::Relaxed);
        let rules = &self.space.shared.spinning;
        let running = rules.guest_runs();
        let slot = self.slot();
        self.habits.place(rules, |place| slot.go(place));
        let alone = !self.writes_code.take();
        if !slot.is_here() {
            self.habits.spin(rules, alone, |ticks| slot.spin(ticks));
        }
        let waited = self.wait(&|_| self.interrupt.tick());
        drop(running);
        let delivered = slot.field(KIND).load(Ordering::Relaxed) != KIND_DONE;
        self.habits.turn_came(rules, &slot.told_times(), Some(delivered), slot.is_here());
        self.interrupt.in_guest.store(false, Ordering::SeqCst);
        waited?;
        if delivered {
            self.delivery.set(None);
            self.pending.set(0);
            self.note_time_used_before();
        }
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
        self.stop.set(Stop::Frame(frame::build(self.slot(), &clean)));
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

    fn rest(&self) {
        self.habits.blocks();
        self.slot().field(SPIN).store(0, Ordering::Relaxed);
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.interrupt.clone()
    }

    fn own_state(&self) -> Arc<dyn OwnState> {
        Arc::new(Own(Arc::clone(&self.thread.slot)))
    }

    fn describe(&mut self, description: Description) {
        self.described.set(Some(description));
    }

    fn memory(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()> {
        if operations.is_empty() {
            return self.calls(&[]);
        }
        operations.iter().try_for_each(|operation| self.undo_patches(operation))?;
        let space = self.space.clone();
        let born = space.born_with();
        let has_file = |operation: &MemoryOp<'_>| match operation {
            MemoryOp::Map { file: Some((file, _)), shared, .. } => {
                !shared && preloaded::number(born, file).is_some()
            }
            _ => true,
        };
        if operations.iter().all(has_file) {
            return memory::batches(operations, &mut None, born, |batch| self.change_memory(batch));
        }
        // A file has the same number in all threads of the process.
        let mut held = self.space.files.lock();
        let result = memory::batches(operations, &mut held, born, |batch| self.change_memory(batch));
        if result.is_err() {
            // Of what is held all can be mapped.
            *held = None;
            let _ = self.calls(&[memory::CLOSE]);
        }
        self.space.holds.store(held.is_some(), Ordering::Relaxed);
        result
    }

    fn memory_later(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()> {
        // Others could see that it has not been done yet, if it is more than to empty memory: who looks at that meanwhile
        // cannot know whether it has been.
        let empties = |operation: &MemoryOp<'_>| matches!(operation, MemoryOp::Advise { advice, .. } if *advice == libc::MADV_DONTNEED.cast_unsigned());
        let alone = self.space.is_single();
        let suitable = self.space.shared.mapping_lasts && (alone || operations.iter().all(empties));
        let calls = if suitable {
            memory::calls_without_asking(operations, &self.space.files.lock(), self.space.born_with())
        } else {
            None
        };
        let Some(mut calls) = calls else { return self.memory(operations) };
        if !alone {
            // Others may have unmapped it meanwhile.
            calls.iter_mut().for_each(|call| call[7] |= CALL_ALWAYS);
        }
        operations.iter().try_for_each(|operation| self.undo_patches(operation))?;
        self.flush();
        self.ready()?;
        self.put_records(0, &calls);
        self.pending.set(calls.len());
        Ok(())
    }

    fn fork(&mut self) -> SysResult<Box<dyn Context>> {
        Ok(Box::new(self.copy()?))
    }

    fn spawn(&mut self) -> SysResult<Box<dyn Context>> {
        self.flush();
        self.ready()?;
        let fpu = self.saved_fpu().unwrap_or_else(|| self.fpu_bytes());
        if let Some(thread) = self.space.unpark() {
            self.space.add_context();
            let context = StubContext::new(self.space.clone(), thread, self.registers, &fpu);
            context.starting.set(false);
            context.will_tell_time_used_before();
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
        self.flush();
        self.ready()?;
        let memory = self.slot().memory();
        memory.store(ARGUMENTS, address);
        memory.store(ARGUMENTS + 8, expected.into());
        memory.store(ARGUMENTS + 16, new.into());
        self.post(COMMAND_EXCHANGE);
        self.wait_done()?;
        self.result().map(|found| found as u32)
    }

    fn set_pointer(&mut self, number: u32, argument: usize, what: Pointed) {
        let number = number as usize;
        let field = [FAST_RDI, FAST_RSI].get(argument);
        if let (Some(field), true) = (field, number < POINTER_COUNT) {
            let all = if what == Pointed::Buffer { SENT_ALL } else { 0 };
            self.slot().memory().write(POINTERS + number, &[(field / 8) as u8 | all]);
        }
    }

    fn expect_end(&mut self, number: u32) {
        if (number as usize) < POINTER_COUNT {
            self.slot().memory().write(POINTERS + number as usize, &[(ROBUST_LIST / 8) as u8]);
        }
    }

    fn expect_spawn(&mut self, number: u32) {
        let (number, features) = (number as usize, self.space.shared.fpu.features());
        if number < POINTER_COUNT && features != 0 {
            self.slot().memory().store(FEATURES, features);
            self.slot().memory().write(POINTERS + number, &[SENT_STATE]);
        }
    }

    fn read_sent(&mut self, address: u64, buffer: &mut [u8]) -> usize {
        let Some(sent) = self.sent.get() else { return 0 };
        let Some(at) = address.checked_sub(sent.address).and_then(|at| usize::try_from(at).ok()) else {
            return 0;
        };
        let count = buffer.len().min(sent.length.saturating_sub(at));
        if count == 0 {
            // However far away the address is.
            return 0;
        }
        if sent.what == Pointed::Beginning {
            if at != 0 {
                return 0;
            }
            self.sent.set(None);
            self.slot().memory().read(SENT_BYTES, &mut buffer[..count]);
        } else {
            self.slot().memory().read(BUFFER + at, &mut buffer[..count]);
        }
        count
    }

    fn forget_sent(&mut self) {
        self.sent.set(None);
    }

    fn read(&mut self, address: u64, buffer: &mut [u8]) -> usize {
        self.copy_in(address, buffer)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> usize {
        self.copy_out(address, bytes)
    }

    fn read_pieces(&mut self, pieces: &[(u64, usize)], buffer: &mut [u8]) -> bool {
        self.gather(pieces, buffer)
    }

    fn write_pieces(&mut self, pieces: &[(u64, usize)], bytes: &[u8]) -> bool {
        self.scatter(pieces, bytes)
    }

    fn deliver(&mut self, address: u64, bytes: &[u8]) -> bool {
        if !self.may_deliver(address, bytes.len()) {
            return false;
        }
        self.slot().memory().write(BUFFER, bytes);
        self.delivery.set(Some(Delivery { address, length: bytes.len() }));
        true
    }

    fn deliver_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        if !self.may_deliver(address, length) {
            return None;
        }
        let read = self.slot().memory().read_file(file, offset, BUFFER, length);
        if let Ok(length @ 1..) = read {
            self.delivery.set(Some(Delivery { address, length }));
        }
        Some(read.map_err(Errno::from))
    }

    fn settle(&mut self) -> Option<usize> {
        self.flush();
        self.undelivered.take()
    }

    fn deliver_again(&mut self, done: usize) -> usize {
        let failed = self.failed.borrow();
        let Some((address, bytes)) = &*failed else { return 0 };
        bytes.get(done..).map_or(0, |rest| self.space.write(address + done as u64, rest))
    }

    fn read_file(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        self.copy_from_file(file, offset, address, length)
    }

    fn write_file(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        self.copy_to_file(file, offset, address, length)
    }

    fn trapped_call(&mut self) -> Option<Range<u64>> {
        let Trap { after, .. } = self.trap.filter(|trap| trap.heat != Heat::Old)?;
        Some(patch::window(after)).filter(|window| GUEST.start <= window.start && window.end <= GUEST.end)
    }

    fn is_worth_preloading(&mut self, file: &Arc<OwnedFd>) -> bool {
        self.space
            .born
            .get()
            .is_some_and(|born| preloaded::number(&born.files, file).is_none() && born.pool.note(file))
    }

    fn preload(&mut self, file: &Arc<OwnedFd>) {
        if let Some(born) = self.space.born.get() {
            born.pool.want(file);
        }
    }

    fn hot_call(&mut self) -> Option<Range<u64>> {
        self.trap.filter(|trap| trap.heat == Heat::Hot)?;
        self.trapped_call()
    }

    fn call_site(&mut self) -> Option<CallSite> {
        let Trap { after, number, .. } = self.trap?;
        let mut code = [0; patch::WINDOW];
        let read = self.space.read_code(patch::window(after).start, &mut code);
        read.then_some(CallSite { code, number })
    }

    fn patch(&mut self, protection: u32) -> SysResult<bool> {
        let Some(Trap { after, number, .. }) = self.trap.take() else { return Ok(false) };
        let patched =
            self.patch_sites(protection, &[after], |_, code| Site::recognise(after, code, number, &[]))?;
        Ok(patched > 0)
    }

    fn patch_known(&mut self, protection: u32, sites: &[(u64, CallSite)]) -> SysResult<usize> {
        let ends: Vec<u64> = sites.iter().map(|(window, _)| patch::end_of_call(*window)).collect();
        let mut taken = Vec::new();
        self.patch_sites(protection, &ends, |index, code| {
            let (after, (_, known)) = (*ends.get(index)?, sites.get(index)?);
            let same = code.window(after)? == known.code;
            let site = Site::recognise(after, code, known.number, &taken).filter(|_| same)?;
            taken.extend(site.operand());
            Some(site)
        })
    }

    fn set_answer(&mut self, number: u32, answer: Option<u32>) {
        let number = number as usize;
        if number < ANSWER_COUNT && (number as i64 != libc::SYS_futex || self.space.common().is_some()) {
            let answer = answer.and_then(|answer| answer.checked_add(1)).unwrap_or(0);
            self.slot().field(ANSWERS + 4 * number).store(answer, Ordering::Relaxed);
        }
    }

    fn set_default_actions(&mut self, actions: DefaultActions) {
        let DefaultActions { pristine, restored, settable, restorer } = actions;
        for (field, value) in
            [(PRISTINE, pristine), (RESTORED, restored), (SETTABLE, settable), (RESTORER, restorer)]
        {
            self.slot().memory().store(field, value);
        }
    }

    fn restored_actions(&self) -> u64 {
        self.slot().memory().load(RESTORED)
    }

    fn peak(&mut self) -> u64 {
        // The host formats a whole page of text to tell another process.
        let spins = self.habits.stub_spins(&self.space.shared.spinning) && !self.slot().stub_sleeps();
        let told = spins.then(|| self.host_peak()).flatten();
        told.unwrap_or_else(|| self.space.peak())
    }

    fn cpu_time(&self) -> Duration {
        self.interrupt.note_cpu_time(self.host_cpu_time())
    }

    fn direct_files(&self) -> Option<Arc<dyn DirectFiles>> {
        Some(self.space.clone())
    }

    fn is_worth_direct(&mut self, fd: u32, file: &Arc<OwnedFd>, uses: Uses, length: usize) -> bool {
        // Where nothing is patched, the kernel hears of all calls anyway.
        self.space.shared.patching
            && !self.starting.get()
            && !self.is_direct(fd, file, uses)
            && (self.space.directs.number(file).is_some() || self.space.directs.is_worth_it(file, length))
    }

    fn make_direct(&mut self, file: &Arc<OwnedFd>, uses: Uses) -> bool {
        let Uses { read, write } = self.space.shared.direct;
        if (uses.read && !read) || (uses.write && !write) {
            return false;
        }
        self.flush();
        self.space.make_direct(file, uses, |number| self.give_file(file, number))
    }

    fn keep_direct(&mut self, keep: &dyn Fn(&Arc<OwnedFd>) -> bool) {
        self.space.keep_files(keep);
    }

    fn close_direct(&mut self) {
        if self.space.is_owned_by(0) && self.space.has_direct_writers() && !self.is_dead() {
            self.space.keep_files(&|_| false);
            self.close(&self.space.leaving_files());
        }
    }
}

impl StubContext {
    /// Whether a descriptor of the guest's stands for this direct file, which the thread may use in this way.
    pub fn is_direct(&self, fd: u32, file: &Arc<OwnedFd>, uses: Uses) -> bool {
        self.slot().allows(uses) && self.space.is_direct(fd, file, uses)
    }

    /// Whether so many bytes may be delivered: nothing else is waiting to be.
    fn may_deliver(&self, address: u64, length: usize) -> bool {
        self.flush();
        length <= DELIVERY_MAX && self.may_copy(address, length) && self.undelivered.get().is_none()
    }

    /// Makes room for something else in the buffer: what was to be delivered is written by other means.
    fn flush(&self) {
        if self.sent.get().is_some_and(|sent| sent.what == Pointed::Buffer) {
            self.sent.set(None);
        }
        let pending = self.pending.take();
        self.writes_code.set(false);
        if pending > 0 && self.call_recorded(pending).is_err() {
            tracing::warn!(pid = self.space.pid, "the host cannot change a mapping");
            self.space.kill();
        }
        let Some(delivery) = self.delivery.take() else { return };
        let bytes = self.delivery_bytes(delivery);
        let done = self.space.write(delivery.address, &bytes);
        if done < bytes.len() {
            self.undelivered.set(Some(done));
            *self.failed.borrow_mut() = Some((delivery.address, bytes));
        }
    }

    fn delivery_bytes(&self, delivery: Delivery) -> Vec<u8> {
        let mut bytes = vec![0; delivery.length];
        self.slot().memory().read(BUFFER, &mut bytes);
        bytes
    }
}

impl Drop for StubContext {
    fn drop(&mut self) {
        let counters = &self.space.shared.counters;
        counters.trapped.fetch_add(self.trapped, Ordering::Relaxed);
        counters.patched.fetch_add(self.patched, Ordering::Relaxed);
        if self.space.remove_context() {
            self.space.kill();
        } else if self.ready().is_ok() {
            self.space.park(self.thread.clone());
        }
    }
}
