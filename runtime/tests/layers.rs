//! The layer over a root directory: written to an archive, and made again of one.

mod bundles;

use std::path::{Path, PathBuf};

use bundles::{Host, SERVICE, can_run, compile};
use serde_json::{Value, json};

/// Changes of a root directory with something of all kinds.
const CHANGES: &str = "
    set -e
    cd /
    echo changed > /etc/file; echo more >> /etc/appended; rm /etc/removed; rm -r /gone
    rm -r /hidden; mkdir /hidden; echo new > /hidden/new
    mv /moved /tmp/moved
    mkdir -p /made/deep/er; echo made > /made/deep/er/file
    ln /made/deep/er/file /made/again; ln /etc/linked /etc/linked-again
    ln -s /not/there /made/link; mkfifo -m 600 /made/fifo
    mknod /made/null c 1 3
    truncate -s 1G /made/sparse; echo end >> /made/sparse
    dd if=/dev/zero bs=1k count=300 2>&- | tr '\\0' y > /made/big
    chown 1234:70000 /made/big; chmod 4751 /made/big
    touch -d '2001-02-03 04:05:06' /made/again /made/deep /etc/file
    touch /etc/owned; chown 7:8 /etc/owned
";

/// What a program sees of a tree, but for the numbers of files and what the system changes by itself.
const LIST: &str = "
    cd /
    for top in etc gone hidden moved tmp made; do
        [ -e $top ] || { echo no $top; continue; }
        find $top | sort | while read -r path; do
            stat -c '%n %f %u %g %h %t %T' \"$path\" | sed 's/ 41\\(..\\) \\(.*\\) [0-9]* \\(.*\\) / 41\\1 \\2 - \\3 /'
            stat -c '%Y' \"$path\"
            [ -L \"$path\" ] && readlink \"$path\"
            [ -f \"$path\" ] && [ \"$path\" != made/sparse ] && cat \"$path\" | md5sum
            true
        done
    done
    stat -c '%s' made/sparse; tail -c 4 made/sparse
    [ $(stat -c %b made/sparse) -lt 1000 ] && echo sparse
    [ made/again -ef made/deep/er/file ] && [ etc/linked -ef etc/linked-again ] && echo links
";

/// A bundle whose root directory has something to be changed.
fn bundle(host: &Host, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let bundle = host.bundle_with(name, SERVICE, |spec| {
        let all =
            json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE", "CAP_MKNOD", "CAP_FSETID", "CAP_KILL"]);
        spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
        change(spec);
    });
    let root = bundle.join("rootfs");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for tool in ["find", "sort", "readlink", "md5sum", "tail", "chown", "[", "test"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).expect("a link");
    }
    for directory in ["gone", "hidden", "moved", "moved/inner"] {
        std::fs::create_dir(root.join(directory)).expect("a directory");
    }
    for file in [
        "etc/file",
        "etc/appended",
        "etc/removed",
        "etc/linked",
        "etc/kept",
        "etc/owned",
        "gone/file",
        "hidden/old",
        "moved/one",
        "moved/inner/two",
    ] {
        std::fs::write(root.join(file), file).expect("written");
        let opened = std::fs::File::options().append(true).open(root.join(file)).expect("opened");
        opened.set_modified(old).expect("its time is set");
    }
    bundle
}

/// Makes and starts a container with a layer.
fn start(host: &Host, id: &str, bundle: &Path) {
    let output = std::fs::File::create(host.path(&format!("{id}.out"))).expect("a file");
    let arguments = ["--overlay2=root:memory", "--allow-rootfs-tar-annotation", "create", "--bundle"];
    let mut command = host.command(&[&arguments[..], &[bundle.to_str().expect("text"), id]].concat());
    assert!(command.stdout(output).status().expect("it starts").success(), "{id} is made");
    host.run(&["start", id]).ok();
}

fn archive(host: &Host, id: &str) -> PathBuf {
    let path = host.path(&format!("{id}.tar"));
    host.run(&["tar", "rootfs-upper", "--file", path.to_str().expect("text"), id]).ok();
    path
}

#[test]
fn what_was_changed_of_a_root_directory_is_written_and_made_again() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let first = bundle(&host, "first", |_| {});
    start(&host, "first", &first);
    let empty = std::fs::read(archive(&host, "first")).expect("read");
    assert!(empty.len() < 8 << 10, "only mount points: {}", empty.len());
    let shell = |id: &str, script: &str| host.run(&["exec", id, "/bin/sh", "-c", script]).ok();
    shell("first", CHANGES);
    let seen = shell("first", LIST);
    assert!(seen.contains("no gone\n") && seen.contains("made/null 2"), "{seen}");
    assert!(seen.contains("end\nsparse\nlinks\n"), "{seen}");
    let tar = archive(&host, "first");
    assert!(std::fs::metadata(&tar).expect("it is there").len() < 2 << 20, "holes take no room");
    // Standard output will do as well.
    let out = host.command(&["tar", "rootfs-upper", "first"]).output().expect("it starts").stdout;
    assert_eq!(out, std::fs::read(&tar).expect("read"));

    let second = bundle(&host, "second", |spec| {
        spec["annotations"] = json!({ "dev.gvisor.tar.rootfs.upper": tar });
    });
    start(&host, "second", &second);
    let again = shell("second", LIST);
    for (one, other) in seen.lines().zip(again.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(seen, again);
    // And the root directories themselves are as they were.
    assert_eq!(std::fs::read_to_string(second.join("rootfs/etc/file")).expect("read"), "etc/file");
    for id in ["first", "second"] {
        host.run(&["delete", "--force", id]).ok();
    }
    host.assert_nothing_left();
}

#[test]
fn access_control_lists_are_in_the_archive_of_a_layer() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let program = host.path("attributes");
    if !compile("attributes", &program) {
        return;
    }
    let entry = |tag: u16, allowed: u16, id: u32| {
        [&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    // Owner rw-, the user 1234 rwx, the group r--, the group 70000 r-x, all of these at most r-x, others nothing.
    let entries = [
        (1, 6, u32::MAX),
        (2, 7, 1234),
        (4, 4, u32::MAX),
        (8, 5, 70_000),
        (16, 5, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let bytes =
        [&2_u32.to_le_bytes()[..], &entries.map(|(tag, allowed, id)| entry(tag, allowed, id)).concat()]
            .concat();
    let list: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let changes = format!(
        "set -e; cd /; set_list() {{ attributes set $1 system.posix_acl_$2 {list}; }}
        set_list etc/file access; mkdir made; set_list made default; echo made > made/file; mkdir made/inner
        mkfifo fifo; set_list fifo access; set_list moved default; mv moved made/moved
        attributes set made user.name 76616c7565"
    );
    let show = "cd /; all='etc/file etc/kept made made/file made/inner made/moved made/moved/one fifo'
        stat -c '%n %f %u %g' $all; attributes show $all";
    let with_program = |name: &str, tar: Option<&Path>| {
        let bundle = bundle(&host, name, |spec| {
            if let Some(tar) = tar {
                spec["annotations"] = json!({ "dev.gvisor.tar.rootfs.upper": tar });
            }
        });
        std::fs::copy(&program, bundle.join("rootfs/bin/attributes")).expect("copied");
        // Lists that the host's files have are not shown. It may be that they can have none.
        let own = rustix::fs::XattrFlags::empty();
        let _ = rustix::fs::setxattr(bundle.join("rootfs/etc/kept"), "system.posix_acl_access", &bytes, own);
        start(&host, name, &bundle);
    };
    let shell = |id: &str, script: &str| host.run(&["exec", id, "/bin/sh", "-c", script]).ok();
    with_program("first", None);
    shell("first", &changes);
    let seen = shell("first", show);
    assert!(seen.contains(&format!("etc/file system.posix_acl_access {list}\n")), "{seen}");
    assert!(seen.contains(&format!("made/inner system.posix_acl_default {list}\n")), "{seen}");
    assert_eq!(seen.matches("system.posix_acl_").count(), 7, "{seen}");
    assert!(!seen.contains("etc/kept system"), "{seen}");
    let tar = archive(&host, "first");
    with_program("second", Some(&tar));
    assert_eq!(shell("second", show), seen);
    // And the next archive has them, too.
    let lists = |tar: &Path| {
        let bytes = std::fs::read(tar).expect("read");
        let name = b"SCHILY.xattr.system.posix_acl_";
        bytes.windows(name.len()).filter(|part| part == name).count()
    };
    assert_eq!((lists(&tar), lists(&archive(&host, "second"))), (7, 7));
    for id in ["first", "second"] {
        host.run(&["delete", "--force", id]).ok();
    }
    host.assert_nothing_left();
}

#[test]
fn an_archive_of_a_layer_is_a_directory_of_an_overlay_to_others() {
    if !can_run() {
        return;
    }
    if std::process::Command::new("tar").arg("--version").output().is_err() {
        return bundles::skip("there is no tar");
    }
    let host = Host::new();
    start(&host, "c", &bundle(&host, "b", |_| {}));
    host.run(&["exec", "c", "/bin/sh", "-c", CHANGES]).ok();
    let tar = archive(&host, "c");
    let upper = host.path("upper");
    std::fs::create_dir(&upper).expect("a directory");
    let mut unpack = std::process::Command::new("tar");
    unpack.args(["--xattrs", "--xattrs-include=*", "-xf"]).arg(&tar).arg("-C").arg(&upper);
    let unpacked = unpack.output().expect("it starts");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = |path: &str| upper.join(path).symlink_metadata().expect(path);
    for whiteout in ["gone", "etc/removed", "moved"] {
        assert!(meta(whiteout).file_type().is_char_device() && meta(whiteout).rdev() == 0, "{whiteout}");
    }
    let mut opaque = [0; 8];
    let length = rustix::fs::getxattr(upper.join("hidden"), "trusted.overlay.opaque", &mut opaque[..])
        .expect("it hides");
    assert_eq!(&opaque[..length], b"y");
    assert_eq!(std::fs::read_to_string(upper.join("tmp/moved/inner/two")).expect("read"), "moved/inner/two");
    assert_eq!((meta("made/sparse").len(), meta("made/sparse").blocks() < 64), ((1 << 30) + 4, true));
    assert_eq!(
        (meta("made/big").uid(), meta("made/big").gid(), meta("made/big").mode()),
        (1234, 70_000, 0o104_751)
    );
    assert_eq!(meta("made/again").ino(), meta("made/deep/er/file").ino());
    assert_eq!(meta("made/again").mtime(), 981_173_106);
    assert!(!upper.join("etc/kept").exists() && !upper.join("bin").exists());
}

#[test]
fn layers_are_written_and_made_of_archives_only_where_that_is_possible() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let without = host.bundle("without", SERVICE);
    host.started("without", &without);
    let path = host.path("no.tar");
    host.run(&["tar", "rootfs-upper", "--file", path.to_str().expect("text"), "without"])
        .fails_with("the root directory of container \"without\" has no layer");
    host.run(&["tar", "rootfs-upper", "nobody"]).fails_with("does not exist");
    host.run(&["kill", "without", "KILL"]).ok();
    bundles::until("its end", || host.status("without") == "stopped");
    host.run(&["tar", "rootfs-upper", "without"]).fails_with("container not running");
    host.run(&["delete", "without"]).ok();

    let (nonsense, fifo) = (host.path("nonsense"), host.path("fifo"));
    std::fs::write(&nonsense, "no archive".repeat(100)).expect("written");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
    let allowed = ["--overlay2=root:memory", "--allow-rootfs-tar-annotation"];
    for (flags, file, reason) in [
        (&allowed[..1], &nonsense, "--allow-rootfs-tar-annotation allows it"),
        (&allowed[1..], &nonsense, "is for a root directory with a layer"),
        (
            &allowed[..],
            &nonsense,
            "cannot use the archive of the root directory's layer: this is no tar archive",
        ),
        (&allowed[..], &host.path("missing"), "No such file"),
        (&allowed[..], &fifo, "it is no file"),
    ] {
        let bundle = host.path("with");
        let _ = std::fs::remove_dir_all(&bundle);
        host.bundle_with("with", SERVICE, |spec| {
            spec["annotations"] = json!({ "dev.gvisor.tar.rootfs.upper": file });
        });
        host.run(&[flags, &["create", "--bundle", bundle.to_str().expect("text"), "c"]].concat())
            .fails_with(reason);
    }
    host.assert_nothing_left();
}

#[test]
fn each_container_of_a_pod_has_a_layer_of_its_own() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let pod = |name: &str, kind: &str, spec: &mut Value, sandbox: &str| {
        spec["annotations"]["io.kubernetes.cri.container-type"] = json!(kind);
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(sandbox);
        spec["annotations"]["io.kubernetes.cri.container-name"] = json!(name);
    };
    let members = [("one", "sandbox"), ("two", "container")];
    for (name, kind) in members {
        start(&host, name, &bundle(&host, &format!("b-{name}"), |spec| pod(name, kind, spec, "one")));
        host.run(&["exec", name, "/bin/sh", "-c", &format!("echo {name} > /mine")]).ok();
    }
    let archives = members.map(|(name, _)| archive(&host, name));
    for (name, kind) in members {
        let id = format!("new-{name}");
        let bundle = bundle(&host, &format!("b-{id}"), |spec| {
            pod(name, kind, spec, "new-one");
            spec["annotations"]["dev.gvisor.tar.rootfs.upper.one"] = json!(archives[0]);
            spec["annotations"]["dev.gvisor.tar.rootfs.upper.two"] = json!(archives[1]);
        });
        start(&host, &id, &bundle);
        assert_eq!(host.run(&["read", &id, "/mine"]).ok(), format!("{name}\n"));
    }
    for id in ["two", "one", "new-two", "new-one"] {
        host.run(&["delete", "--force", id]).ok();
    }
    host.assert_nothing_left();
}

/// A file system in memory on the host, so that what lies in it can be counted.
struct Disk(PathBuf);

impl Disk {
    fn new(host: &Host, name: &str, flags: rustix::mount::MountFlags) -> Disk {
        let path = host.path(name);
        std::fs::create_dir(&path).expect("a directory");
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, c"size=200m").expect("root may");
        Disk(path)
    }

    /// How much of it is used, in bytes.
    fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).expect("it is there");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn large_files_of_a_layer_can_be_in_a_directory_and_leave_no_trace() {
    const MIB: u64 = 1 << 20;
    if !can_run() {
        return;
    }
    let host = Host::new();
    let disk = Disk::new(&host, "disk", rustix::mount::MountFlags::empty());
    std::fs::create_dir(disk.0.join("store")).expect("a directory");
    let on_disk = |own: bool| if own { "disk/b" } else { "b" };
    for (own, direct) in [(true, "true"), (false, "true"), (true, "false"), (false, "false")] {
        let bundle = host.bundle(on_disk(own), SERVICE);
        let store = disk.0.join("store");
        let layer = if own { "root:self".to_owned() } else { format!("root:dir={}", store.display()) };
        let (overlay, directfs) = (format!("--overlay2={layer}"), format!("--directfs={direct}"));
        std::fs::write(bundle.join("rootfs/etc/large"), vec![7; 300_000]).expect("written");
        let before = disk.used();
        let start = || {
            let output = std::fs::File::create(host.path("c.out")).expect("a file");
            let arguments = [&overlay, &directfs, "create", "--bundle", bundle.to_str().expect("text"), "c"];
            assert!(host.command(&arguments).stdout(output).status().expect("it starts").success());
            host.run(&["start", "c"]).ok();
            host.wait_for_output("c", "ready");
        };
        let shell = |script: &str| host.run(&["exec", "c", "/bin/sh", "-c", script]).ok();
        start();
        shell("dd if=/dev/zero of=/big bs=1M count=20 2>&-; echo small > /small; echo more >> /etc/large");
        let filled = disk.used();
        assert!((20 * MIB..23 * MIB).contains(&(filled - before)), "{layer} {} {before} {filled}", 20 * MIB);
        // What is there is the file itself, mapped or read, and nothing of it is in memory.
        assert_eq!(
            shell(
                "cat /bin/busybox > /tmp/busybox; chmod +x /tmp/busybox; /tmp/busybox wc -c < /big; cat /small"
            ),
            "20971520\nsmall\n"
        );
        let usage: Value = serde_json::from_str(&host.run(&["usage", "--full", "c"]).ok()).expect("JSON");
        assert!(usage["Tmpfs"].as_u64().expect("a number") < MIB, "{usage}");
        let names = |path: &Path| std::fs::read_dir(path).expect("a directory").count();
        assert_eq!(names(&store), 0);
        assert_eq!(names(&bundle.join("rootfs")), 5, "bin, etc, tmp, proc, dev");
        // Room comes back when files are shortened, when they go, and when the container does.
        shell("truncate -s 5M /big");
        assert!(disk.used() + 12 * MIB < filled);
        shell("rm /big /tmp/busybox");
        assert!(disk.used() - before < 4 * MIB);
        shell("dd if=/dev/zero of=/big bs=1M count=20 2>&-");
        host.run(&["delete", "--force", "c"]).ok();
        bundles::until("the end of all files", || disk.used() <= before);
        // However it ends.
        start();
        shell("dd if=/dev/zero of=/big bs=1M count=20 2>&-");
        for process in bundles::processes_with(host.path("state").to_str().expect("text")) {
            let pid = rustix::process::Pid::from_raw(process).expect("a pid");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        bundles::until("the end of all files", || disk.used() <= before);
        host.run(&["delete", "--force", "c"]).ok();
        std::fs::remove_dir_all(&bundle).expect("removed");
    }
    drop(disk);
    host.assert_nothing_left();
}

#[test]
fn a_layer_has_the_size_that_was_asked_for() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let store = host.path("store");
    std::fs::create_dir(&store).expect("a directory");
    let script = "dd if=/dev/zero of=/big bs=1k count=3000 2>&1 | grep -o 'No space.*'; stat -c %s /big; rm /big; \
                  dd if=/dev/zero of=/big bs=1k count=900 2>&-; stat -c %s /big";
    let full = "No space left on device\n1048576\n921600\n";
    let bundle = host.bundle("b", script);
    let path = bundle.to_str().expect("text");
    for medium in ["memory", "self", &format!("dir={}", store.display())] {
        let out =
            host.run(&[&format!("--overlay2=root:{medium},size=1m"), "run", "--bundle", path, "c"]).ok();
        assert_eq!(out, full, "{medium}");
    }
    // By annotations, whatever the flag says.
    let annotated = |name: &str, annotations: &[(&str, &str)]| {
        host.bundle_with(name, script, |spec| {
            for (key, value) in annotations {
                spec["annotations"][format!("dev.gvisor.spec.rootfs.{key}")] = json!(value);
            }
        })
    };
    let root = [("source", "rootfs"), ("type", "bind")];
    let limited = annotated("limited", &[&root[..], &[("overlay", "self"), ("options", "size=1m")]].concat());
    assert_eq!(host.run(&["run", "--bundle", limited.to_str().expect("text"), "c"]).ok(), full);
    let through = annotated("through", &[&root[..], &[("overlay", "none")]].concat());
    let out = host
        .run(&["--overlay2=root:memory,size=1m", "run", "--bundle", through.to_str().expect("text"), "c"])
        .ok();
    assert_eq!(out, "3072000\n921600\n");
    assert_eq!(std::fs::metadata(through.join("rootfs/big")).expect("it is there").len(), 921_600);
    for (number, (annotations, reason)) in [
        (&[("source", "/"), ("type", "bind")][..], "\"/\" is not root.path, rootfs"),
        (&[("overlay", "dir=/tmp")], "dir= is for --overlay2 only"),
        (&[("overlay", "disk")], "\"disk\" is not supported: none, memory, self, dir=PATH"),
        (&[("overlay", "memory"), ("options", "size=x")], "size=x: expected a number of bytes"),
        (&[("overlay", "memory"), ("options", "ro")], "\"ro\" is not supported: size=BYTES"),
        (&[("options", "size=5m")], "a size is for a layer"),
        (&[("overlay", "none"), ("options", "size=5m")], "a size is for a layer"),
    ]
    .into_iter()
    .enumerate()
    {
        let bundle = annotated(&format!("bad-{number}"), annotations);
        host.create("c", &bundle, &[]).fails_with(reason);
    }
    host.assert_nothing_left();
}

#[test]
fn a_directory_that_cannot_keep_a_layer_is_named() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "true");
    let noexec = Disk::new(&host, "noexec", rustix::mount::MountFlags::NOEXEC);
    for (directory, reason) in [
        (host.path("missing"), "No such file"),
        (bundle.join("config.json"), "Not a directory"),
        (PathBuf::from("/proc"), "files without names"),
        (noexec.0.clone(), "it is mounted noexec"),
    ] {
        let flag = format!("--overlay2=root:dir={}", directory.display());
        let ran = host.run(&[&flag, "create", "--bundle", bundle.to_str().expect("text"), "c"]);
        ran.fails_with(&format!("cannot keep changes of the root directory in {}: ", directory.display()));
        ran.fails_with(reason);
    }
    // Its user may do there what the container's root may not, who is another one.
    let mapped = host.bundle_with("mapped", "true", |spec| {
        spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
        for ids in ["uidMappings", "gidMappings"] {
            spec["linux"][ids] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        }
    });
    let mut chown = std::process::Command::new("chown");
    assert!(chown.args(["-hR", "100000:100000"]).arg(&mapped).status().expect("chown runs").success());
    let store = host.path("store");
    std::fs::create_dir(&store).expect("a directory");
    for path in [host.path("."), store.clone()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    }
    let flag = format!("--overlay2=root:dir={}", store.display());
    let run = [&flag, "run", "--bundle", mapped.to_str().expect("text"), "c"];
    host.run(&run).fails_with("the gofer cannot make files in the directory that is to keep changes");
    std::fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ours");
    host.run(&run).ok();
    host.run(&["--overlay2=root:dir=tmp", "list"]).fails_with("\"tmp\" is no absolute path");
    drop(noexec);
    host.assert_nothing_left();
}
