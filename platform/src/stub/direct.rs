//! Open files that guest threads use by themselves: *direct* files.
//!
//! The stub gets a copy of the host's descriptor, with a number of [`DIRECT`], on which its filter allows `read`, `pread64`,
//! `write`, `pwrite64` and `lseek` as far as the number's range says, and nothing else. A table in the slots tells the stub
//! which descriptor of the guest's that is. A call from patched code is then made by the stub, with the guest's own buffer,
//! and the kernel hears of it only if it fails, or an interrupt has come meanwhile. The open file description is the guest's
//! own: nobody else uses its position, which the kernel leaves to the host, too. So guest code that jumps into the stub, or
//! writes to the table, can do nothing but what it may do anyway.
//!
//! An entry goes before its descriptor comes to stand for something else. A thread may have read it already: it says which
//! file it is about to use in its slot (the *hazard*), and then looks at the entry again. A number that some thread claims
//! to use gets no other file and stays open. Nobody waits for a guest, but for as long as an honest one may take, where others
//! would notice a call that is under way.
//!
//! One table of descriptors *owns* an address space's direct files: threads with another one share its memory, but not these.
//!
//! Locks: the files are locked while they change, and held while the process is copied; the table is written without.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::layout::*;
use super::slot::Slot;
use super::space::Space;
use crate::{DirectFiles, Uses};

/// How much use makes a file direct: each call counts as one, and as another for each of so many bytes.
const CREDIT: u64 = 16;
const BYTES_PER_CREDIT: usize = 8 << 10;
/// How many files are thought of that may become direct.
const CANDIDATES: usize = 4;
/// The owner of files that nobody may have.
const NOBODY: u64 = u64::MAX;

/// How many numbers there are.
const COUNT: usize = DIRECT.end as usize - DIRECT.start as usize;

/// What is direct, by number.
pub type Files = [Option<Weak<OwnedFd>>; COUNT];

/// The direct files of a stub process.
#[derive(Debug, Default)]
pub struct Directs {
    files: RwLock<Files>,
    /// The numbers of files that the stub still has and should close, a bit for each.
    leaving: AtomicU32,
    /// Whether there may be any of either.
    any: AtomicBool,
    /// Whose descriptors they are; zero for nobody's.
    owner: AtomicU64,
    /// The slot that the table lies in, once there is something in it.
    table: OnceLock<Arc<Slot>>,
    candidates: Mutex<Candidates>,
}

#[derive(Debug, Default)]
struct Candidates {
    files: [(Weak<OwnedFd>, u64); CANDIDATES],
    next: usize,
}

fn is(held: &Weak<OwnedFd>, file: &Arc<OwnedFd>) -> bool {
    // As long as there is a `Weak`, its address is no other's.
    held.as_ptr() == Arc::as_ptr(file)
}

/// The numbers that a file gets.
fn numbers(uses: Uses) -> Range<u32> {
    match (uses.read, uses.write) {
        (true, true) => DIRECT_BOTH,
        (false, true) => DIRECT_WRITE,
        _ => DIRECT_READ,
    }
}

fn index(number: u32) -> usize {
    (number - DIRECT.start) as usize
}

/// The calls that these uses are.
fn calls(uses: Uses) -> u32 {
    let bits = |used, calls| if used { calls } else { 0 };
    bits(uses.read, READING) | bits(uses.write, WRITING)
}

fn entry(fd: u32, number: u32, uses: Uses) -> u64 {
    u64::from(fd) | u64::from(number) << 32 | u64::from(calls(uses)) << ENTRY_CALLS
}

fn place(fd: u32) -> usize {
    TABLE + 8 * (fd as usize % ENTRIES)
}

impl Slot {
    /// Says what the thread may do with direct files.
    pub fn allow(&self, uses: Uses) {
        self.field(ALLOWED).store(calls(uses), Ordering::SeqCst);
    }

    /// Whether the thread may do this with direct files.
    pub fn allows(&self, uses: Uses) -> bool {
        calls(uses) & !self.field(ALLOWED).load(Ordering::Relaxed) == 0
    }

    /// The file that the thread claims to use by itself.
    pub fn hazard(&self) -> Option<u32> {
        Some(self.field(HAZARD).load(Ordering::SeqCst)).filter(|number| *number != 0)
    }
}

