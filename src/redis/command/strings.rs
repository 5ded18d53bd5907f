//! Commands on strings.

use super::super::extended::Extended;
use super::super::keyspace::{KeyspaceEntry, Update};
use super::super::number::{parse_i64, push_i64};
use super::super::reply::Replies;
use super::super::request::Request;
use super::context::Context;
use super::failure::{CommandResult, Failure, integer};
use super::options::{ExpiryOption, SetCondition, SetOptions, TimeUnit};
use super::table::Command;
use crate::block::Namespace;
use crate::store::Env;

/// How long a value may be, in bytes.
fn check_len<E: Env, N: Namespace>(ctx: &Context<'_, E, N>, len: Option<usize>) -> Result<usize, Failure> {
    len.filter(|&len| len <= ctx.server.limits().bulk_bytes).ok_or(Failure::TOO_LONG)
}

fn bulk_or_null(replies: &mut Replies, entry: Option<KeyspaceEntry<'_>>) {
    match entry {
        Some(entry) => replies.bulk(entry.value),
        None => replies.null(),
    }
}

pub(super) async fn get<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let database = ctx.database();
    let replies = &mut *ctx.replies;
    let keyspace = &ctx.server.keyspace;
    Ok(keyspace.read(database, &request[1], ctx.now, |entry| bulk_or_null(replies, entry)).await?)
}

pub(super) async fn strlen<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let keyspace = &ctx.server.keyspace;
    let len = |entry: Option<KeyspaceEntry<'_>>| entry.map_or(0, |entry| entry.value.len());
    let len = keyspace.read(ctx.database(), &request[1], ctx.now, len).await?;
    ctx.replies.count(len);
    Ok(())
}

/// GETRANGE and its old name SUBSTR.
pub(super) async fn getrange<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let (start, end) = (integer(&request[2])?, integer(&request[3])?);
    let database = ctx.database();
    let replies = &mut *ctx.replies;
    let keyspace = &ctx.server.keyspace;
    let part = |entry: Option<KeyspaceEntry<'_>>| {
        let value = entry.map_or(&[][..], |entry| entry.value);
        replies.bulk(&value[absolute_range(start, end, value.len())]);
    };
    Ok(keyspace.read(database, &request[1], ctx.now, part).await?)
}

/// The bytes from index `start` to index `end`, both included, of `len` bytes; negative indexes
/// count from the end.
fn absolute_range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    // Two negative indexes in the wrong order give nothing, even where cutting them off at 0 would
    // make them equal.
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let absolute = |index: i64| match usize::try_from(index) {
        Ok(index) => index,
        Err(_) => len.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let (start, end) = (absolute(start), absolute(end).saturating_add(1).min(len));
    if start < end { start..end } else { 0..0 }
}

pub(super) async fn mget<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let database = ctx.database();
    let max_bytes = ctx.server.limits().reply_bytes;
    let replies = &mut *ctx.replies;
    replies.array(request.len() - 1);
    let write = |entry: Option<KeyspaceEntry<'_>>| {
        // One request can ask for more than there is memory. Past the limit the client is dropped
        // anyway.
        if replies.len() <= max_bytes {
            bulk_or_null(replies, entry);
        }
    };
    // All keys are read at one time, so that no reply mixes what was there before and after
    // somebody's MSET.
    Ok(ctx.server.keyspace.read_all(database, request.iter_from(1), ctx.now, write).await?)
}

pub(super) async fn set<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
) -> CommandResult {
    let options = SetOptions::of_set(request)?;
    let expires_at = options.expiry.resolve(ctx.now, command)?;
    store(ctx, &request[1], &request[2], options, expires_at, SetReply::OkOrNull).await
}

/// How a command reports whether it has set its key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetReply {
    OkOrNull,
    OneOrZero,
}

