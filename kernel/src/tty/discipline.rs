//! The line discipline `N_TTY`: editing, echo, special characters, output processing.

use std::collections::VecDeque;

use abi::signal::Signal;

use super::termios::{InputModes, LocalModes, OutputModes, Special, Termios};

/// The longest line that can be edited, its end included.
const MAX_LINE: usize = 4096;
/// How much input waits for a reader before the other side must wait.
const MAX_READY: usize = 64 << 10;
/// How much output waits for the other side before writers must wait.
const MAX_OUTPUT: usize = 8 << 10;

/// The state of a terminal between its two ends.
#[derive(Default)]
pub struct Discipline {
    termios: Termios,
    /// What can be read.
    ready: VecDeque<u8>,
    /// In canonical mode, the lengths of the lines in `ready`. Zero is an end of file.
    lines: VecDeque<usize>,
    /// The line that is being typed.
    line: Vec<u8>,
    /// The column where it began.
    line_column: usize,
    /// Whether the next character is taken as it is.
    literal: bool,
    /// The column that output has reached.
    column: usize,
    /// Whether output is held.
    stopped: bool,
    output: VecDeque<u8>,
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

impl Discipline {
    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings. Input that is there stays: as one line, or as characters.
    pub fn set_termios(&mut self, new: Termios) {
        let was = self.canonical();
        self.termios = new;
        match (was, self.canonical()) {
            (true, false) => {
                self.ready.extend(self.line.drain(..));
                self.lines.clear();
                self.literal = false;
            }
            (false, true) if !self.ready.is_empty() => self.lines.push_back(self.ready.len()),
            _ => {}
        }
        if !self.termios.input().contains(InputModes::IXON) {
            self.stopped = false;
        }
    }

    fn canonical(&self) -> bool {
        self.termios.local().contains(LocalModes::ICANON)
    }

    fn local(&self, modes: LocalModes) -> bool {
        self.termios.local().contains(modes)
    }

    /// Whether output is held.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Holds output, or lets it go.
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// Whether the other side may send more.
    pub fn takes_input(&self) -> bool {
        self.ready.len() < MAX_READY
    }

    /// Takes what was typed; returns the signals that it means.
    pub fn input(&mut self, bytes: &[u8]) -> Vec<Signal> {
        let mut signals = Vec::new();
        for byte in bytes {
            signals.extend(self.input_byte(*byte));
        }
        signals
    }

