//! Sudden death: whichever process of a sandbox is killed, and whenever, nothing is left. Nor is anything when the command is
//! told to end, whenever that is.
//!
//! Alone in its process, because it adopts all orphans below it and counts its descendants. What other programs do on
//! the machine does not matter.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Stage, User, eventually};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;

/// How often each of [`Blow::ALL`] hits each of [`Way::ALL`].
const TIMES: usize = 2;
/// How long the rest may take to go, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// The command itself is killed.
    Command,
    /// The process with the kernel in it is.
    Sandbox,
    /// The process that guest processes are forked from.
    Zygote,
    /// A process that runs guest code.
    Stub,
    /// The command is told to end.
    Told(Signal),
    /// Its whole process group is, as by a terminal.
    AllTold(Signal),
}

impl Blow {
    const ALL: [Blow; 9] = [
        Blow::Command,
        Blow::Sandbox,
        Blow::Zygote,
        Blow::Stub,
        Blow::Told(Signal::TERM),
        Blow::Told(Signal::INT),
        Blow::Told(Signal::HUP),
        Blow::AllTold(Signal::TERM),
        Blow::AllTold(Signal::INT),
    ];

    /// Whether the rest may go on, but not for ever.
    fn may_be_survived(self, way: Way) -> bool {
        match self {
            Blow::Command | Blow::Sandbox => false,
            Blow::Zygote | Blow::Stub => true,
            // A signal that comes before the first process of a container is prepared for it is lost.
            Blow::Told(_) | Blow::AllTold(_) => way.is_bundle(),
        }
    }
}

/// How a sandbox is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Do,
    DoWithTerminal,
    Run,
    RunWithTerminal,
}

impl Way {
    const ALL: [Way; 4] = [Way::Do, Way::Run, Way::DoWithTerminal, Way::RunWithTerminal];

    fn is_bundle(self) -> bool {
        matches!(self, Way::Run | Way::RunWithTerminal)
    }

    fn has_terminal(self) -> bool {
        matches!(self, Way::DoWithTerminal | Way::RunWithTerminal)
    }
}

/// What runs meanwhile: processes, pipes and files, in part in a volume. It ends when its owner removes a file.
const WORK: &str = "while [ -e /volume/go ]; do (echo x | cat > /volume/file; sleep 0.01) & ls / | wc -l > /tmp/x; wait; done";

/// A terminal, and who holds its other end.
struct Terminal {
    _master: OwnedFd,
    slave: File,
}

impl Terminal {
    fn open() -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name");
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
        Terminal { _master: master, slave: options.open(path).expect("a terminal") }
    }

    fn stream(&self) -> Stdio {
        self.slave.try_clone().expect("a descriptor").into()
    }

    fn settings(&self) -> String {
        format!("{:?}", tcgetattr(&self.slave).expect("a terminal"))
    }
}

/// Processes with their parents.
fn processes() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").expect("a procfs").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parent = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.to_owned();
        // The dead are not left over once their parent has looked; see `reap`.
        (state != "X").then_some(())?;
        fields.next()?.parse().ok()
    };
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

fn children(all: &[(i32, i32)], of: i32) -> Vec<i32> {
    let mut found: Vec<i32> = all.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid).collect();
    found.sort_unstable();
    found
}

/// Collects the orphans that have ended, and counts what else there is below this process.
fn left_over(except: Option<&Child>) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).expect("a pid");
    let except = except.map(|child| Pid::from_child(child).as_raw_nonzero().get());
    for pid in children(&processes(), own) {
        if Some(pid) != except {
            let _ = rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::NOHANG);
        }
    }
    children(&processes(), own).into_iter().filter(|pid| Some(*pid) != except).collect()
}

/// The process that is hit, if it is there already.
fn choose(blow: Blow, way: Way, command: i32, random: &mut impl FnMut(u64) -> u64) -> Option<i32> {
    let all = processes();
    let named = |name: &str, of: i32| {
        let mut children = children(&all, of).into_iter();
        children.find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim() == name))
    };
    // Some time after its birth, a stand-in is called so. All others are called as they were started.
    let maker = || if way.is_bundle() { named("nacelle-init", command) } else { Some(command) };
    let sandbox = || named("nacelle", maker()?);
    match blow {
        Blow::Command | Blow::Told(_) | Blow::AllTold(_) => Some(command),
        Blow::Sandbox => sandbox(),
        Blow::Zygote => children(&all, sandbox()?).first().copied(),
        Blow::Stub => {
            let stubs = children(&all, sandbox()?);
            (stubs.len() > 1).then(|| stubs[1 + random(stubs.len() as u64 - 1) as usize])
        }
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path()).collect()
}

/// Mounts that a sandbox could have left: it mounts on `/usr`, in a namespace of its own.
fn mounts(stage: &Stage) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("a procfs");
    let stage = stage.path().display().to_string();
    let mine = |line: &&str| line.contains(" /usr ") || line.contains(&stage);
    text.lines().filter(mine).map(str::to_owned).collect()
}

