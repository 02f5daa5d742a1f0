//! Looking into a container from outside: what memory it takes.

mod bundles;

use bundles::{Host, can_run};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn usage(host: &Host, id: &str) -> Value {
    serde_json::from_str(&host.run(&["usage", "--full", id]).ok()).expect("JSON")
}

fn bytes(usage: &Value, kind: &str) -> u64 {
    usage[kind].as_u64().expect("a number")
}

#[test]
fn the_memory_of_a_sandbox_is_told_by_kinds() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "trap 'unset held; echo freed' USR1; held=$(dd if=/dev/zero bs=1M count=16 2>&- | tr '\\0' x); \
                  echo ready; while :; do sleep 0.05; done";
    let bundle = host.bundle_with("b", script, |spec| {
        let memory = json!({ "destination": "/m", "type": "tmpfs", "source": "tmpfs" });
        spec["mounts"].as_array_mut().expect("a list").push(memory);
    });
    host.started("c", &bundle);
    host.wait_for_output("c", "ready");
    let before = usage(&host, "c");
    assert!(bytes(&before, "Anonymous") >= 16 * MIB, "{before}");
    // The program itself, which is a file of the host.
    assert!((64 << 10..8 * MIB).contains(&bytes(&before, "Mapped")), "{before}");
    assert!((256 << 10..64 * MIB).contains(&bytes(&before, "System")), "{before}");
    assert!(bytes(&before, "Tmpfs") < MIB, "{before}");
    for nothing in ["Unknown", "PageCache", "Ramdiskfs"] {
        assert_eq!(before[nothing], 0, "{nothing}");
    }
    let sum: u64 =
        ["System", "Anonymous", "PageCache", "Mapped", "Tmpfs"].map(|kind| bytes(&before, kind)).iter().sum();
    assert_eq!(bytes(&before, "Total"), sum);

    let shell = |script: &str| host.run(&["exec", "c", "/bin/sh", "-c", script]).ok();
    shell(
        "dd if=/dev/zero of=/m/large bs=1M count=24 2>&-; for i in 1 2 3 4; do dd if=/dev/zero of=/m/$i bs=60k count=1 2>&-; done",
    );
    let filled = usage(&host, "c");
    let files = 24 * MIB + 4 * (60 << 10);
    assert!((files..files + MIB).contains(&bytes(&filled, "Tmpfs")), "{filled}");
    shell("rm -r /m/*");
    host.run(&["kill", "c", "USR1"]).ok();
    host.wait_for_output("c", "freed");
    let after = usage(&host, "c");
    assert!(bytes(&after, "Tmpfs") < MIB, "{after}");
    assert!(bytes(&after, "Anonymous") + 15 * MIB < bytes(&filled, "Anonymous"), "{filled} {after}");

    let summary: Value = serde_json::from_str(&host.run(&["usage", "c"]).ok()).expect("JSON");
    assert!(bytes(&summary, "Mapped") > 0 && bytes(&summary, "Unknown") > MIB, "{summary}");
    assert_eq!(bytes(&summary, "Mapped") + bytes(&summary, "Unknown"), bytes(&summary, "Total"));
    assert_eq!(bytes(&summary, "Anonymous"), 0);
    let line = host.run(&["usage", "--fd", "c"]).ok();
    let numbers: Vec<u64> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    assert_eq!(
        line.trim(),
        format!("Mapped {}, Unknown {}, Total {}", numbers[0], numbers[1], numbers[0] + numbers[1])
    );

    host.run(&["kill", "c", "KILL"]).ok();
    bundles::until("its end", || host.status("c") == "stopped");
    host.run(&["usage", "c"]).fails_with("container not running");
    host.run(&["usage", "nobody"]).fails_with("does not exist");
}
