//! `nacelle`: runs programs in a sandbox whose kernel is an application.

#![forbid(unsafe_code)]

mod commands;
mod config;
mod log;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use config::Global;

/// The exit status of a command that failed, as opposed to the status of a program that it ran: that of `runc`.
const FAILURE: u8 = 1;
/// That of `exec`, as of `runc exec`.
const EXEC_FAILURE: u8 = 255;
/// That of `do`, which others do not have.
const DO_FAILURE: u8 = 128;

/// Runs unmodified Linux programs in a sandbox with a kernel of its own.
#[derive(Parser)]
#[command(
    name = "nacelle",
    about,
    max_term_width = 100,
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Refuse to save a container: that is not there yet.
    Checkpoint(commands::checkpoint::Checkpoint),
    /// Make a container; its program waits for `start`.
    Create(commands::create::Create),
    /// Mount an image in a container that was made already.
    Debug(commands::debug::Debug),
    /// Remove a container and all that belongs to it.
    Delete(commands::delete::Delete),
    /// Run a program in a sandbox over the host's own files, which stay as they are.
    Do(commands::do_::Do),
    /// Show what a container uses.
    Events(commands::events::Events),
    /// Run a further program in a container.
    Exec(commands::exec::Exec),
    /// Show what this runtime can do, for engines.
    Features(commands::features::Features),
    /// Send a signal to a container.
    Kill(commands::kill::Kill),
    /// List containers.
    List(commands::list::List),
    /// Hold all processes of a container.
    Pause(commands::pause::Pause),
    /// List the processes of a container.
    Ps(commands::ps::Ps),
    /// Print a file of a container.
    Read(commands::read::Read),
    /// Refuse to make a container from a saved one: that is not there yet.
    Restore(commands::checkpoint::Checkpoint),
    /// Let a paused container go on.
    Resume(commands::pause::Pause),
    /// Make and start a container.
    Run(commands::run::Run),
    /// Write an example of a bundle's config.json.
    Spec(commands::spec::Spec),
    /// Start the program of a container that `create` has made.
    Start(commands::start::Start),
    /// Show the state of a container.
    State(commands::state::State),
    /// List the system calls and how much of each there is.
    Syscalls(commands::syscalls::Syscalls),
    /// Write what a container has changed to a tar archive.
    Tar(commands::tar::Tar),
    /// Change the limits of a container.
    Update(commands::update::Update),
    /// Tell what memory a sandbox takes.
    Usage(commands::usage::Usage),
    /// Wait for the end of a container.
    Wait(commands::wait::Wait),
}

fn main() -> ExitCode {
    host::step::begin();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILURE } else { 0 });
        }
    };
    let global = arguments.global;
    if global.version {
        print!("{}", commands::version());
        return ExitCode::SUCCESS;
    }
    let failure = match &arguments.command {
        Some(Command::Do(_)) => DO_FAILURE,
        Some(Command::Exec(_)) => EXEC_FAILURE,
        _ => FAILURE,
    };
    let result = log::start(&global).and_then(|()| match arguments.command {
        None => anyhow::bail!("no command given; see nacelle --help"),
        Some(command) => run(command, &global),
    });
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let text = one_line(&error);
            log::error(&global, &text);
            eprintln!("nacelle: {text}");
            ExitCode::from(failure)
        }
    }
}

fn run(command: Command, global: &Global) -> anyhow::Result<u8> {
    use commands::*;
    global.check()?;
    match command {
        Command::Checkpoint(arguments) => checkpoint::run("checkpoint", &arguments),
        Command::Restore(arguments) => checkpoint::run("restore", &arguments),
        Command::Create(arguments) => create::run(global, arguments),
        Command::Debug(arguments) => debug::run(global, &arguments),
        Command::Delete(arguments) => delete::run(global, &arguments),
        Command::Do(arguments) => do_::run(arguments, global.gofer()),
        Command::Events(arguments) => events::run(global, &arguments),
        Command::Exec(arguments) => exec::run(global, arguments),
        Command::Features(arguments) => features::run(&arguments),
        Command::Kill(arguments) => kill::run(global, &arguments),
        Command::List(arguments) => list::run(global, &arguments),
        Command::Pause(arguments) => pause::pause(global, &arguments),
        Command::Ps(arguments) => ps::run(global, &arguments),
        Command::Read(arguments) => read::run(global, arguments),
        Command::Resume(arguments) => pause::resume(global, &arguments),
        Command::Run(arguments) => run::run(global, arguments),
        Command::Spec(arguments) => spec::run(&arguments),
        Command::Start(arguments) => start::run(global, &arguments),
        Command::State(arguments) => state::run(global, &arguments),
        Command::Syscalls(arguments) => syscalls::run(&arguments),
        Command::Tar(arguments) => tar::run(global, &arguments),
        Command::Update(arguments) => update::run(global, &arguments),
        Command::Usage(arguments) => usage::run(global, &arguments),
        Command::Wait(arguments) => wait::run(global, &arguments),
    }
}

/// An error and its causes on one line, whatever they look like. Those that the text before them tells already are left
/// out.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().trim().replace('\n', ": ");
        if text.is_empty() {
            text = cause;
        } else if !text.to_lowercase().contains(&cause.to_lowercase()) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
