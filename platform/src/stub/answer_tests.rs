//! Calls from patched sites that the stub answers by itself, and what it does on its way back to the guest.

use std::sync::mpsc;
use std::time::Duration;

use abi::signal::{SA_RESTORER, SignalSet};

use super::common::*;
use super::layout::SLOTS;
use super::patch_tests::{SPARE, actions, compares, patch_next, still_works};
use crate::guest_code;
use crate::{Context, DefaultActions, Event, MemoryOp, Platform};

guest_code!(
    two,
    "nop",
    "nop",
    "2: mov eax, 39",
    "syscall",
    "mov r14, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b"
);
guest_code!(stores, "nop", "nop", "2: mov [r13], r14", "mov eax, 39", "syscall", "jmp 2b");
guest_code!(
    yields_with_flags,
    "nop",
    "nop",
    "2: mov rax, r13",
    "sahf",
    "mov eax, 24",
    "syscall",
    "mov r15, rax",
    "lahf",
    "seto al",
    "mov r14, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b",
);

/// A guest that makes two calls in turn, both from patched sites.
fn both_patched(platform: &dyn Platform) -> Box<dyn Context> {
    let mut context = start(platform, two());
    patch_next(&mut *context);
    patch_next(&mut *context);
    while syscall(&mut *context) != 1000 {}
    context
}

#[test]
fn answers_are_given_and_withdrawn() {
    let platform = platform();
    let mut context = both_patched(&platform);
    for answer in [0, 1, 4711, u32::MAX - 1] {
        context.set_answer(39, Some(answer));
        for _ in 0..3 {
            assert_eq!(syscall(&mut *context), 1000);
            assert_eq!(context.registers().r14, u64::from(answer));
        }
    }
    // Not what can be answered; and no more.
    for answer in [Some(u32::MAX), None] {
        context.set_answer(39, Some(5));
        context.set_answer(39, answer);
        assert_eq!(syscall(&mut *context), 39);
        assert_eq!(syscall(&mut *context), 1000);
    }
    context.set_answer(1000, Some(1));
    assert_eq!(syscall(&mut *context), 39);
    assert_eq!(syscall(&mut *context), 1000);
}

/// Signal 5 has the default action, and may be given it again with the restorer 0x1234.
pub(super) const DEFAULTS: DefaultActions =
    DefaultActions { pristine: 0x10, restored: 0, settable: 0x10, restorer: 0x1234 };
/// The action that it then has.
pub(super) const AGAIN: [[u8; 8]; 4] = [[0; 8], SA_RESTORER.to_ne_bytes(), 0x1234u64.to_ne_bytes(), [0; 8]];

/// Runs the guest until it comes with a call, or for so long; returns how many it has made without the kernel, as it counts
/// them in r12 and r14.
fn run_alone(context: &mut dyn Context, patience: Duration) -> u64 {
    let calls = |context: &dyn Context| context.registers().r12.wrapping_add(context.registers().r14);
    let before = calls(context);
    let interrupter = context.interrupter();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let stop = told.recv_timeout(patience).is_err();
        if stop {
            interrupter.interrupt();
        }
        stop
    });
    let event = context.run();
    let count = calls(context).wrapping_sub(before);
    let _ = tell.send(());
    // An interrupt that comes just before an answer makes the kernel give it.
    if thread.join().expect("the interrupting thread") && event == Event::Syscall {
        assert_eq!(context.run(), Event::Interrupted);
    }
    count
}

/// The kernel gets the call that the guest makes again and again.
fn assert_served(context: &mut dyn Context, number: u64) {
    // The first call is the one that the guest was stopped in; or it was about to make one that was wanted before.
    let counts = [0; 2].map(|_| run_alone(context, Duration::from_secs(60)));
    assert!(counts.iter().all(|count| *count <= 1), "{counts:?} {:x?}", context.registers());
    assert_eq!(context.registers().orig_rax, number);
}

/// The kernel does not get it.
fn assert_answered(context: &mut dyn Context) {
    let some = (0..20).any(|_| run_alone(context, Duration::from_millis(50)) > 100);
    assert!(some, "{:x?}", context.registers());
}

