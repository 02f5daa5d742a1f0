//! Signals for files: `O_ASYNC`, `F_SETOWN` and `F_SETSIG`, `fcntl(2)`.
//!
//! A file with `O_ASYNC` has a registration in its own wait queue, whose wake-up sends the signal to the file's owner.

use std::sync::{Arc, Weak};

use abi::fs::OpenFlags;
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::File;
use super::file::FileOwner;
use crate::Kernel;
use crate::error::SyscallResult;
use crate::signal::{send_to_group, send_to_task};
use crate::syscalls::Fd;
use crate::task::{CurrentTask, Pid, Task};
use crate::user::UserPtr;
use crate::wait::{Events, Wakeup};

/// `struct f_owner_ex`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OwnerArgument {
    kind: i32,
    id: i32,
}

const OWNER_THREAD: i32 = 0;
const OWNER_PROCESS: i32 = 1;
const OWNER_GROUP: i32 = 2;

/// Sends the signal of a file.
struct Notifier {
    kernel: Weak<Kernel>,
    file: Weak<File>,
}

impl Wakeup for Notifier {
    fn wake(&self, events: Events) {
        if let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) {
            let owner = *file.owner.lock();
            notify(&kernel, &owner, events);
        }
    }
}

/// Begins or ends to send signals, after `O_ASYNC` may have been set or cleared through the descriptor `fd`.
pub fn update(task: &CurrentTask, file: &Arc<File>, fd: Fd) {
    let mut signalled = file.signalled.lock();
    let wanted = file.flags().contains(OpenFlags::ASYNC);
    if !wanted {
        *signalled = None;
    } else if signalled.is_none() {
        file.owner.lock().fd = fd.0;
        let mut events = Events::PRI;
        events.set(Events::READABLE, file.flags().readable());
        events.set(Events::WRITABLE, file.flags().writable());
        let notifier = Notifier { kernel: Arc::downgrade(&task.kernel), file: Arc::downgrade(file) };
        let wakeup: Arc<dyn Wakeup> = Arc::new(notifier);
        *signalled = Some(file.ops().register(events, &wakeup));
    }
}

fn notify(kernel: &Kernel, owner: &FileOwner, events: Events) {
    let reasons =
        [(Events::HUP, 6), (Events::ERR, 4), (Events::READABLE, 1), (Events::WRITABLE, 2), (Events::PRI, 5)];
    let code = reasons.iter().find(|(event, _)| events.intersects(*event)).map_or(1, |(_, code)| *code);
    let info = match Signal::new(owner.signal) {
        None => SigInfo::new(Signal::SIGIO, SI_KERNEL),
        Some(signal) => {
            let mut info = SigInfo::new(signal, code);
            info.put(0, &u64::from(events.bits()).to_ne_bytes());
            info.put(8, &owner.fd.to_ne_bytes());
            info
        }
    };
    let id = owner.id;
    if id > 0 && owner.thread {
        if let Some(task) = kernel.tasks.get(id).filter(|task| may_signal(owner, task)) {
            send_to_task(kernel, &task, info);
        }
        return;
    }
    let groups = match id {
        0 => Vec::new(),
        1.. => kernel.tasks.group(id).into_iter().collect(),
        _ => kernel.tasks.members(id.saturating_neg()),
    };
    for group in groups {
        let first = kernel.tasks.tasks_of(group.pid).into_iter().next();
        if first.is_some_and(|task| may_signal(owner, &task)) {
            send_to_group(kernel, &group, info);
        }
    }
}

/// Whether the user that named the owner could have sent the signal itself.
fn may_signal(owner: &FileOwner, target: &Task) -> bool {
    let target = target.credentials();
    let (real, effective) = owner.users;
    effective == 0 || [real, effective].iter().any(|user| [target.uid, target.saved_uid].contains(user))
}

