//! Containers of an ordinary user, who has no rights on the host: the same commands, the same behaviour.

mod bundles;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use bundles::{Host, ORDINARY, SERVICE, can_run, is_alive, skip};
use serde_json::{Value, json};

/// A host whose commands an ordinary user runs; says why there is none.
fn ordinary() -> Option<Host> {
    if !can_run() {
        return None;
    }
    let found = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
    if found.is_err() {
        skip("there is no setpriv (package util-linux) to become an ordinary user with");
        return None;
    }
    let host = Host::ordinary();
    let able = host.run(&["do", "--", "/bin/true"]);
    if able.err.contains("user namespaces") {
        skip("ordinary users may not make user namespaces here");
        return None;
    }
    Some(host)
}

#[test]
fn a_container_of_an_ordinary_user_goes_through_its_life() {
    let Some(host) = ordinary() else { return };
    for (round, flag) in ["--rootless", "--rootless=true", "--rootless=auto"].into_iter().enumerate() {
        let id = format!("c{round}");
        let bundle = host.bundle(&format!("b{round}"), SERVICE);
        let pid_file = host.path(&format!("pid{round}"));
        let output = std::fs::File::create(host.path(&format!("{id}.out"))).expect("a file");
        let mut create = host.command(&[flag, "create", "--bundle", bundle.to_str().expect("text")]);
        create.arg("--pid-file").arg(&pid_file).arg(&id).stdout(output);
        assert!(create.status().expect("it starts").success());
        assert_eq!(host.status(&id), "created");
        let pid: i32 = std::fs::read_to_string(pid_file).expect("a pid file").parse().expect("a number");
        assert_eq!(pid, host.pid(&id));
        host.run(&[flag, "start", &id]).ok();
        host.wait_for_output(&id, "ready");
        // Inside it is whoever the specification says; outside it is the caller.
        assert_eq!(host.run(&[flag, "exec", &id, "id", "-u"]).ok(), "0\n");
        let owner = std::fs::metadata(format!("/proc/{pid}")).expect("a process").uid();
        assert_eq!(owner, ORDINARY);
        assert_eq!(host.run(&[flag, "exec", &id, "sh", "-c", "exit 9"]).code, Some(9));
        assert_eq!(host.run(&["exec", "--user", "5:6", &id, "sh", "-c", "id -u; id -g"]).ok(), "5\n6\n");
        assert_eq!(host.list(), std::slice::from_ref(&id));
        assert!(host.run(&["ps", &id]).ok().lines().count() > 1);
        host.run(&["pause", &id]).ok();
        assert_eq!(host.status(&id), "paused");
        host.run(&["resume", &id]).ok();
        let stats: Value = serde_json::from_str(&host.run(&["events", "--stats", &id]).ok()).expect("JSON");
        assert!(stats["data"]["pids"]["current"].as_u64().is_some_and(|tasks| tasks > 0), "{stats}");
        host.run(&[flag, "kill", &id, "TERM"]).ok();
        assert_eq!(host.run(&["wait", &id]).ok(), format!("{{\"id\":\"{id}\",\"exitStatus\":7}}\n"));
        assert!(!is_alive(pid));
        host.run(&[flag, "delete", &id]).ok();
        host.run(&["state", &id]).fails_with("does not exist");
        host.assert_nothing_left();
    }
}

#[test]
fn run_by_an_ordinary_user_gives_the_status_and_the_output() {
    let Some(host) = ordinary() else { return };
    for (index, (script, code)) in
        [("true", 0), ("exit 123", 123), ("kill -9 $$; sleep 9", 137)].iter().enumerate()
    {
        let bundle = host.bundle_with(&format!("b{index}"), "", |spec| {
            // The first process would be protected from itself.
            spec["process"]["args"] = json!(["/bin/sh", "-c", format!("sh -c '{script}'; exit $?")]);
        });
        let ran = host.run(&["--rootless", "run", "--bundle", bundle.to_str().expect("text"), "r"]);
        assert_eq!(ran.code, Some(*code), "{script}: {}", ran.err);
    }
    let bundle = host.bundle("missing", "");
    let config = std::fs::read_to_string(bundle.join("config.json")).expect("a file");
    std::fs::write(bundle.join("config.json"), config.replace("/bin/sh", "/no/such")).expect("written");
    host.run(&["--ignore-cgroups", "run", "--bundle", bundle.to_str().expect("text"), "r"])
        .fails_with("no such file or directory");
    host.assert_nothing_left();
}

#[test]
fn files_of_an_ordinary_users_container_are_the_users() {
    let Some(host) = ordinary() else { return };
    for mode in ["--directfs=true", "--directfs=false"] {
        let (volume, closed) = (host.path("v"), host.path("closed"));
        std::fs::create_dir(&volume).expect("a directory");
        host.give(&volume);
        // Of root, and for nobody else.
        std::fs::write(&closed, "secret").expect("written");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let script =
            "echo x > /v/made; mkdir /v/dir; cat /closed; echo y > /closed; echo z > /rooted; echo end";
        let bundle = host.bundle_with("b", script, |spec| {
            // To the container's root, the user's files are those of another one.
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
            }
            for (source, destination) in [(&volume, "/v"), (&closed, "/closed")] {
                spec["mounts"].as_array_mut().expect("a list").push(json!({
                    "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"],
                }));
            }
        });
        let ran =
            host.run(&[mode, "--ignore-cgroups", "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        assert_eq!((ran.out.as_str(), ran.code), ("end\n", Some(0)), "{}", ran.err);
        assert_eq!(ran.err.matches("ermission denied").count(), 2, "{}", ran.err);
        for path in [volume.join("made"), volume.join("dir"), bundle.join("rootfs/rooted")] {
            let metadata = std::fs::metadata(&path).expect("made");
            assert_eq!((metadata.uid(), metadata.gid()), (ORDINARY, ORDINARY), "{}", path.display());
        }
        assert_eq!(std::fs::read_to_string(&closed).expect("ours"), "secret");
        for path in [&volume, &bundle] {
            std::fs::remove_dir_all(path).expect("removed");
        }
        host.assert_nothing_left();
    }
}

