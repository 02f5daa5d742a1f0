//! What the report of a stub means: a system call, a fault, an interrupt, or something that is over and done with.

use std::sync::atomic::Ordering;

use abi::Errno;
use abi::signal::{SI_KERNEL, Signal};

use super::{Sent, Stop, StubContext, Trap};
use crate::stub::filter::ARCHITECTURE;
use crate::stub::frame;
use crate::stub::layout::*;
use crate::stub::slot::Gone;
use crate::{Event, Fault, Pointed, Registers};

impl StubContext {
    /// Makes sense of what the stub has reported; `None` for something to ignore, an error for nonsense.
    pub(super) fn event(&mut self) -> Result<Option<Event>, Gone> {
        let thread = self.thread.clone();
        let slot = &*thread.slot;
        match slot.field(KIND).load(Ordering::Relaxed) {
            KIND_SIGNAL => {}
            KIND_CALL => {
                self.stop.set(Stop::Call);
                self.patched += 1;
                frame::load_call(slot, &mut self.called);
                self.registers = self.called;
                self.sent.set(self.what_was_sent());
                return Ok(Some(self.called_kernel()));
            }
            KIND_ANSWERED => {
                self.stop.set(Stop::Call);
                frame::load_call(slot, &mut self.called);
                self.registers = self.called;
                return Ok(self.interrupt.take().then_some(Event::Interrupted));
            }
            KIND_DONE if self.pending.take() > 0 => {
                tracing::warn!(
                    pid = self.space.pid,
                    result = slot.result(),
                    "the host cannot change a mapping"
                );
                return Err(Gone);
            }
            KIND_DONE if let Some(delivery) = self.delivery.take() => {
                let done = usize::try_from(slot.result()).unwrap_or(0).min(delivery.length);
                *self.failed.borrow_mut() = Some((delivery.address, self.delivery_bytes(delivery)));
                return Ok(Some(Event::Undelivered(done)));
            }
            KIND_INTERRUPTED => {
                return Ok(self.interrupt.take().then_some(Event::Interrupted));
            }
            _ => return Err(Gone),
        }
        let signal = slot.field(SIGNAL).load(Ordering::Relaxed).cast_signed();
        let context = slot.memory().load(UCONTEXT);
        let frame = slot.offset_of(context, frame::UCONTEXT_SIZE).ok_or(Gone)?;
        self.stop.set(Stop::Frame(frame));
        let trap = frame::load(slot, frame, &mut self.registers);
        let info = slot.offset_of(slot.memory().load(SIGINFO), 32).ok_or(Gone)?;
        match signal {
            INTERRUPT_SIGNAL => Ok(self.interrupt.take().then_some(Event::Interrupted)),
            libc::SIGSYS => {
                let architecture = (slot.memory().load(info + 24) >> 32) as u32;
                if architecture == ARCHITECTURE {
                    self.trapped += 1;
                    let after = self.registers.rip;
                    let number = self.registers.rax;
                    let patching = self.space.shared.patching;
                    self.trap = patching.then(|| Trap {
                        after,
                        number,
                        heat: self.space.sites.lock().trapped(after),
                    });
                    return Ok(Some(self.called_kernel()));
                }
                // `int 0x80`, which this kernel does not know: the processor's answer without such a gate.
                self.registers.rip = self.registers.rip.wrapping_sub(2);
                Ok(Some(Event::Fault(Fault {
                    signal: Signal::SIGSEGV,
                    code: SI_KERNEL,
                    address: 0,
                    trap: 13,
                    error: 0x80 * 8 + 2,
                })))
            }
            libc::SIGILL if self.skip_patch() => Ok(None),
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP => {
                Ok(Some(Event::Fault(Fault {
                    signal: Signal::new(signal).ok_or(Gone)?,
                    code: slot.memory().word(info + 8).load(Ordering::Relaxed).cast_signed(),
                    address: slot.memory().load(info + 16),
                    trap: trap.number,
                    error: trap.error,
                })))
            }
            _ => Err(Gone),
        }
    }

    /// What [`POINTERS`] say of the call `number`.
    pub(super) fn entry_of(&self, number: u64) -> Option<u8> {
        let number = usize::try_from(number).ok().filter(|number| *number < POINTER_COUNT)?;
        let word = self.slot().memory().load(POINTERS + (number & !7));
        Some((word >> (8 * (number & 7))) as u8)
    }

    /// What the stub says that it has sent along with a patched call.
    pub(super) fn what_was_sent(&self) -> Option<Sent> {
        let slot = self.slot();
        let length = slot.field(SENT).load(Ordering::Relaxed) as usize;
        if length == 0 {
            return None;
        }
        let entry = self.entry_of(self.called.rax)?;
        let all = entry & SENT_ALL != 0;
        let Registers { rdi, rsi, rdx, .. } = self.called;
        let address = match usize::from(entry & !SENT_ALL) * 8 {
            FAST_RDI => rdi,
            FAST_RSI => rsi,
            ROBUST_LIST => slot.memory().load(ROBUST_LIST),
            _ => return None,
        };
        let (what, right) = if all {
            (Pointed::Buffer, length as u64 == rdx && length <= SENT_ALL_MAX)
        } else {
            (Pointed::Beginning, length == SENT_SIZE)
        };
        let end = address.checked_add(length as u64)?;
        let sent = Sent { address, length, what };
        (right && GUEST.start <= address && end <= GUEST.end).then_some(sent)
    }

    /// The registers of a thread that has made a system call.
    pub(super) fn called_kernel(&mut self) -> Event {
        self.registers.orig_rax = self.registers.rax;
        self.registers.rax = Errno::ENOSYS.to_ret();
        Event::Syscall
    }
}
