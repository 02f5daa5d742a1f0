//! `nacelle start`: starts the program of a container.

use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle start`.
#[derive(Args)]
pub struct Start {
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Start) -> anyhow::Result<u8> {
    global.load(&arguments.id)?.start()?;
    Ok(0)
}
