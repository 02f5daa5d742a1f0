//! Containers on the mock platform.

use std::sync::mpsc::{Receiver, Sender, channel};

use abi::fs::OpenFlags;
use abi::signal::SignalSet;
use platform::mock::{Guest, MockPlatform};

use super::*;
use crate::Config;
use crate::fs::cgroup::CgroupFs;
use crate::fs::file::Place;
use crate::fs::memfs::{MemFs, MemOptions};
use crate::fs::mount::MountFlags;
use crate::fs::path::{FsState, PathRef};
use crate::fs::{Acls, File, FileSystem, NewFile, NewKind};
use crate::task::{Credentials, Limits};
use crate::user::UserReader;

const GETPID: u64 = 39;
const FORK: u64 = 57;
const EXIT: u64 = 231;
const WAIT4: u64 = 61;
const KILL: u64 = 62;
const GETPPID: u64 = 110;
const PAUSE: u64 = 34;
const SIGKILL: Signal = Signal::SIGKILL;

/// A kernel with a root directory in which there is a program, `/program`, a text without a format, `/text`, and one
/// that may not be run, `/data`.
struct Machine {
    platform: Arc<MockPlatform>,
    kernel: Arc<Kernel>,
    mounts: Arc<MountNamespace>,
}

/// The smallest program: a page of zeros.
fn elf() -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    let halves = |image: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| image.extend(value.to_le_bytes()));
    };
    halves(&mut image, &[2, 62, 1, 0]);
    [0x40_0000u64, 64, 0].iter().for_each(|value| image.extend(value.to_le_bytes()));
    halves(&mut image, &[0, 0, 64, 56, 1, 64, 0, 0]);
    image.extend(1u32.to_le_bytes());
    image.extend(5u32.to_le_bytes());
    [0u64, 0x40_0000, 0x40_0000, 0, 4096, 4096].iter().for_each(|value| image.extend(value.to_le_bytes()));
    image
}

impl Machine {
    fn new() -> Machine {
        let platform = Arc::new(MockPlatform::new());
        let config = Config { strace: None, host: crate::HostInfo::default(), gvisor_marker: false };
        let kernel = Kernel::new(Arc::clone(&platform) as _, config);
        let root = MemFs::tmpfs(MemOptions::default());
        for (name, mode, contents) in
            [("program", 0o755, elf()), ("text", 0o755, b"hello".to_vec()), ("data", 0o644, elf())]
        {
            let new = NewFile { kind: NewKind::Regular, mode, uid: 0, gid: 0, acls: Acls::default() };
            let inode = root.root().create(name.as_bytes(), &new).unwrap();
            let place = Place::Anonymous { name: name.into(), inode: Some(Arc::clone(&inode)) };
            let ops = Arc::clone(&inode).open(None, OpenFlags::RDWR).unwrap();
            let file = File::new(place, ops, OpenFlags::RDWR);
            file.ops().write_at(&file, 0, &mut UserReader::buffer(&contents)).unwrap();
        }
        let new = NewFile { kind: NewKind::Directory, mode: 0o755, uid: 0, gid: 0, acls: Acls::default() };
        root.root().create(b"cgroup", &new).unwrap();
        let mounts = MountNamespace::new(root, "none", MountFlags::empty());
        let top = mounts.root();
        let dentry = top.dentry.lookup(&*top.mount.file_system, b"cgroup").unwrap();
        let place = PathRef { mount: top.mount, dentry };
        mounts.mount(place, CgroupFs::new(), "cgroup", MountFlags::READ_ONLY).unwrap();
        Machine { platform, kernel, mounts }
    }

    fn container(&self, id: &str, pid: Sharing, limits: ContainerLimits) -> Arc<Container> {
        let spec = NamespaceSpec { hostname: id.into(), pid, ..NamespaceSpec::default() };
        let namespaces = self.kernel.make_namespaces(&spec).unwrap();
        let mounts = Arc::clone(&self.mounts);
        self.kernel
            .create_container(ContainerSpec {
                platform: None,
                id: id.into(),
                namespaces,
                mounts,
                limits,
                init: InitRule::Protected,
                filters: Vec::new(),
            })
            .unwrap()
    }

