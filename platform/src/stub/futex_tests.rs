//! `futex(2)` from patched sites, as far as the stub answers it.

use std::time::Duration;

use super::common::*;
use super::context::StubContext;
use super::direct_tests::{SlotsOf, patched};
use super::layout::*;
use crate::{Context, Event, MemoryOp, guest_code};

// Says that it runs, and waits until it may go on.
guest_code!(
    waits,
    "nop",
    "nop",
    "2: mov r12d, 0x10000100",
    "inc dword ptr [r12]",
    "3: cmp dword ptr [r12 + 4], 0",
    "jne 3b",
    "stc",
    "mov eax, 202",
    "syscall",
    "jnc 4f",
    "mov r15, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b",
    "4: ud2"
);

const FUTEX: u64 = 202;
/// The call that the guest makes when it has an answer.
const DONE: u64 = 1000;
const WAIT: u64 = 0;
const WAKE: u64 = 1;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const PRIVATE: u64 = 128;
const REALTIME: u64 = 256;
const AGAIN: Option<i64> = Some(-(libc::EAGAIN as i64));
const SEVEN: [u8; 4] = 7u32.to_ne_bytes();
/// Where the guest counts how often it has run, and whether it is to stop then.
const TURNS: u64 = DATA + 0x100;
const STOPS: u64 = TURNS + 4;

/// Has the guest make the call; returns what it has got, if it was not the kernel that it asked.
fn call(context: &mut dyn Context, arguments: [u64; 6]) -> Option<i64> {
    try_call(context, arguments).expect("nobody interrupts")
}

/// [`call`], which may be interrupted before it is made.
fn try_call(context: &mut dyn Context, arguments: [u64; 6]) -> Result<Option<i64>, Interrupted> {
    // Wherever it was stopped, it has come to `DONE` when the kernel has answered.
    let registers = context.registers_mut();
    registers.rip = CODE + 2;
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    (registers.rdi, registers.rsi, registers.rdx) = (rdi, rsi, rdx);
    (registers.r10, registers.r8, registers.r9) = (r10, r8, r9);
    match context.run() {
        Event::Syscall => {}
        Event::Interrupted => return Err(Interrupted),
        other => panic!("{other:?}"),
    }
    let registers = context.registers();
    assert_eq!(registers.arguments(), arguments, "{registers:x?}");
    let answered = registers.orig_rax == DONE;
    assert!(answered || registers.orig_rax == FUTEX, "{registers:x?}");
    Ok(answered.then(|| registers.r15.cast_signed()))
}

/// The guest has not come to its call.
#[derive(Debug, PartialEq)]
struct Interrupted;

/// A guest with a 7 to wait for.
fn start() -> StubContext {
    let context = patched(&platform(), waits());
    assert_eq!(context.space().write(DATA, &SEVEN), 4);
    context
}

#[test]
fn waiting_for_another_value_and_waking_nobody_need_no_kernel() {
    let mut context = start();
    let differs = [DATA, WAIT, 8, 0, 0, 0];
    assert_eq!(call(&mut context, differs), None, "nothing is offered yet");
    context.set_answer(FUTEX as u32, Some(0));
    for operation in [WAIT, WAIT | PRIVATE, WAIT | PRIVATE | REALTIME] {
        assert_eq!(call(&mut context, [DATA, operation, 8, 0, 0, 0]), AGAIN);
        // Half of a register.
        assert_eq!(call(&mut context, [DATA, operation, 7 << 32 | 6, 0, 0, 0]), AGAIN);
        assert_eq!(call(&mut context, [DATA, operation | WAIT_BITSET, 8, 0, 0, 1]), AGAIN);
        // Without a bit.
        assert_eq!(call(&mut context, [DATA, operation | WAIT_BITSET, 8, 0, 0, 1 << 32]), None);
        // It is the kernel that waits.
        assert_eq!(call(&mut context, [DATA, operation, 7, 0, 0, 0]), None);
    }
    for operation in [WAKE | PRIVATE, WAKE_BITSET | PRIVATE] {
        assert_eq!(call(&mut context, [DATA, operation, 1, 0, 0, 1]), Some(0));
        assert_eq!(call(&mut context, [DATA + 4, operation, 1, 0, 0, 1]), Some(0));
    }
    assert_eq!(call(&mut context, [DATA, WAKE_BITSET | PRIVATE, 1, 0, 0, 0]), None);
    // What is not the process's own, and what is nothing that is known here.
    for operation in [WAKE, WAKE_BITSET, WAKE | PRIVATE | REALTIME, 3 | PRIVATE, 5 | PRIVATE, 0x55, 1 << 16] {
        assert_eq!(call(&mut context, [DATA, operation, 1, 0, DATA + 4, 1]), None, "{operation}");
    }
    // No word of the guest's.
    for address in [0, 8, DATA + 1, DATA + 2, GUEST.end - 4096, SLOTS, SLOTS + WORD as u64, u64::MAX - 3] {
        assert_eq!(call(&mut context, [address, WAIT, 8, 0, 0, 0]), None, "{address:#x}");
    }
    for address in [DATA + 1, GUEST.end, SLOTS, u64::MAX - 3] {
        assert_eq!(call(&mut context, [address, WAKE | PRIVATE, 8, 0, 0, 0]), None, "{address:#x}");
    }
    // Times that are wrong, or short; and right ones.
    for (time, expected) in [
        ([-1, 0], None),
        ([0, -1], None),
        ([5, 1_000_000_000], None),
        ([0, 0], None),
        ([0, 99_999], None),
        ([0, 100_000], AGAIN),
        ([5, 0], AGAIN),
        ([i64::MAX, 999_999_999], AGAIN),
    ] {
        context.write(DATA + 16, &time.map(i64::to_ne_bytes).concat());
        assert_eq!(call(&mut context, [DATA, WAIT | PRIVATE, 8, DATA + 16, 0, 0]), expected, "{time:?}");
    }
    for time in [8, SLOTS, GUEST.end - 8, u64::MAX] {
        assert_eq!(call(&mut context, [DATA, WAIT | PRIVATE, 8, time, 0, 0]), None, "{time:#x}");
    }
    context.set_answer(FUTEX as u32, None);
    assert_eq!(call(&mut context, differs), None);
}

