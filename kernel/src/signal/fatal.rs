//! What the log tells of a program that a fault of its own has ended, as Linux's log does: what it touched, where it was,
//! and in which file that code is.
//!
//! A guest can fault as often as it likes, and chooses names: so there are few lines in a second, each of bounded length and
//! without control characters.

use std::time::{Duration, Instant};

use abi::signal::{SI_KERNEL, SI_USER, SigInfo, Signal};
use parking_lot::Mutex;
use platform::Fault;

use crate::fs::file::Place;
use crate::task::CurrentTask;

/// How many lines there may be in so long a time.
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_secs(1);
/// The most characters of a name.
const NAME_MAX: usize = 64;

/// How many lines there have been lately.
#[derive(Debug, Default)]
pub struct FaultLog(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl FaultLog {
    /// Whether there may be another line, and then how many have been left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut recent = self.0.lock();
        if recent.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            (recent.since, recent.lines) = (Some(now), 0);
        }
        if recent.lines == LINES {
            recent.left_out = recent.left_out.saturating_add(1);
            return None;
        }
        recent.lines += 1;
        Some(std::mem::take(&mut recent.left_out))
    }
}

/// Tells the log of a signal that ends the task's thread group, if it comes from a fault.
pub fn report(task: &CurrentTask, signal: Signal, info: &SigInfo, fault: Option<&Fault>) {
    // Others may send the same signals, but not with a kernel's code.
    if info.code <= SI_USER || !(fault.is_some() || info.code == SI_KERNEL) {
        return;
    }
    let Some(left_out) = task.kernel.fault_log.admit(Instant::now()) else { return };
    let (ip, sp) = {
        let context = task.context.borrow();
        (context.registers().rip, context.registers().rsp)
    };
    let address = fault.map_or(0, |fault| fault.address);
    let error = fault.map_or(0, |fault| fault.error);
    let mut place = code_place(task, ip);
    if left_out > 0 {
        place += &format!(" (after {left_out} more faults that are not shown)");
    }
    tracing::info!(
        "{}[{}]: {signal:?} (code {}) at {address:#x} ip {ip:#x} sp {sp:#x} error {error:#x}{place}",
        plain(task.comm().as_bytes()),
        task.group.pid,
        info.code,
    );
}

/// Which file is mapped at an address, and what of it: ` in libc.so.6[+0x1234]`.
fn code_place(task: &CurrentTask, address: u64) -> String {
    let mapped = task.memory().and_then(|memory| memory.file_at(address));
    let Some((file, offset)) = mapped else { return String::new() };
    let name = match &file.place {
        Place::Path(place) => place.dentry.name().into_vec(),
        Place::Anonymous { name, .. } => name.clone().into_bytes(),
    };
    format!(" in {}[+{offset:#x}]", plain(&name))
}

/// The beginning of a name that a guest has chosen, such that it is one word of a line.
fn plain(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().take(NAME_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_few_lines_in_a_second_and_the_next_says_how_many_were_left_out() {
        let (log, start) = (FaultLog::default(), Instant::now());
        let admitted = |after: u64| log.admit(start + Duration::from_millis(after));
        assert!((0..u64::from(LINES)).all(|index| admitted(index) == Some(0)));
        assert!((0..100).all(|index| admitted(10 + index).is_none()));
        assert_eq!(admitted(1000), Some(100));
        assert_eq!(admitted(1001), Some(0));
    }

    #[test]
    fn names_are_short_and_have_no_control_characters() {
        assert_eq!(plain(b"python3"), "python3");
        assert_eq!(
            plain("\u{1b}[2Jgr\u{fc}n\nline \"two\"".as_bytes()),
            "\\u{1b}[2Jgr\u{fc}n\\nline \\\"two\\\""
        );
        assert_eq!(plain(&[b'x'; 300]).len(), NAME_MAX);
        assert_eq!(plain(b"\xff\0"), "\u{fffd}\\0");
    }
}
