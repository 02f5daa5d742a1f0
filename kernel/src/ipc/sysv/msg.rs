//! System V message queues.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::{Errno, SysResult};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Factory, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, NOWAIT, Object, Permissions, READ, RawPermissions,
    Registry, Setting, WRITE, get, now,
};
use crate::error::{Restart, SysError, SyscallResult};
use crate::task::credentials::Capability;
use crate::task::{CurrentTask, Pid};
use crate::user::UserPtr;
use crate::wait::{Deadline, Events, WaitQueue};

const NOERROR: u32 = 0o10000;
const EXCEPT: u32 = 0o20000;
const COPY: u32 = 0o40000;

/// All message queues of a kernel, and their limits (`/proc/sys/kernel/msg*`).
pub struct MessageQueues {
    registry: Mutex<Registry<MessageQueue>>,
    /// Bytes of one message.
    pub max_message: Setting,
    /// Bytes of a new queue.
    pub max_bytes: Setting,
    /// Queues.
    pub queues: Setting,
}

impl Default for MessageQueues {
    fn default() -> MessageQueues {
        MessageQueues {
            registry: Mutex::default(),
            max_message: Setting::new(8192),
            max_bytes: Setting::new(16_384),
            queues: Setting::new(32_000),
        }
    }
}

struct Message {
    kind: i64,
    text: Vec<u8>,
}

struct State {
    permissions: Permissions,
    messages: VecDeque<Arc<Message>>,
    bytes: u64,
    max_bytes: u64,
    sent: i64,
    received: i64,
    changed: i64,
    last_sender: Pid,
    last_receiver: Pid,
    removed: bool,
}

/// A message queue.
pub struct MessageQueue {
    state: Mutex<State>,
    waiters: WaitQueue,
}

impl Object for MessageQueue {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

/// Which message is wanted.
#[derive(Clone, Copy)]
enum Wanted {
    First,
    Kind(i64),
    Except(i64),
    /// The first of the lowest kind up to this.
    UpTo(i64),
    /// The one at this place.
    At(usize),
}

impl Wanted {
    fn find(self, messages: &VecDeque<Arc<Message>>) -> Option<usize> {
        match self {
            Wanted::First => (!messages.is_empty()).then_some(0),
            Wanted::Kind(kind) => messages.iter().position(|message| message.kind == kind),
            Wanted::Except(kind) => messages.iter().position(|message| message.kind != kind),
            Wanted::UpTo(kind) => {
                let lower = messages.iter().enumerate().filter(|(_, message)| message.kind <= kind);
                lower.min_by_key(|(at, message)| (message.kind, *at)).map(|(at, _)| at)
            }
            Wanted::At(index) => (index < messages.len()).then_some(index),
        }
    }
}

struct NewQueue<'a> {
    task: &'a CurrentTask,
    key: i32,
    flags: u32,
}

impl Factory<MessageQueue> for NewQueue<'_> {
    fn fits(&self, _found: &MessageQueue) -> SysResult<()> {
        Ok(())
    }

    fn make(&self, registry: &mut Registry<MessageQueue>) -> SysResult<i32> {
        let ipc = self.task.ipc();
        let all = &ipc.sysv.msg;
        let state = State {
            permissions: Permissions::new(self.task, self.key, self.flags),
            messages: VecDeque::new(),
            bytes: 0,
            max_bytes: all.max_bytes.get(),
            sent: 0,
            received: 0,
            changed: now(),
            last_sender: 0,
            last_receiver: 0,
            removed: false,
        };
        registry
            .add(all.queues.get(), |_| MessageQueue { state: Mutex::new(state), waiters: WaitQueue::new() })
    }
}

/// `msgget(2)`.
pub fn msgget(task: &CurrentTask, key: i32, flags: u32) -> SysResult<i32> {
    get(task, &task.ipc().sysv.msg.registry, key, flags, &NewQueue { task, key, flags })
}

fn deadline(flags: u32) -> Deadline {
    if flags & NOWAIT != 0 { Deadline::Now } else { Deadline::Never }
}

