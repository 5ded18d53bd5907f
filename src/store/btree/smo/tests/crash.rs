//! What a crash leaves: the five rules of the essay.
//!
//! One writer goes step by step; between its steps a flusher writes any page that changed, together
//! with those that the rules want in the same bundle. In every state the power fails: the images
//! that are durable then, and the newest writes that the log still has, make the whole tree again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::page::{Body, ChildWord, Content, Epoch, Leaf, Mapping, Page, Target};
use super::super::visit::{Care, Step, Visitor};
use super::audit::{check, finish, try_write};
use super::exhaustive::{INNER, LEAF, Ref, SPARE, first};
use super::model::{Children, Key, LeafMap, Memory, ModelPage, Pages, index};

/// A rule that the flusher does not keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// 1.
    CreatedBeforeReferredTo,
    /// 2.
    ParentNotAhead,
    /// 3.
    ChildOneAhead,
    /// 4: ids become free at once.
    FreeAtOnce,
    /// 4: the log forgets a leaf when it is removed.
    LogForgets,
    /// 5.
    RangeAfterOwner,
}

/// What a node knows for the flusher.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
struct Debts {
    /// Keys whose newest write the log has to keep for this page (in place of `dirty_from`).
    log: BTreeSet<Key>,
    /// A child was removed since the page was written.
    lost_child: bool,
    /// Ids that are free when the page is durable.
    frees: BTreeSet<usize>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    words: Vec<Ref>,
    images: Vec<Ref>,
    debts: Vec<Debts>,
    truth: BTreeMap<Key, u32>,
    written: usize,
    visitor: Visitor<Key, Ref>,
    /// The visitor came to write, not to repair what it left.
    writes: bool,
    arrived: bool,
}

/// Where the visitors of a tree find a page.
#[derive(Clone)]
struct Way {
    /// Its parent, or the page whose pending split names it.
    from: usize,
    /// The epoch that is stated there.
    epoch: Epoch,
    ancestors: Vec<usize>,
}

/// All pages that can be found from the root of these words or images.
fn ways(words: &[Ref]) -> BTreeMap<usize, Way> {
    let mut ways = BTreeMap::new();
    let mut pending = vec![(0, Way { from: 0, epoch: Epoch::FIRST, ancestors: Vec::new() })];
    while let Some((at, way)) = pending.pop() {
        if ways.contains_key(&at) {
            continue;
        }
        let page = &words[at];
        if let (Some(split), true) = (&page.pending, page.epoch == way.epoch.next()) {
            let ancestors = way.ancestors.clone();
            let right = Way { from: at, epoch: split.right.epoch(), ancestors };
            pending.push((index(split.right.id()), right));
        }
        if let Some(Content::Inner(inner)) = page.content() {
            for child in &inner.children {
                let mut ancestors = way.ancestors.clone();
                ancestors.push(at);
                pending.push((index(child.id()), Way { from: at, epoch: child.epoch(), ancestors }));
            }
        }
        ways.insert(at, way);
    }
    ways
}

/// Whether a page of the tree is what `child` says, or one ahead.
fn is_fit(words: &[Ref], child: ChildWord) -> bool {
    let page = &words[index(child.id())];
    page.content().is_some() && (page.epoch == child.epoch() || page.epoch == child.epoch().next())
}

/// The pages that go into one bundle with `page`. None if a page among them waits for a step that
/// its next visitor makes.
fn bundle(state: &State, page: usize, broken: Option<Broken>) -> Option<BTreeSet<usize>> {
    let keeps = |rule| broken != Some(rule);
    let in_memory = ways(&state.words);
    let mut bundle = BTreeSet::from([page]);
    loop {
        let mut images = state.images.clone();
        for at in &bundle {
            images[*at] = state.words[*at].clone();
        }
        let on_disk = ways(&images);
        let mut more = BTreeSet::new();
        for at in &bundle {
            let (page, way) = (&state.words[*at], in_memory.get(at)?);
            match page.content()? {
                Content::Leaf(_) => {}
                Content::Inner(inner) => {
                    for child in &inner.children {
                        if is_fit(&images, *child) || !keeps(Broken::ParentNotAhead) {
                            continue;
                        }
                        if !is_fit(&state.words, *child) {
                            return None;
                        }
                        more.insert(index(child.id()));
                    }
                }
            }
            let durable = on_disk.get(at);
            if let (Some(split), Some(durable)) = (&page.pending, durable)
                && page.epoch == durable.epoch.next()
                && !is_fit(&images, split.right)
                && keeps(Broken::CreatedBeforeReferredTo)
            {
                more.insert(if is_fit(&state.words, split.right) {
                    index(split.right.id())
                } else {
                    way.from
                });
            }
            let is_close =
                durable.is_some_and(|way| page.epoch == way.epoch || page.epoch == way.epoch.next());
            if !is_close && (keeps(Broken::ChildOneAhead) || durable.is_none()) {
                more.insert(way.from);
            }
            if keeps(Broken::RangeAfterOwner) {
                more.extend(way.ancestors.iter().filter(|at| state.debts[**at].lost_child));
            }
        }
        let before = bundle.len();
        bundle.append(&mut more);
        if bundle.len() == before {
            return Some(bundle);
        }
    }
}

