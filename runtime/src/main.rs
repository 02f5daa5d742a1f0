//! `nacelle`: runs programs in a sandbox whose kernel is an application.

#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs unmodified Linux programs in a sandbox with a kernel of its own.
#[derive(Parser)]
#[command(name = "nacelle", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program in a sandbox over the host's own files, which stay as they are.
    Do(commands::do_::Do),
    /// Run an OCI bundle and wait for it.
    Run(commands::run::Run),
    /// List the system calls and how much of each there is.
    Syscalls(commands::syscalls::Syscalls),
}

fn main() -> ExitCode {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false);
    subscriber.with_max_level(log_level()).init();
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Do(command) => commands::do_::run(command),
        Command::Run(command) => commands::run::run(command),
        Command::Syscalls(command) => commands::syscalls::run(&command),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // One line, whatever the error's own text looks like.
            eprintln!("nacelle: {}", format!("{error:#}").replace('\n', ": "));
            ExitCode::FAILURE
        }
    }
}

/// What is logged to standard error: errors, or what `NACELLE_LOG` (`warn`, `info`, `debug`) says.
fn log_level() -> tracing::Level {
    let wanted = std::env::var("NACELLE_LOG").ok();
    wanted.and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::ERROR)
}
