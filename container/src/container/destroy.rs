//! The end of a container: its processes, its control group, what is known of it.
//!
//! All of it works on one whose maker died halfway, and may be tried again.

use std::path::Path;
use std::time::Duration;

use host::step::{Step, reach};
use sandbox::control::{Client, Request};

use super::create::usual_cgroup;
use super::{CGROUP, CONTROL, Container, is_not_found};
use crate::cgroup::{Cgroup, Hierarchies, Name};
use crate::error::{Error, Result};
use crate::hooks::HookKind;
use crate::id::{FullId, Id};
use crate::state::{self, StateFile, TryLock};
use crate::status::Status;

/// How long a container's processes may take to vanish once they have been killed.
const END: Duration = Duration::from_secs(10);

impl Container {
    /// Ends all of its processes and forgets it.
    ///
    /// # Errors
    /// What could not be done; all that could has been.
    pub fn destroy(&mut self) -> Result<()> {
        match self.saver.lock(TryLock::Block) {
            Ok(()) => {}
            // Somebody else was faster.
            Err(state::Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.destroy_locked()
    }

    pub(super) fn destroy_locked(&mut self) -> Result<()> {
        reach(Step::DeleteLocked);
        let stopped = self.end_processes();
        reach(Step::DeleteEnded);
        if self.is_sandbox_root()
            && let Some(sandbox) = &self.sandbox
        {
            let _ = std::fs::remove_file(&sandbox.control);
        } else if self.is_sandbox_root() {
            let _ = std::fs::remove_file(self.saver.sandbox_dir().join(CONTROL));
        }
        // What is still in its group ends now, whoever it is.
        let removed = self.cgroup.as_ref().map_or(Ok(()), Cgroup::remove);
        reach(Step::DeleteCgroup);
        let existed = self.status != Status::Creating;
        self.status = Status::Stopped;
        // With a process left it must stay known, or nobody could end that.
        let forgotten = stopped.and_then(|()| Ok(self.saver.destroy()?));
        reach(Step::DeleteForgotten);
        self.saver.unlock();
        if existed && forgotten.is_ok() {
            // The others of its sandbox decide now.
            if !self.is_sandbox_root() {
                self.adjust_oom_score();
            }
            // Failures are only logged.
            self.run_hooks(HookKind::Poststop)?;
        }
        forgotten?;
        Ok(removed?)
    }

    /// Ends and removes a container whose state cannot be read, as far as it can be found.
    ///
    /// # Errors
    /// The host's; that there is none is no error.
    pub fn destroy_unreadable(root: &Path, id: &Id) -> Result<()> {
        for FullId { sandbox_id, .. } in state::list_sandboxes(root)? {
            let full = FullId { sandbox_id, container_id: id.clone() };
            let is_root = full.is_root();
            let mut saver = StateFile::new(root, full);
            let control = saver.sandbox_dir().join(CONTROL);
            match saver.lock(TryLock::Block) {
                Ok(()) => {}
                Err(state::Error::NotFound(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Ok(client) = Client::connect(&control) {
                match client.run(Request::Destroy { container: id.to_string() }, &[]) {
                    Err(error) if !error.is_gone() && !is_not_found(&error) => return Err(error.into()),
                    _ => {}
                }
            }
            if is_root {
                let _ = std::fs::remove_file(&control);
            }
            let noted = std::fs::read(saver.container_dir().join(CGROUP)).ok();
            let noted = noted.and_then(|text| serde_json::from_slice::<Option<Cgroup>>(&text).ok());
            let path = usual_cgroup(root, id);
            let name = Name { path: Some(&path), id, systemd: false };
            let removed = match noted {
                Some(cgroup) => cgroup.as_ref().map_or(Ok(()), Cgroup::remove),
                // One with a name of its own cannot be found any more.
                None => Hierarchies::of_host().and_then(|host| Cgroup::remove_empty(&host, name)),
            };
            if let Err(error) = removed {
                tracing::warn!("the control group may be left: {error}");
            }
            saver.destroy()?;
        }
        Ok(())
    }

    fn end_processes(&self) -> Result<()> {
        let Some(sandbox) = &self.sandbox else { return self.end_stand_in() };
        if self.is_sandbox_root() {
            sandbox.process.signal(rustix::process::Signal::KILL).map_err(Error::host("kill the sandbox"))?;
        } else if sandbox.process.is_alive() {
            match self.run_request(Request::Destroy { container: self.name() }) {
                Ok(()) | Err(Error::NoSandbox(_)) => {}
                Err(Error::Sandbox(error)) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.end_stand_in()?;
        if self.is_sandbox_root()
            && !sandbox.process.wait(Some(END)).map_err(Error::host("wait for the sandbox"))?
        {
            return Err(Error::Spawn(format!("container \"{}\" is still running", self.id)));
        }
        Ok(())
    }

    fn end_stand_in(&self) -> Result<()> {
        // It ends by itself when nobody has its channels any more; one that is stopped does not.
        if let Some(gofer) = &self.gofer {
            let _ = gofer.signal(rustix::process::Signal::KILL);
        }
        let Some(process) = &self.stand_in else { return Ok(()) };
        process.signal(rustix::process::Signal::KILL).map_err(Error::host("kill the container process"))?;
        if !process.wait(Some(END)).map_err(Error::host("wait for the container process"))? {
            return Err(Error::Spawn(format!("container \"{}\" is still running", self.id)));
        }
        Ok(())
    }
}
