//! Character devices by number: null, zero, full, random, and the names that stand for terminals.

use std::sync::Arc;

use abi::fs::{OpenFlags, make_device};
use abi::{Errno, SysResult};

use super::{AT_END, File, Mappable, OpenFile};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::tty::terminal::Slave;
use crate::user::{UserReader, UserWriter};

/// `/dev/null`
pub const NULL: u64 = make_device(1, 3);
/// `/dev/zero`
pub const ZERO: u64 = make_device(1, 5);
/// `/dev/full`
pub const FULL: u64 = make_device(1, 7);
/// `/dev/tty`: the controlling terminal
pub const TTY: u64 = make_device(5, 0);
/// `/dev/console`
pub const CONSOLE: u64 = make_device(5, 1);
/// `/dev/random`
pub const RANDOM: u64 = make_device(1, 8);
/// `/dev/urandom`
pub const URANDOM: u64 = make_device(1, 9);

struct Memory(u64);

/// Opens the character device with this number: `ENXIO` if there is no driver.
pub fn open(task: Option<&CurrentTask>, device: u64) -> SyscallResult<Arc<dyn OpenFile>> {
    match device {
        NULL | ZERO | FULL | RANDOM | URANDOM => Ok(Arc::new(Memory(device))),
        TTY | CONSOLE => {
            let task = task.ok_or(Errno::ENXIO)?;
            let terminal = if device == TTY {
                task.group.terminal.lock().clone()
            } else {
                task.group.container.console.get().cloned()
            };
            Ok(Slave::open(&terminal.ok_or(Errno::ENXIO)?, Some(task), OpenFlags::NOCTTY, true)?)
        }
        _ => Err(Errno::ENXIO.into()),
    }
}

impl OpenFile for Memory {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, _offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        match self.0 {
            NULL => Ok(0),
            ZERO | FULL => Ok(to.fill(|chunk| {
                chunk.fill(0);
                Ok(chunk.len())
            })?),
            _ => Ok(to.fill(|chunk| {
                let mut done = 0;
                while done < chunk.len() {
                    done +=
                        rustix::rand::getrandom(&mut chunk[done..], rustix::rand::GetRandomFlags::empty())?;
                }
                Ok(done)
            })?),
        }
    }

    fn write_at(&self, _file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        if self.0 == FULL && from.remaining() > 0 {
            return Err(Errno::ENOSPC.into());
        }
        // What is written is not looked at, so it need not be copied.
        Ok((from.remaining(), if offset == AT_END { 0 } else { offset }))
    }

    fn seek(&self, _file: &File, _current: u64, _offset: i64, _whence: super::Whence) -> SysResult<u64> {
        Ok(0)
    }

    fn map(&self, _file: &File, _shared: bool, _writable: bool) -> SysResult<Mappable> {
        if self.0 == ZERO { Ok(Mappable::Anonymous) } else { Err(Errno::ENODEV) }
    }
}
