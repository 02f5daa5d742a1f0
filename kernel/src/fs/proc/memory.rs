//! `/proc/PID/smaps`, `smaps_rollup` and `mem`: a process's memory by mapping, and its contents.

use std::ops::Range;
use std::sync::Arc;

use abi::{Errno, SysResult};
use platform::RangeUsage;

use crate::error::SyscallResult;
use crate::fs::{File, OpenFile};
use crate::mm::{Backing, MappingInfo, MemoryMap, PAGE_SIZE, Protection, VmaFlags};
use crate::ptrace;
use crate::user::{UserReader, UserWriter};

/// What one mapping has of what the host accounts to ranges, which it may see joined or split. A range that reaches
/// beyond the mapping counts by the part of it that lies inside.
fn of_range(ranges: &[RangeUsage], wanted: &Range<u64>) -> RangeUsage {
    let mut sum = RangeUsage { range: wanted.clone(), ..RangeUsage::default() };
    let first = ranges.partition_point(|usage| usage.range.end <= wanted.start);
    for usage in ranges[first..].iter().take_while(|usage| usage.range.start < wanted.end) {
        let inside = usage.range.end.min(wanted.end) - usage.range.start.max(wanted.start);
        let length = (usage.range.end - usage.range.start).max(1);
        let share = |bytes: u64| (u128::from(bytes) * u128::from(inside) / u128::from(length)) as u64 & !1023;
        add(&mut sum, usage, share);
    }
    sum
}

fn add(sum: &mut RangeUsage, usage: &RangeUsage, share: impl Fn(u64) -> u64) {
    sum.resident += share(usage.resident);
    sum.proportional += share(usage.proportional);
    sum.shared_clean += share(usage.shared_clean);
    sum.shared_dirty += share(usage.shared_dirty);
    sum.private_clean += share(usage.private_clean);
    sum.private_dirty += share(usage.private_dirty);
    sum.referenced += share(usage.referenced);
    sum.anonymous += share(usage.anonymous);
    sum.swapped += share(usage.swapped);
}

/// The fields that tell of memory in use.
fn fields(usage: &RangeUsage) -> [(&'static str, u64); 18] {
    [
        ("Rss", usage.resident),
        ("Pss", usage.proportional),
        ("Pss_Dirty", usage.private_dirty),
        ("Shared_Clean", usage.shared_clean),
        ("Shared_Dirty", usage.shared_dirty),
        ("Private_Clean", usage.private_clean),
        ("Private_Dirty", usage.private_dirty),
        ("Referenced", usage.referenced),
        ("Anonymous", usage.anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", usage.swapped),
        ("SwapPss", usage.swapped),
        ("Locked", 0),
    ]
}

fn rows<'a>(fields: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let row = |(name, bytes): (&str, u64)| format!("{:<16}{:>8} kB\n", format!("{name}:"), bytes / 1024);
    fields.into_iter().map(row).collect()
}

/// The two-letter words of `VmFlags`.
fn flags(mapping: &MappingInfo) -> String {
    let vma = &mapping.vma;
    let pairs = [
        (vma.protection.contains(Protection::READ), "rd"),
        (vma.protection.contains(Protection::WRITE), "wr"),
        (vma.protection.contains(Protection::EXEC), "ex"),
        (vma.flags.contains(VmaFlags::SHARED), "sh"),
        (vma.maximum.contains(Protection::READ), "mr"),
        (vma.maximum.contains(Protection::WRITE), "mw"),
        (vma.maximum.contains(Protection::EXEC), "me"),
        (vma.flags.contains(VmaFlags::SHARED) && vma.maximum.contains(Protection::WRITE), "ms"),
        (vma.flags.contains(VmaFlags::GROWS_DOWN), "gd"),
        (matches!(vma.backing, Backing::Anonymous), "ac"),
    ];
    pairs.iter().filter(|(is, _)| *is).map(|(_, word)| format!("{word} ")).collect()
}

/// `smaps`: `heads` are the lines of `maps`, one for each mapping.
pub fn smaps(memory: &MemoryMap, heads: &[Vec<u8>]) -> Vec<u8> {
    let ranges = memory.space().usage_by_range();
    let mut text = Vec::new();
    for (mapping, head) in memory.mappings().iter().zip(heads) {
        let vma = &mapping.vma;
        let usage = of_range(&ranges, &(vma.start..vma.end));
        text.extend_from_slice(head);
        let sizes = [("Size", vma.end - vma.start), ("KernelPageSize", 4096), ("MMUPageSize", 4096)];
        text.extend_from_slice(rows(sizes.into_iter().chain(fields(&usage))).as_bytes());
        text.extend_from_slice(format!("THPeligible:           0\nVmFlags: {}\n", flags(mapping)).as_bytes());
    }
    text
}

/// `smaps_rollup`: the sum of all mappings.
pub fn rollup(memory: &MemoryMap) -> Vec<u8> {
    let mut sum = RangeUsage::default();
    for usage in memory.space().usage_by_range() {
        add(&mut sum, &usage, |bytes| bytes);
    }
    let mappings = memory.mappings();
    let (start, end) = (mappings.first(), mappings.last());
    let (start, end) = (start.map_or(0, |first| first.vma.start), end.map_or(0, |last| last.vma.end));
    let head = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]\n");
    (head + &rows(fields(&sum))).into_bytes()
}

