//! Commands on keys of any type.

use std::ops::{Bound, ControlFlow};

use super::super::cursor;
use super::super::glob;
use super::super::keyspace::{KeyspaceEntry, LONG_KEY_PREFIX_BYTES, Update, Visited};
use super::super::lock::lock;
use super::super::number::parse_digits;
use super::super::reply::Replies;
use super::super::request::Request;
use super::context::Context;
use super::failure::{CommandResult, Failure, integer};
use crate::block::Namespace;
use crate::store::Env;

/// How many keys SCAN visits if the client does not say.
const SCAN_COUNT: usize = 10;

/// DEL and UNLINK.
pub(super) async fn delete<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let (database, now) = (ctx.database(), ctx.now);
    let keyspace = &ctx.server.keyspace;
    let delete_all =
        |update: &mut Update<'_, '_>| (1..request.len()).filter(|index| update.delete(index - 1)).count();
    let (deleted, commit) = if request.len() == 2 {
        keyspace.update(database, &[&request[1]], now, ctx.client.id, delete_all).await?
    } else {
        let keys: Vec<&[u8]> = request.iter_from(1).collect();
        keyspace.update(database, &keys, now, ctx.client.id, delete_all).await?
    };
    ctx.commit(commit);
    ctx.replies.count(deleted);
    Ok(())
}

/// EXISTS and TOUCH: a key that is named twice counts twice.
pub(super) async fn exists<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let mut found = 0;
    let count = |entry: Option<KeyspaceEntry<'_>>| found += usize::from(entry.is_some());
    ctx.server.keyspace.read_all(ctx.database(), request.iter_from(1), ctx.now, count).await?;
    ctx.replies.count(found);
    Ok(())
}

pub(super) async fn key_type<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let is_there = |entry: Option<KeyspaceEntry<'_>>| entry.is_some();
    let found = ctx.server.keyspace.read(ctx.database(), &request[1], ctx.now, is_there).await?;
    ctx.replies.simple(if found { "string" } else { "none" });
    Ok(())
}

/// RENAME and RENAMENX.
pub(super) async fn rename<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    only_if_absent: bool,
) -> CommandResult {
    let (from, to) = (&request[1], &request[2]);
    let change = |update: &mut Update<'_, '_>| {
        let Some(entry) = update.get(0) else { return Err(Failure::text("ERR no such key")) };
        if from == to {
            return Ok(false);
        }
        let (value, expires_at) = (entry.value.to_vec(), entry.expires_at);
        if only_if_absent && update.get(1).is_some() {
            return Ok(false);
        }
        update.delete(0);
        update.put(1, &value, expires_at);
        Ok(true)
    };
    let renamed = ctx.update(&[from, to], change).await??;
    if only_if_absent {
        ctx.replies.integer(i64::from(renamed));
    } else {
        ctx.replies.ok();
    }
    Ok(())
}

pub(super) async fn random<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    let server = ctx.server;
    match server.keyspace.random_key(ctx.database(), ctx.now, || server.random()).await? {
        Some(key) => ctx.replies.bulk(&key),
        None => ctx.replies.null(),
    }
    Ok(())
}

pub(super) async fn keys<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let pattern = KeyPattern::new(&request[1]);
    let max_bytes = ctx.server.limits().reply_bytes;
    let mut found = Replies::new();
    let mut count = 0;
    let now = ctx.now;
    let visit = |Visited { position, key, entry }: Visited<'_>| {
        if pattern.is_behind(position) || found.len() > max_bytes {
            return ControlFlow::Break(());
        }
        if entry.is_live(now) && pattern.matches(key) {
            found.bulk(key);
            count += 1;
        }
        ControlFlow::Continue(())
    };
    ctx.server.keyspace.scan(ctx.database(), Bound::Included(pattern.prefix), visit).await?;
    ctx.replies.array(count);
    ctx.replies.append(&found);
    Ok(())
}

/// A pattern, and what the stored forms of all keys that match it begin with: they are in order, so
/// only those need be visited.
struct KeyPattern<'a> {
    pattern: &'a [u8],
    prefix: &'a [u8],
}

impl<'a> KeyPattern<'a> {
    fn new(pattern: &'a [u8]) -> Self {
        let prefix = glob::literal_prefix(pattern);
        Self { pattern, prefix: &prefix[..prefix.len().min(LONG_KEY_PREFIX_BYTES)] }
    }

