//! A core's handle of a memory device.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::slice;
use std::task::Poll;

use super::super::queue::CommandKind;
use super::super::stats::{self, SharedStats};
use super::super::{Device, Namespace, NamespaceInfo};
use super::MemoryDevice;
use super::options::MemoryOptions;
use super::state::{Begun, Command, CommandMemory};
use crate::error::{BufError, BufResult, Error, ErrorKind, Result, with_buf};
use crate::mem::DmaBuf;
use crate::rt;
use crate::sync::local::Semaphore;
use crate::time::Instant;

/// A namespace in memory. Clones share the blocks; they last as long as the last of them, and the
/// [`MemoryDevice`].
///
/// Without latencies every operation completes at its first poll, also outside of a core. Latencies
/// are those of the core's clock: in a [simulation](crate::sim) they take no time.
#[derive(Clone)]
pub struct MemoryNamespace(Rc<Attached>);

struct Attached {
    device: MemoryDevice,
    /// Who may send a command.
    turns: Option<Semaphore>,
    /// Those of the core on which it was used first.
    stats: OnceCell<SharedStats>,
}

/// The memory of an operation.
enum Memory<'a> {
    None,
    Fill(&'a mut [DmaBuf]),
    Store(&'a [DmaBuf]),
    Compare(&'a DmaBuf, &'a DmaBuf),
}

impl Memory<'_> {
    /// That of a command which begins `from` bytes into it.
    fn of_command(&mut self, from: u64) -> CommandMemory<'_> {
        let from = usize::try_from(from).expect("inside of memory");
        match self {
            Self::None => CommandMemory::None,
            Self::Fill(bufs) => CommandMemory::Fill(bufs, from),
            Self::Store(bufs) => CommandMemory::Store(bufs, from),
            Self::Compare(expected, new) => CommandMemory::Compare(expected, new),
        }
    }
}

impl MemoryNamespace {
    /// A namespace of `size_bytes` zeros, on a device of its own. `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the block size is not a power of two from 512
    /// to 65536, or the size not a multiple of it.
    pub fn new(name: impl Into<String>, size_bytes: u64, block_size_bytes: u32) -> Result<Self> {
        Self::growable(name, size_bytes, size_bytes, block_size_bytes)
    }

    /// Like [`MemoryNamespace::new`], but it can grow up to `max_size_bytes`.
    ///
    /// # Errors
    ///
    /// As for [`MemoryNamespace::new`].
    pub fn growable(
        name: impl Into<String>,
        size_bytes: u64,
        max_size_bytes: u64,
        block_size_bytes: u32,
    ) -> Result<Self> {
        let options = MemoryOptions::new(size_bytes)
            .max_size_bytes(max_size_bytes)
            .block_size_bytes(block_size_bytes)
            .atomic_write_bytes(block_size_bytes);
        Ok(MemoryDevice::open(name, options)?.namespace())
    }

    pub(super) fn of(device: MemoryDevice) -> Self {
        let turns = device.options().queue_depth.map(|depth| Semaphore::new(depth as usize));
        Self(Rc::new(Attached { device, turns, stats: OnceCell::new() }))
    }

    /// The device that it is of.
    pub fn device(&self) -> &MemoryDevice {
        &self.0.device
    }

    /// Does one operation. Gives whether a compare-and-write wrote.
    async fn run(&self, kind: CommandKind, offset: u64, len: u64, mut memory: Memory<'_>) -> Result<bool> {
        let device = self.device();
        if kind != CommandKind::Flush {
            device.info().check_range(kind.name(), offset, len, device.size_bytes())?;
        }
        if !kind.only_reads() {
            device.info().check_writable(kind.name())?;
        }
        let counting = self.count(kind);
        let mut done = 0;
        let result = loop {
            let part = command_len(device.info(), kind, offset + done, len - done);
            let result =
                self.send(Command { kind, offset: offset + done, len: part }, &mut memory, done).await;
            done += part;
            if done == len || result.is_err() {
                break result;
            }
        };
        counting.end(&result, len);
        result.map_err(|error| match kind {
            CommandKind::Flush => error.at(device.info().name.clone()),
            _ => error.at(format!("{} offset {offset}", device.info().name)),
        })
    }

