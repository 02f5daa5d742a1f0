//! EROFS images as mounts and as root directories.

mod bundles;

use std::path::{Path, PathBuf};
use std::process::Command;

use bundles::{Host, can_run, skip};
use serde_json::{Value, json};

/// Whether images can be tested here; says why not otherwise.
fn can_make_images() -> bool {
    if !can_run() {
        return false;
    }
    let there = Command::new("mkfs.erofs").arg("--help").output().is_ok();
    if !there {
        skip("there is no mkfs.erofs (package erofs-utils)");
    }
    there
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Makes an image of a directory.
fn pack(host: &Host, name: &str, tree: &Path, options: &[&str]) -> PathBuf {
    let image = host.path(name);
    let made =
        Command::new("mkfs.erofs").args(options).arg(&image).arg(tree).output().expect("mkfs.erofs runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}

fn add(spec: &mut Value, source: &Path) {
    let mount = json!({ "destination": "/image", "type": "erofs", "source": source });
    spec["mounts"].as_array_mut().expect("a list").push(mount);
}

/// A directory with many files, and what else there can be.
fn tree(host: &Host) -> PathBuf {
    let tree = host.path("tree");
    std::fs::create_dir_all(tree.join("many")).expect("a directory");
    for number in 0..5000 {
        std::fs::write(tree.join(format!("many/file-{number}")), format!("{number}\n")).expect("written");
    }
    std::fs::write(tree.join("large"), "0123456789abcde\n".repeat(20_000)).expect("written");
    std::os::unix::fs::symlink("many/file-77", tree.join("link")).expect("a link");
    std::os::unix::fs::symlink("/image/many", tree.join("far")).expect("a link");
    tree
}

#[test]
fn an_image_can_be_mounted() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let tree = tree(&host);
    let script = "cd /image; ls many | wc -l; for n in 0 1 2499 4999; do cat many/file-$n; done; cat link; \
                  readlink link; cat far/file-9; test -e many/file-5000 || echo none; md5sum < large; \
                  find . -type f | wc -l; awk '$2 == \"/image\" { print $1, $3, substr($4, 1, 2) }' /proc/mounts; \
                  (echo > new) 2>&1; (echo >> large) 2>&1; rm link 2>&1; mkdir many/x 2>&1; chmod 700 large 2>&1; true";
    let sum = Command::new("md5sum").stdin(std::fs::File::open(tree.join("large")).expect("opened")).output();
    let sum = String::from_utf8(sum.expect("md5sum runs").stdout).expect("text");
    for (number, options) in [&[][..], &["--chunksize=4096"]].into_iter().enumerate() {
        let image = pack(&host, &format!("image{number}"), &tree, options);
        let bundle = host.bundle_with(&number.to_string(), script, |spec| add(spec, &image));
        let ran = host.run(&["run", "--bundle", text(&bundle), "c"]);
        let wanted = format!(
            "5000\n0\n1\n2499\n4999\n77\nmany/file-77\n9\nnone\n{sum}5001\n{} erofs ro\n",
            image.display()
        );
        let (facts, refusals) = ran.out.split_at(wanted.len().min(ran.out.len()));
        assert_eq!(facts, wanted, "{}", ran.err);
        assert_eq!(refusals.matches("Read-only file system").count(), 5, "{refusals}");
    }
    host.assert_nothing_left();
}

#[test]
fn programs_run_from_an_image() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let rootfs = host.bundle("plain", "true").join("rootfs");
    for (name, options) in
        [("inline", &[][..]), ("flat", &["-Enoinline_data"]), ("chunks", &["--chunksize=65536"])]
    {
        let image = pack(&host, name, &rootfs, options);
        let bundle = host
            .bundle_with(&format!("b-{name}"), "/image/bin/busybox echo it runs", |spec| add(spec, &image));
        assert_eq!(host.run(&["run", "--bundle", text(&bundle), "c"]).ok(), "it runs\n");
    }
    host.assert_nothing_left();
}

fn root_of(spec: &mut Value, image: &Path, layer: Option<&str>) {
    let mut annotations = json!({
        "dev.gvisor.spec.rootfs.source": image,
        "dev.gvisor.spec.rootfs.type": "erofs",
    });
    if let Some(layer) = layer {
        annotations["dev.gvisor.spec.rootfs.overlay"] = json!(layer);
    }
    spec["annotations"] = annotations;
    // What it says of a directory does not matter then.
    spec["root"]["path"] = json!("none");
}

#[test]
fn an_image_can_be_the_root_directory() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let rootfs = host.bundle("plain", "true").join("rootfs");
    std::fs::write(rootfs.join("file"), "from the image\n").expect("written");
    std::fs::create_dir(rootfs.join("data")).expect("a directory");
    std::fs::write(rootfs.join("data/below"), "copied up\n").expect("written");
    for place in ["proc", "dev"] {
        std::fs::create_dir_all(rootfs.join(place)).expect("a directory");
    }
    let image = pack(&host, "image", &rootfs, &[]);
    let before = std::fs::read(&image).expect("read");
    let script = "cat /file; echo more >> /file && cat /file; mkdir /made && ls -d /made; rm /file && test ! -e /file && echo gone; true";
    let changed = "from the image\nfrom the image\nmore\n/made\ngone\n";
    for (flag, layer, out) in [
        ("--overlay2=root:memory", None, changed),
        ("--overlay2=none", Some("memory"), changed),
        ("--overlay2=none", None, "from the image\n"),
        ("--overlay2=root:memory", Some("none"), "from the image\n"),
    ] {
        let name = format!("{flag}-{layer:?}");
        let bundle = host.bundle_with(&name, script, |spec| root_of(spec, &image, layer));
        let ran = host.run(&[flag, "run", "--bundle", text(&bundle), "c"]);
        assert_eq!(ran.out, out, "{flag} {layer:?}: {}", ran.err);
        let refusals = ran.err.matches("Read-only file system").count();
        assert_eq!(refusals, if out == changed { 0 } else { 3 }, "{}", ran.err);
    }
    assert!(std::fs::read(&image).expect("read") == before, "the image was changed");
    // It lives as others do.
    let bundle = host.bundle_with("service", bundles::SERVICE, |spec| {
        root_of(spec, &image, Some("memory"));
        let copied =
            json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] });
        spec["mounts"].as_array_mut().expect("a list").push(copied);
    });
    host.started("c", &bundle);
    assert_eq!(host.run(&["exec", "c", "/bin/cat", "/file"]).ok(), "from the image\n");
    let changes = "cat /data/below; echo more >> /data/below; cat /data/below";
    let changed = host.run(&["exec", "c", "/bin/sh", "-c", changes]).ok();
    assert_eq!(changed, "copied up\ncopied up\nmore\n");
    // Whoever looks from outside sees nothing of it, and nothing of the host.
    let seen = std::fs::read_dir(format!("/proc/{}/root", host.pid("c"))).expect("a root directory");
    assert_eq!(seen.count(), 0);
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn what_cannot_be_used_is_named() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let file = host.path("file");
    std::fs::write(&file, "no image".repeat(1000)).expect("written");
    let rootfs = host.bundle("plain", "true").join("rootfs");
    let packed = pack(&host, "packed", &rootfs, &["-zlz4"]);
    let missing = host.path("missing");
    for (number, (path, reason)) in [
        (&file, "it is no EROFS image"),
        (&packed, "compressed EROFS images are not supported"),
        (&missing, "No such file"),
        (&rootfs, "it is neither a file nor a block device"),
    ]
    .into_iter()
    .enumerate()
    {
        let as_mount = host.bundle_with(&format!("m{number}"), "true", |spec| add(spec, path));
        let as_root = host.bundle_with(&format!("r{number}"), "true", |spec| root_of(spec, path, None));
        for bundle in [as_mount, as_root] {
            let ran = host.create("c", &bundle, &[]);
            ran.fails_with(reason);
            ran.fails_with(text(path));
        }
    }
    let bundle = host.bundle_with("option", "true", |spec| {
        add(spec, &packed);
        spec["mounts"][3]["options"] = json!(["ro", "device=/dev/none"]);
    });
    host.create("c", &bundle, &[]).fails_with("invalid argument: the option \"device=/dev/none\"");
    let bundle = host.bundle_with("type", "true", |spec| {
        root_of(spec, &packed, None);
        spec["annotations"]["dev.gvisor.spec.rootfs.type"] = json!("ext4");
    });
    host.create("c", &bundle, &[])
        .fails_with("annotation dev.gvisor.spec.rootfs.type: \"ext4\" is not supported");
    host.assert_nothing_left();
}

