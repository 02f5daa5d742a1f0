//! Clocks, sleeps and timers.

pub mod syscalls;
