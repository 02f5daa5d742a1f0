//! Guest programs for tests: assembled with the tests, copied into guests.

#![allow(dead_code, reason = "each test file uses part of it")]

use platform::stub::StubPlatform;
use platform::{Context, Event, MemoryOp, Platform};

/// Defines a function that returns the machine code of the given position-independent instructions.
#[macro_export]
macro_rules! guest_code {
    ($name:ident, $($line:literal),* $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.guest,\"a\",@progbits",
            concat!(".globl guest_code_", stringify!($name), ", guest_code_end_", stringify!($name)),
            concat!("guest_code_", stringify!($name), ":"),
            $($line,)*
            concat!("guest_code_end_", stringify!($name), ":"),
            ".popsection",
        );
        pub(crate) fn $name() -> &'static [u8] {
            let (start, end): (usize, usize);
            // SAFETY: takes the addresses of two labels that delimit read-only bytes of this program.
            unsafe {
                std::arch::asm!(
                    concat!("lea {}, [rip + guest_code_", stringify!($name), "]"),
                    concat!("lea {}, [rip + guest_code_end_", stringify!($name), "]"),
                    out(reg) start, out(reg) end,
                );
                std::slice::from_raw_parts(start as *const u8, end - start)
            }
        }
    };
}

/// Where guest code goes.
pub const CODE: u64 = 0x40_0000;
/// Memory that guests may write, [`DATA_SIZE`] bytes; stack pointers start at its end.
pub const DATA: u64 = 0x1000_0000;
/// Bytes of it.
pub const DATA_SIZE: u64 = 0x10_0000;
/// `PROT_READ | PROT_WRITE`.
pub const RW: u32 = 3;
/// `PROT_READ | PROT_EXEC`.
pub const RX: u32 = 5;

/// Anonymous private memory.
pub fn anonymous(address: u64, length: u64, protection: u32) -> MemoryOp<'static> {
    MemoryOp::Map { address, length, protection, shared: false, flags: 0, file: None }
}

/// A platform of its own.
pub fn platform() -> StubPlatform {
    StubPlatform::start().expect("the host can run stubs")
}

/// A guest about to execute `code`.
pub fn start(platform: &dyn Platform, code: &[u8]) -> Box<dyn Context> {
    let mut context = platform.create().expect("a new address space");
    let length = (code.len() as u64).next_multiple_of(4096);
    context.memory(&[anonymous(CODE, length, RW), anonymous(DATA, DATA_SIZE, RW)]).expect("mappings");
    assert_eq!(context.space().write(CODE, code), code.len());
    context.memory(&[MemoryOp::Protect { address: CODE, length, protection: RX }]).expect("mprotect");
    let registers = context.registers_mut();
    (registers.rip, registers.rsp) = (CODE, DATA + DATA_SIZE);
    context
}

/// Runs until the next system call; returns its number. Anything else fails the test.
pub fn syscall(context: &mut dyn Context) -> u64 {
    match context.run() {
        Event::Syscall => context.registers().orig_rax,
        other => panic!("{other:?} at {:#x}", context.registers().rip),
    }
}
