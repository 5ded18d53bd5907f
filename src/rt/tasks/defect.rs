//! Defects of the runtime, put in on purpose.

/// A way to break how cores are woken from outside. A simulation of cores
/// ([`sim::World`](crate::sim::World)) that is asked for one must notice it; that shows that it
/// would notice a real one. Has no effect in a build without debug assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// A core that has announced that it will sleep does not look at its inbox once more. A wake
    /// between its last look and its announcement is lost.
    SleepWithoutLook,
    /// A waker looks whether the core sleeps before it puts the task on the core's list.
    /// The core may go to sleep in between.
    LookBeforeListing,
    /// A waker of a task whose core is awake marks the task as woken and does not put it on the
    /// core's list.
    WakeUnlisted,
}
