//! `nacelle update`: changes the limits of a container.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::config::Global;

/// Arguments of `nacelle update`. The flags are those of `runc`.
#[derive(Args, Default)]
pub struct Update {
    /// A file with resources as in config.json, `-` for standard input. Other flags are then ignored.
    #[arg(long, short = 'r', value_name = "FILE")]
    resources: Option<String>,
    /// Memory and swap together are not limited by this; `-1` for no limit. With `k`, `m`, `g` behind: powers of 1024.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory and swap together; `-1` for no limit.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// The memory that it should have even when there is little.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Its share of processors beside others.
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// Microseconds of processor time in each period; `-1` for no limit.
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// How long a period is.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// How much it may save up.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// Whether it only gets processor time that nobody else wants: 1 or 0.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Which processors it may use.
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Which memory nodes it may use.
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Its share of block devices beside others.
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// The most tasks; `-1` for no limit.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Update) -> anyhow::Result<u8> {
    let mut container = global.load(&arguments.id)?;
    let text = match arguments.resources.as_deref() {
        None => serde_json::to_vec(&from_flags(arguments)?)?,
        Some("-") => std::io::read_to_string(std::io::stdin())?.into_bytes(),
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}"))?,
    };
    let (resources, warnings) = container::spec::parse_resources(&text)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    container.update(&resources)?;
    Ok(0)
}

/// Flags as a specification has them.
fn from_flags(arguments: &Update) -> anyhow::Result<Value> {
    let bytes = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<i64>> {
        let parsed = text
            .as_deref()
            .map(|text| parse_bytes(text).with_context(|| format!("invalid value for {flag}: {text}")));
        parsed.transpose()
    };
    Ok(json!({
        "memory": {
            "limit": bytes("memory", &arguments.memory)?,
            "swap": bytes("memory-swap", &arguments.memory_swap)?,
            "reservation": bytes("memory-reservation", &arguments.memory_reservation)?,
        },
        "cpu": {
            "shares": arguments.cpu_share,
            "quota": arguments.cpu_quota,
            "period": arguments.cpu_period,
            "burst": arguments.cpu_burst,
            "idle": arguments.cpu_idle,
            "cpus": arguments.cpuset_cpus,
            "mems": arguments.cpuset_mems,
        },
        "blockIO": { "weight": arguments.blkio_weight },
        "pids": arguments.pids_limit.map(|limit| json!({ "limit": limit })),
    }))
}

/// Bytes, with a unit behind if there is one; `-1` for no limit.
fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let power = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << power)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in
            [("7", 7), ("7b", 7), ("2K", 2048), ("1m", 1 << 20), ("3GiB", 3 << 30), ("-1", -1)]
        {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "-2", "1x", "1.5g", "99999999999g", "9223372036854775808"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn flags_become_resources() {
        let arguments = Update { memory: Some("64m".into()), pids_limit: Some(7), ..Update::default() };
        let text = serde_json::to_vec(&from_flags(&arguments).unwrap()).unwrap();
        let (resources, warnings) = container::spec::parse_resources(&text).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(resources.memory().unwrap().limit(), Some(64 << 20));
        assert_eq!(resources.memory().unwrap().swap(), None);
        assert_eq!(resources.pids().unwrap().limit(), 7);
        let arguments = Update { memory: Some("much".into()), ..Update::default() };
        assert_eq!(from_flags(&arguments).unwrap_err().to_string(), "invalid value for memory: much");
    }
}
