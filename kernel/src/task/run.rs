//! The loop that drives a guest thread.

use std::sync::atomic::{AtomicBool, Ordering};

use abi::signal::{SigInfo, Signal};
use platform::{Event, Fault, Pointed};

use super::{CurrentTask, ExitStatus};
use crate::error::{Restart, SysError};
use crate::ptrace::TraceEvent;
use crate::signal;

/// The numbers of the calls that the platform may answer.
mod number {
    pub const SCHED_YIELD: u32 = 24;
    pub const GETPID: u32 = 39;
    pub const GETUID: u32 = 102;
    pub const GETGID: u32 = 104;
    pub const GETEUID: u32 = 107;
    pub const GETEGID: u32 = 108;
    pub const GETTID: u32 = 186;
    pub const FUTEX: u32 = 202;
}

/// The calls whose first or second argument, counted from zero, points to what they begin with: a path, or a few bytes; or to
/// what they write. None of them reads that memory again and again to see whether others have changed it.
const POINTERS: [(u32, usize, Pointed); 37] = [
    (1, 1, Pointed::Buffer),      // write
    (2, 0, Pointed::Beginning),   // open
    (4, 0, Pointed::Beginning),   // stat
    (6, 0, Pointed::Beginning),   // lstat
    (7, 0, Pointed::Beginning),   // poll
    (14, 1, Pointed::Beginning),  // rt_sigprocmask
    (18, 1, Pointed::Buffer),     // pwrite64
    (19, 1, Pointed::Beginning),  // readv
    (20, 1, Pointed::Beginning),  // writev
    (21, 0, Pointed::Beginning),  // access
    (23, 1, Pointed::Beginning),  // select
    (44, 1, Pointed::Buffer),     // sendto
    (46, 1, Pointed::Beginning),  // sendmsg
    (47, 1, Pointed::Beginning),  // recvmsg
    (76, 0, Pointed::Beginning),  // truncate
    (80, 0, Pointed::Beginning),  // chdir
    (82, 0, Pointed::Beginning),  // rename
    (83, 0, Pointed::Beginning),  // mkdir
    (84, 0, Pointed::Beginning),  // rmdir
    (87, 0, Pointed::Beginning),  // unlink
    (89, 0, Pointed::Beginning),  // readlink
    (90, 0, Pointed::Beginning),  // chmod
    (257, 1, Pointed::Beginning), // openat
    (258, 1, Pointed::Beginning), // mkdirat
    (262, 1, Pointed::Beginning), // newfstatat
    (263, 1, Pointed::Beginning), // unlinkat
    (267, 1, Pointed::Beginning), // readlinkat
    (268, 1, Pointed::Beginning), // fchmodat
    (269, 1, Pointed::Beginning), // faccessat
    (270, 1, Pointed::Beginning), // pselect6
    (271, 0, Pointed::Beginning), // ppoll
    (295, 1, Pointed::Beginning), // preadv
    (296, 1, Pointed::Beginning), // pwritev
    (327, 1, Pointed::Beginning), // preadv2
    (328, 1, Pointed::Beginning), // pwritev2
    (332, 1, Pointed::Beginning), // statx
    (439, 1, Pointed::Beginning), // faccessat2
];

/// The calls that make threads: `clone`, `vfork`, `clone3`.
const SPAWNING: [u32; 3] = [56, 58, 435];

/// The call that ends a thread: `exit`.
const ENDING: u32 = 60;

/// Whether the flag is set, which it then is no longer. Mostly it is not, and to read it takes no more than that: whoever sets
/// one interrupts the thread after that, which the platform notices.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst) && flag.swap(false, Ordering::SeqCst)
}

impl CurrentTask {
    /// Runs the guest thread until it ends. Called on its kernel thread, whose number is given; the caller then takes the task down.
    pub fn run(&self, thread: i32) {
        super::set_current(Some(std::sync::Arc::clone(&self.task)));
        self.set_host_thread(thread, super::exit::host_thread_time());
        self.run_guest();
        super::set_current(None);
    }

    fn run_guest(&self) {
        let mut restart = None;
        loop {
            if take(&self.attention) || restart.is_some() {
                self.settle_delivery();
                self.park_while_paused();
                signal::deliver(self, restart.take());
            }
            if self.is_exiting() {
                let status = self.group.exit.lock().map_or(0, ExitStatus::wait_status);
                self.trace_event(TraceEvent::Exit, status.unsigned_abs().into());
                return;
            }
            if take(&self.identity_changed) {
                self.set_answers();
            }
            let event = self.run_to_event();
            match event {
                Event::Syscall if self.ptrace.is_traced() => restart = self.serve_traced(),
                Event::Syscall => restart = self.serve(),
                Event::Fault(fault) => self.fault(fault),
                Event::Interrupted => {}
                Event::Undelivered(done) => self.delivery_failed(done),
                // The host killed the stub: the guest's processes die as they would by the host's hand.
                Event::Died => {
                    self.exit_group(ExitStatus::Signaled { signal: Signal::SIGKILL, core: false });
                }
            }
        }
    }

