//! Signals, `signal(7)`: numbers, sets, `siginfo_t`, `struct sigaction`, `stack_t`.

use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A valid signal number, 1..=64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $value:literal;)*) => {
        #[allow(missing_docs, reason = "the names are those of signal(7)")]
        impl Signal {
            $(pub const $name: Signal = Signal($value);)*
        }
        const NAMES: &[(u8, &str)] = &[$(($value, stringify!($name))),*];
    };
}

signals! {
    SIGHUP = 1; SIGINT = 2; SIGQUIT = 3; SIGILL = 4; SIGTRAP = 5; SIGABRT = 6; SIGBUS = 7; SIGFPE = 8;
    SIGKILL = 9; SIGUSR1 = 10; SIGSEGV = 11; SIGUSR2 = 12; SIGPIPE = 13; SIGALRM = 14; SIGTERM = 15;
    SIGSTKFLT = 16; SIGCHLD = 17; SIGCONT = 18; SIGSTOP = 19; SIGTSTP = 20; SIGTTIN = 21; SIGTTOU = 22;
    SIGURG = 23; SIGXCPU = 24; SIGXFSZ = 25; SIGVTALRM = 26; SIGPROF = 27; SIGWINCH = 28; SIGIO = 29;
    SIGPWR = 30; SIGSYS = 31;
}

impl Signal {
    /// The first real-time signal as the kernel counts them (libc hides a few).
    pub const RTMIN: u8 = 32;
    /// The last signal.
    pub const MAX: u8 = 64;

    /// The signal with this number, or `None` outside 1..=64.
    pub fn new(number: i32) -> Option<Signal> {
        u8::try_from(number).ok().filter(|n| (1..=Self::MAX).contains(n)).map(Signal)
    }

    /// The number, 1..=64.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Whether several instances of the signal queue up.
    pub fn is_realtime(self) -> bool {
        self.0 >= Self::RTMIN
    }

    /// The set that holds just this signal.
    pub fn mask(self) -> SignalSet {
        SignalSet(1 << (self.0 - 1))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "SIGRT_{}", self.0 - Self::RTMIN),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of signals, the kernel's 64-bit `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// The set without members.
    pub const EMPTY: SignalSet = SignalSet(0);
    /// SIGKILL and SIGSTOP, which cannot be blocked, caught or ignored.
    pub const UNBLOCKABLE: SignalSet = SignalSet(1 << 8 | 1 << 18);

    /// Whether `signal` is a member.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & signal.mask().0 != 0
    }

    /// Adds `signal`.
    pub fn insert(&mut self, signal: Signal) {
        self.0 |= signal.mask().0;
    }

    /// Removes `signal`.
    pub fn remove(&mut self, signal: Signal) {
        self.0 &= !signal.mask().0;
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members of either set.
    pub fn union(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// The members of both sets.
    pub fn intersection(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & other.0)
    }

    /// The members of this set that `other` lacks.
    pub fn difference(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & !other.0)
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        (1..=Signal::MAX).map(Signal).filter(move |signal| self.contains(*signal))
    }
}

/// `SIG_DFL`: the default action.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`: the signal is ignored.
pub const SIG_IGN: u64 = 1;

/// `struct sigaction` as `rt_sigaction(2)` takes it on x86-64.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// The handler's address, [`SIG_DFL`] or [`SIG_IGN`].
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// The address that a handler returns to.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: SignalSet,
}

/// `SA_NOCLDSTOP`: no SIGCHLD when children stop.
pub const SA_NOCLDSTOP: u64 = 0x1;
/// `SA_NOCLDWAIT`: children leave no zombies.
pub const SA_NOCLDWAIT: u64 = 0x2;
/// `SA_SIGINFO`: the handler takes three arguments.
pub const SA_SIGINFO: u64 = 0x4;
/// `SA_RESTORER`: the restorer field is valid.
pub const SA_RESTORER: u64 = 0x0400_0000;
/// `SA_ONSTACK`: run on the alternate stack.
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// `SA_RESTART`: restart interrupted system calls.
pub const SA_RESTART: u64 = 0x1000_0000;
/// `SA_NODEFER`: do not block the signal during its handler.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// `SA_RESETHAND`: back to the default before the handler runs.
pub const SA_RESETHAND: u64 = 0x8000_0000;

/// `stack_t`: the alternate signal stack, `sigaltstack(2)`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAltStack {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*` flags.
    pub flags: u32,
    /// Unused bytes of the C structure.
    pub pad: u32,
    /// Length in bytes.
    pub size: u64,
}

