//! Programs at a terminal, natively and inside: a shell with jobs, full-screen programs, line editing, and a terminal that
//! goes away. The terminal is a window of tmux.

mod common;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Stage, User};

/// How long an answer may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(40);
/// Shows the number of the command that comes next, and how the last one ended.
const PROMPT: &str = r"[\#:$?] ";

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Natively,
    Inside,
}

/// A window in which somebody sits.
struct Window {
    socket: PathBuf,
    what: String,
    cleared: Cell<u32>,
}

impl Window {
    /// Opens a window of 100 columns and 30 rows, in which `program` runs in `directory`.
    fn open(stage: &Stage, place: Place, user: User, directory: &Path, program: &[&str]) -> Window {
        let what = format!("{place:?}-{user:?}");
        let mut words: Vec<String> = Vec::new();
        if user == User::Ordinary {
            let id = common::ORDINARY.to_string();
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(str::to_owned));
        }
        if place == Place::Inside {
            words.extend([stage.nacelle().display().to_string(), "do".into(), "-t".into()]);
            words.push(format!("--volume={0}:{0}", directory.display()));
            words.push("--".into());
        }
        words.extend(program.iter().copied().map(str::to_owned));
        let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
        let words: Vec<String> = words.iter().map(quote).collect();
        let script = stage.path().join(format!("{what}.sh"));
        // Its shell goes on when the program is interrupted.
        let text = format!("trap : INT\n{}\necho \"ended:$?\"\nexec sleep 1000\n", words.join(" "));
        fs::write(&script, text).expect("a file");
        // Each has a server of its own: one that is ending would take a new window with it.
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let socket = stage.path().join(format!("{number}.tmux"));
        let window = Window { socket, what, cleared: Cell::new(0) };
        let mut command = window.tmux();
        command.args(["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "-c"]);
        command.arg(directory).arg(format!("exec sh {}", script.display()));
        assert!(command.status().expect("tmux starts").success(), "{}: no window", window.what);
        window
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.env_clear().envs([("PATH", common::PATH), ("LC_ALL", "C"), ("TZ", "UTC"), ("HOME", "/")]);
        command.envs([("PS1", PROMPT), ("SHELL", "/bin/sh"), ("TERM", "screen"), ("LESS", "")]);
        command.arg("-S").arg(&self.socket).stdin(Stdio::null());
        command
    }

    fn tell(&self, arguments: &[&str]) {
        assert!(self.tmux().args(arguments).status().expect("tmux starts").success(), "{arguments:?}");
    }

    /// Presses keys, by tmux's names for them.
    fn press(&self, keys: &[&str]) {
        self.tell(&[&["send-keys"], keys].concat());
    }

    /// Presses a key, and again if that came too early to have an effect.
    fn press_until(&self, key: &str, text: &str) {
        let shown = || self.screen().matches("^C").count();
        let before = shown();
        for presses in 1..=PATIENCE.as_secs() as usize {
            self.press(&[key]);
            if common::eventually(Duration::from_secs(1), || self.screen().contains(text)) {
                // One that is still under way would cut off the next line.
                common::eventually(Duration::from_secs(2), || shown() >= before + presses);
                return;
            }
        }
        self.see(text);
    }

    /// Types a line, and Enter.
    fn line(&self, text: &str) {
        self.tell(&["send-keys", "-l", text]);
        self.press(&["Enter"]);
    }

    fn resize(&self, columns: u32, rows: u32) {
        self.tell(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// What is to be seen.
    fn screen(&self) -> String {
        let output = self.tmux().args(["capture-pane", "-p"]).output().expect("tmux starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until `text` is to be seen.
    fn see(&self, text: &str) {
        let start = Instant::now();
        loop {
            let output = self.tmux().args(["capture-pane", "-p"]).output().expect("tmux starts");
            let screen = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            if screen.contains(text) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{}: no {text:?} on the screen:\n{}",
                self.what,
                screen.trim()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clears the screen of a shell.
    fn clear(&self) {
        self.cleared.set(self.cleared.get() + 1);
        let number = self.cleared.get();
        self.line(&format!("clear; echo cle'a'red {number}"));
        let start = Instant::now();
        while !self.screen().starts_with(&format!("cleared {number}\n")) {
            assert!(start.elapsed() < PATIENCE, "{}: not cleared:\n{}", self.what, self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a line and waits for the text.
    fn ask(&self, line: &str, text: &str) {
        self.line(line);
        self.see(text);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").stderr(Stdio::null()).status();
    }
}

/// Runs `dialogue` in all places, as all users, each with an empty directory to work in.
fn everywhere(name: &str, needs: &[&str], program: &[&str], dialogue: impl Fn(&Window, &Path)) {
    if let Some(missing) = ["tmux"].iter().chain(needs).find(|tool| common::find(tool).is_none()) {
        return common::skip(name, &format!("{missing} is not installed"));
    }
    let stage = Stage::new();
    for place in [Place::Natively, Place::Inside] {
        for user in common::users() {
            let directory = stage.scratch(&format!("{place:?}-{user:?}"), *user);
            dialogue(&Window::open(&stage, place, *user, &directory, program), &directory);
        }
    }
}

#[test]
fn a_shell_with_jobs() {
    // Commands show a word that is not in what is typed, so that it is certain that they run.
    let long = r#"sh -c 'echo be"g"un; exec sleep 1000'"#;
    everywhere("a_shell_with_jobs", &["bash"], &["bash", "--norc", "--noprofile", "-i"], |window, _| {
        window.see("[1:0]");
        window.ask("tty | sed s/[0-9]*$/N/", "/dev/pts/N");
        window.ask(long, "begun");
        window.press(&["C-c"]);
        window.see("[3:130]");
        window.clear();
        window.ask(long, "begun");
        window.press(&["C-z"]);
        window.see("[5:148]");
        window.ask("jobs -l | tr -s ' ' | cut -d' ' -f3", "Stopped\n");
        window.ask("bg", "[1]+ sh -c");
        window.ask("jobs", "Running");
        window.ask("fg", "fg\nsh -c");
        window.press_until("C-c", "[9:130]");
        window.clear();
        window.ask(long, "begun");
        window.press(&[r"C-\"]);
        window.see("[11:131]");
        // A pipeline is one job.
        window.ask(r#"(echo pi"p"ed; sleep 1000) | cat | cat"#, "piped");
        window.press(&["C-z"]);
        window.see("[12:148]");
        window.ask("fg", "fg\n( echo");
        window.press_until("C-c", "[13:130]");
        window.clear();
        window.ask("stty size; echo $LINES-$COLUMNS", "30 100\n30-100\n");
        let watch = r#"sh -c 'trap "stty size; exit" WINCH; echo wa"t"ching; while :; do sleep 0.05; done'"#;
        window.ask(watch, "watching");
        window.resize(90, 25);
        window.see("25 90\n");
        window.ask("echo $LINES-$COLUMNS", "25-90\n");
        // The line editor: the cursor in the line, the last line again, a word completed.
        window.tell(&["send-keys", "-l", "echo a-c"]);
        window.press(&["Left", "b", "Enter"]);
        window.see("\na-bc\n");
        window.press(&["Up", "BSpace", "d", "Enter"]);
        window.see("\na-bd\n");
        window.tell(&["send-keys", "-l", "wc -l < /etc/pass"]);
        window.press(&["Tab"]);
        window.see("/etc/passwd");
        window.press(&["C-u"]);
        // The terminal shows what is typed once it is no longer the line editor's.
        window.ask(r#"sh -c 'echo li"s"tening; exec cat > /dev/null'"#, "listening");
        window.ask("te'x't", "te'x't\n");
        window.press(&["C-d"]);
        window.ask("(exit 7)", ":7]");
        window.press(&["C-d"]);
        window.see("ended:7");
    });
}

/// Without a terminal of its own, a program is a job of the shell that it is started from.
#[test]
fn a_job_of_a_shell_outside() {
    if let Some(missing) = ["tmux", "bash"].iter().find(|tool| common::find(tool).is_none()) {
        return common::skip("a_job_of_a_shell_outside", &format!("{missing} is not installed"));
    }
    let stage = Stage::new();
    for place in [Place::Natively, Place::Inside] {
        let directory = stage.scratch(&format!("{place:?}"), User::Caller);
        let shell = ["bash", "--norc", "--noprofile", "-i"];
        let window = Window::open(&stage, Place::Natively, User::Caller, &directory, &shell);
        let prefix = match place {
            Place::Natively => String::new(),
            Place::Inside => format!("{} do -- ", stage.nacelle().display()),
        };
        window.see("[1:0]");
        // The shell inside waits for a program that dies of what it survives.
        let stubborn = r#"bash -c 'trap : INT; echo be"g"un; sleep 1000; echo en"d"ed $?; exit 3'"#;
        window.ask(&format!("{prefix}{stubborn}"), "begun");
        window.press(&["C-c"]);
        window.see("ended 130");
        window.see("[2:3]");
        window.clear();
        let again = r#"sh -c 'trap "echo a""gain" CONT; echo be"g"un; while :; do sleep 0.05; done'"#;
        window.ask(&format!("{prefix}{again}"), "begun");
        window.press(&["C-z"]);
        window.see("[4:148]");
        window.ask("jobs -l | tr -s ' ' | cut -d' ' -f3", "Stopped\n");
        window.line("fg");
        window.see("again");
        window.press_until("C-c", "[6:130]");
        window.line("exit 4");
        window.see("ended:4");
    }
}

#[test]
fn full_screen_programs() {
    let shell = ["bash", "--norc", "--noprofile", "-i"];
    everywhere("full_screen_programs", &["bash", "less", "top"], &shell, |window, directory| {
        window.see("[1:0]");
        let lines: String = (1..=2000).map(|number| format!("line {number}.\n")).collect();
        fs::write(directory.join("lines"), lines).expect("a file");
        window.ask("less lines", "line 29.\nlines");
        window.press(&["Space"]);
        window.see("line 30.\n");
        window.press(&["G"]);
        window.see("line 2000.\n(END)");
        window.line("?line 777");
        window.see("line 777.\nline 778.\n");
        window.press(&["g"]);
        window.see("line 1.\n");
        window.resize(80, 20);
        window.see("line 1.\n");
        window.see("line 19.\n:");
        window.press(&["q"]);
        window.see("[2:0]");
        window.resize(100, 30);
        window.ask("top -d 1", "load average");
        window.see("PID USER");
        window.press(&["q"]);
        window.see("[3:0]");
        window.line("exit 3");
        window.see("ended:3");
    });
}

#[test]
fn line_editing_in_python() {
    everywhere("line_editing_in_python", &["/usr/bin/python3"], &["/usr/bin/python3", "-q"], |window, _| {
        window.see(">>>");
        window.ask("6 * 7", "\n42\n");
        window.press(&["Up", "1", "Enter"]);
        window.see("\n426\n");
        window.ask("import time; print('be' + 'gun'); time.sleep(1000)", "\nbegun\n");
        window.press(&["C-c"]);
        window.see("KeyboardInterrupt");
        window.ask("import os; os.get_terminal_size().columns", "\n100\n");
        window.press(&["C-d"]);
        window.see("ended:0");
    });
}

#[test]
fn a_program_ends_with_its_window() {
    let script = "trap 'echo hung up > told; exit' HUP; echo re'a'dy; while :; do sleep 0.05; done";
    everywhere("a_program_ends_with_its_window", &[], &["sh", "-c", script], |window, directory| {
        window.see("ready");
        window.tell(&["kill-server"]);
        let told = || fs::read_to_string(directory.join("told")).is_ok_and(|text| text == "hung up\n");
        assert!(common::eventually(PATIENCE, told), "{}: it was not told", window.what);
    });
}

/// Only the terminal tells it: it belongs to no session.
#[test]
fn a_program_ends_with_a_terminal_that_hangs_up() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    for program in ["sleep 1000", "sleep 1000; echo on", "while read line; do :; done; kill -HUP $$"] {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name");
        let name = name.to_str().expect("a name of ASCII").to_owned();
        let open = || fs::File::options().read(true).write(true).open(&name).expect("a terminal");
        let mut child = Command::new(env!("CARGO_BIN_EXE_nacelle"))
            .args(["do", "-t", "--", "sh", "-c", &format!("echo ready; {program}")])
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .expect("nacelle starts");
        let mut seen = Vec::new();
        while !seen.ends_with(b"ready\r\n") {
            let mut byte = [0];
            assert_eq!(rustix::io::read(&master, &mut byte), Ok(1), "{program}: {seen:?}");
            seen.push(byte[0]);
        }
        drop(master);
        let status = common::wait(&mut child, PATIENCE);
        let _ = child.kill();
        assert_eq!(status.and_then(|status| status.code()), Some(129), "{program}");
    }
}
