//! Inter-process communication: futexes, pipes, event files, System V and POSIX message queues.

pub mod futex;
pub mod pipe;
pub mod syscalls;
