//! Who takes away what is left of an attached container when its maker is killed.
//!
//! The maker of an attached container waits for its end and destroys it. The container dies with its maker; but what is
//! known of it and its control group would stay. So there is a process that waits for the maker's end, and does then what
//! the maker could not.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::Container;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::process::ProcessIdentity;
use crate::state::{self, LoadOpts};

/// How often it is tried, and how long it waits in between for others who are at it.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// An undertaker that waits.
pub(super) struct Undertaker {
    pid: i32,
    /// It is called when this is closed.
    call: Option<OwnedFd>,
}

impl Undertaker {
    /// Forks the undertaker of container `id`, which this process is about to make. The process must have one thread only.
    ///
    /// # Errors
    /// What the host says.
    pub fn spawn(root: &Path, id: &Id) -> Result<Undertaker> {
        let maker = ProcessIdentity::own().map_err(Error::host("look at this process"))?;
        let (called, call) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::host("make a pipe"))?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(Error::host("open /dev/null"))?;
        let mut given = Some((called, null));
        let pid = host::namespace::fork_into(0, || match given.take() {
            Some((called, null)) => child(root, id, &maker, called, null),
            None => 1,
        })
        .map_err(Error::host("start a process"))?;
        Ok(Undertaker { pid, call: Some(call) })
    }

    /// Sends it away: nothing is left.
    pub fn dismiss(self) {
        // Unless it was killed.
        let _ = self.call.as_ref().map(|call| rustix::io::write(call, &[1]));
    }
}

impl Drop for Undertaker {
    /// Calls it, unless it has been sent away, and waits for its end.
    fn drop(&mut self) {
        self.call = None;
        let _ = Pid::from_raw(self.pid).map(|pid| waitpid(Some(pid), WaitOptions::empty()));
    }
}

/// The undertaker's life, until it exits with what this returns.
fn child(root: &Path, id: &Id, maker: &ProcessIdentity, called: OwnedFd, null: File) -> i32 {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"nacelle-after");
    let streams = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    let keep = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr(), called.as_fd()];
    if streams.is_err() || host::process::close_others(&keep).is_err() {
        return 1;
    }
    // It is closed now, and its number may be used again.
    std::mem::forget(null);
    let mut byte = [0];
    loop {
        match rustix::io::read(&called, &mut byte) {
            Ok(0) => break,
            Ok(_) => return 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
    for _ in 0..TRIES {
        if bury(root, id, maker) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    0
}

/// Takes away what there is; whether that was all. Somebody may have been faster, and made another one of that name.
fn bury(root: &Path, id: &Id, maker: &ProcessIdentity) -> bool {
    let options = LoadOpts { exact: true, ..LoadOpts::default() };
    match Container::load(root, id.as_str(), options) {
        Ok(mut container) if container.maker.as_ref() == Some(maker) => container.destroy().is_ok(),
        Err(error) if error.is_not_found() => state::remove_leftovers(root, id).is_ok(),
        _ => true,
    }
}
