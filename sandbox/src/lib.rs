//! The sandbox process: an application kernel in namespaces of its own, without privileges.
//!
//! [`spawn`] forks it from a process that knows the host. From then on it is told what to do through the [control
//! protocol](control): containers, given as [`spec::ContainerSpec`], are made, started, signalled and destroyed by the
//! `supervisor`, which builds each one's `tree` of files and runs each `program`. Whatever the sandbox may touch of
//! the host comes to it as open descriptors. [`link`]s tie its processes to host processes that stand for them, and
//! [`terminal`] is the caller's side of a terminal.

#![forbid(unsafe_code)]

pub mod attached;
pub mod control;
mod descriptors;
pub mod link;
pub mod oom_score;
mod process;
mod program;
mod restrict;
mod seccomp;
pub mod spec;
mod supervisor;
pub mod terminal;
mod tree;

pub use platform::stub::{Patching, Tuning, Waiting};
pub use process::{Boot, spawn};
