//! Inter-process communication: futexes, pipes, event files, System V and POSIX message queues.

pub mod eventfd;
pub mod futex;
pub mod pipe;
pub mod signalfd;
pub mod syscalls;
