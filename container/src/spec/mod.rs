//! `config.json`: reading it, checking it, and turning it into plain values.
//!
//! [`read`] gives the specification as the `oci-spec` crate has it, with warnings for all that is ignored (by the table
//! in [`fields`]). [`ContainerConfig::new`] turns it into what the rest of this crate works with: paths and names
//! resolved, options parsed, contradictions refused. Texts of errors are those of `runc` where it has one.

pub mod annotations;
pub mod fields;
pub mod layer;
pub mod mounts;
pub mod process;
pub mod seccomp;
pub mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::layer::Layer;
use crate::id::{Id, IdError};
pub use mounts::{MountConfig, MountKind};
pub use process::ProcessConfig;

/// The name of the file in a bundle.
pub const CONFIG: &str = "config.json";

/// What is wrong with a specification.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file.
    #[error("JSON specification file {} not found", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("{} is not valid JSON: {source}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A field has a value of the wrong type, or none of those that there are.
    #[error("{field}: {source}")]
    Malformed {
        /// The field.
        field: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A field that is refused.
    #[error("{field} is not supported: {reason}")]
    Unsupported {
        /// The field.
        field: String,
        /// Why.
        reason: &'static str,
    },
    /// Something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A name in an annotation that is none.
    #[error("annotation {name}: {source}")]
    Annotation {
        /// The annotation.
        name: &'static str,
        /// What is wrong.
        source: IdError,
    },
}

/// The result of reading a specification.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn invalid<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(text.into()))
}

/// A specification, and what is to be said about it.
#[derive(Debug)]
pub struct Document {
    /// The specification.
    pub spec: oci::Spec,
    /// What is ignored, each by its name.
    pub warnings: Vec<String>,
}

/// Reads `config.json` of a bundle.
///
/// # Errors
/// If it is missing, unreadable, no JSON, has a field of the wrong type, or one that is refused.
pub fn read(bundle: &Path) -> Result<Document> {
    let path = bundle.join(CONFIG);
    let text = read_file(&path)?;
    parse(&text).map_err(|error| match error {
        Error::NotJson { source, .. } => Error::NotJson { path, source },
        other => other,
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => Error::Unreadable { path: path.to_owned(), source },
    })
}

/// Checks a specification that did not come from a file in the same way.
///
/// # Errors
/// If it has a field that is refused.
pub fn check(spec: &oci::Spec) -> Result<Document> {
    let unsayable = |source| Error::NotJson { path: PathBuf::new(), source };
    parse(&serde_json::to_vec(spec).map_err(unsayable)?)
}

/// Reads a specification from text.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &[u8]) -> Result<Document> {
    let mut value = parse_json(text)?;
    let mut warnings = Vec::new();
    normalize(&mut value, &mut warnings)?;
    fields::review(&value, &mut warnings)?;
    let spec: oci::Spec = typed(value, "")?;
    Ok(Document { spec, warnings })
}

/// Reads a process, as `exec --process FILE` has it.
///
/// # Errors
/// As [`read`].
pub fn parse_process(text: &[u8]) -> Result<(oci::Process, Vec<String>)> {
    let mut value = parse_json(text)?;
    let mut warnings = Vec::new();
    strip_nulls(&mut value);
    normalize_process(&mut value, &mut warnings)?;
    let mut whole = serde_json::json!({});
    whole["process"] = value;
    fields::review(&whole, &mut warnings)?;
    Ok((typed(whole["process"].take(), "process")?, warnings))
}

/// Reads resources, as `update --resources FILE` has them.
///
/// # Errors
/// As [`read`].
pub fn parse_resources(text: &[u8]) -> Result<(oci::LinuxResources, Vec<String>)> {
    let mut value = parse_json(text)?;
    let mut warnings = Vec::new();
    strip_nulls(&mut value);
    let mut whole = serde_json::json!({ "linux": {} });
    whole["linux"]["resources"] = value;
    fields::review(&whole, &mut warnings)?;
    Ok((typed(whole["linux"]["resources"].take(), "linux.resources")?, warnings))
}

