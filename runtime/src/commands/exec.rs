//! `nacelle exec`: runs a further program in a container.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use container::spec::{ProcessConfig, parse_process};
use container::{Container, Execution};
use kernel::task::credentials::Capability;
use sandbox::attached::shell_status;

use super::passing::Passing;
use crate::config::Global;

/// Arguments of `nacelle exec`.
#[derive(Args)]
pub struct Exec {
    /// Leave the program running.
    #[arg(long, short = 'd')]
    detach: bool,
    /// Give the program a terminal.
    #[arg(long, short = 't')]
    tty: bool,
    /// The working directory; the container's by default.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set an environment variable.
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// The user, and the group: numbers.
    #[arg(long, short = 'u', value_name = "UID[:GID]")]
    user: Option<String>,
    /// A further group.
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// A further capability.
    #[arg(long = "cap", short = 'c', value_name = "NAME")]
    capabilities: Vec<String>,
    /// A file with the program as in config.json, instead of all of the above.
    #[arg(long, short = 'p', value_name = "FILE")]
    process: Option<PathBuf>,
    /// Write the pid of the process that stands for the program to this file.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Write the program's pid in the container to this file.
    #[arg(long, value_name = "FILE")]
    internal_pid_file: Option<PathBuf>,
    /// A Unix socket that gets the master end of the program's terminal.
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Forbid the program to gain privileges.
    #[arg(long)]
    no_new_privs: bool,
    #[command(flatten)]
    passing: Passing,
    /// For compatibility.
    #[arg(long, hide = true)]
    ignore_paused: bool,
    /// For compatibility.
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Exec) -> anyhow::Result<u8> {
    let container = global.load(&arguments.id)?;
    let execution = Execution {
        process: process(&arguments, &container)?,
        detach: arguments.detach,
        console_socket: arguments.console_socket,
        pid_file: arguments.pid_file,
        internal_pid_file: arguments.internal_pid_file,
        files: arguments.passing.files()?,
    };
    Ok(container.execute(&execution)?.map_or(0, shell_status))
}

fn process(arguments: &Exec, container: &Container) -> anyhow::Result<ProcessConfig> {
    let mut warnings = Vec::new();
    let own = container.spec.process().as_ref().context("the container has no process")?;
    let mut process = match &arguments.process {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let (mut process, mut noted) = parse_process(&text)?;
            if process.capabilities().is_none() {
                process.set_capabilities(own.capabilities().clone());
            }
            warnings.append(&mut noted);
            ProcessConfig::new(&process, &mut warnings)?
        }
        None => from_flags(arguments, &ProcessConfig::new(own, &mut warnings)?)?,
    };
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    process.terminal |= arguments.tty;
    Ok(process)
}

fn from_flags(arguments: &Exec, own: &ProcessConfig) -> anyhow::Result<ProcessConfig> {
    ensure!(!arguments.command.is_empty(), "no program given");
    let mut process = own.clone();
    process.arguments.clone_from(&arguments.command);
    process.terminal = arguments.tty;
    process.no_new_privileges |= arguments.no_new_privs;
    for variable in &arguments.environment {
        let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name).to_owned();
        process.environment.retain(|other| other.split_once('=').is_none_or(|(other, _)| other != name));
        process.environment.push(variable.clone());
    }
    if let Some(cwd) = &arguments.cwd {
        ensure!(cwd.starts_with('/'), "--cwd {cwd}: expected an absolute path");
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &arguments.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| {
            text.parse::<u32>()
                .ok()
                .with_context(|| format!("--user {user}: expected numbers, UID or UID:GID"))
        };
        process.uid = number(uid)?;
        if let Some(gid) = gid {
            process.gid = number(gid)?;
        }
    }
    process.groups.extend(&arguments.additional_gids);
    for name in &arguments.capabilities {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let Some(known) = Capability::ALL.iter().find(|known| &known.name()[4..] == short) else {
            bail!("unknown capability {name:?}");
        };
        let sets = &mut process.capabilities;
        // In all sets, so that a program has it whoever runs it.
        let all = [&mut sets.bounding, &mut sets.effective, &mut sets.permitted, &mut sets.inheritable];
        for set in all.into_iter().chain([&mut sets.ambient]) {
            *set |= known.mask();
        }
    }
    Ok(process)
}
