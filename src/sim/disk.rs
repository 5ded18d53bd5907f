//! A disk with a volatile cache that loses, reorders and tears what was not flushed when the power
//! fails.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::SimEnv;
use crate::block::{Namespace, NamespaceInfo};
use crate::error::{BufError, Error, ErrorKind, Outcome, Result};
use crate::mem::DmaBuf;
use crate::store::Env;

/// The unit that a power failure leaves either old or new.
const SECTOR_BYTES: usize = 512;
const MAX_TRANSFER_BYTES: u32 = 128 << 10;

/// How a disk behaves. Latencies are drawn evenly from zero to the given maximum.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiskOptions {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What it can grow to, in bytes.
    pub max_size_bytes: u64,
    /// Its block size in bytes.
    pub block_size_bytes: u32,
    /// The longest that a read takes.
    pub read_latency: Duration,
    /// The longest that a write takes.
    pub write_latency: Duration,
    /// The longest that a flush takes.
    pub flush_latency: Duration,
}

impl DiskOptions {
    /// A disk of `size_bytes` in blocks of 4096 bytes that answers within 200 µs, and flushes
    /// within 2 ms.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            max_size_bytes: size_bytes,
            block_size_bytes: 4096,
            read_latency: Duration::from_micros(200),
            write_latency: Duration::from_micros(200),
            flush_latency: Duration::from_millis(2),
        }
    }

    /// With another size to which it can grow, in bytes.
    #[must_use]
    pub fn max_size_bytes(self, max_size_bytes: u64) -> Self {
        Self { max_size_bytes, ..self }
    }

    /// With another block size, in bytes.
    #[must_use]
    pub fn block_size_bytes(self, block_size_bytes: u32) -> Self {
        Self { block_size_bytes, ..self }
    }

    /// With another longest time that a read takes.
    #[must_use]
    pub fn read_latency(self, read_latency: Duration) -> Self {
        Self { read_latency, ..self }
    }

    /// With another longest time that a write takes.
    #[must_use]
    pub fn write_latency(self, write_latency: Duration) -> Self {
        Self { write_latency, ..self }
    }

    /// With another longest time that a flush takes.
    #[must_use]
    pub fn flush_latency(self, flush_latency: Duration) -> Self {
        Self { flush_latency, ..self }
    }
}

/// An operation to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Reads that touch this offset (bytes) fail with `EIO`, until the disk is told otherwise.
    ReadAt(u64),
    /// The write after this many more writes fails with `EIO`, and all after it.
    WriteAfter(u64),
    /// The flush after this many more flushes fails with `EIO`, and all after it.
    FlushAfter(u64),
    /// The flush after this many more flushes fails with `EIO` and loses what was not durable, as a
    /// page cache does; those after it work.
    FlushLoses(u64),
}

/// A simulated disk. Clones share it; it outlives the executors that use it, as a disk outlives
/// processes.
#[derive(Clone)]
pub struct Disk {
    env: SimEnv,
    info: Rc<NamespaceInfo>,
    options: Rc<DiskOptions>,
    state: Rc<RefCell<DiskState>>,
}

type Sector = [u8; SECTOR_BYTES];

struct DiskState {
    random: StdRng,
    size_bytes: u64,
    /// What is safe.
    durable: BTreeMap<u64, Sector>,
    /// For each sector that was written since the last flush, every content it had, oldest first.
    cache: BTreeMap<u64, Vec<Sector>>,
    /// Writes that were sent and not completed: they may be found on the disk, in part.
    in_flight: BTreeMap<u64, (u64, Vec<u8>)>,
    next_write: u64,
    fault: Option<Fault>,
    operations: u64,
}

impl Disk {
    /// A disk of zeros. `seed` decides latencies and what power failures take.
    pub fn new(env: SimEnv, options: DiskOptions, seed: u64) -> Self {
        let info = NamespaceInfo {
            max_size_bytes: options.max_size_bytes,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            atomic_write_bytes: 512,
            ..NamespaceInfo::new("sim:disk", options.size_bytes, options.block_size_bytes)
        };
        let state = DiskState {
            random: StdRng::seed_from_u64(seed),
            size_bytes: options.size_bytes,
            durable: BTreeMap::new(),
            cache: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_write: 0,
            fault: None,
            operations: 0,
        };
        Self { env, info: Rc::new(info), options: Rc::new(options), state: Rc::new(RefCell::new(state)) }
    }

