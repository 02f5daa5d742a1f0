//! The mounts of a specification and their options.

use std::path::{Path, PathBuf};

use host::mount::Ties;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::{Error, IdMapping, Result, invalid};

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountConfig {
    /// Where, in the container; absolute.
    pub destination: String,
    /// What.
    pub kind: MountKind,
    /// What it is mounted from, as `/proc/mounts` shows it.
    pub source: String,
    /// `MS_*` flags that are set. For a bind mount, those of the source stay as far as they are not in `cleared`.
    pub flags: u64,
    /// `MS_*` flags that are taken away.
    pub cleared: u64,
    /// `MS_*` flags that are set on it and on all mounts below it.
    pub recursive_flags: u64,
    /// `MS_*` flags that are taken away from it and from all mounts below it.
    pub recursive_cleared: u64,
    /// How mounts travel, in order; `MS_*` flags, with [`flag::REC`] for all below it, too.
    pub propagation: Vec<u64>,
    /// How owners of files are shown, if not as they are.
    pub owners: Option<MountOwners>,
    /// Whether what was at the destination is copied into it (`tmpcopyup`).
    pub copy_up: bool,
}

/// How owners of a mount's files are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountOwners {
    /// Users that files have (inside), and those that are shown (outside). None for those of the container.
    pub uids: Vec<IdMapping>,
    /// The same of groups.
    pub gids: Vec<IdMapping>,
    /// Whether it is so on mounts below, too.
    pub recursive: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// Which.
        path: PathBuf,
        /// Whether with what is mounted below it.
        recursive: bool,
    },
    /// Directories of the host over one another.
    Overlay {
        /// Which, as the host has its options.
        options: String,
    },
    /// An EROFS image of the host.
    Erofs {
        /// The image.
        path: PathBuf,
    },
    /// An empty file system in memory.
    Tmpfs(TmpfsOptions),
    /// Processes.
    Proc(ProcOptions),
    /// Devices and buses.
    Sysfs,
    /// Pseudo-terminals.
    Devpts(DevptsOptions),
    /// Message queues.
    Mqueue,
    /// Control groups; `true` for version 2.
    Cgroup {
        /// Whether version 2 was asked for by its name.
        v2: bool,
    },
}

/// Options of a tmpfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TmpfsOptions {
    /// The most bytes; zero for no limit.
    pub size: Option<Size>,
    /// The most files; zero for no limit.
    pub files: Option<u64>,
    /// Permission bits of its root.
    pub mode: Option<u32>,
    /// Owner of its root.
    pub uid: Option<u32>,
    /// Group of its root.
    pub gid: Option<u32>,
}

/// A size of a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// In bytes.
    Bytes(u64),
    /// In hundredths of the memory.
    Percent(u32),
}

impl Size {
    /// In bytes, with so much memory.
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let bytes = u128::from(memory) * u128::from(percent) / 100;
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
        }
    }
}

/// Options of a procfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcOptions {
    /// `hidepid=`: 0, 1, 2 or 4.
    pub hide_pid: Option<u32>,
    /// `gid=`: who sees all in spite of that.
    pub gid: Option<u32>,
    /// `subset=pid`: only processes.
    pub only_processes: bool,
}

/// Options of a devpts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DevptsOptions {
    /// Permission bits of terminals.
    pub mode: Option<u32>,
    /// Permission bits of `ptmx`.
    pub ptmx_mode: Option<u32>,
    /// Owner of terminals.
    pub uid: Option<u32>,
    /// Group of terminals.
    pub gid: Option<u32>,
    /// The most terminals.
    pub max: Option<u32>,
}

/// `MS_*`, `mount(2)`.
pub mod flag {
    #![allow(missing_docs, reason = "the names are those of mount(2)")]
    pub const RDONLY: u64 = 1;
    pub const NOSUID: u64 = 2;
    pub const NODEV: u64 = 4;
    pub const NOEXEC: u64 = 8;
    pub const SYNCHRONOUS: u64 = 16;
    pub const MANDLOCK: u64 = 64;
    pub const DIRSYNC: u64 = 128;
    pub const NOSYMFOLLOW: u64 = 256;
    pub const NOATIME: u64 = 1024;
    pub const NODIRATIME: u64 = 2048;
    pub const REC: u64 = 1 << 14;
    pub const SILENT: u64 = 1 << 15;
    pub const UNBINDABLE: u64 = 1 << 17;
    pub const PRIVATE: u64 = 1 << 18;
    pub const SLAVE: u64 = 1 << 19;
    pub const SHARED: u64 = 1 << 20;
    pub const RELATIME: u64 = 1 << 21;
    pub const I_VERSION: u64 = 1 << 23;
    pub const STRICTATIME: u64 = 1 << 24;
    pub const LAZYTIME: u64 = 1 << 25;
}

