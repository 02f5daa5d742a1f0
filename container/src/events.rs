//! The stream of events of a container: what it uses, again and again, and whenever its memory runs out.

use std::io;
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroup, Event, News, OomWatch, Stats};

/// Why a stream ended before its container did.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody reads it.
    #[error("cannot write events: {0}")]
    Write(io::Error),
    /// The control group cannot be watched any more.
    #[error("cannot watch for lack of memory: {0}")]
    Watch(io::Error),
}

/// Writes events of container `id` until it has ended: `stats` gives what it uses, and nothing when it has. Lack of
/// memory is only seen where it has a control group with that controller.
///
/// # Errors
/// If nobody takes them.
pub fn stream(
    id: &str,
    cgroup: Option<&Cgroup>,
    interval: Duration,
    mut stats: impl FnMut() -> Option<Stats>,
    mut write: impl FnMut(&Event) -> io::Result<()>,
) -> Result<(), Error> {
    let mut watch = cgroup.and_then(|group| match group.watch_oom() {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!("lack of memory will not be reported: {error}");
            None
        }
    });
    let mut next = Instant::now();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let Some(stats) = stats() else { return Ok(()) };
            write(&Event::stats(id, stats)).map_err(Error::Write)?;
            next = Instant::now() + interval;
            continue;
        }
        match wait(&mut watch, left)? {
            News::Oom => write(&Event::oom(id)).map_err(Error::Write)?,
            // The group goes with the container; if it does not, the next round tells.
            News::Gone => {
                watch = None;
                next = Instant::now();
            }
            News::Nothing => {}
        }
    }
}

fn wait(watch: &mut Option<OomWatch>, limit: Duration) -> Result<News, Error> {
    match watch {
        Some(watch) => watch.next(Some(limit)).map_err(Error::Watch),
        None => {
            std::thread::sleep(limit);
            Ok(News::Nothing)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::V2;

    #[test]
    fn use_comes_again_and_again_and_lack_of_memory_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events");
        fs::write(&file, "oom_kill 0\n").unwrap();
        let group = Cgroup::V2(V2 { directory: directory.path().to_owned(), made: Vec::new() });
        let (mut rounds, mut kinds) = (0, Vec::new());
        let stats = || {
            rounds += 1;
            (rounds <= 3).then(Stats::default)
        };
        let write = |event: &Event| {
            assert_eq!(event.id, "c1");
            kinds.push(event.kind.clone());
            if kinds.len() == 1 {
                fs::write(&file, "oom_kill 1\n")?;
            }
            Ok(())
        };
        stream("c1", Some(&group), Duration::from_millis(100), stats, write).unwrap();
        assert_eq!(kinds, ["stats", "oom", "stats", "stats"]);
    }

    #[test]
    fn a_stream_ends_with_its_container_and_with_its_reader() {
        let interval = Duration::from_secs(3600);
        stream("c1", None, interval, || None, |_| panic!("nothing is written")).unwrap();
        let result = stream(
            "c1",
            None,
            interval,
            || Some(Stats::default()),
            |_| Err(io::ErrorKind::BrokenPipe.into()),
        );
        assert!(matches!(result, Err(Error::Write(_))));
        // The group vanishes, long before the next round: the container is looked at then.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("group");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("memory.events"), "oom_kill 0\n").unwrap();
        let group = Cgroup::V2(V2 { directory: path.clone(), made: Vec::new() });
        let mut rounds = 0;
        let stats = || {
            rounds += 1;
            (rounds == 1).then(Stats::default)
        };
        let write = |_: &Event| fs::remove_dir_all(&path);
        stream("c1", Some(&group), interval, stats, write).unwrap();
        assert_eq!(rounds, 2);
    }
}
