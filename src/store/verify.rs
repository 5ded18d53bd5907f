//! Verification: everything that the last checkpoint refers to is read and checked, and the
//! allocation map is compared with it.

use std::collections::BTreeSet;

use super::catalog;
use super::env::Env;
use super::object::{ObjectRef, Stored};
use super::page::{Body, Ledger, Page};
use super::shared::StoreShared;
use super::space::{Extent, Space};
use super::superblock::{self, Found};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};

/// At most this many findings are listed.
const MAX_FINDINGS: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Pages read and found good.
    pub pages: u64,
    /// Large values read and found good.
    pub values: u64,
    /// Keys in the leaves that were read.
    pub keys: u64,
    /// Units in use that nothing refers to.
    pub lost_units: u64,
    /// What is damaged, at most 100 entries, each with its address.
    pub damage: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing is damaged or lost.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty() && self.lost_units == 0
    }

    fn note(&mut self, finding: String) {
        if self.damage.len() < MAX_FINDINGS {
            self.damage.push(finding);
        }
    }
}

/// Takes a checkpoint, then checks it while it is kept from being replaced.
pub(super) async fn run<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Result<VerifyReport> {
    shared.wait_checkpoint().await?;
    let _pause = Pause::start(shared);
    while shared.state.borrow().checkpoint.running {
        shared.progress.notified().await;
    }
    let Found::Store(superblock, _) = superblock::find(&shared.disk).await? else {
        return Err(Error::new(ErrorKind::Corrupt, "verify store").because("the superblocks are gone"));
    };
    let mut walk = Walk {
        shared,
        report: VerifyReport::default(),
        seen: BTreeSet::new(),
        units: 0,
        ledger: Ledger::new(shared.disk.unit),
    };
    superblock.fixed_extents().for_each(|extent| walk.claim(extent));
    let map = walk.object(superblock.map).await;
    let catalog = walk.object(superblock.catalog).await;
    let entries = catalog.as_deref().and_then(catalog::decode).map_or_else(Vec::new, |(entries, _)| entries);
    for entry in entries {
        if !entry.root.is_nothing() {
            let keys = walk.tree(entry.root).await;
            if keys != entry.len && walk.report.damage.is_empty() {
                walk.report.note(format!("tree {:?} says {} keys and holds {keys}", entry.name, entry.len));
            }
        }
    }
    if let Some(space) = map.and_then(|map| Space::from_bytes(&map, superblock.units)) {
        let used = space.units() - space.free_units();
        if walk.report.damage.is_empty() {
            walk.report.lost_units = used.saturating_sub(walk.units);
        }
        let unmarked = walk.seen.iter().filter(|extent| !space.is_used(extent.start)).count();
        if unmarked > 0 {
            walk.report.note(format!("{unmarked} extents in use are free in the allocation map"));
        }
    }
    Ok(walk.report)
}

/// What a page says of one below it: its level, unless it is a root, and the bounds of its keys.
struct Subtree {
    reference: ObjectRef,
    level: Option<u8>,
    lower: Option<Vec<u8>>,
    upper: Option<Vec<u8>>,
}

struct Walk<'a, E, N> {
    shared: &'a StoreShared<E, N>,
    report: VerifyReport,
    seen: BTreeSet<Extent>,
    units: u64,
    ledger: Ledger,
}

impl<E: Env, N: Namespace> Walk<'_, E, N> {
    /// Counts an extent; each belongs to one object.
    fn claim(&mut self, extent: Extent) {
        self.units += u64::from(extent.units);
        let overlaps =
            self.seen.range(..=extent).next_back().is_some_and(|before| before.end() > extent.start);
        if !self.seen.insert(extent) || overlaps {
            self.report.note(format!("units from {} on are used twice", extent.start));
        }
    }

    async fn object(&mut self, reference: ObjectRef) -> Option<Vec<u8>> {
        match self.shared.disk.read_object(reference).await {
            Ok((content, stored)) => {
                self.claim_stored(&stored);
                Some(content)
            }
            Err(error) => {
                self.report.note(error.to_string());
                None
            }
        }
    }

    fn claim_stored(&mut self, stored: &Stored) {
        stored.extents(self.shared.disk.unit).into_iter().flatten().for_each(|extent| self.claim(extent));
    }

    /// Checks a tree; returns how many keys it holds.
    async fn tree(&mut self, root: ObjectRef) -> u64 {
        let mut keys = 0;
        let mut stack = vec![Subtree { reference: root, level: None, lower: None, upper: None }];
        while let Some(Subtree { reference, level, lower, upper }) = stack.pop() {
            let Some(content) = self.object(reference).await else { continue };
            let decoded = Page::decode(content, &mut self.ledger).and_then(|body| {
                Page::check_place(&body, level, &reference, (lower.as_deref(), upper.as_deref()))?;
                Ok(body)
            });
            let leaf = match decoded {
                Err(what) => {
                    self.report.note(self.shared.disk.corrupt(reference.address, what).to_string());
                    continue;
                }
                Ok(Body::Inner(inner)) => {
                    self.report.pages += 1;
                    stack.extend((0..inner.count()).filter_map(|index| {
                        let reference = inner.child(index).borrow().reference()?;
                        let (left, right) = inner.bounds(index);
                        Some(Subtree {
                            reference,
                            level: Some(inner.level - 1),
                            lower: left.map(<[u8]>::to_vec).or_else(|| lower.clone()),
                            upper: right.map(<[u8]>::to_vec).or_else(|| upper.clone()),
                        })
                    }));
                    continue;
                }
                Ok(Body::Leaf(leaf)) => leaf,
            };
            self.report.pages += 1;
            keys += leaf.count() as u64;
            for blob in leaf.blobs() {
                let reference = blob.stored.borrow().as_ref().map(|stored| stored.reference);
                if let Some(reference) = reference
                    && self.object(reference).await.is_some()
                {
                    self.report.values += 1;
                }
            }
        }
        self.report.keys += keys;
        keys
    }
}

/// Keeps checkpoints from starting while it lives.
struct Pause<'a, E: Env, N: Namespace>(&'a StoreShared<E, N>);

impl<'a, E: Env, N: Namespace> Pause<'a, E, N> {
    fn start(shared: &'a StoreShared<E, N>) -> Self {
        shared.state.borrow_mut().checkpoint.paused += 1;
        Self(shared)
    }
}

impl<E: Env, N: Namespace> Drop for Pause<'_, E, N> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().checkpoint.paused -= 1;
        self.0.checkpoint_wake.notify_all();
    }
}
