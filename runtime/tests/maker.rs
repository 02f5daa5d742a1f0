//! Containers made by a program of its own that uses the crate `container`, without any command. It makes them by forking,
//! and so must have one thread: it is no test of the usual harness.

mod bundles;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bundles::{Host, SERVICE, can_run, is_alive, until};
use container::spec::{Document, ProcessConfig, read};
use container::{
    Args, Cgroups, Config, Container, Execution, Files, FullId, LoadOpts, StateFile, Status, TryLock,
};
use oci_spec::runtime::{Capability, LinuxResources, Spec};
use sandbox::spec::{FileAccess, RootLayer};
use serde_json::{Value, json};

fn main() {
    if !can_run() {
        return;
    }
    for (name, test) in [
        ("a_container_is_made_from_a_specification_and_led_through_its_life", life as fn()),
        ("programs_are_executed_and_waited_for_by_their_pids", programs),
        ("an_attached_container_is_run_to_its_end", attached),
        ("containers_of_a_pod_are_loaded_together", pod),
        ("what_is_not_allowed_in_a_status_is_an_error", illegal),
        ("a_state_file_can_be_locked_saved_and_destroyed", state_file),
        ("signals_to_the_caller_are_forwarded", forwarded),
        ("a_program_with_threads_is_told_that_it_cannot", threads),
    ] {
        test();
        println!("test {name} ... ok");
    }
}

fn config(host: &Host) -> Config {
    Config {
        root: host.path("state"),
        layer: container::spec::layer::Layer::default(),
        root_archives: false,
        devices: sandbox::spec::DevicePolicy::default(),
        access: FileAccess::Shared,
        gofer: gofer::Service { mode: gofer::Mode::Direct, sockets: gofer::Sockets::None, ids: None },
        strace: None,
        gvisor_marker: false,
        debug_log: None,
        cgroups: Cgroups::Make,
    }
}

fn specification(bundle: &Path) -> Spec {
    let Document { spec, .. } = read(bundle).expect("it is one of ours");
    spec
}

/// Makes a container. It has our standard streams.
fn make(host: &Host, id: &str, bundle: PathBuf) -> Container {
    let args = Args { id: id.to_owned(), bundle, pid_file: Some(host.path("pid")), ..Args::default() };
    Container::new(&config(host), &args).expect("it is made")
}

/// A script that shows by a file that it runs, and ends as [`SERVICE`] does.
const QUIET: &str = "trap 'exit 7' TERM; touch /tmp/runs; while :; do sleep 0.05; done";

fn runs(bundle: &Path) {
    until("its program", || bundle.join("rootfs/tmp/runs").exists());
}

fn execution(container: &Container, script: &str, detach: bool) -> Execution {
    let own = container.spec.process().as_ref().expect("it has one");
    let mut process = ProcessConfig::new(own, &mut Vec::new()).expect("it is checked");
    process.arguments = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Execution {
        process,
        detach,
        console_socket: None,
        pid_file: None,
        internal_pid_file: None,
        files: Files::default(),
    }
}

fn life() {
    let host = Host::new();
    let bundle = host.bundle("b", QUIET);
    let mut spec = specification(&bundle);
    // The file is not what counts.
    std::fs::write(bundle.join("config.json"), "no specification").expect("written");
    spec.set_hostname(Some("given".to_owned()));
    let args = Args {
        id: "c".to_owned(),
        spec: Some(spec),
        bundle: bundle.clone(),
        pid_file: Some(host.path("pid")),
        ..Args::default()
    };
    let mut container = Container::new(&config(&host), &args).expect("it is made");
    assert_eq!(container.status, Status::Created);
    let pid: i32 = std::fs::read_to_string(host.path("pid")).expect("a pid file").parse().expect("a number");
    assert_eq!(container.state().pid, Some(pid));
    assert!(is_alive(pid) && container.is_sandbox_root() && container.is_sandbox_running());
    assert!(container.sandbox_pid().is_some_and(is_alive));
    assert!(container.has_capability_in_any_set(Capability::Chown) && container.runs_as_uid0());
    assert!(!container.has_capability_in_any_set(Capability::SysBoot));
    assert_eq!((container.overlay, container.overlay_media.len()), (RootLayer::Through, 1));
    let second = Container::new(&config(&host), &args);
    assert!(second.expect_err("there is one").to_string().contains("already exists"));
    container.start().expect("it starts");
    runs(&bundle);
    assert_eq!(
        container.execute(&execution(&container, "[ $(hostname) = given ]", false)).expect("run"),
        Some(0)
    );
    container.pause().expect("it is held");
    assert_eq!(container.status, Status::Paused);
    container.resume().expect("it goes on");
    let resources: LinuxResources =
        serde_json::from_value(json!({ "pids": { "limit": 50 } })).expect("limits");
    container.update(&resources).expect("they are set");
    let stats = container.event().expect("it tells");
    assert_eq!(stats.pids.limit, 50);
    assert!(stats.pids.current >= 1);
    assert_eq!(container.processes().expect("they are listed")[0].pid, 1);
    container.signal_process(0, 1).expect("it is there");
    container.signal_process_group(0, 1).expect("it leads one");
    container.signal_container(15, false).expect("it is sent");
    assert_eq!(container.wait().expect("its end"), 7 << 8);
    assert_eq!(container.wait().expect("again"), 7 << 8);
    assert!(!is_alive(pid));
    assert_eq!((container.status, container.sandbox_pid()), (Status::Stopped, None));
    container.destroy().expect("it is removed");
    container.destroy().expect("it was removed");
    assert!(Container::load(&host.path("state"), "c", LoadOpts::default()).is_err());
    host.assert_nothing_left();
}

