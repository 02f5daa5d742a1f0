//! Terminals of containers as engines have them: the master end comes over a socket, the program has the other one.

mod bundles;

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bundles::{Host, SERVICE, can_run, until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

/// A socket that waits for the master of one terminal.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

/// The master of a terminal, and what was to be seen at it.
struct Console {
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Socket {
    fn new(host: &Host, name: &str) -> Socket {
        let path = host.path(name);
        let listener = UnixListener::bind(&path).expect("a socket");
        Socket { path, listener }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }

    fn receive(&self) -> Console {
        let (stream, _) = self.listener.accept().expect("a connection");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 256];
        let parts = &mut [IoSliceMut::new(&mut name)];
        recvmsg(&stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("a message");
        let mut files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let master = File::from(files.next().expect("a terminal"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (reader, all) = (master.try_clone().expect("a copy"), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It hangs up when nobody has the other end any more.
            while let Ok(count @ 1..) = rustix::io::read(&reader, &mut buffer) {
                all.lock().expect("no panic").extend_from_slice(&buffer[..count]);
            }
        });
        Console { master, seen }
    }
}

impl Console {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no panic")).replace('\r', "")
    }

    #[track_caller]
    fn see(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.text().contains(text) {
            assert!(start.elapsed() < bundles::PATIENCE, "no {text:?} in {:?}", self.text());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn press(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).expect("the terminal takes it");
    }

    /// Types a line and waits for what the program says to it.
    #[track_caller]
    fn ask(&self, line: &str, answer: &str) {
        self.press(&format!("{line}\n"));
        self.see(answer);
    }
}

fn with_terminal(spec: &mut Value) {
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
}

/// The `TTY` column and the command of each process.
fn terminals(host: &Host, id: &str) -> Vec<(String, String)> {
    let table = host.run(&["ps", id]).ok();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.map(|row| (row[5].to_owned(), row[8..].join(" "))).collect()
}

fn runs(host: &Host, id: &str, command: &str) -> bool {
    terminals(host, id).iter().any(|(_, other)| other == command)
}

/// Runs a shell with jobs at a terminal: Ctrl-C reaches the job in the foreground and nobody else.
#[track_caller]
fn control_jobs(host: &Host, id: &str, console: &Console, numbers: [&str; 2]) {
    let [behind, front] = numbers.map(|number| format!("sleep {number}"));
    console.ask(&format!("{behind} & echo beh\"i\"nd"), "behind\n");
    console.press(&format!("{front}\n"));
    until("the job in the foreground", || runs(host, id, &front));
    console.press("\x03");
    console.ask("echo status $?", "status 130\n");
    assert!(!runs(host, id, &front) && runs(host, id, &behind), "{:?}", terminals(host, id));
    // Stopped, and on again in the background.
    console.press(&format!("{front}\n"));
    until("the job in the foreground", || runs(host, id, &front));
    console.press("\x1a");
    console.see("Stopped");
    console.ask("bg; echo o\"n\"", "on\n");
    assert!(runs(host, id, &front));
    console.ask("kill %1 %2; wait; echo a\"ll\" gone", "all gone\n");
    assert!(!runs(host, id, &front) && !runs(host, id, &behind));
}

#[test]
fn the_master_of_a_containers_terminal_goes_to_the_socket() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let socket = Socket::new(&host, "console");
    let bundle = host.bundle_with("b", "tty; stty size; exec sh -i", with_terminal);
    host.create("c", &bundle, &["--console-socket", socket.path()]).ok();
    let console = socket.receive();
    host.run(&["start", "c"]).ok();
    console.see("/dev/pts/0\n33 77\n");
    assert!(terminals(&host, "c").iter().all(|(terminal, _)| terminal == "pts/0"));
    // What the engine does to the master, the program sees.
    let size = Winsize { ws_row: 20, ws_col: 50, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&console.master, size).expect("resized");
    console.ask("stty size", "20 50\n");
    console.ask("echo over > /dev/tty", "\nover\n");
    console.press("exit 9\n");
    assert_eq!(host.run(&["wait", "c"]).ok(), "{\"id\":\"c\",\"exitStatus\":9}\n");
    host.run(&["delete", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn interrupts_reach_the_job_in_the_foreground_of_a_container() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let socket = Socket::new(&host, "console");
    let bundle = host.bundle_with("b", "exec sh -i", with_terminal);
    host.create("c", &bundle, &["--console-socket", socket.path()]).ok();
    let console = socket.receive();
    host.run(&["start", "c"]).ok();
    control_jobs(&host, "c", &console, ["901", "902"]);
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn further_programs_have_terminals_of_their_own() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    host.started("c", &host.bundle("b", SERVICE));
    let consoles = ["one", "two"].map(|name| {
        let socket = Socket::new(&host, name);
        let flags = ["exec", "--tty", "--detach", "--console-socket", socket.path(), "c"];
        host.run_and_leave(&[&flags[..], &["sh", "-i"]].concat()).ok();
        socket.receive()
    });
    consoles[0].ask("tty", "/dev/pts/0\n");
    consoles[1].ask("tty", "/dev/pts/1\n");
    control_jobs(&host, "c", &consoles[0], ["903", "904"]);
    control_jobs(&host, "c", &consoles[1], ["905", "906"]);
    // A terminal that hangs up takes its own programs only.
    let shells = || terminals(&host, "c").into_iter().filter(|(terminal, _)| terminal != "?").count();
    assert_eq!(shells(), 2);
    consoles[0].press("exit\n");
    until("the end of one", || shells() == 1);
    consoles[1].ask("echo st\"il\"l", "still\n");
    host.run(&["delete", "--force", "c"]).ok();
    host.assert_nothing_left();
}

#[test]
fn each_container_of_a_pod_has_its_own_terminal() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let consoles = ["p", "a"].map(|id| {
        let socket = Socket::new(&host, &format!("console-{id}"));
        let bundle = host.bundle_with(&format!("bundle-{id}"), "exec sh -i", |spec| {
            with_terminal(spec);
            let kind = if id == "p" { "sandbox" } else { "container" };
            spec["annotations"] =
                json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "p" });
        });
        host.create(id, &bundle, &["--console-socket", socket.path()]).ok();
        let console = socket.receive();
        host.run(&["start", id]).ok();
        console
    });
    for (console, id) in consoles.iter().zip(["p", "a"]) {
        console.ask("tty; hostname", &format!("/dev/pts/0\n{id}\n"));
        console.ask("echo over > /dev/tty", "\nover\n");
        control_jobs(&host, id, console, ["907", "908"]);
    }
    host.run(&["delete", "--force", "a", "p"]).ok();
    host.assert_nothing_left();
}
