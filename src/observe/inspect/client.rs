//! The asking side. It blocks: call it from a thread that is no core.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::counters::COUNTERS;
use super::wire::{Line, MAGIC, VERSION, greeting};
use crate::block::{NamespaceStats, OperationStats};
use crate::error::{Error, ErrorKind, Result};
use crate::rt::Instant;
use crate::rt::reactor::{ReactorKind, RingFeature, RingFeatures};
use crate::rt::record::{CoreLatencies, CoreStats, Histogram, TaskOrder, TaskRange, TaskState};

/// How long to wait for a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is taken, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Asks a process that has an [`Inspector`](super::Inspector). Its functions block for up to some
/// seconds.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

/// A process as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub id: u64,
    /// The name that it gave to its inspector.
    pub program: String,
    /// The version of boson in it.
    pub release: String,
}

/// What all cores of a process counted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which process.
    pub process: Process,
    /// Its cores, by their numbers.
    pub cores: Vec<CoreReport>,
}

/// What a core counted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CoreReport {
    /// Its number.
    pub core: usize,
    /// The core did not answer in time, and the rest of this is empty: one of its tasks does not
    /// return, or it has ended.
    pub is_silent: bool,
    /// The task that a silent core was in: its name and where it was spawned.
    pub stuck_in: Option<(String, String)>,
    /// When it answered, by the process's clock.
    pub now: Instant,
    /// The CPU that it ran on.
    pub cpu: usize,
    /// Its counters.
    pub stats: CoreStats,
    /// The features that its io_uring has, as far as this version knows them; none without an
    /// io_uring.
    pub ring_features: RingFeatures,
    /// How long things took.
    pub latencies: CoreLatencies,
    /// What its pollers did, in the order in which they are polled.
    pub pollers: Vec<PollerReport>,
    /// What it did with each namespace that it is attached to.
    pub namespaces: Vec<NamespaceStats>,
}

/// What a poller of another process did: [`PollerStats`](crate::observe::PollerStats).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PollerReport {
    /// Its name.
    pub name: String,
    /// How many events it may handle per turn of its core.
    pub budget: u64,
    /// How many it handled.
    pub events: u64,
    /// How many times it handled as many as it may.
    pub exhausted: u64,
}

/// What is known of a task of another process: [`TaskInfo`](crate::observe::TaskInfo) with its
/// core.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskRecord {
    /// Its core's number.
    pub core: usize,
    /// Its number, unique on its core.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it was spawned: file, line and column.
    pub created_at: String,
    /// What it is doing.
    pub state: TaskState,
    /// What it waits for, if that is known.
    pub waits_for: Option<String>,
    /// How long ago it was last polled, or spawned if it never was.
    pub since: Duration,
    /// How often it was polled, modulo 2³².
    pub polls: u32,
    /// The name of its task queue; empty if the process does not say.
    pub queue: String,
    /// Whether it is a coroutine.
    pub is_coroutine: bool,
    /// Whether it is the future of a `block_on`.
    pub is_block_on: bool,
    /// The room on its stack in bytes, if it is a coroutine that has started.
    pub stack_bytes: Option<u64>,
}

/// A piece of the tasks of a core.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskPage {
    /// The tasks, in the order that was asked for.
    pub tasks: Vec<TaskRecord>,
    /// The core did not answer in time.
    pub is_silent: bool,
}

