//! `nacelle ps`: lists the processes of a container.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};

use crate::config::Global;

/// How the list looks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Arguments of `nacelle ps`.
#[derive(Args)]
pub struct Ps {
    /// A table of the processes as the container sees them, or the pids of the host, as engines want them.
    #[arg(long, short = 'f', default_value = "table")]
    format: Format,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
    /// For compatibility: options of ps(1).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    options: Vec<String>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Ps) -> anyhow::Result<u8> {
    let container = global.load(&arguments.id)?;
    if arguments.format == Format::Json {
        // Engines look these up among the processes of the host.
        println!("{}", serde_json::to_string(&container.host_pids()?)?);
        return Ok(0);
    }
    let processes = container.processes()?;
    let header = ["UID", "PID", "PPID", "PGID", "C", "TTY", "STIME", "TIME", "CMD"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(processes.into_iter().map(|process| {
        let time = Duration::from_millis(process.cpu_milliseconds);
        vec![
            process.uid.to_string(),
            process.pid.to_string(),
            process.ppid.to_string(),
            process.pgid.to_string(),
            process.c.to_string(),
            process.tty,
            start_time(UNIX_EPOCH + Duration::from_secs(process.start_time)),
            format!(
                "{:02}:{:02}:{:02}",
                time.as_secs() / 3600,
                time.as_secs() / 60 % 60,
                time.as_secs() % 60
            ),
            process.cmd,
        ]
    }));
    super::print_table(&rows);
    Ok(0)
}

/// When a process started: the time of the day, or the date if that is longer ago.
fn start_time(time: SystemTime) -> String {
    let text = container::rfc3339(time);
    let today = SystemTime::now().duration_since(time).is_ok_and(|age| age < Duration::from_secs(86_400));
    let part = if today { text.get(11..16) } else { text.get(..10) };
    part.unwrap_or_default().to_owned()
}
