//! `nacelle run`: makes and starts a container, and waits for it unless it is to go on alone.

use clap::Args;
use sandbox::attached::shell_status;

use super::create::Making;
use crate::config::Global;

/// Arguments of `nacelle run`.
#[derive(Args)]
pub struct Run {
    /// Leave the container running.
    #[arg(long, short = 'd')]
    detach: bool,
    #[command(flatten)]
    making: Making,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Run) -> anyhow::Result<u8> {
    let args = arguments.making.args(!arguments.detach)?;
    Ok(shell_status(container::run(&global.config(), &args)?))
}
