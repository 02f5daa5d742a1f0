//! `nacelle create`: makes a container whose program waits to be started.

use std::path::PathBuf;

use clap::Args;

use super::passing::Passing;
use crate::config::Global;

/// Arguments of `nacelle create`.
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    making: Making,
}

/// How a container is made, for `create` and `run`.
#[derive(Args)]
pub struct Making {
    /// The bundle: a directory with `config.json` in it.
    #[arg(long, short = 'b', value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// A Unix socket that gets the master end of the container's terminal.
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the pid of the process that stands for the container to this file.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    passing: Passing,
    /// Append a line to this file for each system call that is not there.
    #[arg(long, value_name = "FILE")]
    user_log: Option<PathBuf>,
    /// For compatibility; the root of a sandbox is empty in any case.
    #[arg(long, hide = true)]
    no_pivot: bool,
    /// For compatibility; a sandbox has no keys of the host.
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    /// For compatibility.
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// What the container is called: letters, digits, and `_ + - .`
    #[arg(value_name = "ID")]
    id: String,
}

impl Making {
    /// What the container crate is told.
    ///
    /// # Errors
    /// If something of it is not supported.
    pub fn args(self, attached: bool) -> anyhow::Result<container::Args> {
        Ok(container::Args {
            id: self.id,
            spec: None,
            bundle: self.bundle,
            console_socket: self.console_socket,
            pid_file: self.pid_file,
            attached,
            files: self.passing.files()?,
            user_log: self.user_log,
        })
    }
}

/// Runs the command.
pub fn run(global: &Global, arguments: Create) -> anyhow::Result<u8> {
    container::Container::new(&global.config(), &arguments.making.args(false)?)?;
    Ok(0)
}
