//! The files of a process's directory in procfs.

use std::sync::Arc;

use abi::fs::split_device;
use abi::{Errno, SysResult};

use super::{more, network};
use crate::Kernel;
use crate::error::SyscallResult;
use crate::fs::file::Place;
use crate::fs::mount::{Mount, MountFlags};
use crate::fs::{File, PathRef};
use crate::mm::{Backing, MemoryMap, Protection, VmaFlags};
use crate::namespace::user::IdKind;
use crate::namespace::{AnyNamespace, PidNamespace, UserNamespace};
use crate::syscalls::Fd;
use crate::task::limits::{INFINITY, Resource};
use crate::task::{CurrentTask, Pid, Task};

/// Files.
pub const FILES: &[&str] = &[
    "auxv",
    "cgroup",
    "children",
    "cmdline",
    "comm",
    "coredump_filter",
    "cpuset",
    "environ",
    "gid_map",
    "io",
    "limits",
    "loginuid",
    "maps",
    "mem",
    "mountinfo",
    "mounts",
    "mountstats",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "personality",
    "projid_map",
    "sched",
    "schedstat",
    "sessionid",
    "setgroups",
    "smaps",
    "smaps_rollup",
    "stack",
    "stat",
    "statm",
    "status",
    "timerslack_ns",
    "uid_map",
    "wchan",
];
/// Symbolic links.
pub const LINKS: &[&str] = &["cwd", "exe", "root"];
/// Directories.
pub const DIRECTORIES: &[&str] = &["fd", "fdinfo", "net", "ns", "task"];
/// Kinds of namespaces.
pub const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"];

/// The permission bits of a file.
pub fn mode(name: &str) -> u32 {
    match name {
        "auxv" | "environ" | "io" | "personality" | "stack" => 0o400,
        "mem" => 0o600,
        "comm" | "gid_map" | "oom_adj" | "oom_score_adj" | "setgroups" | "uid_map" => 0o644,
        "timerslack_ns" => 0o666,
        _ => 0o444,
    }
}

fn task(kernel: &Kernel, pid: Pid) -> SysResult<Arc<Task>> {
    // A process's first task may have ended before the others.
    kernel.tasks.get(pid).or_else(|| kernel.tasks.tasks_of(pid).into_iter().next()).ok_or(Errno::ESRCH)
}

/// `EACCES` unless the reader may look into the task, as `ptrace(2)` decides it.
fn check_access(task: &Task, reader: Option<&Task>) -> SysResult<()> {
    let Some(reader) = reader else { return Ok(()) };
    if crate::task::inspect::may_inspect(reader, task) { Ok(()) } else { Err(Errno::EACCES) }
}

