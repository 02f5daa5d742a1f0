//! cgroup2: a container's own limits and usage as files, `cgroups(7)`.
//!
//! There is one group per container, and each sees only its own, as the root: what is read is about the container of
//! the task that reads, so one instance serves all. Nothing can be changed from inside.

use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::hostfs::list;
use super::{
    DirectorySink, File, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Metadata, OpenFile,
};
use crate::Kernel;
use crate::container::{Container, State};
use crate::error::SyscallResult;
use crate::task::{CurrentTask, Pid};
use crate::user::UserWriter;

/// All files, in the order of their names; inode numbers follow it.
const FILES: &[&str] = &[
    "cgroup.controllers",
    "cgroup.events",
    "cgroup.freeze",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.procs",
    "cgroup.stat",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cgroup.type",
    "cpu.max",
    "cpu.stat",
    "cpu.weight",
    "cpuset.cpus.effective",
    "cpuset.mems.effective",
    "memory.current",
    "memory.events",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
    "memory.oom.group",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.max",
    "pids.current",
    "pids.events",
    "pids.max",
];

/// Those of them that can be written in Linux.
const SETTINGS: &[&str] = &[
    "cgroup.freeze",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.procs",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cgroup.type",
    "cpu.max",
    "cpu.weight",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
    "memory.oom.group",
    "memory.swap.max",
    "pids.max",
];

const ROOT_INODE: u64 = 1;

/// A cgroup2.
pub struct CgroupFs {
    root: Arc<Directory>,
    born: TimeSpec,
}

impl CgroupFs {
    /// An instance.
    pub fn new() -> Arc<CgroupFs> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let born = TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec };
        let root = Directory {
            common: InodeCommon::new(),
            born,
            files: FILES
                .iter()
                .enumerate()
                .map(|(index, name)| Arc::new(Entry::new(index, name, born)))
                .collect(),
        };
        Arc::new(CgroupFs { root: Arc::new(root), born })
    }
}

impl FileSystem for CgroupFs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn root(&self) -> InodeRef {
        let _ = self.born;
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        Ok(FsStatistics { magic: 0x6367_7270, block_size: 4096, name_length: 255, ..FsStatistics::default() })
    }

    fn device(&self) -> u64 {
        crate::fs::unnamed_device(26)
    }
}

struct Directory {
    common: InodeCommon,
    born: TimeSpec,
    files: Vec<Arc<Entry>>,
}

fn metadata(kind: FileType, inode: u64, mode: u32, born: TimeSpec) -> Metadata {
    Metadata {
        device: crate::fs::unnamed_device(26),
        inode,
        mode: kind.mode_bits() | mode,
        links: if kind == FileType::Directory { 2 } else { 1 },
        block_size: 4096,
        accessed: born,
        modified: born,
        changed: born,
        ..Metadata::default()
    }
}

impl Inode for Directory {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        FileType::Directory
    }

    fn metadata(&self) -> SysResult<Metadata> {
        Ok(metadata(FileType::Directory, ROOT_INODE, 0o555, self.born))
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        let found = self.files.iter().find(|file| file.name.as_bytes() == name).ok_or(Errno::ENOENT)?;
        Ok(Arc::clone(found) as InodeRef)
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        _flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        Ok(Arc::new(OpenDirectory))
    }
}

struct OpenDirectory;

impl OpenFile for OpenDirectory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let dots = [".", ".."].map(|name| (name.into(), ROOT_INODE, FileType::Directory));
        let files = FILES.iter().zip(ROOT_INODE + 1..);
        let files = files.map(|(name, inode)| (name.as_bytes().to_vec(), inode, FileType::Regular));
        let names: Vec<_> = dots.into_iter().chain(files).collect();
        list(&names, position, sink);
        Ok(())
    }
}

struct Entry {
    common: InodeCommon,
    inode: u64,
    name: &'static str,
    born: TimeSpec,
}

impl Entry {
    fn new(index: usize, name: &'static str, born: TimeSpec) -> Entry {
        Entry { common: InodeCommon::new(), inode: ROOT_INODE + 1 + index as u64, name, born }
    }
}

impl Inode for Entry {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        FileType::Regular
    }

    fn metadata(&self) -> SysResult<Metadata> {
        // As where they could be written, so that a read-only mount is told as one.
        let mode = if SETTINGS.contains(&self.name) { 0o644 } else { 0o444 };
        Ok(metadata(FileType::Regular, self.inode, mode, self.born))
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        if flags.writable() {
            return Err(Errno::EACCES.into());
        }
        Ok(Arc::new(OpenEntry { name: self.name, text: Mutex::default() }))
    }
}

