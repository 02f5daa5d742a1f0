//! Links between a process in a sandbox and the host process that stands for it.
//!
//! Engines know a container, or a program run in one, by a host process: they signal it, wait for it and take its exit
//! status. That *stand-in* holds one end of a link, the sandbox the other. Through it go signals one way and, once, the
//! exit status the other way, each a message of four bytes. When the stand-in is killed its end closes, and the sandbox
//! kills what it stood for; when the sandbox is gone, the stand-in dies too.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use host::rustix::event::{PollFd, PollFlags, poll};
use host::rustix::io::Errno;
use host::rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use host::signals::Signals;

/// A link's two ends: the stand-in's, and the sandbox's.
///
/// # Errors
/// What the host says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// How what a stand-in stands for came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this status, as `wait(2)` gives it.
    Status(u32),
    /// With the sandbox.
    Lost,
}

impl Ending {
    /// The status; that of a process killed by SIGKILL if it is lost.
    pub fn status(self) -> u32 {
        match self {
            Ending::Status(status) => status,
            Ending::Lost => 9,
        }
    }
}

/// Whom signals are for that a terminal of the host sends to the job in its foreground, when that is the stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The program, as all others.
    ToProgram,
    /// Its process group: it is a job of whoever started the stand-in, and stops and goes on with it.
    ToJob,
}

/// A signal from the stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Its number.
    pub number: i32,
    /// Whether it is for the whole process group of the program.
    pub to_group: bool,
}

/// In the word of a signal: it is for the process group.
const TO_GROUP: u32 = 1 << 8;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
const SIGTSTP: u32 = 20;

/// The stand-in's side: passes on `signals` until the end. Its process has one thread.
///
/// # Errors
/// What the host says of the signals; whatever happens to the link is an [`Ending`].
pub fn stand_in(link: &OwnedFd, signals: &Signals, keys: Keys) -> io::Result<Ending> {
    // All it does is wait, but for as long as the container lives.
    host::process::release_code();
    loop {
        let mut fds = [PollFd::new(link, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let (answered, signalled) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if answered {
            return Ok(receive_word(link).map_or(Ending::Lost, Ending::Status));
        }
        if signalled {
            let received = signals.next()?;
            match (keys, received.number.cast_unsigned()) {
                (Keys::ToJob, SIGTSTP) if received.from_kernel => {
                    send_word(link, SIGSTOP | TO_GROUP);
                    host::process::stop();
                    send_word(link, SIGCONT | TO_GROUP);
                }
                (Keys::ToJob, number) if received.from_kernel => send_word(link, number | TO_GROUP),
                (_, number) => send_word(link, number),
            }
        }
    }
}

/// The sandbox's side: the next signal, or `None` when the stand-in is gone.
pub fn next_signal(link: impl AsFd) -> Option<Passed> {
    let word = receive_word(link)?;
    Some(Passed { number: (word & !TO_GROUP).cast_signed(), to_group: word & TO_GROUP != 0 })
}

/// The sandbox's side: tells how it ended. If the stand-in is gone, nobody wants to know.
pub fn report(link: impl AsFd, status: u32) {
    send_word(link, status);
}

fn receive_word(link: impl AsFd) -> Option<u32> {
    let mut word = [0; 4];
    loop {
        match recv(&link, &mut word, RecvFlags::empty()) {
            Ok((4, _)) => return Some(u32::from_le_bytes(word)),
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
}

fn send_word(link: impl AsFd, word: u32) {
    // A peer that does not read for so long that its socket is full misses signals; they merge in any case.
    let _ = send(&link, &word.to_le_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_ends_the_stand_in() {
        let (outer, inner) = pair().unwrap();
        report(&inner, 0x700);
        let signals = Signals::receive(&[]).unwrap();
        assert_eq!(stand_in(&outer, &signals, Keys::ToProgram).unwrap(), Ending::Status(0x700));
    }

    #[test]
    fn the_end_of_the_sandbox_ends_the_stand_in() {
        let (outer, inner) = pair().unwrap();
        drop(inner);
        let signals = Signals::receive(&[]).unwrap();
        let ending = stand_in(&outer, &signals, Keys::ToProgram).unwrap();
        assert_eq!((ending, ending.status()), (Ending::Lost, 9));
    }

    #[test]
    fn the_end_of_the_stand_in_is_seen() {
        let (outer, inner) = pair().unwrap();
        send_word(&outer, 15);
        send_word(&outer, 2 | TO_GROUP);
        drop(outer);
        assert_eq!(next_signal(&inner), Some(Passed { number: 15, to_group: false }));
        assert_eq!(next_signal(&inner), Some(Passed { number: 2, to_group: true }));
        assert_eq!(next_signal(&inner), None);
    }
}
