//! All trees of a store that is closed, page by page: every key lies in the range of its page,
//! every page is reached once, and the mapping has no others; the table of segments counts what the
//! mapping refers to. Trees without names are among them.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::btree::{Content, KeyView, PageView, TreeRoot};
use crate::store::engine::dying::Stage;
use crate::store::engine::registry::{DYING, catalog, values};
use crate::store::engine::tests::{Model, Store};
use crate::store::word::{ChildWord, MapView, MapWord, PageId};

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) pages: u64,
    /// Splits that a parent does not know of.
    pub(super) pending: u64,
    /// Pages that are removed, or moved, and that a parent still names.
    pub(super) gone: u64,
    /// Trees without names.
    pub(super) dying: u64,
}

/// A page that is to be looked at, and the range that its keys have.
struct Range {
    child: ChildWord,
    level: Option<u8>,
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
}

async fn view(store: &Store, id: PageId) -> Result<Option<PageView>, String> {
    loop {
        let viewed = store.core.pin().view(id);
        match viewed {
            Ok(view) => return Ok(view),
            Err(miss) => store.load(miss).await.map_err(|error| error.to_string())?,
        }
    }
}

/// Checks all that is said at the head of the module. The store is closed, nobody writes, and the
/// overlay is drained.
pub(super) async fn audit(store: &Store, trees: &[(TreeRoot, &Model)]) -> Result<Seen, String> {
    let (mut seen, mut reached) = (Seen::default(), BTreeSet::new());
    for (root, model) in trees {
        audit_tree(store, *root, Some(model), (&mut seen, &mut reached)).await?;
    }
    audit_tree(store, values(), None, (&mut seen, &mut reached)).await?;
    let dying = store.shared.trees().dying();
    for (tree, stage) in dying {
        seen.dying += 1;
        match stage {
            Stage::Over => {}
            // It may be free, or not.
            Stage::Leaving => _ = reached.insert(tree.root.id()),
            Stage::Kept | Stage::Empty { .. } => {
                audit_tree(store, tree, Some(&Model::new()), (&mut seen, &mut reached)).await?;
            }
            Stage::Young | Stage::Old => audit_tree(store, tree, None, (&mut seen, &mut reached)).await?,
        }
    }
    mapping(store, &reached).await?;
    Ok(seen)
}

async fn audit_tree(
    store: &Store,
    root: TreeRoot,
    model: Option<&Model>,
    (seen, reached): (&mut Seen, &mut BTreeSet<PageId>),
) -> Result<(), String> {
    let mut all = Model::new();
    let mut left = vec![Range { child: root.root, level: None, lower: Vec::new(), upper: None }];
    while let Some(range) = left.pop() {
        let id = range.child.id();
        if !reached.insert(id) {
            return Err(format!("page {} is reached twice", id.get()));
        }
        let wrong = |what: &str| Err(format!("page {:?}: {what}", range.child));
        let Some(view) = view(store, id).await? else { return wrong("a parent names it, and it is free") };
        seen.pages += 1;
        let is_ahead = view.child == ChildWord::new(id, range.child.epoch().next());
        if view.child != range.child && !is_ahead {
            return Err(format!("a parent names {:?}, it is {:?}", range.child, view.child));
        }
        if !view.is_live {
            seen.gone += 1;
            if !is_ahead {
                return wrong("it is gone, and its parent is as new");
            }
            continue;
        }
        if range.level.is_some_and(|level| level != view.level) {
            return wrong("it has another level than its parent says");
        }
        let mut upper = range.upper.clone();
        match view.pending {
            Some((separator, right)) if is_ahead => {
                seen.pending += 1;
                if !(range.lower < separator && upper.as_ref().is_none_or(|upper| separator < *upper)) {
                    return wrong("it is split outside of its range");
                }
                let (lower, upper) = (separator.clone(), upper.replace(separator));
                left.push(Range { child: right, level: Some(view.level), lower, upper });
            }
            None if is_ahead => return wrong("it is ahead of its parent without a split"),
            _ => {}
        }
        let lies = |key: &Vec<u8>| *key >= range.lower && upper.as_ref().is_none_or(|upper| key < upper);
        match view.content {
            Content::Leaf(entries) => {
                for KeyView { key, value, is_reference } in entries {
                    if !lies(&key) {
                        return wrong(&format!("key {key:?} lies outside of its range"));
                    }
                    let value = match is_reference {
                        false => value,
                        true => {
                            let long = store.get(root, &key, <[u8]>::to_vec).await;
                            long.map_err(|error| error.to_string())?.unwrap_or_default()
                        }
                    };
                    all.insert(key, value);
                }
            }
            Content::Inner(children) => {
                let mut upper = upper;
                for (lower, child) in children.into_iter().rev() {
                    if lower.as_ref().is_some_and(|lower| {
                        *lower <= range.lower || upper.as_ref().is_some_and(|upper| lower >= upper)
                    }) {
                        return wrong("a separator lies outside of its range");
                    }
                    let lower = lower.unwrap_or_else(|| range.lower.clone());
                    let upper = upper.replace(lower.clone());
                    left.push(Range { child, level: view.level.checked_sub(1), lower, upper });
                }
            }
        }
    }
    if root == catalog() {
        // Of trees without names the history knows nothing.
        all.retain(|key, _| key.first() != Some(&DYING));
    }
    if let Some(model) = model
        && all != *model
    {
        let differ = model.iter().find(|(key, value)| all.get(*key) != Some(value));
        let more = all.keys().find(|key| !model.contains_key(*key));
        return Err(format!("the leaves differ from the history: {differ:?}, or more: {more:?}"));
    }
    Ok(())
}

/// The mapping has the pages that were reached, and the table of segments counts them.
async fn mapping(store: &Store, reached: &BTreeSet<PageId>) -> Result<(), String> {
    let map = store.shared.nodes.map();
    let (mut live, mut leaked) = (BTreeMap::<u32, (u32, u32)>::new(), Vec::new());
    for id in (1..map.next_page()).filter_map(PageId::new) {
        let word = loop {
            if let Some(entry) = map.entry(id).loaded() {
                break entry.word();
            }
            _ = view(store, id).await?;
        };
        let is_reserved = id.get() < crate::store::btree::RESERVED_PAGES;
        if word != MapWord::FREE && !reached.contains(&id) && !is_reserved {
            leaked.push(id.get());
        }
        let place = match word.view() {
            MapView::Cold { address, .. } => Some(address),
            _ => store.shared.nodes.homes().get(id).map(|home| home.address),
        };
        if let Some((segment, _)) = place.and_then(|place| store.shared.owner.geometry.locate(place)) {
            let counts = live.entry(segment).or_default();
            counts.0 += place.map_or(0, |place| place.granules());
            counts.1 += 1;
        }
    }
    if !leaked.is_empty() {
        return Err(format!("pages {leaked:?} are in use, and no parent names them"));
    }
    let state = store.shared.state();
    for segment in state.owner.geometry.first_segment()..state.owner.geometry.segments {
        let found = state.segments.get(segment);
        let counts = live.get(&segment).copied().unwrap_or_default();
        if (found.live, found.pages) != counts || !found.is_counted() {
            return Err(format!("segment {segment} is {found:?}, and has {counts:?}"));
        }
    }
    Ok(())
}
