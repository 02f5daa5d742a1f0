//! Guests that use files without the kernel.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::common::*;
use super::context::StubContext;
use super::layout::*;
use super::patch_tests::patch_next;
use crate::{Context, DirectFiles, Event, MemoryOp, Uses, guest_code};

// A call on a file from a site that can be patched; r15 is its result. What it must not change makes the guest fail if it does.
guest_code!(
    file_read,
    "nop",
    "nop",
    "2: stc",
    "mov eax, 0",
    "syscall",
    "jnc 3f",
    "mov r15, rax",
    "inc r12",
    "jmp 2b",
    "3: ud2"
);
guest_code!(file_write, "nop", "nop", "2: mov eax, 1", "syscall", "mov r15, rax", "inc r12", "jmp 2b");
guest_code!(
    file_seek,
    "nop",
    "nop",
    "2: mov eax, 8",
    "syscall",
    "mov r15, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b"
);
guest_code!(
    file_pread,
    "nop",
    "nop",
    "2: mov eax, 17",
    "syscall",
    "mov r15, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b"
);
guest_code!(
    file_pwrite,
    "nop",
    "nop",
    "2: mov eax, 18",
    "syscall",
    "mov r15, rax",
    "mov eax, 1000",
    "syscall",
    "jmp 2b"
);

const OWNER: u64 = 7;
/// What comes when the call has been made without the kernel.
const DONE: u64 = 1000;

fn open(file: &File) -> Arc<OwnedFd> {
    Arc::new(OwnedFd::from(file.try_clone().expect("a descriptor")))
}

/// A file of so many bytes, counting up, at its beginning.
fn counting(length: usize) -> (File, Vec<u8>) {
    let mut file = tempfile::tempfile().expect("a file");
    let bytes: Vec<u8> = (0..length).map(|index| (index * 7 + index / 256) as u8).collect();
    file.write_all(&bytes).expect("written");
    file.rewind().expect("at the beginning");
    (file, bytes)
}

fn uses(file: &Arc<OwnedFd>, context: &mut StubContext, fd: u32, uses: Uses) -> Arc<dyn DirectFiles> {
    let space = context.direct_files().expect("a platform that has them");
    assert!(context.make_direct(file, uses));
    assert!(space.publish(OWNER, fd, file, uses));
    context.own_state().allow_direct(Uses::BOTH);
    assert!(context.is_direct(fd, file, uses));
    space
}

/// A guest whose site has been patched.
pub(super) fn patched(platform: &super::StubPlatform, code: &[u8]) -> StubContext {
    let mut context = platform.shared.create(None).expect("a new address space");
    let length = (code.len() as u64).next_multiple_of(PAGE);
    context.memory(&[anonymous(CODE, length, RW), anonymous(DATA, DATA_SIZE, RW)]).expect("mappings");
    assert_eq!(context.space().write(CODE, code), code.len());
    context.memory(&[MemoryOp::Protect { address: CODE, length, protection: RX }]).expect("mprotect");
    (context.registers_mut().rip, context.registers_mut().rsp) = (CODE, DATA + DATA_SIZE);
    let registers = context.registers_mut();
    (registers.rdi, registers.rsi, registers.rdx, registers.r10) = (u64::MAX, DATA, 10, 0);
    patch_next(&mut context);
    context
}

/// Has the guest make the call; returns the call that the kernel hears of, and what the guest has got if that is none.
fn call(context: &mut dyn Context, [fd, address, length, offset]: [u64; 4]) -> (u64, i64) {
    let kept = [101, 102, 103, 104, 105];
    let registers = context.registers_mut();
    (registers.rdi, registers.rsi, registers.rdx, registers.r10) = (fd, address, length, offset);
    [registers.r8, registers.r9, registers.rbx, registers.rbp, registers.r13] = kept;
    registers.rip = CODE + 2;
    let number = syscall(context);
    let registers = context.registers();
    assert_eq!([registers.r8, registers.r9, registers.rbx, registers.rbp, registers.r13], kept);
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
    assert_eq!(arguments, [fd, address, length, offset]);
    (number, registers.r15.cast_signed())
}

