//! sysfs: processors, memory nodes and the loopback interface as files, `sysfs(5)`.
//!
//! There are no devices and buses, so this is what programs ask about the machine before they start threads or divide
//! memory. Everything can be read and nothing changed; it is made when somebody first looks.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use abi::fs::OpenFlags;
use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::hostfs::list;
use super::{
    DirectorySink, File, FileSystem, FileType, FsStatistics, Inode, InodeCommon, InodeRef, Metadata, OpenFile,
};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::UserWriter;

const DEVICE: u64 = crate::fs::unnamed_device(21);

/// A sysfs.
pub struct SysFs {
    root: Arc<Node>,
}

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    Text(String),
    Link(String),
}

/// All entries by path; the root is the empty path. Each has a number, by its place.
#[derive(Default)]
struct Tree(BTreeMap<String, Entry>);

struct Node {
    common: InodeCommon,
    tree: Arc<OnceLock<Tree>>,
    path: String,
    born: TimeSpec,
}

impl SysFs {
    /// A sysfs of this machine.
    pub fn new() -> Arc<SysFs> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let born = TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec };
        let root = Node { common: InodeCommon::new(), tree: Arc::default(), path: String::new(), born };
        Arc::new(SysFs { root: Arc::new(root) })
    }
}

impl FileSystem for SysFs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn root(&self) -> InodeRef {
        Arc::clone(&self.root) as InodeRef
    }

    fn statistics(&self) -> SysResult<FsStatistics> {
        Ok(FsStatistics { magic: 0x6265_6572, block_size: 4096, name_length: 255, ..FsStatistics::default() })
    }

    fn device(&self) -> u64 {
        DEVICE
    }
}

impl Tree {
    /// Adds an entry, with all directories above it.
    fn add(&mut self, path: &str, entry: Entry) {
        let above = path.match_indices('/').map(|(end, _)| &path[..end]);
        for directory in std::iter::once("").chain(above) {
            self.0.entry(directory.to_owned()).or_insert(Entry::Directory);
        }
        self.0.insert(path.to_owned(), entry);
    }

    fn text(&mut self, path: &str, text: impl std::fmt::Display) {
        self.add(path, Entry::Text(format!("{text}\n")));
    }

    /// The names in a directory.
    fn names<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = (&'a str, u64, &'a Entry)> {
        self.0.iter().enumerate().filter_map(move |(number, (path, entry))| {
            let rest = path.strip_prefix(directory)?;
            let name = if directory.is_empty() { rest } else { rest.strip_prefix('/')? };
            (!name.is_empty() && !name.contains('/')).then_some((name, number as u64 + 1, entry))
        })
    }

    /// The machine.
    fn build() -> Tree {
        let mut tree = Tree::default();
        for directory in [
            "block",
            "bus",
            "class/block",
            "dev/block",
            "dev/char",
            "devices/virtual",
            "firmware",
            "fs/cgroup",
            "kernel/security",
            "module",
            "power",
        ] {
            tree.add(directory, Entry::Directory);
        }
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        tree.processors(count);
        tree.memory(count);
        tree.loopback();
        tree
    }

    fn processors(&mut self, count: usize) {
        let all = cpu_list(count);
        let base = "devices/system/cpu";
        for name in ["online", "possible", "present"] {
            self.text(&format!("{base}/{name}"), &all);
        }
        for name in ["offline", "isolated", "nohz_full"] {
            self.text(&format!("{base}/{name}"), "");
        }
        self.text(&format!("{base}/kernel_max"), 8191);
        self.text(&format!("{base}/smt/active"), 0);
        self.text(&format!("{base}/smt/control"), "notsupported");
        let every = mask(0..count, count);
        for cpu in 0..count {
            let own = format!("{base}/cpu{cpu}");
            let topology = format!("{own}/topology");
            let only = mask(cpu..cpu + 1, count);
            if cpu > 0 {
                self.text(&format!("{own}/online"), 1);
            }
            for (name, value) in [
                ("core_id", cpu.to_string()),
                ("physical_package_id", "0".to_owned()),
                ("die_id", "0".to_owned()),
                ("cluster_id", "65535".to_owned()),
                ("thread_siblings", only.clone()),
                ("thread_siblings_list", cpu.to_string()),
                ("core_cpus", only.clone()),
                ("core_cpus_list", cpu.to_string()),
                ("core_siblings", every.clone()),
                ("core_siblings_list", all.clone()),
                ("package_cpus", every.clone()),
                ("package_cpus_list", all.clone()),
                ("die_cpus", every.clone()),
                ("die_cpus_list", all.clone()),
            ] {
                self.text(&format!("{topology}/{name}"), value);
            }
            self.add(&format!("{own}/node0"), Entry::Link("../../node/node0".to_owned()));
        }
    }

