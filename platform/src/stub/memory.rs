//! Changes of mappings as system calls that the stub makes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};

use super::layout::*;
use super::preloaded::{self, Files};
use super::resident::{is, may_stay_open};
use crate::{Description, MemoryOp};

/// A record for the stub: number, six arguments, flags.
pub type Call = [u64; 8];

/// How many records one command can have, with room for a [`description`].
const BATCH: usize = BUFFER_SIZE / CALL_SIZE - 6;

/// The records by which a stub tells the host how it is to be shown, and how many they are; what they refer to follows
/// them. `place` is the address in the stub of the first.
pub fn description(description: &Description, place: u64) -> (Vec<Call>, usize) {
    let count = 1 + usize::from(description.strings.is_some());
    let data = |index: usize| place + ((count + index) * CALL_SIZE) as u64;
    let prctl = |[a, b, c, d]: [u64; 4]| [libc::SYS_prctl as u64, a, b, c, d, 0, 0, CALL_ALWAYS];
    let mut words = vec![prctl([libc::PR_SET_NAME as u64, data(0), 0, 0])];
    if description.strings.is_some() {
        let (operation, kind) = (libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64);
        words.push(prctl([operation, kind, data(1), MM_MAP_SIZE]));
    }
    let name = u128::from_ne_bytes(description.name);
    words.push([name as u64, (name >> 64) as u64, 0, 0, 0, 0, 0, 0]);
    if let Some((arguments, environment)) = &description.strings {
        // `struct prctl_mm_map`: code, data, heap, stack, arguments, environment, no auxiliary vector, no program.
        words.push([TEXT, TEXT + PAGE, TEXT, TEXT, TEXT, TEXT, arguments.start, arguments.start]);
        words.push([
            arguments.end,
            environment.start,
            environment.end,
            0,
            u64::from(u32::MAX) << 32,
            0,
            0,
            0,
        ]);
    }
    (words, count)
}

/// The size of `struct prctl_mm_map`.
const MM_MAP_SIZE: u64 = 104;

/// Flags of `mmap(2)` that say what [`MemoryOp::Map`] says otherwise.
const IMPLIED: u32 =
    (libc::MAP_TYPE | libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE | libc::MAP_ANONYMOUS) as u32;

/// The call by which a stub asks for a file, which becomes its fd 0.
pub const ASK: [u64; 6] = [0, PAGE, 0, libc::MAP_PRIVATE as u64, u64::MAX, 0];

/// The call that gives fd 0 up.
pub const CLOSE: Call = [libc::SYS_close as u64, 0, 0, 0, 0, 0, 0, CALL_ALWAYS];

/// What a stub process has as fd 0 between commands: the file that it has mapped last, of which it is likely to map more. It is
/// one that may stay open, as with those in [`super::resident`].
pub type Held = Option<Weak<OwnedFd>>;

/// Calls for one command, and the files that some of them need: the index of the call, and what becomes fd 0 with it.
#[derive(Default)]
pub struct Batch<'a> {
    /// The calls.
    pub calls: Vec<Call>,
    /// The files, in order.
    pub files: Vec<(usize, &'a OwnedFd)>,
    /// The file that is fd 0 after the calls so far, if it was asked for by one of them.
    open: Option<&'a Arc<OwnedFd>>,
}

impl<'a> Batch<'a> {
    /// Makes a file fd 0. That is asked for even after an earlier call has failed, for somebody waits to be asked.
    fn open(&mut self, file: &'a Arc<OwnedFd>, held: &mut Held) {
        if self.open.is_some_and(|open| Arc::ptr_eq(open, file)) || is(held.as_ref(), file) {
            return;
        }
        // It takes the place of any other.
        *held = None;
        self.files.push((self.calls.len(), file));
        let [a, b, c, d, e, f] = ASK;
        self.calls.push([libc::SYS_mmap as u64, a, b, c, d, e, f, CALL_ALWAYS]);
        self.open = Some(file);
    }

    /// Ends a command with what there is to do about fd 0.
    fn leave(&mut self, held: &mut Held) {
        let Some(file) = self.open.take() else { return };
        if may_stay_open(file) {
            *held = Some(Arc::downgrade(file));
        } else {
            self.calls.push(CLOSE);
        }
    }
}

