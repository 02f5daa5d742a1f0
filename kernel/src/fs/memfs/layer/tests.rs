use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use abi::fs::OpenFlags;
use abi::time::TimeSpec;

use super::*;
use crate::fs::acl::Unchecked;
use crate::fs::file::{File, Place};
use crate::fs::hostfs::{HostFs, Writing};
use crate::fs::{
    Acl, AclKind, Acls, FileSystem, FileType, InodeRef, NewFile, NewKind, RenameMode, SetAttributes,
    XattrMode,
};
use crate::namespace::user::UserNamespace;
use crate::user::{UserReader, UserWriter};

/// An access control list.
fn list(text: &str) -> Option<Arc<Acl>> {
    Some(Arc::new(Unchecked::read_text(text).unwrap().check(&UserNamespace::root()).unwrap()))
}

/// An empty layer over a directory of the host.
fn layer_over(directory: &Path) -> Arc<MemFs> {
    let lower = std::os::fd::OwnedFd::from(std::fs::File::open(directory).unwrap());
    MemFs::merged(HostFs::new(lower, Writing::ReadOnly).unwrap().root_inode()).unwrap()
}

fn find(layer: &MemFs, path: &str) -> InodeRef {
    path.split('/')
        .filter(|part| !part.is_empty())
        .fold(layer.root(), |at, part| at.lookup(part.as_bytes()).unwrap())
}

fn make(parent: &InodeRef, name: &str, kind: NewKind) -> InodeRef {
    let new = NewFile { kind, mode: 0o640, uid: 3, gid: 4, acls: Acls::default() };
    Arc::clone(parent).create(name.as_bytes(), &new).unwrap()
}

fn open(inode: &InodeRef, flags: OpenFlags) -> Arc<File> {
    let ops = Arc::clone(inode).open(None, flags).ok().unwrap();
    let place = Place::Anonymous { name: String::new(), inode: Some(Arc::clone(inode)) };
    File::new(place, ops, flags)
}

fn put(inode: &InodeRef, offset: u64, bytes: &[u8]) {
    let file = open(inode, OpenFlags::RDWR);
    file.ops().write_at(&file, offset, &mut UserReader::buffer(bytes)).ok().unwrap();
}

fn content(inode: &InodeRef) -> Vec<u8> {
    let file = open(inode, OpenFlags::empty());
    let mut bytes = Vec::new();
    let size = inode.metadata().unwrap().size as usize;
    file.ops().read_at(&file, 0, &mut UserWriter::buffer(&mut bytes, size)).ok().unwrap();
    bytes
}

/// What a program sees of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    links: u32,
    size: u64,
    modified: TimeSpec,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    lists: [Option<Arc<Acl>>; 2],
    content: Vec<u8>,
}

/// All that a program sees.
fn seen(layer: &MemFs) -> BTreeMap<Vec<u8>, Seen> {
    let mut all = BTreeMap::new();
    let mut left = vec![(Vec::new(), layer.root())];
    while let Some((path, inode)) = left.pop() {
        let metadata = inode.metadata().unwrap();
        let kind = inode.file_type();
        let names = inode.list_xattr().unwrap();
        let seen = Seen {
            mode: metadata.mode,
            owner: (metadata.uid, metadata.gid),
            device: metadata.rdev,
            // The host has its own way of counting for directories.
            links: if kind == FileType::Directory { 0 } else { metadata.links },
            size: if kind == FileType::Directory { 0 } else { metadata.size },
            modified: metadata.modified,
            lists: AclKind::ALL.map(|kind| inode.acl(kind).ok().flatten()),
            xattrs: names.into_iter().map(|name| (name.clone(), inode.get_xattr(&name).unwrap())).collect(),
            content: match kind {
                FileType::Regular if metadata.size < 1 << 24 => content(&inode),
                FileType::Symlink => inode.readlink(None).unwrap(),
                _ => Vec::new(),
            },
        };
        if kind == FileType::Directory {
            let any = Arc::clone(&inode) as Arc<dyn std::any::Any + Send + Sync>;
            let node = any.downcast::<Node>().unwrap();
            let (own, lower) = {
                let directory = node.directory().unwrap().lock();
                (directory.entries.keys().cloned().collect::<Vec<_>>(), directory.lower.clone())
            };
            let below = lower.map(|lower| lower.list().unwrap()).unwrap_or_default();
            for name in own.into_iter().chain(below.iter_from(0).map(|entry| entry.name.to_vec())) {
                if let Ok(child) = Arc::clone(&inode).lookup(&name) {
                    left.push(([&path[..], b"/", &name].concat(), child));
                }
            }
        }
        all.insert(path, seen);
    }
    all
}

