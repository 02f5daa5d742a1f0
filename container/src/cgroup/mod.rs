//! Control groups: where a container's processes are counted, limited, held and told of memory that ran out.
//!
//! [`Hierarchies`] knows what the host has mounted; [`Cgroup`] is one group: in version 1 a directory in each hierarchy
//! (and in the unified one beside them, if the host has both), in version 2 one directory. It can be saved, and remembers
//! which directories were made for it: only those are removed.

mod hierarchies;
mod oom;
mod resources;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::spec::error_text;
pub use hierarchies::{Hierarchies, Mount};
pub use oom::{News, OomWatch};
pub use resources::merge;
pub use stats::{Event, Stats};

/// What goes wrong with control groups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has none.
    #[error("no cgroup mount found in /proc/self/mountinfo")]
    NotMounted,
    /// The host refuses something with a file or directory.
    #[error("cannot {action} {}: {}", path.display(), error_text(source))]
    Io {
        /// What.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A limit cannot be set.
    #[error("failed to write {value:?}: write {}: {}", path.display(), error_text(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why it was not.
        source: io::Error,
    },
    /// A limit was asked for that the host has no controller for.
    #[error("cannot set {setting}: the host has no cgroup controller {controller:?} here")]
    NoController {
        /// The field of the specification.
        setting: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// What is used already is more than the new limit.
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    InUse {
        /// The limit.
        limit: i64,
        /// What is used.
        usage: u64,
        /// What was used at most.
        peak: u64,
    },
    /// A setting that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Neither could the new limits be set, nor the old ones again.
    #[error(
        "{failed}; setting back cgroup configs failed due to error: {undo}, the saved state and the actual limits might be inconsistent"
    )]
    Inconsistent {
        /// Why the new ones could not.
        failed: Box<Error>,
        /// Why the old ones could not.
        undo: Box<Error>,
    },
    /// Processes do not go away.
    #[error("cgroup {} still has processes: {pids:?}", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Some of them.
        pids: Vec<i32>,
    },
}

/// How long processes that have been killed may take to leave a group.
const LEAVING: Duration = Duration::from_secs(5);

/// The result of what is done with control groups.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the caller lacks the right to do it: who is not root goes on without.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => {
                matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
            }
            Self::NotMounted => true,
            _ => false,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// The version of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroup {
    /// Of version 1.
    #[serde(rename = "cgroupv1")]
    V1(V1),
    /// Of version 2.
    #[serde(rename = "cgroupv2")]
    V2(V2),
}

/// A group of version 1: a directory in each hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1 {
    /// Directories by controller; `name=systemd` for a hierarchy with that name, empty for the unified one.
    pub directories: BTreeMap<String, PathBuf>,
    /// Directories that were made for it, the upper ones first.
    pub made: Vec<PathBuf>,
}

/// A group of version 2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct V2 {
    /// Its directory.
    pub directory: PathBuf,
    /// Directories that were made for it, the upper ones first.
    pub made: Vec<PathBuf>,
}

/// How a group is named.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    /// `linux.cgroupsPath`, as written.
    pub path: Option<&'a str>,
    /// The container, whose name is taken if there is no path.
    pub id: &'a Id,
    /// Whether the path is meant for systemd: `SLICE:PREFIX:NAME`.
    pub systemd: bool,
}

impl Name<'_> {
    /// The path, and whether it starts at the root of a hierarchy rather than at the caller's own group. The form for
    /// systemd is put where systemd would put it; systemd itself is not told.
    fn resolve(&self) -> Result<(String, bool)> {
        let path = self.path.filter(|path| !path.is_empty());
        let (path, absolute) = match path {
            None => (self.id.to_string(), false),
            Some(path) if self.systemd => (systemd_path(path)?, true),
            Some(path) => (path.to_owned(), path.starts_with('/')),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        if parts.is_empty() || path.contains(['\0', '\n']) {
            return Err(Error::Invalid(format!("linux.cgroupsPath: {path:?} names no cgroup")));
        }
        Ok((parts.join("/"), absolute))
    }
}

