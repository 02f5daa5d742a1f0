//! Messages on a stream socket: a length, JSON, and descriptors that travel with the length.
//!
//! The peer is not trusted: lengths are bounded, memory grows only with what has really come, descriptors beyond those
//! announced are refused, and nothing waits longer than its deadline.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use host::rustix::event::{PollFd, PollFlags, poll};
use host::rustix::io::Errno;
use host::rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, send, sendmsg,
};
use host::rustix::time::Timespec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message.
pub const MAX_LENGTH: usize = 8 << 20;
/// The most descriptors that go with one; the host's limit is 253.
pub const MAX_DESCRIPTORS: usize = 250;
/// How much memory is prepared for what is still to come.
const PIECE: usize = 64 << 10;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer closed the connection between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The peer closed it within one.
    #[error("the connection was closed in the middle of a message")]
    Truncated,
    /// Too slow.
    #[error("no answer in time")]
    TimedOut,
    /// Too long.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// More or fewer descriptors than announced, or too many.
    #[error("a message with the wrong number of descriptors")]
    Descriptors,
    /// Not what is expected.
    #[error("a malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// What the host says.
    #[error("the control socket failed: {0}")]
    Host(#[from] Errno),
}

/// A message with its descriptors.
pub type Received<T> = (T, Vec<OwnedFd>);

/// When a step must be done; `None` for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Deadline {
        Deadline(Instant::now().checked_add(limit))
    }

    /// Never.
    pub const NEVER: Deadline = Deadline(None);

    /// Waits until `fd` can do what is asked.
    fn wait(self, fd: BorrowedFd<'_>, events: PollFlags) -> Result<(), TransportError> {
        loop {
            let left = self.0.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left
                .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            let mut fds = [PollFd::new(&fd, events)];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Err(TransportError::TimedOut),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Sends a message.
///
/// # Errors
/// If it is too long, or has too many descriptors, or the peer is gone or does not read.
pub fn send_message<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Result<(), TransportError> {
    let socket = socket.as_fd();
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_LENGTH {
        return Err(TransportError::TooLong(body.len()));
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(TransportError::Descriptors);
    }
    let mut header = [0; 8];
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&(descriptors.len() as u32).to_le_bytes());
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(descriptors).size()];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut sent = loop {
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(TransportError::Descriptors);
        }
        match sendmsg(socket, &[IoSlice::new(&header), IoSlice::new(&body)], &mut ancillary, flags) {
            Ok(count) => break count,
            Err(Errno::AGAIN) => deadline.wait(socket, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(closed_or(error)),
        }
    };
    let whole = [&header[..], &body].concat();
    while sent < whole.len() {
        match send(socket, &whole[sent..], flags) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => deadline.wait(socket, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(closed_or(error)),
        }
    }
    Ok(())
}

fn closed_or(error: Errno) -> TransportError {
    match error {
        Errno::PIPE | Errno::CONNRESET => TransportError::Closed,
        error => error.into(),
    }
}

/// Receives a message. `begin` limits how long it may be until it comes, `rest` how long from then on.
///
/// # Errors
/// If there is none, or not in time, or it is not what it should be.
pub fn receive_message<T: DeserializeOwned>(
    socket: impl AsFd,
    begin: Deadline,
    rest: Duration,
) -> Result<Received<T>, TransportError> {
    let socket = socket.as_fd();
    let mut header = [0; 8];
    let mut descriptors = Vec::new();
    let mut have = 0;
    let mut deadline = begin;
    while have < header.len() {
        // Descriptors come with the first byte; whatever comes later is dropped by the host.
        let count = if have == 0 {
            receive_first(socket, &mut header, &mut descriptors, deadline)?
        } else {
            receive_some(socket, &mut header[have..], deadline)?
        };
        match count {
            0 if have == 0 => return Err(TransportError::Closed),
            0 => return Err(TransportError::Truncated),
            count => have += count,
        }
        if have == count {
            deadline = Deadline::after(rest);
        }
    }
    let word =
        |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (length, announced) = (word(0), word(4));
    if length > MAX_LENGTH {
        return Err(TransportError::TooLong(length));
    }
    if announced != descriptors.len() {
        return Err(TransportError::Descriptors);
    }
    let mut body = Vec::new();
    while body.len() < length {
        let from = body.len();
        body.resize(length.min(from + PIECE), 0);
        let count = receive_some(socket, &mut body[from..], deadline)?;
        if count == 0 {
            return Err(TransportError::Truncated);
        }
        body.truncate(from + count);
    }
    Ok((serde_json::from_slice(&body)?, descriptors))
}

