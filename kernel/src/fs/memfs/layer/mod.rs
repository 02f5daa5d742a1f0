//! The layer in memory that lies over a root directory, as a tar archive: what [`write`](MemFs::write_layer) writes,
//! [`apply`](MemFs::apply_layer) makes of an empty layer over the same directory.
//!
//! The archive is what a directory of overlayfs would be: whole files, with owners, times and extended attributes; a character
//! device 0:0 where a name is gone (a *whiteout*), and `trusted.overlay.opaque` on directories that nothing below shows
//! through. Directories above something that was changed are in it, too.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::{MemFs, Node};

mod apply;
mod tar;
mod write;

/// The extended attribute of a directory that nothing shows through; `y` is its value.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Attributes that overlayfs has for itself.
const RESERVED: &[u8] = b"trusted.overlay.";
/// Attributes that mean something to the kernel: those that show access control lists, and no others.
const SYSTEM: &[u8] = b"system.";

impl MemFs {
    /// Writes what was changed of the directory below as a tar archive.
    ///
    /// # Errors
    /// Those of `out`, of the files below, and if a path or a list of holes is too long for an archive.
    pub fn write_layer(&self, out: &mut dyn Write) -> io::Result<()> {
        write::write(&self.root, out)
    }

    /// Makes the changes that such an archive tells of.
    ///
    /// # Errors
    /// If it is damaged, or has what a layer cannot have; the text names the entry.
    pub fn apply_layer(&self, archive: impl Read) -> io::Result<()> {
        apply::apply(&self.root, archive)
    }
}

/// Whether both are directories of the same file below.
fn is_same(one: Option<&super::Lower>, other: Option<&super::Lower>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.common().id == other.common().id)
}

/// Says which entry an error is about.
fn at(path: &[u8], error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("entry {:?}: {error}", String::from_utf8_lossy(path)))
}

/// The names on the way to an entry; none that lead elsewhere.
fn parts(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let parts: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let bad = |part: &&[u8]| *part == b".." || part.len() > crate::fs::path::NAME_MAX || part.contains(&0);
    if parts.iter().any(bad) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no path below the root directory"));
    }
    Ok(parts)
}

/// What is at a place in a directory.
fn child(directory: &Arc<Node>, name: &[u8]) -> io::Result<Option<Arc<Node>>> {
    let mut inner = directory.directory()?.lock();
    Ok(directory.entry(&mut inner, name)?)
}

#[cfg(test)]
mod tests;
