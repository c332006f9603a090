//! Where a task stands, and the one function that moves it.

use std::time::SystemTime;

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Create has not answered yet.
    Creating,
    /// Create has not answered yet, and nobody wants its answer any more.
    Abandoned,
    /// The container process waits for start; one that exec is to bring in is not there yet, and its pid 0.
    Created { pid: u32 },
    /// The guest runs.
    Running { pid: u32 },
    /// All of the container is stopped until it is resumed.
    Paused { pid: u32 },
    /// The guest has ended, and maybe its process too.
    Stopped { exit: Exit },
    /// What it owned is being removed.
    Deleting { exit: Exit },
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) pid: u32,
    pub(crate) code: u32,
    pub(crate) at: SystemTime,
}

/// What happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Move {
    /// The container process is ready.
    Create { pid: u32 },
    /// Delete was asked for before create has answered.
    Abandon,
    /// Start was asked for.
    Start,
    /// The process that exec is to bring in was made.
    Enter { pid: u32 },
    /// Pause was asked for.
    Pause,
    /// Resume was asked for.
    Resume,
    /// The guest ended.
    End { exit: Exit },
    /// Delete was asked for.
    Delete,
    /// Delete failed half-way: it can be asked for again.
    KeepAfterFailure,
}

impl Exit {
    /// An end as of this moment.
    pub(super) fn now(pid: u32, code: u32) -> Exit {
        Exit { pid, code, at: SystemTime::now() }
    }
}

impl State {
    /// The state after `step`, or the name of this state if it does not allow the step.
    pub(crate) fn after(&self, step: &Move) -> Result<State, &'static str> {
        match (self, step) {
            (State::Creating, Move::Create { pid }) => Ok(State::Created { pid: *pid }),
            (State::Creating, Move::Abandon) => Ok(State::Abandoned),
            (State::Created { pid }, Move::Start) => Ok(State::Running { pid: *pid }),
            (State::Created { pid: 0 }, Move::Enter { pid }) => Ok(State::Running { pid: *pid }),
            (State::Running { pid }, Move::Pause) => Ok(State::Paused { pid: *pid }),
            (State::Paused { pid }, Move::Resume) => Ok(State::Running { pid: *pid }),
            (State::Created { .. } | State::Running { .. } | State::Paused { .. }, Move::End { exit }) => {
                Ok(State::Stopped { exit: *exit })
            }
            (State::Stopped { exit }, Move::Delete) => Ok(State::Deleting { exit: *exit }),
            (State::Deleting { exit }, Move::KeepAfterFailure) => Ok(State::Stopped { exit: *exit }),
            (from, _) => Err(from.name()),
        }
    }

    /// The container process, also after its end.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            State::Creating | State::Abandoned => None,
            State::Created { pid } | State::Running { pid } | State::Paused { pid } => Some(*pid),
            State::Stopped { exit } | State::Deleting { exit } => Some(exit.pid),
        }
    }

    /// How it ended, once it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self {
            State::Stopped { exit } | State::Deleting { exit } => Some(*exit),
            State::Creating
            | State::Abandoned
            | State::Created { .. }
            | State::Running { .. }
            | State::Paused { .. } => None,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            State::Creating => "being created",
            State::Abandoned => "abandoned",
            State::Created { .. } => "created",
            State::Running { .. } => "running",
            State::Paused { .. } => "paused",
            State::Stopped { .. } => "stopped",
            State::Deleting { .. } => "being deleted",
        }
    }
}

impl Move {
    /// What was asked for, as a verb.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Move::Create { .. } => "be created",
            Move::Abandon => "be abandoned",
            Move::Start | Move::Enter { .. } => "start",
            Move::Pause => "pause",
            Move::Resume => "resume",
            Move::End { .. } => "end",
            Move::Delete => "delete",
            Move::KeepAfterFailure => "be kept",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_moves_of_the_lifecycle_are_allowed() {
        let exit = Exit { pid: 7, code: 0, at: SystemTime::UNIX_EPOCH };
        let states = [
            State::Creating,
            State::Abandoned,
            State::Created { pid: 7 },
            State::Running { pid: 7 },
            State::Paused { pid: 7 },
            State::Stopped { exit },
            State::Deleting { exit },
            State::Created { pid: 0 },
        ];
        let moves = [
            Move::Create { pid: 7 },
            Move::Abandon,
            Move::Start,
            Move::Pause,
            Move::Resume,
            Move::End { exit },
            Move::Delete,
            Move::KeepAfterFailure,
            Move::Enter { pid: 8 },
        ];
        let allowed: Vec<(usize, usize, State)> = vec![
            (0, 0, State::Created { pid: 7 }),
            (0, 1, State::Abandoned),
            (2, 2, State::Running { pid: 7 }),
            (2, 5, State::Stopped { exit }),
            (3, 3, State::Paused { pid: 7 }),
            (3, 5, State::Stopped { exit }),
            (4, 4, State::Running { pid: 7 }),
            (4, 5, State::Stopped { exit }),
            (5, 6, State::Deleting { exit }),
            (6, 7, State::Stopped { exit }),
            (7, 2, State::Running { pid: 0 }),
            (7, 5, State::Stopped { exit }),
            (7, 8, State::Running { pid: 8 }),
        ];
        for (from, state) in states.iter().enumerate() {
            for (by, step) in moves.iter().enumerate() {
                let expected = allowed.iter().find(|(f, b, _)| (*f, *b) == (from, by)).map(|(_, _, to)| to.clone());
                assert_eq!(state.after(step).ok(), expected, "{state:?} by {step:?}");
            }
        }
    }
}
