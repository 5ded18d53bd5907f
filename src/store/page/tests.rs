//! Leaves and inner pages that are damaged in ways a checksum did not catch.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn filled_leaf(ledger: &mut Ledger) -> Leaf {
    let mut leaf = Leaf::new();
    for number in 0..60u8 {
        let (_, split) = leaf.put(&[number, 1, 2], &NewValue::Inline(&[number; 40]), ledger);
        assert!(split.is_none());
    }
    let blob = Blob::stored_at(
        Stored::from_ref(ObjectRef { address: 4096, len: 5000, flags: 0, checksum: 1 }),
        None,
        ledger,
    );
    leaf.put(b"overflow", &NewValue::Overflow(blob), ledger);
    leaf
}

/// Does everything that is done to a leaf.
fn exercise(mut leaf: Leaf, ledger: &mut Ledger) {
    for index in 0..leaf.count() {
        assert_eq!(leaf.search(leaf.key(index)), Ok(index));
        let _value = leaf.value(index);
    }
    leaf.encode();
    let mut right = None;
    for number in 0..200u8 {
        right = leaf.put(&[number], &NewValue::Inline(&[number; 100]), ledger).1.or(right);
    }
    while leaf.count() > 0 {
        leaf.remove(leaf.count() / 2, ledger);
    }
    if let Some(right) = right.filter(|right| leaf.can_absorb(right)) {
        leaf.absorb(&right);
    }
}

#[test]
fn a_damaged_leaf_is_refused_or_works() {
    let mut ledger = Ledger::new(4096);
    let image = filled_leaf(&mut ledger).encode();
    let mut random = StdRng::seed_from_u64(1);
    let mut accepted = 0;
    for _ in 0..4_000 {
        let mut damaged = image.clone();
        for _ in 0..random.random_range(1..4) {
            // Mostly where the structure is.
            let end = if random.random() { 200 } else { damaged.len() };
            damaged[random.random_range(0..end)] = random.random();
        }
        if let Ok(Body::Leaf(leaf)) = Page::decode(damaged, &mut ledger) {
            accepted += 1;
            exercise(leaf, &mut ledger);
        }
    }
    assert!(accepted > 20, "damage to values is not the page's to notice");
}

#[test]
fn a_damaged_inner_page_is_refused_or_works() {
    let mut ledger = Ledger::new(4096);
    let stored =
        |number: u64| Stored::from_ref(ObjectRef { address: number * 4096, len: 1, flags: 0, checksum: 0 });
    let page = |number: u64, ledger: &mut Ledger| {
        Rc::new(Page::loaded(Body::Leaf(Leaf::new()), stored(number), ledger))
    };
    let split = |number: u64, ledger: &mut Ledger| Split {
        separator: number.to_be_bytes()[6..].to_vec(),
        right: page(number, ledger),
    };
    let mut inner = Inner::root(page(1, &mut ledger), split(2, &mut ledger));
    for number in 3..50 {
        assert!(inner.add(inner.count() - 1, split(number, &mut ledger)).is_none());
    }
    let content = inner.encode();
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..4_000 {
        let mut damaged = content.clone();
        damaged[random.random_range(0..content.len())] = random.random();
        damaged.truncate(if random.random_ratio(1, 10) {
            random.random_range(1..content.len())
        } else {
            content.len()
        });
        if let Ok(Body::Inner(inner)) = Page::decode(damaged, &mut ledger) {
            for number in 0..60u16 {
                assert!(inner.child_for(&number.to_be_bytes()) < inner.count());
                assert!(inner.child_before(&number.to_be_bytes()) < inner.count());
            }
            assert!((1..inner.count()).all(|index| inner.separator(index - 1).len() <= content.len()));
        }
    }
}

#[test]
fn a_leaf_that_no_encoder_writes_is_refused() {
    let mut ledger = Ledger::new(4096);
    let image = filled_leaf(&mut ledger).encode();
    assert!(Page::decode(image.clone(), &mut ledger).is_ok());
    let mut refused = |image: Vec<u8>| Page::decode(image, &mut ledger).err();
    assert_eq!(refused(Leaf::new().encode()), Some("a leaf without entries"));
    // Its only entry is longer than any value in a leaf.
    let mut long = vec![0; 8192];
    let (offset, len) = (4096, 3000u16);
    for (at, field) in [(0, 1), (2, 1), (4, offset), (6, 4 + len), (16, offset), (4096 + 2, len)] {
        long[at..at + 2].copy_from_slice(&field.to_le_bytes());
    }
    assert_eq!(refused(long), Some("a leaf entry beyond the limits"));
    // An overflow value that is short enough for a leaf, or has a flag that nobody knows.
    let overflow = image.windows(8).position(|window| window == b"overflow").expect("it is there") + 8;
    for (field, value) in [(8, 100u32), (8, 0), (8, u32::MAX), (12, 8)] {
        let mut damaged = image.clone();
        damaged[overflow + field..overflow + field + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(refused(damaged), Some("a damaged overflow entry"), "{field}: {value}");
    }
}

#[test]
fn a_page_in_another_place_is_refused() {
    let mut ledger = Ledger::new(4096);
    let plain = ObjectRef { address: 4096, len: 4096, flags: 0, checksum: 0 };
    let overflow = ObjectRef { flags: FLAG_HAS_OVERFLOW, ..plain };
    let leaf = Body::Leaf(filled_leaf(&mut ledger));
    let check = |level, reference, lower: &[u8], upper: &[u8]| {
        Page::check_place(&leaf, level, reference, (Some(lower), Some(upper)))
    };
    let (first, after) = (&[0, 1, 2][..], &b"overflowing"[..]);
    assert_eq!(check(Some(0), &overflow, first, after), Ok(()));
    assert_eq!(Page::check_place(&leaf, None, &overflow, (None, None)), Ok(()));
    assert!(check(Some(1), &overflow, first, after).is_err(), "the level of an inner page");
    assert!(check(Some(0), &plain, first, after).is_err(), "its value would not be freed with it");
    assert!(check(Some(0), &overflow, &[0, 1, 3], after).is_err(), "a key before its first");
    assert!(check(Some(0), &overflow, first, b"overflow").is_err(), "a key that belongs to the next");
}
