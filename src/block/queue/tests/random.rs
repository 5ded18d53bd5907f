//! Random requests of several tasks, some of which are dropped, over thousands of seeds.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::script::{BLOCK, Difficulty, Script, ScriptedPort};
use crate::block::queue::QueueNamespace;
use crate::block::{Namespace, NamespaceInfo, stats};
use crate::error::Result;
use crate::mem::DmaBuf;
use crate::rt;

const SEEDS: u64 = 1000;
const TASKS: usize = 4;
/// The blocks that a task has for itself.
const BLOCKS: usize = 24;
const OPERATIONS: usize = 10;

type Queue = QueueNamespace<ScriptedPort>;

/// What the tasks of one seed did.
#[derive(Default)]
struct Counts {
    reads: Cell<u64>,
    writes: Cell<u64>,
    flushes: Cell<u64>,
    failed: Cell<u64>,
    dropped: Cell<u64>,
    compared: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

#[test]
fn random_requests_on_a_difficult_device_do_what_they_say() {
    let core = super::core();
    let (mut failed, mut dropped, mut retries, mut copied) = (0, 0, 0, 0);
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("BOSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOSON_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let (counts, stats) = core.block_on(one_seed(seed));
        failed += counts.failed.get();
        dropped += counts.dropped.get();
        retries += stats.retries;
        copied += stats.copied_bytes;
    }
    println!("{failed} failed, {dropped} were dropped, {retries} retries, {copied} bytes copied");
}

async fn one_seed(seed: u64) -> (Rc<Counts>, stats::NamespaceStats) {
    let mut random = StdRng::seed_from_u64(seed);
    let faulty = random.random_bool(0.7);
    let mut percent = |most: u32| if faulty { random.random_range(0..=most) } else { 0 };
    let (full, fails, asks_again, refuses) = (percent(50), percent(20), percent(40), percent(5));
    let difficulty = Difficulty {
        slots: random.random_range(1..=6),
        full,
        fails,
        asks_again,
        refuses,
        completes: random.random_range(10..=100),
        pieces: random.random_range(1..=5),
        ..super::easy()
    };
    let boundary = [0, 0, 2, 4, 8][random.random_range(0..5)] * 512;
    let info = NamespaceInfo {
        max_transfer_bytes: random.random_range(1..=6) * 512,
        optimal_boundary_bytes: boundary,
        forced_unit_access: random.random(),
        trim: true,
        write_zeroes: random.random(),
        max_compare_and_write_bytes: 4 * 512,
        ..NamespaceInfo::new("random:", (TASKS * BLOCKS * BLOCK) as u64, 512)
    };
    let before = rt::arena().stats().used_bytes;
    let script = Script::new(seed, TASKS * BLOCKS, difficulty);
    let namespace = QueueNamespace::attach(ScriptedPort(Rc::clone(&script)), info);
    let counts = Rc::new(Counts::default());
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let task = OneTask {
                what: format!("seed {seed}, task {number}"),
                random: StdRng::seed_from_u64(random.random()),
                namespace: namespace.clone(),
                script: Rc::clone(&script),
                counts: Rc::clone(&counts),
                start: number * BLOCKS,
                content: vec![0; BLOCKS * BLOCK],
            };
            rt::spawn(task.run())
        })
        .collect();
    for task in tasks {
        task.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    super::drained(&script).await;
    let stats = super::stats_of("random:");
    assert_eq!(stats.queue_depth, 0, "seed {seed}: {stats:?}");
    assert!(stats.retries <= script.borrow().asked_again, "seed {seed}");
    let operations =
        [&stats.reads, &stats.writes, &stats.flushes, &stats.trims, &stats.write_zeroes, &stats.compares];
    // A dropped one may have ended before it was dropped.
    let of_dropped = counts.dropped.get();
    let near = |counted: u64, seen: u64| (seen..=seen + of_dropped).contains(&counted);
    assert!(near(stats.reads.completed, counts.reads.get()), "seed {seed}: {stats:?}");
    assert!(near(stats.writes.completed, counts.writes.get()), "seed {seed}: {stats:?}");
    assert!(near(stats.flushes.completed, counts.flushes.get()), "seed {seed}: {stats:?}");
    assert!(near(stats.compares.completed, counts.compared.get()), "seed {seed}");
    let failed = operations.iter().map(|operation| operation.failed).sum();
    assert!(near(failed, counts.failed.get()), "seed {seed}: {stats:?}");
    assert!(operations.iter().all(|operation| operation.latency.count() <= operation.completed));
    drop(namespace);
    assert_eq!(script.borrow().shut_down, 1, "seed {seed}: nothing keeps the queue");
    assert_eq!(rt::arena().stats().used_bytes, before, "seed {seed}: all memory is back");
    (counts, stats)
}

