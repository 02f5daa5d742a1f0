//! The files of procfs that tell of the kernel and the machine.

use abi::{Errno, SysResult};

use super::{Entry, facts};
use crate::Kernel;
use crate::fs::{FileType, inotify};
use crate::ipc::Setting;
use crate::namespace::IpcNamespace;
use crate::task::Task;

/// All of them by path; those that end in a slash are directories.
const PATHS: &[&str] = &[
    "cgroups",
    "cmdline",
    "cpuinfo",
    "filesystems",
    "gvisor/",
    "gvisor/kernel_is_gvisor",
    "loadavg",
    "meminfo",
    "mounts",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
    "sys/",
    "sys/fs/",
    "sys/fs/file-max",
    "sys/fs/inotify/",
    "sys/fs/inotify/max_queued_events",
    "sys/fs/inotify/max_user_instances",
    "sys/fs/inotify/max_user_watches",
    "sys/fs/mqueue/",
    "sys/fs/mqueue/msg_default",
    "sys/fs/mqueue/msg_max",
    "sys/fs/mqueue/msgsize_default",
    "sys/fs/mqueue/msgsize_max",
    "sys/fs/mqueue/queues_max",
    "sys/fs/nr_open",
    "sys/fs/pipe-max-size",
    "sys/kernel/",
    "sys/kernel/cap_last_cap",
    "sys/kernel/domainname",
    "sys/kernel/hostname",
    "sys/kernel/msgmax",
    "sys/kernel/msgmnb",
    "sys/kernel/msgmni",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/overflowgid",
    "sys/kernel/overflowuid",
    "sys/kernel/pid_max",
    "sys/kernel/random/",
    "sys/kernel/random/boot_id",
    "sys/kernel/random/uuid",
    "sys/kernel/sem",
    "sys/kernel/shm_rmid_forced",
    "sys/kernel/shmall",
    "sys/kernel/shmmax",
    "sys/kernel/shmmni",
    "sys/kernel/threads-max",
    "sys/kernel/version",
    "sys/vm/",
    "sys/vm/max_map_count",
    "sys/vm/mmap_min_addr",
    "sys/vm/overcommit_memory",
    "sysvipc/",
    "sysvipc/msg",
    "sysvipc/sem",
    "sysvipc/shm",
];

fn all_paths() -> impl Iterator<Item = &'static str> {
    PATHS.iter().chain(facts::PATHS).copied()
}

/// The entry at `path`, with its name in the directory `directory`.
fn in_directory(directory: &str, path: &'static str) -> Option<(&'static str, FileType)> {
    let rest = path.strip_prefix(directory)?;
    let (name, kind) = match rest.strip_suffix('/') {
        Some(name) => (name, FileType::Directory),
        None => (rest, if facts::target(path).is_some() { FileType::Symlink } else { FileType::Regular }),
    };
    (!name.is_empty() && !name.contains('/')).then_some((name, kind))
}

/// Whether a name in the root of a procfs is there: one of them is only on request.
pub fn is_shown(kernel: &Kernel, name: &str) -> bool {
    name != "gvisor" || kernel.gvisor_marker
}

/// The names in a directory, given by its path with a slash at the end (empty for the root).
pub fn names(directory: &str) -> impl Iterator<Item = (&'static str, FileType)> {
    all_paths().filter_map(move |path| in_directory(directory, path))
}

/// What `name` in a directory stands for.
pub fn find(directory: &str, name: &str) -> Option<Entry> {
    let path =
        all_paths().find(|path| in_directory(directory, path).is_some_and(|(known, _)| known == name))?;
    Some(if path.ends_with('/') { Entry::Directory(path) } else { Entry::System(path) })
}

