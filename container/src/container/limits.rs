//! Limits of a container besides those of its control group: what its sandbox is told of them, room for the threads that
//! serve it, and the oom score of its sandbox.

use oci_spec::runtime as oci;
use sandbox::spec::ResourcesSpec;

use super::Container;
use crate::error::{Error, Result};
use crate::oom_score;
use crate::spec::{ContainerConfig, ContainerType, annotations};

/// Threads of the host beside those that serve guests, in a sandbox of one container.
const SERVICE_THREADS: i64 = 64;
/// The period of processor time that stands for one that is not given, in microseconds.
const CPU_PERIOD: u64 = 100_000;

impl Container {
    /// Gives the sandbox the oom score that its containers ask for, and this container's stand-in its own.
    pub(super) fn adjust_oom_score(&self) {
        let adjusted = || -> Result<()> {
            let Some(sandbox) = &self.sandbox else { return Ok(()) };
            let mut asked = Vec::new();
            let mut inherited = self.inherited_oom_score;
            for container in Container::load_sandbox(self.saver.root_dir(), &sandbox.id)? {
                if container.is_sandbox_root() {
                    inherited = container.inherited_oom_score;
                }
                let kind = ContainerType::from_annotations(&annotations(&container.spec))?;
                asked.push((kind, container.oom_score()));
            }
            let asked = asked.iter().map(|(kind, value)| (kind, *value));
            let set =
                |process, value| oom_score::set(process, value).map_err(Error::host("set the oom score"));
            oom_score::set_sandbox(&sandbox.process, oom_score::of_sandbox(asked, inherited))
                .map_err(Error::host("set the oom score of the sandbox"))?;
            match (&self.stand_in, self.oom_score()) {
                (Some(stand_in), Some(value)) => set(stand_in, value),
                _ => Ok(()),
            }
        };
        if let Err(error) = adjusted() {
            tracing::warn!("process.oomScoreAdj: {error}");
        }
    }

    /// Gives a stand-in the oom score that the stubs of its sandbox are to inherit from it.
    pub(super) fn prepare_oom_score(&self, stand_in: i32, wanted: &ContainerConfig) {
        let value = wanted.process.oom_score_adj;
        let value = oom_score::of_stubs(&wanted.container_type, value, self.inherited_oom_score);
        let set = super::create::identify(stand_in).and_then(|process| {
            oom_score::set(&process, value).map_err(Error::host("set the oom score of the container"))
        });
        if let Err(error) = set {
            tracing::warn!("process.oomScoreAdj: {error}");
        }
    }

    fn oom_score(&self) -> Option<i32> {
        self.spec.process().as_ref().and_then(oci::Process::oom_score_adj)
    }
}

/// Limits for the host, where each task of a guest has a thread that runs it and one that serves it. The exact number
/// is enforced inside.
pub(super) fn for_host(resources: &oci::LinuxResources) -> oci::LinuxResources {
    let mut resources = resources.clone();
    let limit = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit > 0);
    if let Some(limit) = limit {
        let limit = limit.saturating_mul(2).saturating_add(SERVICE_THREADS);
        let pids = oci::LinuxPidsBuilder::default().limit(limit).build();
        resources.set_pids(pids.ok());
    }
    resources
}

/// What is not as asked for, in a container without a control group. The number of tasks is limited inside, and there
/// are no devices.
pub(super) fn without_cgroup(resources: &oci::LinuxResources) -> Vec<String> {
    let asked = serde_json::to_value(resources).unwrap_or_default();
    let fields = asked.as_object().into_iter().flatten();
    let lost = fields.filter(|(name, value)| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let empty = empty || value.as_object().is_some_and(serde_json::Map::is_empty);
        !empty && !["devices", "pids"].contains(&name.as_str())
    });
    lost.map(|(name, _)| format!("linux.resources.{name} is ignored: the container has no cgroup")).collect()
}

/// What a specification allows to be used, for the sandbox to see to; zero and what is negative are no limit.
pub(super) fn for_sandbox(spec: &oci::Spec) -> ResourcesSpec {
    let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) else {
        return ResourcesSpec::default();
    };
    let positive = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
    let cpu = resources.cpu().as_ref();
    let period = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0).unwrap_or(CPU_PERIOD);
    ResourcesSpec {
        tasks: resources.pids().as_ref().and_then(|pids| positive(pids.limit())),
        memory: resources.memory().as_ref().and_then(|memory| positive(memory.limit()?)),
        cpu: cpu.and_then(|cpu| positive(cpu.quota()?)).map(|quota| (quota, period)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_that_need_a_group_are_named_where_there_is_none() {
        let resources = serde_json::from_value(json!({
            "memory": { "limit": 1 }, "cpu": { "shares": 2 }, "pids": { "limit": 3 }, "devices": [{ "allow": false }],
            "blockIO": {}, "unified": {}, "hugepageLimits": [],
        }));
        let mut warnings = without_cgroup(&resources.unwrap());
        warnings.sort();
        let text = |name| format!("linux.resources.{name} is ignored: the container has no cgroup");
        assert_eq!(warnings, [text("cpu"), text("memory")]);
    }

    #[test]
    fn the_host_has_room_for_the_threads_that_serve() {
        let resources = |limit: i64| -> oci::LinuxResources {
            serde_json::from_value(json!({ "pids": { "limit": limit } })).unwrap()
        };
        let limit = |limit| for_host(&resources(limit)).pids().as_ref().map(|pids| pids.limit());
        assert_eq!(limit(10), Some(84));
        assert_eq!(limit(-1), Some(-1));
        assert_eq!(limit(i64::MAX), Some(i64::MAX));
    }
}
