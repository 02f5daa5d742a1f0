//! System calls on files, by family.

mod descriptors;
mod directories;
mod events;
mod io;
mod mounts;
mod new_mounts;
mod open;
mod stat;
mod xattr;

pub use crate::fs::locks::flock;
pub use descriptors::*;
pub use directories::*;
pub use events::*;
pub use io::*;
pub use mounts::*;
pub use new_mounts::*;
pub use open::*;
pub use stat::*;
pub use xattr::*;
