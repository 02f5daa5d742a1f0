//! From what a specification asks for to what a sandbox is told: paths become descriptors.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use gofer::Writing;
use gofer::mounts::{Below, Devices, Executing, Mount, Owners};
use host::mount::{Ties, Which};
use host::namespace::{IdMaps, IdRange};
use sandbox::spec::{
    Capabilities, ContainerSpec, Descriptor, DevicePolicy, DeviceSpec, HostFiles, LimitSpec,
    MountKind as SandboxMount, MountSpec, ProcessSpec, ResourcesSpec, RootFiles, RootLayer, RootSpec,
    SeccompInstruction, Sharing, Streams,
};

use crate::container::Config;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::spec::layer::check_store;
use crate::spec::mounts::{MountKind, MountOwners, flag};
use crate::spec::{
    ContainerConfig, ContainerType, DeviceConfig, DeviceKind, IdMapping, NamespaceConfig, ProcessConfig, Root,
};

/// Files of the host that a program gets.
#[derive(Debug, Default)]
pub struct Files {
    /// Those that it has open beside its standard streams, by their descriptors inside.
    pub passed: BTreeMap<u32, OwnedFd>,
    /// The program itself, instead of the one that its first argument names.
    pub executable: Option<OwnedFd>,
}

/// A message to a sandbox in the making: descriptors are collected on the way.
#[derive(Debug, Default)]
pub struct Parcel {
    /// Those that go with it.
    pub descriptors: Vec<OwnedFd>,
    /// Files of the host that the gofer is to serve.
    pub files: Vec<Mount>,
}

impl Parcel {
    /// Adds a descriptor.
    pub fn add(&mut self, descriptor: OwnedFd) -> Descriptor {
        self.descriptors.push(descriptor);
        Descriptor(self.descriptors.len() - 1)
    }

    /// Adds the files that a program gets besides its streams, and that it is.
    pub fn give(&mut self, files: &Files, process: &mut ProcessSpec) -> std::io::Result<()> {
        for (number, file) in &files.passed {
            process.files.push((*number, self.add(file.try_clone()?)));
        }
        process.executable =
            files.executable.as_ref().map(OwnedFd::try_clone).transpose()?.map(|file| self.add(file));
        Ok(())
    }

    /// Has the gofer mount and serve an overlay, with these `MS_*` flags.
    fn serve_overlay(&mut self, options: &str, flags: u64) -> HostFiles {
        let overlay =
            Mount { overlay: Some(options.to_owned()), ..mount("overlay".as_ref(), flags, Below::Hidden) };
        self.files.push(overlay);
        HostFiles(self.files.len() as u32 - 1)
    }

    /// Has the gofer make files without names in a directory.
    fn keep_in(&mut self, directory: &Path) -> HostFiles {
        self.files.push(Mount { writing: Writing::Nameless, ..mount(directory, 0, Below::Hidden) });
        HostFiles(self.files.len() as u32 - 1)
    }

    /// Opens an image of a file system.
    pub fn open_image(&mut self, path: &Path) -> Result<Descriptor> {
        let usable = |kind: &FileType| kind.is_file() || kind.is_block_device();
        self.open(path, "open the image", usable, "it is neither a file nor a block device")
    }

    /// Opens a file for reading that is of the right type.
    fn open(
        &mut self,
        path: &Path,
        action: &'static str,
        usable: impl Fn(&FileType) -> bool,
        reason: &'static str,
    ) -> Result<Descriptor> {
        let failed = |source| Error::File { action, path: path.to_owned(), source };
        // Opening a FIFO must not wait for its writer.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let opened = std::fs::File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let kind = opened.metadata().map_err(failed)?.file_type();
        if !usable(&kind) {
            return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason)));
        }
        Ok(self.add(opened.into()))
    }

    /// Has the gofer serve a directory or file, with these `MS_*` flags.
    fn serve(
        &mut self,
        path: &Path,
        flags: u64,
        below: Below,
        owners: Option<Owners>,
        ties: Ties,
        what: &'static str,
    ) -> Result<HostFiles> {
        // What is not there is said here, by the name that it has in the specification.
        let found = path.metadata();
        found.map_err(|source| Error::File { action: what, path: path.to_owned(), source })?;
        self.files.push(Mount { owners, ties, ..mount(path, flags, below) });
        Ok(HostFiles(self.files.len() as u32 - 1))
    }
}

