//! The flusher of the engine on the model of a tree: random programs, bundles under way in any
//! order, and a power failure after each of them.
//!
//! What a crash leaves are the images of durable bundles and the log from where the flusher says
//! that it has to be kept. Visitors finish what they find, the log's writes are done again, and the
//! tree has to be the one that was.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::page::{Body, ChildWord, Content, Epoch, Leaf, Mapping, Page, PageId, Target};
use super::super::visit::{Care, Step, Visitor};
use super::audit::{check, finish, try_write};
use super::exhaustive::{INNER, LEAF, Ref, SPARE};
use super::model::{Key, Memory, ModelPage, Pages as Shares, index};
use crate::store::events::Event;
use crate::store::flush::{
    BundleId, Capture, Captured, FlushDefect, Flusher, Live, Look, Next, Pages, Plan, Reason, Room,
};

type Model<'p> = Memory<'p, LEAF, INNER>;

const IDS: usize = 60;
const TREE: u32 = 7;

fn id(at: usize) -> PageId {
    PageId::of_test(u64::try_from(at).expect("small"))
}

/// The tree, and what is durable of it.
struct World<'p> {
    memory: Model<'p>,
    images: RefCell<Vec<Ref>>,
    levels: RefCell<Vec<u8>>,
    /// Whether a write of the page was announced since its last capture.
    listed: RefCell<Vec<bool>>,
    events: RefCell<Vec<Event>>,
    next_number: Cell<u64>,
}

impl World<'_> {
    fn word(&self, page: PageId) -> Ref {
        self.memory.words.borrow()[index(page)].clone()
    }

    fn image(&self, page: PageId) -> Ref {
        self.images.borrow()[index(page)].clone()
    }

    fn level(&self, page: PageId) -> u8 {
        self.levels.borrow()[index(page)]
    }

    fn note_levels(&self) {
        let words = self.memory.words.borrow();
        let mut levels = self.levels.borrow_mut();
        for _ in 0..4 {
            for at in 0..words.len() {
                match words[at].content() {
                    Some(Content::Leaf(_)) => levels[at] = 0,
                    Some(Content::Inner(inner)) => {
                        let known = |child: &&ChildWord| words[index(child.id())].content().is_some();
                        if let Some(child) = inner.children.iter().find(known) {
                            levels[at] = levels[index(child.id())] + 1;
                        }
                    }
                    None => {}
                }
            }
        }
    }

    fn parent(&self, page: PageId) -> PageId {
        let words = self.memory.words.borrow();
        let has = |word: &Ref| match word.content() {
            Some(Content::Inner(inner)) => inner.children.iter().any(|child| child.id() == page),
            _ => false,
        };
        words.iter().position(has).map_or(page, id)
    }
}

impl Pages for World<'_> {
    type Content = Ref;

    fn look(&self, page: PageId) -> Look {
        let word = self.word(page);
        match &word.body {
            Body::Free => Look::Free,
            Body::Removed | Body::Moved(_) => Look::Gone(word.epoch),
            Body::Live(_) => Look::Live(Live {
                epoch: word.epoch,
                level: self.level(page),
                bytes: 64,
                pending: word.pending.as_ref().map(|split| split.right),
            }),
        }
    }

    fn stated(&self, parent: PageId, child: PageId) -> Option<Epoch> {
        match self.word(parent).content()? {
            Content::Inner(inner) => {
                inner.children.iter().find(|other| other.id() == child).map(|child| child.epoch())
            }
            Content::Leaf(_) => None,
        }
    }

    fn durable(&self, page: PageId) -> Option<Epoch> {
        let image = self.image(page);
        image.content().map(|_| image.epoch)
    }

    fn durable_bytes(&self, _: PageId) -> u64 {
        0
    }

    fn capture(&self, page: PageId) -> Capture<Ref> {
        let word = self.word(page);
        self.listed.borrow_mut()[index(page)] = false;
        let content = match &word.body {
            Body::Free => return Capture::Free,
            Body::Removed | Body::Moved(_) => return Capture::Gone,
            Body::Live(_) if self.is_clean(page) => return Capture::Clean,
            Body::Live(content) => content,
        };
        let children = match content {
            Content::Leaf(_) => Vec::new(),
            Content::Inner(inner) => inner.children.clone(),
        };
        Capture::Image(Captured {
            page: ChildWord::new(page, word.epoch),
            tree: TREE,
            level: self.level(page),
            newest: 0,
            pending: word.pending.as_ref().map(|split| split.right),
            children,
            stored_bytes: 1,
            content: word,
        })
    }

    fn is_clean(&self, page: PageId) -> bool {
        self.word(page) == self.image(page)
    }

    fn newest_number(&self) -> u64 {
        self.next_number.get() - 1
    }
}

