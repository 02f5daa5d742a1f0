//! Hooks: programs of the engine's that run at six points in the life of a container.
//!
//! Each gets the container's state on standard input. What it writes appears in the error if it fails. One that takes
//! longer than it may is killed, with all of its process group. Processes that it leaves behind are left alone.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime as oci;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::spec::error_text;

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookKind {
    /// In `create`, when the namespaces exist, in those of the caller. The old name of `createRuntime`, and before it.
    Prestart,
    /// In `create`, after `prestart`, in the namespaces of the caller.
    CreateRuntime,
    /// In `create`, after `createRuntime`, in the namespaces of the container.
    CreateContainer,
    /// In `start`, before the program starts, in the namespaces of the container.
    StartContainer,
    /// In `start`, after the program has started, in the namespaces of the caller.
    Poststart,
    /// In `delete`, when the container is gone, in the namespaces of the caller. Failures do not matter.
    Poststop,
}

impl HookKind {
    /// All, in the order in which they run.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// Whether they run in the namespaces of the container.
    pub fn is_inside(self) -> bool {
        matches!(self, Self::CreateContainer | Self::StartContainer)
    }

    /// Those of a specification.
    pub fn of(self, spec: &oci::Spec) -> &[oci::Hook] {
        let Some(hooks) = spec.hooks() else { return &[] };
        #[allow(deprecated, reason = "engines still use prestart")]
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {kind} hook #{index}: {failure}")]
pub struct Error {
    /// Which of the six.
    pub kind: HookKind,
    /// Its place in the list, from zero.
    pub index: usize,
    /// What happened.
    pub failure: Failure,
}

/// What happens to hooks.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Without a path.
    #[error("empty path for hook")]
    NoPath,
    /// With a path that depends on where the caller is.
    #[error("path for hook is not absolute: {}", .0.display())]
    Relative(PathBuf),
    /// With a time that is none.
    #[error("invalid timeout {seconds} of hook {}", path.display())]
    Timeout {
        /// The program.
        path: PathBuf,
        /// The time.
        seconds: i64,
    },
    /// It cannot be started.
    #[error("fork/exec {}: {}", path.display(), error_text(source))]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error("cannot enter the container's mount namespace: {0}")]
    Namespace(io::Error),
    /// It cannot be waited for.
    #[error("cannot wait for hook {}: {source}", path.display())]
    Wait {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time.
    #[error("hook ran past specified timeout of {:.1}s, stdout: {}, stderr: {}", limit.as_secs_f64(), output.stdout, output.stderr)]
    TooLong {
        /// The time that it had.
        limit: Duration,
        /// What it had written by then.
        output: Output,
    },
    /// It ended with an error.
    #[error("error running hook: {}, stdout: {}, stderr: {}", describe(*status), output.stdout, output.stderr)]
    Status {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: Output,
    },
}

/// The beginning of what a hook wrote.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Output {
    /// To standard output.
    pub stdout: String,
    /// To standard error.
    pub stderr: String,
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// So much of what a hook writes is kept.
const KEPT_OUTPUT: usize = 16 << 10;

/// Runs all hooks of a kind, one after the other. `inside` is the mount namespace of those that run in the
/// container's namespaces; the others do not need it.
///
/// # Errors
/// The first that fails; those after it do not run. `poststop` hooks all run, and none is an error.
pub fn run(
    kind: HookKind,
    hooks: &[oci::Hook],
    state: &oci::State,
    inside: Option<BorrowedFd<'_>>,
) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let input = serde_json::to_vec(state).unwrap_or_default();
    let inside = inside.filter(|_| kind.is_inside());
    for (index, hook) in hooks.iter().enumerate() {
        tracing::debug!(kind = kind.name(), index, path = %hook.path().display(), "running hook");
        if let Err(failure) = run_one(hook, &input, inside) {
            let error = Error { kind, index, failure };
            if kind != HookKind::Poststop {
                return Err(error);
            }
            tracing::warn!("{error}");
        }
    }
    Ok(())
}

fn run_one(hook: &oci::Hook, input: &[u8], inside: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let path = hook.path();
    if path.as_os_str().is_empty() {
        return Err(Failure::NoPath);
    }
    if !path.is_absolute() {
        return Err(Failure::Relative(path.clone()));
    }
    let limit = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => return Err(Failure::Timeout { path: path.clone(), seconds }),
        },
    };
    let mut child = match inside {
        None => start(hook)?,
        // A thread of its own, since there is no way back for the one that enters.
        Some(namespace) => std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                host::enter::mount_namespace_of_thread(namespace).map_err(Failure::Namespace)?;
                start(hook)
            });
            let died = || Failure::Namespace(io::Error::other("the thread that enters it died"));
            entered.join().unwrap_or_else(|_| Err(died()))
        })?,
    };
    let waited = attend(&mut child, input, limit);
    let (ended, output) = waited.map_err(|source| {
        let _ = child.kill();
        let _ = child.wait();
        Failure::Wait { path: path.clone(), source }
    })?;
    match (ended, limit) {
        (Some(status), _) if status.success() => Ok(()),
        (Some(status), _) => Err(Failure::Status { status, output }),
        (None, limit) => Err(Failure::TooLong { limit: limit.unwrap_or_default(), output }),
    }
}

