//! `nacelle events`: shows what a container uses.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use sandbox::control::message::Usage;
use serde_json::{Value, json};

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
        let usage = container.event();
        match usage {
            Ok(usage) => {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{}", line(container.id.as_str(), &usage))?;
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

fn line(id: &str, usage: &Usage) -> Value {
    let total = usage.user_nanoseconds.saturating_add(usage.system_nanoseconds);
    let none = json!({ "limit": 0, "usage": 0, "max": 0, "failcnt": 0 });
    json!({
        "type": "stats",
        "id": id,
        "data": {
            "cpu": {
                "usage": { "total": total, "user": usage.user_nanoseconds, "kernel": usage.system_nanoseconds },
                "throttling": {},
            },
            "memory": {
                "usage": { "limit": 0, "usage": usage.memory_bytes, "max": 0, "failcnt": 0 },
                "swap": none, "kernel": none, "kernelTCP": none,
            },
            "pids": { "current": usage.tasks, "limit": usage.tasks_limit },
            "blkio": {},
            "hugetlb": {},
            "network_interfaces": null,
        }
    })
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
