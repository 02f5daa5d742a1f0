//! Time as system calls exchange it.

use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct timespec` with 64-bit seconds.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TimeSpec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, 0..=999_999_999 when valid.
    pub nsec: i64,
}

impl TimeSpec {
    /// The duration, or `None` when a field is out of range (callers return `EINVAL`).
    pub fn to_duration(self) -> Option<Duration> {
        let sec = u64::try_from(self.sec).ok()?;
        let nsec = u32::try_from(self.nsec).ok().filter(|n| *n < 1_000_000_000)?;
        Some(Duration::new(sec, nsec))
    }
}

impl From<Duration> for TimeSpec {
    fn from(duration: Duration) -> TimeSpec {
        TimeSpec {
            sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            nsec: i64::from(duration.subsec_nanos()),
        }
    }
}

/// `struct timeval` with 64-bit seconds.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeVal {
    /// Seconds.
    pub sec: i64,
    /// Microseconds, 0..=999_999 when valid.
    pub usec: i64,
}

impl TimeVal {
    /// The duration, or `None` when a field is out of range (callers return `EINVAL`).
    pub fn to_duration(self) -> Option<Duration> {
        let sec = u64::try_from(self.sec).ok()?;
        let usec = u32::try_from(self.usec).ok().filter(|n| *n < 1_000_000)?;
        Some(Duration::new(sec, usec * 1000))
    }
}

impl From<Duration> for TimeVal {
    fn from(duration: Duration) -> TimeVal {
        TimeVal {
            sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            usec: i64::from(duration.subsec_micros()),
        }
    }
}