/// A text that is made at the first read, and again when reading starts over.
struct OpenEntry {
    name: &'static str,
    text: Mutex<Option<Vec<u8>>>,
}

impl OpenFile for OpenEntry {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let part = {
            let mut text = self.text.lock();
            if offset == 0 || text.is_none() {
                let reader = to.task().ok_or(Errno::EOPNOTSUPP)?;
                let container = &reader.group.container;
                let number = |pid| reader.number_of(pid);
                *text = Some(contents(self.name, container, &reader.kernel, &number).into_bytes());
            }
            let text = text.as_deref().unwrap_or_default();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            text[start..text.len().min(start.saturating_add(to.remaining()))].to_vec()
        };
        Ok(to.write(&part)?)
    }
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max\n".to_owned(), |value| format!("{value}\n"))
}

/// The numbers of the container's processes or tasks that the reader can see.
fn numbers(container: &Container, kernel: &Kernel, number: &dyn Fn(Pid) -> Pid, threads: bool) -> String {
    let mut numbers: Vec<_> = kernel
        .tasks
        .all()
        .iter()
        .filter(|task| std::ptr::eq(Arc::as_ptr(&task.group.container), container))
        .filter(|task| threads || task.tid() == task.group.pid)
        .map(|task| number(task.tid()))
        .filter(|number| *number != 0)
        .collect();
    numbers.sort_unstable();
    numbers.iter().map(|number| format!("{number}\n")).collect()
}

/// What a file of a container's group says to who reads it from outside, with the numbers that processes have in the container;
/// none for files of other file systems.
pub(crate) fn text_outside(file: &InodeRef, container: &Container, kernel: &Kernel) -> Option<String> {
    let entry = file.downcast_ref::<Entry>()?;
    Some(contents(entry.name, container, kernel, &|pid| container.pid_namespace().number(pid)))
}

/// What a file says.
fn contents(name: &str, container: &Container, kernel: &Kernel, number: &dyn Fn(Pid) -> Pid) -> String {
    const PERIOD: u64 = 100_000;
    let limits = container.limits();
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let text = match name {
        "cgroup.controllers" => "cpuset cpu memory pids\n",
        "cgroup.subtree_control" => "",
        "cgroup.type" => "domain\n",
        "cgroup.max.depth" | "cgroup.max.descendants" => "0\n",
        "cgroup.stat" => "nr_descendants 0\nnr_dying_descendants 0\n",
        "cgroup.freeze" => return format!("{}\n", u8::from(container.state() == State::Paused)),
        "cgroup.events" => {
            let populated = u8::from(!matches!(container.state(), State::Stopped(_)));
            let frozen = u8::from(container.state() == State::Paused);
            return format!("populated {populated}\nfrozen {frozen}\n");
        }
        "cgroup.procs" => return numbers(container, kernel, number, false),
        "cgroup.threads" => return numbers(container, kernel, number, true),
        "cpu.weight" => "100\n",
        "cpu.max" => {
            let (quota, period) = limits.cpu.map_or((None, PERIOD), |(quota, period)| (Some(quota), period));
            let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            return format!("{quota} {period}\n");
        }
        "cpu.stat" => {
            let usage = container.usage();
            let (user, system) = (usage.user.as_micros(), usage.system.as_micros());
            return format!(
                "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
                user + system
            );
        }
        "cpuset.cpus.effective" => {
            return match processors() {
                1 => "0\n".to_owned(),
                count => format!("0-{}\n", count - 1),
            };
        }
        "cpuset.mems.effective" => "0\n",
        "memory.current" => return format!("{}\n", container.usage().memory),
        "memory.max" => return or_max(limits.memory),
        "memory.high" | "memory.swap.max" => "max\n",
        "memory.low" | "memory.min" | "memory.oom.group" | "memory.swap.current" => "0\n",
        "memory.events" => "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
        "memory.stat" => {
            let memory = container.usage().memory;
            return format!(
                "anon {memory}\nfile 0\nkernel 0\nshmem 0\ninactive_anon {memory}\nactive_anon 0\ninactive_file 0\n\
                 active_file 0\nunevictable 0\n"
            );
        }
        "pids.current" => return format!("{}\n", container.task_count()),
        "pids.max" => return or_max(limits.pids),
        "pids.events" => return format!("max {}\n", container.refused_tasks()),
        _ => "",
    };
    text.to_owned()
}
