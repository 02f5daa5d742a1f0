//! The life of a gofer process: [`spawn`] forks it into a mount namespace of its own; it moves into a tree of just its
//! mounts, gives up what it does not need, answers until its client goes, and ends.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Barrier};

use abi::SysResult;
use host::namespace::IdMaps;
use host::rustix;
use host::rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use host::step::{Step, reach};

use crate::connect::{Connector, Seen, Sockets};
use crate::local::Ownership;
use crate::mounts::{self, DESCRIPTORS, Error, Mount, failed};
use crate::protocol::MAX_MESSAGE;
use crate::server::{Mode, Session};
use crate::socket::{pair, receive_message, send_message};

/// How many channels a connection has: so many requests are carried out at a time.
const CHANNELS: usize = 2;

/// The capabilities that a gofer keeps: those that say who may do what with files, and no others.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD);

/// What those need besides who connect as the guest's user.
const CONNECTING: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// How a gofer serves.
#[derive(Clone, Debug)]
pub struct Service {
    /// Whether its client gets descriptors of directories.
    pub mode: Mode,
    /// Which sockets of the host guests may use.
    pub sockets: Sockets,
    /// How the container's ids are mapped to the caller's, if they are.
    pub ids: Option<IdMaps>,
}

/// A gofer process that was started.
pub struct Gofer {
    /// Its pid.
    pub pid: i32,
    /// The client's ends of its channels, for [`crate::Client::connect`].
    pub channels: Vec<OwnedFd>,
    report: std::fs::File,
}

impl Gofer {
    /// Waits until it has its mounts.
    ///
    /// # Errors
    /// What kept it from getting them.
    pub fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut text = String::new();
        let read = self.report.read_to_string(&mut text).map_err(|error| error.to_string())?;
        match text.as_str() {
            "ready" => Ok(()),
            _ if read == 0 => Err("the gofer process died".to_owned()),
            _ => Err(text),
        }
    }
}

/// Forks a gofer that serves these mounts, numbered in this order. It ends when nobody has its channels any more.
///
/// Privileged callers get one with the capabilities for files; for others it is in a user namespace of its own, in which
/// their own id is all that there is. If the container's ids are mapped, it is in a user namespace that has them, and its
/// capabilities do not go beyond those.
///
/// # Errors
/// What the host says, or that the process has more than one thread. The mounts are made meanwhile: see
/// [`Gofer::wait_until_ready`].
pub fn spawn(mounts: &[Mount], service: &Service) -> Result<Gofer, Error> {
    let (channels, served): (Vec<_>, Vec<_>) = (0..CHANNELS)
        .map(|_| pair())
        .collect::<SysResult<Vec<_>>>()
        .map_err(failed("make a socket"))?
        .into_iter()
        .unzip();
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("make a pipe"));
    let ((report, reporting), (ready, go)) = (pipe()?, pipe()?);
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN | CAPABILITIES));
    let (namespaces, ownership) = if privileged {
        (libc::CLONE_NEWNS, Ownership::Exact)
    } else {
        (libc::CLONE_NEWNS | libc::CLONE_NEWUSER, Ownership::Own)
    };
    let users = match service.ids.as_ref().filter(|_| privileged) {
        Some(ids) => Some(host::namespace::user_namespace(ids).map_err(failed("map the container's ids"))?),
        None => None,
    };
    let mut given = Some((served, reporting, ready));
    let pid = host::namespace::fork_into(namespaces, || match given.take() {
        Some((served, reporting, ready)) => {
            child(mounts, service, ownership, served, reporting, ready, users.as_ref())
        }
        None => 1,
    })
    .map_err(failed("start the gofer process"))?;
    drop(given);
    if !privileged {
        host::namespace::map_ids(pid, service.ids.as_ref()).map_err(failed("map the container's ids"))?;
    }
    rustix::io::write(&go, &[1]).map_err(failed("start the gofer process"))?;
    Ok(Gofer { pid, channels, report: report.into() })
}

