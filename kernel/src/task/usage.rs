//! What tasks have used, what the machine has, and how tasks are scheduled: `getrusage(2)`, `sysinfo(2)`, `sched(7)`.

use std::time::Duration;

use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::credentials::Capability;
use super::exit::host_thread_time;
use super::table::Process;
use super::wait::{Rusage, rusage};
use super::{CurrentTask, Pid};
use crate::syscalls::arguments::Flags;
use crate::user::UserPtr;

/// Processor time of the calling task: in guest code, in the kernel.
pub(crate) fn thread_time(task: &CurrentTask) -> (Duration, Duration) {
    (task.user_time_before() + task.context.borrow().cpu_time(), task.without_others(host_thread_time()))
}

/// Processor time of the calling process.
pub(crate) fn process_time(task: &CurrentTask) -> (Duration, Duration) {
    // What the caller has used is then known to the last.
    thread_time(task);
    task.kernel.process_time(&task.group)
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
    let peak = match who {
        -1 => {
            let of = |own: &Process| own.children_peak.clone();
            task.kernel.tasks.with(|tree| tree.process(task.group.pid).map(of).unwrap_or_default()).bytes()
        }
        _ => task.context.borrow_mut().peak(),
    };
    task.write_object(usage, &rusage(times, peak))
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

/// `personality(2)`: recorded and inherited; of what it can say, only the machine's name is followed.
pub fn personality(task: &CurrentTask, persona: u32) -> SysResult<u32> {
    use std::sync::atomic::Ordering;
    const QUERY: u32 = u32::MAX;
    Ok(match persona {
        QUERY => task.personality.load(Ordering::Relaxed),
        persona => task.personality.swap(persona, Ordering::Relaxed),
    })
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
    let target = match pid {
        0 => std::sync::Arc::clone(&task.task),
        pid => task.find_task(pid)?,
    };
    if !super::inspect::may_inspect(task, &target) {
        return Err(Errno::EPERM);
    }
    task.write_object(length, &24)?;
    task.write_object(head, &target.signals.own().robust_list())
}

/// `membarrier(2)`.
pub fn membarrier(task: &CurrentTask, command: i32, flags: Flags, _cpu: i32) -> SysResult<u32> {
    use std::sync::atomic::Ordering;
    const GLOBAL: u32 = 1;
    const GLOBAL_EXPEDITED: u32 = 2;
    const REGISTER_GLOBAL_EXPEDITED: u32 = 4;
    const PRIVATE_EXPEDITED: u32 = 8;
    const REGISTER_PRIVATE_EXPEDITED: u32 = 16;
    const PRIVATE_SYNC_CORE: u32 = 32;
    const REGISTER_PRIVATE_SYNC_CORE: u32 = 64;
    const GET_REGISTRATIONS: u32 = 512;
    let registrations = REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | REGISTER_PRIVATE_SYNC_CORE;
    let barriers = GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED | PRIVATE_SYNC_CORE;
    if flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    let memory = task.mm()?;
    let registered = memory.barriers.load(Ordering::SeqCst);
    match command.cast_unsigned() {
        0 => Ok(registrations | barriers | GET_REGISTRATIONS),
        GET_REGISTRATIONS => Ok(registered),
        command if command & registrations == command && command.is_power_of_two() => {
            memory.barriers.fetch_or(command, Ordering::SeqCst);
            Ok(0)
        }
        PRIVATE_EXPEDITED if registered & REGISTER_PRIVATE_EXPEDITED == 0 => Err(Errno::EPERM),
        PRIVATE_SYNC_CORE if registered & REGISTER_PRIVATE_SYNC_CORE == 0 => Err(Errno::EPERM),
        command if command & barriers == command && command.is_power_of_two() => {
            task.kernel.platform.memory_barrier();
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
