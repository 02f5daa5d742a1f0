//! What containers see of the host's files: mounts of all kinds, their options, and changes from either side.

mod bundles;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bundles::{Host, can_run, until};
use serde_json::{Value, json};

fn bind(spec: &mut Value, source: &Path, destination: &str, options: &[&str]) {
    // Some engines give the type `bind`, others only the option.
    spec["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": destination, "type": "none", "source": source, "options": options,
    }));
}

/// Runs a script to its end and returns what it wrote.
#[track_caller]
fn run(host: &Host, script: &str, change: impl FnOnce(&mut Value, &Path)) -> String {
    let path = host.path("b");
    let bundle = host.bundle_with("b", script, |spec| change(spec, &path.join("rootfs")));
    let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "c"]);
    fs::remove_dir_all(bundle).expect("removed");
    let error = ran.err.clone();
    let code = ran.code;
    assert_eq!(code, Some(0), "{error}");
    ran.out
}

/// A directory with a file in it.
fn volume(host: &Host, name: &str) -> std::path::PathBuf {
    let path = host.path(name);
    fs::create_dir(&path).expect("a directory");
    fs::write(path.join("file"), format!("of {name}\n")).expect("written");
    path
}

#[test]
fn places_of_mounts_are_made_also_in_a_root_that_is_read_only() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let volume = volume(&host, "v");
    let script = "cat /new/deep/dir/file /new/single; echo x > /here || echo refused; \
                  echo x > /new/other || echo refused; echo x > /new/deep/dir/made && cat /new/deep/dir/made";
    let out = run(&host, script, |spec, _| {
        spec["root"]["readonly"] = json!(true);
        bind(spec, &volume, "/new/deep/dir", &["rbind", "rw"]);
        bind(spec, &volume.join("file"), "/new/single", &["bind", "ro"]);
    });
    assert_eq!(out, "of v\nof v\nrefused\nrefused\nx\n");
    assert_eq!(fs::read_to_string(volume.join("made")).expect("written"), "x\n");
}

#[test]
fn a_read_only_mount_refuses_to_be_changed() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let volume = volume(&host, "v");
    let script = "cd /v; for c in 'echo x > file' 'echo x > new' 'mkdir d' 'chmod 777 file' 'ln file hard' 'ln -s a soft' \
                  'mkfifo f' 'touch file'; do sh -c \"$c\" 2>&1 | grep -q 'Read-only' && echo ok || echo \"$c\"; done";
    let out = run(&host, script, |spec, _| {
        bind(spec, &volume, "/v", &["rbind", "ro"]);
    });
    assert_eq!(out, "ok\n".repeat(8));
    assert_eq!(fs::read_dir(&volume).expect("a listing").count(), 1);
}

#[test]
fn links_in_the_place_of_a_mount_stay_inside_the_root() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let (volume, outside) = (volume(&host, "v"), host.path("outside"));
    fs::create_dir(&outside).expect("a directory");
    let out = outside.to_str().expect("text").to_owned();
    let script = format!("cat /real/sub/file; cat {out}/sub/file /up/sub/file; ls -d /real/sub");
    let mut links = Vec::new();
    let out = run(&host, &script, |spec, root| {
        fs::create_dir_all(root.join("real")).expect("a directory");
        links.extend([("to-real", "/real".to_owned()), ("absolute", out.clone())]);
        links.push(("climbing", "../../../../../../../../../../up".to_owned()));
        for (name, target) in &links {
            symlink(target, root.join(name)).expect("a link");
            bind(spec, &volume, &format!("/{name}/sub"), &["rbind", "rw"]);
        }
    });
    assert_eq!(out, "of v\nof v\nof v\n/real/sub\n");
    assert_eq!(fs::read_dir(&outside).expect("a listing").count(), 0, "the host's directory was changed");
    assert!(!Path::new("/up").exists());
}

