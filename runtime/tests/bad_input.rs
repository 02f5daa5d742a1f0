//! Bad input: bundles and names that are wrong in one thing. Each is refused by `run` and by `create` with one clear line
//! and the exit status of `runc`, and leaves nothing behind. Where `runc` is installed it is asked, too.

mod bundles;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bundles::{Host, can_run, until};
use serde_json::{Value, json};

/// The text of a configuration that is JSON, but no specification.
const JSON_OF_SOMETHING: &str = "{\"hello\": 1}";
/// How many cases are tried at a time.
const PARALLEL: usize = 2;

/// What is wrong.
enum Input {
    /// A value at a place of the specification (a JSON pointer).
    Set(&'static str, Value),
    /// No value at that place.
    Unset(&'static str),
    /// The text of `config.json`.
    Text(&'static str),
    /// The bundle's directory.
    Bundle(&'static str),
    /// No `config.json`.
    NoConfig,
    /// A directory instead of it.
    ConfigIsDirectory,
    /// The name of the container.
    Id(String),
}

/// What is to come of it.
#[derive(Clone, Copy)]
enum Outcome {
    /// Exit status 1 and a line with this text; `runc` has the same status.
    Refused(&'static str),
    /// The same, but `runc` lets it pass, or fails in a way of its own.
    RefusedByUs(&'static str),
    /// It runs, there and here.
    Runs,
    /// It runs, there and here, with a line that has this text.
    Warns(&'static str),
    /// The same, but `runc` refuses it.
    WarnsHere(&'static str),
}

use Input::{Bundle, ConfigIsDirectory, Id, NoConfig, Set, Text, Unset};
use Outcome::{Refused, RefusedByUs, Runs, Warns, WarnsHere};

fn bundle_cases() -> Vec<(Input, Outcome)> {
    vec![
        (Bundle("/no/such/bundle"), Refused("/no/such/bundle/config.json not found")),
        (Bundle("/etc/passwd"), Refused("/etc/passwd/config.json: Not a directory")),
        (NoConfig, Refused("config.json not found")),
        (ConfigIsDirectory, Refused("config.json: Is a directory")),
        (Text(""), Refused("is not valid JSON")),
        (Text("not JSON"), Refused("is not valid JSON")),
        (Text("{\"ociVersion\":"), Refused("is not valid JSON")),
        (Text("\u{feff}{}"), Refused("is not valid JSON")),
        (Text("\0\x01\x7f"), Refused("is not valid JSON")),
        (Text("[]"), Refused("config.json must be an object")),
        // runc panics.
        (Text("null"), RefusedByUs("config.json must be an object")),
        (Text("{}"), Refused("must be specified")),
        (Text(JSON_OF_SOMETHING), Refused("must be specified")),
        (Unset("/ociVersion"), Runs),
        (Set("/ociVersion", json!("")), Runs),
        (Set("/ociVersion", json!("0.1.0")), RefusedByUs("ociVersion \"0.1.0\" is not supported")),
        (Set("/ociVersion", json!("new")), RefusedByUs("ociVersion \"new\" is not supported")),
        (Set("/ociVersion", json!(1)), Refused("ociVersion: invalid type: integer `1`, expected a string")),
        (Set("/annotations", json!({ "a": 1 })), Refused("annotations.a: invalid type")),
        (Set("/hostname", json!(5)), Refused("hostname: invalid type")),
        (Set("/hostname", json!("h".repeat(65))), Refused("hostname: invalid argument")),
        (Id("a/b".into()), Refused("invalid container id \"a/b\"")),
        (Id("..".into()), Refused("invalid container id \"..\"")),
        (Id(".".into()), Refused("invalid container id \".\"")),
        (Id(String::new()), Refused("it must not be empty")),
        (Id("a b".into()), Refused("invalid container id \"a b\"")),
        (Id("ä".into()), Refused("invalid container id")),
        (Id("a\nb".into()), Refused(r#"invalid container id "a\nb""#)),
        (Id("a".repeat(1100)), Refused("invalid container id of 1100 bytes")),
        (Id("A+b_c-d.e".into()), Runs),
    ]
}

fn process_cases() -> Vec<(Input, Outcome)> {
    let file = |soft: u64, hard: u64| json!([{ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard }]);
    vec![
        (Unset("/process"), Refused("process property must not be empty")),
        (Set("/process", Value::Null), Refused("process property must not be empty")),
        (Set("/process", json!(7)), Refused("process must be an object")),
        (Unset("/process/args"), Refused("args must not be empty")),
        (Set("/process/args", json!([])), Refused("args must not be empty")),
        (Set("/process/args", json!("true")), Refused("process.args: invalid type")),
        (Set("/process/args", json!([1])), Refused("process.args[0]: invalid type")),
        (Set("/process/args", json!([""])), Refused("executable file not found in $PATH")),
        (Set("/process/args", json!(["nope"])), Refused("executable file not found in $PATH")),
        (Set("/process/args", json!(["/bin/nope"])), Refused("\"/bin/nope\": no such file or directory")),
        (Set("/process/args", json!(["/etc/text"])), Refused("\"/etc/text\": permission denied")),
        (Set("/process/args", json!(["/etc/text/x"])), Refused("\"/etc/text/x\": not a directory")),
        (Set("/process/args", json!(["/etc"])), Refused("\"/etc\": permission denied")),
        // runc finds these out when it starts them, `run` fails all the same.
        (Set("/process/args", json!(["/etc/junk"])), Refused("\"/etc/junk\": exec format error")),
        (Set("/process/args", json!(["/etc/script"])), Refused("\"/etc/script\": no such file or directory")),
        (Set("/process/args", json!(["/bin/true", "a\0b"])), Refused("has a NUL in it")),
        (Set("/process/env", json!("A=b")), Refused("process.env: invalid type")),
        (
            Set("/process/env", json!(["PATH=/bin", "NAME"])),
            Refused("invalid environment variable: \"NAME\""),
        ),
        (Set("/process/env", json!(["A=\0"])), Refused("has a NUL in it")),
        (Unset("/process/cwd"), Refused("Cwd property must not be empty")),
        (Set("/process/cwd", json!("")), Refused("Cwd property must not be empty")),
        (Set("/process/cwd", json!(7)), Refused("process.cwd: invalid type")),
        (Set("/process/cwd", json!("tmp")), Refused("Cwd must be an absolute path")),
        (Set("/process/cwd", json!("/made/for/it")), Runs),
        (Set("/process/cwd", json!("/etc/text")), Refused("cannot enter the working directory /etc/text")),
        (Unset("/process/user"), Runs),
        (Set("/process/user", json!("root")), Refused("process.user must be an object")),
        (Set("/process/user", json!({ "uid": 12345, "gid": 54321, "additionalGids": [7, 8] })), Runs),
        (Set("/process/user/uid", json!("0")), Refused("process.user.uid: invalid type")),
        (Set("/process/user/uid", json!(-1)), Refused("process.user.uid: invalid value")),
        (Set("/process/user/uid", json!(1.5)), Refused("process.user.uid: invalid type")),
        (Set("/process/user/uid", json!(u32::MAX)), Refused("must be in range 0-2147483647")),
        (Set("/process/terminal", json!("no")), Refused("process.terminal: invalid type")),
        (
            Set("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_NOPE"])),
            Warns("ignoring unknown or unavailable capabilities: [CAP_NOPE]"),
        ),
        (
            Set("/process/rlimits", json!([{ "type": "RLIMIT_NOPE", "soft": 1, "hard": 1 }])),
            Refused("wrong rlimit value: RLIMIT_NOPE"),
        ),
        (Set("/process/rlimits", file(100, 10)), Refused("soft limit above its hard limit")),
        (
            Set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": -1, "hard": -1 }])),
            Refused("process.rlimits[0].hard: invalid value"),
        ),
        (Set("/process/oomScoreAdj", json!(5000)), Refused("process.oomScoreAdj: 5000 is not between")),
    ]
}

fn file_cases() -> Vec<(Input, Outcome)> {
    let mount = |mount: Value| Set("/mounts", json!([mount]));
    vec![
        (Unset("/root"), Refused("root must be specified")),
        (Set("/root", json!("x")), Refused("root must be an object")),
        (Set("/root/path", json!("/no/such/root")), Refused("invalid rootfs: stat /no/such/root")),
        (Set("/root/path", json!("nope")), Refused("/nope: no such file or directory")),
        (Set("/root/path", json!("/etc/passwd")), Refused("invalid rootfs: /etc/passwd is not a directory")),
        (Set("/root/path", json!("")), Refused("root.path must not be empty")),
        (Set("/mounts", json!({})), Refused("mounts must be a list")),
        (
            mount(
                json!({ "destination": "/mnt", "type": "bind", "source": "/no/such", "options": ["bind"] }),
            ),
            Refused("/no/such: No such file or directory"),
        ),
        (
            mount(json!({ "destination": "/mnt", "type": "bind", "options": ["bind"] })),
            Refused("bind mount \"/mnt\" has no source"),
        ),
        (
            mount(
                json!({ "destination": "/etc", "type": "bind", "source": "/etc/passwd", "options": ["bind"] }),
            ),
            Refused("cannot mount /etc: Not a directory"),
        ),
        (
            mount(
                json!({ "destination": "/etc/text", "type": "bind", "source": "/tmp", "options": ["bind"] }),
            ),
            Refused("cannot mount /etc/text: Not a directory"),
        ),
        (
            mount(json!({ "destination": "/etc/text/x", "type": "tmpfs", "source": "tmpfs" })),
            Refused("/etc/text/x: Not a directory"),
        ),
        (mount(json!({ "type": "tmpfs" })), Refused("mounts[0]: missing field `destination`")),
        (
            mount(json!({ "destination": "/mnt", "type": "nopefs", "source": "x" })),
            Refused("no such device: the file system \"nopefs\" is not supported"),
        ),
        (
            mount(json!({ "destination": "/tmp", "type": "tmpfs", "source": "t", "options": ["nope=1"] })),
            Refused("mount \"/tmp\": invalid argument: the option \"nope=1\""),
        ),
        (
            mount(json!({ "destination": "/tmp", "type": "tmpfs", "source": "t", "options": ["size=lots"] })),
            Refused("the option \"size=lots\""),
        ),
    ]
}

fn linux_cases() -> Vec<(Input, Outcome)> {
    let resources = |value: Value| Set("/linux/resources", value);
    vec![
        (Unset("/linux"), Runs),
        (Set("/linux", json!([])), Refused("linux must be an object")),
        (
            Set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "nope" }])),
            Refused("namespace {\"nope\" \"\"} does not exist"),
        ),
        (
            Set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid" }, { "type": "pid" }])),
            Refused("duplicated ns {\"pid\" \"\"}"),
        ),
        (
            Set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid", "path": "/no/such" }])),
            RefusedByUs("namespace path: lstat /no/such: no such file or directory"),
        ),
        (
            Set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid" }, { "type": "user" }])),
            Refused("no user and group mappings found"),
        ),
        (
            Set("/linux/sysctl", json!({ "nope.nope": "1" })),
            Refused("sysctl \"nope.nope\" is not in a separate"),
        ),
        (
            Set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NOPE" })),
            Refused("string SCMP_ACT_NOPE is not a valid action for seccomp"),
        ),
        (
            Set("/linux/devices", json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 3 }])),
            Refused("invalid device type \"z\""),
        ),
        (Set("/linux/rootfsPropagation", json!("nope")), Refused("rootfsPropagation=nope is not supported")),
        (resources(json!({ "memory": { "limit": -5 } })), Refused("memory.limit: invalid argument: -5")),
        (resources(json!({ "cpu": { "cpus": "nope" } })), Refused("failed to write \"nope\"")),
        // Whoever asks for it has a profile for runc's host; there is nothing here that it could hold back.
        (
            Set("/process/apparmorProfile", json!("nope")),
            WarnsHere("process.apparmorProfile is not supported"),
        ),
        (
            Set("/hooks", json!({ "prestart": [{ "path": "/no/such/hook" }] })),
            Refused("/no/such/hook: no such file or directory"),
        ),
        (
            Set("/hooks", json!({ "createRuntime": [{ "path": "/bin/false" }] })),
            Refused("error running createRuntime hook #0: error running hook: exit status 1"),
        ),
    ]
}

/// One case in a directory of its own.
struct Trial {
    host: Host,
    bundle: PathBuf,
    id: String,
    name: String,
}

impl Trial {
    fn new(number: usize, input: &Input) -> Trial {
        let host = Host::new();
        let mut name = format!("{number}");
        let mut bundle = host.bundle_with("bundle", "true", |spec| match input {
            Set(place, value) => {
                name = format!("{place} = {value}");
                set(spec, place, value.clone());
            }
            Unset(place) => {
                name = format!("no {place}");
                let (parent, key) = place.rsplit_once('/').expect("a place");
                spec.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(key);
            }
            _ => {}
        });
        let write = |path: &str, text: &str, mode: u32| {
            let path = bundle.join("rootfs/etc").join(path);
            std::fs::write(&path, text).expect("a file");
            let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("ours");
        };
        write("text", "text", 0o644);
        write("junk", "junk", 0o755);
        write("script", "#!/no/such/interpreter\n", 0o755);
        let config = bundle.join("config.json");
        // Names of containers are also those of cgroups, which all of the machine share.
        let mut id = format!("bad-input-{}-{number}", std::process::id());
        match input {
            Text(text) => {
                name = format!("config.json is {text:?}");
                std::fs::write(config, text).expect("a file");
            }
            Bundle(path) => {
                name = format!("bundle {path}");
                bundle = PathBuf::from(path);
            }
            NoConfig => std::fs::remove_file(config).expect("it is there"),
            ConfigIsDirectory => {
                std::fs::remove_file(&config).expect("it is there");
                std::fs::create_dir(config).expect("a directory");
            }
            Id(text) => {
                name = format!("id {:.20?}", text);
                id.clone_from(text);
            }
            Set(..) | Unset(_) => {}
        }
        Trial { host, bundle, id, name }
    }

