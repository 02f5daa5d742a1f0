use std::fs;

use host::mount::Ties;
use serde_json::json;

use super::fields::{FIELDS, Treatment};
use super::mounts::{DevptsOptions, MountOwners, ProcOptions, Size, TmpfsOptions, flag};
use super::*;

/// A bundle with a root directory and a small specification.
struct Bundle {
    directory: tempfile::TempDir,
    spec: Value,
}

impl Bundle {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("rootfs")).unwrap();
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": { "args": ["sh"], "cwd": "/" },
            "root": { "path": "rootfs" },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "ipc" }, { "type": "network" }, { "type": "uts" }] },
        });
        Self { directory, spec }
    }

    /// Sets a field; objects and lists above it are made.
    fn with(mut self, path: &str, value: Value) -> Self {
        let mut place = &mut self.spec;
        for part in path.split('.') {
            place = match part.strip_suffix("[]") {
                None => &mut place[part],
                Some(part) => {
                    let list = &mut place[part];
                    if !list.is_array() {
                        *list = json!([{}]);
                    }
                    &mut list[0]
                }
            };
        }
        *place = value;
        self
    }

    fn without(mut self, pointer: &str, name: &str) -> Self {
        self.spec.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(name);
        self
    }

    fn load(&self) -> Result<(ContainerConfig, oci::Spec, Vec<String>)> {
        let path = self.directory.path().join(CONFIG);
        fs::write(path, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let Document { spec, mut warnings } = read(self.directory.path())?;
        let config = ContainerConfig::new(&spec, self.directory.path(), &mut warnings)?;
        Ok((config, spec, warnings))
    }

    fn config(&self) -> ContainerConfig {
        self.load().unwrap().0
    }

    fn warnings(&self) -> Vec<String> {
        self.load().unwrap().2
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }

    fn mount(self, options: &[&str]) -> Self {
        self.mount_of("tmpfs", options)
    }

    fn mount_of(self, kind: &str, options: &[&str]) -> Self {
        let source = if kind == "bind" { "/tmp" } else { kind };
        self.with(
            "mounts",
            json!([{ "destination": "/m", "type": kind, "source": source, "options": options }]),
        )
    }

    fn first_mount(&self) -> MountConfig {
        self.config().mounts[0].clone()
    }
}

#[test]
fn a_file_that_is_missing_or_no_json_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let error = read(directory.path()).unwrap_err().to_string();
    assert!(error.starts_with("JSON specification file") && error.ends_with("not found"), "{error}");
    fs::write(directory.path().join(CONFIG), "{").unwrap();
    let error = read(directory.path()).unwrap_err().to_string();
    assert!(error.contains("config.json is not valid JSON: EOF while parsing"), "{error}");
    fs::write(directory.path().join(CONFIG), "[]").unwrap();
    assert!(read(directory.path()).is_err());
    fs::remove_file(directory.path().join(CONFIG)).unwrap();
    fs::create_dir(directory.path().join(CONFIG)).unwrap();
    assert!(matches!(read(directory.path()), Err(Error::Unreadable { .. })));
}

#[test]
fn what_must_be_there_is_asked_for_in_the_words_of_runc() {
    assert_eq!(Bundle::new().without("", "process").error(), "process property must not be empty");
    assert_eq!(Bundle::new().without("", "root").error(), "root must be specified");
    assert_eq!(Bundle::new().with("process.args", json!([])).error(), "args must not be empty");
    assert_eq!(Bundle::new().with("process.args", json!(null)).error(), "args must not be empty");
    assert_eq!(Bundle::new().with("process.cwd", json!("tmp")).error(), "Cwd must be an absolute path");
    assert_eq!(Bundle::new().without("/process", "cwd").error(), "Cwd property must not be empty");
    let error = Bundle::new().with("root.path", json!("nope")).error();
    assert!(
        error.starts_with("invalid rootfs: stat ") && error.ends_with("/nope: no such file or directory")
    );
    assert_eq!(
        Bundle::new().with("process.rlimits[].type", json!("RLIMIT_FOO")).error(),
        "wrong rlimit value: RLIMIT_FOO"
    );
    assert_eq!(
        Bundle::new().with("linux.namespaces", json!([{ "type": "pid" }, { "type": "pid" }])).error(),
        "malformed spec file: duplicated ns {\"pid\" \"\"}"
    );
    assert_eq!(
        Bundle::new().with("linux.namespaces", json!([{ "type": "foo" }])).error(),
        "namespace {\"foo\" \"\"} does not exist"
    );
    assert_eq!(
        Bundle::new().with("linux.sysctl", json!({ "kernel.foo": "1" })).error(),
        "sysctl \"kernel.foo\" is not in a separate kernel namespace"
    );
    assert_eq!(
        Bundle::new().with("linux.devices[].path", json!("/dev/x")).error(),
        "invalid device type \"\""
    );
    assert_eq!(
        Bundle::new().with("linux.rootfsPropagation", json!("foo")).error(),
        "rootfsPropagation=foo is not supported"
    );
    assert_eq!(
        Bundle::new().with("linux.seccomp.defaultAction", json!("SCMP_FOO")).error(),
        "string SCMP_FOO is not a valid action for seccomp"
    );
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["FOO"] });
    assert_eq!(
        Bundle::new().with("linux.seccomp", profile).error(),
        "string FOO is not a valid arch for seccomp"
    );
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let error = Bundle::new().with("process.user.uid", json!("root")).error();
    assert!(error.starts_with("process.user.uid: invalid type"), "{error}");
    let error = Bundle::new().with("mounts", json!([{ "destination": "/a" }, { "destination": 7 }])).error();
    assert!(error.starts_with("mounts[1].destination: "), "{error}");
}

