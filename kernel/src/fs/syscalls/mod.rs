//! System calls on files, by family.

mod descriptors;
mod directories;
mod events;
mod io;
mod open;
mod stat;
mod xattr;

pub use crate::fs::locks::flock;
pub use descriptors::*;
pub use directories::*;
pub use events::*;
pub use io::*;
pub use open::*;
pub use stat::*;
pub use xattr::*;