/// Options that set a flag, and those that take it away. With an `r` in front, the first group also exists for all
/// that is mounted below.
const FLAG_OPTIONS: [(&str, &str, u64); 16] = [
    ("ro", "rw", flag::RDONLY),
    ("nosuid", "suid", flag::NOSUID),
    ("nodev", "dev", flag::NODEV),
    ("noexec", "exec", flag::NOEXEC),
    ("nosymfollow", "symfollow", flag::NOSYMFOLLOW),
    ("noatime", "atime", flag::NOATIME),
    ("nodiratime", "diratime", flag::NODIRATIME),
    ("relatime", "norelatime", flag::RELATIME),
    ("strictatime", "nostrictatime", flag::STRICTATIME),
    ("sync", "async", flag::SYNCHRONOUS),
    ("mand", "nomand", flag::MANDLOCK),
    ("silent", "loud", flag::SILENT),
    ("iversion", "noiversion", flag::I_VERSION),
    ("lazytime", "nolazytime", flag::LAZYTIME),
    ("dirsync", "", flag::DIRSYNC),
    ("acl", "noacl", 1 << 16),
];

/// How many of [`FLAG_OPTIONS`] also exist for all that is mounted below, as `mount_setattr(2)` can do it.
const RECURSIVE_OPTIONS: usize = 9;

/// Options that say nothing.
const EMPTY_OPTIONS: [&str; 4] = ["defaults", "", "bind", "rbind"];

/// The flags of a word for how mounts travel.
pub fn propagation_flag(name: &str) -> Option<u64> {
    let (recursive, plain) = match name.strip_prefix('r') {
        Some(plain) => (flag::REC, plain),
        None => (0, name),
    };
    let flag = match plain {
        "private" => flag::PRIVATE,
        "shared" => flag::SHARED,
        "slave" => flag::SLAVE,
        "unbindable" => flag::UNBINDABLE,
        _ => return None,
    };
    Some(flag | recursive)
}

