//! The parts on their own. What the rules promise is tested with trees:
//! `btree/smo/tests/flusher.rs` and `btree/tree/flushing/tests.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::store::word::Epoch;

const ROOM: Room = Room { bytes: 100, entries: 100 };

fn id(page: u64) -> PageId {
    PageId::of_test(page)
}

fn word(page: u64, epoch: u32) -> ChildWord {
    ChildWord::of_numbers(page, epoch)
}

/// Pages of one byte each that are what the test says.
#[derive(Default)]
struct Fake {
    live: RefCell<BTreeMap<PageId, (Live, Vec<ChildWord>)>>,
    /// What those are that are not live: if it is not said, free.
    other: RefCell<BTreeMap<PageId, Look>>,
}

impl Fake {
    fn set(&self, page: u64, epoch: u32, pending: Option<ChildWord>, children: &[ChildWord]) {
        let epoch = Epoch::new(epoch).expect("small");
        let live = Live { epoch, level: u8::from(!children.is_empty()), bytes: 64, pending };
        self.live.borrow_mut().insert(id(page), (live, children.to_vec()));
    }

    fn set_other(&self, page: u64, look: Look) {
        self.live.borrow_mut().remove(&id(page));
        self.other.borrow_mut().insert(id(page), look);
    }
}

impl Pages for Fake {
    type Content = ();

    fn look(&self, page: PageId) -> Look {
        let other = || self.other.borrow().get(&page).copied().unwrap_or(Look::Free);
        self.live.borrow().get(&page).map_or_else(other, |(live, _)| Look::Live(*live))
    }

    fn stated(&self, parent: PageId, child: PageId) -> Option<Epoch> {
        let pages = self.live.borrow();
        pages.get(&parent)?.1.iter().find(|other| other.id() == child).map(|child| child.epoch())
    }

    /// All pages below 50 are durable as they were first.
    fn durable_bytes(&self, _: PageId) -> u64 {
        0
    }

    fn durable(&self, page: PageId) -> Option<Epoch> {
        (page < id(50)).then_some(Epoch::FIRST)
    }

    fn capture(&self, page: PageId) -> Capture<()> {
        let pages = self.live.borrow();
        let Some((live, children)) = pages.get(&page) else { return Capture::Free };
        Capture::Image(Captured {
            page: ChildWord::new(page, live.epoch),
            tree: 1,
            level: live.level,
            newest: 9,
            pending: live.pending,
            children: children.clone(),
            stored_bytes: 1,
            content: (),
        })
    }

    fn is_clean(&self, _: PageId) -> bool {
        false
    }

    fn newest_number(&self) -> u64 {
        9
    }
}

fn dirty(parent: u64, page: u64, from: u64) -> Event {
    Event::Dirty { tree: 1, parent: id(parent), page: id(page), from }
}

/// Gives events out, one list a look.
fn looks(lists: &[&[Event]]) -> impl FnMut(&mut Vec<Event>) + use<> {
    let mut lists: VecDeque<Vec<Event>> = lists.iter().map(|list| list.to_vec()).collect();
    move |to: &mut Vec<Event>| to.extend(lists.pop_front().unwrap_or_default())
}

fn bundle(next: Next<()>) -> (BundleId, Vec<u64>) {
    match next {
        Next::Bundle(plan) => (plan.bundle, plan.pages.iter().map(|page| page.page.id().get()).collect()),
        other => panic!("{other:?} is no bundle"),
    }
}

