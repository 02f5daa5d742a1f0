//! A sandbox that lives and dies with its caller, who stands for its only container.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use host::rustix;
use host::rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use host::rustix::process::{Pid, WaitOptions, waitpid};
use host::signals::{Signals, forwardable};

use crate::control::{Client, Request};
use crate::link::Keys;
use crate::spec::{ContainerSpec, Descriptor, Streams};
use crate::terminal::RawMode;
use crate::{Boot, Tuning, link, oom_score};

/// The death of a process that breaks the rules of `seccomp`.
const SIGSYS: i32 = 31;

/// Files of the host.
pub struct Files {
    /// Those that the specification speaks of, by their numbers here.
    pub mounts: Vec<gofer::mounts::Mount>,
    /// Whether the sandbox gets descriptors of directories.
    pub gofer: gofer::Service,
}

/// Runs a container in a sandbox of its own and returns how it ended, as `wait(2)` gives it. Signals to the caller go
/// to the program. If its terminal is connected to one of the host, that is in raw mode meanwhile.
///
/// # Errors
/// What kept the program from starting: [`crate::control::ClientError`] if the sandbox refused.
pub fn run(
    mut spec: ContainerSpec,
    mut descriptors: Vec<OwnedFd>,
    files: Files,
    tuning: Tuning,
) -> anyhow::Result<u32> {
    // Before the terminal is changed: none of them is to end this process then.
    let signals = Signals::receive(&forwardable()).context("cannot receive signals")?;
    let raw = match &mut spec.process.streams {
        Streams::Terminal { input, settings, .. } => {
            let input = descriptors.get(input.0).context("there is no descriptor for the terminal")?;
            let raw = RawMode::enter(input).context("cannot use the caller's terminal")?;
            *settings = raw.as_ref().map(RawMode::settings);
            raw
        }
        Streams::Files(_) => None,
    };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket")?;
    let log = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3);
    let log = log.or_else(|_| File::create("/dev/null").map(OwnedFd::from)).context("cannot open a log")?;
    let mut gofer = gofer::spawn(&files.mounts, &files.gofer)?;
    for channel in std::mem::take(&mut gofer.channels) {
        spec.gofer.push(Descriptor(descriptors.len()));
        descriptors.push(channel);
    }
    let boot = Boot { connection: theirs, listener: None, log, kept: Vec::new(), tuning, ids: None };
    let pid = crate::spawn(boot)?;
    spare([std::process::id().cast_signed(), gofer.pid]);
    let (our_link, their_link) = link::pair().context("cannot make a socket")?;
    spec.link = Some(Descriptor(descriptors.len()));
    descriptors.push(their_link);
    let container = spec.id.clone();
    let client = Client::new(ours);
    gofer.wait_until_ready().map_err(anyhow::Error::msg)?;
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    client.run(Request::Create(Box::new(spec)), &borrowed)?;
    drop(borrowed);
    drop(descriptors);
    client.run(Request::Start { container }, &[])?;
    let ending = link::stand_in(&our_link, &signals, Keys::ToJob).context("cannot wait for the program")?;
    // The sandbox is about to end, or has.
    let died = Pid::from_raw(pid).and_then(|pid| waitpid(Some(pid), WaitOptions::empty()).ok().flatten());
    // Nobody has its channels any more.
    let _ = Pid::from_raw(gofer.pid).map(|pid| waitpid(Some(pid), WaitOptions::empty()));
    drop(raw);
    if ending == link::Ending::Lost {
        match died.and_then(|(_, status)| status.terminating_signal()) {
            Some(SIGSYS) => anyhow::bail!(
                "the sandbox process made a system call that it must not make: the host's log has its number"
            ),
            signal => anyhow::bail!("the sandbox process died of signal {}", signal.unwrap_or(0)),
        }
    }
    Ok(ending.status())
}

/// The program is not to die because one of the processes dies that it needs.
fn spare(processes: [i32; 2]) {
    let score = oom_score::own().unwrap_or(0);
    for pid in processes {
        // Where this is not permitted, those that run guest code have a higher score.
        let _ = oom_score::spare(pid, score);
    }
}

/// The exit status that a shell gives to a status of `wait(2)`: 128+N for a signal.
pub fn shell_status(status: u32) -> u8 {
    match status & 0x7f {
        0 => (status >> 8) as u8,
        signal => 128 + signal as u8,
    }
}
