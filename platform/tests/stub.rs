//! The stub platform with guests that behave.

#![allow(unsafe_code, reason = "guest code is assembled with the test")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use abi::Errno;
use abi::signal::Signal;
use common::*;
use platform::{Context, Event, MemoryOp, Platform, Registers};

guest_code!(count_calls, "2: mov eax, 39", "syscall", "inc r12", "jmp 2b");
guest_code!(spin, "2: inc r12", "jmp 2b");
guest_code!(load, "mov rax, [rdi]", "syscall");
guest_code!(illegal, "ud2");
guest_code!(divide, "xor ecx, ecx", "div ecx");
guest_code!(breakpoint, "int3", "nop");
guest_code!(
    vector_state,
    "movaps xmm3, [rdi]",
    "vbroadcastss ymm7, [rdi]",
    "fld1",
    "2: mov eax, 39",
    "syscall",
    "movups [rdi + 64], xmm3",
    "vmovups [rdi + 96], ymm7",
    "fstp qword ptr [rdi + 128]",
    "mov eax, 40",
    "syscall",
);
guest_code!(
    segment_bases,
    "mov eax, 1",
    "syscall",
    "mov rax, fs:0",
    "mov rdx, gs:8",
    "rdfsbase rdi",
    "rdgsbase rsi",
    "mov ebx, 0x1234",
    "wrgsbase rbx",
    "syscall",
);
guest_code!(add_up, "2: lock inc dword ptr [rdi]", "dec esi", "jnz 2b", "mov eax, 60", "syscall");
guest_code!(old_gate, "int 0x80", "nop");
guest_code!(vsyscall, "mov rax, 0xffffffffff600400", "call rax", "ud2");

#[test]
fn a_system_call_comes_with_its_registers() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    *context.registers_mut() = Registers {
        rdi: 1,
        rsi: 2,
        rdx: 3,
        r10: 4,
        r8: 5,
        r9: 6,
        rbx: 7,
        rbp: 8,
        r13: 9,
        r14: 10,
        r15: 11,
        ..*context.registers()
    };
    let before = *context.registers();
    for round in 0..1000 {
        assert_eq!(syscall(&mut *context), 39);
        let registers = context.registers();
        assert_eq!(registers.arguments(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(registers.rax, Errno::ENOSYS.to_ret());
        assert_eq!((registers.rip, registers.rcx), (CODE + 7, CODE + 7));
        assert_eq!(registers.r12, round);
        assert_eq!([registers.rbx, registers.rbp, registers.rsp], [before.rbx, before.rbp, before.rsp]);
        assert_eq!([registers.r13, registers.r14, registers.r15], [9, 10, 11]);
        context.registers_mut().rax = 77;
    }
}

#[test]
fn the_guest_sees_changed_registers() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    syscall(&mut *context);
    context.registers_mut().rip = CODE;
    context.registers_mut().r12 = 1 << 40;
    context.registers_mut().rdi = 0xdead_beef_0000;
    syscall(&mut *context);
    assert_eq!(context.registers().r12, 1 << 40);
    assert_eq!(context.registers().rdi, 0xdead_beef_0000);
}

