//! The loop that drives a guest thread.

use std::sync::atomic::Ordering;

use abi::signal::{SigInfo, Signal};
use platform::{Event, Fault};

use super::{CurrentTask, ExitStatus};
use crate::error::{Restart, SysError};
use crate::signal;

impl CurrentTask {
    /// Runs the guest thread until it ends. Called on its kernel thread; the caller then takes the task down.
    pub fn run(&self) {
        super::set_current(Some(std::sync::Arc::clone(&self.task)));
        self.set_host_thread(rustix::thread::gettid().as_raw_nonzero().get());
        self.run_guest();
        super::set_current(None);
    }

    fn run_guest(&self) {
        let mut restart = None;
        loop {
            if self.attention.swap(false, Ordering::SeqCst) || restart.is_some() {
                self.park_while_paused();
                signal::deliver(self, restart.take());
            }
            if self.is_exiting() {
                return;
            }
            let event = self.context.borrow_mut().run();
            match event {
                Event::Syscall => restart = self.serve(),
                Event::Fault(fault) => self.fault(fault),
                Event::Interrupted => {}
                // The host killed the stub: the guest's processes die as they would by the host's hand.
                Event::Died => {
                    self.exit_group(ExitStatus::Signaled { signal: Signal::SIGKILL, core: false });
                }
            }
        }
    }

    /// Serves a system call. Returns how it is to be restarted if a signal interrupted it.
    fn serve(&self) -> Option<Restart> {
        match crate::syscalls::dispatch(self) {
            Ok(value) => self.context.borrow_mut().registers_mut().rax = value,
            Err(SysError::Errno(errno)) => self.context.borrow_mut().registers_mut().rax = errno.to_ret(),
            Err(SysError::Restart(restart)) => return Some(restart),
        }
        None
    }

    /// Handles a processor exception: grows the stack, or sends the signal.
    fn fault(&self, fault: Fault) {
        if fault.signal == Signal::SIGSEGV && self.grow_stack(fault.address) {
            return;
        }
        let info = SigInfo::fault(fault.signal, fault.code, fault.address);
        signal::force(self, info, Some(fault));
    }
}