#[test]
fn a_directory_below_one_that_is_closed_to_the_user_can_be_mounted() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let closed = host.path("closed");
    fs::create_dir(&closed).expect("a directory");
    let volume = closed.join("v");
    fs::create_dir(&volume).expect("a directory");
    fs::set_permissions(&volume, Permissions::from_mode(0o777)).expect("ours");
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("ours");
    for direct in ["--directfs=true", "--directfs=false"] {
        let bundle = host.bundle_with(direct, "id -u; echo x > /v/file; cat /v/file; ls -ln /v", |spec| {
            spec["process"]["user"] = json!({ "uid": 343, "gid": 2401, "additionalGids": [7, 8] });
            spec["process"]["capabilities"] = json!({});
            bind(spec, &volume, "/v", &["rbind", "rw"]);
        });
        let ran = host.run(&[direct, "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        let out = ran.ok();
        assert!(out.starts_with("343\nx\n"), "{out}");
        let made = fs::metadata(volume.join("file")).expect("made");
        assert_eq!((made.uid(), made.gid()), (343, 2401));
        fs::remove_file(volume.join("file")).expect("removed");
    }
}

#[test]
fn devices_that_are_mounted_are_those_of_the_kernel_and_no_others() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    // One that the host may have, and the kernel inside has not.
    let other = host.path("other");
    let device = rustix::fs::makedev(240, 7);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &other, kind, 0o666.into(), device).expect("root may");
    let script = "echo lost > /mine && cat /mine; head -c 3 /zeros | wc -c; cat /other; echo x > /other";
    let bundle = host.bundle_with("b", script, |spec| {
        bind(spec, Path::new("/dev/null"), "/mine", &["bind"]);
        bind(spec, Path::new("/dev/zero"), "/zeros", &["bind"]);
        bind(spec, &other, "/other", &["bind"]);
    });
    std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin/head")).expect("a link");
    for flags in [
        &["--directfs=true"][..],
        &["--directfs=false"],
        &["--directfs=true", "--character-device-policy=emulated-only"],
        &["--directfs=false", "--character-device-policy=emulated-only"],
    ] {
        let ran = host.run(&[flags, &["run", "--bundle", bundle.to_str().expect("text"), "c"]].concat());
        assert_eq!(ran.out, "3\n", "{flags:?} {}", ran.err);
        assert_eq!(ran.err.matches("No such device or address").count(), 2, "{flags:?} {}", ran.err);
    }
}

#[test]
fn devices_of_the_host_are_passed_through_on_request() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    if !can_run() {
        return;
    }
    let host = Host::new();
    // A terminal of the host, which the kernel inside has not; both of its ends show that it is the same one.
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
    let mut settings = rustix::termios::tcgetattr(&master).expect("settings");
    settings.make_raw();
    rustix::termios::tcsetattr(&master, rustix::termios::OptionalActions::Now, &settings).expect("set");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let slave = Path::new(name.to_str().expect("text"));
    // Without somebody who has it open, it hangs up.
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let _open = rustix::fs::open(slave, flags, rustix::fs::Mode::empty()).expect("it is there");
    let script = "echo lost > /null && cat /null; echo out > /terminal; head -c 3 /terminal; echo";
    let bundle = host.bundle_with("b", script, |spec| {
        bind(spec, Path::new("/dev/null"), "/null", &["bind"]);
        bind(spec, slave, "/terminal", &["bind"]);
    });
    symlink("busybox", bundle.join("rootfs/bin/head")).expect("a link");
    for policy in ["prefer-emulated", "passthrough"] {
        for direct in ["--directfs=true", "--directfs=false"] {
            let flag = format!("--character-device-policy={policy}");
            let path = bundle.to_str().expect("text");
            let mut command = host.command(&[direct, &flag, "run", "--bundle", path, "c"]);
            let child = command.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
            let mut said = [0; 4];
            let read = rustix::io::read(&master, &mut said[..]).expect("what it says");
            assert_eq!(&said[..read], b"out\n", "{policy} {direct}");
            rustix::io::write(&master, b"in!").expect("written");
            let output = child.wait_with_output().expect("its end");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "in!\n", "{policy} {direct}");
        }
    }
    // Not below a directory, and not without being asked for.
    for (number, (policy, source, destination, file)) in [
        (
            "passthrough",
            Path::new("/dev/pts"),
            "/pts",
            format!("/pts/{}", slave.file_name().expect("a name").display()),
        ),
        ("emulated-only", slave, "/terminal", "/terminal".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let bundle = host.bundle_with(&format!("b{number}"), &format!("cat {file}"), |spec| {
            bind(spec, source, destination, &["rbind"]);
        });
        let flag = format!("--character-device-policy={policy}");
        let ran = host.run(&[&flag, "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        assert!(ran.err.contains("No such device or address"), "{policy} {}", ran.err);
    }
    host.assert_nothing_left();
}

#[test]
fn a_file_system_in_memory_has_the_size_and_mode_that_were_asked_for() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "ls -ld /m | cut -c1-10; dd if=/dev/zero of=/m/big bs=1k count=2000 2>&1 | grep -o 'No space.*'; \
                  ls -l /m/big | awk '{ print $5 }'";
    let out = run(&host, script, |spec, _| {
        spec["mounts"].as_array_mut().expect("a list").push(json!({
            "destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m", "mode=1750"],
        }));
    });
    assert_eq!(out, "drwxr-x--T\nNo space left on device\n1048576\n");
}

#[test]
fn a_working_directory_that_is_missing_is_made() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let out = run(&host, "pwd; ls -a | wc -l", |spec, _| spec["process"]["cwd"] = json!("/not/there/yet"));
    assert_eq!(out, "/not/there/yet\n2\n");
}

#[test]
fn mounts_come_in_the_order_of_the_specification() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let (first, second) = (volume(&host, "first"), volume(&host, "second"));
    let out = run(&host, "cat /v/file /w/file /v/sub/file", |spec, _| {
        bind(spec, &first, "/w", &["rbind"]);
        bind(spec, &second, "/w", &["rbind"]);
        bind(spec, &second, "/v", &["rbind"]);
        bind(spec, &first, "/v", &["rbind"]);
        bind(spec, &second, "/v/sub", &["rbind"]);
    });
    assert_eq!(out, "of first\nof second\nof second\n");
}

