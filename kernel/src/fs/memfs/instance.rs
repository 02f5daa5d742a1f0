//! A [`MemFs`] as a whole: what it lies over, its limits, where its large files are.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::{Body, Lower, Node, PAGE, Seals, node_of};
use crate::fs::memory_files::{self, Purpose};
use crate::fs::{Acls, FileSystem, FsStatistics, Inode, InodeRef, NewFile, NewKind, SetAttributes};

/// Inode numbers of files that are not from a lower directory start here.
const FIRST_INODE: u64 = 1 << 40;

/// Options of a tmpfs.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemOptions {
    /// The most bytes that it may take; zero for half of the memory that there is.
    pub size: u64,
    /// The most files that it may have; zero for as many as half of the memory has pages.
    pub inodes: u64,
    /// Permission bits of the root; zero for 01777.
    pub mode: u32,
}

impl MemOptions {
    /// The most bytes and files.
    fn limits(&self) -> (u64, u64) {
        let (size, inodes) = default_limits();
        let or = |limit: u64, default: u64| if limit == 0 { default } else { limit };
        (or(self.size, size).next_multiple_of(PAGE), or(self.inodes, inodes))
    }
}

/// Makes files of the host without names, empty and open for reading and writing, to hold what is in large files.
pub type Store = Box<dyn Fn() -> SysResult<OwnedFd> + Send + Sync>;

/// Options of a layer.
#[derive(Default)]
pub struct LayerOptions {
    /// The most bytes that changed files may take; zero for no limit.
    pub size: u64,
    /// Where large files are, if not in memory.
    pub store: Option<Store>,
}

/// A file system in memory.
pub struct MemFs {
    pub(super) root: Arc<Node>,
    pub(super) shared: Arc<Shared>,
    pub(super) name: &'static str,
}

pub(super) struct Shared {
    pub(super) device: u64,
    pub(super) next: AtomicU64,
    /// The most bytes that it may take; zero for no limit.
    pub(super) limit: u64,
    pub(super) used: AtomicU64,
    /// The most files that it may have; zero for no limit.
    pub(super) inode_limit: u64,
    pub(super) inodes: AtomicU64,
    /// Nodes of lower files that are in use, by the lower inode's id: one for all names of a file.
    pub(super) known: Mutex<HashMap<u64, Weak<Node>>>,
    /// Those of them that are not what the lower file is any more, and must stay though nobody uses them.
    pub(super) changed: Mutex<HashMap<u64, Arc<Node>>>,
    /// Whether its files have seals, as those of a tmpfs do.
    pub(super) sealable: bool,
    /// Where large files are, if not in memory.
    pub(super) store: Option<Store>,
}

impl MemFs {
    /// An empty tmpfs.
    pub fn tmpfs(options: MemOptions) -> Arc<MemFs> {
        MemFs::with_limits(options.limits(), options.mode)
    }

    /// A tmpfs without limits, for files without names.
    pub fn unlimited() -> Arc<MemFs> {
        MemFs::with_limits((0, 0), 0)
    }

    fn with_limits(limits: (u64, u64), mode: u32) -> Arc<MemFs> {
        let shared = Arc::new(new_shared(limits, true));
        let mode = if mode == 0 { 0o1777 } else { mode };
        let new = NewFile { kind: NewKind::Directory, mode, uid: 0, gid: 0, acls: Acls::default() };
        let root = Node::new(&shared, &new, Body::Directory(Mutex::default()));
        Arc::new(MemFs { root, shared, name: "tmpfs" })
    }

    /// An own file system that begins with what is in a directory: one of the host or of an image, or of a layer over one
    /// in which nothing was changed yet. `None` for other directories.
    pub fn copy_of(directory: &InodeRef, options: MemOptions) -> SysResult<Option<Arc<MemFs>>> {
        let lower = match directory.downcast_ref::<Node>() {
            Some(Node { body: Body::Directory(directory), .. }) => directory.lock().lower.clone(),
            Some(_) => None,
            None => Lower::below_a_layer(directory)?,
        };
        let Some(lower) = lower else { return Ok(None) };
        let shared = Arc::new(new_shared(options.limits(), true));
        let root = Node::over(&shared, lower)?;
        if options.mode != 0 {
            root.set_attributes(&SetAttributes { mode: Some(options.mode), ..SetAttributes::default() })?;
        }
        Ok(Some(Arc::new(MemFs { root, shared, name: "tmpfs" })))
    }

