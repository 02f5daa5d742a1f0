//! A child process in namespaces of its own, and what it does to shut itself in.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

pub(crate) fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `CLONE_NEW*` flags of all namespaces that a sandbox has of its own: user, mount, pid, ipc, uts, net.
pub const SANDBOX: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET;

/// Forks a child into new namespaces (`CLONE_NEW*` flags). The child runs `child` and exits with what it returns.
/// Returns the child's pid.
///
/// # Panics
/// If the process has more than one thread: the child would inherit locks that nobody unlocks.
pub fn fork_into(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<i32> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert!(threads == 1, "a process with {threads} threads cannot be forked");
    let flags = i64::from(namespaces | libc::SIGCHLD);
    // SAFETY: a fork: the child has a copy of all memory and goes on here; there are no other threads (checked above)
    // whose locks it could inherit.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0i64, 0i64, 0i64, 0i64) })?;
    if pid == 0 {
        let status = child();
        // SAFETY: ends the process without running the parent's exit handlers.
        unsafe { libc::_exit(status) };
    }
    Ok(pid as i32)
}

/// Like [`fork_into`], but the child is killed when the calling thread ends, however early that is.
pub fn fork_follower(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<i32> {
    let parent =
        rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    fork_into(namespaces, || {
        let followed = die_with_parent().is_ok() && !has_ended(&parent);
        // The child is to have no handle on its maker.
        drop(parent);
        if followed { child() } else { 1 }
    })
}

fn die_with_parent() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into()).map(drop)
}

/// Whether the process behind a pidfd has ended. One that ended before [`die_with_parent`] sends no signal any more.
fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::time::Timespec::default())) != Ok(0)
}

/// Makes the calling process die with the thread that forked it, and leads a session of its own, so that a terminal's
/// signals do not reach it.
pub fn follow_parent() -> io::Result<()> {
    die_with_parent()?;
    // SAFETY: no memory is involved.
    unsafe { libc::setsid() };
    Ok(())
}

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let string = |text: &[u8]| CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (source, kind, data) =
        (string(source.as_bytes())?, string(kind.as_bytes())?, string(data.as_bytes())?);
    let target = string(std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()))?;
    // SAFETY: all four are valid C strings.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    check(result.into()).map(drop)
}

/// Replaces the root of the calling process's mount namespace by an empty, read-only directory. Returns a descriptor
/// of a procfs of its own pid namespace, if the host allows to mount one.
pub fn enter_empty_root() -> io::Result<Option<std::fs::File>> {
    use std::os::unix::fs::OpenOptionsExt;
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    let hidden = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // Any directory will do as the place of the new root; this one always exists.
    let root = Path::new("/usr");
    mount("nacelle", root, "tmpfs", hidden, "mode=0555,size=4k")?;
    std::env::set_current_dir(root)?;
    std::fs::create_dir("proc")?;
    let mut procfs = None;
    if mount("proc", Path::new("proc"), "proc", hidden, "").is_ok() {
        procfs = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open("proc")
            .ok();
        // SAFETY: a valid C string.
        unsafe { libc::umount2(c"proc".as_ptr(), libc::MNT_DETACH) };
    }
    std::fs::remove_dir("proc")?;
    // SAFETY: valid C strings; the old root is detached at once.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into())?;
    }
    mount("nacelle", Path::new("/"), "", libc::MS_REMOUNT | libc::MS_RDONLY | hidden, "")?;
    std::env::set_current_dir("/")?;
    Ok(procfs)
}

/// Gives up all capabilities for good, and the way to new ones.
pub fn drop_privileges() -> io::Result<()> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: the two structures are as capset(2) wants them and outlive the call; the others touch no memory.
    unsafe {
        for capability in 0..=63 {
            // Beyond the last capability, EINVAL.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        check(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        // A change of capabilities makes a process unreadable to itself: it must still read its stubs' memory.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())?;
    }
    Ok(())
}

/// Maps the ids of a child's new user namespace: all of the caller's if it is privileged, else just its own.
pub fn map_ids(pid: i32) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let identity = |name: &str| -> io::Result<String> {
        let own = std::fs::read_to_string(format!("/proc/self/{name}"))?;
        let lines = own.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
            Some(format!("{inside} {inside} {count}\n"))
        });
        Ok(lines.collect())
    };
    if uid == 0
        && std::fs::write(path("uid_map"), identity("uid_map")?).is_ok()
        && std::fs::write(path("gid_map"), identity("gid_map")?).is_ok()
    {
        return Ok(());
    }
    std::fs::write(path("setgroups"), "deny")?;
    std::fs::write(path("uid_map"), format!("{uid} {uid} 1\n"))?;
    std::fs::write(path("gid_map"), format!("{gid} {gid} 1\n"))
}

/// Whether a user id means something in the calling process's user namespace.
pub fn is_mapped(uid: u32) -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| {
        let mut words = line.split_whitespace().map_while(|word| word.parse::<u64>().ok());
        let (first, _, count) = (words.next(), words.next(), words.next());
        let (Some(first), Some(count)) = (first, count) else { return false };
        (first..first.saturating_add(count)).contains(&uid.into())
    })
}

/// Raises those of the calling process's limits as far as they go that would hold back a process which serves guests: they
/// are for what the guests do, and the kernel sees to that.
pub fn raise_limits() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    for resource in [Resource::Nofile, Resource::Fsize, Resource::As, Resource::Data, Resource::Cpu] {
        let mut limit = getrlimit(resource);
        limit.current = limit.maximum;
        let _ = setrlimit(resource, limit);
    }
}
