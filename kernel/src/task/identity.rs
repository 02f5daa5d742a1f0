//! System calls that change who a task is: `credentials(7)`, `capabilities(7)`.

use abi::{Errno, SysResult};

use super::credentials::Capability;
use super::{Credentials, CurrentTask, Pid};
use crate::namespace::user::IdKind;
use crate::user::UserPtr;

/// An id that means "leave it as it is".
const KEEP: u32 = u32::MAX;
/// The most supplementary groups.
const NGROUPS_MAX: usize = 65536;

const SECBIT_NOROOT: u32 = 1;
const SECBIT_NO_SETUID_FIXUP: u32 = 4;
const SECBIT_KEEP_CAPS: u32 = 16;

impl Credentials {
    /// What a change of user ids does to the capabilities, unless `SECBIT_NO_SETUID_FIXUP`.
    fn fix_capabilities(&mut self, before: &Credentials) {
        if self.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
            return;
        }
        let was_root =
            [before.uid, before.effective_uid, before.saved_uid].iter().any(|uid| self.is_root_user(*uid));
        let is_root =
            [self.uid, self.effective_uid, self.saved_uid].iter().any(|uid| self.is_root_user(*uid));
        if was_root && !is_root {
            if self.securebits & SECBIT_KEEP_CAPS == 0 {
                self.permitted = 0;
                self.effective = 0;
            }
            self.ambient = 0;
        }
        let (before_root, root) =
            (self.is_root_user(before.effective_uid), self.is_root_user(self.effective_uid));
        if before_root && !root {
            self.effective = 0;
        }
        if !before_root && root {
            self.effective = self.permitted;
        }
    }

    /// What a change of the file system uid alone does to the capabilities that concern files.
    fn fix_file_capabilities(&mut self, before: &Credentials) {
        const FILES: [Capability; 7] = [
            Capability::CHOWN,
            Capability::DAC_OVERRIDE,
            Capability::DAC_READ_SEARCH,
            Capability::FOWNER,
            Capability::FSETID,
            Capability::MKNOD,
            Capability::MAC_OVERRIDE,
        ];
        if self.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
            return;
        }
        let mask = FILES.iter().fold(0, |all, capability| all | capability.mask());
        let (before_root, root) = (self.is_root_user(before.fs_uid), self.is_root_user(self.fs_uid));
        if before_root && !root {
            self.effective &= !mask;
        }
        if !before_root && root {
            self.effective |= self.permitted & mask;
        }
    }
}

/// Changes the credentials by `change`, and the capabilities as the change of ids demands.
fn change(task: &CurrentTask, change: impl FnOnce(&mut Credentials) -> SysResult<()>) -> SysResult<()> {
    let before = task.credentials();
    let mut after = (*before).clone();
    change(&mut after)?;
    after.fix_capabilities(&before);
    task.set_credentials(after);
    Ok(())
}

/// `setuid(2)`.
pub fn setuid(task: &CurrentTask, uid: u32) -> SysResult<()> {
    change(task, |credentials| {
        if uid == KEEP {
            return Err(Errno::EINVAL);
        }
        let uid = credentials.uid_of(uid)?;
        if credentials.has_own(Capability::SETUID) {
            credentials.uid = uid;
            credentials.saved_uid = uid;
        } else if uid != credentials.uid && uid != credentials.saved_uid {
            return Err(Errno::EPERM);
        }
        credentials.effective_uid = uid;
        credentials.fs_uid = uid;
        Ok(())
    })
}

/// `setgid(2)`.
pub fn setgid(task: &CurrentTask, gid: u32) -> SysResult<()> {
    change(task, |credentials| {
        if gid == KEEP {
            return Err(Errno::EINVAL);
        }
        let gid = credentials.gid_of(gid)?;
        if credentials.has_own(Capability::SETGID) {
            credentials.gid = gid;
            credentials.saved_gid = gid;
        } else if gid != credentials.gid && gid != credentials.saved_gid {
            return Err(Errno::EPERM);
        }
        credentials.effective_gid = gid;
        credentials.fs_gid = gid;
        Ok(())
    })
}

