//! Results that the guest finds in its memory when it goes on.
//!
//! The last thing that many system calls do is to write to guest memory. The platform can do that on its way back to the
//! guest, which spares a trip; but then the call has its result before anybody knows whether the memory can be written. If
//! it cannot, the result is corrected before the guest sees it.

use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use zerocopy::{Immutable, IntoBytes};

use super::CurrentTask;
use crate::fs::File;
use crate::user::UserPtr;

/// Bytes on their way to the guest.
pub(crate) struct Delivery {
    address: u64,
    length: usize,
    kind: Kind,
}

/// What it means that they do not get there.
enum Kind {
    /// The call fails with `EFAULT`.
    Result,
    /// The call has read what could be written, and `EFAULT` if that is nothing.
    Read,
    /// Likewise, and the file's offset has gone too far.
    ReadAtOffset(Weak<File>),
    /// Nothing.
    Courtesy,
}

impl CurrentTask {
    /// [`CurrentTask::write_bytes`] as the last thing that a system call does.
    pub fn write_result(&self, address: u64, bytes: &[u8]) -> SysResult<()> {
        if !self.may_deliver() || !self.context.borrow_mut().deliver(address, bytes) {
            return self.write_bytes(address, bytes);
        }
        self.deliver(address, bytes.len(), Kind::Result);
        Ok(())
    }

    /// [`CurrentTask::write_object`] as the last thing that a system call does.
    pub fn write_result_object<T: IntoBytes + Immutable>(
        &self,
        pointer: UserPtr<T>,
        object: &T,
    ) -> SysResult<()> {
        self.write_result(pointer.address(), object.as_bytes())
    }

    /// Writes to guest memory as the last thing that a system call does what the guest gets if it can be written.
    pub fn write_courtesy<T: IntoBytes + Immutable>(&self, pointer: UserPtr<T>, object: &T) {
        let (address, bytes) = (pointer.address(), object.as_bytes());
        if self.may_deliver() && self.context.borrow_mut().deliver(address, bytes) {
            self.deliver(address, bytes.len(), Kind::Courtesy);
        } else {
            let _ = self.write_bytes(address, bytes);
        }
    }

    /// Whether results may be written when the guest goes on: nobody looks at its memory before.
    pub(crate) fn may_deliver(&self) -> bool {
        !self.calls_are_watched()
    }

    fn deliver(&self, address: u64, length: usize, kind: Kind) {
        *self.delivery.borrow_mut() = Some(Delivery { address, length, kind });
    }

    /// Notes that the platform delivers what the call has read.
    pub(crate) fn delivers_read(&self, address: u64, length: usize) {
        self.deliver(address, length, Kind::Read);
    }

    /// Notes that what was read, if it is being delivered, has moved the file's offset.
    pub(crate) fn delivers_at_offset(&self, file: &Arc<File>) {
        if let Some(delivery) = &mut *self.delivery.borrow_mut()
            && matches!(delivery.kind, Kind::Read)
        {
            // What is delivered must not keep a file open that the guest closes.
            delivery.kind = Kind::ReadAtOffset(Arc::downgrade(file));
        }
    }

    /// Has what is to be delivered written now, and corrects the result of the call if it cannot be.
    pub(super) fn settle_delivery(&self) {
        let outcome = self.context.borrow_mut().settle();
        outcome.into_iter().for_each(|done| self.delivery_failed(done));
        *self.delivery.borrow_mut() = None;
    }

    /// Has what the call has read so far written now; returns how many bytes of it cannot be.
    pub(crate) fn settle_read(&self) -> usize {
        let outcome = self.context.borrow_mut().settle();
        let delivery = self.delivery.take();
        outcome.zip(delivery).map_or(0, |(done, delivery)| delivery.length - self.write_rest(&delivery, done))
    }

    /// Writes the rest of what could not be delivered where the stack may grow to hold it; returns how much is written
    /// in all.
    fn write_rest(&self, &Delivery { address, length, .. }: &Delivery, mut done: usize) -> usize {
        while done < length && self.grow_stack(address.wrapping_add(done as u64)) {
            let more = self.context.borrow_mut().deliver_again(done);
            if more == 0 {
                break;
            }
            done += more;
        }
        done
    }

    /// Corrects the result of a call of whose delivery only so many bytes could be written.
    pub(super) fn delivery_failed(&self, done: usize) {
        let Some(delivery) = self.delivery.take() else { return };
        let done = self.write_rest(&delivery, done);
        let Delivery { length, kind, .. } = delivery;
        if done >= length || matches!(kind, Kind::Courtesy) {
            return;
        }
        let read = if matches!(kind, Kind::Result) { 0 } else { done };
        if let Kind::ReadAtOffset(file) = kind
            && let Some(file) = file.upgrade()
        {
            file.take_back((length - done) as u64);
        }
        let result = if read == 0 { Errno::EFAULT.to_ret() } else { read as u64 };
        self.context.borrow_mut().registers_mut().rax = result;
    }
}
