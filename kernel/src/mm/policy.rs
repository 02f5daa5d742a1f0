//! Where memory comes from, `numa(7)`: this kernel shows one node, and remembers what it was told.

use abi::{Errno, SysResult};

use super::PAGE_SIZE;
use crate::syscalls::arguments::Flags;
use crate::task::credentials::Capability;
use crate::task::inspect::may_inspect;
use crate::task::{CurrentTask, Pid};
use crate::user::UserPtr;

const DEFAULT: u32 = 0;
const PREFERRED: u32 = 1;
const LOCAL: u32 = 4;
const LAST: u32 = 6;
const MODE_FLAGS: u32 = 0xe000;
/// The only node, as a mask of nodes.
const NODE: u64 = 1;
/// The most bits of a mask that are looked at, as in Linux: those of a page.
const MAX_BITS: u64 = 4096 * 8;

/// A policy: mode and nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    mode: u32,
    nodes: u64,
}

/// Copies a mask of `bits` nodes, of which the highest is not counted: `EINVAL` if it has nodes that cannot be.
fn read_nodes(task: &CurrentTask, mask: u64, bits: u64) -> SysResult<u64> {
    let bits = bits.saturating_sub(1);
    if mask == 0 || bits == 0 {
        return Ok(0);
    }
    if bits > MAX_BITS {
        return Err(Errno::EINVAL);
    }
    let mut words = task.read_array(UserPtr::<u64>::new(mask), bits.div_ceil(64) as usize)?;
    if let Some(last) = words.last_mut().filter(|_| !bits.is_multiple_of(64)) {
        *last &= (1 << (bits % 64)) - 1;
    }
    if words.iter().skip(1).any(|word| *word != 0) { Err(Errno::EINVAL) } else { Ok(words[0]) }
}

/// Checks a policy: `EINVAL` unless mode and nodes go together and there are such nodes.
fn parse(task: &CurrentTask, mode: u32, mask: u64, bits: u64) -> SysResult<Policy> {
    let plain = mode & !MODE_FLAGS;
    if plain > LAST {
        return Err(Errno::EINVAL);
    }
    let nodes = read_nodes(task, mask, bits)?;
    match plain {
        DEFAULT | LOCAL if nodes != 0 => Err(Errno::EINVAL),
        DEFAULT | LOCAL => Ok(Policy { mode, nodes }),
        PREFERRED if nodes == 0 => Ok(Policy { mode: LOCAL, nodes }),
        _ if nodes & NODE == 0 => Err(Errno::EINVAL),
        _ => Ok(Policy { mode, nodes: nodes & NODE }),
    }
}

/// `set_mempolicy(2)`.
pub fn set_mempolicy(task: &CurrentTask, mode: u32, mask: u64, bits: u64) -> SysResult<()> {
    *task.memory_policy.lock() = parse(task, mode, mask, bits)?;
    Ok(())
}

/// `get_mempolicy(2)`.
pub fn get_mempolicy(
    task: &CurrentTask,
    policy: UserPtr<u32>,
    mask: UserPtr<u64>,
    bits: u64,
    address: u64,
    flags: Flags,
) -> SysResult<()> {
    const F_NODE: u32 = 1;
    const F_ADDR: u32 = 2;
    const F_MEMS_ALLOWED: u32 = 4;
    let flags = flags.0;
    if !mask.is_null() && bits == 0 {
        return Err(Errno::EINVAL);
    }
    let own = *task.memory_policy.lock();
    let (mode, nodes) = match flags {
        F_MEMS_ALLOWED => (0, NODE),
        flags if flags & !(F_NODE | F_ADDR) != 0 => return Err(Errno::EINVAL),
        flags if flags & F_ADDR != 0 => {
            let page = address & !(PAGE_SIZE - 1);
            let end = page.checked_add(PAGE_SIZE).ok_or(Errno::EFAULT)?;
            if !task.mm()?.covers(page..end) {
                return Err(Errno::EFAULT);
            }
            if flags & F_NODE != 0 { (0, own.nodes) } else { (own.mode, own.nodes) }
        }
        _ if address != 0 => return Err(Errno::EINVAL),
        // The node that is next in turn, which only interleaving has.
        F_NODE if matches!(own.mode & !MODE_FLAGS, 3 | 6) => (0, own.nodes),
        F_NODE => return Err(Errno::EINVAL),
        _ => (own.mode, own.nodes),
    };
    if let Some(policy) = policy.non_null() {
        task.write_object(policy, &mode)?;
    }
    if let Some(mask) = mask.non_null() {
        let words = bits.saturating_sub(1).min(MAX_BITS).div_ceil(64).max(1) as usize;
        let mut nodes_and_none = vec![0; words];
        nodes_and_none[0] = nodes;
        task.write_array(mask, &nodes_and_none)?;
    }
    Ok(())
}

