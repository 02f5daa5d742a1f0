//! Limits of a specification as contents of control files.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

use super::{Cgroup, Error, Result, V1, V2, read_number, write};

/// Whether a limit can be left out where the host has no file for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The container must not run without.
    Must,
    /// It is said, and the container runs.
    May,
}

struct Writer<'a> {
    group: &'a Cgroup,
    warnings: Vec<String>,
}

impl Writer<'_> {
    fn directory(&self, controller: &str) -> Option<&Path> {
        self.group.directory_of(controller)
    }

    /// Writes a value. `setting` is the field of the specification that it comes from.
    fn set(
        &mut self,
        need: Need,
        setting: &'static str,
        controller: &'static str,
        file: &str,
        value: &str,
    ) -> Result<()> {
        let path = self.directory(controller).map(|directory| directory.join(file));
        match path {
            Some(path) if path.exists() => write(&path, value),
            _ if need == Need::Must => Err(Error::NoController { setting, controller }),
            _ => {
                self.warnings.push(format!("{setting} is ignored: the host has no {file}"));
                Ok(())
            }
        }
    }
}

/// Sets all limits that are given.
pub(super) fn apply(group: &Cgroup, resources: &LinuxResources) -> Result<Vec<String>> {
    let mut writer = Writer { group, warnings: Vec::new() };
    match group {
        Cgroup::V1(group) => apply_v1(group, &mut writer, resources)?,
        Cgroup::V2(group) => apply_v2(group, &mut writer, resources)?,
    }
    Ok(writer.warnings)
}

