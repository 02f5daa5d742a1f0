//! `prctl(2)`.

use abi::Errno;
use abi::signal::Signal;
use std::sync::atomic::Ordering;

use super::CurrentTask;
use super::credentials::{ALL_CAPABILITIES, Capability};
use crate::error::SyscallResult;

/// `prctl(2)`.
pub fn prctl(task: &CurrentTask, option: i32, a: u64, b: u64, c: u64, d: u64) -> SyscallResult<u64> {
    const SET_PDEATHSIG: i32 = 1;
    const GET_PDEATHSIG: i32 = 2;
    const GET_DUMPABLE: i32 = 3;
    const SET_DUMPABLE: i32 = 4;
    const GET_KEEPCAPS: i32 = 7;
    const SET_KEEPCAPS: i32 = 8;
    const SET_NAME: i32 = 15;
    const GET_NAME: i32 = 16;
    const GET_SECCOMP: i32 = 21;
    const SET_SECCOMP: i32 = 22;
    const CAPBSET_READ: i32 = 23;
    const CAPBSET_DROP: i32 = 24;
    const GET_SECUREBITS: i32 = 27;
    const SET_SECUREBITS: i32 = 28;
    const SET_TIMERSLACK: i32 = 29;
    const GET_TIMERSLACK: i32 = 30;
    const SET_CHILD_SUBREAPER: i32 = 36;
    const GET_CHILD_SUBREAPER: i32 = 37;
    const SET_NO_NEW_PRIVS: i32 = 38;
    const GET_NO_NEW_PRIVS: i32 = 39;
    const GET_TID_ADDRESS: i32 = 40;
    const SET_THP_DISABLE: i32 = 41;
    const GET_THP_DISABLE: i32 = 42;
    const CAP_AMBIENT: i32 = 47;
    const SET_VMA: i32 = 0x5356_4d41;
    const SET_PTRACER: i32 = 0x5961_6d61;
    const KEEP_CAPS: u32 = 16;
    let change = |change: &dyn Fn(&mut super::Credentials)| {
        let mut credentials = (*task.credentials()).clone();
        change(&mut credentials);
        task.set_credentials(credentials);
        Ok(0)
    };
    match option {
        SET_PDEATHSIG => {
            let signal = i32::try_from(a).map_err(|_| Errno::EINVAL)?;
            if signal != 0 && Signal::new(signal).is_none() {
                return Err(Errno::EINVAL.into());
            }
            task.group.signals.set_parent_death_signal(Signal::new(signal));
            Ok(0)
        }
        GET_PDEATHSIG => {
            let signal = task.group.signals.parent_death_signal().map_or(0, Signal::number);
            task.write_bytes(a, &signal.to_ne_bytes())?;
            Ok(0)
        }
        GET_DUMPABLE => Ok(task.group.dumpable.load(Ordering::Relaxed).into()),
        SET_DUMPABLE if a <= 1 => {
            task.group.dumpable.store(a == 1, Ordering::Relaxed);
            Ok(0)
        }
        GET_KEEPCAPS => Ok(u64::from(task.credentials().securebits & KEEP_CAPS != 0)),
        SET_KEEPCAPS if a <= 1 => change(&|credentials| {
            credentials.securebits = credentials.securebits & !KEEP_CAPS | if a == 1 { KEEP_CAPS } else { 0 };
        }),
        SET_NAME => {
            let mut name = [0; 16];
            for (index, byte) in name.iter_mut().enumerate().take(15) {
                let mut one = [0];
                task.read_bytes(a.wrapping_add(index as u64), &mut one)?;
                if one[0] == 0 {
                    break;
                }
                *byte = one[0];
            }
            task.set_comm(&name);
            if task.tid() == task.group.pid {
                task.show_name(name);
            }
            Ok(0)
        }
        GET_NAME => {
            task.write_bytes(a, &task.comm_bytes())?;
            Ok(0)
        }
        GET_SECCOMP => Ok(task.seccomp.mode() as u64),
        SET_SECCOMP if a == 1 => Ok(crate::seccomp::syscalls::set_strict(task).map(|()| 0)?),
        SET_SECCOMP if a == 2 => Ok(crate::seccomp::syscalls::set_filter(task, 0, b).map(|_| 0)?),
        GET_THP_DISABLE => Ok(0),
        SET_THP_DISABLE => Ok(0),
        CAPBSET_READ => match capability(a) {
            Some(mask) => Ok(u64::from(task.credentials().bounding & mask != 0)),
            None => Err(Errno::EINVAL.into()),
        },
        CAPBSET_DROP => {
            if !task.credentials().has_own(Capability::SETPCAP) {
                return Err(Errno::EPERM.into());
            }
            let mask = capability(a).ok_or(Errno::EINVAL)?;
            change(&|credentials| credentials.bounding &= !mask)
        }
        GET_SECUREBITS => Ok(task.credentials().securebits.into()),
        SET_SECUREBITS => {
            if !task.credentials().has_own(Capability::SETPCAP) || a > 0xff {
                return Err(Errno::EPERM.into());
            }
            // A bit is locked by the one above it.
            let old = task.credentials().securebits;
            let locked = old >> 1 & 0x55;
            if (old ^ a as u32) & locked != 0 || old & 0xaa & !(a as u32) != 0 {
                return Err(Errno::EPERM.into());
            }
            change(&|credentials| credentials.securebits = a as u32)
        }
        SET_TIMERSLACK => {
            task.timer_slack.store(if a == 0 { 50_000 } else { a }, Ordering::Relaxed);
            Ok(0)
        }
        GET_TIMERSLACK => Ok(task.timer_slack.load(Ordering::Relaxed)),
        SET_CHILD_SUBREAPER => {
            task.kernel.tasks.with(|tree| {
                if let Some(process) = tree.process_mut(task.group.pid) {
                    process.subreaper = a != 0;
                }
            });
            Ok(0)
        }
        GET_CHILD_SUBREAPER => {
            let value =
                task.kernel.tasks.with(|tree| tree.process(task.group.pid).is_some_and(|p| p.subreaper));
            task.write_bytes(a, &u32::from(value).to_ne_bytes())?;
            Ok(0)
        }
        SET_NO_NEW_PRIVS if a == 1 && b == 0 && c == 0 && d == 0 => {
            change(&|credentials| credentials.no_new_privileges = true)
        }
        GET_NO_NEW_PRIVS if a == 0 && b == 0 && c == 0 && d == 0 => {
            Ok(task.credentials().no_new_privileges.into())
        }
        GET_TID_ADDRESS => {
            task.write_bytes(a, &task.clear_child_tid.load(Ordering::Relaxed).to_ne_bytes())?;
            Ok(0)
        }
        CAP_AMBIENT => ambient(task, a, b),
        // Names of anonymous memory are for the eye only; there are no tracers.
        SET_VMA | SET_PTRACER => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The mask of a capability by its number.
fn capability(number: u64) -> Option<u64> {
    1u64.checked_shl(u32::try_from(number).ok()?).filter(|mask| mask & ALL_CAPABILITIES != 0)
}

/// `PR_CAP_AMBIENT`.
fn ambient(task: &CurrentTask, operation: u64, number: u64) -> SyscallResult<u64> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    const NO_RAISE: u32 = 64;
    let mut credentials = (*task.credentials()).clone();
    if operation == CLEAR_ALL {
        credentials.ambient = 0;
    } else {
        let mask = capability(number).ok_or(Errno::EINVAL)?;
        match operation {
            IS_SET => return Ok(u64::from(credentials.ambient & mask != 0)),
            RAISE => {
                let allowed = credentials.permitted & credentials.inheritable & mask != 0;
                if !allowed || credentials.securebits & NO_RAISE != 0 {
                    return Err(Errno::EPERM.into());
                }
                credentials.ambient |= mask;
            }
            LOWER => credentials.ambient &= !mask,
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    task.set_credentials(credentials);
    Ok(0)
}
