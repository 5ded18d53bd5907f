//! CONFIG.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use super::super::super::config::Limits;
use super::super::super::glob;
use super::super::super::keyspace::DATABASES;
use super::super::super::number::{parse_digits, parse_i64};
use super::super::super::request::Request;
use super::super::super::server::Server;
use super::super::context::Context;
use super::super::failure::{CommandResult, Failure};
use crate::block::Namespace;
use crate::store::Env;

/// What CONFIG calls a parameter.
#[derive(Clone, Copy, Debug)]
enum Parameter {
    AppendFsync,
    AppendOnly,
    OutputBufferLimit,
    QueryBufferLimit,
    Databases,
    Hz,
    IoThreads,
    MaxClients,
    MaxMemory,
    MaxMemoryPolicy,
    Port,
    MaxBulkLen,
    RequirePass,
    Save,
    Timeout,
    TrackingMaxKeys,
}

/// The parameters in the order of their names.
const PARAMETERS: [(&str, Parameter); 16] = [
    ("appendfsync", Parameter::AppendFsync),
    ("appendonly", Parameter::AppendOnly),
    ("client-output-buffer-limit", Parameter::OutputBufferLimit),
    ("client-query-buffer-limit", Parameter::QueryBufferLimit),
    ("databases", Parameter::Databases),
    ("hz", Parameter::Hz),
    ("io-threads", Parameter::IoThreads),
    ("maxclients", Parameter::MaxClients),
    ("maxmemory", Parameter::MaxMemory),
    ("maxmemory-policy", Parameter::MaxMemoryPolicy),
    ("port", Parameter::Port),
    ("proto-max-bulk-len", Parameter::MaxBulkLen),
    ("requirepass", Parameter::RequirePass),
    ("save", Parameter::Save),
    ("timeout", Parameter::Timeout),
    ("tracking-table-max-keys", Parameter::TrackingMaxKeys),
];

/// The least `proto-max-bulk-len` and `client-query-buffer-limit`, in bytes.
const MIN_BYTES: usize = 1 << 20;

fn value<E: Env, N: Namespace>(server: &Server<E, N>, parameter: Parameter) -> Vec<u8> {
    let limits = server.limits();
    match parameter {
        // The log of the store is what an append-only file is to Redis.
        Parameter::AppendOnly => b"yes".to_vec(),
        Parameter::AppendFsync => server.shared.appendfsync.as_bytes().to_vec(),
        Parameter::OutputBufferLimit => describe_output_limit(&limits).into_bytes(),
        Parameter::QueryBufferLimit => limits.input_bytes.to_string().into_bytes(),
        Parameter::Databases => DATABASES.to_string().into_bytes(),
        Parameter::Hz => b"10".to_vec(),
        Parameter::IoThreads => b"1".to_vec(),
        Parameter::MaxClients => limits.max_clients.to_string().into_bytes(),
        Parameter::MaxMemory => b"0".to_vec(),
        Parameter::MaxMemoryPolicy => b"noeviction".to_vec(),
        Parameter::Port => server.shared.port.to_string().into_bytes(),
        Parameter::MaxBulkLen => limits.bulk_bytes.to_string().into_bytes(),
        Parameter::RequirePass => server.shared.password().unwrap_or_default(),
        Parameter::Timeout => limits.idle.unwrap_or_default().as_secs().to_string().into_bytes(),
        Parameter::TrackingMaxKeys => server.keyspace.tracking().max_keys().to_string().into_bytes(),
        Parameter::Save => Vec::new(),
    }
}

pub(in super::super) fn config_get<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    // A parameter that the client names is shown as the client wrote it, one that a pattern matches
    // under its own name.
    let mut found: Vec<(&[u8], Parameter)> = Vec::new();
    let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
    for asked in request.iter_from(2) {
        let is_pattern = asked.iter().any(|byte| matches!(byte, b'[' | b'*' | b'?'));
        let lower = asked.to_ascii_lowercase();
        for (name, parameter) in PARAMETERS.iter().filter(|(name, _)| glob::matches(&lower, name.as_bytes()))
        {
            let shown = if is_pattern { name.as_bytes() } else { asked };
            if seen.insert(shown) {
                found.push((shown, *parameter));
            }
        }
    }
    ctx.replies.map(found.len());
    for (shown, parameter) in found {
        ctx.replies.bulk(shown);
        ctx.replies.bulk(&value(ctx.server, parameter));
    }
    Ok(())
}

/// Settings as CONFIG SET changes them: all of them, or none if one is refused.
struct Settings {
    limits: Limits,
    password: Option<Vec<u8>>,
    tracked_keys: usize,
}

impl Settings {
    /// Sets `parameter` to `value`, or returns false if it cannot be changed.
    ///
    /// # Errors
    ///
    /// What is wrong with the value.
    fn set(&mut self, parameter: Parameter, value: &[u8]) -> Result<bool, &'static str> {
        match parameter {
            Parameter::OutputBufferLimit => set_output_limit(&mut self.limits, value)?,
            Parameter::QueryBufferLimit => self.limits.input_bytes = parse_bytes(value)?,
            Parameter::MaxBulkLen => self.limits.bulk_bytes = parse_bytes(value)?,
            Parameter::MaxClients => self.limits.max_clients = parse_count(value)?.max(1),
            Parameter::Timeout => {
                let seconds = u64::try_from(parse_count(value)?).unwrap_or(u64::MAX);
                self.limits.idle = Some(Duration::from_secs(seconds)).filter(|idle| !idle.is_zero());
            }
            Parameter::TrackingMaxKeys => self.tracked_keys = parse_count(value)?,
            Parameter::RequirePass => {
                self.password = Some(value.to_vec()).filter(|password| !password.is_empty())
            }
            Parameter::AppendFsync
            | Parameter::AppendOnly
            | Parameter::Databases
            | Parameter::Hz
            | Parameter::IoThreads
            | Parameter::MaxMemory
            | Parameter::MaxMemoryPolicy
            | Parameter::Port
            | Parameter::Save => return Ok(false),
        }
        Ok(true)
    }
}

