//! The file system of message queues.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::{OpenQueue, PRIORITIES, Queue};
use crate::error::SyscallResult;
use crate::fs::hostfs::list;
use crate::fs::{
    DirectorySink, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Metadata, NewFile,
    NewKind, OpenFile, SetAttributes,
};
use crate::ipc::Setting;
use crate::task::CurrentTask;

/// What Linux needs in memory for a message, and for a priority.
const PER_MESSAGE: u64 = 48;
const PER_PRIORITY: u64 = 48;
/// The size that `stat(2)` shows: that of what can be read.
const FILE_SIZE: u64 = 80;

/// All message queues of a kernel, and their limits (`/proc/sys/fs/mqueue`).
pub struct MqueueFs {
    /// Messages of a queue, at most.
    pub max_messages: Setting,
    /// Bytes of a message, at most.
    pub max_size: Setting,
    /// Messages of a queue for which nothing was said.
    pub default_messages: Setting,
    /// Bytes of its messages.
    pub default_size: Setting,
    /// Queues.
    pub max_queues: Setting,
    born: TimeSpec,
    root: Arc<Root>,
    queues: Mutex<BTreeMap<Vec<u8>, Arc<QueueInode>>>,
    /// Bytes that a user's queues may need (`RLIMIT_MSGQUEUE`).
    used: Mutex<BTreeMap<u32, u64>>,
    this: Weak<MqueueFs>,
}

/// How many messages of which size a new queue takes.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub messages: u64,
    pub size: u64,
}

impl Shape {
    /// The bytes that are counted for it.
    fn bytes(self) -> Option<u64> {
        let priorities = self.messages.min(PRIORITIES.into()).checked_mul(PER_PRIORITY)?;
        let messages = self.messages.checked_mul(PER_MESSAGE.checked_add(self.size)?)?;
        priorities.checked_add(messages)
    }
}

impl MqueueFs {
    /// A file system without queues.
    pub fn new() -> Arc<MqueueFs> {
        Arc::new_cyclic(|this| MqueueFs {
            max_messages: Setting::new(10),
            max_size: Setting::new(8192),
            default_messages: Setting::new(10),
            default_size: Setting::new(8192),
            max_queues: Setting::new(256),
            born: now(),
            root: Arc::new(Root {
                common: InodeCommon::new(),
                file_system: Weak::clone(this),
                attributes: Mutex::new(Attributes { mode: 0o1777, uid: 0, gid: 0 }),
            }),
            queues: Mutex::default(),
            used: Mutex::default(),
            this: Weak::clone(this),
        })
    }

    /// The queue with this name.
    pub(super) fn get(&self, name: &[u8]) -> Option<Arc<QueueInode>> {
        self.queues.lock().get(name).cloned()
    }

    /// The shape of a queue for which none was given.
    pub(super) fn default_shape(&self) -> Shape {
        Shape {
            messages: self.default_messages.get().min(self.max_messages.get()),
            size: self.default_size.get().min(self.max_size.get()),
        }
    }

    /// Makes a queue: `ENOSPC` if there are too many (`limited`), `EMFILE` if its bytes go beyond what its owner has
    /// left of `limit`, `EEXIST`.
    pub(super) fn make(
        &self,
        name: &[u8],
        new: &NewFile,
        shape: Shape,
        limit: u64,
        limited: bool,
    ) -> SysResult<Arc<QueueInode>> {
        let mut queues = self.queues.lock();
        if queues.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if limited && queues.len() as u64 >= self.max_queues.get() {
            return Err(Errno::ENOSPC);
        }
        let bytes = shape.bytes().ok_or(Errno::EOVERFLOW)?;
        {
            let mut used = self.used.lock();
            let of_user = used.entry(new.uid).or_default();
            *of_user = of_user.checked_add(bytes).filter(|sum| *sum <= limit).ok_or(Errno::EMFILE)?;
        }
        let inode = Arc::new(QueueInode {
            common: InodeCommon::new(),
            file_system: Weak::clone(&self.this),
            attributes: Mutex::new(Attributes { mode: new.mode & 0o777, uid: new.uid, gid: new.gid }),
            owner: new.uid,
            bytes,
            born: now(),
            queue: Queue::new(shape.messages, shape.size),
        });
        queues.insert(name.to_vec(), Arc::clone(&inode));
        Ok(inode)
    }

    /// Removes a name. The queue lives on while it is open.
    pub(super) fn remove(&self, name: &[u8]) -> SysResult<()> {
        let removed = self.queues.lock().remove(name);
        removed.map(drop).ok_or(Errno::ENOENT)
    }

    pub(super) fn root_metadata(&self) -> Metadata {
        self.root.attributes.lock().metadata(FileType::Directory, 1, self.born)
    }
}

fn now() -> TimeSpec {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec }
}

fn device() -> u64 {
    crate::fs::unnamed_device(24)
}

