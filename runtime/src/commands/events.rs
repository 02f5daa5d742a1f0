//! `nacelle events`: shows what a container uses.

use std::io::Write;
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
    loop {
        let container = global.load(&arguments.id)?;
        match container.event() {
            Ok(stats) => {
                let event = Event::stats(container.id.as_str(), stats);
                let mut out = std::io::stdout().lock();
                writeln!(out, "{}", serde_json::to_string(&event)?)?;
                out.flush()?;
            }
            Err(error) if arguments.stats || !container.status.is_alive() => return Err(error.into()),
            Err(error) => tracing::warn!("{error}"),
        }
        if arguments.stats {
            return Ok(0);
        }
        std::thread::sleep(interval);
    }
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
