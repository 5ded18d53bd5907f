//! The commands of transactions, which this server does not have.
//!
//! Clients send `MULTI`, the commands and `EXEC` at once, without waiting for the reply to MULTI.
//! If it were only unknown, its commands would run one by one, and a client that tries again would
//! run them twice. So MULTI is refused together with everything up to EXEC or DISCARD, or up to
//! RESET or the end of the connection: all of it gets errors, and nothing of it runs.

use std::borrow::Cow;

use super::super::client::Client;
use super::context::Context;
use super::failure::{CommandResult, Failure};
use super::table::{Command, CommandId};
use crate::block::Namespace;
use crate::store::Env;

pub(super) fn multi<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    if ctx.client.in_refused_multi.swap(true) {
        return Err(Failure::text("ERR MULTI calls can not be nested"));
    }
    Err(Failure::text("ERR MULTI is not supported yet: nothing is run up to EXEC or DISCARD"))
}

pub(super) fn exec<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    Err(Failure::text(if ctx.client.in_refused_multi.swap(false) {
        "EXECABORT Transaction discarded because of previous errors."
    } else {
        "ERR EXEC without MULTI"
    }))
}

pub(super) fn discard<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    if !ctx.client.in_refused_multi.swap(false) {
        return Err(Failure::text("ERR DISCARD without MULTI"));
    }
    ctx.replies.ok();
    Ok(())
}

/// If the client goes on all the same, its MULTI is refused, so nothing runs that relies on what it
/// watches.
pub(super) fn watch<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    Err(Failure::text(if ctx.client.in_refused_multi.load() {
        "ERR WATCH inside MULTI is not allowed"
    } else {
        "ERR WATCH is not supported yet: there are no transactions"
    }))
}

/// No key is watched afterwards, as none was before.
pub(super) fn unwatch<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.ok();
    Ok(())
}

/// Lets `command` run inside a MULTI that was refused if Redis would not queue it.
///
/// # Errors
///
/// Redis would queue it; the reply is this error.
pub(super) fn refuse_inside(command: &Command) -> CommandResult {
    if command.runs_inside_multi {
        return Ok(());
    }
    Err(Failure::text("ERR not run: the MULTI before it is not supported yet"))
}

/// The reply to a command that is rejected before it runs, for `failure`. A rejected EXEC ends its
/// transaction.
pub(super) fn rejected(client: &Client, command: &Command, failure: Failure) -> Failure {
    match failure {
        Failure::Reply(text) if command.id == CommandId::Exec => {
            client.in_refused_multi.store(false);
            let reason = text.strip_prefix(b"ERR ").unwrap_or(&text);
            let before = b"EXECABORT Transaction discarded because of: ";
            Failure::Reply(Cow::Owned([before, reason].concat()))
        }
        failure => failure,
    }
}
