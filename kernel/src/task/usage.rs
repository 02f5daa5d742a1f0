//! What tasks have used, what the machine has, and how tasks are scheduled: `getrusage(2)`, `sysinfo(2)`, `sched(7)`.

use std::time::Duration;

use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::credentials::Capability;
use super::exit::host_thread_time;
use super::wait::{Rusage, rusage};
use super::{CurrentTask, Pid, Task};
use crate::syscalls::arguments::Flags;
use crate::user::UserPtr;

/// Processor time of the calling task: in guest code, in the kernel.
fn thread_time(task: &CurrentTask) -> (Duration, Duration) {
    (task.context.borrow().cpu_time(), host_thread_time())
}

/// Processor time of the calling process, as far as it is known without asking its other threads.
fn process_time(task: &CurrentTask) -> (Duration, Duration) {
    let (ended, own) = (task.group.time(), thread_time(task));
    (ended.0 + own.0, ended.1 + own.1)
}

fn children_time(task: &CurrentTask) -> (Duration, Duration) {
    task.kernel
        .tasks
        .with(|tree| tree.process(task.group.pid).map_or_else(Default::default, |p| p.children_time))
}

/// `getrusage(2)`.
pub fn getrusage(task: &CurrentTask, who: i32, usage: UserPtr<Rusage>) -> SysResult<()> {
    let times = match who {
        0 => process_time(task),
        -1 => children_time(task),
        1 => thread_time(task),
        _ => return Err(Errno::EINVAL),
    };
    let mut result = rusage(times);
    if let Some(memory) = task.memory().filter(|_| who != -1) {
        result.max_rss = (memory.space().usage().peak / 1024).cast_signed();
    }
    task.write_object(usage, &result)
}

fn ticks(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis() / 10).unwrap_or(i64::MAX)
}

/// `times(2)`.
pub fn times(task: &CurrentTask, buffer: UserPtr<[i64; 4]>) -> SysResult<i64> {
    if let Some(buffer) = buffer.non_null() {
        let (own, children) = (process_time(task), children_time(task));
        task.write_object(buffer, &[ticks(own.0), ticks(own.1), ticks(children.0), ticks(children.1)])?;
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Ok(now.tv_sec * 100 + now.tv_nsec / 10_000_000)
}

/// `struct sysinfo`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    shared: u64,
    buffers: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    pad: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    end: u32,
}

/// `sysinfo(2)`.
pub fn sysinfo(task: &CurrentTask, buffer: UserPtr<SysInfo>) -> SysResult<()> {
    let host = rustix::system::sysinfo();
    let unit = u64::from(host.mem_unit.max(1));
    let info = SysInfo {
        uptime: task.kernel.boot.elapsed().as_secs().cast_signed(),
        loads: host.loads,
        total: host.totalram * unit,
        free: host.freeram * unit,
        shared: host.sharedram * unit,
        buffers: host.bufferram * unit,
        total_swap: host.totalswap * unit,
        free_swap: host.freeswap * unit,
        processes: task.kernel.tasks.with(|tree| u16::try_from(tree.task_count()).unwrap_or(u16::MAX)),
        unit: 1,
        ..SysInfo::default()
    };
    task.write_object(buffer, &info)
}

