mod rates;

use std::cell::RefCell;

use super::*;

/// An entry of the mapping.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    is_resident: bool,
    is_dirty: bool,
    touched: u8,
    level: u8,
}

/// A mapping with frames of 16 pages. Pages with a level have the children that are listed.
#[derive(Default)]
struct Mapping {
    pages: RefCell<Vec<Page>>,
    children: Vec<(u64, Vec<u64>)>,
    missing_frames: Vec<u32>,
    evicted: RefCell<Vec<u64>>,
    looked: Cell<u32>,
    /// When there are none left, the hand finds nothing.
    looks_left: Cell<Option<u32>>,
}

const PAGE_BYTES: u64 = 4096;

impl Mapping {
    /// Clean leaves with so many touches, but for the first id, which is none.
    fn of_leaves(touched: impl IntoIterator<Item = u8>) -> Self {
        let leaf = |touched| Page { is_resident: true, touched, ..Page::default() };
        let mut pages: Vec<_> = touched.into_iter().map(leaf).collect();
        if let Some(first) = pages.first_mut() {
            first.is_resident = false;
        }
        pages.resize(pages.len().next_multiple_of(16), Page::default());
        Self { pages: RefCell::new(pages), ..Self::default() }
    }

    fn page(&self, number: u64) -> Page {
        self.pages.borrow()[usize::try_from(number).expect("small")]
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Page)) {
        change(&mut self.pages.borrow_mut()[usize::try_from(number).expect("small")]);
    }

    /// What is evicted in one round, in this order.
    fn round(&self) -> Vec<u64> {
        let hand = hand();
        let pages = u32::try_from(self.pages.borrow().len()).expect("small");
        self.looks_left.set(Some(pages));
        while self.looks_left.get() != Some(0) {
            hand.step(self, u64::MAX, |_| {});
        }
        self.looks_left.set(None);
        self.evicted.take()
    }
}

impl Sweep for Mapping {
    const FRAME_PAGES: u64 = 16;

    fn frames(&self) -> u32 {
        u32::try_from(self.pages.borrow().len() / 16).expect("small")
    }

    fn look(&self, page: PageId) -> Look {
        self.looked.set(self.looked.get() + 1);
        match self.looks_left.get() {
            Some(0) => return Look::Nothing,
            left => self.looks_left.set(left.map(|left| left - 1)),
        }
        if self.missing_frames.iter().any(|frame| u64::from(*frame) == page.get() / 16) {
            return Look::NoFrame;
        }
        let Page { is_resident, touched, level, .. } = self.page(page.get());
        if is_resident { Look::Resident(Resident { touched, level }) } else { Look::Nothing }
    }

    fn set_touched(&self, page: PageId, touched: u8) {
        self.change(page.get(), |page| page.touched = touched);
    }

    fn has_child_in_memory(&self, page: PageId) -> bool {
        let of_page = self.children.iter().filter(|(parent, _)| *parent == page.get());
        of_page.flat_map(|(_, children)| children).any(|child| self.page(*child).is_resident)
    }

    fn try_evict(&self, page: PageId) -> Attempt {
        match self.page(page.get()) {
            Page { is_resident: false, .. } => return Attempt::Changed,
            Page { is_dirty: true, .. } => return Attempt::Dirty,
            _ => {}
        }
        self.change(page.get(), |page| page.is_resident = false);
        self.evicted.borrow_mut().push(page.get());
        Attempt::Evicted { bytes: PAGE_BYTES }
    }
}

fn hand() -> Hand {
    Hand::new(Arc::default())
}

#[test]
fn touches_count_to_three_and_the_first_after_a_load_is_its_own() {
    let touches = std::iter::successors(Some(JUST_LOADED), |touched| Some(touched_again(*touched)));
    assert_eq!(touches.take(6).collect::<Vec<_>>(), [JUST_LOADED, 0, 1, 2, 3, 3]);
}

#[test]
fn each_touch_is_a_round_more() {
    let mapping = Mapping::of_leaves([0, 2, 0, 1, 3, JUST_LOADED, 0]);
    assert_eq!(mapping.round(), [2, 6]);
    assert_eq!(mapping.round(), [3, 5]);
    assert_eq!(mapping.round(), [1]);
    mapping.change(4, |page| page.touched = touched_again(page.touched));
    assert_eq!(mapping.round(), [0; 0], "touched again");
    assert_eq!(mapping.round(), [4]);
    assert_eq!(mapping.round(), [0; 0], "nothing is left");
}