#[test]
fn faults_say_what_happened() {
    let platform = platform();
    let fault = |code: &[u8], prepare: &dyn Fn(&mut dyn Context)| {
        let mut context = start(&platform, code);
        prepare(&mut *context);
        match context.run() {
            Event::Fault(fault) => (fault, context.registers().rip),
            other => panic!("{other:?}"),
        }
    };
    let (unmapped, rip) = fault(load(), &|context| context.registers_mut().rdi = 0x1234_5678);
    assert_eq!((unmapped.signal, unmapped.code, unmapped.address), (Signal::SIGSEGV, 1, 0x1234_5678));
    assert_eq!((unmapped.trap, unmapped.error & 2, rip), (14, 0, CODE));
    let (forbidden, _) = fault(load(), &|context| {
        context.memory(&[anonymous(0x2000_0000, 4096, 0)]).unwrap();
        context.registers_mut().rdi = 0x2000_0010;
    });
    assert_eq!((forbidden.signal, forbidden.code, forbidden.address), (Signal::SIGSEGV, 2, 0x2000_0010));
    let (beyond, _) = fault(load(), &|context| {
        let file = tempfile(b"short");
        let file = Some((&file, 0));
        let (address, length) = (0x2000_0000, 8192);
        let map = MemoryOp::Map { address, length, protection: 1, shared: true, flags: 0, file };
        context.memory(&[map]).unwrap();
        context.registers_mut().rdi = 0x2000_1000;
    });
    assert_eq!((beyond.signal, beyond.address), (Signal::SIGBUS, 0x2000_1000));
    assert_eq!(fault(illegal(), &|_| {}).0.signal, Signal::SIGILL);
    assert_eq!(fault(divide(), &|_| {}).0.signal, Signal::SIGFPE);
    let (trap, rip) = fault(breakpoint(), &|_| {});
    assert_eq!((trap.signal, rip), (Signal::SIGTRAP, CODE + 1));
    let (gate, rip) = fault(old_gate(), &|_| {});
    assert_eq!((gate.signal, gate.trap, rip), (Signal::SIGSEGV, 13, CODE));
}

#[test]
fn the_vsyscall_page_is_a_system_call_too() {
    let platform = platform();
    let mut context = start(&platform, vsyscall());
    match context.run() {
        Event::Syscall => assert_eq!(context.registers().orig_rax, 201),
        Event::Fault(fault) => assert_eq!(fault.signal, Signal::SIGSEGV),
        other => panic!("{other:?}"),
    }
}

#[test]
fn vector_and_x87_state_survive_system_calls_and_forks() {
    let platform = platform();
    let mut context = start(&platform, vector_state());
    let pattern = [1.5f32, 2.5, 3.5, 4.5].map(f32::to_ne_bytes).concat();
    context.space().write(DATA, &pattern);
    context.registers_mut().rdi = DATA;
    assert_eq!(syscall(&mut *context), 39);
    let mut child = context.fork().unwrap();
    let mut sibling = context.spawn().unwrap();
    let saved = context.fpu();
    sibling.registers_mut().rdi = DATA + 0x1000;
    for context in [&mut child, &mut context, &mut sibling] {
        assert_eq!(syscall(&mut **context), 40);
        let mut found = [0; 72];
        let base = context.registers().rdi;
        assert_eq!(context.space().read(base + 64, &mut found), 72);
        assert_eq!(found[..16], pattern);
        assert_eq!(found[32..64], [1.5f32.to_ne_bytes(); 8].concat());
        assert_eq!(found[64..], 1.0f64.to_ne_bytes());
    }
    // Back to the first call by hand, in a thread whose state was reset in between.
    context.set_fpu(None).unwrap();
    assert_eq!(context.set_fpu(Some(&saved[..100])), Err(Errno::EINVAL));
    context.registers_mut().rip = CODE + 20;
    context.set_fpu(Some(&saved)).unwrap();
    assert_eq!(&context.fpu()[160 + 3 * 16..160 + 4 * 16], &pattern);
}

#[test]
fn nonsense_as_fpu_state_is_made_harmless() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    syscall(&mut *context);
    let length = context.fpu().len();
    for fill in [0xff, 0x80, 0x01, 0x55] {
        for length in [512, 575, 576, 600, length - 1, length, length + 1000] {
            let mut state = vec![fill; length];
            context.set_fpu(Some(&state)).unwrap();
            assert_eq!(syscall(&mut *context), 39);
            let good = context.fpu();
            state[464..512].copy_from_slice(&good[464..512]);
            if length >= good.len() {
                state[good.len() - 4..good.len()].copy_from_slice(&good[good.len() - 4..]);
            }
            context.set_fpu(Some(&state)).unwrap();
            assert_eq!(syscall(&mut *context), 39);
        }
    }
}

