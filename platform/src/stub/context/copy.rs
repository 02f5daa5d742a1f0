//! Copies between the kernel and guest memory, made by the stub.
//!
//! The stub copies between the slot's buffer and the guest's memory at the kernel's word. While it spins for the next
//! command anyway, that takes a tenth of what the host takes to reach into another process; where it sleeps, the host is
//! faster. A fault in the stub's copy ends it, and the kernel hears how far it got. What the stub says is the guest's
//! word: no more than was asked for is believed, and the bytes in the buffer are what guest memory is, arbitrary.
//!
//! Between files and guest memory, the kernel fills or empties one half of the buffer while the stub copies the other. Files
//! that the stub has itself ([`super::super::resident`], [`super::super::direct`]) it reads and writes without that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::{Errno, SysResult};

use super::super::layout::*;
use super::super::memory;
use super::StubContext;
use crate::{AddressSpace, Pointed};

/// Bytes of a half of the buffer.
const HALF: usize = BUFFER_SIZE / 2;
/// The smallest piece of a transfer that is made in pieces.
const PIECE: usize = 8 << 10;

/// The largest piece of a read of a resident file.
const RESIDENT_PIECE: usize = 128 << 10;
/// For so many bytes it pays to wake the stub, to have them copied once and not twice.
const WORTH_WAKING: usize = 256 << 10;

/// The way of a copy, seen from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// What the stub has been told to copy and has not reported yet.
struct Pending {
    length: usize,
}

impl StubContext {
    /// Whether the stub is the one to copy `length` bytes at `address`.
    fn stub_copies(&self, address: u64, length: usize) -> bool {
        self.may_copy(address, length)
            && !self.slot().stub_sleeps()
            && self.habits.stub_spins(&self.space.shared.spinning)
    }

    /// Whether the stub can be let copy `length` bytes at `address`.
    pub(super) fn may_copy(&self, address: u64, length: usize) -> bool {
        let inside = address.checked_add(length as u64).is_some_and(|end| end <= GUEST.end);
        inside && !self.starting.get()
    }

    /// Tells the stub to copy, between guest memory and the buffer's bytes from `at` on. [`StubContext::end`] must follow,
    /// before anything else is asked of the stub.
    fn begin(&self, way: Way, address: u64, at: usize, length: usize) -> Pending {
        let memory = self.slot().memory();
        memory.store(ARGUMENTS, address);
        memory.store(ARGUMENTS + 8, slot_address(self.slot().index) + (BUFFER + at) as u64);
        memory.store(ARGUMENTS + 16, length as u64);
        self.post(if way == Way::In { COMMAND_COPY_IN } else { COMMAND_COPY_OUT });
        Pending { length }
    }

    /// Waits for a copy; returns how many bytes it has copied.
    fn end(&self, pending: Pending) -> usize {
        let done = self.wait_done().and_then(|()| self.result()).unwrap_or(0);
        usize::try_from(done).unwrap_or(usize::MAX).min(pending.length)
    }

    pub(super) fn copy_in(&self, address: u64, buffer: &mut [u8]) -> usize {
        self.flush();
        if buffer.len() > BUFFER_SIZE || !self.stub_copies(address, buffer.len()) {
            return self.space.read(address, buffer);
        }
        let count = self.end(self.begin(Way::In, address, 0, buffer.len()));
        self.slot().memory().read(BUFFER, &mut buffer[..count]);
        count
    }

    pub(super) fn copy_out(&self, address: u64, bytes: &[u8]) -> usize {
        self.sent.set(None);
        self.flush();
        if bytes.len() > BUFFER_SIZE || !self.stub_copies(address, bytes.len()) {
            return self.space.write(address, bytes);
        }
        self.slot().memory().write(BUFFER, bytes);
        self.end(self.begin(Way::Out, address, 0, bytes.len()))
    }

    /// Tells the stub to copy between guest memory at several places and the buffer, behind the records that say so: `None` if
    /// it is not the one to do that; whether all could be. `prepare` is given the place of the bytes first.
    fn copy_pieces(
        &self,
        way: Way,
        pieces: &[(u64, usize)],
        length: usize,
        prepare: impl FnOnce(usize),
    ) -> Option<bool> {
        let at = BUFFER + pieces.len() * CALL_SIZE;
        let fits = at + length <= BUFFER + BUFFER_SIZE;
        if !fits || !pieces.iter().all(|(address, length)| self.stub_copies(*address, *length)) {
            return None;
        }
        let mut place = slot_address(self.slot().index) + at as u64;
        let record = |&(address, length): &(u64, usize)| -> memory::Call {
            let (to, from) = if way == Way::In { (place, address) } else { (address, place) };
            place += length as u64;
            [0, to, from, length as u64, 0, 0, 0, CALL_COPY]
        };
        let records: Vec<memory::Call> = pieces.iter().map(record).collect();
        self.put_records(0, &records);
        prepare(at);
        Some(self.call_recorded(records.len()).is_ok())
    }