fn memory(context: &dyn Context, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    assert_eq!(context.space().read(address, &mut bytes), length);
    bytes
}

#[test]
fn a_guest_reads_by_itself_what_is_its_to_read() {
    let platform = platform();
    let mut context = patched(&platform, file_pread());
    let (file, bytes) = counting(200_000);
    let file = open(&file);
    let space = uses(&file, &mut context, 5, Uses::READ);
    assert_eq!(call(&mut context, [5, DATA + 1, 150_000, 3]), (DONE, 150_000));
    assert!(memory(&context, DATA + 1, 150_000) == bytes[3..150_003]);
    // The end of the file, and of what descriptors are compared by.
    assert_eq!(call(&mut context, [5, DATA, 100, 199_990]), (DONE, 10));
    assert_eq!(call(&mut context, [5, DATA, 100, 200_000]), (DONE, 0));
    assert_eq!(call(&mut context, [5 | 1 << 32, DATA, 100, 0]), (DONE, 100));
    for fd in [0, 4, 6, 5 + ENTRIES as u64, u64::MAX] {
        assert_eq!(call(&mut context, [fd, DATA, 100, 0]).0, 17, "{fd}");
    }
    // What is not the host's business.
    let protect = MemoryOp::Protect { address: DATA + 0x8000, length: 0x1000, protection: 1 };
    context.memory(&[protect, MemoryOp::Unmap { address: DATA + 0xa000, length: 0x1000 }]).expect("changed");
    let most = DIRECT_MAX as u64;
    for (address, length) in [
        (DATA, 0),
        (DATA, most + 1),
        (DATA, u64::MAX),
        (DATA + 0x8000, 10),
        (DATA + 0xa000, 10),
        (0, 10),
        (GUEST.end - 10, 11),
        (GUEST.end - 10, 10),
        (GUEST.end, 10),
        (TEXT, 10),
        (SLOTS, 10),
        (SLOTS + BUFFER as u64, 10),
        (u64::MAX - 5, 10),
        (0x8000_0000_0000_0000, 10),
    ] {
        assert_eq!(call(&mut context, [5, address, length, 0]).0, 17, "{address:#x} {length}");
    }
    assert_eq!(call(&mut context, [5, DATA, 10, u64::MAX]).0, 17);
    // As much as there is room for.
    assert_eq!(call(&mut context, [5, DATA + 0x7ff0, 100, 0]), (DONE, 16));
    // Taken back, and given again.
    space.revoke(5 + ENTRIES as u32);
    assert_eq!(call(&mut context, [5, DATA, 10, 0]), (DONE, 10));
    space.revoke(5);
    assert_eq!(call(&mut context, [5, DATA, 10, 0]).0, 17);
    assert!(!context.is_direct(5, &file, Uses::READ));
    assert!(space.publish(OWNER, 5 + ENTRIES as u32, &file, Uses::READ));
    assert_eq!(call(&mut context, [5 + ENTRIES as u64, DATA, 10, 0]), (DONE, 10));
    assert_eq!(call(&mut context, [5, DATA, 10, 0]).0, 17);
    assert!(space.publish(OWNER, 5, &file, Uses::READ));
    for none in [Uses::NONE, Uses::WRITE] {
        context.own_state().allow_direct(none);
        assert_eq!(call(&mut context, [5, DATA, 10, 0]).0, 17);
    }
    context.own_state().allow_direct(Uses::READ);
    assert_eq!(call(&mut context, [5, DATA, 10, 0]), (DONE, 10));
    space.revoke_all();
    assert_eq!(call(&mut context, [5, DATA, 10, 0]).0, 17);
    // Those of another table of descriptors.
    assert!(!space.publish(OWNER + 1, 5, &file, Uses::READ));
    space.disown(OWNER + 1);
    assert!(space.publish(OWNER, 5, &file, Uses::READ));
    space.disown(OWNER);
    assert_eq!(call(&mut context, [5, DATA, 10, 0]).0, 17);
    assert!(!space.publish(OWNER + 1, 5, &file, Uses::READ), "the file is not direct any more");
    // Never again.
    assert!(context.make_direct(&file, Uses::READ));
    assert!(space.publish(OWNER + 1, 5, &file, Uses::READ));
    assert_eq!(call(&mut context, [5, DATA, 10, 0]), (DONE, 10));
    space.forbid();
    assert_eq!(call(&mut context, [5, DATA, 10, 0]).0, 17);
    assert!(numbers(&context).is_empty());
    assert!(context.make_direct(&file, Uses::READ));
    assert!((0..10).all(|owner| !space.publish(owner, 5, &file, Uses::READ)));
}