#[test]
fn lists_and_objects_are_not_mixed_up() {
    assert_eq!(Bundle::new().with("process", json!(["x"])).error(), "process must be an object");
    assert_eq!(Bundle::new().with("mounts", json!({})).error(), "mounts must be a list");
    assert_eq!(Bundle::new().with("mounts", json!(["/a"])).error(), "mounts[] must be an object");
    assert_eq!(Bundle::new().with("linux.sysctl", json!("x")).error(), "linux.sysctl must be an object");
}

#[test]
fn any_version_1_will_do() {
    for version in ["1.0.0", "1.0.2-dev", "1.9.0", "1.2.0+dev", ""] {
        Bundle::new().with("ociVersion", json!(version)).config();
    }
    Bundle::new().without("", "ociVersion").config();
    for version in ["2.0.0", "0.9", "x"] {
        assert!(Bundle::new().with("ociVersion", json!(version)).error().contains("must be 1.x"));
    }
}

#[test]
fn null_is_the_same_as_nothing() {
    let plain = Bundle::new().config();
    for field in [
        "process.env",
        "process.capabilities",
        "mounts",
        "hooks",
        "linux.resources",
        "linux.seccomp",
        "annotations",
    ] {
        let mut config = Bundle::new().with(field, Value::Null).config();
        config.root.clone_from(&plain.root);
        assert_eq!(config, plain, "{field}");
    }
    assert!(Bundle::new().with("linux.intelRdt", Value::Null).warnings().is_empty());
}

#[test]
fn a_process_says_who_runs_what() {
    let bundle = Bundle::new().with(
        "process",
        json!({
            "terminal": true, "consoleSize": { "height": 25, "width": 80 },
            "user": { "uid": 7, "gid": 8, "umask": 63, "additionalGids": [9, 10] },
            "args": ["a", "b"], "env": ["A=1", "B=2", "A=3", "C=x=y"], "cwd": "/w",
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN"],
                "effective": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 5, "hard": 6 }],
            "noNewPrivileges": true, "oomScoreAdj": -5
        }),
    );
    let (config, _, warnings) = bundle.load().unwrap();
    let process = config.process;
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(process.terminal && process.no_new_privileges);
    assert_eq!(process.console_size, Some((25, 80)));
    assert_eq!((process.uid, process.gid, process.umask), (7, 8, 0o077));
    assert_eq!(process.groups, [9, 10]);
    assert_eq!(process.environment, ["B=2", "A=3", "C=x=y"]);
    assert_eq!(process.oom_score_adj, Some(-5));
    assert_eq!(process.limits, [process::LimitConfig { resource: 7, soft: 5, hard: 6 }]);
    let sets = process.capabilities;
    assert_eq!(
        (sets.bounding, sets.permitted, sets.effective, sets.inheritable, sets.ambient),
        (0x21, 1, 1, 1, 1)
    );
    assert!(sets.has_in_any(5) && !sets.has_in_any(6) && !sets.has_in_any(64));
}

#[test]
fn a_process_that_says_little_is_root_without_capabilities() {
    let process = Bundle::new().config().process;
    assert_eq!((process.uid, process.gid, process.umask), (0, 0, 0o022));
    assert_eq!(process.capabilities, process::CapabilitySets::default());
    assert_eq!((process.oom_score_adj, process.console_size), (None, None));
}

