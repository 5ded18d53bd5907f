//! The options of `boson bench store`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boson::block::{NamespaceAddress, NamespaceConfig, parse_size};
use boson::store::Durability;
use boson::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};

use super::data::{MIN_VALUE_BYTES, Values};
use super::engine::{self, Place, Setup};
use super::worker::Work;
use super::workload::{Distribution, Plan, Workload};
use crate::options::{CoreList, Spelled};

/// The longest value that is written, in bytes: each task has some of them in memory.
const MAX_VALUE_BYTES: u64 = 16 << 20;

#[derive(Args, Debug)]
pub(crate) struct StoreOptions {
    /// The namespace: `file:PATH?size=4G`, `blk:/dev/NAME`, `nvme:BDF/NSID`, `mem:SIZE` and so on,
    /// as for `boson serve --store`.
    #[arg(value_name = "URL")]
    pub(super) namespace: Spelled<NamespaceAddress>,
    /// What to do: `a` to `f` (YCSB), `fill-sequential`, `fill-random`, `overwrite`, `read-random`,
    /// `read-missing`, `read-while-writing`, `seek-random`, `scan`, `delete-random`.
    #[arg(long, value_name = "NAME", default_value = "a")]
    pub(super) workload: Workload,
    /// How records are drawn: `zipfian` (0.99, scrambled), `uniform` or `latest`. Without it as
    /// the workload has it.
    #[arg(long, value_name = "NAME")]
    pub(super) distribution: Option<Distribution>,
    /// How many records there are: 1,000,000, or 10,000 with --stress, if nothing is said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    records: Option<u64>,
    /// How many operations to do. What fills or deletes ends with the records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) operations: Option<u64>,
    /// How long to do that, in seconds; 10 if there are no --operations.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) time: Option<u64>,
    /// The size of each value. Keys have 16 bytes.
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = value_bytes)]
    pub(super) value_bytes: u64,
    /// How many tasks have an operation under way, on all cores together.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(super) tasks: u64,
    /// Run on these CPUs, one core each, such as `0,1`; the load beforehand is the first one's.
    /// Without it one core that is not pinned.
    #[arg(long, value_name = "LIST")]
    pub(super) cores: Option<CoreList>,
    /// How many records each write of a fill or of `overwrite` has.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(super) batch: u64,
    /// When a write is acknowledged: `none`, `interval` (a second), a time such as `100ms`, `sync`.
    #[arg(long, value_name = "WHEN", default_value = "interval", value_parser = engine::parse_durability)]
    pub(super) durability: Durability,
    /// How much the store keeps in memory.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    pub(super) cache: u64,
    /// Whether to put the records into the store first, where the workload does not fill it.
    /// Without, they are there from an earlier run with the same --records, --value-bytes and
    /// --seed.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(super) load: Switch,
    /// Read all records once before the measurement, so that what fits is in the cache.
    #[arg(long)]
    pub(super) warm: bool,
    /// Take one checkpoint after the other, with half a second between them, and tell how long
    /// operations took meanwhile.
    #[arg(long)]
    pub(super) checkpoints: bool,
    /// Instead of a workload: do everything to the same keys in several tasks, hold what is found
    /// against a model in memory, and at the end, and after reopening, every key.
    #[arg(long)]
    pub(super) stress: bool,
    /// Stress in a child that is killed N times at random moments (10 if nothing is said); what was
    /// acknowledged as durable has to be there.
    #[arg(long, value_name = "N", requires = "stress", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    pub(super) crash: Option<u64>,
    /// Be that child, and draw by this number.
    #[arg(long, hide = true, requires = "stress")]
    pub(super) child: Option<u64>,
    /// A canary: claim as durable what is acknowledged, whatever --durability says.
    #[arg(long, hide = true)]
    pub(super) claim_durable: bool,
    /// How the run ends.
    #[arg(long, value_enum, default_value_t = End::Close)]
    pub(super) end: End,
    /// Write even if the namespace holds something. What it held is lost.
    #[arg(long)]
    pub(super) format: bool,
    /// SPDK's configuration, its JSON, which makes the devices of `spdk:bdev/`.
    #[arg(long, value_name = "FILE")]
    pub(super) spdk_config: Option<PathBuf>,
    /// Arguments for DPDK's environment, such as `-m 256 --no-huge`, for `spdk:`.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(super) eal: Option<String>,
    /// Draws records and makes values, the same for the same number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum End {
    /// The store is closed.
    Close,
    /// The process ends as if it was killed, for a measurement of the next opening.
    Abort,
}