/// A signal ends the wait; the call is not restarted if a handler ran.
fn interrupted(error: SysError) -> SysError {
    if matches!(error, SysError::Restart(_)) { Restart::NoHand.into() } else { error }
}

/// `msgsnd(2)`.
pub fn msgsnd(task: &CurrentTask, id: i32, place: u64, length: i64, flags: u32) -> SyscallResult<()> {
    let kind = task.read_object(UserPtr::<i64>::new(place))?;
    let ipc = task.ipc();
    let all = &ipc.sysv.msg;
    let limit = all.max_message.get();
    let length = usize::try_from(length).ok().filter(|length| *length as u64 <= limit && id >= 0);
    let length = length.ok_or(Errno::EINVAL)?;
    if kind < 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut text = vec![0; length];
    task.read_bytes(place.wrapping_add(8), &mut text)?;
    let queue = all.registry.lock().get(id)?;
    let mut message = Some(Arc::new(Message { kind, text }));
    let send = || {
        let mut state = queue.state.lock();
        if state.removed {
            return Err(Errno::EIDRM.into());
        }
        state.permissions.check(task, WRITE)?;
        let fits =
            state.bytes + length as u64 <= state.max_bytes && (state.messages.len() as u64) < state.max_bytes;
        if !fits {
            return Err(Errno::EAGAIN.into());
        }
        state.messages.extend(message.take());
        state.bytes += length as u64;
        state.sent = now();
        state.last_sender = task.group.number;
        Ok(())
    };
    task.block_on(&queue.waiters, Events::OUT, deadline(flags), send).map_err(interrupted)?;
    queue.waiters.wake(Events::IN);
    Ok(())
}

/// `msgrcv(2)`.
pub fn msgrcv(
    task: &CurrentTask,
    id: i32,
    place: u64,
    length: i64,
    kind: i64,
    flags: u32,
) -> SyscallResult<usize> {
    let room = usize::try_from(length).ok().filter(|_| id >= 0).ok_or(Errno::EINVAL)?;
    let copy = flags & COPY != 0;
    if copy && (flags & EXCEPT != 0 || flags & NOWAIT == 0) {
        return Err(Errno::EINVAL.into());
    }
    let wanted = match kind {
        kind if copy => Wanted::At(usize::try_from(kind).unwrap_or(usize::MAX)),
        0 => Wanted::First,
        kind if kind < 0 => Wanted::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        kind if flags & EXCEPT != 0 => Wanted::Except(kind),
        kind => Wanted::Kind(kind),
    };
    let queue = task.ipc().sysv.msg.registry.lock().get(id)?;
    let receive = || {
        let mut state = queue.state.lock();
        if state.removed {
            return Err(Errno::EIDRM.into());
        }
        state.permissions.check(task, READ)?;
        let at = wanted.find(&state.messages).ok_or(Errno::EAGAIN)?;
        let message = Arc::clone(&state.messages[at]);
        if message.text.len() > room && flags & NOERROR == 0 {
            return Err(Errno::E2BIG.into());
        }
        if !copy {
            state.messages.remove(at);
            state.bytes -= message.text.len() as u64;
            state.received = now();
            state.last_receiver = task.group.number;
        }
        Ok(message)
    };
    let message = task
        .block_on(&queue.waiters, Events::IN, deadline(flags), receive)
        .map_err(|error| if error.is(Errno::EAGAIN) { Errno::ENOMSG.into() } else { interrupted(error) })?;
    queue.waiters.wake(Events::OUT);
    let text = &message.text[..message.text.len().min(room)];
    task.write_object(UserPtr::<i64>::new(place), &message.kind)?;
    task.write_bytes(place.wrapping_add(8), text)?;
    Ok(text.len())
}

/// `struct msqid64_ds`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawQueue {
    permissions: RawPermissions,
    sent: i64,
    received: i64,
    changed: i64,
    bytes: u64,
    count: u64,
    max_bytes: u64,
    last_sender: Pid,
    last_receiver: Pid,
    unused: [u64; 2],
}

