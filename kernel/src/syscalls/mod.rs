//! System calls: the table and what derives from it.
//!
//! The table has one row per call: its number on each architecture, its name, the names of its arguments, and how
//! much of it there is. The function of a row stands in the subsystem's `syscalls` module and takes the
//! [`CurrentTask`] and typed arguments ([`SysArg`]). Dispatch, strace text, `nacelle syscalls` and
//! `docs/syscalls.md` all come from the row and the function's signature.

use std::fmt::Write as _;

use crate::error::{SysError, SyscallResult};
use crate::seccomp;
use crate::task::CurrentTask;

pub mod arguments;
pub mod strace;
mod table;

pub use arguments::{Fd, SysArg};
pub use strace::{Strace, StraceFilter};
pub use table::TABLE;

/// One row of the table, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallInfo {
    /// The number on x86-64.
    pub number: u32,
    /// The number on arm64, where the call exists.
    pub arm64: Option<u32>,
    /// The name, as in its man page.
    pub name: &'static str,
    /// The names of the arguments.
    pub arguments: &'static [&'static str],
    /// How much of it there is.
    pub support: Support,
}

/// How much of a system call there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// What the man page says.
    Full,
    /// Most; the text says what is missing.
    Partial(&'static str),
    /// It returns `ENOSYS`.
    None,
}

/// The row of the call with this number.
pub fn lookup(number: u64) -> Option<&'static SyscallInfo> {
    TABLE.binary_search_by_key(&number, |row| u64::from(row.number)).ok().map(|index| &TABLE[index])
}

/// What a function of the table may return besides a number.
pub trait SysReturn {
    /// The result as the guest sees it.
    fn into_result(self) -> SyscallResult;
}

impl<T: ReturnValue, E: Into<SysError>> SysReturn for Result<T, E> {
    fn into_result(self) -> SyscallResult {
        self.map(ReturnValue::into_raw).map_err(Into::into)
    }
}

/// A value that a system call returns.
pub trait ReturnValue {
    /// The value of the result register.
    fn into_raw(self) -> u64;
}

impl ReturnValue for () {
    fn into_raw(self) -> u64 {
        0
    }
}

impl ReturnValue for u64 {
    fn into_raw(self) -> u64 {
        self
    }
}

impl ReturnValue for u32 {
    fn into_raw(self) -> u64 {
        u64::from(self)
    }
}

impl ReturnValue for usize {
    fn into_raw(self) -> u64 {
        self as u64
    }
}

impl ReturnValue for i64 {
    fn into_raw(self) -> u64 {
        self.cast_unsigned()
    }
}

impl ReturnValue for i32 {
    fn into_raw(self) -> u64 {
        i64::from(self).cast_unsigned()
    }
}

impl ReturnValue for Fd {
    fn into_raw(self) -> u64 {
        self.0.into_raw()
    }
}

/// A function of the table: calls it with raw arguments, and shows them.
trait Handler {
    fn call(self, task: &CurrentTask, raw: &[u64; 6]) -> SyscallResult;
    fn show(self, names: &[&str], task: &CurrentTask, raw: &[u64; 6], out: &mut String);
}

macro_rules! handler {
    ($($T:ident $i:literal),*) => {
        impl<$($T: SysArg,)* R: SysReturn> Handler for fn(&CurrentTask $(, $T)*) -> R {
            #[inline(always)]
            fn call(self, task: &CurrentTask, _raw: &[u64; 6]) -> SyscallResult {
                self(task $(, $T::from_raw(_raw[$i]))*).into_result()
            }
            fn show(self, _names: &[&str], _task: &CurrentTask, _raw: &[u64; 6], _out: &mut String) {
                $(
                    if $i > 0 {
                        _out.push_str(", ");
                    }
                    let _ = write!(_out, "{}=", _names.get($i).unwrap_or(&"?"));
                    $T::show(_raw[$i], _task, _out);
                )*
            }
        }
    };
}