impl Directs {
    /// The files, to copy the process with; they stay the same as long as this is there.
    pub fn hold(&self) -> RwLockReadGuard<'_, Files> {
        self.files.read()
    }

    /// Takes note of what a copy of a process has been born with. What the other one has been about to close comes along.
    pub fn inherit(&self, files: &Files, from: &Directs) {
        self.files.write().clone_from(files);
        self.leaving.store(from.leaving.load(Ordering::SeqCst), Ordering::SeqCst);
        self.any.store(from.any.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The number by which the stub has the file.
    pub fn number(&self, file: &Arc<OwnedFd>) -> Option<u32> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let files = self.files.try_read()?;
        let index = files.iter().position(|held| held.as_ref().is_some_and(|held| is(held, file)))?;
        Some(DIRECT.start + index as u32)
    }

    /// Notes that so many bytes of a file are about to be read or written; whether it has been used enough to be direct.
    pub fn is_worth_it(&self, file: &Arc<OwnedFd>, length: usize) -> bool {
        let Some(mut candidates) = self.candidates.try_lock() else { return false };
        let Candidates { files, next } = &mut *candidates;
        let known = files.iter().position(|(held, _)| is(held, file));
        let index = known.unwrap_or_else(|| {
            *next = (*next + 1) % CANDIDATES;
            files[*next] = (Arc::downgrade(file), 0);
            *next
        });
        let before = files[index].1;
        let credit = before.saturating_add(1 + (length / BYTES_PER_CREDIT) as u64);
        // What a single call costs is not worth it, however much it moves. Who may not have it yet is not asked each time.
        let enough = before > 0 && credit >= CREDIT;
        files[index].1 = if enough { 0 } else { credit };
        enough
    }

    /// The numbers to be closed now, of which nobody makes use.
    fn take_leaving(&self, hazards: impl Fn(u32) -> bool) -> Vec<u32> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let dead = |held: &Option<Weak<OwnedFd>>| held.as_ref().is_some_and(|held| held.strong_count() == 0);
        if self.leaving.load(Ordering::SeqCst) == 0
            && self.files.try_read().is_none_or(|files| !files.iter().any(dead))
        {
            return Vec::new();
        }
        let Some(mut files) = self.files.try_write() else { return Vec::new() };
        for (number, held) in DIRECT.zip(files.iter_mut()).filter(|(_, held)| dead(held)) {
            *held = None;
            self.leave(number);
        }
        let leaving = self.leaving.load(Ordering::SeqCst);
        let left = |number: &u32| leaving & 1 << index(*number) != 0 && !hazards(*number);
        let closed: Vec<u32> = DIRECT.filter(left).collect();
        let rest = leaving & !closed.iter().fold(0, |bits, number| bits | 1 << index(*number));
        self.leaving.store(rest, Ordering::SeqCst);
        self.any.store(rest != 0 || files.iter().any(Option::is_some), Ordering::SeqCst);
        closed
    }

    /// Has a file closed that is not in the table of files any more.
    fn leave(&self, number: u32) {
        self.forget_number(number);
        self.leaving.fetch_or(1 << index(number), Ordering::SeqCst);
    }

    fn entries(&self) -> impl Iterator<Item = (&std::sync::atomic::AtomicU64, u64)> {
        let table = self.table.get().into_iter();
        table.flat_map(|slot| {
            (0..ENTRIES).map(move |index| {
                let entry = slot.memory().double_word(TABLE + 8 * index);
                (entry, entry.load(Ordering::SeqCst))
            })
        })
    }

    /// Clears all entries with this number.
    fn forget_number(&self, number: u32) {
        for (entry, value) in self.entries().filter(|(_, value)| (value >> 32) as u8 == number as u8) {
            if value != 0 {
                entry.store(0, Ordering::SeqCst);
            }
        }
    }
}

impl Space {
    /// Whether some thread claims to use this file.
    fn is_used(&self, number: u32) -> bool {
        self.slots().iter().any(|slot| slot.hazard() == Some(number))
    }

    /// The numbers to be closed now.
    pub fn leaving_files(&self) -> Vec<u32> {
        self.directs.take_leaving(|number| self.is_used(number))
    }