#[test]
fn where_somebody_is_counted_the_kernel_wakes() {
    let mut context = start();
    context.set_answer(FUTEX as u32, Some(0));
    let wake = [DATA, WAKE | PRIVATE, 1, 0, 0, 0];
    let space = context.space().clone();
    assert_eq!(call(&mut context, wake), Some(0));
    space.count_waiter(DATA, true);
    space.count_waiter(DATA, true);
    assert_eq!(call(&mut context, wake), None);
    space.count_waiter(DATA, false);
    assert_eq!(call(&mut context, wake), None);
    // Of other groups nobody waits.
    let others = (1..100).map(|word| DATA + 4 * word).filter(|other| waiters(*other) != waiters(DATA));
    for other in others.collect::<Vec<_>>() {
        assert_eq!(call(&mut context, [other, WAKE | PRIVATE, 1, 0, 0, 0]), Some(0));
    }
    // In a copy of the address space neither.
    let mut copy = context.fork().expect("a copy");
    copy.set_answer(FUTEX as u32, Some(0));
    assert_eq!(call(&mut *copy, wake), Some(0));
    space.count_waiter(DATA, false);
    assert_eq!(call(&mut context, wake), Some(0));
}

/// Lets the guest wait for a 7 at `address`, and do so for so many ticks by watching, if it is not left to the kernel; `meanwhile`
/// is done then.
fn watch(
    context: &mut StubContext,
    address: u64,
    ticks: u32,
    meanwhile: impl FnOnce() + Send,
) -> Result<Option<i64>, Interrupted> {
    let (slots, space) = (SlotsOf::new(context.process_id()), context.space().clone());
    let turns = || {
        let mut bytes = [0; 4];
        assert_eq!(space.read(TURNS, &mut bytes), 4);
        u32::from_ne_bytes(bytes)
    };
    space.write(address, &SEVEN);
    space.write(STOPS, &[1]);
    let before = turns();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while turns() == before {
                std::thread::sleep(Duration::from_millis(1));
            }
            // How long it may is for the kernel to say: here it hears so when it is under way.
            slots.set_field(WATCH, ticks);
            space.write(STOPS, &[0]);
            std::thread::sleep(Duration::from_millis(5));
            meanwhile();
        });
        try_call(context, [address, WAIT | PRIVATE, 7, 0, 0, 0])
    })
}

#[test]
fn a_word_is_watched_for_a_while() {
    const LONG: u32 = 1 << 31;
    let mut context = start();
    context.set_answer(FUTEX as u32, Some(0));
    let slots = SlotsOf::new(context.process_id());
    let space = context.space().clone();
    let change = || assert_eq!(space.write(DATA, &[8]), 1);
    // It lasts a second. Somebody else may keep the processors for that long, or from the first look on.
    let watched = |_| watch(&mut context, DATA, LONG, change) == Ok(AGAIN) && slots.field(WATCHED) != 0;
    assert!((0..50).any(watched));
    // In vain: the kernel is asked, and can see why.
    assert_eq!(watch(&mut context, DATA, 1000, || {}), Ok(None));
    assert_eq!(slots.field(WATCH), 0);
    // Interrupts do not wait for it, where they come no sooner;
    let interrupter = context.interrupter();
    let interrupted = |_| watch(&mut context, DATA, u32::MAX, || interrupter.interrupt()) == Ok(None);
    assert!((0..50).any(interrupted));
    assert_eq!(context.run(), Event::Interrupted);
    // and memory may go away meanwhile.
    let mut other = context.spawn().expect("another thread");
    let unmap = MemoryOp::Unmap { address: DATA + PAGE, length: PAGE };
    let gone = || other.memory(&[unmap]).expect("munmap");
    assert_eq!(watch(&mut context, DATA + PAGE, u32::MAX, gone), Ok(None));
    assert_eq!(context.run(), Event::Syscall);
    assert_eq!(context.registers().orig_rax, DONE);
}