/// A task that does one thing after the other to blocks of its own.
struct OneTask {
    what: String,
    random: StdRng,
    namespace: Queue,
    script: Rc<RefCell<Script>>,
    counts: Rc<Counts>,
    /// Its first block.
    start: usize,
    /// What is there.
    content: Vec<u8>,
}

impl OneTask {
    async fn run(mut self) {
        for _ in 0..OPERATIONS {
            let len = self.random.random_range(1..=10);
            let first = self.random.random_range(0..=BLOCKS - len);
            let (at, len) = (first * BLOCK, len * BLOCK);
            match self.random.random_range(0..9) {
                0..3 => self.read(at, len).await,
                3..6 => self.write(at, len).await,
                6 => self.zeros(at, len).await,
                7 => self.compare_and_write(at, len.min(4 * BLOCK)).await,
                _ => self.flush().await,
            }
        }
    }

    fn offset(&self, at: usize) -> u64 {
        (self.start * BLOCK + at) as u64
    }

    fn memory(&mut self, len: usize) -> DmaBuf {
        if self.random.random() { rt::arena().alloc(len) } else { DmaBuf::zeroed(len) }
    }

    /// In pieces of any lengths.
    fn pieces(&mut self, len: usize) -> Vec<DmaBuf> {
        let mut left = len;
        let mut pieces = Vec::new();
        while left > 0 {
            let len = if pieces.len() == 5 { left } else { self.random.random_range(0..=left) };
            pieces.push(self.memory(len));
            left -= len;
        }
        pieces
    }

