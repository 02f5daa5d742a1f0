//! A kernel with a container whose files are where those of a real one are: a root in memory over a read-only directory of
//! the host, and a volume that the host may change.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use abi::signal::SignalSet;
use anyhow::{Context, ensure};
use gofer::Directory;
use kernel::container::{
    Cancel, Container, ContainerLimits, ContainerSpec, InitRule, InitSpec, NamespaceSpec, Role,
};
use kernel::fs::PathRef;
use kernel::fs::hostfs::{Coherence, HostFs, Writing};
use kernel::fs::memfs::MemFs;
use kernel::fs::mount::{MountFlags, MountNamespace};
use kernel::fs::path::FsState;
use kernel::task::{Credentials, ExitStatus, Limits};
use kernel::wait::Deadline;
use kernel::{Config, HostInfo, Kernel};

use crate::platform::{ListPlatform, Step};

/// How long the files are that are read.
pub const FILE_LENGTH: usize = 512 << 10;
/// How many files the directories have that are listed.
pub const LISTED: usize = 20;

/// Runs the steps as a container's first process, to its end.
pub fn run(steps: Vec<Step>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (root, volume) = (directory.path().join("root"), directory.path().join("volume"));
    make_root(&root)?;
    make_files(&volume)?;
    let config = Config { strace: None, host: HostInfo::default(), gvisor_marker: false };
    let kernel = Kernel::new(Arc::new(ListPlatform::new(steps)), config);
    let mounts = mounts(&kernel, &root, &volume)?;
    let container = container(&kernel, &mounts)?;
    container.prepare(first_process(&mounts)).context("cannot load the program")?.start()?;
    let status = container.wait_init(Deadline::Never, &Cancel::default());
    ensure!(status == Some(ExitStatus::Exited(0)), "the steps ended with {status:?}");
    Ok(())
}

fn make_root(root: &Path) -> anyhow::Result<()> {
    fs::create_dir(root)?;
    fs::create_dir(root.join("volume"))?;
    make_files(&root.join("data"))?;
    let program = root.join("program");
    fs::write(&program, elf())?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    Ok(())
}

/// The smallest program: a page of zeros.
fn elf() -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    let halves = |image: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| image.extend(value.to_le_bytes()));
    };
    halves(&mut image, &[2, 62, 1, 0]);
    [0x40_0000u64, 64, 0].iter().for_each(|value| image.extend(value.to_le_bytes()));
    halves(&mut image, &[0, 0, 64, 56, 1, 64, 0, 0]);
    [1u32, 5].iter().for_each(|value| image.extend(value.to_le_bytes()));
    [0u64, 0x40_0000, 0x40_0000, 4096, 4096, 4096].iter().for_each(|value| image.extend(value.to_le_bytes()));
    image.resize(4096, 0);
    image
}

fn make_files(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory.join("a/b/c"))?;
    fs::create_dir(directory.join("many"))?;
    for number in 0..LISTED {
        fs::write(directory.join(format!("many/file-{number:03}")), "")?;
    }
    fs::write(directory.join("file"), vec![b'x'; FILE_LENGTH])?;
    fs::write(directory.join("a/b/c/file"), "")?;
    symlink("file", directory.join("link"))?;
    Ok(())
}

fn mounts(kernel: &Kernel, root: &Path, volume: &Path) -> anyhow::Result<Arc<MountNamespace>> {
    let at = |path: &Path, writing, coherence| -> anyhow::Result<Arc<HostFs>> {
        let directory = Directory::held(File::open(path)?.into());
        HostFs::at(directory, writing, coherence, &kernel.host_files).context("cannot use a directory")
    };
    let lower = at(root, Writing::ReadOnly, Coherence::Exclusive)?;
    let merged = MemFs::merged(lower.root_inode()).context("cannot make a root")?;
    let mounts = MountNamespace::new(merged, "overlay", MountFlags::RELATIME);
    let top = mounts.root();
    let dentry = top.dentry.lookup(&*top.mount.file_system, b"volume")?;
    let place = PathRef { mount: top.mount, dentry };
    let volume = at(volume, Writing::ReadWrite, Coherence::Shared)?;
    mounts.mount(place, volume, "volume", MountFlags::RELATIME).context("cannot mount the volume")?;
    Ok(mounts)
}

fn container(kernel: &Arc<Kernel>, mounts: &Arc<MountNamespace>) -> anyhow::Result<Arc<Container>> {
    let namespaces = kernel.make_namespaces(&NamespaceSpec::default()).context("cannot make namespaces")?;
    let spec = ContainerSpec {
        platform: None,
        id: "cost".into(),
        namespaces,
        mounts: Arc::clone(mounts),
        limits: ContainerLimits::default(),
        init: InitRule::Protected,
        filters: Vec::new(),
    };
    kernel.create_container(spec).context("cannot make a container")
}

fn first_process(mounts: &Arc<MountNamespace>) -> InitSpec {
    let root = mounts.root();
    InitSpec {
        role: Role::Init,
        program: b"/program".to_vec(),
        arguments: vec![b"/program".to_vec()],
        environment: Vec::new(),
        fs: FsState { namespace: Arc::clone(mounts), root: root.clone(), cwd: root, umask: 0 },
        credentials: Credentials::new(0, 0),
        limits: Limits::default(),
        files: Vec::new(),
        executable: None,
        filters: Vec::new(),
        terminal: None,
        oom_score_adj: 0,
        nice: 0,
        ignored_signals: SignalSet::default(),
    }
}
