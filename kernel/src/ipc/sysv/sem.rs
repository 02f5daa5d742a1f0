//! System V semaphores.
//!
//! The operations of a call are carried out all at once or not at all. Calls that cannot go on stand in the set's
//! queue; whoever changes a value carries out what has become possible, in the order of the queue, and wakes the
//! callers with their results.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Factory, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, NOWAIT, Object, Permissions, READ, RawPermissions,
    Registry, Setting, WRITE, get, now,
};
use crate::error::{SysError, SyscallResult};
use crate::task::{CurrentTask, Pid, Task};
use crate::user::UserPtr;
use crate::wait::{Deadline, Events, Nothing, Waiter};

/// The largest value of a semaphore.
const MAX_VALUE: i32 = 32_767;
const UNDO: i16 = 0x1000;
const SEM_NOWAIT: i16 = NOWAIT as i16;

/// All semaphore sets of a kernel, and their limits (`/proc/sys/kernel/sem`).
pub struct Semaphores {
    registry: Mutex<Registry<SemSet>>,
    /// Semaphores of one set.
    pub per_set: Setting,
    /// Semaphores in all.
    pub in_all: Setting,
    /// Operations of one call.
    pub per_call: Setting,
    /// Sets.
    pub sets: Setting,
}

impl Default for Semaphores {
    fn default() -> Semaphores {
        Semaphores {
            registry: Mutex::default(),
            per_set: Setting::new(32_000),
            in_all: Setting::new(1_024_000_000),
            per_call: Setting::new(500),
            sets: Setting::new(32_000),
        }
    }
}

/// `struct sembuf`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SemBuf {
    number: u16,
    operation: i16,
    flags: i16,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: Pid,
}

/// A call that waits.
struct Pending {
    operations: Vec<SemBuf>,
    /// The operation that could not be carried out when it was last tried.
    blocked_by: Mutex<SemBuf>,
    pid: Pid,
    undo: Option<Arc<UndoList>>,
    result: Mutex<Option<SysResult<()>>>,
    waiter: Arc<Waiter>,
}

impl Pending {
    fn finish(&self, result: SysResult<()>) {
        *self.result.lock() = Some(result);
        self.waiter.notify();
    }
}

struct State {
    permissions: Permissions,
    semaphores: Vec<Semaphore>,
    /// What is added to the values when a list of undos ends, by the list's number.
    undos: BTreeMap<u64, Vec<i32>>,
    queue: Vec<Arc<Pending>>,
    operated: i64,
    changed: i64,
    removed: bool,
}

/// A set of semaphores.
pub struct SemSet {
    state: Mutex<State>,
}

impl Object for SemSet {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

/// What a process, or those that share it by `CLONE_SYSVSEM`, has to undo at its end.
pub struct UndoList {
    number: u64,
    sets: Mutex<Vec<Weak<SemSet>>>,
}

impl Default for UndoList {
    fn default() -> UndoList {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        UndoList { number: NEXT.fetch_add(1, Ordering::Relaxed), sets: Mutex::default() }
    }
}

impl UndoList {
    /// Undoes everything: the last task with this list, in a process `pid`, has ended.
    fn apply(&self, pid: Pid) {
        for set in std::mem::take(&mut *self.sets.lock()) {
            let Some(set) = set.upgrade() else { continue };
            let mut state = set.state.lock();
            let Some(changes) = state.undos.remove(&self.number) else { continue };
            for (semaphore, change) in
                state.semaphores.iter_mut().zip(changes).filter(|(_, change)| *change != 0)
            {
                semaphore.value = (semaphore.value + change).clamp(0, MAX_VALUE);
                semaphore.pid = pid;
            }
            state.operated = now();
            state.serve_queue();
        }
    }
}

/// How an attempt to carry out operations went.
enum Attempt {
    Done { altered: bool },
    Blocked(SemBuf),
    Failed(Errno),
}

impl State {
    /// Carries out all operations, or none.
    fn attempt(&mut self, operations: &[SemBuf], pid: Pid, undo: Option<&UndoList>) -> Attempt {
        let mut values: BTreeMap<u16, i32> = BTreeMap::new();
        let mut changes: BTreeMap<u16, i32> = BTreeMap::new();
        let recorded = |state: &State, number: u16| {
            let list = undo.and_then(|list| state.undos.get(&list.number));
            list.map_or(0, |list| list[usize::from(number)])
        };
        for operation in operations {
            let number = operation.number;
            let value = values.entry(number).or_insert(self.semaphores[usize::from(number)].value);
            let change = i32::from(operation.operation);
            if (change == 0 && *value != 0) || *value + change < 0 {
                return Attempt::Blocked(*operation);
            }
            if *value + change > MAX_VALUE {
                return Attempt::Failed(Errno::ERANGE);
            }
            if operation.flags & UNDO != 0 {
                let start = recorded(self, number);
                let undo = changes.entry(number).or_insert(start);
                *undo -= change;
                if !(-MAX_VALUE - 1..=MAX_VALUE).contains(undo) {
                    return Attempt::Failed(Errno::ERANGE);
                }
            }
            *value += change;
        }
        for (number, value) in values {
            self.semaphores[usize::from(number)] = Semaphore { value, pid };
        }
        if let Some(undo) = undo {
            let count = self.semaphores.len();
            let list = self.undos.entry(undo.number).or_insert_with(|| vec![0; count]);
            changes.into_iter().for_each(|(number, change)| list[usize::from(number)] = change);
        }
        self.operated = now();
        Attempt::Done { altered: operations.iter().any(|operation| operation.operation != 0) }
    }

