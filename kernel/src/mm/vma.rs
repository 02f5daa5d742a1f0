//! The set of mappings of an address space, as data: no host calls, no locks.
//!
//! Invariants: mappings do not overlap, are not empty, start and end at page borders; neighbours that could be one
//! mapping are one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use abi::{Errno, SysResult};
use bitflags::bitflags;

use super::PAGE_SIZE;
use crate::fs::File;

/// The distance that is kept below a mapping that grows down.
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE;

bitflags! {
    /// What a mapping allows; the values of `PROT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Protection: u32 {
        /// `PROT_READ`
        const READ = 1;
        /// `PROT_WRITE`
        const WRITE = 2;
        /// `PROT_EXEC`
        const EXEC = 4;
    }
}

bitflags! {
    /// Properties of a mapping that a guest has asked for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmaFlags: u32 {
        /// Changes are seen by others (`MAP_SHARED`).
        const SHARED = 1;
        /// Extended downwards by accesses below it (`MAP_GROWSDOWN`).
        const GROWS_DOWN = 2;
        /// `mlock(2)`
        const LOCKED = 4;
        /// `MADV_DONTFORK`
        const DONT_FORK = 8;
        /// `MADV_WIPEONFORK`
        const WIPE_ON_FORK = 16;
        /// `MADV_DONTDUMP`
        const DONT_DUMP = 32;
        /// `MAP_NORESERVE`
        const NO_RESERVE = 64;
        /// `mseal(2)`
        const SEALED = 128;
    }
}

/// What lies behind a mapping.
#[derive(Clone)]
pub enum Backing {
    /// Zeroed memory of this process.
    Anonymous,
    /// Zeroed memory shared with the processes that inherited the mapping.
    Shared {
        /// Which: a number that no inode has either.
        object: u64,
        /// Where in it the mapping starts.
        offset: u64,
    },
    /// A file.
    File {
        /// The open file that was mapped.
        file: Arc<File>,
        /// Where in it the mapping starts.
        offset: u64,
    },
}

impl Backing {
    /// The backing `distance` bytes further on.
    fn advance(&self, distance: u64) -> Backing {
        let mut backing = self.clone();
        match &mut backing {
            Backing::Anonymous => {}
            Backing::Shared { offset, .. } | Backing::File { offset, .. } => *offset += distance,
        }
        backing
    }

    /// Whether `next` is what follows after `length` bytes.
    fn continues(&self, length: u64, next: &Backing) -> bool {
        match (self, next) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (Backing::Shared { object, offset }, Backing::Shared { object: other, offset: at }) => {
                object == other && offset + length == *at
            }
            (Backing::File { file, offset }, Backing::File { file: other, offset: at }) => {
                Arc::ptr_eq(file, other) && offset + length == *at
            }
            _ => false,
        }
    }
}

/// A mapping.
#[derive(Clone)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// What it allows now.
    pub protection: Protection,
    /// What `mprotect(2)` may allow.
    pub maximum: Protection,
    /// Its properties.
    pub flags: VmaFlags,
    /// What lies behind it.
    pub backing: Backing,
    /// What `/proc/PID/maps` calls it if it is no file: `[stack]`, `[heap]`; empty for nothing.
    pub name: &'static str,
}

impl Vma {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// The part of it in `range`, which must overlap it.
    fn part(&self, range: &Range<u64>) -> Vma {
        let start = self.start.max(range.start);
        let end = self.end.min(range.end);
        Vma { start, end, backing: self.backing.advance(start - self.start), ..self.clone() }
    }

    fn joins(&self, next: &Vma) -> bool {
        self.end == next.start
            && self.protection == next.protection
            && self.maximum == next.maximum
            && self.flags == next.flags
            && self.name == next.name
            && self.backing.continues(self.length(), &next.backing)
    }
}

/// All mappings of an address space.
#[derive(Clone, Default)]
pub struct VmaSet {
    vmas: BTreeMap<u64, Vma>,
    total: u64,
}

impl VmaSet {
    /// The mapping that contains `address`.
    pub fn find(&self, address: u64) -> Option<&Vma> {
        self.vmas.range(..=address).next_back().map(|(_, vma)| vma).filter(|vma| address < vma.end)
    }

