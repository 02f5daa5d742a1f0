//! What the machine is like while something is measured.

use std::process::{Child, Command};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps this process, and all that it starts, to one processor.
pub fn keep_to_one_processor() -> anyhow::Result<()> {
    let allowed = sched_getaffinity(None).context("cannot ask for the processors")?;
    let first = (0..CpuSet::MAX_CPU).find(|processor| allowed.is_set(*processor));
    let mut one = CpuSet::new();
    one.set(first.context("there is no processor")?);
    sched_setaffinity(None, &one).context("cannot keep to one processor")
}

/// A process for each processor that does nothing but run. They end when this is dropped.
pub struct OtherWork(Vec<Child>);

impl OtherWork {
    /// Starts the processes.
    pub fn start() -> anyhow::Result<OtherWork> {
        let mut others = OtherWork(Vec::new());
        for _ in 0..std::thread::available_parallelism()?.get() {
            // It ends with this process, however that ends: then its standard input does.
            let script = "while :; do :; done & read -r nothing; kill $!";
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(std::process::Stdio::piped());
            others.0.push(command.spawn().context("cannot start other work")?);
        }
        Ok(others)
    }
}

impl Drop for OtherWork {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}