/// The text of a file.
pub fn text(kernel: &Kernel, path: &str, reader: Option<&Task>) -> SysResult<Vec<u8>> {
    let uts = reader.map(|reader| reader.namespaces().uts.names()).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let ipc = reader.map(|reader| reader.ipc());
    if let Some(settings) = ipc.as_ref().and_then(|ipc| settings(ipc, path)) {
        let values: Vec<String> = settings.iter().map(|setting| setting.get().to_string()).collect();
        return Ok(format!("{}\n", values.join("\t")).into_bytes());
    }
    let text = match path {
        // The hierarchy 0 is that of version 2, as runtimes look for it.
        "cgroups" => "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\n\
                      cpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n"
            .to_owned(),
        "cmdline" => "\n".to_owned(),
        "cpuinfo" => kernel.host.cpuinfo.clone(),
        "gvisor/kernel_is_gvisor" => "gvisor\n".to_owned(),
        "filesystems" => {
            "nodev\tproc\nnodev\tcgroup2\nnodev\ttmpfs\nnodev\tmqueue\nnodev\toverlay\nnodev\thostfs\n"
                .to_owned()
        }
        "loadavg" => {
            let loads = rustix::system::sysinfo().loads.map(|load| load as f64 / 65536.0);
            let tasks = kernel.tasks.with(|tree| tree.task_count());
            format!("{:.2} {:.2} {:.2} 1/{tasks} {}\n", loads[0], loads[1], loads[2], tasks)
        }
        "meminfo" => meminfo(kernel.host.meminfo.as_deref()),
        "stat" => stat(kernel, processors),
        "swaps" => "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned(),
        "uptime" => {
            let seconds = kernel.boot.elapsed().as_secs_f64();
            format!("{seconds:.2} {:.2}\n", seconds * processors as f64)
        }
        "version" => format!("Linux version {} (nacelle) #1 SMP\n", Kernel::RELEASE),
        "vmstat" => "pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n".to_owned(),
        "sys/fs/file-max" => "9223372036854775807\n".to_owned(),
        "sys/fs/inotify/max_queued_events" => format!("{}\n", inotify::MAX_QUEUED),
        "sys/fs/inotify/max_user_instances" => format!("{}\n", inotify::MAX_INSTANCES),
        "sys/fs/inotify/max_user_watches" => format!("{}\n", inotify::MAX_WATCHES),
        "sys/fs/nr_open" | "sys/fs/pipe-max-size" => "1048576\n".to_owned(),
        "sys/kernel/cap_last_cap" => "40\n".to_owned(),
        "sys/kernel/domainname" => format!("{}\n", String::from_utf8_lossy(&uts.domainname)),
        "sys/kernel/hostname" => format!("{}\n", String::from_utf8_lossy(&uts.hostname)),
        "sys/kernel/ngroups_max" => "65536\n".to_owned(),
        "sys/kernel/osrelease" => format!("{}\n", Kernel::RELEASE),
        "sys/kernel/ostype" => "Linux\n".to_owned(),
        "sys/kernel/overflowgid" | "sys/kernel/overflowuid" => "65534\n".to_owned(),
        "sys/kernel/pid_max" => format!("{}\n", crate::task::table::PID_MAX),
        "sys/kernel/random/boot_id" => uuid(kernel.host.boot_id),
        "sys/kernel/random/uuid" => {
            let mut bytes = [0; 16];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            uuid(bytes)
        }
        "sys/kernel/threads-max" => "4194304\n".to_owned(),
        "sys/kernel/version" => "#1 SMP\n".to_owned(),
        "sys/vm/max_map_count" => "65530\n".to_owned(),
        "sys/vm/mmap_min_addr" => "65536\n".to_owned(),
        "sys/kernel/shm_rmid_forced" => "0\n".to_owned(),
        "sys/vm/overcommit_memory" => "0\n".to_owned(),
        "sysvipc/msg" => ipc.ok_or(Errno::EINVAL)?.sysv.msg.text(),
        "sysvipc/sem" => ipc.ok_or(Errno::EINVAL)?.sysv.sem.text(),
        "sysvipc/shm" => ipc.ok_or(Errno::EINVAL)?.sysv.shm.text(kernel),
        _ => facts::text(kernel, path).ok_or(Errno::ENOENT)?,
    };
    Ok(text.into_bytes())
}

/// The numbers behind one of [`SETTINGS`], in their order.
fn settings<'a>(ipc: &'a IpcNamespace, path: &str) -> Option<Vec<&'a Setting>> {
    let sysv = &ipc.sysv;
    Some(match path {
        "sys/fs/mqueue/msg_default" => vec![&ipc.mqueue.default_messages],
        "sys/fs/mqueue/msg_max" => vec![&ipc.mqueue.max_messages],
        "sys/fs/mqueue/msgsize_default" => vec![&ipc.mqueue.default_size],
        "sys/fs/mqueue/msgsize_max" => vec![&ipc.mqueue.max_size],
        "sys/fs/mqueue/queues_max" => vec![&ipc.mqueue.max_queues],
        "sys/kernel/msgmax" => vec![&sysv.msg.max_message],
        "sys/kernel/msgmnb" => vec![&sysv.msg.max_bytes],
        "sys/kernel/msgmni" => vec![&sysv.msg.queues],
        "sys/kernel/sem" => vec![&sysv.sem.per_set, &sysv.sem.in_all, &sysv.sem.per_call, &sysv.sem.sets],
        "sys/kernel/shmall" => vec![&sysv.shm.max_pages],
        "sys/kernel/shmmax" => vec![&sysv.shm.max_bytes],
        "sys/kernel/shmmni" => vec![&sysv.shm.segments],
        _ => return None,
    })
}