/// The commands of `fcntl(2)` that concern signals; `None` if the command is another.
pub fn fcntl(
    task: &CurrentTask,
    file: &Arc<File>,
    command: i32,
    argument: u64,
) -> Option<SyscallResult<u64>> {
    const SETOWN: i32 = 8;
    const GETOWN: i32 = 9;
    const SETSIG: i32 = 10;
    const GETSIG: i32 = 11;
    const SETOWN_EX: i32 = 15;
    const GETOWN_EX: i32 = 16;
    const GETOWNER_UIDS: i32 = 17;
    let owner = || *file.owner.lock();
    let result = match command {
        SETOWN => set_owner(task, file, argument as i32).map_err(Into::into),
        GETOWN => return Some(Ok(i64::from(owner_number(task, &owner())).cast_unsigned())),
        SETSIG => match argument {
            0..=64 => {
                file.owner.lock().signal = argument as i32;
                Ok(())
            }
            _ => Err(Errno::EINVAL.into()),
        },
        GETSIG => return Some(Ok(owner().signal as u64)),
        SETOWN_EX => set_owner_kind(task, file, UserPtr::new(argument)).map_err(Into::into),
        GETOWN_EX => {
            let (id, thread) = (owner_number(task, &owner()), owner().thread);
            let kind = match id {
                ..0 => OWNER_GROUP,
                _ if thread => OWNER_THREAD,
                _ => OWNER_PROCESS,
            };
            let answer = OwnerArgument { kind, id: id.saturating_abs() };
            task.write_object(UserPtr::new(argument), &answer).map_err(Into::into)
        }
        GETOWNER_UIDS => {
            let (real, effective) = owner().users;
            task.write_object(UserPtr::new(argument), &[real, effective]).map_err(Into::into)
        }
        _ => return None,
    };
    Some(result.map(|()| 0))
}

/// The owner as the caller knows it: zero if it cannot see it.
pub fn owner_number(task: &CurrentTask, owner: &FileOwner) -> i32 {
    match owner.id {
        0 => 0,
        id @ 1.. => task.number_of(id),
        group => -task.number_of(-group),
    }
}

/// `F_SETOWN` and `FIOSETOWN`: a process, or a process group as a negative number. `ESRCH` if there is none.
pub fn set_owner(task: &CurrentTask, file: &File, id: i32) -> SysResult<()> {
    if id == i32::MIN {
        return Err(Errno::EINVAL);
    }
    // Kept are the kernel's own numbers, not those of the caller's namespace.
    let id = match id {
        0 => 0,
        1.. => task.find_group(id)?.pid,
        _ => -existing_group(task, -id)?,
    };
    put_owner(task, file, id, false)
}

/// The process group of this number: `ESRCH` if it has no members.
fn existing_group(task: &CurrentTask, number: Pid) -> SysResult<Pid> {
    let group = task.pid_of(number)?;
    if task.kernel.tasks.members(group).is_empty() { Err(Errno::ESRCH) } else { Ok(group) }
}

fn set_owner_kind(task: &CurrentTask, file: &File, pointer: UserPtr<OwnerArgument>) -> SysResult<()> {
    let OwnerArgument { kind, id } = task.read_object(pointer)?;
    match kind {
        OWNER_THREAD if id == 0 => put_owner(task, file, 0, true),
        OWNER_THREAD => put_owner(task, file, task.find_task(id)?.tid(), true),
        OWNER_PROCESS | OWNER_GROUP if id < 0 => Err(Errno::ESRCH),
        OWNER_PROCESS => set_owner(task, file, id),
        OWNER_GROUP => set_owner(task, file, -id),
        _ => Err(Errno::EINVAL),
    }
}

fn put_owner(task: &CurrentTask, file: &File, id: i32, thread: bool) -> SysResult<()> {
    let credentials = task.credentials();
    let mut owner = file.owner.lock();
    *owner = FileOwner { id, thread, users: (credentials.uid, credentials.effective_uid), ..*owner };
    Ok(())
}
