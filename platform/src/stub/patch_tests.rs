//! Guests whose call sites are patched, well-behaved and hostile ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::answer_tests::{AGAIN, DEFAULTS};
use super::common::*;
use super::layout::{FAST_RAX, INTERRUPTED, MAGIC, SLOTS, TRAMPOLINES};
use super::{HostVdso, Patching, StubPlatform, Tuning, Zygote, layout, text};
use crate::guest_code;
use crate::{Context, Event, MemoryOp};

// A call in each pattern, in a loop that counts in r12.
guest_code!(moves, "nop", "nop", "2: mov eax, 39", "syscall", "inc r12", "jmp 2b");
guest_code!(
    compares,
    "nop",
    "nop",
    "nop",
    "nop",
    "2: mov rax, r13",
    "syscall",
    ".byte 0x48, 0x3d, 1, 0xf0, 0xff, 0xff", // cmp rax, -4095
    "jae 3f",
    "inc r12",
    "jmp 2b",
    "3: inc r14",
    "jmp 2b",
);
guest_code!(
    loads,
    "nop",
    "nop",
    "nop",
    "nop",
    "2: mov rax, r13",
    "syscall",
    "mov r15, [r14 + 8]",
    "inc r12",
    "jmp 2b"
);
// Sixteen sites, one after the other.
guest_code!(
    many,
    "nop",
    "nop",
    "2:",
    ".rept 8",
    "mov eax, 39",
    "syscall",
    "inc r12",
    "xor eax, eax",
    "syscall",
    ".byte 0x48, 0x3d, 1, 0xf0, 0xff, 0xff",
    "inc r12",
    ".endr",
    "jmp 2b",
);
guest_code!(
    with_flags,
    "nop",
    "nop",
    "2: mov rax, r13",
    "sahf",
    "mov eax, 39",
    "syscall",
    "mov r15, rax",
    "lahf",
    "seto al",
    "mov r14, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b",
);

guest_code!(masks, "nop", "nop", "2: mov eax, 14", "syscall", "inc r12", "jmp 2b");
guest_code!(rseqs, "nop", "nop", "2: mov eax, 334", "syscall", "inc r12", "jmp 2b");
guest_code!(yields, "nop", "nop", "2: mov eax, 24", "syscall", "inc r12", "jmp 2b");
// rt_sigaction(2) of signal 5; what it must not change makes the guest fail if it does.
guest_code!(
    actions,
    "nop",
    "nop",
    "2: mov edi, 5",
    "mov rsi, r13",
    "mov rdx, r14",
    "mov r10d, 8",
    "mov r8d, 71",
    "mov r9d, 72",
    "mov ebx, 73",
    "stc",
    "mov eax, 13",
    "syscall",
    "jnc 3f",
    "mov r15, rax",
    "lea eax, [r8 + r9]",
    "add eax, ebx",
    "add eax, r10d",
    "cmp eax, 224",
    "jne 3f",
    "inc r12",
    "jmp 2b",
    "3: ud2",
);
guest_code!(vectors, "nop", "nop", "2: movq xmm7, r13", "mov eax, 39", "syscall", "movq r14, xmm7", "jmp 2b");
guest_code!(report, "mov r14, rcx", "mov r15, r11", "rdfsbase r13", "mov eax, 7", "syscall", "ud2");
guest_code!(strange, "nop", "nop", "2: mov r8d, 39", "mov rax, r13", "syscall", "test eax, eax", "jmp 2b");
guest_code!(through_the_stub, "call r12", "2: mov eax, 39", "syscall", "jmp 2b");
guest_code!(
    scribble_words,
    "2: add rax, 0x1234567",
    "mov rcx, rax",
    "and ecx, esi",
    "mov rdx, rax",
    "shr rdx, 13",
    "and rdx, rbx",
    "mov [rdi + rcx], rdx",
    "jmp 2b",
);

pub(super) const SPARE: u64 = 0x4000_0000;

/// Calls until the site is hot, and patches it.
pub(super) fn patch_next(context: &mut dyn Context) {
    for _ in 0..600 {
        syscall(context);
        if context.hot_call().is_some() {
            assert_eq!(context.patch(RX), Ok(true));
            return;
        }
    }
    panic!("the site does not become hot");
}

/// How many calls have come from patched sites; the guest is gone after that.
pub(super) fn patched_calls(platform: &StubPlatform, context: Box<dyn Context>) -> u64 {
    let before = platform.call_counts().patched;
    drop(context);
    platform.call_counts().patched - before
}