/// The task that a scheduling call names; zero is the caller.
fn target(task: &CurrentTask, pid: Pid) -> SysResult<std::sync::Arc<Task>> {
    match pid {
        0 => Ok(std::sync::Arc::clone(&task.task)),
        pid if pid < 0 => Err(Errno::EINVAL),
        number => task.find_task(number),
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// `sched_getaffinity(2)`: returns the number of bytes that are valid.
pub fn sched_getaffinity(task: &CurrentTask, pid: Pid, size: usize, mask: u64) -> SysResult<usize> {
    target(task, pid)?;
    let count = processors();
    if !size.is_multiple_of(8) || size * 8 < count {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0u8; size.min(count.div_ceil(64) * 8)];
    (0..count).for_each(|cpu| bytes[cpu / 8] |= 1 << (cpu % 8));
    task.write_bytes(mask, &bytes)?;
    Ok(bytes.len())
}

/// `sched_setaffinity(2)`: accepted if it leaves a processor; the host places threads.
pub fn sched_setaffinity(task: &CurrentTask, pid: Pid, size: usize, mask: u64) -> SysResult<()> {
    target(task, pid)?;
    let mut bytes = vec![0u8; size.min(1024)];
    task.read_bytes(mask, &mut bytes)?;
    let any = (0..processors()).any(|cpu| bytes.get(cpu / 8).is_some_and(|byte| byte & 1 << (cpu % 8) != 0));
    if any { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `sched_getscheduler(2)`: everything is `SCHED_OTHER`.
pub fn sched_getscheduler(task: &CurrentTask, pid: Pid) -> SysResult<i32> {
    target(task, pid).map(|_| 0)
}

/// `sched_setscheduler(2)`: `SCHED_OTHER`, `BATCH` and `IDLE` are accepted and mean the same.
pub fn sched_setscheduler(
    task: &CurrentTask,
    pid: Pid,
    policy: i32,
    parameters: UserPtr<i32>,
) -> SysResult<()> {
    target(task, pid)?;
    let priority = task.read_object(parameters)?;
    match policy & !0x4000_0000 {
        0 | 3 | 5 if priority == 0 => Ok(()),
        0 | 3 | 5 => Err(Errno::EINVAL),
        1 | 2 if (1..100).contains(&priority) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_getparam(2)`.
pub fn sched_getparam(task: &CurrentTask, pid: Pid, parameters: UserPtr<i32>) -> SysResult<()> {
    target(task, pid)?;
    task.write_object(parameters, &0)
}

/// `sched_setparam(2)`.
pub fn sched_setparam(task: &CurrentTask, pid: Pid, parameters: UserPtr<i32>) -> SysResult<()> {
    sched_setscheduler(task, pid, 0, parameters)
}

/// `sched_get_priority_max(2)`.
pub fn sched_get_priority_max(_task: &CurrentTask, policy: i32) -> SysResult<i32> {
    match policy {
        0 | 3 | 5 | 6 => Ok(0),
        1 | 2 => Ok(99),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_get_priority_min(2)`.
pub fn sched_get_priority_min(_task: &CurrentTask, policy: i32) -> SysResult<i32> {
    match policy {
        0 | 3 | 5 | 6 => Ok(0),
        1 | 2 => Ok(1),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_rr_get_interval(2)`.
pub fn sched_rr_get_interval(
    task: &CurrentTask,
    pid: Pid,
    interval: UserPtr<abi::time::TimeSpec>,
) -> SysResult<()> {
    target(task, pid)?;
    task.write_object(interval, &abi::time::TimeSpec { sec: 0, nsec: 4_000_000 })
}

/// The tasks that `getpriority(2)` and `setpriority(2)` mean.
fn priority_targets(task: &CurrentTask, which: u32, who: i32) -> SysResult<Vec<std::sync::Arc<Task>>> {
    // Those that can be seen.
    let all = task.kernel.tasks.all().into_iter().filter(|other| task.number_of(other.tid()) != 0);
    let group_of =
        |pid: Pid| task.kernel.tasks.with(|tree| tree.process(pid).map(|process| process.process_group));
    let targets: Vec<_> = match which {
        0 => vec![target(task, who)?],
        1 => {
            let group = if who == 0 { group_of(task.group.pid) } else { Some(task.pid_of(who)?) };
            all.filter(|other| group_of(other.group.pid) == group).collect()
        }
        2 => {
            let own = task.credentials();
            let uid = if who == 0 { own.uid } else { own.uid_of(who.cast_unsigned())? };
            all.filter(|other| other.credentials().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if targets.is_empty() { Err(Errno::ESRCH) } else { Ok(targets) }
}

/// `getpriority(2)`: 20 minus the nice value, so that it is never negative.
pub fn getpriority(task: &CurrentTask, which: u32, who: i32) -> SysResult<i32> {
    let targets = priority_targets(task, which, who)?;
    let best = targets.iter().map(|task| task.nice.load(std::sync::atomic::Ordering::Relaxed)).min();
    Ok(20 - best.unwrap_or(0))
}

/// `setpriority(2)`: recorded, and inherited; the host schedules.
pub fn setpriority(task: &CurrentTask, which: u32, who: i32, nice: i32) -> SysResult<()> {
    let nice = nice.clamp(-20, 19);
    for target in priority_targets(task, which, who)? {
        let before = target.nice.load(std::sync::atomic::Ordering::Relaxed);
        if nice < before && !task.credentials().has(Capability::SYS_NICE) {
            return Err(Errno::EACCES);
        }
        target.nice.store(nice, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}

/// `getcpu(2)`.
pub fn getcpu(task: &CurrentTask, cpu: UserPtr<u32>, node: UserPtr<u32>, _cache: u64) -> SysResult<()> {
    if let Some(cpu) = cpu.non_null() {
        task.write_object(cpu, &(rustix::thread::sched_getcpu() as u32))?;
    }
    match node.non_null() {
        Some(node) => task.write_object(node, &0),
        None => Ok(()),
    }
}

/// `personality(2)`: Linux without peculiarities is all there is.
pub fn personality(_task: &CurrentTask, persona: u32) -> SysResult<u32> {
    const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
    if persona == u32::MAX || persona & !ADDR_NO_RANDOMIZE == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// Sets the host name (`sethostname(2)`) or the domain name.
fn set_name(task: &CurrentTask, name: u64, length: i32, domain: bool) -> SysResult<()> {
    let uts = std::sync::Arc::clone(&task.namespaces().uts);
    if !task.credentials().has_in(&uts.owner, Capability::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= 64).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0; length];
    task.read_bytes(name, &mut bytes)?;
    let set = |names: &mut crate::namespace::UtsNames| {
        if domain { names.domainname = bytes } else { names.hostname = bytes }
    };
    uts.update(set);
    Ok(())
}

/// `sethostname(2)`.
pub fn sethostname(task: &CurrentTask, name: u64, length: i32) -> SysResult<()> {
    set_name(task, name, length, false)
}

/// `setdomainname(2)`.
pub fn setdomainname(task: &CurrentTask, name: u64, length: i32) -> SysResult<()> {
    set_name(task, name, length, true)
}

/// `get_robust_list(2)`.
pub fn get_robust_list(
    task: &CurrentTask,
    pid: Pid,
    head: UserPtr<u64>,
    length: UserPtr<u64>,
) -> SysResult<()> {
    let target = target(task, pid)?;
    task.write_object(length, &24)?;
    task.write_object(head, &target.robust_list.load(std::sync::atomic::Ordering::Relaxed))
}

/// `membarrier(2)`: the host orders memory whenever a thread comes back from its kernel thread, which every other thread
/// of the process is made to do.
pub fn membarrier(task: &CurrentTask, command: i32, flags: Flags, _cpu: i32) -> SysResult<u64> {
    const PRIVATE_EXPEDITED: i32 = 8;
    const REGISTER: i32 = 16;
    if flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        0 => Ok((PRIVATE_EXPEDITED | REGISTER).cast_unsigned().into()),
        REGISTER => Ok(0),
        PRIVATE_EXPEDITED => {
            let others = task.kernel.tasks.tasks_of(task.group.pid);
            others.iter().filter(|other| other.tid() != task.tid()).for_each(|other| other.kick());
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
