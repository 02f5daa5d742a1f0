//! Memory of mock guests: a table of pages.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use host::rustix::io::{pread, pwrite};
use parking_lot::{Mutex, RwLock};

use super::{GUEST, Link};
use crate::{AddressSpace, MemoryOp, MemoryUsage};

const PAGE: u64 = 4096;
const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MADV_DONTNEED: u32 = 4;

/// The contents of one page.
type Bytes = [u8; PAGE as usize];

#[derive(Clone)]
struct Page {
    protection: u32,
    contents: Contents,
}

#[derive(Clone)]
enum Contents {
    /// Not touched yet.
    Zero,
    /// Copied when written while somebody else has it, too.
    Private(Arc<Bytes>),
    Shared(Arc<Mutex<Bytes>>),
    /// A page of a file, and whether it is mapped shared.
    File(Arc<OwnedFd>, u64, bool),
}

impl Contents {
    fn read(&self, offset: usize, buffer: &mut [u8]) -> Result<(), Errno> {
        let range = offset..offset + buffer.len();
        match self {
            Contents::Zero => buffer.fill(0),
            Contents::Private(bytes) => buffer.copy_from_slice(&bytes[range]),
            Contents::Shared(bytes) => buffer.copy_from_slice(&bytes.lock()[range]),
            Contents::File(file, at, _) => buffer.copy_from_slice(&file_page(file, *at)?[range]),
        }
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let range = offset..offset + bytes.len();
        match self {
            Contents::Zero => {
                *self = Contents::Private(Arc::new([0; PAGE as usize]));
                return self.write(offset, bytes);
            }
            Contents::Private(page) => Arc::make_mut(page)[range].copy_from_slice(bytes),
            Contents::Shared(page) => page.lock()[range].copy_from_slice(bytes),
            Contents::File(file, at, true) => {
                file_page(file, *at)?;
                pwrite(&**file, bytes, *at + offset as u64)?;
            }
            Contents::File(file, at, false) => {
                *self = Contents::Private(Arc::new(file_page(file, *at)?));
                return self.write(offset, bytes);
            }
        }
        Ok(())
    }
}

/// The page of the file at `offset`, zero beyond the end of the file; an error if there is no byte of it.
fn file_page(file: &OwnedFd, offset: u64) -> Result<Bytes, Errno> {
    let mut page = [0; PAGE as usize];
    let mut done = 0;
    loop {
        match pread(file, &mut page[done..], offset + done as u64)? {
            0 if done == 0 => return Err(Errno::EFAULT),
            0 => return Ok(page),
            count => done += count,
        }
        if done == page.len() {
            return Ok(page);
        }
    }
}

/// The memory of a mock guest, and which threads use it.
#[derive(Default)]
pub struct MockSpace {
    /// By page number.
    pages: RwLock<BTreeMap<u64, Page>>,
    threads: Mutex<Vec<Weak<Link>>>,
    dead: AtomicBool,
}

