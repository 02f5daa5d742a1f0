//! Terminals of containers, and handing them to engines.
//!
//! An engine that wants a terminal names a Unix socket; it gets the master end of a pseudo-terminal over it. The slave
//! end is what the container reads and writes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// What goes over the socket along with the terminal: the name that `runc` gives it.
const PAYLOAD: &[u8] = b"/dev/ptmx";
/// The longest path that fits into the address of a Unix socket, with the NUL behind it.
const LONGEST_ADDRESS: usize = 107;

/// Why a container does not get a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has none.
    #[error("cannot open a pseudo-terminal: {0}")]
    Open(io::Error),
    /// It cannot have this size.
    #[error("cannot set the size of a pseudo-terminal: {0}")]
    Size(io::Error),
    /// Nobody listens.
    #[error("cannot connect to the console socket {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever listens does not take it.
    #[error("cannot send the terminal over the console socket {}: {source}", path.display())]
    Send {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A pseudo-terminal of the host.
#[derive(Debug)]
pub struct Console {
    /// The end for who types and looks.
    pub master: OwnedFd,
    /// The end for who reads and writes.
    pub slave: OwnedFd,
}

impl Console {
    /// A new one, of this many rows and columns.
    ///
    /// # Errors
    /// The host's.
    pub fn open(size: Option<(u16, u16)>) -> Result<Self, Error> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let pair = || -> rustix::io::Result<Self> {
            let master = openpt(flags)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            // Not by its name, which may mean something else in another mount namespace.
            let slave = ioctl_tiocgptpeer(&master, flags)?;
            Ok(Self { master, slave })
        };
        let console = pair().map_err(|error| Error::Open(error.into()))?;
        if let Some((rows, columns)) = size {
            console.resize(rows, columns)?;
        }
        Ok(console)
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// The host's.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).map_err(|error| Error::Size(error.into()))
    }

    /// Gives the master end to the engine that listens at `socket`, and keeps the slave end.
    ///
    /// # Errors
    /// If nobody listens or takes it.
    pub fn hand_over(self, socket: &Path) -> Result<OwnedFd, Error> {
        let failed = |source| Error::Connect { path: socket.to_owned(), source };
        let stream = connect(socket).map_err(failed)?;
        send(&stream, self.master.as_fd())
            .map_err(|source| Error::Send { path: socket.to_owned(), source })?;
        Ok(self.slave)
    }
}

/// Connects to a Unix socket however long its path is.
fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= LONGEST_ADDRESS {
        return UnixStream::connect(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return UnixStream::connect(path);
    };
    let directory = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    use std::os::fd::AsRawFd;
    let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
    UnixStream::connect(Path::new(&short).join(name))
}

fn send(stream: &UnixStream, terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let terminals = [terminal];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&terminals)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    loop {
        match sendmsg(stream, &[IoSlice::new(PAYLOAD)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == PAYLOAD.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read, Write};
    use std::os::unix::net::UnixListener;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use rustix::termios::{isatty, tcgetwinsize};

    use super::*;

    fn receive(stream: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 4096];
        let parts = &mut [IoSliceMut::new(&mut buffer)];
        let count = recvmsg(stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        (buffer[..count].to_vec(), files)
    }

    fn hand_over_at(path: &Path) {
        let listener = {
            // Bind where the address is short enough, then move.
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("s")).unwrap();
            std::fs::rename(directory.path().join("s"), path).unwrap();
            listener
        };
        let console = Console::open(Some((33, 44))).unwrap();
        let slave = console.hand_over(path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let (payload, files) = receive(&stream);
        assert_eq!(payload, b"/dev/ptmx");
        let [master] = <[OwnedFd; 1]>::try_from(files).unwrap();
        assert!(isatty(&slave));
        let size = tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (33, 44));
        // They are the two ends of one terminal.
        let (mut master, mut slave) = (std::fs::File::from(master), std::fs::File::from(slave));
        slave.write_all(b"hello\n").unwrap();
        let mut text = [0; 7];
        master.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello\r\n");
        master.write_all(b"typed\n").unwrap();
        let mut text = [0; 6];
        slave.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"typed\n");
    }

    #[test]
    fn an_engine_gets_the_master_end() {
        let directory = tempfile::tempdir().unwrap();
        hand_over_at(&directory.path().join("console.sock"));
    }

    #[test]
    fn the_path_of_the_socket_may_be_longer_than_an_address() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        hand_over_at(&deep.join("console.sock"));
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none.sock");
        let error = Console::open(None).unwrap().hand_over(&path).unwrap_err().to_string();
        assert!(error.contains("none.sock"), "{error}");
    }

    #[test]
    fn a_new_size_is_seen_at_the_other_end() {
        let console = Console::open(None).unwrap();
        console.resize(7, 9).unwrap();
        let size = tcgetwinsize(&console.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (7, 9));
    }
}
