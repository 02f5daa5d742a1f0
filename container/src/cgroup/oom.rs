//! Being told that processes ended because there was no more memory.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::{Cgroup, Error, Result, read_table, write};

/// Watches one group.
#[derive(Debug)]
pub struct OomWatch {
    group: Cgroup,
    kind: Kind,
    /// How many there had been when it was last looked.
    seen: u64,
}

#[derive(Debug)]
enum Kind {
    /// A counter that the host raises. The file that it stands for must stay open.
    V1 { counter: OwnedFd, _control: File },
    /// Changes of `memory.events`.
    V2 { changes: OwnedFd },
}

/// What a watcher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// There was no more memory.
    Oom,
    /// The group is gone.
    Gone,
    /// Nothing, for the time that it was waited.
    Nothing,
}

/// How many processes were killed in a group for lack of memory.
pub(super) fn kills(group: &Cgroup) -> u64 {
    let Some(directory) = group.directory_of("memory") else { return 0 };
    let file = match group {
        Cgroup::V1(_) => "memory.oom_control",
        Cgroup::V2(_) => "memory.events",
    };
    read_table(&directory.join(file)).get("oom_kill").copied().unwrap_or(0)
}

impl OomWatch {
    pub(super) fn new(group: &Cgroup) -> Result<Self> {
        let Some(directory) = group.directory_of("memory") else {
            return Err(Error::NoController { setting: "a watch for lack of memory", controller: "memory" });
        };
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |error: Errno| Error::io("watch", &path)(error.into())
        };
        let kind = match group {
            Cgroup::V1(_) => {
                let path = directory.join("memory.oom_control");
                let control = File::open(&path).map_err(Error::io("open", &path))?;
                let counter =
                    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed(&path))?;
                let order = format!("{} {}", counter.as_raw_fd(), control.as_raw_fd());
                write(&directory.join("cgroup.event_control"), &order)?;
                Kind::V1 { counter, _control: control }
            }
            Cgroup::V2(_) => {
                let path = directory.join("memory.events");
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let changes = inotify::init(flags).map_err(failed(&path))?;
                let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
                inotify::add_watch(&changes, &path, events).map_err(failed(&path))?;
                Kind::V2 { changes }
            }
        };
        Ok(Self { group: group.clone(), kind, seen: kills(group) })
    }

    /// A descriptor that becomes readable when there may be news.
    pub fn descriptor(&self) -> &OwnedFd {
        match &self.kind {
            Kind::V1 { counter, .. } => counter,
            Kind::V2 { changes } => changes,
        }
    }

    /// Waits for news, `limit` at most.
    ///
    /// # Errors
    /// The host's.
    pub fn next(&mut self, limit: Option<Duration>) -> io::Result<News> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(self.descriptor(), PollFlags::IN)], timeout.as_ref()) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(News::Nothing),
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            self.empty();
            // The removal of the group also wakes.
            if !self.group.directory_of("memory").is_some_and(|directory| directory.is_dir()) {
                return Ok(News::Gone);
            }
            let kills = kills(&self.group);
            match &self.kind {
                // The count may come a moment after the event; the event itself says that memory ran out.
                Kind::V1 { .. } => {
                    self.seen = kills;
                    return Ok(News::Oom);
                }
                // Any line of the file may have changed.
                Kind::V2 { .. } if kills > self.seen => {
                    self.seen = kills;
                    return Ok(News::Oom);
                }
                Kind::V2 { .. } => {}
            }
        }
    }

    fn empty(&self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
        while let Ok((read, _)) = rustix::io::read(self.descriptor(), &mut buffer) {
            // An eventfd is read once, at which it is zero.
            if read.len() < 16 {
                break;
            }
        }
    }
}
