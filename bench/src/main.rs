//! Measures Nacelle beside the native host and other runtimes: `cargo run --release -p bench -- --help`.
//!
//! - [`calls`]: which system calls of programs the host has to trap;
//! - [`cases`] and [`work`]: what is measured; [`guest`]: compiling the program that runs inside;
//! - [`runtimes`]: how each runtime starts a program; [`memory`]: what its processes weigh;
//! - [`surroundings`]: fewer processors, and other work for them;
//! - [`slopes`]: what each of many threads, processes and sandboxes takes;
//! - [`report`]: medians, the table, JSON; [`picture`]: the table as a picture.
//!
//! Every round measures every runtime once, so that whatever else the machine does hits all of them. Only the ratios
//! within one run mean something.

#![forbid(unsafe_code)]

mod calls;
mod cases;
mod guest;
mod memory;
mod picture;
mod report;
mod runtimes;
mod slopes;
mod surroundings;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;

use cases::Case;
use report::Report;
use runtimes::Runtime;

/// Measures nacelle beside the native host and, where given, runsc and runc, and prints a table of ratios.
#[derive(Parser)]
#[command(name = "bench", max_term_width = 100)]
struct Arguments {
    /// The nacelle to measure; by default the one that was built beside this program.
    #[arg(long, value_name = "PATH")]
    nacelle: Option<PathBuf>,
    /// Another nacelle to compare with.
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// gVisor's runsc, run with --platform=systrap. Needs root.
    #[arg(long, value_name = "PATH")]
    runsc: Option<PathBuf>,
    /// runc. Needs root.
    #[arg(long, value_name = "PATH")]
    runc: Option<PathBuf>,
    /// Measure only cases whose name contains one of these, separated by commas.
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',')]
    filter: Vec<String>,
    /// How often everything is measured; medians are reported.
    #[arg(long, default_value_t = 10, value_name = "N")]
    rounds: usize,
    /// For how many milliseconds a case is repeated in a round.
    #[arg(long, default_value_t = 20, value_name = "MS")]
    budget: u64,
    /// Measure this nacelle also with `--no-spinning`, to see what active waiting is worth.
    #[arg(long)]
    sleeping: bool,
    /// Leave one processor to all that is measured.
    #[arg(long)]
    one_processor: bool,
    /// Keep all processors busy with other work meanwhile.
    #[arg(long)]
    busy: bool,
    /// Keep the files of the workloads in this directory, and use those that are there already. It must be a new one at first.
    #[arg(long, value_name = "DIRECTORY")]
    files: Option<PathBuf>,
    /// Link the measured program statically.
    #[arg(long = "static")]
    linked_statically: bool,
    /// Write all samples to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing: show what these files of --json hold together.
    #[arg(long, value_name = "FILE,…", value_delimiter = ',')]
    from: Vec<PathBuf>,
    /// Write a picture of the table to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the table in Markdown.
    #[arg(long)]
    markdown: bool,
    /// Measure nothing: show how the system calls of programs in several languages come, trapped or from patched code.
    #[arg(long)]
    calls: bool,
    /// Measure only whether the memory and time of many threads, processes and sandboxes grow with their number.
    #[arg(long)]
    slopes: bool,
    /// List the cases and do nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether nothing failed.
fn run(arguments: Arguments) -> anyhow::Result<bool> {
    if arguments.calls {
        print!("{}", calls::table(&runtimes::nacelle(arguments.nacelle.clone())?)?);
        return Ok(true);
    }
    let wanted = |case: &Case| {
        arguments.filter.is_empty() || arguments.filter.iter().any(|text| case.name.contains(text.as_str()))
    };
    let cases: Vec<Case> = cases::ALL.into_iter().chain(work::ALL).filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case matches; --list prints them");
    if arguments.list {
        cases.iter().for_each(|case| println!("{:20} {}", case.name, case.what));
        return Ok(true);
    }
    if !arguments.from.is_empty() {
        let read = |path: &PathBuf| -> anyhow::Result<serde_json::Value> {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(serde_json::from_str(&text)?)
        };
        let parts = arguments.from.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        return show(&arguments, &Report::of_parts(&cases, &parts));
    }
    // Orphans of sandboxes come to us, so that their memory is counted and none is left behind.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become a subreaper")?;
    if arguments.one_processor {
        surroundings::keep_to_one_processor()?;
    }
    let _others = arguments.busy.then(surroundings::OtherWork::start).transpose()?;
    let temporary = tempfile::tempdir().context("cannot make a working directory")?;
    let directory = match &arguments.files {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            directory.canonicalize()?
        }
        None => temporary.path().to_owned(),
    };
    let bundles = tempfile::tempdir().context("cannot make a directory for bundles")?;
    let program = guest::prepare(&directory, arguments.linked_statically)?;
    if !arguments.slopes {
        work::prepare(&cases, &directory)?;
    }
    let runtimes = Runtime::all(
        arguments.nacelle.clone(),
        arguments.baseline.clone(),
        arguments.sleeping,
        arguments.runsc.clone(),
        arguments.runc.clone(),
        &directory,
        bundles.path(),
    )?;
    if arguments.slopes {
        print!("{}", slopes::table(&runtimes, &program)?);
        return Ok(true);
    }
    let mut report = Report::new(&cases, &runtimes, arguments.rounds);
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for runtime in &runtimes {
            cases::measure(&cases, runtime, &program, &directory, arguments.budget, &mut report);
        }
    }
    show(&arguments, &report)
}

/// Prints and writes what was measured; returns whether nothing failed.
fn show(arguments: &Arguments, report: &Report) -> anyhow::Result<bool> {
    print!("{}", if arguments.markdown { report.markdown() } else { report.table() });
    for failure in report.failures() {
        eprintln!("bench: {failure}");
    }
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&report.json())? + "\n")?;
    }
    if let Some(path) = &arguments.svg {
        write(path, report.picture())?;
    }
    Ok(report.failures().is_empty())
}
