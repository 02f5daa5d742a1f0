//! `nacelle do` and `nacelle run` from the outside: what a user sees.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn nacelle() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nacelle"));
    command.stdin(Stdio::null());
    command
}

fn inside(program: &[&str]) -> Output {
    nacelle().args(["do", "--"]).args(program).output().expect("nacelle starts")
}

fn natively(program: &[&str]) -> Output {
    Command::new(program[0]).args(&program[1..]).stdin(Stdio::null()).output().expect("the program starts")
}

/// Runs a program natively and inside; output and status must be the same.
fn same(program: &[&str]) {
    let (native, ours) = (natively(program), inside(program));
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&native.stdout), "{program:?}");
    assert_eq!(
        ours.status.code(),
        native.status.code(),
        "{program:?}: {}",
        String::from_utf8_lossy(&ours.stderr)
    );
}

#[test]
fn programs_behave_as_they_do_outside() {
    same(&["true"]);
    same(&["false"]);
    same(&["sh", "-c", "exit 7"]);
    same(&["id"]);
    same(&["ls", "/"]);
    same(&["ls", "-l", "/etc/passwd"]);
    same(&["sh", "-c", "echo out; echo err >&2; printf '%s\\n' a b c | sort -r | head -2"]);
    same(&[
        "sh",
        "-c",
        "cat <<E\nhere\nE\nx=$(echo sub); echo $x; (exit 3); echo $?; sleep 0.05 & wait; echo done",
    ]);
    same(&["bash", "-c", "trap 'echo trapped' USR1; kill -USR1 $$; cat <(echo substituted)"]);
    same(&["sh", "-c", "find /usr/share/doc -maxdepth 1 | sort | sha256sum"]);
    same(&["sh", "-c", "tar cf - /usr/share/doc/bash 2>/dev/null | gzip -n | gunzip | tar tf - | sort"]);
    same(&["pwd"]);
}

#[test]
fn a_death_by_signal_is_the_status_of_a_shell() {
    assert_eq!(inside(&["sh", "-c", "kill -TERM $$"]).status.code(), Some(143));
    assert_eq!(inside(&["sh", "-c", "kill -SEGV $$"]).status.code(), Some(139));
    assert_eq!(inside(&["sh", "-c", "kill -ABRT $$"]).status.code(), Some(134));
}

#[test]
fn a_program_that_cannot_be_run_says_so_in_one_line() {
    let missing = inside(&["no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert_eq!(String::from_utf8_lossy(&missing.stderr).lines().count(), 1);
    assert_eq!(inside(&["/etc/passwd"]).status.code(), Some(126));
}

#[test]
fn changes_to_the_root_vanish() {
    let name = format!("/etc/nacelle-test-{}", std::process::id());
    let script = format!("echo changed > {name} && cat {name} && rm /etc/passwd && ! test -e /etc/passwd");
    let output = inside(&["sh", "-c", &script]);
    // An ordinary user may not write to /etc, inside as outside.
    if rustix::process::geteuid().is_root() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!std::path::Path::new(&name).exists());
    assert!(std::path::Path::new("/etc/passwd").exists());
}

#[test]
fn a_volume_is_the_hosts_own_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("in"), "from outside\n").expect("a file");
    let volume = format!("{}:/data", directory.path().display());
    let run = |volume: &str, script: &str| {
        nacelle().args(["do", "--volume", volume, "--", "sh", "-c", script]).output().expect("nacelle starts")
    };
    let output = run(&volume, "cat /data/in; echo 'from inside' > /data/out");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from outside\n");
    assert_eq!(std::fs::read_to_string(directory.path().join("out")).ok().as_deref(), Some("from inside\n"));
    let refused = run(&format!("{volume}:ro"), "echo no > /data/out");
    assert!(!refused.status.success());
    assert_eq!(std::fs::read_to_string(directory.path().join("out")).ok().as_deref(), Some("from inside\n"));
}