    fn spec(&self, role: Role, program: &str) -> InitSpec {
        let root = self.mounts.root();
        InitSpec {
            role,
            program: program.into(),
            arguments: vec![program.into(), b"argument".to_vec()],
            environment: Vec::new(),
            fs: FsState { namespace: Arc::clone(&self.mounts), root: root.clone(), cwd: root, umask: 0 },
            credentials: Credentials::new(0, 0),
            limits: Limits::default(),
            files: Vec::new(),
            executable: None,
            filters: Vec::new(),
            terminal: None,
            oom_score_adj: 0,
            nice: 0,
            ignored_signals: SignalSet::default(),
        }
    }

    /// Starts a process that does this.
    fn start(
        &self,
        container: &Arc<Container>,
        role: Role,
        body: impl FnOnce(&mut Guest) + Send + 'static,
    ) -> Pid {
        self.platform.program(body);
        container.prepare(self.spec(role, "/program")).unwrap().start().unwrap()
    }
}

fn exit(guest: &mut Guest, status: u64) {
    guest.syscall(EXIT, &[status]);
}

fn sleep_for_ever(guest: &mut Guest) {
    loop {
        guest.syscall(PAUSE, &[]);
    }
}

fn wait(container: &Container) -> ExitStatus {
    container.wait_init(Deadline::Never, &Cancel::default()).unwrap()
}

fn killed() -> ExitStatus {
    ExitStatus::Signaled { signal: SIGKILL, core: false }
}

fn reports() -> (Sender<i64>, Receiver<i64>) {
    channel()
}

#[test]
fn a_program_that_cannot_run_fails_before_the_start() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    let failure = |program: &str| container.prepare(machine.spec(Role::Init, program)).err();
    assert_eq!(failure("/missing"), Some(Errno::ENOENT));
    assert_eq!(failure("missing"), Some(Errno::ENOENT));
    assert_eq!(failure("/data"), Some(Errno::EACCES));
    assert_eq!(failure("/text"), Some(Errno::ENOEXEC));
    assert_eq!(container.state(), State::Created);
    assert_eq!(container.task_count(), 0);
}

#[test]
fn what_is_prepared_and_dropped_leaves_nothing() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    let prepared = container.prepare(machine.spec(Role::Init, "/program")).unwrap();
    assert_eq!((prepared.number(), container.task_count()), (1, 1));
    drop(prepared);
    assert_eq!((container.task_count(), container.pid_namespace().init()), (0, None));
}

#[test]
fn an_init_has_pid_one_and_no_parent_and_its_status_can_be_asked_for_again() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    let (send, receive) = reports();
    let number = machine.start(&container, Role::Init, move |guest| {
        send.send(guest.syscall(GETPID, &[])).unwrap();
        send.send(guest.syscall(GETPPID, &[])).unwrap();
        exit(guest, 7);
    });
    assert_eq!(number, 1);
    assert_eq!((receive.recv(), receive.recv()), (Ok(1), Ok(0)));
    for _ in 0..2 {
        assert_eq!(wait(&container), ExitStatus::Exited(7));
        let status = container.wait(1, Deadline::Now, &Cancel::default());
        assert_eq!(status, Ok(Some(ExitStatus::Exited(7))));
    }
    assert_eq!(container.state(), State::Stopped(ExitStatus::Exited(7)));
    assert_eq!((container.task_count(), container.processes().len()), (0, 0));
    assert_eq!(container.signal(Target::Init, Signal::SIGTERM), Err(Errno::ESRCH));
    assert_eq!(container.prepare(machine.spec(Role::Exec, "/program")).err(), Some(Errno::ESRCH));
    assert_eq!(container.prepare(machine.spec(Role::Init, "/program")).err(), Some(Errno::EINVAL));
}