    /// The first mapping that starts above `address`.
    pub fn next_above(&self, address: u64) -> Option<&Vma> {
        self.vmas.range(address.saturating_add(1)..).next().map(|(_, vma)| vma)
    }

    /// The last mapping that ends at or below `address`.
    pub fn last_below(&self, address: u64) -> Option<&Vma> {
        self.vmas.range(..address).next_back().map(|(_, vma)| vma).filter(|vma| vma.end <= address)
    }

    /// All mappings in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.vmas.values()
    }

    /// The mappings that overlap `range`, in ascending order.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = &Vma> {
        let first = self.find(range.start).map_or(range.start, |vma| vma.start);
        self.vmas.range(first..range.end.max(first)).map(|(_, vma)| vma)
    }

    /// `EPERM` if `mseal(2)` keeps anything in `range` as it is.
    pub fn check_unsealed(&self, range: Range<u64>) -> SysResult<()> {
        let sealed = self.overlapping(range).any(|vma| vma.flags.contains(VmaFlags::SEALED));
        if sealed { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Whether every address of `range` is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for vma in self.overlapping(range.clone()) {
            if vma.start > at {
                return false;
            }
            at = vma.end;
        }
        at >= range.end
    }

    /// How many bytes are mapped.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.vmas.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.vmas.is_empty()
    }

    /// Adds a mapping, replacing what was in its place.
    pub fn insert(&mut self, vma: Vma) {
        self.remove(vma.start..vma.end);
        let start = vma.start;
        self.put(vma);
        self.join_around(start..start + 1);
    }

    /// Removes everything in `range` and returns what it was.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<Vma> {
        let starts: Vec<u64> = self.overlapping(range.clone()).map(|vma| vma.start).collect();
        let mut removed = Vec::with_capacity(starts.len());
        for start in starts {
            let Some(vma) = self.take(start) else { continue };
            removed.push(vma.part(&range));
            if vma.start < range.start {
                self.put(vma.part(&(vma.start..range.start)));
            }
            if vma.end > range.end {
                self.put(vma.part(&(range.end..vma.end)));
            }
        }
        removed
    }

    /// Applies `change` to everything in `range`, splitting mappings at its borders.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(&mut Vma)) {
        for mut vma in self.remove(range.clone()) {
            change(&mut vma);
            self.put(vma);
        }
        self.join_around(range);
    }

    /// The highest free range of `length` bytes within `bounds`, leaving the guard gap below stacks.
    pub fn free_range_down(&self, length: u64, bounds: Range<u64>) -> Option<u64> {
        let mut top = bounds.end;
        for vma in self.vmas.range(..bounds.end).rev().map(|(_, vma)| vma) {
            let floor = vma.end.max(bounds.start);
            if top >= floor && top - floor >= length {
                return Some(top - length);
            }
            top = top.min(Self::lowest(vma));
            if top <= bounds.start {
                return None;
            }
        }
        (top >= bounds.start && top - bounds.start >= length).then(|| top - length)
    }

    /// Whether `range` is free, with the guard gap below stacks.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.overlapping(range.clone()).next().is_none()
            && self.next_above(range.start).is_none_or(|vma| Self::lowest(vma) >= range.end)
    }

    /// The lowest address that a mapping keeps to itself.
    fn lowest(vma: &Vma) -> u64 {
        let gap = if vma.flags.contains(VmaFlags::GROWS_DOWN) { STACK_GUARD_GAP } else { 0 };
        vma.start.saturating_sub(gap)
    }

    fn put(&mut self, vma: Vma) {
        self.total += vma.length();
        self.vmas.insert(vma.start, vma);
    }

    fn take(&mut self, start: u64) -> Option<Vma> {
        let vma = self.vmas.remove(&start)?;
        self.total -= vma.length();
        Some(vma)
    }

    /// Makes one mapping of neighbours in and at the borders of `range` that can be one.
    fn join_around(&mut self, range: Range<u64>) {
        let first = self.vmas.range(..range.start).next_back().map_or(range.start, |(start, _)| *start);
        let starts: Vec<u64> = self.vmas.range(first..=range.end).map(|(start, _)| *start).collect();
        for start in starts.into_iter().rev() {
            let Some(vma) = self.vmas.get(&start) else { continue };
            let Some(next) = self.vmas.get(&vma.end) else { continue };
            if !vma.joins(next) {
                continue;
            }
            let (next_start, end) = (next.start, next.end);
            if let (Some(mut vma), Some(_)) = (self.take(start), self.take(next_start)) {
                vma.end = end;
                self.put(vma);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vma(start: u64, end: u64, protection: u32) -> Vma {
        Vma {
            start: start * PAGE_SIZE,
            end: end * PAGE_SIZE,
            protection: Protection::from_bits_retain(protection),
            maximum: Protection::all(),
            flags: VmaFlags::empty(),
            backing: Backing::Anonymous,
            name: "",
        }
    }

    fn pages(range: Range<u64>) -> Range<u64> {
        range.start * PAGE_SIZE..range.end * PAGE_SIZE
    }

    #[test]
    fn neighbours_that_are_alike_become_one() {
        let mut set = VmaSet::default();
        set.insert(vma(10, 12, 3));
        set.insert(vma(14, 16, 3));
        set.insert(vma(12, 14, 3));
        assert_eq!(set.len(), 1);
        set.update(pages(12..13), |vma| vma.protection = Protection::READ);
        assert_eq!(set.len(), 3);
        set.update(pages(12..13), |vma| vma.protection = Protection::READ | Protection::WRITE);
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_shared_object_keeps_its_offsets_when_split() {
        let mut set = VmaSet::default();
        let shared = Vma { backing: Backing::Shared { object: 7, offset: 0 }, ..vma(10, 20, 3) };
        set.insert(shared);
        set.remove(pages(12..14));
        let tail = set.find(15 * PAGE_SIZE).map(|vma| vma.backing.clone());
        assert!(matches!(tail, Some(Backing::Shared { offset, .. }) if offset == 4 * PAGE_SIZE));
    }

    #[test]
    fn a_gap_stays_free_below_a_stack() {
        let mut set = VmaSet::default();
        set.insert(Vma { flags: VmaFlags::GROWS_DOWN, ..vma(1000, 1010, 3) });
        let found = set.free_range_down(PAGE_SIZE, pages(0..1010));
        assert_eq!(found, Some((1000 - 256 - 1) * PAGE_SIZE));
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Insert(u64, u64, u32),
        Remove(u64, u64),
        Protect(u64, u64, u32),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let range = (0u64..60, 1u64..8);
        prop_oneof![
            (range.clone(), 0u32..3).prop_map(|((s, l), p)| Operation::Insert(s, s + l, p)),
            range.clone().prop_map(|(s, l)| Operation::Remove(s, s + l)),
            (range, 0u32..3).prop_map(|((s, l), p)| Operation::Protect(s, s + l, p)),
        ]
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_an_array_of_pages(operations in proptest::collection::vec(operation(), 1..60), want in 1u64..12) {
            let mut set = VmaSet::default();
            let mut model: [Option<u32>; 80] = [None; 80];
            for operation in operations {
                match operation {
                    Operation::Insert(s, e, p) => {
                        set.insert(vma(s, e, p));
                        (s..e).for_each(|page| model[page as usize] = Some(p));
                    }
                    Operation::Remove(s, e) => {
                        set.remove(pages(s..e));
                        (s..e).for_each(|page| model[page as usize] = None);
                    }
                    Operation::Protect(s, e, p) => {
                        set.update(pages(s..e), |vma| vma.protection = Protection::from_bits_retain(p));
                        (s..e).filter(|page| model[*page as usize].is_some()).collect::<Vec<_>>()
                            .into_iter().for_each(|page| model[page as usize] = Some(p));
                    }
                }
                for (page, expected) in model.iter().enumerate() {
                    let found = set.find(page as u64 * PAGE_SIZE + 5).map(|vma| vma.protection.bits());
                    prop_assert_eq!(found, *expected);
                }
                let mapped = model.iter().flatten().count() as u64;
                prop_assert_eq!(set.total(), mapped * PAGE_SIZE);
                let all: Vec<&Vma> = set.iter().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start && !pair[0].joins(pair[1])));
                let free = (0..=80 - want).rev().find(|s| model[*s as usize..(*s + want) as usize].iter().all(Option::is_none));
                prop_assert_eq!(set.free_range_down(want * PAGE_SIZE, pages(0..80)), free.map(|s| s * PAGE_SIZE));
                prop_assert_eq!(set.covers(pages(3..9)), model[3..9].iter().all(Option::is_some));
            }
        }
    }
}