fn archive(layer: &MemFs) -> Vec<u8> {
    let mut archive = Vec::new();
    layer.write_layer(&mut archive).unwrap();
    archive
}

/// The paths in an archive.
fn entries(archive: &[u8]) -> Vec<String> {
    let mut reader = tar::Reader::new(archive);
    let mut paths = Vec::new();
    while let Some(header) = reader.next().unwrap() {
        paths.push(String::from_utf8_lossy(&header.path).into_owned());
    }
    paths
}

/// A directory with something of all kinds.
fn below() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in
        ["kept", "moved", "moved/inner", "gone", "replaced", "deep", "deep/er", "deep/er/most", "merged"]
    {
        std::fs::create_dir(path(name)).unwrap();
    }
    for name in [
        "file",
        "appended",
        "removed",
        "kept/file",
        "moved/one",
        "moved/inner/two",
        "gone/file",
        "replaced/old",
        "deep/er/most/file",
        "deep/er/most/other",
        "owned",
        "linked",
    ] {
        std::fs::write(path(name), name).unwrap();
    }
    std::fs::write(path("large"), vec![7; 300_000]).unwrap();
    std::fs::hard_link(path("linked"), path("deep/linked")).unwrap();
    symlink("file", path("link")).unwrap();
    directory
}

#[test]
fn an_empty_layer_is_an_empty_archive() {
    let below = below();
    assert_eq!(entries(&archive(&layer_over(below.path()))), Vec::<String>::new());
}

