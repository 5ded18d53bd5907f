//! Commands: what they are called, what they take, and what they do.
//!
//! A request is [looked up](lookup) in the [`table`], checked against what the table says, and run.
//! A command writes its reply as it goes; if it fails, what it wrote is replaced by the error.

mod admin;
mod connection;
mod context;
mod docs;
mod expiration;
mod failure;
mod flags;
mod introspection;
mod key_specs;
mod keys;
mod lookup;
mod options;
mod strings;
pub(super) mod table;
mod tracking;
mod transaction;

pub(super) use self::context::Context;
use self::expiration::TimeBase;
pub(super) use self::failure::describe_store_error;
use self::failure::{CommandResult, Failure, integer};
use self::flags::{NO_AUTH, READONLY};
use self::options::TimeUnit;
use self::table::{Command, CommandId};
use super::request::Request;
use super::stats::Counted;
use crate::block::Namespace;
use crate::store::Env;

/// Runs `request`, which has at least a name, and writes its reply.
pub(super) async fn execute<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) {
    let start = ctx.replies.len();
    let is_tracking = ctx.client.tracks.load();
    let mut is_about_client = false;
    let outcome = match prepare(ctx, request) {
        Ok(command) => {
            ctx.client.last_command.store(Some(command));
            ctx.server.count(Counted::Commands, 1);
            if is_tracking && command.has_flag(READONLY) {
                // Before they are read, so that no change in between is missed.
                let keys = command.key_indexes(request.len()).filter_map(|index| request.get(index));
                ctx.server.keyspace.tracking().remember(ctx.client, keys);
            }
            is_about_client = is_tracking && command.is_subcommand_of("client");
            run(ctx, command, request).await
        }
        Err(failure) => Err(failure),
    };
    if is_tracking && !is_about_client {
        tracking::end_exception(ctx.client);
    }
    if let Err(failure) = outcome {
        ctx.server.count(Counted::Errors, 1);
        ctx.replies.truncate(start);
        match failure {
            Failure::Reply(text) => ctx.replies.error(&text),
            Failure::Store(error) => ctx.replies.error(&describe_store_error(&error)),
        }
    }
}

/// Finds the command and checks whether the client may run it like this.
fn prepare<E: Env, N: Namespace>(
    ctx: &Context<'_, E, N>,
    request: Request<'_>,
) -> Result<&'static Command, Failure> {
    let command = lookup::find(request)?;
    if !command.accepts(request.len()) {
        return Err(transaction::rejected(ctx.client, command, Failure::wrong_arity(command)));
    }
    let authenticated = ctx.client.authenticated.load() || !ctx.server.needs_password();
    if !authenticated && !command.has_flag(NO_AUTH) {
        let failure = Failure::text("NOAUTH Authentication required.");
        return Err(transaction::rejected(ctx.client, command, failure));
    }
    if ctx.client.in_refused_multi.load() {
        transaction::refuse_inside(command)?;
    }
    Ok(command)
}

