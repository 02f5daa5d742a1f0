//! The caller's side of the control protocol.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use host::rustix::fs::{Mode, OFlags, open};
use host::rustix::io::Errno;
use host::rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::message::{Envelope, Failure, Reply, Request, Response, VERSION};
use super::transport::{Deadline, TransportError, receive_message, send_message};

/// How long a sandbox may take to answer what it can answer at once.
const PROMPT: Duration = Duration::from_secs(10);
/// How long it may take for what needs programs to be loaded, or to end.
const PATIENT: Duration = Duration::from_secs(60);
/// How long the rest of an answer that has begun may take.
const REST: Duration = Duration::from_secs(10);
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The sandbox refused.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The sandbox is not there, or does not answer.
    #[error("cannot talk to the sandbox: {0}")]
    Transport(#[from] TransportError),
    /// It answered something else.
    #[error("the sandbox gave an answer that does not fit")]
    Confused,
}

impl ClientError {
    /// Whether the sandbox may have ended: there was nobody to talk to, or the connection broke.
    pub fn is_gone(&self) -> bool {
        use TransportError::{Closed, Host, Truncated};
        let gone = [Errno::CONNREFUSED, Errno::NOENT, Errno::CONNRESET, Errno::PIPE];
        match self {
            ClientError::Transport(Closed | Truncated) => true,
            ClientError::Transport(Host(error)) => gone.contains(error),
            _ => false,
        }
    }

    /// Why the sandbox refused, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            ClientError::Refused(failure) => Some(failure),
            _ => None,
        }
    }
}

/// A connection to a sandbox.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Uses a socket that is connected already.
    pub fn new(socket: OwnedFd) -> Client {
        Client { socket }
    }

    /// Connects to the sandbox that serves the socket `path`, however long that is.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(host)?;
        with_address(path, |address| connect(&socket, address)).map_err(host)?;
        Ok(Client { socket })
    }

    /// Makes a request and waits for the answer.
    ///
    /// # Errors
    /// If the sandbox refuses, or cannot be reached.
    pub fn call(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        let patience = match &request {
            // What is read takes as long as it is large.
            Request::Wait { .. } | Request::Read { .. } | Request::WriteLayer { .. } => Deadline::NEVER,
            Request::Create(_)
            | Request::Start { .. }
            | Request::Execute { .. }
            | Request::Destroy { .. } => Deadline::after(PATIENT),
            Request::Signal { .. } => Deadline::after(PATIENT),
            _ => Deadline::after(PROMPT),
        };
        let envelope = Envelope { version: VERSION, request };
        match send_message(&self.socket, &envelope, descriptors, Deadline::after(PROMPT)) {
            // It may have said why before it closed the connection.
            Ok(()) | Err(TransportError::Closed) => {}
            Err(error) => return Err(error.into()),
        }
        let (reply, _) = receive_message::<Reply>(&self.socket, patience, REST)?;
        Ok(reply?)
    }

    /// Makes a request whose answer says nothing but that it is done.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn run(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.call(request, descriptors)? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Confused),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn host(error: Errno) -> ClientError {
    ClientError::Transport(error.into())
}

/// Makes the socket `path` that a sandbox is to serve. What was there is replaced.
///
/// # Errors
/// What the host says.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match host::rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    with_address(path, |address| bind(&socket, address))?;
    // Nobody can connect before `listen`.
    host::rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Calls `operation` with an address for a path, which may be longer than an address can hold.
fn with_address<T>(
    path: &Path,
    operation: impl FnOnce(&SocketAddrUnix) -> Result<T, Errno>,
) -> Result<T, Errno> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return operation(&address);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let directory = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let short = [format!("/proc/self/fd/{number}/").as_bytes(), name.as_bytes()].concat();
    operation(&SocketAddrUnix::new(short)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("control.sock");
        let listener = listen_at(&path).unwrap();
        Client::connect(&path).unwrap();
        drop(listener);
        assert!(Client::connect(&path).unwrap_err().is_gone());
        assert!(Client::connect(&deep.join("missing")).unwrap_err().is_gone());
    }
}
