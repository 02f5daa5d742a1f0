//! The backend with guest code assembled by hand.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use super::*;
use crate::{Event, Fault, MemoryOp};
use abi::signal::Signal;

const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STACK_TOP: u64 = 0x30_0000;

/// One platform for all tests of the process: its reaper waits for all children. The thread that makes the zygote
/// stays, because the zygote dies with it.
pub(super) fn platform() -> &'static StubPlatform {
    static PLATFORM: OnceLock<StubPlatform> = OnceLock::new();
    PLATFORM.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            occupy_the_stubs_places();
            let zygote = Zygote::spawn(HostVdso::find());
            let procfs = std::fs::File::open("/proc").ok().map(OwnedFd::from);
            let _ =
                sender.send(zygote.and_then(|zygote| StubPlatform::new(zygote, procfs, Tuning::default())));
            loop {
                std::thread::park();
            }
        });
        receiver.recv().expect("the maker answers").expect("a platform")
    })
}

/// The host places this process's libraries, heaps and stacks at random, at times where the stub's own pages go.
fn occupy_the_stubs_places() {
    for (start, length) in
        [(layout::TEXT, 4096), (layout::SLOTS, layout::SLOTS_SIZE), (layout::VDSO, 1 << 20)]
    {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: nothing is replaced; what is there already is as good.
        unsafe { libc::mmap(start as *mut libc::c_void, length, protection, flags, -1, 0) };
    }
}

fn map(address: u64, pages: u64, protection: i32) -> MemoryOp<'static> {
    let length = pages * 4096;
    MemoryOp::Map { address, length, protection: protection as u32, shared: false, flags: 0, file: None }
}

/// A guest that will run `code`, with a page of data and one of stack.
fn guest(code: &[u8]) -> Box<dyn Context> {
    let mut context = platform().create().expect("an address space");
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    context
        .memory(&[map(CODE, 1, rw | libc::PROT_EXEC), map(DATA, 4, rw), map(STACK_TOP - 4096, 1, rw)])
        .expect("memory");
    assert_eq!(context.space().write(CODE, code), code.len());
    context.registers_mut().rip = CODE;
    context.registers_mut().rsp = STACK_TOP;
    context
}

/// `mov $number, %eax; syscall`, again and again.
const CALL_LOOP: &[u8] = &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// `jmp .`
const SPIN: &[u8] = &[0xeb, 0xfe];

#[test]
fn a_system_call_comes_in_and_its_result_goes_out() {
    let mut guest = guest(CALL_LOOP);
    for _ in 0..1000 {
        assert_eq!(guest.run(), Event::Syscall);
        assert_eq!(guest.registers().orig_rax, 39);
        assert_eq!(guest.registers().rax, Errno::ENOSYS.to_ret());
        assert_eq!(guest.registers().rip, CODE + 7);
        guest.registers_mut().rax = 4711;
    }
}

#[test]
fn registers_and_segment_bases_survive() {
    // rdfsbase %rdi; syscall; jmp .-2
    let mut guest = guest(&[0xf3, 0x48, 0x0f, 0xae, 0xc7, 0x0f, 0x05, 0xeb, 0xf7]);
    guest.registers_mut().fs_base = DATA;
    guest.registers_mut().r15 = 0x1234_5678_9abc;
    assert_eq!(guest.run(), Event::Syscall);
    assert_eq!(guest.registers().rdi, DATA);
    assert_eq!(guest.registers().fs_base, DATA);
    assert_eq!(guest.registers().r15, 0x1234_5678_9abc);
}

#[test]
fn the_fpu_state_survives_calls_and_forks_and_can_be_set() {
    // movq %rdi, %xmm3; syscall; movq %xmm3, %rsi; syscall; movq %xmm3, %rsi; syscall
    let code = [
        0x66, 0x48, 0x0f, 0x6e, 0xdf, 0x0f, 0x05, 0x66, 0x48, 0x0f, 0x7e, 0xde, 0x0f, 0x05, 0x66, 0x48, 0x0f,
        0x7e, 0xde, 0x0f, 0x05,
    ];
    let mut guest = guest(&code);
    guest.registers_mut().rdi = 42;
    assert_eq!(guest.run(), Event::Syscall);
    let state = guest.fpu();
    let mut child = guest.fork().expect("a child");
    assert_eq!(child.run(), Event::Syscall);
    assert_eq!(child.registers().rsi, 42);
    assert_eq!(guest.run(), Event::Syscall);
    assert_eq!(guest.registers().rsi, 42);
    child.set_fpu(None).expect("the initial state");
    assert_eq!(child.run(), Event::Syscall);
    assert_eq!(child.registers().rsi, 0);
    let mut changed = state;
    changed[160 + 3 * 16] = 43;
    guest.set_fpu(Some(&changed)).expect("a state");
    assert_eq!(guest.run(), Event::Syscall);
    assert_eq!(guest.registers().rsi, 43);
}

