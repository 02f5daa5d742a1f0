//! The states of a container, how one follows another, and what may be done in each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Id;

/// The state of a container. `paused` is not part of the OCI specification, but what engines know from `runc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; its program waits to be started.
    Created,
    /// The program runs.
    Running,
    /// The program is held.
    Paused,
    /// The program has ended, or never will begin.
    Stopped,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Creating, Self::Created, Self::Running, Self::Paused, Self::Stopped];

    /// The name that `state` and `list` show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// Whether `next` may follow. Any state may end in `stopped`, also `stopped` itself; nothing becomes `creating`.
    pub fn may_become(self, next: Self) -> bool {
        use Status::{Created, Creating, Paused, Running, Stopped};
        matches!(
            (self, next),
            (_, Stopped)
                | (Creating, Created)
                | (Created | Paused, Running)
                | (Running | Created, Paused)
                | (Paused, Created)
        )
    }

    /// Goes over to `next`.
    ///
    /// # Errors
    /// If it cannot follow.
    pub fn change(&mut self, next: Self, id: &Id) -> Result<(), StatusError> {
        if !self.may_become(next) {
            return Err(StatusError::Transition { id: id.clone(), from: *self, to: next });
        }
        *self = next;
        Ok(())
    }

    /// Whether there is a program that runs, is held, or waits to be started.
    pub fn is_alive(self) -> bool {
        self != Self::Stopped
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What is done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Start its program.
    Start,
    /// Run another program in it.
    Execute,
    /// Read its statistics.
    Event,
    /// See what memory its sandbox takes.
    Usage,
    /// Forward a port to it.
    PortForward,
    /// Read one of its files.
    Read,
    /// Mount something in it.
    Mount,
    /// Write its root directory's layer to an archive.
    Archive,
    /// Signal its first process or all.
    Signal,
    /// Signal one of its processes.
    SignalProcess,
    /// Signal a group of its processes.
    SignalProcessGroup,
    /// Save it.
    Checkpoint,
    /// Start it from what was saved.
    Restore,
    /// List its processes.
    Processes,
    /// Change its limits.
    Update,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// Delete it without force.
    Delete,
}

impl Action {
    /// How errors call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Execute => "execute in",
            Self::Event => "get events for",
            Self::Usage => "get memory usage of",
            Self::Read => "read a file of",
            Self::Mount => "mount an image in",
            Self::Archive => "archive the root directory of",
            Self::PortForward => "port forward",
            Self::Signal => "signal",
            Self::SignalProcess => "signal a process inside",
            Self::SignalProcessGroup => "signal a process group inside",
            Self::Checkpoint => "checkpoint",
            Self::Restore => "restore",
            Self::Processes => "get processes of",
            Self::Update => "set resources for",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Delete => "delete",
        }
    }

    /// Whether it is possible in a state. As `runc` has it where engines depend on it: a created container can be
    /// signalled, and so can a held one.
    pub fn is_legal(self, status: Status) -> bool {
        use Status::{Created, Paused, Running, Stopped};
        match self {
            Self::Start | Self::Restore => status == Created,
            Self::Execute | Self::PortForward => status == Running,
            Self::Signal
            | Self::Event
            | Self::Usage
            | Self::Read
            | Self::Archive
            | Self::Mount
            | Self::Checkpoint
            | Self::Update => matches!(status, Created | Running | Paused),
            Self::SignalProcess | Self::SignalProcessGroup | Self::Processes => {
                matches!(status, Running | Paused)
            }
            Self::Pause => matches!(status, Created | Running),
            Self::Resume => status == Paused,
            Self::Delete => matches!(status, Created | Stopped),
        }
    }

    /// Checks that it is possible for container `id`.
    ///
    /// # Errors
    /// If it is not, with the texts that engines look for.
    pub fn check(self, id: &Id, status: Status) -> Result<(), StatusError> {
        let id = id.clone();
        match (self, status) {
            _ if self.is_legal(status) => Ok(()),
            (Self::Delete, _) => Err(StatusError::NotStopped { id, status }),
            (Self::Resume, Status::Created | Status::Running) => {
                Err(StatusError::NotPaused { action: self, id, status })
            }
            (_, Status::Stopped) => Err(StatusError::NotRunning { action: self, id, status }),
            _ => Err(StatusError::Illegal { action: self, id, status }),
        }
    }
}

