//! A platform without guest code, for unit tests.
//!
//! A guest program is a closure: it runs on a thread of its own and makes system calls through its [`Guest`], which
//! reach the kernel under test as events of the context. Programs are queued with [`MockPlatform::program`], one for
//! each address space to come; a program hands over those of its children with [`Guest::child`]. When a program
//! returns, the guest calls `exit_group(0)`.
//!
//! ```
//! use platform::{Context, Event, Platform, mock::MockPlatform};
//!
//! let platform = MockPlatform::new();
//! platform.program(|guest| assert_eq!(guest.syscall(39, &[]), 7));
//! let mut context = platform.create().unwrap();
//! assert_eq!(context.run(), Event::Syscall);
//! assert_eq!(context.registers().orig_rax, 39);
//! context.registers_mut().rax = 7;
//! assert_eq!(context.run(), Event::Syscall);
//! assert_eq!(context.registers().orig_rax, 231);
//! ```
//!
//! Memory behaves as on a host, page by page, with protection, copy on write, and files read when they are touched.
//! Contexts without a program serve tests that call the kernel's functions themselves; their `run` says that they died.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use abi::{Errno, SysResult};
use parking_lot::{Condvar, Mutex};

use crate::{AddressSpace, Context, Event, Fault, Interrupter, MemoryOp, Platform, Registers, Vdso};

mod memory;

pub use memory::MockSpace;

/// The addresses that guest mappings may use: those of the real thing.
const GUEST: Range<u64> = 0x1_0000..0x7ff0_0000_0000;
/// `exit_group(2)` on x86-64.
const EXIT_GROUP: u64 = 231;

/// What a guest does.
type Program = Box<dyn FnOnce(&mut Guest) + Send>;

/// A platform whose guests are closures.
#[derive(Default)]
pub struct MockPlatform {
    programs: Mutex<VecDeque<Program>>,
}

impl MockPlatform {
    /// A platform without programs.
    pub fn new() -> MockPlatform {
        MockPlatform::default()
    }

    /// Queues the program of an address space that will be created.
    pub fn program(&self, program: impl FnOnce(&mut Guest) + Send + 'static) {
        self.programs.lock().push_back(Box::new(program));
    }
}

impl Platform for MockPlatform {
    fn create(&self) -> SysResult<Box<dyn Context>> {
        let space = Arc::new(MockSpace::default());
        let program = self.programs.lock().pop_front();
        Ok(Box::new(MockContext::new(space, Registers::initial(), initial_fpu(), program)))
    }

    fn memory_barrier(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn guest_range(&self) -> Range<u64> {
        GUEST
    }

    fn vdso(&self) -> Option<Vdso> {
        None
    }
}

/// The legacy area and header of `XSAVE` in the initial state.
fn initial_fpu() -> Vec<u8> {
    let mut state = vec![0; 576];
    state[..2].copy_from_slice(&0x37fu16.to_ne_bytes());
    state[24..28].copy_from_slice(&0x1f80u32.to_ne_bytes());
    state
}

/// What the two sides of a guest thread share.
#[derive(Default)]
struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Registers for the guest to go on with.
    resumed: Option<Registers>,
    /// What the guest has done last, with its registers.
    event: Option<(Event, Registers)>,
    interrupted: bool,
    /// The program of the next child.
    child: Option<Program>,
}

impl Interrupter for Link {
    fn interrupt(&self) {
        self.state.lock().interrupted = true;
        self.changed.notify_all();
    }

    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// The guest's side: what a program can do.
pub struct Guest {
    link: Arc<Link>,
    space: Arc<MockSpace>,
    registers: Registers,
}

impl Guest {
    /// Makes a system call; returns its result as the guest sees it, errors as negative numbers. Does not return once
    /// the guest has been killed.
    pub fn syscall(&mut self, number: u64, arguments: &[u64]) -> i64 {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        let registers = &mut self.registers;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = six;
        registers.orig_rax = number;
        registers.rax = Errno::ENOSYS.to_ret();
        self.stop(Event::Syscall);
        self.registers.rax.cast_signed()
    }