#[test]
fn capabilities_that_cannot_be_are_left_out() {
    let bundle = Bundle::new()
        .with("process.capabilities.bounding", json!(["CAP_FOO", "CAP_CHOWN"]))
        .with("process.capabilities.effective", json!(["CAP_KILL"]))
        .with("process.capabilities.ambient", json!(["CAP_CHOWN"]));
    let (config, _, warnings) = bundle.load().unwrap();
    assert_eq!(config.process.capabilities, process::CapabilitySets { bounding: 1, ..Default::default() });
    assert_eq!(warnings[0], "ignoring unknown or unavailable capabilities: [CAP_FOO]");
    assert!(warnings[1].contains("effective") && warnings[1].contains("CAP_KILL"));
    // What `runc spec` asks for is nothing to warn of.
    assert_eq!(warnings.len(), 2);
}

#[test]
fn what_no_program_can_be_given_is_refused() {
    assert!(Bundle::new().with("process.env", json!(["NOTHING"])).error().contains("has no '='"));
    assert!(Bundle::new().with("process.env", json!(["=x"])).error().contains("has no name"));
    assert!(Bundle::new().with("process.args", json!(["a\0b"])).error().contains("NUL"));
    assert!(Bundle::new().with("process.oomScoreAdj", json!(1001)).error().contains("1001"));
    let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": 2, "hard": 1 }]);
    assert!(Bundle::new().with("process.rlimits", limits).error().contains("invalid argument"));
}

#[test]
fn flags_of_mounts_are_those_of_mount_2() {
    for (option, flags) in [
        ("ro", flag::RDONLY),
        ("nosuid", flag::NOSUID),
        ("nodev", flag::NODEV),
        ("noexec", flag::NOEXEC),
        ("sync", flag::SYNCHRONOUS),
        ("mand", flag::MANDLOCK),
        ("dirsync", flag::DIRSYNC),
        ("noatime", flag::NOATIME),
        ("nodiratime", flag::NODIRATIME),
        ("relatime", flag::RELATIME),
        ("strictatime", flag::STRICTATIME),
        ("nosymfollow", flag::NOSYMFOLLOW),
        ("silent", flag::SILENT),
        ("iversion", flag::I_VERSION),
        ("lazytime", flag::LAZYTIME),
        ("defaults", 0),
    ] {
        let mount = Bundle::new().mount(&[option]).first_mount();
        assert_eq!((mount.flags, mount.cleared), (flags, 0), "{option}");
    }
    for (option, flags) in [
        ("rw", flag::RDONLY),
        ("suid", flag::NOSUID),
        ("dev", flag::NODEV),
        ("exec", flag::NOEXEC),
        ("async", flag::SYNCHRONOUS),
        ("atime", flag::NOATIME),
        ("diratime", flag::NODIRATIME),
        ("norelatime", flag::RELATIME),
        ("nostrictatime", flag::STRICTATIME),
    ] {
        let mount = Bundle::new().mount(&[option]).first_mount();
        assert_eq!((mount.flags, mount.cleared), (0, flags), "{option}");
    }
    // The last one counts.
    let mount = Bundle::new().mount(&["ro", "nosuid", "rw"]).first_mount();
    assert_eq!((mount.flags, mount.cleared), (flag::NOSUID, flag::RDONLY));
}

#[test]
fn flags_for_all_mounts_below_are_kept_apart() {
    for (option, flags) in [
        ("rro", flag::RDONLY),
        ("rnosuid", flag::NOSUID),
        ("rnodev", flag::NODEV),
        ("rnoexec", flag::NOEXEC),
        ("rnoatime", flag::NOATIME),
        ("rnodiratime", flag::NODIRATIME),
        ("rrelatime", flag::RELATIME),
        ("rstrictatime", flag::STRICTATIME),
        ("rnosymfollow", flag::NOSYMFOLLOW),
    ] {
        let mount = Bundle::new().mount_of("bind", &["rbind", option]).first_mount();
        assert_eq!((mount.flags, mount.recursive_flags, mount.recursive_cleared), (0, flags, 0), "{option}");
        assert_eq!(mount.own_flags(), flags);
    }
    let mount = Bundle::new().mount_of("bind", &["rbind", "ro", "rrw", "rdev"]).first_mount();
    assert_eq!(mount.recursive_cleared, flag::RDONLY | flag::NODEV);
    assert_eq!(mount.own_flags(), 0);
    let error = Bundle::new().mount_of("bind", &["rbind", "rnoatime", "rstrictatime"]).error();
    assert!(error.contains("exclude each other"), "{error}");
}