#[test]
fn what_is_used_much_had_better_be_direct() {
    let platform = platform();
    let mut context = patched(&platform, file_pread());
    let files: Vec<_> = (0..3).map(|_| open(&counting(10).0)).collect();
    // Several at a time, but not at the first use of each.
    let mut needed = [0; 3];
    for _ in 0..100 {
        for ((fd, file), needed) in (3..).zip(&files).zip(&mut needed) {
            if *needed < 100 && !context.is_worth_direct(fd, file, Uses::READ, 10) {
                *needed += 1;
            } else {
                *needed += 100;
            }
        }
    }
    assert!(needed.iter().all(|needed| needed % 100 > 5 && needed % 100 < 30), "{needed:?}");
    let large = open(&counting(10).0);
    assert!(!context.is_worth_direct(9, &large, Uses::READ, 1 << 20));
    assert!(context.is_worth_direct(9, &large, Uses::READ, 1 << 20));
    // One that is there is asked for until its descriptor stands for it.
    let space = uses(&files[0], &mut context, 3, Uses::READ);
    assert!(!context.is_worth_direct(3, &files[0], Uses::READ, 10));
    assert!(context.is_worth_direct(4, &files[0], Uses::READ, 10));
    assert!(context.is_worth_direct(3, &files[0], Uses::WRITE, 10));
    space.revoke(3);
    assert!(context.is_worth_direct(3, &files[0], Uses::READ, 10));
}

#[test]
fn a_guest_writes_by_itself_what_is_its_to_write() {
    let platform = platform();
    let mut context = patched(&platform, file_pwrite());
    let file = open(&tempfile::tempfile().expect("a file"));
    uses(&file, &mut context, 3, Uses::WRITE);
    context.space().write(DATA, b"0123456789");
    assert_eq!(call(&mut context, [3, DATA, 10, 100]), (DONE, 10));
    let mut bytes = [0; 11];
    assert_eq!(host::rustix::io::pread(&file, &mut bytes, 100).expect("read"), 10);
    assert_eq!(&bytes, b"0123456789\0");
    // The stub's own code can be read, but not by the guest's calls.
    for address in [TEXT, SLOTS, GUEST.end - 1, 0] {
        assert_eq!(call(&mut context, [3, address, 10, 0]).0, 18, "{address:#x}");
    }
    let read_only = open(&File::open("/proc/self/exe").expect("this program"));
    uses(&read_only, &mut context, 4, Uses::READ);
    assert_eq!(call(&mut context, [4, DATA, 10, 100]).0, 18);
}

