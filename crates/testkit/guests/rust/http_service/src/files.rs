//! Files, by the standard library, as programs reach them.

use crate::answer::{Failure, say, stream};
use std::fs;
use std::io::Write as _;
use wasip2::http::types::ResponseOutparam;

/// Answers the content of a file; 404 and the error if it cannot be read.
pub(crate) fn read(out: ResponseOutparam, path: &str) -> Result<(), Failure> {
    match fs::read(path) {
        Ok(content) => stream(out, 200, |body| Ok(body.write_all(&content)?)),
        Err(error) => say(out, 404, &format!("{error}\n")),
    }
}

/// Writes a file anew; 500 and the error if that fails.
pub(crate) fn write(out: ResponseOutparam, path: &str, text: &str) -> Result<(), Failure> {
    match fs::write(path, text) {
        Ok(()) => say(out, 200, "written\n"),
        Err(error) => say(out, 500, &format!("{error}\n")),
    }
}
