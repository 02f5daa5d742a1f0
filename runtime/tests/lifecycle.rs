//! The life of a container, from the outside: what an engine sees.

mod bundles;

use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bundles::{Host, SERVICE, can_run, gofers_of, is_alive, until};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

#[test]
fn a_container_goes_through_its_life() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    host.create("c1", &bundle, &[]).ok();
    assert_eq!((host.status("c1").as_str(), host.output("c1").as_str()), ("created", ""));
    assert_eq!(host.list(), ["c1"]);
    host.run(&["delete", "c1"]).ok();
    host.started("c1", &bundle);
    host.wait_for_output("c1", "ready");
    assert_eq!(host.status("c1"), "running");
    host.run(&["start", "c1"]).fails_with("cannot start container \"c1\" in state running");
    host.run(&["delete", "c1"]).fails_with("that is not stopped");
    host.run(&["kill", "c1", "SIGTERM"]).ok();
    for _ in 0..2 {
        assert_eq!(host.run(&["wait", "c1"]).ok(), "{\"id\":\"c1\",\"exitStatus\":7}\n");
    }
    assert_eq!(host.status("c1"), "stopped");
    assert!(host.state("c1").get("pid").is_none());
    host.run(&["kill", "c1", "TERM"]).fails_with("container not running");
    host.run(&["kill", "--all", "c1", "KILL"]).ok();
    host.run(&["exec", "c1", "true"]).fails_with("container not running");
    host.run(&["delete", "c1"]).ok();
    host.run(&["delete", "c1"]).fails_with("does not exist");
    host.run(&["state", "c1"]).fails_with("does not exist");
    host.assert_nothing_left();
}

#[test]
fn the_exit_status_is_that_of_the_program() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for (script, code) in [("true", 0), ("exit 123", 123), ("exit 1", 1), ("echo out; echo err >&2", 0)] {
        let bundle = host.bundle(&format!("b{code}{}", script.len()), script);
        let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "r"]);
        assert_eq!(ran.code, Some(code), "{script}: {}", ran.err);
        if script.starts_with("echo") {
            assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
        }
    }
    host.assert_nothing_left();
}

#[test]
fn the_process_in_the_pid_file_is_ours_and_ends_as_the_container_does() {
    if !can_run() {
        return;
    }
    rustix::process::set_child_subreaper(Pid::from_raw(1)).expect("children of children");
    let host = Host::new();
    let pid_file = host.path("pid");
    let more = ["--pid-file", pid_file.to_str().expect("text")];
    let start = |id: &str, script: &str| {
        let bundle = host.bundle(&format!("b-{id}"), script);
        host.create(id, &bundle, &more).ok();
        host.run(&["start", id]).ok();
        let pid: i32 = std::fs::read_to_string(&pid_file).expect("a pid file").parse().expect("a number");
        Pid::from_raw(pid).expect("a pid")
    };
    let wait = |pid| {
        let mut status = None;
        until("its end", || {
            status = waitpid(Some(pid), WaitOptions::NOHANG).expect("our child");
            status.is_some()
        });
        let (_, status) = status.expect("a status");
        (status.exit_status(), status.terminating_signal())
    };
    // A signal to it is one to the program.
    let pid = start("term", SERVICE);
    host.wait_for_output("term", "ready");
    assert_eq!(pid.as_raw_nonzero().get(), host.pid("term"));
    kill_process(pid, Signal::TERM).expect("sent");
    assert_eq!(wait(pid), (Some(7), None));
    let pid = start("code", "exit 42");
    assert_eq!(wait(pid), (Some(42), None));
    // Its death is that of the program.
    let pid = start("kill", SERVICE);
    host.wait_for_output("kill", "ready");
    host.run(&["kill", "kill", "KILL"]).ok();
    assert_eq!(wait(pid), (None, Some(9)));
    let pid = start("killed", "echo ready; sleep 1000");
    host.wait_for_output("killed", "ready");
    kill_process(pid, Signal::KILL).expect("sent");
    assert_eq!(wait(pid), (None, Some(9)));
    until("the end of the container", || host.status("killed") == "stopped");
    for id in ["term", "code", "kill", "killed"] {
        host.run(&["delete", id]).ok();
    }
    host.assert_nothing_left();
}

#[test]
fn a_program_that_cannot_be_run_fails_in_create() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for (program, text) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc", "permission denied"),
        ("/plain", "permission denied"),
        ("./tmp/../bin/none", "no such file or directory"),
    ] {
        let bundle = host.bundle_with("b", "", |spec| spec["process"]["args"] = json!([program]));
        std::fs::write(bundle.join("rootfs/plain"), "text").expect("written");
        host.create("c", &bundle, &[]).fails_with(text);
        std::fs::remove_dir_all(bundle).expect("removed");
    }
    host.assert_nothing_left();
}

