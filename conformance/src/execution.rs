//! Running one guest program, natively or inside, and reading its report.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// What a case came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `ok NAME`.
    Passed,
    /// `FAIL NAME: text`, or no line for the case at all.
    Failed(String),
    /// `skip NAME: reason`.
    Skipped(String),
}

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// On this machine's kernel.
    Native,
    /// In a sandbox made by this `nacelle` binary.
    Inside(&'a Path),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Place::Native => "native",
            Place::Inside(_) => "inside",
        })
    }
}

/// The longest that a whole program may take; its own timeouts per case come first on a kernel that works.
const PROGRAM_TIME: Duration = Duration::from_secs(150);
/// The longest that a case may take in a run of its own.
const CASE_TIME: Duration = Duration::from_secs(25);
/// How many cases are run by themselves when a whole program ended early or hung.
const SINGLE_RUNS: usize = 64;
/// How much output of a program is read.
const OUTPUT_LIMIT: u64 = 4 << 20;

/// The names of the program's cases, asked for natively, and once: what runs natively is the only one of its program that does,
/// so that those that it leaves behind are known by that.
pub fn list(program: &Path) -> anyhow::Result<Vec<String>> {
    static LISTS: Mutex<BTreeMap<PathBuf, Vec<String>>> = Mutex::new(BTreeMap::new());
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(list) = lists.get(program) {
        return Ok(list.clone());
    }
    let run = run(Place::Native, program, &["--list".to_owned()], CASE_TIME)?;
    if !run.ended_well() {
        bail!("{} --list {}", program.display(), run.ending());
    }
    let list: Vec<String> = run.output.lines().map(str::to_owned).collect();
    lists.insert(program.to_owned(), list.clone());
    Ok(list)
}

/// Runs the cases and returns an outcome for each. When the program dies or hangs half-way, the cases that it had no
/// word on are run one by one.
pub fn run_cases(
    place: Place<'_>,
    program: &Path,
    cases: &[String],
) -> anyhow::Result<BTreeMap<String, Outcome>> {
    let whole = run(place, program, cases, PROGRAM_TIME)?;
    let mut outcomes = parse_report(&whole.output);
    let complete = cases.iter().all(|case| outcomes.contains_key(case));
    if complete && whole.timed_out {
        bail!("all cases were reported, but the program did not end\n{}", whole.output_tail());
    }
    let missing: Vec<&String> = cases.iter().filter(|case| !outcomes.contains_key(*case)).collect();
    for (index, case) in missing.into_iter().enumerate() {
        if index >= SINGLE_RUNS {
            outcomes
                .insert(case.clone(), Outcome::Failed("not run: too many cases before it were lost".into()));
            continue;
        }
        let single = run(place, program, std::slice::from_ref(case), CASE_TIME)?;
        let outcome = parse_report(&single.output).remove(case).unwrap_or_else(|| {
            Outcome::Failed(format!("no report: the program {}\n{}", single.ending(), single.output_tail()))
        });
        outcomes.insert(case.clone(), outcome);
    }
    Ok(outcomes)
}

/// Reads the report lines. A failure weighs more than other lines on the same case, and the first failure most.
fn parse_report(output: &str) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    for line in output.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        let (case, text) = rest.split_once(": ").unwrap_or((rest, ""));
        let outcome = match word {
            "ok" => Outcome::Passed,
            "FAIL" => Outcome::Failed(text.to_owned()),
            "skip" => Outcome::Skipped(text.to_owned()),
            _ => continue,
        };
        let failed_before = matches!(outcomes.get(case), Some(Outcome::Failed(_)));
        if !failed_before {
            outcomes.insert(case.to_owned(), outcome);
        }
    }
    outcomes
}

/// A program's run.
struct Run {
    output: String,
    status: Option<ExitStatus>,
    timed_out: bool,
}

impl Run {
    fn ended_well(&self) -> bool {
        !self.timed_out && self.status.is_some_and(|status| status.success())
    }

