//! Guests that attack: they may harm themselves, nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::*;
use super::{StubPlatform, layout, text};
use crate::guest_code;
use crate::{Context, Event, MemoryOp, Uses};

guest_code!(count_calls, "2: mov eax, 39", "syscall", "inc r12", "jmp 2b");
guest_code!(jump, "jmp r12");
guest_code!(jump_on, "call r12", "2: mov eax, 39", "syscall", "jmp 2b");
guest_code!(
    block_signals_and_spin,
    // A frame of our own at rdi, filled by the test; its signal mask is full.
    "mov rsp, rdi",
    "mov eax, 15",
    "jmp r12",
    "2: jmp 2b",
);
guest_code!(stack_elsewhere, "mov rsp, rdi", "mov eax, 39", "syscall", "ud2");
guest_code!(bad_bases, "wrgsbase rdi", "wrfsbase rsi", "2: mov eax, 39", "syscall", "jmp 2b");
guest_code!(
    scribble,
    // Random words into the 4 KiB at rdi, for ever.
    "2: imul rax, rax, 0x41c64e6d",
    "add rax, 12345",
    "mov rcx, rax",
    "shr rcx, 20",
    "and ecx, 0xff8",
    "and ecx, esi",
    "mov rdx, rax",
    "shr rdx, 40",
    "and edx, ebx",
    "mov [rdi + rcx], rdx",
    "jmp 2b",
);
guest_code!(x32_call, "mov eax, 0x40000001", "syscall");
guest_code!(
    single_step,
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    "nop",
    "nop",
    "mov eax, 39",
    "syscall"
);

/// The address of a `syscall` instruction of the stub's.
fn stub_syscall() -> u64 {
    let code = text::text();
    let at = code.windows(2).position(|pair| pair == [0x0f, 0x05]).expect("a system call");
    layout::TEXT + at as u64
}

/// Runs until something other than a system call happens, or `limit` system calls have.
fn run_some(context: &mut dyn Context, limit: u32) -> Event {
    for _ in 0..limit {
        match context.run() {
            Event::Syscall => {}
            other => return other,
        }
    }
    Event::Syscall
}

/// The platform still does its work.
fn still_works(platform: &StubPlatform) {
    let mut other = start(platform, count_calls());
    assert_eq!(syscall(&mut *other), 39);
    let mut child = other.fork().expect("a fork");
    assert_eq!(syscall(&mut *child), 39);
    let mut sibling = child.spawn().expect("a thread");
    assert_eq!(syscall(&mut *sibling), 39);
}

#[test]
fn system_calls_from_the_stubs_text_are_the_stubs_or_death() {
    let platform = platform();
    let deadly = [
        (libc::SYS_read, [0; 3]),
        (libc::SYS_read, [layout::FILES.start.into(), DATA, 1]),
        (libc::SYS_read, [layout::DIRECT_WRITE.start.into(), DATA, 1]),
        (libc::SYS_pread64, [layout::DIRECT.end.into(), DATA, 1]),
        (libc::SYS_write, [layout::DIRECT_READ.start.into(), DATA, 1]),
        (libc::SYS_write, [0, DATA, 1]),
        (libc::SYS_pwrite64, [layout::DIRECT_READ.end as u64 - 1, DATA, 1]),
        (libc::SYS_lseek, [0, 0, 0]),
        (libc::SYS_openat, [0; 3]),
        (libc::SYS_socket, [1, 1, 0]),
        (libc::SYS_execve, [DATA, 0, 0]),
        (libc::SYS_kill, [1, 9, 0]),
        (libc::SYS_exit_group, [0; 3]),
        (libc::SYS_clone3, [DATA, 88, 0]),
        (libc::SYS_vfork, [0; 3]),
        (libc::SYS_ptrace, [0; 3]),
        (libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, 0, 0]),
        (libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 0, 0]),
        (libc::SYS_prctl, [libc::PR_SET_MM as u64, libc::PR_SET_MM_BRK as u64, DATA]),
        (libc::SYS_futex, [DATA, libc::FUTEX_LOCK_PI as u64, 0]),
        (libc::SYS_clock_gettime, [0, DATA, 0]),
        (libc::SYS_process_vm_readv, [1, 0, 0]),
        (libc::SYS_io_uring_setup, [1, DATA, 0]),
        // Those that the kernel is asked about, and has not commanded.
        (libc::SYS_clone, [text::FORK_FLAGS, 0, 0]),
        (libc::SYS_clone, [text::SPAWN_FLAGS, DATA, 0]),
        (libc::SYS_mmap, [layout::SLOTS, layout::SLOTS_SIZE as u64, 3]),
    ];
    for (number, arguments) in deadly {
        let mut context = start(&platform, jump());
        let registers = context.registers_mut();
        (registers.r12, registers.rax) = (stub_syscall(), number as u64);
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        assert_eq!(context.run(), Event::Died, "{number}");
    }
    still_works(&platform);
}