/// `mem`: the memory of a process as a file, by address. It stays that of the program that ran when it was opened.
pub struct OpenMemory(pub Arc<MemoryMap>);

/// How much is copied at a time.
const PIECE: usize = 64 << 10;

impl OpenFile for OpenMemory {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let mut piece = vec![0; PIECE.min(to.remaining())];
        let mut done = 0;
        while to.remaining() > 0 {
            let length = PIECE.min(to.remaining());
            let address = offset.wrapping_add(done as u64);
            let mut count = self.0.space().read(address, &mut piece[..length]);
            if count == 0
                && done == 0
                && let Some(task) = to.task()
            {
                let end = (PAGE_SIZE - address % PAGE_SIZE) as usize;
                let hidden = ptrace::requests::read_any(task, &self.0, address, length.min(end))?;
                piece[..hidden.len()].copy_from_slice(&hidden);
                count = hidden.len();
            }
            to.write(&piece[..count])?;
            done += count;
            if count < length {
                break;
            }
        }
        if done == 0 && to.remaining() > 0 { Err(Errno::EIO.into()) } else { Ok(done) }
    }

    fn write_at(&self, _file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        let wanted = from.remaining().min(1 << 20);
        let mut bytes = vec![0; wanted];
        let length = from.read(&mut bytes)?;
        let mut count = self.0.space().write(offset, &bytes[..length]);
        if count == 0
            && length > 0
            && let Some(task) = from.task()
        {
            let end = (PAGE_SIZE - offset % PAGE_SIZE) as usize;
            count = ptrace::requests::write_any(task, &self.0, offset, &bytes[..length.min(end)])?;
        }
        if count == 0 && length > 0 {
            return Err(Errno::EIO.into());
        }
        Ok((count, offset.wrapping_add(count as u64)))
    }

    fn seek(&self, _file: &File, current: u64, offset: i64, whence: crate::fs::Whence) -> SysResult<u64> {
        match whence {
            crate::fs::Whence::Set => Ok(offset.cast_unsigned()),
            crate::fs::Whence::Current => Ok(current.wrapping_add_signed(offset)),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_range_counts_by_its_parts() {
        let joined = RangeUsage { range: 0..8192, resident: 8192, ..RangeUsage::default() };
        let apart = RangeUsage { range: 16384..20480, resident: 4096, ..RangeUsage::default() };
        let ranges = [joined, apart];
        assert_eq!(of_range(&ranges, &(0..4096)).resident, 4096);
        assert_eq!(of_range(&ranges, &(0..20480)).resident, 12288);
        assert_eq!(of_range(&ranges, &(8192..16384)).resident, 0);
    }
}
