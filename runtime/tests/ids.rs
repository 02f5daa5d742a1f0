//! Ids of a container that are others on the host: user namespaces, mounts with mapped owners.

mod bundles;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use bundles::{Host, can_run, skip};
use serde_json::{Value, json};

/// The host's id of the container's root, and how many ids follow.
const FIRST: u32 = 100_000;
const COUNT: u32 = 65_536;

fn mappings(first: u32, count: u32) -> Value {
    json!([{ "containerID": 0, "hostID": first, "size": count }])
}

fn add_mount(spec: &mut Value, source: &Path, options: &[&str]) -> usize {
    let mounts = spec["mounts"].as_array_mut().expect("a list");
    mounts.push(json!({ "destination": "/vol", "type": "bind", "source": source, "options": options }));
    mounts.len() - 1
}

fn map_container(spec: &mut Value, first: u32, count: u32) {
    spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    spec["linux"]["uidMappings"] = mappings(first, count);
    spec["linux"]["gidMappings"] = mappings(first, count);
}

/// Gives a directory and all in it to somebody.
fn give(path: &Path, owner: u32) {
    lchown(path, Some(owner), Some(owner)).expect("root may");
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).expect("a directory").flatten().for_each(|entry| give(&entry.path(), owner));
    }
}

/// A directory with files of these owners, named after them.
fn volume(host: &Host, name: &str, owners: &[u32]) -> PathBuf {
    let path = host.path(name);
    fs::create_dir(&path).expect("a directory");
    for owner in owners {
        let file = path.join(owner.to_string());
        fs::write(&file, "text\n").expect("written");
        chown(file, Some(*owner), Some(*owner)).expect("root may");
    }
    path
}

fn owners(volume: &Path) -> Vec<String> {
    let entries = fs::read_dir(volume).expect("a directory").flatten();
    let mut all: Vec<_> = entries
        .map(|entry| {
            let metadata = entry.metadata().expect("it is there");
            format!("{} {}:{}", entry.file_name().to_string_lossy(), metadata.uid(), metadata.gid())
        })
        .collect();
    all.sort();
    all
}

const SCRIPT: &str = r#"
cd /vol
list() { ls -ln "$@" | awk 'NF > 5 { print $1, $3, $4, $NF }'; }
list
echo made > made; mkdir dir; ln -s x soft; mkfifo fifo
touch given; chown 7:8 given && echo given
chown 70000 made 2>/dev/null || echo "cannot give it to somebody unknown"
for file in 0 100000 101000; do
    echo more 2>/dev/null >> $file && echo "wrote $file"
    chmod 600 $file 2>/dev/null && echo "changed $file"
    rm -f $file 2>/dev/null
done
list
"#;

#[test]
fn files_have_the_owners_that_the_ids_are_mapped_to() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let mut outcomes = Vec::new();
    let runc = Command::new("runc").arg("--version").output().is_ok();
    if !runc {
        skip("there is no runc to compare with (package runc)");
    }
    for how in ["runc", "--directfs=true", "--directfs=false"].into_iter().skip(usize::from(!runc)) {
        let volume = volume(&host, &format!("vol{how}"), &[0, FIRST, FIRST + 1000]);
        chown(&volume, Some(FIRST), Some(FIRST)).expect("root may");
        let bundle = host.bundle_with(&format!("b{how}"), SCRIPT, |spec| {
            let capabilities = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"]);
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = capabilities.clone();
            }
            map_container(spec, FIRST, COUNT);
            add_mount(spec, &volume, &["rbind", "rw"]);
        });
        give(&bundle, FIRST);
        // So that the container's root finds its way.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(host.path("."), open).expect("ours");
        let mut command = if how == "runc" {
            let mut command = Command::new("runc");
            command.arg("--root").arg(host.path("runc"));
            command
        } else {
            host.command(&[how])
        };
        let ran = command.args(["run", "--bundle"]).arg(&bundle).arg("ids").output().expect("it starts");
        let error = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{how}: {error}");
        outcomes.push((String::from_utf8_lossy(&ran.stdout).into_owned(), owners(&volume)));
    }
    let (out, files) = &outcomes[outcomes.len() - 1];
    assert!(out.contains("-rw-r--r-- 65534 65534 0\n") && out.contains(" 1000 1000 101000\n"), "{out}");
    assert!(!out.contains("wrote 0\n") && !out.contains("changed 0\n"), "{out}");
    assert!(out.contains("cannot give it to somebody unknown"), "{out}");
    for file in ["made 100000:100000", "dir 100000:100000", "soft 100000:100000", "given 100007:100008"] {
        assert!(files.iter().any(|line| line == file), "{file} is not in {files:?}");
    }
    for other in &outcomes[1..] {
        assert_eq!(outcomes[0], *other, "left is runc");
    }
    host.assert_nothing_left();
}