#[test]
fn containers_of_a_pod_and_of_ordinary_users_have_images_too() {
    if !can_make_images() {
        return;
    }
    let mut hosts = vec![Host::new()];
    if Command::new("setpriv").arg("--version").output().is_ok() {
        hosts.push(Host::ordinary());
    } else {
        skip("there is no setpriv (package util-linux) to become an ordinary user with");
    }
    for host in hosts {
        if host.run(&["do", "--", "/bin/true"]).err.contains("user namespaces") {
            skip("ordinary users may not make user namespaces here");
            continue;
        }
        let rootfs = host.bundle("plain", "true").join("rootfs");
        std::fs::write(rootfs.join("file"), "from the image\n").expect("written");
        let image = pack(&host, "image", &rootfs, &[]);
        host.give(&image);
        for (name, kind) in [("first", "sandbox"), ("second", "container")] {
            let bundle = host.bundle_with(&format!("b-{name}"), bundles::SERVICE, |spec| {
                root_of(spec, &image, Some("memory"));
                add(spec, &image);
                spec["annotations"]["io.kubernetes.cri.container-type"] = json!(kind);
                spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("first");
            });
            host.started(name, &bundle);
        }
        for name in ["first", "second"] {
            let script = format!("cat /file /image/file; echo {name} > /file; cat /file");
            let out = host.run(&["exec", name, "/bin/sh", "-c", &script]).ok();
            assert_eq!(out, format!("from the image\nfrom the image\n{name}\n"));
        }
        for name in ["second", "first"] {
            host.run(&["delete", "--force", name]).ok();
        }
        host.assert_nothing_left();
    }
}

