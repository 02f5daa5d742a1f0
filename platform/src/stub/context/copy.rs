//! Copies between the kernel and guest memory, made by the stub.
//!
//! The stub copies between the slot's buffer and the guest's memory at the kernel's word. While it spins for the next
//! command anyway, that takes a tenth of what the host takes to reach into another process; where it sleeps, the host is
//! faster. A fault in the stub's copy ends it, and the kernel hears how far it got. What the stub says is the guest's
//! word: no more than was asked for is believed, and the bytes in the buffer are what guest memory is, arbitrary.
//!
//! Between files and guest memory, the kernel fills or empties one half of the buffer while the stub copies the other.

use std::os::fd::BorrowedFd;

use abi::{Errno, SysResult};

use super::super::layout::*;
use super::StubContext;
use crate::AddressSpace;

/// Bytes of a half of the buffer.
const HALF: usize = BUFFER_SIZE / 2;
/// The smallest piece of a transfer that is made in pieces.
const PIECE: usize = 8 << 10;

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
        let inside = address.checked_add(length as u64).is_some_and(|end| end <= GUEST.end);
        inside
            && !self.starting.get()
            && !self.slot().stub_sleeps()
            && self.habits.stub_spins(&self.space.shared.spinning)
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
        if buffer.len() > BUFFER_SIZE || !self.stub_copies(address, buffer.len()) {
            return self.space.read(address, buffer);
        }
        let count = self.end(self.begin(Way::In, address, 0, buffer.len()));
        self.slot().memory().read(BUFFER, &mut buffer[..count]);
        count
    }

    pub(super) fn copy_out(&self, address: u64, bytes: &[u8]) -> usize {
        if bytes.len() > BUFFER_SIZE || !self.stub_copies(address, bytes.len()) {
            return self.space.write(address, bytes);
        }
        self.slot().memory().write(BUFFER, bytes);
        self.end(self.begin(Way::Out, address, 0, bytes.len()))
    }

    /// Reads from a file into guest memory; `None` if that is better done in another way.
    pub(super) fn copy_from_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let suitable = self.stub_copies(address, length);
        suitable.then(|| self.transfer_from_file(file, offset, address, length))
    }

    /// Writes guest memory to a file; `None` if that is better done in another way.
    pub(super) fn copy_to_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        address: u64,
        length: usize,
    ) -> Option<SysResult<usize>> {
        let suitable = self.stub_copies(address, length);
        suitable.then(|| self.transfer_to_file(file, offset, address, length))
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
            let count = memory.read_file(file, offset.saturating_add(read as u64), BUFFER + at, room);
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
                let place = offset.saturating_add(start as u64);
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
        let mut context = platform().shared.create().expect("an address space");
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
}