/// Where systemd puts `SLICE:PREFIX:NAME`: `a-b.slice` is within `a.slice`.
fn systemd_path(path: &str) -> Result<String> {
    let bad = || {
        Error::Invalid(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
        ))
    };
    let parts: Vec<&str> = path.split(':').collect();
    let [slice, prefix, name] = parts[..] else { return Err(bad()) };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    if path.contains('/') || name.is_empty() {
        return Err(bad());
    }
    let stem = slice.strip_suffix(".slice").ok_or_else(bad)?;
    let mut whole = String::new();
    if stem != "-" {
        let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
        for end in ends {
            whole.push_str(&format!("{}.slice/", &stem[..end]));
        }
    }
    let unit = match prefix {
        _ if name.ends_with(".slice") => name.to_owned(),
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    };
    Ok(whole + &unit)
}

/// Takes back what was made before something failed.
fn undo(made: &[PathBuf], error: Error) -> Error {
    made.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
    error
}

/// A directory and those above it down from `top`, as far as they do not exist, the upper ones first.
fn missing(top: &Path, path: &Path) -> Vec<PathBuf> {
    let above = path.ancestors().take_while(|above| *above != top && !above.is_dir());
    let mut missing: Vec<PathBuf> = above.map(Path::to_owned).collect();
    missing.reverse();
    missing
}

/// Makes a directory and those above it down from `top`. What is new is added to `made`.
fn make_directories(top: &Path, path: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    for directory in missing(top, path) {
        match fs::create_dir(&directory) {
            Ok(()) => made.push(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("make cgroup", &directory)(error)),
        }
    }
    Ok(())
}

impl Cgroup {
    /// Makes a group, or takes an existing one.
    ///
    /// # Errors
    /// The host's; nothing is left of it then.
    pub fn create(host: &Hierarchies, name: Name<'_>) -> Result<Self> {
        let (path, absolute) = name.resolve()?;
        match host.version() {
            Version::V1 => {
                let mut group = V1::default();
                match group.make(host, &path, absolute) {
                    Ok(()) => Ok(Self::V1(group)),
                    Err(error) => Err(undo(&group.made, error)),
                }
            }
            Version::V2 => {
                let mut group = V2::default();
                match group.make(host, &path, absolute) {
                    Ok(()) => Ok(Self::V2(group)),
                    Err(error) => Err(undo(&group.made, error)),
                }
            }
        }
    }

    /// What [`Cgroup::create`] would make, for whoever must know of it before it is there.
    ///
    /// # Errors
    /// If it has no usable name.
    pub fn plan(host: &Hierarchies, name: Name<'_>) -> Result<Self> {
        let (path, absolute) = name.resolve()?;
        match host.version() {
            Version::V1 => {
                let mut group = V1::default();
                for mount in &host.mounts {
                    let directory = V1::directory(mount, &path, absolute);
                    group.made.extend(missing(&mount.point, &directory));
                    let controllers = mount.controllers.iter().cloned();
                    group.directories.extend(controllers.map(|controller| (controller, directory.clone())));
                }
                Ok(Self::V1(group))
            }
            Version::V2 => {
                let mount = host.mounts.first().ok_or(Error::NotMounted)?;
                let directory = V2::directory(mount, &path, absolute);
                let made = missing(&mount.point, &directory);
                Ok(Self::V2(V2 { directory, made }))
            }
        }
    }

