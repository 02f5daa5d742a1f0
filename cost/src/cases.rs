//! What is counted: system calls, in the order in which a guest makes them.
//!
//! A case sets things up, makes its calls a few times, is then counted making them once more, and leaves nothing
//! behind. Descriptors are known beforehand: the lowest that is free.

use kernel::syscalls::TABLE;

use crate::machine::{FILE_LENGTH, LISTED};
use crate::platform::{Call, Step};

/// How often the calls of a case are made before they are counted.
const WARM_UP: usize = 32;

/// Where guests have paths, a second one, small structures, and what they read and write.
const PATH: u64 = 0x20_1000;
const OTHER: u64 = 0x20_1800;
const STRUCTURE: u64 = 0x20_2000;
const BUFFER: u64 = 0x21_0000;
const BUFFER_LENGTH: u64 = 64 << 10;

const AT_FDCWD: u64 = (-100i64).cast_unsigned();
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;

/// All cases as one list of steps, with their names.
pub struct Script {
    /// The steps.
    pub steps: Vec<Step>,
    /// The names, in the order in which they are counted.
    pub names: Vec<String>,
}

/// All cases.
pub fn script() -> Script {
    // The first case is that of no calls, which has no name.
    let mut script = Script { steps: vec![Step::Begin, Step::End], names: Vec::new() };
    tasks(&mut script);
    memory(&mut script);
    for place in Place::ALL {
        contents(&mut script, place);
        names(&mut script, place);
    }
    descriptors(&mut script);
    communication(&mut script);
    processes(&mut script);
    script
}

/// The call with this name, which may return anything but an error.
fn call(name: &str, arguments: &[u64]) -> Call {
    let row = TABLE.iter().find(|row| row.name == name);
    let number = row.map_or(u64::MAX, |row| row.number.into());
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    Call { number, arguments: six, result: None }
}

/// The call with this name, which must return this.
fn call_for(result: i64, name: &str, arguments: &[u64]) -> Call {
    Call { result: Some(result), ..call(name, arguments) }
}

impl Script {
    fn set_up(&mut self, call: Call) {
        self.steps.push(Step::Call(call));
    }

    /// Puts a path where calls look for it.
    fn write(&mut self, address: u64, text: &str) {
        self.steps.push(Step::Write(address, [text.as_bytes(), b"\0"].concat()));
    }

    fn bytes(&mut self, address: u64, words: &[u32]) {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.steps.push(Step::Write(address, bytes));
    }

    /// Opens what `PATH` names; it gets the descriptor 0.
    fn open(&mut self, path: &str, flags: u64) {
        self.write(PATH, path);
        self.set_up(call_for(0, "openat", &[AT_FDCWD, PATH, flags, 0o644]));
    }

    fn close(&mut self, descriptor: u64) {
        self.set_up(call_for(0, "close", &[descriptor]));
    }

    /// Counts these calls.
    fn count(&mut self, name: impl Into<String>, calls: &[Call]) {
        let calls = || calls.iter().cloned().map(Step::Call);
        for _ in 0..WARM_UP {
            self.steps.extend(calls());
        }
        self.steps.push(Step::Begin);
        self.steps.extend(calls());
        self.steps.push(Step::End);
        self.names.push(name.into());
    }
}

/// Where a file is.
#[derive(Clone, Copy)]
enum Place {
    /// Made by the guest in its root.
    Memory,
    /// In the root, from the host.
    Root,
    /// In a volume.
    Volume,
}

impl Place {
    const ALL: [Place; 3] = [Place::Memory, Place::Root, Place::Volume];

    fn name(self) -> &'static str {
        match self {
            Place::Memory => "memory",
            Place::Root => "root",
            Place::Volume => "volume",
        }
    }

    /// The directory with the files.
    fn path(self, name: &str) -> String {
        let directory = match self {
            Place::Memory => "/made",
            Place::Root => "/data",
            Place::Volume => "/volume",
        };
        format!("{directory}/{name}")
    }
}

