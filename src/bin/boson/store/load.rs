//! `boson store load`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::thread;

use boson::sync::mpsc;
use boson::{Error, ErrorKind, Result};

use super::text::{END_OF_DATA, Item, MAX_LINE_BYTES, Parser};
use super::{AnyDb, Batch, Progress, show};
use crate::start;

/// So many such transactions wait for the store.
const WAITING: usize = 4;

/// Where a dump is read from.
pub(super) struct Lines {
    place: String,
    input: Box<dyn Read + Send>,
}

/// What one transaction puts into a tree.
#[derive(Default)]
struct Part {
    tree: String,
    batch: Batch,
    /// The number of the last line.
    line: u64,
}

impl Part {
    fn of(tree: String) -> Self {
        Self { tree, ..Self::default() }
    }
}

/// The dump in the file `input`, or on standard input.
pub(super) fn lines_of(input: Option<&Path>) -> Result<Lines> {
    Ok(match input {
        None => Lines { place: "standard input".to_owned(), input: Box::new(io::stdin()) },
        Some(path) => {
            let place = path.display().to_string();
            match File::open(path) {
                Ok(file) => Lines { place, input: Box::new(file) },
                Err(error) => return Err(Error::io(error, "read dump").at(place)),
            }
        }
    })
}

/// Puts all of `lines` into `db`.
pub(super) async fn run(db: &AnyDb, lines: Lines, default_tree: Option<String>) -> Result<()> {
    let Lines { place, input } = lines;
    // Whatever gives the text may be slow: it has a thread of its own, and the store goes on.
    let (parts, mut taken) = mpsc::channel(WAITING);
    let reader = thread::spawn(move || read_all(input, Parser::new(default_tree), &parts));
    let (progress, _shows) = Progress::start("load");
    let mut loaded = Ok(());
    let mut line = 0;
    while let Some(part) = taken.recv().await {
        loaded = put(db, &part, &progress).await;
        if loaded.is_err() {
            break;
        }
        line = part.line;
    }
    drop(taken);
    let read = reader.join().unwrap_or_else(|_| Err("the reader panicked".to_owned()));
    let flushed = db.flush().await;
    if loaded.is_err() || read.is_err() {
        show(&format!(
            "load: {progress}, up to line {line}, are in the store and stay; to load all of it once more does no harm"
        ));
    }
    loaded?;
    flushed?;
    read.map_err(|why| Error::new(ErrorKind::InvalidInput, "load store").at(place).because(why))?;
    start::announce(&format!("{progress} loaded"));
    Ok(())
}

async fn put(db: &AnyDb, part: &Part, progress: &Progress) -> Result<()> {
    if part.batch.pairs.is_empty() {
        return Ok(());
    }
    part.batch.put(&db.tree(&part.tree)?, progress).await
}

/// Reads, parses and hands over, to the end.
fn read_all(
    input: Box<dyn Read + Send>,
    mut parser: Parser,
    parts: &mpsc::Sender<Part>,
) -> std::result::Result<(), String> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let mut part = Part::default();
    for number in 1.. {
        line.clear();
        let len = (&mut input).take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line);
        let item = match len {
            Ok(0) => {
                let _ = parts.blocking_send(part);
                return parser.end();
            }
            Ok(_) if line.pop_if(|last| *last == b'\n').is_some() || line == END_OF_DATA.as_bytes() => {
                parser.line(&line)
            }
            Ok(_) if line.len() <= MAX_LINE_BYTES => Err("it is cut off in the middle".to_owned()),
            Ok(_) => Err(format!("a line of more than {MAX_LINE_BYTES} bytes")),
            Err(error) => Err(error.to_string()),
        };
        let full = match item {
            Ok(None) => None,
            Ok(Some(Item::Tree(tree))) => Some(std::mem::replace(&mut part, Part::of(tree))),
            Ok(Some(Item::Pair(key, value))) => {
                part.batch.push(key, value);
                part.line = number;
                let next = part.batch.is_full().then(|| Part::of(part.tree.clone()));
                next.map(|next| std::mem::replace(&mut part, next))
            }
            Err(why) => {
                // What came before it is for the store all the same.
                let _ = parts.blocking_send(part);
                return Err(format!("line {number}: {why}"));
            }
        };
        if let Some(full) = full
            && parts.blocking_send(full).is_err()
        {
            // The store refuses, and says why.
            return Ok(());
        }
    }
    Ok(())
}
