//! `ETXTBSY`: a file is open for writing or runs as a program, not both.

use std::sync::atomic::{AtomicI32, Ordering};

use abi::{Errno, SysResult};

use super::InodeRef;

/// How many writers an inode has; negative for how many programs run from it.
#[derive(Default)]
pub struct TextUse(AtomicI32);

/// One use of an inode, which ends when it is dropped.
pub struct TextGuard {
    inode: InodeRef,
    step: i32,
}

impl TextGuard {
    /// The use by somebody who may write: `ETXTBSY` while it runs as a program.
    pub fn write(inode: &InodeRef) -> SysResult<TextGuard> {
        TextGuard::take(inode, 1)
    }

    /// The use as a program: `ETXTBSY` while somebody has it open for writing.
    pub fn run(inode: &InodeRef) -> SysResult<TextGuard> {
        TextGuard::take(inode, -1)
    }

    fn take(inode: &InodeRef, step: i32) -> SysResult<TextGuard> {
        let changed = inode.common().text.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |uses| {
            if uses.signum() == -step { None } else { uses.checked_add(step) }
        });
        changed.map_err(|_| Errno::ETXTBSY)?;
        Ok(TextGuard { inode: InodeRef::clone(inode), step })
    }
}

impl Drop for TextGuard {
    fn drop(&mut self) {
        self.inode.common().text.0.fetch_sub(self.step, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileSystem;
    use crate::fs::memfs::{MemFs, MemOptions};

    #[test]
    fn writers_and_programs_exclude_each_other() {
        let inode = MemFs::tmpfs(MemOptions::default()).root();
        let writers = [TextGuard::write(&inode), TextGuard::write(&inode)];
        assert_eq!(TextGuard::run(&inode).err(), Some(Errno::ETXTBSY));
        drop(writers);
        let programs = [TextGuard::run(&inode), TextGuard::run(&inode)];
        assert_eq!(TextGuard::write(&inode).err(), Some(Errno::ETXTBSY));
        drop(programs);
        assert!(TextGuard::write(&inode).is_ok());
    }
}
