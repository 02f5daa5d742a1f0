//! Pods: several containers in one sandbox. Each has its own life; they share what the specification says.

mod bundles;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use bundles::{Host, SERVICE, can_run, compile_meet, gofers_of, is_alive, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A pod called `p`, whose first container runs.
struct Pod {
    host: Host,
}

fn annotate(spec: &mut Value, kind: &str) {
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.sandbox-id": "p",
    });
}

impl Pod {
    fn new() -> Pod {
        let host = Host::new();
        let bundle = host.bundle_with("p-bundle", SERVICE, |spec| annotate(spec, "sandbox"));
        host.started("p", &bundle);
        host.wait_for_output("p", "ready");
        Pod { host }
    }

    /// A bundle for a further container.
    fn bundle(&self, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        self.host.bundle_with(&format!("{id}-bundle"), script, |spec| {
            annotate(spec, "container");
            change(spec);
        })
    }

    /// Makes and starts a further container that runs until it is ended.
    #[track_caller]
    fn add(&self, id: &str, change: impl FnOnce(&mut Value)) {
        self.host.started(id, &self.bundle(id, SERVICE, change));
        self.host.wait_for_output(id, "ready");
    }

    #[track_caller]
    fn shell(&self, id: &str, script: &str) -> String {
        self.host.run(&["exec", id, "sh", "-c", script]).ok()
    }

    /// The process with the kernel in it, as the state of a container has it.
    fn sandbox_pid(&self, id: &str) -> i32 {
        let path = self.host.path(&format!("state/p/containers/{id}/state.json"));
        let state: Value = serde_json::from_slice(&std::fs::read(path).expect("a state")).expect("JSON");
        state["sandbox"]["process"]["pid"].as_i64().expect("a pid") as i32
    }

    /// Fails unless a container runs programs.
    #[track_caller]
    fn assert_works(&self, id: &str) {
        assert_eq!(self.shell(id, "echo $((6 * 7))"), "42\n", "{id}");
        assert_eq!(self.host.status(id), "running", "{id}");
    }

    /// Deletes all of it.
    #[track_caller]
    fn end(self, others: &[&str]) {
        self.host.run(&[&["delete", "--force"], others, &["p"]].concat()).ok();
        self.host.assert_nothing_left();
    }
}

/// Leaves a kind of namespace out of a specification, which then means that of the sandbox.
fn share(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"].as_array_mut().expect("a list").retain(|namespace| namespace["type"] != kind);
}

/// Numbers in the second column of `ps`.
fn pids(host: &Host, id: &str) -> BTreeSet<i32> {
    let table = host.run(&["ps", id]).ok();
    let rows = table.lines().skip(1);
    rows.map(|row| row.split_whitespace().nth(1).expect("a pid").parse().expect("a number")).collect()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("sent");
}

#[test]
fn containers_of_a_pod_share_a_sandbox_and_have_the_rest_of_their_own() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |spec| spec["hostname"] = json!("alpha"));
    pod.add("b", |_| {});
    let sandboxes: BTreeSet<_> = ["p", "a", "b"].into_iter().map(|id| pod.sandbox_pid(id)).collect();
    assert_eq!(sandboxes.len(), 1);
    // But engines see a process for each, with its own root.
    let stand_ins: BTreeSet<_> = ["p", "a", "b"].into_iter().map(|id| pod.host.pid(id)).collect();
    assert_eq!(stand_ins.len(), 3);
    assert!(stand_ins.is_disjoint(&sandboxes));
    pod.shell("a", "echo of a > /tmp/file");
    assert_eq!(pod.host.run(&["exec", "b", "cat", "/tmp/file"]).code, Some(1));
    for (id, expected) in [("a", true), ("b", false), ("p", false)] {
        let seen = format!("/proc/{}/root/tmp/file", pod.host.pid(id));
        assert_eq!(std::path::Path::new(&seen).exists(), expected, "{id}");
    }
    assert_eq!(pod.shell("a", "hostname; cat /proc/1/cmdline | tr '\\0' ' '").lines().next(), Some("alpha"));
    assert_eq!(pod.shell("b", "hostname"), "b\n");
    for id in ["p", "a", "b"] {
        assert!(pids(&pod.host, id).contains(&1), "{id} has no first process");
        assert_eq!(gofers_of(&pod.host, id).len(), 1, "{id}");
    }
    assert_eq!(pod.host.list(), ["a", "b", "p"]);
    assert_eq!(pod.host.run(&["list", "--quiet", "--sandbox"]).ok(), "p\n");
    pod.end(&["a", "b"]);
}

