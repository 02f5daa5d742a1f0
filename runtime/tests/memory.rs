//! When memory ends: the host kills the guest process that has too much of it, and everything else goes on.

mod bundles;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bundles::{Host, can_run};
use serde_json::json;

/// What a control group of the tests may have.
const LIMIT: u64 = 64 << 20;
/// One process takes too much, three times; another lives on, and sees how the first one ended.
const HUNGRY: &str = "\
    sleep 600 & other=$!
    for round in 1 2 3; do (a=xxxxxxxx; while :; do a=$a$a; done); echo status $?; done
    kill -0 $other && echo alive
    kill $other; wait $other; echo status $?
    echo still there > /tmp/file; cat /tmp/file";
const ANSWER: &str = "status 137\nstatus 137\nstatus 137\nalive\nstatus 143\nstill there\n";

/// No process has too much, but there are too many: one of them dies, although the sandbox has more than any of them.
const CROWDED: &str = "\
    mkfifo /tmp/ends
    for number in $(seq 60); do
        ( (a=xxxxxxxx; for i in $(seq 18); do a=$a$a; done; sleep 600; :); echo status $? > /tmp/ends) &
    done
    head -n 1 /tmp/ends; echo alive; exit 3";

/// One process after the other has more than half of it: the memory of each is there again for the next.
const ONE_BY_ONE: &str = "\
    for round in $(seq 20); do (a=xxxxxxxx; for i in $(seq 21); do a=$a$a; done) || echo status $?; done; echo done";

/// What was said, without the shell's messages about who was killed.
fn answer(output: &str) -> String {
    output.lines().filter(|line| !line.contains("Killed")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_process_with_too_much_memory_dies_alone_in_a_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", HUNGRY, |spec| {
        spec["linux"]["resources"] = json!({ "memory": { "limit": LIMIT } });
    });
    let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "hungry"]);
    if ran.err.contains("no cgroup controller") {
        return bundles::skip("the host has no memory controller for us");
    }
    assert_eq!((answer(&ran.out).as_str(), ran.code), (ANSWER, Some(0)), "{}", ran.err);
    host.assert_nothing_left();
}

#[test]
fn processes_that_follow_each_other_do_not_add_up() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", ONE_BY_ONE, |spec| {
        spec["linux"]["resources"] = json!({ "memory": { "limit": LIMIT } });
    });
    let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "followers"]);
    if ran.err.contains("no cgroup controller") {
        return bundles::skip("the host has no memory controller for us");
    }
    assert_eq!((answer(&ran.out).as_str(), ran.code), ("done\n", Some(0)), "{}", ran.err);
    host.assert_nothing_left();
}

/// A control group with a limit on memory; removed at the end.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Group> {
        let name = format!("nacelle-{name}-{}", std::process::id());
        for (parent, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = Group(Path::new(parent).join(&name));
            if std::fs::create_dir(&group.0).is_ok()
                && std::fs::write(group.0.join(file), LIMIT.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Not before those in it have gone.
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Runs a script with `nacelle do` in a control group of the caller's; `None` if there is none to be had.
fn run_in_group(host: &Host, name: &str, script: &str) -> Option<Output> {
    let Some(group) = Group::new(name) else {
        bundles::skip("there is no memory controller for us");
        return None;
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let mut command = Command::new("sh");
    command.args(["-c", &enter, "sh"]);
    let nacelle = host.command(&["do", "--", "busybox", "sh", "-c", script]);
    command.arg(nacelle.get_program()).args(nacelle.get_args());
    Some(command.stdin(Stdio::null()).output().expect("a shell"))
}

#[test]
fn a_process_with_too_much_memory_dies_alone_in_a_group_of_the_caller() {
    if !can_run() {
        return;
    }
    for (host, name) in [(Host::new(), "hungry"), (Host::ordinary(), "hungry-ordinary")] {
        let Some(output) = run_in_group(&host, name, HUNGRY) else { return };
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((answer(&out).as_str(), output.status.code()), (ANSWER, Some(0)), "{name}: {error}");
    }
}

#[test]
fn it_is_a_guest_that_dies_of_many_that_are_small() {
    if !can_run() {
        return;
    }
    for (host, name) in [(Host::new(), "crowded"), (Host::ordinary(), "crowded-ordinary")] {
        let Some(output) = run_in_group(&host, name, CROWDED) else { return };
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            (answer(&out).as_str(), output.status.code()),
            ("status 137\nalive\n", Some(3)),
            "{name}: {error}"
        );
    }
}
