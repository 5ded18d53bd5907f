//! All interleavings of a few visitors of a small tree.
//!
//! A state is the words of the mapping, what the tree should hold, and where each visitor is on its
//! way. A step of a state is one access of one visitor. From the first state all others are
//! visited. In each of them it is as if all visitors died, there, for ever: another finishes what
//! they began, alone and in a bounded number of steps, and then the whole tree is as it should be.
//! Whenever a visitor arrives, its leaf has exactly what the tree holds of the visitor's range in
//! that moment.

use std::collections::{BTreeMap, HashSet};

use super::super::defect::Defect;
use super::super::page::{Body, ChildWord, Content, Epoch, Leaf, Mapping, Page, PageId, Target};
use super::super::visit::{Care, Step, Visitor};
use super::audit::{check, finish, seen};
use super::model::{Children, Key, LeafMap, Memory, ModelPage, Pages, Shared, index};

pub(super) const LEAF: usize = 2;
pub(super) const INNER: usize = 3;
/// Ids for who finishes alone.
pub(super) const SPARE: usize = 16;

pub(super) type Ref = Shared<ModelPage<LEAF, INNER>>;

/// What a visitor is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Work {
    Get(Key),
    Put(Key),
    /// Deletes a key, and tidies up if its leaf is empty then.
    Delete(Key),
    /// Deletes a key, and packs what is small on the way to it, whatever that is.
    Pack(Key),
    /// All keys from the first to the last, or backwards.
    Up,
    Down,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Thread {
    work: Work,
    visitor: Visitor<Key, Ref>,
    arrived: bool,
    done: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    words: Vec<Ref>,
    truth: BTreeMap<Key, u32>,
    threads: Vec<Thread>,
}

/// What is left of a state when all its visitors die.
#[derive(PartialEq, Eq, Hash)]
struct Death {
    words: Vec<Ref>,
    truth: BTreeMap<Key, u32>,
    private: Vec<PageId>,
}

/// What a search came by: whether it was where it was meant to be.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Reached {
    pub(super) states: usize,
    /// Of two children of a page one is split and the other removed, and the page does not know.
    pub(super) split_beside_removal: bool,
    /// The same of a page and one of its children.
    pub(super) split_above_removal: bool,
    /// Two children of a page are removed, and the page does not know.
    pub(super) two_removals: bool,
    /// An inner page is removed, and its parent does not know.
    pub(super) inner_removal: bool,
    /// The only child of the root is frozen.
    pub(super) collapse: bool,
    /// One page is moved, under a parent with others, which does not know.
    pub(super) one_moved: bool,
    /// Two neighbours are, or three.
    pub(super) two_moved: bool,
    pub(super) three_moved: bool,
    /// A page is moved beside one that is split, or removed.
    pub(super) moved_beside_split: bool,
    pub(super) moved_beside_removal: bool,
    /// An inner page is moved, and its parent has others.
    pub(super) inner_moved: bool,
    /// A visitor is on its way to a page whose id another page has by now.
    pub(super) reuse: bool,
}

impl Reached {
    fn note(&mut self, words: &[Ref]) {
        let mut pending = vec![(0, false)];
        while let Some((at, splitting)) = pending.pop() {
            let Some(Content::Inner(inner)) = words[at].content() else { continue };
            let (mut splits, mut removals, mut moved) = (0, 0, 0);
            for child in &inner.children {
                let page = &words[index(child.id())];
                let posted = page.epoch == child.epoch();
                match page.body {
                    Body::Removed => removals += 1,
                    Body::Moved(_) if at == 0 && inner.children.len() == 1 => self.collapse = true,
                    Body::Moved(Content::Leaf(_)) => moved += 1,
                    Body::Moved(Content::Inner(_)) => (moved, self.inner_moved) = (moved + 1, true),
                    Body::Free | Body::Live(_) => splits += usize::from(!posted),
                }
                pending.push((index(child.id()), !posted));
                if let (false, Some(split)) = (posted, &page.pending) {
                    pending.push((index(split.right.id()), true));
                }
            }
            self.split_beside_removal |= splits > 0 && removals > 0;
            self.split_above_removal |= splitting && removals > 0;
            self.two_removals |= removals > 1;
            self.one_moved |= moved == 1;
            self.two_moved |= moved == 2;
            self.three_moved |= moved > 2;
            self.moved_beside_split |= moved > 0 && splits > 0;
            self.moved_beside_removal |= moved > 0 && removals > 0;
            let is_inner =
                |child: &ChildWord| matches!(words[index(child.id())].content(), Some(Content::Inner(_)));
            self.inner_removal |= removals > 0 && inner.children.iter().any(is_inner);
        }
    }
}