/// All that decides what comes back.
#[derive(PartialEq, Eq, Hash)]
struct Crash {
    images: Vec<Ref>,
    log: BTreeSet<Key>,
    truth: BTreeMap<Key, u32>,
}

struct Search<'p> {
    pages: &'p Pages<ModelPage<LEAF, INNER>>,
    program: &'p [(Key, Option<u32>)],
    broken: Option<Broken>,
    care: Care,
    seen: HashSet<State>,
    crashes: HashSet<Crash>,
}

impl Search<'_> {
    fn memory(&self, words: &[Ref]) -> Memory<'_, LEAF, INNER> {
        let mut memory = Memory::over(words.to_vec(), self.pages, None);
        memory.keeps_ids = self.broken != Some(Broken::FreeAtOnce);
        memory
    }

    fn run(&mut self, first: State) -> Result<(), String> {
        let mut pending = vec![first];
        while let Some(state) = pending.pop() {
            if !self.seen.insert(state.clone()) {
                continue;
            }
            self.power_fails(&state).map_err(|wrong| format!("{wrong}\nafter a crash in {state:?}"))?;
            if state.written < self.program.len() {
                pending.push(self.step(&state));
            }
            for at in 0..state.words.len() {
                if state.words[at] != state.images[at] || state.debts[at] != Debts::default() {
                    pending.extend(self.flush(&state, at));
                }
            }
        }
        Ok(())
    }

    /// One step of the writer.
    fn step(&self, state: &State) -> State {
        let mut new = state.clone();
        let memory = self.memory(&state.words);
        let (key, value) = self.program[state.written];
        if state.arrived {
            new.arrived = false;
            let place = state.visitor.arrived();
            let Some(Content::Leaf(leaf)) = place.page.content() else { panic!("it arrives at a leaf") };
            let leaf = leaf.with(key, value);
            let packs = value.is_none() && self.care == Care::Small;
            new.writes = !(leaf.is_empty() || leaf.is_over() || packs);
            memory.replace(place.child.id(), &place.page, place.page.with_content(Content::Leaf(leaf)));
            match value {
                Some(value) => new.truth.insert(key, value),
                None => new.truth.remove(&key),
            };
            new.debts[index(place.child.id())].log.insert(key);
            if new.writes {
                self.next(&mut new, &memory);
            } else {
                new.visitor = Visitor::new(&memory, Target::At(key), self.care);
            }
        } else if new.visitor.step(&memory) == Step::Arrived {
            new.arrived = new.writes;
            if !new.writes {
                self.next(&mut new, &memory);
            }
        }
        new.words = memory.words.into_inner();
        for at in 0..new.words.len() {
            if new.words[at] != state.words[at] {
                self.note(&mut new, state, at);
            }
        }
        new
    }

    /// Goes on to the next write.
    fn next(&self, new: &mut State, memory: &Memory<'_, LEAF, INNER>) {
        new.written += 1;
        new.writes = true;
        let (key, _) = self.program[new.written.min(self.program.len() - 1)];
        new.visitor = Visitor::new(memory, Target::At(key), Care::Shape);
    }

    /// What the nodes remember of the change of page `at`.
    fn note(&self, new: &mut State, old: &State, at: usize) {
        let (before, after) = (&old.words[at], &new.words[at].clone());
        if before.body == Body::Free || matches!(after.body, Body::Free | Body::Moved(_)) {
            return;
        }
        let lost: Vec<usize> = match (before.content(), after.content()) {
            (Some(_), Some(_)) if after.epoch != before.epoch => {
                // S1.
                let right =
                    after.pending.as_ref().expect("only a split makes a live page's epoch grow").right;
                new.debts[index(right.id())] = Debts { frees: BTreeSet::new(), ..new.debts[at].clone() };
                return;
            }
            (Some(Content::Leaf(_)), Some(Content::Leaf(_))) => return,
            (Some(before), Some(Content::Inner(inner)))
                if !shares_children(before, inner.children.as_slice()) && !is_pack(old, at) =>
            {
                let is_collapse =
                    |child: &ChildWord| matches!(old.words[index(child.id())].body, Body::Moved(_));
                match before {
                    Content::Inner(before) if before.children.iter().any(is_collapse) => {
                        vec![index(before.children[0].id())]
                    }
                    _ => {
                        // A root split.
                        for half in &inner.children {
                            let debts = Debts { frees: BTreeSet::new(), ..new.debts[at].clone() };
                            new.debts[index(half.id())] = debts;
                        }
                        return;
                    }
                }
            }
            // S2 or R2, and R2 and C2 that leave no inner page.
            (Some(Content::Inner(before)), after) => {
                let gone = |child: &&ChildWord| match after {
                    Some(Content::Inner(after)) => {
                        after.children.iter().all(|other| other.id() != child.id())
                    }
                    _ => true,
                };
                before.children.iter().filter(gone).map(|child| index(child.id())).collect()
            }
            _ => return,
        };
        // What was packed: the new page has the keys, and goes with its parent.
        let mut packed_into = None;
        if let (Some(Content::Inner(before)), Some(Content::Inner(after)), true) =
            (before.content(), after.content(), is_pack(old, at))
        {
            let is_new = |child: &&ChildWord| before.children.iter().all(|other| other.id() != child.id());
            packed_into = after.children.iter().find(is_new).map(|child| index(child.id()));
        }
        if let (Some(page), false) = (packed_into, lost.is_empty()) {
            new.debts[page] = Debts::default();
        }
        for child in lost {
            let mut debts = std::mem::take(&mut new.debts[child]);
            let removed = old.words[child].body == Body::Removed;
            let packed = matches!(old.words[child].body, Body::Moved(_));
            if self.broken == Some(Broken::LogForgets) && (removed || packed) {
                debts.log.clear();
            }
            if let Some(page) = packed_into {
                new.debts[page].log.extend(debts.log.iter().copied());
                new.debts[page].lost_child |= debts.lost_child;
            }
            let heir = &mut new.debts[at];
            heir.log.append(&mut debts.log);
            heir.lost_child |= removed || debts.lost_child;
            heir.frees.append(&mut debts.frees);
            heir.frees.insert(child);
        }
    }

    /// Makes a bundle with page `at` durable.
    fn flush(&self, state: &State, at: usize) -> Option<State> {
        let bundle = bundle(state, at, self.broken)?;
        let memory = self.memory(&state.words);
        let mut new = state.clone();
        for at in bundle {
            new.images[at] = state.words[at].clone();
            for id in std::mem::take(&mut new.debts[at]).frees {
                let gone = &state.words[id];
                if gone.content().is_none() && gone.body != Body::Free {
                    new.words[id] = memory.share(Page::free(gone.epoch.next()));
                    new.images[id] = new.words[id].clone();
                }
            }
        }
        Some(new)
    }

    fn power_fails(&mut self, state: &State) -> Result<(), String> {
        let log: BTreeSet<Key> = state.debts.iter().flat_map(|debts| debts.log.iter().copied()).collect();
        let crash = Crash { images: state.images.clone(), log: log.clone(), truth: state.truth.clone() };
        if !self.crashes.insert(crash) {
            return Ok(());
        }
        let memory = Memory::over(state.images.clone(), self.pages, None);
        let ids = state.images.len() + SPARE;
        let free = memory.share(Page::free(Epoch::FIRST));
        memory.words.borrow_mut().resize(ids, free);
        for key in log {
            try_write(&memory, key, state.truth.get(&key).copied())?;
        }
        finish(&memory)?;
        check(&memory, ids, &[], &state.truth)
    }
}