#[test]
fn a_bind_mount_is_known_by_type_or_option() {
    let inside = |mount: &MountConfig| match &mount.kind {
        MountKind::Bind { path, recursive } => (path.display().to_string(), *recursive),
        other => panic!("{other:?}"),
    };
    let mount = Bundle::new().mount_of("bind", &["rbind", "rprivate", "slave"]).first_mount();
    assert_eq!(inside(&mount), ("/tmp".to_owned(), true));
    assert_eq!(mount.propagation, [flag::PRIVATE | flag::REC, flag::SLAVE]);
    let mount = Bundle::new().mount_of("none", &["bind"]).first_mount();
    assert!(!inside(&mount).1);
    let bundle =
        Bundle::new().with("mounts", json!([{ "destination": "/m", "source": "data", "options": ["bind"] }]));
    let expected = bundle.directory.path().join("data").display().to_string();
    assert_eq!(inside(&bundle.first_mount()).0, expected);
    let bundle = Bundle::new().with("mounts", json!([{ "destination": "/m", "options": ["bind"] }]));
    assert!(bundle.error().contains("no source"));
    assert!(Bundle::new().mount_of("bind", &["z"]).warnings()[0].contains("\"z\""));
}

#[test]
fn options_of_a_tmpfs_are_all_taken() {
    let options = ["size=64k", "mode=1755", "uid=3", "gid=4", "nr_inodes=2k"];
    let expected = TmpfsOptions {
        size: Some(Size::Bytes(65536)),
        files: Some(2048),
        mode: Some(0o1755),
        uid: Some(3),
        gid: Some(4),
    };
    assert_eq!(Bundle::new().mount(&options).first_mount().kind, MountKind::Tmpfs(expected));
    let size = |option: &str| match Bundle::new().mount(&[option]).first_mount().kind {
        MountKind::Tmpfs(options) => options.size.unwrap().bytes(1 << 30),
        other => panic!("{other:?}"),
    };
    assert_eq!(size("size=2G"), 2 << 30);
    assert_eq!(size("size=50%"), 1 << 29);
    assert_eq!(size("nr_blocks=2"), 8192);
    assert_eq!(size("size=0"), 0);
    for option in [
        "size=x",
        "size=",
        "size=k",
        "size=-1",
        "size=+1",
        "size=99999999999999999999g",
        "mode=9",
        "mode=77777",
        "uid=-1",
        "foo=bar",
        "foo",
    ] {
        let error = Bundle::new().mount(&[option]).error();
        assert!(error.contains(option) && error.contains("invalid argument"), "{error}");
    }
    assert!(Bundle::new().mount(&["huge=always"]).warnings()[0].contains("huge=always"));
    assert!(Bundle::new().mount(&["tmpcopyup"]).first_mount().copy_up);
    assert!(Bundle::new().mount_of("proc", &["tmpcopyup"]).error().contains("tmpcopyup"));
}

#[test]
fn options_of_proc_and_devpts_are_all_taken() {
    let mount = Bundle::new().mount_of("proc", &["hidepid=2", "gid=9", "subset=pid", "nosuid"]).first_mount();
    let expected = ProcOptions { hide_pid: Some(2), gid: Some(9), only_processes: true };
    assert_eq!((mount.kind, mount.flags), (MountKind::Proc(expected), flag::NOSUID));
    let options = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "uid=1", "max=10"];
    let expected = DevptsOptions {
        mode: Some(0o620),
        ptmx_mode: Some(0o666),
        uid: Some(1),
        gid: Some(5),
        max: Some(10),
    };
    assert_eq!(Bundle::new().mount_of("devpts", &options).first_mount().kind, MountKind::Devpts(expected));
    assert!(Bundle::new().mount_of("sysfs", &["x=y"]).error().contains("x=y"));
    assert!(Bundle::new().mount_of("ext4", &[]).error().contains("no such device"));
    assert_eq!(Bundle::new().mount_of("cgroup2", &[]).first_mount().kind, MountKind::Cgroup { v2: true });
}

#[test]
fn destinations_are_absolute_and_cannot_lead_out() {
    let destination = |path: &str| {
        Bundle::new()
            .with("mounts", json!([{ "destination": path, "type": "tmpfs" }]))
            .load()
            .map(|(config, ..)| config.mounts[0].destination.clone())
    };
    assert_eq!(destination("/a//b/./c/../d/").unwrap(), "/a/b/d");
    assert_eq!(destination("/../../etc").unwrap(), "/etc");
    assert_eq!(destination("/").unwrap(), "/");
    assert!(destination("rel").is_err() && destination("").is_err());
}

