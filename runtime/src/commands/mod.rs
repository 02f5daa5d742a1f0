//! The commands, one per file: the arguments, and a function that carries them out and returns the exit status.

pub mod checkpoint;
pub mod create;
pub mod debug;
pub mod delete;
pub mod do_;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
pub mod list;
mod passing;
pub mod pause;
pub mod ps;
pub mod read;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod syscalls;
pub mod tar;
pub mod update;
pub mod usage;
pub mod wait;

use serde::Serialize;

/// The version of the OCI specification that is followed.
pub const OCI_VERSION: &str = "1.2.1";

/// What `--version` prints, in the shape that engines parse.
pub fn version() -> String {
    format!("nacelle version {}\nspec: {OCI_VERSION}\n", env!("CARGO_PKG_VERSION"))
}

/// Whoever reads standard output may have seen enough.
fn unless_closed(result: container::Result<()>) -> anyhow::Result<u8> {
    match result {
        Err(container::Error::Host { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(0)
        }
        other => Ok(other.map(|()| 0)?),
    }
}

/// Prints a value as JSON on several lines.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Writes rows in columns as wide as their longest entry.
fn print_table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("   ").trim_end());
    }
}