impl State {
    fn raw(&self, id: i32) -> RawQueue {
        RawQueue {
            permissions: self.permissions.raw(id),
            sent: self.sent,
            received: self.received,
            changed: self.changed,
            bytes: self.bytes,
            count: self.messages.len() as u64,
            max_bytes: self.max_bytes,
            last_sender: self.last_sender,
            last_receiver: self.last_receiver,
            unused: [0; 2],
        }
    }
}

/// `msgctl(2)`.
pub fn msgctl(task: &CurrentTask, id: i32, command: i32, place: u64) -> SysResult<i32> {
    const MSG_STAT: i32 = 11;
    const MSG_INFO: i32 = 12;
    const MSG_STAT_ANY: i32 = 13;
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let ipc = task.ipc();
    let all = &ipc.sysv.msg;
    match command {
        IPC_INFO | MSG_INFO => info(task, command == MSG_INFO, place),
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (id, queue) = match command {
                IPC_STAT => (id, all.registry.lock().get(id)?),
                _ => all.registry.lock().at(id)?,
            };
            let raw = {
                let state = queue.state.lock();
                if command != MSG_STAT_ANY {
                    state.permissions.check(task, READ)?;
                }
                state.raw(id)
            };
            task.write_object(UserPtr::new(place), &raw)?;
            Ok(if command == IPC_STAT { 0 } else { id })
        }
        IPC_SET => {
            let settings = task.read_object(UserPtr::<RawQueue>::new(place))?;
            let queue = all.registry.lock().get(id)?;
            {
                let mut state = queue.state.lock();
                state.permissions.check_owner(task)?;
                let more = settings.max_bytes > all.max_bytes.get();
                if more && !task.credentials().has(Capability::SYS_RESOURCE) {
                    return Err(Errno::EPERM);
                }
                state.max_bytes = settings.max_bytes;
                state.permissions.set(&settings.permissions);
                state.changed = now();
            }
            queue.waiters.wake(Events::IN | Events::OUT);
            Ok(0)
        }
        IPC_RMID => {
            let queue = all.registry.lock().get(id)?;
            queue.state.lock().permissions.check_owner(task)?;
            all.registry.lock().remove(id);
            {
                let mut state = queue.state.lock();
                state.removed = true;
                state.messages.clear();
            }
            queue.waiters.wake(Events::IN | Events::OUT);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `IPC_INFO`: the limits; `MSG_INFO`: what is used of them.
fn info(task: &CurrentTask, used: bool, place: u64) -> SysResult<i32> {
    let ipc = task.ipc();
    let all = &ipc.sysv.msg;
    let value = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
    let mut registry = all.registry.lock();
    let queues = registry.all();
    let highest = registry.highest();
    drop(registry);
    let (max_message, max_bytes, count) = (all.max_message.get(), all.max_bytes.get(), all.queues.get());
    // msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql, msgseg
    let mut info = [
        value(count.saturating_mul(max_bytes) / 1024),
        value(max_bytes),
        value(max_message),
        value(max_bytes),
        value(count),
        16,
        value(max_bytes),
        0xffff,
    ];
    if used {
        let states = queues.iter().map(|(_, queue)| {
            let state = queue.state.lock();
            (state.messages.len() as u64, state.bytes)
        });
        let (messages, bytes) = states.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (info[0], info[1], info[6]) = (value(queues.len() as u64), value(messages), value(bytes));
    }
    task.write_object(UserPtr::new(place), &info)?;
    Ok(highest)
}

impl MessageQueues {
    /// `/proc/sysvipc/msg`.
    pub fn text(&self) -> String {
        let mut text = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n".to_owned();
        for (id, queue) in self.registry.lock().all() {
            let s = queue.state.lock();
            let p = s.permissions;
            text += &format!(
                "{:10} {id:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
                p.key,
                p.mode,
                s.bytes,
                s.messages.len(),
                s.last_sender,
                s.last_receiver,
                p.uid,
                p.gid,
                p.creator_uid,
                p.creator_gid,
                s.sent,
                s.received,
                s.changed
            );
        }
        text
    }
}