    /// Fails unless the outcome is this one.
    fn check(&self, outcome: Outcome) {
        for verb in ["run", "create"] {
            let what = format!("{}: {verb}", self.name);
            let error = self.host.path("error");
            let output = std::fs::File::create(&error).expect("a file");
            let mut command = self.host.command(&[verb, "--bundle"]);
            command.arg(&self.bundle).arg("--").arg(&self.id).stdout(Stdio::null()).stderr(output);
            let status = command.status().expect("nacelle starts").code();
            let error = std::fs::read_to_string(error).expect("a text");
            let (code, text) = match outcome {
                Refused(text) | RefusedByUs(text) => (1, Some(text)),
                Warns(text) | WarnsHere(text) => (0, Some(text)),
                Runs => (0, None),
            };
            assert_eq!(status, Some(code), "{what}: {error}");
            assert_eq!(error.lines().count(), usize::from(text.is_some()), "{what}: {error}");
            assert!(error.contains(text.unwrap_or_default()), "{what}: {error:?} is not about {text:?}");
            if code == 0 && verb == "create" {
                self.host.run(&["delete", "--force", "--", &self.id]).ok();
            }
            self.host.assert_nothing_left();
            until("the end of all control groups", || control_groups(&self.id).is_empty());
            assert_eq!(self.host.mounts(), Vec::<String>::new(), "{what}");
        }
    }