#[test]
fn environment_user_and_directory_are_as_asked() {
    let script = "echo $GREETING; id -u; id -g; pwd; uname -r; hostname";
    let arguments =
        ["do", "--env", "GREETING=hi", "--user", "12:34", "--cwd", "/usr", "--hostname", "box", "--"];
    let output = nacelle().args(arguments).args(["sh", "-c", script]).output().expect("nacelle starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hi\n12\n34\n/usr\n6.12.0-nacelle\nbox\n");
}

#[test]
fn strace_shows_calls_by_name() {
    let output = nacelle()
        .args(["do", "--strace=openat", "--", "cat", "/etc/hostname"])
        .output()
        .expect("nacelle starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("openat(dfd=AT_FDCWD, filename=\"/etc/hostname\""), "{text}");
    assert!(!text.contains(" read("), "{text}");
    let wrong = nacelle().args(["do", "--strace=nosuchcall", "--", "true"]).output().expect("nacelle starts");
    assert_eq!(wrong.status.code(), Some(1));
}

/// Processes of the host that carry `mark` in their environment or arguments.
fn processes_with(mark: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("a procfs").flatten();
    let carries = |entry: &std::fs::DirEntry| {
        let text = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(mark)
    };
    entries.filter(carries).count()
}

#[test]
fn nothing_is_left_when_nacelle_is_killed() {
    let mark = format!("3{:07}", std::process::id());
    let script = format!("while true; do true; done; sleep {mark}");
    let mut child = nacelle().args(["do", "--", "sh", "-c", &script]).spawn().expect("nacelle starts");
    let start = Instant::now();
    while processes_with(&mark) < 2 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("killed");
    child.wait().expect("waited for");
    let start = Instant::now();
    while processes_with(&mark) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "a process is left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_signal_to_nacelle_reaches_the_program() {
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while true; do sleep 0.05; done";
    let mut child = nacelle()
        .args(["do", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("nacelle starts");
    let mut output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line, "got it\n");
    assert_eq!(child.wait().expect("waited for").code(), Some(5));
}

#[test]
fn an_ordinary_user_can_do_it_too() {
    if !rustix::process::geteuid().is_root() {
        return; // All other tests run as one then.
    }
    // The binary may lie where only root gets at it.
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("nacelle");
    std::fs::copy(env!("CARGO_BIN_EXE_nacelle"), &copy).expect("a copy");
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("open");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    let output = command.args(["do", "--cwd", "/", "--", "sh", "-c", "id -u; cat /etc/shadow; echo $?"]);
    let output = output.current_dir("/").stdin(Stdio::null()).output().expect("setpriv starts");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "65534\n1\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

mod bundle {
    use super::*;
    use std::path::Path;

    fn run(bundle: &Path) -> Output {
        nacelle().arg("run").arg("--bundle").arg(bundle).arg("test").output().expect("nacelle starts")
    }

    fn config(program: &str, root: &str) -> String {
        format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"{root}"}},"hostname":"bundle",
               "process":{{"cwd":"/","args":["sh","-c","{program}"],"env":["PATH=/bin:/usr/bin","A=b"],"user":{{"uid":1,"gid":2}}}},
               "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},{{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}}]}}"#
        )
    }

    #[test]
    fn a_bundle_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = config("hostname; id -u; id -g; echo $A; echo x > /tmp/f && cat /tmp/f; exit 9", "/");
        std::fs::write(directory.path().join("config.json"), text).expect("written");
        let output = run(directory.path());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bundle\n1\n2\nb\nx\n", "{error}");
        assert_eq!(output.status.code(), Some(9));
    }

    #[test]
    fn bad_bundles_are_refused_in_one_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        let refused = |what: &str| {
            let output = run(directory.path());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{what}: {text}");
            assert_eq!(text.lines().count(), 1, "{what}: {text}");
        };
        refused("no config.json");
        std::fs::write(&path, "not JSON").expect("written");
        refused("not JSON");
        std::fs::write(&path, config("true", "no-such-root")).expect("written");
        refused("no root");
        std::fs::write(&path, config("true", "/").replace(r#""args":["sh","-c","true"]"#, r#""args":[]"#))
            .expect("written");
        refused("no program");
    }
}
