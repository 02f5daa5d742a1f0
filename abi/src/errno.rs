//! Error numbers of Linux, `errno(3)`.

use std::fmt;
use std::num::NonZeroU16;

/// An error number as Linux numbers them on all architectures that Nacelle knows.
///
/// The value is never zero and never above 4095, so that it can be returned to a guest as `-errno`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

/// The result of an operation that fails the way a system call does.
pub type SysResult<T> = Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident $value:literal $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno(NonZeroU16::new($value).unwrap());)*

            /// The symbolic name, such as `ENOENT`; `None` for a number that Linux does not use.
            pub fn name(self) -> Option<&'static str> {
                match self.0.get() {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What the number means, in the words of the Linux headers.
            pub fn message(self) -> &'static str {
                match self.0.get() {
                    $($value => $text,)*
                    _ => "unknown error",
                }
            }
        }
    };
}

errnos! {
    EPERM 1 "Operation not permitted";
    ENOENT 2 "No such file or directory";
    ESRCH 3 "No such process";
    EINTR 4 "Interrupted system call";
    EIO 5 "I/O error";
    ENXIO 6 "No such device or address";
    E2BIG 7 "Argument list too long";
    ENOEXEC 8 "Exec format error";
    EBADF 9 "Bad file number";
    ECHILD 10 "No child processes";
    EAGAIN 11 "Try again";
    ENOMEM 12 "Out of memory";
    EACCES 13 "Permission denied";
    EFAULT 14 "Bad address";
    ENOTBLK 15 "Block device required";
    EBUSY 16 "Device or resource busy";
    EEXIST 17 "File exists";
    EXDEV 18 "Cross-device link";
    ENODEV 19 "No such device";
    ENOTDIR 20 "Not a directory";
    EISDIR 21 "Is a directory";
    EINVAL 22 "Invalid argument";
    ENFILE 23 "File table overflow";
    EMFILE 24 "Too many open files";
    ENOTTY 25 "Not a typewriter";
    ETXTBSY 26 "Text file busy";
    EFBIG 27 "File too large";
    ENOSPC 28 "No space left on device";
    ESPIPE 29 "Illegal seek";
    EROFS 30 "Read-only file system";
    EMLINK 31 "Too many links";
    EPIPE 32 "Broken pipe";
    EDOM 33 "Math argument out of domain of func";
    ERANGE 34 "Math result not representable";
    EDEADLK 35 "Resource deadlock would occur";
    ENAMETOOLONG 36 "File name too long";
    ENOLCK 37 "No record locks available";
    ENOSYS 38 "Invalid system call number";
    ENOTEMPTY 39 "Directory not empty";
    ELOOP 40 "Too many symbolic links encountered";
    ENOMSG 42 "No message of desired type";
    EIDRM 43 "Identifier removed";
    ECHRNG 44 "Channel number out of range";
    EL2NSYNC 45 "Level 2 not synchronized";
    EL3HLT 46 "Level 3 halted";
    EL3RST 47 "Level 3 reset";
    ELNRNG 48 "Link number out of range";
    EUNATCH 49 "Protocol driver not attached";
    ENOCSI 50 "No CSI structure available";
    EL2HLT 51 "Level 2 halted";
    EBADE 52 "Invalid exchange";
    EBADR 53 "Invalid request descriptor";
    EXFULL 54 "Exchange full";
    ENOANO 55 "No anode";
    EBADRQC 56 "Invalid request code";
    EBADSLT 57 "Invalid slot";
    EBFONT 59 "Bad font file format";
    ENOSTR 60 "Device not a stream";
    ENODATA 61 "No data available";
    ETIME 62 "Timer expired";
    ENOSR 63 "Out of streams resources";
    ENONET 64 "Machine is not on the network";
    ENOPKG 65 "Package not installed";
    EREMOTE 66 "Object is remote";
    ENOLINK 67 "Link has been severed";
    EADV 68 "Advertise error";
    ESRMNT 69 "Srmount error";
    ECOMM 70 "Communication error on send";
    EPROTO 71 "Protocol error";
    EMULTIHOP 72 "Multihop attempted";
    EDOTDOT 73 "RFS specific error";
    EBADMSG 74 "Not a data message";
    EOVERFLOW 75 "Value too large for defined data type";
    ENOTUNIQ 76 "Name not unique on network";
    EBADFD 77 "File descriptor in bad state";
    EREMCHG 78 "Remote address changed";
    ELIBACC 79 "Can not access a needed shared library";
    ELIBBAD 80 "Accessing a corrupted shared library";
    ELIBSCN 81 ".lib section in a.out corrupted";
    ELIBMAX 82 "Attempting to link in too many shared libraries";
    ELIBEXEC 83 "Cannot exec a shared library directly";
    EILSEQ 84 "Illegal byte sequence";
    ERESTART 85 "Interrupted system call should be restarted";
    ESTRPIPE 86 "Streams pipe error";
    EUSERS 87 "Too many users";
    ENOTSOCK 88 "Socket operation on non-socket";
    EDESTADDRREQ 89 "Destination address required";
    EMSGSIZE 90 "Message too long";
    EPROTOTYPE 91 "Protocol wrong type for socket";
    ENOPROTOOPT 92 "Protocol not available";
    EPROTONOSUPPORT 93 "Protocol not supported";
    ESOCKTNOSUPPORT 94 "Socket type not supported";
    EOPNOTSUPP 95 "Operation not supported on transport endpoint";
    EPFNOSUPPORT 96 "Protocol family not supported";
    EAFNOSUPPORT 97 "Address family not supported by protocol";
    EADDRINUSE 98 "Address already in use";
    EADDRNOTAVAIL 99 "Cannot assign requested address";
    ENETDOWN 100 "Network is down";
    ENETUNREACH 101 "Network is unreachable";
    ENETRESET 102 "Network dropped connection because of reset";
    ECONNABORTED 103 "Software caused connection abort";
    ECONNRESET 104 "Connection reset by peer";
    ENOBUFS 105 "No buffer space available";
    EISCONN 106 "Transport endpoint is already connected";
    ENOTCONN 107 "Transport endpoint is not connected";
    ESHUTDOWN 108 "Cannot send after transport endpoint shutdown";
    ETOOMANYREFS 109 "Too many references: cannot splice";
    ETIMEDOUT 110 "Connection timed out";
    ECONNREFUSED 111 "Connection refused";
    EHOSTDOWN 112 "Host is down";
    EHOSTUNREACH 113 "No route to host";
    EALREADY 114 "Operation already in progress";
    EINPROGRESS 115 "Operation now in progress";
    ESTALE 116 "Stale file handle";
    EUCLEAN 117 "Structure needs cleaning";
    ENOTNAM 118 "Not a XENIX named type file";
    ENAVAIL 119 "No XENIX semaphores available";
    EISNAM 120 "Is a named type file";
    EREMOTEIO 121 "Remote I/O error";
    EDQUOT 122 "Quota exceeded";
    ENOMEDIUM 123 "No medium found";
    EMEDIUMTYPE 124 "Wrong medium type";
    ECANCELED 125 "Operation Canceled";
    ENOKEY 126 "Required key not available";
    EKEYEXPIRED 127 "Key has expired";
    EKEYREVOKED 128 "Key has been revoked";
    EKEYREJECTED 129 "Key was rejected by service";
    EOWNERDEAD 130 "Owner died";
    ENOTRECOVERABLE 131 "State not recoverable";
    ERFKILL 132 "Operation not possible due to RF-kill";
    EHWPOISON 133 "Memory page has hardware error";
}

