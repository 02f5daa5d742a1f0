//! `signalfd(2)`: signals that are read instead of delivered.
//!
//! As in Linux the signals are those of whoever reads or polls, not those of whoever made the descriptor; the calling
//! task is found through [`crate::task::current`].

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::signal::{SigInfo, SignalSet};
use parking_lot::Mutex;

use crate::error::SyscallResult;
use crate::fs::{File, OpenFile};
use crate::signal::dequeue;
use crate::task::CurrentTask;
use crate::user::UserWriter;
use crate::wait::{Events, Registration, Wakeup};

/// The size of `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// The signals that a `signalfd(2)` reads.
pub struct SignalFd {
    wanted: Mutex<SignalSet>,
}

impl SignalFd {
    /// A descriptor for the signals `wanted`.
    pub fn open(wanted: SignalSet, flags: OpenFlags) -> Arc<File> {
        let ops = SignalFd { wanted: Mutex::new(wanted.difference(SignalSet::UNBLOCKABLE)) };
        let status = flags & OpenFlags::NONBLOCK;
        File::anonymous("anon_inode:[signalfd]", Arc::new(ops), status | OpenFlags::RDWR)
    }

    /// Changes what is read.
    pub fn set(&self, wanted: SignalSet) {
        *self.wanted.lock() = wanted.difference(SignalSet::UNBLOCKABLE);
    }
}

/// `struct signalfd_siginfo` of a signal. Which of the union's fields count is told by the code and the signal; they
/// lie at fixed places, so that the ones that do not count are only noise that is left out.
fn record(info: &SigInfo) -> [u8; RECORD] {
    let word = |at: usize| -> [u8; 4] {
        let mut word = [0; 4];
        word.copy_from_slice(&info.fields[at..at + 4]);
        word
    };
    let long = |at: usize| -> [u8; 8] {
        let mut long = [0; 8];
        long.copy_from_slice(&info.fields[at..at + 8]);
        long
    };
    let mut out = [0; RECORD];
    out[0..4].copy_from_slice(&info.signo.to_ne_bytes());
    out[4..8].copy_from_slice(&info.errno.to_ne_bytes());
    out[8..12].copy_from_slice(&info.code.to_ne_bytes());
    let child = info.signo == 17 && info.code > 0;
    let fault = matches!(info.signo, 4 | 5 | 7 | 8 | 11) && info.code > 0;
    if fault {
        out[72..80].copy_from_slice(&long(0));
    } else if info.code == abi::signal::SI_TIMER {
        out[24..28].copy_from_slice(&word(0));
        out[32..36].copy_from_slice(&word(4));
        out[44..48].copy_from_slice(&word(8));
        out[48..56].copy_from_slice(&long(8));
    } else {
        out[12..16].copy_from_slice(&word(0));
        out[16..20].copy_from_slice(&word(4));
        if child {
            out[40..44].copy_from_slice(&word(8));
            out[56..64].copy_from_slice(&long(16));
            out[64..72].copy_from_slice(&long(24));
        } else if info.code < 0 {
            out[44..48].copy_from_slice(&word(8));
            out[48..56].copy_from_slice(&long(8));
        }
    }
    out
}

impl OpenFile for SignalFd {
    fn read(&self, task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        if to.remaining() < RECORD {
            return Err(Errno::EINVAL.into());
        }
        let wanted = *self.wanted.lock();
        let mut done = 0;
        while to.remaining() >= RECORD
            && let Some(info) = dequeue(task, wanted)
        {
            to.write_all(&record(&info))?;
            done += RECORD;
        }
        if done == 0 { Err(Errno::EAGAIN.into()) } else { Ok(done) }
    }

    fn readiness(&self, _file: &File) -> Events {
        let Some(task) = crate::task::current() else { return Events::empty() };
        let pending = task.signals.pending().union(task.group.signals.pending());
        let any = !pending.intersection(*self.wanted.lock()).is_empty();
        if any { Events::READABLE } else { Events::empty() }
    }

    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        crate::task::current()
            .map_or_else(Registration::none, |task| task.group.signals.queue.register(events, wakeup))
    }

    fn pollable(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("sigmask:\t{:016x}\n", self.wanted.lock().0)
    }
}