#[test]
fn an_image_can_be_mounted_in_a_container_that_runs() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let rootfs = host.bundle("plain", "true").join("rootfs");
    std::fs::write(rootfs.join("file"), "from the image\n").expect("written");
    let image = pack(&host, "image", &rootfs, &[]);
    let bundle = host.bundle("b", bundles::SERVICE);
    let mount = |image: &std::path::Path, directory: &str, id: &str| {
        host.run(&["debug", "--mount", &format!("erofs:{}:{directory}", image.display()), id])
    };
    let shell = |id: &str, script: &str| host.run(&["exec", id, "/bin/sh", "-c", script]);
    for flags in [&["--overlay2=root:memory"][..], &[]] {
        let output = std::fs::File::create(host.path("c.out")).expect("a file");
        let arguments = [flags, &["create", "--bundle", bundle.to_str().expect("text"), "c"]].concat();
        assert!(host.command(&arguments).stdout(output).status().expect("it starts").success());
        mount(&image, "/tmp", "c").ok();
        host.run(&["start", "c"]).ok();
        host.wait_for_output("c", "ready");
        mount(&image, "/not/there/yet", "c").ok();
        let seen = shell(
            "c",
            "cat /tmp/file /not/there/yet/file; /tmp/bin/echo runs; echo x > /tmp/file; grep -c erofs /proc/mounts",
        );
        assert_eq!(seen.out, "from the image\nfrom the image\nruns\n2\n");
        assert!(seen.err.contains("Read-only file system"), "{}", seen.err);
        // Of what runs there is a copy, which is memory.
        let usage: serde_json::Value =
            serde_json::from_str(&host.run(&["usage", "--full", "c"]).ok()).expect("JSON");
        assert!(usage["PageCache"].as_u64().is_some_and(|bytes| bytes > 256 << 10), "{usage}");
        mount(&image, "/bin/sh", "c").fails_with("cannot mount /bin/sh: Not a directory");
        mount(&host.path("missing"), "/x", "c").fails_with("No such file");
        mount(&bundle.join("config.json"), "/x", "c").fails_with("it is no EROFS image");
        host.run(&["debug", "--mount", "ext4:a:/b", "c"]).fails_with("ext4 is not supported: erofs");
        host.run(&["kill", "c", "KILL"]).ok();
        bundles::until("its end", || host.status("c") == "stopped");
        mount(&image, "/x", "c").fails_with("container not running");
        host.run(&["delete", "c"]).ok();
    }
    mount(&image, "/x", "nobody").fails_with("does not exist");
    host.assert_nothing_left();
}