    /// Does one command, which begins `from` bytes into the operation's memory.
    async fn send(&self, command: Command, memory: &mut Memory<'_>, from: u64) -> Result<bool> {
        let device = self.device();
        let _turn = match &self.0.turns {
            Some(turns) => Some(turns.acquire().await.expect("nobody closes it")),
            None => None,
        };
        let began = now();
        let begun =
            device.with(|state| state.begin(command, &memory.of_command(from), device.options(), began))?;
        let latency = begun.latency;
        let mut sent = Sent { device, begun, arrives: began.map(|began| began + latency) };
        if !latency.is_zero() {
            rt::sleep(latency).await;
        }
        loop {
            let now = now();
            let (let_go, completed) = device.with(|state| {
                let memory = memory.of_command(from);
                let completed = state.complete(command, &mut sent.begun, memory, device.options(), now);
                (state.times_let_go(), completed)
            });
            if let Poll::Ready(result) = completed {
                return result;
            }
            poll_fn(|cx| {
                let waker = cx.waker().clone();
                if device.with(|state| state.hangs(let_go, waker)) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }

    fn count(&self, kind: CommandKind) -> Counting<'_> {
        let stats = rt::is_in_core()
            .then(|| self.0.stats.get_or_init(|| stats::register(&self.device().info().name)));
        if let Some(stats) = stats {
            let mut stats = stats.borrow_mut();
            stats.queue_depth += 1;
            stats.max_queue_depth = stats.max_queue_depth.max(stats.queue_depth);
        }
        Counting { stats, kind, began: now() }
    }
}

/// An operation that is counted.
struct Counting<'a> {
    stats: Option<&'a SharedStats>,
    kind: CommandKind,
    began: Option<Instant>,
}

impl Counting<'_> {
    fn end(self, result: &Result<bool>, len: u64) {
        let Some(stats) = self.stats else { return };
        let took = self
            .began
            .zip(now())
            .map(|(began, now)| u64::try_from(now.saturating_since(began).as_nanos()).unwrap_or(u64::MAX));
        let mut stats = stats.borrow_mut();
        let operation = stats.of(self.kind);
        match result {
            Ok(_) => operation.record(len, took),
            Err(_) => operation.failed += 1,
        }
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        if let Some(stats) = self.stats {
            stats.borrow_mut().queue_depth -= 1;
        }
    }
}

/// A command that the device has.
struct Sent<'a> {
    device: &'a MemoryDevice,
    begun: Begun,
    /// When it reaches the blocks, also if nobody waits for it.
    arrives: Option<Instant>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(write) = self.begun.write.take() {
            self.device.with(|state| state.orphan(write, self.arrives));
        }
    }
}

/// The time, if there is any here.
pub(super) fn now() -> Option<Instant> {
    rt::is_in_core().then(rt::now)
}

/// How long the next command is of an operation that wants `left` bytes from `offset` on.
fn command_len(info: &NamespaceInfo, kind: CommandKind, offset: u64, left: u64) -> u64 {
    if !matches!(kind, CommandKind::Read | CommandKind::Write { .. }) {
        return left;
    }
    let len = left.min(info.max_transfer_bytes.into());
    match u64::from(info.optimal_boundary_bytes) {
        0 => len,
        boundary => len.min(boundary - offset % boundary),
    }
}

impl Namespace for MemoryNamespace {
    fn info(&self) -> &NamespaceInfo {
        self.device().info()
    }

    fn size_bytes(&self) -> u64 {
        self.device().size_bytes()
    }

