//! The sandbox's side of the control protocol: a thread per connection. When there are too many, whoever has been silent
//! for longest gives way, so that clients that only hold connections do not keep others out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::rustix::event::{PollFd, PollFlags, poll};
use host::rustix::io::Errno;
use host::rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use parking_lot::{Condvar, Mutex};

use super::message::{Envelope, ErrorCode, Failure, Reply, Request, Response, VERSION};
use super::transport::{Deadline, TransportError, receive_message, send_message};
use crate::supervisor::Supervisor;

/// How many clients are served at the same time. Each may wait for the end of a process.
const MAX_CONNECTIONS: usize = 512;
const STACK: usize = 256 << 10;
/// How long a client may take to begin its next request, to finish it, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long clients have to take their answers when the sandbox ends.
const GRACE: Duration = Duration::from_secs(2);

/// The threads that serve clients.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    supervisor: Arc<Supervisor>,
    /// How many clients there are, and how many requests are being answered.
    load: Mutex<Load>,
    changed: Condvar,
}

#[derive(Default)]
struct Load {
    connections: usize,
    requests: usize,
    /// Clients that are to send a request, in the order in which they began to be waited for.
    silent: BTreeMap<u64, Arc<OwnedFd>>,
    /// How many have been waited for.
    turns: u64,
}

impl Load {
    /// Whether there is room for one more client, if need be in the place of another one.
    fn make_room(&mut self) -> bool {
        if self.connections < MAX_CONNECTIONS {
            return true;
        }
        // Those that were told to go take a moment.
        match self.silent.pop_first().filter(|_| self.connections < 2 * MAX_CONNECTIONS) {
            Some((_, silent)) => shutdown(&*silent, Shutdown::Both).is_ok(),
            None => false,
        }
    }
}

/// How long the maker may take for its next request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Limited,
    Unlimited,
}

impl Server {
    /// Serves on a connection that is there already, and on those that a listening socket gets.
    ///
    /// # Errors
    /// If there is no room for a thread.
    pub fn start(
        supervisor: Arc<Supervisor>,
        connection: OwnedFd,
        listener: Option<OwnedFd>,
    ) -> io::Result<Server> {
        let shared = Arc::new(Shared { supervisor, load: Mutex::default(), changed: Condvar::new() });
        Shared::spawn(&shared, connection, Idle::Unlimited)?;
        if let Some(listener) = listener {
            let accepting = Arc::clone(&shared);
            thread("accept").spawn(move || accepting.accept(&listener))?;
        }
        Ok(Server { shared })
    }

    /// Waits, but not for long, until all requests are answered.
    pub fn drain(&self) {
        let until = Instant::now() + GRACE;
        let mut load = self.shared.load.lock();
        while load.requests > 0 && !self.shared.changed.wait_until(&mut load, until).timed_out() {}
    }
}

fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.into()).stack_size(STACK)
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &OwnedFd) {
        loop {
            match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(connection) => {
                    if let Err(error) = Shared::spawn(&self, connection, Idle::Limited) {
                        tracing::warn!("cannot serve a client: {error}");
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // Out of descriptors or memory: it may pass.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => {
                    tracing::error!("the control socket failed: {error}");
                    return;
                }
            }
        }
    }

    fn spawn(shared: &Arc<Self>, connection: OwnedFd, idle: Idle) -> io::Result<()> {
        {
            let mut load = shared.load.lock();
            if !load.make_room() {
                drop(load);
                let failure = Failure::new(ErrorCode::Busy, "the sandbox serves too many clients already");
                // Not the request, which is never read, but an answer to whatever it is.
                let _ = send_message(&connection, &Reply::Err(failure), &[], Deadline::after(Duration::ZERO));
                return Ok(());
            }
            load.connections += 1;
        }
        let (serving, connection) = (Arc::clone(shared), Arc::new(connection));
        let spawned = thread("control").spawn(move || {
            serving.serve(&connection, idle);
            if idle == Idle::Unlimited {
                serving.supervisor.maker_left();
            }
            serving.load.lock().connections -= 1;
        });
        if spawned.is_err() {
            shared.load.lock().connections -= 1;
        }
        spawned.map(drop)
    }

    fn serve(&self, connection: &Arc<OwnedFd>, idle: Idle) {
        loop {
            let begin = match idle {
                Idle::Limited => Deadline::after(PATIENCE),
                Idle::Unlimited => Deadline::NEVER,
            };
            let turn = (idle == Idle::Limited).then(|| {
                let mut load = self.load.lock();
                load.turns += 1;
                let turn = load.turns;
                load.silent.insert(turn, Arc::clone(connection));
                turn
            });
            let received = receive_message::<Envelope>(connection, begin, PATIENCE);
            {
                let mut load = self.load.lock();
                if let Some(turn) = turn {
                    load.silent.remove(&turn);
                }
                load.requests += 1;
            }
            let (reply, more) = match received {
                Ok((envelope, descriptors)) => (self.answer(envelope, descriptors, connection), true),
                Err(TransportError::Closed) => (None, false),
                Err(error) => (Some(Err(Failure::new(ErrorCode::Invalid, error.to_string()))), false),
            };
            let sent = reply.map(|reply| send_message(connection, &reply, &[], Deadline::after(PATIENCE)));
            self.load.lock().requests -= 1;
            self.changed.notify_all();
            if !more || !matches!(sent, Some(Ok(()))) {
                return;
            }
        }
    }

    /// The answer to a request; none if the client went away meanwhile.
    fn answer(&self, envelope: Envelope, descriptors: Vec<OwnedFd>, connection: &OwnedFd) -> Option<Reply> {
        if envelope.version != VERSION {
            let text = format!(
                "the sandbox speaks version {VERSION} of the control protocol, the client {}",
                envelope.version
            );
            return Some(Err(Failure::new(ErrorCode::Version, text)));
        }
        let supervisor = &self.supervisor;
        let done = |result: Result<(), Failure>| Some(result.map(|()| Response::Done));
        match envelope.request {
            Request::Version => {
                let release = env!("CARGO_PKG_VERSION").to_owned();
                Some(Ok(Response::Version { version: VERSION, release }))
            }
            Request::Create(spec) => done(supervisor.create(*spec, descriptors)),
            Request::Start { container } => done(supervisor.start(&container)),
            Request::Execute { container, process, link } => {
                Some(supervisor.execute(&container, &process, descriptors, link))
            }
            Request::Signal { container, signal, target } => {
                done(supervisor.signal(&container, signal, target))
            }
            Request::Wait { container, target } => {
                supervisor.wait(&container, target, connection).transpose()
            }
            Request::Processes { container } => {
                Some(supervisor.processes(&container).map(Response::Processes))
            }
            Request::Usage { container } => Some(supervisor.usage(&container).map(Response::Usage)),
            Request::Memory { container } => Some(supervisor.memory(&container).map(Response::Memory)),
            Request::Read { container, path, offset, size, output } => {
                done(supervisor.read(&container, &path, (offset, size), output, descriptors))
            }
            Request::WriteLayer { container, output } => {
                done(supervisor.write_layer(&container, output, descriptors))
            }
            Request::Mount { container, image, source, destination } => {
                done(supervisor.mount(&container, image, &source, &destination, descriptors))
            }
            Request::Pause { container } => done(supervisor.pause(&container)),
            Request::Resume { container } => done(supervisor.resume(&container)),
            Request::Update { container, resources } => done(supervisor.update(&container, resources)),
            Request::State { container } => Some(supervisor.state(&container).map(Response::State)),
            Request::Resize { container, pid } => done(supervisor.resize(&container, pid)),
            Request::Destroy { container } => done(supervisor.destroy(&container)),
        }
    }
}

/// Answers the first request on a connection with a failure: the sandbox did not get as far as serving.
pub fn refuse_first(connection: &OwnedFd, failure: Failure) {
    // The request itself does not matter, but must have come: an answer before it would be lost with the connection.
    let _ = poll(&mut [PollFd::new(connection, PollFlags::IN)], None);
    let _ = receive_message::<Envelope>(connection.as_fd(), Deadline::after(PATIENCE), PATIENCE);
    let _ = send_message(connection, &Reply::Err(failure), &[], Deadline::after(PATIENCE));
}
