//! What the processes of an idle sandbox weigh.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::runtimes::Runtime;
use std::path::Path;

/// The sum of the proportional set sizes, in bytes, of all processes of a sandbox in which a program waits for input.
pub fn of_idle(runtime: &Runtime, program: &Path) -> anyhow::Result<f64> {
    let mut command = runtime.command(&[program.display().to_string(), "idle".to_owned()])?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let input = child.stdin.take();
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line);
    // What is filled while idle is to count.
    std::thread::sleep(Duration::from_millis(300));
    let size = processes().and_then(|processes| {
        processes.iter().map(|pid| proportional_set_size(*pid)).sum::<anyhow::Result<f64>>()
    });
    drop(input);
    let status = child.wait()?;
    read?;
    ensure!(line == "ready\n" && status.success(), "the idle program ended with {status}");
    size
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