#[test]
fn faults_are_told_as_the_host_sees_them() {
    // mov (%rdi), %eax
    let mut guest = guest(&[0x8b, 0x07, 0x0f, 0x0b]);
    guest.registers_mut().rdi = 0x50_0000;
    let event = guest.run();
    assert!(matches!(
        event,
        Event::Fault(Fault { signal: Signal::SIGSEGV, code: 1, address: 0x50_0000, trap: 14, .. })
    ));
    guest.registers_mut().rdi = DATA;
    assert!(matches!(guest.run(), Event::Fault(Fault { signal: Signal::SIGILL, .. })));
}

#[test]
fn an_interrupt_ends_a_run_and_one_before_it_is_kept() {
    let mut guest = guest(SPIN);
    let interrupter = guest.interrupter();
    let other = Arc::clone(&interrupter);
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        other.interrupt();
    });
    assert_eq!(guest.run(), Event::Interrupted);
    sender.join().expect("the sender ends");
    interrupter.interrupt();
    assert_eq!(guest.run(), Event::Interrupted);
}

#[test]
fn memory_is_read_written_protected_and_moved() {
    let mut guest = guest(SPIN);
    assert_eq!(guest.space().write(DATA + 4090, b"across a page"), 13);
    let mut text = [0; 13];
    assert_eq!(guest.space().read(DATA + 4090, &mut text), 13);
    assert_eq!(&text, b"across a page");
    let protect = MemoryOp::Protect { address: DATA + 4096, length: 4096, protection: 1 };
    guest.memory(&[protect]).expect("protected");
    assert_eq!(guest.space().write(DATA + 4090, b"across a page"), 6);
    let remap =
        MemoryOp::Remap { from: DATA, from_length: 4096, to: 0x40_0000, to_length: 8192, keep: false };
    guest.memory(&[remap]).expect("moved");
    assert_eq!(guest.space().read(0x40_0000 + 4090, &mut text), 13);
    assert_eq!(&text[..6], b"across");
    assert_eq!(guest.space().read(DATA, &mut text), 0);
    let wild = MemoryOp::Unmap { address: layout::TEXT, length: 4096 };
    assert_eq!(guest.memory(&[wild]), Err(Errno::EINVAL));
}

#[test]
fn a_file_is_mapped_and_a_bad_one_refused() {
    use std::io::{Read, Seek, Write};
    let mut guest = guest(SPIN);
    let mut file = tempfile();
    file.write_all(&[7; 8192]).expect("written");
    let fd = Arc::new(file.try_clone().expect("a copy").into());
    fn shared(fd: &Arc<OwnedFd>) -> MemoryOp<'_> {
        let file = Some((fd, 4096));
        MemoryOp::Map { address: 0x60_0000, length: 4096, protection: 3, shared: true, flags: 0, file }
    }
    guest.memory(&[shared(&fd)]).expect("mapped");
    assert_eq!(guest.space().write(0x60_0000, b"x"), 1);
    let mut bytes = Vec::new();
    file.rewind().expect("rewound");
    file.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes[4096], b'x');
    let directory = Arc::new(std::fs::File::open("/").expect("a directory").into());
    assert_eq!(guest.memory(&[shared(&directory)]), Err(Errno::EACCES));
    guest.memory(&[shared(&fd)]).expect("mapped again");
}

/// A file of one page of this byte.
fn page_of(byte: u8) -> Arc<OwnedFd> {
    use std::io::Write;
    let mut file = tempfile();
    file.write_all(&[byte; 4096]).expect("written");
    Arc::new(file.into())
}

