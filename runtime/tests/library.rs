//! Containers as the crate `container` gives them to programs, without a command.

mod bundles;

use bundles::{Host, SERVICE, can_run};
use container::{Container, LoadOpts, Status, TryLock};
use oci_spec::runtime::Capability;

#[test]
fn a_container_is_loaded_asked_and_controlled() {
    if !can_run() {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("b", SERVICE);
    host.started("first", &bundle);
    host.wait_for_output("first", "ready");
    let root = host.path("state");
    let load = |id: &str, options: LoadOpts| Container::load(&root, id, options);
    let mut loaded = load("fir", LoadOpts::default()).expect("the beginning of its name will do");
    assert!(load("fir", LoadOpts { exact: true, ..LoadOpts::default() }).is_err());
    for options in [
        LoadOpts { skip_check: true, ..LoadOpts::default() },
        LoadOpts { try_lock: TryLock::Try, ..LoadOpts::default() },
        LoadOpts { root_container: true, ..LoadOpts::default() },
    ] {
        assert_eq!(load("first", options).expect("it is there").status, Status::Running);
    }
    assert_eq!((loaded.id.as_str(), &loaded.bundle), ("first", &bundle));
    assert!(!loaded.created.is_empty() && !loaded.owner.is_empty() && loaded.console_socket.is_none());
    assert!(loaded.is_sandbox_root() && loaded.is_sandbox_running());
    assert!(loaded.has_capability_in_any_set(Capability::DacOverride), "in the bounding set");
    assert!(!loaded.has_capability_in_any_set(Capability::SysAdmin));
    assert!(loaded.runs_as_uid0());
    assert!(loaded.gofer.as_ref().is_some_and(container::ProcessIdentity::is_alive));
    assert_eq!(loaded.sandbox_pid(), loaded.sandbox.as_ref().map(|sandbox| sandbox.process.pid));
    assert_eq!(loaded.state().pid, Some(host.pid("first")));
    assert_eq!(loaded.processes().expect("they are listed")[0].pid, 1);
    assert!(loaded.event().is_ok_and(|stats| stats.pids.current > 0) || loaded.cgroup.is_none());
    let members = Container::load_sandbox(&root, &loaded.id).expect("it is read");
    assert_eq!(members.len(), 1);
    assert_eq!(Container::list_sandboxes(&root).expect("they are listed").len(), 1);
    loaded.pause().expect("it is held");
    assert!(loaded.pause().is_err(), "twice");
    loaded.resume().expect("it goes on");
    loaded.signal_process(0, 1).expect("it is there");
    loaded.signal_container(15, false).expect("it is sent");
    assert_eq!(loaded.wait().expect("its end"), 7 << 8);
    assert_eq!(loaded.wait().expect("again"), 7 << 8);
    assert!(loaded.signal_container(15, false).is_err(), "it has ended");
    loaded.destroy().expect("it is removed");
    loaded.destroy().expect("it was removed");
    assert!(load("first", LoadOpts::default()).is_err());
    host.assert_nothing_left();
}