fn tasks(script: &mut Script) {
    script.count("getppid", &[call_for(0, "getppid", &[])]);
    script.count("clock_gettime", &[call("clock_gettime", &[1, STRUCTURE])]);
    script.count("rt_sigprocmask", &[call("rt_sigprocmask", &[0, 0, STRUCTURE, 8])]);
    script.count("rt_sigaction", &[call("rt_sigaction", &[10, 0, STRUCTURE, 8])]);
    script.count("kill, ignored", &[call("kill", &[1, 17])]);
    script.bytes(STRUCTURE, &[5]);
    script.count("futex wake", &[call_for(0, "futex", &[STRUCTURE, 129, 1])]);
    script.count("futex wait, changed", &[call_for(-11, "futex", &[STRUCTURE, 128, 4])]);
}

fn memory(script: &mut Script) {
    const AT: u64 = 0x5000_0000;
    const FIXED: u64 = 0x32;
    const NONE: u64 = u64::MAX;
    let map = call("mmap", &[AT, 65536, 3, FIXED, NONE, 0]);
    let unmap = call("munmap", &[AT, 65536]);
    script.count("mmap, munmap", &[map.clone(), unmap.clone()]);
    script.set_up(map);
    script.count("mprotect", &[call("mprotect", &[AT, 4096, 1]), call("mprotect", &[AT, 4096, 3])]);
    script.count("madvise", &[call("madvise", &[AT, 4096, 4])]);
    script.set_up(unmap);
    script.open("/data/file", 0);
    let map = call("mmap", &[AT, 65536, 1, 0x12, 0, 0]);
    script.count("mmap of a file, munmap", &[map, call("munmap", &[AT, 65536])]);
    script.close(0);
    script.count("brk", &[call("brk", &[0])]);
}

/// Reading and writing.
fn contents(script: &mut Script, place: Place) {
    let file = place.path("file");
    let in_place = |what: &str| format!("{what}, {}", place.name());
    if matches!(place, Place::Memory) {
        script.write(PATH, "/made");
        script.set_up(call("mkdir", &[PATH, 0o755]));
        script.open(&file, O_RDWR | O_CREAT);
        for _ in 0..FILE_LENGTH as u64 / BUFFER_LENGTH {
            script.set_up(call("write", &[0, BUFFER, BUFFER_LENGTH]));
        }
        script.close(0);
    }
    // Writing to a file of the root makes it one in memory.
    let writable = !matches!(place, Place::Root);
    script.open(&file, if writable { O_RDWR } else { 0 });
    for (length, name) in [(1u64, "1"), (4096, "4k")] {
        let result = length.cast_signed();
        for (call, writes) in [("read", false), ("pread64", false), ("write", true), ("pwrite64", true)] {
            if writable || !writes {
                script.set_up(call_for(0, "lseek", &[0, 0, 0]));
                let calls = [call_for(result, call, &[0, BUFFER, length, 0])];
                script.count(in_place(&format!("{call} {name}")), &calls);
            }
        }
    }
    script.bytes(STRUCTURE, &[BUFFER as u32, 0, 8, 0, BUFFER as u32, 0, 8, 0]);
    script.count(in_place("readv 2"), &[call_for(16, "readv", &[0, STRUCTURE, 2])]);
    script.count(in_place("preadv 2"), &[call_for(16, "preadv", &[0, STRUCTURE, 2, 0])]);
    if writable {
        script.set_up(call_for(0, "lseek", &[0, 0, 0]));
        script.count(in_place("writev 2"), &[call_for(16, "writev", &[0, STRUCTURE, 2])]);
    }
    script.count(in_place("fstat"), &[call("fstat", &[0, STRUCTURE])]);
    script.count(in_place("lseek"), &[call("lseek", &[0, 0, 2])]);
    if writable {
        let lock = |script: &mut Script, address, kind| script.bytes(address, &[kind, 0, 0, 0, 0, 0, 1, 0]);
        lock(script, STRUCTURE, 1);
        lock(script, STRUCTURE + 64, 2);
        let calls = [call("fcntl", &[0, 6, STRUCTURE]), call("fcntl", &[0, 6, STRUCTURE + 64])];
        script.count(in_place("lock, unlock"), &calls);
    }
    script.close(0);
}

