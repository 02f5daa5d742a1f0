//! The service thread that notices the end of stub processes and collects them.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use host::rustix::buffer::spare_capacity;
use host::rustix::event::{EventfdFlags, epoll, eventfd};
use parking_lot::Mutex;

use super::space::Space;

/// The key of the eventfd that ends the thread; process ids are positive.
const STOP: u64 = 0;

/// A handle on the reaper thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Reaper {
    state: Arc<State>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    epoll: OwnedFd,
    spaces: Mutex<HashMap<u64, Arc<Space>>>,
}

impl Reaper {
    /// Starts the thread.
    pub fn start() -> io::Result<Reaper> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let state = Arc::new(State { epoll, spaces: Mutex::new(HashMap::new()) });
        let of_thread = state.clone();
        let thread = std::thread::Builder::new().name("reaper".into()).spawn(move || serve(&of_thread))?;
        Ok(Reaper { state, stop, thread: Some(thread) })
    }

    /// Watches a process until it ends; keeps its `Space` alive until then.
    pub fn watch(&self, space: &Arc<Space>) -> io::Result<()> {
        let key = u64::from(space.pid.unsigned_abs());
        self.state.spaces.lock().insert(key, space.clone());
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.state.epoll, &space.pidfd, data, epoll::EventFlags::IN).map_err(|error| {
            self.state.spaces.lock().remove(&key);
            error.into()
        })
    }

    /// Whether `pid` is a process that has not been collected yet.
    pub fn knows(&self, pid: i32) -> bool {
        self.state.spaces.lock().contains_key(&u64::from(pid.unsigned_abs()))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let _ = host::rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        // The thread itself may have dropped the last space, and with it this.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn serve(state: &State) {
    let mut events = Vec::with_capacity(64);
    loop {
        match epoll::wait(&state.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(host::rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the reaper cannot wait: {error}"),
        }
        let mut busy = false;
        for event in events.drain(..) {
            let key = event.data.u64();
            if key == STOP {
                return;
            }
            let Some(space) = state.spaces.lock().get(&key).cloned() else { continue };
            // Out of the table first: once collected, the id may come back as another process's.
            state.spaces.lock().remove(&key);
            if space.reap() {
                let _ = epoll::delete(&state.epoll, &space.pidfd);
            } else {
                state.spaces.lock().insert(key, space);
                busy = true;
            }
        }
        if busy {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
