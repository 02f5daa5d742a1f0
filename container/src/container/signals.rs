//! What the processes of a container are sent, and how they end.

use sandbox::control::message::{SignalTarget, WaitTarget};
use sandbox::control::{ClientError, Request, Response};
use sandbox::link::Ending;

use super::{Container, EXIT};
use crate::error::{Error, Result};
use crate::status::{Action, Status};

impl Container {
    /// Sends a signal to its first process, or to all. After SIGKILL to all, none is left when this returns.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal_container(&self, signal: i32, all: bool) -> Result<()> {
        let target = if all { SignalTarget::All } else { SignalTarget::Init };
        // Engines kill everything once more after the first process has ended, and want to hear no complaint.
        if !(all && self.status == Status::Stopped) {
            Action::Signal.check(&self.id, self.status)?;
        } else {
            return Ok(());
        }
        self.signal(signal, target)
    }

    /// Sends a signal to one of its processes, by its pid in the container.
    ///
    /// # Errors
    /// If there is none.
    pub fn signal_process(&self, signal: i32, pid: i32) -> Result<()> {
        Action::SignalProcess.check(&self.id, self.status)?;
        self.signal(signal, SignalTarget::Process(pid))
    }

    /// Sends a signal to a group of its processes, by its number in the container.
    ///
    /// # Errors
    /// If there is none.
    pub fn signal_process_group(&self, signal: i32, group: i32) -> Result<()> {
        Action::SignalProcessGroup.check(&self.id, self.status)?;
        self.signal(signal, SignalTarget::ProcessGroup(group))
    }

    pub(super) fn signal(&self, signal: i32, target: SignalTarget) -> Result<()> {
        self.run_request(Request::Signal { container: self.name(), signal, target })
    }

    /// Passes on all signals that this process gets to the container's first process, or to the foreground job of its
    /// terminal, as long as its sandbox takes them.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub fn forward_signals(&self, foreground: bool) -> Result<std::thread::JoinHandle<()>> {
        let signals = host::signals::Signals::receive(&host::signals::forwardable())
            .map_err(Error::host("receive signals"))?;
        let target = if foreground { SignalTarget::Foreground(None) } else { SignalTarget::Init };
        let (container, client) = (self.name(), self.connect()?);
        let body = move || {
            while let Ok(received) = signals.next() {
                let signal = received.number;
                let request = Request::Signal { container: container.clone(), signal, target };
                if let Err(error) = client.run(request, &[]) {
                    tracing::warn!("signal {signal} was not passed on: {error}");
                    if error.is_gone() {
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(body).map_err(Error::host("start a thread"))
    }

    /// Waits until its first process has ended and returns how, as `wait(2)` gives it. May be asked again.
    ///
    /// # Errors
    /// If that cannot be found out any more.
    pub fn wait(&mut self) -> Result<u32> {
        if let Some(process) = &self.stand_in {
            process.wait(None).map_err(Error::host("wait for the container process"))?;
        }
        self.status = Status::Stopped;
        Ok(self.exit_status().unwrap_or(Ending::Lost.status()))
    }

    /// How it ended, if its stand-in lived to see it.
    pub fn exit_status(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.saver.container_dir().join(EXIT)).ok()?;
        text.trim().parse().ok()
    }

    /// Waits until a process has ended that [`Container::execute`] started, by its pid in the container.
    ///
    /// # Errors
    /// If there is none, or somebody has waited for it already.
    pub fn wait_pid(&self, pid: i32) -> Result<u32> {
        match self.call(Request::Wait { container: self.name(), target: WaitTarget::Process(pid) }, &[])? {
            Response::Exited { status } => Ok(status),
            _ => Err(ClientError::Confused.into()),
        }
    }

    /// As [`Container::wait_pid`], by the pid in the pid namespace of the sandbox's first container.
    ///
    /// # Errors
    /// As there.
    pub fn wait_root_pid(&self, pid: i32) -> Result<u32> {
        let container = self.saver.id().sandbox_id.to_string();
        match self.call(Request::Wait { container, target: WaitTarget::RootProcess(pid) }, &[])? {
            Response::Exited { status } => Ok(status),
            _ => Err(ClientError::Confused.into()),
        }
    }
}
