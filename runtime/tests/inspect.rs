//! Looking into a container from outside: what memory it takes, and what is in its files.

mod bundles;

use bundles::{Host, can_run, until};
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
    // What the shell shares with its `sleep` counts by half if that ends while it is counted.
    let mut before = Value::Null;
    until("the memory of the shell", || {
        before = usage(&host, "c");
        bytes(&before, "Anonymous") >= 16 * MIB
    });
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
    assert!(bytes(&after, "Anonymous") + 15 * MIB < bytes(&before, "Anonymous"), "{before} {after}");

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

#[test]
fn a_file_of_a_container_is_read_from_outside() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "echo in the layer > /made; echo in memory > /m/file; ln -s /m/file /link; ln -s /etc/secret /out; \
                  mkfifo /fifo; ln -s loop /loop; echo ready; while :; do sleep 0.05; done";
    let volume = host.path("volume");
    std::fs::create_dir(&volume).expect("a directory");
    std::fs::write(volume.join("file"), "0123456789").expect("written");
    // What a link of the container names is the container's, not the host's.
    std::os::unix::fs::symlink("/etc/hostname", volume.join("host")).expect("a link");
    for layer in ["none", "root:memory"] {
        for direct in ["true", "false"] {
            let bundle = host.bundle_with(&format!("b-{layer}-{direct}"), script, |spec| {
                let mounts = spec["mounts"].as_array_mut().expect("a list");
                mounts.push(json!({ "destination": "/m", "type": "tmpfs", "source": "tmpfs" }));
                mounts.push(json!({ "destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "ro"] }));
            });
            std::fs::write(bundle.join("rootfs/big"), "x".repeat(300_000)).expect("written");
            let (overlay, directfs) = (format!("--overlay2={layer}"), format!("--directfs={direct}"));
            let output = std::fs::File::create(host.path("c.out")).expect("a file");
            let path = bundle.to_str().expect("text");
            let made =
                host.command(&[&overlay, &directfs, "create", "--bundle", path, "c"]).stdout(output).status();
            assert!(made.expect("it starts").success());
            let read = |more: &[&str]| host.run(&[&["read"], more].concat());
            assert_eq!(read(&["c", "/v/file"]).ok(), "0123456789", "before it is started");
            host.run(&["start", "c"]).ok();
            host.wait_for_output("c", "ready");
            assert_eq!(read(&["c", "/made"]).ok(), "in the layer\n");
            assert_eq!(read(&["c", "../../made"]).ok(), "in the layer\n");
            assert_eq!(read(&["c", "/link"]).ok(), "in memory\n");
            assert_eq!(read(&["--offset", "3", "c", "/v/file"]).ok(), "3456789");
            assert_eq!(read(&["--offset", "3", "--size", "4", "c", "/v/file"]).ok(), "3456");
            assert_eq!(read(&["--offset", "11", "c", "/v/file"]).ok(), "");
            assert_eq!(read(&["--size", "0", "c", "/v/file"]).ok(), "");
            assert_eq!(read(&["c", "/big"]).ok().len(), 300_000);
            for (file, reason) in [
                ("/missing", "cannot read /missing in container \"c\": No such file or directory"),
                ("/v", "it is a directory"),
                ("/out", "No such file or directory"),
                ("/v/host", "No such file or directory"),
                ("/v/../../../../etc/hostname", "No such file or directory"),
                ("/v/file/x", "Not a directory"),
                ("/fifo", "it is no regular file"),
                ("/proc/version", "it tells of whoever reads it"),
                ("/loop", "Too many symbolic links"),
                ("", "No such file or directory"),
            ] {
                read(&["c", file]).fails_with(reason);
            }
            host.run(&["pause", "c"]).ok();
            assert_eq!(read(&["c", "/made"]).ok(), "in the layer\n");
            host.run(&["kill", "c", "KILL"]).ok();
            bundles::until("its end", || host.status("c") == "stopped");
            read(&["c", "/made"]).fails_with("container not running");
            host.run(&["delete", "c"]).ok();
        }
    }
    host.run(&["read", "nobody", "/made"]).fails_with("does not exist");
    host.assert_nothing_left();
}

#[test]
fn the_control_group_of_a_container_is_read_from_outside() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", bundles::SERVICE, |spec| {
        let group = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] });
        spec["mounts"].as_array_mut().expect("a list").push(group);
        spec["linux"]["resources"]["pids"]["limit"] = json!(77);
    });
    host.started("c", &bundle);
    host.wait_for_output("c", "ready");
    let read = |name: &str| host.run(&["read", "c", &format!("/sys/fs/cgroup/{name}")]).ok();
    assert_eq!(read("pids.max"), "77\n");
    let processes = read("cgroup.procs");
    assert!(processes.lines().any(|line| line == "1"), "{processes}");
    assert!(read("memory.current").trim().parse::<u64>().is_ok_and(|bytes| bytes > 4096));
    assert_eq!(read("cgroup.freeze"), "0\n");
    host.run(&["pause", "c"]).ok();
    assert_eq!(
        (read("cgroup.freeze").as_str(), read("cgroup.events").as_str()),
        ("1\n", "populated 1\nfrozen 1\n")
    );
    assert_eq!(host.run(&["read", "--offset", "1", "--size", "1", "c", "/sys/fs/cgroup/pids.max"]).ok(), "7");
    host.run(&["read", "c", "/sys/fs/cgroup/none"]).fails_with("No such file");
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}
