//! The newer calls on futexes, `futex_waitv(2)` and its family: sizes and flags per word, several words at once.

use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::futex::{Word, deadline, key};
use crate::error::SyscallResult;
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::user::UserPtr;
use crate::wait::Deadline;

const SIZE_MASK: u32 = 3;
const SIZE_U32: u32 = 2;
const NUMA: u32 = 4;
const PRIVATE: u32 = 128;
/// The most words that one call waits for.
const MAX_WORDS: u32 = 128;

/// `struct futex_waitv`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WaitVector {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// Whether the word is private to the process: `EINVAL` for flags that are unknown, and sizes other than 32 bits, of
/// which Linux knows none either.
fn private(flags: u32) -> SysResult<bool> {
    if flags & !(SIZE_MASK | NUMA | PRIVATE) != 0 || flags & SIZE_MASK != SIZE_U32 || flags & NUMA != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(flags & PRIVATE != 0)
}

/// 32 bits of a value that has room for more.
fn narrow(value: u64) -> SysResult<u32> {
    u32::try_from(value).map_err(|_| Errno::EINVAL)
}

/// The words of a vector.
fn read_words(task: &CurrentTask, vector: UserPtr<WaitVector>, count: u32) -> SysResult<Vec<Word>> {
    let mut words = Vec::with_capacity(count as usize);
    for index in 0..count as usize {
        let one = task.read_object(vector.nth(index))?;
        let private = private(one.flags)?;
        if one.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        words.push(Word { address: one.address, private, expected: narrow(one.value)?, bits: u32::MAX });
    }
    Ok(words)
}

/// The moment until which a call waits, on one of the two clocks that there may be.
fn until(task: &CurrentTask, timeout: UserPtr<TimeSpec>, clock: i32) -> SysResult<Deadline> {
    if timeout.is_null() {
        return Ok(Deadline::Never);
    }
    match clock {
        0 | 1 => deadline(task, timeout.address(), true, clock == 0),
        _ => Err(Errno::EINVAL),
    }
}

/// `futex_waitv(2)`: returns the place of a word that was woken.
pub fn futex_waitv(
    task: &CurrentTask,
    vector: UserPtr<WaitVector>,
    count: u32,
    flags: Flags,
    timeout: UserPtr<TimeSpec>,
    clock: i32,
) -> SyscallResult<usize> {
    if flags.0 != 0 || count == 0 || count > MAX_WORDS || vector.is_null() {
        return Err(Errno::EINVAL.into());
    }
    let deadline = until(task, timeout, clock)?;
    let words = read_words(task, vector, count)?;
    task.kernel.futexes.wait_any(task, &words, deadline)
}

/// `futex_wait(2)`.
pub fn futex_wait(
    task: &CurrentTask,
    address: u64,
    value: u64,
    mask: u64,
    flags: Flags,
    timeout: UserPtr<TimeSpec>,
    clock: i32,
) -> SyscallResult<()> {
    let private = private(flags.0)?;
    let (expected, bits) = (narrow(value)?, narrow(mask)?);
    let deadline = until(task, timeout, clock)?;
    if bits == 0 {
        return Err(Errno::EINVAL.into());
    }
    let word = Word { address, private, expected, bits };
    task.kernel.futexes.wait_any(task, &[word], deadline).map(drop)
}

/// `futex_wake(2)`.
pub fn futex_wake(task: &CurrentTask, address: u64, mask: u64, count: i32, flags: Flags) -> SysResult<usize> {
    let private = private(flags.0)?;
    let bits = narrow(mask)?;
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key(task, address, private)?;
    Ok(task.kernel.futexes.wake(key, usize::try_from(count).unwrap_or(0), bits))
}

/// `futex_requeue(2)`: from the first word of a vector of two, if it has the value, to the second.
pub fn futex_requeue(
    task: &CurrentTask,
    vector: UserPtr<WaitVector>,
    flags: Flags,
    wake: i32,
    move_: i32,
) -> SysResult<usize> {
    if flags.0 != 0 || vector.is_null() {
        return Err(Errno::EINVAL);
    }
    let words = read_words(task, vector, 2)?;
    let count = |count: i32| usize::try_from(count).map_err(|_| Errno::EINVAL);
    let (wake, move_) = (count(wake)?, count(move_)?);
    let [from, to] =
        [key(task, words[0].address, words[0].private)?, key(task, words[1].address, words[1].private)?];
    let check = || match task.read_object(UserPtr::<u32>::new(words[0].address))? {
        value if value == words[0].expected => Ok(()),
        _ => Err(Errno::EAGAIN),
    };
    let (woken, moved) = task.kernel.futexes.requeue(from, to, wake, move_, check)?;
    Ok(woken + moved)
}
