//! The text that `--strace` prints: one line per call, and the count of calls that are not there.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Support, TABLE, lookup, table};
use crate::error::{SysError, SyscallResult};
use crate::task::CurrentTask;

/// Which calls are traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StraceFilter {
    /// All of them.
    All,
    /// Those with these numbers.
    Only(HashSet<u64>),
}

impl StraceFilter {
    /// Parses a comma-separated list of names; the error is the name that no call has.
    pub fn parse(list: &str) -> Result<StraceFilter, String> {
        let number = |name: &str| {
            let row = TABLE.iter().find(|row| row.name == name).ok_or_else(|| name.to_owned())?;
            Ok::<_, String>(u64::from(row.number))
        };
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(StraceFilter::Only(names.map(number).collect::<Result<_, _>>()?))
    }
}

/// Receives one line of text per traced call.
pub type StraceSink = Box<dyn Fn(&str) + Send + Sync>;

/// Prints traced calls to a sink.
pub struct Strace {
    filter: StraceFilter,
    sink: StraceSink,
}

/// A call that has begun.
pub struct Entry {
    text: String,
    start: Instant,
}

impl Strace {
    /// Traces what `filter` selects to `sink`.
    pub fn new(filter: StraceFilter, sink: StraceSink) -> Strace {
        Strace { filter, sink }
    }

    /// Whether the call is traced.
    pub fn wants(&self, number: u64) -> bool {
        match &self.filter {
            StraceFilter::All => true,
            StraceFilter::Only(numbers) => numbers.contains(&number),
        }
    }

    /// Shows the arguments before the call, because it may change what they point at.
    pub fn enter(&self, task: &CurrentTask, number: u64, raw: &[u64; 6]) -> Entry {
        let mut text = String::new();
        let name = lookup(number).map_or("syscall", |row| row.name);
        let _ = write!(text, "[{:>4}] {} {name}(", task.number(), task.comm());
        table::show(number, task, raw, &mut text);
        text.push(')');
        // A call that may not return, or not soon, is worth a line of its own.
        if matches!(name, "execve" | "execveat" | "exit" | "exit_group" | "rt_sigreturn") {
            (self.sink)(&text);
        }
        Entry { text, start: Instant::now() }
    }

    /// Prints the line with the result.
    pub fn leave(&self, _task: &CurrentTask, entry: Entry, result: &SyscallResult) {
        let mut text = entry.text;
        let _ = match result {
            Ok(value) if *value < 4096 => write!(text, " = {value}"),
            Ok(value) => write!(text, " = {value:#x}"),
            Err(SysError::Errno(errno)) => write!(text, " = -1 {errno:?} ({errno})"),
            Err(SysError::Restart(restart)) => write!(text, " = ? ERESTART{restart:?}"),
        };
        let _ = write!(text, " <{}us>", entry.start.elapsed().as_micros());
        (self.sink)(&text);
    }
}

/// Shows the arguments of a call that is not there.
pub(super) fn show_unknown(names: &[&str], raw: &[u64; 6], out: &mut String) {
    for (index, (name, value)) in names.iter().zip(raw).enumerate() {
        let _ = write!(out, "{}{name}={value:#x}", if index > 0 { ", " } else { "" });
    }
}

/// Counts calls that returned `ENOSYS` because they are not there, and logs each once.
#[derive(Default)]
pub struct Unimplemented {
    counts: Mutex<HashMap<u64, u64>>,
    /// Who is told of each beside the log.
    pub listener: std::sync::OnceLock<StraceSink>,
}

/// Numbers beyond the table are counted as one; so the map is bounded by the table.
const OTHER: u64 = u64::MAX;

impl Unimplemented {
    /// Counts the call; the first of each is logged with its arguments.
    pub fn count(&self, number: u64, raw: &[u64; 6]) {
        let row = lookup(number);
        if row.is_some_and(|row| row.support == Support::Full) {
            return;
        }
        let mut counts = self.counts.lock();
        let count = counts.entry(row.map_or(OTHER, |_| number)).or_insert(0);
        *count += 1;
        if *count == 1 {
            let mut text = String::new();
            show_unknown(row.map_or(&["?"; 6], |row| row.arguments), raw, &mut text);
            if let Some(listener) = self.listener.get() {
                let name = row.map_or_else(|| format!("sys_{number}"), |row| row.name.to_owned());
                listener(&format!("Unsupported syscall {name}({text})"));
            }
            match row {
                Some(row) => {
                    tracing::info!("system call {} is not implemented: {}({text})", row.number, row.name)
                }
                None => tracing::info!("system call {number} is unknown: ({text})"),
            }
        }
    }

    /// How often each call was made that is not there, by number.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        let mut counts: Vec<_> = self.counts.lock().iter().map(|(number, count)| (*number, *count)).collect();
        counts.sort_unstable();
        counts
    }
}
