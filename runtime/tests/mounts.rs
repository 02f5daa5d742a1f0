//! Mounts of a specification beyond the usual ones, and what engines see of them; namespaces of other containers.

mod bundles;

use std::path::Path;
use std::process::Command;

use bundles::{Host, SERVICE, can_run, skip};
use serde_json::{Value, json};

fn add(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().expect("a list").push(mount);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().expect("not the root")).expect("a directory");
    std::fs::write(path, content).expect("written");
}

#[test]
fn a_tmpfs_can_begin_with_what_was_there() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for layer in ["--overlay2=none", "--overlay2=root:memory"] {
        let script = "cd /data; cat file dir/deep; echo new > file; mkdir dir/more; cat file; ls; \
                      stat=$(ls -ld /data | cut -c1-10); echo $stat; awk '$2 == \"/data\" { print $3 }' /proc/mounts; \
                      head -c 2000000 /dev/zero > big 2>/dev/null || dd if=/dev/zero of=big bs=64k count=32 2>/dev/null || echo full";
        let bundle = host.bundle_with(layer, script, |spec| {
            let options = json!(["size=1m", "tmpcopyup", "mode=750"]);
            add(
                spec,
                json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options }),
            );
        });
        let data = bundle.join("rootfs/data");
        write(&data.join("file"), "from the root\n");
        write(&data.join("dir/deep"), "deep\n");
        let ran = host.run(&[layer, "run", "--bundle", text(&bundle), "c"]);
        let wanted = "from the root\ndeep\nnew\ndir\nfile\ndrwxr-x---\ntmpfs\nfull\n";
        assert_eq!(ran.out, wanted, "{layer}: {}", ran.err);
        assert_eq!(std::fs::read_to_string(data.join("file")).expect("a file"), "from the root\n");
        assert!(!data.join("dir/more").exists());
    }
    host.assert_nothing_left();
}

#[test]
fn overlays_of_the_specification_are_mounted() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let (lower, upper, work) = (host.path("lower"), host.path("upper"), host.path("work"));
    write(&lower.join("file"), "below\n");
    for directory in [&upper, &work] {
        std::fs::create_dir(directory).expect("a directory");
    }
    let options = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)]
        .map(|(n, p)| format!("{n}={}", p.display()));
    for mode in ["--directfs=true", "--directfs=false"] {
        let bundle = host.bundle_with(mode, "cat /o/file; echo above > /o/made; ls /o", |spec| {
            add(
                spec,
                json!({ "destination": "/o", "type": "overlay", "source": "overlay", "options": options }),
            );
        });
        let ran = host.run(&[mode, "run", "--bundle", text(&bundle), "c"]);
        assert_eq!(ran.out, "below\nfile\nmade\n", "{}", ran.err);
        assert_eq!(std::fs::read_to_string(upper.join("made")).expect("a file"), "above\n");
        std::fs::remove_file(upper.join("made")).expect("removed");
    }
    let bundle = host.bundle_with("bad", "true", |spec| {
        add(spec, json!({ "destination": "/o", "type": "overlay", "source": "overlay", "options": ["lowerdir=/none/such"] }));
    });
    host.create("c", &bundle, &[]).fails_with("cannot mount overlay");
    assert!(!lower.join("made").exists());
    host.assert_nothing_left();
}

#[test]
fn engines_see_mounts_whose_places_were_not_there() {
    if !can_run() {
        return;
    }
    if Command::new("nsenter").arg("--version").output().is_err() {
        return skip("there is no nsenter (package util-linux) to look from outside with");
    }
    let host = Host::new();
    let volume = host.path("volume");
    write(&volume.join("file"), "data\n");
    let bundle = host.bundle_with("b", SERVICE, |spec| {
        add(
            spec,
            json!({ "destination": "/new/place", "type": "bind", "source": volume, "options": ["rbind"] }),
        );
    });
    host.started("c", &bundle);
    let pid = host.pid("c").to_string();
    let seen = Command::new("nsenter")
        .args(["--target", &pid, "--mount", "--root", "/bin/cat", "/new/place/file"])
        .output()
        .expect("nsenter starts");
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "data\n", "{}", String::from_utf8_lossy(&seen.stderr));
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn what_is_mounted_below_the_control_groups_is_left_out_with_a_warning() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", "ls /sys/fs/cgroup | head -n 1", |spec| {
        add(spec, json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs" }));
        add(spec, json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" }));
        let options = json!(["rbind", "rw"]);
        add(spec, json!({ "destination": "/sys/fs/cgroup/systemd", "type": "bind", "source": "/tmp", "options": options }));
    });
    let ran = host.run(&["run", "--bundle", text(&bundle), "c"]);
    assert!(ran.err.contains("mount \"/sys/fs/cgroup/systemd\" is ignored"), "{}", ran.err);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn names_are_the_hosts_without_a_namespace_for_them() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", "hostname; cat /proc/sys/kernel/domainname", |spec| {
        spec["linux"]["namespaces"].as_array_mut().expect("a list").retain(|one| one["type"] != "uts");
    });
    let own = rustix::system::uname();
    let (node, domain) = (own.nodename().to_string_lossy(), own.domainname().to_string_lossy());
    assert_eq!(host.run(&["run", "--bundle", text(&bundle), "c"]).ok(), format!("{node}\n{domain}\n"));
    let bundle = host.bundle("own", "hostname");
    assert_eq!(host.run(&["run", "--bundle", text(&bundle), "own"]).ok(), "own\n");
}

