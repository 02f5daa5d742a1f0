//! Steps in the life of a container, with the times at which they are reached as debug messages; and at which a process can
//! be held, for tests that kill a process there.
//!
//! A process that comes to a [`Step`] whose name is in the environment variable [`VARIABLE`] calls the thread that is
//! there by [`Step::mark`] while it waits for [`HOLD`], so that a test can see it. Nothing else changes: what happens to it
//! then could happen at any time. Builds without debug assertions hold nobody.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The environment variable that names a step, as `Debug` does.
pub const VARIABLE: &str = "NACELLE_HOLD_AT";
/// How long a process waits at the step.
pub const HOLD: Duration = Duration::from_secs(2);

macro_rules! steps {
    ($($(#[$documentation:meta])* $name:ident,)*) => {
        /// Where a process is. All of them are tried by `runtime/tests/faults.rs`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step {
            $($(#[$documentation])* $name,)*
        }

        impl Step {
            /// All of them.
            pub const ALL: &[Step] = &[$(Step::$name),*];
        }
    };
}

steps! {
    /// `create` has the container's name and nothing else.
    CreateLocked,
    /// `create` has saved what it is about to make.
    CreateSaved,
    /// `create` has made the control group.
    CreateCgroup,
    /// `create` has started the gofer.
    CreateGofer,
    /// `create` has made the control socket, or found the sandbox.
    CreateSocket,
    /// `create` has forked the stand-in.
    CreateStandIn,
    /// `create` has put the stand-in into its control group.
    CreateJoined,
    /// `create` has heard that there is a sandbox process.
    CreateSandbox,
    /// `create` has saved which processes there are.
    CreateIdentified,
    /// `create` has the sandbox's word that the container is there.
    CreateAnswered,
    /// `create` has saved that.
    CreateDone,
    /// `create` has run the hooks and has yet to write the pid file.
    CreateHooked,
    /// `start` has the lock.
    StartLocked,
    /// `start` has the sandbox's word that the program runs.
    StartAnswered,
    /// `start` has saved that.
    StartSaved,
    /// `exec` is about to ask the sandbox.
    ExecReady,
    /// `exec` has the sandbox's word that the program runs.
    ExecAnswered,
    /// `exec --detach` has a stand-in and has yet to ask the sandbox.
    ExecStandIn,
    /// `delete` has the lock.
    DeleteLocked,
    /// `delete` has ended all processes.
    DeleteEnded,
    /// `delete` has removed the control group.
    DeleteCgroup,
    /// `delete` has removed all files.
    DeleteForgotten,
    /// The stand-in has been forked.
    StandInForked,
    /// The stand-in has made the sandbox and not told it yet.
    StandInSandbox,
    /// The stand-in has told it and is about to wait.
    StandInReady,
    /// The stand-in knows how the container has ended.
    StandInEnded,
    /// The gofer has been forked.
    GoferForked,
    /// The gofer has its mounts.
    GoferMounted,
    /// The gofer has told that it is ready.
    GoferReady,
    /// The sandbox has been forked.
    SandboxForked,
    /// The sandbox is in its empty root.
    SandboxRoot,
    /// The sandbox has its first stub process.
    SandboxZygote,
    /// The sandbox serves its control socket.
    SandboxServing,
    /// The sandbox has been asked for a container.
    SandboxCreate,
    /// The sandbox has made it and not answered yet.
    SandboxCreated,
    /// The sandbox has been asked to start the program.
    SandboxStart,
    /// The sandbox has started it and not answered yet.
    SandboxStarted,
    /// The sandbox has been asked to run a further program.
    SandboxExecute,
    /// The sandbox runs it and has not answered yet.
    SandboxExecuted,
    /// The sandbox knows that the first program has ended and has not told anybody.
    SandboxEnded,
}

impl Step {
    /// What the thread that is held there is called.
    pub fn mark(self) -> String {
        format!("held at {}", self as u8)
    }
}

/// When the program was started.
static BEGIN: OnceLock<Instant> = OnceLock::new();

/// Says that the program starts now. Processes that are forked from it go on with its clock.
pub fn begin() {
    BEGIN.get_or_init(Instant::now);
}

/// Tells of the step in the log, if that is wanted (`--debug`), and waits here if that is.
pub fn reach(step: Step) {
    // A gofer has no log, and soon may not even try.
    let logged = !matches!(step, Step::GoferForked | Step::GoferMounted | Step::GoferReady);
    if let Some(begin) = BEGIN.get().filter(|_| logged) {
        tracing::debug!("{:.3} ms: {step:?}", begin.elapsed().as_secs_f64() * 1e3);
    }
    hold(step);
}

#[cfg(debug_assertions)]
fn hold(step: Step) {
    if std::env::var(VARIABLE).is_ok_and(|name| name == format!("{step:?}")) {
        if let Ok(mark) = std::ffi::CString::new(step.mark()) {
            let _ = rustix::thread::set_name(&mark);
        }
        std::thread::sleep(HOLD);
        // Others may come to the step later, and are to be told from this one.
        let _ = rustix::thread::set_name(c"went on");
    }
}

/// In a release it never is.
#[cfg(not(debug_assertions))]
fn hold(_step: Step) {}
