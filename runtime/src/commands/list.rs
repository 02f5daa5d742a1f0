//! `nacelle list`: lists containers.

use clap::{Args, ValueEnum};
use container::{Container, OciState};

use crate::config::Global;

/// How the list looks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Text,
    Json,
}

/// Arguments of `nacelle list`.
#[derive(Args)]
pub struct List {
    /// How the list looks.
    #[arg(long, short = 'f', default_value = "table")]
    format: Format,
    /// Only ids.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Only the first container of each sandbox.
    #[arg(long)]
    sandbox: bool,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &List) -> anyhow::Result<u8> {
    let mut containers = Container::list(&global.root())?;
    containers.retain(|container| !arguments.sandbox || container.is_sandbox_root());
    let states: Vec<OciState> = containers.iter().map(Container::state).collect();
    if arguments.quiet {
        states.iter().for_each(|state| println!("{}", state.id));
    } else if arguments.format == Format::Json {
        println!("{}", serde_json::to_string(&states)?);
    } else {
        let mut rows =
            vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned).to_vec()];
        rows.extend(states.iter().map(|state| {
            vec![
                state.id.to_string(),
                state.pid.unwrap_or(0).to_string(),
                state.status.to_string(),
                state.bundle.display().to_string(),
                state.created.clone(),
                state.owner.clone(),
            ]
        }));
        super::print_table(&rows);
    }
    Ok(0)
}