#[test]
fn segment_bases_are_the_guests() {
    let platform = platform();
    let mut context = start(&platform, segment_bases());
    syscall(&mut *context);
    context.space().write(DATA, &11u64.to_ne_bytes());
    context.space().write(DATA + 0x108, &22u64.to_ne_bytes());
    (context.registers_mut().fs_base, context.registers_mut().gs_base) = (DATA, DATA + 0x100);
    syscall(&mut *context);
    let registers = context.registers();
    assert_eq!([registers.orig_rax, registers.rdx], [11, 22]);
    assert_eq!([registers.rdi, registers.rsi], [DATA, DATA + 0x100]);
    assert_eq!([registers.fs_base, registers.gs_base], [DATA, 0x1234]);
}

#[test]
fn reads_and_writes_stop_at_the_first_page_that_forbids_them() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    let base = 0x3000_0000;
    let operations = [
        anonymous(base, 3 * 4096, RW),
        MemoryOp::Protect { address: base + 4096, length: 4096, protection: 1 },
        MemoryOp::Protect { address: base + 8192, length: 4096, protection: 0 },
    ];
    context.memory(&operations).unwrap();
    let space = context.space().clone();
    let mut buffer = vec![1; 3 * 4096];
    assert_eq!(space.read(base, &mut buffer), 8192);
    assert_eq!(space.read(base + 4000, &mut buffer[..200]), 200);
    assert_eq!(space.read(base + 8191, &mut buffer), 1);
    assert_eq!(space.read(base + 8192, &mut buffer), 0);
    assert_eq!(space.write(base + 10, &buffer), 4096 - 10);
    assert_eq!(space.write(base + 4096, b"x"), 0);
    assert_eq!(space.read(base, &mut []), 0);
    for address in [0, 8, u64::MAX - 1, 0x7ff1_0000_0000, 0x7ff2_0000_0000, 1 << 47, 1 << 63] {
        assert_eq!(space.read(address, &mut buffer), 0, "{address:#x}");
        assert_eq!(space.write(address, &buffer), 0, "{address:#x}");
    }
}

#[test]
fn a_batch_stops_at_the_first_failure() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    let base = 0x3000_0000;
    let wrong = MemoryOp::Protect { address: base + 4096, length: 4096, protection: 1 };
    assert_eq!(
        context.memory(&[anonymous(base, 4096, RW), wrong, anonymous(base + 8192, 4096, RW)]),
        Err(Errno::ENOMEM)
    );
    assert_eq!(context.space().write(base, b"x"), 1);
    assert_eq!(context.space().write(base + 8192, b"x"), 0);
    let outside = [
        anonymous(0x7ff1_0000_0000, 4096, RW),
        anonymous(0x7fef_ffff_f000, 8192, RW),
        anonymous(0, 4096, RW),
        anonymous(base, 0, RW),
        anonymous(base + 1, 4096, RW),
        anonymous(base, u64::MAX - 4095, RW),
        MemoryOp::Unmap { address: 0x7ff2_0000_0000, length: 4096 },
        MemoryOp::Remap { from: base, from_length: 4096, to: 0x7ff2_0000_0000, to_length: 4096, keep: false },
    ];
    for operation in outside {
        assert_eq!(context.memory(&[operation]), Err(Errno::EINVAL), "{operation:?}");
    }
    let many = vec![anonymous(base, 4096, RW); 5000];
    context.memory(&many).unwrap();
    context.memory(&[]).unwrap();
}

