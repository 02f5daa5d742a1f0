//! The life of a gofer process: it gives up what it does not need, answers until its client goes, and ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::{Errno, SysResult};

use crate::protocol::MAX_MESSAGE;
use crate::server::Session;
use crate::socket::{receive_message, send_message};

/// How many channels a connection has: so many requests are carried out at a time.
pub const CHANNELS: usize = 4;

/// Answers requests on these channels, each in a thread of its own, until the client has closed all of them.
///
/// # Errors
/// `EAGAIN` if a thread cannot be started.
pub fn serve(session: Session, channels: Vec<OwnedFd>) -> SysResult<()> {
    let session = Arc::new(session);
    let mut threads = Vec::new();
    for channel in channels {
        let session = Arc::clone(&session);
        // Requests go no deeper than a few calls.
        let thread = std::thread::Builder::new().name("gofer".into()).stack_size(128 << 10);
        threads.push(thread.spawn(move || answer_all(&session, &channel)).map_err(|_| Errno::EAGAIN)?);
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// Answers what comes over one channel. A message that is no message ends it.
fn answer_all(session: &Session, channel: &OwnedFd) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let (length, fds) = match receive_message(channel, &mut buffer) {
            Ok((0, _)) | Err(_) => return,
            Ok(received) => received,
        };
        let Some((reply, fd)) = session.answer(&buffer[..length], fds) else { continue };
        let fds = fd.as_ref().map(std::os::fd::AsFd::as_fd);
        if send_message(channel, &reply, fds.as_slice()).is_err() {
            return;
        }
    }
}