    /// The same disk, in the environment of another executor: the machine after a restart.
    #[must_use]
    pub fn attach(&self, env: SimEnv) -> Self {
        Self { env, ..self.clone() }
    }

    /// The process ends: what was written stays in the cache, what was in flight arrives or not.
    pub fn kill(&self) {
        let mut state = self.state.borrow_mut();
        for (offset, bytes) in std::mem::take(&mut state.in_flight).into_values() {
            if state.random.random() {
                state.put(offset, &bytes);
            }
        }
        state.fault = None;
    }

    /// The power fails: of what was not flushed, each sector keeps any content it had since, or the
    /// one before. Half of the time it is all or nothing for everything, which is likelier than
    /// chance to show a missing flush.
    pub fn power_loss(&self) {
        self.kill();
        let mut state = self.state.borrow_mut();
        let keep = match state.random.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => state.random.random_range(0.0..1.0),
        };
        for (sector, mut versions) in std::mem::take(&mut state.cache) {
            if state.random.random_bool(keep) {
                let newest = versions.len() - 1;
                let index = if keep >= 1.0 { newest } else { state.random.random_range(0..=newest) };
                state.durable.insert(sector, versions.swap_remove(index));
            }
        }
    }

    /// Injects a fault, or with `None` ends it.
    pub fn inject(&self, fault: Option<Fault>) {
        self.state.borrow_mut().fault = fault;
    }

    /// Flips one bit of what is stored at `offset` (bytes), behind everybody's back.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        let mut state = self.state.borrow_mut();
        let (sector, at) = locate(offset);
        let mut content = state.sector(sector);
        content[at] ^= 1 << (bit % 8);
        state.cache.remove(&sector);
        state.durable.insert(sector, content);
    }

    /// Copies `bytes` to `offset` (bytes), behind everybody's back.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (sector, at) = locate(offset + (bytes.len() - rest.len()) as u64);
            let (part, after) = rest.split_at(rest.len().min(SECTOR_BYTES - at));
            let mut content = state.sector(sector);
            content[at..at + part.len()].copy_from_slice(part);
            state.cache.remove(&sector);
            state.durable.insert(sector, content);
            rest = after;
        }
    }

    /// What a read of `len` bytes at `offset` would see now.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let state = self.state.borrow();
        let (first, skip) = locate(offset);
        let mut bytes = Vec::with_capacity(skip + len + SECTOR_BYTES);
        for sector in first.. {
            if bytes.len() >= skip + len {
                break;
            }
            bytes.extend_from_slice(&state.sector(sector));
        }
        bytes.drain(..skip);
        bytes.truncate(len);
        bytes
    }

    /// How many reads, writes and flushes were completed.
    pub fn operations(&self) -> u64 {
        self.state.borrow().operations
    }

    async fn delay(&self, most: Duration) {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        let nanos = self.state.borrow_mut().random.random_range(0..=most);
        self.env.sleep(Duration::from_nanos(nanos)).await;
    }

    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<()> {
        self.info.check_range(operation, offset, len, self.state.borrow().size_bytes)?;
        if len > u64::from(MAX_TRANSFER_BYTES) {
            return Err(Error::new(ErrorKind::InvalidInput, operation)
                .at(format!("sim:disk offset {offset}"))
                .because(format!("{len} bytes are more than one transfer takes")));
        }
        Ok(())
    }
}

fn locate(offset: u64) -> (u64, usize) {
    let sector_bytes = SECTOR_BYTES as u64;
    (offset / sector_bytes, usize::try_from(offset % sector_bytes).expect("less than a sector"))
}

