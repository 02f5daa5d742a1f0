//! Real programs natively and inside: the same output, the same status, as root and as an ordinary user.
//!
//! Each file in `programs/` is a script that prints what must not differ. Comments at its top say what it needs and how
//! long it may take:
//!
//! ```text
//! # needs: TOOL...
//! # time: SECONDS
//! ```
//!
//! It runs in an empty directory of its own. Arguments select by name: `cargo test -p runtime --test programs -- git`.

mod common;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Outcome, Stage, User};

/// How many run at a time.
const PARALLEL: usize = 2;
/// How long one may take that says nothing of it.
const SECONDS: u64 = 60;

/// A script and who runs it.
struct Case {
    name: String,
    script: PathBuf,
    needs: Vec<String>,
    limit: Duration,
    user: User,
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let stage = Stage::new();
    let cases: Vec<Case> = cases(&stage)
        .into_iter()
        .filter(|case| filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter)))
        .collect();
    if std::env::args().any(|word| word == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    if !common::is_root() {
        println!("skipped: not run as root, so only the caller's own user is tested");
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(text) = check(&stage, case) {
                        println!("FAILED {}: {text}", case.name);
                        failures.lock().expect("no panic").push(case.name.clone());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    println!("{} of {} programs passed", cases.len() - failures.len(), cases.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All scripts, copied to where everybody can read them, for all users.
fn cases(stage: &Stage) -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let mut names: Vec<_> = std::fs::read_dir(directory).expect("the scripts are there").flatten().collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    let copies = stage.scratch("programs", User::Caller);
    let mut cases = Vec::new();
    for entry in names {
        let file = entry.file_name().to_string_lossy().into_owned();
        let script = copies.join(&file);
        std::fs::copy(entry.path(), &script).expect("a copy");
        let text = std::fs::read_to_string(&script).expect("a text");
        let field = |name: &str| {
            let line = text.lines().take(6).find_map(|line| line.split_once(name))?.1;
            Some(line.trim().to_owned())
        };
        let seconds = field(" time:").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
        for user in common::users() {
            let stem = file.split('.').next().unwrap_or_default();
            let who = if *user == User::Ordinary { "ordinary" } else { "caller" };
            cases.push(Case {
                name: format!("{stem}/{who}"),
                script: script.clone(),
                needs: field(" needs:").iter().flat_map(|list| list.split(' ')).map(str::to_owned).collect(),
                limit: Duration::from_secs(seconds),
                user: *user,
            });
        }
    }
    cases
}

/// Runs a case in both places and compares.
fn check(stage: &Stage, case: &Case) -> Result<(), String> {
    if let Some(missing) = case.needs.iter().find(|tool| common::find(tool).is_none()) {
        if common::must_run() {
            return Err(format!("{missing} is not installed"));
        }
        println!("skipped {}: {missing} is not installed", case.name);
        return Ok(());
    }
    let native = run(stage, case, false);
    let inside = run(stage, case, true);
    let problem = if native.status.is_none() {
        Some("took too long natively".to_owned())
    } else if matches!(native.code(), Some(126 | 127)) {
        Some("cannot be run natively: is the file executable?".to_owned())
    } else if inside.status.is_none() {
        Some("took too long inside".to_owned())
    } else if native.code() != inside.code() {
        Some(format!("status {:?} instead of {:?}", inside.code(), native.code()))
    } else {
        (native.output != inside.output).then(|| "another output".to_owned())
    };
    match problem {
        None => {
            let (native, inside) = (native.time.as_secs_f64(), inside.time.as_secs_f64());
            println!("ok {} (native {native:.1} s, inside {inside:.1} s)", case.name);
            Ok(())
        }
        Some(text) => Err(format!("{text}\n{}", differences(stage, &native, &inside))),
    }
}

fn run(stage: &Stage, case: &Case, inside: bool) -> Outcome {
    let name = case.name.replace('/', "-");
    let scratch = stage.scratch(&name, case.user);
    let shell = Path::new("/bin/sh");
    let mut command = if inside {
        let mut command = stage.command(&stage.nacelle(), case.user);
        // What the sandbox says goes to standard error, and is shown if the case fails.
        command.args(["--debug", "do", "--"]).arg(shell);
        command
    } else {
        stage.command(shell, case.user)
    };
    // The shell goes on, so that the script is not process 1, which is special in many ways.
    command.args(["-c", "\"$0\"; exit $?"]).arg(&case.script);
    command.env("HOME", &scratch).current_dir(&scratch);
    let outcome = common::run(stage, &format!("{name}-{inside}"), command, case.limit);
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

/// The lines that differ, and the last ones on standard error: with those that tell of faults, without others for debuggers.
fn differences(stage: &Stage, native: &Outcome, inside: &Outcome) -> String {
    let file = |name: &str, text: &str| {
        let path = stage.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let thread = format!("{:?}", std::thread::current().id());
    let paths = [("native", native), ("inside", inside)]
        .map(|(name, outcome)| file(&format!("{name}-{thread}"), &outcome.output));
    let output = std::process::Command::new("diff").arg("-U1").args(paths).output();
    let lines = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut text: String = lines.lines().skip(2).take(60).map(|line| format!("    {line}\n")).collect();
    let lines: Vec<&str> = inside.error.lines().filter(|line| !line.starts_with("nacelle: debug:")).collect();
    for line in &lines[lines.len().saturating_sub(20)..] {
        text += &format!("  stderr inside: {line}\n");
    }
    text
}