#[test]
fn patched_calls_arrive_as_trapped_ones_do() {
    let platform = platform();
    for code in [moves(), compares()] {
        let mut context = start(&platform, code);
        for round in 0..40u64 {
            let registers = context.registers_mut();
            (registers.r12, registers.r13) = (round, 39);
            [registers.rdi, registers.rsi, registers.rdx] = [round + 1, round + 2, round + 3];
            [registers.r10, registers.r8, registers.r9] = [round + 4, round + 5, round + 6];
            [registers.rbx, registers.rbp, registers.r15] = [round + 7, round + 8, round + 9];
            registers.rax = 5;
            let expected = *registers;
            assert_eq!(syscall(&mut *context), 39);
            let seen = context.registers();
            let first = if round == 0 { round } else { round + 1 };
            assert_eq!(seen.r12, first);
            assert_eq!(seen.arguments(), expected.arguments());
            assert_eq!((seen.rbx, seen.rbp, seen.r15), (expected.rbx, expected.rbp, expected.r15));
            assert_eq!((seen.rsp, seen.rax), (expected.rsp, (-38i64).cast_unsigned()));
            if context.hot_call().is_some() {
                context.patch(RX).expect("patched");
            }
        }
        assert!(patched_calls(&platform, context) >= 30);
    }
}

