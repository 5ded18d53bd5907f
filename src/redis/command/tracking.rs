//! CLIENT TRACKING, CLIENT CACHING, CLIENT TRACKINGINFO and CLIENT GETREDIR.

use super::super::client::Client;
use super::super::lock::lock;
use super::super::request::Request;
use super::super::tracking::mode::{TrackedReads, TrackingMode};
use super::context::Context;
use super::failure::{CommandResult, Failure, as_c_string, integer};
use crate::block::Namespace;
use crate::store::Env;

/// What CLIENT TRACKING was told.
#[derive(Debug, Default)]
struct TrackingOptions<'a> {
    redirect: Option<i64>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<&'a [u8]>,
}

impl<'a> TrackingOptions<'a> {
    fn parse<E: Env, N: Namespace>(ctx: &Context<'_, E, N>, request: Request<'a>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = request.iter_from(3);
        while let Some(option) = arguments.next() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("redirect") && arguments.len() > 0 {
                if options.redirect.is_some() {
                    return Err(Failure::text("ERR A client can only redirect to a single other client"));
                }
                let id = integer(arguments.next().unwrap_or_default())?;
                let is_there = u64::try_from(id).is_ok_and(|id| ctx.server.clients().by_id.contains_key(&id));
                if !is_there {
                    return Err(Failure::text("ERR The client ID you want redirect to does not exist"));
                }
                options.redirect = Some(id);
            } else if is("bcast") {
                options.broadcast = true;
            } else if is("optin") {
                options.opt_in = true;
            } else if is("optout") {
                options.opt_out = true;
            } else if is("noloop") {
                options.no_loop = true;
            } else if is("prefix") && arguments.len() > 0 {
                options.prefixes.extend(arguments.next());
            } else {
                return Err(Failure::SYNTAX);
            }
        }
        Ok(options)
    }

    /// The mode that they ask for, for a client that is in the mode `before`.
    fn mode(self, before: Option<&TrackingMode>) -> Result<TrackingMode, Failure> {
        if !self.broadcast && !self.prefixes.is_empty() {
            return Err(Failure::text("ERR PREFIX option requires BCAST mode to be enabled"));
        }
        if before.is_some_and(|before| before.broadcasts() != self.broadcast) {
            return Err(Failure::text(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling \
                 it with a different mode.",
            ));
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err(Failure::text("ERR OPTIN and OPTOUT are not compatible with BCAST"));
        }
        let reads = match (self.opt_in, self.opt_out) {
            (true, true) => {
                return Err(Failure::text("ERR You can't specify both OPTIN mode and OPTOUT mode"));
            }
            (true, false) => TrackedReads::OptIn,
            (false, true) => TrackedReads::OptOut,
            (false, false) => TrackedReads::All,
        };
        let reads_before = before.map(|before| before.reads).unwrap_or_default();
        if reads != reads_before && reads != TrackedReads::All && reads_before != TrackedReads::All {
            return Err(Failure::text(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling \
                 it with a different mode.",
            ));
        }
        let mut prefixes = before.map(|before| before.prefixes.clone()).unwrap_or_default();
        if self.broadcast {
            check_prefixes(&self.prefixes, &prefixes)?;
            prefixes.extend(self.prefixes.iter().map(|prefix| prefix.to_vec()));
            if self.prefixes.is_empty() && !prefixes.contains(&Vec::new()) {
                prefixes.push(Vec::new());
            }
        }
        if self.redirect.is_some() {
            return Err(Failure::text(
                "ERR REDIRECT is not supported: invalidations are pushed to the connection that tracks, in RESP3 (HELLO 3)",
            ));
        }
        Ok(TrackingMode {
            reads,
            no_loop: self.no_loop,
            prefixes,
            caching: before.is_some_and(|mode| mode.caching),
        })
    }
}