    /// As [`Cgroup::create`], but goes on without, with a warning, where the caller may not make one.
    ///
    /// # Errors
    /// All others.
    pub fn create_if_permitted(host: &Hierarchies, name: Name<'_>) -> Result<Option<Self>> {
        match Self::create(host, name) {
            Ok(group) => Ok(Some(group)),
            Err(error) if error.is_permission() => {
                tracing::warn!("the container runs without a cgroup: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The version.
    pub fn version(&self) -> Version {
        match self {
            Self::V1(_) => Version::V1,
            Self::V2(_) => Version::V2,
        }
    }

    /// All its directories.
    pub fn directories(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = match self {
            Self::V1(group) => group.directories.values().map(PathBuf::as_path).collect(),
            Self::V2(group) => vec![&group.directory],
        };
        // Several controllers may share a hierarchy.
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The directory in which the files of a controller are.
    pub fn directory_of(&self, controller: &str) -> Option<&Path> {
        match self {
            Self::V1(group) => group.directories.get(controller).map(PathBuf::as_path),
            Self::V2(group) => Some(&group.directory),
        }
    }

    fn made(&self) -> &[PathBuf] {
        match self {
            Self::V1(group) => &group.made,
            Self::V2(group) => &group.made,
        }
    }

    /// Whether it is still there.
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|directory| directory.is_dir())
    }

    /// Moves a process, with all its threads, into it.
    ///
    /// # Errors
    /// The host's. A hierarchy of a name or the unified one beside others has no limits and does not matter.
    pub fn join(&self, pid: i32) -> Result<()> {
        for directory in self.directories() {
            let file = directory.join("cgroup.procs");
            let written = write(&file, &pid.to_string());
            match written {
                Err(error) if !self.matters(directory) => tracing::warn!("{error}"),
                other => other?,
            }
        }
        Ok(())
    }

    /// Opens its `cgroup.procs` in each hierarchy that has limits. Whoever writes the pid of a process there, as it knows
    /// it, moves that in the name of the caller.
    ///
    /// # Errors
    /// The host's.
    pub fn open_members(&self) -> Result<Vec<OwnedFd>> {
        let directories = self.directories().into_iter().filter(|directory| self.matters(directory));
        let open = |directory: &Path| {
            let path = directory.join("cgroup.procs");
            let file = fs::File::options().write(true).open(&path);
            file.map(OwnedFd::from).map_err(Error::io("open", &path))
        };
        directories.map(open).collect()
    }

    fn matters(&self, directory: &Path) -> bool {
        match self {
            Self::V1(group) => group
                .directories
                .iter()
                .any(|(name, path)| path == directory && !name.is_empty() && !name.starts_with("name=")),
            Self::V2(_) => true,
        }
    }

    /// A descriptor to clone processes into it with (`CLONE_INTO_CGROUP`), which only version 2 can.
    ///
    /// # Errors
    /// The host's.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let Self::V2(group) = self else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&group.directory, flags, Mode::empty());
        opened.map(Some).map_err(|error| Error::io("open", &group.directory)(error.into()))
    }

    /// Sets limits. Returns what the host cannot do and may be left out.
    ///
    /// # Errors
    /// A limit that matters and cannot be set.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        resources::apply(self, resources)
    }

    /// Changes limits; if that fails, `old` is set again.
    ///
    /// # Errors
    /// A limit that cannot be set; [`Error::Inconsistent`] if the old ones cannot either.
    pub fn update(&self, old: &LinuxResources, new: &LinuxResources) -> Result<Vec<String>> {
        resources::apply(self, new).map_err(|failed| match resources::apply(self, old) {
            Ok(_) => failed,
            Err(undo) => Error::Inconsistent { failed: Box::new(failed), undo: Box::new(undo) },
        })
    }

    /// What it uses.
    ///
    /// # Errors
    /// If it is gone.
    pub fn stats(&self) -> Result<Stats> {
        stats::read(self)
    }

    /// Watches for processes that end because there is no more memory.
    ///
    /// # Errors
    /// The host's, or that it has no memory controller.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        OomWatch::new(self)
    }

    /// How many processes have ended because there was no more memory.
    pub fn oom_kills(&self) -> u64 {
        oom::kills(self)
    }

