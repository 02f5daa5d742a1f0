//! Boots a kernel.
use kernel::fs::hostfs::{HostFs, Writing};
use kernel::fs::memfs::MemFs;
use kernel::fs::mount::{MountFlags, MountNamespace};
use kernel::fs::path::FsState;
use kernel::task::boot::InitSpec;
use std::os::fd::OwnedFd;
use std::sync::Arc;
/// Runs.
pub fn bring_up(strace: bool, args: &[String]) -> i32 {
    let platform = Arc::new(platform::stub::StubPlatform::start().expect("platform"));
    let strace = strace.then(|| {
        kernel::syscalls::Strace::new(
            kernel::syscalls::StraceFilter::All,
            Box::new(|line| eprintln!("{line}")),
        )
    });
    let kernel = kernel::Kernel::new(
        platform,
        kernel::Config { hostname: "nacelle".into(), domainname: "(none)".into(), strace },
    );
    let root: OwnedFd = std::fs::File::open("/").expect("root").into();
    let lower = HostFs::new(root, Writing::ReadOnly).expect("hostfs");
    let merged = MemFs::merged(lower.root_inode()).expect("merged");
    let namespace = MountNamespace::new(merged, "overlay", MountFlags::empty());
    let root = namespace.root();
    let fs = FsState { namespace, cwd: root.clone(), root, umask: 0o22 };
    let files = (0..3)
        .map(|n| {
            let fd = rustix::io::dup(unsafe_borrow(n)).expect("dup");
            kernel::fs::host_file::HostFile::open(fd, "host:stream").expect("stream")
        })
        .collect();
    let bytes = |s: &String| s.clone().into_bytes();
    let spec = InitSpec {
        program: bytes(&args[0]),
        arguments: args.iter().map(bytes).collect(),
        environment: std::env::vars().map(|(k, v)| format!("{k}={v}").into_bytes()).collect(),
        fs,
        credentials: kernel::task::Credentials::new(0, 0),
        limits: Default::default(),
        files,
    };
    match kernel.start_init(spec) {
        Ok(()) => i32::from(kernel.wait_init().shell_status()),
        Err(e) => {
            eprintln!("nacelle: {e}");
            127
        }
    }
}
fn unsafe_borrow(n: i32) -> std::os::fd::BorrowedFd<'static> {
    match n {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}