impl Client {
    /// Asks the process that listens at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// Where it asks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What all cores counted.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) without a socket at the path,
    /// [`Closed`](ErrorKind::Closed) if nobody listens there (any more),
    /// [`Unsupported`](ErrorKind::Unsupported) if what listens speaks another version or is no
    /// inspector, [`TimedOut`](ErrorKind::TimedOut) if no answer comes,
    /// [`Corrupt`](ErrorKind::Corrupt) if it ends early.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let text = self.ask("stats")?;
        let mut cores = Vec::new();
        for line in text.lines().map(Line::new) {
            let Some(core) = core_number(line) else { continue };
            match line.kind() {
                "core" | "silent" => {}
                "poller" => {
                    let of = cores.iter_mut().find(|other: &&mut CoreReport| other.core == core);
                    if let (Some(report), Some(poller)) = (of, read_poller(line)) {
                        report.pollers.push(poller);
                    }
                    continue;
                }
                "namespace" | "operation" => {
                    if let Some(report) = cores.iter_mut().find(|other| other.core == core) {
                        read_namespace(line, &mut report.namespaces);
                    }
                    continue;
                }
                _ => continue,
            }
            let mut report = CoreReport {
                core,
                is_silent: line.kind() == "silent",
                stuck_in: line
                    .field("task")
                    .zip(line.field("created_at"))
                    .map(|(name, place)| (name.into_owned(), place.into_owned())),
                now: Instant::from_nanos(line.number("now_ns").unwrap_or(0)),
                cpu: line.number("cpu").and_then(|cpu| usize::try_from(cpu).ok()).unwrap_or(0),
                stats: CoreStats::default(),
                ring_features: RingFeatures::none(),
                latencies: CoreLatencies::default(),
                pollers: Vec::new(),
                namespaces: Vec::new(),
            };
            if let Some(name) = line.field("reactor") {
                report.stats.reactor = ReactorKind::named(&name);
            }
            if let Some(names) = line.field("ring_features") {
                report.ring_features = names.split(',').filter_map(RingFeature::named).collect();
            }
            for (name, value) in line.fields() {
                if let Some(counter) = COUNTERS.iter().find(|counter| counter.name == name) {
                    counter.set(&mut report.stats, value.parse().unwrap_or(0));
                }
            }
            cores.push(report);
        }
        let process = process(&text);
        let text = self.ask("histograms")?;
        for line in text.lines().map(Line::new) {
            let report = core_number(line).and_then(|core| cores.iter_mut().find(|other| other.core == core));
            let (Some(report), "histogram") = (report, line.kind()) else { continue };
            let histogram = match line.field("name").as_deref() {
                Some("poll") => &mut report.latencies.poll,
                Some("queue_wait") => &mut report.latencies.queue_wait,
                Some("turn") => &mut report.latencies.turn,
                _ => continue,
            };
            *histogram = read_histogram(line);
        }
        Ok(Snapshot { process, cores })
    }

    /// Some tasks of a core; at most [`MAX_TASKS_PER_ANSWER`](super::MAX_TASKS_PER_ANSWER). Fewer
    /// than the range's limit and that mean that there are no further ones.
    ///
    /// # Errors
    ///
    /// As for [`Client::snapshot`], and [`InvalidInput`](ErrorKind::InvalidInput) for a core that
    /// is not there.
    pub fn tasks(&self, core: usize, range: TaskRange) -> Result<TaskPage> {
        let order = match range.order {
            TaskOrder::OldestFirst => "oldest",
            TaskOrder::NewestFirst => "newest",
        };
        let after = range.after.map_or_else(String::new, |after| format!(" after={after}"));
        let text = self.ask(&format!("tasks core={core} order={order}{after} limit={}", range.limit))?;
        let lines = || text.lines().map(Line::new);
        Ok(TaskPage {
            tasks: lines().filter(|line| line.kind() == "task").filter_map(read_task).collect(),
            is_silent: lines().any(|line| line.kind() == "silent"),
        })
    }

    fn error(&self, kind: ErrorKind, why: impl Into<String>) -> Error {
        Error::new(kind, "inspect").at(self.path.display().to_string()).because(why.into())
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => {
                return self.error(
                    ErrorKind::NotFound,
                    "there is no such socket: is the process running, with --inspect?",
                );
            }
            std::io::ErrorKind::ConnectionRefused => {
                return self.error(
                    ErrorKind::Closed,
                    "nobody listens there: the process that made the socket has ended, or it is no socket",
                );
            }
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                return self.error(ErrorKind::TimedOut, "no answer came");
            }
            std::io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            _ => match error.raw_os_error() {
                Some(code) => return Error::os(code, "inspect").at(self.path.display().to_string()),
                None => ErrorKind::Closed,
            },
        };
        self.error(kind, error.to_string())
    }

    /// The time-outs come before the connection: while too many others wait to be answered,
    /// connecting waits too.
    fn connect(&self) -> rustix::io::Result<UnixStream> {
        let address = SocketAddrUnix::new(&self.path)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, which, Some(PATIENCE))?;
        }
        rustix::net::connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }

    /// Sends a request and checks that the answer is whole and good.
    fn ask(&self, request: &str) -> Result<String> {
        let failed = |error: std::io::Error| self.failed(&error);
        let mut stream = self.connect().map_err(|errno| failed(errno.into()))?;
        stream.write_all(format!("{} {request}\n", greeting()).as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        let received = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let Some(version) = first.split(' ').next().and_then(|word| word.strip_prefix(MAGIC)) else {
            received.map_err(failed)?;
            return Err(self.error(ErrorKind::Unsupported, "what listens there is no boson inspector"));
        };
        if version.parse() != Ok(VERSION) {
            let why = format!(
                "the process speaks version {version} of the protocol, this program version {VERSION}: use the boson that \
                 belongs to it"
            );
            return Err(self.error(ErrorKind::Unsupported, why));
        }
        received.map_err(failed)?;
        if first.split(' ').nth(1) != Some("ok") {
            let reason = Line::new(first).field("reason").unwrap_or_default().into_owned();
            return Err(self.error(ErrorKind::InvalidInput, reason));
        }
        if !text.ends_with("\nend\n") {
            return Err(self.error(ErrorKind::Corrupt, "the answer was cut off"));
        }
        Ok(text)
    }
}

