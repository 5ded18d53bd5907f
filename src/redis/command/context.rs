//! What a command works with.

use std::sync::Arc;

use super::super::client::Client;
use super::super::fate::Fate;
use super::super::keyspace::{UnixMs, Update};
use super::super::reply::Replies;
use super::super::server::Server;
use super::failure::Failure;
use crate::block::Namespace;
use crate::store::{Commit, Env};

/// What a command works with.
pub(in super::super) struct Context<'a, E: Env, N: Namespace> {
    pub(in super::super) server: &'a Server<E, N>,
    pub(in super::super) client: &'a Arc<Client>,
    pub(in super::super) replies: &'a mut Replies,
    /// The changes that must be durable before the reply is sent.
    pub(in super::super) commit: Commit,
    /// The time at which the command runs.
    pub(in super::super) now: UnixMs,
    /// What becomes of the connection.
    pub(in super::super) fate: &'a mut Fate,
}

impl<E: Env, N: Namespace> Context<'_, E, N> {
    pub(super) fn database(&self) -> usize {
        self.client.database.load()
    }

    pub(super) fn commit(&mut self, commit: Commit) {
        self.commit = self.commit.and(commit);
    }

    /// Runs `change` atomically on what `keys` of the client's database hold; the reply then waits
    /// for its commit. It may run several times, and its last run counts.
    pub(super) async fn update<R>(
        &mut self,
        keys: &[&[u8]],
        change: impl FnMut(&mut Update<'_, '_>) -> R,
    ) -> Result<R, Failure> {
        let (result, commit) =
            self.server.keyspace.update(self.database(), keys, self.now, self.client.id, change).await?;
        self.commit(commit);
        Ok(result)
    }

    /// The same where `change` also writes the reply. Whoever runs the command takes it back if
    /// that fails.
    pub(super) async fn update_replying<R>(
        &mut self,
        keys: &[&[u8]],
        mut change: impl FnMut(&mut Update<'_, '_>, &mut Replies) -> R,
    ) -> Result<R, Failure> {
        let before = self.replies.len();
        let replies = &mut *self.replies;
        let run = |update: &mut Update<'_, '_>| {
            // What an earlier run replied does not count.
            replies.truncate(before);
            change(update, replies)
        };
        let database = self.client.database.load();
        let (result, commit) =
            self.server.keyspace.update(database, keys, self.now, self.client.id, run).await?;
        self.commit(commit);
        Ok(result)
    }
}
