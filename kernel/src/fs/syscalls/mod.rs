//! System calls on files, by family.

mod descriptors;
mod directories;
mod io;
mod open;
mod stat;

pub use descriptors::*;
pub use directories::*;
pub use io::*;
pub use open::*;
pub use stat::*;
