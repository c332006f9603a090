//! What the container process and the compile child tell the shim.

use crate::{Digest, ExitStatus};
use serde::{Deserialize, Serialize};

/// What a line or a text for the user measures at most, bytes.
const LONGEST: usize = 2048;

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
        /// What the code needs of the one that runs it.
        calls: Calls,
    },
    /// A growth of the guest's memory was refused for the first time.
    GrowthRefused {
        /// The limit, bytes.
        limit_bytes: u64,
    },
    /// How the guest ended; the process exits right after.
    Exited(ExitStatus),
}

/// How a guest and its host call each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Calls {
    /// One waits for the other: core modules, and components of WASI 0.2.
    Synchronous,
    /// Many calls at a time (the component model's `async`): components of WASI 0.3.
    Asynchronous,
}

/// Why a child gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The artifact is not one this build wrote whole: it has to be compiled again.
    StaleArtifact(String),
    /// The disk that the artifact is written to is full.
    NoSpace,
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
    printable_line(&line)
}

/// As [`printable`], in one line, and a long one loses its middle: it names the thing first and the remedy last.
pub fn printable_line(text: &str) -> String {
    shortened(escaped(&text.replace('\n', " ")))
}

/// Text that may hold names from an image, fit for a terminal and a log: characters that steer what is shown are
/// escaped, but the line feed, and it ends after 2 KiB.
pub fn printable(text: &str) -> String {
    let mut shown = escaped(text);
    if shown.len() > LONGEST {
        shown.truncate(shown.floor_char_boundary(LONGEST));
        shown.push('…');
    }
    shown
}

fn shortened(line: String) -> String {
    if line.len() <= LONGEST {
        return line;
    }
    let head = line.floor_char_boundary(LONGEST / 2);
    let tail = line.ceil_char_boundary(line.len() - LONGEST / 2);
    format!("{}…{}", &line[..head], &line[tail..])
}

fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c != '\n' && is_steering(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Whether the character is not shown itself but does something to what is: control characters, characters without
/// width, separators of lines, and the controls of the direction of text (Unicode, UAX #9).
fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_images_are_escaped_and_bounded() {
        assert_eq!(printable("a\x1b[31mb\u{85}\n"), "a\\u{1b}[31mb\\u{85}\n");
        assert_eq!(printable("a\u{202e}b\u{2028}c\u{200b}d é"), "a\\u{202e}b\\u{2028}c\\u{200b}d é");
        let long = printable(&"ö".repeat(70_000));
        assert!(long.len() < 2060 && long.ends_with("ö…"), "{}", long.len());
    }

    #[test]
    fn a_long_name_leaves_the_remedy_to_be_read() {
        let error = std::io::Error::other(format!("name {}\n: remove it", "ö".repeat(70_000)));
        let line = one_line(&error);
        assert!(line.starts_with("name ö") && line.ends_with("ö : remove it") && line.len() < 2060, "{line}");
    }
}
