use super::opened::Descriptors;
use super::shared::{MAX_OPEN, MAX_OPEN_FILES};
use super::*;
use crate::fs::dentry::Dentry;
use crate::fs::{File, Mappable};

#[test]
fn files_that_nobody_changes_are_opened_once_and_few_are_kept_open() {
    let place = tempfile::tempdir().unwrap();
    let name = |number| format!("file {number}");
    (0..=MAX_OPEN_FILES).for_each(|number| std::fs::write(place.path().join(name(number)), "").unwrap());
    let file_system = |coherence| {
        let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
        HostFs::at(root, Writing::ReadOnly, coherence, &Arc::default()).unwrap()
    };
    let open = |inode: &HostInode| inode.open_host(OpenFlags::empty()).unwrap();
    let exclusive = file_system(Coherence::Exclusive);
    let inode = exclusive.root_inode().child(b"file 0").unwrap();
    let first = Arc::downgrade(&open(&inode));
    assert!(std::ptr::eq(Arc::as_ptr(&open(&inode)), first.as_ptr()));
    let others = (1..=MAX_OPEN_FILES).map(name);
    others.for_each(|name| drop(open(&exclusive.root_inode().child(name.as_bytes()).unwrap())));
    assert_eq!(first.strong_count(), 0);
    let shared = file_system(Coherence::Shared);
    let inode = shared.root_inode().child(b"file 0").unwrap();
    assert!(!Arc::ptr_eq(&open(&inode), &open(&inode)));
}

#[test]
fn an_open_file_is_changed_whatever_its_name_stands_for() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    std::fs::write(path("file"), "content").unwrap();
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let shared = HostFs::at(root, Writing::ReadWrite, Coherence::Shared, &Arc::default()).unwrap();
    let inode = shared.root_inode().child(b"file").unwrap();
    let opened = inode.open_host(OpenFlags::WRONLY).unwrap();
    std::fs::rename(path("file"), path("moved")).unwrap();
    std::fs::write(path("file"), "another").unwrap();
    let change = |size, mode| SetAttributes { size, mode, ..SetAttributes::default() };
    inode.set_attributes(&change(Some(3), Some(0o600))).unwrap();
    assert_eq!(std::fs::read(path("moved")).unwrap(), b"con");
    assert_eq!(std::fs::metadata(path("moved")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(path("file")).unwrap(), b"another");
    drop(opened);
}

#[test]
fn a_file_is_known_by_whichever_descriptor_is_open() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), "content").unwrap();
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let shared = HostFs::at(root, Writing::ReadWrite, Coherence::Shared, &Arc::default()).unwrap();
    let inode = shared.root_inode().child(b"file").unwrap();
    let open = || inode.open_host(OpenFlags::RDWR);
    let mut opened: Vec<_> = (0..20).map(|_| open().unwrap()).collect();
    assert!(!Arc::ptr_eq(&opened[0], &opened[1]));
    std::fs::write(place.path().join("other"), "another").unwrap();
    std::fs::rename(place.path().join("other"), place.path().join("file")).unwrap();
    // The last, some in between, and the first go; one stays.
    opened.truncate(12);
    opened.drain(..11);
    assert_eq!(inode.metadata().unwrap().size, 7);
    assert!(Arc::ptr_eq(&open().unwrap(), &opened[0]));
    std::fs::remove_file(place.path().join("file")).unwrap();
    assert!(Arc::ptr_eq(&open().unwrap(), &opened[0]));
    opened.clear();
    assert_eq!(open().err(), Some(Errno::ENOENT));
    assert!(inode.opened.lock().writing.others.len() <= 32);
}

#[test]
fn descriptors_that_are_closed_leave_little() {
    let mut descriptors = Descriptors::default();
    let open = || Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
    let first = open();
    descriptors.add(&first);
    for _ in 0..100 {
        descriptors.add(&open());
    }
    assert!(descriptors.others.len() <= 4);
    assert!(Arc::ptr_eq(&descriptors.get().unwrap(), &first));
}

/// Held by who learns something: what one test does to a directory makes all of them ask anew.
static LEARNING: Mutex<()> = Mutex::new(());