/// A search, and what it found.
struct Search<'p> {
    pages: &'p Pages<ModelPage<LEAF, INNER>>,
    defect: Option<Defect>,
    reached: Reached,
    seen: HashSet<State>,
    deaths: HashSet<Death>,
}

impl Search<'_> {
    fn memory(&self, words: &[Ref]) -> Memory<'_, LEAF, INNER> {
        Memory::over(words.to_vec(), self.pages, self.defect)
    }

    /// Visits all states after `first`.
    fn run(&mut self, first: State) -> Result<(), String> {
        let mut pending = vec![first];
        while let Some(state) = pending.pop() {
            if self.seen.contains(&state) {
                continue;
            }
            self.reached.states += 1;
            self.reached.reuse |= state.threads.iter().any(|thread| {
                let stale = |child: ChildWord| {
                    let page = &state.words[index(child.id())];
                    page.content().is_some() && page.epoch == child.epoch().next().next()
                };
                thread.visitor.heading().is_some_and(stale)
            });
            self.all_die(&state).map_err(|wrong| format!("{wrong}\nall visitors die in {state:?}"))?;
            for at in 0..state.threads.len() {
                if !state.threads[at].done {
                    pending.push(self.step(&state, at).map_err(|wrong| format!("{wrong}\nafter {state:?}"))?);
                }
            }
            self.seen.insert(state);
        }
        Ok(())
    }

    fn all_die(&mut self, state: &State) -> Result<(), String> {
        let mut private: Vec<ChildWord> =
            state.threads.iter().flat_map(|thread| thread.visitor.private()).flatten().collect();
        private.sort_by_key(|child| child.id());
        let known = private.iter().map(|child| child.id()).collect();
        let death = Death { words: state.words.clone(), truth: state.truth.clone(), private: known };
        if !self.deaths.insert(death) {
            return Ok(());
        }
        self.reached.note(&state.words);
        let memory = self.memory(&state.words);
        // Whoever finishes does not lack the ids that the dead have kept.
        let ids = state.words.len() + SPARE;
        let free = memory.share(Page::free(Epoch::FIRST));
        memory.words.borrow_mut().resize(ids, free);
        finish(&memory)?;
        check(&memory, ids, &private, &state.truth)
    }

    fn step(&self, state: &State, at: usize) -> Result<State, String> {
        let memory = self.memory(&state.words);
        let mut truth = state.truth.clone();
        let mut threads = state.threads.clone();
        let thread = &mut threads[at];
        if thread.arrived {
            write(&memory, thread, &mut truth);
        } else if thread.visitor.step(&memory) == Step::Arrived {
            let leaf = seen(&memory, &thread.visitor);
            let range = truth.iter().filter(|(key, _)| thread.visitor.covers(key));
            if !range.map(|(key, value)| (*key, *value)).eq(leaf.iter().copied()) {
                return Err(format!("{:?} arrives at {leaf:?}; the tree has {truth:?}", thread.work));
            }
            arrive(&memory, thread);
        }
        Ok(State { words: memory.words.into_inner(), truth, threads })
    }
}

/// A reader that has arrived goes on or is done; a writer writes in its next step.
fn arrive(memory: &Memory<'_, LEAF, INNER>, thread: &mut Thread) {
    let next = match thread.work {
        Work::Put(_) | Work::Delete(_) | Work::Pack(_) => {
            thread.arrived = true;
            return;
        }
        Work::Get(_) => None,
        Work::Up => thread.visitor.upper().map(|upper| Target::At(*upper)),
        Work::Down => thread.visitor.lower().map(|lower| Target::Below(Some(*lower))),
    };
    thread.done = next.is_none();
    // One that is done is nowhere in particular.
    thread.visitor.restart(memory);
    if let Some(target) = next {
        thread.visitor = Visitor::new(memory, target, Care::None);
    }
}

