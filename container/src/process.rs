//! Host processes, recognised although pids are used again.
//!
//! A [`ProcessIdentity`] is a pid with the time at which the process started and the boot in which it did. It may be
//! written to disk. A process that has ended but was not waited for (a zombie) counts as ended.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process of the host, and no other that may have the same pid later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// The boot of the machine that it belongs to; empty if the host does not tell.
    #[serde(default)]
    pub boot_id: String,
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    state: u8,
    start_time: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now; `None` if there is none, or it has ended.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let Some(stat) = stat(pid)?.filter(Stat::is_alive) else { return Ok(None) };
        Ok(Some(Self { pid, start_time: stat.start_time, boot_id: boot_id() }))
    }

    /// The calling process.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn own() -> io::Result<Self> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "/proc does not show this process");
        Self::of(std::process::id().cast_signed())?.ok_or_else(missing)
    }

    /// Whether it still runs. A zombie does not. A process that cannot be looked at is taken for running: to take a
    /// living sandbox for dead would leave it behind.
    pub fn is_alive(&self) -> bool {
        if !self.boot_id.is_empty() && self.boot_id != boot_id() {
            return false;
        }
        match stat(self.pid) {
            Ok(Some(stat)) => stat.is_alive() && stat.start_time == self.start_time,
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// A descriptor of it, which becomes readable when it ends; `None` if it has ended.
    ///
    /// # Errors
    /// If the host has no such descriptors, or none left.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = (self.pid > 0).then(|| Pid::from_raw(self.pid)).flatten() else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Only now is it certain that the pid was not used again in between.
            Ok(descriptor) => Ok(self.is_alive().then_some(descriptor)),
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends it a signal. Returns whether it still ran.
    ///
    /// # Errors
    /// If the caller may not.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(descriptor) = self.open()? else { return Ok(false) };
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended, `limit` at most (for ever, if there is none). Returns whether it has.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let Some(descriptor) = self.open()? else { return Ok(true) };
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Stat {
    fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads `/proc/PID/stat`; `None` if there is no such process.
fn stat(pid: i32) -> io::Result<Option<Stat>> {
    if pid <= 0 {
        return Ok(None);
    }
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected"))
        }),
        // ESRCH: it ended between open and read.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The name of a program may hold anything, also `) Z 1`: the fields begin after the last parenthesis.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The third field of the file is the state, its 22nd the start time.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_running_process_is_alive_and_a_zombie_is_not() {
        let mut child = sleeper();
        let identity = ProcessIdentity::of(child.id().cast_signed()).unwrap().unwrap();
        assert!(identity.is_alive());
        assert!(!identity.wait(Some(Duration::ZERO)).unwrap());
        assert!(identity.signal(Signal::KILL).unwrap());
        assert!(identity.wait(None).unwrap());
        // Nobody has waited for it as a parent does: it is a zombie, and /proc still shows it.
        assert!(std::path::Path::new(&format!("/proc/{}", child.id())).exists());
        assert!(!identity.is_alive());
        assert!(identity.open().unwrap().is_none());
        assert_eq!(ProcessIdentity::of(identity.pid).unwrap(), None);
        child.wait().unwrap();
        assert!(!identity.is_alive());
        assert!(!identity.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_taken_for_it() {
        let own = ProcessIdentity::own().unwrap();
        assert!(own.is_alive());
        let earlier = ProcessIdentity { start_time: own.start_time - 1, ..own.clone() };
        assert!(!earlier.is_alive());
        assert!(earlier.wait(None).unwrap());
        // Signal zero would reach ourselves, and signal 9 must not.
        assert!(!earlier.signal(Signal::KILL).unwrap());
        let before_reboot = ProcessIdentity { boot_id: "another".into(), ..own.clone() };
        assert!(!before_reboot.is_alive());
        let unknown_boot = ProcessIdentity { boot_id: String::new(), ..own };
        assert!(unknown_boot.is_alive());
    }

    #[test]
    fn nonsense_is_no_process() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(ProcessIdentity::of(pid).unwrap(), None);
            let identity = ProcessIdentity { pid, start_time: 1, boot_id: String::new() };
            assert!(!identity.is_alive());
            assert!(!identity.signal(Signal::KILL).unwrap());
        }
    }

    #[test]
    fn names_of_programs_do_not_confuse() {
        let text = b"7 (a) Z 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 4242));
        assert!(parse_stat(b"7 (a) S 1").is_none());
        assert!(parse_stat(b"").is_none());
    }

    #[test]
    fn saved_and_read_back_it_is_the_same() {
        let own = ProcessIdentity::own().unwrap();
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<ProcessIdentity>(&text).unwrap(), own);
    }
}
