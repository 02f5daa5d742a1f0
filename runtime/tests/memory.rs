//! When memory ends: the host kills the guest process that has too much of it, and everything else goes on.

mod bundles;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// A control group with a limit on memory; removed at the end.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Group> {
        let name = format!("nacelle-memory-{}", std::process::id());
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

#[test]
fn a_process_with_too_much_memory_dies_alone_in_a_group_of_the_caller() {
    if !can_run() {
        return;
    }
    let Some(group) = Group::new() else {
        return bundles::skip("there is no memory controller for us");
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &enter,
        "sh",
        env!("CARGO_BIN_EXE_nacelle"),
        "do",
        "--",
        "busybox",
        "sh",
        "-c",
        HUNGRY,
    ]);
    let output = command.stdin(Stdio::null()).output().expect("a shell");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((answer(&out).as_str(), output.status.code()), (ANSWER, Some(0)), "{error}");
}
