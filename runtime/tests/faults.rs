//! Sudden death at each step: a process is killed where it is held ([`host::step`]), and whatever was going on then, the
//! container can be seen and deleted afterwards, and nothing of it is left.
//!
//! That is so for a container that an engine makes and starts, for one that `run` makes and waits for, and for one that joins
//! a pod, whose other container then goes on if only the sandbox does.
//!
//! Every step is tried with the process that comes to it. Beside it, one other process of the container is killed at each
//! step, another one each day; all of them if `NACELLE_STRESS` is set.

mod bundles;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use bundles::{Host, PATIENCE, can_run, is_alive, processes_with, until};
use host::step::{Step, VARIABLE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How many processes were there to be killed, by the kind of life.
static KILLED: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

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

/// What kind of life a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Made and started by one command after the other.
    Alone,
    /// That of `run`, which waits for it.
    Attached,
    /// As the first, in the sandbox of another container.
    Pod,
}

impl Life {
    const ALL: [Life; 3] = [Life::Alone, Life::Attached, Life::Pod];

    /// Whether it comes to a step.
    fn passes(self, step: Step) -> bool {
        match self {
            Life::Alone => true,
            Life::Attached => !matches!(
                step,
                Step::ExecReady
                    | Step::ExecAnswered
                    | Step::ExecStandIn
                    | Step::SandboxExecute
                    | Step::SandboxExecuted
            ),
            // The sandbox is there already.
            Life::Pod => !matches!(
                step,
                Step::SandboxForked | Step::SandboxRoot | Step::SandboxZygote | Step::SandboxServing
            ),
        }
    }

    /// Its commands, with the id and what follows it.
    fn commands(self, id: &str, bundle: &Path, pid_file: &Path) -> Vec<Vec<String>> {
        let made =
            ["--bundle", bundle.to_str().expect("text"), "--pid-file", pid_file.to_str().expect("text"), id];
        let all: Vec<Vec<&str>> = match self {
            Life::Attached => vec![[&["run"][..], &made].concat()],
            Life::Alone | Life::Pod => vec![
                [&["create"][..], &made].concat(),
                vec!["start", id],
                vec!["exec", "--detach", id, "sh", "-c", "exit 3"],
                vec!["exec", id, "sh", "-c", "exit 3"],
                vec!["kill", id, "KILL"],
                vec!["wait", id],
                vec!["delete", id],
            ],
        };
        all.into_iter().map(|words| words.into_iter().map(str::to_owned).collect()).collect()
    }
}

/// The container that a pod begins with. It runs one process all the time.
struct First {
    id: String,
    /// Children of the sandbox before there was another container.
    stubs: Vec<i32>,
}

impl First {
    /// Makes and starts it. Its sandbox is held at the step if that is one of the sandbox.
    fn start(host: &Host, id: &str, step: Step) -> First {
        let bundle = host.bundle_with("first", "exec sleep 1000", |spec| annotate(spec, "sandbox", id));
        let bundle = bundle.to_str().expect("text");
        let step = format!("{step:?}");
        for words in [&["create", "--bundle", bundle, id][..], &["start", id]] {
            let mut command = host.command(words);
            if step.starts_with("Sandbox") {
                command.env(VARIABLE, &step);
            }
            let status =
                command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("nacelle starts");
            assert!(status.success(), "the first container: {words:?}");
        }
        let stubs = Family::of(host, 0, id, &[]).stubs;
        First { id: id.to_owned(), stubs }
    }

    /// Whether it goes on.
    fn assert_works(&self, host: &Host, what: &str) {
        let ran = host.run(&["exec", &self.id, "echo", "works"]);
        assert_eq!((ran.out.as_str(), ran.code), ("works\n", Some(0)), "{what}: {}", ran.err);
        assert_eq!(host.status(&self.id), "running", "{what}");
    }
}

