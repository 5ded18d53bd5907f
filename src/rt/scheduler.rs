//! The scheduler: the state of a core and the loop over it.
//!
//! | module | what |
//! |---|---|
//! | `stepped` | a core without a kernel, whose steps a simulation takes |
//! | `turn` | the loop: tasks for a budget, then everything else |
//! | `arrivals` | what comes between the tasks' turns: completions, timers, wakes, messages |
//! | `park`, `idle` | sleeping in the kernel, and when it pays |
//! | `ending` | the end of a core |
//! | `spawn`, `direct` | new tasks; from coroutine to coroutine without a way through the loop |
//! | `describe` | counters and the list of tasks |
//! | `current` | which core the thread is inside of |
//! | `state`, `pollers` | the state that all of the above work on |

mod arrivals;
pub(in crate::rt) mod current;
mod describe;
mod direct;
mod ending;
mod idle;
mod park;
mod pollers;
mod spawn;
mod state;
mod stepped;
mod turn;

pub(in crate::rt) use current::{in_core, with_core};
pub(in crate::rt) use idle::Idler;
pub(in crate::rt) use state::CoreState;
pub(crate) use stepped::{Stage, SteppedCore};
