//! Signals to a container from outside.

use std::sync::Arc;

use abi::signal::{SI_USER, SigInfo, Signal};
use abi::{Errno, SysResult};

use super::{Container, State};
use crate::Kernel;
use crate::task::{ExitStatus, Pid, ThreadGroup};

/// Whom a signal is for. Numbers are those of the container's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The init.
    Init,
    /// A process of the container.
    Process(Pid),
    /// A process group of the container's.
    Group(Pid),
    /// The process group in the foreground of the controlling terminal that this process has.
    ForegroundGroup(Pid),
    /// Every process of the container, those included that outlive its init.
    All,
}

impl Container {
    /// Sends a signal from outside. The first process of a pid namespace gets only signals that it handles, and SIGKILL
    /// and SIGSTOP.
    ///
    /// # Errors
    /// `ESRCH` if there is nobody to get it, in this container.
    pub fn signal(&self, target: Target, signal: Signal) -> SysResult<()> {
        let kernel = self.kernel()?;
        for group in self.reached(&kernel, target)? {
            if signal == Signal::SIGKILL {
                kernel.end_group(&group, ExitStatus::Signaled { signal, core: false });
            } else if !crate::signal::shields(&group, signal) || signal == Signal::SIGSTOP {
                crate::signal::send_to_group(&kernel, &group, SigInfo::user(signal, SI_USER, 0, 0));
            }
        }
        Ok(())
    }

    /// Whether a signal would reach anybody.
    ///
    /// # Errors
    /// `ESRCH` if there is nobody to get it, in this container.
    pub fn check_target(&self, target: Target) -> SysResult<()> {
        self.reached(&*self.kernel()?, target).map(drop)
    }

    fn reached(&self, kernel: &Kernel, target: Target) -> SysResult<Vec<Arc<ThreadGroup>>> {
        let groups = self.targets(kernel, target)?;
        if groups.is_empty() { Err(Errno::ESRCH) } else { Ok(groups) }
    }

    /// The init, while there is one.
    pub fn init_group(&self) -> Option<Arc<ThreadGroup>> {
        let init = self.records.lock().init?;
        self.kernel().ok()?.tasks.group(init).filter(|_| !matches!(self.state(), State::Stopped(_)))
    }

    fn targets(&self, kernel: &Kernel, target: Target) -> SysResult<Vec<Arc<ThreadGroup>>> {
        let pid = |number: Pid| self.pid_namespace().pid(number).ok_or(Errno::ESRCH);
        let own = |group: &Arc<ThreadGroup>| self.holds(group);
        Ok(match target {
            Target::All => self.groups(kernel),
            Target::Init => self.init_group().into_iter().collect(),
            Target::Process(number) => kernel.tasks.group(pid(number)?).into_iter().filter(own).collect(),
            Target::Group(number) => kernel.tasks.members(pid(number)?).into_iter().filter(own).collect(),
            Target::ForegroundGroup(number) => {
                let group = kernel.tasks.group(pid(number)?).filter(own).ok_or(Errno::ESRCH)?;
                let terminal = group.terminal.lock().clone();
                // Without a terminal, or with nobody in its foreground, it is the process itself.
                match terminal.and_then(|terminal| terminal.foreground()) {
                    Some(foreground) => kernel.tasks.members(foreground).into_iter().filter(own).collect(),
                    None => vec![group],
                }
            }
        })
    }
}