#[test]
fn containers_of_a_pod_may_share_namespaces() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    for (id, kind) in [("pids", "pid"), ("names", "uts"), ("objects", "ipc")] {
        pod.add(id, |spec| share(spec, kind));
    }
    let first_in = |id| pod.shell(id, "cat /proc/1/cmdline | tr '\\0' ' '");
    let links =
        |id| pod.shell(id, "cd /proc/self/ns; for n in pid uts ipc; do ls -l $n; done | sed 's/.*-> //'");
    let [own, pids_, names, objects] =
        ["p", "pids", "names", "objects"].map(|id| links(id).lines().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!((pids_[0] == own[0], pids_[1] == own[1], pids_[2] == own[2]), (true, false, false));
    assert_eq!((names[0] == own[0], names[1] == own[1], names[2] == own[2]), (false, true, false));
    assert_eq!((objects[0] == own[0], objects[1] == own[1], objects[2] == own[2]), (false, false, true));
    assert_eq!(first_in("pids"), first_in("p"));
    assert_eq!(pod.shell("names", "hostname"), "p\n");
    // Each still tells of its own processes only.
    assert!(pids(&pod.host, "pids").is_disjoint(&pids(&pod.host, "p")));
    pod.end(&["pids", "names", "objects"]);
}

#[test]
fn a_container_may_join_the_processes_of_one_that_a_path_names() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("target", |_| {});
    let join = |spec: &mut Value, pid: i32| {
        share(spec, "pid");
        let namespace = json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") });
        spec["linux"]["namespaces"].as_array_mut().expect("a list").push(namespace);
    };
    pod.add("debug", |spec| join(spec, pod.host.pid("target")));
    pod.add("beside", |spec| join(spec, pod.host.pid("p")));
    let namespace = |id| pod.shell(id, "ls -l /proc/self/ns/pid | sed 's/.*-> //'");
    assert_eq!(namespace("debug"), namespace("target"));
    assert_eq!(namespace("beside"), namespace("p"));
    assert_ne!(namespace("debug"), namespace("beside"));
    // Whoever joins leaves the others alone when it ends.
    pod.host.run(&["delete", "--force", "debug"]).ok();
    pod.assert_works("target");
    pod.end(&["target", "beside"]);
}

#[test]
fn a_process_of_another_container_cannot_be_signalled() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |spec| share(spec, "pid"));
    let theirs = *pids(&pod.host, "p").first().expect("a process");
    pod.host.run(&["kill", "--pid", &theirs.to_string(), "a", "KILL"]).fails_with("no such process");
    let own = *pids(&pod.host, "a").first().expect("a process");
    pod.host.run(&["kill", "--pid", &own.to_string(), "p", "KILL"]).fails_with("no such process");
    pod.assert_works("p");
    pod.host.run(&["kill", "--pid", &own.to_string(), "a", "KILL"]).ok();
    until("the end of a", || pod.host.status("a") == "stopped");
    pod.assert_works("p");
    pod.end(&["a"]);
}

#[test]
fn many_may_wait_for_a_container_of_a_pod_and_again() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    let waiting = |_| pod.host.command(&["wait", "a"]).stdout(Stdio::piped()).spawn().expect("started");
    let waiters: Vec<_> = (0..4).map(waiting).collect();
    pod.host.run(&["kill", "a", "TERM"]).ok();
    for waiter in waiters {
        let output = waiter.wait_with_output().expect("waited");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"id\":\"a\",\"exitStatus\":7}\n");
    }
    assert_eq!(pod.host.run(&["wait", "a"]).ok(), "{\"id\":\"a\",\"exitStatus\":7}\n");
    pod.assert_works("p");
    pod.end(&["a"]);
}

