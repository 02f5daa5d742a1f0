//! The kernel threads that serve guest threads.
//!
//! Each serves one at a time. When that has ended it waits for another for a while, since a thread that is there already
//! is sooner at work than a new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::{Errno, SysResult};
use parking_lot::{Condvar, Mutex};

use super::CurrentTask;

/// How many wait at most.
const MAX_IDLE: usize = 8;
/// For how long.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a system call may take of the stack.
const STACK: usize = 512 << 10;

/// Those that wait.
static IDLE: Mutex<Vec<Arc<Seat>>> = Mutex::new(Vec::new());

/// Where a waiting thread is given a task.
#[derive(Default)]
struct Seat {
    task: Mutex<Option<CurrentTask>>,
    taken: Condvar,
}

/// Has a task served from now on: `EAGAIN` if the host has no thread for it.
pub fn serve(task: CurrentTask) -> SysResult<()> {
    let idle = IDLE.lock().pop();
    if let Some(seat) = idle {
        *seat.task.lock() = Some(task);
        seat.taken.notify_one();
        return Ok(());
    }
    let spawned = std::thread::Builder::new().stack_size(STACK).spawn(move || serve_all(task));
    spawned.map(drop).map_err(|_| Errno::EAGAIN)
}

/// A kernel thread's life.
fn serve_all(first: CurrentTask) {
    let seat = Arc::new(Seat::default());
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let mut next = Some(first);
    while let Some(task) = next {
        let name = format!("task-{}\0", task.tid());
        let _ = std::ffi::CStr::from_bytes_with_nul(name.as_bytes()).map(rustix::thread::set_name);
        task.run(thread);
        task.finish();
        next = wait(&seat);
    }
}

/// Waits for a task; `None` if there is nothing to do.
fn wait(seat: &Arc<Seat>) -> Option<CurrentTask> {
    let mut idle = IDLE.lock();
    if idle.len() >= MAX_IDLE {
        return None;
    }
    idle.push(Arc::clone(seat));
    drop(idle);
    let end = Instant::now() + PATIENCE;
    loop {
        let mut task = seat.task.lock();
        while task.is_none() && !seat.taken.wait_until(&mut task, end).timed_out() {}
        if let Some(task) = task.take() {
            return Some(task);
        }
        drop(task);
        let mut idle = IDLE.lock();
        match idle.iter().position(|waiting| Arc::ptr_eq(waiting, seat)) {
            Some(index) => drop(idle.swap_remove(index)),
            // Somebody is about to give it one.
            None => {
                drop(idle);
                std::thread::yield_now();
                continue;
            }
        }
        return None;
    }
}