/// Runs `command`. The hot ones are awaited in place; the future of a rare one, which may be large,
/// lives on the heap while it runs, so that it does not make every connection's task larger.
async fn run<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    command: &'static Command,
    request: Request<'_>,
) -> CommandResult {
    match command.id {
        // Hot: no allocation.
        CommandId::Get => strings::get(ctx, request).await,
        CommandId::Set => strings::set(ctx, request, command).await,
        CommandId::Mget => strings::mget(ctx, request).await,
        CommandId::Mset => strings::mset(ctx, request, command).await,
        CommandId::Incr => strings::increment(ctx, &request[1], 1).await,
        CommandId::Decr => strings::increment(ctx, &request[1], -1).await,
        CommandId::IncrBy => strings::increment(ctx, &request[1], integer(&request[2])?).await,
        CommandId::DecrBy => strings::decrement_by(ctx, request).await,
        CommandId::Del | CommandId::Unlink => keys::delete(ctx, request).await,
        CommandId::Exists | CommandId::Touch => keys::exists(ctx, request).await,

        // Without the store: done at once.
        CommandId::Ping => connection::ping(ctx, request, command),
        CommandId::Echo => connection::echo(ctx, request),
        CommandId::Hello => connection::hello(ctx, request),
        CommandId::Auth => connection::auth(ctx, request),
        CommandId::Select => connection::select(ctx, request),
        CommandId::Quit => connection::quit(ctx),
        CommandId::Reset => connection::reset(ctx),
        CommandId::ClientId => connection::client_id(ctx),
        CommandId::ClientGetName => connection::client_getname(ctx),
        CommandId::ClientSetName => connection::client_setname(ctx, request),
        CommandId::ClientSetInfo => connection::client_setinfo(ctx, request),
        CommandId::ClientInfo => connection::client_info(ctx),
        CommandId::ClientList => connection::client_list(ctx, request),
        CommandId::ClientNoEvict => connection::client_no_evict(ctx, request),
        CommandId::ClientReply => connection::client_reply(ctx, request),
        CommandId::ClientTracking => tracking::tracking(ctx, request),
        CommandId::ClientCaching => tracking::caching(ctx, request),
        CommandId::ClientTrackingInfo => tracking::info(ctx),
        CommandId::ClientGetRedir => tracking::getredir(ctx),
        CommandId::ClientKill => connection::client_kill(ctx, request),
        CommandId::ClientHelp => introspection::help(ctx, command, introspection::CLIENT_HELP),
        CommandId::CommandHelp => introspection::help(ctx, command, introspection::COMMAND_HELP),
        CommandId::ConfigHelp => introspection::help(ctx, command, introspection::CONFIG_HELP),
        CommandId::Command => introspection::command(ctx),
        CommandId::CommandCount => introspection::count(ctx),
        CommandId::CommandInfo => introspection::info(ctx, request),
        CommandId::CommandDocs => introspection::docs(ctx, request),
        CommandId::CommandList => introspection::list(ctx, request),
        CommandId::CommandGetKeys => introspection::getkeys(ctx, request),
        // Without their subcommand.
        CommandId::Client | CommandId::Config => Err(Failure::wrong_arity(command)),
        CommandId::ConfigGet => admin::config_get(ctx, request),
        CommandId::ConfigSet => admin::config_set(ctx, request),
        CommandId::ConfigResetStat => admin::config_resetstat(ctx),
        CommandId::ConfigRewrite => admin::config_rewrite(),
        CommandId::Info => admin::info(ctx, request),
        CommandId::DbSize => admin::dbsize(ctx),
        CommandId::Time => admin::time(ctx),
        CommandId::Multi => transaction::multi(ctx),
        CommandId::Exec => transaction::exec(ctx),
        CommandId::Discard => transaction::discard(ctx),
        CommandId::Watch => transaction::watch(ctx),
        CommandId::Unwatch => transaction::unwatch(ctx),
        CommandId::Shutdown => admin::shutdown(ctx, request),

        // Rare.
        CommandId::FlushDb => Box::pin(admin::flushdb(ctx, request)).await,
        CommandId::FlushAll => Box::pin(admin::flushall(ctx, request)).await,
        CommandId::GetDel => Box::pin(strings::getdel(ctx, request)).await,
        CommandId::GetEx => Box::pin(strings::getex(ctx, request, command)).await,
        CommandId::GetSet => Box::pin(strings::getset(ctx, request)).await,
        CommandId::SetNx => Box::pin(strings::setnx(ctx, request)).await,
        CommandId::SetEx => Box::pin(strings::setex(ctx, request, command, TimeUnit::Seconds)).await,
        CommandId::PsetEx => Box::pin(strings::setex(ctx, request, command, TimeUnit::Milliseconds)).await,
        CommandId::MsetNx => Box::pin(strings::msetnx(ctx, request, command)).await,
        CommandId::IncrByFloat => Box::pin(strings::increment_by_float(ctx, request)).await,
        CommandId::Append => Box::pin(strings::append(ctx, request)).await,
        CommandId::StrLen => Box::pin(strings::strlen(ctx, request)).await,
        CommandId::GetRange | CommandId::SubStr => Box::pin(strings::getrange(ctx, request)).await,
        CommandId::SetRange => Box::pin(strings::setrange(ctx, request)).await,
        CommandId::Expire => {
            Box::pin(expiration::expire(ctx, request, command, TimeUnit::Seconds, TimeBase::Now)).await
        }
        CommandId::PExpire => {
            Box::pin(expiration::expire(ctx, request, command, TimeUnit::Milliseconds, TimeBase::Now)).await
        }
        CommandId::ExpireAt => {
            Box::pin(expiration::expire(ctx, request, command, TimeUnit::Seconds, TimeBase::Epoch)).await
        }
        CommandId::PExpireAt => {
            Box::pin(expiration::expire(ctx, request, command, TimeUnit::Milliseconds, TimeBase::Epoch)).await
        }
        CommandId::Ttl => Box::pin(expiration::report(ctx, request, TimeUnit::Seconds, TimeBase::Now)).await,
        CommandId::Pttl => {
            Box::pin(expiration::report(ctx, request, TimeUnit::Milliseconds, TimeBase::Now)).await
        }
        CommandId::ExpireTime => {
            Box::pin(expiration::report(ctx, request, TimeUnit::Seconds, TimeBase::Epoch)).await
        }
        CommandId::PExpireTime => {
            Box::pin(expiration::report(ctx, request, TimeUnit::Milliseconds, TimeBase::Epoch)).await
        }
        CommandId::Persist => Box::pin(expiration::persist(ctx, request)).await,
        CommandId::Type => Box::pin(keys::key_type(ctx, request)).await,
        CommandId::Keys => Box::pin(keys::keys(ctx, request)).await,
        CommandId::Scan => Box::pin(keys::scan(ctx, request)).await,
        CommandId::RandomKey => Box::pin(keys::random(ctx)).await,
        CommandId::Rename => Box::pin(keys::rename(ctx, request, false)).await,
        CommandId::RenameNx => Box::pin(keys::rename(ctx, request, true)).await,
    }
}
