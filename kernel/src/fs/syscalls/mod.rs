//! System calls on files, by family.

mod descriptors;
mod directories;
mod events;
mod inotify;
mod io;
mod mounts;
mod new_mounts;
mod open;
mod splice;
mod stat;
mod xattr;

pub use crate::fs::locks::flock;
pub use descriptors::*;
pub use directories::*;
pub use events::*;
pub use inotify::*;
pub use io::*;
pub use mounts::*;
pub use new_mounts::*;
pub use open::*;
pub use splice::*;
pub use stat::*;
pub use xattr::*;