impl DiskState {
    /// The newest content of a sector.
    fn sector(&self, sector: u64) -> Sector {
        let cached = self.cache.get(&sector).and_then(|versions| versions.last());
        cached.or_else(|| self.durable.get(&sector)).copied().unwrap_or([0; SECTOR_BYTES])
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let first = offset / SECTOR_BYTES as u64;
        for (sector, content) in (first..).zip(bytes.as_chunks::<SECTOR_BYTES>().0) {
            self.cache.entry(sector).or_default().push(*content);
        }
    }

    /// Counts down to an injected failure; says whether this operation fails.
    fn fails(&mut self, is_write: bool) -> bool {
        match &mut self.fault {
            Some(Fault::WriteAfter(left)) if is_write => {
                let fails = *left == 0;
                *left = left.saturating_sub(1);
                fails
            }
            Some(Fault::FlushAfter(left)) if !is_write => {
                let fails = *left == 0;
                *left = left.saturating_sub(1);
                fails
            }
            Some(Fault::FlushLoses(left)) if !is_write => {
                let fails = *left == 0;
                *left = left.saturating_sub(1);
                if fails {
                    self.fault = None;
                    self.cache.clear();
                }
                fails
            }
            _ => false,
        }
    }
}

impl Namespace for Disk {
    fn info(&self) -> &NamespaceInfo {
        &self.info
    }

    fn size_bytes(&self) -> u64 {
        self.state.borrow().size_bytes
    }

    async fn read(&self, offset: u64, mut buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        if let Err(error) = self.check("read", offset, buf.len() as u64) {
            return Err(BufError::new(error, buf));
        }
        self.delay(self.options.read_latency).await;
        let mut state = self.state.borrow_mut();
        state.operations += 1;
        if let Some(Fault::ReadAt(bad)) = state.fault
            && (offset..offset + buf.len() as u64).contains(&bad)
        {
            let error = Error::os(libc::EIO, "read").at(format!("sim:disk offset {offset}"));
            return Err(BufError::new(error.outcome_is(Outcome::NotStarted), buf));
        }
        let first = offset / SECTOR_BYTES as u64;
        for (sector, content) in (first..).zip(buf.chunks_mut(SECTOR_BYTES)) {
            content.copy_from_slice(&state.sector(sector));
        }
        Ok(buf)
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        if let Err(error) = self.check("write", offset, buf.len() as u64) {
            return Err(BufError::new(error, buf));
        }
        let id = {
            let mut state = self.state.borrow_mut();
            let id = state.next_write;
            state.next_write += 1;
            state.in_flight.insert(id, (offset, buf.to_vec()));
            id
        };
        self.delay(self.options.write_latency).await;
        let mut state = self.state.borrow_mut();
        state.operations += 1;
        state.in_flight.remove(&id);
        if state.fails(true) {
            // A failed write may have reached some of its sectors.
            let part = state.random.random_range(0..=buf.len() / SECTOR_BYTES) * SECTOR_BYTES;
            state.put(offset, &buf[..part]);
            let error = Error::os(libc::EIO, "write").at(format!("sim:disk offset {offset}"));
            return Err(BufError::new(error.outcome_is(Outcome::Unknown), buf));
        }
        state.put(offset, &buf);
        Ok(buf)
    }

    async fn flush(&self) -> Result<()> {
        let covered: Vec<(u64, usize)> =
            self.state.borrow().cache.iter().map(|(sector, versions)| (*sector, versions.len())).collect();
        self.delay(self.options.flush_latency).await;
        let mut state = self.state.borrow_mut();
        state.operations += 1;
        if state.fails(false) {
            return Err(Error::os(libc::EIO, "flush").at("sim:disk").outcome_is(Outcome::Unknown));
        }
        // Only what had completed when the flush began is promised.
        for (sector, count) in covered {
            let Some(versions) = state.cache.get_mut(&sector) else { continue };
            let newer = versions.split_off(count.min(versions.len()));
            let newest = versions.pop();
            if newer.is_empty() {
                state.cache.remove(&sector);
            } else {
                *versions = newer;
            }
            if let Some(newest) = newest {
                state.durable.insert(sector, newest);
            }
        }
        Ok(())
    }