fn parse_json(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|source| Error::NotJson { path: PathBuf::from(CONFIG), source })
}

/// Gives a value its type; an error names the field.
fn typed<T: serde::de::DeserializeOwned>(value: Value, prefix: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = error.path().to_string();
        let field = match (prefix, inner.as_str()) {
            ("", ".") => CONFIG.to_owned(),
            ("", inner) => inner.to_owned(),
            (prefix, ".") => prefix.to_owned(),
            (prefix, inner) => format!("{prefix}.{inner}"),
        };
        Error::Malformed { field, source: error.into_inner() }
    })
}

/// A field that is null is one that is not there: engines that are written in Go write both for the same thing.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Brings a specification into the form that types can express: what is missing and has a default gets it, and names
/// that this program does not know, but may ignore, are taken out.
fn normalize(value: &mut Value, warnings: &mut Vec<String>) -> Result<()> {
    strip_nulls(value);
    if let Some(process) = value.get_mut("process") {
        normalize_process(process, warnings)?;
    }
    for namespace in elements(value, "/linux/namespaces") {
        let name = namespace.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
        let known = ["mount", "cgroup", "uts", "ipc", "user", "pid", "network", "time"];
        if !known.contains(&name.as_str()) {
            return invalid(format!("namespace {{{name:?} {path:?}}} does not exist"));
        }
    }
    for device in elements(value, "/linux/devices") {
        let kind = device.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !["c", "b", "u", "p"].contains(&kind.as_str()) {
            return invalid(format!("invalid device type {kind:?}"));
        }
    }
    if let Some(profile) = value.pointer_mut("/linux/seccomp") {
        normalize_seccomp(profile)?;
    }
    Ok(())
}

fn elements<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

fn normalize_process(process: &mut Value, warnings: &mut Vec<String>) -> Result<()> {
    let Some(map) = process.as_object_mut() else { return Ok(()) };
    let user = map.entry("user").or_insert_with(|| serde_json::json!({}));
    if let Some(user) = user.as_object_mut() {
        for name in ["uid", "gid"] {
            user.entry(name).or_insert_with(|| Value::from(0));
        }
    }
    if map.get("cwd").is_none_or(|cwd| cwd.is_null() || cwd.as_str() == Some("")) {
        return invalid("Cwd property must not be empty");
    }
    if let Some(sets) = map.get_mut("capabilities").and_then(Value::as_object_mut) {
        let mut unknown = Vec::new();
        for names in sets.values_mut().filter_map(Value::as_array_mut) {
            names.retain(|name| {
                let known = name.as_str().is_none_or(|name| process::capability_mask(name).is_some());
                if !known {
                    unknown.extend(name.as_str().map(ToOwned::to_owned));
                }
                known
            });
        }
        unknown.sort();
        unknown.dedup();
        if !unknown.is_empty() {
            warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
        }
    }
    for limit in elements(process, "/rlimits") {
        let name = limit.get("type").and_then(Value::as_str).unwrap_or_default();
        if process::resource_number(name).is_none() {
            return invalid(format!("wrong rlimit value: {name}"));
        }
    }
    Ok(())
}

