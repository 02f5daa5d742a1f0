//! `nacelle read`: prints a file of a container.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle read`.
#[derive(Args)]
pub struct Read {
    /// Begin at this byte.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Print so many bytes at most; all by default.
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
    /// The file, by its path in the container. Links are followed there.
    #[arg(value_name = "PATH")]
    path: OsString,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Read) -> anyhow::Result<u8> {
    let container = global.load(&arguments.id)?;
    let path = arguments.path.into_vec();
    super::unless_closed(container.read_file(path, arguments.offset, arguments.size, std::io::stdout()))
}
