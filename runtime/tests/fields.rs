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

#[test]
fn what_a_specification_says_of_a_process_is_so_inside() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let script = "id -u; id -g; id -G; umask; pwd; echo $VALUE; hostname; cat /proc/sys/kernel/domainname; \
                  cat /proc/self/oom_score_adj; awk '/^(Cap|NoNewPrivs|Seccomp:)/ { print $1, $2 }' /proc/self/status; \
                  awk '/open files|core file/ { print $(NF-2), $(NF-1) }' /proc/self/limits; mkdir /tmp/d; echo $?";
    let bundle = host.bundle_with("b", script, |spec| {
        spec["hostname"] = json!("host");
        spec["domainname"] = json!("domain");
        spec["process"] = json!({
            "args": ["/bin/sh", "-c", script],
            "cwd": "/tmp",
            "env": ["PATH=/bin", "VALUE=first", "VALUE=a b"],
            "user": { "uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o31 },
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN"],
                "inheritable": ["CAP_CHOWN", "CAP_KILL"],
                "ambient": ["CAP_KILL"],
            },
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 512 },
            ],
            "noNewPrivileges": true,
            "oomScoreAdj": 123,
        });
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }],
        });
    });
    let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "c"]);
    assert!(ran.err.contains("No space left on device"), "{}", ran.err);
    // Execution makes of the sets what it does: this user keeps what is ambient.
    let expected = "7\n8\n8 9 10\n0031\n/tmp\na b\nhost\ndomain\n123\n\
                    CapInh: 0000000000000021\nCapPrm: 0000000000000020\nCapEff: 0000000000000020\n\
                    CapBnd: 00000000000000a1\nCapAmb: 0000000000000020\nNoNewPrivs: 1\nSeccomp: 2\n\
                    0 512\n100 200\n1\n";
    assert_eq!(ran.out, expected);
    host.assert_nothing_left();
}

#[test]
fn file_systems_and_flags_of_mounts_show_inside() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    std::fs::create_dir(host.path("volume")).expect("a directory");
    let script = "awk '{ print $2, $3, $4 }' /proc/mounts; ls /sys/devices /sys/fs/cgroup/cgroup.procs /dev/mqueue /dev/pts/ptmx >/dev/null; echo $?";
    let bundle = host.bundle_with("b", script, |spec| {
        let volume = host.path("volume");
        let mounts = [
            ("/sys", "sysfs", &["ro", "nosuid", "noexec", "nodev"][..]),
            ("/sys/fs/cgroup", "cgroup", &["ro", "nosuid"]),
            ("/dev/mqueue", "mqueue", &["nosuid", "noexec"]),
            ("/memory", "tmpfs", &["size=1m", "mode=700", "noexec", "noatime"]),
            ("/plain", "bind", &["rbind"]),
            ("/strict", "bind", &["rbind", "ro", "nosuid", "nodev", "noexec", "nodiratime"]),
            ("/all", "bind", &["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"]),
            ("/times", "bind", &["rbind", "strictatime", "nosymfollow"]),
        ];
        for (destination, kind, options) in mounts {
            let source = if kind == "bind" { volume.to_str().expect("text") } else { kind };
            spec["mounts"].as_array_mut().expect("a list").push(
                json!({ "destination": destination, "type": kind, "source": source, "options": options }),
            );
        }
    });
    let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), "c"]);
    let all: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split(' ').collect()).collect();
    let places: Vec<&str> = all.iter().filter(|line| line.len() == 3).map(|line| line[0]).collect();
    // In the order of the specification.
    let expected = [
        "/",
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/memory",
        "/plain",
        "/strict",
        "/all",
        "/times",
    ];
    assert_eq!(places, expected, "{}", ran.out);
    let has = |place: &str, options: &[&str]| {
        let line = all.iter().find(|line| line[0] == place).expect("mounted");
        let found: Vec<&str> = line[2].split(',').collect();
        options.iter().all(|option| match option.strip_prefix('!') {
            Some(absent) => !found.contains(&absent),
            None => found.contains(option),
        })
    };
    for (place, options) in [
        ("/sys", &["ro", "nosuid", "noexec", "nodev"][..]),
        ("/sys/fs/cgroup", &["ro", "nosuid"]),
        ("/dev/mqueue", &["rw", "nosuid", "noexec"]),
        ("/memory", &["rw", "noexec", "noatime", "size=1024k", "mode=700"]),
        ("/plain", &["rw", "!noexec", "!nosuid", "relatime"]),
        ("/strict", &["ro", "nosuid", "nodev", "noexec", "nodiratime"]),
        ("/all", &["ro", "nosuid", "nodev", "noexec", "noatime"]),
        ("/times", &["rw", "nosymfollow", "!relatime", "!noatime"]),
    ] {
        assert!(has(place, options), "{place} {options:?}: {}", ran.out);
    }
    assert!(ran.out.ends_with("\n0\n"), "{} {}", ran.out, ran.err);
    host.assert_nothing_left();
}