/// Filters are refused with the words of `runc`; and a list of system calls without names has an empty one.
fn normalize_seccomp(profile: &mut Value) -> Result<()> {
    let action = |value: Option<&Value>| -> Result<()> {
        let name = value.and_then(Value::as_str).unwrap_or_default();
        match serde_json::from_value::<oci::LinuxSeccompAction>(Value::from(name)) {
            Ok(_) => Ok(()),
            Err(_) => invalid(format!("string {name} is not a valid action for seccomp")),
        }
    };
    action(profile.get("defaultAction"))?;
    for arch in elements(profile, "/architectures") {
        if serde_json::from_value::<oci::Arch>(arch.clone()).is_err() {
            let name = arch.as_str().unwrap_or_default();
            return invalid(format!("string {name} is not a valid arch for seccomp"));
        }
    }
    for rule in elements(profile, "/syscalls") {
        action(rule.get("action"))?;
        for argument in elements(rule, "/args") {
            let Some(argument) = argument.as_object_mut() else { continue };
            for name in ["index", "value"] {
                argument.entry(name).or_insert_with(|| Value::from(0));
            }
            let operator = argument.get("op").cloned().unwrap_or_default();
            if serde_json::from_value::<oci::LinuxSeccompOperator>(operator.clone()).is_err() {
                let name = operator.as_str().unwrap_or_default();
                return invalid(format!("string {name} is not a valid operator for seccomp"));
            }
        }
    }
    Ok(())
}

/// What a specification asks for, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerConfig {
    /// The first program.
    pub process: ProcessConfig,
    /// The root directory.
    pub root: Root,
    /// Where its changes go, if it says so.
    #[serde(default)]
    pub root_layer: Option<Layer>,
    /// An archive of changes of the root directory that the container begins with.
    #[serde(default)]
    pub root_archive: Option<PathBuf>,
    /// Whether the container can change nothing in it.
    pub root_read_only: bool,
    /// How mounts of the root directory travel; `MS_*` flags.
    pub root_propagation: Option<u64>,
    /// Further mounts, in order.
    pub mounts: Vec<MountConfig>,
    /// The host name, if one is asked for.
    pub hostname: Option<String>,
    /// The domain name, if one is asked for.
    pub domainname: Option<String>,
    /// Namespaces that are not the caller's.
    pub namespaces: Vec<NamespaceConfig>,
    /// How user ids of its user namespace are mapped.
    pub uid_mappings: Vec<IdMapping>,
    /// How group ids of its user namespace are mapped.
    pub gid_mappings: Vec<IdMapping>,
    /// Devices beyond those that every container has.
    pub devices: Vec<DeviceConfig>,
    /// Paths that show nothing.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be changed.
    pub readonly_paths: Vec<String>,
    /// Kernel settings.
    pub sysctl: BTreeMap<String, String>,
    /// Where its cgroups are, as written.
    pub cgroups_path: Option<String>,
    /// What becomes of system calls, for the application kernel.
    pub seccomp: Option<seccomp::Filter>,
    /// Its place among others.
    pub container_type: ContainerType,
}

/// What the root directory of a container shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// A directory of the host.
    Directory(PathBuf),
    /// An EROFS image.
    Image(PathBuf),
}

impl Root {
    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Image(_) => None,
        }
    }
}

/// A namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceConfig {
    /// What kind.
    pub kind: oci::LinuxNamespaceType,
    /// A file that stands for one to join; without, it is a new one.
    pub path: Option<PathBuf>,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// The first one inside.
    pub container_id: u32,
    /// The first one outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

