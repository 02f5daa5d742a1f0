//! Files that stub processes are born with, so that mapping them needs no hand-over.
//!
//! To hand a file to a stub takes a notification and two wake-ups, and each program maps at least itself, its loader and its C
//! library. What many programs map is *preloaded*: given once to the process that new ones are copied from, with a number of
//! [`PRELOADED`], from which the filter lets stubs map privately and do nothing else. A process knows for good which files it was
//! born with; one that is given later is known to later ones.
//!
//! All guests of a pool of address spaces can map what is preloaded there, which is why the kernel chooses: it must be
//! something that any of them may read.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::layout::PRELOADED;
use super::resident::{is, may_stay_open};

/// How often a file has been mapped by hand-over when new processes had better be born with it.
const WORTH: u32 = 4;
/// How many files are counted at a time.
const CANDIDATES: usize = 16;
/// How many there are at most.
const COUNT: usize = (PRELOADED.end - PRELOADED.start) as usize;

/// What a process was born with, by number.
pub type Files = [Option<Weak<OwnedFd>>; COUNT];

/// What the processes of a pool are born with.
#[derive(Debug, Default)]
pub struct Preloaded(Mutex<State>);

#[derive(Debug, Default)]
pub struct State {
    /// What a process has that is made now.
    given: Arc<Files>,
    /// What is to be given.
    wanted: Vec<Weak<OwnedFd>>,
    /// What has been mapped lately, and how often.
    candidates: Vec<(Weak<OwnedFd>, u32)>,
    /// Whose turn it is to be replaced.
    next: usize,
}

/// The number by which a process has a file that it was born with.
pub fn number(files: &Files, file: &Arc<OwnedFd>) -> Option<u32> {
    let index = files.iter().position(|held| is(held.as_ref(), file))?;
    Some(PRELOADED.start + index as u32)
}

impl Preloaded {
    /// Notes that a process has been handed a file to map; whether new ones had better be born with it.
    pub fn note(&self, file: &Arc<OwnedFd>) -> bool {
        let Some(mut state) = self.0.try_lock() else { return false };
        if number(&state.given, file).is_some() || state.wanted.iter().any(|held| is(Some(held), file)) {
            return false;
        }
        let State { candidates, next, .. } = &mut *state;
        let index = candidates.iter().position(|(held, _)| is(Some(held), file)).unwrap_or_else(|| {
            let candidate = (Arc::downgrade(file), 0);
            if candidates.len() < CANDIDATES {
                candidates.push(candidate);
                return candidates.len() - 1;
            }
            *next = (*next + 1) % CANDIDATES;
            candidates[*next] = candidate;
            *next
        });
        let count = &mut candidates[index].1;
        *count += 1;
        if *count < WORTH {
            return false;
        }
        *count = 0;
        true
    }

    /// Has processes that are made from now on be born with the file.
    pub fn want(&self, file: &Arc<OwnedFd>) {
        let mut state = self.0.lock();
        if state.wanted.len() < COUNT && may_stay_open(file) {
            state.wanted.push(Arc::downgrade(file));
        }
    }

    /// Gives the process that others are copied from what is wanted, by `give`, which returns whether it has the file. What it
    /// has does not change as long as the result exists.
    pub fn give(&self, mut give: impl FnMut(&Arc<OwnedFd>, u32) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.0.lock();
        for wanted in std::mem::take(&mut state.wanted) {
            let Some(file) = wanted.upgrade() else { continue };
            let mut files = (*state.given).clone();
            let is_free =
                |held: &Option<Weak<OwnedFd>>| held.as_ref().is_none_or(|held| held.strong_count() == 0);
            let index = files.iter().position(is_free).unwrap_or_else(|| {
                state.next = (state.next + 1) % COUNT;
                state.next
            });
            if !give(&file, PRELOADED.start + index as u32) {
                break;
            }
            files[index] = Some(wanted);
            state.given = Arc::new(files);
        }
        state
    }

    /// Forgets all: there is another process that new ones are copied from.
    pub fn forget(&self) {
        self.0.lock().given = Arc::default();
    }
}

impl State {
    /// What a process has that is copied now.
    pub fn given(&self) -> Arc<Files> {
        Arc::clone(&self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/proc/self/exe").expect("this program").into())
    }

    #[test]
    fn what_is_mapped_often_is_worth_it() {
        let preloaded = Preloaded::default();
        let (often, others) = (file(), [(); CANDIDATES - 1].map(|()| file()));
        for round in 1..=2 * WORTH {
            assert_eq!(preloaded.note(&often), round % WORTH == 0);
            if round == 1 {
                others.iter().for_each(|other| assert!(!preloaded.note(other)));
            }
        }
        preloaded.want(&often);
        (0..2 * WORTH).for_each(|_| assert!(!preloaded.note(&often)));
        // Many more than are counted.
        let many = [(); 3 * CANDIDATES].map(|()| file());
        (0..3 * WORTH).for_each(|_| many.iter().for_each(|file| assert!(!preloaded.note(file))));
        assert_eq!(preloaded.0.lock().candidates.len(), CANDIDATES);
    }

    #[test]
    fn what_is_wanted_is_given_once_and_replaces_the_rest() {
        let preloaded = Preloaded::default();
        let files: Vec<_> = (0..COUNT + 2).map(|_| file()).collect();
        let mut numbers = Vec::new();
        let mut give = || {
            let state = preloaded.give(|_, number| {
                numbers.push(number);
                true
            });
            state.given()
        };
        let nothing = give();
        for file in &files[..COUNT] {
            preloaded.want(file);
        }
        let all = give();
        assert!(nothing.iter().all(Option::is_none));
        assert!(
            files[..COUNT]
                .iter()
                .enumerate()
                .all(|(index, file)| number(&all, file) == Some(PRELOADED.start + index as u32))
        );
        // A file that is gone makes room before another has to.
        let gone = files.into_iter().enumerate().filter(|(index, _)| *index != 2).map(|(_, file)| file);
        let files: Vec<_> = gone.collect();
        preloaded.want(&files[COUNT - 1]);
        let later = give();
        assert_eq!(number(&later, &files[COUNT - 1]), Some(PRELOADED.start + 2));
        assert_eq!(number(&all, &files[COUNT - 1]), None);
        preloaded.want(&files[COUNT]);
        assert!(number(&give(), &files[COUNT]).is_some());
        assert_eq!(numbers.len(), COUNT + 2);
        // Who cannot be given any has none of the rest.
        preloaded.want(&files[0]);
        drop(preloaded.give(|_, _| false));
        preloaded.forget();
        assert!(preloaded.give(|_, _| true).given().iter().all(Option::is_none));
    }
}
