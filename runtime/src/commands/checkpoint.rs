//! `nacelle checkpoint` and `nacelle restore`: not there yet. Engines ask for their help to find out.

use clap::Args;

/// Arguments of either.
#[derive(Args)]
pub struct Checkpoint {
    /// Whatever.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Refuses, by the name of the command.
pub fn run(name: &str, _arguments: &Checkpoint) -> anyhow::Result<u8> {
    anyhow::bail!("{name} is not supported yet")
}
