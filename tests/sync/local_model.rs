//! The primitives of one core against simple models: random acquiring, polling, dropping and
//! releasing. No grant is lost, none is given twice, and the order is that of arrival.

use crate::support::hooked_waker;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use boson::sync::local::{Barrier, BarrierWaitResult, Mutex, Notify, RwLock, Semaphore, broadcast, mpsc};
use hooked_waker::Hook;
use proptest::collection::vec;
use proptest::prelude::*;

const SLOTS: usize = 6;

/// What holds permits or a lock until it is dropped.
trait Held {}
impl<T> Held for T {}
type Guard<'a> = Box<dyn Held + 'a>;
type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Something with a number of permits, in the eyes of the model.
trait Lockable {
    fn permits(&self) -> usize;
    /// What a request of `seed` asks for.
    fn weight(&self, seed: usize) -> usize;
    fn acquire(&self, weight: usize) -> Pending<'_, Guard<'_>>;
    fn try_acquire(&self, weight: usize) -> Option<Guard<'_>>;
}

fn permits(weight: usize) -> u32 {
    u32::try_from(weight).expect("a few")
}

impl Lockable for Semaphore {
    fn permits(&self) -> usize {
        3
    }
    fn weight(&self, seed: usize) -> usize {
        seed % 4
    }
    fn acquire(&self, weight: usize) -> Pending<'_, Guard<'_>> {
        Box::pin(async move {
            Box::new(self.acquire_many(permits(weight)).await.expect("never closed")) as Guard<'_>
        })
    }
    fn try_acquire(&self, weight: usize) -> Option<Guard<'_>> {
        self.try_acquire_many(permits(weight)).ok().map(|guard| Box::new(guard) as Guard<'_>)
    }
}

