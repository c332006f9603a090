//! A cgroup that systemd makes: a transient scope, asked for over systemd's private socket, which needs no bus daemon
//! (org.freedesktop.systemd1(5)).
//!
//! A child process asks, since the shim must not wait for systemd on its only thread, and the container process is not
//! to pay for the memory of it.

use super::v2::weight;
use super::{Cgroup, Version};
use crate::channel::ChildEnd;
use crate::process::{self, Descriptors, Spawned};
use plan::{Bound, Failure, Limits, Report};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::timeout;
use zbus::export::futures_core::Stream;
use zbus::{Connection, DynamicType, Message, MessageStream, OwnedObjectPath, Variant};

const SOCKET: &str = "/run/systemd/private";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";
/// How long systemd may take for a unit: it may be starting others.
const PATIENCE: Duration = Duration::from_secs(30);
/// The period of a quota that names none, microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;
/// systemd rounds quotas to this, microseconds in a second; rounded up, so that none becomes 0.
const QUOTA_STEP_US: u64 = 10_000;
/// What systemd takes for no limit.
const INFINITY: u64 = u64::MAX;

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("reach systemd at {SOCKET}: the cgroup is of systemd's form, use the cgroupfs driver on a node without it")]
    Connect(#[source] io::Error),
    #[error("ask systemd to {action} {unit}")]
    Ask {
        action: &'static str,
        unit: String,
        #[source]
        source: zbus::Error,
    },
    #[error("systemd did not {action} {unit} within 30 s")]
    Late { action: &'static str, unit: String },
    #[error("systemd does not start {unit}: its job ended as {result}")]
    Job { unit: String, result: String },
    #[error("make an event loop for systemd")]
    Runtime(#[source] io::Error),
}

/// What systemd is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The scope, with this process in it.
    Start {
        /// As this process sees it.
        pid: u32,
    },
    /// New limits for it.
    Change,
}

/// A scope of one container.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The slice that it is in.
    pub(super) slice: String,
    /// Its name.
    pub(super) name: String,
    /// The version of the node's cgroups.
    pub(super) version: Version,
    /// What the slice had counted of processes killed for want of memory when the scope was first thought of.
    pub(super) kills_before: u64,
}

impl Cgroup {
    /// Forks a child that asks systemd, and reports [`Report::Ready`] once it is done. See [`process::fork`] for what
    /// the caller must hold to.
    pub fn ask_systemd(&self, wanted: Wanted, limits: &Limits) -> io::Result<Spawned> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let descriptors = Descriptors { stdio: [null.as_fd(); 3], rest: Vec::new() };
        let scope = self.scope.clone();
        process::fork(0, &descriptors, |channel, _| ask(channel, scope.as_ref(), wanted, limits))
    }
}

fn ask(mut channel: ChildEnd, scope: Option<&Scope>, wanted: Wanted, limits: &Limits) {
    let asked = process::die_with_parent().map_err(Error::Runtime).and_then(|()| {
        let Some(scope) = scope else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
        runtime.block_on(scope.ask(wanted, limits))
    });
    match asked {
        Ok(()) => channel.report(&Report::Ready),
        Err(error) => channel.fail(Failure::Message(plan::one_line(&error))),
    }
}

impl Scope {
    async fn ask(&self, wanted: Wanted, limits: &Limits) -> Result<(), Error> {
        let action = match wanted {
            Wanted::Start { .. } => "start",
            Wanted::Change => "change",
        };
        let unit = || self.name.clone();
        let socket = UnixStream::connect(SOCKET).map_err(Error::Connect)?;
        socket.set_nonblocking(true).map_err(Error::Connect)?;
        let asked = async {
            let systemd = zbus::connection::Builder::unix_stream(socket).p2p().build().await?;
            match wanted {
                Wanted::Start { pid } => self.start(&systemd, pid, limits).await,
                Wanted::Change => {
                    let properties = self.properties(limits);
                    call(&systemd, "SetUnitProperties", &(&self.name, true, properties)).await?;
                    Ok("done".to_owned())
                }
            }
        };
        let asked = timeout(PATIENCE, asked).await.map_err(|_| Error::Late { action, unit: unit() })?;
        match asked.map_err(|source| Error::Ask { action, unit: unit(), source })?.as_str() {
            "done" => Ok(()),
            result => Err(Error::Job { unit: unit(), result: result.to_owned() }),
        }
    }

