//! How much memory processes that have ended had at most.
//!
//! The host tells when it has taken a process down, some time after its parent has heard of the end. Nobody waits for that but
//! who wants to know.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How often one looks who waits for the host, and for how long: it may have a great deal of memory to unmap.
const LOOK: Duration = Duration::from_micros(50);
const PATIENCE: Duration = Duration::from_secs(1);

/// The most that one of several address spaces had in memory at a time, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Peak {
    known: u64,
    /// Of those that the host has not told yet.
    open: Vec<Arc<OnceLock<u64>>>,
}

impl Peak {
    /// Of one address space, by its [`platform::AddressSpace::final_peak`].
    pub fn of(space: Arc<OnceLock<u64>>) -> Peak {
        Peak { known: 0, open: vec![space] }
    }

    /// Takes others into account, too.
    pub fn add(&mut self, others: &Peak) {
        self.known = self.known.max(others.known);
        self.open.extend_from_slice(&others.open);
        self.look();
    }

    /// Bytes; waits for the host.
    pub fn bytes(mut self) -> u64 {
        let start = Instant::now();
        self.look();
        while !self.open.is_empty() && start.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
            self.look();
        }
        self.known
    }

    fn look(&mut self) {
        self.open.retain(|space| {
            let told = space.get().copied();
            self.known = self.known.max(told.unwrap_or(0));
            told.is_none()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_not_told_is_waited_for_by_who_asks() {
        let (one, two) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let mut peak = Peak::default();
        peak.add(&Peak::of(Arc::clone(&one)));
        assert_eq!(one.set(5), Ok(()));
        peak.add(&Peak::of(Arc::clone(&two)));
        assert_eq!((peak.known, peak.open.len()), (5, 1));
        let host = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            two.set(7)
        });
        assert_eq!(peak.clone().bytes(), 7);
        assert_eq!(host.join().expect("told"), Ok(()));
        peak.add(&Peak::default());
        assert_eq!((peak.known, peak.open.len()), (7, 0));
    }
}
