//! User namespaces, `user_namespaces(7)`.
//!
//! Inside of the kernel users and groups are known by the numbers of the root namespace; [`Credentials`] and files hold
//! those. A namespace maps ranges of its own numbers to those of its parent, and thereby to the kernel's. Capabilities
//! hold in the namespace that the credentials are of and in those below it.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use abi::{Errno, SysResult};
use parking_lot::RwLock;

use super::NamespaceId;
use crate::task::Credentials;
use crate::task::credentials::{ALL_CAPABILITIES, Capability};

/// How deep user namespaces may lie in each other, as in Linux.
const MAX_LEVEL: u32 = 32;
/// The most ranges of a map.
const MAX_RANGES: usize = 340;
/// What an id is shown as that has no number here.
pub const OVERFLOW: u32 = 65534;

/// A range of ids: `count` from `inside` here are those from `outside` in the root namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IdRange {
    inside: u32,
    outside: u32,
    count: u32,
}

/// The ids that a namespace knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct IdMap(Vec<IdRange>);

impl IdMap {
    fn identity() -> IdMap {
        IdMap(vec![IdRange { inside: 0, outside: 0, count: u32::MAX }])
    }

    fn id_behind(&self, id: u32) -> Option<u32> {
        let range =
            self.0.iter().find(|range| id.checked_sub(range.inside).is_some_and(|at| at < range.count))?;
        Some(range.outside + (id - range.inside))
    }

    fn number_of(&self, id: u32) -> Option<u32> {
        let range =
            self.0.iter().find(|range| id.checked_sub(range.outside).is_some_and(|at| at < range.count))?;
        Some(range.inside + (id - range.outside))
    }
}

#[derive(Debug)]
struct Maps {
    users: IdMap,
    groups: IdMap,
    /// Whether `setgroups(2)` may be used, once groups are mapped.
    setgroups: bool,
}

/// Users, groups, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// `uid_map`
    User,
    /// `gid_map`
    Group,
}

/// A numbering of users and groups.
#[derive(Debug)]
pub struct UserNamespace {
    /// Its number.
    pub id: NamespaceId,
    /// The namespace above; `None` for the root.
    pub parent: Option<Arc<UserNamespace>>,
    /// The effective user and group who made it, by the kernel's numbers.
    pub owner: (u32, u32),
    level: u32,
    maps: RwLock<Maps>,
}

static ROOT: LazyLock<Arc<UserNamespace>> = LazyLock::new(|| {
    Arc::new(UserNamespace {
        id: NamespaceId::allocate(),
        parent: None,
        owner: (0, 0),
        level: 0,
        maps: RwLock::new(Maps { users: IdMap::identity(), groups: IdMap::identity(), setgroups: true }),
    })
});

impl PartialEq for UserNamespace {
    fn eq(&self, other: &UserNamespace) -> bool {
        self.id == other.id
    }
}

impl Eq for UserNamespace {}

impl UserNamespace {
    /// The one that is above all others, whose numbers are the kernel's.
    pub fn root() -> Arc<UserNamespace> {
        Arc::clone(&ROOT)
    }

    /// Whether it is [`UserNamespace::root`].
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// The credentials of a task that makes a namespace and is in it: no ids are mapped, and it may do everything in
    /// it.
    ///
    /// # Errors
    /// `ENOSPC` if that is too deep, `EPERM` if the maker's own ids are not mapped.
    pub fn enter_new(maker: &Credentials) -> SysResult<Credentials> {
        let parent = &maker.user_namespace;
        if parent.level >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let owner = (maker.effective_uid, maker.effective_gid);
        if parent.number(IdKind::User, owner.0).is_none() || parent.number(IdKind::Group, owner.1).is_none() {
            return Err(Errno::EPERM);
        }
        let setgroups = parent.maps.read().setgroups;
        let namespace = Arc::new(UserNamespace {
            id: NamespaceId::allocate(),
            parent: Some(Arc::clone(parent)),
            owner,
            level: parent.level + 1,
            maps: RwLock::new(Maps { users: IdMap::default(), groups: IdMap::default(), setgroups }),
        });
        Ok(namespace.enter(maker))
    }

    /// The credentials of a task that has come into the namespace (`setns(2)`).
    pub fn enter(self: &Arc<Self>, before: &Credentials) -> Credentials {
        Credentials {
            permitted: ALL_CAPABILITIES,
            effective: ALL_CAPABILITIES,
            inheritable: 0,
            bounding: ALL_CAPABILITIES,
            ambient: 0,
            securebits: 0,
            user_namespace: Arc::clone(self),
            ..before.clone()
        }
    }

