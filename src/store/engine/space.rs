//! A full store: which writes are admitted, and what becomes of those that are not.
//!
//! Each write that may make the store larger *reserves* what it may add at most, before it is made.
//! It is admitted if all fits in the *room*: what lives on the namespace, what is reserved, and its
//! own bytes. The room is a share of what all segments hold, so that cleaning goes on: without the
//! log at its longest, and without the reserve that bundles and checkpoints need on the way.
//!
//! | what | where it counts | until |
//! |---|---|---|
//! | a write that adds something | reserved, by its number | all numbers up to its own are durable |
//! | what is not written yet of a long value | held | it is written, and reserved then |
//! | what makes the log longer for a group ([`log_limit`](super::log_limit)) | held | the log is short again |
//! | a page's newest durable image | used | it is replaced, or the page is freed |
//!
//! So between a bundle and the log's next start some bytes count twice, never none. What is
//! reserved needs no account of pages: the keeper notes points, each a number and what was reserved
//! until then, and lets go of a point when the log may start behind it.
//!
//! **When it does not fit**, the write is not blind any more: its key is read. A delete, or an
//! overwrite by what is no longer, adds nothing and is always admitted. For any other the keeper is
//! asked for room: it allocates blocks for what a file has of holes ([`hollow`](super::hollow)), or
//! lets the namespace grow ([`grow`](super::grow)), portion by portion if need be; where neither is
//! possible, as the namespace ends or the file system below it is full, it writes all that is
//! dirty, after which the account is exact. If there is no room then, and nothing was written
//! since, the answer is [`ErrorKind::NoSpace`].
//!
//! # Long values
//!
//! One is written in pieces, while others write: all of it is admitted before the first, so that
//! one that is refused leaves nothing. Where it takes the place of a value that is not shorter it
//! adds nothing in the end, but for a while there are both. For that some of the room is kept: it
//! may go beyond the room a little, and long values that make the store larger end before it
//! ([`Kind`]). If even that is not enough the writer waits until replaced values are reclaimed, and
//! the keeper has made the account exact, as any that is to be refused; a value that is longer than
//! what is kept may be refused. Deletes, and what marks a replaced value as such, are never.
//!
//! # Trees that are cleared
//!
//! What they had counts as used until a task has taken it apart ([`dying`](super::dying)). A write
//! that does not fit waits for some of that before it asks for anything else.

pub(super) mod account;

use self::account::MAX_ASKS;
use super::core_store::CoreStore;
use super::operations::Look;
use super::state::PageState;
use crate::block::Namespace;
use crate::error::{ErrorKind, Result};
use crate::store::btree::{Change, TreeRoot, ValueReference};
use crate::store::env::Env;
use crate::store::flush::Reason;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Whether a write adds nothing to the store: there is a value under its key already, which is
    /// not shorter.
    pub(super) async fn adds_nothing(&self, tree: TreeRoot, key: &[u8], change: Change<'_>) -> Result<bool> {
        let Change::Put(new) = change else { return Ok(change == Change::Delete) };
        loop {
            match self.look(tree, key, &mut Some(<[u8]>::len)) {
                Ok(Look::Absent) => return Ok(false),
                Ok(Look::Value(old)) => return Ok(old >= new.len()),
                Ok(Look::Elsewhere(old)) => {
                    let old = ValueReference::decode(&old);
                    return Ok(old.is_some_and(|old| old.len >= new.len() as u64));
                }
                Err(miss) => self.load(miss).await?,
            }
        }
    }

    /// Has the keeper make room, or the account exact.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: both were done already. Or the store has failed.
    pub(super) async fn ask_for_room(&self, asked: &mut u32) -> Result<()> {
        // What a tree had that lost its name makes room, however long that takes.
        if !self.wait_for_remains().await? {
            *asked += 1;
        }
        if *asked > MAX_ASKS || (*asked > 1 && self.shared.space.is_exact()) {
            return Err(self.no_room("write to store"));
        }
        // What nobody refers to is to be gone first.
        self.wait_until_reclaimed().await?;
        let number = {
            let mut requests = self.shared.requests();
            requests.room_wanted += 1;
            requests.room_wanted
        };
        self.shared.keeper.set();
        let (_, _, room) = self.shared.space.taken();
        loop {
            let moment = self.shared.progress.now();
            // Closed, as nobody makes room then.
            self.shared.check_writable("write to store")?;
            {
                let requests = self.shared.requests();
                if requests.room_done >= number {
                    if self.shared.space.taken().2 > room {
                        // It has grown by a portion, and may by one more.
                        *asked = 0;
                    }
                    return Ok(());
                }
            }
            self.shared.progress.since(moment).await;
        }
    }

    /// Brings the account up to date with what is durable. The keeper does.
    pub(super) fn settle_space(&self) {
        let space = &self.shared.space;
        let (shrinking, reserved) = space.now();
        let number = self.log.log().next_number();
        self.shared.state().points_of_space.note(number, reserved);
        let durable = self.log_start_number();
        let mut state = self.shared.state();
        let PageState { segments, points_of_space, .. } = &mut *state;
        space.set_used(segments.taken_bytes());
        if let Some(settled) = points_of_space.settle(durable) {
            space.settle(settled);
        }
        if durable >= number {
            space.have_seen(shrinking);
        }
    }

    /// The keeper is asked for room.
    pub(super) async fn give_room(&self) -> Result<()> {
        if self.allocate_portion().await? {
            return Ok(());
        }
        if self.shared.state().segments.is_refused() {
            return self.flush_all(Reason::Age).await;
        }
        match self.grow().await {
            Ok(true) => return self.take_checkpoint(false).await,
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!("store {} does not grow: {error}", self.shared.name);
            }
            Err(error) => return Err(error),
        }
        self.flush_all(Reason::Age).await?;
        if self.shared.log_limit.is_longer() && self.make_room(0).await? {
            // What is held for that is room again.
            self.take_checkpoint(false).await?;
            self.see_to_longer_log().await?;
        }
        Ok(())
    }
}