/// `mbind(2)`: what it asks for is the case already.
pub fn mbind(
    task: &CurrentTask,
    start: u64,
    length: u64,
    mode: u32,
    mask: u64,
    bits: u64,
    flags: Flags,
) -> SysResult<()> {
    const MOVE_ALL: u32 = 4;
    if flags.0 & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    parse(task, mode, mask, bits)?;
    if flags.0 & MOVE_ALL != 0 && !task.credentials().has(Capability::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let end = length.checked_next_multiple_of(PAGE_SIZE).and_then(|length| start.checked_add(length));
    let end = end.filter(|_| start.is_multiple_of(PAGE_SIZE)).ok_or(Errno::EINVAL)?;
    if task.mm()?.covers(start..end) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// `set_mempolicy_home_node(2)`.
pub fn set_mempolicy_home_node(
    _task: &CurrentTask,
    start: u64,
    _length: u64,
    node: u64,
    flags: u64,
) -> SysResult<()> {
    if !start.is_multiple_of(PAGE_SIZE) || flags != 0 || node != 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The memory of a process that a call names; zero is the caller.
fn memory_of(task: &CurrentTask, pid: Pid) -> SysResult<std::sync::Arc<super::MemoryMap>> {
    if pid == 0 {
        return task.mm();
    }
    let target = task.find_task(pid)?;
    if !may_inspect(task, &target) {
        return Err(Errno::EPERM);
    }
    target.memory().ok_or(Errno::EINVAL)
}

/// `move_pages(2)`: tells where pages are, which is node 0, and where they are moved to.
pub fn move_pages(
    task: &CurrentTask,
    pid: Pid,
    count: u64,
    pages: UserPtr<u64>,
    nodes: UserPtr<i32>,
    status: UserPtr<i32>,
    flags: Flags,
) -> SysResult<()> {
    const MOVE_ALL: u32 = 4;
    const CHUNK: u64 = 1024;
    if flags.0 & !6 != 0 {
        return Err(Errno::EINVAL);
    }
    if flags.0 & MOVE_ALL != 0 && !task.credentials().has(Capability::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let memory = memory_of(task, pid)?;
    let mut done = 0;
    while done < count {
        let (at, length) = (done as usize, CHUNK.min(count - done) as usize);
        let addresses = task.read_array(pages.nth(at), length)?;
        if !nodes.is_null() && task.read_array(nodes.nth(at), length)?.iter().any(|node| *node != 0) {
            return Err(Errno::ENODEV);
        }
        let states: Vec<i32> = addresses
            .into_iter()
            .map(|address| {
                let page = address & !(PAGE_SIZE - 1);
                let mapped = page.checked_add(PAGE_SIZE).is_some_and(|end| memory.covers(page..end));
                if mapped { 0 } else { -Errno::EFAULT.raw() }
            })
            .collect();
        task.write_array(status.nth(at), &states)?;
        done += length as u64;
    }
    Ok(())
}

/// `migrate_pages(2)`: there is nowhere to go.
pub fn migrate_pages(task: &CurrentTask, pid: Pid, bits: u64, old: u64, new: u64) -> SysResult<()> {
    read_nodes(task, old, bits)?;
    let nodes = read_nodes(task, new, bits)?;
    memory_of(task, pid)?;
    if nodes & NODE == 0 { Err(Errno::EINVAL) } else { Ok(()) }
}
