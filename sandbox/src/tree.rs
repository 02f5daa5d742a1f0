//! A container's tree of files, put together from its specification.

use std::sync::Arc;

use abi::Errno;
use gofer::Client;
use kernel::Kernel;
use kernel::error::SysError;
use kernel::fs::erofs::ErofsFs;
use kernel::fs::hostfs::{Coherence, HostFs, Writing};
use kernel::fs::memfs::{LayerOptions, MemFs, MemOptions, Store};
use kernel::fs::mount::{MountFlags, MountNamespace};
use kernel::fs::path::{FsState, PathRef, Walk, Walker};
use kernel::fs::{Acls, FileSystem, FileType, NewFile, NewKind};
use kernel::namespace::Namespaces;
use kernel::task::Credentials;
use kernel::tty::DevPts;

use crate::control::message::{ErrorCode, Failure};
use crate::descriptors::Descriptors;
use crate::restrict;
use crate::spec::{
    ContainerSpec, Descriptor, FileAccess, HostFiles, MountKind, MountSpec, RootFiles, RootLayer, RootSpec,
};

/// `MS_STRICTATIME`
const STRICTATIME: u32 = 1 << 24;

/// Something that the specification asks for and the host or the kernel refuses.
pub fn failed(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> Failure {
    move |error| Failure::new(ErrorCode::Internal, format!("{what}: {error}"))
}

/// A container's files.
pub struct Tree {
    /// All of them.
    pub namespace: Arc<MountNamespace>,
    /// The layer over its root directory, if there is one.
    pub layer: Option<Arc<MemFs>>,
}

/// A root directory; also as the layer that it is, if it is one.
struct Root {
    files: Arc<dyn FileSystem>,
    layer: Option<Arc<MemFs>>,
}

/// Builds the tree.
pub fn build(
    kernel: &Arc<Kernel>,
    terminals: &Arc<DevPts>,
    namespaces: &Namespaces,
    spec: &ContainerSpec,
    gofer: &Arc<Client>,
    descriptors: &mut Descriptors,
) -> Result<Tree, Failure> {
    let flags = MountFlags::RELATIME;
    let Root { files, layer } = root(kernel, &spec.root, gofer, descriptors)?;
    let namespace = MountNamespace::new(files, "overlay", flags);
    for mount in &spec.mounts {
        let destination = &mount.destination;
        let (mut file_system, is_file) =
            file_system(kernel, terminals, namespaces, mount, gofer, descriptors)?;
        let place = make_mount_point(&namespace, destination, is_file)
            .map_err(failed(format!("cannot make the mount point {destination}")))?;
        if let (true, MountKind::Memory { size, mode }) = (mount.copy_up, &mount.kind) {
            let options = MemOptions { size: *size, mode: *mode, ..MemOptions::default() };
            let copied = place.existing().and_then(|directory| MemFs::copy_of(directory, options));
            let copied = copied.map_err(failed(format!("cannot copy what is at {destination}")))?;
            file_system = copied.map_or(file_system, |copy| copy as _);
        }
        let mut flags = MountFlags::from_bits_truncate(mount.flags);
        // What mount(2) makes of no word about access times.
        if mount.flags & STRICTATIME == 0 && !flags.contains(MountFlags::NO_ATIME) {
            flags |= MountFlags::RELATIME;
        }
        namespace
            .mount(place, file_system, &mount.source, flags)
            .map_err(failed(format!("cannot mount {destination}")))?;
    }
    restrict::apply(&namespace, spec)?;
    // Mount points may have to be made below a root that is read-only for the container.
    if spec.root.read_only {
        let top = namespace.root();
        let flags = top.mount.flags() | MountFlags::READ_ONLY;
        top.mount.set_flags(flags).map_err(failed("cannot make the root directory read-only"))?;
    }
    Ok(Tree { namespace, layer })
}

/// The file system of the root directory.
fn root(
    kernel: &Kernel,
    root: &RootSpec,
    gofer: &Arc<Client>,
    descriptors: &mut Descriptors,
) -> Result<Root, Failure> {
    let unusable = || failed("cannot use the root directory");
    let host = |files: HostFiles, writing, coherence| {
        let (directory, _) = gofer.attach(files.0)?;
        HostFs::at(directory, writing, coherence, &kernel.host_files)
    };
    let coherence = match root.access {
        FileAccess::Exclusive => Coherence::Exclusive,
        FileAccess::Shared => Coherence::Shared,
    };
    if let Some(HostFiles(number)) = root.store {
        // Said now, and not to whoever writes a large file later: the gofer may have fewer rights than its maker.
        let what =
            "the gofer cannot make files in the directory that is to keep changes of the root directory";
        gofer.create_nameless(number).map_err(failed(what))?;
    }
    let store = root.store.map(|HostFiles(number)| {
        let gofer = Arc::clone(gofer);
        Box::new(move || gofer.create_nameless(number)) as Store
    });
    let options = LayerOptions { size: root.layer_size, store };
    let layer = match (&root.files, root.layer) {
        (RootFiles::Host(files), RootLayer::Through) => {
            let host = host(*files, Writing::ReadWrite, coherence).map_err(unusable())?;
            return Ok(Root { files: host, layer: None });
        }
        (RootFiles::Image { image, path }, RootLayer::Through) => {
            return Ok(Root { files: image_of(*image, path, descriptors)?, layer: None });
        }
        // What lies under a layer is remembered in that anyway.
        (RootFiles::Host(files), RootLayer::Memory) => host(*files, Writing::ReadOnly, Coherence::Exclusive)
            .and_then(|host| MemFs::layer_over(host.root_inode(), options)),
        (RootFiles::Image { image, path }, RootLayer::Memory) => {
            MemFs::layer_over(image_of(*image, path, descriptors)?.root_node(), options)
        }
    };
    let layer = layer.map_err(unusable())?;
    if let Some(archive) = root.archive {
        let archive = std::fs::File::from(descriptors.take(archive)?);
        let applied = layer.apply_layer(std::io::BufReader::with_capacity(64 << 10, archive));
        applied.map_err(|error| {
            let text = format!("cannot use the archive of the root directory's layer: {error}");
            Failure::new(ErrorCode::Internal, text)
        })?;
    }
    Ok(Root { files: Arc::clone(&layer) as _, layer: Some(layer) })
}

/// The file system of an image that is called so on the host.
fn image_of(image: Descriptor, path: &str, descriptors: &mut Descriptors) -> Result<Arc<ErofsFs>, Failure> {
    let image = ErofsFs::new(descriptors.take(image)?);
    image.map_err(|error| Failure::new(ErrorCode::Internal, format!("cannot mount {path}: {error}")))
}

/// Mounts an image in a tree that processes may use already.
pub fn mount_image(
    namespace: &Arc<MountNamespace>,
    image: Descriptor,
    source: &str,
    destination: &str,
    mut descriptors: Descriptors,
) -> Result<(), Failure> {
    let image = image_of(image, source, &mut descriptors)?;
    let place = make_mount_point(namespace, destination, false)
        .map_err(failed(format!("cannot make the mount point {destination}")))?;
    let flags = MountFlags::READ_ONLY | MountFlags::RELATIME;
    let mounted = namespace.mount(place, image, source, flags);
    mounted.map(drop).map_err(failed(format!("cannot mount {destination}")))
}

/// The file system of a mount, and whether it is a single file.
fn file_system(
    kernel: &Arc<Kernel>,
    terminals: &Arc<DevPts>,
    namespaces: &Namespaces,
    mount: &MountSpec,
    gofer: &Arc<Client>,
    descriptors: &mut Descriptors,
) -> Result<(Arc<dyn FileSystem>, bool), Failure> {
    let read_only = MountFlags::from_bits_truncate(mount.flags).contains(MountFlags::READ_ONLY);
    let made: Arc<dyn FileSystem> = match mount.kind {
        MountKind::Host(files) => {
            let unusable = || failed(format!("cannot use {}", mount.source));
            let (directory, attributes) = gofer.attach(files.0).map_err(unusable())?;
            let is_file = FileType::from_mode(attributes.mode) != FileType::Directory;
            let writing = if read_only { Writing::ReadOnly } else { Writing::ReadWrite };
            let host = HostFs::with_devices(
                directory,
                writing,
                Coherence::Shared,
                mount.devices.into(),
                &kernel.host_files,
            )
            .map_err(unusable())?;
            return Ok((host, is_file));
        }
        MountKind::Image(image) => image_of(image, &mount.source, descriptors)?,
        MountKind::Memory { size, mode } => MemFs::tmpfs(MemOptions { size, mode, ..MemOptions::default() }),
        MountKind::Devices => devices().map_err(failed("cannot make the devices"))?,
        MountKind::Processes => kernel::fs::proc::ProcFs::new(kernel, &namespaces.pid_for_children),
        MountKind::Terminals => Arc::clone(terminals) as _,
        MountKind::MessageQueues => Arc::clone(&namespaces.ipc.mqueue) as _,
        MountKind::System => kernel::fs::sysfs::SysFs::new(),
        MountKind::Cgroup => kernel::fs::cgroup::CgroupFs::new(),
    };
    Ok((made, false))
}

/// Finds a directory, and makes it with all above it if it does not exist.
pub fn make_directory(namespace: &Arc<MountNamespace>, path: &str) -> Result<PathRef, Errno> {
    make_mount_point(namespace, path, false)
}

/// The place of a mount, made with all directories above it if it does not exist, those included that links lead to. Links
/// in the container's own files are followed as the container would see them, so they cannot lead out of it.
fn make_mount_point(namespace: &Arc<MountNamespace>, path: &str, file: bool) -> Result<PathRef, Errno> {
    const MAX_LINKS: usize = 40;
    let credentials = Credentials::new(0, 0);
    let top = namespace.root();
    let state = FsState { namespace: Arc::clone(namespace), root: top.clone(), cwd: top.clone(), umask: 0 };
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        parts.rev().map(<[u8]>::to_vec).collect()
    };
    let mut rest = parts(path.as_bytes());
    if rest.iter().any(|part| part == b"..") {
        return Err(Errno::EINVAL);
    }
    // Where it is, and all directories on the way there.
    let mut way = vec![top.clone()];
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == b".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let place = way.last().unwrap_or(&top).clone();
        let walker = Walker::new(&state, &credentials, None, Walk::CREATE);
        let mut found = walker.walk(&place, &part).map_err(SysError::errno)?.place;
        match found.inode() {
            None => {
                let kind = if file && rest.is_empty() { NewKind::Regular } else { NewKind::Directory };
                let new = NewFile { kind, mode: 0o755, uid: 0, gid: 0, acls: Acls::default() };
                found.dentry = found.dentry.instantiate(Arc::clone(place.existing()?).create(&part, &new)?);
            }
            Some(inode) if inode.file_type() == FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                let target = inode.readlink(None)?;
                if target.starts_with(b"/") {
                    way.truncate(1);
                }
                rest.extend(parts(&target));
                continue;
            }
            Some(_) => {}
        }
        way.push(found);
    }
    Ok(way.pop().unwrap_or(top))
}

/// The file system of `/dev`.
fn devices() -> Result<Arc<MemFs>, Errno> {
    use kernel::fs::devices::{CONSOLE, FULL, NULL, RANDOM, TTY, URANDOM, ZERO};
    let memory = MemFs::tmpfs(MemOptions { mode: 0o755, ..MemOptions::default() });
    let root = memory.root();
    let make = |name: &str, kind: NewKind, mode: u32| {
        Arc::clone(&root)
            .create(name.as_bytes(), &NewFile { kind, mode, uid: 0, gid: 0, acls: Acls::default() })
    };
    let all = [
        ("null", NULL),
        ("zero", ZERO),
        ("full", FULL),
        ("random", RANDOM),
        ("urandom", URANDOM),
        ("tty", TTY),
        ("console", CONSOLE),
    ];
    for (name, device) in all {
        make(name, NewKind::CharDevice(device), 0o666)?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        make(name, NewKind::Symlink(target.into()), 0o777)?;
    }
    make("shm", NewKind::Directory, 0o1777)?;
    make("pts", NewKind::Directory, 0o755)?;
    make("mqueue", NewKind::Directory, 0o1777)?;
    Ok(memory)
}