/// SET, SETNX, SETEX, PSETEX and GETSET.
async fn store<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    key: &[u8],
    value: &[u8],
    options: SetOptions<'_>,
    expires_at: Option<i64>,
    reply: SetReply,
) -> CommandResult {
    check_len(ctx, Some(value.len()))?;
    let unconditional =
        options.condition == SetCondition::Always && !options.get && options.expiry != ExpiryOption::Keep;
    if unconditional {
        let keyspace = &ctx.server.keyspace;
        let commit = keyspace.put(ctx.database(), key, value, expires_at, ctx.client.id).await?;
        ctx.replies.ok();
        ctx.commit(commit);
        return Ok(());
    }
    let change = |update: &mut Update<'_, '_>, replies: &mut Replies| {
        let present = update.get(0);
        let (found, kept) = (present.is_some(), present.and_then(|entry| entry.expires_at));
        if options.get {
            bulk_or_null(replies, present);
        }
        let sets = match options.condition {
            SetCondition::Always => true,
            SetCondition::IfAbsent => !found,
            SetCondition::IfPresent => found,
        };
        if sets {
            update.put(0, value, if options.expiry == ExpiryOption::Keep { kept } else { expires_at });
        }
        match reply {
            _ if options.get => {}
            SetReply::OkOrNull if sets => replies.ok(),
            SetReply::OkOrNull => replies.null(),
            SetReply::OneOrZero => replies.integer(i64::from(sets)),
        }
    };
    ctx.update_replying(&[key], change).await
}

pub(super) async fn setnx<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let options = SetOptions { condition: SetCondition::IfAbsent, ..SetOptions::default() };
    store(ctx, &request[1], &request[2], options, None, SetReply::OneOrZero).await
}

/// SETEX and PSETEX.
pub(super) async fn setex<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
    unit: TimeUnit,
) -> CommandResult {
    let expires_at = ExpiryOption::After(&request[2], unit).resolve(ctx.now, command)?;
    store(ctx, &request[1], &request[3], SetOptions::default(), expires_at, SetReply::OkOrNull).await
}

pub(super) async fn getset<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let options = SetOptions { get: true, ..SetOptions::default() };
    store(ctx, &request[1], &request[2], options, None, SetReply::OkOrNull).await
}

pub(super) async fn getdel<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let change = |update: &mut Update<'_, '_>, replies: &mut Replies| {
        bulk_or_null(replies, update.get(0));
        update.delete(0);
    };
    ctx.update_replying(&[&request[1]], change).await
}

pub(super) async fn getex<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
) -> CommandResult {
    let options = SetOptions::of_getex(request)?;
    if options.expiry == ExpiryOption::Unsaid {
        return get(ctx, request).await;
    }
    let now = ctx.now;
    let change = |update: &mut Update<'_, '_>, replies: &mut Replies| {
        let Some(entry) = update.get(0) else {
            replies.null();
            return Ok(());
        };
        // Only now: a missing key has no reply to a wrong time but null.
        let expires_at = options.expiry.resolve(now, command)?;
        let had_expiry = entry.expires_at.is_some();
        replies.bulk(entry.value);
        match expires_at {
            Some(expires_at) if expires_at <= now => {
                update.delete(0);
            }
            Some(_) => update.set_expiry(0, expires_at),
            None if had_expiry => update.set_expiry(0, None),
            None => {}
        }
        Ok(())
    };
    ctx.update_replying(&[&request[1]], change).await?
}

pub(super) async fn mset<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
) -> CommandResult {
    set_all(ctx, request, command, false).await?;
    ctx.replies.ok();
    Ok(())
}

pub(super) async fn msetnx<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
) -> CommandResult {
    let set = set_all(ctx, request, command, true).await?;
    ctx.replies.integer(i64::from(set));
    Ok(())
}