    async fn trim(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        if size_bytes > self.info.max_size_bytes {
            return Err(Error::new(ErrorKind::NoSpace, "grow").at("sim:disk"));
        }
        let mut state = self.state.borrow_mut();
        state.size_bytes = state.size_bytes.max(size_bytes);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        let state = self.state.borrow();
        let sector = offset / SECTOR_BYTES as u64;
        let durable = state.durable.range(sector..).next().map(|(&sector, _)| sector);
        let cached = state.cache.range(sector..).next().map(|(&sector, _)| sector);
        let written = durable.into_iter().chain(cached).min()? * SECTOR_BYTES as u64;
        Some(offset.max(written)).filter(|&data| data < state.size_bytes)
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let size =
            size_bytes.next_multiple_of(self.options.block_size_bytes.into()).max(self.info.min_size_bytes);
        if size < state.size_bytes {
            state.size_bytes = size;
            let end = size / SECTOR_BYTES as u64;
            state.durable.split_off(&end);
            state.cache.split_off(&end);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Executor;

    fn block(byte: u8) -> DmaBuf {
        let mut buf = DmaBuf::zeroed(4096);
        buf.fill(byte);
        buf
    }

    /// What is at the two blocks after a write, a flush, a second write to each and a power
    /// failure.
    fn after_power_loss(seed: u64) -> Vec<u8> {
        let executor = Executor::new(seed);
        let disk = Disk::new(executor.env(), DiskOptions::new(1 << 20), seed);
        let writer = disk.clone();
        executor.block_on(async move {
            writer.write(0, block(1)).await.expect("valid");
            writer.flush().await.expect("works");
            writer.write(0, block(2)).await.expect("valid");
            writer.write(4096, block(3)).await.expect("valid");
        });
        assert_eq!(disk.peek(0, 1), [2]);
        disk.power_loss();
        disk.peek(0, 8192)
    }

    #[test]
    fn a_power_failure_keeps_what_was_flushed_and_tears_the_rest() {
        let outcomes: Vec<_> = (0..64).map(after_power_loss).collect();
        assert!(outcomes.iter().all(|bytes| bytes[..4096].iter().all(|byte| [1, 2].contains(byte))));
        assert!(outcomes.iter().all(|bytes| bytes[4096..].iter().all(|byte| [0, 3].contains(byte))));
        let torn = |bytes: &Vec<u8>| bytes[..4096].contains(&1) && bytes[..4096].contains(&2);
        assert!(outcomes.iter().any(torn), "a write is torn sometimes");
        let reordered = |bytes: &Vec<u8>| bytes[0] == 1 && bytes[4096] == 3;
        assert!(outcomes.iter().any(reordered), "a later write arrives without an earlier one sometimes");
    }

    #[test]
    fn a_killed_process_loses_nothing_that_was_written() {
        for seed in 0..16 {
            let executor = Executor::new(seed);
            let disk = Disk::new(executor.env(), DiskOptions::new(1 << 20), seed);
            let writer = disk.clone();
            executor.block_on(async move { writer.write(0, block(5)).await.expect("valid") });
            disk.kill();
            assert_eq!(disk.peek(0, 4096), vec![5; 4096]);
        }
    }

    #[test]
    fn injected_faults_hit_what_they_name() {
        let executor = Executor::new(0);
        let disk = Disk::new(executor.env(), DiskOptions::new(1 << 20), 0);
        let user = disk.clone();
        executor.block_on(async move {
            user.inject(Some(Fault::ReadAt(5000)));
            assert!(user.read(0, block(0)).await.is_ok());
            assert_eq!(user.read(4096, block(0)).await.expect_err("injected").code(), Some(libc::EIO));
            user.inject(Some(Fault::WriteAfter(1)));
            assert!(user.write(0, block(1)).await.is_ok());
            assert!(user.flush().await.is_ok());
            let error = user.write(0, block(2)).await.expect_err("injected");
            assert_eq!((error.code(), error.outcome()), (Some(libc::EIO), Outcome::Unknown));
            user.inject(Some(Fault::FlushAfter(0)));
            assert!(user.flush().await.is_err());
            user.inject(None);
            assert!(user.flush().await.is_ok());
        });
    }
}
