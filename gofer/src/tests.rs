//! Both ends together, and hostile clients.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::fs::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG};
use abi::time::TimeSpec;
use host::rustix::fs::{Mode as FileMode, OFlags, RenameFlags, open, renameat_with};
use proptest::prelude::*;

use crate::client::Client;
use crate::connect::{Connector, Seen};
use crate::directory::Directory;
use crate::listing::Listing;
use crate::local::Ownership;
use crate::protocol::{Place, Request};
use crate::server::{Mode, ServedMount, Session, Writing};
use crate::types::{
    Access, Changes, Guest, Name, NewNode, Removal, Replacing, SocketKind, Target, XattrReplacing,
};
use crate::wire::{List, Wire};

/// A directory that is served, and one beside it that must stay as it is.
struct Ground {
    top: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("served")).unwrap();
        fs::create_dir(top.path().join("outside")).unwrap();
        fs::write(top.path().join("outside/canary"), "alive").unwrap();
        Ground { top }
    }

    fn served(&self) -> std::path::PathBuf {
        self.top.path().join("served")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.top.path().join("outside")
    }

    fn mount(&self, writing: Writing) -> ServedMount {
        ServedMount::directory(path_fd(&self.served()), writing).unwrap()
    }

    fn session(&self, mode: Mode) -> Session {
        Session::new(vec![self.mount(Writing::ReadWrite)], mode, Ownership::Own)
    }

    /// A client of a session about the served directory.
    fn client(&self, mode: Mode) -> Arc<Client> {
        connect(self.session(mode))
    }

    fn check_canary(&self) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["canary"]);
        assert_eq!(fs::read(self.outside().join("canary")).unwrap(), b"alive");
        let mode = fs::metadata(self.outside().join("canary")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
    }
}

fn path_fd(path: &Path) -> OwnedFd {
    open(path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty()).unwrap()
}

fn connect(session: Session) -> Arc<Client> {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..3).map(|_| crate::socket::pair().unwrap()).unzip();
    std::thread::spawn(move || crate::process::serve(session, theirs, || Ok(())));
    Client::connect(ours).unwrap()
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

fn child(text: &str) -> Target<'_> {
    Target::Child(name(text))
}

fn new_node(mode: u32) -> NewNode<'static> {
    let (uid, gid) = (host::rustix::process::geteuid(), host::rustix::process::getegid());
    NewNode { mode, uid: uid.as_raw(), gid: gid.as_raw(), device: 0, target: b"target" }
}

