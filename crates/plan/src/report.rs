//! What the container process and the compile child tell the shim.

use crate::{Digest, ExitStatus};
use serde::{Deserialize, Serialize};

/// A message from a child process to the shim, in the order they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The compile child holds the lock of its artifact and waits for the word to go on.
    Locked,
    /// The container process has its namespaces and mounts, and waits for the hooks of creation.
    Mounted,
    /// The container process is set up and linked, and waits for start.
    Ready,
    /// The child gives up before the guest ran.
    Failed(Failure),
    /// The compile child wrote the whole artifact.
    Compiled {
        /// The digest of the bytes that it compiled: the file may have changed since the shim took its own.
        wasm: Digest,
    },
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
/// Names from images may be in it: see [`printable`].
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
    printable(&line.replace('\n', " "))
}

/// Text that may hold names from an image, fit for a terminal and a log: control characters but the line feed are
/// escaped, and it ends after 2 KiB.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 2048;
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if shown.len() >= LONGEST {
            shown.push('…');
            break;
        }
        match c {
            '\n' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_images_are_escaped_and_bounded() {
        assert_eq!(printable("a\x1b[31mb\u{85}\n"), "a\\u{1b}[31mb\\u{85}\n");
        let long = printable(&"ö".repeat(70_000));
        assert!(long.len() < 2060 && long.ends_with("ö…"), "{}", long.len());
    }
}