#[test]
fn a_thread_changes_what_is_its_own_without_the_kernel() {
    const MASKS: u64 = 14;
    const ROBUST_LISTS: u64 = 273;
    const RSEQ: u64 = 334;
    let platform = platform();
    let mut context = start(&platform, compares());
    let own = context.own_state();
    let set = |context: &mut dyn Context, number, arguments: [u64; 4]| {
        let registers = context.registers_mut();
        (registers.r13, registers.r8, registers.r9, registers.rbx) = (number, 1, 2, 3);
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
    };
    let served = |context: &mut dyn Context, number, arguments| {
        set(context, number, arguments);
        assert_served(context, number);
    };
    let answered = |context: &mut dyn Context, number, arguments: [u64; 4]| {
        set(context, number, arguments);
        assert_answered(context);
        let registers = context.registers();
        let [rdi, rsi, rdx, r10] = arguments;
        assert_eq!(registers.arguments(), [rdi, rsi, rdx, r10, 1, 2]);
        assert_eq!(registers.rbx, 3);
    };
    let word = |context: &mut dyn Context, address| {
        let mut bytes = [0; 8];
        assert_eq!(context.read(address, &mut bytes), 8);
        u64::from_ne_bytes(bytes)
    };
    context.registers_mut().r13 = 39;
    patch_next(&mut *context);
    // Nothing is offered yet.
    for number in [MASKS, ROBUST_LISTS, RSEQ] {
        served(&mut *context, number, [0, 0, 0, 8]);
    }
    own.offer(true);
    let unblockable = SignalSet::UNBLOCKABLE.0;
    for (how, before, argument, after) in [
        (0, 0x5, 0x6, 0x7),
        (0, 0, u64::MAX, !unblockable),
        (1, 0x7, 0x6, 0x1),
        (1, 0x7, u64::MAX, 0),
        (2, 0x7, 0x18, 0x18),
        (2, 0x7, u64::MAX, !unblockable),
        // What is above an `int` does not count.
        (1 << 32, 0x5, 0x6, 0x7),
    ] {
        own.set_mask(before);
        context.write(DATA, &argument.to_ne_bytes());
        answered(&mut *context, MASKS, [how, DATA, 0, 8]);
        assert_eq!(own.mask(), after, "{how} {before:#x} {argument:#x}");
        answered(&mut *context, MASKS, [how, DATA, DATA + 8, 8]);
        assert_eq!((own.mask(), word(&mut *context, DATA + 8)), (after, after));
    }
    // Asking only, and nothing at all.
    own.set_mask(0x77);
    for (how, old) in [(0, DATA + 8), (99, DATA + 16), (99, 0)] {
        answered(&mut *context, MASKS, [how, 0, old, 8]);
        assert_eq!(own.mask(), 0x77);
    }
    assert_eq!([word(&mut *context, DATA + 8), word(&mut *context, DATA + 16)], [0x77; 2]);
    // What is wrong is the kernel's business, and what would read what it has written when it is made again.
    for [how, new, old, size] in [
        [3, DATA, 0, 8],
        [u64::MAX, DATA, 0, 8],
        [0, DATA, 0, 4],
        [0, DATA, DATA, 8],
        [0, DATA, DATA + 7, 8],
        [0, DATA + 7, DATA, 8],
        [0, 8, 0, 8],
        [0, SLOTS - 8, 0, 8],
        [0, SLOTS + 0x1000, 0, 8],
        [0, DATA, SLOTS + 0x1000, 8],
        [0, u64::MAX, 0, 8],
        [0, DATA, 8, 8],
        [0, 0, u64::MAX, 8],
    ] {
        served(&mut *context, MASKS, [how, new, old, size]);
        assert_eq!(own.mask(), 0x77, "{how} {new:#x} {old:#x} {size}");
    }
    answered(&mut *context, ROBUST_LISTS, [0x1234, 24, 0, 0]);
    assert_eq!((own.robust_list(), own.mask()), (0x1234, 0x77));
    served(&mut *context, ROBUST_LISTS, [0x4321, 25, 0, 0]);
    let errors = context.registers().r14;
    answered(&mut *context, RSEQ, [DATA, 32, 0, 0x5305_3053]);
    assert!(context.registers().r14 > errors + 100);
    assert_eq!(own.robust_list(), 0x1234);
    // A copy starts with nothing.
    let copy = context.fork().expect("a copy").own_state();
    assert_eq!((copy.mask(), copy.robust_list()), (0, 0));
    own.offer(false);
    served(&mut *context, MASKS, [0, 0, 0, 8]);
}