/// Whether the inner page `at` has children that are moved, which is not the root's collapse: its
/// next change is M4, or has nothing to do with them.
fn is_pack(state: &State, at: usize) -> bool {
    let Some(Content::Inner(inner)) = state.words[at].content() else { return false };
    let is_moved = |child: &ChildWord| matches!(state.words[index(child.id())].body, Body::Moved(_));
    inner.children.iter().any(is_moved) && !(at == 0 && inner.children.len() == 1)
}

/// Whether a change of an inner page kept one of its children.
fn shares_children(before: &Content<LeafMap<LEAF>, Children<INNER>>, children: &[ChildWord]) -> bool {
    match before {
        Content::Leaf(_) => false,
        Content::Inner(before) => {
            before.children.iter().any(|child| children.iter().any(|other| other.id() == child.id()))
        }
    }
}

/// Crashes in all states of a program, and says how many there were.
pub(super) fn search(
    leaves: &[&[&[Key]]],
    spare: usize,
    program: &[(Key, Option<u32>)],
    care: Care,
    broken: Option<Broken>,
) -> Result<usize, String> {
    let pages = Pages::default();
    let (memory, truth) = first(leaves, spare, &pages, None);
    let visitor = Visitor::new(&memory, Target::At(program[0].0), Care::Shape);
    let words = memory.words.into_inner();
    let (images, debts) = (words.clone(), vec![Debts::default(); words.len()]);
    let state = State { words, images, debts, truth, written: 0, visitor, writes: true, arrived: false };
    let mut search =
        Search { pages: &pages, program, broken, care, seen: HashSet::new(), crashes: HashSet::new() };
    search.run(state)?;
    Ok(search.seen.len())
}
