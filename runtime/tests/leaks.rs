//! What has come and gone leaves nothing in a sandbox that goes on: no memory, no descriptors, no threads.

mod bundles;

use bundles::{Host, SERVICE, can_run, until};
use serde_json::{Value, json};

/// Rounds before anything is measured, and between the measurements.
const WARM_UP: usize = 90;
const ROUNDS: usize = 60;

/// What a process has.
#[derive(Debug)]
struct Holdings {
    kibibytes: u64,
    descriptors: usize,
    threads: usize,
}

fn holdings(pid: i32) -> Holdings {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("a process").count();
    Holdings {
        kibibytes: anonymous.trim().trim_end_matches(" kB").parse().expect("a number"),
        descriptors: count("fd"),
        threads: count("task"),
    }
}

fn member(host: &Host, name: &str, kind: &str) -> std::path::PathBuf {
    host.bundle_with(name, SERVICE, |spec| {
        spec["annotations"] =
            json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "p" });
    })
}

#[test]
fn a_sandbox_does_not_grow_with_programs_and_containers_that_have_gone() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    host.started("p", &member(&host, "first", "sandbox"));
    let other = member(&host, "other", "container");
    let path = host.path("state/p/containers/p/state.json");
    let state: Value = serde_json::from_slice(&std::fs::read(path).expect("a state")).expect("JSON");
    let sandbox = state["sandbox"]["process"]["pid"].as_i64().expect("a pid") as i32;
    let rounds = |count: usize| {
        for _ in 0..count {
            assert_eq!(host.run(&["exec", "p", "sh", "-c", "echo $((6 * 7)) | cat"]).ok(), "42\n");
            assert_eq!(host.run(&["exec", "p", "sh", "-c", "exit 3"]).code, Some(3));
            host.started("c", &other);
            assert_eq!(host.run(&["exec", "c", "echo", "in"]).ok(), "in\n");
            host.run(&["delete", "--force", "c"]).ok();
        }
    };
    rounds(WARM_UP);
    let before = holdings(sandbox);
    rounds(ROUNDS);
    let mut after = holdings(sandbox);
    // What is closed when its last user is gone may be so a moment later.
    until("the end of what was opened", || {
        after = holdings(sandbox);
        after.descriptors <= before.descriptors + 2 && after.threads <= before.threads + 2
    });
    println!("{before:?} {after:?}");
    assert!(after.kibibytes <= before.kibibytes * 105 / 100 + 64, "{before:?} {after:?}");
    host.run(&["delete", "--force", "p"]).ok();
    host.assert_nothing_left();
}
