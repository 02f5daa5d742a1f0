//! Sudden death at each step: a process is killed where it is held ([`host::step`]), and whatever was going on then, the
//! container can be seen and deleted afterwards, and nothing of it is left.
//!
//! Every step is tried with the process that comes to it. Beside it, one other process of the container is killed at each
//! step, another one each day; all of them if `NACELLE_STRESS` is set.

mod bundles;

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use bundles::{Host, PATIENCE, can_run, is_alive, processes_with, until};
use host::step::{Step, VARIABLE};
use rustix::process::{Pid, Signal, kill_process};

/// How many processes were there to be killed.
static KILLED: AtomicUsize = AtomicUsize::new(0);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The process that is held.
    Held,
    /// The command.
    Command,
    /// The process that stands for the container.
    StandIn,
    /// The process that opens its files.
    Gofer,
    /// The process with the kernel in it.
    Sandbox,
    /// A process that runs guest code, or will.
    Stub,
}

const OTHERS: [Victim; 5] = [Victim::Command, Victim::StandIn, Victim::Gofer, Victim::Sandbox, Victim::Stub];

/// What a container goes through: commands with the id left out.
const LIFE: [&[&str]; 6] = [&["start"], &["exec", "--detach"], &["exec"], &["kill"], &["wait"], &["delete"]];

fn read(pid: i32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The `PPid` of a process.
fn parent(pid: i32) -> Option<i32> {
    read(pid, "status").lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn namespace(pid: i32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Whether a thread of a process is held at a step.
fn is_held(pid: i32, step: Step) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default());
    names.any(|name| name.trim() == step.mark())
}

/// The processes of a container. Stubs have lost their command line and are known by their parent.
struct Family {
    command: i32,
    all: Vec<i32>,
    sandbox: Option<i32>,
    stubs: Vec<i32>,
}

impl Family {
    fn of(host: &Host, command: &Child) -> Family {
        let command = Pid::from_child(command).as_raw_nonzero().get();
        let state = host.path("state");
        let all = processes_with(state.to_str().expect("text"));
        let own = namespace(std::process::id().cast_signed());
        let sandbox = all.iter().copied().find(|pid| namespace(*pid).is_some_and(|found| Some(found) != own));
        let everybody = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let everybody = everybody.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let stubs = everybody.filter(|pid| sandbox.is_some() && parent(*pid) == sandbox).collect();
        Family { command, all, sandbox, stubs }
    }

    fn find(&self, victim: Victim, held: i32) -> Option<i32> {
        // A gofer cannot gain privileges; a stand-in could.
        let is_gofer = |pid: i32| read(pid, "status").contains("NoNewPrivs:\t1");
        let rest =
            || self.all.iter().copied().filter(|pid| *pid != self.command && Some(*pid) != self.sandbox);
        match victim {
            Victim::Held => Some(held),
            Victim::Command => Some(self.command),
            Victim::Sandbox => self.sandbox,
            Victim::Stub => self.stubs.last().copied(),
            Victim::Gofer => rest().find(|pid| is_gofer(*pid)),
            Victim::StandIn => rest().find(|pid| !is_gofer(*pid)),
        }
    }
}

/// Runs a command until it ends or somebody is held. Returns the victim's and its relatives' pids if it was killed.
fn run_until_held(host: &Host, arguments: &[&str], step: Step, victim: Victim) -> Option<BTreeSet<i32>> {
    let mut command = host.command(arguments);
    command.env(VARIABLE, format!("{step:?}")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("nacelle starts");
    let mut killed = None;
    until("the command", || {
        if killed.is_none() {
            let state = host.path("state");
            let all = processes_with(state.to_str().expect("text"));
            if let Some(held) = all.into_iter().find(|pid| is_held(*pid, step)) {
                let family = Family::of(host, &child);
                let pid = family.find(victim, held);
                // Some are not there yet, or no more.
                if let Some(pid) = pid.and_then(Pid::from_raw) {
                    KILLED.fetch_add(usize::from(kill_process(pid, Signal::KILL).is_ok()), Ordering::Relaxed);
                }
                killed = Some(family.all.into_iter().chain(family.stubs).chain([held]).collect());
            }
        }
        child.try_wait().expect("our child").is_some()
    });
    killed
}

/// Lets a container go through its life until the step is reached, kills there, and looks at what is left.
fn try_step(step: Step, victim: Victim, number: usize) {
    let host = Host::new();
    let id = format!("fault-{}-{number}", std::process::id());
    let bundle = host.bundle("b", "trap 'exit 7' TERM; while :; do sleep 0.05; done");
    let bundle = bundle.to_str().expect("text");
    let pid_file = host.path("pid");
    let create = ["create", "--bundle", bundle, "--pid-file", pid_file.to_str().expect("text"), &id];
    let mut killed = run_until_held(&host, &create, step, victim);
    for words in LIFE {
        if killed.is_some() {
            break;
        }
        let more: &[&str] = match words[0] {
            "exec" => &["sh", "-c", "exit 3"],
            "kill" => &["KILL"],
            _ => &[],
        };
        killed = run_until_held(&host, &[words, &[&id], more].concat(), step, victim);
    }
    let what = format!("{victim:?} at {step:?}");
    let family = killed.unwrap_or_else(|| panic!("{step:?} was not reached"));
    // Whatever it is now, it can be listed, shown, and deleted.
    let listed = host.run(&["list"]);
    assert_eq!(listed.code, Some(0), "{what}: {}", listed.err);
    let shown = host.run(&["state", &id]);
    assert!(shown.code == Some(0) || shown.err.contains("does not exist"), "{what}: {}", shown.err);
    let deleted = host.run(&["delete", "--force", &id]);
    assert_eq!(deleted.code, Some(0), "{what}: {}", deleted.err);
    assert_eq!(host.list(), Vec::<String>::new(), "{what}");
    let left: Vec<_> = std::fs::read_dir(host.path("state")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    until(&format!("the end of all processes ({what})"), || !family.iter().copied().any(is_alive));
    let state = host.path("state");
    let state = state.to_str().expect("text");
    until(&format!("the end of all others ({what})"), || processes_with(state).is_empty());
    let groups = host.control_groups();
    assert!(groups.is_empty(), "{what}: {groups:?}");
    let mounts = host.mounts();
    assert!(mounts.is_empty(), "{what}: {mounts:?}");
    if victim == Victim::Held {
        // The name is free again.
        let bundle = host.bundle("again", "exit 5");
        let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), &id]);
        assert_eq!(ran.code, Some(5), "{what}: {}", ran.err);
    }
}

