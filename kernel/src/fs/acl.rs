//! Access control lists, `acl(5)`: who else than owner, group and others may do what with a file, and what files that are
//! made in a directory get.
//!
//! An [`Acl`] is a valid list; what a program sends is an [`Unchecked`] one at first, because Linux finds out at two times what
//! is wrong with it. Only file systems in memory keep lists ([`Acls`] in each file); elsewhere the mode says all.

use std::sync::Arc;

use abi::{Errno, SysResult};

use super::permissions::Access;
use crate::namespace::user::{IdKind, UserNamespace};
use crate::task::Credentials;

/// The version of the format that programs use.
const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// The id of an entry that needs none.
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Which list of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclKind {
    /// By which access to the file is decided.
    Access,
    /// What files get that are made in this directory.
    Default,
}

impl AclKind {
    /// Both, in the order in which their names are listed.
    pub const ALL: [AclKind; 2] = [AclKind::Access, AclKind::Default];

    /// The extended attribute that shows the list.
    pub fn attribute(self) -> &'static [u8] {
        match self {
            AclKind::Access => b"system.posix_acl_access",
            AclKind::Default => b"system.posix_acl_default",
        }
    }

    /// The list that an extended attribute of this name shows.
    pub fn of_attribute(name: &[u8]) -> Option<AclKind> {
        AclKind::ALL.into_iter().find(|kind| kind.attribute() == name)
    }
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    owner: Access,
    /// Users by name, with the kernel's ids.
    users: Box<[(u32, Access)]>,
    group: Access,
    groups: Box<[(u32, Access)]>,
    /// What users by name and groups get at most; there is one if there are any by name.
    mask: Option<Access>,
    other: Access,
}

/// What stands in place of a list, of which only the form is known to be right.
#[derive(Debug, PartialEq, Eq)]
pub struct Unchecked(Vec<(u16, u16, u32)>);

impl Unchecked {
    /// Reads an attribute's value; `None` if it has no entries, which stands for no list.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for another version of the format, `EINVAL` for what is none or has entries of an unknown kind.
    pub fn read(value: &[u8]) -> SysResult<Option<Unchecked>> {
        if value.is_empty() {
            return Ok(None);
        }
        let (header, entries) = value.split_first_chunk::<HEADER>().ok_or(Errno::EINVAL)?;
        if u32::from_le_bytes(*header) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let (entries, []) = entries.as_chunks::<ENTRY>() else { return Err(Errno::EINVAL) };
        let entries = entries.iter().map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| {
            let tag = u16::from_le_bytes([t0, t1]);
            if !matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) {
                return Err(Errno::EINVAL);
            }
            Ok((tag, u16::from_le_bytes([p0, p1]), u32::from_le_bytes([i0, i1, i2, i3])))
        });
        let entries = entries.collect::<SysResult<Vec<_>>>()?;
        Ok((!entries.is_empty()).then_some(Unchecked(entries)))
    }

    /// Reads the text form, as GNU tar has it in archives: entries like `user:1000:rw-`, on lines or between commas. Names
    /// of users stand for nobody here; a fourth field may give the number.
    pub fn read_text(text: &str) -> Option<Unchecked> {
        let lines = text.split(['\n', ',']).map(|line| line.split('#').next().unwrap_or_default().trim());
        let entries = lines.filter(|line| !line.is_empty()).map(|line| {
            let mut fields = line.split(':').map(str::trim);
            let (kind, name, letters) = (fields.next()?, fields.next()?, fields.next()?);
            let number = fields.next().unwrap_or(name);
            let (tag, id) = match (kind, name.is_empty()) {
                ("user" | "u", true) => (USER_OBJ, NO_ID),
                ("user" | "u", false) => (USER, number.parse().ok()?),
                ("group" | "g", true) => (GROUP_OBJ, NO_ID),
                ("group" | "g", false) => (GROUP, number.parse().ok()?),
                ("mask" | "m", true) => (MASK, NO_ID),
                ("other" | "o", true) => (OTHER, NO_ID),
                _ => return None,
            };
            let allowed = letters.chars().try_fold(0, |allowed, letter| match letter {
                'r' => Some(allowed | 4),
                'w' => Some(allowed | 2),
                'x' => Some(allowed | 1),
                '-' => Some(allowed),
                _ => None,
            })?;
            Some((tag, allowed, id))
        });
        entries.collect::<Option<Vec<_>>>().map(Unchecked)
    }

    /// The list, whose ids are numbers of a user namespace.
    ///
    /// # Errors
    /// `EINVAL` if entries are missing, too many or in another order, or an id has no meaning.
    pub fn check(&self, namespace: &UserNamespace) -> SysResult<Acl> {
        let mut rest = &self.0[..];
        let owner = take(&mut rest, USER_OBJ)?.ok_or(Errno::EINVAL)?.1;
        let users = named(&mut rest, USER, namespace, IdKind::User)?;
        let group = take(&mut rest, GROUP_OBJ)?.ok_or(Errno::EINVAL)?.1;
        let groups = named(&mut rest, GROUP, namespace, IdKind::Group)?;
        let mask = take(&mut rest, MASK)?.map(|(_, allowed)| allowed);
        let other = take(&mut rest, OTHER)?.ok_or(Errno::EINVAL)?.1;
        if !rest.is_empty() || mask.is_none() && !(users.is_empty() && groups.is_empty()) {
            return Err(Errno::EINVAL);
        }
        Ok(Acl { owner, users, group, groups, mask, other })
    }
}