/// `setreuid(2)`.
pub fn setreuid(task: &CurrentTask, real: u32, effective: u32) -> SysResult<()> {
    change(task, |c| {
        let (real, effective) = (c.uid_of(real)?, c.uid_of(effective)?);
        let privileged = c.has_own(Capability::SETUID);
        let real_allowed = [KEEP, c.uid, c.effective_uid].contains(&real);
        let effective_allowed = [KEEP, c.uid, c.effective_uid, c.saved_uid].contains(&effective);
        if !(privileged || real_allowed && effective_allowed) {
            return Err(Errno::EPERM);
        }
        let old_real = c.uid;
        if real != KEEP {
            c.uid = real;
        }
        if effective != KEEP {
            c.effective_uid = effective;
        }
        if real != KEEP || (effective != KEEP && effective != old_real) {
            c.saved_uid = c.effective_uid;
        }
        c.fs_uid = c.effective_uid;
        Ok(())
    })
}

/// `setregid(2)`.
pub fn setregid(task: &CurrentTask, real: u32, effective: u32) -> SysResult<()> {
    change(task, |c| {
        let (real, effective) = (c.gid_of(real)?, c.gid_of(effective)?);
        let privileged = c.has_own(Capability::SETGID);
        let real_allowed = [KEEP, c.gid, c.effective_gid].contains(&real);
        let effective_allowed = [KEEP, c.gid, c.effective_gid, c.saved_gid].contains(&effective);
        if !(privileged || real_allowed && effective_allowed) {
            return Err(Errno::EPERM);
        }
        let old_real = c.gid;
        if real != KEEP {
            c.gid = real;
        }
        if effective != KEEP {
            c.effective_gid = effective;
        }
        if real != KEEP || (effective != KEEP && effective != old_real) {
            c.saved_gid = c.effective_gid;
        }
        c.fs_gid = c.effective_gid;
        Ok(())
    })
}

/// `setresuid(2)`.
pub fn setresuid(task: &CurrentTask, real: u32, effective: u32, saved: u32) -> SysResult<()> {
    change(task, |c| {
        let (real, effective, saved) = (c.uid_of(real)?, c.uid_of(effective)?, c.uid_of(saved)?);
        let known = [KEEP, c.uid, c.effective_uid, c.saved_uid];
        if !c.has_own(Capability::SETUID) && ![real, effective, saved].iter().all(|id| known.contains(id)) {
            return Err(Errno::EPERM);
        }
        let set = |slot: &mut u32, id: u32| *slot = if id == KEEP { *slot } else { id };
        set(&mut c.uid, real);
        set(&mut c.effective_uid, effective);
        set(&mut c.saved_uid, saved);
        c.fs_uid = c.effective_uid;
        Ok(())
    })
}

/// `setresgid(2)`.
pub fn setresgid(task: &CurrentTask, real: u32, effective: u32, saved: u32) -> SysResult<()> {
    change(task, |c| {
        let (real, effective, saved) = (c.gid_of(real)?, c.gid_of(effective)?, c.gid_of(saved)?);
        let known = [KEEP, c.gid, c.effective_gid, c.saved_gid];
        if !c.has_own(Capability::SETGID) && ![real, effective, saved].iter().all(|id| known.contains(id)) {
            return Err(Errno::EPERM);
        }
        let set = |slot: &mut u32, id: u32| *slot = if id == KEEP { *slot } else { id };
        set(&mut c.gid, real);
        set(&mut c.effective_gid, effective);
        set(&mut c.saved_gid, saved);
        c.fs_gid = c.effective_gid;
        Ok(())
    })
}

/// `getresuid(2)`.
pub fn getresuid(
    task: &CurrentTask,
    real: UserPtr<u32>,
    effective: UserPtr<u32>,
    saved: UserPtr<u32>,
) -> SysResult<()> {
    let c = task.credentials();
    task.write_object(real, &c.shown_uid(c.uid))?;
    task.write_object(effective, &c.shown_uid(c.effective_uid))?;
    task.write_object(saved, &c.shown_uid(c.saved_uid))
}