#[test]
fn whoever_is_killed_at_whichever_step_nothing_is_left() {
    if !can_run() {
        return;
    }
    if !cfg!(debug_assertions) {
        return bundles::skip("a release cannot be held at a step");
    }
    let day =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
            / 86400;
    let all = std::env::var_os("NACELLE_STRESS").is_some();
    let mut cases = Vec::new();
    for (index, step) in Step::ALL.iter().enumerate() {
        cases.push((*step, Victim::Held));
        let others = OTHERS.iter().enumerate();
        let chosen =
            others.filter(|(other, _)| all || (index + other) % OTHERS.len() == day as usize % OTHERS.len());
        cases.extend(chosen.map(|(_, victim)| (*step, *victim)));
    }
    if let Ok(only) = std::env::var("NACELLE_STEP") {
        cases.retain(|(step, _)| format!("{step:?}") == only);
    }
    assert!(PATIENCE > 2 * host::step::HOLD);
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((step, victim)) = cases.get(number) else { break };
                    let tried = std::panic::catch_unwind(|| try_step(*step, *victim, number));
                    failed.fetch_add(usize::from(tried.is_err()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0, "see above");
    let killed = KILLED.load(Ordering::Relaxed);
    println!("{} cases, {killed} processes killed", cases.len());
    assert!(killed > cases.len() / 2);
}