    /// Reads guest memory at several places; whether all of it could be.
    pub(super) fn gather(&self, pieces: &[(u64, usize)], buffer: &mut [u8]) -> bool {
        self.flush();
        if let Some(copied) = self.copy_pieces(Way::In, pieces, buffer.len(), |_| {}) {
            self.slot().memory().read(BUFFER + pieces.len() * CALL_SIZE, buffer);
            return copied;
        }
        if !pieces.iter().all(|(address, length)| self.may_copy(*address, *length)) {
            return false;
        }
        let mut rest = buffer;
        let mut parts: Vec<_> = pieces
            .iter()
            .map(|(address, length)| {
                let (piece, behind) = std::mem::take(&mut rest).split_at_mut(*length);
                rest = behind;
                (*address, piece)
            })
            .collect();
        self.space.read_pieces(&mut parts)
    }

    /// Writes guest memory at several places; whether all of it could be.
    pub(super) fn scatter(&self, pieces: &[(u64, usize)], bytes: &[u8]) -> bool {
        self.sent.set(None);
        self.flush();
        let put = |at| self.slot().memory().write(at, bytes);
        if let Some(copied) = self.copy_pieces(Way::Out, pieces, bytes.len(), put) {
            return copied;
        }
        let mut rest = bytes;
        pieces.iter().all(|(address, length)| {
            let (piece, behind) = rest.split_at(*length);
            rest = behind;
            self.space.write(*address, piece) == *length
        })
    }

    /// Has the stub make a call on a direct file with guest memory: `calls` are those with an offset and without. `None` if it
    /// does not have the file.
    fn use_direct(
        &self,
        file: &Arc<OwnedFd>,
        calls: [i64; 2],
        offset: Option<u64>,
        (address, length): (u64, usize),
    ) -> Option<SysResult<usize>> {
        let number = self.space.directs.number(file)?;
        let call = if offset.is_some() { calls[0] } else { calls[1] };
        let mut done = 0;
        let mut made = || {
            while done < length {
                let piece = (length - done).min(DIRECT_MAX);
                let (address, offset) =
                    (address + done as u64, offset.unwrap_or(0).saturating_add(done as u64));
                self.put(&[[call as u64, number.into(), address, piece as u64, offset, 0, 0, 0]])?;
                // As long as the file takes, unless somebody wants the thread back: guest code may have spoilt the command.
                self.wait_done_while(|| !self.interrupt.is_wanted())?;
                let count = usize::try_from(self.result()?).unwrap_or(usize::MAX).min(piece);
                done += count;
                if count < piece {
                    break;
                }
            }
            Ok(())
        };
        match made() {
            // Guest code has closed it.
            Err(Errno::EBADF) if done == 0 => None,
            // What is in guest memory, or in the file, counts, and an error after it is dropped.
            Err(error) if done == 0 => Some(Err(error)),
            _ => Some(Ok(done)),
        }
    }

    /// Reads from a file into guest memory, at an offset or at its own; `None` if that is better done in another way.
    pub(super) fn copy_from_file(
        &self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        self.flush();
        let suitable = self.stub_copies(address, length);
        if suitable || (length >= WORTH_WAKING && self.may_copy(address, length)) {
            let calls = [libc::SYS_pread64, libc::SYS_read];
            let direct = self.use_direct(file, calls, offset, (address, length));
            if direct.is_some() {
                return direct;
            }
        }
        // What is read ahead, and then not written, would have moved the file's own offset.
        let offset = offset?;
        if suitable || (length >= WORTH_WAKING && self.may_copy(address, length)) {
            let read = || self.read_resident(file, offset, address, length);
            let resident = read().or_else(|| {
                let worth_it = self.space.residents.is_worth_it(file, length);
                worth_it.then(|| self.make_resident(file)).and_then(|()| read())
            });
            if resident.is_some() {
                return resident;
            }
        }
        suitable.then(|| self.transfer_from_file(file.as_fd(), offset, address, length))
    }

