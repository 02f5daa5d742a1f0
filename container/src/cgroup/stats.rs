//! What a group uses, in the shape that `runc events --stats` prints and engines read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Cgroup, Error, Result, V1, V2, read_number, read_table};

/// One line of `events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `stats` or `oom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The container.
    pub id: String,
    /// What it uses; nothing for `oom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Stats>,
}

impl Event {
    /// What a container uses.
    pub fn stats(id: &str, stats: Stats) -> Self {
        Self { kind: "stats".to_owned(), id: id.to_owned(), data: Some(stats) }
    }

    /// That there was no more memory for a container.
    pub fn oom(id: &str) -> Self {
        Self { kind: "oom".to_owned(), id: id.to_owned(), data: None }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a group uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Processors.
    pub cpu: Cpu,
    /// Which processors and memory it may use.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages by their size.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Always empty.
    pub intel_rdt: BTreeMap<String, String>,
    /// What `runc` never fills.
    pub network_interfaces: Option<Vec<serde_json::Value>>,
}

/// Use of processors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Time.
    pub usage: CpuUsage,
    /// How often it had to wait for a new period.
    pub throttling: Throttling,
}

/// Time on processors, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// All.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// On each processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// On each processor, in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// On each processor, outside of the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// Outside of the kernel.
    pub user: u64,
}

/// What a quota does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have gone by.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Those in which it was held.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// For how many nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Which processors and memory a group may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of cpuset(7)")]
pub struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Use of memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Of files.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// All.
    pub usage: MemoryEntry,
    /// With swap.
    pub swap: MemoryEntry,
    /// Of the kernel.
    pub kernel: MemoryEntry,
    /// Of TCP.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
}

/// Use of memory of one kind, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// What is used.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// What was used at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was in the way.
    pub failcnt: u64,
}

/// Tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// The limit; zero for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Use of block devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
}

/// Use of one block device in one way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// The device.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// The device.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// `Read`, `Write` and others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// How much.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Use of huge pages, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hugetlb {
    /// What is used.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// What was used at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was in the way.
    pub failcnt: u64,
}

/// Nanoseconds of a clock tick: user space sees 100 a second, whatever the kernel's own are.
const TICK: u64 = 10_000_000;

pub(super) fn read(group: &Cgroup) -> Result<Stats> {
    if !group.exists() {
        let path = group.directories().first().map(|path| path.to_path_buf()).unwrap_or_default();
        return Err(Error::io("read", &path)(std::io::ErrorKind::NotFound.into()));
    }
    Ok(match group {
        Cgroup::V1(group) => read_v1(group),
        Cgroup::V2(group) => read_v2(group),
    })
}

fn read_v1(group: &V1) -> Stats {
    let of = |controller: &str| group.directories.get(controller).map(AsRef::<Path>::as_ref);
    let throttling = of("cpu").map(|directory| throttling(&directory.join("cpu.stat"), "throttled_time", 1));
    Stats {
        cpu: Cpu {
            usage: of("cpuacct").map(cpu_usage_v1).unwrap_or_default(),
            throttling: throttling.unwrap_or_default(),
        },
        cpuset: of("cpuset").map(cpuset_v1).unwrap_or_default(),
        memory: of("memory").map(memory_v1).unwrap_or_default(),
        pids: of("pids").map(pids).unwrap_or_default(),
        blkio: of("blkio").map(blkio_v1).unwrap_or_default(),
        hugetlb: of("hugetlb").map(|path| hugetlb(path, "usage_in_bytes")).unwrap_or_default(),
        ..Stats::default()
    }
}

fn read_v2(group: &V2) -> Stats {
    let directory = &group.directory;
    let cpu = read_table(&directory.join("cpu.stat"));
    let microseconds = |name: &str| cpu.get(name).map_or(0, |value| value.saturating_mul(1000));
    Stats {
        cpu: Cpu {
            usage: CpuUsage {
                total: microseconds("usage_usec"),
                kernel: microseconds("system_usec"),
                user: microseconds("user_usec"),
                ..CpuUsage::default()
            },
            throttling: throttling(&directory.join("cpu.stat"), "throttled_usec", 1000),
        },
        cpuset: Cpuset {
            cpus: list(&directory.join("cpuset.cpus.effective")),
            mems: list(&directory.join("cpuset.mems.effective")),
            ..Cpuset::default()
        },
        memory: memory_v2(directory),
        pids: pids(directory),
        blkio: blkio_v2(directory),
        hugetlb: hugetlb(directory, "current"),
        ..Stats::default()
    }
}

fn throttling(file: &Path, time: &str, unit: u64) -> Throttling {
    let table = read_table(file);
    let value = |name: &str| table.get(name).copied().unwrap_or(0);
    Throttling {
        periods: value("nr_periods"),
        throttled_periods: value("nr_throttled"),
        throttled_time: value(time).saturating_mul(unit),
    }
}

