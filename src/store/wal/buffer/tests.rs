//! A ring against a queue.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Front, buffer, entry_bytes};

/// What the two ends do.
#[derive(Clone, Debug)]
enum Step {
    /// Appends operations of so many bytes, if there is room.
    Append(usize),
    /// Takes so many entries.
    Take(usize),
    Release,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..=56).prop_map(Step::Append),
        2 => (1_usize..5).prop_map(Step::Take),
        1 => Just(Step::Release),
    ]
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_in_order(steps in vec(any_step(), 0..300)) {
        let (mut producer, mut consumer) = buffer(256);
        // What was taken and not released, and what was not taken.
        let (mut held, mut queue) = (0, VecDeque::new());
        let mut number = u64::from(u32::MAX) - 20;
        for step in steps {
            match step {
                Step::Append(len) => {
                    let total = entry_bytes(len);
                    if producer.has_room(total, total) {
                        let byte = number.to_le_bytes()[0];
                        producer.append(number, len, |out| out.fill(byte));
                        queue.push_back((number, len));
                        number += 3;
                    } else {
                        prop_assert!(held + queue.len() > 0, "an empty ring has room");
                    }
                }
                Step::Take(count) => {
                    consumer.refresh();
                    for _ in 0..count {
                        let expected = queue.pop_front();
                        let front = consumer.front();
                        let shown = expected.map(|(number, len)| {
                            Front { number: super::low(number), len: u32::try_from(len).expect("short") }
                        });
                        prop_assert_eq!(front, shown);
                        let (Some(front), Some((number, len))) = (front, expected) else { break };
                        let mut out = vec![0; 8 + len];
                        consumer.take(front, &mut out);
                        prop_assert!(out[8..].iter().all(|byte| *byte == number.to_le_bytes()[0]));
                        held += 1;
                    }
                }
                Step::Release => {
                    consumer.release();
                    held = 0;
                }
            }
        }
    }
}

#[test]
fn a_full_buffer_says_so_until_something_is_released() {
    let (mut producer, mut consumer) = buffer(128);
    let mut appended = 0;
    while producer.has_room(entry_bytes(8), 0) {
        producer.append(appended, 8, |out| out.fill(1));
        appended += 1;
    }
    assert_eq!(appended, 8, "all of it is used");
    consumer.refresh();
    let front = consumer.front().expect("it is full");
    consumer.take(front, &mut [0; 16]);
    assert!(!producer.has_room(entry_bytes(8), 0), "taken, not released");
    consumer.release();
    assert!(producer.has_room(entry_bytes(8), 0));
}

#[test]
fn an_encoder_that_panics_appends_nothing() {
    let (mut producer, mut consumer) = buffer(128);
    producer.append(1, 4, |out| out.fill(1));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        producer.append(2, 4, |_| panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    producer.append(3, 4, |out| out.fill(3));
    consumer.refresh();
    for number in [1, 3] {
        let front = consumer.front().expect("two were appended");
        assert_eq!(front.number, number);
        consumer.take(front, &mut [0; 12]);
    }
    assert_eq!(consumer.front(), None);
}
