//! Commands on the connection itself.

use super::super::client::Client;
use super::super::keyspace::DATABASES;
use super::super::lock::lock;
use super::super::number::parse_i64;
use super::super::reply::Protocol;
use super::super::request::Request;
use super::super::server::REDIS_VERSION;
use super::context::Context;
use super::failure::{CommandResult, Failure, integer};
use super::table::Command;
use crate::block::Namespace;
use crate::store::Env;

const WRONG_PASSWORD: Failure =
    Failure::text("WRONGPASS invalid username-password pair or user is disabled.");
const BAD_NAME: Failure =
    Failure::text("ERR Client names cannot contain spaces, newlines or special characters.");

pub(super) fn ping<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
    command: &Command,
) -> CommandResult {
    match (request.len(), request.get(1)) {
        (1, _) => ctx.replies.simple("PONG"),
        (2, Some(text)) => ctx.replies.bulk(text),
        _ => return Err(Failure::wrong_arity(command)),
    }
    Ok(())
}

pub(super) fn echo<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) -> CommandResult {
    ctx.replies.bulk(&request[1]);
    Ok(())
}

/// Checks the name and the password of a user. There is one user, `default`.
fn check_password<E: Env, N: Namespace>(
    ctx: &Context<'_, E, N>,
    user: &[u8],
    password: &[u8],
) -> CommandResult {
    if user != b"default" || !ctx.server.shared.accepts_password(password) {
        return Err(WRONG_PASSWORD);
    }
    Ok(())
}

fn authenticate<E: Env, N: Namespace>(
    ctx: &Context<'_, E, N>,
    user: &[u8],
    password: &[u8],
) -> CommandResult {
    check_password(ctx, user, password)?;
    ctx.client.authenticated.store(true);
    Ok(())
}

pub(super) fn auth<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) -> CommandResult {
    match request.len() {
        2 if !ctx.server.needs_password() => {
            return Err(Failure::text(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ));
        }
        2 => authenticate(ctx, b"default", &request[1])?,
        3 => authenticate(ctx, &request[1], &request[2])?,
        _ => return Err(Failure::SYNTAX),
    }
    ctx.replies.ok();
    Ok(())
}

/// HELLO does everything that it is asked, or nothing. (Redis 7.0 leaves what came before a bad
/// option done; 7.2 does not.)
pub(super) fn hello<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let protocol = match request.get(1).map(parse_i64) {
        None => ctx.client.protocol.load(),
        Some(Some(2)) => Protocol::Resp2,
        Some(Some(3)) => Protocol::Resp3,
        Some(Some(_)) => return Err(Failure::text("NOPROTO unsupported protocol version")),
        Some(None) => return Err(Failure::text("ERR Protocol version is not an integer or out of range")),
    };
    let mut authenticated = ctx.client.authenticated.load();
    let mut name = None;
    let mut options = request.iter_from(2);
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"auth") && options.len() >= 2 {
            let user = options.next().unwrap_or_default();
            check_password(ctx, user, options.next().unwrap_or_default())?;
            authenticated = true;
        } else if option.eq_ignore_ascii_case(b"setname") && options.len() >= 1 {
            name = Some(options.next().unwrap_or_default());
            check_name(name.unwrap_or_default())?;
        } else {
            return Err(Failure::quoting("ERR Syntax error in HELLO option '", option, "'"));
        }
    }
    if !authenticated {
        return Err(Failure::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> \
             option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    ctx.client.authenticated.store(true);
    if let Some(name) = name {
        set_name(ctx.client, name)?;
    }
    ctx.client.protocol.store(protocol);
    let replies = &mut *ctx.replies;
    replies.set_protocol(protocol);
    replies.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    replies.bulk(b"proto");
    replies.integer(protocol.version());
    replies.bulk(b"id");
    replies.count(ctx.client.id);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    replies.bulk(b"modules");
    replies.array(0);
    Ok(())
}

pub(super) fn select<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let index = integer(&request[1])?;
    let database = usize::try_from(index).ok().filter(|&index| index < DATABASES);
    // Redis takes a C `int` here, and says so of what is beyond one.
    if i32::try_from(index).is_err() {
        return Err(Failure::text(
            "ERR value is out of range, value must between -2147483648 and 2147483647",
        ));
    }
    ctx.client.database.store(database.ok_or(Failure::text("ERR DB index is out of range"))?);
    ctx.replies.ok();
    Ok(())
}

