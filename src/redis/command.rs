//! Commands: what they are called, what they take, and what they do.
//!
//! A request is looked up in the [`table`], checked against what the table says, and run. A command
//! writes its reply as it goes; if it fails, what it wrote is replaced by the error.

mod admin;
mod connection;
mod docs;
mod expiration;
mod introspection;
mod key_specs;
mod keys;
mod options;
mod strings;
pub mod table;
mod tracking;
mod transaction;

use std::borrow::Cow;
use std::rc::Rc;

use self::table::{Command, Id};
use super::client::Client;
use super::fate::Fate;
use super::keyspace::{UnixMs, Update};
use super::number::parse_i64;
use super::reply::Replies;
use super::request::Request;
use super::server::{Server, add};
use crate::block::Namespace;
use crate::store::{Commit, Env};
use crate::{Error, ErrorKind};

/// What a command works with.
pub(super) struct Context<'a, E: Env, N: Namespace> {
    pub(super) server: &'a Server<E, N>,
    pub(super) client: &'a Rc<Client>,
    pub(super) replies: &'a mut Replies,
    /// The changes that must be durable before the reply is sent.
    pub(super) commit: Commit,
    /// The time at which the command runs.
    pub(super) now: UnixMs,
    /// What becomes of the connection.
    pub(super) fate: &'a mut Fate,
}

