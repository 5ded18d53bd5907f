//! The phase of a controller, and which cores are inside of SPDK with it.
//!
//! A reset frees what a core writes to while it polls or sends: SPDK's buffer of doorbells
//! (`nvme_ctrlr_disconnect_done` in its `lib/nvme/nvme_ctrlr.c`, and
//! `nvme_pcie_qpair_ring_cq_doorbell`). So a core says that it is inside, and looks at the phase
//! then; the control thread changes the phase, and looks who is inside then. Between the two steps
//! of either is a barrier, so one of them sees the other: the core that it must stay outside, or
//! the control thread that it is inside, and waits. That a core is inside is on a cache line of its
//! own, which no other core writes.
//!
//! Cores pass with every command, the control thread looks when a controller is lost. So the
//! barrier of both is the control thread's: membarrier(2) has every core execute one. Where the
//! kernel has no such call a core executes its own.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, compiler_fence, fence};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::{MembarrierCommand, membarrier};

/// Where a controller is.
///
/// | phase | what cores do | who ends it |
/// |---|---|---|
/// | `Serving` | create queue pairs and use them | the control thread, when a core or the admin queue lost the controller, or it was removed |
/// | `Stopping` | touch nothing of it; commands wait. Only on the bus | the control thread, when the controller touches no memory any more |
/// | `Draining` | free their queue pairs, each on its own core; commands wait | the control thread, when there are none |
/// | `Resetting` | nothing; commands wait | the control thread: `Serving`, or `Down` |
/// | `Down` | refuse commands | the control thread, which tries again now and then |
/// | `Gone` | free their queue pairs, refuse commands | nobody: the device was removed |
///
/// A controller on the bus is stopped before its queue pairs are freed. Until then it may write to
/// the memory of its commands; and to free a queue pair of one that runs means commands to its
/// admin queue, for which SPDK waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Serving,
    Stopping,
    Draining,
    Resetting,
    Down,
    Gone,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Serving, Self::Stopping, Self::Draining, Self::Resetting, Self::Down, Self::Gone];
}

/// Whether the core of one queue pair is inside.
#[repr(align(64))]
pub(super) struct Presence(AtomicBool);

pub(super) struct Gate {
    /// The control thread executes the barriers of the cores.
    has_membarrier: bool,
    phase: AtomicU8,
    presences: Mutex<Vec<Arc<Presence>>>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            has_membarrier: membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok(),
            phase: AtomicU8::new(Phase::Serving as u8),
            presences: Mutex::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire))]
    }

    /// Only the control thread changes the phase.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// What one queue pair passes with.
    pub(super) fn presence(&self) -> Arc<Presence> {
        let presence = Arc::new(Presence(AtomicBool::new(false)));
        let mut all = self.presences.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of queue pairs that have ended are nobody else's.
        all.retain(|presence| Arc::strong_count(presence) > 1);
        all.push(Arc::clone(&presence));
        presence
    }

    /// Calls `call` if the controller serves. Until it returns the controller is neither
    /// disconnected nor detached, even if the phase changes. `call` does not pass with the same
    /// presence.
    #[inline]
    pub(super) fn pass<T>(&self, presence: &Presence, call: impl FnOnce() -> T) -> Option<T> {
        self.pass_after(presence, || (), call)
    }

    /// The same with something that happens between the two steps.
    #[inline]
    fn pass_after<T>(
        &self,
        presence: &Presence,
        between: impl FnOnce(),
        call: impl FnOnce() -> T,
    ) -> Option<T> {
        debug_assert!(
            !presence.0.load(Ordering::Relaxed),
            "the end of the inner call would let the other go"
        );
        presence.0.store(true, Ordering::Relaxed);
        let _inside = Inside(presence);
        if self.has_membarrier {
            // For the processor the barrier is that of `is_anyone_inside`.
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        between();
        (self.phase() == Phase::Serving).then(call)
    }

    /// Whether a core is inside. Once the phase is another than `Serving` and this was false, none
    /// comes in.
    pub(super) fn is_anyone_inside(&self) -> bool {
        if !self.has_membarrier {
            fence(Ordering::SeqCst);
        } else if let Err(error) = membarrier(MembarrierCommand::PrivateExpedited) {
            // It worked when this process registered: somebody has forbidden it since then.
            static WARNED: AtomicBool = AtomicBool::new(false);
            if !WARNED.swap(true, Ordering::Relaxed) {
                tracing::error!("lost controllers are not reset: membarrier(2) fails by now: {error}");
            }
            return true;
        }
        let all = self.presences.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|presence| presence.0.load(Ordering::Acquire))
    }
}

