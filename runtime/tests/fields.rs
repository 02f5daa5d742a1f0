//! What fields of a specification come to inside a container.

mod bundles;

use bundles::{Host, can_run};
use serde_json::json;

#[test]
fn settings_of_namespaces_are_there_from_the_start() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "cd /proc/sys; cat kernel/shmmni kernel/sem fs/mqueue/msg_max kernel/domainname";
    let bundle = host.bundle_with("b", script, |spec| {
        spec["linux"]["sysctl"] = json!({
            "kernel.shmmni": "77",
            "kernel/sem": "1 2 3 4",
            "fs.mqueue.msg_max": "11",
            "kernel.domainname": "example.org",
            "net.ipv4.ip_unprivileged_port_start": "0",
        });
        spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "network" }));
    });
    let run = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "c"]);
    assert!(run.err.contains("linux.sysctl.net.ipv4.ip_unprivileged_port_start is ignored"), "{}", run.err);
    let lines: Vec<_> = run.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines, [vec!["77"], vec!["1", "2", "3", "4"], vec!["11"], vec!["example.org"]], "{}", run.err);
}

#[test]
fn settings_that_cannot_be_made_are_refused() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    for (name, value, text) in [
        ("vm.swappiness", "1", "sysctl \"vm.swappiness\" is not in a separate kernel namespace"),
        ("fs.mqueue.none", "1", "cannot set sysctl \"fs.mqueue.none\": it cannot be changed here"),
        ("kernel.shmmni", "many", "cannot set sysctl \"kernel.shmmni\": \"many\" is not a value for it"),
        ("kernel.hostname", "x", "conflicts with the OCI \"hostname\" field"),
        ("net.ipv4.ip_forward", "1", "is not allowed in the hosts network namespace"),
    ] {
        let bundle = host.bundle_with(name, "true", |spec| spec["linux"]["sysctl"] = json!({ name: value }));
        host.create("c", &bundle, &[]).fails_with(text);
    }
    host.assert_nothing_left();
}
