//! What is measured, and measuring it once.

use std::path::Path;
use std::time::Instant;

use crate::memory;
use crate::report::Report;
use crate::runtimes::Runtime;

/// How a case is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By the guest program itself, in nanoseconds.
    Inside,
    /// From the start of a command to its end, in nanoseconds.
    Start(&'static [&'static str]),
    /// The same, of a shell script whose `$1` is the directory with its files.
    Work(&'static str),
    /// What a sandbox in which so many threads or processes wait takes for each of them, in bytes.
    Each(&'static str, usize),
    /// What each of so many idle sandboxes takes that are there at once, in bytes.
    Sandboxes(usize),
    /// What all processes of a sandbox weigh whose program waits, in bytes.
    Memory,
}

impl Kind {
    /// Whether it is a size, rather than a time.
    pub fn is_size(self) -> bool {
        matches!(self, Kind::Memory | Kind::Each(..) | Kind::Sandboxes(_))
    }
}

/// Something to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, which the guest program knows too.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// How it is measured.
    pub kind: Kind,
}

const fn inside(name: &'static str, what: &'static str) -> Case {
    Case { name, what, kind: Kind::Inside }
}

/// All cases, in the order of the table.
pub const ALL: [Case; 50] = [
    inside("getppid", "getppid(2), never cached by libc"),
    inside("getpid", "getpid(2)"),
    inside("getpid-syscall", "getpid by syscall(3)"),
    inside("clock_gettime", "clock_gettime(CLOCK_MONOTONIC)"),
    inside("sched_yield", "sched_yield(2)"),
    inside("read-1", "sequential read(2), 1 byte"),
    inside("read-4k", "sequential read(2), 4 KiB"),
    inside("read-64k", "sequential read(2), 64 KiB"),
    inside("read-1m", "sequential read(2), 1 MiB"),
    inside("write-1", "sequential write(2), 1 byte"),
    inside("write-4k", "sequential write(2), 4 KiB"),
    inside("write-64k", "sequential write(2), 64 KiB"),
    inside("write-1m", "sequential write(2), 1 MiB"),
    inside("pread-1", "pread(2), 1 byte"),
    inside("pread-4k", "pread(2), 4 KiB"),
    inside("pread-64k", "pread(2), 64 KiB"),
    inside("pread-1m", "pread(2), 1 MiB"),
    inside("pwrite-1", "pwrite(2), 1 byte"),
    inside("pwrite-4k", "pwrite(2), 4 KiB"),
    inside("pwrite-64k", "pwrite(2), 64 KiB"),
    inside("pwrite-1m", "pwrite(2), 1 MiB"),
    inside("stat", "stat(2) of a file in a volume"),
    inside("stat-deep", "stat(2) of a file four directories down in a volume"),
    inside("stat-root", "stat(2) of a file in the root"),
    inside("stat-missing", "stat(2) of a file that does not exist"),
    inside("fstat", "fstat(2)"),
    inside("open-close", "open(2) and close(2) of a file in a volume"),
    inside("open-close-root", "open(2) and close(2) of a file in the root"),
    inside("readdir-100", "listing a directory of 100 files"),
    inside("poll", "poll(2) of a ready eventfd"),
    inside("pipe-ping-pong", "a byte forth and back between two processes, pipes"),
    inside("unix-ping-pong", "the same, AF_UNIX stream sockets"),
    inside("futex-ping-pong", "two threads taking turns by futex"),
    inside("mutex-2-threads", "two threads contending on a mutex, per pair of locks"),
    inside("mmap-touch-munmap", "16 pages mapped, touched, unmapped"),
    inside("fault-64m", "page fault, over 64 MiB"),
    inside("fault-1g", "page fault, over 1 GiB"),
    inside("fork-wait", "fork, exit, wait"),
    inside("fork-wait-64m", "fork with 64 MiB touched, exit, wait"),
    inside("spawn-true", "posix_spawn (vfork, exec) of /bin/true, wait"),
    inside("thread-join", "pthread_create and pthread_join"),
    inside("compute", "a million steps of xorshift"),
    inside("read-file-mib", "sequential read of 64 MiB, per MiB"),
    Case { name: "start-true", what: "start to exit of /bin/true", kind: Kind::Start(&["/bin/true"]) },
    Case {
        name: "start-shell",
        what: "start to exit of a shell that runs 20 programs",
        kind: Kind::Start(&["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; /bin/true; done"]),
    },
    Case {
        name: "start-python",
        what: "start to exit of python3 with some modules",
        kind: Kind::Start(&[
            "/usr/bin/python3",
            "-c",
            "import json, subprocess, asyncio, sqlite3, http.client",
        ]),
    },
    Case {
        name: "idle-memory",
        what: "memory (PSS) of all processes of an idle sandbox",
        kind: Kind::Memory,
    },
    Case {
        name: "each-thread",
        what: "memory for each of 1000 threads",
        kind: Kind::Each("idle-threads", 1000),
    },
    Case {
        name: "each-process",
        what: "memory for each of 500 processes",
        kind: Kind::Each("idle-processes", 500),
    },
    Case { name: "each-sandbox", what: "memory of each of 100 idle sandboxes", kind: Kind::Sandboxes(100) },
];