    /// A writable view of a directory of the host or of an image, which stays as it is.
    pub fn merged(lower: impl Into<Lower>) -> SysResult<Arc<MemFs>> {
        MemFs::layer_over(lower, LayerOptions::default())
    }

    /// [`MemFs::merged`] with a limit, or a store elsewhere than in memory.
    pub fn layer_over(lower: impl Into<Lower>, options: LayerOptions) -> SysResult<Arc<MemFs>> {
        let limit = options.size.next_multiple_of(PAGE);
        let shared = Arc::new(Shared { store: options.store, ..new_shared((limit, 0), false) });
        let root = Node::over(&shared, lower.into())?;
        Ok(Arc::new(MemFs { root, shared, name: "overlay" }))
    }
}

impl Drop for MemFs {
    fn drop(&mut self) {
        // They hold what the table is in.
        let changed = std::mem::take(&mut *self.shared.changed.lock());
        drop(changed);
    }
}

fn new_shared((limit, inode_limit): (u64, u64), sealable: bool) -> Shared {
    Shared {
        device: crate::fs::next_unnamed_device(),
        next: AtomicU64::new(FIRST_INODE),
        limit,
        used: AtomicU64::new(0),
        inode_limit,
        inodes: AtomicU64::new(0),
        known: Mutex::default(),
        changed: Mutex::default(),
        sealable,
        store: None,
    }
}

/// The most bytes and files of a tmpfs that is mounted without options: half of the machine's memory.
fn default_limits() -> (u64, u64) {
    let memory = rustix::system::sysinfo();
    let half = (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit.max(1))) / 2;
    (half.next_multiple_of(PAGE), half / PAGE)
}

impl Shared {
    /// An empty file of the host for the content of a large file.
    pub(super) fn new_file(&self) -> SysResult<Arc<OwnedFd>> {
        match &self.store {
            Some(store) => store().map(Arc::new),
            None => memory_files::create(Purpose::Content),
        }
    }

    /// `ENOSPC` if there may be no more files.
    pub(super) fn check_inodes(&self) -> SysResult<()> {
        let full = self.inode_limit != 0 && self.inodes.load(Ordering::Relaxed) >= self.inode_limit;
        if full { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

impl FileSystem for MemFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        let shared = &self.shared;
        let or = |limit: u64, default: u64| if limit == 0 { default } else { limit };
        let limit = or(shared.limit, default_limits().0);
        let files = or(shared.inode_limit, limit / PAGE);
        let used = shared.used.load(Ordering::Relaxed).min(limit);
        Ok(FsStatistics {
            magic: if self.name == "tmpfs" { 0x0102_1994 } else { 0x794c_7630 },
            block_size: PAGE,
            blocks: limit / PAGE,
            blocks_free: (limit - used) / PAGE,
            blocks_available: (limit - used) / PAGE,
            files,
            files_free: files.saturating_sub(shared.inodes.load(Ordering::Relaxed)),
            name_length: 255,
        })
    }

    fn device(&self) -> u64 {
        self.shared.device
    }

    fn options(&self) -> String {
        if self.shared.limit == 0 {
            return String::new();
        }
        // Those that differ from what a mount without options has, like Linux.
        let root = self.root.metadata().unwrap_or_default();
        let (size, inodes) = default_limits();
        let mode = root.mode & 0o7777;
        let shown = [
            (self.shared.limit != size, format!("size={}k", self.shared.limit / 1024)),
            (self.shared.inode_limit != inodes, format!("nr_inodes={}", self.shared.inode_limit)),
            (mode != 0o1777, format!("mode={mode:o}")),
            (root.uid != 0, format!("uid={}", root.uid)),
            (root.gid != 0, format!("gid={}", root.gid)),
        ];
        let shown: Vec<String> = shown.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
        shown.join(",")
    }
}

impl MemFs {
    /// A regular file without a name, for `memfd_create(2)` and System V shared memory.
    pub fn unnamed(self: &Arc<MemFs>, mode: u32, uid: u32, gid: u32, seals: Seals) -> SysResult<InodeRef> {
        let new = NewFile { kind: NewKind::Regular, mode, uid, gid, acls: Acls::default() };
        let inode = self.root.strong()?.create_unnamed(&new)?;
        node_of(&inode)?.seals.store(seals.bits(), Ordering::SeqCst);
        Ok(inode)
    }
}
