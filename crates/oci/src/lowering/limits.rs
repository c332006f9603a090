//! `linux.resources`: the cgroup's limits, of a new container and in an update. It must not know cgroup files.
//!
//! Not applied, and warned about where the spec sets them: `memory.swappiness`, `memory.disableOOMKiller`, `cpu.burst`,
//! `cpu.idle`, the realtime fields of `cpu`, and the weights of `blockIO` for leaves and single devices. Not applied
//! without a word, since CRI sends them for every container and they bind nothing of a guest: `devices` (a guest reaches
//! none), `network`, `rdma`, and what the kernel has dropped (`memory.kernel`, `memory.kernelTCP`, `memory.useHierarchy`).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use plan::{Bound, Cpu, Io, Limits, Memory, Throttle, ThrottleKind};
use std::collections::BTreeMap;

/// Why the resources are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a list of numbers.
    #[error("linux.resources.cpu.{field} = {value:?} is no list of numbers: use a form such as 0-2,7")]
    Set {
        /// `cpus` or `mems`.
        field: &'static str,
        /// What it is.
        value: String,
    },
    /// Less memory and swap together than memory.
    #[error(
        "linux.resources.memory.swap is {swap}, below the memory limit {limit}: it counts memory and swap together"
    )]
    Swap {
        /// Memory and swap, bytes.
        swap: u64,
        /// Memory, bytes.
        limit: u64,
    },
    /// Out of the kernel's range.
    #[error("linux.resources.blockIO.weight is {0}: use 10 to 1000")]
    Weight(u16),
    /// No device has such a number.
    #[error(
        "linux.resources.blockIO names the device {major}:{minor}, which cannot be: use its major and minor number"
    )]
    Device {
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
    },
    /// The size would lead to another file.
    #[error("linux.resources.hugepageLimits names the page size {0:?}: use the kernel's form, such as 2MB")]
    PageSize(String),
    /// The name would lead to another file.
    #[error("linux.resources.unified names {0:?}, which is no file of a cgroup: use a name such as memory.high")]
    Unified(String),
}

/// Lowers the resources; `guest_memory_bytes` is the setting `limits.memory`.
pub(super) fn lower(
    resources: Option<&LinuxResources>,
    guest_memory_bytes: Option<u64>,
    warnings: &mut Vec<String>,
) -> Result<Limits, Error> {
    let Some(resources) = resources else { return Ok(Limits { guest_memory_bytes, ..Limits::default() }) };
    Ok(Limits {
        memory: resources
            .memory()
            .as_ref()
            .map(|memory| lower_memory(memory, warnings))
            .transpose()?
            .unwrap_or_default(),
        guest_memory_bytes,
        timeout: None,
        fuel: None,
        cpu: resources.cpu().as_ref().map(|cpu| lower_cpu(cpu, warnings)).transpose()?.unwrap_or_default(),
        pids: resources.pids().as_ref().and_then(|pids| bound(Some(pids.limit()))),
        io: resources.block_io().as_ref().map(|io| lower_io(io, warnings)).transpose()?.unwrap_or_default(),
        hugepages: lower_hugepages(resources)?,
        unified: lower_unified(resources)?,
    })
}

fn lower_memory(memory: &LinuxMemory, warnings: &mut Vec<String>) -> Result<Memory, Error> {
    let ignored = [
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
    ];
    warn(&ignored, warnings);
    let lowered = Memory {
        limit: bound(memory.limit()),
        with_swap: bound(memory.swap()),
        reservation: memory.reservation().and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
    };
    match (lowered.limit, lowered.with_swap) {
        (Some(Bound::At(limit)), Some(Bound::At(swap))) if swap < limit => Err(Error::Swap { swap, limit }),
        _ => Ok(lowered),
    }
}

