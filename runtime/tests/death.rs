//! Sudden death: whichever process of a sandbox is killed, and whenever, nothing is left.
//!
//! Alone in its process, because it adopts all orphans below it and counts its descendants. What other programs do on
//! the machine does not matter.

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Stage, User, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// How often something is killed.
const ROUNDS: u32 = 60;
/// How long the rest may take to go, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The command itself.
    Command,
    /// The process with the kernel in it.
    Sandbox,
    /// The process that guest processes are forked from.
    Zygote,
    /// A process that runs guest code.
    Stub,
}

/// What runs meanwhile: processes, pipes and files, in part in a volume. It ends when its owner removes a file.
const WORK: &str = "while [ -e /volume/go ]; do (echo x | cat > /volume/file; sleep 0.01) & ls / | wc -l > /tmp/x; wait; done";

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

/// The process to kill, if it is there already.
fn choose(victim: Victim, command: i32, random: &mut impl FnMut(u64) -> u64) -> Option<i32> {
    let all = processes();
    let sandbox = || children(&all, command).first().copied();
    match victim {
        Victim::Command => Some(command),
        Victim::Sandbox => sandbox(),
        Victim::Zygote => children(&all, sandbox()?).first().copied(),
        Victim::Stub => {
            let stubs = children(&all, sandbox()?);
            (stubs.len() > 1).then(|| stubs[1 + random(stubs.len() as u64 - 1) as usize])
        }
    }
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path()).collect()
}

/// Mounts that a sandbox could have left: it mounts on `/usr`, in a namespace of its own.
fn mounts(stage: &Stage) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("a procfs");
    let stage = stage.path().display().to_string();
    let mine = |line: &&str| line.contains(" /usr ") || line.contains(&stage);
    text.lines().filter(mine).map(str::to_owned).collect()
}

fn start(stage: &Stage, temporary: &Path, volume: &Path, bundle: bool) -> Child {
    let mut command: Command = stage.command(&stage.nacelle(), User::Caller);
    if bundle {
        command.args(["run", "--bundle"]).arg(stage.path().join("bundle")).arg("death");
    } else {
        command.args(["do", "--volume", &format!("{}:/volume", volume.display()), "--", "sh", "-c", WORK]);
    }
    command
        .envs([("TMPDIR", temporary), ("XDG_RUNTIME_DIR", temporary), ("HOME", temporary)])
        .current_dir(temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command.spawn().expect("nacelle starts")
}

fn write_bundle(stage: &Stage, volume: &Path) {
    let bundle = stage.scratch("bundle", User::Caller);
    let text = format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":"/"}},
           "process":{{"cwd":"/","args":["sh","-c","{WORK}"],"env":["PATH={}"],"user":{{"uid":0,"gid":0}}}},
           "mounts":[{{"destination":"/proc","type":"proc"}},
                     {{"destination":"/volume","type":"bind","source":"{}","options":["bind"]}}]}}"#,
        common::PATH,
        volume.display()
    );
    fs::write(bundle.join("config.json"), text).expect("written");
}

#[test]
fn whatever_is_killed_nothing_is_left() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
    let stage = Stage::new();
    let (temporary, volume) =
        (stage.scratch("temporary", User::Caller), stage.scratch("volume", User::Caller));
    write_bundle(&stage, &volume);
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
    let mut killed = 0;
    for round in 0..ROUNDS {
        let victim = [Victim::Command, Victim::Sandbox, Victim::Zygote, Victim::Stub][round as usize % 4];
        fs::write(volume.join("go"), "").expect("a file");
        let mut child = start(&stage, &temporary, &volume, round % 8 >= 4);
        let command = Pid::from_child(&child).as_raw_nonzero().get();
        // Half of them while it starts.
        let delay = if random(2) == 0 { random(15_000) } else { random(150_000) };
        std::thread::sleep(Duration::from_micros(delay));
        if let Some(pid) = choose(victim, command, &mut random).and_then(Pid::from_raw) {
            killed += u32::from(kill_process(pid, Signal::KILL).is_ok());
        } else {
            // It has not come so far. Then the whole of it goes.
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        }
        let start = Instant::now();
        if matches!(victim, Victim::Zygote | Victim::Stub) {
            // The rest may go on, but not for ever.
            fs::remove_file(volume.join("go")).expect("it is there");
        }
        let status = common::wait(&mut child, PATIENCE);
        assert!(status.is_some(), "round {round}: nacelle goes on without its {victim:?}");
        let gone = eventually(PATIENCE, || left_over(None).is_empty());
        assert!(gone, "round {round}: {:?} is left after the death of {victim:?}", left_over(None));
        println!("round {round}: {victim:?} after {delay} us, gone after {:?}", start.elapsed());
        assert_eq!(files_below(&temporary), Vec::<std::path::PathBuf>::new(), "round {round}: {victim:?}");
        assert_eq!(mounts(&stage), mounts_before, "round {round}: {victim:?}");
    }
    assert!(killed > ROUNDS / 3, "only {killed} processes were there to be killed");
}
