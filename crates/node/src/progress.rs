//! What a person, or a program, sees of the work: one line a fact, as it comes.

use serde_json::json;
use std::io::Write;

/// Tells what happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Progress {
    Text,
    Json,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Doing,
    Done,
    Warning,
    Failed,
}

impl Progress {
    pub(crate) fn new(json: bool) -> Progress {
        if json { Progress::Json } else { Progress::Text }
    }

    pub(crate) fn doing(self, step: &str, message: &str) {
        self.tell(step, State::Doing, message);
    }

    pub(crate) fn done(self, step: &str, message: &str) {
        self.tell(step, State::Done, message);
    }

    pub(crate) fn warn(self, step: &str, message: &str) {
        self.tell(step, State::Warning, message);
    }

    pub(crate) fn tell(self, step: &str, state: State, message: &str) {
        let mut out = std::io::stdout().lock();
        // Nobody may read this; the work goes on.
        let _ = match self {
            Progress::Json => writeln!(out, "{}", json!({"step": step, "state": state.name(), "message": message})),
            Progress::Text => writeln!(out, "{:<9} {:<7} {message}", step, state.name()),
        };
        let _ = out.flush();
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Doing => "doing",
            State::Done => "done",
            State::Warning => "warning",
            State::Failed => "failed",
        }
    }
}