/// The next entry, if it is of this kind.
fn take(rest: &mut &[(u16, u16, u32)], tag: u16) -> SysResult<Option<(u32, Access)>> {
    let Some(((_, allowed, id), others)) = rest.split_first().filter(|(entry, _)| entry.0 == tag) else {
        return Ok(None);
    };
    *rest = others;
    let allowed = Access::from_bits(u32::from(*allowed)).ok_or(Errno::EINVAL)?;
    Ok(Some((*id, allowed)))
}

/// The next entries, as far as they are of this kind, with the kernel's ids.
fn named(
    rest: &mut &[(u16, u16, u32)],
    tag: u16,
    namespace: &UserNamespace,
    kind: IdKind,
) -> SysResult<Box<[(u32, Access)]>> {
    let mut entries = Vec::new();
    while let Some((number, allowed)) = take(rest, tag)? {
        let id = namespace.id_of(kind, number)?;
        if id == NO_ID {
            return Err(Errno::EINVAL);
        }
        entries.push((id, allowed));
    }
    Ok(entries.into())
}

impl Acl {
    /// The attribute's value, with ids as a user namespace calls them.
    pub fn to_bytes(&self, namespace: &UserNamespace) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        let mut put = |tag: u16, id: u32, allowed: Access| {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((allowed.bits() as u16).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        };
        let number = |kind, id| namespace.number(kind, id).unwrap_or(NO_ID);
        put(USER_OBJ, NO_ID, self.owner);
        for (id, allowed) in &self.users {
            put(USER, number(IdKind::User, *id), *allowed);
        }
        put(GROUP_OBJ, NO_ID, self.group);
        for (id, allowed) in &self.groups {
            put(GROUP, number(IdKind::Group, *id), *allowed);
        }
        if let Some(mask) = self.mask {
            put(MASK, NO_ID, mask);
        }
        put(OTHER, NO_ID, self.other);
        bytes
    }

    /// Whether somebody who is not the file's owner may access it; `group` is the file's.
    pub fn allows(&self, credentials: &Credentials, group: u32, access: Access) -> bool {
        let masked = |allowed: Access| allowed & self.mask.unwrap_or(Access::all());
        if let Some((_, allowed)) = self.users.iter().find(|(id, _)| *id == credentials.fs_uid) {
            return masked(*allowed).contains(access);
        }
        let own_group = (group, self.group);
        let groups = std::iter::once(&own_group).chain(&self.groups);
        let mut own = groups.filter(|(id, _)| credentials.in_group(*id)).peekable();
        match own.peek() {
            None => self.other.contains(access),
            Some(_) => own.any(|(_, allowed)| masked(*allowed).contains(access)),
        }
    }

    /// Whether it says no more than permission bits can.
    pub fn is_mode(&self) -> bool {
        self.mask.is_none()
    }

    /// The nine permission bits of a file with this list.
    pub fn mode(&self) -> u32 {
        self.owner.bits() << 6 | self.mask.unwrap_or(self.group).bits() << 3 | self.other.bits()
    }

    /// The list after `chmod(2)`.
    pub fn with_mode(&self, mode: u32) -> Acl {
        let mut list = self.clone();
        let bits = |shift: u32| Access::from_bits_truncate(mode >> shift);
        list.owner = bits(6);
        *list.mask.as_mut().unwrap_or(&mut list.group) = bits(3);
        list.other = bits(0);
        list
    }
}

/// The lists of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are those of AclKind")]
pub struct Acls {
    pub access: Option<Arc<Acl>>,
    pub default: Option<Arc<Acl>>,
}

impl Acls {
    /// What a file gets that is made with `mode` in a directory with this default list: its permission bits, and its lists.
    pub fn inherited(default: &Arc<Acl>, mode: u32, is_directory: bool) -> (u32, Acls) {
        let mode = mode & (!0o777 | default.mode());
        let same = mode & 0o777 == default.mode();
        let of_file = || if same { Arc::clone(default) } else { Arc::new(default.with_mode(mode)) };
        let access = (!default.is_mode()).then(of_file);
        (mode, Acls { access, default: is_directory.then(|| Arc::clone(default)) })
    }

    /// One of them.
    pub fn get(&self, kind: AclKind) -> Option<&Arc<Acl>> {
        match kind {
            AclKind::Access => self.access.as_ref(),
            AclKind::Default => self.default.as_ref(),
        }
    }

    /// Gives a file with this mode a list or takes it away; returns the new mode. An access list that says no more than the
    /// mode is not kept.
    pub fn set(&mut self, kind: AclKind, list: Option<Arc<Acl>>, mode: u32) -> u32 {
        match kind {
            AclKind::Default => {
                self.default = list;
                mode
            }
            AclKind::Access => {
                let mode = list.as_ref().map_or(mode, |list| mode & !0o777 | list.mode());
                self.access = list.filter(|list| !list.is_mode());
                mode
            }
        }
    }

    /// The file's mode was changed.
    pub fn mode_changed(&mut self, mode: u32) {
        if let Some(list) = &mut self.access {
            *list = Arc::new(list.with_mode(mode));
        }
    }
}

#[cfg(test)]
mod tests;
