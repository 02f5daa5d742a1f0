//! The stored costs, and what differs from them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Context;

/// What a case costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Instructions.
    pub instructions: u64,
    /// System calls of the host among them.
    pub calls: u64,
}

/// Costs by case.
pub type Costs = BTreeMap<String, Cost>;

/// Where the costs are stored.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/costs.txt");
/// The line before the costs begins with this.
const LIBRARY: &str = "# C library: ";
/// How new ones are stored.
const ACCEPT: &str = "cargo run --profile cost -p cost -- --accept";
/// By how many per cent a number of instructions may differ from what is stored.
const TOLERANCE: u64 = 5;

/// A case, with what is stored and what was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    name: String,
    stored: Option<Cost>,
    counted: Option<Cost>,
    change: Change,
}

/// What a new cost is to the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Near enough.
    None,
    /// Too much more.
    Grown,
    /// So much less that the stored cost no longer holds it there.
    Shrunk,
    /// There is no such case, or no stored cost.
    Unknown,
}

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The version of the C library with which it was counted.
    pub library: String,
    /// The costs.
    pub costs: Costs,
}

/// What is stored; nothing if there is no file.
pub fn stored() -> anyhow::Result<Ledger> {
    match fs::read_to_string(FILE) {
        Ok(text) => parse(&text).context("the stored costs cannot be read"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ledger::default()),
        Err(error) => Err(error).context("cannot read the stored costs"),
    }
}

/// Stores it.
pub fn store(ledger: &Ledger) -> anyhow::Result<()> {
    fs::write(FILE, text(ledger)).context("cannot store the costs")
}

fn text(Ledger { library, costs }: &Ledger) -> String {
    let mut text =
        format!("# Instructions, calls of the host, case. Written by `{ACCEPT}`.\n{LIBRARY}{library}\n");
    for (name, Cost { instructions, calls }) in costs {
        let _ = writeln!(text, "{instructions} {calls} {name}");
    }
    text
}

fn parse(text: &str) -> Option<Ledger> {
    let library = text.lines().find_map(|line| line.strip_prefix(LIBRARY))?.to_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (instructions, rest) = line.split_once(' ')?;
        let (calls, name) = rest.split_once(' ')?;
        let cost = Cost { instructions: instructions.parse().ok()?, calls: calls.parse().ok()? };
        Some((name.to_owned(), cost))
    });
    Some(Ledger { library, costs: parsed.collect::<Option<_>>()? })
}

fn change(stored: Cost, counted: Cost) -> Change {
    let percent = |percent: u64| stored.instructions * percent;
    let instructions = counted.instructions * 100;
    if instructions > percent(100 + TOLERANCE) || counted.calls > stored.calls {
        Change::Grown
    } else if instructions < percent(100 - TOLERANCE) || counted.calls < stored.calls {
        Change::Shrunk
    } else {
        Change::None
    }
}

/// Compares costs by case.
pub fn compare(stored: &Costs, counted: &Costs) -> Vec<Verdict> {
    let gone = stored.keys().filter(|name| !counted.contains_key(*name));
    let verdict = |name: &String| {
        let (stored, counted) = (stored.get(name).copied(), counted.get(name).copied());
        let change = stored.zip(counted).map_or(Change::Unknown, |(stored, counted)| change(stored, counted));
        Verdict { name: name.clone(), stored, counted, change }
    };
    counted.keys().chain(gone).map(verdict).collect()
}

/// What is to be stored of them. What differs little stays as it is stored, so that it cannot creep.
pub fn accepted(verdicts: &[Verdict]) -> Costs {
    let cost = |verdict: &Verdict| match verdict.change {
        Change::None => verdict.stored,
        _ => verdict.counted,
    };
    verdicts.iter().filter_map(|verdict| Some((verdict.name.clone(), cost(verdict)?))).collect()
}