handler!();
handler!(A 0);
handler!(A 0, B 1);
handler!(A 0, B 1, C 2);
handler!(A 0, B 1, C 2, D 3);
handler!(A 0, B 1, C 2, D 3, E 4);
handler!(A 0, B 1, C 2, D 3, E 4, F 5);

macro_rules! inferred {
    ($argument:ident) => {
        _
    };
}
macro_rules! call {
    ($name:ident ($($argument:ident),*) none $task:ident $raw:ident) => {
        Err(SysError::Errno(abi::Errno::ENOSYS))
    };
    ($name:ident ($($argument:ident),*) $support:tt $task:ident $raw:ident) => {
        (sys::$name as fn(&CurrentTask $(, inferred!($argument))*) -> _).call($task, $raw)
    };
}
macro_rules! show {
    ($name:ident ($($argument:ident),*) none $task:ident $raw:ident $out:ident) => {
        strace::show_unknown(&[$(stringify!($argument)),*], $raw, $out)
    };
    ($name:ident ($($argument:ident),*) $support:tt $task:ident $raw:ident $out:ident) => {
        (sys::$name as fn(&CurrentTask $(, inferred!($argument))*) -> _).show(
            &[$(stringify!($argument)),*], $task, $raw, $out,
        )
    };
}
macro_rules! support {
    (full) => {
        Support::Full
    };
    (partial $note:literal) => {
        Support::Partial($note)
    };
    (none) => {
        Support::None
    };
}
macro_rules! arm64 {
    (-) => {
        None
    };
    ($number:literal) => {
        Some($number)
    };
}
macro_rules! syscalls {
    ($($number:literal $arm64:tt $name:ident($($argument:ident),*) $support:tt $($note:literal)?;)*) => {
        /// All system calls of Linux that have a number on x86-64, in the order of their numbers.
        pub static TABLE: &[SyscallInfo] = &[$(SyscallInfo {
            number: $number,
            arm64: arm64!($arm64),
            name: stringify!($name),
            arguments: &[$(stringify!($argument)),*],
            support: support!($support $($note)?),
        }),*];

        /// Carries out the call with this number.
        pub(super) fn call(number: u64, task: &CurrentTask, raw: &[u64; 6]) -> SyscallResult {
            match number {
                $($number => call!($name($($argument),*) $support task raw),)*
                _ => Err(SysError::Errno(abi::Errno::ENOSYS)),
            }
        }

        /// Appends the arguments of the call with this number as text.
        pub(super) fn show(number: u64, task: &CurrentTask, raw: &[u64; 6], out: &mut String) {
            match number {
                $($number => show!($name($($argument),*) $support task raw out),)*
                _ => strace::show_unknown(&["?"; 6], raw, out),
            }
        }
    };
}
pub(crate) use {arm64, call, inferred, show, support, syscalls};

/// Serves the system call that `task` is in: its result, or how it is to be restarted.
pub fn dispatch(task: &CurrentTask) -> SyscallResult {
    let call = || {
        let context = task.context.borrow();
        let registers = context.registers();
        // The number is a 32-bit value in Linux; the upper half of the register is ignored.
        (registers.orig_rax & 0xffff_ffff, registers.arguments())
    };
    let (number, raw) = call();
    let traced = task.kernel.strace.as_ref().filter(|strace| strace.wants(number));
    let entry = traced.map(|strace| strace.enter(task, number, &raw));
    let decision = match task.seccomp.is_active() {
        true => seccomp::check(task),
        false => seccomp::Decision::Serve,
    };
    let result = match decision {
        // A tracer may have made it another call.
        seccomp::Decision::Serve if task.ptrace.is_traced() => {
            let (number, raw) = call();
            table::call(number, task, &raw)
        }
        seccomp::Decision::Serve => table::call(number, task, &raw),
        seccomp::Decision::Skip(result) => result,
    };
    if let (Some(strace), Some(entry)) = (traced, entry) {
        strace.leave(task, entry, &result);
    }
    if result == Err(SysError::Errno(abi::Errno::ENOSYS)) {
        task.kernel.unimplemented.count(number, &raw);
    }
    result
}
