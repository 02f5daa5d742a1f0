//! What goes wrong with containers.

use std::path::PathBuf;

use sandbox::control::ClientError;

use crate::id::IdError;
use crate::state;
use crate::status::StatusError;

/// Why something could not be done with a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its name is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// What is known of it on disk.
    #[error(transparent)]
    State(#[from] state::Error),
    /// It is not in the right state.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Its sandbox refused, or could not be asked.
    #[error(transparent)]
    Sandbox(#[from] ClientError),
    /// Its specification is wrong.
    #[error(transparent)]
    Spec(#[from] crate::spec::Error),
    /// It cannot get a terminal.
    #[error(transparent)]
    Console(#[from] crate::console::Error),
    /// Its control group.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::Error),
    /// Programs of the engine's.
    #[error(transparent)]
    Hook(#[from] crate::hooks::Error),
    /// What was asked for does not go together.
    #[error("{0}")]
    Arguments(&'static str),
    /// Its sandbox has ended, and with it all of the container.
    #[error("sandbox of container \"{0}\" is not running: container not running")]
    NoSandbox(String),
    /// The host refuses.
    #[error("cannot {action}: {source}")]
    Host {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The processes of a container could not be started.
    #[error("{0}")]
    Spawn(String),
}

impl Error {
    /// For `map_err`: the host refused `action`.
    pub fn host<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Error {
        let action = action.into();
        move |source| Error::Host { action, source: source.into() }
    }

    /// Whether there is no such container.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::State(state::Error::NotFound(_)))
    }
}

/// The result of what is done with containers.
pub type Result<T> = std::result::Result<T, Error>;