impl From<&oci::LinuxIdMapping> for IdMapping {
    fn from(mapping: &oci::LinuxIdMapping) -> Self {
        Self { container_id: mapping.container_id(), host_id: mapping.host_id(), size: mapping.size() }
    }
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceConfig {
    /// Where.
    pub path: String,
    /// What.
    pub kind: DeviceKind,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// The place of a container among others, by the annotations of Kubernetes' engines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerType {
    /// It has a sandbox to itself.
    Single,
    /// It is the first of a sandbox that others will join.
    Sandbox,
    /// It joins the sandbox of another.
    Container {
        /// That one.
        sandbox: Id,
    },
}

impl ContainerType {
    /// Reads it from annotations.
    ///
    /// # Errors
    /// If there is a container type that is none, or no sandbox to join.
    pub fn from_annotations(annotations: &BTreeMap<&str, &str>) -> Result<Self> {
        let names = [
            ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
            ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
        ];
        for (kind, sandbox) in names {
            match annotations.get(kind) {
                None => {}
                Some(&"sandbox") => return Ok(Self::Sandbox),
                Some(&"container") => {
                    let Some(id) = annotations.get(sandbox) else {
                        return invalid(format!(
                            "no sandbox ID found when creating container: annotation {sandbox} is missing"
                        ));
                    };
                    let id = Id::new(*id).map_err(|source| Error::Annotation { name: sandbox, source })?;
                    return Ok(Self::Container { sandbox: id });
                }
                Some(other) => {
                    return invalid(format!("unknown container-type {other:?} in annotation {kind}"));
                }
            }
        }
        Ok(Self::Single)
    }
}

/// The annotations of a specification, sorted.
pub fn annotations(spec: &oci::Spec) -> BTreeMap<&str, &str> {
    let all = spec.annotations().iter().flatten();
    all.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

impl ContainerConfig {
    /// Checks a specification. `bundle` is what relative paths in it start from.
    ///
    /// # Errors
    /// What is wrong with it. `warnings` gets what is not as asked for, but may be.
    pub fn new(spec: &oci::Spec, bundle: &Path, warnings: &mut Vec<String>) -> Result<Self> {
        check_version(spec.version())?;
        let Some(root) = spec.root() else { return invalid("root must be specified") };
        let Some(process) = spec.process() else { return invalid("process property must not be empty") };
        let process = ProcessConfig::new(process, warnings)?;
        let mut mounts = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            mounts.push(MountConfig::new(mount, bundle, warnings)?);
        }
        leave_out_hidden(&mut mounts, warnings);
        let default = oci::LinuxBuilder::default()
            .namespaces(Vec::new())
            .masked_paths(Vec::new())
            .readonly_paths(Vec::new())
            .build();
        let default = default.map_err(|error| Error::Invalid(error.to_string()))?;
        let linux = spec.linux().as_ref().unwrap_or(&default);
        let namespaces = namespaces(linux)?;
        check_user_namespace(linux, &namespaces)?;
        let sysctl: BTreeMap<String, String> =
            linux.sysctl().clone().unwrap_or_default().into_iter().collect();
        check_sysctl(&sysctl, &namespaces)?;
        let of_networks = sysctl.keys().filter(|name| name.starts_with("net"));
        warnings.extend(
            of_networks.map(|name| {
                format!("linux.sysctl.{name} is ignored: the network inside has no such setting")
            }),
        );
        check_owners(&mounts, linux)?;
        annotations::review(&annotations(spec), warnings);
        Ok(Self {
            process,
            root: match annotations::root_image(&annotations(spec), bundle, root.path())? {
                Some(root) => root,
                None => Root::Directory(root_directory(root.path(), bundle)?),
            },
            root_layer: annotations::root_layer(&annotations(spec))?,
            root_archive: annotations::root_archive(&annotations(spec), bundle)?,
            root_read_only: root.readonly().unwrap_or(false),
            root_propagation: propagation(linux.rootfs_propagation().as_deref())?,
            mounts,
            hostname: uts_name("hostname", spec.hostname())?,
            domainname: uts_name("domainname", spec.domainname())?,
            namespaces,
            uid_mappings: linux.uid_mappings().iter().flatten().map(IdMapping::from).collect(),
            gid_mappings: linux.gid_mappings().iter().flatten().map(IdMapping::from).collect(),
            devices: linux.devices().iter().flatten().map(device).collect::<Result<_>>()?,
            masked_paths: absolute_paths(linux.masked_paths(), "linux.maskedPaths", warnings),
            readonly_paths: absolute_paths(linux.readonly_paths(), "linux.readonlyPaths", warnings),
            sysctl,
            cgroups_path: cgroups_path(linux),
            seccomp: linux.seccomp().as_ref().map(seccomp::compile).transpose()?,
            container_type: ContainerType::from_annotations(&annotations(spec))?,
        })
    }
}

/// A name of a UTS namespace, if there is one.
fn uts_name(field: &str, name: &Option<String>) -> Result<Option<String>> {
    const LONGEST: usize = 64;
    match name {
        Some(name) if name.len() > LONGEST => {
            invalid(format!("{field}: invalid argument: it has more than {LONGEST} bytes"))
        }
        name => Ok(name.clone().filter(|name| !name.is_empty())),
    }
}

/// Any version 1 will do: within a major version, fields are only added. `runc` does not look at it at all.
fn check_version(version: &str) -> Result<()> {
    let major = version.split('.').next().unwrap_or_default();
    if version.is_empty() || major == "1" {
        return Ok(());
    }
    invalid(format!("ociVersion {version:?} is not supported: it must be 1.x"))
}

fn root_directory(path: &Path, bundle: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return invalid("root.path must not be empty");
    }
    let path = if path.is_absolute() { path.to_owned() } else { bundle.join(path) };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => invalid(format!("invalid rootfs: {} is not a directory", path.display())),
        Err(error) => {
            let text = error_text(&error);
            invalid(format!("invalid rootfs: stat {}: {text}", path.display()))
        }
    }
}