fn programs() {
    let host = Host::new();
    let bundle = host.bundle("b", QUIET);
    let mut container = make(&host, "c", bundle);
    assert!(container.execute(&execution(&container, "true", false)).is_err(), "it has not been started");
    container.start().expect("it starts");
    assert_eq!(container.execute(&execution(&container, "exit 9", false)).expect("run"), Some(9 << 8));
    assert_eq!(container.execute(&execution(&container, "kill -9 $$", false)).expect("run"), Some(9));
    let inner = host.path("inner");
    let detached = |script: &str| -> i32 {
        let mut execution = execution(&container, script, true);
        execution.pid_file = Some(host.path("outer"));
        execution.internal_pid_file = Some(inner.clone());
        assert_eq!(container.execute(&execution).expect("run"), None);
        std::fs::read_to_string(&inner).expect("a pid").parse().expect("a number")
    };
    let pid = detached("sleep 0.1; exit 5");
    assert_eq!(container.wait_pid(pid).expect("its end"), 5 << 8);
    assert!(container.wait_pid(pid).is_err(), "it is told once");
    let pid = detached("sleep 0.1; exit 6");
    assert_eq!(container.wait_root_pid(pid).expect("its end"), 6 << 8);
    let pid = detached("sleep 1000");
    container.signal_process(9, pid).expect("it is there");
    assert_eq!(container.wait_pid(pid).expect("its end"), 9);
    detached("sleep 1000");
    container.signal_container(9, true).expect("they are killed");
    // All of them were gone when that returned.
    // The sandbox may be, too.
    assert!(container.processes().map_or(true, |all| all.is_empty()));
    assert_eq!(container.wait().expect("its end"), 9);
    container.destroy().expect("it is removed");
    host.assert_nothing_left();
}

fn attached() {
    let host = Host::new();
    for (script, status) in [("exit 123", 123 << 8), ("true", 0)] {
        let bundle = host.bundle(script, script);
        let args = Args { id: "c".to_owned(), bundle, attached: true, ..Args::default() };
        assert_eq!(container::run(&config(&host), &args).expect("it runs"), status, "{script}");
        host.assert_nothing_left();
    }
    // One that is left runs on.
    let bundle = host.bundle("left", QUIET);
    let args = Args { id: "c".to_owned(), bundle: bundle.clone(), ..Args::default() };
    assert_eq!(container::run(&config(&host), &args).expect("it runs"), 0);
    runs(&bundle);
    let mut left = Container::load(&host.path("state"), "c", LoadOpts::default()).expect("it is there");
    assert_eq!(left.status, Status::Running);
    left.destroy().expect("it is removed");
    let bundle = host.bundle_with("missing", "", |spec| spec["process"]["args"] = json!(["/no/such"]));
    let args = Args { id: "c".to_owned(), bundle, attached: true, ..Args::default() };
    let error = container::run(&config(&host), &args).expect_err("there is no such program");
    assert!(error.to_string().contains("no such file or directory"), "{error}");
    host.assert_nothing_left();
}

fn pod() {
    let host = Host::new();
    let member = |id: &str, kind: &str, sandbox: &str| {
        let bundle = host.bundle_with(&format!("bundle-{id}"), QUIET, |spec: &mut Value| {
            spec["annotations"] = json!({
                "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": sandbox,
            });
        });
        make(&host, id, bundle)
    };
    let mut all = [
        member("p", "sandbox", "p"),
        member("p1", "container", "p"),
        member("p2", "container", "p"),
        // Its name begins like the other's.
        member("pp", "sandbox", "pp"),
        member("other", "container", "pp"),
    ];
    let root = host.path("state");
    let members = |sandbox: &str| {
        let id = container::Id::new(sandbox).expect("a name");
        let mut names: Vec<_> = Container::load_sandbox(&root, &id)
            .expect("they are read")
            .into_iter()
            .map(|one| one.id.to_string())
            .collect();
        names.sort();
        names
    };
    assert_eq!(members("p"), ["p", "p1", "p2"]);
    assert_eq!(members("pp"), ["other", "pp"]);
    let sandboxes = Container::list_sandboxes(&root).expect("they are listed");
    let mut names: Vec<_> = sandboxes.iter().map(|id| id.sandbox_id.to_string()).collect();
    names.sort();
    assert_eq!(names, ["p", "pp"]);
    let of_a_sandbox = LoadOpts { root_container: true, ..LoadOpts::default() };
    assert!(Container::load(&root, "p", LoadOpts { exact: true, ..of_a_sandbox }).is_ok());
    assert!(Container::load(&root, "p1", LoadOpts { root_container: true, ..LoadOpts::default() }).is_err());
    assert!(!all[1].is_sandbox_root());
    assert_eq!(all[1].sandbox_pid(), all[0].sandbox_pid());
    all[1].start().expect("it starts");
    all[1].destroy().expect("it is removed");
    assert_eq!(members("p"), ["p", "p2"]);
    for container in &mut all {
        container.destroy().expect("it is removed");
    }
    host.assert_nothing_left();
}