/// `SS_ONSTACK`: the thread runs on the alternate stack now.
pub const SS_ONSTACK: u32 = 1;
/// `SS_DISABLE`: there is no alternate stack.
pub const SS_DISABLE: u32 = 2;
/// `SS_AUTODISARM`: the stack is disarmed while a handler runs on it.
pub const SS_AUTODISARM: u32 = 1 << 31;
/// The smallest alternate stack that Linux accepts on x86-64.
pub const MINSIGSTKSZ: u64 = 2048;

/// `siginfo_t`: 128 bytes, of which the fields after `code` depend on the signal.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    /// The signal's number.
    pub signo: i32,
    /// An error number, usually zero.
    pub errno: i32,
    /// Where the signal comes from: one of the `SI_*`, `CLD_*`, `SEGV_*`, … constants.
    pub code: i32,
    /// Unused bytes of the C structure.
    pub pad: i32,
    /// The union; its accessors say what lies where.
    pub fields: [u8; 112],
}

/// Sent by `kill(2)`.
pub const SI_USER: i32 = 0;
/// Sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// Sent by `sigqueue(3)`.
pub const SI_QUEUE: i32 = -1;
/// Sent by a POSIX timer.
pub const SI_TIMER: i32 = -2;
/// Sent by a message queue.
pub const SI_MESGQ: i32 = -3;
/// Sent by asynchronous I/O.
pub const SI_ASYNCIO: i32 = -4;
/// Sent by `F_SETOWN`'s SIGIO.
pub const SI_SIGIO: i32 = -5;
/// Sent by `tkill(2)` or `tgkill(2)`.
pub const SI_TKILL: i32 = -6;
/// A child has exited.
pub const CLD_EXITED: i32 = 1;
/// A child was killed.
pub const CLD_KILLED: i32 = 2;
/// A child was killed and dumped core.
pub const CLD_DUMPED: i32 = 3;
/// A traced child has trapped.
pub const CLD_TRAPPED: i32 = 4;
/// A child has stopped.
pub const CLD_STOPPED: i32 = 5;
/// A child has continued.
pub const CLD_CONTINUED: i32 = 6;
/// No mapping at the address.
pub const SEGV_MAPERR: i32 = 1;
/// The mapping forbids the access.
pub const SEGV_ACCERR: i32 = 2;
/// `SYS_SECCOMP`: a seccomp filter trapped the call.
pub const SYS_SECCOMP: i32 = 1;

impl Default for SigInfo {
    fn default() -> Self {
        SigInfo { signo: 0, errno: 0, code: 0, pad: 0, fields: [0; 112] }
    }
}

impl SigInfo {
    /// A record with nothing but signal and code.
    pub fn new(signal: Signal, code: i32) -> SigInfo {
        SigInfo { signo: signal.number(), code, ..SigInfo::default() }
    }

    /// As `kill(2)` and `tgkill(2)` send it: code, sender's pid and uid.
    pub fn user(signal: Signal, code: i32, pid: i32, uid: u32) -> SigInfo {
        let mut info = SigInfo::new(signal, code);
        info.put(0, &pid.to_ne_bytes());
        info.put(4, &uid.to_ne_bytes());
        info
    }

    /// As the kernel sends it for a fault at `address`.
    pub fn fault(signal: Signal, code: i32, address: u64) -> SigInfo {
        let mut info = SigInfo::new(signal, code);
        info.put(0, &address.to_ne_bytes());
        info
    }

    /// SIGCHLD: which child, whose, and its status; the times are in clock ticks.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, utime: i64, stime: i64) -> SigInfo {
        let mut info = SigInfo::user(Signal::SIGCHLD, code, pid, uid);
        info.put(8, &status.to_ne_bytes());
        info.put(16, &utime.to_ne_bytes());
        info.put(24, &stime.to_ne_bytes());
        info
    }

    /// Writes bytes of the union; `offset` counts from its start.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.fields[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The 32-bit word of the union at `offset`.
    pub fn word(&self, offset: usize) -> i32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.fields[offset..offset + 4]);
        i32::from_ne_bytes(bytes)
    }

    /// The 64-bit word of the union at `offset`.
    pub fn long(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.fields[offset..offset + 8]);
        u64::from_ne_bytes(bytes)
    }
}

impl fmt::Debug for SigInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigInfo {{ signo: {}, code: {} }}", self.signo, self.code)
    }
}
