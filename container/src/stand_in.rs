//! Stand-ins: the host processes that engines take for a container, or for a program run in one.
//!
//! A stand-in is forked from the command that makes it and outlives that, so whoever waits for the command's children
//! gets its exit status. It holds one end of a [`sandbox::link`] and next to nothing else. The stand-in of a sandbox's
//! first container is also the parent of the sandbox process: it ends after it, and the sandbox with it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use host::signals::{Signals, forwardable};
use host::step::{Step, reach};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use sandbox::link::{self, Ending, Keys};

use crate::error::{Error, Result};
use crate::view::{self, View};

/// What a stand-in is to be.
pub struct Job<'a> {
    /// Its end of the link.
    pub link: OwnedFd,
    /// Where it leaves the exit status, for those who ask later.
    pub exit_file: Option<File>,
    /// Whether it dies with its maker.
    pub attached: bool,
    /// The sandbox that it is to make.
    pub sandbox: Option<sandbox::Boot<'a>>,
    /// The terminal of the host whose changes of size it passes on.
    pub terminal: Option<OwnedFd>,
    /// What whoever enters its mount namespace is to see.
    pub view: Option<View>,
}

/// A stand-in that waits for [`StandIn::go`].
pub struct StandIn {
    /// Its pid.
    pub pid: i32,
    start: OwnedFd,
    report: File,
}

/// Forks a stand-in. The calling process must have one thread only.
///
/// # Errors
/// What the host says.
pub fn spawn(job: Job<'_>) -> Result<StandIn> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (ready, start) = pipe().map_err(Error::host("make a pipe"))?;
    let (report, reporting) = pipe().map_err(Error::host("make a pipe"))?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(Error::host("open /dev/null"))?;
    let mut given = Some((job, ready, reporting, null));
    let pid = host::namespace::fork_into(0, || match given.take() {
        Some((job, ready, reporting, null)) => child(job, ready, reporting, null),
        None => 1,
    })
    .map_err(Error::host("start a process"))?;
    drop(given);
    Ok(StandIn { pid, start, report: report.into() })
}

impl StandIn {
    /// Lets it go on, and returns the pid of the sandbox process that it has made; zero if it was to make none.
    ///
    /// # Errors
    /// What went wrong there.
    pub fn go(&mut self) -> Result<i32> {
        let died = || Error::Spawn("the container process died".to_owned());
        rustix::io::write(&self.start, &[1]).map_err(|_| died())?;
        let mut line = Vec::new();
        // Nothing but the end follows this line.
        let mut report = BufReader::new(&self.report);
        report.read_until(b'\n', &mut line).map_err(Error::host("read from the container process"))?;
        let text = String::from_utf8_lossy(&line);
        match text.trim_end().split_once(' ') {
            Some(("ok", pid)) => pid.parse().map_err(|_| died()),
            Some(("error", text)) => Err(Error::Spawn(text.to_owned())),
            _ => Err(died()),
        }
    }

    /// Lets it leave the host's files for the container's. Until then, or until this is dropped, both are in its mount
    /// namespace.
    ///
    /// # Errors
    /// If it has died.
    pub fn finish(mut self) -> Result<()> {
        let died = || Error::Spawn("the container process died".to_owned());
        rustix::io::write(&self.start, &[1]).map_err(|_| died())?;
        self.report.read_to_end(&mut Vec::new()).map(drop).map_err(|_| died())
    }
}

/// Kills a child of this process and takes its exit status.
pub fn end_child(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// The stand-in's life, until it exits with what this returns.
fn child(job: Job<'_>, ready: OwnedFd, reporting: OwnedFd, null: File) -> i32 {
    reach(Step::StandInForked);
    let Ok(signals) = Signals::receive(&forwardable()) else { return 1 };
    let _ = rustix::process::setsid();
    if let Some(terminal) = &job.terminal {
        // Without it, changes of size are not passed on.
        let _ = rustix::process::ioctl_tiocsctty(terminal);
    }
    if job.attached {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    }
    let Job { link, exit_file, sandbox, terminal, view, attached: _ } = job;
    // The caller's streams are none of its business; but their numbers must not go to something else.
    let streams = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    let streams_kept = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut keep: Vec<BorrowedFd<'_>> = vec![link.as_fd(), signals.as_fd(), ready.as_fd(), reporting.as_fd()];
    keep.extend(streams_kept);
    keep.extend(exit_file.as_ref().map(AsFd::as_fd));
    if let Some(boot) = &sandbox {
        keep.extend(boot.descriptors());
    }
    if streams.is_err() || host::process::close_others(&keep).is_err() {
        return 1;
    }
    // They are closed now, and their numbers may be used again.
    std::mem::forget((terminal, null));
    let (mut ready, mut go) = (File::from(ready), [0]);
    if ready.read_exact(&mut go).is_err() {
        return 1;
    }
    let mut report = File::from(reporting);
    let sandbox = match sandbox.map(sandbox::spawn).transpose() {
        Ok(sandbox) => {
            reach(Step::StandInSandbox);
            let prepared = view.as_ref().map(|view| view::prepare(view, sandbox));
            let _ = writeln!(report, "ok {}", sandbox.unwrap_or(0));
            if prepared.is_some() {
                // Hooks whose programs are the host's run meanwhile. If whoever made us has died, there will be none.
                let _ = ready.read_exact(&mut go);
            }
            if let Some(Err(error)) = prepared.map(|prepared| view::enter(&prepared?)) {
                // It is for engines only, and who is not root cannot have it.
                tracing::debug!("the container process keeps the host's files in view: {error}");
            }
            sandbox
        }
        Err(error) => {
            let _ = writeln!(report, "error {}", format!("{error:#}").replace('\n', " "));
            return 1;
        }
    };
    drop((report, ready));
    let _ = rustix::thread::set_name(c"nacelle-init");
    reach(Step::StandInReady);
    let ending = link::stand_in(&link, &signals, Keys::ToProgram).unwrap_or(Ending::Lost);
    reach(Step::StandInEnded);
    drop(link);
    if let Some(pid) = sandbox.and_then(Pid::from_raw) {
        // Once it has told the status it ends by itself; without a status it is dead or must be.
        if ending == Ending::Lost {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    let status = ending.status();
    if let Some(mut file) = exit_file {
        let _ = write!(file, "{status}");
    }
    exit_with(status)
}

/// Ends like the process whose status this is.
fn exit_with(status: u32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8 & 0xff) as i32,
        signal => {
            host::process::die_of(signal.cast_signed());
            128 + signal.cast_signed()
        }
    }
}