#[test]
fn owners_in_bind_mounts_are_mapped_as_their_mount_or_the_container_says() {
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
    let range = IdMapping { container_id: 0, host_id: 100_000, size: 10 };
    let mapped = |kind: &str, options: &[&str]| {
        let bundle = Bundle::new().mount_of(kind, options);
        bundle.with("mounts[].uidMappings", map.clone()).with("mounts[].gidMappings", map.clone())
    };
    let owners = |recursive| Some(MountOwners { uids: vec![range], gids: vec![range], recursive });
    assert_eq!(mapped("bind", &["rbind"]).first_mount().owners, owners(false));
    assert_eq!(mapped("bind", &["rbind", "ridmap"]).first_mount().owners, owners(true));
    assert!(mapped("tmpfs", &[]).error().contains("only owners in bind mounts"));
    let half = Bundle::new().mount_of("bind", &["bind"]).with("mounts[].uidMappings", map.clone());
    assert!(half.error().contains("go together"));
    let container = || {
        let bundle = Bundle::new().with("linux.namespaces", json!([{ "type": "user" }]));
        bundle.with("linux.uidMappings", map.clone()).with("linux.gidMappings", map.clone())
    };
    let own = container().mount_of("bind", &["rbind", "idmap"]).first_mount().owners;
    assert_eq!(own, Some(MountOwners { uids: vec![], gids: vec![], recursive: false }));
    let none = Bundle::new().mount_of("bind", &["rbind", "idmap"]).error();
    assert!(none.contains("idmap and ridmap need uidMappings"), "{none}");
    let other = container().mount_of("bind", &["idmap=uids=0-1-2"]).error();
    assert!(other.starts_with("mounts[].options is not supported"), "{other}");
}

#[test]
fn mounts_follow_the_hosts_if_they_are_shared_or_slaves() {
    let load = |options: &[&str]| {
        let (config, _, warnings) = Bundle::new().mount_of("bind", options).load().unwrap();
        (config.mounts.last().unwrap().ties(), warnings)
    };
    for option in ["shared", "rshared"] {
        let (ties, warnings) = load(&["rbind", option]);
        assert_eq!(ties, Ties::Following, "{option}");
        assert!(warnings[0].contains("do not travel out"), "{option}");
    }
    for option in ["slave", "rslave"] {
        assert_eq!(load(&["rbind", option]), (Ties::Following, Vec::new()), "{option}");
    }
    for options in [&["rbind"][..], &["rbind", "rprivate"], &["rbind", "rslave", "rprivate"]] {
        assert_eq!(load(options), (Ties::None, Vec::new()), "{options:?}");
    }
}

#[test]
fn mappings_of_the_container_need_its_user_namespace() {
    let map = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
    let bundle = Bundle::new().with("linux.uidMappings", map.clone()).with("linux.gidMappings", map.clone());
    assert!(bundle.error().contains("user namespace isn't enabled"));
    let bundle = bundle.with("linux.namespaces", json!([{ "type": "user" }]));
    assert_eq!(bundle.config().uid_mappings, [IdMapping { container_id: 0, host_id: 1, size: 1 }]);
    let same = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    let same = bundle.with("linux.uidMappings", same.clone()).with("linux.gidMappings", same);
    assert_eq!(same.config().uid_mappings, [IdMapping { container_id: 0, host_id: 0, size: 1 }]);
    assert!(same.with("linux.gidMappings", json!([])).error().contains("no user and group mappings"));
}

#[test]
fn settings_need_their_namespace() {
    let with = |name: &str| Bundle::new().with("linux.sysctl", json!({ name: "1" }));
    for name in [
        "net.ipv4.ip_forward",
        "net/ipv4/ip_forward",
        "kernel.shmmax",
        "fs.mqueue.msg_max",
        "kernel.domainname",
    ] {
        assert_eq!(with(name).config().sysctl[name], "1");
        let error = with(name).with("linux.namespaces", json!([])).error();
        assert!(error.contains(name) && error.contains("not allowed"), "{error}");
    }
    assert!(with("kernel.hostname").error().contains("conflicts with the OCI \"hostname\" field"));
    let (_, _, warnings) = with("net.ipv4.ip_forward").load().unwrap();
    assert_eq!(
        warnings,
        ["linux.sysctl.net.ipv4.ip_forward is ignored: the network inside has no such setting"]
    );
}