    fn input_byte(&mut self, mut byte: u8) -> Option<Signal> {
        let modes = self.termios.input();
        if modes.contains(InputModes::ISTRIP) {
            byte &= 0x7f;
        }
        if modes.contains(InputModes::IUCLC) && self.local(LocalModes::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if std::mem::take(&mut self.literal) {
            self.put(byte);
            return None;
        }
        if modes.contains(InputModes::IXON) {
            if self.termios.is(Special::Start, byte) {
                self.stopped = false;
                return None;
            }
            if self.termios.is(Special::Stop, byte) {
                self.stopped = true;
                return None;
            }
            if self.stopped && modes.contains(InputModes::IXANY) {
                self.stopped = false;
            }
        }
        if self.local(LocalModes::ISIG) {
            let signal = [
                (Special::Interrupt, Signal::SIGINT),
                (Special::Quit, Signal::SIGQUIT),
                (Special::Suspend, Signal::SIGTSTP),
            ];
            if let Some((_, signal)) = signal.into_iter().find(|(special, _)| self.termios.is(*special, byte))
            {
                if !self.local(LocalModes::NOFLSH) {
                    self.flush_input();
                }
                if modes.contains(InputModes::IXON) {
                    self.stopped = false;
                }
                self.echo(byte);
                return Some(signal);
            }
        }
        match byte {
            b'\r' if modes.contains(InputModes::IGNCR) => return None,
            b'\r' if modes.contains(InputModes::ICRNL) => byte = b'\n',
            b'\n' if modes.contains(InputModes::INLCR) => byte = b'\r',
            _ => {}
        }
        if self.canonical() && self.edit(byte) {
            return None;
        }
        self.put(byte);
        None
    }

    /// Carries out an editing character; false if it is an ordinary one.
    fn edit(&mut self, byte: u8) -> bool {
        let extended = self.local(LocalModes::IEXTEN);
        if self.termios.is(Special::Erase, byte) {
            self.erase();
        } else if self.termios.is(Special::Kill, byte) {
            self.kill(byte);
        } else if extended && self.termios.is(Special::WordErase, byte) {
            self.erase_word();
        } else if extended && self.termios.is(Special::LiteralNext, byte) {
            self.literal = true;
            if self.local(LocalModes::ECHO | LocalModes::ECHOCTL) {
                self.show(b"^\x08");
            }
        } else if extended && self.local(LocalModes::ECHO) && self.termios.is(Special::Reprint, byte) {
            self.echo(byte);
            self.process(b'\n');
            for byte in self.line.clone() {
                self.echo(byte);
            }
        } else if byte == b'\n' {
            if self.local(LocalModes::ECHO) || self.local(LocalModes::ECHONL) {
                self.process_echo(b'\n');
            }
            self.end_line(Some(byte));
        } else if self.termios.is(Special::EndOfFile, byte) {
            self.end_line(None);
        } else if self.termios.is(Special::EndOfLine, byte)
            || (extended && self.termios.is(Special::EndOfLine2, byte))
        {
            self.echo(byte);
            self.end_line(Some(byte));
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, end: Option<u8>) {
        self.line.extend(end);
        self.lines.push_back(self.line.len());
        self.ready.extend(self.line.drain(..));
    }

    /// Adds an ordinary character.
    fn put(&mut self, byte: u8) {
        if self.canonical() {
            // The last place is for the line's end.
            if self.line.len() >= MAX_LINE - 1 {
                return;
            }
            if self.line.is_empty() {
                self.line_column = self.column;
            }
            self.echo(byte);
            self.line.push(byte);
        } else {
            self.echo(byte);
            self.ready.push_back(byte);
        }
    }

    fn is_control(byte: u8) -> bool {
        byte < 0x20 || byte == 0x7f
    }

    fn echo(&mut self, byte: u8) {
        if !self.local(LocalModes::ECHO) {
            return;
        }
        if self.local(LocalModes::ECHOCTL) && Self::is_control(byte) && byte != b'\t' && byte != b'\n' {
            self.show(&[b'^', byte ^ 0x40]);
        } else {
            self.process_echo(byte);
        }
    }

    /// Echoes a byte as output is processed, unless nobody has taken the echo for long.
    fn process_echo(&mut self, byte: u8) {
        if self.output.len() < 2 * MAX_OUTPUT {
            self.process(byte);
        }
    }

    /// Puts text on the screen as it is.
    fn show(&mut self, text: &[u8]) {
        if self.output.len() >= 2 * MAX_OUTPUT {
            return;
        }
        for byte in text {
            match byte {
                0x08 => self.column = self.column.saturating_sub(1),
                _ => self.column += 1,
            }
            self.output.push_back(*byte);
        }
    }

    /// The column behind the line as it was echoed.
    fn line_end(&self) -> usize {
        let utf8 = self.termios.input().contains(InputModes::IUTF8);
        self.line.iter().fold(self.line_column, |column, byte| match *byte {
            b'\t' => column + 8 - column % 8,
            byte if Self::is_control(byte) => column + 2 * usize::from(self.local(LocalModes::ECHOCTL)),
            byte if utf8 && is_continuation(byte) => column,
            _ => column + 1,
        })
    }

    /// Removes the last character; returns its first byte.
    fn pop(&mut self) -> Option<u8> {
        let utf8 = self.termios.input().contains(InputModes::IUTF8);
        loop {
            let byte = self.line.pop()?;
            if !(utf8 && is_continuation(byte)) {
                return Some(byte);
            }
        }
    }

    fn erase(&mut self) {
        let Some(byte) = self.pop() else { return };
        if !self.local(LocalModes::ECHO) {
            return;
        }
        if !self.local(LocalModes::ECHOE) {
            self.echo(self.termios.character(Special::Erase));
        } else if byte == b'\t' {
            let back = self.column.saturating_sub(self.line_end()).min(8);
            self.show(&b"\x08".repeat(back));
        } else if Self::is_control(byte) {
            if self.local(LocalModes::ECHOCTL) {
                self.show(b"\x08 \x08\x08 \x08");
            }
        } else {
            self.show(b"\x08 \x08");
        }
    }

    fn erase_word(&mut self) {
        let mut seen = false;
        while let Some(byte) = self.line.last() {
            let word = byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
            if seen && !word {
                break;
            }
            seen |= word;
            self.erase();
        }
    }

    fn kill(&mut self, byte: u8) {
        if self.local(LocalModes::ECHO | LocalModes::ECHOK | LocalModes::ECHOE | LocalModes::ECHOKE) {
            while !self.line.is_empty() {
                self.erase();
            }
            return;
        }
        self.line.clear();
        self.echo(byte);
        if self.local(LocalModes::ECHOK) && self.local(LocalModes::ECHO) {
            self.process_echo(b'\n');
        }
    }

    /// Drops what was typed and not read.
    pub fn flush_input(&mut self) {
        self.ready.clear();
        self.lines.clear();
        self.line.clear();
        self.literal = false;
    }

    /// Drops what was written and not taken.
    pub fn flush_output(&mut self) {
        self.output.clear();
    }

    /// How many bytes a read finds.
    pub fn readable_bytes(&self) -> usize {
        self.ready.len()
    }

    /// Whether a read finds something, by the rules of `poll(2)`.
    pub fn is_readable(&self) -> bool {
        if self.canonical() {
            return !self.lines.is_empty();
        }
        let timed = self.termios.character(Special::Time) != 0;
        let minimum = if timed { 1 } else { usize::from(self.termios.character(Special::Minimum)).max(1) };
        self.ready.len() >= minimum
    }

    /// Takes at most `room` bytes of input; `None` if a reader has to wait for more. With `now` it does not wait for
    /// the minimum that is set.
    pub fn read(&mut self, room: usize, now: bool) -> Option<Vec<u8>> {
        if self.canonical() {
            let length = self.lines.front_mut()?;
            let count = (*length).min(room);
            *length -= count;
            if *length == 0 {
                self.lines.pop_front();
            }
            return Some(self.ready.drain(..count).collect());
        }
        let minimum = usize::from(self.termios.character(Special::Minimum));
        let timed = self.termios.character(Special::Time) != 0;
        let wanted = match (minimum, timed) {
            (0, false) => 0,
            // The timer between bytes counts as expired at once: what is there is returned.
            (_, true) => 1,
            (minimum, false) if now => minimum.min(1),
            (minimum, false) => minimum.min(room),
        };
        if self.ready.len() < wanted {
            return None;
        }
        let count = self.ready.len().min(room);
        Some(self.ready.drain(..count).collect())
    }

    /// How long a read that finds nothing waits, in tenths of a second; `None` for ever.
    pub fn read_time(&self) -> Option<u8> {
        let time = self.termios.character(Special::Time);
        let limited = !self.canonical() && self.termios.character(Special::Minimum) == 0 && time != 0;
        limited.then_some(time)
    }

    /// Whether a write would be taken.
    pub fn takes_output(&self) -> bool {
        !self.stopped && self.output.len() < MAX_OUTPUT
    }

    /// Takes what a program writes.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.process(*byte);
        }
    }

