//! Reads TOML with errors of one line.
//! It must not know which keys a table may have.

use toml::Table;

/// Why a text is not TOML. The parser's own message draws the place over several lines; users get one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TomlError {
    /// Counted from 1.
    pub line: usize,
    /// What the parser says.
    pub message: String,
}

/// The text's top-level table.
pub(crate) fn parse(text: &[u8]) -> Result<Table, TomlError> {
    let valid = std::str::from_utf8(text)
        .map_err(|error| TomlError { line: line_at(text, error.valid_up_to()), message: "not utf-8".to_owned() })?;
    valid.parse().map_err(|error: toml::de::Error| TomlError {
        line: line_at(text, error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', ", "),
    })
}

fn line_at(text: &[u8], offset: usize) -> usize {
    let before = &text[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