#[test]
fn devices_have_usual_permissions() {
    let bundle = Bundle::new()
        .with("linux.devices", json!([{ "path": "/dev/x", "type": "u", "major": 1, "minor": 3 }]));
    let device = bundle.config().devices[0].clone();
    assert_eq!((device.kind, device.mode, device.uid), (DeviceKind::Character, 0o666, 0));
    let bundle = bundle.with("linux.devices[].major", json!(-1));
    assert!(bundle.error().contains("-1:3"));
    assert!(bundle.with("linux.devices[].path", json!("x")).error().contains("not absolute"));
}

#[test]
fn annotations_of_both_engines_name_the_sandbox() {
    for (kind, sandbox) in [
        ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
        ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
    ] {
        let with = |value: &str| Bundle::new().with("annotations", json!({ kind: value, sandbox: "pod-1" }));
        assert_eq!(with("sandbox").config().container_type, ContainerType::Sandbox);
        let expected = ContainerType::Container { sandbox: Id::new("pod-1").unwrap() };
        assert_eq!(with("container").config().container_type, expected);
        assert!(with("pod").error().contains("unknown container-type"));
        let bundle = Bundle::new().with("annotations", json!({ kind: "container" }));
        assert!(bundle.error().contains("no sandbox ID"));
        let bundle = Bundle::new().with("annotations", json!({ kind: "container", sandbox: "../x" }));
        assert!(bundle.error().contains("invalid container id"));
    }
    assert_eq!(Bundle::new().config().container_type, ContainerType::Single);
}

#[test]
fn a_config_is_read_back_as_it_was_saved() {
    let config = Bundle::new().mount_of("bind", &["rbind", "ro"]).config();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ContainerConfig>(&text).unwrap(), config);
}

#[test]
fn a_process_of_exec_is_checked_likewise() {
    let text = br#"{"args":["ls"],"cwd":"/","capabilities":{"bounding":["CAP_FOO"]},"apparmorProfile":"x","what":1}"#;
    let (process, warnings) = parse_process(text).unwrap();
    assert_eq!(process.args().as_deref(), Some(&["ls".to_owned()][..]));
    assert!(warnings.iter().any(|warning| warning.starts_with("process.what is unknown")));
    assert!(warnings.iter().any(|warning| warning.starts_with("process.apparmorProfile")));
    assert!(parse_process(b"{}").is_err());
    assert!(parse_process(b"[").is_err());
}

