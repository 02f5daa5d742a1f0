//! How tasks are scheduled, `sched(7)`: policies, nice values, processors, input and output. All of it is remembered,
//! inherited and shown; the host schedules.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::credentials::Capability;
use super::limits::Resource;
use super::{CurrentTask, Pid, Task};
use crate::syscalls::arguments::Flags;
use crate::user::UserPtr;

const OTHER: u32 = 0;
const FIFO: u32 = 1;
const ROUND_ROBIN: u32 = 2;
const BATCH: u32 = 3;
const IDLE: u32 = 5;
const DEADLINE: u32 = 6;
const RESET_ON_FORK: u32 = 0x4000_0000;
/// What a task that is not told otherwise may run for at a time.
const SLICE: u64 = 1_400_000;

/// How a task wants to be scheduled.
pub struct Scheduling {
    /// The nice value, -20..=19.
    pub nice: AtomicI32,
    policy: Mutex<Policy>,
    /// The processors it may use, a bit each; `None` for all.
    affinity: Mutex<Option<Vec<u8>>>,
    /// `ioprio_set(2)`; zero for what the nice value says.
    io_priority: AtomicI32,
}

#[derive(Clone, Copy, Default)]
struct Policy {
    number: u32,
    priority: u32,
    reset_on_fork: bool,
}

impl Default for Scheduling {
    fn default() -> Scheduling {
        Scheduling {
            nice: AtomicI32::new(0),
            policy: Mutex::default(),
            affinity: Mutex::default(),
            io_priority: AtomicI32::new(0),
        }
    }
}

impl Scheduling {
    /// The usual one, but for the nice value, -20..=19.
    pub fn with_nice(nice: i32) -> Scheduling {
        Scheduling { nice: AtomicI32::new(nice), ..Scheduling::default() }
    }

    /// That of a new task.
    pub fn inherit(&self) -> Scheduling {
        let mut policy = *self.policy.lock();
        let mut nice = self.nice.load(Ordering::Relaxed);
        if policy.reset_on_fork {
            if is_realtime(policy.number) {
                policy = Policy::default();
            }
            nice = nice.max(0);
            policy.reset_on_fork = false;
        }
        Scheduling {
            nice: AtomicI32::new(nice),
            policy: Mutex::new(policy),
            affinity: Mutex::new(self.affinity.lock().clone()),
            io_priority: AtomicI32::new(self.io_priority.load(Ordering::Relaxed)),
        }
    }

    /// The processors that the task may use, a bit each, as many bytes as whole words need.
    pub fn processors(&self) -> Vec<u8> {
        self.affinity.lock().clone().unwrap_or_else(all_processors)
    }

    fn io_priority(&self) -> i32 {
        const CLASS_BEST_EFFORT: i32 = 2;
        match self.io_priority.load(Ordering::Relaxed) {
            0 => (CLASS_BEST_EFFORT << 13) | ((self.nice.load(Ordering::Relaxed) + 20) / 5),
            set => set,
        }
    }
}

fn is_realtime(policy: u32) -> bool {
    matches!(policy, FIFO | ROUND_ROBIN)
}

/// How many processors the host gives to the sandbox.
pub fn processor_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn all_processors() -> Vec<u8> {
    let count = processor_count();
    let mut bytes = vec![0u8; count.div_ceil(64) * 8];
    (0..count).for_each(|cpu| bytes[cpu / 8] |= 1 << (cpu % 8));
    bytes
}

/// The task that a scheduling call names; zero is the caller.
fn target(task: &CurrentTask, pid: Pid) -> SysResult<Arc<Task>> {
    match pid {
        0 => Ok(Arc::clone(&task.task)),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => task.find_task(pid),
    }
}

/// `EPERM` unless the task may change how `other` is scheduled.
fn check_change(task: &CurrentTask, other: &Task) -> SysResult<()> {
    let (own, theirs) = (task.credentials(), other.credentials());
    let same = own.effective_uid == theirs.effective_uid || own.effective_uid == theirs.uid;
    if same || own.has(Capability::SYS_NICE) { Ok(()) } else { Err(Errno::EPERM) }
}

