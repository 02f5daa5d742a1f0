//! Programs in containers: which one is found, as whom it runs, with which limits, and who is reached by a signal.

mod bundles;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use bundles::{Host, SERVICE, can_run, gofers_of, is_alive, skip, until};
use serde_json::{Value, json};

/// A container called `c` that runs.
fn service(change: impl FnOnce(&mut Value)) -> Host {
    let host = Host::new();
    let bundle = host.bundle_with("b", SERVICE, change);
    host.started("c", &bundle);
    host.wait_for_output("c", "ready");
    host
}

/// Lines of `ps`, each as its columns by name; the last one takes the rest.
fn processes(host: &Host) -> Vec<BTreeMap<String, String>> {
    let table = host.run(&["ps", "c"]).ok();
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().expect("a heading").split_whitespace().collect();
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let mut columns = BTreeMap::new();
        for name in &names[..names.len() - 1] {
            columns.insert((*name).to_owned(), words.next().expect("a column").to_owned());
        }
        columns.insert(names[names.len() - 1].to_owned(), words.collect::<Vec<_>>().join(" "));
        columns
    };
    lines.map(row).collect()
}

/// The one process whose command line ends with `end`.
fn process(host: &Host, end: &str) -> Option<BTreeMap<String, String>> {
    processes(host).into_iter().find(|process| process["CMD"].ends_with(end))
}

fn script(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// A root directory with programs of one name in several places.
fn fill(root: &Path) {
    for directory in ["first", "second/tool", "third", "fourth", "work"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    script(&root.join("first/tool"), "echo not executable", 0o644);
    script(&root.join("third/tool"), "echo third", 0o755);
    script(&root.join("fourth/tool"), "echo fourth", 0o755);
    script(&root.join("work/local"), "echo local $0", 0o755);
    symlink("../fourth/tool", root.join("work/relative")).expect("a link");
    symlink("/third/tool", root.join("work/absolute")).expect("a link");
    symlink("missing", root.join("work/dangling")).expect("a link");
}

/// Programs, and what they say or why they are not run.
const PROGRAMS: [(&str, Result<&str, &str>); 11] = [
    ("tool", Ok("third\n")),
    ("/fourth/tool", Ok("fourth\n")),
    ("./local", Ok("local ./local\n")),
    ("../work/local", Ok("local ../work/local\n")),
    ("/work/relative", Ok("fourth\n")),
    ("./absolute", Ok("third\n")),
    ("local", Err("executable file not found in $PATH")),
    ("/first/tool", Err("permission denied")),
    ("/second/tool", Err("permission denied")),
    ("./dangling", Err("no such file or directory")),
    ("/work/local/", Err("not a directory")),
];

fn search(spec: &mut Value) {
    spec["process"]["cwd"] = json!("/work");
    spec["process"]["env"] = json!(["PATH=/none:/first:/second:/third:/fourth:/bin"]);
}

#[test]
fn the_first_program_is_found_by_its_path_or_in_path() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for (program, expected) in PROGRAMS {
        let bundle = host.bundle_with("b", "", |spec| {
            search(spec);
            spec["process"]["args"] = json!([program]);
        });
        fill(&bundle.join("rootfs"));
        let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "c"]);
        match expected {
            Ok(text) => assert_eq!(ran.ok(), text, "{program}"),
            Err(text) => ran.fails_with(text),
        }
        std::fs::remove_dir_all(bundle).expect("removed");
    }
    host.assert_nothing_left();
}