fn illegal() {
    let host = Host::new();
    let bundle = host.bundle("b", QUIET);
    let mut container = make(&host, "c", bundle.clone());
    assert!(container.resume().is_err() && container.pause().is_err() && container.processes().is_err());
    container.start().expect("it starts");
    runs(&bundle);
    assert!(container.start().expect_err("twice").to_string().contains("in state running"));
    assert!(container.resume().is_err());
    container.pause().expect("it is held");
    for error in [container.pause().err(), container.start().err()] {
        assert!(error.is_some_and(|error| !error.to_string().is_empty()));
    }
    assert!(container.execute(&execution(&container, "true", false)).is_err(), "it is held");
    assert!(container.event().is_ok() && container.processes().is_ok());
    container.resume().expect("it goes on");
    container.signal_container(9, true).expect("it is sent");
    container.wait().expect("its end");
    assert!(container.start().is_err() && container.pause().is_err() && container.resume().is_err());
    assert!(container.event().is_err() && container.processes().is_err());
    assert!(container.signal_container(15, false).is_err() && container.signal_process(15, 1).is_err());
    assert!(container.execute(&execution(&container, "true", false)).is_err());
    assert!(container.update(&LinuxResources::default()).is_err());
    container.destroy().expect("it is removed");
    host.assert_nothing_left();
}

fn state_file() {
    let host = Host::new();
    let root = host.path("state");
    let mut container = make(&host, "c", host.bundle("b", QUIET));
    let id = container::Id::new("c").expect("a name");
    let mut file = StateFile::new(&root, FullId::root(id.clone()));
    assert!(file.stat().is_ok_and(|metadata| metadata.len() > 0));
    assert!(file.lock_for_new().is_err(), "there is one");
    file.lock(TryLock::Try).expect("nobody has it");
    let busy = LoadOpts { try_lock: TryLock::Try, ..LoadOpts::default() };
    let error = Container::load(&root, "c", busy).err().map(|error| error.to_string());
    assert!(error.is_none_or(|error| error.contains("state file locked")));
    let other = StateFile::new(&root, FullId::root(id)).lock(TryLock::Try);
    assert!(other.is_err_and(|error| error.to_string().contains("state file locked")));
    let saved: Value = file.load().expect("it is read");
    file.save_locked(&saved).expect("it is saved");
    file.unlock();
    assert!(file.save_locked(&saved).is_err(), "it is not locked");
    container.destroy().expect("it is removed");
    assert!(file.stat().is_err());
    host.assert_nothing_left();
}

/// In a process of its own: the thread that forwards them stays.
fn forwarded() {
    let host = Host::new();
    let bundle = host.bundle("b", "trap 'exit 8' USR1; touch /tmp/runs; while :; do sleep 0.05; done");
    let mut container = make(&host, "c", bundle.clone());
    container.start().expect("it starts");
    runs(&bundle);
    let child = host::namespace::fork_into(0, || {
        let Ok(forwarding) = container.forward_signals(false) else { return 1 };
        std::fs::write(host.path("forwards"), "").expect("written");
        let _ = forwarding.join();
        0
    });
    let child = rustix::process::Pid::from_raw(child.expect("forked")).expect("a pid");
    until("the child", || host.path("forwards").exists());
    rustix::process::kill_process(child, rustix::process::Signal::USR1).expect("sent");
    assert_eq!(container.wait().expect("its end"), 8 << 8);
    rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("sent");
    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty()).expect("waited");
    container.destroy().expect("it is removed");
    host.assert_nothing_left();
}

fn threads() {
    let host = Host::new();
    let args = Args { id: "c".to_owned(), bundle: host.bundle("b", SERVICE), ..Args::default() };
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv_timeout(Duration::from_secs(60)).is_err());
    let error = Container::new(&config(&host), &args).expect_err("it has two threads");
    assert!(error.to_string().contains("threads"), "{error}");
    drop(stop);
    thread.join().expect("joined");
    host.assert_nothing_left();
}