#[test]
fn a_source_that_is_missing_is_named() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", "true", |spec| bind(spec, Path::new("/not/there"), "/v", &["rbind"]));
    host.create("c", &bundle, &[]).fails_with("/not/there");
    host.assert_nothing_left();
}

#[test]
fn either_side_sees_what_the_other_does_to_a_shared_directory() {
    if !can_run() {
        return;
    }
    for flags in [&["--directfs=true"][..], &["--directfs=false"], &["--overlay2=root:memory"]] {
        let host = Host::new();
        let (volume, single) = (volume(&host, "v"), host.path("single"));
        fs::write(&single, "one\n").expect("written");
        let bundle = host.bundle_with("b", "echo ready; sleep 600", |spec| {
            bind(spec, &volume, "/v", &["rbind", "rw"]);
            bind(spec, &single, "/single", &["bind", "rw"]);
        });
        let out = fs::File::create(host.path("c.out")).expect("a file");
        let mut create =
            host.command(&[flags, &["create", "--bundle", bundle.to_str().expect("text"), "c"]].concat());
        assert!(create.stdout(out).status().expect("started").success());
        host.run(&["start", "c"]).ok();
        host.wait_for_output("c", "ready");
        let inside = |script: &str| {
            let ran = host.run(&["exec", "c", "sh", "-c", script]);
            format!("{}{}", ran.out, ran.err)
        };
        // The host makes, changes, lengthens, renames, and removes.
        let file = volume.join("made");
        assert!(inside("cat /v/made").contains("No such file"));
        fs::write(&file, "first\n").expect("written");
        assert_eq!(inside("cat /v/made"), "first\n");
        fs::write(&file, "longer than the first\n").expect("written");
        assert_eq!(inside("cat /v/made; ls -l /v/made | wc -l"), "longer than the first\n1\n");
        fs::remove_file(&file).expect("removed");
        std::os::unix::fs::symlink("/single", &file).expect("linked");
        assert_eq!(inside("cat /v/made"), "one\n");
        fs::remove_file(&file).expect("removed");
        fs::write(&file, "longer than the first\n").expect("written");
        fs::rename(&file, volume.join("moved")).expect("renamed");
        assert!(inside("cat /v/made").contains("No such file"));
        assert_eq!(inside("cat /v/moved"), "longer than the first\n");
        fs::remove_file(volume.join("moved")).expect("removed");
        fs::create_dir(volume.join("moved")).expect("a directory");
        assert_eq!(inside("ls -d /v/moved/."), "/v/moved/.\n");
        // Directories on the way, however often they were used before.
        fs::create_dir_all(volume.join("far/away")).expect("directories");
        fs::write(volume.join("far/away/file"), "first\n").expect("written");
        let often =
            "i=0; while [ $i -lt 99 ]; do [ -e /v/far/away/file ]; i=$((i+1)); done; cat /v/far/away/file";
        assert_eq!(inside(often), "first\n");
        fs::rename(volume.join("far/away"), volume.join("away")).expect("renamed");
        assert!(inside("cat /v/far/away/file").contains("No such file"));
        fs::create_dir(volume.join("far/away")).expect("a directory");
        fs::write(volume.join("far/away/file"), "second\n").expect("written");
        assert_eq!(inside(often), "second\n");
        // The container does.
        assert_eq!(
            inside("echo inner > /v/inner; chmod 640 /v/inner; ln -s inner /v/soft; echo more >> /v/file"),
            ""
        );
        assert_eq!(fs::read_to_string(volume.join("soft")).expect("a link"), "inner\n");
        assert_eq!(fs::metadata(volume.join("inner")).expect("made").mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(volume.join("file")).expect("a file"), "of v\nmore\n");
        assert_eq!(inside("rm /v/inner; rmdir /v/moved"), "");
        assert!(!volume.join("inner").exists() && !volume.join("moved").exists());
        // A single file is one, too.
        fs::write(&single, "two\n").expect("written");
        assert_eq!(inside("cat /single; echo three > /single"), "two\n");
        assert_eq!(fs::read_to_string(&single).expect("a file"), "three\n");
        // What is open stays when its name goes.
        host.run_and_leave(&[
            "exec",
            "-d",
            "c",
            "sh",
            "-c",
            "exec 3< /v/file; : > /v/opened; while [ -e /v/file ]; do sleep 0.01; done; cat <&3 > /v/copy",
        ])
        .ok();
        until("the program", || volume.join("opened").exists());
        fs::remove_file(volume.join("file")).expect("removed");
        until("the copy", || {
            fs::read_to_string(volume.join("copy")).is_ok_and(|text| text == "of v\nmore\n")
        });
        host.run(&["delete", "--force", "c"]).ok();
        host.assert_nothing_left();
    }
}
