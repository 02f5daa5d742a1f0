//! `nacelle spec`: writes an example of a bundle's config.json.

use std::path::PathBuf;

use clap::Args;
use container::spec::template;

/// Arguments of `nacelle spec`.
#[derive(Args)]
pub struct Spec {
    /// The bundle.
    #[arg(long, short = 'b', value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For callers who are not root.
    #[arg(long)]
    rootless: bool,
    /// The working directory.
    #[arg(long, value_name = "DIR", default_value = "/")]
    cwd: String,
    /// The program and its arguments; a shell by default.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(arguments: &Spec) -> anyhow::Result<u8> {
    let mut spec = if arguments.rootless {
        let (uid, gid) = (host::rustix::process::getuid(), host::rustix::process::getgid());
        template::rootless_spec(uid.as_raw(), gid.as_raw())
    } else {
        template::default_spec()
    };
    if !arguments.command.is_empty() {
        spec["process"]["args"] = arguments.command.clone().into();
        spec["process"]["terminal"] = false.into();
    }
    spec["process"]["cwd"] = arguments.cwd.clone().into();
    template::write(&arguments.bundle, &spec)?;
    Ok(0)
}
