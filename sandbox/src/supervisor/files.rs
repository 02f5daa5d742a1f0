//! What others do with a container's files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;

use abi::Errno;

use super::Supervisor;
use crate::control::message::{ErrorCode, Failure};
use crate::descriptors::Descriptors;
use crate::spec::{Bytes, Descriptor};
use crate::tree;

/// How much of a file is read at a time.
const PIECE: usize = 64 << 10;

impl Supervisor {
    /// Writes a file, or so many bytes of it from an offset on, to a pipe.
    pub fn read(
        &self,
        id: &str,
        path: &Bytes,
        (offset, size): (u64, Option<u64>),
        output: Descriptor,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let mut output = File::from(Descriptors::new(descriptors).take(output)?);
        let container = std::sync::Arc::clone(self.find(id)?.container()?);
        let unreadable = |error: Errno| {
            let reason = match error {
                Errno::EISDIR => "it is a directory".to_owned(),
                Errno::EINVAL => "it is no regular file".to_owned(),
                Errno::EOPNOTSUPP => {
                    "it tells of whoever reads it, which takes a process inside (exec)".to_owned()
                }
                error => error.to_string(),
            };
            Failure::new(ErrorCode::Invalid, format!("cannot read {path} in container \"{id}\": {reason}"))
        };
        let file = container.open_file(&path.0).map_err(unreadable)?;
        let (mut at, mut left) = (offset, size.unwrap_or(u64::MAX));
        while left > 0 {
            let piece =
                file.read(at, usize::try_from(left).unwrap_or(PIECE).min(PIECE)).map_err(unreadable)?;
            if piece.is_empty() {
                break;
            }
            output.write_all(&piece).map_err(|error| cannot_write(&error))?;
            at = at.saturating_add(piece.len() as u64);
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Mounts an image in a container.
    pub fn mount(
        &self,
        id: &str,
        image: Descriptor,
        source: &str,
        destination: &str,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let member = self.find(id)?;
        let mounts = &member.container()?.mounts;
        tree::mount_image(mounts, image, source, destination, Descriptors::new(descriptors))
    }

    /// Writes the layer over a container's root directory to a pipe.
    pub fn write_layer(
        &self,
        id: &str,
        output: Descriptor,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let output = File::from(Descriptors::new(descriptors).take(output)?);
        let member = self.find(id)?;
        let Some(layer) = member.layer.get() else {
            let text = format!(
                "the root directory of container \"{id}\" has no layer: --overlay2 of create makes one"
            );
            return Err(Failure::new(ErrorCode::Invalid, text));
        };
        let mut output = BufWriter::with_capacity(PIECE, output);
        layer.write_layer(&mut output).and_then(|()| output.flush()).map_err(|error| cannot_write(&error))
    }
}

fn cannot_write(error: &std::io::Error) -> Failure {
    Failure::new(ErrorCode::Internal, format!("cannot write what was asked for: {error}"))
}