    fn process(&mut self, byte: u8) {
        let modes = self.termios.output();
        if !modes.contains(OutputModes::OPOST) {
            self.output.push_back(byte);
            return;
        }
        match byte {
            b'\n' => {
                if modes.contains(OutputModes::ONLCR) {
                    self.output.push_back(b'\r');
                }
                if modes.intersects(OutputModes::ONLCR | OutputModes::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' if modes.contains(OutputModes::ONOCR) && self.column == 0 => {}
            b'\r' if modes.contains(OutputModes::OCRNL) => {
                if modes.contains(OutputModes::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' => {
                self.column = 0;
                self.output.push_back(b'\r');
            }
            b'\t' => {
                let width = 8 - self.column % 8;
                self.column += width;
                if modes.contains(OutputModes::XTABS) {
                    self.output.extend(std::iter::repeat_n(b' ', width));
                } else {
                    self.output.push_back(b'\t');
                }
            }
            0x08 => {
                self.column = self.column.saturating_sub(1);
                self.output.push_back(byte);
            }
            _ => {
                let upper = modes.contains(OutputModes::OLCUC);
                let continued = self.termios.input().contains(InputModes::IUTF8) && is_continuation(byte);
                if !Self::is_control(byte) && !continued {
                    self.column += 1;
                }
                self.output.push_back(if upper { byte.to_ascii_uppercase() } else { byte });
            }
        }
    }

    /// How many bytes of output the other side finds.
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// Takes at most `room` bytes of output.
    pub fn take_output(&mut self, room: usize) -> Vec<u8> {
        let count = self.output.len().min(room);
        self.output.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(text: &[u8]) -> (Discipline, Vec<Signal>) {
        let mut discipline = Discipline::default();
        let signals = discipline.input(text);
        (discipline, signals)
    }

    #[test]
    fn a_line_is_read_once_it_is_complete() {
        let (mut discipline, _) = typed(b"ab");
        assert_eq!(discipline.read(10, false), None);
        discipline.input(b"c\rnext\n");
        assert_eq!(discipline.read(2, false), Some(b"ab".to_vec()));
        assert_eq!(discipline.read(10, false), Some(b"c\n".to_vec()));
        assert_eq!(discipline.read(10, false), Some(b"next\n".to_vec()));
        assert_eq!(discipline.read(10, false), None);
    }

    #[test]
    fn editing_shows_what_it_removes() {
        let (mut discipline, _) = typed(b"a\tb\x7f\x7f\x01\x7fc\n");
        assert_eq!(discipline.read(10, false), Some(b"ac\n".to_vec()));
        let shown = discipline.take_output(100);
        assert_eq!(shown, b"a\tb\x08 \x08\x08\x08\x08\x08\x08\x08\x08^A\x08 \x08\x08 \x08c\r\n");
    }

    #[test]
    fn a_character_of_several_bytes_is_erased_at_once() {
        let mut discipline = Discipline::default();
        let termios =
            Termios { input: Termios::default().input | InputModes::IUTF8.bits(), ..Termios::default() };
        discipline.set_termios(termios);
        discipline.input("aé\x7f\n".as_bytes());
        assert_eq!(discipline.read(10, false), Some(b"a\n".to_vec()));
    }

    #[test]
    fn signals_drop_the_line() {
        let (mut discipline, signals) = typed(b"abc\x03d\n");
        assert_eq!(signals, [Signal::SIGINT]);
        assert_eq!(discipline.read(10, false), Some(b"d\n".to_vec()));
    }

    #[test]
    fn changing_the_mode_keeps_the_input() {
        let (mut discipline, _) = typed(b"line\npart");
        let raw = Termios { local: 0, ..Termios::default() };
        discipline.set_termios(raw);
        assert_eq!(discipline.read(4, false), Some(b"line".to_vec()));
        discipline.set_termios(Termios::default());
        assert_eq!(discipline.read(20, false), Some(b"\npart".to_vec()));
    }

    proptest! {
        #[test]
        fn nothing_typed_makes_it_fail(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            modes in any::<[u32; 3]>(),
            characters in any::<[u8; 19]>(),
        ) {
            let mut discipline = Discipline::default();
            for modes in [modes, [0; 3], [u32::MAX; 3]] {
                let [input, output, local] = modes;
                discipline.set_termios(Termios { input, output, local, characters, ..Termios::default() });
                discipline.input(&bytes);
                discipline.write(&bytes);
                while discipline.read(7, true).is_some_and(|read| !read.is_empty()) {}
                discipline.take_output(usize::MAX);
            }
        }
    }
}