#[test]
fn the_hand_goes_round_by_parents() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    (20..26).for_each(|page| fake.set(page, 0, None, &[]));
    let events = [dirty(12, 20, 5), dirty(11, 21, 4), dirty(12, 22, 6), dirty(11, 23, 7)];
    let mut take = looks(&[&events]);
    let mut next =
        |flusher: &mut Flusher, reason| bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, reason));
    let order = [21, 23, 20].map(|page| (next(&mut flusher, Reason::Age), page));
    for ((_, found), page) in &order {
        assert_eq!(found, &[*page]);
    }
    // What the evicter waits for goes first, dirty or not.
    flusher.want(id(25));
    assert_eq!(next(&mut flusher, Reason::Pressure).1, [25]);
    assert_eq!(flusher.oldest(), Some(4), "under way is not durable");
    flusher.durable(order[0].0.0, &fake);
    assert_eq!(flusher.oldest(), Some(5));
    flusher.failed(order[2].0.0);
    assert_eq!(next(&mut flusher, Reason::Age).1, [22]);
    assert_eq!(next(&mut flusher, Reason::Age).1, [20], "what failed is dirty again");
    assert_eq!(flusher.oldest(), Some(5));
    assert_eq!(flusher.under_way_count(), 4);
}

#[test]
fn a_write_behind_the_capture_is_dirt_again() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    fake.set(20, 0, None, &[]);
    let mut take = looks(&[&[dirty(11, 20, 5)], &[dirty(11, 20, 8)]]);
    let (sealed, _) = bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age));
    assert_eq!(flusher.durable(sealed, &fake).pages, [word(20, 0)]);
    assert_eq!((flusher.oldest(), flusher.dirty_count()), (Some(8), 1));
    assert_eq!(flusher.log_start(30, &fake, &mut take), 8);
    let (sealed, _) = bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age));
    flusher.durable(sealed, &fake);
    assert_eq!(flusher.log_start(31, &fake, &mut take), 31);
    assert!(matches!(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Close), Next::Nothing));
}

#[test]
fn a_split_inherits_dirt_whose_event_is_seen_after_its_own() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    let new = word(60, 0);
    fake.set(20, 1, Some(new), &[]);
    fake.set(60, 0, None, &[]);
    let split = Event::Split { tree: 1, page: id(20), new };
    let mut take = looks(&[&[split], &[dirty(11, 20, 5)]]);
    assert!(flusher.drain(&fake, &mut take));
    assert_eq!(flusher.dirty_count(), 2);
    assert_eq!(flusher.dirty.get(id(60)).map(|dirt| dirt.from), Some(5));
    // Neither goes without the other.
    let (_, pages) = bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age));
    assert_eq!(pages, [20, 60]);
}

#[test]
fn what_an_image_shows_is_asked_for_before_the_seal() {
    let written = |defect| {
        let (fake, mut flusher) = (Fake::default(), Flusher::new(1, defect));
        let new = word(60, 0);
        fake.set(20, 1, Some(new), &[]);
        fake.set(60, 0, None, &[]);
        // It is split between the first look and its capture.
        let split = Event::Split { tree: 1, page: id(20), new };
        let mut take = looks(&[&[dirty(11, 20, 5)], &[split]]);
        bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age)).1
    };
    assert_eq!(written(None), [20, 60]);
    assert_eq!(written(Some(FlushDefect::NoSecondDrain)), [20], "the canary");
}

#[test]
fn a_page_that_is_moved_waits_and_one_under_way_is_not_moved() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    (20..22).for_each(|page| fake.set(page, 0, None, &[]));
    let mut take = looks(&[&[dirty(11, 20, 5)], &[], &[dirty(11, 21, 6)]]);
    bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age));
    let (moving, moved) = flusher.move_cold([word(20, 0), word(21, 0), word(22, 0)]);
    assert_eq!(moved, [word(21, 0), word(22, 0)]);
    assert!(matches!(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age), Next::Nothing));
    assert_eq!(flusher.durable(moving, &fake).pages, moved);
    assert_eq!(bundle(flusher.next_bundle(&fake, &mut take, ROOM, 1, Reason::Age)).1, [21]);
}

