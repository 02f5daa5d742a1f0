//! The conformance suite: guest programs in C (`guest/*.c`, one per subject) that assert what Linux does, and the
//! runner that compiles them, runs each one natively and inside `nacelle do`, and holds the results against
//! `expect.toml`.
//!
//! ```text
//! cargo test -p conformance --test conformance -- [FILTER...] [--native-only | --inside-only] [--jobs N] [--verbose]
//! ```
//!
//! A filter selects the cases whose `subject/case` contains it. The environment has three switches: `NACELLE` names
//! the binary to test (else the one in the cargo target directory), `CC` the compiler (else `gcc`), and
//! `NACELLE_REQUIRE_ALL=1` turns a run that had to be left out, for want of one of them, into a failure.
//!
//! The modules, from the bottom up: [`expectations`] reads the list of known failures, [`guest`] compiles the programs,
//! [`execution`] runs one and reads its report, [`runner`] judges the reports and prints the summary.

pub mod execution;
pub mod expectations;
pub mod guest;
pub mod runner;
