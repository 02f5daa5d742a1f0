use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::*;

fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

fn id(name: &str) -> Id {
    Id::new(name).unwrap()
}

/// A hierarchy of version 2 in a directory, as far as files go.
struct Fake {
    directory: tempfile::TempDir,
    host: Hierarchies,
}

impl Fake {
    fn new(own: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let point = directory.path().display();
        let mountinfo = format!("30 25 0:27 / {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        let host = Hierarchies::parse(&mountinfo, &format!("0::{own}\n")).unwrap();
        fs::write(directory.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(directory.path().join("cgroup.subtree_control"), "").unwrap();
        Self { directory, host }
    }

    fn group(&self, path: &str, files: &[(&str, &str)]) -> Cgroup {
        let group =
            Cgroup::create(&self.host, Name { path: Some(path), id: &id("c1"), systemd: false }).unwrap();
        for (name, content) in files {
            fs::write(group.directory_of("").unwrap().join(name), content).unwrap();
        }
        group
    }
}

fn content(group: &Cgroup, file: &str) -> String {
    fs::read_to_string(group.directory_of("memory").unwrap().join(file)).unwrap()
}

#[test]
fn hierarchies_are_those_of_the_process() {
    let mountinfo = "\
        31 25 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 /outer /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:30 / /sys/fs/cgroup/with\\040space rw shared:7 - cgroup cgroup rw,memory\n\
        34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        36 31 0:30 / /elsewhere rw - cgroup cgroup rw,memory\n";
    let cgroup = "4:cpu,cpuacct:/outer/own\n3:memory:/own\n2:name=systemd:/\n0::/x\n";
    let host = Hierarchies::parse(mountinfo, cgroup).unwrap();
    assert_eq!(host.version(), Version::V1);
    let all: Vec<_> =
        host.mounts.iter().map(|mount| (mount.controllers.join(","), mount.own.as_str())).collect();
    let expected = [("cpu,cpuacct", "/outer/own"), ("memory", "/own"), ("name=systemd", "/"), ("", "/x")];
    assert_eq!(all, expected.map(|(names, own)| (names.to_owned(), own)));
    assert_eq!(host.mounts[0].directory("/outer/own"), Path::new("/sys/fs/cgroup/cpu,cpuacct/own"));
    assert_eq!(host.mounts[0].directory("/"), Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(host.mounts[1].directory("/own"), Path::new("/sys/fs/cgroup/with space/own"));
    assert!(matches!(Hierarchies::parse("", ""), Err(Error::NotMounted)));
}

#[test]
fn paths_start_at_the_root_or_at_the_callers_own_group() {
    let resolve = |path: Option<&str>, systemd| Name { path, id: &id("c1"), systemd }.resolve();
    assert_eq!(resolve(None, false).unwrap(), ("c1".into(), false));
    assert_eq!(resolve(Some(""), false).unwrap(), ("c1".into(), false));
    assert_eq!(resolve(Some("/a/./b//c"), false).unwrap(), ("a/b/c".into(), true));
    assert_eq!(resolve(Some("a/../../../b"), false).unwrap(), ("b".into(), false));
    assert_eq!(resolve(Some("a:b:c"), false).unwrap(), ("a:b:c".into(), false));
    for bad in ["/", "..", "/a\0b", "a\nb"] {
        assert!(resolve(Some(bad), false).is_err(), "{bad:?}");
    }
    let systemd = |path| resolve(Some(path), true).unwrap();
    assert_eq!(systemd("system.slice:docker:1").0, "system.slice/docker-1.scope");
    assert_eq!(systemd(":docker:1").0, "system.slice/docker-1.scope");
    assert_eq!(systemd("-.slice::1").0, "1.scope");
    assert_eq!(systemd("kube-pod-x.slice:cri:1").0, "kube.slice/kube-pod.slice/kube-pod-x.slice/cri-1.scope");
    assert_eq!(systemd("a.slice:p:b.slice").0, "a.slice/b.slice");
    for bad in ["/a/b", "a:b", "a.slice:b:", "a:b:c", "a.slice:b:c/d", "a.slice:b:c:d"] {
        let error = resolve(Some(bad), true).unwrap_err().to_string();
        assert!(error.contains("slice:prefix:name"), "{error}");
    }
}

#[test]
fn a_group_of_version_2_is_made_beside_the_callers() {
    let fake = Fake::new("/user.slice/session");
    let group = Cgroup::create(&fake.host, Name { path: None, id: &id("c1"), systemd: false }).unwrap();
    assert_eq!(group.directories(), [fake.directory.path().join("user.slice/c1")]);
    let top = fs::read_to_string(fake.directory.path().join("cgroup.subtree_control")).unwrap();
    assert_eq!(top, "+pids", "the last of those that were written");
    group.remove().unwrap();
    assert!(!fake.directory.path().join("user.slice").exists());
    group.remove().unwrap();
}

#[test]
fn only_what_was_made_for_it_is_removed() {
    let fake = Fake::new("/");
    fs::create_dir_all(fake.directory.path().join("pod")).unwrap();
    let one = fake.group("/pod/a/one", &[]);
    let two = fake.group("/pod/a/two", &[]);
    one.remove().unwrap();
    assert!(two.exists() && !one.exists());
    two.remove().unwrap();
    assert!(fake.directory.path().join("pod/a").exists(), "it was not made for the second");
    // One that was left behind by somebody is taken over.
    fs::create_dir(fake.directory.path().join("pod/left")).unwrap();
    fake.group("/pod/left", &[]).remove().unwrap();
    assert!(!fake.directory.path().join("pod/left").exists());
    // But not one with processes in it.
    fs::create_dir(fake.directory.path().join("pod/used")).unwrap();
    fs::write(fake.directory.path().join("pod/used/cgroup.procs"), "1\n").unwrap();
    fake.group("/pod/used", &[]).remove().unwrap();
    assert!(fake.directory.path().join("pod/used").exists());
}

#[test]
fn saved_and_read_back_it_is_the_same() {
    let fake = Fake::new("/");
    let group = fake.group("/a/b", &[]);
    let text = serde_json::to_string(&group).unwrap();
    assert!(text.starts_with("{\"cgroupv2\":"), "{text}");
    assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), group);
    let group = Cgroup::V1(V1::default());
    let text = serde_json::to_string(&group).unwrap();
    assert!(text.starts_with("{\"cgroupv1\":"), "{text}");
    assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), group);
}

