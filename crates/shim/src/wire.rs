//! What goes over the wire, mapped once: errors to ttrpc codes, states to statuses, times to timestamps.

use crate::task::{CreateError, ExecError, State, TaskError};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};
use ttrpc::{Code, Error, get_status};

/// The status that containerd knows a state by.
pub(crate) fn status(state: &State) -> Status {
    match state {
        State::Creating | State::Abandoned => Status::UNKNOWN,
        State::Created { .. } => Status::CREATED,
        State::Running { .. } => Status::RUNNING,
        State::Paused { .. } => Status::PAUSED,
        State::Stopped { .. } | State::Deleting { .. } => Status::STOPPED,
    }
}

/// A refusal for containerd. containerd takes UNIMPLEMENTED from create for a reason to try an older API, so that code
/// is for calls that are not there at all.
pub(crate) fn refusal(error: &TaskError) -> Error {
    let code = match error {
        TaskError::NotFound(_) | TaskError::BeingCreated(_) | TaskError::NoExec { .. } | TaskError::Finished(_) => {
            Code::NOT_FOUND
        }
        TaskError::Exists(_) | TaskError::ExecExists { .. } => Code::ALREADY_EXISTS,
        TaskError::Move { .. } | TaskError::NotRunning { .. } | TaskError::NoTerminal(_) => Code::FAILED_PRECONDITION,
        TaskError::Exec(error) => execution(error),
        TaskError::Create(error) => creation(error),
        TaskError::Resources(_) => Code::INVALID_ARGUMENT,
        TaskError::Hooks { .. }
        | TaskError::Update { .. }
        | TaskError::Cgroup { .. }
        | TaskError::Encode(_)
        | TaskError::Signal { .. }
        | TaskError::Resize { .. }
        | TaskError::Runc(_)
        | TaskError::Start { .. }
        | TaskError::Release { .. }
        | TaskError::Ending(_)
        | TaskError::Cancelled => Code::INTERNAL,
        TaskError::NotBuilt(_) => Code::UNIMPLEMENTED,
    };
    Error::RpcStatus(get_status(code, plan::one_line(error)))
}

fn creation(error: &CreateError) -> Code {
    match error {
        CreateError::Plan(_) | CreateError::Refused(_) | CreateError::Output(_) => Code::INVALID_ARGUMENT,
        _ => Code::INTERNAL,
    }
}

fn execution(error: &ExecError) -> Code {
    match error {
        ExecError::Plan(_) | ExecError::Output(_) => Code::INVALID_ARGUMENT,
        _ => Code::INTERNAL,
    }
}

/// A time as protobuf has it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: since.subsec_nanos().cast_signed(), ..Timestamp::default() }
}