#[test]
fn a_further_program_is_found_in_the_same_way() {
    if !can_run() {
        return;
    }
    let host = service(search);
    fill(&host.path("b/rootfs"));
    for (program, expected) in PROGRAMS {
        let ran = host.run(&["exec", "c", program]);
        match expected {
            Ok(text) => assert_eq!(ran.ok(), text, "{program}"),
            Err(text) => ran.fails_with(text),
        }
    }
    // In the PATH that it is given, not in that of the container.
    assert_eq!(host.run(&["exec", "--env", "PATH=/fourth", "c", "tool"]).ok(), "fourth\n");
    assert_eq!(host.run(&["exec", "--cwd", "/fourth", "c", "./tool"]).ok(), "fourth\n");
    host.run(&["exec", "--cwd", "/not/there", "c", "/fourth/tool"]).fails_with("/not/there");
}

#[test]
fn a_further_program_has_no_parent_and_the_user_that_was_asked_for() {
    if !can_run() {
        return;
    }
    let host = service(|_| {});
    host.run_and_leave(&["exec", "--detach", "--user", "343:2401", "c", "sleep", "501"]).ok();
    let found = process(&host, "sleep 501").expect("it runs");
    assert_eq!((found["UID"].as_str(), found["PPID"].as_str()), ("343", "0"));
    assert_eq!((&found["PGID"], found["TTY"].as_str()), (&found["PID"], "?"));
    let status = host.run(&["exec", "c", "cat", &format!("/proc/{}/status", found["PID"])]).ok();
    assert!(status.contains("Gid:\t2401\t2401\t2401\t2401"), "{status}");
}

#[test]
fn a_signal_by_pid_reaches_one_process_and_by_group_all_of_it() {
    if !can_run() {
        return;
    }
    let host = service(|_| {});
    // Each waits for the next one, the last one sleeps; all in one group.
    let chain = "sh -c 'sh -c \"sleep 501; sleep 502; true\"; true'; true";
    host.run_and_leave(&["exec", "--detach", "c", "sh", "-c", chain]).ok();
    host.run_and_leave(&["exec", "--detach", "c", "sleep", "505"]).ok();
    let is_there = |end: &str| process(&host, end).is_some();
    until("the whole chain", || is_there("sleep 501"));
    let kill = |how: &str, number: &str, signal: &str| host.run(&["kill", how, number, "c", signal]);
    let deepest = process(&host, "sleep 501").expect("it runs");
    kill("--pid", &deepest["PID"], "KILL").ok();
    until("the next one", || is_there("sleep 502"));
    let next = process(&host, "sleep 502").expect("it runs");
    assert_eq!((&next["PPID"], &next["PGID"]), (&deepest["PPID"], &deepest["PGID"]));
    assert!(!is_there("sleep 501"));
    kill("--pgid", &next["PGID"], "KILL").ok();
    until("the end of the group", || processes(&host).iter().all(|one| one["PGID"] != next["PGID"]));
    assert!(is_there("sleep 505"));
    kill("--pgid", &next["PGID"], "KILL").fails_with("no such process group");
    kill("--pid", &next["PID"], "0").fails_with("no such process");
    assert_eq!(host.status("c"), "running");
}

