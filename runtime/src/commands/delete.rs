//! `nacelle delete`: removes a container.

use clap::Args;
use container::{Action, Container, Error, Id, LoadOpts};

use crate::config::Global;

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
        Err(error) if error.is_not_found() => {
            container::state::remove_leftovers(&root, &Id::new(id)?)?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