/// The files that root can write.
const SETTINGS: &[&str] = &[
    "sys/fs/mqueue/msg_default",
    "sys/fs/mqueue/msg_max",
    "sys/fs/mqueue/msgsize_default",
    "sys/fs/mqueue/msgsize_max",
    "sys/fs/mqueue/queues_max",
    "sys/kernel/msgmax",
    "sys/kernel/msgmnb",
    "sys/kernel/msgmni",
    "sys/kernel/sem",
    "sys/kernel/shmall",
    "sys/kernel/shmmax",
    "sys/kernel/shmmni",
];

/// The permission bits of a file.
pub fn mode(path: &str) -> u32 {
    if SETTINGS.contains(&path) { 0o644 } else { 0o444 }
}

/// Writes settings of the calling task's namespaces, as `sysctl(8)` does.
pub fn write(path: &str, bytes: &[u8]) -> SysResult<()> {
    let ipc = crate::task::current().ok_or(Errno::EPERM)?.ipc();
    set(&ipc, path, bytes)
}

/// Changes settings: numbers apart by blanks, as many as are there.
pub fn set(ipc: &IpcNamespace, path: &str, bytes: &[u8]) -> SysResult<()> {
    let settings = settings(ipc, path).ok_or(Errno::EPERM)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let values: Result<Vec<u64>, _> = text.split_ascii_whitespace().map(str::parse).collect();
    let values = values.map_err(|_| Errno::EINVAL)?;
    if values.is_empty() || values.len() > settings.len() {
        return Err(Errno::EINVAL);
    }
    settings.iter().zip(values).for_each(|(setting, value)| setting.set(value));
    Ok(())
}

/// A version 4 UUID of random bytes, with a newline.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}\n",
        hex[..4].concat(),
        hex[4..6].concat(),
        hex[6..8].concat(),
        hex[8..10].concat(),
        hex[10..].concat()
    )
}

/// What the host's `/proc/meminfo` says, in KiB.
fn host_memory(meminfo: Option<&std::fs::File>) -> Vec<(String, u64)> {
    let mut bytes = [0; 8192];
    let length = meminfo.and_then(|file| rustix::io::pread(file, &mut bytes, 0).ok()).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let row = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().strip_suffix(" kB")?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// The rows that programs look for. Where the host's own are not to be had, `sysinfo(2)` knows some of them.
fn meminfo(meminfo: Option<&std::fs::File>) -> String {
    let known = host_memory(meminfo);
    let host = rustix::system::sysinfo();
    let unit = u64::from(host.mem_unit.max(1));
    let kib = |amount: u64| amount * unit / 1024;
    let (total, free, buffers) = (kib(host.totalram), kib(host.freeram), kib(host.bufferram));
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free + buffers),
        ("Buffers", buffers),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", kib(host.totalswap)),
        ("SwapFree", kib(host.freeswap)),
        ("Dirty", 0),
        ("Writeback", 0),
        ("Mapped", 0),
        ("Shmem", kib(host.sharedram)),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("PageTables", 0),
        ("CommitLimit", total),
        ("Committed_AS", total - free.min(total)),
    ];
    let value = |(name, guess): &(&str, u64)| {
        let known = known.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        format!("{:<16}{:>8} kB\n", format!("{name}:"), known.unwrap_or(*guess))
    };
    rows.iter().map(value).collect()
}

fn stat(kernel: &Kernel, processors: usize) -> String {
    let up = kernel.boot.elapsed();
    let ticks = up.as_millis() / 10;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    let mut text = format!("cpu  0 0 0 {} 0 0 0 0 0 0\n", ticks * processors as u128);
    for cpu in 0..processors {
        text += &format!("cpu{cpu} 0 0 0 {ticks} 0 0 0 0 0 0\n");
    }
    let tasks = kernel.tasks.with(|tree| tree.task_count());
    let boot = now - up.as_secs().cast_signed();
    text + &format!("intr 0\nctxt 0\nbtime {boot}\nprocesses {tasks}\nprocs_running 1\nprocs_blocked 0\n")
}