fn annotate(spec: &mut Value, kind: &str, sandbox: &str) {
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.sandbox-id": sandbox,
    });
}

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
    /// Those that have been forked from a command for this container.
    own: Vec<i32>,
    sandbox: Option<i32>,
    stubs: Vec<i32>,
}

impl Family {
    /// `others` are stubs of a first container.
    fn of(host: &Host, command: i32, id: &str, others: &[i32]) -> Family {
        let state = host.path("state");
        let all = processes_with(state.to_str().expect("text"));
        let ours = namespace(std::process::id().cast_signed());
        let sandbox =
            all.iter().copied().find(|pid| namespace(*pid).is_some_and(|found| Some(found) != ours));
        let argument = format!("\0{id}\0");
        let own = all.iter().copied().filter(|pid| read(*pid, "cmdline").contains(&argument)).collect();
        let everybody = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let everybody = everybody.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let stubs = everybody.filter(|pid| sandbox.is_some() && parent(*pid) == sandbox);
        let stubs = stubs.filter(|pid| !others.contains(pid)).collect();
        Family { command, own, sandbox, stubs }
    }

    fn find(&self, victim: Victim, held: i32) -> Option<i32> {
        // A gofer cannot gain privileges; a stand-in could.
        let is_gofer = |pid: i32| read(pid, "status").contains("NoNewPrivs:\t1");
        let is_undertaker = |pid: i32| read(pid, "comm").trim() == "nacelle-after";
        let rest =
            || self.own.iter().copied().filter(|pid| *pid != self.command && Some(*pid) != self.sandbox);
        match victim {
            Victim::Held => Some(held),
            Victim::Command => Some(self.command),
            Victim::Sandbox => self.sandbox,
            Victim::Stub => self.stubs.last().copied(),
            Victim::Gofer => rest().find(|pid| is_gofer(*pid)),
            Victim::StandIn => rest().find(|pid| !is_gofer(*pid) && !is_undertaker(*pid)),
        }
    }
}

/// What was killed, and with whom.
struct Killed {
    /// The victim and its relatives.
    family: BTreeSet<i32>,
    /// Whether it was the process with the kernel in it.
    was_sandbox: bool,
}

