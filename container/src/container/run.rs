//! `run`: a container made, started, and followed to its end by its maker, which is the parent of its stand-in.

use super::undertaker::Undertaker;
use super::{Args, Config, Container};
use crate::error::{Error, Result};
use crate::id::Id;

const SIGCHLD: i32 = 17;

/// Makes a container, starts it, and, if it is attached, waits for it and destroys it. Returns its exit status as
/// `wait(2)` gives it; zero for one that runs on.
///
/// # Errors
/// What went wrong with it. It is destroyed then.
pub fn run(config: &Config, args: &Args) -> Result<u32> {
    // Before there is anybody who would be lost if this process was killed.
    let signals = host::signals::Signals::receive(&[host::signals::forwardable(), vec![SIGCHLD]].concat())
        .map_err(Error::host("receive signals"))?;
    let id = Id::new(args.id.as_str())?;
    let undertaker = args.attached.then(|| Undertaker::spawn(&config.root, &id)).transpose()?;
    let mut container = Container::new(config, args)?;
    if let Err(error) = container.start() {
        let _ = container.destroy();
        return Err(error);
    }
    let Some(undertaker) = undertaker else { return Ok(0) };
    let waited = follow_child(&container, &signals);
    let destroyed = container.destroy();
    if destroyed.is_ok() {
        undertaker.dismiss();
    }
    let status = waited?;
    destroyed?;
    Ok(status)
}

/// Waits for the stand-in of a container, which is a child of this process, and passes on signals meanwhile.
fn follow_child(container: &Container, signals: &host::signals::Signals) -> Result<u32> {
    let Some(pid) =
        container.stand_in.as_ref().and_then(|process| rustix::process::Pid::from_raw(process.pid))
    else {
        return Ok(0);
    };
    loop {
        let options = rustix::process::WaitOptions::NOHANG;
        match rustix::process::waitpid(Some(pid), options) {
            Ok(Some((_, status))) => return Ok(container.exit_status().unwrap_or(status.as_raw() as u32)),
            Ok(None) => {}
            Err(error) => return Err(Error::host("wait for the container process")(error)),
        }
        let signal = signals.next().map_err(Error::host("read signals"))?.number;
        if signal != SIGCHLD
            && let Some(signal) = rustix::process::Signal::from_named_raw(signal)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