impl MountConfig {
    /// Checks a mount of a specification.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(mount: &oci::Mount, bundle: &Path, warnings: &mut Vec<String>) -> Result<Self> {
        let Some(destination) = mount.destination().to_str() else {
            return invalid(format!("mount destination {:?} is not UTF-8", mount.destination()));
        };
        let destination = clean_destination(destination)?;
        let options = mount.options().as_deref().unwrap_or_default();
        let mut config = Self {
            kind: MountKind::Sysfs,
            source: mount.source().as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            flags: 0,
            cleared: 0,
            recursive_flags: 0,
            recursive_cleared: 0,
            propagation: Vec::new(),
            owners: None,
            copy_up: false,
            destination,
        };
        let rest: Vec<&str> =
            options.iter().map(String::as_str).filter(|option| !config.take_option(option)).collect();
        config.check_flags()?;
        config.kind = config.kind_of(mount, bundle, options, &rest, warnings)?;
        config.take_mappings(mount, &rest)?;
        config.warn_of_propagation(warnings);
        if config.copy_up && !matches!(config.kind, MountKind::Tmpfs(_)) {
            return invalid(format!("mount {:?}: only tmpfs mounts support 'tmpcopyup'", config.destination));
        }
        Ok(config)
    }

    /// Takes an option that any file system may have. Returns whether it was one.
    fn take_option(&mut self, option: &str) -> bool {
        if EMPTY_OPTIONS.contains(&option) {
            return true;
        }
        for (set, clear, flag) in FLAG_OPTIONS {
            if option == set {
                self.flags |= flag;
                self.cleared &= !flag;
                return true;
            }
            if option == clear {
                self.cleared |= flag;
                self.flags &= !flag;
                return true;
            }
        }
        for (set, clear, flag) in &FLAG_OPTIONS[..RECURSIVE_OPTIONS] {
            let Some(plain) = option.strip_prefix('r') else { break };
            if plain == *set {
                self.recursive_flags |= flag;
                self.recursive_cleared &= !flag;
                return true;
            }
            if plain == *clear {
                self.recursive_cleared |= flag;
                self.recursive_flags &= !flag;
                return true;
            }
        }
        if let Some(flag) = propagation_flag(option) {
            self.propagation.push(flag);
            return true;
        }
        match option {
            "tmpcopyup" => self.copy_up = true,
            "idmap" | "ridmap" => {
                let recursive = option == "ridmap";
                self.owners = Some(MountOwners { uids: Vec::new(), gids: Vec::new(), recursive });
            }
            _ => return false,
        }
        true
    }

    /// Takes the mappings of owners, which go with the options for them.
    fn take_mappings(&mut self, mount: &oci::Mount, rest: &[&str]) -> Result<()> {
        let destination = &self.destination;
        let list = |list: &Option<Vec<oci::LinuxIdMapping>>| -> Vec<IdMapping> {
            list.iter().flatten().map(IdMapping::from).collect()
        };
        let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
        if uids.is_empty() != gids.is_empty() {
            return invalid(format!("mount {destination:?}: uidMappings and gidMappings go together"));
        }
        if !uids.is_empty() {
            let recursive = self.owners.as_ref().is_some_and(|owners| owners.recursive);
            self.owners = Some(MountOwners { uids, gids, recursive });
        }
        // Another runtime's way to write mappings; without them files would get the wrong owners.
        if rest.iter().any(|option| option.starts_with("idmap=") || option.starts_with("ridmap=")) {
            let reason = "mappings are to be in uidMappings and gidMappings";
            return Err(Error::Unsupported { field: "mounts[].options".to_owned(), reason });
        }
        if self.owners.is_some() && !matches!(self.kind, MountKind::Bind { .. }) {
            return invalid(format!("mount {destination:?}: only owners in bind mounts can be mapped"));
        }
        Ok(())
    }

    /// What is mounted inside is mounted in our kernel only.
    fn warn_of_propagation(&self, warnings: &mut Vec<String>) {
        let is_shared = self.propagation.last().is_some_and(|last| last & flag::SHARED != 0);
        if is_shared && matches!(self.kind, MountKind::Bind { .. }) {
            warnings.push(format!(
                "mount {:?}: mounts that the container makes below it do not travel out of it",
                self.destination
            ));
        }
    }

    /// Whether what the host mounts below its source later is to be there, too.
    pub fn ties(&self) -> Ties {
        let last = self.propagation.last().copied().unwrap_or(flag::PRIVATE);
        if last & (flag::SHARED | flag::SLAVE) != 0 { Ties::Following } else { Ties::None }
    }

    /// What the flags are in the end: those of all mounts are also those of this one.
    pub fn own_flags(&self) -> u64 {
        (self.flags & !self.recursive_cleared) | self.recursive_flags
    }

    /// Of the options for access times, `mount_setattr(2)` takes one.
    fn check_flags(&self) -> Result<()> {
        let times = [flag::NOATIME, flag::RELATIME, flag::STRICTATIME];
        if times.iter().filter(|flag| self.recursive_flags & **flag != 0).count() > 1 {
            return invalid(format!(
                "mount {:?}: rnoatime, rrelatime and rstrictatime exclude each other",
                self.destination
            ));
        }
        Ok(())
    }

    fn kind_of(
        &self,
        mount: &oci::Mount,
        bundle: &Path,
        options: &[String],
        rest: &[&str],
        warnings: &mut Vec<String>,
    ) -> Result<MountKind> {
        let destination = &self.destination;
        let recursive = options.iter().any(|option| option == "rbind");
        let is_bind = recursive || options.iter().any(|option| option == "bind");
        let typ = mount.typ().as_deref().unwrap_or_default();
        if is_bind || typ == "bind" {
            let Some(source) = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty()) else {
                return invalid(format!("bind mount {destination:?} has no source"));
            };
            for option in rest {
                warnings.push(format!("mount {destination:?}: the option {option:?} is ignored"));
            }
            let path = if source.is_absolute() { source.clone() } else { bundle.join(source) };
            return Ok(MountKind::Bind { path, recursive });
        }
        let option = Options { destination, rest };
        match typ {
            "tmpfs" => option.tmpfs(warnings),
            "proc" => option.proc(),
            "sysfs" => option.none(MountKind::Sysfs),
            "mqueue" => option.none(MountKind::Mqueue),
            // The host looks at the options.
            "overlay" => Ok(MountKind::Overlay { options: rest.join(",") }),
            "erofs" => match mount.source().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(source) => option.none(MountKind::Erofs { path: bundle.join(source) }),
                None => invalid(format!("mount {destination:?} of an EROFS image has no source")),
            },
            "devpts" => option.devpts(),
            "cgroup" | "cgroup2" => {
                for option in rest {
                    warnings.push(format!("mount {destination:?}: the option {option:?} is ignored"));
                }
                Ok(MountKind::Cgroup { v2: typ == "cgroup2" })
            }
            "" => invalid(format!("mount {destination:?} has neither a type nor the option bind or rbind")),
            other => invalid(format!(
                "error mounting {:?} to rootfs at {destination:?}: no such device: the file system {other:?} is not supported",
                self.source
            )),
        }
    }
}

