//! A slot as the kernel sees it: taking turns with the stub thread behind it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use host::memory::SharedMapping;
use host::rustix::thread::futex;
use host::rustix::time::Timespec;

use super::layout::*;
use super::spin::{Place, Told};

/// One slot, mapped in this process.
#[derive(Debug)]
pub struct Slot {
    memory: SharedMapping,
    /// Which slot of its address space this is.
    pub index: usize,
}

/// The process behind a slot is gone.
#[derive(Debug, Clone, Copy)]
pub struct Gone;

/// What the stub is to do before the command.
#[derive(Debug, Default)]
pub struct Before {
    /// Where to copy bytes of the buffer's beginning, and how many,
    pub delivery: (u64, u32),
    /// or how many calls that are recorded there to make.
    pub pending: u32,
}

/// What the kernel thread does while it waits.
pub struct Patience<'a> {
    /// Set when the process is known to be dead.
    pub dead: &'a AtomicBool,
    /// Called at each tick of [`TICK`] without a report; an error ends the wait.
    pub tick: &'a dyn Fn(u32) -> Result<(), Gone>,
}

/// How often a waiting kernel thread looks whether it still makes sense to wait.
pub const TICK: Duration = Duration::from_secs(1);

impl Slot {
    /// Wraps the mapping of slot `index`.
    pub fn new(memory: SharedMapping, index: usize) -> Slot {
        Slot { memory, index }
    }

    /// The slot's bytes.
    pub fn memory(&self) -> &SharedMapping {
        &self.memory
    }

    /// A 32-bit field.
    pub fn field(&self, offset: usize) -> &AtomicU32 {
        self.memory.word(offset)
    }

    /// Gives a 32-bit field a value. Where it has that already it is not written, so that what lies beside it does not have to
    /// come here from another processor, and go back.
    pub fn set(&self, offset: usize, value: u32) {
        let field = self.field(offset);
        if field.load(Ordering::Relaxed) != value {
            field.store(value, Ordering::Relaxed);
        }
    }

    /// [`Slot::set`] for a 64-bit field.
    pub fn set_long(&self, offset: usize, value: u64) {
        let field = self.memory.double_word(offset);
        if field.load(Ordering::Relaxed) != value {
            field.store(value, Ordering::Relaxed);
        }
    }

    /// The offset in the slot of an address that the stub has reported, if `length` bytes from there lie on its signal
    /// stack or in the kernel's built frame.
    pub fn offset_of(&self, address: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(slot_address(self.index))?).ok()?;
        let inside = offset >= BUILT_UCONTEXT && offset.checked_add(length)? <= SIGNAL_STACK_END;
        (inside && offset.is_multiple_of(8)).then_some(offset)
    }

    /// Gives the turn to the stub, with the command and its arguments already in place. When it is done, the stub may
    /// spin for `spin` ticks for the next command before it sleeps.
    pub fn post(&self, command: u32, spin: u32) {
        self.post_waking(command, &Before::default(), spin, |wake| wake());
    }

    /// [`Slot::post`] with what is to be done `before`; if the stub sleeps, `waking` is to call what it is given, which wakes it.
    pub fn post_waking(&self, command: u32, before: &Before, spin: u32, waking: impl FnOnce(&dyn Fn())) {
        self.set(COMMAND, command);
        self.set_long(DELIVERY, u64::from(before.pending) << 32 | u64::from(before.delivery.1));
        if before.delivery.1 > 0 {
            self.set_long(DELIVERY_ADDRESS, before.delivery.0);
        }
        self.set(SPIN, spin);
        self.set(KERNEL_CPU, host::process::current_cpu());
        let word = self.field(WORD);
        word.store(TURN_COMMAND, Ordering::SeqCst);
        if self.field(STUB_WAITS).load(Ordering::SeqCst) != 0 {
            waking(&|| {
                let _ = futex::wake(word, futex::Flags::empty(), 1);
            });
        }
    }

    /// Notes that the stub will run on this processor.
    pub fn comes_here(&self) {
        self.field(STUB_CPU).store(host::process::current_cpu(), Ordering::Relaxed);
    }

    /// Whether the stub was last seen on this processor, where it cannot run while this thread does.
    pub fn is_here(&self) -> bool {
        self.field(STUB_CPU).load(Ordering::Relaxed) == host::process::current_cpu()
    }

    /// Whether the stub has gone to sleep until its next turn.
    pub fn stub_sleeps(&self) -> bool {
        self.field(STUB_WAITS).load(Ordering::Relaxed) != 0
    }

    /// When the stub was woken last, and when it has reported to a kernel thread that slept, as it says.
    pub fn told_times(&self) -> Told {
        Told { woken: self.memory.load(WOKEN), reported: self.memory.load(REPORTED) }
    }

    /// Spins until the stub has given the turn back or so many ticks are over; whether it has.
    pub fn spin(&self, ticks: u64) -> bool {
        let (start, word) = (host::process::time_stamp(), self.field(WORD));
        loop {
            for _ in 0..LOOKS {
                if word.load(Ordering::Acquire) == TURN_REQUEST {
                    return true;
                }
                std::hint::spin_loop();
            }
            if host::process::time_stamp().wrapping_sub(start) >= ticks {
                return false;
            }
        }
    }

    /// Moves this thread to another processor; whether it could.
    pub fn go(&self, place: Place) -> bool {
        let gone = match place {
            Place::Elsewhere => host::process::leave_processor(),
            Place::WithStub => host::process::go_to_processor(self.field(STUB_CPU).load(Ordering::Relaxed)),
        };
        self.field(KERNEL_CPU).store(host::process::current_cpu(), Ordering::Relaxed);
        gone
    }

    /// Waits until the stub has given the turn back.
    pub fn wait(&self, patience: &Patience<'_>) -> Result<(), Gone> {
        let word = self.field(WORD);
        let mut ticks = 0;
        loop {
            let turn = word.load(Ordering::Acquire);
            if turn == TURN_REQUEST {
                return Ok(());
            }
            if turn == TURN_DEAD || patience.dead.load(Ordering::SeqCst) {
                return Err(Gone);
            }
            let waits = self.field(KERNEL_WAITS);
            waits.store(1, Ordering::SeqCst);
            let started = Instant::now();
            if word.load(Ordering::SeqCst) == turn {
                let _ = futex::wait(word, futex::Flags::empty(), turn, Some(&timespec(TICK)));
            }
            waits.store(0, Ordering::Relaxed);
            if started.elapsed() >= TICK {
                ticks += 1;
                (patience.tick)(ticks)?;
            }
        }
    }

    /// Wakes the kernel thread that waits for this slot, for good.
    pub fn declare_dead(&self) {
        self.field(WORD).store(TURN_DEAD, Ordering::SeqCst);
        let _ = futex::wake(self.field(WORD), futex::Flags::empty(), u32::MAX >> 1);
    }

    /// What a finished command returned: a value, or a negative error number.
    pub fn result(&self) -> i64 {
        self.memory.load(RESULT).cast_signed()
    }
}

/// A duration as the host takes it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