fn size(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).ok_or_else(|| format!("`{text}` is no size; write one such as 4K or 2G"))
}

fn value_bytes(text: &str) -> std::result::Result<u64, String> {
    match size(text)? {
        bytes if bytes >= MIN_VALUE_BYTES as u64 && bytes <= MAX_VALUE_BYTES => Ok(bytes),
        _ => Err(format!("values have {MIN_VALUE_BYTES} to {MAX_VALUE_BYTES} bytes")),
    }
}

impl StoreOptions {
    pub(super) fn setup(&self) -> Setup {
        Setup { durability: self.durability, cache_bytes: usize::try_from(self.cache).unwrap_or(usize::MAX) }
    }

    pub(super) fn values(&self) -> Values {
        Values { bytes: usize::try_from(self.value_bytes).unwrap_or(usize::MAX), seed: self.seed }
    }

    pub(super) fn records(&self) -> u64 {
        self.records.unwrap_or(if self.stress { 10_000 } else { 1_000_000 })
    }

    /// The arguments of a child that stresses the same store, with the same values, drawing by
    /// `number`.
    pub(super) fn arguments_of_a_child(&self, number: u64) -> Vec<String> {
        let numbers = [
            ("records", self.records()),
            ("value-bytes", self.value_bytes),
            ("tasks", self.tasks),
            ("cache", self.cache),
            ("seed", self.seed),
            ("child", number),
        ];
        let mut all: Vec<String> = ["--log", "error", "bench", "store", "--stress"].map(str::to_owned).into();
        all.extend(numbers.map(|(name, number)| format!("--{name}={number}")));
        all.push(format!("--durability={}", describe(self.durability)));
        all.extend(self.claim_durable.then(|| "--claim-durable".to_owned()));
        all.extend(self.eal.iter().map(|eal| format!("--eal={eal}")));
        all.extend(self.spdk_config.iter().map(|path| format!("--spdk-config={}", path.display())));
        all.push(self.namespace.to_string());
        all
    }

    pub(super) fn plan(&self) -> Plan {
        Plan {
            workload: self.workload,
            distribution: self.distribution.unwrap_or(self.workload.distribution()),
            records: self.records(),
            operations: self.operations,
            batch: self.batch,
            tasks: self.tasks,
            seed: self.seed,
        }
    }

    /// How long the load runs at most.
    pub(super) fn time(&self) -> Option<Duration> {
        let is_bounded = self.operations.is_some() || self.workload.is_one_pass();
        self.time.or((!is_bounded).then_some(10)).map(Duration::from_secs)
    }

    /// `plan`, to be done for `time` if there is one.
    pub(super) fn work(&self, plan: Plan, time: Option<Duration>) -> Work {
        Work { plan, values: self.values(), time, progress: Arc::default() }
    }

    pub(super) async fn place(&self) -> Result<Place> {
        let mut config = NamespaceConfig::default().eal_arguments(self.eal.clone().unwrap_or_default());
        if let Some(path) = &self.spdk_config {
            config = config.spdk_config(path);
        }
        Place::open(&self.namespace.value, &config).await
    }

    pub(super) fn error(&self, kind: ErrorKind, why: impl Into<String>) -> Error {
        Error::new(kind, "bench store").at(self.namespace.to_string()).because(why.into())
    }
}

/// As it is written on the command line.
pub(super) fn describe(durability: Durability) -> String {
    match durability {
        Durability::None => "none".to_owned(),
        Durability::Sync => "sync".to_owned(),
        Durability::Interval(time) => format!("{}ms", time.as_millis()),
    }
}
