//! What the host does for containers: hooks, control groups, oom scores; and what a specification takes from their trees.

mod bundles;

use std::path::{Path, PathBuf};

use bundles::{Host, can_run, until};
use serde_json::{Value, json};

/// Directories of a container's control group, as its stand-in's `/proc/PID/cgroup` names them.
fn groups(pid: i32) -> Vec<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let roots = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
    let roots: Vec<_> = roots.chain(["/sys/fs/cgroup".into()]).collect();
    let paths = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| path.len() > 1);
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        found.extend(roots.iter().map(|root| root.join(&path[1..])).filter(|path| path.is_dir()));
    }
    found.sort();
    found.dedup();
    found
}

fn stats(host: &Host, id: &str) -> Value {
    let event: Value = serde_json::from_str(&host.run(&["events", "--stats", id]).ok()).expect("JSON");
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(id)));
    event["data"].clone()
}

fn shell(script: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
}

/// Names of hooks and the states that they got, as [`recording`] hooks wrote them.
fn recorded(log: &Path) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let pairs =
        lines.chunks(2).map(|pair| (pair[0].to_owned(), serde_json::from_str(pair[1]).expect("JSON")));
    pairs.collect()
}

fn recording(kind: &str, log: &str) -> Value {
    shell(&format!("{{ echo {kind}; cat; echo; }} >> {log}"))
}

#[test]
fn hooks_run_at_their_points_with_the_state() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let outside = host.path("hooks.log");
    let bundle = host.bundle_with("b", "sleep 600", |spec| {
        for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            spec["hooks"][kind] = recording(kind, outside.to_str().expect("text"));
        }
        // This one sees the host's files and the container's mounts,
        let root = host.path("b/rootfs");
        let mounted = shell(&format!("grep -q ' {} ' /proc/self/mountinfo", root.display()));
        spec["hooks"]["createContainer"].as_array_mut().expect("a list").push(mounted[0].clone());
        // and this one the container's files.
        spec["hooks"]["startContainer"] = recording("startContainer", "/hooks.log");
        spec["annotations"] = json!({ "a": "b" });
    });
    let inside = bundle.join("rootfs/hooks.log");
    let names = |log: &Path| recorded(log).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    host.create("h", &bundle, &[]).ok();
    assert_eq!(names(&outside), ["prestart", "createRuntime", "createContainer"]);
    let pid = host.pid("h");
    host.run(&["start", "h"]).ok();
    assert_eq!(names(&inside), ["startContainer"]);
    assert_eq!(names(&outside)[3..], ["poststart"]);
    host.run(&["delete", "--force", "h"]).ok();
    let mut all = recorded(&outside);
    let (name, last) = all.pop().expect("hooks");
    assert_eq!((name.as_str(), &last["status"], last.get("pid")), ("poststop", &json!("stopped"), None));
    all.extend(recorded(&inside));
    for (name, state) in &all {
        assert_eq!((&state["id"], &state["pid"]), (&json!("h"), &json!(pid)), "{name}");
        assert_eq!((&state["bundle"], &state["annotations"]["a"]), (&json!(bundle), &json!("b")));
    }
    host.assert_nothing_left();
}

#[test]
fn a_hook_that_fails_ends_the_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = host.bundle_with(kind, "sleep 600", |spec| {
            spec["hooks"][kind] = shell("echo told >&2; exit 3");
        });
        let pid_file = host.path("pid");
        let ran = host.create("h", &bundle, &["--pid-file", pid_file.to_str().expect("text")]);
        ran.fails_with(&format!("error running {kind} hook #0: error running hook: exit status 3"));
        assert!(ran.err.contains("stderr: told"), "{}", ran.err);
        assert!(!pid_file.exists());
        host.assert_nothing_left();
    }
    for kind in ["startContainer", "poststart"] {
        let bundle = host.bundle_with(kind, "sleep 600", |spec| spec["hooks"][kind] = shell("exit 3"));
        host.create("h", &bundle, &[]).ok();
        host.run(&["start", "h"]).fails_with(&format!("error running {kind} hook #0"));
        host.run(&["delete", "--force", "h"]).ok();
        host.assert_nothing_left();
    }
}

