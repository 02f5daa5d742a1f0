//! `nacelle events`: shows what a container uses, and when its memory runs out.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use container::cgroup::Event;

use crate::config::Global;

/// Arguments of `nacelle events`.
#[derive(Args)]
pub struct Events {
    /// Show it once.
    #[arg(long)]
    stats: bool,
    /// So much time lies between two lines: seconds, or with `s`, `ms`, `m` behind.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    interval: String,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Events) -> anyhow::Result<u8> {
    let interval = parse_interval(&arguments.interval)?;
    let container = global.load(&arguments.id)?;
    let id = container.id.to_string();
    if arguments.stats {
        print(&Event::stats(&id, container.event()?))?;
        return Ok(0);
    }
    // One that has ended is an error at the beginning, and the end of the stream later.
    container.event()?;
    let stats = || match global.load(&id).ok()?.event() {
        Ok(stats) => Some(stats),
        Err(error) => {
            tracing::debug!("{error}");
            None
        }
    };
    match container::events::stream(&id, container.cgroup.as_ref(), interval, stats, print) {
        // Whoever reads has seen enough.
        Err(container::events::Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => Ok(other.map(|()| 0)?),
    }
}

fn print(event: &Event) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, event)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn parse_interval(text: &str) -> anyhow::Result<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)];
    let found = units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Duration::try_from_secs_f64(number * factor).ok().filter(|interval| !interval.is_zero())
    });
    found.ok_or_else(|| anyhow::anyhow!("--interval {text}: expected a time such as 5s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(parse_interval("5").ok(), Some(Duration::from_secs(5)));
        assert_eq!(parse_interval("5s").ok(), Some(Duration::from_secs(5)));
        assert_eq!(parse_interval("100ms").ok(), Some(Duration::from_millis(100)));
        assert_eq!(parse_interval("2m").ok(), Some(Duration::from_secs(120)));
        assert!(parse_interval("0s").is_err());
        assert!(parse_interval("soon").is_err());
    }
}
