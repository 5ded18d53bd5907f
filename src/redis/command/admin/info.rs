//! INFO.

use std::fmt::Write;

use super::super::super::keyspace::DATABASES;
use super::super::super::request::Request;
use super::super::super::server::{REDIS_VERSION, Server};
use super::super::context::Context;
use super::super::failure::CommandResult;
use crate::block::Namespace;
use crate::store::Env;

/// A part of INFO.
#[derive(Clone, Copy, Debug)]
enum Section {
    Server,
    Clients,
    Memory,
    Persistence,
    Stats,
    Replication,
    Cluster,
    Keyspace,
}

/// The sections in the order in which INFO shows them.
const SECTIONS: [(&str, Section); 8] = [
    ("server", Section::Server),
    ("clients", Section::Clients),
    ("memory", Section::Memory),
    ("persistence", Section::Persistence),
    ("stats", Section::Stats),
    ("replication", Section::Replication),
    ("cluster", Section::Cluster),
    ("keyspace", Section::Keyspace),
];

pub(in super::super) fn info<E: Env, N: Namespace>(
    ctx: &mut Context<'_, E, N>,
    request: Request<'_>,
) -> CommandResult {
    let all = request.len() == 1
        || request.iter_from(1).any(|name| {
            ["all", "default", "everything"].iter().any(|all| name.eq_ignore_ascii_case(all.as_bytes()))
        });
    let wanted =
        |section: &str| all || request.iter_from(1).any(|name| name.eq_ignore_ascii_case(section.as_bytes()));
    let mut text = String::new();
    for (name, section) in SECTIONS.into_iter().filter(|(name, _)| wanted(name)) {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        // Writing to a String cannot fail.
        let _ = write_section(&mut text, ctx.server, name, section);
    }
    ctx.replies.verbatim(text.as_bytes());
    Ok(())
}

fn write_section<E: Env, N: Namespace>(
    text: &mut String,
    server: &Server<E, N>,
    name: &str,
    section: Section,
) -> std::fmt::Result {
    let (first, rest) = name.split_at(1);
    write!(text, "# {}{rest}\r\n", first.to_ascii_uppercase())?;
    match section {
        Section::Server => write_server(text, server),
        Section::Clients => write!(
            text,
            "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\ntracking_clients:{}\r\n",
            server.client_count(),
            server.limits().max_clients,
            server.keyspace.tracking().client_count(),
        ),
        Section::Memory => write_memory(text, server),
        Section::Persistence => text.write_str(
            "loading:0\r\nrdb_changes_since_last_save:0\r\nrdb_bgsave_in_progress:0\r\nrdb_last_bgsave_status:ok\r\n\
             aof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_last_write_status:ok\r\n",
        ),
        Section::Stats => write_stats(text, server),
        Section::Replication => write!(
            text,
            "role:master\r\nconnected_slaves:0\r\nmaster_replid:{}\r\nmaster_repl_offset:0\r\n",
            server.shared.run_id,
        ),
        Section::Cluster => text.write_str("cluster_enabled:0\r\n"),
        Section::Keyspace => write_keyspace(text, server),
    }
}

fn write_server<E: Env, N: Namespace>(text: &mut String, server: &Server<E, N>) -> std::fmt::Result {
    let uptime = server.now().saturating_since(server.shared.started_at).as_secs();
    write!(
        text,
        "redis_version:{REDIS_VERSION}\r\nboson_version:{}\r\nredis_mode:standalone\r\nos:{} {}\r\narch_bits:{}\r\n\
         process_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nserver_time_usec:{}\r\nuptime_in_seconds:{uptime}\r\n\
         uptime_in_days:{}\r\nhz:10\r\nconfigured_hz:10\r\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        usize::BITS,
        server.shared.process_id,
        server.shared.run_id,
        server.shared.port,
        server.unix_time().as_micros(),
        uptime / 86_400,
    )
}

/// The memory of the store's pages and of the connections' buffers: what grows with use.
fn write_memory<E: Env, N: Namespace>(text: &mut String, server: &Server<E, N>) -> std::fmt::Result {
    let clients = server.clients().by_id.clone();
    let buffers: usize = clients.values().map(|client| client.buffers_bytes()).sum();
    let pages = server.keyspace.db().stats().resident_bytes;
    write!(
        text,
        "used_memory:{}\r\nused_memory_dataset:{pages}\r\nmem_clients_normal:{buffers}\r\nmaxmemory:0\r\n\
         maxmemory_policy:noeviction\r\n",
        buffers + pages,
    )
}

fn write_stats<E: Env, N: Namespace>(text: &mut String, server: &Server<E, N>) -> std::fmt::Result {
    let stats = server.stats();
    let tracking = server.keyspace.tracking();
    let [tracked_keys, tracked_items, prefixes] =
        tracking.totals().map(|total| u64::try_from(total).unwrap_or(u64::MAX));
    for (name, value) in [
        ("total_connections_received", stats.connections),
        ("total_commands_processed", stats.commands),
        ("total_net_input_bytes", stats.input_bytes),
        ("total_net_output_bytes", stats.output_bytes),
        ("rejected_connections", stats.rejected_connections),
        ("client_output_buffer_limit_disconnections", stats.dropped_clients + tracking.dropped_clients()),
        ("expired_keys", stats.expired_keys),
        ("evicted_keys", 0),
        ("keyspace_hits", stats.keyspace_hits),
        ("keyspace_misses", stats.keyspace_misses),
        ("tracking_total_keys", tracked_keys),
        ("tracking_total_items", tracked_items),
        ("tracking_total_prefixes", prefixes),
        ("total_error_replies", stats.errors),
    ] {
        write!(text, "{name}:{value}\r\n")?;
    }
    Ok(())
}

/// One line per database that holds keys. `expires` is what the last complete pass of active expiry
/// found.
fn write_keyspace<E: Env, N: Namespace>(text: &mut String, server: &Server<E, N>) -> std::fmt::Result {
    for database in 0..DATABASES {
        let keys = server.keyspace.len(database);
        if keys > 0 {
            let volatile = server.keyspace.volatile(database).counted();
            write!(text, "db{database}:keys={keys},expires={volatile},avg_ttl=0\r\n")?;
        }
    }
    Ok(())
}