#[test]
fn two_containers_do_not_see_each_other() {
    let machine = Machine::new();
    let (one, two) = (
        machine.container("one", Sharing::New, ContainerLimits::default()),
        machine.container("two", Sharing::New, ContainerLimits::default()),
    );
    assert_eq!(machine.kernel.containers().len(), 2);
    assert_eq!(machine.start(&one, Role::Init, sleep_for_ever), 1);
    let (send, receive) = reports();
    assert_eq!(
        machine.start(&two, Role::Init, move |guest| {
            send.send(guest.syscall(KILL, &[2, 0])).unwrap();
            send.send(guest.syscall(KILL, &[u64::MAX, 9])).unwrap();
            sleep_for_ever(guest);
        }),
        1
    );
    let esrch = -i64::from(Errno::ESRCH.raw());
    assert_eq!((receive.recv(), receive.recv()), (Ok(esrch), Ok(esrch)));
    one.destroy().unwrap();
    assert_eq!(wait(&one), killed());
    assert_eq!(two.state(), State::Running);
    assert!(machine.kernel.container("one").is_none());
    two.destroy().unwrap();
}

#[test]
fn an_exec_ends_with_the_init_and_tells_its_status_once() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    machine.start(&container, Role::Init, sleep_for_ever);
    let (send, receive) = reports();
    let first = machine.start(&container, Role::Exec, move |guest| {
        send.send(guest.syscall(GETPPID, &[])).unwrap();
        exit(guest, 3);
    });
    assert_eq!(receive.recv(), Ok(0));
    let cancel = Cancel::default();
    assert_eq!(container.wait(first, Deadline::Never, &cancel), Ok(Some(ExitStatus::Exited(3))));
    assert_eq!(container.wait(first, Deadline::Never, &cancel), Err(Errno::ESRCH));
    let second = machine.start(&container, Role::Exec, sleep_for_ever);
    assert_eq!(container.processes().iter().map(|process| process.pid).collect::<Vec<_>>(), [1, second]);
    container.signal(Target::Init, SIGKILL).unwrap();
    assert_eq!(wait(&container), killed());
    assert_eq!(container.wait(second, Deadline::Never, &cancel), Ok(Some(killed())));
}

#[test]
fn a_container_in_the_pid_namespace_of_another_ends_alone() {
    let machine = Machine::new();
    let one = machine.container("one", Sharing::New, ContainerLimits::default());
    machine.start(&one, Role::Init, sleep_for_ever);
    let two = machine.container("two", Sharing::OfContainer("one".into()), ContainerLimits::default());
    let (send, receive) = reports();
    let number = machine.start(&two, Role::Init, move |guest| {
        guest.child(sleep_for_ever);
        send.send(guest.syscall(FORK, &[])).unwrap();
        send.send(guest.syscall(KILL, &[1, 0])).unwrap();
        sleep_for_ever(guest);
    });
    assert_eq!((number, receive.recv(), receive.recv()), (2, Ok(3), Ok(0)));
    two.signal(Target::Init, SIGKILL).unwrap();
    assert_eq!(wait(&two), killed());
    assert_eq!((one.state(), two.processes().len()), (State::Running, 0));
    // The other's first process ends everything that has a number there.
    let three = machine.container("three", Sharing::OfContainer("one".into()), ContainerLimits::default());
    machine.start(&three, Role::Init, sleep_for_ever);
    one.signal(Target::Init, SIGKILL).unwrap();
    assert_eq!((wait(&one), wait(&three)), (killed(), killed()));
}

