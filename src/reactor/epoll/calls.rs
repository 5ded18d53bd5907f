//! Blocking calls on the pool: the slots that keep what they work on, and their results on the way
//! back.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crate::reactor::doorbell::Doorbell;
use crate::reactor::ops::{Call, Orphan};
use crate::reactor::pool::{Job, JobId, Work};

/// The calls of one core that are with its pool.
#[derive(Default)]
pub(super) struct Calls {
    slots: Vec<CallSlot>,
    free: Vec<u32>,
    in_flight: usize,
}

struct CallSlot {
    generation: u32,
    state: CallState,
}

enum CallState {
    Free,
    /// The job is set once it is queued.
    InFlight(Option<JobId>, Waker),
    Done(i32),
    Orphaned(Option<JobId>, Box<dyn Orphan>),
    /// The reactor gave up on the call, of which a thread may use the memory for as long as it
    /// likes: the slot is nobody else's any more, and what it held is leaked.
    GivenUp,
}

/// Names a call in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) struct CallKey {
    index: u32,
    generation: u32,
}

/// Somebody to be told that a call is done, with no borrow held.
pub(super) enum Told {
    Waiter(Waker),
    Orphan(Box<dyn Orphan>, i32),
}

impl Told {
    pub(super) fn tell(self) {
        match self {
            Self::Waiter(waker) => waker.wake(),
            Self::Orphan(orphan, result) => orphan.completed(result),
        }
    }
}

impl Calls {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn take_slot(&mut self, waker: Waker) -> CallKey {
        self.in_flight += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(CallSlot { generation: 0, state: CallState::Free });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 calls in flight")
        });
        let slot = &mut self.slots[index as usize];
        slot.state = CallState::InFlight(None, waker);
        CallKey { index, generation: slot.generation }
    }

    fn slot(&mut self, key: CallKey) -> Option<&mut CallSlot> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
    }

    pub(super) fn set_job(&mut self, key: CallKey, id: JobId) {
        if let Some(CallSlot { state: CallState::InFlight(job, _), .. }) = self.slot(key) {
            *job = Some(id);
        }
    }

    /// The result of a call if it is done, which frees its slot.
    pub(super) fn take_result(&mut self, key: CallKey) -> Option<i32> {
        let CallState::Done(result) = self.slot(key)?.state else { return None };
        self.release(key);
        Some(result)
    }

    /// The waker of a call that is not done.
    pub(super) fn waker(&mut self, key: CallKey) -> Option<&mut Waker> {
        match &mut self.slot(key)?.state {
            CallState::InFlight(_, waker) => Some(waker),
            _ => None,
        }
    }

    /// Frees a slot whose call was not made; returns its waker.
    pub(super) fn give_up(&mut self, key: CallKey) -> Option<Waker> {
        let state = std::mem::replace(&mut self.slot(key)?.state, CallState::Free);
        self.in_flight -= 1;
        self.release(key);
        match state {
            CallState::InFlight(_, waker) => Some(waker),
            _ => None,
        }
    }

    /// Gives a call's value to its slot, because nobody waits any more.
    pub(super) fn orphan(&mut self, key: CallKey, orphan: Box<dyn Orphan>) -> Orphaning {
        let slot = self.slot(key).expect("a slot is named only while it is taken");
        match std::mem::replace(&mut slot.state, CallState::Free) {
            CallState::InFlight(job, waker) => {
                slot.state = CallState::Orphaned(job, orphan);
                Orphaning::Kept(job, waker)
            }
            CallState::Done(result) => {
                self.release(key);
                Orphaning::Done(Told::Orphan(orphan, result))
            }
            CallState::GivenUp => {
                slot.state = CallState::GivenUp;
                std::mem::forget(orphan);
                Orphaning::Nothing
            }
            CallState::Free | CallState::Orphaned(..) => {
                unreachable!("a call is orphaned once, by its only future")
            }
        }
    }

    /// The jobs of all calls that are not done.
    pub(super) fn jobs(&self) -> Vec<JobId> {
        let job = |slot: &CallSlot| match &slot.state {
            CallState::InFlight(job, _) | CallState::Orphaned(job, _) => *job,
            CallState::Free | CallState::Done(_) | CallState::GivenUp => None,
        };
        self.slots.iter().filter_map(job).collect()
    }

    /// A call came back with `result`.
    pub(super) fn complete(&mut self, key: CallKey, result: i32) -> Option<Told> {
        // One whose slot was given up means nothing.
        let slot = self.slot(key).filter(|slot| !matches!(slot.state, CallState::GivenUp))?;
        let told = match std::mem::replace(&mut slot.state, CallState::Done(result)) {
            CallState::InFlight(_, waker) => Told::Waiter(waker),
            CallState::Orphaned(_, orphan) => {
                self.release(key);
                Told::Orphan(orphan, result)
            }
            CallState::Free | CallState::Done(_) | CallState::GivenUp => {
                unreachable!("a call comes back once")
            }
        };
        self.in_flight -= 1;
        Some(told)
    }

    fn release(&mut self, key: CallKey) {
        let slot = &mut self.slots[key.index as usize];
        slot.state = CallState::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
    }

    /// Leaks what the calls in flight work on, because their threads do not come back.
    pub(super) fn leak(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot.state, CallState::InFlight(..) | CallState::Orphaned(..)) {
                std::mem::forget(std::mem::replace(&mut slot.state, CallState::GivenUp));
            }
        }
        self.in_flight = 0;
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // A panic of the clock got in the way of the reactor's end: a thread may still use a
            // call's memory.
            self.leak();
        }
    }
}