    /// Awaits `future`, or drops it after some turns.
    async fn maybe_dropped<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let turns = if self.random.random_ratio(1, 4) { self.random.random_range(0..6) } else { u32::MAX };
        let mut future = pin!(future);
        let mut turn = 0;
        std::future::poll_fn(|cx| {
            if turn == turns {
                return Poll::Ready(None);
            }
            turn += 1;
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() && turns < u32::MAX {
                cx.waker().wake_by_ref();
            }
            polled.map(Some)
        })
        .await
    }

    async fn read(&mut self, at: usize, len: usize) {
        let namespace = self.namespace.clone();
        let pieces = self.pieces(len);
        let read = self.maybe_dropped(namespace.read_vectored(self.offset(at), pieces)).await;
        match read {
            Some(Ok(pieces)) => {
                count(&self.counts.reads);
                let found: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
                assert!(found[..] == self.content[at..at + len], "{}: a read of {at}", self.what);
            }
            Some(Err(_)) => count(&self.counts.failed),
            None => {
                count(&self.counts.dropped);
                self.others_take_memory(len).await;
            }
        }
    }

    async fn write(&mut self, at: usize, len: usize) {
        let namespace = self.namespace.clone();
        let mut pieces = self.pieces(len);
        let mut new = vec![0; len];
        self.random.fill(&mut new[..]);
        let mut rest = &new[..];
        for piece in &mut pieces {
            let (part, after) = rest.split_at(piece.len());
            piece.copy_from_slice(part);
            rest = after;
        }
        let offset = self.offset(at);
        let wrote = if self.random.random_ratio(1, 3) {
            let mut whole = self.memory(len);
            whole.copy_from_slice(&new);
            let durable = self.maybe_dropped(namespace.write_durable(offset, whole)).await;
            durable.map(|durable| durable.map(drop).map_err(Into::into))
        } else {
            let wrote = self.maybe_dropped(namespace.write_vectored(offset, pieces)).await;
            wrote.map(|wrote| wrote.map(drop).map_err(Into::into))
        };
        if matches!(wrote, Some(Ok(()))) {
            count(&self.counts.writes);
        }
        self.became(at, &new, wrote).await;
    }

    async fn zeros(&mut self, at: usize, len: usize) {
        let namespace = self.namespace.clone();
        let (offset, bytes) = (self.offset(at), len as u64);
        let done = if self.random.random() && self.namespace.info().write_zeroes {
            self.maybe_dropped(namespace.write_zeroes(offset, bytes)).await
        } else {
            self.maybe_dropped(namespace.trim(offset, bytes)).await
        };
        self.became(at, &vec![0; len], done).await;
    }

    async fn compare_and_write(&mut self, at: usize, len: usize) {
        let namespace = self.namespace.clone();
        let is_there: bool = self.random.random();
        let (mut expected, mut new) = (self.memory(len), self.memory(len));
        expected.copy_from_slice(&self.content[at..at + len]);
        expected[len - 1] ^= u8::from(!is_there);
        let mut bytes = vec![0; len];
        self.random.fill(&mut bytes[..]);
        new.copy_from_slice(&bytes);
        let offset = self.offset(at);
        let compared = self.maybe_dropped(namespace.compare_and_write(offset, expected, new)).await;
        match compared {
            Some(Ok((wrote, _))) => {
                count(&self.counts.compared);
                assert_eq!(wrote, is_there, "{}: a comparison", self.what);
                if wrote {
                    self.became(at, &bytes, Some(Ok(()))).await;
                }
            }
            Some(Err(error)) => self.became(at, &bytes, Some(Err(error.into()))).await,
            None => self.became(at, &bytes, None).await,
        }
    }

    async fn flush(&mut self) {
        let namespace = self.namespace.clone();
        match self.maybe_dropped(namespace.flush()).await {
            Some(Ok(())) => count(&self.counts.flushes),
            Some(Err(_)) => count(&self.counts.failed),
            None => count(&self.counts.dropped),
        }
    }

    /// Something was to make the blocks at `at` what `new` is. If it failed or was dropped, each is
    /// old or new once the device is done.
    async fn became(&mut self, at: usize, new: &[u8], done: Option<Result<()>>) {
        match done {
            Some(Ok(())) => {
                let offset = self.start * BLOCK + at;
                let there = self.script.borrow().blocks[offset..offset + new.len()] == *new;
                assert!(there, "{}: what succeeded at {at} is there", self.what);
                self.content[at..at + new.len()].copy_from_slice(new);
                return;
            }
            Some(Err(error)) => {
                count(&self.counts.failed);
                assert!(!error.to_string().is_empty());
            }
            None => {
                count(&self.counts.dropped);
                self.others_take_memory(new.len()).await;
            }
        }
        let offset = self.start * BLOCK + at;
        let range = offset..offset + new.len();
        while self.script.borrow().works_on(&range) {
            rt::yield_now().await;
        }
        let there = self.script.borrow().blocks[range].to_vec();
        for (at, found) in (at..).step_by(BLOCK).zip(there.chunks(BLOCK)) {
            let old = &self.content[at..at + BLOCK];
            let new = &new[at + self.start * BLOCK - offset..][..BLOCK];
            assert!(found == old || found == new, "{}: the block at {at} is nobody's", self.what);
        }
        self.content[at..at + new.len()].copy_from_slice(&there);
    }

    /// Memory that was freed too early goes to somebody who writes to it, and sees when it changes.
    async fn others_take_memory(&mut self, len: usize) {
        let mut taken: Vec<DmaBuf> = (0..3).map(|_| self.memory(len)).collect();
        taken.iter_mut().for_each(|buf| buf.fill(0xee));
        for _ in 0..4 {
            rt::yield_now().await;
        }
        let is_as_it_was = taken.iter().all(|buf| buf.iter().all(|&byte| byte == 0xee));
        assert!(is_as_it_was, "{}: memory of somebody else was written to", self.what);
    }
}
