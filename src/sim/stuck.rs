//! Why a world does not go on, with everything that helps to see the cause.

use std::fmt;

use crate::error::Error;
use crate::observe::TaskInfo;
use crate::rt::{Instant, Stage};

/// A [`World`](super::World) does not go on. Its display lists every task of every core and what it
/// waits for, and ends with the seed.
#[derive(Debug)]
pub struct Stuck {
    pub(super) kind: StuckKind,
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) now: Instant,
    /// The core that a `block_on` is on, and what that waits for.
    pub(super) root: Option<(String, Option<&'static str>)>,
    pub(super) cores: Vec<CoreDump>,
}

/// What it is that keeps a world from going on.
#[derive(Debug)]
#[non_exhaustive]
pub enum StuckKind {
    /// Every task waits, no timer is set, and nothing will wake them.
    Deadlock,
    /// A core sleeps with something in its inbox, and nobody will wake it: a defect of the runtime.
    LostWake,
    /// More than [`WorldOptions::most_steps`](super::WorldOptions) were taken and time did not
    /// move.
    Livelock,
    /// A core's loop failed.
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct CoreDump {
    pub(super) name: String,
    pub(super) stage: Stage,
    pub(super) tasks: Vec<TaskInfo>,
}

impl Stuck {
    /// What keeps it from going on.
    pub fn kind(&self) -> &StuckKind {
        &self.kind
    }

    /// The seed of the world: with it the same happens again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The tasks of every core with its name, the newest first; without that of `block_on`.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, &[TaskInfo])> {
        self.cores.iter().map(|core| (core.name.as_str(), core.tasks.as_slice()))
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StuckKind::Deadlock => {
                f.write_str("deadlock: every task waits for something that will never happen")?
            }
            StuckKind::LostWake => {
                f.write_str("lost wake: a core sleeps and does not see what is in its inbox")?
            }
            StuckKind::Livelock => f.write_str("livelock: tasks run and time does not move")?,
            StuckKind::Failed(error) => write!(f, "a core failed: {error}")?,
        }
        if let Some((core, waits_for)) = &self.root {
            write!(f, "\n  block_on of core {core:?} waits")?;
            if let Some(what) = waits_for {
                write!(f, " for {what}")?;
            }
        }
        for core in &self.cores {
            write!(f, "\n  core {:?}, {:?}", core.name, core.stage)?;
            for task in &core.tasks {
                write!(f, "\n    {task}")?;
            }
        }
        let nanos = self.now.as_nanos();
        write!(
            f,
            "\n  after {} steps, at {}.{:09} s",
            self.steps,
            nanos / 1_000_000_000,
            nanos % 1_000_000_000
        )?;
        write!(f, "\n  seed {}", self.seed)
    }
}

impl std::error::Error for Stuck {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            StuckKind::Failed(error) => Some(error),
            _ => None,
        }
    }
}
