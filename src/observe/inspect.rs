//! Looking inside a running process: what its cores count, how long things take, and what every
//! task waits for.
//!
//! A program starts an [`Inspector`], which answers on a Unix socket; `boson top`, or any program
//! through a [`Client`], asks.
//!
//! ```
//! use boson::observe::inspect::{Client, Inspector};
//! use boson::rt::{CoreConfig, CoreThread};
//!
//! # fn main() -> boson::Result<()> {
//! # let path = std::env::temp_dir().join(format!("boson-doc-{}.sock", std::process::id()));
//! let core = CoreThread::start("worker", &CoreConfig::default())?;
//! let _inspector = Inspector::start(&path, "my program", vec![core.handle().clone()])?;
//!
//! // In any process of the same user:
//! let snapshot = Client::new(&path).snapshot()?;
//! assert_eq!(snapshot.process.program, "my program");
//! assert_eq!(snapshot.cores.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! The inspector has a thread of its own, which sleeps until somebody asks: it answers also when
//! every core is stuck, and then says so. What it asks a core takes some microseconds of that
//! core's time.
//!
//! # Protocol
//!
//! One request per connection, one line; an answer of lines. A line is a kind and fields
//! `name=value`, separated by single spaces. In values every byte but the graphic ones of ASCII,
//! and `%` itself, is written `%XX`. Fields and kinds that are not known are to be skipped, so that
//! both may be added without a new version.
//!
//! ```text
//! > boson-inspect/1 stats
//! < boson-inspect/1 ok pid=4711 program=boson%20serve release=0.1.0
//! < core core=0 now_ns=81273645 cpu=1 reactor=epoll ring_features= turns=512 polls=1044 …
//! < poller core=0 name=stack budget=64 events=7136 exhausted=12
//! < namespace core=0 name=mem:67108864 queue_depth=3 max_queue_depth=64 retries=0 copied_bytes=0
//! < operation core=0 namespace=mem:67108864 name=read completed=812 failed=0 bytes=3325952 …
//! < silent core=1 task=greedy created_at=src/main.rs:12:9
//! < end
//! ```
//!
//! | request | lines of the answer |
//! |---|---|
//! | `stats` | `core` for each core with its counters: the fields of [`CoreStats`](crate::observe::CoreStats), times in nanoseconds, `reactor` by its [name](crate::rt::reactor::ReactorKind::name); in `ring_features` the names of those that its io_uring has, with commas between. `poller` for each of its pollers: the fields of [`PollerStats`](crate::observe::PollerStats). `namespace` for each namespace that it is attached to, by `name`: the numbers of [`NamespaceStats`](crate::block::NamespaceStats); after it `operation` for each kind of operation that there was, with the `namespace` and the [`name`](crate::block::NamespaceStats::operations) of the kind: `completed`, `failed`, `bytes`, and the histogram of latencies as below |
//! | `histograms` | `histogram` for each core and each of `poll`, `queue_wait` and `turn`: `sum`, `max` and `buckets` as `largest:count,…`, in nanoseconds |
//! | `tasks core=C order=oldest after=I limit=N` | `task` for at most N tasks of a core, those with the lowest numbers above I; `order=newest` gives the highest below I. Without `after` from the first on. A task's number is higher than those of the tasks before it. |
//!
//! A core that does not answer in time, because one of its tasks does not return, is a `silent`
//! line in place of the others, with the name of that task in `task` and its `created_at`. A
//! request that is not understood gets `boson-inspect/1 error reason=…`. An answer that does not
//! end with `end` was cut off.

mod ask;
mod bind;
mod client;
mod counters;
mod server;
mod wire;

pub use client::{Client, CoreReport, PollerReport, Process, Snapshot, TaskPage, TaskRecord};
pub use counters::{COUNTERS, Counter, CounterKind};
pub use server::{Inspector, MAX_TASKS_PER_ANSWER};
