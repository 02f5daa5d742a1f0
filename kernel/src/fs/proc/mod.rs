//! procfs: tasks and kernel facts as files, `proc(5)`.
//!
//! Nothing is stored: names are looked up and texts made when they are asked for. [`task`] has the files of a process,
//! [`system`] those of the kernel.

use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::hostfs::list;
use super::{
    DirectorySink, File, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Metadata,
    OpenFile, PathRef, SetAttributes,
};
use crate::Kernel;
use crate::error::SyscallResult;
use crate::namespace::PidNamespace;
use crate::task::{CurrentTask, Pid, Task};
use crate::user::{UserReader, UserWriter};

mod facts;
mod memory;
mod more;
mod network;
mod system;
mod task;

/// A procfs.
pub struct ProcFs {
    kernel: Weak<Kernel>,
    root: Arc<Node>,
    born: TimeSpec,
}

/// What a name in a procfs stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Root,
    /// `self`
    SelfLink,
    /// `thread-self`
    ThreadSelf,
    /// A fixed directory, such as `sys/kernel`.
    Directory(&'static str),
    /// A file of the kernel's, by its whole path.
    System(&'static str),
    /// A directory of a process (`task` false) or thread.
    Process {
        pid: Pid,
        thread: bool,
    },
    /// A file in it.
    ProcessFile {
        pid: Pid,
        thread: bool,
        name: &'static str,
    },
    /// `task`, `fd`, `fdinfo`, `ns`
    ProcessDirectory {
        pid: Pid,
        thread: bool,
        name: &'static str,
    },
    /// `exe`, `cwd`, `root`
    ProcessLink {
        pid: Pid,
        name: &'static str,
    },
    /// An open file of a process.
    Descriptor {
        pid: Pid,
        fd: i32,
    },
    DescriptorInfo {
        pid: Pid,
        fd: i32,
    },
    Namespace {
        pid: Pid,
        name: &'static str,
    },
}

struct Node {
    common: InodeCommon,
    kernel: Weak<Kernel>,
    entry: Entry,
    born: TimeSpec,
    /// Whose tasks are shown, by their numbers there.
    pids: Arc<PidNamespace>,
}

impl ProcFs {
    /// A procfs that shows the tasks of a pid namespace.
    pub fn new(kernel: &Arc<Kernel>, pids: &Arc<PidNamespace>) -> Arc<ProcFs> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let born = TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec };
        let kernel = Arc::downgrade(kernel);
        let pids = Arc::clone(pids);
        let root =
            Node { common: InodeCommon::new(), kernel: Weak::clone(&kernel), entry: Entry::Root, born, pids };
        Arc::new(ProcFs { kernel, root: Arc::new(root), born })
    }
}

impl FileSystem for ProcFs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn root(&self) -> InodeRef {
        let _ = (&self.kernel, &self.born);
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        Ok(FsStatistics { magic: 0x9fa0, block_size: 4096, name_length: 255, ..FsStatistics::default() })
    }

    fn device(&self) -> u64 {
        crate::fs::unnamed_device(22)
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn remembers_directories(&self) -> bool {
        false
    }
}

impl Node {
    fn kernel(&self) -> SysResult<Arc<Kernel>> {
        self.kernel.upgrade().ok_or(Errno::ESRCH)
    }

    fn child(&self, entry: Entry) -> InodeRef {
        let kernel = Weak::clone(&self.kernel);
        let pids = Arc::clone(&self.pids);
        Arc::new(Node { common: InodeCommon::new(), kernel, entry, born: self.born, pids })
    }

    /// The number that a task has here: `ENOENT` if it is not to be seen.
    fn number_of(&self, pid: Pid) -> SysResult<Pid> {
        Some(self.pids.number(pid)).filter(|number| *number != 0).ok_or(Errno::ENOENT)
    }

