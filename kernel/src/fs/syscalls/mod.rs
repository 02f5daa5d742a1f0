//! System calls on files, by family.

mod descriptors;
mod directories;
mod io;
mod open;
mod stat;
mod xattr;

pub use descriptors::*;
pub use directories::*;
pub use io::*;
pub use open::*;
pub use stat::*;
pub use xattr::*;
