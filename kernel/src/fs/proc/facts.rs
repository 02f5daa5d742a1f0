//! Files of procfs that are the same in every sandbox, or nearly so: what is not there (devices, modules, interrupts) in
//! the shape of having none, and the settings that programs ask for before they start.
//!
//! [`super::system`] has those that tell of something; a setting that can be changed belongs there too.

use crate::Kernel;

/// All of them by path; those that end in a slash are directories.
pub const PATHS: &[&str] = &[
    "buddyinfo",
    "cgroups",
    "consoles",
    "crypto",
    "devices",
    "diskstats",
    "execdomains",
    "fb",
    "interrupts",
    "key-users",
    "locks",
    "misc",
    "modules",
    "net",
    "partitions",
    "pressure/",
    "pressure/cpu",
    "pressure/io",
    "pressure/memory",
    "schedstat",
    "slabinfo",
    "softirqs",
    "zoneinfo",
    "sys/fs/aio-max-nr",
    "sys/fs/aio-nr",
    "sys/fs/dentry-state",
    "sys/fs/epoll/",
    "sys/fs/epoll/max_user_watches",
    "sys/fs/file-nr",
    "sys/fs/inode-nr",
    "sys/fs/inotify/",
    "sys/fs/inotify/max_queued_events",
    "sys/fs/inotify/max_user_instances",
    "sys/fs/inotify/max_user_watches",
    "sys/fs/lease-break-time",
    "sys/fs/leases-enable",
    "sys/fs/mount-max",
    "sys/fs/overflowgid",
    "sys/fs/overflowuid",
    "sys/fs/pipe-user-pages-hard",
    "sys/fs/pipe-user-pages-soft",
    "sys/fs/protected_fifos",
    "sys/fs/protected_hardlinks",
    "sys/fs/protected_regular",
    "sys/fs/protected_symlinks",
    "sys/fs/suid_dumpable",
    "sys/kernel/arch",
    "sys/kernel/core_pattern",
    "sys/kernel/core_pipe_limit",
    "sys/kernel/core_uses_pid",
    "sys/kernel/dmesg_restrict",
    "sys/kernel/io_uring_disabled",
    "sys/kernel/kptr_restrict",
    "sys/kernel/modules_disabled",
    "sys/kernel/panic",
    "sys/kernel/panic_on_oops",
    "sys/kernel/perf_event_paranoid",
    "sys/kernel/printk",
    "sys/kernel/pty/",
    "sys/kernel/pty/max",
    "sys/kernel/pty/reserve",
    "sys/kernel/random/entropy_avail",
    "sys/kernel/random/poolsize",
    "sys/kernel/randomize_va_space",
    "sys/kernel/sched_child_runs_first",
    "sys/kernel/sched_rr_timeslice_ms",
    "sys/kernel/sched_rt_period_us",
    "sys/kernel/sched_rt_runtime_us",
    "sys/kernel/seccomp/",
    "sys/kernel/seccomp/actions_avail",
    "sys/kernel/sysrq",
    "sys/kernel/tainted",
    "sys/kernel/unprivileged_bpf_disabled",
    "sys/kernel/yama/",
    "sys/kernel/yama/ptrace_scope",
    "sys/net/",
    "sys/net/core/",
    "sys/net/core/somaxconn",
    "sys/net/unix/",
    "sys/net/unix/max_dgram_qlen",
    "sys/user/",
    "sys/user/max_cgroup_namespaces",
    "sys/user/max_ipc_namespaces",
    "sys/user/max_mnt_namespaces",
    "sys/user/max_net_namespaces",
    "sys/user/max_pid_namespaces",
    "sys/user/max_user_namespaces",
    "sys/user/max_uts_namespaces",
    "sys/vm/admin_reserve_kbytes",
    "sys/vm/dirty_background_bytes",
    "sys/vm/dirty_background_ratio",
    "sys/vm/dirty_bytes",
    "sys/vm/dirty_expire_centisecs",
    "sys/vm/dirty_ratio",
    "sys/vm/dirty_writeback_centisecs",
    "sys/vm/hugetlb_shm_group",
    "sys/vm/laptop_mode",
    "sys/vm/legacy_va_layout",
    "sys/vm/min_free_kbytes",
    "sys/vm/nr_hugepages",
    "sys/vm/nr_overcommit_hugepages",
    "sys/vm/oom_kill_allocating_task",
    "sys/vm/overcommit_kbytes",
    "sys/vm/overcommit_ratio",
    "sys/vm/page-cluster",
    "sys/vm/panic_on_oom",
    "sys/vm/stat_interval",
    "sys/vm/swappiness",
    "sys/vm/unprivileged_userfaultfd",
    "sys/vm/user_reserve_kbytes",
    "sys/vm/vfs_cache_pressure",
    "sys/vm/zone_reclaim_mode",
];

/// Where a symbolic link leads.
pub fn target(path: &str) -> Option<&'static str> {
    match path {
        "mounts" => Some("self/mounts"),
        "net" => Some("self/net"),
        _ => None,
    }
}

