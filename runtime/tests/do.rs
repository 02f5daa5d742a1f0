//! `nacelle do` and `nacelle run` from the outside: what a user sees.

use std::fs::File;
use std::io::{Read, Write};
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

/// What the log says of a program's system calls: how many were trapped, and how many came from patched sites.
fn calls_of(options: &[&str], program: &str) -> (u64, u64) {
    let output = nacelle()
        .args(["--debug", "do"])
        .args(options)
        .args(["--", "sh", "-c", program])
        .output()
        .expect("nacelle starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let line = log.lines().rfind(|line| line.contains("how system calls came")).expect("the log has counts");
    let field = |name: &str| -> u64 {
        let value = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        value.expect("the count").parse().expect("a number")
    };
    (field("trapped="), field("patched="))
}

#[test]
fn short_programs_learn_from_each_other_where_to_call_from() {
    let (trapped, patched) =
        calls_of(&[], "i=0; while [ $i -lt 100 ]; do /bin/cat /dev/null; i=$((i+1)); done");
    assert!(patched > 2000 && trapped < patched / 2, "{trapped} trapped, {patched} patched");
}

#[test]
fn the_kernel_has_no_part_in_reading_and_writing_a_volume() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes: Vec<u8> = (0..5_120_000u32).map(|index| (index / 512 + index) as u8).collect();
    std::fs::write(directory.path().join("in"), &bytes).expect("a file");
    let volume = format!("--volume={}:/data", directory.path().display());
    let copy = |output: &str| {
        let (trapped, patched) = calls_of(&[&volume], &format!("dd if=/data/in of={output} bs=512 2>&1"));
        trapped + patched
    };
    // Of 20,000 calls.
    let calls = copy("/data/out");
    assert!(calls < 2000, "{calls}");
    assert!(std::fs::read(directory.path().join("out")).expect("the copy") == bytes);
    // What is in memory is the kernel's.
    let calls = copy("/tmp/nacelle-test-copy");
    assert!((10_000..12_000).contains(&calls), "{calls}");
}

#[test]
fn a_death_by_signal_is_the_status_of_a_shell() {
    assert_eq!(inside(&["sh", "-c", "kill -TERM $$"]).status.code(), Some(143));
    assert_eq!(inside(&["sh", "-c", "kill -SEGV $$"]).status.code(), Some(139));
    assert_eq!(inside(&["sh", "-c", "kill -ABRT $$"]).status.code(), Some(134));
}

/// The lines of the log about programs that a fault of their own has ended, with `options` before `do`.
fn faults_in_log(options: &[&str], perl: &str) -> Vec<String> {
    let output =
        nacelle().args(options).args(["do", "--", "perl", "-e", perl]).output().expect("nacelle starts");
    let log = String::from_utf8_lossy(&output.stderr);
    log.lines().filter(|line| line.contains(": SIG")).map(str::to_owned).collect()
}

#[test]
fn the_log_tells_of_a_fault_that_ends_a_program_where_it_was() {
    // Reads the text at this address; and the name is one that a terminal would not like.
    let fault = "$0 = \"\\e[2Jx\"; unpack('p', pack('J', 0x2468))";
    let lines = faults_in_log(&["--debug"], fault);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("nacelle: info: \\u{1b}[2Jx["), "{line}");
    assert!(line.contains("]: SIGSEGV (code 1) at 0x2468 ip 0x"), "{line}");
    let (_, place) = line.split_once(" error 0x4 in libc.so.6[+0x").expect("the place of the code");
    assert!(place.ends_with(']'), "{line}");
    // Not unless one wants to know, and not if somebody has sent the signal.
    assert_eq!(faults_in_log(&[], fault), [""; 0]);
    assert_eq!(faults_in_log(&["--debug"], "kill 'SEGV', $$"), [""; 0]);
}

#[test]
fn a_guest_cannot_fill_the_log_with_faults() {
    let start = std::time::Instant::now();
    let faults = "for (1 .. 40) { if (!fork) { unpack('p', pack('J', 8)) } wait }";
    let lines = faults_in_log(&["--debug"], faults);
    let most = 5 * (start.elapsed().as_secs() as usize + 2);
    assert!((5..=most.min(39)).contains(&lines.len()), "{lines:?}");
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
fn mounts_have_device_numbers_of_their_own() {
    // The host counts the numbers of its file systems in memory up: enough of them to meet any number of ours.
    let script = "for i in $(seq 64); do mkdir -p $0/$i && mount -t tmpfs none $0/$i || exit 77; \
        set -- \"$@\" --volume $0/$i:/mnt/v$i; done; shift; \
        exec $NACELLE do \"$@\" -- sh -c 'mount -t tmpfs none /srv; stat -c %d / /dev /proc /sys /srv /mnt/v*'";
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(directory.path()).arg("--");
    let output = command.env("NACELLE", env!("CARGO_BIN_EXE_nacelle")).output().expect("unshare starts");
    if output.status.code() == Some(77) {
        assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "the caller may not mount");
        return eprintln!("skipped: the caller may not mount");
    }
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers: Vec<&str> = text.lines().collect();
    assert_eq!(numbers.len(), 5 + 64);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 5 + 64, "{text}");
}