/// The text of an error in lower case and without its number, as `runc` has it and engines look for it.
pub(crate) fn error_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}

fn propagation(name: Option<&str>) -> Result<Option<u64>> {
    match name {
        None | Some("") => Ok(None),
        Some(name) => match mounts::propagation_flag(name) {
            Some(flag) => Ok(Some(flag)),
            None => invalid(format!("rootfsPropagation={name} is not supported")),
        },
    }
}

fn namespaces(linux: &oci::Linux) -> Result<Vec<NamespaceConfig>> {
    let mut all: Vec<NamespaceConfig> = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
        if all.iter().any(|earlier| earlier.kind == kind) {
            let name = namespace_name(kind);
            let path = path.unwrap_or_default();
            return invalid(format!(
                "malformed spec file: duplicated ns {{{name:?} {:?}}}",
                path.display().to_string()
            ));
        }
        if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
            return invalid(format!("namespace path {} is not absolute", path.display()));
        }
        if let Some((path, Err(error))) = path.as_ref().map(|path| (path, path.symlink_metadata())) {
            let text = error_text(&error);
            return invalid(format!("namespace path: lstat {}: {text}", path.display()));
        }
        all.push(NamespaceConfig { kind, path });
    }
    Ok(all)
}

/// The name that a specification has for a kind of namespace.
pub fn namespace_name(kind: oci::LinuxNamespaceType) -> &'static str {
    use oci::LinuxNamespaceType as Kind;
    match kind {
        Kind::Mount => "mount",
        Kind::Cgroup => "cgroup",
        Kind::Uts => "uts",
        Kind::Ipc => "ipc",
        Kind::User => "user",
        Kind::Pid => "pid",
        Kind::Network => "network",
        Kind::Time => "time",
    }
}

fn check_user_namespace(linux: &oci::Linux, namespaces: &[NamespaceConfig]) -> Result<()> {
    let user = namespaces.iter().find(|namespace| namespace.kind == oci::LinuxNamespaceType::User);
    let mapped = [linux.uid_mappings(), linux.gid_mappings()].map(|list| list.iter().flatten().count() > 0);
    match user {
        None if mapped != [false, false] => {
            invalid("user namespace mappings specified, but user namespace isn't enabled in the config")
        }
        Some(NamespaceConfig { path: None, .. }) if mapped != [true, true] => {
            invalid("user namespaces enabled, but no user and group mappings found")
        }
        _ => Ok(()),
    }
}

/// What is to be mounted below the control groups finds no directory there: those are what our kernel shows of its own.
fn leave_out_hidden(mounts: &mut Vec<MountConfig>, warnings: &mut Vec<String>) {
    let groups: Vec<_> =
        mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Cgroup { .. })).collect();
    let groups: Vec<_> = groups.into_iter().map(|mount| format!("{}/", mount.destination)).collect();
    mounts.retain(|mount| {
        let hidden = groups.iter().any(|above| mount.destination.starts_with(above));
        if hidden {
            let destination = &mount.destination;
            warnings.push(format!("mount {destination:?} is ignored: there is no such control group inside"));
        }
        !hidden
    });
}