impl MockSpace {
    /// What `fork(2)` makes of it.
    pub(super) fn copy(&self) -> MockSpace {
        MockSpace { pages: RwLock::new(self.pages.read().clone()), ..MockSpace::default() }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(super) fn add_thread(&self, thread: &Arc<Link>) {
        self.threads.lock().push(Arc::downgrade(thread));
    }

    /// Forgets a thread; whether it was the last.
    pub(super) fn remove_thread(&self, thread: &Arc<Link>) -> bool {
        let mut threads = self.threads.lock();
        threads.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(thread)));
        threads.is_empty()
    }

    /// Calls `visit` for the pieces of a range, page by page, until it fails; returns how many bytes it took.
    fn visit(
        &self,
        address: u64,
        length: usize,
        protection: u32,
        mut visit: impl FnMut(&mut Page, usize, std::ops::Range<usize>) -> Result<(), Errno>,
    ) -> usize {
        let mut pages = self.pages.write();
        let mut done = 0;
        while done < length {
            let Some(at) = address.checked_add(done as u64) else { break };
            let offset = (at % PAGE) as usize;
            let end = length.min(done + PAGE as usize - offset);
            let page = pages.get_mut(&(at / PAGE)).filter(|page| page.protection & protection != 0);
            let Some(page) = page else { break };
            if self.is_dead() || visit(page, offset, done..end).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    pub(super) fn compare_exchange(&self, address: u64, expected: u32, new: u32) -> SysResult<u32> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let mut found = None;
        self.visit(address, 4, PROT_WRITE, |page, offset, _| {
            let mut word = [0; 4];
            page.contents.read(offset, &mut word)?;
            let word = u32::from_ne_bytes(word);
            if word == expected {
                page.contents.write(offset, &new.to_ne_bytes())?;
            }
            found = Some(word);
            Ok(())
        });
        found.ok_or(Errno::EFAULT)
    }

    /// Carries out one operation.
    pub(super) fn change(&self, operation: &MemoryOp<'_>) -> SysResult<()> {
        if self.is_dead() {
            return Err(Errno::ESRCH);
        }
        let mut pages = self.pages.write();
        match *operation {
            MemoryOp::Map { address, length, protection, shared, flags: _, file } => {
                let range = range(address, length)?;
                let file = match file {
                    Some((file, offset)) if offset % PAGE == 0 => Some((Arc::clone(file), offset)),
                    Some(_) => return Err(Errno::EINVAL),
                    None => None,
                };
                for (index, number) in range.enumerate() {
                    let contents = match &file {
                        Some((file, offset)) => {
                            Contents::File(file.clone(), offset + index as u64 * PAGE, shared)
                        }
                        None if shared => Contents::Shared(Arc::new(Mutex::new([0; PAGE as usize]))),
                        None => Contents::Zero,
                    };
                    pages.insert(number, Page { protection, contents });
                }
            }
            MemoryOp::Unmap { address, length } => {
                range(address, length)?.for_each(|number| drop(pages.remove(&number)));
            }
            MemoryOp::Protect { address, length, protection } => {
                for number in range(address, length)? {
                    pages.get_mut(&number).ok_or(Errno::ENOMEM)?.protection = protection;
                }
            }
            MemoryOp::Remap { from, from_length, to, to_length, keep } => {
                remap(&mut pages, (from, from_length), (to, to_length), keep)?;
            }
            MemoryOp::Advise { address, length, advice } => {
                for number in range(address, length)? {
                    let page = pages.get_mut(&number).ok_or(Errno::ENOMEM)?;
                    if advice == MADV_DONTNEED && matches!(page.contents, Contents::Private(_)) {
                        page.contents = Contents::Zero;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The page numbers of a range that the guest may use.
fn range(address: u64, length: u64) -> SysResult<std::ops::Range<u64>> {
    let end = address.checked_add(length).ok_or(Errno::EINVAL)?;
    let whole = address.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && length != 0;
    if whole && GUEST.start <= address && end <= GUEST.end {
        Ok(address / PAGE..end / PAGE)
    } else {
        Err(Errno::EINVAL)
    }
}

fn remap(
    pages: &mut BTreeMap<u64, Page>,
    (from, from_length): (u64, u64),
    (to, to_length): (u64, u64),
    keep: bool,
) -> SysResult<()> {
    let source = range(from, from_length.max(PAGE))?;
    let target = range(to, to_length)?;
    let moved: Vec<Page> = match from_length {
        0 => target.clone().map_while(|n| pages.get(&(n - target.start + source.start)).cloned()).collect(),
        _ => source.clone().map_while(|number| pages.get(&number).cloned()).collect(),
    };
    let Some(last) = moved.last().cloned() else { return Err(Errno::EFAULT) };
    if from_length != 0 {
        for number in source {
            match pages.get_mut(&number) {
                Some(page) if keep => page.contents = Contents::Zero,
                _ => drop(pages.remove(&number)),
            }
        }
    }
    for (index, number) in target.enumerate() {
        let page = moved.get(index).cloned().unwrap_or_else(|| {
            let beyond = (index + 1 - moved.len()) as u64;
            let contents = match &last.contents {
                Contents::File(file, offset, shared) => {
                    Contents::File(file.clone(), offset + beyond * PAGE, *shared)
                }
                _ => Contents::Zero,
            };
            Page { protection: last.protection, contents }
        });
        pages.insert(number, page);
    }
    Ok(())
}

impl AddressSpace for MockSpace {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        self.visit(address, buffer.len(), PROT_READ, |page, offset, piece| {
            page.contents.read(offset, &mut buffer[piece])
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> usize {
        self.visit(address, bytes.len(), PROT_WRITE, |page, offset, piece| {
            page.contents.write(offset, &bytes[piece])
        })
    }

    fn usage(&self) -> MemoryUsage {
        let pages = self.pages.read();
        let count = |wanted: fn(&Contents) -> bool| {
            pages.values().filter(|page| wanted(&page.contents)).count() as u64 * PAGE
        };
        let shared = count(|contents| matches!(contents, Contents::Shared(_) | Contents::File(..)));
        let resident = shared + count(|contents| matches!(contents, Contents::Private(_)));
        MemoryUsage { resident, shared }
    }

    fn peak(&self) -> u64 {
        self.usage().resident
    }

    fn cpu_time(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let threads: Vec<Arc<Link>> = self.threads.lock().iter().filter_map(Weak::upgrade).collect();
        threads.iter().for_each(|thread| thread.wake());
    }
}
