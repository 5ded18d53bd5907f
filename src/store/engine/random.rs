//! A key by chance.
//!
//! What the overlays of records have of the tree counts besides its pages: directly after an
//! opening that may be all of it. They say how many keys have a value by them, and the length of
//! the tree ([`lengths`](super::lengths)) says how many there are, so it is drawn first which of
//! the two has the key. In the pages what an overlay has does not count.

use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use super::core_store::CoreStore;
use super::operations::overlaid;
use super::overlays::Overlaid;
use super::scan::Scan;
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::{Refusal, Target, TreeRoot, Value};
use crate::store::env::Env;
use crate::store::overlay::Direction;

/// How many leaves are looked into for a key that no overlay has.
const LEAVES: u32 = 32;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// A key of a tree, each about as likely as the others if `random` gives each number of 64 bits
    /// as often. None if the tree is empty.
    ///
    /// # Errors
    ///
    /// As for loading a page.
    pub(in crate::store) async fn random_key(
        self: &Rc<Self>,
        tree: TreeRoot,
        mut random: impl FnMut() -> u64,
    ) -> Result<Option<Vec<u8>>> {
        if let Some(key) = self.random_of_overlays(tree, &mut random) {
            return Ok(Some(key));
        }
        let mut bound = Vec::new();
        for _ in 0..LEAVES {
            loop {
                match self.random_of_leaf(tree, &mut bound, &mut random) {
                    Ok(None) => break,
                    Ok(key) => return Ok(key),
                    Err(refusal) => self.overcome(refusal).await?,
                }
            }
        }
        // Few of its leaves have such keys: the next one that there is.
        for from in [bound, Vec::new()] {
            let range = (Bound::Included(from), Bound::Unbounded);
            let mut scan = Scan::new(self, tree, range, Direction::Forwards);
            if let Some(key) = scan.next_key().await? {
                return Ok(Some(key.to_vec()));
            }
        }
        Ok(None)
    }

    /// A key of the overlays, as often as there is one of all keys there.
    fn random_of_overlays(&self, tree: TreeRoot, random: &mut impl FnMut() -> u64) -> Option<Vec<u8>> {
        let overlays = self.overlays_now();
        let puts = overlays.iter().map(|overlay| overlay.puts(overlaid(tree)));
        let all = puts.clone().sum::<u64>();
        if all == 0 {
            return None;
        }
        let mut at = random() % self.shared.lengths.of(tree).max(all);
        for (overlay, puts) in overlays.iter().zip(puts) {
            if at < puts {
                return Some(overlay.random_put(overlaid(tree), random)?.key.to_vec());
            }
            at -= puts;
        }
        None
    }

    /// One of the keys of a leaf. None if an overlay has that: so one that is alone in its leaf,
    /// but for such, is not drawn more often than others. `bound` is where the leaf begins.
    fn random_of_leaf(
        &self,
        tree: TreeRoot,
        bound: &mut Vec<u8>,
        random: &mut impl FnMut() -> u64,
    ) -> std::result::Result<Option<Vec<u8>>, Refusal> {
        let overlays = self.overlays_now();
        let pin = self.core.pin();
        *bound = pin.random_bound(tree, random)?;
        let (mut count, mut chosen) = (0_u64, None);
        let each = |key: &[u8], _: Value<'_>| {
            count += 1;
            if random().is_multiple_of(count) {
                chosen = Some(key.to_vec());
            }
        };
        pin.scan_leaf(tree, &Target::At(bound.clone()), each)?;
        let is_own =
            |key: &Vec<u8>| overlays.iter().all(|overlay| overlay.get(overlaid(tree), key).is_none());
        Ok(chosen.filter(is_own))
    }

    fn overlays_now(&self) -> Vec<Arc<Overlaid>> {
        self.overlay.borrow_mut().all(&self.shared.overlay).to_vec()
    }
}