    /// Carries out what waits and has become possible, the oldest first.
    fn serve_queue(&mut self) {
        let mut at = 0;
        while let Some(pending) = self.queue.get(at).cloned() {
            match self.attempt(&pending.operations, pending.pid, pending.undo.as_deref()) {
                Attempt::Blocked(operation) => {
                    *pending.blocked_by.lock() = operation;
                    // Another call may wait with a non-blocking operation behind one that has just passed.
                    if operation.flags & SEM_NOWAIT != 0 {
                        self.queue.remove(at);
                        pending.finish(Err(Errno::EAGAIN));
                    } else {
                        at += 1;
                    }
                }
                Attempt::Failed(error) => {
                    self.queue.remove(at);
                    pending.finish(Err(error));
                }
                Attempt::Done { altered } => {
                    self.queue.remove(at);
                    pending.finish(Ok(()));
                    if altered {
                        at = 0;
                    }
                }
            }
        }
    }

    /// How many calls wait for the semaphore to rise, or to become zero.
    fn waiting(&self, number: u16, for_zero: bool) -> i32 {
        let blocked = self.queue.iter().map(|pending| *pending.blocked_by.lock());
        let count = blocked.filter(|by| by.number == number && (by.operation == 0) == for_zero).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    fn semaphore(&mut self, number: i32) -> SysResult<&mut Semaphore> {
        usize::try_from(number).ok().and_then(|at| self.semaphores.get_mut(at)).ok_or(Errno::EINVAL)
    }

    fn raw(&self, id: i32) -> RawSet {
        RawSet {
            permissions: self.permissions.raw(id),
            operated: self.operated,
            changed: self.changed,
            count: self.semaphores.len() as u64,
            ..RawSet::default()
        }
    }
}

struct NewSet<'a> {
    task: &'a CurrentTask,
    key: i32,
    count: i32,
    flags: u32,
}

impl Factory<SemSet> for NewSet<'_> {
    fn fits(&self, found: &SemSet) -> SysResult<()> {
        let count = found.state.lock().semaphores.len();
        if self.count as usize > count { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn make(&self, registry: &mut Registry<SemSet>) -> SysResult<i32> {
        if self.count == 0 {
            return Err(Errno::EINVAL);
        }
        let ipc = self.task.ipc();
        let all = &ipc.sysv.sem;
        let used: usize = registry.all().iter().map(|(_, set)| set.state.lock().semaphores.len()).sum();
        if (used + self.count as usize) as u64 > all.in_all.get() {
            return Err(Errno::ENOSPC);
        }
        let state = State {
            permissions: Permissions::new(self.task, self.key, self.flags),
            semaphores: vec![Semaphore::default(); self.count as usize],
            undos: BTreeMap::new(),
            queue: Vec::new(),
            operated: 0,
            changed: now(),
            removed: false,
        };
        registry.add(all.sets.get(), |_| SemSet { state: Mutex::new(state) })
    }
}

/// `semget(2)`.
pub fn semget(task: &CurrentTask, key: i32, count: i32, flags: u32) -> SysResult<i32> {
    let ipc = task.ipc();
    let all = &ipc.sysv.sem;
    if count < 0 || count as u64 > all.per_set.get() {
        return Err(Errno::EINVAL);
    }
    get(task, &all.registry, key, flags, &NewSet { task, key, count, flags })
}

/// `semop(2)`.
pub fn semop(task: &CurrentTask, id: i32, operations: UserPtr<SemBuf>, count: u32) -> SyscallResult<()> {
    operate(task, id, operations, count, Deadline::Never)
}

/// `semtimedop(2)`.
pub fn semtimedop(
    task: &CurrentTask,
    id: i32,
    operations: UserPtr<SemBuf>,
    count: u32,
    timeout: UserPtr<TimeSpec>,
) -> SyscallResult<()> {
    let deadline = match timeout.non_null() {
        None => Deadline::Never,
        Some(timeout) => Deadline::after(task.read_object(timeout)?.to_duration().ok_or(Errno::EINVAL)?),
    };
    operate(task, id, operations, count, deadline)
}

fn operate(
    task: &CurrentTask,
    id: i32,
    operations: UserPtr<SemBuf>,
    count: u32,
    deadline: Deadline,
) -> SyscallResult<()> {
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    if u64::from(count) > task.ipc().sysv.sem.per_call.get() {
        return Err(Errno::E2BIG.into());
    }
    let operations = task.read_array(operations, count as usize)?;
    let set = task.ipc().sysv.sem.registry.lock().get(id)?;
    let undo = operations
        .iter()
        .any(|operation| operation.flags & UNDO != 0)
        .then(|| task.sem_undo.lock().clone())
        .flatten();
    let pending = {
        let mut state = set.state.lock();
        if operations.iter().any(|operation| usize::from(operation.number) >= state.semaphores.len()) {
            return Err(Errno::EFBIG.into());
        }
        let alters = operations.iter().any(|operation| operation.operation != 0);
        state.permissions.check(task, if alters { WRITE } else { READ })?;
        if state.removed {
            return Err(Errno::EIDRM.into());
        }
        let blocked_by = match state.attempt(&operations, task.group.number, undo.as_deref()) {
            Attempt::Done { altered } => {
                if altered {
                    state.serve_queue();
                }
                note_undo(undo.as_deref(), &set);
                return Ok(());
            }
            Attempt::Failed(error) => return Err(error.into()),
            Attempt::Blocked(operation) => operation,
        };
        if blocked_by.flags & SEM_NOWAIT != 0 || deadline == Deadline::Now {
            return Err(Errno::EAGAIN.into());
        }
        let pending = Arc::new(Pending {
            operations,
            blocked_by: Mutex::new(blocked_by),
            pid: task.group.number,
            undo: undo.clone(),
            result: Mutex::default(),
            waiter: Arc::clone(&task.waiter),
        });
        state.queue.push(Arc::clone(&pending));
        pending
    };
    note_undo(undo.as_deref(), &set);
    let finished = || pending.result.lock().take().ok_or(SysError::Errno(Errno::EAGAIN));
    match task.block_on(&Nothing, Events::empty(), deadline, finished) {
        Ok(result) => Ok(result?),
        Err(error) => {
            let mut state = set.state.lock();
            state.queue.retain(|other| !Arc::ptr_eq(other, &pending));
            // Done in the last moment: that counts.
            match pending.result.lock().take() {
                Some(result) => Ok(result?),
                // Never restarted, whatever the handler says.
                None => Err(error.errno().into()),
            }
        }
    }
}

/// Remembers that the set has something to undo.
fn note_undo(undo: Option<&UndoList>, set: &Arc<SemSet>) {
    let Some(undo) = undo else { return };
    let mut sets = undo.sets.lock();
    sets.retain(|known| known.strong_count() > 0);
    if !sets.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(set))) {
        sets.push(Arc::downgrade(set));
    }
}

