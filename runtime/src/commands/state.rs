//! `nacelle state`: shows the state of a container.

use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle state`.
#[derive(Args)]
pub struct State {
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &State) -> anyhow::Result<u8> {
    super::print_json(&global.load(&arguments.id)?.state())?;
    Ok(0)
}