    /// The number of a kernel's id here, if it has one.
    pub fn number(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.parent.is_none() {
            return Some(id);
        }
        let maps = self.maps.read();
        match kind {
            IdKind::User => maps.users.number_of(id),
            IdKind::Group => maps.groups.number_of(id),
        }
    }

    /// The number that a kernel's id is shown as.
    pub fn shown(&self, kind: IdKind, id: u32) -> u32 {
        self.number(kind, id).unwrap_or(OVERFLOW)
    }

    /// The kernel's id of a number here. `u32::MAX` stands for no id and stays: `EINVAL` for one that is not mapped.
    pub fn id_of(&self, kind: IdKind, number: u32) -> SysResult<u32> {
        if self.parent.is_none() || number == u32::MAX {
            return Ok(number);
        }
        let maps = self.maps.read();
        let map = match kind {
            IdKind::User => &maps.users,
            IdKind::Group => &maps.groups,
        };
        map.id_behind(number).ok_or(Errno::EINVAL)
    }

    /// Whether this is `other` or lies above it.
    pub fn contains(&self, other: &UserNamespace) -> bool {
        let mut at = Some(other);
        while let Some(namespace) = at {
            if namespace == self {
                return true;
            }
            at = namespace.parent.as_deref();
        }
        false
    }

    /// Whether `setgroups(2)` may be used.
    pub fn allows_setgroups(&self) -> bool {
        let maps = self.maps.read();
        maps.setgroups && !maps.groups.0.is_empty()
    }