/// Everything that can be asked for, by way of one client.
fn everything(root: &Directory, served: &Path) {
    let (made, fd) = root.create(name("file"), &new_node(S_IFREG | 0o640)).unwrap();
    assert_eq!(made.mode, S_IFREG | 0o640);
    let fd = fd.unwrap();
    host::rustix::io::write(&fd, b"content").unwrap();
    assert_eq!(fs::read(served.join("file")).unwrap(), b"content");
    assert_eq!(root.create(name("file"), &new_node(S_IFREG | 0o600)).err(), Some(Errno::EEXIST));

    root.create(name("dir"), &new_node(S_IFDIR | 0o1777)).unwrap();
    let (dir, attributes) = root.descend(name("dir")).unwrap();
    assert_eq!(attributes.mode, S_IFDIR | 0o1777);
    assert_eq!(root.descend(name("file")).err(), Some(Errno::ENOTDIR));
    dir.create(name("link"), &new_node(S_IFLNK | 0o777)).unwrap();
    assert_eq!(dir.read_link(name("link")).unwrap(), b"target");
    dir.create(name("fifo"), &new_node(S_IFIFO | 0o600)).unwrap();
    assert_eq!(dir.stat(child("fifo")).unwrap().kind(), S_IFIFO);
    assert_eq!(dir.open(child("fifo"), Access::Read).err(), Some(Errno::ENXIO));
    assert_eq!(dir.open(child("link"), Access::Read).err(), Some(Errno::ELOOP));
    assert_eq!(root.open(child("none"), Access::Read).err(), Some(Errno::ENOENT));
    assert!(root.open(child("dir"), Access::Read).is_err());

    root.link(name("file"), &dir, name("second")).unwrap();
    assert_eq!(dir.stat(child("second")).unwrap().links, 2);
    dir.rename(name("second"), root, name("third"), Replacing::No).unwrap();
    assert_eq!(root.rename(name("third"), root, name("dir"), Replacing::No).err(), Some(Errno::EEXIST));
    root.rename(name("third"), &dir, name("link"), Replacing::Exchange).unwrap();
    assert_eq!(root.look_up(name("third")).unwrap().0.kind(), S_IFLNK);

    let time = TimeSpec { sec: 12345, nsec: 678 };
    let changes = Changes { mode: Some(0o4711), size: Some(3), modified: Some(time), ..Changes::default() };
    root.set_attributes(child("file"), &changes).unwrap();
    let attributes = root.stat(child("file")).unwrap();
    assert_eq!((attributes.mode & 0o7777, attributes.size, attributes.modified), (0o4711, 3, time));
    dir.set_attributes(Target::Itself, &Changes { mode: Some(0o750), ..Changes::default() }).unwrap();
    assert_eq!(dir.stat(Target::Itself).unwrap().mode & 0o7777, 0o750);

    let value = [7; 3000];
    match root.set_xattr(child("file"), b"user.test", &value, XattrReplacing::Create) {
        Err(Errno::EOPNOTSUPP) => {}
        result => {
            result.unwrap();
            assert!(root.get_xattr(child("file"), b"user.test").unwrap() == value);
            assert_eq!(root.list_xattr(child("file")).unwrap(), [b"user.test"]);
            root.remove_xattr(child("file"), b"user.test").unwrap();
        }
    }
    assert_eq!(root.get_xattr(child("file"), b"user.test").err(), Some(Errno::ENODATA));
    assert_eq!(root.get_xattr(child("third"), b"user.test").err(), Some(Errno::ENODATA));

    assert_eq!(root.statistics().unwrap().name_length, 255);
    root.sync(child("file")).unwrap();
    dir.sync(Target::Itself).unwrap();

    // More names than fit in a message.
    for number in 0..3000 {
        fs::write(served.join("dir").join(format!("{number:0100}")), "").unwrap();
    }
    let mut listing = Listing::default();
    dir.list(&mut listing).unwrap();
    let mut names: Vec<_> = listing.iter_from(0).map(|entry| entry.name).collect();
    names.sort();
    assert_eq!(names.len(), 3002);
    names.dedup();
    assert_eq!(names.len(), 3002);

    assert_eq!(root.remove(name("dir"), Removal::Directory).err(), Some(Errno::ENOTEMPTY));
    root.remove(name("file"), Removal::File).unwrap();
    assert_eq!(root.stat(child("file")).err(), Some(Errno::ENOENT));
}

#[test]
fn strict_mode_does_everything() {
    let ground = Ground::new();
    let client = ground.client(Mode::Strict);
    let (root, attributes) = client.attach(0).unwrap();
    assert!(!root.is_held());
    assert_eq!(attributes.kind(), S_IFDIR);
    everything(&root, &ground.served());
    assert_eq!(client.attach(1).err(), Some(Errno::ENOENT));
}

#[test]
fn direct_mode_does_everything() {
    let ground = Ground::new();
    let (root, _) = ground.client(Mode::Direct).attach(0).unwrap();
    assert!(root.is_held());
    everything(&root, &ground.served());
}

#[test]
fn a_directory_without_a_gofer_does_everything() {
    let ground = Ground::new();
    everything(&Directory::held(path_fd(&ground.served())), &ground.served());
}

