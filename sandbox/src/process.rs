//! The sandbox process and its parent.

use std::io::{Read, Write};

use anyhow::{Context, anyhow, bail};
use host::rustix;
use host::signals::Signals;
use kernel::fs::hostfs::Owners;
use kernel::tty::Termios;

use crate::terminal::RawMode;
use crate::{Spec, Streams, boot, seccomp};

/// Signals that are passed on to the program: all that somebody outside may send on purpose.
const FORWARDED: [i32; 9] = [1, 2, 3, 10, 12, 15, 18, 20, 28];
const SIGCHLD: i32 = 17;
/// The death of a process that breaks the rules of [`seccomp`].
const SIGSYS: i32 = 31;
/// How the sandbox process tells its parent that it did not get as far as the program.
const FAILED: i32 = 255;

/// Runs a program in a sandbox and returns its exit status as a shell gives it: 128+N for a signal, 127 if there is no
/// such program, 126 if it cannot be run.
///
/// # Errors
/// What kept the sandbox from starting.
pub fn run(spec: Spec) -> anyhow::Result<u8> {
    let raw = match &spec.streams {
        Streams::Terminal { input, .. } => {
            RawMode::enter(input).context("cannot use the caller's terminal")?
        }
        Streams::Files(_) => None,
    };
    let settings = raw.as_ref().map(RawMode::settings);
    let signals = [&FORWARDED[..], &[SIGCHLD]].concat();
    let signals = Signals::receive(&signals).context("cannot receive signals")?;
    let (mut ready, start) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(read, write)| (std::fs::File::from(read), std::fs::File::from(write)))
        .context("cannot make a pipe")?;
    let (mut message, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(read, write)| (std::fs::File::from(read), std::fs::File::from(write)))
        .context("cannot make a pipe")?;
    let mut spec = Some(spec);
    let mut pipes = Some((start, report));
    let pid = host::namespace::fork_into(host::namespace::SANDBOX, || {
        let (Some(spec), Some((start, mut report))) = (spec.take(), pipes.take()) else { return FAILED };
        drop(start);
        // The parent maps our ids before it says go.
        let mut go = [0];
        if ready.read_exact(&mut go).is_err() {
            return FAILED;
        }
        match child(spec, &signals, settings) {
            Ok(status) => i32::from(status),
            Err(error) => {
                let _ = report.write_all(format!("{error:#}").as_bytes());
                FAILED
            }
        }
    })
    .context("cannot create the sandbox's namespaces (are user namespaces allowed?)")?;
    let (mut start, report) = pipes.take().ok_or_else(|| anyhow!("the pipes are gone"))?;
    drop(report);
    drop(spec);
    let mapped = host::namespace::map_ids(pid).context("cannot map the sandbox's user ids");
    if mapped.is_ok() {
        start.write_all(&[1])?;
    }
    drop(start);
    let status = wait(pid, &signals)?;
    mapped?;
    let mut text = String::new();
    message.read_to_string(&mut text)?;
    if !text.is_empty() {
        bail!("{text}");
    }
    Ok(status)
}

/// Passes signals on until the sandbox process ends.
fn wait(pid: i32, signals: &Signals) -> anyhow::Result<u8> {
    let child = rustix::process::Pid::from_raw(pid).ok_or_else(|| anyhow!("no pid"))?;
    loop {
        let signal = signals.next().context("cannot read signals")?;
        if signal != SIGCHLD {
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                let _ = rustix::process::kill_process(child, signal);
            }
            continue;
        }
        let options = rustix::process::WaitOptions::NOHANG;
        let Some((_, status)) = rustix::process::waitpid(Some(child), options)? else { continue };
        return match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Ok(status as u8),
            (None, Some(SIGSYS)) => bail!(
                "the sandbox process made a system call that it must not make: the host's log has its number"
            ),
            (None, signal) => bail!("the sandbox process died of signal {}", signal.unwrap_or(0)),
        };
    }
}

/// The sandbox process's life.
fn child(spec: Spec, signals: &Signals, settings: Option<Termios>) -> anyhow::Result<u8> {
    host::namespace::follow_parent().context("cannot follow the parent process")?;
    host::namespace::raise_open_files();
    let mut boot_id = [0; 16];
    rustix::rand::getrandom(&mut boot_id, rustix::rand::GetRandomFlags::empty())?;
    let info =
        kernel::HostInfo { cpuinfo: std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), boot_id };
    let vdso = platform::stub::HostVdso::find();
    kernel::fs::hostfs::set_owners(if host::namespace::is_mapped(65534) {
        Owners::Exact
    } else {
        Owners::UnmappedAreRoot
    });
    let procfs = host::namespace::enter_empty_root().context("cannot enter an empty root")?;
    let zygote = platform::stub::Zygote::spawn(vdso).context("cannot start the first stub process")?;
    // Before there are other threads: privileges are a thread's own.
    host::namespace::drop_privileges().context("cannot drop privileges")?;
    let platform = platform::stub::StubPlatform::new(zygote, procfs.map(Into::into), spec.patching)
        .context("cannot start the platform")?;
    seccomp::enter()?;
    boot::run(spec, platform, info, signals.try_clone()?, settings)
}