#[test]
fn a_container_can_share_the_processes_of_another() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let first = host.bundle("first", SERVICE);
    host.started("first", &first);
    host.wait_for_output("first", "ready");
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", host.pid("first"));
    let share = |spec: &mut Value, kind: &str, path: &str| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.iter_mut().filter(|one| one["type"] == kind).for_each(|one| one["path"] = json!(path));
    };
    let pid = path("pid");
    let second = host.bundle_with("second", "ps -o pid,args; echo $$", |spec| share(spec, "pid", &pid));
    let ran = host.run(&["run", "--bundle", text(&second), "second"]).ok();
    assert!(ran.contains("1 /bin/sh -c trap"), "{ran}");
    assert_ne!(ran.lines().last(), Some("1"), "{ran}");
    let ipc = path("ipc");
    let third = host.bundle_with("third", "echo $$", |spec| share(spec, "ipc", &ipc));
    assert_eq!(host.run(&["run", "--bundle", text(&third), "third"]).ok(), "1\n");
    // A process that is no container's.
    let other = host.bundle_with("other", "echo $$", |spec| share(spec, "pid", "/proc/self/ns/pid"));
    assert_eq!(host.run(&["run", "--bundle", text(&other), "other"]).ok(), "1\n");
    host.run(&["kill", "first", "TERM"]).ok();
    assert!(host.run(&["wait", "first"]).ok().contains("\"exitStatus\":7"));
    host.run(&["delete", "first"]).ok();
    host.assert_nothing_left();
}

/// A file system of the host, gone at the end with all that is mounted below.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(path: &Path) -> Mounted {
        std::fs::create_dir_all(path).expect("a directory");
        mount_tool("mount", &["-t", "tmpfs", "tmpfs", text(path)]);
        Mounted(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-R", "-l"])
            .arg(&self.0)
            .stderr(std::process::Stdio::null())
            .status();
    }
}

#[track_caller]
fn mount_tool(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn mounts_that_the_host_makes_later_show_in_slaves_and_not_in_private_ones() {
    if !can_run() {
        return;
    }
    for mode in ["--directfs=true", "--directfs=false"] {
        let host = Host::new();
        let volume = Mounted::new(&host.path("volume"));
        mount_tool("mount", &["--make-shared", text(&volume.0)]);
        let sub = volume.0.join("sub");
        std::fs::create_dir(&sub).expect("a directory");
        write(&sub.join("covered"), "covered\n");
        let bundle = host.bundle_with("b", SERVICE, |spec| {
            for (name, options) in [
                ("private", &["rbind", "rprivate"][..]),
                ("plain", &["rbind"]),
                ("slave", &["rbind", "rslave"]),
                ("shared", &["rbind", "rshared"]),
                ("fixed", &["rbind", "ro", "rslave"]),
            ] {
                let destination = format!("/{name}");
                add(spec, json!({ "destination": destination, "type": "bind", "source": volume.0, "options": options }));
            }
        });
        let output = std::fs::File::create(host.path("c.out")).expect("a file");
        let mut create = host.command(&[mode, "create", "--bundle", text(&bundle), "c"]);
        // The container keeps them open.
        let errors = std::fs::File::create(host.path("c.err")).expect("a file");
        let created = create.stdout(output).stderr(errors).status().expect("it starts");
        let warnings = std::fs::read_to_string(host.path("c.err")).expect("text");
        assert!(created.success(), "{warnings}");
        assert!(warnings.contains("\"/shared\"") && !warnings.contains("\"/slave\""), "{warnings}");
        host.run(&["start", "c"]).ok();
        host.wait_for_output("c", "ready");
        let inside = |script: &str| {
            let ran = host.run(&["exec", "c", "sh", "-c", script]);
            format!("{}{}", ran.out, ran.err)
        };
        let all = "for v in private plain slave shared fixed; do echo $v $(ls /$v/sub); done";
        let before = "private covered\nplain covered\nslave covered\nshared covered\nfixed covered\n";
        assert_eq!(inside(all), before, "{mode}");
        let later = Mounted::new(&sub);
        write(&sub.join("deep/new"), "new\n");
        let after = "private covered\nplain covered\nslave deep\nshared deep\nfixed deep\n";
        assert_eq!(inside(all), after, "{mode}");
        // All that can be done with files there works, what takes a gofer included.
        let work = "cd /slave/sub && cat deep/new && echo made > deep/made && chown 5:6 deep/made && mv deep/made moved && \
                    ln moved hard && mkdir dir && ls -ln moved | awk '{ print $2, $3, $4 }'";
        assert_eq!(inside(work), "new\n2 5 6\n", "{mode}");
        assert_eq!(std::fs::read_to_string(sub.join("hard")).expect("made"), "made\n");
        assert!(inside("echo x > /fixed/sub/file").contains("Read-only file system"), "{mode}");
        // Nothing of the container keeps the host from unmounting it.
        mount_tool("umount", &[text(&sub)]);
        drop(later);
        assert_eq!(inside(all), before, "{mode}");
        host.run(&["delete", "--force", "c"]).ok();
        drop(volume);
        host.assert_nothing_left();
    }
}
