//! How the process in which the kernel runs and the one that counts its instructions tell each other where they are.
//!
//! Before a case, the kernel's thread writes its number to the standard output and waits for [`GO`] on the standard
//! input, which it reads byte by byte: only while it waits for the first one can it be stopped, and counting begins with
//! the last one. After the case it writes [`END`]. Nothing else touches these descriptors.

use rustix::stdio::{stdin, stdout};

/// What is waited for.
pub const GO: &[u8; 2] = b"go";
/// What is written after a case.
pub const END: &[u8] = b"end\n";

/// Counting is to begin; comes back when it has.
#[inline(never)]
pub fn counting_begins() {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    say(format!("{thread}\n").as_bytes());
    for _ in GO {
        let _ = rustix::io::read(stdin(), &mut [0; 1]);
    }
}

/// Counting is to end.
#[inline(never)]
pub fn counting_ends() {
    say(END);
}

fn say(text: &[u8]) {
    let _ = rustix::io::write(stdout(), text);
}
