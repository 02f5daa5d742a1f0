//! Further programs of a container: `exec`.
//!
//! Whoever asks for one either stays and stands for it, or leaves that to a stand-in.

use std::os::fd::AsFd;
use std::path::PathBuf;

use host::signals::{Signals, forwardable};
use host::step::{Step, reach};
use sandbox::control::{ClientError, Request, Response};
use sandbox::link::{self, Keys};

use super::Container;
use super::create::write_pid_file;
use super::streams::{own_terminal, streams, terminal_of};
use crate::convert::{self, Files, Parcel};
use crate::error::{Error, Result};
use crate::spec::ProcessConfig;
use crate::stand_in::{self, Job};
use crate::status::Action;

/// A program to run in a container.
#[derive(Debug)]
pub struct Execution {
    /// What.
    pub process: ProcessConfig,
    /// Whether the caller waits for it or leaves it to a stand-in.
    pub detach: bool,
    /// A socket that gets the master of its terminal.
    pub console_socket: Option<PathBuf>,
    /// A file that gets the pid of its stand-in, or of the caller.
    pub pid_file: Option<PathBuf>,
    /// A file that gets its pid in the container.
    pub internal_pid_file: Option<PathBuf>,
    /// Files of the host for it.
    pub files: Files,
}

impl Container {
    /// Runs a further program. Returns its exit status as `wait(2)` gives it, or none if it is left to a stand-in.
    ///
    /// # Errors
    /// If the container does not run, or the program cannot be run.
    pub fn execute(&self, execution: &Execution) -> Result<Option<u32>> {
        Action::Execute.check(&self.id, self.status)?;
        let mut parcel = Parcel::default();
        let wanted = &execution.process;
        if wanted.terminal && execution.detach && execution.console_socket.is_none() {
            return Err(Error::Arguments("a terminal needs a console socket when detached"));
        }
        // Before the terminal is changed: none of them is to end this process then.
        let signals = (!execution.detach).then(|| Signals::receive(&forwardable())).transpose();
        let signals = signals.map_err(Error::host("receive signals"))?;
        let mut streams = streams(wanted, execution.console_socket.as_deref(), &mut parcel)?;
        let raw = own_terminal(&mut streams, execution.console_socket.as_deref(), &parcel)?;
        let terminal = terminal_of(&streams, &parcel)?;
        let mut process = Box::new(convert::process(wanted, streams));
        parcel.give(&execution.files, &mut process).map_err(Error::host("pass on files"))?;
        let (outer, inner) = link::pair().map_err(Error::host("make a socket"))?;
        let link = Some(parcel.add(inner));
        let request = Request::Execute { container: self.name(), process, link };
        let borrowed: Vec<_> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
        if let Some(signals) = signals {
            reach(Step::ExecReady);
            let pid = executed(self.call(request, &borrowed)?)?;
            reach(Step::ExecAnswered);
            drop(borrowed);
            drop(parcel);
            write_pid_files(execution, std::process::id().cast_signed(), pid)?;
            let ending = link::stand_in(&outer, &signals, Keys::ToProgram)
                .map_err(Error::host("wait for the program"))?;
            drop(raw);
            return Ok(Some(ending.status()));
        }
        let job = Job { link: outer, exit_file: None, attached: false, sandbox: None, terminal, view: None };
        let mut stand_in = stand_in::spawn(job)?;
        let outer_pid = stand_in.pid;
        reach(Step::ExecStandIn);
        let run = stand_in
            .go()
            .and_then(|_| executed(self.call(request, &borrowed)?))
            .and_then(|pid| write_pid_files(execution, outer_pid, pid));
        run.inspect_err(|_| stand_in::end_child(outer_pid))?;
        Ok(None)
    }
}

fn executed(response: Response) -> Result<i32> {
    match response {
        Response::Executed { pid } => Ok(pid),
        _ => Err(ClientError::Confused.into()),
    }
}

fn write_pid_files(execution: &Execution, outer: i32, inner: i32) -> Result<()> {
    if let Some(path) = &execution.internal_pid_file {
        write_pid_file(path, inner)?;
    }
    execution.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, outer))
}
