//! Rule W2 on a model of one parent and its children: splits, second changes, bundles of what the
//! debts say, and a crash after any bundle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::store::pages::bundle::Debts;
use crate::store::pages::defect::PagesDefect;

const F: u64 = 1;

/// An image: of the parent, the children and the epochs that it states; of a child, its epoch and
/// the page that its last split made, with that one's epoch then.
#[derive(Clone, Debug)]
enum Image {
    Parent(BTreeMap<u64, u32>),
    Child(u32, Option<(u64, u32)>),
}

struct Model {
    random: StdRng,
    debts: Debts,
    now: BTreeMap<u64, Image>,
    durable: BTreeMap<u64, Image>,
    under_way: VecDeque<(u64, BTreeMap<u64, Image>)>,
}

impl Model {
    fn new(seed: u64, defect: Option<PagesDefect>) -> Self {
        let first = Image::Parent(BTreeMap::from([(2, 0)]));
        let now = BTreeMap::from([(F, first), (2, Image::Child(0, None))]);
        Self {
            random: StdRng::seed_from_u64(seed),
            debts: Debts::new(defect),
            durable: now.clone(),
            now,
            under_way: VecDeque::new(),
        }
    }

    fn children(map: &BTreeMap<u64, Image>) -> &BTreeMap<u64, u32> {
        let Some(Image::Parent(children)) = map.get(&F) else { panic!("the parent is gone") };
        children
    }

    /// What the durable parent knows of `page`'s epoch, or what the split that made it says.
    fn stated(&self, page: u64) -> u32 {
        Self::children(&self.durable).get(&page).copied().unwrap_or(0)
    }

    fn split(&mut self) {
        let children: Vec<u64> = Self::children(&self.now).keys().copied().collect();
        let page = children[self.random.random_range(0..children.len())];
        let new = children[children.len() - 1] + 1;
        let Some(Image::Child(epoch, _)) = self.now.get(&page).cloned() else { panic!("no child") };
        self.now.insert(page, Image::Child(epoch + 1, Some((new, 0))));
        self.now.insert(new, Image::Child(0, None));
        let Some(Image::Parent(children)) = self.now.get_mut(&F) else { panic!("no parent") };
        children.insert(page, epoch + 1);
        children.insert(new, 0);
        self.debts.partners(page, new);
        self.debts.owe(F, page);
        self.debts.owe(F, new);
        if epoch + 1 > self.stated(page) + 1 {
            self.debts.owe(page, F);
        }
    }

    fn flush(&mut self) {
        let pages: Vec<u64> = self.now.keys().copied().collect();
        let page = pages[self.random.random_range(0..pages.len())];
        let all = self.debts.with(page, 1000).expect("there are not that many");
        for first in self.debts.first(page) {
            assert!(all.contains(&first) || self.debts.with(page, 1000).expect("few").len() == 1);
        }
        let images = all.into_iter().map(|page| (page, self.now[&page].clone())).collect();
        self.under_way.push_back((self.debts.seal(), images));
    }

    fn durable(&mut self) {
        let Some((sealed, images)) = self.under_way.pop_front() else { return };
        self.debts.settle(images.keys().copied(), sealed);
        self.durable.extend(images);
        self.check();
    }

    /// As recovery finds it: each page is reached, and is what its parent says, or one change
    /// ahead.
    fn check(&self) {
        let mut reached = BTreeSet::from([F]);
        let mut pending: Vec<(u64, u32)> =
            Self::children(&self.durable).iter().map(|(&page, &epoch)| (page, epoch)).collect();
        while let Some((page, stated)) = pending.pop() {
            let Some(Image::Child(epoch, made)) = self.durable.get(&page) else {
                panic!("page {page} is referred to and not there");
            };
            assert!(*epoch >= stated, "page {page} is behind its parent");
            assert!(*epoch <= stated + 1, "page {page} is {} changes ahead of its parent", epoch - stated);
            if reached.insert(page) && *epoch > stated {
                pending.extend(*made);
            }
        }
        let lost: Vec<_> = self.durable.keys().filter(|page| !reached.contains(page)).collect();
        assert!(lost.is_empty(), "{lost:?} cannot be reached");
    }
}

fn run(seed: u64, defect: Option<PagesDefect>) -> usize {
    let mut model = Model::new(seed, defect);
    let mut most = 0;
    for _ in 0..300 {
        match model.random.random_range(0..10) {
            0..3 => model.split(),
            3..6 if model.under_way.len() < 3 => model.flush(),
            _ => model.durable(),
        }
        most = most.max(model.debts.len());
    }
    while !model.under_way.is_empty() {
        model.durable();
    }
    // All of it, then nothing is owed.
    let all = model.now.keys().copied().collect::<Vec<_>>();
    model.debts.settle(all, model.debts.seal());
    assert_eq!(model.debts.len(), 0);
    most
}

#[test]
fn after_a_crash_no_page_is_lost_and_none_behind_its_parent() {
    let most = (0..200).map(|seed| run(seed, None)).max();
    assert!(most > Some(20), "{most:?} debts at most");
}

#[test]
fn partners_that_come_later_are_noticed() {
    let broken = |seed: &u64| {
        let defect = Some(PagesDefect::PartnerLater);
        std::panic::catch_unwind(|| run(*seed, defect)).is_err()
    };
    println!("{}", (0..60).find(broken).expect("a missing partner must be noticed"));
}

#[test]
fn a_family_that_owes_more_than_fits_is_said_to() {
    let mut debts = Debts::new(None);
    (2..12).for_each(|child| debts.partners(F, child));
    debts.owe(2, 50);
    assert_eq!(debts.with(F, 11), None);
    assert_eq!(debts.with(F, 12).map(|all| all.len()), Some(12));
    assert_eq!(debts.first(2), [50]);
    // Sealed before it was owed again: the bundle does not have what is owed now.
    let sealed = debts.seal();
    debts.owe(2, 50);
    debts.settle([50], sealed);
    assert_eq!(debts.first(2), [50]);
    debts.settle([50], debts.seal());
    assert_eq!(debts.with(2, 20).map(|all| all.len()), Some(11));
}
