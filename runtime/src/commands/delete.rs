//! `nacelle delete`: removes a container.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use container::{Action, Container, Error, Id, LoadOpts};

use crate::config::Global;

/// How long somebody is waited for who is at the same container, and how often it is tried meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Arguments of `nacelle delete`.
#[derive(Args)]
pub struct Delete {
    /// Kill what still runs, and do not complain about what is not there.
    #[arg(long, short = 'f')]
    force: bool,
    /// The containers.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Delete) -> anyhow::Result<u8> {
    let mut first = None;
    for id in &arguments.ids {
        if let Err(error) = delete(global, id, arguments.force) {
            match &first {
                None => first = Some(error),
                Some(_) => eprintln!("nacelle: {error:#}"),
            }
        }
    }
    first.map_or(Ok(0), Err)
}

fn delete(global: &Global, id: &str, force: bool) -> anyhow::Result<()> {
    let root = global.root();
    // With force, only what was named exactly: what begins like it may be somebody else's.
    let options = LoadOpts { exact: force, ..LoadOpts::default() };
    match Container::load(&root, id, options) {
        Ok(mut container) => {
            if !force {
                Action::Delete.check(&container.id, container.status)?;
            }
            Ok(container.destroy()?)
        }
        Err(error) if !force => Err(error.into()),
        Err(Error::State(container::state::Error::Corrupt { .. })) => {
            Ok(Container::destroy_unreadable(&root, &Id::new(id)?)?)
        }
        Err(error) if error.is_not_found() => remove_leftovers(&root, &Id::new(id)?),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is left of a container. Somebody who is at it is waited for: who takes away what a killed command has left is
/// done soon, who still makes the container may not be.
fn remove_leftovers(root: &Path, id: &Id) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        match container::state::remove_leftovers(root, id) {
            Err(container::state::Error::StateFileLocked(_)) if start.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            removed => return Ok(removed.map(drop)?),
        }
    }
}
