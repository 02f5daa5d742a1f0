//! Which functions a case spends its instructions in.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::counting::Counted;

/// How many functions are shown.
const SHOWN: usize = 40;

/// The functions in which a case executes most instructions, with how many.
pub fn of(counted: &Counted, case: &str) -> anyhow::Result<String> {
    let histogram = counted.histograms.get(case).with_context(|| format!("there is no case {case:?}"))?;
    let symbols = symbols()?;
    let mut totals: HashMap<&str, u64> = HashMap::new();
    for (address, count) in histogram {
        let offset = address.wrapping_sub(counted.base);
        let after = symbols.partition_point(|(start, _)| *start <= offset);
        let name =
            after.checked_sub(1).and_then(|index| symbols.get(index)).filter(|_| after < symbols.len());
        *totals.entry(name.map_or("(libraries)", |(_, name)| name)).or_default() += count;
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let mut text = String::new();
    for (name, count) in totals.iter().take(SHOWN) {
        let _ = writeln!(text, "{count:>8} {name}");
    }
    Ok(text)
}

/// The functions of this program by their addresses, in order.
fn symbols() -> anyhow::Result<Vec<(u64, String)>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new("nm").args(["-n", "-C", "--defined-only"]).arg(program).output();
    let output = output.context("cannot run nm")?;
    ensure!(output.status.success(), "nm failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let symbol = |line: &str| {
        let (address, rest) = line.split_once(' ')?;
        let (_, name) = rest.split_once(' ')?;
        Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
    };
    Ok(text.lines().filter_map(symbol).collect())
}