    /// Holds all its processes, or lets them go on.
    ///
    /// # Errors
    /// The host's, or that it has no freezer.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, value, wanted) = match self {
            Self::V1(group) => {
                let Some(directory) = group.directories.get("freezer") else {
                    return Err(Error::NoController { setting: "freezer state", controller: "freezer" });
                };
                let state = if frozen { "FROZEN" } else { "THAWED" };
                (directory.join("freezer.state"), state, state.to_owned())
            }
            Self::V2(group) => {
                let value = if frozen { "1" } else { "0" };
                (group.directory.join("cgroup.freeze"), value, format!("frozen {value}"))
            }
        };
        let state = match self {
            Self::V1(_) => file.clone(),
            Self::V2(group) => group.directory.join("cgroup.events"),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // In version 1 it can stop half-way, and goes on only when asked again.
            write(&file, value)?;
            if read(&state)?.lines().any(|line| line.trim() == wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let source = io::Error::new(io::ErrorKind::TimedOut, "its processes cannot be stopped");
                return Err(Error::io("freeze", &file)(source));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Processes in it and in groups below it.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.directories().into_iter().flat_map(pids_below).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Processes whose use it counts: in other hierarchies, programs of a pod are with its first container's.
    pub fn members(&self) -> Vec<i32> {
        let mut limited = self.directories().into_iter().filter(|directory| self.matters(directory));
        limited.next().map(pids_below).unwrap_or_default()
    }

    /// Kills all processes in directories that were made for it, and waits until there are none. Never the caller.
    ///
    /// # Errors
    /// [`Error::Busy`] if some do not go away.
    pub fn kill(&self) -> Result<()> {
        let own = std::process::id().cast_signed();
        let deadline = Instant::now() + LEAVING;
        let mut pause = Duration::from_millis(1);
        loop {
            let mut left: Vec<i32> = self.made().iter().flat_map(|made| pids_below(made)).collect();
            left.retain(|pid| *pid != own);
            left.sort_unstable();
            left.dedup();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let path = self.made().last().cloned().unwrap_or_default();
                return Err(Error::Busy { path, pids: left });
            }
            for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            // What is held in version 1 dies only when it goes on.
            if let Self::V1(group) = self
                && let Some(directory) = group.directories.get("freezer")
            {
                let _ = write(&directory.join("freezer.state"), "THAWED");
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Kills what is left in it and removes the directories that were made for it. Those above the group stay if others
    /// use them by now.
    ///
    /// # Errors
    /// If the group itself does not go away.
    pub fn remove(&self) -> Result<()> {
        self.kill()?;
        let own: Vec<&Path> = self.directories();
        let mut failed = Ok(());
        for directory in self.made().iter().rev() {
            let removed = remove_directory(directory, own.contains(&directory.as_path()));
            if let (Err(error), true) = (removed, own.contains(&directory.as_path())) {
                failed = Err(error);
            }
        }
        failed
    }

    /// Removes the directories of a group of that name once they are empty, for whoever does not know any more what was
    /// made for it. Nothing that is used is touched: the name may be somebody else's.
    ///
    /// # Errors
    /// If it has no usable name, or processes or groups stay in it.
    pub fn remove_empty(host: &Hierarchies, name: Name<'_>) -> Result<()> {
        let planned = Self::plan(host, name)?;
        planned.directories().into_iter().try_for_each(|directory| remove_once_empty(directory, LEAVING))
    }
}

/// Removes a group, with those below it if it is the container's own; those can only be left by the guest's engine.
fn remove_directory(path: &Path, below: bool) -> Result<()> {
    if below {
        for inner in children(path) {
            remove_directory(&inner, true)?;
        }
    }
    remove_once_empty(path, if below { LEAVING } else { Duration::ZERO })
}

/// Removes a group without groups below it when its processes have left, for which they have some time.
fn remove_once_empty(path: &Path, time: Duration) -> Result<()> {
    let deadline = Instant::now() + time;
    let mut pause = Duration::from_millis(1);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Processes that have just died are still leaving.
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            Err(error) => return Err(Error::io("remove cgroup", path)(error)),
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn pids_below(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    // Zero stands for one that this pid namespace does not see.
    pids.retain(|pid| *pid > 0);
    pids.extend(children(path).iter().flat_map(|child| pids_below(child)));
    pids
}

impl V1 {
    fn directory(mount: &Mount, path: &str, absolute: bool) -> PathBuf {
        mount.directory(if absolute { "/" } else { mount.own.as_str() }).join(path)
    }

    fn make(&mut self, host: &Hierarchies, path: &str, absolute: bool) -> Result<()> {
        for mount in &host.mounts {
            let directory = Self::directory(mount, path, absolute);
            let result = self.make_one(mount, &directory);
            let optional = mount.controllers.iter().all(|name| name.is_empty() || name.starts_with("name="));
            match result {
                Ok(()) => {}
                Err(error) if optional => {
                    tracing::warn!("{error}");
                    continue;
                }
                Err(error) => return Err(error),
            }
            for controller in &mount.controllers {
                self.directories.insert(controller.clone(), directory.clone());
            }
        }
        Ok(())
    }

    fn make_one(&mut self, mount: &Mount, directory: &Path) -> Result<()> {
        let before = self.made.len();
        make_directories(&mount.point, directory, &mut self.made)?;
        if self.made.len() == before && pids_below(directory).is_empty() && children(directory).is_empty() {
            // Left behind by somebody, and used by nobody.
            self.made.push(directory.to_owned());
        }
        if mount.controllers.iter().any(|name| name == "cpuset") {
            inherit_cpuset(&mount.point, directory)?;
        }
        Ok(())
    }
}

/// A new cpuset has no processors and no memory, and takes no process before it has.
fn inherit_cpuset(top: &Path, directory: &Path) -> Result<()> {
    let mut chain: Vec<&Path> = directory.ancestors().take_while(|above| *above != top).collect();
    chain.reverse();
    for path in chain {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let file = path.join(name);
            let parent = path.parent().unwrap_or(top).join(name);
            if read(&file)?.trim().is_empty() {
                write(&file, read(&parent)?.trim())?;
            }
        }
    }
    Ok(())
}

impl V2 {
    fn directory(mount: &Mount, path: &str, absolute: bool) -> PathBuf {
        // The caller's own group has processes, and so can have no limits for groups below it: take the one above.
        let own =
            if absolute { Path::new("/") } else { Path::new(&mount.own).parent().unwrap_or(Path::new("/")) };
        mount.directory(&own.to_string_lossy()).join(path)
    }

    fn make(&mut self, host: &Hierarchies, path: &str, absolute: bool) -> Result<()> {
        let Some(mount) = host.mounts.first() else { return Err(Error::NotMounted) };
        self.directory = Self::directory(mount, path, absolute);
        make_directories(&mount.point, &self.directory, &mut self.made)?;
        if self.made.is_empty()
            && pids_below(&self.directory).is_empty()
            && children(&self.directory).is_empty()
        {
            self.made.push(self.directory.clone());
        }
        let mut above: Vec<&Path> = self.directory.ancestors().skip(1).collect();
        above.reverse();
        for directory in above.into_iter().filter(|above| above.starts_with(&mount.point)) {
            let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
            for controller in available.split_whitespace() {
                // One that has processes of its own, or is delegated without it, cannot; a limit then says so.
                let file = directory.join("cgroup.subtree_control");
                if let Err(error) = write(&file, &format!("+{controller}")) {
                    tracing::debug!("{error}");
                }
            }
        }
        Ok(())
    }
}

/// Writes to a control file, in one go.
fn write(path: &Path, value: &str) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), value: value.to_owned(), source };
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path).map_err(failed)?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(failed)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// A number in a control file; `max` is the largest there is.
fn read_number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Lines of a name and a number.
fn read_table(path: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    });
    lines.collect()
}
