//! Guests that attack (`hostile/*.c`): whatever they do to themselves, the sandbox may end them or itself, and nothing
//! else: no file and no process outside is reached, and a neighbour in another sandbox does not notice.
//!
//! They run inside only: on a host they would do harm. `NACELLE_HOSTILE_CALLS` sets how many random system calls are made
//! (20,000 where nothing is said).

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use conformance::guest::{build_directory, compiler, nacelle};

/// The longest that an attack may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What the attacks need, or `None` (with the reason printed) where it is missing.
fn tools() -> Option<(PathBuf, String)> {
    match nacelle().and_then(|nacelle| compiler().map(|compiler| (nacelle, compiler))) {
        Ok(tools) => Some(tools),
        Err(reason) => {
            assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "cannot be skipped here: {reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// Compiles an attack, statically.
fn compile(compiler: &str, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile").join(name).with_extension("c");
    let directory = build_directory().expect("a build directory").join("hostile");
    fs::create_dir_all(&directory).expect("the build directory");
    let program = directory.join(name);
    let flags =
        ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation", "-O1", "-pthread", "-static"];
    let status = Command::new(compiler).args(flags).arg("-o").arg(&program).arg(&source).status();
    assert!(status.expect("the compiler runs").success(), "{} does not compile", source.display());
    program
}

/// A sandbox that answers each line with the same line.
struct Neighbour {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Neighbour {
    fn start(nacelle: &Path) -> Neighbour {
        let mut command = Command::new(nacelle);
        command.args(["do", "--", "sh", "-c", "while read line; do echo \"$line\"; done"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a neighbour");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut neighbour = Neighbour { child, output };
        neighbour.answers();
        neighbour
    }

    fn answers(&mut self) {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "are you well?").expect("the neighbour reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the neighbour writes");
        assert_eq!(line, "are you well?\n");
    }

    fn end(mut self) {
        self.answers();
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("the neighbour ends").success());
    }
}

/// Runs an attack in a sandbox beside a neighbour, and checks what holds for all attacks.
fn attack(nacelle: &Path, options: &[&str], command: &[&str]) -> Output {
    let mut neighbour = Neighbour::start(nacelle);
    let started = Instant::now();
    let mut child = Command::new("timeout")
        .args(["--kill-after=5", &LIMIT.as_secs().to_string()])
        .arg(nacelle)
        .arg("do")
        .args(options)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nacelle starts");
    while started.elapsed() < LIMIT && child.try_wait().expect("a status").is_none() {
        neighbour.answers();
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = child.wait_with_output().expect("its output");
    neighbour.end();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "the kernel panicked: {errors}");
    assert_ne!(output.status.code(), Some(124), "the sandbox hung: {errors}");
    assert!(output.stderr.len() < 1 << 20, "the log has no bound: {} bytes", output.stderr.len());
    output
}

fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn random_system_calls_harm_nobody_else() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "syscalls");
    let calls = std::env::var("NACELLE_HOSTILE_CALLS").unwrap_or_else(|_| "20000".to_owned());
    // Another seed each day, so that the suite sees more than one run could.
    let day = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() / 86400);
    let seed = std::env::var("NACELLE_HOSTILE_SEED").unwrap_or_else(|_| day.to_string());
    let output = attack(&nacelle, &["--cwd", "/tmp"], &[&program.display().to_string(), &seed, &calls, "2"]);
    assert!(output.status.success(), "seed {seed}: {}", text(&output));
}

#[test]
fn a_guest_that_attacks_its_stub_harms_only_itself() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "stub");
    let output = attack(&nacelle, &[], &[&program.display().to_string(), "7", "60"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_guest_that_takes_all_it_can_get_leaves_the_kernel_at_work() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "limits");
    let output = attack(&nacelle, &[], &[&program.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn no_path_leads_out_of_a_volume() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "paths");
    let directory = tempfile::tempdir().expect("a directory");
    let [root, volume, outside] = ["root", "volume", "outside"].map(|name| directory.path().join(name));
    for made in [&root, &volume, &outside] {
        fs::create_dir(made).expect("a directory");
    }
    fs::copy(&program, root.join("paths")).expect("the program");
    fs::write(outside.join("secret"), "the secret").expect("the secret");
    let (root, volume) = (root.display().to_string(), format!("{}:/volume", volume.display()));
    let output =
        attack(&nacelle, &["--root", &root, "--volume", &volume, "--cwd", "/"], &["/paths", "/volume", "3"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("the secret"));
    let left: Vec<_> =
        fs::read_dir(&outside).expect("a listing").map(|entry| entry.expect("a name").file_name()).collect();
    assert_eq!(left, ["secret"]);
    assert_eq!(fs::read_to_string(outside.join("secret")).expect("the secret"), "the secret");
}
