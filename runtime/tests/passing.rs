//! Files of the host that programs in containers get: `--preserve-fds`, `--pass-fd`, `--exec-fd`; and the user log.

mod bundles;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bundles::{Host, SERVICE, can_run, compile};

/// Runs a command with redirections, such as `3<FILE`.
fn with(host: &Host, redirections: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new("sh")
        .args(["-c", &format!("exec \"$0\" --root \"$@\" {redirections}"), env!("CARGO_BIN_EXE_nacelle")])
        .arg(host.path("state"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn programs_get_the_descriptors_that_are_passed_on() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let (input, output) = (host.path("input"), host.path("output"));
    std::fs::write(&input, "from outside\n").expect("written");
    let redirections = format!("3<{} 4>>{}", text(&input), text(&output));
    host.started("c", &host.bundle("b", SERVICE));
    let run = |flags: &[&str], script: &str| {
        with(&host, &redirections, &[&["exec"], flags, &["c", "sh", "-c", script]].concat())
    };
    let (code, out, err) = run(&["--preserve-fds", "2"], "cat <&3; echo kept >&4; ls /proc/self/fd");
    // The last one is that of the directory itself.
    assert_eq!((code, out.as_str()), (Some(0), "from outside\n0\n1\n2\n3\n4\n5\n"), "{err}");
    let (code, out, err) = run(&["--pass-fd", "3:9", "--pass-fd=4:20"], "cat <&9; echo passed >&20; : <&3");
    assert_eq!(out, "from outside\n", "{err}");
    assert!(code != Some(0) && err.contains("3: Bad file descriptor"), "{err}");
    assert_eq!(std::fs::read_to_string(&output).expect("text"), "kept\npassed\n");
    // Without a word about them they stay outside.
    let (_, out, err) = run(&[], "ls /proc/self/fd");
    assert_eq!(out, "0\n1\n2\n3\n", "{err}");

    let bundle = host.bundle("first", "cat <&3; exit 3");
    let arguments = ["run", "--preserve-fds=1", "--bundle", text(&bundle), "d"];
    let (code, out, err) = with(&host, &redirections, &arguments);
    assert_eq!((code, out.as_str()), (Some(3), "from outside\n"), "{err}");
}

#[test]
fn what_comes_later_is_reported_by_epoll_too() {
    let host = Host::new();
    if !can_run() || !compile("talk", &host.path("talk")) {
        return;
    }
    let bundle = host.bundle_with("b", "", |spec| {
        spec["process"]["args"] = serde_json::json!(["/bin/talk", "/", "echo"]);
    });
    std::fs::copy(host.path("talk"), bundle.join("rootfs/bin/talk")).expect("a copy");
    let mut command = host.command(&["run", "--bundle", text(&bundle), "c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the command starts");
    let (mut input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let mut lines = BufReader::new(output).lines();
    for line in ["one", "two", "three"] {
        // The program has read all and waits.
        writeln!(input, "{line}").expect("written");
        assert_eq!(lines.next().expect("a line").expect("text"), line);
    }
    drop(input);
    assert_eq!(lines.next().expect("a line").expect("text"), "talked");
    assert!(child.wait().expect("its end").success());
}

#[test]
fn descriptors_that_cannot_be_passed_on_are_refused() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    host.started("c", &host.bundle("b", SERVICE));
    for (redirections, flag, message) in [
        ("3<&-", "--preserve-fds=1", "cannot pass descriptor 3: Bad file descriptor"),
        ("", "--pass-fd=77:4", "cannot pass descriptor 77: Bad file descriptor"),
        ("3</", "--preserve-fds=1", "descriptor 3 is a directory"),
        ("3</dev/null 4</dev/null", "--pass-fd=3:5 --pass-fd=4:5", "5 inside is given twice"),
        ("3</dev/null", "--pass-fd=3:1", "1 inside is given twice"),
        ("3</dev/null", "--pass-fd=3:4000000000", "descriptor 4000000000 is more than"),
        ("3<&-", "--exec-fd=3", "--exec-fd: cannot use the descriptor"),
        ("3</etc/passwd", "--exec-fd=3", "permission denied"),
    ] {
        let flags: Vec<_> = flag.split(' ').collect();
        let (code, _, err) = with(&host, redirections, &[&["exec"], &flags[..], &["c", "true"]].concat());
        assert_ne!(code, Some(0), "{flag}");
        assert!(err.contains(message), "{flag}: {err}");
    }
    assert_eq!(host.status("c"), "running");
}

#[test]
fn a_program_may_be_a_file_of_the_host() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle_with("b", SERVICE, |spec| {
        spec["process"]["args"] = serde_json::json!(["echo", "of the host"]);
    });
    let program = bundle.join("rootfs/bin/busybox");
    let outside = host.path("outside");
    std::fs::rename(&program, &outside).expect("moved out of the container");
    let (code, out, err) = with(
        &host,
        &format!("5<{}", text(&outside)),
        &["run", "--exec-fd", "5", "--bundle", text(&bundle), "c"],
    );
    assert_eq!((code, out.as_str()), (Some(0), "of the host\n"), "{err}");
    // A further program, too, in a container that has none of that name.
    host.started("d", &host.bundle("d", SERVICE));
    std::fs::remove_file(host.path("d/rootfs/bin/echo")).expect("removed");
    assert_eq!(host.run(&["exec", "d", "echo", "none"]).code, Some(255));
    let redirections = format!("5<{}", text(&outside));
    let (code, out, err) = with(&host, &redirections, &["exec", "--exec-fd", "5", "d", "echo", "it", "too"]);
    assert_eq!((code, out.as_str()), (Some(0), "it too\n"), "{err}");
}

#[test]
fn the_user_log_names_system_calls_that_are_not_there() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let log = host.path("user.log");
    std::fs::write(&log, "before\n").expect("written");
    // The C library asks for restartable sequences.
    let bundle = host.bundle("b", "true; true");
    host.run(&["run", "--user-log", text(&log), "--bundle", text(&bundle), "c"]).ok();
    let lines = std::fs::read_to_string(&log).expect("text");
    assert!(lines.starts_with("before\n"), "{lines}");
    assert_eq!(lines.matches("Unsupported syscall rseq(").count(), 1, "{lines}");
}
