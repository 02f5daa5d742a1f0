//! Which mount lies below which, as the host tells it of the gofer's mount namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use abi::SysResult;
use host::rustix::fs::{Mode, OFlags, openat};
use host::rustix::io::pread;

/// What `/proc/self/mountinfo` tells now, however often it is asked.
pub(crate) struct MountTable {
    file: OwnedFd,
}

/// The mount that each mount lies on. Not a hash table: the gofer may not ask for random numbers.
pub(crate) struct Parents(BTreeMap<u64, u64>);

impl MountTable {
    /// The table of a process whose directory in `/proc` this is. It shows what is below the caller's present root.
    pub(crate) fn open(process: &OwnedFd) -> SysResult<MountTable> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(MountTable { file: openat(process, "mountinfo", flags, Mode::empty())? })
    }

    /// All mounts that there are now.
    pub(crate) fn parents(&self) -> SysResult<Parents> {
        let mut text = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = pread(&self.file, buffer.as_mut_slice(), text.len() as u64)?;
            if read == 0 {
                return Ok(Parents::parse(&text));
            }
            text.extend_from_slice(&buffer[..read]);
        }
    }
}

impl Parents {
    fn parse(text: &[u8]) -> Parents {
        let lines = text.split(|byte| *byte == b'\n');
        let pairs = lines.filter_map(|line| {
            let mut words = line.split(|byte| *byte == b' ');
            let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
            Some((number()?, number()?))
        });
        Parents(pairs.collect())
    }

    /// The mounts below one.
    pub(crate) fn all_below(&self, mount: u64) -> Vec<u64> {
        self.0.keys().copied().filter(|below| *below != mount && self.is_below(*below, mount)).collect()
    }

    /// Whether a mount is another, or lies below it.
    pub(crate) fn is_below(&self, mount: u64, other: u64) -> bool {
        let (mut at, mut seen) = (mount, BTreeSet::new());
        while at != other {
            match self.0.get(&at) {
                Some(parent) if seen.insert(at) => at = *parent,
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_a_mount_is_found_at_any_depth() {
        let text =
            b"10 1 0:1 / /0 rw - tmpfs a rw\n11 10 0:2 / /0/a rw\n12 11 0:3 / /0/a/b rw\n20 1 0:4 / /1 rw\n\
                     30 30 0:5 / / rw\nnonsense\n";
        let parents = Parents::parse(text);
        let mut below = parents.all_below(10);
        below.sort_unstable();
        assert_eq!(below, [11, 12]);
        assert!(parents.is_below(10, 10) && parents.is_below(12, 10));
        assert!(!parents.is_below(20, 10) && !parents.is_below(30, 10) && !parents.is_below(99, 10));
    }

    #[test]
    fn the_table_of_this_process_can_be_read_again() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = openat(host::rustix::fs::CWD, "/proc/self", flags, Mode::empty()).unwrap();
        let table = MountTable::open(&own).unwrap();
        let count = table.parents().unwrap().0.len();
        assert!(count > 0);
        assert_eq!(table.parents().unwrap().0.len(), count);
    }
}
