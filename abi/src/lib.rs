//! The Linux interface as data: constants, structures as they lie in memory, flags, and error numbers.
//!
//! Nothing here makes a system call or knows about a kernel object. One module per header family of Linux; structures
//! derive zerocopy's traits, so that they are copied to and from a guest as bytes without unsafe code.

#![forbid(unsafe_code)]

pub mod bytes;
mod errno;
pub mod fs;
pub mod seccomp;
pub mod signal;
pub mod time;

pub use errno::{Errno, SysResult};
