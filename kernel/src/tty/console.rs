//! The console: a terminal whose user sits at descriptors of the host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::terminal::Terminal;
use super::termios::WindowSize;
use crate::wait::{Deadline, Events, Waiter, Wakeup};

const STACK: usize = 128 << 10;

/// Moves what is typed at the host to a terminal, and what the terminal shows to the host.
pub struct Console {
    terminal: Arc<Terminal>,
    /// The host's end; let go at the end, so that whoever sits there sees it.
    input: Mutex<Option<Arc<OwnedFd>>>,
    /// Becomes readable at the end.
    stop: Arc<OwnedFd>,
    closing: Arc<AtomicBool>,
    waiter: Arc<Waiter>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Console {
    /// Connects a terminal to the host. When a terminal there hangs up, so does this one; the end of any other `input` is
    /// typed as the end-of-file character.
    ///
    /// # Errors
    /// If there is no room for a thread.
    pub fn start(terminal: Arc<Terminal>, input: OwnedFd, output: OwnedFd) -> io::Result<Console> {
        let input = Arc::new(input);
        let closing = Arc::new(AtomicBool::new(false));
        let waiter = Arc::new(Waiter::default());
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(body)
        };
        let stop = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?);
        let (typed, from, stopped) = (Arc::clone(&terminal), Arc::clone(&input), Arc::clone(&stop));
        let input_thread = spawn("console-in", Box::new(move || take_input(&typed, &from, &stopped)))?;
        let (shown, ends, wakeup) = (Arc::clone(&terminal), Arc::clone(&closing), Arc::clone(&waiter));
        let output = spawn("console-out", Box::new(move || give_output(&shown, &output, &ends, &wakeup)))?;
        let threads = Mutex::new(vec![output, input_thread]);
        let console = Console { terminal, input: Mutex::new(Some(input)), stop, closing, waiter, threads };
        console.resize();
        Ok(console)
    }

    /// Takes over the size of the host's window, if it has one.
    pub fn resize(&self) {
        let Some(input) = self.input.lock().clone() else { return };
        if let Ok(size) = rustix::termios::tcgetwinsize(&*input) {
            self.terminal.set_window(WindowSize {
                rows: size.ws_row,
                columns: size.ws_col,
                width: size.ws_xpixel,
                height: size.ws_ypixel,
            });
        }
    }

    /// Waits until all output is shown, and stops. The host's end is closed.
    pub fn finish(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.waiter.notify();
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread only fails by a panic, which has been told.
            let _ = thread.join();
        }
        *self.input.lock() = None;
    }
}

/// How long a program may leave what was typed unread before this looks whether it is still there.
const ROUND: Duration = Duration::from_secs(1);

/// Whether the host's end is a terminal without anybody at its other end.
fn is_hung_up(from: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(from, PollFlags::empty())];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) && fds[0].revents().contains(PollFlags::HUP)
}

/// Whether there is something to read, or the end; `false` when it is time to stop.
fn wait_for_input(from: &OwnedFd, stop: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn stopping(stop: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(stop, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

fn take_input(terminal: &Arc<Terminal>, from: &OwnedFd, stop: &OwnedFd) {
    // Asked now: a terminal that has hung up no longer says that it is one.
    let is_terminal = rustix::termios::tcgetwinsize(from).is_ok();
    let waiter = Arc::new(Waiter::default());
    let wakeup: Arc<dyn Wakeup> = Arc::clone(&waiter) as _;
    let _registration = terminal.master_queue().register(Events::WRITABLE, &wakeup);
    let mut buffer = [0; 4096];
    loop {
        if !wait_for_input(from, stop) {
            return;
        }
        let count = match rustix::io::read(from, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(_) => break,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match terminal.input(rest) {
                0 if stopping(stop) => return,
                0 if is_terminal && is_hung_up(from) => return terminal.hang_up(),
                0 => drop(waiter.wait(Deadline::after(ROUND))),
                taken => rest = &rest[taken..],
            }
        }
    }
    if is_terminal { terminal.hang_up() } else { terminal.input_end() }
}

fn give_output(terminal: &Terminal, to: &OwnedFd, closing: &AtomicBool, waiter: &Arc<Waiter>) {
    let wakeup: Arc<dyn Wakeup> = Arc::clone(waiter) as _;
    let _registration = terminal.master_queue().register(Events::READABLE, &wakeup);
    loop {
        let last = closing.load(Ordering::SeqCst);
        let output = terminal.take_output(64 << 10);
        if output.is_empty() {
            if last {
                return;
            }
            waiter.wait(Deadline::Never);
            continue;
        }
        let mut rest = &output[..];
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(count) => rest = &rest[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let mut fds = [rustix::event::PollFd::new(to, rustix::event::PollFlags::OUT)];
                    let _ = rustix::event::poll(&mut fds, None);
                }
                // Nobody looks any more; programs go on writing as to a terminal that nobody watches.
                Err(_) => break,
            }
        }
    }
}
