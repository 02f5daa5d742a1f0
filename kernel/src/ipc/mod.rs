//! Inter-process communication: futexes, pipes, event files, System V and POSIX message queues.

pub mod aio;
pub mod eventfd;
pub mod futex;
mod futex2;
pub mod mqueue;
pub mod pipe;
pub mod signalfd;
pub mod syscalls;
pub mod sysv;

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit that root may change through `/proc/sys`.
pub struct Setting(AtomicU64);

impl Setting {
    /// A limit that is this at first.
    pub const fn new(value: u64) -> Setting {
        Setting(AtomicU64::new(value))
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
