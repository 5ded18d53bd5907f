//! Every interleaving of cores, a leader and a consolidation, with loom.
//!
//! Each of the models is broken once on purpose ([`WalDefect`]), and loom finds it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::fresh;
use crate::store::wal::batch::{BatchHeader, HEADER_BYTES};
use crate::store::wal::buffer::{Consumer, buffer};
use crate::store::wal::defect::WalDefect;
use crate::store::wal::group::Wal;
use crate::store::wal::order::Order;

fn model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// Runs a model that must fail.
fn fails(f: impl Fn() + Send + Sync + 'static) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model(3, f)));
    assert!(outcome.is_err(), "the defect was not noticed");
}

/// Two cores draw, publish (a Relaxed store in place of a slot) and say so; a third thread sees
/// what is below `stable()`.
fn stable(defect: Option<WalDefect>) {
    let order = Arc::new(Order::new(0, 2, defect));
    let slots: Arc<[AtomicU64; 4]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
    let write = |order: &Order, slots: &[AtomicU64; 4], core: usize, after_last: u64| {
        let number = order.draw(core, after_last, 1);
        let slot = &slots[usize::try_from(number).expect("small")];
        slot.store(1, Ordering::Relaxed);
        order.idle(core);
        number + 1
    };
    let cores: Vec<_> = [2, 1]
        .into_iter()
        .enumerate()
        .map(|(core, writes)| {
            let (order, slots) = (Arc::clone(&order), Arc::clone(&slots));
            thread::spawn(move || {
                (0..writes).fold(0, |after_last, _| write(&order, &slots, core, after_last));
            })
        })
        .collect();
    let stable = usize::try_from(order.stable()).expect("small");
    for slot in &slots[..stable] {
        assert_eq!(slot.load(Ordering::Relaxed), 1, "below {stable}");
    }
    cores.into_iter().for_each(|core| core.join().expect("ends"));
    assert_eq!(order.stable(), 3);
}

#[test]
fn stable_does_not_pass_a_number_that_is_not_published() {
    model(3, || stable(None));
}

#[test]
fn a_cut_too_late_is_noticed() {
    fails(|| stable(Some(WalDefect::CutTooLate)));
}

/// One core draws two numbers at once and publishes them one after the other.
#[test]
fn stable_stops_between_two_numbers_of_one_draw() {
    model(4, || {
        let order = Arc::new(Order::new(0, 1, None));
        let slots: Arc<[AtomicU64; 2]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let core = {
            let (order, slots) = (Arc::clone(&order), Arc::clone(&slots));
            thread::spawn(move || {
                assert_eq!(order.draw(0, 0, 2), 0);
                slots[0].store(1, Ordering::Relaxed);
                order.published(0, 1);
                slots[1].store(1, Ordering::Relaxed);
                order.idle(0);
            })
        };
        for _ in 0..2 {
            let stable = usize::try_from(order.stable()).expect("small");
            assert!(slots[..stable].iter().all(|slot| slot.load(Ordering::Relaxed) == 1), "below {stable}");
        }
        core.join().expect("ends");
    });
}

/// A snapshot begins while writes go on and a consolidation takes the horizon.
fn horizon(defect: Option<WalDefect>) {
    let order = Arc::new(Order::new(0, 2, defect));
    let writer = {
        let order = Arc::clone(&order);
        thread::spawn(move || {
            order.draw(1, 0, 1);
            order.idle(1);
        })
    };
    // What the consolidation has collapsed: versions below this number.
    let collapsed = Arc::new(AtomicU64::new(0));
    let consolidation = {
        let (order, collapsed) = (Arc::clone(&order), Arc::clone(&collapsed));
        thread::spawn(move || {
            let horizon = order.horizon();
            collapsed.store(horizon, Ordering::Relaxed);
            horizon
        })
    };
    let (bound, snapshot) = order.announce(0, None);
    assert!(bound <= snapshot);
    writer.join().expect("ends");
    let horizon = consolidation.join().expect("ends");
    assert!(horizon <= snapshot, "{horizon} passes a snapshot at {snapshot}");
    // A consolidation that begins while the snapshot lives.
    order.draw(0, 0, 1);
    order.idle(0);
    assert!(order.horizon() <= snapshot, "the horizon passes a snapshot at {snapshot}");
    order.withdraw(0, None);
    assert_eq!(order.horizon(), 2);
}