#[test]
fn a_file_that_is_mapped_is_kept_for_more_until_another_is_or_the_kernel_closes_it() {
    let platform = platform();
    let shared = &platform.shared;
    let mut guest = shared.create(None).expect("an address space");
    guest.memory(&[map(CODE, 1, 7)]).expect("memory");
    assert_eq!(guest.space().write(CODE, CALL_LOOP), CALL_LOOP.len());
    guest.registers_mut().rip = CODE;
    fn private(address: u64, file: &Arc<OwnedFd>) -> MemoryOp<'_> {
        let file = Some((file, 0));
        MemoryOp::Map { address, length: 4096, protection: 1, shared: false, flags: 0, file }
    }
    let has = |guest: &StubContext| std::fs::read_link(format!("/proc/{}/fd/0", guest.process_id())).is_ok();
    fn byte(guest: &dyn Context, address: u64) -> u8 {
        let mut byte = [0];
        assert_eq!(guest.space().read(address, &mut byte), 1);
        byte[0]
    }
    let (one, two) = (page_of(1), page_of(2));
    guest.memory(&[private(0x60_0000, &one)]).expect("mapped");
    assert!(has(&guest));
    // Of one that is there already, without asking; later, too, where others are not put off.
    guest.memory_later(&[private(0x60_1000, &one)]).expect("mapped");
    guest.memory_later(&[private(0x60_2000, &two)]).expect("mapped");
    guest.memory_later(&[private(0x60_3000, &two)]).expect("mapped");
    assert_eq!(byte(&guest, 0x60_2000), 2);
    assert_eq!(guest.run(), Event::Syscall);
    let first =
        |guest: &dyn Context| (0..4).map(|page| byte(guest, 0x60_0000 + 4096 * page)).collect::<Vec<_>>();
    assert_eq!(first(&guest), [1, 1, 2, 2]);
    // A child has it, too.
    let mut child = guest.copy().expect("a child");
    assert_eq!(child.run(), Event::Syscall);
    assert!(has(&guest) && has(&child));
    child.memory(&[private(0x60_0000, &two), private(0x60_2000, &one)]).expect("mapped");
    assert_eq!(first(&child), [2, 1, 1, 2]);
    assert_eq!(first(&guest), [1, 1, 2, 2]);
    // Threads have it in common.
    let mut thread = guest.spawn().expect("a thread");
    thread.memory(&[private(0x60_3000, &one)]).expect("mapped");
    guest.memory(&[private(0x60_0000, &two), private(0x60_1000, &one)]).expect("mapped");
    thread.memory_later(&[private(0x60_2000, &one)]).expect("mapped");
    assert_eq!(first(&guest), [2, 1, 1, 1]);
    drop(thread);
    // What cannot be mapped is not kept, nor what the kernel has closed.
    let directory = Arc::new(std::fs::File::open("/").expect("a directory").into());
    assert_eq!(guest.memory(&[private(0x60_0000, &directory)]), Err(Errno::ENODEV));
    assert!(!has(&guest));
    guest.memory(&[private(0x60_0000, &one)]).expect("mapped");
    assert_eq!(guest.run(), Event::Syscall);
    assert!(has(&guest));
    drop(one);
    assert_eq!(guest.run(), Event::Syscall);
    assert!(!has(&guest));
    guest.memory(&[private(0x60_0000, &two)]).expect("mapped");
    assert_eq!(first(&guest), [2, 1, 1, 1]);
}

fn tempfile() -> std::fs::File {
    // SAFETY: memfd_create returns a new descriptor.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), 0)) }
}

#[test]
fn a_stub_tells_the_most_memory_that_it_has_had() {
    let mut context = platform().shared.create(None).expect("an address space");
    let size = 4 << 20;
    context.memory(&[map(DATA, size / 4096, libc::PROT_READ | libc::PROT_WRITE)]).expect("memory");
    assert_eq!(context.space().write(DATA, &vec![1; size as usize]), size as usize);
    context.memory(&[MemoryOp::Unmap { address: DATA, length: size }]).expect("no memory");
    let (told, listed) = (context.host_peak().expect("a thread that waits"), context.space().peak());
    // Exact to some pages of each processor, and more of what the stub's own call has touched.
    assert!(told.abs_diff(listed) < 1 << 20 && told > size / 4 * 3, "{told} {listed}");
    assert_eq!(context.peak().abs_diff(told) >> 20, 0);
}