    /// The number that `stat(2)` shows: the same for the same entry.
    fn number(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.entry).hash(&mut hasher);
        hasher.finish() >> 16 | 1
    }

    /// The process that the entry belongs to.
    fn pid(&self) -> Option<Pid> {
        match self.entry {
            Entry::Process { pid, .. }
            | Entry::ProcessFile { pid, .. }
            | Entry::ProcessDirectory { pid, .. }
            | Entry::ProcessLink { pid, .. }
            | Entry::Descriptor { pid, .. }
            | Entry::DescriptorInfo { pid, .. }
            | Entry::Namespace { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// The names in this directory.
    fn names(&self) -> SysResult<Vec<(Vec<u8>, FileType)>> {
        let kernel = self.kernel()?;
        let text = |name: &str| name.as_bytes().to_vec();
        Ok(match &self.entry {
            Entry::Root => {
                let shown = system::names("").filter(|(name, _)| system::is_shown(&kernel, name));
                let mut names: Vec<_> = shown.map(|(name, kind)| (text(name), kind)).collect();
                names.extend([(text("self"), FileType::Symlink), (text("thread-self"), FileType::Symlink)]);
                let pids: Vec<Pid> =
                    kernel.tasks.with(|tree| tree.processes().map(|p| p.group.pid).collect());
                let mut numbers: Vec<Pid> = pids.into_iter().map(|pid| self.pids.number(pid)).collect();
                numbers.sort_unstable();
                let seen = numbers.into_iter().filter(|number| *number != 0);
                names.extend(seen.map(|number| (text(&number.to_string()), FileType::Directory)));
                names
            }
            Entry::Directory(path) => system::names(path).map(|(name, kind)| (text(name), kind)).collect(),
            Entry::Process { thread, .. } => {
                let files = task::FILES.iter().filter(|name| *thread || **name != "children");
                let mut names: Vec<_> = files.map(|name| (text(name), FileType::Regular)).collect();
                names.extend(task::LINKS.iter().map(|name| (text(name), FileType::Symlink)));
                let directories = task::DIRECTORIES.iter().filter(|name| !thread || **name != "task");
                names.extend(directories.map(|name| (text(name), FileType::Directory)));
                names
            }
            Entry::ProcessDirectory { pid, name, .. } => match *name {
                "task" => {
                    let tasks = kernel.tasks.tasks_of(*pid);
                    let name = |task: &Arc<Task>| text(&self.pids.number(task.tid()).to_string());
                    tasks.iter().map(|task| (name(task), FileType::Directory)).collect()
                }
                "ns" => task::NAMESPACES.iter().map(|name| (text(name), FileType::Symlink)).collect(),
                "net" => network::FILES.iter().map(|name| (text(&name[4..]), FileType::Regular)).collect(),
                directory => {
                    let kind = if directory == "fd" { FileType::Symlink } else { FileType::Regular };
                    let task = kernel.tasks.get(*pid).ok_or(Errno::ENOENT)?;
                    let entries = task.files().entries();
                    entries.into_iter().map(|(fd, ..)| (text(&fd.0.to_string()), kind)).collect()
                }
            },
            _ => return Err(Errno::ENOTDIR),
        })
    }

    /// What `name` in this directory stands for.
    fn find(&self, name: &[u8]) -> SysResult<Entry> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let kernel = self.kernel()?;
        let number =
            || name.parse::<i32>().ok().filter(|number| number.to_string() == name).ok_or(Errno::ENOENT);
        let fixed = |list: &'static [&'static str]| list.iter().find(|known| **known == name).copied();
        match &self.entry {
            Entry::Root => match name {
                "self" => Ok(Entry::SelfLink),
                "thread-self" => Ok(Entry::ThreadSelf),
                _ => match system::find("", name).filter(|_| system::is_shown(&kernel, name)) {
                    Some(entry) => Ok(entry),
                    None => {
                        let pid = self.pids.pid(number()?).ok_or(Errno::ENOENT)?;
                        let exists = kernel.tasks.group(pid).is_some() || kernel.tasks.get(pid).is_some();
                        if exists { Ok(Entry::Process { pid, thread: false }) } else { Err(Errno::ENOENT) }
                    }
                },
            },
            Entry::Directory(path) => system::find(path, name).ok_or(Errno::ENOENT),
            Entry::Process { pid, thread } => {
                let (pid, thread) = (*pid, *thread);
                if let Some(name) = fixed(task::FILES).filter(|name| thread || *name != "children") {
                    return Ok(Entry::ProcessFile { pid, thread, name });
                }
                if let Some(name) = fixed(task::LINKS) {
                    return Ok(Entry::ProcessLink { pid, name });
                }
                let name = fixed(task::DIRECTORIES)
                    .filter(|name| !thread || *name != "task")
                    .ok_or(Errno::ENOENT)?;
                Ok(Entry::ProcessDirectory { pid, thread, name })
            }
            Entry::ProcessDirectory { pid, name: directory, .. } => match *directory {
                "task" => {
                    let tid = self.pids.pid(number()?).ok_or(Errno::ENOENT)?;
                    let task =
                        kernel.tasks.get(tid).filter(|task| task.group.pid == *pid).ok_or(Errno::ENOENT)?;
                    Ok(Entry::Process { pid: task.tid(), thread: true })
                }
                "ns" => {
                    let name = fixed(task::NAMESPACES).ok_or(Errno::ENOENT)?;
                    Ok(Entry::Namespace { pid: *pid, name })
                }
                "net" => {
                    let name =
                        network::FILES.iter().find(|known| known[4..] == *name).ok_or(Errno::ENOENT)?;
                    Ok(Entry::ProcessFile { pid: *pid, thread: false, name })
                }
                directory => {
                    let fd = number()?;
                    let task = kernel.tasks.get(*pid).ok_or(Errno::ENOENT)?;
                    task.file(crate::syscalls::Fd(fd)).map_err(|_| Errno::ENOENT)?;
                    let pid = *pid;
                    Ok(if directory == "fd" {
                        Entry::Descriptor { pid, fd }
                    } else {
                        Entry::DescriptorInfo { pid, fd }
                    })
                }
            },
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The text for whoever the calling kernel thread serves, however it reads: `sendfile(2)` gives no guest's memory.
    fn text(&self) -> SysResult<Vec<u8>> {
        let reader = crate::task::current();
        let reader = reader.as_deref();
        let kernel = self.kernel()?;
        match &self.entry {
            Entry::System(path) => system::text(&kernel, path, reader),
            Entry::ProcessFile { pid, thread, name } => {
                task::text(&kernel, &self.pids, *pid, *thread, name, reader)
            }
            Entry::DescriptorInfo { pid, fd } => task::descriptor_info(&kernel, *pid, *fd),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Changes a setting of an IPC namespace, given by its name as `sysctl(8)` has it, such as `kernel.shmmax`: `EPERM` for
/// one that cannot be changed.
pub fn set_sysctl(ipc: &crate::namespace::IpcNamespace, name: &str, value: &str) -> SysResult<()> {
    system::set(ipc, &format!("sys/{}", name.replace('.', "/")), value.as_bytes())
}

/// The process whose directory in a procfs was opened: it serves as a pidfd for signals.
pub fn process_of(file: &File) -> Option<Pid> {
    let inode = file.inode()?;
    match inode.downcast_ref::<Node>()?.entry {
        Entry::Process { pid, thread: false } => Some(pid),
        _ => None,
    }
}

impl Inode for Node {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        match self.entry {
            Entry::Root | Entry::Directory(_) | Entry::Process { .. } | Entry::ProcessDirectory { .. } => {
                FileType::Directory
            }
            Entry::System(path) if facts::target(path).is_some() => FileType::Symlink,
            Entry::System(_) | Entry::ProcessFile { .. } | Entry::DescriptorInfo { .. } => FileType::Regular,
            _ => FileType::Symlink,
        }
    }

    fn metadata(&self) -> SysResult<Metadata> {
        let kind = self.file_type();
        let mode = match (&self.entry, kind) {
            (Entry::ProcessDirectory { name: "fd" | "fdinfo", .. }, _) => 0o500,
            (Entry::ProcessFile { name, .. }, _) => task::mode(name),
            (Entry::Descriptor { pid, fd }, _) => task::descriptor_mode(&*self.kernel()?, *pid, *fd)?,
            (Entry::System(path), FileType::Regular) => system::mode(path),
            (_, FileType::Directory) => 0o555,
            (_, FileType::Symlink) => 0o777,
            _ => 0o444,
        };
        let owner = self.pid().and_then(|pid| Some(self.kernel().ok()?.tasks.get(pid)?.credentials()));
        Ok(Metadata {
            device: crate::fs::unnamed_device(22),
            inode: self.number(),
            mode: kind.mode_bits() | mode,
            links: if kind == FileType::Directory { 2 } else { 1 },
            uid: owner.as_ref().map_or(0, |owner| owner.effective_uid),
            gid: owner.as_ref().map_or(0, |owner| owner.effective_gid),
            block_size: 1024,
            accessed: self.born,
            modified: self.born,
            changed: self.born,
            ..Metadata::default()
        })
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        // Opening with O_TRUNC, as shells do before they write a setting.
        if attributes.size.is_some() { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        Ok(self.child(self.find(name)?))
    }

    fn readlink(&self, task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        let kernel = self.kernel()?;
        match &self.entry {
            Entry::SelfLink => {
                Ok(self.number_of(task.ok_or(Errno::ENOENT)?.group.pid)?.to_string().into_bytes())
            }
            Entry::ThreadSelf => {
                let task = task.ok_or(Errno::ENOENT)?;
                let (group, thread) = (self.number_of(task.group.pid)?, self.number_of(task.tid())?);
                Ok(format!("{group}/task/{thread}").into_bytes())
            }
            Entry::System(path) => Ok(facts::target(path).ok_or(Errno::EINVAL)?.into()),
            Entry::Descriptor { pid, fd } => task::descriptor_name(&kernel, *pid, *fd, task),
            Entry::ProcessLink { pid, name } => task::link_name(&kernel, *pid, name, task),
            Entry::Namespace { pid, name } => {
                Ok(task::namespace(&kernel, *pid, name, task)?.name().into_bytes())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn follow(&self, task: &CurrentTask) -> SyscallResult<Option<PathRef>> {
        let kernel = self.kernel()?;
        match &self.entry {
            Entry::Descriptor { pid, fd } => Ok(Some(task::descriptor_place(&kernel, *pid, *fd, task)?)),
            Entry::ProcessLink { pid, name } => Ok(Some(task::link_place(&kernel, *pid, name, task)?)),
            Entry::Namespace { pid, name } => {
                let namespace = task::namespace(&kernel, *pid, name, Some(task))?;
                Ok(Some(task::namespace_place(task, namespace)))
            }
            _ => Ok(None),
        }
    }

    fn open(
        self: Arc<Self>,
        task: Option<&CurrentTask>,
        _flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match self.file_type() {
            FileType::Directory => Ok(Arc::new(OpenDirectory { node: self, names: Mutex::default() })),
            FileType::Regular if matches!(self.entry, Entry::ProcessFile { name: "mem", .. }) => {
                let Entry::ProcessFile { pid, .. } = self.entry else { return Err(Errno::EIO.into()) };
                Ok(Arc::new(memory::OpenMemory(task::open_memory(&*self.kernel()?, pid, task)?)))
            }
            FileType::Regular => Ok(Arc::new(OpenText { node: self, text: Mutex::new(None) })),
            _ => Err(Errno::ELOOP.into()),
        }
    }
}

struct OpenDirectory {
    node: Arc<Node>,
    names: Mutex<Vec<(Vec<u8>, u64, FileType)>>,
}

impl OpenFile for OpenDirectory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let mut names = self.names.lock();
        if position == 0 {
            let own = self.node.number();
            *names =
                vec![(b".".to_vec(), own, FileType::Directory), (b"..".to_vec(), own, FileType::Directory)];
            let entries = self.node.names()?.into_iter().enumerate();
            names.extend(
                entries.map(|(index, (name, kind))| (name, own.wrapping_add(index as u64 + 1), kind)),
            );
        }
        list(&names, position, sink);
        Ok(())
    }
}

/// A text that is made at the first read, and again when reading starts over.
struct OpenText {
    node: Arc<Node>,
    text: Mutex<Option<Vec<u8>>>,
}

impl OpenFile for OpenText {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let part = {
            let mut text = self.text.lock();
            if offset == 0 || text.is_none() {
                *text = Some(self.node.text()?);
            }
            let text = text.as_deref().unwrap_or_default();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            text[start..text.len().min(start.saturating_add(to.remaining()))].to_vec()
        };
        Ok(to.write(&part)?)
    }

    fn write_at(&self, _file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        if from.remaining() > 4096 {
            return Err(Errno::EINVAL.into());
        }
        let writer = from.task();
        let bytes = from.read_all()?;
        let kernel = self.node.kernel()?;
        match &self.node.entry {
            Entry::ProcessFile { pid, name, .. } => task::write(&kernel, *pid, name, &bytes, writer)?,
            Entry::System(path) => system::write(path, &bytes)?,
            _ => return Err(Errno::EPERM.into()),
        }
        Ok((bytes.len(), offset + bytes.len() as u64))
    }
}