#[test]
fn programs_are_run_in_a_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    host.started("c", &host.bundle("b", SERVICE));
    let shell = |script: &str| host.run(&["exec", "c", "/bin/sh", "-c", script]);
    assert_eq!(shell("exit 9").code, Some(9));
    assert_eq!(shell("kill -15 $$").code, Some(143));
    assert_eq!(shell("echo $INHERITED; pwd; id -u").ok(), "yes\n/\n0\n");
    let with = [
        "exec",
        "--cwd",
        "/tmp",
        "--env",
        "A=b=c",
        "--env",
        "INHERITED=no",
        "--user",
        "12:34",
        "-g",
        "56",
        "c",
    ];
    let script = ["sh", "-c", "pwd; echo $A $INHERITED; id -u; id -g; id -G"];
    assert_eq!(host.run(&[&with[..], &script].concat()).ok(), "/tmp\nb=c no\n12\n34\n34 56\n");
    let caps = |more: &[&str]| {
        let all = [&["exec"], more, &["c", "cat", "/proc/self/status"]].concat();
        let text = host.run(&all).ok();
        text.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("a line").to_owned()
    };
    // Root gets all of the bounding set by executing.
    assert_eq!(
        (caps(&[]).as_str(), caps(&["--cap", "CAP_SYS_CHROOT"]).as_str()),
        ("0000000000000023", "0000000000040023")
    );
    // Others get what is asked for and nothing else.
    assert_eq!(
        (caps(&["--user", "5"]).as_str(), caps(&["--user", "5", "--cap", "CAP_SYS_CHROOT"]).as_str()),
        ("0000000000000000", "0000000000040000")
    );
    host.run(&["exec", "c", "no-such-program"])
        .fails_with("failed to load \"no-such-program\": executable file not found");
    host.run(&["exec", "c", "/etc"]).fails_with("permission denied");
    host.run(&["exec", "none", "true"]).fails_with("does not exist");
    let file = host.path("process.json");
    let process = json!({ "args": ["sh", "-c", "echo $B; exit 4"], "cwd": "/bin", "env": ["PATH=/bin", "B=c"], "user": { "uid": 5, "gid": 6 } });
    std::fs::write(&file, process.to_string()).expect("written");
    let ran = host.run(&["exec", "--process", file.to_str().expect("text"), "c"]);
    assert_eq!((ran.out.as_str(), ran.code), ("c\n", Some(4)), "{}", ran.err);
}

#[test]
fn a_program_may_be_left_to_a_process_that_ends_with_it() {
    if !can_run() {
        return;
    }
    rustix::process::set_child_subreaper(Pid::from_raw(1)).expect("children of children");
    let host = Host::new();
    host.started("c", &host.bundle("b", SERVICE));
    let (outer, inner) = (host.path("outer"), host.path("inner"));
    let files =
        ["--pid-file", outer.to_str().expect("text"), "--internal-pid-file", inner.to_str().expect("text")];
    host.run_and_leave(
        &[&["exec", "--detach"], &files[..], &["c", "sh", "-c", "sleep 1000 & wait $!; exit 5"]].concat(),
    )
    .ok();
    let number =
        |path: &Path| std::fs::read_to_string(path).expect("a file").parse::<i32>().expect("a number");
    let (outer, inner) = (number(&outer), number(&inner));
    assert!(is_alive(outer) && inner > 1);
    let table = host.run(&["ps", "c"]).ok();
    assert!(table.lines().any(|line| line.split_whitespace().nth(1) == Some(&inner.to_string())), "{table}");
    host.run(&["kill", "--pid", &inner.to_string(), "c", "KILL"]).ok();
    let pid = Pid::from_raw(outer).expect("a pid");
    let mut ended = None;
    until("its end", || {
        ended = waitpid(Some(pid), WaitOptions::NOHANG).expect("our child");
        ended.is_some()
    });
    assert_eq!(ended.and_then(|(_, status)| status.terminating_signal()), Some(9));
    host.run(&["kill", "--pid", "4000", "c", "KILL"]).fails_with("no such process");
    assert_eq!(host.status("c"), "running");
}