#[test]
fn a_read_only_mount_cannot_be_changed() {
    let ground = Ground::new();
    fs::write(ground.served().join("file"), "old").unwrap();
    let client = connect(Session::new(vec![ground.mount(Writing::ReadOnly)], Mode::Strict, Ownership::Own));
    let (root, _) = client.attach(0).unwrap();
    let refused = [
        root.open(child("file"), Access::Write).err(),
        root.open(child("file"), Access::ReadWrite).err(),
        root.create(name("x"), &new_node(S_IFREG | 0o600)).err(),
        root.remove(name("file"), Removal::File).err(),
        root.rename(name("file"), &root, name("x"), Replacing::Yes).err(),
        root.link(name("file"), &root, name("x")).err(),
        root.set_attributes(child("file"), &Changes { mode: Some(0), ..Changes::default() }).err(),
        root.set_attributes(child("file"), &Changes { size: Some(0), ..Changes::default() }).err(),
        root.set_xattr(child("file"), b"user.x", b"", XattrReplacing::Either).err(),
        root.remove_xattr(child("file"), b"user.x").err(),
    ];
    assert!(refused.iter().all(|error| *error == Some(Errno::EROFS)), "{refused:?}");
    assert!(root.open(child("file"), Access::Read).is_ok());
    assert_eq!(fs::read(ground.served().join("file")).unwrap(), b"old");
}

#[test]
fn a_mount_for_files_without_names_is_for_nothing_else() {
    let ground = Ground::new();
    fs::write(ground.served().join("file"), "old").unwrap();
    let mounts = || vec![ground.mount(Writing::Nameless), ground.mount(Writing::ReadWrite)];
    for mode in [Mode::Direct, Mode::Strict] {
        let client = connect(Session::new(mounts(), mode, Ownership::Own));
        assert_eq!(client.attach(0).err(), Some(Errno::EPERM));
        assert_eq!(client.create_nameless(1).err(), Some(Errno::EPERM));
        assert_eq!(client.create_nameless(2).err(), Some(Errno::ENOENT));
        let file = fs::File::from(client.create_nameless(0).unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, b"kept", 1 << 20).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()), 0);
        assert_eq!(fs::read_dir(ground.served()).unwrap().count(), 1);
        // Not by its number either, nor by a descriptor.
        let session = Session::new(vec![ground.mount(Writing::Nameless)], mode, Ownership::Own);
        for (at, fds) in [(Place::Root(0), vec![]), (Place::Passed(0), vec![path_fd(&ground.served())])] {
            let name = name("file");
            for request in [
                Request::Stat { at, target: Target::Itself },
                Request::Open { at, target: Target::Child(name), access: Access::Read },
                Request::Open { at, target: Target::Child(name), access: Access::Write },
                Request::OpenDirectory { at, name },
                Request::Create { at, name, new: new_node(S_IFREG | 0o600) },
                Request::Remove { at, name, removal: Removal::File },
                Request::List { at, cookie: 0 },
            ] {
                let fds = fds.iter().map(|fd: &OwnedFd| fd.try_clone().unwrap()).collect();
                assert_eq!(ask(&session, &request, fds).0, Errno::EPERM.raw(), "{request:?}");
            }
        }
    }
}

#[test]
fn a_device_is_opened_only_where_it_is_a_mount_that_is_for_that() {
    let ground = Ground::new();
    fs::write(ground.served().join("file"), "old").unwrap();
    let mount = |path: &Path| {
        let name = path.file_name().unwrap().as_encoded_bytes();
        ServedMount::file(path_fd(path), path_fd(path.parent().unwrap()), name, Writing::ReadWrite).unwrap()
    };
    let (null, file) = (Path::new("/dev/null"), ground.served().join("file"));
    for mode in [Mode::Direct, Mode::Strict] {
        let mounts = vec![mount(null), mount(null).with_device(), mount(&file).with_device()];
        let client = connect(Session::new(mounts, mode, Ownership::Own));
        let open = |number| client.attach(number).unwrap().0.open_device(Access::ReadWrite);
        assert_eq!(open(0).err(), Some(Errno::ENXIO));
        let device = fs::File::from(open(1).unwrap());
        assert!(std::os::unix::fs::FileTypeExt::is_char_device(&device.metadata().unwrap().file_type()));
        assert_eq!(open(2).err(), Some(Errno::ENXIO));
        // Nor as a regular file.
        let root = client.attach(1).unwrap().0;
        assert_eq!(root.open(Target::Itself, Access::Read).err(), Some(Errno::ENXIO));
    }
    assert_eq!(Directory::held(path_fd(null)).open_device(Access::Read).err(), Some(Errno::ENXIO));
}