/// Measures all cases once in one runtime.
pub fn measure(
    cases: &[Case],
    runtime: &Runtime,
    program: &Path,
    directory: &Path,
    budget: u64,
    report: &mut Report,
) {
    let inside: Vec<&str> =
        cases.iter().filter(|case| case.kind == Kind::Inside).map(|case| case.name).collect();
    if !inside.is_empty() {
        measure_inside(&inside, runtime, program, directory, budget, report);
    }
    for case in cases {
        let result = match case.kind {
            Kind::Inside => continue,
            Kind::Start(command) => start(runtime, command),
            Kind::Work(script) => work(runtime, script, directory),
            Kind::Memory => memory::of_idle(runtime, program),
            Kind::Each(mode, count) => memory::of_each(runtime, program, mode, count),
            Kind::Sandboxes(count) => memory::of_many(runtime, program, count),
        };
        match result {
            Ok(value) => report.add(runtime, case.name, value),
            Err(error) => report.fail(runtime, case.name, &error),
        }
    }
}

fn measure_inside(
    names: &[&str],
    runtime: &Runtime,
    program: &Path,
    directory: &Path,
    budget: u64,
    report: &mut Report,
) {
    let mut command =
        vec![program.display().to_string(), directory.display().to_string(), budget.to_string()];
    command.extend(names.iter().map(|name| (*name).to_owned()));
    let output = runtime.command(&command).and_then(|mut command| Ok(command.output()?));
    let output = match output {
        Ok(output) => output,
        Err(error) => return report.fail(runtime, "all", &error),
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        if let (Some(name), Ok(value)) = (names.iter().find(|known| **known == name), value.parse()) {
            report.add(runtime, name, value);
        }
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        report.fail(runtime, "inside", &anyhow::anyhow!("{}: {}", output.status, text.trim()));
    }
}

/// The time of one run of a workload.
fn work(runtime: &Runtime, script: &str, directory: &Path) -> anyhow::Result<f64> {
    let directory = directory.display().to_string();
    let words = ["/bin/sh", "-ec", script, "sh", &directory];
    run(runtime, &words.map(str::to_owned))
}

/// The time of one run of a command.
fn run(runtime: &Runtime, command: &[String]) -> anyhow::Result<f64> {
    let mut process = runtime.command(command)?;
    let start = Instant::now();
    let output = process.output()?;
    let time = start.elapsed().as_nanos() as f64;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(time)
}

/// The time of one run of a command: the median of five.
fn start(runtime: &Runtime, command: &[&str]) -> anyhow::Result<f64> {
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(run(runtime, &command)?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
