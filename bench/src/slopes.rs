//! Whether many threads, processes and sandboxes take so many times what one takes.

use std::fmt::Write as _;
use std::path::Path;

use crate::memory::{Crowd, of_crowd};
use crate::runtimes::Runtime;

/// What there is many of, and how many at most.
const CROWDS: [(&str, Crowd, usize); 3] = [
    ("threads", Crowd::Within("idle-threads"), 1000),
    ("processes", Crowd::Within("idle-processes"), 500),
    ("sandboxes", Crowd::Sandboxes, 100),
];

/// The table, in Markdown: memory and time of a quarter, half and all of them, and what one more takes in the lower half and
/// in the upper.
pub fn table(runtimes: &[Runtime], program: &Path) -> anyhow::Result<String> {
    let mut text = "| what | runtime | a quarter | half | all | for each, to the half | from there on |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (what, crowd, count) in CROWDS {
        for runtime in runtimes {
            let counts = [count / 4, count / 2, count];
            let mut sizes = [0.0; 3];
            let mut times = [0.0; 3];
            for (index, count) in counts.into_iter().enumerate() {
                eprintln!("{count} {what}, {}", runtime.name);
                (sizes[index], times[index]) = of_crowd(runtime, program, crowd, count)?;
            }
            let slopes = |values: [f64; 3]| {
                [0, 1].map(|at| (values[at + 1] - values[at]) / (counts[at + 1] - counts[at]) as f64)
            };
            let mut row = |kind: &str,
                           values: [f64; 3],
                           whole: &dyn Fn(f64) -> String,
                           each: &dyn Fn(f64) -> String| {
                let [a, b, c] = values.map(whole);
                let [lower, upper] = slopes(values).map(each);
                let name = runtime.name;
                let _ = writeln!(
                    text,
                    "| {kind} of {count} {what} | {name} | {a} | {b} | {c} | {lower} | {upper} |"
                );
            };
            row("memory", sizes, &|size| format!("{:.1} MB", size / 1e6), &|size| {
                format!("{:.0} KB", size / 1e3)
            });
            row("start", times, &|time| format!("{:.0} ms", time * 1e3), &|time| {
                format!("{:.0} µs", time * 1e6)
            });
        }
    }
    Ok(text)
}