#[test]
fn files_are_mapped_shared_and_private() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    let file = tempfile(&[b'a'; 8192]);
    let map = |address, shared, offset| {
        let file = Some((&file, offset));
        MemoryOp::Map { address, length: 4096, protection: RW, shared, flags: 0, file }
    };
    let (one, two, three) = (0x3000_0000, 0x3000_1000, 0x3000_2000);
    context
        .memory(&[
            map(one, true, 0),
            map(two, false, 0),
            anonymous(0x4000_0000, 4096, RW),
            map(three, true, 4096),
        ])
        .unwrap();
    let space = context.space().clone();
    let byte = |address| {
        let mut byte = [0];
        assert_eq!(space.read(address, &mut byte), 1);
        byte[0]
    };
    space.write(one, b"b");
    assert_eq!([byte(one), byte(two), byte(three)], [b'b', b'b', b'a']);
    space.write(two, b"c");
    assert_eq!([byte(one), byte(two)], [b'b', b'c']);
    let mut on_disk = [0];
    host::rustix::io::pread(&file, &mut on_disk, 0).unwrap();
    assert_eq!(on_disk, [b'b']);
    // An fd of the wrong kind, and one without the right to write.
    let (reader, _writer) = host::rustix::pipe::pipe().unwrap();
    let reader = Arc::new(reader);
    let pipe = Some((&reader, 0));
    let (address, length) = (0x5000_0000, 4096);
    let wrong = MemoryOp::Map { address, length, protection: 1, shared: false, flags: 0, file: pipe };
    assert_eq!(context.memory(&[wrong]), Err(Errno::ENODEV));
    let read_only = Arc::new(std::fs::File::open("/proc/self/exe").unwrap().into());
    let exe = Some((&read_only, 0));
    let wrong = MemoryOp::Map { address, length, protection: RW, shared: true, flags: 0, file: exe };
    assert_eq!(context.memory(&[wrong]), Err(Errno::EACCES));
    assert_eq!(syscall(&mut *context), 39);
}

#[test]
fn mappings_move_grow_and_go() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    let (old, new) = (0x3000_0000, 0x4000_0000);
    context.memory(&[anonymous(old, 8192, RW)]).unwrap();
    let space = context.space().clone();
    space.write(old + 4096, b"moved");
    let remap =
        |from, from_length, to, to_length, keep| MemoryOp::Remap { from, from_length, to, to_length, keep };
    context.memory(&[remap(old, 8192, new, 16384, false)]).unwrap();
    let mut buffer = [0; 5];
    assert_eq!(space.read(new + 4096, &mut buffer), 5);
    assert_eq!(&buffer, b"moved");
    assert_eq!(space.write(new + 12288, b"x"), 1);
    assert_eq!(space.write(old, b"x"), 0);
    context.memory(&[remap(new, 16384, new, 4096, false)]).unwrap();
    assert_eq!(space.write(new + 4096, b"x"), 0);
    space.write(new, b"kept?");
    context.memory(&[remap(new, 4096, old, 4096, true)]).unwrap();
    assert_eq!(space.read(old, &mut buffer), 5);
    assert_eq!(&buffer, b"kept?");
    assert_eq!(space.read(new, &mut buffer), 5);
    assert_eq!(buffer, [0; 5]);
    context.memory(&[MemoryOp::Advise { address: old, length: 4096, advice: 4 }]).unwrap();
    assert_eq!(space.read(old, &mut buffer), 5);
    assert_eq!(buffer, [0; 5]);
    context.memory(&[MemoryOp::Unmap { address: old, length: 4096 }]).unwrap();
    assert_eq!(space.read(old, &mut buffer), 0);
}

#[test]
fn a_fork_has_its_own_copy() {
    let platform = platform();
    let mut parent = start(&platform, count_calls());
    syscall(&mut *parent);
    let shared = 0x3000_0000;
    let map =
        MemoryOp::Map { address: shared, length: 4096, protection: RW, shared: true, flags: 0, file: None };
    parent.memory(&[map]).unwrap();
    parent.space().write(DATA, b"parent");
    parent.registers_mut().r12 = 100;
    let mut child = parent.fork().unwrap();
    assert_eq!(child.registers(), parent.registers());
    child.space().write(DATA, b"child!");
    child.space().write(shared, b"seen");
    parent.registers_mut().r12 = 200;
    let mut grandchild = child.fork().unwrap();
    for (context, count, text) in
        [(&mut child, 101, b"child!"), (&mut parent, 201, b"parent"), (&mut grandchild, 101, b"child!")]
    {
        assert_eq!(syscall(&mut **context), 39);
        assert_eq!(context.registers().r12, count);
        let mut buffer = [0; 6];
        context.space().read(DATA, &mut buffer);
        assert_eq!(&buffer, text);
        assert_eq!(context.space().read(shared, &mut buffer[..4]), 4);
        assert_eq!(&buffer[..4], b"seen");
    }
    drop(parent);
    assert_eq!(syscall(&mut *child), 39);
    drop(child);
    assert_eq!(syscall(&mut *grandchild), 39);
}

