//! Signals of this process as something to read, `signalfd(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `si_code` of a signal that the kernel sends.
const SI_KERNEL: i32 = 0x80;

/// All signals that can be received on behalf of somebody else: not SIGKILL and SIGSTOP, which nobody receives, not
/// SIGCHLD, which is about our own children, and not the two that the C library keeps to itself.
pub fn forwardable() -> Vec<i32> {
    (1..=64)
        .filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, 32, 33].contains(signal))
        .collect()
}

/// The signals that this process was started to ignore, as by `nohup(1)`: a bit each, SIGHUP being the lowest. SIGPIPE is
/// not among them, which every Rust program ignores.
pub fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    set & !(1 << (libc::SIGPIPE - 1))
}

/// A signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// Whether it came from the host's kernel and not from a process: from a terminal, to the job in its foreground.
    pub from_kernel: bool,
}

/// Receives signals that are blocked in this process.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks `signals` in the calling thread, and those that it starts later, and receives them from now on.
    pub fn receive(signals: &[i32]) -> io::Result<Signals> {
        // SAFETY: an empty set is a valid value; the calls below fill it.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A second receiver of the same signals: each goes to one of them.
    pub fn try_clone(&self) -> io::Result<Signals> {
        self.0.try_clone().map(Signals)
    }

    /// Waits for the next signal.
    pub fn next(&self) -> io::Result<Received> {
        loop {
            // SAFETY: the record is plain data, filled by read; its size is checked.
            let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: as above.
            let count = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
            if count == size as isize {
                let from_kernel = info.ssi_code == SI_KERNEL;
                return Ok(Received { number: info.ssi_signo.cast_signed(), from_kernel });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