/// Whether a path of directories leads somewhere, and how often the host had to be asked for a name in it.
fn walk(root: &Arc<Dentry>, fs: &HostFs, path: &str) -> (bool, usize) {
    let _moment = freshness::begin();
    let (mut at, mut asked) = (Arc::clone(root), 0);
    for name in path.split('/') {
        let inode = at.inode().unwrap();
        let child = at.children_for_tests().get(name.as_bytes()).and_then(|child| child.inode().cloned());
        asked += usize::from(!child.is_some_and(|child| child.still_is(name.as_bytes(), inode)));
        at = at.lookup(fs, name.as_bytes()).unwrap();
        if at.inode().is_none_or(|inode| inode.file_type() != FileType::Directory) {
            return (false, asked);
        }
    }
    (true, asked)
}

#[test]
fn names_of_directories_are_believed_until_others_change_them() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let _alone = LEARNING.lock();
    if host::file::event_group().is_err() {
        eprintln!("skipped: this host has no fanotify for everybody");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    std::fs::create_dir_all(path("a/b/c")).unwrap();
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let fs = HostFs::at(root, Writing::ReadWrite, Coherence::Shared, &Arc::default()).unwrap();
    let root = Dentry::root(fs.root());
    let walk = |path| walk(&root, &fs, path);
    // The last one, in which nothing was looked for yet, is asked for each time.
    let learn = |path| (0..100).find(|_| walk(path).1 == 1).expect("believed at last");
    assert_eq!(walk("a/b/c"), (true, 3));
    learn("a/b/c");
    // A new file changes nothing.
    std::fs::write(path("a/b/file"), "").unwrap();
    assert_eq!(walk("a/b/c"), (true, 1));
    // Moved away; and moved back.
    std::fs::rename(path("a"), path("x")).unwrap();
    assert!(!walk("a/b/c").0);
    learn("x/b/c");
    std::fs::rename(path("x"), path("a")).unwrap();
    assert!(!walk("x/b/c").0);
    learn("a/b/c");
    // In the middle, another directory takes the place: by a rename, by being made anew.
    std::fs::create_dir(path("other")).unwrap();
    std::fs::rename(path("a/b"), path("kept")).unwrap();
    std::fs::rename(path("other"), path("a/b")).unwrap();
    assert!(!walk("a/b/c").0);
    std::fs::create_dir(path("a/b/c")).unwrap();
    learn("a/b/c");
    std::fs::remove_dir(path("a/b/c")).unwrap();
    assert!(!walk("a/b/c").0);
    std::fs::create_dir(path("a/b/c")).unwrap();
    learn("a/b/c");
    // A link.
    std::fs::rename(path("a/b"), path("gone")).unwrap();
    symlink(path("kept"), path("a/b")).unwrap();
    assert!(!walk("a/b/c").0);
    std::fs::remove_file(path("a/b")).unwrap();
    std::fs::rename(path("gone"), path("a/b")).unwrap();
    learn("a/b/c");
    // Who may do what.
    let mode =
        || root.lookup(&*fs, b"a").unwrap().inode().unwrap().metadata_for_access().unwrap().mode & 0o777;
    std::fs::set_permissions(path("a"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(mode(), 0o700);
    learn("a/b/c");
    std::fs::set_permissions(path("a"), std::fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(mode(), 0o711);
}

#[test]
fn names_of_directories_that_were_closed_again_are_not_believed() {
    let _alone = LEARNING.lock();
    let place = tempfile::tempdir().unwrap();
    let count = MAX_OPEN + 8;
    let name = |number: usize| format!("directory {number}/below");
    for number in 0..count {
        std::fs::create_dir_all(place.path().join(name(number))).unwrap();
    }
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let fs = HostFs::at(root, Writing::ReadWrite, Coherence::Shared, &Arc::default()).unwrap();
    let root = Dentry::root(fs.root());
    for number in 0..count {
        for _ in 0..12 {
            assert!(walk(&root, &fs, &name(number)).0);
        }
    }
    for _ in 0..3 {
        assert_eq!(walk(&root, &fs, &name(0)), (true, 2));
    }
    for number in 0..count {
        std::fs::remove_dir(place.path().join(name(number))).unwrap();
        assert!(!walk(&root, &fs, &name(number)).0, "{number}");
    }
}

#[test]
fn a_file_that_others_change_is_looked_at_anew_each_time() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), "content").unwrap();
    std::os::unix::fs::symlink("file", place.path().join("link")).unwrap();
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let shared = HostFs::at(root, Writing::ReadOnly, Coherence::Shared, &Arc::default()).unwrap();
    let look = |name: &[u8]| {
        let mut metadata = Metadata::default();
        shared.root_inode().look(name, &mut metadata).map(|looked| (looked, metadata))
    };
    let size = |found: SysResult<(Option<Looked>, Metadata)>| match found {
        Ok((Some(Looked::Metadata), metadata)) => metadata.size,
        _ => panic!("not found"),
    };
    let moment = freshness::begin();
    assert_eq!(size(look(b"file")), 7);
    std::fs::write(place.path().join("file"), "more content").unwrap();
    drop(moment);
    assert_eq!(size(look(b"file")), 12);
    assert!(matches!(look(b"link"), Ok((Some(Looked::Link(_)), _))));
    let target = |name: &[u8]| shared.root_inode().look_at_link(name);
    assert_eq!(target(b"link"), Ok(Some(b"file".to_vec())));
    assert_eq!((target(b"file").err(), target(b"none").err()), (Some(Errno::EINVAL), Some(Errno::ENOENT)));
    std::fs::remove_file(place.path().join("file")).unwrap();
    assert_eq!(look(b"file").err(), Some(Errno::ENOENT));
}