    /// The text of `/proc/PID/setgroups`.
    pub fn setgroups_text(&self) -> &'static str {
        if self.maps.read().setgroups { "allow\n" } else { "deny\n" }
    }

    /// Writes `/proc/PID/setgroups`: `EPERM` without the right to, or when it is too late.
    pub fn write_setgroups(&self, writer: &Credentials, text: &[u8]) -> SysResult<()> {
        if !writer.has_in(self, Capability::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut maps = self.maps.write();
        match text {
            b"allow" if maps.setgroups => Ok(()),
            b"allow" => Err(Errno::EPERM),
            b"deny" if maps.groups.0.is_empty() => {
                maps.setgroups = false;
                Ok(())
            }
            b"deny" => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The text of `uid_map` or `gid_map` for a reader in namespace `reader`: outer numbers are those of the reader's
    /// namespace, or of the parent if it is this one.
    pub fn map_text(&self, kind: IdKind, reader: &UserNamespace) -> String {
        let outer = if reader == self { self.parent.as_deref().unwrap_or(self) } else { reader };
        let maps = self.maps.read();
        let map = match kind {
            IdKind::User => &maps.users,
            IdKind::Group => &maps.groups,
        };
        let ranges = map.0.clone();
        drop(maps);
        let mut text = String::new();
        for range in ranges {
            // Numbers that the reader does not know are shown as no id at all.
            let outside = outer.number(kind, range.outside).unwrap_or(u32::MAX);
            let _ = writeln!(text, "{:>10} {:>10} {:>10}", range.inside, outside, range.count);
        }
        text
    }

    /// Writes `uid_map` or `gid_map`: once, by somebody in it or in its parent who may.
    ///
    /// # Errors
    /// `EINVAL` for a text that is no map, `EPERM` otherwise.
    pub fn write_map(&self, kind: IdKind, writer: &Credentials, text: &[u8]) -> SysResult<()> {
        let parent = self.parent.as_deref().ok_or(Errno::EPERM)?;
        let own = *writer.user_namespace == *self;
        if !own && *writer.user_namespace != *parent {
            return Err(Errno::EPERM);
        }
        let ranges = parse_map(text)?;
        if !writer.has_in(self, Capability::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let mut maps = self.maps.write();
        let setgroups = maps.setgroups;
        let map = match kind {
            IdKind::User => &mut maps.users,
            IdKind::Group => &mut maps.groups,
        };
        if !map.0.is_empty() {
            return Err(Errno::EPERM);
        }
        let mut mapped = Vec::with_capacity(ranges.len());
        for range in &ranges {
            let first = parent.id_of(kind, range.outside).map_err(|_| Errno::EPERM)?;
            let last = range.outside + (range.count - 1);
            if parent.id_of(kind, last).map_err(|_| Errno::EPERM)? != first + (range.count - 1) {
                return Err(Errno::EPERM);
            }
            mapped.push(IdRange { outside: first, ..*range });
        }
        let (capability, own_id) = match kind {
            IdKind::User => (Capability::SETUID, writer.effective_uid),
            IdKind::Group => (Capability::SETGID, writer.effective_gid),
        };
        // One's own id may be mapped by anybody; but a group not as long as setgroups(2) could drop it.
        let itself = mapped.len() == 1 && mapped[0].count == 1 && mapped[0].outside == own_id;
        let harmless = itself && self.owner.0 == writer.effective_uid && (kind == IdKind::User || !setgroups);
        if !harmless && !writer.has_in(parent, capability) {
            return Err(Errno::EPERM);
        }
        map.0 = mapped;
        Ok(())
    }
}

/// Lines of three numbers; ranges that overlap or wrap around are invalid.
fn parse_map(text: &[u8]) -> SysResult<Vec<IdRange>> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let mut ranges: Vec<IdRange> = Vec::new();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let numbers: Option<Vec<u32>> = line.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
        let Some(&[inside, outside, count]) = numbers.as_deref() else { return Err(Errno::EINVAL) };
        let range = IdRange { inside, outside, count };
        let ends = inside.checked_add(count).and(outside.checked_add(count));
        let overlaps = |other: &IdRange| {
            let meet = |a: u32, b: u32| a < b + other.count && b < a + count;
            meet(inside, other.inside) || meet(outside, other.outside)
        };
        if count == 0 || ends.is_none() || ranges.len() >= MAX_RANGES || ranges.iter().any(overlaps) {
            return Err(Errno::EINVAL);
        }
        ranges.push(range);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_lines_of_three_numbers_that_do_not_overlap() {
        assert!(parse_map(b"0 1000 1\n1 100000 65536\n").is_ok());
        for wrong in [&b""[..], b"0 0\n", b"0 0 0", b"0 0 1 2", b"x 0 1", b"0 0 2\n1 5 1", b"0 5 2\n7 6 1"] {
            assert_eq!(parse_map(wrong), Err(Errno::EINVAL), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(parse_map(b"4294967295 0 1"), Err(Errno::EINVAL));
    }

    #[test]
    fn ids_are_translated_through_all_levels() {
        let root = Credentials::new(0, 0);
        let outer = UserNamespace::enter_new(&root).unwrap();
        let namespace = Arc::clone(&outer.user_namespace);
        namespace.write_map(IdKind::User, &root, b"0 100000 1000").unwrap();
        namespace.write_map(IdKind::Group, &root, b"0 100000 1000").unwrap();
        assert_eq!(namespace.number(IdKind::User, 100_005), Some(5));
        assert_eq!(namespace.shown(IdKind::User, 5), OVERFLOW);
        assert_eq!(namespace.id_of(IdKind::User, 1000), Err(Errno::EINVAL));
        // Nobody who is not mapped can go further down.
        assert_eq!(UserNamespace::enter_new(&outer).err(), Some(Errno::EPERM));
        let mapped = Credentials { effective_uid: 100_000, effective_gid: 100_000, ..outer.clone() };
        let inner = UserNamespace::enter_new(&mapped).unwrap().user_namespace;
        inner.write_map(IdKind::User, &mapped, b"7 3 2").unwrap();
        assert_eq!(inner.id_of(IdKind::User, 8), Ok(100_004));
        assert_eq!(inner.map_text(IdKind::User, &inner), "         7          3          2\n");
        assert_eq!(
            inner.map_text(IdKind::User, &UserNamespace::root()),
            "         7     100003          2\n"
        );
        assert_eq!(inner.write_map(IdKind::User, &mapped, b"7 3 2"), Err(Errno::EPERM));
    }

    #[test]
    fn an_ordinary_user_maps_itself_and_nobody_else() {
        let user = Credentials::new(1000, 1000);
        let inside = UserNamespace::enter_new(&user).unwrap();
        let namespace = &inside.user_namespace;
        assert_eq!(namespace.write_map(IdKind::User, &inside, b"0 0 1"), Err(Errno::EPERM));
        assert_eq!(namespace.write_map(IdKind::User, &inside, b"0 1000 2"), Err(Errno::EPERM));
        assert_eq!(namespace.write_map(IdKind::User, &inside, b"0 1000 1"), Ok(()));
        assert_eq!(namespace.write_map(IdKind::Group, &inside, b"0 1000 1"), Err(Errno::EPERM));
        assert_eq!(namespace.write_setgroups(&inside, b"deny"), Ok(()));
        assert_eq!(namespace.write_map(IdKind::Group, &inside, b"0 1000 1"), Ok(()));
        assert!(!namespace.allows_setgroups());
        assert!(inside.has_in(namespace, Capability::SYS_ADMIN) && !inside.has(Capability::SYS_ADMIN));
        assert!(user.has_in(namespace, Capability::SYS_ADMIN), "who made it may do everything in it");
        assert!(!Credentials::new(1001, 1001).has_in(namespace, Capability::SYS_ADMIN));
    }
}
