//! What the processor can do, as the auxiliary vector tells it.

use std::sync::OnceLock;

static HWCAP: OnceLock<u64> = OnceLock::new();

/// `AT_HWCAP`, the host's. The first time, before Linux 6.4, it is read from `/proc/self/auxv`: a process that is about to be
/// shut in asks before it is.
pub fn hwcap() -> u64 {
    *HWCAP.get_or_init(|| rustix::param::linux_hwcap().0 as u64)
}

/// `AT_HWCAP2` on x86-64: bit 1 says that `rdfsbase` and its family may be used.
pub const HWCAP2: u64 = 2;