#[test]
fn a_page_that_is_gone_is_moved_and_stays_gone() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    flusher.structure.knows_gone(id(20), id(11));
    let (moving, moved) = flusher.move_cold([word(20, 0)]);
    assert_eq!(moved, [word(20, 0)]);
    flusher.durable(moving, &fake);
    assert!(flusher.structure.gone.contains_key(&id(20)));
}

#[test]
fn pages_that_do_not_fit_together_are_named_and_those_that_others_need_go_first() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    let new = word(60, 0);
    fake.set(20, 1, Some(new), &[]);
    fake.set(60, 0, None, &[]);
    let events = [dirty(11, 20, 5), Event::Split { tree: 1, page: id(20), new }];
    let mut take = looks(&[&events]);
    let small = Room { bytes: 1, entries: 100 };
    match flusher.next_bundle(&fake, &mut take, small, 1, Reason::Age) {
        Next::TooLarge(pages) => assert_eq!(pages, [id(20), id(60)]),
        other => panic!("{other:?}"),
    }
    // A parent that states both needs three places; its children need two.
    fake.set(11, 0, None, &[word(20, 1), new]);
    let posted = Event::Posted { tree: 1, parent: id(11), page: word(20, 1), new };
    let mut take = looks(&[&[posted]]);
    flusher.want(id(11));
    let small = Room { bytes: 2, entries: 100 };
    let (first, pages) = bundle(flusher.next_bundle(&fake, &mut take, small, 2, Reason::Pressure));
    assert_eq!(pages, [20, 60]);
    assert!(matches!(flusher.next_bundle(&fake, &mut take, small, 2, Reason::Pressure), Next::Waits));
    flusher.durable(first, &fake);
    assert_eq!(bundle(flusher.next_bundle(&fake, &mut take, small, 2, Reason::Pressure)).1, [11]);
}

/// The page was to be removed from an inner page that was split before it came to that. The half
/// that does not have it is written, and evicted, and then it is removed from the other one.
#[test]
fn an_heir_that_was_evicted_does_not_hold_back_an_id() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    let (gone, right) = (word(20, 1), word(12, 0));
    fake.set_other(20, Look::Gone(gone.epoch()));
    fake.set(11, 1, Some(right), &[word(21, 0)]);
    fake.set(12, 0, None, &[word(20, 0)]);
    let removed = |parent| Event::Removed { tree: 1, parent: id(parent), gone };
    let mut take = looks(&[&[removed(11), Event::Split { tree: 1, page: id(11), new: right }]]);
    let next = |flusher: &mut Flusher, take: &mut dyn FnMut(&mut Vec<Event>)| match flusher.next_bundle(
        &fake,
        &mut |to: &mut Vec<Event>| take(to),
        ROOM,
        100,
        Reason::Age,
    ) {
        Next::Bundle(plan) => plan,
        other => panic!("{other:?} is no bundle"),
    };
    let plan = next(&mut flusher, &mut take);
    assert_eq!((plan.pages.len(), &plan.freed[..]), (2, &[][..]), "the right half leads there");
    flusher.durable(plan.bundle, &fake);
    fake.set_other(11, Look::Cold(Epoch::new(1).expect("small")));
    fake.set(12, 0, None, &[word(22, 0)]);
    let plan = next(&mut flusher, &mut looks(&[&[removed(12)]]));
    assert_eq!((plan.pages.len(), &plan.freed[..]), (1, &[word(20, 2)][..]));
}

