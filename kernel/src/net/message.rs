//! What travels with a message: files, credentials, `cmsg(3)`.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Kernel;
use crate::error::SyscallResult;
use crate::fs::File;
use crate::namespace::NamespaceId;
use crate::syscalls::Fd;
use crate::task::credentials::Capability;
use crate::task::{CurrentTask, Pid};
use crate::user::UserPtr;

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// The most files that one message carries.
const MAX_FILES: usize = 253;
/// The most files that are on their way at any time: what is sent and never received must not fill the kernel.
const MAX_FILES_IN_FLIGHT: usize = 1 << 16;
/// The longest ancillary data that is read, as Linux's `optmem_max`.
const MAX_CONTROL: u64 = 128 << 10;

/// `struct msghdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are those of recvmsg(2)")]
pub struct MessageHeader {
    pub name: u64,
    pub name_length: i32,
    pub pad: u32,
    pub vectors: u64,
    pub vector_count: u64,
    pub control: u64,
    pub control_length: u64,
    pub flags: u32,
    pub end_pad: u32,
}

/// `struct cmsghdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ControlHeader {
    length: u64,
    level: i32,
    kind: i32,
}

const HEADER: usize = size_of::<ControlHeader>();

/// `struct ucred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketCredentials {
    /// The process, by its number in the pid namespace of whoever reads it.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Who sent a message or is at the other end: [`SocketCredentials`] that are the same for all readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pid: Pid,
    /// The number in this pid namespace, which is known even when the process is gone.
    number: Pid,
    namespace: NamespaceId,
    uid: u32,
    gid: u32,
}

impl Sender {
    /// Nobody: what `SO_PEERCRED` says without a peer.
    pub const NONE: Sender =
        Sender { pid: 0, number: 0, namespace: NamespaceId(0), uid: u32::MAX, gid: u32::MAX };

    /// A process of the host.
    pub fn outside(uid: u32, gid: u32) -> Sender {
        Sender { uid, gid, ..Sender::NONE }
    }

    fn new(task: &CurrentTask, uid: u32, gid: u32) -> Sender {
        let group = &task.group;
        Sender { pid: group.pid, number: group.number, namespace: group.pid_namespace.id, uid, gid }
    }

    /// The caller with its effective ids, as `SO_PEERCRED` has them.
    pub fn effective(task: &CurrentTask) -> Sender {
        let credentials = task.credentials();
        Sender::new(task, credentials.effective_uid, credentials.effective_gid)
    }

    /// The caller with its real ids, as a message has them that does not say otherwise.
    pub fn real(task: &CurrentTask) -> Sender {
        let credentials = task.credentials();
        Sender::new(task, credentials.uid, credentials.gid)
    }

    /// Whom the caller claims to be: `EPERM` unless it may, `ESRCH` if there is no such process.
    fn claimed(task: &CurrentTask, claim: SocketCredentials) -> SysResult<Sender> {
        let own = task.credentials();
        let claim = SocketCredentials { uid: own.uid_of(claim.uid)?, gid: own.gid_of(claim.gid)?, ..claim };
        let uid = [own.uid, own.effective_uid, own.saved_uid].contains(&claim.uid)
            || own.has_own(Capability::SETUID);
        let gid = [own.gid, own.effective_gid, own.saved_gid].contains(&claim.gid)
            || own.has_own(Capability::SETGID);
        let pid = claim.pid == task.group.number
            || own.has_in(&task.group.pid_namespace.owner, Capability::SYS_ADMIN);
        if !(uid && gid && pid) {
            return Err(Errno::EPERM);
        }
        let sender = Sender::new(task, claim.uid, claim.gid);
        Ok(Sender { pid: task.pid_of(claim.pid)?, number: claim.pid, ..sender })
    }

    /// The credentials as a task of the caller's pid namespace is told them.
    pub fn seen_by(&self, task: &CurrentTask) -> SocketCredentials {
        let same = task.group.pid_namespace.id == self.namespace;
        let pid = if same { self.number } else { task.number_of(self.pid) };
        let own = task.credentials();
        SocketCredentials { pid, uid: own.shown_uid(self.uid), gid: own.shown_gid(self.gid) }
    }
}

/// Files on their way.
pub struct Files {
    files: Vec<Arc<File>>,
    kernel: Option<Arc<Kernel>>,
}

impl Files {
    /// None.
    pub fn none() -> Files {
        Files { files: Vec::new(), kernel: None }
    }

    fn new(task: &CurrentTask, files: Vec<Arc<File>>) -> SysResult<Files> {
        if files.is_empty() {
            return Ok(Files::none());
        }
        let before = task.kernel.sockets.files_in_flight.fetch_add(files.len(), Ordering::Relaxed);
        let files = Files { files, kernel: Some(Arc::clone(&task.kernel)) };
        if before > MAX_FILES_IN_FLIGHT { Err(Errno::ETOOMANYREFS) } else { Ok(files) }
    }