impl FileSystem for MqueueFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        let magic = 0x1980_0202;
        Ok(FsStatistics { magic, block_size: 4096, name_length: 255, ..FsStatistics::default() })
    }

    fn device(&self) -> u64 {
        device()
    }

    fn cacheable(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Attributes {
    fn change(&mut self, change: &SetAttributes) {
        self.mode = change.mode.unwrap_or(self.mode);
        self.uid = change.uid.unwrap_or(self.uid);
        self.gid = change.gid.unwrap_or(self.gid);
    }

    fn metadata(self, kind: FileType, inode: u64, born: TimeSpec) -> Metadata {
        Metadata {
            device: device(),
            inode,
            mode: kind.mode_bits() | self.mode,
            uid: self.uid,
            gid: self.gid,
            links: if kind == FileType::Directory { 2 } else { 1 },
            size: if kind == FileType::Directory { 0 } else { FILE_SIZE },
            block_size: 4096,
            accessed: born,
            modified: born,
            changed: born,
            ..Metadata::default()
        }
    }
}

struct Root {
    common: InodeCommon,
    file_system: Weak<MqueueFs>,
    attributes: Mutex<Attributes>,
}

impl Root {
    fn file_system(&self) -> SysResult<Arc<MqueueFs>> {
        self.file_system.upgrade().ok_or(Errno::EIO)
    }
}

impl Inode for Root {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        FileType::Directory
    }

    fn metadata(&self) -> SysResult<Metadata> {
        Ok(self.file_system()?.root_metadata())
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        self.attributes.lock().change(change);
        Ok(())
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        self.file_system()?.get(name).map(|queue| queue as InodeRef).ok_or(Errno::ENOENT)
    }

    fn create(self: Arc<Self>, name: &[u8], new: &NewFile) -> SysResult<InodeRef> {
        if new.kind != NewKind::Regular {
            return Err(Errno::EPERM);
        }
        let file_system = self.file_system()?;
        let shape = file_system.default_shape();
        Ok(file_system.make(name, new, shape, u64::MAX, true)?)
    }

    fn unlink(&self, name: &[u8]) -> SysResult<()> {
        self.file_system()?.remove(name)
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        _flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        Ok(Arc::new(Directory(self.file_system()?)))
    }
}

struct Directory(Arc<MqueueFs>);

impl OpenFile for Directory {
    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        let mut names =
            vec![(b".".to_vec(), 1, FileType::Directory), (b"..".to_vec(), 1, FileType::Directory)];
        let queues = self.0.queues.lock();
        names.extend(queues.iter().map(|(name, queue)| (name.clone(), queue.number(), FileType::Regular)));
        drop(queues);
        list(&names, position, sink);
        Ok(())
    }
}

/// A queue as a file.
pub(super) struct QueueInode {
    common: InodeCommon,
    file_system: Weak<MqueueFs>,
    attributes: Mutex<Attributes>,
    /// Whose bytes are counted, and how many.
    owner: u32,
    bytes: u64,
    born: TimeSpec,
    pub queue: Queue,
}

impl QueueInode {
    fn number(&self) -> u64 {
        self.common.id + 1
    }
}

impl Drop for QueueInode {
    fn drop(&mut self) {
        if let Some(file_system) = self.file_system.upgrade() {
            let mut used = file_system.used.lock();
            if let Some(of_user) = used.get_mut(&self.owner) {
                *of_user = of_user.saturating_sub(self.bytes);
            }
            used.retain(|_, bytes| *bytes > 0);
        }
    }
}

impl Inode for QueueInode {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        FileType::Regular
    }

    fn metadata(&self) -> SysResult<Metadata> {
        Ok(self.attributes.lock().metadata(FileType::Regular, self.number(), self.born))
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        self.attributes.lock().change(change);
        Ok(())
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        _flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        Ok(Arc::new(OpenQueue(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Acls;

    #[test]
    fn the_bytes_of_a_user_are_limited_and_given_back() {
        let file_system = MqueueFs::new();
        let shape = Shape { messages: 10, size: 8192 };
        let new = NewFile { kind: NewKind::Regular, mode: 0o600, uid: 7, gid: 7, acls: Acls::default() };
        let limit = 100_000;
        assert_eq!(shape.bytes(), Some(82_880));
        assert!(file_system.make(b"one", &new, shape, limit, true).is_ok());
        assert_eq!(file_system.make(b"two", &new, shape, limit, true).err(), Some(Errno::EMFILE));
        assert_eq!(file_system.make(b"one", &new, shape, limit, true).err(), Some(Errno::EEXIST));
        let open = file_system.get(b"one");
        assert!(file_system.remove(b"one").is_ok());
        assert_eq!(file_system.make(b"two", &new, shape, limit, true).err(), Some(Errno::EMFILE));
        drop(open);
        assert!(file_system.make(b"two", &new, shape, limit, true).is_ok());
    }
}
