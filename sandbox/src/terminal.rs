//! The caller's terminal while a program has one of its own: it passes on everything and interprets nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use host::rustix::termios::{self, OptionalActions, SpecialCodeIndex};

use crate::spec::TerminalSettings;

/// A terminal of the host in raw mode, until this is dropped.
#[derive(Debug)]
pub struct RawMode {
    descriptor: OwnedFd,
    before: termios::Termios,
}

impl RawMode {
    /// Enters raw mode, `cfmakeraw(3)`. `None` if it is no terminal.
    pub fn enter(descriptor: &OwnedFd) -> io::Result<Option<RawMode>> {
        if !termios::isatty(descriptor) {
            return Ok(None);
        }
        let descriptor = descriptor.as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&descriptor)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&descriptor, OptionalActions::Drain, &raw)?;
        Ok(Some(RawMode { descriptor, before }))
    }

    /// The settings before, for the program's terminal.
    pub fn settings(&self) -> TerminalSettings {
        const CODES: [SpecialCodeIndex; 17] = [
            SpecialCodeIndex::VINTR,
            SpecialCodeIndex::VQUIT,
            SpecialCodeIndex::VERASE,
            SpecialCodeIndex::VKILL,
            SpecialCodeIndex::VEOF,
            SpecialCodeIndex::VTIME,
            SpecialCodeIndex::VMIN,
            SpecialCodeIndex::VSWTC,
            SpecialCodeIndex::VSTART,
            SpecialCodeIndex::VSTOP,
            SpecialCodeIndex::VSUSP,
            SpecialCodeIndex::VEOL,
            SpecialCodeIndex::VREPRINT,
            SpecialCodeIndex::VDISCARD,
            SpecialCodeIndex::VWERASE,
            SpecialCodeIndex::VLNEXT,
            SpecialCodeIndex::VEOL2,
        ];
        let mut characters = vec![0; 19];
        for (character, code) in characters.iter_mut().zip(CODES) {
            *character = self.before.special_codes[code];
        }
        TerminalSettings {
            input: self.before.input_modes.bits(),
            output: self.before.output_modes.bits(),
            control: self.before.control_modes.bits(),
            local: self.before.local_modes.bits(),
            characters,
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = termios::tcsetattr(&self.descriptor, OptionalActions::Drain, &self.before);
    }
}