/// What became of a call that nobody waits for.
pub(super) enum Orphaning {
    Nothing,
    /// It was done.
    Done(Told),
    /// It is with the pool. The waker is to be dropped with no borrow held.
    Kept(Option<JobId>, Waker),
}

/// Results on the way from the pool's threads to the core.
pub(super) struct Returned {
    results: Mutex<Vec<(CallKey, i32)>>,
    doorbell: Arc<Doorbell>,
}

impl Returned {
    pub(super) fn new(doorbell: &Arc<Doorbell>) -> Self {
        Self { results: Mutex::default(), doorbell: Arc::clone(doorbell) }
    }

    fn put(&self, key: CallKey, result: i32) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let first = results.is_empty();
        results.push((key, result));
        drop(results);
        // The thread that finds the list empty rings; the core then takes the whole list.
        if first {
            self.doorbell.ring();
        }
    }

    /// Moves all results to `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut Vec<(CallKey, i32)>) {
        debug_assert!(taken.is_empty(), "results are handled before more are taken");
        std::mem::swap(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner), taken);
    }
}

/// Makes sure that a call comes back, whether a thread makes it or its job is dropped.
struct Return {
    key: CallKey,
    result: i32,
    to: Arc<Returned>,
}

impl Return {
    /// The call was made and returned `result`.
    fn with(mut self, result: i32) {
        self.result = result;
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        self.to.put(self.key, self.result);
    }
}

/// A system call for another thread, and the way back of its result.
pub(crate) struct CallJob {
    call: Call,
    descriptor: RawFd,
    back: Return,
}

// SAFETY: the pointers of the call are addresses that do not depend on a thread. The caller
// of `job` promised that the memory stays and that nobody else uses it until the call came back.
// The rest of it is `Send`.
unsafe impl Send for CallJob {}

impl CallJob {
    /// Makes the call and puts its result back.
    pub(in crate::reactor) fn run(self) {
        // SAFETY: `job`'s caller promised that the pointers and the descriptor are good until
        // `back` is dropped, which is below.
        let result = unsafe { self.call.perform(self.descriptor) };
        self.back.with(result);
    }
}

/// The job that makes `call` on a thread of the pool and puts its result into `returned`.
///
/// # Safety
///
/// The call's pointers are valid for what the kernel does with them, and nobody else uses the
/// memory, until the result for `key` is in `returned`. `descriptor` stays open until then.
pub(super) unsafe fn job(key: CallKey, call: Call, descriptor: RawFd, returned: &Arc<Returned>) -> Job {
    let back = Return { key, result: -libc::ECANCELED, to: Arc::clone(returned) };
    Job { name: "boson-io", work: Work::Call(CallJob { call, descriptor, back }) }
}
