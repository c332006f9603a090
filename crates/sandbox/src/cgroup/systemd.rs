//! A cgroup that systemd makes: a transient scope, asked for over systemd's private socket, which needs no bus daemon
//! (org.freedesktop.systemd1(5)).
//!
//! A child process asks, since the shim must not wait for systemd on its only thread, and the container process is not
//! to pay for the memory of it.

use super::hierarchy::Hierarchy;
use super::v2::{completed, swap, weight};
use super::{Cgroup, Version};
use crate::channel::ChildEnd;
use crate::process::{self, Birth, Descriptors, Spawned};
use plan::{Bound, Failure, Limits, Report};
use rustbus::connection::Timeout;
use rustbus::message_builder::{MarshalledMessage, MessageType};
use rustbus::params::{Array, Base, Container, Param, Variant};
use rustbus::signature::{self, Type};
use rustbus::wire::ObjectPath;
use rustbus::{DuplexConn, MessageBuilder, RpcConn};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/systemd/private";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";
/// How long systemd may take for an answer: it may be starting other units.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for an answer, or for the process in its scope.
const LOOK: Duration = Duration::from_millis(100);
/// The kernel ends the child after this many seconds, since the library waits for the first words on a connection without
/// a bound of its own.
const LIFETIME_S: u32 = 45;
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
    Connect(#[source] rustbus::connection::Error),
    #[error("ask systemd to {action} {unit}")]
    Ask {
        action: &'static str,
        unit: String,
        #[source]
        source: rustbus::connection::Error,
    },
    #[error("systemd does not {action} {unit}: {reason}")]
    Refused { action: &'static str, unit: String, reason: String },
    #[error("tie the process that asks systemd to the shim")]
    Process(#[source] io::Error),
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
}

impl Cgroup {
    /// Forks a child that asks systemd, and reports [`Report::Ready`] once it is done. See [`process::fork`] for what
    /// the caller must hold to.
    pub fn ask_systemd(&self, wanted: Wanted, limits: &Limits) -> io::Result<Spawned> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let descriptors = Descriptors { stdio: [null.as_fd(); 3], rest: Vec::new() };
        let scope = self.scope.clone();
        // What systemd is told has to be whole: it writes it again at its next reload.
        let limits = &match &self.hierarchy {
            Hierarchy::V2(root) => completed(&root.join(&self.path), limits),
            Hierarchy::V1(_) => limits.clone(),
        };
        process::fork(Birth::default(), &descriptors, |channel, _| ask(channel, scope.as_ref(), wanted, limits))
    }
}

fn ask(mut channel: ChildEnd, scope: Option<&Scope>, wanted: Wanted, limits: &Limits) {
    nix::unistd::alarm::set(LIFETIME_S);
    let asked = process::die_with_parent().map_err(Error::Process).and_then(|()| match (scope, wanted) {
        (None, _) => Ok(()),
        (Some(scope), Wanted::Start { pid }) => scope.start(pid, limits),
        (Some(scope), Wanted::Change) => scope.change(limits),
    });
    match asked {
        Ok(()) => channel.report(&Report::Ready),
        Err(error) => channel.fail(Failure::Message(plan::one_line(&error))),
    }
}

impl Scope {
    /// Makes the scope with a process in it; waits until it is there.
    fn start(&self, pid: u32, limits: &Limits) -> Result<(), Error> {
        const ACTION: &str = "start";
        let mut systemd = connect()?;
        // From here on, so that the end of the job is not missed.
        self.call(&mut systemd, ACTION, &mut method("Subscribe"))?;
        let mut properties = vec![
            property("Description", text("container of containerd-shim-wasm")),
            property("Slice", text(&self.slice)),
            property("PIDs", numbers(signature::Base::Uint32, vec![Base::Uint32(pid)])),
            property("Delegate", yes()),
            property("DefaultDependencies", Base::Boolean(false).into()),
            // An end for want of memory is no reason to keep the unit.
            property("CollectMode", text("inactive-or-failed")),
        ];
        properties.extend(["MemoryAccounting", "CPUAccounting", "TasksAccounting"].map(|name| property(name, yes())));
        properties.extend(self.properties(limits));
        let body = [text(&self.name), text("fail"), array("(sv)", properties), array("(sa(sv))", Vec::new())];
        let mut request = method("StartTransientUnit");
        request.body.push_old_params(&body).map_err(|error| self.failed(ACTION)(error.into()))?;
        let reply = self.call(&mut systemd, ACTION, &mut request)?;
        let job: ObjectPath<String> = reply.body.parser().get().map_err(|error| self.failed(ACTION)(error.into()))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let signal = match systemd.wait_signal(Timeout::Duration(LOOK)) {
                Ok(signal) => signal,
                // A busy systemd tells late what is done already: the process is there once the limits are.
                Err(rustbus::connection::Error::TimedOut) if self.holds(pid) => return Ok(()),
                Err(rustbus::connection::Error::TimedOut) if Instant::now() < deadline => continue,
                Err(error) => return Err(self.failed(ACTION)(error)),
            };
            if signal.dynheader.member.as_deref() != Some("JobRemoved") {
                continue;
            }
            let words = signal.body.parser().get4::<u32, ObjectPath<String>, String, String>();
            let (_, path, _, result) = words.map_err(|error| self.failed(ACTION)(error.into()))?;
            match result.as_str() {
                _ if path.as_ref() != job.as_ref() => {}
                "done" => return Ok(()),
                result => return Err(self.refused(ACTION, format!("its job ended as {result}"))),
            }
        }
    }

    fn holds(&self, pid: u32) -> bool {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.lines().any(|line| line.rsplit('/').next() == Some(self.name.as_str()))
    }

    /// Changes the limits that systemd knows; the others are not its business.
    fn change(&self, limits: &Limits) -> Result<(), Error> {
        const ACTION: &str = "change";
        let mut request = method("SetUnitProperties");
        // Until the unit is gone.
        let for_now = Base::Boolean(true).into();
        let body = [text(&self.name), for_now, array("(sv)", self.properties(limits))];
        request.body.push_old_params(&body).map_err(|error| self.failed(ACTION)(error.into()))?;
        self.call(&mut connect()?, ACTION, &mut request).map(drop)
    }

    fn call(
        &self,
        systemd: &mut RpcConn,
        action: &'static str,
        request: &mut MarshalledMessage,
    ) -> Result<MarshalledMessage, Error> {
        let serial = send(systemd, request).map_err(self.failed(action))?;
        let deadline = Instant::now() + PATIENCE;
        let reply = loop {
            match systemd.wait_response(serial, Timeout::Duration(LOOK)) {
                Ok(reply) => break reply,
                // systemd 252 leaves a first message that it has read with the end of the handshake until more comes.
                Err(rustbus::connection::Error::TimedOut) if Instant::now() < deadline => {
                    send(systemd, &mut ping()).map_err(self.failed(action))?;
                }
                Err(error) => return Err(self.failed(action)(error)),
            }
        };
        match reply.typ {
            MessageType::Error => Err(self.refused(action, reply.body.parser().get().unwrap_or_default())),
            _ => Ok(reply),
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(rustbus::connection::Error) -> Error {
        move |source| Error::Ask { action, unit: self.name.clone(), source }
    }

    fn refused(&self, action: &'static str, reason: String) -> Error {
        Error::Refused { action, unit: self.name.clone(), reason }
    }

    /// The limits in systemd's own terms: what it is not told, it takes back at its next reload.
    fn properties(&self, limits: &Limits) -> Vec<Param<'static, 'static>> {
        let (memory, cpu) = (&limits.memory, &limits.cpu);
        let common = [
            ("TasksMax", limits.pids.map(number)),
            ("CPUQuotaPerSecUSec", cpu.quota_us.map(|quota| per_second(quota, cpu.period_us))),
            ("CPUQuotaPeriodUSec", cpu.period_us),
        ];
        let (of_version, sets) = match self.version {
            Version::V1 => {
                let none = ("", None);
                let numbers = [("MemoryLimit", memory.limit.map(number)), ("CPUShares", cpu.shares), none, none, none];
                (numbers, [("", None), ("", None)])
            }
            Version::V2 => {
                let numbers = [
                    ("MemoryMax", memory.limit.map(number)),
                    ("MemoryLow", memory.reservation),
                    ("CPUWeight", cpu.shares.map(weight)),
                    // Set again by systemd with the limit of memory.
                    ("MemorySwapMax", swap(memory).map(number)),
                    ("MemoryHigh", limits.unified.get("memory.high").and_then(|bytes| bytes.trim().parse().ok())),
                ];
                (numbers, [("AllowedCPUs", cpu.cpus.as_deref()), ("AllowedMemoryNodes", cpu.mems.as_deref())])
            }
        };
        let bounds = common.into_iter().chain(of_version);
        let bounds = bounds.filter_map(|(name, value)| Some(property(name, Base::Uint64(value?).into())));
        let sets = sets.into_iter().filter_map(|(name, set)| {
            let bits = mask(set?).into_iter().map(Base::Byte).collect();
            Some(property(name, numbers(signature::Base::Byte, bits)))
        });
        bounds.chain(sets).collect()
    }
}

fn connect() -> Result<RpcConn, Error> {
    // The library takes an address from its environment, or as a type of a library of its own.
    // SAFETY: this child has one thread, and nothing else in it reads the environment.
    unsafe { std::env::set_var("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={SOCKET}")) };
    let address = rustbus::get_session_bus_path().map_err(Error::Connect)?;
    Ok(RpcConn::new(DuplexConn::connect_to_bus(address, false).map_err(Error::Connect)?))
}

fn send(systemd: &mut RpcConn, message: &mut MarshalledMessage) -> Result<u32, rustbus::connection::Error> {
    systemd.send_message(message)?.write_all().map_err(|(message, error)| {
        message.force_finish();
        error
    })
}

fn ping() -> MarshalledMessage {
    MessageBuilder::new().call("Ping").with_interface("org.freedesktop.DBus.Peer").on(OBJECT).build()
}

fn method(name: &str) -> MarshalledMessage {
    MessageBuilder::new().call(name).with_interface(MANAGER).on(OBJECT).build()
}

fn property(name: &str, value: Param<'static, 'static>) -> Param<'static, 'static> {
    let variant = Variant { sig: value.sig(), value };
    Container::Struct(vec![text(name), Container::Variant(Box::new(variant)).into()]).into()
}

fn text(text: &str) -> Param<'static, 'static> {
    Base::String(text.to_owned()).into()
}

fn yes() -> Param<'static, 'static> {
    Base::Boolean(true).into()
}

fn numbers(kind: signature::Base, values: Vec<Base<'static>>) -> Param<'static, 'static> {
    let values = values.into_iter().map(Param::Base).collect();
    Container::Array(Array { element_sig: Type::Base(kind), values }).into()
}

fn array(element: &str, values: Vec<Param<'static, 'static>>) -> Param<'static, 'static> {
    let mut types = Type::parse_description(element).expect("the signature is a constant of this file");
    Container::Array(Array { element_sig: types.remove(0), values }).into()
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
