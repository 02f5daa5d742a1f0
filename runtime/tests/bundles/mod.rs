//! Bundles and containers for tests: a root directory with a static busybox, and a state directory of its own.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The script of a program that runs until it gets SIGTERM, and then ends with 7.
pub const SERVICE: &str = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";

/// Says why a test does not run; fails instead if everything is to run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "cannot be tested here: {why}");
    eprintln!("skipped: {why}");
}

/// Whether containers can be tested here; says why not otherwise.
pub fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    let busybox = busybox().is_some();
    if !root {
        skip("containers that write to their root directory are tested as root");
    } else if !busybox {
        skip("there is no static busybox (package busybox-static)");
    }
    root && busybox
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|path| path.exists())
}

/// A state directory, and bundles.
pub struct Host {
    directory: TempDir,
    user: User,
}

/// Who runs the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Whoever runs the tests.
    Caller,
    /// An ordinary user: [`ORDINARY`].
    Ordinary,
}

/// The ordinary user that root runs tests as: `daemon` has no rights and exists everywhere.
pub const ORDINARY: u32 = 1;

/// A command that was run.
pub struct Ran {
    pub out: String,
    pub err: String,
    pub code: Option<i32>,
}

impl Ran {
    fn new(output: &Output) -> Ran {
        Ran {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    /// Fails unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// Fails unless it failed with a text.
    #[track_caller]
    pub fn fails_with(&self, text: &str) {
        assert!(
            matches!(self.code, Some(1 | 255)),
            "{:?}, stdout: {}\nstderr: {}",
            self.code,
            self.out,
            self.err
        );
        assert!(self.err.contains(text), "{:?} is not in {:?}", text, self.err);
        assert_eq!(self.err.lines().count(), 1, "one line: {:?}", self.err);
    }
}

impl Host {
    pub fn new() -> Host {
        Host { directory: tempfile::tempdir().expect("a directory"), user: User::Caller }
    }

    /// One whose commands are run by an ordinary user, to whom all of it belongs. The caller is root.
    pub fn ordinary() -> Host {
        let host = Host { directory: tempfile::tempdir().expect("a directory"), user: User::Ordinary };
        // Where it was built, others may not go.
        std::fs::copy(env!("CARGO_BIN_EXE_nacelle"), host.path("nacelle")).expect("a copy");
        host.give(&host.path("."));
        host
    }

    /// Gives a file or a directory with all that is in it to the user who runs the commands.
    pub fn give(&self, path: &Path) {
        if self.user == User::Ordinary {
            let mut chown = Command::new("chown");
            let owner = format!("{ORDINARY}:{ORDINARY}");
            assert!(chown.arg("-hR").arg(owner).arg(path).status().expect("chown runs").success());
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command with our state directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            User::Caller => Command::new(env!("CARGO_BIN_EXE_nacelle")),
            User::Ordinary => {
                let mut command = Command::new("setpriv");
                let id = ORDINARY.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
                command.arg(self.path("nacelle"));
                command
            }
        };
        command.arg("--root").arg(self.path("state")).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::new(&self.command(arguments).output().expect("nacelle starts"))
    }

    /// Runs a command that leaves a program behind, whose output is lost.
    pub fn run_and_leave(&self, arguments: &[&str]) -> Ran {
        let path = self.path("left.err");
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&path).expect("a file"));
        let status = command.status().expect("nacelle starts");
        Ran { out: String::new(), err: std::fs::read_to_string(path).expect("text"), code: status.code() }
    }

    /// Makes a container. Its output goes to a file, since it lives on when the command has ended.
    pub fn create(&self, id: &str, bundle: &Path, more: &[&str]) -> Ran {
        let output = std::fs::File::create(self.path(&format!("{id}.out"))).expect("a file");
        let mut command = self.command(&["create", "--bundle", bundle.to_str().expect("text")]);
        let error = self.path(&format!("{id}.err"));
        command.args(more).arg(id).stdout(output).stderr(std::fs::File::create(&error).expect("a file"));
        let status = command.status().expect("nacelle starts");
        let err = std::fs::read_to_string(error).expect("text");
        Ran { out: String::new(), err, code: status.code() }
    }

    /// What a container that [`Host::create`] made has written.
    pub fn output(&self, id: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{id}.out"))).unwrap_or_default()
    }