/// The limit on waiting replies in the words of Redis: for each class of clients how many bytes end
/// the connection at once (never here), how many end it after some time, and after how many
/// seconds. All clients are normal ones here.
fn describe_output_limit(limits: &Limits) -> String {
    let (bytes, seconds) = match limits.output_bytes {
        usize::MAX => (0, 0),
        bytes => (bytes, limits.write.as_secs()),
    };
    format!("normal 0 {bytes} {seconds} slave 0 0 0 pubsub 0 0 0")
}

/// For normal clients the smaller of the two limits holds; 0 means no limit. Without seconds the
/// present time stays. Limits of the other classes are accepted and mean nothing: there are no such
/// clients.
fn set_output_limit(limits: &mut Limits, value: &[u8]) -> Result<(), &'static str> {
    let words: Vec<&[u8]> =
        value.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty()).collect();
    let (classes, rest) = words.as_chunks::<4>();
    if !rest.is_empty() {
        return Err("Wrong number of arguments in buffer limit configuration.");
    }
    for [class, hard, soft, seconds] in classes {
        const REFUSED: &str = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
        let is = |name: &str| class.eq_ignore_ascii_case(name.as_bytes());
        if !["normal", "slave", "replica", "pubsub"].into_iter().any(is) {
            return Err("Invalid client class specified in buffer limit configuration.");
        }
        let (hard, soft) = (parse_memory(hard).ok_or(REFUSED)?, parse_memory(soft).ok_or(REFUSED)?);
        let seconds =
            parse_digits(seconds).filter(|&seconds| i32::try_from(seconds).is_ok()).ok_or(REFUSED)?;
        if is("normal") {
            limits.output_bytes =
                [hard, soft].into_iter().filter(|&bytes| bytes > 0).min().unwrap_or(usize::MAX);
            if soft > 0 && seconds > 0 {
                limits.write = Duration::from_secs(seconds);
            }
        }
    }
    Ok(())
}

fn parse_count(text: &[u8]) -> Result<usize, &'static str> {
    let value = parse_i64(text).ok_or("argument couldn't be parsed into an integer")?;
    i32::try_from(value)
        .ok()
        .and_then(|value| usize::try_from(value).ok())
        .ok_or("argument must be between 0 and 2147483647 inclusive")
}

fn parse_bytes(text: &[u8]) -> Result<usize, &'static str> {
    let bytes = parse_memory(text).ok_or("argument must be a memory value")?;
    if bytes < MIN_BYTES { Err("argument must be at least 1048576 bytes") } else { Ok(bytes) }
}

/// Parses a size with an optional unit: `k` and `kb` for 1000 and 1024 bytes, and so on.
fn parse_memory(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    let bytes = parse_digits(number)?.checked_mul(scale)?;
    usize::try_from(bytes).ok()
}

pub(in super::super) fn config_set<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    if !request.len().is_multiple_of(2) {
        return Err(Failure::SYNTAX);
    }
    let refuse = |name: &[u8], reason: &str| {
        let name = String::from_utf8_lossy(name);
        let text = format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}");
        Failure::Reply(Cow::Owned(text.into_bytes()))
    };
    let names: Vec<&[u8]> = request.iter_from(2).step_by(2).collect();
    let find = |name: &[u8]| PARAMETERS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    for name in &names {
        if find(name).is_none() {
            let before = "ERR Unknown option or number of arguments for CONFIG SET - '";
            return Err(Failure::quoting(before, name, "'"));
        }
    }
    let mut settings = Settings {
        limits: ctx.server.limits(),
        password: ctx.server.shared.password(),
        tracked_keys: ctx.server.keyspace.tracking().max_keys(),
    };
    for (index, name) in names.iter().enumerate() {
        let Some((known, parameter)) = find(name) else { continue };
        if names[..index].iter().any(|earlier| earlier.eq_ignore_ascii_case(name)) {
            return Err(refuse(name, "duplicate parameter"));
        }
        let set = settings.set(*parameter, &request[3 + index * 2]);
        if !set.map_err(|reason| refuse(known.as_bytes(), reason))? {
            return Err(refuse(name, "can't set immutable config"));
        }
    }
    ctx.server.shared.set_limits(settings.limits);
    ctx.server.keyspace.tracking().set_max_keys(settings.tracked_keys);
    ctx.server.shared.set_password(settings.password);
    ctx.server.wake_all();
    ctx.replies.ok();
    Ok(())
}

pub(in super::super) fn config_resetstat<E: Env, N: Namespace>(ctx: &mut Context<'_, E, N>) -> CommandResult {
    ctx.server.shared.counts.reset();
    ctx.server.keyspace.tracking().reset_dropped_clients();
    ctx.replies.ok();
    Ok(())
}

pub(in super::super) fn config_rewrite() -> CommandResult {
    Err(Failure::text("ERR The server is running without a config file"))
}
