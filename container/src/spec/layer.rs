//! Where changes of a root directory go, as `--overlay2` and annotations say it.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use sandbox::spec::RootLayer;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where changes of a root directory go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Where.
    pub medium: Medium,
    /// The most bytes that they may take; zero for no limit.
    pub size: u64,
}

/// What changes are kept in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// The directory itself.
    #[default]
    None,
    /// Memory.
    Memory,
    /// Files without names in the root directory: what they take is taken from its file system. If it is an image, memory.
    Own,
    /// Files without names in this directory.
    Directory(PathBuf),
}

impl Layer {
    /// Reads `MEDIUM` or `MEDIUM,size=BYTES`, where a medium is `none`, `memory`, `self` or `dir=PATH`; what is wrong with it
    /// otherwise.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> std::result::Result<Layer, String> {
        let (medium, size) = match text.rsplit_once(",size=") {
            Some((medium, size)) => (medium, parse_size(size)?),
            None => (text, 0),
        };
        let medium = match medium {
            "none" if size != 0 => return Err("without a layer, there is no size".to_owned()),
            "none" => Medium::None,
            "memory" => Medium::Memory,
            "self" => Medium::Own,
            other => match other.strip_prefix("dir=") {
                Some(path) if path.starts_with('/') => Medium::Directory(path.into()),
                Some(path) => return Err(format!("{path:?} is no absolute path")),
                None => return Err(format!("{other:?} is not supported: none, memory, self, dir=PATH")),
            },
        };
        Ok(Layer { medium, size })
    }

    /// What the sandbox is told.
    pub fn kind(&self) -> RootLayer {
        if self.medium == Medium::None { RootLayer::Through } else { RootLayer::Memory }
    }

    /// The directory that large files are kept in, given the root directory if it is none of an image.
    pub fn store<'p>(&'p self, root: Option<&'p Path>) -> Option<&'p Path> {
        match &self.medium {
            Medium::None | Medium::Memory => None,
            Medium::Own => root,
            Medium::Directory(path) => Some(path),
        }
    }
}

/// A number of bytes, with `k`, `m`, `g` or `t` behind for binary multiples.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, shift) = [("k", 10), ("m", 20), ("g", 30), ("t", 40)]
        .into_iter()
        .find_map(|(unit, shift)| Some((lower.strip_suffix(unit)?, shift)))
        .unwrap_or((&lower, 0));
    let number =
        digits.parse::<u64>().ok().filter(|number| *number > 0 && *number <= (i64::MAX as u64) >> shift);
    number
        .map(|number| number << shift)
        .ok_or_else(|| format!("size={text}: expected a number of bytes, such as 100m"))
}

/// Fails unless a directory can hold a store: it takes files without names, of which parts may be programs.
pub fn check_store(directory: &Path) -> Result<()> {
    let failed = |source: std::io::Error| Error::File {
        action: "keep changes of the root directory in",
        path: directory.to_owned(),
        source,
    };
    let unsuitable = |text: &str| failed(std::io::Error::new(std::io::ErrorKind::Unsupported, text));
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(rustix::io::Errno::OPNOTSUPP) => {
            return Err(unsuitable("its file system has no files without names (O_TMPFILE)"));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let mount = rustix::fs::fstatvfs(&file).map_err(|error| failed(error.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(unsuitable("it is mounted noexec, so that no program among them could run"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_a_medium_and_a_size() {
        let layer = |medium, size| Ok(Layer { medium, size });
        assert_eq!(Layer::parse("none"), layer(Medium::None, 0));
        assert_eq!(Layer::parse("memory,size=2G"), layer(Medium::Memory, 2 << 30));
        assert_eq!(Layer::parse("self"), layer(Medium::Own, 0));
        assert_eq!(Layer::parse("dir=/a,b,size=5"), layer(Medium::Directory("/a,b".into()), 5));
        for text in
            ["", "disk", "dir=a", "dir=", "none,size=5", "memory,size=", "memory,size=0", "memory,size=-1"]
        {
            assert!(Layer::parse(text).is_err(), "{text}");
        }
        assert!(Layer::parse("memory,size=8388608t").is_err());
    }

    #[test]
    fn a_directory_that_cannot_hold_a_store_is_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(check_store(directory.path()).is_ok());
        for path in [directory.path().join("missing"), "/proc".into(), "/dev/null".into()] {
            let error = check_store(&path).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!(
                    "cannot keep changes of the root directory in {}: ",
                    path.display()
                )),
                "{error}"
            );
        }
    }
}
