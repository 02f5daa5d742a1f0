//! Flags that stand before the command, as engines pass them: each does what it says, or is refused in one line.

mod bundles;

use bundles::{Host, can_run};
use serde_json::Value;

/// What becomes of a container with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It runs, and its changes of the root directory are there afterwards.
    Changes,
    /// It runs, and its changes are gone.
    Forgets,
    /// The flag is refused.
    Refused,
}

use Outcome::{Changes, Forgets, Refused};

const FLAGS: [(&[&str], Outcome); 53] = [
    (&[], Changes),
    (&["--overlay2=none"], Changes),
    (&["--overlay2=root:none"], Changes),
    (&["--overlay2=all:none"], Changes),
    (&["--overlay2=root:memory"], Forgets),
    (&["--overlay2", "root:memory"], Forgets),
    (&["--overlay2=all:memory"], Refused),
    (&["--overlay2=all:self"], Refused),
    (&["--overlay2=root:self"], Forgets),
    (&["--overlay2=root:self", "--directfs=false"], Forgets),
    (&["--overlay2=root:memory,size=64m"], Forgets),
    (&["--overlay2=root:memory,size=much"], Refused),
    (&["--overlay2=root:dir=tmp"], Refused),
    (&["--overlay2=root:disk"], Refused),
    (&["--directfs"], Changes),
    (&["--directfs=true"], Changes),
    (&["--directfs=false"], Changes),
    (&["--directfs=false", "--overlay2=root:memory"], Forgets),
    (&["--file-access=shared"], Changes),
    (&["--file-access=exclusive"], Changes),
    (&["--file-access=other"], Refused),
    (&["--host-uds=none"], Changes),
    (&["--host-uds=open"], Changes),
    (&["--host-uds=create"], Refused),
    (&["--host-uds=all"], Refused),
    (&["--network=none"], Changes),
    (&["--network", "none"], Changes),
    (&["--network=host"], Refused),
    (&["--network=sandbox"], Refused),
    (&["--rootless"], Changes),
    (&["--rootless=true"], Changes),
    (&["--rootless=false"], Changes),
    (&["--rootless=auto"], Changes),
    (&["--rootless=maybe"], Refused),
    (&["--systemd-cgroup"], Changes),
    (&["--systemd-cgroup=false"], Changes),
    (&["--ignore-cgroups"], Changes),
    (&["--cgroup-manager=cgroupfs"], Changes),
    (&["--cgroup-manager", "disabled"], Changes),
    (&["--cgroup-manager=other"], Refused),
    (&["--platform=systrap"], Changes),
    (&["--platform=kvm"], Refused),
    (&["--debug=false"], Changes),
    (&["--log-format=json"], Changes),
    (&["--log-format", "text"], Changes),
    (&["--log-format=xml"], Refused),
    (&["--gvisor-marker-file"], Changes),
    (&["--allow-rootfs-tar-annotation"], Changes),
    (&["--character-device-policy=emulated-only"], Changes),
    (&["--character-device-policy=prefer-emulated"], Changes),
    (&["--character-device-policy=passthrough"], Changes),
    (&["--character-device-policy=none"], Refused),
    (&["--no-such-flag"], Refused),
];

#[test]
fn each_flag_does_what_it_says_or_is_refused() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "echo ran; touch /made");
    let made = bundle.join("rootfs/made");
    for (flags, outcome) in FLAGS {
        let ran = host.run(&[flags, &["run", "--bundle", bundle.to_str().expect("text"), "c"]].concat());
        let changed = made.exists();
        let seen = match (ran.code, ran.out.as_str(), changed) {
            (Some(0), "ran\n", true) => Changes,
            (Some(0), "ran\n", false) => Forgets,
            (Some(1), "", false) => Refused,
            other => panic!("{flags:?}: {other:?} {}", ran.err),
        };
        assert_eq!(seen, outcome, "{flags:?}: {}", ran.err);
        if seen == Refused {
            let value = flags[0].split_once('=').map_or(flags[0], |(_, value)| value);
            assert!(ran.err.contains(value), "{flags:?} is not named: {}", ran.err);
        } else {
            assert_eq!(ran.err, "", "{flags:?}");
        }
        let _ = std::fs::remove_file(&made);
    }
    host.assert_nothing_left();
}

#[test]
fn errors_go_to_the_log_in_its_format_and_traces_to_the_debug_log() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", "echo ran; echo over > /dev/null");
    let bundle = bundle.to_str().expect("text");
    let (log, traces) = (host.path("log"), host.path("traces"));
    let (log_name, traces_name) = (log.to_str().expect("text"), traces.to_str().expect("text"));
    host.run(&["--log", log_name, "--log-format", "json", "state", "none"]).fails_with("does not exist");
    let line: Value = serde_json::from_slice(&std::fs::read(&log).expect("a log")).expect("JSON");
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"].as_str().is_some_and(|text| text.contains("does not exist")) && line["time"].is_string()
    );
    std::fs::remove_file(&log).expect("removed");
    host.run(&["--log", log_name, "state", "none"]).fails_with("does not exist");
    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(text.contains("level=error msg=") && text.lines().count() == 1, "{text}");
    host.run(&["--debug", "--log", log_name, "run", "--bundle", bundle, "c"]).ok();
    assert!(std::fs::read_to_string(&log).expect("a log").contains("level=debug"));
    host.run(&["--debug-log", traces_name, "--strace=write,openat", "run", "--bundle", bundle, "c"]).ok();
    let text = std::fs::read_to_string(&traces).expect("traces");
    assert!(text.contains("write(") && !text.contains("mmap("), "{text}");
    std::fs::remove_file(&traces).expect("removed");
    host.run(&["--debug-log", traces_name, "--strace", "run", "--bundle", bundle, "c"]).ok();
    let text = std::fs::read_to_string(&traces).expect("traces");
    assert!(text.contains("write(") && text.lines().count() > 10, "{text}");
    host.assert_nothing_left();
}

#[test]
fn programs_find_the_marker_of_gvisor_only_on_request() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "ls /proc | grep gvisor; cat /proc/gvisor/kernel_is_gvisor; true";
    let bundle = host.bundle("b", script);
    let run = |flags: &[&str]| {
        host.run(&[flags, &["run", "--bundle", bundle.to_str().expect("text"), "c"]].concat()).ok()
    };
    assert_eq!(run(&["--gvisor-marker-file"]), "gvisor\ngvisor\n");
    assert_eq!(run(&["--gvisor-marker-file=false"]), "");
    assert_eq!(run(&[]), "");
}
