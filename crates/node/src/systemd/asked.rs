//! What the child does that speaks to systemd (org.freedesktop.systemd1(5)).

use super::Unit;
use crate::args::Asked;
use rustbus::connection::Timeout;
use rustbus::message_builder::{MarshalledMessage, MessageType};
use rustbus::params::{Array, Base, Container, Param, Variant as OldVariant};
use rustbus::signature::Type;
use rustbus::wire::ObjectPath;
use rustbus::wire::unmarshal::traits::Variant;
use rustbus::{DuplexConn, MessageBuilder, RpcConn};
use std::path::PathBuf;
use std::time::Duration;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const OBJECT: &str = "/org/freedesktop/systemd1";
/// What containerd reads where its command names no file.
const USUAL_CONFIG: &str = "/etc/containerd/config.toml";
/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(200);

/// What went wrong, for the parent to tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("reach systemd at {address}")]
    Connect {
        address: String,
        #[source]
        source: rustbus::connection::Error,
    },
    #[error("ask systemd for {action} of {unit}")]
    Ask {
        action: &'static str,
        unit: String,
        #[source]
        source: rustbus::connection::Error,
    },
    #[error("systemd refuses {action} of {unit}: {reason}")]
    Refused { action: &'static str, unit: String, reason: String },
    #[error("systemd knows no unit {0}: name containerd's with --unit")]
    Unknown(String),
    #[error("{unit} did not start: systemd says {result}; `journalctl -u {unit}` has containerd's reason")]
    Job { unit: String, result: String },
}

struct Bus<'a> {
    connection: RpcConn,
    unit: &'a str,
}

/// Does what is asked; the answer in JSON.
pub(crate) fn answer(asked: &Asked) -> Result<String, AskError> {
    match asked {
        Asked::Show { unit } => {
            let mut bus = Bus::connect(unit)?;
            let path = bus.object()?;
            if bus.text(&path, UNIT, "LoadState")? == "not-found" {
                return Err(AskError::Unknown(unit.clone()));
            }
            let unit = Unit {
                kill_mode: bus.text(&path, SERVICE, "KillMode")?,
                state: bus.text(&path, UNIT, "ActiveState")?,
                started_us: bus.started(&path)?,
                config: config_of(&bus.command(&path)?),
            };
            Ok(serde_json::to_string(&unit).expect("plain data has a form in JSON"))
        }
        Asked::Restart { unit } => Bus::connect(unit)?.restart().map(|()| String::new()),
        Asked::Sweep { unit, tree, empty } => Bus::connect(unit)?.sweep(tree, empty).map(|()| String::new()),
    }
}

