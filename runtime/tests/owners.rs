//! Files of many owners, as the container's root and as one of its users, beside `runc`; and what becomes of a container
//! whose gofer dies.

mod bundles;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use bundles::{Host, can_run, processes_with, skip, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What a user may do with files of others, and what becomes of them.
const SCRIPT: &str = r#"
cd /vol
list() { ls -ln "$@" 2>&1 | awk '{ print $1, $3, $4, $NF }'; }
try() { "$@" 2>&1 || echo "failed: $*"; }
list . ; list private ; list open
try cat private/secret ; try cat readable ; try cat unreadable
try sh -c 'echo more >> readable' ; try sh -c 'echo more >> writable' ; try sh -c 'echo more >> unreadable'
try sh -c 'echo new > made' ; try sh -c 'echo new > open/made' ; try sh -c 'echo new > private/made'
try mkdir open/dir ; try mkfifo open/fifo ; try ln -s /etc/passwd open/soft ; try ln writable open/hard
try mknod open/null c 1 3
try chmod 4711 open/made ; try chmod 600 readable ; try chmod 640 open/fifo
try chown 5:6 open/made ; try chown 5 readable
try touch -d 2020-01-01 writable ; try touch -d 2020-01-01 readable
try mv open/made open/moved ; try mv sticky/of999 sticky/moved ; try rm -f sticky/of998
try rm -rf open/dir ; try rmdir private/empty ; try truncate -s 2 writable
try cat file ; try sh -c 'echo changed > file'
try cat /rooted ; try sh -c 'echo x > /rooted'
umask 027 ; try sh -c 'echo x > open/masked' ; try mkdir open/group/dir ; list open/group
list . ; list open ; list sticky
"#;

/// Makes `path` with an owner and a mode.
fn make(path: &Path, content: Option<&str>, owner: u32, mode: u32) {
    match content {
        Some(content) => fs::write(path, content).expect("a file"),
        None => fs::create_dir(path).expect("a directory"),
    }
    chown(path, Some(owner), Some(owner)).expect("root may");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("root may");
}

fn make_volume(path: &Path) {
    make(path, None, 0, 0o755);
    for (name, content, owner, mode) in [
        ("private", None, 999, 0o700),
        ("private/secret", Some("of 999\n"), 999, 0o600),
        ("private/empty", None, 999, 0o755),
        ("readable", Some("for all\n"), 999, 0o644),
        ("unreadable", Some("for none\n"), 998, 0o000),
        ("writable", Some("of 1000\n"), 1000, 0o644),
        ("open", None, 997, 0o777),
        ("open/group", None, 33, 0o2777),
        ("sticky", None, 0, 0o1777),
        ("sticky/of999", Some(""), 999, 0o666),
        ("sticky/of998", Some(""), 998, 0o666),
        ("file", Some(""), 0, 0o644),
    ] {
        make(&path.join(name), content, owner, mode);
    }
}

/// What there is afterwards: names, types, modes, owners, and what is in the files.
fn describe(path: &Path, name: &str, text: &mut String) {
    let stat = fs::symlink_metadata(path).expect("it is there");
    let content = if stat.is_file() { fs::read(path).expect("root may") } else { Vec::new() };
    let content = String::from_utf8_lossy(&content);
    text.push_str(&format!(
        "{name} {:o} {}:{} {:x} {content:?}\n",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.rdev()
    ));
    if stat.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(path).expect("root may").flatten().map(|e| e.file_name()).collect();
        names.sort();
        for child in names {
            describe(&path.join(&child), &format!("{name}/{}", child.to_string_lossy()), text);
        }
    }
}

fn change(spec: &mut Value, volume: &Path, file: &Path, uid: u32) {
    let capabilities: &[&str] = if uid == 0 {
        &["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD"]
    } else {
        &[]
    };
    spec["process"]["user"] = json!({ "uid": uid, "gid": uid });
    spec["process"]["capabilities"] =
        json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities });
    for (destination, source) in [("/vol", volume), ("/vol/file", file)] {
        spec["mounts"].as_array_mut().expect("a list").push(
            json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"] }),
        );
    }
}

#[test]
fn files_of_many_owners_are_as_they_are_with_runc() {
    if !can_run() {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        return skip("there is no runc to compare with (package runc)");
    }
    let host = Host::new();
    for uid in [0, 1000] {
        let mut outcomes = Vec::new();
        for how in ["runc", "--directfs=true", "--directfs=false"] {
            let name = format!("{uid}{how}");
            let (volume, file) = (host.path(&format!("vol{name}")), host.path(&format!("file{name}")));
            make_volume(&volume);
            make(&file, Some("single\n"), 7, 0o640);
            let bundle = host.bundle_with(&name, SCRIPT, |spec| change(spec, &volume, &file, uid));
            make(&bundle.join("rootfs/rooted"), Some("of 7\n"), 7, 0o600);
            let id = format!("owners-{uid}-{}", std::process::id());
            let mut command = if how == "runc" {
                let mut command = Command::new("runc");
                command.arg("--root").arg(host.path("runc"));
                command
            } else {
                host.command(&[how])
            };
            let ran = command.args(["run", "--bundle"]).arg(&bundle).arg(&id).output().expect("it starts");
            assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
            let mut after = String::from_utf8_lossy(&ran.stdout).into_owned();
            describe(&volume, "vol", &mut after);
            describe(&file, "single", &mut after);
            describe(&bundle.join("rootfs/rooted"), "rooted", &mut after);
            outcomes.push((name, after));
        }
        let (_, runc) = &outcomes[0];
        for (name, ours) in &outcomes[1..] {
            let differences: Vec<_> =
                runc.lines().zip(ours.lines()).filter(|(theirs, ours)| theirs != ours).take(10).collect();
            assert!(runc == ours, "{name} (left is runc): {differences:#?}\n{ours}");
        }
    }
    host.assert_nothing_left();
}

#[test]
fn a_container_dies_with_its_gofer() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "echo ready; sleep 1000");
    host.started("c", &bundle);
    host.wait_for_output("c", "ready");
    let state = host.path("state");
    let gofers: Vec<i32> = processes_with(state.to_str().expect("text"))
        .into_iter()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nacelle-gofer")
        })
        .collect();
    assert_eq!(gofers.len(), 1);
    kill_process(Pid::from_raw(gofers[0]).expect("a pid"), Signal::KILL).expect("sent");
    until("the end of the container", || host.status("c") == "stopped");
    host.run(&["delete", "c"]).ok();
    host.assert_nothing_left();
}
