//! A gofer process and a client without privileges, both modes. A program of its own, since a process with threads cannot
//! fork a gofer. Needs root; reports itself as skipped otherwise.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use abi::Errno;
use abi::fs::{S_IFCHR, S_IFDIR, S_IFREG};
use gofer::mounts::{Below, Executing, Mount};
use gofer::{
    Access, Changes, Client, Directory, Listing, Mode, Name, NewNode, Removal, Replacing, Service, Sockets,
    Target, Writing,
};
use host::mount::Ties;
use host::rustix;
use host::rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

fn main() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "a test was skipped");
        return;
    }
    for mode in [Mode::Direct, Mode::Strict] {
        owners(mode);
        println!("{mode:?}: ok");
    }
    failures();
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

fn child(text: &str) -> Target<'_> {
    Target::Child(name(text))
}

fn mount(source: &Path, writing: Writing, below: Below) -> Mount {
    Mount {
        source: source.to_owned(),
        overlay: None,
        writing,
        below,
        executing: Executing::Allowed,
        devices: gofer::mounts::Devices::Refused,
        owners: None,
        ties: Ties::None,
    }
}

fn service(mode: Mode) -> Service {
    Service { mode, sockets: Sockets::None, ids: None }
}

/// Runs `body` without capabilities, as the sandbox process is.
fn unprivileged(body: impl FnOnce()) {
    let before = capabilities(None).unwrap();
    let none = CapabilitySets { effective: CapabilitySet::empty(), ..before };
    set_capabilities(None, none).unwrap();
    body();
    set_capabilities(None, before).unwrap();
}

/// What is there, seen with all privileges.
fn look(path: &Path) -> fs::Metadata {
    let before = capabilities(None).unwrap();
    set_capabilities(None, CapabilitySets { effective: before.permitted, ..before }).unwrap();
    let found = fs::symlink_metadata(path).unwrap();
    set_capabilities(None, before).unwrap();
    found
}

fn owners(mode: Mode) {
    let top = tempfile::tempdir().unwrap();
    let path = top.path();
    fs::create_dir(path.join("private")).unwrap();
    fs::write(path.join("private/secret"), "of 999").unwrap();
    fs::create_dir(path.join("private/deep")).unwrap();
    for (file, mode) in [("private/secret", 0o400), ("private/deep", 0o700), ("private", 0o700)] {
        fs::set_permissions(path.join(file), fs::Permissions::from_mode(mode)).unwrap();
        chown(path.join(file), Some(999), Some(998)).unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "single").unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o000)).unwrap();
    chown(file.path(), Some(7), Some(7)).unwrap();
    let plan = [
        mount(path, Writing::ReadWrite, Below::Hidden),
        mount(file.path(), Writing::ReadWrite, Below::Hidden),
        mount(path, Writing::ReadOnly, Below::Included),
    ];
    let mut process = gofer::spawn(&plan, &service(mode)).unwrap();
    process.wait_until_ready().unwrap();
    let channels = std::mem::take(&mut process.channels);
    unprivileged(|| {
        let client = Client::connect(channels).unwrap();
        assert_eq!((client.mode(), client.mounts()), (mode, 3));
        files_of_others(&client.attach(0).unwrap().0, path);
        single_file(&client.attach(1).unwrap().0, file.path());
        let (read_only, _) = client.attach(2).unwrap();
        assert!(read_only.create(name("x"), &node(S_IFREG | 0o600, 0)).err() == Some(Errno::EROFS));
        let (private, _) = read_only.descend(name("private")).unwrap();
        assert!(private.open(child("secret"), Access::Read).is_ok());
        assert_eq!(private.remove(name("secret"), Removal::File).err(), Some(Errno::EROFS));
        if mode == Mode::Direct {
            hostile(&client);
        }
    });
    // The last channel was closed: the process ends by itself.
    let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
    let (_, status) =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "{status:?}");
}

fn node(mode: u32, owner: u32) -> NewNode<'static> {
    NewNode { mode, uid: owner, gid: owner, device: 0, target: b"" }
}

