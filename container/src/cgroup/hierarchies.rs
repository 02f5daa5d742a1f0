//! What hierarchies of control groups the host has, and where the caller is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Result, Version};

/// A hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Which group of it is at that place.
    pub root: String,
    /// Its controllers; `name=NAME` for a hierarchy with a name; one empty name for the unified one.
    pub controllers: Vec<String>,
    /// The caller's group.
    pub own: String,
}

impl Mount {
    /// The directory of a group.
    pub fn directory(&self, group: &str) -> PathBuf {
        let below = Path::new(group).strip_prefix(&self.root).unwrap_or(Path::new(group));
        self.point.join(below.strip_prefix("/").unwrap_or(below))
    }
}

/// All hierarchies of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// In version 2, the unified one; else those of version 1, and the unified one if it is mounted beside them.
    pub mounts: Vec<Mount>,
}

impl Hierarchies {
    /// Those of the host.
    ///
    /// # Errors
    /// [`Error::NotMounted`] if there is none.
    pub fn of_host() -> Result<Self> {
        let read = |path: &'static str| fs::read_to_string(path).map_err(Error::io("read", Path::new(path)));
        Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
    }

    /// Those that `/proc/self/mountinfo` and `/proc/self/cgroup` tell of.
    ///
    /// # Errors
    /// [`Error::NotMounted`] if there is none.
    pub fn parse(mountinfo: &str, cgroup: &str) -> Result<Self> {
        let own: BTreeMap<&str, &str> = cgroup
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?, parts.next()?))
            })
            .flat_map(|(names, path)| names.split(',').map(move |name| (name, path)))
            .collect();
        let mut mounts: Vec<Mount> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut left = left.split(' ').skip(3);
            let mut right = right.split(' ');
            let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            let controllers: Vec<String> = match kind {
                Some("cgroup") => options
                    .split(',')
                    .filter(|option| own.contains_key(option))
                    .map(ToOwned::to_owned)
                    .collect(),
                Some("cgroup2") => vec![String::new()],
                _ => continue,
            };
            let Some(first) = controllers.first() else { continue };
            // Mounted twice, the first is as good.
            if mounts.iter().any(|mount| mount.controllers.contains(first)) {
                continue;
            }
            let own = own.get(first.as_str()).copied().unwrap_or("/").to_owned();
            mounts.push(Mount {
                point: PathBuf::from(unescape(point)),
                root: unescape(root),
                controllers,
                own,
            });
        }
        if mounts.is_empty() { Err(Error::NotMounted) } else { Ok(Self { mounts }) }
    }

    /// Which version containers use.
    pub fn version(&self) -> Version {
        let unified = self.mounts.iter().all(|mount| mount.controllers == [""]);
        if unified { Version::V2 } else { Version::V1 }
    }
}

/// Spaces and such are written as octal numbers.
fn unescape(text: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