impl Bus<'_> {
    fn connect(unit: &str) -> Result<Bus<'_>, AskError> {
        let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
        let failed = |source| AskError::Connect { address: address.clone(), source };
        let socket = rustbus::get_session_bus_path().map_err(failed)?;
        let connection = RpcConn::new(DuplexConn::connect_to_bus(socket, false).map_err(failed)?);
        Ok(Bus { connection, unit })
    }

    /// Runs rm(1) and rmdir(1) on the node, the latter for empty directories only.
    fn sweep(&mut self, tree: &str, empty: &[String]) -> Result<(), AskError> {
        const ACTION: &str = "a sweep";
        self.call(ACTION, &mut manager("Subscribe"))?;
        let rm = ["/bin/rm", "-rf", "--one-file-system", "--", tree].map(str::to_owned).to_vec();
        let rmdir = ["/bin/rmdir", "--ignore-fail-on-non-empty", "--"].map(str::to_owned).to_vec();
        let commands = [rm, [rmdir, empty.to_vec()].concat()].map(|words| {
            let words: Vec<Param<'_, '_>> = words.iter().map(|word| text(word)).collect();
            // A directory that is not there fails nothing.
            Container::Struct(vec![words[0].clone(), array("s", words), Base::Boolean(true).into()]).into()
        });
        let properties = vec![
            property("Type", text("oneshot")),
            property("CollectMode", text("inactive-or-failed")),
            property("ExecStart", array("(sasb)", commands.into())),
        ];
        let body = [text(self.unit), text("replace"), array("(sv)", properties), array("(sa(sv))", Vec::new())];
        let mut request = manager("StartTransientUnit");
        request.body.push_old_params(&body).map_err(|error| self.failed(ACTION)(error.into()))?;
        self.job(ACTION, &mut request)
    }

    fn restart(&mut self) -> Result<(), AskError> {
        const ACTION: &str = "a restart";
        // From here on, so that the end of the job is not missed.
        self.call(ACTION, &mut manager("Subscribe"))?;
        // A unit that failed too often is not started again before this.
        let mut reset = manager("ResetFailedUnit");
        reset.body.push_param(self.unit).map_err(|error| self.failed(ACTION)(error.into()))?;
        let _ = self.call(ACTION, &mut reset);
        let mut request = manager("RestartUnit");
        request.body.push_param2(self.unit, "replace").map_err(|error| self.failed(ACTION)(error.into()))?;
        self.job(ACTION, &mut request)
    }

    /// Asks for a job, and waits for its end.
    fn job(&mut self, action: &'static str, request: &mut MarshalledMessage) -> Result<(), AskError> {
        let reply = self.call(action, request)?;
        let job: ObjectPath<String> = reply.body.parser().get().map_err(|error| self.failed(action)(error.into()))?;
        loop {
            let signal = match self.connection.wait_signal(Timeout::Duration(LOOK)) {
                Ok(signal) => signal,
                Err(rustbus::connection::Error::TimedOut) => continue,
                Err(error) => return Err(self.failed(action)(error)),
            };
            if signal.dynheader.member.as_deref() != Some("JobRemoved") {
                continue;
            }
            let words = signal.body.parser().get4::<u32, ObjectPath<String>, String, String>();
            let (_, path, _, result) = words.map_err(|error| self.failed(action)(error.into()))?;
            match result.as_str() {
                _ if path.as_ref() != job.as_ref() => {}
                "done" => return Ok(()),
                _ => return Err(AskError::Job { unit: self.unit.to_owned(), result }),
            }
        }
    }

    fn object(&mut self) -> Result<ObjectPath<String>, AskError> {
        const ACTION: &str = "the object";
        let mut request = manager("LoadUnit");
        request.body.push_param(self.unit).map_err(|error| self.failed(ACTION)(error.into()))?;
        self.call(ACTION, &mut request)?.body.parser().get().map_err(|error| self.failed(ACTION)(error.into()))
    }

    fn text(&mut self, object: &ObjectPath<String>, interface: &str, name: &'static str) -> Result<String, AskError> {
        let reply = self.property(object, interface, name)?;
        let value = reply.body.parser().get::<Variant<'_, '_>>().and_then(|value| value.get::<String>());
        value.map_err(|error| self.failed(name)(error.into()))
    }

    fn started(&mut self, object: &ObjectPath<String>) -> Result<u64, AskError> {
        const NAME: &str = "ExecMainStartTimestamp";
        let reply = self.property(object, SERVICE, NAME)?;
        let value = reply.body.parser().get::<Variant<'_, '_>>().and_then(|value| value.get::<u64>());
        value.map_err(|error| self.failed(NAME)(error.into()))
    }

    /// The words of its command.
    fn command(&mut self, object: &ObjectPath<String>) -> Result<Vec<String>, AskError> {
        const NAME: &str = "ExecStart";
        let reply = self.property(object, SERVICE, NAME)?;
        let reply = reply.unmarshall_all().map_err(|error| self.failed(NAME)(error.into()))?;
        let mut words = Vec::new();
        for value in &reply.params {
            strings(value, 0, &mut words);
        }
        Ok(words)
    }

    fn property(
        &mut self,
        object: &ObjectPath<String>,
        interface: &str,
        name: &'static str,
    ) -> Result<MarshalledMessage, AskError> {
        let call = MessageBuilder::new().call("Get").with_interface("org.freedesktop.DBus.Properties");
        let mut request = call.on(object.as_ref()).build();
        request.body.push_param2(interface, name).map_err(|error| self.failed(name)(error.into()))?;
        self.call(name, &mut request)
    }

    fn call(&mut self, action: &'static str, request: &mut MarshalledMessage) -> Result<MarshalledMessage, AskError> {
        let serial = send(&mut self.connection, request).map_err(self.failed(action))?;
        let reply = loop {
            match self.connection.wait_response(serial, Timeout::Duration(LOOK)) {
                Ok(reply) => break reply,
                // systemd 252 leaves a first message that it has read with the end of the handshake until more comes.
                Err(rustbus::connection::Error::TimedOut) => {
                    let call = MessageBuilder::new().call("Ping").with_interface("org.freedesktop.DBus.Peer");
                    send(&mut self.connection, &mut call.on(OBJECT).build()).map_err(self.failed(action))?;
                }
                Err(error) => return Err(self.failed(action)(error)),
            }
        };
        match reply.typ {
            MessageType::Error => {
                let reason = reply.body.parser().get().unwrap_or_default();
                Err(AskError::Refused { action, unit: self.unit.to_owned(), reason })
            }
            _ => Ok(reply),
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(rustbus::connection::Error) -> AskError {
        let unit = self.unit.to_owned();
        move |source| AskError::Ask { action, unit: unit.clone(), source }
    }
}

/// The words within the innermost lists: of `ExecStart` (`a(sasbttttuii)`) the commands' arguments.
fn strings(value: &Param<'_, '_>, depth: usize, into: &mut Vec<String>) {
    match value {
        Param::Base(Base::String(text)) if depth == 2 => into.push(text.clone()),
        Param::Base(_) => {}
        Param::Container(Container::Variant(variant)) => strings(&variant.value, depth, into),
        Param::Container(Container::Array(array)) => {
            array.values.iter().for_each(|value| strings(value, depth + 1, into));
        }
        Param::Container(Container::Struct(fields)) => fields.iter().for_each(|value| strings(value, depth, into)),
        Param::Container(_) => {}
    }
}

/// What containerd's command line has for `--config`.
fn config_of(words: &[String]) -> PathBuf {
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let named = match word {
            "-c" | "--config" | "-config" => words.next(),
            word => word
                .strip_prefix("--config=")
                .or_else(|| word.strip_prefix("-config="))
                .or_else(|| word.strip_prefix("-c=")),
        };
        if let Some(path) = named {
            return path.into();
        }
    }
    USUAL_CONFIG.into()
}