fn files_of_others(root: &Directory, path: &Path) {
    let (private, attributes) = root.descend(name("private")).unwrap();
    assert_eq!((attributes.uid, attributes.gid), (999, 998));
    let fd = private.open(child("secret"), Access::Read).unwrap();
    let mut text = [0; 6];
    assert_eq!(rustix::io::pread(&fd, &mut text, 0).unwrap(), 6);
    assert_eq!(&text, b"of 999");
    let mut listing = Listing::default();
    private.list(&mut listing).unwrap();
    let mut names: Vec<_> = listing.iter_from(0).map(|entry| entry.name).collect();
    names.sort();
    assert_eq!(names, [b"deep".to_vec(), b"secret".to_vec()]);

    let (deep, _) = private.descend(name("deep")).unwrap();
    let (made, _) = deep.create(name("new"), &node(S_IFREG | 0o4755, 1000)).unwrap();
    assert_eq!((made.uid, made.gid, made.mode), (1000, 1000, S_IFREG | 0o4755));
    let new = path.join("private/deep/new");
    let stat = look(&new);
    assert_eq!((stat.uid(), stat.gid(), stat.mode()), (1000, 1000, S_IFREG | 0o4755));
    deep.create(name("dir"), &node(S_IFDIR | 0o750, 33)).unwrap();
    deep.create(name("null"), &NewNode { device: 0x103, ..node(S_IFCHR | 0o666, 0) }).unwrap();
    assert!(look(&path.join("private/deep/null")).file_type().is_char_device());
    assert!(deep.open(child("null"), Access::Read).is_err());

    let changes =
        Changes { uid: Some(5), gid: Some(6), mode: Some(0o600), size: Some(9), ..Changes::default() };
    deep.set_attributes(child("new"), &changes).unwrap();
    let stat = look(&new);
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777, stat.len()), (5, 6, 0o600, 9));
    deep.rename(name("new"), root, name("moved"), Replacing::No).unwrap();
    root.link(name("moved"), &deep, name("again")).unwrap();
    assert_eq!(look(&path.join("moved")).nlink(), 2);
    deep.remove(name("dir"), Removal::Directory).unwrap();
    deep.remove(name("again"), Removal::File).unwrap();

    symlink("/etc/passwd", path.join("out")).unwrap();
    assert!(root.open(child("out"), Access::Read).is_err());
    assert!(root.descend(name("out")).is_err());
}

fn single_file(root: &Directory, path: &Path) {
    assert_eq!(root.stat(Target::Itself).unwrap().uid, 7);
    let fd = root.open(Target::Itself, Access::ReadWrite).unwrap();
    rustix::io::pwrite(&fd, b"S", 0).unwrap();
    root.set_attributes(Target::Itself, &Changes { mode: Some(0o640), uid: Some(8), ..Changes::default() })
        .unwrap();
    let stat = look(path);
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (8, 0o640));
    assert_eq!(root.descend(name("x")).err(), Some(Errno::ENOTDIR));
}

/// With the descriptor of a mount, the way up ends in the gofer's own, empty root.
fn hostile(client: &std::sync::Arc<Client>) {
    use rustix::fs::{Mode as FileMode, OFlags, openat};
    let (root, _) = client.attach(0).unwrap();
    let fd = root.descriptor().unwrap();
    let up = openat(fd, "../../../../..", OFlags::RDONLY | OFlags::DIRECTORY, FileMode::empty());
    match up {
        Err(error) => assert_eq!(error, rustix::io::Errno::ACCESS),
        Ok(up) => {
            let names: Vec<_> = rustix::fs::Dir::new(up)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .filter(|name| name != "." && name != "..")
                .collect();
            assert!(names.iter().all(|name| ["0", "1", "2"].contains(&name.as_str())), "{names:?}");
        }
    }
}

fn failures() {
    let plan = [mount(Path::new("/nonexistent/source"), Writing::ReadOnly, Below::Hidden)];
    let mut process = gofer::spawn(&plan, &service(Mode::Strict)).unwrap();
    let error = process.wait_until_ready().unwrap_err();
    assert!(error.starts_with("cannot mount /nonexistent/source: No such file"), "{error}");
    let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
}
