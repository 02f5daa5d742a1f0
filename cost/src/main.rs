//! Counts the instructions that the kernel needs for system calls, and the host's calls among them, and compares them with
//! those that are stored in the repository: `cargo run --profile cost -p cost`.
//!
//! - [`cases`]: what is counted; [`machine`]: the kernel that does it; [`platform`]: the guest, a list of calls;
//! - [`counting`]: going through a case, between the [`marks`]; [`functions`]: where it spends its time;
//! - [`ledger`]: the stored costs, and what differs from them.

#![forbid(unsafe_code)]

mod cases;
mod counting;
mod functions;
mod ledger;
mod machine;
mod marks;
mod platform;

use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;

use ledger::Ledger;

/// Counts the instructions and calls of the host that the kernel needs for system calls, and compares them with those that
/// are stored.
#[derive(Parser)]
#[command(name = "cost", max_term_width = 100)]
struct Arguments {
    /// Store what was counted, where it differs too much from what is stored.
    #[arg(long)]
    accept: bool,
    /// Show the functions in which a case spends its instructions.
    #[arg(long, value_name = "CASE")]
    functions: Option<String>,
    /// Be the process that is counted.
    #[arg(long, hide = true)]
    run: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let script = cases::script();
    if arguments.run {
        machine::run(script.steps)?;
        return Ok(ExitCode::SUCCESS);
    }
    let counted = counting::count(&script.names, arguments.functions.as_deref())?;
    if let Some(case) = arguments.functions {
        print!("{}", functions::of(&counted, &case)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (mut ledger, library) = (ledger::stored()?, counting::library()?);
    if ledger.library != library {
        let stored = &ledger.library;
        ensure!(
            arguments.accept,
            "cannot be counted here: stored with C library {stored}, this is {library}"
        );
        ledger = Ledger { library, ..Ledger::default() };
    }
    let verdicts = ledger::compare(&ledger.costs, &counted.costs);
    print!("{}", ledger::table(&verdicts));
    if arguments.accept {
        ledger::store(&Ledger { costs: ledger::accepted(&verdicts), ..ledger })?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(advice) = ledger::advice(&verdicts) else { return Ok(ExitCode::SUCCESS) };
    print!("\n{advice}");
    Ok(ExitCode::FAILURE)
}
