//! The test program: its arguments, the judgement on each case, and the summary.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::{env, fs, thread};

use anyhow::{Context as _, bail};

use crate::execution::{self, Outcome, Place};
use crate::expectations::Expectations;
use crate::guest::{self, Guest};

/// The command line. The options of libtest that cargo-nextest uses are understood: there, a test is one subject in
/// one place, named `native::subject`.
#[derive(Debug, Default)]
struct Arguments {
    filters: Vec<String>,
    native_only: bool,
    inside_only: bool,
    verbose: bool,
    jobs: Option<usize>,
    list: bool,
    ignored: bool,
    exact: bool,
}

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
        let mut arguments = Arguments::default();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--native-only" => arguments.native_only = true,
                "--inside-only" => arguments.inside_only = true,
                "--verbose" => arguments.verbose = true,
                "--jobs" => arguments.jobs = Some(words.next().context("--jobs needs a number")?.parse()?),
                "--list" => arguments.list = true,
                "--ignored" => arguments.ignored = true,
                "--exact" => arguments.exact = true,
                "--format" => drop(words.next()),
                "--nocapture" | "--no-capture" | "--quiet" | "-q" => {}
                option if option.starts_with('-') => bail!("unknown option {option}"),
                _ => arguments.filters.push(word),
            }
        }
        Ok(arguments)
    }

    fn selects(&self, place: Place<'_>, subject: &str, case: &str) -> bool {
        if self.exact {
            return self.filters.contains(&format!("{place}::{subject}"));
        }
        let name = format!("{subject}/{case}");
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    passed: usize,
    expected_failures: usize,
    failed: usize,
    skipped: usize,
}

/// What one subject in one place came to: the lines to print, and the numbers.
#[derive(Default)]
struct Verdict {
    tally: Tally,
    lines: Vec<String>,
}

impl Verdict {
    fn fail(&mut self, text: String) {
        self.tally.failed += 1;
        self.lines.push(format!("FAIL {text}"));
    }

    fn judge(&mut self, name: &str, outcome: &Outcome, reason: Option<&str>, verbose: bool) {
        match (outcome, reason) {
            (Outcome::Passed, None) => {
                self.tally.passed += 1;
                if verbose {
                    self.lines.push(format!("ok {name}"));
                }
            }
            (Outcome::Passed, Some(reason)) => {
                self.fail(format!(
                    "{name}: passed, but is expected to fail ({reason}): remove it from expect.toml"
                ));
            }
            (Outcome::Failed(text), None) => self.fail(format!("{name}: {text}")),
            (Outcome::Failed(text), Some(reason)) => {
                self.tally.expected_failures += 1;
                if verbose {
                    self.lines.push(format!("xfail {name}: {reason} ({text})"));
                }
            }
            (Outcome::Skipped(text), _) => {
                self.tally.skipped += 1;
                self.lines.push(format!("skip {name}: {text}"));
            }
        }
    }
}

/// Runs the suite as the arguments of this process say.
pub fn main() -> ExitCode {
    crate::execution::adopt_orphans();
    match Arguments::parse(env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let guests = Guest::all()?;
    if arguments.list {
        for guest in guests.iter().filter(|_| !arguments.ignored) {
            println!("native::{}: test\ninside::{}: test", guest.subject, guest.subject);
        }
        return Ok(true);
    }
    if arguments.ignored {
        return Ok(true);
    }
    let expectations_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("expect.toml");
    let expectations = fs::read_to_string(&expectations_path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Expectations::parse(&text))
        .with_context(|| format!("reading {}", expectations_path.display()))?;
    let compiler = match guest::compiler() {
        Ok(compiler) => compiler,
        Err(reason) => return Ok(left_out("everything", &reason)),
    };
    let nacelle = guest::nacelle();
    let mut places = Vec::new();
    let mut complete = true;
    if !arguments.inside_only {
        places.push(Place::Native);
    }
    if !arguments.native_only {
        match &nacelle {
            Ok(path) => places.push(Place::Inside(path)),
            Err(reason) => complete = left_out("inside", reason),
        }
    }

    let subjects: Vec<&str> = guests.iter().map(|guest| guest.subject.as_str()).collect();
    let mut total = Tally::default();
    for name in expectations.without_subject(&subjects) {
        println!("FAIL expect.toml: {name}: there is no such subject");
        total.failed += 1;
    }
    let queue: Mutex<VecDeque<(Place<'_>, &Guest)>> =
        Mutex::new(places.iter().flat_map(|place| guests.iter().map(move |guest| (*place, guest))).collect());
    let finished = Mutex::new(&mut total);
    let jobs =
        arguments.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from).min(4));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some((place, guest)) = queue.lock().ok().and_then(|mut queue| queue.pop_front())
                    else {
                        return;
                    };
                    let verdict = run_subject(arguments, &expectations, &compiler, place, guest);
                    if let Ok(mut total) = finished.lock() {
                        print_verdict(place, guest, &verdict);
                        add(&mut total, verdict.tally);
                    }
                }
            });
        }
    });
    println!(
        "{} passed, {} expected failures, {} failed, {} skipped",
        total.passed, total.expected_failures, total.failed, total.skipped
    );
    Ok(complete && total.failed == 0)
}