/// Mounts whose owners are mapped as the container's ids are need such ids.
fn check_owners(mounts: &[MountConfig], linux: &oci::Linux) -> Result<()> {
    let unmapped = linux.uid_mappings().iter().flatten().next().is_none();
    let theirs = |mount: &&MountConfig| mount.owners.as_ref().is_some_and(|owners| owners.uids.is_empty());
    match mounts.iter().find(theirs) {
        Some(mount) if unmapped => invalid(format!(
            "mount {:?}: idmap and ridmap need uidMappings and gidMappings, of the mount or of linux",
            mount.destination
        )),
        _ => Ok(()),
    }
}

/// Settings that are the machine's own cannot be a container's; the list is that of `runc`.
fn check_sysctl(settings: &BTreeMap<String, String>, namespaces: &[NamespaceConfig]) -> Result<()> {
    use oci::LinuxNamespaceType as Kind;
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let has = |kind| namespaces.iter().any(|namespace| namespace.kind == kind);
    for name in settings.keys() {
        let dotted = name.replace('/', ".");
        let dotted = dotted.as_str();
        let needs = if IPC.contains(&dotted) || dotted.starts_with("fs.mqueue.") {
            Some(Kind::Ipc)
        } else if dotted.starts_with("net.") {
            Some(Kind::Network)
        } else if matches!(dotted, "kernel.domainname" | "kernel.hostname") {
            Some(Kind::Uts)
        } else {
            None
        };
        match needs {
            // It is namespaced, but there is a field for it.
            Some(Kind::Uts) if dotted == "kernel.hostname" && has(Kind::Uts) => {
                return invalid(format!(
                    "sysctl {name:?} is not allowed as it conflicts with the OCI \"hostname\" field"
                ));
            }
            Some(kind) if has(kind) => {}
            Some(Kind::Uts) => {
                return invalid(format!("sysctl {name:?} is not allowed without a private UTS namespace"));
            }
            Some(kind) => {
                let kind = namespace_name(kind);
                return invalid(format!("sysctl {name:?} is not allowed in the hosts {kind} namespace"));
            }
            None => return invalid(format!("sysctl {name:?} is not in a separate kernel namespace")),
        }
    }
    Ok(())
}

fn device(device: &oci::LinuxDevice) -> Result<DeviceConfig> {
    let path = device.path().display().to_string();
    if !device.path().is_absolute() {
        return invalid(format!("device path {path:?} is not absolute"));
    }
    let kind = match device.typ() {
        oci::LinuxDeviceType::B => DeviceKind::Block,
        oci::LinuxDeviceType::P => DeviceKind::Fifo,
        _ => DeviceKind::Character,
    };
    let number = |number: i64| u32::try_from(number);
    let (Ok(major), Ok(minor)) = (number(device.major()), number(device.minor())) else {
        return invalid(format!("device {path:?} has invalid numbers {}:{}", device.major(), device.minor()));
    };
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    Ok(DeviceConfig { path, kind, major, minor, mode, uid, gid })
}

fn absolute_paths(list: &Option<Vec<String>>, field: &str, warnings: &mut Vec<String>) -> Vec<String> {
    let mut paths = Vec::new();
    for path in list.iter().flatten() {
        if path.starts_with('/') && !path.contains('\0') {
            paths.push(path.clone());
        } else {
            warnings.push(format!("{field}: {path:?} is not absolute and is ignored"));
        }
    }
    paths
}

fn cgroups_path(linux: &oci::Linux) -> Option<String> {
    let path = linux.cgroups_path().as_ref()?;
    Some(path.to_str()?.to_owned()).filter(|path| !path.is_empty())
}