#[test]
fn what_is_expected_to_be_a_file_is_opened_as_it_is_now() {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};
    let _alone = LEARNING.lock();
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    std::fs::write(path("other"), "other").unwrap();
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let fs = HostFs::at(root, Writing::ReadWrite, Coherence::Shared, &Arc::default()).unwrap();
    let root = Dentry::root(fs.root());
    type Change<'a> = (&'a dyn Fn(), FileType, Option<&'a str>);
    let file = || std::fs::write(path("file"), "content").unwrap();
    let changes: [Change<'_>; 6] = [
        (&|| {}, FileType::Regular, Some("content")),
        (&|| std::fs::rename(path("other"), path("file")).unwrap(), FileType::Regular, Some("other")),
        (&|| symlink("other", path("file")).unwrap(), FileType::Symlink, None),
        (&|| std::fs::create_dir(path("file")).unwrap(), FileType::Directory, None),
        (
            &|| {
                rustix::fs::mknodat(rustix::fs::CWD, path("file"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
                    .unwrap()
            },
            FileType::Fifo,
            None,
        ),
        (
            &|| {
                file();
                std::fs::set_permissions(path("file"), PermissionsExt::from_mode(0o604)).unwrap();
            },
            FileType::Regular,
            Some("content"),
        ),
    ];
    for looks in [false, true] {
        std::fs::write(path("other"), "other").unwrap();
        for (change, kind, content) in &changes {
            file();
            // That there has been a regular file is known from another who opened it, or just looked.
            let before = if looks {
                root.forget(b"file");
                let looked = fs.root_inode().look(b"file", &mut Metadata::default());
                assert!(matches!(looked, Ok(Some(Looked::Metadata))));
                None
            } else {
                root.lookup(&*fs, b"file").unwrap().inode().cloned()
            };
            if *kind != FileType::Regular {
                std::fs::remove_file(path("file")).unwrap();
            }
            change();
            let _moment = freshness::begin();
            let (found, opened) = root.lookup_opened(&*fs, b"file").unwrap();
            let inode = found.inode().unwrap();
            assert_eq!(inode.file_type(), *kind);
            assert_eq!(opened.is_some(), content.is_some(), "{kind:?}");
            if let (Some(before), Some("content")) = (&before, content) {
                assert!(std::ptr::addr_eq(Arc::as_ptr(before), Arc::as_ptr(inode)));
            }
            if let Some(opened) = opened {
                let file = File::new(
                    crate::fs::file::Place::Anonymous { name: "".into(), inode: None },
                    opened,
                    OpenFlags::empty(),
                );
                let Ok(Mappable::Host { fd, .. }) = file.ops().map(&file, false, false) else {
                    panic!("no file of the host's")
                };
                let mut read = String::new();
                std::fs::File::from(fd.try_clone().unwrap()).read_to_string(&mut read).unwrap();
                assert_eq!(Some(&*read), *content);
                let mode = std::fs::metadata(path("file")).unwrap().permissions().mode();
                assert_eq!(inode.metadata().unwrap().mode, mode);
            }
            drop(std::fs::remove_file(path("file")).or_else(|_| std::fs::remove_dir(path("file"))));
        }
        // Nothing is there, and nothing is known to have been there.
        assert!(root.lookup_opened(&*fs, b"file").unwrap().0.inode().is_none());
        let new = format!("new {looks}");
        std::fs::write(path(&new), "").unwrap();
        assert!(root.lookup_opened(&*fs, new.as_bytes()).unwrap().1.is_none());
    }
}

#[test]
fn an_offset_goes_over_to_the_host_once() {
    use crate::fs::file::Place;
    use crate::fs::{File, Whence};
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), "0123456789").unwrap();
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    let shared = HostFs::at(root, Writing::ReadWrite, Coherence::Shared, &Arc::default()).unwrap();
    let open = |flags| {
        let inode = shared.root_inode().child(b"file").unwrap();
        let ops = Arc::clone(&inode).open(None, flags).map_err(SysError::errno).unwrap();
        File::new(Place::Anonymous { name: String::new(), inode: Some(inode) }, ops, flags)
    };
    let (file, other) = (open(OpenFlags::RDWR), open(OpenFlags::RDWR));
    let description = Arc::clone(file.ops().own_description().unwrap());
    let on_host = || rustix::fs::tell(&description).unwrap();
    assert_eq!(file.seek(3, Whence::Set), Ok(3));
    assert_eq!(on_host(), 0);
    file.move_offset_to_host().unwrap();
    assert_eq!(on_host(), 3);
    assert_eq!(file.seek(4, Whence::Current), Ok(7));
    file.take_back(2);
    assert_eq!((on_host(), file.with_offset(|offset| *offset)), (5, 5));
    file.with_offset(|offset| *offset = 9);
    file.move_offset_to_host().unwrap();
    assert_eq!(
        (on_host(), file.seek(-1, Whence::End), file.seek(-20, Whence::End)),
        (9, Ok(9), Err(Errno::EINVAL))
    );
    // The host appends when the file does.
    let appends = || rustix::fs::fcntl_getfl(&description).unwrap().contains(rustix::fs::OFlags::APPEND);
    file.set_flags(OpenFlags::APPEND).unwrap();
    assert!(appends());
    file.set_flags(OpenFlags::empty()).unwrap();
    assert!(!appends());
    // Another description is none of it.
    assert_eq!(other.seek(0, Whence::Current), Ok(0));
    // What has no name is opened again by the same description of the host's, whose offset then stays as it is.
    std::fs::remove_file(place.path().join("file")).unwrap();
    let shared_inode = file.inode().unwrap();
    drop(other);
    let again = Arc::clone(shared_inode).open(None, OpenFlags::RDWR);
    if let Ok(ops) = again {
        assert!(ops.own_description().is_none());
        let again = File::new(
            Place::Anonymous { name: String::new(), inode: Some(Arc::clone(shared_inode)) },
            ops,
            OpenFlags::RDWR,
        );
        assert_eq!(again.seek(2, Whence::Data), Ok(2));
        assert_eq!(again.move_offset_to_host(), Err(Errno::EINVAL));
        assert_eq!(on_host(), 9);
    }
    // Where nobody changes files, readers share what is open.
    let root = Directory::held(std::fs::File::open(place.path()).unwrap().into());
    std::fs::write(place.path().join("other"), "").unwrap();
    let exclusive = HostFs::at(root, Writing::ReadOnly, Coherence::Exclusive, &Arc::default()).unwrap();
    let inode = exclusive.root_inode().child(b"other").unwrap();
    let ops = inode.open(None, OpenFlags::empty()).map_err(SysError::errno).unwrap();
    assert!(ops.own_description().is_none());
}
