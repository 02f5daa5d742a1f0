//! The life cycle of containers, as far as it is outside of the sandbox.
//!
//! - [`id`]: names of containers and sandboxes; [`state`]: what is known of them, on disk.
//! - [`status`]: the states of a container and what may be done in each.
//! - [`spec`]: the bundle's `config.json`, read, checked and turned into plain values.
//! - [`cgroup`]: control groups: limits, statistics, lack of memory.
//! - [`hooks`]: programs that engines have run at points of its life; [`console`]: its terminal.
//! - [`Container`]: one of them, made, started, asked and destroyed; `convert` turns what its specification asks for into
//!   what its sandbox is told; `stand_in` is the host process that engines take for it.
//! - [`process`]: host processes, recognised although pids are used again.
//!
//! Nothing here runs guest code: that is the `sandbox` crate's work.

#![forbid(unsafe_code)]

pub mod cgroup;
mod clock;
pub mod console;
mod container;
mod convert;
mod error;
pub mod events;
pub mod hooks;
pub mod id;
pub mod oom_score;
pub mod process;
pub mod spec;
mod stand_in;
pub mod state;
pub mod status;
mod view;

pub use clock::rfc3339;
pub use container::{
    Args, Cgroups, Config, Container, Execution, Memory, OciState, Sandbox, USUAL_ROOT, run,
};
pub use convert::Files;
pub use error::{Error, Result};
pub use id::{FullId, Id};
pub use process::ProcessIdentity;
pub use state::{LoadOpts, StateFile, TryLock};
pub use status::{Action, Status};
