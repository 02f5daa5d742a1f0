//! The process of a specification: who runs what, and how.

use kernel::task::credentials::{ALL_CAPABILITIES, Capability};
use kernel::task::limits::Resource;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::{Result, invalid};

/// A program to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessConfig {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// The program and its arguments; at least one.
    pub arguments: Vec<String>,
    /// The environment, `NAME=value`; each name once.
    pub environment: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// Capabilities.
    pub capabilities: CapabilitySets,
    /// Resource limits.
    pub limits: Vec<LimitConfig>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of capabilities(7)")]
pub struct CapabilitySets {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl CapabilitySets {
    /// Whether a capability, by its number, is in any of them.
    pub fn has_in_any(&self, capability: u32) -> bool {
        let all = self.bounding | self.permitted | self.effective | self.inheritable | self.ambient;
        capability < 64 && all >> capability & 1 == 1
    }
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitConfig {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// What new files do not get if nothing is said.
const USUAL_UMASK: u32 = 0o022;

impl ProcessConfig {
    /// Checks a process of a specification.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(process: &oci::Process, warnings: &mut Vec<String>) -> Result<Self> {
        let arguments = process.args().clone().unwrap_or_default();
        if arguments.is_empty() {
            return invalid("args must not be empty");
        }
        if process.cwd().as_os_str().is_empty() {
            return invalid("Cwd property must not be empty");
        }
        if !process.cwd().is_absolute() {
            return invalid("Cwd must be an absolute path");
        }
        let Some(cwd) = process.cwd().to_str() else { return invalid("process.cwd is not UTF-8") };
        let environment = environment(process.env().as_deref().unwrap_or_default())?;
        // What is passed to a program ends at the first NUL; the rest of it would be lost.
        if let Some(text) =
            arguments.iter().chain(&environment).chain([&cwd.to_owned()]).find(|text| text.contains('\0'))
        {
            return invalid(format!("process: {text:?} has a NUL in it"));
        }
        let user = process.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        if [user.uid(), user.gid()].iter().chain(&groups).any(|id| i32::try_from(*id).is_err()) {
            return invalid("uids and gids must be in range 0-2147483647");
        }
        Ok(Self {
            terminal: process.terminal().unwrap_or(false),
            console_size: console_size(process),
            arguments,
            environment,
            cwd: cwd.to_owned(),
            uid: user.uid(),
            gid: user.gid(),
            groups,
            umask: user.umask().unwrap_or(USUAL_UMASK) & 0o777,
            capabilities: capabilities(process.capabilities().as_ref(), warnings),
            limits: limits(process)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: oom_score_adj(process)?,
        })
    }
}

fn oom_score_adj(process: &oci::Process) -> Result<Option<i32>> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            invalid(format!("process.oomScoreAdj: {score} is not between -1000 and 1000"))
        }
        score => Ok(score),
    }
}

fn console_size(process: &oci::Process) -> Option<(u16, u16)> {
    let size = process.console_size();
    let size = size.as_ref()?;
    let (rows, columns) = (u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?);
    (rows > 0 || columns > 0).then_some((rows, columns))
}

/// Of several values of one name, the last counts.
fn environment(entries: &[String]) -> Result<Vec<String>> {
    let mut kept: Vec<&String> = Vec::with_capacity(entries.len());
    let mut seen = std::collections::HashSet::new();
    for entry in entries.iter().rev() {
        let Some((name, _)) = entry.split_once('=') else {
            return invalid(format!("invalid environment variable: {entry:?} has no '='"));
        };
        if name.is_empty() {
            return invalid(format!("invalid environment variable: {entry:?} has no name"));
        }
        if seen.insert(name) {
            kept.push(entry);
        }
    }
    Ok(kept.into_iter().rev().cloned().collect())
}

/// The bit of a capability by its name, with or without `CAP_` in front.
pub fn capability_mask(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    Capability::ALL
        .iter()
        .find(|capability| &capability.name()[4..] == name)
        .map(|capability| capability.mask())
}

/// The number of a resource by its name, `RLIMIT_` in front.
pub fn resource_number(name: &str) -> Option<u32> {
    let name = name.strip_prefix("RLIMIT_")?;
    let found = Resource::ALL.iter().find(|(_, known)| *known == name);
    found.map(|(resource, _)| *resource as u32)
}

/// Without the section, a process has none at all. What Linux would refuse is left out: a capability can only be
/// effective if it is permitted, and ambient if it is both permitted and inheritable.
fn capabilities(sets: Option<&oci::LinuxCapabilities>, warnings: &mut Vec<String>) -> CapabilitySets {
    let Some(sets) = sets else { return CapabilitySets::default() };
    let mask = |names: &Option<oci::Capabilities>| {
        let bits = names.iter().flatten().filter_map(|name| capability_mask(&name.to_string()));
        bits.fold(0, |all, bit| all | bit) & ALL_CAPABILITIES
    };
    let asked = CapabilitySets {
        bounding: mask(sets.bounding()),
        permitted: mask(sets.permitted()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    };
    let effective = asked.effective & asked.permitted;
    let ambient = asked.ambient & asked.permitted & asked.inheritable;
    let lost = asked.effective & !effective;
    let lost: Vec<_> =
        Capability::ALL.iter().filter(|one| lost & one.mask() != 0).map(|one| one.name()).collect();
    if !lost.is_empty() {
        let lost = lost.join(" ");
        warnings.push(format!("process.capabilities.effective: ignoring [{lost}], which are not permitted"));
    }
    // No word of the ambient ones: Linux grants no others either, and `runc spec` asks for them.
    CapabilitySets { effective, ambient, ..asked }
}

fn limits(process: &oci::Process) -> Result<Vec<LimitConfig>> {
    let mut limits: Vec<LimitConfig> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        let Some(resource) = resource_number(&name) else {
            return invalid(format!("wrong rlimit value: {name}"));
        };
        if limit.soft() > limit.hard() {
            return invalid(format!(
                "error setting rlimit type {resource}: invalid argument: {name} has a soft limit above its hard limit"
            ));
        }
        if limits.iter().any(|earlier| earlier.resource == resource) {
            return invalid(format!("duplicate rlimit {name}"));
        }
        limits.push(LimitConfig { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}