/// The text of a file, if it is one of these.
pub fn text(kernel: &Kernel, path: &str) -> Option<String> {
    if let Some(value) = setting(path) {
        return Some(format!("{value}\n"));
    }
    Some(match path {
        "buddyinfo" | "consoles" | "crypto" | "fb" | "key-users" | "misc" | "modules" | "zoneinfo" => {
            String::new()
        }
        "cgroups" => "#subsys_name\thierarchy\tnum_cgroups\tenabled\n".to_owned(),
        "devices" => "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\n\
                      Block devices:\n"
            .to_owned(),
        "diskstats" => String::new(),
        "execdomains" => "0-0\tLinux           \t[kernel]\n".to_owned(),
        "interrupts" => table("", 1, &[]),
        "locks" => String::new(),
        "partitions" => "major minor  #blocks  name\n\n".to_owned(),
        "pressure/cpu" | "pressure/io" | "pressure/memory" => ["some", "full"]
            .map(|word| format!("{word} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"))
            .concat(),
        "schedstat" => {
            let ticks = kernel.boot.elapsed().as_millis() / 4;
            let cpus = (0..processors()).map(|cpu| format!("cpu{cpu} 0 0 0 0 0 0 0 0 0\n"));
            format!("version 15\ntimestamp {ticks}\n{}", cpus.collect::<String>())
        }
        "slabinfo" => "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> <objperslab> \
                       <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> \
                       <num_slabs> <sharedavail>\n"
            .to_owned(),
        "softirqs" => table("    ", 0, &[
            "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
        ]),
        "sys/fs/file-nr" => {
            let open: usize = kernel.tasks.all().iter().map(|task| task.files().entries().len()).sum();
            format!("{open}\t0\t9223372036854775807\n")
        }
        _ => return None,
    })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A column for each processor, and rows of zeros.
fn table(margin: &str, blanks: usize, rows: &[&str]) -> String {
    let blank = " ".repeat(11 + blanks);
    let head: String = (0..processors()).map(|cpu| format!("{:<11}", format!("CPU{cpu}"))).collect();
    let mut text = format!("{margin}{blank}{}\n", head.trim_end());
    for row in rows {
        text += &format!("{:>12}", format!("{row}:"));
        (0..processors()).for_each(|_| text += &format!("{:>11}", 0));
        text.push('\n');
    }
    text
}

/// The value of a setting that cannot be changed.
fn setting(path: &str) -> Option<&'static str> {
    Some(match path.strip_prefix("sys/")? {
        "fs/aio-max-nr" => "65536",
        "fs/dentry-state" => "0\t0\t45\t0\t0\t0",
        "fs/epoll/max_user_watches" => "1048576",
        "fs/inode-nr" => "0\t0",
        "fs/inotify/max_queued_events" => "16384",
        "fs/inotify/max_user_instances" => "128",
        "fs/inotify/max_user_watches" => "1048576",
        "fs/lease-break-time" => "45",
        "fs/mount-max" => "100000",
        "fs/overflowgid" | "fs/overflowuid" => "65534",
        "fs/pipe-user-pages-soft" => "16384",
        "kernel/arch" => "x86_64",
        "kernel/core_pattern" => "core",
        "kernel/io_uring_disabled" | "kernel/unprivileged_bpf_disabled" => "2",
        "kernel/perf_event_paranoid" => "4",
        "kernel/printk" => "4\t4\t1\t7",
        "kernel/pty/max" => "4096",
        "kernel/pty/reserve" => "1024",
        "kernel/random/entropy_avail" | "kernel/random/poolsize" => "256",
        "kernel/randomize_va_space" => "0",
        "kernel/sched_rr_timeslice_ms" => "100",
        "kernel/sched_rt_period_us" => "1000000",
        "kernel/sched_rt_runtime_us" => "950000",
        "kernel/seccomp/actions_avail" => "kill_process kill_thread trap errno user_notif trace log allow",
        "kernel/dmesg_restrict"
        | "kernel/modules_disabled"
        | "kernel/yama/ptrace_scope"
        | "fs/leases-enable"
        | "fs/protected_fifos"
        | "fs/protected_hardlinks"
        | "fs/protected_regular"
        | "fs/protected_symlinks"
        | "vm/stat_interval" => "1",
        "net/core/somaxconn" => "4096",
        "net/unix/max_dgram_qlen" => "10",
        path if path.starts_with("user/max_") => "0",
        "vm/admin_reserve_kbytes" => "8192",
        "vm/dirty_background_ratio" => "10",
        "vm/dirty_expire_centisecs" => "3000",
        "vm/dirty_ratio" => "20",
        "vm/dirty_writeback_centisecs" => "500",
        "vm/min_free_kbytes" => "67584",
        "vm/overcommit_ratio" => "50",
        "vm/page-cluster" => "3",
        "vm/swappiness" => "60",
        "vm/user_reserve_kbytes" => "131072",
        "vm/vfs_cache_pressure" => "100",
        "fs/aio-nr"
        | "fs/pipe-user-pages-hard"
        | "fs/suid_dumpable"
        | "kernel/core_pipe_limit"
        | "kernel/core_uses_pid"
        | "kernel/kptr_restrict"
        | "kernel/panic"
        | "kernel/panic_on_oops"
        | "kernel/sched_child_runs_first"
        | "kernel/sysrq"
        | "kernel/tainted"
        | "vm/dirty_background_bytes"
        | "vm/dirty_bytes"
        | "vm/hugetlb_shm_group"
        | "vm/laptop_mode"
        | "vm/legacy_va_layout"
        | "vm/nr_hugepages"
        | "vm/nr_overcommit_hugepages"
        | "vm/oom_kill_allocating_task"
        | "vm/overcommit_kbytes"
        | "vm/panic_on_oom"
        | "vm/unprivileged_userfaultfd"
        | "vm/zone_reclaim_mode" => "0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_a_value() {
        let dynamic = ["sys/fs/file-nr"];
        for path in PATHS.iter().filter(|path| path.starts_with("sys/") && !path.ends_with('/')) {
            assert!(dynamic.contains(path) || setting(path).is_some(), "{path}");
        }
    }
}