    /// Makes the scope; returns the result of its job.
    async fn start(&self, systemd: &Connection, pid: u32, limits: &Limits) -> zbus::Result<String> {
        // From here on, so that the end of the job is not missed.
        let mut signals = MessageStream::from(systemd);
        call(systemd, "Subscribe", &()).await?;
        let mut properties = vec![
            ("Description", Variant::from("container of containerd-shim-wasm")),
            ("Slice", Variant::from(self.slice.clone())),
            ("PIDs", Variant::from(vec![pid])),
            ("Delegate", Variant::from(true)),
            ("DefaultDependencies", Variant::from(false)),
            // An end for want of memory is no reason to keep the unit.
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        properties
            .extend(["MemoryAccounting", "CPUAccounting", "TasksAccounting"].map(|name| (name, Variant::from(true))));
        properties.extend(self.properties(limits));
        let none: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let reply = call(systemd, "StartTransientUnit", &(&self.name, "fail", properties, none)).await?;
        let job: OwnedObjectPath = reply.body().deserialize()?;
        loop {
            let message = poll_fn(|context| Pin::new(&mut signals).poll_next(context)).await;
            let message = message
                .unwrap_or(Err(zbus::Error::InputOutput(io::Error::from(io::ErrorKind::UnexpectedEof).into())))?;
            if message.header().member().is_none_or(|member| member != "JobRemoved") {
                continue;
            }
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) = message.body().deserialize()?;
            if path == job {
                return Ok(result);
            }
        }
    }

    /// The limits in systemd's own terms: what it is not told, it takes back at its next reload.
    fn properties(&self, limits: &Limits) -> Vec<(&'static str, Variant<'static>)> {
        let (memory, cpu) = (&limits.memory, &limits.cpu);
        let common = [
            ("TasksMax", limits.pids.map(number)),
            ("CPUQuotaPerSecUSec", cpu.quota_us.map(|quota| per_second(quota, cpu.period_us))),
            ("CPUQuotaPeriodUSec", cpu.period_us),
        ];
        let (of_version, sets) = match self.version {
            Version::V1 => {
                let numbers = [("MemoryLimit", memory.limit.map(number)), ("CPUShares", cpu.shares), ("", None)];
                (numbers, [("", None), ("", None)])
            }
            Version::V2 => {
                let numbers = [
                    ("MemoryMax", memory.limit.map(number)),
                    ("MemoryLow", memory.reservation),
                    ("CPUWeight", cpu.shares.map(weight)),
                ];
                (numbers, [("AllowedCPUs", cpu.cpus.as_deref()), ("AllowedMemoryNodes", cpu.mems.as_deref())])
            }
        };
        let numbers = common.into_iter().chain(of_version);
        let numbers = numbers.filter_map(|(name, value)| Some((name, Variant::from(value?))));
        numbers.chain(sets.into_iter().filter_map(|(name, set)| Some((name, Variant::from(mask(set?)))))).collect()
    }
}

async fn call<B>(systemd: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: serde::Serialize + DynamicType,
{
    systemd.call_method(None::<&str>, OBJECT, Some(MANAGER), method, body).await
}

fn number(bound: Bound) -> u64 {
    bound.number().unwrap_or(INFINITY)
}

fn per_second(quota: Bound, period_us: Option<u64>) -> u64 {
    let Bound::At(quota) = quota else { return INFINITY };
    let period = period_us.unwrap_or(DEFAULT_PERIOD_US).max(1);
    (quota.saturating_mul(1_000_000) / period).div_ceil(QUOTA_STEP_US).saturating_mul(QUOTA_STEP_US)
}

/// A list such as `0-2,7` as bits, the lowest first. What is no number has no bit; the kernel refuses it by itself.
fn mask(list: &str) -> Vec<u8> {
    /// More than any node has.
    const MOST: usize = 8192;
    let mut bits = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { continue };
        for bit in first..=last.min(MOST) {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_bits() {
        let cases: [(&str, &[u8]); 4] = [("0-2,7", &[0b1000_0111]), ("9", &[0, 2]), ("", &[]), ("x,1", &[2])];
        for (list, bits) in cases {
            assert_eq!(mask(list), bits, "{list}");
        }
    }

    #[test]
    fn quotas_are_of_a_second() {
        assert_eq!(per_second(Bound::At(50_000), None), 500_000);
        assert_eq!(per_second(Bound::At(1000), Some(100_000)), 10_000);
        assert_eq!(per_second(Bound::At(1), Some(100_000)), 10_000);
        assert_eq!(per_second(Bound::Unlimited, Some(100_000)), INFINITY);
    }
}