#[test]
fn limits_are_set_shown_changed_and_gone_with_the_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", "sleep 600", |spec| {
        spec["linux"]["resources"] = json!({ "memory": { "limit": 128 << 20 }, "pids": { "limit": 20 } });
    });
    let created = host.create("c", &bundle, &[]);
    if created.err.contains("no cgroup controller") {
        return bundles::skip("the host has no memory or pids controller for us");
    }
    created.ok();
    host.run(&["start", "c"]).ok();
    let groups = groups(host.pid("c"));
    assert!(!groups.is_empty());
    let data = stats(&host, "c");
    assert_eq!(data["memory"]["usage"]["limit"], json!(128 << 20));
    assert_eq!((&data["pids"]["limit"], &data["pids"]["current"]), (&json!(20), &json!(1)));
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|total| total > 0), "{data}");
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|usage| usage > 0), "{data}");
    host.run(&["update", "--memory", "96m", "--pids-limit", "10", "c"]).ok();
    let data = stats(&host, "c");
    assert_eq!(data["memory"]["usage"]["limit"], json!(96 << 20));
    assert_eq!(data["pids"]["limit"], json!(10));
    let resources = host.path("resources.json");
    std::fs::write(&resources, r#"{"memory":{"limit":67108864}}"#).expect("written");
    host.run(&["update", "--resources", resources.to_str().expect("text"), "c"]).ok();
    assert_eq!(stats(&host, "c")["memory"]["usage"]["limit"], json!(64 << 20));
    // Half of a change is none.
    host.run(&["update", "--memory", "80m", "--cpu-quota", "7", "c"]).fails_with("failed to write");
    assert_eq!(stats(&host, "c")["memory"]["usage"]["limit"], json!(64 << 20));
    host.run(&["delete", "--force", "c"]).ok();
    let left: Vec<_> = groups.iter().filter(|path| path.is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    host.run(&["events", "--stats", "c"]).fails_with("does not exist");
    host.assert_nothing_left();
}

#[test]
fn the_number_of_tasks_is_limited_inside() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done; echo all; wait";
    let bundle = host.bundle_with("b", script, |spec| {
        spec["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    });
    let created = host.create("c", &bundle, &[]);
    if created.err.contains("no cgroup controller") {
        return bundles::skip("the host has no pids controller for us");
    }
    created.ok();
    host.run(&["start", "c"]).ok();
    until("the shell to be refused", || {
        let error = std::fs::read_to_string(host.path("c.err")).unwrap_or_default();
        error.contains("fork") || host.output("c").contains("all")
    });
    assert!(!host.output("c").contains("all"));
    host.run(&["delete", "--force", "c"]).ok();
}

#[test]
fn a_stream_of_events_ends_with_the_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    host.started("c", &host.bundle("b", "sleep 600"));
    let out = host.path("events");
    let mut command = host.command(&["events", "--interval", "50ms", "c"]);
    let mut events = command.stdout(std::fs::File::create(&out).expect("a file")).spawn().expect("started");
    until("some events", || std::fs::read_to_string(&out).unwrap_or_default().lines().count() > 2);
    host.run(&["delete", "--force", "c"]).ok();
    assert!(events.wait().expect("waited").success());
    for line in std::fs::read_to_string(&out).expect("events").lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["type"], "stats");
    }
}

#[test]
fn the_oom_score_reaches_the_processes_of_the_host() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", "cat /proc/self/oom_score_adj; sleep 600", |spec| {
        spec["process"]["oomScoreAdj"] = json!(900);
    });
    host.started("c", &bundle);
    let pid = host.pid("c");
    host.wait_for_output("c", "900");
    let file = |pid: i32| format!("/proc/{pid}/oom_score_adj");
    let score = |pid: i32| std::fs::read_to_string(file(pid)).expect("a process");
    assert_eq!(score(pid).trim(), "900");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    let sandbox: i32 = children.split_whitespace().next().expect("the sandbox").parse().expect("a pid");
    // The host kills what runs guest code sooner than the sandbox.
    assert_eq!(score(sandbox).trim(), "400");
    let children =
        std::fs::read_to_string(format!("/proc/{sandbox}/task/{sandbox}/children")).expect("children");
    // That of a program that has ended goes just now, perhaps.
    let stubs = children.split_whitespace().map(|pid| pid.parse().expect("a pid"));
    let scores: Vec<String> = stubs.filter_map(|pid| std::fs::read_to_string(file(pid)).ok()).collect();
    assert!(scores.len() > 1 && scores.iter().all(|score| score.trim() == "900"), "{scores:?}");
    host.run(&["delete", "--force", "c"]).ok();
}

#[test]
fn paths_are_masked_and_made_read_only() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "ls /etc/hidden; echo listed; cat /etc/secret; echo read; echo x > /etc/fixed/file; echo $?; \
                  echo x > /etc/free && cat /etc/fixed/file && ls /etc/hidden/file; echo end";
    let bundle = host.bundle_with("b", script, |spec| {
        spec["linux"]["maskedPaths"] = json!(["/etc/hidden", "/etc/secret", "/not/there"]);
        spec["linux"]["readonlyPaths"] = json!(["/etc/fixed", "/not/there/either"]);
    });
    let etc = bundle.join("rootfs/etc");
    for directory in ["hidden", "fixed"] {
        std::fs::create_dir(etc.join(directory)).expect("a directory");
        std::fs::write(etc.join(directory).join("file"), "kept\n").expect("a file");
    }
    std::fs::write(etc.join("secret"), "told\n").expect("a file");
    host.started("c", &bundle);
    host.wait_for_output("c", "end");
    assert_eq!(host.output("c"), "listed\nread\n1\nkept\nend\n");
    let error = std::fs::read_to_string(host.path("c.err")).expect("text");
    assert!(error.contains("Read-only file system"), "{error}");
    assert!(etc.join("free").exists());
    host.run(&["delete", "--force", "c"]).ok();
}