/// No prefix of a client may begin with another one: it would be told twice.
fn check_prefixes(new: &[&[u8]], present: &[Vec<u8>]) -> CommandResult {
    let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
    let refuse = |new: &[u8], which: &str, other: &[u8]| {
        let mut text = b"ERR Prefix '".to_vec();
        text.extend_from_slice(as_c_string(new));
        text.extend_from_slice(format!("' overlaps with {which} prefix '").as_bytes());
        text.extend_from_slice(as_c_string(other));
        text.extend_from_slice(b"'. Prefixes for a single client must not overlap.");
        Err(Failure::Reply(text.into()))
    };
    for (index, prefix) in new.iter().enumerate() {
        if let Some(other) = present.iter().find(|other| overlap(prefix, other)) {
            return refuse(prefix, "an existing", other);
        }
        if let Some(other) = new[index + 1..].iter().find(|other| overlap(prefix, other)) {
            return refuse(prefix, "another provided", other);
        }
    }
    Ok(())
}

pub(super) fn tracking<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let options = TrackingOptions::parse(ctx, request)?;
    let tracking = ctx.server.keyspace.tracking();
    if request[2].eq_ignore_ascii_case(b"on") {
        let mode = options.mode(lock(&ctx.client.tracking).as_ref())?;
        tracking.enable(ctx.client, mode);
    } else if request[2].eq_ignore_ascii_case(b"off") {
        tracking.disable(ctx.client);
    } else {
        return Err(Failure::SYNTAX);
    }
    ctx.replies.ok();
    Ok(())
}

pub(super) fn caching<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let mut mode = lock(&ctx.client.tracking);
    let Some(mode) = mode.as_mut() else {
        return Err(Failure::text(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    if request[2].eq_ignore_ascii_case(b"yes") {
        if mode.reads != TrackedReads::OptIn {
            return Err(Failure::text(
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            ));
        }
    } else if request[2].eq_ignore_ascii_case(b"no") {
        if mode.reads != TrackedReads::OptOut {
            return Err(Failure::text(
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            ));
        }
    } else {
        return Err(Failure::SYNTAX);
    }
    mode.caching = true;
    ctx.replies.ok();
    Ok(())
}

/// Called after a command that is not a subcommand of CLIENT: the exception of CLIENT CACHING held
/// for it and ends with it.
pub(super) fn end_exception(client: &Client) {
    if let Some(mode) = lock(&client.tracking).as_mut() {
        mode.caching = false;
    }
}

pub(super) fn info<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    let mode = lock(&ctx.client.tracking);
    let replies = &mut *ctx.replies;
    let mut flags = vec![if mode.is_some() { "on" } else { "off" }];
    if let Some(mode) = &*mode {
        if mode.broadcasts() {
            flags.push("bcast");
        }
        match (mode.reads, mode.caching) {
            (TrackedReads::All, _) => {}
            (TrackedReads::OptIn, false) => flags.push("optin"),
            (TrackedReads::OptIn, true) => flags.extend(["optin", "caching-yes"]),
            (TrackedReads::OptOut, false) => flags.push("optout"),
            (TrackedReads::OptOut, true) => flags.extend(["optout", "caching-no"]),
        }
        if mode.no_loop {
            flags.push("noloop");
        }
    }
    replies.map(3);
    replies.bulk(b"flags");
    replies.set(flags.len());
    flags.iter().for_each(|flag| replies.bulk(flag.as_bytes()));
    replies.bulk(b"redirect");
    replies.integer(if mode.is_some() { 0 } else { -1 });
    replies.bulk(b"prefixes");
    let mut prefixes = mode.as_ref().map(|mode| mode.prefixes.clone()).unwrap_or_default();
    prefixes.sort_unstable();
    replies.array(prefixes.len());
    prefixes.iter().for_each(|prefix| replies.bulk(prefix));
    Ok(())
}

/// CLIENT GETREDIR: there is no redirection.
pub(super) fn getredir<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.replies.integer(if ctx.client.tracks.load() { 0 } else { -1 });
    Ok(())
}
