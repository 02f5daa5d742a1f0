//! `nacelle debug`: does to a container what its specification did not ask for.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::Global;

/// Arguments of `nacelle debug`.
#[derive(Args)]
pub struct Debug {
    /// Mount an EROFS image in the container, which may run. The directory is made if it does not exist.
    #[arg(long, value_name = "erofs:IMAGE:DIR")]
    mount: String,
    /// The container.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the command.
pub fn run(global: &Global, arguments: &Debug) -> anyhow::Result<u8> {
    let (image, directory) = parse_mount(&arguments.mount)?;
    // What is said of the path is said of the same one in messages of the sandbox.
    let image = std::path::absolute(image).with_context(|| format!("--mount {}", arguments.mount))?;
    global.load(&arguments.id)?.mount_image(&image, directory)?;
    Ok(0)
}

/// The image and the directory of `erofs:IMAGE:DIR`.
fn parse_mount(text: &str) -> anyhow::Result<(&Path, &str)> {
    let expected = || format!("--mount {text}: expected erofs:IMAGE:DIR");
    let (kind, rest) = text.split_once(':').with_context(expected)?;
    if kind != "erofs" {
        bail!("--mount {text}: {kind} is not supported: erofs");
    }
    let (image, directory) = rest.rsplit_once(':').with_context(expected)?;
    if image.is_empty() || !directory.starts_with('/') || directory.split('/').any(|part| part == "..") {
        bail!("{}, and DIR absolute and without ..", expected());
    }
    Ok((Path::new(image), directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_a_type_an_image_and_a_directory() {
        assert_eq!(parse_mount("erofs:a:b.img:/c").ok(), Some((Path::new("a:b.img"), "/c")));
        for text in ["", "erofs", "erofs:a", "erofs::/c", "erofs:a:c", "erofs:a:/c/../d", "ext4:a:/c", "a:/c"]
        {
            assert!(parse_mount(text).is_err(), "{text}");
        }
    }
}
