//! `boson store`: looks at a store, checks it, copies it, and turns it into text and back.

mod copy;
mod dump;
mod load;
mod text;

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use boson::block::{AnyNamespace, NamespaceAddress, NamespaceConfig};
use boson::rt::{self, JoinHandle};
use boson::store::{Db, Options, RtEnv, Tree, VerifyReport, WriteOptions};
use boson::{Error, ErrorKind, Result};
use clap::{Args, Subcommand};

use crate::options::Spelled;
use crate::start;
use crate::units::{count, size};

type AnyDb = Db<RtEnv, AnyNamespace>;
type AnyTree = Tree<RtEnv, AnyNamespace>;

/// A transaction puts so many pairs, or so many bytes of them, at most; or one pair.
const BATCH_PAIRS: usize = 256;
const BATCH_BYTES: usize = 64 << 10;

/// How often progress is shown.
const EVERY: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(crate) struct StoreOptions {
    /// SPDK's configuration, its JSON, which makes the devices of `spdk:bdev/`.
    #[arg(long, global = true, value_name = "FILE")]
    spdk_config: Option<PathBuf>,
    /// Arguments for DPDK's environment, such as `-m 256 --no-huge`, for `spdk:`.
    #[arg(long, global = true, value_name = "ARGS", allow_hyphen_values = true)]
    eal: Option<String>,
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Show how large a store is, what it has in use, and its trees.
    Info {
        /// The store, such as `file:boson.data` or `nvme:BDF/NSID`.
        #[arg(value_name = "STORE")]
        store: Spelled<NamespaceAddress>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Read and check everything, and say what is damaged and which keys that costs. If anything
    /// is, the exit code is 1.
    Verify {
        #[arg(value_name = "STORE")]
        store: Spelled<NamespaceAddress>,
    },
    /// Write all keys and values as text, in the format of `db_dump` and `mdb_dump`.
    Dump {
        #[arg(value_name = "STORE")]
        store: Spelled<NamespaceAddress>,
        /// Only this tree; may be given several times.
        #[arg(long, value_name = "NAME")]
        tree: Vec<String>,
        /// Leave out the keys that damage has cost, in place of ending with an error there. They
        /// are found as `verify` does.
        #[arg(long)]
        salvage: bool,
        /// Write to this file, which must not exist, in place of standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Put the keys and values of such a text into a store, which is made if there is none. A key
    /// that is there gets the new value.
    Load {
        #[arg(value_name = "STORE")]
        store: Spelled<NamespaceAddress>,
        /// The text; without it standard input.
        #[arg(value_name = "FILE")]
        input: Option<PathBuf>,
        /// The tree for keys whose header names no database.
        #[arg(long, value_name = "NAME")]
        tree: Option<String>,
        /// Make a new store even if the namespace holds something else. What it held is lost.
        #[arg(long)]
        format: bool,
    },
    /// Copy a store to another namespace, where there is none or an empty one.
    Backup {
        #[arg(value_name = "STORE")]
        store: Spelled<NamespaceAddress>,
        #[arg(value_name = "BACKUP")]
        backup: Spelled<NamespaceAddress>,
        /// Make a new store even if the namespace holds something else. What it held is lost.
        #[arg(long)]
        format: bool,
    },
    /// Copy a backup to where the store is to be. It is the same as `backup`, the other way round.
    Restore {
        #[arg(value_name = "BACKUP")]
        backup: Spelled<NamespaceAddress>,
        #[arg(value_name = "STORE")]
        store: Spelled<NamespaceAddress>,
        /// Make a new store even if the namespace holds something else. What it held is lost.
        #[arg(long)]
        format: bool,
    },
}

pub(crate) fn run(options: &StoreOptions) -> Result<()> {
    let open = Opener(options);
    start::on_a_core(async {
        match &options.command {
            StoreCommand::Info { store, json } => info(&open.existing(store).await?, store, *json).await,
            StoreCommand::Verify { store } => verify(&open.existing(store).await?, store).await,
            StoreCommand::Dump { store, tree, salvage, output } => {
                let db = open.existing(store).await?;
                let lost = if *salvage { read_all(&db).await?.damage } else { Vec::new() };
                let dumped = dump::run(&db, (store, tree), &lost, output.as_deref()).await;
                dumped.and(db.close().await)
            }
            StoreCommand::Load { store, input, tree, format } => {
                // Before a store is made for it.
                let lines = load::lines_of(input.as_deref())?;
                let db = open.new_or_existing(store, *format).await?;
                let loaded = load::run(&db, lines, tree.clone()).await;
                loaded.and(db.close().await)
            }
            StoreCommand::Backup { store: from, backup: to, format }
            | StoreCommand::Restore { backup: from, store: to, format } => {
                let source = open.existing(from).await?;
                let target = open.new_or_existing(to, *format).await?;
                let copied = copy::run(&source, (&target, to)).await;
                copied.and(target.close().await).and(source.close().await)
            }
        }
    })
}

struct Opener<'o>(&'o StoreOptions);

impl Opener<'_> {
    /// Opens a store that is there.
    async fn existing(&self, address: &Spelled<NamespaceAddress>) -> Result<AnyDb> {
        if let NamespaceAddress::File { path, .. } = &address.value
            && !path.exists()
        {
            return Err(Error::new(ErrorKind::NotFound, "open store")
                .at(address.to_string())
                .because("there is no such file"));
        }
        self.open(address, Options::default().create(false)).await
    }

    async fn new_or_existing(&self, address: &Spelled<NamespaceAddress>, format: bool) -> Result<AnyDb> {
        self.open(address, Options::default().format(format)).await
    }

    async fn open(&self, address: &Spelled<NamespaceAddress>, options: Options) -> Result<AnyDb> {
        let mut config = NamespaceConfig::default().eal_arguments(self.0.eal.clone().unwrap_or_default());
        if let Some(path) = &self.0.spdk_config {
            config = config.spdk_config(path);
        }
        let namespace = AnyNamespace::open_with(&address.value, &config).await?;
        Db::open_on(RtEnv, namespace, options).await
    }
}