#[test]
fn the_position_is_the_hosts() {
    let platform = platform();
    let mut context = patched(&platform, file_seek());
    let (file, _) = counting(1000);
    let description = open(&file);
    uses(&description, &mut context, 3, Uses::READ);
    assert_eq!(call(&mut context, [3, 500, 0, 0]), (DONE, 500));
    assert_eq!(call(&mut context, [3, u64::MAX, 1, 0]), (DONE, 499));
    assert_eq!(call(&mut context, [3, 0, 2, 0]), (DONE, 1000));
    assert_eq!(call(&mut context, [3, u64::MAX, 0, 0]).0, 8);
    assert_eq!(call(&mut context, [3, 0, 77, 0]).0, 8);
    assert_eq!((&file).stream_position().expect("a position"), 1000);
    // The kernel reads and writes where the guest is.
    let registers = context.registers_mut();
    (registers.rdi, registers.rsi, registers.rdx) = (3, 990, 0);
    assert_eq!(call(&mut context, [3, 990, 0, 0]), (DONE, 990));
    let mut done = 0;
    while done < 10 {
        match context.read_file(&description, None, DATA + done, 4) {
            Some(Ok(0)) => break,
            Some(Ok(count)) => done += count as u64,
            Some(Err(error)) => panic!("{error:?}"),
            // The stub sleeps.
            None => assert!(call(&mut context, [3, 0, 1, 0]).0 == DONE),
        }
    }
    assert_eq!(done, 10);
    assert_eq!((&file).stream_position().expect("a position"), 1000);
}

