//! [`CallSites`]: which instructions of a file make system calls, and making them faster in each process that maps it.
//!
//! A process that ends after a hundred calls has made each of them two or three times, too few to find out which are worth
//! changing. So what was found out is kept with the file. It is a hint: the platform looks at the guest's memory before
//! it changes any of it.
//!
//! To change an instruction costs something, most of it for the page that then is the process's own. So one that few of the
//! processes execute is left to those; and a process that has called from a file only once or twice may be one that ends
//! soon.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;
use platform::{CallSite, Context};

use super::map::MemoryMap;
use super::vma::{Backing, Protection, Vma, VmaFlags};

/// How often an instruction has trapped, in all processes, when others are to have it changed from the start,
const WORTH: u32 = 8;
/// and in how many processes at most for each of these: so often is an instruction executed that pays.
const PROCESSES: u32 = 2;
/// After how many traps in a mapping the known instructions in it are changed,
const PATIENCE: u32 = 3;
/// unless of so many mappings all but a part have come to that: then after the first.
const EAGER: u32 = 16;
const EXCEPTIONS: u32 = 8;
/// Instructions of one file that are counted, and those of them that are known.
const COUNTED_MAX: usize = 256;
const KNOWN_MAX: usize = 64;
/// Mappings of one address space of which it is known how far they are.
const MAPPINGS_MAX: usize = 64;

/// The system call instructions of a file, by the offset of the code around them.
#[derive(Default)]
pub struct CallSites(Mutex<Option<Box<Known>>>);

#[derive(Default)]
struct Known {
    /// How many mappings of it there have been in which an instruction has trapped.
    mappings: u32,
    /// and in how many of them some have, while they were counted: since then all are changed after the first.
    patient: u32,
    eager: bool,
    /// How often the instructions have trapped that are not known.
    traps: HashMap<u64, u32>,
    /// Those that are worth changing, in the order in which that turned out.
    worth: Vec<(u64, CallSite)>,
}

impl CallSites {
    /// Notes that for the `traps`th time an instruction has trapped in a mapping; returns for how many it is to be waited.
    fn note_mapping(&self, traps: u32) -> u32 {
        let mut known = self.0.lock();
        let Known { mappings, patient, eager, .. } = &mut **known.get_or_insert_default();
        if traps == 1 {
            *mappings = mappings.saturating_add(1);
        }
        if traps == PATIENCE && !*eager {
            *patient = patient.saturating_add(1);
            *eager = *mappings >= EAGER && *patient >= *mappings - *mappings / EXCEPTIONS;
        }
        if *eager { 1 } else { PATIENCE }
    }

    /// Notes a trap; whether the instruction is worth knowing from now on.
    fn note(&self, offset: u64) -> bool {
        let mut known = self.0.lock();
        let Known { mappings, traps, worth, .. } = &mut **known.get_or_insert_default();
        if traps.len() >= COUNTED_MAX && !traps.contains_key(&offset) {
            return false;
        }
        let count = traps.entry(offset).or_default();
        *count = count.saturating_add(1);
        *count >= WORTH && *count >= *mappings / PROCESSES && is_new(worth, offset)
    }

    /// Keeps what an instruction looks like.
    fn learn(&self, offset: u64, site: CallSite) {
        let mut known = self.0.lock();
        let worth = &mut known.get_or_insert_default().worth;
        // Another thread may have been quicker.
        if is_new(worth, offset) {
            worth.push((offset, site));
        }
    }

    /// How many are known; the next is behind them.
    fn count(&self) -> usize {
        self.0.lock().as_ref().map_or(0, |known| known.worth.len())
    }

    /// Those behind the first `count` that lie in a mapping of the file from `start`, by their addresses.
    fn within(&self, mapping: &Range<u64>, start: u64, count: usize) -> Vec<(u64, CallSite)> {
        let known = self.0.lock();
        let later = known.as_ref().and_then(|known| known.worth.get(count..)).unwrap_or_default();
        let address = |&(offset, site): &(u64, CallSite)| {
            let address = mapping.start.checked_add(offset.checked_sub(start)?)?;
            mapping.contains(&address).then_some((address, site))
        };
        later.iter().filter_map(address).collect()
    }
}