/// Translates the operations and hands them on in batches. A shared mapping of a file begins one: the stub asks for it with
/// the call that makes it. `held` is what fd 0 is, as long as no batch fails, and `born` what the process was born with.
pub fn batches(
    operations: &[MemoryOp<'_>],
    held: &mut Held,
    born: &Files,
    mut run: impl FnMut(&Batch<'_>) -> SysResult<()>,
) -> SysResult<()> {
    let mut batch = Batch::default();
    for operation in operations {
        let (call, file) = match translate(operation, born) {
            Ok(translated) => translated,
            Err(error) => {
                finish(&mut batch, held, &mut run)?;
                return Err(error);
            }
        };
        let shared = matches!(operation, MemoryOp::Map { shared: true, .. });
        if batch.calls.len() + 4 > BATCH || (shared && file.is_some()) {
            finish(&mut batch, held, &mut run)?;
        }
        match file {
            Some(file) if shared => {
                *held = None;
                batch.files.push((batch.calls.len(), file));
                batch.calls.extend([call, CLOSE]);
            }
            Some(file) => {
                batch.open(file, held);
                batch.calls.push(call);
            }
            None => batch.calls.push(call),
        }
    }
    finish(&mut batch, held, &mut run)
}

fn finish<'a>(
    batch: &mut Batch<'a>,
    held: &mut Held,
    run: &mut impl FnMut(&Batch<'_>) -> SysResult<()>,
) -> SysResult<()> {
    batch.leave(held);
    let batch = std::mem::take(batch);
    if batch.calls.is_empty() { Ok(()) } else { run(&batch) }
}

/// The calls for operations that are few and need no file but the one that is held, and those that the process was born with;
/// `None` if these do not.
pub fn calls_without_asking(operations: &[MemoryOp<'_>], held: &Held, born: &Files) -> Option<Vec<Call>> {
    const FEW: usize = 8;
    let call = |operation| match translate(operation, born) {
        Ok((call, file)) if file.is_none_or(|file| is(held.as_ref(), file)) => Some(call),
        _ => None,
    };
    if operations.len() > FEW { None } else { operations.iter().map(call).collect() }
}

/// The call for an operation, and the file that is to be its fd 0.
fn translate<'a>(operation: &MemoryOp<'a>, born: &Files) -> SysResult<(Call, Option<&'a Arc<OwnedFd>>)> {
    let call = |number: i64, [a, b, c, d, e, f]: [u64; 6]| [number as u64, a, b, c, d, e, f, 0];
    Ok(match *operation {
        MemoryOp::Map { address, length, protection, shared, flags, file } => {
            check(address, length)?;
            let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
            let mut flags = flags & !IMPLIED | (kind | libc::MAP_FIXED).cast_unsigned();
            let has = file.filter(|_| !shared).and_then(|(file, _)| preloaded::number(born, file));
            let (fd, offset) = match file {
                Some((_, offset)) => (has.unwrap_or(0).into(), offset),
                None => {
                    flags |= libc::MAP_ANONYMOUS.cast_unsigned();
                    (u64::MAX, 0)
                }
            };
            let arguments = [address, length, protection.into(), flags.into(), fd, offset];
            (call(libc::SYS_mmap, arguments), file.filter(|_| has.is_none()).map(|(file, _)| file))
        }
        MemoryOp::Unmap { address, length } => {
            check(address, length)?;
            (call(libc::SYS_munmap, [address, length, 0, 0, 0, 0]), None)
        }
        MemoryOp::Protect { address, length, protection } => {
            check(address, length)?;
            (call(libc::SYS_mprotect, [address, length, protection.into(), 0, 0, 0]), None)
        }
        MemoryOp::Remap { from, from_length, to, to_length, keep } => {
            check(from, from_length.max(PAGE))?;
            check(to, to_length)?;
            let mut flags = 0;
            if from != to || keep {
                flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            }
            if keep {
                flags |= libc::MREMAP_DONTUNMAP;
            }
            let arguments = [from, from_length, to_length, flags.cast_unsigned().into(), to, 0];
            (call(libc::SYS_mremap, arguments), None)
        }
        MemoryOp::Advise { address, length, advice } => {
            check(address, length)?;
            (call(libc::SYS_madvise, [address, length, advice.into(), 0, 0, 0]), None)
        }
    })
}

/// Guest mappings keep to whole pages of the guest's part of the address space.
fn check(address: u64, length: u64) -> SysResult<()> {
    let end = address.checked_add(length).ok_or(Errno::EINVAL)?;
    let whole = address.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && length != 0;
    if whole && GUEST.start <= address && end <= GUEST.end { Ok(()) } else { Err(Errno::EINVAL) }
}