/// Control groups that a container of the tests could have left.
fn groups() -> Vec<PathBuf> {
    fn find(below: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(below).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&container_name()) {
                    found.push(entry.path());
                }
                find(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    find(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

fn container_name() -> String {
    format!("death-{}", std::process::id())
}

fn nacelle(stage: &Stage, temporary: &Path) -> Command {
    let mut command: Command = stage.command(&stage.nacelle(), User::Caller);
    command
        .envs([("TMPDIR", temporary), ("XDG_RUNTIME_DIR", temporary), ("HOME", temporary)])
        .current_dir(temporary)
        .process_group(0);
    command.arg("--root").arg(stage.path().join("state"));
    command
}

fn start(stage: &Stage, temporary: &Path, volume: &Path, way: Way, terminal: &Terminal) -> Child {
    let mut command = nacelle(stage, temporary);
    let volume = format!("{}:/volume", volume.display());
    match way {
        Way::Do => command.args(["do", "--volume", &volume, "--", "sh", "-c", WORK]),
        Way::DoWithTerminal => command.args(["do", "-t", "--volume", &volume, "--", "sh", "-c", WORK]),
        Way::Run | Way::RunWithTerminal => {
            command.args(["run", "--bundle"]).arg(stage.path().join(format!("{way:?}"))).arg(container_name())
        }
    };
    if way.has_terminal() {
        command.stdin(terminal.stream()).stdout(terminal.stream()).stderr(terminal.stream());
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    command.spawn().expect("nacelle starts")
}

fn write_bundle(stage: &Stage, volume: &Path, way: Way) {
    let bundle = stage.scratch(&format!("{way:?}"), User::Caller);
    let text = format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":"/"}},
           "process":{{"terminal":{},"cwd":"/","args":["sh","-c","trap exit TERM INT HUP; {WORK}"],
                       "env":["PATH={}"],"user":{{"uid":0,"gid":0}}}},
           "mounts":[{{"destination":"/proc","type":"proc"}},
                     {{"destination":"/tmp","type":"tmpfs"}},
                     {{"destination":"/volume","type":"bind","source":"{}","options":["bind"]}}]}}"#,
        way.has_terminal(),
        common::PATH,
        volume.display()
    );
    fs::write(bundle.join("config.json"), text).expect("written");
}

#[test]
fn whatever_happens_nothing_is_left() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
    let stage = Stage::new();
    let (temporary, volume) =
        (stage.scratch("temporary", User::Caller), stage.scratch("volume", User::Caller));
    let containers = stage.scratch("state", User::Caller);
    Way::ALL.into_iter().filter(|way| way.is_bundle()).for_each(|way| write_bundle(&stage, &volume, way));
    let mounts_before = mounts(&stage);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut state = seed.as_nanos() as u64 | 1;
    println!("seed {state}");
    // xorshift64
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let ways = Way::ALL.into_iter().flat_map(|way| Blow::ALL.into_iter().map(move |blow| (way, blow)));
    let rounds: Vec<_> = std::iter::repeat_n(ways, TIMES).flatten().collect();
    let mut hits = 0;
    for (way, blow) in &rounds {
        let (way, blow) = (*way, *blow);
        fs::write(volume.join("go"), "").expect("a file");
        let terminal = Terminal::open();
        let settings = terminal.settings();
        let mut child = start(&stage, &temporary, &volume, way, &terminal);
        let command = Pid::from_child(&child).as_raw_nonzero().get();
        // Half of them while it starts.
        let delay = if random(2) == 0 { random(15_000) } else { random(150_000) };
        std::thread::sleep(Duration::from_micros(delay));
        let what = format!("{way:?}, {blow:?} after {delay} us");
        let victim = choose(blow, way, command, &mut random).and_then(Pid::from_raw);
        let hit = match (blow, victim) {
            (Blow::Told(signal), Some(pid)) => kill_process(pid, signal),
            (Blow::AllTold(signal), Some(pid)) => kill_process_group(pid, signal),
            (_, Some(pid)) => kill_process(pid, Signal::KILL),
            // It has not come so far. Then the whole of it goes.
            (_, None) => kill_process(Pid::from_child(&child), Signal::KILL),
        };
        hits += u32::from(victim.is_some() && hit.is_ok());
        let start = Instant::now();
        if blow.may_be_survived(way) {
            fs::remove_file(volume.join("go")).expect("it is there");
        }
        let status = common::wait(&mut child, PATIENCE);
        assert!(status.is_some(), "{what}: nacelle goes on");
        let gone = eventually(PATIENCE, || left_over(None).is_empty());
        assert!(gone, "{what}: {:?} is left", left_over(None));
        println!("{what}: gone after {:?}", start.elapsed());
        if let Blow::Told(signal) | Blow::AllTold(signal) = blow
            && way.has_terminal()
        {
            assert_eq!(terminal.settings(), settings, "{what}");
            let code = status.and_then(|status| status.code().or(status.signal().map(|it| 128 + it)));
            assert!(way.is_bundle() || code == Some(128 + signal.as_raw()), "{what}: {status:?}");
        }
        for directory in [&temporary, &containers] {
            assert_eq!(files_below(directory), Vec::<PathBuf>::new(), "{what}");
        }
        assert_eq!(mounts(&stage), mounts_before, "{what}");
        assert_eq!(groups(), Vec::<PathBuf>::new(), "{what}");
    }
    assert!(hits as usize > rounds.len() * 2 / 3, "only {hits} were hit");
}
