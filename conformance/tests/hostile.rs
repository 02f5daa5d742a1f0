//! Guests that attack (`hostile/*.c`): whatever they do to themselves, the sandbox may end them or itself, and nothing
//! else: no file and no process outside is reached, and a neighbour in another sandbox does not notice.
//!
//! They run inside only: on a host they would do harm. `NACELLE_HOSTILE_CALLS` sets how many random system calls are made
//! (20,000 where nothing is said), in runs of a million at most, each with a seed of its own from `NACELLE_HOSTILE_SEED` on.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use conformance::guest::{build_directory, compiler, nacelle};

/// How many random system calls are made.
fn calls() -> u64 {
    let calls = std::env::var("NACELLE_HOSTILE_CALLS").ok();
    calls.map_or(20_000, |calls| calls.parse().expect("NACELLE_HOSTILE_CALLS is a number"))
}

/// The most random system calls of one run.
const MOST_CALLS: u64 = 1_000_000;

/// The longest that an attack may take on a loaded machine.
fn limit() -> Duration {
    Duration::from_secs(300 + calls().min(MOST_CALLS) / 2000)
}

/// What the attacks need, or `None` (with the reason printed) where it is missing.
fn tools() -> Option<(PathBuf, String)> {
    match nacelle().and_then(|nacelle| compiler().map(|compiler| (nacelle, compiler))) {
        Ok(tools) => Some(tools),
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

fn skip(reason: &str) {
    assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "cannot be skipped here: {reason}");
    eprintln!("skipped: {reason}");
}

fn host_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Compiles an attack, statically.
fn compile(compiler: &str, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile").join(name).with_extension("c");
    let directory = build_directory().expect("a build directory").join("hostile");
    fs::create_dir_all(&directory).expect("the build directory");
    let program = directory.join(name);
    let flags =
        ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation", "-O1", "-pthread", "-static"];
    // Others may copy the one that there is.
    let place = tempfile::tempdir_in(&directory).expect("a directory");
    let fresh = place.path().join(name);
    let status = Command::new(compiler).args(flags).arg("-o").arg(&fresh).arg(&source).status();
    assert!(status.expect("the compiler runs").success(), "{} does not compile", source.display());
    fs::rename(&fresh, &program).expect("the program");
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

/// Reads what somebody writes, to its end.
fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("a pipe");
        all
    })
}

/// Runs an attack in a sandbox beside a neighbour, and checks what holds for all attacks. The arguments are those of
/// `nacelle`, and then the rest of them.
fn attack(nacelle: &Path, arguments: &[&str], command: &[&str]) -> Output {
    let mut neighbour = Neighbour::start(nacelle);
    let started = Instant::now();
    let mut child = Command::new("timeout")
        .args(["--kill-after=5", &limit().as_secs().to_string()])
        .arg(nacelle)
        .args(arguments)
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nacelle starts");
    // Meanwhile, or a guest that writes would wait for ever.
    let out = read_all(child.stdout.take().expect("its output"));
    let err = read_all(child.stderr.take().expect("its errors"));
    while started.elapsed() < limit() && child.try_wait().expect("a status").is_none() {
        neighbour.answers();
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = child.wait().expect("its end");
    let [stdout, stderr] = [out, err].map(|reader| reader.join().expect("it is read"));
    let output = Output { status, stdout, stderr };
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
    let calls = calls();
    // Another seed each day, so that the suite sees more than one run could.
    let day = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() / 86400);
    let first = std::env::var("NACELLE_HOSTILE_SEED").ok();
    let first = first.map_or(day, |seed| seed.parse().expect("NACELLE_HOSTILE_SEED is a number"));
    for run in 0..calls.div_ceil(MOST_CALLS) {
        let calls = (calls - run * MOST_CALLS).min(MOST_CALLS);
        random_calls(&nacelle, &program, first + run, calls);
    }
}

fn random_calls(nacelle: &Path, program: &Path, seed: u64, calls: u64) {
    let started = Instant::now();
    let output = attack(
        nacelle,
        &["do", "--cwd", "/tmp", "--"],
        &[&program.display().to_string(), &seed.to_string(), &calls.to_string(), "8"],
    );
    assert!(output.status.success(), "seed {seed}: {}", text(&output));
    // They may have written to its standard output, too.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let made =
        said.lines().filter_map(|line| line.split_once(" calls by ")?.0.parse::<u64>().ok()).next_back();
    assert!(made >= Some(calls), "seed {seed}: {made:?} calls of {calls}");
    println!("seed {seed}: {} calls in {} s", made.unwrap_or(0), started.elapsed().as_secs());
}

