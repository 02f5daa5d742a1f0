//! The gofer: what opens a container's files for a sandbox that may not open them itself.
//!
//! A sandbox process has no privileges. The gofer, a process of its own per container, has those that file owners need
//! (and no others), sees nothing of the host but the container's mounts, and treats the sandbox as hostile.
//!
//! - [`Directory`] is what the sandbox uses: a directory of the host, wherever its operations are carried out. In
//!   *direct* mode the sandbox holds its descriptor, does what it may do itself, and asks the gofer for the rest. In
//!   *strict* mode it holds none: the gofer does everything and hands over nothing but descriptors of regular files.
//! - [`Client`] is the connection behind it, [`Session`] the other end, `protocol` what they say to each other.
//! - [`Sockets`] says whether guests may connect to sockets of the host that lie in their mounts.
//! - `local` carries operations out, in whichever process.
//! - [`spawn`] starts a gofer process, in a tree of just its [`mounts`].
//!
//! No name that a client gives can lead outside of a mount: names are single components, checked as they are decoded,
//! and resolved below a descriptor without following links.

#![forbid(unsafe_code)]

mod client;
mod connect;
mod directory;
mod filter;
mod listing;
mod local;
mod mount_table;
pub mod mounts;
mod process;
mod protocol;
mod server;
mod socket;
#[cfg(test)]
mod tests;
mod types;
mod wire;

pub use client::Client;
pub use connect::Sockets;
pub use directory::Directory;
pub use listing::{Listed, Listing};
pub use local::{Crossing, Ownership, create_nameless};
pub use process::{Gofer, Service, spawn};
pub use server::{Mode, ServedMount, Session, Writing};
pub use types::{
    Access, Attributes, Changes, Entry, Guest, Name, NewNode, Peer, Removal, Replacing, SocketKind,
    Statistics, Target, XattrReplacing,
};