/// Why something cannot be done to a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// It is not in the right state.
    #[error("cannot {} container \"{id}\" in state {status}", action.name())]
    Illegal {
        /// What was wanted.
        action: Action,
        /// The container.
        id: Id,
        /// Its state.
        status: Status,
    },
    /// It has ended. Engines look for `container not running`.
    #[error("cannot {} container \"{id}\" in state {status}: container not running", action.name())]
    NotRunning {
        /// What was wanted.
        action: Action,
        /// The container.
        id: Id,
        /// Its state.
        status: Status,
    },
    /// It is not held.
    #[error("cannot {} container \"{id}\" in state {status}: container not paused", action.name())]
    NotPaused {
        /// What was wanted.
        action: Action,
        /// The container.
        id: Id,
        /// Its state.
        status: Status,
    },
    /// It must end before it can be deleted.
    #[error("cannot delete container \"{id}\" that is not stopped: {status}")]
    NotStopped {
        /// The container.
        id: Id,
        /// Its state.
        status: Status,
    },
    /// One state cannot follow the other.
    #[error("container \"{id}\" cannot go from {from} to {to}")]
    Transition {
        /// The container.
        id: Id,
        /// Its state.
        from: Status,
        /// The state that was wanted.
        to: Status,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> Id {
        Id::new("c1").unwrap()
    }

    #[test]
    fn names_are_those_of_the_specification() {
        let names: Vec<_> = Status::ALL.iter().map(|status| serde_json::to_string(status).unwrap()).collect();
        assert_eq!(names, ["\"creating\"", "\"created\"", "\"running\"", "\"paused\"", "\"stopped\""]);
        assert!(
            Status::ALL
                .iter()
                .all(|status| format!("\"{status}\"") == serde_json::to_string(status).unwrap())
        );
    }

    #[test]
    fn a_container_goes_through_its_life() {
        let mut status = Status::Creating;
        for next in [Status::Created, Status::Running, Status::Paused, Status::Running, Status::Stopped] {
            status.change(next, &id()).unwrap();
        }
        status.change(Status::Stopped, &id()).unwrap();
        for next in [Status::Creating, Status::Created, Status::Running, Status::Paused] {
            let error = status.change(next, &id()).unwrap_err();
            assert_eq!(error.to_string(), format!("container \"c1\" cannot go from stopped to {next}"));
        }
        assert_eq!(status, Status::Stopped);
    }

    #[test]
    fn nothing_is_running_before_it_was_created() {
        assert!(!Status::Creating.may_become(Status::Running));
        assert!(!Status::Creating.may_become(Status::Paused));
        assert!(!Status::Running.may_become(Status::Created));
        assert!(Status::ALL.iter().all(|status| !status.may_become(Status::Creating)));
    }

    #[test]
    fn texts_are_those_that_engines_look_for() {
        let text = |action: Action, status| action.check(&id(), status).unwrap_err().to_string();
        assert_eq!(text(Action::Start, Status::Running), "cannot start container \"c1\" in state running");
        assert!(text(Action::Signal, Status::Stopped).ends_with("container not running"));
        assert!(text(Action::Pause, Status::Stopped).ends_with("container not running"));
        assert_eq!(
            text(Action::Delete, Status::Running),
            "cannot delete container \"c1\" that is not stopped: running"
        );
        assert_eq!(
            text(Action::Execute, Status::Paused),
            "cannot execute in container \"c1\" in state paused"
        );
        assert!(text(Action::Resume, Status::Running).ends_with("container not paused"));
    }

    #[test]
    fn what_is_signalled_is_created_running_or_held() {
        let legal: Vec<_> =
            Status::ALL.into_iter().filter(|status| Action::Signal.is_legal(*status)).collect();
        assert_eq!(legal, [Status::Created, Status::Running, Status::Paused]);
    }
}