fn core_number(line: Line<'_>) -> Option<usize> {
    line.number("core").and_then(|core| usize::try_from(core).ok())
}

fn process(text: &str) -> Process {
    let line = Line::new(text.lines().next().unwrap_or_default());
    Process {
        id: line.number("pid").unwrap_or(0),
        program: line.field("program").unwrap_or_default().into_owned(),
        release: line.field("release").unwrap_or_default().into_owned(),
    }
}

fn read_histogram(line: Line<'_>) -> Histogram {
    let buckets = line.field("buckets").unwrap_or_default();
    let buckets = buckets.split(',').filter_map(|bucket| {
        let (largest, count) = bucket.split_once(':')?;
        Some((largest.parse().ok()?, count.parse().ok()?))
    });
    Histogram::restored(buckets, line.number("sum").unwrap_or(0), line.number("max").unwrap_or(0))
}

fn read_poller(line: Line<'_>) -> Option<PollerReport> {
    Some(PollerReport {
        name: line.field("name")?.into_owned(),
        budget: line.number("budget")?,
        events: line.number("events")?,
        exhausted: line.number("exhausted")?,
    })
}

/// A namespace, or an operation of one that was told of.
fn read_namespace(line: Line<'_>, namespaces: &mut Vec<NamespaceStats>) {
    let number = |name: &str| line.number(name).unwrap_or(0);
    let Some(name) = line.field("name") else { return };
    if line.kind() == "namespace" {
        return namespaces.push(NamespaceStats {
            name: name.into_owned(),
            queue_depth: number("queue_depth"),
            max_queue_depth: number("max_queue_depth"),
            retries: number("retries"),
            copied_bytes: number("copied_bytes"),
            ..NamespaceStats::default()
        });
    }
    let Some(of) = line.field("namespace") else { return };
    let namespace = namespaces.iter_mut().find(|namespace| namespace.name == of);
    if let Some(operation) = namespace.and_then(|namespace| namespace.named_mut(&name)) {
        *operation = OperationStats {
            completed: number("completed"),
            failed: number("failed"),
            bytes: number("bytes"),
            latency: read_histogram(line),
        };
    }
}

fn read_task(line: Line<'_>) -> Option<TaskRecord> {
    let kind = line.field("kind");
    Some(TaskRecord {
        core: core_number(line)?,
        id: line.number("id")?,
        name: line.field("name")?.into_owned(),
        created_at: line.field("created_at")?.into_owned(),
        state: match line.field("state")?.as_ref() {
            "running" => TaskState::Running,
            "ready" => TaskState::Ready,
            _ => TaskState::Waiting,
        },
        waits_for: line.field("waits_for").map(std::borrow::Cow::into_owned),
        since: Duration::from_nanos(line.number("since_ns")?),
        queue: line.field("queue").unwrap_or_default().into_owned(),
        is_coroutine: kind.as_deref() == Some("coroutine"),
        is_block_on: kind.as_deref() == Some("block_on"),
        stack_bytes: line.number("stack_bytes"),
        polls: u32::try_from(line.number("polls")?).unwrap_or(u32::MAX),
    })
}
