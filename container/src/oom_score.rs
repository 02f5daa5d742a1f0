//! How readily the host kills a sandbox when it runs out of memory.
//!
//! Stubs, which run guest code, get what the container asks for, and more where their sandbox process may not have less:
//! see [`sandbox::oom_score`]. The sandbox process stands for all of its containers: it gets less than the lowest of their
//! values, where that is permitted. The container that only holds a pod together has no say.

use std::io;

use rustix::io::Errno;
pub use sandbox::oom_score::own;
use sandbox::oom_score::write;

use crate::process::ProcessIdentity;
use crate::spec::ContainerType;

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

/// Sets the value of a sandbox process whose containers ask for `value`: lower than that, if the caller may do so.
///
/// # Errors
/// If even `value` cannot be set.
pub fn set_sandbox(process: &ProcessIdentity, value: i32) -> io::Result<()> {
    if process.is_alive() && sandbox::oom_score::spare(process.pid, value).is_ok() {
        return Ok(());
    }
    set(process, value)
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
    match write(process.pid, value) {
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