/// Runs a command until it ends or somebody is held, and kills then.
fn run_until_held(
    host: &Host,
    life: Life,
    arguments: &[&str],
    (id, others): (&str, &[i32]),
    step: Step,
    victim: Victim,
) -> Option<Killed> {
    let mut command = host.command(arguments);
    command.env(VARIABLE, format!("{step:?}")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("nacelle starts");
    let own = Pid::from_child(&child).as_raw_nonzero().get();
    let mut killed = None;
    until("the command", || {
        if killed.is_none() {
            let state = host.path("state");
            let all = processes_with(state.to_str().expect("text"));
            if let Some(held) = all.into_iter().find(|pid| is_held(*pid, step)) {
                let family = Family::of(host, own, id, others);
                let pid = family.find(victim, held);
                // Some are not there yet, or no more.
                if let Some(pid) = pid.and_then(Pid::from_raw) {
                    KILLED[life as usize]
                        .fetch_add(usize::from(kill_process(pid, Signal::KILL).is_ok()), Ordering::Relaxed);
                }
                killed = Some(Killed {
                    was_sandbox: pid.is_some() && pid == family.sandbox,
                    family: family.own.into_iter().chain(family.stubs).chain([held]).collect(),
                });
            }
        }
        child.try_wait().expect("our child").is_some()
    });
    killed
}

/// Lets a container go through its life until the step is reached, kills there, and looks at what is left.
fn try_step(life: Life, step: Step, victim: Victim, number: usize) {
    let host = Host::new();
    let id = format!("fault-{}-{number}", std::process::id());
    let first = (life == Life::Pod).then(|| First::start(&host, &format!("{id}-first"), step));
    let join = |spec: &mut Value| {
        if let Some(first) = &first {
            annotate(spec, "container", &first.id);
        }
    };
    let script = match life {
        // It has to come to an end by itself.
        Life::Attached => "sleep 0.1; exit 7",
        Life::Alone | Life::Pod => "trap 'exit 7' TERM; while :; do sleep 0.05; done",
    };
    let bundle = host.bundle_with("b", script, join);
    let others = first.as_ref().map_or(&[][..], |first| &first.stubs);
    let mut killed = None;
    for words in life.commands(&id, &bundle, &host.path("pid")) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        killed = run_until_held(&host, life, &words, (&id, others), step, victim);
        if killed.is_some() {
            break;
        }
    }
    let what = format!("{life:?}: {victim:?} at {step:?}");
    let Killed { mut family, was_sandbox } = killed.unwrap_or_else(|| panic!("{what}: it was not reached"));
    // Whatever it is now, it can be listed, shown, and deleted.
    let listed = host.run(&["list"]);
    assert_eq!(listed.code, Some(0), "{what}: {}", listed.err);
    let shown = host.run(&["state", &id]);
    assert!(shown.code == Some(0) || shown.err.contains("does not exist"), "{what}: {}", shown.err);
    let deleted = host.run(&["delete", "--force", &id]);
    assert_eq!(deleted.code, Some(0), "{what}: {}", deleted.err);
    if let Some(first) = &first {
        assert_eq!(host.list(), [first.id.as_str()], "{what}");
        if !was_sandbox {
            first.assert_works(&host, &what);
            // Nothing of the other is left although the sandbox is.
            let sandbox = Family::of(&host, 0, &id, others).sandbox;
            family.retain(|pid| Some(*pid) != sandbox);
            until(&format!("the end of its processes ({what})"), || !family.iter().copied().any(is_alive));
            assert_eq!(
                host.control_groups().iter().filter(|group| !is_of(group, &first.id)).count(),
                0,
                "{what}"
            );
            if victim == Victim::Held {
                runs_again(&host, &id, &what, join);
            }
        }
        let deleted = host.run(&["delete", "--force", &first.id]);
        assert_eq!(deleted.code, Some(0), "{what}: {}", deleted.err);
    }
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
    if victim == Victim::Held && life != Life::Pod {
        runs_again(&host, &id, &what, |_| {});
    }
}

/// Whether a control group is that of a container.
fn is_of(group: &Path, id: &str) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next() == Some(id)
}

/// Fails unless the name is free again.
fn runs_again(host: &Host, id: &str, what: &str, change: impl FnOnce(&mut Value)) {
    let bundle = host.bundle_with("again", "exit 5", change);
    let ran = host.run(&["run", "--bundle", bundle.to_str().expect("text"), id]);
    assert_eq!(ran.code, Some(5), "{what}: {}", ran.err);
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
        for (number, life) in Life::ALL.into_iter().enumerate() {
            if !life.passes(*step) {
                continue;
            }
            cases.push((life, *step, Victim::Held));
            let chosen = OTHERS.iter().enumerate().filter(|(other, _)| {
                all || (index + other + number) % OTHERS.len() == day as usize % OTHERS.len()
            });
            cases.extend(chosen.map(|(_, victim)| (life, *step, *victim)));
        }
    }
    if let Ok(only) = std::env::var("NACELLE_STEP") {
        cases.retain(|(_, step, _)| format!("{step:?}") == only);
    }
    assert!(PATIENCE > 2 * host::step::HOLD);
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((life, step, victim)) = cases.get(number) else { break };
                    let tried = std::panic::catch_unwind(|| try_step(*life, *step, *victim, number));
                    failed.fetch_add(usize::from(tried.is_err()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0, "see above");
    for life in Life::ALL {
        let killed = KILLED[life as usize].load(Ordering::Relaxed);
        let count = cases.iter().filter(|case| case.0 == life).count();
        println!("{life:?}: {count} cases, {killed} processes killed");
        assert!(killed > count / 2 || count == 0);
    }
}
