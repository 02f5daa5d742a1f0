//! Sockets of the `AF_UNIX` family, `unix(7)`.
//!
//! [`socket`] has what every socket has: options, time limits, its place among open files. [`unix`] has the endpoints
//! and how they talk. [`message`] reads and writes what `sendmsg(2)` and `recvmsg(2)` carry beside data.

pub mod address;
pub mod host;
pub mod message;
pub mod options;
pub mod socket;
pub mod syscalls;
pub mod unix;

use std::collections::HashMap;
use std::sync::Weak;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use parking_lot::Mutex;

use socket::Kind;
use unix::Endpoint;

/// Who is bound to which name; each kind of socket has its own names.
type Names = HashMap<(Kind, Vec<u8>), Weak<Endpoint>>;

/// What all sockets of a kernel share.
#[derive(Default)]
pub struct Sockets {
    /// The abstract space.
    names: Mutex<Names>,
    /// Where the search for a free name begins when the kernel chooses one.
    next_name: AtomicU32,
    /// How many files are on their way from one socket to another.
    files_in_flight: AtomicUsize,
}
