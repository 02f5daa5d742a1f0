//! Samples, their medians, and how they are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cases::{Case, Kind};
use crate::picture;
use crate::runtimes::Runtime;

/// All that was measured.
#[derive(Debug, Default)]
pub struct Report {
    cases: Vec<Case>,
    runtimes: Vec<&'static str>,
    rounds: usize,
    samples: BTreeMap<(&'static str, String), Vec<f64>>,
    failures: BTreeSet<String>,
}

impl Report {
    /// An empty report.
    pub fn new(cases: &[Case], runtimes: &[Runtime], rounds: usize) -> Report {
        Report {
            cases: cases.to_vec(),
            runtimes: runtimes.iter().map(|runtime| runtime.name).collect(),
            rounds,
            samples: BTreeMap::new(),
            failures: BTreeSet::new(),
        }
    }

    /// The report that several files of [`Report::json`] make together: parts of a measurement that was made in pieces.
    pub fn of_parts(all: &[Case], parts: &[Value]) -> Report {
        const RUNTIMES: [&str; 5] = ["native", "nacelle", "baseline", "runsc", "runc"];
        let mut report = Report::default();
        for part in parts {
            report.rounds = report.rounds.max(part["rounds"].as_u64().unwrap_or(0) as usize);
            for measured in part["cases"].as_array().into_iter().flatten() {
                for name in RUNTIMES {
                    let samples = measured["runtimes"][name]["samples"].as_array().into_iter().flatten();
                    let samples: Vec<f64> = samples.filter_map(Value::as_f64).collect();
                    if let Some(case) = measured["name"].as_str().filter(|_| !samples.is_empty()) {
                        report.samples.entry((name, case.to_owned())).or_default().extend(samples);
                    }
                }
            }
        }
        let known = |case: &&Case| report.samples.keys().any(|(_, name)| name == case.name);
        report.cases = all.iter().filter(known).copied().collect();
        let there = |name: &&str| report.samples.keys().any(|(runtime, _)| runtime == name);
        report.runtimes = RUNTIMES.into_iter().filter(there).collect();
        report
    }

    /// Notes a sample, in nanoseconds or bytes.
    pub fn add(&mut self, runtime: &Runtime, case: &str, value: f64) {
        self.samples.entry((runtime.name, case.to_owned())).or_default().push(value);
    }

    /// Notes a failure.
    pub fn fail(&mut self, runtime: &Runtime, case: &str, error: &anyhow::Error) {
        self.failures.insert(format!("{} {case}: {error:#}", runtime.name));
    }

    /// What has failed, each message once.
    pub fn failures(&self) -> &BTreeSet<String> {
        &self.failures
    }

    fn median(&self, runtime: &'static str, case: &str) -> Option<f64> {
        let mut samples = self.samples.get(&(runtime, case.to_owned()))?.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        let even = samples.len().is_multiple_of(2) && !samples.is_empty();
        Some(if even { f64::midpoint(samples[middle - 1], samples[middle]) } else { *samples.get(middle)? })
    }

    /// The cells of the table: the native median, then for each other runtime its multiple of it.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![vec!["case".to_owned(), "native".to_owned()]];
        rows[0].extend(self.runtimes.iter().skip(1).map(|name| (*name).to_owned()));
        for case in &self.cases {
            let native = self.median("native", case.name);
            let show =
                |value: Option<f64>| value.map_or("–".to_owned(), |value| format_value(case.kind, value));
            let mut row = vec![case.name.to_owned(), show(native)];
            for runtime in self.runtimes.iter().copied().skip(1) {
                let value = self.median(runtime, case.name);
                row.push(match (case.kind, native, value) {
                    // A native process has no sandbox to weigh.
                    (kind, ..) if kind.is_size() => show(value),
                    (_, None, _) | (.., None) => show(value),
                    (_, Some(native), Some(value)) => format!("{:.2} ×", value / native),
                });
            }
            rows.push(row);
        }
        rows
    }

    /// The table for a terminal.
    pub fn table(&self) -> String {
        let rows = self.rows();
        let mut text = String::new();
        for row in &rows {
            for (index, cell) in row.iter().enumerate() {
                let _ = if index == 0 { write!(text, "{cell:20}") } else { write!(text, "{cell:>13}") };
            }
            text.push('\n');
        }
        text
    }

    /// The table for a document.
    pub fn markdown(&self) -> String {
        let mut rows = self.rows();
        for (row, case) in rows.iter_mut().skip(1).zip(&self.cases) {
            row[0] = format!("`{}`: {}", case.name, case.what);
        }
        let line = vec!["---"; rows[0].len()].join(" | ");
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "| {line} |");
            }
        }
        text
    }

    /// A picture of the table.
    pub fn picture(&self) -> String {
        let others = &self.runtimes[1..];
        let lines: Vec<picture::Line> = self
            .cases
            .iter()
            .filter(|case| !case.kind.is_size())
            .filter_map(|case| {
                let native = self.median("native", case.name)?;
                let multiple = |name: &&'static str| Some(self.median(name, case.name)? / native);
                Some((case.name, others.iter().map(multiple).collect()))
            })
            .collect();
        picture::svg(others, &lines)
    }

    /// Everything, with all samples.
    pub fn json(&self) -> Value {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let runtimes: serde_json::Map<String, Value> = self
                    .runtimes
                    .iter()
                    .filter_map(|name| {
                        let samples = self.samples.get(&(*name, case.name.to_owned()))?;
                        let median = self.median(name, case.name)?;
                        Some(((*name).to_owned(), json!({"median": median, "samples": samples})))
                    })
                    .collect();
                let unit = if case.kind.is_size() { "bytes" } else { "ns" };
                json!({"name": case.name, "what": case.what, "unit": unit, "runtimes": runtimes})
            })
            .collect();
        json!({"rounds": self.rounds, "cases": cases, "failures": self.failures})
    }
}

fn format_value(kind: Kind, value: f64) -> String {
    match kind {
        kind if kind.is_size() && value < 1e6 => format!("{:.0} KB", value / 1e3),
        kind if kind.is_size() => format!("{:.1} MB", value / 1e6),
        _ if value < 1e3 => format!("{value:.0} ns"),
        _ if value < 1e6 => format!("{:.2} µs", value / 1e3),
        _ => format!("{:.2} ms", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_a_unit_that_fits() {
        assert_eq!(format_value(Kind::Inside, 24.0), "24 ns");
        assert_eq!(format_value(Kind::Inside, 2500.0), "2.50 µs");
        assert_eq!(format_value(Kind::Inside, 2.5e6), "2.50 ms");
        assert_eq!(format_value(Kind::Memory, 12_340_000.0), "12.3 MB");
    }
}