    fn memory(&mut self, count: usize) {
        let base = "devices/system/node";
        for name in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] {
            self.text(&format!("{base}/{name}"), 0);
        }
        let node = format!("{base}/node0");
        let host = rustix::system::sysinfo();
        let kib = |amount: u64| amount * u64::from(host.mem_unit.max(1)) / 1024;
        let (total, free) = (kib(host.totalram), kib(host.freeram));
        let rows = [("MemTotal", total), ("MemFree", free), ("MemUsed", total.saturating_sub(free))];
        let rows: Vec<String> = rows
            .iter()
            .map(|(name, value)| format!("Node 0 {:<15}{value:>8} kB", format!("{name}:")))
            .collect();
        self.text(&format!("{node}/meminfo"), rows.join("\n"));
        self.text(&format!("{node}/cpulist"), cpu_list(count));
        self.text(&format!("{node}/cpumap"), mask(0..count, count));
        self.text(&format!("{node}/distance"), 10);
        let zeros = ["numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node"];
        self.text(&format!("{node}/numastat"), zeros.map(|name| format!("{name} 0")).join("\n"));
        for cpu in 0..count {
            self.add(&format!("{node}/cpu{cpu}"), Entry::Link(format!("../../cpu/cpu{cpu}")));
        }
        let huge = "kernel/mm/transparent_hugepage";
        self.text(&format!("{huge}/enabled"), "always [madvise] never");
        self.text(&format!("{huge}/defrag"), "always defer defer+madvise [madvise] never");
        self.text(&format!("{huge}/shmem_enabled"), "always within_size advise [never] deny force");
        self.text(&format!("{huge}/hpage_pmd_size"), 2 << 20);
        self.text(&format!("{huge}/use_zero_page"), 1);
        for name in ["nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages"] {
            self.text(&format!("kernel/mm/hugepages/hugepages-2048kB/{name}"), 0);
        }
        self.text("kernel/cpu_byteorder", "little");
        self.text("kernel/address_bits", 64);
    }

    fn loopback(&mut self) {
        let lo = "devices/virtual/net/lo";
        self.add("class/net/lo", Entry::Link("../../devices/virtual/net/lo".to_owned()));
        for (name, value) in [
            ("addr_len", "6"),
            ("address", "00:00:00:00:00:00"),
            ("broadcast", "00:00:00:00:00:00"),
            ("carrier", "1"),
            ("dev_id", "0x0"),
            ("dormant", "0"),
            ("flags", "0x9"),
            ("ifalias", ""),
            ("ifindex", "1"),
            ("iflink", "1"),
            ("link_mode", "0"),
            ("mtu", "65536"),
            ("operstate", "unknown"),
            ("tx_queue_len", "1000"),
            ("type", "772"),
        ] {
            self.text(&format!("{lo}/{name}"), value);
        }
        for name in ["bytes", "packets", "errors", "dropped"] {
            self.text(&format!("{lo}/statistics/rx_{name}"), 0);
            self.text(&format!("{lo}/statistics/tx_{name}"), 0);
        }
        self.add(&format!("{lo}/subsystem"), Entry::Link("../../../../class/net".to_owned()));
    }
}

/// `0-3`, or `0` of one.
fn cpu_list(count: usize) -> String {
    if count == 1 { "0".to_owned() } else { format!("0-{}", count - 1) }
}

/// Processors as bits, in hexadecimal words of 32.
fn mask(cpus: std::ops::Range<usize>, count: usize) -> String {
    let words = count.div_ceil(32);
    let word = |index: usize| {
        (0..32).filter(|bit| cpus.contains(&(index * 32 + bit))).fold(0u32, |word, bit| word | 1 << bit)
    };
    let digits = if count.is_multiple_of(32) { 8 } else { (count % 32).div_ceil(4) };
    let texts = (0..words).rev().map(|index| {
        if index + 1 == words { format!("{:0digits$x}", word(index)) } else { format!("{:08x}", word(index)) }
    });
    texts.collect::<Vec<_>>().join(",")
}