/// A path without `.`, `..` and double slashes. What leads above the root leads to the root, as it does inside.
fn clean_destination(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return invalid(format!("mount destination {path:?} is not absolute"));
    }
    if path.contains('\0') {
        return invalid(format!("mount destination {path:?} has a NUL in it"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The options of one mount that its file system must understand. As with `mount(2)`, one that it does not is an error.
struct Options<'a> {
    destination: &'a str,
    rest: &'a [&'a str],
}

impl Options<'_> {
    fn bad<T>(&self, option: &str) -> Result<T> {
        invalid(format!("mount {:?}: invalid argument: the option {option:?}", self.destination))
    }

    fn number<T>(&self, option: &str, parsed: Option<T>) -> Result<Option<T>> {
        if parsed.is_none() { self.bad(option) } else { Ok(parsed) }
    }

    fn none(&self, kind: MountKind) -> Result<MountKind> {
        self.rest.first().map_or(Ok(kind), |option| self.bad(option))
    }

    fn tmpfs(&self, warnings: &mut Vec<String>) -> Result<MountKind> {
        let mut options = TmpfsOptions::default();
        for option in self.rest {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "size" => options.size = self.number(option, parse_size(value))?,
                "nr_blocks" => {
                    let bytes = parse_number(value).and_then(|blocks| blocks.checked_mul(4096));
                    options.size = self.number(option, bytes.map(Size::Bytes))?;
                }
                "nr_inodes" => options.files = self.number(option, parse_number(value))?,
                "mode" => options.mode = self.number(option, parse_octal(value))?,
                "uid" => options.uid = self.number(option, value.parse().ok())?,
                "gid" => options.gid = self.number(option, value.parse().ok())?,
                // Where the pages are, which the host decides.
                "huge" | "mpol" | "noswap" | "inode32" | "inode64" => {
                    warnings.push(format!("mount {:?}: the option {option:?} is ignored", self.destination));
                }
                _ => return self.bad(option),
            }
        }
        Ok(MountKind::Tmpfs(options))
    }

    fn proc(&self) -> Result<MountKind> {
        let mut options = ProcOptions::default();
        for option in self.rest {
            match option.split_once('=') {
                Some(("hidepid", value)) => {
                    let number = match value {
                        "0" | "off" => Some(0),
                        "1" | "noaccess" => Some(1),
                        "2" | "invisible" => Some(2),
                        "4" | "ptraceable" => Some(4),
                        _ => None,
                    };
                    options.hide_pid = self.number(option, number)?;
                }
                Some(("gid", value)) => options.gid = self.number(option, value.parse().ok())?,
                Some(("subset", "pid")) => options.only_processes = true,
                _ => return self.bad(option),
            }
        }
        Ok(MountKind::Proc(options))
    }

    fn devpts(&self) -> Result<MountKind> {
        let mut options = DevptsOptions::default();
        for option in self.rest {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                // Every one is, since Linux 4.7.
                "newinstance" => {}
                "mode" => options.mode = self.number(option, parse_octal(value))?,
                "ptmxmode" => options.ptmx_mode = self.number(option, parse_octal(value))?,
                "uid" => options.uid = self.number(option, value.parse().ok())?,
                "gid" => options.gid = self.number(option, value.parse().ok())?,
                "max" => options.max = self.number(option, value.parse().ok())?,
                _ => return self.bad(option),
            }
        }
        Ok(MountKind::Devpts(options))
    }
}

/// Permission bits.
fn parse_octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// A number, with `k`, `m`, `g`, `t` behind for powers of 1024.
fn parse_number(text: &str) -> Option<u64> {
    let unit = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        _ => 0,
    };
    let digits = if unit == 0 { text } else { &text[..text.len() - 1] };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << unit)
}

/// A number of bytes, or `N%` of the memory.
fn parse_size(text: &str) -> Option<Size> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().map(Size::Percent),
        None => parse_number(text).map(Size::Bytes),
    }
}