/// `struct semid64_ds`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawSet {
    permissions: RawPermissions,
    operated: i64,
    unused1: u64,
    changed: i64,
    unused2: u64,
    count: u64,
    unused3: [u64; 2],
}

/// `semctl(2)`.
pub fn semctl(task: &CurrentTask, id: i32, number: i32, command: i32, argument: u64) -> SysResult<i32> {
    const GETPID: i32 = 11;
    const GETVAL: i32 = 12;
    const GETALL: i32 = 13;
    const GETNCNT: i32 = 14;
    const GETZCNT: i32 = 15;
    const SETVAL: i32 = 16;
    const SETALL: i32 = 17;
    const SEM_STAT: i32 = 18;
    const SEM_INFO: i32 = 19;
    const SEM_STAT_ANY: i32 = 20;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let ipc = task.ipc();
    let registry = &ipc.sysv.sem.registry;
    match command {
        IPC_INFO | SEM_INFO => return info(task, command == SEM_INFO, argument),
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (id, set) = match command {
                IPC_STAT => (id, registry.lock().get(id)?),
                _ => registry.lock().at(id)?,
            };
            let raw = {
                let state = set.state.lock();
                if command != SEM_STAT_ANY {
                    state.permissions.check(task, READ)?;
                }
                state.raw(id)
            };
            task.write_object(UserPtr::new(argument), &raw)?;
            return Ok(if command == IPC_STAT { 0 } else { id });
        }
        _ => {}
    }
    // What is read from the guest is read first.
    let settings = match command {
        IPC_SET => Some(task.read_object(UserPtr::<RawSet>::new(argument))?),
        _ => None,
    };
    let set = registry.lock().get(id)?;
    match command {
        IPC_RMID => {
            set.state.lock().permissions.check_owner(task)?;
            registry.lock().remove(id);
            let mut state = set.state.lock();
            state.removed = true;
            std::mem::take(&mut state.queue).iter().for_each(|pending| pending.finish(Err(Errno::EIDRM)));
            Ok(0)
        }
        IPC_SET => {
            let mut state = set.state.lock();
            state.permissions.check_owner(task)?;
            if let Some(settings) = settings {
                state.permissions.set(&settings.permissions);
            }
            state.changed = now();
            Ok(0)
        }
        GETALL => {
            let values: Vec<u16> = {
                let state = set.state.lock();
                state.permissions.check(task, READ)?;
                state.semaphores.iter().map(|semaphore| semaphore.value as u16).collect()
            };
            task.write_array(UserPtr::new(argument), &values).map(|()| 0)
        }
        SETALL => {
            let count = {
                let state = set.state.lock();
                state.permissions.check(task, WRITE)?;
                state.semaphores.len()
            };
            let values = task.read_array(UserPtr::<u16>::new(argument), count)?;
            if values.iter().any(|value| i32::from(*value) > MAX_VALUE) {
                return Err(Errno::ERANGE);
            }
            let mut state = set.state.lock();
            let pid = task.group.number;
            state.semaphores =
                values.into_iter().map(|value| Semaphore { value: value.into(), pid }).collect();
            state.undos.clear();
            state.changed = now();
            state.serve_queue();
            Ok(0)
        }
        SETVAL => {
            let value = argument as i32;
            if !(0..=MAX_VALUE).contains(&value) {
                return Err(Errno::ERANGE);
            }
            let mut state = set.state.lock();
            state.semaphore(number)?;
            state.permissions.check(task, WRITE)?;
            *state.semaphore(number)? = Semaphore { value, pid: task.group.number };
            state.undos.values_mut().for_each(|list| list[number as usize] = 0);
            state.changed = now();
            state.serve_queue();
            Ok(0)
        }
        GETVAL | GETPID | GETNCNT | GETZCNT => {
            let mut state = set.state.lock();
            state.permissions.check(task, READ)?;
            let semaphore = *state.semaphore(number)?;
            Ok(match command {
                GETVAL => semaphore.value,
                GETPID => semaphore.pid,
                _ => state.waiting(number as u16, command == GETZCNT),
            })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `IPC_INFO`: the limits; `SEM_INFO`: what is used of them.
fn info(task: &CurrentTask, used: bool, place: u64) -> SysResult<i32> {
    let ipc = task.ipc();
    let all = &ipc.sysv.sem;
    let value = |setting: &Setting| i32::try_from(setting.get()).unwrap_or(i32::MAX);
    let mut registry = all.registry.lock();
    let sets = registry.all();
    let semaphores: usize = sets.iter().map(|(_, set)| set.state.lock().semaphores.len()).sum();
    let highest = registry.highest();
    drop(registry);
    // semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem
    let mut info = [
        value(&all.in_all),
        value(&all.sets),
        value(&all.in_all),
        value(&all.in_all),
        value(&all.per_set),
        value(&all.per_call),
        value(&all.per_call),
        20,
        MAX_VALUE,
        MAX_VALUE,
    ];
    if used {
        (info[7], info[9]) = (sets.len() as i32, i32::try_from(semaphores).unwrap_or(i32::MAX));
    }
    task.write_object(UserPtr::new(place), &info)?;
    Ok(highest)
}

impl Semaphores {
    /// `/proc/sysvipc/sem`.
    pub fn text(&self) -> String {
        let mut text =
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
                .to_owned();
        for (id, set) in self.registry.lock().all() {
            let state = set.state.lock();
            let p = state.permissions;
            text += &format!(
                "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
                p.key,
                p.mode,
                state.semaphores.len(),
                p.uid,
                p.gid,
                p.creator_uid,
                p.creator_gid,
                state.operated,
                state.changed
            );
        }
        text
    }
}

/// Parts the task from its list of undos, which is carried out if no other task has it.
pub fn undo(task: &Task, next: Option<Arc<UndoList>>) {
    let list = std::mem::replace(&mut *task.sem_undo.lock(), next);
    if let Some(list) = list.and_then(Arc::into_inner) {
        list.apply(task.group.number);
    }
}