/// Finding, listing, making and removing.
fn names(script: &mut Script, place: Place) {
    let in_place = |what: &str| format!("{what}, {}", place.name());
    let writable = !matches!(place, Place::Root);
    if matches!(place, Place::Memory) {
        for name in ["a", "a/b", "a/b/c", "many"] {
            script.write(PATH, &place.path(name));
            script.set_up(call("mkdir", &[PATH, 0o755]));
        }
        let files = (0..LISTED).map(|number| format!("many/file-{number:03}"));
        for name in files.chain(["a/b/c/file".into()]) {
            script.open(&place.path(&name), O_CREAT);
            script.close(0);
        }
        script.write(PATH, "file");
        script.write(OTHER, &place.path("link"));
        script.set_up(call("symlink", &[PATH, OTHER]));
    }
    script.write(PATH, &place.path("file"));
    script.count(in_place("stat"), &[call("stat", &[PATH, STRUCTURE])]);
    script.count(in_place("access"), &[call("access", &[PATH, 4])]);
    let open = [call_for(0, "openat", &[AT_FDCWD, PATH, 0]), call_for(0, "close", &[0])];
    script.count(in_place("openat, close"), &open);
    // As `tar` and `cat` do.
    let [open, close] = open;
    let calls = [open, call("fstat", &[0, STRUCTURE]), call_for(4096, "read", &[0, BUFFER, 4096]), close];
    script.count(in_place("openat, fstat, read, close"), &calls);
    script.write(PATH, &place.path("a/b/c/file"));
    script.count(in_place("stat of a deep path"), &[call("stat", &[PATH, STRUCTURE])]);
    script.write(PATH, &place.path("link"));
    script.count(in_place("stat of a link"), &[call("stat", &[PATH, STRUCTURE])]);
    script.count(in_place("readlink"), &[call_for(4, "readlink", &[PATH, BUFFER, 100])]);
    script.write(PATH, &place.path("missing"));
    script.count(in_place("stat, missing"), &[call_for(-2, "stat", &[PATH, STRUCTURE])]);
    script.open(&place.path("many"), 0);
    let list = call("getdents64", &[0, BUFFER, BUFFER_LENGTH]);
    let end = call_for(0, "getdents64", &[0, BUFFER, BUFFER_LENGTH]);
    script.count(in_place("getdents64 of 20"), &[list, end, call("lseek", &[0, 0, 0])]);
    // As `find`, `git` and `os.scandir` do of each.
    script.write(PATH, "file-007");
    script.count(
        in_place("newfstatat in a directory"),
        &[call("newfstatat", &[0, PATH, STRUCTURE, AT_SYMLINK_NOFOLLOW])],
    );
    script.close(0);
    if !writable {
        return;
    }
    script.write(PATH, &place.path("new"));
    script.write(OTHER, &place.path("newer"));
    let create = call_for(0, "openat", &[AT_FDCWD, PATH, O_RDWR | O_CREAT, 0o644]);
    let remove = [call_for(0, "close", &[0]), call_for(0, "unlink", &[PATH])];
    script.count(in_place("create, close, unlink"), &[&[create][..], &remove].concat());
    script.count(in_place("mkdir, rmdir"), &[call("mkdir", &[PATH, 0o755]), call("rmdir", &[PATH])]);
    script.set_up(call("mkdir", &[PATH, 0o755]));
    script.count(in_place("rename, back"), &[call("rename", &[PATH, OTHER]), call("rename", &[OTHER, PATH])]);
    script.set_up(call("rmdir", &[PATH]));
}

