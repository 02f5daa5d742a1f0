//! What the standard streams of a program are connected to: the caller's, its terminal, or one of their own.

use std::os::fd::OwnedFd;
use std::path::Path;

use sandbox::spec::{Descriptor, Streams};
use sandbox::terminal::RawMode;

use crate::console::Console;
use crate::convert::Parcel;
use crate::error::{Error, Result};
use crate::spec::ProcessConfig;

/// The caller's standard streams for a program, or a terminal.
pub(super) fn streams(
    process: &ProcessConfig,
    console_socket: Option<&Path>,
    parcel: &mut Parcel,
) -> Result<Streams> {
    if !process.terminal {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let mut files = Vec::new();
        for (number, stream) in own.into_iter().enumerate() {
            // Where the caller has none, neither has the program; but then the later ones must not take its place.
            let copy = rustix::io::fcntl_dupfd_cloexec(stream, 3).or_else(|_| {
                rustix::fs::open(
                    "/dev/null",
                    rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
                    0.into(),
                )
            });
            let copy = copy.map_err(Error::host("use the standard streams"))?;
            files.push((number as u32, parcel.add(copy)));
        }
        return Ok(Streams::Files(files));
    }
    let (input, output) = match console_socket {
        Some(socket) => {
            let terminal = Console::open(process.console_size)?.hand_over(socket)?;
            // The settings that matter are those of the terminal inside.
            let mut settings =
                rustix::termios::tcgetattr(&terminal).map_err(Error::host("use the terminal"))?;
            settings.make_raw();
            rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &settings)
                .map_err(Error::host("use the terminal"))?;
            let copy = terminal.try_clone().map_err(Error::host("use the terminal"))?;
            (terminal, copy)
        }
        None => {
            let copy = |stream| rustix::io::fcntl_dupfd_cloexec(stream, 3);
            let input =
                copy(rustix::stdio::stdin()).map_err(Error::host("use standard input as a terminal"))?;
            let output =
                copy(rustix::stdio::stdout()).map_err(Error::host("use standard output as a terminal"))?;
            (input, output)
        }
    };
    let (input, output) = (parcel.add(input), parcel.add(output));
    Ok(Streams::Terminal { input, output, settings: None, size: process.console_size })
}

/// Puts the caller's own terminal into raw mode if it is what a program's terminal is connected to.
pub(super) fn own_terminal(
    streams: &mut Streams,
    console_socket: Option<&Path>,
    parcel: &Parcel,
) -> Result<Option<RawMode>> {
    let Streams::Terminal { input, settings, .. } = streams else { return Ok(None) };
    let (None, Some(input)) = (console_socket, parcel.descriptors.get(input.0)) else { return Ok(None) };
    let raw = RawMode::enter(input).map_err(Error::host("use the caller's terminal"))?;
    *settings = raw.as_ref().map(RawMode::settings);
    Ok(raw)
}

/// A descriptor of the host's terminal behind a program's streams, for its stand-in.
pub(super) fn terminal_of(streams: &Streams, parcel: &Parcel) -> Result<Option<OwnedFd>> {
    let Streams::Terminal { input: Descriptor(input), .. } = streams else { return Ok(None) };
    let descriptor = parcel.descriptors.get(*input).map(OwnedFd::try_clone).transpose();
    descriptor.map_err(Error::host("use the terminal"))
}
