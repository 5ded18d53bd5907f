//! Deleting the keys of a tree that nobody can reach any more, with the long values that they refer
//! to.

use super::long::{Carried, Seen, Spare};
use super::{Changes, Key, OneChange, Reach, To};
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::{Miss, TreeRoot};
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::space::account::Kind;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::wal::Effect;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Deletes some keys of a dying tree, whether they are there or not, in one record.
    ///
    /// # Errors
    ///
    /// As for a write.
    pub(in crate::store::engine) async fn delete_remains(
        &self,
        tree: TreeRoot,
        keys: &[Vec<u8>],
    ) -> Result<()> {
        let declared: Vec<Key<'_>> = keys.iter().map(|key| (tree, &key[..])).collect();
        loop {
            self.prepare(&declared).await?;
            let (changes, seen) = match self.deletions(&declared) {
                Ok(planned) => planned,
                Err(miss) => {
                    self.load(miss).await?;
                    continue;
                }
            };
            let how = (Durability::None, Reach::Dying);
            match self.carry_out(&declared, changes, (&seen, Spare::default()), how).await? {
                Carried::Out(_) => return Ok(()),
                Carried::Large if keys.len() > 1 => {
                    let (some, others) = keys.split_at(keys.len() / 2);
                    for half in [some, others] {
                        Box::pin(self.delete_remains(tree, half)).await?;
                    }
                    return Ok(());
                }
                Carried::Changed(_) | Carried::Large => {}
            }
        }
    }

    /// They count for no length: that of the tree ended when it lost its name.
    fn deletions(&self, keys: &[Key<'_>]) -> std::result::Result<(Changes, Seen), Miss> {
        let pin = self.core.pin();
        let seen: Vec<_> =
            keys.iter().map(|(tree, key)| pin.get(*tree, key)).collect::<std::result::Result<_, _>>()?;
        let delete = |place| OneChange { place, to: To::Delete, effect: Effect::Unknown };
        let list = (0..keys.len()).map(delete).collect();
        Ok((Changes { list, staged: Vec::new(), adds: (0, Kind::Replaces) }, Seen::new(&seen)))
    }
}