#[test]
fn what_was_behind_the_site_is_done_in_the_trampoline() {
    let platform = platform();
    let mut context = start(&platform, compares());
    context.registers_mut().r13 = 39;
    patch_next(&mut *context);
    for round in 0..10 {
        (context.registers_mut().r12, context.registers_mut().r14) = (0, 0);
        context.registers_mut().rax = if round % 2 == 0 { 7 } else { (-2i64).cast_unsigned() };
        syscall(&mut *context);
        let registers = context.registers();
        assert_eq!((registers.r12, registers.r14), if round % 2 == 0 { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn any_instruction_that_can_be_moved_may_be_behind_the_site() {
    let platform = platform();
    let mut context = start(&platform, loads());
    (context.registers_mut().r13, context.registers_mut().r14) = (39, DATA);
    patch_next(&mut *context);
    for value in 1..10u64 {
        context.write(DATA + 8, &value.to_ne_bytes());
        context.registers_mut().rax = value;
        syscall(&mut *context);
        assert_eq!(context.registers().r15, value);
        // Who jumps to it finds it.
        context.write(DATA + 8, &(value + 100).to_ne_bytes());
        context.registers_mut().rip = CODE + 4 + 3 + 2;
        syscall(&mut *context);
        assert_eq!(context.registers().r15, value + 100);
    }
    // A fault in it is the guest's, where it happens.
    context.registers_mut().r14 = 0x1000;
    let Event::Fault(fault) = context.run() else { panic!("no fault") };
    assert_eq!((fault.signal, fault.address), (abi::signal::Signal::SIGSEGV, 0x1008));
    assert!(patched_calls(&platform, context) >= 18);
}

#[test]
fn flags_survive() {
    let platform = platform();
    let mut context = start(&platform, with_flags());
    patch_next(&mut *context);
    for flags in [0x02, 0xd7, 0x43, 0x96] {
        context.registers_mut().r13 = flags << 8;
        while syscall(&mut *context) != 39 {}
        while syscall(&mut *context) != 1000 {}
        context.registers_mut().r13 = flags << 8;
        while syscall(&mut *context) != 39 {}
        assert_eq!(context.registers().eflags & 0xd5, flags & 0xd5);
        context.registers_mut().rax = 77;
        while syscall(&mut *context) != 1000 {}
        assert_eq!(context.registers().r14 & 0xd500, (flags & 0xd5) << 8);
        assert_eq!(context.registers().r15, 77);
    }
}

#[test]
fn a_jump_to_either_instruction_of_a_site_works() {
    let platform = platform();
    let mut context = start(&platform, moves());
    patch_next(&mut *context);
    let site = CODE + 7;
    assert_eq!(context.registers().rip, site + 2);
    context.registers_mut().rip = site;
    context.registers_mut().rax = 123;
    assert_eq!(syscall(&mut *context), 123);
    assert_eq!(syscall(&mut *context), 39);
    // Behind the call is a comparison of which the jump has taken a part.
    let mut context = start(&platform, compares());
    context.registers_mut().r13 = 39;
    patch_next(&mut *context);
    for (rax, counted) in [(7, (1, 0)), ((-2i64).cast_unsigned(), (0, 1))] {
        let registers = context.registers_mut();
        (registers.rip, registers.rax) = (CODE + 4 + 3 + 2, rax);
        (registers.r12, registers.r14) = (0, 0);
        syscall(&mut *context);
        assert_eq!((context.registers().r12, context.registers().r14), counted);
    }
}

#[test]
fn a_thread_in_the_call_finds_its_way_when_another_patches_it() {
    let platform = platform();
    let mut context = start(&platform, compares());
    context.registers_mut().r13 = 39;
    syscall(&mut *context);
    let mut other = context.spawn().expect("a thread");
    syscall(&mut *other);
    (other.registers_mut().rax, other.registers_mut().r12) = (0, 0);
    patch_next(&mut *context);
    assert_eq!(syscall(&mut *other), 39);
    assert_eq!(other.registers().r12, 1);
}

#[test]
fn sites_are_patched_while_others_execute_them() {
    let platform = platform();
    for _ in 0..8 {
        let before = platform.call_counts().sites;
        let mut context = start(&platform, many());
        let mut contexts: Vec<_> = (0..2).map(|_| context.spawn().expect("a thread")).collect();
        contexts.push(context);
        std::thread::scope(|scope| {
            let threads: Vec<_> = contexts
                .into_iter()
                .map(|mut context| {
                    scope.spawn(move || {
                        for calls in 0..20_000 {
                            let number = syscall(&mut *context);
                            assert!(number == 39 || number == 0, "{number}");
                            assert_eq!(context.registers().r12, calls);
                            // Under load the others may not stop in time; the site comes again.
                            if context.hot_call().is_some() && context.patch(RX) == Ok(true) {
                                // A copy of the process works too.
                                let mut child = context.fork().expect("a child");
                                for _ in 0..40 {
                                    syscall(&mut *child);
                                }
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().expect("no surprise"));
        });
        let patched = platform.call_counts().sites - before;
        assert!((8..=16).contains(&patched), "{patched}");
    }
}

#[test]
fn every_interrupt_gets_through() {
    let platform = platform();
    // Calls that come to the kernel, and calls that the stub answers: a guest that never comes by itself.
    let cases = [
        (moves(), 39, None),
        (moves(), 39, Some(4711)),
        (yields(), 24, Some(0)),
        (actions(), 13, None),
        (masks(), 14, None),
        (rseqs(), 334, None),
    ];
    for (code, number, answer) in cases {
        let mut context = start(&platform, code);
        context.registers_mut().r14 = DATA + 32;
        patch_next(&mut *context);
        context.set_answer(number, answer);
        context.set_default_actions(DEFAULTS);
        context.write(DATA, AGAIN.as_flattened());
        context.own_state().offer(true);
        let registers = context.registers_mut();
        registers.r13 = DATA;
        (registers.rdi, registers.rsi, registers.rdx, registers.r10) = (2, DATA, DATA + 64, 8);
        let interrupter = context.interrupter();
        const COUNT: u32 = 1000;
        let (go, gone) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for round in gone {
                (0..round % 256 * 8).for_each(|_| std::hint::spin_loop());
                let now = Instant::now();
                interrupter.interrupt();
                tell.send(now).expect("somebody listens");
            }
        });
        // And on until the guest has got anywhere between them, which is a matter of who else wants the processors.
        let mut rounds = 0..100 * COUNT;
        while let Some(round) = rounds.next()
            && (round < COUNT || context.registers().r12 <= u64::from(COUNT) / 10)
        {
            go.send(round).expect("the thread listens");
            loop {
                match context.run() {
                    Event::Interrupted => break,
                    // One that comes just before an answer makes the kernel give it.
                    Event::Syscall => context.registers_mut().rax = 4711,
                    other => panic!("{other:?}"),
                }
            }
            let taken = told.recv().expect("the time").elapsed();
            // A lost one is repeated after a second.
            assert!(
                taken < Duration::from_millis(900),
                "call {number}, {answer:?}, round {round}: {taken:?}"
            );
        }
        drop(go);
        thread.join().expect("the interrupting thread");
        assert!(context.registers().r12 > u64::from(COUNT) / 10);
    }
}

#[test]
fn an_fs_base_is_set_on_the_way_back() {
    let platform = platform();
    let mut context = start(&platform, moves());
    patch_next(&mut *context);
    syscall(&mut *context);
    let interrupter = context.interrupter();
    for (round, base) in [DATA, 0x1234, 1 << 46, u64::MAX, u64::MAX << 47, 0].into_iter().enumerate() {
        context.registers_mut().fs_base = base;
        // An interrupt on the way changes nothing.
        if round % 2 == 0 {
            interrupter.interrupt();
            assert_eq!(context.run(), Event::Interrupted);
        }
        for _ in 0..3 {
            assert_eq!(syscall(&mut *context), 39);
            assert_eq!(context.registers().fs_base, base);
        }
    }
    // What cannot be one is none.
    context.registers_mut().fs_base = 1 << 47;
    assert_eq!(syscall(&mut *context), 39);
    assert_eq!(context.registers().fs_base, 0);
}

#[test]
fn a_gs_base_of_the_guests_own_costs_speed_only() {
    let platform = platform();
    let mut context = start(&platform, moves());
    patch_next(&mut *context);
    context.set_answer(39, Some(1));
    for base in [DATA, 0x1234, u64::MAX, u64::MAX << 47] {
        context.registers_mut().gs_base = base;
        for _ in 0..3 {
            assert_eq!(syscall(&mut *context), 39);
            assert_eq!(context.registers().gs_base, base);
            assert_eq!(context.registers().rip, CODE + 9);
        }
    }
    context.set_answer(39, None);
    context.registers_mut().gs_base = 0;
    assert_eq!(syscall(&mut *context), 39);
    assert_eq!(context.registers().gs_base, 0);
}

#[test]
fn the_fpu_state_of_a_patched_call_is_the_guests() {
    let platform = platform();
    let mut context = start(&platform, vectors());
    patch_next(&mut *context);
    let xmm7 = 160 + 7 * 16;
    for value in 1..9u64 {
        context.registers_mut().r13 = value;
        syscall(&mut *context);
        syscall(&mut *context);
        assert_eq!(context.registers().r14, value);
        // Gone on with by a child and a thread, once the state comes along with the call, too.
        if value % 2 == 1 {
            for mut other in [context.fork().expect("a child"), context.spawn().expect("a thread")] {
                other.registers_mut().rax = value;
                syscall(&mut *other);
                assert_eq!(other.registers().r14, value);
                assert_eq!(other.fpu()[xmm7..xmm7 + 8], value.to_ne_bytes());
            }
            context.expect_spawn(39);
        }
        // Looked at, and looked at by a child and a thread.
        if value % 2 == 0 {
            let mut state = context.fpu();
            assert_eq!(state[xmm7..xmm7 + 8], value.to_ne_bytes());
            for mut other in [context.fork().expect("a child"), context.spawn().expect("a thread")] {
                syscall(&mut *other);
                assert_eq!(other.registers().r14, value);
            }
            // Changed.
            state[xmm7..xmm7 + 8].copy_from_slice(&77u64.to_ne_bytes());
            context.set_fpu(Some(&state)).expect("a good state");
            syscall(&mut *context);
            assert_eq!(context.registers().r14, 77);
        }
    }
    syscall(&mut *context);
    context.set_fpu(None).expect("the initial state");
    syscall(&mut *context);
    assert_eq!(context.registers().r14, 0);
}

#[test]
fn all_registers_can_be_changed_in_a_patched_call() {
    let platform = platform();
    let mut context = start(&platform, moves());
    context.memory(&[anonymous(SPARE, 4096, RW)]).expect("mapped");
    context.space().write(SPARE, report());
    context.memory(&[MemoryOp::Protect { address: SPARE, length: 4096, protection: RX }]).expect("protected");
    patch_next(&mut *context);
    syscall(&mut *context);
    let registers = context.registers_mut();
    (registers.rip, registers.rcx, registers.r11) = (SPARE, 0x1111, 0x2222);
    (registers.fs_base, registers.rsp) = (DATA, DATA + 64);
    assert_eq!(syscall(&mut *context), 7);
    let registers = context.registers();
    assert_eq!((registers.r14, registers.r15, registers.r13), (0x1111, 0x2222, DATA));
    assert_eq!((registers.rsp, registers.fs_base), (DATA + 64, DATA));
}

#[test]
fn patched_code_can_be_moved() {
    let platform = platform();
    for code in [moves(), compares()] {
        let mut context = start(&platform, code);
        context.registers_mut().r13 = 39;
        patch_next(&mut *context);
        syscall(&mut *context);
        context
            .memory(&[MemoryOp::Remap {
                from: CODE,
                from_length: 4096,
                to: SPARE,
                to_length: 4096,
                keep: false,
            }])
            .expect("moved");
        context.registers_mut().rip = SPARE;
        for _ in 0..3 {
            assert_eq!(syscall(&mut *context), 39);
            assert!((SPARE..SPARE + 4096).contains(&context.registers().rip));
        }
        // What comes to lie where the code was is not mistaken for it.
        context.memory(&[anonymous(CODE, 4096, RW)]).expect("mapped");
        context.space().write(CODE, code);
        context
            .memory(&[MemoryOp::Protect { address: CODE, length: 4096, protection: RX }])
            .expect("protected");
        context.registers_mut().rip = CODE;
        assert_eq!(syscall(&mut *context), 39);
    }
}

#[test]
fn patched_code_of_a_file_can_be_dropped() {
    use std::io::Write;
    let platform = platform();
    let mut file = tempfile();
    file.write_all(compares()).expect("a file");
    let file = Arc::new(file.into());
    let mut context = start(&platform, compares());
    context
        .memory(&[MemoryOp::Map {
            address: CODE,
            length: 4096,
            protection: RX,
            shared: false,
            flags: 0,
            file: Some((&file, 0)),
        }])
        .expect("mapped");
    context.registers_mut().r13 = 39;
    for _ in 0..3 {
        patch_next(&mut *context);
        syscall(&mut *context);
        let drop = MemoryOp::Advise { address: CODE, length: 4096, advice: libc::MADV_DONTNEED as u32 };
        context.memory(&[drop]).expect("dropped");
        let mut now = vec![0; compares().len()];
        context.space().read(CODE, &mut now);
        assert_eq!(now, compares());
        // Behind the call, where it was when its code went back, and from the start.
        assert_eq!(syscall(&mut *context), 39);
        assert_eq!(syscall(&mut *context), 39);
    }
}

/// An empty file in memory.
fn tempfile() -> std::fs::File {
    let flags = host::rustix::fs::MemfdFlags::CLOEXEC;
    host::rustix::fs::memfd_create("guest", flags).expect("a file").into()
}

#[test]
fn single_steps_go_past_the_stub() {
    let platform = platform();
    let mut context = start(&platform, moves());
    patch_next(&mut *context);
    assert_steps_pass(&mut *context);
}

/// Steps through three calls of a patched site, and fails if a step ends in the stub.
pub(super) fn assert_steps_pass(context: &mut dyn Context) {
    syscall(context);
    context.registers_mut().eflags |= 0x100;
    let (mut steps, mut calls) = (0, 0);
    while calls < 3 {
        match context.run() {
            Event::Fault(fault) => {
                assert_eq!(fault.signal, abi::signal::Signal::SIGTRAP);
                let rip = context.registers().rip;
                assert!(!(layout::TEXT..layout::TEXT + 4096).contains(&rip), "{rip:#x}");
                steps += 1;
            }
            Event::Syscall => calls += 1,
            other => panic!("{other:?}"),
        }
        assert!(steps < 100);
    }
    assert!(steps >= 3);
}

#[test]
fn nothing_is_patched_when_it_is_switched_off() {
    let zygote = Zygote::spawn(HostVdso::find()).expect("a zygote");
    let platform = StubPlatform::new(zygote, None, Tuning { patching: Patching::Off, ..Tuning::default() })
        .expect("a platform");
    let mut context = start(&platform, moves());
    context.set_answer(39, Some(1));
    for _ in 0..100 {
        assert_eq!(syscall(&mut *context), 39);
        assert_eq!(context.hot_call(), None);
    }
    assert_eq!(context.patch(RX), Ok(false));
    assert_eq!(patched_calls(&platform, context), 0);
}

#[test]
fn sites_that_are_not_understood_stay_as_they_are() {
    let platform = platform();
    let mut context = start(&platform, strange());
    context.registers_mut().r13 = 39;
    let mut hot = 0;
    for _ in 0..100 {
        assert_eq!(syscall(&mut *context), 39);
        if context.hot_call().is_some() {
            hot += 1;
            assert_eq!(context.patch(RX), Ok(false));
        }
    }
    assert!((1..=3).contains(&hot), "{hot}");
    let mut now = vec![0; strange().len()];
    context.space().read(CODE, &mut now);
    assert_eq!(now, strange());
}

/// The platform still does its work.
pub(super) fn still_works(platform: &StubPlatform) {
    let mut other = start(platform, moves());
    patch_next(&mut *other);
    assert_eq!(syscall(&mut *other), 39);
    let mut child = other.fork().expect("a fork");
    assert_eq!(syscall(&mut *child), 39);
}

/// Runs a guest for a while, whatever it does, and kills it.
fn run_for(context: &mut dyn Context, time: Duration) {
    let space = context.space().clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !done.load(Ordering::SeqCst) && start.elapsed() < time {
                std::thread::sleep(Duration::from_millis(1));
            }
            space.kill();
        });
        for _ in 0..10_000 {
            match context.run() {
                Event::Died => break,
                Event::Fault(_) => context.registers_mut().rip = CODE,
                _ => {}
            }
            if context.hot_call().is_some() {
                let _ = context.patch(RX);
            }
            let _ = context.fpu();
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_guest_may_spoil_its_own_trampolines() {
    let platform = platform();
    let syscall_at = text::text().windows(2).position(|pair| pair == [0x0f, 0x05]).expect("a call") as u64;
    for (number, third) in [(libc::SYS_munmap, 0), (libc::SYS_mprotect, 0), (libc::SYS_mprotect, 3)] {
        for area in TRAMPOLINES {
            let mut context = start(&platform, moves());
            patch_next(&mut *context);
            context.memory(&[anonymous(SPARE, 4096, RW)]).expect("mapped");
            context.space().write(SPARE, through_the_stub());
            let protect = MemoryOp::Protect { address: SPARE, length: 4096, protection: RX };
            context.memory(&[protect]).expect("protected");
            let mut attacker = context.spawn().expect("a thread");
            let registers = attacker.registers_mut();
            (registers.rip, registers.r12) = (SPARE, layout::TEXT + syscall_at);
            (registers.rax, registers.rdi) = (number as u64, area);
            (registers.rsi, registers.rdx) = (layout::TRAMPOLINES_SIZE, third);
            std::thread::scope(|scope| {
                scope.spawn(|| run_for(&mut *attacker, Duration::from_millis(30)));
                run_for(&mut *context, Duration::from_millis(60));
            });
        }
    }
    still_works(&platform);
}

#[test]
fn jumping_anywhere_into_a_trampoline_ends_somehow() {
    let platform = platform();
    for code in [moves(), compares()] {
        for offset in 0..64 {
            let mut context = start(&platform, code);
            context.registers_mut().r13 = 39;
            patch_next(&mut *context);
            let mut jump = [0; 5];
            let site = if code == moves() { CODE + 2 } else { CODE + 7 };
            context.space().read(site, &mut jump);
            let distance = i32::from_le_bytes(jump[1..].try_into().expect("four bytes"));
            let trampoline = (site + 5).wrapping_add_signed(distance.into());
            context.registers_mut().rip = trampoline + offset;
            run_for(&mut *context, Duration::from_millis(5));
        }
    }
    still_works(&platform);
}

#[test]
fn scribbling_over_a_patched_call_confuses_nobody_but_the_guest() {
    let platform = platform();
    let targets = [
        (0u64, 0x1f8, u64::MAX),
        (0, 0x3c, 7),
        (INTERRUPTED as u64, 0, 1),
        (MAGIC as u64, 0, u64::MAX),
        (FAST_RAX as u64, 0x78, u64::MAX),
        (layout::ANSWERS as u64, 0x3f8, 0xffff),
    ];
    for (offset, span, values) in targets {
        let mut victim = start(&platform, moves());
        patch_next(&mut *victim);
        victim.memory(&[anonymous(SPARE, 4096, RW)]).expect("mapped");
        victim.space().write(SPARE, scribble_words());
        let protect = MemoryOp::Protect { address: SPARE, length: 4096, protection: RX };
        victim.memory(&[protect]).expect("protected");
        let mut attacker = victim.spawn().expect("a thread");
        let registers = attacker.registers_mut();
        (registers.rip, registers.rdi) = (SPARE, SLOTS + offset);
        (registers.rsi, registers.rbx) = (span, values);
        std::thread::scope(|scope| {
            scope.spawn(|| run_for(&mut *attacker, Duration::from_millis(400)));
            run_for(&mut *victim, Duration::from_millis(200));
        });
    }
    still_works(&platform);
}
