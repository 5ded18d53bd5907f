//! Commands on the server as a whole.

mod config;
mod info;

pub(super) use config::{config_get, config_resetstat, config_rewrite, config_set};
pub(super) use info::info;

use super::super::keyspace::DATABASES;
use super::super::request::Request;
use super::context::Context;
use super::failure::{CommandResult, Failure};
use crate::block::Namespace;
use crate::store::Env;

pub(super) fn dbsize<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.count(ctx.server.keyspace.len(ctx.database()));
    Ok(())
}

/// FLUSHDB and FLUSHALL take SYNC and ASYNC, which make no difference here.
fn check_flush_options(request: Request<'_>) -> CommandResult {
    match request.get(1) {
        None => Ok(()),
        Some(option)
            if request.len() == 2
                && (option.eq_ignore_ascii_case(b"sync") || option.eq_ignore_ascii_case(b"async")) =>
        {
            Ok(())
        }
        Some(_) => Err(Failure::SYNTAX),
    }
}

pub(super) async fn flushdb<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    check_flush_options(request)?;
    let database = ctx.database();
    let commit = ctx.server.keyspace.clear(database..database + 1).await?;
    ctx.commit(commit);
    ctx.replies.ok();
    Ok(())
}

pub(super) async fn flushall<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    check_flush_options(request)?;
    let commit = ctx.server.keyspace.clear(0..DATABASES).await?;
    ctx.commit(commit);
    ctx.replies.ok();
    Ok(())
}

pub(super) fn time<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    let now = ctx.server.unix_time();
    ctx.replies.array(2);
    ctx.replies.bulk_u64(now.as_secs());
    ctx.replies.bulk_u64(now.subsec_micros().into());
    Ok(())
}

/// SHUTDOWN: what was acknowledged is safe already, so SAVE and NOSAVE, NOW and FORCE make no
/// difference.
pub(super) fn shutdown<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let said = |name: &str| request.iter_from(1).any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
    let known: [&[u8]; 5] = [b"nosave", b"save", b"now", b"force", b"abort"];
    let all_known =
        request.iter_from(1).all(|option| known.iter().any(|known| option.eq_ignore_ascii_case(known)));
    let others = ["nosave", "save", "now", "force"].into_iter().any(said);
    if !all_known || (said("abort") && others) || (said("nosave") && said("save")) {
        return Err(Failure::SYNTAX);
    }
    if said("abort") {
        return Err(Failure::text("ERR No shutdown in progress."));
    }
    // As in Redis, the end of the connection is the reply.
    ctx.server.request_shutdown();
    ctx.fate.close();
    Ok(())
}