pub(super) fn quit<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.ok();
    ctx.fate.close();
    Ok(())
}

pub(super) fn reset<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    let client = ctx.client;
    client.in_refused_multi.store(false);
    ctx.server.keyspace.tracking().disable(client);
    client.database.store(0);
    client.protocol.store(Protocol::Resp2);
    client.authenticated.store(!ctx.server.needs_password());
    lock(&client.name).clear();
    ctx.replies.set_protocol(Protocol::Resp2);
    ctx.replies.simple("RESET");
    ctx.fate.reset_replies();
    Ok(())
}

pub(super) fn client_id<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.count(ctx.client.id);
    Ok(())
}

pub(super) fn client_getname<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    let name = lock(&ctx.client.name);
    if name.is_empty() {
        ctx.replies.null();
    } else {
        ctx.replies.bulk(&name);
    }
    Ok(())
}

/// Whether `name` can stand in a line of CLIENT LIST.
fn is_listable(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

fn check_name(name: &[u8]) -> CommandResult {
    if is_listable(name) { Ok(()) } else { Err(BAD_NAME) }
}

fn set_name(client: &Client, name: &[u8]) -> CommandResult {
    check_name(name)?;
    *lock(&client.name) = name.to_vec();
    Ok(())
}

pub(super) fn client_setname<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    set_name(ctx.client, &request[2])?;
    ctx.replies.ok();
    Ok(())
}

/// CLIENT SETINFO, which came with Redis 7.2: today's client libraries send it.
pub(super) fn client_setinfo<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let (option, value) = (&request[2], &request[3]);
    let (name, place) = if option.eq_ignore_ascii_case(b"lib-name") {
        ("lib-name", &ctx.client.library)
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        ("lib-ver", &ctx.client.library_version)
    } else {
        return Err(Failure::quoting("ERR Unrecognized option '", option, "'"));
    };
    if !is_listable(value) {
        let rest = " cannot contain spaces, newlines or special characters.";
        return Err(Failure::quoting("ERR ", name.as_bytes(), rest));
    }
    *lock(place) = value.to_vec();
    ctx.replies.ok();
    Ok(())
}

pub(super) fn client_info<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    let mut line = ctx.client.describe(ctx.server.now());
    line.push(b'\n');
    ctx.replies.verbatim(&line);
    Ok(())
}

/// Whether all clients are of this type; if not, none is: there are no replicas and no subscribers
/// here.
fn is_normal_type(name: &[u8]) -> Result<bool, Failure> {
    if name.eq_ignore_ascii_case(b"normal") {
        return Ok(true);
    }
    let known: [&[u8]; 4] = [b"slave", b"replica", b"master", b"pubsub"];
    if known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Ok(false);
    }
    Err(Failure::quoting("ERR Unknown client type '", name, "'"))
}

pub(super) fn client_list<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let now = ctx.server.now();
    let clients = ctx.server.clients().by_id.clone();
    let mut lines = Vec::new();
    let mut list = |client: &Client| {
        lines.extend(client.describe(now));
        lines.push(b'\n');
    };
    match (request.len(), request.get(2)) {
        (2, _) => clients.values().for_each(|client| list(client)),
        (4, Some(option)) if option.eq_ignore_ascii_case(b"type") => {
            if is_normal_type(&request[3])? {
                clients.values().for_each(|client| list(client));
            }
        }
        (4.., Some(option)) if option.eq_ignore_ascii_case(b"id") => {
            for id in request.iter_from(3) {
                let id = parse_i64(id).ok_or(Failure::text("ERR Invalid client ID"))?;
                if let Some(client) = u64::try_from(id).ok().and_then(|id| clients.get(&id)) {
                    list(client);
                }
            }
        }
        _ => return Err(Failure::SYNTAX),
    }
    ctx.replies.verbatim(&lines);
    Ok(())
}

