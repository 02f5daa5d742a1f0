//! Waiting for several files at once: what `poll(2)` and `select(2)` have in common.

use std::sync::Arc;

use super::File;
use crate::error::{SysError, SyscallResult};
use crate::task::CurrentTask;
use crate::wait::{Deadline, Events, Registration, WaitSource, Wakeup};

/// A file that is waited for.
pub struct Polled {
    /// The file; `None` for a descriptor that is not open, which is ready with `NVAL` at once.
    pub file: Option<Arc<File>>,
    /// For what. `ERR` and `HUP` are always reported.
    pub wanted: Events,
    /// What was found.
    pub found: Events,
}

impl Polled {
    /// An entry for which nothing has been found yet.
    pub fn new(file: Option<Arc<File>>, wanted: Events) -> Polled {
        Polled { file, wanted, found: Events::empty() }
    }
}

/// The files as something to wait for.
struct Sources(Vec<(Arc<File>, Events)>);

impl WaitSource for Sources {
    fn register(&self, _events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        self.0.iter().fold(Registration::none(), |all, (file, wanted)| {
            all.and(WaitSource::register(&**file, *wanted, wakeup))
        })
    }
}

/// Looks at all entries once; returns how many have something to report.
fn scan(entries: &mut [Polled]) -> usize {
    let mut ready = 0;
    for entry in entries {
        entry.found = match &entry.file {
            Some(file) => file.readiness() & (entry.wanted | Events::ALWAYS),
            None => Events::NVAL,
        };
        ready += usize::from(!entry.found.is_empty());
    }
    ready
}

/// Waits until at least one entry has something to report or the deadline has passed; returns how many have. A signal
/// ends the wait with a restart, which the caller turns into its own kind.
pub fn poll(task: &CurrentTask, entries: &mut [Polled], deadline: Deadline) -> SyscallResult<usize> {
    let ready = scan(entries);
    if ready > 0 || deadline == Deadline::Now {
        return Ok(ready);
    }
    let sources = entries.iter().filter_map(|e| Some((Arc::clone(e.file.as_ref()?), e.wanted)));
    let sources = Sources(sources.collect());
    let again = SysError::Errno(abi::Errno::EAGAIN);
    let result = task.block_on(&sources, Events::empty(), deadline, || match scan(entries) {
        0 => Err(again),
        ready => Ok(ready),
    });
    match result {
        Err(error) if error == again => Ok(0),
        result => result,
    }
}
