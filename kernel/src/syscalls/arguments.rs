//! The types of system-call arguments: made from a raw register without failing, shown as text for `--strace`.
//!
//! A value that is out of range is still a value here; the function that takes it returns `EINVAL` at the place where
//! Linux does.

use std::fmt::Write as _;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::task::CurrentTask;
use crate::user::{UserPath, UserPtr};

/// What the stub may send along with the call, so that the kernel need not ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// Nothing: the value is all there is.
    None,
    /// A string that ends with a zero byte.
    String,
    /// So many bytes at the address.
    Bytes(usize),
}

/// The type of a system call's argument.
pub trait SysArg: Sized {
    /// What lies behind the value in guest memory and is read at the beginning of the call.
    const PREFETCH: Prefetch = Prefetch::None;

    /// The argument in this register.
    fn from_raw(raw: u64) -> Self;

    /// Appends the value as a reader of a trace wants it.
    fn show(raw: u64, task: &CurrentTask, out: &mut String);
}

macro_rules! integer {
    ($($type:ty),*) => {
        $(impl SysArg for $type {
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "registers are truncated")]
            fn from_raw(raw: u64) -> Self {
                raw as $type
            }
            fn show(raw: u64, _task: &CurrentTask, out: &mut String) {
                let value = Self::from_raw(raw);
                let _ = if (0..65536).contains(&i128::from(value)) || i128::from(value) < 0 {
                    write!(out, "{value}")
                } else {
                    write!(out, "{value:#x}")
                };
            }
        })*
    };
}

integer!(i32, u32, i64, u64);

impl SysArg for usize {
    fn from_raw(raw: u64) -> Self {
        raw as usize
    }
    fn show(raw: u64, task: &CurrentTask, out: &mut String) {
        <u64 as SysArg>::show(raw, task, out);
    }
}

/// A file descriptor number, or `AT_FDCWD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(pub i32);

impl Fd {
    /// `AT_FDCWD`: the current working directory.
    pub const CWD: Fd = Fd(-100);
}

impl SysArg for Fd {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "registers are truncated")]
    fn from_raw(raw: u64) -> Self {
        Fd(raw as i32)
    }
    fn show(raw: u64, _task: &CurrentTask, out: &mut String) {
        let fd = Self::from_raw(raw);
        let _ = if fd == Fd::CWD { write!(out, "AT_FDCWD") } else { write!(out, "{}", fd.0) };
    }
}

impl<T: FromBytes + IntoBytes + Immutable> SysArg for UserPtr<T> {
    fn from_raw(raw: u64) -> Self {
        UserPtr::new(raw)
    }
    fn show(raw: u64, _task: &CurrentTask, out: &mut String) {
        let _ = if raw == 0 { write!(out, "NULL") } else { write!(out, "{raw:#x}") };
    }
}

impl SysArg for UserPath {
    const PREFETCH: Prefetch = Prefetch::String;

    fn from_raw(raw: u64) -> Self {
        UserPath(raw)
    }
    fn show(raw: u64, task: &CurrentTask, out: &mut String) {
        let _ = match task.read_string(raw, 4096) {
            Ok(bytes) => write!(out, "{:?}", String::from_utf8_lossy(&bytes)),
            Err(_) => write!(out, "{raw:#x}"),
        };
    }
}

/// Flags in hexadecimal, for arguments that no type describes better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl SysArg for Flags {
    #[allow(clippy::cast_possible_truncation, reason = "registers are truncated")]
    fn from_raw(raw: u64) -> Self {
        Flags(raw as u32)
    }
    fn show(raw: u64, _task: &CurrentTask, out: &mut String) {
        let _ = write!(out, "{raw:#x}");
    }
}

/// Makes a `bitflags` type of `u32` bits a system-call argument: unknown bits are kept, shown by name.
#[allow(unused_macros, reason = "used as flag types are added")]
macro_rules! flag_argument {
    ($type:ty) => {
        impl $crate::syscalls::SysArg for $type {
            #[allow(clippy::cast_possible_truncation, reason = "registers are truncated")]
            fn from_raw(raw: u64) -> Self {
                <$type>::from_bits_retain(raw as _)
            }
            fn show(raw: u64, _task: &$crate::task::CurrentTask, out: &mut String) {
                let value = <Self as $crate::syscalls::SysArg>::from_raw(raw);
                if value.is_empty() {
                    out.push('0');
                } else {
                    let _ = bitflags::parser::to_writer(&value, out);
                }
            }
        }
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use flag_argument;