#[test]
fn resources_of_update_are_checked_likewise() {
    let (resources, warnings) = parse_resources(br#"{"memory":{"limit":5,"kernel":6},"cpu":null}"#).unwrap();
    assert_eq!(resources.memory().unwrap().limit(), Some(5));
    assert_eq!(warnings.len(), 1);
    let error = parse_resources(br#"{"memory":{"limit":"x"}}"#).unwrap_err().to_string();
    assert!(error.starts_with("linux.resources.memory.limit: "), "{error}");
}

#[test]
fn unknown_fields_are_named_once() {
    let bundle = Bundle::new()
        .with("process.future", json!(1))
        .with("mounts", json!([{ "destination": "/a", "type": "tmpfs", "x": 1 }, { "destination": "/b", "type": "tmpfs", "x": 1 }]));
    assert_eq!(
        bundle.warnings(),
        ["mounts[].x is unknown and is ignored", "process.future is unknown and is ignored"]
    );
}

/// A value for a field, such that it makes a difference.
fn example(path: &str) -> Value {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    match path {
        "ociVersion" => json!("1.1.0"),
        "root.path" => json!("/"),
        "mounts[].destination" => json!("/elsewhere"),
        "mounts[].type" => json!("proc"),
        "mounts[].source" => json!("elsewhere"),
        "mounts[].options" => json!(["rbind", "ro"]),
        path if path.starts_with("mounts") && path.ends_with("Mappings") => map,
        path if path.ends_with("Mappings") => json!([{ "containerID": 0, "hostID": 0, "size": 10 }]),
        "process.consoleSize" => json!({ "height": 1, "width": 2 }),
        "process.cwd" => json!("/elsewhere"),
        "process.env" => json!(["A=b"]),
        "process.args" => json!(["other"]),
        "process.rlimits[].type" => json!("RLIMIT_CORE"),
        path if path.starts_with("process.capabilities.") => json!(["CAP_KILL"]),
        "process.oomScoreAdj" => json!(5),
        "process.scheduler" => json!({ "policy": "SCHED_OTHER" }),
        "process.ioPriority" => json!({ "class": "IOPRIO_CLASS_BE", "priority": 1 }),
        "process.execCPUAffinity" => json!({ "initial": "0" }),
        "process.user.additionalGids" => json!([5]),
        path if path.starts_with("hooks.") && path.ends_with("path") => json!("/elsewhere"),
        path if path.starts_with("hooks.") && !path.ends_with("timeout") => json!(["A=b"]),
        "annotations.*" => json!("value"),
        "linux.namespaces[].type" => json!("user"),
        "linux.namespaces[].path" => json!("/proc/1/ns/mnt"),
        "linux.timeOffsets" => json!({ "boottime": { "secs": 1 } }),
        "linux.devices[].path" => json!("/dev/elsewhere"),
        "linux.devices[].type" => json!("b"),
        "linux.seccomp" => json!({ "defaultAction": "SCMP_ACT_ALLOW" }),
        "linux.netDevices" => json!({ "eth0": {} }),
        "linux.cgroupsPath" => json!("/elsewhere"),
        "linux.rootfsPropagation" => json!("slave"),
        "linux.maskedPaths" | "linux.readonlyPaths" => json!(["/proc/elsewhere"]),
        "linux.personality" => json!({ "domain": "LINUX" }),
        "linux.intelRdt" => json!({ "closID": "x" }),
        "linux.memoryPolicy" => json!({ "mode": "MPOL_DEFAULT" }),
        "linux.resources.devices" => json!([{ "allow": false, "access": "rwm" }]),
        "linux.resources.cpu.cpus" | "linux.resources.cpu.mems" => json!("0"),
        "linux.resources.blockIO.weightDevice" => json!([{ "major": 1, "minor": 2, "weight": 3 }]),
        path if path.starts_with("linux.resources.blockIO.throttle") => {
            json!([{ "major": 1, "minor": 2, "rate": 3 }])
        }
        "linux.resources.hugepageLimits" => json!([{ "pageSize": "2MB", "limit": 1 }]),
        "linux.resources.network" => json!({ "classID": 1 }),
        "linux.resources.rdma" => json!({ "mlx5": { "hcaHandles": 1 } }),
        "linux.seccomp.defaultAction" | "linux.seccomp.syscalls[].action" => json!("SCMP_ACT_TRAP"),
        "linux.seccomp.architectures" => json!(["SCMP_ARCH_X86"]),
        "linux.seccomp.flags" => json!(["SECCOMP_FILTER_FLAG_LOG"]),
        "linux.seccomp.syscalls[].names" => json!(["getuid"]),
        "linux.seccomp.syscalls[].args" => json!([{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }]),
        "linux.seccomp.syscalls[].includes" | "linux.seccomp.syscalls[].excludes" => json!({ "caps": ["x"] }),
        "windows" => json!({ "layerFolders": ["x"] }),
        "solaris" => json!({ "milestone": "x" }),
        "vm" => json!({ "kernel": { "path": "/x" } }),
        "zos" => json!({ "namespaces": [{ "type": "pid" }] }),
        "process.terminal" | "process.noNewPrivileges" | "root.readonly" => json!(true),
        "linux.resources.memory.disableOOMKiller"
        | "linux.resources.memory.useHierarchy"
        | "linux.resources.memory.checkBeforeUpdate" => json!(true),
        path if [
            "apparmorProfile",
            "selinuxLabel",
            "commandLine",
            "username",
            "hostname",
            "domainname",
            "mountLabel",
            "listenerPath",
            "listenerMetadata",
            "comment",
        ]
        .iter()
        .any(|text| path.ends_with(text)) =>
        {
            json!("text")
        }
        "linux.sysctl.*" | "linux.resources.unified.*" => json!("7"),
        _ => json!(7),
    }
}

/// A specification in which every list has an element that can be changed.
fn full() -> Bundle {
    let hook = json!([{ "path": "/hook", "args": ["x"], "env": ["X=y"], "timeout": 3 }]);
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let hooks: serde_json::Map<_, _> =
        hooks.into_iter().map(|name| (name.to_owned(), hook.clone())).collect();
    let all = json!(["CAP_CHOWN", "CAP_KILL", "CAP_FOWNER"]);
    let none = json!([]);
    let map = json!([{ "containerID": 0, "hostID": 5, "size": 1 }]);
    Bundle::new()
        .with("mounts", json!([{ "destination": "/m", "type": "bind", "source": "/tmp", "options": ["rbind"], "uidMappings": map, "gidMappings": map }]))
        .with("hooks", Value::Object(hooks))
        .with("process.rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 3, "hard": 9 }]))
        .with("process.capabilities", json!({ "bounding": all, "permitted": all, "inheritable": all, "effective": none, "ambient": none }))
        .with("linux.namespaces", json!([{ "type": "mount" }, { "type": "ipc" }, { "type": "network" }, { "type": "uts" }, { "type": "user" }]))
        .with("linux.uidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 1 }]))
        .with("linux.gidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 1 }]))
        .with("linux.devices", json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }]))
}

/// What a specification comes to, in all its parts.
fn outcome(bundle: &Bundle) -> Result<(String, Vec<String>)> {
    let (config, spec, warnings) = bundle.load()?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    let hooks = spec.hooks();
    let annotations = annotations(&spec);
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let text = format!("{config:?} {resources:?} {hooks:?} {annotations:?} {seccomp:?}");
    Ok((text.replace(&bundle.directory.path().display().to_string(), "BUNDLE"), warnings))
}

#[test]
fn the_table_says_what_becomes_of_every_field() {
    let (before, warnings) = outcome(&full()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    for field in FIELDS {
        let path = field.path.replace(
            "*",
            match field.path {
                "linux.sysctl.*" => "kernel\u{2024}shmmax",
                _ => "name",
            },
        );
        let mut bundle = full().with(&path, example(field.path));
        // A dot in a name is not a step.
        if field.path == "linux.sysctl.*" {
            bundle = full().with("linux.sysctl", json!({ "kernel.shmmax": "7" }));
        }
        match path.as_str() {
            "linux.namespaces[].type" => {
                bundle = full().with("linux.namespaces", json!([{ "type": "user" }]))
            }
            "mounts[].type" => {
                bundle = bundle.with("mounts", json!([{ "destination": "/m", "type": "proc" }]))
            }
            _ => {}
        }
        let result = outcome(&bundle);
        let named = |warnings: &[String]| warnings.iter().any(|warning| warning.starts_with(field.path));
        match (field.treatment, result) {
            (Treatment::Refused, Err(error)) => {
                assert!(error.to_string().starts_with(field.path), "{path}: {error}")
            }
            (Treatment::Ignored, Ok((_, warnings))) => assert!(named(&warnings), "{path}: {warnings:?}"),
            (Treatment::Moot, Ok((_, warnings))) => assert!(warnings.is_empty(), "{path}: {warnings:?}"),
            (Treatment::Honoured | Treatment::Inside, Ok((after, warnings))) => {
                assert!(warnings.is_empty(), "{path}: {warnings:?}");
                assert!(before != after || path == "ociVersion", "{path} makes no difference");
            }
            (treatment, result) => panic!("{path} should be {treatment:?}: {result:?}"),
        }
    }
}

/// All fields that the `oci-spec` crate knows, for Linux, are in the table: none is forgotten when it learns new ones.
#[test]
fn the_table_has_every_field_once() {
    let mut seen = std::collections::HashSet::new();
    for field in FIELDS {
        assert!(seen.insert(field.path), "{} twice", field.path);
    }
    let mut spec = template::default_spec();
    let mut warnings = Vec::new();
    fields::review(&spec, &mut warnings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    spec["linux"]["unheard"] = json!(1);
    fields::review(&spec, &mut warnings).unwrap();
    assert_eq!(warnings, ["linux.unheard is unknown and is ignored"]);
}

#[test]
fn the_documentation_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oci-spec.md");
    if std::env::var_os("NACELLE_BLESS").is_some() {
        fs::write(&path, fields::markdown()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == fields::markdown(), "run NACELLE_BLESS=1 cargo test -p container documentation");
}

#[test]
fn the_specification_of_spec_is_one_that_runs_without_warnings() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("rootfs")).unwrap();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for spec in [template::default_spec(), template::rootless_spec(uid, gid)] {
        let _ = fs::remove_file(directory.path().join(CONFIG));
        template::write(directory.path(), &spec).unwrap();
        let Document { spec, mut warnings } = read(directory.path()).unwrap();
        let config = ContainerConfig::new(&spec, directory.path(), &mut warnings).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(config.process.arguments, ["sh"]);
        let error = template::write(directory.path(), &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "File config.json exists. Remove it first");
    }
    let config = template::rootless_spec(1000, 1001);
    assert_eq!(config["linux"]["uidMappings"][0]["hostID"], 1000);
    assert_eq!(config["linux"]["gidMappings"][0]["hostID"], 1001);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = parse(text.as_bytes());
        let _ = parse_process(text.as_bytes());
        let _ = parse_resources(text.as_bytes());
    }

    #[test]
    fn no_options_make_the_reader_panic(kind in "(bind|tmpfs|proc|devpts|cgroup|x|)", options in proptest::collection::vec("[a-z]{0,9}(=[0-9a-z%]{0,9})?", 0..6)) {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let _ = Bundle::new().mount_of(&kind, &options).load();
    }
}
