//! Call sites that are patched by way of a `nop`, and sites that are known from elsewhere.

use std::sync::Arc;

use super::StubPlatform;
use super::common::*;
use super::layout::{SLOTS, TRAMPOLINES, TRAMPOLINES_SIZE};
use super::patch_tests::{assert_steps_pass, patched_calls};
use crate::guest_code;
use crate::{CallSite, Context, Event, MemoryOp};

// A call with nothing behind it that can be moved, and a nop that is executed each time.
guest_code!(
    detours,
    "nop",
    "nop",
    "nop",
    "nop",
    "2: mov rax, r13",
    "syscall",
    "jmp 3f",
    "3:",
    ".byte 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0",
    "inc r12",
    "jmp 2b",
);
// A call with a comparison behind it.
guest_code!(
    compared,
    "nop",
    "nop",
    "nop",
    "nop",
    "2: mov rax, r13",
    "syscall",
    ".byte 0x48, 0x3d, 1, 0xf0, 0xff, 0xff", // cmp rax, -4095
    "inc r12",
    "jmp 2b",
);
// Two calls with a nop for each, and two of the other kinds.
guest_code!(
    several,
    "nop",
    "nop",
    "nop",
    "nop",
    "2: mov rax, r13",
    "syscall",
    "jmp 3f",
    ".byte 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0",
    "3: inc r12",
    "mov rax, r13",
    "syscall",
    "jmp 3f",
    ".byte 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0",
    "3: inc r12",
    "mov eax, 39",
    "syscall",
    "inc r12",
    "jmp 3f",
    ".zero 300, 0xcc",
    "3: xor eax, eax",
    "syscall",
    ".byte 0x48, 0x3d, 1, 0xf0, 0xff, 0xff", // cmp rax, -4095
    "inc r12",
    "jmp 2b",
);
/// Calls of a round of it.
const SEVERAL: u64 = 4;

// Two calls with one nop for both.
guest_code!(
    contended,
    "nop",
    "nop",
    "nop",
    "nop",
    "2: mov rax, r13",
    "syscall",
    "jmp 3f",
    ".byte 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0",
    "3: inc r12",
    "mov rax, r13",
    "syscall",
    "jmp 3f",
    "3: inc r12",
    "jmp 2b",
);

/// Behind the call of [`detours`], and the operand of its nop.
const AFTER: u64 = CODE + 9;
const OPERAND: u64 = AFTER + 2 + 4;
const SPARE: u64 = 0x4000_0000;

/// A guest that has made one call.
fn guest(platform: &StubPlatform, code: &[u8]) -> Box<dyn Context> {
    let mut context = start(platform, code);
    context.registers_mut().r13 = 39;
    syscall(&mut *context);
    context
}

/// Calls until the site is hot, and patches it.
fn patch_next(context: &mut dyn Context) {
    for _ in 0..600 {
        if context.hot_call().is_some() {
            assert_eq!(context.patch(RX), Ok(true));
            return;
        }
        syscall(context);
    }
    panic!("the site does not become hot");
}

fn code_at<const LENGTH: usize>(context: &dyn Context, address: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    assert_eq!(context.space().read(address, &mut bytes), LENGTH);
    bytes
}

#[test]
fn a_call_goes_by_way_of_a_nop() {
    let platform = platform();
    let mut context = guest(&platform, detours());
    patch_next(&mut *context);
    assert_eq!(context.settle(), None);
    assert_eq!(code_at(&*context, AFTER - 2), [0xeb, 6]);
    assert_eq!(code_at::<5>(&*context, OPERAND - 4), [0x66, 0x0f, 0x1f, 0x84, 0xe9]);
    for round in 0..20u64 {
        let registers = context.registers_mut();
        registers.r12 = round;
        [registers.rdi, registers.rsi, registers.rdx] = [round + 1, round + 2, round + 3];
        [registers.r10, registers.r8, registers.r9] = [round + 4, round + 5, round + 6];
        [registers.rbx, registers.rbp, registers.r15] = [round + 7, round + 8, round + 9];
        registers.rax = 5;
        let expected = *registers;
        // It comes by the nop, which is one still.
        assert_eq!(syscall(&mut *context), 39);
        let seen = context.registers();
        assert_eq!((seen.r12, seen.arguments()), (round + 1, expected.arguments()));
        assert_eq!((seen.rbx, seen.rbp, seen.r15), (expected.rbx, expected.rbp, expected.r15));
        assert_eq!((seen.rsp, seen.rax), (expected.rsp, (-38i64).cast_unsigned()));
    }
    // Somebody jumps to the call, and behind it.
    context.registers_mut().rip = AFTER - 2;
    context.registers_mut().rax = 123;
    assert_eq!(syscall(&mut *context), 123);
    (context.registers_mut().rip, context.registers_mut().r12) = (AFTER, 0);
    assert_eq!(syscall(&mut *context), 39);
    assert_eq!(context.registers().r12, 1);
    // A restarted call, wherever the kernel finds its thread.
    context.registers_mut().rip -= 2;
    context.registers_mut().rax = 77;
    assert_eq!(syscall(&mut *context), 77);
    context.registers_mut().gs_base = DATA;
    assert_eq!(syscall(&mut *context), 39);
    assert_eq!(context.registers().gs_base, DATA);
    assert!(patched_calls(&platform, context) >= 22);
}