#[test]
fn places_of_mounts_that_an_image_without_a_layer_lacks_are_named() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let rootfs = host.bundle("plain", "true").join("rootfs");
    let image = pack(&host, "image", &rootfs, &[]);
    let with_mount = |name: &str, layer: Option<&str>| {
        host.bundle_with(name, "echo ran", |spec| {
            root_of(spec, &image, layer);
            let memory = json!({ "destination": "/lacks/this", "type": "tmpfs", "source": "tmpfs" });
            spec["mounts"].as_array_mut().expect("a list").push(memory);
        })
    };
    let bundle = with_mount("without", Some("none"));
    host.create("c", &bundle, &[])
        .fails_with("cannot make the mount point /lacks/this: Read-only file system");
    let bundle = with_mount("with", Some("memory"));
    assert_eq!(host.run(&["run", "--bundle", bundle.to_str().expect("text"), "c"]).ok(), "ran\n");
    host.assert_nothing_left();
}

#[test]
fn a_layer_over_an_image_is_kept_where_it_is_wanted_and_archived() {
    if !can_make_images() {
        return;
    }
    let host = Host::new();
    let rootfs = host.bundle("plain", "true").join("rootfs");
    std::fs::create_dir(rootfs.join("old")).expect("a directory");
    for name in ["file", "removed", "old/file"] {
        std::fs::write(rootfs.join(name), "from the image\n").expect("written");
    }
    std::fs::write(rootfs.join("large"), vec![7; 300_000]).expect("written");
    let image = pack(&host, "image", &rootfs, &[]);
    let store = host.path("store");
    std::fs::create_dir(&store).expect("a directory");
    let changes = "echo more >> /file; echo more >> /large; rm -r /removed /old; mkdir /old; echo new > /old/new; \
                   dd if=/dev/zero of=/big bs=1k count=100 2>&-";
    let look = "ls -l / /old | grep -v ' dev$\\| proc$\\|^total'; cat /file /old/*; wc -c /large /big";
    let mut seen = Vec::new();
    for (number, medium) in ["memory", "self", &format!("dir={}", store.display())].into_iter().enumerate() {
        let flag = format!("--overlay2=root:{medium}");
        let start = |id: &str, archive: Option<&std::path::Path>| {
            let bundle = host.bundle_with(&format!("b-{id}"), bundles::SERVICE, |spec| {
                root_of(spec, &image, None);
                if let Some(archive) = archive {
                    spec["annotations"]["dev.gvisor.tar.rootfs.upper"] = json!(archive);
                }
            });
            let output = std::fs::File::create(host.path(&format!("{id}.out"))).expect("a file");
            let path = bundle.to_str().expect("text");
            let arguments = [&flag, "--allow-rootfs-tar-annotation", "create", "--bundle", path, id];
            assert!(host.command(&arguments).stdout(output).status().expect("it starts").success());
            host.run(&["start", id]).ok();
        };
        let shell = |id: &str, script: &str| host.run(&["exec", id, "/bin/sh", "-c", script]).ok();
        let (first, second) = (format!("first-{number}"), format!("second-{number}"));
        start(&first, None);
        shell(&first, changes);
        let archive = host.path(&format!("{number}.tar"));
        host.run(&["tar", "rootfs-upper", "--file", archive.to_str().expect("text"), &first]).ok();
        start(&second, Some(&archive));
        assert_eq!(shell(&first, look), shell(&second, look));
        let contents = shell(&second, "cat /file /old/*; wc -c /large /big; ls /removed 2>&-; true");
        seen.push(contents);
        assert_eq!(std::fs::read_dir(&store).expect("a directory").count(), 0);
        host.run(&["delete", "--force", &first, &second]).ok();
    }
    assert!(
        seen[0].starts_with("from the image\nmore\nnew\n") && seen[0].contains("300005 /large"),
        "{}",
        seen[0]
    );
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    host.assert_nothing_left();
}