fn apply_v1(group: &V1, writer: &mut Writer<'_>, resources: &LinuxResources) -> Result<()> {
    if resources.unified().as_ref().is_some_and(|map| !map.is_empty()) {
        return Err(Error::Invalid("unified resources are only supported with cgroupv2".to_owned()));
    }
    if let Some(cpu) = resources.cpu() {
        cpu_v1(writer, cpu)?;
        cpuset(writer, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        memory_v1(group, writer, memory)?;
    }
    pids(writer, resources)?;
    if let Some(block) = resources.block_io() {
        block_v1(writer, block)?;
    }
    huge_pages(writer, resources, "limit_in_bytes")
}

fn apply_v2(group: &V2, writer: &mut Writer<'_>, resources: &LinuxResources) -> Result<()> {
    if let Some(cpu) = resources.cpu() {
        cpu_v2(group, writer, cpu)?;
        cpuset(writer, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        memory_v2(group, writer, memory)?;
    }
    pids(writer, resources)?;
    if let Some(block) = resources.block_io() {
        block_v2(writer, block)?;
    }
    huge_pages(writer, resources, "max")?;
    unified(group, resources.unified().as_ref())
}

/// Zero stands for "not given", as in `runc`.
fn given<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

fn limit_text(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn cpu_v1(writer: &mut Writer<'_>, cpu: &LinuxCpu) -> Result<()> {
    let mut set = |need, setting, file: &str, value: String| writer.set(need, setting, "cpu", file, &value);
    if let Some(shares) = given(cpu.shares()) {
        set(Need::May, "linux.resources.cpu.shares", "cpu.shares", shares.to_string())?;
    }
    let (quota, period) = (given(cpu.quota()), given(cpu.period()));
    let mut late_period = None;
    if let Some(period) = period {
        let field = "linux.resources.cpu.period";
        match set(Need::Must, field, "cpu.cfs_period_us", period.to_string()) {
            // Shorter than the quota that is set until now: possible when the new quota is.
            Err(Error::Write { source, .. }) if quota.is_some() && is(&source, Errno::INVAL) => {
                late_period = Some(period);
            }
            other => other?,
        }
    }
    if let Some(quota) = quota {
        set(Need::Must, "linux.resources.cpu.quota", "cpu.cfs_quota_us", quota.to_string())?;
    }
    if let Some(period) = late_period {
        set(Need::Must, "linux.resources.cpu.period", "cpu.cfs_period_us", period.to_string())?;
    }
    if let Some(burst) = cpu.burst() {
        set(Need::May, "linux.resources.cpu.burst", "cpu.cfs_burst_us", burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        set(Need::May, "linux.resources.cpu.idle", "cpu.idle", idle.to_string())?;
    }
    Ok(())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn cpu_v2(group: &V2, writer: &mut Writer<'_>, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = given(cpu.shares()) {
        let weight = shares_to_weight(shares).to_string();
        writer.set(Need::May, "linux.resources.cpu.shares", "cpu", "cpu.weight", &weight)?;
    }
    let (quota, period) = (given(cpu.quota()), given(cpu.period()));
    if quota.is_some() || period.is_some() {
        let file = group.directory.join("cpu.max");
        let now = std::fs::read_to_string(&file).unwrap_or_default();
        let mut now = now.split_whitespace();
        let (now_quota, now_period) = (now.next().unwrap_or("max"), now.next().unwrap_or("100000"));
        let quota = quota.map_or_else(|| now_quota.to_owned(), limit_text);
        let period = period.map_or_else(|| now_period.to_owned(), |period| period.to_string());
        let value = format!("{quota} {period}");
        writer.set(Need::Must, "linux.resources.cpu.quota", "cpu", "cpu.max", &value)?;
    }
    if let Some(burst) = cpu.burst() {
        writer.set(Need::May, "linux.resources.cpu.burst", "cpu", "cpu.max.burst", &burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        writer.set(Need::May, "linux.resources.cpu.idle", "cpu", "cpu.idle", &idle.to_string())?;
    }
    Ok(())
}

/// Of 2 to 262144 shares, a weight of 1 to 10000.
pub(super) fn shares_to_weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

/// Of a weight for version 1 of 10 to 1000, one for version 2 of 1 to 10000.
pub(super) fn block_weight(weight: u16) -> u64 {
    let weight = u64::from(weight.clamp(10, 1000));
    1 + (weight - 10) * 9999 / 990
}

fn cpuset(writer: &mut Writer<'_>, cpu: &LinuxCpu) -> Result<()> {
    for (setting, file, value) in [
        ("linux.resources.cpu.cpus", "cpuset.cpus", cpu.cpus()),
        ("linux.resources.cpu.mems", "cpuset.mems", cpu.mems()),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            writer.set(Need::Must, setting, "cpuset", file, value)?;
        }
    }
    Ok(())
}

fn pids(writer: &mut Writer<'_>, resources: &LinuxResources) -> Result<()> {
    let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0) else {
        return Ok(());
    };
    writer.set(Need::Must, "linux.resources.pids.limit", "pids", "pids.max", &limit_text(limit))
}

fn memory_v1(group: &V1, writer: &mut Writer<'_>, memory: &LinuxMemory) -> Result<()> {
    let limit = given(memory.limit());
    // Without a limit, one that includes swap makes no sense.
    let swap = given(memory.swap()).or(limit.filter(|limit| *limit == -1));
    if let Some(limit) = limit.filter(|limit| *limit < -1) {
        return Err(Error::Invalid(format!("linux.resources.memory.limit: invalid argument: {limit}")));
    }
    let directory = group.directories.get("memory");
    let now = directory.and_then(|directory| read_number(&directory.join("memory.memsw.limit_in_bytes")));
    // The limit with swap can never be below the one without: which comes first depends on where they are.
    let swap_first = match swap {
        Some(-1) => true,
        Some(swap) => now.is_some_and(|now| u64::try_from(swap).is_ok_and(|swap| swap > now)),
        None => false,
    };
    let set_swap = |writer: &mut Writer<'_>| match swap {
        Some(swap) => {
            let field = "linux.resources.memory.swap";
            writer.set(Need::May, field, "memory", "memory.memsw.limit_in_bytes", &swap.to_string())
        }
        None => Ok(()),
    };
    if swap_first {
        set_swap(writer)?;
    }
    if let Some(limit) = limit {
        let field = "linux.resources.memory.limit";
        let written = writer.set(Need::Must, field, "memory", "memory.limit_in_bytes", &limit.to_string());
        written.map_err(|error| explain_busy(error, directory.map(AsRef::as_ref), limit))?;
    }
    if !swap_first {
        set_swap(writer)?;
    }
    let mut set = |setting, file: &str, value: String| writer.set(Need::May, setting, "memory", file, &value);
    if let Some(reservation) = given(memory.reservation()) {
        let file = "memory.soft_limit_in_bytes";
        set("linux.resources.memory.reservation", file, reservation.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        set("linux.resources.memory.disableOOMKiller", "memory.oom_control", "1".to_owned())?;
    }
    // The largest number is how some engines write "not given".
    if let Some(swappiness) = memory.swappiness().filter(|swappiness| *swappiness != u64::MAX) {
        if swappiness > 100 {
            let text = format!("invalid memory swappiness value: {swappiness} (valid range is 0-100)");
            return Err(Error::Invalid(text));
        }
        set("linux.resources.memory.swappiness", "memory.swappiness", swappiness.to_string())?;
    }
    Ok(())
}

fn explain_busy(error: Error, directory: Option<&Path>, limit: i64) -> Error {
    match (error, directory) {
        (Error::Write { source, .. }, Some(directory)) if is(&source, Errno::BUSY) => {
            let number = |file: &str| read_number(&directory.join(file)).unwrap_or(0);
            let (usage, peak) = (number("memory.usage_in_bytes"), number("memory.max_usage_in_bytes"));
            Error::InUse { limit, usage, peak }
        }
        (error, _) => error,
    }
}

fn memory_v2(group: &V2, writer: &mut Writer<'_>, memory: &LinuxMemory) -> Result<()> {
    let limit = given(memory.limit());
    if memory.check_before_update() == Some(true)
        && let (Some(limit), Some(usage)) = (limit, read_number(&group.directory.join("memory.current")))
        && u64::try_from(limit).is_ok_and(|limit| limit < usage)
    {
        return Err(Error::Invalid(format!("rejecting memory limit {limit} < usage {usage}")));
    }
    let swap = match (given(memory.swap()), limit) {
        (Some(-1), _) | (None, Some(-1)) => Some("max".to_owned()),
        // Here it is swap alone; in the specification, memory and swap together.
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => Some((swap - limit).to_string()),
        (Some(swap), _) => {
            return Err(Error::Invalid(format!(
                "linux.resources.memory.swap: {swap} needs a memory limit that is not above it"
            )));
        }
        (None, _) => None,
    };
    if let Some(swap) = swap {
        writer.set(Need::May, "linux.resources.memory.swap", "memory", "memory.swap.max", &swap)?;
    }
    if let Some(limit) = limit {
        let field = "linux.resources.memory.limit";
        writer.set(Need::Must, field, "memory", "memory.max", &limit_text(limit))?;
    }
    if let Some(reservation) = given(memory.reservation()) {
        let value = limit_text(reservation);
        writer.set(Need::May, "linux.resources.memory.reservation", "memory", "memory.low", &value)?;
    }
    for (present, setting) in [
        (memory.disable_oom_killer() == Some(true), "linux.resources.memory.disableOOMKiller"),
        (memory.swappiness().is_some_and(|value| value != u64::MAX), "linux.resources.memory.swappiness"),
    ] {
        if present {
            writer.warnings.push(format!("{setting} is ignored: cgroup version 2 does not have it"));
        }
    }
    Ok(())
}

type Throttles<'a> = [(&'static str, &'static str, &'static str, &'a Option<Vec<LinuxThrottleDevice>>); 4];

fn throttles(block: &LinuxBlockIo) -> Throttles<'_> {
    [
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            block.throttle_read_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            block.throttle_write_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            block.throttle_read_iops_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            block.throttle_write_iops_device(),
        ),
    ]
}

/// The first of these files that there is.
fn present<'a>(writer: &Writer<'_>, controller: &str, files: [&'a str; 2]) -> &'a str {
    let exists =
        |file: &&&str| writer.directory(controller).is_some_and(|directory| directory.join(**file).exists());
    files.iter().find(exists).unwrap_or(&files[0])
}

fn block_v1(writer: &mut Writer<'_>, block: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = given(block.weight()) {
        let file = present(writer, "blkio", ["blkio.weight", "blkio.bfq.weight"]);
        writer.set(Need::May, "linux.resources.blockIO.weight", "blkio", file, &weight.to_string())?;
    }
    for device in block.weight_device().iter().flatten() {
        let Some(weight) = given(device.weight()) else { continue };
        let file = present(writer, "blkio", ["blkio.weight_device", "blkio.bfq.weight_device"]);
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        writer.set(Need::May, "linux.resources.blockIO.weightDevice", "blkio", file, &value)?;
    }
    for (setting, file, _, devices) in throttles(block) {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            writer.set(Need::Must, setting, "blkio", file, &value)?;
        }
    }
    Ok(())
}

