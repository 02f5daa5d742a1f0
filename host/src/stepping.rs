//! Going through the instructions of another process's thread one by one, with `ptrace(2)`.

use std::io;
use std::ptr::null_mut;

/// A thread of another process that was taken hold of. It goes on by itself when this is dropped.
pub struct Stepped {
    process: i32,
    thread: i32,
    running: bool,
}

/// Where a stopped thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The address of its next instruction.
    pub instruction: u64,
    /// The number of the system call, if the instruction makes one.
    pub call: u64,
    /// Its first argument.
    pub argument: u64,
}

impl Stepped {
    /// Takes hold of a thread of a child, and stops it.
    pub fn seize(process: i32, thread: i32) -> io::Result<Stepped> {
        request(libc::PTRACE_SEIZE, thread, 0)?;
        let mut stepped = Stepped { process, thread, running: true };
        stepped.stop()?;
        Ok(stepped)
    }

    /// Stops it again after [`Stepped::go_on`].
    pub fn stop(&mut self) -> io::Result<()> {
        request(libc::PTRACE_INTERRUPT, self.thread, 0)?;
        self.running = false;
        self.wait()
    }

    /// Lets it run.
    pub fn go_on(&mut self) -> io::Result<()> {
        self.running = true;
        request(libc::PTRACE_CONT, self.thread, 0)
    }

    /// Has it execute one instruction, system calls as a whole.
    pub fn step(&self) -> io::Result<()> {
        request(libc::PTRACE_SINGLESTEP, self.thread, 0)?;
        self.wait()
    }

    /// Where it is.
    pub fn position(&self) -> io::Result<Position> {
        // SAFETY: all registers are numbers, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let to = (&raw mut registers).cast::<libc::c_void>();
        // SAFETY: `to` points to a place for what the request writes.
        let result =
            unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.thread, null_mut::<libc::c_void>(), to) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        let libc::user_regs_struct { rip, rax, rdi, .. } = registers;
        Ok(Position { instruction: rip, call: rax, argument: rdi })
    }

    /// Reads its memory, as far as it is accessible; returns how many bytes.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        crate::process::read_memory(self.process, address, buffer)
    }

    /// Waits until it has stopped.
    fn wait(&self) -> io::Result<()> {
        let mut status = 0;
        // SAFETY: `status` is a place for the result.
        let waited = unsafe { libc::waitpid(self.thread, &mut status, libc::__WALL) };
        if waited == -1 {
            return Err(io::Error::last_os_error());
        }
        if libc::WIFSTOPPED(status) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // If it is gone there is nothing to be done; one that runs cannot be let go.
        if self.running && self.stop().is_err() {
            return;
        }
        let _ = request(libc::PTRACE_DETACH, self.thread, 0);
    }
}

fn request(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests made here writes to memory of this process.
    let result =
        unsafe { libc::ptrace(request, thread, null_mut::<libc::c_void>(), data as *mut libc::c_void) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_on_instruction_by_instruction() {
        // Never in a call that takes long, be it that it has just begun or not.
        let busy = ["-c", "while :; do :; done"];
        let mut child = std::process::Command::new("/bin/sh").args(busy).spawn().unwrap();
        let id = child.id().try_into().unwrap();
        let stepped = Stepped::seize(id, id).unwrap();
        let mut at = stepped.position().unwrap().instruction;
        for _ in 0..100 {
            stepped.step().unwrap();
            let next = stepped.position().unwrap().instruction;
            let mut code = [0; 8];
            assert_eq!(stepped.read(at, &mut code), code.len());
            at = next;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