#[test]
fn a_container_reads_its_limits_and_is_held_to_that_on_tasks() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", SERVICE, |spec| {
        let cgroup = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] });
        spec["mounts"].as_array_mut().expect("mounts").push(cgroup);
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 256 << 20 },
            "cpu": { "quota": 50_000, "period": 100_000 },
            "pids": { "limit": 6 },
        });
    });
    host.started("c", &bundle);
    let shell = |script: &str| host.run(&["exec", "c", "/bin/sh", "-c", script]);
    let limits = shell("cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; cat /proc/self/cgroup");
    assert_eq!(limits.ok(), "268435456\n50000 100000\n6\n0::/\n");
    let written = shell("echo 9 > /sys/fs/cgroup/pids.max");
    assert!(written.err.contains("Read-only file system"), "{}", written.err);
    // The init, its sleep, this shell and three of its children are six.
    let many = shell("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait");
    assert!(many.err.contains("fork"), "{}", many.err);
    host.run(&["update", "--pids-limit", "100", "c"]).ok();
    assert_eq!(shell("cat /sys/fs/cgroup/pids.max").ok(), "100\n");
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "while :; do echo x >> /tmp/count; sleep 0.01; done");
    host.started("c", &bundle);
    let count = || std::fs::metadata(bundle.join("rootfs/tmp/count")).map_or(0, |file| file.len());
    until("some lines", || count() > 4);
    host.run(&["pause", "c"]).ok();
    assert_eq!(host.status("c"), "paused");
    host.run(&["pause", "c"]).fails_with("cannot pause container \"c\" in state paused");
    host.run(&["exec", "c", "true"]).fails_with("in state paused");
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(), before);
    host.run(&["resume", "c"]).ok();
    until("more lines", || count() > before);
    host.run(&["resume", "c"]).fails_with("container not paused");
    host.run(&["pause", "c"]).ok();
    host.run(&["kill", "c", "KILL"]).ok();
    until("its end", || host.status("c") == "stopped");
}

#[test]
fn changes_of_the_root_directory_go_through_or_stay_in_memory() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle =
        host.bundle("b", "echo new > /etc/new; touch /etc/owned; id -u > /etc/owned; chmod 600 /etc/owned");
    let path = bundle.to_str().expect("text");
    host.run(&["--overlay2=root:memory", "run", "--bundle", path, "memory"]).ok();
    assert!(!bundle.join("rootfs/etc/new").exists());
    host.run(&["run", "--bundle", path, "through"]).ok();
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/etc/new")).expect("written"), "new\n");
}

#[test]
fn names_may_be_abbreviated_and_whole_ones_come_first() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    for id in ["foo", "foobar", "quux"] {
        host.create(id, &bundle, &[]).ok();
    }
    assert_eq!(host.state("foo")["id"], "foo");
    assert_eq!(host.state("q")["id"], "quux");
    host.run(&["state", "fo"]).fails_with("ambiguous");
    host.run(&["state", "*"]).fails_with("invalid container id");
    // What is to be deleted by force is named exactly.
    host.run(&["delete", "--force", "qu"]).ok();
    assert_eq!(host.list().len(), 3);
}

#[test]
fn deleting_by_force_works_on_anything() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    host.run(&["delete", "--force", "nothing"]).ok();
    host.create("created", &bundle, &[]).ok();
    host.started("running", &bundle);
    host.started("paused", &bundle);
    host.run(&["pause", "paused"]).ok();
    host.started("corrupt", &bundle);
    let state = host.path("state/corrupt/containers/corrupt/state.json");
    std::fs::write(state, "{ \"id\": ").expect("written");
    // One that cannot be read does not keep others from being made and listed.
    host.create("other", &bundle, &[]).ok();
    assert_eq!(host.list(), ["created", "other", "paused", "running"]);
    host.run(&["state", "corrupt"]).fails_with("corrupt");
    host.run(&["delete", "--force", "created", "nothing", "running", "paused", "other", "corrupt"]).ok();
    host.assert_nothing_left();
}

#[test]
fn a_group_that_was_named_is_found_when_the_state_is_spoilt() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let name = format!("nacelle-test-{}", std::process::id());
    let bundle = host.bundle_with("b", SERVICE, |spec| {
        spec["linux"]["cgroupsPath"] = serde_json::json!(format!("/{name}/group"));
    });
    let groups = || {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut all: Vec<_> = hierarchies.map(|entry| entry.path()).collect();
        all.push("/sys/fs/cgroup".into());
        all.retain(|path| path.join(&name).is_dir());
        all
    };
    for content in ["{ \"id\": ", ""] {
        host.started("corrupt", &bundle);
        let state = host.path("state/corrupt/containers/corrupt");
        let noted = std::fs::read_to_string(state.join("cgroup.json")).expect("a file");
        assert_eq!(groups().is_empty(), noted == "null", "{noted}");
        std::fs::write(state.join("state.json"), content).expect("written");
        host.run(&["delete", "--force", "corrupt"]).ok();
        assert_eq!(groups(), Vec::<std::path::PathBuf>::new());
        host.assert_nothing_left();
    }
}

