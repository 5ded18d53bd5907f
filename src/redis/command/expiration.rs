//! Commands on expiry times.

use super::super::keyspace::{KeyspaceEntry, UnixMs, Update};
use super::super::request::Request;
use super::context::Context;
use super::failure::{CommandResult, Failure, integer};
use super::options::{TimeUnit, invalid_expire_time};
use super::table::Command;
use crate::block::Namespace;
use crate::store::Env;

/// What a time is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeBase {
    Now,
    Epoch,
}

/// For which present expiry times EXPIRE and its kin act.
#[derive(Clone, Copy, Debug, Default)]
struct ExpireConditions {
    if_none: bool,
    if_any: bool,
    if_later: bool,
    if_earlier: bool,
}

impl ExpireConditions {
    fn parse(request: Request<'_>) -> Result<Self, Failure> {
        let mut conditions = Self::default();
        for option in request.iter_from(3) {
            let condition = if option.eq_ignore_ascii_case(b"nx") {
                &mut conditions.if_none
            } else if option.eq_ignore_ascii_case(b"xx") {
                &mut conditions.if_any
            } else if option.eq_ignore_ascii_case(b"gt") {
                &mut conditions.if_later
            } else if option.eq_ignore_ascii_case(b"lt") {
                &mut conditions.if_earlier
            } else {
                return Err(Failure::quoting("ERR Unsupported option ", option, ""));
            };
            *condition = true;
        }
        if conditions.if_none && (conditions.if_any || conditions.if_later || conditions.if_earlier) {
            return Err(Failure::text("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if conditions.if_later && conditions.if_earlier {
            return Err(Failure::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether the expiry time `present` may become `new`. No expiry time counts as infinitely
    /// late.
    fn allow(self, present: Option<UnixMs>, new: UnixMs) -> bool {
        match present {
            None => !self.if_any && !self.if_later,
            Some(present) => {
                !self.if_none && (!self.if_later || new > present) && (!self.if_earlier || new < present)
            }
        }
    }
}

/// EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT.
pub(super) async fn expire<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
    unit: TimeUnit,
    base: TimeBase,
) -> CommandResult {
    let conditions = ExpireConditions::parse(request)?;
    let now = ctx.now;
    let scale = if unit == TimeUnit::Seconds { 1000 } else { 1 };
    let origin = if base == TimeBase::Now { now } else { 0 };
    let expires_at = integer(&request[2])?
        .checked_mul(scale)
        .and_then(|amount| amount.checked_add(origin))
        .ok_or_else(|| invalid_expire_time(command))?;
    let key = &request[1];
    let change = |update: &mut Update<'_, '_>| {
        let Some(entry) = update.get(0) else { return false };
        if !conditions.allow(entry.expires_at, expires_at) {
            return false;
        }
        if expires_at <= now {
            update.delete(0);
        } else {
            update.set_expiry(0, Some(expires_at));
        }
        true
    };
    let changed = ctx.update(&[key], change).await?;
    ctx.replies.integer(i64::from(changed));
    Ok(())
}

/// TTL, PTTL, EXPIRETIME and PEXPIRETIME.
pub(super) async fn report<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    unit: TimeUnit,
    base: TimeBase,
) -> CommandResult {
    let now = ctx.now;
    let time = |entry: Option<KeyspaceEntry<'_>>| match entry {
        None => -2,
        Some(KeyspaceEntry { expires_at: None, .. }) => -1,
        Some(KeyspaceEntry { expires_at: Some(expires_at), .. }) => {
            let ms = if base == TimeBase::Now { expires_at.saturating_sub(now).max(0) } else { expires_at };
            // Rounded to the nearest second.
            if unit == TimeUnit::Seconds { ms / 1000 + i64::from(ms % 1000 >= 500) } else { ms }
        }
    };
    let time = ctx.server.keyspace.read(ctx.database(), &request[1], now, time).await?;
    ctx.replies.integer(time);
    Ok(())
}

pub(super) async fn persist<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let key = &request[1];
    let change = |update: &mut Update<'_, '_>| {
        let volatile = update.get(0).is_some_and(|entry| entry.expires_at.is_some());
        if volatile {
            update.set_expiry(0, None);
        }
        volatile
    };
    let changed = ctx.update(&[key], change).await?;
    ctx.replies.integer(i64::from(changed));
    Ok(())
}