    /// Runs guest code until something happens; one instruction if the tracer wants that.
    fn run_to_event(&self) -> Event {
        const TRAP: u64 = 0x100;
        let mut context = self.context.borrow_mut();
        if !self.trace_steps() || context.registers().eflags & TRAP != 0 {
            return context.run();
        }
        context.registers_mut().eflags |= TRAP;
        let event = context.run();
        context.registers_mut().eflags &= !TRAP;
        event
    }

    /// Tells the platform what it sends along with calls, and what it may answer by itself: nothing if somebody wants to see
    /// all calls.
    fn set_answers(&self) {
        for (number, argument, what) in POINTERS {
            self.context.borrow_mut().set_pointer(number, argument, what);
        }
        SPAWNING.iter().for_each(|number| self.context.borrow_mut().expect_spawn(*number));
        self.context.borrow_mut().expect_end(ENDING);
        self.learn_default_actions();
        self.offer_default_actions();
        self.offer_own_state();
        self.offer_direct_files();
        if self.kernel.strace.is_some() {
            return;
        }
        let credentials = self.credentials();
        let pids = [(number::GETPID, self.group.number), (number::GETTID, self.number())];
        let ids = [
            (number::GETUID, credentials.uid),
            (number::GETEUID, credentials.effective_uid),
            (number::GETGID, credentials.gid),
            (number::GETEGID, credentials.effective_gid),
        ];
        let pids = pids.map(|(number, pid)| (number, Some(pid.cast_unsigned())));
        // Elsewhere ids are what a map says, which others may write at any time.
        let unmapped = credentials.user_namespace.is_root();
        let ids = ids.map(|(number, id)| (number, unmapped.then_some(id)));
        // Who runs when is the host's matter.
        let pids = [pids[0], pids[1], (number::SCHED_YIELD, Some(0)), (number::FUTEX, Some(0))];
        let watched = self.calls_are_watched();
        let pids = pids.map(|(number, pid)| (number, pid.filter(|_| !watched)));
        let ids = ids.map(|(number, id)| (number, id.filter(|_| !watched)));
        let mut context = self.context.borrow_mut();
        pids.into_iter().chain(ids).for_each(|(number, answer)| context.set_answer(number, answer));
    }

    /// Whether somebody wants to know of every call: a filter, a tracer, `--strace`.
    pub(crate) fn calls_are_watched(&self) -> bool {
        self.kernel.strace.is_some() || self.seccomp.is_active() || self.ptrace.is_traced()
    }

    /// Serves a system call of a task that is traced.
    fn serve_traced(&self) -> Option<Restart> {
        let mut restart = None;
        if self.trace_call_entry() {
            restart = self.serve();
            restart.inspect(|restart| self.show_restart(*restart));
        }
        if self.is_exiting() {
            return None;
        }
        // The tracer finds memory as the call has left it.
        self.settle_delivery();
        self.trace_call_exit(&mut restart);
        restart
    }

    /// Serves a system call. Returns how it is to be restarted if a signal interrupted it.
    fn serve(&self) -> Option<Restart> {
        if self.seccomp.is_active() || self.ptrace.is_traced() {
            // Whoever watches the call may have changed what it is about.
            self.context.borrow_mut().forget_sent();
        }
        let result = crate::syscalls::dispatch(self);
        self.note_trap();
        match result {
            Ok(value) => self.context.borrow_mut().registers_mut().rax = value,
            Err(SysError::Errno(errno)) => self.context.borrow_mut().registers_mut().rax = errno.to_ret(),
            Err(SysError::Restart(restart)) => return Some(restart),
        }
        None
    }

    /// Makes the next calls from where the host has trapped one arrive faster, if that pays.
    fn note_trap(&self) {
        let mut context = self.context.borrow_mut();
        if let Some(code) = context.trapped_call()
            && !self.ptrace.is_traced()
            && let Some(memory) = self.memory()
        {
            // A process that ends gains nothing by that, but others may.
            let ends = self.is_exiting() && self.group.exit.lock().is_some();
            memory.call_trapped(&mut **context, &code, !ends);
        }
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
