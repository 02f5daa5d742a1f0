//! devpts: the file system of pseudo-terminals, `pts(4)`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::fs::{OpenFlags, make_device};
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::terminal::{Master, Slave, Terminal};
use crate::Kernel;
use crate::error::SyscallResult;
use crate::fs::hostfs::list;
use crate::fs::{
    DirectorySink, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Metadata, OpenFile,
    SetAttributes,
};
use crate::task::CurrentTask;

/// The most pairs of an instance, as Linux's `kernel.pty.max`.
const MAX_TERMINALS: u32 = 4096;
/// The group that owns terminals, by convention `tty`.
const TTY_GROUP: u32 = 5;

struct Entry {
    terminal: Arc<Terminal>,
    attributes: Arc<Mutex<Attributes>>,
}

#[derive(Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A devpts.
pub struct DevPts {
    kernel: Weak<Kernel>,
    device: u64,
    born: TimeSpec,
    terminals: Mutex<BTreeMap<u32, Entry>>,
    root: Arc<Node>,
    this: Weak<DevPts>,
}

impl DevPts {
    /// An instance without terminals.
    pub fn new(kernel: &Arc<Kernel>) -> Arc<DevPts> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Arc::new_cyclic(|this| DevPts {
            kernel: Arc::downgrade(kernel),
            device: crate::fs::unnamed_device(23),
            born: TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec },
            terminals: Mutex::default(),
            root: Arc::new(Node {
                common: InodeCommon::new(),
                file_system: Weak::clone(this),
                kind: NodeKind::Root,
            }),
            this: Weak::clone(this),
        })
    }

    /// Makes a pair whose slave end belongs to `uid`: `ENOSPC` if there are too many.
    pub fn make(&self, uid: u32) -> SysResult<Arc<Terminal>> {
        let mut terminals = self.terminals.lock();
        let number =
            (0..MAX_TERMINALS).find(|number| !terminals.contains_key(number)).ok_or(Errno::ENOSPC)?;
        let terminal = Terminal::new(number, Weak::clone(&self.kernel), Weak::clone(&self.this));
        let attributes = Arc::new(Mutex::new(Attributes { mode: 0o620, uid, gid: TTY_GROUP }));
        terminals.insert(number, Entry { terminal: Arc::clone(&terminal), attributes });
        Ok(terminal)
    }

    /// Removes the name of a pair whose master end is closed.
    pub fn remove(&self, number: u32) {
        let removed = self.terminals.lock().remove(&number);
        drop(removed);
    }

    fn node(&self, kind: NodeKind) -> InodeRef {
        Arc::new(Node { common: InodeCommon::new(), file_system: Weak::clone(&self.this), kind })
    }
}

impl FileSystem for DevPts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        Ok(FsStatistics { magic: 0x1cd1, block_size: 4096, name_length: 255, ..FsStatistics::default() })
    }

    fn options(&self) -> String {
        "gid=5,mode=620,ptmxmode=666".to_owned()
    }

    fn device(&self) -> u64 {
        self.device
    }

    fn cacheable(&self) -> bool {
        false
    }
}

enum NodeKind {
    Root,
    Multiplexer,
    Slave(Arc<Terminal>, Arc<Mutex<Attributes>>),
}

struct Node {
    common: InodeCommon,
    file_system: Weak<DevPts>,
    kind: NodeKind,
}

impl Node {
    fn file_system(&self) -> SysResult<Arc<DevPts>> {
        self.file_system.upgrade().ok_or(Errno::EIO)
    }
}

impl Inode for Node {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        match self.kind {
            NodeKind::Root => FileType::Directory,
            NodeKind::Multiplexer | NodeKind::Slave(..) => FileType::CharDevice,
        }
    }

    fn metadata(&self) -> SysResult<Metadata> {
        let (inode, rdev, attributes) = match &self.kind {
            NodeKind::Root => (1, 0, Attributes { mode: 0o755, uid: 0, gid: 0 }),
            NodeKind::Multiplexer => (2, make_device(5, 2), Attributes { mode: 0o666, uid: 0, gid: 0 }),
            NodeKind::Slave(terminal, attributes) => {
                (u64::from(terminal.number) + 3, terminal.device(), *attributes.lock())
            }
        };
        let kind = self.file_type();
        let file_system = self.file_system()?;
        let (device, born) = (file_system.device, file_system.born);
        Ok(Metadata {
            device,
            inode,
            mode: kind.mode_bits() | attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            links: if kind == FileType::Directory { 2 } else { 1 },
            rdev,
            block_size: 1024,
            accessed: born,
            modified: born,
            changed: born,
            ..Metadata::default()
        })
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        let NodeKind::Slave(_, attributes) = &self.kind else { return Err(Errno::EPERM) };
        let mut attributes = attributes.lock();
        attributes.mode = change.mode.unwrap_or(attributes.mode);
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        Ok(())
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        if !matches!(self.kind, NodeKind::Root) {
            return Err(Errno::ENOTDIR);
        }
        let file_system = self.file_system()?;
        if name == b"ptmx" {
            return Ok(file_system.node(NodeKind::Multiplexer));
        }
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let number: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        let terminals = file_system.terminals.lock();
        let entry = terminals.get(&number).filter(|_| number.to_string() == text).ok_or(Errno::ENOENT)?;
        Ok(file_system.node(NodeKind::Slave(Arc::clone(&entry.terminal), Arc::clone(&entry.attributes))))
    }

    fn open(
        self: Arc<Self>,
        task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match &self.kind {
            NodeKind::Root => Ok(Arc::new(Directory(self.file_system()?))),
            NodeKind::Multiplexer => Ok(Master::open(&self.file_system()?, task)?),
            NodeKind::Slave(terminal, _) => Ok(Slave::open(terminal, task, flags, false)?),
        }
    }
}

struct Directory(Arc<DevPts>);

impl OpenFile for Directory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let mut names = vec![
            (b".".to_vec(), 1, FileType::Directory),
            (b"..".to_vec(), 1, FileType::Directory),
            (b"ptmx".to_vec(), 2, FileType::CharDevice),
        ];
        for number in self.0.terminals.lock().keys() {
            names.push((number.to_string().into_bytes(), u64::from(*number) + 3, FileType::CharDevice));
        }
        list(&names, position, sink);
        Ok(())
    }
}