    /// Makes a file direct by what `give` does with a number for it; whether it is.
    pub fn make_direct(&self, file: &Arc<OwnedFd>, uses: Uses, give: impl FnOnce(u32) -> bool) -> bool {
        let directs = &self.directs;
        let Some(mut files) = directs.files.try_write() else { return false };
        if files.iter().flatten().any(|held| is(held, file)) {
            return true;
        }
        let leaving = directs.leaving.load(Ordering::SeqCst);
        let is_free = |number: &u32| files[index(*number)].is_none() && leaving & 1 << index(*number) == 0;
        let free = numbers(uses).find(|number| is_free(number) && !self.is_used(*number));
        // Without one, any will do: whose place is taken too often has too many files to gain much.
        let number = free.unwrap_or_else(|| {
            let range = numbers(uses);
            range.start + (Arc::as_ptr(file).addr() / size_of::<Arc<OwnedFd>>() % range.len()) as u32
        });
        directs.forget_number(number);
        if self.is_used(number) || !give(number) {
            return false;
        }
        directs.leaving.fetch_and(!(1 << index(number)), Ordering::SeqCst);
        files[index(number)] = Some(Arc::downgrade(file));
        directs.any.store(true, Ordering::SeqCst);
        true
    }

    /// Has those files closed for which `keep` does not hold; `None` is one that is closed elsewhere.
    pub fn keep_files(&self, keep: &dyn Fn(&Arc<OwnedFd>) -> bool) {
        let directs = &self.directs;
        if !directs.any.load(Ordering::Relaxed) {
            return;
        }
        let mut files = directs.files.write();
        for (number, held) in DIRECT.zip(files.iter_mut()) {
            let kept = |held: &mut Weak<OwnedFd>| held.upgrade().is_some_and(|file| keep(&file));
            if held.take_if(|held| !kept(held)).is_some() {
                directs.leave(number);
            }
        }
    }

    /// Whether there are files that somebody may write to.
    pub fn has_direct_writers(&self) -> bool {
        let directs = &self.directs;
        let writers = DIRECT_BOTH.start..DIRECT_WRITE.end;
        directs.any.load(Ordering::Relaxed)
            && (directs.leaving.load(Ordering::SeqCst) >> index(writers.start) != 0
                || directs.files.read()[index(writers.start)..].iter().any(Option::is_some))
    }

    /// Whether the descriptor's entry says that the file may be used in this way.
    pub fn is_direct(&self, fd: u32, file: &Arc<OwnedFd>, uses: Uses) -> bool {
        let Some(table) = self.directs.table.get() else { return false };
        let value = table.memory().double_word(place(fd)).load(Ordering::Relaxed);
        let wanted = u64::from(calls(uses)) << ENTRY_CALLS;
        value as u32 == fd
            && value & wanted == wanted
            && self.directs.number(file) == Some(u32::from((value >> 32) as u8))
    }
}

impl DirectFiles for Space {
    fn publish(&self, owner: u64, fd: u32, file: &Arc<OwnedFd>, uses: Uses) -> bool {
        let directs = &self.directs;
        let owned = directs.owner.compare_exchange(0, owner, Ordering::SeqCst, Ordering::SeqCst);
        if owned.is_err_and(|other| other != owner) {
            return false;
        }
        let Some(number) = directs.number(file) else { return false };
        let table = match directs.table.get() {
            Some(table) => table,
            None => match self.common() {
                Some(slot) => directs.table.get_or_init(|| Arc::clone(slot)),
                None => return false,
            },
        };
        table.memory().double_word(place(fd)).store(entry(fd, number, uses), Ordering::SeqCst);
        true
    }

    fn is_owned_by(&self, owner: u64) -> bool {
        self.directs.owner.load(Ordering::SeqCst) == owner
    }

    fn revoke(&self, fd: u32) {
        let Some(table) = self.directs.table.get() else { return };
        let entry = table.memory().double_word(place(fd));
        if entry.load(Ordering::SeqCst) as u32 == fd {
            entry.store(0, Ordering::SeqCst);
        }
    }

    fn revoke_all(&self) {
        self.directs.entries().for_each(|(entry, _)| entry.store(0, Ordering::SeqCst));
    }

    fn disown(&self, owner: u64) {
        if self.directs.owner.compare_exchange(owner, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.directs.entries().for_each(|(entry, _)| entry.store(0, Ordering::SeqCst));
            self.keep_files(&|_| false);
        }
    }

    fn forbid(&self) {
        self.directs.owner.store(NOBODY, Ordering::SeqCst);
        self.directs.entries().for_each(|(entry, _)| entry.store(0, Ordering::SeqCst));
        self.keep_files(&|_| false);
    }

    fn wait_for_calls(&self, deadline: Instant) {
        while self.slots().iter().any(|slot| slot.hazard().is_some()) {
            if Instant::now() > deadline || self.dead.load(Ordering::SeqCst) {
                return;
            }
            std::thread::yield_now();
        }
    }
}