/// The text of a file.
pub fn text(
    kernel: &Kernel,
    pids: &PidNamespace,
    pid: Pid,
    thread: bool,
    name: &str,
    reader: Option<&Task>,
) -> SysResult<Vec<u8>> {
    let zombie = kernel.tasks.tasks_of(pid).is_empty() && kernel.tasks.get(pid).is_none();
    if zombie {
        return match name {
            "stat" => zombie_stat(kernel, pids, pid),
            "status" => {
                let pid = pids.number(pid);
                Ok(format!("Name:\tdefunct\nState:\tZ (zombie)\nTgid:\t{pid}\nPid:\t{pid}\n").into_bytes())
            }
            "comm" | "cmdline" => Ok(Vec::new()),
            _ => Err(Errno::ESRCH),
        };
    }
    let task = task(kernel, pid)?;
    if matches!(name, "auxv" | "environ" | "maps" | "smaps" | "smaps_rollup" | "io" | "personality") {
        check_access(&task, reader)?;
    }
    let memory = task.memory();
    let guest = |range: std::ops::Range<u64>| {
        let Some(memory) = &memory else { return Vec::new() };
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0).min(8 << 20);
        let mut bytes = vec![0; length];
        let read = memory.space().read(range.start, &mut bytes);
        bytes.truncate(read);
        bytes
    };
    let layout = memory.as_ref().map(|memory| memory.layout.lock().clone()).unwrap_or_default();
    Ok(match name {
        "auxv" => layout.auxv,
        "cmdline" => guest(layout.arguments),
        "environ" => guest(layout.environment),
        "comm" => format!("{}\n", task.comm()).into_bytes(),
        "cgroup" => b"0::/\n".to_vec(),
        "uid_map" | "gid_map" => {
            let kind = if name == "uid_map" { IdKind::User } else { IdKind::Group };
            let viewer = reader.map_or_else(UserNamespace::root, viewer);
            task.credentials().user_namespace.map_text(kind, &viewer).into_bytes()
        }
        "setgroups" => task.credentials().user_namespace.setgroups_text().as_bytes().to_vec(),
        "loginuid" | "sessionid" => b"4294967295".to_vec(),
        "personality" => {
            let value = task.personality.load(std::sync::atomic::Ordering::Relaxed);
            format!("{value:08x}\n").into_bytes()
        }
        "wchan" => b"0".to_vec(),
        "oom_score" | "oom_adj" => b"0\n".to_vec(),
        "oom_score_adj" => {
            let value = task.group.oom_score_adj.load(std::sync::atomic::Ordering::Relaxed);
            format!("{value}\n").into_bytes()
        }
        "io" => b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n".to_vec(),
        "limits" => limits(&task).into_bytes(),
        "maps" => maps(&task, reader).concat(),
        // Addresses of a kernel are nobody's business.
        "stack" => return Err(Errno::EPERM),
        "smaps" => memory.as_ref().map_or_else(Vec::new, |memory| super::memory::smaps(memory, &maps(&task, reader))),
        "smaps_rollup" => memory.as_ref().map_or_else(Vec::new, |memory| super::memory::rollup(memory)),
        "mountinfo" | "mounts" => mounts(&task, name == "mountinfo"),
        "stat" => stat(kernel, pids, &task, thread).into_bytes(),
        "statm" => {
            let usage = memory.as_ref().map(|memory| memory.space().usage()).unwrap_or_default();
            let size = memory.as_ref().map_or(0, |memory| memory.size().0);
            let pages = |bytes: u64| bytes / 4096;
            let code = pages(layout.code.end - layout.code.start);
            let data = memory.as_ref().map_or(0, |memory| memory.data_size() + memory.stack_size());
            let (size, data) = (pages(size), pages(data));
            format!("{size} {} {} {code} 0 {data} 0\n", pages(usage.resident), pages(usage.shared)).into_bytes()
        }
        "status" => status(kernel, pids, &task, thread, reader).into_bytes(),
        _ => {
            let text = more::text(&task, pids, name).or_else(|| network::text(kernel, name));
            text.ok_or(Errno::ENOENT)?.into_bytes()
        }
    })
}

/// The user namespace of a reader.
fn viewer(reader: &Task) -> Arc<UserNamespace> {
    Arc::clone(&reader.credentials().user_namespace)
}

/// The memory behind `mem`, for whoever may look into the process.
pub fn open_memory(kernel: &Kernel, pid: Pid, reader: Option<&CurrentTask>) -> SysResult<Arc<MemoryMap>> {
    let task = task(kernel, pid)?;
    check_access(&task, reader.map(|reader| &**reader))?;
    task.memory().ok_or(Errno::EACCES)
}