/// A mount with these `MS_*` flags, as the gofer knows it.
fn mount(source: &Path, flags: u64, below: Below) -> Mount {
    let writing = if flags & flag::RDONLY != 0 { Writing::ReadOnly } else { Writing::ReadWrite };
    let executing = if flags & flag::NOEXEC != 0 { Executing::Refused } else { Executing::Allowed };
    let source = source.to_owned();
    let devices = Devices::Refused;
    Mount { source, overlay: None, writing, below, executing, devices, owners: None, ties: Ties::None }
}

/// The other containers of a pod, by the pids of the processes that stand for them.
pub type Neighbours = Vec<(i32, Id)>;

/// A container as its sandbox is told of it. The standard streams are added later.
pub fn container(
    id: &Id,
    config: &ContainerConfig,
    settings: &Config,
    streams: Streams,
    neighbours: &Neighbours,
    parcel: &mut Parcel,
) -> Result<ContainerSpec> {
    let root = root(config, settings, parcel)?;
    let (hostname, domainname) = names(id, config);
    Ok(ContainerSpec {
        id: id.to_string(),
        hostname,
        domainname,
        ordinary_init: false,
        seccomp: config
            .seccomp
            .iter()
            .flat_map(|filter| &filter.program)
            .map(|instruction| {
                SeccompInstruction(instruction.code, instruction.jt, instruction.jf, instruction.k)
            })
            .collect(),
        pid_namespace: sharing(config, oci_spec::runtime::LinuxNamespaceType::Pid, neighbours),
        ipc_namespace: sharing(config, oci_spec::runtime::LinuxNamespaceType::Ipc, neighbours),
        uts_namespace: sharing(config, oci_spec::runtime::LinuxNamespaceType::Uts, neighbours),
        gofer: Vec::new(),
        root,
        mounts: mounts(config, settings, parcel)?,
        devices: config.devices.iter().map(device).collect(),
        masked_paths: config.masked_paths.clone(),
        readonly_paths: config.readonly_paths.clone(),
        sysctl: sysctl(config),
        process: process(&config.process, streams),
        resources: ResourcesSpec::default(),
        cgroups: Vec::new(),
        strace: None,
        gvisor_marker: settings.gvisor_marker,
        user_log: None,
        link: None,
    })
}

/// The root directory as its sandbox is told of it.
fn root(config: &ContainerConfig, settings: &Config, parcel: &mut Parcel) -> Result<RootSpec> {
    let wanted = config.root_layer.as_ref().unwrap_or(&settings.layer);
    let layer = wanted.kind();
    let archive = config.root_archive.as_ref().map(|path| {
        if !settings.root_archives {
            return Err(Error::Arguments(
                "the annotation dev.gvisor.tar.rootfs.upper is not allowed: --allow-rootfs-tar-annotation allows it",
            ));
        }
        if layer == RootLayer::Through {
            return Err(Error::Arguments(
                "the annotation dev.gvisor.tar.rootfs.upper is for a root directory with a layer: --overlay2",
            ));
        }
        parcel.open(path, "open the archive", FileType::is_file, "it is no file")
    });
    let archive = archive.transpose()?;
    let (files, fixed) = match &config.root {
        Root::Directory(path) => {
            // A read-only root still gets its mount points.
            let flags = if layer == RootLayer::Memory { flag::RDONLY } else { 0 };
            let what = "open the root directory";
            let served = parcel.serve(path, flags, Below::Included, None, Ties::None, what)?;
            (RootFiles::Host(served), false)
        }
        Root::Image(path) => {
            let image = parcel.open_image(path)?;
            let path = path.to_string_lossy().into_owned();
            (RootFiles::Image { image, path }, layer == RootLayer::Through)
        }
    };
    let read_only = config.root_read_only || fixed;
    let store = wanted.store(config.root.directory());
    store.map(check_store).transpose()?;
    let store = store.map(|directory| parcel.keep_in(directory));
    let layer_size = wanted.size;
    Ok(RootSpec { files, layer, layer_size, store, archive, read_only, access: settings.access })
}

