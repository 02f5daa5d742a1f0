//! The control protocol: how a sandbox is told what to do.
//!
//! A sandbox serves one Unix socket. A client sends a [`Request`], with descriptors if it has any, and gets a
//! [`Response`] or a [`Failure`]; then it may send the next. [`transport`] moves single messages, [`message`] says
//! what they are, [`Client`] is the caller's side, and `server` the sandbox's: a thread per connection, of which there
//! are only so many, and a deadline for every step, so that a client can hold up nobody but itself.

pub(crate) mod client;
pub mod message;
pub(crate) mod server;
pub mod transport;

pub use client::{Client, ClientError, listen_at};
pub use message::{ErrorCode, Failure, Request, Response};