/// The error number of a reply.
fn ask(session: &Session, request: &Request<'_>, fds: Vec<OwnedFd>) -> (i32, Option<OwnedFd>) {
    let mut message = Vec::new();
    request.put(&mut message);
    let (reply, fd) = session.answer(&message, fds).unwrap();
    (i32::from_ne_bytes(reply[..4].try_into().unwrap()), fd)
}

#[test]
fn descriptors_of_other_mounts_are_refused() {
    let ground = Ground::new();
    let session = ground.session(Mode::Direct);
    let stat = Request::Stat { at: Place::Passed(0), target: Target::Itself };
    assert_eq!(ask(&session, &stat, vec![path_fd(Path::new("/proc"))]).0, Errno::EXDEV.raw());
    assert_eq!(ask(&session, &stat, vec![path_fd(Path::new("/dev/null"))]).0, Errno::ENOTDIR.raw());
    assert_eq!(ask(&session, &stat, vec![]).0, Errno::EBADF.raw());
    assert_eq!(ask(&session, &stat, vec![path_fd(&ground.served())]).0, 0);
    let strict = ground.session(Mode::Strict);
    assert_eq!(ask(&strict, &stat, vec![path_fd(&ground.served())]).0, Errno::EPERM.raw());
    fs::create_dir(ground.served().join("d")).unwrap();
    let open = Request::OpenDirectory { at: Place::Root(0), name: name("d") };
    assert_eq!(ask(&strict, &open, vec![]).0, Errno::EPERM.raw());
    let (error, fd) = ask(&strict, &Request::Attach { mount: 0 }, vec![]);
    assert!(error == 0 && fd.is_none());
}

#[test]
fn nodes_are_limited_and_their_numbers_checked() {
    let ground = Ground::new();
    fs::create_dir(ground.served().join("d")).unwrap();
    let session = ground.session(Mode::Strict).with_max_nodes(10);
    let walk = Request::Walk { at: Place::Root(0), names: List(vec![name("d")]) };
    let mut replies = Vec::new();
    for _ in 0..12 {
        let mut message = Vec::new();
        walk.put(&mut message);
        replies.push(session.answer(&message, vec![]).unwrap().0);
    }
    // A walk that fails at its first step has no steps, and the error behind.
    assert_eq!(replies.iter().filter(|reply| reply.len() > 16).count(), 10);
    assert!(replies[11].ends_with(&Errno::ENFILE.raw().to_ne_bytes()));
    let stat = |node| Request::Stat { at: Place::Node(node), target: Target::Itself };
    assert_eq!(ask(&session, &stat(1), vec![]).0, 0);
    assert_eq!(ask(&session, &stat(99), vec![]).0, Errno::ESTALE.raw());
    let mut message = Vec::new();
    Request::Close { nodes: List(vec![1, 1, 99]) }.put(&mut message);
    assert!(session.answer(&message, vec![]).is_none());
    assert_eq!(ask(&session, &stat(1), vec![]).0, Errno::ESTALE.raw());
}

#[test]
fn forgotten_directories_are_closed_at_the_gofer() {
    let ground = Ground::new();
    fs::create_dir(ground.served().join("d")).unwrap();
    let client = connect(ground.session(Mode::Strict).with_max_nodes(200));
    let (root, _) = client.attach(0).unwrap();
    for _ in 0..1000 {
        root.descend(name("d")).unwrap();
    }
}