fn start(hook: &oci::Hook) -> Result<Child, Failure> {
    let path: &Path = hook.path();
    let mut command = Command::new(path);
    let mut arguments = hook.args().iter().flatten();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env_clear();
    let variables = hook.env().iter().flatten().filter_map(|entry| entry.split_once('='));
    command.envs(variables.filter(|(name, _)| !name.is_empty()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that all of it can be killed.
    command.process_group(0);
    command.spawn().map_err(|source| Failure::Start { path: path.to_owned(), source })
}

/// Feeds and watches a hook until it ends or its time is over, and then kills it; the status is `None` in that case.
/// Does not wait for the ends of pipes, which processes that the hook leaves behind may hold.
fn attend(
    child: &mut Child,
    input: &[u8],
    limit: Option<Duration>,
) -> io::Result<(Option<ExitStatus>, Output)> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let pid = Pid::from_child(child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stdin: Option<OwnedFd> = child.stdin.take().map(Into::into);
    let mut outputs: [Option<OwnedFd>; 2] =
        [child.stdout.take().map(Into::into), child.stderr.take().map(Into::into)];
    for pipe in stdin.iter().chain(outputs.iter().flatten()) {
        fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
    }
    let mut texts = [Vec::new(), Vec::new()];
    let mut left = input;
    let ended = loop {
        let time = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if time == Some(Duration::ZERO) {
            break false;
        }
        let mut watched = vec![PollFd::new(&process, PollFlags::IN)];
        watched.extend(outputs.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        watched.extend(stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = watched.first().is_some_and(|process| process.revents().contains(PollFlags::IN));
        drop(watched);
        feed(&mut stdin, &mut left);
        for (pipe, text) in outputs.iter_mut().zip(&mut texts) {
            drain(pipe, text);
        }
        if ended {
            break true;
        }
    };
    if !ended {
        // Its pid is still its own: nobody has waited for it.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait()?;
    let [stdout, stderr] = texts.map(|text| String::from_utf8_lossy(&text).trim_end().to_owned());
    Ok((ended.then_some(status), Output { stdout, stderr }))
}

/// Writes as much as the pipe takes; closes it at the end, or if nobody reads.
fn feed(pipe: &mut Option<OwnedFd>, left: &mut &[u8]) {
    while let Some(open) = pipe.as_ref().map(AsFd::as_fd) {
        if left.is_empty() {
            *pipe = None;
            break;
        }
        match rustix::io::write(open, left) {
            Ok(written) => *left = left.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => *pipe = None,
        }
    }
}

/// Reads all there is; keeps the beginning.
fn drain(pipe: &mut Option<OwnedFd>, text: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    // Whoever writes without end does not keep us from looking at the clock.
    for _ in 0..64 {
        let Some(open) = pipe.as_ref() else { return };
        match rustix::io::read(open, &mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                let room = KEPT_OUTPUT.saturating_sub(text.len());
                text.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            Err(_) => *pipe = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn state() -> oci::State {
        let json = json!({ "ociVersion": "1.0.2", "id": "c1", "status": "created", "pid": 7, "bundle": "/b", "annotations": { "a": "b" } });
        serde_json::from_value(json).unwrap()
    }

    fn hook(value: serde_json::Value) -> oci::Hook {
        serde_json::from_value(value).unwrap()
    }

    fn shell(script: &str) -> oci::Hook {
        hook(json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }))
    }

    fn outcome(hooks: &[oci::Hook]) -> Result<(), String> {
        run(HookKind::CreateRuntime, hooks, &state(), None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_gets_the_state_and_only_its_own_arguments_and_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out").display().to_string();
        let script = "{ cat; echo; echo \"$0 $1\"; env | grep -v '^PWD=\\|^_=\\|^SHLVL='; } > \"$1\"";
        let hook = hook(
            json!({ "path": "/bin/sh", "args": ["name", "-c", script, "zero", path], "env": ["ONE=1", "TWO=2=2", "PATH=/usr/bin:/bin"] }),
        );
        outcome(&[hook]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let got: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(got, serde_json::to_value(state()).unwrap());
        assert_eq!(got["annotations"]["a"], "b");
        assert_eq!(lines.next().unwrap(), format!("zero {path}"));
        let mut environment: Vec<_> = lines.collect();
        environment.sort_unstable();
        assert_eq!(environment, ["ONE=1", "PATH=/usr/bin:/bin", "TWO=2=2"]);
    }

    #[test]
    fn a_hook_that_fails_says_how_and_stops_those_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out").display().to_string();
        let error = outcome(&[
            shell("exit 0"),
            shell("echo out; echo err >&2; exit 3"),
            shell(&format!("touch {path}")),
        ]);
        assert_eq!(
            error.unwrap_err(),
            "error running createRuntime hook #1: error running hook: exit status 3, stdout: out, stderr: err"
        );
        assert!(!Path::new(&path).exists());
        let error = outcome(&[shell("kill -9 $$")]).unwrap_err();
        assert!(error.contains("signal 9"), "{error}");
    }

    #[test]
    fn hooks_after_the_end_all_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out").display().to_string();
        let hooks = [shell("exit 1"), shell(&format!("touch {path}"))];
        run(HookKind::Poststop, &hooks, &state(), None).unwrap();
        assert!(Path::new(&path).exists());
    }

    #[test]
    fn a_hook_that_cannot_be_is_told_apart() {
        let error = outcome(&[hook(json!({ "path": "/nonexistent" }))]).unwrap_err();
        assert!(error.ends_with("fork/exec /nonexistent: no such file or directory"), "{error}");
        assert!(outcome(&[hook(json!({ "path": "bin/true" }))]).unwrap_err().contains("not absolute"));
        assert!(outcome(&[hook(json!({ "path": "" }))]).unwrap_err().contains("empty path"));
        let error = outcome(&[hook(json!({ "path": "/bin/true", "timeout": 0 }))]).unwrap_err();
        assert!(error.contains("invalid timeout 0"), "{error}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_all_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids").display().to_string();
        let script = format!("echo begun; sleep 600 & echo $! > {pids}; wait");
        let slow = hook(
            json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 1 }),
        );
        let error = outcome(&[slow]).unwrap_err();
        assert!(error.contains("hook ran past specified timeout of 1.0s, stdout: begun"), "{error}");
        let pid: i32 = fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
        // Killed, but perhaps not yet gone.
        if let Some(process) = crate::ProcessIdentity::of(pid).unwrap() {
            assert!(process.wait(Some(Duration::from_secs(60))).unwrap());
        }
    }

    #[test]
    fn a_hook_that_leaves_a_process_behind_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid").display().to_string();
        outcome(&[shell(&format!("sleep 600 & echo $! > {path}"))]).unwrap();
        let pid: i32 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        let process = crate::ProcessIdentity::of(pid).unwrap().unwrap();
        assert!(process.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn a_hook_that_neither_reads_nor_stops_writing_does_no_harm() {
        let mut state = state();
        let annotations = [("long".to_owned(), "x".repeat(1 << 20))];
        state.set_annotations(Some(annotations.into_iter().collect()));
        let hooks = [shell("exec <&-; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 1")];
        let error = run(HookKind::Prestart, &hooks, &state, None).unwrap_err();
        let Failure::Status { output, .. } = error.failure else { panic!("{error}") };
        assert_eq!((output.stdout.len(), output.stderr.len()), (KEPT_OUTPUT, KEPT_OUTPUT));
    }

    /// Runs a hook in another mount namespace, in which something is mounted that is not seen outside.
    #[test]
    fn a_hook_of_the_container_runs_in_its_mount_namespace() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().display().to_string();
        let script =
            format!("mount -t tmpfs none {inside} && touch {inside}/mark && echo ready && exec sleep 600");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).stdout(Stdio::piped());
        let mut other = command.spawn().unwrap();
        let mut line = [0; 6];
        io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut line).unwrap();
        let namespace = fs::File::open(format!("/proc/{}/ns/mnt", other.id())).unwrap();
        let test = [shell(&format!("test -e {inside}/mark"))];
        let run = |kind, namespace| run(kind, &test, &state(), namespace);
        run(HookKind::CreateContainer, Some(namespace.as_fd())).unwrap();
        run(HookKind::StartContainer, Some(namespace.as_fd())).unwrap();
        // The others are the caller's, whatever they are given; and the caller has not moved.
        assert!(run(HookKind::Poststart, Some(namespace.as_fd())).is_err());
        assert!(run(HookKind::CreateContainer, None).is_err());
        let wrong = fs::File::open("/proc/self/ns/net").unwrap();
        let error = run(HookKind::CreateContainer, Some(wrong.as_fd())).unwrap_err();
        assert!(error.to_string().contains("cannot enter the container's mount namespace"), "{error}");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn each_kind_has_its_own_list() {
        let hooks: serde_json::Map<_, _> = HookKind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), json!([{ "path": format!("/{kind}") }])))
            .collect();
        let spec: oci::Spec =
            serde_json::from_value(json!({ "ociVersion": "1.0.0", "hooks": hooks })).unwrap();
        for kind in HookKind::ALL {
            assert_eq!(kind.of(&spec)[0].path(), Path::new(&format!("/{kind}")));
        }
    }
}