/// Writes a setting.
pub fn write(
    kernel: &Kernel,
    pid: Pid,
    name: &str,
    bytes: &[u8],
    writer: Option<&CurrentTask>,
) -> SysResult<()> {
    let task = task(kernel, pid)?;
    let writer = || writer.map(|writer| writer.credentials()).ok_or(Errno::EPERM);
    match name {
        "uid_map" | "gid_map" => {
            let kind = if name == "uid_map" { IdKind::User } else { IdKind::Group };
            task.credentials().user_namespace.write_map(kind, &*writer()?, bytes)
        }
        "setgroups" => task.credentials().user_namespace.write_setgroups(&*writer()?, bytes),
        "comm" => {
            let name = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            task.set_comm(name);
            Ok(())
        }
        "oom_score_adj" => {
            let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
            let value = text.trim().parse::<i32>().ok().filter(|value| (-1000..=1000).contains(value));
            task.group.oom_score_adj.store(value.ok_or(Errno::EINVAL)?, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
        "timerslack_ns" => {
            let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
            let value = text.trim().parse::<u64>().map_err(|_| Errno::EINVAL)?;
            let value = if value == 0 { 50_000 } else { value };
            task.timer_slack.store(value, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
        _ => Err(Errno::EPERM),
    }
}

/// The letter of a task's state.
fn state(task: &Task) -> char {
    if task.ptrace.is_stopped() {
        't'
    } else if task.group.signals.is_stopped() {
        'T'
    } else if task.is_running() {
        'R'
    } else {
        'S'
    }
}

pub fn relations(kernel: &Kernel, pids: &PidNamespace, pid: Pid) -> (Pid, Pid, Pid, usize) {
    let (parent, group, session, threads) = kernel.tasks.with(|tree| {
        tree.process(pid).map_or((0, 0, 0, 0), |p| (p.parent, p.process_group, p.session, p.tasks.len()))
    });
    (pids.number(parent), pids.number(group), pids.number(session), threads)
}

fn zombie_stat(kernel: &Kernel, pids: &PidNamespace, pid: Pid) -> SysResult<Vec<u8>> {
    kernel.tasks.group(pid).ok_or(Errno::ESRCH)?;
    let (parent, group, session, _) = relations(kernel, pids, pid);
    let pid = pids.number(pid);
    let zeros = " 0".repeat(44);
    Ok(format!("{pid} (defunct) Z {parent} {group} {session} 0 -1{zeros}\n").into_bytes())
}

fn stat(kernel: &Kernel, pids: &PidNamespace, task: &Task, thread: bool) -> String {
    let (parent, group, session, threads) = relations(kernel, pids, task.group.pid);
    let memory = task.memory();
    let usage = memory.as_ref().map(|memory| memory.space().usage()).unwrap_or_default();
    let size = memory.as_ref().map_or(0, |memory| memory.size().0);
    let layout = memory.as_ref().map(|memory| memory.layout.lock().clone()).unwrap_or_default();
    let (user, system) =
        if thread { task.cpu_time() } else { task.group.total_time(&kernel.tasks.tasks_of(task.group.pid)) };
    let (children_user, children_system) = kernel
        .tasks
        .with(|tree| tree.process(task.group.pid).map_or_else(Default::default, |p| p.children_time));
    let ticks = |time: std::time::Duration| time.as_millis() / 10;
    let start = ticks(task.started.saturating_duration_since(kernel.boot));
    let nice = task.scheduling.nice.load(std::sync::atomic::Ordering::Relaxed);
    let id = pids.number(if thread { task.tid() } else { task.group.pid });
    let terminal = task.group.terminal.lock().clone();
    let device = terminal.as_ref().map_or(0, |terminal| terminal.device());
    let foreground =
        terminal.as_ref().map_or(-1, |terminal| terminal.foreground().map_or(-1, |group| pids.number(group)));
    format!(
        "{id} ({}) {} {parent} {group} {session} {device} {foreground} 0 0 0 0 0 {} {} {} {} {} {nice} {threads} 0 {start} {size} {} {} {} {} {} \
         0 0 {} {} {} {} 0 0 0 17 0 0 0 0 0 0 0 0 {} {} {} {} {} 0\n",
        task.comm(),
        state(task),
        ticks(user),
        ticks(system),
        ticks(children_user),
        ticks(children_system),
        20 + nice,
        usage.resident / 4096,
        task.group.limit(Resource::ResidentSet),
        layout.code.start,
        layout.code.end,
        layout.stack_start,
        task.signals.pending().0,
        task.signals.mask().0,
        task.group.signals.dispositions().0.0,
        task.group.signals.dispositions().1.0,
        layout.brk_start,
        layout.arguments.start,
        layout.arguments.end,
        layout.environment.start,
        layout.environment.end,
    )
}

fn status(kernel: &Kernel, pids: &PidNamespace, task: &Task, thread: bool, reader: Option<&Task>) -> String {
    let viewer = reader.map_or_else(UserNamespace::root, viewer);
    let (uid, gid) = (|id| viewer.shown(IdKind::User, id), |id| viewer.shown(IdKind::Group, id));
    let (parent, ..) = relations(kernel, pids, task.group.pid);
    let threads = kernel.tasks.tasks_of(task.group.pid).len();
    let memory = task.memory();
    let usage = memory.as_ref().map(|memory| memory.space().usage()).unwrap_or_default();
    let (size, peak) = memory.as_ref().map_or((0, 0), |memory| memory.size());
    let c = task.credentials();
    let (ignored, caught) = task.group.signals.dispositions();
    let groups: String = c.groups.iter().map(|group| format!("{} ", gid(*group))).collect();
    let state = match state(task) {
        't' => "t (tracing stop)",
        'T' => "T (stopped)",
        'R' => "R (running)",
        _ => "S (sleeping)",
    };
    let kib = |bytes: u64| bytes / 1024;
    let id = if thread { task.tid() } else { task.group.pid };
    // From the reader's namespace down to the task's own.
    let numbers = |pid: Pid| {
        let mut chain: Vec<_> =
            task.group.pid_namespace.chain().map(|at| (at.level, at.number(pid))).collect();
        chain.retain(|(level, _)| *level >= pids.level);
        chain.iter().rev().map(|(_, number)| number.to_string()).collect::<Vec<_>>().join("\t")
    };
    let (group, own) = (numbers(task.group.pid), numbers(id));
    let id = pids.number(id);
    let processors = task.scheduling.processors();
    let tracer = task.ptrace.tracer().map_or(0, |tracer| pids.number(tracer.tid));
    format!(
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{}\nNgid:\t0\nPid:\t{id}\nPPid:\t{parent}\nTracerPid:\t{tracer}\n\
         Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t{groups}\nNStgid:\t{group}\nNSpid:\t{own}\n\
         VmPeak:\t{:>8} kB\nVmSize:\t{:>8} kB\nVmLck:\t{:>8} kB\nVmHWM:\t{:>8} kB\nVmRSS:\t{:>8} kB\nThreads:\t{threads}\n\
         SigQ:\t0/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n\
         CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\n\
         Seccomp:\t{}\nSeccomp_filters:\t{}\nCpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\n\
         Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        task.comm(),
        task.fs_state().umask,
        pids.number(task.group.pid),
        uid(c.uid),
        uid(c.effective_uid),
        uid(c.saved_uid),
        uid(c.fs_uid),
        gid(c.gid),
        gid(c.effective_gid),
        gid(c.saved_gid),
        gid(c.fs_gid),
        task.files().capacity(),
        kib(peak),
        kib(size),
        kib(memory.as_ref().map_or(0, |memory| memory.locked())),
        kib(memory.as_ref().map_or(0, |memory| memory.space().peak())),
        kib(usage.resident),
        task.group.limit(Resource::PendingSignals),
        task.signals.pending().0,
        task.group.signals.pending().0,
        task.signals.mask().0,
        ignored.0,
        caught.0,
        c.inheritable,
        c.permitted,
        c.effective,
        c.bounding,
        c.ambient,
        u8::from(c.no_new_privileges),
        task.seccomp.mode() as u8,
        task.seccomp.count(),
        mask_text(&processors),
        list_text(&processors),
    )
}

/// A mask of processors in groups of 32, the highest first.
fn mask_text(mask: &[u8]) -> String {
    let words: Vec<u32> = mask
        .chunks(4)
        .map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
        .collect();
    let used = words.iter().rposition(|word| *word != 0).unwrap_or(0);
    let rest: String = words[..used].iter().rev().map(|word| format!(",{word:08x}")).collect();
    format!("{:x}{rest}", words[used])
}

/// The same as ranges: `0-3,6`.
fn list_text(mask: &[u8]) -> String {
    let has = |cpu: usize| mask.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 != 0);
    let mut ranges = Vec::new();
    let mut start = None;
    for cpu in 0..=mask.len() * 8 {
        match (start, has(cpu)) {
            (None, true) => start = Some(cpu),
            (Some(first), false) => {
                ranges.push(if first + 1 == cpu {
                    first.to_string()
                } else {
                    format!("{first}-{}", cpu - 1)
                });
                start = None;
            }
            _ => {}
        }
    }
    ranges.join(",")
}

fn limits(task: &Task) -> String {
    const ROWS: [(Resource, &str, &str); 16] = [
        (Resource::Cpu, "Max cpu time", "seconds"),
        (Resource::FileSize, "Max file size", "bytes"),
        (Resource::Data, "Max data size", "bytes"),
        (Resource::Stack, "Max stack size", "bytes"),
        (Resource::Core, "Max core file size", "bytes"),
        (Resource::ResidentSet, "Max resident set", "bytes"),
        (Resource::Processes, "Max processes", "processes"),
        (Resource::OpenFiles, "Max open files", "files"),
        (Resource::LockedMemory, "Max locked memory", "bytes"),
        (Resource::AddressSpace, "Max address space", "bytes"),
        (Resource::Locks, "Max file locks", "locks"),
        (Resource::PendingSignals, "Max pending signals", "signals"),
        (Resource::MessageQueue, "Max msgqueue size", "bytes"),
        (Resource::Nice, "Max nice priority", ""),
        (Resource::RealtimePriority, "Max realtime priority", ""),
        (Resource::RealtimeTime, "Max realtime timeout", "us"),
    ];
    let limits = task.group.limits.lock().clone();
    let value = |value: u64| if value == INFINITY { "unlimited".to_owned() } else { value.to_string() };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (resource, name, unit) in ROWS {
        let limit = limits.get(resource);
        text += &format!("{name:<25} {:<20} {:<20} {unit:<10}\n", value(limit.current), value(limit.maximum));
    }
    text
}

/// The lines of `maps`, one for each mapping.
fn maps(task: &Task, reader: Option<&Task>) -> Vec<Vec<u8>> {
    let Some(memory) = task.memory() else { return Vec::new() };
    let root = reader.map_or_else(|| task.fs_state(), |reader| reader.fs_state()).root.clone();
    let mut lines = Vec::new();
    let mut line = |start: u64, end: u64, flags: &str, offset: u64, device: u64, inode: u64, name: &[u8]| {
        let (major, minor) = split_device(device);
        let mut entry =
            format!("{start:08x}-{end:08x} {flags} {offset:08x} {major:02x}:{minor:02x} {inode} ")
                .into_bytes();
        if !name.is_empty() {
            entry.resize(entry.len().max(73), b' ');
            entry.extend_from_slice(name);
        }
        entry.push(b'\n');
        lines.push(entry);
    };
    for mapping in memory.mappings() {
        let vma = &mapping.vma;
        let bit = |flag, letter| if vma.protection.contains(flag) { letter } else { '-' };
        let shared = if vma.flags.contains(VmaFlags::SHARED) { 's' } else { 'p' };
        let flags: String =
            [bit(Protection::READ, 'r'), bit(Protection::WRITE, 'w'), bit(Protection::EXEC, 'x'), shared]
                .iter()
                .collect();
        let name = match (&vma.backing, &mapping.file) {
            (_, Some(file)) => file_name(file, &root),
            (Backing::Shared { .. }, None) => b"/dev/zero (deleted)".to_vec(),
            _ => vma.name.as_bytes().to_vec(),
        };
        line(vma.start, vma.end, &flags, mapping.offset, mapping.device, mapping.inode, &name);
    }
    if let Some(vdso) = task.kernel.platform.vdso() {
        if !vdso.data.is_empty() {
            line(vdso.data.start, vdso.data.end, "r--p", 0, 0, 0, b"[vvar]");
        }
        line(vdso.image.start, vdso.image.end, "r-xp", 0, 0, 0, b"[vdso]");
    }
    lines
}

/// What an open file is called, as seen from `root`.
fn file_name(file: &File, root: &PathRef) -> Vec<u8> {
    match &file.place {
        Place::Path(place) => place.display(root).0,
        Place::Anonymous { name, .. } => name.clone().into_bytes(),
    }
}

/// A path in a line of words: blanks and backslashes as octal numbers.
fn escape(path: &[u8]) -> Vec<u8> {
    let escaped = path.iter().flat_map(|byte| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    });
    escaped.collect()
}

fn mounts(task: &Task, with_ids: bool) -> Vec<u8> {
    let state = task.fs_state();
    let mut text = Vec::new();
    for mount in state.namespace.mounts() {
        let place = PathRef { mount: Arc::clone(&mount), dentry: Arc::clone(&mount.root) };
        let (path, reachable) = place.display(&state.root);
        if !reachable {
            continue;
        }
        let path = String::from_utf8_lossy(&escape(&path)).into_owned();
        let options = options(&mount);
        let kind = mount.file_system.name();
        let special = match mount.file_system.options() {
            special if special.is_empty() => special,
            special => format!(",{special}"),
        };
        let source = String::from_utf8_lossy(&escape(mount.source.as_bytes())).into_owned();
        let line = if with_ids {
            let parent = mount.parent().map_or(1, |parent| parent.mount.id);
            let device = mount.file_system.device();
            let write = if mount.flags().contains(MountFlags::READ_ONLY) { "ro" } else { "rw" };
            let (major, minor) = split_device(device);
            format!(
                "{} {parent} {major}:{minor} {} {path} {options} - {kind} {source} {write}{special}\n",
                mount.id,
                String::from_utf8_lossy(&escape(&mount.root.path())),
            )
        } else {
            format!("{source} {path} {kind} {options}{special} 0 0\n")
        };
        text.extend_from_slice(line.as_bytes());
    }
    text
}

fn options(mount: &Mount) -> String {
    let flags = mount.flags();
    let mut options = vec![if flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" }];
    let names = [
        (MountFlags::NO_SUID, "nosuid"),
        (MountFlags::NO_DEV, "nodev"),
        (MountFlags::NO_EXEC, "noexec"),
        (MountFlags::NO_ATIME, "noatime"),
        (MountFlags::NO_DIR_ATIME, "nodiratime"),
        (MountFlags::RELATIME, "relatime"),
        (MountFlags::NO_SYMLINKS, "nosymfollow"),
    ];
    options.extend(names.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name));
    options.join(",")
}

fn file(kernel: &Kernel, pid: Pid, fd: i32, reader: Option<&CurrentTask>) -> SysResult<Arc<File>> {
    let task = task(kernel, pid)?;
    check_access(&task, reader.map(|reader| &**reader))?;
    task.file(Fd(fd)).map_err(|_| Errno::ENOENT)
}

fn root_of(reader: Option<&Task>, task: &Task) -> PathRef {
    reader.map_or_else(|| task.fs_state(), |reader| reader.fs_state()).root.clone()
}

/// The permission bits of `fd/N`: what the file was opened for.
pub fn descriptor_mode(kernel: &Kernel, pid: Pid, fd: i32) -> SysResult<u32> {
    let file = task(kernel, pid)?.file(Fd(fd)).map_err(|_| Errno::ENOENT)?;
    let (readable, writable) = (file.flags().readable(), file.flags().writable());
    Ok(if readable { 0o500 } else { 0 } | if writable { 0o300 } else { 0 })
}

/// What `fd/N` says that it leads to.
pub fn descriptor_name(
    kernel: &Kernel,
    pid: Pid,
    fd: i32,
    reader: Option<&CurrentTask>,
) -> SysResult<Vec<u8>> {
    let file = file(kernel, pid, fd, reader)?;
    Ok(file_name(&file, &root_of(reader.map(|reader| &**reader), &*task(kernel, pid)?)))
}

/// Where `fd/N` leads.
pub fn descriptor_place(kernel: &Kernel, pid: Pid, fd: i32, reader: &CurrentTask) -> SyscallResult<PathRef> {
    place_of(&*file(kernel, pid, fd, Some(reader))?, reader)
}

/// Where an open file lies.
fn place_of(file: &File, reader: &CurrentTask) -> SyscallResult<PathRef> {
    match &file.place {
        Place::Path(place) => Ok(place.clone()),
        Place::Anonymous { .. } => {
            // A file without a place gets one for the occasion: opening it opens the same object again.
            let inode = file.inode().ok_or(Errno::ENXIO)?;
            let root = &reader.fs_state().root;
            let name = file_name(file, root);
            let dentry = crate::fs::dentry::Dentry::detached(&name, &root.dentry, Arc::clone(inode));
            Ok(PathRef { mount: Arc::clone(&root.mount), dentry })
        }
    }
}

/// What `fdinfo/N` says.
pub fn descriptor_info(kernel: &Kernel, pid: Pid, fd: i32) -> SysResult<Vec<u8>> {
    let task = task(kernel, pid)?;
    let file = task.file(Fd(fd)).map_err(|_| Errno::ENOENT)?;
    let position = file.with_offset(|offset| *offset);
    let mut flags = file.flags();
    if task.files().close_on_exec(Fd(fd)).unwrap_or(false) {
        flags |= abi::fs::OpenFlags::CLOEXEC;
    }
    let mount = file.path().map_or(0, |place| place.mount.id);
    let more = file.ops().describe();
    Ok(format!("pos:\t{position}\nflags:\t0{:o}\nmnt_id:\t{mount}\n{more}", flags.bits()).into_bytes())
}

/// Where `exe`, `cwd` or `root` leads.
pub fn link_place(kernel: &Kernel, pid: Pid, name: &str, reader: &CurrentTask) -> SyscallResult<PathRef> {
    let task = task(kernel, pid)?;
    check_access(&task, Some(reader))?;
    let state = task.fs_state();
    match name {
        "cwd" => Ok(state.cwd.clone()),
        "root" => Ok(state.root.clone()),
        _ => {
            let memory = task.memory().ok_or(Errno::ENOENT)?;
            let executable = memory.layout.lock().executable.clone().ok_or(Errno::ENOENT)?;
            place_of(&executable, reader)
        }
    }
}

/// What `exe`, `cwd` or `root` says that it leads to.
pub fn link_name(kernel: &Kernel, pid: Pid, name: &str, reader: Option<&CurrentTask>) -> SysResult<Vec<u8>> {
    let reader = reader.ok_or(Errno::ENOENT)?;
    if name == "exe" {
        let task = task(kernel, pid)?;
        check_access(&task, Some(reader))?;
        let memory = task.memory().ok_or(Errno::ENOENT)?;
        let executable = memory.layout.lock().executable.clone().ok_or(Errno::ENOENT)?;
        return Ok(file_name(&executable, &reader.fs_state().root));
    }
    let place = link_place(kernel, pid, name, reader).map_err(crate::error::SysError::errno)?;
    Ok(place.display(&reader.fs_state().root).0)
}

/// The namespace that a link in `ns` stands for.
pub fn namespace(
    kernel: &Kernel,
    pid: Pid,
    name: &str,
    reader: Option<&CurrentTask>,
) -> SysResult<AnyNamespace> {
    let task = task(kernel, pid)?;
    check_access(&task, reader.map(|reader| &**reader))?;
    AnyNamespace::of_task(&task, name).ok_or(Errno::ENOENT)
}

/// A place for the occasion at which a namespace can be opened and bound.
pub fn namespace_place(reader: &CurrentTask, namespace: AnyNamespace) -> PathRef {
    let root = &reader.fs_state().root;
    let name = namespace.name();
    let dentry = crate::fs::dentry::Dentry::detached(name.as_bytes(), &root.dentry, namespace.inode());
    PathRef { mount: Arc::clone(&root.mount), dentry }
}