    async fn read(&self, offset: u64, mut buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let len = buf.len() as u64;
        let result = self.run(CommandKind::Read, offset, len, Memory::Fill(slice::from_mut(&mut buf))).await;
        give_back(result, buf)
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let (kind, len) = (CommandKind::Write { durable: false }, buf.len() as u64);
        let result = self.run(kind, offset, len, Memory::Store(slice::from_ref(&buf))).await;
        give_back(result, buf)
    }

    async fn read_vectored(
        &self,
        offset: u64,
        mut bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let result = self.run(CommandKind::Read, offset, len, Memory::Fill(&mut bufs)).await;
        give_back(result, bufs)
    }

    async fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let kind = CommandKind::Write { durable: false };
        let result = self.run(kind, offset, len, Memory::Store(&bufs)).await;
        give_back(result, bufs)
    }

    async fn write_durable(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let (info, len) = (self.info(), buf.len() as u64);
        let durable = info.forced_unit_access && info.volatile_cache;
        let kind = CommandKind::Write { durable };
        let mut result = self.run(kind, offset, len, Memory::Store(slice::from_ref(&buf))).await;
        if result.is_ok() && !durable {
            result = self.flush().await.map(|()| true);
        }
        give_back(result, buf)
    }

    async fn flush(&self) -> Result<()> {
        if !self.info().volatile_cache || self.info().read_only {
            return Ok(());
        }
        self.run(CommandKind::Flush, 0, 0, Memory::None).await.map(drop)
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let info = self.info();
        if !info.trim {
            info.check_range("trim", offset, len, self.size_bytes())?;
            return info.check_writable("trim");
        }
        self.run(CommandKind::Trim, offset, len, Memory::None).await.map(drop)
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let info = self.info();
        info.check_range("allocate", offset, len, self.size_bytes())?;
        info.check_writable("allocate")?;
        let allocated = self.device().with(|state| state.allocate(offset, len));
        allocated.map_err(|error| error.at(format!("{} offset {offset}", info.name)))
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        if self.info().write_zeroes {
            return self.run(CommandKind::WriteZeroes, offset, len, Memory::None).await.map(drop);
        }
        self.info().check_range("write zeroes", offset, len, self.size_bytes())?;
        super::super::namespace::write_zeros(self, offset, len).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: DmaBuf,
        new: DmaBuf,
    ) -> BufResult<bool, (DmaBuf, DmaBuf)> {
        let len = new.len() as u64;
        let possible = self.info().check_compare_and_write(offset, expected.len() as u64, len);
        let result = match possible {
            Ok(()) => {
                let memory = Memory::Compare(&expected, &new);
                self.run(CommandKind::CompareAndWrite, offset, len, memory).await
            }
            Err(error) => Err(error),
        };
        with_buf(result, (expected, new))
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        let info = self.info();
        if size_bytes > info.max_size_bytes {
            return Err(Error::new(ErrorKind::NoSpace, "grow").at(info.name.clone()).because(format!(
                "it cannot have {size_bytes} bytes, {} are the most",
                info.max_size_bytes
            )));
        }
        let size = size_bytes.next_multiple_of(info.block_size_bytes.into());
        if self.device().with(|state| state.grow(size)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, "grow").at(info.name.clone()).because("the file system is full"))
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        let info = self.info();
        let size = size_bytes.next_multiple_of(info.block_size_bytes.into()).max(info.min_size_bytes);
        self.device().with(|state| {
            if size < state.size_bytes {
                state.shrink(size);
            }
        });
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        self.device().with(|state| state.next_data(offset))
    }
}

fn give_back<B>(result: Result<bool>, buf: B) -> Result<B, BufError<B>> {
    match result {
        Ok(_) => Ok(buf),
        Err(error) => Err(BufError::new(error, buf)),
    }
}

impl std::fmt::Debug for MemoryNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNamespace").field("info", self.info()).finish_non_exhaustive()
    }
}