#[test]
fn a_guest_may_break_its_own_memory_through_the_stub() {
    let platform = platform();
    let ranges = [
        (layout::TEXT, 4096),
        (layout::SLOTS, layout::SLOTS_SIZE as u64),
        (layout::SLOTS, 4096),
        (0, layout::USER_END),
    ];
    for (address, length) in ranges {
        for number in [libc::SYS_munmap, libc::SYS_mprotect] {
            let mut context = start(&platform, jump_on());
            let registers = context.registers_mut();
            (registers.r12, registers.rax) = (stub_syscall(), number as u64);
            (registers.rdi, registers.rsi, registers.rdx) = (address, length, 0);
            let interrupter = context.interrupter();
            interrupter.interrupt();
            // What follows the stub's instruction is its own loop, in whatever registers the guest left: any end will do,
            // so long as there is one.
            let event = end_of(&mut *context);
            assert!(!matches!(event, Event::Interrupted), "{number} {address:#x}: {event:?}");
        }
    }
    still_works(&platform);
}

/// What comes of a guest within half a second, or of being killed then.
fn end_of(context: &mut dyn Context) -> Event {
    let space = context.space().clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !done.load(Ordering::SeqCst) {
                if start.elapsed() > Duration::from_millis(500) {
                    space.kill();
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut event = run_some(context, 100);
        while event == Event::Interrupted {
            event = run_some(context, 100);
        }
        done.store(true, Ordering::SeqCst);
        event
    })
}

#[test]
fn jumping_anywhere_into_the_text_ends_somehow() {
    let platform = platform();
    for offset in (0..text::text().len() as u64).step_by(5) {
        let mut context = start(&platform, jump());
        let registers = context.registers_mut();
        registers.r12 = layout::TEXT + offset;
        (registers.rbx, registers.rdx, registers.rdi) = (DATA, DATA + 0x2000, DATA + 0x4000);
        registers.rsp = DATA + 0x8000;
        // A command block of the guest's own, with whatever command.
        let command = u32::try_from(offset % 8).expect("small");
        context.space().write(DATA + layout::COMMAND as u64, &command.to_ne_bytes());
        context.space().write(DATA + layout::WORD as u64, &layout::TURN_COMMAND.to_ne_bytes());
        let space = context.space().clone();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while !done.load(Ordering::SeqCst) && start.elapsed() < Duration::from_millis(20) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                space.kill();
            });
            run_some(&mut *context, 10);
            done.store(true, Ordering::SeqCst);
        });
    }
    still_works(&platform);
}

#[test]
fn a_guest_that_blocks_the_interrupt_is_killed() {
    let platform = platform();
    let mut context = start(&platform, block_signals_and_spin());
    // A minimal frame: registers from offset 40 of the ucontext, the mask behind the FPU pointer and the reserved words.
    let frame = DATA + 0x1000;
    let word = |offset: u64, value: u64| {
        assert_eq!(context.space().write(frame + offset, &value.to_ne_bytes()), 8);
    };
    let spin = count_of(block_signals_and_spin(), &[0xeb, 0xfe]);
    word(40 + 15 * 8, DATA + 0x8000);
    word(40 + 16 * 8, CODE + spin);
    word(40 + 17 * 8, 0x202);
    word(40 + 18 * 8, 0x33 | 0x2b << 48);
    word(296, u64::MAX);
    let registers = context.registers_mut();
    (registers.rdi, registers.r12) = (frame, stub_syscall());
    let interrupter = context.interrupter();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        interrupter.interrupt();
    });
    let started = Instant::now();
    assert_eq!(context.run(), Event::Died);
    assert!(started.elapsed() < Duration::from_secs(20));
    thread.join().expect("the interrupting thread");
    still_works(&platform);
}

fn count_of(code: &[u8], pattern: &[u8]) -> u64 {
    code.windows(pattern.len()).position(|window| window == pattern).expect("the pattern") as u64
}

#[test]
fn any_stack_pointer_will_do_for_a_system_call() {
    let platform = platform();
    let slot = layout::SLOTS;
    let stacks = [
        0,
        1,
        DATA,
        u64::MAX,
        1 << 47,
        slot,
        slot + layout::SIGNAL_STACK as u64,
        slot + layout::SIGNAL_STACK as u64 + 64,
        slot + 0x8000,
        slot + 0x8001,
        slot + layout::SIGNAL_STACK_END as u64,
        slot + layout::BUFFER as u64 + 100,
        slot + layout::SLOT_SIZE as u64,
        layout::TEXT,
    ];
    for stack in stacks {
        let mut context = start(&platform, stack_elsewhere());
        context.registers_mut().rdi = stack;
        let event = context.run();
        assert!(matches!(event, Event::Syscall | Event::Died | Event::Fault(_)), "{stack:#x}: {event:?}");
        if event == Event::Syscall {
            assert_eq!(context.registers().rsp, stack);
        }
        let outside = !(slot..slot + layout::SLOT_SIZE as u64).contains(&stack);
        assert!(event == Event::Syscall || !outside, "{stack:#x}: {event:?}");
    }
    still_works(&platform);
}

