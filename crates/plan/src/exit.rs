//! How a container ended. The only place that maps an end to an exit code and to the line the user reads.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The exit code for a trap: what a process killed by SIGABRT shows.
const TRAP: u32 = 134;
/// The exit code for out of memory: what a process killed by SIGKILL shows.
const OUT_OF_MEMORY: u32 = 137;
/// The exit code for the wall-clock limit: what timeout(1) leaves with.
const TIMED_OUT: u32 = 124;
/// Added to the number of a signal.
const SIGNAL: u32 = 128;
/// The exit code for a system call that seccomp ends the process for: what a process killed by SIGSYS shows.
pub const FORBIDDEN_CALL: u32 = 159;

/// How the container process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// The guest returned, or called `proc_exit` or `wasi:cli/exit`.
    Code(u8),
    /// A signal ended it.
    Signal(i32),
    /// The guest trapped.
    Trap {
        /// The trap and the wasm backtrace with function names; several lines.
        reason: String,
    },
    /// A growth was refused by the guest's memory limit, and the guest then trapped or left with a code other than 0.
    MemoryLimit {
        /// The limit that refused, bytes.
        limit_bytes: u64,
        /// What the guest did then, if it said anything.
        reason: Option<String>,
    },
    /// The kernel killed it for the cgroup's memory limit.
    OomKilled {
        /// The cgroup's limit, bytes, where there is one.
        limit_bytes: Option<u64>,
    },
    /// Seccomp killed or trapped a system call of its process.
    ForbiddenCall,
    /// It ran longer than it may.
    TimedOut {
        /// `limits.timeout`.
        limit: Duration,
    },
}

/// What is told to containerd and to the user about an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// The task's exit code.
    pub code: u32,
    /// What is written to stderr and to the termination file; absent if the end needs no explanation.
    pub message: Option<String>,
    /// Whether a TaskOOM event precedes the exit.
    pub out_of_memory: bool,
}

impl ExitStatus {
    /// The exit code, message and OOM flag that this end is shown with.
    pub fn termination(&self) -> Termination {
        let (code, message, out_of_memory) = match self {
            ExitStatus::Code(code) => (u32::from(*code), None, false),
            ExitStatus::Signal(signal) => (SIGNAL + signal.unsigned_abs(), None, false),
            ExitStatus::Trap { reason } => (TRAP, Some(format!("wasm trap: {reason}")), false),
            ExitStatus::MemoryLimit { limit_bytes, reason } => {
                let line = memory_message(Some(*limit_bytes));
                let message = match reason {
                    Some(reason) => format!("{line}\n{reason}"),
                    None => line,
                };
                (OUT_OF_MEMORY, Some(message), true)
            }
            ExitStatus::OomKilled { limit_bytes } => (OUT_OF_MEMORY, Some(memory_message(*limit_bytes)), true),
            ExitStatus::ForbiddenCall => (FORBIDDEN_CALL, Some(FORBIDDEN_CALL_MESSAGE.to_owned()), false),
            ExitStatus::TimedOut { limit } => {
                (TIMED_OUT, Some(format!("time limit {limit:?} reached: raise limits.timeout")), false)
            }
        };
        Termination { code, message, out_of_memory }
    }
}

const FORBIDDEN_CALL_MESSAGE: &str = "killed by seccomp for a system call that the container's profile kills or traps: \
    allow it, or answer it with an errno; the kernel's log on the node has its number";

fn memory_message(limit_bytes: Option<u64>) -> String {
    match limit_bytes {
        Some(bytes) => format!("memory limit {} reached: raise limits.memory", Size(bytes)),
        None => "out of memory on the node: lower the use of memory or set limits.memory".to_owned(),
    }
}

/// Bytes in the largest binary unit that divides them, as Kubernetes writes quantities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        for (factor, unit) in units {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: ExitStatus, code: u32, message: Option<&str>, out_of_memory: bool) {
        let expected = Termination { code, message: message.map(str::to_owned), out_of_memory };
        assert_eq!(status.termination(), expected, "{status:?}");
    }

    #[test]
    fn each_end_has_its_code_and_message() {
        check(ExitStatus::Code(0), 0, None, false);
        check(ExitStatus::Code(255), 255, None, false);
        check(ExitStatus::Signal(15), 143, None, false);
        check(ExitStatus::Signal(9), 137, None, false);
        let trap = ExitStatus::Trap { reason: "unreachable".into() };
        check(trap, 134, Some("wasm trap: unreachable"), false);
        let line = "memory limit 64Mi reached: raise limits.memory";
        let refused = ExitStatus::MemoryLimit { limit_bytes: 64 << 20, reason: None };
        check(refused, 137, Some(line), true);
        check(ExitStatus::OomKilled { limit_bytes: Some(64 << 20) }, 137, Some(line), true);
        check(ExitStatus::ForbiddenCall, 159, Some(FORBIDDEN_CALL_MESSAGE), false);
        let line = "time limit 1.5s reached: raise limits.timeout";
        check(ExitStatus::TimedOut { limit: Duration::from_millis(1500) }, 124, Some(line), false);
    }
}
