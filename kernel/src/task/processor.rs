//! What the processor can do, as the auxiliary vector tells it.

/// `AT_HWCAP`, the host's.
pub fn hwcap() -> u64 {
    rustix::param::linux_hwcap().0 as u64
}

/// `AT_HWCAP2` on x86-64: bit 1 says that `rdfsbase` and its family may be used.
pub const HWCAP2: u64 = 2;
