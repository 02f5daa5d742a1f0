//! Files of a process's directory that few programs read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::task::relations;
use crate::fs::PathRef;
use crate::namespace::PidNamespace;
use crate::task::Task;

/// The text of a file, if it is one of these.
pub fn text(task: &Task, pids: &PidNamespace, name: &str) -> Option<String> {
    Some(match name {
        "children" => children(task, pids),
        "coredump_filter" => "00000033\n".to_owned(),
        "cpuset" => "/\n".to_owned(),
        "projid_map" => "         0          0 4294967295\n".to_owned(),
        "sched" => sched(task, pids),
        "schedstat" => format!("{} 0 0\n", processor_time(task).as_nanos()),
        "mountstats" => mountstats(task),
        "timerslack_ns" => format!("{}\n", task.timer_slack.load(Ordering::Relaxed)),
        _ => return None,
    })
}

/// The children of the process, which are shown with its first thread.
fn children(task: &Task, pids: &PidNamespace) -> String {
    if task.tid() != task.group.pid {
        return String::new();
    }
    let children: Vec<_> = task.kernel.tasks.with(|tree| {
        let all = tree.processes().map(|process| process.group.pid);
        let parent = |pid| tree.process(pid).map(|process| process.parent);
        all.filter(|pid| parent(*pid) == Some(task.group.pid)).collect()
    });
    let mut numbers: Vec<_> = children.into_iter().map(|pid| pids.number(pid)).collect();
    numbers.sort_unstable();
    numbers.iter().filter(|number| **number != 0).map(|number| format!("{number} ")).collect()
}

fn processor_time(task: &Task) -> std::time::Duration {
    let (user, system) = task.kernel.process_time(&task.group);
    user + system
}

fn sched(task: &Task, pids: &PidNamespace) -> String {
    let (.., threads) = relations(&task.kernel, pids, task.group.pid);
    let nice = task.scheduling.nice.load(Ordering::Relaxed);
    let head = format!("{} ({}, #threads: {threads})\n", task.comm(), pids.number(task.tid()));
    let rule = "-".repeat(67);
    let rows = [
        ("se.sum_exec_runtime", format!("{:.6}", processor_time(task).as_secs_f64() * 1000.0)),
        ("se.nr_migrations", "0".to_owned()),
        ("nr_switches", "0".to_owned()),
        ("nr_voluntary_switches", "0".to_owned()),
        ("nr_involuntary_switches", "0".to_owned()),
        ("policy", "0".to_owned()),
        ("prio", (120 + nice).to_string()),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("{name:<45}:{value:>21}\n")).collect();
    format!("{head}{rule}\n{rows}")
}

fn mountstats(task: &Task) -> String {
    let state = task.fs_state();
    let mut text = String::new();
    for mount in state.namespace.mounts() {
        let place = PathRef { mount: Arc::clone(&mount), dentry: Arc::clone(&mount.root) };
        if let (path, true) = place.display(&state.root) {
            let (source, kind) = (&mount.source, mount.file_system.name());
            let path = String::from_utf8_lossy(&path).into_owned();
            text += &format!("device {source} mounted on {path} with fstype {kind}\n");
        }
    }
    text
}