fn descriptors(script: &mut Script) {
    script.open("/data/file", 0);
    script.count("dup, close", &[call_for(1, "dup", &[0]), call_for(0, "close", &[1])]);
    script.count("fcntl F_GETFL", &[call("fcntl", &[0, 3])]);
    script.count("ioctl, not a terminal", &[call_for(-25, "ioctl", &[0, 0x5401, STRUCTURE])]);
    script.close(0);
    script.count("getcwd", &[call_for(2, "getcwd", &[BUFFER, 4096])]);
}

fn communication(script: &mut Script) {
    script.set_up(call_for(0, "pipe2", &[STRUCTURE, 0]));
    for (length, name) in [(1u64, "pipe, 1 byte there and back"), (4096, "pipe, 4k there and back")] {
        let result = length.cast_signed();
        let calls =
            [call_for(result, "write", &[1, BUFFER, length]), call_for(result, "read", &[0, BUFFER, length])];
        script.count(name, &calls);
    }
    script.bytes(STRUCTURE, &[BUFFER as u32, 0, 8, 0, BUFFER as u32 + 64, 0, 8, 0]);
    let calls = [call_for(16, "writev", &[1, STRUCTURE, 2]), call_for(16, "readv", &[0, STRUCTURE, 2])];
    script.count("pipe, 2 pieces there and back", &calls);
    // What can be written to, and both with a timeout.
    script.bytes(OTHER, &[2, 0, 1, 0, 0, 0, 0, 0]);
    script.count("select of 1", &[call_for(1, "select", &[2, 0, OTHER, 0, 0])]);
    let calls = [call_for(1, "select", &[2, OTHER + 8, OTHER, 0, OTHER + 16])];
    script.count("select of 2 with a timeout", &calls);
    script.close(0);
    script.close(1);
    script.set_up(call_for(0, "socketpair", &[1, 1, 0, STRUCTURE]));
    let calls = [call_for(1, "write", &[1, BUFFER, 1]), call_for(1, "read", &[0, BUFFER, 1])];
    script.count("socketpair, 1 byte there and back", &calls);
    let vector = [BUFFER as u32, 0, 8, 0, BUFFER as u32 + 64, 0, 8, 0];
    script.bytes(STRUCTURE, &vector);
    for (pieces, name) in [(1, "socketpair, message of 1 piece"), (2, "socketpair, message of 2 pieces")] {
        script.bytes(OTHER, &[0, 0, 0, 0, STRUCTURE as u32, 0, pieces, 0, 0, 0, 0, 0, 0, 0]);
        let result = i64::from(pieces) * 8;
        let calls =
            [call_for(result, "sendmsg", &[1, OTHER, 0]), call_for(result, "recvmsg", &[0, OTHER, 0])];
        script.count(name, &calls);
    }
    script.close(0);
    script.close(1);
    script.set_up(call_for(0, "eventfd2", &[1, 0]));
    script.bytes(STRUCTURE, &[0, 1]);
    script.count("poll, ready", &[call_for(1, "poll", &[STRUCTURE, 1, 1000])]);
    script.set_up(call_for(1, "epoll_create1", &[0]));
    script.bytes(STRUCTURE, &[1, 0, 0]);
    script.set_up(call_for(0, "epoll_ctl", &[1, 1, 0, STRUCTURE]));
    script.count("epoll_wait, ready", &[call_for(1, "epoll_wait", &[1, BUFFER, 8, 1000])]);
    script.close(1);
    script.bytes(STRUCTURE, &[1, 0]);
    let calls = [call_for(8, "write", &[0, STRUCTURE, 8]), call_for(8, "read", &[0, BUFFER, 8])];
    script.count("eventfd, there and back", &calls);
    script.close(0);
}

/// What makes another address space. What further threads take part in is not counted: memory allocation feels what
/// they do meanwhile.
fn processes(script: &mut Script) {
    script.write(PATH, "/program");
    script.count("execve", &[call("execve", &[PATH, 0, 0])]);
}