/// Says that a part of the run is left out; false if that is a failure.
fn left_out(part: &str, reason: &str) -> bool {
    let required = env::var_os("NACELLE_REQUIRE_ALL").is_some_and(|value| value == "1");
    println!("{} {part}: {reason}", if required { "FAIL" } else { "skip" });
    !required
}

fn add(total: &mut Tally, tally: Tally) {
    total.passed += tally.passed;
    total.expected_failures += tally.expected_failures;
    total.failed += tally.failed;
    total.skipped += tally.skipped;
}

fn print_verdict(place: Place<'_>, guest: &Guest, verdict: &Verdict) {
    let tally = verdict.tally;
    if tally.passed + tally.expected_failures + tally.failed + tally.skipped == 0 {
        return;
    }
    for line in &verdict.lines {
        println!("{place}: {line}");
    }
    println!("{place}: {}: {} passed, {} failed", guest.subject, tally.passed, tally.failed);
}

/// Runs one guest program in one place. What keeps it from running counts as one failure.
fn run_subject(
    arguments: &Arguments,
    expectations: &Expectations,
    compiler: &str,
    place: Place<'_>,
    guest: &Guest,
) -> Verdict {
    let mut verdict = Verdict::default();
    let subject = guest.subject.as_str();
    // Compile and list only what the filters may select.
    if arguments.exact && !arguments.selects(place, subject, "") {
        return verdict;
    }
    let result = guest::build_directory()
        .and_then(|directory| guest.compile(compiler, &directory))
        .and_then(|program| Ok((execution::list(&program)?, program)));
    let (cases, program) = match result {
        Ok(listed) => listed,
        Err(error) => {
            verdict.fail(format!("{subject}: {error:#}"));
            return verdict;
        }
    };
    for case in expectations.cases_of(subject).filter(|case| !cases.iter().any(|listed| listed == case)) {
        verdict.fail(format!("expect.toml: {subject}/{case}: there is no such case"));
    }
    let chosen: Vec<String> =
        cases.into_iter().filter(|case| arguments.selects(place, subject, case)).collect();
    if chosen.is_empty() {
        return verdict;
    }
    match execution::run_cases(place, &program, &chosen) {
        Ok(outcomes) => {
            for case in &chosen {
                let reason = match place {
                    Place::Native => None,
                    Place::Inside(_) => expectations.reason(subject, case),
                };
                let missing = Outcome::Failed("no report".into());
                let outcome = outcomes.get(case).unwrap_or(&missing);
                verdict.judge(&format!("{subject}/{case}"), outcome, reason, arguments.verbose);
            }
        }
        Err(error) => verdict.fail(format!("{subject}: {error:#}")),
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_judged_by_the_expectation() {
        let mut verdict = Verdict::default();
        let failed = Outcome::Failed("text".into());
        verdict.judge("a/passes", &Outcome::Passed, None, false);
        verdict.judge("a/passes_unexpectedly", &Outcome::Passed, Some("reason"), false);
        verdict.judge("a/fails", &failed, None, false);
        verdict.judge("a/fails_as_expected", &failed, Some("reason"), false);
        verdict.judge("a/skips", &Outcome::Skipped("needs root".into()), Some("reason"), false);
        let Tally { passed, expected_failures, failed, skipped } = verdict.tally;
        assert_eq!([passed, expected_failures, failed, skipped], [1, 1, 2, 1]);
    }

    #[test]
    fn filters_select_by_substring_or_exactly() {
        let parse =
            |words: &[&str]| Arguments::parse(words.iter().map(|word| (*word).to_owned())).expect("valid");
        assert!(parse(&[]).selects(Place::Native, "mm", "brk"));
        assert!(parse(&["mm/b"]).selects(Place::Native, "mm", "brk"));
        assert!(!parse(&["files"]).selects(Place::Native, "mm", "brk"));
        let exact = parse(&["native::mm", "--exact", "--nocapture"]);
        assert!(exact.selects(Place::Native, "mm", "brk"));
        assert!(!exact.selects(Place::Inside(Path::new("/")), "mm", "brk"));
        assert!(Arguments::parse(["--unknown".to_owned()].into_iter()).is_err());
    }
}
