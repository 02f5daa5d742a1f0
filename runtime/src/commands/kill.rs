//! `nacelle kill`: sends a signal to a container.

use anyhow::Context;
use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle kill`.
#[derive(Args)]
pub struct Kill {
    /// Send it to all processes of the container. After KILL, none is left when this ends.
    #[arg(long, short = 'a', conflicts_with_all = ["pid", "pgid"])]
    all: bool,
    /// Send it to the process with this pid in the container.
    #[arg(long, value_name = "PID", conflicts_with = "pgid")]
    pid: Option<i32>,
    /// Send it to the process group with this number in the container.
    #[arg(long, value_name = "PGID")]
    pgid: Option<i32>,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number.
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Kill) -> anyhow::Result<u8> {
    let signal = parse_signal(&arguments.signal)?;
    let container = global.load(&arguments.id)?;
    match (arguments.pid, arguments.pgid) {
        (Some(pid), _) => container.signal_process(signal, pid)?,
        (None, Some(group)) => container.signal_process_group(signal, group)?,
        (None, None) => container.signal_container(signal, arguments.all)?,
    }
    Ok(0)
}

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SYNONYMS: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal by name, with or without `SIG`, in any case, or by number.
fn parse_signal(text: &str) -> anyhow::Result<i32> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|number| (0..=RTMAX).contains(number)).with_context(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let plain = NAMES.iter().position(|known| *known == name).map(|index| index as i32 + 1);
    let synonym = || SYNONYMS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let real_time = || {
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => RTMIN,
            (Some(offset), _) => RTMIN + offset.strip_prefix('+')?.parse::<i32>().ok()?,
            (_, Some("")) => RTMAX,
            (_, Some(offset)) => RTMAX - offset.strip_prefix('-')?.parse::<i32>().ok()?,
            (None, None) => return None,
        };
        (RTMIN..=RTMAX).contains(&number).then_some(number)
    };
    plain.or_else(synonym).or_else(real_time).with_context(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("usr1", 10),
            ("SYS", 31),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-14", 50),
            ("IOT", 6),
            ("WINCH", 28),
        ] {
            assert_eq!(parse_signal(text).ok(), Some(number), "{text}");
        }
        for text in ["", "SIG", "65", "-1", "TERMX", "RTMIN+31", "RTMAX+1", "RTMIN-1"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