#[test]
fn what_is_left_of_a_container_is_noticed() {
    if !can_run() {
        return;
    }
    // The check that the other tests rely on finds what is there while a container is.
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    host.started("c", &bundle);
    let state = std::fs::read_to_string(host.path("state/c/containers/c/state.json")).expect("a state");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["gofer"]["pid"], json!(gofers_of(&host, "c")[0]));
    assert_eq!((&state["overlay"], &state["overlayMedia"]), (&json!("through"), &json!(["through"])));
    let groups = host.control_groups();
    assert_eq!(groups.is_empty(), state["cgroup"].is_null(), "{}", state["cgroup"]);
    assert!(groups.iter().all(|group| state["cgroup"].to_string().contains(group.to_str().expect("text"))));
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
    let (root, tmp) = (bundle.join("rootfs"), bundle.join("rootfs/tmp"));
    rustix::mount::mount_bind(&root, &tmp).expect("mounted");
    let checked = std::panic::catch_unwind(|| host.assert_nothing_left());
    rustix::mount::unmount(&tmp, rustix::mount::UnmountFlags::empty()).expect("unmounted");
    assert!(checked.is_err(), "a mount was not noticed");
    host.assert_nothing_left();
}

#[test]
fn errors_are_in_the_log_where_engines_look_for_them() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let log = host.path("log.json");
    host.run(&["--log", log.to_str().expect("text"), "--log-format", "json", "start", "none"])
        .fails_with("none");
    let text = std::fs::read_to_string(log).expect("a log");
    let line: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().expect("text").contains("container \"none\" does not exist"));
    assert!(line["time"].is_string());
}

#[test]
fn a_file_as_standard_output_is_written_where_it_is_at() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "echo middle");
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(host.path("out"))
        .expect("a file");
    file.write_all(b"first\n").expect("written");
    let mut command = host.command(&["run", "--bundle", bundle.to_str().expect("text"), "r"]);
    assert!(command.stdout(file.try_clone().expect("a copy")).status().expect("started").success());
    file.write_all(b"last\n").expect("written");
    file.rewind().expect("rewound");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("text");
    assert_eq!(text, "first\nmiddle\nlast\n");
}

#[test]
fn flags_may_follow_the_name() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "true");
    let mut command =
        host.command(&["create", "c", "--bundle", bundle.to_str().expect("text"), "--no-pivot"]);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("started").success());
    host.run(&["delete", "c", "--force"]).ok();
}

#[test]
fn an_attached_container_dies_with_its_caller() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    host.assert_attached_dies_with_its_caller();
    host.assert_nothing_left();
}

#[test]
fn of_many_who_make_one_name_one_wins() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    let spawn = |_| {
        let mut command = host.command(&["create", "--bundle", bundle.to_str().expect("text"), "c"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started")
    };
    let all: Vec<_> = (0..50).map(spawn).collect();
    let mut won = 0;
    for mut child in all {
        // The winner's container holds its standard error: only the losers' ends.
        if child.wait().expect("waited").success() {
            won += 1;
            continue;
        }
        let mut text = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
        assert_eq!(text, "nacelle: container with id \"c\" already exists\n");
    }
    assert_eq!(won, 1);
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn many_containers_at_once_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    // 200 on a machine that has time.
    let count: usize = std::env::var("NACELLE_STRESS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (host, bundle) = (&host, &bundle);
            scope.spawn(move || {
                for number in (worker..count).step_by(8) {
                    let id = format!("c{number}");
                    host.started(&id, bundle);
                    assert_eq!(host.run(&["exec", &id, "echo", "in"]).ok(), "in\n");
                    assert!(host.list().contains(&id));
                    host.run(&["kill", &id, "KILL"]).ok();
                    host.run(&["wait", &id]).ok();
                    host.run(&["delete", &id]).ok();
                }
            });
        }
    });
    host.assert_nothing_left();
}

#[test]
fn a_forced_delete_waits_for_who_is_at_the_same_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let directory = host.path("state/c/containers/c");
    std::fs::create_dir_all(&directory).expect("a directory");
    let lock = || {
        let directory = std::fs::File::open(&directory).expect("the directory");
        flock(&directory, FlockOperation::LockExclusive).expect("the lock");
        directory
    };
    let held = lock();
    host.run(&["delete", "--force", "c"]).fails_with("in use by another process");
    let gone = std::thread::scope(|scope| {
        let delete = scope.spawn(|| host.run(&["delete", "--force", "c"]));
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
        delete.join().expect("no panic")
    });
    gone.ok();
    assert!(!directory.exists());
}