#[test]
fn a_thread_in_such_a_call_goes_on_where_it_was() {
    let platform = platform();
    let mut context = guest(&platform, detours());
    let mut other = context.spawn().expect("a thread");
    syscall(&mut *other);
    (other.registers_mut().rax, other.registers_mut().r12) = (0, 0);
    patch_next(&mut *context);
    let mut child = context.fork().expect("a child");
    for context in [&mut other, &mut child] {
        context.registers_mut().r12 = 0;
        assert_eq!(syscall(&mut **context), 39);
        assert_eq!(context.registers().r12, 1);
    }
}

#[test]
fn single_steps_go_past_the_stub() {
    let platform = platform();
    let mut context = guest(&platform, detours());
    patch_next(&mut *context);
    assert_steps_pass(&mut *context);
}

#[test]
fn such_code_can_be_moved_and_dropped() {
    use std::io::Write;
    let platform = platform();
    let flags = host::rustix::fs::MemfdFlags::CLOEXEC;
    let file = host::rustix::fs::memfd_create("guest", flags).expect("a file");
    let mut file = std::fs::File::from(file);
    file.write_all(detours()).expect("code");
    let file = Arc::new(file.into());
    let mut context = guest(&platform, detours());
    let map = MemoryOp::Map {
        address: CODE,
        length: 4096,
        protection: RX,
        shared: false,
        flags: 0,
        file: Some((&file, 0)),
    };
    context.memory(&[map]).expect("mapped");
    for _ in 0..3 {
        patch_next(&mut *context);
        syscall(&mut *context);
        let drop = MemoryOp::Advise { address: CODE, length: 4096, advice: libc::MADV_DONTNEED as u32 };
        context.memory(&[drop]).expect("dropped");
        let mut now = vec![0; detours().len()];
        context.space().read(CODE, &mut now);
        assert_eq!(now, detours());
        assert_eq!(syscall(&mut *context), 39);
        assert_eq!(syscall(&mut *context), 39);
    }
    patch_next(&mut *context);
    let (from, to) = (CODE, SPARE);
    let moved = MemoryOp::Remap { from, from_length: 4096, to, to_length: 4096, keep: false };
    context.memory(&[moved]).expect("moved");
    let mut now = vec![0; detours().len()];
    context.space().read(SPARE, &mut now);
    assert_eq!(now, detours());
    context.registers_mut().rip = SPARE;
    for _ in 0..3 {
        assert_eq!(syscall(&mut *context), 39);
        assert!((SPARE..SPARE + 4096).contains(&context.registers().rip));
    }
}

/// How far from the beginning of [`detours`] and [`compared`] the call is.
const CALL: usize = 7;

/// A guest whose code is at the end of one page and the beginning of the next, in a private mapping of a file: the call's first
/// byte is the first page's last. Its first call is patched.
fn on_two_pages(platform: &StubPlatform, code: &[u8]) -> Box<dyn Context> {
    use std::io::{Seek, SeekFrom, Write};
    let flags = host::rustix::fs::MemfdFlags::CLOEXEC;
    let file = host::rustix::fs::memfd_create("guest", flags).expect("a file");
    let mut file = std::fs::File::from(file);
    file.set_len(8192).expect("two pages");
    file.seek(SeekFrom::Start(4095 - CALL as u64)).expect("a place");
    file.write_all(code).expect("code");
    let file = Arc::new(file.into());
    let mut context = start(platform, code);
    let map = MemoryOp::Map {
        address: SPARE,
        length: 8192,
        protection: RX,
        shared: false,
        flags: 0,
        file: Some((&file, 0)),
    };
    context.memory(&[map]).expect("mapped");
    (context.registers_mut().rip, context.registers_mut().r13) = (SPARE + 4095 - CALL as u64, 39);
    patch_next(&mut *context);
    context
}