#[test]
fn everything_of_a_container_with_mapped_ids_works() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", bundles::SERVICE, |spec| map_container(spec, FIRST, COUNT));
    give(&bundle, FIRST);
    host.started("c", &bundle);
    host.wait_for_output("c", "ready");
    assert_eq!(host.run(&["exec", "c", "id", "-u"]).ok(), "0\n");
    assert_eq!(host.run(&["exec", "--user", "5:6", "c", "id", "-g"]).ok(), "6\n");
    let script = "ls -ln /bin/busybox | awk '{ print $3 }'; echo x > /tmp/x && cat /tmp/x";
    assert_eq!(host.run(&["exec", "c", "sh", "-c", script]).ok(), "0\nx\n");
    assert_eq!(fs::metadata(bundle.join("rootfs/tmp/x")).expect("made").uid(), FIRST);
    host.run(&["pause", "c"]).ok();
    host.run(&["resume", "c"]).ok();
    assert!(host.run(&["events", "--stats", "c"]).ok().contains("memory"));
    host.run(&["kill", "c", "TERM"]).ok();
    assert!(host.run(&["wait", "c"]).ok().contains("\"exitStatus\":7"));
    host.run(&["delete", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn containers_of_a_pod_have_the_same_mappings() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let member = |name: &str, kind: &str, first: u32| {
        let bundle = host.bundle_with(name, bundles::SERVICE, |spec| {
            spec["annotations"] = json!({
                "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod",
            });
            if first != 0 {
                map_container(spec, first, COUNT);
            }
        });
        give(&bundle, first);
        bundle
    };
    host.started("pod", &member("pod", "sandbox", FIRST));
    host.started("same", &member("same", "container", FIRST));
    assert_eq!(host.run(&["exec", "same", "id", "-u"]).ok(), "0\n");
    for (name, first) in [("other", FIRST + COUNT), ("none", 0)] {
        host.create(name, &member(name, "container", first), &[]).fails_with("must be those of the sandbox");
    }
    host.run(&["delete", "--force", "same", "pod"]).ok();
    host.assert_nothing_left();
}

#[test]
fn owners_in_a_mount_can_be_mapped() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for mode in ["--directfs=true", "--directfs=false"] {
        let volume = volume(&host, &format!("vol{mode}"), &[0, 5, 4000]);
        let script =
            "cd /vol; ls -ln | awk 'NF > 5 { print $3, $4, $NF }'; echo x > made; chown 1005 made; cat 0";
        let bundle = host.bundle_with(mode, script, |spec| {
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
            }
            let index = add_mount(spec, &volume, &["rbind", "ridmap"]);
            // What is root's there is somebody else's here.
            let maps = json!([
                { "containerID": 0, "hostID": 1000, "size": 10 },
                { "containerID": 100, "hostID": 0, "size": 1 },
            ]);
            spec["mounts"][index]["uidMappings"] = maps.clone();
            spec["mounts"][index]["gidMappings"] = maps;
        });
        let ran = host.run(&[mode, "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        if ran.err.contains("Invalid argument") {
            return skip("the host's file system cannot map owners");
        }
        assert_eq!(ran.out, "1000 1000 0\n65534 65534 4000\n1005 1005 5\ntext\n", "{}", ran.err);
        assert_eq!(fs::metadata(volume.join("made")).expect("made").uid(), 5);
    }
    host.assert_nothing_left();
}

