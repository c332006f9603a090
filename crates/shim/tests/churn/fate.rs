//! What is to become of each container: chosen by the seed alone.

use testkit::random::Random;

/// One in so many is hurt.
const HURT: usize = 10;

/// What becomes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It leaves with this code.
    Lives { code: u8 },
    /// Somebody is hit at this step.
    Hurt { step: Step, blow: Blow },
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Creating,
    Created,
    Running,
    Paused,
    Exited,
    Deleting,
}

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The shim, by SIGKILL.
    Shim,
    /// The container process, by SIGKILL, where there is one.
    Process,
    /// The client: it gives its call up after so many milliseconds.
    Client { patience_ms: u64 },
}

impl Fate {
    pub(crate) fn of(seed: u64, index: usize) -> Fate {
        let mut random = Random::new(seed, index as u64);
        if !random.one_in(HURT) {
            return Fate::Lives { code: random.draw().to_le_bytes()[0] };
        }
        let every = [Step::Creating, Step::Created, Step::Running, Step::Paused, Step::Exited, Step::Deleting];
        let with_a_process = [Step::Created, Step::Running, Step::Paused];
        match random.below(3) {
            0 => Fate::Hurt { step: *random.pick(&every), blow: Blow::Shim },
            1 => Fate::Hurt { step: *random.pick(&with_a_process), blow: Blow::Process },
            _ => {
                let patience_ms = random.draw() % 30;
                Fate::Hurt { step: *random.pick(&every), blow: Blow::Client { patience_ms } }
            }
        }
    }
}