/// While a thread keeps exchanging a directory for a link that leads out, nothing out there is reached.
#[test]
fn races_with_links_lead_nowhere() {
    let ground = Ground::new();
    let served = ground.served();
    fs::create_dir(served.join("d")).unwrap();
    fs::write(served.join("d/canary"), "inside").unwrap();
    symlink(ground.outside(), served.join("l")).unwrap();
    fs::write(served.join("f"), "inside").unwrap();
    symlink(ground.outside().join("canary"), served.join("m")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (stop, fd) = (Arc::clone(&stop), path_fd(&served));
        move || {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(&fd, "d", &fd, "l", RenameFlags::EXCHANGE).unwrap();
                renameat_with(&fd, "f", &fd, "m", RenameFlags::EXCHANGE).unwrap();
            }
        }
    });
    for mode in [Mode::Strict, Mode::Direct] {
        let (root, _) = ground.client(mode).attach(0).unwrap();
        let mut reached = 0;
        for round in 0..3000 {
            if let Ok((dir, _)) = root.descend(name("d")) {
                reached += 1;
                let new = format!("n{round}");
                dir.create(name(&new), &new_node(S_IFREG | 0o600)).unwrap();
                dir.remove(name(&new), Removal::File).unwrap();
                let fd = dir.open(child("canary"), Access::ReadWrite).unwrap();
                let mut text = [0; 6];
                host::rustix::io::pread(&fd, &mut text, 0).unwrap();
                assert_eq!(&text, b"inside");
            }
            if let Ok(fd) = root.open(child("f"), Access::ReadWrite) {
                reached += 1;
                host::rustix::io::pwrite(&fd, b"inside", 0).unwrap();
            }
            let changes = Changes { accessed: Some(TimeSpec { sec: 1, nsec: 1 }), ..Changes::default() };
            let _ = root.set_attributes(child("f"), &changes);
        }
        assert!(reached > 0, "the directory was never seen");
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    ground.check_canary();
}

fn any_place() -> impl Strategy<Value = Place> {
    let number = prop_oneof![0u32..4, any::<u32>()];
    prop_oneof![
        number.clone().prop_map(Place::Root),
        number.clone().prop_map(Place::Node),
        number.prop_map(Place::Passed)
    ]
}

/// Names that mostly exist, and those that lead elsewhere.
const NAMES: [&str; 6] = ["a", "b", "dir", "out", "up", "file"];

const TARGETS: [&[u8]; 4] = [b"../outside/canary", b"..", b"/etc/passwd", b""];

fn any_name() -> impl Strategy<Value = Name<'static>> {
    proptest::sample::select(&NAMES[..]).prop_map(name)
}

fn any_target() -> impl Strategy<Value = Target<'static>> {
    prop_oneof![Just(Target::Itself), any_name().prop_map(Target::Child)]
}

fn any_new() -> impl Strategy<Value = NewNode<'static>> {
    let kind = proptest::sample::select(&[S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, 0o140000, 0, 0o130000][..]);
    let target = proptest::sample::select(&TARGETS[..]);
    (kind, 0u32..0o10000, target).prop_map(|(kind, mode, target)| NewNode { target, ..new_node(kind | mode) })
}

fn any_changes() -> impl Strategy<Value = Changes> {
    let time = any::<(i64, i64)>().prop_map(|(sec, nsec)| TimeSpec { sec, nsec });
    (proptest::option::of(any::<u32>()), proptest::option::of(0u64..1 << 20), proptest::option::of(time))
        .prop_map(|(mode, size, modified)| Changes { mode, size, modified, ..Changes::default() })
}