#[test]
fn limits_capabilities_umask_and_environment_are_those_of_the_specification() {
    if !can_run() {
        return;
    }
    let host = service(|spec| {
        spec["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 111, "hard": 222 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        ]);
        spec["process"]["user"]["umask"] = json!(0o027);
        spec["process"]["env"] = json!(["PATH=/bin", "TWICE=first", "TWICE=second"]);
    });
    let root = host.path("b/rootfs");
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:343:343:U:/home/u:/bin/sh\n")
        .expect("written");
    script(&root.join("closed"), "", 0o000);
    let shell =
        |flags: &[&str], script: &str| host.run(&[&["exec"], flags, &["c", "sh", "-c", script]].concat());
    for pid in ["1", "self"] {
        let limits = shell(&[], &format!("cat /proc/{pid}/limits")).ok();
        let row = limits.lines().find(|line| line.starts_with("Max open files")).expect("a row");
        assert_eq!(row.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["111", "222"], "{pid}");
    }
    assert_eq!(shell(&[], "umask; echo $TWICE $HOME").ok(), "0027\nsecond /root\n");
    assert_eq!(shell(&["--user", "343"], "echo $HOME").ok(), "/home/u\n");
    assert_eq!(shell(&["--user", "344"], "echo $HOME").ok(), "/\n");
    assert_eq!(shell(&["--env", "HOME=/mine", "--env", "TWICE=3"], "echo $HOME $TWICE").ok(), "/mine 3\n");
    // An ordinary user reads what is closed to all only with a capability.
    let refused = shell(&["--user", "343"], "cat /closed");
    assert!(refused.err.contains("Permission denied"), "{}", refused.err);
    shell(&["--cap", "CAP_DAC_OVERRIDE"], "cat /closed").ok();
    host.run(&["exec", "--cap", "CAP_NONE", "c", "true"]).fails_with("unknown capability");
}

#[test]
fn a_further_program_reads_its_callers_input() {
    if !can_run() {
        return;
    }
    let host = service(|_| {});
    let mut command = host.command(&["exec", "c", "tr", "a-z", "A-Z"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    let text = "a line\n".repeat(20_000);
    let mut input = child.stdin.take().expect("a pipe");
    let expected = text.to_uppercase();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let output = child.wait_with_output().expect("waited");
    writer.join().expect("joined").expect("written");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn a_container_that_was_not_started_runs_no_further_program() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    host.create("c", &bundle, &[]).ok();
    host.run(&["exec", "c", "true"]).fails_with("in state created");
    host.run(&["ps", "c"]).fails_with("in state created");
    host.run(&["pause", "c"]).fails_with("is not running");
    host.run(&["resume", "c"]).fails_with("container not paused");
    // As with runc, a signal that is not caught ends it.
    host.run(&["kill", "c", "TERM"]).ok();
    assert_eq!(host.run(&["wait", "c"]).ok(), "{\"id\":\"c\",\"exitStatus\":143}\n");
    host.run(&["delete", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn a_container_is_controlled_from_another_network_and_mount_namespace() {
    if !can_run() {
        return;
    }
    if Command::new("unshare").arg("--version").output().is_err() {
        return skip("there is no unshare (package util-linux)");
    }
    let host = service(|_| {});
    let from_outside = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", env!("CARGO_BIN_EXE_nacelle"), "--root"]);
        command.arg(host.path("state")).args(arguments).stdin(Stdio::null());
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(from_outside(&["exec", "c", "echo", "in"]), "in\n");
    assert!(from_outside(&["state", "c"]).contains("\"running\""));
    from_outside(&["delete", "--force", "c"]);
    host.assert_nothing_left();
}

#[test]
fn a_killed_sandbox_leaves_no_gofer() {
    if !can_run() {
        return;
    }
    let host = service(|_| {});
    let gofers = gofers_of(&host, "c");
    assert_eq!(gofers.len(), 1);
    let path = host.path("state/c/containers/c/state.json");
    let state: Value = serde_json::from_slice(&std::fs::read(path).expect("a state")).expect("JSON");
    let pid = state["sandbox"]["process"]["pid"].as_i64().expect("a pid") as i32;
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("sent");
    until("the end of the gofer", || !is_alive(gofers[0]));
    until("the end of the container", || host.status("c") == "stopped");
    assert_eq!(host.run(&["wait", "c"]).ok(), "{\"id\":\"c\",\"exitStatus\":137}\n");
    host.run(&["delete", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn a_container_may_be_deleted_while_it_is_started() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    for _ in 0..10 {
        host.create("c", &bundle, &[]).ok();
        let mut start = host.command(&["start", "c"]);
        let start = start.stderr(Stdio::piped()).spawn().expect("started");
        host.run(&["delete", "--force", "c"]).ok();
        // It came first, or it is told why not.
        let output = start.wait_with_output().expect("waited");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || error.lines().count() == 1, "{error}");
        assert!(!error.contains("panicked"), "{error}");
        host.assert_nothing_left();
    }
}
