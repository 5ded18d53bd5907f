//! Pages that are packed, in a tree of nodes.

use super::limits::{Blocks, WithReserve};
use super::*;
use crate::store::events::{Event, Events, Sink};

const KEYS: u32 = 20_000;

fn key(number: u32) -> [u8; 4] {
    number.wrapping_mul(0x9e37_79b9).to_be_bytes()
}

/// The keys that stay when nine of ten go.
fn stays(number: u32) -> bool {
    number.is_multiple_of(10)
}

/// Nine of ten keys go on two cores, while others look up and scan both ways.
#[test]
fn a_tenth_of_the_keys_needs_few_pages() {
    let pages = pages(4);
    let seq = AtomicU64::new(0);
    let first = pages.attach().expect("a core");
    let root = first.new_tree(1).expect("room");
    for number in 0..KEYS {
        first.pin().write(root, &key(number), Change::Put(&[7; 20]), &mut draw(&seq)).expect("room");
    }
    let full = used(&pages);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (pages, seq, done) = (&pages, &seq, &done);
            scope.spawn(move || {
                let core = pages.attach().expect("a core");
                for number in (0..KEYS).filter(|number| number % 2 == thread && !stays(*number)) {
                    core.pin().write(root, &key(number), Change::Delete, &mut draw(seq)).expect("room");
                    assert_eq!(core.pin().get(root, &key(number)), Ok(None));
                    // And one that comes, and stays.
                    if number % 97 == 0 {
                        let other = [&key(number)[..], b"new"].concat();
                        core.pin().write(root, &other, Change::Put(&[8; 20]), &mut draw(seq)).expect("room");
                        assert!(core.pin().get(root, &other).expect("in memory").is_some());
                    }
                }
                done.fetch_add(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            let core = pages.attach().expect("a core");
            while done.load(Ordering::Acquire) < 2 {
                for number in (0..KEYS).filter(|number| stays(*number)) {
                    let pin = core.pin();
                    let found = pin.get(root, &key(number)).expect("in memory");
                    assert_eq!(found.map(|found| found.value), Some(&[7; 20][..]), "{number}");
                }
            }
        });
        while done.load(Ordering::Acquire) < 2 {
            for all in [forwards(&first, root), backwards(&first, root)] {
                assert!(all.is_sorted_by(|a, b| a.0 < b.0), "a scan went back, or found a key twice");
                let stay = (0..KEYS).filter(|number| stays(*number));
                let found = stay
                    .filter(|number| all.binary_search_by(|(found, _)| found[..].cmp(&key(*number))).is_ok());
                assert_eq!(found.count(), KEYS.div_ceil(10) as usize, "a key that stays was passed over");
            }
        }
    });
    let came = (0..KEYS).filter(|number| !stays(*number) && number % 97 == 0).count();
    let all = forwards(&first, root);
    assert_eq!(all.len(), KEYS as usize / 10 + came);
    assert_eq!(all, backwards(&first, root));
    assert_eq!(reachable(&first, root), used(&pages), "a page was made and forgotten");
    let left = used(&pages);
    println!("{left} pages of {full}");
    assert!(left * 4 < full, "{left} pages of {full} are left");
}

/// Inner pages go as well.
#[test]
fn few_keys_leave_few_inner_pages() {
    const MANY: u32 = 200_000;
    let pages = pages(1);
    let seq = AtomicU64::new(0);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    for number in 0..MANY {
        core.pin().write(root, &key(number), Change::Put(&[7; 20]), &mut draw(&seq)).expect("room");
    }
    let inner = || {
        let pin = core.pin();
        let children = pin.children(root.root.id()).expect("in memory").unwrap_or_default();
        let inner = children.iter().filter(|child| pin.children(child.id()).is_ok_and(|page| page.is_some()));
        (inner.count(), children.len())
    };
    let (inner_before, full) = (inner(), used(&pages));
    assert!(inner_before.0 > 4, "{inner_before:?}");
    for number in (0..MANY).filter(|number| number % 100 > 0) {
        core.pin().write(root, &key(number), Change::Delete, &mut draw(&seq)).expect("room");
    }
    let left = used(&pages);
    println!("{left} pages of {full}; {:?}, and before {inner_before:?}", inner());
    assert!(left * 30 < full, "{left} pages of {full} are left");
    assert_eq!(inner().0, 0, "the root has leaves alone");
    assert_eq!(forwards(&core, root).len(), MANY as usize / 100);
    assert_eq!(reachable(&core, root), left);
}

