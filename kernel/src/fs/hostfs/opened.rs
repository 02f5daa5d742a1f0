//! The descriptors by which a file of the host is open.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

#[derive(Default)]
pub(super) struct Opened {
    pub(super) reading: Descriptors,
    pub(super) writing: Descriptors,
    /// The descriptor that came with a new file, for whoever opens it first.
    pub(super) spare: Option<OwnedFd>,
}

impl Opened {
    pub(super) fn any(&self) -> Option<Arc<OwnedFd>> {
        self.writing.get().or_else(|| self.reading.get())
    }
}

/// Descriptors of a file, as long as somebody has them open.
#[derive(Default)]
pub(super) struct Descriptors {
    pub(super) last: Weak<OwnedFd>,
    /// Of these, some may be closed.
    pub(super) others: Vec<Weak<OwnedFd>>,
}

impl Descriptors {
    pub(super) fn add(&mut self, fd: &Arc<OwnedFd>) {
        let before = std::mem::replace(&mut self.last, Arc::downgrade(fd));
        if before.strong_count() == 0 {
            return;
        }
        if self.others.len().is_power_of_two() {
            self.others.retain(|fd| fd.strong_count() > 0);
        }
        self.others.push(before);
    }

    /// One that is open.
    pub(super) fn get(&self) -> Option<Arc<OwnedFd>> {
        self.last.upgrade().or_else(|| self.others.iter().rev().find_map(Weak::upgrade))
    }
}
