//! `nacelle usage`: tells what memory a sandbox takes.

use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle usage`.
#[derive(Args)]
pub struct Usage {
    /// Tell what each kind of memory takes: the kernel (`System`), memory of processes (`Anonymous`), copies of files of
    /// images (`PageCache`), files of the host that are mapped (`Mapped`), files in memory (`Tmpfs`). Otherwise all but
    /// `Mapped` is one number.
    #[arg(long)]
    full: bool,
    /// Print the numbers in one line. For compatibility: there is no page of numbers to be mapped, so they are asked for as
    /// without it.
    #[arg(long)]
    fd: bool,
    /// The container. All containers of a pod share a sandbox, and are counted together.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Usage) -> anyhow::Result<u8> {
    let memory = global.load(&arguments.id)?.memory()?;
    let summary = memory.summary();
    if arguments.fd {
        println!("Mapped {}, Unknown {}, Total {}", summary.mapped, summary.unknown, summary.total);
    } else {
        super::print_json(if arguments.full { &memory } else { &summary })?;
    }
    Ok(0)
}