fn cpu_usage_v1(directory: &Path) -> CpuUsage {
    let numbers = |file: &str| -> Vec<u64> {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let table = read_table(&directory.join("cpuacct.stat"));
    let ticks = |name: &str| table.get(name).map_or(0, |value| value.saturating_mul(TICK));
    let (mut percpu_user, mut percpu_kernel) = (Vec::new(), Vec::new());
    let all = fs::read_to_string(directory.join("cpuacct.usage_all")).unwrap_or_default();
    // A heading, then lines of a processor, its user and its kernel time.
    for line in all.lines().skip(1) {
        let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [_, user, kernel] = words[..] {
            percpu_user.push(user);
            percpu_kernel.push(kernel);
        }
    }
    CpuUsage {
        total: read_number(&directory.join("cpuacct.usage")).unwrap_or(0),
        percpu: numbers("cpuacct.usage_percpu"),
        percpu_kernel,
        percpu_user,
        kernel: ticks("system"),
        user: ticks("user"),
    }
}

fn cpuset_v1(directory: &Path) -> Cpuset {
    let number = |file: &str| read_number(&directory.join(file)).unwrap_or(0);
    let level = fs::read_to_string(directory.join("cpuset.sched_relax_domain_level")).unwrap_or_default();
    Cpuset {
        cpus: list(&directory.join("cpuset.cpus")),
        cpu_exclusive: number("cpuset.cpu_exclusive"),
        mems: list(&directory.join("cpuset.mems")),
        mem_hardwall: number("cpuset.mem_hardwall"),
        mem_exclusive: number("cpuset.mem_exclusive"),
        memory_migrate: number("cpuset.memory_migrate"),
        memory_spread_page: number("cpuset.memory_spread_page"),
        memory_spread_slab: number("cpuset.memory_spread_slab"),
        memory_pressure: number("cpuset.memory_pressure"),
        sched_load_balance: number("cpuset.sched_load_balance"),
        sched_relax_domain_level: level.trim().parse().unwrap_or(-1),
    }
}

/// Numbers and ranges of them: `0-2,5`.
fn list(file: &Path) -> Vec<u16> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}

fn memory_v1(directory: &Path) -> Memory {
    let entry = |part: &str| {
        let number = |end: &str| read_number(&directory.join(format!("memory{part}.{end}"))).unwrap_or(0);
        MemoryEntry {
            limit: number("limit_in_bytes"),
            usage: number("usage_in_bytes"),
            max: number("max_usage_in_bytes"),
            failcnt: number("failcnt"),
        }
    };
    let raw = read_table(&directory.join("memory.stat"));
    Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry(""),
        swap: entry(".memsw"),
        kernel: entry(".kmem"),
        kernel_tcp: entry(".kmem.tcp"),
        raw,
    }
}

fn memory_v2(directory: &Path) -> Memory {
    let entry = |part: &str| {
        let number = |end: &str| read_number(&directory.join(format!("memory{part}.{end}"))).unwrap_or(0);
        let events = read_table(&directory.join(format!("memory{part}.events")));
        MemoryEntry {
            limit: number("max"),
            usage: number("current"),
            max: number("peak"),
            failcnt: events.get("max").copied().unwrap_or(0),
        }
    };
    let raw = read_table(&directory.join("memory.stat"));
    let value = |name: &str| raw.get(name).copied().unwrap_or(0);
    let usage = entry("");
    // With memory, as version 1 has it.
    let mut swap = entry(".swap");
    swap.usage = swap.usage.saturating_add(usage.usage);
    swap.limit = swap.limit.saturating_add(usage.limit);
    swap.max = 0;
    let kernel = MemoryEntry { usage: value("kernel"), ..MemoryEntry::default() };
    let kernel_tcp = MemoryEntry { usage: value("sock"), ..MemoryEntry::default() };
    Memory { cache: value("file"), usage, swap, kernel, kernel_tcp, raw }
}

fn pids(directory: &Path) -> Pids {
    let number = |file: &str| read_number(&directory.join(file)).unwrap_or(0);
    let limit = number("pids.max");
    Pids { current: number("pids.current"), limit: if limit == u64::MAX { 0 } else { limit } }
}

fn blkio_v1(directory: &Path) -> Blkio {
    // Either scheduler may be in charge; the general counters are always there.
    let entries = |names: [&str; 2]| -> Vec<BlkioEntry> {
        let read = |name: &str| blkio_entries(&directory.join(name));
        names.iter().map(|name| read(name)).find(|entries| !entries.is_empty()).unwrap_or_default()
    };
    Blkio {
        io_service_bytes_recursive: entries([
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.bfq.io_service_bytes_recursive",
        ]),
        io_serviced_recursive: entries([
            "blkio.throttle.io_serviced_recursive",
            "blkio.bfq.io_serviced_recursive",
        ]),
    }
}

/// Lines of `MAJOR:MINOR OPERATION NUMBER`; the last one is a sum without a device.
fn blkio_entries(file: &Path) -> Vec<BlkioEntry> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let entries = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
    });
    entries.collect()
}

fn blkio_v2(directory: &Path) -> Blkio {
    let text = fs::read_to_string(directory.join("io.stat")).unwrap_or_default();
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut blkio.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                "dios" => (&mut blkio.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    blkio
}

fn hugetlb(directory: &Path, usage: &str) -> BTreeMap<String, Hugetlb> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(size) = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(usage))
        else {
            continue;
        };
        let Some(size) = size.strip_suffix('.').filter(|size| !size.contains('.')) else { continue };
        let number = |end: &str| read_number(&directory.join(format!("hugetlb.{size}.{end}"))).unwrap_or(0);
        let used =
            Hugetlb { usage: number(usage), max: number("max_usage_in_bytes"), failcnt: number("failcnt") };
        all.insert(size.to_owned(), used);
    }
    all
}