    /// The same files once more, for `MSG_PEEK`.
    pub fn duplicate(&self) -> Files {
        if let Some(kernel) = &self.kernel {
            kernel.sockets.files_in_flight.fetch_add(self.files.len(), Ordering::Relaxed);
        }
        Files { files: self.files.clone(), kernel: self.kernel.clone() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Default for Files {
    fn default() -> Files {
        Files::none()
    }
}

impl Drop for Files {
    /// Closes the files, one after the other: a socket that holds a socket that holds a socket … is not closed by as
    /// many nested calls.
    fn drop(&mut self) {
        thread_local! {
            static CLOSING: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
        }
        if let Some(kernel) = &self.kernel {
            kernel.sockets.files_in_flight.fetch_sub(self.files.len(), Ordering::Relaxed);
        }
        let files = std::mem::take(&mut self.files);
        let outermost = CLOSING.with_borrow_mut(|closing| match closing {
            Some(closing) => {
                closing.extend(files);
                false
            }
            None => {
                *closing = Some(files);
                true
            }
        });
        if outermost {
            while let Some(file) = CLOSING.with_borrow_mut(|closing| closing.as_mut().and_then(Vec::pop)) {
                drop(file);
            }
            CLOSING.set(None);
        }
    }
}

/// What a message carries beside data.
pub struct Ancillary {
    /// Files.
    pub files: Files,
    /// Who sent it.
    pub credentials: Sender,
}

impl Ancillary {
    /// What a message of the caller carries at least.
    pub fn plain(task: &CurrentTask) -> Ancillary {
        Ancillary { files: Files::none(), credentials: Sender::real(task) }
    }

    /// Reads the ancillary data of a message to be sent.
    pub fn read(task: &CurrentTask, header: &MessageHeader) -> SysResult<Ancillary> {
        let mut ancillary = Ancillary::plain(task);
        if header.control == 0 || header.control_length == 0 {
            return Ok(ancillary);
        }
        if header.control_length > MAX_CONTROL {
            return Err(Errno::ENOBUFS);
        }
        let mut control = vec![0; header.control_length as usize];
        task.read_bytes(header.control, &mut control)?;
        let mut files = Vec::new();
        let mut rest = &control[..];
        while rest.len() >= HEADER {
            let (item, _) = ControlHeader::read_from_prefix(rest).map_err(|_| Errno::EINVAL)?;
            let length = usize::try_from(item.length).map_err(|_| Errno::EINVAL)?;
            let data = rest.get(HEADER..length).ok_or(Errno::EINVAL)?;
            match (item.level, item.kind) {
                (SOL_SOCKET, SCM_RIGHTS) => {
                    if files.len() + data.len() / 4 > MAX_FILES {
                        return Err(Errno::EINVAL);
                    }
                    for number in data.as_chunks::<4>().0 {
                        let fd = Fd(i32::from_ne_bytes(*number));
                        files.push(task.files().get(fd)?);
                    }
                }
                (SOL_SOCKET, SCM_CREDENTIALS) => {
                    let claimed = SocketCredentials::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
                    ancillary.credentials = Sender::claimed(task, claimed)?;
                }
                (SOL_SOCKET, _) => return Err(Errno::EINVAL),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(8)..).unwrap_or(&[]);
        }
        ancillary.files = Files::new(task, files)?;
        Ok(ancillary)
    }

    /// Gives ancillary data to the receiver of a message: the credentials if it has asked for them, the files that it
    /// has room for. Returns how much of the buffer was used, and whether something did not fit.
    pub fn deliver(
        &self,
        task: &CurrentTask,
        control: u64,
        room: u64,
        credentials: bool,
        close_on_exec: bool,
    ) -> SyscallResult<(u64, bool)> {
        let mut buffer = ControlWriter { task, at: control, room, used: 0, cut: false };
        if credentials {
            buffer.put(SCM_CREDENTIALS, self.credentials.seen_by(task).as_bytes())?;
        }
        if self.files.is_empty() {
            return Ok((buffer.used, buffer.cut));
        }
        let fitting = (buffer.left().saturating_sub(HEADER as u64) / 4) as usize;
        let mut numbers = Vec::new();
        for file in self.files.files.iter().take(fitting) {
            match task.install(Arc::clone(file), close_on_exec) {
                Ok(fd) => numbers.extend(fd.0.to_ne_bytes()),
                Err(_) => break,
            }
        }
        let all = numbers.len() == self.files.files.len() * 4;
        if !numbers.is_empty() {
            buffer.put(SCM_RIGHTS, &numbers)?;
        }
        Ok((buffer.used, buffer.cut || !all))
    }
}

/// Where control messages go.
struct ControlWriter<'a> {
    task: &'a CurrentTask,
    at: u64,
    room: u64,
    used: u64,
    cut: bool,
}

impl ControlWriter<'_> {
    fn left(&self) -> u64 {
        if self.at == 0 { 0 } else { self.room - self.used }
    }

    fn put(&mut self, kind: i32, data: &[u8]) -> SysResult<()> {
        let left = self.left() as usize;
        if left < HEADER {
            self.cut = true;
            return Ok(());
        }
        let length = (HEADER + data.len()).min(left);
        self.cut |= length < HEADER + data.len();
        let header = ControlHeader { length: length as u64, level: SOL_SOCKET, kind };
        let place = UserPtr::new(self.at + self.used);
        self.task.write_object(place, &header)?;
        self.task.write_bytes(place.address() + HEADER as u64, &data[..length - HEADER])?;
        self.used += length.next_multiple_of(8).min(left) as u64;
        Ok(())
    }
}
