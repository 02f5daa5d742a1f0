//! How readily the host kills a sandbox when it runs out of memory.
//!
//! The memory of a guest process is that of a process of the host, the stub, and the host is to kill the one that has too
//! much of it. Stubs inherit the value that the sandbox is born with. The sandbox process itself stands for all of its
//! containers: it gets less than the lowest of their values, where that is permitted. The container that only holds a
//! pod together has no say.

use std::io;

use rustix::io::Errno;

use crate::process::ProcessIdentity;
use crate::spec::ContainerType;

/// How much less the sandbox process gets, in thousandths of the memory that there is.
const MARGIN: i32 = 500;
/// The lowest value of a process that can be killed.
const LOWEST: i32 = -999;

/// What the stubs of a sandbox get that is made for a container of this kind. Of a pod it is not known what its containers
/// will ask for.
pub fn of_stubs(kind: &ContainerType, asked: Option<i32>, inherited: i32) -> i32 {
    match kind {
        ContainerType::Sandbox => inherited.max(0),
        _ => asked.unwrap_or(inherited),
    }
}

/// What a sandbox's containers ask for: the lowest value of its containers, or `inherited` if none asks for one.
pub fn of_sandbox<'a>(
    containers: impl IntoIterator<Item = (&'a ContainerType, Option<i32>)>,
    inherited: i32,
) -> i32 {
    let asked = containers.into_iter().filter(|(kind, _)| **kind != ContainerType::Sandbox);
    asked.filter_map(|(_, value)| value).min().unwrap_or(inherited)
}

/// The caller's own value, which what it starts inherits.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn own() -> io::Result<i32> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim().parse().map_err(io::Error::other)
}

/// Sets the value of a sandbox process whose containers ask for `value`: lower than that, if the caller may do so.
///
/// # Errors
/// If even `value` cannot be set.
pub fn set_sandbox(process: &ProcessIdentity, value: i32) -> io::Result<()> {
    if process.is_alive() && write(process, (value - MARGIN).max(LOWEST)).is_ok() {
        return Ok(());
    }
    set(process, value)
}

fn write(process: &ProcessIdentity, value: i32) -> io::Result<()> {
    std::fs::write(format!("/proc/{}/oom_score_adj", process.pid), value.to_string())
}

/// Sets the value of a process. One that has ended does not matter; and where the caller may not lower a value, a
/// warning says so.
///
/// # Errors
/// All others.
pub fn set(process: &ProcessIdentity, value: i32) -> io::Result<()> {
    if !process.is_alive() {
        return Ok(());
    }
    match write(process, value) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!("process.oomScoreAdj: the sandbox cannot have {value}: {error}");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound || is(&error, Errno::SRCH) => Ok(()),
        other => other,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::Id;

    #[test]
    fn a_sandbox_gets_the_lowest_value() {
        let member = ContainerType::Container { sandbox: Id::new("pod").unwrap() };
        let pause = ContainerType::Sandbox;
        assert_eq!(of_sandbox([(&pause, Some(-998)), (&member, Some(900)), (&member, Some(2))], 5), 2);
        assert_eq!(of_sandbox([(&member, None), (&member, Some(-3))], 5), -3);
        assert_eq!(of_sandbox([(&pause, Some(-998))], 5), 5);
        assert_eq!(of_sandbox([(&ContainerType::Single, Some(7))], 5), 7);
        assert_eq!(of_stubs(&ContainerType::Single, Some(7), 5), 7);
        assert_eq!(of_stubs(&ContainerType::Single, None, 5), 5);
        assert_eq!(of_stubs(&pause, Some(-998), -999), 0);
    }

    #[test]
    fn a_value_is_raised_and_a_dead_process_does_not_matter() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = ProcessIdentity::of(child.id().cast_signed()).unwrap().unwrap();
        set(&process, 1000).unwrap();
        let text = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
        assert_eq!(text.trim(), "1000");
        // Lowered again by whoever may, and else with no more than a warning.
        set(&process, own().unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        set(&process, 5).unwrap();
    }
}
