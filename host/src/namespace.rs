//! A child process in namespaces of its own, and what it does to shut itself in.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
/// # Errors
/// The host's, or that the process has more than one thread: the child would inherit locks that nobody unlocks.
pub fn fork_into(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<i32> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(io::Error::other(format!("a process with {threads} threads cannot be forked")));
    }
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
pub fn fork_follower(namespaces: i32, child: impl FnOnce(Maker) -> i32) -> io::Result<i32> {
    let maker =
        Maker(rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?);
    fork_into(namespaces, || if maker.follow().is_ok() { child(maker) } else { 1 })
}

/// The process that has made this one, and with which it is to end. For as long as this exists, the process has a handle
/// on its maker.
pub struct Maker(OwnedFd);

impl Maker {
    /// Makes the calling process die with the thread that forked it; an error if that has died already. To be repeated
    /// after ids have changed, which makes the host forget it.
    ///
    /// # Errors
    /// Also the host's.
    pub fn follow(&self) -> io::Result<()> {
        die_with_parent()?;
        if has_ended(&self.0) { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }
}

impl AsFd for Maker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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

/// A directory on which a mount namespace of one's own can have a new root for a moment. Any will do that exists, but for
/// `/proc`: the host makes another procfs only where it sees one.
pub fn place_to_mount() -> &'static str {
    let exists = |place: &&str| Path::new(place).is_dir();
    ["/usr", "/etc", "/run", "/tmp"].into_iter().find(exists).unwrap_or("/dev")
}

/// Replaces the root of the calling process's mount namespace by an empty, read-only directory. Returns a descriptor
/// of a procfs of its own pid namespace, if the host allows to mount one.
pub fn enter_empty_root() -> io::Result<Option<std::fs::File>> {
    use std::os::unix::fs::OpenOptionsExt;
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    let hidden = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let root = Path::new(place_to_mount());
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

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first one in the user namespace.
    pub inside: u32,
    /// The first one in the caller's.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// How the ids of a user namespace are mapped to those of the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// Those of users.
    pub uids: Vec<IdRange>,
    /// Those of groups.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// The user and group that stand for the namespace: root, if there is one.
    pub fn first(&self) -> (u32, u32) {
        let first = |ranges: &[IdRange]| ranges.iter().map(|range| range.inside).min().unwrap_or(0);
        (first(&self.uids), first(&self.gids))
    }

    fn write(&self, pid: i32) -> io::Result<()> {
        let text = |ranges: &[IdRange]| {
            let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
            ranges.iter().map(line).collect::<String>()
        };
        let path = |name: &str| format!("/proc/{pid}/{name}");
        if std::fs::write(path("gid_map"), text(&self.gids)).is_err() {
            // Who may map no ids but their own must first give up the choice of groups.
            std::fs::write(path("setgroups"), "deny")?;
            std::fs::write(path("gid_map"), text(&self.gids))?;
        }
        std::fs::write(path("uid_map"), text(&self.uids))
    }
}

/// Makes a user namespace in which ids are mapped like this.
///
/// # Errors
/// `EPERM` if the caller may not map them, `EINVAL` if ranges overlap or are too many, or that of [`fork_into`].
pub fn user_namespace(maps: &IdMaps) -> io::Result<OwnedFd> {
    let (wait, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut given = Some(end);
    let pid = fork_into(libc::CLONE_NEWUSER, || {
        drop(given.take());
        // Until the caller has what it wants, or is gone.
        let _ = rustix::io::read(&wait, &mut [0u8; 1]);
        0
    })?;
    let made = maps.write(pid).and_then(|()| Ok(std::fs::File::open(format!("/proc/{pid}/ns/user"))?.into()));
    drop(given);
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
    }
    made
}

/// Moves the calling process, which has one thread, into a user namespace, as the user that stands for it.
///
/// # Errors
/// `EPERM` unless the caller is privileged over it.
pub fn enter_user_namespace(namespace: BorrowedFd<'_>, maps: &IdMaps) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUSER) }.into())?;
    become_first(maps)
}

/// Makes the calling process the user that stands for its user namespace, in which ids are mapped like this.
///
/// # Errors
/// The host's.
pub fn become_first(maps: &IdMaps) -> io::Result<()> {
    let (uid, gid) = maps.first();
    // SAFETY: numbers, and an empty list. Groups that are not mapped stay where they cannot be given up.
    unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Maps the ids of a child's new user namespace: as `maps` says, or else all of the caller's if it is privileged, or else
/// just its own.
///
/// # Errors
/// `EPERM` if the caller may not map them.
pub fn map_ids(pid: i32, maps: Option<&IdMaps>) -> io::Result<()> {
    if let Some(maps) = maps {
        return maps.write(pid);
    }
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
