//! Which of the caller's open files a program gets.

use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use container::Files;

/// The flags for it, of `create`, `run` and `exec`.
#[derive(Args)]
pub struct Passing {
    /// Pass the first N descriptors after the standard streams, under the same numbers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Pass descriptor HOST as GUEST.
    #[arg(long = "pass-fd", value_name = "HOST:GUEST")]
    pass_fds: Vec<Pair>,
    /// Run the file behind this descriptor instead of the one that the first argument names.
    #[arg(long, value_name = "HOST")]
    exec_fd: Option<i32>,
}

/// A descriptor outside and its number inside.
#[derive(Clone, Copy)]
struct Pair {
    host: i32,
    guest: u32,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Pair, String> {
        let (host, guest) = text.split_once(':').unwrap_or((text, text));
        match (host.parse(), guest.parse()) {
            (Ok(host @ 0..), Ok(guest)) => Ok(Pair { host, guest }),
            _ => Err("expected HOST:GUEST, two numbers".to_owned()),
        }
    }
}

impl Passing {
    /// The files.
    ///
    /// # Errors
    /// If a descriptor is not open, or one inside is given twice.
    pub fn files(&self) -> anyhow::Result<Files> {
        let mut files = Files::default();
        let preserved = (0..self.preserve_fds).map(|index| 3 + index);
        let preserved = preserved.map(|number| Pair { host: number.cast_signed(), guest: number });
        for Pair { host, guest } in preserved.chain(self.pass_fds.iter().copied()) {
            let file =
                host::process::inherited(host).with_context(|| format!("cannot pass descriptor {host}"))?;
            if guest < 3 || files.passed.insert(guest, file).is_some() {
                bail!("cannot pass descriptor {host}: {guest} inside is given twice");
            }
        }
        let executable = self.exec_fd.map(host::process::inherited).transpose();
        files.executable = executable.context("--exec-fd: cannot use the descriptor")?;
        Ok(files)
    }
}