/// `getresgid(2)`.
pub fn getresgid(
    task: &CurrentTask,
    real: UserPtr<u32>,
    effective: UserPtr<u32>,
    saved: UserPtr<u32>,
) -> SysResult<()> {
    let c = task.credentials();
    task.write_object(real, &c.shown_gid(c.gid))?;
    task.write_object(effective, &c.shown_gid(c.effective_gid))?;
    task.write_object(saved, &c.shown_gid(c.saved_gid))
}

/// `setfsuid(2)`: returns the old id, whether it was changed or not.
pub fn setfsuid(task: &CurrentTask, uid: u32) -> SysResult<u32> {
    let before = task.credentials();
    let uid = before.uid_of(uid).unwrap_or(KEEP);
    let known = [before.uid, before.effective_uid, before.saved_uid, before.fs_uid].contains(&uid);
    if uid != KEEP && (known || before.has_own(Capability::SETUID)) {
        let mut after = (*before).clone();
        after.fs_uid = uid;
        after.fix_file_capabilities(&before);
        task.set_credentials(after);
    }
    Ok(before.shown_uid(before.fs_uid))
}

/// `setfsgid(2)`: returns the old id, whether it was changed or not.
pub fn setfsgid(task: &CurrentTask, gid: u32) -> SysResult<u32> {
    let before = task.credentials();
    let gid = before.gid_of(gid).unwrap_or(KEEP);
    let known = [before.gid, before.effective_gid, before.saved_gid, before.fs_gid].contains(&gid);
    if gid != KEEP && (known || before.has_own(Capability::SETGID)) {
        let mut after = (*before).clone();
        after.fs_gid = gid;
        task.set_credentials(after);
    }
    Ok(before.shown_gid(before.fs_gid))
}

/// `getgroups(2)`.
pub fn getgroups(task: &CurrentTask, size: i32, list: UserPtr<u32>) -> SysResult<usize> {
    let credentials = task.credentials();
    let groups: Vec<u32> = credentials.groups.iter().map(|gid| credentials.shown_gid(*gid)).collect();
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size != 0 {
        if size < groups.len() {
            return Err(Errno::EINVAL);
        }
        task.write_array(list, &groups)?;
    }
    Ok(groups.len())
}

