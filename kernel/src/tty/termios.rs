//! The settings of a terminal, `termios(3)`.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// Input modes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InputModes: u32 {
        /// Break interrupts.
        const BRKINT = 0o2;
        /// Strips the eighth bit.
        const ISTRIP = 0o40;
        /// Newline becomes carriage return.
        const INLCR = 0o100;
        /// Carriage return is dropped.
        const IGNCR = 0o200;
        /// Carriage return becomes newline.
        const ICRNL = 0o400;
        /// Upper case becomes lower case.
        const IUCLC = 0o1000;
        /// Stop and start characters hold output.
        const IXON = 0o2000;
        /// Any character starts held output.
        const IXANY = 0o4000;
        /// Input is UTF-8.
        const IUTF8 = 0o40000;
    }
}

bitflags! {
    /// Output modes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OutputModes: u32 {
        /// Output is processed at all.
        const OPOST = 0o1;
        /// Lower case becomes upper case.
        const OLCUC = 0o2;
        /// Newline becomes carriage return and newline.
        const ONLCR = 0o4;
        /// Carriage return becomes newline.
        const OCRNL = 0o10;
        /// No carriage return at the beginning of a line.
        const ONOCR = 0o20;
        /// Newline returns the carriage.
        const ONLRET = 0o40;
        /// Tabs become spaces.
        const XTABS = 0o14000;
    }
}

bitflags! {
    /// Local modes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LocalModes: u32 {
        /// Characters send signals.
        const ISIG = 0o1;
        /// Input comes by lines, which can be edited.
        const ICANON = 0o2;
        /// Input is echoed.
        const ECHO = 0o10;
        /// Erased characters vanish.
        const ECHOE = 0o20;
        /// The kill character is followed by a newline.
        const ECHOK = 0o40;
        /// Newlines are echoed in any case.
        const ECHONL = 0o100;
        /// Signals do not flush.
        const NOFLSH = 0o200;
        /// Output from the background stops its process.
        const TOSTOP = 0o400;
        /// Control characters are echoed as `^X`.
        const ECHOCTL = 0o1000;
        /// Killed lines vanish.
        const ECHOKE = 0o4000;
        /// Implementation-defined characters work.
        const IEXTEN = 0o100_000;
    }
}

/// Special characters: their places in [`Termios::characters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of termios(3)")]
#[repr(usize)]
pub enum Special {
    Interrupt = 0,
    Quit = 1,
    Erase = 2,
    Kill = 3,
    EndOfFile = 4,
    Time = 5,
    Minimum = 6,
    Start = 8,
    Stop = 9,
    Suspend = 10,
    EndOfLine = 11,
    Reprint = 12,
    WordErase = 14,
    LiteralNext = 15,
    EndOfLine2 = 16,
}

/// `struct termios` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    /// [`InputModes`]
    pub input: u32,
    /// [`OutputModes`]
    pub output: u32,
    /// Speeds and the like, which nothing here depends on.
    pub control: u32,
    /// [`LocalModes`]
    pub local: u32,
    /// The number of the line discipline.
    pub line: u8,
    /// The special characters; zero for none.
    pub characters: [u8; 19],
}

impl Default for Termios {
    /// What Linux gives a new pseudo-terminal.
    fn default() -> Termios {
        const B38400: u32 = 0o17;
        const CS8: u32 = 0o60;
        const CREAD: u32 = 0o200;
        let local = LocalModes::ISIG
            | LocalModes::ICANON
            | LocalModes::ECHO
            | LocalModes::ECHOE
            | LocalModes::ECHOK
            | LocalModes::ECHOCTL
            | LocalModes::ECHOKE
            | LocalModes::IEXTEN;
        Termios {
            input: (InputModes::ICRNL | InputModes::IXON).bits(),
            output: (OutputModes::OPOST | OutputModes::ONLCR).bits(),
            control: B38400 | CS8 | CREAD,
            local: local.bits(),
            line: 0,
            characters: [
                3, 0o34, 0o177, 0o25, 4, 0, 1, 0, 0o21, 0o23, 0o32, 0, 0o22, 0o17, 0o27, 0o26, 0, 0, 0,
            ],
        }
    }
}

impl Termios {
    /// Input modes.
    pub fn input(&self) -> InputModes {
        InputModes::from_bits_retain(self.input)
    }

    /// Output modes.
    pub fn output(&self) -> OutputModes {
        OutputModes::from_bits_retain(self.output)
    }

    /// Local modes.
    pub fn local(&self) -> LocalModes {
        LocalModes::from_bits_retain(self.local)
    }

    /// A special character.
    pub fn character(&self, which: Special) -> u8 {
        self.characters[which as usize]
    }

    /// Whether `byte` is this special character; zero is none.
    pub fn is(&self, which: Special, byte: u8) -> bool {
        byte != 0 && self.character(which) == byte
    }
}

/// `struct termios2`: with speeds as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios2 {
    /// The rest.
    pub common: Termios,
    /// Speed of input.
    pub input_speed: u32,
    /// Speed of output.
    pub output_speed: u32,
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
}