#[test]
fn an_ordinary_user_can_be_the_containers_root() {
    if !can_run() {
        return;
    }
    let host = Host::ordinary();
    if host.run(&["do", "--", "/bin/true"]).err.contains("user namespaces") {
        return skip("ordinary users may not make user namespaces here");
    }
    let own = volume(&host, "own", &[bundles::ORDINARY, 0]);
    chown(&own, Some(bundles::ORDINARY), None).expect("root may");
    for mode in ["--directfs=true", "--directfs=false"] {
        let script = "cd /vol; ls -ln | awk 'NF > 5 { print $3, $4, $NF }'; echo x > made && ls -ln made | awk '{ print $3 }'; chmod 600 1 && chown 0:0 1 && echo mine; chown 5 1 2>/dev/null || echo no; rm made";
        let bundle = host.bundle_with(mode, script, |spec| {
            map_container(spec, bundles::ORDINARY, 1);
            add_mount(spec, &own, &["rbind", "rw"]);
        });
        let ran =
            host.run(&[mode, "--ignore-cgroups", "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        assert_eq!(ran.out, "65534 65534 0\n0 0 1\n0\nmine\nno\n", "{}", ran.err);
    }
    let bundle = host.bundle_with("more", "true", |spec| map_container(spec, FIRST, COUNT));
    let refused = host.run(&["--ignore-cgroups", "run", "--bundle", bundle.to_str().expect("text"), "c"]);
    refused.fails_with("cannot map the container's ids");
    host.assert_nothing_left();
}

/// A file system of the host in memory, gone at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Mounted {
        fs::create_dir_all(&path).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&path).status();
        assert!(mounted.expect("mount runs").success());
        Mounted(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn owners_can_be_mapped_of_single_files_and_of_what_is_mounted_below_and_with_other_flags() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let volume = volume(&host, "vol", &[5]);
    let below = Mounted::new(volume.join("below"));
    fs::write(below.0.join("inner"), "text\n").expect("written");
    chown(below.0.join("inner"), Some(5), Some(5)).expect("root may");
    for mode in ["--directfs=true", "--directfs=false"] {
        let script = "for f in /one /idmap/5 /idmap/below/inner /ridmap/5 /ridmap/below/inner; do ls -ln $f | awk '{ print $3, $4, $NF }'; done; \
                      echo x > /ridmap/5 || echo refused; echo x > /one && cat /one";
        let bundle = host.bundle_with(mode, script, |spec| {
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
            }
            for (name, source, options) in [
                ("one", volume.join("5"), &["bind", "idmap"][..]),
                ("idmap", volume.clone(), &["rbind", "idmap"]),
                ("ridmap", volume.clone(), &["rbind", "ridmap", "ro", "nosuid", "rslave"]),
            ] {
                let index = add_mount(spec, &source, options);
                let mount = &mut spec["mounts"][index];
                mount["destination"] = json!(format!("/{name}"));
                let maps = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
                (mount["uidMappings"], mount["gidMappings"]) = (maps.clone(), maps);
            }
        });
        let ran = host.run(&[mode, "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        if ran.err.contains("Invalid argument") {
            return skip("the host's file systems cannot map owners");
        }
        let expected = "1005 1005 /one\n1005 1005 /idmap/5\n5 5 /idmap/below/inner\n1005 1005 /ridmap/5\n\
                        1005 1005 /ridmap/below/inner\nrefused\nx\n";
        assert_eq!(ran.out, expected, "{mode}: {}", ran.err);
        fs::write(volume.join("5"), "text\n").expect("written");
    }
    drop(below);
    host.assert_nothing_left();
}