#[test]
fn resources_reach_the_files_of_the_host() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let path = format!("/nacelle-fields-{}/inner", std::process::id());
    let bundle = host.bundle_with("b", "sleep 600", |spec| {
        spec["linux"]["cgroupsPath"] = json!(path);
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 128 << 20, "reservation": 64 << 20 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 30 },
        });
    });
    let created = host.create("c", &bundle, &[]);
    if created.err.contains("no cgroup controller") {
        return bundles::skip("the host lacks a controller for us");
    }
    created.ok();
    let root = std::path::Path::new("/sys/fs/cgroup");
    let inner = &path[1..];
    let read = |controllers: &[&str], file: &str| {
        let places = controllers.iter().map(|controller| root.join(controller)).chain([root.to_owned()]);
        let mut texts = places.filter_map(|place| std::fs::read_to_string(place.join(inner).join(file)).ok());
        texts.next().map(|text| text.trim().to_owned())
    };
    // Version 1, or else version 2.
    let either = |controllers: &[&str], one: (&str, &str), two: (&str, &str)| {
        let found = read(controllers, one.0).map(|text| (text, one.1));
        let (text, wanted) = found.or_else(|| read(&[], two.0).map(|text| (text, two.1))).expect("a file");
        assert_eq!(text, wanted, "{one:?} {two:?}");
    };
    let memory = &["memory"];
    either(memory, ("memory.limit_in_bytes", "134217728"), ("memory.max", "134217728"));
    either(memory, ("memory.soft_limit_in_bytes", "67108864"), ("memory.low", "67108864"));
    let cpu = &["cpu", "cpu,cpuacct"];
    either(cpu, ("cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"));
    if read(cpu, "cpu.shares").is_some() {
        either(cpu, ("cpu.shares", "512"), ("", ""));
    }
    either(&["cpuset"], ("cpuset.cpus", "0"), ("cpuset.cpus", "0"));
    // Each task of the program has two threads here, and the sandbox has its own.
    either(&["pids"], ("pids.max", "124"), ("pids.max", "124"));
    host.run(&["delete", "--force", "c"]).ok();
    for place in std::fs::read_dir(root).expect("control groups").flatten() {
        let left = place.path().join(inner);
        assert!(!left.exists(), "{}", left.display());
        let _ = std::fs::remove_dir(left.parent().expect("a group"));
    }
    host.assert_nothing_left();
}

#[test]
fn capabilities_are_those_that_programs_have_with_runc() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    if std::process::Command::new("runc").arg("--version").output().is_err() {
        return bundles::skip("there is no runc to compare with (package runc)");
    }
    let sets = [
        json!({ "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN", "CAP_KILL"], "ambient": ["CAP_KILL"] }),
        // What containerd gives every user.
        json!({ "bounding": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"], "permitted": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"],
                "effective": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"] }),
        json!({}),
    ];
    for (number, sets) in sets.iter().enumerate() {
        for user in [0, 7] {
            let bundle = host.bundle_with(&format!("b{number}-{user}"), "", |spec| {
                spec["process"]["args"] = json!(["/bin/awk", "/^Cap/", "/proc/self/status"]);
                spec["process"]["user"] = json!({ "uid": user, "gid": user });
                spec["process"]["capabilities"] = sets.clone();
            });
            let bundle = bundle.to_str().expect("text");
            let mut runc = std::process::Command::new("runc");
            let state = host.path("runc");
            let theirs =
                runc.arg("--root").arg(state).args(["run", "--bundle", bundle, "capabilities"]).output();
            let theirs = theirs.expect("it starts");
            assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
            let ours = host.run(&["run", "--bundle", bundle, "c"]).ok();
            assert_eq!(ours, String::from_utf8_lossy(&theirs.stdout), "{sets} as {user}");
        }
    }
    host.assert_nothing_left();
}