/// `sched_getaffinity(2)`: returns the number of bytes that are valid.
pub fn sched_getaffinity(task: &CurrentTask, pid: Pid, size: usize, mask: u64) -> SysResult<usize> {
    if !size.is_multiple_of(8) || size < processor_count().div_ceil(8) {
        return Err(Errno::EINVAL);
    }
    let target = if pid < 0 { Err(Errno::ESRCH) } else { target(task, pid) }?;
    let mut bytes = target.scheduling.processors();
    bytes.truncate(size);
    task.write_bytes(mask, &bytes)?;
    Ok(bytes.len())
}

/// `sched_setaffinity(2)`: `EINVAL` if it leaves no processor. The host places threads all the same.
pub fn sched_setaffinity(task: &CurrentTask, pid: Pid, size: usize, mask: u64) -> SysResult<()> {
    let mut bytes = all_processors();
    let mut wanted = vec![0u8; size.min(bytes.len())];
    task.read_bytes(mask, &mut wanted)?;
    let target = if pid < 0 { Err(Errno::ESRCH) } else { target(task, pid) }?;
    check_change(task, &target)?;
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte &= wanted.get(at).copied().unwrap_or(0));
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(Errno::EINVAL);
    }
    *target.scheduling.affinity.lock() = Some(bytes);
    Ok(())
}

/// What a call wants a task's scheduling to be.
struct Wanted {
    policy: u32,
    priority: u32,
    reset_on_fork: bool,
    nice: Option<i32>,
}

