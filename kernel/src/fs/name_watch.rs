//! Whether names of the host's directories still stand for what they did.
//!
//! Where others change files too, each use of a name asks the host what it stands for now. For the directories on the way to a
//! file that can be saved: the host tells, by fanotify(7), when a name goes away in a directory that is watched, or comes to
//! stand for something else. It does so before the change is done, so that one question answers for all directories of a
//! path: has there been anything? What was found out before is believed if there has not.
//!
//! What is believed is numbered: each event begins a new *epoch*, and what was found out in an earlier one has to be
//! found out again. There is one group of watches for all mounts of the process; where the host gives none, nothing
//! is believed.
//!
//! Who brings a directory under watch, or lets another take its place, must do so before it asks the host what a name stands
//! for, and say that it was the epoch of before.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::hostfs::freshness;

/// How often a name has to be found before it is worth watching.
const WORTH_WATCHING: u32 = 8;
/// Bytes of events that are taken from the host at once.
const EVENTS: usize = 4096;

/// The watches of this process.
static WATCHES: LazyLock<Option<Watches>> =
    LazyLock::new(|| host::file::event_group().ok().map(Watches::new));

struct Watches {
    group: OwnedFd,
    /// Odd while events are taken from the group: what is found out then may be from before one of them, and is never believed.
    epoch: AtomicU64,
    /// Held by who takes events from the group.
    taking: Mutex<()>,
}

thread_local! {
    /// In which system call the host was asked last, and the epoch that it was.
    static ASKED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

impl Watches {
    fn new(group: OwnedFd) -> Watches {
        Watches { group, epoch: AtomicU64::new(2), taking: Mutex::new(()) }
    }

    /// Whether it is that epoch, and nothing has been told since.
    fn holds(&self, epoch: u64) -> bool {
        let is_now = || epoch.is_multiple_of(2) && self.epoch.load(Ordering::SeqCst) == epoch;
        if !is_now() {
            return false;
        }
        let waiting = rustix::io::ioctl_fionread(&self.group).unwrap_or(u64::MAX);
        if waiting > 0 {
            self.take(waiting);
        }
        // Where the group was empty, somebody may have emptied it just now.
        is_now()
    }

    /// Takes events from the group, as many as are in so many bytes, or more if some have come meanwhile.
    fn take(&self, bytes: u64) {
        let _taking = self.taking.lock();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let (mut events, mut taken) = ([0; EVENTS], 0);
        while taken < bytes {
            match rustix::io::read(&self.group, &mut events) {
                Ok(count) if count > 0 => taken += count as u64,
                _ => break,
            }
        }
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Begins the next epoch without an event.
    fn next(&self) {
        self.epoch.fetch_add(2, Ordering::SeqCst);
    }
}

/// The epoch that it is at least: an event of which the host has not been asked yet begins the next one. `None` where there are
/// no watches.
pub fn epoch() -> Option<u64> {
    WATCHES.as_ref().map(|watches| watches.epoch.load(Ordering::SeqCst))
}

/// Whether it is that epoch still. In one system call the host is asked once.
fn is_still(epoch: u64) -> bool {
    let Some(watches) = &*WATCHES else { return false };
    let call = freshness::call();
    if call.is_some_and(|call| ASKED.get() == (call, epoch)) {
        return watches.epoch.load(Ordering::SeqCst) == epoch;
    }
    let holds = watches.holds(epoch);
    if let Some(call) = call.filter(|_| holds) {
        ASKED.set((call, epoch));
    }
    holds
}

/// What is believed of one directory: that its name stands for it, and what it was like then.
#[derive(Debug)]
pub struct Standing<T> {
    /// In which epoch it was found last while it was watched; zero if it was not. Changed with the state.
    epoch: AtomicU64,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// How often it was found by its name.
    found: u32,
    watched: bool,
    /// What it was like then, and in which epoch that was.
    seen: Option<(u64, T)>,
}

impl<T> Default for Standing<T> {
    fn default() -> Standing<T> {
        let state = Mutex::new(State { found: 0, watched: false, seen: None });
        Standing { epoch: AtomicU64::new(0), state }
    }
}

impl<T: Copy> Standing<T> {
    /// What the directory was like when it was found last, if its name stands for it still and its owner and mode have not
    /// changed.
    pub fn known(&self) -> Option<T> {
        // Of files, and where there are no watches, nothing is.
        if self.epoch.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (epoch, seen) = self.state.lock().seen?;
        is_still(epoch).then_some(seen)
    }

    /// Whether its name stands for it still.
    pub fn stands(&self) -> bool {
        let epoch = self.epoch.load(Ordering::Acquire);
        epoch > 0 && is_still(epoch)
    }

    /// Notes that the directory was found by its name in `parent`, and was like `seen`, which the host has been asked for in
    /// the epoch `before`. Returns whether both had better be watched.
    pub fn was_found(&self, parent: &Standing<T>, seen: T, before: u64) -> bool {
        let parent_watched = parent.state.lock().watched;
        let mut state = self.state.lock();
        if state.watched && parent_watched {
            state.seen = Some((before, seen));
            self.epoch.store(before, Ordering::Release);
            return false;
        }
        state.found = state.found.saturating_add(1);
        state.found.is_multiple_of(WORTH_WATCHING)
    }

    /// Has the host tell of changes to the directory.
    pub fn watch(&self, directory: BorrowedFd<'_>) {
        let Some(watches) = &*WATCHES else { return };
        let mut state = self.state.lock();
        if !state.watched && host::file::watch_names(watches.group.as_fd(), directory).is_ok() {
            state.watched = true;
            // What others are finding out just now may have been so before.
            watches.next();
        }
    }

    /// Believes nothing any more, because it is no longer open or has another name: neither of it nor, if the host does not
    /// tell of it any more, of what is in it.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        let watched = std::mem::replace(&mut *state, State { found: 0, watched: false, seen: None }).watched;
        self.epoch.store(0, Ordering::Release);
        drop(state);
        if watched && let Some(watches) = &*WATCHES {
            watches.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_out_while_events_are_taken_is_never_believed() {
        let Ok(group) = host::file::event_group() else {
            eprintln!("skipped: this host has no fanotify for everybody");
            return;
        };
        let place = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(place.path()).unwrap();
        let watches = Watches::new(group);
        host::file::watch_names(watches.group.as_fd(), directory.as_fd()).unwrap();
        let change = || {
            std::fs::write(place.path().join("a"), "").unwrap();
            std::fs::rename(place.path().join("a"), place.path().join("b")).unwrap();
        };
        let before = watches.epoch.load(Ordering::SeqCst);
        assert!(watches.holds(before));
        change();
        assert!(!watches.holds(before));
        // As it is in the middle of `take`, which another thread is in: the next event goes with the one before.
        watches.epoch.fetch_add(1, Ordering::SeqCst);
        let meanwhile = watches.epoch.load(Ordering::SeqCst);
        assert!(!watches.holds(meanwhile));
        watches.epoch.fetch_add(1, Ordering::SeqCst);
        assert!(!watches.holds(meanwhile));
        let after = watches.epoch.load(Ordering::SeqCst);
        assert!(watches.holds(after));
        change();
        watches.take(1);
        assert!(!watches.holds(after));
    }
}