impl Lockable for Mutex<u32> {
    fn permits(&self) -> usize {
        1
    }
    fn weight(&self, _: usize) -> usize {
        1
    }
    fn acquire(&self, _: usize) -> Pending<'_, Guard<'_>> {
        Box::pin(async { Box::new(self.lock().await) as Guard<'_> })
    }
    fn try_acquire(&self, _: usize) -> Option<Guard<'_>> {
        self.try_lock().ok().map(|guard| Box::new(guard) as Guard<'_>)
    }
}

impl Lockable for RwLock<u32> {
    fn permits(&self) -> usize {
        SLOTS
    }
    fn weight(&self, seed: usize) -> usize {
        if seed.is_multiple_of(3) { SLOTS } else { 1 }
    }
    fn acquire(&self, weight: usize) -> Pending<'_, Guard<'_>> {
        Box::pin(async move {
            if weight == 1 { Box::new(self.read().await) as Guard<'_> } else { Box::new(self.write().await) }
        })
    }
    fn try_acquire(&self, weight: usize) -> Option<Guard<'_>> {
        if weight == 1 {
            self.try_read().ok().map(|guard| Box::new(guard) as Guard<'_>)
        } else {
            self.try_write().ok().map(|guard| Box::new(guard) as Guard<'_>)
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(usize, usize),
    TryAcquire(usize, usize),
    Poll(usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = 0..SLOTS;
    vec(
        prop_oneof![
            3 => (slot.clone(), 0..12usize).prop_map(|(slot, seed)| Step::Acquire(slot, seed)),
            1 => (slot.clone(), 0..12usize).prop_map(|(slot, seed)| Step::TryAcquire(slot, seed)),
            2 => slot.clone().prop_map(Step::Poll),
            3 => slot.prop_map(Step::Drop),
        ],
        0..80,
    )
}

/// What the model knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Free,
    Waiting(usize),
    Granted(usize),
    Held(usize),
}

struct Model {
    free: usize,
    slots: [Is; SLOTS],
    queue: VecDeque<usize>,
    /// Who was granted something since the last look.
    woken: Vec<usize>,
}

impl Model {
    fn take(&mut self, weight: usize) -> bool {
        let may = self.queue.is_empty() && self.free >= weight;
        if may {
            self.free -= weight;
        }
        may
    }

    fn grant(&mut self) {
        while let Some(&first) = self.queue.front() {
            let Is::Waiting(weight) = self.slots[first] else { unreachable!("only waiters are queued") };
            if self.free < weight {
                break;
            }
            self.free -= weight;
            self.slots[first] = Is::Granted(weight);
            self.queue.pop_front();
            self.woken.push(first);
        }
    }
}

fn check_lockable(subject: &impl Lockable, steps: &[Step]) {
    let mut model = Model {
        free: subject.permits(),
        slots: [Is::Free; SLOTS],
        queue: VecDeque::new(),
        woken: Vec::new(),
    };
    let hooks: [_; SLOTS] = std::array::from_fn(|_| Hook::new());
    let mut pending: [Option<Pending<'_, Guard<'_>>>; SLOTS] = Default::default();
    let mut held: [Option<Guard<'_>>; SLOTS] = Default::default();
    for step in steps {
        match *step {
            Step::Acquire(slot, seed) if model.slots[slot] == Is::Free => {
                let weight = subject.weight(seed);
                let mut future = subject.acquire(weight);
                match hooks[slot].poll(&mut future) {
                    std::task::Poll::Ready(guard) => {
                        assert!(model.take(weight), "{step:?} overtook");
                        model.slots[slot] = Is::Held(weight);
                        held[slot] = Some(guard);
                    }
                    std::task::Poll::Pending => {
                        assert!(!model.take(weight), "{step:?} waits without need");
                        model.slots[slot] = Is::Waiting(weight);
                        model.queue.push_back(slot);
                        pending[slot] = Some(future);
                    }
                }
            }
            Step::TryAcquire(slot, seed) if model.slots[slot] == Is::Free => {
                let weight = subject.weight(seed);
                held[slot] = subject.try_acquire(weight);
                assert_eq!(held[slot].is_some(), model.take(weight), "{step:?}");
                if held[slot].is_some() {
                    model.slots[slot] = Is::Held(weight);
                }
            }
            Step::Poll(slot) => {
                if let Some(future) = &mut pending[slot] {
                    match (hooks[slot].poll(future), model.slots[slot]) {
                        (std::task::Poll::Ready(guard), Is::Granted(weight)) => {
                            model.slots[slot] = Is::Held(weight);
                            held[slot] = Some(guard);
                            pending[slot] = None;
                        }
                        (std::task::Poll::Pending, Is::Waiting(_)) => {}
                        (result, is) => panic!("{step:?}: ready is {}, the model {is:?}", result.is_ready()),
                    }
                }
            }
            Step::Drop(slot) => {
                pending[slot] = None;
                held[slot] = None;
                match std::mem::replace(&mut model.slots[slot], Is::Free) {
                    Is::Free => {}
                    Is::Waiting(_) => model.queue.retain(|&waiting| waiting != slot),
                    Is::Granted(weight) | Is::Held(weight) => model.free += weight,
                }
                model.grant();
            }
            Step::Acquire(..) | Step::TryAcquire(..) => {}
        }
        let woken = std::mem::take(&mut model.woken);
        for (slot, hook) in hooks.iter().enumerate() {
            assert_eq!(hook.take_wakes(), usize::from(woken.contains(&slot)), "{step:?} woke slot {slot}");
        }
    }
    drop((pending, held));
    // Nothing was lost.
    for _ in 0..2 {
        assert!(subject.try_acquire(subject.permits()).is_some());
    }
}

fn check_notify(steps: &[(u8, usize)]) {
    let notify = Notify::new();
    let hooks: [_; SLOTS] = std::array::from_fn(|_| Hook::new());
    let mut pending: [Option<Pending<'_, ()>>; SLOTS] = Default::default();
    let mut queue: VecDeque<usize> = VecDeque::new();
    // Whom a notification reached that it did not see yet, and whether it was the only one.
    let mut told: [Option<bool>; SLOTS] = [None; SLOTS];
    for &(action, slot) in steps {
        let before = told;
        match action {
            0 | 1 => {
                let is_new = pending[slot].is_none();
                let future = pending[slot].get_or_insert_with(|| Box::pin(notify.notified()));
                let ready = hooks[slot].poll(future).is_ready();
                assert_eq!(ready, told[slot].take().is_some());
                if ready {
                    pending[slot] = None;
                } else if is_new {
                    queue.push_back(slot);
                }
            }
            2 => {
                pending[slot] = None;
                queue.retain(|&waiting| waiting != slot);
                if told[slot].take() == Some(true)
                    && let Some(next) = queue.pop_front()
                {
                    told[next] = Some(true);
                }
            }
            3 => {
                assert_eq!(notify.notify_one(), !queue.is_empty());
                if let Some(first) = queue.pop_front() {
                    told[first] = Some(true);
                }
            }
            _ => {
                notify.notify_all();
                for waiting in queue.drain(..) {
                    told[waiting] = Some(false);
                }
            }
        }
        assert_eq!(notify.is_idle(), queue.is_empty());
        for (slot, hook) in hooks.iter().enumerate() {
            assert_eq!(hook.take_wakes(), usize::from(before[slot].is_none() && told[slot].is_some()));
        }
    }
}

fn check_barrier(steps: &[(bool, usize)]) {
    const SIZE: usize = 3;
    let barrier = Barrier::new(SIZE);
    let hooks: [_; SLOTS] = std::array::from_fn(|_| Hook::new());
    let mut pending: [Option<Pending<'_, BarrierWaitResult>>; SLOTS] = Default::default();
    let mut arrived: Vec<usize> = Vec::new();
    let mut released: Vec<usize> = Vec::new();
    for &(drops, slot) in steps {
        if drops {
            pending[slot] = None;
            arrived.retain(|&waiting| waiting != slot);
            released.retain(|&waiting| waiting != slot);
            continue;
        }
        let is_new = pending[slot].is_none();
        let future = pending[slot].get_or_insert_with(|| Box::pin(barrier.wait()));
        let result = hooks[slot].poll(future);
        if is_new && arrived.len() + 1 == SIZE {
            released.append(&mut arrived);
            assert!(matches!(result, std::task::Poll::Ready(result) if result.is_leader()));
            pending[slot] = None;
        } else if is_new {
            assert!(result.is_pending());
            arrived.push(slot);
        } else if released.contains(&slot) {
            assert!(matches!(result, std::task::Poll::Ready(result) if !result.is_leader()));
            released.retain(|&waiting| waiting != slot);
            pending[slot] = None;
        } else {
            assert!(result.is_pending());
        }
    }
}

fn check_mpsc(capacity: usize, steps: &[(u8, usize)]) {
    let (sender, mut receiver) = mpsc::channel(capacity);
    let hooks: [_; SLOTS] = std::array::from_fn(|_| Hook::new());
    let mut pending: [Option<Pending<'_, bool>>; SLOTS] = Default::default();
    let mut values: [usize; SLOTS] = [0; SLOTS];
    let mut queue: VecDeque<usize> = VecDeque::new();
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let mut granted: Vec<usize> = Vec::new();
    let mut closed = false;
    for (number, &(action, slot)) in steps.iter().enumerate() {
        let room = capacity - queue.len() - granted.len();
        match action {
            // Sends, or goes on sending.
            0..=2 => {
                let is_new = pending[slot].is_none();
                if is_new {
                    values[slot] = number;
                }
                let sender = &sender;
                let future = pending[slot]
                    .get_or_insert_with(|| Box::pin(async move { sender.send(number).await.is_ok() }));
                let result = hooks[slot].poll(future);
                let may = if is_new { waiting.is_empty() && room > 0 } else { granted.contains(&slot) };
                if closed {
                    assert_eq!(result, std::task::Poll::Ready(false));
                } else if may {
                    assert_eq!(result, std::task::Poll::Ready(true));
                    queue.push_back(values[slot]);
                } else {
                    assert!(result.is_pending());
                }
                if result.is_ready() {
                    granted.retain(|&sends| sends != slot);
                    pending[slot] = None;
                } else if is_new {
                    waiting.push_back(slot);
                }
            }
            3 => {
                pending[slot] = None;
                waiting.retain(|&waits| waits != slot);
                granted.retain(|&sends| sends != slot);
            }
            4 if pending[slot].is_none() => {
                let may = !closed && waiting.is_empty() && room > 0;
                assert_eq!(sender.try_send(number).is_ok(), may);
                if may {
                    queue.push_back(number);
                }
            }
            5 if slot == 0 && number > 40 => {
                receiver.close();
                closed = true;
                waiting.clear();
                granted.clear();
            }
            _ => {
                let expected = match queue.pop_front() {
                    Some(value) => Ok(value),
                    None if closed => Err(mpsc::error::TryRecvError::Disconnected),
                    None => Err(mpsc::error::TryRecvError::Empty),
                };
                assert_eq!(receiver.try_recv(), expected);
            }
        }
        // Room that came free goes to those who wait.
        while !closed && queue.len() + granted.len() < capacity {
            let Some(first) = waiting.pop_front() else { break };
            assert_eq!(hooks[first].take_wakes(), 1, "step {number}");
            granted.push(first);
        }
        if !closed {
            assert!(hooks.iter().all(|hook| hook.take_wakes() == 0), "step {number}");
        }
        assert_eq!(receiver.len(), queue.len());
    }
}

fn check_broadcast(capacity: usize, steps: &[(u8, usize)]) {
    let (sender, first) = broadcast::channel(capacity);
    let mut receivers: [Option<broadcast::Receiver<usize>>; SLOTS] = Default::default();
    receivers[0] = Some(first);
    let mut next = [0usize; SLOTS];
    let mut sent: Vec<usize> = Vec::new();
    for (number, &(action, slot)) in steps.iter().enumerate() {
        match action {
            0..=2 => {
                let listening = receivers.iter().flatten().count();
                assert_eq!(sender.send(number).ok(), (listening > 0).then_some(listening));
                if listening > 0 {
                    sent.push(number);
                }
            }
            3 => receivers[slot] = None,
            4 if receivers[slot].is_none() => {
                receivers[slot] = Some(sender.subscribe());
                next[slot] = sent.len();
            }
            _ => {
                let Some(receiver) = &mut receivers[slot] else { continue };
                let oldest = sent.len().saturating_sub(capacity);
                let expected = if next[slot] < oldest {
                    let missed = oldest - next[slot];
                    next[slot] = oldest;
                    Err(broadcast::error::TryRecvError::Lagged(missed as u64))
                } else if let Some(&value) = sent.get(next[slot]) {
                    next[slot] += 1;
                    Ok(value)
                } else {
                    Err(broadcast::error::TryRecvError::Empty)
                };
                assert_eq!(receiver.try_recv(), expected);
            }
        }
    }
    drop(sender);
    for receiver in receivers.iter_mut().flatten() {
        let hook = Hook::new();
        while !matches!(
            hook.poll(&mut Box::pin(receiver.recv())),
            std::task::Poll::Ready(Err(broadcast::error::RecvError::Closed))
        ) {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_semaphore_is_as_its_model(steps in steps()) {
        check_lockable(&Semaphore::new(3), &steps);
    }

    #[test]
    fn a_mutex_is_as_its_model(steps in steps()) {
        check_lockable(&Mutex::new(0), &steps);
    }

    #[test]
    fn a_rwlock_is_as_its_model(steps in steps()) {
        check_lockable(&RwLock::new(0), &steps);
    }

    #[test]
    fn a_notify_is_as_its_model(steps in vec((0..5u8, 0..SLOTS), 0..80)) {
        check_notify(&steps);
    }

    #[test]
    fn a_barrier_is_as_its_model(steps in vec((any::<bool>(), 0..SLOTS), 0..80)) {
        check_barrier(&steps);
    }

    #[test]
    fn a_bounded_channel_is_as_its_model(capacity in 1..4usize, steps in vec((0..8u8, 0..SLOTS), 0..80)) {
        check_mpsc(capacity, &steps);
    }

    #[test]
    fn a_broadcast_is_as_its_model(capacity in 1..4usize, steps in vec((0..8u8, 0..SLOTS), 0..80)) {
        check_broadcast(capacity, &steps);
    }
}