/// Keys and values that one transaction puts.
#[derive(Default)]
struct Batch {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.pairs.push((key, value));
    }

    fn is_full(&self) -> bool {
        self.pairs.len() >= BATCH_PAIRS || self.bytes >= BATCH_BYTES
    }

    async fn put(&self, tree: &AnyTree, progress: &Progress) -> Result<()> {
        let keys: Vec<_> = self.pairs.iter().map(|(key, _)| (tree, &key[..])).collect();
        let put = tree.db().transact(&keys, WriteOptions::NONE, |txn| {
            self.pairs.iter().enumerate().for_each(|(at, (_, value))| txn.put_at(at, value));
        });
        put.await?;
        progress.add(self.pairs.len() as u64, self.bytes);
        Ok(())
    }
}

/// What is done so far, shown on standard error now and then.
struct Progress {
    keys: Cell<u64>,
    bytes: Cell<u64>,
}

impl Progress {
    /// Shows it until the second is dropped.
    fn start(what: &'static str) -> (Rc<Self>, rt::CancelOnDrop<JoinHandle<()>>) {
        let progress = Rc::new(Self { keys: Cell::new(0), bytes: Cell::new(0) });
        let shown = Rc::clone(&progress);
        let task = rt::named("progress").spawn(async move {
            let begin = rt::now();
            loop {
                rt::sleep(EVERY).await;
                let seconds = rt::now().saturating_since(begin).as_secs();
                show(&format!("{what}: {seconds} s, {shown}"));
            }
        });
        (progress, task.cancel_on_drop())
    }

    fn add(&self, keys: u64, bytes: usize) {
        self.keys.set(self.keys.get() + keys);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} with their values", count(self.keys.get(), "key"), size(self.bytes.get()))
    }
}

/// Shows a line of progress. Nobody may read it any more; the work goes on.
fn show(line: &str) {
    let end = if std::io::stderr().is_terminal() { "   \r" } else { "\n" };
    let _ = write!(std::io::stderr(), "{line}{end}");
}

async fn info(db: &AnyDb, address: &Spelled<NamespaceAddress>, json: bool) -> Result<()> {
    let stats = db.stats();
    let mut trees = Vec::new();
    for name in db.tree_names() {
        trees.push((db.tree(&name)?.len(), name));
    }
    if json {
        let trees: serde_json::Map<_, _> =
            trees.into_iter().map(|(keys, name)| (name, keys.into())).collect();
        start::announce(&format!(
            "{:#}",
            serde_json::json!({
                "store": address.to_string(),
                "size_bytes": stats.size_bytes,
                "used_bytes": stats.used_bytes,
                "free_bytes": stats.free_bytes,
                "log_size_bytes": stats.log_size_bytes,
                "log_used_bytes": stats.log_used_bytes,
                "last_lsn": stats.last_lsn,
                "keys": stats.keys,
                "trees": trees,
            })
        ));
    } else {
        for (name, value) in [
            ("store", address.to_string()),
            ("size", size(stats.size_bytes)),
            ("in use", size(stats.used_bytes)),
            ("free", size(stats.free_bytes)),
            ("log", format!("{} of {} in use", size(stats.log_used_bytes), size(stats.log_size_bytes))),
            ("writes", format!("{}, the number of the newest", stats.last_lsn)),
            ("keys", format!("{} in {}", count(stats.keys, "key"), count(trees.len() as u64, "tree"))),
        ] {
            start::announce(&format!("{name:<8}{value}"));
        }
        for (keys, name) in trees {
            start::announce(&format!("  {keys:>12} keys  {}", name.escape_debug()));
        }
    }
    db.close().await
}

/// Reads and checks everything in `db`, and shows how far that is.
async fn read_all(db: &AnyDb) -> Result<VerifyReport> {
    let begin = rt::now();
    let shown_at = Cell::new(begin);
    let progress = |so_far: &VerifyReport| {
        if rt::now().saturating_since(shown_at.get()) >= EVERY {
            shown_at.set(rt::now());
            let seconds = shown_at.get().saturating_since(begin).as_secs();
            show(&format!("verify: {seconds} s, {} pages, {} keys", so_far.pages, so_far.keys));
        }
    };
    db.verify_with(progress).await
}

async fn verify(db: &AnyDb, address: &Spelled<NamespaceAddress>) -> Result<()> {
    let report = read_all(db).await?;
    for finding in &report.damage {
        start::announce(&format!("damaged: {finding}"));
    }
    start::announce(&format!(
        "{}, {} and {} read; damaged: {}; lost: {}",
        count(report.pages, "page"),
        count(report.keys, "key"),
        count(report.values, "long value"),
        report.damaged,
        count(report.lost_pages, "page")
    ));
    let closed = db.close().await;
    if report.is_clean() {
        return closed;
    }
    Err(Error::new(ErrorKind::Corrupt, "verify store").at(address.to_string()).because(
        "it is damaged; all keys that are not named above can be read: `boson store dump --salvage` writes them",
    ))
}
