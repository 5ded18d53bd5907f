//! A threaded server as anyone would write it: a thread for each connection, a table behind a lock.
//! It knows neither cores nor coroutines; what `super` imports decides.
//!
//! One command per line: `SET KEY VALUE`, `GET KEY`, `COUNT` (connections so far), `QUIT`.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use super::net::{TcpListener, TcpStream};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Arc, RwLock};
use super::thread;

#[derive(Default)]
struct Table {
    values: RwLock<HashMap<String, String>>,
    connections: AtomicU64,
}

/// How long to wait before accepting again when the process has no descriptor left: one comes back
/// when a connection ends.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Serves forever: what goes wrong with one connection, or before it is one, is no reason to leave
/// the others.
pub(crate) fn serve(listener: &TcpListener) {
    let table = Arc::new(Table::default());
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                eprintln!("accepting failed, trying again: {error}");
                thread::sleep(RETRY_AFTER);
                continue;
            }
        };
        let table = Arc::clone(&table);
        let number = table.connections.fetch_add(1, Ordering::Relaxed);
        let started = thread::Builder::new().name(format!("connection {number}")).spawn(move || {
            if let Err(error) = talk(&stream, &table) {
                eprintln!("{:?}: {error}", thread::current().name());
            }
        });
        if let Err(error) = started {
            eprintln!("connection {number} is closed: {error}");
        }
    }
}

fn talk(stream: &TcpStream, table: &Table) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let reply = match (words.next(), words.next(), words.next()) {
            (Some("SET"), Some(key), Some(value)) => {
                let mut values = table.values.write().expect("no writer panics");
                values.insert(key.to_owned(), value.to_owned());
                "OK\n".to_owned()
            }
            (Some("GET"), Some(key), None) => {
                let values = table.values.read().expect("no writer panics");
                format!("{}\n", values.get(key).map_or("-", String::as_str))
            }
            (Some("COUNT"), None, None) => format!("{}\n", table.connections.load(Ordering::Relaxed)),
            (Some("QUIT"), None, None) => return Ok(()),
            _ => "ERROR: SET KEY VALUE, GET KEY, COUNT or QUIT\n".to_owned(),
        };
        (&mut &*stream).write_all(reply.as_bytes())?;
    }
}