#[test]
fn the_example_for_ordinary_users_runs() {
    let Some(host) = ordinary() else { return };
    let bundle = host.bundle("b", "");
    std::fs::remove_file(bundle.join("config.json")).expect("removed");
    let path = bundle.to_str().expect("text");
    host.run(&["spec", "--rootless", "--bundle", path, "--", "sh", "-c", "echo hello"]).ok();
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    spec["process"]["terminal"] = json!(false);
    std::fs::write(&file, spec.to_string()).expect("written");
    assert_eq!(host.run(&["run", "--bundle", path, "c"]).ok(), "hello\n");
    host.assert_nothing_left();
}

#[test]
fn an_ordinary_user_cannot_touch_containers_of_another() {
    let Some(host) = ordinary() else { return };
    let theirs = Host::new();
    std::fs::set_permissions(theirs.path("."), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let bundle = theirs.bundle("b", SERVICE);
    theirs.started("c", &bundle);
    let state = theirs.path("state");
    for arguments in [
        &["state", "c"][..],
        &["kill", "c", "KILL"],
        &["exec", "c", "true"],
        &["delete", "--force", "c"],
        &["list"],
    ] {
        let ran = host.run(&[&["--root", state.to_str().expect("text")], arguments].concat());
        let seen = ran.code == Some(0) && arguments[0] != "delete" && !ran.out.trim().is_empty();
        assert!(!seen || !ran.out.contains("running"), "{arguments:?}: {}", ran.out);
    }
    let socket = state.join("c/control.sock");
    assert_eq!(std::fs::metadata(&socket).expect("a socket").mode() & 0o077, 0);
    assert_eq!(theirs.status("c"), "running");
    theirs.run(&["delete", "--force", "c"]).ok();
    theirs.assert_nothing_left();
}

#[test]
fn an_attached_container_of_an_ordinary_user_dies_with_its_caller() {
    let Some(host) = ordinary() else { return };
    host.assert_attached_dies_with_its_caller();
    host.assert_nothing_left();
}

#[test]
fn the_state_of_an_ordinary_user_is_in_the_runtime_directory() {
    let Some(host) = ordinary() else { return };
    let runtime = host.path("runtime");
    std::fs::create_dir(&runtime).expect("a directory");
    host.give(&runtime);
    let bundle = host.bundle("b", SERVICE);
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        let id = ORDINARY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(host.path("nacelle"));
        command.args(arguments).env("XDG_RUNTIME_DIR", &runtime).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("it starts").success(), "{arguments:?}");
    };
    run(&["create", "--bundle", bundle.to_str().expect("text"), "mine"]);
    assert!(Path::new(&runtime).join("nacelle/mine/containers/mine/state.json").exists());
    run(&["delete", "mine"]);
    assert!(!Path::new(&runtime).join("nacelle/mine").exists());
}

#[test]
fn limits_that_an_ordinary_user_cannot_set_are_named() {
    let Some(host) = ordinary() else { return };
    let bundle = host.bundle_with("b", "true", |spec| {
        spec["linux"]["resources"] = json!({ "memory": { "limit": 1 << 30 }, "pids": { "limit": 100 } });
    });
    let ran = host.run(&["--rootless", "run", "--bundle", bundle.to_str().expect("text"), "c"]);
    assert!(ran.err.contains("the container runs without a cgroup: "), "{}", ran.err);
    assert!(ran.err.contains("linux.resources.memory is ignored"), "{}", ran.err);
    assert!(!ran.err.contains("pids"), "{}", ran.err);
    assert_eq!(ran.code, Some(0));
    host.assert_nothing_left();
}

#[test]
fn the_root_of_an_ordinary_users_namespace_keeps_state_where_the_user_does() {
    let Some(host) = ordinary() else { return };
    let directory = host.path("runtime-directory");
    std::fs::create_dir(&directory).expect("a directory");
    host.give(&directory);
    let id = ORDINARY.to_string();
    // As engines for ordinary users run it.
    let command = format!("{} run --bundle {} c; ls $XDG_RUNTIME_DIR", host.path("nacelle").display(), {
        let bundle = host.bundle("b", "id -u");
        bundle.display().to_string()
    });
    let output = Command::new("setpriv")
        .args([
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "--",
            "unshare",
            "--map-root-user",
            "--mount",
        ])
        .args(["sh", "-c", &command])
        .env_remove("USER")
        .env("XDG_RUNTIME_DIR", &directory)
        .output()
        .expect("setpriv starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\nnacelle\n", "{error}");
}
