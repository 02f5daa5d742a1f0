//! What the end-to-end tests share: users, tools that a test needs, and programs with a time limit.

#![allow(dead_code, reason = "no test uses all of it")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for, whatever the caller's environment says.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The ordinary user that root runs tests as: `daemon` has no rights and exists everywhere. (Not `nobody`: its number also
/// stands for users that a namespace does not know.)
pub const ORDINARY: u32 = 1;

/// Who runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Caller,
    /// An ordinary user; the caller must be root.
    Ordinary,
}

/// The users that this run can be. An ordinary user cannot become another one.
pub fn users() -> &'static [User] {
    if is_root() { &[User::Caller, User::Ordinary] } else { &[User::Caller] }
}

/// Whether root runs the tests.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The file of a program, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    PATH.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

/// Whether a test that cannot run is a failure.
pub fn must_run() -> bool {
    std::env::var_os("NACELLE_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// Says that a test is not run, and why.
pub fn skip(test: &str, reason: &str) {
    assert!(!must_run(), "{test} cannot run: {reason}");
    eprintln!("skipped {test}: {reason}");
}

/// A directory that all users can enter, with a copy of `nacelle` that they can run.
pub struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    /// Makes it.
    pub fn new() -> Stage {
        let directory = tempfile::Builder::new().prefix("nacelle-test-").tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let stage = Stage { directory };
        fs::copy(env!("CARGO_BIN_EXE_nacelle"), stage.nacelle()).expect("a copy");
        stage
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The copy of the program under test.
    pub fn nacelle(&self) -> PathBuf {
        self.path().join("nacelle")
    }

    /// A new directory in it that belongs to `user`.
    pub fn scratch(&self, name: &str, user: User) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).expect("a directory");
        if user == User::Ordinary {
            std::os::unix::fs::chown(&path, Some(ORDINARY), Some(ORDINARY)).expect("root may");
        }
        path
    }

    /// A command that `user` runs, with an environment that says nothing of the caller.
    pub fn command(&self, program: &Path, user: User) -> Command {
        let mut command = match user {
            User::Caller => Command::new(program),
            User::Ordinary => {
                let mut command = Command::new("setpriv");
                let id = ORDINARY.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
                command
            }
        };
        command.env_clear().envs([("PATH", PATH), ("LC_ALL", "C"), ("TZ", "UTC")]).stdin(Stdio::null());
        command
    }
}

/// How a program ended.
pub struct Outcome {
    /// Its status; `None` if it took too long and was killed.
    pub status: Option<ExitStatus>,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub error: String,
    /// How long it took.
    pub time: Duration,
}

impl Outcome {
    /// The status as a shell gives it.
    pub fn code(&self) -> Option<i32> {
        let status = self.status?;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }
}

/// Runs a command in a process group of its own, for at most `limit`. Its streams go to files called `name` in the stage.
pub fn run(stage: &Stage, name: &str, mut command: Command, limit: Duration) -> Outcome {
    let (output, error) =
        (stage.path().join(format!("{name}.out")), stage.path().join(format!("{name}.err")));
    command.stdout(File::create(&output).expect("a file")).stderr(File::create(&error).expect("a file"));
    let start = Instant::now();
    let mut child = command.process_group(0).spawn().expect("the program starts");
    let status = wait(&mut child, limit);
    let time = start.elapsed();
    if status.is_none() {
        let group = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait();
    }
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    Outcome { status, output: text(output), error: text(error), time }
}

/// Waits for a child to end, for at most `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return Some(status);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds, for at most `limit`; whether it does.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