/// Where a namespace of a container comes from. In a pod, one that is given by the path of a process that stands for
/// one of its containers is that container's. Any other path means the sandbox: engines name namespaces that they have
/// made for the pod. One that is not asked for would be the host's, for which the sandbox stands.
fn sharing(
    config: &ContainerConfig,
    kind: oci_spec::runtime::LinuxNamespaceType,
    neighbours: &Neighbours,
) -> Sharing {
    if !matches!(config.container_type, ContainerType::Container { .. }) {
        return Sharing::New;
    }
    match config.namespaces.iter().find(|namespace| namespace.kind == kind) {
        Some(NamespaceConfig { path: None, .. }) => Sharing::New,
        Some(NamespaceConfig { path: Some(path), .. }) => neighbours
            .iter()
            .find(|(pid, _)| path.starts_with(format!("/proc/{pid}/ns")))
            .map_or(Sharing::Sandbox, |(_, id)| Sharing::Container(id.to_string())),
        None => Sharing::Sandbox,
    }
}

/// The names of its UTS namespace: the host's, if it is to have none of its own.
fn names(id: &Id, config: &ContainerConfig) -> (String, String) {
    let own = config.namespaces.iter().any(|one| one.kind == oci_spec::runtime::LinuxNamespaceType::Uts);
    let host = (!own).then(rustix::system::uname);
    let of_host = |name: fn(&rustix::system::Uname) -> &std::ffi::CStr| {
        host.as_ref().map(|host| name(host).to_string_lossy().into_owned())
    };
    let hostname = config.hostname.clone().or_else(|| of_host(rustix::system::Uname::nodename));
    let domainname = config.domainname.clone().or_else(|| of_host(rustix::system::Uname::domainname));
    (
        hostname.unwrap_or_else(|| id.as_str().chars().take(64).collect()),
        domainname.unwrap_or_else(|| "(none)".to_owned()),
    )
}

/// Settings that there are inside: those of networks are told of in a warning.
fn sysctl(config: &ContainerConfig) -> BTreeMap<String, String> {
    let dotted = config.sysctl.iter().map(|(name, value)| (name.replace('/', "."), value.clone()));
    dotted.filter(|(name, _)| !name.starts_with("net.")).collect()
}

fn device(device: &DeviceConfig) -> DeviceSpec {
    DeviceSpec {
        path: device.path.clone(),
        kind: match device.kind {
            DeviceKind::Character => sandbox::spec::DeviceKind::Character,
            DeviceKind::Block => sandbox::spec::DeviceKind::Block,
            DeviceKind::Fifo => sandbox::spec::DeviceKind::Fifo,
        },
        major: device.major,
        minor: device.minor,
        mode: device.mode,
        uid: device.uid,
        gid: device.gid,
    }
}

/// A program as its sandbox is told of it.
pub fn process(config: &ProcessConfig, streams: Streams) -> ProcessSpec {
    let sets = &config.capabilities;
    ProcessSpec {
        program: config.arguments.first().cloned().unwrap_or_default().into(),
        arguments: config.arguments.iter().cloned().map(Into::into).collect(),
        environment: config.environment.iter().cloned().map(Into::into).collect(),
        cwd: config.cwd.clone().into(),
        make_cwd: false,
        uid: config.uid,
        gid: config.gid,
        groups: config.groups.clone(),
        umask: config.umask,
        capabilities: Capabilities {
            bounding: sets.bounding,
            permitted: sets.permitted,
            effective: sets.effective,
            inheritable: sets.inheritable,
            ambient: sets.ambient,
        },
        no_new_privileges: config.no_new_privileges,
        limits: config
            .limits
            .iter()
            .map(|limit| LimitSpec { resource: limit.resource, soft: limit.soft, hard: limit.hard })
            .collect(),
        oom_score_adj: config.oom_score_adj.unwrap_or(0),
        nice: 0,
        ignored_signals: 0,
        streams,
        stream_names: BTreeMap::new(),
        files: Vec::new(),
        executable: None,
    }
}