/// `setgroups(2)`.
pub fn setgroups(task: &CurrentTask, size: i32, list: UserPtr<u32>) -> SysResult<()> {
    let mut credentials = (*task.credentials()).clone();
    if !credentials.has_own(Capability::SETGID) || !credentials.user_namespace.allows_setgroups() {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(size).ok().filter(|size| *size <= NGROUPS_MAX).ok_or(Errno::EINVAL)?;
    let numbers: Vec<u32> = task.read_array(list, size)?;
    let groups: SysResult<Vec<u32>> = numbers.into_iter().map(|gid| credentials.gid_of(gid)).collect();
    let mut groups = groups?;
    groups.sort_unstable();
    credentials.groups = groups;
    task.set_credentials(credentials);
    Ok(())
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// Reads the header of `capget(2)` and `capset(2)`: how many 32-bit parts follow, and whose they are. An unknown
/// version is answered with ours.
fn capability_header(task: &CurrentTask, header: UserPtr<[u32; 2]>) -> SysResult<Result<(usize, Pid), ()>> {
    let [version, pid] = task.read_object(header)?;
    match version {
        VERSION_1 => Ok(Ok((1, pid.cast_signed()))),
        VERSION_2 | VERSION_3 => Ok(Ok((2, pid.cast_signed()))),
        _ => {
            task.write_object(header, &[VERSION_3, pid])?;
            Ok(Err(()))
        }
    }
}

/// `capget(2)`.
pub fn capget(task: &CurrentTask, header: UserPtr<[u32; 2]>, data: UserPtr<u32>) -> SysResult<()> {
    let (parts, pid) = match capability_header(task, header)? {
        Ok(found) => found,
        Err(()) if data.is_null() => return Ok(()),
        Err(()) => return Err(Errno::EINVAL),
    };
    let credentials = match pid {
        0 => task.credentials(),
        pid if pid < 0 => return Err(Errno::EINVAL),
        number => task.find_task(number)?.credentials(),
    };
    if data.is_null() {
        return Ok(());
    }
    let sets = [credentials.effective, credentials.permitted, credentials.inheritable];
    let words: Vec<u32> = (0..parts).flat_map(|part| sets.map(|set| (set >> (32 * part)) as u32)).collect();
    task.write_array(data, &words)
}

/// `capset(2)`.
pub fn capset(task: &CurrentTask, header: UserPtr<[u32; 2]>, data: UserPtr<u32>) -> SysResult<()> {
    let Ok((parts, pid)) = capability_header(task, header)? else { return Err(Errno::EINVAL) };
    if pid != 0 && pid != task.number() {
        return Err(Errno::EPERM);
    }
    let words = task.read_array(data, parts * 3)?;
    let set = |index: usize| {
        (0..parts).fold(0, |all, part| all | u64::from(words[part * 3 + index]) << (32 * part))
    };
    let all = super::credentials::ALL_CAPABILITIES;
    let (effective, permitted, inheritable) = (set(0) & all, set(1) & all, set(2) & all);
    let mut c = (*task.credentials()).clone();
    let may_inherit =
        if c.has_own(Capability::SETPCAP) { c.inheritable | c.bounding } else { c.inheritable | c.permitted };
    if inheritable & !may_inherit & !c.permitted != 0
        || inheritable & !(c.inheritable | c.bounding) != 0
        || permitted & !c.permitted != 0
        || effective & !permitted != 0
    {
        return Err(Errno::EPERM);
    }
    c.effective = effective;
    c.permitted = permitted;
    c.inheritable = inheritable;
    c.ambient &= permitted & inheritable;
    task.set_credentials(c);
    Ok(())
}

/// What `execve(2)` makes of the capabilities: root gets all of the bounding set, others keep the ambient ones.
/// `set_ids` are the ids that the program's set-user-id and set-group-id bits give.
pub(super) fn credentials_for_exec(before: &Credentials, set_ids: (Option<u32>, Option<u32>)) -> Credentials {
    let mut after = before.clone();
    // An id that is not mapped cannot be taken on.
    let namespace = &before.user_namespace;
    let known = set_ids.0.is_none_or(|uid| namespace.number(IdKind::User, uid).is_some())
        && set_ids.1.is_none_or(|gid| namespace.number(IdKind::Group, gid).is_some());
    let (uid, gid) = if before.no_new_privileges || !known { (None, None) } else { set_ids };
    after.effective_uid = uid.unwrap_or(before.effective_uid);
    after.effective_gid = gid.unwrap_or(before.effective_gid);
    let privileged = uid.is_some() || gid.is_some();
    if privileged {
        after.ambient = 0;
    }
    let root_rules = before.securebits & SECBIT_NOROOT == 0;
    let is_root = root_rules && (after.is_root_user(after.uid) || after.is_root_user(after.effective_uid));
    after.permitted = if is_root { after.inheritable | after.bounding } else { after.ambient };
    after.effective =
        if root_rules && after.is_root_user(after.effective_uid) { after.permitted } else { after.ambient };
    after.saved_uid = after.effective_uid;
    after.saved_gid = after.effective_gid;
    after.fs_uid = after.effective_uid;
    after.fs_gid = after.effective_gid;
    after.securebits &= !SECBIT_KEEP_CAPS;
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_ambient_capabilities_has_none_after_exec() {
        let mut user = Credentials::new(1000, 1000);
        user.permitted = 0xff;
        let after = credentials_for_exec(&user, (None, None));
        assert_eq!((after.permitted, after.effective), (0, 0));
    }

    #[test]
    fn a_set_user_id_program_of_root_gives_all() {
        let user = Credentials::new(1000, 1000);
        let after = credentials_for_exec(&user, (Some(0), None));
        assert_eq!(after.effective_uid, 0);
        assert_eq!(after.effective, super::super::credentials::ALL_CAPABILITIES);
        let locked = Credentials { no_new_privileges: true, ..user };
        assert_eq!(credentials_for_exec(&locked, (Some(0), None)).effective_uid, 1000);
    }
}