    /// Has the stub read from a file that it has; `None` if it has not. Large reads are made in pieces, so that neither side
    /// goes to sleep over one.
    fn read_resident(
        &self,
        file: &Arc<OwnedFd>,
        offset: u64,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let residents = &self.space.residents;
        let mut done = 0;
        let result = residents.with(file, |number| {
            loop {
                let piece = (length - done).min(RESIDENT_PIECE);
                let (to, from) = (address + done as u64, offset.saturating_add(done as u64));
                let call = [libc::SYS_pread64 as u64, number.into(), to, piece as u64, from, 0, 0, 0];
                self.put(&[call])?;
                // As long as the file takes, unless somebody wants the thread back: guest code may have spoilt the command.
                self.wait_done_while(|| !self.interrupt.is_wanted())?;
                let count = usize::try_from(self.result()?).unwrap_or(usize::MAX).min(piece);
                done += count;
                if count < piece || done == length {
                    return Ok(());
                }
            }
        })?;
        match result {
            // Guest code has closed it.
            Err(Errno::EBADF) if done == 0 => {
                residents.forget(file);
                None
            }
            // What is in guest memory counts, and an error after it is dropped.
            Err(error) if done == 0 => Some(Err(error)),
            _ => Some(Ok(done)),
        }
    }

    /// Gives the stub a file to keep.
    fn make_resident(&self, file: &Arc<OwnedFd>) {
        self.space.residents.take(file, |number| self.give_file(file, number));
    }

    /// Gives the stub a copy of a descriptor, with this number; whether it has it.
    pub fn give_file(&self, file: &Arc<OwnedFd>, number: u32) -> bool {
        let mut ask = [0; 8];
        ask[0] = libc::SYS_mmap as u64;
        ask[1..7].copy_from_slice(&memory::ASK);
        let expecting = self.space.shared.notifications.calls_of(self.thread.id);
        let given = self.put(&[ask]).is_ok()
            && expecting
                .call(Some(self.space.pidfd.as_fd()), libc::SYS_mmap, &memory::ASK)
                .and_then(|call| expecting.answer_with(&call, file.as_fd(), number))
                .is_ok();
        drop(expecting);
        if !given {
            self.space.kill();
        }
        given && self.wait_done().is_ok()
    }

    /// Closes files in the stub.
    pub fn close(&self, numbers: &[u32]) {
        // A stub that does not is gone.
        let _ = self.calls(&numbers.iter().map(closing).collect::<Vec<_>>());
    }

    /// Has the stub close files on its way back to the guest, unless it has something else to do then.
    pub(super) fn close_later(&self, numbers: &[u32]) -> SysResult<()> {
        if self.delivery.get().is_some() || self.pending.get() > 0 {
            self.close(numbers);
            return Ok(());
        }
        self.ready()?;
        self.put_records(0, &numbers.iter().map(closing).collect::<Vec<_>>());
        self.pending.set(numbers.len());
        Ok(())
    }

    /// Writes guest memory to a file, at an offset or at its own; `None` if that is better done in another way.
    pub(super) fn copy_to_file(
        &self,
        file: &Arc<OwnedFd>,
        offset: Option<u64>,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        if let Some(sent) = self.sent.get()
            && sent.what == Pointed::Buffer
            && (sent.address, sent.length) == (address, length)
        {
            // It is there already.
            let written = self.slot().memory().write_file(file.as_fd(), offset, BUFFER, length);
            return Some(written.map_err(Errno::from));
        }
        self.flush();
        let suitable = self.stub_copies(address, length);
        if length > 0 && (suitable || (length >= WORTH_WAKING && self.may_copy(address, length))) {
            let calls = [libc::SYS_pwrite64, libc::SYS_write];
            let direct = self.use_direct(file, calls, offset, (address, length));
            if direct.is_some() {
                return direct;
            }
        }
        // One write at the file's own offset is one to everybody.
        let offset = offset?;
        suitable.then(|| self.transfer_to_file(file.as_fd(), offset, address, length))
    }

