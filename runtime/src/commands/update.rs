//! `nacelle update`: changes the limits of a container.

use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle update`.
#[derive(Args)]
pub struct Update {
    /// A file with resources as in config.json, `-` for standard input.
    #[arg(long, short = 'r', value_name = "FILE")]
    resources: Option<String>,
    /// The most tasks; -1 for no limit.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Update) -> anyhow::Result<u8> {
    let mut container = global.load(&arguments.id)?;
    let mut resources = match arguments.resources.as_deref() {
        None => oci_spec::runtime::LinuxResources::default(),
        Some(path) => {
            let text = if path == "-" {
                std::io::read_to_string(std::io::stdin())?
            } else {
                std::fs::read_to_string(path)?
            };
            let (resources, warnings) = container::spec::parse_resources(text.as_bytes())?;
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            resources
        }
    };
    if let Some(limit) = arguments.pids_limit {
        let pids = oci_spec::runtime::LinuxPidsBuilder::default().limit(limit).build()?;
        resources.set_pids(Some(pids));
    }
    container.update(&resources)?;
    Ok(0)
}