/// Which bytes of code that lies there are not what they were, as far as it can be read.
fn changed(context: &dyn Context, code: &[u8]) -> Vec<usize> {
    let mut now = vec![0; code.len()];
    let read = context.space().read(SPARE + 4095 - CALL as u64, &mut now);
    (0..read).filter(|byte| now[*byte] != code[*byte]).collect()
}

#[test]
fn code_on_two_pages_is_as_it_was_when_one_may_be_read_anew() {
    let platform = platform();
    let (first, second) = (SPARE, SPARE + 4096);
    let advise = |address, length| MemoryOp::Advise { address, length, advice: libc::MADV_DONTNEED as u32 };
    let protect = |address, protection| MemoryOp::Protect { address, length: 4096, protection };
    for code in [detours(), compared()] {
        let mut context = on_two_pages(&platform, code);
        context.memory(&[protect(first, RX)]).expect("as it is");
        assert!(!changed(&*context, code).is_empty());
        // What leaves the code executable.
        for operation in [advise(first, 4096), advise(second, 4096), advise(first, 8192)] {
            for later in [false, true] {
                let mut context = on_two_pages(&platform, code);
                if later {
                    syscall(&mut *context);
                    context.memory_later(&[operation]).expect("changed");
                    assert_eq!(context.settle(), None);
                } else {
                    // Before it is even written.
                    context.memory(&[operation]).expect("changed");
                }
                assert_eq!(changed(&*context, code), []);
                for _ in 0..40 {
                    assert_eq!(syscall(&mut *context), 39);
                }
            }
        }
        // What does not: none of the patch is left either.
        let unmap = |address| MemoryOp::Unmap { address, length: 4096 };
        for operation in
            [protect(second, 0), protect(first, RW), protect(first, 1), unmap(first), unmap(second)]
        {
            let mut context = on_two_pages(&platform, code);
            syscall(&mut *context);
            context.memory_later(&[operation]).expect("changed");
            assert_eq!(context.settle(), None);
            assert_eq!(changed(&*context, code), []);
            if operation_protects(&operation) {
                context
                    .memory(&[MemoryOp::Protect { address: first, length: 8192, protection: RX }])
                    .expect("back");
                assert_eq!(changed(&*context, code), []);
                assert_eq!(syscall(&mut *context), 39);
            }
        }
        let mut context = on_two_pages(&platform, code);
        syscall(&mut *context);
        context.memory(&[anonymous(first, 4096, RW)]).expect("mapped");
        assert!(changed(&*context, code).iter().all(|byte| *byte <= CALL));
        // Moved over.
        let mut context = on_two_pages(&platform, code);
        syscall(&mut *context);
        let moved =
            MemoryOp::Remap { from: DATA, from_length: 4096, to: second, to_length: 4096, keep: false };
        context.memory(&[moved]).expect("moved");
        assert!(changed(&*context, code).iter().all(|byte| *byte > CALL));
    }
}

fn operation_protects(operation: &MemoryOp<'_>) -> bool {
    matches!(operation, MemoryOp::Protect { .. })
}

#[test]
fn a_jump_anywhere_into_a_nop_ends_somehow() {
    let platform = platform();
    for offset in 0..9 {
        let mut context = guest(&platform, detours());
        patch_next(&mut *context);
        context.registers_mut().rip = OPERAND - 4 + offset;
        for _ in 0..20 {
            if !matches!(context.run(), Event::Syscall) {
                break;
            }
        }
    }
    let mut context = guest(&platform, detours());
    patch_next(&mut *context);
    assert_eq!(syscall(&mut *context), 39);
}

/// The sites of [`several`], as a process finds them one after the other.
fn known_sites(platform: &StubPlatform) -> Vec<(u64, CallSite)> {
    first_sites(platform, several(), SEVERAL)
}

/// The first so many sites of a guest.
fn first_sites(platform: &StubPlatform, code: &[u8], count: u64) -> Vec<(u64, CallSite)> {
    let mut context = guest(platform, code);
    let mut sites = Vec::new();
    for _ in 0..count {
        let code = context.trapped_call().expect("a call that has trapped");
        sites.push((code.start, context.call_site().expect("a site")));
        syscall(&mut *context);
    }
    sites
}

#[test]
fn known_sites_are_patched_all_at_once() {
    let platform = platform();
    let known = known_sites(&platform);
    let mut context = guest(&platform, several());
    assert_eq!(context.patch_known(RX, &known), Ok(SEVERAL as usize));
    let before = platform.call_counts().patched;
    for count in 1..100 {
        let number = syscall(&mut *context);
        assert_eq!((context.registers().r12, number), (count, if count % 4 == 3 { 0 } else { 39 }));
        assert_eq!(context.trapped_call(), None);
    }
    // None is patched twice.
    assert_eq!(context.patch_known(RX, &known), Ok(0));
    let mut child = context.fork().expect("a child");
    syscall(&mut *child);
    drop((context, child));
    assert_eq!(platform.call_counts().patched - before, 100);
}

