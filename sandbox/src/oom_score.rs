//! Whom the host kills when it runs out of memory: it is to be the guest process that has too much of it, and not one that
//! all guests need.
//!
//! The memory of a guest process is that of a process of the host, the stub. Stubs get a score [`MARGIN`] higher than the
//! sandbox process. A privileged maker lowers the score of the sandbox process for that, and stubs have the maker's own;
//! others may not lower any, and stubs get a higher one. A guest sees nothing of it.

use std::fs::File;
use std::io::{self, Write};

/// How much higher the score of stubs is, in thousandths of the memory that there is.
const MARGIN: i32 = 500;
/// The lowest score of a process that can be killed.
const LOWEST: i32 = -999;
const HIGHEST: i32 = 1000;

/// The caller's own score, which what it starts inherits.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn own() -> io::Result<i32> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim().parse().map_err(io::Error::other)
}

/// Gives a process a score.
///
/// # Errors
/// What the host says: only a privileged process may lower one below what it was given.
pub fn write(pid: i32, score: i32) -> io::Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
}

/// Gives a process that stubs of score `stubs` need a lower one, if the caller may do so.
///
/// # Errors
/// As for [`write()`].
pub fn spare(pid: i32, stubs: i32) -> io::Result<()> {
    write(pid, (stubs - MARGIN).max(LOWEST))
}

/// The calling process has the score of stubs, for those to inherit it, until this is dropped.
pub(crate) struct AsStub {
    file: Option<File>,
    before: i32,
}

impl AsStub {
    /// Takes the score on. The maker's is `maker`; if ours is lower, somebody has [spared](spare) us.
    pub fn begin(maker: i32) -> AsStub {
        // Soon there will be no path to it any more.
        let file = File::options().write(true).open("/proc/self/oom_score_adj").ok();
        let before = own().unwrap_or(maker);
        let wanted = if before < maker { maker } else { (before + MARGIN).min(HIGHEST) };
        let mut score = AsStub { file, before };
        score.set(wanted);
        score
    }

    fn set(&mut self, score: i32) {
        // Without a procfs, all have the same.
        let _ = self.file.as_mut().map(|file| file.write_all(score.to_string().as_bytes()));
    }
}

impl Drop for AsStub {
    fn drop(&mut self) {
        // One's own earlier score may be taken back.
        self.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_have_a_higher_score_than_their_maker() {
        let before = own().unwrap();
        let score = AsStub::begin(before);
        assert_eq!(own().unwrap(), (before + MARGIN).min(HIGHEST));
        drop(score);
        assert_eq!(own().unwrap(), before);
        let spared = spare(std::process::id().cast_signed(), before).is_ok();
        if spared {
            let score = AsStub::begin(before);
            assert_eq!(own().unwrap(), before);
            drop(score);
            assert_eq!(own().unwrap(), (before - MARGIN).max(LOWEST));
            write(std::process::id().cast_signed(), before).unwrap();
        }
    }
}
