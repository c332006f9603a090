//! How a guest's end reads: from what Wasmtime returned to an exit status.

use crate::signals::Ended;
use plan::ExitStatus;
use std::time::Duration;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The longest reason of a trap, bytes: termination messages end at 4096.
const REASON: usize = 4 << 10;
/// What wasmtime puts before a trap's name, and `ExitStatus` too.
const TRAP_PREFIX: &str = "wasm trap: ";

/// The guest ran longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("ended after {0:?}")]
pub(crate) struct TimedOut(pub(crate) Duration);

/// What the guest's last call gave.
pub(crate) enum Outcome {
    /// It returned.
    Returned,
    /// `wasi:cli/run` returned its error case.
    ReturnedError,
    /// It was cut short: by a trap, its own exit or a signal.
    Broke(wasmtime::Error),
}

/// The exit status of an outcome. `refused_limit` is the memory limit, if it refused a growth.
pub(crate) fn status(outcome: &Outcome, refused_limit: Option<u64>) -> ExitStatus {
    let own = match outcome {
        Outcome::Returned => ExitStatus::Code(0),
        Outcome::ReturnedError => ExitStatus::Code(1),
        Outcome::Broke(error) => broke(error),
    };
    with_refusal(own, refused_limit)
}

/// What a request's log says of a guest that broke, in the words of a container that ends.
pub(crate) fn broken(error: &wasmtime::Error, refused_limit: Option<u64>) -> String {
    let status = with_refusal(broke(error), refused_limit);
    status.termination().message.unwrap_or_else(|| match status {
        ExitStatus::Code(code) => format!("the guest exited with code {code}"),
        other => format!("{other:?}"),
    })
}

fn with_refusal(own: ExitStatus, refused_limit: Option<u64>) -> ExitStatus {
    let Some(limit_bytes) = refused_limit else {
        return own;
    };
    // The guest that copes with a refusal ends as it likes; the one that does not ran out of memory.
    let reason = match own {
        ExitStatus::Code(code) if code != 0 => format!("exited with code {code}"),
        ExitStatus::Trap { reason } => format!("{TRAP_PREFIX}{reason}"),
        other => return other,
    };
    ExitStatus::MemoryLimit { limit_bytes, reason: Some(reason) }
}

fn broke(error: &wasmtime::Error) -> ExitStatus {
    if let Some(Ended(signal)) = error.downcast_ref() {
        return ExitStatus::Signal(*signal);
    }
    if let Some(TimedOut(limit)) = error.downcast_ref() {
        return ExitStatus::TimedOut { limit: *limit };
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        // As the kernel does with exit(2).
        return ExitStatus::Code((code & 0xff) as u8);
    }
    ExitStatus::Trap { reason: reason(error) }
}

/// The trap, then the wasm functions that led to it, innermost first.
fn reason(error: &wasmtime::Error) -> String {
    let mut reason = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => "out of fuel: raise limits.fuel".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    if let Some(bare) = reason.strip_prefix(TRAP_PREFIX) {
        reason = bare.to_owned();
    }
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        // The first line says only that a backtrace follows.
        for line in backtrace.to_string().lines().skip(1) {
            reason.push('\n');
            reason.push_str(&plan::printable(line));
        }
    }
    truncate(reason)
}

fn truncate(mut text: String) -> String {
    const MORE: &str = "\n  ...";
    if text.len() > REASON {
        let mut end = REASON - MORE.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_bounded_at_a_character() {
        let long = truncate("ö".repeat(REASON));
        assert!(long.len() <= REASON, "{}", long.len());
        assert!(long.ends_with("\n  ..."));
        assert_eq!(truncate("short".to_owned()), "short");
    }

    #[test]
    fn exit_code_is_the_low_byte() {
        let exit = |code| status(&Outcome::Broke(I32Exit(code).into()), None);
        assert_eq!(exit(255), ExitStatus::Code(255));
        assert_eq!(exit(256), ExitStatus::Code(0));
        assert_eq!(exit(-1), ExitStatus::Code(255));
    }
}
