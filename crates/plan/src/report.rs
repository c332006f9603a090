//! What the container process and the compile child tell the shim.

use crate::ExitStatus;
use serde::{Deserialize, Serialize};

/// A message from a child process to the shim, in the order they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The compile child holds the lock of its artifact and waits for the word to go on.
    Locked,
    /// The container process is set up and linked, and waits for start.
    Ready,
    /// The child gives up before the guest ran.
    Failed(Failure),
    /// The compile child wrote the whole artifact.
    Compiled,
    /// A growth of the guest's memory was refused for the first time.
    GrowthRefused {
        /// The limit, bytes.
        limit_bytes: u64,
    },
    /// How the guest ended; the process exits right after.
    Exited(ExitStatus),
}

/// Why a child gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The artifact is not one this build wrote whole: it has to be compiled again.
    StaleArtifact(String),
    /// Anything else, as the one line for the user.
    Message(String),
}

/// An error and its sources as the one line for the user. Sources that say nothing new are left out.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}
