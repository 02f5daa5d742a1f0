//! `nacelle checkpoint`: not there yet. Engines ask for its help to find out.

use clap::Args;

/// Arguments of `nacelle checkpoint`.
#[derive(Args)]
pub struct Checkpoint {
    /// Whatever.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Refuses.
pub fn run(_arguments: &Checkpoint) -> anyhow::Result<u8> {
    anyhow::bail!("checkpoint is not supported yet")
}
