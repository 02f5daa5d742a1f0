//! The sandbox process: an application kernel in namespaces of its own, without privileges.
//!
//! [`run`] forks it: the parent stays outside, forwards signals and passes on the exit status; the child enters an
//! empty root, starts the platform, gives up every privilege, and boots a kernel from the [`Spec`]. Whatever the
//! sandbox may touch of the host it was given before as open descriptors.

#![forbid(unsafe_code)]

mod boot;
mod process;
mod seccomp;
mod spec;
mod terminal;

pub use platform::stub::Patching;
pub use process::run;
pub use spec::{Mount, MountKind, Spec, Streams};
