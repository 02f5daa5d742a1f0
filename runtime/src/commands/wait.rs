//! `nacelle wait`: waits for the end of a container or of a program in it.

use clap::Args;
use sandbox::attached::shell_status;
use serde::Serialize;

use crate::config::Global;

/// Arguments of `nacelle wait`.
#[derive(Args)]
pub struct Wait {
    /// Wait for the program that `exec` started with this pid in the container.
    #[arg(long, value_name = "PID", conflicts_with = "rootpid")]
    pid: Option<i32>,
    /// The same, with the pid that it has in the first container of the sandbox, whose pid namespace it shares.
    #[arg(long, value_name = "PID")]
    rootpid: Option<i32>,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    id: String,
    exit_status: u8,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Wait) -> anyhow::Result<u8> {
    let mut container = global.load(&arguments.id)?;
    let status = match (arguments.pid, arguments.rootpid) {
        (Some(pid), _) => container.wait_pid(pid)?,
        (None, Some(pid)) => container.wait_root_pid(pid)?,
        (None, None) => container.wait()?,
    };
    let outcome = Outcome { id: container.id.to_string(), exit_status: shell_status(status) };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(0)
}