#[test]
fn the_horizon_does_not_pass_a_snapshot_that_is_being_taken() {
    model(3, || horizon(None));
}

#[test]
fn an_ignored_horizon_is_noticed() {
    fails(|| horizon(Some(WalDefect::HorizonIgnored)));
}

/// A producer that goes round the ring twice, and a consumer that moves from one thread to another.
#[test]
fn a_buffer_passes_from_its_core_to_leaders_that_change() {
    model(3, || {
        let (mut producer, consumer) = buffer(128);
        let consumer = Arc::new(loom::sync::Mutex::new((consumer, 0_u32)));
        let core = thread::spawn(move || {
            let mut appended = 0;
            for number in 0..6 {
                if producer.has_room(24, 24) {
                    producer.append(appended, 9 + usize::try_from(number % 2).expect("small"), |out| {
                        out.fill(appended.to_le_bytes()[0]);
                    });
                    appended += 1;
                }
            }
            appended
        });
        let take = |consumer: &loom::sync::Mutex<(Consumer, u32)>| {
            let Ok(mut held) = consumer.try_lock() else { return };
            let (consumer, next) = &mut *held;
            consumer.refresh();
            while let Some(front) = consumer.front() {
                let mut out = vec![0; 8 + front.len as usize];
                consumer.take(front, &mut out);
                assert_eq!(front.number, *next);
                assert!(out[8..].iter().all(|byte| *byte == next.to_le_bytes()[0]));
                *next += 1;
            }
            consumer.release();
        };
        let other = {
            let consumer = Arc::clone(&consumer);
            thread::spawn(move || take(&consumer))
        };
        take(&consumer);
        let appended = core.join().expect("ends");
        other.join().expect("ends");
        take(&consumer);
        assert_eq!(u64::from(consumer.lock().expect("nobody panicked").1), appended);
        assert!(appended >= 4);
    });
}

/// Numbers that batches hold, if two cores write and both try to lead.
fn group(defect: Option<WalDefect>) {
    let wal = Arc::new(fresh(4096, 512, (2, 256), defect));
    let led: Arc<loom::sync::Mutex<u64>> = Arc::new(loom::sync::Mutex::new(1));
    let lead = |wal: &Wal, led: &loom::sync::Mutex<u64>| {
        let Some(mut lead) = wal.lead() else { return };
        let mut out = vec![0; 2048];
        if let Some(formed) = lead.next_batch(&mut out).expect("no number is lost") {
            lead.written(true);
            let (header, _) = BatchHeader::decode(&out).expect("a header");
            let mut next = led.lock().expect("nobody panicked");
            assert_eq!(header.first, *next, "each number once");
            *next = formed.end;
            for index in 0..header.records as usize {
                // A void would have zero there.
                assert_eq!(out[HEADER_BYTES + index * 10 + 8], 7);
            }
        }
    };
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (wal, led) = (Arc::clone(&wal), Arc::clone(&led));
            thread::spawn(move || {
                let log = wal.attach().expect("one for each core");
                let mut room = log.room(1, 2).expect("there is room");
                // It removes tree 1.
                room.draw().expect("the first").append(2, |out| out.copy_from_slice(&[7, 1]));
                lead(&wal, &led);
                drop(room);
                wal.detach(log);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("ends"));
    lead(&wal, &led);
    assert_eq!((*led.lock().expect("nobody panicked"), wal.durable()), (3, 3));
}

#[test]
fn batches_hold_every_number_once() {
    model(2, || group(None));
}

#[test]
fn a_leader_that_cuts_too_late_is_noticed() {
    fails(|| group(Some(WalDefect::CutTooLate)));
}