fn block_v2(writer: &mut Writer<'_>, block: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = given(block.weight()) {
        let file = present(writer, "io", ["io.bfq.weight", "io.weight"]);
        let weight = if file == "io.weight" { block_weight(weight) } else { u64::from(weight) };
        writer.set(Need::May, "linux.resources.blockIO.weight", "io", file, &weight.to_string())?;
    }
    for device in block.weight_device().iter().flatten() {
        let Some(weight) = given(device.weight()) else { continue };
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        writer.set(Need::May, "linux.resources.blockIO.weightDevice", "io", "io.bfq.weight", &value)?;
    }
    for (setting, _, key, devices) in throttles(block) {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            writer.set(Need::Must, setting, "io", "io.max", &value)?;
        }
    }
    Ok(())
}

fn huge_pages(writer: &mut Writer<'_>, resources: &LinuxResources, end: &str) -> Result<()> {
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!(
                "linux.resources.hugepageLimits: {size:?} is no size of a page"
            )));
        }
        let file = format!("hugetlb.{size}.{end}");
        let value = limit.limit().to_string();
        writer.set(Need::May, "linux.resources.hugepageLimits", "hugetlb", &file, &value)?;
    }
    Ok(())
}

/// Files of version 2 by their names. They are names, not paths, and cannot move processes.
fn unified(group: &V2, files: Option<&HashMap<String, String>>) -> Result<()> {
    let mut files: Vec<_> = files.into_iter().flatten().collect();
    files.sort();
    for (name, value) in files {
        if name.contains('/') || !name.contains('.') || name.starts_with('.') || name.starts_with("cgroup.") {
            return Err(Error::Invalid(format!(
                "unified resource {name:?} must be a file name of a controller"
            )));
        }
        let path = group.directory.join(name);
        if !path.exists() {
            return Err(Error::Invalid(format!(
                "unified resource {name:?} can't be set: controller {:?} not available",
                name.split('.').next().unwrap_or_default()
            )));
        }
        write(&path, value)?;
    }
    Ok(())
}

/// Limits as they are after a change: what `change` gives replaces what `old` has, field by field.
pub fn merge(old: &LinuxResources, change: &LinuxResources) -> LinuxResources {
    let value = |resources: &LinuxResources| serde_json::to_value(resources).unwrap_or_default();
    let mut merged = value(old);
    overlay(&mut merged, value(change));
    serde_json::from_value(merged).unwrap_or_else(|_| change.clone())
}

fn overlay(old: &mut serde_json::Value, change: serde_json::Value) {
    match (old, change) {
        (serde_json::Value::Object(old), serde_json::Value::Object(change)) => {
            for (name, value) in change {
                overlay(old.entry(name).or_insert(serde_json::Value::Null), value);
            }
        }
        (old, change) => *old = change,
    }
}
