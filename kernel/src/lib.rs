//! The application kernel: Linux system calls for guest programs, served in user space.
//!
//! A [`Kernel`] has tasks, each served by a kernel thread of its own that drives a [`platform::Context`]
//! ([`task`]); a call is one row in [`syscalls`]. Subsystems: [`mm`] (memory maps), [`signal`], [`fs`] (files), [`ipc`]
//! (futexes, pipes, event files, System V), [`net`] (sockets), [`tty`] (terminals), [`time`] (clocks and timers),
//! [`seccomp`] (limits of system calls). Tasks run in containers ([`container`]) and see namespaces ([`namespace`]).
//!
//! Lock order, outermost first; a lock is never held across [`task::CurrentTask::block_on`]:
//!
//! 1. `TaskTable` (process tree, groups, sessions)
//! 2. a memory map's lock (held across the platform's memory operations and `fork`)
//! 3. file offset, then what `fs` lists
//! 4. a thread group's signal lock
//! 5. a task's signal lock
//! 6. wait queues, waiters

#![forbid(unsafe_code)]

pub mod container;
pub mod error;
pub mod fs;
pub mod ipc;
mod kernel;
pub mod mm;
pub mod namespace;
pub mod net;
pub mod ptrace;
pub mod seccomp;
pub mod signal;
pub mod syscalls;
pub mod task;
pub mod time;
pub mod tty;
pub mod user;
pub mod wait;

pub use kernel::{Config, HostInfo, Kernel};
