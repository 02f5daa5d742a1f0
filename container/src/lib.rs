//! The life cycle of containers, as far as it is outside of the sandbox.
//!
//! - [`id`]: names of containers and sandboxes; [`state`]: what is known of them, on disk.
//! - [`status`]: the states of a container and what may be done in each.
//! - [`spec`]: the bundle's `config.json`, read, checked and turned into plain values.
//! - [`cgroup`]: control groups: limits, statistics, lack of memory.
//! - [`hooks`]: programs that engines have run at points of its life; [`console`]: its terminal.
//! - [`process`]: host processes, recognised although pids are used again.
//!
//! Nothing here runs guest code: that is the `sandbox` crate's work.

#![forbid(unsafe_code)]

pub mod cgroup;
pub mod console;
pub mod hooks;
pub mod id;
pub mod process;
pub mod spec;
pub mod state;
pub mod status;

pub use id::{FullId, Id};
pub use process::ProcessIdentity;
pub use state::{LoadOpts, StateFile, TryLock};
pub use status::{Action, Status};