#[test]
fn the_end_of_a_further_program_is_told_once() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    let execute = |id: &str| {
        let file = pod.host.path("inner");
        let name = file.to_str().expect("text");
        let script = "sleep 0.05; exit 5";
        pod.host
            .run_and_leave(&["exec", "--detach", "--internal-pid-file", name, id, "sh", "-c", script])
            .ok();
        std::fs::read_to_string(file).expect("a pid")
    };
    let number = execute("a");
    assert_eq!(pod.host.run(&["wait", "--pid", &number, "a"]).ok(), "{\"id\":\"a\",\"exitStatus\":5}\n");
    pod.host.run(&["wait", "--pid", &number, "a"]).fails_with("no such process");
    let number = execute("p");
    assert_eq!(pod.host.run(&["wait", "--rootpid", &number, "a"]).ok(), "{\"id\":\"a\",\"exitStatus\":5}\n");
    pod.host.run(&["wait", "--rootpid", &number, "a"]).fails_with("no such process");
    pod.end(&["a"]);
}

#[test]
fn a_signal_reaches_one_container_of_a_pod_only() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    pod.add("b", |_| {});
    let (stand_in, gofer) = (pod.host.pid("b"), gofers_of(&pod.host, "b"));
    pod.host.run(&["kill", "b", "KILL"]).ok();
    assert_eq!(pod.host.run(&["wait", "b"]).ok(), "{\"id\":\"b\",\"exitStatus\":137}\n");
    assert!(!is_alive(stand_in));
    assert_eq!(pod.host.status("b"), "stopped");
    pod.assert_works("a");
    pod.assert_works("p");
    pod.host.run(&["kill", "b", "TERM"]).fails_with("container not running");
    pod.host.run(&["delete", "b"]).ok();
    until("the end of its gofer", || !gofer.iter().copied().any(is_alive));
    pod.host.run(&["kill", "b", "TERM"]).fails_with("does not exist");
    pod.host.run(&["delete", "b"]).fails_with("does not exist");
    // The name is free again.
    pod.host.run(&["exec", "b", "true"]).fails_with("does not exist");
    std::fs::remove_dir_all(pod.host.path("b-bundle")).expect("removed");
    pod.add("b", |_| {});
    pod.assert_works("b");
    pod.end(&["a", "b"]);
}

#[test]
fn all_processes_of_a_container_are_killed_and_none_of_another() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let tree = "sh -c 'sh -c \"sleep 1000; true\" & sleep 1000; true' & sleep 1000 & echo ready; wait";
    pod.host.started("tree", &pod.bundle("tree", tree, |spec| share(spec, "pid")));
    pod.host.wait_for_output("tree", "ready");
    pod.host.run_and_leave(&["exec", "--detach", "tree", "sleep", "1000"]).ok();
    until("the whole tree", || pids(&pod.host, "tree").len() == 7);
    let (all, others) = (pids(&pod.host, "tree"), pids(&pod.host, "p"));
    assert!(all.is_disjoint(&others));
    pod.host.run(&["kill", "--all", "tree", "KILL"]).ok();
    // None is left when the command returns: the other container sees them all in their shared namespace.
    let seen = pod.shell("p", "cat /proc/[0-9]*/stat 2>&-; true");
    // But for those that its first process has not waited for yet.
    let running = seen.lines().filter(|line| !line.contains(") Z "));
    let running: BTreeSet<i32> =
        running.map(|line| line.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")).collect();
    assert!(running.len() > 1 && running.is_disjoint(&all), "{seen} {all:?}");
    assert_eq!(pod.host.status("tree"), "stopped");
    pod.host.run(&["kill", "--all", "tree", "KILL"]).ok();
    pod.assert_works("p");
    pod.end(&["tree"]);
}

#[test]
fn processes_that_outlive_the_first_of_their_container_end_with_it() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let script = "sleep 1000 & echo ready; exit 3";
    pod.host.started("a", &pod.bundle("a", script, |spec| share(spec, "pid")));
    assert_eq!(pod.host.run(&["wait", "a"]).ok(), "{\"id\":\"a\",\"exitStatus\":3}\n");
    until("the end of the rest", || !pod.shell("p", "ps -o args").contains("sleep 1000"));
    pod.host.run(&["kill", "--all", "a", "KILL"]).ok();
    pod.end(&["a"]);
}

