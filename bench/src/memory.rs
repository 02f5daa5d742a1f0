//! What the processes of idle sandboxes weigh.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::runtimes::Runtime;
use std::path::Path;

/// A program that waits, and all processes of its sandbox.
struct Idle {
    child: Child,
    input: Option<ChildStdin>,
}

impl Idle {
    /// Starts the measured program with these arguments, and waits until it says that it is ready.
    fn start(runtime: &Runtime, program: &Path, arguments: &[&str]) -> anyhow::Result<Idle> {
        let mut command = vec![program.display().to_string()];
        command.extend(arguments.iter().map(|word| (*word).to_owned()));
        let mut command = runtime.command(&command)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the idle program did not get ready");
        Ok(Idle { child, input })
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the idle program ended with {status}");
        Ok(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Many that wait at once.
#[derive(Clone, Copy, Debug)]
pub enum Crowd {
    /// Threads or processes of one sandbox, by what the measured program calls that.
    Within(&'static str),
    /// Sandboxes.
    Sandboxes,
}

/// The sum of the proportional set sizes, in bytes, of all processes below this one.
fn weigh() -> anyhow::Result<f64> {
    // What is filled while idle is to count.
    std::thread::sleep(Duration::from_millis(300));
    processes()?.iter().map(|pid| proportional_set_size(*pid)).sum()
}

/// The sum of the proportional set sizes, in bytes, of all processes of a sandbox in which a program waits for input.
pub fn of_idle(runtime: &Runtime, program: &Path) -> anyhow::Result<f64> {
    let idle = Idle::start(runtime, program, &["idle"])?;
    let size = weigh();
    idle.end()?;
    size
}

/// What each of `count` waiting threads or processes adds to that.
pub fn of_each(runtime: &Runtime, program: &Path, mode: &str, count: usize) -> anyhow::Result<f64> {
    let one = of_idle(runtime, program)?;
    let idle = Idle::start(runtime, program, &[mode, &count.to_string()])?;
    let size = weigh();
    idle.end()?;
    Ok((size? - one) / count as f64)
}

/// What each of `count` idle sandboxes takes, all of them being there at once.
pub fn of_many(runtime: &Runtime, program: &Path, count: usize) -> anyhow::Result<f64> {
    let all =
        (0..count).map(|_| Idle::start(runtime, program, &["idle"])).collect::<anyhow::Result<Vec<_>>>()?;
    let size = weigh();
    all.into_iter().try_for_each(Idle::end)?;
    Ok(size? / count as f64)
}

/// What so many of something take that wait: the sum of the proportional set sizes of all processes, in bytes, and how
/// many seconds passed until they waited.
pub fn of_crowd(runtime: &Runtime, program: &Path, crowd: Crowd, count: usize) -> anyhow::Result<(f64, f64)> {
    let start = Instant::now();
    let all = match crowd {
        Crowd::Within(mode) => vec![Idle::start(runtime, program, &[mode, &count.to_string()])?],
        Crowd::Sandboxes => (0..count)
            .map(|_| Idle::start(runtime, program, &["idle"]))
            .collect::<anyhow::Result<Vec<_>>>()?,
    };
    let time = start.elapsed().as_secs_f64();
    let size = weigh();
    all.into_iter().try_for_each(Idle::end)?;
    Ok((size?, time))
}

/// All descendants of this process.
fn processes() -> anyhow::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name, in parentheses, may contain anything.
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        if let Some(parent) = fields.split(' ').nth(1).and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![std::process::id()];
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        next.extend(below);
    }
    Ok(found)
}

fn proportional_set_size(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    // A process without memory, a zombie, reads as "no such process".
    let text = match fs::read_to_string(&path) {
        Err(error) if error.raw_os_error() == Some(3) => return Ok(0.0),
        other => other.with_context(|| format!("cannot read {path}"))?,
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0)
}