/// The process's life, until it exits with what this returns.
fn child(
    mounts: &[Mount],
    service: &Service,
    ownership: Ownership,
    channels: Vec<OwnedFd>,
    reporting: OwnedFd,
    ready: OwnedFd,
    users: Option<&OwnedFd>,
) -> i32 {
    reach(Step::GoferForked);
    let mut kept = vec![reporting.as_fd(), ready.as_fd()];
    kept.extend(users.map(AsFd::as_fd));
    kept.extend(channels.iter().map(AsFd::as_fd));
    let closed = host::process::close_others(&kept);
    // The caller's streams are none of its business; but their numbers must not go to something else.
    while let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        if null.as_raw_fd() > 2 {
            break;
        }
        std::mem::forget(null);
    }
    // Our ids are mapped before we are told to go on.
    let mut byte = [0];
    if closed.is_err() || !matches!(rustix::io::read(&ready, &mut byte), Ok(1)) {
        return 1;
    }
    drop(ready);
    let mut reporting = Some(std::fs::File::from(reporting));
    let prepared = mounts::enter(mounts, service.sockets).and_then(|served| {
        match (&service.ids, users) {
            (Some(ids), Some(users)) => host::namespace::enter_user_namespace(users.as_fd(), ids),
            // It was born there.
            (Some(ids), None) => host::namespace::become_first(ids),
            (None, _) => Ok(()),
        }
        .map_err(failed("take the container's ids"))?;
        prepare(service.sockets)?;
        reach(Step::GoferMounted);
        let seen = if ownership == Ownership::Exact { Seen::Guest } else { Seen::Own };
        let connector = match service.sockets {
            Sockets::None => None,
            Sockets::Connect => Some(Connector { descriptors: DESCRIPTORS, seen }),
        };
        Ok(Session::new(served, service.mode, ownership).with_connector(connector))
    });
    let finished = prepared.and_then(|session| {
        serve(session, channels, || {
            // Once confined it can only close the pipe, which is what its maker waits for.
            let report = reporting.as_mut().map_or(Ok(()), |report| report.write_all(b"ready"));
            report.map_err(failed("report to its maker"))?;
            reach(Step::GoferReady);
            crate::filter::confine(service.sockets, mounts::following(mounts))?;
            reporting = None;
            Ok(())
        })
    });
    match finished {
        Ok(()) => 0,
        Err(error) => {
            let _ = reporting.map(|mut report| report.write_all(error.to_string().as_bytes()));
            1
        }
    }
}

/// Gives up what is not needed.
fn prepare(sockets: Sockets) -> Result<(), Error> {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"nacelle-gofer");
    rustix::process::umask(rustix::fs::Mode::empty());
    host::namespace::raise_limits();
    rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    let own = rustix::thread::capabilities(None).map_err(failed("read capabilities"))?;
    let mut kept = own.permitted & CAPABILITIES;
    if sockets == Sockets::Connect {
        kept |= own.permitted & CONNECTING;
        if own.permitted.contains(CapabilitySet::SETPCAP) {
            // Else they would be gone while a thread has the guest's ids.
            rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
                .map_err(failed("keep capabilities"))?;
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed("give up capabilities"))
}

/// Answers requests on these channels, each in a thread of its own, until the client has closed all of them. `confine` is
/// called when all threads are there, before the first request is read.
pub(crate) fn serve(
    session: Session,
    channels: Vec<OwnedFd>,
    confine: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let session = Arc::new(session);
    let begin = Arc::new(Barrier::new(channels.len() + 1));
    let mut threads = Vec::new();
    for channel in channels {
        let (session, begin) = (Arc::clone(&session), Arc::clone(&begin));
        // Requests go no deeper than a few calls.
        let thread = std::thread::Builder::new().name("nacelle-gofer".into()).stack_size(128 << 10);
        let thread = thread.spawn(move || {
            // What a new thread does for itself is done by now, and need not be allowed.
            begin.wait();
            begin.wait();
            answer_all(&session, &channel);
        });
        threads.push(thread.map_err(failed("start a thread"))?);
    }
    begin.wait();
    confine()?;
    // Answering takes little of the code that it took to start.
    host::process::release_code();
    begin.wait();
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
        let fds = fd.as_ref().map(AsFd::as_fd);
        if send_message(channel, &reply, fds.as_slice()).is_err() {
            return;
        }
    }
}