#[test]
fn dirty_pages_are_told_and_go_when_they_are_clean() {
    let mapping = Mapping::of_leaves([0, 0, 0, 2]);
    for page in [1, 3] {
        mapping.change(page, |page| page.is_dirty = true);
    }
    let mut dirty = Vec::new();
    let stepped = hand().step(&mapping, PAGE_BYTES, |page| dirty.push(page.get()));
    assert_eq!(stepped, Stepped { pages: 1, bytes: PAGE_BYTES });
    assert_eq!((dirty, mapping.evicted.take()), (vec![1], vec![2]), "3 was touched");
    mapping.change(1, |page| page.is_dirty = false);
    assert_eq!(mapping.round(), [1]);
}

#[test]
fn inner_pages_go_after_their_children() {
    let mut mapping = Mapping::of_leaves([0, 0, 0, 0, 0, 1, 0]);
    // 1 is over 2 and 3, 2 over 4 and 5; 6 has no child in memory.
    mapping.children = vec![(1, vec![2, 3]), (2, vec![4, 5]), (6, vec![7])];
    for (page, level) in [(1, 2), (2, 1), (6, 1)] {
        mapping.change(page, |page| page.level = level);
    }
    assert_eq!(mapping.round(), [3, 4, 6]);
    assert_eq!(mapping.round(), [5], "2 is asked in every other round");
    assert_eq!(mapping.round(), [2], "1 has a child still");
    assert_eq!(mapping.round(), [0; 0]);
    assert_eq!(mapping.round(), [1]);
}

#[test]
fn a_step_is_bounded_whatever_it_finds() {
    // Nothing but dirty pages; nothing but cold ones; nothing but inner pages; no frame.
    let mut mappings = [(); 4].map(|()| Mapping::of_leaves([0; 16 << 10]));
    mappings[0].pages.borrow_mut().iter_mut().for_each(|page| page.is_dirty = true);
    mappings[1].pages.borrow_mut().iter_mut().for_each(|page| page.is_resident = false);
    mappings[2].pages.borrow_mut().iter_mut().for_each(|page| page.level = 1);
    mappings[3].missing_frames = (0..1024).collect();
    let looks = mappings.each_ref().map(|mapping| {
        hand().step(mapping, u64::MAX, |_| {});
        mapping.looked.get()
    });
    assert_eq!(looks, [51, 2048, 8, 2048]);
    let stepped = hand().step(&Mapping::default(), 1, |_| {});
    assert_eq!(stepped, Stepped::default(), "without any frame");
}

#[test]
fn cores_share_a_round() {
    let mapping = Mapping::of_leaves([0; 64]);
    let round = Arc::<Round>::default();
    let [first, second] = [(); 2].map(|()| Hand::new(Arc::clone(&round)));
    let step = |hand: &Hand| {
        hand.step(&mapping, 4 * PAGE_BYTES, |_| {});
        mapping.evicted.take()
    };
    assert_eq!(step(&first), [1, 2, 3, 4]);
    assert_eq!(step(&second), [16, 17, 18, 19]);
    assert_eq!(step(&first), [5, 6, 7, 8]);
    // The second one sleeps from now on. What it has not come to is there in the next round.
    let rest: Vec<u64> = (0..13).flat_map(|_| step(&first)).collect();
    assert_eq!(rest, (9..16).chain(32..64).chain(20..32).collect::<Vec<_>>());
    assert!(step(&second).is_empty());
}

#[test]
fn frames_that_are_not_in_memory_are_passed_at_once() {
    let mut mapping = Mapping::of_leaves([0; 64]);
    mapping.missing_frames = vec![1, 2];
    let stepped = hand().step(&mapping, 16 * PAGE_BYTES, |_| {});
    assert_eq!((stepped.pages, mapping.looked.get()), (16, 19));
    assert_eq!(mapping.evicted.take(), (1..16).chain([48]).collect::<Vec<_>>());
}