/// What is about to change from `old` to `new`.
fn events_of(old: &[Ref], new: &[Ref]) -> Vec<Event> {
    let now = |child: &ChildWord| ChildWord::new(child.id(), old[index(child.id())].epoch);
    let mut events = Vec::new();
    for at in 0..old.len() {
        let (before, after) = (&old[at], &new[at]);
        if before == after || matches!(before.body, Body::Free) {
            continue;
        }
        let page = id(at);
        let was = match before.content() {
            Some(Content::Inner(inner)) => inner.children.clone(),
            _ => Vec::new(),
        };
        let is = match after.content() {
            Some(Content::Inner(inner)) => inner.children.clone(),
            _ => Vec::new(),
        };
        if after.content().is_some() && after.epoch != before.epoch {
            let split = after.pending.as_ref().expect("a split");
            events.push(Event::Split { tree: TREE, page, new: split.right });
            continue;
        }
        if let [only] = was[..]
            && matches!(old[index(only.id())].body, Body::Moved(_))
            && at == 0
        {
            events.push(Event::Collapsed { tree: TREE, root: page, gone: now(&only) });
            continue;
        }
        let keeps = |child: &&ChildWord| is.iter().any(|other| other.id() == child.id());
        if let [left, right] = is[..]
            && !was.iter().any(|child| keeps(&child))
        {
            let are_leaves = matches!(before.content(), Some(Content::Leaf(_)));
            events.push(Event::RootSplit { tree: TREE, root: page, left, right, are_leaves });
            continue;
        }
        if matches!(after.body, Body::Moved(_)) {
            continue;
        }
        let lost: Vec<ChildWord> = was.iter().filter(|child| !keeps(child)).map(now).collect();
        if let Some(gone) = lost.first()
            && matches!(old[index(gone.id())].body, Body::Moved(_))
        {
            let fresh = is.iter().find(|child| was.iter().all(|other| other.id() != child.id()));
            let new = *fresh.expect("a new page has the place of what was packed");
            let with = lost.get(1).copied();
            events.push(Event::Packed { tree: TREE, parent: page, gone: *gone, with, new });
            continue;
        }
        for gone in was.iter().filter(|child| !keeps(child)) {
            events.push(Event::Removed { tree: TREE, parent: page, gone: now(gone) });
        }
        for child in &is {
            if let Some(before) = was.iter().find(|other| other.id() == child.id())
                && before.epoch() != child.epoch()
            {
                let fresh = is.iter().find(|child| was.iter().all(|other| other.id() != child.id()));
                let new = *fresh.expect("a new page is posted with its split");
                events.push(Event::Posted { tree: TREE, parent: page, page: *child, new });
            }
        }
    }
    events
}

struct Run<'p> {
    world: World<'p>,
    shares: &'p Shares<ModelPage<LEAF, INNER>>,
    flusher: Flusher,
    random: StdRng,
    under_way: Vec<(BundleId, Vec<(PageId, Ref)>)>,
    log: Vec<(u64, Key, Option<u32>)>,
    log_start: u64,
    truth: BTreeMap<Key, u32>,
    bundles: usize,
    crashes: usize,
    /// Only bundles that are durable at once: a defect then shows earlier.
    room: usize,
    keys: Key,
    /// Whether deletes pack what is small.
    packs: bool,
}

impl<'p> Run<'p> {
    fn new(seed: u64, shares: &'p Shares<ModelPage<LEAF, INNER>>, defect: Option<FlushDefect>) -> Self {
        let free = || Page::free(Epoch::FIRST);
        let memory = Memory::over(Vec::new(), shares, None);
        let root = memory.share(Page::live(Epoch::FIRST, Content::Leaf(Leaf::empty())));
        let words: Vec<Ref> = std::iter::once(root).chain((1..IDS).map(|_| memory.share(free()))).collect();
        let mut memory = Memory::over(words.clone(), shares, None);
        memory.keeps_ids = true;
        let world = World {
            memory,
            images: RefCell::new(words),
            levels: RefCell::new(vec![0; IDS]),
            listed: RefCell::new(vec![false; IDS]),
            events: RefCell::default(),
            next_number: Cell::new(1),
        };
        let mut random = StdRng::seed_from_u64(seed);
        let room = random.random_range(4..24);
        // Few keys make ranges that come and go, many make tall trees.
        let keys = [12, 40][random.random_range(0..2)];
        let packs = random.random_range(0..3) > 0;
        Self {
            world,
            shares,
            flusher: Flusher::new(1, defect),
            random,
            under_way: Vec::new(),
            log: Vec::new(),
            log_start: 1,
            truth: BTreeMap::new(),
            bundles: 0,
            crashes: 0,
            room,
            keys,
            packs,
        }
    }