#[test]
fn the_first_process_gets_only_signals_that_it_handles() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    let (send, receive) = reports();
    machine.start(&container, Role::Init, move |guest| {
        guest.child(|guest| {
            guest.syscall(KILL, &[1, 9]);
            guest.syscall(KILL, &[1, 15]);
        });
        guest.syscall(FORK, &[]);
        send.send(guest.syscall(WAIT4, &[u64::MAX, 0, 0, 0])).unwrap();
        sleep_for_ever(guest);
    });
    assert_eq!(receive.recv(), Ok(2));
    container.signal(Target::Init, Signal::SIGTERM).unwrap();
    assert_eq!(container.state(), State::Running);
    // Another process has no such shield.
    let other = machine.start(&container, Role::Exec, sleep_for_ever);
    container.signal(Target::Process(other), Signal::SIGTERM).unwrap();
    let status = container.wait(other, Deadline::Never, &Cancel::default()).unwrap().unwrap();
    assert_eq!(status, ExitStatus::Signaled { signal: Signal::SIGTERM, core: false });
    assert_eq!(container.signal(Target::Process(other), Signal::SIGTERM), Err(Errno::ESRCH));
    container.signal(Target::All, SIGKILL).unwrap();
    assert_eq!(wait(&container), killed());
}

#[test]
fn no_more_tasks_than_the_limit() {
    let machine = Machine::new();
    let limits = ContainerLimits { pids: Some(2), ..ContainerLimits::default() };
    let container = machine.container("one", Sharing::New, limits);
    let (send, receive) = reports();
    machine.start(&container, Role::Init, move |guest| {
        guest.child(sleep_for_ever);
        let child = guest.syscall(FORK, &[]);
        send.send(child).unwrap();
        send.send(guest.syscall(FORK, &[])).unwrap();
        guest.syscall(KILL, &[child as u64, 9]);
        guest.syscall(WAIT4, &[u64::MAX, 0, 0, 0]);
        guest.child(sleep_for_ever);
        send.send(guest.syscall(FORK, &[])).unwrap();
        sleep_for_ever(guest);
    });
    let eagain = -i64::from(Errno::EAGAIN.raw());
    assert_eq!((receive.recv(), receive.recv(), receive.recv()), (Ok(2), Ok(eagain), Ok(3)));
    assert_eq!((container.task_count(), container.refused_tasks()), (2, 1));
    assert_eq!(container.prepare(machine.spec(Role::Exec, "/program")).err(), Some(Errno::EAGAIN));
    container.destroy().unwrap();
    assert_eq!(container.task_count(), 0);
}

#[test]
fn a_paused_container_makes_no_system_call_until_it_is_resumed() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    let (send, receive) = reports();
    machine.start(&container, Role::Init, move |guest| {
        loop {
            // Ends when the test has gone.
            if send.send(guest.syscall(GETPID, &[])).is_err() {
                return;
            }
        }
    });
    assert_eq!(receive.recv(), Ok(1));
    container.pause().unwrap();
    assert_eq!(container.state(), State::Paused);
    assert_eq!(container.pause(), Err(Errno::EINVAL));
    assert_eq!(container.prepare(machine.spec(Role::Exec, "/program")).err(), Some(Errno::EBUSY));
    // One more answer may be on its way; then there is silence.
    let silence = Duration::from_millis(50);
    while receive.recv_timeout(silence).is_ok() {}
    assert!(receive.recv_timeout(silence).is_err());
    container.resume().unwrap();
    assert_eq!(container.resume(), Err(Errno::EINVAL));
    assert_eq!(receive.recv(), Ok(1));
    container.pause().unwrap();
    container.signal(Target::Init, SIGKILL).unwrap();
    assert_eq!(wait(&container), killed());
}

#[test]
fn a_wait_can_be_cancelled() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    let cancel = Cancel::default();
    let (waiting, ended) = (Arc::clone(&container), cancel.clone());
    let thread = std::thread::spawn(move || waiting.wait_init(Deadline::Never, &ended));
    cancel.cancel();
    assert_eq!(thread.join().unwrap(), None);
    assert_eq!(container.wait_init(Deadline::Now, &Cancel::default()), None);
}