#[test]
fn standard_streams_are_shown_as_what_they_are() {
    let script =
        "readlink /proc/self/fd/0; readlink /proc/self/fd/1 | sed 's/[0-9]//g'; stat -Lc %F /dev/stdout
        echo to the pipe > /dev/stdout; echo again >> /proc/self/fd/1";
    same(&["sh", "-c", script]);
    assert!(
        String::from_utf8_lossy(&inside(&["sh", "-c", script]).stdout).starts_with("/dev/null\npipe:[]\n")
    );
}

#[test]
fn a_file_as_a_standard_stream_keeps_its_offset() {
    let path = std::env::temp_dir().join(format!("nacelle-stream-{}", std::process::id()));
    std::fs::write(&path, "one\ntwo\nthree\n").expect("a file");
    let mut input = File::open(&path).expect("the file");
    let script = "head -n 1; stat -Lc '%F %s' /dev/stdin; dd bs=1 skip=4 count=3 2>/dev/null";
    let output =
        nacelle().args(["do", "--", "sh", "-c", script]).stdin(input.try_clone().expect("a copy")).output();
    let output = output.expect("nacelle starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\nregular file 14\nthr");
    let mut rest = String::new();
    input.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "ee\n");

    let output = File::options().append(true).open(&path).expect("the file");
    let script = "echo four; : > /dev/stdout; echo five";
    let status = nacelle().args(["do", "--", "sh", "-c", script]).stdout(output).status();
    assert!(status.expect("nacelle starts").success());
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), "five\n");
    std::fs::remove_file(path).expect("the file");
}

#[test]
fn a_file_as_a_standard_stream_has_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("stream");
    let script = "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2
        [ /dev/stdin -ef stream ] && [ /proc/self/fd/1 -ef stream ] && echo same; realpath /dev/stdout
        grep -r also . ; cat < stream";
    let run = |mut command: Command, script: &str| {
        std::fs::write(&path, "").expect("a file");
        let file = || File::options().read(true).append(true).open(&path).expect("the file");
        let command = command.args(["sh", "-c", script]).current_dir(directory.path());
        command.stdin(file()).stdout(file()).stderr(file()).status().expect("it starts");
        std::fs::read_to_string(&path).expect("the file")
    };
    let mut command = nacelle();
    command.args(["do", "--"]);
    let (native, ours) = (run(Command::new("env"), script), run(command, script));
    assert!(native.contains("same\n") && native.contains("is also the output"), "{native}");
    assert_eq!(ours, native);

    // Whoever has another root does not hear of places outside it.
    let mut command = nacelle();
    command.args(["do", "--root", "/usr", "--env", "PATH=/bin", "--"]);
    assert_eq!(run(command, "readlink /proc/self/fd/1"), "host:[1]\n");
}

