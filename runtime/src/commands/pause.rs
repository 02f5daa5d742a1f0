//! `nacelle pause` and `nacelle resume`: hold a container, and let it go on.

use clap::Args;

use crate::config::Global;

/// Arguments of both.
#[derive(Args)]
pub struct Pause {
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `pause`.
pub fn pause(global: &Global, arguments: &Pause) -> anyhow::Result<u8> {
    global.load(&arguments.id)?.pause()?;
    Ok(0)
}

/// Runs `resume`.
pub fn resume(global: &Global, arguments: &Pause) -> anyhow::Result<u8> {
    global.load(&arguments.id)?.resume()?;
    Ok(0)
}