    /// Causes a processor exception; returns when the kernel resumes the guest.
    pub fn fault(&mut self, fault: Fault) {
        self.registers.orig_rax = u64::MAX;
        self.stop(Event::Fault(fault));
    }

    /// Makes `program` that of the next child made by `fork` or `spawn` of this guest's context.
    pub fn child(&mut self, program: impl FnOnce(&mut Guest) + Send + 'static) {
        self.link.state.lock().child = Some(Box::new(program));
    }

    /// The registers as the kernel left them.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The registers, to be seen by the kernel at the next event.
    pub fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    /// Reads memory as the guest; panics where that would fault.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        assert_eq!(self.space.read(address, &mut bytes), length, "guest fault at {address:#x}");
        bytes
    }

    /// Writes memory as the guest; panics where that would fault.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        assert_eq!(self.space.write(address, bytes), bytes.len(), "guest fault at {address:#x}");
    }

    fn stop(&mut self, event: Event) {
        let mut state = self.link.state.lock();
        state.event = Some((event, self.registers));
        self.link.changed.notify_all();
        loop {
            // A killed guest stays here for ever, with what it holds: there is no other way to stop a thread.
            match state.resumed.take() {
                Some(registers) if !self.space.is_dead() => {
                    self.registers = registers;
                    return;
                }
                _ => self.link.changed.wait(&mut state),
            }
        }
    }
}

/// A guest thread.
struct MockContext {
    space: Arc<MockSpace>,
    as_trait: Arc<dyn AddressSpace>,
    registers: Registers,
    fpu: Vec<u8>,
    link: Arc<Link>,
    program: Option<Program>,
    /// Whether the program has been started, and whether it has stopped since it was last resumed.
    started: bool,
    stopped: bool,
}

impl MockContext {
    fn new(
        space: Arc<MockSpace>,
        registers: Registers,
        fpu: Vec<u8>,
        program: Option<Program>,
    ) -> MockContext {
        let link = Arc::new(Link::default());
        space.add_thread(&link);
        let as_trait = space.clone();
        MockContext { space, as_trait, registers, fpu, link, program, started: false, stopped: false }
    }

    fn start(&mut self, program: Program) {
        let mut guest =
            Guest { link: self.link.clone(), space: self.space.clone(), registers: self.registers };
        let thread = std::thread::Builder::new().name("guest".into());
        let body = move || {
            program(&mut guest);
            loop {
                guest.syscall(EXIT_GROUP, &[0]);
            }
        };
        thread.spawn(body).expect("a thread for the mock guest");
    }

    fn child(&mut self, space: Arc<MockSpace>) -> Box<dyn Context> {
        let program = self.link.state.lock().child.take();
        Box::new(MockContext::new(space, self.registers, self.fpu.clone(), program))
    }
}

impl Link {
    /// Makes both sides look at the world anew.
    fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }
}