/// A line for each.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::from("  stored           counted                             case\n");
    let shown = |cost: &Option<Cost>| match cost {
        Some(Cost { instructions, calls }) => format!("{instructions:>7} + {calls:<2} calls"),
        None => format!("{:>7}        ", "-"),
    };
    for Verdict { name, stored, counted, change } in verdicts {
        let percent = match (stored, counted) {
            (Some(stored), Some(counted)) if stored.instructions > 0 => {
                let ratio = counted.instructions as f64 / stored.instructions as f64;
                format!("{:+.1} %", (ratio - 1.0) * 100.0)
            }
            _ => String::new(),
        };
        let word = match change {
            Change::None => "",
            Change::Grown => "GROWN",
            Change::Shrunk => "SHRUNK",
            Change::Unknown => "UNKNOWN",
        };
        let _ = writeln!(text, "{} {} {percent:>8} {word:<8} {name}", shown(stored), shown(counted));
    }
    text
}

/// What is to be done about them; nothing if they are as they should be.
pub fn advice(verdicts: &[Verdict]) -> Option<String> {
    let any = |change| verdicts.iter().any(|verdict| verdict.change == change);
    let mut text = String::new();
    if any(Change::Grown) {
        let _ = writeln!(
            text,
            "Some cases take over {TOLERANCE} % more instructions than stored, or more calls of the host. Make them cheaper. `cost \
             --functions CASE` tells where they go. If they are worth it, say so in the commit and run\n    {ACCEPT}"
        );
    }
    if any(Change::Shrunk) || any(Change::Unknown) {
        let _ = writeln!(
            text,
            "The stored costs are no longer those of today. So that what was gained stays gained, run\n    {ACCEPT}"
        );
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(costs: &[(&str, u64, u64)]) -> Costs {
        let cost = |(name, instructions, calls): &(&str, u64, u64)| {
            ((*name).to_owned(), Cost { instructions: *instructions, calls: *calls })
        };
        costs.iter().map(cost).collect()
    }

    #[test]
    fn five_per_cent_more_or_less_are_too_much() {
        let compared =
            |instructions, calls| change(Cost { instructions: 1000, calls: 1 }, Cost { instructions, calls });
        assert_eq!(compared(1050, 1), Change::None);
        assert_eq!(compared(1051, 1), Change::Grown);
        assert_eq!(compared(950, 1), Change::None);
        assert_eq!(compared(949, 1), Change::Shrunk);
        assert_eq!(compared(900, 2), Change::Grown);
        assert_eq!(compared(1000, 0), Change::Shrunk);
    }

    #[test]
    fn cases_that_come_and_go_are_told() {
        let both = ("both", 1, 0);
        let verdicts = compare(&costs(&[("old", 1, 0), both]), &costs(&[both, ("new", 2, 1)]));
        let change =
            |name| verdicts.iter().find(|verdict| verdict.name == name).map(|verdict| verdict.change);
        assert_eq!(change("old"), Some(Change::Unknown));
        assert_eq!(change("new"), Some(Change::Unknown));
        assert_eq!(change("both"), Some(Change::None));
        assert!(advice(&verdicts).is_some());
        let accepted = accepted(&verdicts);
        assert_eq!(accepted, costs(&[both, ("new", 2, 1)]));
        assert_eq!(advice(&compare(&accepted, &accepted)), None);
    }

    #[test]
    fn what_is_accepted_does_not_creep() {
        let before = costs(&[("creeping", 1000, 0), ("grown", 1000, 0), ("shrunk", 1000, 0)]);
        let after = costs(&[("creeping", 1049, 0), ("grown", 1100, 0), ("shrunk", 900, 0)]);
        let expected = costs(&[("creeping", 1000, 0), ("grown", 1100, 0), ("shrunk", 900, 0)]);
        assert_eq!(accepted(&compare(&before, &after)), expected);
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let costs = costs(&[("getppid", 12, 0), ("stat, root", 345678, 10)]);
        let ledger = Ledger { library: "2.36".into(), costs };
        assert_eq!(parse(&text(&ledger)).unwrap(), ledger);
        assert_eq!(parse("12 0 getppid\n"), None);
    }
}
