//! `boson store backup` and `boson store restore`.

use boson::block::NamespaceAddress;
use boson::{Error, ErrorKind, Result};

use super::{AnyDb, Batch, Progress};
use crate::options::Spelled;
use crate::start;

/// Copies all of `source` into `target`, which is empty. Nobody else writes to either.
pub(super) async fn run(
    source: &AnyDb,
    (target, address): (&AnyDb, &Spelled<NamespaceAddress>),
) -> Result<()> {
    let failed = |kind, why: String| Err(Error::new(kind, "copy store").at(address.to_string()).because(why));
    if !target.tree_names().is_empty() {
        return failed(
            ErrorKind::InUse,
            "it holds a store that is not empty: copy to another place, or give --format to lose what it holds".to_owned(),
        );
    }
    let (progress, _shows) = Progress::start("copy");
    for name in source.tree_names() {
        let (from, to) = (source.tree(&name)?, target.tree(&name)?);
        let mut cursor = from.range(..);
        loop {
            let mut batch = Batch::default();
            while !batch.is_full()
                && let Some((key, value)) = cursor.next().await?
            {
                batch.push(key, value);
            }
            if batch.pairs.is_empty() {
                break;
            }
            batch.put(&to, &progress).await?;
        }
        if from.len() != to.len() {
            return failed(
                ErrorKind::Corrupt,
                format!("{} of {} keys of the tree {name:?} were there to be copied", to.len(), from.len()),
            );
        }
    }
    target.checkpoint().await?;
    start::announce(&format!("{progress} copied"));
    Ok(())
}
