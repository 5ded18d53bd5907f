//! Reclaiming long values that nobody refers to: a task of one core deletes their pieces.

use std::collections::HashSet;
use std::ops::Bound;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::{MARKER, Marker, PIECE, PIECES_AT_ONCE, marker_key, piece_key};
use crate::block::Namespace;
use crate::error::Result;
use crate::rt::yield_now;
use crate::store::btree::Change;
use crate::store::engine::core_store::{CoreStore, ErrandEnds, Shared};
use crate::store::engine::counts::{Count, count};
use crate::store::engine::registry::values;
use crate::store::engine::scan::Scan;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::overlay::Direction;

/// Reclaims what there is to reclaim whenever it is asked to, as long as the core is there and the
/// store takes writes. What an error leaves has its marker, and is found again.
pub(in crate::store::engine) async fn reclaim_when_asked<E: Env, N: Namespace>(
    store: Weak<CoreStore<E, N>>,
    shared: Arc<Shared>,
) {
    let _ends = ErrandEnds { shared: Arc::clone(&shared), of: |shared| &shared.values.errand };
    loop {
        shared.values.errand.asked().await;
        let Some(store) = store.upgrade() else { return };
        let wanted = store.shared.values.errand.wanted();
        if let Err(error) = store.reclaim_values().await {
            tracing::debug!(%error, "long values wait to be reclaimed");
        }
        // Those too who wait for what an error has left.
        store.shared.values.errand.set_done(wanted);
        store.shared.progress.tell();
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Waits until what nobody refers to by now is reclaimed, as far as that can be.
    ///
    /// # Errors
    ///
    /// The store takes no writes.
    pub(in crate::store::engine) async fn wait_until_reclaimed(&self) -> Result<()> {
        let wanted = self.shared.values.errand.wanted();
        loop {
            let moment = self.shared.progress.now();
            if self.shared.values.errand.is_done(wanted) {
                return Ok(());
            }
            self.shared.check_writable("write to store")?;
            self.shared.progress.since(moment).await;
        }
    }

    async fn reclaim_values(self: &Rc<Self>) -> Result<()> {
        let given_up: HashSet<u64> = self.shared.values.abandoned().iter().copied().collect();
        let mut left = Vec::new();
        let markers = (Bound::Included(vec![MARKER]), Bound::Excluded(vec![PIECE]));
        let mut scan = Scan::new(self, values(), markers, Direction::Forwards);
        while let Some((key, value)) = scan.next_ref().await? {
            if let Some(marker) = Marker::decode(key, value)
                && (self.is_unreferenced(marker) || given_up.contains(&marker.number))
                && let Err(error) = self.reclaim(marker).await
            {
                // A page that cannot be read keeps its values, and no others.
                self.shared.check_writable("reclaim values")?;
                if self.shared.values.is_new_left(marker.number) {
                    count(Count::ValuesLeft);
                    tracing::warn!(%error, "value {} cannot be reclaimed now", marker.number);
                }
                left.push(marker.number);
            }
        }
        self.shared.values.abandoned().retain(|number| !given_up.contains(number) || left.contains(number));
        self.shared.values.keep_left(&left);
        Ok(())
    }

    /// Whether no key refers to the value, and its writer, if it is not whole, is no more.
    fn is_unreferenced(&self, marker: Marker) -> bool {
        marker.is_dead || self.shared.values.first.get().is_some_and(|first| marker.number < *first)
    }

    async fn reclaim(&self, marker: Marker) -> Result<()> {
        let Marker { number, pieces, .. } = marker;
        for piece in 0..pieces {
            // Backwards: a piece that is there has all before it until it goes.
            let key = piece_key(number, pieces - 1 - piece);
            self.write(values(), &key, Change::Delete, Durability::None).await?;
            if piece % PIECES_AT_ONCE == PIECES_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        self.write(values(), &marker_key(number), Change::Delete, Durability::None).await.map(drop)
    }
}