    fn ending(&self) -> String {
        match self.status {
            _ if self.timed_out => "took too long".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
            None => "could not be waited for".to_owned(),
        }
    }

    /// The last lines of the output, indented.
    fn output_tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        let tail = &lines[lines.len().saturating_sub(6)..];
        tail.iter().map(|line| format!("        {line}\n")).collect()
    }
}

/// Runs a program to its end, or until the time is over; then its whole process group is killed.
fn run(place: Place<'_>, program: &Path, arguments: &[String], limit: Duration) -> anyhow::Result<Run> {
    // What is not below it is a layer in memory inside.
    let volume =
        tempfile::Builder::new().prefix("conformance-volume.").tempdir().context("making a volume")?;
    let mut permissions = std::fs::metadata(volume.path())?.permissions();
    permissions.set_mode(0o777);
    std::fs::set_permissions(volume.path(), permissions).context("opening the volume to all")?;
    let mut command = match place {
        Place::Native => Command::new(program),
        Place::Inside(nacelle) => {
            let mut command = Command::new(nacelle);
            let path = volume.path().display();
            command.arg("do").arg(format!("--volume={path}:{path}")).arg("--").arg(program);
            command
        }
    };
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let mut child = command
        .args(arguments)
        .current_dir("/")
        .env("TEST_VOLUME", volume.path())
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    // Holds the pipe's write end.
    drop(command);
    let (sender, output) = mpsc::channel();
    // Not joined: a process that escaped from the group may hold the pipe open for ever.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    let deadline = Instant::now() + limit;
    let status = wait_until(&mut child, deadline)?;
    let timed_out = status.is_none();
    kill_group(&child);
    let status = match status {
        Some(status) => Some(status),
        None => wait_until(&mut child, Instant::now() + Duration::from_secs(5))?,
    };
    if matches!(place, Place::Native) {
        kill_orphans(program);
    }
    let bytes = output.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
    Ok(Run { output: String::from_utf8_lossy(&bytes).into_owned(), status, timed_out })
}

fn wait_until(child: &mut Child, deadline: Instant) -> anyhow::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("waiting for a program")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // An empty group is the usual case: the program has ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Makes this process the parent of what programs leave behind.
pub fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Kills what a program that has ended has left behind: a case that leads a session of its own is in no group of the
/// program's.
fn kill_orphans(program: &Path) {
    let Ok(program) = program.canonicalize() else { return };
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw));
        for pid in pids {
            let number = pid.as_raw_nonzero();
            if std::fs::read_link(format!("/proc/{number}/exe")).is_ok_and(|exe| exe == program) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_line_by_line() {
        let outcomes = parse_report("ok a\nnoise\nFAIL b: x.c:1: text: more\nskip c: needs root\nok b\nok d");
        assert_eq!(outcomes["a"], Outcome::Passed);
        assert_eq!(outcomes["b"], Outcome::Failed("x.c:1: text: more".into()));
        assert_eq!(outcomes["c"], Outcome::Skipped("needs root".into()));
        assert_eq!(outcomes.len(), 4);
    }

    #[test]
    fn a_program_leaves_nobody_behind() {
        adopt_orphans();
        // The first one ends and leaves another in a session of its own, which is the same program.
        let perl = Path::new("/usr/bin/perl");
        if !perl.exists() {
            return eprintln!("skipped: there is no perl");
        }
        let script = "use POSIX; if (fork == 0) { POSIX::setsid(); $| = 1; print $$; exec '/usr/bin/perl', '-e', 'sleep 1000' } sleep 1";
        let run = run(Place::Native, perl, &["-e".to_owned(), script.to_owned()], Duration::from_secs(20));
        let run = run.expect("it runs");
        assert!(run.ended_well() && run.output.parse::<u32>().is_ok(), "{:?}", run.output);
        assert!(!Path::new("/proc").join(run.output.trim()).exists());
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let run = run(Place::Native, Path::new("/bin/sleep"), &["100".to_owned()], Duration::from_millis(50));
        assert!(run.expect("sleep runs").timed_out);
    }
}
