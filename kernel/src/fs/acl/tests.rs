use proptest::prelude::*;

use super::*;

fn root() -> Arc<UserNamespace> {
    UserNamespace::root()
}

fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, allowed, id) in entries {
        bytes.extend([&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    bytes
}

fn read(bytes: &[u8]) -> SysResult<Option<Acl>> {
    Unchecked::read(bytes)?.map(|list| list.check(&root())).transpose()
}

fn list(text: &str) -> Acl {
    Unchecked::read_text(text).expect("it is text").check(&root()).expect("it is valid")
}

#[test]
fn a_list_is_read_and_shown_in_the_format_of_programs() {
    let entries =
        [(USER_OBJ, 7, NO_ID), (USER, 6, 5), (GROUP_OBJ, 4, NO_ID), (MASK, 5, NO_ID), (OTHER, 0, NO_ID)];
    let bytes = value(&entries);
    let read_back = read(&bytes).unwrap().unwrap();
    assert_eq!(read_back, list("user::rwx\nuser:5:rw-\ngroup::r--\nmask::r-x\nother::---\n"));
    assert_eq!(read_back.to_bytes(&root()), bytes);
    // Ids of entries that need none do not matter.
    let with_ids = entries.map(|(tag, allowed, _)| (tag, allowed, 5));
    assert_eq!(read(&value(&with_ids)), Ok(Some(read_back)));
    assert_eq!(read(b""), Ok(None));
    assert_eq!(read(&value(&[])), Ok(None));
}

#[test]
fn what_is_no_list_is_refused() {
    assert_eq!(read(b"\x02\0\0"), Err(Errno::EINVAL));
    assert_eq!(read(b"\x01\0\0\0"), Err(Errno::EOPNOTSUPP));
    assert_eq!(read(b"\x02\0\0\0\x01"), Err(Errno::EINVAL));
    assert_eq!(Unchecked::read(&value(&[(3, 7, 0)])), Err(Errno::EINVAL));
    const OWNER: (u16, u16, u32) = (USER_OBJ, 6, NO_ID);
    const OWN_GROUP: (u16, u16, u32) = (GROUP_OBJ, 6, NO_ID);
    const MOST: (u16, u16, u32) = (MASK, 6, NO_ID);
    const OTHERS: (u16, u16, u32) = (OTHER, 6, NO_ID);
    assert!(read(&value(&[OWNER, OWN_GROUP, OTHERS])).is_ok());
    for entries in [
        &[OWNER][..],
        &[OWNER, OWN_GROUP],
        &[OWNER, OTHERS],
        &[OWN_GROUP, OTHERS],
        &[OWNER, OWNER, OWN_GROUP, OTHERS],
        &[OWN_GROUP, OWNER, OTHERS],
        &[OWNER, OWN_GROUP, OTHERS, MOST],
        &[OWNER, OWN_GROUP, OTHERS, OTHERS],
        &[OWNER, OWN_GROUP, MOST, MOST, OTHERS],
        &[OWNER, (USER, 4, 1), OWN_GROUP, OTHERS],
        &[OWNER, OWN_GROUP, (GROUP, 4, 1), OTHERS],
        &[OWNER, (GROUP, 4, 1), OWN_GROUP, MOST, OTHERS],
        &[OWNER, OWN_GROUP, (USER, 4, 1), MOST, OTHERS],
        &[OWNER, (USER, 4, NO_ID), OWN_GROUP, MOST, OTHERS],
        &[(USER_OBJ, 8, NO_ID), OWN_GROUP, OTHERS],
    ] {
        assert_eq!(read(&value(entries)), Err(Errno::EINVAL), "{entries:?}");
    }
    for text in ["user", "user::", "user:name:rw-", "mask:1:rw-", "who::rwx", "user::rwz", "user::rwx:"] {
        let list = Unchecked::read_text(text);
        assert!(list.is_none_or(|list| list.check(&root()).is_err()), "{text}");
    }
}

#[test]
fn text_is_read_as_other_programs_write_it() {
    let expected = list("u::rw-,u:1000:r-x,g::r--,g:50:rwx,m::rwx,o::---");
    let tar = "user::rw-\nuser:1000:r-x\ngroup::r--\ngroup:50:rwx\t#effective:rwx\nmask::rwx\nother::---\n";
    assert_eq!(list(tar), expected);
    assert_eq!(
        list("user::rw-,user:lisa:r-x:1000,group::r--,group:staff:rwx:50,mask::rwx,other::---"),
        expected
    );
}

#[test]
fn access_is_decided_by_the_entry_that_fits_best() {
    let list = list("u::---,u:1:rwx,u:2:---,g::r--,g:20:-w-,g:30:--x,m::rw-,o::r-x");
    let who =
        |uid, gid, groups: &[u32]| Credentials { groups: groups.to_vec(), ..Credentials::new(uid, gid) };
    let allows = |who: &Credentials, access| list.allows(who, 10, access);
    // The mask holds for users by name and for groups.
    assert!(allows(&who(1, 9, &[]), Access::READ | Access::WRITE));
    assert!(!allows(&who(1, 9, &[]), Access::EXECUTE));
    // A user by name gets nothing as one of a group, or of the others.
    assert!(!allows(&who(2, 10, &[20]), Access::READ));
    // Any group will do, but one has to give all.
    assert!(allows(&who(3, 9, &[10, 20]), Access::READ));
    assert!(allows(&who(3, 9, &[10, 20]), Access::WRITE));
    assert!(!allows(&who(3, 9, &[10, 20]), Access::READ | Access::WRITE));
    // Who is in a group is no other.
    assert!(!allows(&who(3, 30, &[]), Access::READ));
    assert!(!allows(&who(3, 30, &[]), Access::EXECUTE));
    assert!(allows(&who(3, 9, &[]), Access::READ | Access::EXECUTE));
}

#[test]
fn the_mode_and_the_list_of_a_file_follow_each_other() {
    let mut acls = Acls::default();
    let full = Arc::new(list("u::rwx,u:1:r--,g::r-x,m::rw-,o::--x"));
    assert_eq!(acls.set(AclKind::Access, Some(Arc::clone(&full)), 0o104_000), 0o104_761);
    acls.mode_changed(0o100_614);
    assert_eq!(acls.access.as_deref(), Some(&list("u::rw-,u:1:r--,g::r-x,m::--x,o::r--")));
    // Without a mask the list is the mode.
    let plain = Arc::new(list("u::rw-,g::r--,o::---"));
    assert_eq!(acls.set(AclKind::Access, Some(Arc::clone(&plain)), 0o777), 0o640);
    assert_eq!(acls, Acls::default());
    assert_eq!(acls.set(AclKind::Default, Some(Arc::clone(&plain)), 0o777), 0o777);
    assert_eq!(acls.default, Some(plain));
    assert_eq!(acls.set(AclKind::Access, None, 0o777), 0o777);
}

#[test]
fn new_files_get_the_default_list_as_far_as_their_mode_allows() {
    let default = Arc::new(list("u::rwx,u:1:rwx,g::r-x,m::rwx,o::r-x"));
    let (mode, acls) = Acls::inherited(&default, 0o2640, false);
    assert_eq!(mode, 0o2640);
    assert_eq!(acls.access.as_deref(), Some(&list("u::rw-,u:1:rwx,g::r-x,m::r--,o::---")));
    assert_eq!(acls.default, None);
    let (mode, acls) = Acls::inherited(&default, 0o777, true);
    assert_eq!((mode, acls.default, acls.access), (0o775, Some(Arc::clone(&default)), Some(default)));
    let (mode, acls) = Acls::inherited(&Arc::new(list("u::rwx,g::r-x,o::---")), 0o666, false);
    assert_eq!((mode, acls), (0o640, Acls::default()));
}

fn any_access() -> impl Strategy<Value = Access> {
    (0..8_u32).prop_map(Access::from_bits_truncate)
}

fn any_list() -> impl Strategy<Value = Acl> {
    let named = || proptest::collection::vec((0..u32::MAX, any_access()), 0..5);
    let mask = proptest::option::of(any_access());
    (any_access(), named(), any_access(), named(), mask, any_access()).prop_map(
        |(owner, users, group, groups, mask, other)| {
            let needed = !users.is_empty() || !groups.is_empty();
            let mask = mask.or(needed.then_some(group));
            Acl { owner, users: users.into(), group, groups: groups.into(), mask, other }
        },
    )
}

proptest! {
    #[test]
    fn every_list_is_read_back_as_it_was_shown(list in any_list()) {
        prop_assert_eq!(read(&list.to_bytes(&root())), Ok(Some(list)));
    }

    #[test]
    fn a_list_has_the_mode_that_it_was_given(list in any_list(), mode in 0..0o1000_u32) {
        prop_assert_eq!(list.with_mode(mode).mode(), mode);
    }

    #[test]
    fn hostile_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = read(&bytes);
        let _ = read(&[&VERSION.to_le_bytes()[..], &bytes].concat());
        let _ = Unchecked::read_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn entries_in_any_order_are_a_list_that_is_shown_the_same_or_an_error(
        entries in proptest::collection::vec(
            (proptest::sample::select(vec![1_u16, 2, 4, 8, 16, 32]), 0..9_u16, 0..3_u32), 0..7)
    ) {
        if let Ok(Some(list)) = read(&value(&entries)) {
            prop_assert_eq!(list.to_bytes(&root()).len(), HEADER + entries.len() * ENTRY);
        }
    }
}
