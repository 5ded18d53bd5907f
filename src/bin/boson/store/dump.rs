//! `boson store dump`.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::ops::Bound;
use std::path::Path;
use std::thread;

use boson::block::NamespaceAddress;
use boson::store::Finding;
use boson::sync::mpsc;
use boson::{Error, ErrorKind, Result};

use super::text::{write_end, write_header, write_pair};
use super::{AnyDb, Progress};
use crate::options::Spelled;

/// So much text is handed over at once.
const CHUNK_BYTES: usize = 256 << 10;
/// So many such pieces wait for the writer.
const WAITING: usize = 4;

/// Dumps `trees` of `db`, all if there are none, without the keys that are `lost`.
pub(super) async fn run(
    db: &AnyDb,
    (address, trees): (&Spelled<NamespaceAddress>, &[String]),
    lost: &[Finding],
    output: Option<&Path>,
) -> Result<()> {
    let names = db.tree_names();
    if let Some(absent) = trees.iter().find(|tree| !names.contains(tree)) {
        return Err(Error::new(ErrorKind::NotFound, "dump store")
            .at(address.to_string())
            .because(format!("there is no tree {absent:?}; `boson store info` names those that there are")));
    }
    let place = output.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    let failed = |error: io::Error| Error::io(error, "write dump").at(place.clone());
    let out: Box<dyn Write + Send> = match output {
        Some(path) => Box::new(File::create_new(path).map_err(failed)?),
        None => Box::new(io::stdout()),
    };
    // Whatever takes the text may be slow: it has a thread of its own, and the store goes on.
    let (chunks, taken) = mpsc::channel(WAITING);
    let writer = thread::spawn(move || write_all(out, taken));
    let (progress, _shows) = Progress::start("dump");
    let names = if trees.is_empty() { &names[..] } else { trees };
    let dumped = dump(db, (names, lost), &progress, &chunks).await;
    drop(chunks);
    let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
    match written {
        // Whoever read it has enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => dumped,
    }
}

/// Writes what comes, to its end.
fn write_all(mut out: Box<dyn Write + Send>, mut chunks: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(chunk) = chunks.blocking_recv() {
        out.write_all(&chunk)?;
    }
    out.flush()
}

async fn dump(
    db: &AnyDb,
    (trees, lost): (&[String], &[Finding]),
    progress: &Progress,
    chunks: &mpsc::Sender<Vec<u8>>,
) -> Result<()> {
    let mut text = Vec::with_capacity(CHUNK_BYTES);
    for name in trees {
        write_header(&mut text, name);
        let tree = db.tree(name)?;
        for bounds in kept(name, lost) {
            let mut cursor = tree.range(bounds);
            while let Some((key, value)) = cursor.next_ref().await? {
                write_pair(&mut text, key, value);
                progress.add(1, key.len() + value.len());
                if text.len() >= CHUNK_BYTES
                    && chunks.send(mem::replace(&mut text, Vec::with_capacity(CHUNK_BYTES))).await.is_err()
                {
                    // The writer says why it went away.
                    return Ok(());
                }
            }
        }
        write_end(&mut text);
    }
    let _ = chunks.send(text).await;
    Ok(())
}

type Bounds<'f> = (Bound<&'f [u8]>, Bound<&'f [u8]>);

/// The ranges of a tree's keys that are not lost.
fn kept<'f>(tree: &str, lost: &'f [Finding]) -> Vec<Bounds<'f>> {
    let mut lost: Vec<&Finding> = lost.iter().filter(|lost| lost.tree.as_deref() == Some(tree)).collect();
    lost.sort_by_key(|lost| &lost.from);
    let (mut ranges, mut from) = (Vec::new(), Some(&[][..]));
    for lost in lost {
        let Some(begin) = from else { break };
        if begin < &lost.from[..] {
            ranges.push((Bound::Included(begin), Bound::Excluded(&lost.from[..])));
        }
        from = lost.to.as_deref().map(|to| to.max(begin));
    }
    ranges.extend(from.map(|begin| (Bound::Included(begin), Bound::Unbounded)));
    ranges
}