#[test]
fn hard_links_stay_one_file_when_it_is_changed() {
    let directory = std::env::temp_dir().join(format!("nacelle-links-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory");
    let (one, two) = (directory.join("one"), directory.join("two"));
    std::fs::write(&one, "text\n").expect("a file");
    std::fs::hard_link(&one, &two).expect("a link");
    let script = format!(
        "cd {}; echo more >> one; cat two; chmod 600 two; stat -c '%a %h' one two; [ one -ef two ] && echo same
        ln two three; rm one; stat -c %h two three; mv two four; echo last >> three; tail -n 1 four",
        directory.display()
    );
    let output = inside(&["sh", "-c", &script]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "text\nmore\n600 2\n600 2\nsame\n2\n2\nlast\n");
    assert_eq!(std::fs::read_to_string(&two).expect("the file"), "text\n");
    std::fs::remove_dir_all(directory).expect("the directory");
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
fn a_program_begins_with_what_its_caller_has() {
    let script = "nice; cut -d' ' -f19 /proc/self/stat; cat /proc/self/oom_score_adj; ulimit -a; umask; \
        grep SigIgn /proc/$$/status; kill -HUP $$; echo goes on";
    let caller = r#"trap '' HUP QUIT; umask 027; ulimit -S -t 1000 -s 4096 -c 0 -n 300 -l 64 -f 4000 -v 600000 -d 300000
        echo 300 > /proc/self/oom_score_adj; exec nice -n 5 "$@""#;
    let run = |prefix: &[&str]| {
        let mut command = Command::new("bash");
        command.args(["-c", caller, "bash"]).args(prefix).args(["bash", "-c", script]);
        command.stdin(Stdio::null()).output().expect("a shell")
    };
    let (native, ours) = (run(&[]), run(&[env!("CARGO_BIN_EXE_nacelle"), "do", "--"]));
    let text = String::from_utf8_lossy(&native.stdout);
    assert!(text.starts_with("5\n5\n300\n") && text.ends_with("0000005\ngoes on\n"), "{text}");
    assert_eq!(String::from_utf8_lossy(&ours.stdout), text, "{}", String::from_utf8_lossy(&ours.stderr));
}

#[test]
fn what_a_program_is_given_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;

    let bytes = |text: &'static [u8]| std::ffi::OsStr::from_bytes(text);
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join(bytes(b"directory\xff"));
    std::fs::create_dir(&place).expect("a directory");
    let run = |mut command: Command| {
        command.args(["sh", "-c", "pwd; echo $0 $ODD $TOO; env | grep -c ODD"]).arg(bytes(b"argument\xfe"));
        command.current_dir(&place).env("ODD", bytes(b"\xfd")).env("TOO", bytes(b"=\xfc="));
        command.stdin(Stdio::null()).output().expect("it starts")
    };
    let mut command = nacelle();
    command.arg("do").arg("--env").arg(bytes(b"ODD=\xfb")).args(["--env", "TOO", "--"]);
    let mut natively = Command::new("env");
    natively.arg(bytes(b"ODD=\xfb"));
    let (native, ours) = (run(natively), run(command));
    assert!(native.stdout.contains(&0xfb) && native.stdout.contains(&0xff), "{native:?}");
    assert_eq!(ours.stdout, native.stdout, "{}", String::from_utf8_lossy(&ours.stderr));
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
    assert_eq!(wrong.status.code(), Some(128));
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
        let state = bundle.join("state");
        nacelle()
            .arg("--root")
            .arg(state)
            .arg("run")
            .arg("--bundle")
            .arg(bundle)
            .arg("test")
            .output()
            .expect("nacelle starts")
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

#[test]
fn a_terminal_of_its_own_without_one_outside() {
    let mut child = nacelle()
        .args(["do", "-t", "--", "sh", "-c", "tty; read line; echo got $line; exit 3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nacelle starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"typed\n").expect("nacelle reads");
    drop(input);
    let output = child.wait_with_output().expect("nacelle ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/0\r\n"), "{text}");
    assert!(text.contains("got typed\r\n"), "{text}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_terminal_of_its_own_is_like_the_callers() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
    let name = ptsname(&master, Vec::new()).expect("a terminal has a name");
    let name = name.to_str().expect("a name of ASCII").to_owned();
    let slave = File::options().read(true).write(true).open(name).expect("a terminal");
    let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size).expect("a terminal has a size");
    let stream = || Stdio::from(slave.try_clone().expect("a descriptor"));
    let mut child = nacelle()
        .args(["do", "-t", "--", "bash", "--norc", "-c"])
        .arg("trap 'echo interrupted; stop=1' INT; stty size; echo ready; until [ $stop ]; do sleep 5; done; read line; echo got $line; trap 'stty size; exit 5' WINCH; echo now; while :; do sleep 0.1; done")
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .expect("nacelle starts");
    let mut master = File::from(master);
    let mut seen = String::new();
    let mut wait_for = |master: &mut File, text: &str| {
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            let limit = rustix::time::Timespec { tv_sec: 30, tv_nsec: 0 };
            let mut fds = [rustix::event::PollFd::new(&*master, rustix::event::PollFlags::IN)];
            let ready = rustix::event::poll(&mut fds, Some(&limit)).expect("a terminal can be polled");
            assert!(ready > 0, "no {text:?} in {seen:?}");
            let count = master.read(&mut buffer).expect("the terminal shows something");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        // What came behind it, perhaps in one piece with it, is for the next time.
        let end = seen.find(text).map_or(0, |start| start + text.len());
        seen.drain(..end);
    };
    wait_for(&mut master, "33 99\r\n");
    assert!(!tcgetattr(&slave).expect("a terminal").local_modes.contains(LocalModes::ICANON));
    // Not while bash waits for a command that does not die of it, nor as it begins to read: it would forget its trap.
    wait_for(&mut master, "ready\r\n");
    master.write_all(b"\x03").expect("nacelle reads");
    wait_for(&mut master, "interrupted\r\n");
    master.write_all(b"wrong\x15right\r").expect("nacelle reads");
    wait_for(&mut master, "got right\r\n");
    wait_for(&mut master, "now\r\n");
    tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 80, ..size }).expect("a terminal has a size");
    // The terminal is not nacelle's controlling one, so the test says it.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).expect("nacelle runs");
    wait_for(&mut master, "24 80\r\n");
    assert_eq!(child.wait().expect("nacelle ends").code(), Some(5));
    assert!(tcgetattr(&slave).expect("a terminal").local_modes.contains(LocalModes::ICANON));
}
