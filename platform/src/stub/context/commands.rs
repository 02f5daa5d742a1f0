//! Commands to the stub thread, and waiting until they are carried out.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use host::process::Allowed;

use super::StubContext;
use crate::AddressSpace;
use crate::stub::layout::*;
use crate::stub::slot::{Before, Gone, Patience, Slot};
use crate::stub::{memory, text};

/// For how many ticks a stub may carry out a command. Guest code in another thread may have spoilt it; and the host may
/// have to unmap a great deal of memory.
pub(super) const COMMAND_TICKS: u32 = 20;

/// Where in a slot the record `index` of `COMMAND_CALLS` lies.
pub(super) fn place_of_record(index: usize) -> u64 {
    (BUFFER + index * CALL_SIZE) as u64
}

impl StubContext {
    /// Waits for the stub's next report; ends in time only if the stub is not hostile.
    pub(super) fn wait(&self, tick: &dyn Fn(u32) -> Result<(), Gone>) -> Result<(), Gone> {
        self.slot().wait(&Patience { dead: &self.space.dead, tick })
    }

    /// Gives the turn to the stub.
    pub(super) fn post(&self, command: u32) {
        self.post_after(command, &Before::default());
    }

    /// [`StubContext::post`] with what is to be done before.
    pub(super) fn post_after(&self, command: u32, before: &Before) {
        let spin = self.habits.kernel_done(&self.space.shared.spinning, self.slot().stub_sleeps());
        let slot = self.slot();
        slot.post_waking(command, before, spin, |wake| {
            let rules = &self.space.shared.spinning;
            let here = |allowed: &Allowed| {
                slot.comes_here();
                allowed.wake_here(self.thread.id, wake)
            };
            if slot.is_here() || !self.habits.wakes_here(rules, here) {
                wake();
            }
        });
    }

    /// Waits for the report after a command, or for the thread's first.
    pub(super) fn wait_done(&self) -> SysResult<()> {
        self.wait_done_while(|| false)
    }

    /// [`StubContext::wait_done`], and beyond a command's time as long as `go_on` says so.
    pub(super) fn wait_done_while(&self, go_on: impl Fn() -> bool) -> SysResult<()> {
        let rules = &self.space.shared.spinning;
        if !self.slot().is_here() {
            self.habits.spin(rules, false, |ticks| self.slot().spin(ticks));
        }
        let waited = self.wait(&|ticks| if ticks < COMMAND_TICKS || go_on() { Ok(()) } else { Err(Gone) });
        if waited.is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        self.habits.turn_came(rules, &self.slot().told_times(), None, self.slot().is_here());
        Ok(())
    }

    /// Makes sure that the stub thread waits for a command.
    pub(super) fn ready(&self) -> SysResult<()> {
        if self.starting.get() {
            self.wait_done()?;
            self.starting.set(false);
        }
        if self.space.dead.load(Ordering::SeqCst) { Err(Errno::ESRCH) } else { Ok(()) }
    }

    /// The result of the command just done.
    pub(super) fn result(&self) -> SysResult<u64> {
        let result = self.slot().result();
        if (-4095..0).contains(&result) {
            return Err(Errno::from_raw(i32::try_from(-result).unwrap_or(0)));
        }
        Ok(result.cast_unsigned())
    }

    /// Makes system calls in the stub that need no file.
    pub(super) fn calls(&self, calls: &[memory::Call]) -> SysResult<()> {
        self.put(calls)?;
        self.wait_done()?;
        self.result().map(drop)
    }

    /// Tells the stub to make system calls.
    pub(super) fn put(&self, calls: &[memory::Call]) -> SysResult<()> {
        self.flush();
        self.ready()?;
        let described = self.described.take().map(|described| {
            memory::description(&described, slot_address(self.slot().index) + place_of_record(calls.len()))
        });
        let (more, count) = described.unwrap_or_default();
        self.put_records(0, calls.iter().chain(&more));
        self.slot().field(COUNT).store((calls.len() + count) as u32, Ordering::Relaxed);
        self.post(COMMAND_CALLS);
        Ok(())
    }

    /// Puts records behind the first `before`.
    pub(super) fn put_records<'a>(&self, before: usize, records: impl IntoIterator<Item = &'a memory::Call>) {
        for (index, word) in records.into_iter().flatten().enumerate() {
            self.slot().memory().store(BUFFER + CALL_SIZE * before + 8 * index, *word);
        }
    }

    /// Makes the first so many calls in the buffer.
    pub(super) fn call_recorded(&self, count: usize) -> SysResult<()> {
        self.slot().field(COUNT).store(count as u32, Ordering::Relaxed);
        self.post(COMMAND_CALLS);
        self.wait_done()?;
        self.result().map(drop)
    }

    /// Gives up the file that the process may map more of, once the kernel has closed it.
    pub(super) fn close_unused(&self) {
        if !self.space.holds.load(Ordering::Relaxed) {
            return;
        }
        // Who has it locked is not done with it.
        let Some(mut held) = self.space.files.try_lock() else { return };
        if held.take_if(|held| held.strong_count() == 0).is_some() {
            self.space.holds.store(false, Ordering::Relaxed);
            let _ = self.calls(&[memory::CLOSE]);
        }
    }

    /// Changes mappings, and hands the stub the files that it needs for that.
    pub(super) fn change_memory(&self, batch: &memory::Batch<'_>) -> SysResult<()> {
        if batch.files.is_empty() {
            return self.calls(&batch.calls);
        }
        self.ready()?;
        let expecting = self.space.shared.notifications.calls_of(self.thread.id);
        self.put(&batch.calls)?;
        for (index, file) in &batch.files {
            let arguments = &batch.calls[*index][1..7];
            let asked = expecting.call(Some(self.space.pidfd.as_fd()), libc::SYS_mmap, arguments);
            let answered = asked.and_then(|call| {
                if arguments == memory::ASK {
                    expecting.answer_with(&call, file.as_fd(), 0)
                } else {
                    expecting.proceed_with(&call, file.as_fd())
                }
            });
            if answered.is_err() {
                self.space.kill();
                return Err(Errno::ESRCH);
            }
        }
        drop(expecting);
        self.wait_done()?;
        self.result().map(drop)
    }

    /// Makes the stub start a host thread on `slot`; returns its id.
    pub(super) fn start_thread(&self, slot: &Slot) -> SysResult<i32> {
        let stack = slot_stack(slot.index);
        self.slot().memory().store(ARGUMENTS, stack);
        let expecting = self.space.shared.notifications.calls_of(self.thread.id);
        self.post(COMMAND_SPAWN);
        let process = Some(self.space.pidfd.as_fd());
        let answered = expecting
            .call(process, libc::SYS_clone, &[text::SPAWN_FLAGS, stack, 0, 0, 0])
            .and_then(|notification| expecting.proceed(&notification));
        drop(expecting);
        if answered.is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        self.wait_done()?;
        let id = i32::try_from(self.result()?).map_err(|_| Errno::ESRCH)?;
        // The stub's word is not enough: the id must at least be that of one of the process's threads.
        if self.space.signal_thread(id, 0).is_err() {
            self.space.kill();
            return Err(Errno::ESRCH);
        }
        Ok(id)
    }
}