    /// The status of `runc`.
    fn reference(&self, runc: &Path) -> Option<i32> {
        let state = self.host.path("runc");
        let run = |arguments: &[&str], more: &[&std::ffi::OsStr]| {
            // Without a mount namespace in the specification it mounts wherever it is.
            let mut command = Command::new("unshare");
            command.args(["--mount", "--"]).arg(runc).arg("--root").arg(&state).args(arguments).args(more);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?.code()
        };
        let id = std::ffi::OsStr::new(&self.id);
        let code = run(&["run", "--bundle"], &[self.bundle.as_os_str(), "--".as_ref(), id]);
        run(&["delete", "--force", "--"], &[id]);
        code
    }
}

/// Sets a value in a specification; what is on the way to it is made.
fn set(spec: &mut Value, place: &str, value: Value) {
    let mut at = spec;
    for key in place.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = value;
}

/// Control groups that have the name of a container.
fn control_groups(id: &str) -> Vec<PathBuf> {
    let ours = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        id.starts_with("bad-input-") && name.to_string_lossy().split('.').next() == Some(id)
    };
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let hierarchies = below("/sys/fs/cgroup".as_ref()).map(|entry| entry.path());
    hierarchies
        .flat_map(|path| below(&path).filter(ours).map(|entry| entry.path()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn bad_input_is_refused_in_one_line_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let runc = ["/usr/sbin/runc", "/usr/bin/runc"].iter().map(PathBuf::from).find(|path| path.exists());
    if runc.is_none() {
        bundles::skip("there is no runc to compare with");
    }
    let cases: Vec<_> =
        [bundle_cases(), process_cases(), file_cases(), linux_cases()].into_iter().flatten().collect();
    let (next, different) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((input, outcome)) = cases.get(number) else { return };
                    let trial = Trial::new(number, input);
                    trial.check(*outcome);
                    let expected = match outcome {
                        Refused(_) => 1,
                        Runs | Warns(_) => 0,
                        RefusedByUs(_) | WarnsHere(_) => continue,
                    };
                    let code = runc.as_deref().map(|runc| trial.reference(runc));
                    if code.is_some_and(|code| code != Some(expected)) {
                        different.lock().expect("no panic").push(format!("{}: runc {code:?}", trial.name));
                    }
                }
            });
        }
    });
    let different = different.into_inner().expect("no panic");
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn an_unreadable_bundle_is_refused() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("bundle", "true");
    let copy = host.path("nacelle");
    std::fs::copy(env!("CARGO_BIN_EXE_nacelle"), &copy).expect("a copy");
    let mode = |path: &Path, mode| {
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("ours");
    };
    mode(copy.parent().expect("a directory"), 0o755);
    for (path, what) in [(bundle.join("config.json"), "config.json"), (bundle.clone(), "bundle")] {
        mode(&path, 0o600);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=1", "--regid=1", "--clear-groups"]).arg(&copy);
        command
            .arg("--root")
            .arg(host.path("theirs"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg("unreadable");
        let output = command.stdin(Stdio::null()).output().expect("setpriv starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {error}");
        assert!(error.contains("Permission denied") && error.lines().count() == 1, "{what}: {error}");
    }
}
