//! Clocks, sleeps and timers.

pub mod cpu;
pub mod interval;
pub mod syscalls;
pub mod timerfd;
pub mod timers;
