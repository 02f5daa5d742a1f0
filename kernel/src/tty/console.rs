//! The console: a terminal whose user sits at descriptors of the host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::terminal::Terminal;
use super::termios::WindowSize;
use crate::wait::{Deadline, Events, Waiter, Wakeup};

const STACK: usize = 128 << 10;

/// Moves what is typed at the host to a terminal, and what the terminal shows to the host.
pub struct Console {
    terminal: Arc<Terminal>,
    input: Arc<OwnedFd>,
    closing: Arc<AtomicBool>,
    waiter: Arc<Waiter>,
    output: Mutex<Option<JoinHandle<()>>>,
}

impl Console {
    /// Connects a terminal to the host. The end of `input` is typed as the end-of-file character.
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
        let (typed, from) = (Arc::clone(&terminal), Arc::clone(&input));
        spawn("console-in", Box::new(move || take_input(&typed, &from)))?;
        let (shown, ends, wakeup) = (Arc::clone(&terminal), Arc::clone(&closing), Arc::clone(&waiter));
        let output = spawn("console-out", Box::new(move || give_output(&shown, &output, &ends, &wakeup)))?;
        let console = Console { terminal, input, closing, waiter, output: Mutex::new(Some(output)) };
        console.resize();
        Ok(console)
    }

    /// Takes over the size of the host's window, if it has one.
    pub fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(&*self.input) {
            self.terminal.set_window(WindowSize {
                rows: size.ws_row,
                columns: size.ws_col,
                width: size.ws_xpixel,
                height: size.ws_ypixel,
            });
        }
    }

    /// Waits until all output is shown, and stops.
    pub fn finish(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.waiter.notify();
        if let Some(output) = self.output.lock().take() {
            // The thread only fails by a panic, which has been told.
            let _ = output.join();
        }
    }
}

fn take_input(terminal: &Terminal, from: &OwnedFd) {
    let waiter = Arc::new(Waiter::default());
    let wakeup: Arc<dyn Wakeup> = Arc::clone(&waiter) as _;
    let _registration = terminal.master_queue().register(Events::WRITABLE, &wakeup);
    let mut buffer = [0; 4096];
    loop {
        let count = match rustix::io::read(from, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {
                let mut fds = [rustix::event::PollFd::new(from, rustix::event::PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, None);
                continue;
            }
            Err(_) => break,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match terminal.input(rest) {
                0 => drop(waiter.wait(Deadline::Never)),
                taken => rest = &rest[taken..],
            }
        }
    }
    terminal.input_end();
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