/// Whether there is room for an instruction that is not known.
fn is_new(worth: &[(u64, CallSite)], offset: u64) -> bool {
    worth.len() < KNOWN_MAX && worth.iter().all(|(known, _)| *known != offset)
}

/// How far the mappings of an address space are, by where they begin.
#[derive(Clone, Default)]
pub struct Mappings(HashMap<u64, Mapping>);

#[derive(Clone, Default)]
struct Mapping {
    /// How many of the file's known instructions have been changed here.
    done: usize,
    traps: u32,
}

impl Mappings {
    /// Notes a trap in the mapping that begins at `start`; returns how many there have been.
    fn note(&mut self, start: u64) -> u32 {
        if self.0.len() >= MAPPINGS_MAX && !self.0.contains_key(&start) {
            self.0.clear();
        }
        let mapping = self.0.entry(start).or_default();
        mapping.traps = mapping.traps.saturating_add(1);
        mapping.traps
    }

    /// Whether it is time to change the known instructions there, of which there are `count`: those before the one that is
    /// returned have been changed, and the others are to be. `patience` is how many traps it takes.
    fn due(&mut self, start: u64, count: usize, patience: u32) -> Option<usize> {
        let mapping = self.0.get_mut(&start)?;
        let due = mapping.done < count && mapping.traps >= patience;
        due.then(|| std::mem::replace(&mut mapping.done, count))
    }
}

impl MemoryMap {
    /// Lets the platform make the system calls at `code` faster, and others of the same file, if that is a program's own code
    /// that nobody writes to. The host has trapped the call there. `gains` says whether the process
    /// gains anything by that; the file remembers the call in any case.
    pub fn call_trapped(&self, context: &mut dyn Context, code: &Range<u64>, gains: bool) {
        let mut vmas = self.vmas.lock();
        let vmas = &mut *vmas;
        let Some(vma) = vmas.set.find(code.start).filter(|vma| is_suitable(vma, code)) else { return };
        let Backing::File { file, offset } = &vma.backing else { return };
        let Some(inode) = file.inode() else { return };
        let (sites, place) = (&inode.common().call_sites, offset + (code.start - vma.start));
        let patience = sites.note_mapping(vmas.mappings.note(vma.start));
        if sites.note(place)
            && let Some(site) = context.call_site()
        {
            sites.learn(place, site);
        }
        if !gains {
            return;
        }
        let (mapping, protection) = (vma.start..vma.end, vma.protection.bits());
        let mut hot = context.hot_call().is_some();
        // Whether it works is merely a matter of speed.
        if let Some(done) = vmas.mappings.due(vma.start, sites.count(), patience) {
            let known = sites.within(&mapping, *offset, done);
            hot &= known.iter().all(|(address, _)| *address != code.start);
            let _ = context.patch_known(protection, &known);
        }
        if hot {
            let _ = context.patch(protection);
        }
    }
}