    /// Waits until it has written a text.
    #[track_caller]
    pub fn wait_for_output(&self, id: &str, text: &str) {
        until(text, || self.output(id).contains(text));
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.run(&["state", id]).ok()).expect("JSON")
    }

    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().expect("a status").to_owned()
    }

    pub fn pid(&self, id: &str) -> i32 {
        self.state(id)["pid"].as_i64().expect("a pid") as i32
    }

    pub fn list(&self) -> Vec<String> {
        self.run(&["list", "--quiet"]).ok().lines().map(str::to_owned).collect()
    }

    /// A bundle whose program is a shell script.
    pub fn bundle(&self, name: &str, script: &str) -> PathBuf {
        self.bundle_with(name, script, |_| {})
    }

    /// The same with changes to its specification.
    pub fn bundle_with(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path(name);
        make_rootfs(&bundle.join("rootfs"));
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "process": {
                "cwd": "/",
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin", "INHERITED=yes"],
                "user": { "uid": 0, "gid": 0 },
                "capabilities": {
                    "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_DAC_OVERRIDE"],
                    "effective": ["CAP_CHOWN", "CAP_KILL"],
                    "permitted": ["CAP_CHOWN", "CAP_KILL"],
                },
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts" },
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
        });
        change(&mut spec);
        std::fs::write(bundle.join("config.json"), spec.to_string()).expect("written");
        self.give(&bundle);
        bundle
    }

    /// Makes and starts a container.
    #[track_caller]
    pub fn started(&self, id: &str, bundle: &Path) {
        self.create(id, bundle, &[]).ok();
        self.run(&["start", id]).ok();
    }

    /// Kills whoever runs an attached container, and fails unless the container ends.
    #[track_caller]
    pub fn assert_attached_dies_with_its_caller(&self) {
        let bundle = self.bundle("b", SERVICE);
        let output = std::fs::File::create(self.path("r.out")).expect("a file");
        let mut command = self.command(&["run", "--bundle", bundle.to_str().expect("text"), "r"]);
        let mut child = command.stdout(output).spawn().expect("started");
        self.wait_for_output("r", "ready");
        child.kill().expect("killed");
        child.wait().expect("waited");
        until("its end", || self.list().is_empty());
        self.assert_nothing_left();
    }

    /// Fails if anything of a container is left: files, processes, mounts, control groups.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.list(), Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(self.path("state")).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let state = self.path("state");
        let state = state.to_str().expect("text");
        // Whatever was forked from a command has its arguments.
        until("the end of all processes", || processes_with(state).is_empty());
        assert_eq!(self.mounts(), Vec::<String>::new());
        assert_eq!(self.control_groups(), Vec::<PathBuf>::new());
    }

    /// Mounts of the host in, or of, our directory.
    pub fn mounts(&self) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("a procfs");
        let directory = self.directory.path().to_str().expect("text");
        text.lines().filter(|line| line.contains(directory)).map(str::to_owned).collect()
    }

    /// Control groups of our containers, in all hierarchies: what they are called after the container's name depends on
    /// the state directory (FNV-1a).
    pub fn control_groups(&self) -> Vec<PathBuf> {
        let state = self.path("state");
        let hash =
            state.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mut found = Vec::new();
        find_groups(&format!(".{hash:016x}"), Path::new("/sys/fs/cgroup"), &mut found);
        found
    }
}

/// Directories of control groups whose names end like this.
fn find_groups(end: &str, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().ends_with(end) {
                found.push(entry.path());
            }
            find_groups(end, &entry.path(), found);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for id in std::fs::read_dir(self.path("state")).into_iter().flatten().flatten() {
            let containers = std::fs::read_dir(id.path().join("containers")).into_iter().flatten().flatten();
            for container in containers.chain([id]) {
                let _ = self.run(&["delete", "--force", container.file_name().to_str().unwrap_or_default()]);
            }
        }
    }
}

/// Living processes whose command line has this text in it.
pub fn processes_with(text: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text) && is_alive(*pid)
    })
    .collect()
}

/// Compiles `meet.c`, statically, to a file; says why not if that cannot be.
pub fn compile_meet(to: &Path) -> bool {
    compile("meet", to)
}

/// Compiles a program of this directory, statically, to a file; says why not if that cannot be.
pub fn compile(name: &str, to: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name).with_extension("c");
    let mut compiler = Command::new("cc");
    match compiler.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(to).arg(source).status()
    {
        Ok(status) => {
            assert!(status.success(), "{name}.c does not compile");
            true
        }
        Err(_) => {
            skip("there is no C compiler (packages gcc and libc6-dev)");
            false
        }
    }
}

/// The gofer of a container: it was forked from the command that made the container, whose name came last.
pub fn gofers_of(host: &Host, id: &str) -> Vec<i32> {
    let state = host.path("state");
    let is_gofer = |pid: &i32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("comm").trim() == "nacelle-gofer" && read("cmdline").ends_with(&format!("\0{id}\0"))
    };
    processes_with(state.to_str().expect("text")).into_iter().filter(is_gofer).collect()
}

/// Whether a process runs: a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn make_rootfs(root: &Path) {
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).expect("a directory");
    for directory in ["etc", "tmp", "proc", "dev"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    let Some(busybox) = busybox() else { panic!("no busybox") };
    std::fs::copy(busybox, bin.join("busybox")).expect("a copy");
    let tools = [
        "awk", "cat", "chmod", "cut", "dd", "echo", "env", "grep", "hostname", "id", "kill", "ln", "ls",
        "mkdir", "mkfifo", "mknod", "mv", "ps", "pwd", "rm", "rmdir", "sed", "sh", "sleep", "stat", "stty",
        "touch", "tr", "true", "truncate", "tty", "wc",
    ];
    for tool in tools {
        std::os::unix::fs::symlink("busybox", bin.join(tool)).expect("a link");
    }
}