impl Errno {
    /// Another name of `EAGAIN`.
    pub const EWOULDBLOCK: Errno = Errno::EAGAIN;
    /// Another name of `EOPNOTSUPP`.
    pub const ENOTSUP: Errno = Errno::EOPNOTSUPP;

    /// The error number for a raw host value; anything outside 1..=4095 becomes `EIO`.
    pub fn from_raw(raw: i32) -> Errno {
        match u16::try_from(raw) {
            Ok(value) if value <= 4095 => NonZeroU16::new(value).map_or(Errno::EIO, Errno),
            _ => Errno::EIO,
        }
    }

    /// The positive number.
    pub fn raw(self) -> i32 {
        i32::from(self.0.get())
    }

    /// The value that a system call returns for this error: the number, negated.
    pub fn to_ret(self) -> u64 {
        i64::from(self.raw()).wrapping_neg().cast_unsigned()
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        std::io::Error::from_raw_os_error(errno.raw())
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Errno::from_raw(errno.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        assert_eq!(Errno::ENOENT.raw(), 2);
        assert_eq!(Errno::ENOENT.name(), Some("ENOENT"));
        assert_eq!(Errno::ENOSYS.to_ret(), (-38i64).cast_unsigned());
        assert_eq!(Errno::EWOULDBLOCK, Errno::EAGAIN);
    }

    #[test]
    fn a_number_out_of_range_is_an_input_output_error() {
        assert_eq!(Errno::from_raw(0), Errno::EIO);
        assert_eq!(Errno::from_raw(-2), Errno::EIO);
        assert_eq!(Errno::from_raw(5000), Errno::EIO);
    }
}