#[test]
fn a_container_of_a_pod_that_is_deleted_takes_all_that_is_its_own() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |spec| share(spec, "pid"));
    let (stand_in, gofers) = (pod.host.pid("a"), gofers_of(&pod.host, "a"));
    let own = pids(&pod.host, "a");
    pod.host.run(&["delete", "a"]).fails_with("that is not stopped");
    pod.host.run(&["delete", "--force", "a"]).ok();
    assert!(!is_alive(stand_in));
    until("the end of its gofer", || !gofers.iter().copied().any(is_alive));
    // What is left of children is there until the first process of the namespace has waited for them.
    until("the end of its processes", || {
        let seen = pod.shell("p", "cd /proc; echo [0-9]*");
        !seen.split_whitespace().any(|pid| own.contains(&pid.parse().expect("a number")))
    });
    assert_eq!(pod.host.list(), ["p"]);
    // One that was never started, too.
    std::fs::remove_dir_all(pod.host.path("a-bundle")).expect("removed");
    let bundle = pod.bundle("a", SERVICE, |_| {});
    pod.host.create("a", &bundle, &[]).ok();
    assert_eq!(pod.host.status("a"), "created");
    pod.host.run(&["delete", "a"]).ok();
    assert_eq!(pod.host.list(), ["p"]);
    pod.assert_works("p");
    pod.end(&[]);
}

#[test]
fn a_pod_ends_with_its_first_container() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    let bundle = pod.bundle("b", SERVICE, |_| {});
    pod.host.create("b", &bundle, &[]).ok();
    let (stand_in, sandbox) = (pod.host.pid("a"), pod.sandbox_pid("a"));
    pod.host.run(&["kill", "p", "KILL"]).ok();
    until("the end of the sandbox", || !is_alive(sandbox));
    until("the end of the others", || !is_alive(stand_in));
    for id in ["p", "a", "b"] {
        until("the end of all", || pod.host.status(id) == "stopped");
    }
    assert_eq!(pod.host.run(&["wait", "a"]).ok(), "{\"id\":\"a\",\"exitStatus\":137}\n");
    pod.host.run(&["exec", "a", "true"]).fails_with("container not running");
    // In whatever order.
    for id in ["p", "a", "b"] {
        pod.host.run(&["delete", id]).ok();
    }
    pod.host.assert_nothing_left();
}

#[test]
fn a_pod_whose_sandbox_was_killed_can_be_seen_and_deleted() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    pod.host.run(&["pause", "a"]).ok();
    kill(pod.sandbox_pid("p"));
    for id in ["p", "a"] {
        until("the end", || pod.host.status(id) == "stopped");
    }
    pod.host.run(&["exec", "a", "true"]).fails_with("container not running");
    let bundle = pod.bundle("late", SERVICE, |_| {});
    assert_eq!(pod.host.create("late", &bundle, &[]).code, Some(1));
    assert_eq!(pod.host.list(), ["a", "p"]);
    pod.host.run(&["delete", "p"]).ok();
    pod.host.run(&["delete", "a"]).ok();
    pod.host.assert_nothing_left();
}

#[test]
fn a_gofer_that_dies_takes_its_own_container_only() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    pod.add("b", |_| {});
    kill(gofers_of(&pod.host, "a")[0]);
    until("the end of a", || pod.host.status("a") == "stopped");
    pod.assert_works("b");
    pod.assert_works("p");
    // The first one's takes all.
    kill(gofers_of(&pod.host, "p")[0]);
    for id in ["p", "b"] {
        until("the end of all", || pod.host.status(id) == "stopped");
    }
    pod.end(&["a", "b"]);
}

#[test]
fn a_container_joins_no_pod_that_is_not_there() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", SERVICE, |spec| annotate(spec, "container"));
    host.create("a", &bundle, &[]).fails_with("sandbox \"p\" does not exist");
    host.assert_nothing_left();
    let bundle = host.bundle_with("c", SERVICE, |spec| {
        spec["annotations"] = json!({ "io.kubernetes.cri.container-type": "nonsense" });
    });
    host.create("a", &bundle, &[]).fails_with("nonsense");
    host.assert_nothing_left();
}