#[test]
fn what_is_written_is_made_again() {
    let below = below();
    let layer = layer_over(below.path());
    let root = layer.root();
    put(&make(&root, "new", NewKind::Regular), 0, b"new");
    put(&find(&layer, "appended"), 8, b" more");
    put(&find(&layer, "large"), 299_990, b"end of it");
    put(&find(&layer, "deep/er/most/file"), 0, b"DEEP");
    put(&find(&layer, "linked"), 0, b"L");
    root.unlink(b"removed").unwrap();
    let sized = SetAttributes {
        uid: Some(70_000),
        gid: Some(3_000_000),
        mode: Some(0o4711),
        ..SetAttributes::default()
    };
    find(&layer, "owned").set_attributes(&sized).unwrap();
    // A directory that hides what was there, one that is gone, and one that lies over what is below.
    find(&layer, "gone").unlink(b"file").unwrap();
    root.rmdir(b"gone").unwrap();
    find(&layer, "replaced").unlink(b"old").unwrap();
    root.rmdir(b"replaced").unwrap();
    make(&find(&layer, "merged"), "inside", NewKind::Regular);
    let replaced = make(&root, "replaced", NewKind::Directory);
    make(&replaced, "fresh", NewKind::Symlink(b"../somewhere".to_vec()));
    // A directory of below with all that is in it, under another name; and in the place of another.
    Arc::clone(&root).rename(b"moved", &replaced, b"from-below", RenameMode::NoReplace).unwrap();
    Arc::clone(&root).rename(b"kept", &root, b"gone", RenameMode::NoReplace).unwrap();
    // Kinds of files, names and times.
    make(&root, "fifo", NewKind::Fifo);
    make(&root, "socket", NewKind::Socket);
    make(&root, "char", NewKind::CharDevice(abi::fs::make_device(1, 3)));
    make(&root, "block", NewKind::BlockDevice(abi::fs::make_device(259, 70_000)));
    let twice = make(&root, "twice", NewKind::Regular);
    put(&twice, 0, b"one file");
    replaced.link(b"again", &twice).unwrap();
    root.link(b"file-again", &find(&layer, "file")).unwrap();
    let long = make(&root, &"n".repeat(255), NewKind::Directory);
    make(&long, &"m".repeat(255), NewKind::Symlink(vec![b't'; 3000]));
    let sparse = make(&root, "sparse", NewKind::Regular);
    sparse.set_attributes(&SetAttributes { size: Some(1 << 40), ..SetAttributes::default() }).unwrap();
    put(&sparse, 1 << 30, b"data");
    put(&sparse, 0, b"start");
    twice.set_xattr(b"user.name", b"with\nlines\0=", XattrMode::Set).unwrap();
    root.set_xattr(b"user.root", b"r", XattrMode::Set).unwrap();
    replaced.set_xattr(b"user.directory", b"", XattrMode::Set).unwrap();
    twice.set_acl(AclKind::Access, list("u::rwx,u:5:r-x,g::r--,g:70000:rw-,m::rw-,o::--x"), 0).unwrap();
    replaced.set_acl(AclKind::Default, list("u::rwx,g::---,o::---"), 0).unwrap();
    root.set_acl(AclKind::Access, list("u::rwx,g::r-x,m::r-x,o::r-x"), 0).unwrap();
    let old = TimeSpec { sec: -5, nsec: 700_000_001 };
    for path in ["twice", "replaced", "merged", "link", "deep/er/most/file", ""] {
        let times = SetAttributes { modified: Some(old), accessed: Some(old), ..SetAttributes::default() };
        find(&layer, path).set_attributes(&times).unwrap();
    }

    let written = archive(&layer);
    assert!(written.len() < 1 << 20, "holes take no room: {}", written.len());
    let again = layer_over(below.path());
    again.apply_layer(&*written).unwrap();
    let (mut before, after) = (seen(&layer), seen(&again));
    assert!(before.remove(&b"/socket"[..]).is_some());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in &before {
        assert_eq!(Some(seen), after.get(path), "{}", String::from_utf8_lossy(path));
    }
    let sparse = find(&again, "sparse");
    assert!(sparse.metadata().unwrap().blocks < 64);
    let names = ["replaced/again", "twice", "file", "file-again", "linked", "deep/linked"]
        .map(|path| find(&again, path));
    assert!(names.chunks(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    // And once more: nothing was lost that cannot be seen.
    let mut third = Vec::new();
    again.write_layer(&mut third).unwrap();
    let (mut one, mut other) = (entries(&written), entries(&third));
    one.sort();
    other.sort();
    assert_eq!(one, other);
    // What was not changed is not in it.
    for path in ["kept/file", "deep/er/most/other", "merged/old", "socket"] {
        assert!(!one.iter().any(|entry| entry == path), "{path}");
    }
}

#[test]
fn directories_are_found_however_deep() {
    let below = below();
    let layer = layer_over(below.path());
    let mut directory = find(&layer, "deep");
    for _ in 0..3000 {
        directory = make(&directory, "deep", NewKind::Directory);
    }
    let again = layer_over(below.path());
    again.apply_layer(&*archive(&layer)).unwrap();
    let mut depth = 0;
    let mut directory = again.root();
    while let Ok(next) = Arc::clone(&directory).lookup(b"deep") {
        (directory, depth) = (next, depth + 1);
        if depth == 1 {
            assert!(Arc::clone(&directory).lookup(b"er").is_ok(), "what is below shows through");
        }
    }
    assert_eq!(depth, 3001);
    for _ in 0..4000 {
        directory = make(&directory, "deep", NewKind::Directory);
    }
    let error = again.write_layer(&mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn archives_that_lead_out_or_make_no_sense_are_refused() {
    let below = below();
    let file = |path: &str| tar::Header::new(tar::Kind::File, path.into());
    let link =
        |kind, path: &str, to: &str| tar::Header { link: to.into(), ..tar::Header::new(kind, path.into()) };
    for (header, text) in [
        (file("../file"), "entry \"../file\": this is no path below"),
        (file("a/../../b"), "no path below"),
        (file("link/x"), "what it lies in is no directory"),
        (file("file/x"), "what it lies in is no directory"),
        (file("/"), "the root directory is a directory"),
        (link(tar::Kind::HardLink, "a", "../file"), "no path below"),
        (link(tar::Kind::HardLink, "a", "link/x"), "a file that is not there"),
        (link(tar::Kind::HardLink, "a", "deep"), "a directory cannot have another name"),
        (tar::Header { size: 10, ..file("cut") }, "entry \"cut\": "),
        (tar::Header { size: 512, sparse: Some(5), ..file("hole") }, "a list of holes cannot be read"),
    ] {
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        if header.sparse.is_some() {
            bytes.extend_from_slice(&[b'x'; 512]);
        }
        let error = layer_over(below.path()).apply_layer(&*bytes).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let mut bytes = Vec::new();
    let list = tar::segment_list(&[(3, 3)]);
    tar::Header { size: list.len() as u64 + 3, sparse: Some(5), ..file("behind") }.write(&mut bytes).unwrap();
    bytes.extend_from_slice(&list);
    let error = layer_over(below.path()).apply_layer(&*bytes).unwrap_err().to_string();
    assert!(error.contains("behind its end"), "{error}");
}

#[test]
fn access_control_lists_are_those_of_the_archive() {
    let below = below();
    let layer = layer_over(below.path());
    let directory = make(&layer.root(), "directory", NewKind::Directory);
    directory.set_acl(AclKind::Default, list("u::rwx,u:1:rwx,g::---,m::rwx,o::---"), 0).unwrap();
    make(&directory, "file", NewKind::Regular);
    let other = make(&directory, "other", NewKind::Regular);
    other.set_acl(AclKind::Access, list("u::rw-,u:1:r--,g::---,m::rw-,o::---"), 0).unwrap();
    let first = archive(&layer);
    directory.set_acl(AclKind::Default, None, 0).unwrap();
    other.set_acl(AclKind::Access, None, 0).unwrap();
    let second = archive(&layer);
    let again = layer_over(below.path());
    let find_list = |path, kind| find(&again, path).acl(kind).unwrap();
    again.apply_layer(&*first).unwrap();
    assert_eq!(find_list("directory", AclKind::Default), list("u::rwx,u:1:rwx,g::---,m::rwx,o::---"));
    assert_eq!(find_list("directory/other", AclKind::Access), list("u::rw-,u:1:r--,g::---,m::rw-,o::---"));
    assert_eq!(find(&again, "directory/other").metadata().unwrap().mode & 0o777, 0o660);
    // What is made of an archive inherits nothing.
    assert_eq!(find_list("directory/file", AclKind::Access), None);
    again.apply_layer(&*second).unwrap();
    assert_eq!(find_list("directory", AclKind::Default), None);
    assert_eq!(find_list("directory/other", AclKind::Access), None);

    let value = |text| list(text).unwrap().to_bytes(&UserNamespace::root());
    for (kind, attribute, value) in [
        (tar::Kind::File, AclKind::Access, b"\x02\0\0".to_vec()),
        (tar::Kind::File, AclKind::Access, value("u::rw-,g::---,o::---")[..20].to_vec()),
        (tar::Kind::File, AclKind::Default, value("u::rw-,g::---,o::---")),
        (tar::Kind::Symlink, AclKind::Access, value("u::rw-,g::---,o::---")),
    ] {
        let xattrs = [(attribute.attribute().to_vec(), value)].into();
        let mut bytes = Vec::new();
        tar::Header { xattrs, ..tar::Header::new(kind, b"entry".to_vec()) }.write(&mut bytes).unwrap();
        let error = layer_over(below.path()).apply_layer(&*bytes).unwrap_err().to_string();
        assert!(error.contains("entry"), "{error}");
    }
}

#[test]
fn damaged_archives_do_no_harm() {
    let below = below();
    let layer = layer_over(below.path());
    let before = seen(&layer);
    let directory = make(&layer.root(), "d", NewKind::Directory);
    directory.set_xattr(b"user.x", b"value", XattrMode::Set).unwrap();
    let file = make(&directory, "f", NewKind::Regular);
    put(&file, 0, b"content");
    layer.root().link(b"again", &file).unwrap();
    let sparse = make(&directory, "s", NewKind::Regular);
    sparse.set_attributes(&SetAttributes { size: Some(1 << 20), ..SetAttributes::default() }).unwrap();
    put(&sparse, 1 << 19, b"data");
    layer.root().unlink(b"removed").unwrap();
    let whole = archive(&layer);
    let mut refused = 0;
    for at in (0..whole.len()).step_by(13) {
        for byte in [0, b'/', b'7', 0xff] {
            let mut spoilt = whole.clone();
            spoilt[at] = byte;
            // So that it gets further than the sum of the header that it is in.
            if let Some(header) = spoilt[at / 512 * 512..].first_chunk_mut::<512>()
                && header[257..262] == *b"ustar"
            {
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let again = layer_over(below.path());
            refused += u32::from(again.apply_layer(&*spoilt).is_err());
            // Whatever came of it, it is a layer.
            again.write_layer(&mut std::io::sink()).unwrap();
        }
    }
    assert!(refused > 100, "{refused}");
    for end in (0..whole.len()).step_by(97) {
        let _ = layer_over(below.path()).apply_layer(&whole[..end]);
    }
    assert_eq!(seen(&layer_over(below.path())), before, "what is below is as it was");
}

#[test]
fn large_files_are_where_the_store_is_and_leave_with_their_last_user() {
    let (below, stored) = (below(), tempfile::tempdir().unwrap());
    let directory = std::os::fd::OwnedFd::from(std::fs::File::open(stored.path()).unwrap());
    let store: crate::fs::memfs::Store =
        Box::new(move || gofer::create_nameless(std::os::fd::AsFd::as_fd(&directory)));
    let lower = std::os::fd::OwnedFd::from(std::fs::File::open(below.path()).unwrap());
    let lower = HostFs::new(lower, Writing::ReadOnly).unwrap().root_inode();
    let options = crate::fs::memfs::LayerOptions { size: 128 * 4096, store: Some(store) };
    let layer = MemFs::layer_over(lower, options).unwrap();
    // The directory itself included.
    let kept = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.filter(|target| target.starts_with(stored.path())).count()
    };
    put(&make(&layer.root(), "small", NewKind::Regular), 0, &[1; 1000]);
    assert_eq!(kept(), 1);
    let large = make(&layer.root(), "large-too", NewKind::Regular);
    put(&large, 0, &[1; 100_000]);
    put(&find(&layer, "large"), 5, b"x");
    assert_eq!(kept(), 3);
    assert_eq!(std::fs::read_dir(stored.path()).unwrap().count(), 0, "they have no names");
    let file = open(&large, OpenFlags::RDWR);
    assert_eq!(file.ops().allocate(&file, 0, 0, 1 << 30), Err(abi::Errno::ENOSPC));
    let again = layer_over(below.path());
    again.apply_layer(&*archive(&layer)).unwrap();
    assert_eq!(content(&find(&again, "large-too")), [1; 100_000]);
    layer.root().unlink(b"large-too").unwrap();
    drop(large);
    assert_eq!(kept(), 3, "it is open");
    drop(file);
    assert_eq!(kept(), 2);
    drop(layer);
    assert_eq!(kept(), 0);
}

#[test]
fn an_absolute_path_is_one_below_the_root() {
    let below = below();
    let layer = layer_over(below.path());
    let mut bytes = Vec::new();
    tar::Header::new(tar::Kind::Directory, b"/./new//directory/".to_vec()).write(&mut bytes).unwrap();
    layer.apply_layer(&*bytes).unwrap();
    assert_eq!(find(&layer, "new/directory").file_type(), FileType::Directory);
}
