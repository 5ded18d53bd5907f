//! A task: a future on the heap with its reference count, its waker and the slot for its result.
//!
//! A task belongs to one core and is polled, cancelled and completed only there. References are
//! counted without atomics on that core, and through the [`InboxNode`](inbox::InboxNode) everywhere
//! else. A reference is held by the core (until the task has ended and is on no run queue), by the
//! join handle, and by every waker. The run queue needs none of its own, so that to yield counts
//! nothing.
//!
//! The last reference may be a waker's on another thread, after the core is gone. So the future and
//! its result, which need not be `Send`, never wait for that: the future is dropped when the task
//! ends, and a result that nobody takes with the join handle or, if that went first, with the end
//! of the task. What is left to free then runs no code but boson's own.
//!
//! From the top down; a module uses those below it:
//!
//! | module | what |
//! |---|---|
//! | `new` | a new task |
//! | `join`, `cancel_on_drop`, `join_error` | handles to a task, and its result |
//! | `run` | its turns and its end |
//! | `stage` | the part of a task that depends on the type of its future |
//! | `waker`, `waiting` | waking it and cancelling it from anywhere; what it waits for |
//! | `local` | what wakers on the core's own thread reach: the run queues, and the task that runs |
//! | `control`, `identity` | of a task that is a coroutine: its stack and the switch to it |
//! | `queues`, `list` | run queues, and the list of all tasks |
//! | `reference` | references on the task's own core |
//! | `header`, `state`, `locals` | the part of a task that does not depend on its future; the states of its turns |
//! | `inbox` | wakes and releases from other threads |

mod cancel_on_drop;
mod control;
pub(crate) mod defect;
mod header;
mod identity;
mod inbox;
mod join;
mod join_error;
mod list;
pub(in crate::rt) mod local;
mod locals;
mod new;
mod queues;
mod reference;
mod run;
mod stage;
mod state;
mod waiting;
mod waker;

pub(crate) use cancel_on_drop::sealed::Cancel;
pub use cancel_on_drop::{CancelOnDrop, TaskHandle};
pub(in crate::rt) use control::*;
pub(in crate::rt) use header::{Header, NewTask, Polled};
pub(crate) use identity::Identity;
pub(crate) use inbox::Simulation;
pub(in crate::rt) use inbox::{Inbox, Message, Unsent};
pub use join::JoinHandle;
pub use join_error::JoinError;
pub(in crate::rt) use list::Registry;
pub(in crate::rt) use local::Local;
pub(in crate::rt) use locals::Locals;
pub(in crate::rt) use queues::{DEFAULT_QUEUE, RunQueues};
pub use queues::{LatencyClass, MAX_TASK_QUEUES, Shares};
pub(in crate::rt) use reference::TaskRef;
pub(in crate::rt) use run::{apply_changes, begin_resume, bury, poll, resume, run};
pub use waiting::waiting_for;
pub(in crate::rt) use waiting::{awaited, waiting_for_a_timer, waiting_for_this};
pub(crate) use waiting::{noted, noted_over};
pub(in crate::rt) use waker::Canceller;