impl Context for MockContext {
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
        self.fpu.clone()
    }

    fn set_fpu(&mut self, state: Option<&[u8]>) -> SysResult<()> {
        self.fpu = match state {
            Some(state) if state.len() < 512 => return Err(Errno::EINVAL),
            Some(state) => state.to_vec(),
            None => initial_fpu(),
        };
        Ok(())
    }

    fn run(&mut self) -> Event {
        if self.space.is_dead() {
            return Event::Died;
        }
        if std::mem::take(&mut self.link.state.lock().interrupted) {
            return Event::Interrupted;
        }
        match self.program.take() {
            Some(program) => {
                self.started = true;
                self.start(program);
            }
            None if !self.started => return Event::Died,
            None => {}
        }
        let link = self.link.clone();
        let mut state = link.state.lock();
        if self.stopped {
            self.stopped = false;
            state.resumed = Some(self.registers);
            link.changed.notify_all();
        }
        loop {
            if self.space.is_dead() {
                return Event::Died;
            }
            if let Some((event, registers)) = state.event.take() {
                self.registers = registers;
                self.stopped = true;
                return event;
            }
            if std::mem::take(&mut state.interrupted) {
                return Event::Interrupted;
            }
            link.changed.wait(&mut state);
        }
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.link.clone()
    }

    fn memory(&mut self, operations: &[MemoryOp<'_>]) -> SysResult<()> {
        operations.iter().try_for_each(|operation| self.space.change(operation))
    }

    fn fork(&mut self) -> SysResult<Box<dyn Context>> {
        let space = Arc::new(self.space.copy());
        Ok(self.child(space))
    }

    fn spawn(&mut self) -> SysResult<Box<dyn Context>> {
        let space = self.space.clone();
        Ok(self.child(space))
    }

    fn compare_exchange(&mut self, address: u64, expected: u32, new: u32) -> SysResult<u32> {
        self.space.compare_exchange(address, expected, new)
    }

    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl Drop for MockContext {
    fn drop(&mut self) {
        if self.space.remove_thread(&self.link) {
            self.space.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const BASE: u64 = 0x40_0000;
    const RW: u32 = 3;

    fn anonymous(length: u64, shared: bool) -> MemoryOp<'static> {
        MemoryOp::Map { address: BASE, length, protection: RW, shared, flags: 0, file: None }
    }

    #[test]
    fn a_program_meets_the_kernel_at_system_calls() {
        let platform = MockPlatform::new();
        platform.program(|guest| {
            assert_eq!(guest.syscall(1, &[2, 3]), 42);
            let signal = abi::signal::Signal::SIGSEGV;
            guest.fault(Fault { signal, code: 1, address: 8, trap: 14, error: 2 });
        });
        let mut context = platform.create().expect("a context");
        assert_eq!(context.run(), Event::Syscall);
        assert_eq!(context.registers().orig_rax, 1);
        assert_eq!(context.registers().arguments(), [2, 3, 0, 0, 0, 0]);
        context.registers_mut().rax = 42;
        assert!(matches!(context.run(), Event::Fault(Fault { address: 8, .. })));
        assert_eq!(context.run(), Event::Syscall);
        assert_eq!(context.registers().orig_rax, EXIT_GROUP);
        context.space().kill();
        assert_eq!(context.run(), Event::Died);
    }

    #[test]
    fn interrupts_are_kept_and_count_once() {
        let platform = MockPlatform::new();
        platform.program(|guest| while guest.syscall(1, &[]) == 0 {});
        let mut context = platform.create().expect("a context");
        context.interrupter().interrupt();
        context.interrupter().interrupt();
        assert_eq!(context.run(), Event::Interrupted);
        assert_eq!(context.run(), Event::Syscall);
    }

    #[test]
    fn an_interrupt_ends_a_run_that_waits_for_the_program() {
        let platform = MockPlatform::new();
        platform.program(|_| {
            loop {
                std::thread::park();
            }
        });
        let mut context = platform.create().expect("a context");
        let interrupter = context.interrupter();
        std::thread::scope(|scope| {
            scope.spawn(|| interrupter.interrupt());
            assert_eq!(context.run(), Event::Interrupted);
        });
        let space = context.space().clone();
        std::thread::scope(|scope| {
            scope.spawn(|| space.kill());
            assert_eq!(context.run(), Event::Died);
        });
    }

    #[test]
    fn children_run_their_own_programs() {
        let platform = MockPlatform::new();
        platform.program(|guest| {
            guest.child(|child| assert_eq!(child.syscall(100, &[]), 0));
            guest.syscall(57, &[]);
        });
        let mut context = platform.create().expect("a context");
        assert_eq!(context.run(), Event::Syscall);
        let mut child = context.fork().expect("a child");
        assert_eq!(child.run(), Event::Syscall);
        assert_eq!(child.registers().orig_rax, 100);
        assert_eq!(context.fork().expect("a child").run(), Event::Died);
    }

    #[test]
    fn memory_is_private_after_a_fork_unless_shared() {
        let platform = MockPlatform::new();
        for shared in [false, true] {
            let mut parent = platform.create().expect("a context");
            parent.memory(&[anonymous(8192, shared)]).expect("mapped");
            parent.space().write(BASE, b"old");
            let child = parent.fork().expect("a child");
            parent.space().write(BASE, b"new");
            let mut seen = [0; 3];
            assert_eq!(child.space().read(BASE, &mut seen), 3);
            assert_eq!(&seen, if shared { b"new" } else { b"old" });
        }
    }

    #[test]
    fn protection_holes_and_moves_are_those_of_a_host() {
        let platform = MockPlatform::new();
        let mut context = platform.create().expect("a context");
        context.memory(&[anonymous(3 * 4096, false)]).expect("mapped");
        let space = context.space().clone();
        let protect = |address, length, protection| MemoryOp::Protect { address, length, protection };
        context.memory(&[protect(BASE + 4096, 4096, 1)]).expect("protected");
        assert_eq!(space.write(BASE + 4090, b"1234567890"), 6);
        assert_eq!(space.read(BASE + 2 * 4096, &mut [0; 8192]), 4096);
        assert_eq!(context.memory(&[protect(BASE + 2 * 4096, 8192, 1)]), Err(Errno::ENOMEM));
        assert_eq!(context.memory(&[protect(BASE + 1, 4096, 1)]), Err(Errno::EINVAL));
        assert_eq!(context.compare_exchange(BASE + 8, 0, 5), Ok(0));
        assert_eq!(context.compare_exchange(BASE + 4096, 0, 5), Err(Errno::EFAULT));
        let to = BASE + 0x10_0000;
        let remap = MemoryOp::Remap { from: BASE, from_length: 4096, to, to_length: 8192, keep: false };
        context.memory(&[remap]).expect("moved");
        let mut word = [0; 4];
        assert_eq!((space.read(to + 8, &mut word), word), (4, 5u32.to_ne_bytes()));
        assert_eq!(space.read(BASE, &mut word), 0);
        let discard = MemoryOp::Advise { address: to, length: 4096, advice: 4 };
        context.memory(&[discard, MemoryOp::Unmap { address: to + 4096, length: 4096 }]).expect("done");
        assert_eq!((space.read(to + 8, &mut word), word), (4, [0; 4]));
        assert_eq!(space.read(to + 4096, &mut word), 0);
    }

    #[test]
    fn files_are_read_when_touched_and_written_when_shared() {
        let file = host::rustix::fs::memfd_create("test", host::rustix::fs::MemfdFlags::CLOEXEC);
        let file = Arc::new(file.expect("a memfd"));
        host::rustix::io::write(&file, b"contents").expect("written");
        let platform = MockPlatform::new();
        let mut context = platform.create().expect("a context");
        let map = |address, shared| {
            let file = Some((&file, 0));
            MemoryOp::Map { address, length: 8192, protection: RW, shared, flags: 0, file }
        };
        context.memory(&[map(BASE, true), map(BASE + 8192, false)]).expect("mapped");
        let space = context.space();
        space.write(BASE, b"C");
        space.write(BASE + 8192 + 1, b"O");
        let (mut shared, mut private) = ([0; 8], [0; 8]);
        assert_eq!(space.read(BASE, &mut shared), 8);
        assert_eq!(space.read(BASE + 8192, &mut private), 8);
        assert_eq!((&shared, &private), (b"Contents", b"COntents"));
        assert_eq!(space.read(BASE + 4096, &mut shared), 0, "beyond the end of the file");
    }
}
