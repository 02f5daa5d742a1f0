//! The commands, one per file: the arguments, and a function that carries them out.

pub mod do_;
pub mod run;
pub mod syscalls;

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context;
use host::rustix::fs::{Mode, OFlags, open};
use kernel::fs::mount::MountFlags;
use sandbox::{Mount, MountKind, Streams};

/// A descriptor that names a directory or file of the host.
pub fn open_path(path: &Path) -> anyhow::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

/// A descriptor that names a directory of the host.
pub fn open_directory(path: &Path) -> anyhow::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open the directory {}", path.display()))
}

/// Our own standard streams for the program, or a terminal of its own between them.
pub fn own_streams(terminal: bool) -> anyhow::Result<Streams> {
    let stdio = [host::rustix::stdio::stdin(), host::rustix::stdio::stdout(), host::rustix::stdio::stderr()];
    let [input, output, error] = stdio.map(|stream| host::rustix::io::fcntl_dupfd_cloexec(stream, 3).ok());
    if !terminal {
        return Ok(Streams::Files([input, output, error]));
    }
    let input = input.context("a terminal needs standard input, which is closed")?;
    let output = output.context("a terminal needs standard output, which is closed")?;
    Ok(Streams::Terminal { input, output })
}

/// The mounts that every sandbox has unless it says otherwise.
pub fn usual_mounts() -> Vec<Mount> {
    let hidden = MountFlags::NO_SUID | MountFlags::NO_DEV | MountFlags::NO_EXEC;
    let mount = |destination: &str, kind, flags| Mount { destination: destination.to_owned(), kind, flags };
    let memory = |mode| MountKind::Memory { size: 0, mode };
    vec![
        mount("/proc", MountKind::Processes, hidden),
        mount("/dev", MountKind::Devices, MountFlags::NO_SUID),
        mount("/dev/pts", MountKind::Terminals, MountFlags::NO_SUID | MountFlags::NO_EXEC),
        mount("/dev/shm", memory(0o1777), MountFlags::NO_SUID | MountFlags::NO_DEV),
        mount("/dev/mqueue", memory(0o1777), hidden),
        mount("/sys", MountKind::System, hidden | MountFlags::READ_ONLY),
    ]
}