    /// [`StubContext::copy_from_file`] of memory in the guest's range.
    fn transfer_from_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        address: u64,
        length: usize,
    ) -> SysResult<usize> {
        let memory = self.slot().memory();
        let mut pending: Option<Pending> = None;
        let (mut read, mut copied, mut at) = (0, 0, 0);
        let mut failure = None;
        while read < length {
            let room = piece(length, read);
            let place = Some(offset.saturating_add(read as u64));
            let count = memory.read_file(file, place, BUFFER + at, room);
            if let Some(earlier) = pending.take() {
                let expected = earlier.length;
                let done = self.end(earlier);
                copied += done;
                if done < expected {
                    return if copied > 0 { Ok(copied) } else { Err(Errno::EFAULT) };
                }
            }
            match count {
                Ok(0) => break,
                Ok(count) => {
                    pending = Some(self.begin(Way::Out, address + read as u64, at, count));
                    read += count;
                    at = HALF - at;
                    if count < room {
                        break;
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        copied += pending.map_or(0, |pending| self.end(pending));
        // What is in guest memory counts, and an error after it is dropped.
        match failure {
            Some(error) if read == 0 => Err(error.into()),
            _ if read > 0 && copied == 0 => Err(Errno::EFAULT),
            _ => Ok(copied),
        }
    }

    /// [`StubContext::copy_to_file`] of memory in the guest's range.
    fn transfer_to_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        address: u64,
        length: usize,
    ) -> SysResult<usize> {
        if length == 0 {
            return Ok(0);
        }
        let memory = self.slot().memory();
        let (mut asked, mut at, mut written) = (piece(length, 0), 0, 0);
        let mut pending = self.begin(Way::In, address, at, asked);
        loop {
            let expected = pending.length;
            let count = self.end(pending);
            let (ready, start) = (at, asked - expected);
            let more = count == expected && asked < length;
            let next = more.then(|| {
                let room = piece(length, asked);
                at = HALF - at;
                asked += room;
                self.begin(Way::In, address + (asked - room) as u64, at, room)
            });
            let result = if count == 0 {
                Err(Errno::EFAULT)
            } else {
                let place = Some(offset.saturating_add(start as u64));
                memory.write_file(file, place, BUFFER + ready, count).map_err(Errno::from)
            };
            match (result, next) {
                (Ok(done), Some(next)) if done == count => {
                    written += done;
                    pending = next;
                }
                (result, next) => {
                    // The turn must come back, whatever the stub has copied.
                    next.map(|next| self.end(next));
                    return match result {
                        Ok(done) => Ok(written + done),
                        Err(error) if written == 0 => Err(error),
                        Err(_) => Ok(written),
                    };
                }
            }
        }
    }
}

/// The call that closes a descriptor of the stub's.
fn closing(number: &u32) -> memory::Call {
    [libc::SYS_close as u64, (*number).into(), 0, 0, 0, 0, 0, CALL_ALWAYS]
}

/// The length of the next piece of a transfer: small ones first, so that both sides soon have something to do.
fn piece(length: usize, done: usize) -> usize {
    (length - done).min(done.clamp(PIECE, HALF))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::super::tests::platform;
    use super::*;
    use crate::{Context, MemoryOp};

    const DATA: u64 = 0x20_0000;
    /// Of which the last page may only be read.
    const LENGTH: u64 = 0x4_0000;
    const WRITABLE: u64 = LENGTH - PAGE;

    /// A thread that waits for commands, whatever the machine does.
    fn context() -> StubContext {
        let mut context = platform().shared.create(None).expect("an address space");
        let map = MemoryOp::Map {
            address: DATA,
            length: LENGTH,
            protection: libc::PROT_READ.cast_unsigned() | libc::PROT_WRITE.cast_unsigned(),
            shared: false,
            flags: 0,
            file: None,
        };
        let protection = libc::PROT_READ.cast_unsigned();
        let protect = MemoryOp::Protect { address: DATA + WRITABLE, length: PAGE, protection };
        context.memory(&[map, protect]).expect("memory");
        context
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 7 + index / 256) as u8).collect()
    }

    fn memory(context: &StubContext, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        assert_eq!(context.space.read(address, &mut bytes), length);
        bytes
    }

    #[test]
    fn copies_end_at_what_cannot_be_touched() {
        let context = context();
        let bytes = pattern(5000);
        for (address, written, read) in [
            (DATA, 5000, 5000),
            (DATA + WRITABLE - 3, 3, 4099),
            (DATA + WRITABLE, 0, 4096),
            (DATA + LENGTH - 1, 0, 1),
            (DATA + LENGTH, 0, 0),
            (DATA - 1, 0, 0),
            (0, 0, 0),
        ] {
            context.slot().memory().write(BUFFER, &bytes);
            assert_eq!(context.end(context.begin(Way::Out, address, 0, 5000)), written, "{address:#x}");
            assert_eq!(memory(&context, address, written), bytes[..written]);
            assert_eq!(context.end(context.begin(Way::In, address, 0, 5000)), read, "{address:#x}");
            let mut copy = vec![0; read];
            context.slot().memory().read(BUFFER, &mut copy);
            assert_eq!(copy, memory(&context, address, read));
        }
    }

    #[test]
    fn several_pieces_are_copied_at_once_or_told_apart() {
        let context = context();
        let bytes = pattern(20_000);
        let end = DATA + LENGTH;
        let lengths = |pieces: &[(u64, usize)]| pieces.iter().map(|(_, length)| length).sum::<usize>();
        for rests in [false, true] {
            // Whoever copies, the result is the same.
            if rests {
                context.rest();
            }
            for pieces in [
                &[(DATA, 3), (DATA + 10_000, 5000), (DATA + 5, 0), (DATA + 4000, 200)][..],
                &[(DATA, 10_000), (DATA + 10_000, 10_000)],
                &[],
            ] {
                let length = lengths(pieces);
                assert!(context.scatter(pieces, &bytes[..length]), "{pieces:x?}");
                let mut at = 0;
                for (address, length) in pieces {
                    assert_eq!(memory(&context, *address, *length), bytes[at..at + length]);
                    at += length;
                }
                let mut copy = vec![0; length];
                assert!(context.gather(pieces, &mut copy));
                assert_eq!(copy, bytes[..length]);
            }
            // The later piece is what counts where two overlap.
            assert!(context.scatter(&[(DATA, 4), (DATA + 2, 4)], b"abcdefgh"));
            assert_eq!(memory(&context, DATA, 6), b"abefgh");
            // One that can be read and not written; none at all; the platform's own.
            let read_only = [(DATA, 8), (DATA + WRITABLE, 8)];
            assert!(!context.scatter(&read_only, &bytes[..16]) && context.gather(&read_only, &mut [0; 16]));
            for nowhere in [end, end - 4, 0, TEXT, SLOTS, GUEST.end - 1, u64::MAX - 3] {
                let pieces = [(DATA, 8), (nowhere, 8), (DATA + 100, 8)];
                assert!(!context.scatter(&pieces, &bytes[..24]), "{nowhere:#x}");
                assert!(!context.gather(&pieces, &mut [0; 24]), "{nowhere:#x}");
            }
            // More than there is room for at once.
            let many = [(DATA, 60_000), (DATA + 60_000, 60_000)];
            let large = pattern(120_000);
            assert!(context.scatter(&many, &large));
            let mut copy = vec![0; 120_000];
            assert!(context.gather(&many, &mut copy) && copy == large);
        }
    }

    #[test]
    fn the_platforms_own_memory_is_no_guest_memory() {
        let context = context();
        for address in [TEXT, SLOTS, GUEST.end, GUEST.end - 1, u64::MAX - 1] {
            assert!(!context.stub_copies(address, 2), "{address:#x}");
            assert_eq!(context.copy_out(address, &[1, 2]), 0);
        }
    }

    #[test]
    fn transfers_with_files_are_complete_and_in_order() {
        let context = context();
        let file = host::rustix::fs::memfd_create("test", host::rustix::fs::MemfdFlags::CLOEXEC);
        let file = file.expect("a memfd");
        let bytes = pattern(200_000);
        host::rustix::io::pwrite(&file, &bytes, 0).expect("written");
        let wanting = |length: usize| [1, PIECE - 1, PIECE, PIECE + 1, HALF, BUFFER_SIZE, length];
        for length in wanting(150_001) {
            let count = context.transfer_from_file(file.as_fd(), 5, DATA + 1, length).expect("read");
            assert_eq!(count, length);
            assert!(memory(&context, DATA + 1, length) == bytes[5..5 + length], "{length}");
            let other = host::rustix::fs::memfd_create("test", host::rustix::fs::MemfdFlags::CLOEXEC);
            let other = other.expect("a memfd");
            let count = context.transfer_to_file(other.as_fd(), 3, DATA + 1, length).expect("written");
            assert_eq!(count, length);
            let mut written = vec![0; length + 1];
            assert_eq!(host::rustix::io::pread(&other, &mut written[..], 3).expect("read"), length);
            assert!(written[..length] == bytes[5..5 + length], "{length}");
        }
        // The end of the file, and the end of memory.
        assert_eq!(context.transfer_from_file(file.as_fd(), 199_990, DATA, 100), Ok(10));
        assert_eq!(context.transfer_from_file(file.as_fd(), 200_000, DATA, 100), Ok(0));
        let before = DATA + WRITABLE - 20_000;
        assert_eq!(context.transfer_from_file(file.as_fd(), 0, before, 100_000), Ok(20_000));
        assert_eq!(memory(&context, before, 20_000), bytes[..20_000]);
        assert_eq!(context.transfer_from_file(file.as_fd(), 0, DATA + WRITABLE, 10), Err(Errno::EFAULT));
        let left = (DATA + LENGTH - before) as usize;
        assert_eq!(context.transfer_to_file(file.as_fd(), 0, before, 100_000), Ok(left));
        assert_eq!(context.transfer_to_file(file.as_fd(), 0, DATA + LENGTH, 10), Err(Errno::EFAULT));
        assert_eq!(context.transfer_to_file(file.as_fd(), 0, DATA, 0), Ok(0));
        // An error of the file's, with a copy under way.
        let other = std::fs::File::open("/proc/self/exe").expect("this program");
        assert_eq!(context.transfer_to_file(other.as_fd(), 0, DATA, 100_000), Err(Errno::EBADF));
        assert_eq!(context.transfer_from_file(file.as_fd(), 0, DATA, 10), Ok(10));
    }

    /// The numbers of the descriptors that a stub has.
    fn descriptors(context: &StubContext) -> Vec<String> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", context.process_id())).expect("a process");
        let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("a number"));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_read_often_the_stub_reads_itself() {
        let mut context = context();
        let open = || Arc::new(OwnedFd::from(std::fs::File::open("/proc/self/exe").expect("this program")));
        let file = open();
        let mut bytes = vec![0; 150_000];
        host::rustix::io::pread(&file, &mut bytes[..], 0).expect("read");
        // Not what is read once, nor what it would disturb that it stays open.
        assert!(!context.space.residents.is_worth_it(&open(), 1 << 20));
        let writable = tempfile::tempfile().map(|file| Arc::new(OwnedFd::from(file))).expect("a file");
        let named = tempfile::NamedTempFile::new().expect("a file");
        let named = Arc::new(OwnedFd::from(named.as_file().try_clone().expect("a descriptor")));
        for _ in 0..20 {
            assert!(!context.space.residents.is_worth_it(&named, 1 << 20));
        }
        assert_eq!(descriptors(&context), [""; 0]);
        let none = context.read_resident(&file, 0, DATA, 100);
        assert_eq!(none, None);
        context.make_resident(&file);
        let inherited = context.copy().expect("a copy");
        for context in [&context, &inherited] {
            // A copy closes what it was handed before it reports.
            context.ready().expect("a thread that waits");
            assert_eq!(descriptors(context), ["1"]);
            assert_eq!(context.read_resident(&file, 0, DATA + 1, bytes.len()), Some(Ok(bytes.len())));
            assert!(memory(context, DATA + 1, bytes.len()) == bytes);
            // The end of memory, and the end of the file.
            assert_eq!(context.read_resident(&file, 3, DATA + WRITABLE - 5, 100), Some(Ok(5)));
            assert_eq!(memory(context, DATA + WRITABLE - 5, 5), bytes[3..8]);
            assert_eq!(context.read_resident(&file, 3, DATA + WRITABLE, 100), Some(Err(Errno::EFAULT)));
            assert_eq!(context.read_resident(&file, 1 << 40, DATA, 100), Some(Ok(0)));
        }
        // More than there is room for, each of which takes another's place.
        let others: Vec<_> = (0..6).map(|_| open()).collect();
        others.iter().for_each(|other| context.make_resident(other));
        assert_eq!(descriptors(&context), ["1", "2", "3", "4"]);
        let reads = |file| context.read_resident(file, 0, DATA, 10) == Some(Ok(10));
        assert!(others.iter().any(reads) && !others.iter().all(reads));
        drop(others);
        // The guest may close them.
        context.close(&[1, 2, 3, 4]);
        assert_eq!(descriptors(&context), [""; 0]);
        assert_eq!(context.read_resident(&file, 0, DATA, 10), None);
        context.make_resident(&writable);
        assert_eq!(context.read_resident(&writable, 0, DATA, 10), Some(Ok(0)));
        // They go when the kernel has closed them.
        drop((file, writable));
        for context in [&mut context, &mut { inherited }] {
            context.interrupt.wanted.store(true, std::sync::atomic::Ordering::SeqCst);
            assert_eq!(context.run(), crate::Event::Interrupted);
            assert_eq!(descriptors(context), [""; 0]);
        }
    }
}