#[test]
fn a_fork_sees_a_copy() {
    let mut guest = guest(CALL_LOOP);
    assert_eq!(guest.run(), Event::Syscall);
    guest.space().write(DATA, b"before");
    let mut child = guest.fork().expect("a child");
    guest.space().write(DATA, b"parent");
    let mut text = [0; 6];
    child.space().read(DATA, &mut text);
    assert_eq!(&text, b"before");
    child.registers_mut().rax = 5;
    assert_eq!(child.run(), Event::Syscall);
    assert_eq!(child.registers().rip, CODE + 7);
    let mut grandchild = child.fork().expect("a grandchild");
    drop(child);
    assert_eq!(grandchild.run(), Event::Syscall);
}

#[test]
fn threads_share_memory_and_run_side_by_side() {
    let mut first = guest(CALL_LOOP);
    let mut threads: Vec<_> = (0..50).map(|_| first.spawn().expect("a thread")).collect();
    first.space().write(DATA, b"shared");
    for thread in &mut threads {
        assert_eq!(thread.run(), Event::Syscall);
        let mut text = [0; 6];
        assert_eq!(thread.space().read(DATA, &mut text), 6);
    }
    let mut last = threads.pop().expect("one");
    drop(first);
    drop(threads);
    assert_eq!(last.run(), Event::Syscall);
    let mut again = last.spawn().expect("another");
    assert_eq!(again.run(), Event::Syscall);
}

#[test]
fn compare_exchange_exchanges_and_fails_where_nothing_is() {
    let mut guest = guest(SPIN);
    guest.space().write(DATA, &7u32.to_ne_bytes());
    assert_eq!(guest.compare_exchange(DATA, 7, 8), Ok(7));
    assert_eq!(guest.compare_exchange(DATA, 7, 9), Ok(8));
    assert_eq!(guest.compare_exchange(0x70_0000, 0, 1), Err(Errno::EFAULT));
    assert_eq!(guest.compare_exchange(DATA, 8, 10), Ok(8));
}

#[test]
fn a_killed_space_is_dead_for_its_contexts() {
    let mut guest = guest(SPIN);
    let space = Arc::clone(guest.space());
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        space.kill();
    });
    assert_eq!(guest.run(), Event::Died);
    killer.join().expect("the killer ends");
    assert_eq!(guest.run(), Event::Died);
    assert!(guest.fork().is_err());
}

#[test]
fn a_guest_that_jumps_into_the_stub_gains_nothing() {
    // A system call that the stub may not make, with the stub's own instruction: `mov 20(%rip)...` is not needed, the
    // restorer's `syscall` lies five bytes behind its start.
    let mut guest = guest(&[0xb8, 41, 0, 0, 0, 0xff, 0xe7]);
    guest.registers_mut().rdi = text::restorer() + 5;
    assert_eq!(guest.run(), Event::Died);
}

#[test]
fn a_guest_that_blocks_the_interrupt_or_the_handler_dies_alone() {
    // munmap(region) through the stub's own text, then go on: the handler has no stack left.
    let mut victim = guest(&[0xb8, 11, 0, 0, 0, 0x41, 0xff, 0xe4]);
    victim.registers_mut().r12 = text::restorer() + 5;
    victim.registers_mut().rdi = layout::SLOTS;
    victim.registers_mut().rsi = layout::SLOTS_SIZE as u64;
    assert_eq!(victim.run(), Event::Died);
    let mut other = guest(CALL_LOOP);
    assert_eq!(other.run(), Event::Syscall);
}

#[test]
fn a_32_bit_call_is_a_fault() {
    let mut guest = guest(&[0xcd, 0x80]);
    assert!(matches!(guest.run(), Event::Fault(Fault { signal: Signal::SIGSEGV, .. })));
}