#[test]
fn devices_are_made_with_owner_and_permissions() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script =
        "ls -ln /dev/mine /dev/deep/block /dev/pipe; echo x > /dev/mine; echo $?; cat /dev/null; echo end";
    let bundle = host.bundle_with("b", script, |spec| {
        spec["linux"]["devices"] = json!([
            { "path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o606, "uid": 7, "gid": 8 },
            { "path": "/dev/deep/block", "type": "b", "major": 8, "minor": 0 },
            { "path": "/dev/pipe", "type": "p" },
            { "path": "/dev/null", "type": "c", "major": 1, "minor": 3 },
        ]);
    });
    host.started("c", &bundle);
    host.wait_for_output("c", "end");
    let output = host.output("c");
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    let node = |name: &str| lines.iter().find(|line| line.last() == Some(&name)).expect("listed").clone();
    assert_eq!(node("/dev/mine")[..6], ["crw----rw-", "1", "7", "8", "1,", "3"]);
    assert_eq!(node("/dev/deep/block")[0], "brw-rw-rw-");
    assert_eq!(node("/dev/pipe")[0], "prw-rw-rw-");
    assert!(output.ends_with("0\nend\n"), "{output}");
    host.run(&["delete", "--force", "c"]).ok();
}

#[test]
fn the_host_shows_programs_by_their_names_and_arguments() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let seconds = format!("9{:06}", std::process::id());
    host.started("c", &host.bundle("b", &format!("exec sleep {seconds}")));
    let own = format!("sleep\0{seconds}\0");
    let mut found = Vec::new();
    until("the program among the host's processes", || {
        found = bundles::processes_with(&own);
        !found.is_empty()
    });
    let [pid] = found[..] else { panic!("{found:?}") };
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("its arguments"), own);
    // Busybox runs itself as `/proc/self/exe` and takes the name of its applet afterwards.
    let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("its name");
    until("its name", || name() == "sleep\n");
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("its environment");
    assert!(environment.contains("INHERITED=yes"), "{environment:?}");
    // Engines find it by what they are told.
    let told = |id: &str| -> Vec<i32> {
        serde_json::from_str(&host.run(&["ps", "--format", "json", id]).ok()).expect("JSON")
    };
    assert_eq!(told("c"), [pid]);
    host.run_and_leave(&["exec", "--detach", "c", "sleep", "1000"]).ok();
    until("the other one", || told("c").len() == 2 && told("c").contains(&pid));
    host.run(&["pause", "c"]).ok();
    assert_eq!(told("c").len(), 2);
}

#[test]
fn statistics_are_what_the_control_group_says() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    // Something is used while it is measured, and the number of tasks is known.
    let script = "sleep 600 & x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do x=$x$x; done; \
                  echo ready; while :; do :; done";
    host.started("c", &host.bundle("b", script));
    host.wait_for_output("c", "ready");
    let groups = groups(host.pid("c"));
    let read = |file: &str| -> Option<String> {
        groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok())
    };
    let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok());
    let field = |file: &str, name: &str| -> Option<u64> {
        read(file)?.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let used = || number("cpuacct.usage").or_else(|| Some(field("cpu.stat", "usage_usec ")? * 1000));
    let memory = || number("memory.usage_in_bytes").or_else(|| number("memory.current"));
    let (Some(before), Some(_)) = (used(), memory()) else {
        return bundles::skip("the host has no cpu or memory controller for us");
    };
    let data = stats(&host, "c");
    let after = used().expect("it was there");
    let total = data["cpu"]["usage"]["total"].as_u64().expect("a number");
    assert!((before..=after).contains(&total), "{before} {total} {after}");
    assert!(after > before, "it computes");
    // In steps of the host's per-processor accounts.
    let (told, is) =
        (data["memory"]["usage"]["usage"].as_u64().expect("a number"), memory().expect("it was there"));
    assert!(told.abs_diff(is) < 1 << 20, "{told} {is}");
    assert!(told > 2 << 20, "the text alone: {told}");
    assert_eq!(data["pids"]["current"], json!(2));
    host.run(&["delete", "--force", "c"]).ok();
}