#[test]
fn segment_bases_are_no_secret_and_no_weapon() {
    let platform = platform();
    for (gs, fs) in
        [(0, 0), (layout::SLOTS, layout::TEXT), (DATA, u64::MAX >> 17), (u64::MAX, u64::MAX << 47)]
    {
        let mut context = start(&platform, bad_bases());
        (context.registers_mut().rdi, context.registers_mut().rsi) = (gs, fs);
        for _ in 0..3 {
            assert_eq!(syscall(&mut *context), 39);
            // The slot's own address stands for none.
            let seen = if gs == layout::SLOTS { 0 } else { gs };
            assert_eq!((context.registers().gs_base, context.registers().fs_base), (seen, fs));
        }
        // Bases that no processor takes are not passed on.
        (context.registers_mut().gs_base, context.registers_mut().fs_base) = (1 << 63, 1 << 47);
        assert_eq!(syscall(&mut *context), 39);
        assert_eq!((context.registers().gs_base, context.registers().fs_base), (0, 0));
    }
}

#[test]
fn scribbling_over_the_slot_confuses_nobody_but_the_guest() {
    let platform = platform();
    // What is written over: the turn word, the control block, all of it, the frame; with small and with large numbers.
    let targets =
        [(0, 8, 3), (0, 0xf8, 7), (0, 0xff8, u64::MAX), (0x1000, 0xff8, u64::MAX), (0xf000, 0xff8, u64::MAX)];
    for (offset, span, values) in targets {
        let mut victim = start(&platform, count_calls());
        assert_eq!(syscall(&mut *victim), 39);
        let code = scribble();
        let place = CODE + 0x10_000;
        victim.memory(&[anonymous(place, 4096, RW)]).expect("mapped");
        victim.space().write(place, code);
        let protect = MemoryOp::Protect { address: place, length: 4096, protection: RX };
        victim.memory(&[protect]).expect("protected");
        // Files that it may use by itself: it spoils the table that says which those are.
        let files = [(); 3].map(|()| {
            let file = std::fs::File::open("/proc/self/exe").expect("this program");
            Arc::new(std::os::fd::OwnedFd::from(file))
        });
        let direct = victim.direct_files().expect("a platform that has them");
        let mut attacker = victim.spawn().expect("a thread");
        let registers = attacker.registers_mut();
        (registers.rip, registers.rdi) = (place, layout::SLOTS + offset);
        (registers.rsi, registers.rbx, registers.rax) = (span, values, 0x9e37_79b9);
        let space = victim.space().clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Ends by a fault at worst; the space is killed below.
                let _ = attacker.run();
            });
            let watchdog = space.clone();
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(400));
                watchdog.kill();
            });
            for _ in 0..100_000 {
                if victim.run() == Event::Died {
                    break;
                }
                let _ = victim.memory(&[anonymous(0x5000_0000, 4096, RW)]);
                let _ = victim.compare_exchange(DATA, 0, 1);
                let _ = victim.fpu();
                let _ = victim.cpu_time();
                let _ = victim.fork();
                let _ = victim.spawn();
                for (fd, file) in (0..).zip(&files) {
                    let _ = victim.make_direct(file, Uses::READ);
                    let _ = direct.publish(1, fd, file, Uses::READ);
                    let _ = victim.is_worth_direct(fd, file, Uses::READ, 1 << 20);
                    direct.revoke(fd);
                }
                victim.keep_direct(&|file| Arc::ptr_eq(file, &files[0]));
                direct.revoke_all();
                direct.wait_for_calls(Instant::now() + Duration::from_millis(5));
            }
            space.kill();
        });
    }
    still_works(&platform);
}

#[test]
fn calls_of_other_interfaces_are_told_as_they_are() {
    let platform = platform();
    let mut context = start(&platform, x32_call());
    assert_eq!(syscall(&mut *context), 0x4000_0001);
    let mut context = start(&platform, single_step());
    let mut steps = 0;
    loop {
        match context.run() {
            Event::Fault(fault) if fault.signal == abi::signal::Signal::SIGTRAP => steps += 1,
            Event::Syscall => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(steps >= 3, "{steps}");
}
