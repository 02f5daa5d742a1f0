//! What the files of a mount share, and those of all mounts.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use gofer::Attributes;
use parking_lot::Mutex;

use super::{Coherence, Devices, HostInode, Writing};
use crate::fs::InodeCommon;
use crate::fs::hash::Keyed;

/// How many directories of a mount are kept open.
pub(super) const MAX_OPEN: usize = 1024;
/// How many of the files that were opened last are kept open, where they stay what they are.
pub(super) const MAX_OPEN_FILES: usize = 64;

/// What tells a file of the host from all others, those included that get its number after it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) born: Option<(i64, i64)>,
}

impl From<&Attributes> for Identity {
    fn from(attributes: &Attributes) -> Identity {
        let born = attributes.born.map(|time| (time.sec, time.nsec));
        Identity { device: attributes.device, inode: attributes.inode, born }
    }
}

/// What the kernel keeps of files of the host, whichever mounts show them.
#[derive(Default)]
pub struct HostFiles {
    pub(super) commons: Mutex<HashMap<Identity, Weak<InodeCommon>, Keyed>>,
}

impl HostFiles {
    pub(super) fn common(&self, identity: Identity) -> Arc<InodeCommon> {
        let mut commons = self.commons.lock();
        if let Some(common) = commons.get(&identity).and_then(Weak::upgrade) {
            return common;
        }
        if commons.len() > 1024 && commons.len().is_power_of_two() {
            commons.retain(|_, common| common.strong_count() > 0);
        }
        let common = Arc::new(InodeCommon::new());
        commons.insert(identity, Arc::downgrade(&common));
        common
    }
}

pub(super) struct Shared {
    pub(super) writing: Writing,
    pub(super) coherence: Coherence,
    pub(super) devices: Devices,
    /// Whether directories below are kept open. Where the host unmounts, one that is open would keep it from that.
    pub(super) keeps: bool,
    pub(super) files: Arc<HostFiles>,
    /// Inodes in use, so that two names of a file are one inode.
    pub(super) known: Mutex<HashMap<Identity, Weak<HostInode>, Keyed>>,
    open: Mutex<KeptOpen>,
    pub(super) looked_at: LookedAt,
}

/// The regular file that was looked at last: many programs open what they have looked at. No more than a hint: a directory is
/// known by where it is in memory, which may be another's by now, and a name by its ends.
#[derive(Default)]
pub(super) struct LookedAt {
    pub(super) directory: AtomicUsize,
    name: AtomicU64,
}

impl LookedAt {
    pub(super) fn ends(name: &[u8]) -> u64 {
        let end = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        match (name.first_chunk(), name.last_chunk()) {
            (None, _) | (_, None) => name.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            (first, last) => end(first).rotate_left(23) ^ end(last) ^ (name.len() as u64) << 48,
        }
    }

    /// Notes that a name in a directory stood for a regular file.
    pub(super) fn note(&self, directory: &HostInode, name: &[u8]) {
        self.directory.store(std::ptr::from_ref(directory).addr(), Ordering::Relaxed);
        self.name.store(Self::ends(name), Ordering::Relaxed);
    }

    /// Whether that was the last.
    pub(super) fn is(&self, directory: &HostInode, name: &[u8]) -> bool {
        self.directory.load(Ordering::Relaxed) == std::ptr::from_ref(directory).addr()
            && self.name.load(Ordering::Relaxed) == Self::ends(name)
    }
}

/// What is kept open, the oldest first.
#[derive(Default)]
struct KeptOpen {
    directories: VecDeque<Weak<HostInode>>,
    files: VecDeque<Arc<OwnedFd>>,
}

impl Shared {
    /// Of a mount in which nothing was found yet.
    pub(super) fn new(
        writing: Writing,
        coherence: Coherence,
        devices: Devices,
        keeps: bool,
        files: Arc<HostFiles>,
    ) -> Shared {
        let (known, open, looked_at) = Default::default();
        Shared { writing, coherence, devices, keeps, files, known, open, looked_at }
    }

    /// Whether attributes stay what they were when they were asked for.
    pub(super) fn remembers(&self) -> bool {
        self.coherence == Coherence::Exclusive && self.writing == Writing::ReadOnly
    }

    /// Whether the host is to tell when names of directories change.
    pub(super) fn watches(&self) -> bool {
        self.coherence == Coherence::Shared && self.keeps
    }

    /// Keeps a file open that others may open soon.
    pub(super) fn keep_file_open(&self, file: &Arc<OwnedFd>) {
        let mut open = self.open.lock();
        open.files.push_back(Arc::clone(file));
        let closed = if open.files.len() > MAX_OPEN_FILES { open.files.pop_front() } else { None };
        drop(open);
        drop(closed);
    }

    /// Notes that a directory is kept open, and closes others for it that nobody uses right now.
    pub(super) fn keep_open(&self, inode: &Weak<HostInode>) {
        let mut kept = self.open.lock();
        let open = &mut kept.directories;
        open.push_back(Weak::clone(inode));
        let mut closed = Vec::new();
        let excess = open.len().saturating_sub(MAX_OPEN);
        for _ in 0..excess * 2 {
            let Some(oldest) = open.pop_front() else { break };
            let Some(inode) = oldest.upgrade() else { continue };
            let mut handle = inode.handle.lock();
            match handle.take_if(|handle| Arc::strong_count(handle) == 1) {
                Some(handle) => {
                    inode.standing.forget();
                    closed.push(handle);
                }
                None if handle.is_some() => open.push_back(oldest),
                None => {}
            }
            drop(handle);
            if open.len() <= MAX_OPEN {
                break;
            }
        }
        drop(kept);
    }
}