/// What is packed is not split again by the next writes.
#[test]
fn a_packed_leaf_has_room() {
    let pages = pages(1);
    let events = Arc::new(Events::default());
    let core = pages.attach_with(Sink::Keeper(Arc::clone(&events))).expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    for number in 0..KEYS {
        core.pin().write(root, &key(number), Change::Put(&[7; 20]), &mut draw(&seq)).expect("room");
    }
    for number in (0..KEYS).filter(|number| !stays(*number)) {
        core.pin().write(root, &key(number), Change::Delete, &mut draw(&seq)).expect("room");
    }
    let count = |of: fn(&Event) -> bool| {
        let mut all = Vec::new();
        events.drain(&mut all);
        all.iter().filter(|event| of(event)).count()
    };
    assert!(count(|event| matches!(event, Event::Packed { .. })) > 50);
    for number in (0..KEYS).filter(|number| stays(*number)) {
        let other = [&key(number)[..], b"n"].concat();
        if number % 40 == 0 {
            core.pin().write(root, &other, Change::Put(&[8; 20]), &mut draw(&seq)).expect("room");
        }
    }
    let splits = count(|event| matches!(event, Event::Split { .. }));
    assert_eq!(splits, 0, "a tenth of the keys and a quarter of that fit");
}

/// Whenever memory ends on the way to pack two leaves, nothing is lost, and what is half done is
/// finished: by the reserve, or by the keeper when there is memory.
#[test]
fn a_pack_that_has_no_memory_for_its_next_step_is_finished() {
    for (reserve, keeper) in [(0, true), (4, false), (1, true)] {
        for more in 0..8 {
            let (left, most_reserve) = (AtomicU64::new(1000), reserve);
            let memory =
                WithReserve(Arc::new(Blocks { left, reserve: AtomicU64::new(reserve), most_reserve }));
            let pages = Nodes::new(memory.clone(), 1 << 18, 1);
            let events = Arc::new(Events::default());
            let sink = if keeper { Sink::Keeper(Arc::clone(&events)) } else { Sink::Nobody };
            let core = pages.attach_with(sink).expect("a core");
            let root = core.new_tree(1).expect("room");
            let seq = AtomicU64::new(0);
            let key = |number: u32| number.to_be_bytes();
            for number in 0..400 {
                core.pin().write(root, &key(number), Change::Put(&[7; 40]), &mut draw(&seq)).expect("room");
            }
            let left = &memory.0.left;
            let mut model: Vec<u32> = (0..400).collect();
            let mut refused = 0;
            let mut all = 0;
            for number in (0..400).filter(|number| number % 16 > 0) {
                // As good as no memory but for `more` nodes, at each delete anew.
                core.collect();
                all += left.swap(more, Ordering::Relaxed);
                match core.pin().write(root, &key(number), Change::Delete, &mut draw(&seq)) {
                    Ok(_) => model.retain(|other| *other != number),
                    Err(refusal) => {
                        assert_eq!(refusal, Refusal::NoRoom);
                        refused += 1;
                    }
                }
                let pin = core.pin();
                for other in [0, number & !15, number, 399] {
                    let found = pin.get(root, &key(other)).expect("in memory").is_some();
                    assert_eq!(found, model.contains(&other), "reads need no memory");
                }
            }
            left.fetch_add(all + 1000, Ordering::Relaxed);
            if keeper {
                while let Some(finished) = core.pin().finish_undone(|_| true) {
                    assert_eq!(finished, Ok(()));
                }
            } else if reserve >= 4 && more > 0 {
                assert_eq!(refused, 0, "the reserve is enough for one after the other");
            }
            let now: Vec<_> = forwards(&core, root).into_iter().map(|(key, _)| key).collect();
            assert!(
                now.iter().eq(model.iter().map(|number| key(*number).to_vec()).collect::<Vec<_>>().iter())
            );
            for number in (0..400).filter(|number| number % 16 > 0) {
                core.pin().write(root, &key(number), Change::Delete, &mut draw(&seq)).expect("room");
            }
            assert_eq!(forwards(&core, root).len(), 25);
            if !keeper {
                assert_eq!(reachable(&core, root), used(&pages), "a page was made and forgotten");
            }
        }
    }
}

/// Two neighbours that have many pages between their parents are left apart, and large entries are.
#[test]
fn what_does_not_fit_one_page_stays_apart() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let write =
        |key: &[u8], change: Change<'_>| core.pin().write(root, key, change, &mut draw(&seq)).expect("room");
    let key = |number: u32| [&number.to_be_bytes()[..], &[7; 500]].concat();
    for number in 0..200 {
        write(&key(number), Change::Put(&[1; 900]));
    }
    for number in (0..200).filter(|number| number % 3 > 0) {
        write(&key(number), Change::Delete);
    }
    let all = forwards(&core, root);
    assert_eq!(all.len(), 67);
    assert_eq!(all, backwards(&core, root));
    assert_eq!(reachable(&core, root), used(&pages));
}
