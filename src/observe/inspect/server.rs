//! The answering side: a thread with a Unix socket.

use std::fmt::{Display, Write as _};
use std::io::{self, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::ask::Cores;
use super::bind;
use super::counters::COUNTERS;
use super::wire::{Line, MAGIC, VERSION, greeting, write_line};
use crate::block::{self, NamespaceStats};
use crate::error::{Error, Result};
use crate::fork::Process;
use crate::net::unix::Name;
use crate::rt::reactor::RingFeature;
use crate::rt::record::{Histogram, TaskInfo, TaskOrder, TaskRange, TaskState};
use crate::rt::time::{Clock, MonotonicClock};
use crate::rt::{self, Handle, Instant};
use crate::user_code::contain;

/// The most tasks that one answer tells of.
pub const MAX_TASKS_PER_ANSWER: usize = 1000;
/// The longest request, in bytes.
const MAX_REQUEST_BYTES: usize = 256;
/// The most that is written at once. The kernel cuts what is written into pieces of about this
/// size, and waits for each as long as for all.
const MAX_PIECE_BYTES: usize = 16 << 10;
/// How long one asker may keep the others waiting with a request, and as long again with taking the
/// answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait before accepting again when the process has no descriptor left.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Answers questions about this process on a Unix socket, until it is dropped. See [the
/// module](super) for the protocol.
///
/// Askers are answered one after the other; at most 16 wait. A request has at most 256 bytes and
/// comes at once; a client that is slow to send it or to take the answer is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the inspector"]
pub struct Inspector {
    name: Name,
    /// Shares its socket with the thread.
    listener: UnixListener,
    ending: Arc<AtomicBool>,
    process: Process,
}

/// What the thread has.
struct Answering {
    cores: Cores,
    program: String,
    ending: Arc<AtomicBool>,
}

impl Inspector {
    /// Starts to answer for `cores` at `path`, for processes of the same user. `program` is what
    /// the asking side shows this process as. A core's number is its index in `cores`.
    ///
    /// Start it after [`Signals`](rt::signal::Signals) are made, as any thread.
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) if another process listens at `path` or it is no socket;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a path over 107 bytes; otherwise the
    /// kernel's code: its directory is absent or not writable, no descriptor or no thread is left.
    pub fn start(path: impl AsRef<Path>, program: impl Into<String>, cores: Vec<Handle>) -> Result<Self> {
        let (listener, name) = bind::listen(path.as_ref())?;
        let failed = |error: io::Error| Error::io(error, "start an inspector");
        let ending = Arc::new(AtomicBool::new(false));
        let shared = listener.try_clone().map_err(failed)?;
        let answering =
            Answering { cores: Cores::new(cores), program: program.into(), ending: Arc::clone(&ending) };
        thread::Builder::new()
            .name("boson-inspect".to_owned())
            .spawn(move || answering.serve(&shared))
            .map_err(failed)?;
        Ok(Self { name, listener, ending, process: Process::current() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.name.path()
    }
}

impl Drop for Inspector {
    /// Removes the socket. The thread ends soon after; it is not waited for, because it may wait
    /// for this core.
    ///
    /// In a child of a fork nothing is done: the socket is the parent's, and shutting it down would
    /// end it there.
    fn drop(&mut self) {
        if self.process.is_left() {
            return;
        }
        self.ending.store(true, Ordering::Release);
        // While it listens, so that it is still this one's.
        self.name.remove();
        // Shutting a listening socket down ends the waits in accept(2).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// How much longer an asker may be waited for.
struct Patience {
    clock: MonotonicClock,
    ends: Instant,
}

impl Patience {
    fn begins() -> Self {
        let clock = MonotonicClock::new();
        Self { ends: clock.now() + PATIENCE, clock }
    }

    /// What is left of it, more than zero.
    fn left(&self) -> io::Result<Duration> {
        let left = self.ends.saturating_since(self.clock.now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// Whether a signal came, or the process was stopped and goes on: with a time-out the kernel does
/// not go on by itself (`signal(7)`).
fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

impl Answering {
    fn serve(&self, listener: &UnixListener) {
        while !self.ending.load(Ordering::Acquire) {
            match listener.accept() {
                // An asker that went away or does not keep to the rules is not worth a log line.
                Ok((stream, _)) => drop(self.answer(stream)),
                Err(_) if self.ending.load(Ordering::Acquire) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // Somebody shut the socket down: it listens no more.
                    contain(|| {
                        tracing::warn!(
                            "inspection ends, because its socket does not listen any more: {error}"
                        );
                    });
                    break;
                }
                Err(error) => {
                    contain(|| tracing::warn!("inspection: accepting failed, trying again: {error}"));
                    thread::park_timeout(RETRY_AFTER);
                }
            }
        }
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut request = [0; MAX_REQUEST_BYTES];
        let mut len = 0;
        let patience = Patience::begins();
        loop {
            stream.set_read_timeout(Some(patience.left()?))?;
            let read = match stream.read(&mut request[len..]) {
                Err(error) if is_interrupted(&error) => continue,
                read => read?,
            };
            len += read;
            if read == 0 || request[..len].contains(&b'\n') {
                break;
            }
        }
        let answer = match request[..len].split(|&byte| byte == b'\n').next() {
            Some(line) if line.len() < len => self.reply(&String::from_utf8_lossy(line)),
            _ => refusal("a request is one line of at most 256 bytes"),
        };
        let mut untold = answer.as_bytes();
        let patience = Patience::begins();
        while !untold.is_empty() {
            stream.set_write_timeout(Some(patience.left()?))?;
            match stream.write(&untold[..untold.len().min(MAX_PIECE_BYTES)]) {
                Err(error) if is_interrupted(&error) => {}
                written => untold = &untold[written?..],
            }
        }
        stream.shutdown(Shutdown::Both)
    }

    fn reply(&self, request: &str) -> String {
        let mut words = request.splitn(2, ' ');
        match words.next().and_then(|word| word.strip_prefix(MAGIC)) {
            None => return refusal(&format!("a request starts with {}", greeting())),
            Some(version) if version.parse() != Ok(VERSION) => {
                return refusal(&format!("this process speaks version {VERSION}"));
            }
            Some(_) => {}
        }
        let line = Line::new(words.next().unwrap_or_default());
        let mut text = String::new();
        write_line(
            &mut text,
            &format!("{} ok", greeting()),
            &[
                ("pid", &std::process::id()),
                ("program", &self.program),
                ("release", &env!("CARGO_PKG_VERSION")),
            ],
        );
        match line.kind() {
            "stats" => self.stats(&mut text),
            "histograms" => self.histograms(&mut text),
            "tasks" => {
                if let Err(why) = self.tasks(line, &mut text) {
                    return refusal(why);
                }
            }
            _ => return refusal("there are stats, histograms and tasks"),
        }
        text.push_str("end\n");
        text
    }

    fn stats(&self, text: &mut String) {
        let answers = self.cores.ask(0..self.cores.len(), || {
            (
                rt::now().as_nanos(),
                rustix::thread::sched_getcpu(),
                rt::reactor::ring_features(),
                rt::look::stats(),
                rt::look::pollers(),
                NamespaceStats::by_name(block::stats()),
            )
        });
        for (core, answer) in answers.into_iter().enumerate() {
            let Some((now_ns, cpu, ring_features, stats, pollers, namespaces)) = answer else {
                self.silent(text, core);
                continue;
            };
            let values: Vec<u64> = COUNTERS.iter().map(|counter| counter.get(&stats)).collect();
            let ring_features = ring_features.iter().map(RingFeature::name).collect::<Vec<_>>().join(",");
            let reactor = stats.reactor.name();
            let mut fields: Vec<(&str, &dyn Display)> = vec![
                ("core", &core),
                ("now_ns", &now_ns),
                ("cpu", &cpu),
                ("reactor", &reactor),
                ("ring_features", &ring_features),
            ];
            let named = COUNTERS.iter().zip(&values);
            fields.extend(named.map(|(counter, value)| (counter.name, value as &dyn Display)));
            write_line(text, "core", &fields);
            for poller in pollers {
                let fields: [(&str, &dyn Display); 5] = [
                    ("core", &core),
                    ("name", &poller.name),
                    ("budget", &poller.budget),
                    ("events", &poller.events),
                    ("exhausted", &poller.exhausted),
                ];
                write_line(text, "poller", &fields);
            }
            namespaces.iter().for_each(|namespace| write_namespace(text, core, namespace));
        }
    }

    fn histograms(&self, text: &mut String) {
        let answers = self.cores.ask(0..self.cores.len(), rt::look::latencies);
        for (core, answer) in answers.into_iter().enumerate() {
            let Some(latencies) = answer else {
                self.silent(text, core);
                continue;
            };
            let named =
                [("poll", latencies.poll), ("queue_wait", latencies.queue_wait), ("turn", latencies.turn)];
            for (name, histogram) in named {
                let fields: [(&str, &dyn Display); 5] = [
                    ("core", &core),
                    ("name", &name),
                    ("sum", &histogram.sum()),
                    ("max", &histogram.max()),
                    ("buckets", &buckets(&histogram)),
                ];
                write_line(text, "histogram", &fields);
            }
        }
    }

    fn silent(&self, text: &mut String, core: usize) {
        let polling = self.cores.polling(core);
        let mut fields: Vec<(&str, &dyn Display)> = vec![("core", &core)];
        if let Some((name, created_at)) = &polling {
            fields.extend([("task", name as &dyn Display), ("created_at", created_at)]);
        }
        write_line(text, "silent", &fields);
    }

    fn tasks(&self, request: Line<'_>, text: &mut String) -> Result<(), &'static str> {
        let core = request.number("core").and_then(|core| usize::try_from(core).ok());
        let core = core.filter(|core| *core < self.cores.len()).ok_or("there is no such core")?;
        let order = match request.field("order").as_deref() {
            Some("oldest") | None => TaskOrder::OldestFirst,
            Some("newest") => TaskOrder::NewestFirst,
            Some(_) => return Err("order is oldest or newest"),
        };
        let limit = request.number("limit").unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_TASKS_PER_ANSWER);
        let range = TaskRange { order, after: request.number("after"), limit };
        let answers = self.cores.ask(core..core + 1, move || rt::look::tasks_in(range));
        match answers.into_iter().flatten().next() {
            Some(tasks) => tasks.iter().for_each(|task| write_task(text, core, task)),
            None => self.silent(text, core),
        }
        Ok(())
    }
}

fn write_namespace(text: &mut String, core: usize, stats: &NamespaceStats) {
    let fields: [(&str, &dyn Display); 6] = [
        ("core", &core),
        ("name", &stats.name),
        ("queue_depth", &stats.queue_depth),
        ("max_queue_depth", &stats.max_queue_depth),
        ("retries", &stats.retries),
        ("copied_bytes", &stats.copied_bytes),
    ];
    write_line(text, "namespace", &fields);
    for (name, operation) in stats.operations() {
        if operation.completed + operation.failed == 0 {
            continue;
        }
        let fields: [(&str, &dyn Display); 9] = [
            ("core", &core),
            ("namespace", &stats.name),
            ("name", &name),
            ("completed", &operation.completed),
            ("failed", &operation.failed),
            ("bytes", &operation.bytes),
            ("sum", &operation.latency.sum()),
            ("max", &operation.latency.max()),
            ("buckets", &buckets(&operation.latency)),
        ];
        write_line(text, "operation", &fields);
    }
}

fn write_task(text: &mut String, core: usize, task: &TaskInfo) {
    let state = match task.state {
        TaskState::Running => "running",
        TaskState::Ready => "ready",
        TaskState::Waiting => "waiting",
    };
    let kind = match (task.is_block_on, task.is_coroutine) {
        (true, _) => "block_on",
        (false, true) => "coroutine",
        (false, false) => "async",
    };
    let mut fields: Vec<(&str, &dyn Display)> = vec![
        ("core", &core),
        ("id", &task.id),
        ("name", &task.name),
        ("created_at", &task.created_at),
        ("state", &state),
        ("kind", &kind),
        ("queue", &task.queue),
    ];
    if let Some(what) = &task.waits_for {
        fields.push(("waits_for", what));
    }
    let since_ns = task.since.as_nanos();
    if let Some(bytes) = &task.stack_bytes {
        fields.push(("stack_bytes", bytes));
    }
    fields.extend([("since_ns", &since_ns as &dyn Display), ("polls", &task.polls)]);
    write_line(text, "task", &fields);
}

fn buckets(histogram: &Histogram) -> String {
    let mut text = String::new();
    for (largest, count) in histogram.buckets() {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{largest}:{count}");
    }
    text
}

fn refusal(why: &str) -> String {
    let mut text = String::new();
    write_line(&mut text, &format!("{} error", greeting()), &[("reason", &why)]);
    text.push_str("end\n");
    text
}
