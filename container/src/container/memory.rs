//! The memory that a sandbox takes.

use sandbox::control::message::MemoryUse;
use sandbox::control::{ClientError, Request, Response};
use serde::Serialize;

use super::Container;
use crate::error::Result;
use crate::status::Action;

/// What memory a sandbox takes, in bytes, in the shape that `runsc` gives it. A page counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Memory {
    /// What is not sorted: see [`Memory::summary`].
    pub unknown: u64,
    /// The sandbox process: the kernel of the containers.
    pub system: u64,
    /// Memory of the containers' processes that is of no file.
    pub anonymous: u64,
    /// Copies of files in images, which are made when a process maps one.
    pub page_cache: u64,
    /// Parts of the host's files that processes have mapped and read.
    pub mapped: u64,
    /// Files in memory: tmpfs, layers in memory, shared memory.
    pub tmpfs: u64,
    /// There is no such file system.
    pub ramdiskfs: u64,
    /// All of it.
    pub total: u64,
}

impl Memory {
    fn new(used: &MemoryUse, process: u64) -> Memory {
        let memory = Memory {
            // Small files are among what the process takes.
            system: process.saturating_sub(used.small_files),
            anonymous: used.anonymous,
            page_cache: used.copies,
            mapped: used.mapped,
            tmpfs: used.files + used.small_files,
            ..Memory::default()
        };
        let total = [memory.system, memory.anonymous, memory.page_cache, memory.mapped, memory.tmpfs];
        Memory { total: total.iter().sum(), ..memory }
    }

    /// The same with everything but what is mapped in one number.
    pub fn summary(&self) -> Memory {
        Memory {
            unknown: self.total.saturating_sub(self.mapped),
            mapped: self.mapped,
            total: self.total,
            ..Memory::default()
        }
    }
}

impl Container {
    /// What memory its sandbox takes; that of all containers of a pod.
    ///
    /// # Errors
    /// If it has ended.
    pub fn memory(&self) -> Result<Memory> {
        Action::Usage.check(&self.id, self.status)?;
        match self.call(Request::Memory { container: self.name() }, &[])? {
            Response::Memory(used) => {
                let process = self.sandbox.as_ref().map_or(0, |sandbox| own_memory(sandbox.process.pid));
                Ok(Memory::new(&used, process))
            }
            _ => Err(ClientError::Confused.into()),
        }
    }
}

/// The memory of a process that is of no file of the host, in bytes: its own, and what it shares with the stubs to talk to
/// them.
fn own_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    ["RssAnon", "RssShmem"].into_iter().filter_map(field).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_counted_once() {
        let used = MemoryUse { anonymous: 1000, mapped: 200, files: 30, small_files: 4, copies: 50_000 };
        let memory = Memory::new(&used, 600_004);
        assert_eq!((memory.system, memory.tmpfs, memory.total), (600_000, 34, 651_234));
        let summary = memory.summary();
        assert_eq!((summary.unknown, summary.mapped, summary.total), (651_034, 200, 651_234));
        assert_eq!((summary.system, summary.tmpfs), (0, 0));
    }

    #[test]
    fn this_process_takes_memory() {
        assert!(own_memory(std::process::id().cast_signed()) > 64 << 10);
        assert_eq!(own_memory(-1), 0);
    }
}