fn receive_first(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    deadline: Deadline,
) -> Result<usize, TransportError> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    loop {
        deadline.wait(socket, PollFlags::IN)?;
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
            Ok(message) => {
                for item in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = item {
                        descriptors.extend(fds);
                    }
                }
                return Ok(message.bytes);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

fn receive_some(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<usize, TransportError> {
    loop {
        match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((count, _)) => return Ok(count),
            Err(Errno::AGAIN) => deadline.wait(socket, PollFlags::IN)?,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the peer has closed its end.
pub fn is_hung_up(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0) && fds[0].revents().intersects(gone)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn receive(socket: &UnixStream) -> Result<Received<String>, TransportError> {
        receive_message(socket, Deadline::after(SOON), SOON)
    }

    fn header(length: u32, descriptors: u32) -> Vec<u8> {
        [length.to_le_bytes(), descriptors.to_le_bytes()].concat()
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        send_message(&left, &"first", &[write.as_fd()], Deadline::after(SOON)).unwrap();
        send_message(&left, &"second", &[], Deadline::after(SOON)).unwrap();
        drop(write);
        let (text, descriptors) = receive(&right).unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("first", 1));
        let mut passed = std::fs::File::from(descriptors.into_iter().next().unwrap());
        passed.write_all(b"through").unwrap();
        drop(passed);
        let mut content = String::new();
        read.read_to_string(&mut content).unwrap();
        assert_eq!(content, "through");
        assert_eq!(receive(&right).unwrap().0, "second");
        drop(left);
        assert!(matches!(receive(&right), Err(TransportError::Closed)));
    }

    #[test]
    fn a_long_message_arrives_in_pieces() {
        let (left, right) = UnixStream::pair().unwrap();
        let text = "x".repeat(3 << 20);
        let expected = text.clone();
        let sender =
            std::thread::spawn(move || send_message(&left, &text, &[], Deadline::after(SOON)).unwrap());
        assert_eq!(receive(&right).unwrap().0, expected);
        sender.join().unwrap();
    }

    #[test]
    fn lies_about_the_length_are_refused() {
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&header(u32::MAX, 0)).unwrap();
        assert!(matches!(receive(&right), Err(TransportError::TooLong(_))));
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&header(100, 0)).unwrap();
        left.write_all(b"\"short\"").unwrap();
        drop(left);
        assert!(matches!(receive(&right), Err(TransportError::Truncated)));
    }

    #[test]
    fn lies_about_descriptors_are_refused() {
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&header(2, 1)).unwrap();
        left.write_all(b"\"\"").unwrap();
        assert!(matches!(receive(&right), Err(TransportError::Descriptors)));
    }

    #[test]
    fn a_slow_peer_is_not_waited_for() {
        let (mut left, right) = UnixStream::pair().unwrap();
        let soon = Duration::from_millis(20);
        let late = receive_message::<String>(&right, Deadline::after(soon), soon);
        assert!(matches!(late, Err(TransportError::TimedOut)));
        left.write_all(&header(10, 0)[..5]).unwrap();
        let late = receive_message::<String>(&right, Deadline::NEVER, soon);
        assert!(matches!(late, Err(TransportError::TimedOut)));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&header(4, 0)).unwrap();
        left.write_all(b"}}}}").unwrap();
        assert!(matches!(receive(&right), Err(TransportError::Malformed(_))));
    }

    #[test]
    fn a_closed_peer_is_seen() {
        let (left, right) = UnixStream::pair().unwrap();
        assert!(!is_hung_up(&right));
        drop(left);
        assert!(is_hung_up(&right));
    }
}