#[test]
fn threads_share_memory_and_forks_may_come_from_any() {
    let platform = platform();
    let mut first = start(&platform, add_up());
    first.registers_mut().rdi = DATA;
    first.registers_mut().rsi = 1000;
    let mut threads: Vec<_> = (0..50).map(|_| first.spawn().unwrap()).collect();
    threads.push(first);
    std::thread::scope(|scope| {
        for context in &mut threads {
            scope.spawn(move || assert_eq!(syscall(&mut **context), 60));
        }
    });
    let mut sum = [0; 4];
    threads[0].space().read(DATA, &mut sum);
    assert_eq!(u32::from_ne_bytes(sum), 51_000);
    let mut child = threads[20].fork().unwrap();
    let mut sibling = child.spawn().unwrap();
    for context in [&mut child, &mut sibling] {
        (context.registers_mut().rip, context.registers_mut().rsi) = (CODE, 10);
        assert_eq!(syscall(&mut **context), 60);
    }
    child.space().read(DATA, &mut sum);
    assert_eq!(u32::from_ne_bytes(sum), 51_020);
    // The first thread may go before others, and its place be taken.
    drop(threads.pop());
    let mut next = threads[3].spawn().unwrap();
    (next.registers_mut().rip, next.registers_mut().rsi) = (CODE, 10);
    assert_eq!(syscall(&mut *next), 60);
    assert_eq!(next.space().read(DATA, &mut sum), 4);
    assert_eq!(u32::from_ne_bytes(sum), 51_010);
}

#[test]
fn fork_and_spawn_work_while_other_threads_run() {
    let platform = platform();
    let mut first = start(&platform, spin());
    let mut second = first.spawn().unwrap();
    let stop = second.interrupter();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(second.run(), Event::Interrupted));
        for _ in 0..20 {
            let mut child = first.fork().unwrap();
            let mut sibling = first.spawn().unwrap();
            for context in [&mut child, &mut sibling] {
                context.interrupter().interrupt();
                assert_eq!(context.run(), Event::Interrupted);
            }
        }
        stop.interrupt();
    });
}

#[test]
fn an_interrupt_brings_a_running_guest_back() {
    let platform = platform();
    let mut context = start(&platform, spin());
    let interrupter = context.interrupter();
    for _ in 0..20 {
        let other = interrupter.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            other.interrupt();
        });
        assert_eq!(context.run(), Event::Interrupted);
        thread.join().unwrap();
        assert_eq!(context.registers().orig_rax, u64::MAX);
    }
    assert!(context.registers().r12 > 0);
}

#[test]
fn an_interrupt_before_the_run_counts_once() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    for _ in 0..100 {
        context.interrupter().interrupt();
        context.interrupter().interrupt();
        assert_eq!(context.run(), Event::Interrupted);
        assert_eq!(syscall(&mut *context), 39);
    }
    assert_eq!(context.registers().r12, 99);
}