#[test]
fn a_site_is_patched_by_the_call_that_has_others_patched() {
    let platform = platform();
    let known = known_sites(&platform);
    for alone in [true, false] {
        let mut context = guest(&platform, several());
        let _other = (!alone).then(|| context.spawn().expect("a thread"));
        assert_eq!(context.patch_known(RX, &known[1..]), Ok(SEVERAL as usize - 1));
        assert_eq!(context.patch(RX), Ok(true));
        for count in 1..101 {
            let number = syscall(&mut *context);
            assert_eq!((context.registers().r12, number), (count, if count % 4 == 3 { 0 } else { 39 }));
            assert_eq!(context.trapped_call(), None);
        }
    }
}

#[test]
fn a_nop_that_is_about_to_be_changed_serves_no_other_call() {
    let platform = platform();
    let known = first_sites(&platform, contended(), 2);
    let mut context = guest(&platform, contended());
    assert_eq!(context.patch_known(RX, &known[1..]), Ok(1));
    assert_eq!(context.patch(RX), Ok(false));
    for count in 1..100 {
        assert_eq!((syscall(&mut *context), context.registers().r12), (39, count));
    }
}

#[test]
fn what_is_not_as_it_was_known_stays_as_it_is() {
    let platform = platform();
    let known = known_sites(&platform);
    let mut context = guest(&platform, several());
    let original: Vec<u8> = several().to_vec();
    // Not where they were; in memory that cannot be read; a site that another number was loaded at.
    let moved: Vec<_> = known.iter().map(|(at, site)| (at + 1, *site)).collect();
    assert_eq!(context.patch_known(RX, &moved), Ok(0));
    for place in [SPARE, u64::MAX, u64::MAX - 4096, 0] {
        assert_eq!(context.patch_known(RX, &[(place, known[0].1)]), Ok(0));
    }
    let mut now = vec![0; original.len()];
    context.space().read(CODE, &mut now);
    assert_eq!(now, original);
    // A byte behind the third is another one.
    let third = known[2].0;
    context.memory(&[MemoryOp::Protect { address: CODE, length: 4096, protection: RW }]).expect("writable");
    assert_eq!(code_at(&*context, third + 20), [0xcc]);
    context.space().write(third + 20, &[0xcd]);
    context.memory(&[MemoryOp::Protect { address: CODE, length: 4096, protection: RX }]).expect("as before");
    assert_eq!(context.patch_known(RX, &known), Ok(3));
    assert_eq!(code_at::<2>(&*context, third + 6), [0x0f, 0x05]);
    assert_eq!(code_at::<1>(&*context, third + 1), [0xb8]);
    for _ in 0..20 {
        syscall(&mut *context);
    }
}

#[test]
fn known_sites_are_patched_while_others_execute_them() {
    let platform = platform();
    let known = known_sites(&platform);
    for _ in 0..20 {
        let mut context = guest(&platform, several());
        let mut contexts: Vec<_> = (0..2).map(|_| context.spawn().expect("a thread")).collect();
        contexts.push(context);
        let patched: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = contexts
                .into_iter()
                .map(|mut context| {
                    let known = &known;
                    scope.spawn(move || {
                        let (mut patched, start) = (0, context.registers().r12);
                        for calls in 1..2000 {
                            let number = syscall(&mut *context);
                            assert!(number == 39 || number == 0, "{number}");
                            assert_eq!(context.registers().r12, start + calls);
                            if calls % 100 == 50 && patched == 0 {
                                // Under load the others may not stop in time.
                                patched = context.patch_known(RX, known).unwrap_or(0);
                            }
                        }
                        patched
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no surprise")).sum()
        });
        assert!(patched <= SEVERAL as usize, "{patched}");
    }
}

#[test]
fn trampolines_are_the_platforms() {
    let platform = platform();
    let mut context = guest(&platform, detours());
    patch_next(&mut *context);
    let trampoline = context.registers().rip;
    assert!(TRAMPOLINES.into_iter().any(|area| (area..area + TRAMPOLINES_SIZE).contains(&trampoline)));
    assert!(trampoline < SLOTS);
    // The guest has no way to map anything there.
    let place = trampoline & !4095;
    assert!(context.memory(&[anonymous(place, 4096, RW)]).is_err());
    assert!(context.memory(&[MemoryOp::Unmap { address: place, length: 4096 }]).is_err());
    assert_eq!(syscall(&mut *context), 39);
}