fn lower_cpu(cpu: &LinuxCpu, warnings: &mut Vec<String>) -> Result<Cpu, Error> {
    let ignored = [
        ("cpu.burst", cpu.burst().is_some_and(|burst| burst > 0)),
        ("cpu.idle", cpu.idle().is_some_and(|idle| idle != 0)),
        ("cpu.realtimeRuntime", cpu.realtime_runtime().is_some_and(|time| time > 0)),
        ("cpu.realtimePeriod", cpu.realtime_period().is_some_and(|time| time > 0)),
    ];
    warn(&ignored, warnings);
    Ok(Cpu {
        shares: cpu.shares().filter(|shares| *shares > 0),
        quota_us: bound(cpu.quota()),
        period_us: cpu.period().filter(|period| *period > 0),
        cpus: set("cpus", cpu.cpus().as_deref())?,
        mems: set("mems", cpu.mems().as_deref())?,
    })
}

fn lower_io(io: &LinuxBlockIo, warnings: &mut Vec<String>) -> Result<Io, Error> {
    let ignored = [
        ("blockIO.leafWeight", io.leaf_weight().is_some_and(|weight| weight > 0)),
        ("blockIO.weightDevice", io.weight_device().as_ref().is_some_and(|all| !all.is_empty())),
    ];
    warn(&ignored, warnings);
    let weight = io.weight().filter(|weight| *weight > 0);
    if let Some(weight) = weight.filter(|weight| !(10..=1000).contains(weight)) {
        return Err(Error::Weight(weight));
    }
    let lists = [
        (ThrottleKind::ReadBytes, io.throttle_read_bps_device()),
        (ThrottleKind::WriteBytes, io.throttle_write_bps_device()),
        (ThrottleKind::ReadOperations, io.throttle_read_iops_device()),
        (ThrottleKind::WriteOperations, io.throttle_write_iops_device()),
    ];
    let all = lists.iter().flat_map(|(kind, list)| list.iter().flatten().map(|device| (*kind, device)));
    let throttles = all.map(|(kind, device)| throttle(kind, device)).collect::<Result<_, _>>()?;
    Ok(Io { weight, throttles })
}

fn throttle(kind: ThrottleKind, device: &LinuxThrottleDevice) -> Result<Throttle, Error> {
    let (major, minor) = (device.major(), device.minor());
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(Throttle { major, minor, kind, rate: device.rate() }),
        _ => Err(Error::Device { major, minor }),
    }
}

fn lower_hugepages(resources: &LinuxResources) -> Result<BTreeMap<String, u64>, Error> {
    let limits = resources.hugepage_limits().iter().flatten();
    let limits = limits.map(|limit| {
        let size = limit.page_size();
        let known = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        match known.filter(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            // The spec's type has a sign; -1 is no limit to the kernel, and as large a number is the same.
            Some(_) => Ok((size.clone(), limit.limit().cast_unsigned().min(i64::MAX.cast_unsigned()))),
            None => Err(Error::PageSize(size.clone())),
        }
    });
    limits.collect()
}

fn lower_unified(resources: &LinuxResources) -> Result<BTreeMap<String, String>, Error> {
    let files = resources.unified().iter().flatten();
    let files = files.map(|(name, value)| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        match plain && name.contains('.') && !name.starts_with('.') && !name.starts_with("cgroup.") {
            true => Ok((name.clone(), value.clone())),
            false => Err(Error::Unified(name.clone())),
        }
    });
    files.collect()
}

fn set(field: &'static str, value: Option<&str>) -> Result<Option<String>, Error> {
    let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.bytes().all(|byte| byte.is_ascii_digit() || b",-".contains(&byte)) {
        true => Ok(Some(value.to_owned())),
        false => Err(Error::Set { field, value: value.to_owned() }),
    }
}

/// In the spec, 0 is as good as absent and -1 means no limit.
fn bound(limit: Option<i64>) -> Option<Bound> {
    match limit? {
        0 => None,
        limit => Some(u64::try_from(limit).map_or(Bound::Unlimited, Bound::At)),
    }
}

fn warn(ignored: &[(&str, bool)], warnings: &mut Vec<String>) {
    let set = ignored.iter().filter(|(_, set)| *set);
    warnings.extend(set.map(|(field, _)| format!("linux.resources.{field} is not applied")));
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