/// The one CAS of a write.
fn write(memory: &Memory<'_, LEAF, INNER>, thread: &mut Thread, truth: &mut BTreeMap<Key, u32>) {
    let place = thread.visitor.arrived().clone();
    let Some(Content::Leaf(leaf)) = place.page.content() else { panic!("a visitor arrives at a leaf") };
    thread.arrived = false;
    let (key, new) = match thread.work {
        Work::Put(key) => (key, leaf.with(key, Some(1))),
        Work::Delete(key) | Work::Pack(key) => (key, leaf.with(key, None)),
        Work::Get(_) | Work::Up | Work::Down => {
            unreachable!("readers are done when they arrive");
        }
    };
    let (is_empty, is_over) = (new.is_empty(), new.is_over());
    if !memory.replace(place.child.id(), &place.page, place.page.with_content(Content::Leaf(new))) {
        thread.visitor.restart(memory);
        return;
    }
    match thread.work {
        Work::Put(_) => truth.insert(key, 1),
        _ => truth.remove(&key),
    };
    if let Work::Pack(key) = thread.work {
        thread.visitor = Visitor::new(memory, Target::At(key), Care::Small);
        thread.work = Work::Get(key);
    } else if is_empty || is_over {
        // As if it came to read: what matters is what it repairs.
        thread.visitor = Visitor::new(memory, Target::At(key), Care::Empty);
        thread.work = Work::Get(key);
    } else {
        thread.done = true;
        thread.visitor.restart(memory);
    }
}

/// A leaf with these keys at the first free id.
fn leaf(memory: &Memory<'_, LEAF, INNER>, keys: &[Key]) -> ChildWord {
    let leaf = LeafMap(keys.iter().map(|key| (*key, 0)).collect());
    memory.create(memory.root().id(), Content::Leaf(leaf)).expect("an id is free")
}

fn inner(separators: &[Key], children: &[ChildWord]) -> Content<LeafMap<LEAF>, Children<INNER>> {
    Content::Inner(Children { children: children.to_vec(), separators: separators.to_vec() })
}

/// A tree with these leaves, and what it holds: one list per page of level 1, whose first keys
/// separate them. With one such page, that is the root.
pub(super) fn first<'p>(
    leaves: &[&[&[Key]]],
    spare: usize,
    pages: &'p Pages<ModelPage<LEAF, INNER>>,
    defect: Option<Defect>,
) -> (Memory<'p, LEAF, INNER>, BTreeMap<Key, u32>) {
    let count = leaves.len() + leaves.iter().map(|leaves| leaves.len()).sum::<usize>();
    let memory =
        Memory::over(Memory::<LEAF, INNER>::new(count + 1 + spare).words.into_inner(), pages, defect);
    // The pages of a new memory are not among those of the search.
    for word in memory.words.borrow_mut().iter_mut() {
        *word = memory.share((**word).clone());
    }
    let mut families = Vec::new();
    let mut truth = BTreeMap::new();
    for family in leaves {
        let children: Vec<ChildWord> = family.iter().map(|keys| leaf(&memory, keys)).collect();
        let separators: Vec<Key> = family[1..].iter().map(|keys| keys[0]).collect();
        families.push((family[0][0], inner(&separators, &children)));
        truth.extend(family.iter().copied().flatten().map(|key| (*key, 0)));
    }
    let root = match &families[..] {
        [(_, only)] => only.clone(),
        _ => {
            let separators: Vec<Key> = families[1..].iter().map(|family| family.0).collect();
            let children: Vec<ChildWord> = families
                .into_iter()
                .map(|(_, content)| memory.create(memory.root().id(), content).expect("an id is free"))
                .collect();
            inner(&separators, &children)
        }
    };
    memory.words.borrow_mut()[0] = memory.share(Page::live(Epoch::FIRST, root));
    (memory, truth)
}

/// Searches all that `work` does to the [first] tree with these leaves. Returns what it came by.
pub(super) fn search(
    leaves: &[&[&[Key]]],
    spare: usize,
    work: &[Work],
    defect: Option<Defect>,
) -> Result<Reached, String> {
    let pages = Pages::default();
    let (memory, truth) = first(leaves, spare, &pages, defect);
    let threads = work
        .iter()
        .map(|work| {
            let (target, care) = match *work {
                Work::Get(key) => (Target::At(key), Care::None),
                Work::Put(key) | Work::Delete(key) | Work::Pack(key) => (Target::At(key), Care::Shape),
                Work::Up => (Target::At(0), Care::None),
                Work::Down => (Target::Below(None), Care::None),
            };
            Thread { work: *work, visitor: Visitor::new(&memory, target, care), arrived: false, done: false }
        })
        .collect();
    let state = State { words: memory.words.into_inner(), truth, threads };
    let mut search = Search {
        pages: &pages,
        defect,
        reached: Reached::default(),
        seen: HashSet::new(),
        deaths: HashSet::new(),
    };
    search.run(state)?;
    Ok(search.reached)
}