#[test]
fn names_of_containers_are_theirs_alone() {
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    assert_eq!(container.namespaces.uts.names().hostname, b"one");
    let namespaces = machine.kernel.make_namespaces(&NamespaceSpec::default()).unwrap();
    let mounts = Arc::clone(&machine.mounts);
    let limits = ContainerLimits::default();
    let again = ContainerSpec {
        platform: None,
        id: "one".into(),
        namespaces,
        mounts,
        limits,
        init: InitRule::Protected,
        filters: Vec::new(),
    };
    assert_eq!(machine.kernel.create_container(again).err(), Some(Errno::EEXIST));
    let shared = NamespaceSpec { uts: Sharing::OfContainer("none".into()), ..NamespaceSpec::default() };
    assert_eq!(machine.kernel.make_namespaces(&shared).err(), Some(Errno::ESRCH));
}

/// What a guest reads from a file.
fn read_file(guest: &mut Guest, path: &str) -> Result<String, i64> {
    let buffer = guest.registers().rsp - 8192;
    guest.write(buffer, format!("{path}\0").as_bytes());
    let fd = guest.syscall(2, &[buffer, 0]);
    if fd < 0 {
        return Err(fd);
    }
    let count = guest.syscall(0, &[fd as u64, buffer, 4096]);
    guest.syscall(3, &[fd as u64]);
    Ok(String::from_utf8(guest.read(buffer, usize::try_from(count).map_err(|_| count)?)).unwrap())
}

#[test]
fn a_container_reads_its_own_limits_and_usage() {
    let machine = Machine::new();
    let limits = ContainerLimits { pids: Some(64), memory: Some(1 << 30), cpu: Some((150_000, 100_000)) };
    let (one, two) = (
        machine.container("one", Sharing::New, limits),
        machine.container("two", Sharing::New, ContainerLimits::default()),
    );
    let names = ["pids.max", "pids.current", "memory.max", "cpu.max", "cgroup.procs"];
    let look = |container: &Arc<Container>| {
        let (send, receive) = channel();
        machine.start(container, Role::Init, move |guest| {
            let texts = names.map(|name| read_file(guest, &format!("/cgroup/{name}")).unwrap());
            send.send((texts, read_file(guest, "/cgroup/memory.limit_in_bytes"))).unwrap();
        });
        receive.recv().unwrap()
    };
    let (texts, missing) = look(&one);
    assert_eq!(texts, ["64\n", "1\n", "1073741824\n", "150000 100000\n", "1\n"]);
    assert_eq!(missing, Err(-i64::from(Errno::ENOENT.raw())));
    assert_eq!(look(&two).0, ["max\n", "1\n", "max\n", "max 100000\n", "1\n"]);
}

#[test]
fn a_container_with_a_stopped_process_can_be_paused() {
    const GETPPID_OF_NOBODY: i64 = 0;
    let machine = Machine::new();
    let container = machine.container("one", Sharing::New, ContainerLimits::default());
    machine.start(&container, Role::Init, sleep_for_ever);
    let (send, receive) = reports();
    let number = machine.start(&container, Role::Exec, move |guest| {
        send.send(guest.syscall(GETPPID, &[])).unwrap();
        let own = guest.syscall(GETPID, &[]);
        guest.syscall(KILL, &[own as u64, 19]);
        send.send(guest.syscall(GETPPID, &[])).unwrap();
        sleep_for_ever(guest);
    });
    assert_eq!(receive.recv(), Ok(GETPPID_OF_NOBODY));
    let group = machine.kernel.tasks.group(container.pid_namespace().pid(number).unwrap()).unwrap();
    while !group.signals.is_stopped() {
        std::thread::yield_now();
    }
    container.pause().unwrap();
    container.signal(Target::Process(number), Signal::SIGCONT).unwrap();
    assert!(receive.recv_timeout(Duration::from_millis(50)).is_err());
    container.resume().unwrap();
    assert_eq!(receive.recv(), Ok(GETPPID_OF_NOBODY));
    container.destroy().unwrap();
}