#[test]
fn interrupts_at_any_moment_neither_get_lost_nor_disturb() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    let interrupter = context.interrupter();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                interrupter.interrupt();
                std::thread::yield_now();
            }
        });
        let (mut calls, mut interrupts) = (0, 0);
        while calls < 2000 || interrupts < 100 {
            match context.run() {
                Event::Syscall => {
                    assert_eq!(context.registers().r12, calls);
                    calls += 1;
                }
                Event::Interrupted => interrupts += 1,
                other => panic!("{other:?}"),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn compare_exchange_tells_what_was_there() {
    let platform = platform();
    let mut context = start(&platform, count_calls());
    context.space().write(DATA, &5u32.to_ne_bytes());
    assert_eq!(context.compare_exchange(DATA, 4, 9), Ok(5));
    assert_eq!(context.compare_exchange(DATA, 5, 0xffff_ffff), Ok(5));
    assert_eq!(context.compare_exchange(DATA, 0xffff_ffff, 1), Ok(0xffff_ffff));
    assert_eq!(context.compare_exchange(DATA + 2, 0, 1), Err(Errno::EINVAL));
    for address in [0x9_0000_0000, CODE, 0x7ff2_0000_0000, 0] {
        assert_eq!(context.compare_exchange(address, 0, 1), Err(Errno::EFAULT), "{address:#x}");
    }
    assert_eq!(syscall(&mut *context), 39);
}

#[test]
fn a_killed_space_ends_all_its_threads() {
    let platform = platform();
    let mut first = start(&platform, spin());
    let mut second = first.spawn().unwrap();
    let space = first.space().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(first.run(), Event::Died));
        scope.spawn(|| assert_eq!(second.run(), Event::Died));
        std::thread::sleep(Duration::from_millis(20));
        space.kill();
    });
    space.kill();
    assert_eq!(first.run(), Event::Died);
    assert_eq!(first.memory(&[anonymous(DATA, 4096, RW)]), Err(Errno::ESRCH));
    assert_eq!(first.fork().err(), Some(Errno::ESRCH));
    assert_eq!(first.spawn().err(), Some(Errno::ESRCH));
    assert_eq!(first.compare_exchange(DATA, 0, 1), Err(Errno::ESRCH));
    assert_eq!(space.write(DATA, b"x"), 0);
}

#[test]
fn a_child_may_be_dropped_before_it_runs_and_outlive_its_parent() {
    let platform = platform();
    let mut parent = start(&platform, count_calls());
    drop(parent.fork().unwrap());
    drop(parent.spawn().unwrap());
    let mut child = parent.fork().unwrap();
    parent.space().kill();
    drop(parent);
    drop(platform);
    assert_eq!(syscall(&mut *child), 39);
}

#[test]
fn the_vdso_lies_where_the_platform_says() {
    let platform = platform();
    let context = platform.create().unwrap();
    let Some(vdso) = platform.vdso() else { return };
    assert!(!platform.guest_range().contains(&vdso.image.start));
    let mut magic = [0; 4];
    assert_eq!(context.space().read(vdso.image.start, &mut magic), 4);
    assert_eq!(&magic, b"\x7fELF");
    assert_eq!(context.space().write(vdso.image.start, &magic), 0);
}

#[test]
fn usage_counts_pages_and_processor_time_counts_work() {
    let platform = platform();
    let mut context = start(&platform, spin());
    let base = 0x3000_0000;
    let before = context.space().usage();
    context.memory(&[anonymous(base, 4 << 20, RW)]).unwrap();
    context.space().write(base, &vec![1; 4 << 20]);
    let after = context.space().usage();
    assert!(after.resident >= before.resident + (4 << 20), "{before:?} {after:?}");
    context.memory(&[MemoryOp::Unmap { address: base, length: 4 << 20 }]).unwrap();
    let later = context.space().usage();
    let peak = context.space().peak();
    // The host's word is exact to some pages of each processor.
    assert!(later.resident < after.resident && peak > after.resident / 4 * 3, "{after:?} {later:?} {peak}");
    let started = context.cpu_time();
    let interrupter = context.interrupter();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        interrupter.interrupt();
    });
    assert_eq!(context.run(), Event::Interrupted);
    thread.join().unwrap();
    let used = context.cpu_time() - started;
    assert!(used > Duration::from_millis(5), "{used:?}");
    let other = context.spawn().unwrap();
    assert!(other.cpu_time() < Duration::from_millis(50));
    assert!(context.cpu_time() - started >= used);
}

fn tempfile(contents: &[u8]) -> Arc<std::os::fd::OwnedFd> {
    let file = host::rustix::fs::memfd_create("test", host::rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    host::rustix::io::write(&file, contents).unwrap();
    Arc::new(file)
}