/// Changes policy, priority and nice value, with the checks of `sched_setscheduler(2)` in their order.
fn change(task: &CurrentTask, target: &Task, wanted: &Wanted) -> SysResult<()> {
    let realtime = is_realtime(wanted.policy);
    if !matches!(wanted.policy, OTHER | FIFO | ROUND_ROBIN | BATCH | IDLE) {
        return Err(Errno::EINVAL);
    }
    if wanted.priority > 99 || realtime != (wanted.priority != 0) {
        return Err(Errno::EINVAL);
    }
    let scheduling = &target.scheduling;
    let old = *scheduling.policy.lock();
    if !task.credentials().has(Capability::SYS_NICE) {
        let limit = target.group.limit(Resource::RealtimePriority);
        if realtime && ((limit == 0 && old.number != wanted.policy) || u64::from(wanted.priority) > limit) {
            return Err(Errno::EPERM);
        }
        if wanted.nice.is_some_and(|nice| !may_be_nice(target, nice))
            || (old.reset_on_fork && !wanted.reset_on_fork)
        {
            return Err(Errno::EPERM);
        }
        check_change(task, target)?;
    }
    *scheduling.policy.lock() =
        Policy { number: wanted.policy, priority: wanted.priority, reset_on_fork: wanted.reset_on_fork };
    if let Some(nice) = wanted.nice.filter(|_| !realtime) {
        scheduling.nice.store(nice, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether a task without privilege may be given the nice value.
fn may_be_nice(target: &Task, nice: i32) -> bool {
    let floor = 20 - i64::try_from(target.group.limit(Resource::Nice)).unwrap_or(i64::MAX).min(40);
    nice >= target.scheduling.nice.load(Ordering::Relaxed) || i64::from(nice) >= floor
}

/// `sched_getscheduler(2)`.
pub fn sched_getscheduler(task: &CurrentTask, pid: Pid) -> SysResult<u32> {
    let policy = *target(task, pid)?.scheduling.policy.lock();
    Ok(policy.number | if policy.reset_on_fork { RESET_ON_FORK } else { 0 })
}

/// `sched_setscheduler(2)`.
pub fn sched_setscheduler(
    task: &CurrentTask,
    pid: Pid,
    policy: i32,
    parameters: UserPtr<i32>,
) -> SysResult<()> {
    if policy < 0 || pid < 0 || parameters.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = task.read_object(parameters)?;
    let target = target(task, pid)?;
    let policy = policy.cast_unsigned();
    let wanted = Wanted {
        policy: policy & !RESET_ON_FORK,
        priority: u32::try_from(priority).map_err(|_| Errno::EINVAL)?,
        reset_on_fork: policy & RESET_ON_FORK != 0,
        nice: None,
    };
    change(task, &target, &wanted)
}

/// `sched_getparam(2)`.
pub fn sched_getparam(task: &CurrentTask, pid: Pid, parameters: UserPtr<u32>) -> SysResult<()> {
    if parameters.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = target(task, pid)?.scheduling.policy.lock().priority;
    task.write_object(parameters, &priority)
}

/// `sched_setparam(2)`.
pub fn sched_setparam(task: &CurrentTask, pid: Pid, parameters: UserPtr<i32>) -> SysResult<()> {
    if parameters.is_null() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = task.read_object(parameters)?;
    let target = target(task, pid)?;
    let old = *target.scheduling.policy.lock();
    let wanted = Wanted {
        policy: old.number,
        priority: u32::try_from(priority).map_err(|_| Errno::EINVAL)?,
        reset_on_fork: old.reset_on_fork,
        nice: None,
    };
    change(task, &target, &wanted)
}

/// `struct sched_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    utilization: [u32; 2],
}

/// The smallest size that `sched_setattr(2)` knows.
const FIRST_SIZE: usize = 48;

/// `sched_setattr(2)`. There is no `SCHED_DEADLINE`: `EPERM`.
pub fn sched_setattr(
    task: &CurrentTask,
    pid: Pid,
    place: UserPtr<Attributes>,
    flags: Flags,
) -> SysResult<()> {
    const FLAG_RESET_ON_FORK: u64 = 1;
    const KEEP_POLICY: u64 = 8;
    const KEEP_PARAMETERS: u64 = 16;
    const KNOWN: u64 = 0x7f;
    if place.is_null() || pid < 0 || flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    let size = match task.read_object(place.cast::<u32>())? as usize {
        0 => FIRST_SIZE,
        size => size,
    };
    let whole = size_of::<Attributes>();
    let mut bytes = vec![0; size.clamp(whole, 4096)];
    if (FIRST_SIZE..=4096).contains(&size) {
        task.read_bytes(place.address(), &mut bytes[..size])?;
    }
    if !(FIRST_SIZE..=4096).contains(&size) || bytes[whole..].iter().any(|byte| *byte != 0) {
        task.write_object(place.cast::<u32>(), &(whole as u32))?;
        return Err(Errno::E2BIG);
    }
    let wanted = Attributes::read_from_bytes(&bytes[..whole]).map_err(|_| Errno::EINVAL)?;
    if wanted.policy.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(task, pid)?;
    let old = *target.scheduling.policy.lock();
    let keeps = |flag| wanted.flags & flag != 0;
    let policy = if keeps(KEEP_POLICY) { old.number } else { wanted.policy };
    if wanted.flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if policy == DEADLINE {
        let sensible = wanted.runtime >= 1024 && wanted.runtime <= wanted.deadline;
        return Err(if sensible { Errno::EPERM } else { Errno::EINVAL });
    }
    let wanted = Wanted {
        policy,
        priority: if keeps(KEEP_PARAMETERS) { old.priority } else { wanted.priority },
        reset_on_fork: keeps(FLAG_RESET_ON_FORK),
        nice: (!keeps(KEEP_PARAMETERS)).then(|| wanted.nice.clamp(-20, 19)),
    };
    change(task, &target, &wanted)
}

/// `sched_getattr(2)`.
pub fn sched_getattr(
    task: &CurrentTask,
    pid: Pid,
    place: UserPtr<Attributes>,
    size: u32,
    flags: Flags,
) -> SysResult<()> {
    let size = size as usize;
    if place.is_null() || pid < 0 || !(FIRST_SIZE..=4096).contains(&size) || flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(task, pid)?;
    let policy = *target.scheduling.policy.lock();
    let realtime = is_realtime(policy.number);
    let attributes = Attributes {
        size: size.min(size_of::<Attributes>()) as u32,
        policy: policy.number,
        flags: u64::from(policy.reset_on_fork),
        nice: if realtime { 0 } else { target.scheduling.nice.load(Ordering::Relaxed) },
        priority: policy.priority,
        runtime: if realtime { 0 } else { SLICE },
        ..Attributes::default()
    };
    let mut bytes = attributes.as_bytes().to_vec();
    bytes.resize(size.max(bytes.len()), 0);
    task.write_bytes(place.address(), &bytes[..size])
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
    let policy = target(task, pid)?.scheduling.policy.lock().number;
    let nsec = match policy {
        FIFO => 0,
        ROUND_ROBIN => 100_000_000,
        _ => 4_000_000,
    };
    task.write_object(interval, &abi::time::TimeSpec { sec: 0, nsec })
}

/// Which tasks a call means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Process,
    Group,
    User,
}

/// The tasks that a call on priorities means: `ESRCH` if there are none.
fn priority_targets(task: &CurrentTask, which: Which, who: i32) -> SysResult<Vec<Arc<Task>>> {
    // Those that can be seen.
    let all = task.kernel.tasks.all().into_iter().filter(|other| task.number_of(other.tid()) != 0);
    let group_of =
        |pid: Pid| task.kernel.tasks.with(|tree| tree.process(pid).map(|process| process.process_group));
    let targets: Vec<_> = match which {
        Which::Process if who < 0 => return Err(Errno::ESRCH),
        Which::Process => vec![target(task, who)?],
        Which::Group => {
            let group = if who == 0 { group_of(task.group.pid) } else { Some(task.pid_of(who)?) };
            all.filter(|other| group_of(other.group.pid) == group).collect()
        }
        Which::User => {
            let own = task.credentials();
            let uid = if who == 0 { own.uid } else { own.uid_of(who.cast_unsigned())? };
            all.filter(|other| other.credentials().uid == uid).collect()
        }
    };
    if targets.is_empty() { Err(Errno::ESRCH) } else { Ok(targets) }
}

fn which(which: u32, first: u32) -> SysResult<Which> {
    match which.checked_sub(first) {
        Some(0) => Ok(Which::Process),
        Some(1) => Ok(Which::Group),
        Some(2) => Ok(Which::User),
        _ => Err(Errno::EINVAL),
    }
}

/// `getpriority(2)`: 20 minus the nice value, so that it is never negative.
pub fn getpriority(task: &CurrentTask, kind: u32, who: i32) -> SysResult<i32> {
    let targets = priority_targets(task, which(kind, 0)?, who)?;
    let best = targets.iter().map(|task| task.scheduling.nice.load(Ordering::Relaxed)).min();
    Ok(20 - best.unwrap_or(0))
}

/// `setpriority(2)`.
pub fn setpriority(task: &CurrentTask, kind: u32, who: i32, nice: i32) -> SysResult<()> {
    let nice = nice.clamp(-20, 19);
    for target in priority_targets(task, which(kind, 0)?, who)? {
        check_change(task, &target)?;
        if !may_be_nice(&target, nice) && !task.credentials().has(Capability::SYS_NICE) {
            return Err(Errno::EACCES);
        }
        target.scheduling.nice.store(nice, Ordering::Relaxed);
    }
    Ok(())
}

/// `ioprio_get(2)`: the most urgent of those meant.
pub fn ioprio_get(task: &CurrentTask, kind: u32, who: i32) -> SysResult<i32> {
    let which = which(kind, 1)?;
    let targets = priority_targets(task, which, who)?;
    let raw = |task: &Arc<Task>| task.scheduling.io_priority.load(Ordering::Relaxed);
    if which == Which::Process {
        return Ok(targets.first().map_or(0, raw));
    }
    Ok(targets.iter().map(|task| task.scheduling.io_priority()).min().unwrap_or(0))
}

/// `ioprio_set(2)`.
pub fn ioprio_set(task: &CurrentTask, kind: u32, who: i32, priority: i32) -> SysResult<()> {
    let credentials = task.credentials();
    let allowed = credentials.has(Capability::SYS_ADMIN) || credentials.has(Capability::SYS_NICE);
    match priority >> 13 {
        1 if !allowed => return Err(Errno::EPERM),
        1..=3 => {}
        0 if priority == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    for target in priority_targets(task, which(kind, 1)?, who)? {
        let theirs = target.credentials();
        let own = theirs.uid == credentials.effective_uid || theirs.uid == credentials.uid;
        if !own && !credentials.has(Capability::SYS_NICE) {
            return Err(Errno::EPERM);
        }
        target.scheduling.io_priority.store(priority, Ordering::Relaxed);
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
