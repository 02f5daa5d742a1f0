//! The one door to the host kernel.
//!
//! Host system calls that are safe as they stand go through the re-exported [`rustix`]; what rustix lacks or marks
//! unsafe gets a safe function here. This crate and `platform` are the only ones with unsafe code.

#![allow(unsafe_code, reason = "with `platform`, the only crate that may")]

pub mod enter;
pub mod file;
pub mod memory;
pub mod mount;
pub mod name;
pub mod namespace;
pub mod process;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod step;
pub mod stepping;

pub use rustix;
