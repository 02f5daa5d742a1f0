//! The sandbox process: how it comes to be, and what it gives up.
//!
//! [`spawn`] forks it. The child closes everything but what it is given, enters an empty root in namespaces of its own,
//! starts the platform, drops its privileges, and serves the control protocol until its first container has ended.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use host::namespace::{IdMaps, Maker};
use host::rustix;
use host::step::{Step, reach};
use kernel::HostInfo;
use platform::Platform;
use platform::stub::{CallCounts, HostVdso, StubPlatform, Tuning, Zygote};

use crate::control::message::{ErrorCode, Failure};
use crate::control::server::{self, Server};
use crate::oom_score::{self, AsStub};
use crate::seccomp;
use crate::supervisor::Supervisor;

/// What a sandbox process is given.
pub struct Boot<'a> {
    /// Its end of the connection to its maker, on which it serves.
    pub connection: OwnedFd,
    /// A socket on which it serves others, if they are to reach it.
    pub listener: Option<OwnedFd>,
    /// Where it writes what goes wrong, and traces of system calls.
    pub log: OwnedFd,
    /// Further descriptors that it keeps, because the code that it shares with its maker writes to them.
    pub kept: Vec<BorrowedFd<'a>>,
    /// Whether code that makes many system calls is changed so that they come faster.
    pub tuning: Tuning,
    /// How its ids are mapped, if not as it is usual: those of its maker stay the same as far as that may map them.
    pub ids: Option<IdMaps>,
}

impl Boot<'_> {
    /// All descriptors in it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let own = [self.connection.as_fd(), self.log.as_fd()];
        let listener = self.listener.iter().map(AsFd::as_fd);
        own.into_iter().chain(listener).chain(self.kept.iter().copied()).collect()
    }
}

/// Forks a sandbox process and returns its pid. It dies with the thread that calls this.
///
/// The calling process must have one thread only.
///
/// # Errors
/// If the host does not allow it. What goes wrong afterwards is the answer to the first request on the connection.
pub fn spawn(boot: Boot<'_>) -> anyhow::Result<i32> {
    let (ready, start) = pipe()?;
    let null = File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    let score = oom_score::own().unwrap_or(0);
    let ids = boot.ids.clone();
    let mut given = Some((boot, ready, null));
    let pid = host::namespace::fork_follower(host::namespace::SANDBOX, |maker| match given.take() {
        Some((boot, ready, null)) => child(boot, ready, null, maker, score),
        None => 1,
    })
    .context("cannot create the sandbox's namespaces (are user namespaces allowed?)")?;
    drop(given);
    host::namespace::map_ids(pid, ids.as_ref()).context("cannot map the sandbox's user ids")?;
    let _ = oom_score::spare(pid, score);
    rustix::io::write(&start, &[1])?;
    Ok(pid)
}

fn pipe() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")
}

/// The sandbox process's life, until it exits with what this returns. `score` is its maker's oom score.
fn child(boot: Boot<'_>, ready: OwnedFd, null: File, maker: Maker, score: i32) -> i32 {
    reach(Step::SandboxForked);
    let Boot { connection, listener, log, kept, tuning, ids } = boot;
    let streams = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&log));
    let mut keep = vec![
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
        connection.as_fd(),
        ready.as_fd(),
        maker.as_fd(),
    ];
    keep.extend(listener.as_ref().map(AsFd::as_fd));
    keep.extend(kept);
    let closed = host::process::close_others(&keep);
    // They are closed now, and their numbers may be used again.
    std::mem::forget((null, log));
    // The maker maps our ids and gives us our score before it says go.
    let mut go = [0];
    if streams.is_err() || closed.is_err() || File::from(ready).read_exact(&mut go).is_err() {
        return 1;
    }
    match prepare(tuning, ids.as_ref(), maker, score) {
        Ok((platform, info)) => serve(connection, listener, platform, info),
        Err(error) => {
            server::refuse_first(&connection, Failure::new(ErrorCode::Internal, format!("{error:#}")));
            1
        }
    }
}

/// Shuts the process in.
fn prepare(
    tuning: Tuning,
    ids: Option<&IdMaps>,
    maker: Maker,
    score: i32,
) -> anyhow::Result<(StubPlatform, HostInfo)> {
    if let Some(ids) = ids {
        host::namespace::become_first(ids).context("cannot take the container's ids")?;
        // A change of ids makes a process unreadable to itself.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
    }
    maker.follow().context("cannot follow the parent process")?;
    drop(maker);
    // A terminal's signals are not to reach it.
    let _ = rustix::process::setsid();
    host::namespace::raise_limits();
    let mut boot_id = [0; 16];
    rustix::rand::getrandom(&mut boot_id, rustix::rand::GetRandomFlags::empty())?;
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let info = HostInfo { cpuinfo, boot_id, meminfo: File::open("/proc/meminfo").ok().map(Arc::new) };
    let vdso = HostVdso::find();
    kernel::task::processor::hwcap();
    kernel::fs::hostfs::set_owners(if ids.is_some() || host::namespace::is_mapped(65534) {
        kernel::fs::hostfs::Owners::Exact
    } else {
        kernel::fs::hostfs::Owners::UnmappedAreRoot
    });
    let score = AsStub::begin(score);
    let procfs = host::namespace::enter_empty_root().context("cannot enter an empty root")?;
    reach(Step::SandboxRoot);
    let zygote = Zygote::spawn(vdso).context("cannot start the first stub process")?;
    drop(score);
    reach(Step::SandboxZygote);
    // Before there are other threads: privileges are a thread's own.
    host::namespace::drop_privileges().context("cannot drop privileges")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let platform =
        StubPlatform::new(zygote, procfs.map(Into::into), tuning).context("cannot start the platform")?;
    seccomp::enter()?;
    Ok((platform, info))
}

fn serve(connection: OwnedFd, listener: Option<OwnedFd>, platform: StubPlatform, info: HostInfo) -> i32 {
    let platform = Arc::new(platform);
    let supervisor = Supervisor::new(Arc::clone(&platform) as Arc<dyn Platform>, info);
    let server = Server::start(Arc::clone(&supervisor), connection, listener);
    match server {
        Ok(server) => {
            reach(Step::SandboxServing);
            supervisor.wait_until_over();
            server.drain();
            let CallCounts { trapped, patched, sites } = platform.call_counts();
            tracing::debug!(trapped, patched, sites, "how system calls came");
            0
        }
        Err(error) => {
            tracing::error!("{:#}", anyhow!(error).context("cannot serve the control socket"));
            1
        }
    }
}