#[test]
fn the_robust_list_comes_along_with_the_end() {
    let platform = platform();
    let mut context = both_patched(&platform);
    let sent = |context: &mut dyn Context, head: u64| {
        context.own_state().set_robust_list(head);
        while syscall(context) != 39 {}
        let mut bytes = [0; 8];
        (context.read_sent(head, &mut bytes) == 8).then_some(bytes)
    };
    context.write(DATA, &[7; 64]);
    assert_eq!(sent(&mut *context, DATA), None, "nobody has asked for it");
    context.expect_end(39);
    assert_eq!(sent(&mut *context, DATA), Some([7; 8]));
    for nowhere in [0, 8, SPARE, DATA + 4096 - 8, SLOTS, u64::MAX - 7] {
        assert_eq!(sent(&mut *context, nowhere), None, "{nowhere:#x}");
    }
    assert_eq!(sent(&mut *context, DATA), Some([7; 8]));
    still_works(&platform);
}

#[test]
fn default_actions_are_told_and_set_without_the_kernel() {
    let platform = platform();
    let mut context = start(&platform, actions());
    let served = |context: &mut dyn Context, new, old| {
        (context.registers_mut().r13, context.registers_mut().r14) = (new, old);
        assert_served(context, 13);
    };
    let answered = |context: &mut dyn Context, new, old| {
        (context.registers_mut().r13, context.registers_mut().r14) = (new, old);
        assert_answered(context);
    };
    context.write(DATA, AGAIN.as_flattened());
    patch_next(&mut *context);
    // Nothing is offered yet, or another signal.
    for defaults in
        [DefaultActions::default(), DefaultActions { pristine: !0x10, settable: !0x10, ..DEFAULTS }]
    {
        context.set_default_actions(defaults);
        served(&mut *context, 0, 0);
    }
    context.set_default_actions(DEFAULTS);
    let action = |context: &mut dyn Context| {
        let mut bytes = [0; 32];
        assert_eq!(context.read(DATA + 64, &mut bytes), 32);
        bytes
    };
    // Asking.
    context.write(DATA + 64, &[1; 32]);
    answered(&mut *context, 0, DATA + 64);
    assert_eq!(action(&mut *context), [0; 32]);
    assert_eq!(context.restored_actions(), 0);
    // Setting; from then on it is what is told.
    answered(&mut *context, DATA, 0);
    assert_eq!(context.registers().r15, 0);
    assert_eq!(context.restored_actions(), 0x10);
    answered(&mut *context, 0, DATA + 64);
    assert_eq!(action(&mut *context), AGAIN.as_flattened());
    // What is not the default is the kernel's business, and what cannot be read or written.
    for (place, value) in [(0, 1), (8, 0), (8, SA_RESTORER | 1), (16, 0x1235), (24, 1)] {
        context.write(DATA, AGAIN.as_flattened());
        context.write(DATA + place, &u64::to_ne_bytes(value));
        served(&mut *context, DATA, 0);
    }
    let own = SLOTS + 0x1000;
    for (new, old) in [(8, 0), (0, 8), (SLOTS - 8, 0), (own, 0), (0, own), (u64::MAX, 0), (0, u64::MAX)] {
        served(&mut *context, new, old);
    }
    // A new thread, and a copy, know nothing.
    let copy = context.fork().expect("a copy");
    assert_eq!((copy.restored_actions(), context.restored_actions()), (0, 0x10));
}

