//! Which processes of the host run a container's programs: engines look them up by the pids that `ps` gives them.

use std::collections::HashSet;

use super::Container;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::state;
use crate::status::Action;

impl Container {
    /// The host's processes that run its programs, each named as its program; where they cannot be told from those of
    /// other containers of a pod, the process that stands for it.
    ///
    /// # Errors
    /// If it does not run.
    pub fn host_pids(&self) -> Result<Vec<i32>> {
        Action::Processes.check(&self.id, self.status)?;
        let own: HashSet<i32> =
            self.cgroup.as_ref().map(Cgroup::members).unwrap_or_default().into_iter().collect();
        let alone = self.is_sandbox_root()
            && state::list_sandbox(self.saver.root_dir(), &self.saver.id().sandbox_id)?.len() < 2;
        let mut pids = self.sandbox.as_ref().map_or(Vec::new(), |sandbox| children(sandbox.process.pid));
        // One without a command line runs no program, or none yet.
        pids.retain(|pid| (alone || own.contains(pid)) && has_command_line(*pid));
        if pids.is_empty() {
            pids.extend(self.stand_in.as_ref().map(|process| process.pid));
        }
        pids.sort_unstable();
        Ok(pids)
    }
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let mut all = Vec::new();
    lists.for_each(|list| all.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())));
    all
}

fn has_command_line(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