    /// The flusher does something, or not; and the power fails.
    fn maybe_flush(&mut self) -> Result<(), String> {
        match self.random.random_range(0..8) {
            0 | 1 => {
                let reason = [Reason::Age, Reason::Pressure, Reason::Close][self.random.random_range(0..3)];
                if reason == Reason::Pressure {
                    self.flusher.want(id(self.random.random_range(0..IDS)));
                }
                let budget = self.random.random_range(1..=self.room);
                self.plan(reason, budget, self.room);
            }
            2 | 3 if !self.under_way.is_empty() => {
                let at = self.random.random_range(0..self.under_way.len());
                if self.random.random_range(0..6) == 0 {
                    let (bundle, _) = self.under_way.remove(at);
                    self.flusher.failed(bundle);
                } else {
                    self.durable(at)?;
                }
            }
            4 => {
                let next = self.world.next_number.get();
                let take = &mut |to: &mut Vec<Event>| to.append(&mut self.world.events.borrow_mut());
                self.log_start = self.flusher.log_start(next, &self.world, take);
                self.power_fails()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn plan(&mut self, reason: Reason, budget: usize, room: usize) -> bool {
        let take = &mut |to: &mut Vec<Event>| to.append(&mut self.world.events.borrow_mut());
        let room = Room { bytes: room, entries: 1000 };
        match self.flusher.next_bundle(&self.world, take, room, budget, reason) {
            Next::Bundle(Plan { bundle, pages, freed, .. }) => {
                self.bundles += 1;
                let mut images: Vec<_> =
                    pages.into_iter().map(|page| (page.page.id(), page.content)).collect();
                for page in freed {
                    images.push((page.id(), self.world.memory.share(Page::free(page.epoch()))));
                }
                self.under_way.push((bundle, images));
                true
            }
            _ => false,
        }
    }

    fn durable(&mut self, at: usize) -> Result<(), String> {
        let (bundle, images) = self.under_way.remove(at);
        for (page, image) in images {
            self.world.images.borrow_mut()[index(page)] = image;
        }
        let settled = self.flusher.durable(bundle, &self.world);
        for page in settled.freed {
            let free = self.world.memory.share(Page::free(page.epoch()));
            self.world.memory.words.borrow_mut()[index(page.id())] = free;
        }
        self.power_fails()
    }

    fn power_fails(&mut self) -> Result<(), String> {
        self.crashes += 1;
        let memory: Model<'_> = Memory::over(self.world.images.borrow().clone(), self.shares, None);
        let ids = IDS + SPARE;
        let free = memory.share(Page::free(Epoch::FIRST));
        memory.words.borrow_mut().resize(ids, free);
        for (_, key, value) in self.log.iter().filter(|(number, ..)| *number >= self.log_start) {
            try_write(&memory, *key, *value)?;
        }
        finish(&memory)?;
        check(&memory, ids, &[], &self.truth)
    }

    /// One step of the writer, the flusher coming in between what it says and what it does.
    fn step(&mut self, visitor: &mut Visitor<Key, Ref>) -> Result<Step, String> {
        loop {
            let old = self.world.memory.words.borrow().clone();
            let mut ahead = visitor.clone();
            let mut copy: Model<'_> = Memory::over(old.clone(), self.shares, None);
            copy.keeps_ids = true;
            let step = ahead.step(&copy);
            let new = copy.words.into_inner();
            let events = events_of(&old, &new);
            let is_change = !events.is_empty();
            self.world.events.borrow_mut().extend(events);
            if is_change {
                self.maybe_flush()?;
                if *self.world.memory.words.borrow() != old {
                    // Its compare-and-swap may fail now.
                    continue;
                }
            }
            *visitor = ahead;
            // What a structure change puts in place has an empty area.
            let mut listed = self.world.listed.borrow_mut();
            (0..old.len()).filter(|at| old[*at] != new[*at]).for_each(|at| listed[at] = false);
            drop(listed);
            *self.world.memory.words.borrow_mut() = new;
            self.world.note_levels();
            self.maybe_flush()?;
            return Ok(step);
        }
    }

    fn visit(&mut self, key: Key, care: Care) -> Result<Visitor<Key, Ref>, String> {
        let mut visitor = Visitor::new(&self.world.memory, Target::At(key), care);
        for _ in 0..1000 {
            if self.step(&mut visitor)? == Step::Arrived {
                return Ok(visitor);
            }
        }
        Err("a visitor does not arrive".into())
    }

    fn write(&mut self, key: Key, value: Option<u32>) -> Result<(), String> {
        loop {
            let visitor = self.visit(key, Care::Shape)?;
            let place = visitor.arrived();
            let page = place.child.id();
            while !self.world.listed.borrow()[index(page)] {
                self.world.listed.borrow_mut()[index(page)] = true;
                let (parent, from) = (self.world.parent(page), self.world.next_number.get());
                self.world.events.borrow_mut().push(Event::Dirty { tree: TREE, parent, page, from });
                self.maybe_flush()?;
            }
            let Some(Content::Leaf(leaf)) = place.page.content() else { panic!("it arrives at a leaf") };
            let leaf = leaf.with(key, value);
            let (is_empty, is_over) = (leaf.is_empty(), leaf.is_over());
            let new = place.page.with_content(Content::Leaf(leaf));
            if !self.world.memory.replace(page, &place.page, new) {
                continue;
            }
            let number = self.world.next_number.get();
            self.world.next_number.set(number + 1);
            self.log.push((number, key, value));
            match value {
                Some(value) => self.truth.insert(key, value),
                None => self.truth.remove(&key),
            };
            self.maybe_flush()?;
            if is_empty || is_over {
                self.visit(key, Care::Empty)?;
            }
            if value.is_none() && self.packs {
                self.visit(key, Care::Small)?;
            }
            return Ok(());
        }
    }

    /// Flushes until nothing is left, and looks that nothing is.
    fn close(&mut self) -> Result<(), String> {
        for _ in 0..1000 {
            while !self.under_way.is_empty() {
                self.durable(0)?;
            }
            if !self.plan(Reason::Close, 1000, 1000) {
                break;
            }
        }
        let take = &mut |to: &mut Vec<Event>| to.append(&mut self.world.events.borrow_mut());
        let next = self.world.next_number.get();
        let start = self.flusher.log_start(next, &self.world, take);
        if start != next || self.flusher.dirty_count() > 0 {
            return Err(format!("closed, and the log starts at {start} of {next}: {:?}", self.flusher));
        }
        self.log_start = start;
        self.power_fails()
    }

    fn run(&mut self, writes: usize) -> Result<(), String> {
        for at in 0..writes {
            let key = self.random.random_range(0..self.keys);
            // Grows for a while, then shrinks.
            let deletes = if (at / 20).is_multiple_of(2) { 2 } else { 8 };
            let value = u32::try_from(at).expect("small");
            let value = (self.random.random_range(0..10) >= deletes).then_some(value);
            self.write(key, value)?;
        }
        self.close()
    }
}

/// `BOSON_SEED=N` runs that seed alone, `BOSON_SEEDS=N` as many.
fn seeds(most: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    match number("BOSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOSON_SEEDS").unwrap_or(most),
    }
}

fn search(seeds: std::ops::Range<u64>, defect: Option<FlushDefect>) -> Result<(usize, usize), (u64, String)> {
    let (mut bundles, mut crashes) = (0, 0);
    for seed in seeds {
        let shares = Shares::default();
        let mut run = Run::new(seed, &shares, defect);
        run.run(120).map_err(|wrong| (seed, wrong))?;
        bundles += run.bundles;
        crashes += run.crashes;
    }
    Ok((bundles, crashes))
}

#[test]
fn a_crash_loses_nothing_whatever_the_flusher_has_written() {
    match search(seeds(40), None) {
        Ok((bundles, crashes)) => {
            println!("{bundles} bundles, {crashes} crashes");
            assert!(bundles > 10 && crashes > 10);
        }
        Err((seed, wrong)) => panic!("seed {seed}: {wrong}"),
    }
}

#[test]
fn each_rule_that_the_flusher_breaks_is_noticed() {
    let defects = [
        FlushDefect::NoPartner,
        FlushDefect::ParentAhead,
        FlushDefect::ChildTwoAhead,
        FlushDefect::RemovalAlone,
        FlushDefect::LogForgets,
        FlushDefect::RangeBeforeOwner,
        FlushDefect::CleanByMistake,
    ];
    for defect in defects {
        match search(0..400, Some(defect)) {
            Err((seed, wrong)) => {
                println!("{defect:?}: seed {seed}: {}", wrong.lines().next().unwrap_or_default());
            }
            Ok((bundles, _)) => panic!("{defect:?} is not noticed in {bundles} bundles"),
        }
    }
}