struct Inside<'a>(&'a Presence);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::{Gate, Phase};

    #[test]
    fn whoever_is_inside_is_seen_and_nobody_comes_in_while_it_is_closed() {
        let gate = Gate::new();
        let (first, second) = (gate.presence(), gate.presence());
        let passed = gate.pass(&first, || {
            assert!(gate.is_anyone_inside());
            gate.set_phase(Phase::Stopping);
            assert_eq!(gate.pass(&second, || ()), None);
            assert!(gate.is_anyone_inside(), "the first is still there");
        });
        assert!(passed.is_some() && !gate.is_anyone_inside());
        gate.set_phase(Phase::Serving);
        assert_eq!(gate.pass(&second, || 1), Some(1));
        // A queue pair that has ended is forgotten.
        drop((first, second));
        let _third = gate.presence();
        assert_eq!(gate.presences.lock().expect("nobody panicked").len(), 1);
    }

    #[test]
    fn whoever_closes_between_the_two_steps_of_a_core_sees_it_and_keeps_it_outside() {
        let with_membarrier = Gate::new();
        let without = Gate { has_membarrier: false, ..Gate::new() };
        for gate in [with_membarrier, without] {
            let mut seen = false;
            let close = || {
                gate.set_phase(Phase::Stopping);
                seen = gate.is_anyone_inside();
            };
            let passed = gate.pass_after(&gate.presence(), close, || ());
            assert!(seen && passed.is_none() && !gate.is_anyone_inside());
        }
    }
    /// A cache line.
    #[derive(Default)]
    #[repr(align(64))]
    struct Line(AtomicU32);

    /// The same on two processors. Without a barrier a core's step is still in its processor's
    /// store buffer when it takes the next one: the lines that both write keep it there for longer.
    /// What went wrong is counted, so that both threads go on to the end.
    #[test]
    fn a_core_that_passed_is_seen_by_whoever_closes() {
        const ROUNDS: u32 = 20_000;
        let with_membarrier = Gate::new();
        let without = Gate { has_membarrier: false, ..Gate::new() };
        for gate in [with_membarrier, without] {
            let mut missed = 0;
            let [begun, looked, passed] = <[Line; 3]>::default();
            let lines = <[Line; 16]>::default();
            let write_to_lines = |round| {
                for line in &lines {
                    line.0.store(round, Ordering::Relaxed);
                }
            };
            thread::scope(|scope| {
                scope.spawn(|| {
                    let presence = gate.presence();
                    for round in 1..=ROUNDS {
                        wait_for(&begun, round);
                        black_box(gate.phase());
                        write_to_lines(round);
                        // It stays inside until the other has looked.
                        let is_inside = gate.pass(&presence, || wait_for(&looked, round)).is_some();
                        passed.0.store(2 * round + u32::from(is_inside), Ordering::Release);
                    }
                });
                for round in 1..=ROUNDS {
                    write_to_lines(round);
                    begun.0.store(round, Ordering::Release);
                    for turn in 0..round % 64 {
                        black_box(turn);
                    }
                    gate.set_phase(Phase::Stopping);
                    let seen = gate.is_anyone_inside();
                    looked.0.store(round, Ordering::Release);
                    wait_for(&passed, 2 * round);
                    let is_inside = passed.0.load(Ordering::Acquire) == 2 * round + 1;
                    missed += u32::from(is_inside && !seen);
                    gate.set_phase(Phase::Serving);
                }
            });
            assert_eq!(missed, 0, "of {ROUNDS} rounds");
        }
    }

    /// Waits until `what` has come to `round`.
    fn wait_for(what: &Line, round: u32) {
        for turn in 0_u32.. {
            if what.0.load(Ordering::Acquire) >= round {
                return;
            }
            if turn > 1_000 {
                thread::yield_now();
            }
        }
    }
}
