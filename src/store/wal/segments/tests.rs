//! Segments are used one after the other.

use std::collections::VecDeque;

use super::super::tests::{format, name};
use super::Segments;

#[test]
fn segments_are_named_opened_and_handed_back() {
    let mut segments =
        Segments::new(format(64 << 10, 4096), VecDeque::from([(name(1, 1), 1)]), 4096, name(2, 1));
    assert!(segments.wants_spare());
    assert_eq!(segments.open(1, 5), None, "nothing that the header could name");
    segments.offer(name(3, 1));
    segments.advance(8192);
    assert_eq!(segments.place().offset, 12_288);
    assert_eq!((segments.end(), segments.position(name(1, 1), 4096)), (12_288, Some(4096)));
    let (place, header) = segments.open(1, 5).expect("one is spare");
    assert_eq!((place.name, place.offset, place.room), (name(2, 1), 4096, 60 << 10));
    assert_eq!((header.name, header.next(), header.first), (name(2, 1), Some(name(3, 1)), 5));
    assert_eq!(segments.used(), 3);
    assert_eq!(segments.free_before(name(9, 9)), []);
    assert!(segments.wants_spare());
    assert_eq!(segments.used(), 3, "that is no segment of the chain");
    assert_eq!(segments.free_before(name(2, 1)), [name(1, 1)]);
    assert_eq!(segments.used(), 2);
    let second = (64 << 10) + 4096;
    assert_eq!((segments.end(), segments.position(name(2, 1), 4096)), (second, Some(second)));
    assert_eq!(segments.position(name(1, 1), 4096), None);
    assert_eq!(segments.open(1, 9), None, "what was freed is for the table of segments");
    segments.offer(name(1, 2));
    let (_, header) = segments.open(1, 9).expect("one is spare");
    assert_eq!((header.name, header.next()), (name(3, 1), Some(name(1, 2))));
    segments.offer(name(4, 1));
    assert_eq!(segments.withdraw(), Some(name(4, 1)));
}
