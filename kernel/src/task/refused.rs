//! Calls that change the machine or look into its kernel. Here they are refused as they are to whoever lacks the
//! privilege, because programs know that answer.

use abi::{Errno, SysResult};

use super::CurrentTask;

macro_rules! refused {
    ($($name:ident($($argument:ident),*): $what:literal;)*) => {
        $(#[doc = concat!("`", stringify!($name), "(2)`: ", $what, ".")]
        pub fn $name(_task: &CurrentTask $(, $argument: u64)*) -> SysResult<()> {
            let _: [u64; _] = [$($argument),*];
            Err(Errno::EPERM)
        })*
    };
}

refused! {
    acct(a): "there is no process accounting";
    bpf(a, b, c): "programs in the kernel are the host's";
    delete_module(): "modules are the host's";
    fanotify_init(a, b): "whole file systems are not watched";
    finit_module(): "modules are the host's";
    init_module(): "modules are the host's";
    ioperm(a, b, c): "ports are the host's";
    iopl(a): "ports are the host's";
    kexec_file_load(): "the machine goes on";
    kexec_load(): "the machine goes on";
    lookup_dcookie(): "profiling is the host's";
    perf_event_open(a, b, c, d, e): "performance counters are the host's";
    quotactl(a, b, c, d): "there are no quotas";
    quotactl_fd(a, b, c, d): "there are no quotas";
    reboot(a, b, c, d): "the machine goes on";
    swapoff(a): "swapping is the host's";
    swapon(a, b): "swapping is the host's";
    syslog(a, b, c): "there is no kernel log";
    vhangup(): "terminals are hung up by their masters";
}
