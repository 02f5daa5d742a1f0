//! [`Socket`]: an endpoint as an open file.

use std::sync::Arc;
use std::time::Duration;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::signal::{SI_USER, SigInfo, Signal};
use parking_lot::Mutex;

use super::message::Ancillary;
use super::options::{Options, Switches};
use super::unix::{Endpoint, Received, Target};
use crate::Kernel;
use crate::error::SyscallResult;
use crate::fs::file::Place;
use crate::fs::nameless::NamelessInode;
use crate::fs::{File, FileType, Inode, InodeCommon, InodeRef, OpenFile};
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Events, Registration, WaitQueue, Wakeup};

const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;
/// The number of the file system of sockets.
const FILE_SYSTEM: u32 = 8;

/// What a socket carries, `socket(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Kind {
    /// `SOCK_STREAM`: bytes in order.
    Stream = 1,
    /// `SOCK_DGRAM`: messages, without a connection.
    Datagram = 2,
    /// `SOCK_SEQPACKET`: messages in order over a connection.
    Packet = 5,
}

/// An open socket.
pub struct Socket {
    /// What talks.
    pub endpoint: Arc<Endpoint>,
    /// Its options.
    pub options: Mutex<Options>,
    inode: Arc<NamelessInode>,
    kernel: Arc<Kernel>,
}

impl Socket {
    /// Opens an endpoint; `flags` may have `O_NONBLOCK`.
    pub fn open(
        task: &CurrentTask,
        endpoint: Arc<Endpoint>,
        options: Options,
        flags: OpenFlags,
    ) -> Arc<File> {
        let credentials = task.credentials();
        let owner = (credentials.fs_uid, credentials.fs_gid);
        let inode = NamelessInode::new(InodeCommon::new(), FileType::Socket, FILE_SYSTEM, 0o777, owner);
        let name = format!("socket:[{}]", inode.common().id);
        let place = Place::Anonymous { name, inode: Some(Arc::clone(&inode) as InodeRef) };
        let kernel = Arc::clone(&task.kernel);
        let socket = Socket { endpoint, options: Mutex::new(options), inode, kernel };
        File::new(place, Arc::new(socket), (flags & OpenFlags::NONBLOCK) | OpenFlags::RDWR)
    }

    /// What it carries.
    pub fn kind(&self) -> Kind {
        self.endpoint.kind
    }

    /// The permission bits of the file that `bind(2)` makes.
    pub fn mode(&self) -> u32 {
        self.inode.permissions()
    }

    /// How much may be on its way from here.
    fn limit(&self) -> usize {
        self.options.lock().send_buffer as usize
    }

    /// Sends once without waiting: `EAGAIN` if there is no room. A stream whose reader is gone brings SIGPIPE, unless
    /// `quiet` or part of the data was sent already.
    pub fn send(
        &self,
        task: &CurrentTask,
        to: Option<&Target>,
        from: &mut UserReader<'_>,
        ancillary: &mut Ancillary,
        quiet: bool,
    ) -> SyscallResult<usize> {
        let first = from.taken() == 0;
        let result = match self.kind() {
            Kind::Stream => self.endpoint.send_stream(self.limit(), from, ancillary),
            Kind::Datagram | Kind::Packet => self.endpoint.send_packet(to, self.limit(), from, ancillary),
        };
        let broken = result.as_ref().is_err_and(|error| error.is(Errno::EPIPE));
        if broken && first && !quiet && self.kind() == Kind::Stream {
            let mut info = SigInfo::new(Signal::SIGPIPE, SI_USER);
            info.put(0, &task.group.number.to_ne_bytes());
            info.put(4, &task.credentials().uid.to_ne_bytes());
            crate::signal::send_to_task(&task.kernel, &task.task, info);
        }
        result
    }

    /// Receives once without waiting.
    pub fn receive(&self, to: &mut UserWriter<'_>, peek: bool) -> SyscallResult<Received> {
        let apart = self.options.lock().switches.contains(Switches::PASSCRED);
        self.endpoint.receive(to, peek, apart)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.endpoint.release_name(&self.kernel.sockets);
        self.endpoint.close(false);
    }
}

impl OpenFile for Socket {
    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        self.receive(to, false).map(|received| received.copied)
    }

    fn write(&self, task: &CurrentTask, _file: &File, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        self.send(task, None, from, &mut Ancillary::plain(task), false)
    }

    fn readiness(&self, _file: &File) -> Events {
        self.endpoint.readiness(self.limit())
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.endpoint.queue())
    }

    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        let registration = self.endpoint.queue().register(events, wakeup);
        if let Some(connection) = self.endpoint.outside() {
            connection.expect(events);
        }
        registration
    }

    fn timeout(&self, events: Events) -> Option<Duration> {
        let options = self.options.lock();
        if events.contains(Events::OUT) { options.send_timeout } else { options.receive_timeout }
    }

    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, argument: u64) -> SyscallResult {
        let count = match request {
            FIONREAD => self.endpoint.readable_bytes()?,
            SIOCOUTQ => self.endpoint.unreceived_bytes()?,
            _ => return Err(Errno::ENOTTY.into()),
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        task.write_bytes(argument, &count.to_ne_bytes())?;
        Ok(0)
    }
}