#[test]
fn a_guest_that_overwrites_its_slot_while_the_kernel_reads_it_harms_only_itself() {
    // A second thread fills the control block of the first with ones, for ever.
    let mut guest = guest(CALL_LOOP);
    assert_eq!(guest.run(), Event::Syscall);
    // mov $-1, %rax; 1: mov %rdi, %rbx; mov $64, %ecx; 2: mov %rax, (%rbx); add $8, %rbx; loop 2b; jmp 1b
    let code = [
        0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0x48, 0x89, 0xfb, 0xb9, 8, 0, 0, 0, 0x48, 0x89, 0x43, 24,
        0x48, 0x83, 0xc3, 8, 0xe2, 0xf6, 0xeb, 0xec,
    ];
    guest.space().write(CODE + 0x100, &code);
    let mut attacker = guest.spawn().expect("a thread");
    attacker.registers_mut().rip = CODE + 0x100;
    attacker.registers_mut().rdi = layout::SLOTS;
    let interrupter = attacker.interrupter();
    let run = std::thread::spawn(move || attacker.run());
    for _ in 0..1000 {
        if guest.run() == Event::Died {
            break;
        }
    }
    interrupter.interrupt();
    run.join().expect("the attacker's thread ends");
    let mut other = self::guest(CALL_LOOP);
    assert_eq!(other.run(), Event::Syscall);
}

#[test]
fn nothing_is_left_of_a_thousand_spaces() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("a list").count();
    drop(guest(SPIN));
    let before = descriptors();
    for _ in 0..300 {
        let mut guest = guest(CALL_LOOP);
        assert_eq!(guest.run(), Event::Syscall);
    }
    assert!(descriptors() < before + 40, "{} descriptors, {before} before", descriptors());
}

#[test]
fn processes_are_born_with_what_many_have_mapped() {
    let platform = platform();
    let shared = &platform.shared;
    let contents: Vec<u8> = (0..8192u32).map(|index| (index / 7) as u8).collect();
    let path = std::env::temp_dir().join(format!("nacelle-preloaded-{}", std::process::id()));
    std::fs::write(&path, &contents).expect("a file");
    let file: Arc<OwnedFd> = Arc::new(std::fs::File::open(&path).expect("it").into());
    let same = std::fs::metadata(&path).expect("it").ino();
    std::fs::remove_file(&path).expect("removed");
    // Whether the process of a context has the file open under a number that it was born with.
    let has = |guest: &StubContext| {
        let mut numbers = layout::PRELOADED;
        numbers.any(|number| {
            let path = format!("/proc/{}/fd/{number}", guest.process_id());
            std::fs::metadata(path).is_ok_and(|status| status.ino() == same)
        })
    };
    let maps = |guest: &mut dyn Context| {
        let operation = |address, shared, offset| {
            let file = Some((&file, offset));
            MemoryOp::Map { address, length: 4096, protection: 1, shared, flags: 0, file }
        };
        // At once, later, and shared as ever.
        guest
            .memory(&[operation(DATA, false, 4096), map(DATA + 8192, 1, 3), operation(DATA + 16384, true, 0)])
            .expect("maps");
        guest.memory_later(&[operation(DATA + 4096, false, 0)]).expect("maps");
        guest.registers_mut().rip = CODE;
        guest.memory(&[map(CODE, 1, 7)]).expect("memory");
        assert_eq!(guest.space().write(CODE, CALL_LOOP), CALL_LOOP.len());
        assert_eq!(guest.run(), Event::Syscall);
        for (address, offset) in [(DATA, 4096), (DATA + 4096, 0), (DATA + 16384, 0)] {
            let mut bytes = [0; 4096];
            assert_eq!(guest.space().read(address, &mut bytes), 4096);
            assert_eq!(bytes, contents[offset..offset + 4096], "{address:#x}");
        }
        let worth = guest.is_worth_preloading(&file);
        if worth {
            guest.preload(&file);
        }
        worth
    };
    let mother =
        Pool { mother: Some(Mother { groups: Vec::new(), context: Mutex::default() }), ..Pool::default() };
    for pool in [Pool::default(), mother] {
        let make = || pool.make(shared).expect("an address space");
        let before = make();
        let worth = (0..100).position(|_| maps(&mut make())).expect("worth it");
        assert!(worth > 0);
        let mut born = make();
        assert!(has(&born) && !has(&before));
        assert!(!maps(&mut born), "it is there");
        let mut copy = born.copy().expect("a copy");
        assert!(has(&copy));
        assert!(!maps(&mut copy));
        // Those who are older go on as before, and others do not get it.
        let mut before = before;
        maps(&mut before);
        let mut other = Pool::default().make(shared).expect("an address space");
        maps(&mut other);
    }
    // The zygote has it by now. What is copied from another process has it not.
    let other =
        Pool { mother: Some(Mother { groups: Vec::new(), context: Mutex::default() }), ..Pool::default() };
    assert!(!has(&other.make(shared).expect("an address space")));
}