impl<E: Env, N: Namespace> Context<'_, E, N> {
    fn database(&self) -> usize {
        self.client.database.get()
    }

    fn commit(&mut self, commit: Commit) {
        self.commit = self.commit.and(commit);
    }

    /// Runs `change` once, atomically, on what `keys` of the client's database hold; the reply then
    /// waits for its commit.
    async fn update<R>(
        &mut self,
        keys: &[&[u8]],
        change: impl FnOnce(&mut Update<'_, '_>) -> R,
    ) -> Result<R, Failure> {
        let (result, commit) =
            self.server.keyspace.update(self.database(), keys, self.now, self.client.id, change).await?;
        self.commit(commit);
        Ok(result)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The text of the error reply.
    Reply(Cow<'static, [u8]>),
    /// The store could not do it.
    Store(Error),
}

impl Failure {
    const SYNTAX: Self = Self::text("ERR syntax error");
    const NOT_AN_INTEGER: Self = Self::text("ERR value is not an integer or out of range");
    const NOT_A_FLOAT: Self = Self::text("ERR value is not a valid float");
    const TOO_LONG: Self = Self::text("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

    const fn text(text: &'static str) -> Self {
        Self::Reply(Cow::Borrowed(text.as_bytes()))
    }

    /// An error reply that quotes what the client sent between two texts.
    fn quoting(before: &str, quoted: &[u8], after: &str) -> Self {
        Self::Reply(Cow::Owned([before.as_bytes(), as_c_string(quoted), after.as_bytes()].concat()))
    }

    fn wrong_arity(command: &Command) -> Self {
        let name = command.full_name;
        Self::Reply(Cow::Owned(format!("ERR wrong number of arguments for '{name}' command").into_bytes()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// The text of the reply to a command that failed for `error`.
pub(super) fn describe_store_error(error: &Error) -> Vec<u8> {
    let code = match error.kind() {
        // What clients know as "writes are refused, reads and deletions go on".
        ErrorKind::NoSpace => "OOM",
        // What clients know as "the server cannot write to its disk".
        ErrorKind::Os
        | ErrorKind::PermissionDenied
        | ErrorKind::OutOfMemory
        | ErrorKind::Closed
        | ErrorKind::TimedOut => "MISCONF",
        _ => "ERR",
    };
    format!("{code} {error}").into_bytes()
}

type Outcome = Result<(), Failure>;

/// What C prints of `bytes` with `%s`: Redis quotes arguments so.
fn as_c_string(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn integer(argument: &[u8]) -> Result<i64, Failure> {
    parse_i64(argument).ok_or(Failure::NOT_AN_INTEGER)
}

/// Runs `request`, which has at least a name, and writes its reply.
pub(super) async fn execute<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) {
    let start = ctx.replies.len();
    let is_tracking = ctx.client.tracking.borrow().is_some();
    let mut is_about_client = false;
    let outcome = match prepare(ctx, request) {
        Ok(command) => {
            ctx.client.last_command.set(command.full_name);
            add(&ctx.server.stats.commands, 1);
            if is_tracking && command.has_flag(table::READONLY) {
                // Before they are read, so that no change in between is missed.
                let keys = command.key_indexes(request.len()).filter_map(|index| request.get(index));
                ctx.server.keyspace.tracking().remember(ctx.client, keys);
            }
            is_about_client = command.full_name.starts_with("client|");
            run(ctx, command.id, request).await
        }
        Err(failure) => Err(failure),
    };
    if is_tracking && !is_about_client {
        tracking::end_exception(ctx.client);
    }
    if let Err(failure) = outcome {
        add(&ctx.server.stats.errors, 1);
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
    let command = find(request)?;
    if !command.accepts(request.len()) {
        return Err(transaction::rejected(ctx.client, command, Failure::wrong_arity(command)));
    }
    let authenticated = ctx.client.authenticated.get() || !ctx.server.needs_password();
    if !authenticated && !command.has_flag(table::NO_AUTH) {
        let failure = Failure::text("NOAUTH Authentication required.");
        return Err(transaction::rejected(ctx.client, command, failure));
    }
    if ctx.client.in_refused_multi.get() {
        transaction::refuse_inside(command)?;
    }
    Ok(command)
}

/// The command, or subcommand, that `request` names.
fn find(request: Request<'_>) -> Result<&'static Command, Failure> {
    let Some(command) = table::find(&request[0]).or_else(|| table::find_refused(&request[0])) else {
        return Err(unknown_command(request));
    };
    match request.get(1) {
        Some(name) if !command.subcommands.is_empty() => {
            table::find_in(command.subcommands, name).ok_or_else(|| unknown_subcommand(command, name))
        }
        _ => Ok(command),
    }
}

fn unknown_command(request: Request<'_>) -> Failure {
    const QUOTED_BYTES: usize = 128;
    let quote = |argument: &'_ [u8], limit: usize| {
        let argument = as_c_string(argument);
        argument[..argument.len().min(limit)].to_vec()
    };
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(quote(&request[0], QUOTED_BYTES));
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for argument in request.iter_from(1) {
        let quoted = text.len() - start;
        if quoted >= QUOTED_BYTES {
            break;
        }
        text.push(b'\'');
        text.extend(quote(argument, QUOTED_BYTES - quoted));
        text.extend_from_slice(b"' ");
    }
    Failure::Reply(Cow::Owned(text))
}

fn unknown_subcommand(command: &Command, name: &[u8]) -> Failure {
    let name = as_c_string(name);
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(&name[..name.len().min(128)]);
    text.extend_from_slice(format!("'. Try {} HELP.", command.name.to_ascii_uppercase()).as_bytes());
    Failure::Reply(Cow::Owned(text))
}

/// Runs the command `id`. The hot ones are awaited in place; the future of a rare one, which may be
/// large, lives on the heap while it runs, so that it does not make every connection's task larger.
async fn run<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, id: Id, request: Request<'_>) -> Outcome {
    match id {
        Id::Get => strings::get(ctx, request).await,
        Id::Set => strings::set(ctx, request).await,
        Id::Mget => strings::mget(ctx, request).await,
        Id::Mset => strings::mset(ctx, request).await,
        Id::Incr => strings::increment(ctx, &request[1], 1).await,
        Id::Decr => strings::increment(ctx, &request[1], -1).await,
        Id::IncrBy => strings::increment(ctx, &request[1], integer(&request[2])?).await,
        Id::DecrBy => strings::decrement_by(ctx, request).await,
        Id::Del | Id::Unlink => keys::delete(ctx, request).await,
        Id::Exists | Id::Touch => keys::exists(ctx, request).await,
        _ => match run_at_once(ctx, id, request) {
            Some(outcome) => outcome,
            None => Box::pin(run_rare(ctx, id, request)).await,
        },
    }
}

/// Runs the commands that need no store; `None` for any other.
fn run_at_once<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    id: Id,
    request: Request<'_>,
) -> Option<Outcome> {
    Some(match id {
        Id::Ping => connection::ping(ctx, request),
        Id::Echo => connection::echo(ctx, request),
        Id::Hello => connection::hello(ctx, request),
        Id::Auth => connection::auth(ctx, request),
        Id::Select => connection::select(ctx, request),
        Id::Quit => connection::quit(ctx),
        Id::Reset => connection::reset(ctx),
        Id::Client => Err(Failure::wrong_arity(table::command(Id::Client))),
        Id::ClientId => connection::client_id(ctx),
        Id::ClientGetName => connection::client_getname(ctx),
        Id::ClientSetName => connection::client_setname(ctx, request),
        Id::ClientSetInfo => connection::client_setinfo(ctx, request),
        Id::ClientInfo => connection::client_info(ctx),
        Id::ClientList => connection::client_list(ctx, request),
        Id::ClientNoEvict => connection::client_no_evict(ctx, request),
        Id::ClientReply => connection::client_reply(ctx, request),
        Id::ClientTracking => tracking::tracking(ctx, request),
        Id::ClientCaching => tracking::caching(ctx, request),
        Id::ClientTrackingInfo => tracking::info(ctx),
        Id::ClientGetRedir => tracking::getredir(ctx),
        Id::ClientKill => connection::client_kill(ctx, request),
        Id::ClientHelp | Id::CommandHelp | Id::ConfigHelp => introspection::help(ctx, id),
        Id::Command => introspection::command(ctx),
        Id::CommandCount => introspection::count(ctx),
        Id::CommandInfo => introspection::info(ctx, request),
        Id::CommandDocs => introspection::docs(ctx, request),
        Id::CommandList => introspection::list(ctx, request),
        Id::CommandGetKeys => introspection::getkeys(ctx, request),
        Id::Config => Err(Failure::wrong_arity(table::command(Id::Config))),
        Id::ConfigGet => admin::config_get(ctx, request),
        Id::ConfigSet => admin::config_set(ctx, request),
        Id::ConfigResetStat => admin::config_resetstat(ctx),
        Id::ConfigRewrite => admin::config_rewrite(),
        Id::Info => admin::info(ctx, request),
        Id::DbSize => admin::dbsize(ctx),
        Id::Time => admin::time(ctx),
        Id::Multi => transaction::multi(ctx),
        Id::Exec => transaction::exec(ctx),
        Id::Discard => transaction::discard(ctx),
        Id::Watch => transaction::watch(ctx),
        Id::Unwatch => transaction::unwatch(ctx),
        Id::Shutdown => admin::shutdown(ctx, request),
        _ => return None,
    })
}

/// Runs the commands that `run` and `run_at_once` leave.
async fn run_rare<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    id: Id,
    request: Request<'_>,
) -> Outcome {
    use expiration::Base;
    use options::Unit;

    match id {
        Id::FlushDb => admin::flushdb(ctx, request).await,
        Id::FlushAll => admin::flushall(ctx, request).await,
        Id::GetDel => strings::getdel(ctx, request).await,
        Id::GetEx => strings::getex(ctx, request).await,
        Id::GetSet => strings::getset(ctx, request).await,
        Id::SetNx => strings::setnx(ctx, request).await,
        Id::SetEx => strings::setex(ctx, request, Unit::Seconds).await,
        Id::PsetEx => strings::setex(ctx, request, Unit::Milliseconds).await,
        Id::MsetNx => strings::msetnx(ctx, request).await,
        Id::IncrByFloat => strings::increment_by_float(ctx, request).await,
        Id::Append => strings::append(ctx, request).await,
        Id::StrLen => strings::strlen(ctx, request).await,
        Id::GetRange | Id::SubStr => strings::getrange(ctx, request).await,
        Id::SetRange => strings::setrange(ctx, request).await,
        Id::Expire => expiration::expire(ctx, request, Unit::Seconds, Base::Now).await,
        Id::PExpire => expiration::expire(ctx, request, Unit::Milliseconds, Base::Now).await,
        Id::ExpireAt => expiration::expire(ctx, request, Unit::Seconds, Base::Epoch).await,
        Id::PExpireAt => expiration::expire(ctx, request, Unit::Milliseconds, Base::Epoch).await,
        Id::Ttl => expiration::report(ctx, request, Unit::Seconds, Base::Now).await,
        Id::Pttl => expiration::report(ctx, request, Unit::Milliseconds, Base::Now).await,
        Id::ExpireTime => expiration::report(ctx, request, Unit::Seconds, Base::Epoch).await,
        Id::PExpireTime => expiration::report(ctx, request, Unit::Milliseconds, Base::Epoch).await,
        Id::Persist => expiration::persist(ctx, request).await,
        Id::Type => keys::key_type(ctx, request).await,
        Id::Keys => keys::keys(ctx, request).await,
        Id::Scan => keys::scan(ctx, request).await,
        Id::RandomKey => keys::random(ctx).await,
        Id::Rename => keys::rename(ctx, request, false).await,
        Id::RenameNx => keys::rename(ctx, request, true).await,
        // The table has no other command; a test runs them all.
        _ => Err(unknown_command(request)),
    }
}
