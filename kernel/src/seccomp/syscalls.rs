//! `seccomp(2)` and the options of `prctl(2)` that came before it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::seccomp::{SockFilter, SockProgram};
use abi::{Errno, SysResult};

use super::filter::MAX_INSTRUCTIONS;
use super::{ACTIONS, Filter, Mode, synchronize};
use crate::syscalls::arguments::Flags;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::user::UserPtr;

const TSYNC: u32 = 1;
const LOG: u32 = 2;
const SPEC_ALLOW: u32 = 4;
const TSYNC_ESRCH: u32 = 16;

/// `seccomp(2)`. There are no listeners: `SECCOMP_FILTER_FLAG_NEW_LISTENER` is `EINVAL`, as in a kernel before 5.0.
pub fn seccomp(task: &CurrentTask, operation: u32, flags: Flags, argument: u64) -> SysResult<i32> {
    const SET_MODE_STRICT: u32 = 0;
    const SET_MODE_FILTER: u32 = 1;
    const GET_ACTION_AVAIL: u32 = 2;
    const GET_NOTIF_SIZES: u32 = 3;
    match operation {
        SET_MODE_STRICT if flags.0 == 0 && argument == 0 => set_strict(task).map(|()| 0),
        SET_MODE_FILTER => set_filter(task, flags.0, argument),
        GET_ACTION_AVAIL if flags.0 == 0 => {
            let action = task.read_object(UserPtr::<u32>::new(argument))?;
            if ACTIONS.contains(&action) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        // The sizes of `seccomp_notif`, `seccomp_notif_resp` and `seccomp_data`.
        GET_NOTIF_SIZES if flags.0 == 0 => {
            task.write_object(UserPtr::<[u16; 3]>::new(argument), &[80, 24, 64]).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `SECCOMP_SET_MODE_STRICT`, `PR_SET_SECCOMP` with `SECCOMP_MODE_STRICT`.
pub fn set_strict(task: &CurrentTask) -> SysResult<()> {
    if task.seccomp.mode() == Mode::Filter {
        return Err(Errno::EINVAL);
    }
    task.seccomp.mode.store(Mode::Strict as u8, Ordering::SeqCst);
    task.change_answers();
    Ok(())
}

/// `SECCOMP_SET_MODE_FILTER`, `PR_SET_SECCOMP` with `SECCOMP_MODE_FILTER`. Returns the id of the thread that kept
/// `SECCOMP_FILTER_FLAG_TSYNC` from being carried out.
pub fn set_filter(task: &CurrentTask, flags: u32, program: u64) -> SysResult<i32> {
    if flags & !(TSYNC | LOG | SPEC_ALLOW | TSYNC_ESRCH) != 0 {
        return Err(Errno::EINVAL);
    }
    let filter = read_filter(task, program)?;
    if flags & TSYNC == 0 {
        task.seccomp.add(filter)?;
        task.change_answers();
        return Ok(0);
    }
    match synchronize(task, filter)? {
        Ok(()) => {
            crate::fs::direct::reconsider(&task.kernel, &task.group);
            Ok(0)
        }
        Err(_) if flags & TSYNC_ESRCH != 0 => Err(Errno::ESRCH),
        Err(other) => Ok(other.tid()),
    }
}

/// Copies a program, and checks it.
fn read_filter(task: &CurrentTask, program: u64) -> SysResult<Arc<Filter>> {
    let program = task.read_object(UserPtr::<SockProgram>::new(program))?;
    let length = usize::from(program.length);
    if length == 0 || length > MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let credentials = task.credentials();
    if !credentials.no_new_privileges && !credentials.has_own(Capability::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    Filter::new(&task.read_array(UserPtr::<SockFilter>::new(program.filter), length)?)
}
