//! What is asked of the host once in a system call is not asked again in it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many system calls of a thread are numbered before it needs another range of numbers.
const RANGE: u64 = 1 << 32;
static NEXT: AtomicU64 = AtomicU64::new(RANGE);

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static CALL: Cell<u64> = const { Cell::new(0) };
}

/// While it exists, what this thread asks of the host stays true for it. Nothing is waited for meanwhile.
pub struct Moment(());

/// Begins such a moment, or goes on with the one that there is.
#[must_use]
pub fn begin() -> Moment {
    if DEPTH.replace(DEPTH.get() + 1) == 0 {
        let next = CALL.get() + 1;
        CALL.set(if next % RANGE == 1 { NEXT.fetch_add(RANGE, Ordering::Relaxed) + 2 } else { next });
    }
    Moment(())
}

impl Drop for Moment {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// The number of the moment, if there is one.
pub(in crate::fs) fn call() -> Option<u64> {
    (DEPTH.get() > 0).then(|| CALL.get())
}