#[test]
fn pods_whose_names_begin_alike_are_kept_apart() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let other = pod.host.bundle_with("pp-bundle", SERVICE, |spec| {
        annotate(spec, "sandbox");
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("pp");
    });
    pod.host.started("pp", &other);
    pod.add("a", |_| {});
    // A name is one container's, whatever its sandbox.
    let bundle = pod.bundle("again", SERVICE, |spec| {
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("pp");
    });
    pod.host.create("a", &bundle, &[]).fails_with("already exists");
    pod.host.run(&["delete", "--force", "p", "a"]).ok();
    pod.assert_works("pp");
    pod.host.run(&["delete", "--force", "pp"]).ok();
    pod.host.assert_nothing_left();
}

#[test]
fn one_container_of_a_pod_is_paused_alone() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let script = "while :; do echo x >> /tmp/count; sleep 0.01; done";
    let counting = ["a", "b"].map(|id| {
        let bundle = pod.bundle(id, script, |_| {});
        pod.host.started(id, &bundle);
        bundle.join("rootfs/tmp/count")
    });
    let count = |of: usize| std::fs::metadata(&counting[of]).map_or(0, |file| file.len());
    until("some lines", || count(0) > 2 && count(1) > 2);
    pod.host.run(&["pause", "a"]).ok();
    let (held, other) = (count(0), count(1));
    until("more lines of the other", || count(1) > other + 20);
    assert_eq!(count(0), held);
    assert_eq!((pod.host.status("a").as_str(), pod.host.status("b").as_str()), ("paused", "running"));
    pod.host.run(&["resume", "a"]).ok();
    until("more lines", || count(0) > held);
    pod.end(&["a", "b"]);
}

/// Shows a directory of the host to a container, in two places.
fn show(spec: &mut Value, directory: &std::path::Path, option: &str) {
    for destination in ["/shared", "/dev/shm"] {
        spec["mounts"].as_array_mut().expect("a list").push(json!({
            "destination": destination, "type": "bind", "source": directory, "options": ["rbind", option],
        }));
    }
}

#[test]
fn directories_may_be_shared_between_containers_of_a_pod() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let volume = pod.host.path("volume");
    std::fs::create_dir(&volume).expect("a directory");
    pod.add("writer", |spec| show(spec, &volume, "rw"));
    pod.add("reader", |spec| show(spec, &volume, "ro"));
    pod.shell("writer", "echo one > /shared/file; mkfifo /shared/pipe");
    assert_eq!(pod.shell("reader", "cat /shared/file /dev/shm/file"), "one\none\n");
    let refused = pod.host.run(&["exec", "reader", "sh", "-c", "echo x > /shared/file"]);
    assert!(refused.err.contains("Read-only file system"), "{}", refused.err);
    // Through a pipe, too: it is one kernel.
    pod.host.run_and_leave(&["exec", "--detach", "writer", "sh", "-c", "echo through > /shared/pipe"]).ok();
    assert_eq!(pod.shell("reader", "cat /shared/pipe"), "through\n");
    // It outlives a container.
    pod.host.run(&["delete", "--force", "writer"]).ok();
    std::fs::remove_dir_all(pod.host.path("writer-bundle")).expect("removed");
    pod.add("writer", |spec| show(spec, &volume, "rw"));
    assert_eq!(pod.shell("writer", "cat /shared/file"), "one\n");
    pod.end(&["writer", "reader"]);
}

#[test]
fn a_container_of_a_pod_may_run_as_another_user() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let closed = pod.host.path("closed");
    let volume = closed.join("volume");
    std::fs::create_dir_all(&volume).expect("a directory");
    for (path, mode) in [(&volume, 0o777), (&closed, 0o700)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("ours");
    }
    pod.add("a", |spec| {
        spec["process"]["user"] = json!({ "uid": 343, "gid": 2401 });
        spec["process"]["capabilities"] = json!({});
        spec["process"]["env"] = json!(["PATH=/bin", "TWICE=1", "TWICE=2"]);
        show(spec, &volume, "rw");
    });
    let script = "id -u; id -g; echo $TWICE $HOME; echo mine > /shared/file; stat -c '%u %g' /shared/file";
    assert_eq!(pod.shell("a", script), "343\n2401\n2 /\n343 2401\n");
    pod.assert_works("p");
    pod.end(&["a"]);
}

