//! Commands about commands.
//!
//! Of the commands that there are, COMMAND INFO and COMMAND DOCS say what Redis 7.0 says.

use super::super::glob;
use super::super::reply::Replies;
use super::super::request::Request;
use super::context::Context;
use super::docs;
use super::failure::{CommandResult, Failure};
use super::key_specs::{self, names};
use super::lookup;
use super::table::{self, Command};
use crate::block::Namespace;
use crate::store::Env;

fn describe(replies: &mut Replies, command: &Command) {
    replies.array(10);
    replies.bulk(command.full_name.as_bytes());
    replies.integer(command.arity.into());
    names(replies, command.flag_names());
    for place in [command.keys.first, command.keys.last, command.keys.step] {
        replies.integer(place.into());
    }
    names(replies, command.category_names());
    replies.set(command.tips.len());
    command.tips.iter().for_each(|tip| replies.bulk(tip.as_bytes()));
    key_specs::write(replies, command);
    match command.subcommands.len() {
        0 => replies.set(0),
        count => replies.array(count),
    }
    command.subcommands.iter().for_each(|subcommand| describe(replies, subcommand));
}

/// COMMAND alone.
pub(super) fn command<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.array(table::all().len());
    table::all().iter().for_each(|command| describe(ctx.replies, command));
    Ok(())
}

pub(super) fn count<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.count(table::all().len());
    Ok(())
}

/// The command that COMMAND INFO calls `name` or `name|subcommand`.
fn find_by_full_name(name: &[u8]) -> Option<&'static Command> {
    match name.iter().position(|&byte| byte == b'|') {
        None => table::find(name),
        Some(bar) => table::find_in(table::find(&name[..bar])?.subcommands, &name[bar + 1..]),
    }
}

pub(super) fn info<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) -> CommandResult {
    if request.len() == 2 {
        return command(ctx);
    }
    ctx.replies.array(request.len() - 2);
    for name in request.iter_from(2) {
        match find_by_full_name(name) {
            Some(command) => describe(ctx.replies, command),
            None => ctx.replies.null(),
        }
    }
    Ok(())
}

/// COMMAND DOCS: about all commands, or about those named, as far as they exist.
pub(super) fn docs<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) -> CommandResult {
    let documented: Vec<&'static Command> = match request.len() {
        2 => table::all().iter().collect(),
        _ => request.iter_from(2).filter_map(find_by_full_name).collect(),
    };
    ctx.replies.map(documented.len());
    documented.into_iter().for_each(|command| docs::write(ctx.replies, command));
    Ok(())
}

pub(super) fn list<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>, request: Request<'_>) -> CommandResult {
    let listed: Vec<&Command> = match request.len() {
        2 => table::all_with_subcommands().collect(),
        5 if request[2].eq_ignore_ascii_case(b"filterby") => {
            let (filter, value) = (&request[3], request[4].to_ascii_lowercase());
            if filter.eq_ignore_ascii_case(b"pattern") {
                table::all_with_subcommands()
                    .filter(|command| glob::matches(&value, command.full_name.as_bytes()))
                    .collect()
            } else if filter.eq_ignore_ascii_case(b"aclcat") {
                let is_in = |command: &&Command| {
                    command.category_names().any(|category| category.as_bytes()[1..] == *value)
                };
                table::all_with_subcommands().filter(is_in).collect()
            } else if filter.eq_ignore_ascii_case(b"module") {
                Vec::new()
            } else {
                return Err(Failure::SYNTAX);
            }
        }
        _ => return Err(Failure::SYNTAX),
    };
    ctx.replies.array(listed.len());
    listed.iter().for_each(|command| ctx.replies.bulk(command.full_name.as_bytes()));
    Ok(())
}

pub(super) fn getkeys<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let named = request.tail(2);
    let command = lookup::find(named).map_err(|_| Failure::text("ERR Invalid command specified"))?;
    if command.keys.first == 0 {
        return Err(Failure::text("ERR The command has no key arguments"));
    }
    if !command.accepts(named.len()) {
        return Err(Failure::text("ERR Invalid number of arguments specified for command"));
    }
    let keys = command.key_indexes(named.len());
    ctx.replies.array(command.key_indexes(named.len()).count());
    for key in keys.filter_map(|index| named.get(index)) {
        ctx.replies.bulk(key);
    }
    Ok(())
}

/// The lines of CLIENT HELP, without HELP itself.
pub(super) const CLIENT_HELP: &[&str] = &[
    "CACHING (YES|NO)",
    "    Whether copies of what the next command reads are kept.",
    "GETNAME",
    "    The name of this connection.",
    "GETREDIR",
    "    Where invalidations go: 0, to this connection, or -1, nowhere.",
    "ID",
    "    The number of this connection.",
    "INFO",
    "    What the server knows of this connection.",
    "KILL <ip:port> | <option> <value> [<option> <value> ...]",
    "    End connections. Options: ID, ADDR, LADDR, TYPE, USER, SKIPME (yes|no).",
    "LIST [TYPE <type> | ID <id> [<id> ...]]",
    "    What the server knows of connections.",
    "NO-EVICT (ON|OFF)",
    "    Accepted; connections are never dropped for their memory.",
    "REPLY (ON|OFF|SKIP)",
    "    Whether replies are sent.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Which library the client uses.",
    "SETNAME <name>",
    "    Name this connection.",
    "TRACKING (ON|OFF) [BCAST] [PREFIX <prefix> [...]] [OPTIN] [OPTOUT] [NOLOOP]",
    "    Whether this connection is told of changes of the keys that it has read.",
    "TRACKINGINFO",
    "    How this connection tracks keys.",
];

/// The lines of COMMAND HELP, without HELP itself.
pub(super) const COMMAND_HELP: &[&str] = &[
    "(no subcommand)",
    "    Details about all commands.",
    "COUNT",
    "    How many commands there are.",
    "DOCS [<command> ...]",
    "    What some commands, or all, do and take.",
    "GETKEYS <full-command>",
    "    The keys among a command's arguments.",
    "INFO [<command> ...]",
    "    Details about some commands, or all.",
    "LIST [FILTERBY (PATTERN <pattern> | ACLCAT <category> | MODULE <name>)]",
    "    The names of commands.",
];

/// The lines of CONFIG HELP, without HELP itself.
pub(super) const CONFIG_HELP: &[&str] = &[
    "GET <pattern> [<pattern> ...]",
    "    The settings whose names match.",
    "SET <name> <value> [<name> <value> ...]",
    "    Change settings until the server restarts.",
    "RESETSTAT",
    "    Set the counts that INFO shows back to zero.",
    "REWRITE",
    "    An error: there is no configuration file.",
];

/// CLIENT HELP, COMMAND HELP and CONFIG HELP: `command` is the subcommand HELP.
pub(super) fn help<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    command: &Command,
    lines: &[&str],
) -> CommandResult {
    let container = command.full_name.split('|').next().unwrap_or_default().to_ascii_uppercase();
    ctx.replies.array(lines.len() + 3);
    ctx.replies.simple(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().chain(&["HELP", "    Prints this help."]).for_each(|line| ctx.replies.simple(line));
    Ok(())
}
