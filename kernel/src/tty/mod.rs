//! Terminals: pseudo-terminal pairs, line disciplines, job control, `pty(7)`, `termios(3)`.
//!
//! [`discipline`] turns what is typed into what is read, and what is written into what is shown; it knows neither tasks
//! nor locks. [`terminal`] is a pair of ends around a discipline, with its session. [`devpts`] is the file system that
//! new pairs come from. [`console`] connects a pair's master end to a terminal of the host.

pub mod console;
pub mod devpts;
pub mod discipline;
pub mod terminal;
pub mod termios;

pub use devpts::DevPts;
pub use terminal::Terminal;
pub use termios::{Termios, WindowSize};