#[test]
fn a_file_that_containers_of_a_pod_share_is_one_file() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let volume = pod.host.path("volume");
    std::fs::create_dir(&volume).expect("a directory");
    if !compile_meet(&volume.join("meet")) {
        return pod.end(&[]);
    }
    pod.add("a", |spec| show(spec, &volume, "rw"));
    pod.add("b", |spec| show(spec, &volume, "rw"));
    pod.shell("a", "echo passed > /tmp/own; touch /shared/file");
    // A socket of one is reached by the other, and files pass through it.
    let listen = ["exec", "--detach", "a", "/shared/meet", "listen", "/shared/socket", "/tmp/own"];
    pod.host.run_and_leave(&listen).ok();
    until("the socket", || {
        let connected = pod.host.run(&["exec", "b", "/shared/meet", "connect", "/dev/shm/socket"]);
        connected.out == "passed\n"
    });
    // A lock of one keeps the other out.
    assert_eq!(pod.shell("b", "/shared/meet try /dev/shm/file"), "free\n");
    let hold = ["exec", "--detach", "a", "/shared/meet", "hold", "/shared/file", "/shared/held"];
    pod.host.run_and_leave(&hold).ok();
    until("the lock", || volume.join("held").exists());
    assert_eq!(pod.shell("b", "/shared/meet try /dev/shm/file"), "locked\n");
    pod.host.run(&["delete", "--force", "a"]).ok();
    assert_eq!(pod.shell("b", "/shared/meet try /dev/shm/file"), "free\n");
    pod.end(&["b"]);
}

#[test]
fn statistics_are_those_of_one_container() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let script = "sleep 1000 & sleep 1000 & sleep 1000 & echo ready; wait";
    pod.host.started("a", &pod.bundle("a", script, |_| {}));
    pod.host.wait_for_output("a", "ready");
    let tasks = |id| {
        let event: Value =
            serde_json::from_str(&pod.host.run(&["events", "--stats", id]).ok()).expect("JSON");
        assert_eq!(event["id"], id);
        event["data"]["pids"]["current"].as_u64().expect("a number")
    };
    until("its tasks", || tasks("a") == 4);
    until("its tasks", || (1..=2).contains(&tasks("p")));
    pod.host.run(&["delete", "--force", "a"]).ok();
    pod.host.run(&["events", "--stats", "a"]).fails_with("does not exist");
    pod.end(&[]);
}

#[test]
fn each_container_of_a_pod_has_its_own_seccomp_filter() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("filtered", |spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30 }],
        });
    });
    pod.add("free", |_| {});
    let ran = pod.host.run(&["exec", "filtered", "mkdir", "/tmp/d"]);
    assert!(ran.err.contains("Read-only file system"), "{}", ran.err);
    pod.shell("free", "mkdir /tmp/d");
    pod.end(&["filtered", "free"]);
}

#[test]
fn containers_of_a_pod_come_and_go_all_at_once() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    let bundle = pod.bundle("many", SERVICE, |_| {});
    for round in 0..2 {
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (pod, bundle) = (&pod, &bundle);
                scope.spawn(move || {
                    let id = format!("c{round}-{number}");
                    pod.host.create(&id, bundle, &[]).ok();
                    // Half of them are deleted before they have been started, or while they are.
                    if number % 4 == 3 {
                        pod.host.run(&["delete", "--force", &id]).ok();
                        return;
                    }
                    if number % 4 == 2 {
                        let mut start = pod.host.command(&["start", &id]);
                        let mut start = start.stderr(Stdio::null()).spawn().expect("started");
                        pod.host.run(&["delete", "--force", &id]).ok();
                        start.wait().expect("waited");
                        return;
                    }
                    pod.host.run(&["start", &id]).ok();
                    assert_eq!(pod.shell(&id, "echo in"), "in\n");
                    pod.host.run(&["delete", "--force", &id]).ok();
                });
            }
        });
        assert_eq!(pod.host.list(), ["p"]);
    }
    pod.assert_works("p");
    pod.end(&[]);
}