#[test]
fn memory_that_changes_later_has_changed_when_the_guest_goes_on() {
    let platform = platform();
    for patched in [false, true] {
        let mut context = start(&platform, stores());
        (context.registers_mut().r13, context.registers_mut().r14) = (DATA, 1);
        syscall(&mut *context);
        if patched {
            patch_next(&mut *context);
        }
        let word = |context: &dyn Context, address| {
            let mut bytes = [0; 8];
            let count = context.space().read(address, &mut bytes);
            (count == 8).then_some(u64::from_ne_bytes(bytes))
        };
        for round in 0..20 {
            let address = SPARE + round * 8192;
            context.memory_later(&[anonymous(address, 8192, RW)]).expect("mapped");
            assert_eq!(word(&*context, address), None);
            match round % 3 {
                // Somebody wants the thread back before it goes on.
                0 => {
                    context.interrupter().interrupt();
                    assert_eq!(context.run(), Event::Interrupted);
                }
                // Something else is asked of it.
                1 => {
                    assert_eq!(context.write(address, &[1; 8]), 8);
                    assert_eq!(word(&*context, address), Some(0x0101_0101_0101_0101));
                }
                _ => {}
            }
            (context.registers_mut().r13, context.registers_mut().r14) = (address + 8, round);
            assert_eq!(syscall(&mut *context), 39);
            assert_eq!(word(&*context, address + 8), Some(round));
            // Several things, in order.
            let unmap = MemoryOp::Unmap { address: address + 4096, length: 4096 };
            let protect = MemoryOp::Protect { address, length: 4096, protection: 1 };
            context.memory_later(&[protect, unmap]).expect("changed");
            let Event::Fault(fault) = context.run() else { panic!("no fault") };
            assert_eq!((fault.signal, fault.code), (abi::signal::Signal::SIGSEGV, 2));
            context.registers_mut().r13 = address + 4096;
            let Event::Fault(fault) = context.run() else { panic!("no fault") };
            assert_eq!((fault.signal, fault.code), (abi::signal::Signal::SIGSEGV, 1));
            context.registers_mut().r13 = DATA;
            assert_eq!(syscall(&mut *context), 39);
        }
        // Where others may look it is done at once.
        let mut other = context.spawn().expect("a thread");
        context.memory_later(&[anonymous(SPARE, 4096, RW)]).expect("mapped");
        assert_eq!(word(&*context, SPARE), Some(0));
        // But for what is emptied, which others may have unmapped by then.
        context.space().write(SPARE, &[1]);
        let empty = MemoryOp::Advise { address: SPARE, length: 4096, advice: libc::MADV_DONTNEED as u32 };
        context.memory_later(&[empty]).expect("put off");
        assert_eq!(word(&*context, SPARE), Some(1));
        assert_eq!(syscall(&mut *context), 39);
        assert_eq!(word(&*context, SPARE), Some(0));
        context.memory_later(&[empty]).expect("put off");
        other.memory(&[MemoryOp::Unmap { address: SPARE, length: 4096 }]).expect("unmapped");
        assert_eq!(syscall(&mut *context), 39);
        drop(other);
        // What fails is the end.
        let nothing = MemoryOp::Protect { address: SPARE << 1, length: 4096, protection: 1 };
        context.memory_later(&[nothing]).expect("put off");
        assert_eq!(context.run(), Event::Died);
    }
    still_works(&platform);
}

#[test]
fn others_are_let_run_without_the_kernel() {
    let platform = platform();
    let mut context = start(&platform, yields_with_flags());
    patch_next(&mut *context);
    patch_next(&mut *context);
    while syscall(&mut *context) != 1000 {}
    context.set_answer(24, Some(0));
    for flags in [0x02, 0xd7, 0x43, 0x96] {
        let registers = context.registers_mut();
        (registers.r13, registers.rdi, registers.rsi, registers.rdx) = (flags << 8, 1, 2, 3);
        (registers.r10, registers.r8, registers.r9, registers.rbx) = (4, 5, 6, 7);
        assert_eq!(syscall(&mut *context), 1000);
        assert_eq!(context.registers().r14 & 0xd500, (flags & 0xd5) << 8);
        assert_eq!(context.registers().r15, 0);
        assert_eq!(context.registers().arguments(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(context.registers().rbx, 7);
    }
    context.set_answer(24, None);
    assert_eq!(syscall(&mut *context), 24);
}