    fn matches(&self, key: &[u8]) -> bool {
        // A star alone matches the empty key, too.
        self.pattern == b"*" || glob::matches(self.pattern, key)
    }

    /// Whether neither the stored form `position` nor any later one begins with the prefix.
    fn is_behind(&self, position: &[u8]) -> bool {
        !position.starts_with(self.prefix) && position > self.prefix
    }
}

pub(super) async fn scan<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let cursor = parse_cursor(&request[1]).ok_or(Failure::text("ERR invalid cursor"))?;
    let options = ScanOptions::parse(request)?;
    let pattern = KeyPattern::new(options.pattern);
    let resumed = if cursor == 0 { None } else { find_position(ctx, cursor, &pattern).await? };
    // The pattern need not be that of the call before.
    let from = match &resumed {
        Some(last) if last.as_slice() >= pattern.prefix => Bound::Excluded(last.as_slice()),
        _ => Bound::Included(pattern.prefix),
    };
    let max_bytes = ctx.server.limits().reply_bytes;
    let mut found = Replies::new();
    let (mut count, mut visited, mut next) = (0, 0, 0);
    let now = ctx.now;
    let cursors = &ctx.server.shared.cursors;
    let visit = |Visited { position, key, entry }: Visited<'_>| {
        if pattern.is_behind(position) {
            return ControlFlow::Break(());
        }
        if options.any_type && entry.is_live(now) && pattern.matches(key) {
            found.bulk(key);
            count += 1;
        }
        visited += 1;
        if visited < options.count && found.len() < max_bytes {
            return ControlFlow::Continue(());
        }
        match lock(cursors).stop_at(position) {
            Some(cursor) => {
                next = cursor;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        }
    };
    ctx.server.keyspace.scan(ctx.database(), from, visit).await?;
    ctx.replies.array(2);
    ctx.replies.bulk_u64(next);
    ctx.replies.array(count);
    ctx.replies.append(&found);
    Ok(())
}

/// The stored form of the key that a scan with `cursor` visited last. `None` if it is neither
/// remembered nor there: the scan then starts over.
async fn find_position<E: Env, N: Namespace>(
    ctx: &Context<'_, E, N>,
    cursor: u64,
    pattern: &KeyPattern<'_>,
) -> Result<Option<Vec<u8>>, Failure> {
    if !cursor::is_possible(cursor) {
        return Ok(None);
    }
    if let Some(position) = lock(&ctx.server.shared.cursors).resume(cursor) {
        return Ok(Some(position.to_vec()));
    }
    let is_it = |position: &[u8]| {
        if pattern.is_behind(position) {
            return ControlFlow::Break(false);
        }
        if cursor::cursor_of(position) == cursor {
            return ControlFlow::Break(true);
        }
        ControlFlow::Continue(())
    };
    Ok(ctx.server.keyspace.find_position(ctx.database(), pattern.prefix, is_it).await?)
}

/// Parses a cursor as C's `strtoul` does, without spaces in front: a negative number wraps around,
/// no text at all is 0.
fn parse_cursor(text: &[u8]) -> Option<u64> {
    match text {
        [] => Some(0),
        [b'-', digits @ ..] => parse_digits(digits).map(u64::wrapping_neg),
        [b'+', digits @ ..] | digits => parse_digits(digits),
    }
}

struct ScanOptions<'a> {
    pattern: &'a [u8],
    count: usize,
    /// Strings are the only type there is: false if the client asked for another one.
    any_type: bool,
}

impl<'a> ScanOptions<'a> {
    fn parse(request: Request<'a>) -> Result<Self, Failure> {
        let mut options = Self { pattern: b"*", count: SCAN_COUNT, any_type: true };
        let mut arguments = request.iter_from(2);
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or(Failure::SYNTAX)?;
            if option.eq_ignore_ascii_case(b"count") {
                options.count = usize::try_from(integer(value)?).unwrap_or(0);
                if options.count == 0 {
                    return Err(Failure::SYNTAX);
                }
            } else if option.eq_ignore_ascii_case(b"match") {
                options.pattern = value;
            } else if option.eq_ignore_ascii_case(b"type") {
                options.any_type = value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(Failure::SYNTAX);
            }
        }
        Ok(options)
    }
}