pub(super) fn client_no_evict<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let on = request[2].eq_ignore_ascii_case(b"on");
    if !on && !request[2].eq_ignore_ascii_case(b"off") {
        return Err(Failure::SYNTAX);
    }
    ctx.client.no_evict.store(on);
    ctx.replies.ok();
    Ok(())
}

pub(super) fn client_reply<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let mode = &request[2];
    if mode.eq_ignore_ascii_case(b"on") {
        ctx.replies.ok();
        ctx.fate.reply_on();
    } else if mode.eq_ignore_ascii_case(b"off") {
        ctx.fate.reply_off();
    } else if mode.eq_ignore_ascii_case(b"skip") {
        ctx.fate.reply_skip();
    } else {
        return Err(Failure::SYNTAX);
    }
    Ok(())
}

/// Which clients CLIENT KILL ends: those that meet every condition it was given.
#[derive(Debug)]
struct KillFilter<'a> {
    id: Option<u64>,
    peer: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    is_normal: bool,
    not_myself: bool,
}

impl<'a> KillFilter<'a> {
    fn parse(request: Request<'a>) -> Result<Self, Failure> {
        let mut filter = Self { id: None, peer: None, local: None, is_normal: true, not_myself: true };
        let mut arguments = request.iter_from(2);
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or(Failure::SYNTAX)?;
            if option.eq_ignore_ascii_case(b"id") {
                let id = parse_i64(value).and_then(|id| u64::try_from(id).ok()).filter(|&id| id > 0);
                filter.id = Some(id.ok_or(Failure::text("ERR client-id should be greater than 0"))?);
            } else if option.eq_ignore_ascii_case(b"type") {
                filter.is_normal = is_normal_type(value)?;
            } else if option.eq_ignore_ascii_case(b"addr") {
                filter.peer = Some(value);
            } else if option.eq_ignore_ascii_case(b"laddr") {
                filter.local = Some(value);
            } else if option.eq_ignore_ascii_case(b"user") {
                if value != b"default" {
                    return Err(Failure::quoting("ERR No such user '", value, "'"));
                }
            } else if option.eq_ignore_ascii_case(b"skipme") {
                filter.not_myself = value.eq_ignore_ascii_case(b"yes");
                if !filter.not_myself && !value.eq_ignore_ascii_case(b"no") {
                    return Err(Failure::SYNTAX);
                }
            } else {
                return Err(Failure::SYNTAX);
            }
        }
        Ok(filter)
    }

    fn matches(&self, client: &Client, myself: &Client) -> bool {
        self.is_normal
            && self.id.is_none_or(|id| id == client.id)
            && self.peer.is_none_or(|peer| peer == client.peer.as_bytes())
            && self.local.is_none_or(|local| local == client.local.as_bytes())
            && !(self.not_myself && client.id == myself.id)
    }
}

pub(super) fn client_kill<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    // The old form names an address only, which may be the caller's own.
    let old_form = request.len() == 3;
    let filter = if old_form {
        KillFilter { id: None, peer: request.get(2), local: None, is_normal: true, not_myself: false }
    } else {
        KillFilter::parse(request)?
    };
    let mut killed = 0;
    for client in ctx.server.clients().by_id.values().filter(|client| filter.matches(client, ctx.client)) {
        killed += 1;
        if client.id == ctx.client.id {
            ctx.fate.close();
        } else {
            client.kill();
        }
    }
    match killed {
        0 if old_form => return Err(Failure::text("ERR No such client")),
        _ if old_form => ctx.replies.ok(),
        killed => ctx.replies.integer(killed),
    }
    Ok(())
}