const FILES: [(&str, &str); 16] = [
    ("cpu.weight", ""),
    ("cpu.max", "max 100000\n"),
    ("cpu.max.burst", ""),
    ("cpu.idle", ""),
    ("cpuset.cpus", ""),
    ("cpuset.mems", ""),
    ("memory.max", ""),
    ("memory.swap.max", ""),
    ("memory.low", ""),
    ("memory.current", "5000\n"),
    ("pids.max", ""),
    ("io.weight", ""),
    ("io.max", ""),
    ("hugetlb.2MB.max", ""),
    ("memory.high", ""),
    ("memory.min", ""),
];

#[test]
fn limits_of_version_2_go_to_their_files() {
    let group = Fake::new("/");
    let group = group.group("/c", &FILES);
    let warnings = group.apply(&resources(json!({
        "cpu": { "shares": 1024, "quota": 50_000, "period": 200_000, "burst": 10, "idle": 1, "cpus": "0-1", "mems": "0" },
        "memory": { "limit": 10_000, "swap": 15_000, "reservation": 7000 },
        "pids": { "limit": 77 },
        "blockIO": { "weight": 500, "throttleReadBpsDevice": [{ "major": 8, "minor": 1, "rate": 9 }] },
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 }],
        "unified": { "memory.high": "9000" },
    })));
    assert!(warnings.unwrap().is_empty());
    for (file, value) in [
        ("cpu.weight", "39"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10"),
        ("cpu.idle", "1"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("memory.max", "10000"),
        ("memory.swap.max", "5000"),
        ("memory.low", "7000"),
        ("memory.high", "9000"),
        ("pids.max", "77"),
        ("io.weight", "4950"),
        ("io.max", "8:1 rbps=9"),
        ("hugetlb.2MB.max", "4"),
    ] {
        assert_eq!(content(&group, file), value, "{file}");
    }
    group
        .apply(&resources(
            json!({ "cpu": { "quota": -1 }, "memory": { "limit": -1 }, "pids": { "limit": -1 } }),
        ))
        .unwrap();
    for (file, value) in
        [("cpu.max", "max 200000"), ("memory.max", "max"), ("memory.swap.max", "max"), ("pids.max", "max")]
    {
        assert_eq!(content(&group, file), value, "{file}");
    }
    // Zero stands for nothing, in the way that engines write it.
    group.apply(&resources(json!({ "cpu": { "quota": 0, "shares": 0 }, "memory": { "limit": 0, "swap": 0 }, "pids": { "limit": 0 } }))).unwrap();
    assert_eq!(content(&group, "memory.max"), "max");
}

#[test]
fn weights_are_converted() {
    assert_eq!([2, 1024, 262_144, 0].map(resources::shares_to_weight), [1, 39, 10_000, 1]);
    assert_eq!([10, 500, 1000, 0].map(resources::block_weight), [1, 4950, 10_000, 1]);
}

#[test]
fn a_limit_that_the_host_lacks_is_an_error_if_it_matters() {
    let fake = Fake::new("/");
    let group = fake.group("/c", &[]);
    for (value, controller) in [
        (json!({ "memory": { "limit": 5 } }), "memory"),
        (json!({ "pids": { "limit": 5 } }), "pids"),
        (json!({ "cpu": { "quota": 5 } }), "cpu"),
        (json!({ "cpu": { "cpus": "0" } }), "cpuset"),
    ] {
        let error = group.apply(&resources(value)).unwrap_err();
        assert!(
            matches!(&error, Error::NoController { controller: found, .. } if *found == controller),
            "{error}"
        );
        assert!(error.to_string().starts_with("cannot set linux.resources."), "{error}");
    }
    for value in [
        json!({ "cpu": { "shares": 5 } }),
        json!({ "cpu": { "burst": 5 } }),
        json!({ "memory": { "reservation": 5 } }),
        json!({ "memory": { "swappiness": 5 } }),
        json!({ "memory": { "disableOOMKiller": true } }),
        json!({ "blockIO": { "weight": 5 } }),
        json!({ "hugepageLimits": [{ "pageSize": "1GB", "limit": 4 }] }),
    ] {
        let warnings = group.apply(&resources(value.clone())).unwrap();
        assert_eq!(warnings.len(), 1, "{value}");
        assert!(warnings[0].starts_with("linux.resources."), "{warnings:?}");
    }
}

#[test]
fn names_of_unified_files_cannot_lead_elsewhere() {
    let fake = Fake::new("/");
    let group = fake.group("/c", &FILES);
    for name in
        ["../memory.max", "memory", "cgroup.procs", "cgroup.subtree_control", ".x", "a/b.c", "rdma.max"]
    {
        let error = group.apply(&resources(json!({ "unified": { name: "1" } }))).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    let size = json!({ "hugepageLimits": [{ "pageSize": "../x", "limit": 4 }] });
    assert!(group.apply(&resources(size)).is_err());
    let error = Cgroup::V1(V1::default()).apply(&resources(json!({ "unified": { "memory.max": "1" } })));
    assert!(error.unwrap_err().to_string().contains("cgroupv2"));
}

#[test]
fn a_change_that_fails_half_way_is_taken_back() {
    let fake = Fake::new("/");
    let group = fake.group("/c", &FILES);
    let old = resources(json!({ "memory": { "limit": 10_000 }, "pids": { "limit": 5 } }));
    group.apply(&old).unwrap();
    fs::remove_file(group.directory_of("").unwrap().join("pids.max")).unwrap();
    let only_memory = resources(json!({ "memory": { "limit": 10_000 } }));
    let new = resources(json!({ "memory": { "limit": 20_000 }, "pids": { "limit": 6 } }));
    let error = group.update(&only_memory, &new).unwrap_err();
    assert!(matches!(error, Error::NoController { .. }), "{error}");
    assert_eq!(content(&group, "memory.max"), "10000");
    let error = group.update(&old, &new).unwrap_err().to_string();
    assert!(error.contains("setting back cgroup configs failed"), "{error}");
    let rejected = resources(json!({ "memory": { "limit": 4000, "checkBeforeUpdate": true } }));
    let error = group.update(&only_memory, &rejected).unwrap_err().to_string();
    assert_eq!(error, "rejecting memory limit 4000 < usage 5000");
}

#[test]
fn changes_are_merged_field_by_field() {
    let old = resources(json!({ "memory": { "limit": 1, "swap": 2 }, "pids": { "limit": 3 } }));
    let change = resources(json!({ "memory": { "limit": 4 }, "cpu": { "shares": 5 } }));
    let expected = resources(
        json!({ "memory": { "limit": 4, "swap": 2 }, "pids": { "limit": 3 }, "cpu": { "shares": 5 } }),
    );
    assert_eq!(merge(&old, &change), expected);
}

#[test]
fn statistics_of_version_2_have_the_shape_of_version_1() {
    let fake = Fake::new("/");
    let group = fake.group(
        "/c",
        &[
            ("cpu.stat", "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n"),
            ("cpuset.cpus.effective", "0-1,3\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "8192\n"),
            ("memory.swap.current", "100\n"),
            ("memory.swap.max", "200\n"),
            ("memory.stat", "anon 1\nfile 2\nkernel 3\nsock 4\n"),
            ("memory.events", "low 0\nmax 7\noom 2\noom_kill 1\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nrubbish\n"),
            ("hugetlb.2MB.current", "5\n"),
        ],
    );
    let stats = group.stats().unwrap();
    assert_eq!(
        (stats.cpu.usage.total, stats.cpu.usage.user, stats.cpu.usage.kernel),
        (30_000, 10_000, 20_000)
    );
    let throttling = &stats.cpu.throttling;
    assert_eq!((throttling.periods, throttling.throttled_periods, throttling.throttled_time), (4, 3, 2000));
    assert_eq!(stats.cpuset.cpus, [0, 1, 3]);
    let memory = &stats.memory;
    assert_eq!(
        (memory.cache, memory.usage.usage, memory.usage.limit, memory.usage.max),
        (2, 4096, u64::MAX, 8192)
    );
    assert_eq!((memory.swap.usage, memory.swap.limit, memory.usage.failcnt), (4196, u64::MAX, 7));
    assert_eq!((memory.kernel.usage, memory.kernel_tcp.usage), (3, 4));
    assert_eq!((stats.pids.current, stats.pids.limit), (3, 0));
    assert_eq!(stats.blkio.io_service_bytes_recursive[1].value, 2);
    assert_eq!(stats.blkio.io_serviced_recursive[0].op, "Read");
    assert_eq!(stats.hugetlb["2MB"].usage, 5);
    assert_eq!(group.oom_kills(), 1);
    fs::remove_dir_all(group.directory_of("").unwrap()).unwrap();
    assert!(group.stats().is_err());
}

#[test]
fn an_event_has_the_shape_that_engines_read() {
    let event = serde_json::to_value(Event::stats("c1", Stats::default())).unwrap();
    let expected = json!({
        "type": "stats", "id": "c1",
        "data": {
            "cpu": { "usage": { "kernel": 0, "user": 0 }, "throttling": {} },
            "cpuset": {
                "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
                "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0,
                "sched_relax_domain_level": 0
            },
            "memory": {
                "usage": { "limit": 0, "failcnt": 0 }, "swap": { "limit": 0, "failcnt": 0 },
                "kernel": { "limit": 0, "failcnt": 0 }, "kernelTCP": { "limit": 0, "failcnt": 0 }
            },
            "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null
        }
    });
    assert_eq!(event, expected);
    assert_eq!(serde_json::to_value(Event::oom("c1")).unwrap(), json!({ "type": "oom", "id": "c1" }));
}

#[test]
fn a_watch_of_version_2_sees_processes_that_were_killed() {
    let fake = Fake::new("/");
    let group = fake.group("/c", &[("memory.events", "oom 0\noom_kill 0\n")]);
    let mut watch = group.watch_oom().unwrap();
    assert_eq!(watch.next(Some(Duration::ZERO)).unwrap(), News::Nothing);
    let file = group.directory_of("memory").unwrap().join("memory.events");
    fs::write(&file, "oom 1\noom_kill 0\n").unwrap();
    assert_eq!(watch.next(Some(Duration::from_millis(10))).unwrap(), News::Nothing);
    fs::write(&file, "oom 1\noom_kill 1\n").unwrap();
    assert_eq!(watch.next(Some(Duration::from_secs(60))).unwrap(), News::Oom);
    fs::remove_dir_all(group.directory_of("").unwrap()).unwrap();
    assert_eq!(watch.next(Some(Duration::from_secs(60))).unwrap(), News::Gone);
}

/// A group of the host, if the caller may make one; it goes away with the test.
struct Real(Cgroup);

impl Real {
    fn new(name: &str) -> Option<Self> {
        let name = id(&format!("nacelle-test-{}-{name}", std::process::id()));
        let made = Hierarchies::of_host()
            .and_then(|host| Cgroup::create(&host, Name { path: None, id: &name, systemd: false }));
        match made {
            Ok(group) => Some(Self(group)),
            Err(error) if error.is_permission() => {
                eprintln!("skipped: needs the right to make cgroups: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A shell that does this once it is in the group.
    fn run(&self, script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        self.0.join(child.id().cast_signed()).unwrap();
        io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        child
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.0.remove().unwrap();
        assert!(!self.0.exists());
    }
}

#[test]
fn processes_of_a_group_are_counted_held_and_killed() {
    let Some(group) = Real::new("life") else { return };
    let mut child = group.run("sleep 600 & sleep 600 & wait");
    let deadline = Instant::now() + Duration::from_secs(60);
    while group.0.pids().len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", group.0.pids());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(group.0.pids().contains(&child.id().cast_signed()));
    assert_eq!(group.0.stats().unwrap().pids.current, 3);
    group.0.freeze(true).unwrap();
    group.0.freeze(true).unwrap();
    group.0.freeze(false).unwrap();
    group.0.freeze(true).unwrap();
    // Also those that are held are killed.
    group.0.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(group.0.pids().is_empty());
}

#[test]
fn limits_of_the_host_are_set_and_seen_in_statistics() {
    let Some(group) = Real::new("limits") else { return };
    let limits = resources(json!({
        "memory": { "limit": 64 << 20, "reservation": 32 << 20 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 77 },
    }));
    match group.0.apply(&limits) {
        Err(Error::NoController { controller, .. }) => {
            eprintln!("skipped: the host has no controller {controller} here");
            return;
        }
        other => drop(other.unwrap()),
    }
    let mut child = group.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 600");
    let deadline = Instant::now() + Duration::from_secs(60);
    let stats = loop {
        let stats = group.0.stats().unwrap();
        if stats.cpu.usage.total > 0 && stats.memory.usage.usage > 0 {
            break stats;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(stats.memory.usage.limit, 64 << 20);
    assert_eq!((stats.pids.limit, stats.pids.current), (77, 1));
    assert_eq!(stats.cpuset.cpus, [0]);
    if group.0.version() == Version::V1 {
        // Up and down, with and without swap: whatever comes first.
        for (limit, swap) in
            [(128 << 20, 256 << 20), (32 << 20, 32 << 20), (64 << 20, -1), (-1, 0), (16 << 20, 0)]
        {
            let change = resources(json!({ "memory": { "limit": limit, "swap": swap } }));
            group.0.update(&limits, &change).unwrap();
        }
        assert_eq!(group.0.stats().unwrap().memory.usage.limit, 16 << 20);
        // A quota shorter than before and a period shorter than the old quota.
        let change = resources(json!({ "cpu": { "quota": 2000, "period": 10_000 } }));
        group.0.update(&limits, &change).unwrap();
        let bad = resources(json!({ "cpu": { "quota": 7 } }));
        let error = group.0.update(&limits, &bad).unwrap_err().to_string();
        assert!(
            error.starts_with("failed to write \"7\": write ") && error.contains("cpu.cfs_quota_us"),
            "{error}"
        );
        assert_eq!(group.0.stats().unwrap().memory.usage.limit, 64 << 20, "set back");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_watch_sees_memory_run_out() {
    let Some(group) = Real::new("oom") else { return };
    let limit = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    match group.0.apply(&resources(limit)) {
        Err(Error::NoController { controller, .. }) => {
            eprintln!("skipped: the host has no controller {controller} here");
            return;
        }
        other => drop(other.unwrap()),
    }
    let mut watch = group.0.watch_oom().unwrap();
    assert_eq!(watch.next(Some(Duration::ZERO)).unwrap(), News::Nothing);
    // What has no line end is kept in memory as a whole.
    let mut child = group.run("head -c 200000000 /dev/zero | tail -n 1 > /dev/null; sleep 600");
    assert_eq!(watch.next(Some(Duration::from_secs(120))).unwrap(), News::Oom);
    let deadline = Instant::now() + Duration::from_secs(60);
    while group.0.oom_kills() == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    group.0.kill().unwrap();
    child.wait().unwrap();
    group.0.remove().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while watch.next(Some(Duration::from_secs(60))).unwrap() != News::Gone {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn only_a_lack_of_rights_is_done_without() {
    let error = |errno: Errno| Error::io("make cgroup", Path::new("/x"))(errno.into());
    for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
        assert!(error(errno).is_permission(), "{errno:?}");
    }
    for errno in [Errno::NOENT, Errno::NOSPC, Errno::BUSY] {
        assert!(!error(errno).is_permission(), "{errno:?}");
    }
}

#[test]
fn a_group_of_a_mere_name_goes_only_when_it_is_empty() {
    let fake = Fake::new("/own");
    let name = Name { path: Some("some"), id: &id("c1"), systemd: false };
    // One that is not there is no error.
    Cgroup::remove_empty(&fake.host, name).unwrap();
    let group = Cgroup::plan(&fake.host, name).unwrap().directories()[0].to_owned();
    let used = group.join("used");
    fs::create_dir_all(&used).unwrap();
    Cgroup::remove_empty(&fake.host, name).unwrap_err();
    assert!(used.is_dir());
    fs::remove_dir(&used).unwrap();
    Cgroup::remove_empty(&fake.host, name).unwrap();
    assert!(!group.exists() && group.parent().unwrap().exists());
}