fn any_request() -> impl Strategy<Value = Request<'static>> {
    let access = proptest::sample::select(&[Access::Read, Access::Write, Access::ReadWrite][..]);
    let replacing = proptest::sample::select(&[Replacing::Yes, Replacing::No, Replacing::Exchange][..]);
    let removal = proptest::sample::select(&[Removal::File, Removal::Directory][..]);
    let xattr: &'static [u8] = b"user.x";
    prop_oneof![
        any::<u32>().prop_map(|version| Request::Hello { version }),
        any::<u32>().prop_map(|mount| Request::Attach { mount }),
        (any_place(), proptest::collection::vec(any_name(), 0..5))
            .prop_map(|(at, names)| Request::Walk { at, names: List(names) }),
        (any_place(), any_target()).prop_map(|(at, target)| Request::Stat { at, target }),
        (any_place(), any_target(), access).prop_map(|(at, target, access)| Request::Open {
            at,
            target,
            access
        }),
        (any_place(), any_name()).prop_map(|(at, name)| Request::OpenDirectory { at, name }),
        (any_place(), any_name(), any_new()).prop_map(|(at, name, new)| Request::Create { at, name, new }),
        (any_place(), any_name(), removal).prop_map(|(at, name, removal)| Request::Remove {
            at,
            name,
            removal
        }),
        (any_place(), any_name(), any_place(), any_name(), replacing).prop_map(
            |(from, name, to, new_name, replacing)| Request::Rename { from, name, to, new_name, replacing }
        ),
        (any_place(), any_name(), any_place(), any_name())
            .prop_map(|(from, name, to, new_name)| Request::Link { from, name, to, new_name }),
        (any_place(), any_name()).prop_map(|(at, name)| Request::ReadLink { at, name }),
        (any_place(), any_target(), any_changes()).prop_map(|(at, target, changes)| Request::SetAttributes {
            at,
            target,
            changes
        }),
        (any_place(), any_target()).prop_map(move |(at, target)| Request::GetXattr {
            at,
            target,
            name: xattr
        }),
        (any_place(), any_target()).prop_map(move |(at, target)| Request::SetXattr {
            at,
            target,
            name: xattr,
            value: xattr,
            replacing: XattrReplacing::Either
        }),
        (any_place(), any_target()).prop_map(|(at, target)| Request::ListXattr { at, target }),
        any_place().prop_map(|at| Request::Statistics { at }),
        (any_place(), any::<u64>()).prop_map(|(at, cookie)| Request::List { at, cookie }),
        (any_place(), any_target()).prop_map(|(at, target)| Request::Connect {
            at,
            target,
            kind: SocketKind::Stream,
            guest: GUEST
        }),
        proptest::collection::vec(any::<u32>(), 0..5).prop_map(|nodes| Request::Close { nodes: List(nodes) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(messages in proptest::collection::vec(
        (0u8..24, proptest::collection::vec(any::<u8>(), 0..200)), 1..100)
    ) {
        let ground = Ground::new();
        let session = ground.session(Mode::Direct);
        for (number, rest) in messages {
            let _ = session.answer(&[&[number], rest.as_slice()].concat(), vec![path_fd(&ground.served())]);
        }
        ground.check_canary();
    }

    #[test]
    fn random_requests_stay_inside(
        requests in proptest::collection::vec(any_request(), 1..200),
        direct in any::<bool>(),
    ) {
        let ground = Ground::new();
        fs::create_dir(ground.served().join("dir")).unwrap();
        fs::write(ground.served().join("file"), "inside").unwrap();
        symlink("../outside", ground.served().join("out")).unwrap();
        symlink("..", ground.served().join("up")).unwrap();
        let session = ground.session(if direct { Mode::Direct } else { Mode::Strict });
        for request in &requests {
            let mut message = Vec::new();
            request.put(&mut message);
            // What is encoded decodes to the same.
            prop_assert_eq!(&crate::protocol::decode::<Request<'_>>(&message).unwrap(), request);
            let passed = vec![path_fd(&ground.served()), path_fd(&ground.served().join("dir")) ];
            let _ = session.answer(&message, passed);
            fs::create_dir_all(ground.served().join("dir")).ok();
            if !ground.served().join("dir").symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
                break;
            }
        }
        ground.check_canary();
    }
}

#[test]
fn a_gofer_that_is_gone_is_an_error() {
    let (ours, theirs) = crate::socket::pair().unwrap();
    drop(theirs);
    assert_eq!(Client::connect(vec![ours]).err(), Some(Errno::EIO));
    // And the other way round: a message that is none ends the channel.
    let ground = Ground::new();
    let (ours, theirs) = crate::socket::pair().unwrap();
    let server = std::thread::spawn({
        let session = ground.session(Mode::Strict);
        move || crate::process::serve(session, vec![theirs], || Ok(()))
    });
    crate::socket::send_message(ours.as_fd(), &[0; 200_000][..100_000], &[]).unwrap();
    server.join().unwrap().unwrap();
}

/// A client of a session that connects to sockets.
fn connecting(ground: &Ground, mode: Mode, writing: Writing) -> Arc<Client> {
    let connector = Connector { descriptors: "/proc/self/fd", seen: Seen::Own };
    let session = Session::new(vec![ground.mount(writing)], mode, Ownership::Own);
    connect(session.with_connector(Some(connector)))
}

const GUEST: Guest = Guest { uid: 0, gid: 0 };

#[test]
fn sockets_in_a_mount_can_be_connected_to() {
    let ground = Ground::new();
    let listener = UnixListener::bind(ground.served().join("socket")).unwrap();
    drop(UnixListener::bind(ground.served().join("dead")).unwrap());
    fs::write(ground.served().join("file"), "").unwrap();
    symlink("socket", ground.served().join("link")).unwrap();
    for (mode, writing) in [(Mode::Strict, Writing::ReadOnly), (Mode::Direct, Writing::ReadWrite)] {
        let client = connecting(&ground, mode, writing);
        let (root, _) = client.attach(0).unwrap();
        let connect = |name, kind| root.connect(child(name), kind, GUEST).map(drop).err();
        assert_eq!(connect("socket", SocketKind::Stream), None);
        assert!(listener.accept().is_ok());
        assert_eq!(connect("socket", SocketKind::Datagram), Some(Errno::EPROTOTYPE));
        assert_eq!(connect("dead", SocketKind::Stream), Some(Errno::ECONNREFUSED));
        assert_eq!(connect("file", SocketKind::Stream), Some(Errno::ECONNREFUSED));
        assert_eq!(connect("none", SocketKind::Stream), Some(Errno::ENOENT));
        assert_eq!(connect("link", SocketKind::Stream), Some(Errno::ECONNREFUSED));
    }
    let (root, _) = ground.client(Mode::Strict).attach(0).unwrap();
    let refused = root.connect(child("socket"), SocketKind::Stream, GUEST).map(drop);
    assert_eq!(refused, Err(Errno::ECONNREFUSED), "nobody has allowed it");
}

#[test]
fn a_link_that_takes_the_place_of_a_socket_leads_nowhere() {
    let ground = Ground::new();
    let inside = UnixListener::bind(ground.served().join("socket")).unwrap();
    let outside = UnixListener::bind(ground.outside().join("socket")).unwrap();
    outside.set_nonblocking(true).unwrap();
    std::thread::spawn(move || while inside.accept().is_ok() {});
    symlink("../outside/socket", ground.served().join("link")).unwrap();
    let client = connecting(&ground, Mode::Strict, Writing::ReadWrite);
    let (root, _) = client.attach(0).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (served, stopped) = (path_fd(&ground.served()), Arc::clone(&stop));
    let swapper = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            renameat_with(&served, "socket", &served, "link", RenameFlags::EXCHANGE).unwrap();
        }
    });
    let mut connected = 0;
    for _ in 0..20_000 {
        match root.connect(child("socket"), SocketKind::Stream, GUEST) {
            Ok(_) => connected += 1,
            Err(error) => {
                assert!(matches!(error, Errno::ELOOP | Errno::ECONNREFUSED | Errno::EAGAIN), "{error}")
            }
        }
        assert!(outside.accept().is_err(), "somebody got out");
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(connected > 0);
}