/// A parent whose leaves have all split twice: each of them needs it, and it needs all of them.
#[test]
fn what_is_too_large_is_captured_once_and_not_for_each_page_that_needs_it() {
    const LEAVES: u64 = 20;
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    let (mut children, mut events) = (Vec::new(), Vec::new());
    for leaf in 0..LEAVES {
        let (page, second, third) = (20 + leaf, word(60 + leaf, 0), word(90 + leaf, 0));
        fake.set(page, 2, Some(third), &[]);
        fake.set(60 + leaf, 0, None, &[]);
        fake.set(90 + leaf, 0, None, &[]);
        children.extend([word(page, 1), second]);
        let split = |new| Event::Split { tree: 1, page: id(page), new };
        let posted = Event::Posted { tree: 1, parent: id(11), page: word(page, 1), new: second };
        events.extend([dirty(11, page, 5), split(second), posted, split(third)]);
    }
    fake.set(11, 0, None, &children);
    let mut take = looks(&[&events]);
    let small = Room { bytes: 20, entries: 100 };
    let next = flusher.next_bundle(&fake, &mut take, small, 20, Reason::Age);
    assert!(matches!(next, Next::TooLarge(_)), "{next:?}");
    assert!(flusher.captures < 10 * LEAVES, "{} captures", flusher.captures);
}

#[test]
fn events_without_end_are_left_for_later() {
    let (fake, mut flusher) = (Fake::default(), Flusher::new(1, None));
    let split = Event::Split { tree: 1, page: id(20), new: word(60, 0) };
    let mut always = |to: &mut Vec<Event>| to.push(split);
    assert!(!flusher.drain(&fake, &mut always));
    assert_eq!(flusher.log_start(40, &fake, &mut always), 1, "the log's start stays where it is");
    assert!(matches!(flusher.next_bundle(&fake, &mut always, ROOM, 1, Reason::Age), Next::Waits));
    assert_eq!(flusher.log_start(41, &fake, &mut |_| {}), 41);
}

/// One hand flushes all that is dirty in the order in which it became so, as `beat` says: how full
/// the log gets, in percent, and what was flushed by what was logged.
fn paced(dirty_pages: u64, steps: u64) -> (u64, u64) {
    const LIMIT: u64 = 64 << 20;
    const PAGE: u64 = 4096;
    let (mut pace, mut load) = (Pace::default(), Load { log_limit: LIMIT, ..Load::default() });
    load.dirty_budget = u64::MAX;
    // When each page became dirty, by bytes logged.
    let mut since: VecDeque<u64> = VecDeque::new();
    let (mut logged, mut most, mut flushed) = (0, 0, 0);
    for step in 0..steps {
        load.logged = 8192 + step % 7 * 4096;
        logged += load.logged;
        for _ in 0..load.logged / 256 {
            if u64::try_from(since.len()).expect("few") < dirty_pages {
                since.push_back(logged);
            }
        }
        load.dirty = u64::try_from(since.len()).expect("few") * PAGE;
        load.log_used = since.front().map_or(0, |first| logged - first);
        most = most.max(load.log_used);
        let bytes = pace.beat(&load, 64 << 10);
        assert!(bytes <= MAX_BEAT_BYTES);
        if load.log_used < LIMIT / 2 {
            assert_eq!(bytes, 0);
        }
        let pages = usize::try_from(bytes / PAGE).expect("few").min(since.len());
        since.drain(..pages);
        pace.flushed(bytes);
        flushed += bytes;
    }
    (most * 100 / LIMIT, flushed * 100 / logged)
}

#[test]
fn the_log_never_gets_full_and_nothing_is_flushed_early() {
    for dirty_pages in [10, 1000, 5000, 20_000] {
        let (most, flushed) = paced(dirty_pages, 40_000);
        println!("{dirty_pages} pages: the log is {most} % full at most, {flushed} % of it was flushed");
        assert!((50..=95).contains(&most), "{dirty_pages}: {most} %");
    }
}

#[test]
fn pressure_is_answered_at_once() {
    let mut pace = Pace::default();
    let load = Load { log_limit: 1 << 30, dirty: 10 << 20, dirty_budget: 10 << 20, ..Load::default() };
    assert_eq!(pace.beat(&load, 1 << 18), 0);
    assert_eq!(pace.beat(&Load { wanted: 4096, ..load }, 1 << 18), 4096);
    assert_eq!(pace.beat(&Load { dirty: 12 << 20, ..load }, 1 << 18), MAX_BEAT_BYTES);
}