/// Lines of `/proc/PID/cgroup` of hierarchies with limits.
fn groups_of(pid: i32) -> BTreeSet<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let limited =
        |line: &&str| !line.contains(":name=") && (!line.contains("::") || !text.contains(":memory:"));
    text.lines().filter(limited).map(str::to_owned).collect()
}

#[test]
fn programs_of_a_pod_run_in_the_groups_of_their_own_containers() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    pod.add("b", |_| {});
    let mut all: Vec<i32> = Vec::new();
    for (id, seconds) in [("a", 1), ("b", 2), ("p", 3)] {
        // A number that no other program has.
        let argument = format!("8{seconds}{:06}", std::process::id());
        let script = format!("sleep {argument} >/dev/null 2>&1 &");
        pod.shell(id, &script);
        let command = format!("sleep\0{argument}\0");
        let mut found = Vec::new();
        until("the program", || {
            found = bundles::processes_with(&command);
            !found.is_empty()
        });
        let told = pod.host.run(&["ps", "--format", "json", id]).ok();
        let told: Vec<i32> = serde_json::from_str(&told).expect("JSON");
        assert!(told.contains(&found[0]), "{id}: {told:?}");
        // And no other container's.
        assert!(all.iter().all(|other| !told.contains(other)), "{id}: {told:?} {all:?}");
        all.extend(told);
        let stand_in = groups_of(pod.host.pid(id));
        assert!(!stand_in.is_empty());
        assert_eq!(groups_of(found[0]), stand_in, "{id}");
        let gofers = gofers_of(&pod.host, id);
        assert_eq!(groups_of(gofers[0]), stand_in, "the gofer of {id}");
    }
    pod.end(&["a", "b"]);
}

#[test]
fn a_memory_limit_of_a_container_of_a_pod_is_its_own() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |_| {});
    pod.add("b", |spec| spec["linux"]["resources"] = json!({ "memory": { "limit": 48 << 20 } }));
    let greedy =
        r#"busybox awk 'BEGIN { x = "0123456789abcdef"; for (i = 0; i < 24; i++) x = x x }'; echo $?"#;
    for _ in 0..3 {
        assert_eq!(pod.shell("b", greedy), "137\n");
    }
    for id in ["p", "a", "b"] {
        pod.assert_works(id);
    }
    let stats = |id: &str| -> Value {
        serde_json::from_str(&pod.host.run(&["events", "--stats", id]).ok()).expect("JSON")
    };
    let before = stats("a");
    assert_eq!(stats("b")["data"]["memory"]["usage"]["limit"], json!(48 << 20));
    assert_eq!(pod.shell("a", greedy), "0\n");
    let after = stats("a");
    let number = |stats: &Value, path: &str| stats.pointer(path).and_then(Value::as_u64).expect("a number");
    let peak = "/data/memory/usage/max";
    assert!(number(&after, peak) > 200 << 20, "{after}");
    // Some allocations of the host may go beyond.
    assert!(number(&stats("b"), peak) < 64 << 20);
    let used = "/data/cpu/usage/total";
    assert!(number(&after, used) > number(&before, used));
    pod.end(&["a", "b"]);
}

#[test]
fn a_program_is_waited_for_by_its_pid_in_the_first_container() {
    if !can_run() {
        return;
    }
    let pod = Pod::new();
    pod.add("a", |spec| share(spec, "pid"));
    let file = pod.host.path("inner");
    let flags = ["exec", "--detach", "--internal-pid-file", file.to_str().expect("text")];
    pod.host.run_and_leave(&[&flags[..], &["a", "sh", "-c", "exit 9"]].concat()).ok();
    let pid = std::fs::read_to_string(&file).expect("a pid");
    for id in ["a", "p"] {
        let waited = pod.host.run(&["wait", "--rootpid", &pid, id]);
        // Once: then it is forgotten.
        if id == "a" {
            assert!(waited.ok().contains("\"exitStatus\":9"));
        } else {
            waited.fails_with("no such process");
        }
    }
    pod.end(&["a"]);
}
