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

/// The stand-in's side: passes on `signals` until the end.
///
/// # Errors
/// What the host says of the signals; whatever happens to the link is an [`Ending`].
pub fn stand_in(link: &OwnedFd, signals: &Signals) -> io::Result<Ending> {
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
            send_word(link, signals.next()?.cast_unsigned());
        }
    }
}

/// The sandbox's side: the next signal, or `None` when the stand-in is gone.
pub fn next_signal(link: impl AsFd) -> Option<i32> {
    receive_word(link).map(u32::cast_signed)
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
        assert_eq!(stand_in(&outer, &signals).unwrap(), Ending::Status(0x700));
    }

    #[test]
    fn the_end_of_the_sandbox_ends_the_stand_in() {
        let (outer, inner) = pair().unwrap();
        drop(inner);
        let signals = Signals::receive(&[]).unwrap();
        let ending = stand_in(&outer, &signals).unwrap();
        assert_eq!((ending, ending.status()), (Ending::Lost, 9));
    }

    #[test]
    fn the_end_of_the_stand_in_is_seen() {
        let (outer, inner) = pair().unwrap();
        send_word(&outer, 15);
        drop(outer);
        assert_eq!(next_signal(&inner), Some(15));
        assert_eq!(next_signal(&inner), None);
    }
}