fn numbers(context: &StubContext) -> Vec<u32> {
    let files = format!("/proc/{}/fd", context.process_id());
    let names =
        std::fs::read_dir(files).expect("a process").map(|entry| entry.expect("an entry").file_name());
    let mut numbers: Vec<u32> =
        names.map(|name| name.to_str().expect("text").parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn files_are_closed_when_their_descriptors_are_unless_a_thread_uses_them() {
    let platform = platform();
    let mut context = patched(&platform, file_pread());
    let files: Vec<_> = (0..3).map(|_| open(&counting(10).0)).collect();
    let space = uses(&files[0], &mut context, 3, Uses::READ);
    uses(&files[1], &mut context, 4, Uses::BOTH);
    uses(&files[2], &mut context, 5, Uses::WRITE);
    assert_eq!(numbers(&context), [DIRECT_READ.start, DIRECT_BOTH.start, DIRECT_WRITE.start]);
    // A copy has them, but no descriptors yet that stand for them; and keeps what it has descriptors of.
    let mut copy = context.copy().expect("a copy");
    assert!(!copy.is_direct(3, &files[0], Uses::READ));
    copy.keep_direct(&|file| Arc::ptr_eq(file, &files[0]));
    assert_eq!(call(&mut copy, [3, DATA, 10, 0]).0, 17);
    assert_eq!(numbers(&copy), [DIRECT_READ.start]);
    let of_copy = copy.direct_files().expect("a platform that has them");
    assert!(of_copy.publish(OWNER + 1, 3, &files[0], Uses::READ));
    copy.own_state().allow_direct(Uses::READ);
    assert_eq!(call(&mut copy, [3, DATA, 10, 0]), (DONE, 10));
    // One closes its own, the other's stay.
    context.keep_direct(&|file| !Arc::ptr_eq(file, &files[0]));
    assert_eq!(call(&mut context, [3, DATA, 10, 0]).0, 17);
    assert_eq!(numbers(&context), [DIRECT_BOTH.start, DIRECT_WRITE.start]);
    assert_eq!(call(&mut copy, [3, DATA, 10, 0]), (DONE, 10));
    // A thread that claims to use a file keeps its number from being used for another.
    SlotsOf::new(context.process_id()).set_field(HAZARD, DIRECT_BOTH.start);
    space.revoke(4);
    context.keep_direct(&|file| !Arc::ptr_eq(file, &files[1]));
    assert_eq!(call(&mut context, [4, DATA, 10, 0]).0, 17);
    // The call that has come to the kernel has cleared the claim; so again.
    assert_eq!(call(&mut context, [4, DATA, 10, 0]).0, 17);
    assert_eq!(numbers(&context), [DIRECT_WRITE.start]);
    // The last goes with the address space's end.
    context.close_direct();
    assert_eq!(numbers(&context), [DIRECT_WRITE.start], "somebody owns it");
    space.disown(OWNER);
    context.close_direct();
    assert_eq!(numbers(&context), [0; 0]);
}

/// The slots of a stub, seen from outside.
pub(super) struct SlotsOf(File);

impl SlotsOf {
    pub(super) fn new(process: i32) -> SlotsOf {
        let memory = File::options().read(true).write(true).open(format!("/proc/{process}/mem"));
        SlotsOf(memory.expect("the memory of a child"))
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        self.0.write_all_at(bytes, address).expect("written");
    }

    /// A field of the slot of the first thread that has one.
    pub(super) fn field(&self, offset: usize) -> u32 {
        self.word(self.slot() + offset as u64)
    }

    pub(super) fn set_field(&self, offset: usize, value: u32) {
        self.write(self.slot() + offset as u64, &value.to_ne_bytes());
    }

    fn slot(&self) -> u64 {
        let used = |slot: &u64| self.word(slot + MAGIC as u64) == MAGIC_VALUE;
        (0..8).map(slot_address).find(used).expect("a slot")
    }

    fn word(&self, address: u64) -> u32 {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, address).expect("a slot");
        u32::from_ne_bytes(bytes)
    }
}

#[test]
fn numbers_that_are_claimed_get_no_other_file() {
    let platform = platform();
    let mut context = patched(&platform, file_pread());
    let files: Vec<_> = (0..DIRECT_READ.len() + 1).map(|_| open(&counting(10).0)).collect();
    let space = uses(&files[0], &mut context, 3, Uses::READ);
    let slots = SlotsOf::new(context.process_id());
    slots.set_field(HAZARD, DIRECT_READ.start);
    context.keep_direct(&|_| false);
    // Not closed as long as it is claimed, nor given away.
    context.interrupter().interrupt();
    assert_eq!(context.run(), Event::Interrupted);
    assert_eq!(numbers(&context), [DIRECT_READ.start]);
    for (index, file) in files[1..].iter().enumerate() {
        // The last takes another's place, if it can.
        let made = context.make_direct(file, Uses::READ);
        assert!(made || index + 1 == DIRECT_READ.len(), "{index}");
        slots.set_field(HAZARD, DIRECT_READ.start);
    }
    let first = std::fs::read_link(format!("/proc/{}/fd/{}", context.process_id(), DIRECT_READ.start));
    let expected =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&files[0])));
    assert_eq!(first.expect("a link"), expected.expect("a link"));
    // A call of the guest's clears the claim.
    assert_eq!(call(&mut context, [3, DATA, 10, 0]).0, 17);
    assert_eq!(call(&mut context, [3, DATA, 10, 0]).0, 17);
    assert!(!numbers(&context).contains(&DIRECT_READ.start));
    assert!(context.make_direct(&files[0], Uses::READ));
    assert!(space.publish(OWNER, 3, &files[0], Uses::READ));
    assert_eq!(call(&mut context, [3, DATA, 10, 0]), (DONE, 10));
    // Whoever waits for calls does not wait for ever.
    slots.set_field(HAZARD, DIRECT_READ.start);
    let start = Instant::now();
    space.wait_for_calls(start + Duration::from_millis(10));
    assert!(start.elapsed() >= Duration::from_millis(10) && start.elapsed() < Duration::from_secs(2));
    assert_eq!(call(&mut context, [3, DATA, 10, 0]), (DONE, 10));
    space.wait_for_calls(start + Duration::from_secs(1000));
}