/// Whether a mapping is one whose code may be changed, at a place in it.
fn is_suitable(vma: &Vma, code: &Range<u64>) -> bool {
    code.end <= vma.end
        && vma.protection == Protection::READ | Protection::EXEC
        && !vma.flags.contains(VmaFlags::SHARED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes a trap at `offset`; whether the instruction has become known by it.
    fn trap(sites: &CallSites, offset: u64) -> bool {
        let learns = sites.note(offset);
        if learns {
            sites.learn(offset, CallSite::default());
        }
        learns
    }

    #[test]
    fn what_traps_often_in_all_processes_together_becomes_known() {
        let sites = CallSites::default();
        let learned: Vec<bool> = (0..2 * WORTH)
            .map(|_| {
                sites.note_mapping(1);
                trap(&sites, 0x100)
            })
            .collect();
        assert_eq!(learned.iter().position(|learned| *learned), Some(WORTH as usize - 1));
        assert_eq!(learned.iter().filter(|learned| **learned).count(), 1);
        assert_eq!(sites.count(), 1);
    }

    #[test]
    fn what_few_processes_execute_does_not() {
        let sites = CallSites::default();
        for process in 0..1000 {
            sites.note_mapping(1);
            assert!(process % 3 != 0 || !trap(&sites, 0x100) || process < 3 * WORTH);
            assert!(!trap(&sites, 0x200) || process < WORTH);
        }
        let known: Vec<u64> = sites.within(&(0..0x1000), 0, 0).iter().map(|(address, _)| *address).collect();
        assert_eq!(known, [0x200]);
    }

    #[test]
    fn a_file_has_no_more_than_so_many() {
        let sites = CallSites::default();
        for offset in 0..2 * COUNTED_MAX as u64 {
            (0..WORTH).for_each(|_| _ = trap(&sites, offset));
        }
        assert_eq!(sites.count(), KNOWN_MAX);
        assert!(sites.0.lock().as_ref().is_some_and(|known| known.traps.len() == COUNTED_MAX));
        sites.learn(0x9999, CallSite::default());
        assert_eq!(sites.count(), KNOWN_MAX);
    }

    #[test]
    fn known_ones_are_found_where_the_file_is_mapped() {
        let sites = CallSites::default();
        for offset in [0x1000, 0x2345, 0x1234, 0x3000, 0x0fff] {
            (0..WORTH).for_each(|_| _ = trap(&sites, offset));
        }
        let addresses = |mapping: Range<u64>, start, count| {
            let known = sites.within(&mapping, start, count);
            known.into_iter().map(|(address, _)| address).collect::<Vec<_>>()
        };
        assert_eq!(addresses(0x7000..0x9000, 0x1000, 0), [0x7000, 0x8345, 0x7234]);
        assert_eq!(addresses(0x7000..0x9000, 0x1000, 2), [0x7234]);
        assert_eq!(addresses(0x7000..0x9000, 0x1000, 5), []);
        assert_eq!(addresses(0x7000..0x9000, 0x1000, 6), []);
        assert_eq!(addresses(u64::MAX - 0x1000..u64::MAX, 0, 0), [u64::MAX - 1]);
    }

    #[test]
    fn a_mapping_is_due_once_it_has_trapped_some_times_and_when_more_are_known() {
        let mut mappings = Mappings::default();
        let traps: Vec<u32> = (0..PATIENCE - 1).map(|_| mappings.note(0x1000)).collect();
        assert_eq!(traps, [1, 2]);
        assert_eq!(mappings.due(0x1000, 5, PATIENCE), None);
        mappings.note(0x1000);
        assert_eq!(mappings.due(0x1000, 0, PATIENCE), None);
        assert_eq!(mappings.due(0x1000, 5, PATIENCE), Some(0));
        assert_eq!(mappings.due(0x1000, 5, PATIENCE), None);
        assert_eq!(mappings.due(0x1000, 6, PATIENCE), Some(5));
        // A copy goes on from there; another mapping begins.
        assert_eq!(mappings.clone().due(0x1000, 7, PATIENCE), Some(6));
        assert_eq!(mappings.due(0x2000, 7, PATIENCE), None);
        assert_eq!(mappings.note(0x3000), 1);
        assert_eq!(mappings.due(0x3000, 7, 1), Some(0));
        (0..1000).for_each(|start| _ = mappings.note(start));
        assert!(mappings.0.len() <= MAPPINGS_MAX);
    }

    #[test]
    fn a_file_of_which_nearly_all_processes_make_several_calls_is_changed_at_the_first() {
        let process =
            |sites: &CallSites, traps: u32| (1..=traps).map(|count| sites.note_mapping(count)).last();
        let (busy, idle) = (CallSites::default(), CallSites::default());
        for number in 0..EAGER {
            assert_eq!(
                process(&busy, if number == 3 { 1 } else { 5 }),
                Some(if number + 1 < EAGER { PATIENCE } else { 1 })
            );
            assert_eq!(process(&idle, if number % 4 == 0 { 1 } else { 5 }), Some(PATIENCE));
        }
        assert_eq!(busy.note_mapping(1), 1);
        assert_eq!(idle.note_mapping(1), PATIENCE);
        // One call is all that is seen from then on.
        (0..1000).for_each(|_| assert_eq!(process(&busy, 1), Some(1)));
        (0..1000).for_each(|_| assert_eq!(process(&idle, 2), Some(PATIENCE)));
    }
}