#[test]
fn a_guest_that_attacks_its_stub_harms_only_itself() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "stub");
    let output = attack(&nacelle, &["do", "--"], &[&program.display().to_string(), "7", "60"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_guest_that_takes_all_it_can_get_leaves_the_kernel_at_work() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "limits");
    let output = attack(&nacelle, &["do", "--"], &[&program.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A directory of the host with what a guest is shown, and beside it what it is not.
struct Surroundings {
    directory: tempfile::TempDir,
}

impl Surroundings {
    fn new(program: &Path) -> Surroundings {
        let surroundings = Surroundings { directory: tempfile::tempdir().expect("a directory") };
        for name in ["root", "volume", "volume/inner", "outside"] {
            fs::create_dir(surroundings.path(name)).expect("a directory");
        }
        fs::copy(program, surroundings.path("root/paths")).expect("the program");
        fs::write(surroundings.path("file"), "shown").expect("a file");
        fs::write(surroundings.path("outside/secret"), "the secret").expect("the secret");
        surroundings
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Fails if the guest has found a way out.
    fn assert_untouched(&self, output: &Output) {
        assert!(output.status.success(), "{}", text(output));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("the secret"));
        let names = |name: &str| {
            let entries = fs::read_dir(self.path(name)).expect("a listing");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("a name").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names("outside"), ["secret"]);
        let known = ["bundle", "file", "outside", "root", "state", "volume"];
        let unknown: Vec<_> =
            names(".").into_iter().filter(|name| !known.iter().any(|known| name == known)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(fs::read_to_string(self.path("outside/secret")).expect("the secret"), "the secret");
        assert_eq!(fs::read_to_string(self.path("file")).expect("a file"), "shown");
    }
}

const MODES: [&str; 2] = ["--directfs=true", "--directfs=false"];

#[test]
fn no_path_leads_out_of_a_volume() {
    let Some((nacelle, compiler)) = tools() else { return };
    let program = compile(&compiler, "paths");
    for mode in MODES {
        let surroundings = Surroundings::new(&program);
        let (root, volume) = (surroundings.path("root"), surroundings.path("volume"));
        let volume = format!("{}:/volume", volume.display());
        let root = root.display().to_string();
        let options = [mode, "do", "--root", &root, "--volume", &volume, "--cwd", "/", "--"];
        let output = attack(&nacelle, &options, &["/paths", "/volume", "2"]);
        surroundings.assert_untouched(&output);
    }
}

#[test]
fn no_path_leads_out_of_the_mounts_of_a_bundle() {
    let Some((nacelle, compiler)) = tools() else { return };
    if !host_is_root() {
        return skip("a guest that is root is tested as root");
    }
    let program = compile(&compiler, "paths");
    for mode in MODES {
        let surroundings = Surroundings::new(&program);
        let bundle = surroundings.path("bundle");
        fs::create_dir(&bundle).expect("a directory");
        let bind = |source: &str, destination: &str| {
            format!(
                r#"{{"destination":"{destination}","type":"bind","source":"{}","options":["rbind","rw"]}}"#,
                surroundings.path(source).display()
            )
        };
        let config = format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"{}"}},"linux":{{}},
                "process":{{"cwd":"/","args":["/paths","/volume","2","/inner","/file"],"user":{{"uid":0,"gid":0}},
                    "capabilities":{{"bounding":{ALL},"effective":{ALL},"permitted":{ALL}}}}},
                "mounts":[{{"destination":"/proc","type":"proc"}},{},{},{}]}}"#,
            surroundings.path("root").display(),
            bind("volume", "/volume"),
            bind("volume/inner", "/inner"),
            bind("file", "/file"),
        );
        fs::write(bundle.join("config.json"), config).expect("written");
        let (state, bundle) = (surroundings.path("state"), bundle.display().to_string());
        let id = format!("hostile-{}", std::process::id());
        let options = [mode, "--root", &state.display().to_string(), "run", "--bundle", &bundle];
        let output = attack(&nacelle, &options, &[&id]);
        surroundings.assert_untouched(&output);
    }
}

/// Capabilities that a guest may make use of on its way out.
const ALL: &str = r#"["CAP_SYS_ADMIN","CAP_SYS_CHROOT","CAP_DAC_OVERRIDE","CAP_DAC_READ_SEARCH","CAP_FOWNER","CAP_MKNOD","CAP_CHOWN","CAP_SYS_PTRACE"]"#;