impl Node {
    fn tree(&self) -> &Tree {
        self.tree.get_or_init(Tree::build)
    }

    fn entry(&self) -> &Entry {
        // The root is there even in a tree that was not made yet.
        if self.path.is_empty() {
            &Entry::Directory
        } else {
            self.tree().0.get(&self.path).unwrap_or(&Entry::Directory)
        }
    }

    fn number(&self) -> u64 {
        if self.path.is_empty() { 1 } else { self.tree().0.range(..self.path.clone()).count() as u64 + 1 }
    }
}

fn file_type(entry: &Entry) -> FileType {
    match entry {
        Entry::Directory => FileType::Directory,
        Entry::Text(_) => FileType::Regular,
        Entry::Link(_) => FileType::Symlink,
    }
}

impl Inode for Node {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        file_type(self.entry())
    }

    fn metadata(&self) -> SysResult<Metadata> {
        let (mode, size) = match self.entry() {
            Entry::Directory => (0o755, 0),
            Entry::Text(_) => (0o444, 4096),
            Entry::Link(_) => (0o777, 0),
        };
        let kind = self.file_type();
        Ok(Metadata {
            device: DEVICE,
            inode: self.number(),
            mode: kind.mode_bits() | mode,
            links: if kind == FileType::Directory { 2 } else { 1 },
            size,
            block_size: 4096,
            accessed: self.born,
            modified: self.born,
            changed: self.born,
            ..Metadata::default()
        })
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<InodeRef> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        if !self.tree().0.contains_key(&path) {
            return Err(Errno::ENOENT);
        }
        let (common, tree) = (InodeCommon::new(), Arc::clone(&self.tree));
        Ok(Arc::new(Node { common, tree, path, born: self.born }))
    }

    fn readlink(&self, _task: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
        match self.entry() {
            Entry::Link(target) => Ok(target.clone().into_bytes()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        _flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        match self.file_type() {
            FileType::Symlink => Err(Errno::ELOOP.into()),
            _ => Ok(Arc::new(Open { node: self, names: Mutex::default() })),
        }
    }
}

struct Open {
    node: Arc<Node>,
    names: Mutex<Vec<(Vec<u8>, u64, FileType)>>,
}

impl OpenFile for Open {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let Entry::Text(text) = self.node.entry() else { return Err(Errno::EISDIR.into()) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let end = text.len().min(start.saturating_add(to.remaining()));
        Ok(to.write(&text.as_bytes()[start..end])?)
    }

    fn read_directory(
        &self,
        _task: &CurrentTask,
        position: u64,
        sink: &mut DirectorySink<'_>,
    ) -> SysResult<()> {
        if *self.node.entry() != Entry::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut names = self.names.lock();
        if position == 0 {
            let own = self.node.number();
            *names =
                vec![(b".".to_vec(), own, FileType::Directory), (b"..".to_vec(), own, FileType::Directory)];
            let inside = self.node.tree().names(&self.node.path);
            names.extend(inside.map(|(name, number, entry)| (name.into(), number, file_type(entry))));
        }
        list(&names, position, sink);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_hexadecimal_words() {
        assert_eq!(mask(0..2, 2), "3");
        assert_eq!(mask(1..2, 2), "2");
        assert_eq!(mask(0..40, 40), "ff,ffffffff");
        assert_eq!(mask(33..34, 64), "00000002,00000000");
    }

    #[test]
    fn directories_lie_above_everything() {
        let tree = Tree::build();
        let root: Vec<&str> = tree.names("").map(|(name, ..)| name).collect();
        assert!(root.contains(&"devices") && root.contains(&"class") && !root.contains(&"lo"));
        let cpu: Vec<&str> = tree.names("devices/system/cpu/cpu0").map(|(name, ..)| name).collect();
        assert_eq!(cpu, ["node0", "topology"]);
        for path in tree.0.keys() {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            assert_eq!(tree.0.get(parent), Some(&Entry::Directory), "{path}");
        }
    }
}