fn mounts(config: &ContainerConfig, settings: &Config, parcel: &mut Parcel) -> Result<Vec<MountSpec>> {
    let memory = |size, mode| SandboxMount::Memory { size, mode };
    let mut mounts = Vec::new();
    // Programs do not run without these two, whatever a specification says of them.
    for (destination, kind) in [("/proc", SandboxMount::Processes), ("/dev", SandboxMount::Devices)] {
        if !config.mounts.iter().any(|mount| mount.destination == destination) {
            let source = destination[1..].to_owned();
            let flags =
                (flag::NOSUID | if destination == "/proc" { flag::NODEV | flag::NOEXEC } else { 0 }) as u32;
            let destination = destination.to_owned();
            let devices = DevicePolicy::default();
            mounts.push(MountSpec { destination, kind, flags, devices, source, copy_up: false });
        }
    }
    for mount in &config.mounts {
        let mut flags = (mount.flags | mount.recursive_flags) & !(mount.cleared | mount.recursive_cleared);
        let mut devices = DevicePolicy::default();
        let kind = match &mount.kind {
            MountKind::Bind { path, recursive } => {
                let is_device = path.metadata().is_ok_and(|found| found.file_type().is_char_device());
                if is_device {
                    devices = settings.devices;
                }
                let below = if *recursive { Below::Included } else { Below::Hidden };
                let owners = mount.owners.as_ref().map(|owners| owners_of(owners, config));
                let served =
                    parcel.serve(path, flags, below, owners, mount.ties(), "open the source of a mount")?;
                if devices != DevicePolicy::EmulatedOnly
                    && let Some(last) = parcel.files.last_mut()
                {
                    last.devices = Devices::Allowed;
                }
                SandboxMount::Host(served)
            }
            MountKind::Overlay { options } => SandboxMount::Host(parcel.serve_overlay(options, flags)),
            MountKind::Erofs { path } => {
                flags |= flag::RDONLY;
                SandboxMount::Image(parcel.open_image(path)?)
            }
            // To runc it is a tmpfs that it puts the devices into.
            MountKind::Tmpfs(_) if mount.destination == "/dev" => SandboxMount::Devices,
            MountKind::Tmpfs(options) => {
                memory(options.size.map_or(0, |size| size.bytes(total_memory())), options.mode.unwrap_or(0))
            }
            MountKind::Proc(_) => SandboxMount::Processes,
            MountKind::Sysfs => SandboxMount::System,
            MountKind::Devpts(_) => SandboxMount::Terminals,
            MountKind::Mqueue => SandboxMount::MessageQueues,
            // Whatever version the host has, programs are shown the second, and of that only their own group.
            MountKind::Cgroup { .. } => SandboxMount::Cgroup,
        };
        mounts.push(MountSpec {
            destination: mount.destination.clone(),
            kind,
            flags: (flags & u64::from(u32::MAX)) as u32,
            devices,
            source: mount.source.clone(),
            copy_up: mount.copy_up,
        });
    }
    Ok(mounts)
}

/// How ids are mapped by these lists; `None` if they are empty.
pub fn id_maps(uids: &[IdMapping], gids: &[IdMapping]) -> Option<IdMaps> {
    let ranges = |list: &[IdMapping]| {
        let range =
            |one: &IdMapping| IdRange { inside: one.container_id, outside: one.host_id, count: one.size };
        list.iter().map(range).collect()
    };
    (!uids.is_empty()).then(|| IdMaps { uids: ranges(uids), gids: ranges(gids) })
}

/// How owners of a mount's files are shown: as the container's ids are mapped, if it does not say.
fn owners_of(owners: &MountOwners, config: &ContainerConfig) -> Owners {
    let own = id_maps(&owners.uids, &owners.gids);
    let maps = own.or_else(|| id_maps(&config.uid_mappings, &config.gid_mappings));
    let maps = maps.unwrap_or(IdMaps { uids: Vec::new(), gids: Vec::new() });
    Owners { maps, which: if owners.recursive { Which::All } else { Which::One } }
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit.max(1))
}