fn manager(name: &str) -> MarshalledMessage {
    MessageBuilder::new().call(name).with_interface(MANAGER).on(OBJECT).build()
}

fn send(connection: &mut RpcConn, message: &mut MarshalledMessage) -> Result<u32, rustbus::connection::Error> {
    connection.send_message(message)?.write_all().map_err(|(message, error)| {
        message.force_finish();
        error
    })
}

fn property(name: &str, value: Param<'static, 'static>) -> Param<'static, 'static> {
    let variant = OldVariant { sig: value.sig(), value };
    Container::Struct(vec![text(name), Container::Variant(Box::new(variant)).into()]).into()
}

fn text(text: &str) -> Param<'static, 'static> {
    Base::String(text.to_owned()).into()
}

fn array(element: &str, values: Vec<Param<'static, 'static>>) -> Param<'static, 'static> {
    let mut types = Type::parse_description(element).expect("the signature is a constant of this file");
    Container::Array(Array { element_sig: types.remove(0), values }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_configuration() {
        let cases = [
            (&["/usr/bin/containerd"][..], USUAL_CONFIG),
            (&["containerd", "-c", "/a"], "/a"),
            (&["containerd", "--log-level", "info", "--config", "/b"], "/b"),
            (&["containerd", "--config=/c"], "/c"),
        ];
        for (words, expected) in cases {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(config_of(&words), PathBuf::from(expected), "{words:?}");
        }
    }
}
