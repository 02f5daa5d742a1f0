//! `nacelle tar`: writes what a container has changed to an archive.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::config::Global;

/// Arguments of `nacelle tar`.
#[derive(Args)]
pub struct Tar {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What was changed of the root directory, which has a layer. `pause` the container first if it is still changing.
    RootfsUpper {
        /// The archive, which is replaced; `-` for standard output.
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
        /// The container.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Tar) -> anyhow::Result<u8> {
    let What::RootfsUpper { file, id } = &arguments.what;
    let container = global.load(id)?;
    if file.as_os_str() == "-" {
        return super::unless_closed(container.write_layer(std::io::stdout()));
    }
    let out = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    container.write_layer(&out).with_context(|| format!("cannot fill {}", file.display()))?;
    Ok(0)
}