/// Sets all keys at once, unless `only_if_absent` and one of them is there. Returns whether it did.
async fn set_all<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
    only_if_absent: bool,
) -> Result<bool, Failure> {
    if request.len().is_multiple_of(2) {
        return Err(Failure::wrong_arity(command));
    }
    let keys: Vec<&[u8]> = request.iter_from(1).step_by(2).collect();
    let change = |update: &mut Update<'_, '_>| {
        if only_if_absent && (0..keys.len()).any(|index| update.get(index).is_some()) {
            return false;
        }
        for (index, value) in request.iter_from(2).step_by(2).enumerate() {
            update.put(index, value, None);
        }
        true
    };
    ctx.update(&keys, change).await
}

/// DECRBY: the one number that has no negative is refused.
pub(super) async fn decrement_by<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let amount = integer(&request[2])?.checked_neg().ok_or(Failure::text("ERR decrement would overflow"))?;
    increment(ctx, &request[1], amount).await
}

/// INCR, DECR, INCRBY and DECRBY.
pub(super) async fn increment<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    key: &[u8],
    amount: i64,
) -> CommandResult {
    let change = |update: &mut Update<'_, '_>| {
        let present = update.get(0);
        let value = present.map_or(Some(0), |entry| parse_i64(entry.value)).ok_or(Failure::NOT_AN_INTEGER)?;
        let expires_at = present.and_then(|entry| entry.expires_at);
        let sum =
            value.checked_add(amount).ok_or(Failure::text("ERR increment or decrement would overflow"))?;
        update.compose(0, expires_at, |text, _| push_i64(text, sum));
        Ok::<_, Failure>(sum)
    };
    let sum = ctx.update(&[key], change).await??;
    ctx.replies.integer(sum);
    Ok(())
}

pub(super) async fn increment_by_float<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let change = |update: &mut Update<'_, '_>, replies: &mut Replies| {
        let present = update.get(0);
        let value = present.map_or(Some(Extended::ZERO), |entry| Extended::parse(entry.value));
        let expires_at = present.and_then(|entry| entry.expires_at);
        let (Some(value), Some(amount)) = (value, Extended::parse(&request[2])) else {
            return Err(Failure::NOT_A_FLOAT);
        };
        let sum =
            value.checked_add(amount).ok_or(Failure::text("ERR increment would produce NaN or Infinity"))?;
        update.compose(0, expires_at, |text, _| {
            sum.push_decimal(text);
            replies.bulk(text);
        });
        Ok(())
    };
    ctx.update_replying(&[&request[1]], change).await?
}

pub(super) async fn append<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let (key, tail) = (&request[1], &request[2]);
    let max_len = ctx.server.limits().bulk_bytes;
    let change = |update: &mut Update<'_, '_>| {
        let present = update.get(0);
        let expires_at = present.and_then(|entry| entry.expires_at);
        let len = present.map_or(0, |entry| entry.value.len()).saturating_add(tail.len());
        if present.is_some() && len > max_len {
            return Err(Failure::TOO_LONG);
        }
        update.compose(0, expires_at, |joined, present| {
            joined.extend_from_slice(present.unwrap_or_default());
            joined.extend_from_slice(tail);
        });
        Ok(len)
    };
    let len = ctx.update(&[key], change).await??;
    ctx.replies.count(len);
    Ok(())
}

pub(super) async fn setrange<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let (key, part) = (&request[1], &request[3]);
    let offset =
        usize::try_from(integer(&request[2])?).map_err(|_| Failure::text("ERR offset is out of range"))?;
    if part.is_empty() {
        return strlen(ctx, request).await;
    }
    let end = check_len(ctx, offset.checked_add(part.len()))?;
    let change = |update: &mut Update<'_, '_>| {
        let present = update.get(0);
        let expires_at = present.and_then(|entry| entry.expires_at);
        let len = present.map_or(0, |entry| entry.value.len()).max(end);
        update.compose(0, expires_at, |composed, present| {
            composed.extend_from_slice(present.unwrap_or_default());
            composed.resize(len, 0);
            composed[offset..end].copy_from_slice(part);
        });
        len
    };
    let len = ctx.update(&[key], change).await?;
    ctx.replies.count(len);
    Ok(())
}