#[test]
fn interrupts_come_through_between_calls_that_are_made_once() {
    let platform = platform();
    for (code, number) in [(file_read(), 0), (file_write(), 1)] {
        let mut context = patched(&platform, code);
        let mut file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 30).expect("a large file");
        file.rewind().expect("at the beginning");
        let description = open(&file);
        uses(&description, &mut context, 3, Uses::BOTH);
        const LENGTH: u64 = 24;
        let registers = context.registers_mut();
        (registers.rdi, registers.rsi, registers.rdx, registers.r12) = (3, DATA, LENGTH, 0);
        registers.rip = CODE + 2;
        let interrupter = context.interrupter();
        let (go, gone) = mpsc::channel::<u32>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for round in gone {
                (0..round % 256 * 8).for_each(|_| std::hint::spin_loop());
                let now = Instant::now();
                interrupter.interrupt();
                tell.send(now).expect("somebody listens");
            }
        });
        const COUNT: u32 = 2000;
        let mut by_kernel = 0;
        let mut rounds = 0..100 * COUNT;
        while let Some(round) = rounds.next()
            && (round < COUNT || context.registers().r12 <= u64::from(COUNT) / 10)
        {
            go.send(round).expect("the thread listens");
            loop {
                match context.run() {
                    Event::Interrupted => break,
                    Event::Syscall => {
                        // Nothing of it has been done.
                        assert_eq!(context.registers().orig_rax, number);
                        by_kernel += 1;
                        context.registers_mut().rax = 0;
                    }
                    other => panic!("{other:?}"),
                }
            }
            let taken = told.recv().expect("the time").elapsed();
            assert!(taken < Duration::from_millis(900), "round {round}: {taken:?}");
        }
        drop(go);
        thread.join().expect("the interrupting thread");
        // The guest may have been stopped right behind a call, before it has counted it.
        let (counted, position) =
            (context.registers().r12 - by_kernel, file.stream_position().expect("a position"));
        assert!(position == counted * LENGTH || position == (counted + 1) * LENGTH, "{position} {counted}");
        assert!(counted > u64::from(COUNT) / 10);
    }
}

#[test]
fn nonsense_in_the_table_harms_the_guest_alone() {
    let platform = platform();
    let entry = |fd: u64, number: u64| fd | number << 32 | u64::from(READING | WRITING) << ENTRY_CALLS;
    for (number, dies) in [
        (0, true),
        (DIRECT_READ.start, false),
        (DIRECT_READ.start + 1, false),
        (DIRECT_WRITE.start, true),
        (DIRECT.end, true),
        (255, true),
    ] {
        let mut context = patched(&platform, file_pread());
        let (file, _) = counting(10);
        let description = open(&file);
        uses(&description, &mut context, 3, Uses::READ);
        let slots = SlotsOf::new(context.process_id());
        slots.write(SLOTS + TABLE as u64 + 9 * 8, &entry(9, number.into()).to_ne_bytes());
        context.registers_mut().rip = CODE + 2;
        let registers = context.registers_mut();
        (registers.rdi, registers.rsi, registers.rdx, registers.r10) = (9, DATA, 10, 0);
        let event = context.run();
        assert_eq!(event, if dies { Event::Died } else { Event::Syscall }, "{number}");
        // What it has is what it has; what it has not fails, and is the kernel's to answer.
        let expected = if number == DIRECT_READ.start { DONE } else { 17 };
        assert!(dies || context.registers().orig_rax == expected, "{number}");
    }
    // Nor does a file that may only be read become one that may be written.
    let mut context = patched(&platform, file_pwrite());
    let description = open(&File::open("/proc/self/exe").expect("this program"));
    uses(&description, &mut context, 3, Uses::READ);
    let slots = SlotsOf::new(context.process_id());
    slots.write(SLOTS + TABLE as u64 + 3 * 8, &entry(3, DIRECT_READ.start.into()).to_ne_bytes());
    let registers = context.registers_mut();
    (registers.rdi, registers.rsi, registers.rdx, registers.rip) = (3, DATA, 10, CODE + 2);
    assert_eq!(context.run(), Event::Died);
}
