//! A platform whose guest is a list of system calls, made by the kernel's thread itself: no second thread takes part, so
//! that the number of instructions is the same each time, and next to nothing but the kernel's are counted.
//!
//! Memory is one block, the same in all address spaces, that repeats over all addresses. Mappings are not carried out.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use abi::SysResult;
use parking_lot::Mutex;
use platform::{AddressSpace, Context, Event, Interrupter, MemoryOp, MemoryUsage, Platform, Registers, Vdso};

use crate::marks;

/// What a guest does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A system call.
    Call(Call),
    /// What lies at an address becomes this.
    Write(u64, Vec<u8>),
    /// Counting begins.
    Begin,
    /// Counting ends.
    End,
}

/// A system call and what must come of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// What it must return; `None` for anything but an error.
    pub result: Option<i64>,
}

type Steps = Arc<Mutex<VecDeque<Step>>>;

/// How much memory there is.
const MEMORY: usize = 1 << 20;
const EXIT: Call = Call { number: 60, arguments: [0; 6], result: None };
const EXIT_GROUP: Call = Call { number: 231, arguments: [0; 6], result: None };
const ENOSYS: u64 = (-38i64).cast_unsigned();

/// The platform. The first process and what it becomes by `execve` goes through the steps; children and threads would exit.
pub struct ListPlatform {
    steps: Steps,
    space: Arc<Space>,
}

impl ListPlatform {
    /// A platform for these steps.
    pub fn new(steps: Vec<Step>) -> ListPlatform {
        ListPlatform { steps: Arc::new(Mutex::new(steps.into())), space: Arc::default() }
    }
}

impl Platform for ListPlatform {
    fn create(&self) -> SysResult<Box<dyn Context>> {
        let (space, steps) = (Arc::clone(&self.space), Arc::clone(&self.steps));
        Ok(Box::new(Thread::new(space, Registers::initial(), steps, EXIT_GROUP)))
    }

    fn memory_barrier(&self) {}

    fn guest_range(&self) -> Range<u64> {
        0x1_0000..0x7ff0_0000_0000
    }

    fn vdso(&self) -> Option<Vdso> {
        None
    }
}

/// Memory.
struct Space {
    bytes: Mutex<Vec<u8>>,
}

impl Default for Space {
    fn default() -> Space {
        Space { bytes: Mutex::new(vec![0; MEMORY]) }
    }
}

impl Space {
    /// Where the address lies, and how many of so many bytes there are before memory begins anew.
    fn place(address: u64, length: usize) -> Range<usize> {
        let start = address as usize % MEMORY;
        start..(start + length).min(MEMORY)
    }
}

impl AddressSpace for Space {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let place = Space::place(address, buffer.len());
        let length = place.len();
        buffer[..length].copy_from_slice(&self.bytes.lock()[place]);
        length
    }

    fn write(&self, address: u64, bytes: &[u8]) -> usize {
        let place = Space::place(address, bytes.len());
        let length = place.len();
        self.bytes.lock()[place].copy_from_slice(&bytes[..length]);
        length
    }

    fn usage(&self) -> MemoryUsage {
        MemoryUsage::default()
    }

    fn peak(&self) -> u64 {
        0
    }

    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }

    fn kill(&self) {}
}

/// Nobody waits for a guest thread, so nobody has to be woken.
struct Nobody;

impl Interrupter for Nobody {
    fn interrupt(&self) {}

    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
}

struct Thread {
    space: Arc<Space>,
    as_trait: Arc<dyn AddressSpace>,
    registers: Registers,
    steps: Steps,
    /// What it does when there are no more steps.
    last: Call,
    /// The call that it is in.
    call: Option<Call>,
}

impl Thread {
    fn new(space: Arc<Space>, registers: Registers, steps: Steps, last: Call) -> Thread {
        let as_trait = Arc::clone(&space) as _;
        Thread { space, as_trait, registers, steps, last, call: None }
    }

    fn check(call: &Call, result: i64) {
        let right = call.result.map_or(!(-4095..0).contains(&result), |wanted| wanted == result);
        assert!(right, "{call:x?} returned {result}");
    }
}

impl Context for Thread {
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
        vec![0; 576]
    }

    fn set_fpu(&mut self, _state: Option<&[u8]>) -> SysResult<()> {
        Ok(())
    }

    fn run(&mut self) -> Event {
        if let Some(call) = self.call.take() {
            Thread::check(&call, self.registers.rax.cast_signed());
        }
        let call = loop {
            let step = self.steps.lock().pop_front();
            match step {
                None => break self.last.clone(),
                Some(Step::Call(call)) => break call,
                Some(Step::Write(address, bytes)) => drop(self.space.write(address, &bytes)),
                Some(Step::Begin) => marks::counting_begins(),
                Some(Step::End) => marks::counting_ends(),
            }
        };
        let registers = &mut self.registers;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] =
            call.arguments;
        registers.orig_rax = call.number;
        registers.rax = ENOSYS;
        self.call = Some(call);
        Event::Syscall
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::new(Nobody)
    }

    fn memory(&mut self, _operations: &[MemoryOp<'_>]) -> SysResult<()> {
        Ok(())
    }

    fn fork(&mut self) -> SysResult<Box<dyn Context>> {
        Ok(Box::new(Thread::new(Arc::clone(&self.space), self.registers, Steps::default(), EXIT_GROUP)))
    }

    fn spawn(&mut self) -> SysResult<Box<dyn Context>> {
        Ok(Box::new(Thread::new(Arc::clone(&self.space), self.registers, Steps::default(), EXIT)))
    }

    fn compare_exchange(&mut self, address: u64, expected: u32, new: u32) -> SysResult<u32> {
        let mut word = [0; 4];
        self.space.read(address, &mut word);
        if word == expected.to_ne_bytes() {
            self.space.write(address, &new.to_ne_bytes());
        }
        Ok(u32::from_ne_bytes(word))
    }

    fn read_sent(&mut self, address: u64, buffer: &mut [u8]) -> usize {
        self.space.read(address, buffer)
    }

    fn read_file(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let place = Space::place(address, length);
        Some(rustix::io::pread(file, &mut self.space.bytes.lock()[place], offset?).map_err(Into::into))
    }

    fn write_file(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let place = Space::place(address, length);
        Some(rustix::io::pwrite(file, &self.space.bytes.lock()[place], offset?).map_err(Into::into))
    }

    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
}
